"""Records of speed, read: goals met, missed and open; ratios; what is published of a run of peers; figures; the verb; README's table."""
import copy
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from semilib import cli
from semilib.errors import BadInput
from semilib.report.paint import save
from semilib.speed import figures as speed_figures
from semilib.speed import report as speed_report
from semilib.speed.report import Records
from semilib.study import notebooks

pytestmark = pytest.mark.filterwarnings("ignore")
FACTS = {"cpu": "Some(R) CPU Model Processor @ 2.00GHz", "cores": 2, "threads": 2, "python": "3.11", "torch": "2.14", "date": "2026-12-01",
         "cpu_units": ["avx2", "amx_bf16"]}


def own(device: str = "cpu", profile: str = "paper", **changes) -> dict:
    """A record of ours with every section; times in seconds. changes: of single figures."""
    at = {"semi": 0.010, "bare": 0.009, "bank": 0.0004, "whole": 0.010, "run": 1000.0, "runs": 105.0, "stacked": 150.0, "import": 0.1,
          **changes}
    time = {"windows": 3, "window": 1}

    def rows(*made: dict) -> dict:
        timed = [{"min_s": 0.9 * r["median_s"], **time, **r} if "median_s" in r else r for r in made]
        return {"rows": timed, "seconds": 1.0, "code": "a" * 40}
    gpu = device != "cpu"
    how = {"precision": "bf16", "capture": "auto"} if gpu else {"precision": "fp32", "capture": "off"}
    step = {"images": 256, "network": "wrn-28-2", **how}
    part, mode = {"capture": "compile" if gpu else "off"}, {"kernels": 5} if gpu else {"operators": 40}
    grown = {"method": "semi", "images": 64, "network": "wrn-10-0.5", "median_s": 0.004, "bank_s": 0.0001}
    curves = ("classes", "slots", "unlabelled images, resident", "unlabelled images, memory-mapped")
    return {
        "machine": {**FACTS, "device": device}, "settings": {"profile": profile, "growth_profile": "quickstart"},
        "imports": rows({"what": "import torch", "s": 1.5}, {"what": "import semilib, beyond torch", "s": at["import"]}),
        "limits": rows({"what": "copy", "GB_s": 17.0, "note": "128 MiB"}, {"what": "matrix product, fp32", "TFLOP_s": 0.1, "note": "n x n"},
                       {"what": "SeMi's step on paper, fp32", "TFLOP": 0.1, "GB": 3.0, "at_matrix_rate_s": 1.0, "at_copy_rate_s": 0.2}),
        "steps": rows({"method": "bare", "median_s": at["bare"], **step}, {"method": "semi", "median_s": at["semi"], **step}),
        "parts": rows(*({"part": name, "median_s": s, **part, **mode} for name, s in (
            ("views", 0.001), ("network, losses, backward", 0.008), ("optimiser", 0.0001), ("average, state, measurements", 0.0005),
            (speed_report.BANK, at["bank"]), (speed_report.WHOLE, at["whole"])))),
        "whole": rows({"what": "a step", "s": 0.01}, {"what": "peak memory", "MiB": 900.0},
                      {"what": "250,000 steps and 500 evaluations, worked out from these", "s": at["run"]}),
        "growth": rows(*({"curve": c, "value": v, **grown} for c in curves for v in (10_000, 100_000)),
                       {**grown, "curve": "views", "value": 1, "method": "supervised"}, {**grown, "curve": "views", "value": 4}),
        "sharing": rows(*({"how": name, "runs": n, "median_s": n / rate, "steps_a_second": rate}
                          for name, best in (("runs in one process", at["runs"]), ("bare networks stacked into one", at["stacked"]))
                          for n, rate in ((1, 100.0), (8, best))))}


def harness(gpu: str = "", **ours: float) -> dict:
    """The JSON of a run of peers. ours: config -> seconds a step, beside what every run has; precision by the config's name."""
    times = {"bare_eager_fp32": 0.05, "semi_full_wship": 0.130, "semi_full_w8": 0.105, "semi_warm_wship": 0.09, "usb_fixmatch_wship": 0.100,
             "usb_fixmatch_w2": 0.060, "usb_fixmatch_mu2_wship": 0.2, "usb_daso_wship": 0.110, "usb_daso_pretrain_wship": 0.08,
             **{"ours_semi": 0.010, "ours_semi_fp32": 0.014, "ours_fixmatch": 0.008, "ours_daso": 0.009, **ours}}
    table = []
    for config, s in times.items():
        line = {"config": config, "wall_s_median": s, "wall_s_min": 0.9 * s, "wall_s_mean": 1.1 * s, "steps": 3, "images_forward": 256,
                "images_backward": 256, "torch": "2.14", "python": "3.11", "threads": 2, "startup_s": 5.0, "flags": "--out /tmp/peer_x/out"}
        if config.startswith("ours"):
            line |= {"precision": "bf16" if "bf16" in config or (gpu and "fp32" not in config) else "fp32",
                     "capture": "compile+graph" if gpu else "off"}
        elif not config.startswith("bare"):
            line |= {"workers": "4 + 4"}
        else:
            line |= {"gpu": gpu} if gpu else {}
        table.append(line)
    table.append({"config": "bare_graph_fp32_cl", "error": "RuntimeError: no /usr/lib/some/lib.so here"})
    return {"began": "2026-12-02 10:00:00", "device": "cuda" if gpu else "cpu", "steps": 3, "warmup": 1, "rounds": 1, "cpus": 2,
            "argv": ["--src", "/tmp/bundle"], "src": "/tmp/bundle", "cpu_model": FACTS["cpu"], "seconds": 9.0, "table": table,
            "aug": [{"config": "aug_semi", "labelled_views": 1, "labelled_cpu_ms_per_view_min": 0.2, "where": "/tmp/x/y"}],
            "raw": {config: {"wall_s": [s, 1.1 * s, 0.9 * s]} for config, s in times.items()},
            "runs": [{"name": "semi_full_wship", "cmd": "/tmp/v/bin/python /tmp/bundle/run.py", "log_tail": "Traceback in /home/x/y.py"},
                     {"name": "semi_full_w16", "cmd": "x", "skipped": "budget of 470 s"}]}


def published(tmp_path, name: str, **given) -> dict:
    (tmp_path / "harness.json").write_text(json.dumps(harness(**given)))
    return speed_report.publish_peers(tmp_path / "harness.json", tmp_path / "speed" / f"{name}.peers.json")


def answers(records: Records) -> list[tuple[str, str, str]]:
    return [(row["met"], row["measured"], row["on"]) for row in speed_report.goals(records).rows]


@pytest.fixture
def records(tmp_path) -> Records:
    """An H200 and a CPU, each with a record of ours and a run of peers."""
    published(tmp_path, "h200", gpu="NVIDIA H200")
    published(tmp_path, "cpu", ours_semi=0.080, ours_semi_fp32=0.082, ours_semi_bf16=0.030)
    for name, record in {"h200": own("NVIDIA H200"), "cpu": own()}.items():
        (tmp_path / "speed" / f"{name}.json").write_text(json.dumps(record))
    return speed_report.load(tmp_path / "speed")


def test_without_a_record_every_goal_is_open_and_says_why(tmp_path):
    nothing = speed_report.load(tmp_path / "speed")
    assert not nothing and {met for met, _, _ in answers(nothing)} == {"open"}
    assert {measured for _, measured, _ in answers(nothing)} == {speed_report.NO_GPU, speed_report.NOTHING, speed_report.NO_UNITS}
    cpu_alone = answers(Records({"cpu": own()}))
    assert [met for met, _, _ in cpu_alone] == ["open"] * 12 + ["yes"]
    assert speed_report.text(nothing, "steps") == "No record has steps yet." and "No record" in speed_report.evidence(nothing)


def test_goals_met_and_not_met(records):
    found = answers(records)
    assert [met for met, _, _ in found] == ["yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "yes"]
    assert found[0][1:] == ("13.0x (130.0 against 10.0 ms)", "NVIDIA H200, 2026-12-02") and found[1][1] == "10.5x (105.0 against 10.0 ms)"
    assert found[2][1].startswith("12.5x") and found[3][1].startswith("7.50x") and found[6][1] == "1.11 (10.0 against 9.00 ms)"
    assert found[7][1] == "16.7 min, worked out" and "1.05x with 8; bare networks stacked into one: 1.50x with 8" in found[8][1]
    assert found[9][1:] == ("1.28x eager", "Some Model, 2 cores, 2026-12-02") and found[10][1] == "3.50x eager"
    assert found[11][1].startswith("4.0 %")
    slow = own("NVIDIA H200", semi=0.012, bank=0.0006, run=1500.0, stacked=101.0, **{"import": 0.4})
    found = answers(Records({"h200": slow}, {"h200": copy.deepcopy(records.peers["h200"])}))
    assert [met for met, _, _ in found] == ["yes"] * 6 + ["no", "no", "no", "open", "open", "no", "no"]
    for row in records.peers["h200"]["rows"]:
        if row["of"] == "ours":
            row["median_s"] *= 3
    assert [met for met, _, _ in answers(records)][:6] == ["no"] * 6


def test_which_record_answers_a_goal(records):
    small = Records({"h200": own("NVIDIA H200", profile="smoke")})
    assert [met for met, _, _ in answers(small)][6:9] == ["open"] * 3                      # a small profile's step answers nothing
    later = own("NVIDIA OTHER", bare=0.005)
    later["machine"]["date"] = "2027-01-01"
    both = Records({"a": records.own["h200"], "b": later})
    assert answers(both)[6] == ("yes", "1.11 (10.0 against 9.00 ms)", "NVIDIA H200, 2026-12-01")
    assert answers(Records({"b": later}))[6][0] == "no"
    unknown = copy.deepcopy(records.own["cpu"])
    unknown["machine"]["cpu_units"] = ["avx2"]
    assert answers(Records({"cpu": unknown}, records.peers))[10] == ("open", speed_report.NO_UNITS, "")


def test_ratios_as_shipped_and_with_the_best_number_of_workers(records):
    made = {(r["config"], r["against"]): r for r in speed_report.pairs(records.peers["h200"])}
    assert made["ours_semi", "shipped"]["ratio"] == pytest.approx(13) and made["ours_semi", "best"]["ratio"] == pytest.approx(10.5)
    assert made["ours_semi_fp32", "best"]["ratio"] == pytest.approx(7.5) and made["ours_semi_fp32", "best"]["ours"].startswith("fp32, ")
    assert made["ours_fixmatch", "best"]["peer_s"] == 0.06                                # not the one with mu = 2
    assert made["ours_daso", "best"]["ratio"] == made["ours_daso", "shipped"]["ratio"]    # not the one of its first steps alone
    assert [made["ours_semi", "best"][f"ratio_{of}"] for of in ("mean", "least")] == pytest.approx([10.5, 10.5])
    frame, text = speed_report.ratios(records.peers["h200"])
    assert list(frame["ratio"][:2]) == pytest.approx([13, 10.5]) and "NVIDIA H200, 2026-12-02" in text and "10.5x" in text


def test_what_is_published_of_a_run_of_peers_names_no_machine(tmp_path):
    made = published(tmp_path, "h200", gpu="NVIDIA H200")
    text = (tmp_path / "speed" / "h200.peers.json").read_text()
    assert json.loads(text) == made
    assert not re.search(r"/tmp|/home|/usr|bin/python|Traceback|log_tail|cmd|argv|peer_x", text)
    assert made["machine"] == {"device": "NVIDIA H200", "cpu": FACTS["cpu"], "cores": 2, "torch": "2.14", "python": "3.11", "threads": 2,
                               "date": "2026-12-02"}
    rows = {row["config"]: row for row in made["rows"]}
    assert rows["bare_graph_fp32_cl"]["error"] == "RuntimeError: no ... here" and "skipped" in rows["semi_full_w16"]["error"]
    semi = rows["semi_full_wship"]
    assert (semi["of"], semi["shipped"], semi["variant"], semi["workers"], len(semi["step_s"])) == ("authors", True, "", "4 + 4", 3)
    assert rows["semi_warm_wship"]["variant"] and rows["usb_fixmatch_mu2_wship"]["variant"].startswith("2 unlabelled")
    assert "32e3a71" in made["implementations"]["authors"]["what"] and "1ef4cbe" in made["implementations"]["usb"]["what"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(BadInput, match="harness_json='other.json'"):
        speed_report.publish_peers(tmp_path / "other.json", tmp_path / "x.peers.json")


def test_a_file_that_is_no_record_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BadInput, match="record='x.json'"):
        speed_report.load(tmp_path)


def test_tables_name_machine_and_date_and_hold_every_section(records):
    for record in records.own.values():
        made = speed_report.tables(record)
        assert len(made) == 6 and all(speed_report.where(record) in sheet.title for sheet in made)
        assert all(len({len(row) for row in sheet.cells()}) == 1 and sheet.frame.shape[0] == len(sheet.rows) for sheet in made)
    text = speed_report.text(records)
    assert "memory bank" in text and "No time: semi_full_w16" in text and "250,000 steps" in text and "1.50x" in text
    assert speed_report.growth_table(records.own["cpu"]).frame["share"].dropna().iloc[0] == pytest.approx(0.025)
    assert speed_report.steps_table(records.own["cpu"]).frame["over"].tolist() == pytest.approx([1, 10 / 9])
    assert list((records - Records(records.own)).peers) == ["cpu", "h200"] and not records - records
    assert speed_report.slug(records.own["cpu"]["machine"]) == "cpu-some-model-2-cores"
    assert speed_report.slug(records.own["h200"]["machine"]) == "nvidia-h200"


@pytest.mark.parametrize("draw, rows", [("implementations", 20), ("parts", 12), ("growth", 20)])
def test_figures_draw_every_machine_and_say_if_there_is_none(records, tmp_path, draw, rows):
    figure, frame = getattr(speed_figures, draw)(records)
    assert len(frame) == rows and frame["machine"].nunique() == 2
    picture, sidecar = save(figure, frame, tmp_path / draw)
    assert picture.stat().st_size > 10_000 and sidecar.read_text().startswith("record,machine,")
    shown = " ".join(t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    assert "NVIDIA H200, 2026-12-0" in shown and "Some Model, 2 cores" in shown
    if draw == "growth":
        assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)
    figure, frame = getattr(speed_figures, draw)(Records())
    assert len(frame) == 0 and "No record has" in figure.texts[0].get_text()


def test_a_notebook_measures_what_no_committed_record_has(tmp_path, monkeypatch):
    from semilib.speed import measure as speed
    asked = []
    monkeypatch.setattr(speed, "measure", lambda settings, path, show: asked.append(path) or own())
    facts = {k: v for k, v in FACTS.items() if k != "date"}
    monkeypatch.setattr(speed, "machine", lambda settings: {"machine": {**facts, "device": "cpu", "date": "2027-01-01"}})
    settings = speed_report.settings_of("cpu", "smoke", ["steps"], 3, 1000, True, most_runs=2)
    assert (settings.sections, settings.captures, settings.most_runs) == ("steps", "off+compile", 2)
    where = {"runs": tmp_path / "runs", "results": tmp_path / "results", "show": lambda text: None}
    assert list(speed_report.ensure(settings, **where).own) == ["this machine"]
    other = speed_report.settings_of("cpu", "smoke", [], 4, 1000, False)
    speed_report.ensure(other, **where)
    assert len({path.name for path in asked}) == 2 and all(path.name.startswith("cpu-some-model-2-cores-") for path in asked)
    assert list(speed_report.ensure(settings, "mine", **where).own) == ["mine"] and asked[-1] == tmp_path / "results" / "mine.json"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "desk.json").write_text(json.dumps(own()))
    assert list(speed_report.ensure(settings, **where).own) == ["desk"] and len(asked) == 3
    with pytest.raises(BadInput, match="settings='most_run': unknown; did you mean 'most_runs'"):
        speed_report.settings_of("cpu", "smoke", [], 3, 1000, False, most_run=2)


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


def test_the_verb_measures_with_nothing_but_torch_numpy_torchvision_and_pillow(tmp_path):
    absent = ["pandas", "matplotlib", "seaborn", "IPython", "papermill", "sklearn", "mlxtend", "scipy", "yaml"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from semilib.cli import main
main(["speed", "device=cpu", "profile=smoke", "methods=semi", "sections=steps", "steps=2", "--out", {str(tmp_path / "x.json")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "A step of each method, wrn-10-0.25" in done.stdout and "record: " in done.stdout
    assert [row["method"] for row in speed_report.rows_of(speed_report.load(tmp_path).own["x"], "steps")] == ["bare", "semi"]


def test_the_notebook_has_parameters_that_are_checked(tmp_path):
    path = ROOT / "notebooks" / "90_speed.ipynb"
    known = notebooks.parameters(path)
    assert {"device", "profile", "sections", "steps", "largest", "compiled", "record", "peers", "measure", "runs"} <= known.keys()
    assert known["record"] == known["peers"] == "" and not known["compiled"]
    notebooks.check_given(path, notebooks.SMOKE[path.name])
    with pytest.raises(BadInput, match="parameter='step': unknown; did you mean 'steps'"):
        notebooks.check_given(path, {"step": 3})
    assert path.stem in cli.NOT_RENDERED
    (copied,) = [p for p in notebooks.report_copies(tmp_path, path.parent) if p.name == path.name]
    assert "measure = False" in copied.read_text() and "train = False" not in copied.read_text()


def test_readme_shows_the_committed_records():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    committed = speed_report.load(ROOT / speed_report.FOLDER)
    assert speed_report.readme(page, committed) == page, "python -m semilib.speed.report readme"


def test_readme_is_written_between_its_marks(records):
    page = f"# A\n{speed_report.BEGIN}\nold\n{speed_report.END}\nrest\n"
    made = speed_report.readme(page, records)
    assert "old" not in made and made.startswith("# A\n") and made.endswith(f"{speed_report.END}\nrest\n") and "13.0x" in made
    assert speed_report.readme(made, records) == made and "`results/speed/h200.peers.json`" in made
    with pytest.raises(BadInput, match="one block between"):
        speed_report.readme("# A\n", records)


def test_the_faster_ways_learn_what_the_plain_one_does():
    """The committed runs: three seeds each; the means of compiled and of bf16 runs lie within the seeds of fp32, eager."""
    sheet = speed_report.learning(ROOT / speed_report.LEARNING)
    assert [row["how"] for row in sheet.rows] == ["fp32, eager", "bf16, eager", "fp32, compiled"]
    for row in sheet.rows:
        assert len(row["seeds"].split()) == 3 and row["within"] == "yes" and row["mean"] > 0.5, row
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"{100 * row['mean']:.1f} %" in readme for row in sheet.rows[1:])
