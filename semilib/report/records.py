"""Runs as their folders tell them: the one reader of run.json and log.jsonl for tables and figures. It needs no torch.

    records = load(sorted(Path("results/quickstart").iterdir()))

A line of a compact table is a record too. Its place is TABLE.jsonl.gz/KEY-CODE, as if the table were a folder.
Numbers of a record are shares in [0, 1], as its log holds them. They have to agree with the result kept in run.json.
"""
from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from semilib.errors import BadInput
from semilib.files import shown, write_text
from semilib.report import compact
from semilib.training import metrics
from semilib.training import record as run_folder

METRIC = "balanced_accuracy"
GROUPS = ("head", "medium", "tail")
FOLDER = re.compile(r"(^|/)(?P<cell>[^/_]+\.s\d+)[/_](?P<method>[^/]+?)-(?P<key>[0-9a-f]{8})(-(?P<code>[0-9a-f]{8}))?$")


@dataclass(frozen=True, eq=False)
class Record:
    """A run as its folder tells it. run: run.json. log: the evaluations, in order.

    means: of a line of a compact table without its whole log, the numbers that only the whole log gives. Such a `log`
    has the step and the balanced accuracy of each evaluation."""

    run: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    means: dict[str, Any] = field(default_factory=dict)

    @property
    def cell(self) -> str:
        """The protocol in a word, such as cifar10-lt.n1500.m3000.g100-100."""
        return re.sub(r"\.s\d+$", "", self.run["name"].split("/")[0])

    @property
    def method(self) -> str:
        """The method with its base, additions and adjustment, as `Run.label` has it, such as `acr+oheml+plce`."""
        return self.run["name"].split("/")[1]

    @property
    def seed(self) -> int:
        return int(self.run["name"].split("/")[0].rsplit(".s", 1)[1])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; empty for a run that was never started."""
        return self.run.get("config", {})

    @property
    def recipe(self) -> str:
        """shared or original. Records of before there was a choice are shared."""
        return self.config.get("recipe", "shared")

    @property
    def done(self) -> bool:
        return self.run["status"] == "done"

    @property
    def state(self) -> str:
        """The status in a reader's word: done | failed | unfinished | not started."""
        return "unfinished" if self.run["status"] == "running" else self.run["status"]

    @property
    def id(self) -> str:
        """Key and code, as in the folder's name."""
        return f"{self.run['key']}-{self.run['code'] or 'unknown'}"

    @property
    def order(self) -> list[int]:
        """All classes, from the largest labelled one to the smallest."""
        return metrics.by_size(self.run["split"]["labelled_counts"])

    @property
    def groups(self) -> dict[str, list[int]]:
        """The classes of head, medium and tail, in `order`."""
        return {name: self.order[part] for name, part in metrics.class_groups(len(self.order)).items()}

    def of_classes(self, key: str) -> list[Any]:
        """A list of the split that has a value a class, such as class_names, in `order`."""
        return [self.run["split"][key][k] for k in self.order]

    @property
    def averaged(self) -> list[dict[str, Any]]:
        """The evaluations that a reported number averages: the last 20, or all if there are fewer."""
        return self.log[-metrics.summary(self.log)["evaluations_averaged"]:]

    @property
    def recalls(self) -> np.ndarray:
        """Recall of each class, the mean over `averaged`: [C]; NaN for a class without test images."""
        if self.means:
            return np.array(self.means["recall"], dtype=float)
        return np.array([e["recall"] for e in self.averaged], dtype=float).mean(0)


def load(folders: Iterable[str | Path]) -> list[Record]:
    """Read runs: folders under runs/ or results/, or places in a compact table.

    A folder without run.json counts as a run that was not started, if its name is CELL.sSEED/METHOD-KEY-CODE or
    CELL.sSEED_METHOD-KEY. Raises BadInput for any other."""
    return [read(folder) if in_table(folder) or (Path(folder) / "run.json").is_file() else not_started(Path(folder))
            for folder in folders]


def read(folder: str | Path) -> Record:
    """Read one run; its log may be missing or cut short. Raises BadInput without an intact run.json, for a log of
    anything else, and for a place that its table does not have."""
    folder = Path(folder)
    if in_table(folder):
        return _of_row(folder)
    if not (folder / "run.json").is_file():
        raise BadInput("folder", folder.name, "a run's folder, which holds run.json")
    run = run_folder.read(folder)
    if run is None:
        raise BadInput("folder", folder.name, "a run's folder with an intact run.json")
    try:
        return Record(run, run_folder.read_log(folder))
    except (OSError, ValueError) as error:
        raise BadInput("folder", folder.name, f"a run's folder with an intact log.jsonl ({error})") from None


def in_table(place: str | Path) -> bool:
    """Whether a record's place is in a compact table."""
    return Path(place).parent.name.endswith(compact.ENDING)


def row(record: Record, whole: bool = False) -> dict[str, Any]:
    """A finished run in one line of a compact table: its `id`, its run.json, and either its whole log, or the numbers
    of that (`means`) and the balanced accuracy of each evaluation (`curve`).

    Raises BadInput for an unfinished run, and for one whose log does not give its result."""
    if not record.done:
        raise BadInput("record", record.run["name"], f"a finished run; this one is {record.state}")
    result = result_of(record)
    if whole:
        return {"id": record.id, **record.run, "log": record.log}
    means = {name: result[name] for name in (*GROUPS, "geometric_mean")}
    means["recall"] = [round(float(recall), 5) for recall in record.recalls]
    return {"id": record.id, **record.run, "means": means,
            "curve": [[e["step"], round(e[METRIC], 5)] for e in record.log]}


def _of_row(place: Path) -> Record:
    line = compact.read(place.parent).get(place.name)
    if line is None:
        raise BadInput("folder", place.name, f"the id of a run in {place.parent.name}")
    run = {name: value for name, value in line.items() if name not in ("id", "log", "means", "curve")}
    curve = [{"step": step, METRIC: value} for step, value in line.get("curve", ())]
    return Record(run, line.get("log", curve), line.get("means", {}))


def not_started(folder: Path) -> Record:
    """What the name of a run's folder says of it. Raises BadInput for another name."""
    name = FOLDER.search(folder.as_posix())
    if name is None:
        raise BadInput("folder", folder.name, "a run's folder, which holds run.json")
    return Record({"name": f"{name['cell']}/{name['method']}", "key": name["key"], "code": name["code"] or "",
                   "status": "not started"})


def folders_below(path: str | Path) -> list[Path]:
    """The folders of runs below a folder, and the places in its compact tables, in order."""
    tables = sorted(Path(path).rglob(f"*{compact.ENDING}"))
    return [*sorted(file.parent for file in Path(path).rglob("run.json")),
            *(table / name for table in tables for name in compact.read(table))]


def result_of(record: Record) -> dict[str, Any]:
    """A finished run's numbers. Raises BadInput if its log does not give the result kept in run.json."""
    try:
        return _result_of(record)
    except BadInput:
        raise
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError) as error:
        raise BadInput("record", record.run.get("name"), "an intact run.json and log.jsonl "
                                                         f"({type(error).__name__}: {error})") from error


def _result_of(record: Record) -> dict[str, Any]:
    if record.means:
        kept = record.run["result"]
        return {"rule": kept["rule"], **{k: kept[k] for k in metrics.SUMMARIES},
                **{name: record.means[name] for name in (*GROUPS, "geometric_mean")}}
    if not metrics.gives(record.log, record.run["result"], record.config["steps"]):
        wanted = "a log that gives the result kept in run.json: one of the two files is damaged or not of this run"
        raise BadInput("record", f"{record.run['name']}, {record.id}", wanted)
    means, averaged = {}, record.averaged
    for name in (*GROUPS, "geometric_mean"):
        values = [e[name] for e in averaged]
        means[name] = math.nan if None in values else statistics.fmean(values)
    summary = metrics.summary(record.log)
    return {"rule": summary["rule"], **{k: summary[k] for k in metrics.SUMMARIES}, **means}


def leave_list(folders: Iterable[Path], out: Path | None = None) -> None:
    """Print where records are, and the commit and versions that made the first. With `out`, write records.txt there."""
    folders = list(folders)
    lines = [shown(folder) for folder in folders]
    if out is not None:
        write_text(Path(out) / "records.txt", "\n".join(lines) + "\n")
    run = read(folders[0]).run
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    print(*lines, "", f"commit {run['commit']}{' with changes' if run['dirty'] else ''}", versions,
          f"{run['resolved']['device']}, {run['resolved']['precision']}", sep="\n")
