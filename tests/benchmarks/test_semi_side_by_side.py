"""SeMi's released script beside ours, as far as it can be tested without the release: what is refused, our side's
steps, and the sentence that says where both part. With SEMI_RELEASE=PATH the whole program runs, for minutes."""
from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from benchmarks import semi_side_by_side as side
from semilib.methods import semi_released


class Toy(nn.Module):
    """A network of three matrices with the names of the release's."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        sizes = {"w": (3072, side.FEATURES, .02), "w_0": (side.FEATURES, 10, .3), "w_1": (side.FEATURES, 10, .3)}
        for name, (rows, columns, scale) in sizes.items():
            value = scale * torch.randn(rows, columns, generator=g, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x):
        return (x.flatten(1) @ self.w).relu()

    def classify(self, f):
        return f @ self.w_0

    def classify1(self, f):
        return f @ self.w_1


@pytest.fixture(autouse=True)
def epochs_of_the_script(monkeypatch):
    monkeypatch.setattr(semi_released, "EPOCH", semi_released.EPOCH)


def test_a_folder_without_the_script_is_refused_in_a_sentence(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemExit) as stopped:
            side.main(["--release", str(folder)])
        assert stopped.value.code == 2
        assert f"--release={str(folder)!r}: a checkout of pywin/SeMi" in " ".join(capsys.readouterr().err.split())


def test_steps_that_are_no_whole_epochs_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        side.main(["--release", str(tmp_path), "--steps", "28"])
    assert "--steps=28: a multiple of 3" in capsys.readouterr().err


@pytest.mark.parametrize("preset", side.PRESETS)
def test_our_side_makes_every_step_and_fills_the_bank(preset):
    with side.doubles():
        steps = side.run_ours(Toy(), preset, side.shared_batches(6))
    assert len(steps) == 6 and all(set(step) == set(side.REASONS) for step in steps)
    assert not steps[0]["bank"].any() and steps[-1]["bank"].any()
    assert not torch.equal(steps[0]["parameters"], steps[-1]["parameters"])


def test_batches_are_a_function_of_the_seed():
    (a, x), (b, y) = side.shared_batches(1)[0], side.shared_batches(1)[0]
    assert torch.equal(a, b) and all(torch.equal(x[name], y[name]) for name in ("l", "w", "s1", "s2"))
    assert not torch.equal(x["l"], side.shared_batches(1, seed=1)[0][1]["l"])


def test_the_last_line_names_the_first_step_and_quantity_that_part():
    same = dict.fromkeys(side.REASONS, 1e-9)
    assert side.verdict([same, same | {"mask": 2e-9}]) == "they agree over 2 steps: largest difference 2e-09, of mask"
    sentence = side.verdict([same, same | {"mask": 1.0, "unlabelled": .5}, same | {"bank": 1.0}])
    assert sentence == f"they part at step 1: mask by 1; {side.REASONS['mask']}"
    assert side.verdict([same | {"loss": float("nan")}]).startswith("they part at step 0: loss by nan")
    assert side.verdict([same | {"pseudo-label": float("nan")}]).endswith(side.NOT_A_NUMBER)


def test_differences_are_the_largest_of_each_quantity_in_the_order_of_a_step():
    a = {name: torch.zeros(3) for name in side.REASONS}
    gaps = side.differences(a, a | {"mask": torch.tensor([0., 1., -2.])})
    assert list(gaps) == list(side.REASONS) and gaps["mask"] == 2 and sum(gaps.values()) == 2


@pytest.mark.skipif("SEMI_RELEASE" not in os.environ, reason="SEMI_RELEASE does not name a checkout of pywin/SeMi")
def test_the_release_s_training_function_and_ours_agree(capsys):
    assert side.main(["--release", os.environ["SEMI_RELEASE"]]) == 0
    assert "they agree over 27 steps" in capsys.readouterr().out
