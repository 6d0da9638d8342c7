"""What a step asks of a machine, counted rather than timed: operators, FLOPs, bytes."""
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

# Operators that start no work: memory without contents, and the view that `reshape` makes of its copy.
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "resize_", "set_", "_unsafe_view")


class Operators(TorchDispatchMode):
    """Counts the operators that pass, views and allocations left out: uncompiled, each is at least one kernel on a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    @classmethod
    def of(cls, call: Callable[[], Any]) -> dict[str, int]:
        """Of one call, backward included."""
        with cls() as mode:
            call()
        return {"operators": mode.count}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        returns_view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        self.count += not returns_view and func.overloadpacket.__name__ not in FREE and func.namespace != "profiler"
        return func(*args, **(kwargs or {}))


def network_cost(backbone: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Floating-point operations of a forward and backward pass over images of a shape [B, 3, H, W] (a multiplication and an addition
    are two), and the numbers that the convolutions alone move: forward input and output, backward the input again, its gradient and
    the output's. Nothing is computed: the tensors have no memory."""
    net, elements = copy.deepcopy(backbone).to("meta").train(), 0
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            def count(module, given, out):
                nonlocal elements
                elements += 3 * given[0].numel() + 2 * out.numel()
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        out = net(torch.empty(shape, device="meta"))
        (out[-1] if isinstance(out, tuple) else out).sum().backward()
    return {"flops": counter.get_total_flops(), "elements": elements}
