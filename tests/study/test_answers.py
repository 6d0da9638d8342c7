"""The answers: words follow from scores, each comparison is of paired seeds, and what is missing is said."""
import re

import pandas as pd
import pytest
from kit import ROOT

from semilib.study import answers, grids, probes
from semilib.study.answers import CONSISTENT, REVERSED, Study

WITHOUT = "SeMi without one component"


def of(scores: dict) -> Study:
    """A study of hand-made means: each a score of five seeds that differ by a tenth of a point."""
    return Study({at: {seed: mean + seed / 1000 + (seed % 2) * spread for seed in range(5)}
                  for at, (mean, spread) in scores.items()}, {})


def test_a_study_without_runs_answers_that_nothing_is_measured_and_how_it_would_be():
    every = answers.answers(Study({}, {}))
    assert len(every) == 8 and not any(answer.tables for answer in every[:-1])
    for answer in every[:-1]:
        told = [line for line in answer.text if line != answers.OHEML_ENTERS]
        assert told and all("not measured yet (`semilib run table" in line for line in told), answer.question


def test_methods_are_counted_above_and_below_the_probe_only_where_the_difference_is_there():
    reference = probes.TITLES["logistic-la"]
    found = answers.probe(of({
        ("table1", "", CONSISTENT, reference): (.80, 0), ("table1", "", CONSISTENT, "A"): (.85, .001),
        ("table1", "", CONSISTENT, "B"): (.70, .001), ("table1", "", CONSISTENT, "C"): (.801, .02),
        ("table1", "", CONSISTENT, probes.TITLES["knn"]): (.5, .001)}))
    assert "of 3 methods 1 are above it (A) and 1 below by Holm's test." in found.text[0]
    assert found.text[0].endswith("above 0 for 0, below for 0, and holds 0 for 1 (C).")
    assert "not measured yet" in found.text[1]
    assert found.tables[0].frame["row"].tolist() == ["A", "C", "B"] and "80.2" in found.tables[0].title


def test_hard_examples_are_judged_by_taking_them_away_and_adding_them_alone():
    study = of({
        ("table4", WITHOUT, CONSISTENT, "SeMi"): (.78, 0),
        ("table4", WITHOUT, CONSISTENT, "without OHEML"): (.75, .001),
        ("table4", "Each component alone", CONSISTENT, "none of them"): (.70, 0),
        ("table4", "Each component alone", CONSISTENT, "OHEML alone"): (.70, .01),
        ("table5", "Sensitivity to tau", CONSISTENT, "tau = 0.7 (SeMi)"): (.78, 0),
        ("table5", "Sensitivity to tau", CONSISTENT, "tau = 0.9"): (.76, 0)})
    study.scores["table5", "Sensitivity to tau", CONSISTENT, "tau = 0.9"].pop(4)            # one split less
    found = answers.hard_examples(study)
    _, verdict, missing, thresholds = found.text
    assert verdict.startswith("Below 0 by Holm's test: SeMi without OHEML, minus SeMi, consistent -3.0")
    assert verdict.endswith("*. Not told apart: 1 of 2, +0.4.")
    assert missing == "2 of 4 comparisons are not measured yet."
    assert thresholds == ("Thresholds, consistent, over the 4 splits that all of them have: best is tau = 0.7 (SeMi) "
                          "(78.1); tau = 0.9 76.1.")


def test_the_gain_is_compared_between_the_pools_and_the_quoted_number_is_matched_to_nothing():
    found = answers.reversal(of({
        ("table1", "", CONSISTENT, "SeMi"): (.78, 0), ("table2", "", REVERSED, "SeMi"): (.80, 0),
        ("table1", "", CONSISTENT, "A"): (.70, 0), ("table2", "", REVERSED, "A"): (.50, 0),
        ("table1", "", CONSISTENT, "B"): (.70, 0), ("table2", "", REVERSED, "B"): (.75, 0)}))
    assert "larger in the reversed one over 0 of 2 methods" in found.text[0] and "no number here" in found.text[1]
    row = found.tables[0].frame.set_index("row").loc["A"]
    assert row["more"].startswith("+22.0") and row["relative_reversed"] == pytest.approx(30 / .502, abs=.01)


def test_a_gain_that_grows_by_the_same_in_every_split_counts_and_a_probe_does_not():
    semi, other = {s: .80 + s / 1000 for s in range(5)}, {s: .70 + s / 1000 for s in range(5)}
    grown = {s: .85 + (s + s % 2 / 9) / 1000 for s in range(5)}
    found = answers.reversal(Study({
        ("table1", "", CONSISTENT, "SeMi"): semi, ("table2", "", REVERSED, "SeMi"): grown,
        **{(table, "", cell, row): other for table, cell in answers.MAIN_CELLS
           for row in ("FixMatch", probes.TITLES["knn"])}}, {}))
    assert "over 1 of 1 methods by Holm's test and smaller over 0; by the interval alone over 0" in found.text[0]
    assert "SeMi itself moves by +5.0 points" in found.text[0] and "FixMatch +21 %" in found.text[1]
    assert found.tables[0].frame["more"].tolist() == ["+5.0 [+5.0, +5.0] *"] * 2


def test_the_component_whose_loss_costs_most_is_named_and_what_is_missing_is_counted():
    found = answers.components(of({
        ("table4", answers.WITHOUT, CONSISTENT, "SeMi"): (.78, 0),
        ("table4", answers.WITHOUT, CONSISTENT, "without OHEML"): (.779, .002),
        ("table4", answers.WITHOUT, CONSISTENT, "without Logit Align"): (.67, .001),
        ("table4", answers.ALONE, CONSISTENT, answers.NOTHING_ON): (.66, .001),
        ("table4", answers.ALONE, CONSISTENT, "OHEML alone"): (.66, .001)}))
    assert found.text[0].startswith("Consistent: what changes SeMi most is to be without Logit Align. Below 0 by")
    assert "Not told apart: 1 of 3" in found.text[0] and "not measured yet" in found.text[2]
    assert found.text[1] == "Consistent, each alone: Not told apart: 1 of 1, +0.0."
    assert found.tables[0].frame["row"].tolist() == ["without OHEML", "without Logit Align", "with none of them"]


def test_a_difference_is_open_or_there_by_its_interval_or_there_by_holm_s_test():
    seeds = range(3)
    rows = [("clear", {s: .6 + s / 1e5 for s in seeds}), ("hint", {s: .72 + s / 100 for s in seeds}),
            ("open", {s: .69 + s / 100 for s in seeds}), ("two seeds", {0: .5, 1: .5})]
    frame = answers.compared("", [(row, scores, dict.fromkeys(seeds, .7)) for row, scores in rows]).frame
    assert [found["row"].tolist() for found in answers.sides(frame)] == [
        [], ["clear"], ["hint"], [], ["open", "two seeds"]]
    few = answers.compared("", [("A", {0: .5}, {0: .7}), ("B", {0: .6, 1: .6}, {0: .7, 1: .7})])
    assert answers._verdict(few) == "Of fewer than three seeds: 2 of 2, from -20.0 to -10.0."
    shown = answers.compared("", [(f"{n} seeds", {s: .6 + s / 1e3 for s in range(n)}, dict.fromkeys(range(n), .7))
                                  for n in (3, 5)]).cells()
    assert {line[0]: line[3] for line in shown[1:]} == {"3 seeds": "", "5 seeds": "-62.0"}, "an effect of few is noise"


def test_what_table_1_has_already_is_no_check_of_its_order():
    scores = dict.fromkeys(range(3), 0.7)
    paths = {seed: answers.Path(f"run{seed}") for seed in range(3)}
    rows = {(table, section, CONSISTENT, row) for row in "ABC"
            for table, section in (("table1", ""), ("table6", "8 strong views of an image stored"))}
    found = answers.foundations(Study(dict.fromkeys(rows, scores), dict.fromkeys(rows, paths)))
    assert not found.text and not found.tables


def test_the_order_of_methods_under_another_foundation_is_that_of_the_splits_both_have():
    first = {("table1", "", CONSISTENT, name): (.7 + i / 100, 0) for i, name in enumerate("ABCD")}
    study = of(first)
    study.scores.update({("table6", "10,000 steps", CONSISTENT, name): {1: .9 - i / 100}
                         for i, name in enumerate("ABCD")})
    found = answers.foundations(study)
    assert found.text == ["10,000 steps: Kendall's tau with the order of Table 1 over the same splits and 4 methods is "
                          "-1.00."]
    assert found.tables[0].cells()[1:3] == [["A", "90.0", "70.1", "4", "+19.9", "1"],
                                            ["B", "89.0", "71.1", "3", "+17.9", "1"]]
    del study.scores["table6", "10,000 steps", CONSISTENT, "A"], study.scores["table6", "10,000 steps", CONSISTENT, "B"]
    assert not answers.foundations(study).tables, "two methods have no order"


def test_every_question_s_rows_exist_in_the_tables():
    asked = set()

    class Asking(dict):
        def get(self, at, default=None):
            asked.add(at)
            return default
    answers.answers(Study(Asking(), {}))
    there = {(table, e.section, e.column, e.row) for table in ("table1", "table2", "table4", "table5", "table6")
             for e in grids.grid(table, "features", seeds=[0]).entries}
    assert {at for at in asked if at[3] not in probes.TITLES.values()} <= there and len(asked) > 30


def test_the_first_page_s_table_has_both_cells_and_counts_the_seeds_that_both_have():
    scores = {("table1", "", CONSISTENT, "SeMi"): {0: .78, 1: .80, 2: .82},
              ("table2", "", REVERSED, "SeMi"): {0: .7, 1: .7}}
    shown = answers.summary(Study(scores, {}), ["SeMi", "LA"])
    assert shown.cells()[1:] == [["SeMi", "80.0 ± 2.0", "70.0 ± 0.0", "2"], ["LA", "–", "–", "0"]]


def test_the_first_page_says_semi_s_rank_among_the_methods_as_the_records_do():
    said = re.search(r"SeMi is (\d+)th and (\d+)th of (\d+);", (ROOT / "README.md").read_text(encoding="utf-8"))
    for place, cell in zip(said.groups(), ("consistent", "reversed"), strict=False):
        frame = pd.read_csv(ROOT / "figures" / "features" / f"seeds-{cell}.csv")
        means = frame[~frame["row"].isin(probes.TITLES.values())].groupby("row")["score"].mean()
        assert (int((means > means["SeMi"]).sum()) + 1, len(means)) == (int(place), int(said[3]))
    told = (ROOT / "figures" / "features" / "answers.md").read_text(encoding="utf-8")
    consistent, reversed_ = re.findall(r"of (\d+) methods (\d+) are above it(?: \((.*?)\))? and (\d+) below", told)
    page = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert consistent[0] == consistent[3] == said[3] and "consistent pool all methods are below it" in page
    *most, last = reversed_[2].split(", ")
    assert f"the reversed one {', '.join(most)} and {last} above." in page
