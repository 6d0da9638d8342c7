"""The committed records of a run, found without its code and without pandas, so that a table is listed at once."""
from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from semilib.files import place
from semilib.report import records
from semilib.training import fingerprint, record
from semilib.training.config import Run


@dataclasses.dataclass(frozen=True)
class Committed:
    """A run's finished records, at least one: (place, run.json) of each."""

    run: Run
    found: list[tuple[Path, dict[str, Any]]]

    @functools.cached_property
    def folder(self) -> Path:
        """The record's place. Of several it is today's code's, or else the latest's."""
        if len(self.found) == 1:
            return self.found[0][0]
        code = fingerprint.code_of(self.run.identity())
        return max(self.found, key=lambda item: (item[1]["code"] == code, item[1].get("finished", "")))[0]


def of(run: Run, results: str | Path = "results") -> Committed | None:
    """The records of a run; None where it has none."""
    identity = run.identity()
    found = [(path, one) for path, one in load(str(place(results))).get(_fixed(identity), ())
             if _is_of(run, identity, one["config"])]
    return Committed(run, found) if found else None


@functools.lru_cache(maxsize=4)
def load(results: str) -> dict[tuple[Any, ...], list[tuple[Path, dict[str, Any]]]]:
    """The finished runs below a folder, by `_fixed` of their configuration: (place, run.json) of each."""
    found: dict[tuple[Any, ...], list[tuple[Path, dict[str, Any]]]] = {}
    for path in records.folders_below(results):
        run = records.read(path).run if records.in_table(path) else record.read(path)
        if run and run["status"] == "done":
            found.setdefault(_fixed(run["config"]), []).append((path, run))
    return found


def _fixed(config: dict[str, Any]) -> tuple[Any, ...]:
    """The fields that every configuration has had."""
    return tuple(config.get(name) for name in ("dataset", "method", "seed", "profile"))


def _is_of(run: Run, identity: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a record's configuration is this run's. A field or option that came later counts as its default."""
    return _fixed(identity) == _fixed(config) and _equal(identity, config, Run) and _equal(
        run.options, config["options"], run.method_class().Config)


def _equal(a: dict[str, Any], b: dict[str, Any], kind: type) -> bool:
    usual = {f.name: f.default for f in dataclasses.fields(kind)}
    return all(a.get(k, usual.get(k)) == b.get(k, usual.get(k)) for k in (a.keys() | b.keys()) - {"options"})
