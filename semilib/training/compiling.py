"""torch.compile for a step's parts: each as one graph, compiled once a phase.

A graph break or an unplanned recompilation is an error, not a slow step; `tests/training/test_step_guard.py` holds
every method to it. """
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from semilib.data import constants
from semilib.errors import BadInput

# The first PyTorch whose compiled steps compute what uncompiled ones do. Before 2.11 not every method can be traced
# (2.6 has no subclass of dict); on a CPU 2.11 forgets what compiled code writes into a float64 number, such as the
# monitor's sums.
SINCE = {"cuda": (2, 11), "cpu": (2, 14)}
BACKEND = "inductor"                # tests put "eager" here: dynamo's tracing without code generation
ROOM = 64                           # compiled versions kept of a part: phases, and runs that share a process
# Views do not depend on how they are computed: no fused multiply-add in them, which rounds once where the definition
# rounds twice.
EXACT = {"views": {"emulate_precision_casts": True}}


def can_compile(device: torch.device) -> bool:
    """Whether this PyTorch compiles steps for the device as they are written."""
    return tuple(int(n) for n in torch.__version__.split(".")[:2]) >= SINCE[device.type]


def check(device: torch.device) -> None:
    """Raises BadInput if code cannot be compiled for the device here."""
    if not can_compile(device):
        since = ".".join(map(str, SINCE[device.type]))
        raise BadInput("capture", "compile",
                       f"off: steps are compiled for {device.type} from PyTorch {since} on, and this is "
                       f"{torch.__version__}")
    wanted = [os.environ.get("CXX"), "g++", "clang++", "c++"] if device.type == "cpu" else []
    if wanted and not any(w and shutil.which(w) for w in wanted):
        raise BadInput("capture", "compile",
                       "off: there is no C++ compiler here (g++ or clang++, or the one that CXX names)")


def compile_parts(parts: dict[str, Callable]) -> dict[str, Callable]:
    """The parts of a new run's step, compiled when they are first called. Those of earlier runs in this process are
    forgotten (they are compiled anew if they go on): PyTorch keeps a few versions of a function, and then runs it
    uncompiled without a word."""
    torch._dynamo.reset()
    constants.mark()
    return {name: compiled(part, EXACT.get(name)) for name, part in parts.items()}


def compiled(part: Callable, options: dict[str, Any] | None = None) -> Callable:
    """A part as one graph. options: inductor's, by name."""
    options = options if BACKEND == "inductor" else None
    made = torch.compile(part, backend=BACKEND, fullgraph=True, dynamic=False, options=options)

    def call(*given):
        with limits():
            return made(*given)
    return call


def limits():
    """PyTorch's bounds on versions of one function, raised; their names changed in 2.7."""
    config = torch._dynamo.config
    names = {"recompile_limit": ROOM, "cache_size_limit": ROOM,
             "accumulated_recompile_limit": 8 * ROOM, "accumulated_cache_size_limit": 8 * ROOM}
    return config.patch({name: value for name, value in names.items() if hasattr(config, name)})


def kernel_count(call: Callable) -> int:
    """Kernels that code generation makes of a call of compiled parts (a library's own, such as convolutions, are not
    among them). What was compiled before and is found again in PyTorch's cache counts as it did then."""
    from torch._inductor import metrics
    torch._dynamo.reset()
    metrics.reset()
    call()
    return metrics.generated_kernel_count
