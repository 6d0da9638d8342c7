"""What the study on features answers: each claim of the paper as a question, and what the committed runs say to it.

    print(page(study()))                  # Markdown; figures/features/answers.md holds it

Every number and every word of a verdict is computed from the tables. A question whose runs are not there says so. A
difference is called one where Holm's p is below 0.05 among the comparisons of its answer.
"""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from semilib.errors import check_name
from semilib.methods import title_of
from semilib.report import frames, records
from semilib.report.table import Column, Table, column
from semilib.report.tables import mean_and_spread
from semilib.study import grids, probes, sheets
from semilib.study.differences import LEVEL, difference, holm, in_words

CONSISTENT, REVERSED = grids.FEATURES["table4"]                         # the two main cells
SHORT = {CONSISTENT: "consistent", REVERSED: "reversed"}
TABLES = ("table1", "table2", "table4", "table5", "table6")
Scores = dict[int, float]                                               # seed -> share


class Study(NamedTuple):
    """scores: (table, section, column, row) -> its finished runs. places: the same -> the record of each seed."""

    scores: dict[tuple[str, str, str, str], Scores]
    places: dict[tuple[str, str, str, str], dict[int, Path]]

    def of(self, table: str, column: str, row: str, section: str = "") -> Scores:
        return self.scores.get((table, section, column, row), {})


@dataclass
class Answer:
    """question: of the paper or of its reader. text: what the runs say. tables: what it rests on."""

    question: str
    text: list[str]
    tables: list[Table] = field(default_factory=list)

    @property
    def markdown(self) -> str:
        return "\n".join([f"## {self.question}", "", *(f"{line}\n" for line in self.text),
                          *(f"*{table.title}*\n\n{table.grid}" for table in self.tables)])


def study(runs: str | Path = "runs", results: str | Path = "results", root: str = "data") -> Study:
    """The finished runs of profile features, and scikit-learn's baselines beside them."""
    out = Study({}, {})
    for grid in main_cells(TABLES, root):
        table = grid.table
        folders = sheets.find(grid, runs, results)
        for entry in grid.entries:
            at = (table, entry.section, entry.column, entry.row)
            out.places[at] = {run.seed: folders[run.key] for run in entry.runs if run.key in folders}
            out.scores[at] = {seed: records.result_of(records.read(path))["mean_last"]
                              for seed, path in out.places[at].items()}
        if table in ("table1", "table2"):
            for name, entry in {entry.column: entry for entry in grid.entries}.items():
                for one in probes.rows(entry.runs):
                    out.scores.setdefault((table, "", name, one["row"]), {})[one["seed"]] = one["score"]
    return out


def main_cells(tables: Iterable[str], root: str = "data") -> list[grids.Grid]:
    """The main cells of tables, a grid a table."""
    return [grids.grid(table, "features", root=root, cells=[name for name in SHORT if name in grids.FEATURES[table]])
            for table in tables]


def whole_logs(of: Study, cell: str, rows: Iterable[str], seed: int) -> list[records.Record]:
    """The records of some rows in a main cell, those of which the whole log is kept. Raises BadInput for another
    cell."""
    names = {SHORT[name]: (table, name) for table, name in MAIN_CELLS}
    check_name("cell", cell, names)
    table, name = names[cell]
    kept = [of.places.get((table, "", name, row), {}).get(seed) for row in rows]
    return [record for record in records.load(filter(None, kept)) if not record.means]


def answers(of: Study) -> list[Answer]:
    """All questions, in the order of the page."""
    return [probe(of), hard_examples(of), bank(of), reversal(of), modules(of), defects(of), foundations(of)]


def page(of: Study) -> str:
    """The page of answers."""
    return "\n".join([HEAD, *(answer.markdown for answer in answers(of))])


HEAD = """# What the study on features shows

Every sentence below is about small networks on features of a frozen encoder that has seen ImageNet
([how](../../docs/features.md)): CIFAR-10-LT 1500/3000 at ratio 100, the unlabelled pool *consistent* with the labelled
one or *reversed*, 1,500 steps, each seed with a split of its own, settings of every method tuned alike. None says
anything of training from scratch. n is the number of seeds that both rows have; a star is Holm's p below 0.05 in its
table.
"""

# What the first page shows: the methods of every table, LA, and the baseline that each of them has to beat.
SUMMARISED = ("Supervised", "LA", *(title_of(method) for method in grids.MAIN[1:]), probes.TITLES["logistic-la"])


def summary(of: Study, rows: Iterable[str] = SUMMARISED) -> Table:
    """Some rows in both main cells: mean and standard deviation over seeds, and the seeds that both cells have."""
    lines = []
    for row in rows:
        scores = {SHORT[name]: of.of(table, name, row) for table, name in MAIN_CELLS}
        lines.append({"row": row, "seeds": len(set.intersection(*map(set, scores.values()))),
                      **{name: 100 * _share(values) for name, values in scores.items()},
                      **{f"{name}_spread": _spread(values) for name, values in scores.items()}})

    def shown(name: str) -> Column:
        return Column(f"pool {name}", lambda row: mean_and_spread(row[name], row[f"{name}_spread"], 1))
    return Table("CIFAR-10-LT 1500/3000, gamma 100",
                 [column("row", "balanced accuracy %", left=True), *map(shown, SHORT.values()),
                  column("seeds", "seeds", "{:d}".format)], pd.DataFrame(lines))


# ---- the questions ---------------------------------------------------------------------------------------------------


def probe(of: Study) -> Answer:
    """Methods against logistic regression on the labelled images less the log prior."""
    reference = probes.TITLES["logistic-la"]
    question = "Which methods beat a linear probe of the labelled images with logit adjustment?"
    tables, text = [], []
    for table, name in MAIN_CELLS:
        rows = [(row, scores) for (t, section, c, row), scores in of.scores.items()
                if (t, section, c) == (table, "", name) and row not in probes.TITLES.values() and scores]
        other = of.of(table, name, reference)
        if not rows or not other:
            text.append(_not_yet(f"{SHORT[name]} cell", table))
            continue
        shown = compared(f"{SHORT[name]} cell, less {reference} ({_mean(other)})",
                         [(row, scores, other) for row, scores in rows])
        better, worse = (shown.frame[(shown.frame["p_holm"] < LEVEL) & (sign * shown.frame["gain"] > 0)]["row"].tolist()
                         for sign in (1, -1))
        text.append(f"{SHORT[name].capitalize()}: of {len(rows)} methods {len(better)} are above it"
                    f"{_named(better)}, {len(worse)} below; the others are not told apart{_few(shown)}.")
        tables.append(shown)
    return Answer(question, text, tables)


def hard_examples(of: Study) -> Answer:
    """OHEML taken away and added alone, and the threshold."""
    without, alone = "SeMi without one component", "Each component alone"
    pairs = [(name, f"SeMi without OHEML, {SHORT[name]}", of.of("table4", name, "without OHEML", without),
              of.of("table4", name, "SeMi", without)) for name in SHORT]
    pairs += [(name, f"OHEML alone, less none of the components, {SHORT[name]}",
               of.of("table4", name, "OHEML alone", alone), of.of("table4", name, "none of them", alone))
              for name in SHORT]
    sweep = [(row, name, scores) for (table, section, name, row), scores in of.scores.items()
             if table == "table5" and section == "Sensitivity to tau" and scores]
    tables = _one_table("OHEML", pairs)
    text = _verdicts(pairs, tables, "table4")
    for name in SHORT:
        values = {row: _share(scores) for row, at, scores in sweep if at == name}
        if len(values) > 1:
            best = max(values, key=lambda row: values[row])
            text.append(f"Thresholds, {SHORT[name]}: best is {best} ({100 * values[best]:.1f}); "
                        + ", ".join(f"{row} {100 * value:.1f}" for row, value in values.items() if row != best) + ".")
    return Answer("Do hard examples help?", text, tables)


def bank(of: Study) -> Answer:
    """PLCE taken away and added alone, and how right the pseudo-labels of each class group are."""
    without, alone = "SeMi without one component", "Each component alone"
    pairs = [(name, f"SeMi {row}, {SHORT[name]}", of.of("table4", name, row, without),
              of.of("table4", name, "SeMi", without)) for name in SHORT
             for row in ("without PLCE", "without bank decay", "without bank balance")]
    pairs += [(name, f"PLCE alone, less none of the components, {SHORT[name]}",
               of.of("table4", name, "PLCE alone", alone), of.of("table4", name, "none of them", alone))
              for name in SHORT]
    quality = pd.DataFrame([row for name in SHORT for kept in ("SeMi", "without PLCE")
                            for row in _pseudo_labels(of, name, kept)])
    tables = _one_table("PLCE and its bank", pairs)
    text = _verdicts(pairs, tables, "table4")
    if len(quality):
        per_cent = "{:.1f}".format
        tables.append(Table("Pseudo-labels that counted in the evaluations averaged, seed 0: right, and found of the "
                            "images shown, %", [column("variant", "", left=True), column("group", "classes", left=True),
                                                column("precision", "right", per_cent),
                                                column("recall", "found", per_cent)], quality))
    return Answer("Does the memory bank make pseudo-labels more reliable?", text, tables)


def reversal(of: Study) -> Answer:
    """SeMi less each baseline in both cells."""
    semi = {name: of.of(table, name, "SeMi") for table, name in MAIN_CELLS}
    rows: list[dict[str, Any]] = []
    for row in dict.fromkeys(row for (t, section, c, row) in of.scores if (t, c) == MAIN_CELLS[0] and row != "SeMi"):
        theirs = {name: of.of(table, name, row) for table, name in MAIN_CELLS}
        if all(semi[name] and theirs[name] for name in SHORT):
            gains = {SHORT[name]: difference(semi[name], theirs[name]) for name in SHORT}
            base = _share({seed: theirs[REVERSED][seed] for seed in theirs[REVERSED] if seed in semi[REVERSED]})
            rows.append({"row": row, **{k: in_words(pd.Series({**g, "p_holm": math.nan})) for k, g in gains.items()},
                         "more": gains["reversed"]["gain"] - gains["consistent"]["gain"],
                         "relative": gains["reversed"]["gain"] / base})
    if not rows:
        return Answer(REVERSAL, [_not_yet("both main cells", "table1 table2")])
    frame = pd.DataFrame(rows)
    larger = int((frame["more"] > 0).sum())
    candidate = frame.loc[frame["relative"].idxmax()]
    text = [f"SeMi's distance grows from the consistent to the reversed pool over {larger} of {len(frame)} rows.",
            "The paper speaks of about 54.8 % over baselines that it does not name. Here the largest relative distance "
            f"in the reversed cell is {candidate['relative']:+.1f} %, over {candidate['row']}; the table has all."]
    shown = Table("SeMi less each row, percentage points", [
        column("row", "", left=True), column("consistent", "consistent"), column("reversed", "reversed"),
        column("more", "more", "{:+.1f}".format), column("relative", "reversed, relative %", "{:+.1f}".format)], frame)
    return Answer(REVERSAL, text, [shown])


def modules(of: Study) -> Answer:
    """SeMi's three modules on other methods."""
    section = "SeMi's modules on other methods"
    pairs = [(name, f"{title_of(host)} + all three, {SHORT[name]}",
              of.of("table5", name, f"{title_of(host)} + all three", section),
              of.of("table5", name, title_of(host), section)) for name in SHORT for host in grids.HOSTS]
    tables = _one_table("SeMi's modules on hosts", pairs)
    text = _verdicts(pairs, tables, "table5")
    return Answer(f"Do SeMi's modules fit {len(grids.HOSTS)} other methods?", text, tables)


def defects(of: Study) -> Answer:
    """Each defect of the release, by preset."""
    pairs = []
    for preset in ("paper", "readme"):
        section = f"Defects of the release in preset {preset}"
        for name in SHORT:
            usual = of.of("table4", name, "no defect", section)
            pairs += [(name, f"{row}, preset {preset}, {SHORT[name]}", scores, usual)
                      for (t, s, c, row), scores in of.scores.items()
                      if (t, s, c) == ("table4", section, name) and row != "no defect"]
    tables = _one_table("Defects, less the preset without any", pairs)
    return Answer("What does each defect of the release cost?", _verdicts(pairs, tables, "table4"), tables)


def foundations(of: Study) -> Answer:
    """Whether the order of the methods depends on what the study fixed."""
    text, tables = [], []
    first = {row: _share(scores) for (t, s, c, row), scores in of.scores.items()
             if (t, c) == MAIN_CELLS[0] and scores and row not in probes.TITLES.values()}
    for section in dict.fromkeys(s for (t, s, _, _) in of.scores if t == "table6"):
        kept = {row: _share(scores) for (t, s, _, row), scores in of.scores.items()
                if (t, s) == ("table6", section) and scores}
        if not kept:
            text.append(_not_yet(section, "table6"))
        elif section.startswith("Statistics"):
            pairs = [(CONSISTENT, f"{name}: labelled images' statistics",
                      of.of("table6", CONSISTENT, f"{name}, labelled images' statistics", section),
                      of.of("table6", CONSISTENT, name, section)) for name in ("Supervised", "LA")]
            shown = _one_table(section, pairs)
            text += [f"{section}: {line}" for line in _verdicts(pairs, shown, "table6")]
            tables += shown
        elif len(both := [row for row in kept if row in first]) > 2:
            tau = pd.Series(kept)[both].corr(pd.Series(first)[both], method="kendall")
            order = ", ".join(f"{row} {100 * kept[row]:.1f}" for row in sorted(both, key=lambda row: -kept[row]))
            text.append(f"{section}: Kendall's tau with the order of Table 1 over {len(both)} methods is {tau:.2f} "
                        f"({order}).")
    return Answer("Does the order of the methods depend on what the study fixed?", text, tables)


REVERSAL = "Is the gain largest where the pool is reversed, and what is it over each baseline?"
MAIN_CELLS = (("table1", CONSISTENT), ("table2", REVERSED))

# ---- words and small tables ------------------------------------------------------------------------------------------

Pair = tuple[str, str, Scores, Scores]                     # cell, what is compared, its scores, those that it is less


def compared(title: str, rows: Iterable[tuple[str, Scores, Scores]]) -> Table:
    """A row a comparison: its mean, the difference with its interval, d, n; Holm over them all."""
    frame = pd.DataFrame([{"row": row, "mean": 100 * _share(scores), "spread": _spread(scores),
                           **difference(scores, other)} for row, scores, other in rows])
    frame["p_holm"] = holm(frame["p"])
    frame["difference"] = frame.apply(in_words, axis=1)
    frame = frame.sort_values("gain", ascending=False, ignore_index=True)
    return Table(title, [column("row", "", left=True),
                         Column("balanced accuracy %", lambda row: mean_and_spread(row["mean"], row["spread"], 1)),
                         column("difference", "difference"), column("effect", "d", "{:+.1f}".format),
                         column("pairs", "n", "{:d}".format)], frame)


def _one_table(title: str, pairs: list[Pair]) -> list[Table]:
    rows = [(row, scores, other) for _, row, scores, other in pairs if scores.keys() & other.keys()]
    return [compared(title, rows)] if rows else []


def _verdicts(pairs: list[Pair], shown: list[Table], table: str) -> list[str]:
    """A sentence: which differences are there in which direction, which are not told apart, and what is missing."""
    if not shown:
        return [_not_yet("this comparison", table)]
    frame = shown[0].frame
    there = frame["p_holm"] < LEVEL
    parts = {"higher": there & (frame["gain"] > 0), "lower": there & (frame["gain"] < 0),
             f"not told apart{_few(shown[0])}": ~there}
    words = [f"{word}: " + "; ".join(f"{r.row} {r.difference}" for r in frame[these].itertuples())
             for word, these in parts.items() if these.any()]
    missing = len(pairs) - len(frame)
    return [f"{word[0].upper()}{word[1:]}." for word in words] + (
        [f"{missing} of {len(pairs)} comparisons are not measured yet."] if missing else [])


def _pseudo_labels(of: Study, name: str, row: str) -> Iterable[dict[str, Any]]:
    """Precision and recall of seed 0's pseudo-labels by class group, from the whole log of its record."""
    place = of.places.get(("table4", "SeMi without one component", name, row), {}).get(0)
    record = records.read(place) if place else None
    if record is None or record.means or not record.log[-1].get("pseudo_labels"):
        return
    counts = frames.pool(record.averaged)
    for group, members in record.groups.items():
        sums = {what: float(counts[what][members].sum()) for what in ("counted", "right", "seen")}
        yield {"variant": f"{row}, {SHORT[name]}", "group": group,
               "precision": 100 * sums["right"] / sums["counted"] if sums["counted"] else math.nan,
               "recall": 100 * sums["right"] / sums["seen"] if sums["seen"] else math.nan}


def _few(shown: Table) -> str:
    """What to think of a table none of whose rows has the three seeds that a test needs."""
    return "" if shown.frame["p"].notna().any() else ": fewer than three seeds decide nothing"


def _share(scores: Scores) -> float:
    return sum(scores.values()) / len(scores) if scores else math.nan


def _spread(scores: Scores) -> float:
    return 100 * pd.Series(scores).std(ddof=1) if len(scores) > 1 else math.nan


def _mean(scores: Scores) -> str:
    return mean_and_spread(100 * _share(scores), _spread(scores), 1)


def _named(rows: list[str]) -> str:
    return f" ({', '.join(rows)})" if rows else ""


def _not_yet(what: str, tables: str) -> str:
    return f"{what[0].upper()}{what[1:]}: not measured yet (`semilib run {tables} profile=features` does it)."
