"""Networks against slow twins written from their published descriptions, their sizes and initial values; the forward
policies against explicit passes, with the running statistics worked out by hand."""
from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from kit import close
from torch import nn

from semilib.errors import BadInput
from semilib.networks.backbones import Shortcut, initialise, make_backbone, parse_network
from semilib.networks.ema import Average
from semilib.networks.net import POLICIES, Net, View, Views, linear, running_statistics_kept
from semilib.training.engine import decay_groups


def make_net(network: str = "wrn-10-0.25", variant: str = "V1", classes: int = 10, heads: tuple[str, ...] = ("head",),
             seed: int = 0, momentum: float = 0.1) -> Net:
    backbone = make_backbone(network, variant, momentum)
    net = Net(backbone, {name: linear(backbone.features, classes) for name in heads})
    initialise(net, seed)
    return net


def shaken(net: Net, seed: int = 1) -> Net:
    """The net in float64 with random norms, so that a norm in the wrong place shows."""
    g = torch.Generator().manual_seed(seed)
    net = net.double()
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                for tensor, centre in ((m.weight, 1), (m.bias, 0), (m.running_mean, 0), (m.running_var, 2)):
                    noise = torch.randn(tensor.shape, generator=g, dtype=torch.float64)
                    tensor.copy_(centre + 0.5 * noise.clamp(-1.5, 1.5))
    return net


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant, classes, heads, parameters", [
    ("V1", 10, 1, 1_467_610), ("V2", 10, 1, 1_467_610), ("V3", 10, 1, 1_467_674), ("V1", 10, 2, 1_468_900),
    ("V3", 10, 2, 1_467_674 + 1_290), ("V1", 100, 1, 1_479_220), ("V2", 100, 1, 1_479_220), ("V1", 127, 1, 1_482_703),
    # CPE's less its three norms
    ("V2", 127, 1, 1_482_703), ("USB", 10, 1, 1_467_610 + 16), ("USB", 10, 3, 1_470_974 - 3 * 256)])
def test_wrn_28_2_has_the_published_number_of_parameters(variant, classes, heads, parameters):
    net = make_net("wrn-28-2", variant, classes, ("head", "balanced", "third")[:heads])
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.backbone.features == 128


@pytest.mark.parametrize("rule, heads, decayed, exempt", [
    ("weights", 1, 29, 51), ("weights", 2, 30, 52), ("ndim", 3, 31, 53), ("ndim", 1, 29, 51), ("norms", 1, 30, 50),
    ("all", 1, 80, 0)])
@pytest.mark.parametrize("variant, biases", [("V1", 0), ("USB", 1)])
def test_each_decay_rule_exempts_the_published_number_of_tensors(rule, heads, decayed, exempt, variant, biases):
    """USB's stem has a bias more, which is treated as a head's."""
    net = make_net("wrn-28-2", variant, heads=("head", "balanced", "third")[:heads])
    decayed, exempt = (decayed + biases, exempt) if rule in ("norms", "all") else (decayed, exempt + biases)
    groups = decay_groups([net], rule)
    assert tuple(len(g) for g in groups) == (decayed, exempt)
    assert {id(p) for g in groups for p in g} == {id(p) for p in net.parameters()}, "every parameter in one group"


def test_decay_rules_differ_in_biases_and_norms_and_decay_shortcuts():
    net = make_net("wrn-28-2")
    name = {id(p): n for n, p in net.named_parameters()}

    def exempt(rule):
        return {name[id(p)] for p in decay_groups([net], rule)[1]}
    assert exempt("weights") == exempt("ndim") == {n for n in name.values() if ".bn" in n or n.endswith("bias")}
    assert exempt("weights") - exempt("norms") == {"heads.head.bias"}
    assert exempt("all") == set()
    decayed = {name[id(p)] for p in decay_groups([net], "weights")[0]}
    assert sum(n.endswith("shortcut.weight") for n in decayed) == 3
    parts = decay_groups([net.heads["head"]], "weights")
    assert [name[id(p)] for g in parts for p in g] == ["heads.head.weight", "heads.head.bias"]


def test_resnet_50_for_small_images():
    net = make_net("resnet50", classes=127)
    conv = net.backbone.trunk[0]
    assert net.backbone.features == 2048 and conv.kernel_size == (3, 3) and conv.stride == (1, 1)
    assert conv.padding == (1, 1)
    assert not any(isinstance(m, nn.MaxPool2d) for m in net.modules())
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    # torchvision's 25,557,032 without its classifier (2,049,000) and with 3x3 for 7x7 in the stem
    assert sum(p.numel() for p in net.backbone.parameters()) == 25_557_032 - 2_049_000 - 64 * 3 * (49 - 9)
    with torch.no_grad():
        for side in (16, 32):
            assert net.eval().backbone(torch.zeros(1, 3, side, side)).shape == (1, 2048, side // 8, side // 8)
        assert net(torch.zeros(1, 3, 16, 16))["head"].shape == (1, 127)
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.1)


@pytest.mark.parametrize("network, features, side",
                         [("wrn-28-2", 128, 8), ("wrn-10-0.25", 16, 8), ("wrn-16-4", 256, 8)])
def test_wrn_maps_have_a_quarter_of_the_side(network, features, side):
    net = make_net(network)
    assert net.backbone(torch.zeros(2, 3, 4 * side, 4 * side)).shape == (2, features, side, side)


@pytest.mark.parametrize("name", ["wrn", "wrn-28", "wrn-27-2", "wrn-4-1", "wrn-28-0.1", "wrn-28-32", "resnet18"])
def test_unknown_networks_are_refused(name):
    with pytest.raises(BadInput, match="network="):
        parse_network(name)


# ---- slow twins ------------------------------------------------------------------------------------------------------


def slow_wrn(net: Net, x: torch.Tensor, variant: str, training: bool) -> torch.Tensor:
    """Logits of the WRN, block by block as the repositories have it, from the parameters alone: V1 and USB compute the
    first norm of every block and throw it away where the width changes in groups 2 and 3."""
    p = dict(net.backbone.named_parameters()) | dict(net.backbone.named_buffers())

    def activated(x, name, eps=1e-5):
        parts = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, var = (p[f"{name}.{part}"].view(1, -1, 1, 1) for part in parts)
        if training:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        x = (x - mean) / torch.sqrt(var + eps) * weight + bias
        return torch.where(x >= 0, x, 0.1 * x)

    blocks = len(net.backbone.blocks) // 3
    x = F.conv2d(x, p["stem.weight"], p["stem.bias"] if variant == "USB" else None, padding=1)
    for group in range(3):
        for i in range(blocks):
            name, stride = f"blocks.{group * blocks + i}", 2 if group > 0 and i == 0 else 1
            equal = f"{name}.shortcut.weight" not in p
            residual = shortcut = x
            normed = activated(x, f"{name}.bn1")
            if equal:
                residual = normed
            elif group == 0 or variant == "V3":
                residual = shortcut = normed
            elif variant == "V2":
                residual = normed
            r = F.conv2d(residual, p[f"{name}.conv1.weight"], stride=stride, padding=1)
            r = F.conv2d(activated(r, f"{name}.bn2"), p[f"{name}.conv2.weight"], padding=1)
            x = r + (x if equal else F.conv2d(shortcut, p[f"{name}.shortcut.weight"], stride=stride))
    f = activated(x, "bn", 1e-3 if variant == "USB" else 1e-5).mean((2, 3))
    return f @ net.heads["head"].weight.T + net.heads["head"].bias


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network", ["wrn-10-1", "wrn-16-0.25", "wrn-28-2"])
@pytest.mark.parametrize("variant", ["V1", "V2", "V3", "USB"])
def test_each_variant_equals_its_slow_twin(variant, network, training):
    net = shaken(make_net(network, variant)).train(training)
    if variant == "USB":
        assert not net.backbone.stem.bias.any()                 # its initial value
        net.backbone.stem.bias.data.copy_(normal(len(net.backbone.stem.bias), seed=2))
    x, out = normal(3, 3, 8, 8), normal(3, 10, seed=1)
    want = slow_wrn(net, x, variant, training)
    have = net(x)["head"]
    torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9)
    names, params = zip(*net.named_parameters())
    gradients = [torch.autograd.grad((z * out).sum(), params, allow_unused=True) for z in (have, want)]
    for name, a, b in zip(names, *gradients, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8, msg=name)


def test_the_variants_differ():
    nets = [shaken(make_net("wrn-10-1", v)) for v in ("V1", "V2", "V3", "USB")]
    logits = [net(normal(3, 3, 8, 8))["head"] for net in nets]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (logits[i] - logits[j]).abs().max() > 1e-3
    assert 1e-5 < (logits[0] - logits[3]).abs().max() < 1e-2        # USB is V1 but for the stem's bias and the last eps
    norms = [m for m in nets[3].modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.eps for m in norms] == [1e-5] * (len(norms) - 1) + [1e-3] and norms[-1] is nets[3].backbone.bn
    assert all(m.eps == 1e-5 for net in nets[:3] for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("variant, dead", [
    ("V1", {f"backbone.blocks.{i}.bn1.{what}" for i in (4, 8) for what in ("weight", "bias")}), ("V2", set()),
    ("V3", {"backbone.bn3.weight", "backbone.bn3.bias"}),
    ("USB", {f"backbone.blocks.{i}.bn1.{what}" for i in (4, 8) for what in ("weight", "bias")})])
def test_the_parameters_without_gradient_are_those_that_the_published_networks_leave_dead(variant, dead):
    net = make_net("wrn-28-2", variant)
    net(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))["head"].sum().backward()
    assert {name for name, p in net.named_parameters() if p.grad is None} == dead


# ---- initial values --------------------------------------------------------------------------------------------------


def test_a_second_head_moves_no_other_initial_value():
    one, two = make_net(heads=("head",)).state_dict(), make_net(heads=("balanced", "head")).state_dict()
    assert set(two) - set(one) == {"heads.balanced.weight", "heads.balanced.bias"}
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    assert not torch.equal(two["heads.head.weight"], two["heads.balanced.weight"])


def test_initial_values_are_a_function_of_the_seed():
    a, again, b = (make_net(seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(a[name], again[name]) for name in a)
    drawn = [name for name in a if a[name].ndim > 1]
    assert drawn and not any(torch.equal(a[name], b[name]) for name in drawn)


def test_initial_values_have_the_published_spread():
    net = make_net("wrn-28-2")
    seen = 0
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            want = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
        elif isinstance(module, nn.Linear):
            want = math.sqrt(2 / (module.in_features + module.out_features))
            assert not module.bias.any()
        else:
            if isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all() and not module.bias.any()
            continue
        w = module.weight.detach().double().flatten()
        error = 5 / math.sqrt(len(w))                        # five standard errors of a mean, relative to the deviation
        assert abs(float(w.mean())) < error * want
        assert abs(float(w.square().mean().sqrt()) / want - 1) < error / math.sqrt(2)
        seen += 1
    assert seen == 29


# ---- what the network says -------------------------------------------------------------------------------------------


class MapHead(nn.Linear):
    reads = "map"

    def forward(self, fmap):
        return super().forward(fmap.amax((2, 3)))


class Silent(nn.Linear):
    reads = None


def test_heads_read_features_or_the_map_or_nothing():
    backbone = make_backbone("wrn-10-0.25", "V1", 0.1)
    net = Net(backbone, {"head": linear(16, 3), "peak": MapHead(16, 3), "silent": Silent(5, 2)}).double()
    x = normal(4, 3, 8, 8)
    v = net.eval()(x)
    fmap = backbone(x)
    assert set(v) == {"head", "peak"} and torch.equal(v.map, fmap) and torch.equal(v.f, fmap.mean((2, 3)))
    torch.testing.assert_close(v["peak"], fmap.amax((2, 3)) @ net.heads["peak"].weight.T + net.heads["peak"].bias)
    assert "heads.silent.weight" in dict(net.named_parameters())
    assert Net(backbone, {"head": linear(16, 3)}).double().eval()(x).map is None


def test_a_view_splits_and_joins_with_all_that_it_holds():
    v = View({"a": normal(6, 3), "b": normal(6, 2, 2, seed=1)}, normal(6, 5, seed=2), normal(6, 5, 2, 2, seed=3))
    parts = v.split([1, 3, 2])
    assert [len(p.f) for p in parts] == [1, 3, 2]
    assert torch.equal(parts[1]["b"], v["b"][1:4]) and torch.equal(parts[2].map, v.map[4:])
    joined = View.cat(parts)
    assert all(torch.equal(joined[k], v[k]) for k in v) and torch.equal(joined.f, v.f)
    assert torch.equal(joined.map, v.map)


def test_views_join_the_strong_ones_in_order_and_name_what_is_missing():
    v = Views({name: View({"head": normal(2, 3, seed=i).requires_grad_()}, normal(2, 4, seed=i)) for i, name in
               enumerate(("l", "s2", "w", "s1"))}, ["s1", "s2"])
    assert torch.equal(v.s["head"], torch.cat([v.s1["head"], v.s2["head"]]))
    d = v.detach()
    assert set(d) == set(v) and not any(z.requires_grad for view in d.values() for z in view.values())
    assert d.strong == v.strong == ["s1", "s2"]
    with pytest.raises(AttributeError, match="no view 's3'"):
        _ = v.s3


# ---- forward policies ------------------------------------------------------------------------------------------------

SIZES = {"l": 4, "w": 6, "s1": 6, "s2": 5}                    # unequal on purpose
IMAGES = {name: normal(n, 3, 8, 8, seed=10 + i) for i, (name, n) in enumerate(SIZES.items())}


def interleaved_passes() -> list[list[tuple[str, int]]]:
    return [[(name, row) for name in SIZES for row in range(SIZES[name]) if row % 4 == chunk] for chunk in range(4)]


def rows_of(*names: str) -> list[tuple[str, int]]:
    return [(name, row) for name in names for row in range(SIZES[name])]


# policy -> its passes in order, each the rows that share batch statistics, and whether the pass moves the running
# statistics
PASSES = {
    "joint": [(rows_of("l", "w", "s1", "s2"), True)],
    "weak_first": [(rows_of("w"), True), (rows_of("l", "s1", "s2"), True)],
    "ema_eval": [(rows_of("l", "s1", "s2"), True)],
    "separate": [(rows_of("w"), True), (rows_of("l"), True), (rows_of("s1"), True), (rows_of("s2"), True)],
    "frozen": [(rows_of("l"), True), (rows_of("w"), False), (rows_of("s1"), False), (rows_of("s2"), False)],
    "interleave": [(rows, True) for rows in interleaved_passes()],
}
WEAK_HAS_NO_GRADIENT = {"weak_first", "ema_eval", "separate"}


def statistics(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in net.named_buffers() if "running" in name}


@pytest.fixture
def nets() -> tuple[Net, Net]:
    """A net in training and another one as its teacher."""
    heads = ("head", "balanced")
    return shaken(make_net(heads=heads)), shaken(make_net(seed=5, heads=heads), seed=6).eval()


def test_every_policy_is_tested():
    assert set(PASSES) == set(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_equals_its_passes_done_by_hand(policy, nets):
    net, teacher = nets
    slow, before_teacher = copy.deepcopy(net), statistics(teacher)
    slow.compute = lambda x: slow.backbone(x)
    v = net.views(IMAGES, ["s1", "s2"], policy, teacher)

    want: dict[tuple[str, int], tuple] = {}
    for rows, moves in PASSES[policy]:
        kept = copy.deepcopy(slow.state_dict())
        out = slow(torch.stack([IMAGES[name][row] for name, row in rows]))
        if not moves:
            slow.load_state_dict(kept)
        want |= {place: (out["head"][i], out["balanced"][i], out.f[i]) for i, place in enumerate(rows)}
    if policy == "ema_eval":
        out = teacher(IMAGES["w"])
        want |= {("w", i): (out["head"][i], out["balanced"][i], out.f[i]) for i in range(SIZES["w"])}

    assert list(v)[:4] == list(SIZES) and {name: len(v[name].f) for name in SIZES} == SIZES
    for (name, row), values in want.items():
        for a, b in zip((v[name]["head"][row], v[name]["balanced"][row], v[name].f[row]), values, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=f"{name}[{row}]")
    assert torch.equal(v.s["head"], torch.cat([v.s1["head"], v.s2["head"]]))
    after = statistics(net)
    for name, value in statistics(slow).items():
        torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-12, msg=name)
    unmoved = [torch.equal(value, before_teacher[name]) for name, value in statistics(teacher).items()]
    assert all(unmoved), "the teacher moved"
    for name in SIZES:
        assert v[name]["head"].requires_grad == (name != "w" or policy not in WEAK_HAS_NO_GRADIENT), name


@pytest.mark.parametrize("policy", POLICIES)
def test_running_statistics_move_by_their_momentum_once_a_pass(policy, nets):
    """The first norm after the stem, where the batch statistics can be computed from the images alone."""
    net, teacher = nets
    norm = net.backbone.blocks[0].bn1
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    stem = net.backbone.stem.weight.detach()
    net.views(IMAGES, ["s1", "s2"], policy, teacher)
    moved = 0
    for rows, moves in PASSES[policy]:
        if moves:
            images = torch.stack([IMAGES[name][row] for name, row in rows])
            x = F.conv2d(images, stem, padding=1).transpose(0, 1).flatten(1)
            mean, var = 0.9 * mean + 0.1 * x.mean(1), 0.9 * var + 0.1 * x.var(1, correction=1)
            moved += 1
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert moved == {"joint": 1, "weak_first": 2, "ema_eval": 1, "separate": 4, "frozen": 1, "interleave": 4}[policy]
    assert norm.momentum == 0.1


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_come_back_in_their_places(policy, nets):
    """In eval mode no image sees another one, so every row has to be what the image alone gives."""
    net, teacher = nets
    net.eval()
    v = net.views(IMAGES, ["s1", "s2"], policy, teacher)
    for name, images in IMAGES.items():
        for row in range(len(images)):
            by = teacher if (policy, name) == ("ema_eval", "w") else net
            torch.testing.assert_close(v[name]["head"][row], by(images[row:row + 1])["head"][0], rtol=1e-9, atol=1e-10)


def test_interleaving_brings_maps_back_too():
    backbone = make_backbone("wrn-10-0.25", "V1", 0.1)
    net = Net(backbone, {"peak": MapHead(16, 3)}).double().eval()
    v = net.views(IMAGES, ["s1", "s2"], "interleave")
    for name, images in IMAGES.items():
        torch.testing.assert_close(v[name].map, backbone(images), rtol=1e-9, atol=1e-10)


def test_an_unknown_policy_is_refused(nets):
    with pytest.raises(BadInput, match="policy='both'"):
        nets[0].views(IMAGES, [], "both")


def test_kept_statistics_are_given_their_momentum_back_after_an_error(nets):
    net = nets[0]
    with pytest.raises(ZeroDivisionError), running_statistics_kept(net):
        assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.0}
        raise ZeroDivisionError
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_close_is_strict():
    close(1.0, 1.0 + 1e-6)
    with pytest.raises(AssertionError):
        close(1.0, 1.0 + 3e-6)


# ---- a head that reads all depths ------------------------------------------------------------------------------------


class Said:
    """Keeps what a `Stages` head was given last."""


class Stages(nn.Linear):
    reads = "maps"

    def __init__(self, widths: tuple[int, ...], classes: int, said: Said):
        super().__init__(sum(widths), classes)
        self.said = said

    def forward(self, maps):
        self.said.maps = maps
        return super().forward(torch.cat([m.mean((2, 3)) for m in maps], 1))


def short_backbone(network: str, variant: str = "V1") -> nn.Module:
    """A ResNet-50 with the first block of each group alone, which is where the maps come from."""
    if network != "resnet50":
        return make_backbone(network, variant, 0.1)
    with torch.device("meta"):
        backbone = make_backbone(network, variant, 0.1)
    for group in backbone.trunk[3:]:
        del group[1:]
    backbone.to_empty(device="cpu")
    for m in backbone.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
    return backbone


def deep_net(network: str, variant: str = "V1", **more: nn.Module) -> tuple[Net, Said]:
    backbone, said = short_backbone(network, variant), Said()
    net = Net(backbone, {"head": linear(backbone.features, 3), "deep": Stages(backbone.map_widths, 3, said), **more})
    initialise(net, 0)
    return net, said


def plain_maps(net: Net, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The maps of all depths and the last map, from the backbone's parts one after another."""
    b = net.backbone
    if hasattr(b, "trunk"):
        maps = [b.trunk[3](b.trunk[2](b.trunk[1](b.trunk[0](x))))]
        for i in (4, 5, 6):
            maps.append(b.trunk[i](maps[-1]))
        return maps, maps[-1]
    maps, each = [b.stem(x)], len(b.blocks) // 3
    for group in range(3):
        x = maps[-1]
        for i in range(group * each, (group + 1) * each):
            x = b.blocks[i](x)
        maps.append(x)
    return maps, F.leaky_relu(b.bn(maps[-1]), 0.1)


DEEP = [("wrn-10-0.25", "V1", (4, 4, 8, 16)), ("wrn-16-1", "V2", (16, 16, 32, 64)),
        ("wrn-28-2", "USB", (16, 32, 64, 128)),
        ("wrn-10-1", "V3", (16, 16, 32, 64)), ("resnet50", "V1", (256, 512, 1024, 2048))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("network, variant, widths", DEEP)
def test_maps_of_all_depths_are_those_of_the_network_s_parts(network, variant, widths, training):
    net, said = deep_net(network, variant)
    net = shaken(net).train(training)
    slow = copy.deepcopy(net)
    x = normal(3, 3, 16, 16)
    v = net(x)
    maps, last = plain_maps(slow, x)
    assert net.backbone.map_widths == widths == tuple(m.shape[1] for m in said.maps)
    assert len(said.maps) == len(maps) == 4
    for have, want in zip(said.maps, maps, strict=True):          # as they were left, untouched by what came after them
        torch.testing.assert_close(have, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(v.f, last.mean((2, 3)), rtol=1e-12, atol=1e-12)
    deep = torch.cat([m.mean((2, 3)) for m in maps], 1) @ net.heads["deep"].weight.T + net.heads["deep"].bias
    torch.testing.assert_close(v["deep"], deep, rtol=1e-9, atol=1e-9)
    assert v.map is None and set(v) == {"head", "deep"}
    for name, value in statistics(slow.backbone).items():
        torch.testing.assert_close(statistics(net.backbone)[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", ["wrn-10-0.25", "resnet50"])
def test_a_head_on_all_depths_moves_nothing_else(network):
    """The other heads' values and gradients, and every name and initial value, are those of a network without it."""
    net, _ = deep_net(network)
    backbone = short_backbone(network)
    plain = Net(backbone, {"head": linear(backbone.features, 3)})
    initialise(plain, 0)
    own = {"heads.deep.weight", "heads.deep.bias"}
    assert [k for k in net.state_dict() if k not in own] == list(plain.state_dict())
    assert all(torch.equal(value, net.state_dict()[k]) for k, value in plain.state_dict().items())
    x = normal(3, 3, 16, 16).float()
    a, b = net(x), plain(x)
    assert torch.equal(a["head"], b["head"]) and torch.equal(a.f, b.f)
    for v in (a, b):
        v["head"].square().sum().backward()
    mine = dict(net.named_parameters())
    assert all(torch.equal(p.grad, mine[k].grad) for k, p in plain.named_parameters() if p.grad is not None)
    assert isinstance(backbone(x), torch.Tensor), "without such a head the backbone says the last map alone"


def test_the_names_of_the_resnet_are_torchvision_s():
    from torchvision.models import resnet50
    with torch.device("meta"):
        want, have = resnet50().state_dict(), list(make_backbone("resnet50").state_dict())
    parts = {"conv1": "0", "bn1": "1", "layer1": "3", "layer2": "4", "layer3": "5", "layer4": "6"}
    renamed = [f"trunk.{parts[k.split('.')[0]]}.{k.split('.', 1)[1]}" for k in want if not k.startswith("fc.")]
    assert have == renamed


@pytest.mark.parametrize("network", ["wrn-10-0.25", "resnet50"])
def test_the_gradient_reaches_every_depth(network):
    net, said = deep_net(network)
    net(normal(2, 3, 16, 16).float())
    first = net.backbone.trunk[0] if network == "resnet50" else net.backbone.stem
    for i, m in enumerate(said.maps):
        gradient, = torch.autograd.grad(m.square().mean(), first.weight, retain_graph=True)
        assert gradient.any(), i


@pytest.mark.parametrize("rule", ["parameters", "warmup"])
def test_the_average_reads_its_own_depths(rule):
    net, said = deep_net("wrn-10-0.25")
    average = Average(net, 0.5, rule)
    x = normal(4, 3, 16, 16).float()
    start = {k: v.clone() for k, v in average.net.state_dict().items()}
    with torch.no_grad():
        net(x)                                                               # moves the live net's statistics alone
        for p in net.parameters():
            p.add_(0.25 * torch.ones_like(p))
        maps_by_hand = plain_maps(average.net, x)[0]
        v = average.net(x)
        assert not average.net.training
        assert all(torch.equal(average.net.state_dict()[k], value) for k, value in start.items())
        theirs = average.net.heads["deep"].said.maps
        for have, want in zip(theirs, maps_by_hand, strict=True):
            torch.testing.assert_close(have, want)
        live = net.eval()(x)
        assert not torch.allclose(v["deep"], live["deep"])
        for step in range(40):
            average.update(torch.tensor(step + 1000), torch.tensor(0.1))
        torch.testing.assert_close(average.net(x)["deep"], live["deep"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["wrn-10-0.25", "resnet50"])
def test_maps_of_a_bf16_backbone_reach_the_head_in_its_own_precision(network):
    net, said = deep_net(network)
    x = normal(2, 3, 16, 16).float()
    with torch.no_grad():
        net.eval()(x)
        exact, raw = said.maps, []

        def compute(x):
            with torch.autocast("cpu", torch.bfloat16):
                raw[:] = net.backbone(x)
            return tuple(raw)
        net.compute = compute
        v = net(x)
    assert v["deep"].dtype == v.f.dtype == torch.float32
    assert len(raw) == 5 and torch.bfloat16 in {m.dtype for m in raw}
    for have, low, want in zip(said.maps, raw, exact):
        assert have.dtype == torch.float32 and torch.equal(have, low.float())
        assert 0 < (have - want).norm() / want.norm() < 0.05


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gives_each_row_its_own_depths(policy):
    net, teacher = (shaken(deep_net("wrn-10-0.25")[0], seed).eval() for seed in (1, 6))
    v = net.views(IMAGES, ["s1", "s2"], policy, teacher)
    for name, images in IMAGES.items():
        by = teacher if (policy, name) == ("ema_eval", "w") else net
        torch.testing.assert_close(v[name]["deep"], by(images)["deep"], rtol=1e-9, atol=1e-10)


def test_heads_on_features_map_and_all_depths_stand_side_by_side():
    net, said = deep_net("wrn-10-0.25", peak=MapHead(16, 3), silent=Silent(5, 2))
    net = shaken(net).eval()
    x = normal(4, 3, 8, 8)
    v = net(x)
    maps, last = plain_maps(net, x)
    assert set(v) == {"head", "deep", "peak"}
    torch.testing.assert_close(v.map, last)
    torch.testing.assert_close(v["peak"], net.heads["peak"](last))
    torch.testing.assert_close(said.maps[3], maps[3])
    assert not torch.equal(said.maps[3], v.map), "before and after the last norm"


@pytest.mark.parametrize("network", ["wrn-10-0.25", "resnet50"])
def test_a_backbone_that_says_all_depths_compiles_to_one_graph(network):
    backbone = deep_net(network)[0].backbone.eval()
    x = torch.zeros(2, 3, 16, 16)
    with torch.no_grad():
        have, want = torch.compile(backbone, backend="eager", fullgraph=True)(x), backbone(x)
    assert len(have) == len(want) == 5 and all(torch.equal(a, b) for a, b in zip(have, want, strict=True))


# ---- shortcuts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width_in", "width", "stride", "side"), [(3, 4, 2, 8), (8, 16, 2, 7), (16, 32, 1, 8)])
def test_a_shortcut_is_the_strided_convolution(width_in, width, stride, side):
    ours = Shortcut(width_in, width, stride).double()
    x, mirror = (torch.randn(5, width_in, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0),
                             requires_grad=True) for _ in range(2))
    plain = F.conv2d(mirror, ours.weight, stride=stride)
    out = ours(x.contiguous(memory_format=torch.channels_last))
    assert out.shape == plain.shape and torch.allclose(out, plain, rtol=1e-12, atol=1e-14)
    (weight,) = torch.autograd.grad(out.square().sum(), ours.weight, retain_graph=True)
    (again,) = torch.autograd.grad(plain.square().sum(), ours.weight, retain_graph=True)
    assert torch.allclose(weight, again, rtol=1e-11, atol=1e-12)
    out.square().sum().backward()
    plain.square().sum().backward()
    assert torch.allclose(x.grad, mirror.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("network", ["wrn-10-0.25", "wrn-28-2", "resnet50"])
def test_every_pointwise_convolution_with_a_stride_is_a_shortcut(network):
    """On CPUs they are computed another way (see `Shortcut`)."""
    strided = [m for m in make_backbone(network).modules()
               if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)]
    assert len(strided) == {"wrn-10-0.25": 2, "wrn-28-2": 2, "resnet50": 3}[network]
    assert all(isinstance(m, Shortcut) for m in strided)
