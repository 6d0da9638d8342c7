"""Pictures to look at and to try things on: what a network sees, and a folder of pictures as a user might have."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from semilib import files
from semilib.data import augment, folders, sources

if TYPE_CHECKING:
    from semilib.training.config import Run


def example_views(run: Run, step: int = 0) -> tuple[np.ndarray, list[str], list[str], str]:
    """What the network sees of one image of each class, in the views of the run's seed at `step`.

    Returns images uint8 [4, C, H, W, 3], row names, class names and a title."""
    source = sources.of(run)
    x = torch.stack([source.images[source.labels == k][0] for k in range(len(source.class_names))])
    views = [x, augment.weak(x, run.seed, "view/w", step, source.flip, run.crop)]
    views += [augment.strong(x, run.seed, f"view/s{i}", step, source.flip, run.strong_pool, run.crop, source.mean)
              for i in (1, 2)]
    images = np.stack([view.permute(0, 2, 3, 1).numpy() for view in views])
    rows = ["image", "weak view", "strong view 1", "strong view 2"]
    return images, rows, source.class_names, f"{source.name}: the first image of each class"


def example_photos(folder: str | Path, labelled: Sequence[int] = (20, 10, 5, 3), pictures: int = 600,
                   test: int = 200, dataset: str = "") -> Path:
    """Make a folder of pictures such as `sources.image_folder` reads, once. Returns it: `folder`/DATASET.

    They are those of the first classes of a data set, the same number of each; dataset="": CIFAR-10 where its files lie
    in the project's data/, else the embedded one. train/CLASS has `labelled` of them, a number a class. test/CLASS has
    its share of `test`. unlabelled/ has the rest, under names that say nothing."""
    if not dataset:
        dataset = "cifar10" if (files.place("data") / "cifar-10-batches-py").is_dir() else "mnistm5k"
    folder = Path(folder) / dataset
    if (folder / ".complete").is_file():
        return folder
    source = sources.load(dataset, files.place("data"))
    each, tested = pictures // len(labelled), test // len(labelled)
    pool: list[int] = []

    def write(i: int, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images[i].permute(1, 2, 0).numpy()).save(place)
    for k, (name, n) in enumerate(zip(source.class_names, labelled)):
        members = np.flatnonzero(np.asarray(source.labels) == k)[:each].tolist()
        for i in members[:n]:
            write(i, folder / "train" / name / f"{i:05d}.png")
        for i in members[each - tested:]:
            write(i, folder / "test" / name / f"{i:05d}.png")
        pool += members[n:each - tested]
    for number, place in enumerate(np.random.default_rng(0).permutation(len(pool)).tolist()):
        write(pool[place], folder / "unlabelled" / f"{number:04d}.png")
    files.write_text(folder / ".complete", "every picture is written\n")
    return folder


def contents(folder: str | Path) -> str:
    """How many pictures the parts of a folder of pictures hold, and of which classes, a line a part. Raises BadInput as
    `folders.look`."""
    seen = folders.look(folder)
    lines = [f"  {name}: {sum(map(len, tree.values())):,} pictures, "
             f"{', '.join(f'{of} {len(held):,}' for of, held in tree.items())}"
             for name, tree in (("train", seen.train), ("test", seen.test)) if tree]
    return "\n".join([files.shown(folder), *lines, f"  unlabelled: {len(seen.unlabelled):,} pictures"])
