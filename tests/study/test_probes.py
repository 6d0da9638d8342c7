"""Scikit-learn's baselines: what each predicts, that only labelled images move it, and its rows beside the runs."""
import dataclasses

import numpy as np
import pytest

from semilib import cli
from semilib.errors import BadInput
from semilib.study import grids, probes, sheets


@pytest.fixture(scope="module")
def blobs():
    """Two classes of 2-d features at (0, 0) and (3, 0), 90 and 10 of each: x [n, 2], y [n]."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [90, 10])
    return rng.standard_normal((100, 2)) + 3 * y[:, None] * [1, 0], y


def test_fields_without_a_table_are_of_the_tables_that_the_help_names(monkeypatch, tmp_path):
    probed = []
    monkeypatch.setattr(probes, "measure", lambda runs: probed.append(list(runs)) or tmp_path)
    for words in ((), ("seeds=[0]",), ("table1", "seeds=[0]")):
        cli.main(["probe", *words])
    one, two = (grids.grid(name, "features", seeds=[0]).runs for name in ("table1", "table2"))
    assert {run.key for run in probed[0]} > {run.key for run in probed[1]} == {run.key for run in (*one, *two)}
    assert {run.key for run in probed[2]} == {run.key for run in one}


def test_less_log_prior_moves_the_boundary_from_the_rare_class_back_to_the_middle(blobs):
    line = np.stack([np.linspace(0, 3, 301), np.zeros(301)], 1)
    first = {name: line[probes.fit(name, 1.0, *blobs)(line).argmax(), 0] for name in ("logistic", "logistic-la",
                                                                                      "centroid")}
    assert first["logistic"] > 1.8 > first["logistic-la"] > 1.0 and first["centroid"] == pytest.approx(1.5, abs=0.25)


def test_more_neighbours_than_images_are_all_of_them(blobs):
    assert (probes.fit("knn", 500, *blobs)(blobs[0]) == 0).all(), "the majority of all"
    assert (probes.fit("knn", 1, *blobs)(blobs[0]) == blobs[1]).all()


@pytest.fixture
def measured(tmp_path, monkeypatch, blobs):
    """A cell of two seeds, its probes measured on `blobs` in place of a store."""
    entry = grids.grid("table1", "features", ["supervised", "semi"], [0, 1]).entries[0]
    monkeypatch.setattr(probes, "_data", lambda run: (*blobs, *blobs, f"{run.split_seed}" * 8))
    monkeypatch.setattr(probes, "chosen", lambda probe, root: 1.0)
    monkeypatch.setattr(probes, "FILE", tmp_path / "probes.csv")
    monkeypatch.setattr(probes.rows, "__defaults__", (tmp_path / "probes.csv",))
    return entry, tmp_path / "probes.csv"


def test_each_cell_and_split_is_measured_once_and_its_rows_stand_beside_the_runs_of_that_cell_alone(measured):
    entry, file = measured
    told = []
    probes.measure(entry.runs[:1], file, told.append)
    before = file.read_bytes()
    probes.measure(entry.runs, file, told.append)
    probes.measure(entry.runs, file, told.append)
    assert len(told) == 2 and file.read_bytes().startswith(before)
    found = probes.rows(entry.runs, file)
    assert [(row["row"], row["seed"]) for row in found[:3]] == [
        (probes.TITLES["logistic"], 0), (probes.TITLES["logistic"], 1), (probes.TITLES["logistic-la"], 0)]
    assert {row["split"] for row in found} == {"0" * 8, "1" * 8} and all(row["score"] > .8 for row in found)
    assert probes.rows([dataclasses.replace(entry.runs[0], order="reversed")], file) == []
    assert probes.rows([dataclasses.replace(entry.runs[0], encoder_side=96)], file) == []


def test_a_table_shows_them_with_their_difference_and_only_on_features(measured):
    entry, file = measured
    probes.measure(entry.runs, file, str)
    grid = grids.grid("table1", "features", ["supervised", "semi"], [0, 1])
    sheet = sheets.sheets(grid, {})[0]
    frame = sheet.frame.set_index("row")
    assert frame.loc[probes.TITLES["knn"], "done"] == 2 and frame.loc[probes.TITLES["knn"], "against"] == "SeMi"
    assert sheet.runs.loc[sheet.runs["row"] == probes.TITLES["centroid"], "score"].between(.8, 1).all()
    small = sheets.sheets(grids.grid("table1", "smoke", ["supervised", "semi"]), {})[0]
    assert list(small.frame["row"]) == ["Supervised", "SeMi"]


def test_a_run_from_scratch_has_no_features_to_fit():
    run = grids.grid("table1", "smoke", ["supervised"]).runs[0]
    with pytest.raises(BadInput, match="encoder='none': an encoder"):
        probes.measure([run], "nowhere.csv")
