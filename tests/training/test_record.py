"""Records: which code a run's folder stands for, states, logs cut short, publishing, and what a record must not hold."""
import json

import pytest
from kit import smoke_run

from semilib.errors import BadInput
from semilib.training import record
from semilib.training.train import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory, source):
    runs = tmp_path_factory.mktemp("runs")
    return runs, train(smoke_run("supervised"), runs, source=source)


def test_the_code_fingerprint_follows_meaning_not_words(tmp_path, monkeypatch):
    before = record.code_fingerprint("fixmatch")
    package = tmp_path / "semilib"
    import shutil
    shutil.copytree(record.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(record, "PACKAGE", package)

    def fingerprint(file: str, change) -> str:
        path = package / file
        old = path.read_text()
        new = change(old)
        assert new != old
        path.write_text(new)
        record._fingerprint.cache_clear()
        out = record.code_fingerprint("fixmatch")
        path.write_text(old)
        return out

    record._fingerprint.cache_clear()
    try:
        assert record.code_fingerprint("fixmatch") == before
        assert fingerprint("losses.py", lambda s: "# a comment\n" + s.replace('"""A term as one', '"""Another')) == before
        assert fingerprint("losses.py", lambda s: s.replace("1e-12", "1e-11")) != before
        assert fingerprint("methods/fixmatch.py", lambda s: s.replace(">= self", "> self")) != before
        assert fingerprint("augment.py", lambda s: s.replace("// 8", "// 7")) != before
        assert fingerprint("methods/semi.py", lambda s: s.replace("self.cfg", "self.config")) == before, "another method's file"
        assert fingerprint("tables.py", lambda s: s + "\nx = 1\n") == before, "a table is not part of a run"
        assert fingerprint("progress.py", lambda s: s + "\nx = 1\n") == before
    finally:
        record._fingerprint.cache_clear()


COMBINATIONS = [("fixmatch",), ("remixmatch",), ("abc",), ("abc", "remixmatch"), ("fixmatch", "", "oheml"), ("abc", "", "oheml")]


def test_the_fingerprint_is_of_the_method_its_base_and_its_additions():
    found = {parts: record.code_fingerprint(*parts) for parts in COMBINATIONS}
    assert len(set(found.values())) == len(COMBINATIONS)
    assert record.code_fingerprint("abc", "fixmatch") == found["abc",]                     # its first base, named
    assert record.code_fingerprint("abc", "", "oheml+plce") == found["abc", "", "oheml"]  # one file holds both modules
    run = smoke_run("abc", base="remixmatch")
    assert record.code_of(run.identity()) == found["abc", "remixmatch"]
    assert record.code_of({"method": "fixmatch"}) == found["fixmatch",]                   # a record of before there were bases
    assert record.code_of({"method": "gone"}) is None and record.code_of({**run.identity(), "base": "acr"}) is None


@pytest.mark.parametrize("module, among", [
    ("methods.abc", {("abc",), ("abc", "remixmatch"), ("abc", "", "oheml")}),
    ("methods.remixmatch", {("remixmatch",), ("abc", "remixmatch")}),
    ("methods.additions", {("fixmatch", "", "oheml"), ("abc", "", "oheml")}),
    ("methods.semi", {("fixmatch", "", "oheml"), ("abc", "", "oheml")}),
    *((name, set(COMBINATIONS)) for name in ("methods.fixmatch", "methods.base", "engine", "augment", "rng", "models", "config")),
    *((name, set()) for name in ("methods", "methods.acr", "methods.supervised", "tables", "figures", "study", "cli"))])
def test_a_run_executes_the_files_of_its_own_method_alone(module, among):
    assert {parts for parts in COMBINATIONS if f"semilib.{module}" in record.executed(*parts)} == among


def test_another_methods_file_moves_no_fingerprint_and_the_bases_does(tmp_path, monkeypatch):
    import shutil
    package = tmp_path / "semilib"
    shutil.copytree(record.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(record, "PACKAGE", package)
    record._fingerprint.cache_clear()
    found = {parts: record.code_fingerprint(*parts) for parts in COMBINATIONS[2:4]}
    for name in ("acr", "remixmatch"):
        with open(package / "methods" / f"{name}.py", "a") as file:
            file.write("x = 1\n")
        record._fingerprint.cache_clear()
        moved = {parts for parts in found if record.code_fingerprint(*parts) != found[parts]}
        assert moved == ({("abc", "remixmatch")} if name == "remixmatch" else set()), name
    record._fingerprint.cache_clear()


def test_a_record_is_dirty_when_executed_code_differs_from_the_commit(tmp_path, monkeypatch):
    import shutil
    import subprocess
    shutil.copytree(record.PACKAGE, tmp_path / "semilib", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(record, "PACKAGE", tmp_path / "semilib")
    assert record.provenance(smoke_run("fixmatch"))["dirty"] is False and len(record.provenance(smoke_run("fixmatch"))["commit"]) == 40
    for file, dirty in (("tables.py", False), ("methods/semi.py", False), ("losses.py", True)):
        with open(tmp_path / "semilib" / file, "a") as f:
            f.write("x = 1\n")
        assert record.provenance(smoke_run("fixmatch"))["dirty"] is dirty, file


def test_states(finished, monkeypatch, tmp_path):
    runs, path = finished
    run = smoke_run("supervised")
    assert record.state(run, runs) == "done" and record.state(run, tmp_path) == "not started"
    monkeypatch.setattr(record, "code_fingerprint", lambda *parts: "00000000")
    assert record.state(run, runs) == "stale"
    monkeypatch.undo()
    found = record.read(path)
    copy = record.folder(run, tmp_path)
    record.write(copy, {**found, "status": "running"})
    assert record.state(run, tmp_path) == "interrupted"
    record.write(copy, {**found, "status": "failed"})
    assert record.state(run, tmp_path) == "failed"


def test_a_line_cut_short_is_left_out(tmp_path):
    record.append_log(tmp_path, {"step": 1})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 2, "accu')
    assert record.read_log(tmp_path) == [{"step": 1}]
    record.write_log(tmp_path, record.read_log(tmp_path))
    record.append_log(tmp_path, {"step": 2})
    assert [e["step"] for e in record.read_log(tmp_path)] == [1, 2]


def test_publishing_copies_the_evidence_and_only_of_finished_runs(finished, tmp_path):
    _, path = finished
    target = record.publish(path, tmp_path / "results")
    assert target.name == f"mnistm5k-lt.n40.m360.g20-20.s0_supervised-{record.read(path)['key']}"
    assert sorted(p.name for p in target.iterdir()) == ["log.jsonl", "run.json"]
    assert json.loads((target / "run.json").read_text()) == record.read(path)
    record.write(tmp_path / "half", {**record.read(path), "status": "running"})
    with pytest.raises(BadInput, match="finished run"):
        record.publish(tmp_path / "half", tmp_path / "results")


def test_a_record_says_what_was_run_and_names_no_folder(finished):
    _, path = finished
    found = record.read(path)
    assert set(found["versions"]) >= {"python", "torch", "numpy", "pillow"} and found["seconds"] > 0
    assert found["config"] == smoke_run("supervised").identity()
    assert len(found["split"]["fingerprint"]) == 64 and found["resolved"]["device"] == "cpu" and found["resolved"]["precision"] == "fp32"
    assert '"/' not in json.dumps(found)


def test_a_class_made_in_a_notebook_has_a_fingerprint_of_its_own(monkeypatch):
    """Its source is in no file, and a changed one must not be taken for the one that has run."""
    from semilib.methods import METHODS

    def fingerprint(line: str) -> str:
        scope = {"__name__": "__main__"}
        exec(f"""from semilib.methods.fixmatch import FixMatch
class Mine(FixMatch):
    def pseudo(self, v, batch, t):
        p = super().pseudo(v, batch, t)
        {line}
        return p
""", scope)
        monkeypatch.setitem(METHODS, "mine", scope["Mine"])
        return record.code_fingerprint("mine")
    found = [fingerprint(line) for line in ("p.mask = p.mask * 1", "p.mask = p.mask * 2", "p.mask = p.label * 2", "p.mask = p.mask * 1")]
    assert found[0] == found[3] and len({*found, record.code_fingerprint("fixmatch")}) == 4
