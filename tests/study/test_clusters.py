"""The engines, for real: a SLURM of this machine alone and a Ray of two nodes do a small table while workers and nodes
are killed.

Without an engine its test is skipped; SEMILIB_ENGINES="slurm ray" in the environment, as .ci/run sets it, makes that a
failure.
"""
import concurrent.futures
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from kit import ROOT, check_done_once, in_mid_run, linux, parent, smoke_run, smoke_table

from semilib.errors import BadInput
from semilib.study import clusters
from semilib.study.launchers import Ray, Slurm
from semilib.study.sweep import sweep
from semilib.study.unit import Outcome, parameters_of
from semilib.training import record
from semilib.training.progress import FILE, Progress


def needs(engine: str, missing: str) -> None:
    """Skip if something of an engine is missing, unless it is said to be there."""
    if missing:
        (pytest.fail if engine in os.environ.get("SEMILIB_ENGINES", "").split()
         else pytest.skip)(f"{engine} is not installed: {missing}")


# ---- SLURM -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def slurm():
    """A SLURM of one node with everything in one folder, started here and ended here."""
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    needs("slurm", ", ".join(p for p in programs if shutil.which(p, path=path) is None))
    needs("slurm", "" if importlib.util.find_spec("submitit") else 'the extra "slurm", that is submitit')
    if os.geteuid() != 0:
        pytest.skip("a SLURM of one's own needs root here: its daemons start jobs as the user who submits them")
    home = Path(tempfile.mkdtemp(prefix="slurm-"))         # short, for the sockets in it
    for name in ("state", "spool"):
        (home / name).mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    node = "node0"
    (home / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={socket.gethostname().split(".")[0]}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,batch_sched_delay=0,defer_batch=0
MinJobAge=300
ReturnToService=2
NodeName={node} NodeHostname={socket.gethostname().split(".")[0]} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE State=UP
""")
    before = dict(os.environ)
    os.environ |= {"SLURM_CONF": str(home / "slurm.conf"), "PATH": path}
    daemons = [subprocess.Popen(words, stdout=subprocess.DEVNULL,
                                stderr=open(home / f"{words[0]}.err", "wb"))  # noqa: SIM115
               for words in (["munged", "--force", "--foreground", f"--key-file={key}", f"--socket={home}/munge.socket",
                              f"--pid-file={home}/munged.pid", f"--log-file={home}/munged.log",
                              f"--seed-file={home}/munged.seed"],)]
    try:
        wait_for(lambda: (home / "munge.socket").exists(), home)
        for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", node]):
            daemons.append(subprocess.Popen(words, stdout=subprocess.DEVNULL,
                                            stderr=open(home / f"{words[0]}.err", "wb")))  # noqa: SIM115
        wait_for(lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True).stdout,
                 home)
        yield home
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)


def wait_for(ready, home: Path, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            said = [f"{file.name}: {file.read_text()[-600:]}" for file in (*home.glob("*.log"), *home.glob("*.err"))]
            pytest.fail("SLURM did not start: " + " | ".join(said))
        time.sleep(0.2)


@linux
def test_slurm_loses_nothing_when_a_worker_and_a_task_are_killed_and_tells_why_a_run_failed(slurm, tmp_path):
    grid = smoke_table()
    first, second = grid.runs[:2]
    bad = smoke_run("fixmatch", options={"threshold": 1.0}, strict=True, steps=6, eval_every=2)

    def disturb():
        os.kill(in_mid_run([first], tmp_path)[1], signal.SIGKILL)
        # the task itself; SLURM only sees that its job failed
        os.kill(parent(in_mid_run([second], tmp_path)[1]), signal.SIGKILL)

    disturber = concurrent.futures.ThreadPoolExecutor(1).submit(disturb)
    outcomes = sweep([*grid.runs, bad], tmp_path,
                     Slurm(notebook=False, threads=1, poll=0.5, more={"time": 60, "partition": "all", "nice": 1}),
                     Progress())
    disturber.result(10)
    check_done_once(grid, tmp_path, outcomes[:-1], {first.key: 1, second.key: 1}, notebook=False, others=1)
    assert outcomes[-1].state == "failed" and "no pseudo-label reached the threshold" in outcomes[-1].error
    assert len(record.read(outcomes[-1].folder)["sessions"]) == 1, "it is not tried again"
    (script, *_) = (tmp_path / "slurm").glob("*submission*.sh")
    assert "--requeue" in script.read_text() and "--nice=1" in script.read_text()
    assert "--partition=all" in script.read_text()
    again = sweep(grid.runs, tmp_path, Slurm(), Progress())
    assert {o.state for o in again} == {"done before"}


# ---- Ray -------------------------------------------------------------------------------------------------------------

RAY = """
import concurrent.futures, json, os, signal, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from semilib.study.launchers import Ray
from semilib.study.sweep import sweep
from semilib.training.progress import Progress
from kit import in_mid_run, parent, smoke_table

folder, grid = Path(sys.argv[1]), smoke_table()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8,
                                                         "include_dashboard": False})
node = cluster.add_node(num_cpus=1, object_store_memory=10**8)
ray.init(address=cluster.address, log_to_driver=False)
raylet = node.all_processes["raylet"][0].process.pid

def disturb():
    killed, pid = in_mid_run(grid.runs, folder, lambda pid: parent(pid) != raylet)
    os.kill(pid, signal.SIGKILL)
    lost, _ = in_mid_run([run for run in grid.runs if run != killed], folder, lambda pid: parent(pid) == raylet)
    cluster.remove_node(node, allow_graceful=False)
    return killed.key, lost.key

disturber = concurrent.futures.ThreadPoolExecutor(1).submit(disturb)
outcomes = sweep(grid.runs, folder, Ray(notebook=False), Progress())
print(json.dumps({"outcomes": [[o.run.key, o.state, o.error] for o in outcomes], "killed": disturber.result(10)}))
ray.shutdown()
cluster.shutdown()
"""


@linux
def test_ray_loses_nothing_when_a_worker_is_killed_and_a_node_is_lost(tmp_path):
    needs("ray", "" if importlib.util.find_spec("ray") else 'the extra "ray"')
    script, place = tmp_path / "two_nodes.py", tempfile.mkdtemp(prefix="ray-")
    script.write_text(RAY)
    words = [sys.executable, str(script), str(tmp_path / "runs")]
    alone = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-n"]      # a network of its own, of the loopback alone
    tools = shutil.which("unshare") and shutil.which("ip")
    if tools and subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        words = [*alone, "sh", "-c", 'ip link set lo up && exec "$0" "$@"', *words]
    env = {**os.environ, "RAY_TMPDIR": place, "HOME": place, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
           "RAY_raylet_start_wait_time_s": "180",          # a busy machine needs more than the usual 30 seconds
           "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent),
                                          os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told, grid = json.loads(done.stdout.splitlines()[-1]), smoke_table()
    by_key = {run.key: run for run in grid.runs}
    outcomes = [Outcome(by_key[key], record.folder(by_key[key], tmp_path / "runs"), state, error)
                for key, state, error in told["outcomes"]]
    check_done_once(grid, tmp_path / "runs", outcomes, dict.fromkeys(told["killed"], 1), notebook=False)


# ---- without an engine -----------------------------------------------------------------------------------------------


def test_a_missing_engine_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    for how, module in ((Slurm(), "submitit"), (Ray(), "ray")):
        monkeypatch.setitem(sys.modules, module, None)
        install = rf'pip install -c constraints.txt -e ".\[{how.name}\]"'
        with pytest.raises(BadInput, match=f"on='{how.name}': installed first: {install}"):
            sweep([smoke_run()], tmp_path, how, Progress())


@pytest.mark.parametrize("time, minutes", [
    (90, 90), ("90", 90), ("90:30", 91), ("2:00:00", 120), ("02:00:00", 120), ("1-0", 1440), ("1-12:30", 2190),
    ("1-00:00:00", 1440), ("0:01", 1)])
def test_a_time_limit_is_read_in_every_form_that_sbatch_knows(time, minutes):
    assert clusters.minutes(time) == minutes


@pytest.mark.parametrize("time", ["", "2h", -5, "1:2:3:4", "0", 0, None, 1.5, "1-"])
def test_another_time_limit_is_refused(time):
    with pytest.raises(BadInput, match="time="):
        clusters.minutes(time)


class Queue:
    """A stand-in for submitit's executor: it counts the tasks of each array job, and refuses one if asked to."""

    def __init__(self, refused: int | None = None):
        self.arrays, self.parallel, self.refused = [], [], refused

    def update_parameters(self, array_parallelism: int) -> None:
        self.parallel.append(array_parallelism)

    def map_array(self, task, given: list) -> list:
        if len(self.arrays) == self.refused:
            raise importlib.import_module("submitit").core.utils.FailedJobError("sbatch: error: no such partition")
        self.arrays.append(len(given))
        return [SimpleNamespace(job_id=f"{len(self.arrays)}_{i}") for i in range(len(given))]


def cluster(monkeypatch, size: int, queue: Queue) -> Queue:
    """What a cluster says of itself, and its queue."""
    needs("slurm", "" if importlib.util.find_spec("submitit") else 'the extra "slurm", that is submitit')
    told = subprocess.CompletedProcess([], 0, f"MaxArraySize            = {size}\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: told)
    monkeypatch.setattr(clusters, "_executor", lambda *a: queue)
    return queue


def test_a_sweep_of_more_tasks_than_an_array_job_may_have_becomes_several(monkeypatch, tmp_path):
    runs = [smoke_run(seed=seed) for seed in range(17)]
    for per_job, size, arrays, parallel in ((1, 10, [9, 8], 3), (1, 8, [6, 6, 5], 2), (2, 9, [9], 6), (1, 17, [17], 6)):
        queue = cluster(monkeypatch, size, Queue())
        how = Slurm(per_job=per_job, wait=False, notebook=False, more={"array_parallelism": 6})
        outcomes = clusters.slurm(runs, tmp_path / "runs", how, Progress())
        assert queue.arrays == arrays and queue.parallel == [parallel]
        assert [o.run.seed for o in outcomes] == list(range(17)) and {o.state for o in outcomes} == {"submitted"}


def test_all_array_jobs_of_a_sweep_are_waited_for_and_one_that_sbatch_refuses_is_told(monkeypatch, tmp_path):
    runs, asked = [smoke_run(seed=seed) for seed in range(3)], []
    cluster(monkeypatch, 2, Queue())
    monkeypatch.setattr(clusters, "in_queue", lambda array: asked.append(array) or len(asked) < 4 and array == "2")
    monkeypatch.setattr(clusters, "_result", lambda job, n: [("failed", job.job_id)] * n)
    outcomes = clusters.slurm(runs, tmp_path, Slurm(notebook=False, poll=0.0), Progress())
    assert asked == ["1", "2", "1", "2"] and [o.error for o in outcomes] == ["1_0", "1_1", "2_0"]
    cluster(monkeypatch, 2, Queue(refused=1))
    with pytest.raises(BadInput, match=r"slurm=.*no such partition\); array job 1 is in the queue"):
        clusters.slurm(runs, tmp_path, Slurm(notebook=False), Progress())


def test_a_task_leaves_the_file_that_the_launcher_s_follower_reads_alone(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(os, "environ", {**os.environ, FILE: str(tmp_path / "progress.json")})
    monkeypatch.setattr(clusters, "run_one", lambda run, *given: seen.append(FILE in os.environ)
                        or Outcome(run, tmp_path, "done"))
    assert clusters.ray_task(parameters_of(smoke_run()), str(tmp_path), Ray()) == ("done", "") and seen == [False]


def test_a_slurm_task_finds_this_package_and_leaves_the_launcher_s_file_alone(monkeypatch, tmp_path):
    needs("slurm", "" if importlib.util.find_spec("submitit") else 'the extra "slurm", that is submitit')
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path, file = clusters._executor(tmp_path, {}).parameters["setup"]
    assert path.startswith(f"export PYTHONPATH={ROOT}") and file == f"unset {FILE}"


@pytest.mark.parametrize("path, more, message", [
    ("/nowhere", {}, "on='slurm': .* no command srun"), (None, {"array_parallelism": "x"}, "array_parallelism='x'"),
    (None, {"array_parallelism": 0}, "array_parallelism=0")])
def test_a_machine_without_slurm_and_a_wrong_number_of_tasks_are_told(path, more, message, monkeypatch, tmp_path):
    needs("slurm", "" if importlib.util.find_spec("submitit") else 'the extra "slurm", that is submitit')
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", path or str(tmp_path))
    with pytest.raises(BadInput, match=message):
        clusters._executor(tmp_path / "slurm", more)


def test_the_queue_is_asked_in_words_that_every_slurm_answers(monkeypatch):
    def answer(text, code=0, error=""):
        monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, code, text, error))
        return clusters.in_queue("7")
    assert answer("RUNNING\nCOMPLETED\n") and answer("PENDING\n") and answer("COMPLETING\n")
    assert not answer("COMPLETED\nFAILED\n") and not answer("")
    assert not answer("", 1, "slurm_load_jobs error: Invalid job id specified")
    with pytest.raises(OSError, match="Unable to contact"):
        answer("", 1, "Unable to contact slurm controller")
