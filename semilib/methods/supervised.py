"""Supervised: the labelled images alone, the lower bound of every table.

Follows: cross-entropy on the weak view of the labelled batch; the shared recipe's optimiser, schedule and average.
Differs: nothing. Its steps see B images where a semi-supervised method sees 4 B, so equal steps are not equal compute.
Numbers: cross-entropy of the toy logits [[2, .5, -1], [0, 1, 0]], labels [0, 2]: 0.896378.
"""
from __future__ import annotations

import dataclasses

from semilib.data.step import StepImages
from semilib.methods.base import Method
from semilib.methods.losses import Term, ce
from semilib.options import Options


class Supervised(Method):
    refuses = {"add": "it sees no unlabelled images"}

    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        pass

    @classmethod
    def original(cls, run):
        """USB's supervised runs."""
        return dict(steps=2**18, eval_every=1024, variant="USB", decay="ndim", report="best_on_test")

    def step_images(self) -> StepImages:
        return StepImages({"l": ("labelled", "weak")})

    def pseudo(self, v, batch, t) -> None:
        return None

    def terms(self, v, batch, p, t) -> dict[str, Term]:
        return {"x": Term(ce(v.l["head"], batch.y))}
