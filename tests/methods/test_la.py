"""LA: the adjusted labelled loss on toy tensors, on both of its bases, and what it must not be combined with."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import B, close, view, views

from semilib.errors import BadInput
from semilib.methods import get
from semilib.methods.losses import reduce
from semilib.training.config import Run

COUNTS = (100, 30, 10)


def la(base: str = "", **options):
    m = kit.method("la", options if not base else {}, counts=COUNTS)
    if not base:
        return m
    run = Run.of("mnistm5k", "la", base=base, options=options, device="cpu", precision="fp64")
    m = get("la", base)(run.method_options(), m.info)
    m.build()
    return m


def step(m, z=B.X, y=B.y):
    v = views(l=view(z), w=view(B.W), s1=view(B.S), s2=view(B.Sa))
    batch = kit.SimpleNamespace(y=y)
    p = m.pseudo(v, batch, kit.time(0))
    return p, m.terms(v, batch, p, kit.time(0))


@pytest.mark.parametrize("tau, rows, mean", [
    (0.0, [.407606, .911901], .659754), (0.5, [.218567, 1.512447], .865507),
    (1.0, [.116802, 2.318399], 1.217601), (2.0, [.033882, 4.322815], 2.178348)])
@pytest.mark.parametrize("base", ["", "fixmatch"])
def test_the_labelled_loss_sees_the_prior(base, tau, rows, mean):
    _, terms = step(la(base, tau=tau))
    close(terms["x"].rows, rows)
    close(reduce(terms["x"]), mean)


def test_all_but_the_labelled_loss_is_the_base_s():
    p, terms = step(la("fixmatch", tau=2.0, threshold=0.9))
    q, plain = step(kit.method("fixmatch", {"threshold": 0.9}, counts=COUNTS))
    assert p.mask.tolist() == [1, 0, 1, 0] and torch.equal(p.label, q.label) and torch.equal(p.prob, q.prob)
    assert terms.keys() == plain.keys() == {"x", "u"}
    assert torch.equal(reduce(terms["u"]), reduce(plain["u"])) and reduce(terms["u"]) > 0
    assert reduce(terms["x"]) > reduce(plain["x"]) + 1
    assert step(la())[0] is None


def losses(method: str, options: dict, **changes):
    return kit.losses_of(kit.trainer(method, options, precision="fp64", **changes), range(3))


@pytest.mark.parametrize("base, options", [("supervised", {}), ("fixmatch", {"threshold": 0.3})])
def test_without_adjustment_it_is_its_base(base, options):
    plain = losses(base, options)
    same = losses("la", {**options, "tau": 0.0}, base=base)
    assert [s.keys() for s in same] == [s.keys() for s in plain]
    for have, want in zip(same, plain, strict=True):
        assert have == pytest.approx(want, rel=1e-9)
    assert losses("la", options, base=base)[1]["x"] != pytest.approx(plain[1]["x"], rel=1e-3)


def test_the_test_sees_plain_logits():
    t = kit.trainer("la")
    kit.losses_of(t, range(1))
    x = t.data.normalise(t.test_x[:9], t.dtype)
    with torch.no_grad():
        assert torch.equal(t.method.predict(t.average.net, x), t.average.net(x)["head"])


def test_adjusting_twice_is_refused():
    for base in ("", "fixmatch"):
        with pytest.raises(BadInput, match="post_hoc=1.0: 0 with la"):
            kit.trainer("la", base=base, post_hoc=1.0)


def test_mixed_targets_have_no_single_label():
    with pytest.raises(BadInput, match="base='remixmatch'.*mixed"):
        get("la", "remixmatch")


def test_the_original_recipe_is_daso_s():
    run = Run.of("cifar10", "la", base="fixmatch", recipe="original")
    assert (run.mu, run.variant, run.rate, run.ema_rule) == (2, "V2", "constant", "warmup")
    assert run.labelled_in_unlabelled is False
    assert run.options["strong_views"] == 1 and run.options["tau"] == 1
    assert Run.of("cifar10", "la", recipe="original").options == {"tau": 1.0}
