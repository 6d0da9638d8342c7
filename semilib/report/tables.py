"""From run folders to tables. Needs neither torch nor a GPU, so that every published number can be recomputed anywhere.

    records = load_all(sorted(Path("results").iterdir()))
    frame, text = made = table(records)
    write(made, "results/quickstart")          # quickstart.csv: every run in long form; quickstart.md: the table

`results` gives shares in [0, 1], as the logs hold them; `table` gives per cent. Every number is computed from the log and has
to agree with the result that the run left in its run.json.
"""
from __future__ import annotations

import json
import math
import os
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semilib.errors import BadInput
from semilib.methods import ADDITIONS, METHODS, title_of
from semilib.training import metrics

METRIC = "balanced_accuracy"
POST_HOC, NUMBER = "posthoc", r"[0-9.]+(e[+-]?[0-9]+)?"           # of a label's part such as posthoc0.5
GROUPS = ("head", "medium", "tail")
DASH = "–"
LEFT = (0, 2, 6)                # columns of the shown table that hold words: method, n, rule
WIDTH = 96                     # characters of a footnote's line in the plain text

# What the brackets of a label do not tell: the seed, the scale (never mixed), what stands before them (`Run.label`), and fields that
# say where a run happens and not what it is.
SCALE = ("dataset", "n1", "m1", "gamma_l", "gamma_u", "order", "labelled_in_unlabelled", "labelled_share", "holdout", "side", "split_seed",
         "profile", "recipe", "steps")
UNTOLD = {*SCALE, "method", "base", "add", "post_hoc", "options", "seed", "root", "data_on", "keep_seconds", "device", "capture",
          "deterministic"}


# ---- records ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Record:
    """A run as its folder tells it. run: run.json; log: the evaluations, in order."""

    run: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def cell(self) -> str:
        """The protocol in a word, such as cifar10-lt.n1500.m3000.g100-100."""
        return re.sub(r"\.s\d+$", "", self.run["name"].split("/")[0])

    @property
    def method(self) -> str:
        """The method with its base, additions and adjustment, as `Run.label` has it: `semi`, `remixmatch+abc`, `acr+oheml+plce`."""
        return self.run["name"].split("/")[1]

    @property
    def seed(self) -> int:
        return int(self.run["name"].split("/")[0].rsplit(".s", 1)[1])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; empty for a run that was never started."""
        return self.run.get("config", {})

    @property
    def recipe(self) -> str:
        """shared or original; records of before there was a choice are shared."""
        return self.config.get("recipe", "shared")

    @property
    def done(self) -> bool:
        return self.run["status"] == "done"

    @property
    def id(self) -> str:
        """Key and code, as in the folder's name."""
        return f"{self.run['key']}-{self.run['code'] or 'unknown'}"

    @property
    def groups(self) -> dict[str, list[int]]:
        """The classes of head, medium and tail, each from the largest to the smallest labelled class."""
        counts = self.run["split"]["labelled_counts"]
        order = metrics.by_size(counts)
        return {name: order[part] for name, part in metrics.class_groups(len(counts)).items()}


def load(folder: str | Path) -> Record:
    """Read a run's folder, under runs/ or results/; the log may be missing or cut short. Raises BadInput without a run.json."""
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise BadInput("folder", folder.name, "a run's folder, which holds run.json")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    log = folder / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    return Record(run, [json.loads(line) for line in lines if line.endswith("\n")])


def load_all(folders: Iterable[str | Path]) -> list[Record]:
    """Read several folders. One that holds no run.json counts as a run that was not started, if its name is a run's:
    CELL.sSEED/METHOD-KEY-CODE or CELL.sSEED_METHOD-KEY."""
    return [load(folder) if (Path(folder) / "run.json").is_file() else _not_started(Path(folder)) for folder in folders]


def _not_started(folder: Path) -> Record:
    ends = r"(?P<cell>[^/_]+\.s\d+)[/_](?P<method>[^/]+?)-(?P<key>[0-9a-f]{8})(-(?P<code>[0-9a-f]{8}))?"
    found = re.search(rf"(^|/){ends}$", folder.as_posix())
    if found is None:
        raise BadInput("folder", folder.name, "a run's folder, which holds run.json")
    return Record({"name": f"{found['cell']}/{found['method']}", "key": found["key"], "code": found["code"] or "",
                   "status": "not started"})


# ---- labels and scale ------------------------------------------------------------------------------------------------


def labels(records: list[Record]) -> list[str]:
    """Each record's label: its method, and in brackets the options and settings that tell it from the other records.

    An option is told where a method's runs differ in it, a setting of the recipe (rate, network, ...) where any runs differ
    (under the original recipes, which differ by nature, where a method's runs do); the value that most variants share is left out.
    A preset stands for its options. So an ablation reads `semi`, `semi (oheml=off)`.
    """
    known = [r for r in records if r.config]
    recipe: dict[int, list[str]] = {}
    for among in dict.fromkeys((r.recipe, r.method if r.recipe == "original" else "") for r in known):
        same = [i for i, r in enumerate(known) if r.recipe == among[0] and among[1] in ("", r.method)]
        settings = [{k: v for k, v in known[i].config.items() if k not in UNTOLD} for i in same]
        recipe.update(zip(same, _told(settings), strict=True))
    found: dict[int, str] = {}
    for method in dict.fromkeys(r.method for r in known):
        own = [i for i, r in enumerate(known) if r.method == method]
        presets = {known[i].config["options"].get("preset") for i in own}
        for preset in presets:
            same = [i for i in own if known[i].config["options"].get("preset") == preset]
            options = _told([known[i].config["options"] for i in same])
            for i, told in zip(same, options, strict=True):
                parts = ([f"preset={preset}"] if len(presets) > 1 else []) + told + recipe[i]
                found[id(known[i])] = f"{method} ({', '.join(parts)})" if parts else method
    by_method: dict[str, set[str]] = {}
    for r in known:
        by_method.setdefault(r.method, set()).add(found[id(r)])
    for r in records:
        if not r.config:            # which variant a run would have been is in its key alone
            others = by_method.get(r.method, {r.method})
            found[id(r)] = next(iter(others)) if len(others) == 1 else f"{r.method} ({r.run['key']})"
    return [found[id(r)] for r in records]


def _told(values: list[dict[str, Any]]) -> list[list[str]]:
    """For each dictionary, `name=value` of what differs among the distinct ones, but for values that more than half share."""
    distinct = list({json.dumps(v, sort_keys=True): v for v in values}.values())
    usual: dict[str, str | None] = {}
    for name in dict.fromkeys(n for v in distinct for n in v):
        count = Counter(json.dumps(v.get(name), sort_keys=True) for v in distinct)
        if len(count) > 1:
            value, n = count.most_common(1)[0]
            usual[name] = value if 2 * n > len(distinct) else None
    return [[f"{name}={_plain(v.get(name))}" for name, most in usual.items() if json.dumps(v.get(name), sort_keys=True) != most]
            for v in values]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def ordered(records: list[Record]) -> list[Record]:
    """The records by method, those of `METHODS` first and in its order, each before what is combined with it; otherwise in the order
    given."""
    place = {method: i for i, method in enumerate(METHODS)}

    def key(record: Record) -> tuple[int, bool]:
        parts = record.method.split("+")
        method = [p for p in parts if p not in ADDITIONS and not p.startswith(POST_HOC)][-1:] or parts[:1]
        return place.get(method[0], len(place)), len(parts) > 1
    return sorted(records, key=key)


def display(label: str) -> str:
    """A label with written names: `semi (oheml=off)` reads `SeMi (oheml=off)`, `remixmatch+abc` `ReMixMatch + ABC`, and
    `fixmatch+posthoc1` `FixMatch + LA (post-hoc)`."""
    method, _, rest = label.partition(" ")
    return " ".join(part for part in (" + ".join(_written(part) for part in method.split("+")), rest) if part)


def _written(part: str) -> str:
    """One part of a label before its brackets: a method, one of SeMi's modules, or post-hoc adjustment with its tau."""
    if re.fullmatch(POST_HOC + NUMBER, part):
        tau = part.removeprefix(POST_HOC)
        return "LA (post-hoc)" if tau == "1" else f"LA (post-hoc, tau={tau})"
    return title_of(part)


def scale(records: list[Record]) -> str:
    """What every number of these records rests on: cell, steps, profile and, if it is not the shared one, recipe in a phrase.

    Raises BadInput if they are of different cells, splits, profiles, recipes or lengths, or if two are the same seed of the same
    label: such records do not belong in one table or figure.
    """
    if not records:
        raise BadInput("records", [], "at least one record")
    known = [r for r in records if r.config]
    for name, values in {"cell": [r.cell for r in records], "profile": [r.config["profile"] for r in known],
                         "recipe": [r.recipe for r in known], "steps": [r.config["steps"] for r in known],
                         "split": [r.run["split"]["fingerprint"][:8] for r in known]}.items():
        if len(set(values)) > 1:
            raise BadInput(name, sorted(set(values)), "one for all records: numbers of different scales are not comparable and "
                                                      "never share a table or figure")
    for (label, seed), n in Counter(zip(labels(records), (r.seed for r in records), strict=True)).items():
        if n > 1:
            raise BadInput("records", f"{label}, seed {seed}, {n} times", "one a seed: choose one code and configuration")
    if not known:
        return records[0].cell
    own = ", each method's original recipe" if known[0].recipe == "original" else ""
    return f"{records[0].cell}, {known[0].config['steps']:,} steps of profile {known[0].config['profile']}{own}"


# ---- numbers ---------------------------------------------------------------------------------------------------------


def window(record: Record) -> list[dict[str, Any]]:
    """The evaluations that a reported number averages: the last 20, or all if there are fewer."""
    return record.log[-metrics.summary(record.log)["evaluations_averaged"]:]


def recalls(record: Record) -> np.ndarray:
    """Recall of each class in [0, 1], the mean over `window`: [C]; NaN for a class without test images."""
    return np.array([[math.nan if r is None else r for r in e["recall"]] for e in window(record)], dtype=float).mean(0)


def result_of(record: Record) -> dict[str, Any]:
    """A finished run's numbers, shares in [0, 1]. Raises BadInput if its log does not give the result kept in run.json."""
    found = metrics.summary(record.log, METRIC) if record.log else {}
    kept = record.run["result"]
    steps = record.log[-1]["step"] if record.log else 0
    if steps != record.config["steps"] or any(not math.isclose(found[k], kept[k], abs_tol=1e-9)
                                               for k in ("mean_last", "median_last", "last", "best_on_test")):
        raise BadInput("record", f"{record.run['name']}, {record.id}", "a log that gives the result kept in run.json: one of "
                                                                       "the two files is damaged or not of this run")
    means = {}
    for name in (*GROUPS, "geometric_mean"):
        values = [e[name] for e in window(record)]
        means[name] = math.nan if None in values else statistics.fmean(values)
    return {"rule": found["rule"], **{k: found[k] for k in ("mean_last", "median_last", "last", "best_on_test")}, **means}


def _report(record: Record) -> str:
    """Which of a finished run's numbers its recipe reports."""
    return record.run["result"].get("report", "mean_last") if record.done else ""


def results(records: list[Record]) -> pd.DataFrame:
    """One row a run, in the order given. mean_last, median_last, last and best_on_test are of `metric`; head, medium, tail and
    geometric_mean are means over the same evaluations as mean_last. All are shares in [0, 1], NaN unless the status is "done".
    best_on_test picks by the test set: it is here for comparison with papers that report it, and in no column of a table. report:
    which of them the run's recipe reports. seconds: training and evaluation. code: fingerprint of the code that ran; drawn_by: how
    the split was drawn."""
    empty = dict.fromkeys(("mean_last", "median_last", "last", "best_on_test", *GROUPS, "geometric_mean"), math.nan)
    rows = []
    for record, label in zip(records, labels(records), strict=True):
        run, resolved, split = record.run, record.run.get("resolved", {}), record.run.get("split", {})
        rows.append({
            "cell": record.cell, "method": record.method, "label": label, "seed": record.seed,
            "steps": record.config.get("steps", math.nan), "profile": record.config.get("profile", ""),
            "status": run["status"], "metric": METRIC, "rule": "", "report": _report(record),
            **(result_of(record) if record.done else empty),
            "seconds": run["seconds"] if record.done else math.nan,
            "key": run["key"], "code": run["code"], "commit": run.get("commit") or "", "dirty": run.get("dirty", ""),
            "device": resolved.get("device", ""), "precision": resolved.get("precision", ""),
            "drawn_by": split.get("drawn_by", ""), "split": split.get("fingerprint", "")[:8], "error": run.get("error", ""),
        })
    columns = ["cell", "method", "label", "seed", "steps", "profile", "status", "metric", "rule", *empty, "report", "seconds", "key",
               "code", "commit", "dirty", "device", "precision", "drawn_by", "split", "error"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"steps": "Int64"})          # a run that was not started has none


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A table and what it was made of; unpacks as (frame, text).

    frame: one row a label, per cent and percentage points: balanced_accuracy, spread (standard deviation over seeds, NaN for a
    single one), done and runs (how many finished, of how many), unfinished (what happened to the others), head, medium, tail,
    rule, minutes a run, step_seconds: the same over the steps, evaluations included. text: the same for a notebook's output, title
    first, footnotes last. seeds: `results`, a row a run.
    notes: the footnotes. digits: decimals shown.
    """

    title: str
    frame: pd.DataFrame
    notes: list[str]
    seeds: pd.DataFrame
    digits: int

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frame, self.text))

    def cells(self) -> list[list[str]]:
        """The table as strings, header first; a dash stands for what is not there."""
        head = ["method", "balanced accuracy %", "n", "head", "medium", "tail", "rule", "minutes", "s a step"]
        rows = []
        for row in self.frame.itertuples():
            spread = "" if math.isnan(row.spread) else f" ± {row.spread:.{self.digits}f}"
            n = f"{row.done}" if row.done == row.runs else f"{row.done}/{row.runs}, {row.unfinished}"
            rows.append([display(row.label), self._number(row.balanced_accuracy) + spread, n,
                         *(self._number(getattr(row, g)) for g in GROUPS), row.rule or DASH, self._number(row.minutes, 1),
                         self._number(row.step_seconds, 3)])
        return [head, *rows]

    def _number(self, value: float, digits: int | None = None) -> str:
        return DASH if math.isnan(value) else f"{value:.{self.digits if digits is None else digits}f}"

    @property
    def text(self) -> str:
        cells = self.cells()
        wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) if i in LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(row, wide, strict=True)))
                 for row in cells]
        lines = [line.rstrip() for line in lines]
        rule = "-" * (sum(wide) + 2 * (len(wide) - 1))
        notes = [line for note in self.notes
                 for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
        return "\n".join([self.title, "", lines[0], rule, *lines[1:], rule, *notes])

    @property
    def markdown(self) -> str:
        cells = [[c.replace("|", "\\|") for c in row] for row in self.cells()]
        marks = ["---" if i in LEFT else "--:" for i in range(len(cells[0]))]
        rows = [f"| {' | '.join(row)} |" for row in [cells[0], marks, *cells[1:]]]
        return "\n".join([self.title, "", *rows, "", *(f"- {note}" for note in self.notes)]) + "\n"


def table(records: list[Record], title: str = "") -> Table:
    """One row a label, in the order of `ordered`; `frame, text = table(records)`.

    The title comes first; the scale (cell, steps, profile) is added to it unless it holds it already. Runs that are not done
    are counted and named, and their numbers are left out. Raises BadInput as `scale` does.
    """
    scaled, records = scale(records), ordered(records)
    title = title if scaled in title else f"{title}: {scaled}" if title else scaled
    seeds = results(records)
    rows = [_row(label, group) for label, group in seeds.groupby("label", sort=False)]
    images = [r.run["split"]["test_images"] for r in records if r.config]
    return Table(title, pd.DataFrame(rows), _notes(records, seeds), seeds, 2 if images and images[0] >= 10_000 else 1)


def _row(label: str, group: pd.DataFrame) -> dict[str, Any]:
    done = group[group["status"] == "done"]
    left = Counter("unfinished" if s == "running" else s for s in group["status"] if s != "done")
    values = 100 * done["mean_last"]
    return {"label": label, "balanced_accuracy": values.mean(), "spread": values.std(ddof=1), "done": len(done),
            "runs": len(group), "unfinished": ", ".join(f"{n} {s}" for s, n in left.items()),
            **{g: 100 * done[g].mean() for g in GROUPS},
            "rule": "; ".join(sorted({_short(rule) for rule in done["rule"]})), "minutes": done["seconds"].mean() / 60,
            "step_seconds": (done["seconds"] / done["steps"].astype(float)).mean()}


def _short(rule: str) -> str:
    """A rule as the table's column has it: `last 20`, `all 4`."""
    return re.sub(r"^mean of (the )?| evaluations$", "", rule)


def _notes(records: list[Record], seeds: pd.DataFrame) -> list[str]:
    done, known, notes = [r for r in records if r.done], [r for r in records if r.config], []
    for rule in dict.fromkeys(metrics.summary(r.log)["rule"] for r in done):
        spans = sorted({(window(r)[0]["step"], window(r)[-1]["step"]) for r in done if metrics.summary(r.log)["rule"] == rule})
        steps = " or ".join(f"steps {a:,} to {b:,}" for a, b in spans)
        notes.append(f"Balanced accuracy: mean recall of the classes, test set; {rule} of the averaged network ({steps}).")
    if known:
        counts = known[0].run["split"]["labelled_counts"]
        sizes = [part.stop - part.start for part in metrics.class_groups(len(counts)).values()]
        if min(sizes) > 0:
            notes.append(f"Head, medium, tail: mean recall (%) of the {sizes[0]} largest, {sizes[1]} middle and {sizes[2]} "
                         f"smallest classes by labelled count, same evaluations.")
    if (seeds[seeds["status"] == "done"].groupby("label").size() > 1).any():
        notes.append("±: standard deviation over the n seeds (n - 1 in the denominator). A number without it is a single run.")
    else:
        notes.append("Single runs: no spread is known.")
    notes += _own_reports(seeds[seeds["status"] == "done"])
    notes += [_split_note(known[0])] if known else []
    notes += _machines(known)
    for record, label in zip(records, labels(records), strict=True):
        if not record.done:
            error = f" ({record.run['error']})" if record.run.get("error") else ""
            notes.append(f"Not in the numbers: {display(label)} seed {record.seed}, "
                         f"{record.run['status'].replace('running', 'unfinished')}{error}.")
        notes += never_acted(record, f"{display(label)} seed {record.seed}")
    for label, group in seeds.groupby("label", sort=False):
        ids = [f"s{row.seed}:{row.key}-{row.code or 'unknown'}" for row in group.itertuples()]
        mixed = " These runs are of different code." if group["code"].nunique() > 1 else ""
        notes.append(f"Runs (seed:key-code) of {display(label)}: {', '.join(ids)}.{mixed}")
    return notes


def never_acted(record: Record, name: str) -> list[str]:
    """A footnote for each part of a finished run's method that acted in no step. Older records held no such run."""
    parts = record.run["result"].get("never_acted", {}) if record.done else {}
    return [f"Never acted in {name}: {part} ({advice})." for part, advice in parts.items()]


def _own_reports(done: pd.DataFrame) -> list[str]:
    """Where a recipe reports another number than the table's column: that number, beside it and not in its place."""
    words = {"median_last": "median of the evaluations averaged here", "last": "last evaluation",
             "best_on_test": "best evaluation, picked by the test set"}
    found = [f"{display(label)} {100 * group[report].mean():.2f} ({words[report]})"
             for (label, report), group in done.groupby(["label", "report"], sort=False) if report in words]
    return [f"As their own recipes report them (%): {', '.join(found)}."] if found else []


def _split_note(record: Record) -> str:
    split, drawn = record.run["split"], record.run["split"]["drawn_by"]
    how = ("the first images of each class in file order" if drawn == "file order" else f"drawn with split {drawn}")
    pool = f"{sum(split['unlabelled_counts']):,} unlabelled images of known class" if sum(split["unlabelled_counts"]) else \
        "unlabelled images of unknown class"
    inside = " (labelled ones included)" if record.config["labelled_in_unlabelled"] else " (no labelled one among them)"
    return (f"One split for all seeds: {how}; {sum(split['labelled_counts']):,} labelled and {pool}{inside}, "
            f"{split['test_images']:,} test images.")


def _machines(known: list[Record]) -> list[str]:
    """The hardware behind the minutes."""
    resolved = [r.run["resolved"] for r in known if "resolved" in r.run]
    found = dict.fromkeys(f"{r['device']} in {r['precision']}" for r in resolved)
    what = "Minutes: training and evaluation of one run, mean over seeds; s a step: the same over its steps"
    return [f"{what}; on {', '.join(found)}."] if found else []


# ---- files -----------------------------------------------------------------------------------------------------------


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it there: a reader sees the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def stem(path: str | Path, *endings: str) -> Path:
    """A path without one of these endings; other dots are part of the name (cells have many)."""
    path = Path(path)
    return path.with_suffix("") if path.suffix in endings else path


def csv(frame: pd.DataFrame) -> bytes:
    """A frame as CSV: full precision, so that it reads back equal; nothing for a missing value."""
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8")


def write(made: Table, path: str | Path) -> tuple[Path, Path]:
    """Write NAME.csv (a row a run, `Table.seeds`) and NAME.md (the table and its footnotes); returns both paths."""
    base = stem(path, ".csv", ".md")
    long, short = base.with_name(base.name + ".csv"), base.with_name(base.name + ".md")
    write_bytes(long, csv(made.seeds))
    write_bytes(short, f"{made.markdown}- Every run's numbers: {long.name}.\n".encode())
    return long, short
