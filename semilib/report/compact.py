"""A table of many runs in one compressed file, a line of JSON a run, where their folders would be too large to keep.

    add("results/features/table1.jsonl.gz", [records.row(record) for record in records.load(folders)])
    rows = read("results/features/table1.jsonl.gz")

`semilib.report.records` says what a line holds, and reads one as a record. Each has an `id`, the run's key and code.
"""
from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semilib.errors import BadInput
from semilib.files import write_atomically

ENDING = ".jsonl.gz"


def read(path: str | Path) -> dict[str, dict[str, Any]]:
    """The lines of a table by id, in order. Raises BadInput for a file that is none."""
    try:
        about = Path(path).stat()
    except OSError as error:
        raise BadInput("path", str(path), f"a table of runs: {error}") from error
    return _read(Path(path), about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=256)        # more than there are: to read a run that has left it, a table is read again
def _read(path: Path, mtime_ns: int, size: int) -> dict[str, dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return {row["id"]: row for row in map(json.loads, file)}
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise BadInput("path", str(path), f"a table of runs, whole: {error}") from error


def add(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Put lines into a table; one that is there already is replaced. The same lines make the same bytes, in whatever
    order they came."""
    path = Path(path)
    if not path.name.endswith(ENDING):
        raise BadInput("path", path.name, f"a file whose name ends in {ENDING}")
    every = (read(path) if path.exists() else {}) | {row["id"]: row for row in rows}
    lines = [json.dumps(row) + "\n" for row in sorted(every.values(), key=lambda row: (row["name"], row["id"]))]
    content = gzip.compress("".join(lines).encode("utf-8"), 9, mtime=0)
    write_atomically(path, lambda file: file.write(content))
    return path
