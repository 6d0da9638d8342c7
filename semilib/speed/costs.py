"""What a step of each method costs, beside FixMatch's, and how much of it extra forward passes explain.

    rows = measure([run, ...])       # one FixMatch run among them
    text = table(rows, "...")

A step of a method passes `grad` images through the network with gradient and `free` without. A pass with gradient costs about three
without (forward, and twice that backward), so forward passes explain a ratio of (3 grad + free) / (3 grad_F + free_F) to FixMatch F.
"""
from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from semilib.data import sources
from semilib.files import write_text
from semilib.training import record
from semilib.training.config import Run
from semilib.training.engine import Trainer

NOTE = ("Median over the steps of each stage, FixMatch measured beside each method step by step. Images pass the network with gradient "
        "(forward and backward: about three forwards) or without; \"explained\" is the ratio that these passes alone would give, \"beyond "
        "that\" the measured ratio over it. Host work: one call between steps, over the steps between two calls.")


def measure(runs: Iterable[Run], steps: int = 20, warm: int = 3) -> list[dict[str, Any]]:
    """A row a run and stage: milliseconds a step (median of `steps`), the images that it passes, and the host's work between steps
    (milliseconds of one `host_work` over the steps between two). All runs share data and network size; FixMatch is measured
    again beside each, step by step in turn, so that a busy machine slows both."""
    rows = []
    for run in runs:
        source = sources.load(run.dataset, run.root, run.side, run.split_seed, run.flip)
        beside, trainer = Trainer(run.with_(method="fixmatch", base="", add=""), source), Trainer(run, source)
        images = count_passes(trainer)
        reference = count_passes(beside)
        enter(beside, 0)
        for index, phase in enumerate(trainer.phases):
            after = [s.start for s in trainer.phases[index + 1:]] + [run.steps]
            n = min(steps, after[0] - phase.start - warm - 1)
            if n < 1:                                             # a stage that is there for what happens at its start
                continue
            enter(trainer, index)
            own, other = [], []
            for i in range(warm + n):
                if i == warm:
                    images.update(grad=0, free=0)
                    reference.update(grad=0, free=0)
                own.append(_seconds(trainer))
                other.append(_seconds(beside))
            passed = {k: images[k] / n for k in images}
            base = {k: reference[k] / n for k in reference}
            rows.append({"method": run.label, "stage": phase.name, "cell": run.cell, "network": run.network, "batch": run.batch,
                         "ms": 1000 * statistics.median(own[warm:]), "fixmatch_ms": 1000 * statistics.median(other[warm:]),
                         "ratio": statistics.median(a / b for a, b in zip(own[warm:], other[warm:], strict=True)),
                         "grad": passed["grad"], "free": passed["free"],
                         "explained": (3 * passed["grad"] + passed["free"]) / (3 * base["grad"] + base["free"]),
                         "host_ms": _host(trainer), "host_every": trainer.method.host_every(), "steps": n,
                         "device": record.device_name(trainer.device), "precision": trainer.precision,
                         "threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine(),
                         "code": record.code_of(run.identity())})
    return rows


def enter(trainer: Trainer, index: int) -> None:
    """Make the first step of each stage up to `index`, as `advance` does but without the host's work between steps."""
    every, trainer.method.host_every = trainer.method.host_every, lambda: 0
    while trainer.step == 0 or trainer.phase_index < index:
        start = trainer.phases[trainer.phase_index + 1].start if trainer.step else 0
        trainer.jump(start)
        trainer.advance()
    trainer.method.host_every = every


def _seconds(trainer: Trainer) -> float:
    """One step, tensors only."""
    trainer.data.prepare(int(trainer.now))
    _wait(trainer)
    began = time.perf_counter()
    trainer.compute_step()
    _wait(trainer)
    return time.perf_counter() - began


def _host(trainer: Trainer) -> float:
    """Milliseconds a step of the host's work between steps: one `host_work`, over the steps between two."""
    every = trainer.method.host_every()
    if not every:
        return 0.0
    _wait(trainer)
    began = time.perf_counter()
    trainer.method.host_work(trainer.context(int(trainer.now)))
    _wait(trainer)
    return 1000 * (time.perf_counter() - began) / every


def _wait(trainer: Trainer) -> None:
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def count_passes(trainer: Trainer) -> dict[str, int]:
    """Counts, from now on, the images that pass the trainer's networks with and without gradient."""
    seen = {"grad": 0, "free": 0}

    def counting(inner, live: bool):
        def compute(x):
            seen["grad" if live and torch.is_grad_enabled() else "free"] += len(x)
            return inner(x)
        return compute
    trainer.net.compute = counting(trainer.net.compute, True)
    trainer.average.net.compute = counting(trainer.average.net.compute, False)
    return seen


def write(rows: list[dict[str, Any]], out: Path) -> str:
    """OUT.json, the rows as measured, and OUT.md, the table, which is returned."""
    one = rows[0]
    title = (f"What a step costs: {one['network']}, batch {one['batch']}, {one['cell']}, {one['device']} with {one['threads']} "
             f"thread{'s' * (one['threads'] > 1)}, {one['precision']}, PyTorch {one['torch']}")
    text = table(rows, title)
    write_text(out.with_suffix(".json"), json.dumps(rows, indent=1) + "\n")
    write_text(out.with_suffix(".md"), text)
    return text


def table(rows: list[dict[str, Any]], title: str) -> str:
    """The rows as a markdown table, title first."""
    head = ["method", "stage", "ms a step", "ratio to FixMatch", "images with / without gradient", "explained by passes",
            "beyond that", "host work, ms a step"]
    lines = [f"# {title}", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        lines.append(f"| {r['method']} | {r['stage']} | {r['ms']:.1f} | {r['ratio']:.2f} | {r['grad']:.0f} / {r['free']:.0f} | "
                     f"{r['explained']:.2f} | {r['ratio'] / r['explained']:.2f} | {r['host_ms']:.1f} |")
    return "\n".join([*lines, "", NOTE]) + "\n"
