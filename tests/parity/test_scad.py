"""SCAD on ACR over four epochs of four steps, beside the authors' code (see the package): five classes in three groups.

The estimation begins with the second epoch. In step 6 nobody is sure; odd steps lack the last label.
"""
import torch

from .kit import differences, load, method, step

HEADS = ("head", "balanced", "group", "group_b")


def test_losses_gradients_estimated_priors_and_strengths_of_classes_and_groups_are_the_release_s():
    d = load("scad")
    (steps, batch), counts, length = d["y"].shape, d["counts"], 4
    widths = [len(counts)] * 2 + [len(d["delta"])] * 2
    options = dict(official_presence=True, ema_u=0.9, epoch=length, start=length, groups="0 3, 1 4, 2")
    m = method("scad", options, counts, batch=batch, steps=steps)
    m.ema_u = m.on_groups.ema_u = 0.9                 # the recorded run's momentum, not scaled to this short run
    with differences(1e-9) as same:
        same("delta", m.delta, d["delta"])
        for s, z in enumerate(d["z"]):
            for each, name in ((m, "adjust"), (m.on_groups, "adjust_g")):
                same("adjustment", torch.log(each.anchors[0] ** each.tau + 1e-12), d[name][s])
            seen = {view: dict(zip(HEADS, x.split(widths, 1)))
                    for view, x in zip(("l", "w", "s1", "s2"), z.split(batch))}
            out = step(m, seen, dict(y=d["y"][s], known_u=d["known"][s]), s)
            supervised = [loss for name, loss in out.losses.items() if name.startswith("x")]
            same("losses x", sum(supervised), d["x"][s])
            same("losses u", out.total - sum(supervised), d["u"][s])
            same("loss", out.total, d["loss"][s])
            grads = [torch.cat([out.grads[view, head] for head in HEADS], 1) for view in seen]
            same("gradient", torch.cat(grads), d["grad"][s])
            same("u", m.u, d["u_py"][s])
            same("u of groups", m.on_groups.u, d["u_py1"][s])
