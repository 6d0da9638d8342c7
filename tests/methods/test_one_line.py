"""One line of METHODS makes a file a method:
tables, grids, documentation, README and tests know it without another edit."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from kit import ROOT

import semilib
from semilib import METHODS, Run
from semilib.report import tables
from semilib.study import grids

FILE = '''"""Halved (Nobody, CVPR 2031): the unsupervised loss counts half.

    (1) L = L_x + 0.5 lambda_u L_u

Follows: FixMatch.
Differs: nowhere.
Numbers: half of FixMatch's L_u.
"""
from semilib.methods.fixmatch import FixMatch


class Halved(FixMatch):
    smoke = {"threshold": 0.11}

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        return {**out, "u": out["u"]._replace(scale=0.5 * out["u"].scale)}                                        # (1)
'''
LINE = '    "halved": ("Half-Match", "semilib.methods.halved:Halved"),\n'
# What the project says of the method: a test among the copy's own.
ASK = '''
import importlib.util, sys
from pathlib import Path
from semilib.report import tables
from semilib.study import grids


def test_tables_and_grids_know_it():
    assert tables.display("halved+oheml") == "Half-Match + OHEML"
    for profile in ("small", "smoke"):
        for row in grids.grid("table1", profile, ["fixmatch", "halved"]).entries:
            assert row.row == {"halved": "Half-Match", "fixmatch": "FixMatch"}[row.runs[0].method]
    assert "Half-Match" in {entry.row for entry in grids.grid("table1", "small").entries}
    assert row.runs[0].options["threshold"] == 0.11, "its own options under profile smoke"


def test_documentation_knows_it():
    spec = importlib.util.spec_from_file_location("docs_build", Path("docs") / "build.py")
    build = sys.modules["docs_build"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert ":doc:`Half-Match <halved>`" in build.methods_index() and "2031" in build.methods_index()
    assert "Nobody, CVPR 2031" in build.method_page("halved")
    assert "semilib run method=halved" in build.method_page("halved")
    page = build.with_methods((Path("docs") / "methods.md").read_text(encoding="utf-8"))
    assert "| 2031 | Half-Match (CVPR) |  |" in page
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with one more file and one more line."""
    folder = tmp_path_factory.mktemp("project")
    for part in ("semilib", "docs", "tests", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / part, folder / part)
    (folder / "semilib" / "methods" / "halved.py").write_text(FILE)
    registry = folder / "semilib" / "methods" / "__init__.py"
    head, begin, rest = registry.read_text().partition("METHODS = Registry({\n")
    registry.write_text(head + begin + LINE + rest)
    (folder / "tests" / "test_asked.py").write_text(ASK)
    return folder


def test_tables_grids_documentation_readme_and_the_tests_that_are_asked_of_every_method_know_it(project):
    files = [f"tests/{name}.py"
             for name in ("test_asked", "methods/test_methods", "methods/test_recipes", "study/test_grids")]
    wanted = ("know_it or knows_it or halved and not trains or written_name_of_its_own or has_a_row_for_every_method "
              "or eight_cells")
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", wanted, *files, "-rA"],
                          cwd=project, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(project)})
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    passed = {line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("PASSED")}
    assert {"test_tables_and_grids_know_it", "test_documentation_knows_it",
            "test_a_name_leads_to_a_class_that_has_options_and_components[halved]",
            "test_every_file_says_what_it_follows_where_it_differs_and_gives_numbers[halved]",
            "test_every_method_and_module_has_a_written_name_of_its_own",
            "test_the_table_has_a_row_for_every_method_that_has_a_recipe_of_its_own",
            "test_table_1_of_the_paper_has_the_field_s_eight_cells_and_every_method"} <= passed


def test_a_class_that_a_notebook_registers_is_shown_by_its_own_name(monkeypatch):
    scope: dict = {}
    exec(FILE, scope)
    monkeypatch.setitem(semilib.METHODS, "mine", scope["Halved"])
    assert tables.display("mine") == "Halved" and "mine" in METHODS
    assert [entry.row for entry in grids.grid("table1", "small", ["mine"], [0]).entries] == ["Halved"]
    assert Run.of("mnistm5k", "mine", profile="smoke").options["threshold"] == 0.11
