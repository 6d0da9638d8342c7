"""SeMi's Balanced Confidence Decay Memory Bank (BCDMB): features of the most confident strong views, class by class.

K cells of L slots, D features, C classes, n offers a step. Nothing here loops over offers or reads a value back.
Source: (6) of semi.py; the bank of the public release is semi_released.ReleasedBank.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """One cell a class (balanced), each with room for L pairs of feature and confidence. A slot is filled if its
    confidence is above 0.

    balanced=False: a single pool of C * L slots that all classes compete for, ranked by confidence alone.
    A cell after a push is the L most confident of its slots and then the offers to it in batch order, ties to the
    earlier one: what offering one by one gives. `push` sorts the cells that it is offered something for. The sort is
    stable, so equal ones stand by age.
    """

    features: Tensor    # [K, L, D]
    confidence: Tensor  # [K, L]
    label: Tensor       # [K, L] int64
    fresh: Tensor       # [K, L] bool: pushed since the last decay

    def __init__(self, classes: int, slots: int, features: int, balanced: bool = True,
                 dtype: torch.dtype = torch.float32):
        super().__init__()
        cells, room = (classes, slots) if balanced else (1, classes * slots)
        self.classes, self.balanced = classes, balanced
        self.register_buffer("features", torch.zeros(cells, room, features, dtype=dtype))
        self.register_buffer("confidence", torch.zeros(cells, room, dtype=dtype))
        self.register_buffer("label", torch.zeros(cells, room, dtype=torch.int64))
        self.register_buffer("fresh", torch.zeros(cells, room, dtype=torch.bool))

    def push(self, features: Tensor, confidence: Tensor, label: Tensor, mask: Tensor) -> None:
        """Offer rows to the cells of their labels: features [n, D], confidence [n] in (0, 1], label [n]. mask [n]: 0 is
        no offer."""
        cells, room = self.confidence.shape
        to = label if self.balanced else torch.zeros_like(label)
        to = torch.where(mask > 0, to, cells)                                                       # no offer: no cell
        # At most as many cells as offers can change. With 1000 cells of 128 slots of 128 features, and 128 offers, a
        # push takes 18 ms on a CPU, not 277.
        if cells > len(label):
            offered = torch.zeros(cells + 1, dtype=torch.bool, device=label.device).index_fill_(0, to, True)[:cells]
            chosen = torch.argsort(offered.int(), descending=True, stable=True)[:len(label)]
            kept = [x.index_select(0, chosen) for x in (self.features, self.label, self.fresh, self.confidence)]
            new = self._pushed(*kept, chosen, features, confidence, label, to)  # type: ignore[call-arg]  # 4 are kept
            for mine, x in zip((self.features, self.label, self.fresh, self.confidence), new, strict=True):
                mine.index_copy_(0, chosen, x)
            return
        own = (self.features, self.label, self.fresh, self.confidence)
        new = self._pushed(*own, torch.arange(cells, device=label.device), features, confidence, label, to)
        for mine, x in zip(own, new, strict=True):
            mine.copy_(x)

    @staticmethod
    def _pushed(slots: Tensor, labels: Tensor, fresh: Tensor, ranks: Tensor, cell: Tensor, features: Tensor,
                confidence: Tensor, label: Tensor, to: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cells after a push: their slots' features [k, L, D], labels, freshness and confidences [k, L].

        From those before it, the cells' numbers [k], and the offers with the cell that each goes to, `to` [n]."""
        room = ranks.shape[1]
        offers = torch.where(to == cell.unsqueeze(1), confidence, torch.full_like(confidence, -1))              # [k, n]
        ranked, index = torch.sort(torch.cat([ranks, offers], 1), dim=1, descending=True, stable=True)
        index = index[:, :room]
        old = index < room
        slot, row = index.clamp(max=room - 1), (index - room).clamp(min=0)
        moved = slots.gather(1, slot.unsqueeze(-1).expand_as(slots))
        return (torch.where(old.unsqueeze(-1), moved, features[row]),
                torch.where(old, labels.gather(1, slot), label[row]),
                torch.where(old, fresh.gather(1, slot), True), ranked[:, :room])

    def decay(self, now: Tensor, beta: float) -> None:
        """Where `now` (bool, 0-dim) is true: multiply the confidence of every slot not pushed since the last decay by
        beta. The next push puts the cell in order again: a stable sort of the slots, then of slots and offers, is one
        stable sort of both."""
        self.confidence.copy_(torch.where(now & ~self.fresh, self.confidence * beta, self.confidence))
        self.fresh.logical_and_(~now)

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """(mean feature of each class's filled slots [C, D], whether it has any [C]); zeros where there is none."""
        filled = (self.confidence > 0).to(self.features.dtype)
        if self.balanced:
            total, number = torch.bmm(filled.unsqueeze(1), self.features).squeeze(1), filled.sum(1)
        else:
            classes = torch.arange(self.classes, device=self.label.device).unsqueeze(1)
            member = (self.label[0] == classes) * filled[0]                                                 # [C, C L]
            total, number = member @ self.features[0], member.sum(1)
        return total / number.clamp(min=1).unsqueeze(-1), number > 0
