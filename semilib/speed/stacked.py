"""Several networks of one shape (the seeds of a run) as one network: channels side by side, every convolution in as many groups.

The sums are each network's own: norms work by channel, groups keep channels apart, heads are a batched product. So one kernel does
the work of n, which pays where a kernel of one network leaves the device idle. `semilib.speed` measures whether it does.
"""
from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from semilib.networks.backbones import Shortcut
from semilib.networks.net import Net


class StackedNet(nn.Module):
    """n networks with a head "head" each, of equal shape, joined; input [B, n * 3, H, W], a batch of its own for each, output
    logits [n, B, C]. Starts with the networks' own values."""

    def __init__(self, nets: list[Net]):
        super().__init__()
        self.n = len(nets)
        self.backbone = copy.deepcopy(nets[0].backbone)
        for name, module in list(self.backbone.named_modules()):
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                parent, _, leaf = name.rpartition(".")
                setattr(self.backbone.get_submodule(parent), leaf, _join([net.backbone.get_submodule(name) for net in nets]))
        self.weight = nn.Parameter(torch.stack([net.heads["head"].weight.detach() for net in nets]))           # [n, C, D]
        self.bias = nn.Parameter(torch.stack([net.heads["head"].bias.detach() for net in nets]))               # [n, C]

    def forward(self, x: Tensor) -> Tensor:
        f = self.backbone(x).mean((2, 3), dtype=self.weight.dtype)
        f = f.unflatten(1, (self.n, -1)).transpose(0, 1)                                                        # [n, B, D]
        return torch.baddbmm(self.bias.unsqueeze(1), f, self.weight.mT)


@torch.no_grad()
def _join(modules: list[nn.Module]) -> nn.Module:
    """Convolutions or norms of equal shape as one, group by group."""
    first, n = modules[0], len(modules)
    if isinstance(first, nn.BatchNorm2d):
        out = nn.BatchNorm2d(n * first.num_features, first.eps, first.momentum).to(first.weight)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(out, name).copy_(torch.cat([getattr(m, name) for m in modules]))
        return out
    channels = n * first.in_channels, n * first.out_channels
    if isinstance(first, Shortcut):
        out = Shortcut(*channels, first.stride[0], groups=n)
    else:
        out = nn.Conv2d(*channels, first.kernel_size, first.stride, first.padding, groups=n, bias=first.bias is not None)
    out.to(first.weight).weight.copy_(torch.cat([m.weight for m in modules]))
    if first.bias is not None:
        out.bias.copy_(torch.cat([m.bias for m in modules]))
    return out
