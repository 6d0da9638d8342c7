"""DASO: queue, similarity, blend and alignment on the reference's values;
the queue and the counts against plain twins."""
from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import A, close, f64, view, views

from semilib.data.step import Batch, Notes
from semilib.errors import BadInput
from semilib.methods import get
from semilib.networks.net import View
from semilib.options import span
from semilib.training.config import Run

ON = dict(pretraining=0)


def daso(features: int = 2, steps: int = 250_000, **options):
    return kit.method("daso", {"strong_views": 1, **options}, features=features, steps=steps)


def step_of_the_reference(**options):
    m = daso(queue=2, **{**ON, **options})
    m.enqueue(f64([[1, 0], [.8, .2], [0, 1]]), torch.tensor([0, 0, 1]))
    m.recent.copy_(torch.tensor([60, 30, 10]))
    v = views(l=view(A.X), w=View({"head": A.W}, f64([[.9, .1], [.1, .9], [.7, .7], [.2, 1]])),
              s1=View({"head": A.S1}, f64([[1, .3], [0, 1], [.5, .9], [.6, .6]])))
    batch, t = Batch(y=A.y), kit.time(100, 250_000)
    p = m.pseudo(v, batch, t)
    return m, batch, p, kit.values(m.terms(v, batch, p, t))


# ---- the reference's values ------------------------------------------------------------------------------------------


def test_the_queue_of_the_reference():
    m = daso(queue=2)
    for f, k in (([1, 0], 0), ([.8, .2], 0), ([0, 1], 1)):
        m.enqueue(f64([f]), torch.tensor([k]))
    close(m.prototypes(), [[.9, .1], [0, 1], [0, 0]])
    m.enqueue(f64([[.4, .6]]), torch.tensor([0]))
    close(m.prototypes(), [[.6, .4], [0, 1], [0, 0]])


def test_the_step_of_the_reference():
    m, batch, p, losses = step_of_the_reference()
    close(batch.notes.semantic, [[1, 0, 0], [0, 1, 0], [.813853, .186147, 0], [.000001, .999999, 0]], 1e-6)
    close(m.strength(), [1, .629961, .302853])
    close(p.prob.max(-1).values, [1, .817378, .686866, .959696])
    assert p.label.tolist() == [0, 1, 2, 1] and p.mask.tolist() == [1, 0, 0, 1]
    close([losses[name] for name in ("x", "u", "semantic")], [.896378, .203803, 1.621220])
    close(sum(losses.values()), 2.721401)
    assert p.branches["u"] is p.prob and p.target is p.label


def test_strength_by_t_dist():
    for t_dist, want in ((1.5, [1, .629961, .302853]), (0.3, [1, .099213, .002548]), (1.0, [1, .5, .166667])):
        close(step_of_the_reference(t_dist=t_dist)[0].strength(), want)
    close(step_of_the_reference(dist_aware=False)[0].strength(), [.5, .5, .5])
    close(daso().strength(), [0, 0, 0])          # nothing counted yet: no blend, and no division of 0 by 0


def test_a_blend_on_given_semantic_rows():
    """methods-b 6.9: rows of the toy W there, v at T_dist 1.5."""
    m = daso(**ON)
    m.recent.copy_(torch.tensor([60, 30, 10]))
    semantic = f64([[.2, .7, .1], [.1, .2, .7], [.1, .1, .8], [.1, .6, .3]])
    m.similarity = lambda f, prototypes: semantic.log()
    blend = m.pseudo_prob(kit.B.W.softmax(-1), views(w=view(kit.B.W)), Batch(), kit.time(9))
    close(blend, [[.2, .7, .1], [.104132, .429946, .465922], [.042555, .045271, .912174], [.1, .6, .3]])


def test_similarity_and_the_aligned_loss():
    """methods-b 6.9."""
    m = daso()
    prototypes = f64([[1, 0], [0, 1], [1, 1]])
    q = m.similarity(f64([[1, .2], [.1, 1]]), prototypes).softmax(-1)
    close(q, [[.951228, 0, .048772], [0, .988128, .011872]])
    batch = Batch(y=A.y, notes=Notes(semantic=q, prototypes=prototypes))
    v = views(l=view(A.X), s1=View({"head": A.S1[:2]}, f64([[1, .5], [.3, 1]])))
    p = SimpleNamespace(target=torch.tensor([0, 1]), mask=f64([1, 1]))
    close(kit.values(m.terms(v, batch, p, kit.time(9000, 250_000)))["semantic"], .767329)


# ---- state against plain twins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 3, 5, 40])
def test_the_queue_equals_one_that_is_filled_one_by_one(room):
    """Batches of 8 with up to 8 of one class: more than the queue holds, so some never show."""
    m, slow = daso(features=4, queue=room), [deque(maxlen=room) for _ in range(3)]
    crowded = 0
    for step in range(12):
        g = torch.Generator().manual_seed(step)
        y = torch.randint(0, 3, (8,), generator=g) if step % 3 else torch.full((8,), step % 2)
        f = torch.randn(8, 4, generator=g, dtype=torch.float64)
        with kit.Captured():
            m.enqueue(f, y)
        for row, k in zip(f, y.tolist(), strict=True):
            slow[k].append(row)
        for k in range(3):
            crowded += int((y == k).sum()) > room
            filled = m.queue[k, :min(room, int(m.pushed[k]))]
            want = torch.stack(list(slow[k])) if slow[k] else filled
            assert sorted(filled.tolist()) == sorted(want.tolist())
            close(m.prototypes()[k], want.mean(0) if len(want) else torch.zeros(4), 1e-12)
    assert crowded > 0 or room == 40


def test_the_counts_are_those_of_the_last_complete_period():
    m = kit.method("daso", {"period": 4, "pretraining": 6, "threshold": .5}, steps=40)
    now, recent = [0] * 3, [0] * 3
    for step, s in enumerate(kit.drive(m, 18)):
        for k in s.p.label.tolist():                     # sure or not, pretraining or not
            now[k] += 1
        if (step + 1) % 4 == 0:
            now, recent = [0] * 3, now
        assert s.state["recent"].tolist() == recent and s.state["counted"].tolist() == now
        assert (s.losses["semantic"] > 0) == (step >= 6)
        moved = not torch.equal(s.p.prob, s.v.w["head"].softmax(-1))
        assert moved == (step >= 6)
    assert len(set(recent)) > 1


def test_labelled_features_are_those_of_the_average_and_enter_before_they_are_used():
    t = kit.trainer("daso", {"threshold": .3, "queue": 6, **ON}, precision="fp64")
    kit.losses_of(t, range(3))
    seen, look = {}, t.method.before_forward

    def watched(net, images, batch, time, teacher):
        seen["f"] = teacher(images["l"]).f
        look(net, images, batch, time, teacher)
        seen["batch"], seen["after"] = batch, t.method.prototypes().clone()
        assert not teacher.training and net.training
    t.method.before_forward = watched
    buffers = {k: b.clone() for k, b in t.average.net.named_buffers()}
    with torch.no_grad():
        t.data.prepare(3)
        batch, raw = t.data.batch(kit.time(3))
        images = {k: t.data.normalise(x, t.dtype) for k, x in raw.items()}
        t.method.before_forward(t.net, images, batch, kit.time(3, 12), t.average.net)
    assert all(torch.equal(b, buffers[k]) for k, b in t.average.net.named_buffers())
    for row in seen["f"][-2:]:
        assert (t.method.queue == row).all(-1).any()


def test_released_statistics_move_with_labelled_batches_and_last_where_they_are_averaged():
    def statistics(**options):
        t = kit.trainer("daso", {"threshold": .3, **options}, ema_rule="warmup", bn_momentum=.1)
        kit.losses_of(t, range(4))
        return t.average.net.backbone.bn.running_mean
    assert not torch.equal(statistics(), statistics(released_statistics=True))


# ---- identities, options, pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_without_blend_and_alignment_daso_is_its_base_loss_for_loss(base):
    given = {"threshold": .3} if base == "fixmatch" else {}
    want = kit.losses_of(kit.trainer(base, given), range(6))
    off = {**given, "dist_aware": False, "fixed_blend": 0.0, "lambda_align": 0.0}
    assert kit.losses_of(kit.trainer("daso", off, base=base), range(6)) == want
    waiting = kit.losses_of(kit.trainer("daso", {**given, "pretraining": 4}, base=base), range(6))
    equal = [{k: x for k, x in step.items() if k != "semantic"} == other
             for step, other in zip(waiting, want, strict=True)]
    assert equal == [True] * 4 + [False] * 2 and [step["semantic"] > 0 for step in waiting] == [False] * 4 + [True] * 2


def test_on_remixmatch_the_target_is_blended_and_the_unmixed_strong_view_aligned():
    t = kit.trainer("daso", {**ON, "period": 1}, base="remixmatch")
    kit.losses_of(t, range(2))
    terms, adjust, seen = t.method.terms, t.method.pseudo_prob, {}

    def adjusted(prob, v, batch, time):
        seen["blend"] = adjust(prob, v, batch, time)
        return seen["blend"]

    def watched(v, batch, p, time):
        seen["p"], seen["v"], seen["out"] = p, v, terms(v, batch, p, time)
        return seen["out"]
    t.method.pseudo_prob, t.method.terms = adjusted, watched
    t.advance()
    assert seen["p"].target is seen["blend"] and t.monitor.never_active(t.method.must_act) == []
    close(seen["blend"].sum(-1).double(), torch.ones(8), 1e-5)
    assert seen["v"].strong == ["s1"] and len(seen["out"]["semantic"].rows) == 8
    with pytest.raises(BadInput, match="daso|ReMixMatch"):
        get("daso", "remixmatch", "oheml")


def test_semi_s_modules_act_on_daso(tmp_path):
    options = {"threshold": .5, "pretraining": 2, "period": 2, "semi_warmup": 2}
    t = kit.check_resume(lambda: kit.trainer("daso", options, add="oheml+plce+align"), 12, [3, 7], tmp_path)
    assert t.monitor.never_active(["u", "blend", "semantic", "oheml", "plce", "align"]) == []
    assert {"u", "blend", "semantic"} <= set(t.method.must_act)


def test_t_dist_follows_the_cell_and_the_original_recipe_is_the_release_s():
    def t_dist(dataset, **cell):
        return Run.of(dataset, "daso", **cell).options["t_dist"]
    assert t_dist("cifar10") == t_dist("mnistm5k") == 1.5 and t_dist("cifar100") == .3
    assert t_dist("cifar10", gamma_l=100., gamma_u=1.) == t_dist("cifar10", order="reversed") == .3
    own = Run.of("cifar10", "daso", recipe="original")
    assert (own.mu, own.variant, own.rate, own.decay, own.ema_rule,
            own.report) == (2, "V2", "constant", "all", "warmup", "median_last")
    assert own.options["strong_views"] == 1 and own.options["released_statistics"] and not own.labelled_in_unlabelled
    m = kit.method("daso", steps=250_000)
    assert m.durations() == {"pretraining": 5000, "period": 100} and m.cfg.pretraining == span(5000)
