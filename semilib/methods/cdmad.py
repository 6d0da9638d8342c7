"""CDMAD (Lee, Kim, CVPR 2024, arXiv 2403.10391): what the network says of an image without any pattern is its bias
towards classes, so that is subtracted from the logits of pseudo-labels and of the test.

b = z(blank): logits of one image of a single colour, without gradient
    (1) q = softmax(z_w - [step >= start] b);  target q (soft), every row counts
    (2) L = mean CE(z_x, y) + lambda_u mean over all strong rows of CE(z_s, q)
    (3) test: z(x) - b, both by the network that is tested

Follows: the paper and its FixMatch-based release: soft targets without a threshold, two strong views, debiasing after
    epoch 100 of 500, that is from step 50,500 of 250,000. The blank image is 1 everywhere AFTER normalisation, as
    released: mean + std of the data, a light grey. `blank` sets another level (0 = the mean colour; white is about 2.1
    on CIFAR-10).
Keeps: soft targets and no threshold, which its debiasing was made for; preset="thresholded" is FixMatch's hard label at
    0.95. On ReMixMatch there is no sharpening, and alignment only where the unlabelled classes are known to be
    distributed as the labelled ones: the published version of the pair, in the preset. `temperature` and `align` set it
    otherwise.
Differs: the release asks for b in training mode, a batch of one image: its own statistics normalise it, it moves the
    running ones (at momentum 0.1 it makes up 16% of them), and it is another function than the test's b. Here b is an
    evaluation-mode pass, as in (3), and moves nothing (blank_pass="train" as released, in preset="released"). The
    release adds 1e-8 inside its logarithms. Its ReMixMatch version has a plain CE of the weak labelled view besides,
    and forgets what it aligns with at each epoch: left out.
Numbers: toy tensors of the tests, b [1.2, .3, -.5]: L_u .870372 (without debiasing .808986), L_x .896378.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data.sources import CLASSES
from semilib.data.splits import arrange, long_tailed_counts
from semilib.data.step import Batch, Time
from semilib.errors import BadInput
from semilib.methods.fixmatch import FixMatch
from semilib.options import Duration, duration_in_steps, option, span


class Debiased(FixMatch):
    """CDMAD with any reference image. A subclass says which: `reference` of a step, `test_reference`."""

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        preset: str = option("paper", "values to start from: paper, released, and on FixMatch thresholded")
        threshold: float = option(0.0, "a pseudo-label counts from this confidence on; 0 = all do", low=0, high=1)
        targets: str = option("soft", "what the strong views are trained on: soft, the rows q; hard, their label",
                              choices=("soft", "hard"))
        start: Duration = option(span(50_500), "steps before pseudo-labels are debiased", low=0)
        blank_pass: str = option("eval", "the live network's mode when it is shown the reference image; train, as "
                                         "released, moves its running statistics", choices=("eval", "train"))

        @classmethod
        def presets(cls, run) -> dict[str, dict]:
            if run.base == "remixmatch":
                known = bool(run.m1) and run.gamma_l == run.gamma_u and run.order == "consistent"
                paper, more = dict(temperature=1.0, align=known), {}
            else:
                paper, more = {}, {"thresholded": dict(targets="hard", threshold=0.95)}
            return {"paper": paper, "released": dict(blank_pass="train", **paper), **more}

    cfg: Config

    bases: tuple[str, ...] = ("fixmatch", "remixmatch")
    uses = ("threshold",)                   # on ReMixMatch only 0: it refuses others itself
    refuses = {"add": "its pseudo-labels are soft and every row counts: there is no mask for SeMi's modules to act on"}
    smoke = {}                              # every row counts

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.start = duration_in_steps(cfg.start, info.steps)
        self.must_act = {**self.must_act, "debias": "the reference's logits never differed after `start`: begin "
                                                    "earlier"}
        if info.run.base == "remixmatch" and (cfg.targets == "hard" or cfg.threshold > 0):
            raise BadInput("targets", cfg.targets, "soft, with threshold=0, on remixmatch: its targets are mixed into "
                                                   "the images")

    @classmethod
    def original(cls, run):
        """Adam at a constant rate, the decay in the average's update, stronger on CIFAR-100 and weak where there are
        many images. The pool holds the labelled images on FixMatch alone."""
        many, large = run["dataset"] == "cifar100", True
        if None not in (run["n1"], run["m1"]):
            classes = CLASSES.get(run["dataset"], 10)                   # a folder of pictures counts as of ten
            sizes = long_tailed_counts(run["n1"], classes, run["gamma_l"])
            large = sum(sizes + arrange(run["m1"], classes, run["gamma_u"], run.get("order", "consistent"))) >= 30_000
        common = dict(variant="V2", mu=2, optimiser="adam", rate="constant", ema_rule="decaying", bn_momentum=0.1,
                      strong_pool="C", crop="zero", eval_every=500)
        if run["base"] == "remixmatch":
            decay = 0.02 if large else 0.08 if many else 0.04
            return dict(common, steps=150_000, policy="interleave", lr=0.002, weight_decay=decay,
                        labelled_in_unlabelled=False, options=dict(
                            preset="released", start=span(50_500, of=150_000), lambda_u=2.0, ramp=1.0,
                            lambda_r=0.5 if large else 1.0, labelled_view="strong"))
        return dict(common, batch=32, policy="separate", lr=0.0015, labelled_in_unlabelled=True,
                    weight_decay=0.01 if large else 0.08 if many else 0.04, options=dict(preset="released"))

    def durations(self):
        return {**super().durations(), "start": self.start}

    @classmethod
    def check_on_features(cls, cfg):
        super().check_on_features(cfg)
        if cfg.blank_pass == "train":
            raise BadInput("blank_pass", "train",
                           "eval with an encoder: a batch norm over features cannot train on one row")

    def reference(self, images: dict[str, Tensor], batch: Batch, t: Time) -> Tensor:
        """The step's reference images, [R, 3, H, W], or their features; the logits of all are averaged."""
        raise NotImplementedError

    def test_reference(self, x: Tensor) -> Tensor:
        """The reference images of test images x, as those of a step."""
        raise NotImplementedError

    def before_forward(self, net, images, batch, t, teacher):
        """Note: `blank`, b [1, C], for `pseudo_logits` and `acted`."""
        super().before_forward(net, images, batch, t, teacher)
        was_training = net.training
        net.train(self.cfg.blank_pass == "train")
        batch.notes.blank = net(self.reference(images, batch, t))["head"].mean(0, keepdim=True)
        net.train(was_training)

    def pseudo_logits(self, v, batch, t):
        return super().pseudo_logits(v, batch, t) - t.since(self.start) * batch.notes.blank            # (1)

    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        p.target = p.prob if self.cfg.targets == "soft" else p.label                                           # (2)
        return p

    def acted(self, v, batch, p, t, terms):
        acted = (t.since(self.start) > 0) & (batch.notes.blank.amax() > batch.notes.blank.amin())
        return {**super().acted(v, batch, p, t, terms), "debias": acted}

    def predict(self, net, x: Tensor) -> Tensor:
        blank = super().predict(net, self.test_reference(x)).mean(0, keepdim=True)
        return super().predict(net, x) - blank                                                                 # (3)


class CDMAD(Debiased):
    @dataclasses.dataclass(frozen=True)
    class Config(Debiased.Config):
        blank: float = option(1.0, "level of the blank image after normalisation; 0 = the mean colour", low=-4, high=4)

    cfg: Config
    encoded_blank: Tensor

    def build(self):
        super().build()
        info, encoded = self.info, None
        if info.encoded is not None:
            solid = torch.full((1, 3, info.side, info.side), self.cfg.blank)
            encoded = info.encoded(solid).to(info.device, info.dtype)
        self.register_buffer("encoded_blank", encoded, persistent=False)

    def blank(self, like: Tensor) -> Tensor:
        """The blank image, [1, 3, H, W], of the size of images `like`, or its features."""
        return torch.full_like(like[:1], self.cfg.blank) if self.encoded_blank is None else self.encoded_blank

    def reference(self, images, batch, t):
        return self.blank(images["w"])

    def test_reference(self, x):
        return self.blank(x)
