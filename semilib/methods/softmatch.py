"""SoftMatch (Chen et al., ICLR 2023, arXiv 2301.10921): no threshold: a pseudo-label's weight is a truncated Gaussian
of its confidence, whose centre and width follow the network.

    (1) c = max p;  mu, var: moving averages of the batch's mean and unbiased variance of c, from 1 / C and 1, moved
        before use
    (2) pA = norm(p (target + 1e-6) / (pbar + 1e-6)),  target uniform,  pbar: moving average of the batch's mean p
    (3) w = exp(-min(max pA - mu, 0)^2 n_sigma^2 / (2 var)),  y = argmax z_weak, before the alignment
    L = L_x + lambda_u mean w CE(z_s, y)

Follows: the paper and its first release (TorchSSL) in (1): mu and var are those of p before the alignment; USB for the
    uniform target of (2): momentum 0.999 (meant for at least 250,000 steps, so scaled by `momentum_of` in a shorter
    run, which would otherwise keep var near 1 and all weights at 1), n_sigma 2, lambda_u 1. The first batch sets pbar.
Keeps: nothing of its own recipe, which is balanced (TorchSSL: mu 7, one strong view, 2^20 steps).
Differs: align="labelled" is TorchSSL's target, a moving average of the predictions on labelled images (from uniform).
    It keeps USB's start of pbar and 1e-6 of (2), which TorchSSL has not. statistics="aligned" is USB's (1), which takes
    c from pA. USB's per_class statistics do not run there and are left out.
Numbers: toy rows, momentum 0.9: mu .377338, var .90647; with mu .8 and var .04 without alignment weights [1, 1, 1,
    .00036], L_u .339381.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.base import Pseudo
from semilib.methods.fixmatch import FixMatch
from semilib.options import momentum_of, option


class SoftMatch(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        n_sigma: float = option(2.0, "how many widths make the Gaussian", low=0)
        momentum: float = option(0.999, "momentum of mu, var, pbar and the labelled target, for 250,000 steps", low=0,
                                 high=1)
        align: str = option("uniform", "target of the alignment", choices=("uniform", "labelled", "none"))
        statistics: str = option("raw", "mu and var of the confidences before (raw) or after the alignment (aligned)",
                                 choices=("raw", "aligned"))

    cfg: Config
    mu: Tensor          # 0-dim
    var: Tensor         # 0-dim
    mean: Tensor        # pbar, [C]; all zero: no batch yet
    target: Tensor      # [C]

    must_act = {"u": "lambda_u is 0", "soft": "no weight ever fell below 0.99: train longer, or lower the momentum"}
    refuses = {"add": "its labels are read before `pseudo_prob` and its weights are no mask: a blend would not reach "
                      "the labels, and no row is without a pseudo-label"}
    smoke = {"momentum": 0.8}

    @classmethod
    def original(cls, run):
        """TorchSSL, whose data are balanced. The alignment is USB's: pbar starts as the first batch's mean, where
        TorchSSL starts it uniform, and 1e-6 is added in (2), where TorchSSL adds nothing."""
        own = super().original(run)
        return {**own, "eval_every": 5000, "variant": "USB", "strong_pool": "B", "decay": "ndim",
                "report": "best_on_test", "options": {**own["options"], "align": "labelled"}}

    def build(self):
        super().build()
        self.momentum = momentum_of(self.cfg.momentum, self.info.steps)
        even = torch.full((self.info.classes,), 1 / self.info.classes, dtype=self.info.dtype)
        self.register_buffer("mu", even[0].clone())
        self.register_buffer("var", torch.ones_like(even[0]))
        self.register_buffer("mean", torch.zeros_like(even))
        self.register_buffer("target", even)

    def pseudo_prob(self, prob, v, batch, t):
        prob, k = super().pseudo_prob(prob, v, batch, t), self.momentum
        now = prob.mean(0)
        self.mean.copy_(torch.where(self.mean.sum() > 0, k * self.mean + (1 - k) * now, now))
        if self.cfg.align == "labelled":
            self.target.copy_(k * self.target + (1 - k) * v.l["head"].softmax(-1).mean(0))
        if self.cfg.align == "none":
            return prob
        aligned = prob * (self.target + 1e-6) / (self.mean + 1e-6)                                             # (2)
        return aligned / aligned.sum(-1, keepdim=True)

    def pseudo(self, v, batch, t):
        raw = self.pseudo_logits(v, batch, t).softmax(-1)
        prob, k = self.pseudo_prob(raw, v, batch, t), self.momentum
        c = (raw if self.cfg.statistics == "raw" else prob).max(-1).values
        self.mu.copy_(k * self.mu + (1 - k) * c.mean())                                                        # (1)
        self.var.copy_(k * self.var + (1 - k) * c.var())
        below = (prob.max(-1).values - self.mu).clamp(max=0)
        weight = torch.exp(-(below * self.cfg.n_sigma) ** 2 / (2 * self.var.clamp(min=1e-12)))                 # (3)
        label = raw.argmax(-1)
        return Pseudo(prob=prob, label=label, target=label, mask=weight, branches={"u": prob})

    def acted(self, v, batch, p, t, terms):
        return {"u": torch.as_tensor(terms["u"].scale) > 0, "soft": p.mask.min() < 0.99}
