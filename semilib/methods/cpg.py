"""CPG (Hou, Han, Jia, Liu, Hou, "Keep It on a Leash", NeurIPS 2025, arXiv 2510.03993): unlabelled images whose
prediction stays the same over a window of training join the labelled set, whose class counts are known, so that the
main head can be logit-adjusted on it.

f = main head, a = auxiliary head, h = feature; phi = class counts of the labelled set as it is, pi = phi / sum phi;
N = those at the start; m = those of the selected images; s(y): 1 - s on y, s / (C - 1) elsewhere; s = 0.1.
Phase "begin", phi = N, the auxiliary head takes every unlabelled image (no mask):
    (1) L = mean CE(f(x) + log pi, s(y)) + mean CE(a(x) + log pi, s(y)) + mean CE(a(u_s), s(y_a)),   y_a = argmax a(u_w)
Phase "grow": the labelled batch comes from labelled and selected images, with rows q; its row i of class c = argmax q
is copied t_c times:
    (2) copy: h + r_c eps * h / |h|,  eps ~ N(0, 1) for each copy and feature
    (3) L = mean CE(f(rows and copies) + log pi, q) + mean CE(a(x) + log pi, c) + mean CE(a(u_s), y_a)
    (4) A_u = log m~ / sum m~;  m~: entries of m up to min N become the smallest entry above it; all 1 if that leaves
        all alike
    (5) p = softmax(f + A_u): an image gets a vote for argmax p_w if max p_w and max p_s are at least 0.95 (1 - s), and
        their classes agree
and at the end of each window, from its votes:
    (6) selected: more votes than 6 % of an image's draws in a window, of which more than 0.8 for one class; q = its
        share of votes by class. What was selected before is dropped; labelled images have q = s(y), phi = N + m
    (7) t_c = int(10 phi_(C/3) / phi_c), phi_(j) = the j-th smallest, counted from 0;  10 for all in the first window
    (8) r_c = (1 / rho_c) / sum 1 / rho,  rho_c = mean of (cos(h, mu_c) + 1) / 2 over the class, mu_c its mean feature
Prediction by the main head.

Follows: the release: every value above; (7) copies classes towards equal mass although (3) adjusts for their counts as
    well; "begin" is 30 of 256 parts of the run, a window 5. Reproduced as it was run.
Keeps: the floor of (6) is 12 votes in the release, 6 % of the 201 draws that an image had in a window there; on a
    larger pool or at another mu none could reach it, so it is a share (absolute_floor=12). Labelled images in the pool
    get no vote: they would be counted twice. A window given as a share is never shorter than a pass of the pool, or
    than an eighth of the run if a pass is longer: in a short run most images could not get a vote. "begin" is rounded
    to whole windows.
Differs: a window in which nothing is selected leaves the labelled set alone (the release stops with an error). (8) is
    the mean; the release's indexing adds one image of a class in each batch, so that r grows with the class
    (official_radius, batches in the release's order). Its features are those of one pass of weak views by the live
    network in eval mode; the release makes two, in training mode. Each pass of the grown set has a new order, the
    release repeats one. Of two strong views the first votes. A row has at most 64 copies (most_copies); if t_c is
    larger, each counts t_c / 64. The strong labelled view, which feeds only batch norms, is there under
    labelled_strong. Not built: the rotation head, which is never used. The release's counts (400 / 4,600, int(n
    gamma^(-c/(C-1))) for the last class too) and "random" unlabelled order are a protocol of their own; its numbers are
    not those of 500 / 4,000 or 1,500 / 3,000.
Numbers: toy tensors of the tests: "begin" 1.434713 + 2.039093; first window 2.124484 + 1.915103; a later one 4.033434 +
    2.201100; phi [400, 239, 143, 86, 51, 56, 877, 339, 256, 108] gives t [2, 4, 7, 12, 21, 19, 1, 3, 4, 10].

On the embedded pictures at 600 steps it reaches 69.0 +- 4.0 (three seeds, the first 72.9; FixMatch 56.8 +- 1.5,
Supervised 51.4 +- 2.8), but not yet by its selection: smoothed and adjusted, the main head is seldom sure so early, and
the last four windows select 3, 10, 14 and 14 images, all rightly. With none it reaches 72.1, without copies 67.1; what
else lifts it above Supervised (adjustment, smoothing, auxiliary head) was not taken apart.
"""
from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from semilib.data import rng
from semilib.data.step import StepImages
from semilib.errors import BadInput
from semilib.methods.base import LeadIn, Phase
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, log_prior, one_hot
from semilib.methods.row_state import RowState
from semilib.networks.net import View, linear
from semilib.options import Duration, duration_in_steps, option, span


class CPG(FixMatch):
    refuses = {"add": "its unsupervised loss takes every pseudo-label, and what it is sure of is counted as votes "
                      "instead"}

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        smoothing: float = option(0.1, "s: label smoothing; a vote needs a confidence of threshold (1 - s)", low=0,
                                  high=0.9)
        warmup: Duration = option(span(30, of=256), "steps before votes are counted, rounded to whole windows", low=0)
        window: Duration = option(span(5, of=256), "steps between selections; a share: at least a pass of the pool or "
                                                   "T/8", low=0)
        floor: float = option(0.06, "a selected image has more votes than this share of its draws in a window", low=0,
                              high=1)
        absolute_floor: int = option(0, "it has more than so many votes instead, as released (12); 0 = off", low=0)
        agreement: float = option(0.8, "and more than this share of them for one class", low=0, high=1)
        copies: int = option(10, "copies of a labelled feature, before class counts", low=0)
        most_copies: int = option(64, "copies that are drawn; more than these are made up for by weight", low=1)
        official_radius: bool = option(False, "radius of the copies from one image of a class in each batch, as "
                                              "released")
        labelled_strong: bool = option(False, "a strong view of the labelled images goes through the network for its "
                                              "batch norms alone")

    cfg: Config
    phi: Tensor         # [C] int64
    times: Tensor       # t, [C] int64
    radius: Tensor      # r, [C]
    lean: Tensor        # A_u, [C]

    must_act = {"vote": "the main head was never sure of both views: lower the threshold, or train longer",
                "selected": "no image got enough votes for one class in a window: lower the threshold or floor "
                            "(absolute_floor=0 scales it), or train longer"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        draws, window = info.mu * info.batch, duration_in_steps(cfg.window, info.steps)
        if isinstance(cfg.window, float):
            window = max(window, min(-(-info.n_unlabelled // draws), info.steps // 8))
        self.window, warmup = window, duration_in_steps(cfg.warmup, info.steps)
        self.start = window and min(warmup, max(1, round(warmup / window))) * window
        self.floor = cfg.absolute_floor or cfg.floor * window * draws / info.n_unlabelled
        if window and cfg.absolute_floor >= (most := window * draws / info.n_unlabelled):
            raise BadInput("absolute_floor", cfg.absolute_floor,
                           f"below the {most:.3g} times that an image is drawn in a window of {window} steps, or none "
                           "is ever selected; 0 = floor, a share")

    @classmethod
    def original(cls, run):
        """The release's: mu 7, one strong view, the best of all evaluations on the test set. A small run, and one on a
        data set that the release has no configuration for, scales its floor."""
        own = run["profile"] == "paper" and run["dataset"] in ("cifar10", "cifar100", "svhn")
        return dict(mu=7, steps=2**18, eval_every=1024, variant="USB", strong_pool="B", decay="ndim",
                    labelled_in_unlabelled=False, report="best_on_test",
                    options=dict(strong_views=1, labelled_strong=True, official_radius=True,
                                 absolute_floor=12 if own else 0))

    def step_images(self):
        plan = super().step_images()
        first, *rest = plan.views.items()
        strong = [("ls", ("labelled", "strong"))] if self.cfg.labelled_strong else []
        return StepImages(dict([first, *strong, *rest]), plan.policy, plan.streams)

    def heads(self):
        return {**super().heads(), "auxiliary": linear(self.info.features, self.info.classes)}

    def build(self):
        super().build()
        info = self.info
        uniform = torch.full((info.classes,), 1 / info.classes, dtype=info.dtype)
        self.votes = RowState(info.n_unlabelled, info.classes, dtype=torch.int32)
        self.register_buffer("phi", info.counts.clone())
        self.register_buffer("times", torch.full_like(info.counts, self.cfg.copies))
        self.register_buffer("radius", uniform.clone())
        self.register_buffer("lean", uniform.log())

    def durations(self):
        return {**super().durations(), "warmup": LeadIn(self.start), "window": self.window,
                "first_selection": self.start + self.window}

    def phases(self):
        return [Phase("begin"), Phase("grow", self.start)]

    # ---- a step ------------------------------------------------------------------------------------------------------

    def forward(self, net, images, batch, t, teacher):
        v = super().forward(net, images, batch, t, teacher)
        if t.phase == "grow":
            copies = self.copied(v.l.f, self.radius[batch.y.argmax(-1)], self.noise(v.l.f, t))
            v["copies"] = View({"head": net.heads["head"](copies)}, copies)
        return v

    def noise(self, f: Tensor, t) -> Tensor:
        """eps [B, most_copies, D], standard normal (Box and Muller's pairs)."""
        each = self.cfg.most_copies * f.shape[1]
        words = rng.words(self.info.seed, "cpg/copies", t.step, len(f), each + each % 2, f.device)
        first, second = rng.uniform(words).to(f.dtype).chunk(2, 1)
        size, angle = (-2 * torch.log1p(-first)).sqrt(), 2 * math.pi * second
        return torch.cat([size * angle.cos(), size * angle.sin()], 1)[:, :each].view(len(f), -1, f.shape[1])

    def copied(self, f: Tensor, radius: Tensor, noise: Tensor) -> Tensor:
        """Copies of features [B, D], each row's one after another, [B most_copies, D]."""
        step = radius.view(-1, 1, 1) * noise * F.normalize(f).unsqueeze(1)
        return (f.unsqueeze(1) + step).flatten(0, 1)                                                           # (2)

    def shares(self, label: Tensor) -> Tensor:
        """How much each copy of rows of these classes counts, [B, most_copies]; the sum over a row is t."""
        times, most = self.times[label].unsqueeze(1), self.cfg.most_copies
        return (torch.arange(most, device=label.device) < times) * (times.to(self.info.dtype) / times.clamp(1, most))

    def pseudo_logits(self, v, batch, t):
        return v.w["auxiliary"]

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        p.mask, p.branches = torch.ones_like(p.mask), {"aux_u": p.prob}
        weak, strong = ((view["head"] + self.lean).softmax(-1).max(-1) for view in (v.w, v.s1))                # (5)
        sure = torch.minimum(weak.values, strong.values) >= self.cfg.threshold * (1 - self.cfg.smoothing)
        vote = sure & (weak.indices == strong.indices) & ~batch.known_u
        return p.add(choice=weak.indices, vote=vote.to(p.prob.dtype))

    def smooth(self, y: Tensor) -> Tensor:
        """s(y), [B, C]."""
        rest = self.cfg.smoothing / (self.info.classes - 1)
        return one_hot(y, self.info.classes, self.info.dtype) * (1 - self.cfg.smoothing - rest) + rest

    def terms(self, v, batch, p, t):
        offset = log_share(self.phi, self.info.dtype)
        if t.phase == "begin":                                                                                 # (1)
            y_aux, label = self.smooth(batch.y), self.smooth(p.label)
            main = Term(ce(v.l["head"] + offset, y_aux))
        else:                                                                                                  # (3)
            y_aux, label, most = batch.y.argmax(-1), p.label, self.cfg.most_copies
            rows = torch.cat([v.l["head"], v.copies["head"]]) + offset
            weight = torch.cat([torch.ones_like(batch.y[:, 0]), self.shares(y_aux).flatten()])
            main = Term(ce(rows, torch.cat([batch.y, batch.y.repeat_interleave(most, 0)])), weight, "weight")
        return {"main": main, "aux_x": Term(ce(v.l["auxiliary"] + offset, y_aux)),
                "aux_u": Term(ce(v.s["auxiliary"], self.per_view(label)), scale=self.cfg.lambda_u)}

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        if t.phase == "grow":
            cast = one_hot(p.choice, self.info.classes, p.vote.dtype) * p.vote.unsqueeze(1)
            same = (batch.index_u.unsqueeze(1) == batch.index_u).to(cast.dtype)        # an image may be there twice
            self.votes.scatter(batch.index_u, self.votes.gather(batch.index_u) + (same @ cast).to(torch.int32))

    def acted(self, v, batch, p, t, terms):
        if t.phase != "grow":
            return {}
        return {"vote": p.vote.sum() > 0, "selected": (batch.index_l >= self.info.n_labelled).any()}

    # ---- between windows, on the host --------------------------------------------------------------------------------

    def host_every(self):
        return self.window

    def enter(self, phase, ctx):
        super().enter(phase, ctx)
        ctx.data.set_members("labelled", ctx.data.labelled, self.smooth(ctx.data.y))
        self.radius.copy_(self.radii(ctx.scan("labelled", "weak", ctx.net)[0].f, ctx.data.y))

    def host_work(self, ctx):
        super().host_work(ctx)
        if not self.start < ctx.step < self.info.steps:
            return
        data, votes = ctx.data, self.votes.rows
        chosen, label = elected(votes, self.floor, self.cfg.agreement)                                         # (6)
        shares = votes[chosen].to(self.info.dtype)
        data.set_members("labelled", torch.cat([data.labelled, data.unlabelled[chosen.cpu()]]),
                         torch.cat([self.smooth(data.y), shares / shares.sum(1, keepdim=True)]))
        m = torch.bincount(label, minlength=self.info.classes)
        least = self.info.counts.min().item()
        place = (~data.known).cumsum(0) - 1                             # of an image among those that are not labelled
        self.phi.copy_(self.info.counts.to(m.device) + m)
        self.times.copy_(copy_counts(self.phi, self.cfg.copies))                                               # (7)
        self.lean.copy_(log_share(refined(m, least), self.info.dtype))                                         # (4)
        f = ctx.scan("union", "weak", ctx.net)[0].f
        f = torch.cat([f[:len(data.labelled)], f[len(data.labelled):][place[chosen]]])
        self.radius.copy_(self.radii(f, torch.cat([data.y, label])))
        for part in torch.arange(len(votes), device=votes.device).split(512):                          # a new window
            self.votes.scatter(part, torch.zeros_like(votes[part]))

    def radii(self, f: Tensor, label: Tensor) -> Tensor:
        """r of (8), [C], of the labelled images and then the selected ones, by index. The released radius depends on
        their order: labelled ones as they were shuffled once, selected ones by index."""
        if not self.cfg.official_radius:
            return radii(f, label, self.info.classes)
        order = torch.arange(len(f), device=f.device)
        labelled = self.info.n_labelled
        order[:labelled] = rng.permutation(self.info.seed, "cpg/radius", 0, labelled, f.device)
        return radii(f[order], label[order], self.info.classes, self.info.batch)


def log_share(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """log of counts [C] over their sum."""
    return log_prior(counts.to(dtype) / counts.sum(), 1.0)


def elected(votes: Tensor, floor: float, agreement: float) -> tuple[Tensor, Tensor]:
    """Which images [n, C] of votes select, positions and classes, both [selected]. Host work."""
    total, (best, label) = votes.sum(1), votes.max(1)
    chosen = ((total > floor) & (best.double() / total > agreement)).nonzero().squeeze(1)                      # (6)
    return chosen, label[chosen]


def refined(m: Tensor, least: float) -> Tensor:
    """m~ of (4), [C]. Host work."""
    kept = torch.where(m > least, m, 0)
    if bool((kept == kept[0]).all()):
        return torch.ones_like(m)
    return torch.where(kept > 0, kept, kept[kept > 0].min())


def copy_counts(phi: Tensor, copies: int) -> Tensor:
    """t of (7), [C] int64."""
    return copies * phi.sort().values[len(phi) // 3] // phi.clamp(min=1)


def radii(f: Tensor, label: Tensor, classes: int, batch: int = 0) -> Tensor:
    """r of (8), [C], of features [n, D]; of a class without images 0. batch: only the last image of a class in so many
    rows is added."""
    n, counts = torch.arange(len(f), device=f.device), torch.bincount(label, minlength=classes).clamp(min=1)
    centres = f.new_zeros(classes, f.shape[1]).index_add_(0, label, f) / counts.unsqueeze(1)
    close = (F.cosine_similarity(f, centres[label], dim=1) + 1) / 2
    if batch:
        last = torch.full((classes * (len(f) // batch + 1),), -1, device=f.device)
        last.scatter_reduce_(0, n // batch * classes + label, n, "amax")
        n = last[last >= 0]
    rho = f.new_zeros(classes).index_add_(0, label[n], close[n]) / counts                                     # (8)
    inverse = torch.where(rho > 0, 1 / rho, 0)
    return inverse / inverse.sum()
