"""SAW: its class weights, the count that they come from, and what they do to each base's loss."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import close, f64

from semilib.data.step import Batch
from semilib.methods.losses import ce
from semilib.methods.saw import weights
from semilib.training.config import Run


def test_the_reference_s_weights():
    """methods-b 6.5."""
    close(weights(f64([100, 30, 10])), [.405473, .751242, 1.843285])
    close(weights(f64([300, 90, 0])), [.025004, .044994, 2.930002])
    close(weights(f64([300, 90, 0]).clamp(min=1)), [.024957, .044961, 2.930082])           # USB: lifted before the mean
    counts = torch.tensor([int(1500 * 100 ** (-k / 9)) for k in range(10)])
    close(weights(counts), [.150931, .162741, .193654, .255276, .365922, .552828, .874713, 1.418954, 2.278234,
                            3.746747])
    close(weights(f64([7, 7, 7])), [1, 1, 1], 1e-12)
    close(weights(counts, 0.99).max() / weights(counts, 0.99).min(), 7.145834)           # the CIFAR script's fixed beta
    close(weights(counts).max() / weights(counts).min(), 24.824, 1e-2)
    for few in ([1, 0, 0], [0, 0, 0], [2, 0, 1]):
        close(weights(f64(few)), [1, 1, 1], 1e-12)
    close(weights(f64([500, 20, 3])).mean(), 1, 1e-12)


def one_view(m):
    batch = Batch(y=kit.B.y, index_u=torch.arange(4))
    v = kit.views(l=kit.view(kit.B.X), w=kit.view(kit.B.W), s1=kit.view(kit.B.S))
    return v, batch, m.pseudo(v, batch, kit.time(0))


def test_the_reference_s_losses():
    m = kit.method("saw", dict(threshold=.8, strong_views=1), counts=(100, 30, 10))
    for w, u in ((weights(f64([300, 90, 0])), .291473), (weights(f64([300, 90, 1])), .291471)):
        m.w_u.copy_(w)
        v, batch, p = one_view(m)
        losses = kit.values(m.terms(v, batch, p, kit.time(0)))
        close(losses["x"], .923084)
        close(losses["u"], u)
    stays = batch.y.tolist() == [0, 2] and p.target.tolist() == [0, 1, 2, 0]
    assert stays, "the batch and the pseudo-labels stay as they were"


def test_w_u_is_counted_from_every_image_s_latest_pseudo_label_at_the_end_of_an_epoch():
    t = kit.trainer("saw", dict(threshold=0.3, epoch=4))
    latest, m = {}, t.method
    end_step = m.end_step

    def watched(v, batch, p, time):
        end_step(v, batch, p, time)
        latest.update(zip(batch.index_u.tolist(), v.w["head"].argmax(1).tolist(), strict=True))
    m.end_step = watched
    for step in range(12):
        before = m.w_u.clone()
        kit.losses_of(t, range(step, step + 1))
        if (step + 1) % 4:
            assert torch.equal(m.w_u, before)
        else:
            want = weights(torch.tensor([list(latest.values()).count(k) for k in range(4)]))
            close(m.w_u, want, 1e-6)
            assert step > 4 or len(latest) < len(t.data.unlabelled), "images not seen yet count for nothing"
    assert m.latest.rows.tolist() == [latest.get(i, -1) for i in range(len(t.data.unlabelled))]
    assert t.monitor.never_active(m.must_act) == []


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_with_weights_of_one_it_is_its_base(base):
    even = dict(gamma_l=1.0, n1=8, base=base)
    sure = dict(threshold=0.3) if base == "fixmatch" else {}
    one = kit.trainer("saw", dict(**sure, epoch=11), **even)
    two = kit.trainer(base, sure, gamma_l=1.0, n1=8)
    assert torch.equal(one.method.w_x, torch.ones(4))
    assert kit.losses_of(one, range(11)) == kit.losses_of(two, range(11))
    assert one.monitor.never_active(one.method.must_act) == ["weights"]
    assert kit.losses_of(one, range(11, 12)) != kit.losses_of(two, range(11, 12))


def test_mixed_targets_have_each_class_s_part_weighted():
    t = kit.trainer("saw", dict(epoch=11), base="remixmatch", precision="fp64")
    kit.losses_of(t, range(4))
    m, seen = t.method, []
    m.w_u.copy_(f64([.5, 2, 1, .5]))
    terms = m.terms

    def watched(v, batch, p, time):
        out = terms(v, batch, p, time)
        seen.append((v, batch, p, out))
        return out
    m.terms = watched
    t.advance()
    v, batch, p, out = seen[0]
    with torch.no_grad():
        def by_hand(logits, target, w):
            return sum(w[k] * target[:, k] * ce(logits, torch.full((8,), k)) for k in range(4))
        close(out["x"].rows, by_hand(v.mixed_l["head"], batch.notes.mixed["l"], m.w_x), 1e-9)
        close(out["u"].rows,
              torch.cat([by_hand(v[f"mixed_{n}"]["head"], batch.notes.mixed[n], m.w_u) for n in ("s1", "s2", "w")]),
              1e-9)
        close(out["s1"].rows, ce(v.s1["head"], p.prob), 1e-9)              # unweighted
    assert p.label.tolist() == p.prob.argmax(1).tolist() and (batch.notes.mixed["l"] > 0).sum(1).max() > 1, "soft rows"
    close(batch.notes.mixed["l"].sum(1), torch.ones(8), 1e-9)


def test_it_resumes_inside_an_epoch(tmp_path):
    kit.check_resume(lambda: kit.trainer("saw", dict(threshold=0.3, epoch=3)), 9, [4], tmp_path)


def test_semi_s_modules_work_on_it():
    t = kit.trainer("saw", dict(threshold=0.5, epoch=2, semi_warmup=2, plce_epoch=2, plce_decay_every=2),
                    add="oheml+plce+align")
    kit.losses_of(t, range(12))
    assert t.monitor.never_active(t.method.must_act) == []


def test_its_own_recipe():
    run = Run.of("cifar10", "saw", base="remixmatch", recipe="original")
    assert (run.steps, run.optimiser, run.labelled_in_unlabelled) == (150_000, "adam", True)
    assert (run.options["labelled_view"], run.options["align"], run.options["beta"]) == ("weak", False, 0.0)
    assert Run.of("cifar10", "saw", recipe="original").policy == "weak_first"


def test_a_fixed_beta_weights_both_losses_and_the_default_leaves_the_key_as_it_was():
    t = kit.trainer("saw", dict(threshold=0.3, epoch=4, beta=0.5))
    close(t.method.w_x, weights(torch.tensor([14, 9, 6, 4]), 0.5), 1e-6)
    kit.losses_of(t, range(4))
    counts = torch.bincount(t.method.latest.rows + 1, minlength=5)[1:]
    close(t.method.w_u, weights(counts, 0.5), 1e-6)
    default, fixed = (Run.of("mnistm5k", "saw", options=given) for given in ({}, {"beta": 0.99}))
    assert fixed.key != default.key and "beta" not in default.identity()["options"]
