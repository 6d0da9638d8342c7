"""SoftMatch: truncated Gaussian weights, their moving centre and width, the alignment,
against the reference's values and a twin."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import close, drive, f64, view, views

from semilib.errors import BadInput
from semilib.methods import get

TOY = views(l=view(kit.B.X), w=view(kit.B.W), s1=view(kit.B.S))
BATCH = SimpleNamespace(y=kit.B.y)


def softmatch(**options):
    return kit.method("softmatch", {"strong_views": 1, **options}, steps=250_000)


def step(m):
    p = m.pseudo(TOY, BATCH, kit.time(0))
    return p, kit.values(m.terms(TOY, BATCH, p, kit.time(0)))


@pytest.mark.parametrize("momentum, statistics, mu, var, weights, loss", [
    (.9, "raw", .377338, .90647, None, None),
    (.999, "raw", .333773, .999065, None, None),
    (.9, "aligned", .376806, .907203, [1, 1, 1, .999951], .589765),
    (.999, "aligned", .333768, .999072, None, .589777)])
def test_centre_width_and_weights_from_the_initial_state(momentum, statistics, mu, var, weights, loss):
    m = softmatch(momentum=momentum, statistics=statistics)
    p, losses = step(m)
    close(m.mu, mu)
    close(m.var, var)
    assert p.label.tolist() == [0, 1, 2, 0]
    if weights:
        close(p.mask, weights)
    if loss:
        close(losses["u"], loss)
    close(losses["x"], .659754)


@pytest.mark.parametrize("align, last", [("none", .00036), ("uniform", .000106)])
def test_weights_of_a_fixed_gaussian(align, last):
    m = softmatch(momentum=1.0, align=align)                                    # mu and var stand still
    m.mu.fill_(.8)
    m.var.fill_(.04)
    p, losses = step(m)
    close(p.mask, [1, 1, 1, last])
    if align == "none":
        close(losses["u"], .339381)
        assert torch.equal(p.prob, kit.B.W.softmax(-1))


def test_the_alignment_to_a_uniform_target():
    m = softmatch()
    p, _ = step(m)
    close(m.mean, [.359992, .304279, .335729])                                  # the first batch sets it
    close(p.prob, [[.899048, .052957, .047996], [.096225, .841194, .062581], [.016396, .023693, .95991],
                   [.372107, .360437, .267457]])
    again = views(l=view(kit.B.X), w=view(kit.B.W[[3, 2]]), s1=view(kit.B.S[:2]))
    m.pseudo(again, BATCH, kit.time(1))
    close(m.mean, [.359842, .30415, .336008])


def test_the_alignment_to_the_predictions_on_labelled_images():
    m = softmatch(align="labelled", momentum=.9)
    p, _ = step(m)
    labelled = kit.B.X.softmax(-1).mean(0).numpy()
    target = .9 / 3 + .1 * labelled
    close(m.target, target)
    raw = kit.B.W.softmax(-1).numpy()
    want = raw * (target + 1e-6) / (raw.mean(0) + 1e-6)
    close(p.prob, want / want.sum(-1, keepdims=True), 1e-12)


def test_the_label_is_that_of_the_raw_prediction_and_the_weight_that_of_the_aligned():
    m = softmatch(momentum=.9)
    m.mean.copy_(f64([.8, .1, .1]))
    m.mu.fill_(.9)
    m.var.fill_(.01)
    p, _ = step(m)
    assert p.prob[3].argmax() == 1 and p.label[3] == 0 and p.target[3] == 0
    close(p.mask, torch.exp(-4 * (p.prob.amax(-1) - m.mu).clamp(max=0) ** 2 / (2 * m.var)), 1e-12)


def test_forty_steps_equal_a_plain_twin():
    m = kit.method("softmatch", {"momentum": .9, "n_sigma": 1.5}, steps=250_000)
    mu, var, mean, least = 1 / 3, 1.0, None, 1.0
    for s in drive(m, 40):
        prob = s.v.w["head"].softmax(-1).numpy()
        c = prob.max(-1)
        mu, var = .9 * mu + .1 * c.mean(), .9 * var + .1 * c.var(ddof=1)
        mean = prob.mean(0) if mean is None else .9 * mean + .1 * prob.mean(0)
        aligned = prob * (1 / 3 + 1e-6) / (mean + 1e-6)
        aligned /= aligned.sum(-1, keepdims=True)
        weight = np.exp(-np.minimum(aligned.max(-1) - mu, 0) ** 2 * 1.5**2 / (2 * var))
        close(s.p.mask, weight, 1e-12)
        least = min(least, weight.min())
        close(s.state["mu"], mu, 1e-12)
        close(s.state["var"], var, 1e-12)
        rows = -torch.log_softmax(s.v.s["head"], -1).numpy()[np.arange(8), np.tile(prob.argmax(-1), 2)]
        close(s.losses["u"], (rows * np.tile(weight, 2)).mean(), 1e-12)
    assert least < .9


def test_a_width_of_all_weights_is_fixmatch_without_a_threshold():
    m, base = softmatch(n_sigma=0.0), kit.method("fixmatch", {"strong_views": 1, "threshold": 0.0})
    _, losses = step(m)
    want = kit.values(base.terms(TOY, BATCH, base.pseudo(TOY, BATCH, kit.time(0)), kit.time(0)))
    assert losses.keys() == want.keys() and all(torch.equal(losses[k], want[k]) for k in want)


def test_equal_confidences_for_ever_leave_the_weights_finite():
    m = softmatch(momentum=.5)
    m.var.fill_(1e-300)
    same = views(l=view(kit.B.X), w=view(f64([[9, 0, 0]] * 4)), s1=view(kit.B.S))
    for _ in range(50):
        p = m.pseudo(same, BATCH, kit.time(0))
    assert torch.isfinite(p.mask).all() and float(m.var) < 1e-12


def test_the_momentum_of_a_short_run_and_the_refusal_of_semi_s_modules():
    assert softmatch().momentum == pytest.approx(.999) and kit.method("softmatch").momentum == pytest.approx(.95)
    with pytest.raises(BadInput, match="labels are read before"):
        get("softmatch", "", "plce")
