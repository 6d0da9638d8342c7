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

# USB's schedule on ImageNet-127, the same for all its methods.
USB_IMAGENET127 = dict(steps=500_000, eval_every=2500, batch=256, lr=0.1, weight_decay=1e-4)


class Supervised(Method):
    refuses = {"add": "it sees no unlabelled images"}

    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        pass

    @classmethod
    def original(cls, run):
        """USB's supervised runs."""
        own = dict(steps=2**18, eval_every=1024, variant="USB", decay="ndim", report="best_on_test")
        return {**own, **USB_IMAGENET127} if run["dataset"] == "imagenet127" else own

    def step_images(self) -> StepImages:
        return StepImages({"l": ("labelled", "weak")})

    def pseudo(self, v, batch, t) -> None:
        return None

    def terms(self, v, batch, p, t) -> dict[str, Term]:
        return {"x": Term(ce(v.l["head"], batch.y))}
