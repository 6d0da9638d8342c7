"""CoSSL on FixMatch, its second phase and the fit before it, beside the authors' code (see the package)."""
from types import SimpleNamespace

import torch
from torch import nn

from semilib.data.step import Notes

from .kit import F64, View, cossl, differences, load, method, mixed_step, optimisers, pixel_net, step

KEYS = dict(l="x", s1="s1_", s2="s2_")


def set_to(head: nn.Linear, weight, bias) -> nn.Linear:
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


def built(d):
    batch, classes, features = (int(d[key]) for key in ("B", "C", "D"))
    m = method("cossl", dict(threshold=0.8, represent=1), d["counts"], features, batch)
    return m, *(nn.Linear(features, classes, dtype=F64) for _ in range(3))


def test_phase_2_s_labels_features_losses_gradients_and_teacher_head_trained_along_are_the_release_s():
    d = load("cossl")
    m, teacher, average, student = built(d)
    for head in (teacher, average):
        set_to(head, d["W0"], d["b0"])
    net = SimpleNamespace(backbone=nn.Linear(1, 1), heads={"head": student, "teacher": teacher})
    adam = optimisers(m, net, 0.1)[1]
    with differences(1e-9) as same:
        for s in range(int(d["ES"])):
            yb = d[f"yb{s}"]
            with torch.no_grad():
                taught = teacher(d[f"fw{s}"])
                enhanced, use = m.enhance(d[f"fb{s}"], d[f"fm{s}"], yb, d[f"coin{s}"], d[f"share{s}"])
            same("enhanced features", enhanced, d[f"o_f{s}"])

            def prepare(v, batch, enhanced=enhanced):
                v["t"] = View({"teacher": teacher(enhanced)}, enhanced)
                return v
            recorded = {name: {"head": d[f"{key}{s}"]} for name, key in KEYS.items()}
            recorded["w"] = {"head": torch.zeros_like(d[f"x{s}"])}
            batch = dict(y=d[f"y{s}"], targets={"balanced": yb}, notes=Notes(taught=taught, enhanced=enhanced, use=use))
            out = step(m, recorded, batch, s, "cotrain", prepare, dict(teacher.named_parameters()))
            for name, parameter in teacher.named_parameters():
                parameter.grad = out.grads[name]
            adam.step()
            with torch.no_grad():
                for a, b in zip(average.parameters(), teacher.parameters()):
                    a.lerp_(b, 0.1)
            for name in "xut":
                same(f"loss {name}", out.losses[name], d[f"o_{name}{s}"])
            same("target rows", out.p.prob, d[f"o_q{s}"])
            same("mask", out.p.mask, d[f"o_m{s}"])
            same("label", out.p.label, d[f"o_lab{s}"])
            for i, name in enumerate(KEYS):
                same(f"gradient {name}", out.grads[name, "head"], d[f"o_g{i}_{s}"])
            for key, have in (("W", teacher.weight), ("b", teacher.bias), ("eW", average.weight), ("eb", average.bias)):
                same(f"teacher {key}", have.detach(), d[f"o_{key}{s}"])


def rows_in_order(table):
    """The rows of a table [n, D] in one order, whatever the order of the sets."""
    keys = (table * 1e6).round().to(torch.int64).tolist()
    return table[sorted(range(len(table)), key=lambda i: keys[i])]


def test_the_imprint_and_the_set_filled_up_with_the_recorded_draws_are_the_release_s(monkeypatch):
    d = load("cossl")
    classes, features, y = int(d["C"]), d["fl"], d["yl"]
    draws = iter([(d[f"draw_a{i}"], d[f"draw_l{i}"]) for i in range(classes - 1)])

    class Draws:
        """In place of the random numbers of `fill_up`: which image of the class (column 0) and the share (column 1)."""

        @staticmethod
        def words(seed, stream, step, n, width, device):
            return torch.stack([column.to(F64) for column in next(draws)], 1) if n else torch.zeros(0, 2, dtype=F64)

        integers = staticmethod(lambda w, n: w.long())
        uniform = staticmethod(lambda w: w)
        beta = staticmethod(lambda u, a: u)
    monkeypatch.setattr(cossl, "rng", Draws)
    with differences(1e-9) as same:
        rows = cossl.imprint(features, y, classes)
        same("imprint", rows, d["o_imprint"])
        ranks = torch.cat([features, d["fweak"]]) @ rows.T
        first, second, share, label = cossl.fill_up(ranks.softmax(-1), y, classes, 0)
        kept, share = torch.cat([features, d["fstrong"]]), share.unsqueeze(1)
        have = torch.cat([label.unsqueeze(1).to(F64), share * kept[first] + (1 - share) * kept[second]], 1)
        want = torch.cat([d["o_T"].unsqueeze(1).to(F64), d["o_F"]], 1)
        same("filled-up set", rows_in_order(have), rows_in_order(want))


def test_the_teacher_head_and_its_average_after_the_fit_on_recorded_rows_are_the_release_s(monkeypatch):
    d = load("cossl")
    m, head, average, _ = built(d)
    for one in (head, average):
        set_to(one, d["W0"] * 0.1, torch.zeros_like(d["b0"]))
    m.fit, n = len(d["rows"]), len(d["o_F"])
    monkeypatch.setattr(cossl, "passes", lambda *a: iter(d["rows"]))
    monkeypatch.setattr(cossl, "momentum_of", lambda momentum, total, of: 0.999)
    m.fit_head(head, average, d["o_F"], torch.arange(n), torch.arange(n), torch.ones(n, dtype=F64), d["o_T"])
    with differences(1e-9) as same:
        for key, have in (("W", head.weight), ("b", head.bias), ("eW", average.weight), ("eb", average.bias)):
            same(f"fit {key}", have.detach(), d[f"o_fit{key}"])


def test_phase_2_s_losses_mixed_targets_gradients_and_teacher_head_on_remixmatch_are_the_release_s(monkeypatch):
    """Six steps with the teacher head trained along, by plain descent. In the third nobody is sure."""
    d = load("cossl_remixmatch")
    options = dict(represent=1, align=False, labelled_view="strong", max_lam=0.8)
    m = method("cossl", options, d["counts"], batch=d["y"].shape[1], steps=40, base="remixmatch")
    net = pixel_net(head=d["i_A"], rotation=d["i_R"], teacher=d["i_T"])
    with differences(1e-12) as same:
        for s, y in enumerate(d["y"]):
            coins = d["draws"][s] * torch.tensor([1, 5.]) - torch.tensor([0, 4.])  # a share is 0.8 + 0.2 u
            monkeypatch.setattr(cossl, "rng", SimpleNamespace(words=lambda *_, c=coins: c, uniform=lambda w: w))
            images = {name: d[f"i_{name}"][s] for name in ("l", "w", "s1", "s2", "b", "m")}
            draws = (d[name][s] for name in ("share", "order", "turns"))
            batch = dict(y=y.long(), targets={"balanced": d["yb"][s].long()})
            out = mixed_step(m, net, images, batch, s + 1, *draws, ("l", "w", "s1", "s2"), "cotrain")
            same("loss x", out.losses["x"], d["x"][s])
            same("loss u", out.losses["u"], d["u"][s])
            same("loss s1", out.losses["s1"], .5 * d["e"][s])
            same("loss r", out.losses["r"], .5 * d["r"][s])
            same("loss t", out.losses["t"], d["t"][s])
            same("loss", out.total - out.losses["t"], d["loss"][s])
            same("mixed targets", out.mixed, d["mixed"][s])
            same("gradient head", out.grads["head"], d["gradA"][s])
            same("gradient rotation", out.grads["rotation"], d["gradR"][s])
            with torch.no_grad():
                net.heads["teacher"].weight -= 0.1 * out.grads["teacher"].T
            same("teacher", net.heads["teacher"].weight.detach().T, d["teacher"][s])
