"""The reliability suite, outside of the quick tests: `make torture`, or

    python tests/torture.py                        20 minutes; again: goes on where it stopped
    python tests/torture.py --minutes 600 --write  to the goals, then the table into docs/reliability.md

Runs are killed at random moments and gone on with, and compared with a run that nobody disturbed; bad input of every
kind is given; files of runs are damaged; disks are full and read-only. Goals: all identical, all clear. Faults are told
as they are found. State and runs are in build/torture; delete it to begin anew.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import bad_inputs  # noqa: E402
import kit  # noqa: E402
import torch  # noqa: E402
from kit import VARIANTS, smoke_run  # noqa: E402

from semilib import files  # noqa: E402
from semilib.data import sources  # noqa: E402
from semilib.data.sources import Source  # noqa: E402
from semilib.errors import BadInput, Stopped  # noqa: E402
from semilib.training import checkpoint, record, trained  # noqa: E402
from semilib.training.config import Run  # noqa: E402
from semilib.training.progress import Progress  # noqa: E402
from semilib.training.train import train  # noqa: E402

PLACE = ROOT / "build" / "torture"
KILLS = 500
INPUTS = {"runs": 30_000, "command lines": 10_000, "parameters": 5_000, "pictures": 4_000, "files": 1_000}
PART = {"runs": 500, "command lines": 160, "parameters": 80, "pictures": 64, "files": 16}      # beside a run to kill
# What the launchers do with workers, tasks and nodes that are killed: tests of their own.
LAUNCHERS = {"local slots": "tests/study/test_sweep.py -k test_killed_workers",
             "SLURM": "tests/study/test_clusters.py -k test_slurm_does",
             "Ray": "tests/study/test_clusters.py -k test_ray_loses"}


class State:
    """What was done so far, by section: done, of, faults. It is kept in a file after each part."""

    def __init__(self, path: Path):
        self.path = path
        self.sections: dict[str, dict] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, name: str, goal: int) -> dict:
        return self.sections.setdefault(name, {"done": 0, "of": goal, "faults": []})

    def add(self, name: str, done: int, faults: list[str]) -> None:
        self.sections[name]["done"] += done
        self.sections[name]["faults"] += faults
        files.write_text(self.path, json.dumps(self.sections, indent=1))
        for fault in faults:
            print(f"FAULT in {name}: {fault}", flush=True)


# ---- kills -----------------------------------------------------------------------------------------------------------


def disturbed(variant: str, number: int) -> Run:
    """A run of seconds whose every step is a checkpoint; all parts and stages of its method act."""
    return smoke_run(**{**VARIANTS[variant], "keep_seconds": 0.0, "device": "cpu", "seed": number % 3})


@functools.cache
def small_source() -> Source:
    """The embedded pictures at half their side, with few for the test: what is killed is not the arithmetic."""
    source = sources.load("mnistm5k", kit.DATA)
    return dataclasses.replace(source, images=source.images[..., ::2, ::2], test_labels=source.test_labels[::10],
                               test_images=source.test_images[::10, :, ::2, ::2])


def numbers(folder: Path) -> tuple:
    """All that a run left which does not depend on when it was made."""
    log = [{k: v for k, v in e.items() if k != "seconds"} for e in record.read_log(folder)]
    state = {k: v for k, v in checkpoint.load(folder / "checkpoint.npz").items() if k not in ("seconds", "seal")}
    return log, record.read(folder)["result"], state


def same(a: tuple, b: tuple) -> bool:
    return a[:2] == b[:2] and a[2].keys() == b[2].keys() and all(torch.equal(a[2][k], b[2][k]) for k in a[2])


def child(run: Run, folder: Path, source: Source) -> int:
    """A process that trains a run; it is a copy of this one, which has all modules loaded."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
                train(run, folder=folder, source=source)
            code = 0
        finally:
            os._exit(code)
    return pid


def kills(state: State, draw: random.Random) -> Iterator[None]:
    """One method after the other: a whole run, then one that is killed at up to eight moments of its progress."""
    section, variants = state.of("kills while training", KILLS), sorted(VARIANTS)
    source = small_source()
    gc.collect()
    gc.freeze()                                            # no process looks again through what all of them share
    while section["done"] < KILLS:
        number = section.setdefault("runs", 0)
        variant = variants[number % len(variants)]
        run, whole, killed = disturbed(variant, number), PLACE / "whole", PLACE / "killed"
        for folder in (whole, killed):
            shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        train(run, folder=whole, source=source)
        seconds, count = time.monotonic() - began, 0
        while True:
            pid = child(run, killed, source)
            until = time.monotonic() + (draw.uniform(0.02, 0.25) * seconds if count < 8 else 600)
            while time.monotonic() < until and os.waitpid(pid, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
            try:
                os.kill(pid, draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                ended = os.waitpid(pid, 0)[1]
            except (ProcessLookupError, ChildProcessError):
                ended = 0
            if ended == 0:
                break
            count += 1
        done = record.read(killed)
        fine = done is not None and done["status"] == "done" and same(numbers(whole), numbers(killed))
        section["runs"] += 1
        state.add("kills while training", count, [] if fine else [f"{variant}, seed {run.seed}, killed {count} times"])
        yield


def launchers(state: State) -> Iterator[None]:
    for name, test in LAUNCHERS.items():
        section = state.of(f"kills through {name}", 1)
        if section["done"]:
            continue
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *test.split()]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        said = done.stdout.strip().splitlines()[-1:]
        skipped = "skipped" in "".join(said) and "passed" not in "".join(said)
        section["note"] = "not installed here" if skipped else ""
        state.add(f"kills through {name}", 1, [] if done.returncode == 0 else said)
        yield


# ---- inputs ----------------------------------------------------------------------------------------------------------


def inputs(state: State, kind: str) -> Iterator[None]:
    name = f"bad input: {kind}"
    section = state.of(name, INPUTS[kind])
    of_trained = really_trained() if kind == "files" and section["done"] < section["of"] else {}
    while section["done"] < section["of"]:
        count = min(PART[kind], section["of"] - section["done"])
        place = PLACE / kind.replace(" ", "-")
        shutil.rmtree(place, ignore_errors=True)
        done, faults = bad_inputs.run_cases(kind, count, section["done"] + 7, place, of_trained)
        for word in ("refused", "accepted"):
            section[word] = section.get(word, 0) + done[word]
        state.add(name, count, faults)
        yield


class StoppedAt(Progress):
    """Stops a run after a step, as Ctrl-C does."""

    period = 0

    def __init__(self, step: int):
        super().__init__()
        self.at = step

    def step(self, run: Run, done: int, *rest) -> None:
        self.shown = 0.0
        if done == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def really_trained() -> bad_inputs.Trained:
    """A finished run whose network is loaded, and half a run that is gone on with: to the numbers of a whole one."""
    finished, whole, half = PLACE / "finished", PLACE / "whole of half", PLACE / "half"
    run = disturbed("fixmatch", 0)
    for folder in (finished, whole, half):
        shutil.rmtree(folder, ignore_errors=True)
    train(smoke_run("semi"), folder=finished, progress=Progress())
    train(run, folder=whole, source=small_source(), progress=Progress())
    with contextlib.suppress(Stopped):
        train(run, folder=half, source=small_source(), progress=StoppedAt(14))
    expected = numbers(whole)

    def go_on(folder: Path) -> None:
        try:
            train(run, folder=folder, source=small_source(), progress=Progress())
        except OSError as error:                           # which the command line tells in a sentence
            raise BadInput("file", error.filename, str(error.strerror)) from error
        if not same(numbers(folder), expected):
            raise AssertionError("another result")
    def command(verb: str, *words: str) -> bad_inputs.Reader:
        return lambda folder: bad_inputs.command([verb, *(word.format(folder) for word in words)], folder)
    bad_inputs.picture(PLACE / "pictures" / "1.bmp", 1)
    return {"network": (finished, lambda folder: trained.load(folder, kit.DATA)), "run that goes on": (half, go_on),
            "report": (finished, command("report", "{0}/..", "{0}/figures")),
            "export": (finished, command("export", "{0}")),
            "predict": (finished, command("predict", "{0}", str(PLACE / "pictures")))}


# ---- disks -----------------------------------------------------------------------------------------------------------


def mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True).returncode == 0


def disks(state: State) -> Iterator[None]:
    """A disk that is full, then larger; and one that can only be read. Needs the right to mount."""
    name, place, run = "full and read-only disks", PLACE / "disk", disturbed("supervised", 0)
    section = state.of(name, 2)
    if section["done"]:
        return
    place.mkdir(parents=True, exist_ok=True)
    if not mount("-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)):
        section["note"] = "may not mount here"
        return state.add(name, 2, [])
    faults = []
    try:
        whole = train(run, folder=PLACE / "of-the-disk")
        try:
            train(run, folder=place / "run")
            faults.append("a full disk was not noticed")
        except OSError as error:
            faults += [] if "No space left" in str(error) else [f"a full disk: {error}"]
        mount("-o", "remount,size=64m", str(place))
        if not same(numbers(train(run, folder=place / "run")), numbers(whole)):
            faults.append("another result after a full disk")
        mount("-o", "remount,ro", str(place))
        bad_inputs.command(["status", "--runs", str(place)], PLACE)
        try:
            train(run.with_(seed=5), folder=place / "other")
            faults.append("a disk that can only be read was not noticed")
        except OSError as error:
            faults += [] if "Read-only" in str(error) else [f"a read-only disk: {error}"]
    finally:
        subprocess.run(["umount", str(place)], capture_output=True)
    state.add(name, 2, faults)
    yield


# ---- all -------------------------------------------------------------------------------------------------------------


def table(state: State) -> str:
    """A line a section, in Markdown."""
    lines = ["| what | done | of | faults | |", "|---|--:|--:|--:|---|"]
    for name, section in state.sections.items():
        seen = section.get("note", "")
        if "refused" in section:
            seen = f"{section['refused']:,} refused, {section['accepted']:,} fine"
        if "runs" in section:
            seen = f"{section['runs']:,} runs of {len(VARIANTS)} variants of the methods, each with the same bits"
        lines.append(f"| {name} | {section['done']:,} | {section['of']:,} | {len(section['faults']):,} | {seen} |")
    return "\n".join(lines) + "\n"


def commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip()


PAGE = """# Reliability

`make torture` kills runs at random moments and goes on with them, gives bad input of every kind, damages the files of
runs, and fills disks. A run that was killed has to end identical to the last bit with one that nobody disturbed. Bad
input has to be told in a sentence: no traceback, no hang, nothing accepted that cannot be meant. Power failures are
simulated in `tests/training/test_resume.py`.

Commit {commit}, {date}.

{table}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)           # a shell's background job ignores it
    torch.set_num_threads(1)
    PLACE.mkdir(parents=True, exist_ok=True)
    state, until = State(PLACE / "state.json"), time.monotonic() + 60 * args.minutes
    quick = [disks(state), *(inputs(state, kind) for kind in INPUTS), kills(state, random.Random(os.getpid()))]
    for parts in (quick, [launchers(state)]):
        while parts and time.monotonic() < until:          # a part of each in turn: a short time tells of all
            parts = [part for part in parts if time.monotonic() > until or next(part, Ellipsis) is not Ellipsis]
    print(table(state))
    if args.write:
        page = PAGE.format(commit=commit(), date=time.strftime("%Y-%m-%d"), table=table(state))
        files.write_text(ROOT / "docs" / "reliability.md", page)
    sys.exit(any(section["faults"] for section in state.sections.values()))


if __name__ == "__main__":
    main()
