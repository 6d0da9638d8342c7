"""SeMi: its equations on toy tensors, a whole second implementation in plain numpy, its switches, its presets, and each
defect of the public release alone."""
from __future__ import annotations

import json
import math
from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import ROOT, close, drive, f64, view, views

from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.methods import semi as paper
from semilib.methods.memory_bank import MemoryBank
from semilib.methods.semi_released import DEFECTS, SeMi
from semilib.training.config import Run

SHORT = dict(warmup=6, epoch=5, decay_every=3, threshold=0.6, slots=5)      # every part acts within 40 toy steps
PI = [0.7, 0.2, 0.1]                                                         # of the counts 7, 2, 1


def semi(**options):
    return kit.method("semi", {**SHORT, **options})


def fill(bank: MemoryBank, features: dict[int, list[float]]) -> None:
    """One filled slot for each class given."""
    for k, f in features.items():
        bank.push(f64([f]), f64([0.9]), torch.tensor([k]), f64([1]))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(z, target):
    """Rows of CE against class indices or rows of probabilities."""
    log_p = z - z.max(-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    target = np.asarray(target)
    return -log_p[np.arange(len(z)), target] if target.ndim == 1 else -(target * log_p).sum(-1)


# ---- a second implementation ----------------------------------------------------------------------------------------


class Slow:
    """SeMi as described, image by image, with a bank of lists. `run_step` returns the losses and moves the state."""

    def __init__(self, total: int, tau=0.6, alpha=0.4, tau_2=2.0, tau_12=2.0, scale=0.75, lambda_e=0.15, t_e=0.1,
                 t_proto=0.1, beta=0.99, warmup=6, epoch=5, decay_every=3, slots=5, balanced=True, u_max=False,
                 two_heads=True):
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})
        self.bank = [[] for _ in range(3)]                     # [confidence, feature, pushed]
        self.pool = []                                         # [confidence, feature, pushed, class]
        self.used, self.u, self.qbar = np.zeros(3), np.ones(3), np.zeros(4)

    def cell(self, k: int) -> list:
        return self.bank[k] if self.balanced else [slot for slot in self.pool if slot[3] == k]

    def offer(self, confidence: float, feature, k: int) -> None:
        cell, room = (self.bank[k], self.slots) if self.balanced else (self.pool, 3 * self.slots)
        if len(cell) == room:
            if confidence <= cell[-1][0]:
                return
            cell.pop()
        cell.append([confidence, feature, True, k])
        cell.sort(key=lambda slot: -slot[0])

    def run_step(self, step: int, v, y) -> dict[str, float]:
        z = {name: v[name]["head"].numpy() for name in ("l", "w", "s1", "s2")}
        zb = {name: v[name]["balanced"].numpy() for name in ("l", "w", "s1", "s2")}
        f = {name: v[name].f.numpy() for name in ("l", "w", "s1", "s2")}
        log_pi, warm = np.log(np.array(PI)), step >= self.warmup
        out = {"x": cross_entropy(z["l"], y).mean()}
        rows_u, rows_ub, rows_e, offers, targets = [], [], [], [], []
        for i in range(len(z["w"])):
            linear = softmax(z["w"][i])
            p = linear.copy()
            filled = [k for k in range(3) if self.cell(k)]
            if warm and filled:
                centre = {k: np.mean([slot[1] for slot in self.cell(k)], axis=0) for k in filled}
                near = {k: math.exp(-math.sqrt(((f["s1"][i] - centre[k]) ** 2).sum()) / self.t_proto) for k in filled}
                r = (step // self.epoch) / (self.total // self.epoch)
                u = self.u / self.u.max() if self.u_max else self.u
                for k in filled:
                    a = self.alpha * r * u[k]
                    p[k] = (1 - a) * p[k] + a * near[k] / sum(near.values())
            m = max(p) >= self.tau or max(linear) >= self.tau
            label = int(np.argmax(p))
            clamped = np.clip(p, 1e-8, 1 - 1e-8)
            entropy = -(clamped * np.log(clamped)).sum() / math.log(3)
            w = self.scale * entropy + 1 - self.scale if warm else 1.0
            adjusted = softmax(z["w"][i] - self.tau_12 * log_pi)
            m_b = max(softmax(zb["w"][i])) >= self.tau or max(adjusted) >= self.tau
            q = softmax((f["w"][i] - self.qbar) / (self.t_e / 5))
            for s in ("s1", "s2"):
                rows_u.append(w * m * cross_entropy(z[s][i:i + 1], [label])[0])
                rows_ub.append(m_b * cross_entropy(zb[s][i:i + 1], [int(np.argmax(adjusted))])[0])
                rows_e.append((1 - m) * cross_entropy(f[s][i:i + 1] / self.t_e, q[None])[0])
                if m:
                    offers.append((s, i, max(p), f[s][i], label))
            targets.append(q)
            if max(linear) >= self.tau:
                self.used[int(np.argmax(linear))] += 1
        out["u"] = np.mean(rows_u)
        if self.two_heads:
            out["x_b"] = cross_entropy(zb["l"] + self.tau_2 * log_pi, y).mean()
            out["u_b"] = np.mean(rows_ub)
        if self.lambda_e:
            out["e"] = self.lambda_e * np.mean(rows_e) if warm else 0.0
        for _, _, confidence, feature, k in sorted(offers, key=lambda o: o[:2]):       # strong view 1 first, then 2
            self.offer(confidence, feature, k)
        if (step + 1) % self.decay_every == 0:
            for cell in self.bank if self.balanced else [self.pool]:
                for slot in cell:
                    slot[0], slot[2] = (slot[0] if slot[2] else slot[0] * self.beta), False
                cell.sort(key=lambda slot: -slot[0])
        if (step + 1) % self.epoch == 0 and self.used.sum():
            self.u = self.used / self.used.sum()
        if warm:
            self.qbar = 0.9 * self.qbar + 0.1 * np.mean(targets, axis=0)
        return out


VARIANTS = {
    "paper": ({}, {}),
    "max": ({"u_norm": "max"}, {"u_max": True}),
    "strong-blend": ({"alpha": 1.0, "u_norm": "max", "t_proto": 2.0, "slots": 2},
                     {"alpha": 1.0, "u_max": True, "t_proto": 2.0, "slots": 2}),
    "one-head": ({"balanced_head": False}, {"two_heads": False}),
    "no-alignment": ({"logit_align": False}, {"tau_2": 0, "tau_12": 0}),
    "no-oheml": ({"oheml": False}, {"scale": 0}),
    "no-plce": ({"plce": False}, {"alpha": 0}),
    "pool": ({"bank_balance": False, "u_norm": "max", "slots": 3, "beta": 0.9},
             {"balanced": False, "u_max": True, "slots": 3, "beta": 0.9}),
    "no-decay": ({"bank_decay": False, "u_norm": "max"}, {"beta": 1.0, "u_max": True}),
    "no-e": ({"embedding_align": False}, {"lambda_e": 0}),
    "values": ({"threshold": 0.8, "t_e": 0.5, "lambda_e": 0.7, "scale": 0.3, "tau_2": 1.0, "tau_12": 0.5, "beta": 0.7,
                "u_norm": "max", "warmup": 3, "epoch": 4, "decay_every": 2},
               {"tau": 0.8, "t_e": 0.5, "lambda_e": 0.7, "scale": 0.3, "tau_2": 1.0, "tau_12": 0.5, "beta": 0.7,
                "u_max": True, "warmup": 3, "epoch": 4, "decay_every": 2}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_forty_steps_equal_a_second_implementation(variant):
    options, values = VARIANTS[variant]
    m, slow = semi(**options), Slow(40, **values)
    blended = 0
    for step, s in enumerate(drive(m, 40)):
        want = slow.run_step(step, s.v, s.y)
        assert s.losses.keys() == want.keys()
        for name, value in want.items():
            close(s.losses[name], value, 2e-6)
        close(s.state["blend.u"], slow.u, 1e-6)
        close(s.state["align.qbar"], slow.qbar, 1e-9)
        assert s.state["blend.used"].tolist() == slow.used.tolist()
        have = sorted(s.state["blend.bank.confidence"][s.state["blend.bank.confidence"] > 0].tolist())
        close(have, sorted(slot[0] for cell in (*slow.bank, slow.pool) for slot in cell), 1e-6)
        blended += bool((s.p.prob != s.p.linear).any())
    assert blended > 20 or variant == "no-plce"


# ---- each equation on values worked out by hand ---------------------------------------------------------------------


def test_the_blend_of_linear_and_semantic_pseudo_label():
    m = semi(t_proto=5.0)
    fill(m.blend.bank, {0: [0, 0, 0, 0], 1: [3, 4, 0, 0]})                        # class 2 has no feature
    m.blend.u.copy_(f64([0.5, 0.25, 0.25]))
    p = m.blend(f64([[.6, .3, .1]]), f64([[0, 0, 0, 0]]), kit.time(20))   # epoch 4 of 8: r = 0.5
    s0 = 1 / (1 + math.exp(-1))                                             # distances 0 and 5 over T = 5
    a0, a1 = 0.4 * 0.5 * 0.5, 0.4 * 0.5 * 0.25
    close(p, [[(1 - a0) * .6 + a0 * s0, (1 - a1) * .3 + a1 * (1 - s0), .1]], 1e-9)
    close(p, [[.613106, .298447, .1]])
    assert float(p.sum()) != 1, "the blend is not renormalised"
    big = semi(t_proto=5.0, u_norm="max")
    fill(big.blend.bank, {0: [0, 0, 0, 0], 1: [3, 4, 0, 0]})
    big.blend.u.copy_(f64([0.5, 0.25, 0.25]))
    p = big.blend(f64([[.6, .3, .1]]), f64([[0, 0, 0, 0]]), kit.time(20))
    close(p, [[.8 * .6 + .2 * s0, .9 * .3 + .1 * (1 - s0), .1]])


def strength(m, step: int) -> float:
    """a of class 0 at a step, read off a blend in which the linear part is another class's."""
    if not m.blend.bank.prototypes()[1].any():
        fill(m.blend.bank, {0: [0, 0, 0, 0]})
    return float(m.blend(f64([[0, 1, 0]]), f64([[1, 1, 1, 1]]), kit.time(step, m.info.steps))[0, 0])


def test_the_strength_follows_the_epochs_done_of_all():
    m = semi(warmup=1)
    for step in range(1, 40):
        close(strength(m, step), 0.4 * (step // 5) / 8, 1e-9)


def test_r_stays_below_one_where_the_last_epoch_is_cut_short():
    m = kit.method("semi", {**SHORT, "warmup": 1, "alpha": 1.0}, steps=43)       # eight epochs and three steps
    assert max(strength(m, step) for step in range(1, 43)) < 1


def test_a_single_filled_class_takes_the_whole_semantic_part_and_an_empty_bank_none():
    m = semi(alpha=1.0)
    linear, f = f64([[.2, .5, .3], [1, 0, 0]]), f64([[1, -1, 0, 2], [0, 3, 1, 1]])
    for step in (0, 10, 39):
        p = m.blend(linear, f, kit.time(step))
        assert torch.equal(p, linear) and torch.isfinite(p).all()
    fill(m.blend.bank, {1: [1, 2, 3, 4]})
    r = 7 / 8
    close(m.blend(linear, f, kit.time(39)), [[.2, (1 - r) * .5 + r, .3], [1, r, 0]], 1e-9)


def masks(m, weak, balanced=None, linear_shift=None):
    v = views(l=view(weak), w=view(weak, weak if balanced is None else balanced), s1=view(weak), s2=view(weak))
    return m.pseudo(v, None, kit.time(39))


def test_a_row_counts_if_the_blended_or_the_linear_pseudo_label_is_sure():
    m = semi(alpha=0.8, u_norm="max", threshold=0.7, t_proto=1e-3)
    logs = f64([[.72, .18, .10], [.55, .35, .10], [.40, .35, .25], [.05, .90, .05]]).log()
    fill(m.blend.bank, {0: [0, 0, 0, 0]})
    # only class 0 is filled: p_0 = (1 - a) p_0 + a, a = 0.8 * 7/8 = 0.7; the other classes stay
    p = masks(m, logs)
    close(p.prob[:, 0], [.3 * .72 + .7, .3 * .55 + .7, .3 * .40 + .7, .3 * .05 + .7])
    close(p.linear, logs.exp())
    assert p.mask.tolist() == [1, 1, 1, 1]                                   # rows 1 and 2 by the blend alone
    assert p.label.tolist() == [0, 0, 0, 1]
    m = semi(alpha=0.8, u_norm="max", threshold=0.7, t_proto=1e-3)
    fill(m.blend.bank, {0: [0, 0, 0, 0], 1: [9, 9, 9, 9]})
    # now s = (1, 0, .): class 1 is pulled down by 0.7, so row 3 keeps its mask by the linear pseudo-label alone
    p = masks(m, logs)
    assert float(p.prob[3].max()) == pytest.approx(.3 * .05 + .7)
    p = masks(semi(alpha=0.0, threshold=0.7), logs)
    assert p.mask.tolist() == [1, 0, 0, 1]


def test_a_row_stays_by_the_linear_pseudo_label_when_the_blend_is_unsure():
    m = semi(alpha=1.0, u_norm="max", threshold=0.7, t_proto=1e-3)
    fill(m.blend.bank, {0: [0, 0, 0, 0], 1: [9, 9, 9, 9], 2: [8, 8, 8, 8]})
    m.blend.u.copy_(f64([0.25, 1, 1]))
    p = masks(m, f64([[.05, .90, .05], [.3, .35, .35]]).log())
    close(p.prob[0], [.05 * (1 - 7 / 32) + 7 / 32, .90 / 8, .05 / 8])
    assert p.prob.max() < .7 and p.mask.tolist() == [1, 0] and p.label.tolist() == [0, 0]
    close(p.confidence, p.prob.amax(-1), 0)


def test_the_adjusted_pseudo_label_and_the_mask_of_the_balanced_head():
    m = semi(threshold=0.8, alpha=0.0)
    prob = np.array([[.80, .19, .01], [.98, .01, .01], [.34, .33, .33], [.90, .05, .05]])
    adjusted = prob / np.array(PI) ** 2                                      # p^h up to a factor: tau_12 = 2
    adjusted /= adjusted.sum(-1, keepdims=True)
    balanced = f64([[0, 0, 0], [3, 0, 0], [0, 0, 0], [0, 0, 0]])
    p = masks(m, f64(prob).log(), balanced)
    assert p.label_b.tolist() == adjusted.argmax(-1).tolist() == [1, 0, 2, 2]
    assert adjusted.max(-1).round(3).tolist() == [.643, .615, .787, .618] and p.mask_b.tolist() == [0, 1, 0, 0]
    p = masks(semi(threshold=0.78, alpha=0.0), f64(prob).log(), balanced)
    assert p.mask_b.tolist() == [0, 1, 1, 0]                                 # row 1 by the balanced head, row 2 by p^h


def test_the_supervised_terms():
    m = semi()
    v = views(l=view(kit.A.X, kit.A.X), w=view(kit.A.W, kit.A.W), s1=view(kit.A.S1, kit.A.S1),
              s2=view(kit.A.S2, kit.A.S2))
    batch = SimpleNamespace(y=kit.A.y)
    losses = kit.values(m.terms(v, batch, m.pseudo(v, batch, kit.time(0)), kit.time(0)))
    close(losses["x"], 0.896378)
    close(losses["x_b"], 2.063920)


def test_the_entropy_weights():
    half = 1.5 * math.log(2) / math.log(3)                     # H / log C of (1/2, 1/4, 1/4)
    close(paper.entropy_weight(f64([[1 / 3] * 3, [1, 0, 0], [.5, .25, .25]]), .75), [1, .25, .75 * half + .25], 1e-6)
    close(paper.entropy_weight(f64([[1, 0, 0]]), .3), [.7], 1e-6)
    assert paper.entropy_weight(f64([[1, 0, 0]]), .3, torch.zeros(())).tolist() == [1]


def test_the_unsupervised_terms_on_toy_tensors():
    """FixMatch's toy with two views: mask [1, 0, 1, 0] at 0.95; CE of both with argmax W; weights after the warm-up."""
    v = views(l=view(kit.A.X, kit.A.X), w=view(kit.A.W, kit.A.W), s1=view(kit.A.S1, kit.A.S2),
              s2=view(kit.A.S2, kit.A.S1))
    batch = SimpleNamespace(y=kit.A.y)
    m = semi(threshold=0.95, plce=False)
    weak = softmax(kit.A.W.numpy())
    rows = np.stack([cross_entropy(s.numpy(), [0, 1, 2, 1]) for s in (kit.A.S1, kit.A.S2)])
    close(rows[0], [0.407606, 0.958020, 0.839546, 0.407606])
    mask = np.array([1, 0, 1, 0])
    w = .75 * -(weak * np.log(weak)).sum(-1) / math.log(3) + .25
    for step, weight in ((0, np.ones(4)), (5, np.ones(4)), (6, w), (39, w)):
        t = kit.time(step)
        terms = m.terms(v, batch, m.pseudo(v, batch, t), t)
        close(kit.values(terms)["u"], (rows * mask * weight).sum() / 8)
    adjusted = softmax(kit.A.W.numpy() - 2 * np.log(PI))
    assert adjusted.argmax(-1).tolist() == [0, 2, 2, 1]
    mask_b = (weak.max(-1) >= .95) | (adjusted.max(-1) >= .95)
    rows_b = np.stack([cross_entropy(s.numpy(), [0, 2, 2, 1]) for s in (kit.A.S2, kit.A.S1)])
    close(kit.values(terms)["u_b"], (rows_b * mask_b).sum() / 8)


def test_embedding_alignment_and_its_centre():
    m = semi(threshold=0.95, plce=False, t_e=0.5, lambda_e=0.2)
    g = torch.Generator().manual_seed(3)
    f = {name: torch.randn(4, 4, generator=g, dtype=torch.float64) for name in ("l", "w", "s1", "s2")}
    v = views(l=view(kit.A.X.repeat(2, 1), kit.A.X.repeat(2, 1), f["l"]), **{
        name: view(z, z, f[name]) for name, z in (("w", kit.A.W), ("s1", kit.A.S1), ("s2", kit.A.S2))})
    batch, qbar = SimpleNamespace(y=kit.A.y.repeat(2)), np.zeros(4)
    for step in range(9):
        t = kit.time(step)
        p = m.pseudo(v, batch, t)
        loss = kit.values(m.terms(v, batch, p, t))["e"]
        q = softmax((f["w"].numpy() - qbar) / 0.1)
        rows = np.stack([cross_entropy(f[s].numpy() / 0.5, q) for s in ("s1", "s2")])
        close(loss, 0.2 * (rows * np.array([0, 1, 0, 1])).sum() / 8 if step >= 6 else 0.0, 1e-9)
        assert (float(loss) > 0) == (step >= 6)
        close(m.align.qbar, qbar, 1e-9)                              # before its update, which comes after its use
        m.end_step(v, batch, p, t)
        if step >= 6:
            qbar = 0.9 * qbar + 0.1 * q.mean(0)
        close(m.align.qbar, qbar, 1e-9)
    assert abs(qbar.sum() - (1 - .9 ** 3)) < 1e-9


# ---- the state ------------------------------------------------------------------------------------------------------


def count_only(m, weak, steps: range) -> None:
    v = views(l=view(weak, weak), w=view(weak, weak), s1=view(weak, weak), s2=view(weak, weak))
    for step in steps:
        t = kit.time(step, m.info.steps)
        m.end_step(v, None, m.pseudo(v, None, t), t)


def test_u_is_the_share_of_each_class_among_the_confident_pseudo_labels_so_far():
    m = semi(threshold=0.7)
    sure = f64([[.8, .1, .1], [.9, .05, .05], [.1, .8, .1], [.6, .2, .2]]).log()      # the last row is not counted
    count_only(m, sure, range(4))
    assert m.blend.u.tolist() == [1, 1, 1] and m.blend.used.tolist() == [8, 4, 0]
    count_only(m, sure, range(4, 5))                                                  # the epoch ends here
    close(m.blend.u, [2 / 3, 1 / 3, 0], 1e-7)
    count_only(m, sure[[2, 2, 2, 2]], range(5, 9))
    close(m.blend.u, [2 / 3, 1 / 3, 0], 1e-7)
    count_only(m, sure[[2, 2, 2, 2]], range(9, 10))
    assert m.blend.used.tolist() == [10, 25, 0]                                             # since training began
    close(m.blend.u, [10 / 35, 25 / 35, 0], 1e-7)


def test_u_keeps_its_value_while_nothing_has_been_counted():
    for m in (semi(threshold=1.0), semi(threshold=1.0, u_from_blend=True)):
        count_only(m, torch.zeros(4, 3, dtype=torch.float64), range(10))
        assert m.blend.u.tolist() == [1, 1, 1] and m.blend.used.tolist() == [0, 0, 0]


def test_u_in_float64_has_the_precision_of_float64():
    m = semi(threshold=0.7)
    count_only(m, f64([[.8, .1, .1], [.9, .05, .05], [.1, .8, .1], [.6, .2, .2]]).log(), range(5))
    close(m.blend.u, [2 / 3, 1 / 3, 0], 1e-15)


def test_the_bank_is_offered_the_rows_that_count_view_by_view():
    m = semi(threshold=0.7, plce=False, slots=8)
    z = f64([[.8, .1, .1], [.1, .8, .1], [.4, .3, .3], [.05, .05, .9]]).log()
    f1, f2 = torch.arange(16).view(4, 4).double(), 100 + torch.arange(16).view(4, 4).double()
    v = views(l=view(z, z), w=view(z, z), s1=view(z, z, f1), s2=view(z, z, f2))
    m.end_step(v, None, m.pseudo(v, None, kit.time(0)), kit.time(0))
    assert (m.blend.bank.confidence > 0).sum(1).tolist() == [2, 2, 2]
    for k, row in ((0, 0), (1, 1), (2, 3)):
        assert torch.equal(m.blend.bank.features[k, :2], torch.stack([f1[row], f2[row]]))
        close(m.blend.bank.confidence[k, :2], [z[row].exp().max()] * 2, 1e-9)


def test_the_bank_is_filled_from_the_first_step_and_read_before_it_is_pushed():
    m = semi(warmup=1, alpha=1.0, u_norm="max", epoch=1, threshold=0.4)
    steps = drive(m, 3)
    assert (steps[0].state["blend.bank.confidence"] > 0).any()
    fresh = semi(warmup=1, alpha=1.0, u_norm="max", epoch=1, threshold=0.4)
    fresh.load_state_dict(steps[0].state)
    p = fresh.pseudo(steps[1].v, None, kit.time(1))
    assert torch.equal(p.prob, steps[1].p.prob) and (p.prob != p.linear).any()
    fresh.load_state_dict(steps[1].state)
    assert not torch.equal(fresh.pseudo(steps[1].v, None, kit.time(1)).prob, p.prob)


def test_nothing_but_fixmatch_and_the_second_head_acts_in_the_warm_up():
    for s in drive(semi(warmup=20), 20):
        assert torch.equal(s.p.prob, s.p.linear) and float(s.losses["e"]) == 0
        rows = torch.cat([s.v[k]["head"] for k in ("s1", "s2")])
        want = cross_entropy(rows.numpy(), s.p.label.repeat(2).numpy()) * s.p.mask.repeat(2).numpy()
        close(s.losses["u"], want.mean(), 1e-9)
        assert not s.state["align.qbar"].any()
    m = semi(warmup=20)
    [s] = drive(m, 1)
    acted = m.acted(s.v, None, s.p, kit.time(19), {})
    assert not any(bool(acted[name]) for name in ("oheml", "plce", "e"))


def test_an_empty_bank_never_divides_by_zero():
    """Nothing is ever sure, so the bank stays empty and u uncounted; also where the release reads zeros."""
    for options in ({}, {"u_norm": "max"}, {"bank_balance": False}, {"preset": "readme"}, {"shifted_bank": True},
                    {"empty_as_zero": True, "u_norm": "max"}):
        m = semi(**{"threshold": 1.0, **options})
        for s in drive(m, 40, spread=0.1):
            assert all(torch.isfinite(x).all() for x in (s.p.prob, *s.losses.values(), *s.state.values()))
            assert not s.state["blend.bank.confidence"].any()
            if "preset" not in options and not options.get("empty_as_zero"):
                assert torch.equal(s.p.prob, s.p.linear)


# ---- gradients ------------------------------------------------------------------------------------------------------


def gradient_rows(m, rows: int = 8):
    """How many rows of the logits and features of each view the loss reaches, by (view, what)."""
    v, batch = kit.drawn(0, rows=rows, spread=0.5)
    names, parts = ("l", "w", "s1", "s2"), ("head", "balanced", "f")
    leaves = {(name, part): (v[name].f if part == "f" else v[name][part]).clone().requires_grad_()
              for name in names for part in parts}
    v = views(**{name: view(*(leaves[name, part] for part in parts)) for name in names})
    t = kit.time(20)
    with torch.no_grad():
        p = m.pseudo(v.detach(), batch, t)
    losses = kit.values(m.terms(v, batch, p, t))
    sum(losses.values()).backward()
    assert not any(x.requires_grad for x in (*m.buffers(), *vars(p).values()) if isinstance(x, torch.Tensor))
    return p, {k: 0 if x.grad is None else int(x.grad.abs().sum(-1).gt(0).sum()) for k, x in leaves.items()}


def test_no_gradient_reaches_pseudo_labels_bank_or_weak_views():
    m = kit.method("semi", {**SHORT, "threshold": 0.45}, batch=8)
    fill(m.blend.bank, {0: [0, 0, 0, 0], 1: [1, 1, 1, 1], 2: [2, 0, 2, 0]})
    p, reached = gradient_rows(m)
    sure, unsure = int(p.mask.sum()), int((1 - p.mask).sum())
    assert 0 < sure < 8
    sure_b = int(p.mask_b.sum())
    assert reached == {("l", "head"): 8, ("l", "balanced"): 8, ("l", "f"): 0,
                       ("w", "head"): 0, ("w", "balanced"): 0, ("w", "f"): 0,
                       ("s1", "head"): sure, ("s1", "balanced"): sure_b, ("s1", "f"): unsure,
                       ("s2", "head"): sure, ("s2", "balanced"): sure_b, ("s2", "f"): unsure}


def test_with_misaligned_features_alignment_reaches_labelled_and_weak_images():
    """At B = 64, 32 + 32 of its 128 rows."""
    m = kit.method("semi", {**SHORT, "threshold": 1.0, "misaligned_features": True}, batch=64)
    p, reached = gradient_rows(m, rows=64)
    assert not p.mask.any()
    assert {k: n for (k, what), n in reached.items() if what == "f"} == {"l": 32, "w": 32, "s1": 32, "s2": 32}


# ---- switches -------------------------------------------------------------------------------------------------------

OFF = {  # a switch and the value that it stands for
    "plce": {"alpha": 0.0}, "oheml": {"scale": 0.0}, "logit_align": {"tau_2": 0.0, "tau_12": 0.0},
    "embedding_align": {"lambda_e": 0.0}, "bank_decay": {"beta": 1.0}}


def same_steps(a, b, but: tuple[str, ...] = ()) -> bool:
    """Whether two drives agree to the last bit in losses and state, but for some names."""
    for s, other in zip(a, b, strict=True):
        for x, y in ((s.losses, other.losses), (s.state, other.state)):
            names = {n for n in x.keys() | y.keys() if not n.startswith(but)} if but else x.keys() | y.keys()
            if any(n not in x or n not in y or not torch.equal(x[n], y[n]) for n in names):
                return False
    return True


ACTIVE = dict(u_norm="max", alpha=1.0, beta=0.7, threshold=0.6)


@pytest.mark.parametrize("switch", OFF)
def test_a_switch_stands_for_its_value(switch):
    on, off, value = (drive(semi(**{**ACTIVE, **change}), 30) for change in ({}, {switch: False}, OFF[switch]))
    assert same_steps(off, value) and not same_steps(on, off)


def losses_that_differ(a, b) -> set[str]:
    return {name for s, other in zip(a, b, strict=True) for name in s.losses.keys() | other.losses.keys()
            if name not in s.losses or name not in other.losses or not torch.equal(s.losses[name], other.losses[name])}


@pytest.mark.parametrize("switch, losses, state", [
    ("plce", {"u", "e"}, ("blend.bank.",)),             # the pseudo-label, so also what is masked, weighted and offered
    ("oheml", {"u"}, ()),
    ("logit_align", {"x_b", "u_b"}, ("adjust",)),
    ("embedding_align", {"e"}, ()),
    ("balanced_head", {"x_b", "u_b"}, ()),
    ("bank_decay", {"u", "e"}, ("blend.bank.",)),
    ("bank_balance", {"u", "e"}, ("blend.bank.",))])
def test_a_switch_changes_what_it_should_and_nothing_else(switch, losses, state):
    options = {**ACTIVE, "slots": 2, "t_proto": 1.0}
    on, off = drive(semi(**options), 40), drive(semi(**{**options, switch: False}), 40)
    differ = losses_that_differ(on, off)
    assert differ and differ <= losses
    for name in on[-1].state:
        if not name.startswith(state or ("nothing",)):
            assert all(torch.equal(s.state[name], other.state[name]) for s, other in zip(on, off, strict=True)), name


def test_without_blend_the_bank_changes_no_loss():
    options = dict(plce=False, threshold=0.6)
    base = drive(semi(**options), 30)
    for change in ({"bank_decay": False}, {"bank_balance": False}, {"slots": 1}, {"beta": 0.1}, {"u_norm": "max"}):
        assert losses_that_differ(base, drive(semi(**{**options, **change}), 30)) == set(), change


def test_switches_choose_heads_prediction_and_components():
    one, two = semi(balanced_head=False), semi()
    assert list(one.heads()) == ["head"] and list(two.heads()) == ["head", "balanced"]
    net = {"head": "by the standard head", "balanced": "by the balanced head"}
    assert one.predict(lambda x: net, None) == net["head"] and two.predict(lambda x: net, None) == net["balanced"]
    assert list(two.must_act) == ["u", "u_b", "oheml", "plce", "e"]
    off = dict(balanced_head=False, oheml=False, plce=False, embedding_align=False)
    assert list(semi(**off).must_act) == ["u"]
    assert set(semi(bank_decay=False).durations()) == {"warmup", "epoch"}


ALL_OFF = dict(threshold=0.95, balanced_head=False, logit_align=False, oheml=False, plce=False, embedding_align=False)


@pytest.mark.parametrize("threshold", [0.95, 0.3])
def test_with_all_of_its_switches_off_semi_is_fixmatch_with_two_strong_views_loss_for_loss(threshold):
    short = {name: SHORT[name] for name in ("warmup", "epoch", "decay_every")}
    a = kit.trainer("semi", {**ALL_OFF, **short, "warmup": 2, "threshold": threshold})
    b = kit.trainer("fixmatch", {"threshold": threshold})
    losses = kit.losses_of(a, range(8))
    assert losses == kit.losses_of(b, range(8))
    assert [set(step) for step in losses] == [{"x", "u"}] * 8 and (threshold == 0.95 or losses[-1]["u"] > 0)
    kit.same_state(a.net.state_dict(), b.net.state_dict())
    kit.same_state(a.average.net.state_dict(), b.average.net.state_dict())
    assert torch.equal(a.evaluate(), b.evaluate())


def test_with_one_head_semi_is_fixmatch_until_the_warm_up_ends():
    a = kit.trainer("semi", {**SHORT, "warmup": 3, "threshold": 0.3, "balanced_head": False})
    b = kit.trainer("fixmatch", {"threshold": 0.3})
    have, want = kit.losses_of(a, range(5)), kit.losses_of(b, range(5))
    equal = [x["u"] == y["u"] and x["x"] == y["x"] for x, y in zip(have, want, strict=True)]
    assert equal == [True, True, True, False, False]


# ---- presets --------------------------------------------------------------------------------------------------------

CELLS = {
    "cifar10 1500/3000": dict(dataset="cifar10", n1=1500, m1=3000, gamma_l=100.0),
    "cifar10 500/4000": dict(dataset="cifar10", n1=500, m1=4000, gamma_l=100.0),
    "cifar10 500/4000 at 150": dict(dataset="cifar10", n1=500, m1=4000, gamma_l=150.0),
    "cifar100 150/300": dict(dataset="cifar100", n1=150, m1=300, gamma_l=10.0),
    "cifar100 50/400": dict(dataset="cifar100", n1=50, m1=400, gamma_l=20.0)}
MANY = [name for name in CELLS if name.startswith("cifar100")]


def preset(name: str, cell: str, steps: int = 250_000):
    return kit.method("semi", {"preset": name}, steps=steps, batch=64, **CELLS[cell])


@pytest.mark.parametrize("cell", CELLS)
def test_presets_hold_the_published_values(cell):
    """Values of the paper, of the script's defaults, and of its published commands; durations in steps of 250,000."""
    common = dict(t_proto=0.1, slots=128, scale=0.75, lambda_e=0.15, beta=0.99, tau_2=2.0, tau_12=2.0, centre=0.9,
                  u_norm="share")
    parts = ("balanced_head", "logit_align", "oheml", "plce", "bank_decay", "bank_balance", "embedding_align")
    common |= dict.fromkeys(parts, True)
    every = 200 if cell in MANY else 100
    late = cell in MANY or "500/4000" in cell
    want = {
        "paper": dict(threshold=0.7, alpha=0.4, t_e=0.1, steps=(3000, 500, every), defects=False),
        "released": dict(threshold=0.95, alpha=0.0, t_e=0.1, steps=(3000, 500, 50), defects=True),
        "readme": dict(threshold=0.7, alpha=0.4, t_e=0.09, steps=(10_500 if late else 1500, 500, every), defects=True)}
    for name, values in want.items():
        m = preset(name, cell)
        steps, defects = values.pop("steps"), values.pop("defects")
        assert (m.warmup, m.epoch, m.decay_every) == steps, name
        assert {d: getattr(m.cfg, d) for d in DEFECTS} == dict.fromkeys(DEFECTS, defects), name
        for option, value in {**common, **values, "preset": name}.items():
            assert getattr(m.cfg, option) == value, (name, option)


def test_there_are_seven_defects_to_switch_and_paper_is_the_default():
    assert len(DEFECTS) == 7
    assert kit.method("semi", steps=250_000).cfg == kit.method("semi", {"preset": "paper"}, steps=250_000).cfg


@pytest.mark.parametrize("options", [{}, ACTIVE, {**ACTIVE, "bank_balance": False}])
def test_with_its_defects_off_the_registered_method_is_the_paper_s(options, monkeypatch):
    registered = semi(**options)
    monkeypatch.setitem(METHODS, "semi", paper.SeMi)
    plain = semi(**options)
    assert type(registered) is SeMi and type(plain) is paper.SeMi
    assert same_steps(drive(registered, 40), drive(plain, 40))
    assert vars(registered.cfg) == {**vars(plain.cfg), **dict.fromkeys(DEFECTS, False)}
    with pytest.raises(BadInput, match="option of semi='shifted_bank': unknown"):
        semi(shifted_bank=True)


def test_committed_runs_with_semi_s_options_keep_their_keys():
    records = [json.loads(file.read_text()) for file in (ROOT / "results" / "study-small").glob("*/run.json")]
    kept = [r for r in records if r["config"]["method"] == "semi" or r["config"]["add"]]
    assert {name for r in kept for name in DEFECTS if r["config"]["options"].get(name)} == set(DEFECTS)
    for r in kept:
        run = Run(**r["config"])
        assert run.key == r["key"] and run.identity().items() <= r["config"].items()


def test_presets_scale_their_durations_with_the_run_and_give_way_to_what_is_given():
    m = preset("paper", "cifar10 1500/3000", steps=25_000)
    assert (m.warmup, m.epoch, m.decay_every) == (300, 50, 10)
    m = kit.method("semi", {"preset": "readme", "warmup": 7, "alpha": 0.1, "u_from_blend": False}, steps=250_000)
    assert m.warmup == 7 and m.alpha == 0.1 and not m.cfg.u_from_blend and m.cfg.shifted_bank
    with pytest.raises(BadInput, match="preset='papre': unknown; did you mean 'paper'"):
        kit.method("semi", {"preset": "papre"})


# ---- the defects of the release -------------------------------------------------------------------------------------

RELEASED = dict(preset="released", warmup=2, epoch=5, decay_every=3, threshold=0.6, slots=4)


def released_losses(**change) -> list[dict[str, float]]:
    return kit.losses_of(kit.trainer("semi", {**RELEASED, **change}), range(11))


@pytest.fixture(scope="module")
def released():
    return released_losses()


@pytest.mark.parametrize("defect", DEFECTS)
def test_in_the_released_preset_only_defects_1_and_5_change_a_loss(defect, released):
    """alpha is 0 there: bank, prototypes and u never reach a loss."""
    right = released_losses(**{defect: False})
    assert (right != released) == (defect in ("misaligned_features", "droplast_prior"))
    if defect == "misaligned_features":                        # L_e, from the end of the warm-up on
        assert right[:2] == released[:2] and right[2]["e"] != released[2]["e"]
        assert all(right[2][k] == released[2][k] for k in ("x", "x_b", "u", "u_b"))
    if defect == "droplast_prior":
        first, other = right[0], released[0]
        assert first["x_b"] != other["x_b"] and all(first[k] == other[k] for k in ("x", "u", "e"))


def test_the_bank_of_the_released_preset_is_in_use_all_the_same():
    t = kit.trainer("semi", RELEASED)
    kit.losses_of(t, range(6))
    assert (t.method.blend.bank.confidence > 0).any() and t.method.blend.used.sum() > 0 and t.method.alpha == 0


README = {**dict.fromkeys(DEFECTS, False), "preset": "readme", "warmup": 2, "epoch": 5, "decay_every": 3,
          "threshold": 0.6, "slots": 60, "u_norm": "max", "beta": 0.7}


def drive_readme(**change):
    """With class counts over a drop-last pass that leave two images of class 0 out."""
    first_pass = torch.arange(3).repeat_interleave(torch.tensor([5, 2, 1]))
    return drive(kit.method("semi", {**README, **change}, first_pass=first_pass, batch=16), 40)


@pytest.mark.parametrize("defect, states, losses", [
    ("misaligned_features", {"blend.bank.stored", "align.qbar"}, {"e", "u"}),
    ("shifted_bank", {"blend.bank.stored"}, {"u"}),
    ("empty_as_zero", set(), {"u"}),
    ("droplast_prior", {"adjust_x", "adjust_u"}, {"x_b", "u_b"}),
    ("u_from_blend", {"blend.used", "blend.u"}, {"u"}),
    ("r_by_epoch_length", {"blend.bank.confidence"}, {"u"}),
    ("decay_restarts", {"blend.bank.confidence"}, {"u"})])
def test_each_defect_alone_moves_what_it_should_in_the_readme_preset(defect, states, losses):
    right, wrong = drive_readme(), drive_readme(**{defect: True})
    differ = losses_that_differ(right, wrong)
    assert losses <= differ
    assert differ <= ({"x_b", "u_b"} if defect == "droplast_prior" else {"u", "e"})
    moved = {name for s, other in zip(right, wrong, strict=True) for name in s.state
             if not torch.equal(s.state[name], other.state[name])}
    assert states <= moved
    assert defect == "droplast_prior" or not moved & {"adjust_x", "adjust_u"}
    assert defect == "u_from_blend" or not moved & {"blend.used", "blend.u"}


def test_misaligned_features_are_those_of_row_4_j_plus_g():
    """Row j of group g of the joined batch (labelled, weak, strong 1, strong 2), as slices of an interleaved batch."""
    rows = 64
    joined = np.arange(4 * rows)
    interleaved = joined.reshape(rows, 4).T.reshape(-1)                    # of four equal parts, as the release does it
    m = kit.method("semi", {**SHORT, "misaligned_features": True}, batch=rows)
    numbers = torch.from_numpy(joined).double().view(4, rows, 1)
    v = views(**{name: view(torch.zeros(rows, 3), None, numbers[g]) for g, name in enumerate(("l", "w", "s1", "s2"))})
    f = {name: x.f.flatten().long().numpy() for name, x in m.features(v).items()}
    for g, name in enumerate(("l", "w", "s1", "s2")):
        assert (f[name] == 4 * np.arange(rows) + g).all() and (f[name] == interleaved[g * rows:(g + 1) * rows]).all()
    assert (f["s"] == np.concatenate([f["s1"], f["s2"]])).all()
    part, image = np.divmod(f["s"], rows)                                 # where the rows of the strong views come from
    own = (part > 0) & (image == np.tile(np.arange(rows), 2))              # a view of the image that they stand for
    assert own[:rows].sum() == 1 and own.sum() == 2 and (part == 0).mean() == 0.25
    weak = np.tile(f["w"], 2)
    assert not ((weak // rows > 0) & (part > 0) & (weak % rows == image)).any()   # alignment pairs no image with itself
    assert kit.method("semi", SHORT, batch=rows).features(v) is v


def test_misaligned_features_ask_for_four_equal_parts():
    with pytest.raises(BadInput, match="mu=2"):
        kit.method("semi", {**SHORT, "misaligned_features": True}, mu=2)


def test_the_droplast_prior_leaves_out_what_a_full_pass_left_over():
    first_pass = torch.tensor([0, 0, 1, 0, 2, 1, 0, 0])
    right, wrong = (kit.method("semi", {**SHORT, "droplast_prior": on}, first_pass=first_pass) for on in (False, True))
    close(right.adjust_x, 2 * np.log([.7, .2, .1]), 1e-9)
    close(wrong.adjust_x, 2 * np.log([5 / 8, 2 / 8, 1 / 8]), 1e-9)
    close(wrong.adjust_u, wrong.adjust_x, 0)
    t = kit.trainer("semi", {**SHORT, "warmup": 2, "droplast_prior": True})
    pass_ = t.method.info.first_pass
    assert len(pass_) == 32 and t.method.info.n_labelled == 33
    left_out = t.method.info.counts - torch.bincount(pass_, minlength=4)
    assert sorted(left_out.tolist()) == [0, 0, 0, 1]
    close(t.method.adjust_x.double(), 2 * (torch.bincount(pass_, minlength=4) / 32).double().log(), 1e-5)


def decay_steps(m, steps: int) -> list[int]:
    """The steps, counted from 1, after which the bank decays."""
    seen = []
    m.blend.bank.decay = lambda now, beta: seen.append(bool(now))
    v, batch = kit.drawn(0, rows=1)
    p = m.pseudo(v, batch, kit.time(0))
    for step in range(steps):
        m.end_step(v, batch, p, kit.time(step, m.info.steps))
    return [i + 1 for i, now in enumerate(seen) if now]


def test_the_decay_counter_restarts_with_each_epoch_in_the_release():
    """At a tenth of the published lengths, which are 500 and 200, 50 or 100 steps."""
    given = dict(epoch=50, decay_every=20, warmup=300, slots=1)
    right, wrong = (kit.method("semi", {**given, "decay_restarts": on}, steps=25_000) for on in (False, True))
    assert decay_steps(right, 150) == [20, 40, 60, 80, 100, 120, 140]
    assert decay_steps(wrong, 150) == [20, 40, 70, 90, 120, 140]
    for every in (5, 10):                                  # the other published periods divide the epoch: no difference
        a, b = (kit.method("semi", {**given, "decay_every": every, "decay_restarts": on}, steps=25_000)
                for on in (False, True))
        assert decay_steps(a, 110) == decay_steps(b, 110) == list(range(every, 111, every))


def test_r_by_epoch_length_is_progress_only_when_epochs_are_as_many_as_steps_in_one():
    def pair(total):
        given = {**SHORT, "warmup": 1, "alpha": 1.0}
        given["epoch"] = 500
        return [kit.method("semi", {**given, "r_by_epoch_length": on}, steps=total) for on in (True, False)]

    wrong, right = pair(250_000)
    for step in (499, 500, 125_000, 249_999):
        close(strength(wrong, step), strength(right, step), 1e-12)
    wrong, right = pair(25_000)
    close([strength(wrong, 24_999), strength(right, 24_999)], [0.098, 0.98], 1e-12)          # semi.md 9, 7


def test_u_from_blend_counts_the_blended_pseudo_labels():
    for on in (False, True):
        m = semi(alpha=1.0, u_norm="max", threshold=0.7, t_proto=1e-3, u_from_blend=on)
        fill(m.blend.bank, {0: [0, 0, 0, 0]})
        weak = f64([[.55, .35, .10], [.20, .75, .05], [.75, .20, .05]]).log()
        v = views(l=view(weak, weak), w=view(weak, weak), s1=view(weak, weak), s2=view(weak, weak))
        m.end_step(v, None, m.pseudo(v, None, kit.time(39)), kit.time(39))
        assert m.blend.used.tolist() == ([3, 0, 0] if on else [1, 1, 0])


# ---- real training --------------------------------------------------------------------------------------------------


def test_on_images_every_component_acts_and_a_resumed_run_ends_alike(tmp_path):
    options = {**SHORT, "warmup": 3, "threshold": 0.5, "u_norm": "max"}
    t = kit.check_resume(lambda: kit.trainer("semi", options), 12, [2, 7], tmp_path)
    assert t.monitor.never_active(t.method.must_act) == []
    assert set(t.last_losses) == {"x", "u", "x_b", "u_b", "e"}
    assert all(math.isfinite(float(x)) for x in t.last_losses.values())


@pytest.mark.parametrize("options", [
    {}, {"preset": "released"}, {"preset": "readme", "shifted_bank": False}, {"bank_balance": False},
    {"empty_as_zero": True}, {"u_norm": "max", "bank_decay": False}])
def test_a_step_that_reads_a_value_back_says_that_it_cannot_be_captured(options):
    t = kit.trainer("semi", {**SHORT, "threshold": 0.3, **options})
    kit.losses_of(t, range(2))
    t.data.prepare(2)
    if t.method.capturable:
        with kit.Captured():
            t.compute_step()
    assert t.method.capturable or t.method.cfg.shifted_bank, "only the sequential bank may read back"


def test_parameters_do_not_see_the_bank():
    t = kit.trainer("semi", {**SHORT, "threshold": 0.3})
    assert not [name for name, _ in t.net.named_parameters() if "bank" in name]
    assert not list(t.method.parameters())
    assert all(not isinstance(b, torch.nn.Parameter) for b in t.method.blend.bank.buffers())
