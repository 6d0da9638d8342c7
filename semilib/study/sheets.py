"""A table of the study, printed: what a grid's runs measured, seed by seed against the row that matters, beside published numbers.

    grid = grids.table("table1", "small")
    found = sheets.find(grid)                  # run key -> its folder, in runs/ (by today's code) or in results/
    for sheet in sheets.sheets(grid, found):
        print(sheet.text)

Every number is of records. A cell without all its runs says so. A difference is the mean over the seeds that both rows have, with the 95 %
interval of Student's t over those paired differences (three seeds or more); two seeds give the two differences, one gives no
statement. Bold is a row whose worst seed is above every other row's best. Published numbers stand in columns of their own, one a source,
because sources differ in split, recipe, checkpoint rule and metric; none of them is SeMi's, whose tables this project has not seen.
"""
from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
import statistics
import string
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from semilib.files import home, place
from semilib.report.tables import DASH, GROUPS, WIDTH, Record, _short, load, never_acted, result_of, stem, write_bytes
from semilib.report.tables import csv as as_csv
from semilib.study.grids import Entry, Grid
from semilib.training import metrics, record
from semilib.training.config import Run

METRICS = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy on the natural test split",
           "accuracy_50": "accuracy on 50 test images a class"}


# ---- finding records -----------------------------------------------------------------------------------------------------------------


def find(grid: Grid, runs: str | Path = "runs", results: str | Path = "results") -> dict[str, Path]:
    """Key -> folder of each of the grid's runs that is finished: in `runs`, made by today's code, or else among the committed records,
    whose code is whatever their commit says."""
    kept, out = _committed(str(place(results))), {}
    for run in grid.runs:
        folder = record.folder(run, place(runs))
        known = record.read(folder)
        if known is not None and known["status"] == "done":
            out[run.key] = folder
        else:
            same = [(found["code"] == record.code_of(run.identity()), found.get("finished", ""), path) for path, found in kept
                    if _same(run, found["config"])]
            if same:                                      # today's code first, then the latest
                out[run.key] = max(same, key=lambda item: item[:2])[2]
    return out


def missing(grid: Grid, found: dict[str, Path]) -> list[Run]:
    return [run for run in grid.runs if run.key not in found]


@functools.lru_cache(maxsize=4)
def _committed(results: str) -> list[tuple[Path, dict[str, Any]]]:
    """The finished runs below a folder: (folder, run.json)."""
    files = sorted(Path(results).rglob("run.json"))
    loaded = [(file.parent, json.loads(file.read_text(encoding="utf-8"))) for file in files]
    return [(path, run) for path, run in loaded if run["status"] == "done"]


def _same(run: Run, config: dict[str, Any]) -> bool:
    """Whether a record is of this configuration; fields and options that came later count as what they were before: their defaults."""
    if (run.dataset, run.method, run.seed, run.profile) != tuple(config.get(k) for k in ("dataset", "method", "seed", "profile")):
        return False
    def equal(a: dict[str, Any], b: dict[str, Any], usual: dict[str, Any]) -> bool:
        return all(a.get(k, usual.get(k)) == b.get(k, usual.get(k)) for k in a.keys() | b.keys())
    mine, kept = ({k: v for k, v in c.items() if k != "options"} for c in (run.identity(), config))
    options = {f.name: f.default for f in dataclasses.fields(run.method_class().Config)}
    return equal(mine, kept, {f.name: f.default for f in dataclasses.fields(Run)}) and equal(run.options, config["options"], options)


# ---- published numbers -----------------------------------------------------------------------------------------------------------------

SETS = {"cifar10": "CIFAR-10-LT", "cifar100": "CIFAR-100-LT", "stl10": "STL10-LT", "imagenet127": "ImageNet-127"}
PUBLISHED_NAMES = {"supervised": "Supervised", "la": "LA", "crestplus": "CReST+", "metaexpert": "Meta-Expert"}
PUBLISHED_METRICS = {"accuracy": ("top1_acc_imbalanced_test",), "balanced_accuracy": ("balanced_acc",),
                     "accuracy_50": ("top1_acc_balanced_test",)}


@functools.lru_cache(maxsize=1)
def published() -> list[dict[str, str]]:
    """The rows of results/published.csv; its columns are explained in results/README.md."""
    with open(home() / "results" / "published.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published_for(run: Run, name: str, metric: str = "balanced_accuracy") -> list[dict[str, str]]:
    """Published numbers of a run's method in the run's cell, under the run's metric, one row a source."""
    if run.dataset not in SETS or run.add or run.post_hoc or run.holdout or not _is_plain(run):
        return []
    uniform = run.order == "uniform"
    wanted = {"dataset": SETS[run.dataset], "image_size": str(run.side), "method": PUBLISHED_NAMES.get(run.method, name)}
    if run.dataset != "imagenet127":
        wanted.update(n1=str(run.n1), gamma_l=f"{run.gamma_l:g}")
    if run.dataset.startswith("cifar"):
        ratio = {"consistent": f"{run.gamma_u:g}", "reversed": f"1/{run.gamma_u:g}"}.get(run.order, f"{run.gamma_u:g} ({run.order})")
        wanted.update(m1=str(run.m1), gamma_u="1" if uniform else ratio)
    base = {"remixmatch": "ReMixMatch"}.get(run.base, "none" if run.method in ("supervised", "la") and not run.base else "FixMatch")
    wide = run.dataset == "imagenet127"
    return [row for row in published() if all(row[k] == v for k, v in wanted.items())
            and row["base_ssl"].split(" ")[0].removesuffix("-style") == base and (wide or row["backbone"] == "WRN-28-2")
            and (not wide or row["metric"] in PUBLISHED_METRICS[metric])]


def _is_plain(run: Run) -> bool:
    return run.options == Run.of(run.dataset, run.method, base=run.base, n1=run.n1, m1=run.m1, gamma_l=run.gamma_l, gamma_u=run.gamma_u,
                                 order=run.order, profile=run.profile, recipe=run.recipe).options


# ---- sheets ------------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Sheet:
    """One printed table. frame: a row a line, numbers in per cent and percentage points; seeds: a row a run; notes: the footnotes."""

    title: str
    metric: str
    frame: pd.DataFrame
    seeds: pd.DataFrame
    sources: list[str]
    notes: list[str]

    def cells(self, mark: str = "") -> list[list[str]]:
        """As strings, header first. mark: what stands around a bold number."""
        groups = self.metric == "balanced_accuracy"
        compared = (self.frame["against"] != "").any()
        head = ["", f"{METRICS[self.metric]} %", "n", *(GROUPS if groups else ()), *(["difference"] if compared else ()), "rule",
                *string.ascii_lowercase[:len(self.sources)]]
        out = [head]
        for row in self.frame.itertuples():
            number = DASH if math.isnan(row.mean) else f"{row.mean:.1f}" + ("" if math.isnan(row.spread) else f" ± {row.spread:.1f}")
            n = f"{row.done}" if row.done == row.runs else f"{row.done}/{row.runs}, {row.state}"
            out.append([row.row, f"{mark}{number}{mark}" if row.bold else number, n,
                        *((DASH if math.isnan(row.head) else f"{getattr(row, g):.1f}" for g in GROUPS) if groups else ()),
                        *([row.difference or DASH] if compared else ()), row.rule or DASH,
                        *(row.published.get(s, DASH) for s in self.sources)])
        return out

    @property
    def text(self) -> str:
        cells = self.cells("**")
        wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, wide, strict=True))).rstrip()
                 for row in cells]
        rule = "-" * (sum(wide) + 2 * (len(wide) - 1))
        notes = [line for note in self.notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
        return "\n".join([self.title.replace("; ", "\n", 1), "", lines[0], rule, *lines[1:], rule, *notes, ""])

    @property
    def markdown(self) -> str:
        cells = [[c.replace("|", "\\|") for c in row] for row in self.cells("**")]
        marks = ["---", *["--:"] * (len(cells[0]) - 1)]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in [cells[0], marks, *cells[1:]]), "",
                          *(f"- {note}" for note in self.notes)]) + "\n"

    @property
    def long(self) -> pd.DataFrame:
        """A row a run, with the sheet's title."""
        return self.seeds.assign(table=self.title)


def sheets(grid: Grid, found: dict[str, Path], runs: str | Path = "runs") -> list[Sheet]:
    """The grid's printed tables, one for each section and column, in order."""
    places = list(dict.fromkeys((e.column, e.section) for e in grid.entries))
    return [_sheet(grid, [e for e in grid.entries if (e.column, e.section) == place_], found, runs) for place_ in places]


def _sheet(grid: Grid, entries: list[Entry], found: dict[str, Path], runs: str | Path) -> Sheet:
    first = entries[0]
    seeds = pd.DataFrame([line for entry in entries for line in _lines(entry, found, runs)])
    scores = {name: dict(zip(part["seed"], part["score"], strict=True)) for name, part in seeds.dropna(subset=["score"]).groupby("row")}
    literature = {entry.row: published_for(entry.runs[0], entry.row, entry.metric) for entry in entries}
    sources = list(dict.fromkeys(row["source_paper"] for rows in literature.values() for row in rows))
    best = _best(scores)
    rows = []
    for entry in entries:
        part = seeds[seeds["row"] == entry.row]
        done, values = part.dropna(subset=["score"]), scores.get(entry.row, {})
        numbers_ = [100 * v for v in values.values()]
        states = Counter(part.loc[part["score"].isna(), "state"])
        rows.append({
            "row": entry.row, "mean": statistics.fmean(numbers_) if numbers_ else math.nan,
            "spread": statistics.stdev(numbers_) if len(numbers_) > 1 else math.nan, "done": len(numbers_), "runs": len(entry.runs),
            "state": ", ".join(f"{n} {state}" for state, n in states.items()), **{g: 100 * done[g].mean() for g in GROUPS},
            "rule": "; ".join(sorted(set(done["rule"]))), "against": entry.against,
            **_difference(values, scores.get(entry.against, {}) if entry.against else {}), "bold": entry.row == best,
            "published": _by_source(literature[entry.row])})
    title = f"{grid.title}; {first.column}" + (f"; {first.section}" if first.section else "")
    frame = pd.DataFrame(rows)
    return Sheet(title, first.metric, frame, seeds, sources, _notes(first, frame, seeds, sources, literature, found))


def _lines(entry: Entry, found: dict[str, Path], runs: str | Path) -> list[dict[str, Any]]:
    """A row a run of an entry: its state and, if it is done, its numbers (shares in [0, 1])."""
    out = []
    for run in entry.runs:
        line: dict[str, Any] = {"section": entry.section, "row": entry.row, "column": entry.column, "seed": run.seed, "name": run.name,
                                "key": run.key, "metric": entry.metric, "state": "done", "score": math.nan, "rule": "", "code": "",
                                "split": "", "commit": "", **dict.fromkeys((*GROUPS, "minutes"), math.nan)}
        folder = found.get(run.key)
        if folder is None:
            line["state"] = record.state(run, place(runs))
        else:
            kept = load(folder)
            line.update(_measured(kept, entry.metric), code=kept.run["code"], split=kept.run["split"].get("fingerprint", "")[:8],
                        commit=(kept.run.get("commit") or "")[:8], minutes=kept.run["seconds"] / 60)
        out.append(line)
    return out


def _measured(kept: Record, metric: str) -> dict[str, Any]:
    means = result_of(kept)
    if metric == "balanced_accuracy":
        return {"score": means["mean_last"], "rule": _short(means["rule"]), **{g: means[g] for g in GROUPS}}
    if metric not in kept.log[-1]:
        return {"state": f"no {metric} in its record"}
    other = metrics.summary(kept.log, metric)
    return {"score": other["mean_last"], "rule": _short(other["rule"]), **{g: means[g] for g in GROUPS}}


def _difference(values: dict[int, float], reference: dict[int, float]) -> dict[str, Any]:
    """Paired over the seeds that both have, in percentage points: mean, and as text with what can be said of it."""
    pairs = [100 * (values[s] - reference[s]) for s in sorted(values.keys() & reference.keys())]
    if not pairs:
        return {"gain": math.nan, "low": math.nan, "high": math.nan, "difference": ""}
    gain = statistics.fmean(pairs)
    if len(pairs) == 1:
        return {"gain": gain, "low": math.nan, "high": math.nan, "difference": f"{gain:+.1f}"}
    if len(pairs) == 2:
        return {"gain": gain, "low": min(pairs), "high": max(pairs), "difference": f"{gain:+.1f} ({min(pairs):+.1f}, {max(pairs):+.1f})"}
    from scipy import stats
    half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    low, high = gain - half, gain + half
    sure = "" if low <= 0 <= high else " *"
    return {"gain": gain, "low": low, "high": high, "difference": f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]{sure}"}


def _best(scores: dict[str, dict[int, float]]) -> str:
    """The row whose worst seed is above every other row's best; "" if seeds overlap, or if a row has but one seed."""
    if len(scores) < 2 or min(len(v) for v in scores.values()) < 2:
        return ""
    top = max(scores, key=lambda name: min(scores[name].values()))
    others = max(max(v.values()) for name, v in scores.items() if name != top)
    return top if min(scores[top].values()) > others else ""


RULES = {"best checkpoint": "best", "mean of the last 20": "mean of 20", "median of the last 20": "median of 20", "last evaluation": "last"}


def _by_source(rows: list[dict[str, str]]) -> dict[str, str]:
    out: dict[str, str] = {}
    for row in rows:
        value = row["mean"] + (f" ± {float(row['std']):g}" if row["std"] else "")
        value += next((f" ({short})" for words, short in RULES.items() if words in row["notes"] and len(rows) > 1), "")
        out[row["source_paper"]] = f"{out[row['source_paper']]}; {value}" if row["source_paper"] in out else value
    return out


def _notes(first: Entry, frame: pd.DataFrame, seeds: pd.DataFrame, sources: list[str], literature: dict[str, list[dict[str, str]]],
           found: dict[str, Path]) -> list[str]:
    run, notes = first.runs[0], []
    notes.append(f"Scale: {run.cell}, {run.steps:,} steps of profile {run.profile}, batch {run.batch} + {run.mu * run.batch}, "
                 f"{run.network}, recipe {run.recipe}; n seeds, one split for all of them; ± is the standard deviation over seeds.")
    if first.metric == "balanced_accuracy":
        notes.append("Head, medium, tail: mean recall (%) of the classes with most, middling and fewest labels.")
    against = [a for a in dict.fromkeys(frame["against"]) if a]
    if against:
        what = against[0] if len(against) == 1 else "the row that it changes"
        notes.append(f"Difference: this row less {what}, seed by seed, percentage points; with three seeds or more the 95 % interval of "
                     "Student's t over the pairs, * where it leaves out 0; it is not corrected for the number of rows.")
    if frame["bold"].any():
        notes.append("Bold: its worst seed is above every other row's best.")
    left = [f"{row.row} ({row.state})" for row in frame.itertuples() if row.done < row.runs]
    if left:
        notes.append(f"Not all runs are done: {', '.join(left)}.")
    for line in seeds[seeds["key"].isin(found)].itertuples():
        notes += never_acted(load(found[line.key]), f"{line.row} seed {line.seed}")
    for letter, source in zip(string.ascii_lowercase, sources, strict=False):
        rows = [r for rows in literature.values() for r in rows if r["source_paper"] == source]
        what = "; ".join(dict.fromkeys(r["notes"] for r in rows))
        notes.append(f"{letter}: {source}, {rows[0]['source_location']}: {what}.")
    prints = {s for s in seeds["split"] if s}
    if len(prints) > 1:
        notes.append(f"Not one split: the records hold {', '.join(sorted(prints))}. Their numbers are not comparable.")
    mixed = [name for name, part in seeds[seeds["code"] != ""].groupby("row", sort=False) if part["code"].nunique() > 1]
    if mixed:
        notes.append(f"Seeds run by different code: {', '.join(mixed)}.")
    commits = sorted({c for c in seeds["commit"] if c})
    if commits:
        notes.append(f"Records: {seeds['score'].notna().sum()} of {len(seeds)} runs, code of commit {', '.join(commits)}; each run's "
                     "numbers are in the CSV.")
    return notes


def write(made: list[Sheet], path: str | Path) -> tuple[Path, Path]:
    """NAME.csv (a row a run) and NAME.md (all tables); returns both paths."""
    base = stem(path, ".csv", ".md")
    long, short = base.with_name(base.name + ".csv"), base.with_name(base.name + ".md")
    write_bytes(long, as_csv(pd.concat([sheet.long for sheet in made], ignore_index=True)))
    write_bytes(short, "\n".join(sheet.markdown for sheet in made).encode("utf-8"))
    return long, short
