"""A step looked at: what `Trainer.peek` returns, and what `debug=True` checks in every step."""
from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from semilib.data.step import Batch, described
from semilib.errors import MethodError, TrainingError
from semilib.methods.base import Pseudo
from semilib.methods.losses import Term
from semilib.networks.net import Views


@dataclasses.dataclass(repr=False)
class Peek:
    """One step without gradients. images: view name -> normalised images [n, 3, H, W]. views: the network's outputs, by
    view. losses: the reduced terms."""

    step: int
    phase: str
    batch: Batch
    images: dict[str, Tensor]
    views: Views
    pseudo: Pseudo | None
    terms: dict[str, Term]
    losses: dict[str, float]

    def __repr__(self) -> str:
        """A line for each value, with its dtype and shape; a line for each term, with its loss and what it is made
        of."""
        lines = [f"step {self.step}, phase {self.phase}"]
        outputs = {name: {**view, "f": view.f} for name, view in self.views.items()}
        for title, values in (("batch", vars(self.batch)), ("images", self.images), ("views", outputs),
                              ("pseudo", {} if self.pseudo is None else vars(self.pseudo))):
            lines += [f"{title}:", *(f"  {name:10} {described(value)}" for name, value in values.items())]
        return "\n".join([*lines, "terms:", *(f"  {name:10} {self._term(name)}" for name in self.terms)])

    def _term(self, name: str) -> str:
        term = self.terms[name]
        weight = ""
        if term.weight is not None:
            weight = f", {int((term.weight > 0).sum())} of {len(term.weight)} weights above 0"
        by = term.denominator if isinstance(term.denominator, str) else f"{float(term.denominator):g}"
        return f"{self.losses[name]:.6f}  rows {described(term.rows)}{weight}, over {by}, times {float(term.scale):g}"


def check_step(step: int, terms: dict[str, Term], pseudo: Pseudo | None, batch: Batch, classes: int) -> None:
    """Raises MethodError for pseudo-labels of a wrong shape or dtype or with a gradient, and TrainingError for a term
    that is not finite; both name the step. Reads values back, so it is for debugging alone."""
    if pseudo is not None:
        rows = len(batch.index_u)
        soft = [rows, classes] if pseudo.target.ndim == 2 else [rows]
        for name, shape, whole in (("prob", [rows, classes], False), ("label", [rows], True), ("mask", [rows], False),
                                   ("target", soft, pseudo.target.ndim == 1)):
            value = getattr(pseudo, name)
            fits = value.dtype == torch.int64 if whole else value.is_floating_point()
            if list(value.shape) != shape or not fits or value.requires_grad:
                gradient = " with a gradient" * value.requires_grad
                raise MethodError(f"step {step}: pseudo.{name} is {described(value)}{gradient}; it is "
                                  f"{'int64' if whole else 'float'} {shape} without one")
    for name, term in terms.items():
        for part in ("rows", "weight", "scale"):
            value = torch.as_tensor(0.0 if getattr(term, part) is None else getattr(term, part))
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                raise TrainingError(f"step {step}: the {part} of term {name!r} {'are' if part == 'rows' else 'is'} not "
                                    f"finite in {bad} of {value.numel()} values")
