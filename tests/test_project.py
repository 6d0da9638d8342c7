"""The project's own files agree with each other: packaging, pins, Makefile, README, citation, layout."""
import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # PEP 508
PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.]+)\s+# (?P<why>\S.*)")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def requirements(*extras):
    """The direct dependencies: those of the core and those of the named extras,
    which may bring along others ("semilib[docs]")."""
    lines = project()["dependencies"] + [line for extra in extras for line in project()["optional-dependencies"][extra]]
    found = [Requirement(line) for line in lines]
    brought = sorted({extra for r in found if r.name == project()["name"] for extra in r.extras} - {*extras})
    return requirements(*extras, *brought) if brought else [r for r in found if r.name != project()["name"]]


def all_requirements():
    return requirements(*project()["optional-dependencies"])


def pins():
    """(name, version) for each line of constraints.txt; every line has to be one exact pin and say who needs it."""
    lines = [line for line in read("constraints.txt").splitlines() if line.strip() and not line.startswith("#")]
    matches = [(line, PIN.fullmatch(line)) for line in lines]
    assert not [line for line, match in matches if not match], "each line reads: name==version  # who needs it"
    return [(canonicalize_name(match["name"]), match["version"]) for _, match in matches]


def environment():
    """Channels, conda's lines and pip's lines of environment.yml."""
    env = yaml.safe_load(read("environment.yml"))
    conda = [line for line in env["dependencies"] if isinstance(line, str)]
    sections = [line for line in env["dependencies"] if not isinstance(line, str)]
    assert [list(section) for section in sections] == [["pip"]], "one pip section and nothing else that is nested"
    return env["channels"], conda, sections[0]["pip"]


def git(*args):
    """Standard output of a git command, or None where this is not a git checkout (say, an unpacked archive)."""
    if not (ROOT / ".git").exists():
        return None
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True).stdout


def tracked():
    """The tracked files that exist; before the first `git add`, those that git does not ignore."""
    names = git("ls-files", "-z") or git("ls-files", "-z", "--others", "--exclude-standard")
    if names is None:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]
    assert files
    return files


def targets():
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", read("Makefile"), re.MULTILINE))


# ---- versions


def test_every_direct_dependency_is_pinned_once_and_within_its_range():
    wanted, pinned = all_requirements(), pins()
    assert not [name for name, n in Counter(name for name, _ in pinned).items() if n > 1], "pinned more than once"
    names = {canonicalize_name(r.name) for r in wanted}
    assert names == {name for name, _ in pinned}, "direct dependencies against pins"
    versions = dict(pinned)
    assert not [f"{r} excludes {versions[canonicalize_name(r.name)]}" for r in wanted
                if not r.specifier.contains(versions[canonicalize_name(r.name)])]


def test_every_range_has_a_lower_bound_and_no_exact_version():
    for requirement in all_requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators and not operators & {"==", "===", "~="}, str(requirement)


@pytest.mark.parametrize("name", ["pyproject.toml", "environment.yml", "Makefile", ".ci/run", "README.md"])
def test_exact_versions_stand_in_constraints_alone(name):
    if not (ROOT / name).exists():
        assert name == "README.md"
        pytest.skip("README.md is not written yet")
    names = "|".join(re.escape(r.name) for r in all_requirements())
    assert not re.findall(rf"\b(?:{names})(?:\[[^\]]*\])?\s*={{1,3}}\s*v?\d\S*", read(name), re.IGNORECASE)


def test_installed_versions_are_the_pinned_ones():
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in metadata.distributions()
                 if d.metadata["Name"]}
    versions = dict(pins())
    present = versions.keys() & installed.keys()
    assert {"torch", "numpy", "pytest"} <= present
    wrong = [f"{name}: installed {installed[name]}, pinned {versions[name]}" for name in sorted(present)
             if not SpecifierSet(f"=={versions[name]}").contains(installed[name], prereleases=True)]
    assert not wrong, "; ".join(wrong)


def imported_modules(path):
    """The top-level modules that a Python file or a notebook's code cells import, without relative imports."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
        text = "\n".join("pass" if line[:1] in "%!" and line else line for line in lines)
    else:
        text = path.read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("folder, extras",
                         [("semilib", ["slurm", "ray"]), ("benchmarks", []), ("notebooks", []),
                          ("tests", ["test"])])
def test_what_is_imported_is_a_declared_dependency(folder, extras):
    own = {"semilib", "benchmarks", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    declared = {canonicalize_name(r.name) for r in requirements(*extras)}
    providers = metadata.packages_distributions()
    paths = [path for path in (ROOT / folder).rglob("*")
             if path.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in path.parts]
    assert paths
    missing = [f"{path.relative_to(ROOT)} imports {module}" for path in paths
               for module in sorted(imported_modules(path) - own - sys.stdlib_module_names)
               if not declared & {canonicalize_name(name) for name in providers.get(module, [])}]
    assert not missing, "; ".join(missing)


# ---- environment.yml, Makefile, .ci/run


def test_environment_names_conda_forge_alone_and_valid_packages():
    channels, conda, _ = environment()
    assert channels == ["conda-forge"]
    assert {"python", "pip"} <= {re.split("[=<>]", line)[0] for line in conda}
    for line in conda:
        name, _, version = line.partition("=")
        assert NAME.fullmatch(name), line
        series = name == "python" and re.fullmatch(r"\d+\.\d+", version)
        assert not version or series, f"{line}: no exact version here"


def test_environment_python_is_the_one_that_pyproject_and_makefile_ask_for():
    requires = SpecifierSet(project()["requires-python"])
    _, conda, _ = environment()
    series = dict(line.split("=") for line in conda if line.startswith("python="))["python"]
    assert requires.contains(f"{series}.0")
    [(major, minor)] = re.findall(r"sys\.version_info < \((\d+), (\d+)\)", read("Makefile"))
    assert project()["requires-python"] == f">={major}.{minor}"
    assert set(re.findall(r"Python (\d+\.\d+) or newer", read("Makefile"))) == {f"{major}.{minor}"}


def test_environment_installs_this_project_with_the_pins():
    _, _, lines = environment()
    assert lines[0] == "-c constraints.txt" and (ROOT / "constraints.txt").is_file()
    [(extras,)] = [re.fullmatch(r"-e \.\[([\w,-]+)\]", line).groups() for line in lines[1:]]
    assert set(extras.split(",")) <= project()["optional-dependencies"].keys()


def test_makefile_installs_with_the_pins_and_an_extra_that_exists():
    [(constraints, extras)] = re.findall(r"pip install .*-c (\S+) -e \"\.\[([\w,-]+)\]\"", read("Makefile"))
    assert constraints == "constraints.txt"
    assert set(extras.split(",")) <= project()["optional-dependencies"].keys()


def test_makefile_has_the_targets_each_phony_and_with_help():
    assert targets() >= {"help", "quickstart", "test", "lab", "clean"}
    [phony] = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert set(phony.split()) == targets()
    assert set(re.findall(r"^([a-z][\w-]*):.* ## \S", read("Makefile"), re.MULTILINE)) == targets()


def test_two_makes_do_not_install_at_once(tmp_path):
    """The second one, say from another terminal, stops with a sentence and leaves alone what the first has so far."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / "half").touch()
    (venv / ".installing").write_text(f"{os.getpid()}\n")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(["make", f"PYTHON={sys.executable}", "lab"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and f"Another make (process {os.getpid()}) is installing" in done.stderr
    assert (venv / "half").exists()


def test_make_test_lints_and_checks_types_before_any_test():
    [recipe] = re.findall(r"^test:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    commands = [line.strip().removeprefix("$(VENV)/bin/") for line in recipe.splitlines()]
    assert commands[:2] == ["ruff check .", "mypy"]


def test_ci_runs_the_test_target_and_stops_at_an_error():
    path = ROOT / ".ci" / "run"
    lines = [line.strip() for line in path.read_text().splitlines()]
    assert "make test" in lines and "set -euo pipefail" in lines
    assert os.access(path, os.X_OK)
    mode = git("ls-files", "--stage", ".ci/run")
    assert not mode or mode.startswith("100755")


def test_console_script_leads_to_a_function():
    module, _, function = project()["scripts"]["semilib"].partition(":")
    tree = ast.parse(read(module.replace(".", "/") + ".py"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_running_a_notebook_writes_is_ignored_by_git():
    if git("status") is None:
        pytest.skip("not a git checkout")
    for path in ("lab/10_run.ipynb", "executed/10_run.ipynb", "runs/notebooks/10_run.ipynb", "out.ipynb"):
        assert git("check-ignore", path) == f"{path}\n"
    assert not git("check-ignore", "notebooks/10_run.ipynb")


# ---- without installing anything, and the public address


def test_binder_and_codespaces_install_what_this_project_needs_with_pytorch_for_the_cpu():
    binder = yaml.safe_load(read(".binder/environment.yml"))
    assert binder["channels"] == ["conda-forge"] and {"pip", "pytorch-cpu", "torchvision"} <= {*binder["dependencies"]}
    (series,) = (line.removeprefix("python=") for line in binder["dependencies"] if line.startswith("python="))
    assert SpecifierSet(project()["requires-python"]).contains(f"{series}.0")
    script = read(".binder/postBuild")
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK) and "constraints.txt" in script and "-e ." in script
    container = json.loads(re.sub(r"^//.*\n", "", read(".devcontainer/devcontainer.json"), flags=re.MULTILINE))
    command, name = container["postCreateCommand"], binder["name"]
    assert ".binder/environment.yml" in command and f"--name {name} .binder/postBuild" in command
    assert name in container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]


@pytest.fixture
def address():
    """docs/address.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_address", ROOT / "docs" / "address.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_files_hold_the_public_address_that_pyproject_has_and_no_other(address):
    for path, text in address.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python docs/address.py"


def test_links_the_citation_and_the_cell_on_colab_appear_with_the_address_and_go_with_it(address, tmp_path):
    for path in (ROOT / "pyproject.toml", *address.files()):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    config = tmp_path / "pyproject.toml"
    none = re.sub(r"^\[project.urls\]\nRepository = .*\n", "", config.read_text(), flags=re.MULTILINE)
    config.write_text(none)
    before = address.files(tmp_path)
    project = "someone/semi-study"
    config.write_text(f'{none}\n[project.urls]\nRepository = "https://github.com/{project}"\n')
    after = address.files(tmp_path)
    for path, text in after.items():
        path.write_text(text, encoding="utf-8")
    assert address.files(tmp_path) == after, "a second time changes nothing"
    readme, quickstart = after[tmp_path / "README.md"], "notebooks/00_quickstart.ipynb"
    for link in (f"https://mybinder.org/v2/gh/{project}/HEAD?urlpath=lab/tree/{quickstart}",
                 f"https://colab.research.google.com/github/{project}/blob/main/{quickstart}",
                 f"https://codespaces.new/{project}", "actions/workflows/ci.yml/badge.svg", "](docs/running.md"):
        assert link in readme
    new = {*readme.splitlines()} - {*before[tmp_path / "README.md"].splitlines()}
    assert new and max(map(len, new)) <= 120
    assert yaml.safe_load(after[tmp_path / "CITATION.cff"])["repository-code"] == f"https://github.com/{project}"
    for path in (path for path in after if path.suffix == ".ipynb"):
        title, cell, *_ = json.loads(after[path])["cells"]
        assert title["cell_type"] == "markdown" and f"git+https://github.com/{project}" in "".join(cell["source"])
        exec("".join(cell["source"]), {})                      # here there is no Colab: it does nothing
    config.write_text(none)
    assert project not in "".join(address.files(tmp_path).values())
    assert address.files(tmp_path) == before, "as it was without one"
    config.write_text(none + '\n[project.urls]\nRepository = "https://example.org/x"\n')
    with pytest.raises(ValueError, match="Repository='https://example.org/x': https://github.com/OWNER/NAME"):
        address.files(tmp_path)


# ---- README.md


@pytest.fixture
def readme():
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md is not written yet")
    return read("README.md")


FENCE = re.compile(r"^[ ]{0,3}(```|~~~)[^\n]*\n(.*?)^[ ]{0,3}\1\s*$", re.MULTILINE | re.DOTALL)


def code_of(text):
    """The lines of the fenced blocks without shell comments, and the inline code spans."""
    blocks = [re.sub(r"(^|\s)#.*", "", line) for _, block in FENCE.findall(text) for line in block.splitlines()]
    return blocks, re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(text, pattern):
    """First group of `pattern` for each command in README's code; `a && b` is two commands."""
    blocks, spans = code_of(text)
    parts = [part.strip().removeprefix("$ ") for line in blocks + spans for part in re.split(r"&&|;|\|", line)]
    return {match[1] for part in parts if (match := re.match(r"(?:[A-Z_]+=\S+\s+)*" + pattern, part))}


def test_readme_names_make_targets_that_exist(readme):
    named = commands(readme, r"make\s+(?:[A-Z_]+=\S+\s+|-\S+\s+)*([a-z][\w-]*)")
    assert {"quickstart", "test"} <= named
    assert named <= targets(), f"no such target: {named - targets()}"


def test_readme_names_verbs_that_exist(readme):
    named = commands(readme, r"(?:\S*python[\d.]*\s+-m\s+|\S*/)?semilib\s+([a-z][\w-]*)")
    shown = subprocess.run([sys.executable, "-m", "semilib", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    lists = [word.strip() for group in re.findall(r"\{([\w\s,-]+)\}", shown.stdout) for word in group.split(",")]
    verbs = {*lists, *re.findall(r"^ {1,4}([a-z][\w-]*)(?:\s|$)", shown.stdout, re.MULTILINE)}
    assert {"quickstart", "smoke-notebooks"} <= verbs
    assert named <= verbs, f"no such verb: {named - verbs}"


SUFFIXES = (".py", ".ipynb", ".md", ".yml", ".yaml", ".toml", ".txt", ".json", ".jsonl", ".csv", ".png", ".svg",
            ".pdf", ".cff")
FOLDERS = ("notebooks", "semilib", "benchmarks", "figures", "results", "tests", ".ci")


def named_paths(text):
    """What README names as a path of this tree: in code spans, in commands, and as the target of a link."""
    blocks, spans = code_of(text)
    for span in spans:
        if re.fullmatch(r"[\w./*<>-]+", span) and not span.startswith(("/", "-")) and (
                span.endswith((*SUFFIXES, "/")) or span.partition("/")[0] in FOLDERS and "/" in span):
            yield span
    for line in blocks + [span for span in spans if " " in span]:
        yield from (word for word in re.findall(r"[\w./*<>-]+", line) if word.partition("/")[0] in FOLDERS
                    and "/" in word)
    for target in re.findall(r"\]\(([^)\s]+)", FENCE.sub("", text)):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


def test_readme_names_files_and_folders_that_exist(readme):
    named = set(named_paths(readme))
    assert named
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "semilib").rglob("*.py"))
    missing = []
    for path in sorted(named):
        pattern = re.sub(r"<[^>]*>", "*", path).removeprefix("./").rstrip("/")
        if any(ROOT.glob(pattern)) or git("check-ignore", pattern) or git("check-ignore", pattern + "/"):
            continue
        if "/" not in path and path in code:  # the name of a file that a run writes
            continue
        missing.append(path)
    assert not missing, f"README.md names, but there is not: {', '.join(missing)}"


# ---- citation, licence, layout


def test_citation_has_what_the_format_requires_and_agrees_with_pyproject():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert str(citation["version"]) == project()["version"]
    assert citation["license"] == project()["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project()["authors"]]
    [paper] = [entry for entry in citation["references"] if "2501.06004" in json.dumps(entry)]
    assert {"type", "title", "authors", "year"} <= paper.keys() and paper["authors"]
    assert paper["title"] == "SeMi: When Imbalanced Semi-Supervised Learning Meets Mining Hard Examples"


def test_licence_is_the_declared_one():
    assert project()["license-files"] == ["LICENSE"]
    assert read("LICENSE").startswith(f"{project()['license']} License")
    assert project()["authors"][0]["name"] in read("LICENSE")


@pytest.mark.parametrize("name",
                         ["notebooks", "semilib", "benchmarks", "figures", "results", "tests", "environment.yml",
                          "pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "CITATION.cff"])
def test_top_level_has(name):
    path = ROOT / name
    assert any(path.iterdir()) if path.is_dir() else path.is_file()


def test_tracked_text_names_no_machine():
    """No path of the machine that a file was made on, and no package index: both slip in with outputs of notebooks."""
    words = ["/" + "work/", "/" + "root/", "index" + "-url"]
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        text = re.sub(r"https?://[^\s\"'<>)]+", "", data.decode("utf-8", errors="replace"))
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if word in text]
    assert not found, "; ".join(found)
