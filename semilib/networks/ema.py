"""The averaged network that is evaluated, in the three published variants."""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from semilib.errors import check_name
from semilib.networks.net import Net

RULES = ("parameters", "warmup", "decaying")


class Average:
    """avg <- decay * avg + (1 - decay) * live, after each optimiser step; starts as a copy of the live network.

    rule "parameters": parameters are averaged, buffers copied (FixMatch, ACR, CPE, SimPro, RDA, SeMi).

    rule "warmup": the decay is min(1 - 1/(k+1), decay) at 0-based step k; buffers are averaged too (DASO, SEVAL).

    rule "decaying": every floating entry is averaged. Then the live ones, norms included, are multiplied by 1 -
    weight_decay * lr (DARP, ABC, CoSSL, CDMAD), except those of `spare`.
    """

    def __init__(self, net: Net, decay: float, rule: str = "parameters", weight_decay: float = 0.0):
        check_name("ema_rule", rule, RULES)
        self.decay, self.rule, self.weight_decay = decay, rule, weight_decay
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        live_p: list[Tensor]
        avg_p: list[Tensor]
        live_p, avg_p = list(net.parameters()), list(self.net.parameters())
        live_b, avg_b = list(net.buffers()), list(self.net.buffers())
        if rule == "parameters":
            self.averaged, self.copied = (avg_p, live_p), (avg_b, live_b)
        else:
            floats = [b.is_floating_point() for b in live_b]
            self.averaged = (avg_p + [b for b, f in zip(avg_b, floats, strict=True) if f],
                             live_p + [b for b, f in zip(live_b, floats, strict=True) if f])
            self.copied = ([b for b, f in zip(avg_b, floats, strict=True) if not f],
                           [b for b, f in zip(live_b, floats, strict=True) if not f])
        self.decayed = list(self.averaged[1])

    def spare(self, modules: list[nn.Module]) -> None:
        """Rule "decaying" leaves these parts of the live network alone: their optimiser has a decay of its own."""
        spared = {id(p) for module in modules for p in module.parameters()}
        self.decayed = [p for p in self.decayed if id(p) not in spared]

    @torch.no_grad()
    def update(self, step: Tensor, lr: Tensor) -> None:
        """step: 0-dim int64, 0-based, of this network. lr: 0-dim, the rate that the optimiser has just used."""
        average, live = self.averaged
        if self.rule == "warmup":
            decay = torch.clamp(1 - 1 / (step + 1), max=self.decay)
            torch._foreach_mul_(average, decay)
            torch._foreach_add_(average, torch._foreach_mul(live, 1 - decay))
        else:
            torch._foreach_lerp_(average, live, 1 - self.decay)
        if self.copied[0]:
            torch._foreach_copy_(*self.copied)
        if self.rule == "decaying":
            torch._foreach_mul_(self.decayed, 1 - self.weight_decay * lr)
