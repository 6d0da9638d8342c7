"""FreeMatch over ten steps, beside USB's code (see the package). Case a: mean confidences. b: a quantile, clipped."""
import pytest

from .kit import UNSCALED, differences, gradient, load, method, step

CASES = {"a": dict(momentum=.9), "b": dict(momentum=.7, quantile=.8, clip=True, w_f=.01)}
VIEWS = ("l", "w", "s1")


@pytest.mark.parametrize("case", CASES)
def test_losses_masks_thresholds_means_histogram_and_gradients_are_usb_s(case):
    d, options = load("freematch"), CASES[case]
    batch, mu = d[case + "_y"].shape[1], int(d["mu"])
    m = method("freematch", dict(strong_views=1, **options), d["counts"], 6, batch, mu=mu, **UNSCALED)
    m.momentum = options["momentum"]
    with differences(1e-10) as same:
        for k, z in enumerate(d[case + "_lg"]):
            parts = zip(VIEWS, z.split([batch, batch * mu, batch * mu]))
            out = step(m, {name: {"head": x} for name, x in parts}, dict(y=d[case + "_y"][k]), k)
            same("loss x", out.losses["x"], d[case + "_l_x"][k])
            same("loss u", out.losses["u"], d[case + "_l_u"][k])
            same("loss", out.total, d[case + "_loss"][k])
            same("mask", out.p.mask, d[case + "_mask"][k])
            for state, key in ((m.tau, "tau"), (m.mean, "P"), (m.histogram, "H")):
                same(key, state, d[f"{case}_{key}"][k])
            same("gradient", gradient(out, "head", *VIEWS), d[case + "_d_lg"][k])
