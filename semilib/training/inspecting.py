"""Two looks at a method from the command line: which class defines which hook, and what a step's time is spent on."""
from __future__ import annotations

import inspect
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from semilib import files
from semilib.errors import BadInput
from semilib.methods import get
from semilib.methods.base import Method, words_of
from semilib.training.config import Run
from semilib.training.engine import Captured, Trainer
from semilib.training.train import kernels

# A method's hooks are the functions that `Method` declares, in its order, without its helpers.
HOOKS = [name for name, value in vars(Method).items()
         if not name.startswith("_") and callable(getattr(Method, name)) and name not in ("Config", "per_view")]
WARM = Captured.EAGER + 1           # steps before the traced ones, in which graphs are captured and code is compiled
TRACED = 10
HEAVIEST = 5


# ---- explain ---------------------------------------------------------------------------------------------------------


def explain(method: str, base: str = "", add: str = "") -> str:
    """For each hook that a method defines: the classes that run, outermost first, each with its file and line. A class
    that does not call `super()` ends the list. Raises BadInput for a combination that there is not."""
    cls = get(method, base, add)
    found = {hook: definitions(cls, hook) for hook in HOOKS}
    parts = [part.__name__ for part in cls.__mro__ if issubclass(part, Method) and vars(part).keys() & found.keys()]
    lines, default = [f"{method}: {', '.join(parts)}"], [hook for hook in HOOKS if found[hook] == [Method]]
    for hook in HOOKS:
        if hook not in default:
            lines += ["", hook, *(f"  {part.__name__:18} {place(part, hook)}" for part in found[hook])]
    return "\n".join([*lines, "", f"as in Method: {', '.join(default)}"])


def definitions(cls: type[Method], hook: str) -> list[type[Method]]:
    """The classes whose `hook` runs, outermost first: down to the first that does not call `super()`."""
    out = []
    for part in cls.__mro__:
        if hook in vars(part) and issubclass(part, Method):
            out.append(part)
            if "super" not in words_of(vars(part)[hook]):
                break
    return out


def place(part: type[Method], hook: str) -> str:
    """File and line of a definition, the file relative to the project."""
    function = getattr(vars(part)[hook], "__func__", vars(part)[hook])
    return f"{files.shown(inspect.getfile(function))}:{function.__code__.co_firstlineno}"


# ---- trace -----------------------------------------------------------------------------------------------------------


def trace(run: Run, out: Path) -> str:
    """Write a profile of ten steps as a Chrome trace (for chrome://tracing or ui.perfetto.dev) and return a table of
    the five heaviest operators, in milliseconds a step of their own. Raises BadInput for a run that is too short."""
    if run.steps < WARM + TRACED:
        raise BadInput("steps", run.steps, f"at least {WARM + TRACED}: {WARM} to warm up and {TRACED} that are traced")
    trainer = Trainer(run)
    cuda = trainer.device.type == "cuda"
    with kernels(run, trainer.device):
        for _ in range(WARM):
            trainer.advance()
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
            for _ in range(TRACED):
                trainer.advance()
            if cuda:
                torch.cuda.synchronize(trainer.device)
    with tempfile.TemporaryDirectory() as folder:
        profiler.export_chrome_trace(str(Path(folder) / "trace.json"))
        content = (Path(folder) / "trace.json").read_bytes()
    files.write_atomically(out, lambda file: file.write(content))
    return heaviest(profiler, cuda)


def heaviest(profiler: profile, cuda: bool) -> str:
    """A table of the operators that take the most time of their own, on the GPU if there is one."""
    rows = [(event.self_device_time_total if cuda else event.self_cpu_time_total, event.count, event.key)
            for event in profiler.key_averages()]
    total = sum(time for time, _, _ in rows) or 1
    lines = [f"{'ms a step':>9}  {'share':>6}  {'calls a step':>12}  operator"]
    for time, count, name in sorted(rows, reverse=True)[:HEAVIEST]:
        lines.append(f"{time / 1000 / TRACED:9.2f}  {time / total:6.1%}  {count / TRACED:12.1f}  {name}")
    return "\n".join(lines)
