"""FARAD (Gu, Wang, Sun, Li, Luo, Qiao, "Fourier Clouds", NeurIPS 2025): CDMAD whose reference image has the spectrum of
real images and random phases, because no training image resembles an image of one colour.

F = two-dimensional Fourier transform of each colour channel; x_i: the step's labelled and weak unlabelled images
    (1) A = mean over i of |F(x_i)|;  at frequency 0 the signed mean of F(x_i), which keeps the mean colour
    (2) x_ref = F^-1(A e^(j phi)),  phi: phases of a real white-noise image, new in each step
    (3) b = z(x_ref) without gradient;  q = softmax(z_w - [step >= start] b), soft, every row counts
    (4) L = mean CE(z_x, y) + lambda_u mean over all strong rows of CE(z_s, q)
    (5) test: z(x) - b,  b: mean over 16 references of the mean of A over training

Follows: the paper (no code is public) where it is definite: CDMAD's step, recipe and bases, real transform a channel,
    a new reference in each step; on ReMixMatch neither sharpening nor alignment.
Differs: the printed listing does not do what the text says. It draws complex phases, which multiply each amplitude by
    0.16 on average. Its independent phases on the half spectrum lose amplitude where a frequency is its own mirror
    (0.64 of it stays) and turn the mean colour over half of the time (phases="half" has real ones of this kind). It
    makes one reference a row; here it is one a step (references). The paper subtracts b from all logits in one place,
    from those of pseudo-labels in another (subtract); a subtraction in the losses lets the head absorb b. It does not
    say when debiasing starts: with CDMAD's share. Its test takes the spectrum of each test batch, so that a prediction
    hangs on the other images (test_amplitudes="batch"). b is an evaluation-mode pass, as in our CDMAD. On an encoder's
    features the references are pictures: 64 of them, with the spectrum of the run's own pictures, are encoded once,
    and a step takes one by chance.
Numbers: toy images of the tests, 4 by 4; b [-.420675, .357126, -.431534] gives L_u .869092, L_x .896378.

Before its published numbers are believed: in Table 9 all ten FARAD cells are the CDMAD cell of their row plus exactly
3.0, with the same spread. One cell (CIFAR-10-LT, ratio 100, on FixMatch) is 88.6 in Table 1, 86.7 in Table 12 and 82.9
to 84.1 in Tables 13 to 16. CDMAD itself is 85.3 there in Table 1, and 83.6 in Table 12 and in its own paper.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data import rng
from semilib.errors import BadInput
from semilib.methods.cdmad import Debiased
from semilib.networks.net import View, Views
from semilib.options import momentum_of, option

ENCODED, OF = 64, 1000          # references that are encoded once, and the pictures whose spectrum they have


class FARAD(Debiased):
    @dataclasses.dataclass(frozen=True)
    class Config(Debiased.Config):
        preset: str = option("paper", "values to start from: paper")
        references: int = option(1, "reference images of a step; their logits are averaged", low=1, high=ENCODED)
        phases: str = option("noise", "noise: those of a white-noise image; half: independent ones on the half "
                                      "spectrum, which do not keep all amplitudes", choices=("noise", "half"))
        subtract: str = option("pseudo", "what b is subtracted from while training: pseudo, the logits of "
                                         "pseudo-labels; all, those of the losses too", choices=("pseudo", "all"))
        test_references: int = option(16, "reference images at test time", low=1, high=ENCODED)
        test_amplitudes: str = option("mean", "whose spectrum the test's references have: mean, of the images of "
                                              "training; batch, of the test batch", choices=("mean", "batch"))

        @classmethod
        def presets(cls, run) -> dict[str, dict]:
            return {"paper": super().presets(run)["paper"]}

    cfg: Config
    clouds: Tensor                  # [R, 3, H, W], references of (5), mean over training; all zero: no batch yet
    test_phases: Tensor             # theirs, complex [R, 3, H, W/2 + 1]
    encoded: Tensor                 # [ENCODED, D, 1, 1], on features

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        self.momentum = momentum_of(0.999, info.steps)
        if cfg.subtract == "all" and info.run.base == "remixmatch":
            raise BadInput("subtract", "all", "pseudo on remixmatch, whose losses are of mixed images")

    @classmethod
    def original(cls, run):
        """CDMAD's, which the paper keeps. On ReMixMatch nothing is aligned."""
        own = super().original(run)
        align = {"align": False} if run["base"] == "remixmatch" else {}
        return {**own, "options": {**own["options"], "preset": "paper", **align}}

    @classmethod
    def check_on_features(cls, cfg):
        super().check_on_features(cfg)
        if cfg.test_amplitudes == "batch":
            raise BadInput("test_amplitudes", "batch", "mean with an encoder: stored features have no spectrum")

    def build(self):
        super().build()
        info, n = self.info, self.cfg.test_references
        if info.encoded is None:
            zeros = torch.zeros(n, 3, info.side, info.side, dtype=info.dtype)
            phases = self.random_phases("farad/test", 0, n, zeros)
            self.register_buffer("clouds", zeros)
            self.register_buffer("test_phases", phases, persistent=False)
        else:
            seen = torch.zeros(1, 3, info.side, info.side) if info.pictures is None else info.pictures(OF)
            made = clouds(spectrum(seen), self.random_phases("farad/encoded", 0, ENCODED, seen), seen)
            self.register_buffer("encoded", info.encoded(made).to(info.device, info.dtype))

    def random_phases(self, stream: str, step: int | Tensor, n: int, like: Tensor) -> Tensor:
        """n draws of e^(j phi) for images of the size of `like`, complex [n, 3, H, W/2 + 1]."""
        height, width = like.shape[2:]
        across = width if self.cfg.phases == "noise" else width // 2 + 1
        u = rng.uniform(rng.words(self.info.seed, stream, step, n * 3 * height, across, like.device))
        u = u.view(n, 3, height, across).to(like.dtype)
        return noise_phases(u - 0.5) if self.cfg.phases == "noise" else half_phases(u)                            # (2)

    def reference(self, images, batch, t):
        """Note: `amplitudes` of (1) for `end_step`; none on features."""
        if self.info.encoded is not None:
            words = rng.words(self.info.seed, "farad", t.step, self.cfg.references, 1, self.encoded.device)
            return self.encoded[rng.integers(words[:, 0], ENCODED)]
        shown = torch.cat([images["l"], images["w"]])
        batch.notes.amplitudes = spectrum(shown)                                                                  # (1)
        phases = self.random_phases("farad", t.step, self.cfg.references, shown)
        return clouds(batch.notes.amplitudes, phases, shown)

    def test_reference(self, x):
        if self.info.encoded is not None:
            return self.encoded[:self.cfg.test_references]
        return clouds(spectrum(x), self.test_phases, x) if self.cfg.test_amplitudes == "batch" else self.clouds   # (5)

    def terms(self, v, batch, p, t):
        if self.cfg.subtract == "all":
            blank = t.since(self.start) * batch.notes.blank
            v = Views({name: View({**said, "head": said["head"] - blank}, said.f) for name, said in v.items()
                       if name != "s"}, v.strong)
        return super().terms(v, batch, p, t)                                                                      # (4)

    def end_step(self, v, batch, p, t):
        super().end_step(v, batch, p, t)
        if self.info.encoded is None:
            now = clouds(batch.notes.amplitudes, self.test_phases, self.clouds)
            moved = self.momentum * self.clouds + (1 - self.momentum) * now
            self.clouds.copy_(torch.where(self.clouds.any(), moved, now))


def spectrum(x: Tensor) -> Tensor:
    """A of (1) of images x [n, 3, H, W], on the half spectrum, real [3, H, W/2 + 1]."""
    z = torch.fft.rfft2(x.contiguous())
    amplitudes = z.abs().mean(0)
    amplitudes[:, 0, 0] = z[:, :, 0, 0].real.mean(0)
    return amplitudes


def clouds(amplitudes: Tensor, phases: Tensor, like: Tensor) -> Tensor:
    """Images [n, 3, H, W] of amplitudes [3, H, W/2 + 1] and phases e^(j phi), complex [n, 3, H, W/2 + 1]."""
    return torch.fft.irfft2(amplitudes * phases, s=like.shape[2:])


def noise_phases(noise: Tensor) -> Tensor:
    """e^(j phi) of real images [n, 3, H, W], complex [n, 3, H, W/2 + 1]; 1 at frequency 0. They are a real image's, so
    that an image with them has any amplitudes exactly."""
    z = torch.fft.rfft2(noise)
    phases = z / z.abs().clamp(min=1e-12)
    phases[:, :, 0, 0] = 1
    return phases


def half_phases(u: Tensor) -> Tensor:
    """e^(j phi) of independent phases 2 pi u - pi, complex, of the shape of u in [0, 1)."""
    return torch.polar(torch.ones_like(u), (2 * u - 1) * torch.pi)
