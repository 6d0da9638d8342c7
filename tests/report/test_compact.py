"""A table of many runs in one file: what a line holds, that it reads as the record it was, and what is refused."""
import gzip

import pytest
from kit import steady, write_record

from semilib.errors import BadInput
from semilib.report import compact, frames, records


@pytest.fixture
def folders(tmp_path):
    return [write_record(tmp_path / "runs", steady(90, 50, 10), method, seed) for method in ("fixmatch", "semi")
            for seed in (0, 1)]


def rows(folders, whole=False):
    return [records.row(record, whole) for record in records.load(folders)]


def test_a_line_reads_as_the_record_that_it_was(folders, tmp_path):
    table = compact.add(tmp_path / "a.jsonl.gz", rows(folders))
    places = records.folders_below(tmp_path)[-4:]
    assert all(records.in_table(place) for place in places) and not records.in_table(folders[0])
    for before, after in zip(sorted(records.load(folders), key=lambda r: r.id),
                             sorted(records.load(places), key=lambda r: r.id), strict=True):
        assert after.run == before.run and after.recalls == pytest.approx(before.recalls, abs=1e-5)
        assert records.result_of(after) == records.result_of(before)
        assert [e["step"] for e in after.averaged] == [e["step"] for e in before.averaged]
    assert places[0] == table / records.read(places[0]).id
    with pytest.raises(BadInput, match="the id of a run in a.jsonl.gz"):
        records.read(table / "nobody")


def test_a_whole_log_serves_every_figure_and_a_line_without_one_those_of_accuracy(folders, tmp_path):
    compact.add(tmp_path / "a.jsonl.gz", [*rows(folders[:1], whole=True), *rows(folders[1:])])
    kept = records.load(records.folders_below(tmp_path / "a.jsonl.gz")
                        or [tmp_path / "a.jsonl.gz" / name for name in compact.read(tmp_path / "a.jsonl.gz")])
    assert records.row(kept[0], whole=True)["log"] == records.read(folders[0]).log
    groups = frames.finished(kept)
    assert frames.recall(groups).equals(frames.recall(frames.finished(records.load(folders))))
    assert frames.accuracy(groups)["mean"].tolist() == pytest.approx(
        frames.accuracy(frames.finished(records.load(folders)))["mean"].tolist(), abs=1e-3)
    assert [len(group) for group in frames.finished(kept, "confusion").values()] == [1]


def test_the_same_runs_make_the_same_bytes_in_whatever_order(folders, tmp_path):
    one = compact.add(tmp_path / "a.jsonl.gz", rows(folders))
    other = compact.add(tmp_path / "b.jsonl.gz", rows(folders[2:]))
    compact.add(other, rows(folders[:3]))
    assert one.read_bytes() == other.read_bytes() and len(compact.read(one)) == 4


def test_unfinished_runs_damaged_tables_and_other_names_are_refused(folders, tmp_path):
    unfinished = write_record(tmp_path / "runs", steady(50, 50, 50), "acr", 0, status="interrupted")
    with pytest.raises(BadInput, match="a finished run; this one is interrupted"):
        rows([unfinished])
    with pytest.raises(BadInput, match="ends in .jsonl.gz"):
        compact.add(tmp_path / "a.csv", rows(folders))
    with pytest.raises(BadInput, match="a table of runs"):
        compact.read(tmp_path / "none.jsonl.gz")
    table = compact.add(tmp_path / "a.jsonl.gz", rows(folders))
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(BadInput, match="a table of runs, whole"):
        compact.read(table)
    for content in (b"{", b"[1]", b"{}"):
        table.write_bytes(gzip.compress(content))
        with pytest.raises(BadInput, match="a table of runs, whole"):
            compact.read(table)
