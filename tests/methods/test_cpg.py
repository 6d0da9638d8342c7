"""CPG against the values of methods-c 6.8, slow twins of its votes and of what a window does,
and runs over its stages."""
from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import A, close, f64

from semilib.data import rng
from semilib.errors import BadInput
from semilib.methods import get
from semilib.methods.cpg import copy_counts, elected, radii, refined
from semilib.methods.losses import ce
from semilib.networks.net import View
from semilib.training.config import Run

SX = f64([[3, 0, 0], [0, 2, 0], [0, .5, 4], [.2, 2.5, 0]])
XA, WA = f64([[1, 0, .5], [.2, .1, .3]]), f64([[3.5, 0, 0], [0, 4, .5], [.1, 0, 4.5], [4.2, 0, 0]])
SA = f64([[.9, .1, 0], [0, .7, .2], [0, 0, 1], [.4, .4, .1]])
H, WEIGHT, BIAS = f64([[1, 2], [.5, -1]]), f64([[1, 0], [0, 1], [-1, .5]]), f64([.1, 0, -.1])
LOG = [400, 239, 143, 86, 51, 56, 877, 339, 256, 108]                  # phi of the release's log at the first selection


def made(**options):
    m = kit.method("cpg", {"strong_views": 1, **options}, steps=250_000, features=2)
    m.radius.copy_(f64([.2, .3, .5]))
    return m


def both(main, auxiliary, f=None) -> View:
    return View({"head": main, "auxiliary": auxiliary}, torch.zeros(len(main), 2).double() if f is None else f)


def step(m, phase: str, y, x=A.X, known=(False,) * 4):
    """Pseudo-labels and losses of the toy step; the copies' noise is the reference's script."""
    v = kit.views(l=both(x, XA, H), w=both(A.W, WA), s1=both(SX, SA))
    batch = SimpleNamespace(y=y, known_u=torch.tensor(known), index_u=torch.arange(4))
    if phase == "grow":
        k = torch.arange(m.cfg.most_copies).double()
        noise = torch.stack([.1 * k - .45, .5 - .1 * k], 1).expand(2, -1, 2)
        f = m.copied(H, m.radius[y.argmax(-1)], noise)
        v["copies"] = View({"head": f @ WEIGHT.T + BIAS}, f)
    t = kit.time(0, phase=phase)
    p = m.pseudo(v, batch, t)
    losses = kit.values(m.terms(v, batch, p, t))
    return p, losses["main"], losses["aux_x"] + losses["aux_u"]


# ---- the reference's values ------------------------------------------------------------------------------------------


def test_a_step_of_the_first_stage():
    p, main, aux = step(made(), "begin", A.y)
    close(torch.stack([main, aux, main + aux]), [1.434713, 2.039093, 3.473806])
    assert p.label.tolist() == [0, 1, 2, 0] and p.mask.tolist() == [1, 1, 1, 1]
    assert torch.equal(p.branches["aux_u"], WA.softmax(-1))


def test_a_step_of_the_first_window():
    m = made()
    p, main, aux = step(m, "grow", m.smooth(A.y), H @ WEIGHT.T + BIAS)
    close(torch.stack([main, aux]), [2.124484, 1.915103])
    close((A.W + m.lean).softmax(-1).amax(-1), [.964663, .506480, .985253, .891084])
    close((SX + m.lean).softmax(-1).amax(-1), [.909443, .786986, .953732, .845778])
    assert p.vote.tolist() == [1, 0, 1, 0] and p.choice.tolist()[::2] == [0, 2]


def grown(**options):
    m = made(**options)
    m.phi.copy_(torch.tensor([100, 7, 6]))
    m.times.copy_(copy_counts(m.phi, m.cfg.copies))
    m.lean.copy_((f64([5, 26, 5]) / 36).log())
    return m


def test_a_step_of_a_later_window():
    m = grown()
    assert m.times.tolist() == [0, 10, 11] and refined(torch.tensor([0, 26, 5]), 1).tolist() == [5, 26, 5]
    close(m.lean, [-1.974081, -.325422, -1.974081])
    p, main, aux = step(m, "grow", f64([[.9, .05, .05], [0, .75, .25]]), H @ WEIGHT.T + BIAS)
    close(torch.stack([main, aux]), [4.033434, 2.201100])
    close((A.W + m.lean).softmax(-1).amax(-1), [.898023, .842186, .952805, .977034])
    close((SX + m.lean).softmax(-1).amax(-1), [.764129, .950523, .850816, .966122])
    assert p.vote.tolist() == [0, 0, 0, 1] and int(p.choice[3]) == 1
    assert step(m, "grow", f64([[.9, .05, .05], [0, .75, .25]]),
                known=(True,) * 4)[0].vote.sum() == 0, "of a labelled image no vote"


def test_the_tables_of_the_reference():
    for m, want in (([1, 1, 1], [1, 1, 1]), ([0, 26, 5], [5, 26, 5]), ([0, 1, 3], [3, 3, 3]), ([2, 26, 5], [2, 26, 5]),
                    ([4] * 3, [1] * 3), ([0, 3, 3], [3, 3, 3]), ([0, 0, 0], [1, 1, 1])):
        assert refined(torch.tensor(m), 1).tolist() == want
    assert refined(torch.tensor([0, 0, 0, 0, 0, 26, 859, 328, 250, 104]), 4).tolist() == [26] * 6 + [859, 328, 250, 104]
    for phi, want in ((LOG, [2, 4, 7, 12, 21, 19, 1, 3, 4, 10]), ([7, 2, 1], [2, 10, 20]),
                      ([400, 298, 261, 349, 400, 926, 4472, 604, 2387, 1979], [10, 13, 15, 11, 10, 4, 0, 6, 1, 2]),
                      ([1500, 899, 539, 323, 193, 116, 69, 41, 25, 15], [0, 0, 1, 2, 3, 5, 10, 16, 27, 46])):
        assert copy_counts(torch.tensor(phi), 10).tolist() == want
    votes = torch.tensor([[12, 0, 0], [13, 0, 0], [11, 2, 0], [16, 4, 0], [17, 4, 0], [0, 100, 30], [0, 100, 24],
                          [0, 0, 0]])
    chosen, label = elected(votes.int(), 12, .8)
    assert chosen.tolist() == [1, 2, 4, 6] and label.tolist() == [0, 0, 0, 1]
    chosen, label = elected(votes.int(), 12.06, .8)               # 6 % of the 201 draws of the release's runs: the same
    assert chosen.tolist() == [1, 2, 4, 6]
    assert elected(votes[:1].int() * 0, 0, .8)[0].tolist() == []


def test_the_radius_and_the_released_one():
    f = f64([[1, 0], [.8, .2], [1, .4], [.9, -.3], [0, 1], [.2, .9], [-1, .1]])
    label = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    close(radii(f, label, 3), [.336968, .332012, .331020])
    close(radii(f, label, 3, batch=4), [.580866, .279724, .139410])
    close(radii(f, label, 4)[:3], radii(f, label, 3), 1e-12)
    assert radii(f, label, 4)[3] == 0, "a class without images"
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    close(radii(f[order], label[order], 3), radii(f, label, 3), 1e-12)
    rho = [0.0] * 3                                          # the released one by a loop: the last writer of each batch
    centres = [f[label == k].mean(0) for k in range(3)]
    for rows in order.split(3):
        for k in label[rows].unique().tolist():
            last = [i for i in rows.tolist() if label[i] == k][-1]
            rho[k] += (float(torch.cosine_similarity(f[last], centres[k], 0)) + 1) / 2 / int((label == k).sum())
    want = f64([1 / x for x in rho])
    close(radii(f[order], label[order], 3, batch=3), want / want.sum(), 1e-12)


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_the_main_loss_is_the_mean_over_rows_and_copies_by_a_loop():
    m = grown(most_copies=8)                              # of the 10 and 11 copies 8 are drawn, and count 10/8 and 11/8
    q = f64([[.1, .8, .1], [.2, .1, .7]])
    radius, noise = f64([.3, .5]), m.noise(H, kit.time(3))
    copies = m.copied(H, radius, noise).view(2, 8, 2)
    offset = (f64([100, 7, 6]) / 113).log()
    total, count = 0., 0.
    for i, t in enumerate([10, 11]):
        for weight, f in [(1, H[i]), *((t / 8, H[i] + radius[i] * noise[i, k] * H[i] / H[i].norm()) for k in range(8))]:
            total += weight * float(ce((f @ WEIGHT.T + BIAS + offset)[None], q[i:i + 1]))
            count += weight
        close(copies[i], torch.stack([H[i] + radius[i] * noise[i, k] * H[i] / H[i].norm() for k in range(8)]), 1e-12)
    assert count == 2 + 10 + 11
    v = kit.views(l=both(H @ WEIGHT.T + BIAS, XA), w=both(A.W, WA), s1=both(SX, SA),
                  copies=View({"head": copies.flatten(0, 1) @ WEIGHT.T + BIAS}, copies.flatten(0, 1)))
    batch = SimpleNamespace(y=q, known_u=torch.zeros(4, dtype=torch.bool))
    t = kit.time(0, phase="grow")
    close(kit.values(m.terms(v, batch, m.pseudo(v, batch, t), t))["main"], total / count, 1e-9)
    close(m.shares(torch.tensor([0, 1, 2])).sum(1), [0, 10, 11], 1e-12)


def test_the_noise_is_standard_normal_and_of_its_step():
    m = kit.method("cpg", {"most_copies": 7}, features=5)
    eps = torch.cat([m.noise(torch.zeros(64, 5).double(), kit.time(s)).flatten() for s in range(20)])
    assert len(eps) == 20 * 64 * 7 * 5 and torch.isfinite(eps).all()
    n = math.sqrt(len(eps))
    assert abs(eps.mean()) < 4 / n and abs(eps.var() - 1) < 6 / n and abs((eps ** 4).mean() - 3) < 40 / n
    same = m.noise(torch.zeros(3, 5).double(), kit.time(2))
    assert torch.equal(same, m.noise(torch.zeros(64, 5).double(), kit.time(2))[:3])
    assert not torch.equal(same, m.noise(torch.zeros(3, 5).double(), kit.time(3)))


def test_gradient_flows_through_the_features_of_every_copy():
    f = H.clone().requires_grad_()
    m = made()
    m.copied(f, f64([.2, .5]), m.noise(f, kit.time(0))).sum().backward()
    eps = m.noise(H, kit.time(0))
    want = torch.stack([64 + r * ((e.sum(0) / h.norm()) - h * (e.sum(0) * h).sum() / h.norm() ** 3)
                        for h, r, e in zip(H, [.2, .5], eps)])
    close(f.grad, want, 1e-9)


# ---- whole runs on small images --------------------------------------------------------------------------------------

SMALL = {"warmup": 4, "window": 4, "threshold": .35, "floor": .1}


def small(options: dict | None = None, **changes):
    return kit.trainer("cpg", {**SMALL, **(options or {})}, **{"steps": 16, **changes})


def test_the_first_stage_asks_all_of_the_auxiliary_head_and_counts_no_vote():
    t = small(precision="fp64")
    for _ in range(4):
        t.advance()
    assert t.phase == "begin" and not t.method.votes.rows.any() and list(t.last_losses) == ["main", "aux_x", "aux_u"]
    t.advance()
    assert t.phase == "grow" and t.data.streams["labelled"].targets.shape == (33, 4)
    close(t.data.streams["labelled"].targets[0], f64([.9, *[.1 / 3] * 3]), 1e-12)
    assert torch.equal(t.method.phi, t.data.counts) and t.method.times.tolist() == [10] * 4
    close(t.method.lean.exp(), [.25] * 4, 1e-9)


@pytest.mark.parametrize("mu", [1, 10])
def test_votes_are_counted_for_their_image_and_class(mu):
    """mu 10: a batch holds more images than the pool."""
    t = small(mu=mu)
    m, n = t.method, t.method.info.n_unlabelled
    counted = torch.zeros(n, 4, dtype=torch.int32)
    end_step, twice = m.end_step, []

    def watched(v, batch, p, time):
        end_step(v, batch, p, time)
        if time.phase == "grow":
            weak, strong = ((x["head"] + m.lean).softmax(-1).max(-1) for x in (v.w, v.s1))
            for i, k, j, a, b, known in zip(batch.index_u.tolist(), weak.indices.tolist(), strong.indices.tolist(),
                                            weak.values.tolist(), strong.values.tolist(), batch.known_u.tolist()):
                counted[i, k] += int(a >= .9 * .35 and b >= .9 * .35 and k == j and not known)
            twice.append(max(Counter(batch.index_u.tolist()).values()))
    m.end_step = watched
    kit.losses_of(t, range(7))
    assert counted.sum() > 0 and torch.equal(m.votes.rows, counted) and (max(twice) > 1) == (mu > 1)


def test_what_a_window_does():
    """The labelled set, its rows, counts, copies and the adjustment, from the votes of a window, by a loop;
    and the radius from a scan."""
    t = small(precision="fp64")
    m, found, kept = t.method, [], []
    end_epoch = m.host_work

    def watched(ctx):
        if ctx.step in (8, 12):
            kept.append(m.votes.rows.clone())
        end_epoch(ctx)
    m.host_work = watched
    for now in range(16):
        t.advance()
        if now not in (7, 11):
            continue
        before = kept.pop()
        want, counts = [], [0] * 4
        for i, row in enumerate(before.tolist()):
            if sum(row) > .1 * 4 * 8 / m.info.n_unlabelled and max(row) / sum(row) > .8:
                want.append((int(t.data.unlabelled[i]), [x / sum(row) for x in row]))
                counts[row.index(max(row))] += 1
        stream = t.data.streams["labelled"]
        assert want and stream.members[:33].equal(t.data.labelled)
        assert stream.members[33:].tolist() == [i for i, _ in want]
        close(stream.targets[33:], f64([row for _, row in want]), 1e-12)
        close(stream.targets[:33], m.smooth(t.data.y), 0)
        phi = [a + b for a, b in zip([14, 9, 6, 4], counts)]
        assert m.phi.tolist() == phi and m.times.tolist() == [int(10 * sorted(phi)[1] / x) for x in phi]
        high = [c if c > 4 else 0 for c in counts]
        high = [1] * 4 if len(set(high)) == 1 else [c or min(x for x in high if x) for c in high]
        close(m.lean.exp(), f64(high) / sum(high), 1e-9)
        assert not m.votes.rows.any()
        with torch.no_grad():                               # the images, in the scan's weak views
            t.net.eval()
            base = t.data.of("union")[0]
            raw = t.data.view(t.data.images[base], "weak", "scan/union/weak/0", torch.tensor(now + 1))
            f = t.net(t.data.normalise(raw, t.dtype)).f[[base.tolist().index(i) for i in stream.members.tolist()]]
            t.net.train()
        close(m.radius, radii(f, stream.targets.argmax(1), 4), 1e-9)
        found.append({i for i, _ in want})
    assert not found[0] <= found[1], "an image that was selected once is not kept for that"
    assert t.monitor.never_active(m.must_act) == [] and t.data.version == 3, "nothing is selected after the last step"


def test_the_grown_labelled_set_is_dealt_with_its_soft_rows():
    t = small()
    kit.losses_of(t, range(3))
    assert t.data.batch(kit.time(2))[0].y.ndim == 1
    kit.losses_of(t, range(3, 9))
    stream, dealt = t.data.streams["labelled"], []
    for step in range(9, 9 + 2 * stream.batches):
        t.data.prepare(step)
        batch, views = t.data.batch(kit.time(step))
        assert torch.equal(batch.y, stream.targets[batch.index_l]) and batch.y.shape == (8, 4) and len(views["l"]) == 8
        dealt += batch.index_l.tolist()
    assert max(dealt) >= t.method.info.n_labelled and max(Counter(dealt).values()) <= 3


def test_a_window_in_which_nothing_is_selected_leaves_the_labelled_set():
    t = small({"threshold": 1.0})
    kit.losses_of(t, range(16))
    m, stream = t.method, t.data.streams["labelled"]
    assert stream.members.equal(t.data.labelled) and torch.equal(m.phi, t.data.counts)
    assert m.times.tolist() == copy_counts(t.data.counts, 10).tolist() == [4, 6, 10, 15]
    close(m.lean.exp(), [.25] * 4, 1e-6)
    assert set(t.monitor.never_active(m.must_act)) == {"vote", "selected"}


def test_a_selection_is_dropped_when_the_next_window_selects_nothing():
    t = small()
    kit.losses_of(t, range(9))
    assert len(t.data.streams["labelled"].members) > 33
    t.method.votes.rows.zero_()
    t.method.host_work(t.context(12))
    assert t.data.streams["labelled"].members.equal(t.data.labelled) and torch.equal(t.method.phi, t.data.counts)
    assert all(math.isfinite(x) for x in kit.losses_of(t, range(9, 10))[0].values())


def test_a_run_resumes_in_every_stage_and_window(tmp_path):
    t = kit.check_resume(lambda: small({"labelled_strong": True}), 11, [2, 4, 6, 9], tmp_path)
    assert len(t.data.streams["labelled"].members) > 33 and t.monitor.never_active(t.method.must_act) == []


def test_the_strong_labelled_view_moves_nothing_but_batch_norms():
    plan = kit.method("cpg", {"labelled_strong": True, "strong_views": 1}).step_images()
    assert list(plan.views) == ["l", "ls", "w", "s1"] and plan.views["ls"] == ("labelled", "strong")
    assert plan.strong == ["s1"]
    t = small({"labelled_strong": True}, policy="separate")                   # a pass a view: no shared statistics
    other = small(policy="separate")
    assert kit.losses_of(t, range(4)) == kit.losses_of(other, range(4))
    changed = {k for k, x in t.net.state_dict().items() if not torch.equal(x, other.net.state_dict()[k])}
    assert changed and all("running" in k or "num_batches" in k for k in changed)


def test_the_released_radius_grows_with_the_class():
    fair, official = (small({"official_radius": o}) for o in (False, True))
    for t in (fair, official):
        kit.losses_of(t, range(5))
    assert fair.method.radius.max() / fair.method.radius.min() < 1.2
    assert official.method.radius[0] > 1.5 * official.method.radius[3]


def test_the_released_radius_reads_labelled_images_in_one_shuffled_order_and_then_the_selected_ones_by_index():
    m = small({"official_radius": True}).method
    g = torch.Generator().manual_seed(0)
    f, label = torch.randn(33 + 12, 6, generator=g, dtype=torch.float64), torch.randint(4, (33 + 12,), generator=g)
    order = torch.cat([rng.permutation(m.info.seed, "cpg/radius", 0, 33), torch.arange(33, 45)])
    assert sorted(order[:33].tolist()) == list(range(33)) != order[:33].tolist()
    close(m.radii(f, label), radii(f[order], label[order], 4, batch=8), 1e-12)
    close(m.radii(f[:33], label[:33]), radii(f[order[:33]], label[order[:33]], 4, batch=8), 1e-12)
    turned = torch.cat([torch.arange(33), torch.arange(33, 45).flip(0)])
    assert not torch.allclose(m.radii(f[turned], label[turned]),
                              m.radii(f, label)), "the order of the selected ones counts"


# ---- durations, the floor, recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, mu, warmup, window",
                         [(2**18, 7, 30 * 1024, 5 * 1024), (250_000, 1, 6 * 4883, 4883), (600, 1, 75, 25),
                          (80, 1, 10, 10), (24, 7, 3, 3)])
def test_the_durations_scale_with_the_run(steps, mu, warmup, window):
    """On a pool of 100 images at 4 a step a pass has 25."""
    m = kit.method("cpg", steps=steps, mu=mu)
    assert m.durations() == {"warmup": warmup, "window": window, "first_selection": warmup + window}
    assert m.host_every() == window
    assert [(s.name, s.start) for s in m.phases()] == [("begin", 0), ("grow", warmup)]


def test_the_floor_is_that_share_of_the_draws_that_twelve_was():
    m = kit.method("cpg", {"window": 5 * 1024}, steps=2**18, batch=64, mu=7)
    scale = 100 / 11_413                                    # the toy's pool against the release's
    assert 12 <= m.floor * scale < 13 and kit.method("cpg", {"absolute_floor": 12}, steps=2**18).floor == 12
    assert kit.method("cpg", {"window": 10, "floor": .5}, steps=40).floor == .5 * 10 * 4 / 100


@pytest.mark.parametrize("options", [{"warmup": 12, "window": 4}, {"window": 0}, {"window": 16}])
def test_a_run_that_ends_before_its_first_selection_is_refused(options):
    with pytest.raises(BadInput, match="warmup=|window=|first_selection="):
        small(options)


def test_a_run_without_a_first_stage_votes_from_the_start():
    t = small({"warmup": 0})
    kit.losses_of(t, range(5))
    assert t.phase == "grow" and len(t.data.streams["labelled"].members) > 33


def test_semi_s_modules_are_refused():
    with pytest.raises(BadInput, match="takes every pseudo-label"):
        get("cpg", "", "oheml")


def test_its_own_recipe():
    run = Run.of("cifar10", "cpg", recipe="original")
    assert (run.mu, run.steps, run.eval_every, run.variant, run.strong_pool) == (7, 2**18, 1024, "USB", "B")
    assert (run.decay, run.labelled_in_unlabelled, run.rate, run.report) == ("ndim", False, "cosine", "best_on_test")
    want = dict(strong_views=1, labelled_strong=True, official_radius=True, absolute_floor=12)
    assert {name: run.options[name] for name in want} == want
    assert Run.of(method="cpg", profile="trial", recipe="original").options["absolute_floor"] == 0
