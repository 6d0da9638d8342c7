"""SeMi's modules (arXiv 2501.06004) on other methods: Run.add = "oheml", "plce", "align", or several joined by +.

    oheml  the weight of an unsupervised row becomes w m,  w = scale H(p) / log C + 1 - scale, after the warm-up
    plce   p_k <- (1 - a_k) p_k + a_k s_k before label and mask are read from p,  a_k = alpha r u_k; s from the bank's
           prototypes
    align  + lambda_e mean (1 - m) (-sum q log softmax(f_s / T_e)),  q = softmax((f_w - qbar) / (T_e / 5))

Follows: semi.py, whose `Blend`, `Alignment` and `entropy_weight` they are, with its values. An option carries its
    module's name, so that it never meets one of the host.
Differs: m is the host's mask, whatever makes it. u counts the host's label before the blend in rows that the host lets
    count, where SeMi asks for its own threshold. A host with several unsupervised heads (CPE) has each head's rows
    weighted by that head's entropy, and each head's distribution blended with the same s. Terms of a balanced head
    (named `..._b`) are not weighted, as in SeMi. A loss that is divided by its weights' sum (CPE) keeps the sum of the
    masks as its divisor. The second head and its two terms do not come along.
Numbers: with scale 0, alpha 0 or lambda_e 0 the host's loss to the last bit; on FixMatch with one threshold and no
    blend, SeMi without its balanced head.

Each is a class whose `super()` is the host (`methods.get`), so a module acts on any method whose pseudo-label, mask and
unsupervised loss are the standard ones; others refuse it with the reason.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.base import LeadIn, Method
from semilib.methods.losses import Term
from semilib.methods.memory_bank import MemoryBank
from semilib.methods.semi import Alignment, Blend, entropy_weight
from semilib.options import Duration, Options, duration_in_steps, option, span


class Addition(Method):
    """What the three share: their warm-up, and something of their own that must act."""

    advice: dict[str, str] = {}

    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        semi_warmup: Duration = option(span(3000), "steps without SeMi's modules; 0 = none", low=0)

    cfg: Config

    smoke = {"threshold": 0.25}             # some rows pass it, and some are left to Align

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.semi_warmup = duration_in_steps(cfg.semi_warmup, info.steps)
        for cls in type(self).__mro__:
            self.must_act = {**self.must_act, **vars(cls).get("advice", {})}

    def durations(self):
        return {**super().durations(), "semi_warmup": LeadIn(self.semi_warmup)}


class OHEML(Addition):
    @dataclasses.dataclass(frozen=True)
    class Config(Addition.Config):
        oheml_scale: float = option(0.75, "share of a row's weight that follows the entropy", low=0, high=1)

    cfg: Config

    advice = {"oheml": "no pseudo-label counted after the warm-up: lower the threshold, or train longer"}

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        for name, prob in p.branches.items():
            if name in out and not name.endswith("_b"):
                out[name] = weighted(out[name], entropy_weight(prob, self.cfg.oheml_scale, t.since(self.semi_warmup)))
        return out

    def acted(self, v, batch, p, t, terms):
        acted = (t.since(self.semi_warmup) > 0) & (p.mask.sum() > 0)
        return {**super().acted(v, batch, p, t, terms), "oheml": acted}


def weighted(term: Term, w: Tensor) -> Term:
    """A term whose rows [V n] have the weights w [n] besides their own. Its divisor stays what it was."""
    w = w.repeat(len(term.rows) // len(w))
    mask = torch.ones_like(w) if term.weight is None else term.weight
    by_weight = isinstance(term.denominator, str) and term.denominator == "weight"
    return Term(term.rows, mask * w, mask.sum() + 1e-12 if by_weight else term.denominator, term.scale)


class PLCE(Addition):
    @dataclasses.dataclass(frozen=True)
    class Config(Addition.Config):
        plce_alpha: float = option(0.4, "strength of the blend at the end of the run", low=0, high=1)
        plce_t: float = option(0.1, "temperature of the semantic pseudo-label", low=1e-3)
        plce_u: str = option("share", "how the use of a class scales its blend: share or max (u / max u)",
                             choices=("share", "max"))
        plce_slots: int = option(128, "L, slots of a class's cell in the bank", low=1)
        plce_beta: float = option(0.99, "factor of a decay of the bank", low=0, high=1)
        plce_decay_every: Duration = option(span(100), "steps between decays of the bank", low=0)
        plce_epoch: Duration = option(span(500), "steps between refreshes of r and u", low=0)

    cfg: Config

    advice = {"plce": "the bank stayed empty, or r 0: lower the threshold, or train longer"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.plce_epoch = duration_in_steps(cfg.plce_epoch, info.steps)
        self.plce_decay_every = duration_in_steps(cfg.plce_decay_every, info.steps)

    def build(self):
        super().build()
        cfg, info = self.cfg, self.info
        bank = MemoryBank(info.classes, cfg.plce_slots, info.features, dtype=info.dtype)
        self.plce_blend = Blend(bank, cfg.plce_alpha, cfg.plce_t, cfg.plce_u, cfg.plce_beta, self.semi_warmup,
                                self.plce_epoch, self.plce_decay_every)

    def durations(self):
        return {**super().durations(), "plce_epoch": self.plce_epoch, "plce_decay_every": self.plce_decay_every}

    def pseudo_prob(self, prob, v, batch, t):
        """Notes: `before_blend` for `end_step`, `blended` for `acted`."""
        prob = super().pseudo_prob(prob, v, batch, t)
        blended = self.plce_blend(prob, v.s1.f, t)
        batch.notes.before_blend = getattr(batch.notes, "before_blend", prob)            # of several heads the first
        batch.notes.blended = (blended != prob).any()
        return blended

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        confidence, counts = p.prob.max(-1).values, p.mask > 0.5
        self.plce_blend.offer(v.s.f, self.per_view(confidence), self.per_view(p.label), self.per_view(counts), t)
        self.plce_blend.count(batch.notes.before_blend.argmax(-1), counts, t)

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "plce": batch.notes.blended}


class Align(Addition):
    @dataclasses.dataclass(frozen=True)
    class Config(Addition.Config):
        align_lambda: float = option(0.15, "lambda_e, weight of L_e", low=0)
        align_t: float = option(0.1, "T_e, temperature of L_e (its target's is a fifth of it)", low=1e-3)
        align_centre: float = option(0.9, "how much of the centre qbar is kept each step", low=0, high=1)

    cfg: Config

    advice = {"align": "every pseudo-label counted: raise the threshold"}

    def build(self):
        super().build()
        cfg, info = self.cfg, self.info
        self.align_module = Alignment(info.features, info.dtype, cfg.align_lambda, cfg.align_t, cfg.align_centre,
                                      self.semi_warmup)

    def terms(self, v, batch, p, t):
        return {**super().terms(v, batch, p, t), "e": self.align_module.term(v.w.f, v.s.f, p.mask, t)}

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        self.align_module.move(v.w.f, t)

    def acted(self, v, batch, p, t, terms):
        acted = (t.since(self.semi_warmup) > 0) & ((1 - p.mask).sum() > 0)
        return {**super().acted(v, batch, p, t, terms), "align": acted}
