"""The overview of records: one line a method, and what its numbers rest on.

    frame, text = table = overview(load(sorted(Path("results/quickstart").iterdir())))
    table.write("figures/quickstart/table")          # table.csv: every run; table.md: the table
"""
from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

from semilib.errors import BadInput
from semilib.report import frames
from semilib.report.labels import cell_in_words, display, labels, ordered, scale, trial
from semilib.report.records import GROUPS, Record
from semilib.report.table import Column, Table, column, number
from semilib.training import metrics

REPORTED = {"median_last": "median of the evaluations averaged here", "last": "last evaluation",
            "best_on_test": "best evaluation, picked by the test set"}


def overview(records: list[Record], title: str = "") -> Table:
    """One row a label, in the order of `labels.ordered`, over its finished runs. Runs that are not done are counted and
    named. The scale is added to the title unless that holds it already. Raises BadInput as `labels.scale` does.

    frame: label, balanced_accuracy (%), spread (standard deviation over seeds, NaN for one), done and runs (how many
    finished, of how many), unfinished (what became of the others), head, medium, tail (%), rule, minutes a run,
    step_seconds (the same over the steps, evaluations included).
    """
    scaled, records = scale(records), ordered(records)
    title = title if scaled in title else f"{title}: {scaled}" if title else scaled
    runs = frames.runs(records)
    frame = pd.DataFrame([_row(label, group) for label, group in runs.groupby("label", sort=False)])
    images = [r.run["split"]["test_images"] for r in records if r.config]
    return Table(title, _columns(2 if images and images[0] >= 10_000 else 1), frame, _notes(records, runs), runs,
                 idle=lambda row: display(row["label"]) * not_started(row["runs"], row["unfinished"]))


def _row(label: str, group: pd.DataFrame) -> dict[str, Any]:
    done = group[group["status"] == "done"]
    others = Counter("unfinished" if s == "running" else s for s in group["status"] if s != "done")
    values = 100 * done["mean_last"]
    return {"label": label, "balanced_accuracy": values.mean(), "spread": values.std(ddof=1),
            "done": len(done), "runs": len(group),
            "unfinished": ", ".join(f"{n} {state}" for state, n in others.items()),
            **{g: 100 * done[g].mean() for g in GROUPS},
            "rule": "; ".join(sorted({short(rule) for rule in done["rule"]})),
            "minutes": done["seconds"].mean() / 60,
            "step_seconds": (done["seconds"] / done["steps"].astype(float)).mean()}


def _columns(digits: int) -> list[Column]:
    """digits: decimals of the accuracies."""
    return [column("label", "method", display, left=True),
            Column("balanced accuracy %", lambda row: mean_and_spread(row["balanced_accuracy"], row["spread"], digits)),
            Column("n", lambda row: count(row["done"], row["runs"], row["unfinished"]), left=True),
            *(column(g, g, f"{{:.{digits}f}}".format) for g in GROUPS), column("rule", "rule", left=True),
            column("minutes", "minutes", "{:.1f}".format), column("step_seconds", "s a step", "{:.3f}".format)]


def mean_and_spread(mean: float, spread: float, digits: int) -> str:
    return number(mean, digits) + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")


def count(done: int, runs: int, others: str) -> str:
    """How many runs are done and, where some are not, of how many, and what became of those that were started."""
    if done == runs:
        return f"{done}"
    return f"{done}/{runs}" if not_started(runs - done, others) else f"{done}/{runs}, {others}"


def not_started(runs: int, others: str) -> bool:
    """Whether none of some runs was started, by what became of them."""
    return others == f"{runs} not started"


def short(rule: str) -> str:
    """A rule of `metrics.summary` as a column has it: `last 20`, `all 4`."""
    return re.sub(r"^mean of (the )?| evaluations$", "", rule)


# ---- a folder of pictures --------------------------------------------------------------------------------------------


def photographs(records: list[Record]) -> Table:
    """Runs on one folder of pictures, a line a run, of whatever schedule: what the last evaluation counted.

    That is the evaluation of the network that is kept, and the one of the confusion matrix. frame: start (encoder or
    scratch), method, seed, steps, right and images (test pictures), accuracy, low, high (%, `metrics.interval`),
    balanced_accuracy (%), minutes. Raises BadInput for records of several folders, splits or data sets, and without a
    finished run."""
    done = [r for r in records if r.done and "confusion" in r.log[-1]]
    tests = {tuple(str(r.config.get(name)) for name in ("dataset", "folder", "split_seed", "holdout")) for r in done}
    if len(tests) != 1 or done[0].config["dataset"] != "imagefolder":
        raise BadInput("records", [r.run["name"] for r in records], "finished runs on one folder of pictures")
    columns = [column("start", "starts from", left=True), column("method", "method", display, left=True),
               column("steps", "steps", "{:,}".format),
               Column("right", lambda row: f"{row['right']:,} of {row['images']:,}"),
               Column("accuracy %", lambda row: _fitting(row, "accuracy")),
               Column("95 % interval", lambda row: f"{_fitting(row, 'low')} to {_fitting(row, 'high')}"),
               Column("balanced %", lambda row: _fitting(row, "balanced_accuracy"))]
    table = pd.DataFrame([_counted(record) for record in done])
    notes = [f"The last evaluation, of the network that is kept; {_tested(done[0])}.",
             "95 % interval: Wilson's, of the accuracy, for this many test pictures. Balanced: mean recall of classes.",
             *_never_predicted(done), *_left_out(records)]
    columns += [column("minutes", "minutes", "{:.1f}".format)]
    return Table(cell_in_words(re.sub(r"\..*", "", done[0].cell)), columns, table, notes)


def _fitting(row: dict[str, Any], name: str) -> str:
    """A percentage with as many digits as its test pictures allow."""
    return f"{row[name]:.{metrics.decimals(row['images'])}f}"


def _never_predicted(done: list[Record]) -> Iterable[str]:
    for record in done:
        if names := metrics.never_predicted(record.log[-1], record.run["split"]["class_names"]):
            start = _counted(record)["start"]
            yield f"Never predicted by {display(record.method)}, {start}, seed {record.seed}: {', '.join(names)}."


def _counted(record: Record) -> dict[str, Any]:
    last, config = record.log[-1], record.config
    right, images = metrics.right_of(last)
    low, high = metrics.interval(right, images)
    return {"start": "scratch" if config.get("encoder", "none") == "none" else config["encoder"],
            "method": record.method, "seed": record.seed, "steps": config["steps"], "right": right, "images": images,
            "accuracy": 100 * right / images, "low": 100 * low, "high": 100 * high,
            "balanced_accuracy": 100 * last["balanced_accuracy"], "minutes": record.run["seconds"] / 60}


# ---- footnotes -------------------------------------------------------------------------------------------------------


def _notes(records: list[Record], runs: pd.DataFrame) -> list[str]:
    done, started = runs[runs["status"] == "done"], [r for r in records if r.config]
    return [*_trial(started), *_rules(records), *_groups(started), _spread(done), *_reported(done), *_split(started),
            *_few(records), *_machines(started), *_left_out(records), *_sources(runs)]


def _trial(started: list[Record]) -> Iterable[str]:
    for record in started[:1]:
        yield from trial(record.config["profile"], record.config["steps"], len(record.order))


def _rules(records: list[Record]) -> Iterable[str]:
    spans: dict[str, set[tuple[int, int]]] = {}
    for r in records:
        if r.done:
            spans.setdefault(metrics.summary(r.log)["rule"], set()).add((r.averaged[0]["step"], r.averaged[-1]["step"]))
    for rule, ends in spans.items():
        steps = " or ".join(f"steps {a:,} to {b:,}" for a, b in sorted(ends))
        yield f"Balanced accuracy: mean recall of the classes, test set; {rule} of the averaged network ({steps})."


def _groups(started: list[Record]) -> Iterable[str]:
    sizes = [len(members) for members in started[0].groups.values()] if started else [0]
    if min(sizes) > 0:
        yield (f"Head, medium, tail: mean recall (%) of the {sizes[0]} largest, {sizes[1]} middle and {sizes[2]} "
               "smallest classes by labelled count, same evaluations.")


def _spread(done: pd.DataFrame) -> str:
    if (done.groupby("label").size() > 1).any():
        return ("±: standard deviation over the n seeds (n - 1 in the denominator). "
            "A number without it is a single run.")
    return "Single runs: no spread is known."


def _reported(done: pd.DataFrame) -> Iterable[str]:
    """Where a recipe reports another number than the table's column: that number, beside it and not in its place."""
    numbers = [f"{display(label)} {100 * group[report].mean():.2f} ({REPORTED[report]})"
               for (label, report), group in done.groupby(["label", "report"], sort=False) if report in REPORTED]
    if numbers:
        yield f"As their own recipes report them (%): {', '.join(numbers)}."


def _split(started: list[Record]) -> Iterable[str]:
    for record in started[:1]:
        split = record.run["split"]
        drawn_by, unlabelled = split["drawn_by"], sum(split["unlabelled_counts"])
        in_order = drawn_by == "file order"
        how = "the first images of each class in file order" if in_order else f"drawn with split {drawn_by}"
        pool = f"{unlabelled:,} unlabelled images of known class" if unlabelled else \
            "unlabelled images of unknown class"
        inside = "labelled ones included" if record.config["labelled_in_unlabelled"] else "no labelled one among them"
        yield (f"One split for all seeds: {how}; {sum(split['labelled_counts']):,} labelled and {pool} ({inside}), "
               f"{split['test_images']:,} test images.")


def _few(records: list[Record]) -> Iterable[str]:
    """Of a folder of pictures, which may have few to test on: how many are right at the end."""
    for record in records:
        if record.done and record.config["dataset"] == "imagefolder":
            yield (f"Last evaluation of {display(record.method)} seed {record.seed}: "
                   f"{metrics.counted(*record.run['result']['right'])}; {_tested(record)}.")


def _tested(record: Record) -> str:
    """Which pictures a run on a folder was evaluated on."""
    if record.config.get("holdout"):
        return f"test pictures: {100 * record.config['holdout']:g} % of each class's labelled ones, held out"
    return record.run["split"].get("data", "test pictures: of unknown origin")


def _machines(started: list[Record]) -> Iterable[str]:
    """The hardware behind the minutes."""
    resolved = [r.run["resolved"] for r in started if "resolved" in r.run]
    machines = dict.fromkeys(f"{r['device']} in {r['precision']}" for r in resolved)
    if machines:
        yield ("Minutes: training and evaluation of one run, mean over seeds; s a step: the same over its steps; on "
               f"{', '.join(machines)}.")


def _left_out(records: list[Record]) -> Iterable[str]:
    named = list(zip(records, labels(records), strict=True))
    started = {label for record, label in named if record.state != "not started"}
    for record, label in named:
        if not record.done and label in started:
            error = f" ({record.run['error']})" if record.run.get("error") else ""
            yield f"Not in the numbers: {display(label)} seed {record.seed}, {record.state}{error}."
        yield from never_acted(record, f"{display(label)} seed {record.seed}")


def never_acted(record: Record, name: str) -> Iterable[str]:
    """A footnote for each part of a finished run's method that acted in no step. Older records held no such run."""
    parts = record.run["result"].get("never_acted", {}) if record.done else {}
    for part, advice in parts.items():
        yield f"Never acted in {name}: {part} ({advice})."


def _sources(runs: pd.DataFrame) -> Iterable[str]:
    started = runs.groupby("label")["status"].transform(lambda states: (states != "not started").any())
    for label, group in runs[started].groupby("label", sort=False):
        ids = [frames.source(row.seed, row.key, row.code) for row in group.itertuples()]
        mixed = group["code"].nunique() > 1
        yield (f"Runs (seed:key-code) of {display(label)}: {', '.join(ids)}."
               + " They were trained by several versions of the code; part of their spread may be its change." * mixed)
