"""LA: logit adjustment in training (Menon et al., ICLR 2021, arXiv 2007.07314). The labelled loss sees logits shifted
by the log prior, so that the unshifted ones minimise the balanced error.

pi = labelled class frequencies.
    (1) L_x = mean CE(z_x + tau log pi, y); pseudo-labels, the unsupervised term and the test use the plain z

Follows: the paper, tau 1. On supervised training it is the paper's loss. On FixMatch it is the "w/ LA" of DASO's tables
    (CVPR 2022), whose recipe `original` is.
Keeps: nothing.
Differs: log pi has the floor 1e-12 that ACR and SeMi use. The test-time form of the same paper, argmax(z - tau log pi),
    is the field `post_hoc` of every run. Both together would adjust twice, so the pair is refused. A balanced labelled
    set makes (1) plain CE.
Numbers: toy tensors of the tests, counts 100, 30, 10: tau 0.5, 1, 2 give .865507, 1.217601, 2.178348 (tau 0: .659754).
"""
from __future__ import annotations

import dataclasses

from torch import Tensor

from semilib.errors import BadInput
from semilib.methods.base import Method
from semilib.methods.losses import ce, log_prior
from semilib.options import Options, option


class LogitAdjustment(Method):
    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        tau: float = option(1.0, "strength of the adjustment; 0 = none", low=0)

    cfg: Config
    log_prior: Tensor   # [C]

    bases = ("supervised", "fixmatch")
    refuses = {"remixmatch": "its labelled targets are mixed: no image has the one label whose prior would shift it"}

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        if info.run.post_hoc > 0:
            raise BadInput("post_hoc", info.run.post_hoc, "0 with la, which adjusts in training and would do so twice")

    @classmethod
    def original(cls, run):
        """DASO's, where the pair with FixMatch was published:
        mu 2, one strong view, a constant rate, a pool without labelled images."""
        return dict(mu=2, variant="V2", rate="constant", decay="all", ema_rule="warmup", bn_momentum=0.1,
                    labelled_in_unlabelled=False, report="median_last",
                    options=dict(strong_views=1) if run["base"] == "fixmatch" else {})

    def build(self):
        super().build()
        self.register_buffer("log_prior", log_prior(self.info.prior(), self.cfg.tau))

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        return {**out, "x": out["x"]._replace(rows=ce(v.l["head"] + self.log_prior, batch.y))}                     # (1)
