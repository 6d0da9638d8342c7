"""ADELLO: offsets, losses and temperature on the reference's values, the estimate u against a plain twin,
its identities, resume."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import A, close, f64, view, views

from semilib.errors import BadInput
from semilib.methods.adello import imbalance
from semilib.training.config import Run
from semilib.training.engine import Trainer

TOY = views(l=view(A.X), w=view(A.W), s1=view(A.S1))
NONE = torch.zeros(4, dtype=torch.bool)
LAST_KNOWN = torch.tensor([False, False, False, True])
TOTAL = 250_000


def adello(u=(.5, .3, .2), steps: int = TOTAL, **options):
    m = kit.method("adello", {"strong_views": 1, "warmup": 0, **options}, steps=steps)
    m.u.copy_(f64(u))
    return m


def step(m, progress: float = 0, v=TOY, y=A.y, known=NONE):
    batch, t = SimpleNamespace(y=y, known_u=known), kit.time(round(progress * m.info.steps), m.info.steps)
    p = m.pseudo(v, batch, t)
    losses = kit.values(m.terms(v, batch, p, t))
    m.end_step(v, batch, p, t)
    return p, losses


# ---- a step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress, target, offset_x, offset_u, losses", [
    (0, [.5, .3, .2], [.336472, -.405465, -.693147], [0, 0, 0], [1.060846, .311788, .406897]),
    (.5, [.461966, .310940, .227094], [.415590, -.441283, -.820195], [.079118, -.035818, -.127048],
     [1.116622, .324867, .405635]),
    (1, [.349327, .331931, .318742], None, None, [1.303260, .383018, .416089])])
def test_the_steps_of_the_reference(progress, target, offset_x, offset_u, losses):
    p, have = step(adello(), progress)
    assert p.mask.tolist() == [1, 0, 1, 0] and p.label.tolist() == [0, 1, 2, 1]
    close([have["x"], have["u"], have["d"]], losses)
    close(A.pi / p.offset_x.exp(), target)
    close(f64([.5, .3, .2]) / p.offset_u.exp(), target)
    if offset_x:
        close(p.offset_x, offset_x)
        close(p.offset_u, offset_u)
    assert p.branches["u"] is p.prob and p.branches["d"] is p.prob


def test_alpha_falls_late():
    for progress, alpha in ((0, 1), (.1, .991), (.25, .94375), (.5, .775), (.75, .49375), (1, .1)):
        u = f64([.5, .3, .2]) ** alpha
        close(adello().offsets(kit.time(round(progress * TOTAL), TOTAL))[1], (f64([.5, .3, .2]) * u.sum() / u).log(),
              1e-8)


def test_the_soft_term_begins_after_its_share_of_the_run():
    m = adello(warmup=4, steps=12)
    seen = [step(m, at / 12)[1]["d"] for at in range(12)]
    assert all(d == 0 for d in seen[:4]) and all(d > .2 for d in seen[4:])
    for steps, want in ((250_000, 47_684), (2**18, 50_000), (600, 114), (24, 5)):
        assert kit.method("adello", steps=steps).durations() == {"warmup": want}


def test_u_moves_after_the_losses_that_read_it():
    m = adello()
    p, _ = step(m)
    close(p.offset_u, [0, 0, 0])
    close(f64([.7, .2, .1]) / p.offset_x.exp(), [.5, .3, .2])
    close(m.u, [.499835, .300056, .200110])
    m = adello(exclude_labelled=True)
    step(m, known=LAST_KNOWN)
    close(m.u, [.499926, .299877, .200196])
    m = adello()
    step(m, known=LAST_KNOWN)
    close(m.u, [.499835, .300056, .200110])
    m = adello(exclude_labelled=True)
    step(m, known=~NONE)
    close(m.u, [.5, .3, .2], 0)


def test_the_temperature_is_taken_once_at_the_end_of_the_warm_up():
    m = adello(imbalance_temperature=True, warmup=TOTAL // 2)
    step(m, .4)
    assert m.temperature == 1
    m.u.copy_(f64([.5, .3, .2]))
    p, losses = step(m, .5)
    close(imbalance(f64([.5, .3, .2])), 1.072766)
    close(m.u, [.499835, .300056, .200110])
    close(m.temperature, imbalance(m.u), 1e-12)             # of u after the step's move, as released
    soft = p.prob ** (1 / m.temperature)
    log_q = ((A.S1 + p.offset_u) / m.temperature).log_softmax(-1)
    rows = -(soft / soft.sum(-1, keepdim=True) * log_q).sum(-1)
    close(losses["d"], ((1 - p.mask) * rows).mean(), 1e-12)
    close(losses["u"], .324867)
    close(p.target_d.sum(-1), [1] * 4, 1e-12)
    first = m.temperature.clone()
    m.u.copy_(f64([.1, .1, .8]))
    step(m, .6)
    assert m.temperature == first
    m = adello(warmup=0)
    step(m)
    assert m.temperature == 1, "not without the option"


# ---- identities ------------------------------------------------------------------------------------------------------


def fixmatch(**options):
    m = kit.method("fixmatch", {"strong_views": 1, **options}, steps=TOTAL)
    return kit.values(m.terms(TOY, SimpleNamespace(y=A.y), m.pseudo(TOY, None, None), None))


@pytest.mark.parametrize("progress", [0, .5, 1])
def test_with_alpha_one_the_unlabelled_side_is_fixmatch(progress):
    _, losses = step(adello(alpha_min=1.0, warmup=TOTAL), progress * .999)
    close(losses["u"], fixmatch()["u"], 1e-8)
    assert losses["d"] == 0


def test_the_labelled_loss_starts_as_logit_adjustment_and_is_plain_where_u_is_the_labelled_prior():
    close(step(adello([1 / 3] * 3))[1]["x"], 1.333223)                                         # tau 1
    close(step(adello([.7, .2, .1]))[1]["x"], .896378)
    close(step(adello([.7, .2, .1]))[1]["u"], .311788)


def test_a_multiple_of_u_changes_nothing():
    want, have = step(adello(), .5)[1], step(adello([5, 3, 2]), .5)[1]
    close(have["x"], want["x"], 1e-8)
    m = adello([5, 3, 2])
    offset = m.offsets(kit.time(TOTAL // 2, TOTAL))[1]
    close(offset - adello().offsets(kit.time(TOTAL // 2, TOTAL))[1], [np.log(10)] * 3, 1e-8)
    close([have["u"], have["d"]], [want["u"], want["d"]], 1e-8)


def test_hard_and_soft_terms_share_the_rows():
    """At threshold 0 all rows are hard, at 1 all are soft; two strong views halve nothing."""
    both = views(l=view(A.X), w=view(A.W), s1=view(A.S1), s2=view(A.S2))
    z = torch.cat([A.S1, A.S2]).log_softmax(-1)
    hard, soft = (step(adello([1 / 3] * 3, threshold=tau, strong_views=2), v=both)[1] for tau in (0.0, 1.0))
    assert hard["d"] == 0 and soft["u"] == 0
    close(hard["u"], -z[torch.arange(8), A.W.argmax(-1).repeat(2)].mean(), 1e-8)
    close(soft["d"], -(A.W.softmax(-1).repeat(2, 1) * z).sum(-1).mean(), 1e-8)
    weighted = step(adello([1 / 3] * 3, lambda_u=2.0, lambda_d=3.0))[1]
    plain = step(adello([1 / 3] * 3))[1]
    close([weighted["u"], weighted["d"]], [2 * plain["u"], 3 * plain["d"]], 1e-9)


# ---- state -----------------------------------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_forty_steps_equal_a_plain_twin():
    m = kit.method("adello", {"momentum": .9, "threshold": .7, "warmup": 10, "alpha_power": 1.5, "alpha_min": .2},
                   steps=40)
    assert m.momentum == .9, "ten steps are never scaled"
    u, pi = np.full(3, 1 / 3), np.array([.7, .2, .1])
    for at in range(40):
        v, batch = kit.drawn(at)
        batch.known_u, t = NONE, kit.time(at)
        p = m.pseudo(v, batch, t)
        have = kit.values(m.terms(v, batch, p, t))
        g = u ** (1 - .8 * (at / 40) ** 1.5)
        g = g / g.sum()
        x = softmax(v.l["head"].numpy() + np.log(pi / g))
        close(have["x"], -np.log(x[np.arange(4), batch.y]).mean(), 1e-7)
        w, rows_u, rows_d = softmax(v.w["head"].numpy()), 0, 0
        for name in ("s1", "s2"):
            s = np.log(softmax(v[name]["head"].numpy() + np.log(u / g)))
            for row, weak in zip(s, w, strict=True):
                if weak.max() >= .7:
                    rows_u -= row[weak.argmax()]
                else:
                    rows_d -= (weak * row).sum()
        close([have["u"], have["d"]], [rows_u / 8, (at >= 10) * rows_d / 8], 1e-7)
        m.end_step(v, batch, p, t)
        u = .9 * u + .1 * w.mean(0)
        close(m.u, u, 1e-9)


@pytest.mark.parametrize("steps, momentum", [(2**18, .999), (25_000, .99), (600, .95)])
def test_the_momentum_keeps_its_share_of_the_run(steps, momentum):
    close(kit.method("adello", steps=steps).momentum, momentum, 1e-12)


def test_it_resumes_before_and_after_the_warm_up(tmp_path):
    make = lambda: kit.trainer("adello", {"threshold": .3, "warmup": 4, "imbalance_temperature": True})     # noqa: E731
    m = kit.check_resume(make, 10, [2, 4, 5, 7], tmp_path).method
    assert m.u.std() > 0 and m.temperature > 1 and set(m.state_dict()) == {"prior", "u", "temperature"}


# ---- components, combinations and recipes ----------------------------------------------------------------------------


def test_each_part_says_when_it_acts():
    def acted(m, progress):
        p, _ = step(m, progress)
        return {k: bool(x) for k, x in m.acted(TOY, None, p, kit.time(round(progress * m.info.steps), m.info.steps),
                                               {}).items()}
    assert acted(adello(), .5) == {"u": True, "shift": True, "d": True}
    assert acted(adello(), 0) == {"u": True, "shift": False, "d": True}
    assert acted(adello(warmup=TOTAL - 1, threshold=1.0), .5) == {"u": False, "shift": True, "d": False}
    assert set(adello().must_act) == {"u", "shift", "d"} and set(adello(alpha_min=1.0, lambda_d=0.0).must_act) == {"u"}


def test_semi_s_modules_act_on_it_and_soft_targets_keep_their_sum():
    t = kit.trainer("adello", {"threshold": .6, "warmup": 2, "semi_warmup": 2, "plce_u": "max"}, add="oheml+plce+align")
    kit.losses_of(t, range(12))
    assert t.monitor.never_active(["u", "d", "oheml", "plce", "align"]) == []
    terms, seen = t.method.terms, {}
    t.method.terms = lambda v, batch, p, time: seen.setdefault("out", (p, terms(v, batch, p, time)))[1]
    t.advance()
    p, out = seen["out"]
    assert (p.prob.sum(-1) - 1).abs().max() > 1e-3, "SeMi does not normalise its blend"
    close(p.target_d.sum(-1).double(), torch.ones(8), 1e-5)
    assert not torch.equal(out["d"].weight, 1 - p.mask.repeat(2))
    assert torch.equal(out["d"].weight > 0, p.mask.repeat(2) == 0)


def test_it_is_a_method_of_its_own_and_its_warm_up_ends_within_the_run():
    with pytest.raises(BadInput, match="base='remixmatch': none for adello"):
        Run.of("cifar10", "adello", base="remixmatch")
    with pytest.raises(BadInput, match="warmup=12"):
        kit.trainer("adello", {"warmup": 12})
    assert isinstance(kit.trainer("adello", {"warmup": 0}), Trainer)


def test_the_original_recipe_is_usb_s_with_a_constant_rate():
    run = Run.of("cifar10", "adello", recipe="original")
    assert (run.mu, run.steps, run.eval_steps, run.rate) == (2, 2**18, 1024, "constant")
    assert (run.variant, run.strong_pool, run.decay) == ("USB", "B", "ndim")
    assert run.labelled_in_unlabelled and run.report == "mean_last" and run.options["strong_views"] == 1
    assert run.method_class()(run.method_options(), SimpleNamespace(steps=run.steps)).durations() == {"warmup": 50_000}
