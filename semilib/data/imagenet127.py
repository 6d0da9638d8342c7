"""ImageNet-127, prepared once: ImageNet at 32 or 64 px in two arrays that are mapped from the disk.

    semilib prepare imagenet127 FROM --side 32 --root data

FROM is one of two folders:

* the official down-sampled ImageNet of that size (Chrabaszcz, Loshchilov and Hutter, arXiv 1707.08819), unpacked:
  train_data_batch_1 ... train_data_batch_10 and val_data. These are pickles, which are programs. Only what makes an
  array of plain numbers is run, and anything else is refused. Label l in 1..1000 is line l of the release's
  map_clsloc.txt; imagenet127.csv has the same order. The batches hold the training images shuffled. Their order is
  kept, so the first 10 % of a class are those of every code that reads these files.
* an ordinary ImageNet: train/WNID/* and val/WNID/*. Pillow's box filter shrinks each picture to a square without
  keeping its proportions, as the release's own script does. A folder has its training images breed by breed. The
  first 10 % of "mammal" would be few breeds, so the images are laid out in an order drawn once and for all. It is not
  the release's, whose shuffling was not seeded. The test images are in the order of their file names.

The 1,000 classes become 127 by imagenet127.csv in this package. Huh, Agrawal and Efros (arXiv 1608.08614) name the 127;
their order is CoSSL's (CVPR 2022).
"""
from __future__ import annotations

import csv
import functools
import hashlib
import importlib.resources
import itertools
import json
import os
import pickle
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semilib.data import rng
from semilib.data.arrays import arrays_at, require_space
from semilib.errors import BadInput
from semilib.files import write_text

SIDES = (32, 64)
CHUNK = 5_000                       # pictures of an ImageNet folder that are prepared, and can be resumed, together


@dataclass(frozen=True)
class Whole:
    """What a complete ImageNet (ILSVRC 2012) has: images, batches of the down-sampled release, images a class."""

    train: int = 1_281_167
    test: int = 50_000
    batches: int = 10
    smallest: int = 732
    largest: int = 1_300
    test_each: int = 50


WHOLE = Whole()


# ---- the 1,000 and the 127 classes -----------------------------------------------------------------------------------


@functools.cache
def _table() -> list[dict[str, str]]:
    """One row for each of the 1,000 classes, in the order of the release's labels."""
    text = importlib.resources.files("semilib.data").joinpath("imagenet127.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def wnids() -> list[str]:
    """WordNet ids of the 1,000 classes; label l of the release is number l - 1."""
    return [row["wnid"] for row in _table()]


def merged() -> np.ndarray:
    """Class among the 127 of each of the 1,000, int64 [1000]."""
    return np.array([int(row["class127_index"]) for row in _table()])


def class_names() -> list[str]:
    """Names of the 127 classes in their order."""
    names = {int(row["class127_index"]): row["class127_name"] for row in _table()}
    return [names[k] for k in range(len(names))]


# ---- pickles without running code ------------------------------------------------------------------------------------


class Refused(pickle.UnpicklingError):
    """A pickle asked for something that is not read here."""


class PlainUnpickler(pickle.Unpickler):
    """Reads containers, numbers, texts and numpy arrays; refuses every other name that a pickle asks for."""

    def find_class(self, module: str, name: str) -> Any:
        core = module in ("numpy.core.multiarray", "numpy._core.multiarray")
        if (core or module == "numpy") and name == "ndarray":
            return np.ndarray
        if module == "numpy" and name == "dtype":
            return np.dtype
        # Functions made anew at each use: a pickle may set attributes of what it was given.
        if core and name == "_reconstruct":
            return lambda kind, shape, dtype: np.ndarray.__new__(np.ndarray, shape, dtype)
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return lambda buffer, dtype, shape, order: np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)
        if (module, name) == ("_codecs", "encode"):            # how Python 3 writes bytes for readers of its protocol 2
            return _bytes
        raise Refused(f"it asks for {module}.{name}, which is neither a container nor an array")


def _bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Refused(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def read_batch(path: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One batch of the down-sampled release: images uint8 [n, 3, side, side] and labels int64 [n] in 0..999.

    The pickle is a dictionary, written by Python 2 or 3. It has data, uint8 [n, 3 * side * side] (all of red, of green,
    of blue), and labels, n numbers in 1..1000; all else in it is left alone. Raises `BadInput` (field from) for
    anything else.
    """
    def refuse(wanted: str) -> BadInput:
        return BadInput("from", str(path), wanted)
    try:
        with open(path, "rb") as file:
            found = PlainUnpickler(file, encoding="bytes").load()
    except Refused as error:
        raise refuse(f"a batch of the down-sampled ImageNet, which holds arrays and nothing else; {error}") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise refuse(f"an intact batch of the down-sampled ImageNet; it is cut short or damaged: {error}") from error
    if not isinstance(found, dict):
        raise refuse(f"a dictionary with data and labels, not {type(found).__name__}")
    found = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in found.items()}
    data, labels = found.get("data"), found.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or labels is None:
        raise refuse("a dictionary with data, uint8 [n, 3 * side * side], and labels")
    if data.shape[1] != 3 * side * side:
        of = next((s for s in (8, 16, 32, 64) if data.shape[1] == 3 * s * s), None)
        raise refuse(f"images of {side} x {side} for side={side}; these have "
                     f"{f'{of} x {of}' if of else f'{data.shape[1]} numbers'}")
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (len(data),):
        raise refuse(f"one whole number a label, as many as images ({len(data):,}); it has {labels.dtype} of "
                     f"shape {labels.shape}")
    labels = labels.astype(np.int64)
    wrong = labels[(labels < 1) | (labels > 1000)]
    if wrong.size:
        raise refuse(f"labels in 1, ..., 1000; it has {wrong[0]}")
    return data.reshape(-1, 3, side, side), labels - 1


# ---- what the images are read from -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Images that are read, and can be resumed, together. split: train or test. stamp: changes where the files do."""

    name: str
    split: str
    stamp: str
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


def _from_batches(given: Path, side: int) -> list[Part]:
    """The batches in the order of their numbers, then the test images."""
    names = [f"train_data_batch_{i}" for i in range(1, WHOLE.batches + 1)] + ["val_data"]
    missing = [name for name in names if not (given / name).is_file()]
    if missing:
        raise BadInput("from", str(given), f"all of the down-sampled ImageNet; missing: {', '.join(missing)}")
    order = given / "map_clsloc.txt"
    if order.is_file():
        listed = [line.split()[0] for line in order.read_text(encoding="utf-8").splitlines() if line.strip()]
        if listed != wnids():
            raise BadInput("from", str(order), "the class order of the release, as imagenet127.csv has it; this is "
                                               "another one")

    def part(name: str) -> Part:
        path = given / name
        facts = path.stat()
        return Part(name, "test" if name == "val_data" else "train", f"{facts.st_size} {facts.st_mtime_ns}",
                    lambda: read_batch(path, side))
    return [part(name) for name in names]


def _from_folder(given: Path, side: int) -> list[Part]:
    """Chunks of the pictures of an ImageNet folder, counted before any is read."""
    files = {split: _listed(given, name) for split, name in (("train", "train"), ("test", "val"))}
    for split, found in files.items():
        _check_counts(split, np.bincount([k for _, k in found], minlength=1000), str(given))
    drawn = rng.permutation(0, "imagenet127", 0, len(files["train"])).tolist()
    files["train"] = [files["train"][i] for i in drawn]
    files["test"].sort(key=lambda entry: (entry[0].name, entry[1]))
    out = []
    for split, found in files.items():
        for start in range(0, len(found), CHUNK):
            some = found[start:start + CHUNK]
            stamp = hashlib.sha256("\n".join(f"{k} {path.name}" for path, k in some).encode()).hexdigest()
            out.append(Part(f"{split} {start:,} to {start + len(some) - 1:,}", split, stamp,
                            functools.partial(_read_pictures, some, side, given)))
    return out


def _listed(given: Path, name: str) -> list[tuple[Path, int]]:
    """The files of train/ or val/ with their class among the 1,000, class by class in the order of their names."""
    number = {wnid: k for k, wnid in enumerate(wnids())}
    folders = {path.name for path in (given / name).iterdir() if path.is_dir()}
    missing, unknown = sorted(number.keys() - folders), sorted(folders - number.keys())
    if missing or unknown:
        raise BadInput("from", str(given), f"{name}/ with a folder for each of the 1,000 classes, named by its WordNet "
                                           f"id; missing: {_some(missing)}; unknown: {_some(unknown)}")
    return [(given / name / wnid / file, k) for wnid, k in number.items()
            for file in sorted(f for f in os.listdir(given / name / wnid) if not f.startswith("."))]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"


def _read_pictures(files: list[tuple[Path, int]], side: int, given: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the release's script makes them: RGB, one resize to side x side by the box filter.
    One error names all files that cannot be read."""
    def one(entry: tuple[Path, int]) -> np.ndarray | str:
        try:
            with Image.open(entry[0]) as file:
                return np.asarray(file.convert("RGB").resize((side, side), Image.Resampling.BOX)).transpose(2, 0, 1)
        except Exception as error:  # Pillow's decoders raise many kinds, and one bad file must not hide the others
            return f"{entry[0].relative_to(given).as_posix()} ({str(error).replace(str(entry[0]), entry[0].name)})"
    with ThreadPoolExecutor(os.cpu_count()) as pool:             # Pillow decodes without the interpreter's lock
        read = list(pool.map(one, files))
    bad = [error for error in read if isinstance(error, str)]
    if bad:
        raise BadInput("from", str(given), f"{len(bad)} of its files cannot be read as pictures: {'; '.join(bad)}")
    return np.stack(read), np.array([k for _, k in files])


def _check_counts(split: str, counts: np.ndarray, given: str) -> None:
    """Raises `BadInput` unless a split has as many images in all, and of each class, as ImageNet has."""
    total, least, most = {"train": (WHOLE.train, WHOLE.smallest, WHOLE.largest),
                          "test": (WHOLE.test, WHOLE.test_each, WHOLE.test_each)}[split]
    if counts.sum() != total:
        raise BadInput("from", given, f"all {total:,} {split} images of ImageNet; it has {int(counts.sum()):,}, "
                                      f"{_some(_odd(counts, least, most))}")
    if _odd(counts, least, most):
        raise BadInput("from", given, f"{least if least == most else f'{least} to {most}'} {split} images a class, as "
                                      f"ImageNet has; it has {_some(_odd(counts, least, most))}")


def _odd(counts: np.ndarray, least: int, most: int) -> list[str]:
    return [f"{n} of {wnid}" for wnid, n in zip(wnids(), counts.tolist()) if not least <= n <= most]


# ---- preparation -----------------------------------------------------------------------------------------------------


def folder_of(root: str | Path, side: int) -> Path:
    return Path(root).expanduser() / f"imagenet127-{side}"


def prepare(given: str | Path, side: int = 32, root: str | Path = "data", say: Callable[[str], None] = print) -> Path:
    """Make root/imagenet127-SIDE/ from a folder `given`, or the rest of it, or nothing if it is done; returns it.

    It then holds train_images.npy, labels.npy (0..999, see `merged`), test_images.npy, test_labels.npy and done.json.
    done.json comes last: without it nothing is taken for whole. parts.json says which parts are written. After a kill
    the preparation goes on behind them, and begins again where a file has changed. say: gets a line a part.

    Raises `BadInput` (field from, side or root) before any work where files are missing or the disk is too small, and
    later for what is wrong inside of a file.
    """
    given, folder = Path(given).expanduser(), folder_of(root, side)
    if side not in SIDES:
        raise BadInput("side", side, "32 or 64")
    if (folder / "done.json").is_file():
        say(f"{folder.name} is complete")
        return folder
    kind, parts = _parts(given, side)
    arrays: dict[str, list[Any]] = {
        "train_images": ["uint8", WHOLE.train, 3, side, side], "labels": ["int16", WHOLE.train],
        "test_images": ["uint8", WHOLE.test, 3, side, side], "test_labels": ["int16", WHOLE.test]}
    folder.mkdir(parents=True, exist_ok=True)
    out = _opened(folder, arrays)
    written = [] if out is None else _written(folder, parts)
    to_come = WHOLE.train + WHOLE.test - sum(w["images"] for w in written)
    require_space(folder, to_come * (3 * side * side + 2))       # a full disk under a memory map just ends the process
    if out is None:
        out = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, tuple(shape))
               for name, (dtype, *shape) in arrays.items()}
    for line in _fill(parts, out, written, folder, given):
        say(line)
    counts = {split: np.sum([w["counts"] for w in written if w["split"] == split], 0) for split in ("train", "test")}
    for split, found in counts.items():
        _check_counts(split, found, str(given))
    digest = hashlib.sha256("".join(w["sha256"] for w in written).encode()).hexdigest()
    origin = f"{kind}, {side} px, sha256 {digest[:16]}"
    merged_counts = {split: np.bincount(merged(), found, 127).astype(int).tolist() for split, found in counts.items()}
    done = {"arrays": arrays, "origin": origin, "counts": merged_counts,
            "parts": [{k: w[k] for k in ("name", "images", "sha256")} for w in written]}
    write_text(folder / "done.json", json.dumps(done) + "\n")
    (folder / "parts.json").unlink(missing_ok=True)
    return folder


def _parts(given: Path, side: int) -> tuple[str, list[Part]]:
    """What `given` is, in words, and its parts."""
    if any(re.fullmatch(r"train_data_batch_\d+|val_data", path.name) for path in given.glob("*_data*")):
        return "official down-sampled batches", _from_batches(given, side)
    if (given / "train").is_dir() and (given / "val").is_dir():
        return "an ImageNet folder by the box filter", _from_folder(given, side)
    raise BadInput("from", str(given), "a folder with train_data_batch_1, ..., train_data_batch_10 and val_data (the "
                                       "down-sampled ImageNet, unpacked), or one with train/WNID/ and val/WNID/ "
                                       "(ImageNet)")


def _opened(folder: Path, arrays: dict[str, list]) -> dict[str, np.memmap] | None:
    """The arrays that an earlier, unfinished preparation left, to be written on; None unless they are these."""
    try:
        out = {name: np.load(folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False) for name in arrays}
    except (OSError, ValueError):
        return None
    return out if all([str(a.dtype), *a.shape] == arrays[name] for name, a in out.items()) else None


def _written(folder: Path, parts: list[Part]) -> list[dict[str, Any]]:
    """The parts that are written already, in order, up to the first whose file has changed since."""
    try:
        known = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    same = itertools.takewhile(lambda both: (both[0]["name"], both[0]["stamp"]) == (both[1].name, both[1].stamp),
                               zip(known, parts))
    return [entry for entry, _ in same]


def _fill(parts: list[Part], out: dict[str, np.memmap], written: list[dict[str, Any]], folder: Path,
          given: Path) -> Iterator[str]:
    """Write the parts that are not written yet, and tell of each; `written` grows, in memory and in parts.json."""
    began, before = time.perf_counter(), sum(w["images"] for w in written)
    if written:
        yield f"{len(written)} of {len(parts)} parts are there already"
    for i, part in enumerate(parts[len(written):], len(written)):
        images, labels = part.read()
        digest = hashlib.sha256(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i8").tobytes())
        twin = next((w["name"] for w in written if w["sha256"] == digest.hexdigest()), None)
        if twin:
            raise BadInput("from", str(given), f"different files; {part.name} holds the same images as {twin}")
        names = ("train_images", "labels") if part.split == "train" else ("test_images", "test_labels")
        pixels, classes = (out[name] for name in names)
        start = sum(w["images"] for w in written if w["split"] == part.split)
        if start + len(images) > len(pixels):
            raise BadInput("from", str(given), f"all {len(pixels):,} {part.split} images of ImageNet and no more; with "
                                               f"{part.name} it has {start + len(images):,}")
        pixels[start:start + len(images)], classes[start:start + len(images)] = images, labels
        pixels.flush()
        classes.flush()
        written.append({"name": part.name, "split": part.split, "stamp": part.stamp, "images": len(images),
                        "sha256": digest.hexdigest(), "counts": np.bincount(labels, minlength=1000).tolist()})
        write_text(folder / "parts.json", json.dumps(written) + "\n")
        done, whole = sum(w["images"] for w in written), len(out["labels"]) + len(out["test_labels"])
        left = (time.perf_counter() - began) / (done - before) * max(0, whole - done)
        del images, labels                                       # a batch at 64 px is 1.6 GB: not two of them at a time
        yield (f"[{i + 1}/{len(parts)}] {part.name}: {written[-1]['images']:,} images, {done / whole:.0%} done, "
               f"{_duration(left)} left")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ---- what was prepared -----------------------------------------------------------------------------------------------


def prepared(root: Path, side: int) -> tuple[dict, dict[str, np.ndarray]]:
    """done.json and the four arrays of root/imagenet127-SIDE/, mapped. Raises `BadInput` unless all is prepared."""
    folder = folder_of(root, side)
    if side not in SIDES:
        raise BadInput("side", side, "32 or 64")
    command = f"semilib prepare imagenet127 FROM --side {side} --root {root}"
    if not (folder / "done.json").is_file():
        begun = " (it was begun, and the same command goes on)" if (folder / "parts.json").is_file() else ""
        raise BadInput("root", str(root), f"the folder that holds {folder.name}/, made by `{command}`{begun}; FROM: "
                                          "the down-sampled ImageNet, unpacked, or ImageNet itself")
    return arrays_at(folder, f"delete {folder.name}/ and type `{command}`")
