"""SAGE over ten steps, beside the authors' code with its anchors (see the package); smoothing ends with the fifth.

In step 3 nobody is sure, in step 7 everybody is.
"""
import torch

from .kit import differences, load, method, step

VIEWS, HEADS = ("l", "ls", "w", "s1"), ("head", "auxiliary", "projector", "f")


def test_losses_weights_their_state_and_gradients_are_the_release_s():
    d = load("sage")
    (steps, batch), classes, mu = d["y"].shape, len(d["counts"]), 2
    features = d["z"].shape[2] // 2 - classes
    options = dict(strong_views=1, smooth_until=5, official_blocks=True)
    m = method("sage", options, d["counts"], features, batch=batch, mu=mu, steps=steps, eval_every=1)
    m.momentum = 0.9                                  # the recorded run's, not scaled to this short run
    with differences(1e-11) as same:
        for s, z in enumerate(d["z"]):
            rows = z.split([batch, batch, batch * mu, batch * mu])
            seen = {view: dict(zip(HEADS, x.split([classes] * 2 + [features] * 2, 1))) for view, x in zip(VIEWS, rows)
                    if view != "ls"}
            out = step(m, seen, dict(y=d["y"][s]), s)
            same("main loss", out.losses["x"], d["main"][s])
            same("auxiliary loss", out.losses["aux_x"] + out.losses["aux_u"], d["aux"][s])
            for name in ("con", "sim"):
                same(f"loss {name}", out.losses[name], d[name][s])
            same("loss", out.total, d["loss"][s])
            same("weights", out.p.mask, d["weight"][s])
            same("means and variances", torch.cat([m.mu, m.v]), d["state"][s])
            grads = [torch.cat([out.grads[view, head] for head in HEADS], 1) for view in seen]
            same("gradient", torch.cat(grads), torch.cat([d["grad"][s][:batch], d["grad"][s][2 * batch:]]))
            same("gradient of the strong labelled view", 0 * rows[1], d["grad"][s][batch:2 * batch])
