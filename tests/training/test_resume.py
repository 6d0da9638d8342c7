"""Going on with a run: what a log and a checkpoint must agree on, power failures, two writers, signals."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import kit
import numpy as np
import pytest
import torch

from semilib import files
from semilib.errors import BadInput, RunBusy, Stopped
from semilib.training import checkpoint, record, resume, signals, writer
from semilib.training.engine import Trainer
from semilib.training.progress import Progress
from semilib.training.train import train

FILES = ("run.json", "log.jsonl", "checkpoint.npz")


def run(**changes):
    return kit.run("fixmatch", {"threshold": 0.2}, **{"steps": 6, "eval_every": 2, "keep_seconds": 0.0, **changes})


def trained(folder: Path, progress: Progress | None = None, **changes) -> Path:
    return train(run(**changes), folder=folder, source=kit.source(), progress=progress)


class After(Progress):
    """Does something after a step of a run, once."""

    period = 0

    def __init__(self, step: int, what):
        super().__init__()
        self.at, self.what = step, what

    def step(self, run, done, *rest):
        self.shown = 0.0
        if done == self.at:
            self.at = None
            self.what()


def numbers(folder: Path) -> tuple:
    log = [{k: v for k, v in e.items() if k != "seconds"} for e in record.read_log(folder)]
    return log, record.read(folder)["result"], record.read(folder)["status"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """Five of six steps, and two of three evaluations."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stopped):
        trained(folder, After(5, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    return folder


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(run(), kit.source())


# ---- log and checkpoint ----------------------------------------------------------------------------------------------


def lines(edit):
    def harm(folder: Path) -> None:
        log = folder / "log.jsonl"
        log.write_text("".join(edit(log.read_text().splitlines(keepends=True))))
    return harm


def arrays(edit):
    def harm(folder: Path) -> None:
        state = checkpoint.load(folder / "checkpoint.npz")
        checkpoint.save(folder / "checkpoint.npz", edit(state))
    return harm


def of_another(**changes):
    """The checkpoint of another run that stands at the same step, beside this run's log."""
    def harm(folder: Path) -> None:
        other = Trainer(run(**changes), kit.source())
        kit.losses_of(other, range(5))
        resume.save(folder, other, record.Log(folder, record.identifier(other.run), record.read_log(folder)), 1.0)
    return harm


def without(state, part: str):
    return {name: value for name, value in state.items() if not name.startswith(part)}


def pickled(folder: Path) -> None:
    np.savez(folder / "checkpoint.npz", a=np.array([{}], dtype=object))


def claims_a_terabyte(folder: Path) -> None:
    """An array whose header says that it is far larger than its bytes."""
    np.savez(folder / "checkpoint.npz", a=np.zeros(3, np.uint8))
    content = (folder / "checkpoint.npz").read_bytes()
    shape = content[content.index(b"(3,)"):][:16]
    (folder / "checkpoint.npz").write_bytes(content.replace(shape, b"(1099511627776,)"))


HARMS = {
    "log lost its last line": lines(lambda log: log[:-1]), "log lost its first line": lines(lambda log: log[1:]),
    "log doubled a line": lines(lambda log: [log[0], *log]), "log emptied": lines(lambda log: []),
    "log in another order": lines(lambda log: log[::-1]),
    "a number of the log changed": lines(lambda log: [log[0].replace('"seconds": ', '"seconds": 1'), log[1]]),
    "log of garbage": lines(lambda log: ["what\n"]), "log of other things": lines(lambda log: ["[1]\n", *log]),
    "log of lists without end": lines(lambda log: ["[" * 10**5 + "\n"]),
    "no log": lambda folder: (folder / "log.jsonl").unlink(),
    "checkpoint of 0 bytes": lambda folder: (folder / "checkpoint.npz").write_bytes(b""),
    "half a checkpoint": lambda folder: os.truncate(folder / "checkpoint.npz", 9000),
    "checkpoint of objects": pickled, "checkpoint that claims a terabyte": claims_a_terabyte,
    "checkpoint without its optimiser": arrays(lambda state: without(state, "optimiser0")),
    "checkpoint without its measurements": arrays(lambda state: without(state, "monitor")),
    "checkpoint without its seal": arrays(lambda state: without(state, "seal")),
    "checkpoint of another stage": arrays(lambda state: {**state, "time/stage": torch.tensor(9)[None]}),
    "checkpoint of another step": arrays(lambda state: {**state, "time/step": torch.tensor(4)}),
    "checkpoint of another seed": of_another(seed=5), "checkpoint of another rate": of_another(lr=0.01),
    "checkpoint of another width": of_another(network="wrn-10-0.5"),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_log_and_a_checkpoint_that_do_not_agree_are_not_gone_on_with(harm, stopped, trainer, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    harm(folder)
    with pytest.raises(resume.Damaged) as told:
        resume.load(folder, trainer, record.identifier(run()))
    assert "allow_pickle" not in str(told.value) and len(str(told.value)) < 300


def test_a_run_whose_log_lost_a_line_begins_again_says_so_and_ends_with_the_right_numbers(stopped, whole, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    HARMS["log lost its last line"](folder)
    said = Progress()
    trained(folder, said)
    assert numbers(folder) == numbers(whole)
    assert "begins again: log.jsonl does not hold the evaluations up to step 5" in said.lines()[0]
    assert (folder / "checkpoint.npz.damaged").exists() and len(record.read_log(folder)) == 3


def test_lines_of_steps_after_the_checkpoint_are_made_again(stopped, whole, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"step": 6, "balanced_accuracy": 1.0}\n{"step": 8, "bal')
    assert numbers(trained(folder)) == numbers(whole)


def test_a_run_whose_run_json_is_damaged_goes_on_from_its_checkpoint(stopped, whole, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / "run.json").write_text('{"name": 3')
    assert record.state_of(folder) == "damaged"
    assert numbers(trained(folder)) == numbers(whole) and len(record.read(folder)["sessions"]) == 1
    assert not (folder / "checkpoint.npz.damaged").exists()


@pytest.mark.parametrize("harm", [Path.unlink, lambda log: log.write_bytes(b"\xff\n"),
                                  lambda log: log.write_bytes(b"".join(log.read_bytes().splitlines(True)[1:]))])
def test_a_finished_run_whose_log_does_not_give_its_result_is_done_again(harm, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    before = record.read(folder)["finished"]
    assert record.state_of(trained(folder)) == "done" and record.read(folder)["finished"] == before
    harm(folder / "log.jsonl")
    assert record.state_of(folder) == "damaged" and record.finished(folder) is None
    assert numbers(trained(folder)) == numbers(whole) and record.state_of(folder) == "done"
    assert (folder / "run.json.damaged").exists()


# ---- a power failure -------------------------------------------------------------------------------------------------


class Disk:
    """What a power failure may leave of a folder: its file operations while it is written.

    Each is ("content", file, bytes), flushed; ("name", file, name), a file that gets a name; or ("names",), flushed."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.done = folder, []
        fsync, replace, freed = os.fsync, os.replace, Counter()   # a file's number is given again once it is free

        def flush(handle):
            fsync(handle)
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            if path == folder:
                self.done.append(("names",))
            elif path.parent == folder:
                file = os.fstat(handle).st_ino
                self.done.append(("content", (file, freed[file]), path.read_bytes()))

        def rename(old, new):
            file = os.stat(old).st_ino
            self.done.append(("name", (file, freed[file]), Path(new).name))
            freed.update([os.stat(new).st_ino] if Path(new).exists() else [])
            replace(old, new)
        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "replace", rename)

    def left(self, count: int, choose: random.Random | None) -> dict[str, bytes]:
        """The folder after `count` operations. What was not flushed by then is lost, or is there in a random part."""
        content, names, waiting = {}, {}, []
        for kind, *what in self.done[:count]:
            if kind == "content":
                content[what[0]] = what[1]
            elif kind == "name":
                waiting.append(what)
            else:
                names.update({name: file for file, name in waiting})
                waiting = []
        if choose:
            for file, name in choose.sample(waiting, choose.randint(0, len(waiting))):
                names[name] = file
            if count < len(self.done) and self.done[count][0] == "content":
                _, file, coming = self.done[count]
                old = content.get(file, b"")
                content[file] = coming[:choose.randint(len(old), len(coming))]
        return {name: content[file] for name, file in names.items()}


@kit.linux
def test_after_a_power_failure_at_any_moment_a_run_goes_on_from_its_checkpoint(trainer, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    with monkeypatch.context() as patch:
        disk = Disk(folder, patch)
        trained(folder)
    log, draw, identifier = record.read_log(folder), random.Random(0), record.identifier(run())
    assert len(log) == 3 and len(disk.done) > 30
    moments = [(count, None) for count in range(len(disk.done) + 1)]
    moments += [(draw.randrange(len(disk.done)), draw) for _ in range(200)]
    seen = set()
    for number, (count, choose) in enumerate(moments):
        left = tmp_path / str(number)
        left.mkdir()
        for name, content in disk.left(count, choose).items():
            (left / name).write_bytes(content)
        evaluations = resume.load(left, trainer, identifier)[0].evaluations
        step = trainer.step if (left / "checkpoint.npz").exists() else 0
        assert evaluations == [e for e in log if e["step"] <= step]
        assert record.read(left) is not None or not (left / "run.json").exists()
        seen.add(step)
    assert seen == set(range(7))


# ---- one writer ------------------------------------------------------------------------------------------------------


def test_where_locks_do_not_hold_a_writer_that_is_replaced_stops_and_the_record_is_right(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    folder = tmp_path / "run"
    with pytest.raises(RunBusy, match="taken over by another process, so this one stops"):
        trained(folder, After(3, lambda: trained(folder)))
    assert numbers(folder) == numbers(whole)


def test_a_line_that_slipped_in_from_another_process_is_written_over(whole, tmp_path):
    folder = tmp_path / "run"

    def slip():
        files.append_line(folder / "log.jsonl", json.dumps({"step": 4, "balanced_accuracy": 1.0}))
    trained(folder, After(3, slip))
    assert numbers(folder) == numbers(whole)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_named_and_not_taken_for_a_busy_run(number, tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, "flock", flock)
    wanted = f"folder=.*run.*without which two processes .*{os.strerror(number)}"
    with pytest.raises(BadInput, match=wanted), writer.hold(tmp_path / "run"):
        pass
    assert not writer.is_busy(tmp_path / "run")


def test_what_killed_writers_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".checkpoint.npz.4711.part").write_bytes(b"half")
    with writer.hold(tmp_path):
        assert {p.name for p in tmp_path.iterdir()} == writer.FILES
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_once_there_is_room(whole, tmp_path, monkeypatch):
    folder, save = tmp_path / "run", np.savez

    def full(file, **arrays):
        if int(arrays["time/step"]) > 3:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, **arrays)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device: '.*checkpoint.npz'"):
        patch.setattr(np, "savez", full)
        trained(folder)
    assert record.read(folder)["status"] == "failed" and not list(folder.glob(".*"))
    assert int(checkpoint.load(folder / "checkpoint.npz")["time/step"]) == 3
    assert numbers(trained(folder)) == numbers(whole)


# ---- signals ---------------------------------------------------------------------------------------------------------


def test_a_signal_saves_the_step_that_was_made_and_the_run_goes_on_from_there(stopped, whole, tmp_path):
    kept = record.read(stopped)
    assert kept["status"] == "interrupted" and "stopped after step 5 of 6 and saved" in kept["error"]
    folder = shutil.copytree(stopped, tmp_path / "run")
    assert int(checkpoint.load(folder / "checkpoint.npz")["time/step"]) == 5
    assert numbers(trained(folder)) == numbers(whole) and len(record.read(folder)["sessions"]) == 2


@pytest.mark.parametrize("name", signals.NAMES)
def test_each_signal_asks_to_stop_and_a_second_one_ends_at_once(name):
    ended = []
    before = signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with signals.Stop() as stop, contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), getattr(signal, name))
            assert stop.asked == getattr(signal, name)
            os.kill(os.getpid(), getattr(signal, name))
            ended.append("not at once")
        assert not ended and signal.getsignal(getattr(signal, name)) == signal.default_int_handler
    finally:
        signal.signal(getattr(signal, name), before)


def test_signals_that_somebody_else_handles_or_ignores_are_left_alone():
    handlers = {signal.SIGHUP: signal.SIG_IGN, signal.SIGUSR1: lambda *_: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with signals.Stop():
            assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_notebook_shows_one_line_of_a_stop(capsys):
    from IPython.core.interactiveshell import InteractiveShell
    InteractiveShell().run_cell("from semilib.errors import Stopped\nraise Stopped('stopped after step 3 of 6', 2)")
    assert "".join(capsys.readouterr()).strip() == "stopped after step 3 of 6"
