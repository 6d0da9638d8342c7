"""TRAS: its equations on toy tensors, a plain twin of both stages, the stages in training, resume."""
from __future__ import annotations

import math
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import B, close, drawn, f64, view, views

from semilib.methods.losses import reduce
from semilib.training.config import Run

COUNTS = (100, 30, 10)
XA = f64([[.5, .2, .1], [.1, .3, .9]])
WA = f64([[4, 0, 0], [0, 1, 0], [0, 0, 5], [0, 3.9, 0]])
LA = [-.336472, -1.540445, -2.639057]


def tras(phase: str = "balanced", **options):
    m = kit.method("tras", options, counts=COUNTS)
    m.phase = phase
    return m


def step(m, v, y):
    batch = SimpleNamespace(y=y)
    p = m.pseudo(v, batch, kit.time(0, phase=m.phase))
    return p, m.terms(v, batch, p, kit.time(0, phase=m.phase))


def softmax(z: list[float]) -> list[float]:
    e = [math.exp(x - max(z)) for x in z]
    return [x / sum(e) for x in e]


# ---- equations -------------------------------------------------------------------------------------------------------


def test_the_enhancement_is_larger_for_the_tail():
    m = tras()
    close(m.la, LA)
    close(m.enhancement, [2.139535, 2.465116, 3.395349])
    assert tras(a=0.0).enhancement.tolist() == [2, 2, 2]
    close(tras(tau=0.0, a=3.0, b=1.0).enhancement, [2, 2, 2])


def test_the_main_head_s_pseudo_labels_favour_the_tail():
    v = views(l=view(B.X, XA), w=view(B.W, WA), s1=view(B.S, B.Sa))
    for phase in ("warmup", "balanced"):
        p, terms = step(tras(phase, strong_views=1, threshold=.7), v, B.y)
        close(p.prob, [[.601024, .099744, .299232], [.03155, .777088, .191362], [.001815, .007388, .990797],
                       [.095856, .261601, .642543]])
        assert p.label.tolist() == [0, 1, 2, 2] and p.mask.tolist() == [0, 1, 1, 0]
        close(reduce(terms["x"]), .659754)
        close(reduce(terms["u"]), (.665732 + .385077) / 4)
        assert p.branches.keys() == ({"u"} if phase == "warmup" else {"u", "u_b"})


def test_the_balanced_head_learns_from_the_enhanced_logits_of_the_same_view():
    v = views(l=view(B.X, XA), w=view(B.W, WA), s1=view(B.S, B.Sa))
    p, terms = step(tras(strong_views=1), v, B.y)
    close(reduce(terms["x_b"]), 1.109878)
    assert p.label_b.tolist() == [0, 1, 2, 1] and p.mask_b.tolist() == [1, 0, 1, 1]
    close(p.target_b, [[.142199, .243519, .614282], [.039157, .257636, .703207], [.009197, .067547, .923256],
                       [.04842, .203139, .748441]])
    close(terms["u_b"].rows, [1.406399, 1.165559, .602522, 1.298379])
    close(reduce(terms["u_b"]), .826825)
    assert set(step(tras("warmup", strong_views=1), v, B.y)[1]) == {"x", "u"}


def test_both_stages_equal_a_plain_twin():
    m, log_pi = tras(threshold=0.6), [math.log(n / 140) for n in COUNTS]
    inverse = softmax([-x for x in log_pi])
    taught = 0
    for i in range(12):
        m.phase = "warmup" if i < 5 else "balanced"
        v, batch = drawn(i)
        p, terms = step(m, v, batch.y)
        rows = {"u": [], "u_b": []}
        for s in ("s1", "s2"):
            for j in range(4):
                weak, weak_b = v.w["head"][j].tolist(), v.w["balanced"][j].tolist()
                main = softmax([z - a for z, a in zip(weak, log_pi)])
                strong, strong_b = v[s]["head"][j].tolist(), v[s]["balanced"][j].tolist()
                k = main.index(max(main))
                rows["u"].append((max(main) >= .6) * -math.log(softmax(strong)[k]))
                second = softmax(weak_b)
                t = 2 * inverse[second.index(max(second))] + 2
                q = softmax([(z - t * a) / 2 for z, a in zip(strong, log_pi)])
                rows["u_b"].append((max(second) >= .6) * -sum(x * math.log(r) for x, r in zip(q, softmax(strong_b))))
        close(reduce(terms["u"]), sum(rows["u"]) / 8)
        if m.phase == "balanced":
            close(reduce(terms["u_b"]), sum(rows["u_b"]) / 8)
            taught += sum(rows["u_b"]) > 0
    assert taught > 4


def test_without_a_prior_the_warm_up_is_fixmatch():
    for i in range(4):
        v, batch = drawn(i)
        _, terms = step(tras("warmup", tau=0.0, threshold=.6), v, batch.y)
        _, plain = step(kit.method("fixmatch", {"threshold": .6}, counts=COUNTS), v, batch.y)
        assert terms.keys() == plain.keys()
        for name in plain:
            close(reduce(terms[name]), reduce(plain[name]), 1e-9)


def test_the_teacher_gives_no_gradient_and_the_student_s_reaches_its_views():
    v, batch = drawn(3)
    leaves = {(name, head): v[name][head].requires_grad_() for name in ("l", "w", "s1", "s2")
              for head in ("head", "balanced")}
    v = views(**{name: view(leaves[name, "head"], leaves[name, "balanced"]) for name in ("l", "w", "s1", "s2")})
    m = tras(threshold=0.4)
    with torch.no_grad():
        p = m.pseudo(v.detach(), batch, kit.time(0))
    terms = m.terms(v, batch, p, kit.time(0))
    (reduce(terms["x_b"]) + reduce(terms["u_b"])).backward()
    reached = {key for key, x in leaves.items() if x.grad is not None and x.grad.any()}
    assert reached == {("l", "balanced"), ("s1", "balanced"), ("s2", "balanced")}


def test_the_drop_last_prior_may_miss_a_class():
    first = torch.tensor([0, 0, 0, 1])
    m = kit.method("tras", {"droplast_prior": True}, counts=(4, 1, 1), first_pass=first)
    close(m.la, [math.log(.75), math.log(.25), math.log(1e-12)])
    assert torch.isfinite(m.enhancement).all()


# ---- stages ----------------------------------------------------------------------------------------------------------


def test_the_warm_up_is_the_share_of_eleven_epochs():
    assert kit.method("tras", steps=250_000).durations() == {"warmup": 5500}
    assert [(s.name, s.start) for s in kit.method("tras", steps=2500).phases()] == [("warmup", 0), ("balanced", 55)]
    assert [(s.name, s.start) for s in kit.method("tras", {"warmup": 0}).phases()] == [("balanced", 0)]


def test_it_resumes_in_both_stages_and_at_their_border(tmp_path):
    t = kit.check_resume(lambda: kit.trainer("tras", {"threshold": 0.3, "warmup": 4}), 9, [2, 4, 6], tmp_path)
    assert set(t.last_losses) == {"x", "u", "x_b", "u_b"} and t.last_losses["u_b"] > 0


def test_the_balanced_head_rests_in_the_warm_up_and_predicts_after_it():
    t = kit.trainer("tras", {"threshold": 0.3, "warmup": 3})
    head = t.net.heads["balanced"]
    start = head.weight.clone()
    x = t.data.normalise(t.test_x, t.dtype)

    def predicts(name: str) -> bool:
        with torch.no_grad():
            return torch.equal(t.method.predict(t.average.net, x), t.average.net(x)[name])
    losses = kit.losses_of(t, range(3))
    assert [set(s) for s in losses] == [{"x", "u"}] * 3 and torch.equal(head.weight, start)
    assert predicts("head") and not predicts("balanced")
    losses = kit.losses_of(t, range(3, 4))
    assert set(losses[0]) == {"x", "u", "x_b", "u_b"} and not torch.equal(head.weight, start)
    assert predicts("balanced") and not predicts("head")


def test_the_balanced_head_s_first_gradient_comes_late_and_moves_it_as_a_first_step_would():
    t = kit.trainer("tras", {"warmup": 2, "threshold": 0.3})
    head = t.net.heads["balanced"].bias
    kit.losses_of(t, range(2))
    assert head.grad is None and not head.any()
    kit.losses_of(t, range(2, 3))
    torch.testing.assert_close(head.detach(), -t.lr * 1.9 * head.grad)   # Nesterov's first step; biases are not decayed


def test_the_original_recipe():
    run = Run.of("cifar10", "tras", recipe="original")
    assert (run.optimiser, run.lr, run.rate) == ("adam", .002, "constant")
    assert (run.ema_rule, run.weight_decay) == ("decaying", .02)
    assert run.policy == "separate" and run.options["droplast_prior"] and run.options["strong_views"] == 2
    t = kit.trainer("tras", {"threshold": 0.3, "warmup": 1}, recipe="original")
    assert all(math.isfinite(x) for s in kit.losses_of(t, range(3)) for x in s.values())
    assert [type(o) for o in t.optimisers] == [torch.optim.Adam]


@pytest.mark.parametrize("warmup", [12, 40])
def test_a_warm_up_without_an_end_is_refused(warmup):
    with pytest.raises(ValueError, match="warmup"):
        kit.trainer("tras", {"warmup": warmup})
