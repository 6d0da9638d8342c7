"""A run's folder: what was run, by which code, on what, and what came out.

    runs/CELL.sSEED/METHOD-KEY-CODE/    run.json     configuration, provenance, state and result
                                        log.jsonl    a line an evaluation
                                        checkpoint.npz, lock

KEY is the hash of the configuration, CODE a fingerprint of the code that a run of this method executes. So a changed configuration or a
changed step gets a folder of its own, nothing finished is overwritten, and a run made by other code shows as stale.
`results/` holds committed copies of records (`publish`); it is evidence, never a cache.
"""
from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import shutil
import subprocess
import time
import types
from pathlib import Path
from typing import Any

from semilib.errors import BadInput, RunBusy
from semilib.files import write_text
from semilib.methods import METHODS, Entry, get
from semilib.training.config import Run

PACKAGE = Path(__file__).resolve().parent.parent
VERSIONS = ("torch", "torchvision", "numpy", "pillow", "scikit-learn", "mlxtend")


# ---- which code ----------------------------------------------------------------------------------------------------------------------


@functools.cache
def _imports(module: str) -> set[str]:
    """The semilib modules that a module's source imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "semilib":
            found.add(node.module)
            found.update(f"{node.module}.{a.name}" for a in node.names if _file(f"{node.module}.{a.name}") is not None)
    return {name for name in found if _file(name) is not None}


def _file(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _meaning(node: Any) -> Any:
    """A syntax tree without positions, comments and docstrings, equal on every Python version."""
    if isinstance(node, list):
        return [_meaning(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) \
            and isinstance(body[0].value.value, str):
        fields["body"] = body[1:]
    return [type(node).__name__, *[[k, _meaning(v)] for k, v in fields.items() if v not in (None, [])]]


# Modules that a step imports without running: they speak of runs, they do not change numbers.
BYSTANDERS = {"semilib", "semilib.methods", "semilib.training.record", "semilib.training.progress", "semilib.errors", "semilib.files"}


def executed(method: str, base: str = "", add: str = "") -> list[str]:
    """The semilib modules that a run of a method executes: what training and the modules of the method's classes (its base's and its
    additions' among them) import, directly or not. Other methods' files do not count."""
    todo, seen = {"semilib.training.train", *(c.__module__ for c in get(method, base, add).__mro__)}, set()
    while todo:
        name = todo.pop()
        if name not in seen | BYSTANDERS and name.split(".")[0] == "semilib" and _file(name) is not None:
            seen.add(name)
            todo |= _imports(name)
    return sorted(seen)


def code_fingerprint(method: str, base: str = "", add: str = "") -> str:
    """Eight hex digits over the source, without comments and docstrings, of the modules that a run of a method executes."""
    return _fingerprint(method, base, add, METHODS.get(method))


@functools.lru_cache
def _fingerprint(method: str, base: str, add: str, entry: Entry | None) -> str:
    """As above; a class that was defined anew in a notebook is another `entry`, so it is read anew."""
    modules, digest = executed(method, base, add), hashlib.sha256()
    for name in modules:
        digest.update(json.dumps([name, _meaning(ast.parse(_file(name).read_text(encoding="utf-8")))]).encode())
    if isinstance(entry, type) and entry.__module__ not in modules:     # a class made in a notebook, which no file holds
        digest.update(json.dumps(_compiled(entry)).encode())
    return digest.hexdigest()[:8]


def _compiled(entry: type) -> list[Any]:
    """What the functions of a class do, as compiled: instructions, names and constants, without docstrings."""
    def of(code) -> list[Any]:
        constants = [of(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts if not isinstance(c, str) or "\n" not in c]
        return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), constants]
    functions = {name: inspect.unwrap(getattr(f, "__func__", f)) for name, f in vars(entry).items()}
    return [[name, of(f.__code__)] for name, f in sorted(functions.items()) if isinstance(f, types.FunctionType)]


def device_name(device: Any) -> str:
    """A device as records name it: the card's model, or cpu."""
    import torch
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def code_of(config: dict[str, Any]) -> str | None:
    """The fingerprint that a run of this configuration (run.json's) would have today; None if its method is gone."""
    parts = config["method"], config.get("base", ""), config.get("add", "")
    try:
        return code_fingerprint(*parts)
    except BadInput:
        return None


def provenance(run: Run) -> dict[str, Any]:
    """Commit, whether the executed code differs from it, versions and machine (never a path or a host name)."""
    def git(*args: str) -> str | None:
        try:
            out = subprocess.run(["git", *args], cwd=PACKAGE, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return out.stdout.strip() if out.returncode == 0 else None
    tracked = git("ls-files", "--error-unmatch", "__init__.py") is not None      # not a copy inside somebody else's repository
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    changed = git("status", "--porcelain", "--", *(str(_file(name)) for name in executed(run.method, run.base, run.add)))
    return {"commit": git("rev-parse", "HEAD") if tracked else None, "dirty": bool(changed) if tracked else None, "versions": versions,
            "system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count()}


# ---- the folder ------------------------------------------------------------------------------------------------------------------------


def folder(run: Run, runs: str | Path = "runs") -> Path:
    """Where a run of this configuration, by today's code, is kept."""
    cell, method = run.name.split("/")
    return Path(runs) / cell / f"{method}-{run.key}-{code_of(run.identity())}"


@contextlib.contextmanager
def lock(path: Path):
    """Hold the run's lock; it is the system's own and dies with the process. Raises RunBusy if another process holds it."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "a+b") as file:
        until = time.monotonic() + 1.0                    # who only looks whether it is held (`is_busy`) holds it for a moment
        while not _try_lock(file):
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            raise RunBusy(f"{path} is being trained by another process: wait for it, or stop it first")
        yield


def _try_lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_busy(path: Path) -> bool:
    """Whether a living process holds the run's lock."""
    if not (path / "lock").exists():
        return False
    with open(path / "lock", "a+b") as file:
        return not _try_lock(file)


def state(run: Run, runs: str | Path = "runs") -> str:
    """not started | running | interrupted | failed | done | stale (only other code has done it)."""
    path = folder(run, runs)
    if (path / "run.json").exists():
        return state_of(path)
    others = [state_of(p) for p in path.parent.glob(f"{run.label}-{run.key}-*") if (p / "run.json").exists()]
    return "stale" if "stale" in others else "not started"


def state_of(path: Path) -> str:
    """The state of the run that a folder holds: running | interrupted | failed | done | stale (done, but by other code)."""
    found = read(path)
    if found["status"] == "running":
        return "running" if is_busy(path) else "interrupted"
    return "stale" if found["status"] == "done" and found["code"] != code_of(found["config"]) else found["status"]


def read(path: str | Path) -> dict[str, Any] | None:
    """run.json of a folder; None if there is none."""
    file = Path(path) / "run.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def write(path: Path, record: dict[str, Any]) -> None:
    write_text(path / "run.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order; a last line cut short by a kill is left out."""
    file = Path(path) / "log.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def write_log(path: Path, evaluations: list[dict[str, Any]]) -> None:
    write_text(path / "log.jsonl", "".join(json.dumps(e) + "\n" for e in evaluations))


def append_log(path: Path, evaluation: dict[str, Any]) -> None:
    with open(path / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(evaluation) + "\n")
        file.flush()


def new(run: Run, before: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """run.json at the start of a session: what is known before its first step. `before` is the one that an earlier, unfinished session
    left; `sessions` lists them all with device, precision, threads and PyTorch, because a run that changes them on the way is still
    the same run but not the same bits."""
    out = {"name": run.name, "key": run.key, "code": code_of(run.identity()), "status": "running",
            "config": run.identity(), **facts, **provenance(run),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    session = {"started": out["started"], "torch": out["versions"].get("torch"),
               **{name: out["resolved"][name] for name in ("device", "precision", "threads")}}
    return {**out, "started": (before or out)["started"], "sessions": [*(before or {}).get("sessions", []), session]}


def discard(path: Path) -> None:
    """Remove the folder of a run that was refused before it began, if it holds nothing but its lock."""
    if {p.name for p in path.iterdir()} <= {"lock"}:
        with contextlib.suppress(OSError):
            (path / "lock").unlink(missing_ok=True)
            path.rmdir()
            path.parent.rmdir()


def check_same(found: dict[str, Any], run: Run, path: Path) -> None:
    """Raise BadInput if a folder's run is not `run`: a folder holds one configuration, run by one code, for ever."""
    before = found["config"]
    if found["code"] != code_of(run.identity()):
        raise BadInput("folder", path.name, f"another folder: the run kept there was made by other code ({found['code']})")
    for name, value in run.identity().items():
        if before.get(name) != value:
            why = "a run cannot be made longer or shorter: rate, warm-up and every other duration depend on its length, so a " \
                  "longer one differs from its first step on; start a new one" if name == "steps" else "start a new one elsewhere"
            raise BadInput(name, value, f"{before.get(name)!r}, as in the run kept in {path.name} ({why})")


def publish(path: str | Path, results: str | Path) -> Path:
    """Copy a finished run's record (run.json and log.jsonl, no weights) into a folder of `results/`. Refuses unfinished ones."""
    found = read(path)
    if found is None or found["status"] != "done":
        raise BadInput("path", str(path), "the folder of a finished run")
    target = Path(results) / f"{found['name'].replace('/', '_')}-{found['key']}"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "log.jsonl"):
        shutil.copyfile(Path(path) / name, target / name)
    return target
