"""SC-SSL: thresholds by class and head, how they move, which pool is recognised, and what is left without the heads."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import pytest
import torch
from kit import close, f64, views

from semilib.data.step import Batch, Notes
from semilib.errors import BadInput
from semilib.methods.scssl import anchors, divergence, nearest
from semilib.networks.net import View
from semilib.training.config import Run

XE, WE = f64([[.2, .6, .4], [.5, 0, .1]]), f64([[3, .2, 0], [.5, 3, 1], [0, 0, 3.5], [1, 0, 2]])
SE = f64([[.8, 0, .3], [.1, .9, 0], [.2, 0, 1.1], [0, .3, .7]])


def three(head, output, expansive):
    return View({"head": head, "output": output, "expansive": expansive}, torch.zeros(len(head), 4).double())


TOY = views(l=three(kit.A.X, kit.XB, XE), w=three(kit.A.W, kit.WB, WE), s1=three(kit.A.S1, kit.SB1, SE))


def made(c: int, gamma_u: float = 100., classes=(7, 2, 1), **options):
    return kit.method("scssl", {"strong_views": 1, "expansion": c, "gamma_u": gamma_u, **options}, classes)


def step(m):
    batch, t = Batch(y=kit.A.y, notes=Notes()), kit.time(0)
    p = m.pseudo(TOY, batch, t)
    return p, kit.values(m.terms(TOY, batch, p, t))


# ---- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c, mask_e, u_e, total", [(6, [0, 1, 1, 1], .486308, 9.394219),
                                                   (4, [0, 1, 1, 0], .292983, 9.007569)])
def test_the_toy_tensors(c, mask_e, u_e, total):
    p, losses = step(made(c))
    close([losses[name] for name in ("x", "x_b", "x_e", "u")], [.896378, 1.962702, 4.099174, .311788])
    assert p.mask.tolist() == [1, 0, 1, 0] and p.mask_b.tolist() == [0, 1, 1, 1] and p.mask_e.tolist() == mask_e
    assert p.label_b.tolist() == [0, 1, 2, 0] and p.label_e.tolist() == [0, 1, 2, 2]
    close([losses["u_b"] / 2, losses["u_e"] / 2, sum(losses.values())], [.575780, u_e, total])


@pytest.mark.parametrize("classes, c, gamma_u, rho_b, rho_e", [
    (10, 4, 100, .95, .75), (10, 6, 100, .75, .35), (10, 5, 1, .948, .93), (100, 4, 10, .95, .85),
    (100, 6, 10, .91, .65), (100, 4, 15, .95, .80), (100, 6, 15, .89, .50), (100, 6, 20, .87, .35)])
def test_the_first_thresholds_of_the_published_cells(classes, c, gamma_u, rho_b, rho_e):
    rho = made(c, gamma_u, tuple(range(classes + 1, 1, -1))).rho
    close(rho, [[.95] * (classes // 2) + [rare] * (classes // 2) for rare in (rho_b, rho_e)], 1e-12)


def test_a_large_bias_lowers_both_thresholds_of_its_class_down_to_the_floor():
    for c, steps, floor, want in ((6, 3, 0., [[.95, .735, .75], [.95, .335, .35]]),
                                  (6, 3, .35, [[.95, .735, .75], [.95, .35, .35]]),
                                  (4, 3, .35, [[.95, .935, .95], [.95, .735, .75]]),
                                  (4, 300, .35, [[.95, .35, .95], [.95, .35, .75]])):
        m = made(c, floor=floor)
        for _ in range(steps):
            m.follow(f64([.2, 1.3, .9]) > m.cfg.nu)
        close(m.rho, want, 1e-9)


def test_head_classes_are_those_with_the_most_labels_wherever_they_stand():
    m = made(6, classes=(1, 9, 3))
    close(m.rho[1], [.35, .95, .35], 1e-12)


def test_the_pool_s_shape_is_the_anchor_from_which_it_diverges_least():
    counts = f64([2500, 1500, 900, 600, 400, 300, 200, 150, 100, 90])
    shapes = anchors(10, 100.)
    close([divergence(counts, shapes[name]) for name in ("consistent", "uniform", "inverse", "gaussian")],
          [.022798, .500826, 2.796832, 1.777798])
    for name, shape in shapes.items():
        assert nearest((1000 * shape).round(), shapes)[0] == name
    close(shapes["gaussian"].max() / shapes["gaussian"].min(), 36.598234)
    assert nearest(f64([5, 0, 0, 0, 0, 0, 0, 0, 0, 0]), shapes)[0] == "consistent"


def test_what_the_output_head_says_of_the_pool_without_its_bias_sets_the_thresholds():
    m = kit.method("scssl", counts=(1, 9, 3))
    assert [(phase.name, phase.start) for phase in m.phases()] == [("estimate", 0), ("main", 1)]
    close(m.rho, [[.95] * 3] * 2, 0)
    bias = f64([50., 0, 0])
    label = torch.tensor([0] * 9 + [2] * 3 + [1])                        # the reverse of the labelled set
    said = {"output": torch.nn.functional.one_hot(label, 3).double() + bias}
    m.enter(m.phases()[1], SimpleNamespace(scan=lambda stream: (said, None, None),
                                           ema=SimpleNamespace(heads={"output": SimpleNamespace(bias=bias)})))
    close(m.rho, [[.95 - .2 * 9 / 50, .95, .95 - .2 * 9 / 50], [.95 - .6 * 9 / 20, .95, .95 - .6 * 9 / 20]], 1e-12)


# ---- identities ------------------------------------------------------------------------------------------------------


def test_three_equal_heads_without_adjustment_are_three_times_fixmatch():
    same = {name: three(v["head"], v["head"], v["head"]) for name, v in TOY.items() if name != "s"}
    m = made(4, 0., tau_b=0., tau_e=0., alpha=0.)
    m.rho.fill_(.95)
    batch, t = Batch(y=kit.A.y), kit.time(0)
    p = m.pseudo(views(**same), batch, t)
    losses = kit.values(m.terms(views(**same), batch, p, t))
    assert losses["x"] == losses["x_b"] == losses["x_e"] and losses["u_b"] == losses["u_e"] == 2 * losses["u"]


def test_without_the_two_heads_losses_it_is_fixmatch_to_the_last_bit(monkeypatch):
    t = kit.trainer("scssl", {"threshold": .3, "floor": .1})
    terms = t.method.terms
    monkeypatch.setattr(t.method, "terms", lambda *given: {k: x for k, x in terms(*given).items() if k in ("x", "u")})
    want = kit.trainer("fixmatch", {"threshold": .3})
    assert kit.losses_of(t, range(6)) == kit.losses_of(want, range(6))
    have = t.net.state_dict()
    assert all(torch.equal(have[name], value) for name, value in want.net.state_dict().items())


def test_the_output_head_s_bias_changes_no_prediction():
    t = kit.trainer("scssl", {"threshold": .3, "floor": .1, "expansion": 5})
    kit.losses_of(t, range(2))
    before, net = t.predictions(), t.average.net
    x = t.data.normalise(t.source.test_images[:3], t.dtype)
    with torch.no_grad():
        f = net(x).f
        close(t.method.predict(net, x), f @ net.heads["output"].weight.T, 1e-5)
        net.heads["output"].bias.add_(torch.tensor([5., -3, 0, 1]))
    assert torch.equal(t.predictions(), before)


def test_the_live_head_s_bias_is_followed_once_the_estimation_is_over():
    t = kit.trainer("scssl", {"threshold": .5, "floor": .1, "estimation": 2, "alpha": .01, "nu": .5})
    with torch.no_grad():
        t.net.heads["output"].bias[2] = 50.
    kit.losses_of(t, range(2))
    close(t.method.rho, [[.5] * 4] * 2, 0)
    kit.losses_of(t, range(2, 3))
    first = t.method.rho.clone()
    kit.losses_of(t, range(3, 4))
    close(first - t.method.rho, [[0, 0, .01, 0]] * 2, 1e-6)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(BadInput, match="floor=0.5: at most threshold=0.4"):
        kit.method("scssl", {"threshold": .4, "floor": .5})
    with pytest.raises(BadInput, match="gamma_u=9.0: 0 without expansion"):
        kit.method("scssl", {"gamma_u": 9})
    with pytest.raises(BadInput, match="expansion=3: unknown"):
        Run.of("cifar10", "scssl", options={"expansion": 3})
