"""CCL over nine steps in three periods of three, beside the authors' code (see the package)."""
import torch

from .kit import F64, UNSCALED, differences, gradient, load, method, step

VIEWS = ("l", "w", "s1", "s2")


def test_losses_masks_labels_priors_and_gradients_are_the_release_s():
    d = load("ccl")
    steps, _, classes = d["lg"].shape
    batch, mu = d["y"].shape[1], int(d["mu"])
    u = batch * mu
    m = method("ccl", dict(period=3, start=3), d["counts"], 6, batch, mu=mu, **UNSCALED)
    assert (m.period, m.start) == (3, 3), (m.period, m.start)
    zero, scale = torch.zeros(batch, classes, dtype=F64), .7
    with differences(1e-10) as same:
        for k in range(steps):
            *g, h1, h2 = d["g"][k].split([batch, u, u, u, batch, batch])
            logits, balanced = (d[key][k].split([batch, u, u, u]) for key in ("lg", "lb"))
            recorded = {name: {"head": x, "balanced": y, "g": z} for name, x, y, z in zip(VIEWS, logits, balanced, g)}
            recorded |= {name: {"head": zero, "balanced": zero, "g": h} for name, h in (("l1", h1), ("l2", h2))}
            recorded["c"] = {"g": d["c"][k]}
            out = step(m, recorded, dict(y=d["y"][k], known_u=d["known"][k]), k)
            for name, key, weight in (("x", "l_x", scale), ("x_b", "l_xb", scale), ("u", "l_u", scale * max(1.5, mu)),
                                      ("u_b", "l_ub", scale * max(1.5, mu)), ("spl", "spl", 1), ("rpl", "rpl", .3)):
                same(f"loss {name}", out.losses[name], weight * d[key][k])
            same("loss", out.total, d["loss"][k])
            same("mask", out.p.mask, d["mask"][k])
            same("sure", out.p.sure, d["sure"][k])
            same("label", out.p.label, d["label"][k])
            same("q_u", m.q_u, d["q_u"][k])
            same("q_a", m.q_a, d["q_a"][k])
            if (k + 1) % 3:
                same("n_u", m.n_u, d["n_u"][k])
                same("n_a", m.n_a, d["n_a"][k])
            for head, key in (("head", "d_lg"), ("balanced", "d_lb")):
                same(f"gradient {head}", gradient(out, head, *VIEWS), d[key][k])
            same("gradient g", gradient(out, "g", *VIEWS, "l1", "l2"), d["d_g"][k])
            same("gradient c", out.grads["c", "g"], d["d_c"][k])
