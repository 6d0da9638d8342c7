"""Slots of this machine: each does a run at a time, in a process of its own."""
from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from semilib import files
from semilib.errors import BadInput
from semilib.study.launchers import Local
from semilib.study.status import SweepStatus
from semilib.study.unit import BUSY, DONE, KILLED, Outcome, environment, parameters_of
from semilib.training.config import Run
from semilib.training.progress import Progress

NO_CARD = ("", "-1", "NoDevFiles")          # in CUDA_VISIBLE_DEVICES; the last one is SLURM's


def cores() -> int:
    """How many CPU cores this process may use: as its SLURM job says, else as the system and its container say."""
    allotted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if allotted.isdigit() and int(allotted) > 0:
        return int(allotted)
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(there, quota())))


def quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The CPU cores that a container's limit leaves this process, in Linux's control groups of either version."""
    cores = math.inf
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
        inner = [groups / controllers / name.strip("/") for _, controllers, name in lines]
        for folder in {around for path in inner for around in (path, *path.parents) if around.is_relative_to(groups)}:
            for time, period in _limits(folder):
                cores = min(cores, float(time) / float(period))
    return cores


def _limits(folder: Path) -> Iterator[tuple[str, str]]:
    """The CPU time that a control group may take in a period, and the period, where there is a limit."""
    with contextlib.suppress(OSError):
        time, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        if time != "max":
            yield time, period
    with contextlib.suppress(OSError):
        time = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
        if time != "-1":
            yield time, (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. CUDA sees none from the first name on
    that stands for no card."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        return list(itertools.takewhile(lambda name: name not in NO_CARD, names))
    import torch
    return [str(i) for i in range(torch.cuda.device_count())]


def slots_of(n: int, how: Local, cards: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The places in which n runs are done side by side, each with its threads and its GPU. cards: the GPUs (None: all).

    Without a GPU there is a slot a core; with GPUs, `per_gpu` slots a GPU. The cores are shared out evenly unless
    `threads` says otherwise. Raises BadInput for more slots than the GPUs have.
    """
    cards = gpus() if cards is None else list(cards)
    room = len(cards) * how.per_gpu
    if how.slots is not None and cards and how.slots > room:
        raise BadInput("slots", how.slots, f"at most {room}: {len(cards)} GPUs with per_gpu={how.per_gpu}")
    slots = max(1, min(how.slots or room or cores(), n))
    threads = how.threads or max(1, cores() // slots)
    return [{"threads": threads, "gpu": cards[i % len(cards)] if cards else None} for i in range(slots)]


class Worker:
    """A worker process and what it is doing: the run at `index` of a sweep's file, in a slot."""

    def __init__(self, file: Path, index: int, slot: dict[str, Any]):
        self.index, self.slot, self.began = index, slot, time.monotonic()
        self.log = file.with_name(f"{index}.log")
        words = [sys.executable, "-m", "semilib", "one", str(file), str(index), "--parent", str(os.getpid())]
        with open(self.log, "ab") as out:                  # in a session of its own: Ctrl-C reaches the launcher alone
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=files.home(),
                                            env=environment(**slot), start_new_session=True)

    @property
    def was_killed(self) -> bool:
        return self.process.returncode < 0 or self.process.returncode == KILLED

    def outcome(self, run: Run, folder: Path, kills: int) -> Outcome:
        """What became of its run. kills: how often workers of this run were killed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no word why"]
        if self.process.returncode == DONE:                # what libraries print is no error
            return Outcome(run, folder, "done", lines[-1] if lines[-1].startswith("its notebook failed") else "")
        if self.process.returncode == BUSY:
            return Outcome(run, folder, "busy")
        return Outcome(run, folder, "failed", f"killed {kills} times" if self.was_killed else lines[-1])


def do(runs: Iterable[Run], folder: str | Path = "runs", how: Local | None = None, progress: Progress | None = None,
       cards: Sequence[str] | None = None) -> list[Outcome]:
    """Do the runs that are not done in slots of this machine. Returns an outcome for each, in their order.

    A run that fails does not stop the others, and is not tried again, because it would fail again. A run whose process
    was killed is started again, at most `retries` times. Ctrl-C ends the workers; the next call goes on from their
    checkpoints.
    """
    how = how or Local()
    status = SweepStatus(runs, folder, how.notebook, progress)
    todo = status.todo()
    slots = slots_of(len(todo), how, cards)
    waiting, running, kills = deque(range(len(todo))), [], Counter()
    with tempfile.TemporaryDirectory(prefix="semilib-") as temporary:
        file = Path(temporary) / "sweep.json"
        sweep = {"folder": str(status.folder), "notebook": how.notebook, "runs": [parameters_of(run) for run in todo]}
        file.write_text(json.dumps(sweep), encoding="utf-8")
        try:
            while waiting or running:
                while waiting and slots:
                    running.append(Worker(file, waiting.popleft(), slots.pop(0)))
                time.sleep(0.1)
                for worker in [worker for worker in running if worker.process.poll() is not None]:
                    running.remove(worker)
                    slots.append(worker.slot)
                    run = todo[worker.index]
                    kills[worker.index] += worker.was_killed
                    if worker.was_killed and kills[worker.index] <= how.retries:
                        status.note(f"{status.progress.name(run)}: killed, starting it again")
                        waiting.appendleft(worker.index)
                    else:
                        outcome = worker.outcome(run, status.folder_of(run), kills[worker.index])
                        status.ended(outcome, time.monotonic() - worker.began)
                status.show([todo[worker.index] for worker in running], len(slots) + len(running))
        finally:
            _stop([worker.process for worker in running])
    return status.close()


def _stop(processes: list[subprocess.Popen], grace: float = 10.0) -> None:
    """End workers: ask, wait, then kill."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
