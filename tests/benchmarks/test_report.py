"""The comparison with other implementations: ratios, goals met, missed and open, and what their pages show of
them."""
from __future__ import annotations

import copy
import json
import re
import statistics
from typing import NamedTuple

import pytest
import speed_toy
from kit import ROOT

from benchmarks import goals, peers, report
from semilib.errors import BadInput
from semilib.report import paint
from semilib.report import records as kept
from semilib.speed import records
from semilib.study.differences import difference

pytestmark = pytest.mark.filterwarnings("ignore")


class Records(NamedTuple):
    own: dict
    beside: dict


def answers(own: dict, beside: dict | None = None) -> list[tuple[str, str, str]]:
    return [(row["met"], row["measured"], row["on"]) for row in goals.goals(own, beside or {}).frame]


def met(own: dict, beside: dict | None = None) -> list[str]:
    return [answer[0] for answer in answers(own, beside)]


@pytest.fixture
def both(tmp_path) -> Records:
    """An H200 and a CPU, each with a record of ours and a run of peers."""
    speed_toy.published(tmp_path, "h200", gpu="NVIDIA H200")
    speed_toy.published(tmp_path, "cpu", ours_semi=0.080, ours_semi_fp32=0.082, ours_semi_bf16=0.030)
    for name, record in {"h200": speed_toy.record("NVIDIA H200"), "cpu": speed_toy.record()}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return Records(records.load(tmp_path), peers.load(tmp_path))


def committed() -> Records:
    return Records(records.load(ROOT / records.FOLDER), peers.load(ROOT / records.FOLDER))


# ---- ratios ----------------------------------------------------------------------------------------------------------


def test_ratios_as_shipped_and_with_the_best_number_of_workers(both):
    made = {(r["config"], r["against"]): r for r in peers.pairs(both.beside["h200"])}
    assert made["ours_semi", "shipped"]["ratio"] == pytest.approx(13)
    assert made["ours_semi", "best"]["ratio"] == pytest.approx(10.5)
    assert made["ours_semi_fp32", "best"]["ratio"] == pytest.approx(7.5)
    assert made["ours_semi_fp32", "best"]["ours"].startswith("fp32, ")
    assert made["ours_fixmatch", "best"]["peer_s"] == 0.06                                # not the one with mu = 2
    assert made["ours_daso", "best"]["ratio"] == made["ours_daso", "shipped"]["ratio"]  # not the one of its first steps
    assert [made["ours_semi", "best"][f"ratio_{of}"] for of in ("mean", "least")] == pytest.approx([10.5, 10.5])
    table = peers.ratios(both.beside["h200"])
    assert [row["ratio"] for row in table.frame[:2]] == pytest.approx([13, 10.5])
    assert "NVIDIA H200, 2026-12-02" in table.text and "10.5x" in table.text


def test_tables_name_what_has_no_time_and_what_was_repaired(both):
    ratios, steps = peers.tables(both.beside["cpu"])
    assert "No time: semi_full_w16: skipped" in steps.text
    assert "Repaired: two folders became regular packages" in steps.markdown
    assert len(steps.frame) == 14 and {row["over"] for row in steps.frame if row["config"] == "bare_eager_fp32"} == {1}


def test_a_record_of_peers_has_rows(tmp_path):
    (tmp_path / "x.peers.json").write_text(json.dumps({"machine": {}, "settings": {}}))
    with pytest.raises(BadInput, match="record='x.peers.json'"):
        peers.load(tmp_path)


def test_the_figure_shows_every_implementation_once(both):
    own = {**both.own, "desk": speed_toy.record()}
    figure, frame = peers.implementations(own, both.beside)
    assert frame.groupby("record").size().to_dict() == {"cpu": 10, "h200": 10, "desk": 2}
    labels = frame.set_index("record")["label"]
    assert list(labels["h200"][:4]) == ["SeMi: semilib, bf16, compiled, one CUDA graph",
                                        "SeMi: semilib, fp32, compiled, one CUDA graph",
                                        "SeMi: authors' script, fp32, 4 + 4 workers (shipped)",
                                        "SeMi: authors' script, fp32, 4 + 4 workers"]
    assert not labels.str.contains("unlabelled").any()                # what differs in its work is not compared
    assert paint.png(figure) == paint.png(peers.implementations(own, both.beside)[0])
    figure, frame = peers.implementations({}, {})
    assert len(frame) == 0 and "No record has" in figure.get_suptitle()


# ---- goals -----------------------------------------------------------------------------------------------------------


def test_without_a_record_every_goal_is_open_and_says_why():
    assert set(met({})) == {"open"}
    assert {measured for _, measured, _ in answers({})} == {goals.NO_GPU, goals.NOTHING, goals.NO_UNITS}
    assert met({"cpu": speed_toy.record()}) == ["open"] * 15 + ["yes"]


def test_goals_met_and_not_met(both):
    made = answers(*both)
    assert [answer[0] for answer in made] == ["yes"] * 11 + ["open"] * 3 + ["yes"] * 2, \
        "no FixMatch in bf16 on that CPU, and it has AMX"
    assert made[0][1:] == ("13.0x (130.0 against 10.0 ms)", "NVIDIA H200, 2026-12-02")
    assert made[1][1] == "10.5x (105.0 against 10.0 ms)"
    assert made[2][1].startswith("12.5x") and made[3][1].startswith("7.50x")
    assert made[6][1] == "1.11 (10.0 against 9.00 ms)" and made[7][1] == "16.7 min, worked out"
    assert "1.05x with 8; bare networks stacked into one: 1.50x with 8" in made[8][1]
    assert made[9][1:] == ("1.28x eager", "Some Model, 2 cores, 2026-12-02") and made[10][1] == "3.50x eager"
    assert made[14][1].startswith("4.0 %")
    slow = speed_toy.record("NVIDIA H200", semi=0.012, bank=0.0006, run=1500.0, stacked=101.0, **{"import": 0.4})
    beside = {"h200": copy.deepcopy(both.beside["h200"])}
    assert met({"h200": slow}, beside) == ["yes"] * 6 + ["no"] * 3 + ["open"] * 5 + ["no"] * 2
    for row in beside["h200"]["rows"]:
        if row["of"] == "ours":
            row["median_s"] *= 3
    assert met({}, beside)[:6] == ["no"] * 6


def test_which_record_answers_a_goal(both):
    small = {"h200": speed_toy.record("NVIDIA H200", profile="smoke")}
    assert met(small)[6:9] == ["open"] * 3                                      # a small profile's step answers nothing
    later = speed_toy.record("NVIDIA OTHER", bare=0.005)
    later["machine"]["date"] = "2027-01-01"
    assert answers({"a": both.own["h200"], "b": later})[6] == \
        ("yes", "1.11 (10.0 against 9.00 ms)", "NVIDIA H200, 2026-12-01")
    assert answers({"b": later})[6][0] == "no"
    latest = {**copy.deepcopy(both.own["h200"]), "steps": later["steps"]}
    latest["machine"]["date"] = "2027-01-02"
    assert answers({"a": both.own["h200"], "b": latest})[6][2] == "NVIDIA H200, 2027-01-02"
    without = copy.deepcopy(both.beside["cpu"])
    without["machine"]["cpu_units"] = ["avx2"]
    assert answers({}, {"cpu": without})[10:14] == [("open", goals.NO_UNITS, "")] * 4
    assert met({}, both.beside)[10:14] == ["yes", "open", "open", "open"]                       # AMX answers for itself
    without["machine"]["cpu_units"] = ["avx512_bf16"]
    assert met({}, {"cpu": without})[10:14] == ["open", "open", "yes", "open"]


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_page_of_goals_shows_the_committed_records():
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert goals.written(page, *committed()) == page, "python -m benchmarks.report"


def test_the_page_and_its_figure_show_the_committed_records(tmp_path):
    have, page, anew = committed(), ROOT / report.PAGE, "python -m benchmarks.report"
    assert page.read_text(encoding="utf-8") == report.page(*have, report.learning(ROOT / report.LEARNING)), anew
    _, numbers = paint.save(*peers.implementations(*have), tmp_path / "implementations")
    assert numbers.read_text() == page.with_name("implementations.csv").read_text(), anew


def test_the_goals_are_written_between_its_marks(both):
    page = f"# A\n{goals.BEGIN}\nold\n{goals.END}\nrest\n"
    made = goals.written(page, *both)
    assert "old" not in made and made.startswith("# A\n") and made.endswith(f"{goals.END}\nrest\n") and "13.0x" in made
    assert goals.written(made, *both) == made and "`results/speed/h200.peers.json`" in made
    with pytest.raises(BadInput, match="one block between"):
        goals.written("# A\n", *both)


def test_the_evidence_names_machine_versions_and_commit(both):
    assert report.evidence(*both).splitlines()[0] == \
        "- cpu: Some Model, 2 cores, 2026-12-01; PyTorch 2.14, Python 3.11; CPU units avx2, amx_bf16; code aaaaaaaa"
    assert report.evidence({}, {}) == "No record yet."


def test_the_faster_ways_learn_what_the_plain_one_does():
    """The committed runs: three seeds each; the means of compiled and of bf16 runs lie within the seeds of fp32,
    eager."""
    rows = report.learning(ROOT / report.LEARNING).frame
    assert [row["how"] for row in rows] == ["fp32, eager", "bf16, eager", "fp32, compiled"]
    for row in rows:
        assert len(row["seeds"].split()) == 3 and row["within"] == "yes" and row["mean"] > 0.5, row


def test_the_page_s_table_of_fast_and_plain_ways_is_of_the_committed_runs():
    """Also the paired difference of the ten seeds that one machine made both ways."""
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    finals = {}
    for place in kept.folders_below(ROOT / "results"):
        name = place.relative_to(ROOT / "results").parts[0]
        if name.startswith("precision-"):
            run = kept.read(place)
            way = name, run.config["precision"], run.config["capture"]
            finals.setdefault(way, {})[run.seed] = 100 * kept.result_of(run)["last"]
    assert len(finals) == 6
    for of_way in finals.values():
        values = list(of_way.values())
        low, high = min(values), max(values)
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        assert f"| {len(values)} | {mean:.1f} ± {spread:.1f} | {low:.1f} to {high:.1f} |" in page
    bf16, fp32 = (finals["precision-avx512-600-steps.jsonl.gz", precision, "auto"] for precision in ("bf16", "fp32"))
    found = difference(*({seed: value / 100 for seed, value in scores.items()} for scores in (bf16, fp32)))
    assert (found["pairs"], f"{found['gain']:+.1f} points") == (10, "+0.1 points")
    assert f"{found['gain']:+.1f} points (95 % interval {found['low']:+.1f} to {found['high']:+.1f})" in page


def test_the_package_needs_nothing_of_the_benchmarks():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "semilib").rglob("*.py"))
    assert not re.search(r"^\s*(?:from|import) benchmarks\b", code, re.MULTILINE)
