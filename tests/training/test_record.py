"""Records: states, logs cut short, publishing, and what a record must not hold."""
import contextlib
import copy
import itertools
import json
import shutil

import pytest
from kit import smoke_run

from semilib import cli, collect
from semilib.errors import BadInput
from semilib.report import frames, records
from semilib.training import fingerprint, record
from semilib.training.train import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory, source):
    runs = tmp_path_factory.mktemp("runs")
    return runs, train(smoke_run("supervised"), runs, source=source)


def test_a_record_is_dirty_when_executed_code_differs_from_the_commit(tmp_path, monkeypatch):
    import subprocess
    shutil.copytree(fingerprint.PACKAGE, tmp_path / "semilib", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(fingerprint, "PACKAGE", tmp_path / "semilib")
    assert record.provenance(smoke_run("fixmatch"))["dirty"] is False
    assert len(record.provenance(smoke_run("fixmatch"))["commit"]) == 40
    for file, dirty in (("report/tables.py", False), ("methods/semi.py", False), ("methods/losses.py", True)):
        with open(tmp_path / "semilib" / file, "a") as f:
            f.write("x = 1\n")
        assert record.provenance(smoke_run("fixmatch"))["dirty"] is dirty, file


def test_states(finished, monkeypatch, tmp_path):
    runs, path = finished
    run = smoke_run("supervised")
    assert record.state(run, runs) == "done" and record.state(run, tmp_path) == "not started"
    monkeypatch.setattr(fingerprint, "code_of", lambda config: "00000000")
    assert record.state(run, runs) == "stale"
    monkeypatch.undo()
    found = record.read(path)
    copy = record.folder(run, tmp_path)
    record.write(copy, {**found, "status": "running"})
    assert record.state(run, tmp_path) == "interrupted"
    record.write(copy, {**found, "status": "failed"})
    assert record.state(run, tmp_path) == "failed"


def test_a_line_cut_short_is_left_out_and_written_over(tmp_path):
    log = record.Log(tmp_path, "key-code", [{"step": 1}])
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 2, "accu')
    assert record.read_log(tmp_path) == [{"step": 1}]
    log.append({"step": 2})
    assert record.read_log(tmp_path) == log.evaluations == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", '{"status": "done"}', "[" * 10**5, "\ud800", '{"name": 1, "config": {}}'])
def test_a_damaged_run_json_is_the_state_of_one_run_and_stops_no_list(content, finished, tmp_path, capsys):
    _, path = finished
    run = smoke_run("supervised")
    other = record.folder(run, tmp_path)
    other.mkdir(parents=True)
    (other / "run.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    assert record.state_of(other) == record.state(run, tmp_path) == "damaged" and record.read(other) is None
    shutil.copytree(path, tmp_path / "whole")
    cli.main(["status", "--runs", str(tmp_path)])
    said = capsys.readouterr().out
    assert "damaged" in said and "done" in said and said.count("\n") == 3


@pytest.mark.parametrize("change", [
    {"result": None}, {"result": {}}, {"seconds": "1"}, {"config": {"method": 3}},
    {"config": {"method": "semi", "dataset": "mnistm5k", "options": []}}])
def test_a_done_record_without_what_its_readers_need_is_damaged(change, finished, tmp_path):
    _, path = finished
    record.write(tmp_path, {**record.read(path), **change})
    assert record.state_of(tmp_path) == "damaged"


WRONG = (None, 1, "x", [], {}, -1, "../../x", 1e300, [1] * 3)


def test_no_value_of_another_type_gets_past_the_readers_of_a_record(finished, tmp_path):
    """Each value of a run.json in turn: its record is damaged, or a table shows it."""
    _, path = finished
    whole, damaged = record.read(path), 0
    folder = shutil.copytree(path, tmp_path / path.parent.name / path.name)
    for part in ("", "config", "split", "result"):
        for key, value in itertools.product(whole[part] if part else whole, WRONG):
            found = copy.deepcopy(whole)
            (found[part] if part else found)[key] = value
            record.write(folder, found)
            damaged += record.state_of(folder) == "damaged"
            told = pytest.raises(BadInput, match="intact run.json") if record.read(folder) is None else \
                contextlib.suppress(BadInput)
            with told:
                frames.runs(records.load([folder]))
            assert len(collect(tmp_path)) == 1
    assert 200 < damaged < 500


@pytest.mark.parametrize("harm", [
    lambda log: [], lambda log: log[1:], lambda log: [*log, log[-1]], lambda log: log[:-1],
    lambda log: [*log[:-1], {**log[-1], "balanced_accuracy": 10**400}],
    lambda log: [*log[:-1], {**log[-1], "confusion": "?"}], lambda log: [{"step": line["step"]} for line in log],
    lambda log: [*log[:-1], {**log[-1], "balanced_accuracy": log[-1]["balanced_accuracy"] / 2}]])
@pytest.mark.parametrize("has_sum", [True, False])
def test_a_log_that_does_not_give_the_result_is_seen_with_its_sum_and_without(harm, has_sum, finished, tmp_path):
    folder = shutil.copytree(finished[1], tmp_path / "cell.s0" / finished[1].name)
    found = record.read(folder)
    assert record.finished(folder) == found and "log_crc32" in found
    if not has_sum:                                       # an older record
        del found["log_crc32"]
        record.write(folder, found)
        assert record.finished(folder) == found
    log = [json.dumps(line) + "\n" for line in harm(record.read_log(folder))]
    (folder / "log.jsonl").write_text("".join(log))
    assert record.finished(folder) is None and record.state_of(folder) == "damaged"
    assert list(collect(tmp_path)["state"]) == ["damaged"]
    with pytest.raises(BadInput, match="which gives the result"):
        record.publish(folder, tmp_path / "results")


def test_publishing_copies_the_evidence_and_only_of_finished_runs(finished, tmp_path):
    _, path = finished
    target = record.publish(path, tmp_path / "results")
    assert target.name == f"mnistm5k-lt.n40.m360.g20-20.s0_supervised-{record.read(path)['key']}"
    assert sorted(p.name for p in target.iterdir()) == ["log.jsonl", "run.json"]
    assert json.loads((target / "run.json").read_text()) == record.read(path)
    record.write(tmp_path / "half", {**record.read(path), "status": "running"})
    with pytest.raises(BadInput, match="finished run"):
        record.publish(tmp_path / "half", tmp_path / "results")


@pytest.mark.parametrize("change", [
    {"key": "/../../../elsewhere"}, {"key": "..\\..\\elsewhere"}, {"key": "0" * 9}, {"name": ".."},
    {"name": "a\0.s1/b"}, {"name": "../../a.s1/b", "key": "12345678/x"}, {"name": "a.s1/b\n"}])
def test_publishing_writes_nowhere_else_whatever_a_foreign_record_says(change, finished, tmp_path):
    _, path = finished
    (tmp_path / "runs/foreign").mkdir(parents=True)
    record.write(tmp_path / "runs/foreign", {**record.read(path), **change})
    with pytest.raises(BadInput):
        record.publish(tmp_path / "runs/foreign", tmp_path / "results")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_what_is_published_is_a_log_of_evaluations_and_no_other_file(finished, tmp_path):
    _, path = finished
    record.write(tmp_path, record.read(path))
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="an intact log.jsonl"):
        record.publish(tmp_path, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_record_says_what_was_run_and_names_no_folder(finished):
    _, path = finished
    found = record.read(path)
    assert set(found["versions"]) >= {"python", "torch", "numpy", "pillow"} and found["seconds"] > 0
    assert found["config"] == smoke_run("supervised").identity()
    assert len(found["split"]["fingerprint"]) == 64 and found["resolved"]["device"] == "cpu"
    assert found["resolved"]["precision"] == "fp32"
    assert '"/' not in json.dumps(found)
