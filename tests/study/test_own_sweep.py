"""One's own sweep from Python: a grid of runs, what a run prints as, the frame of what came out."""
import inspect
import math
from pathlib import Path

import pandas as pd
import pytest
from kit import DATA, smoke_run, steady, write_record

import semilib
from semilib import METHODS, Run, cli, collect, train
from semilib.data import sources
from semilib.errors import BadInput
from semilib.report.collecting import for_paper, readable
from semilib.study import sweep
from semilib.study.launchers import Local, Ray
from semilib.study.status import SweepStatus
from semilib.training import record
from semilib.training.config import PROFILES


def test_a_grid_has_a_run_for_each_combination_and_an_option_multiplies_its_method_alone():
    runs = Run.grid(dataset="cifar10", method=["semi", "acr"], seed=range(5), **{"semi.alpha": [0.2, 0.4]})
    assert len(runs) == len({run.key for run in runs}) == 15 and runs[0] == Run.of("cifar10", options={"alpha": 0.2})
    assert [run.seed for run in runs] == sorted(run.seed for run in runs), "whole comparisons first"
    assert [run.options["alpha"] for run in runs if run.method == "semi"] == [0.2, 0.4] * 5


def test_a_grid_takes_options_of_all_methods_and_refuses_those_of_none_of_them():
    runs = Run.grid(method=("semi", "fixmatch"), **{"options.threshold": (0.5, 0.6)})
    assert [(run.method, run.options["threshold"]) for run in runs] == [
        ("semi", 0.5), ("semi", 0.6), ("fixmatch", 0.5), ("fixmatch", 0.6)]
    assert Run.grid(method="semi", seed=3) == [Run.of(seed=3)]
    with pytest.raises(BadInput, match="argument='acr.beta': METHOD.OPTION of a method that is given: semi"):
        Run.grid(**{"acr.beta": [1, 2]})


@pytest.mark.parametrize("text", [
    "Run.of('mnistm5k', 'semi')", "Run.of('cifar10', 'semi', profile='short', seed=3, options={'alpha': 0.2})",
    "Run.of('mnistm5k', 'abc', base='remixmatch')", "Run.of('cifar10', 'daso', recipe='original')",
    "Run.of('cifar10', 'semi', gamma_l=150.0, gamma_u=100.0)",
    "Run.of('cifar10', 'semi', options={'alpha': 0.3, 'preset': 'readme'})",
    "Run.of('cifar10', 'semi', profile='features', encoder='efficientnet-lite1')"])
def test_a_run_prints_as_what_differs_from_its_defaults_and_reads_back(text):
    run = eval(text)
    assert repr(run) == text and eval(repr(run)) == run


LITE0 = "efficientnet-lite0"


@pytest.mark.parametrize("dataset, given", [
    ("cifar10", dict(profile="paper", encoder=LITE0)),                # which alone means profile features
    ("imagefolder", dict(profile="features", encoder="none")),        # which alone means profile quickstart
    ("imagefolder", dict(encoder_side=224, side=128)),                # without its side it takes the encoder's
    ("imagefolder", dict(network=LITE0, profile="features")),
    ("cifar10", dict(recipe="original", method="cdmad", n1=500, gamma_l=1.0)),    # a recipe that looks at the cell
    *((dataset, dict(profile=profile, encoder=encoder, encoder_side=encoder_side, **side))
      for dataset, side in (("mnistm5k", {}), ("cifar10", {}), ("imagefolder", {}), ("imagefolder", dict(side=128)))
      for profile in (*PROFILES, "") for encoder in ("none", LITE0)
      for encoder_side in ((128, 224) if encoder != "none" else (128,)))])
def test_a_run_reads_back_whatever_its_data_set_encoder_and_sides_bring_along(dataset, given):
    run = Run.of(dataset, **{"method": "fixmatch", **given})
    assert eval(repr(run)) == run == Run.of(**run.arguments()), repr(run)


def test_a_run_that_is_near_no_usual_one_prints_in_full_and_reads_back():
    run = Run.of(method="remixmatch").with_(method="abc", base="remixmatch", steps=77, eval_every=0.5)
    assert eval(repr(run)) == run


def test_signature_and_docstring_name_the_fields_of_a_run_and_a_method_s_class_shows_its_paper():
    for function in (Run.of, Run.grid):
        names = list(inspect.signature(function).parameters)
        assert {"dataset", "method", "gamma_l", "seed", "options"} <= set(names) and "given" not in names
        assert "gamma_l: imbalance of the labelled set, first class over last" in inspect.getdoc(function)
    assert METHODS["abc"].__name__ == "ABC" and "auxiliary balanced classifier" in inspect.getdoc(METHODS["abc"])
    assert METHODS._ipython_key_completions_() == list(METHODS)
    assert semilib.sweep is sweep.sweep and semilib.collect is collect


def test_options_of_this_machine_are_a_launcher_and_not_given_beside_one(monkeypatch):
    asked = []
    monkeypatch.setitem(sweep.DO, "local", lambda *words: asked.append(words) or [])
    sweep.sweep([], "runs", slots=2, notebook=False)
    assert asked == [([], "runs", Local(slots=2, notebook=False), None)]
    with pytest.raises(BadInput, match="how=Ray"):
        sweep.sweep([], "runs", Ray(), slots=2)


# ---- the frame -------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path):
    """SeMi with two values of an option and FixMatch, two seeds each; one run failed."""
    for seed in (0, 1):
        for alpha, recall in ((0.2, 60), (0.4, 70)):
            write_record(tmp_path, steady(recall, recall, recall + 6 * seed), "semi", seed, options={"alpha": alpha})
        write_record(tmp_path, steady(50, 50, 50), "fixmatch", seed, status=("done", "failed")[seed])
    return tmp_path


def test_a_frame_has_a_column_for_each_field_that_varies(runs):
    frame = collect(runs)
    assert list(frame) == ["method", "seed", "semi.alpha", "state", "accuracy", "head", "medium", "tail", "minutes"]
    assert len(frame) == 6 and frame["semi.alpha"].isna().sum() == 2
    row = frame[(frame["semi.alpha"] == 0.4) & (frame["seed"] == 1)].iloc[0]
    assert row["accuracy"] == pytest.approx(72) and row["tail"] == pytest.approx(76) and row["minutes"] == 1
    failed = frame[frame["state"] == "failed"]
    assert len(failed) == 1 and math.isnan(failed["accuracy"].iloc[0])


def test_a_grouped_frame_says_how_many_runs_and_which_fields_each_row_is_a_mean_over(runs):
    frame = collect(runs, by=["method", "semi.alpha"])
    fixmatch, low, high = (frame[frame["accuracy"] == value].iloc[0] for value in (50, 61, 71))
    assert (fixmatch["n"], low["n"], high["n"]) == (1, 2, 2) and math.isnan(fixmatch["spread"])
    assert low["spread"] == pytest.approx(2 ** 0.5) and (low["over"], fixmatch["over"]) == ("seed", "")
    assert collect(runs, by="method").set_index("method").loc["semi", "over"] == "seed, semi.alpha"
    assert "semi.alpha & accuracy" in frame.to_latex(index=False, escape=True)
    paper = for_paper(frame)
    assert list(paper) == ["method", "semi.alpha", "accuracy", "head", "medium", "tail", "n"]
    assert paper.iloc[0].tolist() == ["fixmatch", "", "50.0", "50.0", "50.0", "50.0", "1"]
    assert paper.iloc[1].tolist()[:3] == ["semi", "0.2", "61.0 ± 1.4"]
    assert readable(pd.DataFrame({"semi.alpha": [0.25], "minutes": [0.25]})).iloc[0].tolist() == ["0.25", "0.2"]
    with pytest.raises(BadInput, match="by='sede': unknown; did you mean 'seed'"):
        collect(runs, by="sede")
    wanted = Run.grid(method=["semi", "fixmatch"], profile="smoke")
    with pytest.raises(BadInput, match="used for finished runs; none of these 2 is done"):
        collect(wanted, by="method", folder=runs / "none")


def test_a_frame_of_runs_has_those_that_were_not_started_and_of_a_folder_the_latest_of_each(tmp_path):
    wanted = Run.grid(method=["semi", "fixmatch"], seed=range(2), profile="smoke")
    frame = collect(wanted, folder=tmp_path)
    assert list(frame["state"]) == ["not started"] * 4 and list(frame["method"]) == ["semi", "fixmatch"] * 2
    for code, recall in (("00000001", 40), ("00000002", 50)):
        folder = write_record(tmp_path, steady(recall, recall, recall), code=code)
    file = folder / "run.json"
    file.write_text(file.read_text().replace('"seconds"', '"finished": "2026", "seconds"'))
    assert collect(tmp_path)["accuracy"].tolist() == [50]
    with pytest.raises(BadInput, match="a folder that holds runs, or runs"):
        collect(tmp_path / "none")


@pytest.mark.parametrize("name, content", [("log.jsonl", "?\n"), ("log.jsonl", ""), ("run.json", "{")])
def test_a_damaged_run_is_a_row_without_numbers_and_stops_no_frame(name, content, tmp_path):
    folders = [write_record(tmp_path, steady(50, 50, 50), "fixmatch", seed) for seed in (0, 1)]
    (folders[0] / name).write_text(content)
    for frame in (collect(tmp_path), collect(folders)):
        rows = frame.sort_values("state")
        assert list(rows["state"]) == ["damaged", "done"] and list(rows["method"]) == ["fixmatch"] * 2
        assert math.isnan(rows["accuracy"].iloc[0]) and rows["accuracy"].iloc[1] == 50
    run = Run.of("mnistm5k", "fixmatch", profile="smoke")
    folder = record.folder(run, tmp_path / "runs")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    assert list(collect([run], folder=tmp_path / "runs")["state"]) == ["damaged"]
    (folder / "run.json").unlink()
    assert list(collect([run], folder=tmp_path / "runs")["state"]) == ["not started"]
    named = tmp_path / "runs" / "a folder" / "somebody named"
    named.mkdir(parents=True)
    (named / "run.json").write_text("{")
    assert list(collect(tmp_path / "runs")["state"]) == ["damaged"]


def test_the_folder_of_a_sweep_is_named_as_everywhere(runs, capsys):
    cli.main(["collect", "--runs", str(runs), "--by", "method"])
    named = capsys.readouterr().out
    cli.main(["collect", str(runs), "--by", "method"])
    assert named == capsys.readouterr().out and "fixmatch" in named
    with pytest.raises(SystemExit, match="one folder of runs"):
        cli.main(["collect", str(runs), "--runs", str(runs)])


def test_progress_of_runs_in_several_cells_names_the_cell(tmp_path):
    status = SweepStatus(Run.grid(method="fixmatch", profile="smoke", gamma_u=[1, 20]), tmp_path, False)
    status.show(list(status.runs.values()), 1)
    first, second = status.progress.now.split("running ")[1].split(", ")
    assert first != second and "g20-1." in first and "g20-20." in second


def test_progress_of_a_variant_says_what_it_is(tmp_path, capsys):
    """A run alone, two side by side, the list and the states: the same words."""
    words = ["profile=smoke", f"root={DATA}", "steps=12", "eval_every=12", "batch=4", "options.plce=False"]
    cli.main(["run", *words, "--runs", str(tmp_path)])
    shown = capsys.readouterr()
    assert "[1/1] mnistm5k-lt.n40.m360.g20-20.s0/semi, plce off  done" in shown.err
    assert shown.out.startswith("mnistm5k-lt.n40.m360.g20-20.s0/semi, plce off, 12 steps of profile smoke: ")
    cli.main(["list", "--all", "--runs", str(tmp_path), *words, "method=semi"])
    cli.main(["status", "--runs", str(tmp_path)])
    assert capsys.readouterr().out.count("s0/semi, plce off") == 2
    status = SweepStatus(Run.grid(**{"semi.alpha": [0.2, 0.3]}), tmp_path, False)
    assert sorted(map(status.progress.name, status.runs.values())) == [
        f"mnistm5k-lt.n40.m360.g20-20.s0/semi, alpha {alpha}" for alpha in (0.2, 0.3)]
    status.show(list(status.runs.values())[:1], 1)
    assert "running s0/semi, alpha 0.2 0%" in status.progress.now


def test_a_folder_is_below_the_project_wherever_work_begins(tmp_path, monkeypatch, source, capsys):
    """One that is not absolute, for everything that takes one: in a notebook of `lab/` as in the project's folder."""
    for name in ("notebooks", "semilib", "lab"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "lab")
    assert Path(sources.folder_of("cifar10", "data")) == tmp_path / "data"
    assert sources.folder_of("imagefolder", "photos") == "photos", "one's own pictures are where one types"
    (tmp_path / "lab" / "mine").mkdir()
    assert Path(sources.folder_of("cifar10", "mine")).resolve() == tmp_path / "lab" / "mine"
    (tmp_path / "lab" / "mine").rmdir()
    run = smoke_run("supervised")
    path = train(run, source=source)
    assert path == record.folder(run, tmp_path / "runs") and not list((tmp_path / "lab").iterdir())
    assert sweep.ensure([run]) == [path] and sweep.states([run]) == [(run, "done")] and len(collect("runs")) == 1
    cli.main(["publish", str(path.relative_to(tmp_path)), "results/kept"])
    cli.main(["report", "results/kept", "figures/kept"])
    assert list((tmp_path / "results" / "kept").iterdir()) and (tmp_path / "figures" / "kept" / "table.md").is_file()
