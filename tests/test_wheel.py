"""A wheel built from the clone, offline, works where there is no clone: the notebooks are inside and are found."""
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from kit import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What a wheel holds, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("semilib", "notebooks"):
        shutil.copytree(ROOT / name, folder / "clone" / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "LICENSE", "results/published.csv"):
        (folder / "clone" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"     # what pip asks for
    subprocess.run([sys.executable, "-c", build, folder], cwd=folder / "clone", check=True, capture_output=True)
    (wheel,) = folder.glob("semilib-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_every_file_of_the_package_every_notebook_and_the_published_numbers(installed):
    def files(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
                if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")}
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("[!.]*.ipynb")}
    assert files(installed / "semilib") == files(ROOT / "semilib") | notebooks | {"results/published.csv"}


def test_commands_find_the_notebooks_of_the_installed_package_from_any_folder(installed, tmp_path):
    code = ("from semilib import cli, files; from semilib.study import notebooks; cli.main(['copies']); "
            "print(files.notebooks(), notebooks.parameters(files.notebooks() / '10_run.ipynb')['method'])")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(installed)})
    count = len(list((ROOT / "notebooks").glob("[!.]*.ipynb")))
    assert done.stdout.splitlines() == [f"lab: {count} notebooks", f"{installed / 'semilib' / 'notebooks'} semi"]
    assert len(list((tmp_path / "lab").glob("*.ipynb"))) == count
