"""FixMatch (Sohn et al., NeurIPS 2020, arXiv 2001.07685): hard pseudo-labels of a weak view, where they are confident,
supervise the strong views of the same image.

    p = softmax(z_weak),  y = argmax p,  m = [max p >= tau]
    L = mean CE(z_x, y_x) + lambda_u * mean over all strong rows of m * CE(z_strong, y)  (masked rows count in it)

Follows: the paper and the common PyTorch port: tau 0.95, lambda_u 1, >= at the threshold, temperature 1, one joint
    forward pass.
Differs: two strong views by default (the shared recipe, as SeMi and ACR; the paper has one: `strong_views=1`) and
    mu = 1 (the paper has 7). The batch is not interleaved: on one device that only moves rows.
Numbers: toy tensors of the tests (one strong view): mask [1, 0, 1, 0], L_x 0.896378, L_u 0.311788.

The whole field is a change to this step, so these functions are every other method's defaults.
"""
from __future__ import annotations

import dataclasses

from torch import Tensor

from semilib.data.step import Batch, StepImages, Time
from semilib.methods.base import Method, Pseudo
from semilib.methods.losses import Term, ce
from semilib.networks.net import Views
from semilib.options import Options, option


class FixMatch(Method):
    @dataclasses.dataclass(frozen=True)
    class Config(Options):
        threshold: float = option(0.95, "tau: a pseudo-label counts from this confidence on", low=0, high=1)
        lambda_u: float = option(1.0, "weight of the unsupervised term", low=0)
        strong_views: int = option(2, "strong views of each unlabelled image; the loss is their mean", low=1, high=8)

    cfg: Config

    must_act = {"u": "no pseudo-label reached the threshold: lower it, or train longer"}
    smoke = {"threshold": 0.12}

    @classmethod
    def original(cls, run):
        """The PyTorch port: mu 7, one strong view, 2^20 steps, evaluated every 1,024; on CIFAR-100 a wider network and
        twice the decay."""
        wide = dict(network="wrn-28-8", weight_decay=1e-3) if run["dataset"] == "cifar100" else {}
        return dict(mu=7, steps=2**20, eval_every=1024, labelled_in_unlabelled=True, options=dict(strong_views=1),
                    **wide)

    def step_images(self) -> StepImages:
        strong = {f"s{i + 1}": ("unlabelled", "strong") for i in range(self.cfg.strong_views)}
        return StepImages({"l": ("labelled", "weak"), "w": ("unlabelled", "weak"), **strong}, self.info.run.policy)

    def pseudo_logits(self, views: Views, batch: Batch, now: Time) -> Tensor:
        return views.w["head"]

    def pseudo_prob(self, prob: Tensor, views: Views, batch: Batch, now: Time) -> Tensor:
        return prob

    def pseudo(self, views: Views, batch: Batch, now: Time) -> Pseudo:
        prob = self.pseudo_prob(self.pseudo_logits(views, batch, now).softmax(-1), views, batch, now)
        confidence, label = prob.max(-1)
        return Pseudo(prob=prob, label=label, mask=(confidence >= self.cfg.threshold).to(prob.dtype))

    def terms(self, views: Views, batch: Batch, pseudo: Pseudo, now: Time) -> dict[str, Term]:
        return {"x": Term(ce(views.l["head"], batch.y)),
                "u": Term(ce(views.s["head"], self.per_view(pseudo.target)), self.per_view(pseudo.mask),
                          scale=self.cfg.lambda_u)}

    def acted(self, views: Views, batch: Batch, pseudo: Pseudo, now: Time, terms: dict[str, Term]) -> dict[str, Tensor]:
        return {"u": pseudo.mask.sum() > 0}
