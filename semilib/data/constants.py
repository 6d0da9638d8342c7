"""Values that are worked out once, and what a compiled or captured step sees of them: the finished value."""
from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class _Kept:
    """Tensors as attributes: a compiled step refers to each by its own name, and one more changes no other."""


_KEPT = _Kept()


_ONCE: list[Callable] = []


def once(make: Callable) -> Callable:
    """Decorator: a function of plain values to a plain value, worked out once for each.
    To a compiled step its result is a constant."""
    cached = functools.lru_cache(maxsize=4096)(make)

    @functools.wraps(make)
    def known(*values):
        return cached(*values)
    _ONCE.append(known)
    return known


def mark() -> None:
    """Tell the compiler of these functions. This is not done where they are made:
    it imports all of the compiler, which takes more than a second."""
    for known in _ONCE:
        torch.compiler.assume_constant_result(known)


def tensor_once(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same for a function to a small tensor, which later calls find where it is.
    A captured graph cannot copy it from the host."""
    @once
    def name(*values):
        name = f"{make.__module__}.{make.__name__}.{len(vars(_KEPT))}".replace(".", "_")
        setattr(_KEPT, name, make(*values))
        return name

    @functools.wraps(make)
    def known(*values):
        return getattr(_KEPT, name(*values))
    return known
