"""What a step of each method costs beside FixMatch's, and how much of it extra forward passes explain.

    rows = measure([run, ...])
    print(write(rows, Path("runs/costs")))

A pass with gradient costs about three without: forward, and twice that backward. So the images that pass with gradient
(grad) and without (free) explain a ratio of (3 grad + free) / (3 grad_F + free_F) to FixMatch F.
"""
from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from semilib.data import sources
from semilib.files import write_text
from semilib.report.table import Column, Table, column
from semilib.speed.counting import count_passes
from semilib.speed.workloads import elapsed
from semilib.training import fingerprint, record
from semilib.training.config import Run
from semilib.training.engine import Trainer

NOTE = ("Median over the steps of each stage, FixMatch measured beside each method step by step. Images pass the "
        "network with gradient (forward and backward: about three forwards) or without; \"explained\" is the ratio "
        "that these passes alone would give, \"beyond that\" the measured ratio over it. Host work: one call between "
        "steps, over the steps between two calls.")


def measure(runs: Iterable[Run], steps: int = 20, warm: int = 3) -> list[dict[str, Any]]:
    """A row a run and stage: milliseconds a step (median of `steps`), the images that it passes, the host's work
    between steps. FixMatch is measured again beside each run, step by step in turn, so a busy machine slows both."""
    return [row for run in runs for row in stages(run, steps, warm)]


def stages(run: Run, steps: int, warm: int) -> Iterator[dict[str, Any]]:
    """The rows of one run. A stage without steps is passed through: it is there for what happens at its start."""
    source = sources.of(run)
    trainer, fixmatch = Trainer(run, source), Trainer(run.with_(method="fixmatch", base="", add=""), source)
    enter(fixmatch, 0)
    for index, phase in enumerate(trainer.phases):
        end = trainer.phases[index + 1].start if index + 1 < len(trainer.phases) else run.steps
        n = min(steps, end - phase.start - warm - 2)         # beside the first one and the one that is counted
        if n < 1:
            continue
        enter(trainer, index)
        for _ in range(warm):
            step_ms(trainer)
            step_ms(fixmatch)
        pairs = [(step_ms(trainer), step_ms(fixmatch)) for _ in range(n)]
        images, base = passes(trainer), passes(fixmatch)
        ours, theirs = zip(*pairs, strict=True)
        yield {"method": run.label, "stage": phase.name, "cell": run.cell, "network": run.network, "batch": run.batch,
               "ms": statistics.median(ours), "fixmatch_ms": statistics.median(theirs),
               "ratio": statistics.median(a / b for a, b in pairs),
               "grad": images["grad"], "free": images["free"],
               "explained": (3 * images["grad"] + images["free"]) / (3 * base["grad"] + base["free"]),
               "host_ms": host_ms(trainer), "host_every": trainer.method.host_every(), "steps": n,
               "device": record.device_name(trainer.device), "precision": trainer.precision,
               "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
               "code": fingerprint.code_of(run.identity())}


def enter(trainer: Trainer, index: int) -> None:
    """Make the first step of each stage up to `index`, as `advance` does but without the host's work between steps."""
    every, trainer.method.host_every = trainer.method.host_every, lambda: 0
    while trainer.step == 0 or trainer.phase_index < index:
        start = trainer.phases[trainer.phase_index + 1].start if trainer.step else 0
        trainer.jump(start)
        trainer.advance()
    trainer.method.host_every = every


def step_ms(trainer: Trainer) -> float:
    """Milliseconds of one step, tensors only."""
    trainer.data.prepare(int(trainer.now))
    return 1000 * elapsed(trainer.compute_step, trainer.device)


def passes(trainer: Trainer) -> dict[str, int]:
    """The images that pass the networks in one more step: "grad" with gradient, "free" without."""
    with count_passes(trainer) as images:
        step_ms(trainer)
    return images


def host_ms(trainer: Trainer) -> float:
    """Milliseconds a step of the host's work: one `host_work`, over the steps between two."""
    every, context = trainer.method.host_every(), trainer.context(int(trainer.now))
    return 1000 * elapsed(lambda: trainer.method.host_work(context), trainer.device) / every if every else 0.0


def write(rows: list[dict[str, Any]], out: Path) -> str:
    """OUT.json, the rows as measured, and OUT.md, the page, which is returned."""
    page = markdown(rows)
    write_text(out.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")
    write_text(out.with_suffix(".md"), page)
    return page


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a page: title, table, note."""
    one = rows[0]
    title = (f"What a step costs: {one['network']}, batch {one['batch']}, {one['cell']}, {one['device']} with "
             f"{one['threads']} thread{'s' * (one['threads'] > 1)}, {one['precision']}, PyTorch {one['torch']}")
    columns = [column("method", "method", left=True), column("stage", "stage", left=True),
               column("ms", "ms a step", "{:.1f}".format, left=True),
               column("ratio", "ratio to FixMatch", "{:.2f}".format, left=True),
               Column("images with / without gradient", lambda row: f"{row['grad']:.0f} / {row['free']:.0f}", True),
               column("explained", "explained by passes", "{:.2f}".format, left=True),
               Column("beyond that", lambda row: f"{row['ratio'] / row['explained']:.2f}", left=True),
               column("host_ms", "host work, ms a step", "{:.1f}".format, left=True)]
    return f"# {title}\n\n{Table(title, columns, rows).grid}\n{NOTE}\n"
