"""Running notebooks by papermill, with what papermill itself lets pass: unknown parameters and wrong types.

papermill only logs a warning for a parameter that a notebook does not have, and injects any type. So `execute` checks
parameters before a kernel starts, and `check_parameters` does in the notebook, for whoever calls papermill directly.
"""
from __future__ import annotations

import ast
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from semilib import files
from semilib.errors import BadInput, NotebookError, check_name
from semilib.files import PACKAGE, shown, write_text
from semilib.options import in_words
from semilib.training import progress

SOCKETS = 90                                    # bytes of the path of the folder of a kernel's sockets, at most
INJECTED = "# Parameters\n"                     # papermill's first line of the cell with the parameters it was given
CHECKED = "nbval-check-output"                  # tag of a cell that shows numbers of committed records
CONTROLS = "application/vnd.jupyter.widget-view+json"            # an output that is a control of a notebook
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}

SMOKE: dict[str, dict[str, Any]] = {            # parameters that make each notebook a matter of seconds
    "00_quickstart.ipynb": {"profile": "smoke"},
    "30_add_your_method.ipynb": {"profile": "smoke", "lowest": 0.1},
    "10_run.ipynb": {"profile": "smoke"},
    "31_look_at_a_run.ipynb": {"profile": "smoke"},
    **{f"{name}.ipynb": {"profile": "smoke"} for name in ("21_table1_cifar", "22_table2_mismatched",
                                                          "24_table4_ablation", "25_table5_modules", "41_figures")},
    "23_table3_imagenet127.ipynb": {"methods": ["fixmatch", "semi"]},                         # trains nothing
    "26_features_study.ipynb": {},                                                            # trains nothing
    "51_your_pictures.ipynb": {"profile": "smoke", "scratch": 4},
    "90_speed.ipynb": {"profile": "smoke", "sections": ["steps", "parts"], "steps": 3},
}

# What the tests' copies change besides: runs of half the steps of profile smoke and a quarter of its images, and of the
# methods those named here. Every method has a smoke run of its own in the tests.
SHORT = {"steps": 12, "eval_every": 12, "batch": 4}
FEW: dict[str, dict[str, Any]] = {
    "21_table1_cifar.ipynb": {"methods": ["supervised", "fixmatch", "semi"]},
    "22_table2_mismatched.ipynb": {"methods": ["fixmatch", "semi"]},
    "24_table4_ablation.ipynb": {"variants": {"alpha 0.2": {"alpha": 0.2}}},
    "25_table5_modules.ipynb": {"methods": ["fixmatch"]},
    "41_figures.ipynb": {"methods": ["supervised", "semi"], "pair": ["supervised", "semi"]},
}

# The copies in one kernel, by how their names begin, in order: a kernel takes longer to start than most of them take to
# run. The notebook that registers a method is the last of its book.
BOOKS = {"tables": ("2", "4"), "runs": ("0", "1", "5", "9", "31", "30")}


def fitting(name: str, known: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """Of parameters that are given to several notebooks, those that this one knows.

    With profile="smoke" come the values of `SMOKE` that make it act in seconds. A notebook without such a profile
    (ImageNet-127 is never small) keeps its own."""
    fitted = {k: v for k, v in given.items() if k in known}
    if given.get("profile") == "smoke" and name in SMOKE:
        fitted = {**SMOKE[name], **fitted}
        if "profile" not in SMOKE[name]:
            fitted.pop("profile", None)
    return fitted


def check_parameters(given: dict[str, Any], **expected: Any) -> None:
    """Refuse unknown or mistyped parameters of a notebook, in its first cell after the parameters.

    given: globals(). expected: the notebook's parameters by name, each with its type or a tuple of types. Raises
    BadInput with the nearest valid name, or with the type that would be right. Only plain values (numbers, texts, lists
    and dicts of them) can be injected, and only by the cell that papermill adds, so other globals are left alone.
    """
    for name in _injected(given):
        check_name("parameter", name, expected)
    for name, kinds in expected.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if type(given.get(name, Ellipsis)) not in kinds:
            raise BadInput(name, given.get(name, Ellipsis), in_words(kinds))
    _check_fields(given, expected)


def _check_fields(given: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse a parameter `fields` that names one of the notebook's other parameters."""
    fields = given.get("fields")
    for name in fields if isinstance(fields, dict) else ():
        if name in known:
            raise BadInput("fields", fields, f"without {name}, which is a parameter of its own")


def _injected(given: dict[str, Any]) -> list[str]:
    """The names of globals that may be parameters which papermill was given. `In` holds the cells that were run."""
    plain = [name for name, value in given.items()
             if not name.startswith("_") and name not in ("In", "Out") and is_plain(value)]
    if "In" not in given:
        return plain
    cells = [ast.parse(cell) for cell in given["In"] if cell.startswith(INJECTED)]
    assigned = {node.id for cell in cells for node in ast.walk(cell)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return [name for name in plain if name in assigned]


def is_plain(value: Any) -> bool:
    """Whether papermill carries a value faithfully: numbers, texts, None, lists and dicts (by texts) of them."""
    if type(value) is list:
        return all(is_plain(v) for v in value)
    if type(value) is dict:
        return all(type(k) is str and is_plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str)


def parameters(notebook: str | Path) -> dict[str, Any]:
    """The parameters of a notebook with their default values, from its cell tagged `parameters`. Raises BadInput for a
    file that is no notebook with such a cell, and for a line of it that is not NAME = VALUE with a plain value."""
    name = Path(notebook).name
    try:
        cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise BadInput("notebook", str(notebook), f"a file with a notebook ({why})") from error
    if len(tagged) != 1:
        raise BadInput("notebook", str(notebook), f"a notebook with one cell tagged `parameters`; it has {len(tagged)}")
    found: dict[str, Any] = {}
    source = "".join(tagged[0]["source"])
    try:
        lines = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise BadInput("notebook", name, f"Python in its cell tagged `parameters` ({error})") from error
    for node in lines:
        match node:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id=parameter)], value=value) \
                    | ast.AnnAssign(target=ast.Name(id=parameter), value=ast.expr() as value):
                with contextlib.suppress(ValueError, TypeError, MemoryError, RecursionError):
                    found[parameter] = ast.literal_eval(value)
                    continue
        raise BadInput("notebook", name, "NAME = VALUE with a plain value in each line of its cell tagged "
                                         f"`parameters`; line {node.lineno} is {ast.unparse(node)}")
    return found


def check_given(notebook: str | Path, given: dict[str, Any]) -> None:
    """Refuse parameters that the notebook does not have, of another type than the default's, and values that papermill
    does not carry faithfully. None goes with any type."""
    known = parameters(notebook)
    for name, value in given.items():
        check_name("parameter", name, known)
        if not is_plain(value):
            raise BadInput(name, value, "of numbers, texts, True, False, None, and lists and dicts (by texts) of them")
        default = known[name]
        same = type(value) is type(default) or (type(value) is int and type(default) is float)
        if not (same or default is None or value is None):
            wanted = f"{in_words((type(default),))}, as in {Path(notebook).name} ({name} = {default!r})"
            raise BadInput(name, value, wanted)
    _check_fields(given, known)


def execute(notebook: str | Path, output: str | Path, given: dict[str, Any], show: bool = True) -> Path:
    """Execute a notebook by papermill. `output` is there when all cells ran, and not before.

    Meanwhile, the progress of its runs is followed in the terminal. It runs in its own folder; one of the installed
    package runs where the command does. A failed notebook is kept as OUTPUT.failed.ipynb, with the error in it. Raises
    NotebookError for it, and for one that stops by sys.exit(), which papermill lets pass.
    """
    import papermill
    from traitlets.config import Config
    notebook, output = Path(notebook), Path(output)
    check_given(notebook, given)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.stem}.{os.getpid()}.part.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    where = files.home() if notebook.is_relative_to(PACKAGE) else notebook.parent
    code = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    sockets_in = tempfile.TemporaryDirectory(prefix="kernel-", dir=place_of_sockets())
    with followed(show), variable("PYTHONPATH", code), sockets_in as sockets:
        # A kernel's sockets are files. By default all kernels started in one folder have the same, and mix them up.
        sockets_apart = {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/s"}}
        config = Config(sockets_apart if os.name == "posix" else {})
        try:
            done = papermill.execute_notebook(str(notebook), str(part), parameters=given, progress_bar=False,
                                              config=config, kernel_name="python3", cwd=str(where))
            left = [out for cell in done.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
            if left:
                raise NotebookError(notebook.name, left[0].ename, left[0].evalue, shown(failed))
        except BaseException as error:
            if part.exists():
                os.replace(part, failed)
            if isinstance(error, papermill.PapermillExecutionError):
                raise NotebookError(notebook.name, error.ename, error.evalue, shown(failed)) from None
            raise
    clean(part)
    os.replace(part, output)
    failed.unlink(missing_ok=True)
    return output


@contextlib.contextmanager
def followed(show: bool) -> Iterator[None]:
    """Inside, the progress that a notebook's runs leave in a file is shown in this terminal."""
    with tempfile.TemporaryDirectory() as folder, variable(progress.FILE, f"{folder}/progress.json"):
        file, stop = Path(folder) / "progress.json", threading.Event()
        thread = threading.Thread(target=_follow, args=(file, stop), daemon=True)
        if show:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if show:
                thread.join()


@contextlib.contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Inside, an environment variable has a value, for this process and those that it starts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def place_of_sockets() -> str:
    """The folder of temporary files in which a kernel's sockets may lie: the system limits their paths to about 100
    characters. Raises BadInput where there is none whose path is short enough."""
    longest = SOCKETS - 20
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if len(os.fsencode(place)) <= longest and os.access(place, os.W_OK):
            return place
    raise BadInput("TMPDIR", tempfile.gettempdir(), f"a folder whose path has at most {longest} characters")


def _follow(file: Path, stop: threading.Event) -> None:
    terminal, last, shown_at = progress.Terminal(), None, 0.0
    while not stop.wait(0.3):
        try:
            lines = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):                        # not there yet, or just being replaced
            continue
        finished = len(lines["finished"]) > terminal.printed
        if finished or (lines != last and time.monotonic() - shown_at >= terminal.period):
            terminal.print_lines(lines["finished"], lines["now"])
            last, shown_at = lines, time.monotonic()


def clean(notebook: str | Path) -> None:
    """Take out what a reader and a diff do not need: execution times, papermill's and the kernel's own metadata, and
    controls, which only a running kernel answers."""
    notebook = Path(notebook)
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["metadata"] = METADATA
    for cell in content["cells"]:
        tags = [t for t in cell["metadata"].get("tags", []) if t != "injected-parameters"]
        cell["metadata"] = {"tags": tags} if tags else {}
        if "outputs" in cell:
            cell["outputs"] = [out for out in cell["outputs"] if CONTROLS not in out.get("data", {})]
        for out in cell.get("outputs", []):
            if "metadata" in out:
                out["metadata"] = {}
    write_text(notebook, json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def copies(folder: str | Path) -> dict[Path, bool]:
    """Working copies of the notebooks, to be run and changed: without outputs, in a folder that git ignores.

    A copy that is there stays as it is. Returns each copy, and whether its cells are still those of its notebook."""
    same = {}
    for notebook in sorted(files.notebooks().glob("[!.]*.ipynb")):
        copy, content = Path(folder) / notebook.name, json.loads(notebook.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
        if not copy.is_file():
            write_text(copy, json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        same[copy] = _sources(copy) == _sources(notebook)
    return same


def _sources(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]]


def smoke_books(folder: str | Path, notebooks: str | Path) -> list[Path]:
    """The notebooks' code in the files of BOOKS, which nbval runs in the tests: with the parameters of `SMOKE`, in
    seconds. Before each notebook the kernel is emptied, in a cell that names it.
    """
    folder, out = Path(folder).resolve(), []
    folder.mkdir(parents=True, exist_ok=True)
    for book, beginnings in BOOKS.items():
        cells = [cell for beginning in beginnings for notebook in sorted(Path(notebooks).glob(f"{beginning}*.ipynb"))
                 for cell in _smoke_cells(notebook, folder)]
        content = {"cells": [{**cell, "id": f"code-{place}"} for place, cell in enumerate(cells)],
                   "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
        out.append(folder / f"{book}.ipynb")
        write_text(out[-1], json.dumps(content))
    return out


def _smoke_cells(notebook: Path, folder: Path) -> list[dict[str, Any]]:
    """A notebook's code with its parameters for the tests.

    A notebook that shows numbers of committed records has cells tagged CHECKED. Its code comes a second time, set to
    train nothing and to look at no other run. nbval compares what these cells then show with their committed outputs.
    """
    content, known = json.loads(notebook.read_text(encoding="utf-8")), parameters(notebook)
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    given = {**SMOKE.get(notebook.name, {}), "runs": str(folder / "runs" / notebook.stem)}   # two may run at a time
    if given.get("profile") == "smoke" and "fields" in known:
        given["fields"] = SHORT
    given |= FEW.get(notebook.name, {})
    check_given(notebook, given)
    small = [{**cell, "outputs": [], "metadata": {"tags": sorted(_tags(cell) - {CHECKED})}}
             for cell in _with(code, given)]
    reset = {"cell_type": "code", "metadata": {}, "source": f"# {notebook.name}\n%reset -f", "outputs": [],
             "execution_count": None}
    again = []
    if any(CHECKED in _tags(cell) for cell in code):
        records = {"train": False, "measure": False, "runs": str(folder / "none")}
        again = [reset, *_with(code, {name: value for name, value in records.items() if name in known})]
    return [reset, *small, *again]


def _tags(cell: dict[str, Any]) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def _with(code: list[dict[str, Any]], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Code cells with given parameters, which are set at the end of the cell tagged `parameters`."""
    lines = "".join(f"\n{name} = {value!r}" for name, value in given.items())
    return [{**cell, "source": "".join(cell["source"]) + ("parameters" in _tags(cell)) * lines} for cell in code]
