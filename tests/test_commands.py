"""Every command that README, documentation and notebooks show is typed here, as it stands, up to where it gets dear.

A command that nothing here knows how to type fails. Placeholders such as NAME stand for what a reader puts there.
"""
import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from kit import ROOT
from PIL import Image

from semilib import cli
from semilib.study import notebooks

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md",
         ROOT / "results" / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
PROGRAMS = "semilib|papermill|pytest|make|python|py|pip|conda"
LINE = re.compile(rf"^\s*(?:\.venv\\Scripts\\)?((?:{PROGRAMS}) .+)$", re.MULTILINE)
INLINE = re.compile(rf"`((?:{PROGRAMS}) [^`\n]+)`")
# Where a command would begin to train, measure, encode or execute: that it gets there is what is tested.
DEAR = ("training.train.train", "training.trained.predictions", "training.trained.onnx_file", "study.sweep.sweep",
        "study.sweep.ensure", "study.notebooks.execute", "study.notebooks.copies", "speed.measure.machine",
        "training.inspecting.trace", "features.batches.needs", "features.store.delete", "data.imagenet127.prepare",
        "report.records.load", "report.figures.report", "report.collecting.collect")


def text_of(page: Path) -> str:
    """A page; of a notebook what it tells, without its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    return "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


def shown() -> dict[str, str]:
    """Command -> the page that shows it: lines of code blocks, and what stands in backticks."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = text_of(page)
        blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) + re.findall(r"(?:^    .*\n?)+", text, re.MULTILINE)
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines = [line for block in blocks for line in LINE.findall(block)] + INLINE.findall(text)
        for line in lines:
            command = re.split(r"\s{3,}|\s+#", line.strip())[0]
            found.setdefault(command, page.name)
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(("ant", "bee")):
        for i in range(4):
            file = root / "train" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (60 * i, 90 * k, 7)).save(file)
    return root


class Arrived(Exception):
    """A command came to where it gets dear."""


@pytest.fixture
def typed(monkeypatch, tmp_path, photos):
    """Types a command of ours in this process."""
    def arrive(*words, **more):
        raise Arrived
    for name in DEAR:
        module, _, attribute = name.rpartition(".")
        monkeypatch.setattr(importlib.import_module(f"semilib.{module}"), attribute, arrive)
    monkeypatch.setattr(importlib.import_module("semilib.speed.workloads"), "trial", lambda run: (1.0, 1))
    places = {"NAME": "fixmatch", "METHOD": "fixmatch", "FOLDER": str(photos), "RUN": str(tmp_path),
              "FIGURES": str(tmp_path), "photos": str(photos), "...": "table4 profile=smoke"}

    def of(words):
        text = " ".join(words)
        for name, stands_for in places.items():
            text = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w/])", stands_for, text)
        text = re.sub(r"( table\d)+", r'\g<0> methods=["fixmatch"] seeds=[0]', text)        # fewer of a table's runs
        words = text.split()
        if words[0] in ("run", "plan", "list", "status", "tune"):
            words += ["--runs", str(tmp_path / "runs")]
        try:
            cli.main(words)
        except Arrived:
            return
    return of


def semilib_(words, typed, **_):
    if len(words) == 1:                                    # a verb that is only mentioned
        assert words[0] in cli.parser().verbs
    else:
        typed(words)


def papermill_(words, tmp_path, **_):
    """Up to the notebook's check of its parameters, without a kernel."""
    from papermill.cli import papermill
    notebook, _, *options = words
    out = tmp_path / "out.ipynb"
    papermill.main([str(ROOT / notebook), str(out), *options, "--prepare-only"], standalone_mode=False)
    code = ["".join(c["source"]) for c in json.loads(out.read_text())["cells"] if c["cell_type"] == "code"]
    given: dict = {}
    exec("\n".join(code[:2]), given)
    known = notebooks.parameters(ROOT / notebook)
    assert {name for name in given if not name.startswith("_")} == set(known) and given != known


def pytest_(words, request, **_):
    for flag in (word for word in words if word.startswith("--")):
        assert request.config.getoption(flag) is not None
    paths = [word for word in words if word.startswith("tests")]
    assert paths and all((ROOT / path).exists() for path in paths)


def make_(words, **_):
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def python_(words, **_):
    """The file is there, and its text has the flags."""
    if words[:2] == ["-m", "venv"]:
        return
    file = Path(importlib.util.find_spec(words[1]).origin) if words[0] == "-m" else ROOT / words[0]
    text = file.read_text(encoding="utf-8")
    assert all(f'"{word}"' in text or word in (ast.get_docstring(ast.parse(text)) or "")
               for word in words if word.startswith("--"))


def pip_(words, **_):
    (extra,) = re.findall(r"\.\[(\w+)\]", " ".join(words))
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all((ROOT / name).is_file() for flag, name in zip(words, words[1:]) if flag == "-c")


def conda_(words, **_):
    name = yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
    assert words[-1] in ("environment.yml", name)


KNOWN = {"semilib": semilib_, "papermill": papermill_, "pytest": pytest_, "make": make_, "python": python_,
         "py": python_, "pip": pip_, "conda": conda_}


@pytest.mark.parametrize("command", shown())
def test_a_command_that_a_page_shows_works_up_to_where_it_gets_dear(command, typed, tmp_path, request, capsys):
    program, *words = shlex.split(command)
    KNOWN[program](words, typed=typed, tmp_path=tmp_path, request=request)


def test_the_pages_show_the_commands_that_are_looked_for():
    found = shown()
    assert {"semilib run method=semi seed=1 semi.alpha=0.2", "make quickstart", "semilib describe semi"} <= set(found)
    assert {command.split()[0] for command in found} <= set(KNOWN)


def test_every_verb_explains_itself_and_every_flag_that_help_lists_is_taken(capsys):
    for verb, parser in cli.parser().verbs.items():
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, "--help"])
        assert ended.value.code == 0
        needed = ["3" if a.type is int else "x" for a in parser._actions if not a.option_strings and a.nargs != "*"
                  and a.nargs != "?"]
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                value = [] if action.nargs == 0 else [next(iter(action.choices or "3"))]
                args = cli.parser().parse_args([verb, *needed, action.option_strings[0], *value])
                assert getattr(args, action.dest) != action.default or action.choices


def test_a_fresh_shell_in_another_folder_knows_the_command(tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "semilib", "--version"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "semilib 0.1.0\n", "")
