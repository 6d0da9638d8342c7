"""SEVAL's step and calibrations, beside the authors' code (see the package).

The authors' searches (Nelder-Mead) are not reproduced by design. Their objectives are compared; then the optima here
must be at least as good; then the moving averages are compared with the authors' optima put in.
"""
import torch

from .kit import F64, UNSCALED, differences, gradient, load, method, search, step

VIEWS = ("l", "w", "s1")


def built(d):
    classes, batch = d["lg"].shape[2], d["y"].shape[1]
    m = method("seval", dict(strong_views=1, period=250), d["counts"], 6, batch, mu=int(d["mu"]), **UNSCALED)
    kept = (d["counts"] - (d["counts"] * .5).long()).double()
    return m, classes, kept.max() / kept, search.groups(classes, 5)


def test_losses_masks_labels_and_gradients_under_recorded_offsets_and_thresholds_are_the_release_s():
    d = load("seval")
    m = built(d)[0]
    batch, u = m.info.batch, m.info.batch * m.info.mu
    with differences(1e-10) as same:
        for k, z in enumerate(d["lg"]):
            m.pi.copy_(d["pi"][k])
            m.bar.copy_(d["bar"][k])
            out = step(m, {name: {"head": x} for name, x in zip(VIEWS, z.split([batch, u, u]))}, dict(y=d["y"][k]), k)
            same("loss x", out.losses["x"], d["l_x"][k])
            same("loss u", out.losses["u"], d["l_u"][k])
            same("mask", out.p.mask, d["mask"][k])
            same("label", out.p.label, d["label"][k])
            same("gradient", gradient(out, "head", *VIEWS), d["d_lg"][k])


def test_the_objective_of_the_offsets_is_the_release_s_and_no_optimum_is_above_the_release_s():
    d = load("seval")
    classes = built(d)[1]
    with differences(1e-10) as same:
        for i, (logits, y) in enumerate(zip(d["cal_logits"], d["cal_y"])):
            absent = int((torch.bincount(y, minlength=classes) == 0).sum())

            def theirs(key, i=i, absent=absent):
                return classes * (d["cal_" + key][i] - 2 * absent / classes)
            same("objective of pi", search.class_nll(logits, y, d["cal_probe"][i].log()), theirs("nll_probe"))
            same("objective of pi", search.class_nll(logits, y, torch.zeros(classes, dtype=F64)), theirs("nll_one"))
            same("objective of pi", search.class_nll(logits, y, d["cal_pi_star"][i].log()), theirs("nll_star"))
            optimum = search.refine(logits, y, torch.arange(classes))
            above = search.class_nll(logits, y, optimum.log()) - theirs("nll_star")
            same("objective not above theirs", above.clamp(min=0), 0, tolerance=1e-8)      # the ridge costs that much


def test_rare_classes_and_zero_thresholds_are_the_release_s_and_no_threshold_s_error_is_above_the_release_s():
    d = load("seval")
    _, classes, ratio, group = built(d)
    with differences(1e-10) as same:
        for i, (logits, y) in enumerate(zip(d["cal_logits"], d["cal_y"])):
            prob = (logits - d["cal_pi_used"][i].log()).softmax(-1)
            t, rare = search.thresholds(prob, y, ratio, group, .75, 10)
            same("rare", rare, d["cal_rare"][i])
            same("which thresholds are 0", t == 0, d["cal_thr"][i] == 0)
            confidence, predicted = prob.max(-1)
            weight = ratio[y]
            for g in range(5):
                if t[2 * g] > 0:
                    chosen = (group[predicted] == g) & (confidence >= t[2 * g])
                    accuracy = (weight * (predicted == y))[chosen].sum() / weight[chosen].sum()
                    above = (accuracy - .75).abs() - d["cal_err"][i][g]
                    same("threshold error not above", above.clamp(min=0), 0, tolerance=1e-6)
        for logits, y, thresholds, scarce in zip(d["more_logits"], d["more_y"], d["more_thr"], d["more_rare"]):
            t, rare = search.thresholds(logits.softmax(-1), y, ratio, group, .75, 10)
            same("rare, more sets", rare, scarce)
            same("which are 0, more sets", t == 0, thresholds == 0)


def test_moving_averages_and_a_rare_class_s_threshold_are_the_release_s_when_the_optima_are(monkeypatch):
    d = load("seval")
    m, classes, *_ = built(d)
    assert (m.cfg.target, m.cfg.threshold_groups, m.cfg.pi_groups, m.cfg.few) == (.75, 5, 0, 10)
    m.bar.fill_(.95)
    m.d_t = .999
    with differences(1e-10) as same:
        for i, (logits, y) in enumerate(zip(d["cal_logits"], d["cal_y"])):
            monkeypatch.setattr(search, "refine", lambda *a, i=i: d["cal_pi_star"][i])
            monkeypatch.setattr(search, "thresholds", lambda *a, i=i: (d["cal_thr"][i], d["cal_rare"][i].bool()))
            m.pi.copy_(d["cal_pi_after"][i - 1] if i else torch.ones(classes))
            m.d_pi = .999 if i else .999 * .5   # at the first calibration the recorded run moved again, by one half
            m.calibrate(logits, y)
            same("pi after", m.pi, d["cal_pi_after"][i])
            same("thresholds after", m.bar, d["cal_t_after"][i])
            if i == 0:
                m.bar.copy_(torch.linspace(.3, .9, classes, dtype=F64))
