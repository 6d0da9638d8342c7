"""A folder of a user's own pictures: which files it holds, of which classes, and what identifies them.

    root/
        train/CLASS/...          labelled pictures, at least two classes
        test/CLASS/...           optional: pictures to evaluate on, of the same classes
        unlabelled/...           optional: pictures without a class

A process looks at a folder once, until `look_again`: for all runs that it makes and for the loading of their pictures.
"""
from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from semilib.data import pictures, rng
from semilib.data.pictures import Report, silent
from semilib.errors import BadInput

if TYPE_CHECKING:
    from semilib.training.config import Run

PARTS = ("train", "test", "unlabelled")
Tree = dict[str, list[Path]]        # the files of each class, in the order of the classes' names


@dataclasses.dataclass(frozen=True)
class Folder:
    """root: as it was asked for. train, test: the files by class; without a folder test/, test is empty. contents: of
    each file of the three parts, in their order (`pictures.contents`)."""

    root: Path
    train: Tree
    test: Tree
    unlabelled: list[Path]
    contents: dict[Path, str]

    @functools.cached_property
    def id(self) -> str:
        """Sixteen hex digits over the relative names and the contents of all files, equal for equal copies, wherever
        they lie."""
        digest = hashlib.sha256()
        for path, content in self.contents.items():
            digest.update(f"{path.relative_to(self.root).as_posix()} {content}\n".encode())
        return digest.hexdigest()[:16]

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
    """What a folder of pictures holds. Raises BadInput (field root) for a tree that is not like the one above, and as
    `pictures.files_below`."""
    root = Path(root).expanduser()
    place = os.path.abspath(root)
    if place not in _seen:
        _seen[place] = _look(root, report)
    return _seen[place]


def look_again() -> None:
    """Have every folder looked at afresh when it is next asked for."""
    _seen.clear()


def prepare(runs: Iterable[Run], report: Report = silent) -> None:
    """Look at the folders of pictures among the data sets of runs, and keep their pictures decoded, before any of the
    runs starts. Raises BadInput as `look` and for files that are no pictures."""
    for root, side in dict.fromkeys((run.root, run.side) for run in runs if run.dataset == "imagefolder"):
        folder = look(root, report)
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
        raise BadInput("root", str(root), "a folder that holds train/<class>/<pictures>; it has no folder train")
    files = {part: pictures.files_below(root / part) if (root / part).is_dir() else [] for part in PARTS}
    train, test = (_by_class(root / part, files[part]) for part in ("train", "test"))
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
    used = [file for tree in (train, test) for of in tree.values() for file in of] + files["unlabelled"]
    return Folder(root, train, test, files["unlabelled"], dict(zip(used, pictures.contents(used, root, report))))


def _by_class(folder: Path, files: list[Path]) -> Tree:
    """The files of each class folder inside a folder. Files that lie in the folder itself are passed over."""
    classes = sorted(path.name for path in folder.iterdir()
                     if path.is_dir() and not path.name.startswith(".")) if folder.is_dir() else []
    tree: Tree = {name: [] for name in classes}
    for file in files:
        name, *rest = file.relative_to(folder).parts
        if rest:
            tree[name].append(file)
    return tree
