"""Every method at the edge of what a run can reach: all losses, gradients, state and pseudo-labels stay finite.

The labelled counts fall to one image a class, and the unlabelled ones rise against them. The network is held, by
weights that are set before each step, where real ones end up: sure of everything, of nothing, of one class, or with
features that have collapsed.
"""
from __future__ import annotations

import kit
import pytest
import torch
from torch import Tensor, nn

from semilib.data.sources import Source
from semilib.methods import METHODS, get
from semilib.training.engine import Trainer

PAIRS = [(name, base) for name in METHODS for base in ("", *get(name).bases[1:])]


def classifiers(t: Trainer) -> list[nn.Linear]:
    """The layers that say a class, of the network and of its average."""
    heads = [module for net in (t.net, t.average.net) for module in net.heads.modules()]
    return [m for m in heads if isinstance(m, nn.Linear) and m.out_features == t.data.classes]


def nobody_is_sure(t: Trainer) -> None:
    for layer in classifiers(t):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def everybody_is_sure(t: Trainer) -> None:
    for layer in classifiers(t):
        layer.weight.data.mul_(1e4 / layer.weight.abs().max().clamp(min=1e-3))


def one_class_takes_all(t: Trainer) -> None:
    """In float32 all others have probability 0."""
    for layer in classifiers(t):
        nn.init.zeros_(layer.bias)
        layer.bias.data[0] = 300


def features_are_all_zero(t: Trainer) -> None:
    for net in (t.net, t.average.net):
        last = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def not_finite(t: Trainer, p) -> list[str]:
    """What is not finite after a step, p being its pseudo-labels."""
    tensors = {**{f"loss {k}": x for k, x in t.last_losses.items()},
               **{f"gradient {k}": x.grad for k, x in t.net.named_parameters()},
               **{f"state {k}": x for k, x in t.method.state_dict().items()},
               **{f"pseudo-label {k}": x for k, x in (vars(p) if p is not None else {}).items()}}
    return [k for k, x in tensors.items() if isinstance(x, Tensor) and x.is_floating_point() and not x.isfinite().all()]


def run_through(t: Trainer, *states) -> None:
    """A whole run, each state for an equal part of it."""
    seen, pseudo = [], t.method.pseudo

    def watched(*given):
        seen.append(pseudo(*given))
        return seen[-1]

    t.method.pseudo = watched
    for step in range(t.total):
        hold = states[step * len(states) // t.total]
        hold(t)
        t.advance()
        assert not not_finite(t, seen[-1] if seen else None), f"{hold.__name__}, step {step}"


def trainer(name: str, base: str, source: Source, **changes) -> Trainer:
    options = dict(get(name, base).smoke)
    if "threshold" in options:
        options["threshold"] = 0.3
    return Trainer(kit.run(name, options, base=base, lr=1e-30, batch=4, order="reversed", eval_every=2, **changes),
                   source)


@pytest.fixture(scope="module")
def few() -> Source:
    return kit.source(side=8)


@pytest.fixture(scope="module")
def many() -> Source:
    """1,000 classes of two images."""
    y = torch.arange(1000).repeat_interleave(2)
    x = torch.randint(256, (len(y), 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Source("many", x, y, x[:8], y[:8], [f"class {k}" for k in range(1000)], (.5, .5, .5), (.25, .25, .25), True)


@pytest.mark.parametrize("name, base", PAIRS)
def test_nothing_is_ever_infinite_or_undefined(name, base, few, kept_views):
    states = everybody_is_sure, one_class_takes_all, nobody_is_sure, features_are_all_zero
    run_through(trainer(name, base, few, steps=12, n1=14, gamma_l=14.0, m1=16, gamma_u=16.0), *states)


@pytest.mark.parametrize("name", METHODS)
def test_nor_with_a_thousand_classes(name, many, kept_views):
    run_through(trainer(name, "", many, steps=6, n1=1, gamma_l=1.0, m1=1, gamma_u=1.0), nobody_is_sure)
