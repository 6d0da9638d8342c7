"""What is measured while a run trains: sums on the device, read back only at log points."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semilib import metrics
from semilib.errors import TrainingError


class Monitor:
    """Running sums on the device, read only at log points: losses by term, pseudo-label counts, what has been active, and the first
    step and term whose loss was not finite."""

    def __init__(self, classes: int, device: torch.device):
        self.classes, self.device = classes, device
        self.names: list[str] = []
        self.state = {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in
                      {"used": classes * classes, "seen": classes, "predicted": classes, "shown": 1, "steps": 1}.items()}
        self.state["bad"] = torch.tensor([-1, -1], device=device)                  # step, number of the term

    def add(self, losses: dict[str, Tensor], step: Tensor, active: dict[str, Tensor]) -> None:
        self.names = list(losses)
        values = torch.stack([loss.detach().double() for loss in losses.values()])
        s = self.state
        if "losses" not in s:
            s["losses"] = torch.zeros_like(values)
            s.update({f"active/{name}": torch.zeros_like(flag) for name, flag in active.items()})
        s["losses"].add_(values)
        s["steps"].add_(1)
        broken = ~torch.isfinite(values)
        first = torch.stack([step, broken.to(torch.int8).argmax()])
        s["bad"].copy_(torch.where((s["bad"][0] < 0) & broken.any(), first, s["bad"]))
        for name, flag in active.items():
            s[f"active/{name}"].logical_or_(flag)

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
        steps = max(1, int(self.state["steps"]))
        return {name: value / steps for name, value in zip(self.names, self.state["losses"].tolist(), strict=True)} \
            if "losses" in self.state else {}

    def pseudo_labels(self) -> dict[str, Any] | None:
        shown = int(self.state["shown"])
        if shown == 0:
            return None
        used = self.state["used"].view(self.classes, self.classes).cpu().numpy()
        return metrics.pseudo_label_scores(used, self.state["seen"].cpu().numpy(), self.state["predicted"].cpu().numpy(), shown)

    def check_finite(self) -> None:
        step, term = self.state["bad"].tolist()
        if step >= 0:
            raise TrainingError(f"the loss {self.names[term]!r} was not finite in step {step}: lower lr, or look at the data")

    def never_active(self, components: tuple[str, ...]) -> list[str]:
        return [c for c in components if not bool(self.state.get(f"active/{c}", False))]

    def reset(self) -> None:
        for name in ("losses", "steps", "used", "seen", "predicted", "shown"):
            if name in self.state:
                self.state[name].zero_()

    def load(self, state: dict[str, Tensor]) -> None:
        self.state.update({name: value.to(self.device) for name, value in state.items()})
