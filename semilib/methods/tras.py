"""TRAS (Wei, Liu, Shi, Tu, Guo, Machine Learning 2022, arXiv 2205.13358): FixMatch's logits, enhanced in the tail,
teach a second, balanced head.

z = main head, z^b = balanced head, pi = labelled prior.
    (1) la = log pi^tau,  T_k = A softmax(-la)_k + B        larger for the tail
    (2) main      p = softmax(z_w - la),  y = argmax p,  m = [max p >= threshold];  L_x and L_u as FixMatch
    (3) balanced  L_x^b = mean CE(z^b_x + la, y_x)
    (4) teacher   y^b = argmax z^b_w,  m^b = [max softmax(z^b_w) >= threshold]
                  q = softmax((z_s - T_{y^b} la) / 2), no gradient
                  L_u^b = mean over all strong rows of m^b (-sum_k q_k log softmax(z^b_s)_k)
    L = L_x + L_u, after the warm-up + L_x^b + L_u^b;  prediction by the main head in the warm-up, then by the balanced.

Follows: the release: A 2, B 2, tau 1, threshold 0.95, two strong views, each with a teacher from the main head's logits
    of that view. USB's port is not followed: its la has the wrong sign (it favours the head), and its teacher reads the
    weak logits of the second head.
Keeps: nothing.
Differs: pi is counted exactly; the release counts one pass of a drop-last loader (droplast_prior). The release's
    warm-up is a constant of its code, "epoch > 10" counted from 0, so 11 epochs of 500 steps. Here it is an option, and
    a share of the run.
Numbers: toy tensors of the tests: T [2.139535, 2.465116, 3.395349], L_x^b 1.109878, L_u^b .826825 (one view).
"""
from __future__ import annotations

import dataclasses

from torch import Tensor

from semilib.methods.base import LeadIn, Phase
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, log_prior
from semilib.networks.net import linear
from semilib.options import Duration, duration_in_steps, option, span


class TRAS(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        tau: float = option(1.0, "exponent of the prior in la", low=0)
        a: float = option(2.0, "A, how much the enhancement differs between classes", low=0)
        b: float = option(2.0, "B, the enhancement that all classes get", low=0)
        temperature: float = option(2.0, "temperature of the teacher", low=1e-3)
        warmup: Duration = option(span(5500), "steps without the balanced head; 0 = none", low=0)
        droplast_prior: bool = option(False, "count the prior over one drop-last pass, as released")

    cfg: Config
    la: Tensor            # [C]
    enhancement: Tensor   # T, [C]

    must_act = {**FixMatch.must_act,
                  "u_b": "the balanced head was never sure enough to be taught: lower the threshold, train longer, or "
                         "shorten the warm-up"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.warmup = duration_in_steps(cfg.warmup, info.steps)

    @classmethod
    def original(cls, run):
        """The release's, which is DARP's: Adam at 0.002, decay by the average, a pass a view.
        Labelled images are in the pool on CIFAR-100 alone."""
        return dict(optimiser="adam", lr=0.002, rate="constant", ema_rule="decaying", weight_decay=0.02,
                    policy="separate", strong_pool="C", crop="zero",
                    labelled_in_unlabelled=run["dataset"] == "cifar100",
                    options=dict(droplast_prior=True))

    def heads(self):
        return {**super().heads(), "balanced": linear(self.info.features, self.info.classes)}

    def build(self):
        super().build()
        prior = self.info.prior(drop_last=self.cfg.droplast_prior)
        self.register_buffer("la", log_prior(prior, self.cfg.tau))
        self.register_buffer("enhancement", self.cfg.a * (-self.la).softmax(-1) + self.cfg.b)                      # (1)

    def durations(self):
        return {**super().durations(), "warmup": LeadIn(self.warmup)}

    def phases(self):
        return [Phase("warmup"), Phase("balanced", self.warmup)] if self.warmup else [Phase("balanced")]

    def pseudo_logits(self, v, batch, t) -> Tensor:
        return super().pseudo_logits(v, batch, t) - self.la                                                        # (2)

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        if self.phase == "balanced":
            prob_b = v.w["balanced"].softmax(-1)
            confidence, label_b = prob_b.max(-1)
            enhanced = v.s["head"] - self.per_view(self.enhancement[label_b]).unsqueeze(-1) * self.la              # (4)
            p.add(label_b=label_b, mask_b=(confidence >= self.cfg.threshold).to(prob_b.dtype),
                  target_b=(enhanced / self.cfg.temperature).softmax(-1))
            p.branches["u_b"] = prob_b
        return p

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        if self.phase == "balanced":
            out["x_b"] = Term(ce(v.l["balanced"] + self.la, batch.y))                                              # (3)
            out["u_b"] = Term(ce(v.s["balanced"], p.target_b), self.per_view(p.mask_b))
        return out

    def acted(self, v, batch, p, t, terms):
        out = super().acted(v, batch, p, t, terms)
        return {**out, "u_b": p.mask_b.sum() > 0} if self.phase == "balanced" else out

    def predict(self, net, x: Tensor) -> Tensor:
        return net(x)["balanced" if self.phase == "balanced" else "head"]
