"""Profiles as a person types them. smoke: every method, on each of its bases, runs to its end with every part active.
The long ones: every method takes its first steps."""
from __future__ import annotations

import dataclasses

import pytest
from kit import DATA

from semilib import Run, Trainer, train
from semilib.methods import METHODS, get
from semilib.study.grids import HOSTS
from semilib.study.grids import MODULES as WORDS
from semilib.training import record
from semilib.training.config import PROFILES

MODULES = "+".join(WORDS)
# In 24 steps ABC's second head is nowhere as sure as most rows of its first, so no threshold suits both it and `align`.
SEVERAL_AT_ONCE = [host for host in HOSTS if host != "abc"]
TYPED = {**{"+".join(filter(None, (base, name))): {"method": name, "base": base}
            for name in METHODS for base in ("", *get(name).bases[1:])},
         **{f"{host}+{MODULES}": {"method": host, "add": MODULES} for host in SEVERAL_AT_ONCE}}


@pytest.fixture(scope="module")
def source(source):
    """The embedded data set at half its side, with fewer test images: evaluations would take a third of the time."""
    return dataclasses.replace(source, test_images=source.test_images[::10], test_labels=source.test_labels[::10])


@pytest.mark.parametrize("label", TYPED)
def test_a_run_of_profile_smoke_ends_with_every_part_active(label, source, tmp_path, kept_views):
    run = Run.of("mnistm5k", **TYPED[label], profile="smoke", root=DATA)
    assert run.label == label
    result = record.read(train(run, tmp_path, source=source))["result"]
    assert result["evaluations"] == 4 and result["never_acted"] == {}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_a_long_profile_takes_its_first_steps(name, embedded, kept_views):
    """With schedule, momenta and durations of the profile; a small network and few images, for the time."""
    few = dataclasses.replace(embedded, images=embedded.images[..., ::4, ::4], test_images=embedded.test_images[:10],
                              test_labels=embedded.test_labels[:10])
    for profile in ("glance", "short", "paper"):
        run = Run.of("mnistm5k", name, profile=profile, network="wrn-10-0.25", batch=4, root=DATA)
        trainer = Trainer(run, few)
        for _ in range(2):
            trainer.advance()
        assert trainer.total == PROFILES[profile]["steps"] and trainer.step == 2, profile
        assert trainer.last_losses and all(loss.isfinite() for loss in trainer.last_losses.values()), profile


def test_given_options_lie_over_the_profile_s_and_those_over_a_recipe_s():
    def options(**given):
        return Run.of("mnistm5k", "seval", **{"profile": "smoke", **given}).options
    recipe = options(recipe="original", profile="paper")
    assert options()["threshold"] == options(recipe="original")["threshold"] == 0.12 != recipe["threshold"]
    assert options(options={"threshold": 0.5})["threshold"] == 0.5
    assert options(recipe="original")["strong_views"] == recipe["strong_views"] != options()["strong_views"]


def test_options_of_the_profile_are_those_of_method_base_and_modules():
    def smoke(method, **parts):
        return get(method, **parts).smoke
    assert smoke("la") == {} and smoke("la", base="fixmatch") == {"threshold": 0.12}
    assert smoke("abc") == smoke("abc", base="remixmatch") == {"threshold": 0.12}, "ABC reads it on ReMixMatch too"
    assert smoke("darp") == {"threshold": 0.12, "warmup": 4} and smoke("darp", base="remixmatch") == {"warmup": 4}
    assert smoke("darp", add="align") == {"threshold": 0.25, "warmup": 4}


def test_a_changed_method_takes_its_own_options_of_the_profile():
    run = Run.of("mnistm5k", "semi", profile="smoke")
    assert run.with_(method="darp") == Run.of("mnistm5k", "darp", profile="smoke")
    assert run.with_(method="darp", options={"threshold": 0.3}).options["threshold"] == 0.3
    assert run.with_(seed=1).options == run.options
