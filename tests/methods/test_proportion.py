"""Proportion Loss: the term, the random target, the base without it, and as an addition to other methods."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import close, f64, view, views

from semilib.data.step import Batch
from semilib.errors import BadInput
from semilib.methods import get
from semilib.methods.proportion import proportion_loss
from semilib.training.config import Run


@pytest.mark.parametrize("temperature, mean, target, loss, gradient", [
    (.5, [.312147, .414539, .273314], [.5, .25, .25], 1.126571, [-.088868, .090630, -.001762]),
    (.5, [.312147, .414539, .273314], [.7, .2, .1], 1.120829, [-.163947, .139782, .024165]),
    (.5, [.312147, .414539, .273314], [1, 0, 0], 1.164282, [-.296073, .260780, .035293]),
    (1., [.334596, .355835, .309569], [.5, .25, .25], 1.098881, None),
    (1., [.334596, .355835, .309569], [.7, .2, .1], 1.090297, None),
    (1., [.334596, .355835, .309569], [1, 0, 0], 1.094832, None)])
def test_the_term_and_its_gradient(temperature, mean, target, loss, gradient):
    z = kit.A.W.clone().requires_grad_()
    p = (z / temperature).softmax(-1).mean(0)
    close(p, mean)
    found = proportion_loss(p, f64(target))
    close(found, loss)
    if gradient:
        found.backward()
        close(z.grad[1], gradient)


def test_the_toy_step_on_fixmatch(monkeypatch):
    m = kit.method("proportion", {"strong_views": 1})
    monkeypatch.setattr(m, "target", lambda n, now: f64([.7, .2, .1]))
    v, batch, t = views(l=view(kit.A.X), w=view(kit.A.W), s1=view(kit.A.S1)), Batch(y=kit.A.y), kit.time(0)
    losses = kit.values(m.terms(v, batch, m.pseudo(v, batch, t), t))
    close([losses["x"], losses["u"], losses["p"]], [.896378, .311788, .112083])
    close(sum(losses.values()), 1.320249)


def test_at_a_high_temperature_the_term_is_log_c_and_at_the_target_it_is_its_entropy():
    t = f64([.7, .2, .1])
    close(proportion_loss((kit.A.W / 1e9).softmax(-1).mean(0), t), f64(3.).log(), 1e-6)
    z = t.log().clone().requires_grad_()
    loss = proportion_loss(z.softmax(-1), t)
    close(loss, -(t * t.log()).sum(), 1e-7)
    loss.backward()
    close(z.grad, [0, 0, 0], 1e-7)


@pytest.mark.parametrize("pool, mean, sd", [
    (8, [.5, .25, .25], [.188982, .163663, .163663]), (60, [.5, .3, .2], [.243561, .223227, .194849]),
    (100, [.5, .3, .2], [.25, .229129, .2])])
def test_a_target_is_a_batch_of_the_labelled_proportions(pool, mean, sd):
    """Of 8 and 60 images 4 are drawn without replacement, of 100, more than 20 batches, with it."""
    m = kit.method("proportion", counts=(50, 30, 20), n_unlabelled=pool)
    drawn = torch.stack([m.target(4, kit.time(step)) for step in range(600)])
    assert set((4 * drawn).flatten().tolist()) <= {0, 1, 2, 3, 4}
    close(drawn.sum(1), torch.ones(600), 1e-12)
    close(drawn.mean(0), mean, .035)
    close(drawn.std(0), sd, .025)
    assert torch.equal(m.target(4, kit.time(7)), drawn[7])
    fixed = kit.method("proportion", {"proportion_target": "fixed"}, (50, 30, 20), n_unlabelled=pool)
    close(fixed.target(4, kit.time(0)), mean, 1e-12)


def test_only_an_oracle_sees_the_pool_s_true_proportions():
    def fixed(prior):
        t = kit.trainer("proportion", {"proportion_prior": prior, "proportion_target": "fixed"}, order="reversed")
        return t.method.target(8, kit.time(0)), t.data
    labelled, data = fixed("labelled")
    true, _ = fixed("oracle")
    close(labelled, data.counts / data.counts.sum(), 1 / len(data.unlabelled))
    close(true, torch.bincount(data.truth) / len(data.truth), 1e-6)
    assert true.argmax() != labelled.argmax()
    with pytest.raises(BadInput, match="proportion_prior='oracle': labelled: the classes of this pool are not known"):
        kit.method("proportion", {"proportion_prior": "oracle"})


@pytest.mark.parametrize("method, base, add", [("proportion", "", ""), ("proportion", "remixmatch", ""),
                                               ("acr", "", "prop")])
def test_with_weight_0_it_is_the_base_to_the_last_bit_and_with_another_the_weak_view_learns(method, base, add):
    options = {} if base else {"threshold": .3}
    plain = {"proportion": base or "fixmatch"}.get(method, method)
    want = kit.losses_of(kit.trainer(plain, options), range(4))
    for weight, same in ((0., True), (.5, False)):
        t = kit.trainer(method, {**options, "proportion_lambda": weight}, base=base, add=add)
        have = [{name: loss for name, loss in step.items() if name != "p"} for step in kit.losses_of(t, range(4))]
        assert (have == want) is same and have[0] == want[0]


def test_where_the_weak_view_has_no_gradient_it_is_refused_with_the_reason():
    for host in ("cpe", "metaexpert", "cossl"):
        with pytest.raises(BadInput, match="add='prop': '' for .*(standard logits|without a gradient)"):
            get(host, "", "prop")
    with pytest.raises(BadInput, match="add='prop': '' for ProportionLoss, which is that itself"):
        get("proportion", "", "prop")
    with pytest.raises(BadInput, match="policy='separate': joint, frozen or interleave"):
        kit.method("proportion", policy="separate")
    assert kit.method("proportion", policy="separate", base="remixmatch").weak_gradient


def test_as_an_addition_it_goes_with_semi_s_modules():
    made = get("fixmatch", "", "prop+oheml")
    assert [c.__name__ for c in made.__mro__[1:]][:2] == ["OHEML", "Addition"] and get("proportion") in made.__mro__
    losses = kit.losses_of(kit.trainer("fixmatch", {"threshold": .3}, add="prop+oheml"), range(1))[0]
    assert list(losses) == ["x", "u", "p"]
    assert Run.of("cifar10", "acr", add="prop").label == "acr+prop"
