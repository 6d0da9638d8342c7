"""DARP's refinement as pure functions: the pseudo-labels of a whole set, moved to class totals, certain rows least.

N rows, C classes. `refine` looks at all rows once and returns class-wise values alone, because a refined row is a
function of its own unrefined row and of these (`refined`). So nothing of the size of the set has to be kept, or
computed, for rows that nobody asks for.

    D_nk = 1 for the int(alpha M_k) largest of column k (of equal ones those with the higher index)
    v_k = M_k / sum_n D_nk Q_nk,   Z = rownorm(Q D v + 1e-6),   h_n = max(-sum_k Z_nk log(Z_nk + 1e-6), 1e-6)
    R = rownorm(Z exp(-h_n nu_k)),   nu: T rounds of: the row factors X for the nu at hand, then for every k
                                                       sum_n Z_nk X_n exp(-h_n nu_k) = M_k

Each equation is solved for the logarithm of its left side. As h_n > 0, that falls from infinity to minus infinity and
is convex in nu_k, so it has one root. Newton's step from the right of the root lands left of it. From the left it
climbs and never passes the root, so no bracket is needed. Once a class is solved, its steps are of the size of a
rounding.
All is computed in float64 and in logarithms, over all classes and rows at once: nu may be 1e5 where a class must lose
rows that are certain.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOOR = 1e-6                # what the release adds to an entry, a total and a logarithm
TOLERANCE = 1e-8            # of a class total, relative
STEPS = 60                  # of Newton, at most; a handful is usual
CHUNKS = {"cpu": 2**16, "cuda": 2**24}     # numbers of a temporary array: what a cache holds, what fills a GPU


class Refinement(NamedTuple):
    """Class-wise values, all [C]. Column k keeps entries above `floor`, and those equal to it from row `first` on."""

    floor: Tensor
    first: Tensor
    v: Tensor
    nu: Tensor


def refined(q: Tensor, index: Tensor, r: Refinement) -> Tensor:
    """The refined rows of q [n, C], float64; index [n]: which rows of the set they are."""
    z = cleaned(q, index, r)
    return (z.log() - r.nu * entropy(z).unsqueeze(1)).softmax(1)


def refine(q: Tensor, totals: Tensor, alpha: float = 2.0, rounds: int = 10) -> Refinement:
    """The refinement of a whole set q [N, C] towards the totals M [C], which add up to N."""
    totals = totals.double()
    floor, first, v = removal(q, totals, alpha)
    r = Refinement(floor, first, v, torch.ones_like(totals))
    parts = [(z.log(), entropy(z)) for z in (cleaned(x, i, r) for x, i in chunks(q))]
    return r._replace(nu=project(parts, totals, rounds))


def chunks(q: Tensor) -> zip:
    """The rows of q [N, C] and their indices, some at a time."""
    size = max(1, CHUNKS[q.device.type] // q.shape[1])
    return zip(q.split(size), torch.arange(len(q), device=q.device).split(size), strict=True)


def removal(q: Tensor, totals: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """floor, first and v: which entries of each column are kept, and what scales their sum to the total."""
    n, ends = len(q), []
    for column, total in zip(q.T, totals.tolist(), strict=True):
        keep = min(int(alpha * total), n)
        column = column.contiguous()
        least = column.kthvalue(n - keep + 1).values if keep else torch.full_like(column[0], torch.inf)
        equal = (column == least).flip(0).cumsum(0)                                 # of those equal to it the last ones
        ends.append((least, n - 1 - (equal == keep - (column > least).sum()).byte().argmax()))
    floor, first = (torch.stack(x) for x in zip(*ends, strict=True))
    r = Refinement(floor, first, torch.ones_like(totals), totals)
    kept = sum((x.double() * kept_entries(x, i, r)).sum(0) for x, i in chunks(q))
    return floor, first, (totals + FLOOR) / (kept + FLOOR)


def kept_entries(q: Tensor, index: Tensor, r: Refinement) -> Tensor:
    """D: which entries of rows q [n, C] are kept, bool."""
    return (q > r.floor) | ((q == r.floor) & (index.unsqueeze(1) >= r.first))


def cleaned(q: Tensor, index: Tensor, r: Refinement) -> Tensor:
    """Z: rows q [n, C] without their noisy entries, float64."""
    z = q.double() * kept_entries(q, index, r) * r.v + FLOOR
    return z / z.sum(1, keepdim=True)


def entropy(z: Tensor) -> Tensor:
    """h [n] of rows z [n, C]. The sum itself is -1e-6 where all other entries of a row are far below 1e-6."""
    return (-(z * (z + FLOOR).log()).sum(1)).clamp(min=FLOOR)


def project(parts: list[tuple[Tensor, Tensor]], totals: Tensor, rounds: int) -> Tensor:
    """nu [C] after some rounds. parts: (log Z [n, C], h [n]) of the rows, in chunks."""
    wanted, nu = totals.clamp(min=FLOOR).log(), torch.ones_like(totals)
    for _ in range(rounds):
        weighted = [(z - (z - h.unsqueeze(1) * nu).logsumexp(1, keepdim=True), h) for z, h in parts]
        nu = solve(weighted, wanted, nu)
    return nu


def solve(parts: list[tuple[Tensor, Tensor]], wanted: Tensor, nu: Tensor) -> Tensor:
    """For every class k the nu_k with log sum_n exp(w_nk - h_n nu_k) = wanted_k, from nu [C] on.

    parts: (w [n, C], h [n]) of the rows, in chunks."""
    for _ in range(STEPS):
        value, slope = columns(parts, nu)
        gap = value - wanted
        if bool((gap.abs() < TOLERANCE).all()):
            break
        nu = nu + gap / slope
    return nu


def columns(parts: list[tuple[Tensor, Tensor]], nu: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_n exp(w_nk - h_n nu_k) [C], and minus its derivative by nu_k: the mean of h under these weights [C]."""
    sums, means = [], []
    for w, h in parts:
        e = w - h.unsqueeze(1) * nu
        top = e.amax(0)
        e = e.sub_(top).exp_()
        total = e.sum(0)
        sums.append(top + total.log())
        means.append(h @ e / total)
    sums, means = torch.stack(sums), torch.stack(means)
    return sums.logsumexp(0), (sums.softmax(0) * means).sum(0)


def estimate(confusion: Tensor, predicted: Tensor, condition: float = 100.0) -> Tensor | None:
    """Class totals M = C^-1 r [C]. None where they cannot be trusted: C is close to singular, or an entry is negative.

    confusion: C [i, j], mean probability of class i for images of class j. predicted: r [C], the sum of the
    probabilities over the set. condition: C is close to singular from this condition number on."""
    if not bool(confusion.isfinite().all()) or not float(torch.linalg.cond(confusion)) < condition:
        return None
    totals = torch.linalg.solve(confusion, predicted)
    return None if bool((totals < 0).any()) else totals
