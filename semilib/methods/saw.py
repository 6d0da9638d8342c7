"""SAW (Lai et al., ICML 2022, PMLR 162): classes weighted in both losses, in the unlabelled one by how often each is
the current pseudo-label.

    (1) weights(d):  N = mean d,  beta = (N - 1) / N,  w_k = (1 - beta) / (1 - beta^max(d_k, 1)),  scaled to mean 1
    (2) w_x = weights(labelled counts);  w_u = 1 in the first epoch, then weights(how many images have each latest
        pseudo-label)
    (3) L = mean w_x[y] CE(z_x, y) + lambda mean m w_u[y^] CE(z_s, y^)       (no division by the sum of the weights)

Follows: the release: the effective number of samples (Cui et al., CVPR 2019) with a beta that comes from the counts,
    two strong views, zero counts lifted after the mean. Its FixMatch script for CIFAR has a fixed beta of 0.99, as the
    original recipe does; its scripts for ReMixMatch and STL-10 have the counts' beta. With labelled counts of 1,500 to
    15 the largest weight is 7.1 times the smallest by 0.99, and 24.8 times by the counts. On ReMixMatch targets are
    soft and mixed: each class's part of a target is weighted, by w_x in the mixed labelled rows and by w_u in the
    other rows. The term of the unmixed strong view stays unweighted, and the original recipe aligns nothing there.
Keeps: nothing.
Differs: the release fills its table of latest pseudo-labels with 1/C, so an image not seen yet counts as one of class
    0; here it counts for nothing, which differs only before the first pass is over. Under the shared recipe beta comes
    from the counts, as in the paper, and ReMixMatch aligns, as it does for every method. USB hardens ReMixMatch's
    targets to their argmax, which destroys that base. It also counts by a scan of the averaged network and lifts zero
    counts before the mean. An epoch (500 steps) is a share of the run. beta is at least 0 (fewer counts than classes:
    all weights 1).
Numbers: d [100, 30, 10]: w [.405473, .751242, 1.843285]; [300, 90, 0]: [.025004, .044994, 2.930002].
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import one_hot
from semilib.methods.row_state import RowState
from semilib.options import Duration, duration_in_steps, option, span


def weights(counts: Tensor, beta: float = 0.0) -> Tensor:
    """(1): counts [C] to class weights [C] of mean 1, float64. beta 0: from the counts."""
    d = counts.double()
    n = d.mean().clamp(min=1)
    beta = beta or (n - 1) / n
    w = (1 - beta) / (1 - beta ** d.clamp(min=1))
    return len(w) * w / w.sum()


class SAW(FixMatch):
    bases = ("fixmatch", "remixmatch")

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        epoch: Duration = option(span(500), "steps between two counts of the pseudo-labels", low=0)
        beta: float = option(0.0, "beta of the weights; 0 = from the counts", low=0, high=0.999999, in_key="changed")

    cfg: Config
    w_x: Tensor         # [C]
    w_u: Tensor         # [C]

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.epoch = duration_in_steps(cfg.epoch, info.steps)
        self.must_act = {**self.must_act, "weights": "w_u stayed 1: make the epoch shorter"}

    @classmethod
    def original(cls, run):
        """The release's, on DARP's code: Adam at 0.002, decay by the average. On ReMixMatch 300 epochs, FixMatch's pool
        and weak labelled view, and no alignment."""
        own = dict(optimiser="adam", lr=0.002, rate="constant", ema_rule="decaying", weight_decay=0.02, bn_momentum=0.1,
                   strong_pool="C", crop="zero", policy="weak_first", options={})
        if run["base"] == "remixmatch":
            own.update(steps=150_000, eval_every=500, policy="interleave", options=dict(align=False, ramp=1.0))
        elif run["dataset"] == "stl10":
            own.update(labelled_in_unlabelled=True)
        else:
            own.update(options=dict(beta=0.99))
        return own

    def build(self):
        super().build()
        info = self.info
        self.register_buffer("w_x", weights(info.counts, self.cfg.beta).to(info.device, info.dtype))
        self.register_buffer("w_u", torch.ones(info.classes, dtype=info.dtype))
        self.latest = RowState(info.n_unlabelled, dtype=torch.int64, fill=-1)     # of every image; -1: not seen yet

    def durations(self):
        return {**super().durations(), "epoch": self.epoch}

    def weighted(self, target: Tensor, w: Tensor) -> Tensor:
        """Targets ([n] classes or [n, C] rows) whose cross-entropy is the weighted one: it is linear in its target."""
        return (target if target.ndim == 2 else one_hot(target, self.info.classes, w.dtype)) * w

    def terms(self, v, batch, p, t):
        batch = batch.with_(y=self.weighted(batch.y, self.w_x))                                                # (3)
        if hasattr(batch.notes, "mixed"):                                                # ReMixMatch's targets
            mixed = {name: self.weighted(rows, self.w_x if name == "l" else self.w_u)
                     for name, rows in batch.notes.mixed.items()}
            batch.notes = batch.notes.with_(mixed=mixed)
        return super().terms(v, batch, p.with_(target=self.weighted(p.target, self.w_u)), t)

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        self.latest.scatter(batch.index_u, p.label)

    def host_every(self):
        return self.epoch

    def host_work(self, ctx):
        counts = torch.bincount(self.latest.rows + 1, minlength=self.info.classes + 1)[1:]
        self.w_u.copy_(weights(counts, self.cfg.beta))                                                         # (2)

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "weights": (p.mask.sum() > 0) & (self.w_u != 1).any()}
