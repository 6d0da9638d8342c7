"""CReST and CReST+ (Wei et al., CVPR 2021, arXiv 2102.09559): self-training in generations that take over
pseudo-labelled images of rare classes first; "+" aligns pseudo-labels to a prior that grows flatter with each
generation.

G generations, each the base from fresh weights. pi = labelled prior in descending order, c = a class's place in it, 0 =
the largest.
    (1) mu_c = (pi_{C-1-c} / pi_0)^(1/alpha): 1 for the rarest class
    (2) after a generation: of the n_c unlabelled images (without the labelled ones) that the average takes for class c,
        the int(n_c mu_c) most confident join the original labelled set with that label; the choice is made anew each
        time
    (3) CReST+: t_g = 1 - g/(G-1) + g/(G-1) t_min,  p <- norm(p (pi^t_g / sum pi^t_g + 1e-6) / (m + 1e-6)),
        m = mean of the last 128 batch means of p before its alignment, 1/C for those before the first

Follows: the release: alpha 3, t_min 0.5; the average in eval mode scores plain images; the pool stays whole; m moves
    after the step.
Keeps: the rate schedule begins anew with each generation, as do the average, the optimiser and the base's state and
    ramp.
Differs: the run's steps are divided among the generations, where the release gives each a whole schedule of 65,536 (the
    original recipe multiplies). G is therefore 3, not 6: the most of which 250,000 steps leave each more than the
    release's. In a run where a third is shorter than the 20 evaluations that are averaged at the end it is 2 ("trial":
    2 x 200 steps, of which the mean sees the last 160). pi is counted; the release's, gamma^(-c/(C-1)), is
    prior="power_law" and of use only where a split follows it. The window of 128 steps belongs to 65,536 and is scaled
    (`window_of`). Each generation starts from the same initial weights. On ReMixMatch (3) takes the place of the base's
    own alignment. USB's version redraws the split in each generation, so that its list names other images; its moving
    average over all generations and its scores of augmented images are not followed either.
Numbers: gamma 100, C 10: mu [.215443, .25551, ..., 1]; n = [2500, 2400, 1500, ...] picks [538, 613, 454, ...].

On the embedded pictures at 600 steps both stay below Supervised (26.8 +- 1.8 and 25.7 +- 4.9 against 51.4 +- 2.8, three
seeds): each of the two generations starts anew and has 300 steps, at whose end the first reaches 37 to 41 %, about what
Supervised (39 to 44 %) and FixMatch (36 to 47 %) have by then; its picks are that good, and the tail is not among them.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data.step import Time
from semilib.errors import BadInput
from semilib.methods.base import Phase
from semilib.methods.fixmatch import FixMatch
from semilib.options import option, window_of


class CReST(FixMatch):
    bases = ("fixmatch", "remixmatch")

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        generations: int = option(0, "G; 0 = 3, or 2 if a third of the run is shorter than 20 evaluations", low=0)
        keep_alpha: float = option(3.0, "alpha of mu: the larger, the more images of frequent classes are picked",
                                   low=1e-3)
        prior: str = option("counted", "pi: labelled counts, or the power law of gamma_l",
                            choices=("counted", "power_law"))

    cfg: Config

    smoke = {**FixMatch.smoke, "generations": 4}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.must_act = {**self.must_act, "picked": "no unlabelled image was picked: train longer, or raise keep_alpha"}
        if cfg.prior == "power_law" and info.run.n1 is None:
            raise BadInput("prior", cfg.prior, "counted where n1 is None: such a split follows no power law")
        self.generations = cfg.generations or (3 if info.steps // 3 >= 20 * info.run.eval_steps else 2)
        self.length = info.steps // self.generations                            # the last one takes the remainder

    @classmethod
    def original(cls, run):
        """The release's script: 6 generations of 64 x 1,024 steps, mu 7, a rate that hardly falls. On ReMixMatch:
        USB's."""
        steps = dict(steps=6 * 65_536, eval_every=1024)
        if run["base"] == "remixmatch" and run["dataset"] == "imagenet127":
            return {**super().original(run), "steps": 3 * 250_000, "rate": "constant",
                    "options": dict(generations=3, keep_alpha=0.7)}
        if run["base"] == "remixmatch":
            return {**super().original(run), **steps, "rate": "constant", "options": dict(generations=6)}
        return dict(steps, mu=7, rate="slow_cosine", decay="norms", report="median_last", options=dict(
            generations=6, strong_views=1, prior="counted" if run["n1"] is None else "power_law"))

    def durations(self):
        return {**super().durations(), "generation": self.length}

    def phases(self):
        return [Phase(f"generation{g}", g * self.length, restart_rate=True, fresh=g > 0)
                for g in range(self.generations)]

    def host_every(self):
        return self.length

    def enter(self, phase, ctx):
        """The method's state is as before the first step, like the network's."""
        super().enter(phase, ctx)
        fresh = type(self)(self.cfg, self.info)
        fresh.build()
        self.load_state_dict(fresh.state_dict())

    def host_work(self, ctx):
        super().host_work(ctx)
        if ctx.step >= self.generations * self.length:
            return
        data, new = ctx.data, ~ctx.data.known
        score, label = ctx.scan("unlabelled", "none", ctx.ema)[0]["head"][new].softmax(-1).max(-1)
        chosen = pick(label, score, keep_rates(self.pi(), self.cfg.keep_alpha))                                    # (2)
        members = data.unlabelled[new.cpu()][chosen.cpu()]
        data.set_members("labelled", torch.cat([data.labelled, members]), torch.cat([data.y, label[chosen]]))

    def terms(self, v, batch, p, t):
        """The base's, whose ramps see the generation as a whole run."""
        start = next(s.start for s in self.phases() if s.name == t.phase)
        length = self.info.steps - start if start == (self.generations - 1) * self.length else self.length
        return super().terms(v, batch, p, Time(t.step - start, length, t.dtype, t.phase))

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "picked": (batch.index_l >= self.info.n_labelled).any()}

    def pi(self) -> Tensor:
        """The labelled prior by class, [C] float64 on the host."""
        counts = self.info.counts.cpu().double()
        if self.cfg.prior == "power_law":
            falling = self.info.run.gamma_l ** -torch.linspace(0, 1, len(counts), dtype=torch.float64)
            counts = torch.empty_like(counts).index_copy_(0, counts.argsort(descending=True, stable=True), falling)
        return counts / counts.sum()


class CReSTPlus(CReST):
    @dataclasses.dataclass(frozen=True)
    class Config(CReST.Config):
        t_min: float = option(0.5, "exponent of pi in the last generation; 0 = align to uniform", low=0, high=1)
        adaptive: bool = option(True, "the exponent falls from 1 over the generations; off: t_min in all of them")

    cfg: Config
    ring: Tensor        # [window, C]
    wanted: Tensor      # [C]

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.must_act = {**self.must_act, "align": "pi and the predictions are alike: nothing is left to align"}

    def build(self):
        super().build()
        window, (classes, kind) = window_of(128, self.length, of=65_536), (self.info.classes, self.info.dtype)
        self.register_buffer("ring", torch.full((window, classes), 1 / classes, dtype=kind))
        self.register_buffer("wanted", self.tempered(0))

    def tempered(self, g: int) -> Tensor:
        """pi^t_g / sum pi^t_g by class."""
        part = g / (self.generations - 1)
        power = self.pi() ** (1 - part + part * self.cfg.t_min if self.cfg.adaptive else self.cfg.t_min)
        return (power / power.sum()).to(self.info.device, self.info.dtype)

    def enter(self, phase, ctx):
        super().enter(phase, ctx)
        self.wanted.copy_(self.tempered(ctx.step // self.length))

    def align(self, prob: Tensor) -> Tensor:
        aligned = prob * (self.wanted + 1e-6) / (self.ring.mean(0) + 1e-6)                                         # (3)
        return aligned / aligned.sum(-1, keepdim=True)

    def pseudo_prob(self, prob, v, batch, t):
        """ReMixMatch calls `align` where its own alignment is on, as the first thing that it does; elsewhere it is
        called here. Note: `raw`, the rows before it, for `end_step`."""
        batch.notes.raw = prob
        return super().pseudo_prob(prob if getattr(self.cfg, "align", False) else self.align(prob), v, batch, t)

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        self.ring.index_copy_(0, (t.step % len(self.ring)).view(1), batch.notes.raw.mean(0, keepdim=True))

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "align": (self.wanted != self.ring.mean(0)).any()}


def keep_rates(pi: Tensor, alpha: float) -> Tensor:
    """mu by class, [C], of a prior pi [C] in any order."""
    falling, order = pi.sort(descending=True, stable=True)
    return torch.empty_like(pi).index_copy_(0, order, (falling.flip(0) / falling[0]) ** (1 / alpha))               # (1)


def pick(label: Tensor, score: Tensor, mu: Tensor) -> Tensor:
    """Positions of the images to take over, class by class and the most confident first. label, score [n]; mu [C].
    Host work."""
    out = []
    for k, rate in enumerate(mu.tolist()):
        members = (label == k).nonzero().squeeze(1)
        best = members[score[members].argsort(descending=True, stable=True)]
        out.append(best[:int(len(members) * rate)])
    return torch.cat(out)
