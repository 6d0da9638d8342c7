"""SeMi's modules (arXiv 2501.06004) on other methods: Run.add = "oheml", "plce", "align", or several joined by +.

    oheml  the weight of an unsupervised row becomes w m,  w = scale H(p) / log C + 1 - scale, after the warm-up
    plce   p <- (1 - a_k) p + a_k s_k before label and mask are read from it,  a_k = alpha r u_k; s from the prototypes of the bank
    align  + lambda_e mean (1 - m) (-sum q log softmax(f_s / T_e)),  q = softmax((f_w - qbar) / (T_e / 5))

Follows: semi.py, whose functions and values they use; `alpha` etc. carry the module's name so that they never meet an option of the host.
Differs: m is the host's mask, whatever makes it. u counts the host's label before the blend in rows that the host lets count, where
    SeMi asks for its own threshold. A host with several unsupervised heads (CPE) has each head's rows weighted by that head's
    entropy, and each head's distribution blended with the same s; terms of a balanced head (named `..._b`) are not weighted, as in
    SeMi. A loss that is divided by its weights' sum (CPE) keeps the sum of the masks as its divisor. The second head and its two
    terms do not come along.
Numbers: with scale 0, alpha 0 or lambda_e 0 the host's loss to the last bit; on FixMatch with one threshold and no blend, SeMi without
    its balanced head.

Each is a class whose `super()` is the host (`methods.get`), so a module acts on any method whose pseudo-label, mask and unsupervised
loss are the standard ones; others refuse it with the reason.
"""
from __future__ import annotations

import dataclasses

import torch

from semilib.methods.base import LeadIn, Method
from semilib.methods.losses import Term
from semilib.methods.memory_bank import MemoryBank
from semilib.methods.semi import align_rows, align_target, entropy_weight, semantic_label
from semilib.options import Duration, Options, duration_in_steps, option, span

WARMUP = "steps without SeMi's modules; 0 = none"


class Addition(Method):
    """What the three share: their warm-up, and a component of their own."""

    advice: dict[str, str] = {}

    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        semi_warmup: Duration = option(span(3000), WARMUP, low=0)

    smoke = {"threshold": 0.2}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.semi_warmup = duration_in_steps(cfg.semi_warmup, info.steps)
        self.must_act = {**self.must_act, **{k: v for c in type(self).__mro__ for k, v in vars(c).get("advice", {}).items()}}

    def durations(self):
        return {**super().durations(), "semi_warmup": LeadIn(self.semi_warmup)}


class OHEML(Addition):
    @dataclasses.dataclass(frozen=True)
    class Config(Addition.Config):
        oheml_scale: float = option(0.75, "share of a row's weight that follows the entropy", low=0, high=1)

    advice = {"oheml": "no pseudo-label counted after the warm-up: lower the threshold, or train longer"}

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        warm = t.since(self.semi_warmup)
        for name, prob in p.branches.items():
            if name in out and not name.endswith("_b"):
                term = out[name]
                weight = (1 + warm * (entropy_weight(prob, self.cfg.oheml_scale) - 1)).repeat(len(term.rows) // len(prob))
                mask = torch.ones_like(weight) if term.weight is None else term.weight
                by = mask.sum() + 1e-12 if isinstance(term.denominator, str) and term.denominator == "weight" else term.denominator
                out[name] = Term(term.rows, mask * weight, by, term.scale)
        return out

    def acted(self, v, batch, p, t, terms):
        acted = (t.since(self.semi_warmup) > 0) & (p.mask.sum() > 0)
        return {**super().acted(v, batch, p, t, terms), "oheml": acted}


class PLCE(Addition):
    @dataclasses.dataclass(frozen=True)
    class Config(Addition.Config):
        plce_alpha: float = option(0.4, "strength of the blend at the end of the run", low=0, high=1)
        plce_t: float = option(0.1, "temperature of the semantic pseudo-label", low=1e-3)
        plce_u: str = option("share", "how the use of a class scales its blend: share or max (u / max u)", choices=("share", "max"))
        plce_slots: int = option(128, "L, slots of a class's cell in the bank", low=1)
        plce_beta: float = option(0.99, "factor of a decay of the bank", low=0, high=1)
        plce_decay_every: Duration = option(span(100), "steps between decays of the bank", low=0)
        plce_epoch: Duration = option(span(500), "steps between refreshes of r and u", low=0)

    advice = {"plce": "the bank stayed empty, or r 0: lower the threshold, or train longer"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.plce_epoch, self.plce_decay_every = duration_in_steps(cfg.plce_epoch, info.steps), duration_in_steps(cfg.plce_decay_every, info.steps)

    def build(self):
        super().build()
        classes, dtype = self.info.classes, self.info.dtype
        self.plce_bank = MemoryBank(classes, self.cfg.plce_slots, self.info.features, balanced=True, dtype=dtype)
        self.register_buffer("plce_used", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("plce_share", torch.ones(classes, dtype=dtype))

    def durations(self):
        return {**super().durations(), "plce_epoch": self.plce_epoch, "plce_decay_every": self.plce_decay_every}

    def pseudo_prob(self, prob, v, batch, t):
        """Notes: `before_blend` for `end_step`, `blended` for `acted`."""
        prob = super().pseudo_prob(prob, v, batch, t)
        semantic, filled = semantic_label(self.plce_bank, v.s1.f, self.cfg.plce_t)
        r = torch.div(t.step, self.plce_epoch, rounding_mode="floor").to(prob.dtype) / -(-t.total // self.plce_epoch)
        u = self.plce_share / self.plce_share.max() if self.cfg.plce_u == "max" else self.plce_share
        a = t.since(self.semi_warmup) * self.cfg.plce_alpha * r * u * filled
        batch.notes.before_blend = getattr(batch.notes, "before_blend", prob)  # of several heads the first
        batch.notes.blended = (a > 0).any()
        return (1 - a) * prob + a * semantic

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        counts = self.per_view(p.mask > 0.5)
        self.plce_bank.push(v.s.f, self.per_view(p.prob.max(-1).values), self.per_view(p.label), counts.to(p.prob.dtype))
        self.plce_bank.decay(t.ends(self.plce_decay_every), self.cfg.plce_beta)
        self.plce_used.scatter_add_(0, batch.notes.before_blend.argmax(-1), (p.mask > 0.5).to(torch.int64))
        share = self.plce_used.to(p.prob.dtype) / self.plce_used.sum().clamp(min=1)
        self.plce_share.copy_(torch.where(t.ends(self.plce_epoch) & (self.plce_used.sum() > 0), share, self.plce_share))

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "plce": batch.notes.blended}


class Align(Addition):
    @dataclasses.dataclass(frozen=True)
    class Config(Addition.Config):
        align_lambda: float = option(0.15, "lambda_e, weight of L_e", low=0)
        align_t: float = option(0.1, "T_e, temperature of L_e (its target's is a fifth of it)", low=1e-3)
        align_centre: float = option(0.9, "how much of the centre qbar is kept each step", low=0, high=1)

    advice = {"align": "every pseudo-label counted: raise the threshold"}

    def build(self):
        super().build()
        self.register_buffer("align_qbar", torch.zeros(self.info.features, dtype=self.info.dtype))

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        q = align_target(v.w.f.detach(), self.align_qbar, self.cfg.align_t)
        out["e"] = Term(align_rows(self.per_view(q), v.s.f, self.cfg.align_t), self.per_view(1 - p.mask),
                        scale=t.since(self.semi_warmup) * self.cfg.align_lambda)
        return out

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        moved = self.cfg.align_centre * self.align_qbar
        moved = moved + (1 - self.cfg.align_centre) * align_target(v.w.f, self.align_qbar, self.cfg.align_t).mean(0)
        self.align_qbar.copy_(torch.where(t.since(self.semi_warmup) > 0, moved, self.align_qbar))

    def acted(self, v, batch, p, t, terms):
        acted = (t.since(self.semi_warmup) > 0) & ((1 - p.mask).sum() > 0)
        return {**super().acted(v, batch, p, t, terms), "align": acted}
