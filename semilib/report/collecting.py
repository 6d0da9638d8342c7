"""Runs as a frame: what differs between them, and what came out.

    frame = collect(Run.grid(method=["semi", "acr"], seed=range(5)))        # a row a run
    for_paper(collect("runs", by="method")).to_latex(index=False, escape=True)    # a row a method
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from semilib import files
from semilib.errors import BadInput, check_name
from semilib.methods import get
from semilib.report.records import GROUPS, Record, folders_below, load, not_started, result_of
from semilib.training import record
from semilib.training.config import Run

MEASURED = ("accuracy", *GROUPS, "minutes")          # of a finished run; accuracies in per cent
ROUNDED = (*MEASURED, "spread")                      # what a reader sees with one decimal; settings are never rounded


def collect(runs: str | Path | Iterable[Run | str | Path] = "runs", by: str | Sequence[str] = (),
            folder: str | Path = "runs") -> pd.DataFrame:
    """A row a run: its method, each field that varies, its state, and what it measured.

    runs: several runs, whose records are looked for in `folder`; the folders of several runs; or one folder, which
    stands for all runs below it. Of those with one configuration only the latest that is done counts, and the rows are
    sorted by what varies.

    Columns: an option that varies is called METHOD.OPTION. accuracy is the balanced accuracy in per cent, as in tables;
    head, medium and tail likewise; minutes is the time of the run. These numbers are NaN for a run that is not done.

    by: columns. Then a row stands for the finished runs that agree in them: the mean of each number, `spread` (standard
    deviation of the accuracy, n - 1 in the denominator), `n` (how many runs), and `over` (the fields that vary in it).
    Raises BadInput for no runs, for a column that there is not, and for `by` where no run is done.
    """
    found = _records(runs, folder)
    if not found:
        raise BadInput("runs", str(runs), "a folder that holds runs, or runs")
    varying = _varying(found)
    rows = [{**{name: values[name] for name in varying if name in values}, "state": one.state, **_measured(one)}
            for one, values in ((one, _values(one)) for one in found)]
    frame = pd.DataFrame(rows, columns=[*varying, "state", *MEASURED])
    if isinstance(runs, str | Path):                      # folders have no order of their own
        frame = frame.sort_values(varying, key=lambda c: c if is_numeric_dtype(c) else c.map(str), ignore_index=True)
    return _grouped(frame, varying, [by] if isinstance(by, str) else list(by)) if by else frame


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of `collect` as texts for a reader: what was measured with one decimal, settings as they are, nothing for
    NaN."""
    def text(name: str, value: Any) -> str:
        if pd.isna(value):
            return ""
        return f"{value:.1f}" if name in ROUNDED else f"{value:.15g}" if isinstance(value, float) else str(value)
    return pd.DataFrame({name: [text(name, value) for value in frame[name]] for name in frame})


def for_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """`readable` with the accuracy and its spread in one column, without what a paper's table does not have: minutes,
    state, and what was averaged. `for_paper(frame).to_latex(index=False, escape=True)` is a tabular (booktabs)."""
    out = readable(frame)
    if "spread" in out:
        out["accuracy"] = [f"{mean} ± {spread}" if spread else mean
                           for mean, spread in zip(out["accuracy"], out["spread"], strict=True)]
    return out.drop(columns=["spread", "minutes", "state", "over"], errors="ignore")


def _records(runs: str | Path | Iterable[Run | str | Path], folder: str | Path) -> list[Record]:
    if isinstance(runs, str | Path):
        found = [_found(place) for place in folders_below(files.place(runs))]
        latest = {one.run["key"]: one for one in sorted(found, key=lambda r: (r.done, r.run.get("finished", "")))}
        return [one for one in found if latest[one.run["key"]] is one]
    return [_of_run(one, files.place(folder)) if isinstance(one, Run) else _found(files.place(one)) for one in runs]


def _found(place: Path) -> Record:
    """A run's record; of a damaged one, what `_known` says, with that state."""
    try:
        [one] = load([place])
        if one.done:
            result_of(one)
        return one
    except BadInput:
        return Record({**_known(place), "status": "damaged"})


def _known(place: Path) -> dict[str, Any]:
    """What is known of a damaged run: its run.json if only the log is damaged, else its folder's name."""
    if whole := record.read(place):
        return whole
    try:
        return not_started(place).run
    except BadInput:                                      # a folder that somebody named
        return {"name": f"{place.parent.name}/{place.name}", "key": place.name, "code": ""}


def _of_run(run: Run, folder: Path) -> Record:
    """A run's record; its configuration alone where it was not started."""
    path = record.folder(run, folder)
    found = _found(path) if (path / "run.json").exists() else None
    if found is None or not found.config:
        found = Record({"name": run.name, "key": run.key, "code": "", "config": run.identity(),
                        "status": found.state if found else "not started"})
    return found


def _values(one: Record) -> dict[str, Any]:
    """Fields by name and options by METHOD.OPTION. What came later than a record has its default there."""
    if not one.config:
        return {"method": one.method}
    config = {**{f.name: f.default for f in dataclasses.fields(Run) if f.metadata["in_key"]}, **one.config}
    method, options = config["method"], config.pop("options")
    with contextlib.suppress(BadInput):                   # a method that is not registered now, such as a notebook's
        known = dataclasses.fields(get(method, config["base"], config["add"]).Config)
        options = {**{f.name: f.default for f in known}, **options}
    return {"method": method, **config, **{f"{method}.{name}": value for name, value in options.items()}}


def _varying(found: list[Record]) -> list[str]:
    """The method, and the names of which several values are there."""
    values: dict[str, set[str]] = {}
    for one in found:
        for name, value in _values(one).items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    return ["method", *(name for name, several in values.items() if len(several) > 1 and name != "method")]


def _measured(one: Record) -> dict[str, float]:
    if not one.done:
        return dict.fromkeys(MEASURED, math.nan)
    result = result_of(one)
    return {"accuracy": 100 * result["mean_last"], **{name: 100 * result[name] for name in GROUPS},
            "minutes": one.run["seconds"] / 60}


def _grouped(frame: pd.DataFrame, varying: list[str], by: list[str]) -> pd.DataFrame:
    for name in by:
        check_name("by", name, varying)
    done = frame[frame["state"] == "done"]
    if done.empty:
        raise BadInput("by", ",".join(by), f"used for finished runs; none of these {len(frame)} is done")
    groups = done.groupby(by, sort=False, dropna=False)
    others = [name for name in varying if name not in by]
    over = [", ".join(name for name in others if part[name].map(str).nunique() > 1) for _, part in groups]
    out = groups[list(MEASURED)].mean()
    out.insert(1, "spread", groups["accuracy"].std())
    return out.assign(n=groups.size(), over=over).reset_index()
