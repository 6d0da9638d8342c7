"""The notebooks: thin, executed where they are committed with outputs, and deaf to no misspelt parameter."""
import ast
import json
import os
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from kit import ROOT

from semilib.errors import BadInput, NotebookError
from semilib.files import PACKAGE
from semilib.study import notebooks
from semilib.training import progress

ALL = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.filterwarnings("ignore")


def cells(path: Path, kind: str = "code") -> list[dict]:
    """All but the cell that a public address brings (docs/address.py)."""
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind
            and "colab" not in c["metadata"].get("tags", [])]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert {"00_quickstart.ipynb", "10_run.ipynb", "30_add_your_method.ipynb"} <= {p.name for p in ALL}


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_a_notebook_is_thin(path):
    text = json.loads(path.read_text(encoding="utf-8"))
    first = text["cells"][0]
    assert first["cell_type"] == "markdown" and source(first).startswith("# ") and len(source(first)) > 200
    code = [source(c) for c in cells(path)]
    defines = path.stem == "30_add_your_method"          # the one notebook that may define a class
    assert sum(len(s.splitlines()) for s in code) <= (90 if defines else 60)
    for s in code:
        tree = ast.parse(s)
        assert not any(isinstance(n, ast.For | ast.While) for n in ast.walk(tree))
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in ast.walk(tree)) or \
            (defines and [type(n) for n in tree.body[:1]] == [ast.ClassDef])
    import papermill
    assert notebooks.parameters(path), "a cell tagged `parameters`, of literals"
    by_papermill = papermill.inspect_notebook(str(path))
    assert by_papermill.keys() == notebooks.parameters(path).keys(), "papermill reads each line too"
    assert "parameters" in cells(path)[0]["metadata"]["tags"]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_committed_outputs_are_really_executed(path):
    counts = [c["execution_count"] for c in cells(path)]
    assert counts[0] in (1, 2) and counts == list(range(counts[0], counts[0] + len(counts)))
    outputs = [out for c in cells(path) for out in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    if not path.stem.startswith("23_"):                           # ImageNet-127: no run to draw yet
        assert any("image/png" in o.get("data", {}) for o in outputs)
    if not path.stem.startswith("41_"):                           # figures alone
        assert any("accuracy" in "".join(o.get("text", o.get("data", {}).get("text/plain", []))) for o in outputs)
    assert "papermill" not in path.read_text(encoding="utf-8").split('"cells"')[0]
    assert "widget" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_an_accuracy_in_a_notebook_s_text_names_its_profile_beside_it(path):
    """All other numbers of runs are computed by a cell, so that no sentence says other than the table."""
    told = [node.value for c in cells(path) for node in ast.walk(ast.parse(source(c)))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    paragraphs = [part for text in [*map(source, cells(path, "markdown")), *told] for part in text.split("\n\n")]
    measured = [part for part in paragraphs if re.search(r"\d\d\.\d|\d ±|[+-]\d+\.\d|(balanced|ended at).*\d %", part)]
    assert not [part for part in measured if not re.search(r"profile `\w+`|`\w+` profile", part)]


def test_what_was_concluded_of_a_profile_is_said_by_a_cell_that_knows_its_profile():
    """No sentence of the tables' notebooks that stands whatever is chosen speaks of what records showed."""
    tables = [path for path in ALL if re.match(r"2[1-5]_", path.stem)]
    for path in tables:
        after = [source(c) for c in cells(path, "markdown")][1:]
        assert not [text for text in after if re.search(r"`(small|smoke|short|paper)`|\d \d*%", text)], path.stem
    assert sum("small=" in source(c) for path in tables for c in cells(path)) == 4


def test_a_table_s_notebook_says_what_it_does_before_it_loads_anything():
    for path in ALL:
        if re.match(r"2[1-5]_", path.stem):
            assert source(cells(path)[1]).startswith("print(")


def test_the_ablation_takes_variants_of_one_s_own():
    path = ROOT / "notebooks" / "24_table4_ablation.ipynb"
    assert notebooks.parameters(path)["variants"] == {}
    notebooks.check_given(path, {"variants": {"alpha 0.2": {"alpha": 0.2}, "no PLCE": {"plce": False}}})
    fields, = [line for line in source(cells(path)[0]).splitlines() if line.startswith("fields")]
    assert "options of SeMi belong to variants" in fields
    assert "variants=variants" in source(cells(path)[1])


def test_the_committed_quickstart_shows_the_committed_record():
    from semilib.training import record
    text = (ROOT / "notebooks" / "00_quickstart.ipynb").read_text(encoding="utf-8")
    records = [record.read(p.parent) for p in (ROOT / "results" / "quickstart").rglob("run.json")]
    first = [r for r in records if r["config"]["seed"] == 0]
    assert sorted(r["config"]["method"] for r in first) == ["fixmatch", "semi", "supervised"]
    for r in first:
        assert f"{100 * r['result']['mean_last']:.1f}" in text and r["key"] in text, r["name"]


def test_the_quickstart_states_the_recorded_numbers():
    from semilib.report.records import folders_below, load
    from semilib.report.tables import overview
    table = overview(load(folders_below(ROOT / "results" / "quickstart")))
    quickstart = (ROOT / "notebooks" / "00_quickstart.ipynb").read_text(encoding="utf-8")
    assert all(f"{name} {accuracy}" in quickstart for name, accuracy, *_ in table.cells()[1:])
    assert table.markdown in (ROOT / "figures" / "quickstart" / "table.md").read_text(encoding="utf-8")


def test_the_first_page_states_the_recorded_numbers_of_the_study_on_features():
    """Its rows are computed here once more, from the lines of the committed tables alone."""
    from semilib.methods import title_of
    from semilib.report import compact
    from semilib.study import answers
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (.+?) \| (\S+).*? \| (\S+).*? \| (\d) \|$", readme, re.MULTILINE)
    assert [row[0] for row in shown] == list(answers.SUMMARISED)
    scores: dict = {}
    for table in ("table1", "table2"):
        for line in compact.read(ROOT / "results" / "features" / f"{table}.jsonl.gz").values():
            config = line["config"]
            if [config[field] for field in ("dataset", "n1", "gamma_l")] == ["cifar10", 1500, 100.0] and (
                    config["order"] == {"table1": "consistent", "table2": "reversed"}[table]):
                scores.setdefault((title_of(config["method"]), table), []).append(line["result"]["mean_last"])
    for name, consistent, reversed_, seeds in shown[:-1]:                # the last row is scikit-learn's
        both = [scores[name, "table1"], scores[name, "table2"]]
        assert [f"{100 * sum(values) / len(values):.1f}" for values in both] == [consistent, reversed_], name
        assert int(seeds) == min(map(len, both))


@pytest.mark.parametrize("given, message", [
    ({"profil": "smoke"}, "parameter='profil': unknown; did you mean 'profile'"),
    ({"seeds": 3}, r"seeds=3: a list, as in 00_quickstart.ipynb \(seeds = \[0\]\)"),
    ({"methods": "semi"}, "methods='semi': a list"),
])
def test_execute_refuses_parameters_before_anything_starts(given, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        notebooks.execute(ROOT / "notebooks" / "00_quickstart.ipynb", tmp_path / "out.ipynb", given, show=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", [
    lambda given: notebooks.check_given(ROOT / "notebooks" / "10_run.ipynb", given),
    lambda given: notebooks.check_parameters(given, seed=int, fields=dict)])
def test_fields_of_a_run_name_no_parameter_that_the_notebook_has_itself(check):
    check({"seed": 0, "fields": {"steps": 9}})
    with pytest.raises(BadInput, match="fields={'steps': 9, 'seed': 1}: without seed, which is a parameter of its own"):
        check({"seed": 0, "fields": {"steps": 9, "seed": 1}})


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_each_notebook_refuses_unknown_and_mistyped_parameters_in_its_first_cell_after_them(path, tmp_path):
    """As papermill injects them, without a kernel."""
    import papermill
    for given, message in (({"prms": 1}, "parameter='prms': unknown"), ({"runs": 1}, "runs=1: a text")):
        papermill.execute_notebook(str(path), str(tmp_path / "o.ipynb"), parameters=given, prepare_only=True,
                                   progress_bar=False)
        code = [source(c) for c in cells(tmp_path / "o.ipynb")]
        assert repr(given.popitem()[1]) in code[1]
        with pytest.raises(BadInput, match=message):
            exec("\n".join(code[:3]), {})


def test_parameters_are_checked_by_name_and_type_and_other_globals_ignored():
    ok = {"a": 1, "b": [1.5], "records": [object()], "out": Path("x"), "_hidden": 3, "json": json}
    notebooks.check_parameters(ok, a=int, b=(list, type(None)))
    with pytest.raises(BadInput, match="parameter='bb': unknown; did you mean 'b'"):
        notebooks.check_parameters({**ok, "bb": 2}, a=int, b=list)
    cells = ["", "a = 1\nb = [1.5]", "for bb in (1, 2):\n    print(bb)"]
    notebooks.check_parameters({**ok, "bb": 2, "In": cells}, a=int, b=list)
    with pytest.raises(BadInput, match="parameter='bb': unknown; did you mean 'b'"):
        notebooks.check_parameters({**ok, "bb": 2, "In": [*cells, "# Parameters\nbb = 2"]}, a=int, b=list)
    with pytest.raises(BadInput, match="b=Ellipsis: "):
        notebooks.check_parameters({"a": 1}, a=int, b=list)
    with pytest.raises(BadInput, match="a=True: a whole number"):
        notebooks.check_parameters({**ok, "a": True}, a=int, b=list)


def small_notebook(path: Path, *lines: str) -> Path:
    made = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["n = 1\n"], "outputs": [],
             "execution_count": None, "id": "a"}]
    made += [{"cell_type": "code", "metadata": {}, "source": [line], "outputs": [], "execution_count": None,
              "id": f"b{i}"} for i, line in enumerate(lines)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    path.write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.mark.parametrize("source, known", [
    ("'a sentence'\nn = 1\nm: str = 'x'", {"n": 1, "m": "x"}), ("n = -1.5", {"n": -1.5}),
    ("n = list(range(3))", "line 1 is n = list"), ("n = 1\na, b = 1, 2", "line 2 is a, b = "),
    ("n = m = 1", "line 1 is n = m"), ("n: int", "line 1 is n: int"), ("import os", "line 1 is import os"),
    ("n = ", "Python in")])
def test_a_parameters_cell_is_read_as_papermill_runs_it_or_its_line_is_named(source, known, tmp_path):
    made = small_notebook(tmp_path / "a.ipynb")
    content = json.loads(made.read_text())
    content["cells"][0]["source"] = source
    made.write_text(json.dumps(content))
    if isinstance(known, dict):
        assert notebooks.parameters(made) == known
    else:
        with pytest.raises(BadInput, match=f"notebook='a.ipynb': .*{known}"):
            notebooks.parameters(made)


@pytest.mark.parametrize("content", [
    None, "", "{}", "[]", '{"cells": [1]}', '{"cells": [{"metadata": []}]}', "[" * 10**5])
def test_a_file_that_is_no_notebook_is_named(content, tmp_path):
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match="notebook=.*a.ipynb': a file with a notebook"):
        notebooks.execute(path, tmp_path / "out.ipynb", {}, show=False)
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize("value", [{1: 2}, {"a": (1, 2)}, [{3}], {"a": {"b": b"c"}}, [object()]])
def test_only_values_that_papermill_carries_faithfully_reach_it(value, tmp_path):
    with pytest.raises(BadInput, match="n=.*: of numbers, texts"):
        notebooks.check_given(small_notebook(tmp_path / "a.ipynb"), {"n": value})


def test_a_kernel_runs_the_code_of_this_package_and_has_its_sockets_where_paths_are_short(tmp_path, monkeypatch):
    import papermill
    seen = {}

    def execute(notebook, output, config, **rest):
        seen.update(path=os.environ["PYTHONPATH"].split(os.pathsep), ip=config.KernelManager.ip)
        Path(output).write_text(Path(notebook).read_text())
        return SimpleNamespace(cells=[])
    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("deep" * 30)))
    (tmp_path / ("deep" * 30)).mkdir()
    notebooks.execute(small_notebook(tmp_path / "a.ipynb"), tmp_path / "o.ipynb", {}, show=False)
    assert seen["path"] == [str(PACKAGE.parent), "/elsewhere"] and os.environ["PYTHONPATH"] == "/elsewhere"
    assert len(seen["ip"]) <= 92 and not Path(seen["ip"]).parent.exists()


def test_the_check_in_a_notebook_ends_it_under_papermill_alone(tmp_path):
    import papermill
    made = small_notebook(tmp_path / "a.ipynb",
                          "from semilib.study.notebooks import check_parameters\ncheck_parameters(globals(), n=int)",
                          "print(n)")
    with pytest.raises(papermill.PapermillExecutionError, match="parameter='m': unknown; valid: n"):
        papermill.execute_notebook(str(made), str(tmp_path / "o.ipynb"), parameters={"m": 1}, progress_bar=False,
                                   cwd=str(ROOT))
    done = [c["execution_count"] for c in cells(tmp_path / "o.ipynb") if c["execution_count"]]
    assert len(done) <= 3, "only the parameters and the check have run"


def test_an_executed_notebook_appears_whole_and_clean(tmp_path):
    made = small_notebook(tmp_path / "a.ipynb", "print(n + 1)")
    out = notebooks.execute(made, tmp_path / "out" / "a.ipynb", {"n": 41}, show=False)
    assert [o["text"] for c in cells(out) for o in c["outputs"]] == [["42\n"]]
    assert [p.name for p in out.parent.iterdir()] == ["a.ipynb"] and "papermill" not in out.read_text()


def test_a_failed_notebook_is_kept_apart_and_the_old_result_stays(tmp_path):
    made = small_notebook(tmp_path / "a.ipynb", "print(1 / n)", "import sys; sys.exit() if n == 3 else None")
    out = notebooks.execute(made, tmp_path / "out" / "a.ipynb", {"n": 2}, show=False)
    before = out.read_text()
    with pytest.raises(NotebookError, match="^a.ipynb stopped: ZeroDivisionError: division by zero; .*a.failed.ipynb$"):
        notebooks.execute(made, out, {"n": 0}, show=False)
    assert out.read_text() == before and "ZeroDivisionError" in (out.parent / "a.failed.ipynb").read_text()
    with pytest.raises(NotebookError, match="a.ipynb stopped: SystemExit"):
        notebooks.execute(made, out, {"n": 3}, show=False)
    assert out.read_text() == before, "sys.exit() is not the end of a notebook"
    notebooks.execute(made, out, {"n": 4}, show=False)
    assert [p.name for p in out.parent.iterdir()] == ["a.ipynb"]


def test_an_executed_notebook_keeps_no_control(tmp_path):
    made = small_notebook(tmp_path / "a.ipynb", "1")
    content = json.loads(made.read_text())
    content["cells"][1]["outputs"] = [
        {"output_type": "display_data", "metadata": {}, "data": {notebooks.CONTROLS: {}, "text/plain": "HBox()"}},
        {"output_type": "display_data", "metadata": {"a": 1}, "data": {"text/plain": "the figure"}}]
    made.write_text(json.dumps(content))
    notebooks.clean(made)
    assert [out["data"] for out in cells(made)[1]["outputs"]] == [{"text/plain": "the figure"}]


def test_working_copies_are_the_notebooks_without_outputs_and_a_changed_one_is_kept(tmp_path):
    same = notebooks.copies(tmp_path)
    assert [path.name for path in same] == [path.name for path in ALL] and all(same.values())
    for copy, path in zip(same, ALL, strict=True):
        assert [source(c) for c in cells(copy)] == [source(c) for c in cells(path)]
        assert not any(c["outputs"] or c["execution_count"] for c in cells(copy))
    changed = tmp_path / ALL[0].name
    text = changed.read_text(encoding="utf-8").replace("seeds = [0]", "seeds = [0, 1]")
    changed.write_text(text, encoding="utf-8")
    (tmp_path / ALL[1].name).unlink()
    assert [path for path, unchanged in notebooks.copies(tmp_path).items() if not unchanged] == [changed]
    assert changed.read_text(encoding="utf-8") == text and (tmp_path / ALL[1].name).is_file()


def test_each_notebook_is_in_one_book_of_the_tests_and_again_where_it_shows_committed_records(tmp_path):
    books = [[source(c) for c in cells(book)] for book in notebooks.smoke_books(tmp_path, ROOT / "notebooks")]
    for path in ALL:
        begin = f"# {path.name}\n%reset -f"
        (code,) = [code for code in books if begin in code]
        checked = any(notebooks.CHECKED in c["metadata"].get("tags", []) for c in cells(path))
        assert code.count(begin) == 1 + checked
        last = code[len(code) - code[::-1].index(begin):]                  # behind its last beginning: its parameters
        off = {name for name in ("train", "measure") if f"\n{name} = False" in last[0]}
        assert off == ({"train", "measure"} & notebooks.parameters(path).keys() if checked else set())
        assert [last[n] for n in range(1, len(cells(path)))] == [source(c) for c in cells(path)[1:]]


def test_progress_in_a_notebook_is_one_output_and_none_before_there_is_something_to_say(monkeypatch):
    from IPython import display
    from kit import smoke_run
    shown = []
    handle = SimpleNamespace(update=lambda text: shown.append(repr(text)))
    monkeypatch.setattr(display, "display", lambda text, display_id: shown.append(f"new: {text}") or handle)
    notebook = progress.Notebook(of=2)
    assert shown == []
    notebook.begin(smoke_run("fixmatch"), 0)
    notebook.note("a note")
    assert shown[0].startswith("new: [1/2] ") and len(shown) == 2 and "a note" in shown[1]


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_no_output_is_empty_or_a_list_of_what_a_browser_would_draw(path):
    for cell in cells(path):
        for out in cell["outputs"]:
            text = "".join(out.get("text", out.get("data", {}).get("text/plain", [])))
            assert text.strip() and not re.match(r"\[(?!\d+/\d+\])", text), f"{path.name}: {source(cell)[:60]}"


def test_progress_reaches_a_follower_and_a_terminal(tmp_path, monkeypatch, capsys):
    import io

    from kit import smoke_run
    monkeypatch.setenv(progress.FILE, str(tmp_path / "p.json"))
    terminal = progress.Terminal(of=2, stream=io.StringIO())
    run = smoke_run("fixmatch")
    terminal.begin(run, 0)
    assert not terminal.due(terminal.shown + 1) and terminal.due(terminal.shown + 11)
    terminal.step(run, 6, {"x": 1.0, "u": 0.5}, 0.25)
    left = json.loads((tmp_path / "p.json").read_text())
    assert f"[1/2] {run.name}  step 6/24  loss 1.500  balanced accuracy 25.0%" in left["now"]
    assert re.search(r"  about \d+:\d\d left$", left["now"]), "of both runs"
    terminal.end(run, "done", {"mean_last": 0.5, "rule": "mean of all 4 evaluations"})
    assert "done  balanced accuracy 50.0%" in terminal.stream.getvalue()
    named = progress.Terminal(names={run.key: "without OHEML, seed 2"}, stream=io.StringIO())
    named.begin(run, 0)
    named.step(run, 6, {"x": 1.0}, None)
    assert named.now.startswith("[1/1] without OHEML, seed 2  step 6/24") and "about" not in named.now
    assert progress.clock(59.6) == "1:00" and progress.clock(3725) == "1:02:05"
