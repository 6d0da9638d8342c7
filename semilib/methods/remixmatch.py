"""ReMixMatch (Berthelot et al., ICLR 2020, arXiv 1911.09785): aligned and sharpened soft pseudo-labels, MixUp over all
views, and two terms that keep the strong views honest.

    q = sharpen(align(softmax(z_w))),  sharpen(p) = norm(p^(1/T))
    align(p) = norm(p (pi + 1e-6) / (m + 1e-6)),  m: moving average of p
    rows [x, s1, s2, w] with targets [onehot y, q, q, q];  l ~ Beta(a, a), l = max(l, 1 - l), one permutation of all
    rows
    L_x, L_u = mean CE(mix(rows), mix(targets)) over the part of x, over those of s1, s2, w
    L = L_x + lambda_u r L_u + lambda_1 r mean CE(z(s1), q) + lambda_r mean CE(rotation(R_k s1), k)
    r = min(1, t / ramp)

Follows: USB and TorchSSL, which agree: T 0.5, a 0.75, lambda_u 1.5, lambda_1 0.5, lambda_r 0.5, the weak view without
    gradient and without a share in the running statistics. The ramp over the whole run is the DARP family's, which made
    it a base of imbalance methods.
Differs: under the shared recipe the mixed, the unmixed and the rotated images are one joint batch; the original recipe
    (policy="frozen") gives each part a pass of its own, of which the first moves the running statistics. USB's ramp
    ends after 1/64 of the run (ramp=1/64, in the original recipe): 4,096 steps there, nothing in a short run, whose
    unready pseudo-labels then all count. The DARP family's labelled view is strong (labelled_view="strong"). Policy
    "interleave" deals the rows of all parts evenly to as many passes as there are parts. In the DARP family a mixed
    unlabelled part swaps only one share of its rows, for labelled ones; the unmixed and the rotated view have passes of
    their own, and the weak view moves the running statistics. The momentum 0.999 of m belongs to 250,000 steps and is
    scaled (`momentum_of`). Aligning to the LABELLED prior is wrong by construction where the two sets disagree.
Numbers: `softCE` and the mixing of the tests' toy rows; alignment [[.977508, .017273, .005219], ...], sharpened
    .999659.

There is no threshold: every row counts. As a base it offers `pseudo_prob` (before it lie the imbalance methods'
refinements) and `unmixed`, the views that a method wants to see unmixed as well.

On the embedded pictures at 600 steps it stays below Supervised (41.2 +- 0.8 against 51.4 +- 2.8, three seeds): without
a threshold the soft labels of an unready network count, and they know only the large classes. The ramp shows it: one
seed has 42.2 with the ramp over the whole run and 25.0 with 1/64 of it (results/learning-causes-600-steps).
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data import rng
from semilib.data.step import StepImages
from semilib.errors import BadInput
from semilib.methods.base import Pseudo
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, one_hot
from semilib.methods.supervised import USB_IMAGENET127
from semilib.networks.net import Views, linear, running_statistics_kept
from semilib.options import Options, momentum_of, option

MIXED = ("l", "s1", "s2", "w")


class ReMixMatch(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        lambda_u: float = option(1.5, "weight of the mixed unlabelled term", low=0)
        lambda_1: float = option(0.5, "weight of the unmixed strong view's term", low=0)
        lambda_r: float = option(0.5, "weight of the rotation term", low=0)
        temperature: float = option(0.5, "T of the sharpening; 1 = none", low=1e-3, high=1)
        mix: float = option(0.75, "a of Beta(a, a)", low=0.5)
        ramp: float = option(1.0, "share of the run over which lambda_u and lambda_1 rise", low=1e-9, high=1)
        align: bool = option(True, "align pseudo-labels to the labelled prior")
        align_momentum: float = option(0.999, "momentum of m, for 250,000 steps", low=0, high=1)
        labelled_view: str = option("weak", "the labelled view that is mixed", choices=("weak", "strong"))

    cfg: Config         # type: ignore[assignment]  # its own, without a threshold
    prior: Tensor       # [C]
    mean: Tensor        # m, [C]; all zero: no batch yet

    must_act = {"u": "lambda_u is 0, or the ramp never rose"}
    refuses = {"add": "its targets are soft and mixed into the images: there is no mask for SeMi's modules to act on"}
    ignores = {"threshold": "every row counts on ReMixMatch", "strong_views": "ReMixMatch mixes two strong views"}
    unmixed: tuple[str, ...] = ("s1",)
    weak_gradient = False                   # whether a loss reads the weak view
    smoke = {}                              # every row counts

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        if info.run.policy in ("weak_first", "ema_eval"):
            raise BadInput("policy", info.run.policy, "joint, separate, frozen or interleave on ReMixMatch, whose weak "
                                                      "view has a pass of its own before the others anyway")

    @classmethod
    def original(cls, run):
        """USB: 2^18 steps, RandAugment of pool B, one pass a chunk, the best of all evaluations on the test set. Its
        pool holds the labelled images on STL-10 alone."""
        own = dict(mu=1, steps=2**18, eval_every=1024, variant="USB", strong_pool="B", decay="ndim", policy="frozen",
                   labelled_in_unlabelled=run["dataset"] == "stl10", report="best_on_test", options=dict(ramp=1 / 64))
        return {**own, **USB_IMAGENET127} if run["dataset"] == "imagenet127" else own

    @classmethod
    def check_on_features(cls, cfg):
        super().check_on_features(cfg)
        if cfg.lambda_r > 0:
            raise BadInput("lambda_r", cfg.lambda_r,
                           "0 with an encoder: the rotation term turns pictures, and stored features cannot be turned")

    def step_images(self):
        return StepImages({"l": ("labelled", self.cfg.labelled_view), "w": ("unlabelled", "weak"),
                           "s1": ("unlabelled", "strong"), "s2": ("unlabelled", "strong")}, self.info.run.policy)

    def heads(self):
        return {**super().heads(), "rotation": linear(self.info.features, 4)}

    def build(self):
        super().build()
        self.register_buffer("prior", self.info.prior())
        self.register_buffer("mean", torch.zeros(self.info.classes, dtype=self.info.dtype))
        self.momentum = momentum_of(self.cfg.align_momentum, self.info.steps)

    def align(self, prob: Tensor) -> Tensor:
        """prob [mu B, C] with the labelled prior as its mean over time; moves m, whose first batch sets it."""
        now = prob.mean(0)
        self.mean.copy_(torch.where(self.mean.sum() > 0, self.momentum * self.mean + (1 - self.momentum) * now, now))
        aligned = prob * (self.prior + 1e-6) / (self.mean + 1e-6)
        return aligned / aligned.sum(-1, keepdim=True)

    def forget_statistics(self):
        super().forget_statistics()
        self.mean.zero_()                           # the next batch sets it

    def pseudo_prob(self, prob, v, batch, t):
        prob = self.align(prob) if self.cfg.align else prob
        sharp = prob ** (1 / self.cfg.temperature)
        return super().pseudo_prob(sharp / sharp.sum(-1, keepdim=True), v, batch, t)

    def forward(self, net, images, batch, t, teacher):
        """Notes: `q` for `pseudo`; `mixed`, view -> its mixed targets [n, C], and `turns` [mu B] for `terms`."""
        notes = batch.notes
        with torch.set_grad_enabled(self.weak_gradient), running_statistics_kept(net):
            weak = net(images["w"])
        with torch.no_grad():
            self.before_forward(net, images, batch, t, teacher)
            seen = Views({"w": weak.detach()}, [])
            q = notes.q = self.pseudo_prob(self.pseudo_logits(seen, batch, t).softmax(-1), seen, batch, t)
        rows = torch.cat([images[name] for name in MIXED])
        targets = torch.cat([one_hot(batch.y, self.info.classes, q.dtype), q, q, q])
        words = rng.words(self.info.seed, "mix", t.step, len(rows), 3, rows.device)
        share = rng.beta(rng.uniform(words[0, 0]).to(rows.dtype), self.cfg.mix)
        share, order = torch.maximum(share, 1 - share), torch.argsort(words[:, 1], stable=True)
        mixed = share * rows + (1 - share) * rows[order]
        sizes = [len(images[name]) for name in MIXED]
        notes.mixed = dict(zip(MIXED, (share * targets + (1 - share) * targets[order]).split(sizes), strict=True))
        notes.turns = rng.integers(words[:len(images["s1"]), 2], 4)
        parts = {f"mixed_{name}": x for name, x in zip(MIXED, mixed.split(sizes), strict=True)}
        parts.update({name: images[name] for name in self.unmixed}, rotated=rotate(images["s1"], notes.turns))
        strong = [name for name in ("s1", "s2") if name in parts]
        v = net.views(parts, strong, self.step_images().policy)
        v["w"] = weak
        return v

    def pseudo(self, v, batch, t):
        q = batch.notes.q
        return Pseudo(prob=q, label=q.argmax(-1), target=q, mask=torch.ones_like(q[:, 0]), branches={})

    def ramp(self, t) -> Tensor:
        """r, 0-dim."""
        return (t.progress / self.cfg.ramp).clamp(max=1)

    def terms(self, v, batch, p, t):
        ramp = self.ramp(t)
        unlabelled = [ce(v[f"mixed_{name}"]["head"], batch.notes.mixed[name]) for name in MIXED[1:]]
        return {"x": Term(ce(v.mixed_l["head"], batch.notes.mixed["l"])),
                "u": Term(torch.cat(unlabelled), scale=self.cfg.lambda_u * ramp),
                "s1": Term(ce(v.s1["head"], p.prob), scale=self.cfg.lambda_1 * ramp),
                "r": Term(ce(v.rotated["rotation"], batch.notes.turns), scale=self.cfg.lambda_r)}

    def acted(self, v, batch, p, t, terms):
        return {"u": torch.as_tensor(terms["u"].scale) > 0}


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Each image of x [n, 3, H, H] turned by turns [n] quarters of a circle."""
    turned = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(4)])
    return turned[turns, torch.arange(len(x), device=x.device)]
