"""Records of speed, read: tables, figures, the verb, the notebook."""
from __future__ import annotations

import json
import re

import pytest
import speed_toy
from kit import ROOT

from semilib import cli
from semilib.errors import BadInput
from semilib.report import paint
from semilib.speed import figures, measure, records, tables
from semilib.study import notebooks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def both(tmp_path) -> dict[str, records.Record]:
    """The records of an H200 and of a CPU."""
    for name, record in {"h200": speed_toy.record("NVIDIA H200"), "cpu": speed_toy.record()}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return records.load(tmp_path)


def test_the_records_of_a_folder_are_ours_alone(both, tmp_path):
    (tmp_path / "cpu.peers.json").write_text("{}")
    assert list(records.load(tmp_path)) == ["cpu", "h200"] == list(both)
    assert records.load(tmp_path / "nowhere") == {}


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadInput, match="record='x.json'"):
        records.load(tmp_path)


def test_tables_name_machine_and_date_and_hold_every_section(both):
    for record in both.values():
        made = tables.tables(record)
        assert len(made) == 6 and all(records.where(record) in table.title for table in made)
        assert all(len({len(row) for row in table.cells()}) == 1 for table in made)
    text = str(tables.of(both))
    assert "memory bank" in text and "250,000 steps" in text and "1.50x" in text
    assert "NVIDIA H200, 2026-12-01" in text and "Some Model, 2 cores, 2026-12-01" in text
    assert tables.growth(both["cpu"]).frame[0]["share"] == pytest.approx(0.025)
    assert [row["over"] for row in tables.steps(both["cpu"]).frame] == pytest.approx([1, 10 / 9])


def test_a_section_without_rows_has_no_table(both):
    only = {"cpu": {key: both["cpu"][key] for key in ("machine", "settings", "growth")}}
    assert [table.title.split(",")[0] for table in tables.tables(only["cpu"])] == ["How a step grows"]
    assert str(tables.of(only, "steps", "parts")) == "No record has steps or parts yet."
    assert str(tables.of({})) == "No record has anything yet."


@pytest.mark.parametrize("write, value, text", [
    (tables.ms, 3.5009, "3,501"), (tables.ms, 0.0957, "95.7"), (tables.ms, 0.00273, "2.73"),
    (tables.ms, 0.00001, "0.010"),
    (tables.rate, 1234.5, "1,234"), (tables.rate, 14.08, "14.1"), (tables.rate, 0.285, "0.28"),
    (tables.times, 10.49, "10.5x"), (tables.times, 1.163, "1.16x"), (tables.share, 0.0404, "4.0 %"),
    (tables.count, 1594, "1,594")])
def test_numbers_keep_about_three_digits(write, value, text):
    assert write(value) == text


def test_a_machine_has_a_name_for_its_files(both):
    assert records.slug(both["cpu"]["machine"]) == "cpu-some-model-2-cores"
    assert records.slug(both["h200"]["machine"]) == "nvidia-h200"
    assert records.slug({"device": "cpu", "cpu": "", "cores": 1}) == "cpu-1-core"


def test_a_cpu_that_lends_fewer_threads_than_cores_says_so(both):
    both["cpu"]["machine"]["threads"] = 1
    assert records.where(both["cpu"]) == "Some Model, 2 cores (1 thread), 2026-12-01"


@pytest.mark.parametrize("kind, rows", [("parts", 14), ("growth", 20)])
def test_figures_draw_every_machine_from_their_frame_alone(both, tmp_path, kind, rows):
    figure, frame = getattr(figures, kind)(both)
    assert len(frame) == rows and frame["record"].nunique() == 2
    picture, sidecar = paint.save(figure, frame, tmp_path / kind)
    assert picture.stat().st_size > 10_000 and paint.png(paint.redraw(sidecar)) == picture.read_bytes()
    shown = " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "NVIDIA H200, 2026-12-01" in shown and "Some Model, 2 cores" in shown
    if kind == "growth":
        assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)


@pytest.mark.parametrize("kind", ["parts", "growth"])
def test_figures_say_if_there_is_no_record(kind):
    figure, frame = getattr(figures, kind)({})
    assert len(frame) == 0 and "No record has" in figure.get_suptitle()


def test_a_bar_has_the_bare_network_in_its_own_mode(both):
    both["cpu"]["steps"]["rows"].append({**both["cpu"]["steps"]["rows"][0], "capture": "compile", "median_s": 7.0})
    frame = figures.parts(both)[1].set_index(["record", "part"])["median_s"]
    assert frame["cpu", figures.BARE] == 0.009 and frame["h200", figures.BARE] == 0.009
    both["h200"]["steps"]["rows"] = []
    assert ("h200", figures.BARE) not in figures.parts(both)[1].set_index(["record", "part"]).index


def test_a_notebook_measures_what_no_committed_record_has(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "measure", lambda settings, path, show: asked.append(path) or speed_toy.record())
    monkeypatch.setattr(measure, "machine", lambda settings: {**speed_toy.FACTS, "device": "cpu", "date": "2027-01-01"})
    settings = measure.Settings(device="cpu", profile="smoke", steps=3)
    places = {"runs": tmp_path / "runs", "results": tmp_path / "results", "show": lambda text: None}
    assert list(measure.ensure(settings, "", **places)) == ["this machine"]
    measure.ensure(measure.Settings(device="cpu", profile="smoke", steps=4), "", **places)
    assert len({path.name for path in asked}) == 2
    assert all(path.name.startswith("cpu-some-model-2-cores-") for path in asked)
    assert {path.parent for path in asked} == {tmp_path / "runs/speed"}
    assert list(measure.ensure(settings, "mine", **places)) == ["mine"]
    assert asked[-1] == tmp_path / "results" / "mine.json"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "desk.json").write_text(json.dumps(speed_toy.record()))
    assert list(measure.ensure(settings, "", **places)) == ["desk"] and len(asked) == 3
    with pytest.raises(BadInput, match="parameter='most_run': unknown; did you mean 'most_runs'"):
        measure.Settings.named({"most_run": 2})


@pytest.mark.parametrize("words, message", [
    (["stepz=3"], "parameter='stepz': unknown; did you mean 'steps'"),
    (["steps=1"], "steps=1: at least 2"),
    (["sections=step"], "section='step': unknown; did you mean 'steps'"),
    (["profile=papr"], "profile='papr': unknown; did you mean 'paper'"),
])
def test_the_verb_refuses_what_it_does_not_know(words, message, tmp_path):
    with pytest.raises(SystemExit, match=re.escape(f"semilib speed: {message}")):
        cli.main(["speed", "device=cpu", *words, "--out", str(tmp_path / "x.json")])
    assert not (tmp_path / "x.json").exists()


def test_the_notebook_has_parameters_that_are_checked():
    path = ROOT / "notebooks" / "90_speed.ipynb"
    known = notebooks.parameters(path)
    assert {"device", "profile", "sections", "steps", "largest", "compiled", "record", "measure",
            "runs"} <= known.keys()
    assert known["record"] == "" and not known["compiled"]
    notebooks.check_given(path, notebooks.SMOKE[path.name])
    with pytest.raises(BadInput, match="parameter='step': unknown; did you mean 'steps'"):
        notebooks.check_given(path, {"step": 3})
    assert path.stem in cli.NOT_RENDERED
