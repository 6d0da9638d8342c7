"""A table of many runs in one file: what a row holds, the same bytes in any order, and what is refused."""
import gzip

import pytest
from kit import steady, write_record

from semilib.errors import BadInput
from semilib.report import compact
from semilib.report.records import load, result_of


@pytest.fixture
def folders(tmp_path):
    return [write_record(tmp_path / "runs", steady(90, 50, 10), method, seed) for method in ("fixmatch", "semi")
            for seed in (0, 1)]


def test_a_row_has_the_reported_number_its_groups_and_the_curve(folders):
    record, = load(folders[:1])
    row, result = compact.row(record), result_of(record)
    assert row["result"]["mean_last"] == pytest.approx(result["mean_last"])
    assert row["means"]["tail"] == result["tail"] and row["means"]["recall"] == pytest.approx([.9, .5, .1])
    assert row["curve"] == [[e["step"], pytest.approx(e["balanced_accuracy"], abs=1e-5)] for e in record.log]
    assert row["id"] == record.id and row["config"] == record.config and row["commit"] == record.run["commit"]


def test_the_same_runs_make_the_same_bytes_in_whatever_order(folders, tmp_path):
    one = compact.add(tmp_path / "a.jsonl.gz", load(folders))
    other = compact.add(tmp_path / "b.jsonl.gz", load(folders[2:]))
    compact.add(other, load(folders[:3]))
    assert one.read_bytes() == other.read_bytes() and len(compact.read(one)) == 4


def test_unfinished_runs_damaged_tables_and_other_names_are_refused(folders, tmp_path):
    unfinished = write_record(tmp_path / "runs", steady(50, 50, 50), "acr", 0, status="interrupted")
    with pytest.raises(BadInput, match="a finished run; this one is interrupted"):
        compact.add(tmp_path / "a.jsonl.gz", load([unfinished]))
    with pytest.raises(BadInput, match="ends in .jsonl.gz"):
        compact.add(tmp_path / "a.csv", load(folders))
    table = compact.add(tmp_path / "a.jsonl.gz", load(folders))
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(BadInput, match="a table of runs, whole"):
        compact.read(table)
    table.write_bytes(gzip.compress(b"{"))
    with pytest.raises(BadInput, match="a table of runs, whole"):
        compact.read(table)
