"""ReMixMatch: alignment, sharpening, mixing, rotation and ramps on the reference's values, its step on a table of
images instead of a network, and what it is when its own parts are off."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import close, f64, view, views
from torch import nn

from semilib.data import rng
from semilib.data.step import Batch, Notes
from semilib.errors import BadInput
from semilib.methods import get, remixmatch
from semilib.methods.losses import ce, reduce
from semilib.networks.net import View, Views

SOFT = f64([[.2, .7, .1], [.1, .2, .7], [.3, .3, .4], [1, 0, 0]])
ALIGNED = [[.977508, .017273, .005219], [.271176, .711187, .017637], [.137212, .059483, .803305],
           [.733961, .213284, .052755]]
SHARP = [[.999659, .000312, .000028], [.126867, .872596, .000537], [.028199, .005299, .966502],
         [.917759, .077499, .004741]]


def method(steps: int = 250_000, **options):
    return kit.method("remixmatch", options, counts=(100, 30, 10), steps=steps)


def weak(logits=kit.B.W) -> Views:
    return views(w=view(logits))


# ---- pseudo-labels ---------------------------------------------------------------------------------------------------


def test_alignment_to_the_labelled_prior_and_sharpening():
    m = method()
    close(m.align(kit.B.W.softmax(-1)), ALIGNED)
    close(m.mean, [.359992, .304279, .335729])                              # the first batch sets it
    m.align(kit.B.W[[3, 2]].softmax(-1))
    close(m.mean, [.359842, .30415, .336008])
    close(method().pseudo_prob(kit.B.W.softmax(-1), weak(), None, kit.time(0)), SHARP)
    close(method(temperature=1.0).pseudo_prob(kit.B.W.softmax(-1), weak(), None, kit.time(0)), ALIGNED)


def test_without_alignment_and_sharpening_nothing_changes():
    prob = kit.B.W.softmax(-1)
    m = method(align=False, temperature=1.0)
    close(m.pseudo_prob(prob, weak(), None, kit.time(0)), prob, 1e-15)
    assert not m.mean.any()
    sharp = method(align=False).pseudo_prob(prob, weak(), None, kit.time(0))
    close(sharp, prob**2 / (prob**2).sum(-1, keepdim=True), 1e-15)


def test_the_mean_of_the_predictions_over_many_steps():
    m, mean = method(align_momentum=.9), None
    for step in range(30):
        prob = kit.drawn(step)[0].w["head"].softmax(-1)
        now = prob.numpy().mean(0)
        mean = now if mean is None else .9 * mean + .1 * now
        aligned = prob.numpy() * (np.array([100, 30, 10]) / 140 + 1e-6) / (mean + 1e-6)
        close(m.align(prob), aligned / aligned.sum(-1, keepdims=True), 1e-12)
        close(m.mean, mean, 1e-12)
    assert method().momentum == pytest.approx(.999) and method(steps=40).momentum == pytest.approx(.95)


def test_pseudo_labels_are_soft_rows_that_all_count():
    q = f64(SHARP)
    p = method().pseudo(weak(), Batch(notes=Notes(q=q)), kit.time(0))
    assert p.label.tolist() == [0, 1, 2, 0] and p.mask.tolist() == [1] * 4 and p.target is q and p.prob is q
    assert p.branches == {}


# ---- terms -----------------------------------------------------------------------------------------------------------


def test_soft_cross_entropy():
    rows = ce(kit.B.S, SOFT)
    close(rows, [1.556356, 1.235732, 1.255077, 1.001943])
    close(rows.mean(), 1.262277)


def step_of(m, step: int):
    """The terms at a step whose mixed rows are the toy's, all with the four soft targets; turns 0, 1, 2, 3."""
    names = ("mixed_l", "mixed_s1", "mixed_s2", "mixed_w", "s1")
    rotation = View({"rotation": f64(np.eye(4))}, torch.zeros(4, 1))
    v = Views({**{name: view(kit.B.S) for name in names}, "rotated": rotation, "w": view(kit.B.W)}, ["s1"])
    batch = Batch(notes=Notes(q=f64(SHARP), mixed=dict.fromkeys(("l", "s1", "s2", "w"), SOFT), turns=torch.arange(4)))
    t = kit.time(step, m.info.steps)
    return m.terms(v, batch, m.pseudo(v, batch, t), t)


def test_the_four_terms_and_the_usb_ramp():
    s1 = float(ce(kit.B.S, f64(SHARP)).mean())
    for step, ramp in ((0, 0), (2048, .5), (4096, 1), (8192, 1)):
        terms = step_of(method(steps=2**18, ramp=1 / 64), step)
        assert set(terms) == {"x", "u", "s1", "r"} and len(terms["u"].rows) == 12
        for name, want in (("x", 1.262277), ("u", 1.5 * ramp * 1.262277), ("s1", .5 * ramp * s1),
                           ("r", .5 * (np.log(np.e + 3) - 1))):
            close(reduce(terms[name]), want, 2e-6)


@pytest.mark.parametrize("policy", ["weak_first", "ema_eval"])
def test_a_policy_that_it_cannot_follow_is_refused(policy):
    with pytest.raises(BadInput, match=f"policy='{policy}': joint, separate, frozen or interleave"):
        kit.method("remixmatch", policy=policy)


def test_the_ramp_over_the_whole_run():
    for step, ramp in ((0, 0), (750, .003), (125_000, .5), (249_999, 1 - 4e-6)):    # epochs 0, 1.5 and 250 of 500 steps
        close(step_of(method(ramp=1.0), step)["u"].scale, 1.5 * ramp, 1e-12)


# ---- the step, on a table --------------------------------------------------------------------------------------------


class Table(nn.Module):
    """A network that reads its logits off the image: head from the first three pixels, rotation from the first four."""

    def forward(self, x):
        flat = x.flatten(1)
        return View({"head": flat[:, :3], "rotation": flat[:, :4]}, flat)

    def views(self, images, strong, policy):
        self.asked = (list(images), list(strong), policy)
        return Views({name: self(x) for name, x in images.items()}, strong)


PERMUTATION = [3, 0, 5, 1, 7, 2, 4, 6]
MIXED = [[.73, .06, .21], [.3, 0, .7], [.17, .55, .28], [.07, .14, .79], [.17, .55, .28], [.13, .35, .52],
         [.2, .7, .1], [.13, .35, .52]]


def draws(monkeypatch, share: float, order: list[int], turns: list[int]) -> None:
    """Fix what the step draws: the mixing share, the order of the rows, the quarter turns."""
    words = torch.zeros(len(order), 3, dtype=torch.int64)
    words[torch.tensor(order), 1] = torch.arange(len(order))
    words[:len(turns), 2] = torch.tensor(turns) << 30
    fixed = SimpleNamespace(words=lambda *_: words, uniform=rng.uniform, integers=rng.integers,
                            beta=lambda u, a: torch.full_like(u, share))
    monkeypatch.setattr(remixmatch, "rng", fixed)


def table_step(**options):
    """A step of two images a view, of 2 x 2 pixels and one channel;
    the weak rows are the logs of the first two soft targets."""
    m = method(align=False, temperature=1.0, **options)
    images = {name: torch.arange(8, dtype=torch.float64).reshape(2, 1, 2, 2) + 10 * i
              for i, name in enumerate(("l", "s1", "s2"))}
    logits = torch.cat([SOFT[:2].log(), torch.zeros(2, 1).double()], 1)
    images["w"] = logits.view(2, 1, 2, 2)
    batch, net = Batch(y=torch.tensor([0, 2])), Table()
    return m, images, batch, net, m.forward(net, images, batch, kit.time(0), None)


@pytest.mark.parametrize("drawn", [.7, .3])
def test_mixing_of_targets_and_images(monkeypatch, drawn):
    draws(monkeypatch, drawn, PERMUTATION, [0, 0])                          # of l and 1 - l the larger
    m, images, batch, net, v = table_step()
    close(torch.cat([batch.notes.mixed[name] for name in ("l", "s1", "s2", "w")]), MIXED)
    rows = torch.cat([images[name] for name in ("l", "s1", "s2", "w")]).flatten(1)
    close(torch.cat([v[f"mixed_{name}"].f for name in ("l", "s1", "s2", "w")]), .7 * rows + .3 * rows[PERMUTATION],
          1e-12)
    close(v.s1.f, images["s1"].flatten(1), 0)                               # unmixed
    close(v.w.f, images["w"].flatten(1), 0)
    assert net.asked == (["mixed_l", "mixed_s1", "mixed_s2", "mixed_w", "s1", "rotated"], ["s1"], "joint")


def test_rotations_and_their_labels(monkeypatch):
    draws(monkeypatch, .7, PERMUTATION, [1, 3])
    _, images, batch, _, v = table_step()
    assert batch.notes.turns.tolist() == [1, 3]
    want = np.stack([np.rot90(images["s1"][0].numpy(), 1, (1, 2)), np.rot90(images["s1"][1].numpy(), 3, (1, 2))])
    close(v.rotated.f, want.reshape(2, 4), 0)
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    turns = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    back = remixmatch.rotate(remixmatch.rotate(x, turns), (4 - turns) % 4)
    assert torch.equal(back, x)
    for k in range(4):
        assert np.array_equal(remixmatch.rotate(x, torch.full((8,), k)).numpy(), np.rot90(x.numpy(), k, (2, 3)))


def test_views_that_a_method_asks_for_unmixed(monkeypatch):
    monkeypatch.setattr(remixmatch.ReMixMatch, "unmixed", ("l", "s1", "s2"))
    _, images, _, net, v = table_step()
    assert net.asked[1] == ["s1", "s2"]
    close(v.l.f, images["l"].flatten(1), 0)
    close(v.s.f, torch.cat([images["s1"], images["s2"]]).flatten(1), 0)


# ---- real steps ------------------------------------------------------------------------------------------------------


def watch(t, monkeypatch) -> list[SimpleNamespace]:
    """What each further step gave to and got from `forward`."""
    seen, forward = [], t.method.forward

    def watched(net, images, batch, time, teacher):
        v = forward(net, images, batch, time, teacher)
        seen.append(SimpleNamespace(images=images, batch=batch, v=v.detach()))
        return v
    monkeypatch.setattr(t.method, "forward", watched)
    return seen


def test_targets_are_distributions_and_each_step_draws_anew(monkeypatch):
    t = kit.trainer("remixmatch", precision="fp64")
    seen = watch(t, monkeypatch)
    kit.losses_of(t, range(6))
    shares, turns = [], []
    for step, s in enumerate(seen):
        targets = torch.cat([s.batch.notes.mixed[name] for name in ("l", "s1", "s2", "w")])
        close(targets.sum(-1), torch.ones(len(targets)), 1e-12)
        close(s.batch.notes.q.sum(-1), torch.ones(8), 1e-12)
        assert (targets >= 0).all() and not targets.requires_grad
        words = rng.words(t.run.seed, "mix", step, 32, 3)
        share = float(rng.beta(rng.uniform(words[0, 0]).double(), .75))
        share, order = max(share, 1 - share), words[:, 1].argsort()
        own = torch.cat([torch.eye(4).double()[s.batch.y], *[s.batch.notes.q] * 3])
        close(targets, share * own + (1 - share) * own[order], 1e-12)
        shares.append(share)
        turns += s.batch.notes.turns.tolist()
    assert len(set(shares)) == 6 and min(shares) >= .5 and set(turns) == {0, 1, 2, 3}


def test_the_weak_pass_uses_the_batch_s_statistics_and_leaves_the_running_ones_alone(monkeypatch):
    t = kit.trainer("remixmatch", precision="fp64")
    kit.losses_of(t, range(2))
    norms = [m for m in t.net.modules() if isinstance(m, nn.BatchNorm2d)]
    before, at, momenta = [n.running_mean.clone() for n in norms], [], [n.momentum for n in norms]
    joint = t.net.views

    def watched(*given):
        at.extend(n.running_mean.clone() for n in norms)
        return joint(*given)
    monkeypatch.setattr(t.net, "views", watched)
    seen = watch(t, monkeypatch)
    weights = {k: p.detach().clone() for k, p in t.net.named_parameters()}
    kit.losses_of(t, range(2, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, at, strict=True)) and [n.momentum for n in norms] == momenta
    moved = [not torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True)]
    assert sum(moved) == len(moved) - 2                                     # V1 has two norms that it never uses
    other = kit.trainer("remixmatch", precision="fp64")
    other.net.load_state_dict({**other.net.state_dict(), **weights})
    with torch.no_grad():
        close(seen[0].v.w["head"], other.net(seen[0].images["w"])["head"], 1e-12)           # in training mode
        assert (seen[0].v.w["head"] - other.net.eval()(seen[0].images["w"])["head"]).abs().max() > 1e-3


def test_the_joint_batch_and_the_passes_of_the_original_recipe(monkeypatch):
    for policy, sizes in (("joint", [8, 48]), ("frozen", [8] * 7)):
        t = kit.trainer("remixmatch", policy=policy)
        passes, compute = [], t.net.compute
        monkeypatch.setattr(t.net, "compute", lambda x, passes=passes, compute=compute: passes.append(len(x))
                            or compute(x))
        kit.losses_of(t, range(1))
        assert passes == sizes, policy


OFF = dict(lambda_u=0.0, lambda_1=0.0, lambda_r=0.0)


def test_without_its_terms_and_with_the_whole_share_it_is_supervised(monkeypatch):
    """policy="frozen": the labelled images pass first and alone, and alone move the running statistics."""
    monkeypatch.setattr(rng, "beta", lambda u, a: torch.ones_like(u))
    t, base = (kit.trainer(name, options, precision="fp64", policy="frozen")
               for name, options in (("remixmatch", OFF), ("supervised", {})))
    have, want = kit.losses_of(t, range(5)), kit.losses_of(base, range(5))
    assert [s["x"] for s in have] == [s["x"] for s in want]
    assert all(s[name] == 0 for s in have for name in ("u", "s1", "r"))
    state = t.net.state_dict()
    for name, x in base.net.state_dict().items():
        assert torch.equal(state[name], x) or name.endswith("num_batches_tracked"), name


def test_a_strong_labelled_view_is_an_option():
    assert method(labelled_view="strong").step_images().views["l"] == ("labelled", "strong")
    assert method().step_images().views["l"] == ("labelled", "weak")


def test_semi_s_modules_are_refused():
    with pytest.raises(BadInput, match="soft and mixed"):
        get("remixmatch", "", "oheml")
