"""ACR over five epochs, beside the authors' code (see the package)."""
import torch

from .kit import F64, differences, load, method, step, two_heads

VIEWS = dict(l="x", w="w", s1="s1_", s2="s2_")


def test_losses_labels_masks_gradients_estimated_prior_distances_and_strength_are_the_release_s():
    d = load("acr")
    batch, length, epochs, wait = (int(d[key]) for key in ("B", "ES", "EPOCHS", "EST"))
    counts, steps = d["counts"], length * epochs
    options = dict(official_presence=True, ema_u=0.9, epoch=length, start=length * (wait + 1))
    m = method("acr", options, counts, batch=batch, steps=steps)
    m.ema_u = 0.9                                     # the recorded run's momentum, not scaled to this short run
    with differences(1e-9) as same:
        for s in range(steps):
            same("adjustment (tau)", torch.log(m.anchors[0] ** m.tau + 1e-12), d[f"o_adj{s}"])
            out = step(m, {name: two_heads(d[f"{key}{s}"]) for name, key in VIEWS.items()},
                       dict(y=d[f"y{s}"], known_u=d[f"real{s}"] == -2), s)
            for name, key in (("x", "Lx"), ("u", "Lu"), ("x_b", "Lxb"), ("u_b", "Lub")):
                same(f"loss {name}", out.losses[name], d[f"o_{key}{s}"])
            same("label", out.p.label, d[f"o_lab{s}"])
            same("label b", out.p.label_b, d[f"o_labb{s}"])
            same("mask", out.p.mask, d[f"o_m{s}"])
            same("mask b", out.p.mask_b, d[f"o_mb{s}"])
            for i, name in enumerate(VIEWS):
                have = torch.cat([out.grads[name, "head"], out.grads[name, "balanced"]], 1)
                same(f"gradient {name}", have, d.get(f"o_g{i}_{s}", torch.zeros(batch, 2 * len(counts), dtype=F64)))
            same("u", m.u, d[f"o_u{s}"])
            if (s + 1) % length:
                same("distance sums", m.distance, d[f"o_kl{s}"])
