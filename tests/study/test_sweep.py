"""Sweeps on this machine: the unit of work, the local slots, plans and states."""
import concurrent.futures
import dataclasses
import json
import math
import os
import re
import signal

import pytest
from kit import DATA, ROOT, check_done_once, evaluation, holder, in_mid_run, linux, smoke_run, smoke_table

from semilib import cli
from semilib.errors import BadInput, RunBusy
from semilib.files import PACKAGE
from semilib.study import grids, local, notebooks, sweep, unit
from semilib.study.launchers import FLAGS, Local, Ray, Slurm, launcher
from semilib.study.status import SweepStatus, share_done, summary
from semilib.training import metrics, record, writer
from semilib.training.config import Run
from semilib.training.progress import FILE, Progress

pytestmark = pytest.mark.filterwarnings("ignore")


def failing() -> Run:
    return smoke_run("fixmatch", options={"threshold": 1.0}, strict=True, steps=6, eval_every=2, seed=7)


# ---- a run as parameters of the notebook -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", grids.TITLES)
def test_every_run_of_every_table_survives_as_parameters_of_the_notebook(name):
    for profile in grids.TABLE_PROFILES:
        try:
            runs = grids.grid(name, profile, seeds=[0], root=DATA).runs
        except BadInput:                                   # the embedded pictures are no ImageNet
            continue
        for run in runs[::1 if profile == "smoke" else max(1, len(runs) // 12)]:
            given = json.loads(json.dumps(unit.parameters_of(run)))
            notebooks.check_given(ROOT / "notebooks" / unit.UNIT, {**given, "runs": "runs"})
            again = unit.run_of(given)
            assert again.key == run.key and dataclasses.replace(again, root=run.root) == run


@pytest.mark.parametrize("run", [
    Run.of("cifar10", "semi", gamma_l=150, gamma_u=100), Run.of("cifar10", "daso", recipe="original", profile="paper"),
    Run.of(method="remixmatch").with_(method="abc", base="remixmatch", steps=77, eval_every=0.5),
    Run.of(order="uniform"), Run.of(method="acr", add="plce+oheml", post_hoc=1.0, device="cpu"),
    Run.of("cifar10", "semi", options={"preset": "readme", "alpha": 0.3}),
], ids=lambda run: run.label)
def test_unusual_runs_survive_too(run):
    given = unit.parameters_of(run)
    assert unit.run_of(json.loads(json.dumps(given))).key == run.key
    assert len(given["fields"]) < 8, "only what is not usual is said"


# ---- the unit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [lambda log: log[:-1], lambda log: [*log, *log[-1:]], lambda log: [*log[:1], *log],
                                  lambda log: [], lambda log: ["?\n"], lambda log: ['{"step": 24}\n']])
def test_success_is_read_from_the_log_and_not_believed(harm, tmp_path, monkeypatch):
    run = smoke_run("fixmatch")
    path = record.folder(run, tmp_path)
    monkeypatch.setattr(unit, "train", written)
    assert unit.run_one(run, tmp_path, notebook=False).state == "done"
    result, log = record.read(path)["result"], path / "log.jsonl"
    log.write_text("".join(harm(log.read_text().splitlines(keepends=True))))
    assert not unit.is_done(path) and record.state_of(path) == "damaged"
    again = unit.run_one(run, tmp_path, notebook=False)
    assert again.state == "done" and record.read(path)["result"] == result and (path / "run.json.damaged").exists()
    monkeypatch.setattr(unit, "train", lambda run, runs, progress: harmed(written(run, runs), harm))
    (path / "run.json").write_text("{")
    assert unit.run_one(run, tmp_path, notebook=False).error.startswith("its record is damaged: ")
    assert not (path / "done.json").exists()


def test_a_damaged_run_with_an_old_mark_is_done_again_by_each_way_to_do_runs(tmp_path, monkeypatch):
    run = smoke_run("fixmatch")
    path = record.folder(run, tmp_path)
    monkeypatch.setattr(unit, "train", written)
    monkeypatch.setattr(sweep, "train", lambda run, runs, progress: record.reopen(path) or written(run, runs))
    assert unit.run_one(run, tmp_path, notebook=False).state == "done" and (path / "done.json").exists()
    (path / "log.jsonl").write_text("")
    assert SweepStatus([run], tmp_path, False).todo() == [run] and not (path / "done.json").exists()
    assert sweep.ensure([run], tmp_path, Progress()) == [path] and unit.is_done(path)


def written(run, runs, progress=None):
    """What a run leaves, without training it."""
    path, evaluations = record.folder(run, runs), [evaluation(step, (60, 30, 20)) for step in range(6, 25, 6)]
    assert not record.read(path), "it would not be done again"
    record.Log(path, record.identifier(run), evaluations)
    record.write(path, {"name": run.name, "key": run.key, "code": path.name[-8:], "status": "done", "seconds": 1.0,
                        "config": run.identity(), "result": metrics.summary(evaluations)})
    return path


def harmed(path, harm):
    log = path / "log.jsonl"
    log.write_text("".join(harm(log.read_text().splitlines(keepends=True))))


def test_a_run_that_another_process_has_is_left_alone(tmp_path):
    run = smoke_run("fixmatch")
    with writer.hold(record.folder(run, tmp_path)):
        assert unit.run_one(run, tmp_path, wait=0.1).state == "busy"
    with writer.hold(record.folder(run, tmp_path) / "unit"):
        outcome = unit.run_one(run, tmp_path)
    assert (outcome.state, outcome.exit_code) == ("busy", unit.BUSY) and not list(tmp_path.rglob("run.json"))


# ---- launchers -------------------------------------------------------------------------------------------------------


def test_a_launcher_takes_what_it_knows_passes_on_the_rest_and_refuses_bad_values():
    slurm = launcher("slurm", {"per_job": 4, "notebook": False, "partition": "gpu", "time": 240})
    assert slurm == Slurm(per_job=4, notebook=False, more={"partition": "gpu", "time": 240})
    assert slurm.of_a_task() == Local(notebook=False)
    options = {"num_cpus": 2, "resources": {"big": 1}}
    assert launcher("ray", options) == Ray(num_cpus=2.0, more={"resources": {"big": 1}})
    for name, values, message in (("slurm", {"per_job": 0}, "per_job=0: at least 1"),
                                  ("ray", {"num_gpus": -1}, "num_gpus=-1"),
                                  ("local", {"threads": "two"}, "threads='two': a whole number"),
                                  ("local", {"retries": -1}, "retries=-1")):
        with pytest.raises(BadInput, match=message):
            launcher(name, values)


def test_each_flag_of_a_sweep_is_an_option_of_a_launcher():
    for name in FLAGS:
        args = cli.parser().parse_args(["run", "table1", f"--{name.replace('_', '-')}", "3"])
        assert getattr(args, name) == 3 and getattr(launcher("slurm", {name: 3}), name) == 3


# ---- local slots -----------------------------------------------------------------------------------------------------


def kill_in_mid_run(run: Run, folder, how: signal.Signals) -> concurrent.futures.Future:
    """End the run's worker once it has logged something."""
    return concurrent.futures.ThreadPoolExecutor(1).submit(lambda: os.kill(in_mid_run([run], folder)[1], how))


@linux
def test_a_terminated_worker_is_started_again_and_a_failed_run_stops_nothing(tmp_path):
    grid = smoke_table(60, batch=4)
    alone = dataclasses.replace(grid, entries=grid.entries[:1])
    (run,), bad = alone.runs, failing()
    ended = kill_in_mid_run(run, tmp_path, signal.SIGTERM)
    outcomes = local.do([bad, run], tmp_path, Local(slots=2, notebook=False), Progress())
    ended.result(10)
    assert [o.state for o in outcomes] == ["failed", "done"]
    assert "no pseudo-label reached the threshold" in outcomes[0].error
    assert "1 done" in summary(outcomes) and f"{bad.name}, threshold 1 ({bad.key}): failed" in summary(outcomes)
    assert len(record.read(outcomes[0].folder)["sessions"]) == 1, "what failed by itself is not tried again"
    check_done_once(alone, tmp_path, outcomes[1:], {run.key: 1}, notebook=False, others=1)


@linux
def test_a_worker_that_is_killed_while_its_notebook_runs_is_started_again_and_what_it_did_is_not_done_twice(tmp_path):
    grid = smoke_table(60, batch=4)
    alone = dataclasses.replace(grid, entries=grid.entries[:1])
    (run,) = alone.runs
    ended = kill_in_mid_run(run, tmp_path, signal.SIGKILL)
    outcomes = local.do([run], tmp_path, Local(), Progress())
    ended.result(10)
    check_done_once(alone, tmp_path, outcomes, {run.key: 1}, notebook=True)
    path = record.folder(run, tmp_path)
    text = (path / "run.ipynb").read_text()
    assert outcomes[0].folder == path and "FixMatch" in text and run.key in text
    assert [p.name for p in (path / "unit").iterdir()] == ["lock"]
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.name != "lock"}
    again = unit.run_one(run, tmp_path)
    assert (again.state, again.folder, again.exit_code) == ("done before", path, 0)
    assert before == {p: p.stat().st_mtime_ns for p in path.rglob("*") if p.name != "lock"}


@linux
def test_ctrl_c_ends_the_workers_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    run = smoke_table(60, batch=4).runs[0]
    path = record.folder(run, tmp_path)

    def press(self, running, slots):
        if share_done(run, tmp_path) > 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(SweepStatus, "show", press)
    with pytest.raises(KeyboardInterrupt):
        local.do([run], tmp_path, Local(notebook=False), Progress())
    assert holder(path / "unit" / "lock") is None and record.state(run, tmp_path) == "interrupted"
    monkeypatch.undo()
    assert unit.run_one(run, tmp_path, notebook=False).state == "done" and len(record.read(path)["sessions"]) == 2
    assert [line["step"] for line in record.read_log(path)] == list(range(10, 61, 10))


def test_slots_share_out_cores_and_cards(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert local.slots_of(20, Local(), []) == [{"threads": 1, "gpu": None}] * 8
    assert local.slots_of(2, Local(), []) == [{"threads": 4, "gpu": None}] * 2
    assert local.slots_of(20, Local(slots=3, threads=2), []) == [{"threads": 2, "gpu": None}] * 3
    assert [s["gpu"] for s in local.slots_of(20, Local(per_gpu=2), ["3", "5"])] == ["3", "5", "3", "5"]
    with pytest.raises(BadInput, match="slots=5: at most 4"):
        local.slots_of(20, Local(slots=5, per_gpu=2), ["0", "1"])
    with pytest.raises(BadInput, match="per_gpu=0"):
        Local(per_gpu=0)
    for named, cards in (("2, GPU-7", ["2", "GPU-7"]), ("", []), ("-1", []), ("NoDevFiles", []), ("0,-1,1", ["0"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert local.gpus() == cards
    assert unit.environment(3, "2")["CUDA_VISIBLE_DEVICES"] == "2"
    assert unit.environment(3, None)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("files, cores", [
    ({"cpu.max": "150000 100000"}, 1.5), ({"cpu.max": "max 100000"}, math.inf), ({}, math.inf),
    ({"cpu.max": "?"}, math.inf),
    ({"a/cpu.max": "max 100000", "a/b/cpu.max": "400000 100000", "cpu.max": "600000 100000"}, 4),
    ({"cpu,cpuacct/a/b/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, 2),
    ({"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1"}, math.inf)])
def test_a_container_s_limit_of_cpu_time_is_seen(files, cores, tmp_path):
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/a/b\n0::/a/b\n")
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content + "\n")
    assert local.quota(tmp_path / "groups", own) == cores and local.cores() >= 1


def test_a_project_without_its_notebook_is_told_once_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(unit, "notebook", lambda: tmp_path / "10_run.ipynb")
    with pytest.raises(BadInput, match="notebook=.*10_run.ipynb.*--bare trains without it"):
        local.do([smoke_run()], tmp_path, progress=Progress())
    assert local.do([], tmp_path, Local(notebook=False), Progress()) == []


@pytest.mark.parametrize("died", ["Kernel died before replying to kernel_info", "Kernel died"])
def test_a_kernel_that_is_killed_while_it_starts_counts_as_killed(died, tmp_path, monkeypatch):
    def execute(*args, **kwargs):
        raise RuntimeError(died)
    monkeypatch.setattr(notebooks, "execute", execute)
    outcome = unit.run_one(smoke_run(), tmp_path)
    assert (outcome.state, outcome.exit_code) == ("killed", unit.KILLED)


def test_a_method_of_a_notebook_is_refused_before_anything_starts(tmp_path, monkeypatch):
    from semilib.methods import METHODS, get
    monkeypatch.setitem(METHODS, "own", type("Own", (get("fixmatch"),), {}))
    with pytest.raises(BadInput, match="method='own': a method that a file of semilib/methods defines"):
        local.do([Run.of(method="own", profile="smoke")], tmp_path, progress=Progress())


# ---- before a sweep --------------------------------------------------------------------------------------------------


def test_a_plan_rests_on_finished_runs_and_says_unknown_otherwise(tmp_path):
    runs = [smoke_run("fixmatch", seed=seed) for seed in (0, 1)] + [smoke_run("supervised")]
    nothing = sweep.forecast(runs, tmp_path, tmp_path / "none")
    assert (nothing.todo, nothing.unknown, nothing.unknown_disk) == (3, 3, 3)
    assert "3 runs (3 not started): 3 to do" in nothing.text() and "time  unknown" in nothing.text()
    assert "disk  unknown" in nothing.text()
    path = unit.run_one(runs[0], tmp_path, notebook=False).folder
    found = record.read(path)
    record.write(path, {**found, "seconds": 240.0})
    planned = sweep.forecast(runs, tmp_path, tmp_path / "none", notebook=False)
    assert planned.states == {"done": 1, "not started": 2} and (planned.todo, planned.unknown) == (2, 0)
    assert planned.seconds == pytest.approx(480) and planned.disk > 10_000
    text = planned.text(slots=2)
    assert "8:00 in one slot, 4:00 in 2" in text and "runs of the same method" in text
    assert "runs of other methods" in text
    of_another_network = sweep.forecast([Run.of(profile="quickstart")], tmp_path, tmp_path / "none")
    assert of_another_network.unknown == 1, "another network tells nothing"
    assert [state for _, state in sweep.states(runs, tmp_path)] == ["done", "not started", "not started"]


def test_ensure_does_runs_side_by_side_by_the_local_slots(tmp_path, monkeypatch):
    runs, states, asked = [smoke_run("fixmatch"), failing()], ["done", "failed"], []

    def do(given, folder, how, progress):
        asked.append((given, folder, how))
        return [unit.Outcome(run, record.folder(run, folder), state) for run, state in zip(given, states, strict=True)]

    monkeypatch.setattr(local, "do", do)
    assert sweep.ensure(runs, tmp_path, Progress(), slots=2) == [record.folder(run, tmp_path) for run in runs]
    assert asked == [(runs, tmp_path, Local(slots=2, notebook=False))]
    states[1] = "busy"
    with pytest.raises(RunBusy, match=f"{runs[1].label}.* another process"):
        sweep.ensure(runs, tmp_path, Progress(), slots=2)


def test_workers_find_this_package_and_their_verb_is_in_no_list():
    assert unit.environment()["PYTHONPATH"].split(os.pathsep)[0] == str(PACKAGE.parent)
    assert cli.parser().parse_args(["one", "f.json", "3", "--parent", "1"]).index == 3
    assert "one" not in re.findall(r"^    (\S+)", cli.parser().format_help(), re.M)


def test_the_file_that_a_follower_reads_is_the_launcher_s_alone(tmp_path, monkeypatch):
    """Bare workers would write their own lines over those of the sweep."""
    file = tmp_path / "progress.json"
    monkeypatch.setenv(FILE, str(file))
    assert FILE not in unit.environment()
    run = smoke_run(method="supervised", steps=2, eval_every=1, batch=2)
    outcome, = local.do([run], tmp_path / "runs", Local(notebook=False), Progress())
    written = json.loads(file.read_text())
    assert outcome.state == "done" and written["now"] == "", "the line that moves is ended there too"
    assert len(written["finished"]) == 1 and written["finished"][0].startswith("[1/1] ")
    status = SweepStatus([run.with_(seed=1)], tmp_path, False, Progress())
    status.show(list(status.runs.values()), 1)
    assert json.loads(file.read_text())["now"].startswith("0 of 1 finished; running ")


def test_a_table_s_sweep_names_its_rows_while_they_run_and_when_they_end(tmp_path):
    grid = smoke_table()
    progress = Progress(len(grid.runs), grid.names)
    status = SweepStatus(grid.runs, tmp_path, False, progress)
    run, *_ = grid.runs
    status.seconds = [30.0]
    status.show([run], 1)
    assert progress.now.startswith(f"0 of {len(grid.runs)} finished; running {grid.names[run.key]} 0%; about ")
    status.ended(unit.Outcome(run, status.folder_of(run), "failed", "the reason"))
    assert progress.finished == [f"[1/{len(grid.runs)}] {grid.names[run.key]}  failed  the reason"]
