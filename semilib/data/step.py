"""The words in which a method asks for the images of a step, and what the step then knows of them."""
from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


class Batch:
    """What a step knows of its images besides the views, as attributes; see `Method.pseudo`. A plain class, so that dynamo can trace it."""

    def __init__(self, **fields: Any):
        for name, value in fields.items():
            setattr(self, name, value)


@dataclasses.dataclass(frozen=True)
class Stream:
    """Where a batch comes from. of: "labelled" | "unlabelled" | "union" (both, without repeats). sampler: "shuffled" (without
    replacement, drop last, restarted) or "balanced" (a uniform class, then an image of it). size: images a step; None = the run's
    batch (times mu for the unlabelled set)."""

    of: str
    sampler: str = "shuffled"
    size: int | None = None


@dataclasses.dataclass(frozen=True)
class StepImages:
    """The images of a step. views: name -> (stream, kind), kind "weak" | "strong" | "sim" | "none"; views of one stream show the
    same images. The order of views is the order inside the joint batch. policy: see `Net.views`. Extra streams by name."""

    views: dict[str, tuple[str, str]]
    policy: str = "joint"
    streams: dict[str, Stream] = dataclasses.field(default_factory=dict)

    @property
    def strong(self) -> list[str]:
        """The strong views of the unlabelled batch, in order."""
        return [name for name, (stream, kind) in self.views.items() if stream == "unlabelled" and kind == "strong"]


class Time:
    """Now, as device scalars: `step` int64 0-based; `progress` = step / steps; `phase` (a Python string) names the stage."""

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
