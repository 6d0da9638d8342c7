"""Long frames of records, which tables and figures are made of. They need no torch.

`Groups` are finished records by label, as `finished` gives them. Shares are in per cent, except those of `runs`.
Classes stand from the largest labelled one to the smallest. A row's `runs` are its sources: seed, key and code of each.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from semilib.errors import BadInput
from semilib.report.labels import labels, ordered, scale
from semilib.report.records import GROUPS, METRIC, Record, result_of
from semilib.training import metrics

Groups = dict[str, list[Record]]
Pooled = dict[str, Any]         # of `pool`
FEW = 10                        # a share of fewer images than this is not drawn
POINTS = 25                     # of a curve of pseudo-labels; between two of more points too few of a rare class count


def runs(records: list[Record]) -> pd.DataFrame:
    """One row a run, in the order given. Accuracies are shares in [0, 1], NaN unless the status is "done".

    mean_last, median_last, last and best_on_test are of `metric`. head, medium, tail and geometric_mean are means over
    the evaluations of mean_last. best_on_test picks by the test set: no table shows it, papers that report it do.
    report: which of them the run's recipe reports. seconds: training and evaluation. code: fingerprint of the code that
    ran. drawn_by: how the split was drawn.
    """
    empty = {"rule": "", **dict.fromkeys((*metrics.SUMMARIES, *GROUPS, "geometric_mean"), math.nan)}
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
            "drawn_by": split.get("drawn_by", ""), "split": str(split.get("fingerprint", ""))[:8],
            "error": run.get("error", "")})
    return pd.DataFrame(rows).astype({"steps": "Int64"})          # a run that was not started has none


def finished(records: list[Record], needed: str = "") -> Groups:
    """The finished records by label, in every figure's order.

    needed: those alone whose log has it, such as "confusion" (only whole logs do) or "pseudo_labels" (not of every
    method).

    Raises BadInput without one, for records of different scales (`labels.scale`), and for a log that is not its run's.
    """
    scale(records)
    name = {id(r): label for r, label in zip(records, labels(records), strict=True)}
    groups: Groups = {}
    for r in ordered(records):
        if r.done and result_of(r) and (not needed or r.log[-1].get(needed)):
            groups.setdefault(name[id(r)], []).append(r)
    if not groups:
        which = f" whose log has {needed.replace('_', '-')}" if needed else ""
        raise BadInput("records", [r.run["status"] for r in records], f"at least one finished run{which}")
    return groups


def source(seed: int, key: str, code: str) -> str:
    """A run as figures and footnotes name it: s0:KEY-CODE."""
    return f"s{seed}:{key}-{code or 'unknown'}"


def sources(group: list[Record]) -> str:
    return " ".join(source(r.seed, r.run["key"], r.run["code"]) for r in group)


def confusion(groups: Groups) -> pd.DataFrame:
    """Pairs of classes in the last evaluation, seeds added up.

    Columns: label, true, predicted, count (images), share (of the true class), balanced_accuracy (mean over seeds),
    runs."""
    parts = []
    for label, group in groups.items():
        order, names = group[0].order, group[0].of_classes("class_names")
        matrices = [metrics.unpacked(r.log[-1]["confusion"], len(order)) for r in group]
        count = np.sum(matrices, axis=0)[np.ix_(order, order)]
        total = count.sum(1, keepdims=True)
        share = np.where(total > 0, 100 * count / np.maximum(total, 1), math.nan)
        parts.append(pd.DataFrame({
            "label": label, "true": np.repeat(names, len(names)), "predicted": names * len(names),
            "count": count.ravel(), "share": share.ravel(),
            "balanced_accuracy": 100 * np.mean([r.log[-1][METRIC] for r in group]), "runs": sources(group)}))
    return pd.concat(parts, ignore_index=True)


def distributions(groups: Groups) -> pd.DataFrame:
    """Classes of the labelled set, of the unlabelled pool, and of each label's pseudo-labels, seeds added up.

    Columns: set, label, class, labelled (images), count, share (of the set), runs, used. Pseudo-labels are those that
    counted in the steps of the evaluations that the table averages. used: the share of the unlabelled images shown in
    those steps whose pseudo-label counted."""
    every = [r for group in groups.values() for r in group]
    first = every[0]

    def part(which: str, label: str, counts: list[int], group: list[Record], used: float = math.nan) -> pd.DataFrame:
        count = np.array(counts)
        share = 100 * count / count.sum() if count.sum() else math.nan
        return pd.DataFrame({"set": which, "label": label, "class": first.of_classes("class_names"),
                             "labelled": first.of_classes("labelled_counts"), "count": count, "share": share,
                             "runs": sources(group), "used": used})

    parts = [part(which, "", first.of_classes(f"{which}_counts"), every) for which in ("labelled", "unlabelled")]
    for label, group in groups.items():
        pooled = pool([e for r in group for e in r.averaged])
        parts.append(part("pseudo-labels", label, pooled["counted"][first.order], group, 100 * pooled["share"]))
    return pd.concat(parts, ignore_index=True)


def recall(groups: Groups) -> pd.DataFrame:
    """Recall of each class on the test set.

    Columns: label, class, labelled (images), group (head, medium, tail), recall (mean over the evaluations that the
    table averages, then over seeds), spread (standard deviation over seeds, n - 1 in the denominator, NaN for one),
    seeds, runs."""
    parts = []
    for label, group in groups.items():
        first = group[0]
        recalls = 100 * np.array([r.recalls[r.order] for r in group])
        parts.append(pd.DataFrame({
            "label": label, "class": first.of_classes("class_names"), "labelled": first.of_classes("labelled_counts"),
            "group": [name for name, members in first.groups.items() for _ in members], "recall": recalls.mean(0),
            "spread": recalls.std(0, ddof=1) if len(group) > 1 else math.nan,
            "seeds": len(group), "runs": sources(group)}))
    return pd.concat(parts, ignore_index=True)


def accuracy(groups: Groups) -> pd.DataFrame:
    """Balanced accuracy of each evaluation.

    Columns: label, step, mean, least, greatest (over seeds), seeds, runs, averaged (whether the table averages it)."""
    parts = []
    for label, group in groups.items():
        curve = _over_seeds([{e["step"]: 100 * e[METRIC] for e in r.log} for r in group])
        start = max(r.averaged[0]["step"] for r in group)
        parts.append(pd.DataFrame({"label": label, **curve, "seeds": len(group), "runs": sources(group),
                                   "averaged": np.array(curve["step"]) >= start}))
    return pd.concat(parts, ignore_index=True)


def pseudo_labels(groups: Groups) -> pd.DataFrame:
    """Pseudo-labels over training steps, each row of the steps since the row before, at most `POINTS` rows a curve.

    Columns: quantity, label, step, mean, least, greatest (over seeds; NaN where no pseudo-label counted), images (that
    the share is of, of the seed with fewest), seeds, runs. quantity: "used" (share of the unlabelled images shown whose
    pseudo-label counted), "right" (share of those that was right), "right: head" and so on (of those that name a class
    of that group)."""
    first = next(iter(groups.values()))[0]
    members = {name: part for name, part in first.groups.items() if part}
    quantities: dict[str, tuple[Callable[[Pooled], float], Callable[[Pooled], int]]] = {
        "used": (lambda pooled: 100 * pooled["share"], lambda pooled: pooled["shown"]),
        "right": (lambda pooled: 100 * pooled["correct"], lambda pooled: pooled["counted"].sum()),
        **{f"right: {name}": (lambda pooled, part=part: _precision(pooled, part),
                              lambda pooled, part=part: pooled["counted"][part].sum())
           for name, part in members.items()}}
    parts = []
    for quantity, (value, images) in quantities.items():
        for label, group in groups.items():
            curves = [_pooled(record) for record in group]
            mean = _over_seeds([{pooled["step"]: value(pooled) for pooled in curve} for curve in curves])
            counts = [{pooled["step"]: images(pooled) for pooled in curve} for curve in curves]
            fewest = [min(count[step] for count in counts) for step in mean["step"]]
            parts.append(pd.DataFrame({"quantity": quantity, "label": label, **mean, "images": fewest,
                                       "seeds": len(group), "runs": sources(group)}))
    return pd.concat(parts, ignore_index=True)


def _pooled(record: Record) -> list[Pooled]:
    """The evaluations of a record, pooled to at most `POINTS`."""
    size = -(-len(record.log) // POINTS)
    return [pool(record.log[i:i + size]) for i in range(0, len(record.log), size)]


def pool(evaluations: list[dict[str, Any]]) -> Pooled:
    """Several evaluations' pseudo-labels as one, at the last one's step, as `metrics.pseudo_label_scores` names them.

    shown: images. counted, right, seen: [C], images. correct, and precision [C], are NaN where none counted or no truth
    is known."""
    scores = [e["pseudo_labels"] for e in evaluations]
    counted, right, seen = (np.sum([s[name] for s in scores], axis=0) for name in ("counted", "right", "seen"))
    known = np.where(counted * seen.sum() > 0, right, math.nan)
    shown = sum(s["shown"] for s in scores)
    return {"step": evaluations[-1]["step"], "shown": shown, "share": counted.sum() / max(1, shown),
            "counted": counted, "right": right, "seen": seen, "precision": known / np.maximum(counted, 1),
            "correct": np.nansum(known) / counted.sum() if np.isfinite(known).any() else math.nan}


def _precision(pooled: Pooled, members: list[int]) -> float:
    """Of the pseudo-labels that name one of these classes, the share (%) that is right; NaN if none is known."""
    precision, counted = pooled["precision"][members], pooled["counted"][members]
    known = np.isfinite(precision)
    return 100 * (precision * counted)[known].sum() / counted[known].sum() if known.any() else math.nan


def _over_seeds(curves: list[dict[int, float]]) -> dict[str, Any]:
    """step: those of all seeds. mean, least, greatest: over the seeds that have a value there."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = pd.DataFrame([[curve[step] for curve in curves] for step in steps], dtype=float)
    return {"step": steps, "mean": values.mean(axis=1), "least": values.min(axis=1), "greatest": values.max(axis=1)}
