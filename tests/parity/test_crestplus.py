"""CReST+ over three generations of 24 steps, beside the authors' training step (see the package).

It is TensorFlow's, executed in float64 on PyTorch. A generation is longer than the window of predictions. In step 5 of
each nobody is sure, in each step two classes of a row tie, odd steps lack the last label.
"""
from .kit import differences, gradient, load, method, step

VIEWS = ("l", "w", "s1")


def test_losses_aligned_labels_masks_mean_of_predictions_and_gradients_are_the_release_s():
    d = load("crestplus")
    generations, classes, batch = len(d["power"]), d["i_z"].shape[2], d["y"].shape[1]
    length, rows = len(d["y"]) // generations, d["label"].shape[1]
    options = dict(generations=generations, prior="power_law", strong_views=1, threshold=.6)
    m = method("crestplus", options, range(classes + 20, 20, -1), batch=batch, steps=generations * 200,
               gamma_l=d["gamma"].item(), n1=100, gamma_u=d["gamma"].item())
    with differences(1e-12) as same:
        same("window", len(m.ring), d["window"])
        for g in range(generations):
            m.ring.fill_(1 / classes)
            m.wanted.copy_(m.tempered(g))
            want = m.pi() ** d["power"][g]
            same("tempered prior", m.wanted, want / want.sum())
            for s in range(length):
                k = g * length + s
                same("mean of predictions", m.ring.mean(0), d["mean"][k])
                parts = zip(VIEWS, d["i_z"][k].split([batch, rows, rows]))
                out = step(m, {name: {"head": z} for name, z in parts}, dict(y=d["y"][k].long()), g * m.length + s,
                           f"generation{g}")
                same("loss x", out.losses["x"], d["x"][k])
                same("loss u", out.losses["u"], d["u"][k])
                same("loss", out.total, d["loss"][k])
                same("label", out.p.label, d["label"][k])
                same("mask", out.p.mask, d["mask"][k])
                if s % 4 == 1:
                    same("gradient", gradient(out, "head", *VIEWS), d["grad"][(g * length + s) // 4])
