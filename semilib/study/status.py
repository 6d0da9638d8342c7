"""How far a sweep is: what became of its runs so far, and the lines that say so. All launchers share it."""
from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from semilib import files
from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.report.labels import named, names_of
from semilib.study import unit
from semilib.study.unit import Outcome, is_done, run_one
from semilib.training import record, writer
from semilib.training.config import Run
from semilib.training.progress import Progress, automatic, clock, result_text


class SweepStatus:
    """The runs of a sweep, each once. outcomes: what became of those that ended, by folder.

    notebook: whether each run executes one. Raises BadInput for a method that only a notebook defines, because workers
    would not find it, and if the notebook of a run is not there."""

    def __init__(self, runs: Iterable[Run], folder: str | Path, notebook: bool, progress: Progress | None = None):
        if notebook and not unit.notebook().is_file():
            raise BadInput("notebook", files.shown(unit.notebook()), "the notebook of a run, which comes with the "
                                                                     "project; --bare trains without it")
        self.folder = files.place(folder).resolve()
        self.runs = {self.folder_of(run): run for run in runs}
        self.one_cell = len({run.cell for run in self.runs.values()}) == 1      # then its name goes without saying
        for run in self.runs.values():
            for method in filter(None, (run.method, run.base)):
                owner = METHODS.data[method]
                if isinstance(owner, type) and not owner.__module__.startswith("semilib.methods."):
                    wanted = ("a method that a file of semilib/methods defines, for workers to find it; sweep.ensure "
                              "does the runs of one that a notebook defines")
                    raise BadInput("method", method, wanted)
        self.progress = progress or automatic(len(self.runs), names_of(self.runs.values()))
        self.outcomes: dict[Path, Outcome] = {}
        self.seconds: list[float] = []
        self.shown = 0.0

    def folder_of(self, run: Run) -> Path:
        return record.folder(run, self.folder)

    def todo(self) -> list[Run]:
        """The runs that are not done; those that are, are told and put down."""
        done = [path for path in self.runs if is_done(path)]
        for path in self.runs.keys() - set(done):
            (path / "done.json").unlink(missing_ok=True)                # of a record that was damaged since
        before = [run_one(self.runs[path], self.folder) for path in done]
        for outcome in before:
            self.ended(outcome)
        if before:
            failed = sum(outcome.state == "failed" for outcome in before)
            self.note(f"{len(before) - failed} of {len(self.runs)} runs done before")
        return [run for path, run in self.runs.items() if path not in self.outcomes]

    def ended(self, outcome: Outcome, seconds: float | None = None) -> None:
        """Put down what became of a run, and say it."""
        if outcome.state == "done" and not is_done(outcome.folder):
            why = "what was done is another run, because the code was changed while the sweep ran: start it again"
            outcome = dataclasses.replace(outcome, state="failed", error=why)
        self.outcomes[outcome.folder] = outcome
        line = f"[{len(self.outcomes)}/{len(self.runs)}] {self.progress.name(outcome.run)}  {outcome.state}"
        if outcome.state == "done":
            if seconds is not None:
                self.seconds.append(seconds)
            score = result_text(outcome.run, record.read(outcome.folder)["result"])
            self.note(f"{line}{score}" + ("" if seconds is None else f"  {clock(seconds)}"))
        elif outcome.state != "done before":
            self.note(f"{line}  {outcome.error}".rstrip())

    def note(self, text: str) -> None:
        self.progress.note(text)

    def show(self, running: list[Run], slots: int) -> None:
        """The line that moves: how far the sweep is, and the time left by the mean of its runs so far."""
        now = time.perf_counter()
        if now - self.shown < self.progress.period:
            return
        self.shown = now
        shares = [share_done(run, self.folder) for run in running]
        left = len(self.runs) - len(self.outcomes) - sum(shares)
        words = [f"{len(self.outcomes)} of {len(self.runs)} finished"]
        if running:
            shown = f"{running[0].cell}." if self.one_cell else ""
            first = [f"{self.progress.name(run).removeprefix(shown)} {share:.0%}"
                     for run, share in zip(running[:4], shares, strict=False)]
            words.append(f"running {', '.join(first)}" + (f" and {len(running) - 4} more" if len(running) > 4 else ""))
        if self.seconds:
            words.append(f"about {clock(left * statistics.fmean(self.seconds) / slots)} left")
        self.progress.say("; ".join(words))

    def show_busy(self, runs: Iterable[Run]) -> None:
        """`show`, for a launcher that does not know which of its runs have begun: those that a process holds."""
        running = [run for run in runs if writer.is_busy(self.folder_of(run))]
        self.show(running, max(1, len(running)))

    def close(self) -> list[Outcome]:
        """End the line that moves; an outcome for each run, in their order."""
        self.progress.say("")
        return [self.outcomes[path] for path in self.runs]


def share_done(run: Run, folder: str | Path) -> float:
    """The share of a run's steps that its log tells of."""
    log = record.folder(run, folder) / "log.jsonl"
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        return json.loads(lines[-1])["step"] / run.steps if lines else 0.0
    except (OSError, ValueError, KeyError):
        return 0.0


def summary(outcomes: Iterable[Outcome]) -> str:
    """A line of counts, and a line for each run that is not done or whose notebook failed."""
    outcomes = list(outcomes)
    counts = Counter(outcome.state for outcome in outcomes)
    lines = [f"  {named(o.run.name, o.run.identity())} ({o.run.key}): {o.state}{': ' if o.error else ''}{o.error}"
             for o in outcomes if o.error or o.exit_code]
    return "\n".join([f"{len(outcomes)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()), *lines])
