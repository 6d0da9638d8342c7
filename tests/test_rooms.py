"""The staircase of rooms: each imports only from those above it in ROOMS, and nothing imports in a circle."""
from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from kit import ROOT

ROOMS = ("ground", "data", "networks", "features", "methods", "training", "report", "study", "speed", "roof")
ROOF = {"semilib", "semilib.__main__", "semilib.cli"}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a folder's `__init__` has the folder's name."""
    files = sorted((root / "semilib").rglob("*.py"))
    names = [".".join(f.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for f in files]
    return dict(zip(names, files, strict=True))


def room(module: str) -> str:
    """The room that a module lies in; the files beside the folders are the ground, but for the roof's."""
    parts = module.split(".")
    return "roof" if module in ROOF else parts[1] if len(parts) > 2 or parts[1] in ROOMS else "ground"


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """The modules that a module imports at its top, inside functions, or by a string such as "semilib.data.rng" or
    "semilib.methods.semi:SeMi"; not those under TYPE_CHECKING, and no docstring."""
    out: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            out |= {name if name in known else node.module for name in named}
        elif isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            out |= {name for name in re.findall(r"semilib(?:\.\w+)+", node.value) if name in known}
        todo += ast.iter_child_nodes(node)
    return out & known


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    files = modules(ROOT)
    return {name: imports(ast.parse(path.read_text(encoding="utf-8")), set(files)) - {name}
            for name, path in files.items()}


def test_each_room_imports_only_from_the_rooms_before_it(arrows):
    upwards = [f"{module} ({room(module)}) imports {other} ({room(other)})"
               for module, others in arrows.items() for other in others
               if ROOMS.index(room(other)) > ROOMS.index(room(module))]
    assert not upwards


def test_no_modules_import_in_a_circle(arrows):
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_each_room_says_in_one_sentence_what_is_in_it():
    for name in ROOMS[1:-1]:
        text = ast.get_docstring(ast.parse((ROOT / "semilib" / name / "__init__.py").read_text(encoding="utf-8")))
        assert text and text.split("\n\n")[0].endswith("."), name


@pytest.mark.parametrize("source, seen", [
    ("def f():\n    from semilib.data import rng\n", {"semilib.data.rng"}),
    ('HOME = "semilib.methods.semi:SeMi"\n', {"semilib.methods.semi"}),
    ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from semilib.cli import main\n", set()),
    ('"""Like semilib.cli."""\n', set()),
    ("import semilib.files\n", {"semilib.files"})])
def test_an_import_counts_wherever_it_stands(source, seen):
    assert imports(ast.parse(source), set(modules(ROOT))) == seen


def test_every_name_and_file_of_the_project_in_a_docstring_or_a_sentence_is_there():
    gone = []
    for module, path in modules(ROOT).items():
        texts = [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for text in texts:
            gone += [f"{module}: {name}" for name in re.findall(r"\bsemilib(?:\.\w+)+", text) if not leads(name)]
            gone += [f"{module}: {file}" for file in re.findall(r"\b(?:semilib|tests|benchmarks)/[\w/.-]+\.py", text)
                     if not (ROOT / file).is_file()]
    assert not gone


def leads(name: str) -> bool:
    """Whether a dotted name is that of a module or of something in one."""
    try:
        return pkgutil.resolve_name(name) is not None
    except (ImportError, AttributeError):
        return False


def test_the_package_offers_what_the_readme_imports_from_it():
    from semilib import METHODS, BadInput, Method, Run, Trainer, train, trained
    assert [inspect.isclass(thing) for thing in (Run, Trainer, Method, BadInput)] == [True] * 4
    assert inspect.isfunction(train) and inspect.ismodule(trained) and "semi" in METHODS
