"""SoftMatch over ten steps, beside USB's and TorchSSL's code (see the package).

Cases a, b: USB, statistics of the aligned confidences, with a uniform and a labelled target. c: TorchSSL without
alignment. d: TorchSSL with its alignment to the labelled target. TorchSSL's running mean begins uniform, which is put
in here. In d it adds no 1e-6, so weights and what depends on them agree to some 1e-5 only.
"""
import pytest

from .kit import UNSCALED, differences, gradient, load, method, step

CASES = {"a": dict(statistics="aligned"), "b": dict(statistics="aligned", align="labelled"), "c": dict(align="none"),
         "d": dict(align="labelled")}
VIEWS = ("l", "w", "s1")


@pytest.mark.parametrize("case", CASES)
def test_losses_weights_state_and_gradients_are_usb_s_in_a_and_b_and_torchssl_s_in_c_and_d(case):
    recorded = load("softmatch")
    d = {key[2:]: x for key, x in recorded.items() if key[:2] == case + "_"}
    batch, mu, classes = d["y"].shape[1], int(recorded["mu"]), d["lg"].shape[2]
    options = dict(strong_views=1, momentum=.8, **CASES[case])
    m = method("softmatch", options, recorded["counts"], 6, batch, mu=mu, **UNSCALED)
    m.momentum = .8
    if case in "cd":
        m.mean.fill_(1 / classes)
    weighted = 1e-4 if case == "d" else 1e-10
    with differences(1e-10) as same:
        for k, z in enumerate(d["lg"]):
            parts = zip(VIEWS, z.split([batch, batch * mu, batch * mu]))
            out = step(m, {name: {"head": x} for name, x in parts}, dict(y=d["y"][k]), k)
            same("loss x", out.losses["x"], d["l_x"][k])
            same("loss u", out.losses["u"], d["l_u"][k], weighted)
            same("loss", out.total, d["loss"][k], weighted)
            same("weights", out.p.mask, d["mask"][k], weighted)
            same("mu", m.mu, d["mu_t"][k])
            same("var", m.var, d["var"][k])
            same("mean", m.mean, d["mean"][k])
            if case != "c":
                same("target", m.target, d["target"][k])
            same("gradient", gradient(out, "head", *VIEWS), d["d_lg"][k], weighted)
