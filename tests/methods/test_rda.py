"""RDA: the reciprocal alignment on toy tensors, its window by a slow twin, the complementary labels."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import close, f64, views

from semilib.errors import BadInput
from semilib.methods.losses import reduce
from semilib.networks.net import View
from semilib.training.config import Run

W_R = f64([[0, 1, 2], [.5, 0, .5], [1, 1, 0], [0, 0, 1]])
S_R = f64([[.2, .1, 0], [0, .3, .1], [.4, 0, .2], [.1, .1, .5]])
X_R = f64([[.1, .4, .2], [.3, 0, -.2]])
FULL = f64([.1, .8, .1])


def view(main, other):
    return View({"head": main, "complementary": other}, torch.zeros(len(main), 4).double())


TOY = views(l=view(kit.A.X, X_R), w=view(kit.A.W, W_R), s1=view(kit.A.S1, S_R))


def rda(monkeypatch=None, **options):
    m = kit.method("rda", {"strong_views": 1, **options}, steps=250_000)
    if monkeypatch:
        monkeypatch.setattr(m, "other_class", lambda y, t: torch.tensor([2, 0]))
    return m


def step(m, v=TOY, at: int = 0, y=kit.A.y):
    batch, t = SimpleNamespace(y=y), kit.time(at, m.info.steps)
    p = m.pseudo(v, batch, t)
    return p, kit.values(m.terms(v, batch, p, t))


def fill(m, want):
    """Buffers whose mean after the first step's write is `want`."""
    for buffer, z in ((m.d, kit.A.W), (m.d_r, W_R)):
        n = len(buffer)
        buffer.copy_(((n * want - z.softmax(-1).mean(0)) / (n - 1)).expand(n, -1))


# ---- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_sum, value", [(True, .276127), (False, 1.104558)])
def test_the_first_step_from_buffers_of_ones(batch_sum, value):
    m = rda(start="ones", batch_sum=batch_sum)
    p, losses = step(m)
    close(m.d[0], [.334596, .355835, .309569])
    close(m.d_r[0], [.276986, .277921, .445093])
    assert (m.d[1:] == 1).all() and (m.d_r[1:] == 1).all() and m.d.shape == (128, 3)
    assert p.label.tolist() == [0, 1, 2, 1] and p.mask.tolist() == [1] * 4
    close([losses["u"], losses["u_c"]], [.653195, value])


@pytest.mark.parametrize("batch_sum, value", [(True, .269928), (False, 1.074479)])
def test_full_buffers(monkeypatch, batch_sum, value):
    m = rda(monkeypatch, batch_sum=batch_sum)
    fill(m, FULL)
    p, losses = step(m)
    close(m.d.mean(0), FULL, 1e-12)
    assert p.label.tolist() == [0, 0, 2, 0] and torch.equal(p.target, p.label)
    close([losses[name] for name in ("x", "x_c", "u", "u_c")], [.896378, .996559, 1.153195, value])
    if batch_sum:
        close(p.prob_c.sum(), 1, 1e-12)
        close(sum(losses.values()), 3.316059)
    else:
        close(p.prob_c, [[.118140, .008920, .872940], [.495823, .008354, .495823], [.716508, .019903, .263589],
                         [.266947, .007415, .725638]])


def test_lambda_u_scales_both_unsupervised_terms_and_both_views_count():
    plain, half = (step(rda(lambda_u=x))[1] for x in (1.0, .5))
    assert half == {"x": plain["x"], "x_c": plain["x_c"], "u": plain["u"] / 2, "u_c": plain["u_c"] / 2}
    two = views(l=TOY.l, w=TOY.w, s1=TOY.s1, s2=view(kit.A.S2, S_R.flip(-1)))
    m = rda(strong_views=2)
    p, losses = step(m, two)
    other = [step(rda(), views(l=TOY.l, w=TOY.w, s1=two[name]))[1] for name in ("s1", "s2")]
    for name in ("u", "u_c"):
        close(losses[name], (other[0][name] + other[1][name]) / 2, 1e-12)


@pytest.mark.parametrize("start", ["uniform", "ones"])
def test_the_window_by_a_slow_twin(start):
    """Lists of the last five batch means, over seventeen steps."""
    m = kit.method("rda", {"window": 5, "start": start}, steps=250_000)
    value = {"uniform": 1 / 3, "ones": 1.0}[start]
    last = {name: [np.full(3, value)] * 5 for name in ("head", "balanced")}

    def soft(z):
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    changed = 0
    for at in range(17):
        drawn, batch = kit.drawn(at)
        v = views(**{name: view(drawn[name]["head"], drawn[name]["balanced"]) for name in ("l", "w", "s1", "s2")})
        p, losses = step(m, v, at, batch.y)
        main, other = (soft(drawn.w[name].numpy()) for name in last)
        for name, rows in (("head", main), ("balanced", other)):
            last[name] = last[name][1:] + [rows.mean(0)]
        d, d_r = (np.mean(last[name], 0) for name in last)
        e, e_r = (np.mean([1 - row for row in last[name]], 0) for name in last)
        p_want, q_want = main * e_r / d, other * e / d_r
        close(p.prob, p_want / p_want.sum(-1, keepdims=True), 1e-12)
        close(p.prob_c, q_want / q_want.sum(-1, keepdims=True), 1e-12)
        label = p_want.argmax(-1)
        assert p.label.tolist() == label.tolist()
        changed += (label != main.argmax(-1)).sum()
        strong = np.log(soft(drawn.s["head"].numpy()))
        close(losses["u"], -strong[np.arange(8), np.tile(label, 2)].mean(), 1e-12)
    assert changed > 0


def test_uniform_buffers_align_nothing_and_the_main_head_is_fixmatch_without_a_threshold():
    m = rda()
    assert (m.d == 1 / 3).all() and (m.d_r == 1 / 3).all()
    prob = kit.A.W.softmax(-1)
    close(m.pseudo_prob(prob, TOY, SimpleNamespace(), kit.time(0)), prob, 1e-12)
    fill(m, f64([1 / 3] * 3))
    _, losses = step(m)
    fixmatch = kit.method("fixmatch", {"strong_views": 1, "threshold": 0.0})
    _, want = step(fixmatch)
    assert losses["x"] == want["x"] and losses["u"] == want["u"]


def test_a_class_that_vanished_divides_by_no_zero():
    m = rda(window=1)
    gone = f64([[0, 3, -2000], [1, 0, -2000], [2, 0, -2000], [0, 0, -2000]])
    assert (gone.softmax(-1)[:, 2] == 0).all()
    p, losses = step(m, views(l=TOY.l, w=view(gone, gone), s1=TOY.s1))
    assert torch.isfinite(p.prob).all() and torch.isfinite(p.prob_c).all()
    assert all(torch.isfinite(x) for x in losses.values())
    assert (p.prob[:, 2] == 0).all()


# ---- complementary labels, window, recipe ----------------------------------------------------------------------------


def test_complementary_labels_are_the_other_classes_evenly_and_new_in_each_step():
    m = kit.method("rda", counts=(5, 4, 3, 2))
    y = torch.arange(4).repeat(300)
    seen = torch.stack([m.other_class(y, kit.time(at)) for at in range(5)])
    assert (seen != y).all() and not torch.equal(seen[0], seen[1])
    counts = torch.stack([torch.bincount(seen[:, y == k].flatten(), minlength=4) for k in range(4)])
    assert (counts.diagonal() == 0).all()
    off = counts[~torch.eye(4, dtype=torch.bool)]
    assert (off - 500).abs().max() < 90                       # 4.9 standard deviations of a third of 1,500
    assert torch.equal(m.other_class(y, kit.time(3)), seen[3])
    assert torch.equal(kit.method("rda", counts=(1, 1)).other_class(torch.tensor([0, 1]), kit.time(0)),
                       torch.tensor([1, 0]))


@pytest.mark.parametrize("steps, rows", [(250_000, 128), (2**20, 128), (125_000, 64), (24, 20)])
def test_the_window_keeps_its_share_of_a_shorter_run(steps, rows):
    assert kit.method("rda", steps=steps).d.shape == (rows, 3)


def test_both_heads_reach_the_backbone():
    t = kit.trainer("rda")
    t.data.prepare(0)
    batch, raw = t.data.batch(kit.time(0))
    images = {name: t.data.normalise(x, t.dtype) for name, x in raw.items()}
    v = t.method.forward(t.net, images, batch, kit.time(0), t.average.net)
    p = t.method.pseudo(v.detach(), batch, kit.time(0))
    terms = t.method.terms(v, batch, p, kit.time(0))
    assert set(terms) == {"x", "x_c", "u", "u_c"}
    stem = t.net.backbone.stem.weight
    for name, term in terms.items():
        assert torch.autograd.grad(reduce(term), stem, retain_graph=True)[0].abs().sum() > 0, name


def test_what_is_its_own_and_what_is_refused():
    own = Run.of("cifar10", "rda", recipe="original")
    assert (own.variant, own.mu, own.steps, own.decay) == ("V3", 7, 2**20, "norms")
    assert own.options["batch_sum"] and own.options["start"] == "ones" and own.options["strong_views"] == 1
    shared = Run.of("cifar10", "rda")
    assert shared.variant == "V1" and not shared.options["batch_sum"] and shared.options["start"] == "uniform"
    with pytest.raises(BadInput, match="no mask"):
        Run.of("cifar10", "rda", add="plce")
    with pytest.raises(BadInput, match="whole method of its own"):
        Run.of("cifar10", "rda", base="remixmatch")
