"""A person at the ablation notebook: opened in JupyterLab, in a real browser, changed by typing and run from the menu,
twice.

Without Chromium or the extra "browser" (playwright) the test is skipped; SEMILIB_ENGINES="browser" in the environment,
as .ci/run sets it where it has both, makes that a failure. Nothing is loaded from the network.
"""
import importlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
from kit import DATA, ROOT

from semilib.study import grids

NAME = "24_table4_ablation.ipynb"
PARAMETERS, COUNT, PROGRESS, TABLE = range(4)           # the notebook's code cells, in order
SECONDS = 300                                           # for anything that is waited for: an idle machine needs a tenth
STDERR = "application/vnd.jupyter.stderr"               # of an error too

# Off: questions about news. Off: windowing, which takes cells out of the page while they are out of view.
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "notebook-extension/tracker": {"windowingMode": "none"}}
# A server's folders in the environment of a process, so that nothing of the user's is read or written.
FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
           "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")

# JavaScript. Until the notebook's kernel has answered, a run would ask which kernel to take.
READY = """async () => {
  const shown = jupyterapp.shell.currentWidget;
  await shown.context.ready; await shown.sessionContext.ready; await shown.sessionContext.session.kernel.info;
}"""
SAVED = "() => !jupyterapp.shell.currentWidget.context.model.dirty"
# [prompt, text of the output, whether it is an error or a warning] of each code cell, as the page shows it.
SHOWN = f"""() => [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')].map(cell => [
  cell.querySelector('.jp-InputArea-prompt').innerText.trim(),
  cell.querySelector('.jp-Cell-outputArea')?.innerText ?? '',
  cell.querySelector('[data-mime-type="{STDERR}"]') !== null])"""


@pytest.fixture
def chromium():
    """The path of a Chromium, where there is playwright to drive it; else the test is skipped."""
    missing = pytest.fail if "browser" in os.environ.get("SEMILIB_ENGINES", "").split() else pytest.skip
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        missing("JupyterLab is not opened in a browser: there is no Chromium here")
    if importlib.util.find_spec("playwright") is None:
        missing('JupyterLab is not opened in a browser: the extra "browser", that is playwright, is not installed')
    return found[0]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def project(tmp_path):
    """A folder like the project's, with the notebook as it is before anyone has run it: to `files.home` it is the
    project, so that runs and tables go into it."""
    for name in ("notebooks", "semilib"):
        (tmp_path / name).mkdir()
    book = json.loads((ROOT / "notebooks" / NAME).read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    (tmp_path / "notebooks" / NAME).write_text(json.dumps(book), encoding="utf-8")
    return tmp_path


@pytest.fixture
def server(chromium, project):
    """JupyterLab on the project's notebooks: (address, token), once it answers."""
    home, port, token = project / "jupyter", free_port(), "let-me-in"
    own = {name: str(home / name.lower()) for name in FOLDERS}
    for name, values in SETTINGS.items():
        file = home / "jupyterlab_settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(home / "server.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
             f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
             f"--ServerApp.root_dir={project / 'notebooks'}", "--LabApp.expose_app_in_browser=True"],
            env={**os.environ, **own, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, cwd=project, stdout=log, stderr=log)
    try:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
        while not answers(f"{address}/api/status?token={token}"):
            alive = process.poll() is None and time.monotonic() < until
            assert alive, (home / "server.log").read_text(encoding="utf-8")
            time.sleep(0.2)
        yield address, token
    finally:
        process.terminate()                                    # ends its kernels too
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def lab(chromium, project, server):
    """The notebook open in the browser with its kernel running:
    page, and problems, a list that grows with what goes wrong."""
    address, token = server
    with importlib.import_module("playwright.sync_api").sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=list(QUIET))
        page, problems = browser.new_page(viewport={"width": 1280, "height": 1000}), []
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
        page.on("requestfailed",
                lambda request: problems.append(f"failed: {request.method} {request.url} {request.failure}"))
        page.on("response", lambda answer: answer.status < 400 or problems.append(f"{answer.status}: {answer.url}"))
        page.goto(f"{address}/lab/tree/{NAME}?reset&token={token}")
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook")
        page.evaluate(READY)
        try:
            yield SimpleNamespace(page=page, problems=problems)
        finally:
            page.screenshot(path=project / "last.png")         # of a failure too
            browser.close()


# ---- what a person does ----------------------------------------------------------------------------------------------


def set_parameter(page, name: str, value) -> None:
    """Type over a line of the parameters' cell."""
    page.locator(".jp-CodeCell").nth(PARAMETERS).locator(".cm-line", has_text=re.compile(rf"^{name} = ")).click()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.keyboard.type(f"{name} = {value!r}")


def choose(page, menu: str, command: str) -> None:
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{menu}$")).click()
    page.locator(f'.lm-Menu-item[data-command="{command}"]').click()


def run_all(page, first: int) -> tuple[list[str], list[str]]:
    """Run all cells, whose counts then begin with `first`:
    (the progress that was seen while its cell ran, oldest first; the outputs)."""
    choose(page, "Run", "runmenu:run-all")
    page.locator(".jp-CodeCell").nth(PROGRESS).scroll_into_view_if_needed()
    seen, until = [], time.monotonic() + SECONDS
    while True:
        prompts, texts, wrong = map(list, zip(*page.evaluate(SHOWN), strict=True))
        assert not any(wrong), "\n".join(texts)
        if prompts == [f"[{first + i}]:" for i in range(len(prompts))]:
            return seen, texts
        assert time.monotonic() < until, f"{prompts}\n" + "\n".join(texts)
        if prompts[PROGRESS] == "[*]:" and texts[PROGRESS] not in seen[-1:]:
            seen.append(texts[PROGRESS])
        page.wait_for_timeout(100)


def check_progress(seen: list[str], last: str, seed: int, of: int) -> None:
    """Lines of one seed's runs came one after the other, named as rows of the table and with steps, while the cell was
    running; the last text has all done."""
    name = rf"\[\d+/{of}\] [A-Za-z].*, seed {seed}"
    lines = last.strip().splitlines()
    assert len(lines) == of, last
    assert all(re.fullmatch(rf"{name}  done  balanced accuracy \d+\.\d%", line) for line in lines), last
    assert any(f"] without OHEML, seed {seed}  done" in line for line in lines), last
    lines = [text.splitlines()[-1] for text in seen if f", seed {seed} " in text]
    assert not [line for line in lines if not re.match(rf"{name} ", line)]
    at = [int(re.match(r"\[(\d+)/", line)[1]) for line in lines]
    assert at == sorted(at) and len(set(at)) >= 5, at
    moving = r"  step \d+/12  loss \d+\.\d+.* steps/s  about \d+:\d\d left$"
    assert any(re.search(moving, line) for line in lines), lines


def test_the_ablation_in_jupyterlab_changed_and_run_twice(project, lab):
    n = len(grids.grid("table4", "smoke", seeds=[0], root=DATA).runs)
    # Twelve steps: with fewer, some component of SeMi has nothing to do yet, and its run says so and fails.
    for name, value in dict(profile="smoke", seeds=[0], fields={"steps": 12, "eval_every": 12}, root=DATA).items():
        set_parameter(lab.page, name, value)
    seen, texts = run_all(lab.page, 1)
    assert f"{n} runs, of which {n} are missing" in texts[COUNT]
    check_progress(seen, texts[PROGRESS], 0, n)
    first = texts[TABLE]
    assert ("Table 4, SeMi's components and its release's defects: "
            "profile smoke (12 steps, embedded pictures, eval_every = 12)") in first
    assert re.search(r"^SeMi\t\d+\.\d\t1\t", first, re.MULTILINE), "cells of an HTML table"
    assert re.search(r"^without OHEML\t\d+\.\d\t1\t.*\t[+-]\d+\.\d\tall 1$", first, re.MULTILINE)

    set_parameter(lab.page, "seeds", [0, 1])
    seen, texts = run_all(lab.page, 1 + len(texts))
    assert f"{2 * n} runs, of which {n} are missing" in texts[COUNT], "the first seed's runs are found again"
    check_progress(seen, texts[PROGRESS], 1, n)
    assert "profile smoke (12 steps, embedded pictures, eval_every = 12)" in texts[TABLE]
    number = r"[+-]?\d+\.\d"
    row = rf"^without OHEML\t{number} ± {number}\t2\t.*\t{number} \({number}, {number}\)\tall 1$"
    found = re.search(row, texts[TABLE], re.MULTILINE)
    assert found, "two seeds have a spread and two differences"
    assert len(list((project / "runs").rglob("run.json"))) == 2 * n

    choose(lab.page, "File", "docmanager:save")
    lab.page.wait_for_function(SAVED)
    text = (project / "notebooks" / NAME).read_text(encoding="utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert "seeds = [0, 1]\n" in "".join(code[PARAMETERS]["source"])
    kept = code[TABLE]["outputs"][0]["data"]
    for kind in ("text/plain", "text/html"):
        assert all(cell in "".join(kept[kind]) for cell in found[0].split("\t")), kind
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert kinds == {"stream", "display_data", "execute_result"}
    assert not [output for cell in code for output in cell["outputs"] if output.get("name") == "stderr"]
    assert "widget" not in text
    assert not lab.problems
    # for the picture
    lab.page.locator(".jp-CodeCell").nth(TABLE).get_by_text("without OHEML").first.scroll_into_view_if_needed()
