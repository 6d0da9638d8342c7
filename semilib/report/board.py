"""A run's record as TensorBoard shows it: each evaluation's scalars, the recall of each class, the confusion matrix.

Records stay the source: a board is made of one, anew, in the run's folder. What trains knows nothing of it.
"""
from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from semilib.errors import BadInput
from semilib.training import metrics, record, writer

SIDE = 256                      # least side of the confusion matrix's picture, in pixels


def summary_writer() -> Any:
    """PyTorch's class that writes for TensorBoard. Raises BadInput where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        wanted = f'installed first: pip install -c constraints.txt -e ".[tensorboard]" ({error})'
        raise BadInput("log", "tensorboard", wanted) from None
    return SummaryWriter


class Board:
    """The board of a run's folder, in its subfolder `tensorboard`. `update` adds the evaluations that came since."""

    def __init__(self, folder: Path):
        self.folder, self.written = folder, 0
        place, kind = folder / "tensorboard", summary_writer()
        shutil.rmtree(place, ignore_errors=True)
        self.writer = kind(str(place))

    def update(self) -> None:
        log = record.read_log(self.folder)
        names = record.read(self.folder)["split"]["class_names"] if log else []
        for evaluation in log[self.written:]:
            self.add(evaluation, names)
        self.written = len(log)

    def add(self, evaluation: dict[str, Any], names: list[str]) -> None:
        step = evaluation["step"]
        scalars = {name: value for name, value in evaluation.items() if isinstance(value, float)}
        scalars |= {f"loss/{name}": value for name, value in evaluation["losses"].items()}
        scalars |= {f"recall/{name}": value for name, value in zip(names, evaluation["recall"], strict=True)}
        for name, value in scalars.items():
            if value is not None:                       # a class without test images has no recall
                self.writer.add_scalar(name, value, step)
        confusion = np.asarray(metrics.unpacked(evaluation["confusion"], len(names)), dtype=float)
        share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        side = -(-SIDE // len(share))
        self.writer.add_image("confusion", np.kron(share, np.ones((side, side))), step, dataformats="HW")
        self.writer.flush()


def write(folder: Path) -> None:
    """The whole board of a run's folder; where a process has the run, its board is left alone."""
    if writer.is_busy(folder):
        return
    board = Board(folder)
    board.update()
    board.writer.close()


@contextlib.contextmanager
def followed(folder: Path, period: float = 2.0) -> Iterator[None]:
    """Inside, the board of a run that trains into `folder` is kept up with its log; at the end it is whole. Where
    another process has the run, its board is left alone."""
    if writer.is_busy(folder):
        yield
        return
    board, done = Board(folder), threading.Event()

    def follow() -> None:
        while not done.wait(period):
            board.update()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        board.update()
        board.writer.close()
