"""SimPro: E-step, losses and M-step on the reference's values, the priors over several epochs by hand,
and its identities."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import A, close, f64, view, views

from semilib.data.splits import arrange
from semilib.training.config import Run

X1 = f64([[1.5, .2, -.3], [.1, .4, .6]])          # the labelled strong view of the reference


def simpro(steps: int = 40, epoch: int = 1, **options):
    m = kit.method("simpro", {"epoch": epoch, **options}, steps=steps)
    m.rho = 2.0
    return m


def one_step(m, step: int = 0):
    v = views(l=view(A.X), w=view(A.W), s1=view(A.S1), s2=view(A.S2), l1=view(X1))
    batch, t = SimpleNamespace(y=A.y), kit.time(step)
    p = m.pseudo(v, batch, t)
    losses = kit.values(m.terms(v, batch, p, t))
    return v, batch, p, losses, t


def test_the_step_and_the_epoch_of_the_reference():
    m = simpro(epoch=2)
    v, batch, p, losses, t = one_step(m)
    assert p.mask.tolist() == [1, 0, 1, 0]
    close(p.prob, A.W.softmax(-1))
    close([losses["x"], losses["u"], sum(losses.values())], [.959919, .848929, 1.808848])
    m.end_step(v, batch, p, t)
    close(m.seen_u, [.971302, .025777, 1.002921])
    close(m.seen_l, [1, 0, 1])
    close(m.prior_u, [1 / 3] * 3)
    close(m.prior_a, A.pi)


def test_the_priors_of_the_reference_after_an_epoch():
    m = simpro()
    v, batch, p, _, t = one_step(m)
    m.end_step(v, batch, p, t)
    close(m.prior_u, [.332377, .300859, .333431])
    close(m.prior_a, [.679283, .180644, .140073])
    assert not m.seen_l.any() and not m.seen_u.any()
    close(one_step(m, 1)[2].prob.max(-1).values, [.967643, .456181, .986781, .869864])


def test_epochs_by_hand():
    """Three steps an epoch, eleven steps: the priors move after steps 2, 5 and 8 by what those three steps held."""
    m = simpro(epoch=3, threshold=.6, tau=1.0)
    prior_u, prior_a = np.full(3, 1 / 3), np.array([.7, .2, .1])
    d_u, d_l, moves = np.zeros(3), np.zeros(3), 0
    for step in range(11):
        v, batch = kit.drawn(step)
        v["l1"] = view(torch.zeros(4, 3, dtype=torch.float64))
        t = kit.time(step)
        p = m.pseudo(v, batch, t)
        z = v.w["head"].numpy() + np.log(prior_u + 1e-12)
        q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        close(p.prob, q, 1e-9)
        for row, y in zip(q, batch.y.tolist(), strict=True):
            d_u += row * (row.max() >= .6)
            d_l[y] += 1
        m.end_step(v, batch, p, t)
        if step in (2, 5, 8):
            prior_u = .9 * prior_u + .1 * d_u / (d_u.sum() + 1)
            prior_a = .9 * prior_a + .1 * (d_l + d_u) / (d_l + d_u).sum()
            d_u, d_l, moves = np.zeros(3), np.zeros(3), moves + (d_u.sum() > 0)
        close(m.prior_u, prior_u, 1e-9)
        close(m.prior_a, prior_a, 1e-9)
    assert moves == 3


def test_a_multiple_of_a_prior_changes_nothing_and_uniform_priors_leave_plain_soft_labels():
    m = simpro()
    _, _, p, losses, _ = one_step(m)
    m.prior_u.mul_(.5)
    m.prior_a.mul_(3)
    _, _, again, same, _ = one_step(m)
    close(again.prob, p.prob, 1e-9)
    close([same["x"], same["u"]], [losses["x"], losses["u"]], 1e-8)
    m.prior_a.fill_(1 / 3)
    plain = one_step(m)[3]
    log = [-torch.cat([A.X, X1]).log_softmax(-1)[torch.arange(4), torch.cat([A.y, A.y])].mean() / 2,
           -(torch.cat([p.mask, p.mask]).unsqueeze(1) * torch.cat([p.prob, p.prob])
             * torch.cat([A.S1, A.S2]).log_softmax(-1)).sum() / 8]
    close([plain["x"], plain["u"]], log)
    off = kit.values(simpro(tau=0.0).terms(*[one_step(simpro(tau=0.0))[i] for i in (0, 1, 2, 4)]))
    close([off["x"], off["u"]], log)


def test_the_labelled_images_are_seen_weak_and_strong():
    t = kit.trainer("simpro", {"threshold": .3})
    t.data.prepare(0)
    batch, images = t.data.batch(kit.time(0))
    plain = t.data.images[t.data.labelled[batch.index_l]]
    assert torch.equal(images["l1"], t.data.view(plain, "strong", "l1", 0))
    assert not torch.equal(images["l1"], images["l"])
    assert t.method.step_images().strong == ["s1", "s2"]
    terms, seen = t.method.terms, {}
    t.method.terms = lambda *given: seen.setdefault("out", terms(*given))
    t.advance()
    assert len(seen["out"]["x"].rows) == 16 and len(seen["out"]["u"].rows) == 16
    assert seen["out"]["x"].scale == pytest.approx(1 / t.method.rho)


@pytest.mark.parametrize("cell, rho", [
    (dict(gamma_l=100.0), 19 / 19), (dict(gamma_l=150.0), 18 / 18), (dict(gamma_l=100.0, gamma_u=1.0), 78 / 19),
    (dict(gamma_l=150.0, gamma_u=1.0), 78 / 18)])
def test_rho_of_the_published_settings(cell, rho):
    run = Run.of("cifar10", "simpro", recipe="original", n1=500, m1=4000, device="cpu", **cell)
    assert (run.mu, run.batch, run.steps, run.lr, run.labelled_in_unlabelled) == (8, 64, 43_000, .17, False)
    n, m = (sum(arrange(size, 10, gamma, run.order)) for size, gamma in ((500, run.gamma_l), (4000, run.gamma_u)))

    def made(mu, **options):
        info = SimpleNamespace(steps=run.steps, batch=64, mu=mu, classes=10, run=run, n_labelled=n, n_unlabelled=m)
        return run.method_class()(run.with_(options=options).method_options(), info)
    assert made(8).durations() == {"epoch": 500}
    assert made(8).rho == made(1).rho == made(8, rho_mu=0).rho == pytest.approx(rho)
    assert made(1, rho_mu=0).rho == (m // 64) / (n // 64)


def test_values_follow_the_data_set():
    assert [Run.of(d, "simpro").options[k] for d in ("cifar10", "cifar100")
            for k in ("tau", "threshold")] == [2, .95, 1, .2]


def test_semi_s_modules_act_and_soft_targets_keep_their_sum(tmp_path):
    options = {"threshold": .5, "semi_warmup": 2, "plce_u": "max", "tau": 1.0}
    t = kit.check_resume(lambda: kit.trainer("simpro", options, add="oheml+plce+align"), 12, [4, 8], tmp_path)
    assert t.monitor.never_active(["u", "prior", "oheml", "plce", "align"]) == []
    terms, seen = t.method.terms, {}
    t.method.terms = lambda v, batch, p, time: seen.setdefault("out", (p, terms(v, batch, p, time)))[1]
    t.advance()
    p = seen["out"][0]
    assert (p.prob.sum(-1) - 1).abs().max() > 1e-3, "SeMi does not normalise its blend"
    close(p.target.sum(-1).double(), torch.ones(8), 1e-5)
