"""Values that are worked out once, and what a compiled or captured step sees of them: the finished value."""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class _Kept:
    """Tensors as attributes: a compiled step refers to each by its own name, and one more changes nothing for the others."""


_KEPT = _Kept()


def once(make: Callable) -> Callable:
    """Decorator: a function of plain values to a plain value, worked out once for each; for a compiled step its result is a constant."""
    cached = functools.lru_cache(maxsize=4096)(make)

    @torch.compiler.assume_constant_result
    @functools.wraps(make)
    def known(*values):
        return cached(*values)
    return known


def tensor_once(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same for a function to a small tensor, which later calls find where it is: a captured graph cannot copy from the host."""
    @once
    def name(*values):
        name = f"{make.__module__}.{make.__name__}.{len(vars(_KEPT))}".replace(".", "_")
        setattr(_KEPT, name, make(*values))
        return name

    @functools.wraps(make)
    def known(*values):
        return getattr(_KEPT, name(*values))
    return known
