"""The part of CIFAR-10 that the benchmark's cell uses, read from pictures and JSON: nothing here is unpickled.

A pack is a folder with `train.webp` and `test.webp`, lossless pictures of 32 x 32 tiles in rows, and `pack.json`, which
has the labels in the same order (`train_labels`, `test_labels`) and the names of the classes (`names`).
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semilib.data.sources import Source
from semilib.errors import BadInput

# Of the pixels and labels of CIFAR-10-LT, N1 = 1500, M1 = 3000, gamma 100, and of the first 1,000 test images.
SHA256 = "129a279278476a4d5be2d0187da943f63f4c48d05fbdb35b15ec98359cef68d5"


def read_pack(folder: str | Path) -> Source:
    """The images and labels of a pack. Raises BadInput for a missing or damaged file, and if one byte is not
    CIFAR-10's."""
    folder = Path(folder)
    try:
        labels = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        parts = [(tiles(folder / f"{part}.webp", len(labels[f"{part}_labels"])), torch.tensor(labels[f"{part}_labels"]))
                 for part in ("train", "test")]
    except (OSError, ValueError, KeyError) as error:
        wanted = f"a folder with pack.json, train.webp and test.webp, intact ({error})"
        raise BadInput("pack", str(folder), wanted) from error
    if digest(parts) != SHA256:
        raise BadInput("pack", str(folder), f"the cell's part of CIFAR-10, whose SHA-256 is {SHA256}")
    (images, y), (test_images, test_y) = parts
    return Source("cifar10", images, y, test_images, test_y, labels["names"],
                  (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616), flip=True)


def tiles(file: Path, count: int) -> Tensor:
    """The first `count` tiles of a picture, row by row: uint8 [count, 3, 32, 32]."""
    picture = torch.from_numpy(np.array(Image.open(file).convert("RGB")))                    # [32 rows, 32 columns, 3]
    return picture.unfold(0, 32, 32).unfold(1, 32, 32).flatten(0, 1)[:count].contiguous()


def digest(parts: list[tuple[Tensor, Tensor]]) -> str:
    """SHA-256 of pairs of images uint8 [n, 3, 32, 32] and labels [n], each label as one byte."""
    out = hashlib.sha256()
    for images, labels in parts:
        out.update(images.numpy().tobytes() + labels.to(torch.uint8).numpy().tobytes())
    return out.hexdigest()
