"""This package's steps in another benchmark's run: one process, one method, a JSON line for each timed step on stdout.

    python -m benchmarks.adapter --pack BUNDLE/pack --method semi --device cuda --steps 300 --warmup 20

The cell is CIFAR-10-LT, N1 = 1500, M1 = 3000, gamma 100, with WRN-28-2 and 64 labelled images a step. `cifar_part`
reads its images. A timed step is a whole one: images drawn and augmented, network, losses, backward, optimiser,
average, the method's state. The device is waited for after each. Lines:

    {"event": "meta", ...}       once: the images that a step passes forward and backward, precision, capture, versions
    {"event": "step", ...}       a timed step: i, wall_s, cpu_s; data_s and data_cpu_s are 0: the images are in memory
    {"event": "summary", ...}    once: seconds of the whole window, peak memory
"""
from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import torch

from benchmarks.cifar_part import read_pack
from semilib.cli import assignments
from semilib.errors import BadInput
from semilib.speed.counting import count_passes
from semilib.speed.measure import Settings, machine, peak_memory
from semilib.speed.workloads import wait
from semilib.training.config import Run
from semilib.training.engine import Captured, Trainer
from semilib.training.train import kernels


def images_of_a_step(trainer: Trainer) -> dict[str, int]:
    """The images that the next step passes forward and backward through the networks. The step is made, uncompiled."""
    with count_passes(trainer) as images:
        trainer.advance()
    return {"images_forward": images["grad"] + images["free"], "images_backward": images["grad"]}


def emit(event: str, **row: Any) -> None:
    print(json.dumps({"event": event, **row}), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """The command. Exits with status 2 and a sentence if an argument is of no use."""
    parser = argparse.ArgumentParser(description="this package's steps, timed for another benchmark")
    parser.add_argument("--pack", required=True, help="the folder that `cifar_part` reads")
    parser.add_argument("--method", default="semi")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--capture", default="auto")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="such as strong_views=1")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=1e9)
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        run = Run.of("cifar10", args.method, profile=args.profile, device=args.device, precision=args.precision,
                     capture=args.capture, options=assignments(args.option))
        source = read_pack(args.pack)
        images = images_of_a_step(Trainer(run.with_(capture="off"), source))
        trainer = Trainer(run, source)
    except BadInput as error:
        parser.error(str(error))
    with kernels(run, trainer.device):
        measure(trainer, args, began, images)


def measure(trainer: Trainer, args: argparse.Namespace, began: float, images: dict[str, int]) -> None:
    """Warm up, time at most args.steps steps in at most args.max_seconds, and print the lines."""
    device, step = trainer.device, trainer.advance
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(max(args.warmup, Captured.EAGER + 1) if "graph" in trainer.capture else args.warmup):
        step()
    wait(device)
    emit("meta", peer="semilib", **images, precision=trainer.precision, capture=trainer.capture, on=str(device),
         torch=torch.__version__, python=platform.python_version(), threads=torch.get_num_threads(),
         cpu_units=machine(Settings(device=args.device))["cpu_units"], startup_s=round(time.perf_counter() - began, 3))
    seconds, opened, cpu = [], time.perf_counter(), time.process_time()
    while len(seconds) < args.steps and time.perf_counter() - opened < args.max_seconds:
        wall, used = time.perf_counter(), time.process_time()
        step()
        wait(device)
        seconds.append((time.perf_counter() - wall, time.process_time() - used))
    window, spent = time.perf_counter() - opened, time.process_time() - cpu
    for i, (wall, used) in enumerate(seconds):
        emit("step", i=i, wall_s=round(wall, 6), data_s=0.0, cpu_s=round(used, 6), data_cpu_s=0.0)
    peak = {"gpu_peak_MiB": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)} if device.type == "cuda" else {}
    host = peak_memory() / 2**20
    emit("summary", steps=len(seconds), window_s=round(window, 6), window_cpu_main_s=round(spent, 6),
         window_cpu_children_s=0.0, max_rss_MiB=round(host, 1), **peak)


if __name__ == "__main__":
    main()
