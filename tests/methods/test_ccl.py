"""CCL: its equations on toy tensors, the contrastive terms by plain loops, the priors worked out by hand, resume."""
from __future__ import annotations

import math
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import SB1, SB2, WB, XB, A, close, f64

from semilib.data import augment
from semilib.data.step import Batch
from semilib.networks.net import View, running_statistics_kept
from semilib.training.config import Run

NONE = torch.zeros(4, dtype=torch.bool)


def unit(*degrees: float) -> torch.Tensor:
    return f64([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def view(h: torch.Tensor, **logits: torch.Tensor) -> View:
    return View({**logits, "g": h}, torch.zeros(len(h), 4, dtype=torch.float64))


def toy_views(weak=(A.W, WB)) -> kit.Views:
    return kit.views(l=view(unit(0, 0), head=A.X, balanced=XB),
                     w=view(unit(5, 110, 240, 130), head=weak[0], balanced=weak[1]),
                     s1=view(unit(15, 90, 260, 150), head=A.S1, balanced=SB1),
                     s2=view(unit(350, 120, 230, 170), head=A.S2, balanced=SB2),
                     l1=view(unit(0, 100)), l2=view(unit(20, 120)), c=view(unit(10, 130, 250)))


def ccl(steps: int = 250_000, mu: int = 2, energy: float = 4.0, **options):
    m = kit.method("ccl", {"energy": energy, **options}, steps=steps, mu=mu, batch=2)
    m.q_u.copy_(f64([.3, .3, .4]))
    m.q_a.copy_(f64([.5, .3, .2]))
    return m


def step(m, v=None, at: int = 0, known=NONE, ends: bool = False):
    batch, t, v = Batch(y=A.y, known_u=known), kit.time(at, m.info.steps), v or toy_views()
    p = m.pseudo(v, batch, t)
    terms = m.terms(v, batch, p, t)
    if ends:
        m.end_step(v, batch, p, t)
    return p, terms, kit.values(terms), batch


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_the_fused_pseudo_labels_on_toy_tensors():
    p, _, _, batch = step(ccl())
    close(batch.notes.fused - (A.W + WB) / 2, f64([-1.839962, -1.086190, -.040822]).expand(4, 3) / 2)
    close(batch.notes.fused,
          [[2.830019, -.543095, -.020411], [-.419981, 2.206905, .479589], [-.869981, -.443095, 4.729589],
                        [1.330019, .956905, .029589]])
    close(batch.notes.fused.logsumexp(1), [2.918124, 2.430100, 4.738914, 2.003474])
    close(p.prob.amax(1), [.915665, .799959, .990718, .509944])
    assert p.label.tolist() == [0, 1, 2, 0] and p.mask.tolist() == [0, 0, 1, 0] and p.sure.tolist() == [0, 0, 1, 0]
    close(p.sharp, p.prob**4 / (p.prob**4).sum(1, keepdim=True))
    assert p.branches["u"] is p.prob and p.branches["u_b"] is p.prob


@pytest.mark.parametrize("centre, spl, rpl, none, every, total", [
    ("ones", .891272, .954873, .757095, .870324, 4.030928), ("eye", .384354, .509233, .523176, .580821, 3.390318)])
def test_the_terms_on_toy_tensors(centre, spl, rpl, none, every, total):
    _, _, losses, _ = step(ccl(centre_label=centre))
    for name, want in dict(x=.896378, x_b=1.962702, u=2 * .162079, u_b=2 * .446377).items():
        close(losses[name], .7 * want, 3e-6)
    close(losses["spl"], spl)
    close(losses["rpl"], .3 * rpl)
    close(sum(losses.values()), total)
    close(step(ccl(centre_label=centre, energy=1e3))[2]["rpl"], .3 * none)
    close(step(ccl(centre_label=centre, energy=-1e3))[2]["rpl"], .3 * every)


def members(m) -> tuple[torch.Tensor, torch.Tensor]:
    hot = f64([[1, 0, 0], [0, 0, 1]])
    return torch.cat([unit(10, 130, 250), unit(0, 100), unit(20, 120)]), torch.cat([m.y_c, hot, hot])


def test_the_smoothed_posteriors():
    m = ccl()
    close(m.smoothed(unit(5, 110, 240, 130), *members(m)), [[.479036, .311036, .209928], [.163115, .258208, .578676],
                                                           [.273491, .441256, .285253], [.211570, .341966, .446465]])
    close(step(m)[1]["spl"].rows.mean() * 3, .772792 + .875512 + 1.025511, 6e-6)
    close(ccl(smoothing=0.0).smoothed(unit(5, 110, 240, 130), *members(m))[0], [.506673, .308327, .185])
    m = ccl(centre_label="eye")
    close(m.smoothed(unit(5, 110, 240, 130), *members(m))[0], [.909025, .038207, .052768])
    for a in (0.2, 0.9):
        p = ccl(smoothing=a).smoothed(unit(*range(0, 360, 20)), *members(ccl()))
        close(p.sum(1), torch.ones(18))


def test_the_contrastive_terms_by_plain_loops():
    """Random rows of 5 classes in 6 dimensions, some chosen: each posterior summed pair by pair;
    smoothing by its series."""
    g = torch.Generator().manual_seed(3)
    m = kit.method("ccl", {"kernel_t": .5}, counts=(9, 5, 3, 2, 1), batch=4)
    h = torch.nn.functional.normalize(torch.randn(5 + 8 + 6, 6, generator=g, dtype=torch.float64), dim=1)
    hot = torch.eye(5)[torch.randint(0, 5, (8,), generator=g)]
    y = torch.cat([torch.ones(5, 5), hot, torch.rand(6, 5, generator=g)]).double()
    y[-2:] = 0                                                                      # not chosen
    want = []
    for i in range(5, 19):
        q = []
        for k in range(5):
            others = [j for j in range(19) if j != i]
            q.append(sum(math.exp(float(h[i] @ h[j]) / .5) * float(y[j, k]) for j in others)
                     / sum(float(y[j, k]) for j in others))
        want.append(-sum(float(y[i, k]) * math.log(q[k] / sum(q)) for k in range(5)))
    close(m.reliable(h, y), want, 1e-12)
    assert not m.reliable(h, y)[-2:].any()

    rows, base, label = h[13:], h[:13], y[:13]
    kernel = [[math.exp(float(r @ b) / .5) for b in base] for r in rows]
    density = [[sum(k_j * float(label[j, k]) for j, k_j in enumerate(row)) / float(label[:, k].sum())
                for k in range(5)] for row in kernel]
    density = f64([[d / sum(row) for d in row] for row in density])
    near = f64([[math.exp(float(a @ b)) for b in rows] for a in rows])
    near, spread, power = near / near.sum(1, keepdim=True), torch.zeros(6, 5).double(), density
    for k in range(40):
        spread, power = spread + .8 * .2**k * power, near @ power
    close(m.smoothed(rows, base, label), spread, 1e-12)


def test_rows_that_are_not_chosen_are_as_if_they_were_not_there():
    m = ccl()
    terms = step(m)[1]["rpl"]
    p = step(m)[0]
    base, y = members(m)
    h, y = torch.cat([base, unit(260), unit(230)]), torch.cat([y, p.sharp[2:3], p.sharp[2:3]])
    close(.3 * m.reliable(h, y).mean(), kit.values({"rpl": terms})["rpl"], 1e-12)
    assert terms.weight.tolist() == [1] * 4 + [0, 0, 1, 0] * 2 and terms.denominator == "weight"


@pytest.mark.parametrize("centre", ["ones", "eye"])
def test_gradients_reach_all_projections_but_the_weak_view_and_are_finite(centre):
    """Class 1 is absent from the batch: with centres of their own class its centre alone is a member."""
    v = toy_views()
    for one in v.values():
        for head, x in one.items():
            one[head] = x.clone().requires_grad_()
    v["s"] = View.cat([v.s1, v.s2])
    with torch.no_grad():
        p = ccl().pseudo(v.detach(), Batch(), None)
    terms = ccl(centre_label=centre).terms(v, SimpleNamespace(y=A.y), p, None)
    (kit.values(terms)["spl"] + kit.values(terms)["rpl"]).backward()
    for name in ("c", "l1", "l2", "s1", "s2"):
        assert torch.isfinite(v[name]["g"].grad).all() and v[name]["g"].grad.any(), name
    assert all(x.grad is None for x in v.w.values())


def test_the_weight_of_the_unsupervised_losses_is_at_least_one_and_a_half():
    for mu, want in ((1, 1.5), (2, 2), (7, 7)):
        terms = step(ccl(mu=mu))[1]
        close([terms["u"].scale, terms["u_b"].scale, terms["x"].scale, terms["spl"].scale, terms["rpl"].scale],
              [.7 * want, .7 * want, .7, 1, .3], 1e-12)


def test_without_its_parts_and_with_equal_heads_it_is_fixmatch_twice():
    """tau 0 and all priors alike: z = (f + b) / 2 + a constant."""
    m = kit.method("ccl", dict(tau=0.0, lambda_1=1.0, lambda_2=0.0), steps=250_000, counts=(5, 5, 5), batch=2)
    logits = dict(l=A.X, w=A.W, s1=A.S1, s2=A.S2)
    v = kit.views(**{name: one if name not in logits else view(one["g"], head=logits[name], balanced=logits[name])
                     for name, one in toy_views().items() if name != "s"})
    p, _, losses, batch = step(m, v)
    close(batch.notes.fused, A.W, 1e-10)
    base = kit.method("fixmatch")
    q = base.pseudo(v, None, None)
    want = kit.values(base.terms(v, SimpleNamespace(y=A.y), q, None))
    assert torch.equal(p.mask, q.mask) and torch.equal(p.label, q.label)
    close([losses["x"], losses["x_b"], losses["u"], losses["u_b"]],
          [want["x"], want["x"], 1.5 * want["u"], 1.5 * want["u"]], 1e-9)
    close([losses["spl"], losses["rpl"]], [0, 0], 0)


# ---- the priors ------------------------------------------------------------------------------------------------------


def test_a_step_of_the_priors():
    """The first image of the pool has a label; the third alone is sure and has the energy."""
    m = ccl(period=1, start=3)
    known = torch.tensor([True, False, False, False])
    step(m, known=known, at=3, ends=True)
    close(m.q_u, [.275458, .275702, .448840])
    close(m.q_a, [.475092, .295140, .229768])
    m = ccl()
    step(m, known=known, at=3, ends=True)
    close(m.n_a, [1.003665, 1.005617, 1.990718])
    close(m.n_u, m.n_a, 0)
    step(m, known=~known, at=4, ends=True)                        # a labelled image counts for the pool alone
    close(m.n_a - 1, 2 * f64([.003665, .005617, .990718]))
    close(m.n_u, [1.003665, 1.005617, 1.990718])


def test_the_priors_over_several_periods_by_a_plain_twin():
    """Periods of 3 steps from step 6 on; before it the counts are thrown away at each end."""
    m = kit.method("ccl", dict(energy=2.0, threshold=.6, period=3, start=5, alpha=.5, beta=.9), steps=20, batch=4)
    assert (m.period, m.start) == (3, 6)
    q_u, q_a, n_u, n_a = [1 / 3] * 3, [.7, .2, .1], [1.0] * 3, [1.0] * 3
    for s in range(15):
        g = torch.Generator().manual_seed(s)
        weak = [3 * torch.randn(4, 3, generator=g, dtype=torch.float64) + f64([-2, 2, 0]) for _ in range(2)]
        known = torch.rand(4, generator=g) < .3
        batch, t = Batch(known_u=known), kit.time(s, 20)
        v = toy_views(weak=weak)
        p = m.pseudo(v, batch, t)
        z = (weak[0] - (.5 * f64([.7, .2, .1]) + .5 * f64(q_a)).log() + 2 * f64(q_u).log() + weak[1]) / 2
        close(batch.notes.fused, z, 1e-9)
        m.end_step(v, batch, p, t)
        for i, row in enumerate(z.softmax(1).tolist()):
            for k in range(3):
                n_a[k] += row[k] * (max(row) >= .6)
                n_u[k] += row[k] * (float(z[i].logsumexp(0)) >= 2 and not bool(known[i]))
        if s % 3 == 2:
            if s >= 6:
                q_u = [.5 * q + .5 * n / sum(n_u) for q, n in zip(q_u, n_u, strict=True)]
                q_a = [.9 * q + .1 * n / sum(n_a) for q, n in zip(q_a, n_a, strict=True)]
            n_u, n_a = [1.0] * 3, [1.0] * 3
        close(m.q_u, q_u, 1e-9)
        close(m.q_a, q_a, 1e-9)
        close(m.n_u, n_u, 1e-9)
    assert abs(q_u[0] - 1 / 3) > .01 and abs(q_a[0] - .7) > .01


@pytest.mark.parametrize("steps, options, durations", [
    (250_000, {}, (10_500, 500)), (250_000, dict(start=3000, period=100), (3000, 100)),
    (250_000, dict(start=3001), (3500, 500)), (600, {}, (40, 20)), (25_000, {}, (1050, 50))])
def test_start_and_period_keep_their_share_of_the_run(steps, options, durations):
    m = kit.method("ccl", options, steps=steps)
    assert (m.durations()["start"], m.durations()["period"]) == durations


# ---- network, views, recipe ------------------------------------------------------------------------------------------


def test_projectors_and_prediction():
    t = kit.trainer("ccl", dict(period=3))
    kit.losses_of(t, range(2))
    net, x = t.average.net, t.data.normalise(t.test_x, t.dtype)
    with torch.no_grad():
        v = net(x)
        assert torch.equal(t.method.predict(net, x), v["balanced"]) and not torch.equal(v["balanced"], v["head"])
    assert v["g"].shape == (len(x), 256) and "g_c" not in v
    torch.testing.assert_close(v["g"].norm(dim=1), torch.ones(len(x)))
    d = t.net.backbone.features
    assert [tuple(p.shape) for p in net.heads["g"].parameters()] == [(d, d), (d,), (d,), (d,), (256, d), (256,)]


@pytest.mark.parametrize("classes, parameters", [(10, 1_568_484), (100, 1_591_704)])
def test_the_number_of_parameters_is_the_published_one(classes, parameters):
    from semilib.networks.backbones import make_backbone
    from semilib.networks.net import Net
    net = Net(make_backbone("wrn-28-2"), kit.method("ccl", counts=(2,) * classes, features=128).heads())
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_all_six_views_and_the_class_weights_are_projected():
    """One pass; the centres are the projected weights of the balanced head,
    by a projector with statistics of its own."""
    t = kit.trainer("ccl", dict(period=3))
    t.data.prepare(0)
    batch, raw = t.data.batch(kit.time(0))
    assert list(raw) == ["l", "w", "s1", "s2", "l1", "l2"]
    plain = t.data.images[t.data.labelled[batch.index_l]]
    for name in ("l1", "l2"):
        assert torch.equal(raw[name], augment.sim(plain, t.run.seed, f"view/{name}", 0, True))
    assert not torch.equal(raw["l1"], raw["l2"])
    images = {name: t.data.normalise(x, t.dtype) for name, x in raw.items()}
    with running_statistics_kept(t.net):
        v = t.method.forward(t.net, images, batch, kit.time(0), t.average.net)
        joint = t.net(torch.cat(list(images.values())))["g"]
        close(torch.cat([v[name]["g"] for name in raw]).detach(), joint.detach(), 1e-5)
        close(v.c["g"].detach(), t.net.heads["g_c"](t.net.heads["balanced"].weight).detach(), 1e-6)


def test_all_parts_learn_and_a_resumed_run_goes_on_to_the_last_bit(tmp_path):
    """Checkpoints before the priors are moved, and in the middle of a period after it."""
    def make():
        return kit.trainer("ccl", dict(threshold=.3, energy=1.0, period=3, start=3))
    t = kit.check_resume(make, 9, [2, 7], tmp_path)
    before, after = make().net.state_dict(), t.net.state_dict()
    for name in ("heads.g.0.weight", "heads.g.1.running_mean", "heads.g_c.3.weight", "heads.g_c.1.running_var",
                 "heads.balanced.weight"):
        assert not torch.equal(before[name], after[name]), name
    assert (t.method.q_u != 1 / 4).all() and not torch.equal(t.method.q_a, t.method.pi)


def test_the_original_recipe_follows_the_data():
    ten, hundred = (Run.of(d, "ccl", recipe="original").options for d in ("cifar10", "cifar100"))
    assert (ten["beta"], ten["start"], hundred["beta"], hundred["start"]) == (.9, 10_500 / 250_000, .5, 3000 / 250_000)
    assert ten["droplast_prior"] and hundred["droplast_prior"]
    assert not Run.of("cifar10", "ccl").options["droplast_prior"]


def test_the_prior_of_one_dropped_pass():
    m = kit.method("ccl", dict(droplast_prior=True), first_pass=torch.tensor([0, 0, 0, 1, 1, 2, 0, 0]))
    close(m.pi, [5 / 8, 2 / 8, 1 / 8])
    close(m.q_a, m.pi, 0)


def test_terms_that_never_act_are_told(monkeypatch):
    """An energy out of reach: no member for the reliable term, and no image that could move the unlabelled prior."""
    t = kit.trainer("ccl", {"threshold": 0.3, "energy": 1e3, "period": 2, "start": 2})
    kit.losses_of(t, range(8))
    assert t.monitor.never_active(t.method.must_act) == ["reliable", "prior"]
    t = kit.trainer("ccl", {"threshold": 0.3, "energy": -1e3, "period": 2, "start": 2})
    kit.losses_of(t, range(8))
    assert not {"reliable", "prior"} & set(t.monitor.never_active(t.method.must_act))
