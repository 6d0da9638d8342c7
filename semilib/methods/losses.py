"""Loss pieces as pure functions of tensors, one value a row; the engine reduces them.

B rows, C classes, D features. A `Term` is a row loss with its weight, its denominator and its scale, so that an add-on
can change one of them without knowing the method it wraps. """
from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from semilib.errors import MethodError


class Term(NamedTuple):
    """One named part of a loss: scale * sum(rows * weight) / denominator.

    rows: [n] per-sample loss. weight: [n] or None (= 1), without gradient. denominator: "rows" = n, masked rows
    included (FixMatch and nearly all others), "weight" = sum of the weights + 1e-12 (CPE), or a number. scale: a
    number. A number may be a 0-dim tensor. """
    rows: Tensor
    weight: Tensor | None = None
    denominator: Literal["rows", "weight"] | float | Tensor = "rows"
    scale: float | Tensor = 1.0

    def detach(self) -> Term:
        def free(value: Any) -> Any:
            return value.detach() if isinstance(value, Tensor) else value
        return Term(free(self.rows), free(self.weight), free(self.denominator), free(self.scale))


def check_term(term: Term, name: str) -> None:
    """Raises MethodError unless the term's parts fit each other. Shapes are known when a step is compiled, so it is
    free there."""
    rows, weight = term.rows, term.weight
    if rows.ndim != 1:
        raise MethodError(f"term {name!r}: rows of shape {list(rows.shape)}; a term has one loss a row, [n]")
    if weight is not None and weight.shape != rows.shape:
        raise MethodError(f"term {name!r}: a weight of shape {list(weight.shape)} beside rows of shape "
                          f"{list(rows.shape)}; it has one weight a row")
    if weight is not None and weight.requires_grad:
        raise MethodError(f"term {name!r}: its weight has a gradient; make it without one, or put it into the rows")
    if isinstance(term.denominator, str) and term.denominator not in ("rows", "weight"):
        raise MethodError(f"term {name!r}: the denominator {term.denominator!r}; it is 'rows', 'weight' or a number")
    for what in ("denominator", "scale"):
        value = getattr(term, what)
        if isinstance(value, Tensor) and value.ndim:
            raise MethodError(f"term {name!r}: a {what} of shape {list(value.shape)}; it is a number or a 0-dim tensor")


def reduce(term: Term, name: str = "") -> Tensor:
    """A term as one number, 0-dim. Raises MethodError, which names the term, unless its parts fit each other."""
    check_term(term, name)
    total = term.rows.sum() if term.weight is None else (term.rows * term.weight).sum()
    if term.denominator == "rows":
        total = total / term.rows.shape[0]
    elif term.denominator == "weight":
        total = total / ((term.rows.shape[0] if term.weight is None else term.weight.sum()) + 1e-12)
    else:
        total = total / term.denominator
    return total * term.scale


def ce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy a row, [B]: logits [B, C]; target [B] class indices or [B, C] probabilities."""
    return F.cross_entropy(logits, target, reduction="none")


def one_hot(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """[B] class indices to [B, C] rows of 0 and 1 (a negative index gives a row of 0), without reading a value back."""
    return (label.unsqueeze(-1) == torch.arange(classes, device=label.device)).to(dtype)


def log_prior(prior: Tensor, tau: float | Tensor) -> Tensor:
    """log(prior^tau + 1e-12), [C]: the offset of a logit-adjusted loss (Menon et al., ICLR 2021; floor as in ACR and
    SeMi)."""
    return torch.log(prior**tau + 1e-12)


def normalised_entropy(prob: Tensor) -> Tensor:
    """Entropy of each row over log C, [B] in about [0, 1]; probabilities are clamped to [1e-8, 1 - 1e-8] (SeMi)."""
    p = prob.clamp(1e-8, 1 - 1e-8)
    return -(p * p.log()).sum(-1) / math.log(prob.shape[-1])
