"""The clock, and what is timed: a run's steps on random images, the network alone, a step's parts, several runs."""
from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semilib.data.sources import CLASSES, Source
from semilib.data.step import Time
from semilib.methods.losses import ce
from semilib.training import compiling
from semilib.training.config import Run
from semilib.training.engine import Captured, Trainer

Step = Callable[[], Any]


def timed(step: Step, device: torch.device, steps: int, window: int = 1, warm: int = 2) -> dict[str, float]:
    """Seconds of a step: median and least over `steps` windows of `window` calls, after `warm` calls."""
    for _ in range(warm):
        step()
    seconds = [elapsed(step, device, window) / window for _ in range(steps)]
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "windows": steps, "window": window}


def elapsed(call: Step, device: torch.device, calls: int = 1) -> float:
    """Seconds of some calls; the device is waited for before and after."""
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free() -> None:
    """Give memory back: a captured step and its trainer refer to each other. Without CUDA `empty_cache` does
    nothing."""
    gc.collect()
    torch.cuda.empty_cache()


def random_source(n: int, classes: int, test: int = 1000, file: Path | None = None) -> Source:
    """n images to train on and some for the test, random, 32 x 32, in classes of equal size. file: where they are kept,
    to be read through a memory map."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n + test, 3, 32, 32), dtype=torch.uint8, generator=draw)
    if file is not None:
        np.save(file, images.numpy())
        images = torch.from_numpy(np.load(file, mmap_mode="c"))
    labels = torch.arange(n + test) % classes
    return Source("random", images[:n], labels[:n], images[n:], labels[n:], [str(i) for i in range(classes)],
                  (0.5,) * 3, (0.25,) * 3, flip=True)


@functools.cache
def like_cifar10() -> Source:
    """Random images in CIFAR-10's sizes. No operator's work depends on the pixels."""
    return random_source(50_000, 10, test=10_000)


def trial(run: Run, steps: int = 10, limit: float = 20.0) -> tuple[float, int] | None:
    """Seconds of a step of this run on this machine, and bytes of its state, which a checkpoint holds.

    Seconds are the median of ten steps, or of as many as the limit leaves, in seconds. None for a run whose pictures
    random ones cannot stand for: those of a folder, of unknown class, or as features."""
    if run.dataset in ("imagefolder", "stl10") or run.encoder != "none" or run.n1 is None or run.m1 is None:
        return None
    classes = CLASSES[run.dataset]
    trainer = Trainer(run, random_source(classes * (run.n1 + run.m1), classes, test=classes))
    trainer.advance()
    seconds = [elapsed(trainer.advance, trainer.device)]
    while len(seconds) < min(steps, run.steps - 2) and sum(seconds) < limit:
        seconds.append(elapsed(trainer.advance, trainer.device))
    return statistics.median(seconds), sum(value.nbytes for value in trainer.state_dict().values())


def images_of(trainer: Trainer) -> int:
    """Images that a step draws."""
    return sum(trainer.data.streams[stream].size for stream, _ in trainer.data.step_images.views.values())


def bare(trainer: Trainer) -> tuple[Step, int]:
    """A step of the trainer's network alone on one ready batch of SeMi's size: forward, cross-entropy of labelled and
    strong rows, backward, optimiser; compiled and captured as the run asks. Returns the step and its number of
    images."""
    run, device = trainer.run, trainer.device
    images = run.batch * (1 + 3 * run.mu)
    x = torch.randn(images, 3, *trainer.source.images.shape[-2:], device=device).to(memory_format=torch.channels_last)
    y = torch.arange(images, device=device) % trainer.data.classes
    scored = torch.cat([torch.arange(run.batch), torch.arange(run.batch * (1 + run.mu), images)]).to(device)
    trainer.set_rate(torch.full_like(trainer.lr, run.lr))

    def loss() -> Tensor:
        return ce(trainer.net(x)["head"].float()[scored], y[scored]).mean()
    if "compile" in trainer.capture:
        loss = compiling.compile_parts({"loss": loss})["loss"]

    def step() -> None:
        trainer.backward({"loss": loss()})
        trainer.update()
    return (Captured(step, device) if "graph" in trainer.capture else step), images


def parts_of(trainer: Trainer) -> dict[str, Step]:
    """The parts of `Trainer.compute_step` as calls that can be repeated, what its method times alone, and the whole."""
    now = Time(trainer.now, trainer.total, trainer.dtype, trainer.phase)
    batch = trainer.data.pick(now)[0]

    def views() -> dict[str, Tensor]:
        return trainer.parts["views"](trainer.data.pick(now)[1], now)

    def learn() -> tuple[Any, ...]:
        losses, *rest = trainer.parts["losses_of_step"](batch, images, now)
        trainer.backward(losses)
        trainer.set_rate(trainer.learning_rate(now))
        trainer.last_losses = {name: loss.detach() for name, loss in losses.items()}
        trainer.monitor.expect(losses, trainer.method.must_act)
        return rest
    images = views()
    terms, seen, pseudo = learn()
    alone = {f"of these: {name}": part for name, part in trainer.method.timed_parts(seen, pseudo, now).items()}
    if trainer.run.capture == "compile":
        alone = {name: compiling.compiled(part) for name, part in alone.items()}
    return {"views": views, "network, losses, backward": learn, "optimiser": trainer.update,
            "average, state, measurements":
                lambda: trainer.parts["after_step"](trainer.last_losses, terms, seen, pseudo, batch, now),
            **alone, "whole step": trainer.compute_step}


def side_by_side(trainers: list[Trainer]) -> Step:
    """One step of each trainer, each on a stream of its own where there are streams."""
    wait(trainers[0].device)                                     # until the trainers are built, on another stream
    streams = [torch.cuda.Stream(t.device) if t.device.type == "cuda" else None for t in trainers]

    def step() -> None:
        for trainer, stream in zip(trainers, streams, strict=True):
            with torch.cuda.stream(stream):
                trainer.advance()
    return step
