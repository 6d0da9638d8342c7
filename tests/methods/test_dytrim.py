"""DyTrim: who stays, the weights, the scores, when subsets are rebuilt, and CDMAD where nothing is trimmed."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import close, f64, view, views

from semilib.data.splits import long_tailed_counts
from semilib.data.step import Batch, Notes
from semilib.errors import BadInput
from semilib.methods.dytrim import hardest, survivors
from semilib.training.config import Run

LABEL = torch.tensor([0] * 6 + [1] * 3 + [2])
SCORE = f64([.9, .1, .5, .3, .7, .2, .4, .8, .6, .05])
POOL = f64([.2, 1.4, .6, .1, .9, .3, 2.0, .5])
TOY = views(l=view(kit.A.X), w=view(kit.A.W), s1=view(kit.A.S1), s2=view(kit.A.S2))


# ---- who stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, down, want", [
    ([.6, .3, .1], True, [0, 4, 7, 8]), ([.5, .3, .2], True, [0, 2, 4, 7, 8]), ([0, 0, 0], True, list(range(10))),
    ([.6, .3, .1], False, [0, 4, 7, 8, 9]), ([1, 1, 1], False, [0, 7, 9]), ([1, 1, 1], True, [])])
def test_of_each_class_the_images_with_the_highest_loss_stay(share, down, want):
    assert hardest(SCORE, LABEL, f64(share), down).tolist() == want


def test_of_easy_pool_images_a_random_share_stays_and_stands_for_all_of_them():
    counts, sums = torch.zeros(8), 0.
    for seed in range(300):
        words = torch.randint(2**32, (8,), generator=torch.Generator().manual_seed(seed))
        stay, weight = survivors(POOL, .3, words)
        assert len(stay) == 4 and {1, 4, 6} < set(stay.tolist())
        counts[stay] += 1
        assert sorted(weight.tolist())[-2:] == [1, 1 / .3] and set(weight[stay].tolist()) == {1, 1 / .3}
        sums += float(weight[stay].sum())
    close(counts[[1, 4, 6]], [300] * 3, 0)
    close(counts[[0, 2, 3, 5, 7]] / 300, [.2] * 5, .08)
    close(survivors(POOL, 1., words)[0], torch.arange(8), 0)
    stay, weight = survivors(torch.ones(6), .3, words[:6])
    assert len(stay) == 6 and weight.tolist() == [1] * 6, "no image is easier than the mean"


@pytest.mark.parametrize("n1, classes, gamma, total, last", [
    (1500, 10, 100, 2769, [112, 67, 40, 24, 14]), (150, 100, 50, 3596, [2] * 5), (150, 100, 100, 3062, [0] * 7)])
def test_how_many_stay_of_the_published_sets_under_the_labelled_prior_as_released(n1, classes, gamma, total, last):
    counts = torch.tensor([int(n1 * gamma ** (-k / (classes - 1)) + 1e-9) for k in range(classes)])
    assert abs(int(counts.sum()) - sum(long_tailed_counts(n1, classes, gamma))) <= classes
    label = torch.arange(classes).repeat_interleave(counts)
    stay = hardest(torch.zeros(len(label)), label, counts.double() / counts.sum(), True)
    assert len(stay) == total and torch.bincount(label[stay], minlength=classes).tolist()[-len(last):] == last


# ---- a step ----------------------------------------------------------------------------------------------------------


def step(m, at=50_500, blank=(1.2, .3, -.5)):
    batch = Batch(y=kit.A.y, index_l=torch.tensor([0, 9]), index_u=torch.arange(4), notes=Notes(blank=f64([blank])))
    t = kit.time(at, 250_000)
    p = m.pseudo(TOY, batch, t)
    losses = kit.values(m.terms(TOY, batch, p, t))
    m.end_step(TOY, batch, p, t)
    return losses


def test_the_toy_step():
    m = kit.method("dytrim", steps=250_000, counts=(40, 20, 10))
    m.weight_u.scatter(torch.tensor([1]), f64([1 / .3]))
    before = step(m, at=0)
    close(m.r, f64([4, 2, 1]) / 7, 1e-12)
    losses = step(m)
    close([losses["x"], losses["u"], sum(losses.values())], [.896378, 1.592558, 2.488936])
    assert before["u"] != losses["u"]
    close(m.score_l.rows[[0, 9]], [.241311, 1.551445])
    close(m.score_u.rows[:4], [1.720629, 2.476067, 1.305218, 1.461061])
    assert (m.score_l.rows[1:9] == 1).all() and (m.score_u.rows[4:] == 1).all(), "who was not shown keeps its score"
    close(m.r, [.629226, .255824, .114949])
    label = torch.arange(3).repeat_interleave(torch.tensor([40, 20, 10]))
    for down, want in ((True, [14, 14, 8]), (False, [15, 15, 9])):
        assert torch.bincount(label[hardest(torch.zeros(70), label, m.r, down)]).tolist() == want


def test_without_weights_the_loss_is_cdmad_s():
    losses = step(kit.method("dytrim", steps=250_000, counts=(40, 20, 10)))
    close([losses["x"], losses["u"]], [.896378, .870372])


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_where_nothing_is_trimmed_it_is_cdmad_with_the_mean_colour_to_the_last_bit():
    t = kit.trainer("dytrim", {"kept": 1.0, "trim_labelled": False})
    want = kit.trainer("cdmad", {"blank": 0.0})
    assert kit.losses_of(t, range(12)) == kit.losses_of(want, range(12))
    assert torch.equal(t.predictions(), want.predictions())


def test_subsets_are_rebuilt_at_the_end_of_their_passes_from_the_whole_sets_and_end_with_them():
    t = kit.trainer("dytrim", {"start": 10, "stop": 35}, steps=40)
    sizes, counts = [], {name: len(getattr(t.data, name)) for name in ("labelled", "unlabelled")}
    for _ in range(40):
        t.advance()
        sizes.append([len(t.data.streams[name].members) for name in counts])
        out = [whole - size for whole, size in zip(counts.values(), sizes[-1])]
        assert t.method.left_out.tolist() == out
    whole = list(counts.values())
    assert sizes[0] == whole and sizes[1][0] < whole[0], "at least twenty times in a run: every second step"
    assert sizes[3][1] < whole[1] and sizes[34:] == [whole] * 6 and (t.method.weight_u.rows == 1).all()
    assert t.monitor.never_active(t.method.must_act) == []


def test_the_released_labelled_subset_freezes_where_the_blank_image_would_choose():
    def members(freeze):
        t, seen = kit.trainer("dytrim", {"start": 6, "stop": 20, "released_freeze": freeze}, steps=24), []
        for _ in range(24):
            t.advance()
            seen.append(t.data.streams["labelled"].members.tolist())
        return seen
    frozen, free = members(True), members(False)
    assert frozen[:6] == free[:6] and len({str(x) for x in frozen[6:19]}) == 1 < len({str(x) for x in free[6:19]})
    assert len(frozen[19]) == len(free[19]) == 33


def test_an_interrupted_pass_of_a_subset_goes_on_to_the_last_bit(tmp_path):
    make = lambda: kit.trainer("dytrim", {"start": 10, "stop": 55}, steps=60)  # noqa: E731
    t = kit.check_resume(make, 30, [5, 13, 22], tmp_path)
    assert t.data.streams["labelled"].start > 0 and len(t.data.streams["unlabelled"].members) < len(t.data.unlabelled)


def test_the_release_s_choices_are_a_preset_and_its_recipe():
    for run in (Run.of("cifar10", "dytrim", options={"preset": "released"}),
                Run.of("cifar10", "dytrim", recipe="original")):
        assert run.options["released_freeze"] and run.options["round_down"] and run.options["blank_pass"] == "train"
    run = Run.of("cifar10", "dytrim")
    assert not run.options["released_freeze"] and run.options["blank"] == 0 and run.method_class().smoke == {}
    with pytest.raises(BadInput, match="stop=0.1: at least start"):
        kit.method("dytrim", {"stop": .1})
    with pytest.raises(BadInput, match="unmixed strong views"):
        Run.of("cifar10", "dytrim", base="remixmatch")
