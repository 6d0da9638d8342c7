"""A store: an encoder's features of a data set's pictures, plain and in every view, kept on disk as float16.

    root/features/NAME-ENCODER-SIDE-KEY/
        store.json          what the features depend on, of which KEY is the hash
        strong-3.f16        view number 3 of kind "strong": a row of D numbers for each picture, by picture number
        strong-3.crc        for each row its CRC-32 plus 1; 0 = not there yet
        claims              locks of the blocks that some process computes now

A row is there when its checksum is, and a row that does not fit its checksum is computed again. So a store grows by
any rows and views, in any order and by several processes, and can be stopped at any moment. A view is drawn by the
picture's number and the view's number: a store holds the same bits however it came about.
"""
from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semilib.data import augment, rng
from semilib.data.arrays import require_space
from semilib.data.pictures import Report, silent
from semilib.errors import BadInput, check_name
from semilib.files import write_text
from semilib.networks import encoders

KINDS = ("none", "weak", "strong", "sim")
BLOCK = 2048                        # pictures in a row that one process computes at a time
VIEWS_OF_A_KIND = 1024
HASHED_WHOLE = 2**30                # bytes of pictures; of more, evenly spaced ones stand for all


class Look(NamedTuple):
    """How views are made of pictures: whether they are mirrored, the crop, the pool of RandAugment, the mean colour."""

    flip: bool
    crop: str
    pool: str
    mean: tuple[float, float, float]

    def view(self, pictures: Tensor, kind: str, number: int, rows: Tensor) -> Tensor:
        """View `number` of a kind, uint8 to uint8, of the pictures [n, 3, H, W] whose numbers are rows [n]."""
        stream = rng.Rows(f"stored/{kind}", rows)
        if kind == "weak":
            return augment.weak(pictures, 0, stream, number, self.flip, self.crop)
        if kind == "strong":
            return augment.strong(pictures, 0, stream, number, self.flip, self.pool, self.crop, self.mean)
        if kind == "sim":
            return augment.sim(pictures, 0, stream, number, self.flip)
        return pictures

    def meaning(self, side: int) -> str:
        """Hash of the views of eight drawn pictures: it moves when the code of the views does."""
        words = rng.words(0, "stored/probe", 0, 8, 3 * side * side)
        pictures = (words >> 24).to(torch.uint8).view(8, 3, side, side)
        digest = hashlib.sha256()
        for kind in KINDS:
            digest.update(self.view(pictures, kind, 1, torch.arange(8)).numpy().tobytes())
        return digest.hexdigest()[:16]


def hash_of(pictures: Tensor) -> str:
    """Sixteen hex digits over the bytes of pictures, uint8 [n, 3, H, W]."""
    digest = hashlib.sha256(str(list(pictures.shape)).encode())
    step = -(-pictures.numel() // HASHED_WHOLE)
    for part in (pictures[::step] if step > 1 else pictures).split(8192):
        digest.update(part.contiguous().numpy())
    return digest.hexdigest()[:16]


class Store:
    """The features of one tensor of pictures, uint8 [n, 3, H, W]. `name` says in a word what they are."""

    def __init__(self, root: str | Path, name: str, pictures: Tensor, look: Look, encoder: str, side: int,
                 weights: str, device: torch.device, report: Report = silent, precision: str = "auto"):
        self.pictures, self.look, self.device, self.report = pictures, look, device, report
        self.precision = encoders.arithmetic(device, precision)
        self.encoder = functools.partial(encoders.load, encoder, side, weights)
        known = encoders.PACKAGED[encoder].sha256[:16] if encoder in encoders.PACKAGED else self.encoder().weights
        self.identity: dict[str, Any] = {
            "pictures": hash_of(pictures), "encoder": encoder, "encoder_side": side, "weights": known,
            "arithmetic": self.precision, "flip": look.flip, "crop": look.crop, "pool": look.pool,
            "mean": list(look.mean) if look.pool == "C" else None, "views": look.meaning(pictures.shape[-1])}
        key = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:8]
        self.stores = Path(root).expanduser() / "features"
        short = encoder.replace(":", "-").replace("/", "-")
        self.folder = self.stores / f"{name}-{short}-{side}-{key}"
        self.features = self._opened(name)

    def _opened(self, name: str) -> int:
        """Features a row, as store.json says; a new store gets that file."""
        path = self.folder / "store.json"
        if not path.is_file():
            facts = {"name": name, "pictures": len(self.pictures), "features": self.encoder().features}
            write_text(path, json.dumps({**facts, "depends_on": self.identity}, indent=1) + "\n")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["pictures"] != len(self.pictures):
                raise ValueError(f"{facts['pictures']} pictures, not {len(self.pictures)}")
            return int(facts["features"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput("root", str(self.folder), f"an intact store.json; delete this folder to have it made again "
                                                     f"({error})") from error

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read(self, kind: str, number: int, rows: Tensor) -> Tensor:
        """Features float16 [n, D] of a view of pictures `rows`, int64 [n], which `ensure` has made."""
        values = np.memmap(self._file(kind, number, "f16"), np.float16, "r", shape=(len(self.pictures), self.features))
        return torch.from_numpy(values[rows.numpy()])

    def intact(self, kind: str, number: int, rows: np.ndarray) -> np.ndarray:
        """Which of the rows are there and fit their checksums, bool [n]."""
        try:
            checks = np.fromfile(self._file(kind, number, "crc"), np.int64)
            values = np.memmap(self._file(kind, number, "f16"), np.float16, "r",
                               shape=(len(self.pictures), self.features))
        except (OSError, ValueError):                       # not there, or cut off
            return np.zeros(len(rows), bool)
        if len(checks) != len(self.pictures):
            return np.zeros(len(rows), bool)
        out = checks[rows] > 0
        out[out] = [zlib.crc32(row) + 1 == check for row, check in zip(values[rows[out]], checks[rows[out]])]
        return out

    def _file(self, kind: str, number: int, ending: str) -> Path:
        return self.folder / f"{kind}-{number}.{ending}"

    def runner(self) -> Callable[[Tensor], Tensor]:
        """The encoder as this store computes it; see `encoders.runner`."""
        return encoders.runner(self.encoder(), self.device, self.stores / "encoders", self.precision)

    # ---- growing -----------------------------------------------------------------------------------------------------

    def missing(self, views: dict[str, int], rows: Tensor) -> list[tuple[str, int, np.ndarray]]:
        """What `ensure` would compute: (kind, view number, picture numbers), block by block."""
        wanted = np.unique(rows.numpy())
        out = []
        for kind, number in [(kind, number) for kind, count in views.items() for number in range(count)]:
            absent = wanted[~self.intact(kind, number, wanted)]
            for part in np.split(absent, np.flatnonzero(np.diff(absent // BLOCK)) + 1):
                out += [(kind, number, part)] if len(part) else []
        return out

    def ensure(self, views: dict[str, int], rows: Tensor) -> None:
        """Have the first `count` views of each kind for pictures `rows`, int64 [n]; computes what is missing.

        Raises BadInput (root) where the disk has no room for it."""
        for kind, count in views.items():
            check_name("kind of view", kind, KINDS)
            if not 1 <= count <= VIEWS_OF_A_KIND:
                raise BadInput("views", count, f"from 1 to {VIEWS_OF_A_KIND} of kind {kind}")
        todo = self.missing(views, rows)
        if not todo:
            return
        total = sum(len(part) for _, _, part in todo)
        require_space(self.folder, total * (2 * self.features + 8))
        compute = self.runner()
        self._make_files({(kind, number) for kind, number, _ in todo})
        began, done = time.perf_counter(), 0
        with open(self.folder / "claims", "a+b") as claims:
            for wait in (False, True):
                later = []
                for kind, number, part in todo:
                    with claimed(claims, kind, number, int(part[0]) // BLOCK, wait) as mine:
                        if not mine:
                            later.append((kind, number, part))
                            continue
                        left = part[~self.intact(kind, number, part)]      # another process may have been here
                        if len(left):
                            self._compute(compute, kind, number, left)
                        done += len(part)
                    rate = done / (time.perf_counter() - began)
                    self.report(f"{self.folder.name}: {done:,} of {total:,} views encoded, {rate:.0f}/s, "
                                f"{(total - done) / rate / 60:.1f} min left")
                todo = later

    def _make_files(self, views: set[tuple[str, int]]) -> None:
        """Files of their whole size, without content: what is not written takes no room."""
        n = len(self.pictures)
        for kind, number in views:
            for ending, size in (("f16", 2 * n * self.features), ("crc", 8 * n)):
                path = self._file(kind, number, ending)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "ab"):
                    os.truncate(path, size)

    def _compute(self, compute: Callable[[Tensor], Tensor], kind: str, number: int, rows: np.ndarray) -> None:
        """Encode and write some rows: first their features, then, once these are on the disk, their checksums."""
        picked = torch.from_numpy(rows)
        pictures = self.look.view(self.pictures[picked], kind, number, picked)
        values = compute(pictures).cpu().clamp(-65504, 65504).to(torch.float16).numpy()
        with open(self._file(kind, number, "f16"), "r+b") as file:
            for row, value in zip(rows.tolist(), values):
                file.seek(row * value.nbytes)
                file.write(value.tobytes())
            file.flush()
            os.fsync(file.fileno())
        with open(self._file(kind, number, "crc"), "r+b") as file:
            for row, value in zip(rows.tolist(), values):
                file.seek(8 * row)
                file.write(np.int64(zlib.crc32(value) + 1).tobytes())

    def cost(self, views: dict[str, int], rows: Tensor) -> dict[str, float]:
        """What `ensure` would take, from a pass of one batch: views, bytes, seconds."""
        total = sum(len(part) for _, _, part in self.missing(views, rows))
        if not total:
            return {"views": 0, "bytes": 0, "seconds": 0.0}
        compute = self.runner()
        some = torch.arange(min(encoders.BATCH, len(self.pictures)))
        for _ in range(2):                                  # the first call also warms up
            began = time.perf_counter()
            compute(self.look.view(self.pictures[some], "strong", 0, some))
        seconds = (time.perf_counter() - began) / encoders.BATCH * total
        return {"views": total, "bytes": total * (2 * self.features + 8), "seconds": seconds}


@contextlib.contextmanager
def claimed(file: Any, kind: str, number: int, block: int, wait: bool) -> Iterator[bool]:
    """Hold the lock of a block of a view, if no other process holds it (or after waiting for it); yields whether it
    is held. It is the system's own, one byte of the file, and dies with the process."""
    place = ((KINDS.index(kind) * VIEWS_OF_A_KIND + number) << 24) + block
    while not _lock_byte(file, place, True):
        if not wait:
            yield False
            return
        time.sleep(0.2)
    try:
        yield True
    finally:
        _lock_byte(file, place, False)


def _lock_byte(file: Any, place: int, hold: bool) -> bool:
    try:
        if os.name == "nt":
            import msvcrt
            file.seek(place)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK if hold else msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB if hold else fcntl.LOCK_UN, 1, place)
    except OSError:
        return False
    return True


# ---- all stores of a folder ------------------------------------------------------------------------------------------


def stores_in(root: str | Path) -> list[dict[str, Any]]:
    """The stores below a folder of data sets: name, pictures, views (kind -> how many), bytes on the disk."""
    out = []
    for path in sorted((Path(root).expanduser() / "features").glob("*/store.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        kinds = [file.stem.split("-")[0] for file in path.parent.glob("*.f16")]
        size = sum(file.stat().st_blocks * 512 for file in path.parent.iterdir())
        out.append({"store": path.parent.name, "pictures": facts["pictures"], "features": facts["features"],
                    "views": {kind: kinds.count(kind) for kind in KINDS if kind in kinds}, "bytes": size})
    return out


def delete(root: str | Path, name: str) -> None:
    """Remove a store. Raises BadInput for a name that `stores_in` does not list."""
    check_name("store", name, [store["store"] for store in stores_in(root)])
    shutil.rmtree(Path(root).expanduser() / "features" / name)
