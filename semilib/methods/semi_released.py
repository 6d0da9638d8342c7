"""SeMi (Wang et al., ACM MM 2025, arXiv 2501.06004) with the defects of its public release, each an option that is off
by default. With all of them off it is the method of semi.py, whose equations are meant by the numbers here.

    misaligned_features  (1), (5), (6): features are read as if the batch had not been interleaved. Row j of part g is
                         that of row 4 j + g of the joined batch (labelled, weak, strong 1, strong 2).
    shifted_bank         (6): a push drops a cell's most confident feature instead of the least.
    empty_as_zero        (1): empty slots count as zeros in the prototypes, and every class has one.
    droplast_prior       (2), (3): pi is counted over one drop-last pass, so up to B - 1 images are left out.
    u_from_blend         (7): u is counted from the blended pseudo-labels.
    r_by_epoch_length    (1): r = epoch / (steps an epoch) with epochs of 500 steps. In 250,000 steps that is progress.
    decay_restarts       (6): the decay's step counter restarts with each epoch.

Follows: the public script. preset="released" has the script's own defaults: tau = 0.95, and alpha = 0, so that the bank
    never reaches a loss. preset="readme" has the values of its published commands, which do not run as printed: 14 of
    their flags are not defined.
Differs: a decay goes by slot. The released one goes by value: as many slots of a confidence stay as pushes had that
    very confidence. With many ties 8 of 1,280 confidences differ after 200 steps, by one factor beta.
    What has no switch is as in the paper: `--pula`, off by default; the data handling of SVHN and ImageNet-127;
    checkpoints without bank, centre and u.
Numbers: with misaligned features, one of 64 rows of (1) is its own image's. After 2,000 offers to a shifted cell, 127
    of its 128 features stand beside another's confidence. With r_by_epoch_length, r ends at 0.098 in a run of 25,000
    steps, and stays 0 in one of 500.
"""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data.step import Time
from semilib.errors import BadInput
from semilib.methods import semi as paper
from semilib.methods.losses import log_prior
from semilib.methods.memory_bank import MemoryBank
from semilib.networks.net import View, Views
from semilib.options import option, span

DEFECTS = ("misaligned_features", "shifted_bank", "empty_as_zero", "droplast_prior", "u_from_blend",
           "r_by_epoch_length", "decay_restarts")
EPOCH = 500             # steps of the script's epochs, and how many it has


class SeMi(paper.SeMi):
    @dataclasses.dataclass(frozen=True)
    class Config(paper.SeMi.Config):
        preset: str = option("paper", "values to start from: paper, released, readme")

        misaligned_features: bool = option(False, "defect of the release: features of other rows' images")
        shifted_bank: bool = option(False, "defect of the release: a push drops the most confident feature; slow, "
                                           "as it works offer by offer")
        empty_as_zero: bool = option(False, "defect of the release: empty slots count as zeros in the prototypes")
        droplast_prior: bool = option(False, "defect of the release: the prior of one drop-last pass")
        u_from_blend: bool = option(False, "defect of the release: u counts the blended pseudo-labels")
        r_by_epoch_length: bool = option(False, "defect of the release: r over the length of an epoch, not over epochs")
        decay_restarts: bool = option(False, "defect of the release: the decay's counter restarts with each epoch")

        @classmethod
        def presets(cls, run) -> dict[str, dict]:
            many = run.dataset.startswith("cifar100")
            late = many or (run.dataset == "cifar10" and run.n1 == 500)
            defects = dict.fromkeys(DEFECTS, True)
            shared = super().presets(run)
            return {**shared,
                    "released": dict(threshold=0.95, alpha=0.0, decay_every=span(50), **defects),
                    "readme": dict(shared["paper"], t_e=0.09, warmup=span(EPOCH * (21 if late else 3)), **defects)}

    cfg: Config

    def __init__(self, cfg, info):
        super().__init__(cfg, info)
        if cfg.misaligned_features and info.mu != 1:
            raise BadInput("mu", info.mu, "1 with misaligned_features, which reproduces a batch of four equal parts")
        self.capturable = not cfg.shifted_bank
        if cfg.r_by_epoch_length and "plce" in self.must_act:
            self.must_act["plce"] += f"; with r_by_epoch_length, r is 0 for the first {EPOCH} steps"

    def build(self) -> None:
        super().build()
        cfg, info, bank = self.cfg, self.info, self.blend.bank
        if cfg.shifted_bank or cfg.empty_as_zero:
            bank = ReleasedBank(info.classes, cfg.slots, info.features, cfg.bank_balance, info.dtype,
                                shifted=cfg.shifted_bank, empty_as_zero=cfg.empty_as_zero)
        self.blend = ReleasedBlend(bank, self.alpha, cfg.t_proto, cfg.u_norm, self.beta, self.warmup, self.epoch,
                                   self.decay_every, by_length=cfg.r_by_epoch_length, restarts=cfg.decay_restarts)
        if cfg.droplast_prior:
            prior = info.prior(drop_last=True)
            self.adjust_x, self.adjust_u = log_prior(prior, self.tau_2), log_prior(prior, self.tau_12)

    def features(self, v: Views) -> Views:
        """The views with the features that the release reads for them; logits are each image's own."""
        if not self.cfg.misaligned_features:
            return v
        names = ("l", "w", "s1", "s2")
        joined = torch.cat([v[name].f for name in names])
        return Views({name: View(v[name], joined[g::4]) for g, name in enumerate(names)}, v.strong)

    def pseudo(self, v, batch, t):
        return super().pseudo(self.features(v), batch, t)

    def terms(self, v, batch, p, t):
        return super().terms(self.features(v), batch, p, t)

    def end_step(self, v, batch, p, t):
        super().end_step(self.features(v), batch, p, t)

    def counted(self, p):
        return (p.label, p.mask > 0) if self.cfg.u_from_blend else super().counted(p)


class ReleasedBlend(paper.Blend):
    """The blend with r over the length of an epoch (by_length) and a decay's counter that restarts (restarts)."""

    def __init__(self, bank: MemoryBank, alpha: float, t_proto: float, u_norm: str, beta: float, warmup: int,
                 epoch: int, decay_every: int, by_length: bool, restarts: bool):
        super().__init__(bank, alpha, t_proto, u_norm, beta, warmup, epoch, decay_every)
        self.by_length, self.restarts = by_length, restarts

    def progress(self, t: Time) -> Tensor:
        if not self.by_length:
            return super().progress(t)
        return torch.div(t.step, EPOCH, rounding_mode="floor").to(self.u.dtype) / EPOCH

    def decay_due(self, t: Time) -> Tensor:
        if not self.restarts:
            return super().decay_due(t)
        return (t.step % self.epoch + 1) % self.decay_every == 0


class ReleasedBank(MemoryBank):
    """The bank as the public release computes it. It works offer by offer where it is shifted, and is not for speed.

    shifted: a push drops the cell's first feature, the most confident one, and appends the new one. The new confidence
    is written over the lowest, so features and confidences drift apart. empty_as_zero: prototypes average all L slots,
    empty ones as zeros, and every class has one.
    """

    def __init__(self, classes: int, slots: int, features: int, balanced: bool = True,
                 dtype: torch.dtype = torch.float32, *, shifted: bool, empty_as_zero: bool):
        super().__init__(classes, slots, features, balanced, dtype)
        self.shifted, self.empty_as_zero = shifted, empty_as_zero

    def push(self, features, confidence, label, mask) -> None:
        if not self.shifted:
            return super().push(features, confidence, label, mask)
        for i in range(len(label)):
            cell = label[i] if self.balanced else torch.zeros_like(label[i])
            f, c = self.cells[cell], self.confidence[cell]
            enters = (mask[i] > 0) & (confidence[i] > c[-1])
            new_c, order = torch.sort(torch.cat([c[:-1], confidence[i:i + 1]]), descending=True, stable=True)
            new_f = torch.cat([f[1:], features[i:i + 1]])[order]
            new_fresh = torch.cat([self.fresh[cell][:-1], torch.ones_like(self.fresh[cell][-1:])])[order]
            new_label = torch.cat([self.label[cell][1:], label[i:i + 1]])[order]
            self.cells[cell] = torch.where(enters, new_f, f)
            self.confidence[cell] = torch.where(enters, new_c, c)
            self.fresh[cell] = torch.where(enters, new_fresh, self.fresh[cell])
            self.label[cell] = torch.where(enters, new_label, self.label[cell])

    def decay(self, now, beta) -> None:
        super().decay(now, beta)
        if self.shifted:                             # its push compares with the last slot, so the order must hold here
            self.confidence, order = torch.sort(self.confidence, dim=1, descending=True, stable=True)
            self.cells.copy_(self.cells.gather(1, order.unsqueeze(-1).expand_as(self.cells)))
            self.label, self.fresh = self.label.gather(1, order), self.fresh.gather(1, order)

    def prototypes(self) -> tuple[Tensor, Tensor]:
        if not self.empty_as_zero:
            return super().prototypes()
        if self.balanced:
            return self.features.mean(1), torch.ones(self.classes, dtype=torch.bool, device=self.features.device)
        means, filled = super().prototypes()
        return means, torch.ones_like(filled)
