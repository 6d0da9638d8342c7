"""Tensors with a row for every image of a set, and how checkpoints hold those too large for the .npz of a run.

A method keeps such a state as a `RowState`: inside a step it reads and writes the rows of its batch. Up to `APART`
bytes it is an ordinary buffer. Above, the run's folder holds it as two .npy files, NAME.0.npy and NAME.1.npy. A
checkpoint names one of them, with its checksum. For the next checkpoint the other one is brought up to date, by the
rows touched since it was last written, and takes turns when that checkpoint is in place. So a kill at any moment leaves
a checkpoint and the very rows that belong to it.
"""
from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from semilib.data.arrays import open_array
from semilib.errors import TrainingError

APART = 64 * 2**20          # bytes; a larger state is kept beside the checkpoint
CHUNK = 2**16               # rows handled at a time


class RowState(nn.Module):
    """A buffer `rows` [n, ...] of 4- or 8-byte numbers. Write it by `scatter` alone, which notes the rows touched."""

    rows: Tensor
    touched: Tensor                     # bool [2, n]: since file 0, 1 was written

    def __init__(self, *size: int, dtype: torch.dtype, fill: float = 0):
        super().__init__()
        self.register_buffer("rows", torch.full(size, fill, dtype=dtype))
        self.register_buffer("touched", torch.ones(2, size[0], dtype=torch.bool), persistent=False)
        self.sums = [0, 0]                                                                       # checksum of file 0, 1

    def gather(self, index: Tensor) -> Tensor:
        """The rows at index [B] int64, a copy."""
        return self.rows.index_select(0, index)

    def scatter(self, index: Tensor, values: Tensor) -> None:
        """Put values [B, ...] at index [B]. Of an image that is twice in the batch the later row counts,
        on every device."""
        later = ((index.unsqueeze(1) == index) * torch.arange(len(index), device=index.device)).amax(1)
        self.rows.index_copy_(0, index, values.index_select(0, later))
        self.touched.index_fill_(1, index, True)

    # ---- files, on the host ------------------------------------------------------------------------------------------

    def write(self, file: Path, slot: int) -> int:
        """Bring a slot's file up to date and onto the disk; returns its checksum."""
        if bool(self.touched[slot].all()) or not file.exists():
            whole = self.rows.cpu().numpy()
            with open(file, "wb") as out:                     # torn by a kill, it is a file that no checkpoint names
                np.save(out, whole)
                out.flush()
                os.fsync(out.fileno())
            self.sums[slot] = checksum(whole)
        else:
            disk = open_array(file, "r+")
            for part in self.touched[slot].nonzero().squeeze(1).split(CHUNK):
                index, new = part.cpu().numpy(), self.rows[part].cpu().numpy()
                self.sums[slot] = (self.sums[slot] + checksum(new, index) - checksum(disk[index], index)) % 2**64
                disk[index] = new
            disk.flush()
        self.touched[slot] = False
        return self.sums[slot]

    def read(self, file: Path, slot: int, total: int) -> Tensor:
        """A slot's file as a tensor over a memory map, if it is whole and has that checksum."""
        what = "missing"
        if file.exists():
            try:
                disk = open_array(file, "c")
                whole = disk.shape == tuple(self.rows.shape) and checksum(disk) == total
                what = "" if whole else "not the one that belongs to it"
            except (OSError, ValueError) as error:
                what = f"damaged ({error})"
        if what:
            raise TrainingError(f"{file.parent.name}/{file.name}, a part of checkpoint.npz, is {what}")
        self.touched[slot], self.sums[slot] = False, total
        return torch.from_numpy(disk)


def checksum(rows: np.ndarray, index: np.ndarray | None = None) -> int:
    """A sum over rows, each hashed with its index (None: 0, 1, ...), modulo 2^64: rows can be taken out and put in."""
    index = np.arange(len(rows)) if index is None else index
    factors = np.arange(1, rows[:1].nbytes // 4 + 1, dtype=np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    factors, total = (factors ^ (factors >> np.uint64(29))) | np.uint64(1), 0
    for i in range(0, len(rows), CHUNK):
        part = np.ascontiguousarray(rows[i:i + CHUNK]).reshape(len(rows[i:i + CHUNK]), -1).view(np.uint32)
        hashed = part.astype(np.uint64) @ factors + index[i:i + CHUNK].astype(np.uint64)
        hashed = (hashed ^ (hashed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
        total += int((hashed ^ (hashed >> np.uint64(29))).sum())
    return total % 2**64


# ---- what the engine does with them ----------------------------------------------------------------------------------


def _states(method: nn.Module) -> dict[str, RowState]:
    return {name: module for name, module in method.named_modules() if isinstance(module, RowState)}


def split_large_rows(state: dict[str, Tensor], method: nn.Module, folder: Path) -> dict[str, Tensor]:
    """A run's state with the large row states written to `folder` and only named: "rows/NAME" = file and checksum."""
    out = dict(state)
    for name, rows in _states(method).items():
        if rows.rows.nbytes > APART:
            folder.mkdir(parents=True, exist_ok=True)
            slot = 1 - _named(folder, name)
            total = rows.write(folder / f"{name}.{slot}.npy", slot)
            del out[f"method/{name}.rows"]
            out[f"rows/{name}"] = torch.from_numpy(np.array([slot, total], dtype=np.uint64).view(np.int64))
    return out


def _named(folder: Path, name: str) -> int:
    """The file that the checkpoint in a folder names: 0 or 1 (1 if there is none)."""
    try:
        with np.load(folder / "checkpoint.npz", allow_pickle=False) as arrays:
            return int(arrays[f"rows/{name}"][0])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return 1


def join_large_rows(state: dict[str, Tensor], method: nn.Module, folder: Path | None) -> dict[str, Tensor]:
    """The state that `split_large_rows` split. Raises TrainingError if a file is not the one that the state names."""
    out = dict(state)
    for name, rows in _states(method).items():
        rows.touched.fill_(True)
        if f"rows/{name}" in out:
            if folder is None:
                raise TrainingError(f"this checkpoint needs {name}.0.npy or {name}.1.npy beside it: name its folder")
            slot, total = (int(x) for x in out.pop(f"rows/{name}").numpy().view(np.uint64))
            out[f"method/{name}.rows"] = rows.read(folder / f"{name}.{slot}.npy", slot, total)
    return out
