"""A run's fields: refused with a useful message where they are wrong,
named and hashed the same however they are written."""
import dataclasses
import json

import pytest
from kit import DATA, ROOT

from semilib.errors import BadInput
from semilib.methods import METHODS, get
from semilib.options import duration_in_steps, momentum_of, option, span, window_of
from semilib.training.config import PROFILES, Run


@pytest.mark.parametrize("given, message", [
    ({"gama_l": 10}, "parameter='gama_l': unknown; did you mean 'gamma_l'"),
    ({"method": "fixmach"}, "method='fixmach': unknown; did you mean 'fixmatch'"),
    ({"dataset": "cifar"}, "dataset='cifar': unknown; did you mean 'cifar10'"),
    ({"profile": "papr"}, "profile='papr': unknown; did you mean 'paper'"),
    ({"options": {"alfa": 0.3}}, "option of semi='alfa': unknown; did you mean 'alpha'"),
    ({"options": {"preset": "release"}}, "preset='release': unknown; did you mean 'released'"),
    ({"options": {"alpha": 2}}, "alpha=2.0: at least 0 and at most 1"),
    ({"options": {"plce": 1}}, "plce=1: True or False"),
    ({"lr": "fast"}, "lr='fast': a number: learning rate"),
    ({"steps": 10.5}, "steps=10.5: a whole number: T, training steps"),
    ({"steps": True}, "steps=True: a whole number"),
    ({"gamma_l": 0.5}, "gamma_l=0.5: at least 1"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"order": "sideways"}, "order='sideways': unknown"),
    ({"network": "wrn-27-2"}, "network='wrn-27-2': wrn-DEPTH-WIDTH"),
    ({"network": "vgg"}, "network='vgg'"),
    ({"device": "tpu"}, "device='tpu'"),
    ({"eval_every": 5000}, "eval_every=5000: at least 1 and at most steps=1200"),
    ({"eval_every": 1.5}, "eval_every=1.5"),
    ({"gamma_u": -100}, "-100 is 100 with order=reversed"),
    ({"n1": 5, "gamma_l": 100}, "n1=5: "),
    ({"ema": 1.0}, "ema=1.0"),
    ({"profile": 0}, "profile=0"), ({"profile": []}, "profile=[]"), ({"profile": False}, "profile=False"),
    ({"seed": 2**64}, f"seed={2**64}"), ({"device": "cuda:x"}, "device='cuda:x'"),
    ({"batch": 10**9}, "batch=1000000000"), ({"network": "wrn-1000000-1"}, "network='wrn-1000000-1'"),
    ({"seed": 10**400}, "seed=1000"), ({"order": "x" * 5000}, "(5,002 characters)"),
    ({"add": 1, "sde": 0}, "add=1: a text"), ({"base": [1], "recipe": "original"}, "base=[1]: a text"),
])
def test_a_wrong_field_is_named_with_what_would_be_right(given, message):
    with pytest.raises(BadInput) as error:
        Run.of(**given)
    assert message in str(error.value)


def test_changes_are_checked_too():
    with pytest.raises(BadInput, match="parameter='sed'.*did you mean 'seed'"):
        Run.of().with_(sed=1)
    with pytest.raises(BadInput, match="seed=-1"):
        Run.of().with_(seed=-1)
    assert Run.of().with_(seed=3).name.endswith(".s3/semi")


def test_names_say_the_protocol():
    assert Run.of("cifar10", "semi").name == "cifar10-lt.n1500.m3000.g100-100.s0/semi"
    run = Run.of("cifar10", "fixmatch", n1=500, m1=4000, gamma_l=150, seed=2)
    assert run.name == "cifar10-lt.n500.m4000.g150-150.s2/fixmatch"
    assert Run.of("cifar10", order="reversed").cell == "cifar10-lt.n1500.m3000.g100-100.reversed"
    assert Run.of("cifar10", order="uniform").cell == "cifar10-lt.n1500.m3000.g100-1"
    run = Run.of("cifar10", labelled_in_unlabelled=False, split_seed=7)
    assert run.cell == "cifar10-lt.n1500.m3000.g100-100.disjoint.split7"


def test_a_label_names_base_method_additions_and_adjustment(monkeypatch):
    """Each part that was asked for stands in the label once; a method's own first base does not."""
    def label(method, **given):
        run = Run.of("cifar10", method, **given)
        assert run.name == f"{run.cell}.s0/{run.label}"
        return run.label
    from semilib.methods.fixmatch import FixMatch
    monkeypatch.setitem(METHODS, "inner", type("Inner", (FixMatch,), {"bases": ("fixmatch", "remixmatch")}))
    assert label("fixmatch") == "fixmatch" and label("inner") == "inner"
    assert label("inner", base="fixmatch") == "inner" and label("inner", base="remixmatch") == "remixmatch+inner"
    assert label("fixmatch", add="oheml+plce") == "fixmatch+oheml+plce" and label("inner", add="plce") == "inner+plce"
    assert label("fixmatch", post_hoc=1) == label("fixmatch", post_hoc=1.0) == "fixmatch+posthoc1"
    assert label("fixmatch", post_hoc=0.5) == "fixmatch+posthoc0.5" and label("fixmatch", post_hoc=0) == "fixmatch"
    assert label("inner", base="fixmatch", add="oheml", post_hoc=2) == "inner+oheml+posthoc2"
    assert label("fixmatch", add="plce+oheml") == "fixmatch+oheml+plce"
    with pytest.raises(BadInput, match="post_hoc=-1"):
        Run.of(post_hoc=-1)


def test_base_additions_adjustment_and_recipe_move_the_key_and_the_report_does_not():
    first = Run.of("cifar10", "fixmatch")
    changed = [first.with_(add="oheml"), first.with_(add="plce"), first.with_(post_hoc=1.0),
               dataclasses.replace(first, recipe="original"), first.with_(crop="zero"), first.with_(strong_pool="C"),
               first.with_(variant="USB"), first.with_(rate="slow_cosine")]
    assert len({r.key for r in [first, *changed]}) == len(changed) + 1
    with pytest.raises(BadInput, match="recipe='original'.*applied where a run is made"):
        first.with_(recipe="original")
    assert first.with_(report="last").key == first.key and "report" not in first.identity()


def test_changing_base_or_additions_drops_the_options_of_the_old_combination():
    run = Run.of("cifar10", "fixmatch", options={"threshold": 0.8})
    assert run.with_(post_hoc=1.0).options["threshold"] == 0.8
    assert run.with_(add="oheml").options["threshold"] == 0.95
    assert run.with_(add="oheml", options={"threshold": 0.7}).options["threshold"] == 0.7


def test_the_key_knows_every_field_that_can_move_a_number():
    base = Run.of()
    assert base.key == Run.of(options={"preset": "paper", "alpha": 0.4}, gamma_l=20).key == Run.of(root="elsewhere").key
    assert base.key == base.with_(keep_seconds=1.0).key
    changed = [base.with_(seed=1), base.with_(steps=1201), base.with_(options={"alpha": 0.3}),
               base.with_(precision="bf16"), base.with_(order="reversed"), base.with_(flip=True),
               base.with_(bn_momentum=0.2)]
    assert len({r.key for r in [base, *changed]}) == len(changed) + 1


def test_the_committed_records_keep_their_keys_when_options_are_added():
    records = [json.loads(path.read_text()) for path in (ROOT / "results/learning-trial-600-steps").glob("*/run.json")]
    assert len(records) >= 3 * len(METHODS)
    changed = [r["name"] for r in records if Run(**r["config"]).key != r["key"]]
    assert not changed


def test_a_run_is_plain_data_that_makes_itself_again():
    run = Run.of("cifar10", options={"preset": "readme"}, n1=500, m1=4000)
    again = Run(**dataclasses.asdict(run))
    assert again == run and again.key == run.key


ON_FEATURES = {"metaexpert": "encoder", "remixmatch": "lambda_r"}      # refused as they are; the field that says why


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_makes_a_run_of_every_method(profile):
    for method in METHODS:
        if PROFILES[profile].get("encoder") and method in ON_FEATURES:
            with pytest.raises(BadInput) as error:
                Run.of(method=method, profile=profile)
            assert error.value.field == ON_FEATURES[method]
            continue
        run = Run.of(method=method, profile=profile)
        assert run.steps == PROFILES[profile]["steps"] and 1 <= run.eval_steps <= run.steps


def test_the_paper_profile_is_the_published_recipe():
    run = Run.of("cifar10")
    assert (run.steps, run.batch, run.mu, run.lr, run.ema, run.bn_momentum) == (250_000, 64, 1, 0.03, 0.999, 0.001)
    assert (run.weight_decay, run.rate, run.network, run.variant) == (5e-4, "cosine", "wrn-28-2", "V1")
    assert run.eval_steps == 500 and run.strong_pool == "A" and run.labelled_in_unlabelled


def test_durations_scale_with_the_run_and_whole_numbers_override():
    assert duration_in_steps(span(3000), 250_000) == 3000 and duration_in_steps(span(3000), 25_000) == 300
    assert duration_in_steps(span(100), 120) == 1
    assert duration_in_steps(17, 250_000) == 17


@pytest.mark.parametrize("momentum, total, want", [
    # horizon 1,000, 100, 20
    (0.999, 250_000, 0.999), (0.999, 1_000_000, 0.999), (0.999, 25_000, 0.99), (0.999, 5_000, 0.95),
    (0.999, 1_200, 0.95), (0.999, 12, 0.95),                                                  # never less than 20 steps
    (0.9, 250_000, 0.9), (0.9, 25_000, 0.9), (0.9, 12, 0.9),                                  # nor more than it was: 10
    (0.0, 400, 0.0), (1.0, 400, 1.0), (0.95, 400, 0.95)])
def test_a_momentum_keeps_its_horizon_as_a_share_of_the_run(momentum, total, want):
    assert momentum_of(momentum, total) == pytest.approx(want, abs=1e-12)


def test_a_momentum_may_be_meant_for_another_schedule_and_another_floor():
    assert momentum_of(0.999, 2**19, of=2**20) == pytest.approx(1 - 1 / 500)
    assert momentum_of(0.999, 2**20, of=2**20) == pytest.approx(0.999)
    assert momentum_of(0.999, 1_200, least=50) == pytest.approx(1 - 1 / 50)
    shorter = [momentum_of(0.999, total) for total in (250_000, 100_000, 25_000, 10_000, 1_200)]
    assert shorter == sorted(shorter, reverse=True) and len(set(shorter)) == 5


@pytest.mark.parametrize("window, total, want", [
    (128, 250_000, 128), (128, 10**6, 128), (128, 125_000, 64), (128, 25_000, 20), (128, 12, 20), (1000, 25_000, 100),
    (15, 400, 15), (20, 400, 20), (1, 24, 1)])
def test_a_window_is_scaled_as_a_momentum_is(window, total, want):
    found = window_of(window, total)
    assert found == want and isinstance(found, int)


def test_a_window_may_be_meant_for_another_schedule_and_another_floor():
    assert window_of(128, 2**18, of=2**20) == 32 and window_of(128, 1_200, least=4) == 4
    assert window_of(100, 1_200, least=64) == 64


def test_averages_of_short_profiles_forget_the_initial_weights():
    for name, profile in PROFILES.items():
        assert profile["ema"] ** profile["steps"] < 0.1, name


def test_every_field_has_a_sentence():
    for kind in (Run, *(get(m).Config for m in METHODS)):
        for f in dataclasses.fields(kind):
            assert f.metadata["doc"], f.name


def test_an_integer_is_taken_where_a_float_is_meant_but_not_a_bool():
    assert Run.of(lr=1).lr == 1.0 and type(Run.of(lr=1).lr) is float
    with pytest.raises(BadInput, match="lr=True"):
        Run.of(lr=True)


def test_option_defaults_are_not_shared():
    first = Run.of("mnistm5k", "supervised")
    first.options["x"] = 1
    assert "x" not in Run.of("mnistm5k", "supervised").options
    assert option({}, "doc").default_factory() == {} and DATA
