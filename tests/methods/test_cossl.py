"""CoSSL against the values of methods-b 6.4, and what its two phases may and may not do."""
from __future__ import annotations

import itertools

import kit
import pytest
import torch
from kit import close, f64

from semilib.methods.cossl import fill_up, imprint, passes
from semilib.methods.losses import ce, reduce
from semilib.networks.net import linear
from semilib.training.config import Run
from semilib.training.engine import Trainer

COUNTS, START = (100, 30, 10), 3


def made(base: str = "", options: dict | None = None, **changes) -> Trainer:
    sure = {} if base == "remixmatch" else {"threshold": .3}
    return kit.trainer("cossl", {**sure, "represent": START, "fit": 20, **(options or {})}, base=base,
                       **{"steps": 8, **changes})


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_enhanced_features_and_the_teacher_s_loss():
    m = kit.method("cossl", counts=COUNTS)
    close(m.chance, [0, .7, .9])
    xs, us, y = f64([[1, 2], [3, 0], [0, 4]]), f64([[0, 0], [2, 2], [4, 0]]), torch.tensor([0, 1, 2])
    f, use = m.enhance(xs, us, y, f64([.5, .5, .95]), f64([.7, .8, .6]))
    assert use.tolist() == [False, True, False]
    close(f, [[1, 2], [2.8, .4], [0, 4]])
    z = f @ f64([[.5, 0], [0, .5], [-.5, .5]]).T + f64([.1, 0, -.1])
    close(z, [[.6, 1, .4], [1.5, .2, -1.3], [.1, 2, 1.9]])
    close(ce(z, y).mean(), 1.201597)


def test_the_imprint():
    f = f64([[3, 4], [0, 2], [1, 0], [0, 5]])
    close(imprint(f, torch.tensor([0, 1, 0, 1]), 2), [[.707107, .707107], [0, 1]])


def test_every_class_is_filled_up_with_what_looks_most_like_it():
    y = torch.tensor([0] * 6 + [1] * 3 + [2])
    prob = torch.rand(25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second, share, label = fill_up(prob, y, 3, seed=0)
    assert label.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    for k, own in ((0, range(6)), (1, range(6, 9)), (2, [9])):
        f, s, part = (x[label == k].tolist() for x in (first, second, share))
        n = len(own)
        assert f[:n] == list(own) and part[:n] == [1.0] * n, "its own images as they are"
        assert set(f[n:]) <= set(own) and all(0 <= x <= 1 for x in part[n:])
        others = sorted((i for i in range(25) if i not in own), key=lambda i: -prob[i, k])
        assert s[n:] == others[:6 - n]
    again = fill_up(prob, y, 3, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again, (first, second, share, label)))
    assert not torch.equal(fill_up(prob, y, 3, seed=1)[2], share)


def test_more_to_fill_up_than_there_are_others():
    y = torch.tensor([0] * 9 + [1])
    first, second, share, label = fill_up(torch.rand(10, 2).double(), y, 2, seed=0)
    assert len(label) == 18 and second.max() < 10 and share.shape == (18,)


def test_the_shares_of_the_filled_up_features_are_beta():
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)), a = 0.75."""
    y = torch.tensor([0] * 4000 + [1])
    share = fill_up(torch.rand(4100, 2), y, 2, seed=0)[2][-3999:].double()
    close(share.mean(), .5, .02)
    close(share.var(), .1, .005)


def test_the_fit_learns_all_classes_alike_and_its_average_follows():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat_interleave(torch.tensor([50, 5, 2]))
    kept = torch.eye(4).double()[y] * 4 + .5 * torch.randn(57, 4, generator=g, dtype=torch.float64)
    first, second, share, label = fill_up(kept[:, :3].softmax(-1), y, 3, 0)
    assert label.bincount().tolist() == [50] * 3

    def fitted(decay: float):
        m = kit.method("cossl", {"fit": 400, "teacher_decay": decay}, counts=(50, 5, 2))
        head, average = (linear(4, 3).double() for _ in range(2))
        for x in (*head.parameters(), *average.parameters()):
            torch.nn.init.zeros_(x)
        m.fit_head(head, average, kept, first, second, share.double(), label)
        return head.requires_grad_(False), average.requires_grad_(False)
    head, average = fitted(5e-4)
    right = head(kept).argmax(-1) == y
    assert [bool(right[y == k].double().mean() > .8) for k in range(3)] == [True] * 3
    again, strong = fitted(5e-4)[0], fitted(.5)[0]
    assert torch.equal(head.weight, again.weight) and torch.equal(head.bias, again.bias)
    assert 0 < average.weight.norm() < head.weight.norm() and strong.weight.norm() < .7 * head.weight.norm()


def test_the_fit_s_batches_are_passes_without_replacement():
    one, two = (list(itertools.islice(passes(150, seed, torch.device("cpu")), 6)) for seed in (0, 1))
    assert [len(n) for n in one] == [64] * 6
    passed = [torch.cat(one[i:i + 2]) for i in (0, 2, 4)]
    assert all(len(n.unique()) == 128 for n in passed), "no row twice in a pass, whose last 22 are left out"
    assert not torch.equal(passed[0], passed[1]) and not torch.equal(one[0], two[0])
    assert sorted(next(passes(5, 0, torch.device("cpu"))).tolist()) == [0, 1, 2, 3, 4], "fewer rows than a batch has"


def test_a_short_run_fits_long_enough():
    assert kit.method("cossl", steps=250_000, counts=COUNTS).fit == 5000
    assert kit.method("cossl", steps=400, counts=COUNTS).fit == 2000
    assert kit.method("cossl", {"fit": 7}, steps=400, counts=COUNTS).fit == 7


# ---- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_phase_one_is_the_base(base):
    options = {"threshold": .3} if base == "fixmatch" else {}
    plain = kit.losses_of(kit.trainer(base, options, steps=8, precision="fp64"), range(START))
    t = made(base, precision="fp64")
    start = {k: v.clone() for k, v in t.net.heads["teacher"].state_dict().items()}
    assert kit.losses_of(t, range(START)) == plain
    kit.same_state(t.net.heads["teacher"].state_dict(), start)
    x = t.data.normalise(t.test_x, t.dtype)
    assert torch.equal(t.method.predict(t.average.net, x), t.average.net(x)["head"])
    kit.losses_of(t, range(START, START + 1))
    assert torch.equal(t.method.predict(t.average.net, x), t.average.net(x)["teacher"])
    assert not torch.equal(t.average.net.heads["teacher"].weight, t.net.heads["teacher"].weight)


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_a_run_resumes_in_and_between_its_phases(base, tmp_path):
    t = kit.check_resume(lambda: made(base), 8, [2, START, 5], tmp_path)
    assert t.monitor.never_active(t.method.must_act) == [] and set(t.method.must_act) == {"u", "taught", "enhanced"}


@pytest.mark.parametrize("base, average", [("fixmatch", False), ("fixmatch", True), ("remixmatch", False)])
def test_the_teacher_head_on_features_of_the_average_makes_the_pseudo_labels(base, average):
    t = made(base, {"ema_teacher": average, **({"align": False, "temperature": 1.0} if base == "remixmatch" else {})},
             precision="fp64")
    kit.losses_of(t, range(START + 1))
    t.data.prepare(START + 1)
    _, raw = t.data.batch(kit.time(START + 1))
    with torch.no_grad():
        f = t.average.net(t.data.normalise(raw["w"], t.dtype)).f
        want = (t.average.net if average else t.net).heads["teacher"](f).softmax(-1)
    seen, pseudo = [], t.method.pseudo
    t.method.pseudo = lambda *a: seen.append(pseudo(*a)) or seen[0]
    t.advance()
    close(seen[0].prob, want, 1e-12)
    assert torch.equal(seen[0].label, want.argmax(-1))


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_the_teacher_s_loss_reaches_its_head_alone_and_the_student_s_loss_never_does(base):
    t = made(base)
    kit.losses_of(t, range(START + 1))
    terms, seen = t.method.terms, {}

    def watched(v, batch, p, time):
        out = terms(v, batch, p, time)
        named = dict(t.net.named_parameters())
        for name, loss in (("t", reduce(out["t"])), ("base", sum(reduce(x) for k, x in out.items() if k != "t"))):
            grads = torch.autograd.grad(loss, named.values(), allow_unused=True, retain_graph=True)
            seen[name] = {k for k, g in zip(named, grads) if g is not None and g.any()}
        return out
    t.method.terms = watched
    t.advance()
    assert seen["t"] == {"heads.teacher.weight", "heads.teacher.bias"}
    assert "heads.head.weight" in seen["base"] and not seen["base"] & seen["t"]
    sizes = [sum(len(g["params"]) for g in o.param_groups) for o in t.optimisers]
    assert sizes == [len(list(t.net.parameters())) - 2, 2]


def test_the_teacher_has_an_adam_of_its_own_whose_rate_does_not_follow_the_run_s():
    t = made()
    kit.losses_of(t, range(START))
    assert not t.optimisers[1].state
    kit.losses_of(t, range(START, START + 1))
    assert set(t.optimisers[1].state) == set(t.net.heads["teacher"].parameters())
    assert all("exp_avg" in state for state in t.optimisers[1].state.values())
    assert {group["lr"] for group in t.optimisers[1].param_groups} == {0.002}


def test_the_average_s_decay_leaves_the_teacher_s_head_alone():
    t = made(ema_rule="decaying", optimiser="adam", lr=0.02, weight_decay=5.0)
    before = {k: v.clone() for k, v in t.net.state_dict().items()}
    kit.losses_of(t, range(START))
    after = t.net.state_dict()
    assert all(torch.equal(after[f"heads.teacher.{k}"], before[f"heads.teacher.{k}"]) for k in ("weight", "bias"))
    assert after["heads.head.weight"].norm() < 0.8 * before["heads.head.weight"].norm()


def test_on_remixmatch_the_ramp_is_over_in_phase_two():
    t = made("remixmatch")
    ramps = {step: float(t.method.ramp(kit.time(step, 8, "represent" if step < START else "cotrain")))
             for step in range(8)}
    assert ramps == {0: 0, 1: 1 / 8, 2: 2 / 8, **dict.fromkeys(range(START, 8), 1)}
    kit.losses_of(t, range(START))
    terms, seen = t.method.terms, {}
    t.method.terms = lambda *a: seen.update(terms(*a)) or seen
    t.advance()
    assert (float(seen["u"].scale), float(seen["s1"].scale)) == (1.5, 0.5)


def test_phase_two_draws_the_classes_evenly_and_partners_from_all_images():
    t = made()
    t._open_phase(1)
    drawn, partners = torch.zeros(4), set()
    for step in range(60):
        t.data.prepare(step)
        batch, views = t.data.batch(kit.time(step))
        index = batch.index["balanced"]
        assert torch.equal(batch.targets["balanced"], t.data.y[index])
        drawn += torch.bincount(batch.targets["balanced"], minlength=4)
        partners |= set(t.data.streams["partners"].members[batch.index["partners"]].tolist())
    assert (drawn / drawn.sum() - 0.25).abs().max() < 0.1                # the labelled classes are 14, 9, 6 and 4
    assert partners == set(t.data.labelled.tolist()) | set(t.data.unlabelled.tolist())
    raw = t.data.images[t.data.labelled[index]]
    assert torch.equal(views["b"], t.data.view(raw, "strong", "b", step))
    assert t.method.step_images().strong == ["s1", "s2"]


def test_the_student_sees_neither_balanced_images_nor_partners_and_the_average_no_batch_statistics():
    t = made()
    kit.losses_of(t, range(START + 1))
    passes = []
    for name, net in (("student", t.net), ("average", t.average.net)):
        net.compute = lambda x, c=net.compute, n=name, m=net: passes.append((n, len(x), m.training)) or c(x)
    t.advance()
    assert sorted(passes) == [("average", 24, False), ("student", 32, True)]


def test_its_own_recipe_shows_the_student_no_weak_view_in_phase_two():
    t = made(policy="weak_first")
    kit.losses_of(t, range(START + 1))
    passes, compute = [], t.net.compute
    t.net.compute = lambda x: passes.append(len(x)) or compute(x)
    t.advance()
    assert passes == [24]
    run = Run.of("cifar10", "cossl", recipe="original")
    assert (run.steps, run.optimiser, run.ema_rule, run.policy,
            run.bn_momentum) == (250_500, "adam", "decaying", "weak_first", .1)
    m = kit.method("cossl", steps=run.steps, counts=COUNTS)
    assert m.represent == 401 * 500 and kit.method("cossl", steps=250_000, counts=COUNTS).represent == 200_100
    assert Run.of("cifar10", "cossl", base="remixmatch", recipe="original").options["ramp"] == 500 / 501


def test_the_fit_begins_from_the_average_and_changes_nothing_but_the_teacher():
    t = made("remixmatch", precision="fp64")
    kit.losses_of(t, range(START))
    before = {k: v.clone() for k, v in t.state_dict().items()}
    t.method.enter(t._open_phase(1), t.context(START))
    after = t.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    heads = {f"{net}/heads.teacher.{name}" for net in ("net", "average") for name in ("weight", "bias")}
    assert changed == heads | {"method/mean", "time/stage"}
    v, y, members = t.scan("labelled", "none", t.average.net)
    assert torch.equal(members, t.data.labelled) and torch.equal(y, t.data.y)
    start = linear(t.method.info.features, 4).double()
    start.load_state_dict({k: before[f"net/heads.teacher.{k}"] for k in ("weight", "bias")})
    weight = 1 / y.bincount()[y].double()
    loss = [float((ce(head(v.f).detach(), y) * weight).sum() / 4) for head in (start, t.net.heads["teacher"])]
    assert loss[1] < loss[0]


def test_a_step_of_phase_two_never_waits_for_the_device():
    t = made()
    kit.losses_of(t, range(START + 1))
    t.data.prepare(START + 1)
    with kit.Captured():
        t.compute_step()


def test_equal_classes_are_not_asked_for_enhanced_features():
    assert "enhanced" not in kit.method("cossl", counts=(5, 5, 5)).must_act
    assert set(kit.method("cossl", counts=COUNTS).must_act) == {"u", "taught", "enhanced"}


def test_semi_s_modules_act_in_both_phases():
    t = made(add="oheml+plce+align", options={"semi_warmup": 0, "plce_epoch": 1})
    losses = kit.losses_of(t, range(START + 2))
    assert [set(x) for x in losses] == [{"x", "u", "e"}] * START + [{"x", "u", "t", "e"}] * 2
