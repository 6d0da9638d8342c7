"""Our steps in another benchmark's run: one process, one method, a JSON line for each timed step on stdout.

    python -m semilib.adapter --data ROOT --method semi --device cuda --steps 300 --warmup 20

ROOT holds `cifar-10-batches-py`; it may be a part of CIFAR-10, so its checksums are not asked for. The cell is CIFAR-10-LT, N1 = 1500,
M1 = 3000, gamma 100, with WRN-28-2 and 64 labelled images a step. The device is waited for after each step. Lines: {"event": "meta"}
with the images that a step passes through the networks, counted, {"event": "step", "i", "wall_s", "cpu_s"} for each timed step,
{"event": "summary"} for the window. A timed step is all of one: images drawn and changed, network, losses, backward, optimiser, average,
the method's state.
"""
from __future__ import annotations

import argparse
import json
import pickle
import platform
import resource
import time
from pathlib import Path
from typing import Any

import torch

from semilib.cli import assignments
from semilib.data import sources
from semilib.errors import BadInput
from semilib.speed.costs import count_passes
from semilib.speed.measure import Settings, machine, steps_of, wait
from semilib.training.config import Run
from semilib.training.engine import Captured, Trainer, resolve_device
from semilib.training.train import kernels


def part_of_cifar10(root: str) -> sources.Source:
    """CIFAR-10 from a folder that need not hold all of it. Raises BadInput if it holds none."""
    from torchvision.datasets import CIFAR10
    if not Path(root, CIFAR10.base_folder).is_dir():
        raise BadInput("data", root, f"a folder that holds {CIFAR10.base_folder}")

    class Part(CIFAR10):
        def _check_integrity(self) -> bool:
            return True

        def _load_meta(self) -> None:
            meta = Path(self.root, self.base_folder, self.meta["filename"]).read_bytes()
            self.classes = pickle.loads(meta, encoding="latin1")[self.meta["key"]]
    train, test = Part(root, train=True), Part(root, train=False)

    def images(part: CIFAR10) -> torch.Tensor:
        return torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return sources.Source("cifar10", images(train), torch.tensor(train.targets), images(test), torch.tensor(test.targets),
                          train.classes, (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616), flip=True)


def passes(trainer: Trainer) -> dict[str, int]:
    """The images that a step passes forward and backward through the networks, counted over the first step, made uncompiled."""
    nets = trainer.net, trainer.average.net
    kept, computes = trainer.parts, [net.compute for net in nets]
    seen = count_passes(trainer)
    trainer.parts = {name: getattr(trainer, name) for name in kept}
    trainer.data.prepare(trainer.step)
    trainer.compute_step()
    trainer.step += 1
    trainer.parts = kept
    for net, compute in zip(nets, computes, strict=True):
        net.compute = compute
    return {"images_forward": seen["grad"] + seen["free"], "images_backward": seen["grad"]}


def emit(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    """The command. Exits with status 2 and a sentence if an argument is of no use."""
    parser = argparse.ArgumentParser(description="our steps, timed for another benchmark")
    parser.add_argument("--data", required=True)
    parser.add_argument("--method", default="semi")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--capture", default="auto")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the method, such as strong_views=1")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=1e9)
    given = parser.parse_args()
    began = time.perf_counter()
    try:
        run = Run.of("cifar10", given.method, profile=given.profile, root=given.data, device=given.device, precision=given.precision,
                     capture=given.capture, options=assignments(given.option))
        device, source = resolve_device(run), part_of_cifar10(given.data)
    except BadInput as error:
        parser.error(str(error))
    with kernels(run, device):
        trainer = Trainer(run, source)
        images = passes(trainer)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        step = steps_of(trainer)
        warmup = max(given.warmup, Captured.EAGER + 1) if "graph" in trainer.capture else given.warmup
        for _ in range(warmup):
            step()
        wait(device)
        emit(event="meta", peer="semilib", **images, precision=trainer.precision,
             capture=trainer.capture, on=str(device), torch=torch.__version__, python=platform.python_version(),
             threads=torch.get_num_threads(), cpu_units=machine(Settings(device=given.device))["machine"]["cpu_units"],
             startup_s=round(time.perf_counter() - began, 3))
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
