"""Tables from records written by hand: every number against one worked out here, and every refusal."""
import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from kit import CELL, LABELLED, ROOT, evaluation, steady, write_record

from semilib.errors import BadInput
from semilib.methods import METHODS, get
from semilib.report import frames
from semilib.report import labels as names
from semilib.report.records import Record, load, read
from semilib.report.tables import overview, photographs
from semilib.training import metrics
from semilib.training.config import Run
from semilib.training.tuned import settings_of


def test_load_leaves_out_a_line_cut_short(tmp_path):
    folder = write_record(tmp_path, steady(90, 60, 30))
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"step": 50, "balanced')
    record = read(folder)
    assert [e["step"] for e in record.log] == [10, 20, 30, 40]
    assert (record.cell, record.method, record.seed, record.done) == (CELL, "fixmatch", 0, True)
    with pytest.raises(BadInput, match="run.json"):
        read(tmp_path)


@pytest.mark.parametrize("name", [f"{CELL}.s3/semi-0123abcd-89abcdef", f"{CELL}.s3_semi-0123abcd"])
def test_absent_folder_is_a_run_not_started(tmp_path, name):
    record, = load([tmp_path / name])
    assert (record.cell, record.method, record.seed) == (CELL, "semi", 3)
    assert (record.run["key"], record.run["status"]) == ("0123abcd", "not started")
    with pytest.raises(BadInput, match="nothing-here"):
        load([tmp_path / "nothing-here"])


def test_results_by_hand(tmp_path):
    """25 evaluations: the first five are not averaged. Balanced accuracy of (r, 60, 30) is (r + 90) / 3."""
    first = [[0, 0, 0]] * 5
    rest = [[40 + k, 60, 30] for k in range(20)]               # r = 40 ... 59
    frame = frames.runs([read(write_record(tmp_path, first + rest))])
    row = frame.iloc[0]
    assert row["mean_last"] == pytest.approx((49.5 + 90) / 300)
    assert row["median_last"] == pytest.approx((49.5 + 90) / 300)
    assert row["last"] == pytest.approx(149 / 300) and row["best_on_test"] == pytest.approx(149 / 300)
    assert (row["head"], row["medium"], row["tail"]) == (pytest.approx(0.495), pytest.approx(0.6), pytest.approx(0.3))
    assert row["geometric_mean"] == pytest.approx(np.mean([((40 + k) * 60 * 30) ** (1 / 3) for k in range(20)]) / 100)
    assert (row["cell"], row["steps"], row["profile"], row["seconds"]) == (CELL, 250, "quickstart", 60.0)
    assert (row["metric"], row["rule"], row["status"]) == ("balanced_accuracy", "mean of the last 20 evaluations",
                                                           "done")
    assert (row["drawn_by"], row["code"], row["label"]) == ("file order", "c0dec0de", "fixmatch")


def test_log_that_is_not_the_runs_is_refused(tmp_path):
    folder = write_record(tmp_path, steady(90, 60, 30))
    log = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text("\n".join(log[:-1]) + "\n")                       # an evaluation is missing
    with pytest.raises(BadInput, match="run.json"):
        frames.runs([read(folder)])
    (folder / "log.jsonl").write_text("\n".join(log[:-1] + [json.dumps(evaluation(40, [91, 60, 30]))]) + "\n")
    with pytest.raises(BadInput, match="run.json"):
        frames.runs([read(folder)])


def test_means_and_spreads(tmp_path):
    """Three seeds at 50, 53 and 59 per cent: mean 54,
    standard deviation sqrt(((-4)^2 + (-1)^2 + 5^2) / 2) = sqrt(21)."""
    folders = [write_record(tmp_path, steady(b + 30, b, b - 30), seed=s, seconds=t)
               for s, b, t in ((0, 50, 60), (1, 53, 120), (2, 59, 240))]
    folders.append(write_record(tmp_path, steady(60, 30, 0), method="supervised", seconds=30))
    frame, text = made = overview(load(folders))
    assert list(frame["label"]) == ["supervised", "fixmatch"]                      # the order of every table and figure
    row = frame.set_index("label").loc["fixmatch"]
    assert (row["balanced_accuracy"], row["spread"]) == (pytest.approx(54), pytest.approx(math.sqrt(21)))
    assert (row["head"], row["medium"], row["tail"]) == (pytest.approx(84), pytest.approx(54), pytest.approx(24))
    assert (row["done"], row["runs"], row["rule"], row["minutes"]) == (3, 3, "all 4", pytest.approx(7 / 3))
    single = frame.set_index("label").loc["supervised"]
    assert single["balanced_accuracy"] == pytest.approx(30) and math.isnan(single["spread"])
    lines = text.splitlines()
    assert lines[0] == f"{CELL}, 40 steps of profile quickstart"
    assert lines[2].split() == ["method", "balanced", "accuracy", "%", "n", "head", "medium", "tail", "rule",
                                "minutes", "s", "a", "step"]
    assert lines[4].split() == ["Supervised", "30.0", "1", "60.0", "30.0", "0.0", "all", "4", "0.5", "0.750"]
    assert lines[5].split() == ["FixMatch", "54.0", "±", "4.6", "3", "84.0", "54.0", "24.0", "all", "4", "2.3",
                                "3.500"]
    assert "best" not in text and "**" not in made.markdown


def test_footnotes(tmp_path):
    folders = [write_record(tmp_path, steady(80, 50, 20), seed=s) for s in (0, 1)]
    records = load(folders)
    notes = " ".join(overview(records).notes)
    assert "mean of all 4 evaluations of the averaged network (steps 10 to 40)" in notes
    split = "One split for all seeds: the first images of each class in file order; 14 labelled and 42 unlabelled"
    assert split in notes
    assert "standard deviation over the n seeds (n - 1 in the denominator)" in notes
    assert "the 1 largest, 1 middle and 1 smallest classes" in notes
    for record in records:
        assert f"s{record.seed}:{record.run['key']}-c0dec0de" in notes
    long = read(write_record(tmp_path / "long", steady(80, 50, 20, n=30)))
    notes = " ".join(overview([long]).notes)
    assert "mean of the last 20 evaluations of the averaged network (steps 110 to 300)" in notes
    assert "Single runs" in notes and "±" not in notes


def test_a_part_that_never_acted_is_told(tmp_path):
    folder = write_record(tmp_path, steady(80, 50, 20), seed=1)
    run = json.loads((folder / "run.json").read_text())
    run["result"]["never_acted"] = {"u": "lower the threshold"}
    (folder / "run.json").write_text(json.dumps(run))
    other = write_record(tmp_path, steady(80, 50, 20))                                # a record of before this was told
    notes = overview(load([folder, other])).notes
    assert [n for n in notes if "Never" in n] == ["Never acted in FixMatch seed 1: u (lower the threshold)."]


def test_different_code_is_told(tmp_path):
    folders = [write_record(tmp_path, steady(80, 50, 20), seed=s, code=c)
               for s, c in ((0, "c0dec0de"), (1, "0ddc0de0"))]
    assert overview(load(folders)).notes[-1].endswith(
        "They were trained by several versions of the code; part of their spread may be its change.")


def test_a_run_of_the_smoke_profile_is_said_to_be_at_chance(tmp_path):
    notes = overview(load([write_record(tmp_path, steady(40, 30, 20), profile="smoke")])).notes
    assert notes[0] == "40 steps: shows that it runs; chance is 33.3 %."
    assert "chance" not in overview(load([write_record(tmp_path, steady(40, 30, 20))])).text


def test_title_holds_the_scale(tmp_path):
    records = load([write_record(tmp_path, steady(80, 50, 20))])
    scale = f"{CELL}, 40 steps of profile quickstart"
    assert overview(records, "Quickstart").title == f"Quickstart: {scale}"
    assert overview(records, f"Quickstart ({scale})").title == f"Quickstart ({scale})"


def test_runs_that_are_not_done_are_seen(tmp_path):
    folders = [write_record(tmp_path, steady(80, 50, 20), seed=0),
               write_record(tmp_path, steady(99, 99, 99), seed=1, status="failed"),
               write_record(tmp_path, steady(80, 50, 20), seed=0, method="supervised", status="running"),
               tmp_path / f"{CELL}.s0" / "semi-01234567-89abcdef"]
    frame, text = made = overview(load(folders))
    rows = {line.split()[0]: line for line in text.splitlines()[4:7]}
    assert "1/2, 1 failed" in rows["FixMatch"] and " 50.0 " in rows["FixMatch"]     # nothing of the failed run is in it
    assert "0/1, 1 unfinished" in rows["Supervised"] and rows["Supervised"].count("–") == 7
    assert "SeMi" not in rows and "\nNot started: SeMi.\n" in text and text.count("SeMi") == 1, "one line"
    assert "FixMatch seed 1, failed (TrainingError: the loss 'x' was not finite)" in text
    assert "Supervised seed 0, unfinished" in text
    assert frame.set_index("label").loc["fixmatch", "balanced_accuracy"] == pytest.approx(50)
    assert made.runs.loc[made.runs["status"] != "done", "mean_last"].isna().all()
    assert list(made.runs["steps"].isna()) == [False, False, False, True]
    with pytest.raises(BadInput, match="records"):
        overview([])
    nothing = overview(load(folders[3:]))
    assert nothing.title == CELL and nothing.cells() == [] and "Not started: SeMi." in nothing.text
    folders.append(write_record(tmp_path, steady(80, 50, 20), method="semi", seed=1))
    some = overview(load(folders[3:])).text
    assert " 1/2 " in some and "Not in the numbers: SeMi seed 0, not started." in some


@pytest.mark.parametrize("field, change", [
    ("cell", dict(cell="mnistm5k-lt.n8.m16.g8-8")), ("profile", dict(profile="paper")), ("steps", dict(every=20)),
    ("recipe", dict(recipe="original"))])
def test_scales_do_not_mix(tmp_path, field, change):
    records = load([write_record(tmp_path, steady(80, 50, 20)),
                    write_record(tmp_path, steady(80, 50, 20), seed=1, **change)])
    with pytest.raises(BadInput, match=f"^{field}=.*not comparable"):
        overview(records)


def test_splits_and_repeated_seeds_do_not_mix(tmp_path):
    one = read(write_record(tmp_path, steady(80, 50, 20)))
    with pytest.raises(BadInput, match="fixmatch, seed 0, 2 times"):
        overview([one, read(write_record(tmp_path, steady(80, 50, 20), code="0ddc0de0"))])
    other = read(write_record(tmp_path, steady(80, 50, 20), seed=1))
    other.run["split"]["fingerprint"] = "cd" * 32
    with pytest.raises(BadInput, match="^split="):
        overview([one, other])


def labels_of(tmp_path, *runs):
    paths = [write_record(tmp_path, steady(80, 50, 20), **{"seed": i, **r}) for i, r in enumerate(runs)]
    return names.labels(load(paths))


def test_labels_tell_what_differs(tmp_path):
    full = {"preset": "paper", "oheml": True, "plce": True, "t": 0.7}
    assert labels_of(tmp_path / "a", dict(), dict(root="elsewhere", device="cpu"), dict(method="supervised")) == \
        ["fixmatch", "fixmatch", "supervised"]
    ablation = [dict(method="semi", options=full | change) for change in ({}, {"oheml": False}, {"plce": False}, {})]
    assert labels_of(tmp_path / "b", *ablation) == ["semi", "semi (oheml=off)", "semi (plce=off)", "semi"]
    two = [dict(options={"t": 0.95}), dict(options={"t": 0.7})]
    assert labels_of(tmp_path / "c", *two) == ["fixmatch (t=0.95)", "fixmatch (t=0.7)"]
    presets = [dict(method="semi", options=full | change) for change in ({}, {"preset": "readme", "t": 0.5})]
    assert labels_of(tmp_path / "d", *presets) == ["semi", "semi (preset=readme)"]
    labels = labels_of(tmp_path / "e", dict(lr=0.1), dict(lr=0.05, method="semi"))
    assert labels == ["fixmatch (lr=0.1)", "semi (lr=0.05)"]
    oracle = dict(method="proportion", options={"proportion_prior": "oracle"})
    assert labels_of(tmp_path / "f", oracle) == ["proportion (proportion_prior=oracle)"], "also where nothing differs"
    honest = dict(method="proportion", options={"proportion_prior": "labelled"})
    assert set(labels_of(tmp_path / "g", oracle, honest)) > {"proportion (proportion_prior=oracle)"}
    assert names.display("semi (oheml=off)") == "SeMi, oheml off" and names.display("mine") == "mine"
    assert names.display("semi (0123abcd)") == "SeMi (0123abcd)", "a run that was not started, by its key"


VARIANTS = [({"options": {"plce": False}}, "SeMi, plce off"), ({"options": {"alpha": 0.2}}, "SeMi, alpha 0.2"),
            ({}, "SeMi"), ({"profile": "smoke"}, "SeMi"), ({"options": {"preset": "readme"}}, "SeMi, preset readme"),
            ({"profile": "smoke", "options": {"threshold": 0.3}}, "SeMi, threshold 0.3"),
            ({"method": "acr", "add": "oheml", "options": {"threshold": 0.7}}, "ACR + OHEML, threshold 0.7"),
            ({"method": "daso", "dataset": "cifar10", "recipe": "original"}, "DASO")]


@pytest.mark.parametrize("given, shown", VARIANTS, ids=[shown + str(len(str(given))) for given, shown in VARIANTS])
def test_a_run_whose_options_are_not_its_method_s_defaults_says_so_alone_in_its_table(given, shown):
    """The same words in the label of its record and in the name that its progress has."""
    run = Run.of(**given)
    record = Record({"name": run.name, "key": run.key, "code": "", "status": "done", "config": run.identity()})
    label, = names.labels([record])
    assert names.display(label) == shown
    assert names.names_of([run]) == {run.key: ", ".join([run.name, *shown.split(", ")[1:]])}


def test_settings_tuned_on_features_make_no_variant_and_what_differs_from_both_does():
    for method in METHODS:
        tuned = settings_of(method)
        for options in ({}, tuned["options"]):
            run = Run.of("cifar10", method, profile="features", options=options, **tuned["fields"]) \
                if not get(method).reads_maps and method != "remixmatch" else Run.of("cifar10", method)
            assert names.variant(run.identity()) == {}, method
    options = {**settings_of("semi")["options"], "plce": False}
    assert names.variant(Run.of("cifar10", profile="features", options=options).identity()) == {"plce": False}


def test_runs_that_only_the_difference_tells_apart_have_labels_that_do():
    """A tuned run beside one with the defaults."""
    tuned = settings_of("fixmatch")["options"]
    runs = [Run.of("cifar10", "fixmatch", profile="features", options=options) for options in (tuned, {})]
    told = names.labels([Record({"name": run.name, "key": run.key, "code": "", "status": "done",
                                 "config": run.identity()}) for run in runs])
    assert tuned["threshold"] == 0.6 and told == ["fixmatch (threshold=0.6)", "fixmatch (threshold=0.95)"]


@pytest.mark.parametrize("label, shown", [
    ("crestplus", "CReST+"), ("remixmatch+abc", "ReMixMatch + ABC"), ("acr+oheml+plce", "ACR + OHEML + PLCE"),
    ("daso+align", "DASO + Align"), ("fixmatch+posthoc1", "FixMatch + LA (post-hoc)"),
    ("remixmatch+crestplus", "ReMixMatch + CReST+"), ("fixmatch+posthoc0.5", "FixMatch + LA (post-hoc, tau=0.5)"),
    ("supervised+posthoc1e-05", "Supervised + LA (post-hoc, tau=1e-05)"), ("la", "LA"),
    ("remixmatch+cossl+posthoc2 (lr=0.05)", "ReMixMatch + CoSSL + LA (post-hoc, tau=2), lr 0.05"),
    ("acr+oheml (threshold=0.7, plce=off)", "ACR + OHEML, threshold 0.7, plce off"), ("posthocery", "posthocery"),
    ("mine+oheml", "mine + OHEML")])
def test_combinations_are_written_with_their_parts(label, shown):
    assert names.display(label) == shown


def test_runs_are_shown_by_their_written_names():
    assert names.display(Run.of(method="fixmatch", post_hoc=1).label) == "FixMatch + LA (post-hoc)"
    assert names.display(Run.of(method="remixmatch", post_hoc=0.25).label) == "ReMixMatch + LA (post-hoc, tau=0.25)"


def test_scale_and_untold_name_fields_of_a_run():
    """A field renamed in Run must not silently come back into the labels."""
    import dataclasses
    fields = {f.name for f in dataclasses.fields(Run)}
    assert set(names.FIELDS_OF_SCALE) <= names.UNTOLD_FIELDS <= fields
    told = fields - names.UNTOLD_FIELDS
    assert {"lr", "mu", "network", "variant", "strong_pool", "policy"} <= told


def test_what_stands_before_the_brackets_is_not_repeated_in_them(tmp_path):
    runs = [dict(method="fixmatch", base="", add="", post_hoc=0.0),
            dict(method="fixmatch+posthoc1", base="", add="", post_hoc=1.0),
            dict(method="remixmatch+abc", base="remixmatch", add="", post_hoc=0.0),
            dict(method="acr+oheml+plce", base="", add="oheml+plce", post_hoc=0.0),
            dict(method="acr+oheml+plce", base="", add="oheml+plce", post_hoc=0.0, options={"t": 1})]
    runs[3]["options"] = {"t": 0}
    assert labels_of(tmp_path, *runs) == ["fixmatch", "fixmatch+posthoc1", "remixmatch+abc", "acr+oheml+plce (t=0)",
                                          "acr+oheml+plce (t=1)"]


def test_combinations_have_rows_of_their_own_beside_their_method(tmp_path):
    names = ["acr+oheml", "remixmatch+abc", "mine", "semi", "fixmatch+posthoc1", "abc", "fixmatch", "acr", "crestplus"]
    records = load([write_record(tmp_path, steady(80, 50, 20), method=name) for name in names])
    made = overview(records)
    assert list(made.frame["label"]) == ["fixmatch", "fixmatch+posthoc1", "crestplus", "abc", "remixmatch+abc", "acr",
                                         "acr+oheml", "semi", "mine"]
    assert "| ReMixMatch + ABC | 50.0 | 1 |" in made.markdown and "| ACR + OHEML | 50.0 | 1 |" in made.markdown
    assert "of FixMatch + LA (post-hoc): s0:" in " ".join(made.notes)


@pytest.mark.parametrize("name", ["remixmatch+abc", "acr+oheml+plce", "fixmatch+posthoc0.5"])
def test_a_combination_that_was_not_started_is_known_by_its_folder(tmp_path, name):
    for place in (f"{CELL}.s3/{name}-0123abcd-89abcdef", f"{CELL}.s3_{name}-0123abcd"):
        record, = load([tmp_path / place])
        assert (record.method, record.seed, record.run["key"]) == (name, 3, "0123abcd")
        assert overview([record]).frame["label"].tolist() == [name]


def test_original_recipes_have_tables_of_their_own(tmp_path):
    """There the settings differ by nature: they are told only where one method's runs differ. What a recipe reports
    stands beside the column that all tables share."""
    rising = [[10 * k, 60, 30] for k in range(1, 9)]                                 # balanced accuracy (10 k + 90) / 3
    own = dict(recipe="original")
    records = load([
        write_record(tmp_path, rising, **own, lr=0.03, mu=7, report="best_on_test"),
        write_record(tmp_path, rising, "daso", **own, report="median_last"),
        write_record(tmp_path, rising, "darp", **own, lr=0.002, optimiser="adam"),
        write_record(tmp_path, rising, "darp", **own, lr=0.001, optimiser="adam", seed=1)])
    made = overview(records)
    assert made.title == f"{CELL}, 80 steps of profile quickstart, each method's original recipe"
    assert list(made.frame["label"]) == ["fixmatch", "darp (lr=0.002)", "darp (lr=0.001)", "daso"]
    assert made.frame["balanced_accuracy"].tolist() == pytest.approx([45.0] * 4)
    note, = [n for n in made.notes if "own recipes" in n]
    assert note == ("As their own recipes report them (%): FixMatch 56.67 (best evaluation, picked by the test set), "
                    "DASO 45.00 (median of the evaluations averaged here).")
    assert made.runs["report"].tolist() == ["best_on_test", "mean_last", "mean_last", "median_last"]
    with pytest.raises(BadInput, match="darp, seed 0, 2 times"):                     # the same seed of one label, again
        other = write_record(tmp_path, rising, "darp", **own, lr=0.002, optimiser="adam", code="0ddc0de0")
        overview([records[2], read(other)])


def test_records_of_before_there_were_recipes_are_of_the_shared_one(tmp_path):
    old, new = (read(write_record(tmp_path, steady(80, 50, 20), seed=i, **r))
                for i, r in enumerate([{}, dict(recipe="shared")]))
    assert "recipe" not in old.config and names.labels([old, new]) == ["fixmatch", "fixmatch"]
    made = overview([old, new])
    assert made.title == f"{CELL}, 40 steps of profile quickstart" and "own recipes" not in made.text


def test_files(tmp_path):
    folders = [write_record(tmp_path / "runs", steady(80, 50, 20), seed=s) for s in (0, 1)]
    folders.append(write_record(tmp_path / "runs", [], method="semi", status="failed", steps=40))
    made = overview(load(folders), "A | B")
    for name in (f"out/{CELL}", f"out/{CELL}.csv", f"out/{CELL}.md"):                  # the dots of a cell stay
        assert made.write(tmp_path / name) == (tmp_path / f"out/{CELL}.csv", tmp_path / f"out/{CELL}.md")
    read = pd.read_csv(tmp_path / f"out/{CELL}.csv", dtype={"key": str, "code": str, "split": str})
    assert list(read.columns) == list(made.runs.columns)
    assert read["mean_last"].tolist() == pytest.approx(made.runs["mean_last"].tolist(), rel=1e-14, nan_ok=True)
    assert list(read["key"]) == list(made.runs["key"])
    text = (tmp_path / f"out/{CELL}.md").read_text(encoding="utf-8")
    assert text.startswith(f"A | B: {CELL}") and f"{CELL}.csv" in text
    assert "| FixMatch | 50.0 ± 0.0 | 2 | 80.0 | 50.0 | 20.0 | all 4 | 1.0 |" in text
    assert "| SeMi | – | 0/1, 1 failed | – | – | – | – | – |" in text
    # no part is left behind
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{CELL}.csv", f"{CELL}.md"]


def test_digits_follow_the_test_set(tmp_path):
    record = read(write_record(tmp_path, steady(80, 50, 20)))
    assert " 50.0 " in overview([record]).text
    record.run["split"]["test_images"] = 10_000
    assert " 50.00 " in overview([record]).text


def test_class_without_test_images(tmp_path):
    record = read(write_record(tmp_path, steady(80, 50, 20)))
    for line in record.log:
        line["recall"][2], line["tail"] = None, None
    assert np.isnan(record.recalls).tolist() == [False, False, True]
    assert math.isnan(frames.runs([record])["tail"][0])


def test_reader_needs_no_torch():
    code = "import sys, semilib.report.tables, semilib.report.figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- a folder of pictures --------------------------------------------------------------------------------------------


def on_folder(tmp_path, recalls, **changes):
    record = read(write_record(tmp_path, recalls, cell="imagefolder-photos.nall.mrest.g1-1",
                               **{"dataset": "imagefolder", "folder": "ab", **changes}))
    record.run["split"]["data"] = "test pictures: those of test/"
    return record


def test_the_table_of_a_folder_counts_what_its_last_evaluation_got_right(tmp_path):
    first = on_folder(tmp_path, [[0, 0, 0], [90, 60, 30]], encoder="efficientnet-lite0", profile="features")
    table = photographs([first, on_folder(tmp_path, [[30, 30, 30]], profile="trial")])
    row, other = table.frame.to_dict("records")
    assert (row["start"], other["start"], row["steps"], other["steps"]) == ("efficientnet-lite0", "scratch", 20, 10)
    assert (row["right"], row["images"], row["accuracy"]) == (180, 300, 60)
    assert (row["low"], row["high"]) == (pytest.approx(54.36, abs=0.01), pytest.approx(65.39, abs=0.01))
    assert row["balanced_accuracy"] == pytest.approx(60)
    assert "180 of 300" in table.text and "those of test/" in table.text and table.title == "Pictures of photos"
    for wrong in ([first, on_folder(tmp_path, [[1, 1, 1]], folder="cd")], [read(write_record(tmp_path, [[1, 1, 1]]))],
                  []):
        with pytest.raises(BadInput, match="finished runs on one folder"):
            photographs(wrong)


def test_the_table_of_a_folder_has_as_many_digits_as_pictures_and_names_what_is_never_predicted(tmp_path, monkeypatch):
    monkeypatch.setattr("kit.IMAGES", 4)
    table = photographs([on_folder(tmp_path, [[4, 2, 0]])])
    assert "6 of 12" in table.text and "50  25 to 75" in re.sub(" {2,}", "  ", table.text) and "50.0" not in table.text
    assert "Never predicted by" not in table.text, "cow is what bees are taken for"
    record = on_folder(tmp_path, [[4, 2, 0]], seed=1)
    last = record.log[-1] | metrics.scores(np.array([[4, 0, 0], [2, 2, 0], [1, 3, 0]]), LABELLED)
    record.log[-1] = last
    record.run["result"] = metrics.summary([last])
    assert "Never predicted by FixMatch, scratch, seed 1: cow." in photographs([record]).notes


def test_the_overview_says_how_many_pictures_of_a_folder_are_right(tmp_path):
    said = overview([on_folder(tmp_path, [[0, 0, 0], [90, 60, 30]])]).notes
    assert "Last evaluation of FixMatch seed 0: 180 of 300 right, 60.0% (95% interval 54.4 to 65.4%); test pictures: " \
           "those of test/." in said
    held = overview([on_folder(tmp_path, [[90, 60, 30]], holdout=0.2, seed=1)]).notes
    assert any(note.endswith("test pictures: 20 % of each class's labelled ones, held out.") for note in held)
