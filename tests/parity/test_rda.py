"""RDA over 134 steps, more than the window of 128 batch means holds, beside the authors' code (see the package).

Means, soft targets and gradients are recorded at some steps. In each step two classes of a row tie in the main head,
in each twentieth nobody is sure, odd steps lack the last label.
"""
import torch

from .kit import differences, gradient, load, method, step

VIEWS = ("l", "w", "s1")


def test_both_heads_losses_labels_soft_targets_means_and_gradients_are_the_release_s():
    d = load("rda")
    batch, mu, recorded = d["y"].shape[1], 2, d["at"].tolist()
    m = method("rda", dict(strong_views=1, start="ones", batch_sum=True), (9, 4, 2, 1), batch=batch, mu=mu,
               steps=250_000)
    classes = m.info.classes
    with differences(1e-12) as same:
        for s, z in enumerate(d["i_z"]):
            m.other_class = lambda y, t, at=s: d["other"][at].long()
            parts = zip(VIEWS, z.split([batch, batch * mu, batch * mu]))
            out = step(m, {name: {"head": x[:, :classes], "complementary": x[:, classes:]} for name, x in parts},
                       dict(y=d["y"][s].long()), s)
            for name in ("x", "u", "x_c", "u_c"):
                same(f"loss {name}", out.losses[name], d[name][s])
            same("loss", out.total, d["loss"][s])
            same("label", out.p.label, d["label"][s])
            assert bool(out.p.mask.all())
            if s in recorded:
                k = recorded.index(s)
                same("mean of the main head", m.d.mean(0), d["d"][k])
                same("mean of the other head", m.d_r.mean(0), d["d_r"][k])
                same("soft target", out.p.prob_c, d["q"][k])
                have = torch.cat([gradient(out, head, *VIEWS) for head in ("head", "complementary")], 1)
                same("gradient", have, d["grad"][k])
