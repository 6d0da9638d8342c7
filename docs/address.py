"""What needs the project's public address: README's badge and links, the citation, the notebooks' first cell on Colab.

    python docs/address.py                     # after `Repository` of [project.urls] in pyproject.toml was set

The address stands in pyproject.toml alone. While it stands nowhere, none of these is there, so that no link is dead.
"""
from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from semilib.errors import BadInput  # noqa: E402
from semilib.files import write_text  # noqa: E402

FIRST = "notebooks/00_quickstart.ipynb"
# The notebooks that need nothing but the installed package.
ON_COLAB = ("00_quickstart", "10_run", "30_add_your_method", "31_look_at_a_run", "51_your_pictures")
BADGE = "[![tests][badge]][runs] "          # a picture from elsewhere, which the site leaves out
LINKS = """<!-- address: begin -->
{badge}Without installing anything: [Binder], [Colab], [Codespaces]
([what each does](docs/running.md#one-click)).

[badge]: {address}/actions/workflows/ci.yml/badge.svg
[runs]: {address}/actions/workflows/ci.yml
[Binder]: https://mybinder.org/v2/gh/{project}/HEAD?urlpath=lab/tree/{first}
[Colab]: https://colab.research.google.com/github/{project}/blob/main/{first}
[Codespaces]: https://codespaces.new/{project}
<!-- address: end -->

"""
CELL = """# On Colab alone: the project beside the PyTorch that is there, for its CPU or its GPU.
import importlib.util

if importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"):
    get_ipython().run_line_magic("pip", "install --quiet git+{address}")"""


def address(root: Path = ROOT) -> str:
    """The public address, or "". Raises BadInput for another than of a project on GitHub, where the services look."""
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    found = urls.get("Repository", "")
    if found and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", found):
        raise BadInput("Repository", found, "https://github.com/OWNER/NAME")
    return found


def readme(text: str, address: str) -> str:
    """README with the badge and the links below its title, or without."""
    text = re.sub(r"<!-- address: begin -->.*?<!-- address: end -->\n\n", "", text, flags=re.DOTALL)
    if not address:
        return text
    title, rest = text.split("\n\n", 1)
    project = address.removeprefix("https://github.com/")
    return f"{title}\n\n{LINKS.format(address=address, project=project, first=FIRST, badge=BADGE)}{rest}"


def citation(text: str, address: str) -> str:
    """CITATION.cff with the address, or without."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.MULTILINE)
    line = f"repository-code: {address}\n" if address else ""
    return re.sub(r"^(license: .*\n)", rf"\1{line}", text, flags=re.MULTILINE)


def notebook(text: str, address: str) -> str:
    """A notebook with the cell that installs the project on Colab below its title, or without."""
    content = json.loads(text)
    cells = [cell for cell in content["cells"] if "colab" not in cell["metadata"].get("tags", [])]
    if address:
        cells.insert(1, {"cell_type": "code", "execution_count": None, "id": "colab", "metadata": {"tags": ["colab"]},
                         "outputs": [], "source": CELL.format(address=address).splitlines(keepends=True)})
    if cells == content["cells"]:
        return text
    return json.dumps({**content, "cells": cells}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def files(root: Path = ROOT) -> dict[Path, str]:
    """The files that hold the address, as they have to be."""
    known = address(root)
    make = {"README.md": readme, "CITATION.cff": citation, **{f"notebooks/{name}.ipynb": notebook for name in ON_COLAB}}
    return {root / name: write((root / name).read_text(encoding="utf-8"), known) for name, write in make.items()}


if __name__ == "__main__":
    for path, text in files().items():
        if path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            print(path.relative_to(ROOT).as_posix())
