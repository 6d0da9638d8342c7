"""SEVAL: its step, objectives and momenta on the reference's values, both searches against brute force,
and its two stages."""
from __future__ import annotations

import itertools
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import A, close, f64, view, views

from semilib.errors import BadInput
from semilib.methods import get
from semilib.methods import seval_search as search
from semilib.training.config import Run

V, Y = f64([[2, 0, 0], [1, 1.2, 0], [0, 1, 0], [1, 0, .8]]), torch.tensor([0, 0, 1, 2])
ONE_EACH = torch.arange(3)


def seval(steps: int = 250_000, **options):
    return kit.method("seval", {"strong_views": 1, **options}, steps=steps)


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_the_step_of_the_reference_and_its_invariance():
    m = seval()
    m.bar.copy_(f64([.97, .45, .9]))
    for multiple in (1, 3):
        m.pi.copy_(multiple * f64([2, 1, .5]))
        v, batch, t = views(l=view(A.X), w=view(A.W), s1=view(A.S1)), SimpleNamespace(y=A.y), kit.time(0)
        p = m.pseudo(v, batch, t)
        close(p.prob.max(-1).values, [.900987, .490431, .994234, .874394])
        assert p.label.tolist() == [0, 1, 2, 1] and p.mask.tolist() == [0, 1, 1, 1]
        losses = kit.values(m.terms(v, batch, p, t))
        close([losses["x"], losses["u"]], [.896378, .551293])


# ---- the offsets -----------------------------------------------------------------------------------------------------


def test_the_objective_of_the_reference():
    """The release divides by C once more."""
    close(search.class_nll(V, Y, torch.zeros(3, dtype=torch.float64)) / 3, .236584)
    close(search.class_nll(V, Y, f64([2, 1, .5]).log()) / 3, .241194)


def held_out(n: int, classes: int, seed: int, bias: float = 1.0):
    """Logits of a network that favours the first classes, of labels that it half knows."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    logits = 1.5 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return logits + 2 * torch.nn.functional.one_hot(y, classes) + bias * torch.linspace(1, -1, classes).double(), y


def objective(logits, y, pi):
    """Mean over classes of the mean loss of their images, one by one."""
    rows = -(logits - pi.log()).log_softmax(-1)[torch.arange(len(y)), y]
    return float(sum(rows[y == k].mean() for k in y.unique()) / logits.shape[1])


def test_the_offsets_are_the_best_of_a_grid():
    logits, y = held_out(60, 3, 0, .5)
    best = search.refine(logits, y, ONE_EACH)
    low = objective(logits, y, best)
    axis = torch.linspace(-4, 4, 41).double().exp()                          # of pi up to a factor
    grid = [objective(logits, y, torch.stack(pi)) for pi in itertools.product(axis, axis, [f64(1.0)])]
    assert low <= min(grid) and min(grid) < low + 5e-3
    assert best[0] > 1 > best[2] > 1e-3 and best.max() < 3, "the favoured class is lowered"
    close(best.log().sum(), 0, 1e-5)             # of all multiples the one nearest to 1


@pytest.mark.parametrize("n, classes, tied, bias",
                         [(300, 10, 0, 1), (300, 10, 5, 1), (40, 6, 0, 8), (80, 100, 10, 2), (5, 4, 0, 1)])
def test_the_offsets_satisfy_the_conditions_of_an_optimum(n, classes, tied, bias):
    """Zero slope where free; at a bound a slope that leads out of it.
    A class without images goes to the upper bound."""
    logits, y = held_out(n, classes, 1, bias)
    tie = search.groups(classes, tied)
    pi = search.refine(logits, y, tie)
    assert ((pi >= 1e-3 - 1e-12) & (pi <= 3 + 1e-12)).all()
    b = torch.stack([pi[tie == g][0] for g in range(int(tie.max()) + 1)]).log().requires_grad_()
    close(b.exp()[tie].detach(), pi, 1e-12)
    (search.class_nll(logits, y, b[tie]) + search.RIDGE / 2 * b.square().sum()).backward()
    inside = (b > -6.9 + 1e-6) & (b < 1.0986 - 1e-6)
    assert b.grad[inside].abs().max() < 1e-7 if inside.any() else True
    assert (b.grad[b >= 1.0986] < 1e-9).all() and (b.grad[b <= -6.9] > -1e-9).all()
    if n == 40:
        assert not inside.all()
    assert torch.equal(search.refine(logits, y, tie), pi)


def test_logits_that_underflow_do_no_harm():
    pi = search.refine(1000 * V, Y, ONE_EACH)
    assert torch.isfinite(pi).all()
    assert torch.equal(search.refine(V[:0], Y[:0], ONE_EACH), torch.ones(3).double())


# ---- the thresholds --------------------------------------------------------------------------------------------------


def test_the_threshold_objective_of_the_reference():
    """|accuracy - .75|, weights 1, 1, 3.5, 1: .288 for all four, .386 for three, .25 for two and for one;
    the lowest of the best."""
    weight = (.7 / f64([.7, .2, .1]))[torch.tensor([0, 0, 1, 0])]
    close(weight, [1, 1, 3.5, 1])
    t = search.threshold(f64([.99, .9, .8, .6]), f64([1, 1, 0, 1]), weight, .75)
    assert t == .9
    assert search.threshold(f64([.9, .99, .6, .8]), f64([1, 1, 1, 0]), f64([1, 1, 1, 3.5]), .47) == .6


@pytest.mark.parametrize("target", [.3, .6, .75, .95])
def test_the_threshold_is_the_best_of_all(target):
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        p = torch.randint(30, 50, (25,), generator=g).double() / 50             # with equal ones
        correct, w = (torch.rand(25, generator=g) < p).double(), 1 + torch.randint(0, 4, (25,), generator=g).double()
        t = search.threshold(p, correct, w, target)

        def error(t, p=p, correct=correct, w=w):
            return abs(float((w * correct)[p >= t].sum() / w[p >= t].sum()) - target)
        errors = {float(x): error(x) for x in p}
        best = min(errors.values())
        assert t == min(x for x, e in errors.items() if e <= best + 1e-12)


def test_groups_are_of_consecutive_classes():
    assert search.groups(10, 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert search.groups(4, 0).tolist() == [0, 1, 2, 3]
    assert search.groups(10, 4).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert search.groups(4, 5).tolist() == [0, 1, 2, 3]


def rows(label: int, confidence: float, count: int, classes: int = 4):
    out = torch.full((count, classes), (1 - confidence) / (classes - 1), dtype=torch.float64)
    out[:, label] = confidence
    return out


def test_groups_are_judged_by_what_is_predicted_in_them():
    group, weight = search.groups(4, 2), f64([1, 1, 2, 4])
    # predicted in group 0: 10 right at .9, 6 of class 2 wrong at .6; in group 1: 12 of class 2 right, 4 of class 3
    # right
    prob = torch.cat([rows(0, .9, 10), rows(1, .6, 6), rows(2, .7, 12), rows(3, .8, 4)])
    y = torch.tensor([0] * 10 + [2] * 6 + [2] * 12 + [3] * 4)
    t, rare = search.thresholds(prob, y, weight, group, .75, few=10)
    assert t.tolist() == [.9, .9, 0, 0] and not rare.any()                  # 10/22 for all of group 0, 1 from .9 on
    t, rare = search.thresholds(prob, y, weight, group, .45, few=10)
    assert not t.any()
    t, rare = search.thresholds(prob, y, weight, group, .75, few=11)        # group 0 has 10 images of its own
    assert rare.tolist() == [True, True, False, False] and not t.any()
    prob[:10] = rows(2, .9, 10)                                             # nearly nothing is predicted in group 0
    prob[10:16] = rows(2, .6, 6)
    prob[0] = rows(0, .99, 1)[0]
    t, rare = search.thresholds(prob, y, weight, group, .9, few=0)
    assert rare.tolist() == [True, True, False, False] and t[2] == .6     # 52/61 for all of them; 16/25 and 40/49 above


# ---- a calibration ---------------------------------------------------------------------------------------------------


def test_the_momenta_of_the_reference_and_the_ends_of_its_trajectories():
    m = seval(steps=500_000, period=500)
    assert m.entries == 500 and m.d_pi == pytest.approx(.999) and m.d_t == pytest.approx(.999)
    never = torch.zeros(3, dtype=torch.bool)
    search_of = {"refine": f64([.3] * 3), "thresholds": (f64([.4] * 3), never)}
    with pytest.MonkeyPatch.context() as patch:
        for name in search_of:
            patch.setattr(search, name, lambda *given, name=name: search_of[name])
        m.calibrate(V, Y)
        close(m.pi, [.9993] * 3)
        close(m.bar, [.94945] * 3)
        m = seval(steps=500_000, period=500)
        search_of |= {"refine": f64([.001] * 3), "thresholds": (f64([0] * 3), never)}
        for _ in range(500):
            m.calibrate(V, Y)
        close([m.pi[0], m.bar[0]], [.606773, .576060])
        search_of |= {"refine": f64([.1, 2, 2]), "thresholds": (f64([0] * 3), torch.tensor([False, False, True]))}
        m.calibrate(V, Y)
        assert m.pi[2] == m.pi[0] < m.pi[1]                                  # rare: the lowest of all


def test_momenta_follow_the_number_of_periods():
    for entries in (500, 50, 10, 2):
        m = kit.method("seval", {"period": 2}, steps=4 * entries, eval_every=2)
        assert m.entries == entries
        assert .3 < 1 - m.d_t ** entries < .45, "as much of the start is left as after 500 periods"
    cifar100 = Run.of("cifar100", "seval", recipe="original", device="cpu")
    assert cifar100.eval_steps == 2500 and cifar100.steps == 500_000
    m = kit.method("seval", cifar100.options, steps=500_000, dataset="cifar100")
    assert m.period == 2500 and m.entries == 100 and m.d_pi == pytest.approx(.9) and m.cfg.target == .65


def test_a_calibration_weights_by_the_prior_after_the_split(monkeypatch):
    m, seen = seval(threshold_groups=0), {}
    monkeypatch.setattr(search, "thresholds", lambda prob, y, weight,
                        *rest: seen.update(prob=prob, weight=weight, rest=rest) or
                        (torch.zeros(3).double(), torch.zeros(3, dtype=torch.bool)))
    m.calibrate(V, Y)
    close(seen["weight"], [4 / 4, 4 / 1, 4 / 1])                            # 7, 2, 1 labelled, 3, 1, 0 held out
    close(seen["prob"], (V - m.pi.log()).softmax(-1), 1e-12)                 # refined by the new offsets
    assert seen["rest"][1:] == (.75, 10)


# ---- the stages ------------------------------------------------------------------------------------------------------

OPTIONS = {"threshold": .3, "period": 2, "few": 2, "threshold_groups": 2}


def small(**changes):
    return kit.trainer("seval", {**OPTIONS, **changes}, steps=13)


def test_two_stages_resume_to_the_last_bit(tmp_path):
    t = kit.check_resume(small, 13, [0, 1, 3, 6, 7, 9, 12], tmp_path)
    assert t.monitor.never_active(t.method.must_act) == []
    assert [(s.name, s.start, s.fresh) for s in t.phases] == [("split", 0, False), ("estimate", 0, False),
                                                              ("train", 6, True)]


def test_half_of_each_class_is_held_out_and_comes_back():
    t = small()
    start = {k: v.clone() for k, v in t.net.named_parameters()}
    t.advance()
    m, stream, y = t.method, t.data.streams["labelled"], t.data.y
    assert torch.bincount(y[m.held]).tolist() == [7, 4, 3, 2]                # of 14, 9, 6, 4
    for k in range(4):
        assert m.held[y == k].tolist() == sorted(m.held[y == k].tolist(), reverse=True), "the first ones"
    assert torch.equal(stream.members, t.data.labelled[~m.held]) and torch.equal(stream.targets, y[~m.held])
    kit.losses_of(t, range(1, 6))
    trained = {k: v.clone() for k, v in t.net.named_parameters()}
    restart, fresh = t.restart, {}
    t.restart = lambda: (restart(), fresh.update({k: v.clone() for k, v in t.net.named_parameters()}))
    t.advance()
    assert torch.equal(t.data.streams["labelled"].members, t.data.labelled)
    assert torch.equal(t.data.streams["labelled"].targets, y)
    assert all(torch.equal(fresh[k], start[k]) for k in start)
    assert any(not torch.equal(trained[k], start[k]) for k in start)


def test_a_class_with_one_image_keeps_it():
    t = kit.trainer("seval", OPTIONS, steps=13, n1=3, gamma_l=3.0)
    t.advance()
    assert t.data.counts.tolist()[-1] == 1
    assert torch.bincount(t.data.streams["labelled"].targets, minlength=4).min() == 1


def test_the_second_stage_reads_the_trajectory_of_the_first():
    t = small()
    m = t.method
    for step in range(13):
        t.advance()
        if step < 6:
            entry = (step + 1) // 2 - 1
            if (step + 1) % 2 == 0:
                assert torch.equal(m.path_pi[entry], m.pi) and torch.equal(m.path_bar[entry], m.bar)
        elif step < 7:
            assert (m.pi == 1).all() and (m.bar == .3).all()
        else:
            entry = min((step - 6 + 1) // 2, 3) - 1
            assert torch.equal(m.pi, m.path_pi[entry]) and torch.equal(m.bar, m.path_bar[entry])
    assert len({tuple(row.tolist()) for row in m.path_pi}) == 3


def test_the_calibration_sees_the_held_out_images_through_the_average(monkeypatch):
    t, seen = small(), {}
    monkeypatch.setattr(t.method, "calibrate", lambda logits, y: seen.update(logits=logits, y=y))
    kit.losses_of(t, range(2))
    held = t.method.held
    x = t.data.normalise(t.data.images[t.data.labelled[held]], t.dtype)
    with torch.no_grad():
        want = t.average.net(x)["head"].double()
    assert seen["logits"].dtype == torch.float64
    torch.testing.assert_close(seen["logits"], want, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen["y"], t.data.y[held])


def test_without_calibration_and_hold_out_the_first_stage_is_fixmatch_loss_for_loss(monkeypatch):
    base = kit.trainer("fixmatch", {"threshold": .3}, rate="constant", steps=13)
    t = kit.trainer("seval", {**OPTIONS, "portion": 0.0}, rate="constant", steps=13)
    monkeypatch.setattr(t.method, "calibrate", lambda *given: None)
    assert kit.losses_of(t, range(6)) == kit.losses_of(base, range(6))


def test_the_rate_runs_over_each_stage():
    t = small()
    rates = []
    for _ in range(13):
        t.advance()
        rates.append(float(t.lr))
    assert rates[0] == rates[6] == max(rates) and rates[:6] == sorted(rates[:6], reverse=True) and rates[5] < rates[7]


def test_what_cannot_work_is_refused():
    with pytest.raises(BadInput, match="period=4.*at most 3 of steps=13"):
        small(period=4)
    with pytest.raises(BadInput, match="fresh network"):
        get("seval", add="oheml")
