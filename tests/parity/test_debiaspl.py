"""DebiasPL on FixMatch over ten steps, beside the authors' code (see the package).

Case cld: with the third term, each class assigned to some row. Case empty: one class is assigned to none.
In step 3 nobody is sure, in the cases plain and empty two classes of a row tie in each step.
"""
import pytest

from .kit import differences, gradient, load, method, step

VIEWS = ("l", "w", "s1")
CLD = dict(lambda_cld=.3, cld_assign="argmin", cld_empty="zero", cld_margin=True)
CASES = {"plain": {}, "cld": CLD, "empty": CLD}


@pytest.mark.parametrize("case", CASES)
def test_losses_debiased_rows_masks_average_prediction_and_gradients_are_the_release_s(case):
    d = load("debiaspl")
    batch, mu = d[f"{case}_y"].shape[1], 2
    options = dict(strong_views=1, threshold=.7, lambda_u=3.0, **CASES[case])
    m = method("debiaspl", options, (9, 4, 2, 1, 1), batch=batch, mu=mu)
    m.q_momentum = .8
    with differences(1e-12) as same:
        for s, z in enumerate(d[f"i_{case}"]):
            parts = zip(VIEWS, z.split([batch, batch * mu, batch * mu]))
            out = step(m, {name: {"head": x} for name, x in parts}, dict(y=d[f"{case}_y"][s].long()), s)
            same("loss x", out.losses["x"], d[f"{case}_x"][s])
            same("loss u", out.losses["u"], 3.0 * d[f"{case}_u"][s])
            if case != "plain":
                same("loss cld", out.losses["cld"], .3 * d[f"{case}_cld"][s])
            same("loss", out.total, d[f"{case}_loss"][s])
            same("debiased rows", out.p.prob, d[f"{case}_prob"][s])
            same("share of sure rows", out.p.mask.mean(), d[f"{case}_masked"][s])
            same("average prediction", m.q, d[f"{case}_q"][s])
            same("gradient", gradient(out, "head", *VIEWS), d[f"{case}_grad"][s])
