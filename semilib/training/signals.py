"""Signals: Ctrl-C, the end of a session or terminal, and what queues send before a time limit.

While a run trains, the first one asks it to stop at the step's end, and a second one ends it at once (`Stop`).
Elsewhere in a command each of them is an exception, so that workers are ended and files closed (`Interrupts`).
"""
from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from semilib.errors import Stopped

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")               # not every system has all


def interrupt(number: int, frame: Any) -> None:
    raise Stopped("stopped: the same command goes on where this one was", number)


class Handlers:
    """Inside, `handle` is called for a signal that the program leaves to the system or to Python.

    One that it ignores, or for which it has a handler of its own, is left alone. So are all outside of the main thread,
    where Python lets nobody handle them.
    """

    def __init__(self, handle: Callable[[int, Any], None]):
        self.handle = handle
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Any:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, interrupt):
                    self.before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Interrupts(Handlers):
    """Inside, a signal raises Stopped."""

    def __init__(self):
        super().__init__(interrupt)


class Stop(Handlers):
    """Inside, `asked` is the number of the first signal that came, else None."""

    def __init__(self):
        super().__init__(self._ask)
        self.asked: int | None = None

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            self.__exit__()
            os.kill(os.getpid(), number)
        self.asked = number

    def end(self, step: int, steps: int) -> None:
        """Raise Stopped: the run is saved after `step` of its steps."""
        assert self.asked is not None
        raise Stopped(f"stopped after step {step:,} of {steps:,} and saved: the same command goes on from there",
                      self.asked)
