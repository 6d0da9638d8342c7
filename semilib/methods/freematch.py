"""FreeMatch (Wang et al., ICLR 2023, arXiv 2205.07246): the threshold follows the network's own confidence, globally
and by class. A term keeps the confident predictions of strong views as spread out as those of weak views.

tau, P, H = moving averages over the weak batch of max p, p and the histogram of argmax p, from 1 / C.  They move BEFORE
their use.
    (1) m = [max p >= tau P_y / max P],  y = argmax p
    (2) q = softmax(z_s), over the rows with m = 1:  a = norm(P / H),  b = norm(mean q / hist(argmax q)),  1 / 0 := 0
        L_f = sum_k a_k log(b_k + 1e-12), a negative number; 0 where no row passes; its gradient goes through q
    L = L_x + lambda_u mean m CE(z_s, y) + w_f L_f

Follows: the paper and USB: the mean of the confidences rather than a quantile of them, thresholds not clipped, w_f
    0.001 as in USB's configurations (its code's default, and TorchSSL's variant with this term: 0.01). The momentum
    0.999 is meant for at least 250,000 steps; in a shorter run it is scaled by `momentum_of`, or thresholds would stay
    at 1 / C.
Keeps: nothing of its own recipe, which is balanced (TorchSSL: mu 7, one strong view, 2^20 steps).
Differs: all rows of both strong views enter (2). p is what `pseudo_prob` gives, so SeMi's blend reaches threshold and
    mask; USB's reads the softmax past every alignment. Not followed: TorchSSL's statistics of the TEST set after a
    supervised warm-up (it discards them; the 2,049 supervised steps go with them), its thresholds fixed to [.9, .95] on
    SVHN, its NaN where no row passes.
Numbers: toy rows, momentum 0.9: tau .377338, thresholds [.377338, .371081, .374613], L_u .589777, L_f -1.120043.

On the embedded pictures at 600 steps it is not above Supervised (50.2 +- 4.2 against 51.4 +- 2.8, three seeds). The
threshold begins at 1/C, so early pseudo-labels count whatever they are, most of them of the large classes (tail 8 %).
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, one_hot
from semilib.options import momentum_of, option


class FreeMatch(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        w_f: float = option(0.001, "weight of the fairness term", low=0)
        momentum: float = option(0.999, "momentum of tau, P and H, for 250,000 steps", low=0, high=1)
        quantile: float = option(0.0, "tau follows this quantile of the confidences (USB offers 0.8); 0 = their mean",
                                 low=0, high=1)
        clip: bool = option(False, "tau at most `threshold`, which has no other use here")

    cfg: Config
    tau: Tensor         # 0-dim
    mean: Tensor        # P, [C]
    histogram: Tensor   # H, [C]

    must_act = {**FixMatch.must_act, "free": "no pseudo-label was ever refused: train longer, or lower the momentum"}
    smoke = {"momentum": 0.5}

    @classmethod
    def original(cls, run):
        """TorchSSL with the fairness term; its data are balanced."""
        own = super().original(run)
        return {**own, "eval_every": 5000, "variant": "USB", "strong_pool": "B", "decay": "ndim",
                "report": "best_on_test", "options": {**own["options"], "w_f": 0.01}}

    def build(self):
        super().build()
        even = torch.full((self.info.classes,), 1 / self.info.classes, dtype=self.info.dtype)
        self.momentum = momentum_of(self.cfg.momentum, self.info.steps)
        self.register_buffer("tau", even[0].clone())
        self.register_buffer("mean", even.clone())
        self.register_buffer("histogram", even.clone())

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        confidence = p.prob.max(-1).values
        level = confidence.quantile(self.cfg.quantile) if self.cfg.quantile else confidence.mean()
        now = one_hot(p.label, self.info.classes, p.prob.dtype).mean(0)
        for old, new in ((self.tau, level), (self.mean, p.prob.mean(0)), (self.histogram, now)):
            old.copy_(self.momentum * old + (1 - self.momentum) * new)
        if self.cfg.clip:
            self.tau.clamp_(max=self.cfg.threshold)
        p.mask = (confidence >= (self.tau * self.mean / self.mean.max())[p.label]).to(p.mask.dtype)               # (1)
        return p

    def terms(self, v, batch, p, t):
        fair = self.fairness(v.s["head"].softmax(-1), self.per_view(p.mask))
        return {**super().terms(v, batch, p, t), "fair": Term(fair.unsqueeze(0), scale=self.cfg.w_f)}

    def fairness(self, q: Tensor, mask: Tensor) -> Tensor:
        """L_f of (2), 0-dim: q [S mu B, C] with gradient, mask of the same rows."""
        weight = (mask / mask.sum().clamp(min=1)).unsqueeze(-1)                             # all 0 where no row passes
        histogram = (weight * one_hot(q.argmax(-1), self.info.classes, q.dtype)).sum(0)
        a, b = self.mean * inverse(self.histogram), (weight * q).sum(0) * inverse(histogram)
        b = b / b.sum().clamp(min=1e-12)
        return (mask.sum() > 0) * (a / a.sum() * (b + 1e-12).log()).sum()

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "free": p.mask.min() < 1}


def inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x > 0, 1 / torch.where(x > 0, x, 1.0), 0.0)
