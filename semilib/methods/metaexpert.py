"""Meta-Expert (Hou, Jia, ICML 2025, arXiv 2505.16341): CPE, and a gate that weights its three heads for each image, in
training and at test time. The gate reads features of all depths and what the heads say.

CPE's notation: c_k = zbar_k = mean over norms of head k's logits, z_k^j those of norm j = H, M, T;
l_k = c_k + tau_k log pi.  G_1, G_2, G_3 = the classes before cut_1, from there to cut_2, and from there on;
v_i = pooled LeakyReLU(norm(map of depth i)).
    (1) depths    f_i = A_i(v_i + f_{i-1}),  g_i = B_i(f_i + g_{i-1}),  A, B = SiLU(linear)
    (2) gate      o = three SiLU(linear) of [g_4, softmax l_1, softmax l_2, softmax l_3]
    (3) weights   w = softmax over k of p_k softmax(o)_k,  p_k = max over G_k of softmax(c_k)
    (4) fused     F = sum_k w_k l_k,  F_k = sum_j w_j z_k^j;  y_k = argmax F_k(weak)
    (5)           L_f = sum omega_y CE(F(x), y) / sum omega_y + sum_k rho_k mean CE(F_k(s), y_k)
                  omega_c = 1 / (1 - .99^N_c)
    (6) gate      L_g = the same weighted mean of CE(o(x), group of y) + mean CE(o(s), argmax o(w)),  omega from the
                  groups' totals
    (7) regime    q_c = share of class c in the steps with a sure image of it, head 2;  a, b = the first and the second
                  half of the classes;  rho_3 = [max q_b > 2 min q_a and max q_a < 2 min q_b] (reversed),
                  rho_2 = [max q < 2 min q] (uniform),  else rho_1
    L = L_CPE + L_f + L_g from `start` on;  prediction by sum_k w_k c_k.

Follows: the release, values and all. q is counted over one epoch of 1,024 steps, the last before the start (20 epochs
    of 256). Then rho is fixed; until then each is 1/3. (5) and (6) have no mask, although the release computes one and
    the paper is said to have it (masked: with the threshold, on F_k's and the gate's own predictions).
Keeps: CPE's denominator. The start is a share of the schedule. So is the window, but it has at least 20 steps
    (`window_of`): in a short run an epoch is two steps, in which hardly a class is seen.
Differs: the release builds its optimiser before A, B and the gate exist, so its gate stays a fixed random map, which
    the backbone learns to drive. Here it is trained (official_frozen_gate: as released). Its parameters join at the
    start: no decay wears them down before. The release's z - min z in (4) moves each row of F by one number, hence no
    loss and no label, and is left out. A sure image of a class counts wherever it stands in the batch; the release
    keeps the mask of one arbitrary row of each class. Images that are labelled too are not counted, as its pool has
    none. (frequency: images are counted, not steps.) If head 2 is sure of no image in the window, the release keeps 1/3
    for good. Here the window is made longer until it holds one, as short runs need. All layers start from Xavier's
    values. The paper has no ResNet-50: its depths here are the four groups, and widths follow the same rule, 2 x 2048
    the last.
Numbers: toy tensors of the tests: w .367122, .304356, .328523; test logits 1.038599, .671477, .152178, .328523,
    .657045; 1,669,889 parameters with 10 classes, 198,435 of them A, B and the gate.

Until the start a run is CPE's to the last bit, but for its prediction. SeMi's modules see the fused heads as three
further branches, read through `pseudo_prob` too, and the gate's as one of three classes.

On the embedded pictures at 600 steps it is where Supervised is (51.9 +- 5.6 against 51.4 +- 2.8, three seeds) and still
rising: last evaluation of the first seed 69.2. The reported mean of the last 20 evaluations covers steps 372 to 600, in
which most of that rise lies.
"""
from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semilib.methods.base import Phase
from semilib.methods.cpe import CPE, HEADS
from semilib.methods.losses import Term, ce, one_hot
from semilib.networks.net import linear
from semilib.options import Duration, duration_in_steps, option, span, window_of

RELEASE_STEPS = 2**18


class Depths(nn.Module):
    """Maps of all depths -> their pooled features side by side, [n, sum of widths]."""

    reads = "maps"

    def __init__(self, widths: tuple[int, ...], momentum: float):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-3, momentum=momentum) for width in widths)

    def forward(self, maps: list[Tensor]) -> Tensor:
        pooled = [F.leaky_relu(norm(m), 0.1, inplace=True).mean((2, 3))
                  for norm, m in zip(self.norms, maps, strict=True)]
        return torch.cat(pooled, 1)


class Gate(nn.Module):
    """Features of all depths [n, sum of widths] and the heads' adjusted probabilities [n, head, C] -> o [n, head]."""

    reads = None

    def __init__(self, widths: tuple[int, ...], classes: int):
        super().__init__()
        self.widths, ladder = list(widths), [*widths, 2 * widths[-1]]
        self.a = nn.ModuleList(linear(i, o) for i, o in pairwise(ladder))
        self.b = nn.ModuleList(linear(i, o) for i, o in pairwise([*ladder[1:], ladder[-1]]))
        last = [ladder[-1] + 3 * classes, ladder[-1] // 2, ladder[-1] // 4, 3]
        self.out = nn.ModuleList(linear(i, o) for i, o in pairwise(last))

    def forward(self, depths: Tensor, prob: Tensor) -> Tensor:
        f: Any = 0.0
        g: Any = 0.0
        for a, b, v in zip(self.a, self.b, depths.split(self.widths, 1), strict=True):
            f = F.silu(a(v + f))                                                                                 # (1)
            g = F.silu(b(f + g))
        o = torch.cat([g, prob.flatten(1)], 1)
        for layer in self.out:
            o = F.silu(layer(o))                                                                                 # (2)
        return o


class MetaExpert(CPE):
    @dataclasses.dataclass(frozen=True)
    class Config(CPE.Config):
        start: Duration = option(span(20 * 1024, of=RELEASE_STEPS),
                                 "steps before the fused and the gate's losses begin", low=0)
        window: int = option(1024, "steps before the start in which rho's classes are counted, in a run of 262,144",
                             low=1)
        beta: float = option(0.99, "of the effective number in omega; 0 = all classes weigh the same", low=0,
                             high=0.9999)
        masked: bool = option(False, "fused and gate losses only on rows whose own prediction reaches the threshold")
        frequency: bool = option(False, "count sure images for rho, not the steps that have one")
        official_frozen_gate: bool = option(False, "A, B and the gate keep their initial values, as released")

    cfg: Config
    group: Tensor         # [C] int64 in 0..2
    groups: Tensor        # [3, C], one-hot
    omega: Tensor         # [C]
    omega_group: Tensor   # [3]
    first_half: Tensor    # [C] bool
    seen: Tensor          # [C]
    rho: Tensor           # [3]
    decided: Tensor       # 0-dim bool

    reads_maps = True
    must_act = {**CPE.must_act, "regime": "head 2 was sure of no unlabelled image by the end of a window, so rho "
                                          "stayed 1/3: lower the threshold, or train longer"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.start = duration_in_steps(cfg.start, info.steps)
        self.window = min(self.start, window_of(cfg.window, info.steps, of=RELEASE_STEPS))

    @classmethod
    def original(cls, run):
        """CPE's, with the frozen gate and a pool without the labelled images."""
        own = super().original(run)
        return {**own, "labelled_in_unlabelled": False, "options": {**own["options"], "official_frozen_gate": True}}

    def heads(self):
        widths = self.info.map_widths
        return {**super().heads(), "depths": Depths(widths, self.info.run.bn_momentum),
                "gate": Gate(widths, self.info.classes)}

    def optimisers(self, net, make):
        if not self.cfg.official_frozen_gate:
            return super().optimisers(net, make)
        net.heads["gate"].requires_grad_(False)
        return [make([net.backbone, *(head for name, head in net.heads.items() if name != "gate")])]

    def build(self):
        super().build()
        info, c = self.info, self.info.classes
        counts = info.counts.to(info.device, info.dtype)
        group = (self.rank.unsqueeze(-1) >= self.first).sum(-1) - 1                            # [C], of 3
        groups = one_hot(group, 3, info.dtype).T
        self.register_buffer("group", group)
        self.register_buffer("groups", groups)
        self.register_buffer("omega", effective_weights(counts, self.cfg.beta))
        self.register_buffer("omega_group", effective_weights(groups @ counts, self.cfg.beta))
        self.register_buffer("first_half", self.rank < c // 2)
        self.register_buffer("seen", torch.zeros(c, dtype=info.dtype))
        self.register_buffer("rho", torch.full((3,), 1 / 3, dtype=info.dtype))
        self.register_buffer("decided", torch.zeros((), dtype=torch.bool))

    def durations(self):
        return {**super().durations(), "start": self.start, "window": self.window}

    def phases(self):
        return [Phase("experts"), Phase("fused", self.start)]

    def forward(self, net, images, batch, t, teacher):
        v = super().forward(net, images, batch, t, teacher)
        if t.phase == "fused":
            for name, view in v.items():
                by = teacher if name == "w" and self.step_images().policy == "ema_eval" else net
                view["gate"] = self.gate(by, view)
        return v

    def gate(self, net, view) -> Tensor:
        return net.heads["gate"](view["depths"], (view["experts"].mean(2) + self.offsets).softmax(-1))

    def weights(self, c: Tensor, o: Tensor) -> Tensor:
        """Of the three heads, [n, head], from their logits [n, head, C] and the gate's [n, head]."""
        return ((c.softmax(-1) * self.groups).amax(-1) * o.softmax(-1)).softmax(-1)                              # (3)

    def fused(self, view) -> tuple[Tensor, Tensor]:
        """F [n, C] and the three F_k [n, head, C]."""
        z = view["experts"]
        w = self.weights(z.mean(2), view["gate"])
        return (w.unsqueeze(-1) * (z.mean(2) + self.offsets)).sum(1), (w[:, None, :, None] * z).sum(2)           # (4)

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        if t.phase == "fused":
            z = self.fused(v.w)[1]
            for k in HEADS:
                p.branches[f"fused_u{k + 1}"] = self.pseudo_prob(z[:, k].softmax(-1), v, batch, t)
            p.branches["gate_u"] = v.w["gate"].softmax(-1)
        return p

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        if t.phase == "fused":
            group, strong = self.group[batch.y], self.fused(v.s)[1]
            out["fused"] = Term(ce(self.fused(v.l)[0], batch.y), self.omega[batch.y], "weight")                  # (5)
            out["gate"] = Term(ce(v.l["gate"], group), self.omega_group[group], "weight")                        # (6)
            for k in HEADS:
                out[f"fused_u{k + 1}"] = self.unsupervised(strong[:, k], p.branches[f"fused_u{k + 1}"], self.rho[k])
            out["gate_u"] = self.unsupervised(v.s["gate"], p.branches["gate_u"], 1.0)
        return out

    def unsupervised(self, z: Tensor, prob: Tensor, scale) -> Term:
        confidence, label = prob.max(-1)
        mask = (confidence >= self.cfg.threshold).to(prob.dtype) if self.cfg.masked else torch.ones_like(confidence)
        return Term(ce(z, self.per_view(label)), self.per_view(mask), scale=self.cfg.lambda_u * scale)

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        counted = p.masks[:, 1, 0] * ~batch.known_u
        sure = one_hot(p.labels[:, 1], self.info.classes, self.seen.dtype) * counted.unsqueeze(-1)
        counts = t.since(self.start - self.window) * ~self.decided
        self.seen.add_(counts * (sure.sum(0) if self.cfg.frequency else sure.amax(0)))
        after = t.step + 1 - self.start                                             # the window's end, or a later one's
        now = (after >= 0) & (after % self.window == 0) & ~self.decided & (self.seen.sum() > 0)
        self.rho.copy_(torch.where(now, regime(self.seen, self.first_half), self.rho))                           # (7)
        self.decided.logical_or_(now)

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "regime": self.decided}

    def predict(self, net, x: Tensor) -> Tensor:
        view = net(x)
        c = view["experts"].mean(2)
        return (self.weights(c, self.gate(net, view)).unsqueeze(-1) * c).sum(1)


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    """Inverse effective numbers of images (Cui et al., CVPR 2019), with mean 1.
    An empty class weighs as one of a single image."""
    inverse = (1 - beta) / (1 - beta ** counts.clamp(min=1))
    return inverse / inverse.mean()


def regime(seen: Tensor, half: Tensor) -> Tensor:
    """rho [3] of (7), without a quotient: a class never seen is infinitely rarer than one that was.
    half: bool [C], in a."""
    def least(of: Tensor) -> Tensor:
        return torch.where(of, seen, torch.inf).amin()

    def most(of: Tensor) -> Tensor:
        return torch.where(of, seen, 0).amax()
    reverse = (most(~half) > 2 * least(half)) & (most(half) < 2 * least(~half))
    uniform = seen.amax() < 2 * seen.amin()
    return torch.stack([~(reverse | uniform), uniform, reverse]).to(seen.dtype)
