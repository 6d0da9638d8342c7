"""CCL (Zhou, Fang, Zhou, Wei, Wan, Zhang, NeurIPS 2024, arXiv 2410.06109): two heads with running estimates of the
unlabelled prior, and class posteriors by kernel density in a projected space. That space learns from reliable
pseudo-labels, chosen by energy, and from smoothness.

f, b = logits of the standard and the balanced head; A(q, tau) = log(q^tau + 1e-12); eta = mu / (mu + 1).
pi = labelled prior; q_a, q_u = estimated priors of the pool and of its images without label.
unit rows h = g(features) of all views, c = g_c(weights of b).
    (1) sup.      L_x = mean CE(f(x), y),  L_x^b = mean CE(b(x) + A(pi, tau), y)
    (2) fused     z = [f(w) - A((1 - eta) pi + eta q_a, 1) + A(q_u, 1 + tau / 2)] / 2 + b(w) / 2
                  p = softmax(z),  label argmax p,  m = [max p >= threshold]
                  e = [logsumexp(z) >= energy],  p^ = p^4 / sum p^4
    (3) unsup.    L_u = mean m CE(f(s), label),  L_u^b = mean m CE(b(s) + A(q_a, tau), label), both times max(1.5, mu)
    (4) density   G(H)_k ~ [sum_j exp(h . F_j / T) Y_jk] / sum_j Y_jk
                  F = [c; two sim views of x],  Y = [ones; one-hot y; one-hot y]
    (5) smoothed  P(H) = (1 - a) (I - a S)^-1 G(H),  S = softmax of the rows of H H'
    (6) L_spl = mean [CE(aim, P(s)) + CE(aim, P(s')) + H((P(s) + P(s')) / 2)] / 3,  aim = P(w)^4 / sum P(w)^4
    (7) L_rpl = mean CE(Y_i, q_i) over the sim views and the strong views with e, whose Y is p^; members: these and c
                  q_ik ~ [sum_{j != i} exp(h_i . h_j / T) Y_jk] / sum_{j != i} Y_jk
    (8) priors    at the end of each period, from the start on: q_u <- alpha q_u + (1 - alpha) n_u / sum n_u
                  q_a likewise by beta and n_a;  n_a = 1 + sum m p and n_u = 1 + sum e [not labelled] p of the period
    L = lambda_1 (L_x + L_x^b + L_u + L_u^b) + lambda_2 L_spl + (1 - lambda_1) L_rpl;  prediction by the balanced head.

Follows: the release, also where it differs from the paper (logits averaged, not probabilities; q_a in L_u^b; no prior
    in the contrastive terms; priors moved once a period): tau 2, lambda_1 0.7, lambda_2 1, a 0.2, T 0.1, energy 8.75.
    The priors follow its commands for CIFAR-10 (alpha 0.5, beta 0.9, from step 10,500 on) for every order of the
    unlabelled classes. For CIFAR-100 it has beta 0.5 from step 3,000 on (the original recipe). For the reversed order
    it has had alpha = beta = 0.999 and period 100 since a year after publication. In (4) and (7) the class centres c
    belong to all classes alike: the release's ones. The paper's text has them in their own (centre_label="eye").
Keeps: the sim views of labelled images (SimCLR's: resized crop, colour jitter, grey, blur), of which the contrastive
    terms are made; with the shared recipe's strong views it would be another method. The start is a share of 250,000
    steps, and the period belongs to them too (`window_of`): in absolute numbers the priors would never move in a short
    run. alpha and beta stay as they are, although a short run has fewer moves. With 0.999, q_u keeps 8 % of its uniform
    start after 250,000 steps, 29 % after 25,000 and 97 % after 600. The energy is a level of logits and stays as it is.
Differs: pi is counted exactly; the release counts one drop-last pass (droplast_prior). Priors and counts are in every
    checkpoint; a resumed release begins q_u anew. P is at least 1e-12. The projectors' norms are exempt from weight
    decay; the release's rule by names misses them. The projectors' statistics have momentum 0.1 (ten steps, not
    scaled). There are 256 projected features, as for WRN-28-2.
Numbers: toy tensors of the tests: L_x .896378, L_x^b 1.962702, L_u .162079, L_u^b .446377, L_spl .891272, L_rpl
    .954873, L 4.030928.

On the embedded pictures at 600 steps it stays below Supervised (37.8 +- 1.4 against 51.4 +- 2.8, three seeds). L_spl
holds it back, which acts with its full weight from step 0 on. One seed's last evaluation is 44.5; with lambda_2=0 it is
66.6, without either contrastive term 66.0. Probably the posteriors of untrained projections are nothing to agree on
yet; that has not been measured.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from semilib.data.step import StepImages
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, log_prior, one_hot
from semilib.networks.net import View, linear
from semilib.options import Duration, duration_in_steps, option, span, window_of

PROJECTED = 256


class Projector(nn.Sequential):
    """Rows [n, D] -> unit rows [n, 256]. reads=None: not of the features, but of the class weights."""

    def __init__(self, features: int, reads: str | None = "features"):
        super().__init__(linear(features, features), nn.BatchNorm1d(features, momentum=0.1), nn.ReLU(),
                         linear(features, PROJECTED))
        self.reads = reads

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(rows), dim=1)


class CCL(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        tau: float = option(2.0, "strength of the logit adjustments", low=0)
        energy: float = option(8.75, "a pseudo-label is a member of (7) from this logsumexp of the fused logits on")
        lambda_1: float = option(0.7, "share of the classification losses; the rest is that of (7)", low=0, high=1)
        lambda_2: float = option(1.0, "weight of the smoothed term (6)", low=0)
        smoothing: float = option(0.2, "a: how far (5) spreads posteriors over a batch", low=0, high=0.99)
        kernel_t: float = option(0.1, "T: temperature of the kernel", low=0.02)
        centre_label: str = option("ones", "classes of the centres: ones (all, as released) or eye (their own)",
                                   choices=("ones", "eye"))
        alpha: float = option(0.5, "momentum of q_u, a period", low=0, high=1)
        beta: float = option(0.9, "momentum of q_a, a period", low=0, high=1)
        start: Duration = option(span(10_500), "steps before the priors are moved, rounded up to whole periods", low=0)
        period: int = option(500, "steps between two moves of the priors, for 250,000 steps", low=1)
        droplast_prior: bool = option(False, "count the labelled prior over one drop-last pass, as released")

    cfg: Config
    pi: Tensor          # [C], as all of these but the last
    q_a: Tensor
    q_u: Tensor
    n_a: Tensor
    n_u: Tensor
    y_c: Tensor         # classes of the centres, [C, C]

    must_act = {**FixMatch.must_act,
                  "reliable": "no pseudo-label reached the energy, so the reliable term saw labelled images alone: "
                              "lower it",
                  "prior": "the unlabelled prior never moved: begin earlier, shorten the period, or lower the energy"}
    smoke = {**FixMatch.smoke, "energy": 1.0, "period": 4}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.period = window_of(cfg.period, info.steps)
        self.start = -(-duration_in_steps(cfg.start, info.steps) // self.period) * self.period

    @classmethod
    def original(cls, run):
        """The release's, which the shared recipe shares: what it computes otherwise, and its values for other data than
        CIFAR-10. The release has no configuration for STL-10; the weight of (6) is the paper's."""
        later = {} if run["dataset"] == "cifar10" else dict(beta=0.5, start=span(3000))
        later |= {"imagenet127": dict(tau=0.1, lambda_2=1.5), "stl10": dict(lambda_2=1.5)}.get(run["dataset"], {})
        size = dict(batch=32, mu=2) if run["dataset"] == "imagenet127" else {}
        return dict(options=dict(droplast_prior=True, **later), **size)

    def step_images(self):
        base = super().step_images()
        return StepImages({**base.views, "l1": ("labelled", "sim"), "l2": ("labelled", "sim")}, base.policy)

    def heads(self):
        d = self.info.features
        return {**super().heads(), "balanced": linear(d, self.info.classes),
                "g": Projector(d), "g_c": Projector(d, None)}

    def build(self):
        super().build()
        info, prior = self.info, self.info.prior(drop_last=self.cfg.droplast_prior)
        self.register_buffer("pi", prior)
        self.register_buffer("q_a", prior.clone())
        self.register_buffer("q_u", torch.full_like(prior, 1 / info.classes))
        self.register_buffer("n_a", torch.ones_like(prior))
        self.register_buffer("n_u", torch.ones_like(prior))
        ones = torch.ones(info.classes, info.classes) if self.cfg.centre_label == "ones" else torch.eye(info.classes)
        self.register_buffer("y_c", ones.to(prior.dtype))

    def durations(self):
        return {**super().durations(), "start": self.start, "period": self.period}

    def forward(self, net, images, batch, t, teacher):
        v = super().forward(net, images, batch, t, teacher)
        weights = net.heads["balanced"].weight
        v["c"] = View({"g": net.heads["g_c"](weights)}, weights)
        return v

    def pseudo_logits(self, v, batch, t) -> Tensor:
        """The logits fused as in (2), [mu B, C], also a note `fused` for `pseudo`."""
        eta = self.info.mu / (self.info.mu + 1)
        offset = log_prior(self.q_u, 1 + self.cfg.tau / 2) - log_prior((1 - eta) * self.pi + eta * self.q_a, 1)
        fused = batch.notes.fused = (super().pseudo_logits(v, batch, t) + offset + v.w["balanced"]) / 2           # (2)
        return fused

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        sure = batch.notes.fused.logsumexp(-1) >= self.cfg.energy
        p.add(sharp=sharpened(p.prob), sure=sure.to(p.prob.dtype))
        p.branches["u_b"] = p.prob
        return p

    def terms(self, v, batch, p, t):
        out, cfg, hot = super().terms(v, batch, p, t), self.cfg, one_hot(batch.y, self.info.classes, self.pi.dtype)
        out["x_b"] = Term(ce(v.l["balanced"] + log_prior(self.pi, cfg.tau), batch.y))                              # (1)
        u = out["u"]._replace(scale=out["u"].scale * max(1.5, self.info.mu))
        u_b = ce(v.s["balanced"] + log_prior(self.q_a, cfg.tau), self.per_view(p.target))
        out.update(u=u, u_b=u._replace(rows=u_b))                                                                  # (3)
        out = {name: term._replace(scale=term.scale * cfg.lambda_1) for name, term in out.items()}
        members, y = torch.cat([v.c["g"], v.l1["g"], v.l2["g"]]), torch.cat([self.y_c, hot, hot])
        with torch.no_grad():
            aim = sharpened(self.smoothed(v.w["g"], members, y))
        said = [self.smoothed(v[name]["g"], members, y) for name in v.strong]
        mean = torch.stack(said).mean(0)
        spl = sum(ce_of(aim, s) for s in said) + ce_of(mean, mean)                                                 # (6)
        out["spl"] = Term(spl / (len(said) + 1), scale=cfg.lambda_2)
        chosen = self.per_view(p.sure)
        y = torch.cat([y, self.per_view(p.sharp) * chosen.unsqueeze(1)])
        rows = self.reliable(torch.cat([members, v.s["g"]]), y)
        out["rpl"] = Term(rows, torch.cat([torch.ones_like(rows[:2 * len(hot)]), chosen]), "weight", 1 - cfg.lambda_1)
        return out

    def smoothed(self, h: Tensor, members: Tensor, y: Tensor) -> Tensor:
        """(4) and (5): posteriors [n, C] of unit rows h [n, 256], given members and their classes y [m, C]."""
        g = normalised((h @ members.T / self.cfg.kernel_t).exp() @ y / y.sum(0))                                   # (4)
        a = self.cfg.smoothing
        system = torch.eye(len(h), dtype=h.dtype, device=h.device) - a * (h @ h.T).softmax(-1)
        return ((1 - a) * torch.linalg.solve_ex(system, g, check_errors=False).result).clamp(min=1e-12)            # (5)

    def reliable(self, h: Tensor, y: Tensor) -> Tensor:
        """(7): the loss of each row of h [m, 256] but the first C, the centres.
        A row of y [m, C] that is 0 is no member."""
        c, own = self.info.classes, torch.eye(len(h), dtype=torch.bool, device=h.device)
        kernel = (h[c:] @ h.T / self.cfg.kernel_t).exp().masked_fill(own[c:], 0)
        return ce_of(y[c:], normalised(kernel @ y / (y.sum(0) - y[c:])))

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        self.n_a.add_((p.mask.unsqueeze(1) * p.prob).sum(0))
        self.n_u.add_(((p.sure * ~batch.known_u).unsqueeze(1) * p.prob).sum(0))
        over = t.ends(self.period)
        for q, n, momentum in ((self.q_a, self.n_a, self.cfg.beta), (self.q_u, self.n_u, self.cfg.alpha)):
            moved = momentum * q + (1 - momentum) * n / n.sum()                                                    # (8)
            q.copy_(torch.where(over & (t.since(self.start) > 0), moved, q))
            n.copy_(torch.where(over, 1, n))

    def acted(self, v, batch, p, t, terms):
        moved = (self.q_u * self.info.classes - 1).abs().amax() > 1e-4
        return {**super().acted(v, batch, p, t, terms), "reliable": p.sure.sum() > 0, "prior": moved}

    def predict(self, net, x: Tensor) -> Tensor:
        return net(x)["balanced"]


def normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(-1, keepdim=True)


def sharpened(prob: Tensor) -> Tensor:
    return normalised(prob**4)


def ce_of(target: Tensor, prob: Tensor) -> Tensor:
    """-sum target log prob, a row; with a target that has a gradient too, it is followed."""
    return -(target * prob.log()).sum(-1)
