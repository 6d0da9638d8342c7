"""Picture files as tensors: decoded side by side, at reduced size where the format can, and kept for the next time.

    FOLDER/.semilib/contents.json               the content of each file below FOLDER, by its size, number and times
    FOLDER/.semilib/pictures-SIDE-CODE/*.npz    decoded pictures, by the content of their files

A file's content is 32 hex digits of its SHA-256. CODE is a hash of what the decoder makes of drawn pictures, so it
moves with this module and with Pillow. Two processes that keep the same pictures write the same file. All of `.semilib`
may be deleted at any moment: it saves time and nothing else.
"""
from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from semilib.data import rng
from semilib.errors import BadInput
from semilib.files import write_atomically, write_text

KEPT = ".semilib"
TWELVE_BITS = 4095
REDUCED = 3                         # the reduced size of a JPEG is at least this many times the side
PART = 512                          # pictures that are decoded, and kept in one file
# What operating systems put into folders, beside the hidden files that they put there too.
OF_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin",
              "system volume information", "lost+found"}
NO_TEXT = "its name is not UTF-8"
SETTLED = 2.0                       # seconds; a file changed later may change again without another time of change
NAMED = 50                          # files that an error names; of more it gives the number
# Pictures that Pillow may need a plugin for. They are taken for pictures, so that none of them is passed over.
OTHER_PICTURES = {".heic", ".heif", ".avif", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf",
                  ".rw2"}

Report = Callable[[str], None]


def silent(line: str) -> None:
    """The report of who wants none."""


# ---- files -----------------------------------------------------------------------------------------------------------


def files_below(folder: Path, field: str = "root") -> list[Path]:
    """All files below a folder, at any depth, by name, without hidden ones and those of `OF_SYSTEMS`, and without what
    lies in folders of such names.

    Raises BadInput (of `field`) that names every link without a target, link to a folder around it, name that is not
    UTF-8, and entry that is neither file nor folder."""
    found, wrong = walked(folder)
    if wrong:
        raise BadInput(field, str(folder), f"a folder of files; remove or rename {listed(wrong, folder)}")
    return found


def walked(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """What `files_below` gives, and in place of its error what that names, each with the reason."""
    found: list[Path] = []
    wrong: dict[Path, str] = {}
    _walk(folder, (os.path.realpath(folder),), found, wrong)
    return found, wrong


def _walk(folder: Path, around: tuple[str, ...], found: list[Path], wrong: dict[Path, str]) -> None:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if is_passed_over(entry.name):
            continue
        if not is_text(entry.name):
            wrong[path] = NO_TEXT
        elif path.is_dir():
            real = os.path.realpath(path)
            if real in around:
                wrong[path] = "a link to a folder around it"
            else:
                _walk(path, (*around, real), found, wrong)
        elif path.is_file():
            found.append(path)
        else:
            wrong[path] = "a link without a target" if entry.is_symlink() else "neither file nor folder"


def is_passed_over(name: str) -> bool:
    """Whether a file or folder of this name is no picture and no class of the user's."""
    return name.startswith(".") or name.casefold() in OF_SYSTEMS


def is_picture(file: Path) -> bool:
    """Whether a file is meant to be a picture, whole or damaged: its name ends as a picture's, or Pillow knows its
    content. So notes beside pictures are none."""
    if file.suffix.lower() in _endings():
        return True
    try:
        Image.open(file).close()
    except UnidentifiedImageError:
        return False
    except Exception:               # Pillow knows its kind, so its error is one for who reads it
        return True
    return True


@functools.cache
def _endings() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset({ending for ending, kind in known.items() if kind in Image.OPEN} | OTHER_PICTURES)


def is_text(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def listed(wrong: dict[Path, str], root: Path, most: int = NAMED) -> str:
    """Files with what is wrong with each, as a part of a sentence; they are named relative to `root` if they lie
    below it. most: files that are named; of more there is the number."""
    named = []
    for file, why in itertools.islice(wrong.items(), most):
        name = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
        named.append(f"{name.encode('utf-8', 'backslashreplace').decode()} ({why})")
    return "; ".join([*named, *([f"and {len(wrong) - most:,} more"] if len(wrong) > most else [])])


def contents(files: Sequence[Path], root: Path, report: Report = silent) -> list[str]:
    """The content of each file below `root`, 32 hex digits. A file is read only if its size, number or times are not
    those of the last time."""
    ledger = root / KEPT / "contents.json"
    known = _ledger(ledger)
    names = [file.relative_to(root).as_posix() for file in files]
    began, signs = time.time(), [_sign(file) for file in files]
    todo = [i for i, (name, sign) in enumerate(zip(names, signs)) if known.get(name, [])[:-1] != sign]
    same = len(files) - len(todo)
    unread = f" (size and dates of {same:,} others are those of the last time)" if same else ""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for done, (i, content) in enumerate(zip(todo, pool.map(lambda i: _content(files[i].read_bytes()), todo)), 1):
            known[names[i]] = [*signs[i], content]
            report(f"{root.name}: reading files that are new or changed, {done:,} of {len(todo):,}" + unread)
    out = [known[name][-1] for name in names]
    settled = [i for i in todo if max(signs[i][1:3]) < (began - SETTLED) * 1e9]
    for i in set(todo) - set(settled):
        del known[names[i]]
    if settled:
        try:
            write_text(ledger, json.dumps(known))
        except OSError:
            pass                    # a folder that cannot be written to: the files are read again the next time
    return out


def _content(read: bytes) -> str:
    return hashlib.sha256(read).hexdigest()[:32]


def _sign(file: Path) -> list[int]:
    """What changes with a file's content, unless somebody takes pains: size, times of change, number."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _ledger(path: Path) -> dict[str, list]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


# ---- one picture -----------------------------------------------------------------------------------------------------


def read_picture(file: str | Path | BinaryIO, side: int) -> Tensor:
    """One picture file as uint8 [3, side, side].

    Turned as its EXIF orientation says, converted to RGB (transparency dropped, the first frame of several), then the
    shorter side resized to `side` with bicubic interpolation and the centre cropped (done as one resize of the centred
    square). Grey of 16 bits becomes 8; a file without a value above 4,095 is taken to have 12. A JPEG whose shorter
    side has at least 6 `side` pixels is decoded at a half, quarter or eighth of its size (Pillow's `draft`), of which
    at least 3 `side` remain. Its levels differ from those of the whole picture by less than 2.1 of 255 on average.
    Raises what Pillow raises, and `ValueError` for floating-point pixels, whose range is unknown.
    """
    with Image.open(file) as opened:
        opened.draft("RGB", (REDUCED * side, REDUCED * side))
        picture = ImageOps.exif_transpose(opened)
        if picture.mode == "F":
            raise ValueError("floating-point pixels")
        if picture.mode.startswith("I"):
            grey = np.asarray(picture).clip(0, 65535)
            picture = Image.fromarray((grey >> (8 if grey.max() > TWELVE_BITS else 4)).astype(np.uint8))
        # one transparent colour: Pillow's direct way to RGB warns and may keep the mark
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")
        picture = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@functools.cache
def decoding(side: int) -> str:
    """Eight hex digits of what `read_picture` makes of three drawn pictures: a turned JPEG, grey PNGs of 16 and 12
    bits."""
    words = (rng.words(0, "pictures/probe", 0, 8, 3 * 64) >> 24).to(torch.uint8).numpy()
    colour = Image.fromarray(words.reshape(16, 32, 3)).resize((8 * side, 2 * REDUCED * side))
    turned = Image.Exif()
    turned[0x0112] = 6
    drawn: list[tuple[Image.Image, dict[str, Any]]] = [(colour, {"format": "JPEG", "exif": turned})]
    drawn += [(Image.fromarray(words[:, :64].astype(np.uint16) << bits), {"format": "PNG"}) for bits in (8, 4)]
    digest = hashlib.sha256()
    for picture, options in drawn:
        file = io.BytesIO()
        picture.save(file, **options)
        digest.update(read_picture(file, side).numpy().tobytes())
    return digest.hexdigest()[:8]


# ---- many pictures ---------------------------------------------------------------------------------------------------


def read(files: Sequence[Path], side: int, root: Path | None = None, known: Sequence[str] = (),
         report: Report = silent) -> tuple[Tensor, dict[Path, str]]:
    """All files as one uint8 tensor [n, 3, side, side], and those that cannot be read, each with the reason.

    root: the folder around the files in which decoded pictures are kept. known: the files' contents, if `contents` has
    found them already. Without a root, all files are decoded and nothing is kept.
    """
    images = torch.zeros(len(files), 3, side, side, dtype=torch.uint8)
    names = list(known or contents(files, root, report)) if root else list(map(str, range(len(files))))
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    place = root / KEPT / f"pictures-{side}-{decoding(side)}" if root else None
    done: set[str] = set()
    for name, picture in _kept(place, side, rows) if place else ():
        images[rows[name]] = torch.from_numpy(picture)
        done.add(name)
    wrong: dict[Path, str] = {}
    todo, began = [name for name in rows if name not in done], time.perf_counter()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(todo), PART):
            part = todo[start:start + PART]
            read_at: list[tuple[str, np.ndarray]] = []
            decoded = pool.map(lambda name: _decoded(files[rows[name][0]], name if root else "", side), part)
            for count, (name, picture) in enumerate(zip(part, decoded), start + 1):
                if isinstance(picture, str):
                    wrong |= {files[i]: picture for i in rows[name]}
                else:
                    images[rows[name]] = picture
                    read_at.append((name, picture.numpy()))
                rate = count / (time.perf_counter() - began)
                report(f"{root.name if root else 'pictures'}: {count:,} of {len(todo):,} pictures decoded, "
                       f"{rate:.0f}/s, {(len(todo) - count) / rate / 60:.1f} min left")
            if place and read_at:
                _keep(place, side, read_at)
    return images, wrong


def kept_around(folder: Path) -> Path | None:
    """The nearest folder, of this one and those around it, in which decoded pictures are kept."""
    return next((place for place in (folder, *folder.parents) if (place / KEPT).is_dir()), None)


def _decoded(file: Path, content: str, side: int) -> Tensor | str:
    """A picture, or why there is none. content: what the file has to hold."""
    held = io.BytesIO()
    try:
        read = file.read_bytes()
        if content and _content(read) != content:
            return "it was changed while it was read: try again"
        held = io.BytesIO(read)
        return read_picture(held, side)
    except Exception as error:          # Pillow's decoders raise many kinds, and one bad file must not hide the others
        said = str(error).replace(str(file), file.name).replace(repr(held), "").strip()      # Pillow names what it read
        return said or type(error).__name__


def _kept(place: Path, side: int, wanted: dict[str, list[int]]) -> Iterator[tuple[str, np.ndarray]]:
    """The pictures among those wanted, uint8 [3, side, side] each, that are kept in a folder. A damaged file is
    removed: its pictures are decoded again."""
    for file in sorted(place.glob("*.npz")):
        try:
            with np.load(file, allow_pickle=False) as arrays:
                names = [name.decode() for name in arrays["contents"].tolist()]
                images = arrays["images"] if not wanted.keys().isdisjoint(names) else None
            if images is None:
                continue
            if images.shape != (len(names), 3, side, side):
                raise ValueError(f"{images.shape}")
            yield from ((name, picture) for name, picture in zip(names, images) if name in wanted)
        except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
            file.unlink(missing_ok=True)


def _keep(place: Path, side: int, pictures: list[tuple[str, np.ndarray]]) -> None:
    """Keep decoded pictures in one file; those that older code has decoded go."""
    names, images = zip(*pictures)
    file = place / f"{_content(''.join(names).encode())[:16]}.npz"
    try:
        write_atomically(file, lambda out: np.savez(out, contents=np.array(names, "S32"), images=np.stack(images)))
        for older in set(place.parent.glob(f"pictures-{side}-*")) - {place}:
            shutil.rmtree(older, ignore_errors=True)
    except OSError as error:
        warnings.warn(f"the decoded pictures of {place.parent.parent.name} are not kept for the next time: {error}",
                      stacklevel=2)
