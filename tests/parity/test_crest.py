"""CReST and CReST+, beside the authors' code (see the package): TensorFlow's, executed in float64 on NumPy.

A generation is longer than the window of predictions.
"""
import torch

from .kit import F64, crest, differences, load, method, step


def plus(d):
    classes, batch, generations = (int(d[key]) for key in ("C", "U", "G"))
    gamma = d["gamma"].item()
    options = dict(generations=generations, prior="power_law", strong_views=1)
    return method("crestplus", options, range(classes + 20, 20, -1), batch=batch, steps=generations * 200,
                  gamma_l=gamma, n1=100, gamma_u=gamma)


def test_the_prior_and_the_selected_images_are_the_release_s_also_with_ties_and_a_class_never_predicted():
    d = load("crest")
    m = plus(d)
    with differences(1e-9) as same:
        same("prior", m.pi(), d["o_pi"])
        rates = crest.keep_rates(m.pi(), 3.0)
        for k in range(3):
            chosen = crest.pick(d[f"label{k}"], d[f"score{k}"], rates)
            same("picked", chosen, d[f"o_pick{k}"])
            same("their labels", d[f"label{k}"][chosen], d[f"o_picky{k}"])


def test_tempered_priors_and_aligned_labels_with_their_loss_over_three_generations_are_the_release_s():
    d = load("crest")
    m = plus(d)
    classes, length = int(d["C"]), int(d["S"])
    batch = m.info.batch
    with differences(1e-9) as same:
        same("window", len(m.ring), d["WIN"])
        for g in range(int(d["G"])):
            m.ring.fill_(1 / classes)
            m.wanted.copy_(m.tempered(g))
            want = m.pi() ** d["o_t"][g]
            same("tempered prior", m.wanted, want / want.sum())
            for s in range(length):
                k = g * length + s
                same("mean of predictions", m.ring.mean(0), d[f"o_p{k}"])
                logits = {"l": torch.zeros(batch, classes, dtype=F64), "w": d[f"w{k}"], "s1": d[f"s{k}"]}
                y = torch.zeros(batch, dtype=torch.int64)
                out = step(m, {name: {"head": z} for name, z in logits.items()}, dict(y=y), s, "generation0")
                same("label", out.p.label, d[f"o_lab{k}"])
                same("mask", out.p.mask, d[f"o_m{k}"])
                same("loss u", out.losses["u"], d[f"o_u{k}"])
