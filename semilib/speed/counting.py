"""What a step asks of a machine, counted rather than timed: operators, FLOPs, bytes, passes of images."""
from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from semilib.training.engine import Trainer

# Operators that start no work: memory without contents, and the view that `reshape` makes of its copy.
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "resize_",
        "set_", "_unsafe_view")


class Operators(TorchDispatchMode):
    """Counts the operators that pass, without views and allocations: uncompiled, each is at least one kernel on a
    GPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        self.count += not view and func.overloadpacket.__name__ not in FREE and func.namespace != "profiler"
        return func(*args, **(kwargs or {}))


def count_operators(call: Callable[[], Any]) -> int:
    """Operators of one call, backward included."""
    with Operators() as mode:
        call()
    return mode.count


def network_cost(backbone: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """A forward and backward pass over images of a shape [B, 3, H, W]. flops: a multiplication and an addition are two.
    elements: the numbers that convolutions move: forward input and output; backward the input again, its gradient and
    the output's. Nothing is computed: the tensors have no memory."""
    net, elements = copy.deepcopy(backbone).to("meta").train(), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, args, out: elements.append(3 * args[0].numel() + 2 * out.numel()))
    with FlopCounterMode(display=False) as counter:
        out = net(torch.empty(shape, device="meta"))
        (out[-1] if isinstance(out, tuple) else out).sum().backward()
    return {"flops": counter.get_total_flops(), "elements": sum(elements)}


@contextlib.contextmanager
def count_passes(trainer: Trainer) -> Iterator[dict[str, int]]:
    """Inside, the trainer's steps run uncompiled, and the images that pass its networks are counted: "grad" with
    gradient, "free" without. Compiled code calls no hook."""
    images = {"grad": 0, "free": 0}

    def count(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        live = module is trainer.net.backbone and torch.is_grad_enabled()
        images["grad" if live else "free"] += len(args[0])
    hooks = [net.backbone.register_forward_pre_hook(count) for net in (trainer.net, trainer.average.net)]
    kept, trainer.parts = trainer.parts, {name: getattr(trainer, name) for name in trainer.parts}
    try:
        yield images
    finally:
        trainer.parts = kept
        for hook in hooks:
            hook.remove()
