"""DebiasPL: the debiased pseudo-label, the margin, q between them, CLD; on both bases."""
from __future__ import annotations

import kit
import numpy as np
import pytest
import torch
from kit import close, drive, f64, view, views

from semilib.data.step import Batch
from semilib.errors import BadInput
from semilib.methods.losses import reduce
from semilib.training.config import Run

TOY = views(l=view(kit.B.X), w=view(kit.B.W), s1=view(kit.B.S))


def debiaspl(momentum: float = .9, q=(.6, .3, .1), **options):
    m = kit.method("debiaspl", {"strong_views": 1, "threshold": .8, "momentum": momentum, **options}, steps=250_000)
    if q:
        m.q.copy_(f64(q))
    return m


def step(m, v=TOY):
    batch = Batch(y=kit.B.y)
    p = m.pseudo(v, batch, kit.time(0))
    return p, m.terms(v, batch, p, kit.time(0)), batch


def test_the_debiased_pseudo_label_the_new_q_and_the_margin():
    m = debiaspl()
    p, terms, batch = step(m)
    close(p.prob, [[.856427, .056262, .087311], [.08339, .813042, .103568], [.00874, .014087, .977173],
                   [.28961, .312872, .397518]])
    assert p.label.tolist() == [0, 1, 2, 2] and p.mask.tolist() == [1, 1, 1, 0] and bool(batch.notes.debiased)
    close(m.q, [.575999, .300428, .123573])
    close(terms["u"].rows, [.219215, .658053, .573676, 1.576399])
    close(reduce(terms["u"]), .362736)
    close(reduce(terms["x"]), .659754)
    assert "cld" not in terms
    m = debiaspl(momentum=.999)
    step(m)
    close(m.q, [.59976, .300004, .100236])


@pytest.mark.parametrize("assign, value", [("argmin", .340116), ("argmax", .244189)])
def test_cld_on_toy_rows(assign, value):
    _, terms, _ = step(debiaspl(lambda_cld=1.0, cld_assign=assign))
    close(reduce(terms["cld"]), value)


def test_cld_by_hand_where_a_class_has_no_row_and_each_row_two_views():
    m = debiaspl(lambda_cld=.3, strong_views=2)
    weak = f64([[.7, .2, .1], [.6, .3, .1], [.2, .7, .1]])
    strong = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).double()
    strong = (strong / strong.sum(-1, keepdim=True)).requires_grad_()
    centroids = np.array([[.65, .25, .1], [.2, .7, .1]])
    z = strong.detach().numpy() @ centroids.T / .07
    want = np.log(np.exp(z).sum(-1)) - z[np.arange(6), [0, 0, 1, 0, 0, 1]]
    rows = m.cld(strong, weak)
    close(rows.detach(), want, 1e-10)
    rows.sum().backward()
    assert torch.isfinite(strong.grad).all() and strong.grad.abs().sum() > 0


def test_with_the_release_s_zero_centroids_a_class_without_a_row_stays_in_the_softmax():
    weak = f64([[.7, .2, .1], [.6, .3, .1], [.2, .7, .1]])
    strong = f64([[.5, .3, .2], [.1, .6, .3], [.3, .3, .4]])
    z = strong.numpy() @ np.array([[.65, .25, .1], [.2, .7, .1], [0, 0, 0]]).T / .07
    want = np.log(np.exp(z).sum(-1)) - z[np.arange(3), [0, 0, 1]]
    zero, out = (debiaspl(lambda_cld=.3, cld_empty=name) for name in ("zero", "out"))
    close(zero.cld(strong, weak), want, 1e-10)
    assert (zero.cld(strong, weak) > out.cld(strong, weak)).all()


def test_a_class_that_had_no_probability_for_long_leaves_everything_finite():
    """In float32 a probability below 1e-45 is 0, and with it q, whose momentum is 0 here."""
    t = kit.trainer("debiaspl", {"momentum": 0.0, "threshold": 0.3, "lambda_cld": 0.3}, lr=1e-12)
    t.net.heads["head"].bias.data[0] = 300
    seen, pseudo = [], t.method.pseudo
    t.method.pseudo = lambda *given: seen.append(pseudo(*given)) or seen[-1]
    for step in range(3):
        t.advance()
        assert all(x.isfinite() for x in t.last_losses.values()), step
        assert seen[-1].prob.isfinite().all() and seen[-1].mask.all(), f"every image is surely of class 0, step {step}"
        assert all(p.grad.isfinite().all() for p in t.net.parameters() if p.grad is not None)
    assert t.method.q[1:].eq(0).all() and t.method.log_q().isfinite().all()


def test_q_averages_raw_predictions_of_all_rows_over_many_steps():
    m = kit.method("debiaspl", {"momentum": .9, "threshold": .6}, steps=250_000)
    q = np.full(3, 1 / 3)
    for s in drive(m, 40):
        z = s.v.w["head"].numpy()
        debiased = np.exp(z) / q**.4
        close(s.p.prob, debiased / debiased.sum(-1, keepdims=True), 1e-12)
        raw = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        q = .9 * q + .1 * raw.mean(0)
        close(s.state["q"], q, 1e-12)
        student = s.v.s["head"].numpy() + .4 * np.log(q)
        rows = np.log(np.exp(student).sum(-1)) - student[np.arange(8), np.tile(s.p.label.numpy(), 2)]
        close(s.losses["u"], (rows * np.tile(s.p.mask.numpy(), 2)).mean(), 1e-12)
    close(q.sum(), 1)
    assert abs(q - 1 / 3).max() > .01


def test_tau_zero_is_fixmatch_and_a_uniform_q_only_shifts_nothing():
    base = kit.method("fixmatch", {"strong_views": 1, "threshold": .8})
    batch = Batch(y=kit.B.y)
    want = kit.values(base.terms(TOY, batch, base.pseudo(TOY, batch, kit.time(0)), kit.time(0)))
    m = debiaspl(tau=0.0)
    have = kit.values(step(m)[1])
    assert have.keys() == want.keys() and all(torch.equal(have[k], want[k]) for k in want)
    assert "debias" not in m.must_act and "debias" in debiaspl().must_act
    m = debiaspl(q=None, momentum=1.0)
    have = kit.values(step(m)[1])
    for name in want:
        close(have[name], want[name], 1e-12)


def test_tau_zero_on_remixmatch_is_remixmatch():
    runs = [kit.trainer("debiaspl", {"tau": 0.0, "align": True}, base="remixmatch", precision="fp64"),
            kit.trainer("remixmatch", precision="fp64")]
    have, want = (kit.losses_of(t, range(4)) for t in runs)
    assert have == want


def test_on_remixmatch_each_unlabelled_student_has_the_margin_and_nothing_else(monkeypatch):
    t = kit.trainer("debiaspl", {"momentum": .5, "align": True}, base="remixmatch", precision="fp64")
    kit.losses_of(t, range(3))
    assert (t.method.q_momentum, t.method.momentum) == (.5,
                                                        pytest.approx(.95)), "q's momentum is not that of the alignment"
    method, seen = t.method, {}
    forward, terms = method.forward, method.terms

    def watched(v, batch, p, time):
        seen.update(v=v, batch=batch, p=p, q=method.q.clone(), out=terms(v, batch, p, time))
        return seen["out"]

    def looked(net, images, batch, time, teacher):
        seen["old"] = method.q.clone()
        return forward(net, images, batch, time, teacher)
    monkeypatch.setattr(method, "terms", watched)
    monkeypatch.setattr(method, "forward", looked)
    kit.losses_of(t, range(3, 4))
    v, out, batch = seen["v"], seen["out"], seen["batch"]
    close(seen["q"], .5 * seen["old"] + .5 * v.w["head"].softmax(-1).mean(0), 1e-12)
    margin = .4 * seen["q"].log()

    def rows(name, target, shift):
        return -(target * (v[name]["head"] + shift).log_softmax(-1)).sum(-1).detach()
    close(out["x"].rows.detach(), rows("mixed_l", batch.notes.mixed["l"], 0), 1e-12)
    close(out["u"].rows.detach(),
          torch.cat([rows(f"mixed_{k}", batch.notes.mixed[k], margin) for k in ("s1", "s2", "w")]), 1e-12)
    close(out["s1"].rows.detach(), rows("s1", seen["p"].prob, margin), 1e-12)
    aligned = (v.w["head"] - .4 * seen["old"].log()).softmax(-1) * (method.prior + 1e-6) / (method.mean + 1e-6)
    sharp = (aligned / aligned.sum(-1, keepdim=True)) ** 2
    close(batch.notes.q, sharp / sharp.sum(-1, keepdim=True), 1e-12)


def test_on_remixmatch_it_takes_the_place_of_the_alignment():
    t = kit.trainer("debiaspl", base="remixmatch")
    kit.losses_of(t, range(2))
    assert not t.method.mean.any() and not t.run.options["align"]
    with pytest.raises(BadInput, match="align=True: False on a base without"):
        kit.trainer("debiaspl", {"align": True})


def test_a_short_run_moves_q_and_no_recipe_of_its_own_is_claimed():
    assert debiaspl(.999).q_momentum == pytest.approx(.999) and kit.method("debiaspl").q_momentum == pytest.approx(.95)
    with pytest.raises(BadInput, match="ImageNet code"):
        Run.of("cifar10", "debiaspl", recipe="original")
