"""Sweeps: one idempotent unit, `run_one`, and a pool of local slots over it.

    outcomes = sweep(grids.table("table1", "smoke").runs, "runs")
    print(summary(outcomes))

The unit executes `notebooks/10_run.ipynb` with the parameters of one run, and believes nothing but the run's own record. Beside the record
it leaves, in the run's folder,

    run.ipynb      the executed notebook, there only if all that it did was checked
    done.json      written last: the run is done and its log gives its result
    unit/          the unit's lock, and the notebook while it is executed or if it failed

Whatever is killed can be started again: a run goes on from its checkpoint, and what is done is not done twice. `semilib.clusters` has
launchers for SLURM and Ray over the same unit.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from semilib import files
from semilib.errors import BadInput, TrainingError, check_name
from semilib.files import write_text
from semilib.methods import METHODS
from semilib.study import notebooks
from semilib.training import record
from semilib.training.config import Run
from semilib.training.progress import Progress, automatic, clock, result_text

UNIT = "10_run.ipynb"
DONE, BUSY, FAILED, KILLED = 0, 75, 1, 138        # exit codes of a worker; 138 is papermill's own for a kernel that died
WAIT = 15.0                # seconds for which a kernel may outlive its killed worker: it looks for its parent every second
STARTUP = 8.0              # seconds that a worker and its kernel take to start on one core, for `plan`
ENGINES = ("local", "slurm", "ray")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run. state: done | done before | busy (another process has it) | failed | killed | submitted (to a queue)."""

    run: Run
    folder: Path
    state: str
    error: str = ""

    @property
    def code(self) -> int:
        """The exit code that tells a launcher."""
        return {"failed": FAILED, "busy": BUSY, "killed": KILLED}.get(self.state, DONE)


# ---- a run as parameters of the notebook ---------------------------------------------------------------------------------------------


def parameters_of(run: Run) -> dict[str, Any]:
    """The parameters of `notebooks/10_run.ipynb` that make this run: what differs from the run of its data set, method and profile.

    Paths inside the project are relative to it. `run_of` gives the run back, with an equal key.
    """
    root = files.shown(files.place(run.root))
    for given in (_short, _whole):
        with contextlib.suppress(BadInput):
            options, fields = given(run)
            out = {"dataset": run.dataset, "method": run.method, "profile": run.profile, "seed": run.seed, "options": options,
                   "fields": fields, "root": root}
            if run_of(out) == dataclasses.replace(run, root=str(files.place(root))):
                return out
    raise BadInput("run", run.name, "a run that Run.of can make")


def run_of(parameters: dict[str, Any]) -> Run:
    """The run that the notebook makes of its parameters."""
    given = {**parameters, "root": str(files.place(parameters["root"]))}
    given.pop("runs", None)
    return Run.of(given.pop("dataset"), given.pop("method"), **given.pop("fields"), **given)


def _fields(run: Run) -> dict[str, Any]:
    apart = ("dataset", "method", "profile", "seed", "options", "root")
    return {f.name: getattr(run, f.name) for f in dataclasses.fields(run) if f.name not in apart}


def _short(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options and fields in which the run is not its profile's usual one. Raises BadInput if there is no such usual run."""
    kind = {name: getattr(run, name) for name in ("base", "add", "recipe")}
    preset = {k: v for k, v in run.options.items() if k == "preset"}
    usual = Run.of(run.dataset, run.method, profile=run.profile, seed=run.seed, root=run.root, options=preset, **kind)
    fields = {k: v for k, v in _fields(run).items() if v != getattr(usual, k)}
    fields |= {k: v for k, v in kind.items() if v != getattr(Run, k)}
    if "gamma_l" in fields:                                # given alone it would set gamma_u as well
        fields["gamma_u"] = run.gamma_u
    return {k: v for k, v in run.options.items() if k in preset or v != usual.options.get(k)}, fields


def _whole(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    return dict(run.options), _fields(run)


# ---- the unit ------------------------------------------------------------------------------------------------------------------------


def run_one(run: Run, runs: str | Path = "runs", notebook: bool = True, wait: float = WAIT) -> Outcome:
    """Do a run, or the rest of it, or nothing if it is done; check it and mark it done. Never raises for what a run can do wrong.

    notebook: execute `notebooks/10_run.ipynb` (a kernel, seconds to start); False trains in this process. wait: how long the run may
    still be held by a kernel whose worker was killed, before it counts as busy.
    """
    runs = files.place(runs)
    path = record.folder(run, runs)
    try:
        if _is_done(path):
            return _checked(run, path, "done before")
        with record.lock(path / "unit"):
            if _is_done(path):
                return _checked(run, path, "done before")
            if not _free(path, wait):
                return Outcome(run, path, "busy")
            return _execute(run, path, runs) if notebook else _train(run, path, runs)
    except record.RunBusy:
        return Outcome(run, path, "busy")
    except (BadInput, TrainingError, OSError) as error:
        return Outcome(run, path, "failed", f"{type(error).__name__}: {error}")


def _is_done(path: Path) -> bool:
    found = record.read(path)
    return found is not None and found["status"] == "done"


def _free(path: Path, wait: float) -> bool:
    until = time.monotonic() + wait
    while record.is_busy(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _train(run: Run, path: Path, runs: Path) -> Outcome:
    from semilib.training.train import train
    train(run, runs, progress=Progress())
    return _checked(run, path, "done")


def _execute(run: Run, path: Path, runs: Path) -> Outcome:
    """The unit's notebook, under the unit's lock: executed apart, checked, put in its place, marked."""
    import papermill.exceptions
    unit, error = path / "unit", ""
    for left in unit.glob(".*.part.ipynb"):                # of a worker that was killed; nobody else writes here while we hold the lock
        left.unlink(missing_ok=True)
    given = {**parameters_of(run), "runs": files.shown(runs)}
    try:
        notebooks.execute(files.home() / "notebooks" / UNIT, unit / "run.ipynb", given, show=False)
    except papermill.exceptions.PapermillExecutionError as failed:
        if failed.ename == "RunBusy":
            (unit / "run.failed.ipynb").unlink(missing_ok=True)
            return Outcome(run, path, "busy")
        error = f"{failed.ename}: {failed.evalue}"
    except RuntimeError as died:
        if type(died).__name__ != "DeadKernelError":
            raise
        return Outcome(run, path, "killed", "its kernel was killed")
    found = record.read(path) or {"status": "not started"}
    if found["status"] != "done":
        return Outcome(run, path, "failed", found.get("error") or error or f"the notebook ended, but the run is {found['status']}")
    checked = _checked(run, path, "done", mark=False)
    if error:                                              # the run is done and right; only what the notebook shows of it is not there
        checked = dataclasses.replace(checked, error=f"its notebook failed ({error}): see {files.shown(unit / 'run.failed.ipynb')}")
    elif checked.state == "done":
        os.replace(unit / "run.ipynb", path / "run.ipynb")
    if checked.state == "done":
        _mark(path)
    return checked


def _checked(run: Run, path: Path, state: str, mark: bool = True) -> Outcome:
    """The outcome of a run whose record says done: `failed` if its log does not give the result that it kept."""
    if (path / "done.json").exists():
        return Outcome(run, path, state)
    from semilib.report import tables
    try:
        tables.result_of(tables.load(path))
    except (BadInput, KeyError, ValueError) as error:
        return Outcome(run, path, "failed", f"its record is damaged ({error}): delete {files.shown(path)} to do it again")
    if mark:
        _mark(path)
    return Outcome(run, path, state)


def _mark(path: Path) -> None:
    found = record.read(path)
    mark = {"name": found["name"], "key": found["key"], "code": found["code"], "result": found["result"]["mean_last"],
            "notebook": "run.ipynb" if (path / "run.ipynb").exists() else None}
    write_text(path / "done.json", json.dumps(mark, indent=1) + "\n")


# ---- a worker: one run in a process of its own ----------------------------------------------------------------------------------------


def worker(file: str | Path, index: int, parent: int | None = None) -> int:
    """What `semilib one FILE INDEX` does: the run at a place of a sweep's file. Returns the exit code; ends with its parent."""
    sheet = json.loads(Path(file).read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, _interrupted)
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        outcome = run_one(run_of(sheet["runs"][index]), sheet["folder"], sheet["notebook"])
    except KeyboardInterrupt:                              # asked to end: the run is whole up to its last checkpoint
        return KILLED
    if outcome.error:
        print(outcome.error)
    return outcome.code


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def _end_with(parent: int) -> None:
    """Leave at once when the launcher is gone, so that nobody trains for a sweep that was killed. The kernel follows by itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(KILLED)


def environment(threads: int | None = None, gpu: str | None = None) -> dict[str, str]:
    """The variables of a worker: its threads, its GPU ("" hides all), and this package on its path."""
    paths = [str(record.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    out = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if threads is not None:
        out |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return out if gpu is None else {**out, "CUDA_VISIBLE_DEVICES": gpu}


# ---- local slots ---------------------------------------------------------------------------------------------------------------------


def cores() -> int:
    """The CPU cores that this process may use: those that a SLURM job was given, else those that the system lets it run on."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch
    return [str(i) for i in range(torch.cuda.device_count())]


def slots_of(n: int, slots: int | None = None, per_gpu: int = 1, threads: int | None = None,
             cards: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The places in which n runs are done side by side, each with its threads and its GPU.

    Without a GPU there is a slot a core; with GPUs, `per_gpu` slots a GPU. The cores are shared out evenly unless `threads` is given.
    """
    for name, value in (("slots", slots), ("per_gpu", per_gpu), ("threads", threads)):
        if value is not None and (type(value) is not int or value < 1):
            raise BadInput(name, value, "an int of at least 1")
    cards = gpus() if cards is None else list(cards)
    if slots is None:
        slots = len(cards) * per_gpu or cores()
    elif cards and slots > len(cards) * per_gpu:
        raise BadInput("slots", slots, f"at most {len(cards) * per_gpu}: {len(cards)} GPUs with per_gpu={per_gpu}")
    slots = max(1, min(slots, n))
    share = threads or max(1, cores() // slots)
    return [{"threads": share, "gpu": cards[i % len(cards)] if cards else None} for i in range(slots)]


class _Worker:
    """A worker process and what it is doing."""

    def __init__(self, file: Path, index: int, slot: dict[str, Any]):
        self.index, self.slot, self.began = index, slot, time.monotonic()
        self.log = file.with_name(f"{index}.log")
        words = [sys.executable, "-m", "semilib", "one", str(file), str(index), "--parent", str(os.getpid())]
        with open(self.log, "ab") as out:                  # a session of its own: Ctrl-C reaches the launcher, which ends its workers
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=files.home(),
                                            env=environment(**slot), start_new_session=True)

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no word why"


def local(runs: Iterable[Run], folder: str | Path = "runs", slots: int | None = None, per_gpu: int = 1, threads: int | None = None,
          retries: int = 2, notebook: bool = True, progress: Progress | None = None, cards: Sequence[str] | None = None) -> list[Outcome]:
    """Do the runs that are not done in slots of this machine, a process a run, and return an outcome for each, in their order.

    A run that fails does not stop the others. A run whose process was killed is started again, at most `retries` times; one that failed
    by itself is not, because it would fail again. Ctrl-C ends the workers; the next call goes on from their checkpoints.
    """
    board = Board(runs, folder, progress)
    todo = board.todo()
    places = slots_of(len(todo), slots, per_gpu, threads, cards)
    waiting, running, tries = deque(range(len(todo))), [], Counter()
    with tempfile.TemporaryDirectory(prefix="semilib-") as place:
        file = Path(place) / "sweep.json"
        sheet = {"folder": str(board.folder), "notebook": notebook, "runs": [parameters_of(run) for run in todo]}
        file.write_text(json.dumps(sheet), encoding="utf-8")
        try:
            while waiting or running:
                while waiting and places:
                    running.append(_Worker(file, waiting.popleft(), places.pop(0)))
                time.sleep(0.1)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    places.append(one.slot)
                    run, code = todo[one.index], one.process.returncode
                    if code < 0 or code == KILLED:
                        tries[one.index] += 1
                        if tries[one.index] <= retries:
                            board.note(f"{run.name}: killed, starting it again")
                            waiting.appendleft(one.index)
                            continue
                    board.ended(_outcome(run, board.folder, one, tries[one.index]), time.monotonic() - one.began)
                board.show([todo[one.index] for one in running], len(places) + len(running))
        finally:
            _stop([one.process for one in running])
    return board.outcomes()


def _outcome(run: Run, folder: Path, one: _Worker, killed: int) -> Outcome:
    path, code = record.folder(run, folder), one.process.returncode
    if code == DONE:
        return Outcome(run, path, "done", "" if (path / "run.json").exists() and one.log.stat().st_size == 0 else _warning(one))
    if code == BUSY:
        return Outcome(run, path, "busy")
    if code < 0 or code == KILLED:
        return Outcome(run, path, "failed", f"killed {killed} times")
    return Outcome(run, path, "failed", one.last_words())


def _warning(one: _Worker) -> str:
    """What a worker that succeeded had to say of its notebook; other noise of libraries is left aside."""
    words = one.last_words()
    return words if words.startswith("its notebook failed") else ""


def _stop(processes: list[subprocess.Popen], grace: float = 10.0) -> None:
    """End workers: ask, wait, then kill."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---- what all launchers share ---------------------------------------------------------------------------------------------------------


class Board:
    """The runs of a sweep, each once, what became of them so far, and the lines that say so."""

    def __init__(self, runs: Iterable[Run], folder: str | Path, progress: Progress | None = None):
        self.folder = files.place(folder).resolve()
        self.runs = {record.folder(run, self.folder): run for run in runs}
        for run in self.runs.values():
            for method in filter(None, (run.method, run.base)):
                if isinstance(METHODS[method], type):
                    raise BadInput("method", method, "a method that a file of semilib/methods defines, for workers to find it; "
                                                     "study.ensure does the runs of one that a notebook defines")
        self.progress = progress or automatic(len(self.runs))
        self.found: dict[Path, Outcome] = {}
        self.seconds: list[float] = []
        self.shown = 0.0

    def todo(self) -> list[Run]:
        """The runs that are not done; those that are, are told and put down."""
        before = {path: run_one(run, self.folder) for path, run in self.runs.items() if _is_done(path)}
        for outcome in before.values():
            self.ended(outcome)
        if before:
            bad = sum(outcome.state == "failed" for outcome in before.values())
            self.note(f"{len(before) - bad} of {len(self.runs)} runs done before")
        return [run for path, run in self.runs.items() if path not in self.found]

    def ended(self, outcome: Outcome, seconds: float | None = None) -> None:
        """Put down what became of a run, and say it."""
        if outcome.state == "done" and not _is_done(outcome.folder):
            outcome = dataclasses.replace(outcome, state="failed", error="what was done is another run, because the code was changed "
                                                                         "while the sweep ran: start it again")
        self.found[outcome.folder] = outcome
        if seconds is not None and outcome.state == "done":
            self.seconds.append(seconds)
        if outcome.state == "done":
            score = result_text(record.read(outcome.folder)["result"])
            took = "" if seconds is None else f"  {clock(seconds)}"
            self.note(f"[{len(self.found)}/{len(self.runs)}] {outcome.run.name}  done{score}{took}")
        elif outcome.state != "done before":
            self.note(f"[{len(self.found)}/{len(self.runs)}] {outcome.run.name}  {outcome.state}  {outcome.error}".rstrip())

    def note(self, text: str) -> None:
        self.progress.note(text)

    def show(self, running: list[Run], slots: int) -> None:
        """The line that moves: how far the sweep is, and the time left by the mean of its runs so far."""
        now = time.perf_counter()
        if now - self.shown < self.progress.period:
            return
        self.shown = now
        shares = [share_done(run, self.folder) for run in running]
        left = len(self.runs) - len(self.found) - sum(shares)
        words = [f"{len(self.found)} of {len(self.runs)} finished"]
        words += ["running " + ", ".join(f"{run.label} s{run.seed} {share:.0%}" for run, share in zip(running[:4], shares))
                  + (f" and {len(running) - 4} more" if len(running) > 4 else "")] if running else []
        if self.seconds:
            words.append(f"about {clock(left * statistics.fmean(self.seconds) / slots)} left")
        self.progress.now = "; ".join(words)
        self.progress.show()

    def outcomes(self) -> list[Outcome]:
        self.progress.now = ""
        self.progress.show()
        return [self.found[path] for path in self.runs]


def share_done(run: Run, folder: str | Path) -> float:
    """The share of a run's steps that its log tells of."""
    log = record.folder(run, folder) / "log.jsonl"
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        return json.loads(lines[-1])["step"] / run.steps if lines else 0.0
    except (OSError, ValueError, KeyError):
        return 0.0


def sweep(runs: Iterable[Run], folder: str | Path = "runs", on: str = "local", **how: Any) -> list[Outcome]:
    """Do the runs that are not done, on this machine (`local`), by SLURM or by Ray (`semilib.clusters`); an outcome for each run."""
    check_name("on", on, ENGINES)
    if on == "local":
        return local(runs, folder, **how)
    from semilib.study import clusters
    return getattr(clusters, on)(runs, folder, **how)


def summary(outcomes: Iterable[Outcome]) -> str:
    """A line of counts, and a line for each run that is not done or whose notebook failed."""
    outcomes = list(outcomes)
    counts = Counter(outcome.state for outcome in outcomes)
    told = [f"  {o.run.name} ({o.run.key}): {o.state}{': ' if o.error else ''}{o.error}" for o in outcomes if o.error or o.code]
    return "\n".join([f"{len(outcomes)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()), *told])


# ---- before a sweep -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a sweep will take. seconds and disk are of the runs that are known, `unknown` counts the others."""

    runs: int
    states: dict[str, int]
    todo: int
    seconds: float
    unknown: int
    disk: float
    unknown_disk: int
    basis: tuple[str, ...]

    def text(self, slots: int = 1) -> str:
        """The plan in words, for a number of slots."""
        states = ", ".join(f"{n} {state}" for state, n in self.states.items())
        lines = [f"{self.runs} runs ({states}): {self.todo} to do"]
        if self.todo:
            lines += [f"  time  {_known(clock(self.seconds) + ' in one slot' + self._spread(slots), self.unknown, self.todo)}",
                      f"  disk  {_known(f'{self.disk / 1e6:,.1f} MB', self.unknown_disk, self.todo)}",
                      *(f"  from  {line}" for line in self.basis)]
        return "\n".join(lines)

    def _spread(self, slots: int) -> str:
        return f", {clock(self.seconds / min(slots, self.todo - self.unknown or 1))} in {slots}" if slots > 1 else ""


def _known(text: str, unknown: int, of: int) -> str:
    if unknown == of:
        return "unknown"
    return text + (f", and unknown for {unknown} of the runs" if unknown else "")


def forecast(runs: Iterable[Run], folder: str | Path = "runs", results: str | Path = "results", notebook: bool = True) -> Forecast:
    """Runs, seconds and bytes of a sweep before it starts, from the records of finished runs in `folder` and `results`.

    A run's steps take what the same method took with the same data set, profile and network on the kind of device that this machine
    has; else the median of all methods there; else it is unknown. What was measured on a CPU tells nothing of a GPU.
    """
    import torch
    runs, folder = list({run.key: run for run in runs}.values()), files.place(folder)
    here = record.device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    known = _measured((folder, files.place(results)))
    states = [record.state(run, folder) for run in runs]
    todo = [run for run, state in zip(runs, states) if state != "done"]
    seconds, disk, basis = [], [], Counter()
    for run in todo:
        device = run.device if run.device == "cpu" else here
        time_of, words = _estimate(known["seconds"], run, device)
        size, _ = _estimate(known["bytes"], run, None)
        basis[words] += 1
        if time_of is not None:
            seconds.append(time_of * run.steps * (1 - share_done(run, folder)) + STARTUP * notebook)
        if size is not None:
            disk.append(size)
    said = tuple(f"{words} ({n} runs)" for words, n in basis.items())
    said += (f"and {STARTUP:g} s a run for its notebook",) if seconds and notebook else ()
    return Forecast(len(runs), dict(Counter(states)), len(todo), sum(seconds), len(todo) - len(seconds), sum(disk),
                len(todo) - len(disk), said)


def _kind(config: dict[str, Any]) -> tuple:
    return config["dataset"], config["profile"], config["network"], config["batch"], config.get("side")


def _label(config: dict[str, Any]) -> tuple:
    return config["method"], config.get("base", ""), config.get("add", "")


def _measured(places: Iterable[Path]) -> dict[str, dict[tuple, list[float]]]:
    """Seconds a step, and bytes a run, of finished runs: (kind, label, device) and (kind, None, device) -> measured values."""
    out: dict[str, dict[tuple, list[float]]] = {"seconds": {}, "bytes": {}}
    for file in sorted(file for place in places if place.is_dir() for file in place.rglob("run.json")):
        try:
            found = record.read(file.parent)
            if found["status"] != "done":
                continue
            kind, label, device = _kind(found["config"]), _label(found["config"]), found["resolved"]["device"]
            step = found["seconds"] / found["config"]["steps"]
        except (KeyError, ValueError, OSError):            # a record of before these facts were kept, or one being written
            continue
        for who in (label, None):
            out["seconds"].setdefault((kind, who, device), []).append(step)
            if (file.parent / "checkpoint.npz").exists():
                size = sum(f.stat().st_size for f in file.parent.rglob("*") if f.is_file())
                out["bytes"].setdefault((kind, who, None), []).append(size)
    return out


def _estimate(known: dict[tuple, list[float]], run: Run, device: str | None) -> tuple[float | None, str]:
    """A measured value for a run and the words for where it is from; None if nothing like it was measured."""
    config = run.identity()
    for who, words in ((_label(config), "finished runs of the same method"), (None, "finished runs of other methods")):
        values = known.get((_kind(config), who, device))
        if values:
            where = f", profile {run.profile}, {run.network}" + (f", on {device}" if device else "")
            return statistics.median(values), words + where
    return None, f"nothing: no finished run of {run.dataset}, profile {run.profile}, {run.network}, batch {run.batch} on {device}"


def states(runs: Iterable[Run], folder: str | Path = "runs") -> list[tuple[Run, str]]:
    """Each run, once, and its state: not started | running | interrupted | failed | stale | done."""
    return [(run, record.state(run, files.place(folder))) for run in {run.key: run for run in runs}.values()]
