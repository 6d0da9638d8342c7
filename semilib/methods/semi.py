"""SeMi (Wang et al., ACM MM 2025, arXiv 2501.06004): mine hard unlabelled examples, steady their pseudo-labels by prototypes of a
class-balanced memory bank whose confidences decay, and debias with a second, logit-adjusted head.

z = standard head, z^b = balanced head, f = features, pi = labelled prior; p = softmax(z_weak).
    (1) PLCE    s = softmax_k(-||f_s1 - c_k|| / T_proto),  a_k = alpha r u_k,  p_k <- (1 - a_k) p_k + a_k s_k
    (2) masks   m = [max p >= tau] or [max softmax(z_weak) >= tau];  m^b = [max softmax(z^b_weak) >= tau] or [max p^h >= tau],
                p^h = softmax(z_weak - tau_12 log pi)
    (3) sup.    L_x = CE(z_x, y),  L_x^b = CE(z^b_x + tau_2 log pi, y)
    (4) OHEML   w = scale H(p) / log C + 1 - scale,  L_u = mean w m CE(z_s, argmax p),  L_u^b = mean m^b CE(z^b_s, argmax p^h)
    (5) E.Align q = softmax((f_weak - qbar) / (T_e / 5)),  L_e = mean (1 - m) (-sum q log softmax(f_s / T_e))
    (6) BCDMB   offers (f_s, max p) of the rows with m = 1 to the cell of argmax p; unpushed slots decay by beta
    L = L_x + L_x^b + L_u + L_u^b + lambda_e L_e;  no (1), w = 1 and L_e = 0 during the warm-up.

Follows: the paper's components with the public release's values. preset="paper" (default) is the method as described; "released" is
    what the public script computes with its defaults (alpha 0, so the bank never reaches a loss); "readme" is the released code with
    the values of its published commands, which do not run as printed (14 of their flags are not defined).
Differs: each defect of the release is a switch, off in "paper":
    misaligned_features  features are read as if the batch had not been interleaved: nearly no row is its own image's
    shifted_bank         a push drops the most confident feature instead of the least
    empty_as_zero        empty slots count as zeros in the prototypes
    droplast_prior       pi is counted over one drop-last pass, so up to B - 1 images are left out
    u_from_blend         u is counted from the blended pseudo-labels
    r_by_epoch_length    r = epoch / (steps an epoch) with epochs of 500 steps, which is progress only in 250,000 of them: a run of
                         25,000 ends at r = 0.098, one of less than 500 never blends
    decay_restarts       the decay's step counter restarts with each epoch
    Differences without a switch (always as in the paper): `--pula`, off by default; SVHN's and ImageNet-127's data handling;
    checkpoints without bank, centre and u. tau 0.7 is the published commands' value, taken to be the threshold; 0.95 is the script's
    default ("released"). u_norm="share" is released; it leaves the blend nearly inert (alpha u_k <= 0.16 for the head of
    CIFAR-10-LT at gamma 100), hence "max" (u / max u, as in DASO). Durations are shares of the 250,000-step schedule.
Numbers: toy tensors of the tests; the paper's own tables have not been seen by this project.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data.step import StepImages
from semilib.errors import BadInput
from semilib.methods.base import Method, Pseudo
from semilib.methods.losses import Term, ce, log_prior, normalised_entropy
from semilib.methods.memory_bank import MemoryBank, ReleasedBank
from semilib.networks.net import linear
from semilib.options import Duration, Options, duration_in_steps, option, span

DEFECTS = ("misaligned_features", "shifted_bank", "empty_as_zero", "droplast_prior", "u_from_blend", "r_by_epoch_length",
           "decay_restarts")


def semantic_label(bank: MemoryBank, f: Tensor, t_proto: float) -> tuple[Tensor, Tensor]:
    """s of (1), [B, C], of features f [B, D]: softmax of minus the distance to each class's prototype over t_proto; and which classes
    have one, bool [C]. A class without one gets 0; without any prototype s is uniform."""
    centres, filled = bank.prototypes()
    distance = torch.cdist(f, centres).masked_fill(~filled, float("inf"))
    return torch.where(filled.any(), -distance / t_proto, torch.zeros_like(distance)).softmax(-1), filled


def entropy_weight(prob: Tensor, scale: float) -> Tensor:
    """w of (4), [B]: 1 - scale for a certain pseudo-label, 1 for a uniform one."""
    return scale * normalised_entropy(prob) + 1 - scale


def align_target(f: Tensor, centre: Tensor, t_e: float) -> Tensor:
    """q of (5), [B, D], of weak features f [B, D] and their moving centre [D]."""
    return ((f - centre) / (t_e / 5)).softmax(-1)


def align_rows(q: Tensor, f: Tensor, t_e: float) -> Tensor:
    """Rows of L_e in (5), [B]: cross-entropy of strong features f [B, D] against q [B, D]."""
    return -(q * (f / t_e).log_softmax(-1)).sum(-1)


class SeMi(Method):
    refuses = {"add": "it has all three modules already, each an option of its own (oheml, plce, embedding_align)"}

    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        preset: str = option("paper", "values to start from: paper, released, readme")
        threshold: float = option(0.7, "tau: a pseudo-label counts from this confidence on (0.95 = low threshold off)", low=0, high=1)

        balanced_head: bool = option(True, "the second head and its two terms; off: prediction by the standard head")
        logit_align: bool = option(True, "off: tau_2 = tau_12 = 0")
        tau_2: float = option(2.0, "strength of the balanced head's logit-adjusted loss", low=0)
        tau_12: float = option(2.0, "strength of the adjusted pseudo-label p^h", low=0)

        oheml: bool = option(True, "entropy weights w; off: w = 1")
        scale: float = option(0.75, "share of the weight that follows the entropy", low=0, high=1)

        plce: bool = option(True, "blend of linear and semantic pseudo-label; off: alpha = 0")
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

        misaligned_features: bool = option(False, "the release's defect 1")
        shifted_bank: bool = option(False, "the release's defect 2; sequential and slow")
        empty_as_zero: bool = option(False, "the release's defect 3")
        droplast_prior: bool = option(False, "the release's defect 5")
        u_from_blend: bool = option(False, "the release's defect 6")
        r_by_epoch_length: bool = option(False, "the release's defect 7")
        decay_restarts: bool = option(False, "the release's defect 8")

        @classmethod
        def presets(cls, run) -> dict[str, dict]:
            defects = dict.fromkeys(DEFECTS, True)
            many = run.dataset.startswith("cifar100")
            later = many or (run.dataset == "cifar10" and run.n1 == 500)
            decay_every = span(200 if many else 100)
            return {
                "paper": dict(decay_every=decay_every),
                "released": dict(threshold=0.95, alpha=0.0, decay_every=span(50), **defects),
                "readme": dict(t_e=0.09, decay_every=decay_every, warmup=span(500 * (21 if later else 3)), **defects),
            }

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.warmup, self.epoch, self.decay_every = (duration_in_steps(d, info.steps) for d in (cfg.warmup, cfg.epoch, cfg.decay_every))
        self.alpha = cfg.alpha if cfg.plce else 0.0
        self.lambda_e = cfg.lambda_e if cfg.embedding_align else 0.0
        self.tau_2, self.tau_12 = (cfg.tau_2, cfg.tau_12) if cfg.logit_align else (0.0, 0.0)
        self.scale = cfg.scale if cfg.oheml else 0.0
        self.beta = cfg.beta if cfg.bank_decay else 1.0
        lower = "lower the threshold, or train longer"
        advice = {"u": f"no pseudo-label reached the threshold: {lower}",
                  "u_b": f"no balanced pseudo-label reached the threshold: {lower}" * cfg.balanced_head,
                  "oheml": f"no pseudo-label counted after the warm-up: {lower}, or oheml=False" * (self.scale > 0),
                  "plce": f"the bank stayed empty, or r 0: {lower} (500 steps with r_by_epoch_length), or plce=False" * (self.alpha > 0),
                  "e": "every pseudo-label was above the threshold: raise it, or embedding_align=False" * (self.lambda_e > 0)}
        self.must_act = {name: text for name, text in advice.items() if text}
        if self.lambda_e > 0 and cfg.threshold <= 1 / info.classes:
            raise BadInput("threshold", cfg.threshold, f"above 1/C = {1 / info.classes:.3g}, or embedding_align=False: every "
                                                       "confidence is at least 1/C, so no sample would be left to L_e")
        self.capturable = not cfg.shifted_bank
        if cfg.misaligned_features and info.mu != 1:
            raise BadInput("mu", info.mu, "1 with misaligned_features, which reproduces a batch of four equal parts")

    @classmethod
    def original(cls, run):
        """The shared recipe is SeMi's own."""
        return {}

    def step_images(self) -> StepImages:
        return StepImages({"l": ("labelled", "weak"), "w": ("unlabelled", "weak"), "s1": ("unlabelled", "strong"),
                     "s2": ("unlabelled", "strong")}, self.info.run.policy)

    def heads(self):
        names = ("head", "balanced") if self.cfg.balanced_head else ("head",)
        return {name: linear(self.info.features, self.info.classes) for name in names}

    def build(self) -> None:
        cfg, info = self.cfg, self.info
        prior = info.prior(drop_last=cfg.droplast_prior)
        size = (info.classes, cfg.slots, info.features)
        kind = dict(balanced=cfg.bank_balance, dtype=info.dtype)
        self.bank = (ReleasedBank(*size, shifted=cfg.shifted_bank, empty_as_zero=cfg.empty_as_zero, **kind)
                     if cfg.shifted_bank or cfg.empty_as_zero else MemoryBank(*size, **kind))
        self.register_buffer("adjust_x", log_prior(prior, self.tau_2))
        self.register_buffer("adjust_u", log_prior(prior, self.tau_12))
        self.register_buffer("used", torch.zeros(info.classes, dtype=torch.int64))       # confident pseudo-labels so far, by class
        self.register_buffer("u", torch.ones(info.classes, dtype=info.dtype))
        self.register_buffer("qbar", torch.zeros(info.features, dtype=info.dtype))

    def durations(self) -> dict[str, int]:
        out = {"warmup": self.warmup, "epoch": self.epoch}
        return {**out, "decay_every": self.decay_every} if self.beta < 1 else out

    # ---- a step ------------------------------------------------------------------------------------------------------------------

    def pseudo(self, v, batch, t) -> Pseudo:
        z, tau = v.w["head"], self.cfg.threshold
        linear = z.softmax(-1)
        prob = self.enhance(linear, self.features(v)["s1"], t)                                                    # (1)
        confidence, label = prob.max(-1)
        sure = (confidence >= tau) | (linear.max(-1).values >= tau)                                               # (2)
        p = Pseudo(prob=prob, label=label, mask=sure.to(z.dtype), confidence=confidence, linear=linear)
        if self.cfg.balanced_head:
            adjusted, p.label_b = (z - self.adjust_u).softmax(-1).max(-1)
            p.mask_b = ((v.w["balanced"].softmax(-1).max(-1).values >= tau) | (adjusted >= tau)).to(z.dtype)
        return p

    def terms(self, v, batch, p, t) -> dict[str, Term]:
        warm = t.since(self.warmup)
        weight = 1 + warm * (self.entropy_weight(p.prob) - 1)                                                     # (4)
        out = {"x": Term(ce(v.l["head"], batch.y)),                                                               # (3)
               "u": Term(ce(v.s["head"], self.per_view(p.label)), self.per_view(p.mask * weight))}
        if self.cfg.balanced_head:
            out["x_b"] = Term(ce(v.l["balanced"] + self.adjust_x, batch.y))
            out["u_b"] = Term(ce(v.s["balanced"], self.per_view(p.label_b)), self.per_view(p.mask_b))
        if self.lambda_e > 0:
            f = self.features(v)
            q = self.align_target(f["w"].detach())                                                                # (5)
            out["e"] = Term(align_rows(self.per_view(q), f["s"], self.cfg.t_e), self.per_view(1 - p.mask), scale=warm * self.lambda_e)
        return out

    def end_step(self, v, batch, p, t) -> None:
        cfg, f = self.cfg, self.features(v)
        self.bank.push(f["s"], self.per_view(p.confidence), self.per_view(p.label), self.per_view(p.mask))        # (6)
        step = t.step % self.epoch if cfg.decay_restarts else t.step
        if self.beta < 1:
            self.bank.decay((step + 1) % self.decay_every == 0, self.beta)
        label, counts = (p.label, p.mask > 0) if cfg.u_from_blend else (p.linear.argmax(-1), p.linear.max(-1).values >= cfg.threshold)
        self.used.scatter_add_(0, label, counts.to(torch.int64))
        share = self.used.to(self.u.dtype) / self.used.sum().clamp(min=1)
        self.u.copy_(torch.where(t.ends(self.epoch) & (self.used.sum() > 0), share, self.u))
        moved = cfg.centre * self.qbar + (1 - cfg.centre) * self.align_target(f["w"]).mean(0)
        self.qbar.copy_(torch.where(t.since(self.warmup) > 0, moved, self.qbar))

    def acted(self, v, batch, p, t, terms):
        warm = t.since(self.warmup) > 0
        out = {"u": p.mask.sum() > 0, "oheml": warm & (p.mask.sum() > 0), "plce": (p.prob != p.linear).any()}
        if self.cfg.balanced_head:
            out["u_b"] = p.mask_b.sum() > 0
        if self.lambda_e > 0:
            out["e"] = warm & ((1 - p.mask).sum() > 0)
        return out

    def timed_parts(self, v, p, t):
        f = self.features(v)["s"]

        @torch.no_grad()
        def memory_bank() -> None:
            self.bank.push(f, self.per_view(p.confidence), self.per_view(p.label), self.per_view(p.mask))
            self.bank.decay(t.ends(self.decay_every), self.beta)
            self.bank.prototypes()
        return {"memory bank": memory_bank}

    def predict(self, net, x: Tensor) -> Tensor:
        return net(x)["balanced" if self.cfg.balanced_head else "head"]

    # ---- its parts ---------------------------------------------------------------------------------------------------------------

    def enhance(self, linear: Tensor, f: Tensor, t) -> Tensor:
        """(1): p blended with the semantic pseudo-label of f (strong view 1), [B, C]; not renormalised."""
        semantic, filled = semantic_label(self.bank, f, self.cfg.t_proto)
        epoch = 500 if self.cfg.r_by_epoch_length else self.epoch
        done = torch.div(t.step, epoch, rounding_mode="floor").to(linear.dtype)
        r = done / (500 if self.cfg.r_by_epoch_length else -(-t.total // epoch))
        u = self.u / self.u.max() if self.cfg.u_norm == "max" else self.u
        a = t.since(self.warmup) * self.alpha * r * u * filled
        return (1 - a) * linear + a * semantic

    def entropy_weight(self, prob: Tensor) -> Tensor:
        """w of (4), [B]: 1 - scale for a certain pseudo-label, 1 for a uniform one."""
        return entropy_weight(prob, self.scale)

    def align_target(self, f: Tensor) -> Tensor:
        """q of (5), [B, D]."""
        return align_target(f, self.qbar, self.cfg.t_e)

    def features(self, v) -> dict[str, Tensor]:
        """Features by view. With misaligned_features, row j of part g is that of row 4 j + g of the joined batch (l, w, s1, s2): the
        release undoes its interleaving for the logits alone."""
        f = {name: v[name].f for name in ("l", "w", "s1", "s2")}
        if self.cfg.misaligned_features:
            joined = torch.cat(list(f.values()))
            f = {name: joined[g::4] for g, name in enumerate(f)}
        return {**f, "s": torch.cat([f["s1"], f["s2"]])}
