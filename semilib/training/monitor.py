"""What is measured while a run trains: sums on the device, read back only at log points."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from semilib.errors import TrainingError
from semilib.training import metrics


class Monitor:
    """Running sums on the device, read only at log points: losses by term, pseudo-label counts, what has been active,
    and the first step and term whose loss was not finite."""

    def __init__(self, classes: int, device: torch.device):
        self.classes, self.device = classes, device
        self.state = {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in
                      {"used": classes * classes, "seen": classes, "predicted": classes, "shown": 1}.items()}

    def expect(self, terms: Iterable[str], components: Iterable[str]) -> None:
        """Make room for what a step is about to add, on the host; terms may differ between phases."""
        s = self.state
        for name in terms:
            if f"loss/{name}" not in s:
                s[f"loss/{name}"] = torch.zeros((), dtype=torch.float64, device=self.device)
                s[f"steps/{name}"] = torch.zeros((), dtype=torch.int64, device=self.device)
                s[f"bad/{name}"] = torch.full((), -1, device=self.device)
        for name in components:
            if f"active/{name}" not in s:
                s[f"active/{name}"] = torch.zeros((), dtype=torch.bool, device=self.device)

    def add(self, losses: dict[str, Tensor], step: Tensor, active: dict[str, Tensor]) -> None:
        """A step's losses and which components acted in it, all of which are expected; without gradient."""
        s = self.state
        for name, flag in active.items():
            s[f"active/{name}"].logical_or_(flag)
        for name, loss in losses.items():
            s[f"loss/{name}"].add_(loss)
            s[f"steps/{name}"].add_(1)
            bad = s[f"bad/{name}"]
            bad.copy_(torch.where((bad < 0) & ~torch.isfinite(loss), step, bad))

    def add_pseudo(self, label: Tensor, mask: Tensor, truth: Tensor) -> None:
        """label, mask, truth [mu B]; a pseudo-label counts from half its weight on; truth -1 = unknown."""
        s, counted = self.state, (mask >= 0.5).to(torch.int64)
        known = (truth >= 0).to(torch.int64)
        row = truth.clamp(min=0)
        s["used"].scatter_add_(0, row * self.classes + label, counted * known)
        s["seen"].scatter_add_(0, row, known)
        s["predicted"].scatter_add_(0, label, counted)
        s["shown"].add_(label.shape[0])

    def losses(self) -> dict[str, float]:
        """Mean of each term since the last reset."""
        steps = {key[6:]: int(value) for key, value in self.state.items() if key.startswith("steps/")}
        return {name: float(self.state[f"loss/{name}"]) / n for name, n in steps.items() if n > 0}

    def pseudo_labels(self) -> dict[str, Any] | None:
        shown = int(self.state["shown"])
        if shown == 0:
            return None
        used = self.state["used"].view(self.classes, self.classes).cpu().numpy()
        seen, predicted = (self.state[name].cpu().numpy() for name in ("seen", "predicted"))
        return metrics.pseudo_label_scores(used, seen, predicted, shown)

    def check_finite(self) -> None:
        bad = [(int(value), key[4:]) for key, value in self.state.items() if key.startswith("bad/")]
        if any(step >= 0 for step, _ in bad):
            step, name = min((b for b in bad if b[0] >= 0), key=lambda b: b[0])
            raise TrainingError(f"the loss {name!r} was not finite in step {step}: lower lr, or look at the data")

    def never_active(self, components: Iterable[str]) -> list[str]:
        return [c for c in components if not bool(self.state.get(f"active/{c}", False))]

    def reset(self) -> None:
        for name, value in self.state.items():
            if name in ("used", "seen", "predicted", "shown") or name.startswith(("loss/", "steps/")):
                value.zero_()

    def load(self, state: dict[str, Tensor]) -> None:
        self.state.update({name: value.to(self.device) for name, value in state.items()})
