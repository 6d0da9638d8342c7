"""Sweeps: many runs, done by whoever a launcher names, and what they will take before they begin.

Whatever is killed can be started again: a run goes on from its checkpoint, and what is done is not done twice.

    from semilib import Run, collect, sweep
    runs = Run.grid(method=["semi", "acr"], seed=range(5), profile="trial")
    sweep(runs, slots=2)                        # overall progress and the time left; an outcome for each run
    collect(runs, by="method")                  # a pandas frame
"""
from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from semilib import files
from semilib.data import folders
from semilib.errors import BadInput, RunBusy, TrainingError
from semilib.report import records
from semilib.report.labels import names_of
from semilib.study import clusters, local
from semilib.study.launchers import Local, Ray
from semilib.study.status import share_done
from semilib.study.unit import Outcome
from semilib.training import record
from semilib.training.config import Run
from semilib.training.progress import Progress, automatic, clock
from semilib.training.train import train

BESIDE = 200_000           # bytes of a run's log and notebook, about, for `forecast`
STARTUP = 8.0              # seconds that a worker and its kernel take to start on one core, for `forecast`
DO = {"local": local.do, "slurm": clusters.slurm, "ray": clusters.ray}


def sweep(runs: Iterable[Run], folder: str | Path = "runs", how: Local | Ray | None = None,
          progress: Progress | None = None, *, slots: int | None = None, per_gpu: int = 1, threads: int | None = None,
          retries: int = 2, notebook: bool = True) -> list[Outcome]:
    """Do the runs that are not done, on this machine or where `how` says; an outcome for each run.

    The options are those of `Local`, and tell how this machine does them: slots (runs side by side; None: one a core,
    or one a GPU), per_gpu (runs that share a GPU), threads (CPU threads a run), retries (how often a run that was
    killed is started again), notebook (whether a notebook is executed for each run). Raises BadInput for them beside
    `how`.
    """
    here = Local(slots=slots, per_gpu=per_gpu, threads=threads, retries=retries, notebook=notebook)
    if how is not None and here != Local():
        raise BadInput("how", how, "None beside options of this machine; otherwise it has them itself")
    how, runs = how or here, list(runs)
    shown = progress or automatic(len(runs))
    folders.prepare(runs, shown.working, shown.note)
    return DO[how.name](runs, folder, how, progress)


def ensure(runs: Iterable[Run], folder: str | Path = "runs", progress: Progress | None = None,
           slots: int = 1, names: Mapping[str, str] | None = None) -> list[Path]:
    """Do the runs that are not done, in this process one after the other. Returns the folders of all.

    A run whose training fails leaves its record and does not stop the others. Raises RunBusy for a run that another
    process has, because its numbers are not there yet. slots: more than one does them side by side, a process a run.
    names: what the progress calls runs, by key, such as `Grid.names`; None: by protocol and label.
    """
    runs, folder = list(runs), files.place(folder)
    progress = progress or automatic(len(runs), names or names_of(runs))
    folders.prepare(runs, progress.working, progress.note)
    if slots != 1:
        outcomes = local.do(runs, folder, Local(slots=slots, notebook=False), progress)
        if busy := [outcome for outcome in outcomes if outcome.state == "busy"]:
            raise RunBusy(f"{busy[0].folder} is being trained by another process: wait for it, or stop it first")
        return [record.folder(run, folder) for run in runs]
    paths = [record.folder(run, folder) for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if run_json := record.finished(path):
            progress.reused(run, run_json["result"])
            continue
        try:
            train(run, folder, progress=progress)
        except TrainingError as error:
            progress.note(f"{progress.name(run)}: {error}")
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


def forecast(runs: Iterable[Run], folder: str | Path = "runs", results: str | Path = "results", notebook: bool = True,
             trial: Callable[[Run], tuple[float, int] | None] | None = None) -> Forecast:
    """Runs, seconds and bytes of a sweep before it starts, from the records of finished runs in `folder`, which this
    machine made, else from those in `results`.

    A step takes what it took the same method with the same data set, profile and network on this machine's kind of
    device, else the median of all methods there. A CPU's time tells nothing of a GPU. Where there is no such run,
    `trial` is asked for the seconds of a step of one method and the bytes of its state; None: they are unknown.
    """
    import torch
    folder = files.place(folder)
    here = record.device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    measured = [_measured(folder), _measured(files.place(results))]
    tried: dict[tuple, tuple[tuple[float, int] | None, str]] = {}
    by_state = states(runs, folder)
    todo = [run for run, state in by_state if state != "done"]
    seconds, disk, basis = [], [], Counter()
    for run in todo:
        device = run.device if run.device == "cpu" else here
        time_of_step, words = _estimate([seconds for seconds, _ in measured], run, device)
        size, _ = _estimate([sizes for _, sizes in measured], run, None)
        if time_of_step is None and trial:
            kind = (*_kind(run.identity()), device)
            if kind not in tried:
                tried[kind] = trial(run), f"a trial of ten steps of {run.label}, {_scale(run)}, on {device}"
            found, of_trial = tried[kind]
            if found:
                (time_of_step, state), words = found, of_trial
                size = state + BESIDE if size is None else size
        basis[words] += 1
        if time_of_step is not None:
            seconds.append(time_of_step * run.steps * (1 - share_done(run, folder)) + STARTUP * notebook)
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


def _measured(place: Path) -> tuple[Measured, Measured]:
    """Seconds a step, and bytes a run, of the finished runs below a folder."""
    seconds: Measured = {}
    sizes: Measured = {}
    for path in records.folders_below(place) if place.is_dir() else ():
        try:
            run_json = records.read(path).run if records.in_table(path) else record.read(path)
            if run_json is None or run_json["status"] != "done":
                continue
            config, device = run_json["config"], run_json["resolved"]["device"]
            kind, labels, step = _kind(config), (_label(config), None), run_json["seconds"] / config["steps"]
        except (KeyError, ValueError, OSError):            # an old record without these facts, or one being written
            continue
        for label in labels:
            seconds.setdefault((kind, label, device), []).append(step)
            if (path / "checkpoint.npz").exists():
                own = [f for f in path.rglob("*") if f.is_file() and f.suffix not in record.MADE_OF_IT]
                sizes.setdefault((kind, label, None), []).append(sum(f.stat().st_size for f in own))
    return seconds, sizes


def _scale(run: Run) -> str:
    return f"profile {run.profile}, {run.network}"


def _estimate(measured: list[Measured], run: Run, device: str | None) -> tuple[float | None, str]:
    """A measured value for a run, of the first that has one, and the words for where it is from; None if none has."""
    config = run.identity()
    for values in measured:
        for label, whose in ((_label(config), "the same method"), (None, "other methods")):
            if found := values.get((_kind(config), label, device)):
                return statistics.median(found), f"finished runs of {whose}, {_scale(run)}, on {device}"
    return None, f"nothing: no finished run of {run.dataset}, {_scale(run)}, batch {run.batch} on {device}"
