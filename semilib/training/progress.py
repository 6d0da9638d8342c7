"""Live progress of runs: a line in a terminal, one updating output in a notebook, a file that a launcher follows.

No widgets: a notebook keeps a single plain output, so a saved or rendered one shows the last state as text.
"""
from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semilib.files import write_text
from semilib.training import metrics

if TYPE_CHECKING:
    from semilib.training.config import Run

FILE = "SEMILIB_PROGRESS"         # environment variable: where to leave the latest line for a launcher


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    seconds = int(round(seconds))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def result_text(run: Run, result: dict[str, Any]) -> str:
    """A finished run's result as the end of a line: its number, and the parts of its method that never acted. A folder
    of pictures may have few to test on, so there their number is said."""
    idle = ", ".join(result.get("never_acted", ()))
    few = run.dataset == "imagefolder"
    counted = f"  last: {metrics.counted(*result['right'])}" if few else ""
    digits = metrics.decimals(result["right"][1]) if few else 1
    return f"  balanced accuracy {result['mean_last']:.{digits}%}{counted}" + (f"  never acted: {idle}" if idle else "")


class Progress:
    """Silent progress that only follows the time; `of` runs are expected. Subclasses show `lines()`."""

    period = 1.0

    def __init__(self, of: int = 1, names: Mapping[str, str] | None = None):
        """names: what runs are called, by key, where a table has a name for them."""
        self.of, self.index, self.names = of, 0, names or {}
        self.finished: list[str] = []
        self.seconds: list[float] = []                     # that each run took which was done here
        self.now, self.shown = "", 0.0
        self.file = os.environ.get(FILE)

    def begin(self, run: Run, start: int) -> None:
        self.index += 1
        self.start, self.began, self.shown = start, time.perf_counter(), 0.0
        self.say(f"{self._head(run)} starting" + (f" again at step {start}" if start else ""))

    def due(self, now: float) -> bool:
        return now - self.shown >= self.period

    def step(self, run: Run, done: int, losses: dict[str, float], accuracy: float | None) -> None:
        """done steps of the run; mean losses since the last evaluation; balanced accuracy of the last evaluation. The
        time left is that of all runs, of which the next ones are taken to last as long as those before them."""
        self.shown = time.perf_counter()
        rate = max(1e-9, (done - self.start) / max(1e-9, self.shown - self.began))
        score = "" if accuracy is None else f"  balanced accuracy {accuracy:.1%}"
        each = statistics.fmean(self.seconds) if self.seconds else run.steps / rate
        left = clock((run.steps - done) / rate + max(0, self.of - self.index) * each)
        self.say(f"{self._head(run)}  step {done}/{run.steps}  loss {sum(losses.values()):.3f}{score}"
                  f"  {rate:.1f} steps/s  {'about ' if self.of > 1 else ''}{left} left")

    def end(self, run: Run, status: str, result: dict[str, Any] | None = None) -> None:
        if status == "done":
            self.seconds.append(time.perf_counter() - self.began)
        self.finished.append(f"{self._head(run)}  {status}{result_text(run, result) if result else ''}")
        self.say("")

    def reused(self, run: Run, result: dict[str, Any]) -> None:
        """A run that was finished before."""
        self.index += 1
        self.end(run, "done before", result)

    def working(self, text: str) -> None:
        """Work before a run's first step; a line of it is shown when one is due."""
        if self.due(time.perf_counter()):
            self.shown = time.perf_counter()
            self.say(text)

    def note(self, text: str) -> None:
        """A sentence that stays in view."""
        self.finished.append(text)
        self.say("")

    def name(self, run: Run) -> str:
        """What a run is called: as in its table, such as "without OHEML, seed 2", else by its protocol and method."""
        return self.names.get(run.key, run.name) if self.names else run.name

    def _head(self, run: Run) -> str:
        return f"[{self.index}/{self.of}] {self.name(run)}"

    def lines(self) -> list[str]:
        return self.finished + ([self.now] if self.now else [])

    def say(self, line: str) -> None:
        """Let the line that moves be this one, here and for who follows the file."""
        self.now = line
        if self.file:
            with contextlib.suppress(OSError):             # a follower may hold the file open; the next line comes soon
                write_text(Path(self.file), json.dumps({"finished": self.finished, "now": self.now}))
        self.show()

    def show(self) -> None:
        pass


class Terminal(Progress):
    """One line that overwrites itself where the output is a terminal; elsewhere a line every ten seconds."""

    def __init__(self, of: int = 1, names: Mapping[str, str] | None = None, stream=None):
        super().__init__(of, names)
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.period = 0.5 if self.live else 10.0
        self.printed = 0

    def show(self) -> None:
        self.print_lines(self.finished, self.now)

    def print_lines(self, finished: list[str], now: str) -> None:
        for line in finished[self.printed:]:
            self.stream.write(("\r\x1b[K" if self.live else "") + line + "\n")
        self.printed = len(finished)
        if now:
            self.stream.write(f"\r\x1b[K{now}" if self.live else now + "\n")
        self.stream.flush()


class Notebook(Progress):
    """One output of the running cell, replaced as the runs go on."""

    def __init__(self, of: int = 1, names: Mapping[str, str] | None = None):
        super().__init__(of, names)
        self.handle: Any = None                            # until there is something to say

    def show(self) -> None:
        from IPython.display import display
        text = Text("\n".join(self.lines()))
        if self.handle is None:
            self.handle = display(text, display_id=True)
        else:
            self.handle.update(text)


class Text:
    """Plain text that a notebook shows without quotes."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def automatic(of: int = 1, names: Mapping[str, str] | None = None) -> Progress:
    """Notebook inside a kernel, else Terminal."""
    try:
        from IPython import get_ipython
        kernel = get_ipython() is not None and "IPKernelApp" in get_ipython().config
    except ImportError:
        kernel = False
    return (Notebook if kernel else Terminal)(of, names)
