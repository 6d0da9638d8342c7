"""FlexMatch (Zhang et al., NeurIPS 2021, arXiv 2110.08263): a class that has claimed few unlabelled images so far is
let in below the threshold.

sel_i = the last pseudo-label of unlabelled image i that reached tau, or none;  n_k = #(sel = k),  n_- = #(sel = none)
    (1) beta_k = n_k / max(n_-, n_1, .., n_C)            (threshold_warmup=False: without n_-)
    (2) m = [max p >= tau beta_y / (2 - beta_y)],  y = argmax p
    (3) sel_i <- y  for the rows with max p >= tau (tau itself, not the class's threshold)
    L as FixMatch's.

Follows: the paper and TorchSSL, with which USB agrees: tau 0.95, threshold warm-up. beta stands still while one value
    of sel holds the whole pool, as in both releases.
Keeps: nothing of its own recipe, which is balanced (TorchSSL: mu 7, one strong view, 2^20 steps).
Differs: the releases count the pool anew each step; here the counts move with sel. A pool smaller than the batch shows
    an image twice in a step. Then the later confident row decides; the releases leave that to the order of a parallel
    write. TorchSSL's optional distribution alignment, off in its configurations, and the paper's other mappings of beta
    are left out.
Numbers: sel [-, -, -, 0, 0, 0, 1, -]: beta [.75, .25, 0], thresholds [.57, .135714, 0], L_u .339291 on the tests' toy
    rows.

Every row counts until the first pseudo-label reaches tau. A run in which none does has no threshold at all, and its
record says so ("flexible").

On the embedded pictures at 600 steps it is not above Supervised (48.8 +- 2.4 against 51.4 +- 2.8, three seeds). A class
that has claimed little is let in almost unconditionally. So nearly all early pseudo-labels count, most of them of the
large classes (tail 9 %).
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.methods.fixmatch import FixMatch
from semilib.options import option


class FlexMatch(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        threshold_warmup: bool = option(True, "images without a confident pseudo-label count in the maximum of (1)")

    cfg: Config
    sel: Tensor         # [pool] int64, -1 = none
    counts: Tensor      # [C + 1] int64: n_-, n_1, .., n_C
    beta: Tensor        # [C]

    must_act = {**FixMatch.must_act, "flexible": "no pseudo-label reached tau, so the class thresholds stayed 0 and "
                                                 "every row counted: lower the threshold, or train longer"}
    smoke = {"threshold": 0.3, "threshold_warmup": False}

    @classmethod
    def original(cls, run):
        """TorchSSL, whose data are balanced."""
        return {**super().original(run), "eval_every": 5000, "variant": "USB", "strong_pool": "B", "decay": "ndim",
                "report": "best_on_test"}

    def build(self):
        super().build()
        classes, images = self.info.classes, self.info.n_unlabelled
        self.register_buffer("sel", torch.full((images,), -1))
        self.register_buffer("counts", torch.tensor([images] + [0] * classes))
        self.register_buffer("beta", torch.zeros(classes, dtype=self.info.dtype))

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        p.add(reached=p.mask)
        beta = self.beta[p.label]
        p.mask = (p.prob.max(-1).values >= self.cfg.threshold * beta / (2 - beta)).to(p.mask.dtype)               # (2)
        return p

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        index, sure = batch.index_u, p.reached > 0
        again = ((index.unsqueeze(1) == index) & sure).triu(1).any(1)          # a later confident row of the same image
        moves, old = (sure & ~again).to(torch.int64), self.sel[index]
        self.sel.scatter_add_(0, index, moves * (p.label - old))                                                  # (3)
        self.counts.scatter_add_(0, old + 1, -moves)
        self.counts.scatter_add_(0, p.label + 1, moves)
        most = self.counts.max() if self.cfg.threshold_warmup else self.counts[1:].max()
        beta = self.counts[1:].to(self.beta.dtype) / most.clamp(min=1)                                            # (1)
        self.beta.copy_(torch.where(self.counts.max() < len(self.sel), beta, self.beta))

    def acted(self, v, batch, p, t, terms):
        return {**super().acted(v, batch, p, t, terms), "flexible": self.beta.max() > 0}
