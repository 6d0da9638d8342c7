"""ABC (Lee, Shin and Kim, NeurIPS 2021, arXiv 2110.10368): an auxiliary balanced classifier on the base's features,
whose losses leave out images of frequent classes at random.

z = the base's head, z^b = the balanced head (it trains the backbone too), N = labelled class counts, e = progress of
the run.
    (1) L_b = mean b CE(z^b_x, y),  b ~ Bernoulli(N_min / N_y)
    (2) q = softmax(z^b_weak),  y^b = argmax q,  m^b = [max q >= tau]
    (3) b_u ~ Bernoulli(1 - e (1 - N_min / N_{y^b})): all images at first, balanced at the end; one draw for all views
        of an image
    (4) L_u^b = sum over the strong views of mean m^b b_u CE(z^b_strong, q)
    L = the base's loss + L_b + L_u^b; the balanced head predicts. Left-out rows count in the means.

Follows: the release: tau 0.95 for both heads, the soft target q, the views' losses summed, no extra weight.
Keeps: that sum: the balanced head's unsupervised term weighs as much as the views are many, where the base takes their
    mean.
Differs: e is the step's share of the run (released: of whole epochs, over 500 whatever their number); N_min is the
    smallest class, not the last; the logarithm of a softmax is taken safely. USB trains the balanced head on hard
    labels of one view: soft_target=False with strong_views=1. ReMixMatch's version is given x, w, s1 and s2 unmixed;
    the release's annealing of (1) for step-wise counts and its inverted alignment flag there are not followed.
Numbers: N [100, 30, 10]: rates [.1, .333333, 1], unlabelled at e = 1/2 [.55, .666667, 1]; toy rows L_b .786158, L_u^b
    .289 + .239593.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data import rng
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce
from semilib.networks.net import linear
from semilib.options import option


class ABC(FixMatch):
    bases = ("fixmatch", "remixmatch")
    unmixed = ("l", "s1", "s2")
    uses = ("threshold",)

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        lambda_b: float = option(1.0, "weight of the balanced head's two terms", low=0)
        soft_target: bool = option(True, "the balanced head learns q; off: its argmax")

    cfg: Config
    rates: Tensor       # [C]

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.must_act = {**self.must_act, "u_b": "no pseudo-label of the balanced head reached the threshold: lower "
                                                 "it, or train longer"}

    @classmethod
    def original(cls, run):
        """The release's, which is DARP's: Adam at 0.002, decay by the average, a pass a view; it logs every epoch and
        averages none. On FixMatch and CIFAR-100 its pool holds the labelled images."""
        own = dict(lr=0.002, rate="constant", optimiser="adam", weight_decay=0.02, ema_rule="decaying", strong_pool="C",
                   crop="zero", labelled_in_unlabelled=False, report="last")
        if run["base"] == "remixmatch":
            return dict(own, policy="interleave", options=dict(labelled_view="strong", ramp=1.0))
        return dict(own, policy="separate", labelled_in_unlabelled=run["dataset"] == "cifar100")

    def heads(self):
        return {**super().heads(), "balanced": linear(self.info.features, self.info.classes)}

    def build(self):
        super().build()
        counts = self.info.counts.double()
        self.register_buffer("rates", (counts.min() / counts).to(self.info.dtype))

    def unlabelled_rates(self, t) -> Tensor:
        return 1 - t.progress * (1 - self.rates)                                                               # (3)

    def toss(self, name: str, rate: Tensor, t) -> Tensor:
        """1 with probability `rate`, else 0, for each row."""
        words = rng.words(self.info.seed, f"abc/{name}", t.step, len(rate), 1, rate.device)
        return (rng.uniform(words[:, 0]) < rate).to(rate.dtype)

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        q = v.w["balanced"].softmax(-1)                                                                        # (2)
        confidence, label_b = q.max(-1)
        p.add(label_b=label_b, target_b=q if self.cfg.soft_target else label_b,
              mask_b=(confidence >= self.cfg.threshold).to(q.dtype),
              keep_x=self.toss("labelled", self.rates[batch.y], t),                                            # (1)
              keep_u=self.toss("unlabelled", self.unlabelled_rates(t)[label_b], t))
        p.branches = {**p.branches, "u_b": q}
        return p

    def terms(self, v, batch, p, t):
        views = len(self.step_images().strong)
        return {**super().terms(v, batch, p, t),
                "x_b": Term(ce(v.l["balanced"], batch.y), p.keep_x, scale=self.cfg.lambda_b),
                "u_b": Term(ce(v.s["balanced"], self.per_view(p.target_b)), self.per_view(p.mask_b * p.keep_u),
                            scale=views * self.cfg.lambda_b)}                                                  # (4)

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "u_b": torch.sum(p.mask_b * p.keep_u) > 0}

    def predict(self, net, x):
        return net(x)["balanced"]
