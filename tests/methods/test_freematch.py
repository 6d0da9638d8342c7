"""FreeMatch: self-adaptive thresholds and the fairness term, on toy tensors and against a plain twin."""
from __future__ import annotations

import math
from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import close, drive, f64, view, views

TOY = views(l=view(kit.B.X), w=view(kit.B.W), s1=view(kit.B.S))
BATCH = SimpleNamespace(y=kit.B.y)


def freematch(steps: int = 250_000, **options):
    return kit.method("freematch", {"strong_views": 1, "w_f": 1.0, **options}, steps=steps)


def test_momentum_point_nine_on_toy_rows():
    m = freematch(momentum=.9)
    p = m.pseudo(TOY, BATCH, kit.time(0))
    close(m.tau, .377338)
    close(m.mean, [.335999, .330428, .333573])
    close(m.histogram, [.35, .325, .325])
    close(m.tau * m.mean / m.mean.max(), [.377338, .371081, .374613])
    assert p.mask.tolist() == [1, 1, 1, 1]
    losses = kit.values(m.terms(TOY, BATCH, p, kit.time(0)))
    close(losses["u"], .589777)
    close(losses["fair"], -1.120043)
    close(losses["x"], .659754)
    a = m.mean / m.histogram
    close(a / a.sum(), [.319671, .338553, .341775])
    close(m.fairness(kit.B.S.softmax(-1), f64([1, 1, 1, 0])), -1.10945)


def test_the_paper_s_momentum_on_toy_rows():
    m = freematch()
    p = m.pseudo(TOY, BATCH, kit.time(0))
    close(m.tau, .333773)
    close(m.mean, [.33336, .333304, .333336])
    close(m.histogram, [.3335, .33325, .33325])
    assert p.mask.tolist() == [1, 1, 1, 1]
    close(m.fairness(kit.B.S.softmax(-1), p.mask), -1.127111)
    close(m.fairness(kit.B.S.softmax(-1), f64([1, 1, 1, 0])), -1.107066)


def test_fairness_by_hand():
    m = freematch()
    q = kit.B.S.softmax(-1)                                                     # argmax [0, 1, 2, 0]
    mean = q.mean(0).numpy() / np.array([.5, .25, .25])
    b = mean / mean.sum()
    close(b, [.231145, .357706, .411149])
    close(m.fairness(q, torch.ones(4).double()), np.log(b).sum() / 3)           # a is uniform at the start
    two = f64([[.6, .4, 0], [.2, .7, .1]])                                      # class 2 is nobody's: 1 / 0 := 0
    b = np.array([.4 / .5, .55 / .5])
    b = b / b.sum()
    close(m.fairness(two, torch.ones(2).double()), (math.log(b[0]) + math.log(b[1]) + math.log(1e-12)) / 3)


@pytest.mark.parametrize("mask", [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]])
def test_the_gradient_goes_through_the_strong_softmax_and_is_never_nan(mask):
    m = freematch()
    z = kit.B.S.clone().requires_grad_()
    m.fairness(z.softmax(-1), f64(mask)).backward()
    assert torch.isfinite(z.grad).all()
    # of one row b is 1 for its class
    assert (z.grad.abs().sum(-1) > 1e-9).tolist() == [bool(x) and sum(mask) > 1 for x in mask]
    if not any(mask):
        assert not z.grad.any() and float(m.fairness(kit.B.S.softmax(-1), f64(mask))) == 0


def test_a_class_never_predicted_leaves_the_term_finite():
    m = freematch()
    m.histogram.copy_(f64([.5, .5, 0]))                                         # as after very many steps
    z = kit.B.S.clone().requires_grad_()
    loss = m.fairness(z.softmax(-1), torch.ones(4).double())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()


def test_a_row_below_its_class_threshold_does_not_count():
    m = freematch(momentum=1.0)                                                 # the state stands still
    m.tau.fill_(.8)
    m.mean.copy_(f64([.4, .2, .4]))
    p = m.pseudo(TOY, BATCH, kit.time(0))                                       # max p [.909, .821, .961, .402]
    assert p.mask.tolist() == [1, 1, 1, 0]                                      # thresholds [.8, .4, .8]
    m.tau.fill_(.93)
    m.mean.copy_(f64([.4, .4, .4]))
    assert m.pseudo(TOY, BATCH, kit.time(0)).mask.tolist() == [0, 0, 1, 0]


def test_quantile_and_clip():
    m = freematch(momentum=.9, quantile=.8)
    m.pseudo(TOY, BATCH, kit.time(0))
    top = np.quantile(kit.B.W.softmax(-1).amax(-1).numpy(), .8)
    close(m.tau, .9 / 3 + .1 * top)
    m = freematch(momentum=.9, clip=True, threshold=.35)
    m.pseudo(TOY, BATCH, kit.time(0))
    close(m.tau, .35)


def test_forty_steps_equal_a_plain_twin():
    m = kit.method("freematch", {"momentum": .9}, steps=250_000)
    tau, mean, hist, refused = 1 / 3, np.full(3, 1 / 3), np.full(3, 1 / 3), 0
    for s in drive(m, 40):
        prob = s.v.w["head"].softmax(-1).numpy()
        tau = .9 * tau + .1 * prob.max(-1).mean()
        mean = .9 * mean + .1 * prob.mean(0)
        hist = .9 * hist + .1 * np.bincount(prob.argmax(-1), minlength=3) / 4
        mask = prob.max(-1) >= tau * mean[prob.argmax(-1)] / mean.max()
        assert s.p.mask.tolist() == mask.tolist()
        for name, want in (("tau", tau), ("mean", mean), ("histogram", hist)):
            close(s.state[name], want, 1e-12)
        q = s.v.s["head"].softmax(-1).numpy()[np.tile(mask, 2)]
        share = np.bincount(q.argmax(-1), minlength=3) / max(1, len(q))
        a = mean / hist
        b = np.where(share > 0, q.mean(0) / np.where(share > 0, share, 1), 0)
        close(s.losses["fair"], .001 * (a / a.sum() * np.log(b / b.sum() + 1e-12)).sum(), 1e-9)
        refused += int((~mask).sum())
    assert refused > 10


def test_without_fairness_and_with_thresholds_of_tau_it_is_fixmatch():
    m, base = freematch(momentum=1.0, w_f=0.0), kit.method("fixmatch", {"strong_views": 1, "threshold": .85})
    m.tau.fill_(.85)
    losses = kit.values(m.terms(TOY, BATCH, m.pseudo(TOY, BATCH, kit.time(0)), kit.time(0)))
    want = kit.values(base.terms(TOY, BATCH, base.pseudo(TOY, BATCH, kit.time(0)), kit.time(0)))
    assert float(losses.pop("fair")) == 0 and losses.keys() == want.keys()
    assert all(torch.equal(losses[k], want[k]) for k in want)


def test_a_short_run_s_momentum_still_moves():
    assert kit.method("freematch", steps=250_000).momentum == pytest.approx(.999)
    assert kit.method("freematch", steps=25_000).momentum == pytest.approx(.99)
    assert kit.method("freematch", steps=40).momentum == pytest.approx(.95)


def test_semi_s_modules_act_on_it_and_a_run_with_them_resumes(tmp_path):
    options = {"momentum": .2, "semi_warmup": 2, "plce_epoch": 2, "plce_decay_every": 2, "plce_alpha": .9,
               "plce_u": "max"}
    t = kit.check_resume(lambda: kit.trainer("freematch", options, add="align+oheml+plce", precision="fp64"), 8, [5],
                         tmp_path)
    assert t.monitor.never_active(("u", "free", "oheml", "plce", "align")) == []
    seen, pseudo = [], t.method.pseudo
    t.method.pseudo = lambda v, batch, time: seen.append((batch, pseudo(v, batch, time))) or seen[-1][1]
    old = t.method.mean.clone()
    kit.losses_of(t, range(8, 9))
    batch, p = seen[0]
    assert not torch.equal(p.prob, batch.notes.before_blend)
    close(t.method.mean, .2 * old + .8 * p.prob.mean(0), 1e-12)                 # the blended prediction moves P
