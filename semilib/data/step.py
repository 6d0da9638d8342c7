"""The words in which a method asks for the images of a step, and what the step then knows of them."""
from __future__ import annotations

import dataclasses
import inspect
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from semilib.errors import MethodError


class Fields:
    """Named values of one step: those that the class declares, and those that `add` gives it. Writing or reading
    another name raises AttributeError, which lists the names that there are. A plain class, so that dynamo can trace
    it."""

    declared: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        cls.declared = frozenset(inspect.get_annotations(cls))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.declared and name not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}: it has "
                                 f"{', '.join(sorted(self.declared))}; another one is given to it by add({name}=...)")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this step's {type(self).__name__} has no {name!r}: it has "
                             f"{', '.join(self.__dict__) or 'nothing'}")

    def add(self, **more: Any) -> Self:
        """Give it fields that the class does not declare; returns itself. Raises MethodError for a name that it has
        already."""
        for name, value in more.items():
            if name in self.__dict__ or name in self.declared:
                raise MethodError(f"{type(self).__name__} has a field {name!r} already: assign to it, or choose "
                                  "another name")
            object.__setattr__(self, name, value)
        return self

    def with_(self, **changes: Any) -> Self:
        """A shallow copy with some of its fields changed; the original stays as it is."""
        out = object.__new__(type(self))
        for name, value in self.__dict__.items():
            object.__setattr__(out, name, value)
        for name, value in changes.items():
            setattr(out, name, value)
        return out

    def __repr__(self) -> str:
        """Each field's name, dtype and shape."""
        values = ", ".join(f"{name}: {described(value)}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({values})"


class Notes(Fields):
    """What the hooks of one step leave for hooks that run later in it. A new object in each step; any name can be
    written. The docstring of the hook that writes a note names the hook that reads it."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __init__(self, **notes: Any):
        for name, value in notes.items():
            setattr(self, name, value)


class Batch(Fields):
    """What a step knows of its images besides the views; B labelled and mu B unlabelled images.

    y: [B] labels, int64, or float rows [B, C] where a method deals them (CPG). index_l [B], index_u [mu B]: positions
    in the labelled and the unlabelled set, whichever of their images a stream deals; see `Data.places`. known_u: [mu B]
    bool, whether an unlabelled image is also a labelled one. index, targets: the same for every stream by name. A step
    without unlabelled images has no index_u and no known_u.
    """

    y: Tensor
    index_l: Tensor
    index_u: Tensor
    known_u: Tensor
    index: dict[str, Tensor]
    targets: dict[str, Tensor]
    notes: Notes

    def __init__(self, y: Tensor | None = None, index_l: Tensor | None = None, index_u: Tensor | None = None,
                 known_u: Tensor | None = None, index: dict[str, Tensor] | None = None,
                 targets: dict[str, Tensor] | None = None, notes: Notes | None = None):
        for name, value in dict(y=y, index_l=index_l, index_u=index_u, known_u=known_u, index=index, targets=targets,
                                notes=notes or Notes()).items():
            if value is not None:
                setattr(self, name, value)


def described(value: Any) -> str:
    """A value in a few words: dtype and shape of a tensor, the same for each entry of a dictionary, else its repr."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {described(entry)}" for name, entry in value.items()) + "}"
    return repr(value)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Where a batch comes from. of: "labelled" | "unlabelled" | "union" (both, without repeats). sampler: "shuffled"
    (without replacement, drop last, restarted) or "balanced" (a uniform class, then an image of it). size: images a
    step; None = the run's batch (times mu for the unlabelled set)."""

    of: str
    sampler: str = "shuffled"
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class StepImages:
    """The images of a step. views: name -> (stream, kind), kind "weak" | "strong" | "sim" | "none"; views of one stream
    show the same images. The order of views is the order inside the joint batch. policy: see `Net.views`. Extra streams
    by name."""

    views: dict[str, tuple[str, str]]
    policy: str = "joint"
    streams: dict[str, Stream] = dataclasses.field(default_factory=dict)

    @property
    def strong(self) -> list[str]:
        """The strong views of the unlabelled batch, in order."""
        return [name for name, (stream, kind) in self.views.items() if stream == "unlabelled" and kind == "strong"]


class Time:
    """Now, as device scalars: `step` int64 0-based; `progress` = step / steps; `phase` (a Python string) is its
    name."""

    def __init__(self, step: Tensor, total: int, dtype: torch.dtype, phase: str = "main"):
        self.step, self.total, self.dtype, self.phase = step, total, dtype, phase

    @property
    def progress(self) -> Tensor:
        return (self.step.double() / self.total).to(self.dtype)

    def since(self, n: int) -> Tensor:
        """1.0 from step n on, else 0.0."""
        return (self.step >= n).to(self.dtype)

    def ends(self, period: int) -> Tensor:
        """True in the last step of each period (bool, 0-dim)."""
        return (self.step + 1) % period == 0
