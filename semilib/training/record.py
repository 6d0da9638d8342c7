"""A run's folder: what was run, by which code, on what, and what came out.

    runs/CELL.sSEED/METHOD-KEY-CODE/    run.json     configuration, provenance, state and result
                                        log.jsonl    a line an evaluation
                                        checkpoint.npz, lock, writer
                                        *.csv, *.onnx    predictions and network (`trained.predictions`), of no record

KEY is the hash of the configuration, CODE the fingerprint of the code that the run executes. So a changed configuration
or a changed step gets a folder of its own, nothing finished is overwritten, and a run made by other code shows as
stale. `results/` holds committed copies of records (`publish`); it is evidence, never a cache.
"""
from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semilib.errors import BadInput
from semilib.files import append_line, write_atomically, write_text
from semilib.training import fingerprint, metrics
from semilib.training.writer import FILES, is_busy

if TYPE_CHECKING:
    from semilib.training.config import Run

MADE_OF_IT = (".csv", ".onnx")           # endings of what `trained` leaves in a run's folder
VERSIONS = ("torch", "torchvision", "numpy", "pillow", "scikit-learn", "mlxtend")


def device_name(device: Any) -> str:
    """A device as records name it: the card's model, or cpu."""
    import torch
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def provenance(run: Run) -> dict[str, Any]:
    """Commit, whether the executed code differs from it, versions and machine (never a path or a host name)."""
    def git(*args: str) -> str | None:
        try:
            out = subprocess.run(["git", *args], cwd=fingerprint.PACKAGE, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return out.stdout.strip() if out.returncode == 0 else None
    tracked = git("ls-files", "--error-unmatch", "__init__.py") is not None         # not a copy in another repository
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    changed = git("status", "--porcelain", "--", *map(str, fingerprint.executed(run.identity())))
    return {"commit": git("rev-parse", "HEAD") if tracked else None, "dirty": bool(changed) if tracked else None,
            "versions": versions, "system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}


# ---- the folder ------------------------------------------------------------------------------------------------------


def folder(run: Run, runs: str | Path = "runs") -> Path:
    """Where a run of this configuration, by today's code, is kept."""
    cell, method = run.name.split("/")
    return Path(runs) / cell / f"{method}-{identifier(run)}"


def identifier(run: Run) -> str:
    """KEY-CODE of a run by today's code."""
    return f"{run.key}-{fingerprint.code_of(run.identity())}"


def folders(run: Run, runs: str | Path = "runs") -> list[Path]:
    """Where runs of this configuration are kept, by whatever code; found without reading today's."""
    cell, method = run.name.split("/")
    return [path.parent for path in (Path(runs) / cell).glob(f"{method}-{run.key}-*/run.json")]


def state(run: Run, runs: str | Path = "runs") -> str:
    """not started | running | interrupted | failed | done | damaged | stale (only other code has done it)."""
    kept = folders(run, runs)
    if kept and folder(run, runs) in kept:
        return state_of(folder(run, runs))
    return "stale" if "stale" in map(state_of, kept) else "not started"


def state_of(path: Path) -> str:
    """The state of the run in a folder: running | interrupted | failed | done | stale (done, but by other code) |
    damaged (its run.json tells of no run, or its log does not give the result). A damaged run is not done."""
    found = read(path)
    if found is None:
        return "damaged"
    if found["status"] == "running":
        return "running" if is_busy(path) else "interrupted"
    if found["status"] == "done" and not is_whole(path, found):
        return "damaged"
    stale = found["status"] == "done" and found["code"] != fingerprint.code_of(found["config"])
    return "stale" if stale else found["status"]


def read(path: str | Path) -> dict[str, Any] | None:
    """run.json of a folder; None if there is none, or none that tells of a run."""
    try:
        found = json.loads((Path(path) / "run.json").read_text(encoding="utf-8"))
        return found if tells_of_a_run(found) else None
    except (OSError, ValueError, RecursionError):
        return None


# Types of what a run.json may have, by part, as readers take them. An older one has less.
KINDS: dict[str, dict[str, Any]] = {
    "": {"error": str, "sessions": list, "commit": str | None, "finished": str, "log_crc32": int},
    "config": {**dict.fromkeys(("base", "add", "recipe", "profile"), str), "steps": int, "seed": int},
    "split": {"fingerprint": str, "labelled_counts": list, "class_names": list, "test_images": int},
    "result": {"rule": str, "never_acted": dict, "metrics": dict, "right": list}, "resolved": {}, "versions": {}}
NAME = re.compile(r"[^/]+\.s\d+/[^/]+")


def tells_of_a_run(found: Any) -> bool:
    """Whether the content of a run.json has what every reader looks for. A run that is done has a result."""
    def has(part: Any, kinds: dict[str, Any]) -> bool:
        return isinstance(part, dict) and all(isinstance(part.get(key), kind) for key, kind in kinds.items())
    if not (has(found, {"name": str, "key": str, "code": str, "status": str, "config": dict})
            and has(found["config"], {"method": str, "dataset": str, "options": dict})
            and NAME.fullmatch(found["name"])):
        return False
    for name, kinds in KINDS.items():
        part = found.get(name, {}) if name else found
        if not isinstance(part, dict) or not has(part, {key: kinds[key] for key in kinds.keys() & part.keys()}):
            return False
    if any(isinstance(value, list | dict) for name, value in found["config"].items() if name != "options"):
        return False
    split = found.get("split", {})
    counts = split.get("labelled_counts", [])
    classes = split.get("class_names", list(map(str, counts)))
    if len(counts) != len(classes) or {type(value) for value in counts + classes} - {int, str}:
        return False
    return found["status"] != "done" or (has(found, {"seconds": int | float})
                                         and has(found.get("result"), {"mean_last": int | float}))


def finished(path: str | Path) -> dict[str, Any] | None:
    """run.json of a finished run; None if it says otherwise, or if the log does not give its result."""
    found = read(path)
    return found if found is not None and found["status"] == "done" and is_whole(path, found) else None


def is_whole(path: str | Path, found: dict[str, Any]) -> bool:
    """Whether a finished run's log gives the result in its run.json. The log's sum says so at once; older records have
    none."""
    try:
        if "log_crc32" in found:
            return sum_of_log(path) == found["log_crc32"]
        return metrics.gives(read_log(path), found["result"], found["config"]["steps"])
    except (OSError, LookupError, ArithmeticError, TypeError, ValueError):
        return False


def sum_of_log(path: str | Path) -> int:
    """The CRC-32 of log.jsonl."""
    return zlib.crc32((Path(path) / "log.jsonl").read_bytes())


def reopen(path: Path) -> None:
    """Keep a run.json that says done as run.json.damaged, so that the run is done again."""
    found = read(path)
    if found is not None and found["status"] == "done":
        os.replace(path / "run.json", path / "run.json.damaged")


def write(path: Path, record: dict[str, Any]) -> None:
    write_text(path / "run.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order; a last line cut short by a kill is left out. Raises ValueError for a line
    that is no evaluation."""
    file = Path(path) / "log.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [evaluation_of(line) for line in lines if line.endswith(b"\n")]


def evaluation_of(line: bytes) -> dict[str, Any]:
    """A line of log.jsonl. Raises ValueError for another one."""
    try:
        evaluation = json.loads(line)
    except RecursionError as error:
        raise ValueError("lists in lists without end") from error
    if not isinstance(evaluation, dict) or type(evaluation.get("step")) is not int:
        raise ValueError(f"no evaluation: {line[:40]!r}")
    return evaluation


class Log:
    """log.jsonl as the one process keeps it that trains the run: on the disk, line by line, and in memory.

    identifier: of the run. What another process changes in the file is written over."""

    def __init__(self, path: Path, identifier: str, evaluations: list[dict[str, Any]]):
        self.file, self.identifier, self.evaluations = path / "log.jsonl", identifier, evaluations
        self.settle()

    def append(self, evaluation: dict[str, Any]) -> None:
        self.evaluations.append(evaluation)
        if self.file.exists() and self.file.stat().st_size == self.size:
            self.size += append_line(self.file, json.dumps(evaluation))
        else:
            self.settle()

    def settle(self) -> None:
        """Make the file what is in memory."""
        content = "".join(json.dumps(evaluation) + "\n" for evaluation in self.evaluations).encode("utf-8")
        self.size = len(content)
        if not self.file.exists() or self.file.read_bytes() != content:
            write_atomically(self.file, lambda file: file.write(content))


def new(run: Run, before: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """run.json at the start of a session: what is known before its first step.

    before: the run.json that an earlier, unfinished session left. `sessions` lists them all with device, precision,
    threads and PyTorch: a run that changes them on the way is still the same run, but not the same bits.
    """
    out = {"name": run.name, "key": run.key, "code": fingerprint.code_of(run.identity()), "status": "running",
            "config": run.identity(), **facts, **provenance(run),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    session = {"started": out["started"], "torch": out["versions"].get("torch"),
               **{name: out["resolved"][name] for name in ("device", "precision", "threads")}}
    return {**out, "started": (before or out)["started"], "sessions": [*(before or {}).get("sessions", []), session]}


def discard(path: Path) -> None:
    """Remove the folder of a run that was refused before it began, if it holds nothing but what holding it left."""
    if {p.name for p in path.iterdir()} <= FILES:
        with contextlib.suppress(OSError):
            for name in FILES:
                (path / name).unlink(missing_ok=True)
            path.rmdir()
            path.parent.rmdir()


def check_same(found: dict[str, Any], run: Run, path: Path) -> None:
    """Raise BadInput if a folder's run is not `run`: a folder holds one configuration, run by one code, for ever."""
    before = found["config"]
    if found["code"] != fingerprint.code_of(run.identity()):
        raise BadInput("folder", path.name,
                       f"another folder: the run kept there was made by other code ({found['code']})")
    for name, value in run.identity().items():
        if before.get(name) != value:
            why = "start a new one elsewhere"
            if name == "steps":
                why = ("a run cannot be made longer or shorter: rate, warm-up and every other duration depend on its "
                       "length, so a longer one differs from its first step on; start a new one")
            raise BadInput(name, value, f"{before.get(name)!r}, as in the run kept in {path.name} ({why})")


def publish(path: str | Path, results: str | Path) -> Path:
    """Copy a finished run's record (run.json and log.jsonl, no weights) into a folder of `results/`.

    Raises BadInput for an unfinished one, for a log that does not give its result, and for a name or key that would
    lead to another place: they are the run's own words."""
    found = read(path)
    if found is None or found["status"] != "done":
        raise BadInput("path", str(path), "the folder of a finished run")
    if not is_whole(path, found):
        raise BadInput("path", str(path), "a folder with an intact log.jsonl, which gives the result in run.json")
    name = f"{found['name'].replace('/', '_')}-{found['key']}"
    if not re.fullmatch(r"[^/\\\0]+\.s\d+_[^/\\\0]+-[0-9a-f]{8}", name) or "\n" in name:
        raise BadInput("name", name, "CELL.sSEED/METHOD and a key of eight hex digits, as run.json has them")
    target = Path(results) / name
    write_text(target / "log.jsonl", "".join(json.dumps(evaluation) + "\n" for evaluation in read_log(path)))
    write(target, found)
    return target
