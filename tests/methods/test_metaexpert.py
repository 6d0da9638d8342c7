"""Meta-Expert: its equations on toy tensors and row by row, its gate against the published sizes and a slow twin, the
regime's window step by step; CPE to the last bit before the start, the frozen gate of the release, and SeMi's
modules."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit import close, f64

from semilib.methods.cpe import Experts
from semilib.methods.losses import reduce
from semilib.methods.metaexpert import Depths, Gate, effective_weights, regime
from semilib.methods.semi import entropy_weight
from semilib.networks.backbones import make_backbone
from semilib.networks.net import Net, View, Views

COUNTS = (9, 6, 4, 2, 1)
EARLY = {"threshold": .3, "cut_1": 1, "cut_2": 2, "start": 4}              # of the 12 steps of kit.trainer


def drawn(rows: int = 8, classes: int = 5, seed: int = 0):
    """Views with logits of the experts and of the gate; labels."""
    g = torch.Generator().manual_seed(seed)

    def view(rows):
        def normal(*size):
            return 2 * torch.randn(*size, generator=g, dtype=torch.float64)
        return View({"experts": normal(rows, 3, 3, classes), "gate": normal(rows, 3)}, torch.zeros(rows, 4).double())
    v = Views({name: view(rows) for name in ("l", "w", "s1", "s2")}, ["s1", "s2"])
    return v, SimpleNamespace(y=torch.randint(0, classes, (rows,), generator=g),
                              known_u=torch.zeros(rows, dtype=torch.bool))


def step(m, v, batch, phase: str = "fused"):
    t = kit.time(0, phase=phase)
    p = m.pseudo(v, batch, t)
    return p, m.terms(v, batch, p, t)


# ---- the equations ---------------------------------------------------------------------------------------------------


def test_the_toy_tensors():
    m = kit.method("metaexpert", {"cut_1": 2, "cut_2": 4}, counts=(8, 4, 2, 1, 1))
    c, o = f64([[2, 1, 0, 0, 0], [1, 1, .5, 0, 0], [0, 0, 0, 1, 2]]), f64([[.4, .1, -.2]])
    d = f64([.3, 0, 0, 0, -.3])
    view = View({"experts": torch.stack([c + d, c, c - d], 1).unsqueeze(0), "gate": o}, torch.zeros(1, 4))
    w = m.weights(c.unsqueeze(0), o)
    close(w, [[.367122, .304356, .328523]])
    close((w.unsqueeze(-1) * c).sum(1), [[1.038599, .671477, .152178, .328523, .657045]])
    fused, each = m.fused(view)
    # printed with each row's least logit taken off first, which moves a row of F as a whole
    want = f64([4.708430, 3.008524, 1.156440, 0, .328523])
    close(fused[0] - fused[0, 3], want - want[3])
    want = f64([[2.121716, 1.110137, .110137, .110137, .098557], [1.121716, 1.110137, .610137, .110137, .098557],
                [.110137, .098557, .098557, 1.098557, 2.086977]])
    close(each[0] - each[0, :, :1], want - want[:, :1])


def test_the_weights_of_classes_and_groups():
    counts = (1500, 899, 539, 323, 193, 116, 69, 41, 25, 15)
    m = kit.method("metaexpert", counts=counts)
    close(m.omega, [.429686, .429737, .431602, .447086, .501819, .624235, .859091, 1.272320, 1.933964, 3.070461])
    close(m.omega_group, [.996614, .996786, 1.006600])
    assert m.group.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2, 2]
    close(effective_weights(f64([40, 20, 10, 5, 5]), .99), [.252672, .459334, .874747, 1.706623, 1.706623])
    close(effective_weights(f64([40, 20, 3]), 0.0), [1, 1, 1])
    moved = kit.method("metaexpert", counts=counts[::-1])
    close(moved.omega, m.omega.flip(0), 1e-12)
    assert moved.group.tolist() == m.group.tolist()[::-1] and torch.equal(moved.groups, m.groups.flip(1))
    assert all(torch.isfinite(x).all() for x in effective_weights(f64([[7, 0, 0], [1, 0, 3]]), .99))


@pytest.mark.parametrize("seen, rho", [
    ([1024, 1000, 900, 800, 700, 600, 400, 300, 200, 100], (1, 0, 0)), ([5] * 10, (0, 1, 0)),
    ([100, 200, 300, 400, 600, 700, 800, 900, 1000, 1024], (0, 0, 1)),
    ([1024, 1024, 1024, 1024, 1020, 1000, 980, 900, 700, 600], (0, 1, 0)),
    ([9, 9, 9, 9, 9, 9, 9, 9, 9, 0], (1, 0, 0)), ([0, 9, 9, 9, 9, 9, 9, 9, 9, 9], (0, 0, 1)),
    ([2, 1, 1, 1, 1, 1, 1, 1, 1, 1], (1, 0, 0)),                              # exactly 2 is not below 2
    ([1, 1, 1, 1, 9, 2, 9, 9, 9, 9], (1, 0, 0)), ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], (1, 0, 0)),
    ([0] * 9 + [1], (1, 0, 0))])
def test_the_regime_is_read_from_the_largest_and_the_least(seen, rho):
    half = torch.arange(10) < 5
    assert tuple(regime(f64(seen), half).tolist()) == rho
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert tuple(regime(f64(seen)[order], half[order]).tolist()) == rho


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("counts", [COUNTS, (2, 9, 1, 6, 4)])
def test_the_fused_and_the_gate_s_losses_row_by_row(counts, masked):
    """A slow twin, with the release's z - min z, which changes nothing."""
    m = kit.method("metaexpert", {"threshold": .6, "cut_1": 1, "cut_2": 3, "lambda_u": .7, "masked": masked},
                   counts=counts)
    m.rho.copy_(f64([.2, .5, .3]))
    v, batch = drawn()
    p, terms = step(m, v, batch)
    pi = np.array(counts) / sum(counts)
    rank = {c: r for r, c in enumerate(sorted(range(5), key=lambda c: -counts[c]))}
    group = np.array([(rank[c] >= 1) + (rank[c] >= 3) for c in range(5)])

    def soft(z):
        return np.exp(z) / np.exp(z).sum()

    def lifted(z):
        return z - z.min()

    def read(name, i):
        """w, F, [F_1, F_2, F_3], o of one image."""
        z, o = v[name]["experts"][i].numpy(), v[name]["gate"][i].numpy()
        c = z.mean(1)
        w = soft(np.array([soft(c[k])[group == k].max() * soft(o)[k] for k in range(3)]))
        return (w, sum(w[k] * lifted(c[k] + tau * np.log(pi)) for k, tau in enumerate((0, 2, 4))),
                [sum(w[j] * lifted(z[k, j]) for j in range(3)) for k in range(3)], o)

    def omega(counts):
        out = np.array([.01 / (1 - .99**n) for n in counts])
        return out / out.sum() * len(out)
    om, om_g = omega(counts), omega([sum(np.array(counts)[group == g]) for g in range(3)])
    y = batch.y.tolist()
    rows = [read("l", i) for i in range(8)]
    close(reduce(terms["fused"]), sum(-om[c] * np.log(soft(r[1])[c]) for r, c in zip(rows, y)) / sum(om[y]), 1e-10)
    close(reduce(terms["gate"]),
          sum(-om_g[group[c]] * np.log(soft(r[3])[group[c]]) for r, c in zip(rows, y)) / sum(om_g[group[y]]), 1e-10)
    counted = 0
    want = {"fused_u1": 0.0, "fused_u2": 0.0, "fused_u3": 0.0, "gate_u": 0.0}
    for i in range(8):
        weak = read("w", i)
        for name, k in (("fused_u1", 0), ("fused_u2", 1), ("fused_u3", 2), ("gate_u", None)):
            prob = soft(weak[3] if k is None else weak[2][k])
            if not masked or prob.max() >= .6:
                counted += 1
                for strong in ("s1", "s2"):
                    z = read(strong, i)
                    scale = .7 * (1 if k is None else (.2, .5, .3)[k]) / 16
                    want[name] -= scale * np.log(soft(z[3] if k is None else z[2][k])[prob.argmax()])
    assert counted == 32 if not masked else 4 < counted < 30
    for name, value in want.items():
        close(reduce(terms[name]), value, 1e-10)
    assert set(p.branches) == {"u1", "u2", "u3", *want}


def test_before_the_start_nothing_but_cpe_is_computed():
    v, batch = drawn()
    for view in v.values():
        view.pop("gate")
    options = {"threshold": .5, "cut_1": 1, "cut_2": 3}
    p, terms = step(kit.method("metaexpert", options, counts=COUNTS), v, batch, "experts")
    q, want = step(kit.method("cpe", options, counts=COUNTS), v, batch)
    assert list(terms) == list(want) and set(p.branches) == set(q.branches)
    assert all(torch.equal(reduce(terms[name]), reduce(want[name])) for name in want)


# ---- when, and the regime's window -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, start, window",
                         [(250_000, 19_531, 977), (2**18, 20_480, 1024), (600, 47, 20), (24, 2, 2)])
def test_the_schedule_is_a_share_of_the_run(steps, start, window):
    m = kit.method("metaexpert", steps=steps)
    assert m.durations() == {"start": start, "window": window} and [s.start for s in m.phases()] == [0, start]


def sure_of(*classes: int, unsure: tuple[int, ...] = ()) -> Views:
    """A weak batch of one image each, sure for head 2 alone, then some that it is not sure of."""
    z = torch.zeros(len(classes) + len(unsure), 3, 3, 5).double()
    for i, c in enumerate((*classes, *unsure)):
        z[i, 1, :, c] = 9.0 if i < len(classes) else 1.0
        z[i, [0, 2], :, 3] = 9.0                                       # what the other heads are sure of is not counted
    return Views({"w": View({"experts": z}, torch.zeros(len(z), 4).double())}, [])


def walk(m, days: list[tuple[Views, list[int]]]) -> list[list[float]]:
    """Drive `end_step`; days: weak views and the rows of them that are labelled images too. `seen` after each."""
    out = []
    for i, (v, known) in enumerate(days):
        known_u = torch.zeros(len(v.w.f), dtype=torch.bool)
        known_u[known] = True
        batch = SimpleNamespace(known_u=known_u)
        t = kit.time(i, phase="experts" if i < m.start else "fused")
        p = SimpleNamespace(**vars(m.pseudo(v, batch, kit.time(i, phase="experts"))))
        m.end_step(v, batch, p, t)
        out.append(m.seen.tolist())
    return out


@pytest.mark.parametrize("frequency", [False, True])
def test_the_window_counts_the_classes_that_head_2_is_sure_of(frequency):
    m = kit.method("metaexpert", {"start": 4, "window": 2, "frequency": frequency}, counts=COUNTS, steps=2**18)
    days = [(sure_of(4, 4), []), (sure_of(4), []),                            # before the window of steps 2 and 3
            (sure_of(0, 0, 1, 2, unsure=(4,)), [2]),                          # the image of class 1 is a labelled one
            (sure_of(0, 2, 2, 1), []), (sure_of(4, 4, 4), []), (sure_of(3), [])]
    seen = walk(m, days)
    first, last = ([2, 0, 1, 0, 0], [3, 1, 3, 0, 0]) if frequency else ([1, 0, 1, 0, 0], [2, 1, 2, 0, 0])
    assert seen == [[0] * 5, [0] * 5, first, last, last, last]
    assert m.rho.tolist() == [1, 0, 0] and m.decided


@pytest.mark.parametrize("days, rho", [
    ([(0, 1, 2, 3, 4)] * 4, [0, 1, 0]), ([(0, 1, 2, 3, 4), (1, 2, 3, 4), (2, 3, 4), (2, 3, 4)], [0, 0, 1]),
    ([(0, 1, 2, 3, 4), (0, 1), (0,), (0, 1, 2)], [1, 0, 0])])
def test_the_regime_is_fixed_at_the_start_by_the_counts_of_the_window(days, rho):
    m = kit.method("metaexpert", {"start": 4}, counts=COUNTS)
    undecided = []
    end_step = m.end_step
    m.end_step = lambda *args: (undecided.append((bool(m.decided), m.rho.tolist())), end_step(*args))
    walk(m, [(sure_of(*day), []) for day in [*days, (0,), (1,)]])
    assert undecided == [(False, [1 / 3] * 3)] * 4 + [(True, rho)] * 2
    assert m.decided and m.rho.tolist() == rho


def test_the_halves_are_those_of_the_labelled_counts():
    m = kit.method("metaexpert", {"start": 4}, counts=(1, 2, 9, 6, 4))                 # from head to tail 2, 3, 4, 1, 0
    walk(m, [(sure_of(*day), []) for day in [(0, 1, 2, 3, 4), (0, 1, 3, 4), (0, 1, 4), (0, 1, 4)]])
    assert m.rho.tolist() == [0, 0, 1] and m.first_half.tolist() == [False, False, True, True, False]


def test_a_window_without_a_sure_image_goes_on_until_it_has_one():
    m = kit.method("metaexpert", {"start": 4, "window": 3}, counts=COUNTS, steps=2**18)   # it ends after 4, 7, 10 steps
    days = [sure_of(unsure=(0, 1))] * 5 + [sure_of(3), sure_of(0, 1), sure_of(2)]
    rho = []
    end_step = m.end_step
    m.end_step = lambda *args: (end_step(*args), rho.append(m.rho.tolist()))
    seen = walk(m, [(day, []) for day in days])
    assert seen[4:] == [[0] * 5, [0, 0, 0, 1, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 0]]
    assert rho == [[1 / 3] * 3] * 6 + [[1, 0, 0]] * 2


# ---- the network -----------------------------------------------------------------------------------------------------


def network(name: str, variant: str, classes: int) -> Net:
    """Shapes without values."""
    with torch.device("meta"):
        backbone = make_backbone(name, variant)
        return Net(backbone, {"experts": Experts(backbone.features, classes),
                              "depths": Depths(backbone.map_widths, .001), "gate": Gate(backbone.map_widths, classes)})


def test_the_published_number_of_parameters():
    net = network("wrn-28-2", "USB", 10)
    assert sum(p.numel() for p in net.parameters()) == 1_669_889
    assert sum(p.numel() for p in net.heads["gate"].parameters()) == 198_435
    gate = net.heads["gate"]
    assert [(x.in_features, x.out_features) for x in (*gate.a, *gate.b, *gate.out)] == [
        (16, 32), (32, 64), (64, 128), (128, 256), (32, 64), (64, 128), (128, 256), (256, 256), (286, 128), (128, 64),
        (64, 3)]
    assert all((n.eps, n.momentum) == (1e-3, 1e-3) for n in net.heads["depths"].norms)


@pytest.mark.parametrize("name, widths", [("resnet50", (256, 512, 1024, 2048)), ("wrn-10-0.25", (4, 4, 8, 16)),
                                          ("wrn-28-8", (16, 128, 256, 512))])
def test_widths_follow_the_backbone(name, widths):
    net = network(name, "V1", 127)
    v = net(torch.zeros(2, 3, 32, 32, device="meta"))
    assert net.backbone.map_widths == widths and v["depths"].shape == (2, sum(widths))
    assert v["experts"].shape == (2, 3, 3, 127)
    assert net.heads["gate"](v["depths"], v["experts"].mean(2)).shape == (2, 3)


def slow_prediction(net: Net, x: torch.Tensor, m) -> torch.Tensor:
    """sum_k w_k c_k from the parts of the network and the parameters' names, in eval mode."""
    b, p = net.backbone, dict(net.named_parameters()) | dict(net.named_buffers())
    n = len(b.blocks) // 3
    maps = [b.stem(x)]
    for i in range(3):
        maps.append(b.blocks[i * n:(i + 1) * n](maps[-1]))

    def layer(name, x):
        return F.silu(x @ p[f"heads.gate.{name}.weight"].T + p[f"heads.gate.{name}.bias"])

    def pooled(i):
        weight, bias, mean, var = (p[f"heads.depths.norms.{i}.{part}"].view(1, -1, 1, 1)
                                   for part in ("weight", "bias", "running_mean", "running_var"))
        z = (maps[i] - mean) / torch.sqrt(var + 1e-3) * weight + bias
        return torch.where(z > 0, z, .1 * z).mean((2, 3))
    f1 = layer("a.0", pooled(0))
    f2 = layer("a.1", pooled(1) + f1)
    f3 = layer("a.2", pooled(2) + f2)
    f4 = layer("a.3", pooled(3) + f3)
    g = layer("b.3", f4 + layer("b.2", f3 + layer("b.1", f2 + layer("b.0", f1))))
    c = net.heads["experts"](F.leaky_relu(b.bn(maps[3]), .1)).mean(2)
    taus, prior = (0, 2, 4), m.info.prior()
    o = torch.cat([g, *((c[:, k] + taus[k] * prior.log()).softmax(1) for k in range(3))], 1)
    for i in range(3):
        o = layer(f"out.{i}", o)
    best = torch.stack([c[:, 0].softmax(1)[:, 0], c[:, 1].softmax(1)[:, 1], c[:, 2].softmax(1)[:, 2:].amax(1)], 1)
    w = (best * o.softmax(1)).softmax(1)
    return sum(w[:, k:k + 1] * c[:, k] for k in range(3))


def test_the_prediction_is_the_gated_sum_of_the_three_heads():
    t = kit.trainer("metaexpert", EARLY, precision="fp64")
    kit.losses_of(t, range(8))
    x = t.data.normalise(t.source.test_images, t.dtype)
    with torch.no_grad():
        have = t.method.predict(t.average.net, x)
        torch.testing.assert_close(have, slow_prediction(t.average.net, x, t.method), rtol=1e-9, atol=1e-10)
    assert t.evaluate().sum() == len(t.test_y)


# ---- training --------------------------------------------------------------------------------------------------------


def test_until_the_start_it_is_cpe_to_the_last_bit():
    cpe = kit.trainer("cpe", {k: v for k, v in EARLY.items() if k != "start"})
    meta = kit.trainer("metaexpert", EARLY)
    gate = {k: v.clone() for k, v in meta.net.heads["gate"].state_dict().items()}
    assert kit.losses_of(cpe, range(4)) == kit.losses_of(meta, range(4))
    for a, b in ((cpe.net, meta.net), (cpe.average.net, meta.average.net)):
        shared = {k: v for k, v in b.state_dict().items() if ".depths." not in k and ".gate." not in k}
        kit.same_state(a.state_dict(), shared)
    kit.same_state(gate, meta.net.heads["gate"].state_dict())                # nor does decay wear the gate down
    assert all(norm.running_mean.any() for norm in meta.net.heads["depths"].norms)
    first, = kit.losses_of(meta, range(4, 5))
    base, = kit.losses_of(cpe, range(4, 5))
    assert set(first) - set(base) == {"fused", "fused_u1", "fused_u2", "fused_u3", "gate", "gate_u"}
    assert {k: first[k] for k in base} == base                             # the network of step 4 is still the same one
    assert kit.losses_of(meta, range(5, 6))[0]["x1"] != kit.losses_of(cpe, range(5, 6))[0]["x1"]


def test_a_frozen_gate_keeps_its_values_and_lets_the_gradient_through():
    trained, frozen = (kit.trainer("metaexpert", {**EARLY, "official_frozen_gate": value}) for value in (False, True))
    start = {k: v.clone() for k, v in frozen.net.heads["gate"].state_dict().items()}
    kit.same_state(start, trained.net.heads["gate"].state_dict())
    # the first step with it moves neither's losses
    assert kit.losses_of(trained, range(5)) == kit.losses_of(frozen, range(5))
    for net in (frozen.net, frozen.average.net):
        kit.same_state(net.heads["gate"].state_dict(), start)
    assert all(p.grad is None for p in frozen.net.heads["gate"].parameters())
    assert not any(torch.equal(p, start[k]) for k, p in trained.net.heads["gate"].named_parameters())
    kit.same_state(frozen.net.backbone.state_dict(), trained.net.backbone.state_dict())
    kit.same_state(frozen.net.heads["depths"].state_dict(), trained.net.heads["depths"].state_dict())
    assert frozen.net.heads["depths"].norms[0].weight.grad.any(), "the only way to this norm is through the gate"
    assert kit.losses_of(trained, range(5, 7)) != kit.losses_of(frozen, range(5, 7))


def test_a_teacher_s_weak_view_goes_through_the_teacher_s_gate():
    t = kit.trainer("metaexpert", EARLY, policy="ema_eval")
    kit.losses_of(t, range(7))
    x = t.data.normalise(t.source.test_images, t.dtype)
    images = dict.fromkeys(("l", "w", "s1", "s2"), x)
    v = t.method.forward(t.net, images, SimpleNamespace(), kit.time(7, phase="fused"), t.average.net)
    with torch.no_grad():
        said = t.average.net(x)
        assert torch.equal(v.w["gate"], t.method.gate(t.average.net, said))
    assert not torch.equal(v.w["gate"], t.method.gate(t.net, said)) and v.s["gate"].requires_grad


@pytest.mark.parametrize("changes", [{}, {"official_frozen_gate": True}], ids=["trained", "frozen"])
def test_it_resumes_in_either_stage_to_the_last_bit(changes, tmp_path):
    t = kit.check_resume(lambda: kit.trainer("metaexpert", {**EARLY, **changes}), 8, [2, 4, 6], tmp_path)
    assert t.phase == "fused" and t.monitor.never_active(t.method.must_act) == []
    assert float(t.method.rho.sum()) == 1 and t.method.decided


def test_features_of_all_depths_keep_their_precision_beside_a_bf16_backbone():
    t = kit.trainer("metaexpert", EARLY, precision="bf16")
    losses = kit.losses_of(t, range(6))
    x = t.data.normalise(t.source.test_images, t.dtype)
    for net in (t.net.eval(), t.average.net):
        with torch.no_grad():
            assert net(x)["depths"].dtype == torch.float32 and t.method.predict(net, x).dtype == torch.float32
    assert all(np.isfinite(list(step.values())).all() for step in losses)


# ---- SeMi's modules --------------------------------------------------------------------------------------------------


def test_the_fused_heads_are_adjusted_as_the_three_are(monkeypatch):
    m = kit.method("metaexpert", {"threshold": .6}, counts=COUNTS)
    v, batch = drawn()
    seen = []
    monkeypatch.setattr(m, "pseudo_prob", lambda prob, *rest: seen.append(prob) or prob.flip(-1))
    p, terms = step(m, v, batch)
    close(torch.stack(seen[3:], 1), m.fused(v.w)[1].softmax(-1), 1e-12)
    label = seen[3].flip(-1).argmax(-1)
    close(terms["fused_u1"].rows, F.cross_entropy(m.fused(v.s)[1][:, 0], label.repeat(2), reduction="none"), 1e-12)
    assert len(seen) == 6 and torch.equal(p.branches["fused_u3"], seen[5].flip(-1))


def test_entropy_weights_act_on_the_fused_losses_by_their_own_entropy():
    v, batch = drawn()
    m = kit.method("metaexpert", {"semi_warmup": 0, "threshold": .5}, counts=COUNTS, add="oheml")
    _, plain = step(kit.method("metaexpert", {"threshold": .5}, counts=COUNTS), v, batch)
    _, terms = step(m, v, batch)
    each = m.fused(v.w)[1].softmax(-1)
    for name, prob in (("fused_u2", each[:, 1]), ("gate_u", v.w["gate"].softmax(-1))):
        want = (plain[name].rows * entropy_weight(prob, .75).repeat(2)).mean() * plain[name].scale
        close(reduce(terms[name]), want, 1e-10)
        assert reduce(terms[name]) < reduce(plain[name])
    assert torch.equal(reduce(terms["fused"]), reduce(plain["fused"]))


def test_all_three_modules_train_on_it_and_resume(tmp_path):
    options = {**EARLY, "threshold": .4, "plce_epoch": 2, "plce_decay_every": 2, "semi_warmup": 1}
    t = kit.check_resume(lambda: kit.trainer("metaexpert", options, add="oheml+plce+align"), 7, [5], tmp_path)
    assert t.monitor.never_active([*t.method.must_act, "oheml", "plce", "align"]) == []
