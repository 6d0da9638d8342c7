"""DASO on FixMatch while and after pretraining, beside the authors' code (see the package).

Before the first period is over the release divides 0 by 0, so pretraining is longer than a period.
"""
import torch

from .kit import View, differences, load, method, mixed_step, pixel_net, step, views

KEYS = dict(l="l", w="w", s1="s")


def test_prototypes_blended_labels_losses_gradients_of_features_and_counted_labels_are_the_release_s():
    d = load("daso")
    batch, classes, features, steps = (int(d[key]) for key in ("B", "C", "D", "STEPS"))
    options = dict(pretraining=int(d["PRE"]), period=int(d["PERIOD"]), queue=int(d["L"]), strong_views=1, threshold=0.6,
                   t_proto=0.2, t_dist=d["tdist"].item(), dist_aware=bool(d["aware"]))
    m = method("daso", options, range(classes + 2, 2, -1), features, batch, steps)

    def prepare(v, b):
        return views(**{name: View({"head": v[name].f @ d["W"].T + d["bias"]}, v[name].f) for name in KEYS})
    with differences(1e-9) as same:
        for s in range(steps):
            y = d[f"y{s}"]
            m.enqueue(d[f"l{s}"] @ d["R"], y)
            same("prototypes", m.prototypes(), d[f"o_P{s}"])
            out = step(m, {name: {"f": d[f"{key}{s}"]} for name, key in KEYS.items()}, dict(y=y), s, prepare=prepare)
            for term, key in (("x", "x"), ("u", "u"), ("semantic", "a")):
                same(f"loss {term}", out.losses[term], d[f"o_{key}{s}"])
            same("label", out.p.label, d[f"o_lab{s}"])
            same("confidence", out.p.prob.amax(1), d[f"o_conf{s}"])
            same("mask", out.p.mask, d[f"o_conf{s}"] >= 0.6)
            for i, name in enumerate(KEYS):
                have = out.grads[name, "f"]
                same(f"gradient {name}", have, d.get(f"o_g{i}_{s}", torch.zeros_like(have)))
            same("counts", m.recent, d[f"o_m{s}"])


def test_prototypes_labels_losses_gradients_and_counted_labels_on_remixmatch_are_the_release_s():
    """Nine steps: three of pretraining, periods of two, queues of seven, which overflow. In the seventh nobody is sure.
    """
    d = load("daso_remixmatch")
    options = dict(pretraining=3, period=2, queue=7, t_proto=0.2, t_dist=d["tdist"].item(), align=False, ramp=0.5)
    steps, batch = d["y"].shape
    m = method("daso", options, d["counts"], 12, batch, steps, base="remixmatch", eval_every=steps)
    net = pixel_net(head=d["i_A"], rotation=d["i_R"])
    with differences(1e-12) as same:
        for s, y in enumerate(d["y"]):
            images = {name: d[f"i_{name}"][s] for name in ("l", "w", "s1", "s2")}
            draws = (d[name][s] for name in ("share", "order", "turns"))
            same("counts", m.recent, d["counted"][s])
            out = mixed_step(m, net, images, dict(y=y.long()), s, *draws, ("l", "w", "s1", "s2"))
            same("prototypes", m.prototypes(), d["P"][s])
            same("label", out.p.label, d["label"][s])
            for term, key in (("x", "x"), ("u", "u"), ("s1", "s1"), ("r", "r"), ("semantic", "a")):
                same(f"loss {term}", out.losses[term], d[key][s])
            same("gradient head", out.grads["head"], d["gradA"][s])
            same("gradient rotation", out.grads["rotation"], d["gradR"][s])
