"""Many finished runs in one compressed file: a line of JSON a run, for studies whose logs would be too large to keep.

    add("results/features/table1.jsonl.gz", load(folders))      # a run that is there already is replaced
    rows = read("results/features/table1.jsonl.gz")

A line has the run's run.json, whose result holds the reported number; `means`, over the evaluations that this number
averages; and `curve`, the step and the balanced accuracy of each evaluation. `id` is the run's key and code.
"""
from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semilib.errors import BadInput
from semilib.files import write_atomically
from semilib.report.records import METRIC, Record, result_of

ENDING = ".jsonl.gz"


def row(record: Record) -> dict[str, Any]:
    """A finished run in one line. Raises BadInput for an unfinished one, or one whose log does not give its result."""
    if not record.done:
        raise BadInput("record", record.run["name"], f"a finished run; this one is {record.state}")
    result = result_of(record)
    names = ("head", "medium", "tail", "geometric_mean")
    curve = [[e["step"], round(e[METRIC], 5)] for e in record.log]
    return {"id": record.id, **record.run, "means": {**{name: result[name] for name in names},
                                                     "recall": [round(float(r), 5) for r in record.recalls]},
            "curve": curve}


def read(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a table, in order. Raises BadInput for a file that is none."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise BadInput("path", str(path), f"a table of runs, whole: {error}") from error


def add(path: str | Path, records: Iterable[Record]) -> Path:
    """Put finished runs into a table; the same runs make the same bytes, in whatever order they came."""
    path = Path(path)
    if not path.name.endswith(ENDING):
        raise BadInput("path", path.name, f"a file whose name ends in {ENDING}")
    rows = {one["id"]: one for one in (read(path) if path.exists() else [])}
    rows |= {one["id"]: one for one in map(row, records)}
    lines = [json.dumps(one) + "\n" for one in sorted(rows.values(), key=lambda one: (one["name"], one["id"]))]
    content = gzip.compress("".join(lines).encode("utf-8"), 9, mtime=0)
    write_atomically(path, lambda file: file.write(content))
    return path
