"""ABC against the values of methods-b 6.3 and against its bases."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import pytest
import torch
from kit import B, close, f64

from semilib.methods import get
from semilib.training.config import Run

WA = f64([[4, 0, 0], [0, 1, 0], [0, 0, 5], [0, 3.9, 0]])
XA = f64([[.5, .2, .1], [.1, .3, .9]])
SB = f64([[.8, .1, 0], [.1, .4, .2], [0, 0, 2], [0, .6, .4]])
COUNTS = (100, 30, 10)


def at(epoch: int):
    """The start of an epoch of 500, of 500 epochs."""
    return kit.time(500 * epoch, 250_000)


def views(strong: int = 2):
    return kit.views(l=kit.view(B.X, XA), w=kit.view(B.W, WA),
                     **{name: kit.view(B.S, x) for name, x in (("s1", B.Sa), ("s2", SB))[:strong]})


def losses(m, keep_x, keep_u, strong: int = 2):
    """The terms with these coins."""
    v, batch = views(strong), SimpleNamespace(y=B.y)
    p = m.pseudo(v, batch, at(250))
    p.keep_x, p.keep_u = f64(keep_x), f64(keep_u)
    return p, kit.values(m.terms(v, batch, p, at(250)))


def test_the_rates_of_labelled_and_unlabelled_images():
    m = kit.method("abc", counts=COUNTS, steps=250_000)
    close(m.rates, [.1, 1 / 3, 1])
    for epoch, want in ((0, [1, 1, 1]), (250, [.55, .666667, 1]), (499, [.1018, .334667, 1])):
        close(m.unlabelled_rates(at(epoch)), want)
    close(kit.method("abc", counts=(10, 100, 30)).rates, [1, .1, 1 / 3])               # not always the last class


def test_the_reference_s_values():
    m = kit.method("abc", counts=COUNTS, steps=250_000)
    p, out = losses(m, [1, 1], [1, 1, 1, 0])
    close(p.target_b.max(-1).values, [.964663, .576117, .986703, .961091])
    assert p.label_b.tolist() == [0, 1, 2, 1] and p.mask_b.tolist() == [1, 0, 1, 1]
    assert p.label.tolist() == [0, 1, 2, 0] and p.mask.tolist() == [0, 0, 1, 0], "each head labels for itself"
    close(out["x_b"], .786158)
    close(out["u_b"], .289 + .239593)
    close(out["x_b"] + out["u_b"], 1.314751)
    assert torch.equal(p.branches["u"], p.prob) and torch.equal(p.branches["u_b"], p.target_b)
    close(losses(m, [.1, 1], [.55, 2 / 3, 1, 2 / 3])[1]["x_b"], .390113)                 # expectations
    one = kit.method("abc", {"strong_views": 1}, counts=COUNTS, steps=250_000)
    close(losses(one, [1, 1], [.55, 2 / 3, 1, 2 / 3], 1)[1]["u_b"], .334045)


def test_usb_s_form_is_an_option():
    m = kit.method("abc", {"strong_views": 1, "soft_target": False}, counts=COUNTS, steps=250_000)
    _, out = losses(m, [1, 1], [1, 1, 1, 0], 1)
    close(out["x_b"] + out["u_b"], 1.063551)


def test_a_coin_falls_as_often_as_its_rate_says_and_anew_each_step():
    m = kit.method("abc", counts=COUNTS)
    rate = f64([.1, 1 / 3, 1, 0]).repeat(5000)
    drawn = [m.toss("unlabelled", rate, kit.time(step)) for step in (0, 1)]
    for coins in drawn:
        close(coins.view(5000, 4).mean(0), [.1, 1 / 3, 1, 0], .03)                         # 4.5 standard deviations
    assert set(drawn[0].tolist()) == {0, 1} and not torch.equal(*drawn)
    assert not torch.equal(drawn[0], m.toss("labelled", rate, kit.time(0)))


def test_each_row_is_thinned_by_its_own_class_with_one_coin_for_all_its_views():
    m = kit.method("abc", {"threshold": 0.0}, counts=COUNTS, batch=64)
    kept, seen = torch.zeros(2, 3), torch.zeros(2, 3)
    for step in range(10, 40):
        v, batch = kit.drawn(step, rows=64)
        p = m.pseudo(v, batch, kit.time(20, 40))
        p.keep_x, p.keep_u = (m.toss(name, r, kit.time(step)) for name, r in (
            ("labelled", m.rates[batch.y]), ("unlabelled", m.unlabelled_rates(kit.time(20, 40))[p.label_b])))
        terms = m.terms(v, batch, p, kit.time(20, 40))
        weight = terms["u_b"].weight
        assert torch.equal(*weight.chunk(2)) and torch.equal(terms["x_b"].weight, p.keep_x)
        for i, (label, coin) in enumerate(((batch.y, p.keep_x), (p.label_b, weight[:64]))):
            for k in range(3):
                kept[i, k] += coin[label == k].sum()
                seen[i, k] += (label == k).sum()
    close(kept / seen, [[.1, 1 / 3, 1], [.55, 2 / 3, 1]], .08)


def test_the_step_itself_draws_by_the_class_of_the_row():
    """Rates of 0 and 1 leave nothing to chance."""
    m = kit.method("abc", {"threshold": 0.0}, counts=COUNTS)
    m.rates.copy_(f64([0, 1, 0]))
    v, batch = kit.drawn(3, rows=64)
    p = m.pseudo(v, batch, kit.time(40, 40))
    assert torch.equal(p.keep_x, (batch.y == 1).double()) and torch.equal(p.keep_u, (p.label_b == 1).double())
    assert m.pseudo(v, batch, kit.time(0, 40)).keep_u.all()


@pytest.mark.parametrize("base, policy", [("fixmatch", "joint"), ("remixmatch", "separate")])
def test_without_weight_on_the_second_head_it_is_its_base(base, policy):
    """On ReMixMatch with a pass a view: more views in a joint batch would change its statistics."""
    options = {"threshold": 0.3} if base == "fixmatch" else {}
    changes = dict(policy=policy, precision="fp64")
    plain = kit.losses_of(kit.trainer(base, options, **changes), range(4))
    found = kit.losses_of(kit.trainer("abc", {**options, "lambda_b": 0.0}, base=base, **changes), range(4))
    full = kit.losses_of(kit.trainer("abc", {**options, "lambda_b": 1.0}, base=base, **changes), range(4))
    assert [{k: x for k, x in step.items() if not k.endswith("_b")} for step in found] == plain
    assert all(full[0][k] == plain[0][k] for k in plain[0]), "the base's terms do not see the second head"
    assert full[3]["x"] != plain[3]["x"], "the second head trains the backbone"


def test_on_remixmatch_the_second_head_sees_the_unmixed_views():
    t = kit.trainer("abc", {"threshold": 0.0}, base="remixmatch", policy="separate")
    passes, terms = [], []
    compute, reduce = t.net.compute, t.method.terms
    t.net.compute = lambda x: passes.append(x.detach().clone()) or compute(x)
    t.method.terms = lambda v, batch, p, time: terms.append((v, p, reduce(v, batch, p, time))) or terms[0][2]
    t.data.prepare(0)
    _, raw = t.data.batch(kit.time(0))
    t.advance()
    for name, image in raw.items():
        plain = t.data.normalise(image, t.dtype)
        assert any(torch.equal(x, plain) for x in passes), f"{name} was not seen as it is"
    v, p, out = terms[0]
    assert v.strong == ["s1", "s2"] and len(out["u_b"].rows) == 16 and len(out["x_b"].rows) == 8
    close(out["u_b"].rows,
          -(p.target_b.repeat(2, 1) * torch.cat([v.s1["balanced"], v.s2["balanced"]]).log_softmax(-1)).sum(-1), 1e-5)


@pytest.mark.parametrize("base", get("abc").bases)
def test_the_balanced_head_predicts_and_a_run_resumes(base, tmp_path):
    t = kit.check_resume(lambda: kit.trainer("abc", {"threshold": 0.3}, base=base), 6, [1, 4], tmp_path)
    x = t.data.normalise(t.test_x, t.dtype)
    with torch.no_grad():
        assert torch.equal(t.method.predict(t.average.net, x), t.average.net(x)["balanced"])


def test_semi_s_modules_act_on_the_base_s_head():
    def made(**changes):
        return kit.trainer("abc", {"threshold": 0.3, **changes.pop("options", {})}, precision="fp64", **changes)
    plain = kit.losses_of(made(), range(3))
    on = kit.losses_of(made(add="oheml+plce+align", options={"semi_warmup": 0, "plce_epoch": 1}), range(3))
    assert set(on[0]) == {*plain[0], "e"}
    assert on[0]["u"] != plain[0]["u"] and all(on[0][k] == plain[0][k] for k in ("x", "x_b", "u_b"))


def test_its_own_recipe():
    run = Run.of("cifar10", "abc", recipe="original")
    assert (run.optimiser, run.lr, run.rate, run.ema_rule,
            run.weight_decay) == ("adam", .002, "constant", "decaying", .02)
    assert (run.steps, run.policy, run.labelled_in_unlabelled) == (250_000, "separate", False)
    assert Run.of("cifar10", "abc", base="remixmatch", recipe="original").options["labelled_view"] == "strong"
