"""Options: dataclass fields with their sentence and their valid range, and durations that scale with a run's length."""
from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar

from semilib.errors import BadInput, check_name

if TYPE_CHECKING:
    from semilib.training.config import Run

PAPER_STEPS = 250_000
LARGEST = 2**63 - 1             # whole number
Duration = float | int          # a float in (0, 1) is a share of the run, an int a number of steps


def span(steps: int, of: int = PAPER_STEPS) -> float:
    """A duration of the paper's schedule as a share of it: span(3000) = 3,000 of 250,000 steps."""
    return steps / of


def duration_in_steps(duration: Duration, total: int) -> int:
    """A duration in steps of a run of `total` steps. A share is rounded, but never to nothing.
    An int is taken as it is, and so is a share of 0."""
    return int(duration) if isinstance(duration, int) or duration == 0 else max(1, round(duration * total))


def is_share(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is a duration that by default is a share of the run."""
    return field.type in (Duration, "Duration") and isinstance(field.default, float) and 0 < field.default < 1


def momentum_of(momentum: float, total: int, of: int = PAPER_STEPS, least: int = 20) -> float:
    """A moving average's momentum, meant for `of` steps, in a run of `total`.

    Its horizon 1 / (1 - momentum) keeps its share of a shorter run. It is never less than `least` steps, nor more than
    it was.
    """
    horizon = 1 / (1 - momentum) if momentum < 1 else math.inf
    return 1 - 1 / max(horizon * min(1, total / of), min(horizon, least))


def window_of(window: int, total: int, of: int = PAPER_STEPS, least: int = 20) -> int:
    """A window of the last `window` steps, meant for `of` steps, in a run of `total`: scaled as `momentum_of` does."""
    return max(round(window * min(1, total / of)), min(window, least))


def option(default: Any, doc: str, low: float | None = None, high: float | None = None, choices: tuple = (),
           in_key: bool | str = True) -> Any:
    """A field with its sentence and its valid range.

    in_key: False = the field cannot move a number and stays out of the key. "changed" = the field is younger than the
    first records: at its default it stays out of the key, so that those records keep theirs."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices, "in_key": in_key}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """A method's options. Subclasses add fields made by `option`. `presets` names sets of values. `ignored` names
    options that do nothing in this combination of methods, with the reason."""

    ignored: ClassVar[dict[str, str]] = {}

    def __post_init__(self):
        check_fields(self)

    @classmethod
    def presets(cls, run: Run) -> dict[str, dict[str, Any]]:
        """Named sets of values for options={"preset": name}; the first is the default. May depend on the run's cell."""
        return {}

    @classmethod
    def of(cls, given: dict[str, Any], run: Run) -> Options:
        """The options of a run: the preset's values, then those given.
        Raises BadInput for unknown names and bad values."""
        given, presets = dict(given), cls.presets(run)
        values: dict[str, Any] = {}
        if presets:
            preset = given.setdefault("preset", next(iter(presets)))
            check_name("preset", preset, presets)
            values = presets[preset]
        for name in given:
            check_name(f"option of {run.method}", name, [f.name for f in dataclasses.fields(cls)])
        whole = cls(**{**values, **given})
        default = cls(**values)
        for name, why in cls.ignored.items():
            if getattr(whole, name, None) != getattr(default, name, None):
                raise BadInput(name, given[name], f"not given here: {why}")
        return whole


def fields_in_key(obj: Any) -> dict[str, Any]:
    """The fields of a run, or of a method's options, that its key is made of."""
    return {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)
            if f.metadata["in_key"] is True or f.metadata["in_key"] == "changed" and getattr(obj, f.name) != f.default}


_hints: Callable[[type], dict[str, Any]] = functools.cache(typing.get_type_hints)


def check_fields(obj: Any) -> None:
    """Check every field's type, range and choice, as declared by `option`.
    An integer is stored as a float where one is meant."""
    hints = _hints(type(obj))
    for f in dataclasses.fields(obj):
        value, kinds = getattr(obj, f.name), _kinds(hints[f.name])
        if type(value) is int and abs(value) > LARGEST:
            raise BadInput(f.name, value, f"a number of at most 63 bits: {f.metadata['doc']}")
        if type(value) is int and float in kinds and int not in kinds:
            value = float(value)
            object.__setattr__(obj, f.name, value)
        if type(value) not in kinds:
            raise BadInput(f.name, value, f"{in_words(kinds)}: {f.metadata['doc']}")
        low, high, choices = f.metadata["low"], f.metadata["high"], f.metadata["choices"]
        if choices:
            check_name(f.name, value, choices)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
                bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
                raise BadInput(f.name, value,
                               f"{' and '.join(b for b in bounds if b) or 'finite'}: {f.metadata['doc']}")


KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", list: "a list",
         dict: "a dictionary", types.NoneType: "None"}


def in_words(kinds: Collection[type]) -> str:
    """Types as an error names them: "a whole number or None"."""
    named = [kind for kind in kinds if not (kind is int and float in kinds)]
    return " or ".join(KINDS.get(kind, kind.__name__) for kind in named)


def _kinds(hint: Any) -> tuple[type, ...]:
    args = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(a) or a for a in args)
