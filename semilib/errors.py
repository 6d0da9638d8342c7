"""The package's errors. Those that a user can cause name the field, its value and what would be right."""
from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 120                        # names that a message lists; of more it gives their number
SHOWN = 300                         # characters of a value that a message repeats
# What a part of a method is called that has no option of its name: the option that it goes with, and how.
BANK = "the memory bank goes with plce: with plce=False it is still filled, and nothing reads it"
GOES_WITH = dict.fromkeys(("bank", "memory_bank", "memory", "bcdmb", "prototypes"), ("plce", BANK))


class BadInput(ValueError):
    """A value that cannot be used: `BadInput("gamma_l", 0.5, "a number >= 1")` reads "gamma_l=0.5: a number >= 1"."""

    def __init__(self, field: str, value: object, wanted: str):
        super().__init__(f"{shorter(field)}={shown(value)}: {wanted}")
        self.field, self.value, self.wanted = field, value, wanted


def shown(value: object) -> str:
    """A value as a message repeats it."""
    try:
        return shorter(repr(value))
    except Exception:               # what `repr` raises depends on the value: a number may have too many digits for it
        return f"a value of type {type(value).__name__}"


def shorter(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN // 2]}... ({len(text):,} characters)"


class MethodError(TypeError):
    """A method's code that does not fit the engine: what is wrong in it and what would be right."""


class TrainingError(RuntimeError):
    """A run that cannot go on, or that did not do what its configuration says."""


class NotebookError(RuntimeError):
    """A notebook that stopped with an error. name: the error's. failed: the notebook up to it."""

    def __init__(self, notebook: str, name: str, text: str, failed: str):
        super().__init__(f"{notebook} stopped: {name}: {text}; up to there: {failed}".replace("\n", " "))
        self.name, self.text = name, text


class RunBusy(RuntimeError):
    """Another process is training this run."""


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and that is saved. signal: the number of the signal that asked."""

    def __init__(self, words: str, signal: int):
        super().__init__(words)
        self.signal = signal

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [str(self)]


def check_name(kind: str, name: object, valid: Iterable[object]) -> None:
    """Raise `BadInput` unless `name` is one of `valid`; the message offers the nearest valid name."""
    valid = list(valid)
    if not isinstance(name, str | int | float | None) or name not in valid:
        text = name if isinstance(name, str) else shown(name)
        near = difflib.get_close_matches(text[:SHOWN], map(str, valid), n=3, cutoff=0.4)
        near.sort(key=lambda one: sorted(one) != sorted(text))        # letters that changed places, before other names
        hint = f"did you mean {near[0]!r}? " if near else ""
        option, how = GOES_WITH.get(text.lower(), ("", ""))
        hint = f"{how}; " if option in valid else hint
        known = ", ".join(sorted(map(str, valid))) if len(valid) <= LISTED else f"{len(valid)} names"
        raise BadInput(kind, name, f"unknown; {hint}valid: {known}")
