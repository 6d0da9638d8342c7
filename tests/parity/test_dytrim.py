"""DyTrim over three epochs of four steps, beside the authors' code (see the package); debiasing begins with the third.

After each epoch both sets are trimmed, the labelled one by the shares of the step before. Whom chance leaves in the
pool is the release's choice; all else follows from the scores, which begin at distinct values. The release adds 1e-8
inside its logarithms, so losses, scores and gradients have wider tolerances. In step 5 nobody is sure; odd steps lack
the last label.
"""
import torch

from semilib.methods.dytrim import hardest, survivors

from .kit import Notes, differences, gradient, load, method, step

VIEWS, EPOCH, FLOOR = ("l", "w", "s1", "s2"), 4, 2e-6


def test_losses_scores_weights_gradients_and_who_stays_are_the_release_s():
    d = load("dytrim")
    (steps, batch), mu, pool = d["y"].shape, 2, d["weight_u"].shape[1]
    m = method("dytrim", dict(start=2 * EPOCH, stop=steps - 1), d["counts"], batch=batch, mu=mu, steps=steps,
               n_unlabelled=pool)
    for scores, first in ((m.score_l, d["first_l"]), (m.score_u, d["first_u"])):
        scores.scatter(torch.arange(len(first)), first)
    label = torch.arange(len(d["counts"])).repeat_interleave(d["counts"])
    with differences(1e-12) as same:
        for s, z in enumerate(d["z"]):
            parts = zip(VIEWS, z.split([batch] + 3 * [batch * mu]))
            given = {name: d[name][s] for name in ("y", "index_l", "index_u")} | {"notes": Notes(blank=d["blank"][s])}
            same("weights in the batch", m.weight_u.gather(d["index_u"][s]), d["w"][s])
            out = step(m, {name: {"head": x} for name, x in parts}, given, s)
            same("loss x", out.losses["x"], d["x"][s], FLOOR)
            same("loss u", out.losses["u"], d["u"][s], FLOOR)
            same("gradient", gradient(out, "head", *VIEWS), d["grad"][s], FLOOR)
            same("labelled scores", m.score_l.rows, d["score_l"][s], FLOOR)
            same("pool scores", m.score_u.rows, d["score_u"][s], FLOOR)
            same("shares", m.r, d["r"][s])
            if (s + 1) % EPOCH == 0:
                epoch = s // EPOCH
                stay = torch.zeros(len(label)).index_fill_(0, hardest(m.score_l.rows, label, m.r, True), 1)
                same("labelled images that stay", stay, d["stay_l"][epoch])
                words = torch.where(d["weight_u"][epoch] > 1, 0, 1)
                stay, weight = survivors(m.score_u.rows, m.cfg.kept, words)
                same("pool images that stay", torch.zeros(pool).index_fill_(0, stay, 1), d["stay_u"][epoch])
                same("weights", weight, d["weight_u"][epoch])
                m.weight_u.scatter(torch.arange(pool), weight)
