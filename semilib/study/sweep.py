"""Sweeps: many runs, done by whoever a launcher names, and what they will take before they begin.

Whatever is killed can be started again: a run goes on from its checkpoint, and what is done is not done twice.

    outcomes = sweep(grids.grid("table1", "smoke").runs, "runs", Local(slots=2))
    print(summary(outcomes))
"""
from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semilib import files
from semilib.data import folders
from semilib.errors import RunBusy, TrainingError
from semilib.study import clusters, local
from semilib.study.launchers import Local, Ray
from semilib.study.status import share_done
from semilib.study.unit import Outcome
from semilib.training import record
from semilib.training.config import Run
from semilib.training.progress import Progress, automatic, clock
from semilib.training.train import train

STARTUP = 8.0              # seconds that a worker and its kernel take to start on one core, for `forecast`
DO = {"local": local.do, "slurm": clusters.slurm, "ray": clusters.ray}


def sweep(runs: Iterable[Run], folder: str | Path = "runs", how: Local | Ray | None = None,
          progress: Progress | None = None) -> list[Outcome]:
    """Do the runs that are not done, on this machine or where `how` says; an outcome for each run."""
    how, runs = how or Local(), list(runs)
    folders.prepare(runs, (progress or automatic(len(runs))).working)
    return DO[how.name](runs, folder, how, progress)


def ensure(runs: Iterable[Run], folder: str | Path = "runs", progress: Progress | None = None,
           slots: int = 1) -> list[Path]:
    """Do the runs that are not done, in this process one after the other. Returns the folders of all.

    A run whose training fails leaves its record and does not stop the others. Raises RunBusy for a run that another
    process has, because its numbers are not there yet. slots: more than one does them side by side, a process a run.
    """
    runs = list(runs)
    progress = progress or automatic(len(runs))
    folders.prepare(runs, progress.working)
    if slots != 1:
        outcomes = local.do(runs, folder, Local(slots=slots, notebook=False), progress)
        if busy := [outcome for outcome in outcomes if outcome.state == "busy"]:
            raise RunBusy(f"{busy[0].folder} is being trained by another process: wait for it, or stop it first")
        return [record.folder(run, folder) for run in runs]
    paths = [record.folder(run, folder) for run in runs]
    for run, path in zip(runs, paths, strict=True):
        run_json = record.read(path)
        if run_json is not None and run_json["status"] == "done":
            progress.reused(run, run_json["result"])
            continue
        try:
            train(run, folder, progress=progress)
        except TrainingError as error:
            progress.note(f"{run.name}: {error}")
    return paths


def states(runs: Iterable[Run], folder: str | Path = "runs") -> list[tuple[Run, str]]:
    """Each run, once, and its state: not started | running | interrupted | failed | damaged | stale |
    done."""
    return [(run, record.state(run, files.place(folder))) for run in {run.key: run for run in runs}.values()]


# ---- before a sweep --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a sweep will take. seconds and disk are of the runs that are known, `unknown` counts the others."""

    runs: int
    states: dict[str, int]
    todo: int
    seconds: float
    unknown: int
    disk: float
    unknown_disk: int
    basis: tuple[str, ...]

    def text(self, slots: int = 1) -> str:
        """The forecast in words, for a number of slots."""
        states = ", ".join(f"{n} {state}" for state, n in self.states.items())
        lines = [f"{self.runs} runs ({states}): {self.todo} to do"]
        if self.todo:
            seconds = self.seconds / min(slots, self.todo - self.unknown or 1)
            time = f"{clock(self.seconds)} in one slot" + (f", {clock(seconds)} in {slots}" if slots > 1 else "")
            lines += [f"  time  {self._known(time, self.unknown)}",
                      f"  disk  {self._known(f'{self.disk / 1e6:,.1f} MB', self.unknown_disk)}",
                      *(f"  from  {line}" for line in self.basis)]
        return "\n".join(lines)

    def _known(self, text: str, unknown: int) -> str:
        if unknown == self.todo:
            return "unknown"
        return text + (f", and unknown for {unknown} of the runs" if unknown else "")


def forecast(runs: Iterable[Run], folder: str | Path = "runs", results: str | Path = "results",
             notebook: bool = True) -> Forecast:
    """Runs, seconds and bytes of a sweep before it starts, from the records of finished runs in `folder` and `results`.

    A step takes what it took the same method with the same data set, profile and network on this machine's kind of
    device, else the median of all methods there, else it is unknown. A CPU's time tells nothing of a GPU.
    """
    import torch
    folder = files.place(folder)
    here = record.device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    step_seconds, sizes = _measured((folder, files.place(results)))
    by_state = states(runs, folder)
    todo = [run for run, state in by_state if state != "done"]
    seconds, disk, basis = [], [], Counter()
    for run in todo:
        device = run.device if run.device == "cpu" else here
        time_of_step, words = _estimate(step_seconds, run, device)
        basis[words] += 1
        if time_of_step is not None:
            seconds.append(time_of_step * run.steps * (1 - share_done(run, folder)) + STARTUP * notebook)
        size, _ = _estimate(sizes, run, None)
        if size is not None:
            disk.append(size)
    lines = [f"{words} ({n} runs)" for words, n in basis.items()]
    if seconds and notebook:
        lines.append(f"and {STARTUP:g} s a run for its notebook")
    return Forecast(len(by_state), dict(Counter(state for _, state in by_state)), len(todo), sum(seconds),
                    len(todo) - len(seconds), sum(disk), len(todo) - len(disk), tuple(lines))


# Of finished runs: (kind, label, or None for all methods, device, or None for all) -> values.
Measured = dict[tuple, list[float]]


def _kind(config: dict[str, Any]) -> tuple:
    return config["dataset"], config["profile"], config["network"], config["batch"], config.get("side")


def _label(config: dict[str, Any]) -> tuple:
    return config["method"], config.get("base", ""), config.get("add", "")


def _measured(places: Iterable[Path]) -> tuple[Measured, Measured]:
    """Seconds a step, and bytes a run, of finished runs."""
    seconds: Measured = {}
    sizes: Measured = {}
    for file in sorted(file for place in places if place.is_dir() for file in place.rglob("run.json")):
        try:
            run_json = record.read(file.parent)
            if run_json["status"] != "done":
                continue
            config, device = run_json["config"], run_json["resolved"]["device"]
            kind, labels, step = _kind(config), (_label(config), None), run_json["seconds"] / config["steps"]
        except (KeyError, ValueError, OSError):            # an old record without these facts, or one being written
            continue
        for label in labels:
            seconds.setdefault((kind, label, device), []).append(step)
            if (file.parent / "checkpoint.npz").exists():
                size = sum(f.stat().st_size for f in file.parent.rglob("*") if f.is_file())
                sizes.setdefault((kind, label, None), []).append(size)
    return seconds, sizes


def _estimate(measured: Measured, run: Run, device: str | None) -> tuple[float | None, str]:
    """A measured value for a run and the words for where it is from; None if nothing like it was measured."""
    config, scale = run.identity(), f"profile {run.profile}, {run.network}"
    for label, whose in ((_label(config), "the same method"), (None, "other methods")):
        values = measured.get((_kind(config), label, device))
        if values:
            return statistics.median(values), f"finished runs of {whose}, {scale}, on {device}"
    return None, f"nothing: no finished run of {run.dataset}, {scale}, batch {run.batch} on {device}"
