"""A table of the study, printed: what a grid's runs measured, against the row that matters, beside published numbers.

    grid = grids.grid("table1", "small")
    folders = find(grid)                       # run key -> its folder, in runs/ (by today's code) or in results/
    sheets(grid, folders)                      # its tables, as a notebook's cell and a terminal show them

Every number is of records. A cell without all its runs says so. `differences` has what is said of two rows.
Published numbers have a column a source, because sources differ in split, recipe, checkpoint rule and metric. They are
of networks trained from scratch, and stand beside such runs alone. None is SeMi's, whose tables this project has not
seen.
"""
from __future__ import annotations

import math
import re
import statistics
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from semilib.files import place
from semilib.report import records
from semilib.report.labels import SMOKE, trial
from semilib.report.records import GROUPS
from semilib.report.table import DASH, Column, Table, Tables, column
from semilib.report.tables import count, mean_and_spread, never_acted, not_started, short
from semilib.study import committed, probes, published
from semilib.study.differences import LEVEL, difference, holm, in_words
from semilib.study.grids import Entry, Grid, usual
from semilib.training import metrics, record
from semilib.training.config import Run
from semilib.training.tuned import settings_of

METRIC_NAMES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy on the natural test split",
                "accuracy_50": "accuracy on 50 test images a class"}
HIGHEST = 3                                    # rows that `findings` names
Folders = dict[str, Path]                      # key of a run -> folder of its record
Kept = dict[str, records.Record]              # key -> the record of a run that is finished


# ---- finding records -------------------------------------------------------------------------------------------------


def find(grid: Grid, runs: str | Path = "runs", results: str | Path = "results") -> Folders:
    """The place of each of the grid's runs that is finished.

    It is in `runs`, made by today's code, or else among the committed records, made by the code of their commit."""
    folders = {}
    for run in grid.runs:
        mine = record.folder(run, place(runs)) if record.folders(run, place(runs)) else None
        if mine and record.finished(mine):
            folders[run.key] = mine
        elif kept := committed.of(run, results):
            folders[run.key] = kept.folder
    return folders


def missing(grid: Grid, folders: Folders) -> list[Run]:
    return [run for run in grid.runs if run.key not in folders]


# ---- the printed table -----------------------------------------------------------------------------------------------


def sheets(grid: Grid, folders: Folders, runs: str | Path = "runs") -> Tables:
    """The grid's printed tables, one for each column and section, in order.

    frame: a row a line, in per cent and percentage points. runs: a row a run, its score a share in [0, 1]."""
    places = dict.fromkeys((e.column, e.section) for e in grid.entries)
    return Tables(_sheet(grid, [entry for entry in grid.entries if (entry.column, entry.section) == at], folders, runs)
                  for at in places)


def _sheet(grid: Grid, entries: list[Entry], folders: Folders, runs: str | Path) -> Table:
    first = entries[0]
    kept = {run.key: records.read(folders[run.key]) for entry in entries for run in entry.runs if run.key in folders}
    measured = pd.DataFrame([row for entry in entries for row in _measured(entry, kept, runs)])
    against = {entry.row: entry.against for entry in entries}
    if first.runs[0].encoder != "none" and not first.section:              # methods beside each other
        beside = pd.DataFrame(probes.rows(first.runs))
        measured = pd.concat([measured, beside], ignore_index=True)
        against |= dict.fromkeys(beside.get("row", ()), first.against)
    scores = {name: dict(zip(part["seed"], part["score"], strict=True))
              for name, part in measured.dropna(subset=["score"]).groupby("row")}
    literature = {entry.row: published.rows_of(entry.runs[0], entry.row, entry.metric) for entry in entries}
    by_source: dict[str, list[dict[str, str]]] = {}
    for row in (row for rows in literature.values() for row in rows):
        by_source.setdefault(row["source_paper"], []).append(row)
    sources = dict(zip(string.ascii_lowercase, by_source.values(), strict=False))
    frame = pd.DataFrame([{**_summary(row, measured[measured["row"] == row]), "against": other,
                           **difference(scores.get(row, {}), scores.get(other, {})),
                           "published": published.by_source(literature.get(row, []))}
                          for row, other in against.items()])
    frame["p_holm"] = holm(frame["p"])
    frame["difference"] = frame.apply(in_words, axis=1)
    notes = [*_trial_note(first.runs[0], folders), f"Scale: {scale(first.runs[0])}; {_seeds(first)}.",
             *_untuned_note(entries),
             *_groups_note(first.metric, frame), *_difference_note(frame), *_missing_note(frame),
             *_idle_notes(measured, kept), *_phase_notes(measured, kept), *_source_notes(sources),
             *_split_note(measured), *_code_notes(grid, measured)]
    return Table(grid.title, _columns(first.metric, frame, sources), frame, notes, measured,
                 subtitle="; ".join(filter(None, (first.column, first.section))),
                 idle=lambda row: _name(row, sources) if not_started(row["runs"], row["state"]) else "")


def _name(row: dict[str, Any], sources: dict[str, list[dict[str, str]]]) -> str:
    """A row that is named below its table, with the published numbers that would stand in its columns."""
    numbers = [f"{letter} {row['published'][rows[0]['source_paper']]}" for letter, rows in sources.items()
               if rows[0]["source_paper"] in row["published"]]
    return row["row"] + (f" ({'; '.join(numbers)})" if numbers else "")


def _measured(entry: Entry, kept: Kept, runs: str | Path) -> Iterable[dict[str, Any]]:
    """A row a run of an entry: its state and, if it is done, its numbers (shares in [0, 1])."""
    for run in entry.runs:
        row = {"section": entry.section, "row": entry.row, "column": entry.column, "metric": entry.metric,
               "seed": run.seed, "split_seed": run.split_seed, "name": run.name, "key": run.key, "state": "done",
               "score": math.nan, **dict.fromkeys(("rule", "code", "split", "commit"), ""),
               **dict.fromkeys((*GROUPS, "minutes"), math.nan)}
        if run.key not in kept:
            yield {**row, "state": record.state(run, place(runs))}
            continue
        one = kept[run.key]
        yield {**row, **_score(one, entry.metric), "code": one.run["code"], "minutes": one.run["seconds"] / 60,
               "split": one.run["split"].get("fingerprint", "")[:8], "commit": (one.run.get("commit") or "")[:8]}


def _score(kept: records.Record, metric: str) -> dict[str, Any]:
    result = records.result_of(kept)
    if metric not in kept.log[-1]:
        return {"state": f"no {metric} in its record"}
    other = result if metric == records.METRIC else metrics.summary(kept.log, metric)
    return {"score": other["mean_last"], "rule": short(other["rule"]), **{g: result[g] for g in GROUPS}}


def _summary(row: str, measured: pd.DataFrame) -> dict[str, Any]:
    """A row's numbers over its seeds."""
    done, states = measured.dropna(subset=["score"]), Counter(measured.loc[measured["score"].isna(), "state"])
    values = [100 * score for score in done["score"]]
    return {"row": row, "mean": statistics.fmean(values) if values else math.nan,
            "spread": statistics.stdev(values) if len(values) > 1 else math.nan,
            "done": len(values), "runs": len(measured),
            "state": ", ".join(f"{n} {state}" for state, n in states.items()),
            **{g: 100 * done[g].mean() for g in GROUPS}, "rule": "; ".join(sorted(set(done["rule"])))}


def _columns(metric: str, frame: pd.DataFrame, sources: dict[str, list[dict[str, str]]]) -> list[Column]:
    """sources: letter -> rows of a published source."""
    compared = (frame["against"] != "").any()
    return [column("row", "", left=True),
            Column(f"{METRIC_NAMES[metric]} %", lambda row: mean_and_spread(row["mean"], row["spread"], 1)),
            Column("n", lambda row: count(row["done"], row["runs"], row["state"])),
            *(column(g, g, "{:.1f}".format) for g in GROUPS if metric == records.METRIC),
            *([column("difference", "difference")] if compared else []),
            *([column("effect", "d", "{:+.1f}".format)] if frame["effect"].notna().any() else []),
            column("rule", "rule"),
            *(Column(letter, lambda row, source=rows[0]["source_paper"]: row["published"].get(source, DASH))
              for letter, rows in sources.items())]


# ---- footnotes -------------------------------------------------------------------------------------------------------


def scale(run: Run) -> str:
    """What the numbers of a run's table rest on, in a phrase. On features the network is tuned by method."""
    tuned = run.encoder != "none"
    return (f"{re.sub('[.]split[0-9]+', '', run.cell)}, {run.steps:,} steps of profile {run.profile}, "
            f"batch {run.batch} + {run.mu * run.batch}, "
            + (f"frozen {run.encoder} at {run.encoder_side} px, head and settings tuned by method, " if tuned
               else f"{run.network}, ") + f"recipe {run.recipe}")


def _trial_note(run: Run, folders: Folders) -> Iterable[str]:
    kept = [records.read(folder) for folder in folders.values()][:1] if run.profile == SMOKE else []
    return trial(run.profile, run.steps, len(kept[0].run["split"]["labelled_counts"]) if kept else None)


def _untuned_note(entries: list[Entry]) -> Iterable[str]:
    rows = [e.row for e in entries if e.runs[0].encoder != "none" and not settings_of(e.runs[0].method)["heldout"]]
    if rows:
        yield f"Not tuned, with the profile's own settings: {', '.join(dict.fromkeys(rows))}."


def _seeds(entry: Entry) -> str:
    """What n and ± are of, in a phrase."""
    if len(entry.runs) == 1:
        return f"single runs, of seed {entry.runs[0].seed}"
    own = len({run.split_seed for run in entry.runs}) == len(entry.runs) > 1
    return (f"n seeds, {'each with a split of its own' if own else 'one split for all of them'}; ± is the standard "
            "deviation over seeds")


def _groups_note(metric: str, frame: pd.DataFrame) -> Iterable[str]:
    if metric == records.METRIC and frame["done"].any():
        yield "Head, medium, tail: mean recall (%) of the classes with most, middling and fewest labels."


def _difference_note(frame: pd.DataFrame) -> Iterable[str]:
    against = [row for row in dict.fromkeys(frame["against"]) if row]
    if not against or not frame["done"].any():
        return
    other = against[0] if len(against) == 1 else "the row that it changes"
    compared = int(frame["p"].notna().sum())
    if frame["pairs"].max() > 1:
        yield (f"Difference: this row less {other}, seed by seed, percentage points; with three seeds or more the 95 % "
               "interval of Student's t over the pairs.")
    else:
        yield f"Difference: this row less {other}, percentage points."
    if compared:
        yield (f"* Holm's p of the paired t tests, {compared} in this table, is below {LEVEL}. d: mean of the pairs "
               "over their standard deviation (Cohen's d_z).")


def _missing_note(frame: pd.DataFrame) -> Iterable[str]:
    shown = frame[[not not_started(row.runs, row.state) for row in frame.itertuples()]]
    left = int((shown["done"] < shown["runs"]).sum())
    if left:
        yield (f"Not all runs are done: {left} of {len(shown)} rows lack some (column n), not started where it says "
               "no more.")


def _idle_notes(measured: pd.DataFrame, kept: Kept) -> Iterable[str]:
    for run in measured[measured["key"].isin(kept)].itertuples():
        yield from never_acted(kept[run.key], f"{run.row} seed {run.seed}")


def _phase_notes(measured: pd.DataFrame, kept: Kept) -> Iterable[str]:
    """Rows whose last phase begins within the evaluations averaged, and the mean of those that are of that phase."""
    for name, runs in measured.dropna(subset=["score"]).groupby("row", sort=False):
        shares = []
        for run in runs[runs["key"].isin(kept)].itertuples():
            begins = max(kept[run.key].run.get("resolved", {}).get("stages", {"": 0}).values())
            averaged = kept[run.key].averaged
            after = [evaluation for evaluation in averaged if evaluation["step"] > begins]
            if 0 < len(after) < len(averaged):
                shares.append(statistics.fmean(evaluation[run.metric] for evaluation in after))
                told = (f"{name}: its last phase begins at step {begins:,}, so {len(averaged) - len(after)} of "
                        f"the {len(averaged)} evaluations averaged are of before")
        if shares:
            yield f"{told}; the mean of those in it is {100 * statistics.fmean(shares):.1f} %."


def _source_notes(sources: dict[str, list[dict[str, str]]]) -> Iterable[str]:
    for letter, rows in sources.items():
        what = "; ".join(dict.fromkeys(row["notes"] for row in rows))
        yield f"{letter}: {rows[0]['source_paper']}, {rows[0]['source_location']}: {what}."


def _split_note(measured: pd.DataFrame) -> Iterable[str]:
    kept = measured[measured["split"] != ""].groupby("split_seed", dropna=False)["split"].unique()
    mixed = sorted(split for splits in kept if len(splits) > 1 for split in splits)
    if mixed:
        yield f"Not one split: the records hold {', '.join(mixed)}. Their numbers are not comparable."


def _code_notes(grid: Grid, measured: pd.DataFrame) -> Iterable[str]:
    rows = measured[measured["code"] != ""].groupby("row", sort=False)
    mixed = [name for name, part in rows if part["code"].nunique() > 1]
    if mixed:
        yield (f"Seeds trained by several versions of the code: {', '.join(mixed)}; part of their spread may be its "
               f"change. `{_again(grid)}` does all by today's.")
    commits = sorted({commit for commit in measured["commit"] if commit})
    if commits:
        yield (f"Records: {measured['score'].notna().sum()} of {len(measured)} runs, code of commit "
               f"{', '.join(commits)}; each run's numbers are in the CSV.")


def _again(grid: Grid) -> str:
    """The command that does a table's runs also where committed records hold them."""
    seeds, others = ({run.seed for run in one.runs} for one in (grid, usual(grid)))
    given = [("profile", grid.profile), *([("seeds", sorted(seeds))] if seeds != others else []), *grid.changed]
    words = [f"{name}={value}".replace(" ", "") for name, value in given]
    return " ".join(["semilib run", grid.table, *words, "--again"])


# ---- in sentences ----------------------------------------------------------------------------------------------------


def findings(grid: Grid, tables: Tables, **told: str) -> str:
    """What tables show, in Markdown: for each its highest rows, and the differences whose interval leaves out 0.

    Computed from their frames, so that no sentence says other than the table. told: by profile, what was concluded from
    the committed records; it stands where the table has all runs of that profile as they are. Runs of so few steps that
    they are at chance are not ranked."""
    done = {table.subtitle: table.frame.dropna(subset=["mean"]) for table in tables}
    lines = [f"- {subtitle}: {_findings(rows)}" for subtitle, rows in done.items() if len(rows)]
    none = [subtitle for subtitle, rows in done.items() if rows.empty]
    left = f"No run is done in {'; '.join(none)}." if lines else "No run is done."
    if lines and grid.profile == SMOKE:
        lines, none = tables[0].notes[:1], []
    whole = grid.profile in told and not none and all((rows["done"] == rows["runs"]).all() for rows in done.values()) \
        and {run.key for run in usual(grid).runs} <= {run.key for run in grid.runs}
    return "\n".join([f"**{tables[0].title}**", "", *lines, *(["- " * bool(lines) + left] if none else []),
                      *(["", told[grid.profile].strip()] if whole else [])])


def _findings(done: pd.DataFrame) -> str:
    top = [f"{row.row} {mean_and_spread(row.mean, row.spread, 1)}"
           for row in done.sort_values("mean", ascending=False, kind="stable")[:HIGHEST].itertuples(index=False)]
    told = done[done["pairs"] > 2]
    apart = [f"{row.row} {row.difference}" for row in told[(told["low"] > 0) | (told["high"] < 0)].itertuples()]
    differences = f" Differences whose interval leaves out 0: {len(apart)} of {len(told)}" if len(told) else ""
    return f"highest {', '.join(top)}." + differences + f" ({', '.join(apart)})" * bool(apart) + "." * bool(differences)
