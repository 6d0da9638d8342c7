"""The measurement of runs on features: turns, and the table of goals from a record."""
from kit import ROOT

import benchmarks.features as features
from benchmarks import goals


def test_ways_are_timed_in_turn_and_the_first_round_does_not_count(monkeypatch):
    clock = iter([0, 9, 0, 9, 0, 1, 0, 2, 0, 3, 0, 6])           # two warm-ups of 9, then 1 and 2, then 3 and 6
    monkeypatch.setattr(features.time, "perf_counter", lambda: next(clock))
    order = []
    found = features.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and found == {"a": 2, "b": 4}


def test_the_table_shows_ratios_of_what_was_measured_side_by_side_and_nothing_for_the_rest():
    record = {"machine": {"device": "cpu", "cpu": "Some Model", "cores": 2, "threads": 1, "date": "2026-12-01"},
              "given": {"long": 10_000}, "making": {"ours_views_a_second": 300, "eager_views_a_second": 75},
              "steps": {"semi": 0.01, "fixmatch": 0.004, "semi_eager_in_loop": 4.0, "semi_onnx_in_loop": 0.8},
              "products": {"seconds": 0.0025}, "operators": {"semi": 400, "fixmatch": 143},
              "classes": {"semi": 0.01, "semi_100_classes": 0.012}}
    shown = {row["what"]: row["shown"] for row in features.table(record).frame}
    assert list(shown.values())[:7] == ["4.0 x", "400 x", "80 x", "10.0 ms", "4.0 ms", "2.5 ms", "400"]
    assert list(shown.values())[7:] == ["143", "1.20 x", "", "", ""]
    assert "Some Model, 2 cores (1 thread)" in features.table(record).title
    met = {row["what"]: row["met"] for row in features.table(record).frame}
    assert list(met.values()) == ["yes", "yes", "yes", "no", "yes", "", "", "", "yes", "open", "open", "open"]


def test_a_store_made_in_bf16_is_shown_with_the_distance_of_its_features():
    bf16 = {"ours_views_a_second": 500, "eager_views_a_second": 50, "relative_error": 0.0586}
    record = {"machine": {"device": "cpu", "cpu": "Some Model", "cores": 2, "threads": 1, "date": "2026-12-01"},
              "given": {"long": 10_000}, "making_in_bf16": bf16}
    shown = [(row["goal"], row["shown"], row["met"]) for row in features.table(record).frame[1:3]]
    assert shown == [("at least 5.0 x", "10.0 x", "yes"), ("", "5.86%", "")]


def test_the_page_of_speed_shows_the_committed_records():
    page = (ROOT / features.PAGE).read_text(encoding="utf-8")
    anew = goals.between(page, features.BEGIN, features.END, features.block(features.committed()))
    assert anew == page, "python -m benchmarks.features"
