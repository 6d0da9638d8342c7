"""A folder of a user's own pictures: which files it holds, of which classes, and what identifies them.

    root/
        train/CLASS/...          labelled pictures, at least two classes
        test/CLASS/...           optional: pictures to evaluate on, of the same classes
        unlabelled/...           optional: pictures without a class

Two folders are written into it: `features/` (`semilib.features.store`) and `.semilib/` (`pictures`). What else lies
beside the three parts is not used, and files that are no pictures are passed over; both are told (`Folder.report`).
A process looks at a folder once, until `look_again`: for all runs that it makes and for the loading of their pictures.
"""
from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from semilib.data import pictures, rng
from semilib.data.pictures import Report, silent
from semilib.errors import BadInput
from semilib.files import quoted

if TYPE_CHECKING:
    from semilib.training.config import Run

PARTS = ("train", "test", "unlabelled")
IN_TWO_CLASSES, IN_BOTH_SETS = "in two classes", "in train/ and in test/"          # what nobody means
WRITTEN = "features"                # what `semilib.features.store` writes into the folder
EXAMPLES = 3                        # files or names of a kind that a report gives
Tree = dict[str, list[Path]]        # the files of each class, in the order of the classes' names


@dataclasses.dataclass(frozen=True)
class Folder:
    """root: as it was asked for. train, test: the files by class; without a folder test/, test is empty. contents: of
    each file of the three parts, in their order (`pictures.contents`). left_out: what lies in the three parts and is
    no picture of a class, in words. unused: the names of what lies beside them."""

    root: Path
    train: Tree
    test: Tree
    unlabelled: list[Path]
    contents: dict[Path, str]
    left_out: list[str]
    unused: list[str]

    @functools.cached_property
    def id(self) -> str:
        """Sixteen hex digits over the relative names and the contents of all files, equal for equal copies, wherever
        they lie."""
        digest = hashlib.sha256()
        for path, content in self.contents.items():
            name = unicodedata.normalize("NFC", path.relative_to(self.root).as_posix())
            digest.update(f"{name} {content}\n".encode())
        return digest.hexdigest()[:16]

    def to_predict(self) -> list[Path]:
        """The pictures whose classes nobody has said; without any, those of test/, or else of train/."""
        return self.unlabelled or [file for of in (self.test or self.train).values() for file in of]

    def report(self) -> list[str]:
        """What is there, what is left out, and what looks wrong, a sentence each."""
        counts = {part: sum(map(len, tree.values())) for part, tree in (("train", self.train), ("test", self.test))}
        test = f"{counts['test']:,} in test/" if self.test else "no test/, so a part of train/ is held out"
        lines = [f"{self.root.name}: {len(self.train)} classes, {counts['train']:,} pictures in train/, {test}, "
                 f"{len(self.unlabelled):,} in unlabelled/"]
        lines += [f"{self.root.name}: left out: {'; '.join(self.left_out)}"] if self.left_out else []
        lines += [f"{self.root.name}: not used for training: {first_of(self.unused)}{self._hint()}"] if self.unused \
            else []
        untested = [name for name in self.train if self.test and not self.test.get(name)]
        wrong = [f"no test picture of {first_of(untested)}"] if untested else []
        return lines + [f"{self.root.name}: looks wrong: {line}" for line in [*wrong, *_counted(self.repeated)]]

    def new_pictures(self) -> Path | None:
        """The folder that somebody would predict: the first one beside the three parts, else unlabelled/, if any."""
        beside = [self.root / name for name in self.unused if (self.root / name).is_dir()]
        return next(iter(beside), self.root / "unlabelled" if self.unlabelled else None)

    def _hint(self) -> str:
        first = next((name for name in self.unused if (self.root / name).is_dir()), "")
        return f"; after training, `semilib predict RUN {quoted(self.root / first)}` names the classes of its " \
               "pictures" if first else ""

    @functools.cached_property
    def repeated(self) -> dict[str, list[str]]:
        """The pictures that are there twice and should not be, as ONE = OTHER, by where they are."""
        places = [(part, name, file) for part, tree in (("train/", self.train), ("test/", self.test))
                  for name, of in tree.items() for file in of]
        before: dict[str, tuple[str, str, Path]] = {}
        found: dict[str, list[str]] = {}
        for part, name, file in [*places, *(("unlabelled/", "", file) for file in self.unlabelled)]:
            other_part, other_name, other = before.setdefault(self.contents[file], (part, name, file))
            if name and name != other_name:
                where = IN_TWO_CLASSES
            elif part != other_part and "test/" in (part, other_part):
                where = f"in {other_part} and in {part}"
            elif name and file != other and not self.test:
                where = "twice in train/, of which a part is held out"
            else:
                continue
            pair = " = ".join(one.relative_to(self.root).as_posix() for one in (other, file))
            found.setdefault(where, []).append(pair)
        return found

    def held_out(self, seed: int) -> tuple[Tree, Tree]:
        """The training and the test pictures by class. Without a folder test/, 20 % of each class of train/ (at least
        one picture), drawn by `seed`, are test pictures. Raises BadInput for a class of one picture then."""
        if self.test:
            return self.train, self.test
        kept, held = {}, {}
        for k, (name, files) in enumerate(self.train.items()):
            if len(files) < 2:
                raise BadInput("root", str(self.root),
                               f"train/{name} has 1 picture; it needs 2, one to be held out, or a folder test/")
            chosen = set(rng.permutation(seed, f"holdout/{k}", 0, len(files))[:max(1, len(files) // 5)].tolist())
            held[name] = [file for i, file in enumerate(files) if i in chosen]
            kept[name] = [file for i, file in enumerate(files) if i not in chosen]
        return kept, held


_seen: dict[str, Folder] = {}


def look(root: str | Path, report: Report = silent) -> Folder:
    """What a folder of pictures holds. Raises BadInput (field root) for a tree that is not like the one above, for a
    picture in two classes or both in train/ and in test/, and as `pictures.files_below`."""
    root = Path(root).expanduser()
    place = os.path.abspath(root)
    if place not in _seen:
        _seen[place] = _look(root, report)
    return _seen[place]


def look_again() -> None:
    """Have every folder looked at afresh when it is next asked for."""
    _seen.clear()


@contextlib.contextmanager
def seen() -> Iterator[None]:
    """A block that makes runs only to compare them. Each `Run.of` in it forgets what the folders of pictures hold
    (`look_again`); after the block, what was known before it is known again, and no folder need be read a second
    time."""
    before = dict(_seen)
    yield
    _seen.update(before)


def prepare(runs: Iterable[Run], report: Report = silent, note: Report = silent) -> None:
    """Look at the folders of pictures among the data sets of runs, and keep their pictures decoded, before any of the
    runs starts. note: is told what each folder holds. Raises BadInput as `look` and for files that are no pictures."""
    told: set[Path] = set()
    for root, side in dict.fromkeys((run.root, run.side) for run in runs if run.dataset == "imagefolder"):
        folder = look(root, report)
        for line in folder.report() if folder.root not in told else ():
            note(line)
        told.add(folder.root)
        if os.access(folder.root, os.W_OK):
            read(folder, list(folder.contents), side, report)


def read(folder: Folder, files: Sequence[Path], side: int, report: Report = silent) -> Tensor:
    """Files of a folder as one uint8 tensor [n, 3, side, side]. One error names all files that cannot be read."""
    images, wrong = pictures.read(files, side, folder.root, [folder.contents[file] for file in files], report)
    if wrong:
        raise BadInput("root", str(folder.root), f"{len(wrong)} of its files cannot be read as pictures; remove or "
                                                 f"replace {pictures.listed(wrong, folder.root)}")
    return images


def _look(root: Path, report: Report) -> Folder:
    if not (root / "train").is_dir():
        why = "has no folder train" if root.is_dir() else "is a file" if root.exists() else "does not exist"
        raise BadInput("root", str(root), f"a folder that holds train/<class>/<pictures>; it {why}")
    unused = _others(root)
    below = {part: pictures.files_below(root / part) if (root / part).is_dir() else [] for part in PARTS}
    strays = {file for part in PARTS for file in below[part] if not pictures.is_picture(file)}
    below = {part: [file for file in below[part] if file not in strays] for part in PARTS}
    train, test = (_by_class(root / part, below[part]) for part in ("train", "test"))
    if len(train) < 2:
        raise BadInput("root", str(root), f"train/ must hold at least 2 class folders; it has {len(train)}")
    empty = [name for name in train if not train[name]]
    if empty:
        raise BadInput("root", str(root),
                       f"class without labelled images: no picture in train/{', train/'.join(empty)}")
    unknown = [name for name in test if name not in train]
    if unknown:
        raise BadInput("root", str(root), f"classes of test/ that train/ lacks: {', '.join(unknown)}")
    if (root / "test").is_dir() and not any(test.values()):
        raise BadInput("root", str(root),
                       "no picture in test/<class>/; without a folder test/, a part of train/ is held out")
    used = [file for tree in (train, test) for of in tree.values() for file in of] + below["unlabelled"]
    left_out = [f"{len(loose):,} pictures that lie in {part}/ itself, in no class" for part in ("train", "test")
                if (loose := [file for file in below[part] if file.parent == root / part])]
    named = sorted(file.relative_to(root).as_posix() for file in strays)
    left_out += [f"{len(named):,} files that are no pictures: {first_of(named)}"] if named else []
    contents = dict(zip(used, pictures.contents(used, root, report)))
    folder = Folder(root, train, test, below["unlabelled"], contents, left_out, unused)
    if both := {where: pairs for where, pairs in folder.repeated.items() if where in (IN_TWO_CLASSES, IN_BOTH_SETS)}:
        raise BadInput("root", str(root), "each picture in one class, and either in train/ or in test/; remove one of "
                                          f"each pair: {'; '.join(_counted(both))}")
    return folder


def _counted(repeated: dict[str, list[str]]) -> list[str]:
    return [f"{len(pairs):,} pictures {where}: {first_of(pairs)}" for where, pairs in repeated.items()]


def _others(root: Path) -> list[str]:
    """The names of what lies beside the three parts. Raises BadInput for a folder whose name is a part's, misspelt."""
    names = sorted(entry.name for entry in os.scandir(root)
                   if entry.name not in (*PARTS, WRITTEN) and not pictures.is_passed_over(entry.name))
    for name in names:
        near = difflib.get_close_matches(name.casefold(), PARTS, n=1, cutoff=0.8)
        if near and (root / name).is_dir():
            raise BadInput("root", str(root), f"a folder of train/, test/ and unlabelled/; is its {name}/ {near[0]}/?")
    return names


def first_of(items: Sequence[str]) -> str:
    """The first items of a list in words, and how many more there are."""
    more = f" and {len(items) - EXAMPLES:,} more" if len(items) > EXAMPLES else ""
    return ", ".join(items[:EXAMPLES]) + more


def _by_class(folder: Path, files: list[Path]) -> Tree:
    """The files of each class folder inside a folder. Files that lie in the folder itself are passed over. Names that
    differ in their Unicode form alone, as macOS and Linux write them, are one class."""
    found = [path.name for path in folder.iterdir()
             if path.is_dir() and not pictures.is_passed_over(path.name)] if folder.is_dir() else []
    tree: Tree = {name: [] for name in sorted({unicodedata.normalize("NFC", name) for name in found})}
    for file in files:
        name, *rest = file.relative_to(folder).parts
        if rest:
            tree[unicodedata.normalize("NFC", name)].append(file)
    return tree
