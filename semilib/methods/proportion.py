"""Proportion Loss (Akiba, Matsuo, Harada, Bise, arXiv 2603.02957): the mean prediction of the unlabelled batch should
have the pool's class proportions. Its target is a random batch of these proportions, to allow for a batch's luck.

M = class counts of the pool, as they are estimated: N_u pi, pi the labelled prior; B_u unlabelled images a step
    (1) n: classes of B_u images drawn from M without replacement;  t = n / B_u, new in each step
    (2) p = mean softmax(z_w / T_p), with gradient
    (3) L_p = -sum_k t_k log(clip(p_k, 1e-8, 1 - 1e-8) + 1e-8)
    L = L of the base + lambda_p L_p

Follows: the release: T_p 0.5, lambda_p 0.1, the raw logits before any alignment. On ReMixMatch the
    weak view passes the network with a gradient.
Differs: the release takes M from the pool's true labels (proportion_prior="oracle", which every table shows in the
    row's name). In its own cells both are the same, because its pools are distributed as their labels. Elsewhere pi is
    wrong: on a reversed or a uniform pool the term pulls to the wrong proportions. The release draws its targets from
    one fixed seed in all runs. From 20 batches on, a pool's images are drawn with replacement, which moves the spread
    of t by at most 3%. proportion_target="fixed" is t = M / N_u. The release passes each view alone, here all are one
    joint pass; its RandAugment is of another package, strong_pool A stands for it.
Numbers: toy tensors of the tests: t [.7, .2, .1] gives L_p 1.120829 and, on FixMatch with one strong view, L 1.320249.

Before its published numbers are believed: the release keeps the model with the best accuracy on 500 labelled validation
images a class, more than most classes have labels. Its ReMixMatch trainer stops with an error in its second epoch, so
the published rows on ReMixMatch cannot come from that file. Its cells (364 to 2,230 labels) are none of the field's.

As `add="prop"` it is the same term on other methods; `base` and the options' names are those of the method.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data import rng
from semilib.errors import BadInput
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, one_hot
from semilib.options import option

MANY = 20                       # a pool of so many batches is drawn from with replacement
NO_GRADIENT = ("weak_first", "separate", "ema_eval")


class ProportionLoss(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        proportion_lambda: float = option(0.1, "weight of the term; 0 = the base alone", low=0)
        proportion_t: float = option(0.5, "T_p, temperature of the predictions whose mean is taken", low=1e-3)
        proportion_target: str = option("drawn", "drawn: a random batch in each step; fixed: the proportions",
                                        choices=("drawn", "fixed"))
        proportion_prior: str = option("labelled", "labelled: the labelled prior; oracle: the pool's true counts, "
                                                   "which a method cannot know", choices=("labelled", "oracle"))

    cfg: Config
    ends: Tensor                # [C] int64: where each class ends, if the pool's images lie class by class

    bases = ("fixmatch", "remixmatch")
    refuses = {"cpe": "it has no standard logits but one for each head and norm",
               "metaexpert": "it has no standard logits but one for each head and norm",
               "cossl": "its second phase asks the averaged network for the weak view, without a gradient"}
    weak_gradient = True

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        if info.run.policy in NO_GRADIENT and info.run.base != "remixmatch":
            raise BadInput("policy", info.run.policy, "joint, frozen or interleave with the proportion loss: the weak "
                                                      "view needs a gradient")
        if cfg.proportion_prior == "oracle" and info.oracle is None:
            raise BadInput("proportion_prior", "oracle", "labelled: the classes of this pool are not known")

    @classmethod
    def original(cls, run):
        """The release's: mu 3, one strong view; on ReMixMatch a ramp over the whole run. Labelled images lie outside
        of the pool. The prior is the labelled one, which in the release's own cells is that of the pool."""
        options = dict(ramp=1.0) if run["base"] == "remixmatch" else dict(strong_views=1)
        return dict(mu=3, crop="zero", labelled_in_unlabelled=False, options=options)

    def build(self):
        super().build()
        info = self.info
        counts = info.prior() * info.n_unlabelled
        if self.cfg.proportion_prior == "oracle" and info.oracle is not None:
            counts = info.oracle.to(counts)
        self.register_buffer("ends", counts.cumsum(0).round().long())

    def target(self, n: int, now) -> Tensor:
        """t of (1) of a batch of n, [C]."""
        pool = self.info.n_unlabelled
        starts = torch.cat([torch.zeros_like(self.ends[:1]), self.ends[:-1]])
        if self.cfg.proportion_target == "fixed":
            return (self.ends - starts).to(self.info.dtype) / pool
        if pool >= MANY * n:
            image = rng.integers(rng.words(self.info.seed, "proportion", now.step, n, 1, self.ends.device)[:, 0], pool)
        else:
            words = rng.words(self.info.seed, "proportion", now.step, pool, 1, self.ends.device)[:, 0]
            image = words.argsort(stable=True)[:n]
        label = torch.searchsorted(self.ends, image, right=True)
        return one_hot(label, self.info.classes, self.info.dtype).mean(0)

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        return p.add(proportions=self.target(len(p.prob), t))

    def terms(self, v, batch, p, t):
        mean = (v.w["head"] / self.cfg.proportion_t).softmax(-1).mean(0)                                       # (2)
        loss = proportion_loss(mean, p.proportions).unsqueeze(0)
        return {**super().terms(v, batch, p, t), "p": Term(loss, scale=self.cfg.proportion_lambda)}


def proportion_loss(mean: Tensor, target: Tensor) -> Tensor:
    """(3) of mean predictions [C] and target proportions [C], 0-dim."""
    return -(target * (mean.clamp(1e-8, 1 - 1e-8) + 1e-8).log()).sum()
