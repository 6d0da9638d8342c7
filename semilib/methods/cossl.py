"""CoSSL (Fan et al., CVPR 2022, arXiv 2112.04564): representation and classifier learn side by side; a balanced teacher
head, fed with enhanced features of rare classes, makes the pseudo-labels.

f~ = features by the averaged network in eval mode; h = the teacher head, h~ its average; N = labelled class counts.
Phase 1 is the base. At its end h is fitted on kept features (weak views of labelled, strong views of unlabelled
images), 64 a step, in passes without replacement:
    (1) imprint: the row of class k is the direction of its labelled images' mean feature; it ranks "others" (the
        labelled images of other classes, and the whole pool by its weak view) by their probability of k
    (2) class k is filled up to max N by  l f_a + (1 - l) f_(i-th of the others),  l ~ Beta(0.75, 0.75), a = a random
        one of k
Phase 2, each step:
    (3) pseudo-labels from softmax(h(f~_weak)) instead of the student's head; on ReMixMatch its ramp r is 1
    (4) of class-balanced labelled images b and images u of the union, strong views both:  with probability
        (max N - N_y) / max N  f = l f~_b + (1 - l) f~_u,  l ~ U(max_lam, 1), else f = f~_b;  L_t = mean CE(h(f), y)
        reaches h alone
    L = the base's loss + L_t; phase 1 predicts by the averaged head, phase 2 by h~(f~).

Follows: the release: max_lam 0.6 (its scripts), 401 of 501 epochs of phase 1, h by the raw teacher (its comment says
    h~: ema_teacher=True), a decay of h by its own optimiser alone.
Keeps: the teacher's Adam at 0.002 with decay 5e-4 of its weight: it learns on fixed features, apart from the student.
Differs: one run instead of two scripts, so the student's rate goes on falling. Both phases keep the run's forward
    policy: the student still sees the weak view, which only its batch norms read (the original recipe does not show
    it). h~ is the head in the run's average, and both are set at the end of phase 1. The fit's 5,000 steps are scaled
    to the run, but never below 2,000: they cost little, and after 500 at this rate h is hardly ever sure. The release
    begins a new pass at every 500th step of the fit, whether or not the last one is over. On ReMixMatch the
    alignment's mean begins anew with the teacher's predictions. The original recipe keeps the student's decay by the
    average in phase 2, where the release has 4e-5 in Adam. USB's version never mixes a feature, and its pseudo-labels
    are the student's. In "trial" phase 2 has 80 steps: 10 of the 20 evaluations that are averaged.
Numbers: N [100, 30, 10]: (4) with probability [0, .7, .9]; the toy's L_t 1.201597; imprint of [3, 4], [1, 0]:
    [.707107, .707107].
"""
from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from semilib.data import rng
from semilib.data.step import StepImages, Stream
from semilib.methods.base import Phase
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce
from semilib.networks.net import View, linear
from semilib.options import Duration, duration_in_steps, momentum_of, option, span


class CoSSL(FixMatch):
    bases = ("fixmatch", "remixmatch")

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        represent: Duration = option(span(401, of=501), "steps of phase 1", low=0)
        max_lam: float = option(0.6, "least share of the labelled image in an enhanced feature", low=0, high=1)
        ema_teacher: bool = option(False, "pseudo-labels by the average of the teacher head")
        teacher_lr: float = option(0.002, "rate of the teacher's Adam", low=0)
        teacher_decay: float = option(5e-4, "L2 of the teacher's weight", low=0)
        fit: Duration = option(span(5000), "steps of 64 features that fit the teacher head after phase 1; a share: at "
                                           "least 2,000", low=0)

    cfg: Config
    chance: Tensor      # [C]

    smoke = {**FixMatch.smoke, "represent": 2, "fit": 40}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.represent, fit = duration_in_steps(cfg.represent, info.steps), duration_in_steps(cfg.fit, info.steps)
        self.fit = fit if isinstance(cfg.fit, int) else max(fit, 2000)
        self.must_act = {**self.must_act, "taught": "no pseudo-label of the teacher reached the threshold: lower it, "
                                                    "or lower represent"}
        if info.counts.max() > info.counts.min():
            self.must_act["enhanced"] = "no feature was mixed: lower represent"

    @classmethod
    def original(cls, run):
        """The release's: DARP's, with phase 2 on the average's labels alone. ReMixMatch's ramp is as long as the 500
        epochs that phase 1 would have."""
        own = dict(steps=501 * 500, eval_every=500, lr=0.002, rate="constant", optimiser="adam", weight_decay=0.02,
                   ema_rule="decaying", bn_momentum=0.1, strong_pool="C", crop="zero", policy="weak_first")
        if run["base"] == "remixmatch":
            own.update(policy="interleave", labelled_in_unlabelled=False,
                       options=dict(labelled_view="strong", ramp=500 / 501))
        return own

    def heads(self):
        return {**super().heads(), "teacher": linear(self.info.features, self.info.classes)}

    def build(self):
        super().build()
        counts = self.info.counts.double()
        self.register_buffer("chance", ((counts.max() - counts) / counts.max()).to(self.info.dtype))

    def durations(self):
        return {**super().durations(), "represent": self.represent}

    def phases(self):
        return [Phase("represent"), Phase("cotrain", self.represent)]

    def step_images(self):
        plan = super().step_images()
        if self.phase != "cotrain":
            return plan
        policy = "ema_eval" if plan.policy == "weak_first" else plan.policy
        return StepImages({**plan.views, "b": ("balanced", "strong"), "m": ("partners", "strong")}, policy,
                    {**plan.streams, "balanced": Stream("labelled", "balanced"), "partners": Stream("union")})

    def optimisers(self, net, make):
        student = [net.backbone, *(head for name, head in net.heads.items() if name != "teacher")]
        return [make(student), make([net.heads["teacher"]], optimiser="adam", lr=self.cfg.teacher_lr,
                                    weight_decay=self.cfg.teacher_decay)]

    # ---- phase 2 -----------------------------------------------------------------------------------------------------

    def before_forward(self, net, images, batch, t, teacher):
        """Notes: `taught`, the teacher's logits [mu B, C], for `pseudo_logits`; `enhanced`, features [B, D], for
        `forward`; `use`, which of them are mixed, for `acted`."""
        super().before_forward(net, images, batch, t, teacher)
        if t.phase == "cotrain":
            shown = [images["w"], images.pop("b"), images.pop("m")]       # the student does not see the last two
            f, fb, fm = teacher(torch.cat(shown)).f.split([len(x) for x in shown])
            batch.notes.taught = (teacher if self.cfg.ema_teacher else net).heads["teacher"](f)                # (3)
            words = rng.words(self.info.seed, "cossl/enhance", t.step, len(fb), 2, fb.device)
            draws = rng.uniform(words).to(fb.dtype)
            share = self.cfg.max_lam + (1 - self.cfg.max_lam) * draws[:, 1]
            enhanced = self.enhance(fb, fm, batch.targets["balanced"], draws[:, 0], share)
            batch.notes.enhanced, batch.notes.use = enhanced

    def enhance(self, fb: Tensor, fm: Tensor, y: Tensor, coins: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """(4): features for the teacher [B, D], and which of them are mixed."""
        use = coins < self.chance[y]
        part = torch.where(use, share, torch.ones_like(share)).unsqueeze(1)
        return part * fb + (1 - part) * fm, use

    def forward(self, net, images, batch, t, teacher):
        v = super().forward(net, images, batch, t, teacher)
        if t.phase == "cotrain":
            v["t"] = View({"teacher": net.heads["teacher"](batch.notes.enhanced)}, batch.notes.enhanced)
        return v

    def pseudo_logits(self, v, batch, t):
        return batch.notes.taught if t.phase == "cotrain" else super().pseudo_logits(v, batch, t)

    def ramp(self, t):
        """ReMixMatch's r."""
        if t.phase == "cotrain":
            return torch.ones_like(t.progress)
        return super().ramp(t)  # type: ignore[misc]  # ReMixMatch below has it

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        return {**out, "t": Term(ce(v.t["teacher"], batch.targets["balanced"]))} if t.phase == "cotrain" else out

    def acted(self, v, batch, p, t, terms):
        out = super().acted(v, batch, p, t, terms)
        if t.phase == "cotrain":
            out["taught"] = p.mask.sum() > 0
            if "enhanced" in self.must_act:
                out["enhanced"] = batch.notes.use.any()
        return out

    def predict(self, net, x):
        return net(x)["teacher" if self.phase == "cotrain" else "head"]

    # ---- between the phases, on the host -----------------------------------------------------------------------------

    def enter(self, phase, ctx):
        super().enter(phase, ctx)
        labelled, y, _ = ctx.scan("labelled", "weak", ctx.ema)
        weak, strong = (ctx.scan("unlabelled", view, ctx.ema)[0].f for view in ("weak", "strong"))
        rows = imprint(labelled.f, y, self.info.classes)                                                       # (1)
        ranks = torch.cat([labelled.f, weak]) @ rows.T
        first, second, share, label = fill_up(ranks.softmax(-1), y, self.info.classes, self.info.seed)         # (2)
        kept = torch.cat([labelled.f, strong])
        head, average = copy.deepcopy(ctx.net.heads["teacher"]), copy.deepcopy(ctx.ema.heads["teacher"])
        self.fit_head(head, average, kept, first, second, share.to(kept.dtype), label)
        ctx.net.heads["teacher"].load_state_dict(head.state_dict())
        ctx.ema.heads["teacher"].load_state_dict(average.state_dict())
        self.forget_statistics()

    def fit_head(self, head: nn.Linear, average: nn.Linear, kept: Tensor, first: Tensor, second: Tensor, share: Tensor,
                 label: Tensor) -> None:
        """Train `head` on the features share * kept[first] + (1 - share) * kept[second], and move `average` along."""
        groups: list[dict[str, Any]] = [{"params": [head.weight], "weight_decay": self.cfg.teacher_decay},
                                        {"params": [head.bias]}]
        optimiser = torch.optim.Adam(groups, lr=self.cfg.teacher_lr, fused=True)
        momentum = momentum_of(0.999, self.fit, of=5000)
        for n in itertools.islice(passes(len(label), self.info.seed, kept.device), self.fit):
            part = share[n].unsqueeze(1)
            loss = ce(head(part * kept[first[n]] + (1 - part) * kept[second[n]]), label[n]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for a, p in zip(average.parameters(), head.parameters(), strict=True):
                    a.lerp_(p, 1 - momentum)


def passes(rows: int, seed: int, device: torch.device, size: int = 64) -> Iterator[Tensor]:
    """Row numbers of one batch after another, int64 [min(size, rows)], without end. A pass over all rows is shuffled
    anew, and its incomplete last batch is left out."""
    size = min(size, rows)
    for number in itertools.count():
        yield from rng.permutation(seed, "cossl/fit", number, rows, device).split(size)[:rows // size]


def imprint(f: Tensor, y: Tensor, classes: int) -> Tensor:
    """The direction of each class's mean feature, [C, D]."""
    means = torch.stack([f[y == k].mean(0) for k in range(classes)])
    return means / means.norm(dim=1, keepdim=True).clamp(min=1e-12)


def fill_up(prob: Tensor, y: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(2): every class as often as the largest, its own images first. Feature i is share f[first] + (1 - share)
    f[second].

    prob [N + N_u, C] of the labelled images and the pool by the imprint; y [N]. Returns first, second, share and label,
    each [C max N]."""
    size, out = int(y.bincount(minlength=classes).max()), []
    for k in range(classes):
        own = (y == k).nonzero().squeeze(1)
        short = size - len(own)
        w = rng.words(seed, f"cossl/fill/{k}", 0, short, 2, y.device)
        others = prob[:, k].clone()
        others[own] = -1
        ranked = others.argsort(descending=True, stable=True)[:len(prob) - len(own)]
        drawn = own[rng.integers(w[:, 0], len(own))]
        partner = ranked[torch.arange(short, device=y.device) % len(ranked)]
        share = rng.beta(rng.uniform(w[:, 1]), 0.75)
        shares = torch.cat([torch.ones_like(own, dtype=share.dtype), share])
        out.append((torch.cat([own, drawn]), torch.cat([own, partner]), shares, torch.full_like(y[:1], k).expand(size)))
    first, second, shares, label = (torch.cat(parts) for parts in zip(*out, strict=True))
    return first, second, shares, label
