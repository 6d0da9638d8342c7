"""Several networks of one shape (the seeds of a run) as one: channels side by side, every convolution in as many
groups.

    python -m benchmarks.stacked results/speed/NAME.json

Each network computes what it computes alone: norms work by channel, groups keep channels apart, heads are a batched
product. One kernel does the work of n, which pays where a kernel of one network leaves the device idle. The command
measures whether it does: it adds the bare networks of several seeds, stacked, to a record of `semilib speed` of this
machine.
"""
from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from semilib.errors import BadInput
from semilib.files import place
from semilib.methods.losses import ce
from semilib.networks.backbones import Shortcut, initialise, make_backbone
from semilib.networks.net import Net, linear
from semilib.speed.measure import SECTIONS, Settings, measure
from semilib.speed.tables import sharing
from semilib.speed.workloads import free, like_cifar10
from semilib.training.config import Run
from semilib.training.engine import Captured, resolve_device, resolve_precision


class StackedNet(nn.Module):
    """n networks of equal shape with a head "head" each, joined. Starts with the networks' own values.

    Input [B, n * 3, H, W], a batch of its own for each network; output logits [n, B, C]."""

    def __init__(self, nets: list[Net]):
        super().__init__()
        self.n = len(nets)
        self.backbone = copy.deepcopy(nets[0].backbone)
        for name, module in list(self.backbone.named_modules()):
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                parent, _, leaf = name.rpartition(".")
                joined = join([net.backbone.get_submodule(name) for net in nets])
                setattr(self.backbone.get_submodule(parent), leaf, joined)
        self.weight = nn.Parameter(torch.stack([net.heads["head"].weight.detach() for net in nets]))      # [n, C, D]
        self.bias = nn.Parameter(torch.stack([net.heads["head"].bias.detach() for net in nets]))          # [n, C]

    def forward(self, x: Tensor) -> Tensor:
        f = self.backbone(x).mean((2, 3), dtype=self.weight.dtype)
        f = f.unflatten(1, (self.n, -1)).transpose(0, 1)                                                  # [n, B, D]
        return torch.baddbmm(self.bias.unsqueeze(1), f, self.weight.mT)


@torch.no_grad()
def join(modules: list[nn.Module]) -> nn.Module:
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
        out = nn.Conv2d(*channels, first.kernel_size, first.stride, first.padding, groups=n,
                        bias=first.bias is not None)
    out.to(first.weight).weight.copy_(torch.cat([m.weight for m in modules]))
    if first.bias is not None:
        out.bias.copy_(torch.cat([m.bias for m in modules]))
    return out


def network(run: Run, seed: int, classes: int) -> Net:
    """The network of a run's seed, with one head."""
    backbone = make_backbone(run.network, run.variant, run.bn_momentum)
    net = Net(backbone, {"head": linear(backbone.features, classes)})
    initialise(net, seed)
    return net


def stacked_step(run: Run, n: int) -> Callable[[], None]:
    """One step of n seeds of the network alone, stacked: forward, cross-entropy, backward and optimiser, on a ready
    batch of SeMi's size for each."""
    device, images, source = resolve_device(run), run.batch * (1 + 3 * run.mu), like_cifar10()
    classes, low = len(source.class_names), resolve_precision(run, device) == "bf16"
    net = StackedNet([network(run, seed, classes) for seed in range(n)]).to(device).train()
    net.backbone.to(memory_format=torch.channels_last)
    x = torch.randn(images, 3 * n, *source.images.shape[-2:], device=device).to(memory_format=torch.channels_last)
    y = (torch.arange(images, device=device) % classes).expand(n, images)
    lr = torch.tensor(run.lr, device=device)
    optimiser = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            z = net(x)
        (ce(z.float().flatten(0, 1), y.flatten()).mean() * n).backward()
        optimiser.step()
    return Captured(step, device) if device.type == "cuda" else step


def stacked(settings: Settings) -> Iterator[dict[str, Any]]:
    """A section of a record: total steps a second of the bare networks of 1, 2, 4, 8 seeds stacked into one."""
    run = settings.run()
    for n in (n for n in (1, 2, 4, 8) if n <= settings.most_runs):
        free()
        seconds = settings.timed(stacked_step(run, n))
        yield {"how": "bare networks stacked into one", "runs": n, **seconds, "steps_a_second": n / seconds["median_s"]}


def main(arguments: list[str]) -> None:
    """Add the section to the record that is named. Raises BadInput where there is none, and for one of another
    machine."""
    path = place(arguments[0]) if len(arguments) == 1 else None
    if path is None or not path.is_file():
        raise BadInput("arguments", " ".join(arguments), "a record that `semilib speed` has written")
    SECTIONS["stacked"] = stacked
    settings = Settings.named({**json.loads(path.read_text(encoding="utf-8"))["settings"], "sections": "stacked"})
    print(sharing(measure(settings, path)).text)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BadInput as error:
        sys.exit(f"benchmarks.stacked: {error}")
