"""A sweep on many machines: SLURM by an array job, Ray where there is no queue.

Both are extras: `pip install -c constraints.txt -e ".[slurm]"` or `".[ray]"`. All machines see the same project and the
same folder of runs, at the same path. What was done is read from the runs' records, never from a launcher's word. So a
job that is killed, requeued or done on a lost machine is a run that is not done yet.
"""
from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from semilib.errors import BadInput
from semilib.files import PACKAGE
from semilib.study import local
from semilib.study.launchers import Local, Ray, Slurm
from semilib.study.status import SweepStatus, summary
from semilib.study.unit import Outcome, environment, parameters_of, run_of, run_one
from semilib.training import record
from semilib.training.config import Run
from semilib.training.progress import FILE, Progress

# States in which SLURM has nothing more to do for a task.
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL",
        "PREEMPTED", "REVOKED"}


def optional_module(name: str, extra: str) -> ModuleType:
    """A module that is an extra. Raises BadInput with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        command = f'pip install -c constraints.txt -e ".[{extra}]"'
        raise BadInput("on", extra, f"installed first: {command} ({error})") from error


# ---- SLURM -----------------------------------------------------------------------------------------------------------


class SlurmTask:
    """Some runs of a sweep, as one task of an array job does them: in slots of its own, with what the job was given.

    SLURM warns a task before its time limit and when it is preempted. `checkpoint` then puts it into the queue again,
    where it goes on from the runs' checkpoints.
    """

    def __init__(self, folder: str, how: Local):
        self.folder, self.how = folder, how

    def __call__(self, runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
        outcomes = local.do([run_of(parameters) for parameters in runs], self.folder, self.how)
        print(summary(outcomes), flush=True)
        return [(outcome.state, outcome.error) for outcome in outcomes]

    def checkpoint(self, runs: list[dict[str, Any]]) -> Any:
        return optional_module("submitit", "slurm").helpers.DelayedSubmission(self, runs)


def slurm(runs: Iterable[Run], folder: str | Path, how: Slurm, progress: Progress | None = None) -> list[Outcome]:
    """Do the runs that are not done as an array job, `per_job` runs a task, and wait for them unless `wait` is False.
    More tasks than one array job of the cluster may have become several array jobs.

    A killed worker is started again inside its task, a killed task is submitted again, each at most `retries` times.
    SLURM itself requeues what a lost node or a preemption took. Ctrl-C leaves the array in the queue. Scripts and logs
    are in FOLDER/slurm.
    """
    status = SweepStatus(runs, folder, how.notebook, progress)
    todo = status.todo()
    executor = _executor(status.folder / "slurm", how.more) if todo else None
    for left in range(how.retries, -1, -1):
        if not todo:
            break
        chunks = [todo[i:i + how.per_job] for i in range(0, len(todo), how.per_job)]
        jobs = _submit(executor, SlurmTask(str(status.folder), how.of_a_task()), chunks, how.more)
        arrays = " ".join(_arrays(jobs))
        status.note(f"array job {arrays}: {len(todo)} runs in {len(chunks)} tasks")
        try:
            if how.wait:
                _follow(status, chunks, jobs, how.poll)
        except KeyboardInterrupt:
            status.note(f"array job {arrays} stays in the queue (scancel {arrays} ends it)")
            raise
        todo = [run for run in todo if status.folder_of(run) not in status.outcomes]
        if not how.wait or not left:
            state, why = ("submitted", "") if not how.wait else \
                ("failed", f"its job was killed {how.retries + 1} times: see the logs of array job {arrays} in slurm/")
            for run in todo:
                status.ended(Outcome(run, status.folder_of(run), state, why))
            break
    return status.close()


def _submit(executor: Any, task: SlurmTask, chunks: list[list[Run]], sbatch: dict[str, Any]) -> list[Any]:
    """A job for each chunk, in as few array jobs as the cluster's MaxArraySize allows, all of about one size. They
    share out `array_parallelism`. Raises BadInput with what sbatch says if it refuses one."""
    errors, jobs = optional_module("submitit", "slurm").core.utils, []
    arrays = -(-len(chunks) // _max_array_size())
    if "array_parallelism" in sbatch:
        executor.update_parameters(array_parallelism=max(1, sbatch["array_parallelism"] // arrays))
    given, size = [[parameters_of(run) for run in chunk] for chunk in chunks], -(-len(chunks) // arrays)
    for start in range(0, len(given), size):
        try:
            jobs += executor.map_array(task, given[start:start + size])
        except (errors.FailedJobError, errors.FailedSubmissionError) as refused:
            before = f"; array job {' '.join(_arrays(jobs))} is in the queue" if jobs else ""
            raise BadInput("slurm", sbatch, f"options that sbatch takes ({refused}){before}") from refused
    return jobs


def _max_array_size() -> int:
    """The tasks that an array job of this cluster may have; no limit where it does not say."""
    try:
        asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return sys.maxsize
    most = re.search(r"MaxArraySize\s*=\s*(\d+)", asked.stdout)
    return max(1, int(most[1])) if most else sys.maxsize


def minutes(time: Any) -> int:
    """A time limit in minutes, from every form that sbatch knows: 90, 90:30, 1:30:00, 1-12, 1-12:30, 1-12:30:00."""
    form = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time))
    if form is None:
        raise BadInput("time", time, "minutes, or MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS")
    days, *rest = (part and int(part) for part in form.groups())
    first, second, third = rest
    if days is None and third is None:                             # minutes, and seconds
        first, second, third = 0, first, second or 0
    seconds = (((days or 0) * 24 + first) * 60 + (second or 0)) * 60 + (third or 0)
    if seconds == 0:
        raise BadInput("time", time, "above 0")
    return -(-seconds // 60)


def _executor(folder: Path, sbatch: dict[str, Any]) -> Any:
    submitit = optional_module("submitit", "slurm")
    if shutil.which("srun") is None:
        raise BadInput("on", "slurm", "a machine of a SLURM cluster; there is no command srun here")
    at_once = sbatch.get("array_parallelism", 1)
    if type(at_once) is not int or at_once < 1:
        raise BadInput("array_parallelism", at_once, "a whole number of tasks, at least 1")
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=1000, python=sys.executable)
    ours = {"folder", "command", "map_count", "setup", "additional_parameters"}
    known = submitit.SlurmExecutor._valid_parameters() - ours
    parameters = {name: value for name, value in sbatch.items() if name in known}
    parameters["time"] = minutes(sbatch.get("time", 240))
    # Any other option of sbatch goes to it as it is; requeue lets SLURM itself start again what a lost node took.
    others = {"requeue": True, **{name.replace("_", "-"): value for name, value in sbatch.items() if name not in known}}
    path = f"export PYTHONPATH={PACKAGE.parent}${{PYTHONPATH:+:$PYTHONPATH}}"
    executor.update_parameters(**{"job_name": "semilib", "stderr_to_stdout": True, **parameters},
                               additional_parameters=others, setup=[path, f"unset {FILE}"])
    return executor


def in_queue(job: str) -> bool:
    """Whether SLURM still has tasks of an array job to do. Asks the queue alone: a small SLURM keeps no accounts."""
    words = ["squeue", "--noheader", "--jobs", job, "--states", "all", "--format", "%T"]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if asked.returncode:
        if "Invalid job id" in asked.stderr:               # forgotten, so it ended a while ago
            return False
        raise OSError(f"squeue: {asked.stderr.strip()}")
    return bool(set(asked.stdout.split()) - OVER)


def _follow(status: SweepStatus, chunks: list[list[Run]], jobs: list[Any], poll: float) -> None:
    """Tell of the runs of array jobs until they are over, and put down what became of them.

    A task that left no result was killed: nothing is put down of its runs, so that they are submitted again."""
    runs, over = [run for chunk in chunks for run in chunk], False
    while not over:
        try:
            over = not any(in_queue(array) for array in _arrays(jobs))
        except (OSError, subprocess.TimeoutExpired) as error:   # a controller that restarts is back in a moment
            status.note(f"the queue did not answer ({error}); asking again")
        for run in runs:
            path = status.folder_of(run)
            if path not in status.outcomes and (path / "done.json").exists():
                status.ended(Outcome(run, path, "done"), (record.read(path) or {}).get("seconds"))
        if not over:
            status.show_busy(runs)
            time.sleep(poll)
    for chunk, job in zip(chunks, jobs, strict=True):
        for run, (state, error) in zip(chunk, _result(job, len(chunk)), strict=False):
            if status.folder_of(run) not in status.outcomes:
                status.ended(_outcome(run, status, state, error))


def _outcome(run: Run, status: SweepStatus, state: str, error: str) -> Outcome:
    """What a task said of a run; it did what was "done before" if it was lost after its last step and begun again."""
    return Outcome(run, status.folder_of(run), "done" if state == "done before" else state, error)


def _arrays(jobs: list[Any]) -> list[str]:
    """The array jobs whose tasks these are."""
    return list(dict.fromkeys(job.job_id.split("_")[0] for job in jobs))


def _result(job: Any, n: int) -> list[tuple[str, str]]:
    """(state, error) of each run of a task; none if it was killed. A task that raised failed as a whole."""
    if not job.paths.result_pickle.exists():
        return []
    try:
        return job.result()
    except optional_module("submitit", "slurm").core.utils.UncompletedJobError:
        return []
    except Exception as error:                             # whatever it was, the others go on and this is told
        return [("failed", f"{type(error).__name__}: {error}".splitlines()[0])] * n


# ---- Ray -------------------------------------------------------------------------------------------------------------


class Killed(RuntimeError):
    """The kernel of a run was killed; Ray does the run again."""


def ray_task(parameters: dict[str, Any], folder: str, how: Ray) -> tuple[str, str]:
    """One run as a Ray task does it: (state, error). Raises Killed for Ray to try it again."""
    threads = max(1, int(how.num_cpus))
    variables = environment(threads, "" if how.num_gpus == 0 else None)      # Ray itself would let it see all GPUs
    os.environ.update({k: v for k, v in variables.items() if os.environ.get(k) != v})
    os.environ.pop(FILE, None)                                                # the launcher's alone
    if not how.notebook:
        import torch
        torch.set_num_threads(threads)
    outcome = run_one(run_of(parameters), folder, how.notebook)
    if outcome.state == "killed":
        raise Killed(outcome.error)
    return outcome.state, outcome.error


def ray(runs: Iterable[Run], folder: str | Path, how: Ray, progress: Progress | None = None) -> list[Outcome]:
    """Do the runs that are not done as tasks of a Ray cluster.

    A run whose process, kernel or machine is lost is done again, at most `retries` times."""
    module = optional_module("ray", "ray")
    status = SweepStatus(runs, folder, how.notebook, progress)
    todo = status.todo()
    if not todo:
        return status.close()
    ours = not module.is_initialized()
    if ours:
        place = {} if how.address else {"_node_ip_address": "127.0.0.1"}      # listens to no other machine
        os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
        module.init(address=how.address, log_to_driver=False, include_dashboard=None if how.address else False, **place)
    task = module.remote(ray_task).options(num_cpus=how.num_cpus, num_gpus=how.num_gpus, max_retries=how.retries,
                                           retry_exceptions=[Killed], **how.more)
    pending = {task.remote(parameters_of(run), str(status.folder), how): run for run in todo}
    try:
        while pending:
            ready, _ = module.wait(list(pending), timeout=1.0)
            for result in ready:
                outcome = _ray_outcome(module, result, pending.pop(result), status)
                seconds = (record.read(outcome.folder) or {}).get("seconds") if outcome.state == "done" else None
                status.ended(outcome, seconds)
            status.show_busy(pending.values())
    finally:
        for result in pending:
            module.cancel(result, force=True)
        if ours:
            module.shutdown()
    return status.close()


def _ray_outcome(module: ModuleType, result: Any, run: Run, status: SweepStatus) -> Outcome:
    try:
        return _outcome(run, status, *module.get(result))
    except module.exceptions.RayError as lost:
        words = str(lost).strip().splitlines() or ["no word why"]
        return Outcome(run, status.folder_of(run), "failed", f"{type(lost).__name__}: {words[-1]}")
