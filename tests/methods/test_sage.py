"""SAGE: weights, graph, the two heads' losses, what is left of it without its terms, and its few labels."""
from __future__ import annotations

import kit
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit import close, f64, views

from semilib.data.splits import make_split
from semilib.data.step import Batch
from semilib.errors import BadInput
from semilib.networks.net import View
from semilib.training.config import Run


def unit(*degrees):
    angle = torch.deg2rad(f64(degrees))
    return torch.stack([angle.cos(), angle.sin()], 1)


Z, Z2 = unit(5, 110, 240, 130), unit(15, 90, 260, 150)
FW, FS = unit(0, 100, 250, 120), unit(350, 120, 230, 170)


def said(head, auxiliary, projector, f):
    return View({"head": head, "auxiliary": auxiliary, "projector": projector}, f)


TOY = views(l=said(kit.A.X, kit.XB, torch.zeros(2, 2).double(), torch.zeros(2, 2).double()),
            w=said(kit.A.W, kit.A.W, 3 * Z, 2 * FW), s1=said(kit.A.S1, kit.A.S1, Z2, FS))


def made(classes=(7, 2, 1), **options):
    return kit.method("sage", {"strong_views": 1, **options}, classes, steps=2**18)


def step(m, at=0):
    batch, t = Batch(y=kit.A.y), kit.time(at, 2**18)
    p = m.pseudo(TOY, batch, t)
    return p, kit.values(m.terms(TOY, batch, p, t))


# ---- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum, weights, states", [
    (.999, {1: [1, .964460, 1, 1], 3: [1, .963977, 1, 1]},
     {1: [.333837, .333739, .999050, .999133], 3: [.334842, .334548, .997153, .997402]}),
    (.5, {1: [1, .654611, 1, 1], 3: [1, .059356, 1, 1]}, {3: [.773928, .687990, .168880, .241599]})])
def test_the_weights_follow_confidence_and_margin(momentum, weights, states):
    m = made()
    m.momentum = momentum
    for number in (1, 2, 3):
        p, _ = step(m)
        if number in weights:
            close(p.mask, weights[number])
        if number in states:
            close(torch.cat([m.mu, m.v]), states[number])


def test_the_toy_step_before_and_after_the_end_of_smoothing():
    for at, aux_u, aux_x, total in ((0, .493095, 1.243721, 1.972280), (30 * 1024, .408686, 1.184730, 1.828881)):
        m = made()
        m.momentum = .999
        m.mu.copy_(f64([.9, .85]))
        m.v.copy_(f64([.01, .02]))
        p, losses = step(m, at)
        close(p.mask, [1, 0, 1, .950898])
        close(torch.cat([m.mu, m.v]), [.899937, .849889, .010040, .020113])
        close([losses[name] for name in ("x", "aux_u", "aux_x", "sim")], [1.434713, aux_u, aux_x, -1.875788])
        close(sum(losses.values()), total)


@pytest.mark.parametrize("classes, official, want", [(3, True, .676714), (3, False, .676539), (11, True, .652071),
                                                     (11, False, .651993)])
def test_the_graph_s_term(classes, official, want):
    m = made(tuple(range(classes, 0, -1)), official_blocks=official)
    z = torch.cat([Z, Z2])
    close(m.graph_rows(z).mean(), want)
    one, other = (m.graph_rows(x).mean() for x in (z, torch.cat([Z2, Z])))
    close(one, other, 1e-12)


def test_the_anchors_of_the_release_only_scale():
    """z A (A A' + lambda I)^-1 for D + 1 equiangular unit anchors A, by an explicit simplex."""
    d = 5
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    centred = torch.eye(d + 1).double() - 1 / (d + 1)
    anchors = ((d + 1) / d) ** .5 * torch.linalg.eigh(centred)[1][:, 1:] @ basis
    z = F.normalize(torch.randn(7, d, generator=g, dtype=torch.float64))
    related = z @ anchors.T @ torch.linalg.inv(anchors @ anchors.T + .1 * torch.eye(d + 1).double())
    k = (d + 1) / d
    close(related @ related.T, k / (k + .1) ** 2 * z @ z.T, 1e-12)


# ---- identities ------------------------------------------------------------------------------------------------------


def test_without_graph_and_smoothing_it_is_an_adjusted_head_whose_labels_teach_another():
    off = dict(lambda_con=0.0, lambda_sim=0.0, smoothing=0.0)
    m = made(**off)
    p, losses = step(m)
    close(losses["x"], F.cross_entropy(kit.A.X + f64([.7, .2, .1]).log(), kit.A.y))
    p.mask.fill_(1)
    losses = kit.values(m.terms(TOY, Batch(y=kit.A.y), p, kit.time(0, 2**18)))
    close(losses["aux_u"], F.cross_entropy(kit.A.S1, kit.A.W.argmax(1)))
    assert losses["con"] == losses["sim"] == 0


def test_no_gradient_reaches_weights_graph_targets_or_features_that_are_followed():
    leaves = {name: TOY[name].f.clone().requires_grad_() for name in ("w", "s1")}
    v = views(l=TOY.l, **{name: said(TOY[name]["head"], TOY[name]["auxiliary"], TOY[name]["projector"], f)
                          for name, f in leaves.items()})
    m, batch, t = made(), Batch(y=kit.A.y), kit.time(0, 2**18)
    terms = m.terms(v, batch, m.pseudo(v.detach(), batch, t), t)
    assert not any(term.rows.requires_grad for term in terms.values())


def test_a_step_without_a_gradient_through_the_weak_view_is_refused():
    with pytest.raises(BadInput, match="policy='separate': joint, frozen or interleave"):
        kit.method("sage", policy="separate")


# ---- its own few labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order, first, last", [("consistent", 4996, 49), ("uniform", 4996, 4996),
                                                ("reversed", 49, 4996)])
def test_four_labels_a_class_beside_a_pool_of_any_kind(order, first, last):
    run = Run.of("cifar10", "sage", recipe="original", n1=4, m1=4996, gamma_l=1, gamma_u=100, order=order)
    labels = np.arange(10).repeat(5000)
    split = make_split(labels, 10, run.n1, run.m1, run.gamma_l, run.gamma_u, run.order, run.labelled_in_unlabelled)
    assert np.bincount(labels[split.labelled]).tolist() == [4] * 10
    sizes = np.bincount(labels[split.unlabelled])
    assert (sizes[0], sizes[-1]) == (first, last) and not set(split.labelled) & set(split.unlabelled)


def test_its_own_recipe():
    run = Run.of("cifar10", "sage", recipe="original")
    assert (run.mu, run.steps, run.report, run.rate) == (7, 2**18, "best_on_test", "cosine")
    assert run.options["labelled_strong"] and run.options["official_blocks"] and run.options["strong_views"] == 1
