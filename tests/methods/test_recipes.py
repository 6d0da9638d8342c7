"""Original recipes: how they lie between profile and what is given, and what each method's own recipe is on CIFAR-10.

The table is typed off the references (methods-a 1.2 and 2, methods-b 3.3 and 6, methods-c 1.2), not off the method
files. A field that the references leave open for a method is missing from its row."""
from __future__ import annotations

import dataclasses

import kit
import pytest
import torch
from kit import smoke_run

from semilib.errors import BadInput
from semilib.methods import METHODS, get
from semilib.methods.fixmatch import FixMatch
from semilib.options import option
from semilib.training.config import PROFILES, SCALE, Run
from semilib.training.engine import Trainer

# ---- layers ----------------------------------------------------------------------------------------------------------


class Own(FixMatch):
    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        third: float = option(3.0, "an option that the recipe leaves alone")

    seen: list[dict] = []

    @classmethod
    def original(cls, run):
        cls.seen.append(dict(run))
        return dict(mu=7, lr=0.5, variant="V2", strong_pool="C", crop="zero", report="last", steps=1000, batch=128,
                    ema=0.5, eval_every=100, network="wrn-28-8", bn_momentum=0.25,
                    options={} if run["base"] == "remixmatch" else dict(strong_views=1, threshold=0.8))


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setitem(METHODS, "own", Own)
    Own.seen.clear()


def test_the_recipe_beats_the_profile_and_what_is_given_beats_the_recipe():
    run = Run.of("cifar10", "own", recipe="original", lr=0.25, eval_every=50, crop="reflect")
    assert (run.mu, run.variant, run.strong_pool, run.report, run.steps) == (7, "V2", "C", "last", 1000)
    assert (run.batch, run.ema, run.network, run.bn_momentum) == (128, 0.5, "wrn-28-8", 0.25)
    assert (run.lr, run.eval_every, run.crop) == (0.25, 50, "reflect")
    assert (run.weight_decay, run.rate, run.policy) == (5e-4, "cosine", "joint")       # of neither: the paper profile's
    assert run.profile == "paper" and run.recipe == "original"


def test_the_shared_recipe_asks_no_method_for_its_own():
    assert Run.of("cifar10", "own") == Run.of("cifar10", "own", recipe="shared") and not Own.seen
    run = Run.of("cifar10", "own")
    assert (run.mu, run.lr, run.steps, run.strong_pool) == (1, 0.03, 250_000, "A") and run.options["threshold"] == 0.95


@pytest.mark.parametrize("profile", [p for p in PROFILES if p != "paper"])
def test_a_small_profile_keeps_its_scale_and_takes_the_rest(profile):
    run = Run.of("cifar10", "own", recipe="original", profile=profile)
    assert {name: getattr(run, name) for name in SCALE} == {name: PROFILES[profile][name] for name in SCALE}
    assert (run.mu, run.lr, run.variant, run.options["strong_views"]) == (7, 0.5, "V2", 1)
    given = Run.of("cifar10", "own", recipe="original", profile=profile, batch=6, lr=0.125)
    assert (given.batch, given.lr) == (6, 0.125)


def test_options_are_merged_name_by_name():
    def options(**given):
        return Run.of("cifar10", "own", recipe="original", options=given).options
    assert options() == {"threshold": 0.8, "lambda_u": 1.0, "strong_views": 1, "third": 3.0}
    assert options(threshold=0.5, lambda_u=2) == {"threshold": 0.5, "lambda_u": 2.0, "strong_views": 1, "third": 3.0}
    given = {"threshold": 0.5}
    Run.of("cifar10", "own", recipe="original", options=given)
    assert given == {"threshold": 0.5}, "the caller's options are not written to"


def test_the_method_is_told_the_run_so_far():
    Run.of("cifar10", "own", recipe="original", n1=500, m1=4000, gamma_l=150.0, order="reversed", lr=0.1)
    seen, = Own.seen
    want = dict(dataset="cifar10", method="own", n1=500, m1=4000, gamma_l=150.0, order="reversed", lr=0.1, base="",
                profile="paper", steps=250_000)
    assert {name: seen[name] for name in want} == want


def test_the_recipe_is_that_of_the_pair(monkeypatch):
    monkeypatch.setattr(Own, "bases", ("fixmatch", "remixmatch"))
    run = Run.of("cifar10", "own", recipe="original", base="remixmatch", options={"temperature": 0.25})
    assert run.options["temperature"] == 0.25
    assert Own.seen[-1]["base"] == "remixmatch"


@pytest.mark.parametrize("given, message", [
    (dict(recipe="orginal"), "recipe='orginal': unknown; did you mean 'original'"),
    (dict(recipe="original", profile="papr"), "profile='papr': unknown; did you mean 'paper'"),
    (dict(recipe="original", options={"treshold": 0.1}), "option of own='treshold': unknown; did you mean 'threshold'"),
    (dict(recipe="original", polcy="joint"), "parameter='polcy': unknown; did you mean 'policy'"),
    (dict(recipe="original", mu=0), "mu=0: at least 1"), (dict(recipe=True), "recipe=True: unknown")])
def test_unknown_names_and_bad_values_are_refused(given, message):
    with pytest.raises(BadInput) as error:
        Run.of("cifar10", "own", **given)
    assert message in str(error.value)


@pytest.mark.parametrize("recipe",
                         [dict(momentum=0.9), dict(options=dict(tau=0.9)), dict(variant="V9"), dict(eval_every=2**30)])
def test_a_recipe_that_names_what_is_not_there_makes_no_run(monkeypatch, recipe):
    monkeypatch.setattr(Own, "original", classmethod(lambda cls, run: recipe))
    with pytest.raises((BadInput, TypeError), match="momentum|tau|V9|eval_every"):
        Run.of("cifar10", "own", recipe="original")


def test_a_recipe_moves_the_key_even_where_it_changes_nothing():
    shared, original = (Run.of("cifar10", "semi", recipe=r) for r in ("shared", "original"))
    assert dataclasses.replace(original, recipe="shared") == shared and original.key != shared.key
    assert original.name == shared.name


# ---- what each method was published with -----------------------------------------------------------------------------

# A: methods-a, B: methods-b, C: methods-c, D: methods-d, with their sections. Options are compared by their own names.
SGD = dict(optimiser="sgd", lr=0.03, weight_decay=5e-4)
PORT = dict(**SGD, variant="V1", rate="cosine", decay="weights", ema_rule="parameters", bn_momentum=0.001,
            crop="reflect", policy="joint",
            batch=64, report="mean_last")                          # FixMatch's PyTorch port and what grew on it (A 1.2)
DASO = {**PORT, "variant": "V2", "mu": 2, "rate": "constant", "decay": "all", "ema_rule": "warmup", "bn_momentum": 0.1,
        "strong_pool": "A", "labelled_in_unlabelled": False, "report": "median_last", "steps": 250_000,
        "eval_steps": 500,
        "strong_views": 1}                                                    # A 1.2, 6.4
USB = {**PORT, "variant": "USB", "decay": "ndim", "steps": 2**18, "eval_steps": 1024, "strong_pool": "B",
       "labelled_in_unlabelled": False, "report": "best_on_test"}             # B 3.3 R-USB; cosine for plain algorithms
# B 3.3, 4.3
TORCHSSL = {**USB, "mu": 7, "steps": 2**20, "eval_steps": 5000, "labelled_in_unlabelled": True, "strong_views": 1}
DARP = dict(optimiser="adam", lr=0.002, weight_decay=0.02, rate="constant", ema_rule="decaying", batch=64, mu=1,
            steps=250_000, eval_steps=500, strong_pool="C", crop="zero", labelled_in_unlabelled=True,
            policy="weak_first", report="mean_last",
            strong_views=2)                                       # B 3.3 R-DARP, 3.2, 2.3, 4.3, A 2.4; two views: B 5.3
LOGGED = {k: v for k, v in DARP.items() if k != "report"}         # ABC and TRAS log every epoch and average none
CREST = {**SGD, "rate": "slow_cosine", "decay": "norms", "ema_rule": "parameters", "bn_momentum": 0.001, "batch": 64,
         "mu": 7, "steps": 6 * 64 * 1024, "eval_steps": 1024, "labelled_in_unlabelled": True, "policy": "joint",
         "report": "median_last",
         "strong_views": 1}                                                   # B 3.3 R-CREST, 3.1, 4.3, 2.3, 6.2

ROWS = {
    "supervised": {k: v for k, v in USB.items() if k not in ("strong_pool", "labelled_in_unlabelled")},          # B 5.1
    "fixmatch": {**PORT, "mu": 7, "steps": 2**20, "eval_steps": 1024, "strong_pool": "A",
                 "labelled_in_unlabelled": True,
                 "strong_views": 1},                                                                        # A 3
    "remixmatch": {**USB, "mu": 1, "policy": "frozen"},                                                     # B 5.7, 2.3
    "flexmatch": TORCHSSL, "freematch": TORCHSSL, "softmatch": TORCHSSL,
    "darp": {**DARP, "bn_momentum": 0.1}, "saw": {**DARP, "beta": 0.99},
    "cossl": {**DARP, "bn_momentum": 0.1, "steps": 501 * 500},            # B 6.4: 401 epochs of phase 1, 100 of phase 2
    "abc": {**LOGGED, "bn_momentum": 0.001, "labelled_in_unlabelled": False, "policy": "separate"},         # B 6.3, 3.1
    "tras": {**LOGGED, "bn_momentum": 0.001, "labelled_in_unlabelled": False, "policy": "separate"},        # B 6.8, 3.1
    "adsh": {**DARP, "mu": 2, "steps": 2**18, "eval_steps": 512, "policy": "separate", "strong_views": 1},  # B 6.7
    "crest": CREST, "crestplus": CREST,
    "daso": DASO, "seval": {**DASO, "steps": 2 * 250_000},                  # A 9: two stages of the whole schedule each
    "acr": {**PORT, "mu": 1, "steps": 250_000, "eval_steps": 500, "strong_pool": "A", "labelled_in_unlabelled": True,
            "strong_views": 2},                                                                                    # A 4
    "cpe": {**USB, "mu": 2, "rate": "constant", "strong_views": 1},                                                # A 5
    "cdmad": {**LOGGED, "variant": "V2", "lr": 0.0015, "weight_decay": 0.04, "batch": 32, "mu": 2, "bn_momentum": 0.1,
              "policy": "separate"},                                                                               # A 7
    "simpro": {**PORT, "mu": 8, "lr": 0.17, "steps": 43_000, "eval_steps": 500, "strong_pool": "A",
               "labelled_in_unlabelled": False,
               "strong_views": 2},                                                                                 # A 8
    "rda": {**PORT, "variant": "V3", "mu": 7, "steps": 2**20, "eval_steps": 1000, "strong_pool": "B", "crop": "zero",
            "decay": "norms",
            "labelled_in_unlabelled": True, "report": "best_on_test", "strong_views": 1},                         # A 10
    # C 1.2, 7.4, 7.5
    "bacon": {**USB, "mu": 2, "steps": 300_000, "eval_steps": 1000, "rate": "constant", "strong_views": 1},
    "adello": {**USB, "mu": 2, "rate": "constant", "labelled_in_unlabelled": True, "report": "mean_last",
               "strong_views": 1},  # C 5.4
    "decon": {**PORT, "mu": 1, "steps": 250_000, "eval_steps": 500, "strong_pool": "A", "labelled_in_unlabelled": True,
              "strong_views": 2,
              "tau": 1.0, "tau_4": 1.0, "droplast_prior": True},                                            # C 1.2, 4.5
    "ccl": {**PORT, "mu": 1, "steps": 250_000, "eval_steps": 500, "strong_pool": "A", "labelled_in_unlabelled": True,
            "strong_views": 2},                                                                               # C 1.2, 3
    # C 1.2, 8.4, 8.6
    "metaexpert": {**USB, "mu": 2, "rate": "constant", "strong_views": 1, "official_frozen_gate": True},
    # C 1.2, 6.5
    "cpg": {**USB, "mu": 7, "strong_views": 1, "labelled_strong": True, "official_radius": True, "absolute_floor": 12},
    "semi": {**PORT, "mu": 1, "steps": 250_000, "eval_steps": 500, "strong_pool": "A", "labelled_in_unlabelled": True},
}
ROWS["scssl"] = {**{k: v for k, v in USB.items() if k != "report"}, "mu": 2, "rate": "constant",
                 "strong_views": 1}                                                                        # D 1.2, 4.5
ROWS["sage"] = {**USB, "mu": 7, "strong_views": 1, "labelled_strong": True, "official_blocks": True}        # D 1.2, 6.5
ROWS["scad"] = {**ROWS["acr"], "tau_1": 2.0, "ema_u": 0.99, "official_presence": True, "lambda_g": 1.0}       # D 7.4
ROWS["dytrim"] = {**ROWS["cdmad"], "blank": 0.0, "released_freeze": True, "kept": 0.3}                      # D 1.2, 3.5
ROWS["proportion"] = {**PORT, "mu": 3, "steps": 250_000, "eval_steps": 500, "crop": "zero", "strong_views": 1,
                      "labelled_in_unlabelled": False, "proportion_t": 0.5, "proportion_lambda": 0.1}  # D 1.2, 5.4, 5.6
ROWS["farad"] = {**ROWS["cdmad"], "blank_pass": "eval"}                                                     # D 1.2, 2.3
# The references give LA no training run of its own; DASO's repository is the one that has it in this field (B 5.2, A
# 2.9).
ROWS["la"] = {k: v for k, v in DASO.items() if k not in ("strong_views", "strong_pool", "labelled_in_unlabelled")}

# On ReMixMatch: B 2.3 (interleaved in the DARP family), 4.3 (pool without labelled images), 5.7 (strong labelled view,
# ramp over the whole run); A 7.5 for CDMAD; configs/cifar10/remixmatch_daso.yaml for DASO.
MIXED = {**{k: v for k, v in DARP.items() if k != "strong_views"}, "policy": "interleave",
         "labelled_in_unlabelled": False, "labelled_view": "strong", "ramp": 1.0}
ON_REMIXMATCH = {
    "darp": MIXED, "cossl": {**MIXED, "steps": 501 * 500, "ramp": 500 / 501},
    "saw": {**MIXED, "steps": 300 * 500, "labelled_in_unlabelled": True, "labelled_view": "weak", "align": False,
            "beta": 0.0},
    "abc": {k: v for k, v in MIXED.items() if k != "report"},
    "daso": {**{k: v for k, v in DASO.items() if k != "strong_views"}, "mu": 1, "policy": "interleave", "ramp": 0.016,
             "align": False, "labelled_view": "weak", "lambda_u": 1.5, "lambda_1": 0.5, "lambda_r": 0.5, "t_dist": 1.5,
             "released_statistics": True},
    "cdmad": {**{k: v for k, v in MIXED.items() if k != "report"}, "mu": 2, "variant": "V2", "bn_momentum": 0.1,
              "steps": 300 * 500, "weight_decay": 0.04, "lambda_u": 2.0, "lambda_r": 1.0},
}
ON_REMIXMATCH["proportion"] = {**{k: v for k, v in ROWS["proportion"].items() if k != "strong_views"}, "ramp": 1.0,
                               "lambda_u": 1.5, "lambda_1": 0.5, "lambda_r": 0.5, "temperature": 0.5}   # D 5.3, 5.4
ON_REMIXMATCH["farad"] = {**ON_REMIXMATCH["cdmad"], "align": False, "temperature": 1.0}                       # D 2.3

WITH_RECIPE = [name for name in METHODS if not kit.recipe_refusal(name)]


def differing(run: Run, want: dict) -> dict[str, tuple]:
    """Field -> (what the recipe gives, what the reference has), where they differ; options by their names."""
    have = {**run.options, **{f.name: getattr(run, f.name) for f in dataclasses.fields(Run)},
            "eval_steps": run.eval_steps}
    return {name: (have.get(name), value) for name, value in want.items() if have.get(name) != value}


def test_the_table_has_a_row_for_every_method_that_has_a_recipe_of_its_own():
    def defined_in(name):
        return next(c for c in get(name).__mro__ if "original" in vars(c)).__module__
    own_recipe = {name for name in WITH_RECIPE if defined_in(name) == get(name).__module__}
    assert own_recipe <= set(ROWS) <= set(METHODS)
    assert set(ON_REMIXMATCH) <= {name for name in METHODS if "remixmatch" in get(name).bases}


@pytest.mark.parametrize("name", ROWS)
def test_an_original_recipe_is_the_published_one(name):
    run = Run.of("cifar10", name, recipe="original")
    assert not differing(run, ROWS[name])
    assert run.ema == 0.999 and run.network == "wrn-28-2"                     # of all: A 1.2, B 3.3


@pytest.mark.parametrize("name", ON_REMIXMATCH)
def test_an_original_recipe_on_remixmatch_is_the_published_one(name):
    assert not differing(Run.of("cifar10", name, base="remixmatch", recipe="original"), ON_REMIXMATCH[name])


@pytest.mark.parametrize("dataset, method, given, want", [
    ("cifar100", "cdmad", {}, dict(weight_decay=0.08)),
    ("cifar10", "cdmad", dict(order="uniform"), dict(weight_decay=0.01)),
    ("imagenet127", "ccl", {}, dict(batch=32, mu=2, tau=0.1, lambda_2=1.5)),
    ("stl10", "ccl", {}, dict(lambda_2=1.5, beta=0.5)),
    ("stl10", "adello", {}, dict(warmup=0, labelled_in_unlabelled=True)), ("stl10", "cpg", {}, dict(absolute_floor=0)),
    ("imagenet127", "cpg", {}, dict(absolute_floor=0)), ("svhn", "cpg", {}, dict(absolute_floor=12)),
    ("cifar100", "decon", {}, dict(tau=2.0)), ("cifar100", "seval", {}, dict(eval_steps=2500)),
    ("cifar100", "darp", {}, dict(refine_every=100, rounds=20)),
    ("cifar100", "saw", {}, dict(beta=0.99)), ("stl10", "saw", {}, dict(beta=0.0)),
    ("cifar100", "daso", dict(base="remixmatch"), dict(align=True, ramp=0.016, t_dist=0.3)),
    ("stl10", "daso", dict(base="remixmatch"), dict(align=False, ramp=0.016, t_dist=0.3)),
    ("stl10", "simpro", {}, dict(mu=16, rho_mu=16, lr=0.17, steps=43_000, tau=2.0, threshold=0.95)),
    ("imagenet127", "simpro", {}, dict(mu=2, rho_mu=2, batch=32, lr=0.01, steps=250_000, tau=1.0, threshold=0.2)),
    ("stl10", "cdmad", dict(base="remixmatch"), dict(weight_decay=0.02, lambda_r=0.5, align=False)),
    ("cifar100", "seval", {}, dict(target=0.65, threshold_groups=10, pi_groups=0, d_pi=0.98, d_t=0.98, mu=2)),
    ("stl10", "seval", {}, dict(target=0.6, threshold_groups=0, pi_groups=0, d_pi=0.995, d_t=0.999, eval_steps=500)),
    *[("cifar100", name, {}, dict(network="wrn-28-8", weight_decay=1e-3, lr=0.03, mu=7, steps=2**20))
      for name in ("fixmatch", "flexmatch", "freematch", "softmatch")],
    *[("svhn", name, {}, dict(network="wrn-28-2", weight_decay=5e-4))
      for name in ("flexmatch", "freematch", "softmatch")],
    *[("stl10", name, {}, dict(labelled_in_unlabelled=True))
      for name in ("flexmatch", "freematch", "softmatch", "remixmatch", "cpe", "bacon", "cdmad", "saw", "darp",
                   "adello")],
    *[("stl10", name, {}, dict(labelled_in_unlabelled=False))
      for name in ("acr", "daso", "simpro", "seval", "ccl", "metaexpert", "decon")],
    *[("cifar100", name, {}, dict(labelled_in_unlabelled=True)) for name in ("abc", "tras")],
    *[("svhn", name, {}, dict(labelled_in_unlabelled=False)) for name in ("abc", "tras")],
    *[("stl10", name, dict(base="remixmatch"), dict(labelled_in_unlabelled=False))
      for name in ("cdmad", "darp", "daso")],
    ("cifar100", "abc", dict(base="remixmatch"), dict(labelled_in_unlabelled=False)),
    ("stl10", "darp", {}, dict(refine_every=100, rounds=20, estimate=True)),
    *[("imagenet127", name, {}, dict(steps=500_000, eval_steps=2500, batch=256, lr=0.1, weight_decay=1e-4,
                                     network="resnet50"))
      for name in ("supervised", "remixmatch")],
    ("imagenet127", "crest", dict(base="remixmatch"),
     dict(steps=750_000, eval_steps=2500, generations=3, keep_alpha=0.7, batch=256)),
    ("imagenet127", "seval", {}, dict(target=0.65, threshold_groups=10, pi_groups=0, d_pi=0.998, d_t=0.998,
                                      eval_steps=1000, steps=200_000, mu=1, optimiser="adam", lr=0.002,
                                      weight_decay=0.0, rate="stepped", period=0.005, batch=64,
                                      labelled_in_unlabelled=False)),
    ("cifar100", "simpro", {}, dict(lr=0.17, steps=43_000, mu=8)),
    ("cifar10", "scad", dict(base="fixmatch"), dict(mu=1, steps=250_000, eval_steps=500, adjust_labels=False)),
    ("cifar10", "cdmad", dict(gamma_l=150), dict(weight_decay=0.04))])
def test_recipes_follow_the_data(dataset, method, given, want):
    assert not differing(Run.of(dataset, method, recipe="original", **given), want)


PAIRS = [(name, base) for name in WITH_RECIPE for base in ("", *get(name).bases[1:])]


@pytest.mark.parametrize("variant, base", PAIRS, ids=lambda pair: pair)
def test_an_original_recipe_trains(variant, base, source, backbone, kept_views):
    """Its views, policy, average, optimiser and pool work together, for every method on every base."""
    t = Trainer(smoke_run(variant, base=base, recipe="original"), source)
    for _ in range(3):
        t.advance()
    assert t.last_losses and all(torch.isfinite(x) for x in t.last_losses.values())
