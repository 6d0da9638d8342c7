"""SCAD: groups and their penalty, on ACR and on FixMatch, and each of them without groups."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import close, f64, views

from semilib.data.splits import long_tailed_counts
from semilib.data.step import Batch
from semilib.errors import BadInput
from semilib.methods.scad import GROUPS, dominance, parsed
from semilib.networks.net import View
from semilib.training.config import Run

V, VB = f64([[3, 0], [6, 0], [.2, 2.5], [4, 0]]), f64([[2.5, 0], [.5, 0], [0, 3.2], [3.5, .2]])
GX, GXB = f64([[1, 0], [.4, .6]]), f64([[.5, .2], [.1, .3]])
GS = f64([[1, 0], [.3, .2], [0, 1], [1.5, .5]]), f64([[.8, .1], [.2, .4], [.1, .9], [1, .3]])
GSB = f64([[.7, 0], [.1, .2], [.2, .8], [1, .1]]), f64([[.6, .3], [0, .1], [.4, .5], [.9, 0]])


def said(head, balanced, group, group_b):
    return View(dict(head=head, balanced=balanced, group=group, group_b=group_b), torch.zeros(len(head), 4).double())


TOY = views(l=said(kit.A.X, kit.XB, GX, GXB), w=said(kit.A.W, kit.WB, V, VB),
            s1=said(kit.A.S1, kit.SB1, GS[0], GSB[0]), s2=said(kit.A.S2, kit.SB2, GS[1], GSB[1]))
ONE_STRONG = views(**{name: TOY[name] for name in ("l", "w", "s1")})
PENALTY = [[1, .285714, 1], [1, 1, 1]]


def step(base: str = "", v=TOY, **options):
    m = kit.method("scad", {"groups": "0 1, 2", **options}, (7, 2, 1), base=base, steps=250_000)
    batch = Batch(y=kit.A.y, known_u=torch.zeros(4, dtype=torch.bool))
    p = m.pseudo(v, batch, kit.time(0))
    return m, p, kit.values(m.terms(v, batch, p, kit.time(0)))


# ---- the equations ---------------------------------------------------------------------------------------------------


def test_the_toy_step_on_acr():
    m, p, losses = step()
    close(m.delta, PENALTY)
    close(p.group.prob_b, [[.198698, .801302], [.832793, .167207], [.001236, .998764], [.402647, .597353]])
    close(p.prob_b, [[.455481, .135739, .408779], [.010300, .683589, .306111], [.000137, .002057, .997806],
                     [.002739, .887384, .109877]])
    assert p.label_b.tolist() == [0, 1, 2, 1]
    masks = [p.mask, p.mask_b, p.group.mask, p.group.mask_b]
    assert [mask.tolist() for mask in masks] == [[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]
    want = dict(x=.896378, x_b=1.962702, u=.350357, u_b=.614316, x_g=.455700, x_b_g=2.109260, u_g=.869974,
                u_b_g=.445524)
    close([losses[name] for name in want], list(want.values()))
    close(sum(losses.values()), 7.704211)
    alone = views(**{name: said(x["head"], x["balanced"], x["head"], x["balanced"]) for name, x in TOY.items()
                     if name != "s"})
    close(step(v=alone, groups="singletons")[2]["u_b"], .664316)                                          # ACR's own


def test_the_toy_step_on_fixmatch_as_released_and_the_paper_s_pseudo_labels():
    m, _, losses = step("fixmatch", ONE_STRONG, strong_views=1, adjust_labels=False)
    close([losses[name] for name in ("x", "u", "x_g", "u_g")], [.896378, .311788, .455700, .317730])
    close(sum(losses.values()), 1.981596)
    close(m.adjusted(kit.A.W, V), [[3.356675, 1.289848, 1.302585], [.356675, 2.821957, 1.802585],
                                   [-.643325, .874526, 6.302585], [-.343325, 4.310876, 1.402585]])
    net = lambda x: {"head": kit.A.W, "group": V}  # noqa: E731
    assert torch.equal(m.predict(net, None), m.adjusted(kit.A.W, V))
    p = step("fixmatch", ONE_STRONG, strong_views=1)[1]
    close(p.prob[1], [.058780, .691656, .249564])
    assert p.mask.tolist() == [0, 0, 1, 0]


def test_beta_of_cifar_10():
    counts = torch.tensor(long_tailed_counts(1500, 10, 100.)).double()
    m = kit.method("scad", counts=counts.long(), dataset="cifar10")
    close(m.delta.amin(0), [1, .599333, 1, 1, .597523, .359133, .128015, .126935, .016667, .01], 2e-3)
    assert m.on_groups.info.counts.tolist() == [int(counts[i].sum()) for i in ([0, 1, 8, 9], [2, 6], [3, 4, 5, 7])]


# ---- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "fixmatch"])
def test_groups_without_weight_and_of_one_class_each_leave_the_base(base):
    options = {"threshold": .3, "groups": "singletons", "lambda_g": 0.0}
    t = kit.trainer("scad", options if not base else {**options, "adjust_labels": False}, base=base)
    want = kit.trainer(base or "acr", {"threshold": .3})
    have = kit.losses_of(t, range(8))
    assert [{k: x for k, x in step.items() if not k.endswith("_g")} for step in have] == kit.losses_of(want, range(8))
    assert all(step[k] == 0 for step in have for k in step if k.endswith("_g"))
    if base:
        x, prior = t.data.normalise(t.source.test_images, t.dtype), t.method.info.prior()
        with torch.no_grad():
            adjusted = t.average.net(x)["head"] - prior.log()
            assert torch.equal(t.method.predict(t.average.net, x).argmax(-1), adjusted.argmax(-1)), "post-hoc LA"


def test_one_group_is_a_penalty_that_no_image_changes():
    beta = f64([1, .5, .1])
    close(dominance(beta, torch.zeros(3, dtype=torch.int64)), beta[None], 0)
    close(dominance(beta, torch.arange(3)).diagonal(), beta, 0)
    m = kit.method("scad", {"groups": "one"}, base="fixmatch")
    close(m.adjusted(kit.A.W, f64([[3.], [-1], [0], [9]])), kit.A.W - m.prior.log() - f64([7, 2, 1]) / 7, 1e-9)


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_the_data_sets_groups_have_each_class_once():
    for dataset, text in GROUPS.items():
        of_class = parsed("", dataset, 100 if dataset == "cifar100" else 10)
        assert max(of_class) == text.count(",") == (24 if dataset == "cifar100" else 2)
    assert parsed("by_order", "imagenet127", 9) == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert parsed("2, 0 1", "mnistm5k", 3) == [1, 1, 0]


@pytest.mark.parametrize("groups", ["0 1", "0 1 2 2", "0, 1, 2, 3", "a b c", "", "0 1,, 2"])
def test_groups_that_do_not_hold_each_class_once_are_refused(groups):
    with pytest.raises(BadInput, match="groups='.*': each of the 3 classes once"):
        kit.method("scad", {"groups": groups}, dataset="imagenet127")


def test_on_fixmatch_the_published_recipe_is_the_release_s():
    run = Run.of("cifar10", "scad", base="fixmatch", recipe="original")
    assert (run.mu, run.steps, run.eval_steps, run.options["strong_views"]) == (1, 250_000, 500, 1)
    assert not run.options["adjust_labels"]
