"""SimPro over four epochs, beside the authors' code (see the package); in the second epoch no row is sure."""
import torch

from .kit import differences, load, method, step

KEYS = dict(l="x", l1="xs", w="w", s1="s1_", s2="s2_")


def test_losses_soft_targets_masks_gradients_counts_and_both_priors_are_the_release_s():
    d = load("simpro")
    batch, u, length, epochs, pool = (int(d[key]) for key in ("B", "U", "ES", "EPOCHS", "n_u"))
    counts, steps = d["counts"], length * epochs
    m = method("simpro", dict(epoch=length), counts, batch=batch, steps=steps, n_unlabelled=pool)
    # 1.5 unlabelled images a labelled one: rho is set as the recorded loaders had it, and its formula is compared apart
    m.rho = d["o_rho"].item()
    with differences(1e-9) as same:
        same("rho", max(1, pool // u) / max(1, int(counts.sum()) // batch), d["o_rho"])
        for s in range(steps):
            same("prior of the unlabelled", m.prior_u, d[f"o_pu{s}"])
            same("prior of all", m.prior_a, d[f"o_a{s}"])
            out = step(m, {name: {"head": d[f"{key}{s}"]} for name, key in KEYS.items()}, dict(y=d[f"y{s}"]), s)
            same("loss x", out.losses["x"], d[f"o_Lx{s}"])
            same("loss u", out.losses["u"], d[f"o_Lu{s}"])
            same("target", out.p.target, d[f"o_q{s}"])
            same("mask", out.p.mask, d[f"o_m{s}"])
            for i, name in enumerate(KEYS):
                have = out.grads[name, "head"]
                same(f"gradient {name}", have, d.get(f"o_g{i}_{s}", torch.zeros_like(have)))
            if (s + 1) % length:
                same("counts l", m.seen_l, d[f"o_dl{s}"])
                same("counts u", m.seen_u, d[f"o_du{s}"])
        same("prior of all", m.prior_a, d["o_a_end"])
        same("prior of the unlabelled", m.prior_u, d["o_u_end"])
