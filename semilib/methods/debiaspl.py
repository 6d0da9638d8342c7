"""DebiasPL (Wang et al., CVPR 2022, arXiv 2201.01490): take the network's average prediction out of the pseudo-labels,
and ask for a larger margin where that average is small.

q: moving average of the raw prediction softmax(z_w) over all rows, from 1 / C; it moves between (1) and (2)
    (1) p = softmax(z_w - tau log q)  (the old q),  y = argmax p,  m = [max p >= threshold]
    (2) L_u = mean m CE(z_s + tau log q, y)  (the new q)
    (3) L_cld = mean CE(softmax(z_s) G^T / 0.07, k),  k: the class to which a weak row is assigned, G_k: mean prediction
        of its rows
    L = L_x + lambda_u L_u + lambda_cld L_cld;  test: plain logits

Follows: the paper's equations and the release's momentum 0.999 (meant for at least 250,000 steps, so scaled by
    `momentum_of` in a shorter run, where q would otherwise stay uniform). Only ImageNet code was released (tau 0.4,
    threshold 0.8, lambda_u 10, lambda_cld 0.3, mu 5): for long-tailed CIFAR the values are OURS: tau 0.4, which the
    release's scripts and USB share; threshold 0.95 and lambda_u 1 (FixMatch's, as of every method here that stands on
    it: ImageNet's weight of 10 goes with batches of 1% labelled images); no CLD, so that what is measured is (1) and
    (2).
Keeps: nothing.
Differs: USB's averages p over classes too, so its q stays 1 / C: a no-op, not followed. (3) as released assigns by the
    LEAST probability (cld_assign="argmin"; argmax, the default here, was probably meant). A class without a weak row
    takes no part in it; the release keeps a centroid of zeros for it (cld_empty="zero"), which at 100 classes raised a
    loss of 4.17 to 4.78. The release's strong rows have the margin of (2) there, those of the paper's (3) have none
    (cld_margin). lambda_cld 0 turns it off. The release's `multiviews` (two weak views) and `masked-qhat` (of a
    wrong shape) are left out. On ReMixMatch the margin of (2) stands on each student of the unlabelled images, mixed
    and unmixed, and (1) takes the place of the base's alignment, which corrects for the same average: with both
    (align=True) trial runs of two seeds end at a balanced accuracy of .40 and .41, with (1) alone at .45 and .44, with
    the alignment alone at .42 and .41; under USB's ramp both together did not learn at all.
Numbers: q [.6, .3, .1]: y [0, 1, 2, 2] on the tests' toy rows, then momentum 0.9: q [.575999, .300428, .123573], L_u
    .362736.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.errors import BadInput
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, one_hot
from semilib.networks.net import View, Views
from semilib.options import momentum_of, option

STUDENTS = ("s", "s1", "s2", "mixed_s1", "mixed_s2", "mixed_w")


class DebiasPL(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        tau: float = option(0.4, "strength of (1) and of the margin (2)", low=0)
        momentum: float = option(0.999, "momentum of q, for 250,000 steps", low=0, high=1)
        lambda_cld: float = option(0.0, "weight of (3); 0 = none (ImageNet release: 0.3)", low=0)
        cld_assign: str = option("argmax", "how (3) assigns a weak row: argmax, or argmin as released",
                                 choices=("argmax", "argmin"))
        cld_empty: str = option("out", "a class without a weak row in (3): out, or a centroid of zeros as released",
                                choices=("out", "zero"), in_key="changed")
        cld_margin: bool = option(False, "the strong rows of (3) have the margin of (2), as released", in_key="changed")
        align: bool = option(False, "on ReMixMatch: its alignment, after (1)")

    cfg: Config
    q: Tensor           # [C]

    bases = ("fixmatch", "remixmatch")

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        if cfg.align and not hasattr(self, "align"):
            raise BadInput("align", cfg.align, "False on a base without an alignment")
        if cfg.tau > 0:
            self.must_act = {**self.must_act, "debias": "q never changed a pseudo-label: train longer, or raise tau"}

    @classmethod
    def original(cls, run):
        raise BadInput("recipe", "original", "shared: only its ImageNet code was released, and no recipe for these "
                                             "data sets")

    def build(self):
        super().build()
        self.q_momentum = momentum_of(self.cfg.momentum, self.info.steps)
        self.register_buffer("q", torch.full((self.info.classes,), 1 / self.info.classes, dtype=self.info.dtype))

    def pseudo_logits(self, v, batch, t):
        """(1), [mu B, C]; moves q. Note: `debiased`, whether q changed a label, for `acted`."""
        z = super().pseudo_logits(v, batch, t)
        debiased = z - self.cfg.tau * self.log_q()                                                             # (1)
        batch.notes.debiased = (debiased.argmax(-1) != z.argmax(-1)).any()
        self.q.copy_(self.q_momentum * self.q + (1 - self.q_momentum) * z.softmax(-1).mean(0))
        return debiased

    def terms(self, v, batch, p, t):
        margin = self.cfg.tau * self.log_q()                                                                   # (2)
        students = {name: x for name, x in v.items() if name in STUDENTS}
        shifted = {name: View({**x, "head": x["head"] + margin}, x.f, x.map) for name, x in students.items()}
        out = super().terms(Views({**v, **shifted}, []), batch, p, t)
        if self.cfg.lambda_cld > 0:
            strong = v.s["head"] + margin if self.cfg.cld_margin else v.s["head"]
            rows = self.cld(strong.softmax(-1), v.w["head"].detach().softmax(-1))
            out["cld"] = Term(rows, scale=self.cfg.lambda_cld)
        return out

    def log_q(self) -> Tensor:
        """log q, [C]; finite where a class has had no probability for so long that q is 0."""
        return self.q.clamp(min=torch.finfo(self.q.dtype).tiny).log()

    def cld(self, strong: Tensor, weak: Tensor) -> Tensor:
        """Rows of (3), [S mu B]: strong [S mu B, C] with gradient, weak [mu B, C]."""
        k = weak.argmax(-1) if self.cfg.cld_assign == "argmax" else weak.argmin(-1)
        members = one_hot(k, self.info.classes, weak.dtype)
        size = members.sum(0)
        centroids = members.T @ weak / size.clamp(min=1).unsqueeze(-1)
        z = strong @ centroids.T / 0.07
        if self.cfg.cld_empty == "out":
            z = z.masked_fill(size == 0, float("-inf"))
        return ce(z, k.repeat(len(strong) // len(k)))

    def acted(self, v, batch, p, t, terms):
        out = super().acted(v, batch, p, t, terms)
        return {**out, "debias": batch.notes.debiased} if self.cfg.tau > 0 else out
