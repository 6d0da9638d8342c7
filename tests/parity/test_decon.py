"""DeCon over eight steps, beside the authors' code (see the package).

The release adds log pi where its floor is not added in one of two losses: 1e-12 beside the squared prior of a rare
class. In step 2 nobody is sure; in each step two classes of a row tie; odd steps lack the last label.
"""
import torch

from .kit import differences, gradient, load, method, step, two_heads

VIEWS = ("l", "w", "s1", "s2")
OPTIONS = dict(tau=2.0, tau_2=2.0, tau_3=1.5, tau_4=.7, weight_t=.8, threshold=.8, droplast_prior=True)
FLOOR = 1e-7


def test_both_heads_losses_labels_averages_weights_and_gradients_are_the_release_s():
    d = load("decon")
    batch, mu = d["y"].shape[1], 2
    m = method("decon", OPTIONS, d["counts"], batch=batch, mu=mu, first_pass=d["first_pass"].long())
    m.momentum = .9
    with differences(1e-12) as same:
        for s, z in enumerate(d["i_z"]):
            parts = zip(VIEWS, z.split([batch] + 3 * [batch * mu]))
            out = step(m, {name: two_heads(x) for name, x in parts}, dict(y=d["y"][s].long()), s)
            same("loss x", out.losses["x"], d["x"][s], FLOOR)
            same("loss x_b", out.losses["x_b"], d["x_b"][s])
            same("loss u and u_b", out.losses["u"] + out.losses["u_b"], d["lu"][s])
            same("loss", out.total, d["loss"][s], FLOOR)
            same("label", out.p.label, d["label"][s])
            same("label b", out.p.label_b, d["label_b"][s])
            same("share of sure rows", out.p.mask.mean(), d["masked"][s])
            same("q", m.q, d["q"][s])
            same("q_b", m.q_b, d["q_b"][s])
            have = torch.cat([gradient(out, "head", *VIEWS), gradient(out, "balanced", *VIEWS)], 1)
            same("gradient", have, d["grad"][s], FLOOR)
