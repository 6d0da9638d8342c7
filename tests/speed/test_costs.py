"""The cost table: it counts the images that pass the network, visits every stage that has steps, and compares with
FixMatch."""
import json

import pytest
from kit import smoke_run

from semilib.speed import costs
from semilib.speed.counting import count_passes
from semilib.training.engine import Trainer

B = 16


def rows_of(method: str, **changes) -> list[dict]:
    return costs.measure([smoke_run(method, **changes)], steps=2, warm=1)


# FixMatch beside a run has the run's fields, and so its policy: its three passes with gradient and one without.
BASE = {"weak_first": 3 * 3 * B + B}


@pytest.mark.parametrize("method, changes, stages", [
    ("fixmatch", {}, {"main": (4 * B, 0)}),                                           # l, w, s1, s2 in one pass
    ("fixmatch", {"policy": "weak_first"}, {"main": (3 * B, B)}),                     # the weak view without gradient
    ("supervised", {}, {"main": (B, 0)}),
    ("remixmatch", {}, {"main": (6 * B, B)}),  # four mixed parts, s1, the rotated one; w
    ("cdmad", {}, {"main": (4 * B, 1)}),                                              # a blank image
    # w and two more batches by the average
    ("cossl", {"options": {"represent": 12}}, {"represent": (4 * B, 0), "cotrain": (4 * B, 3 * B)})])
def test_the_passes_of_a_step_are_counted(method, changes, stages):
    found = rows_of(method, **changes)
    assert {r["stage"]: (r["grad"], r["free"]) for r in found} == stages
    for r in found:
        base = BASE.get(changes.get("policy"), 3 * 4 * B)
        assert r["explained"] == pytest.approx((3 * r["grad"] + r["free"]) / base)
        assert r["ms"] > 0 and r["fixmatch_ms"] > 0 and r["ratio"] > 0 and r["steps"] == 2


def test_compiled_steps_are_timed_and_uncompiled_ones_counted(small, tracer):
    """Compiled code calls no hook that came after it."""
    found, = rows_of("fixmatch", capture="compile")
    assert (found["grad"], found["free"], found["explained"]) == (4 * B, 0, 1) and tracer.ran > 0


def test_after_a_count_the_trainer_is_as_it_was(small):
    trainer = Trainer(smoke_run())
    parts, hooks = trainer.parts, trainer.net.backbone._forward_pre_hooks
    with pytest.raises(RuntimeError, match="in a step"), count_passes(trainer):
        assert hooks and trainer.parts is not parts
        raise RuntimeError("in a step")
    assert not hooks and trainer.parts is parts


def test_a_stage_without_steps_is_passed_through():
    assert [r["stage"] for r in rows_of("seval")] == ["estimate", "train"]  # not `split`, in which nothing is trained


def test_work_between_steps_is_measured_a_step():
    row, = rows_of("adsh")
    assert row["host_every"] > 0 and row["host_ms"] > 0
    assert rows_of("fixmatch")[0]["host_ms"] == 0


def test_the_files_hold_what_was_measured(tmp_path):
    rows = rows_of("supervised")
    text = costs.write(rows, tmp_path / "costs")
    assert json.loads((tmp_path / "costs.json").read_text()) == rows and (tmp_path / "costs.md").read_text() == text
    assert text.startswith("# What a step costs: wrn-10-0.25, batch 16, mnistm5k-lt.n40.m360.g20-20, cpu with 1 thread")
    assert f"| supervised | main | {rows[0]['ms']:.1f} | {rows[0]['ratio']:.2f} | 16 / 0 | 0.25 |" in text
