"""CDMAD: the blank image in training and at test, when debiasing starts, and the two bases."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import close, f64, view, views

from semilib.data.step import Batch, Notes
from semilib.errors import BadInput
from semilib.training.config import Run

START, B = 50_500, f64([[1.2, .3, -.5]])
TOY = views(l=view(kit.A.X), w=view(kit.A.W), s1=view(kit.A.S1), s2=view(kit.A.S2))


def step(at: int, blank=B, options=None, v=TOY, name="cdmad"):
    m = kit.method(name, options, steps=250_000)
    batch, t = Batch(y=kit.A.y, notes=Notes(blank=blank)), kit.time(at, 250_000)
    p = m.pseudo(v, batch, t)
    return p, kit.values(m.terms(v, batch, p, t))


# ---- the equations ---------------------------------------------------------------------------------------------------


def test_the_toy_tensors():
    p, losses = step(START)
    close(p.prob, [[.873128, .039334, .087539], [.119398, .484185, .396417], [.001225, .003680, .995095],
                   [.023764, .869731, .106504]])
    assert torch.equal(p.target, p.prob) and p.mask.tolist() == [1] * 4
    close([losses["x"], losses["u"]], [.896378, .870372])
    close(sum(losses.values()), 1.766750)


def test_pseudo_labels_are_raw_until_epoch_101_of_500():
    for at, value in ((0, .808986), (START - 1, .808986), (START, .870372), (249_999, .870372)):
        close(step(at)[1]["u"], value)
    assert kit.method("cdmad", steps=24, batch=2).durations() == {"start": 5}


def test_a_shift_of_the_blank_logits_changes_nothing():
    p, losses = step(START, B + 3.7)
    want, same = step(START)
    close(p.prob, want.prob, 1e-12)
    close(losses["u"], same["u"], 1e-12)


@pytest.mark.parametrize("threshold, kept", [(.0, [1, 1, 1, 1]), (.5, [1, 1, 1, 1]), (.9, [1, 0, 1, 0])])
def test_without_bias_it_is_fixmatch_with_soft_targets(threshold, kept):
    p, losses = step(START, torch.zeros(1, 3).double(), {"threshold": threshold})
    q = kit.A.W.softmax(-1)
    rows = -(torch.cat([q, q]) * torch.cat([kit.A.S1, kit.A.S2]).log_softmax(-1)).sum(-1)
    close(losses["u"], (rows * f64(kept * 2)).mean(), 1e-12)


def test_thresholded_without_bias_it_is_fixmatch():
    p, losses = step(START, torch.zeros(1, 3).double(), {"preset": "thresholded"})
    want, same = step(START, None, {}, name="fixmatch")
    assert torch.equal(p.target, want.target) and torch.equal(p.mask, want.mask) and 0 < p.mask.sum() < 4
    assert losses == same
    debiased, _ = step(START, B, {"preset": "thresholded"})
    assert debiased.mask.tolist() == [0, 0, 1, 0] and debiased.target.tolist() == [0, 1, 2, 1]


# ---- the blank image -------------------------------------------------------------------------------------------------


def looked(**options):
    """A trainer after two steps, its batch after `before_forward`, and the network's buffers before it."""
    t = kit.trainer("cdmad", options)
    kit.losses_of(t, range(2))
    before = {name: b.clone() for name, b in t.net.named_buffers()}
    batch, images = Batch(), {"w": torch.zeros(8, 3, 16, 16)}
    with torch.no_grad():
        t.method.before_forward(t.net, images, batch, kit.time(2), t.average.net)
    return t, batch, before


def test_the_blank_image_is_shown_in_evaluation_mode_and_moves_nothing():
    t, batch, before = looked()
    assert t.net.training and all(m.training for m in t.net.modules())
    for name, b in t.net.named_buffers():
        assert torch.equal(b, before[name]), name
    with torch.no_grad():
        want = t.net.eval()(torch.ones(1, 3, 16, 16))["head"]
    torch.testing.assert_close(batch.notes.blank, want)
    assert batch.notes.blank.shape == (1, 4) and batch.notes.blank.std() > 0


def test_as_released_it_is_a_training_batch_of_one_image_that_moves_the_statistics():
    t, batch, before = looked(preset="released")
    stem = t.net.backbone.stem(torch.ones(1, 3, 16, 16)).detach()
    norm = t.net.backbone.blocks[0].bn1
    want = .9 * before["backbone.blocks.0.bn1.running_mean"] + .1 * stem.mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, want, rtol=1e-4, atol=1e-5)
    assert not torch.equal(norm.running_mean, before["backbone.blocks.0.bn1.running_mean"]) and t.net.training
    with torch.no_grad():
        assert not torch.allclose(t.net.eval()(torch.ones(1, 3, 16, 16))["head"], batch.notes.blank)


def test_the_level_of_the_blank_image():
    levels = [looked(blank=level)[1].notes.blank for level in (1.0, 0.0, 2.1)]
    assert not torch.allclose(levels[0], levels[1]) and not torch.allclose(levels[0], levels[2])
    with pytest.raises(BadInput, match="blank"):
        kit.method("cdmad", {"blank": 255.0})


def test_the_test_subtracts_what_the_tested_network_says_of_the_blank_image():
    m = kit.method("cdmad")
    net = lambda x: {"head": torch.where((x == 1).all((1, 2, 3)).unsqueeze(1), B, f64([[1, .9, 0]]))}  # noqa: E731
    x = torch.zeros(5, 3, 8, 8).double()
    assert net(x)["head"].argmax(-1).tolist() == [0] * 5 and m.predict(net, x).argmax(-1).tolist() == [1] * 5
    close(m.predict(net, x)[0], [-.2, .6, .5])
    t = kit.trainer("cdmad")
    kit.losses_of(t, range(3))
    x = t.data.normalise(t.source.test_images, t.dtype)
    with torch.no_grad():
        for net in (t.average.net, t.net.eval()):
            close(t.method.predict(net, x), net(x)["head"] - net(torch.ones_like(x[:1]))["head"], 1e-6)


# ---- bases, presets, recipes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base, own, plain", [
    ("", {"preset": "thresholded", "threshold": .3}, ("fixmatch", {"threshold": .3})),
    ("remixmatch", {}, ("remixmatch", {"temperature": 1.0})),
    ("remixmatch", {"temperature": .5, "align": False}, ("remixmatch", {"align": False}))])
def test_until_debiasing_starts_it_is_its_base_to_the_last_bit(base, own, plain):
    have = kit.losses_of(kit.trainer("cdmad", {**own, "start": 4}, base=base), range(8))
    want = kit.losses_of(kit.trainer(*plain), range(8))
    assert have[:4] == want[:4] and have[4]["u"] != want[4]["u"]


@pytest.mark.parametrize("cell, aligned", [({}, True), ({"gamma_u": 5.0}, False), ({"order": "reversed"}, False),
                                           ({"order": "uniform"}, False), ({"m1": None, "gamma_u": 1.0}, False)])
def test_on_remixmatch_it_does_not_sharpen_and_aligns_where_the_classes_are_known_to_agree(cell, aligned):
    run = Run.of("cifar10", "cdmad", base="remixmatch", **cell)
    assert run.options["align"] is aligned and run.options["temperature"] == 1
    assert run.options["blank_pass"] == "eval" and run.options["lambda_u"] == 1.5
    assert run.with_(options={"align": True}).options["align"] is True


def test_on_remixmatch_debiased_soft_labels_are_what_is_mixed():
    t = kit.trainer("cdmad", {"start": 1, "align": False}, base="remixmatch")
    kit.losses_of(t, range(2))
    seen = {}
    terms = t.method.terms

    def watched(v, batch, p, time):
        seen.update(v=v, batch=batch, p=p)
        return terms(v, batch, p, time)
    t.method.terms = watched
    t.advance()
    want = (seen["v"].w["head"] - seen["batch"].notes.blank).softmax(-1)
    torch.testing.assert_close(seen["p"].target, want)
    assert not torch.allclose(want, seen["v"].w["head"].softmax(-1))
    assert seen["batch"].notes.mixed["s1"].shape == want.shape and not seen["batch"].notes.blank.requires_grad


def test_what_cannot_be_combined_is_refused():
    for options in ({"targets": "hard"}, {"threshold": .95}):
        with pytest.raises(BadInput, match="soft, with threshold=0, on remixmatch"):
            kit.method("cdmad", options, base="remixmatch")
    with pytest.raises(BadInput, match="preset='thresholded': unknown"):
        Run.of("cifar10", "cdmad", base="remixmatch", options={"preset": "thresholded"})
    for base in ("", "remixmatch"):
        with pytest.raises(BadInput, match="add='oheml': '' for .*no mask"):
            Run.of("cifar10", "cdmad", base=base, add="oheml")


@pytest.mark.parametrize("dataset, cell, decays", [
    ("cifar10", {}, (.04, .04)), ("cifar100", {}, (.08, .08)), ("cifar10", {"order": "uniform"}, (.01, .02)),
    ("cifar100", {"gamma_u": 1.0}, (.01, .02)), ("cifar10", {"m1": None, "gamma_u": 1.0}, (.01, .02))])
def test_its_own_recipe_decays_by_data_set_and_size(dataset, cell, decays):
    for base, want in zip(("", "remixmatch"), decays, strict=True):
        run = Run.of(dataset, "cdmad", base=base, recipe="original", **cell)
        assert run.weight_decay == want and run.ema_rule == "decaying" and run.options["preset"] == "released"
        assert run.options["blank_pass"] == "train" and run.options["threshold"] == 0
        assert (run.steps, run.batch, run.mu) == ((150_000, 64, 2) if base else (250_000, 32, 2))
        assert run.policy == ("interleave" if base else "separate")
