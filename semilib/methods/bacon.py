"""BaCon (Feng, Xie, Fang and Lin, AAAI 2024, arXiv 2403.12986): ABC with a contrastive term between sure images and
centres kept over the whole data set. Its negatives are chosen by rank; its temperature follows a class's frequency.

a = the balanced head, P = a linear projection of the features, sim = cosine; i, j = labelled and weak rows.
y_i = the label, or argmax a of a weak unlabelled view; l, F = memories of every image's latest class and last sure
projection; n_c = how many images have l = c.
    (1) the base's loss + ABC's two terms, with hard targets
        before the loss, l moves for labelled images and for unlabelled ones with max a_i >= tau
    (2) s_i = [max softmax(a_i) >= 0.98]
        Neg(c) = labelled rows of other classes, and weak rows whose best three classes exclude c
    (3) T_c = T - slope (1 - step / steps)^2 sqrt(n_c / max n)
    (4) N_c = mean of exp(sim(P_i, P_j) / T) over i with y_i = c and j in Neg(c)
    (5) L_con = sum s_i (-log e_i / (e_i + 64 N_{y_i})) / sum s_i,  e_i = exp(sim(P_i, M_{y_i}) / T_{y_i})
        from half of the run on
    (6) after the step: F_i <- P_i where s_i;  M_c = mean of F over the images with l = c
    L = (1) + L_con; the balanced head predicts. Gradients reach P_i and P_j on all sides, weak views too; they reach
    none of M, T_c, s and Neg.

Follows: the release as it is now: start at 150,000 of 300,000 steps, 16 outputs of P, T 0.1, slope 0.0005, 64. When it
    was published they were 100,000 and 32 (start=1/3, width=32). Its tau for l is compared with logits, so l is nearly
    every image's latest prediction (remember="prob": with probabilities). M counts images whose F was never written and
    still holds ones (written_only=True: without them).
Keeps: nothing; the start is a share of the run, and T_c follows its progress.
Differs: of two strong views ABC's term is the mean, as the base's, not ABC's sum: BaCon was published with one. A class
    that no image holds keeps its centre, and a row without negatives drops out of (5); released, both divide by 0.
    Labelled images enter l in every step (released: if an unlabelled one does). The term starts at the start, not a
    step later. P and the second head start from Xavier's values, the release's from PyTorch's. As a subclass of ABC it
    inherits what that one differs in. On ReMixMatch weak views have no gradient, so (5) learns from unmixed labelled
    rows alone, which weak ones repel; the release's version of it is commented out. The shared recipe's pool holds the
    labelled images: each has two rows in l and F, and counts twice in n and M. Of an image that is twice in a batch (a
    set smaller than the batch) the later row counts.
Numbers: toy rows of the tests: N [.258209, 3.576477, .500023, .045779], L_con .003113 just after half of the run,
    .003141 at the end.

The slope takes at most .000125 off T once the term counts: (3) is nearly inert, as released.

On the embedded pictures at 600 steps it stays below Supervised (40.1 +- 2.3 against 51.4 +- 2.8, three seeds; the first
38.1, still rising to 53.0 at the end). The term enters at full weight, 1 to 2 nats a row and divided by the few sure
rows. Accuracy falls from 46 to about 20, and the 300 steps that are left do not suffice to recover. The same seed has
58.7 without the term (lambda_con=0), 58.6 at lambda_con=0.1, 37.3 with written_only.
"""
from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from semilib.methods.abc import ABC
from semilib.methods.losses import Term, one_hot
from semilib.methods.row_state import RowState
from semilib.networks.net import linear
from semilib.options import Duration, duration_in_steps, option, span

TOP = 3                             # a weak row is no negative of its best three classes


class BaCon(ABC):
    @dataclasses.dataclass(frozen=True)
    class Config(ABC.Config):
        soft_target: bool = option(False, "the balanced head learns its softmax, as in ABC; off: its argmax")
        lambda_con: float = option(1.0, "weight of the contrastive term", low=0)
        start: Duration = option(span(150_000, of=300_000), "steps before the contrastive term counts", low=0)
        width: int = option(16, "outputs of the projection P", low=1)
        sure: float = option(0.98, "confidence from which a row is contrasted and remembered", low=0, high=1)
        t_con: float = option(0.1, "T of the contrastive term", low=1e-2)
        slope: float = option(0.0005, "how much lower T is for the most frequent class at step 0", low=0, high=5e-3)
        negatives: float = option(64.0, "weight of the negatives' mean", low=0)
        remember: str = option("logit", "what must reach the threshold for l to move", choices=("logit", "prob"))
        written_only: bool = option(False, "centres without images that were never sure")

    cfg: Config
    centres: Tensor     # M, [C, width]

    smoke = {**ABC.smoke, "sure": 0.12, "start": 4}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.start = duration_in_steps(cfg.start, info.steps)
        self.must_act = {**self.must_act, "con": "no row was sure of a class with a centre after the start: lower "
                                                 "`sure`, start earlier, or train longer"}

    @classmethod
    def original(cls, run):
        """The release's, built on USB: 300,000 steps at a constant rate, evaluated every 1,000,
        the best on the test set."""
        own = dict(mu=2, steps=300_000, eval_every=1000, rate="constant", variant="USB", strong_pool="B", decay="ndim",
                   labelled_in_unlabelled=run["dataset"] == "stl10", report="best_on_test",
                   options=dict(strong_views=1))
        if run["base"] == "remixmatch":
            own.update(mu=1, policy="frozen", options=dict(start=span(10_000, of=300_000), ramp=1 / 64))
        return own

    def heads(self):
        return {**super().heads(), "projection": linear(self.info.features, self.cfg.width)}

    def build(self):
        super().build()
        info, images = self.info, self.info.n_labelled + self.info.n_unlabelled        # labelled ones first
        self.latest = RowState(images, dtype=torch.int64, fill=-1)                     # l; -1: none yet
        self.kept = RowState(images, self.cfg.width, dtype=info.dtype, fill=1)         # F
        self.register_buffer("centres", torch.ones(info.classes, self.cfg.width, dtype=info.dtype))

    def durations(self):
        return {**super().durations(), "start": self.start}

    def by_class(self, values: Tensor) -> Tensor:
        """values [images, ...] summed over the images of each latest class, [C, ...]."""
        out = values.new_zeros(self.info.classes + 1, *values.shape[1:])
        return out.index_add_(0, self.latest.rows + 1, values)[1:]

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        a_l, a_w, classes = v.l["balanced"], v.w["balanced"], self.info.classes
        rows = torch.cat([batch.index_l, self.info.n_labelled + batch.index_u])
        predicted = torch.cat([batch.y, p.label_b])
        moves = (a_w if self.cfg.remember == "logit" else a_w.softmax(-1)).amax(-1) >= self.cfg.threshold
        moves = torch.cat([torch.ones_like(batch.y, dtype=torch.bool), moves])
        self.latest.scatter(rows, torch.where(moves, predicted, self.latest.gather(rows)))                       # (1)
        sure = torch.cat([a_l, a_w]).softmax(-1).amax(-1) >= self.cfg.sure                                       # (2)
        best = one_hot(a_w.topk(min(TOP, classes)).indices, classes, a_w.dtype).sum(1)
        p.add(rows=rows, classes=predicted, held=self.by_class(torch.ones_like(self.kept.rows[:, 0])),
              sure=sure.to(a_w.dtype), negative=1 - torch.cat([one_hot(batch.y, classes, a_w.dtype), best]))
        return p

    def temperatures(self, held: Tensor, t) -> Tensor:
        frequent = (held / held.max().clamp(min=1)).sqrt()
        return self.cfg.t_con - self.cfg.slope * (1 - t.progress) ** 2 * frequent                            # (3)

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        out["u_b"] = out["u_b"]._replace(scale=self.cfg.lambda_b)
        own = one_hot(p.classes, self.info.classes, p.negative.dtype)                  # [rows, C]
        f = F.normalize(torch.cat([v.l["projection"], v.w["projection"]]), dim=-1)
        pairs = own.sum(0) * p.negative.sum(0)
        near = own.T @ (f @ f.T / self.cfg.t_con).exp()                          # [C, rows]
        apart = (near * p.negative.T).sum(1) / pairs.clamp(min=1)                                                # (4)
        close = (f * (own @ F.normalize(self.centres, dim=-1))).sum(-1) / (own @ self.temperatures(p.held, t))
        rows = (close.exp() + self.cfg.negatives * (own @ apart) + 1e-8).log() - close                            # (5)
        out["con"] = Term(rows, p.sure * (own @ (pairs > 0).to(own.dtype)), "weight",
                          self.cfg.lambda_con * t.since(self.start))
        return out

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        f = torch.cat([v.l["projection"], v.w["projection"]])
        self.kept.scatter(p.rows, torch.where(p.sure.unsqueeze(1) > 0, f, self.kept.gather(p.rows)))               # (6)
        written = (self.kept.rows != 1).any(1, keepdim=True)
        counts = written if self.cfg.written_only else torch.ones_like(self.kept.rows[:, :1])
        held = self.by_class(counts.to(f.dtype))
        means = self.by_class(self.kept.rows * counts) / held.clamp(min=1)
        self.centres.copy_(torch.where(held > 0, means, self.centres))

    def acted(self, v, batch, p, t, terms):
        drawn = p.sure * (self.centres != 1).any(-1)[p.classes]
        acted = (terms["con"].weight * drawn).sum() * t.since(self.start) > 0
        return {**super().acted(v, batch, p, t, terms), "con": acted}
