"""Who does the runs of a sweep, and how: the options of this machine, of SLURM and of Ray. `sweep` takes one of them.

    sweep(runs, "runs", Local(slots=2))
    sweep(runs, "runs", Slurm(per_job=4, more={"partition": "gpu", "time": 240}))
"""
from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from semilib.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class Local:
    """Slots of this machine, a process a run."""

    name: ClassVar[str] = "local"
    slots: int | None = option(None, "runs side by side (default: one a core, or one a GPU)", low=1)
    per_gpu: int = option(1, "runs that share a GPU (default: 1)", low=1)
    threads: int | None = option(None, "CPU threads a run (default: the cores shared out)", low=1)
    retries: int = option(2, "how often a run that was killed is started again", low=0)
    notebook: bool = option(True, "execute a notebook for each run; False trains alone")

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Slurm(Local):
    """An array job of SLURM, whose tasks have slots of their own.

    more: options of sbatch by name, such as partition="gpu", time=240 (minutes), gres="gpu:1", cpus_per_task=4;
    array_parallelism is how many tasks run at once."""

    name: ClassVar[str] = "slurm"
    per_job: int = option(1, "SLURM: runs a task of the array job (default: 1)", low=1)
    wait: bool = option(True, "SLURM: wait for the array job; False submits and returns")
    poll: float = option(5.0, "SLURM: seconds between two looks at the queue", low=0)
    more: dict = option({}, "options of sbatch")

    def of_a_task(self) -> Local:
        """What each task does with the machine that it is given."""
        return Local(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Local)})


@dataclasses.dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster. more: other options of a Ray task by name, such as resources={"big": 1}."""

    name: ClassVar[str] = "ray"
    num_cpus: float = option(1.0, "CPU cores a run", low=0)
    num_gpus: float = option(0.0, "GPUs a run; 0.25 puts four runs on a GPU", low=0)
    retries: int = option(3, "how often a run whose process or machine is lost is done again", low=0)
    notebook: bool = option(True, "execute a notebook for each run; False trains alone")
    address: str | None = option(None, "HOST:PORT (default: the cluster that this process is in, or a new one)")
    more: dict = option({}, "options of a Ray task")

    def __post_init__(self):
        check_fields(self)


LAUNCHERS: dict[str, type[Local] | type[Ray]] = {kind.name: kind for kind in (Local, Slurm, Ray)}
# The whole numbers are flags of the command line, here with their sentence. Others are words of --slurm and --ray.
FLAGS = {f.name: f.metadata["doc"] for f in dataclasses.fields(Slurm) if f.type in ("int", "int | None")}


def launcher(name: str, given: dict[str, Any]) -> Local | Ray:
    """A launcher from values by name; what is no field of it goes into `more`. Raises BadInput for a bad value."""
    kind = LAUNCHERS[name]
    known = {f.name for f in dataclasses.fields(kind)}
    more = {k: v for k, v in given.items() if k not in known}
    return kind(**{k: v for k, v in given.items() if k in known}, **({"more": more} if more else {}))
