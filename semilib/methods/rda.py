"""RDA (Duan, Qi, Wang, Zhou, Shi, ECCV 2022, arXiv 2208.04619): a second head learns which class an image is NOT. The
predictions of each head are aligned with the reverse of the other's distribution, without any prior.

z = main head, g = complementary head;  D, D_r = the last 128 batch means of softmax(z_w), softmax(g_w).
    (1) d = mean rows of D,  d_r = mean rows of D_r
        e ~ mean rows of 1 - D,  e_r ~ mean rows of 1 - D_r:  the reverse, sums to 1
    (2) p = norm(softmax(z_w) e_r / d),  label argmax p;   q = norm(softmax(g_w) e / d_r)
    (3) L = mean CE(z_x, y) + mean CE(g_x, ybar) + lambda_u mean CE(z_s, argmax p) + lambda_u mean CE(g_s, q)
        ybar: one of the C - 1 other classes of each labelled image, drawn anew each step

Follows: the release: a hard label for the main head, a soft one for the other, no confidence mask, lambda_u 1, all
    losses reach the backbone, test by the main head. Its network, V3, belongs to its own recipe.
Keeps: no mask: the alignment is meant to replace it (`threshold` 0; another value masks the main head's term alone).
Differs: the release normalises q by the sum over the whole BATCH. That makes its rows sum to 1 / (mu B) and its loss
    that much smaller (batch_sum=True as released); the label is the same either way. D and D_r start at 1 / C, so that
    the alignment begins as none and both its halves grow together. The release starts at 1, no distribution, which
    holds back d and not e_r (start="ones"; the first 128 steps differ). They are in every checkpoint, where the
    release's begin anew. The window belongs to 250,000 steps and is scaled (`window_of`). Images are drawn without
    replacement; pool B of its recipe is applied after the crop.
Numbers: toy tensors of the tests, full buffers [.1, .8, .1]: labels [0, 0, 2, 0], 1.153195, complementary 1.074479
    (released .269928).

On the embedded pictures at 600 steps it stays below Supervised (28.3 +- 0.5 against 51.4 +- 2.8, three seeds). With ten
classes the reverse of any distribution is nearly uniform. So pseudo-labels are pushed towards a uniform set, which the
pool (gamma 20) is not, and no threshold holds back the wrong ones. One seed has 28.8, and 49.0 with a threshold of 0.95
(results/learning-causes-600-steps).
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data import rng
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce
from semilib.networks.net import linear
from semilib.options import option, window_of


class RDA(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        threshold: float = option(0.0, "confidence from which a label of the main head counts; 0 = all", low=0, high=1)
        window: int = option(128, "batch means in D and D_r, for 250,000 steps", low=1)
        start: str = option("uniform", "what D and D_r hold before the first steps: uniform, 1/C; or ones, as released",
                            choices=("uniform", "ones"))
        batch_sum: bool = option(False, "q over its sum over the batch, as released: mu B times less of that loss")

    cfg: Config
    d: Tensor           # D, [window, C]
    d_r: Tensor         # D_r, [window, C]

    refuses = {"add": "every row counts, whatever its confidence: there is no mask for SeMi's modules to act on"}
    must_act = {**FixMatch.must_act, "align": "the alignment never changed a label: train longer"}
    smoke = {}                              # every row counts

    @classmethod
    def original(cls, run):
        """The release's, with the evaluations of its README."""
        return dict(mu=7, steps=2**20, eval_every=1000, variant="V3", strong_pool="B", crop="zero", decay="norms",
                    report="best_on_test", options=dict(strong_views=1, start="ones", batch_sum=True))

    def heads(self):
        return {**super().heads(), "complementary": linear(self.info.features, self.info.classes)}

    def build(self):
        super().build()
        size = (window_of(self.cfg.window, self.info.steps), self.info.classes)
        for name in ("d", "d_r"):
            value = 1.0 if self.cfg.start == "ones" else 1 / self.info.classes
            self.register_buffer(name, torch.full(size, value, dtype=self.info.dtype))

    def pseudo_prob(self, prob, v, batch, t):
        aligned = prob * reverse(self.d_r) / mean(self.d)                                                        # (2)
        return super().pseudo_prob(aligned / aligned.sum(-1, keepdim=True), v, batch, t)

    def pseudo(self, v, batch, t):
        main, other = v.w["head"].softmax(-1), v.w["complementary"].softmax(-1)
        now = (t.step % len(self.d)).view(1)
        self.d.index_copy_(0, now, main.mean(0, keepdim=True))                                                   # (1)
        self.d_r.index_copy_(0, now, other.mean(0, keepdim=True))
        p = super().pseudo(v, batch, t)
        q = other * reverse(self.d) / mean(self.d_r)
        p.add(prob_c=q / (q.sum() if self.cfg.batch_sum else q.sum(-1, keepdim=True)), before=main.argmax(-1))
        p.branches["u_c"] = p.prob_c
        return p

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)                                                                      # (3)
        out["x_c"] = Term(ce(v.l["complementary"], self.other_class(batch.y, t)))
        out["u_c"] = Term(ce(v.s["complementary"], self.per_view(p.prob_c)), scale=self.cfg.lambda_u)
        return out

    def other_class(self, y: Tensor, t) -> Tensor:
        """ybar: for each label one of the other classes, uniformly."""
        words = rng.words(self.info.seed, "rda/complement", t.step, len(y), 1, y.device)[:, 0]
        return (y + 1 + rng.integers(words, self.info.classes - 1)) % self.info.classes

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "align": (p.label != p.before).any()}


def mean(rows: Tensor) -> Tensor:
    """Mean of the rows of D, [C]; at least 1e-12, so that a class that vanished does not divide by 0."""
    return rows.mean(0).clamp(min=1e-12)


def reverse(rows: Tensor) -> Tensor:
    """e, [C]: the mean of 1 - D over its rows, normalised; rows that still hold ones add nothing."""
    rest = (1 - rows).sum(0)
    return rest / rest.sum()
