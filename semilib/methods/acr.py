"""ACR (Wei, Gan, CVPR 2023, pp. 3469-3478): two heads. The standard one's pseudo-labels are adjusted by the labelled
prior. The adjustment is the stronger, the less the unlabelled classes, estimated while training, seem to follow it.

z = standard head, z^b = balanced head, pi = labelled prior, [.] = at least the threshold, A(tau) = log pi^tau.
    (1) sup.      L_x = mean CE(z_x, y),  L_x^b = mean CE(z^b_x + A(tau_2), y)
    (2) standard  p = softmax(z_w - A(tau)),  label argmax p,  m = [max p] or [max softmax(z_w)]
                  L_u = mean m CE(z_s, label)
    (3) balanced  p^h = softmax(z_w - A(tau_12)),  label argmax p^h,  m^b = [max softmax(z^b_w)] or [max p^h]
                  L_u^b = mean m^b CE(z^b_s, label)
    (4) prior     h = frequency of argmax z^b_w among the images that are sure there and not labelled
                  u <- ema u + (1 - ema) h
    (5) distance  J_a = KL(u || a) / 2 + KL(a || u) / 2 to the anchors a = pi, uniform, pi reversed
    (6) strength  tau = tau_1 softmax(mean J of the epoch)_pi at the end of an epoch;  tau_1 before the estimation
    L = L_x + L_x^b + L_u + L_u^b; prediction by the balanced head.

Follows: the release and its README's commands: tau_1 = tau_12 = tau_2 = 2, threshold 0.95, two strong views, ema 0.99
    (0.9 is the script's default). The adjustment in (2) is the release's, confirmed by its authors; the paper's
    equations lack it. m^b may be on because the balanced head is sure of another class than the label. J is summed over
    the steps in which h is not empty and divided by the epoch's length. So the first estimating epoch, before which
    nothing was summed, runs with tau_1 / 3.
Keeps: the start of the estimation (6 epochs of 500 steps) and the epoch are shares of 250,000 steps, and the momentum
    belongs to them too (`momentum_of`). In absolute numbers tau would never move in a short run. The start is rounded
    up to whole epochs.
Differs: h is a frequency. The release's indexing keeps one row a class, so there h says which classes were present
    (official_presence: the last row of each class in the batch, as on a CPU; on a GPU the release's choice is
    undefined). pi is counted exactly; the release counts one drop-last pass (droplast_prior). The sums of J are in
    every checkpoint; a resumed release begins them anew. Probabilities in (5) are at least 1e-12: a class without
    labelled images then leaves tau defined.
Numbers: toy tensors of the tests: L_u .350357, L_u^b .664316, total 3.873753; frequencies [2/3, 0, 1/3] give tau
    .706712.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, log_prior, one_hot
from semilib.networks.net import linear
from semilib.options import Duration, duration_in_steps, momentum_of, option, span


class ACR(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        tau_1: float = option(2.0, "largest strength of the standard branch's adjustment; 0 = none", low=0)
        tau_12: float = option(2.0, "strength of the balanced branch's pseudo-label p^h", low=0)
        tau_2: float = option(2.0, "strength of the balanced head's logit-adjusted loss", low=0)
        ema_u: float = option(0.99, "momentum of u, for 250,000 steps", low=0, high=1)
        epoch: Duration = option(span(500), "steps between changes of tau", low=0)
        start: Duration = option(span(3000), "steps before u and J are followed, rounded up to whole epochs", low=0)
        official_presence: bool = option(False, "h from the presence of classes, as released")
        droplast_prior: bool = option(False, "count the prior over one drop-last pass, as released")

    cfg: Config
    anchors: Tensor     # [3, C]: pi, uniform, pi reversed
    tau: Tensor         # 0-dim
    u: Tensor           # [C]
    distance: Tensor    # [3], sums of J over the epoch

    must_act = {**FixMatch.must_act,
                  "u_b": "no pseudo-label of the balanced branch reached the threshold: lower it, or train longer",
                  "prior": "the balanced head was sure of no unlabelled image: lower the threshold, or train longer"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.epoch = duration_in_steps(cfg.epoch, info.steps)
        self.start = -(-duration_in_steps(cfg.start, info.steps) // max(1, self.epoch)) * self.epoch
        self.ema_u = momentum_of(cfg.ema_u, info.steps)

    @classmethod
    def original(cls, run):
        """The release's, which the shared recipe shares: only what the released code computes otherwise."""
        return dict(options=dict(official_presence=True, droplast_prior=True))

    def heads(self):
        return {**super().heads(), "balanced": linear(self.info.features, self.info.classes)}

    def build(self):
        super().build()
        info, prior = self.info, self.info.prior(drop_last=self.cfg.droplast_prior)
        uniform = torch.full_like(prior, 1 / info.classes)
        self.register_buffer("anchors", torch.stack([prior, uniform, prior.flip(0)]))
        self.register_buffer("tau", torch.full_like(prior[0], self.cfg.tau_1))
        self.register_buffer("u", uniform.clone())
        self.register_buffer("distance", torch.zeros(3, dtype=info.dtype))

    def durations(self):
        return {**super().durations(), "epoch": self.epoch, "start": self.start}

    def pseudo_logits(self, v, batch, t) -> Tensor:
        return super().pseudo_logits(v, batch, t) - log_prior(self.anchors[0], self.tau)

    def pseudo(self, v, batch, t):
        p, z = super().pseudo(v, batch, t), v.w["head"]
        p.mask = torch.maximum(p.mask, self.sure(z.softmax(-1)))                                                   # (2)
        prob_b = (z - log_prior(self.anchors[0], self.cfg.tau_12)).softmax(-1)
        own_b = v.w["balanced"].softmax(-1)
        p.add(prob_b=prob_b, label_b=prob_b.argmax(-1), own_b=own_b,
              mask_b=torch.maximum(self.sure(own_b), self.sure(prob_b)))                                          # (3)
        p.branches["u_b"] = prob_b
        return p

    def sure(self, prob: Tensor) -> Tensor:
        return (prob.amax(-1) >= self.cfg.threshold).to(prob.dtype)

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        out["x_b"] = Term(ce(v.l["balanced"] + log_prior(self.anchors[0], self.cfg.tau_2), batch.y))               # (1)
        rows_b = ce(v.s["balanced"], self.per_view(p.label_b))
        out["u_b"] = Term(rows_b, self.per_view(p.mask_b), scale=self.cfg.lambda_u)
        return out

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        counts = self.histogram(p.own_b.argmax(-1), self.sure(p.own_b) * ~batch.known_u)
        follows = (t.since(self.start) > 0) & (counts.sum() > 0)
        moved = self.ema_u * self.u + (1 - self.ema_u) * counts / counts.sum().clamp(min=1)                        # (4)
        self.u.copy_(torch.where(follows, moved, self.u))
        self.distance.add_(torch.where(follows, distances(self.u, self.anchors), 0))                               # (5)
        changes = t.ends(self.epoch) & (t.step + 1 >= self.start)
        tau = self.cfg.tau_1 * (self.distance / self.epoch).softmax(-1)[0]                                         # (6)
        self.tau.copy_(torch.where(changes, tau, self.tau))
        self.distance.copy_(torch.where(t.ends(self.epoch), 0, self.distance))

    def histogram(self, label: Tensor, counts: Tensor) -> Tensor:
        """How many rows of each class count, [C]; as released: whether the last row of each class counts."""
        rows = one_hot(label, self.info.classes, counts.dtype)
        if not self.cfg.official_presence:
            return (rows * counts.unsqueeze(-1)).sum(0)
        order = torch.arange(1, len(label) + 1, device=label.device)
        last = (rows.to(order.dtype) * order.unsqueeze(-1)).amax(0)                     # 0: no row
        return torch.cat([torch.zeros_like(counts[:1]), counts])[last]

    def acted(self, v, batch, p, t, terms):
        out = super().acted(v, batch, p, t, terms)
        return {**out, "u_b": p.mask_b.sum() > 0, "prior": (self.u != self.anchors[1]).any()}

    def predict(self, net, x: Tensor) -> Tensor:
        return net(x)["balanced"]


def distances(u: Tensor, anchors: Tensor) -> Tensor:
    """Half the symmetric divergence of u [C] from each anchor [A, C], [A]."""
    u, anchors = u.clamp(min=1e-12), anchors.clamp(min=1e-12)
    return ((u - anchors) * (u / anchors).log()).sum(-1) / 2
