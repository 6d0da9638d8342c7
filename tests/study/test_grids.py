"""The tables' grids: what runs they hold, that profiles never mix, and that smoke runs can act."""
from __future__ import annotations

import dataclasses

import pytest

from semilib import cli
from semilib.errors import BadInput
from semilib.methods import METHODS, get
from semilib.options import PAPER_STEPS
from semilib.study import grids
from semilib.training.config import PROFILES

HERE = {name: [profile for profile, tables in grids.CELLS_OF.items() if name in tables] for name in grids.TITLES}


@pytest.mark.parametrize("name, profile", [(name, profile) for name, profiles in HERE.items() for profile in profiles])
def test_every_table_has_runs_of_one_profile_which_its_title_names(name, profile):
    grid = grids.grid(name, profile, seeds=[0])
    assert grid.runs and {run.profile for run in grid.runs} == {grids.TABLE_PROFILES[profile]["profile"]}
    assert f"profile {profile}" in grid.title and f"{PROFILES[grid.runs[0].profile]['steps']:,}" in grid.title
    assert len({run.key for run in grid.runs}) == len(grid.runs)
    places = [(e.section, e.row, e.column) for e in grid.entries]
    assert len(set(places)) == len(places)
    rows = {(e.section, e.column, e.row) for e in grid.entries}
    compared = {(e.section, e.column, e.against) for e in grid.entries if e.against}
    assert compared <= set(rows), "compared with a row that is not there"


def test_table_1_of_the_paper_has_the_field_s_eight_cells_and_every_method():
    grid = grids.grid("table1", "paper")
    cells = {(e.runs[0].dataset, e.runs[0].n1, e.runs[0].m1, e.runs[0].gamma_l, e.runs[0].gamma_u)
             for e in grid.entries}
    assert cells == {("cifar10", n, m, g, g) for n, m in ((500, 4000), (1500, 3000)) for g in (100, 150)} | {
        ("cifar100", n, m, g, g) for n, m in ((50, 400), (150, 300)) for g in (10, 20)}
    assert {e.runs[0].method for e in grid.entries} == set(METHODS)
    assert {run.seed for run in grid.runs} == {0, 1, 2} and {run.steps for run in grid.runs} == {PAPER_STEPS}


def test_each_run_of_a_table_has_a_name_of_its_own_that_tells_its_row():
    for table, profile, first in (("table4", "small", "SeMi, seed 0"), ("table3", "paper",
                                  "Supervised, ImageNet-127, 32 px, seed 0"), ("table5", "smoke", "FixMatch, seed 0")):
        grid = grids.grid(table, profile)
        assert len(set(grid.names.values())) == len(grid.names) == len(grid.runs)
        assert next(iter(grid.names.values())) == first
    names = set(grids.grid("table4", "small").names.values())
    assert {"without OHEML, seed 2", "shifted bank, Defects of the release in preset readme, seed 1"} <= names


def test_variants_of_one_s_own_are_rows_of_table_4_compared_with_semi_and_leave_its_others_as_they_are():
    plain, more = grids.grid("table4", "small"), grids.grid("table4", "small", variants=grids.LIKE)
    assert more.entries[len(more.entries) - len(plain.entries):] == plain.entries
    own = more.entries[:len(more.entries) - len(plain.entries)]
    assert [(e.section, e.row, e.against) for e in own] == [
        (grids.OWN, "SeMi", ""), (grids.OWN, "alpha 0.2", "SeMi"), (grids.OWN, "no PLCE", "SeMi")]
    assert own[0].runs == plain.entries[0].runs and own[1].runs[0].options["alpha"] == 0.2
    assert own[2].runs == plain.entries[2].runs, "the run without PLCE is found again"
    assert len(more.runs) == len(plain.runs) + 3 and "alpha 0.2, seed 1" in more.names.values()
    assert (plain.slug, more.slug) == ("table4-small", "table4-small-with-alpha_0.2+no_PLCE")
    assert len(grids.grid("table4", "smoke", variants={"a": {"threshold": 0.9}}).runs) == len(
        grids.grid("table4", "smoke").runs) + 1


def test_the_command_line_takes_variants(capsys):
    cli.main(["list", "table4", "profile=smoke", "seeds=[0]", f"variants={grids.LIKE}", "--runs", "none-here", "--all"])
    assert capsys.readouterr().out.count("s0/semi, alpha 0.2") == 1


@pytest.mark.parametrize("options, message", [
    ({"plce": False}, "options by method: {'semi': {'plce': False}}"), ({"semy": {}}, "did you mean 'semi'"),
    ({"semi": 3}, "options by method, such as {'semi': {'alpha': 0.2}}"),
    ({"semi": {"bank": False}}, "the memory bank goes with plce")])
def test_options_of_the_quickstart_say_how_they_are_given(options, message):
    with pytest.raises(BadInput, match=message):
        grids.quickstart(options=options)


def test_table_2_is_about_mismatched_and_unknown_pools():
    grid = grids.grid("table2", "paper", ["semi"], [0])
    assert {(e.runs[0].dataset, e.runs[0].order) for e in grid.entries} == {
        *(("cifar10", order) for order in ("uniform", "reversed", "middle", "head-tail")), ("stl10", "consistent")}


def test_table_3_shows_each_metric_of_imagenet_127_in_a_table_of_its_own():
    grid = grids.grid("table3", "paper", ["fixmatch", "semi"], [0])
    assert {(e.section, e.metric) for e in grid.entries} == set(grids.IMAGENET_METRICS.items())
    assert {e.runs[0].side for e in grid.entries} == {32, 64} and len(grid.runs) == 4, "one run gives all three"
    with pytest.raises(BadInput, match="profile='small': one that table3 is about: short, paper"):
        grids.grid("table3", "small")


def test_the_ablation_takes_each_component_away_and_adds_each_alone():
    without = grids.components(0.7)["SeMi without one component"]
    assert {next(iter(options), "") for options in without.values()} == {
        "", "oheml", "plce", "bank_decay", "bank_balance", "embedding_align", "logit_align", "threshold",
        "balanced_head", "u_norm"}
    for row, options in grids.components(0.7)["Each component alone"].items():
        changed = {k for k in options if options[k] != grids.OFF.get(k)}
        assert (row == "none of them") == (not changed), row
    low = {p: [e.row for e in grids.grid("table4", p, seeds=[0]).entries if e.row.startswith("low threshold")]
           for p in ("small", "features")}
    assert low == {"small": ["low threshold alone (tau 0.7)"], "features": ["low threshold alone (tau 0.6)"] * 2}, \
        "the threshold is SeMi's own, which is tuned on features"
    alone = grids.grid("table4", "small", seeds=[0])
    by_row = {(e.section, e.row): e.runs[0].options for e in alone.entries}
    paper, readme = (by_row[f"Defects of the release in preset {p}", "no defect"] for p in ("paper", "readme"))
    assert not any(paper[d] for d in grids.RELEASE_DEFECTS) and not any(readme[d] for d in grids.RELEASE_DEFECTS)
    assert paper["t_e"] != readme["t_e"]
    for preset in ("paper", "readme"):
        for defect in grids.RELEASE_DEFECTS:
            options = by_row[f"Defects of the release in preset {preset}", defect.replace("_", " ")]
            assert [d for d in grids.RELEASE_DEFECTS if options[d]] == [defect]


def test_a_sweep_moves_one_value_and_marks_the_usual_one():
    grid = grids.grid("table5", "small", seeds=[0])
    usual = grids.grid("table1", "small", ["semi"], [0]).runs[0].options
    for entry in grid.entries:
        if entry.section.startswith("Sensitivity"):
            different = {k for k, v in entry.runs[0].options.items() if v != usual[k]}
            assert len(different) == (0 if entry.row.endswith("(SeMi)") else 1), entry.row
    assert all(grids.USUAL[k] == usual[k] for k in grids.SENSITIVITY)


def test_a_sweep_on_features_marks_the_tuned_value(monkeypatch):
    monkeypatch.setattr(grids, "settings_of", lambda method: {"fields": {"lr": 0.02}, "options": {"threshold": 0.95}})
    rows = {e.row: e for e in grids.grid("table5", "features", ["fixmatch"], [0]).entries
            if e.section == "Sensitivity to tau" and not e.column.endswith("reversed")}
    assert list(rows)[-2:] == ["tau = 0.9", "tau = 0.95 (SeMi)"] and "tau = 0.7" in rows
    assert rows["tau = 0.7"].against == "tau = 0.95 (SeMi)" and rows["tau = 0.7"].runs[0].lr == 0.02


def test_some_of_a_table_s_cells_can_be_asked_for():
    name = "CIFAR-10-LT 1500/3000, gamma 100, reversed"
    some = grids.grid("table2", "features", ["semi"], [0], cells=[name])
    every = grids.grid("table2", "features", ["semi"], [0])
    assert [e.column for e in some.entries] == [name] and some.entries[0] in every.entries


def test_table_6_changes_one_foundation_a_section_and_keeps_the_settings_of_its_methods():
    grid = grids.grid("table6", "features", seeds=[0])
    usual = {e.runs[0].method: e.runs[0] for e in grids.grid("table1", "features", seeds=[0]).entries
             if e.column == grid.entries[0].column}
    changed: dict[str, set] = {}
    for entry in grid.entries:
        run, other = entry.runs[0], usual[entry.runs[0].method]
        changed.setdefault(entry.section, set()).update(
            f.name for f in dataclasses.fields(run) if getattr(run, f.name) != getattr(other, f.name))
    *views, long, encoder, statistics = changed.values()
    assert set.union(*views) == {"stored_strong"} and len(views) == 3 and encoder == {"encoder"}
    assert statistics == {"statistics"} and long <= {"steps", "eval_every"} >= {"steps"}
    assert len({e.runs[0].method for e in grid.entries if e.section == "10,000 steps"}) >= len(METHODS) - 1


@pytest.mark.parametrize("profile", ["small", "features", "paper"])
def test_table_7_gives_four_labels_of_every_class_and_keeps_them_out_of_the_pool(profile):
    grid = grids.grid("table7", profile, seeds=[0])
    assert {(run.n1, run.gamma_l, run.labelled_in_unlabelled) for run in grid.runs} == {(4, 1.0, False)}
    assert "sage" in {run.method for run in grid.runs}
    assert {run.order for run in grid.runs} >= {"consistent", "uniform"}


def test_seeds_come_one_after_the_other_and_fields_reach_every_run():
    grid = grids.grid("table1", "small", ["fixmatch", "semi"], [3, 1], steps=700)
    assert [run.seed for run in grid.runs] == [1, 1, 3, 3] and {run.steps for run in grid.runs} == {700}
    assert "700 steps" in grid.title


@pytest.mark.parametrize("given, message", [
    (dict(table="table9"), "table='table9': unknown"), (dict(table="table1", profile="papr"), "did you mean 'paper'"),
    (dict(table="table1", methods=["fixmach"]), "did you mean 'fixmatch'"),
    (dict(table="table2", profile="paper", cells=["STL10-LT 150"]), "cells='STL10-LT 150': unknown"),
    (dict(table="table2", cells="STL10"), "cells='STL10': a list such as"),
    (dict(table="table1", stepz=3), "did you mean 'steps'"),
    (dict(table="table1", seeds=0), r"seeds=0: a list such as \[0, 1, 2\]"),
    (dict(table="table1", seeds=["a"]), "a list such as"),
    (dict(table="table1", methods="fixmatch"), "methods='fixmatch': a list such as"),
    (dict(table="table1", seed=0), "names them"),
    (dict(table="table1", order="reversed"), "it belongs to the table's cells"),
    (dict(table="table1", base="fixmatch"), "the table's rows"),
    *((dict(table="table4", **fields), r"an option makes a row of its own: variants=\{'alpha 0.2': \{'alpha': 0.2\}\}$")
      for fields in ({"semi.alpha": 0.2}, {"alpha": 0.2}, {"options": {"alpha": 0.2}}, {"options.alpha": 0.2})),
    (dict(table="table4", options={}), "variants={'alpha 0.2': {'alpha': 0.2}, 'no PLCE': {'plce': False}}"),
    (dict(table="table1", alpha=0.2), "it is table4 that takes it"),
    (dict(table="table4", alpah=0.2), "did you mean 'alpha'"), ({"table": "table4", "semi.alpah": 1}, "mean 'alpha'"),
    ({"table": "table1", "fixmatch.threshold": 0.7}, "semilib run method=fixmatch fixmatch.threshold=0.7"),
    (dict(table="table1", variants=grids.LIKE), "given for table4"),
    *((dict(table="table4", variants=wrong), "rows by name, each with its options of SeMi, such as")
      for wrong in ([1], {"alpha": 0.2}, {"": {}}, {"SeMi": {}}, {1: {}})),
    (dict(table="table4", **{"semi.alpha": "a" * 5000}), "variants={'alpha aaa"),
    (dict(table="table4", variants={"a": {"alpah": 1}}), "option of semi='alpah': unknown; did you mean 'alpha'"),
    (dict(table="table4", variants={"no bank": {"bank": False}}), "the memory bank goes with plce: with plce=False")])
def test_unknown_names_are_refused(given, message):
    fields = {name: value for name, value in given.items() if name != "table"}
    with pytest.raises(BadInput, match=message):
        grids.grid(given["table"], **fields)


@pytest.mark.parametrize("name", [name for name, profiles in HERE.items() if "smoke" in profiles])
def test_thresholds_of_smoke_runs_are_ones_that_an_unsure_network_reaches(name):
    for run in grids.grid(name, "smoke").runs:
        assert "threshold" not in get(run.method).smoke or run.options["threshold"] <= 0.3, run.name


def test_a_field_that_is_changed_for_all_runs_is_named_in_title_and_file():
    plain = grids.grid("table1", "small", ["semi"], [0])
    changed = grids.grid("table1", "small", ["semi"], [0], lr=0.5, device="cpu")
    assert "lr = 0.5" in changed.title and "lr" not in plain.title and "device" not in changed.title
    assert (plain.slug, changed.slug) == ("table1-small", "table1-small-lr=0.5")
    alone = grids.grid("table1", "small", ["fixmatch", "daso"], [0])
    assert {e.against for e in alone.entries} == {""}, "SeMi is not there to be compared with"
