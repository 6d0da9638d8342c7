"""The unit of `semilib.launch` on many machines: SLURM by an array job, Ray where there is no queue.

Both are extras: `pip install -c constraints.txt -e ".[slurm]"` or `".[ray]"`. All machines see the same project and the same folder of
runs, at the same path. What was done is read from the runs' records, never from an engine's word: a job that is killed, requeued or done
on a lost machine is simply a run that is not done yet.
"""
from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from semilib.errors import BadInput
from semilib.study import launch
from semilib.study.launch import Board, Outcome, parameters_of, run_of
from semilib.training import record
from semilib.training.config import Run
from semilib.training.progress import Progress


def engine(name: str, extra: str) -> ModuleType:
    """A module that is an extra. Raises BadInput with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput("on", extra, f'installed first: pip install -c constraints.txt -e ".[{extra}]" ({error})') from error


# ---- SLURM ---------------------------------------------------------------------------------------------------------------------------


class Work:
    """Some runs of a sweep, as one task of an array job does them: in slots of its own, with what the job was given.

    Before its time limit, or when it is preempted, SLURM warns the task; `checkpoint` then puts it into the queue again, where it goes
    on from the runs' checkpoints.
    """

    def __init__(self, folder: str, how: dict[str, Any]):
        self.folder, self.how = folder, how

    def __call__(self, runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
        outcomes = launch.local([run_of(given) for given in runs], self.folder, **self.how)
        print(launch.summary(outcomes), flush=True)
        return [(outcome.state, outcome.error) for outcome in outcomes]

    def checkpoint(self, runs: list[dict[str, Any]]) -> Any:
        return engine("submitit", "slurm").helpers.DelayedSubmission(self, runs)


def slurm(runs: Iterable[Run], folder: str | Path = "runs", per_job: int = 1, slots: int | None = None, per_gpu: int = 1,
          threads: int | None = None, retries: int = 2, notebook: bool = True, wait: bool = True, poll: float = 5.0,
          progress: Progress | None = None, **sbatch: Any) -> list[Outcome]:
    """Do the runs that are not done as an array job, `per_job` runs a task, and wait for them (wait=False: submit and return).

    sbatch: options of sbatch by name, such as partition="gpu", time=240 (minutes), gres="gpu:1", cpus_per_task=4; array_parallelism is
    how many tasks run at once. slots, per_gpu, threads: those of `launch.local`, inside a task. A worker that is killed is started
    again inside its task, a task that is killed is submitted again, each at most `retries` times; SLURM itself requeues what a lost
    node or a preemption took. Ctrl-C leaves the array in the queue. Scripts and logs are in FOLDER/slurm.
    """
    if type(per_job) is not int or per_job < 1:
        raise BadInput("per_job", per_job, "an int of at least 1")
    board = Board(runs, folder, progress)
    todo = board.todo()
    how = dict(slots=slots, per_gpu=per_gpu, threads=threads, retries=retries, notebook=notebook)
    executor = _executor(board.folder / "slurm", sbatch) if todo else None
    for left in range(retries, -1, -1):
        if not todo:
            break
        chunks = [todo[i:i + per_job] for i in range(0, len(todo), per_job)]
        jobs = executor.map_array(Work(str(board.folder), how), [[parameters_of(run) for run in chunk] for chunk in chunks])
        board.note(f"array job {_array(jobs)}: {len(todo)} runs in {len(chunks)} tasks")
        try:
            if wait:
                _follow(board, chunks, jobs, poll)
        except KeyboardInterrupt:
            board.note(f"array job {_array(jobs)} stays in the queue (scancel {_array(jobs)} ends it)")
            raise
        todo = [run for run in todo if record.folder(run, board.folder) not in board.found]
        if not wait or not left:
            state, why = ("failed", f"its job was killed {retries + 1} times: see slurm/{_array(jobs)}_*") if wait else ("submitted", "")
            for run in todo:
                board.ended(Outcome(run, record.folder(run, board.folder), state, why))
            break
    return board.outcomes()


def _executor(folder: Path, sbatch: dict[str, Any]) -> Any:
    submitit = engine("submitit", "slurm")
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=1000, python=sys.executable)
    known = submitit.SlurmExecutor._valid_parameters() - {"folder", "command", "map_count", "setup", "additional_parameters"}
    own = {name: value for name, value in sbatch.items() if name in known}
    # Any other option of sbatch goes to it as it is; requeue lets SLURM itself start again what a lost node took.
    more = {"requeue": True, **{name.replace("_", "-"): value for name, value in sbatch.items() if name not in known}}
    path = f"export PYTHONPATH={record.PACKAGE.parent}${{PYTHONPATH:+:$PYTHONPATH}}"
    executor.update_parameters(**{"time": 240, "job_name": "semilib", "stderr_to_stdout": True, **own}, additional_parameters=more,
                               setup=[path])
    return executor


def in_queue(job: str) -> bool:
    """Whether SLURM still has tasks of an array job to do. Asks the queue alone: a small SLURM keeps no accounts."""
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job, "--states", "all", "--format", "%T"], capture_output=True, text=True,
                           timeout=60)
    if asked.returncode:
        if "Invalid job id" in asked.stderr:               # forgotten, so it ended a while ago
            return False
        raise OSError(f"squeue: {asked.stderr.strip()}")
    over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "PREEMPTED", "REVOKED"}
    return bool(set(asked.stdout.split()) - over)


def _follow(board: Board, chunks: list[list[Run]], jobs: list[Any], poll: float) -> None:
    """Tell of the runs of an array job until it is over, and put down what became of them. Those of a task that left no result were
    killed with it: nothing is put down, so that they can be submitted again."""
    over = False
    while not over:
        try:
            over = not in_queue(_array(jobs))
        except (OSError, subprocess.TimeoutExpired) as error:   # a controller that restarts is back in a moment
            board.note(f"the queue did not answer ({error}); asking again")
        for run in (run for chunk in chunks for run in chunk):
            path = record.folder(run, board.folder)
            if path not in board.found and (path / "done.json").exists():
                board.ended(Outcome(run, path, "done"), record.read(path)["seconds"])
        if not over:
            running = [run for chunk in chunks for run in chunk if record.is_busy(record.folder(run, board.folder))]
            board.show(running, max(1, len(running)))
            time.sleep(poll)
    for chunk, job in zip(chunks, jobs):
        for run, (state, error) in zip(chunk, _result(job, len(chunk))):
            path = record.folder(run, board.folder)
            if path not in board.found:
                board.ended(Outcome(run, path, "done" if state == "done before" else state, error))


def _array(jobs: list[Any]) -> str:
    return jobs[0].job_id.split("_")[0]


def _result(job: Any, n: int) -> list[tuple[str, str]]:
    """(state, error) of each run of a task, as the task told them; none if it was killed. A task that raised failed as a whole."""
    if not job.paths.result_pickle.exists():
        return []
    try:
        return job.result()
    except engine("submitit", "slurm").core.utils.UncompletedJobError:
        return []
    except Exception as error:                             # whatever it was, the others go on and this is told
        return [("failed", f"{type(error).__name__}: {error}".splitlines()[0])] * n


# ---- Ray -----------------------------------------------------------------------------------------------------------------------------


class Killed(RuntimeError):
    """The kernel of a run was killed; Ray does the run again."""


def work(given: dict[str, Any], folder: str, notebook: bool, threads: int | None, hide: bool) -> tuple[str, str]:
    """One run as a Ray task does it: (state, error). Raises Killed for Ray to try it again. hide: a task that was given no GPU sees
    none; Ray by itself lets it see all."""
    os.environ.update({k: v for k, v in launch.environment(threads, "" if hide else None).items() if os.environ.get(k) != v})
    if threads is not None and not notebook:
        import torch
        torch.set_num_threads(threads)
    outcome = launch.run_one(run_of(given), folder, notebook)
    if outcome.state == "killed":
        raise Killed(outcome.error)
    return outcome.state, outcome.error


def ray(runs: Iterable[Run], folder: str | Path = "runs", num_cpus: float = 1, num_gpus: float = 0.0, retries: int = 3,
        notebook: bool = True, address: str | None = None, progress: Progress | None = None, **options: Any) -> list[Outcome]:
    """Do the runs that are not done as tasks of a Ray cluster: the one at `address`, the one this process is connected to, or a new one
    on this machine.

    num_gpus may be a fraction: 0.25 puts four runs on a GPU. A run whose process, kernel or machine is lost is done again, at most
    `retries` times, elsewhere if its machine is gone. options: others of a Ray task, such as resources={"big": 1}.
    """
    engine_ = engine("ray", "ray")
    board = Board(runs, folder, progress)
    todo = board.todo()
    if not todo:
        return board.outcomes()
    mine = not engine_.is_initialized()
    if mine:
        place = {"_node_ip_address": "127.0.0.1"} if address is None else {}      # a cluster of this machine listens to no other
        os.environ["PYTHONPATH"] = launch.environment()["PYTHONPATH"]
        engine_.init(address=address, log_to_driver=False, include_dashboard=None if address else False, **place)
    task = engine_.remote(work).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries, retry_exceptions=[Killed], **options)
    threads = max(1, int(num_cpus))
    pending = {task.remote(parameters_of(run), str(board.folder), notebook, threads, num_gpus == 0): run for run in todo}
    try:
        while pending:
            ready, _ = engine_.wait(list(pending), timeout=1.0)
            for one in ready:
                board.ended(*_ray_outcome(engine_, one, pending.pop(one), board.folder))
            running = [run for run in pending.values() if record.is_busy(record.folder(run, board.folder))]
            board.show(running, max(1, len(running)))
    finally:
        for one in pending:
            engine_.cancel(one, force=True)
        if mine:
            engine_.shutdown()
    return board.outcomes()


def _ray_outcome(engine_: ModuleType, one: Any, run: Run, folder: Path) -> tuple[Outcome, float | None]:
    path = record.folder(run, folder)
    try:
        state, error = engine_.get(one)
    except engine_.exceptions.RayError as lost:
        words = str(lost).strip().splitlines()
        return Outcome(run, path, "failed", f"{type(lost).__name__}: {words[-1] if words else 'no word why'}"), None
    state = "done" if state == "done before" else state    # by a process that was lost after its last step
    return Outcome(run, path, state, error), (record.read(path) or {}).get("seconds")
