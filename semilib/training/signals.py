"""Signals while a run trains: the first one asks it to stop at the step's end, a second one ends it at once."""
from __future__ import annotations

import os
import signal
import threading
from typing import Any

from semilib.errors import Stopped

# Ctrl-C, the end of a session or terminal, and what queues send before a time limit. Not every system has all.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Stop:
    """Inside, `asked` is the number of the first signal that came, else None.

    A signal that the program ignores, or for which it has a handler of its own, is left alone. So are all outside of
    the main thread, where Python lets nobody handle them.
    """

    def __init__(self):
        self.asked: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            self.__exit__()
            os.kill(os.getpid(), number)
        self.asked = number

    def end(self, step: int, steps: int) -> None:
        """Raise Stopped: the run is saved after `step` of its steps."""
        assert self.asked is not None
        raise Stopped(f"stopped after step {step:,} of {steps:,} and saved: the same command goes on from there",
                      self.asked)
