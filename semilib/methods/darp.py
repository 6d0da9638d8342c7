"""DARP (Kim et al., NeurIPS 2020, arXiv 2007.08844): refine the pseudo-labels of the whole unlabelled set until their
class totals are the wanted ones, moving confident rows least.

Q [N_u, C]: the target rows of every unlabelled image when it was last seen: softmax(z_w) on FixMatch, the aligned and
sharpened q on ReMixMatch. M [C]: wanted totals, N_k N_u / N, or an estimate of them.
    (1) every 10 steps, after the warm-up:  R = refine(Q, M)     (darp_solver.py: noisy entries removed, then projected)
    (2) target rows of image n = R_n, of which FixMatch reads mask (max R_n >= tau) and label (argmax R_n)
    (3) Q_n <- this step's unrefined rows
    (4) with estimate=True, before that:  M = C^-1 r,  C_ij = mean probability of class i for held-out images of class
        j, r = sum of the probabilities over the unlabelled set; the mean over the epochs of a supervised training in
        which no entry of M is negative and cond C < 100

Follows: the release: alpha 2, 10 rounds, a refinement every 10 steps from epoch 201 of 500 on, the targets of an image
    stale since its last pass, mask and label both from refined rows.
Keeps: nothing; under the shared recipe the pool, the views and the passes are everyone's.
Differs: R is not stored. A refined row is a function of its unrefined row and of class-wise values, so a step refines
    the stored rows of its own batch. A refinement falls between two steps, so it is one batch older than the release's,
    which in one step of ten also reads the rows of that very step. A row that is seen twice between two refinements is
    refined from its newer version.
    Every equation is solved to 1e-8 of its total. The release stops a secant iteration where nu moves by less than 0.1
    or 0.3, by data set. On drawn sets of 11,000 to 34,000 images its totals were then off by 0 to 250 images with ten
    classes, and by up to 880 with a hundred: the surer the rows, the more. Its entropy may be 0 or below; here it is at
    least 1e-6.
    A run too short for twenty refinements makes them more often. In (4) the supervised network is the averaged one and
    its epochs are twentieths of its phase. Held-out images (10 a class, at most a third of the class) have no share in
    the loss but one in the batch's statistics. The estimate takes its part of the run's steps, after which network,
    optimiser and rate begin anew (but not ReMixMatch's ramp). USB reads the mask from unrefined rows and does nothing
    on ReMixMatch. The second training of the classifier alone (cRT) is left out.
Numbers: Q [[.8, .15, .05], [.7, .2, .1], [.6, .3, .1], [.55, .25, .2], [.3, .6, .1], [.2, .3, .5]], M [3, 2, 1]: labels
    [0, 0, 0, 0, 1, 2] become [0, 0, 1, 2, 1, 2], row 4 is [.269301, .360013, .370686].
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data import rng
from semilib.data.step import StepImages
from semilib.errors import BadInput
from semilib.methods import darp_solver as solver
from semilib.methods.base import LeadIn, Phase
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, one_hot
from semilib.methods.row_state import RowState
from semilib.options import Duration, duration_in_steps, option, span


class DARP(FixMatch):
    bases = ("fixmatch", "remixmatch")

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        alpha: float = option(2.0, "the alpha M_k largest entries of class k are kept, the rest is noise", low=0)
        rounds: int = option(10, "T, rounds of the projection", low=1)
        refine_every: int = option(10, "steps between two refinements; fewer in a run too short for twenty of them",
                                   low=1)
        warmup: Duration = option(span(500 * 201), "steps with unrefined pseudo-labels (of those after the "
                                                   "estimation); 0 = none", low=0)
        estimate: bool = option(False, "estimate the class totals; off: those of the labelled set")
        estimation: Duration = option(span(50_000), "steps of the supervised training that the estimate is made with",
                                      low=0)
        held_out: int = option(10, "images of each class kept out of it, at most a third of the class", low=1)

    cfg: Config
    totals: Tensor        # M, [C]
    floor: Tensor         # [C], with the next three a `Refinement`
    first: Tensor         # [C] int64
    v: Tensor             # [C]
    nu: Tensor            # [C]
    refinements: Tensor   # 0-dim int64
    held: Tensor          # [labelled] bool
    estimates: Tensor     # [C], their sum
    trusted: Tensor       # 0-dim int64, how many

    smoke = {**FixMatch.smoke, "warmup": 4}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.start = max(2, duration_in_steps(cfg.estimation, info.steps)) if cfg.estimate else 0
        self.warm = self.start + duration_in_steps(cfg.warmup, info.steps - self.start)
        self.refine_every = min(cfg.refine_every, max(1, (info.steps - self.warm) // 20))
        self.must_act = {**self.must_act, "refine": "no row was ever moved: shorten the warm-up, or the classes' "
                                                    "totals are the wanted ones without it"}
        if cfg.estimate:
            self.must_act["estimate"] = "no estimate could be trusted and the labelled set's totals were used: give " \
                                        "estimation more steps, or say estimate=False"
            if info.run.add:
                raise BadInput("estimate", True, f"False with add={info.run.add!r}: SeMi's modules need unlabelled "
                                                 "views in every step")
            if int(info.counts.min()) < 2:
                raise BadInput("estimate", True, "False where a class has a single labelled image: none of it can be "
                                                 "held out")

    def build(self):
        super().build()
        info = self.info
        counts = info.counts.double().to(info.device)
        self.q = RowState(info.n_unlabelled, info.classes, dtype=info.dtype, fill=1 / info.classes)
        self.register_buffer("totals", counts * info.n_unlabelled / counts.sum())                       # M
        self.register_buffer("floor", torch.zeros(info.classes, dtype=info.dtype))
        self.register_buffer("first", torch.zeros(info.classes, dtype=torch.int64))
        self.register_buffer("v", torch.ones(info.classes, dtype=torch.float64))
        self.register_buffer("nu", torch.zeros(info.classes, dtype=torch.float64))
        self.register_buffer("refinements", torch.zeros((), dtype=torch.int64))
        if self.cfg.estimate:
            self.register_buffer("held", torch.ones(info.n_labelled, dtype=torch.bool))    # all, until labels are known
            self.register_buffer("estimates", torch.zeros(info.classes, dtype=torch.float64))
            self.register_buffer("trusted", torch.zeros((), dtype=torch.int64))

    def durations(self):
        out = {**super().durations(), "warmup": LeadIn(self.warm), "refine_every": self.refine_every}
        return {**out, "estimation": self.start} if self.cfg.estimate else out

    # ---- a step ------------------------------------------------------------------------------------------------------

    def pseudo_prob(self, prob, v, batch, t):
        """(2) and (3). Note: `moved`, whether a row was, for `acted`."""
        prob = super().pseudo_prob(prob, v, batch, t)
        stored = self.q.gather(batch.index_u)
        self.q.scatter(batch.index_u, prob)                                                                    # (3)
        values = solver.Refinement(self.floor, self.first, self.v, self.nu)
        rows = solver.refined(stored, batch.index_u, values).to(prob.dtype)                                    # (2)
        refines = (t.step >= self.warm) & (self.refinements > 0)
        batch.notes.moved = refines & ((rows - stored).abs().amax() > 1e-3)
        return torch.where(refines, rows, prob)

    def acted(self, v, batch, p, t, terms):
        if self.supervised:
            return {}
        out = {**super().acted(v, batch, p, t, terms), "refine": batch.notes.moved}
        return {**out, "estimate": self.trusted > 0} if self.cfg.estimate else out

    def host_every(self):
        if self.phase == "estimate":
            return max(1, self.start // 20)
        return 0 if self.supervised else self.refine_every

    def host_work(self, ctx):
        if self.supervised:
            self.take_estimate(ctx)
        elif ctx.step >= self.warm:
            values = solver.refine(self.q.rows, self.totals, self.cfg.alpha, self.cfg.rounds)                  # (1)
            for name, value in values._asdict().items():
                getattr(self, name).copy_(value)
            self.refinements.add_(1)

    # ---- the estimate of M -------------------------------------------------------------------------------------------

    @property
    def supervised(self) -> bool:
        """Whether the network is trained on labelled images alone."""
        return self.phase in ("begin", "estimate")

    def phases(self):
        if not self.cfg.estimate:
            return super().phases()
        return [Phase("begin"), Phase("estimate", 1, restart_rate=True),
                Phase("train", self.start, restart_rate=True, fresh=True)]

    def step_images(self):
        return StepImages({"l": ("labelled", "weak")}) if self.supervised else super().step_images()

    def forward(self, net, images, batch, t, teacher):
        return net.views(images) if self.supervised else super().forward(net, images, batch, t, teacher)

    def pseudo(self, v, batch, t):
        return None if self.supervised else super().pseudo(v, batch, t)

    def terms(self, v, batch, p, t):
        if not self.supervised:
            return super().terms(v, batch, p, t)
        rows = ce(v.l["head"], batch.y)
        return {"x": Term(rows, 1 - self.held[batch.index_l].to(rows.dtype), "weight")}

    def enter(self, phase, ctx):
        super().enter(phase, ctx)
        if phase.name == "estimate":
            self.held.zero_()
            for k in range(self.info.classes):
                members = (ctx.data.y == k).nonzero().squeeze(1)
                order = rng.permutation(self.info.seed, f"darp/held_out/{k}", 0, len(members), members.device)
                self.held[members[order[:min(self.cfg.held_out, max(1, len(members) // 3))]]] = True
        elif phase.name == "train" and int(self.trusted):
            mean = self.estimates / self.trusted
            self.totals.copy_(mean * (self.info.n_unlabelled / mean.sum()))

    def take_estimate(self, ctx):
        """(4), by the network as it is now."""
        labelled, y, _ = ctx.scan("labelled")
        pool, _, _ = ctx.scan("unlabelled")
        true = one_hot(y, self.info.classes, torch.float64) * self.held.unsqueeze(1)
        confusion = labelled["head"].double().softmax(-1).T @ true / true.sum(0)
        totals = solver.estimate(confusion, pool["head"].double().softmax(-1).sum(0))
        if totals is not None:
            self.estimates.add_(totals)
            self.trusted.add_(1)

    # ---- the published recipe ----------------------------------------------------------------------------------------

    @classmethod
    def original(cls, run):
        """The release's: Adam at 0.002, decay by the average. On CIFAR-100 and STL-10 refinements are fewer and longer,
        and on STL-10 the totals are estimated and FixMatch's pool holds the labelled images."""
        stl = run["dataset"] == "stl10"
        options = dict(refine_every=100, rounds=20) if stl or run["dataset"] == "cifar100" else {}
        options |= dict(estimate=True) if stl else {}
        own = dict(optimiser="adam", lr=0.002, rate="constant", ema_rule="decaying", weight_decay=0.02, bn_momentum=0.1,
                   strong_pool="C", crop="zero", policy="weak_first", labelled_in_unlabelled=True,
                   options=options)
        if run["base"] == "remixmatch":
            own.update(policy="interleave", labelled_in_unlabelled=False,
                       options=dict(options, labelled_view="strong", ramp=1.0))
        return own
