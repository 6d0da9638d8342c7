"""Our steps in another benchmark's run: one process, one method, a JSON line for each timed step on stdout.

    python -m semilib.adapter --data ROOT --method semi --device cuda --steps 300 --warmup 20

ROOT holds `cifar-10-batches-py`; it may be a part of CIFAR-10, so its checksums are not asked for. The cell is CIFAR-10-LT, N1 = 1500,
M1 = 3000, gamma 100, with WRN-28-2 and 64 labelled images a step. The device is waited for after each step. Lines: {"event": "meta"}
with the images of a step, {"event": "step", "i", "wall_s", "cpu_s"} for each timed step, {"event": "summary"} for the window.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from typing import Any

import torch

from semilib import sources
from semilib.config import Run
from semilib.engine import Captured, Trainer, resolve_device
from semilib.speed import steps_of, views, wait
from semilib.training import kernels


def part_of_cifar10(root: str) -> sources.Source:
    """CIFAR-10 from a folder that need not hold all of it. Raises FileNotFoundError if there is none."""
    from torchvision.datasets import CIFAR10

    class Part(CIFAR10):
        def _check_integrity(self) -> bool:
            return os.path.isdir(os.path.join(self.root, self.base_folder))
    train, test = Part(root, train=True), Part(root, train=False)

    def images(part: CIFAR10) -> torch.Tensor:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return sources.Source("cifar10", images(train), torch.tensor(train.targets), images(test), torch.tensor(test.targets),
                          train.classes, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616), flip=True)


def emit(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="our steps, timed for another benchmark")
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", default="semi")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--capture", default="auto")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=1e9)
    given = parser.parse_args()
    began = time.perf_counter()
    run = Run.of("cifar10", given.method, profile="paper", root=given.data, device=given.device, precision=given.precision,
                 capture=given.capture)
    device = resolve_device(run)
    with kernels(run, device):
        trainer = Trainer(run, part_of_cifar10(given.data))
        step, images = steps_of(trainer), views(trainer)
        warmup = max(given.warmup, Captured.EAGER + 1) if trainer.capture == "graph" else given.warmup
        for _ in range(warmup):
            step()
        wait(device)
        emit(event="meta", peer="semilib", images_forward=images, images_backward=images, precision=trainer.precision,
             capture=trainer.capture, on=str(device), torch=torch.__version__, python=platform.python_version(),
             threads=torch.get_num_threads(), startup_s=round(time.perf_counter() - began, 3))
        rows, opened, cpu = [], time.perf_counter(), time.process_time()
        while len(rows) < given.steps and time.perf_counter() - opened < given.max_seconds:
            wall, used = time.perf_counter(), time.process_time()
            step()
            wait(device)
            rows.append((time.perf_counter() - wall, time.process_time() - used))
        window, spent = time.perf_counter() - opened, time.process_time() - cpu
    for i, (wall, used) in enumerate(rows):
        emit(event="step", i=i, wall_s=round(wall, 6), data_s=0.0, cpu_s=round(used, 6), data_cpu_s=0.0)
    peak = {"gpu_peak_MiB": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)} if device.type == "cuda" else {}
    emit(event="summary", steps=len(rows), window_s=round(window, 6), window_cpu_main_s=round(spent, 6), window_cpu_children_s=0.0,
         max_rss_MiB=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1), **peak)


if __name__ == "__main__":
    main()
