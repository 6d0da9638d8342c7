"""Data sets that are prepared once and kept as memory-mapped arrays beside a `done.json`."""
from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from semilib.errors import BadInput


def open_array(file: Path, mode: Literal["r+", "c"]) -> np.memmap:
    """An array of numbers in a .npy file as a memory map of a mode. Raises ValueError for any other file; numpy's own
    words advise to load such a file unsafely."""
    try:
        return np.load(file, mmap_mode=mode, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{file.name} is no array of numbers, or not all of one") from error


def arrays_at(folder: Path, again: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What was prepared once in a folder: its done.json, and the arrays named there.

    The arrays are memory-mapped copy-on-write, so a stray write would stay in memory. Raises `BadInput` (field root)
    where they are not the arrays that done.json tells of; `again` says what makes them anew.
    """
    try:
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        arrays: dict[str, np.ndarray] = {name: open_array(folder / f"{name}.npy", "c") for name in done["arrays"]}
        found = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
        if found != done["arrays"]:
            raise ValueError(f"{found}, not {done['arrays']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput("root", str(folder.parent), f"intact arrays in {folder.name}/; {again} ({error})") from error
    return done, arrays


def require_space(folder: Path, size: int) -> None:
    """Raises `BadInput` (field root) unless `size` bytes, and a hundredth more, are free on a folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < size * 1.01:
        raise BadInput("root", str(folder.parent), f"a disk with {size * 1.01 / 1e9:.2f} GB free for {folder.name}/; "
                                                   f"it has {free / 1e9:.2f} GB")
