"""Adsh (Guo and Li, ICML 2022): one threshold a class, such that every class keeps the share of its predictions that
the head class keeps at tau.

    (1) y = argmax_k p_k / s_k,  m = [max_k p_k / s_k >= 1];  L as FixMatch's
    (2) at the start of each epoch from the third on the pool is scanned (weak view, the live network in eval mode)
        conf_c[0 ..] = the confidences of the n_c images whose argmax p is class c, in descending order
        rho = #(conf_head >= tau) / n_head,  s_head = tau,  s_c = min(tau, conf_c[max(0, round(n_c rho - 1))])
        a class without predictions keeps its threshold

Follows: the paper and a third party's copy of its release: tau 0.95, lambda_u 1, epochs of 512 of 2^18 steps, the
    scan's network and view. The paper writes exp(-s) for what is s here.
Keeps: nothing (its own recipe: Adam, mu 2, one strong view, a forward pass a view).
Differs: where no image of the head reaches tau the release takes rho = 1, so all predictions of all other classes
    count. By (2) rho is 0, and each keeps its best one (rho_one=True is the release's). The head is the largest
    labelled class, not always class 0. A scan costs a pass over the pool. So in a shorter run an epoch is at least one
    pass, but at most a quarter of the run; an epoch in steps is taken as it is. After the last step there is no scan.
    Not followed are USB's exponent for a first threshold, its argmax of p, its index off by one and its moving head
    threshold.
Numbers: conf [.99 .97 .96 .94 .90 .85 .80 .60], [.98 .91 .70 .65], [.88 .40]: rho .375, s [.95, .95, .88].
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.fixmatch import FixMatch
from semilib.options import Duration, duration_in_steps, option, span


class Adsh(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        epoch: Duration = option(span(512, of=2**18), "steps between scans of the pool", low=0)
        rho_one: bool = option(False, "rho = 1 where no image of the head reaches tau, as released")

    cfg: Config
    s: Tensor           # [C]

    must_act = {**FixMatch.must_act, "adaptive": "no class threshold left tau: lower the threshold, or train longer"}
    bases = ("fixmatch",)
    refuses = {"remixmatch": "it has no threshold for Adsh to adapt"}
    smoke = {"threshold": 0.25, "epoch": 2}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.head, self.epoch = int(info.counts.argmax()), duration_in_steps(cfg.epoch, info.steps)
        if isinstance(cfg.epoch, float):
            self.epoch = max(self.epoch, min(info.n_unlabelled // (info.mu * info.batch), info.steps // 4))

    @classmethod
    def original(cls, run):
        """The DARP family's recipe with mu 2 and 2^18 steps."""
        return dict(mu=2, steps=2**18, eval_every=512, lr=0.002, rate="constant", optimiser="adam", weight_decay=0.02,
                    ema_rule="decaying", strong_pool="C", crop="zero", policy="separate",
                    options=dict(strong_views=1, rho_one=True))

    def build(self):
        super().build()
        self.register_buffer("s", torch.full((self.info.classes,), self.cfg.threshold, dtype=self.info.dtype))

    def durations(self):
        return {**super().durations(), "epoch": self.epoch, "first_scan": 2 * self.epoch}

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        ratio, p.label = (p.prob / self.s).max(-1)                                                                # (1)
        p.target, p.mask = p.label, (ratio >= 1).to(p.mask.dtype)
        return p

    def host_every(self):
        return self.epoch

    def host_work(self, ctx):
        if 2 * self.epoch <= ctx.step < self.info.steps:
            scanned, _, _ = ctx.scan("unlabelled", "weak", ctx.net)
            confidence, label = scanned["head"].softmax(-1).max(-1)
            self.s.copy_(class_thresholds(confidence, label, self.s, self.cfg.threshold, self.head, self.cfg.rho_one))

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "adaptive": self.s.min() < self.s.max()}


def class_thresholds(confidence: Tensor, label: Tensor, s: Tensor, tau: float, head: int,
                     rho_one: bool = False) -> Tensor:
    """(2): thresholds [C] of the predictions of a whole pool, confidence and label [N_u]; s: the thresholds so far."""
    size = torch.bincount(label, minlength=len(s))
    passed = ((label == head) & (confidence >= tau)).sum()
    rho = passed.double() / size[head].clamp(min=1)
    if rho_one:
        rho = torch.where(passed == 0, 1.0, rho)
    order = confidence.argsort(descending=True)
    order = order[label[order].argsort(stable=True)]                             # by class, in it by falling confidence
    rank = (size * rho - 1).round().clamp(min=0).long()                          # half to even, as Python rounds
    found = confidence[order][(size.cumsum(0) - size + rank).clamp(max=len(label) - 1)].clamp(max=tau)
    out = torch.where(size > 0, found, s)
    out[head] = tau
    return out
