"""A table's printed form: records found by configuration, missing cells visible, paired differences,
published numbers apart."""
from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kit import ROOT
from PIL import Image

from benchmarks import peers  # noqa: F401  it, and others below, draw kinds of figures
from semilib.methods import title_of
from semilib.report import diagrams, figures, paint  # noqa: F401
from semilib.report.table import Table, write_all
from semilib.speed import figures as speed_figures  # noqa: F401
from semilib.study import committed, grids, insight, probes, published, sheet_figures, sheets  # noqa: F401
from semilib.study.differences import difference, holm, in_words
from semilib.training import record

SCORES = {"supervised": (0.50, 0.52, 0.54), "fixmatch": (0.60, 0.61, 0.65), "semi": (0.70, 0.74, 0.72)}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A table whose runs' records are written by hand: three evaluations of a known balanced accuracy."""
    grid = grids.grid("table1", "small", list(SCORES))
    for run in grid.runs:
        write(tmp_path / "results" / f"{run.method}-{run.seed}", run, SCORES[run.method][run.seed])
    committed.load.cache_clear()
    return grid, tmp_path


def write(folder: Path, run, score: float, **changes) -> None:
    folder.mkdir(parents=True)
    scores = {**dict.fromkeys(("balanced_accuracy", "geometric_mean", "head", "medium", "tail"), score),
              "accuracy": score / 2}
    log = [{"step": run.steps * i // 3, **scores} for i in (1, 2, 3)]
    four = dict.fromkeys(("mean_last", "median_last", "last", "best_on_test"), score)
    entry = {"name": run.name, "key": run.key, "code": "0" * 8, "status": "done", "config": run.identity(),
             "commit": "abcdef12" * 5, "seconds": 60.0, "result": {**four, "rule": "mean of all 3 evaluations"},
             "split": {"labelled_counts": [2, 1, 1], "class_names": ["a", "b", "c"]}, **changes}
    (folder / "run.json").write_text(json.dumps(entry))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


def show(grid, folder):
    found = sheets.find(grid, folder / "runs", folder / "results")
    return sheets.sheets(grid, found, folder / "runs")[0]


def test_a_row_shows_mean_spread_n_and_rule_of_its_records(made):
    sheet = show(*made)
    row = sheet.frame.set_index("row").loc["FixMatch"]
    assert row["mean"] == pytest.approx(62.0) and row["spread"] == pytest.approx(statistics.stdev([60, 61, 65]))
    assert "62.0 ± 2.6" in sheet.text and "all 3" in sheet.text and "600 steps of profile trial" in sheet.text
    assert (row["done"], row["runs"], row["state"]) == (3, 3, "")
    assert sheet.frame["row"].tolist() == ["Supervised", "FixMatch", "SeMi"] and "profile small" in sheet.title
    assert len(sheet.runs) == 9 and "abcdef12" in sheet.text


def test_findings_are_computed_from_the_tables_that_they_stand_under(made):
    grid, folder = made
    tables = sheets.Tables([show(grid, folder)])
    title, _, line = sheets.findings(grid, tables).splitlines()
    assert title == f"**{tables[0].title}**" and "profile small" in title
    assert line.startswith("- embedded pictures, gamma 20: highest SeMi 72.0 ± 2.0, FixMatch 62.0 ± 2.6, "
                           "Supervised 52.0 ± 2.0.")
    told = tables[0].frame.set_index("row")["difference"]
    assert line.endswith(f" Differences whose interval leaves out 0: 2 of 2 (Supervised {told['Supervised']}, "
                         f"FixMatch {told['FixMatch']}).")
    for method in SCORES:
        shutil.rmtree(folder / "results" / f"{method}-2")
    committed.load.cache_clear()
    assert "leaves out" not in sheets.findings(grid, sheets.Tables([show(grid, folder)])), "two pairs decide nothing"
    assert "No run is done." in sheets.findings(grid, sheets.sheets(grid, {}, folder))


def test_what_was_concluded_from_committed_records_stands_under_them_alone(made, monkeypatch):
    grid, folder = made
    tables, said = sheets.Tables([show(grid, folder)]), "SeMi is ahead."
    monkeypatch.setattr(sheets, "usual", lambda of: grid)
    assert sheets.findings(grid, tables, small=said).endswith(f"\n\n{said}")
    for other in (dataclasses.replace(grid, profile="short"), dataclasses.replace(grid, entries=grid.entries[:2])):
        assert said not in sheets.findings(other, tables, small=said)
    shutil.rmtree(folder / "results" / "semi-2")
    committed.load.cache_clear()
    assert said not in sheets.findings(grid, sheets.Tables([show(grid, folder)]), small=said), "a run is missing"


def test_runs_at_chance_are_not_ranked_and_say_so_once(tmp_path):
    grid = grids.grid("table4", "smoke", variants=grids.LIKE)
    for run in grid.runs:
        write(tmp_path / "results" / run.key, run, 0.1)
    committed.load.cache_clear()
    tables = sheets.sheets(grid, sheets.find(grid, tmp_path / "runs", tmp_path / "results"), tmp_path)
    said = "24 steps: shows that it runs; chance is 33.3 %."
    assert tables.text.count("shows that it runs") == 1 and tables.text.count(said) == 1
    assert sheets.findings(grid, tables, small="x", smoke_="y").splitlines() == [f"**{grid.title}**", "", said]
    assert tables[0].subtitle.endswith(grids.OWN) and [row[0] for row in tables[0].cells()[1:]] == [
        "SeMi", "alpha 0.2", "no PLCE"]
    assert "±" not in tables.text and "interval" not in tables.text and "single runs, of seed 0" in tables.text
    figure, frame = sheet_figures.ladder(grid, tables)
    assert "dots: single runs, dashed" in frame["caption"].iloc[0]
    assert all(line.get_marker() == "o" or line.get_linestyle() != "-" for axes in figure.axes for line in axes.lines)


def test_seeds_of_several_codes_are_said_to_be_with_the_command_that_does_them_again(made):
    grid, folder = made
    path = folder / "results" / "fixmatch-1" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "1" * 8}))
    committed.load.cache_clear()
    note, = [note for note in show(grid, folder).notes if "versions" in note]
    assert note == ("Seeds trained by several versions of the code: FixMatch; part of their spread may be its change. "
                    "`semilib run table1 profile=small --again` does all by today's.")
    changed = grids.grid("table4", "smoke", seeds=[0, 3], lr=0.5)
    assert sheets._again(changed) == "semilib run table4 profile=smoke seeds=[0,3] lr=0.5 --again"


def test_a_part_that_never_acted_is_told_in_a_footnote(made):
    grid, folder = made
    path = folder / "results" / "fixmatch-1" / "run.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "result": {**entry["result"], "never_acted": {"u": "lower the threshold"}}}))
    committed.load.cache_clear()
    never = [note for note in show(grid, folder).notes if "Never" in note]
    assert never == ["Never acted in FixMatch seed 1: u (lower the threshold)."]


@pytest.mark.parametrize("begins, told", [(0, []), (400, ["2 of the 3"]), (199, []), (200, ["1 of the 3"])])
def test_a_last_phase_that_begins_within_the_evaluations_averaged_is_told(made, begins, told):
    grid, folder = made
    path = folder / "results" / "fixmatch-1" / "run.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "resolved": {"stages": {"first": 0, "last": begins}}}))
    committed.load.cache_clear()
    notes = [note for note in show(grid, folder).notes if "last phase" in note]
    assert notes == [f"FixMatch: its last phase begins at step {begins}, so {n} evaluations averaged are of before; "
                     "the mean of those in it is 61.0 %." for n in told]


def test_a_difference_is_paired_over_seeds_with_student_s_interval(made):
    row = show(*made).frame.set_index("row").loc["FixMatch"]
    pairs = [-10, -13, -7]
    half = 4.302653 * statistics.stdev(pairs) / math.sqrt(3)                       # t, 2 degrees of freedom, 97.5 %
    assert row["gain"] == pytest.approx(-10) and row["effect"] == pytest.approx(-10 / 3)
    assert (row["low"], row["high"]) == pytest.approx((-10 - half, -10 + half), abs=1e-4)
    t = 10 / (3 / math.sqrt(3))
    assert row["p"] == pytest.approx(1 - t / math.sqrt(t**2 + 2))                  # closed form, 2 degrees of freedom
    assert "-10.0 [-17.5, -2.5]" in row["difference"]


def test_a_star_is_of_holm_s_p_over_all_rows_of_the_table(made):
    frame = show(*made).frame.set_index("row")
    supervised, fixmatch = frame.loc["Supervised"], frame.loc["FixMatch"]
    assert supervised["p"] == pytest.approx(0.003317, abs=1e-5) and supervised["p_holm"] == 2 * supervised["p"]
    assert fixmatch["p_holm"] == fixmatch["p"] and fixmatch["difference"].endswith(" *")
    assert math.isnan(frame.loc["SeMi", "p_holm"]), "the row that others are compared with"
    assert holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []
    assert "2 in this table, is below 0.05" in " ".join(show(*made).notes)


def test_fewer_seeds_make_smaller_claims():
    one, two = difference({0: .5}, {0: .4}), difference({0: .5, 1: .6}, {0: .4, 1: .4})
    assert in_words(pd.Series({**one, "p_holm": one["p"]})) == "+10.0" and math.isnan(one["effect"])
    assert in_words(pd.Series({**two, "p_holm": two["p"]})) == "+15.0 (+10.0, +20.0)" and math.isnan(two["p"])
    none = difference({0: .5}, {1: .4})
    assert none["pairs"] == 0 and in_words(pd.Series({**none, "p_holm": none["p"]})) == ""
    same = difference({0: .5, 1: .6, 2: .4}, {0: .5, 1: .6, 2: .4})
    assert (same["gain"], same["low"], same["high"]) == (0, 0, 0) and math.isnan(same["p"])


def test_on_features_each_seed_has_its_split_and_no_published_number_stands_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "rows", lambda runs: [])
    grid = grids.grid("table2", "features", ["fixmatch", "semi"])
    grid = dataclasses.replace(grid, entries=tuple(e for e in grid.entries if e.column.endswith("100, reversed")))
    for run in grid.runs:
        write(tmp_path / "results" / run.key, run, 0.7 + run.seed / 100 + (run.method == "semi") * (5 + run.seed) / 100,
              split={"labelled_counts": [2, 1, 1], "class_names": ["a", "b", "c"],
                     "fingerprint": f"{run.seed}" * 8})
    committed.load.cache_clear()
    sheet = show(grid, tmp_path)
    assert "each with a split of its own" in sheet.text and ".split" not in sheet.text
    assert "frozen efficientnet-lite0 at 128 px" in sheet.text and "Not tuned" not in sheet.text
    monkeypatch.setattr(sheets, "settings_of", lambda method: {"heldout": 0.7 if method == "semi" else None})
    assert "Not tuned, with the profile's own settings: FixMatch." in show(grid, tmp_path).notes
    assert not any(note.startswith("Not one split") for note in sheet.notes)
    run = grid.runs[0]
    scratch = next(e for e in grids.grid("table2", "short", ["fixmatch"]).entries if e.column == grid.entries[0].column)
    assert published.rows_of(run, "FixMatch") == [] != published.rows_of(scratch.runs[0], "FixMatch")
    path = tmp_path / "results" / run.key / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "split": {"fingerprint": "other"}}))
    committed.load.cache_clear()
    assert [note for note in show(grid, tmp_path).notes if "Not one split: the records hold" in note]


def test_what_is_missing_or_failed_is_visible(made):
    grid, folder = made
    runs = {(run.method, run.seed): run for run in grid.runs}
    (folder / "results" / "fixmatch-1" / "run.json").unlink()
    failed = record.folder(runs["semi", 2], folder / "runs")
    write(failed, runs["semi", 2], 0.9, status="failed", error="loss is not finite")
    (folder / "results" / "semi-2" / "run.json").unlink()
    committed.load.cache_clear()
    sheet = show(grid, folder)
    rows = sheet.frame.set_index("row")
    n = {row[0]: row[2] for row in sheet.cells()}
    assert rows.loc["FixMatch", "state"] == "1 not started" and n == {"": "n", "Supervised": "3", "FixMatch": "2/3",
                                                                      "SeMi": "2/3, 1 failed"}
    assert "Not all runs are done: 2 of 3 rows lack some (column n), not started where it says no more." in sheet.notes
    assert rows.loc["SeMi", "state"] == "1 failed" and rows.loc["SeMi", "mean"] == pytest.approx(72.0)
    assert [run.key for run in sheets.missing(grid, sheets.find(grid, folder / "runs", folder / "results"))] == [
        runs["fixmatch", 1].key, runs["semi", 2].key]


def test_a_row_of_which_no_run_was_started_is_named_below_the_table_with_its_published_numbers(made):
    grid, folder = made
    for seed in range(3):
        (folder / "results" / f"fixmatch-{seed}" / "run.json").unlink()
    committed.load.cache_clear()
    sheet = show(grid, folder)
    assert "FixMatch" in list(sheet.frame["row"]) and "FixMatch" not in [row[0] for row in sheet.cells()]
    assert "Not started: FixMatch." in sheet.text and "Not all runs are done" not in sheet.text
    wide = grids.grid("table3", "paper", ["simpro", "semi"], [0])
    (first, *rest) = sheets.sheets(wide, {}, folder / "runs")
    assert first.cells() == [] and re.search(r"^Not started: SimPro \(a 59.1\), SeMi\.$", first.text, re.MULTILINE)
    assert "a: SimPro (Du et al., ICML 2024) Table 3" in first.text and not any("d:" in n for n in first.notes)
    assert sheets.findings(wide, sheets.sheets(wide, {}, folder / "runs")).splitlines()[2:] == ["No run is done."]
    assert len(first.text.splitlines()) < 12 and len(rest) == 5


def test_todays_run_comes_before_a_committed_record(made):
    grid, folder = made
    run = next(r for r in grid.runs if (r.method, r.seed) == ("semi", 0))
    write(record.folder(run, folder / "runs"), run, 0.99)
    assert show(grid, folder).frame.set_index("row").loc["SeMi", "mean"] == pytest.approx((99 + 74 + 72) / 3)


def test_a_record_of_before_a_field_existed_is_still_this_run_and_another_configuration_is_not(made):
    grid, folder = made
    run = grid.runs[0]
    config = run.identity()

    def is_kept(run, config):
        shutil.rmtree(folder / "results")
        write(folder / "results" / "only", run, 0.5, config=config)
        committed.load.cache_clear()
        return committed.of(run, str(folder / "results")) is not None
    assert is_kept(run, {k: v for k, v in config.items() if k not in ("post_hoc", "crop")})
    assert not is_kept(run, {**config, "holdout": 0.2}), "a fold to choose options by is no test set"
    assert not is_kept(run, {**config, "lr": 0.3}) and not is_kept(run, {**config, "seed": 9})
    semi = next(r for r in grid.runs if r.method == "semi")
    options = semi.identity()["options"]
    assert is_kept(semi, {**semi.identity(), "options": {k: v for k, v in options.items() if k != "alpha"}})
    assert not is_kept(semi, {**semi.identity(), "options": {**options, "alpha": 0.1}})


def test_a_log_that_does_not_give_its_result_is_refused(made):
    grid, folder = made
    file = folder / "results" / "semi-0" / "run.json"
    entry = json.loads(file.read_text())
    entry["result"]["mean_last"] = 0.9
    file.write_text(json.dumps(entry))
    with pytest.raises(ValueError, match="damaged or not of this run"):
        show(grid, folder)


def test_files_hold_every_run_and_every_table(made, tmp_path):
    sheet = show(*made)
    long, short = write_all([sheet, sheet], tmp_path / "t")
    assert len(long.read_text().splitlines()) == 19 and short.read_text().count("## ") == 2


# ---- published numbers -----------------------------------------------------------------------------------------------


def cell(method: str, **fields) -> dict[str, str]:
    run = grids.grid("table1", "paper", [method], [0]).runs[0]
    from semilib.training.config import Run
    run = Run.of(**{"dataset": "cifar10", "method": method, "profile": "paper", **fields})
    return published.by_source(published.rows_of(run, published.PUBLISHED_METHODS.get(method, title_of(method))))


def test_published_numbers_stand_by_their_source():
    ccl = cell("ccl", n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0)
    assert ccl == {"CCL (Zhou et al., NeurIPS 2024) Table 2": "86.2 ± 0.35"}
    reversed_ = cell("ccl", n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0, order="reversed")
    assert reversed_["CCL (Zhou et al., NeurIPS 2024) Table 3"] == "89.8 ± 0.31"
    acr = cell("acr", n1=1500, m1=3000, gamma_l=100.0, order="uniform")
    assert acr["CCL (Zhou et al., NeurIPS 2024) Table 3"] == "93.5 ± 0.11"
    quoted = cell("adello", n1=1500, m1=3000, gamma_l=150.0, gamma_u=150.0)
    assert quoted == {"SC-SSL (Tian et al., AAAI 2026) supplement Table 8": "79.47 ± 0.22"}
    assert cell("daso", dataset="stl10", n1=150, gamma_l=10.0)
    for method, base, want in (("farad", "", "88.6 ± 0.47"), ("farad", "remixmatch", "88.4 ± 0.44"),
                               ("dytrim", "", "84.8 ± 0.48")):
        found = cell(method, base=base, n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0)
        assert want in found.values() and len(found) == 1, found
    assert cell("scssl", n1=1500, m1=3000, gamma_l=150.0, gamma_u=150.0)


def test_no_published_number_is_semi_s_and_none_crosses_a_protocol():
    assert not any(row["method"].lower() == "semi" for row in published.rows())
    assert not cell("semi", n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0)
    assert not cell("ccl", n1=400, m1=4600, gamma_l=100.0, gamma_u=100.0)
    variant = cell("fixmatch", n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0, options={"threshold": 0.5})
    assert not variant, "a variant is not the method"
    wide = [row for row in published.rows() if row["backbone"] == "WRN-28-8"]
    acr = cell("acr", dataset="cifar100", n1=50, m1=400, gamma_l=10.0, gamma_u=10.0)
    assert wide and not any("55.7" in value for value in acr.values())


def test_the_published_file_is_whole_and_says_where_each_number_was_read():
    rows = published.rows()
    assert len(rows) == 1428
    for row in rows:
        assert 0 < float(row["mean"]) < 100 and row["source_paper"], row
        assert row["source_location"] and "src=" in row["notes"], row
    mixed = {row["metric"] for row in rows if row["dataset"] == "ImageNet-127"}
    shown = set(published.PUBLISHED_METRICS.values())
    wide = [row for row in rows if row["dataset"] == "ImageNet-127" and row["metric"] in shown]
    unknown = [row for row in wide if "not stated" in row["notes"]]
    assert wide and not unknown, "a number whose metric is not known is in no column"
    assert mixed & shown and "test_acc_mixed_definition" in mixed - shown


# ---- figures of sheets -----------------------------------------------------------------------------------------------


def test_the_ladder_draws_every_seed_of_every_row(made):
    figure, frame = sheet_figures.ladder(made[0], [show(*made)])
    assert len(frame) == 9 and frame.loc[frame["row"] == "SeMi", "score"].tolist() == pytest.approx([70, 74, 72])
    axes, = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["SeMi", "FixMatch", "Supervised"], "by their means"
    assert figure.get_suptitle() == "Table 1, unlabelled set distributed as the labelled one"
    assert "600 steps of profile trial" in frame["caption"].iloc[0]


def test_the_ladder_names_rows_without_a_finished_run_in_one_line_and_is_drawn_again_from_its_csv(made, tmp_path):
    for seed in range(3):
        (made[1] / "results" / f"fixmatch-{seed}" / "run.json").unlink()
    committed.load.cache_clear()
    figure, frame = sheet_figures.ladder(made[0], [show(*made)])
    assert frame.loc[frame["row"] == "FixMatch", ["score", "runs"]].isna().values.tolist() == [[True, True]]
    axes, = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["SeMi", "Supervised"]
    assert [t.get_text() for t in axes.texts] == ["without a finished run: FixMatch"]
    picture, numbers = paint.save(figure, frame, tmp_path / "ladder")
    assert paint.png(paint.redraw(numbers)) == picture.read_bytes()


def test_a_ladder_without_any_finished_run_is_a_line_a_table(tmp_path):
    grid = grids.grid("table3", "paper")
    figure, _ = sheet_figures.ladder(grid, sheets.sheets(grid, {}, tmp_path))
    assert len(figure.axes) == 6 and not any(axes.get_yticks().size for axes in figure.axes)
    assert all(axes.texts[0].get_text().startswith("without a finished run: Supervised, ") for axes in figure.axes)
    assert figure.get_figheight() < 6, "18 rows a table would be 18 inches"


COMMITTED = sorted(csv for csv in (ROOT / "figures").rglob("*.csv") if csv.with_suffix(".png").is_file())


@pytest.mark.parametrize("csv", COMMITTED, ids=lambda csv: f"{csv.parent.name}/{csv.stem}")
def test_a_committed_figure_is_the_one_that_its_csv_draws(csv):
    """Of the same size, and alike but for how another version of matplotlib may smooth an edge."""
    drawn, committed = (np.asarray(Image.open(file).convert("RGB"), dtype=float)
                        for file in (io.BytesIO(paint.png(paint.redraw(csv))), csv.with_suffix(".png")))
    assert drawn.shape == committed.shape and np.sqrt(np.square(drawn - committed).mean()) <= 3


def test_each_kind_of_figure_is_committed_and_each_has_a_page_to_print():
    kinds = {kind for kind, draw in paint.DRAWINGS.items()
             if draw.__module__.startswith(("semilib.report", "semilib.study"))}
    assert {paint.read(csv)["figure"].iloc[0] for csv in COMMITTED} >= kinds - {"image_grid", "thumbnails", "gallery"}
    for csv in COMMITTED:
        page = csv.with_suffix(".pdf")
        assert page.read_bytes().startswith(b"%PDF") and page.stat().st_size < 80_000, page.name


def test_sensitivity_needs_the_sweep(made):
    with pytest.raises(ValueError, match="those of table5"):
        sheet_figures.sensitivity(made[0], [show(*made)])


def test_values_stand_at_their_distances_and_an_order_of_magnitude_by_their_logarithms():
    assert sheet_figures._places([0.5, 0.7, 0.9]) == pytest.approx([0, 0.5, 1])
    assert sheet_figures._places([16.0, 64.0, 256.0]) == pytest.approx([0, 0.5, 1])
    assert sheet_figures._places([0.9, 0.99, 1.0]) == pytest.approx([0, 0.9, 1])
    assert sheet_figures._places([0.9, 0.99, 0.999, 1.0]) == pytest.approx([0, 1 / 3, 2 / 3, 1]), "two would touch"


def test_values_are_shown_over_the_seeds_that_all_of_them_have():
    grid = grids.grid("table5", "features", seeds=[0])
    seeds = {"L = 16": (0, 3), "L = 128 (SeMi)": (0, 1, 3)}
    rows = [{"row": row, "seed": seed, "score": 0.5 + seed / 100, "key": row, "code": str(seed)}
            for row, own in seeds.items() for seed in own]
    table = Table("", [], pd.DataFrame([{"row": row, "against": ""} for row in seeds]), [], pd.DataFrame(rows),
                  subtitle="Sensitivity to L")
    _, frame = sheet_figures.sensitivity(grid, [table])
    assert sorted(zip(frame["value"], frame["seed"], strict=True)) == [(16, 0), (16, 3), (128, 0), (128, 3)]
    assert "the seeds that all values of a panel have" in frame["caption"].iloc[0]


def test_cells_are_the_protocol_s_counts():
    figure, frame = sheet_figures.cells(grids.grid("table2", "paper", ["semi"], [0]))
    own = frame[frame["cell"] == "CIFAR-10-LT 1500/3000, gamma 100, reversed"]
    assert own["labelled"].tolist()[:2] == [1500, 899] and own["labelled"].tolist()[-1] == 15
    assert own["unlabelled"].tolist() == [1500 + 30, 899 + 50, *own["unlabelled"].tolist()[2:-1], 15 + 3000]
    stl = frame[frame["cell"] == "STL10-LT 150, gamma 10"]
    assert stl["unlabelled"].isna().all() and stl["labelled"].tolist()[-1] == 15


def test_of_several_records_the_latest_counts_and_a_fold_has_no_published_numbers(made, monkeypatch):
    grid, folder = made
    run = next(r for r in grid.runs if (r.method, r.seed) == ("semi", 1))
    write(folder / "results" / "a-later-one", run, 0.9, finished="2030-01-01T00:00:00Z")
    write(folder / "results" / "z-an-earlier-one", run, 0.1, finished="2020-01-01T00:00:00Z")
    committed.load.cache_clear()
    assert sheets.find(grid, folder / "runs", folder / "results")[run.key].name == "a-later-one"
    assert not cell("ccl", n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0, holdout=0.2)
