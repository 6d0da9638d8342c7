"""Random numbers as a function of (seed, stream, step, row): Philox-4x32-10 in integer tensor arithmetic.

Nothing here has state. The same four coordinates give the same 32 bits on the CPU and on a GPU, so any batch of any run
can be drawn again, a resumed run needs no saved random state, and all methods of one seed see the same split, batches
and views. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""
from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from semilib.data.constants import once, tensor_once

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


class Rows(NamedTuple):
    """A stream whose rows are the given ones of it, not the first: name, and row numbers int64 [n] on the device."""

    name: str
    rows: Tensor


# A name; several as (name, rows) whose rows lie end to end; some rows of one.
Stream = str | tuple[tuple[str, int], ...] | Rows


@once
def key(seed: int, stream: str) -> tuple[int, int]:
    """The two 32-bit key words of a named stream. Streams of one seed are independent; adding one changes no other."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def _mulhilo(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low word of the 64-bit product of 32-bit words `a` and a constant `m` in (2^31, 2^32).

    The product with m - 2^32 stays within signed 64 bits. It has the same low word, and a high word less by a."""
    product = a * (m - (MASK + 1))
    return (product >> 32) + a, product & MASK


def philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: int | Tensor,
           k1: int | Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten Philox rounds on int64 tensors that hold 32-bit counter words; returns four tensors of 32-bit words."""
    for _ in range(10):
        high0, low0 = _mulhilo(c0, MULTIPLIERS[0])
        high1, low1 = _mulhilo(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def words(seed: int, stream: Stream, step: int | Tensor, rows: int, n: int,
          device: torch.device | str = "cpu") -> Tensor:
    """Random 32-bit words, int64 [rows, n] in [0, 2^32).

    seed: any integer. stream: a name such as "weak_l"; or several as (name, rows) pairs; or `Rows`. The rows of several
    lie end to end, as if each had been drawn alone, and `rows` is their sum. step: an integer or a 0-dim int64 tensor
    on `device`; of a tensor, a captured graph draws anew at every replay. The value at [row, i] of a stream depends on
    (seed, stream, step, row, i) alone.
    """
    blocks = -(-n // 4)
    step = torch.as_tensor(step, dtype=torch.int64, device=device)
    if isinstance(stream, Rows):
        row, (k0, k1) = stream.rows.view(rows, 1), key(seed, stream.name)
    elif isinstance(stream, str):
        row, (k0, k1) = torch.arange(rows, device=device).view(rows, 1), key(seed, stream)
    else:
        row, k0, k1 = _several(seed, stream, torch.device(device)).split(1, dim=1)
    row = row.expand(rows, blocks)
    block = torch.arange(blocks, device=device).view(1, blocks).expand(rows, blocks)
    c2, c3 = (step & MASK).expand(rows, blocks), ((step >> 32) & MASK).expand(rows, blocks)
    out = torch.stack(philox(block, row, c2, c3, k0, k1), dim=-1)          # [rows, blocks, 4]
    return out.reshape(rows, blocks * 4)[:, :n]


@tensor_once
def _several(seed: int, streams: tuple[tuple[str, int], ...], device: torch.device) -> Tensor:
    """Row number and both key words of each row of several streams, int64 [sum of rows, 3]."""
    return torch.tensor([(row, *key(seed, name)) for name, rows in streams for row in range(rows)], device=device)


def uniform(w: Tensor) -> Tensor:
    """Words to float32 in [0, 1): the upper 24 bits, so that the result is exact on every device."""
    return (w >> 8).to(torch.float32) * 2.0 ** -24


def integers(w: Tensor, n: int | Tensor) -> Tensor:
    """Words to int64 in {0, ..., n - 1}, n < 2^31 (multiply and shift; the bias is below n / 2^32)."""
    return (w * n) >> 32


def beta(u: Tensor, a: float, points: int = 8192) -> Tensor:
    """Uniforms in [0, 1) to Beta(a, a), of the same shape and type, by the inverse of a tabulated distribution
    function.

    So a draw costs no rejection and no read-back. With x = sin^2(h) the density of h is (sin 2h)^(2a - 1), which is
    smooth enough for a >= 1/2.
    """
    cdf = _beta_table(a, points, u.device)
    i = torch.searchsorted(cdf, u.double().contiguous(), right=True).clamp(1, points)
    low, high = cdf.take(i - 1), cdf.take(i)
    part = (u.double() - low) / (high - low)
    return torch.sin((i - 1 + part) * (math.pi / 2 / points)).square().to(u.dtype)


@tensor_once
def _beta_table(a: float, points: int, device: torch.device) -> Tensor:
    """Distribution function at points + 1 equal steps of h in [0, pi/2], float64. It is copied to the device once, as a
    captured graph cannot copy from the host."""
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) * (math.pi / 2 / points)
    mass = torch.sin(2 * middle) ** (2 * a - 1)
    return torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0) / mass.sum()]).to(device)


def permutation(seed: int, stream: str, step: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """A permutation of 0..n-1, int64 [n]: the stable argsort of one word a row."""
    return torch.argsort(words(seed, stream, step, n, 1, device).squeeze(1), stable=True)


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for a named stream, for what is drawn once on the host (initial weights)."""
    k0, k1 = key(seed, stream)
    return torch.Generator().manual_seed((k0 << 31) ^ k1)
