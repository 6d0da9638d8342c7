"""DARP: the refinement against the reference's numbers and a plain twin, what a step makes of it, and the estimate of
the class totals."""
from __future__ import annotations

import kit
import numpy as np
import pytest
import torch
from kit import close, f64

from semilib.data.step import Batch
from semilib.errors import BadInput
from semilib.methods import darp_solver as solver
from semilib.training.config import Run

# methods-b 6.1
Q = f64([[.80, .15, .05], [.70, .20, .10], [.60, .30, .10], [.55, .25, .20], [.30, .60, .10], [.20, .30, .50]])
M = f64([3, 2, 1])
ROWS = torch.arange(6)


def refined(q, totals, rounds=10, alpha=2.0):
    r = solver.refine(q, totals, alpha, rounds)
    return solver.refined(q, torch.arange(len(q)), r)


def drawn(n=60, classes=4, spread=1.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    q = (spread * torch.randn(n, classes, generator=g, dtype=torch.float64)).softmax(1)
    totals = torch.rand(classes, generator=g, dtype=torch.float64) + 0.3
    return q, totals * n / totals.sum()


# ---- the solver ------------------------------------------------------------------------------------------------------


def test_noisy_entries_are_removed_as_in_the_reference():
    r = solver.refine(Q, M)
    kept = solver.kept_entries(Q, ROWS, r)
    assert kept.int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]]
    close(r.v, [.952381, 1.37931, 1.428571])
    z = solver.cleaned(Q, ROWS, r)
    close(z, [[.999997, 1e-6, 1e-6], [.999997, 1e-6, 1e-6], [.579999, .42, 1e-6], [.453769, .29872, .247511],
              [.256637, .743362, 1e-6], [.144459, .313823, .541718]])
    close(solver.entropy(z), [.000036, .000041, .680304, 1.065078, .569521, .975266])


def test_refined_rows_are_the_reference_s():
    r = solver.refine(Q, M)
    close(r.nu, [1.53084, .865732, .66174])
    found = refined(Q, M)
    close(found[2:], [[.467619, .53238, 1e-6], [.269301, .360013, .370686], [.191187, .808811, 1e-6],
                      [.071899, .298795, .629306]])
    close(found.sum(0), [3.000001, 2.000001, .999998])
    assert Q.argmax(1).tolist() == [0, 0, 0, 0, 1, 2] and found.argmax(1).tolist() == [0, 0, 1, 2, 1, 2]
    once = refined(Q, M, rounds=1)
    close(once[2:], [[.477421, .522577, 1e-6], [.29507, .370906, .334024], [.196331, .803668, 1e-6],
                     [.081661, .320757, .597582]])
    close(once.sum(0), [3.050477, 2.017912, .931611])


def plain(q, totals, alpha, rounds):
    """The paper's text, an equation at a time, each solved by bisection: the refined rows."""
    n, classes = q.shape
    d = np.zeros((n, classes))
    for k in range(classes):
        d[sorted(range(n), key=lambda i, k=k: (-q[i, k], -i))[:int(alpha * totals[k])], k] = 1
    v = (totals + 1e-6) / ((d * q).sum(0) + 1e-6)
    z = q * d * v + 1e-6
    z = z / z.sum(1, keepdims=True)
    h = np.maximum(-(z * np.log(z + 1e-6)).sum(1), 1e-6)
    log_z, nu = np.log(z), np.ones(classes)
    for _ in range(rounds):
        log_x = -np.logaddexp.reduce(log_z - np.outer(h, nu), axis=1)
        for k in range(classes):
            low, high = -1e8, 1e8
            for _ in range(100):
                nu[k] = (low + high) / 2
                more = np.logaddexp.reduce(log_z[:, k] + log_x - nu[k] * h) > np.log(max(totals[k], 1e-6))
                low, high = (nu[k], high) if more else (low, nu[k])
    rows = log_z - np.outer(h, nu)
    return np.exp(rows - np.logaddexp.reduce(rows, axis=1)[:, None])


@pytest.mark.parametrize("seed, alpha, rounds", [(0, 2.0, 1), (1, 2.0, 10), (2, 1.0, 3), (3, 50.0, 4)])
def test_the_solver_equals_its_plain_twin(seed, alpha, rounds, monkeypatch):
    q, totals = drawn(seed=seed)
    q[10:20] = q[:10]                                                   # equal entries
    want = plain(q.numpy(), totals.numpy(), alpha, rounds)
    close(refined(q, totals, rounds, alpha), torch.from_numpy(want), 1e-6)
    monkeypatch.setitem(solver.CHUNKS, "cpu", 28)                       # seven rows at a time
    close(refined(q, totals, rounds, alpha), torch.from_numpy(want), 1e-6)


def normal(g, *size):
    return torch.randn(*size, generator=g, dtype=torch.float64)


def guessed(g, n, classes, confidence):
    """Rows that favour a drawn class, by up to `confidence` in the logits."""
    z = normal(g, n, classes)
    most = confidence * torch.rand(n, generator=g, dtype=torch.float64)
    z[torch.arange(n), torch.randint(classes, (n,), generator=g)] += most
    return z


def without_the_last_class(g, n, classes):
    z = guessed(g, n, classes, 40)
    z[:, -1] -= 200
    return z.softmax(1)


def one_row_of_the_last_class(g, n, classes):
    z = guessed(g, n, classes, 40)
    z[:, -1] -= 30
    z[0, -1] = 60
    return z.softmax(1)


def half_never_seen(g, n, classes):
    q = guessed(g, n, classes, 30).softmax(1)
    q[::2] = 1 / classes
    return q


POOLS = {
    "soft rows": lambda g, n, c: guessed(g, n, c, 3).softmax(1),
    "sure rows": lambda g, n, c: guessed(g, n, c, 60).softmax(1),
    "rows as sure as can be": lambda g, n, c: torch.eye(c, dtype=torch.float64)[torch.randint(c, (n,), generator=g)],
    "one class takes all": lambda g, n, c: (normal(g, n, c) + 40 * torch.eye(c, dtype=torch.float64)[0]).softmax(1),
    "nobody is of the last class": without_the_last_class,
    "one row is of the last class": one_row_of_the_last_class,
    "nobody is sure": lambda g, n, c: torch.full((n, c), 1 / c, dtype=torch.float64),
    "half was never seen": half_never_seen,
    "five rows again and again": lambda g, n, c: guessed(g, 5, c, 9).softmax(1)[torch.randint(5, (n,), generator=g)]}
TOTALS = {
    "even": lambda c: torch.ones(c, dtype=torch.float64),
    "long-tailed": lambda c: torch.logspace(0, -2, c, dtype=torch.float64),
    "reversed": lambda c: torch.logspace(-2, 0, c, dtype=torch.float64),
    "of one class": lambda c: torch.eye(c, dtype=torch.float64)[c // 2]}


def check_refinement(q, totals, alpha=2.0, rounds=10):
    """What every refinement promises."""
    r, before = solver.refine(q, totals, alpha, rounds), solver.refine(q, totals, alpha, rounds - 1)
    z, rows = solver.cleaned(q, torch.arange(len(q)), r), solver.refined(q, torch.arange(len(q)), r)
    assert r.nu.isfinite().all() and rows.isfinite().all()
    close(rows.sum(1), torch.ones(len(q)), 1e-12)
    h = solver.entropy(z).unsqueeze(1)
    log_x = -(z.log() - h * before.nu).logsumexp(1, keepdim=True)
    met = (z.log() + log_x - h * r.nu).logsumexp(0)
    close(met, totals.clamp(min=1e-6).log(), solver.TOLERANCE)           # the last round's equations
    order = r.nu.argsort()                                               # a class never falls behind one of a higher nu
    z, rows = z[:, order], rows[:, order]
    assert ((z[:, :-1] < z[:, 1:]) | (rows[:, :-1] >= rows[:, 1:])).all()
    return rows


@pytest.mark.parametrize("totals", TOTALS)
@pytest.mark.parametrize("pool", POOLS)
def test_whatever_the_predictions_and_the_totals_a_refinement_is_finite_and_meets_its_equations(pool, totals):
    for seed, (classes, n) in enumerate(((10, 230), (37, 180), (127, 300))):
        wanted = TOTALS[totals](classes)
        check_refinement(POOLS[pool](torch.Generator().manual_seed(seed), n, classes), wanted * n / wanted.sum())


@pytest.mark.parametrize("pool", POOLS)
def test_predictions_against_the_totals_are_refined_as_by_the_plain_twin(pool):
    totals = TOTALS["reversed"](5)
    totals = totals * 80 / totals.sum()
    q = POOLS[pool](torch.Generator().manual_seed(0), 80, 5)
    close(refined(q, totals, 4), torch.from_numpy(plain(q.numpy(), totals.numpy(), 2.0, 4)), 1e-6)


@pytest.mark.parametrize("roundings", [-1, 0, 1])
def test_a_class_that_is_solved_waits_for_the_others(roundings):
    """Its gap is one rounding, so its step rounds to nothing."""
    z = torch.full((50, 3), 0.1, dtype=torch.float64)
    z[:45, 0], z[45:, 1] = .8, .8
    h, nu = solver.entropy(z), torch.full((3,), 1000, dtype=torch.float64)
    w = z.log() + 1000 * h.unsqueeze(1)                                 # at nu = 1000 the first class is solved
    solved = float(solver.columns([(w, h)], nu)[0][0])
    wanted = f64([solved + roundings * np.spacing(solved), np.log(5), np.log(40)])
    found = solver.solve([(w, h)], wanted, nu)
    close(found[0], 1000, 1e-9)
    close(solver.columns([(w, h)], found)[0], wanted, solver.TOLERANCE)


def test_the_entropy_of_a_certain_row_stays_above_zero():
    z = f64([[1, 0, 0], [1 - 2e-12, 1e-12, 1e-12], [.5, .3, .2]])
    found = solver.entropy(z)
    close(found[:2], [1e-6, 1e-6], 0)
    close(found[2], -(z[2] * (z[2] + 1e-6).log()).sum(), 0)


@pytest.mark.parametrize("seed", range(3))
def test_rows_sum_to_one_and_columns_to_the_totals(seed):
    q, totals = drawn(200, 5, seed=seed)
    found = refined(q, totals, rounds=300)
    close(found.sum(1), torch.ones(200), 1e-12)
    close(found.sum(0) / totals, torch.ones(5), 1e-3)
    assert (q.sum(0) - totals).abs().max() > 5, "there was something to move"


def test_certain_rows_move_least():
    q, totals = drawn(200, 5, seed=1)
    r = solver.refine(q, totals)
    z = solver.cleaned(q, torch.arange(200), r)
    order = solver.entropy(z).argsort()
    moved = (solver.refined(q, torch.arange(200), r) - z).abs().sum(1)[order]
    assert moved[:20].mean() < 0.2 * moved[-100:].mean()


def test_neither_the_order_of_classes_nor_that_of_rows_matters():
    q, totals = drawn()
    found = refined(q, totals)
    classes, rows = torch.tensor([2, 0, 3, 1]), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    close(refined(q[:, classes], totals[classes]), found[:, classes], 1e-8)
    close(refined(q[rows], totals), found[rows], 1e-8)


def test_of_equal_entries_the_later_rows_are_kept():
    q = f64([.3, .5, .3, .3]).unsqueeze(1).repeat(1, 2)
    for keep, want in ((0, [0, 0, 0, 0]), (1, [0, 1, 0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 1, 1]), (4, [1, 1, 1, 1]),
                       (9, [1, 1, 1, 1])):
        floor, first, v = solver.removal(q, f64([keep, 2]), 1.0)
        kept = solver.kept_entries(q, torch.arange(4), solver.Refinement(floor, first, v, v))
        assert kept.int().T.tolist() == [want, [0, 1, 0, 1]], keep
    close(v, [9.000001 / 1.400001, 2.000001 / .800001], 1e-9)


def test_an_equation_that_asks_certain_rows_to_move_is_solved_too():
    """nu in the ten thousands, where exp(-h nu) itself would be 0 or infinite."""
    z = torch.full((50, 3), 1e-6, dtype=torch.float64)
    z[:45, 0] = 1
    z[45:] = f64([.2, .5, .3])
    z = z / z.sum(1, keepdim=True)
    h, wanted = solver.entropy(z), f64([5, 5, 40]).log()
    nu = solver.solve([(z.log(), h)], wanted, torch.ones(3, dtype=torch.float64))
    assert nu.abs().max() > 1e4 and nu.isfinite().all()
    close((z.log() - h.unsqueeze(1) * nu).logsumexp(0), wanted, 1e-7)
    found = refined(torch.eye(3, dtype=torch.float64)[[0] * 45 + [1] * 5], f64([5, 5, 40]))
    assert found.isfinite().all()
    close(found.sum(1), torch.ones(50), 1e-12)


def test_a_set_of_which_nothing_is_known_yet_gives_the_totals_to_every_row():
    found = refined(torch.full((10, 3), 1 / 3, dtype=torch.float64), f64([5, 3, 2]), alpha=100.0)
    close(found, f64([[.5, .3, .2]]).expand(10, 3), 1e-6)


def test_the_estimate_of_the_totals():
    confusion, seen = f64([[.9, .07, .03], [.3, .6, .1], [.1, .2, .7]]).T, f64([60, 25, 15])
    close(solver.estimate(confusion, seen), [54.913295, 30.346821, 14.739884])
    close(torch.linalg.cond(confusion), 2.251445)
    close(solver.estimate(confusion, confusion @ f64([7, 2, 1])), [7, 2, 1], 1e-9)
    assert solver.estimate(confusion, f64([99, 1, 0])) is None, "a negative entry"
    for own, other, trusted in ((.338, .331, False), (.342, .329, True)):       # condition 143 and 77: the limit is 100
        alike = f64([[own, other, other], [other, own, other], [other, other, own]])
        assert (solver.estimate(alike, f64([1, 1, 1])) is not None) == trusted, "close to singular"
    assert solver.estimate(torch.full((3, 3), torch.nan, dtype=torch.float64), seen) is None


@pytest.mark.parametrize("condition, trusted", [(2, True), (99, True), (101, False), (1e9, False)])
def test_no_estimate_is_trusted_from_a_condition_of_100_on(condition, trusted):
    """I / c + (1 - 1 / c) J / 3 has condition c. At 100 itself rounding decides, on each machine in its own way."""
    confusion = torch.eye(3, dtype=torch.float64) / condition + (1 - 1 / condition) / 3
    close(torch.linalg.cond(confusion) / condition, 1, 1e-6)
    found = solver.estimate(confusion, f64([3, 3, 3]))
    assert (found is not None) == trusted
    if trusted:
        close(found, [3, 3, 3], 1e-9)


def test_no_estimate_is_trusted_from_a_singular_confusion():
    assert solver.estimate(torch.full((3, 3), 1 / 3, dtype=torch.float64), f64([1, 1, 1])) is None


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_mask_and_label_are_read_from_the_stored_rows_refined():
    m = kit.method("darp", dict(threshold=0.63, warmup=3))
    m.q.rows[:6] = Q
    batch, v = Batch(index_u=torch.tensor([5, 2, 0, 3])), kit.views(w=kit.view(kit.A.W))
    weak = kit.A.W.softmax(-1)
    close(m.pseudo(v, batch, kit.time(3)).prob, weak, 1e-12)            # after the warm-up, but nothing is refined yet
    m.q.rows[:6] = Q
    for name, value in solver.refine(Q, M)._asdict().items():
        getattr(m, name).copy_(value)
    m.refinements.fill_(1)
    close(m.pseudo(v, batch, kit.time(2)).prob, weak, 1e-12)               # in the warm-up
    m.q.rows[:6] = Q
    p = m.pseudo(v, batch, kit.time(3))
    assert p.label.tolist() == [2, 1, 0, 2] and p.mask.tolist() == [0, 0, 1, 0] and p.branches["u"] is p.prob
    close(p.prob, refined(Q, M)[batch.index_u])
    close(m.q.rows[batch.index_u], weak, 1e-12)                         # what the next visit of these images will find
    assert bool(batch.notes.moved)


def sure(base: str) -> dict:
    """A threshold that untrained rows pass, where the base has one."""
    return dict(threshold=0.3) if base == "fixmatch" else {}


def watched(base, **changes):
    t = kit.trainer("darp", dict(**sure(base), warmup=10, refine_every=5), base=base, steps=31, **changes)
    seen, refine = [], t.method.pseudo_prob

    def pseudo_prob(prob, v, batch, time):
        before = t.method.q.rows.clone()
        out = refine(prob, v, batch, time)
        seen.append((int(time.step), batch.index_u, before, t.method.q.rows.clone(), out))
        return out
    t.method.pseudo_prob = pseudo_prob
    t.method.refine_every = 5
    return t, seen


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_a_step_s_targets_are_rows_of_the_last_refinement_of_the_whole_set(base):
    """The release's R: all rows, refined every five steps and stale in between. Rows seen since then are newer here."""
    t, seen = watched(base)
    kit.losses_of(t, range(31))
    totals = t.data.counts.double() * len(t.data.unlabelled) / t.data.counts.sum()
    q = torch.full((len(t.data.unlabelled), 4), 0.25)
    whole, compared = None, 0
    for step, index, before, after, used in seen:
        assert torch.equal(before, q), "unrefined rows are what is kept"
        if step >= 10 and step % 5 == 0:
            whole, since = solver.refined(q, torch.arange(len(q)), solver.refine(q, totals)).float(), set()
        q = after.clone()
        if whole is None:
            assert torch.equal(used, after[index])
            continue
        old = torch.tensor([int(i) not in since for i in index])
        assert torch.equal(used[old], whole[index[old]])
        compared += int(old.sum())
        since |= set(index.tolist())
    assert compared > 100 and int(t.method.refinements) == 5 and whole is not None
    assert t.monitor.never_active(t.method.must_act) == []


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_in_the_warm_up_it_is_its_base(base):
    one = kit.trainer("darp", dict(**sure(base), warmup=8), base=base)
    two = kit.trainer(base, sure(base))
    assert kit.losses_of(one, range(8)) == kit.losses_of(two, range(8))
    assert one.monitor.never_active(one.method.must_act) == ["refine"]
    assert kit.losses_of(one, range(8, 9)) != kit.losses_of(two, range(8, 9))


def test_on_remixmatch_the_aligned_and_sharpened_rows_are_refined():
    m = kit.method("darp", base="remixmatch", batch=4)
    batch, v = Batch(index_u=ROWS[:4]), kit.views(w=kit.view(kit.B.W))
    m.pseudo_prob(kit.B.W.softmax(-1), v, batch, kit.time(0))
    m.prior.copy_(kit.B.pi)
    m.pseudo_prob(kit.B.W.softmax(-1), v, batch, kit.time(1))
    close(m.q.rows[0], [.999659, .000312, .000028])


def test_semi_s_modules_weigh_blend_and_align_refined_pseudo_labels():
    options = dict(threshold=0.5, warmup=3, semi_warmup=2, plce_epoch=2, plce_decay_every=2)
    t = kit.trainer("darp", options, add="oheml+plce+align")
    losses = kit.losses_of(t, range(12))
    assert set(losses[-1]) == {"x", "u", "e"} and t.monitor.never_active(t.method.must_act) == []


def test_it_resumes_in_the_warm_up_and_between_refinements(tmp_path):
    options = dict(threshold=0.3, warmup=4, refine_every=3)
    t = kit.check_resume(lambda: kit.trainer("darp", options, steps=70), 13, [3, 8], tmp_path)
    assert int(t.method.refinements) == 3


def test_short_runs_refine_too():
    for steps, warm, every in ((250_000, 100_500, 10), (1200, 482, 10), (100, 40, 3), (12, 5, 1)):
        assert kit.method("darp", steps=steps).durations() == {"warmup": warm, "refine_every": every}


def test_totals_are_in_the_labelled_set_s_proportions_by_default():
    close(kit.method("darp", counts=(100, 30, 10)).totals, f64([100, 30, 10]) * 100 / 140)


# ---- the estimate ----------------------------------------------------------------------------------------------------

ESTIMATE = dict(estimate=True, estimation=40, warmup=4)


def estimating(**changes):
    options = {**sure(changes.get("base", "fixmatch")), **ESTIMATE, **changes.pop("options", {})}
    return kit.trainer("darp", options, **{"steps": 60, "order": "reversed", "lr": 0.03, **changes})


def test_an_estimate_is_made_in_stages_of_its_own_and_survives_a_resume(tmp_path):
    t = kit.check_resume(estimating, 46, [1, 39, 43], tmp_path)
    assert [(s.name, s.start) for s in t.phases] == [("begin", 0), ("estimate", 1), ("train", 40)]
    assert t.method.durations() == {"warmup": 44, "refine_every": 1, "estimation": 40}
    assert int(t.method.trusted) > 3 and t.monitor.never_active(t.method.must_act) == []
    true = torch.tensor(t.split.unlabelled_counts).double()
    error = (t.method.totals - true).abs().sum() / true.sum()
    labelled = t.data.counts.double() * true.sum() / t.data.counts.sum()
    plain_error = (labelled - true).abs().sum() / true.sum()
    assert error < 0.15 < plain_error, "nearer to the truth than the labelled set's totals"
    close(t.method.totals.sum(), len(t.data.unlabelled), 1e-9)
    assert t.phase == "train" and int(t.method.refinements) == 3


def test_the_network_begins_anew_after_the_estimation():
    t = estimating(options=dict(estimation=4))
    start = {k: x.clone() for k, x in t.net.state_dict().items()}
    kit.losses_of(t, range(5))
    other = kit.trainer("darp", dict(threshold=0.3), steps=60)
    near = [(p - start[name]).abs().max() < 0.2 for name, p in t.net.named_parameters()]
    assert all(near), "one step from its initial values"
    assert set(t.data.streams) == set(other.data.streams) == {"labelled", "unlabelled"}
    close(t.lr, 0.03)


def test_held_out_images_are_a_third_of_small_classes_and_teach_nothing():
    t = estimating()
    assert kit.losses_of(t, range(1))[0] == {"x": 0.0}, "before the labels are known, all are held out"
    kit.losses_of(t, range(1, 2))
    held, y = t.method.held, t.data.y
    assert t.data.counts.tolist() == [14, 9, 6, 4] and torch.bincount(y[held]).tolist() == [4, 3, 2, 1]
    logits = kit.drawn(0, rows=8)[0].l["head"].requires_grad_()
    index = torch.cat([held.nonzero()[:3, 0], (~held).nonzero()[:5, 0]])
    batch = kit.SimpleNamespace(y=torch.zeros(8, dtype=torch.int64), index_l=index)
    loss = kit.values(t.method.terms(kit.views(l=kit.view(logits)), batch, None, kit.time(1)))["x"]
    close(loss.detach(), -logits.log_softmax(1)[3:, 0].mean().detach(), 1e-9)
    loss.backward()
    assert not logits.grad[:3].any() and logits.grad[3:].any()


def test_without_a_trusted_estimate_the_labelled_totals_stay_and_the_run_says_so(monkeypatch):
    monkeypatch.setattr(solver, "estimate", lambda confusion, seen: None)
    t = estimating(options=dict(estimation=4, warmup=0), steps=8)
    kit.losses_of(t, range(8))
    close(t.method.totals, t.data.counts.double() * len(t.data.unlabelled) / t.data.counts.sum(), 1e-9)
    idle = t.monitor.never_active(t.method.must_act)
    assert "estimate" in idle and "no estimate could be trusted" in t.method.must_act["estimate"]


def test_estimates_on_remixmatch():
    t = estimating(base="remixmatch", options=dict(estimation=6), steps=14)
    losses = kit.losses_of(t, range(14))
    assert [set(x) for x in losses] == [{"x"}] * 6 + [{"x", "u", "s1", "r"}] * 8


def test_pairs_and_sets_that_cannot_be_estimated_are_refused():
    with pytest.raises(BadInput, match="False with add='oheml'"):
        kit.method("darp", dict(estimate=True), add="oheml")
    with pytest.raises(BadInput, match="a single labelled image"):
        kit.method("darp", dict(estimate=True))


def test_its_own_recipe():
    run = Run.of("cifar10", "darp", recipe="original")
    found = run.optimiser, run.lr, run.rate, run.ema_rule, run.weight_decay, run.policy
    assert found == ("adam", .002, "constant", "decaying", .02, "weak_first")
    run = Run.of("cifar100", "darp", base="remixmatch", recipe="original")
    assert [run.options[name] for name in ("refine_every", "rounds", "ramp")] == [100, 20, 1.0]
    assert run.labelled_in_unlabelled is False
