"""TRAS over two steps of the warm-up and four after it, beside the authors' code (see the package).

Nobody is sure in step 5, of the balanced head in step 4. In each step all classes of a row tie in the main head.
"""
import torch

from .kit import differences, gradient, load, method, step, two_heads

VIEWS = ("l", "s1", "s2")


def test_both_heads_losses_labels_masks_adjustment_enhancement_and_gradients_are_the_release_s():
    d = load("tras")
    batch, classes = d["y"].shape[1], len(d["counts"])
    m = method("tras", dict(droplast_prior=True, warmup=2), d["counts"], batch=batch, first_pass=d["first_pass"].long())
    with differences(1e-12) as same:
        same("adjustment", m.la, d["la"])
        same("enhancement", m.enhancement, d["enhancement"])
        for s, y in enumerate(d["y"]):
            phase = "warmup" if s < m.warmup else "balanced"
            z = {name: two_heads(d[f"i_{name}"][s]) for name in ("l", "w", "s1", "s2")}
            out = step(m, z, dict(y=y.long()), s, phase)
            same("loss x", out.losses["x"], d["x"][s])
            same("loss u", out.losses["u"], d["u"][s])
            same("mask", out.p.mask, d["mask"][s])
            same("label", out.p.label, d["label"][s])
            if phase == "balanced":
                same("loss x_b", out.losses["x_b"], d["x_b"][s - m.warmup])
                same("loss u_b", out.losses["u_b"], d["u_b"][s - m.warmup])
                same("mask b", out.p.mask_b, d["mask_b"][s - m.warmup])
            assert len(out.losses) == (4 if phase == "balanced" else 2)
            have = torch.cat([gradient(out, "head", *VIEWS), gradient(out, "balanced", *VIEWS)], 1)
            same("gradient", have, d["grad"][s].view(-1, 2 * classes))
            weak = out.grads["w", "head"].abs() + out.grads["w", "balanced"].abs()
            same("gradient w", weak, torch.zeros(batch, classes))
