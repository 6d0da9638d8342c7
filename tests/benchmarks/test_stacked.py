"""Networks stacked into one compute what each computes alone: logits, gradients, running statistics."""
import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import stacked
from benchmarks.stacked import StackedNet
from semilib.errors import BadInput
from semilib.networks.backbones import Shortcut, initialise, make_backbone
from semilib.networks.net import Net, linear
from semilib.speed import measure, workloads
from semilib.training.config import Run

N, B, CLASSES = 3, 4, 5


def network(seed: int, variant: str) -> Net:
    """In float64, none of its values left at 0 or 1."""
    backbone = make_backbone("wrn-10-0.25", variant, bn_momentum=0.1)
    net = Net(backbone, {"head": linear(backbone.features, CLASSES)}).double()
    initialise(net, seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if value.is_floating_point() and (value.ndim == 1 or "head" in name):
                value.copy_(0.5 + torch.rand(value.shape, generator=g, dtype=torch.float64))
    return net.train()


@pytest.fixture(params=["V1", "USB"])
def both(request) -> tuple[list[Net], StackedNet]:
    nets = [network(seed, request.param) for seed in range(N)]
    return nets, StackedNet(copy.deepcopy(nets)).train()


def images(step: int = 0) -> torch.Tensor:
    return torch.randn(B, 3 * N, 16, 16, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def own(x: torch.Tensor, i: int) -> torch.Tensor:
    return x[:, 3 * i:3 * i + 3]


def same(have: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-12)


def test_logits_are_each_networks_own(both):
    nets, joined = both
    out = joined(images())
    assert out.shape == (N, B, CLASSES) and out.dtype == torch.float64
    for i, net in enumerate(nets):
        same(out[i], net(own(images(), i))["head"])
    assert not torch.allclose(out[0], out[1])


def test_gradients_are_each_networks_own(both):
    nets, joined = both
    y = torch.arange(N * B).view(N, B) % CLASSES
    F.cross_entropy(joined(images()).flatten(0, 1), y.flatten(), reduction="sum").backward()
    for i, net in enumerate(nets):
        F.cross_entropy(net(own(images(), i))["head"], y[i], reduction="sum").backward()
        parts = {f"backbone.{name}": p.grad.chunk(N)[i] for name, p in joined.backbone.named_parameters()
                 if p.grad is not None}
        parts.update({"heads.head.weight": joined.weight.grad[i], "heads.head.bias": joined.bias.grad[i]})
        wanted = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
        assert parts.keys() == wanted.keys()
        assert len(parts) == len(list(net.parameters())) - 4                 # two norms have no use in V1 and USB
        for name, grad in wanted.items():
            same(parts[name], grad)
            assert grad.abs().max() > 0, name


def test_running_statistics_are_each_networks_own(both):
    nets, joined = both
    for step in range(2):
        joined(images(step))
        for i, net in enumerate(nets):
            net(own(images(step), i))
    buffers = {name: b for name, b in joined.backbone.named_buffers() if "running" in name}
    assert len(buffers) == 2 * sum(isinstance(m, nn.BatchNorm2d) for m in nets[0].backbone.modules())
    for i, net in enumerate(nets):
        for name, value in buffers.items():
            same(value.chunk(N)[i], net.backbone.get_buffer(name))
    joined.eval()
    for i, net in enumerate(nets):
        same(joined(images(9))[i], net.eval()(own(images(9), i))["head"])


def test_the_networks_keep_their_values_and_the_stack_has_its_own(both):
    nets, joined = both
    assert sum(p.numel() for p in joined.parameters()) == N * sum(p.numel() for p in nets[0].parameters())
    assert [m.groups for m in joined.modules() if isinstance(m, nn.Conv2d)] == \
        [N for m in nets[0].modules() if isinstance(m, nn.Conv2d)]
    for net in (joined, nets[0]):
        assert sum(isinstance(m, Shortcut) for m in net.modules()) == 2
    before = joined(images()).detach()
    with torch.no_grad():
        for net in nets:
            for p in net.parameters():
                p.zero_()
    same(joined(images()), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_logits_are_each_networks_own():
    nets = [network(seed, "V1").cuda() for seed in range(N)]
    x = images().cuda()
    out = StackedNet(copy.deepcopy(nets)).train()(x)
    for i, net in enumerate(nets):
        torch.testing.assert_close(out[i], net(own(x, i))["head"], rtol=1e-8, atol=1e-10)


# ---- the section of a record -----------------------------------------------------------------------------------------


def test_the_command_adds_its_section_to_a_record(tmp_path, monkeypatch, capsys):
    cell = dict(n1=30, m1=60, gamma_l=10.0, gamma_u=10.0)
    monkeypatch.setattr(measure.Settings, "run", lambda self, method="semi", **changes: Run.of(
        "cifar10", method, profile="smoke", device="cpu", **cell, **changes))
    source = workloads.random_source(1000, 10, test=10)
    monkeypatch.setattr(stacked, "like_cifar10", lambda: source)
    monkeypatch.setattr(measure, "SECTIONS", dict(measure.SECTIONS))
    monkeypatch.setattr(stacked, "SECTIONS", measure.SECTIONS)
    monkeypatch.setitem(measure.SECTIONS, "sharing", lambda settings: iter(
        [{"how": "runs in one process", "runs": 1, "median_s": 0.5, "min_s": 0.5, "steps_a_second": 2.0}]))
    settings = measure.Settings(device="cpu", profile="smoke", steps=2, most_runs=2, sections="sharing")
    before = measure.measure(settings, tmp_path / "x.json", lambda text: None)
    stacked.main([str(tmp_path / "x.json")])
    record = json.loads((tmp_path / "x.json").read_text())
    assert {key: record[key] for key in before} == before
    assert [(r["how"], r["runs"]) for r in record["stacked"]["rows"]] == \
        [("bare networks stacked into one", n) for n in (1, 2)]
    assert all(r["steps_a_second"] == r["runs"] / r["median_s"] for r in record["stacked"]["rows"])
    printed = capsys.readouterr().out
    assert "runs in one process" in printed and "Stacked: the bare network" in printed


@pytest.mark.parametrize("arguments", [[], ["nowhere.json"], ["a.json", "b.json"]])
def test_the_command_wants_a_record(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="a record that `semilib speed` has written"):
        stacked.main(arguments)
