"""SeMi's Balanced Confidence Decay Memory Bank (BCDMB): features of the most confident strong views, class by class.

K cells of L slots, D features, C classes, n offers a step. Nothing here loops over offers or reads a value back.
Source: (6) of semi.py; the bank of the public release is semi_released.ReleasedBank.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """One cell a class (balanced), each with room for L pairs of feature and confidence. A slot is filled if its
    confidence is above 0.

    balanced=False: a single pool of C * L slots that all classes compete for, ranked by confidence alone.
    A cell after a push is the L most confident of its slots and then the offers to it in batch order, ties to the
    earlier one: what offering one by one gives. `push` sorts the cells that it is offered something for. The sort is
    stable, so equal ones stand by age. Features do not move: a new one is written where a dropped one stood, and
    `place` says for each slot where its feature stands in the cell.
    """

    stored: Tensor              # [K L + 1, D]; the last row is where offers go that are not taken
    place: Tensor               # [K, L]
    confidence: Tensor          # [K, L], this and what follows in the order of the slots
    label: Tensor
    fresh: Tensor               # pushed since the last decay

    def __init__(self, classes: int, slots: int, features: int, balanced: bool = True,
                 dtype: torch.dtype = torch.float32):
        super().__init__()
        cells, room = (classes, slots) if balanced else (1, classes * slots)
        self.classes, self.balanced = classes, balanced
        self.register_buffer("stored", torch.zeros(cells * room + 1, features, dtype=dtype))
        self.register_buffer("place", torch.arange(room).repeat(cells, 1))
        self.register_buffer("confidence", torch.zeros(cells, room, dtype=dtype))
        self.register_buffer("label", torch.zeros(cells, room, dtype=torch.int64))
        self.register_buffer("fresh", torch.zeros(cells, room, dtype=torch.bool))

    @property
    def cells(self) -> Tensor:
        """The features where they stand, [K, L, D]; not in the order of the slots."""
        return self.stored[:-1].view(*self.confidence.shape, -1)

    @property
    def features(self) -> Tensor:
        """The features in the order of the slots, [K, L, D]; a copy."""
        return self.cells.gather(1, self.place.unsqueeze(-1).expand(-1, -1, self.stored.shape[1]))

    def push(self, features: Tensor, confidence: Tensor, label: Tensor, mask: Tensor) -> None:
        """Offer rows to the cells of their labels: features [n, D], confidence [n] in (0, 1], label [n]. mask [n]: 0 is
        no offer."""
        cells, n = len(self.confidence), len(label)
        to = label if self.balanced else torch.zeros_like(label)
        to = torch.where(mask > 0, to, cells)                                                       # no offer: no cell
        slots = (self.confidence, self.place, self.label, self.fresh)
        if cells <= n:
            chosen = torch.arange(cells, device=label.device)
            new, target = self._pushed(slots, chosen, confidence, label, to)
            for mine, x in zip(slots, new, strict=True):
                mine.copy_(x)
        else:                                       # at most as many cells as there are offers can change
            offered = torch.zeros(cells + 1, dtype=torch.bool, device=label.device).index_fill_(0, to, True)[:cells]
            chosen = torch.argsort(offered.int(), descending=True, stable=True)[:n]
            new, target = self._pushed([x.index_select(0, chosen) for x in slots], chosen, confidence, label, to)
            for mine, x in zip(slots, new, strict=True):
                mine.index_copy_(0, chosen, x)
        self.stored.index_copy_(0, target, features)
        self.stored[-1].zero_()

    def _pushed(self, slots: Sequence[Tensor], cell: Tensor, confidence: Tensor, label: Tensor,
                to: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The slots of some cells after a push: confidence, place, label, fresh [k, L]; and the row of `stored` that
        each offer goes to, [n].

        From those before it, the cells' numbers [k], and the offers with the cell that each goes to, `to` [n]."""
        ranks, place, labels, fresh = slots
        room, n = ranks.shape[1], len(label)
        offers = torch.where(to == cell.unsqueeze(1), confidence, torch.full_like(confidence, -1))              # [k, n]
        ranked, index = torch.sort(torch.cat([ranks, offers], 1), dim=1, descending=True, stable=True)
        index = index[:, :room]
        old = index < room
        slot, row = index.clamp(max=room - 1), (index - room).clamp(min=0)
        kept = torch.zeros_like(index).scatter_add_(1, slot, old.long())               # [k, L], 1: the slot stays
        freed = place.gather(1, torch.argsort(kept, dim=1, stable=True))               # places, free ones first
        turn = ((~old).cumsum(1) - 1).clamp(min=0)                                     # 0: the first new one
        at = torch.where(old, place.gather(1, slot), freed.gather(1, turn))
        nowhere = len(self.stored) - 1
        target = torch.full((n + 1,), nowhere, dtype=torch.int64, device=label.device)
        target.scatter_(0, torch.where(old, n, row).flatten(), (cell.unsqueeze(1) * room + at).flatten())
        return (ranked[:, :room], at, torch.where(old, labels.gather(1, slot), label[row]),
                torch.where(old, fresh.gather(1, slot), True)), target[:n]

    def decay(self, now: Tensor, beta: float) -> None:
        """Where `now` (bool, 0-dim) is true: multiply the confidence of every slot not pushed since the last decay by
        beta. The next push puts the cell in order again: a stable sort of the slots, then of slots and offers, is one
        stable sort of both."""
        self.confidence.copy_(torch.where(now & ~self.fresh, self.confidence * beta, self.confidence))
        self.fresh.logical_and_(~now)

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """(mean feature of each class's filled slots [C, D], whether it has any [C]); zeros where there is none."""
        filled = (self.confidence > 0).to(self.stored.dtype)
        weight = torch.zeros_like(filled).scatter_(1, self.place, filled)                   # in the order of the places
        if self.balanced:
            total, number = torch.bmm(weight.unsqueeze(1), self.cells).squeeze(1), filled.sum(1)
        else:
            classes = torch.arange(self.classes, device=self.label.device).unsqueeze(1)
            label = torch.zeros_like(self.label).scatter_(1, self.place, self.label)
            member = (label[0] == classes) * weight[0]                                                      # [C, C L]
            total, number = member @ self.cells[0], member.sum(1)
        return total / number.clamp(min=1).unsqueeze(-1), number > 0
