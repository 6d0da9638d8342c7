"""Long frames of records, which tables and figures are made of. Needs no torch.

`groups` are finished records by label, as `finished` gives them. Shares are in per cent, except those of `runs`.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from semilib.errors import BadInput
from semilib.report.labels import labels, ordered, scale
from semilib.report.records import GROUPS, METRIC, SUMMARIES, Record, result_of

Groups = dict[str, list[Record]]
POINTS = 25                     # of a curve of pseudo-labels; fewer of a rare class count between two of more points


def runs(records: list[Record]) -> pd.DataFrame:
    """One row a run, in the order given.

    mean_last, median_last, last and best_on_test are of `metric`; head, medium, tail and geometric_mean are means over the same
    evaluations as mean_last. All are shares in [0, 1], NaN unless the status is "done". best_on_test picks by the test set: it is here
    for comparison with papers that report it, and in no column of a table. report: which of them the run's recipe reports. seconds:
    training and evaluation. code: fingerprint of the code that ran; drawn_by: how the split was drawn.
    """
    empty = {"rule": "", **dict.fromkeys((*SUMMARIES, *GROUPS, "geometric_mean"), math.nan)}
    rows = []
    for record, label in zip(records, labels(records), strict=True):
        run, resolved, split = record.run, record.run.get("resolved", {}), record.run.get("split", {})
        rows.append({
            "cell": record.cell, "method": record.method, "label": label, "seed": record.seed,
            "steps": record.config.get("steps", math.nan), "profile": record.config.get("profile", ""),
            "status": run["status"], "metric": METRIC, **(result_of(record) if record.done else empty),
            "report": run["result"].get("report", "mean_last") if record.done else "",
            "seconds": run["seconds"] if record.done else math.nan,
            "key": run["key"], "code": run["code"], "commit": run.get("commit") or "", "dirty": run.get("dirty", ""),
            "device": resolved.get("device", ""), "precision": resolved.get("precision", ""),
            "drawn_by": split.get("drawn_by", ""), "split": split.get("fingerprint", "")[:8], "error": run.get("error", "")})
    return pd.DataFrame(rows).astype({"steps": "Int64"})          # a run that was not started has none


def finished(records: list[Record], needed: str = "") -> Groups:
    """The finished records by label, checked, in every figure's order. needed="pseudo_labels": those that logged any. Raises BadInput
    without one, for records of different scales (`labels.scale`) and for a log that is not its run's."""
    scale(records)
    name = {id(r): label for r, label in zip(records, labels(records), strict=True)}
    groups: Groups = {}
    for r in ordered(records):
        if r.done and result_of(r) and (not needed or r.log[-1][needed]):
            groups.setdefault(name[id(r)], []).append(r)
    if not groups:
        raise BadInput("records", [r.run["status"] for r in records], "at least one finished run" +
                       (f" of a method that has {needed.replace('_', '-')}" if needed else ""))
    return groups


def sources(group: list[Record]) -> str:
    """The runs that a row rests on: seed, key and code of each."""
    return " ".join(f"s{r.seed}:{r.id}" for r in group)


def confusion(groups: Groups) -> pd.DataFrame:
    """A row a pair of classes, of the last evaluation: label, true, predicted, count (images, all seeds), share (of the true class),
    balanced_accuracy (mean over seeds), runs."""
    parts = []
    for label, group in groups.items():
        order, names = group[0].order, group[0].of_classes("class_names")
        count = np.sum([r.log[-1]["confusion"] for r in group], axis=0)[np.ix_(order, order)]
        total = count.sum(1, keepdims=True)
        share = np.where(total > 0, 100 * count / np.maximum(total, 1), math.nan)
        parts.append(pd.DataFrame({
            "label": label, "true": np.repeat(names, len(names)), "predicted": names * len(names), "count": count.ravel(),
            "share": share.ravel(), "runs": sources(group),
            "balanced_accuracy": 100 * float(np.mean([r.log[-1]["balanced_accuracy"] for r in group]))}))
    columns = ["label", "true", "predicted", "count", "share", "balanced_accuracy", "runs"]
    return pd.concat(parts, ignore_index=True)[columns]


def distributions(groups: Groups) -> pd.DataFrame:
    """A row a class of the labelled set, of the unlabelled pool, and of each label's pseudo-labels that counted in the steps of the
    evaluations that the table averages, seeds added up: set, label, class, labelled (images), count, share (of the set), runs, used
    (share of the unlabelled images shown whose pseudo-label counted)."""
    every = [r for group in groups.values() for r in group]
    first = every[0]
    names, labelled = first.of_classes("class_names"), first.of_classes("labelled_counts")

    def part(which: str, label: str, counts: list[int], group: list[Record], used: float = math.nan) -> pd.DataFrame:
        count = np.array(counts)
        share = 100 * count / count.sum() if count.sum() else np.full(len(count), math.nan)
        return pd.DataFrame({"set": which, "label": label, "class": names, "labelled": labelled, "count": count, "share": share,
                             "runs": sources(group), "used": used})

    parts = [part("labelled", "", labelled, every), part("unlabelled", "", first.of_classes("unlabelled_counts"), every)]
    for label, group in groups.items():
        pooled = _pool([e for r in group for e in r.averaged])
        parts.append(part("pseudo-labels", label, pooled["counted"][first.order], group, 100 * pooled["share"]))
    return pd.concat(parts, ignore_index=True)


def recall(groups: Groups) -> pd.DataFrame:
    """A row a class: label, class, labelled (images), group (head, medium, tail), recall (mean over the evaluations that the table
    averages, then over seeds), spread (standard deviation over seeds, n - 1 in the denominator; NaN for one), seeds, runs."""
    parts = []
    for label, group in groups.items():
        first = group[0]
        each = 100 * np.array([r.recalls[r.order] for r in group])
        parts.append(pd.DataFrame({
            "label": label, "class": first.of_classes("class_names"), "labelled": first.of_classes("labelled_counts"),
            "group": [name for name, members in first.groups.items() for _ in members], "recall": each.mean(0),
            "spread": each.std(0, ddof=1) if len(group) > 1 else math.nan, "seeds": len(group), "runs": sources(group)}))
    return pd.concat(parts, ignore_index=True)


def accuracy(groups: Groups) -> pd.DataFrame:
    """A row an evaluation of the balanced accuracy: label, step, mean, least, greatest (over seeds), seeds, runs, averaged (whether the
    table's number is of this evaluation)."""
    parts = []
    for label, group in groups.items():
        start = max(r.averaged[0]["step"] for r in group)
        curve = _over_seeds([{e["step"]: 100 * e["balanced_accuracy"] for e in r.log} for r in group])
        parts.append(curve.assign(label=label, seeds=len(group), runs=sources(group), averaged=curve["step"] >= start))
    columns = ["label", "step", "mean", "least", "greatest", "seeds", "runs", "averaged"]
    return pd.concat(parts, ignore_index=True)[columns]


def pseudo_labels(groups: Groups) -> pd.DataFrame:
    """A row a point of a curve, each over the steps since the one before, at most `POINTS` of them: quantity, label, step, mean, least,
    greatest (over seeds; NaN where no pseudo-label counted), seeds, runs.

    quantity "used": share of the unlabelled images shown whose pseudo-label counted; "right": share of those that was right;
    "right: head" and so on: of those that name a class of that group.
    """
    first = next(iter(groups.values()))[0]
    quantities: dict[str, Callable[[dict[str, Any]], float]] = {
        "used": lambda pooled: 100 * pooled["share"], "right": lambda pooled: 100 * pooled["correct"],
        **{f"right: {name}": lambda pooled, members=members: _precision(pooled, members)
           for name, members in first.groups.items() if members}}
    pooled = {label: [_pooled(r) for r in group] for label, group in groups.items()}
    parts = []
    for quantity, value in quantities.items():
        for label, group in groups.items():
            curve = _over_seeds([{p["step"]: value(p) for p in points} for points in pooled[label]])
            parts.append(curve.assign(quantity=quantity, label=label, seeds=len(group), runs=sources(group)))
    columns = ["quantity", "label", "step", "mean", "least", "greatest", "seeds", "runs"]
    return pd.concat(parts, ignore_index=True)[columns]


def _pooled(record: Record) -> list[dict[str, Any]]:
    """The evaluations of a record, pooled to at most `POINTS`."""
    size = -(-len(record.log) // POINTS)
    return [_pool(record.log[i:i + size]) for i in range(0, len(record.log), size)]


def _pool(evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Several evaluations as one at the last one's step, by the names that `metrics.pseudo_label_scores` has: share of the images shown
    whose pseudo-label counted, counted [C], and correct and precision [C], NaN where none counted or no truth is known."""
    scores = [e["pseudo_labels"] for e in evaluations]
    counted, right, seen = (np.sum([s[name] for s in scores], axis=0) for name in ("counted", "right", "seen"))
    known = np.where(counted * seen.sum() > 0, right, math.nan)
    return {"step": evaluations[-1]["step"], "share": counted.sum() / max(1, sum(s["shown"] for s in scores)), "counted": counted,
            "correct": np.nansum(known) / counted.sum() if np.isfinite(known).any() else math.nan,
            "precision": known / np.maximum(counted, 1)}


def _precision(pooled: dict[str, Any], members: list[int]) -> float:
    """Of the pseudo-labels that name one of these classes, the share (%) that is right; NaN if there are none, or no truth."""
    precision, counted = pooled["precision"][members], pooled["counted"][members]
    known = np.isfinite(precision)
    return 100 * (precision * counted)[known].sum() / counted[known].sum() if known.any() else math.nan


def _over_seeds(curves: list[dict[int, float]]) -> pd.DataFrame:
    """Mean, least and greatest over the seeds that have a value, at each step of all seeds."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = pd.DataFrame([[curve[step] for curve in curves] for step in steps], index=steps, dtype=float)
    return pd.DataFrame({"step": steps, "mean": values.mean(axis=1).to_numpy(), "least": values.min(axis=1).to_numpy(),
                         "greatest": values.max(axis=1).to_numpy()})
