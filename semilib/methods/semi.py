"""SeMi (Wang et al., ACM MM 2025, arXiv 2501.06004): mine hard unlabelled examples, steady their pseudo-labels by
prototypes of a class-balanced memory bank whose confidences decay, and debias with a second, logit-adjusted head.

z = standard head, z^b = balanced head, f = features, pi = labelled prior; p = softmax(z_weak).
    (1) PLCE    s = softmax_k(-||f_s1 - c_k|| / T_proto),  a_k = alpha r u_k,  p_k <- (1 - a_k) p_k + a_k s_k
                c_k: prototype of class k;  r: share of the epochs that are done;  u: see (7)
    (2) masks   m = [max p >= tau] or [max softmax(z_weak) >= tau]
                m^b = [max softmax(z^b_weak) >= tau] or [max p^h >= tau],  p^h = softmax(z_weak - tau_12 log pi)
    (3) sup.    L_x = CE(z_x, y),  L_x^b = CE(z^b_x + tau_2 log pi, y)
    (4) OHEML   w = scale H(p) / log C + 1 - scale
                L_u = mean w m CE(z_s, argmax p),  L_u^b = mean m^b CE(z^b_s, argmax p^h)
    (5) E.Align q = softmax((f_weak - qbar) / (T_e / 5)),  L_e = mean (1 - m) (-sum q log softmax(f_s / T_e))
                qbar <- .9 qbar + .1 mean q
    (6) BCDMB   offers (f_s, max p) of the rows with m = 1 to the cell of argmax p; unpushed slots decay by beta
    (7) use     u_k = share of class k among the rows with max softmax(z_weak) >= tau so far; renewed at an epoch's end
    L = L_x + L_x^b + L_u + L_u^b + lambda_e L_e;  no (1), w = 1 and L_e = 0 during the warm-up.

Follows: the paper's components, with the values of the public release's commands. Of those, tau = 0.7 is taken to be
    the threshold.
Differs: durations are shares of the 250,000-step schedule. A class without features takes no part in (1). While no row
    has counted, u stays 1. The release's seven defects are options too; semi_released.py adds them, and all are off.
    The default u_norm="share" is the release's u. It keeps the blend weak: with alpha = 0.4, a_k is at most about 0.16
    for the head of CIFAR-10-LT at gamma 100. u_norm="max" divides u by its largest entry, as DASO does.
Numbers: toy tensors of the tests; the paper's own tables have not been seen by this project.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from semilib.data.step import StepImages, Time
from semilib.errors import BadInput
from semilib.methods.base import LeadIn, Method, Pseudo
from semilib.methods.losses import Term, ce, log_prior, normalised_entropy
from semilib.methods.memory_bank import MemoryBank
from semilib.networks.net import linear
from semilib.options import Duration, Options, duration_in_steps, option, span

# ---- its three modules, which additions.py puts on other methods -----------------------------------------------------


class Blend(nn.Module):
    """PLCE: the blend (1) of linear and semantic pseudo-labels, the bank (6) that it reads, and the use u (7)."""

    used: Tensor        # [C] int64
    u: Tensor           # [C]

    def __init__(self, bank: MemoryBank, alpha: float, t_proto: float, u_norm: str, beta: float, warmup: int,
                 epoch: int, decay_every: int):
        super().__init__()
        self.bank, self.alpha, self.t_proto, self.u_norm, self.beta = bank, alpha, t_proto, u_norm, beta
        self.warmup, self.epoch, self.decay_every = warmup, epoch, decay_every
        self.register_buffer("used", torch.zeros(bank.classes, dtype=torch.int64))
        self.register_buffer("u", torch.ones(bank.classes, dtype=bank.stored.dtype))

    def forward(self, prob: Tensor, f: Tensor, t: Time) -> Tensor:
        """(1): prob [n, C] blended with the semantic pseudo-label of f [n, D], [n, C]; rows need not sum to 1."""
        semantic, filled = semantic_label(self.bank, f, self.t_proto)
        u = self.u / self.u.max() if self.u_norm == "max" else self.u
        a = t.since(self.warmup) * self.alpha * self.progress(t) * u * filled
        return (1 - a) * prob + a * semantic

    def progress(self, t: Time) -> Tensor:
        """r of (1), 0-dim."""
        return torch.div(t.step, self.epoch, rounding_mode="floor").to(self.u.dtype) / -(-t.total // self.epoch)

    def offer(self, f: Tensor, confidence: Tensor, label: Tensor, mask: Tensor, t: Time) -> None:
        """(6): f [n, D], confidence [n], label [n], mask [n]; and the decay, where it is due."""
        self.bank.push(f, confidence, label, mask)
        if self.beta < 1:
            self.bank.decay(self.decay_due(t), self.beta)

    def decay_due(self, t: Time) -> Tensor:
        """Whether the bank decays after this step, bool, 0-dim."""
        return t.ends(self.decay_every)

    def count(self, label: Tensor, counts: Tensor, t: Time) -> None:
        """(7): label [n] of the rows that count, bool [n]."""
        self.used.scatter_add_(0, label, counts.to(torch.int64))
        share = self.used.to(self.u.dtype) / self.used.sum().clamp(min=1)
        self.u.copy_(torch.where(t.ends(self.epoch) & (self.used.sum() > 0), share, self.u))


class Alignment(nn.Module):
    """Embedding Align (5) with its moving centre qbar."""

    qbar: Tensor        # [D]

    def __init__(self, features: int, dtype: torch.dtype, lambda_e: float, t_e: float, keep: float, warmup: int):
        super().__init__()
        self.lambda_e, self.t_e, self.keep, self.warmup = lambda_e, t_e, keep, warmup
        self.register_buffer("qbar", torch.zeros(features, dtype=dtype))

    def target(self, weak: Tensor) -> Tensor:
        """q of (5), [n, D], of weak features [n, D]."""
        return ((weak - self.qbar) / (self.t_e / 5)).softmax(-1)

    def term(self, weak: Tensor, strong: Tensor, mask: Tensor, t: Time) -> Term:
        """lambda_e L_e of weak features [n, D], their strong views' [V n, D] and mask m [n]; 0 in the warm-up."""
        q, views = self.target(weak.detach()), len(strong) // len(weak)
        return Term(align_rows(q.repeat(views, 1), strong, self.t_e), (1 - mask).repeat(views),
                    scale=t.since(self.warmup) * self.lambda_e)

    def move(self, weak: Tensor, t: Time) -> None:
        """The centre, after its use; it stays at 0 in the warm-up."""
        moved = self.keep * self.qbar + (1 - self.keep) * self.target(weak).mean(0)
        self.qbar.copy_(torch.where(t.since(self.warmup) > 0, moved, self.qbar))


def semantic_label(bank: MemoryBank, f: Tensor, t_proto: float) -> tuple[Tensor, Tensor]:
    """s of (1), [n, C], of features f [n, D], and which classes have a prototype, bool [C].

    A class without one gets 0; without any prototype s is uniform."""
    centres, filled = bank.prototypes()
    distance = torch.cdist(f, centres).masked_fill(~filled, float("inf"))
    return torch.where(filled.any(), -distance / t_proto, torch.zeros_like(distance)).softmax(-1), filled


def entropy_weight(prob: Tensor, scale: float, warm: Tensor | float = 1.0) -> Tensor:
    """OHEML: w of (4), [n]: 1 - scale for a certain row of prob [n, C], 1 for a uniform one; 1 where warm is 0."""
    w = scale * normalised_entropy(prob) + 1 - scale
    return 1 + warm * (w - 1)


def align_rows(q: Tensor, f: Tensor, t_e: float) -> Tensor:
    """Rows of L_e in (5), [n]: cross-entropy of strong features f [n, D] against q [n, D]."""
    return -(q * (f / t_e).log_softmax(-1)).sum(-1)


# ---- the method ------------------------------------------------------------------------------------------------------


class SeMi(Method):
    refuses = {"add": "it has all three modules already, each an option of its own (oheml, plce, embedding_align)"}

    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        preset: str = option("paper", "values to start from: paper")
        threshold: float = option(0.7, "tau: a pseudo-label counts from this confidence on (0.95 = low threshold off)",
                                  low=0, high=1)

        balanced_head: bool = option(True, "the second head and its two terms; off: prediction by the standard head")
        logit_align: bool = option(True, "off: tau_2 = tau_12 = 0")
        tau_2: float = option(2.0, "strength of the balanced head's logit-adjusted loss", low=0)
        tau_12: float = option(2.0, "strength of the adjusted pseudo-label p^h", low=0)

        oheml: bool = option(True, "entropy weights w; off: w = 1")
        scale: float = option(0.75, "share of the weight that follows the entropy", low=0, high=1)

        plce: bool = option(True, "blend of linear and semantic pseudo-label, all that reads the memory bank; off: "
                                  "alpha = 0, and the bank, still filled, moves no number")
        alpha: float = option(0.4, "strength of the blend at the end of the run", low=0, high=1)
        t_proto: float = option(0.1, "temperature of the semantic pseudo-label", low=1e-3)
        u_norm: str = option("share", "how the use of a class scales its blend: share (released) or max (u / max u)",
                             choices=("share", "max"))
        slots: int = option(128, "L, slots of a class's cell", low=1)
        bank_decay: bool = option(True, "off: beta = 1")
        bank_balance: bool = option(True, "off: one pool of C L slots for all classes")
        beta: float = option(0.99, "factor of a decay", low=0, high=1)

        embedding_align: bool = option(True, "L_e; off: lambda_e = 0")
        lambda_e: float = option(0.15, "weight of L_e", low=0)
        t_e: float = option(0.1, "temperature of L_e (its target's is a fifth of it)", low=1e-3)
        centre: float = option(0.9, "how much of the centre qbar is kept each step", low=0, high=1)

        warmup: Duration = option(span(3000), "steps without PLCE, OHEML and L_e; 0 = none", low=0)
        decay_every: Duration = option(span(100), "steps between decays of the bank", low=0)
        epoch: Duration = option(span(500), "steps between refreshes of r and u", low=0)

        @classmethod
        def presets(cls, run) -> dict[str, dict]:
            return {"paper": dict(decay_every=span(200 if run.dataset.startswith("cifar100") else 100))}

    cfg: Config
    tau_2: float
    tau_12: float
    adjust_x: Tensor    # [C]
    adjust_u: Tensor    # [C]

    smoke = {"threshold": 0.2, "slots": 8}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        if cfg.embedding_align and cfg.lambda_e > 0 and cfg.threshold <= 1 / info.classes:
            raise BadInput("threshold", cfg.threshold, f"above 1/C = {1 / info.classes:.3g}, or embedding_align=False: "
                                                       "every confidence is at least 1/C, so no sample would be left "
                                                       "to L_e")
        self.warmup, self.epoch, self.decay_every = (duration_in_steps(d, info.steps)
                                                     for d in (cfg.warmup, cfg.epoch, cfg.decay_every))
        self.alpha = cfg.alpha if cfg.plce else 0.0
        self.lambda_e = cfg.lambda_e if cfg.embedding_align else 0.0
        self.tau_2, self.tau_12 = (cfg.tau_2, cfg.tau_12) if cfg.logit_align else (0.0, 0.0)
        self.scale = cfg.scale if cfg.oheml else 0.0
        self.beta = cfg.beta if cfg.bank_decay else 1.0
        lower = "lower the threshold, or train longer"
        self.must_act = {"u": f"no pseudo-label reached the threshold: {lower}"}
        if cfg.balanced_head:
            self.must_act["u_b"] = f"no balanced pseudo-label reached the threshold: {lower}"
        if self.scale > 0:
            self.must_act["oheml"] = f"no pseudo-label counted after the warm-up: {lower}, or oheml=False"
        if self.alpha > 0:
            self.must_act["plce"] = f"the bank stayed empty, or r 0: {lower}, or plce=False"
        if self.lambda_e > 0:
            self.must_act["e"] = "every pseudo-label was above the threshold: raise it, or embedding_align=False"

    def step_images(self) -> StepImages:
        return StepImages({"l": ("labelled", "weak"), "w": ("unlabelled", "weak"), "s1": ("unlabelled", "strong"),
                           "s2": ("unlabelled", "strong")}, self.info.run.policy)

    def heads(self):
        names = ("head", "balanced") if self.cfg.balanced_head else ("head",)
        return {name: linear(self.info.features, self.info.classes) for name in names}

    def build(self) -> None:
        cfg, info = self.cfg, self.info
        bank = MemoryBank(info.classes, cfg.slots, info.features, cfg.bank_balance, info.dtype)
        self.blend = Blend(bank, self.alpha, cfg.t_proto, cfg.u_norm, self.beta, self.warmup, self.epoch,
                           self.decay_every)
        self.align = Alignment(info.features, info.dtype, self.lambda_e, cfg.t_e, cfg.centre, self.warmup)
        self.register_buffer("adjust_x", log_prior(info.prior(), self.tau_2))
        self.register_buffer("adjust_u", log_prior(info.prior(), self.tau_12))

    def durations(self) -> dict[str, int]:
        out = {"warmup": LeadIn(self.warmup), "epoch": self.epoch}
        return {**out, "decay_every": self.decay_every} if self.beta < 1 else out

    def pseudo(self, v, batch, t) -> Pseudo:
        z, tau = v.w["head"], self.cfg.threshold
        linear = z.softmax(-1)
        prob = self.blend(linear, v.s1.f, t)                                                                    # (1)
        confidence, label = prob.max(-1)
        mask = (confidence >= tau) | (linear.max(-1).values >= tau)                                             # (2)
        p = Pseudo(prob=prob, label=label, mask=mask.to(z.dtype)).add(confidence=confidence, linear=linear)
        if self.cfg.balanced_head:
            adjusted, label_b = (z - self.adjust_u).softmax(-1).max(-1)
            mask_b = (v.w["balanced"].softmax(-1).max(-1).values >= tau) | (adjusted >= tau)
            p.add(label_b=label_b, mask_b=mask_b.to(z.dtype))
        return p

    def terms(self, v, batch, p, t) -> dict[str, Term]:
        w = entropy_weight(p.prob, self.scale, t.since(self.warmup))                                            # (4)
        out = {"x": Term(ce(v.l["head"], batch.y)),                                                             # (3)
               "u": Term(ce(v.s["head"], self.per_view(p.label)), self.per_view(p.mask * w))}
        if self.cfg.balanced_head:
            out["x_b"] = Term(ce(v.l["balanced"] + self.adjust_x, batch.y))
            out["u_b"] = Term(ce(v.s["balanced"], self.per_view(p.label_b)), self.per_view(p.mask_b))
        if self.lambda_e > 0:
            out["e"] = self.align.term(v.w.f, v.s.f, p.mask, t)                                                 # (5)
        return out

    def end_step(self, v, batch, p, t) -> None:
        confidence, label, mask = (self.per_view(x) for x in (p.confidence, p.label, p.mask))
        self.blend.offer(v.s.f, confidence, label, mask, t)                                                     # (6)
        self.blend.count(*self.counted(p), t)                                                                   # (7)
        self.align.move(v.w.f, t)                                                                               # (5)

    def counted(self, p) -> tuple[Tensor, Tensor]:
        """The pseudo-labels of (7), int64 [B], and which of them count, bool [B]."""
        return p.linear.argmax(-1), p.linear.max(-1).values >= self.cfg.threshold

    def acted(self, v, batch, p, t, terms):
        warm = t.since(self.warmup) > 0
        out = {"u": p.mask.sum() > 0}
        if self.scale > 0:
            out["oheml"] = warm & (p.mask.sum() > 0)
        if self.alpha > 0:
            out["plce"] = (p.prob != p.linear).any()
        if self.cfg.balanced_head:
            out["u_b"] = p.mask_b.sum() > 0
        if self.lambda_e > 0:
            out["e"] = warm & ((1 - p.mask).sum() > 0)
        return out

    def timed_parts(self, v, p, t):
        @torch.no_grad()
        def memory_bank() -> None:
            self.blend.offer(v.s.f, self.per_view(p.confidence), self.per_view(p.label), self.per_view(p.mask), t)
            self.blend.bank.prototypes()
        return {"memory bank": memory_bank}

    def predict(self, net, x: Tensor) -> Tensor:
        return net(x)["balanced" if self.cfg.balanced_head else "head"]

    @classmethod
    def original(cls, run):
        """The shared recipe is SeMi's own."""
        return {}
