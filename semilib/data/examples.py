"""Pictures to look at and to try things on: what a network sees, and a folder of pictures as a user might have."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from semilib import files
from semilib.data import augment, sources, splits

if TYPE_CHECKING:
    from semilib.training.config import Run


def example_views(run: Run, step: int = 0) -> tuple[np.ndarray, list[str], list[str], str]:
    """What the network sees of one image of each class, in the views of the run's seed at `step`.

    Returns images uint8 [4, C, H, W, 3], row names, class names and a title."""
    source = sources.load(run.dataset, run.root, run.side, run.split_seed, run.flip)
    x = torch.stack([source.images[source.labels == k][0] for k in range(len(source.class_names))])
    views = [x, augment.weak(x, run.seed, "view/w", step, source.flip, run.crop)]
    views += [augment.strong(x, run.seed, f"view/s{i}", step, source.flip, run.strong_pool, run.crop, source.mean)
              for i in (1, 2)]
    images = np.stack([view.permute(0, 2, 3, 1).numpy() for view in views])
    rows = ["image", "weak view", "strong view 1", "strong view 2"]
    return images, rows, source.class_names, f"{source.name}: the first image of each class"


def example_photos(folder: str | Path, labelled: int = 40, unlabelled: int = 60, test: int = 20,
                   gamma: float = 10.0) -> Path:
    """Make a folder of pictures such as `sources.image_folder` reads, of the embedded data, once. Returns the folder.

    train/CLASS has a long tail from `labelled` pictures down by gamma. unlabelled/ has `unlabelled` of each class,
    under names that say nothing. test/CLASS has `test` of each."""
    folder = Path(folder)
    if (folder / "complete").is_file():
        return folder
    source = sources.load("mnistm5k", str(files.place("data")))
    counts = splits.long_tailed_counts(labelled, len(source.class_names), gamma)
    pool: list[int] = []

    def write(image: torch.Tensor, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    for k, name in enumerate(source.class_names):
        members = np.flatnonzero(np.asarray(source.labels) == k)
        for i in members[:counts[k]]:
            write(source.images[i], folder / "train" / name / f"{i:04d}.png")
        pool += members[counts[k]:counts[k] + unlabelled].tolist()
        for i in np.flatnonzero(np.asarray(source.test_labels) == k)[:test]:
            write(source.test_images[i], folder / "test" / name / f"{i:04d}.png")
    for number, i in enumerate(np.random.default_rng(0).permutation(pool)):
        write(source.images[i], folder / "unlabelled" / f"{number:04d}.png")
    files.write_text(folder / "complete", "every picture is written\n")
    return folder


def contents(folder: str | Path) -> str:
    """How many pictures the parts of a folder of pictures hold, a line a part."""
    parts = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    counts = [sum(1 for file in part.rglob("*") if file.is_file()) for part in parts]
    lines = [f"  {part.name}: {n:,} pictures" for part, n in zip(parts, counts, strict=True)]
    return "\n".join([files.shown(folder), *lines])
