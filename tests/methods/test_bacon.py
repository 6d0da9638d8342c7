"""BaCon against the values of methods-c 7.8, a plain twin of its memories and its contrastive term,
and ABC below it."""
from __future__ import annotations

import math
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import A, close, f64

from semilib.methods import get
from semilib.networks.net import View
from semilib.training.config import Run

SURE = {"threshold": 0.3, "sure": 0.3}


def circle(*degrees: float):
    angle = torch.deg2rad(f64(degrees))
    return torch.stack([angle.cos(), angle.sin()], 1)


def at(step: int):
    return kit.time(step, 300_000)


def reference_step(t, sure=(1, 1, 1, 1, 1, 0), **options):
    """The four classes of the reference, its unit vectors and its memory's counts."""
    m = kit.method("bacon", {"strong_views": 1, "width": 2, **options}, counts=(4, 3, 2, 1), steps=300_000)
    zeros, a = torch.zeros(4, 4, dtype=torch.float64), f64([[5, .1, 0, -1], [0, .2, 6, 1], [1, 0, .5, 4],
                                                            [.3, 4, .2, .1]])
    f = torch.zeros(4, 4, dtype=torch.float64)
    v = kit.views(l=View({"head": zeros[:2], "balanced": zeros[:2], "projection": circle(20, 110)}, f[:2]),
                  w=View({"head": zeros, "balanced": a, "projection": circle(0, 200, 260, 95)}, f),
                  s1=View({"head": zeros, "balanced": zeros}, f))
    batch = SimpleNamespace(y=torch.tensor([0, 1]), index_l=torch.arange(2), index_u=torch.arange(4))
    m.centres.copy_(circle(10, 100, 190, 280))
    p = m.pseudo(v, batch, t)
    p.sure, p.held = f64(sure), f64([8, 4, 2, 1])
    return m, p, m.terms(v, batch, p, t)


def test_the_reference_s_contrastive_term():
    m, p, terms = reference_step(at(150_001))
    assert [p.negative[:, c].nonzero().flatten().tolist() for c in range(4)] == [[1, 3], [0, 4], [0, 1], [0, 1, 2, 5]]
    close(m.temperatures(p.held, at(150_001)), [.099875, .099912, .099938, .099956])
    close(terms["con"].rows, [.000862, .011921, .000862, .001679, .000242, .010643])
    close(kit.values(terms)["con"], .003113315, 1e-9)
    m, p, terms = reference_step(at(300_000))
    close(m.temperatures(p.held, at(300_000)), [.1] * 4, 1e-12)
    close(kit.values(terms)["con"], .003140603, 1e-9)


def test_the_term_starts_in_the_middle_of_the_run():
    assert reference_step(at(149_999))[2]["con"].scale == 0 and reference_step(at(150_000))[2]["con"].scale == 1
    early = {"start": 1 / 3}
    assert reference_step(at(99_999), **early)[2]["con"].scale == 0
    assert reference_step(at(100_000), **early)[2]["con"].scale == 1
    m = kit.method("bacon", steps=24)
    assert m.durations() == {"start": 12}


def test_the_reference_s_balanced_terms():
    """methods-c 7.8: coins replaced by their probabilities, a quarter of the run."""
    m = kit.method("bacon", {"strong_views": 1}, counts=(7, 2, 1), steps=300_000)
    f = torch.zeros(4, 16, dtype=torch.float64)
    v = kit.views(**{name: View({"head": z, "balanced": z, "projection": f[:len(z)]}, f[:len(z)])
                     for name, z in (("l", A.X), ("w", A.W), ("s1", A.S1))})
    batch = SimpleNamespace(y=A.y, index_l=torch.arange(2), index_u=torch.arange(4))
    p = m.pseudo(v, batch, at(75_000))
    p.keep_x, p.keep_u = m.rates[A.y], m.unlabelled_rates(at(75_000))[p.label_b]
    close(p.keep_x, [.142857, 1])
    close(p.keep_u, [.785714, .875, 1, .875])
    out = kit.values(m.terms(v, batch, p, at(75_000)))
    close(out["x_b"], .792959)
    close(out["u_b"], .289952)
    close(out["x_b"] + out["u_b"], 1.082911)


@pytest.mark.parametrize("remember, want", [("logit", [0, 1, 2, 1]), ("prob", [0, -1, 2, -1])])
def test_what_enters_the_memory_of_classes(remember, want):
    """methods-c 7.6 a: released, the threshold meets logits and nearly every image passes."""
    m = kit.method("bacon", {"strong_views": 1, "remember": remember}, steps=300_000)
    f = torch.zeros(4, 16, dtype=torch.float64)
    v = kit.views(**{name: View({"head": z, "balanced": z}, f[:len(z)])
                     for name, z in (("l", A.X), ("w", A.W), ("s1", A.S1))})
    batch = SimpleNamespace(y=A.y, index_l=torch.tensor([9, 3]), index_u=torch.tensor([5, 0, 99, 7]))
    p = m.pseudo(v, batch, at(0))
    assert m.latest.rows[:10].tolist() == [-1, -1, -1, 2, -1, -1, -1, -1, -1, 0], "labelled images come first"
    assert m.latest.rows[10 + batch.index_u].tolist() == want
    assert (m.latest.rows >= 0).sum() == 2 + sum(k >= 0 for k in want)
    close(p.held, [sum(k == c for k in [*want, 0, 2]) for c in range(3)], 0)


@pytest.mark.parametrize("base, written_only", [("fixmatch", False), ("fixmatch", True), ("remixmatch", False)])
def test_memories_centres_and_loss_equal_a_plain_twin(base, written_only):
    options = {"sure": 0.8, "threshold": 0.4, "width": 3, "start": 2, "written_only": written_only}
    t = kit.trainer("bacon", options, base=base, precision="fp64", lr=0.3)
    m, seen, labelled = t.method, [], len(t.data.labelled)
    latest, kept, centres = {}, {}, [[1.0] * 3] * 4
    terms = m.terms
    m.terms = lambda v, batch, p, time: seen.append((v.detach(), batch)) or terms(v, batch, p, time)

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    contrasted = 0
    for step in range(12):
        loss = kit.losses_of(t, range(step, step + 1))[0]["con"]
        v, batch = seen[step]
        a = torch.cat([v.l["balanced"], v.w["balanced"]])
        f = torch.cat([v.l["projection"], v.w["projection"]]).tolist()
        y = batch.y.tolist() + v.w["balanced"].argmax(1).tolist()
        rows = batch.index_l.tolist() + (batch.index_u + labelled).tolist()
        sure = (a.softmax(1).max(1).values >= 0.8).tolist()
        best = [set(r.argsort(descending=True)[:3].tolist()) for r in v.w["balanced"]]
        out = [[y[i] != c if i < 8 else c not in best[i - 8] for c in range(4)] for i in range(16)]       # [row, class]
        for i, (row, label) in enumerate(zip(rows, y, strict=True)):
            if i < 8 or a[i].max() >= 0.4:
                latest[row] = label
        held = [list(latest.values()).count(c) for c in range(4)]
        mean = {}
        for c in range(4):
            pairs = [math.exp(cosine(f[i], f[j]) / .1) for i in range(16) if y[i] == c for j in range(16) if out[j][c]]
            if pairs:
                mean[c] = sum(pairs) / len(pairs)
        losses = []
        for i in range(16):
            if sure[i] and y[i] in mean:
                temperature = .1 - (1 - step / 12) ** 2 * .0005 * math.sqrt(held[y[i]] / max(held))
                e = math.exp(cosine(f[i], centres[y[i]]) / temperature)
                losses.append(-math.log(e / (e + 64 * mean[y[i]] + 1e-8)))
        close(loss, sum(losses) / max(1, len(losses)) * (step >= 2), 1e-9)
        contrasted += len(losses) * (step >= 2)
        kept.update({row: f[i] for i, row in enumerate(rows) if sure[i]})
        for c in range(4):
            members = [kept.get(row, [1.0] * 3) for row, label in latest.items() if label == c
                       and (row in kept or not written_only)]
            if members:
                centres[c] = [sum(column) / len(members) for column in zip(*members, strict=True)]
        close(m.centres, centres, 1e-9)
    images = labelled + len(t.data.unlabelled)
    assert m.latest.rows.tolist() == [latest.get(row, -1) for row in range(images)]
    close(m.kept.rows, [kept.get(row, [1.0] * 3) for row in range(images)], 1e-12)
    assert 0 < contrasted < 16 * 10 and len(kept) < len(latest) and (m.centres != 1).all(1).any()


def test_a_class_without_images_or_negatives_does_no_harm():
    m, p, terms = reference_step(at(200_000))
    p.negative[:, 0] = 0                                                                    # class 0 has no negatives
    v, batch = kit.drawn(0, classes=4)
    v = kit.views(**{k: View({**v[k], "projection": v[k].f[:, :2]}, v[k].f) for k in ("l", "w", "s1")})
    v["l"], batch.y, p.keep_x = View({k: x[:2] for k, x in v.l.items()}, v.l.f[:2]), batch.y[:2], p.keep_x[:2]
    con = m.terms(v, batch, p, at(200_000))["con"]
    assert con.weight.tolist() == [0, 1, 0, 1, 1, 0] and con.rows.isfinite().all()
    m.centres.fill_(7)
    m.latest.rows.fill_(-1)
    m.latest.rows[:3] = torch.tensor([1, 1, 3])
    m.kept.rows[0] = f64([3, 5])
    p.rows, p.sure = torch.arange(20, 26), torch.zeros(6, dtype=torch.float64)
    m.end_step(v, batch, p, at(200_000))
    close(m.centres, [[7, 7], [2, 3], [7, 7], [1, 1]], 1e-12)
    nothing = reference_step(at(200_000), sure=(0,) * 6)[2]["con"]
    assert kit.values({"con": nothing})["con"] == 0


def test_the_contrastive_term_reaches_labelled_and_weak_images_and_no_other_head():
    t = kit.trainer("bacon", {**SURE, "start": 1}, precision="fp64")
    kit.losses_of(t, range(2))
    t.data.prepare(2)
    now = kit.time(2, 12)
    batch, raw = t.data.batch(now)
    v = t.method.forward(t.net, {name: t.data.normalise(x, t.dtype) for name, x in raw.items()}, batch, now,
                         t.average.net)
    out = t.method.terms(v, batch, t.method.pseudo(v.detach(), batch, now), now)
    places = [v.l["projection"], v.w["projection"], v.s["projection"], v.l["balanced"], v.w["balanced"], v.w["head"]]
    gradients = torch.autograd.grad(kit.values(out)["con"], places, retain_graph=True, allow_unused=True)
    assert gradients[0].any(1).all() and gradients[1].any(1).all() and gradients[2:] == (None,) * 4
    others = sum(loss for name, loss in kit.values(out).items() if name != "con")
    gradients = torch.autograd.grad(others, places, retain_graph=True, allow_unused=True)
    untouched = [g is None for g in gradients]
    assert untouched == [True, True, True, False, True, True], "only this term trains on weak views"
    assert torch.autograd.grad(kit.values(out)["con"], t.net.backbone.stem.weight)[0].any()


@pytest.mark.parametrize("base, policy", [("fixmatch", "joint"), ("remixmatch", "separate")])
def test_without_its_term_it_is_abc_with_hard_targets(base, policy):
    changes = dict(base=base, policy=policy, precision="fp64")
    one = {"strong_views": 1} if base == "fixmatch" else {}
    abc = kit.losses_of(kit.trainer("abc", {"threshold": 0.3, "soft_target": False, **one}, **changes), range(4))
    without = kit.losses_of(kit.trainer("bacon", {**SURE, **one, "lambda_con": 0.0, "start": 1}, **changes), range(4))
    late = kit.losses_of(kit.trainer("bacon", {**SURE, **one, "start": 3}, **changes), range(5))
    assert all(step["con"] == 0 for step in without) and late[3]["con"] > 0
    if base == "fixmatch":
        plain = [{k: x for k, x in step.items() if k != "con"} for step in without]
        assert plain == abc and late[:3] == without[:3], "before the start, too"
        host = kit.trainer("abc", {"threshold": 0.3, "soft_target": False, **one}, **changes)
        assert late[4]["x"] != kit.losses_of(host, range(5))[4]["x"]
    else:                                                         # two strong views: their mean where ABC has their sum
        close(2 * without[0]["u_b"], abc[0]["u_b"], 1e-12)
        assert all(without[0][k] == abc[0][k] for k in abc[0] if k != "u_b")


def test_without_the_second_head_s_terms_and_its_own_it_is_fixmatch():
    changes = dict(precision="fp64")
    plain = kit.losses_of(kit.trainer("fixmatch", {"threshold": 0.3}, **changes), range(4))
    found = kit.losses_of(kit.trainer("bacon", {**SURE, "lambda_b": 0.0, "lambda_con": 0.0}, **changes), range(4))
    assert [{k: x for k, x in step.items() if k in ("x", "u")} for step in found] == plain


@pytest.mark.parametrize("base", get("bacon").bases)
def test_it_resumes_before_and_after_its_term_starts_and_the_balanced_head_predicts(base, tmp_path):
    t = kit.check_resume(lambda: kit.trainer("bacon", {**SURE, "start": 4}, base=base), 8, [2, 6], tmp_path)
    assert t.monitor.never_active(t.method.must_act) == []
    x = t.data.normalise(t.test_x, t.dtype)
    with torch.no_grad():
        assert torch.equal(t.method.predict(t.average.net, x), t.average.net(x)["balanced"])


@pytest.mark.parametrize("options, inert", [({"sure": 1.0}, ["con"]), ({"start": 11}, []), (
    {"sure": 0.3, "remember": "prob", "threshold": 0.3, "start": 1}, [])])
def test_a_term_that_never_acts_is_noticed(options, inert):
    t = kit.trainer("bacon", {**SURE, **options}, precision="fp64")
    kit.losses_of(t, range(12))
    assert t.monitor.never_active(t.method.must_act) == inert


def test_semi_s_modules_act_on_the_base_s_head():
    def made(**changes):
        return kit.trainer("bacon", {**SURE, **changes.pop("options", {})}, precision="fp64", **changes)
    plain = kit.losses_of(made(), range(3))
    on = kit.losses_of(made(add="oheml+plce+align", options={"semi_warmup": 0, "plce_epoch": 1}), range(3))
    assert set(on[0]) == {*plain[0], "e"}
    assert on[0]["u"] != plain[0]["u"] and all(on[0][k] == plain[0][k] for k in ("x", "x_b", "u_b", "con"))


def test_its_own_recipe():
    run = Run.of("cifar10", "bacon", recipe="original")
    assert (run.steps, run.eval_steps, run.mu, run.rate, run.variant) == (300_000, 1000, 2, "constant", "USB")
    assert run.options["strong_views"] == 1 and not run.options["soft_target"] and not run.labelled_in_unlabelled
    mixed = Run.of("cifar10", "bacon", base="remixmatch", recipe="original")
    assert (mixed.mu, mixed.policy) == (1, "frozen") and mixed.options["start"] * mixed.steps == pytest.approx(10_000)
