"""Proportion Loss on FixMatch over twelve steps, beside the authors' code (see the package).

Its targets are the ones that the release drew. In step 6 nobody is sure, in step 9 everybody is; odd steps lack the
last label.
"""
from .kit import differences, gradient, load, method, step


def test_losses_and_the_weak_view_s_gradient_are_the_release_s():
    d = load("proportion")
    (steps, batch), mu = d["y"].shape, 2
    m = method("proportion", dict(strong_views=1), (9, 4, 2, 1, 1), batch=batch, mu=mu, steps=steps)
    with differences(1e-12) as same:
        for s, z in enumerate(d["z"]):
            m.target = lambda n, now, s=s: d["t"][s]
            parts = zip(("l", "w", "s1"), z.split([batch] + 2 * [batch * mu]))
            out = step(m, {name: {"head": x} for name, x in parts}, dict(y=d["y"][s].long()), s)
            for name in ("x", "u"):
                same(f"loss {name}", out.losses[name], d[name][s])
            same("loss p", out.losses["p"] / m.cfg.proportion_lambda, d["p"][s])
            same("loss", out.total, d["loss"][s])
            same("share of the mask", out.p.mask.mean(), d["mask"][s])
            same("gradient", gradient(out, "head", "l", "w", "s1"), d["grad"][s])
