"""ACR: its equations on toy tensors, the estimate of the prior and the strength tau worked out by hand and by a plain
twin, resume."""
from __future__ import annotations

import math
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import SB1, SB2, WB, XB, A, close, drawn, f64, view, views

from semilib.methods.acr import distances
from semilib.methods.losses import reduce
from semilib.training.config import Run

TOY = views(l=view(A.X, XB), w=view(A.W, WB), s1=view(A.S1, SB1), s2=view(A.S2, SB2))
PI = [.7, .2, .1]
NONE = torch.zeros(4, dtype=torch.bool)


def acr(steps: int = 40, counts=(7, 2, 1), **options):
    return kit.method("acr", options, steps=steps, counts=counts)


def step(m, v=TOY, y=A.y, known=NONE, at: int = 0, ends: bool = False):
    batch, t = SimpleNamespace(y=y, known_u=known), kit.time(at, m.info.steps)
    p = m.pseudo(v, batch, t)
    terms = m.terms(v, batch, p, t)
    if ends:
        m.end_step(v, batch, p, t)
    return p, kit.values(terms)


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_the_terms_on_toy_tensors():
    p, losses = step(acr())
    close(p.prob.amax(-1), [.471291, .583697, .997810, .815941])
    assert p.label.tolist() == [0, 2, 2, 1] and p.mask.tolist() == [1, 0, 1, 0] and p.mask_b.tolist() == [0, 1, 1, 1]
    close(p.own_b.amax(-1), [.943045, .953732, .977148, .970882])
    assert p.own_b.argmax(-1).tolist() == [0, 1, 2, 0] and torch.equal(p.label_b, p.label)
    for name, want in dict(x=.896378, x_b=1.962702, u=.350357, u_b=.664316).items():
        close(losses[name], want)
    close(sum(losses.values()), 3.873753)
    assert p.branches["u"] is p.prob and p.branches["u_b"] is p.prob_b


def test_the_standard_branch_follows_tau_and_the_balanced_one_does_not():
    m = acr()
    m.tau.fill_(2 / 3)
    p, losses = step(m)
    close(p.prob.amax(-1), [.901515, .541394, .993023, .895658])
    assert p.label.tolist() == [0, 1, 2, 1] and p.label_b.tolist() == [0, 2, 2, 1]
    close([losses["x_b"], losses["u_b"]], [1.962702, .664316])


def test_a_row_counts_by_either_confidence():
    """Row 0 by the plain probability alone, rows 1 and 3 of the balanced branch by the balanced head, which is sure of
    another class than the label; in row 3 of a second batch the adjusted probability alone is sure."""
    p, _ = step(acr())
    assert p.prob[0].max() < .95 <= A.W[0].softmax(-1).max() and p.mask[0] == 1
    assert p.own_b[1].argmax() != p.label_b[1] and p.own_b[3].argmax() != p.label_b[3]
    assert p.mask_b[1] == p.mask_b[3] == 1
    weak = f64([[0, 0, 0]] * 3 + [[0, 0, 2.5]])
    p, _ = step(acr(), views(l=view(A.X, XB), w=view(weak, 0 * WB), s1=TOY.s1, s2=TOY.s2))
    assert weak[3].softmax(-1).max() < .95 and p.mask.tolist() == p.mask_b.tolist() == [0, 0, 0, 1]


def test_without_adjustment_and_with_equal_views_it_is_fixmatch_with_one_view():
    same = views(l=TOY.l, w=TOY.w, s1=TOY.s1, s2=TOY.s1)
    _, losses = step(acr(tau_1=0.0, tau_2=0.0, tau_12=0.0), same)
    close([losses["x"], losses["u"]], [.896378, .311788])
    both = views(l=view(A.X, A.X), w=view(A.W, A.W), s1=view(A.S1, A.S1), s2=view(A.S2, A.S2))
    _, losses = step(acr(tau_1=0.0, tau_2=0.0, tau_12=0.0), both)
    close([losses["x_b"], losses["u_b"]], [losses["x"], losses["u"]], 1e-9)
    m = kit.method("fixmatch")
    p = m.pseudo(TOY, None, None)
    close(losses["u"], reduce(m.terms(TOY, SimpleNamespace(y=A.y), p, None)["u"]), 1e-9)


def test_the_balanced_head_predicts():
    t = kit.trainer("acr")
    kit.losses_of(t, range(1))
    x = t.data.normalise(t.test_x, t.dtype)
    with torch.no_grad():
        v = t.average.net(x)
        assert torch.equal(t.method.predict(t.average.net, x), v["balanced"])
        assert not torch.equal(v["balanced"], v["head"])


# ---- the prior and tau -----------------------------------------------------------------------------------------------

SURE = 20 * f64([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])           # balanced predictions 0, 0, 2, 1
ESTIMATING = views(l=TOY.l, w=view(A.W, SURE), s1=TOY.s1, s2=TOY.s2)
LAST_KNOWN = torch.tensor([False, False, False, True])


@pytest.mark.parametrize("presence, u, j, tau", [(False, [.366667, .3, .333333], [.268508, .003345, .329533], .706712),
                                                 (True, [.35, .3, .35], [.298169, .002569, .298169], .728840)])
def test_a_step_of_the_estimate(presence, u, j, tau):
    m = acr(steps=250_000, ema_u=.9, official_presence=presence, epoch=500, start=3000)
    step(m, ESTIMATING, known=LAST_KNOWN, at=3000, ends=True)
    close(m.u, u)
    close(m.distance, j)
    close(2 * m.distance.softmax(-1)[0], tau)
    assert m.tau == 2, "tau moves at the epoch's end"
    m = acr(steps=250_000, ema_u=.9, official_presence=presence, epoch=1, start=3000)
    step(m, ESTIMATING, known=LAST_KNOWN, at=3000, ends=True)
    close(m.tau, tau)
    assert not m.distance.any()


def test_the_histogram_counts_and_the_released_one_keeps_the_last_row_of_a_class():
    label = torch.tensor([0, 0, 2, 1])
    for flags, counted, present in (([1, 1, 1, 0], [2, 0, 1], [1, 0, 1]), ([1, 0, 1, 0], [1, 0, 1], [0, 0, 1]),
                                    ([0, 0, 0, 0], [0, 0, 0], [0, 0, 0]), ([0, 1, 0, 1], [1, 1, 0], [1, 1, 0])):
        assert acr().histogram(label, f64(flags)).tolist() == counted
        assert acr(official_presence=True).histogram(label, f64(flags)).tolist() == present
    assert acr(official_presence=True).histogram(torch.tensor([1, 1]), f64([1, 1])).tolist() == [0, 1, 0]


@pytest.mark.parametrize("u, tau", [("con", .074390), ("uni", .815434), ("rev", 1.761277)])
def test_tau_when_the_estimate_is_an_anchor(u, tau):
    counts = torch.tensor([500, 299, 179, 107, 64, 38, 23, 13, 8, 5])                    # CIFAR-10, N1 = 500, gamma 100
    m = acr(counts=tuple(counts.tolist()))
    j = distances(m.anchors[("con", "uni", "rev").index(u)], m.anchors)
    if u == "con":
        close(j, [0, .792567, 3.164470])
    close(2 * j.softmax(-1)[0], tau)


def test_rows_that_are_unsure_or_labelled_images_do_not_count():
    for known, weak in ((~NONE, SURE), (NONE, 0 * SURE)):
        m = acr(epoch=1, start=1)
        step(m, views(l=TOY.l, w=view(A.W, weak), s1=TOY.s1, s2=TOY.s2), known=known, at=5, ends=True)
        close(m.u, [1 / 3] * 3, 1e-9)
        close(m.tau, 2 / 3, 1e-9)


def test_tau_changes_at_the_ends_of_epochs_from_the_start_on():
    """Epochs of 3 steps, the estimate from step 6 on:
    tau_1 in steps 0-5, tau_1 / 3 in 6-8, then what the epoch before has shown."""
    m, seen = acr(epoch=3, start=6), []
    for at in range(15):
        seen.append(float(m.tau))
        step(m, ESTIMATING, known=LAST_KNOWN, at=at, ends=True)
        assert (m.u != m.u[0]).any() == (at >= 6)
    assert m.ema_u == .95, "a horizon of 100 steps of 250,000 is at least 20 steps here"
    u, want, mean = [1 / 3] * 3, [2.0] * 6 + [2 / 3] * 3, None
    for _ in range(2):
        total = [0.0] * 3
        for _ in range(3):
            u = [.95 * a + .05 * b for a, b in zip(u, [2 / 3, 0, 1 / 3])]
            for i, anchor in enumerate((PI, [1 / 3] * 3, PI[::-1])):
                total[i] += sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(u, anchor)) / 2
        mean = [math.exp(x / 3) for x in total]
        want += [2 * mean[0] / sum(mean)] * 3
    close(seen, want, 1e-9)


def test_forty_steps_of_the_state_equal_a_plain_twin():
    for presence in (False, True):
        m = acr(epoch=4, start=6, threshold=.6, official_presence=presence)
        assert m.durations() == {"epoch": 4, "start": 8}, "rounded up to whole epochs"
        u, total, tau, moved = [1 / 3] * 3, [0.0] * 3, 2.0, 0
        for at in range(40):
            close(m.tau, tau, 1e-9)
            v, batch = drawn(at, spread=.9)
            known = torch.rand(4, generator=torch.Generator().manual_seed(at)) < .5
            step(m, v, batch.y, known, at, ends=True)
            h = [0.0] * 3
            for z, k in zip(v.w["balanced"], known):
                q = z.softmax(-1).tolist()
                flag, c = float(max(q) >= .6 and not k), q.index(max(q))
                h[c] = flag if presence else h[c] + flag
            if at >= 8 and sum(h):
                moved += 1
                u = [.95 * a + .05 * b / sum(h) for a, b in zip(u, h)]
                for i, anchor in enumerate((PI, [1 / 3] * 3, PI[::-1])):
                    total[i] += sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(u, anchor)) / 2
            if (at + 1) % 4 == 0:
                weights = [math.exp(x / 4) for x in total]
                tau, total = 2 * weights[0] / sum(weights) if at + 1 >= 8 else tau, [0.0] * 3
            close(m.u, u, 1e-9)
            close(m.distance, total, 1e-9)
        assert 5 < moved < 32


def test_a_class_that_the_counted_prior_misses_leaves_tau_defined():
    m = kit.method("acr", {"droplast_prior": True, "epoch": 1, "start": 1}, counts=(4, 1, 1),
                   first_pass=torch.tensor([0, 0, 0, 1]))
    close(m.anchors[0], [.75, .25, 0])
    _, losses = step(m, ESTIMATING, at=2, ends=True)
    assert 0 <= m.tau <= 2 and all(torch.isfinite(x) for x in losses.values())
    assert kit.method("acr", counts=(4, 1, 1)).anchors[0].tolist() == f64([4, 1, 1]).div(6).tolist()


# ---- schedules and recipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, epoch, start, ema",
                         [(250_000, 500, 3000, .99), (25_000, 50, 300, .95), (1200, 2, 14, .95),
                          (24, 1, 1, .95)])
def test_durations_are_shares_of_the_run(steps, epoch, start, ema):
    m = acr(steps=steps)
    assert m.durations() == {"epoch": epoch, "start": start} and start % epoch == 0
    close(m.ema_u, ema, 1e-12)


def test_it_resumes_within_an_epoch(tmp_path):
    make = lambda: kit.trainer("acr", {"threshold": .3, "epoch": 3, "start": 3})                          # noqa: E731
    t = kit.check_resume(make, 12, [2, 4, 7], tmp_path)
    assert (t.method.u != .25).any() and not 2 / 3 - 1e-3 < t.method.tau < 2 / 3 + 1e-3


def test_the_original_recipe_is_the_shared_one_with_the_release_s_counts():
    run, shared = Run.of("cifar10", "acr", recipe="original"), Run.of("cifar10", "acr")
    different = {k for k, value in run.identity().items() if value != shared.identity()[k]}
    assert different == {"recipe", "options"} and run.options["official_presence"] and run.options["droplast_prior"]
