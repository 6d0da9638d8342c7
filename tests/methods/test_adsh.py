"""Adsh: thresholds by class from a scan of the pool, against sorted lists; and what a step does with them."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import pytest
import torch
from kit import close, f64, view, views

from semilib.errors import BadInput
from semilib.methods import get
from semilib.methods.adsh import class_thresholds

HEAD = [.99, .97, .96, .94, .90, .85, .80, .60]


def pool(*confidences, seed: int = 0):
    """Confidences and labels of these lists of classes, shuffled."""
    rows = [(c, k) for k, one in enumerate(confidences) for c in one]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return f64([rows[i][0] for i in order]), torch.tensor([rows[i][1] for i in order])


def thresholds(*confidences, tau: float = .95, old: float = .95, head: int = 0, rho_one: bool = False):
    return class_thresholds(*pool(*confidences), f64([old] * len(confidences)), tau, head, rho_one)


def test_the_share_of_the_head_is_that_of_every_class():
    # rho .375: the first of each, at most tau
    close(thresholds(HEAD, [.98, .91, .70, .65], [.88, .40]), [.95, .95, .88])
    close(thresholds(HEAD, [.94, .91, .70, .65, .5, .45, .4, .35], [.88, .40]), [.95, .70, .88])


def test_where_no_image_of_the_head_is_sure():
    close(thresholds([.9, .8], [.98, .91, .70, .65], rho_one=True), [.95, .65])       # as released
    close(thresholds([.9, .8], [.94, .91, .70, .65]), [.95, .94])                     # a share of 0: the best one alone
    close(thresholds([], [.94, .91]), [.95, .94])


def test_a_class_without_predictions_keeps_its_threshold():
    close(thresholds(HEAD, [], [.88, .40], old=.7), [.95, .7, .88])
    close(thresholds(HEAD, [.9], [], old=.7), [.95, .9, .7])


def test_the_head_is_the_largest_labelled_class():
    close(thresholds([.98, .91, .70, .65], HEAD, [.88, .40], head=1), [.95, .95, .88])
    assert kit.method("adsh", counts=(2, 7, 1)).head == 1


class Slow:
    """Lists and Python's own sort and round."""

    @staticmethod
    def of(confidence, label, s, tau, head, rho_one):
        conf = [sorted((c for c, y in zip(confidence.tolist(), label.tolist(), strict=True) if y == k), reverse=True)
                for k in range(len(s))]
        passed = 0
        while passed < len(conf[head]) and conf[head][passed] >= tau:
            passed += 1
        rho = passed / max(1, len(conf[head]))
        if passed == 0 and rho_one:
            rho = 1.0
        out = list(s.tolist())
        for k, one in enumerate(conf):
            if one:
                out[k] = min(tau, one[max(0, round(len(one) * rho - 1))])
        out[head] = tau
        return out


def test_many_pools_equal_a_slow_twin():
    below = 0
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        n, classes = int(torch.randint(1, 80, (1,), generator=g)), 5
        # with ties
        confidence = (.2 + .8 * torch.rand(n, generator=g, dtype=torch.float64) ** .5).mul(20).round().div(20)
        label = (classes * torch.rand(n, generator=g) ** 2).long()
        s, tau, head = torch.rand(classes, generator=g).double(), [.5, .9, .95, 1.0][seed % 4], seed % 3
        have = class_thresholds(confidence, label, s, tau, head, seed % 2 == 0)
        close(have, Slow.of(confidence, label, s, tau, head, seed % 2 == 0), 0)
        below += int((have < tau).sum())
    assert below > 50


def test_label_and_mask_come_from_the_ratio():
    m = kit.method("adsh", {"strong_views": 1})
    m.s.copy_(f64([.95, .5, .45]))
    prob = f64([[.60, .36, .04], [.50, .10, .40], [.96, .03, .01], [.03, .90, .07]])
    v = views(l=view(kit.B.X), w=view(prob.log()), s1=view(kit.B.S))
    batch = SimpleNamespace(y=kit.B.y)
    p = m.pseudo(v, batch, kit.time(0))
    close((prob / m.s).amax(-1), [.72, .888889, 1.010526, 1.8])
    assert p.label.tolist() == p.target.tolist() == [1, 2, 0, 1] and p.mask.tolist() == [0, 0, 1, 1]
    losses = kit.values(m.terms(v, batch, p, kit.time(0)))
    close(losses["u"], .721755)
    close(losses["x"], .659754)


def test_before_the_first_scan_it_is_fixmatch():
    m, base = kit.method("adsh", {"threshold": .6}), kit.method("fixmatch", {"threshold": .6})
    for number in range(5):
        v, batch = kit.drawn(number)
        have, want = (kit.values(x.terms(v, batch, x.pseudo(v, batch, kit.time(number)), kit.time(number)))
                      for x in (m, base))
        assert have.keys() == want.keys()
        for name in want:
            close(have[name], want[name], 1e-15)


def test_scans_come_at_the_start_of_the_third_epoch_and_of_each_later_one(tmp_path):
    def make():
        return kit.trainer("adsh", {"threshold": .9, "epoch": 3})
    t = make()
    scans, scan = [], t.scan
    t.scan = lambda *given: scans.append((t.step, *given[:2], given[2] is t.net)) or scan(*given)
    states = []
    for step in range(12):
        kit.losses_of(t, range(step, step + 1))
        states.append(t.method.s.clone())
    assert scans == [(6, "unlabelled", "weak", True), (9, "unlabelled", "weak", True)] and t.net.training
    assert torch.equal(states[4], torch.full((4,), .9)) and not torch.equal(states[5], states[4])
    t = kit.check_resume(make, 12, [5, 6, 8, 9], tmp_path)
    assert t.monitor.never_active(t.method.must_act) == []


def test_a_scan_equals_the_slow_twin_on_the_live_network():
    t = kit.trainer("adsh", {"threshold": .8, "epoch": 2})
    kit.losses_of(t, range(3))
    old = t.method.s.clone()
    kit.losses_of(t, range(3, 4))
    said, _, _ = t.scan("unlabelled", "weak", t.net)                                  # the same step, so the same views
    confidence, label = said["head"].softmax(-1).max(-1)
    close(t.method.s, Slow.of(confidence, label, old, torch.tensor(.8).item(), t.method.head, False), 1e-7)
    assert not torch.equal(t.method.s, old)


def test_an_epoch_is_the_paper_s_share_but_no_shorter_than_a_pass():
    m = kit.method("adsh", steps=2**18)                                          # pool 100, batch 4: a pass of 25 steps
    assert m.host_every() == 512 and m.durations() == {"epoch": 512, "first_scan": 1024}
    assert kit.method("adsh", steps=2**12).host_every() == 25
    assert kit.method("adsh", steps=40).host_every() == 10
    assert kit.method("adsh", {"epoch": 2}, steps=2**12).host_every() == 2


def test_what_cannot_work_is_refused():
    with pytest.raises(BadInput, match="no threshold for Adsh"):
        get("adsh", "remixmatch")
    with pytest.raises(BadInput, match="first_scan=12"):
        kit.trainer("adsh", {"epoch": 6})
