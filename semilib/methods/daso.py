"""DASO (Oh, Kim and Kweon, CVPR 2022, arXiv 2106.05682): blend the linear pseudo-label with a semantic one, from the
similarity to class prototypes, the more the more often its class is predicted; and align strong views to the same
balanced prototypes.

    (1) queue     features of the labelled images by the average enter their class's queue of L;
                  P_k = mean of queue k (empty: 0)
    (2) semantic  q = softmax(cos(f_weak, P) / T_proto)
    (3) blend     p' = (1 - v_y') p + v_y' q,  y' = argmax p,  v_k = (m_k / max m)^(1 / T_dist);
                  label and mask are read from p'
    (4) align     L_a = mean over all strong rows of -sum q log softmax(cos(f_strong, P) / T_proto), no mask
    m: how often each class was predicted in the last complete period of 100 steps.
    L = L_x + L_u + lambda L_a.  No (3), (4) while pretraining.

Follows: the release's values: T_proto 0.05, L 256, lambda 1, pretraining 5,000 and period 100 of 250,000 steps. T_dist
    as its configuration says: 1.5 on CIFAR-10 (here also on its stand-in, the embedded ten-class data) where both sets
    have one imbalance and one order, else 0.3. m counts every final pseudo-label, confident or not, from the first step
    on.
Keeps: nothing; the queue needs one more pass, of the labelled images through the average.
Differs: the queue's features come from the average in eval mode. The release leaves it in training mode, so that the
    running statistics it is tested with are nearly those of the imbalanced labelled batches; `released_statistics` does
    that (it lasts beyond a step only where the average's statistics are averaged too: ema_rule "warmup"). Before the
    first period is over v is 0; after a resume the release has lost queue and m and divides 0 by 0. `dist_aware` off: v
    = `fixed_blend`. On ReMixMatch p is the sharpened one, aligned before where the base aligns (the release aligns on
    CIFAR-100 alone, and its ramp ends after 0.016 of the run: both in the original recipe). There L_a has the one
    strong view that is not mixed; the release gives it one pass with the weak view, here they have two. L is a number
    of features, not of steps, and is not scaled. Its LA loss and ABC head are not offered here (`la`, `abc`), nor is
    its held-out validation set.
Numbers: P [[.9, .1], [0, 1], [0, 0]], m [60, 30, 10], T_dist 1.5: v [1, .629961, .302853], L_u .203803, L_a 1.621220.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import normalize

from semilib.methods.base import LeadIn
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, one_hot
from semilib.options import Duration, duration_in_steps, option, span


class DASO(FixMatch):
    bases = ("fixmatch", "remixmatch")

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        preset: str = option("paper", "values to start from: paper")
        t_proto: float = option(0.05, "T_proto, temperature of the semantic pseudo-label", low=1e-3)
        t_dist: float = option(0.3, "T_dist: the larger, the more equally all classes blend", low=1e-3)
        dist_aware: bool = option(True, "v from the predicted classes; off: fixed_blend for every class")
        fixed_blend: float = option(0.5, "v of every class where dist_aware is off", low=0, high=1)
        lambda_align: float = option(1.0, "weight of L_a", low=0)
        queue: int = option(256, "L, features kept of each class", low=1)
        pretraining: Duration = option(span(5000), "steps without blend and L_a; 0 = none", low=0)
        period: Duration = option(span(100), "steps over which predicted classes are counted", low=0)
        released_statistics: bool = option(False, "the average is asked for the queue's features in training mode")

        @classmethod
        def presets(cls, run):
            alike = run.gamma_l == run.gamma_u and run.order == "consistent"
            return {"paper": dict(t_dist=1.5 if alike and run.dataset in ("cifar10", "mnistm5k") else 0.3)}

    cfg: Config
    queue: Tensor       # [C, L, D]
    pushed: Tensor      # [C] int64: features that ever entered
    counted: Tensor     # [C] int64, in the running period
    recent: Tensor      # m, [C] int64

    @classmethod
    def original(cls, run):
        """mu 2, one strong view, a constant rate, decay of all parameters, statistics averaged, median of the last 20.
        On ReMixMatch mu 1, a short ramp, and an alignment on CIFAR-100 alone."""
        own = dict(variant="V2", rate="constant", decay="all", ema_rule="warmup", bn_momentum=0.1,
                   labelled_in_unlabelled=False, report="median_last")
        if run["base"] == "remixmatch":
            return dict(own, mu=1, policy="interleave", options=dict(
                released_statistics=True, ramp=0.016, align=run["dataset"] == "cifar100"))
        return dict(own, mu=2, options=dict(released_statistics=True, strong_views=1))

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.pretraining = duration_in_steps(cfg.pretraining, info.steps)
        self.period = duration_in_steps(cfg.period, info.steps)
        self.must_act = {**self.must_act, "blend": "no semantic pseudo-label came in: train longer, or shorten "
                                                   "pretraining and period"}
        if cfg.lambda_align > 0:
            self.must_act["semantic"] = "pretraining never ended: shorten it, or lambda_align=0"

    def build(self):
        super().build()
        classes, dtype = self.info.classes, self.info.dtype
        self.register_buffer("queue", torch.zeros(classes, self.cfg.queue, self.info.features, dtype=dtype))
        self.register_buffer("pushed", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("counted", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("recent", torch.zeros(classes, dtype=torch.int64))

    def durations(self):
        return {**super().durations(), "pretraining": LeadIn(self.pretraining), "period": self.period}

    def before_forward(self, net, images, batch, t, teacher):
        super().before_forward(net, images, batch, t, teacher)
        teacher.train(self.cfg.released_statistics)
        self.enqueue(teacher(images["l"]).f, batch.y)                                                          # (1)
        teacher.eval()

    def pseudo_prob(self, prob, v, batch, t):
        """The blend p' of (3). Notes: `prototypes` P and `semantic` q for `terms`; `moved`, whether it differs from p,
        for `acted`."""
        prob, notes = super().pseudo_prob(prob, v, batch, t), batch.notes
        notes.prototypes = self.prototypes()
        notes.semantic = self.similarity(v.w.f, notes.prototypes).softmax(-1)                                  # (2)
        strength = t.since(self.pretraining) * self.strength()[prob.argmax(-1)].unsqueeze(-1)
        blend = (1 - strength) * prob + strength * notes.semantic                                              # (3)
        notes.moved = (blend != prob).any()
        return blend

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        if self.cfg.lambda_align > 0:
            q = batch.notes.semantic.repeat(len(v.s.f) // len(batch.notes.semantic), 1)
            out["semantic"] = Term(ce(self.similarity(v.s.f, batch.notes.prototypes), q),                      # (4)
                                   scale=t.since(self.pretraining) * self.cfg.lambda_align)
        return out

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        counted, ends = self.counted + one_hot(p.label, self.info.classes, torch.int64).sum(0), t.ends(self.period)
        self.recent.copy_(torch.where(ends, counted, self.recent))
        self.counted.copy_(torch.where(ends, 0, counted))

    def acted(self, v, batch, p, t, terms):
        out = {**super().acted(v, batch, p, t, terms), "blend": batch.notes.moved}
        return {**out, "semantic": t.since(self.pretraining) > 0} if self.cfg.lambda_align > 0 else out

    # ---- its parts ---------------------------------------------------------------------------------------------------

    def enqueue(self, f: Tensor, y: Tensor) -> None:
        """Features f [B, D] enter the queues of their classes y, the oldest leaving: rings, written in one go. Of more
        than L rows of one class the last L count: rows that share a slot all write the feature of the last of them."""
        room, hot = self.cfg.queue, one_hot(y, self.info.classes, torch.int64)
        number = hot.sum(0)
        rank = (hot.cumsum(0) * hot).sum(1) - 1                                  # earlier rows of the same class
        last = rank + room * torch.div(number[y] - 1 - rank, room, rounding_mode="floor")
        row = torch.argsort(y, stable=True)[(number.cumsum(0) - number)[y] + last]
        self.queue.view(-1, f.shape[-1]).index_copy_(0, y * room + (self.pushed[y] + rank) % room, f[row])
        self.pushed.add_(number)

    def prototypes(self) -> Tensor:
        """P [C, D]."""
        return self.queue.sum(1) / self.pushed.clamp(1, self.cfg.queue).unsqueeze(-1)

    def similarity(self, f: Tensor, prototypes: Tensor) -> Tensor:
        """cos(f, P) / T_proto, [n, C]; 0 for a class without a prototype."""
        return normalize(f, dim=-1) @ normalize(prototypes, dim=-1).T / self.cfg.t_proto

    def strength(self) -> Tensor:
        """v [C]."""
        if not self.cfg.dist_aware:
            return torch.full_like(self.queue[:, 0, 0], self.cfg.fixed_blend)
        m = self.recent.to(self.queue.dtype)
        return (m / m.max().clamp(min=1)) ** (1 / self.cfg.t_dist)
