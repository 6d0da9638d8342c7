"""Settings of the profile "features", chosen for each method alike on a cell that no table reports.

    runs(["semi"], "consistent")          # the profile's own values, then TRIALS random ones, at half length
    choose(folder)                        # the best by held-out images; written to tuned.json, which the tables read
    table()                               # what was chosen, beside the profile's own values

The cell is CIFAR-10-LT 1000/2000 at ratio 50, its split drawn. The images that decide are 100 a class of the training
set that lie in no pool; their labels are used for nothing else. All methods get the same draws, so that none has
better luck: a Latin hypercube, one draw in each of TRIALS equal parts of each setting's range. The same trials on the
reversed pool show whether the choice would move.
"""
from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from semilib import files
from semilib.data import rng
from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.report.table import Column, Table, column
from semilib.study import committed
from semilib.study.grids import Row, on_features
from semilib.training import record
from semilib.training.config import PROFILES, Run
from semilib.training.tuned import FILE

TRIALS = 8
CELL: dict[str, Any] = dict(dataset="cifar10", n1=1000, m1=2000, gamma_l=50.0, gamma_u=50.0, split_seed=100,
                            holdout_images=100)
ORDERS = ("consistent", "reversed")
NETWORKS = ("linear", "mlp-128", "mlp-256", "mlp-512")
AVERAGES = (0.97, 0.98, 0.99, 0.995)
THRESHOLDS = (0.6, 0.7, 0.8, 0.9, 0.95)
RATE, DECAY = (0.003, 0.1), (1e-4, 5e-2)                  # ends of log-uniform draws


@functools.cache
def trial(number: int) -> tuple[dict[str, Any], float | None]:
    """Fields of a trial and its threshold (None: the method's own). Number 0 is the profile as it is."""
    if number == 0:
        return {}, None
    strata = rng.words(0, "tuning", 0, TRIALS, 5).argsort(dim=0)[number - 1]
    u = ((strata + rng.uniform(rng.words(0, "tuning", number, 1, 5))[0]) / TRIALS).tolist()

    def between(ends: tuple[float, float], share: float) -> float:
        return float(f"{ends[0] * (ends[1] / ends[0]) ** share:.2g}")

    def one_of(values: tuple, share: float) -> Any:
        return values[int(share * len(values))]
    fields = dict(lr=between(RATE, u[0]), weight_decay=between(DECAY, u[1]), ema=one_of(AVERAGES, u[2]),
                  network=one_of(NETWORKS, u[3]))
    return fields, one_of(THRESHOLDS, u[4])


def run(row: Row, number: int, order: str = "consistent", root: str = "data") -> Run:
    """A trial of a row of the tables."""
    fields, threshold = trial(number)
    steps = PROFILES["features"]["steps"] // 2
    usual = Run.of(method=row.method, profile="features", options=row.options, **CELL, **row.fields)
    options = dict(row.options)
    if threshold is not None and usual.options.get("threshold", 0) > 0:       # 0: a method that takes every row
        options["threshold"] = threshold
    return Run.of(method=row.method, profile="features", options=options, order=order, root=root, steps=steps,
                  **CELL, **row.fields, **fields)


def runs(methods: Iterable[str] | None = None, order: str = "consistent", root: str = "data") -> list[Run]:
    """All trials, each once, trial after trial."""
    rows = on_features(list(methods) if methods else list(METHODS))
    every = [run(row, number, order, root) for number in range(TRIALS + 1) for row in rows]
    return list({one.key: one for one in every}.values())


def frame(folder: str | Path = "runs", order: str = "consistent") -> pd.DataFrame:
    """A row a finished trial: method, trial, settings, held-out balanced accuracy (mean of the last 20). Trials are
    those of the folder, else the committed ones."""
    out = []
    for row in on_features(list(METHODS)):
        for number in range(TRIALS + 1):
            one = run(row, number, order)
            done = [found for path in record.folders(one, files.place(folder))
                    if (found := record.finished(path))]
            if not done and (kept := committed.of(one)):
                done = [found for _, found in kept.found]
            if done:
                fields = {name: getattr(one, name) for name in ("lr", "weight_decay", "ema", "network")}
                out.append({"method": row.method, "trial": number, **fields,
                            "threshold": one.options.get("threshold"), "heldout": done[-1]["result"]["mean_last"]})
    return pd.DataFrame(out)


def choose(folder: str | Path = "runs", path: Path = FILE) -> dict[str, dict[str, Any]]:
    """The best trial of each method, written to `path`. Raises BadInput where a method lacks trials."""
    found = frame(folder)
    out: dict[str, dict[str, Any]] = {}
    for row in on_features(list(METHODS)):
        mine = found[found["method"] == row.method] if len(found) else found
        if len(mine) < TRIALS + 1:
            raise BadInput("runs", str(folder), f"all {TRIALS + 1} trials of {row.method}; {len(mine)} are finished")
        best = mine.loc[mine["heldout"].idxmax()]
        fields, threshold = trial(int(best["trial"]))
        takes = threshold is not None and pd.notna(best["threshold"]) and best["threshold"] > 0
        own = mine.loc[mine["trial"] == 0, "heldout"].iloc[0]
        out[row.method] = {"trial": int(best["trial"]), "fields": fields,
                           "options": {"threshold": threshold} if takes else {},
                           "heldout": round(float(best["heldout"]), 4), "heldout_of_defaults": round(float(own), 4)}
    files.write_text(path, json.dumps(out, indent=1) + "\n")
    return out


def table(folder: str | Path = "runs", order: str = "consistent") -> Table:
    """Each method's chosen settings beside the profile's own: the best of its trials, how far it leads, and what the
    profile's own values (trial 0) reach. Shares in %."""
    found, rows = frame(folder, order), []
    for row in on_features(list(METHODS)):
        mine = found[found["method"] == row.method] if len(found) else found
        if not len(mine):
            continue
        ranked = mine.sort_values("heldout", ascending=False, kind="stable", ignore_index=True)
        own = mine.loc[mine["trial"] == 0]
        rows.append({**ranked.iloc[0], "row": row.name, "heldout": 100 * ranked["heldout"][0],
                     "own": 100 * own["heldout"].iloc[0] if len(own) else math.nan,
                     "own_threshold": own["threshold"].iloc[0] if len(own) else math.nan,
                     "lead": 100 * (ranked["heldout"][0] - ranked["heldout"][1]) if len(ranked) > 1 else math.nan})
    usual = Run.of(method="fixmatch", profile="features", **CELL)
    defaults = f"lr {usual.lr:g}, weight decay {usual.weight_decay:g}, EMA {usual.ema:g}, {usual.network}"
    out = pd.DataFrame(rows)
    error = 100 * math.sqrt(0.25 / (100 * 10))
    return Table(f"Settings by held-out pictures, CIFAR-10-LT 1000/2000 at ratio 50, pool {order}, 750 steps", [
        column("row", "", left=True), column("lr", "lr", "{:g}".format),
        column("weight_decay", "weight decay", "{:g}".format), column("ema", "EMA", "{:g}".format),
        column("network", "network"), Column("threshold (own)", _thresholds),
        column("heldout", "held-out %", "{:.1f}".format), column("lead", "leads the next trial by", "{:.1f}".format),
        column("own", "profile's own values %", "{:.1f}".format)], out,
        [f"The profile's own values are {defaults}, and each method's own threshold.",
         f"One seed and 1,000 held-out pictures a trial, whose labels decide: a standard error of up to {error:.1f} "
         "points each, so that a small lead is chance."])


def _thresholds(row: pd.Series) -> str:
    """The chosen threshold and the method's own; nothing for a method that has none."""
    if pd.isna(row["threshold"]) or row["threshold"] == 0:
        return ""
    return f"{row['threshold']:g} ({row['own_threshold']:g})"
