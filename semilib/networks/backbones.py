"""Backbones: images to features. A `Net` joins one of them with named heads.

B images, H x W pixels, D features, C classes.
"""
from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semilib.data import rng
from semilib.errors import BadInput, check_name

VARIANTS = ("V1", "V2", "V3", "USB")
class Shortcut(nn.Conv2d):
    """A 1x1 convolution with stride. On a CPU it takes the pixels that the stride visits, then convolves them without.

    The result is the same. PyTorch 2.14's own CPU kernel ended the process in a convolution's backward pass.
    """

    def __init__(self, width_in: int, width: int, stride: int, groups: int = 1):
        super().__init__(width_in, width, 1, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return F.conv2d(x[..., ::self.stride[0], ::self.stride[1]], self.weight, groups=self.groups)


class Block(nn.Module):
    """Pre-activation residual block. `first` blocks change the width or the stride;
    in them the three variants differ."""

    def __init__(self, width_in: int, width: int, stride: int, variant: str, group: int, norm):
        super().__init__()
        self.first = width_in != width or stride != 1
        # What the two paths of a first block read. V1: raw input on both in groups 2 and 3; its bn1 there is computed
        # for nothing in the releases, and not at all here. V2: raw input on the shortcut. V3: activated input on both.
        activated_both = group == 0 or variant == "V3"
        self.residual_raw = self.first and variant in ("V1", "USB") and not activated_both
        self.shortcut_raw = self.first and not activated_both
        self.bn1 = norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        if self.first:
            self.shortcut = Shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = x if self.residual_raw else F.leaky_relu(self.bn1(x), 0.1, inplace=True)
        skip = self.shortcut(x if self.shortcut_raw else a) if self.first else x
        r = F.leaky_relu(self.bn2(self.conv1(a)), 0.1, inplace=True)
        return self.conv2(r) + skip


class WideResNet(nn.Module):
    """WRN-depth-width for small images (Zagoruyko and Komodakis, BMVC 2016), in the variants of the field's code.

    Input [B, 3, H, W]; output: a map [B, D, H/4, W/4] after the last norm and LeakyReLU(0.1), D = 64 * width, depth = 6
    n + 4. bn_momentum in PyTorch's convention.

    variant "V1" (FixMatch-pytorch, ACR, SimPro, SeMi), "V2" (DASO, SEVAL, CDMAD), "V3" (RDA): see `Block`. "USB" (USB,
    CPE, CPG): V1 with a bias in the stem and eps 1e-3 in the last norm.
    """

    def __init__(self, depth: int = 28, width: float = 2, variant: str = "V1", bn_momentum: float = 0.001):
        super().__init__()
        stem_bias, last_eps = variant == "USB", 1e-3 if variant == "USB" else 1e-5
        stem = max(4, int(16 * min(1, width)))
        widths = [stem] + [int(base * width) for base in (16, 32, 64)]

        def norm(channels: int, eps: float = 1e-5) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(channels, momentum=bn_momentum, eps=eps)

        self.stem = nn.Conv2d(3, stem, 3, 1, 1, bias=stem_bias)
        blocks = []
        for group, stride in enumerate((1, 2, 2)):
            for i in range((depth - 4) // 6):
                width_in = widths[group] if i == 0 else widths[group + 1]
                blocks.append(Block(width_in, widths[group + 1], stride if i == 0 else 1, variant, group, norm))
        self.blocks = nn.Sequential(*blocks)
        self.bn = norm(widths[3], last_eps)
        if variant == "V3":
            self.bn3 = norm(widths[1])   # declared and never used in RDA's network; kept so that parameter counts agree
        self.features, self.map_widths, self.keep_maps = widths[3], tuple(widths), False

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The last map; with `keep_maps` also, before it, the stem's output and those of the groups, unnormalised."""
        maps, x = [], self.stem(x)
        for i, block in enumerate(self.blocks):
            if i % (len(self.blocks) // 3) == 0:
                maps.append(x)
            x = block(x)
        maps.append(x)
        last = F.leaky_relu(self.bn(maps[-1]), 0.1, inplace=True)
        return (*maps, last) if self.keep_maps else last


class ResNet50(nn.Module):
    """torchvision's ResNet-50 with a 3x3 stride-1 stem and no max-pool, for ImageNet-127 at 32 and 64 px.

    Input [B, 3, H, W]; output: a map [B, 2048, H/8, W/8]. BN momentum 0.1, ReLU, Kaiming fan-out.
    """

    def __init__(self, bn_momentum: float = 0.1):
        super().__init__()
        from torchvision.models import resnet50
        net = resnet50(weights=None)
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        for group in (net.layer1, net.layer2, net.layer3, net.layer4):
            plain = group[0].downsample[0]
            group[0].downsample[0] = Shortcut(plain.in_channels, plain.out_channels, plain.stride[0])
        self.trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.layer1, net.layer2, net.layer3, net.layer4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
        self.features, self.map_widths, self.keep_maps = 2048, (256, 512, 1024, 2048), False

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The last map; with `keep_maps` also, before it, the outputs of the four groups of blocks."""
        maps = [self.trunk[:4](x)]
        for group in self.trunk[4:]:
            maps.append(group(maps[-1]))
        return (*maps, maps[-1]) if self.keep_maps else maps[-1]


class FeatureMLP(nn.Module):
    """Linear, batch norm, ReLU: stored features [B, D_in, 1, 1] to a map [B, D, 1, 1]."""

    def __init__(self, channels: int, width: int, bn_momentum: float = 0.1):
        super().__init__()
        self.linear, self.bn = nn.Linear(channels, width), nn.BatchNorm1d(width, momentum=bn_momentum)
        self.features, self.map_widths, self.keep_maps = width, (), False

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.linear(x.flatten(1))))[:, :, None, None]


class Plain(nn.Module):
    """Stored features as they are, so that the heads are linear in them."""

    def __init__(self, channels: int):
        super().__init__()
        self.features, self.map_widths, self.keep_maps = channels, (), False

    def forward(self, x: Tensor) -> Tensor:
        return x


class Pretrained(nn.Module):
    """A network with weights that somebody else has trained, all of them trained on: pictures [B, 3, H, W] to a map of
    one pixel, [B, D, 1, 1].

    Pictures come normalised as their data set is. They are normalised as the weights want it (times `scale`, plus
    `shift`, [3] each), resized to `side` and given to `net`, which returns features [B, D]. A fresh start (`restart`)
    is from the weights that it came with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, features: int, side: int, interpolation: str, scale: Tensor, shift: Tensor):
        super().__init__()
        self.net, self.side, self.interpolation = net, side, interpolation
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self.features, self.map_widths, self.keep_maps = features, (), False
        for parent in list(net.modules()):
            for name, part in parent.named_children():
                strided = isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.stride[0] > 1
                if strided and part.bias is None:
                    taken = Shortcut(part.in_channels, part.out_channels, part.stride[0], part.groups)
                    taken.load_state_dict(part.state_dict())
                    setattr(parent, name, taken)
        self.start = {name: value.clone() for name, value in net.state_dict().items()}

    def restart(self) -> None:
        self.net.load_state_dict(self.start)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addcmul(self.shift, x, self.scale)
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode=self.interpolation, antialias=True)
        return self.net(x)[:, :, None, None]


ON_FEATURES = "mlp-WIDTH (such as mlp-256) or linear"
ON_PICTURES = "wrn-DEPTH-WIDTH (such as wrn-28-2), resnet50, or an encoder to train from its weights, such as " \
              "efficientnet-lite0"


def parse_network(network: str) -> tuple[int, float] | int | None:
    """(depth, width) of "wrn-DEPTH-WIDTH", width of "mlp-WIDTH", None for "resnet50" and "linear". Raises BadInput for
    any other name."""
    if network in ("resnet50", "linear"):
        return None
    if mlp := re.fullmatch(r"mlp-(\d{1,9})", network):
        if not 8 <= int(mlp[1]) <= 8192:
            raise BadInput("network", network, "mlp-WIDTH with WIDTH from 8 to 8192")
        return int(mlp[1])
    wrn = re.fullmatch(r"wrn-(\d{1,9})-(\d+(?:\.\d+)?)", network)
    if not wrn:
        raise BadInput("network", network, f"{ON_PICTURES}; on an encoder's features {ON_FEATURES}")
    depth, width = int(wrn[1]), float(wrn[2])
    if not 10 <= depth <= 1000 or depth % 6 != 4 or not 0.25 <= width <= 16:
        wanted = "wrn-DEPTH-WIDTH with DEPTH = 10, 16, 22, 28, ... up to 1000 and WIDTH from 0.25 to 16"
        raise BadInput("network", network, wanted)
    return depth, width


def reads_features(network: str) -> bool:
    """Whether a network reads an encoder's features, not pictures."""
    return network == "linear" or network.startswith("mlp-")


Backbone = WideResNet | ResNet50 | FeatureMLP | Plain | Pretrained


def make_backbone(network: str, variant: str = "V1", bn_momentum: float = 0.001, channels: int = 3) -> Backbone:
    """A backbone by name, such as wrn-28-2, wrn-10-0.5, resnet50 or mlp-256, for inputs of so many channels."""
    check_name("variant", variant, VARIANTS)
    parsed = parse_network(network)
    if isinstance(parsed, int):
        return FeatureMLP(channels, parsed, bn_momentum)
    if network == "linear":
        return Plain(channels)
    return ResNet50(bn_momentum) if parsed is None else WideResNet(*parsed, variant, bn_momentum)


@torch.no_grad()
def initialise(net: nn.Module, seed: int) -> None:
    """Initial values, each drawn for its parameter's name alone, so that one more head moves no other parameter.

    Convolutions: normal, Kaiming fan-out, gain sqrt(2). Linear layers: Xavier normal, bias 0. Norms: 1 and 0. A
    pretrained backbone starts from its weights.
    """
    trained = [module for module in net.modules() if isinstance(module, Pretrained)]
    kept = {part for module in trained for part in module.modules()}
    for module in trained:
        module.restart()
    for prefix, module in net.named_modules():
        if module in kept:
            continue
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.affine:
            module.weight.fill_(1)
            module.bias.zero_()
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight = module.weight
        if isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
        else:
            std = math.sqrt(2 / (weight.shape[0] + weight.shape[1]))
        draw = torch.randn(weight.shape, generator=rng.generator(seed, f"init/{prefix}.weight"), dtype=torch.float64)
        weight.copy_(draw * std)
        if module.bias is not None:
            module.bias.zero_()


