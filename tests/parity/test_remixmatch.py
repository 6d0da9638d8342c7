"""ReMixMatch over sixteen steps with a linear network, beside USB's code (see the package).

Case a: its own weights, and a ramp over half of the steps. b: others, and a ramp of less than a step.
In step 6 nobody is sure, in step 9 two images are alike, odd steps lack the last label.
"""
import pytest

from .kit import differences, load, method, mixed_step, pixel_net

CASES = {"a": (dict(ramp=.5), .9), "b": (dict(ramp=1/64, temperature=.8, lambda_u=.7, lambda_1=1.3, lambda_r=.2), .6)}


@pytest.mark.parametrize("case", CASES)
def test_losses_aligned_sharpened_and_mixed_targets_the_mean_and_gradients_are_usb_s(case):
    d = load("remixmatch")
    options, momentum = CASES[case]
    batch, rows = d[f"{case}_y"].shape[1], d[f"{case}_turns"].shape[1]
    m = method("remixmatch", options, d["counts"], batch=batch, mu=rows // batch, steps=len(d[f"{case}_y"]))
    m.momentum = momentum
    net = pixel_net(head=d["i_A"], rotation=d["i_R"])
    with differences(1e-12) as same:
        for s, y in enumerate(d[f"{case}_y"]):
            images = {name: d[f"i_{case}_{name}"][s] for name in ("l", "w", "s1", "s2")}
            draws = (d[f"{case}_{name}"][s] for name in ("share", "order", "turns"))
            out = mixed_step(m, net, images, dict(y=y.long()), s, *draws)
            ramp = min(1, s / len(d[f"{case}_y"]) / m.cfg.ramp)
            same("loss x", out.losses["x"], d[f"{case}_x"][s])
            same("loss u", out.losses["u"], m.cfg.lambda_u * ramp * d[f"{case}_u"][s])
            same("loss s1", out.losses["s1"], m.cfg.lambda_1 * ramp * d[f"{case}_s1"][s])
            same("loss", out.total, d[f"{case}_loss"][s])
            same("target", out.p.target, d[f"{case}_q"][s])
            same("mixed targets", out.mixed, d[f"{case}_mixed"][s])
            same("mean", m.mean, d[f"{case}_mean"][s])
            same("gradient head", out.grads["head"], d[f"{case}_gradA"][s])
            same("gradient rotation", out.grads["rotation"], d[f"{case}_gradR"][s])
