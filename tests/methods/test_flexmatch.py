"""FlexMatch: class thresholds, the selection of each image, and a twin that keeps a dictionary."""
from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import close, f64, view, views

from semilib.methods.flexmatch import FlexMatch


def flexmatch(sel=None, images: int = 8, **options) -> FlexMatch:
    """On a pool of `images`, with this selection so far."""
    m = kit.method("flexmatch", {"strong_views": 1, **options})
    m.info = dataclasses.replace(m.info, n_unlabelled=images)
    m.build()
    if sel is not None:
        m.sel.copy_(torch.tensor(sel))
        m.counts.copy_(torch.bincount(m.sel + 1, minlength=4))
    return m


TOY = views(l=view(kit.B.X), w=view(kit.B.W), s1=view(kit.B.S))
SEL = [-1, -1, -1, 0, 0, 0, 1, -1]


def step(m, v=TOY, index=(0, 1, 2, 7), y=kit.B.y, number: int = 0):
    batch = SimpleNamespace(y=y, index_u=torch.tensor(index))
    t = kit.time(number)
    p = m.pseudo(v, batch, t)
    losses = kit.values(m.terms(v, batch, p, t))
    m.end_step(v, batch, p, t)
    return p, losses


def settled(warm: bool) -> FlexMatch:
    """beta of SEL: a step in which no row reaches tau only recounts."""
    m = flexmatch(SEL, threshold_warmup=warm)
    even = views(l=view(kit.B.X), w=view(0 * kit.B.W), s1=view(kit.B.S))
    step(m, even)
    assert m.sel.tolist() == SEL
    return m


@pytest.mark.parametrize("warm, beta, thresholds, mask, loss", [
    (True, [.75, .25, 0], [.57, .135714, 0], [1, 1, 1, 0], .339291),
    (False, [1, .333333, 0], [.95, .19, 0], [0, 1, 1, 0], .262702)])
def test_class_thresholds_follow_the_selection(warm, beta, thresholds, mask, loss):
    m = settled(warm)
    close(m.beta, beta)
    close(0.95 * m.beta / (2 - m.beta), thresholds)
    p, losses = step(m)
    assert p.label.tolist() == [0, 1, 2, 0] and p.mask.tolist() == mask
    close(losses["u"], loss)
    close(losses["x"], .659754)


@pytest.mark.parametrize("tau, sel, beta", [(.95, [-1, -1, 2, 0, 0, 0, 1, -1], [1, .333333, .333333]),
                                            (.90, [0, -1, 2, 0, 0, 0, 1, -1], [1, .25, .25])])
def test_a_row_is_selected_by_tau_itself(tau, sel, beta):
    m = flexmatch(SEL, threshold=tau)
    step(m)
    assert m.sel.tolist() == sel
    close(m.beta, beta)


def test_the_convex_map():
    m = flexmatch(threshold=1.0)
    for beta, want in ((0, 0), (.25, .142857), (.5, .333333), (.75, .6), (1, 1)):
        m.beta.fill_(beta)
        for shift in (-1e-5, 1e-5):
            c = min(max(want + shift, 1 / 3), 1 - 1e-9)                         # no confidence lies below 1 / C
            prob = f64([[c, (1 - c) / 2, (1 - c) / 2]])
            p, _ = step(flexmatch_copy(m), views(l=view(kit.B.X), w=view(prob.log()), s1=view(prob)), index=(0,))
            assert bool(p.mask) == (c >= want), (beta, shift)


def flexmatch_copy(m):
    """The same thresholds, so that a step does not move those of m."""
    out = flexmatch(threshold=1.0)
    out.beta.copy_(m.beta)
    return out


def test_every_row_counts_until_one_is_sure_and_beta_rests_while_one_class_has_all():
    m = flexmatch()
    p, _ = step(m, views(l=view(kit.B.X), w=view(0.1 * kit.B.W), s1=view(kit.B.S)))
    assert p.mask.tolist() == [1, 1, 1, 1] and not m.beta.any()
    for warm in (True, False):
        m = flexmatch([1, 1, 0, 1], images=4, threshold_warmup=warm)
        sure = views(l=view(kit.B.X), w=view(f64([[0, 9, 0]] * 4)), s1=view(kit.B.S))
        step(m, sure, index=(0, 1, 3, 3))
        close(m.beta, [1 / 3, 1, 0])
        step(m, sure, index=(0, 1, 2, 3))
        assert m.sel.tolist() == [1, 1, 1, 1] and m.counts.tolist() == [0, 0, 4, 0]
        close(m.beta, [1 / 3, 1, 0])                                            # as it was before


def test_of_an_image_twice_in_a_batch_the_later_sure_row_decides():
    w = f64([[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 0, 0]])
    m = flexmatch()
    step(m, views(l=view(kit.B.X), w=view(w), s1=view(kit.B.S)), index=(5, 5, 2, 5))
    assert m.sel.tolist() == [-1, -1, 2, -1, -1, 1, -1, -1] and m.counts.tolist() == [6, 0, 1, 1]


class Slow:
    """One image at a time, with a dictionary."""

    def __init__(self, images: int, tau: float, warm: bool):
        self.images, self.tau, self.warm, self.sel, self.beta = images, tau, warm, {}, [0, 0, 0]

    def step(self, prob, index) -> list[float]:
        mask = []
        for row in prob.tolist():
            b = self.beta[row.index(max(row))]
            mask.append(float(max(row) >= self.tau * b / (2 - b)))
        for i, row in zip(index, prob.tolist(), strict=True):
            if max(row) >= self.tau:
                self.sel[i] = row.index(max(row))
        n = [list(self.sel.values()).count(k) for k in range(3)]
        rest = self.images - sum(n)
        if max(*n, rest) < self.images:
            self.beta = [k / max(n + [rest] * self.warm) for k in n]
        return mask


@pytest.mark.parametrize("warm, images", [(True, 30), (False, 30), (True, 3)])
def test_forty_steps_equal_a_slow_twin(warm, images):
    m, slow = flexmatch(images=images, threshold=.6, threshold_warmup=warm), Slow(images, .6, warm)
    masks = []
    for n in range(40):
        v, batch = kit.drawn(n)
        index = torch.randint(0, images, (4,), generator=torch.Generator().manual_seed(n)).tolist()      # with repeats
        p, _ = step(m, views(l=v.l, w=v.w, s1=v.s1), index, batch.y, n)
        assert p.mask.tolist() == slow.step(p.prob, index)
        assert {i: k for i, k in enumerate(m.sel.tolist()) if k >= 0} == slow.sel
        assert m.counts.tolist() == torch.bincount(m.sel + 1, minlength=4).tolist()
        close(m.beta, slow.beta, 1e-12)
        masks += p.mask.tolist()
    assert 0 < sum(masks) < len(masks)


def test_with_beta_one_it_is_fixmatch():
    m, base = flexmatch(threshold=.6), kit.method("fixmatch", {"threshold": .6, "strong_views": 1})
    m.beta.fill_(1)
    v, batch = kit.drawn(0)
    v = views(l=v.l, w=v.w, s1=v.s1)
    _, losses = step(m, v, y=batch.y)
    want = kit.values(base.terms(v, batch, base.pseudo(v, batch, kit.time(0)), kit.time(0)))
    assert losses.keys() == want.keys() and all(torch.equal(losses[k], want[k]) for k in want)


def test_a_pool_smaller_than_the_batch_trains_and_resumes(tmp_path):
    small = dict(n1=2, m1=1, batch=16, gamma_l=1.0, gamma_u=1.0)
    t = kit.check_resume(lambda: kit.trainer("flexmatch", {"threshold": .3}, **small, steps=8), 8, [3, 6], tmp_path)
    assert t.method.info.n_unlabelled == t.method.counts.sum() == 12
    assert (t.method.sel >= 0).any() and t.method.counts[1:].sum() == (t.method.sel >= 0).sum()
