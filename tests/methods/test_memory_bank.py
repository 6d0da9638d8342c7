"""The memory bank against slow twins of Python lists, which offer one by one; its released form; and its switches."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import f64

from semilib.methods.memory_bank import MemoryBank
from semilib.methods.semi_released import ReleasedBank

ON, OFF = torch.tensor(True), torch.tensor(False)


class SlowBank:
    """The bank as described: lists of [confidence, feature, label, pushed since the last decay], filled one by one."""

    def __init__(self, classes: int, slots: int, balanced: bool = True):
        self.classes, self.balanced = classes, balanced
        self.room = slots if balanced else classes * slots
        self.cells = [[] for _ in range(classes if balanced else 1)]

    def push(self, features, confidence, label, mask) -> None:
        for feature, c, k, m in zip(features.tolist(), confidence.tolist(), label.tolist(), mask.tolist()):
            cell = self.cells[k if self.balanced else 0]
            if not m:
                continue
            if len(cell) == self.room:
                if c <= cell[-1][0]:
                    continue
                cell.pop()
            cell.append([c, feature, k, True])
            cell.sort(key=lambda slot: -slot[0])               # Python's sort is stable: equal ones keep their age

    def decay(self, now: bool, beta: float) -> None:
        for cell in self.cells if now else ():
            for slot in cell:
                if not slot[3]:
                    slot[0] *= beta
                slot[3] = False
            cell.sort(key=lambda slot: -slot[0])

    def prototypes(self, features: int) -> tuple[list[list[float]], list[bool]]:
        means, filled = [], []
        for k in range(self.classes):
            members = [slot[1] for cell in self.cells for slot in cell if slot[2] == k]
            filled.append(bool(members))
            means.append([sum(column) / len(members) for column in zip(*members)] if members else [0.0] * features)
        return means, filled


def contents(bank: MemoryBank) -> list[list[list]]:
    """The filled slots of each cell by confidence, equal ones in the order of their slots: what a push would find."""
    out = []
    for cell in zip(*(x.tolist() for x in (bank.confidence, bank.features, bank.label, bank.fresh)), strict=True):
        slots = [[*slot] for slot in zip(*cell, strict=True) if slot[0] > 0]
        out.append(sorted(slots, key=lambda slot: -slot[0]))
    return out


def offers(g: torch.Generator, rows: int, classes: int, features: int, levels: int | None, share: float):
    """A random batch; confidences from {1, 1/2, 1/4, ...} where `levels` is given, so that decays by 1/2 bring ties."""
    if levels:
        confidence = 0.5 ** torch.randint(0, levels, (rows,), generator=g).double()
    else:
        confidence = 0.3 + 0.7 * torch.rand(rows, generator=g, dtype=torch.float64)
    mask = (torch.rand(rows, generator=g) < share).double()
    label = torch.randint(0, classes, (rows,), generator=g)
    return torch.randn(rows, features, generator=g, dtype=torch.float64), confidence, label, mask


def same_contents(bank: MemoryBank, slow: SlowBank) -> None:
    assert contents(bank) == slow.cells
    means, filled = bank.prototypes()
    want_means, want_filled = slow.prototypes(bank.features.shape[-1])
    assert filled.tolist() == want_filled
    torch.testing.assert_close(means, f64(want_means), rtol=1e-12, atol=1e-12)


# ---- the bank against its slow twin ---------------------------------------------------------------------------------


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("levels", [2, 4, None])
@pytest.mark.parametrize("slots, rows", [(1, 7), (3, 4), (5, 24), (64, 6)])
def test_a_batched_push_keeps_what_offering_one_by_one_keeps(balanced, levels, slots, rows):
    """Over many steps, with ties, decays in between, cells that stay empty at first and cells that overflow."""
    g = torch.Generator().manual_seed(slots * 100 + rows)
    bank, slow = MemoryBank(3, slots, 2, balanced, torch.float64), SlowBank(3, slots, balanced)
    for step in range(40):
        share = (0.6, 1.0, 0.0, 0.3)[step % 4]
        classes = 2 if step < 8 else 3                                   # class 2 is offered nothing at first
        batch = offers(g, rows, classes, 2, levels, share)
        bank.push(*batch)
        slow.push(*batch)
        same_contents(bank, slow)
        now = step % 3 == 2
        bank.decay(torch.tensor(now), 0.5)
        slow.decay(now, 0.5)
        same_contents(bank, slow)
    assert slots == 64 or all(len(cell) == slow.room for cell in slow.cells), "no cell has overflowed"


@pytest.mark.parametrize("balanced", [True, False])
def test_slots_stand_by_confidence_after_a_push(balanced):
    g = torch.Generator().manual_seed(0)
    bank = MemoryBank(3, 4, 2, balanced, torch.float64)
    for _ in range(12):
        bank.push(*offers(g, 9, 3, 2, 4, 0.7))
        assert (bank.confidence.diff(dim=1) <= 0).all()
        bank.decay(ON, 0.5)


def test_ties_go_to_the_older_slot_and_then_to_the_lower_row():
    bank = MemoryBank(1, 2, 1, dtype=torch.float64)
    zeros = torch.zeros(1, dtype=torch.int64)
    bank.push(f64([[1]]), f64([0.8]), zeros, f64([1]))
    bank.push(f64([[2], [3], [4]]), f64([0.8, 0.8, 0.7]), zeros.expand(3), f64([1, 1, 1]))
    assert bank.features.flatten().tolist() == [1, 2] and bank.confidence.tolist() == [[0.8, 0.8]]
    bank.push(f64([[5], [6]]), f64([0.8, 0.9]), zeros.expand(2), f64([1, 1]))
    assert bank.features.flatten().tolist() == [6, 1] and bank.confidence.tolist() == [[0.9, 0.8]]


def test_an_offer_equal_to_the_lowest_slot_does_not_enter_and_a_greater_one_does():
    bank = MemoryBank(1, 1, 1, dtype=torch.float64)
    one = torch.zeros(1, dtype=torch.int64), f64([1])
    for value, confidence, kept in ((1, 0.5, 1), (2, 0.5, 1), (3, 0.5000001, 3), (4, 0.4, 3)):
        bank.push(f64([[value]]), f64([confidence]), *one)
        assert bank.features.item() == kept


def test_a_push_without_offers_changes_nothing():
    g = torch.Generator().manual_seed(1)
    bank = MemoryBank(3, 4, 2, dtype=torch.float64)
    for batch in (offers(g, 8, 3, 2, 3, 0.0), offers(g, 8, 3, 2, 3, 1.0), offers(g, 8, 3, 2, 3, 0.0)):
        before = {k: v.clone() for k, v in bank.state_dict().items()}
        bank.push(*batch)
        assert all(torch.equal(v, before[k]) for k, v in bank.state_dict().items()) == (not batch[3].any())


def test_any_positive_mask_is_an_offer_with_its_own_confidence():
    bank = MemoryBank(2, 2, 1, dtype=torch.float64)
    bank.push(f64([[1], [2], [3]]), f64([.6, .7, .8]), torch.tensor([0, 0, 1]), f64([.25, 0, 1]))
    assert contents(bank) == [[[.6, [1], 0, True]], [[.8, [3], 1, True]]]


def test_the_bank_holds_no_gradient_and_keeps_its_precision():
    bank = MemoryBank(2, 3, 2)
    assert bank.features.dtype == bank.confidence.dtype == torch.float32 and not list(bank.parameters())
    with torch.no_grad():
        f = torch.randn(4, 2, requires_grad=True)
        bank.push(f, torch.full((4,), .5), torch.tensor([0, 1, 1, 0]), torch.ones(4))
    assert not any(b.requires_grad for b in bank.buffers())


# ---- decay and prototypes -------------------------------------------------------------------------------------------


def test_a_decay_multiplies_the_slots_not_pushed_since_the_last_one():
    bank = MemoryBank(1, 4, 1, dtype=torch.float64)

    def push(value, confidence):
        bank.push(f64([[value]]), f64([confidence]), torch.zeros(1, dtype=torch.int64), f64([1]))

    def have():
        return {f[0]: c for c, f, *_ in contents(bank)[0]}
    push(1, .9)
    push(2, .8)
    bank.decay(ON, .5)
    assert have() == {1: .9, 2: .8}                           # both are new
    push(3, .7)
    bank.decay(OFF, .5)                                       # not now: neither confidences nor marks move
    assert have() == {1: .9, 2: .8, 3: .7}
    bank.decay(ON, .5)
    assert have() == {1: .45, 2: .4, 3: .7}
    bank.decay(ON, .5)
    assert have() == {1: .225, 2: .2, 3: .35}
    push(4, .3)
    push(5, .21)                                              # a stale feature has lost its place
    assert have() == {1: .225, 3: .35, 4: .3, 5: .21}


def test_a_decay_by_one_changes_no_confidence():
    g = torch.Generator().manual_seed(2)
    bank, idle = (MemoryBank(3, 4, 2, dtype=torch.float64) for _ in range(2))
    for _ in range(10):
        batch = offers(g, 9, 3, 2, 4, 0.7)
        for b in (bank, idle):
            b.push(*batch)
        bank.decay(ON, 1.0)
        a, b = ([[slot[:3] for slot in cell] for cell in contents(either)] for either in (bank, idle))
        assert a == b


def test_prototypes_of_an_empty_bank_are_zero_and_marked_as_missing():
    for balanced in (True, False):
        means, filled = MemoryBank(3, 4, 2, balanced).prototypes()
        assert means.tolist() == [[0, 0]] * 3 and filled.tolist() == [False] * 3


def test_prototypes_are_means_of_the_filled_slots_alone():
    for balanced in (True, False):
        bank = MemoryBank(3, 4, 2, balanced, torch.float64)
        bank.push(f64([[1, 0], [3, 4], [5, 5]]), f64([.9, .1, .5]), torch.tensor([0, 0, 2]), f64([1, 1, 1]))
        means, filled = bank.prototypes()
        assert means.tolist() == [[2, 2], [0, 0], [5, 5]] and filled.tolist() == [True, False, True]


def test_the_single_pool_lets_one_class_take_all_and_the_cells_do_not():
    pool, cells = MemoryBank(2, 2, 1, False, torch.float64), MemoryBank(2, 2, 1, True, torch.float64)
    for bank in (pool, cells):
        bank.push(f64([[9]]), f64([.6]), torch.tensor([1]), f64([1]))
        bank.push(f64([[1], [2], [3], [4]]), f64([.9, .8, .7, .95]), torch.zeros(4, dtype=torch.int64), f64([1] * 4))
    assert pool.prototypes()[1].tolist() == [True, False] and len(contents(pool)[0]) == 4
    assert cells.prototypes()[1].tolist() == [True, True] and [len(cell) for cell in contents(cells)] == [2, 1]


# ---- switches that are off ------------------------------------------------------------------------------------------


def run_both(a: MemoryBank, b: MemoryBank, classes: int, seed: int = 3, steps: int = 15, share: float = 0.7):
    g = torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = offers(g, 8, classes, 2, 3, share)
        for bank in (a, b):
            bank.push(*batch)
            bank.decay(torch.tensor(step % 3 == 2), .5)
        yield


@pytest.mark.parametrize("balanced", [True, False])
def test_the_released_bank_with_its_defects_off_is_the_bank(balanced):
    bank = MemoryBank(3, 4, 2, balanced, torch.float64)
    other = released(3, 4, 2, balanced, shifted=False)
    for _ in run_both(bank, other, 3):
        kit.same_state(bank.state_dict(), other.state_dict())
        assert all(torch.equal(x, y) for x, y in zip(bank.prototypes(), other.prototypes(), strict=True))


def test_with_one_class_a_pool_is_a_cell():
    cell, pool = MemoryBank(1, 5, 2, True, torch.float64), MemoryBank(1, 5, 2, False, torch.float64)
    for _ in run_both(cell, pool, 1):
        kit.same_state(cell.state_dict(), pool.state_dict())
        for x, y in zip(cell.prototypes(), pool.prototypes(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_while_nothing_overflows_pool_and_cells_have_the_same_prototypes():
    cells, pool = MemoryBank(3, 200, 2, True, torch.float64), MemoryBank(3, 200, 2, False, torch.float64)
    for _ in run_both(cells, pool, 3, share=0.3):
        for x, y in zip(cells.prototypes(), pool.prototypes(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


# ---- the bank as released -------------------------------------------------------------------------------------------


class SlowShifted:
    """The released push: the features shift left by one and the new one stands last, the new confidence is written over
    the lowest, and both are sorted by the confidences. Full lists from the start, filled with zeros."""

    def __init__(self, cells: int, slots: int, features: int):
        self.confidence = [[0.0] * slots for _ in range(cells)]
        self.features = [[[0.0] * features] * slots for _ in range(cells)]
        self.fresh = [[False] * slots for _ in range(cells)]

    def sort(self, k: int) -> None:
        order = sorted(range(len(self.confidence[k])), key=lambda i: -self.confidence[k][i])
        for part in (self.confidence, self.features, self.fresh):
            part[k] = [part[k][i] for i in order]

    def push(self, features, confidence, label, mask) -> None:
        for feature, c, k, m in zip(features.tolist(), confidence.tolist(), label.tolist(), mask.tolist()):
            if m and c > self.confidence[k][-1]:
                self.features[k] = self.features[k][1:] + [feature]
                self.confidence[k][-1], self.fresh[k][-1] = c, True
                self.sort(k)

    def decay(self, now: bool, beta: float) -> None:
        for k in range(len(self.confidence)) if now else ():
            self.confidence[k] = [c if new else c * beta for c, new in zip(self.confidence[k], self.fresh[k])]
            self.fresh[k] = [False] * len(self.fresh[k])
            self.sort(k)


def released(cells: int, slots: int, features: int, balanced: bool = True, shifted: bool = True,
             empty_as_zero: bool = False) -> ReleasedBank:
    return ReleasedBank(cells, slots, features, balanced, torch.float64, shifted=shifted, empty_as_zero=empty_as_zero)


@pytest.mark.parametrize("levels", [3, None])
def test_the_shifted_bank_is_its_slow_twin(levels):
    """Confidences always; features where no two confidences are equal, because the release sorts without stability."""
    g = torch.Generator().manual_seed(4)
    bank, slow = released(3, 4, 2), SlowShifted(3, 4, 2)
    for step in range(30):
        batch = offers(g, 8, 3, 2, levels, 0.7)
        bank.push(*batch)
        slow.push(*batch)
        bank.decay(torch.tensor(step % 3 == 2), .5)
        slow.decay(step % 3 == 2, .5)
        assert bank.confidence.tolist() == slow.confidence
        if levels is None:
            assert bank.features.tolist() == slow.features and bank.fresh.tolist() == slow.fresh


def test_the_shifted_bank_has_the_confidences_of_the_bank_while_nothing_decays():
    g = torch.Generator().manual_seed(5)
    bank, right = released(3, 4, 2), MemoryBank(3, 4, 2, dtype=torch.float64)
    for _ in range(20):
        batch = offers(g, 8, 3, 2, 3, 0.7)
        bank.push(*batch)
        right.push(*batch)
        assert torch.equal(bank.confidence, right.confidence)


def foreign(bank: MemoryBank, own: dict[float, float]) -> int:
    return sum(own[c] != f[0] for c, f in zip(bank.confidence[0].tolist(), bank.features[0].tolist()) if c > 0)


def test_features_and_confidences_of_the_shifted_bank_drift_apart():
    """After 2,000 offers to one cell of 128 slots, 127 hold a foreign feature."""
    g = torch.Generator().manual_seed(6)
    confidence = torch.rand(2000, generator=g, dtype=torch.float64)
    features = torch.arange(2000, dtype=torch.float64).unsqueeze(1) + 1
    own = dict(zip(confidence.tolist(), features.flatten().tolist()))
    zeros, ones = torch.zeros(2000, dtype=torch.int64), torch.ones(2000)
    bank, right = released(1, 128, 1), MemoryBank(1, 128, 1, dtype=torch.float64)
    bank.push(features, confidence, zeros, ones)
    right.push(features, confidence, zeros, ones)
    assert foreign(right, own) == 0 and torch.equal(bank.confidence, right.confidence)
    assert foreign(bank, own) == 127


def test_the_second_offer_drops_the_first_feature_of_the_shifted_bank():
    bank = released(1, 3, 1)
    bank.push(f64([[1], [2]]), f64([.9, .8]), torch.zeros(2, dtype=torch.int64), f64([1, 1]))
    assert bank.confidence.tolist() == [[.9, .8, 0]] and bank.features.flatten().tolist() == [0, 2, 0]


def test_labels_of_the_shifted_pool_go_with_the_features():
    g = torch.Generator().manual_seed(7)
    bank, slow = released(3, 3, 2, balanced=False), SlowShifted(1, 9, 2)
    label_of = {}
    for _ in range(12):
        features, confidence, label, mask = offers(g, 8, 3, 2, None, 0.7)
        label_of |= {tuple(f): k for f, k in zip(features.tolist(), label.tolist())}
        bank.push(features, confidence, label, mask)
        slow.push(features, confidence, torch.zeros_like(label), mask)
    assert bank.confidence.tolist() == slow.confidence and bank.features.tolist() == slow.features
    held = [(tuple(f), k) for f, k in zip(bank.features[0].tolist(), bank.label[0].tolist()) if any(f)]
    assert held and all(label_of[f] == k for f, k in held)


def test_empty_slots_count_as_zeros_in_the_released_prototypes():
    batch = f64([[1, 0], [3, 4], [5, 5]]), f64([.9, .1, .5]), torch.tensor([0, 0, 2]), f64([1, 1, 1])
    for shifted in (False, True):
        bank = released(3, 4, 2, shifted=shifted, empty_as_zero=True)
        assert bank.prototypes()[0].tolist() == [[0, 0]] * 3 and bank.prototypes()[1].tolist() == [True] * 3
        bank.push(*batch)
        means, filled = bank.prototypes()
        assert filled.tolist() == [True] * 3
        torch.testing.assert_close(means, bank.features.sum(1) / 4)
        if not shifted:
            assert means.tolist() == [[1, 1], [0, 0], [1.25, 1.25]]


def test_released_prototypes_of_a_full_bank_are_those_of_the_bank():
    bank, right = released(2, 3, 2, shifted=False, empty_as_zero=True), MemoryBank(2, 3, 2, dtype=torch.float64)
    for _ in run_both(bank, right, 2):
        pass
    assert (right.confidence > 0).all()
    for x, y in zip(bank.prototypes(), right.prototypes(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


# ---- fit for a captured step ----------------------------------------------------------------------------------------

BANKS = {"cells": lambda: MemoryBank(3, 4, 2, dtype=torch.float64),           # the shifted one is sequential by nature
         "pool": lambda: MemoryBank(3, 4, 2, False, torch.float64),
         "zeros": lambda: released(3, 4, 2, shifted=False, empty_as_zero=True)}


@pytest.mark.parametrize("kind", BANKS)
def test_the_state_stays_in_its_memory(kind):
    """A replayed graph writes where it wrote when it was captured."""
    g = torch.Generator().manual_seed(9)
    bank = BANKS[kind]()
    before = {name: b.data_ptr() for name, b in bank.named_buffers()}
    for _ in range(3):
        bank.push(*offers(g, 8, 3, 2, 3, 0.7))
        bank.decay(ON, .5)
    assert {name: b.data_ptr() for name, b in bank.named_buffers()} == before


@pytest.mark.parametrize("kind", BANKS)
def test_nothing_is_read_back(kind):
    g = torch.Generator().manual_seed(10)
    bank, batch = BANKS[kind](), offers(g, 8, 3, 2, 3, 0.7)
    with kit.Captured():
        bank.push(*batch)
        bank.decay(ON, .5)
        bank.prototypes()
