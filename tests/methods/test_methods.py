"""The registry: methods by name, on bases, with additions; how their classes and options are joined;
what every entry must say."""
from __future__ import annotations

import dataclasses
import sys

import kit
import pytest
import torch

from semilib.errors import BadInput
from semilib.methods import ADDITIONS, METHODS, combine, get, merged_options, title_of
from semilib.methods.base import Info, Method
from semilib.methods.fixmatch import FixMatch
from semilib.methods.remixmatch import ReMixMatch
from semilib.options import Options, option
from semilib.training.config import PROFILES, SCALE, Run

PAIRS = [(name, base) for name in METHODS for base in get(name).bases or ("",)]
REFUSALS = {name: why for name in METHODS if (why := kit.recipe_refusal(name))}

# ---- the registry ----------------------------------------------------------------------------------------------------


def test_every_method_and_module_has_a_written_name_of_its_own():
    names = [title_of(name) for name in (*METHODS, *ADDITIONS)]
    assert len(set(names)) == len(names) and "" not in names
    assert (title_of("crestplus"), title_of("align"), title_of("no_method")) == ("CReST+", "Align", "no_method")


@pytest.mark.parametrize("name", METHODS)
def test_a_name_leads_to_a_class_that_has_options_and_components(name):
    cls = get(name)
    assert issubclass(cls.Config, Options) and issubclass(cls, Method)
    run = Run.of(method=name)
    assert run.method_class() is cls and isinstance(run.method_options(), cls.Config)
    for base in cls.bases:
        assert base in METHODS and not get(base).bases, "a base is a whole method of its own"
    assert set(cls.refuses) <= {*METHODS, "add"} and not set(cls.refuses) & set(cls.bases)
    assert all(isinstance(why, str) and len(why) > 20 for why in cls.refuses.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_file_says_what_it_follows_where_it_differs_and_gives_numbers(name):
    text = sys.modules[get(name).__module__].__doc__
    missing = [part for part in ("Follows:", "Differs:", "Numbers:") if f"\n{part}" not in text]
    assert not missing, f"{name}: no {', '.join(missing)}"


@pytest.mark.parametrize("name, nearest",
                         [("fixmach", "fixmatch"), ("remixmach", "remixmatch"), ("crest+", "crest"), ("SeMi", "semi")])
def test_an_unknown_method_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(BadInput, match=f"method='{name.replace('+', '.')}': unknown; did you mean '{nearest}'"):
        get(name)


# ---- bases and additions: what is refused ----------------------------------------------------------------------------


class Outer(FixMatch):
    bases = ("fixmatch", "remixmatch")

    @dataclasses.dataclass(frozen=True)
    class Config(FixMatch.Config):
        weight: float = option(1.0, "a weight", low=0)
        lambda_u: float = option(2.0, "another default than the base's", low=0)

    def terms(self, v, batch, p, t):
        return {**super().terms(v, batch, p, t), "outer": None}


class Picky(FixMatch):
    bases = ("fixmatch",)
    refuses = {"remixmatch": "it has no threshold", "add": "its mask is of another kind"}


@pytest.fixture
def registered(monkeypatch):
    for name, cls in (("outer", Outer), ("picky", Picky)):
        monkeypatch.setitem(METHODS, name, cls)


@pytest.mark.parametrize("given, message", [
    (("picky", "remixmatch"), "base='remixmatch': 'fixmatch' for picky: it has no threshold"),
    (("fixmatch", "remixmatch"), "base='remixmatch': none for fixmatch, which is a whole method of its own"),
    (("semi", "fixmatch"), "base='fixmatch': none for semi"),
    (("outer", "fixmach"), "base='fixmach': unknown; did you mean 'fixmatch'"),
    (("outer", "acr"), "base='acr': unknown; valid: fixmatch, remixmatch"),
    (("outer", "outer"), "base='outer': unknown"),
    (("fixmatch", "fixmach"), "base='fixmach': unknown; did you mean 'fixmatch'"),
    (("fixmatch", "", "ohemll"), "add='ohemll': unknown; did you mean 'oheml'"),
    (("fixmatch", "", "oheml+"), "add='': unknown; valid: align, oheml, plce, prop"),
    (("fixmatch", "", "oheml+plce+oheml"), "add='oheml+plce+oheml': each of them once"),
    (("picky", "", "plce"), "add='plce': '' for Picky: its mask is of another kind"),
    (("remixmatch", "", "plce"), "add='plce': '' for ReMixMatch: its targets are soft"),
    (("outer", "remixmatch", "plce"), "add='plce': '' for ReMixMatch: its targets are soft"),
    (("semi", "", "oheml"), "add='oheml': '' for SeMi: it has all three"),
    (("supervised", "", "oheml"), "add='oheml': '' for Supervised"),
])
def test_what_cannot_be_combined_is_refused_with_the_reason(registered, given, message):
    with pytest.raises(BadInput) as error:
        get(*given)
    assert message in str(error.value)
    with pytest.raises(BadInput) as error:
        Run.of("cifar10", given[0], **dict(zip(("base", "add"), given[1:])))
    assert message in str(error.value)


@pytest.mark.parametrize("name", [n for n in METHODS if get(n).refuses])
def test_the_fields_own_refusals_are_given_with_their_reasons(name):
    for what, why in get(name).refuses.items():
        with pytest.raises(BadInput) as error:
            get(name, "", "oheml") if what == "add" else get(name, what)
        assert why in str(error.value)


def test_what_the_modules_must_work_on():
    for name in ("fixmatch", "freematch", "daso", "acr", "cpe", "abc", "darp"):
        made = get(name, "", "oheml+plce+align")
        assert [c.__name__ for c in made.__mro__[1:4]] == ["OHEML", "PLCE", "Align"] and issubclass(made, get(name))


# ---- joining classes -------------------------------------------------------------------------------------------------


def test_a_base_that_the_method_is_derived_from_adds_nothing(registered):
    assert get("outer") is Outer and get("outer", "fixmatch") is Outer and combine(Outer, FixMatch) is Outer
    assert get("fixmatch") is FixMatch


def test_a_combination_inherits_from_its_parts_outermost_first_and_is_made_once(registered):
    made = get("outer", "remixmatch")
    assert made is get("outer", "remixmatch") is combine(Outer, ReMixMatch)
    assert made.__mro__[:4] == (made, Outer, ReMixMatch, FixMatch) and made.__name__ == "OuterOnReMixMatch"
    assert made.__module__ == Outer.__module__ and made is not get("outer")
    with_modules = get("outer", "", "plce+oheml")
    assert with_modules is get("outer", "", "oheml+plce"), "the order is the registry's, not the asker's"
    assert [c.__name__ for c in with_modules.__mro__[1:3]] == ["OHEML", "PLCE"] and Outer in with_modules.__mro__
    assert list(ADDITIONS) == ["oheml", "plce", "align", "prop"]


def test_super_reaches_every_part_once_in_order():
    """A diamond over one ancestor: each part's `terms` and `build` run once, the outermost last to return."""
    calls = []

    def part(name, parent):
        def act(self):
            calls.append(name)
            super(made[name], self).build()
        made[name] = type(name, (parent,), {"build": act})
        return made[name]

    made: dict[str, type] = {}
    root = part("Root", FixMatch)
    a, b, c = (part(name, root) for name in "abc")
    joined = combine(a, b, c)
    joined.build(object.__new__(joined))
    assert calls == ["a", "b", "c", "Root"]
    calls.clear()
    again = combine(c, a)
    again.build(object.__new__(again))
    assert calls == ["c", "a", "Root"] and again is not combine(a, c)


def test_an_attribute_of_the_outer_class_wins_and_others_come_from_within(registered):
    made = get("outer", "remixmatch")
    assert made.bases == Outer.bases and made.unmixed == ReMixMatch.unmixed and made.must_act == ReMixMatch.must_act
    run = {"dataset": "cifar10", "base": "remixmatch"}
    assert made.original(run) == ReMixMatch.original(run)


# ---- joining options -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Root(Options):
    shared: float = option(1.0, "declared by all", low=0)
    kept: float = option(1.0, "declared by the root alone")


@dataclasses.dataclass(frozen=True)
class Inner(Root):
    shared: float = option(3.0, "the inner default", low=2)
    own: str = option("a", "the inner's own", choices=("a", "b"))


@dataclasses.dataclass(frozen=True)
class Silent(Root):
    more: str = option("x", "an outer class that merely inherits `shared`")


@dataclasses.dataclass(frozen=True)
class Loud(Root):
    shared: float = option(7.0, "the outer default", high=8)


def test_an_inner_default_is_not_hidden_by_an_outer_class_that_merely_inherits_the_field():
    assert Silent().shared == 1.0                                              # what plain inheritance would have given
    made = merged_options("Made", (Silent, Inner))
    assert dataclasses.asdict(made()) == {"shared": 3.0, "kept": 1.0, "own": "a", "more": "x"}
    assert issubclass(made, Silent) and issubclass(made, Inner)


def test_an_outer_default_that_is_declared_wins_with_its_range():
    made = merged_options("Made", (Loud, Inner))
    assert made().shared == 7.0 and made().own == "a"
    assert made(shared=1).shared == 1.0                                          # the inner class would refuse it
    with pytest.raises(BadInput, match="shared=9.0: at most 8"):
        made(shared=9)
    assert merged_options("Made", (Inner, Loud))().shared == 3.0


def test_merged_options_are_checked_frozen_and_keep_their_sentences():
    made = merged_options("Made", (Silent, Inner))
    with pytest.raises(BadInput, match="own='c': unknown.*valid: a, b"):
        made(own="c")
    with pytest.raises(BadInput, match="shared=1.0: at least 2: the inner default"):
        made(shared=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().shared = 4.0
    assert {f.name: f.metadata["doc"] for f in dataclasses.fields(made)}["kept"] == "declared by the root alone"


def test_a_combination_has_the_options_of_all_its_parts(registered):
    fixmatch, mixed = Run.of("cifar10", "outer"), Run.of("cifar10", "outer", base="remixmatch")
    assert fixmatch.options == {**Run.of("cifar10", "fixmatch").options, "weight": 1.0, "lambda_u": 2.0}
    assert mixed.options == {**Run.of("cifar10", "remixmatch").options, **fixmatch.options}
    with pytest.raises(BadInput, match="option of outer='temprature': unknown; did you mean 'temperature'"):
        Run.of("cifar10", "outer", base="remixmatch", options={"temprature": 1})
    with pytest.raises(BadInput, match="option of outer='temperature': unknown"):
        Run.of("cifar10", "outer", options={"temperature": 0.5})


def test_modules_bring_their_options_and_leave_the_hosts_alone():
    plain, more = Run.of("cifar10", "fixmatch"), Run.of("cifar10", "fixmatch", add="oheml+plce+align")
    assert {k: v for k, v in more.options.items() if k in plain.options} == plain.options
    assert more.options.keys() > plain.options.keys()


# ---- classes made at run time ----------------------------------------------------------------------------------------


def test_a_class_registered_at_run_time_is_a_method(monkeypatch):
    class Mine(FixMatch):
        bases = ("fixmatch", "remixmatch")

        def terms(self, v, batch, p, t):
            return {name: term._replace(scale=0.5 * term.scale) for name, term in super().terms(v, batch, p, t).items()}

    monkeypatch.setitem(METHODS, "mine", Mine)
    assert get("mine") is Mine and Run.of(method="mine").label == "mine"
    with pytest.raises(BadInput, match="did you mean 'mine'"):
        get("mime")
    one, half = (kit.losses_of(kit.trainer(name, {"threshold": 0.3}), range(1))[0] for name in ("fixmatch", "mine"))
    assert half == pytest.approx({name: loss / 2 for name, loss in one.items()}) and half["u"] > 0
    mixed = kit.losses_of(kit.trainer("mine", base="remixmatch"), range(1))[0]
    assert mixed == pytest.approx({k: v / 2 for k, v in kit.losses_of(kit.trainer("remixmatch"), range(1))[0].items()})

    class Other(Mine):
        pass

    monkeypatch.setitem(METHODS, "mine", Other)                                 # defined again, as a notebook cell does
    assert get("mine") is Other and get("mine", "remixmatch").__mro__[1] is Other


# ---- original recipes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("name, base", [pair for pair in PAIRS if pair[0] not in REFUSALS])
def test_an_original_recipe_is_made_of_known_fields_and_valid_options(name, base, dataset):
    asked = base if base != (get(name).bases or ("",))[0] else ""                # the first base is the default
    for profile in ("paper", "trial"):
        fields = {f.name for f in dataclasses.fields(Run)}
        shared = Run.of(dataset, name, base=asked, profile=profile)
        own = get(name, asked).original({**dataclasses.asdict(shared), "base": asked})
        options = own.pop("options", {})
        assert set(own) <= fields - {"dataset", "method", "base", "add", "profile", "recipe", "seed", "n1", "m1",
                                     "gamma_l", "gamma_u"}
        assert set(options) <= {f.name for f in dataclasses.fields(get(name, asked).Config)}
        run = Run.of(dataset, name, base=asked, profile=profile, recipe="original")
        assert run.recipe == "original" and run.method_options() == get(name, asked).Config.of(options, run)
        for field, value in own.items():
            kept = profile != "paper" and field in SCALE
            assert getattr(run, field) == (PROFILES[profile][field] if kept else value), field
        for option_name, value in options.items():
            assert run.options[option_name] == value, option_name
        made = toy_method(run)
        longest = {n: steps for n, steps in made.durations().items() if not 0 <= steps < run.steps}
        assert not longest, longest


def toy_method(run: Run):
    """A built method of a run, without data."""
    classes = 100 if run.dataset == "cifar100" else 10
    counts = torch.arange(2 * classes, 0, -2)
    info = Info(classes=classes, features=4, counts=counts, n_labelled=int(counts.sum()), n_unlabelled=200,
                batch=run.batch, mu=run.mu, steps=run.steps, seed=0, device=torch.device("cpu"), dtype=torch.float64,
                first_pass=torch.arange(classes).repeat_interleave(counts), run=run)
    made = run.method_class()(run.method_options(), info)
    made.build()
    return made


@pytest.mark.parametrize("name", REFUSALS)
def test_a_method_without_a_recipe_says_why(name):
    with pytest.raises(BadInput, match=r"recipe='original': shared: .{20}") as error:
        Run.of("cifar10", name, recipe="original")
    assert str(error.value) == REFUSALS[name]


def test_debiaspl_has_no_recipe_for_these_data_sets():
    assert "only its ImageNet code was released" in REFUSALS["debiaspl"]
