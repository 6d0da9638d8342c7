"""A run's fields: refused with a useful message where they are wrong, named and hashed the same however they are written."""
import dataclasses

import pytest
from conftest import DATA

from semilib.config import PROFILES, Run, option, span, steps_of
from semilib.errors import BadInput
from semilib.methods import METHODS, get


@pytest.mark.parametrize("given, message", [
    ({"gama_l": 10}, "parameter='gama_l': unknown; did you mean 'gamma_l'"),
    ({"method": "fixmach"}, "method='fixmach': unknown; did you mean 'fixmatch'"),
    ({"dataset": "cifar"}, "dataset='cifar': unknown; did you mean 'cifar10'"),
    ({"profile": "papr"}, "profile='papr': unknown; did you mean 'paper'"),
    ({"options": {"alfa": 0.3}}, "option of semi='alfa': unknown; did you mean 'alpha'"),
    ({"options": {"preset": "release"}}, "preset='release': unknown; did you mean 'released'"),
    ({"options": {"alpha": 2}}, "alpha=2.0: at least 0 and at most 1"),
    ({"options": {"plce": 1}}, "plce=1: bool"),
    ({"lr": "fast"}, "lr='fast': float: learning rate"),
    ({"steps": 10.5}, "steps=10.5: int"),
    ({"steps": True}, "steps=True: int"),
    ({"gamma_l": 0.5}, "gamma_l=0.5: at least 1"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"order": "sideways"}, "order='sideways': unknown"),
    ({"network": "wrn-27-2"}, "network='wrn-27-2': wrn-DEPTH-WIDTH"),
    ({"network": "vgg"}, "network='vgg'"),
    ({"device": "tpu"}, "device='tpu'"),
    ({"eval_every": 5000}, "eval_every=5000: at least 1 and at most steps=1200"),
    ({"eval_every": 1.5}, "eval_every=1.5"),
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
    assert Run.of("cifar10", "fixmatch", n1=500, m1=4000, gamma_l=150, seed=2).name == "cifar10-lt.n500.m4000.g150-150.s2/fixmatch"
    assert Run.of("cifar10", order="reversed").cell == "cifar10-lt.n1500.m3000.g100-100.reversed"
    assert Run.of("cifar10", order="uniform").cell == "cifar10-lt.n1500.m3000.g100-1"
    assert Run.of("cifar10", labelled_in_unlabelled=False, split_seed=7).cell == "cifar10-lt.n1500.m3000.g100-100.disjoint.split7"


def test_the_key_knows_every_field_that_can_move_a_number():
    base = Run.of()
    assert base.key == Run.of(options={"preset": "paper", "alpha": 0.4}, gamma_l=20).key == Run.of(root="elsewhere").key
    assert base.key == base.with_(keep_seconds=1.0).key
    changed = [base.with_(seed=1), base.with_(steps=1201), base.with_(options={"alpha": 0.3}), base.with_(precision="bf16"),
               base.with_(order="reversed"), base.with_(flip=True), base.with_(bn_momentum=0.2)]
    assert len({r.key for r in [base, *changed]}) == len(changed) + 1


def test_a_run_is_plain_data_that_makes_itself_again():
    run = Run.of("cifar10", options={"preset": "readme"}, n1=500, m1=4000)
    again = Run(**dataclasses.asdict(run))
    assert again == run and again.key == run.key


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_makes_a_run_of_every_method(profile):
    for method in METHODS:
        run = Run.of(method=method, profile=profile)
        assert run.steps == PROFILES[profile]["steps"] and 1 <= run.eval_steps <= run.steps


def test_the_paper_profile_is_the_published_recipe():
    run = Run.of("cifar10")
    assert (run.steps, run.batch, run.mu, run.lr, run.ema, run.bn_momentum) == (250_000, 64, 1, 0.03, 0.999, 0.001)
    assert (run.weight_decay, run.rate, run.network, run.variant) == (5e-4, "cosine", "wrn-28-2", "V1")
    assert run.eval_steps == 500 and run.strong_pool == "A" and run.labelled_in_unlabelled


def test_durations_scale_with_the_run_and_whole_numbers_override():
    assert steps_of(span(3000), 250_000) == 3000 and steps_of(span(3000), 25_000) == 300 and steps_of(span(100), 120) == 1
    assert steps_of(17, 250_000) == 17


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
