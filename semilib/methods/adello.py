"""ADELLO (Sanchez Aimar, Helgesen, Xu, Kuhlmann and Felsberg, ECCV 2024, arXiv 2306.04621): flexible distribution
alignment. Offsets on FixMatch's logits let the RAW logits model a target prior that moves from the unlabelled one,
estimated while training, to nearly uniform; rows below the threshold learn from soft targets.

pi = labelled prior; u: moving average of softmax(z_w) over all unlabelled rows, from 1 / C; it moves AFTER the losses;
r = progress
    (1) alpha = 1 - (1 - alpha_min) r^k,  target g = norm(u^alpha),
        D_s = log pi - log g,  D_u = log u - log g   (1e-9 added to each)
    (2) L_x = mean CE(z_x + D_s, y)
    (3) p = softmax(z_w),  y = argmax p,  m = [max p >= threshold];  L_u = mean m CE(z_s + D_u, y)
    (4) L_d = mean (1 - m) CE((z_s + D_u) / T, norm(p^(1/T))), from the end of the warm-up on;  T = 1
    L = L_x + lambda_u L_u + lambda_d L_d;  test: raw logits

Follows: the release's configurations, alike for all CIFAR cells: alpha_min 0.1, k 2, threshold 0.95, momentum of u
    0.999, lambda_u = lambda_d = 1, T 1. The warm-up of (4) is 50,000 of its 262,144 steps (none for STL-10: warmup=0).
Keeps: the warm-up as that share of the run. The momentum is meant for 250,000 steps or more and is scaled in a shorter
    run (`momentum_of`): otherwise u would stay uniform there, and D_u nothing.
Differs: slides and poster show a temperature for (4) that the code has and no configuration turns on: T =
    exp(KL(uniform || u)), taken once at the end of the warm-up from the u that this step moves (imbalance_temperature).
    u counts the labelled images of the pool too, as every released configuration does (exclude_labelled leaves them
    out). u is in every checkpoint; a resumed release begins it anew. Not here: the release's unused variants (the true
    prior in the place of u, alpha by the epoch, (4) on all rows). SeMi's modules act on p: their blend reaches the soft
    target, their entropy weight both unsupervised terms; u follows the raw predictions.
Numbers: toy tensors, u [.5, .3, .2], r = 1/2: D_u [.079118, -.035818, -.127048], L_x 1.116622, L_u .324867, L_d
    .405635; T 1.072766.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.base import LeadIn
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce
from semilib.options import Duration, duration_in_steps, momentum_of, option, span

EPS = 1e-9


class ADELLO(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        alpha_min: float = option(0.1, "alpha at the end of the run: 0 = a uniform target, 1 = always u", low=0, high=1)
        alpha_power: float = option(2.0, "k: how late alpha falls", low=0)
        warmup: Duration = option(span(50_000, of=2**18), "steps without the soft term; 0 = none", low=0)
        lambda_d: float = option(1.0, "weight of the soft term (4)", low=0)
        momentum: float = option(0.999, "momentum of u, for 250,000 steps", low=0, high=1)
        imbalance_temperature: bool = option(False, "T from u at the end of the warm-up; off: T = 1")
        exclude_labelled: bool = option(False, "u without the labelled images of the pool")

    cfg: Config
    prior: Tensor         # [C]
    u: Tensor             # [C]
    temperature: Tensor   # 0-dim

    smoke = {"threshold": 0.25}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.warmup = duration_in_steps(cfg.warmup, info.steps)
        self.momentum = momentum_of(cfg.momentum, info.steps)
        if cfg.alpha_min < 1:
            self.must_act = {**self.must_act, "shift": "u stayed uniform, or alpha 1: train longer, or lower momentum "
                                                       "or alpha_min"}
        if cfg.lambda_d > 0:
            self.must_act = {**self.must_act, "d": "every pseudo-label counted after the warm-up: raise the threshold"}

    @classmethod
    def original(cls, run):
        """The release's, built on USB: mu 2, one strong view, a constant rate; its pool holds the labelled images, and
        on STL-10 the soft term acts from the start."""
        stl = run["dataset"] == "stl10"
        return dict(mu=2, steps=2**18, eval_every=1024, rate="constant", variant="USB", strong_pool="B", decay="ndim",
                    labelled_in_unlabelled=True, options=dict(strong_views=1, **(dict(warmup=0) if stl else {})))

    def build(self):
        super().build()
        prior = self.info.prior()
        self.register_buffer("prior", prior)
        self.register_buffer("u", torch.full_like(prior, 1 / len(prior)))
        self.register_buffer("temperature", torch.ones_like(prior[0]))

    def durations(self):
        return {**super().durations(), "warmup": LeadIn(self.warmup)}

    def offsets(self, t) -> tuple[Tensor, Tensor]:
        """D_s and D_u of (1), [C] each."""
        alpha = 1 - (1 - self.cfg.alpha_min) * t.progress**self.cfg.alpha_power
        target = self.u**alpha / (self.u**alpha).sum()
        return ((self.prior + EPS) / (target + EPS)).log(), ((self.u + EPS) / (target + EPS)).log()            # (1)

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        if self.cfg.imbalance_temperature:
            now = imbalance(self.moved(v, batch))                                       # u after the move of this step
            self.temperature.copy_(torch.where(t.step == self.warmup, now, self.temperature))
        soft = p.prob ** (1 / self.temperature)
        offset_x, offset_u = self.offsets(t)
        p.add(target_d=soft / soft.sum(-1, keepdim=True), offset_x=offset_x, offset_u=offset_u)
        p.branches["d"] = p.prob
        return p

    def terms(self, v, batch, p, t):
        z, mask = v.s["head"] + p.offset_u, self.per_view(p.mask)
        return {"x": Term(ce(v.l["head"] + p.offset_x, batch.y)),                                              # (2)
                "u": Term(ce(z, self.per_view(p.target)), mask, scale=self.cfg.lambda_u),                      # (3)
                "d": Term(ce(z / self.temperature, self.per_view(p.target_d)), 1 - mask,
                          scale=self.cfg.lambda_d * t.since(self.warmup))}                                     # (4)

    def moved(self, v, batch) -> Tensor:
        """u after this step, [C]."""
        prob = v.w["head"].softmax(-1)
        rows = ~batch.known_u.unsqueeze(-1) if self.cfg.exclude_labelled else torch.ones_like(prob[:, :1])
        now = (prob * rows).sum(0) / rows.sum().clamp(min=1)
        return torch.where(rows.sum() > 0, self.momentum * self.u + (1 - self.momentum) * now, self.u)

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        self.u.copy_(self.moved(v, batch))

    def acted(self, v, batch, p, t, terms):
        out = super().acted(v, batch, p, t, terms)
        if self.cfg.alpha_min < 1:
            out["shift"] = p.offset_u.abs().amax() > 1e-3
        if self.cfg.lambda_d > 0:
            out["d"] = (t.since(self.warmup) > 0) & ((1 - p.mask).sum() > 0)
        return out


def imbalance(u: Tensor) -> Tensor:
    """exp(KL(uniform || u)), 0-dim: 1 where u is uniform, above it elsewhere."""
    return (-(u + EPS).log().mean()).exp() / len(u)
