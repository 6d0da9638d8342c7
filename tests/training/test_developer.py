"""What a method's author is told at once: names that no step knows, and what a step's values are when they are printed."""
from __future__ import annotations

import pytest
import torch
from conftest import smoke_run

from semilib.data.step import Batch, Notes
from semilib.errors import BadInput, MethodError
from semilib.methods.base import Pseudo

PROB = torch.full((4, 3), 1 / 3)


def pseudo() -> Pseudo:
    return Pseudo(prob=PROB, label=torch.arange(4), mask=torch.ones(4))


# ---- the values of a step ----------------------------------------------------------------------------------------------------


def test_a_field_that_pseudo_labels_do_not_have_is_refused_by_name_on_writing_and_on_reading():
    p = pseudo()
    with pytest.raises(AttributeError, match=r"Pseudo has no field 'msk': it has branches, label, mask.*add\(msk=\.\.\.\)"):
        p.msk = torch.zeros(4)
    with pytest.raises(AttributeError, match="this step's Pseudo has no 'msk': it has prob, label, mask, target, branches"):
        p.msk  # noqa: B018
    with pytest.raises(TypeError, match="'mask'"):
        Pseudo(prob=PROB, label=torch.arange(4))
    with pytest.raises(TypeError, match="'msk'"):
        Pseudo(prob=PROB, label=torch.arange(4), msk=torch.ones(4))


def test_a_method_adds_fields_of_its_own_but_none_twice():
    p = pseudo().add(label_b=torch.zeros(4))
    p.label_b = torch.ones(4)                                                    # once added it is a field like any other
    assert p.label_b.sum() == 4 and "label_b" not in vars(pseudo())
    for name in ("label_b", "mask"):
        with pytest.raises(MethodError, match=f"Pseudo has a field '{name}' already"):
            p.add(**{name: torch.zeros(4)})


def test_pseudo_labels_that_say_no_more_are_trained_on_their_labels_and_have_one_branch():
    p = pseudo()
    assert p.target is p.label and list(p.branches) == ["u"] and p.branches["u"] is PROB
    soft = Pseudo(PROB, p.label, p.mask, target=PROB, branches={})
    assert soft.target is PROB and soft.branches == {}


def test_a_batch_without_unlabelled_images_says_so():
    batch = Batch(y=torch.arange(2), index_l=torch.arange(2))
    with pytest.raises(AttributeError, match="this step's Batch has no 'index_u': it has y, index_l, notes"):
        batch.index_u  # noqa: B018
    with pytest.raises(AttributeError, match="Batch has no field 'semantic'"):
        batch.semantic = PROB


def test_a_note_that_no_hook_wrote_is_an_error_and_each_batch_has_notes_of_its_own():
    first, second = Batch(), Batch()
    first.notes.semantic = PROB
    assert first.notes.semantic is PROB and not hasattr(second.notes, "semantic")
    with pytest.raises(AttributeError, match="this step's Notes has no 'semantic': it has nothing"):
        second.notes.semantic  # noqa: B018


def test_a_changed_copy_leaves_the_original_as_it_is():
    batch = Batch(y=torch.arange(2), notes=Notes(mixed=1))
    other = batch.with_(y=PROB, notes=batch.notes.with_(mixed=2))
    assert batch.y.tolist() == [0, 1] and batch.notes.mixed == 1
    assert other.y is PROB and other.notes.mixed == 2
    with pytest.raises(AttributeError, match="no field 'target'"):
        batch.with_(target=PROB)


def test_printed_a_batch_and_pseudo_labels_show_each_field_s_dtype_and_shape():
    batch = Batch(y=torch.arange(2), targets={"labelled": torch.zeros(2, 3)}, notes=Notes(semantic=PROB))
    assert repr(batch) == "Batch(y: int64 [2], targets: {labelled: float32 [2, 3]}, notes: Notes(semantic: float32 [4, 3]))"
    assert repr(pseudo().add(sure=torch.ones(4, dtype=torch.bool))) == (
        "Pseudo(prob: float32 [4, 3], label: int64 [4], mask: float32 [4], target: int64 [4], branches: {u: float32 [4, 3]}, "
        "sure: bool [4])")


# ---- the schedule --------------------------------------------------------------------------------------------------------------


def test_a_lead_in_may_be_no_steps_and_another_duration_may_not(source):
    from semilib.training.engine import Trainer
    assert Trainer(smoke_run("semi", options={"warmup": 0}), source).method.durations()["warmup"] == 0
    with pytest.raises(BadInput, match="epoch=0: between 1 and 23 steps"):
        Trainer(smoke_run("semi", options={"epoch": 0}), source)
