"""DeCon: its equations on the reference's values, its four averages against a plain twin, its identities, resume."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import A, close, f64, view, views

from semilib.errors import BadInput
from semilib.training.config import Run

XB = f64([[1, 0, .5], [.2, .1, .3]])
WB = f64([[3.5, 0, 0], [0, 4, .5], [.1, 0, 4.5], [4.2, 0, 0]])
SB1 = f64([[.9, .1, 0], [0, .7, .2], [0, 0, 1], [.4, .4, .1]])
SB2 = f64([[.3, .2, .1], [.1, .2, .3], [.5, 0, .5], [0, 1, 0]])
TOY = views(l=view(A.X, XB), w=view(A.W, WB), s1=view(A.S1, SB1), s2=view(A.S2, SB2))
FRESH = dict(q=[1 / 3] * 3, q_b=[1 / 3] * 3, confidence=.1, agreement=.1)
LATER = dict(q=[.6, .3, .1], q_b=[.4, .35, .25], confidence=.8, agreement=.6)


def decon(state: dict = FRESH, steps: int = 250_000, **options):
    m = kit.method("decon", options, steps=steps)
    for name, value in state.items():
        getattr(m, name).copy_(f64(value))
    return m


def step(m, v=TOY, y=A.y):
    batch, t = SimpleNamespace(y=y), kit.time(0, m.info.steps)
    p = m.pseudo(v, batch, t)
    return p, kit.values(m.terms(v, batch, p, t))


# ---- a step ----------------------------------------------------------------------------------------------------------


def test_the_first_step_of_the_reference():
    m = decon()
    p, losses = step(m)
    close(m.q, [.333335, .333356, .333310])
    close(m.q_b, [.333486, .333252, .333262])
    close([m.confidence, m.agreement], [.173686, .163796])
    assert p.label.tolist() == p.label_b.tolist() == [0, 1, 2, 1] and p.mask.tolist() == [1, 0, 1, 0] and not p.changed
    close(p.weight_b * m.agreement / m.confidence, [.930575, .256511, .970725, .794022])
    close(p.weight_b, [.986765, .272000, 1.029340, .841967])
    for name, want in dict(x=2.063399, x_b=1.962702, u=.350357, u_b=.620972).items():
        close(losses[name], want)
    close(sum(losses.values()), 4.997429)
    assert p.branches["u"] is p.prob and p.branches["u_b"] is p.prob_b


def test_a_later_step_of_the_reference():
    m = decon(LATER, tau=2.0)
    p, losses = step(m)
    close(m.q, [.599735, .300056, .100210])
    close(m.q_b, [.400086, .349902, .250012])
    close(p.prob_b.amax(-1), [.578303, .741171, .998895, .662188])
    assert p.label_b.tolist() == [0, 2, 2, 1] and p.label.tolist() == [0, 1, 2, 1] and p.changed
    close(p.weight_b, [1.097194, .274553, 1.279516, .969397])
    for name, want in dict(x=1.635999, x_b=1.962702, u=.350357, u_b=.729703).items():
        close(losses[name], want)
    close(sum(losses.values()), 4.678761)


def test_the_test_time_adjustment_of_the_reference():
    m = decon(LATER, tau=2.0)
    step(m)
    close(m.predict(lambda x: view(A.W, WB), None)[[0, 2]],
          [[5.332152, 2.100205, 2.772491], [1.932152, 2.100205, 7.272491]])
    close(decon(LATER, tau_b=0.0).predict(lambda x: view(A.W, WB), None), WB, 0)


# ---- identities ------------------------------------------------------------------------------------------------------


def test_without_strengths_it_is_two_heads_of_fixmatch_one_of_them_softly_weighted():
    _, plain = step(kit.method("fixmatch"))
    same = views(**{name: view(TOY[name]["head"], TOY[name]["head"]) for name in ("l", "w", "s1", "s2")})
    p, losses = step(decon(LATER, tau=0.0, tau_2=0.0, tau_3=0.0, tau_4=0.0), same)
    close([losses["x"], losses["x_b"], losses["u"]], [plain["x"], plain["x"], plain["u"]], 1e-9)
    close(p.prob_b, p.prob, 1e-12)
    # at T = 1, without correction: p^2
    close(p.weight_b / p.weight_b[0], (p.prob.amax(-1) / p.prob[0].amax()) ** 2, 1e-9)
    rows = -torch.cat([A.S1, A.S2]).log_softmax(-1)[torch.arange(8), p.label.repeat(2)]
    close(losses["u_b"], (p.weight_b.repeat(2) * rows).mean(), 1e-9)


def test_offsets_cancel_where_the_balanced_head_predicts_the_labelled_prior():
    m = decon(dict(q_b=[.7, .2, .1]), momentum=1.0)
    close(step(m)[1]["x"], .896378)
    m = decon(dict(q_b=[.7, .2, .1]), tau_3=0.0)
    close(step(m)[1]["x"], .896378)


def test_the_pseudo_label_of_the_balanced_head_is_the_standard_head_s_and_the_mask_is_not_its():
    p, losses = step(decon(LATER, tau=2.0))
    other = views(l=TOY.l, w=view(A.W, -WB), s1=TOY.s1, s2=TOY.s2)
    q, again = step(decon(LATER, tau=2.0), other)
    assert torch.equal(q.prob_b, p.prob_b) and torch.equal(q.weight_b, p.weight_b)
    close(again["u_b"], losses["u_b"], 0)
    assert again["x"] != losses["x"], "q_b has moved before it is used"
    r, high = step(decon(LATER, tau=2.0, threshold=1.0))
    assert high["u"] == 0 and not r.mask.any()
    close(high["u_b"], losses["u_b"], 0)


def test_weights_are_as_large_as_confidences_once_the_averages_have_settled():
    m = decon(weight_t=2.0, steps=40)
    ratios = []
    for _ in range(250):
        p, _ = step(m)
        ratios.append(float(p.weight_b.mean() / p.prob_b.amax(-1).mean()))
    assert abs(ratios[0] - 1) > .2 and abs(ratios[-1] - 1) < 1e-6


# ---- state -----------------------------------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_forty_steps_of_the_averages_equal_a_plain_twin():
    m = kit.method("decon", {"tau": .8, "tau_4": .5, "weight_t": 1.5, "tau_3": 1.0, "momentum": .9}, steps=40)
    assert m.momentum == .9, "ten steps are never scaled"
    q, q_b, c, s, changed = np.full(3, 1 / 3), np.full(3, 1 / 3), .1, .1, 0
    for one in kit.drive(m, 40):
        z, z_b = one.v.w["head"].numpy(), one.v.w["balanced"].numpy()
        q, q_b = .9 * q + .1 * softmax(z).mean(0), .9 * q_b + .1 * softmax(z_b).mean(0)
        p_b = softmax(z - .8 * np.log(q))
        w = (softmax(z / 1.5) * softmax((z - .5 * np.log(q)) / 1.5)).max(-1)
        c, s = .9 * c + .1 * p_b.max(-1).mean(), .9 * s + .1 * w.mean()
        for name, want in dict(q=q, q_b=q_b, confidence=c, agreement=s).items():
            close(one.state[name], want, 1e-9)
        close(one.p.weight_b, w * c / s, 1e-9)
        assert one.p.label_b.tolist() == p_b.argmax(-1).tolist()
        assert one.p.changed == (p_b.argmax(-1) != z.argmax(-1)).any()
        changed += bool(one.p.changed)
        x = one.v.l["head"].numpy() + np.log([.7, .2, .1]) - np.log(q_b)
        close(one.losses["x"], -np.log(softmax(x)[np.arange(4), one.y]).mean(), 1e-9)
    assert 0 < changed < 40


@pytest.mark.parametrize("steps, momentum", [(250_000, .999), (25_000, .99), (600, .95)])
def test_the_momentum_keeps_its_share_of_the_run(steps, momentum):
    close(decon({}, steps=steps).momentum, momentum, 1e-12)


def test_it_resumes_with_all_four_averages(tmp_path):
    t = kit.check_resume(lambda: kit.trainer("decon", {"threshold": .3}), 10, [1, 5], tmp_path)
    m = t.method
    assert m.q.std() > 0 and m.q_b.std() > 0 and m.confidence != m.agreement
    assert set(m.state_dict()) == {"prior", *FRESH}
    x = t.data.normalise(t.test_x, t.dtype)
    with torch.no_grad():
        close(m.predict(t.average.net, x), t.average.net(x)["balanced"] - 2 * m.q_b.log(), 1e-6)


def test_a_class_that_the_counted_prior_misses_leaves_the_loss_finite():
    m = kit.method("decon", {"droplast_prior": True}, counts=(4, 1, 1), first_pass=torch.tensor([0, 0, 0, 1]))
    close(m.prior, [.75, .25, 0])
    assert all(torch.isfinite(x) for x in step(m)[1].values())             # y holds the class
    close(kit.method("decon", counts=(4, 1, 1)).prior, f64([4, 1, 1]) / 6, 1e-12)


# ---- combinations and recipes ----------------------------------------------------------------------------------------


def test_semi_s_modules_act_on_it_and_leave_the_balanced_term_alone():
    t = kit.trainer("decon", {"threshold": .5, "semi_warmup": 2, "plce_u": "max"}, add="oheml+plce+align")
    kit.losses_of(t, range(12))
    assert t.monitor.never_active(["u", "oheml", "plce", "align"]) == []
    terms, seen = t.method.terms, {}
    t.method.terms = lambda v, batch, p, time: seen.setdefault("out", (p, terms(v, batch, p, time)))[1]
    t.advance()
    p, out = seen["out"]
    assert torch.equal(out["u_b"].weight, p.weight_b.repeat(2)) and not torch.equal(out["u"].weight, p.mask.repeat(2))


def test_it_is_a_method_of_its_own():
    with pytest.raises(BadInput, match="base='remixmatch': none for decon"):
        Run.of("cifar10", "decon", base="remixmatch")


def test_values_follow_the_data_set_and_the_original_recipe_is_the_shared_one_with_the_release_s_counts():
    assert [Run.of(d, "decon").options["tau"] for d in ("cifar10", "cifar100", "mnistm5k")] == [1, 2, 1]
    run, shared = Run.of("cifar10", "decon", recipe="original"), Run.of("cifar10", "decon")
    different = {k for k, value in run.identity().items() if value != shared.identity()[k]}
    assert different == {"recipe", "options"} and run.options == {**shared.options, "droplast_prior": True}


def test_a_prior_that_never_changes_a_label_is_told():
    t = kit.trainer("decon", {"threshold": 0.3, "momentum": 1.0})
    kit.losses_of(t, range(6))
    assert "label_b" in t.monitor.never_active(t.method.must_act)
