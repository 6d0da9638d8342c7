"""The unit of work: one run, done or gone on with or left alone, whoever asks for it. Doing it twice costs nothing.

It executes `notebooks/10_run.ipynb` with the parameters of one run, and believes nothing but the run's own record. In
the run's folder it leaves, beside the record,

    run.ipynb      the executed notebook, there only if all that it did was checked
    done.json      written last: the run is done and its log gives its result
    unit/          the unit's lock, and the notebook while it is executed or if it failed
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from semilib import files
from semilib.data import folders
from semilib.errors import BadInput, NotebookError, RunBusy, TrainingError
from semilib.files import PACKAGE
from semilib.study import notebooks
from semilib.training import progress, record, writer
from semilib.training.config import Run
from semilib.training.progress import Progress
from semilib.training.train import train

UNIT = "10_run.ipynb"
DONE, BUSY, FAILED, KILLED = 0, 75, 1, 138         # exit codes of a worker; 138 is papermill's for a kernel that died
WAIT = 15.0                # seconds: a kernel outlives its killed worker a little, it looks for its parent every second


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run. state: done | done before | failed | killed | busy (another process has it) | submitted."""

    run: Run
    folder: Path
    state: str
    error: str = ""

    @property
    def exit_code(self) -> int:
        """The exit code that tells a launcher."""
        return {"failed": FAILED, "busy": BUSY, "killed": KILLED}.get(self.state, DONE)


# ---- a run as parameters of the notebook -----------------------------------------------------------------------------


@folders.seen()
def parameters_of(run: Run) -> dict[str, Any]:
    """The parameters of `notebooks/10_run.ipynb` that make this run, few where it is a usual run.

    Paths inside the project are relative to it. `run_of` gives the run back, with an equal key.
    """
    named = {"dataset": run.dataset, "method": run.method, "profile": run.profile, "seed": run.seed}
    root = files.shown(files.place(run.root))
    for short in (True, False):
        with contextlib.suppress(BadInput):
            given = run.arguments(short)
            fields = {k: v for k, v in given.items() if k not in (*named, "options", "root")}
            parameters = {**named, "options": given.get("options", {}), "fields": fields, "root": root}
            if run_of(parameters) == dataclasses.replace(run, root=str(files.place(root))):
                return parameters
    raise BadInput("run", run.name, "a run that Run.of can make")


def run_of(parameters: dict[str, Any]) -> Run:
    """The run that the notebook makes of its parameters."""
    named = {k: v for k, v in parameters.items() if k not in ("runs", "fields", "root")}
    return Run.of(**named, **parameters["fields"], root=str(files.place(parameters["root"])))


def notebook() -> Path:
    """The notebook that a run executes."""
    return files.notebooks() / UNIT


# ---- the unit --------------------------------------------------------------------------------------------------------


def run_one(run: Run, runs: str | Path = "runs", notebook: bool = True, wait: float = WAIT) -> Outcome:
    """Do a run, or the rest of it, or nothing if it is done. Check it and mark it done.

    A run that fails raises nothing: its outcome says why.
    notebook: execute `notebooks/10_run.ipynb` (a kernel, seconds to start); False trains in this process.
    wait: seconds for which a kernel may still hold the run after its worker was killed, before the run counts as busy.
    """
    runs = files.place(runs)
    path = record.folder(run, runs)
    try:
        if is_done(path):
            return _checked(run, path, "done before")
        with writer.hold(path / "unit"):
            if is_done(path):
                return _checked(run, path, "done before")
            if not _is_free(path, wait):
                return Outcome(run, path, "busy")
            _reopen(path)
            if notebook:
                return _execute(run, path, runs)
            train(run, runs, progress=Progress())
            return _checked(run, path, "done")
    except RunBusy:
        return Outcome(run, path, "busy")
    except (BadInput, TrainingError, OSError) as error:
        return Outcome(run, path, "failed", f"{type(error).__name__}: {error}")


def is_done(path: Path) -> bool:
    """Whether a folder holds a finished run: its record says so, and its log gives the result."""
    return record.finished(path) is not None


def _reopen(path: Path) -> None:
    """Take away what says that a run is done, where that is wrong. Its run.json is kept as run.json.damaged."""
    (path / "done.json").unlink(missing_ok=True)
    record.reopen(path)


def _is_free(path: Path, wait: float) -> bool:
    until = time.monotonic() + wait
    while writer.is_busy(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _execute(run: Run, path: Path, runs: Path) -> Outcome:
    """Execute the unit's notebook, under the unit's lock, and check what it did."""
    unit, note = path / "unit", ""
    for part in unit.glob(".*.part.ipynb"):                # of a worker that was killed: nobody else has the lock
        part.unlink(missing_ok=True)
    parameters = {**parameters_of(run), "runs": files.shown(runs)}
    try:
        notebooks.execute(notebook(), unit / "run.ipynb", parameters, show=False)
    except NotebookError as failed:
        if failed.name == "RunBusy":
            (unit / "run.failed.ipynb").unlink(missing_ok=True)
            return Outcome(run, path, "busy")
        note = f"{failed.name}: {failed.text}"
    except RuntimeError as died:                           # in its work, or while it starts
        if type(died).__name__ != "DeadKernelError" and "Kernel died" not in str(died):
            raise
        return Outcome(run, path, "killed", "its kernel was killed")
    run_json = record.read(path) or {"status": "not started"}
    if run_json["status"] != "done":
        why = run_json.get("error") or note or f"the notebook ended, but the run is {run_json['status']}"
        return Outcome(run, path, "failed", why)
    if note:                                               # the run is done and right, but not what the notebook shows
        note = f"its notebook failed ({note}): see {files.shown(unit / 'run.failed.ipynb')}"
    return _checked(run, path, "done", note)


def _checked(run: Run, path: Path, state: str, note: str = "") -> Outcome:
    """The outcome of a run whose record says done.

    The first time, look whether its log gives the result (else it is `failed`), put its notebook in its place, and mark
    it done."""
    if (path / "done.json").exists():
        return Outcome(run, path, state, note)
    if not is_done(path):
        return Outcome(run, path, "failed", "its record is damaged: log.jsonl does not give the result in run.json")
    if (path / "unit" / "run.ipynb").exists():
        os.replace(path / "unit" / "run.ipynb", path / "run.ipynb")
    run_json = record.read(path)
    mark = {**{name: run_json[name] for name in ("name", "key", "code")}, "result": run_json["result"]["mean_last"],
            "notebook": "run.ipynb" if (path / "run.ipynb").exists() else None}
    files.write_text(path / "done.json", json.dumps(mark, indent=1) + "\n")
    return Outcome(run, path, state, note)


# ---- a worker: one run in a process of its own -----------------------------------------------------------------------


def worker(file: str | Path, index: int, parent: int | None = None) -> int:
    """What `semilib one FILE INDEX` does: the run at a place of a sweep's file. Returns the exit code.

    parent: the process with which it ends."""
    sweep = json.loads(Path(file).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        outcome = run_one(run_of(sweep["runs"][index]), sweep["folder"], sweep["notebook"])
    except KeyboardInterrupt:                              # asked to end: the run is whole up to its last checkpoint
        return KILLED
    if outcome.error:
        print(outcome.error)
    return outcome.exit_code


def _end_with(parent: int) -> None:
    """Leave when the launcher is gone, so that nobody trains for a sweep that was killed: at the step's end, or after
    some seconds. The kernel follows."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(WAIT)
    os._exit(KILLED)


def environment(threads: int | None = None, gpu: str | None = None) -> dict[str, str]:
    """The variables of a worker: its threads, its GPU ("" hides all), and this package on its path. The file that a
    follower reads is the launcher's alone."""
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    variables.pop(progress.FILE, None)
    if threads is not None:
        variables |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return variables if gpu is None else {**variables, "CUDA_VISIBLE_DEVICES": gpu}
