"""What the study on features answers: each claim of the paper as a question, and what the committed runs say to it.

    print(page(study()))                  # Markdown; figures/features/answers.md holds it

Every number and every word of a verdict is computed from the tables. A question whose runs are not there says so. A
difference is called one where Holm's p is below 0.05 among the comparisons of its table.
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
WITHOUT, ALONE, NOTHING_ON = "SeMi without one component", "Each component alone", "none of them"    # of table 4
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
    return [probe(of), components(of), hard_examples(of), bank(of), reversal(of), modules(of), defects(of),
            foundations(of)]


def page(of: Study) -> str:
    """The page of answers."""
    return "\n".join([HEAD, *(answer.markdown for answer in answers(of))])


HEAD = """# What the study on features shows

Every sentence below is about small networks on features of a frozen encoder that has seen ImageNet
([how, and what stands against it](../../docs/features.md)): CIFAR-10-LT 1500/3000 at ratio 100, the unlabelled pool
*consistent* with the labelled one or *reversed*, 1,500 steps, each seed with a split of its own. The settings of every
method were tuned alike, on a consistent pool; variants of SeMi have SeMi's. The pool holds the labelled images too, as
in the release. None of the sentences says anything of training from scratch.

Numbers are balanced accuracies in % and their differences in points. ± is the standard deviation over seeds. A
difference is the mean over the n seeds that both rows have, paired by split; in brackets stands its 95 % interval by
Student's t, for this comparison alone. A star is Holm's p below 0.05 over all rows of its table. With three seeds only
differences of many times their spread can get one, so an interval beside 0 without a star is a hint, and no star is no
sign that two rows are alike. d_z, from five seeds on, is the mean of the paired differences over their standard
deviation.
"""

# What the first page shows: the methods of every table, LA, the best one of the consistent cell, those above the probe
# in the reversed one, and the probe.
SUMMARISED = ("Supervised", "LA", *(title_of(method) for method in grids.MAIN[1:]), "TRAS", "CPE", "BaCon", "CPG",
              probes.TITLES["logistic-la"])


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
        shown = compared(f"{SHORT[name]} cell, minus {reference} ({_mean(other)})",
                         [(row, scores, other) for row, scores in rows])
        above, below, hints_above, hints_below, open_ = (found["row"].tolist() for found in sides(shown.frame))
        said = (f"{SHORT[name].capitalize()}: of {len(rows)} methods {len(above)} are above it{_named(above)} and "
                f"{len(below)} below by Holm's test{_few(shown)}.")
        if len(above) + len(below) < len(rows):
            said += (f" Of the others the interval alone lies above 0 for {len(hints_above)}{_named(hints_above)}, "
                     f"below for {len(hints_below)}, and holds 0 for {len(open_)}{_named(open_)}.")
        text.append(said)
        tables.append(shown)
    return Answer(question, text, tables)


def components(of: Study) -> Answer:
    """SeMi without each of its components and without all of them, and each alone."""
    text, tables = [], []
    for name in SHORT:
        semi = of.of("table4", name, "SeMi", WITHOUT)
        rows = [(row, scores, semi) for (t, section, c, row), scores in of.scores.items()
                if (t, c) == ("table4", name) and scores.keys() & semi.keys() and row != "SeMi" and
                (section == WITHOUT or (section, row) == (ALONE, NOTHING_ON))]
        if not rows:
            text.append(_not_yet(f"{SHORT[name]} cell", "table4"))
            continue
        rows = [("with none of them" if row == NOTHING_ON else row, *scores) for row, *scores in rows]
        shown = compared(f"{SHORT[name]} cell, minus SeMi ({_mean(semi)})", rows)
        lost = shown.frame.sort_values("gain")
        largest = lost[lost["row"] != "with none of them"].iloc[0]
        missing = sum((t, section, c) == ("table4", WITHOUT, name) and not scores
                      for (t, section, c, _), scores in of.scores.items())
        text.append(f"{SHORT[name].capitalize()}: what changes SeMi most is to be {largest['row']}. {_verdict(shown)}"
                    + f" {missing} rows are not measured yet." * (missing > 0))
        tables.append(shown)
        nothing = of.of("table4", name, NOTHING_ON, ALONE)
        alone = [(row, scores, nothing) for (t, section, c, row), scores in of.scores.items()
                 if (t, section, c) == ("table4", ALONE, name) and scores.keys() & nothing.keys() and row != NOTHING_ON]
        if alone:
            shown = compared(f"{SHORT[name]} cell, minus SeMi with nothing on ({_mean(nothing)})", alone)
            text.append(f"{SHORT[name].capitalize()}, each alone: {_verdict(shown)}")
            tables.append(shown)
    return Answer("Which component of SeMi matters?", text, tables)


def hard_examples(of: Study) -> Answer:
    """OHEML taken away and added alone, and the threshold."""
    pairs = [*_both(of, "SeMi without OHEML, minus SeMi", "table4", WITHOUT, "without OHEML", "SeMi"),
             *_both(of, "OHEML alone, minus SeMi with nothing on", "table4", ALONE, "OHEML alone", NOTHING_ON)]
    sweep = [(row, name, scores) for (table, section, name, row), scores in of.scores.items()
             if table == "table5" and section == "Sensitivity to tau" and scores]
    tables = _one_table("OHEML", pairs)
    text = [OHEML_ENTERS, *_verdicts(pairs, tables, "table4")]
    text += [] if sweep else [_not_yet("thresholds", "table5")]
    for name in SHORT:
        rows = {row: scores for row, at, scores in sweep if at == name}
        shared = set.intersection(*map(set, rows.values())) if len(rows) > 1 else set()
        if shared:
            values = {row: _share({seed: scores[seed] for seed in shared}) for row, scores in rows.items()}
            best = max(values, key=lambda row: values[row])
            text.append(f"Thresholds, {SHORT[name]}, over the {len(shared)} splits that all of them have: best is "
                        f"{best} ({100 * values[best]:.1f}); "
                        + ", ".join(f"{row} {100 * value:.1f}" for row, value in values.items() if row != best) + ".")
    return Answer("Do hard examples help?", text, tables)


def bank(of: Study) -> Answer:
    """PLCE taken away and added alone, and how right the pseudo-labels of each class group are."""
    pairs = _both(of, "PLCE alone, minus SeMi with nothing on", "table4", ALONE, "PLCE alone", NOTHING_ON)
    for row in ("without PLCE", "without bank decay", "without bank balance", "with u / max u (u_norm max)"):
        pairs += _both(of, f"SeMi {row}, minus SeMi", "table4", WITHOUT, row, "SeMi")
    places = {(name, row): of.places.get(("table4", WITHOUT, name, row), {}).get(0)
              for name in SHORT for row in ("SeMi", "without PLCE")}
    places |= {(name, "FixMatch"): of.places.get((table, "", name, "FixMatch"), {}).get(0)
               for table, name in MAIN_CELLS}
    quality = pd.DataFrame([row for (name, kept), place in sorted(places.items(), key=str)
                            for row in _pseudo_labels(name, kept, place)])
    tables = _one_table("PLCE and its bank", pairs)
    text = [*_weights(places[CONSISTENT, "SeMi"]), *_verdicts(pairs, tables, "table4")]
    if len(quality):
        text.append("The last table is of the standard head's pseudo-labels, those that PLCE blends. The head that "
                    "predicts learns from adjusted ones, which are not recorded. Labelled images of the pool count "
                    "too. One seed has no interval, so the table decides nothing.")
        per_cent, whole = "{:.1f}".format, "{:,.0f}".format
        tables.append(Table("Pseudo-labels of the standard head in the evaluations averaged, seed 0: how many images "
                            "of a class group were shown, how many labels counted as it, right of those, and found of "
                            "the shown, %", [
                                column("variant", "", left=True), column("group", "classes", left=True),
                                column("seen", "shown", whole), column("counted", "counted", whole),
                                column("precision", "right", per_cent), column("recall", "found", per_cent)], quality))
    return Answer("Does the memory bank make pseudo-labels more reliable?", text, tables)


def reversal(of: Study) -> Answer:
    """SeMi minus each other row in both cells, and whether it is more in the reversed one."""
    semi = {name: of.of(table, name, "SeMi") for table, name in MAIN_CELLS}
    rows: list[dict[str, Any]] = []
    for row in dict.fromkeys(row for (t, section, c, row) in of.scores if (t, c) == MAIN_CELLS[0] and row != "SeMi"):
        theirs = {name: of.of(table, name, row) for table, name in MAIN_CELLS}
        if all(semi[name] and theirs[name] for name in SHORT):
            gains = {name: {seed: semi[name][seed] - theirs[name][seed] for seed in semi[name].keys() & theirs[name]}
                     for name in SHORT}
            found = {SHORT[name]: difference(semi[name], theirs[name]) for name in SHORT}
            found["more"] = difference(gains[REVERSED], gains[CONSISTENT])
            relative = {f"relative_{SHORT[name]}": found[SHORT[name]]["gain"] / _share(
                {seed: theirs[name][seed] for seed in gains[name]}) for name in SHORT}
            rows.append({"row": row, **relative, **{k: pd.Series(g) for k, g in found.items()}})
    if not rows:
        return Answer(REVERSAL, [_not_yet("both main cells", "table1 table2")])
    frame = pd.DataFrame(rows)
    trained = ~frame["row"].isin(probes.TITLES.values())
    more = pd.DataFrame(frame["more"].tolist()).assign(row=frame["row"])
    for name in (*SHORT.values(), "more"):
        p_holm = holm([found["p"] for found in frame[name]])
        frame[name] = [in_words(pd.Series({**found, "p_holm": p}))
                       for found, p in zip(frame[name], p_holm, strict=True)]
    more["p_holm"] = holm(more["p"])
    above, below, hints_above, hints_below, open_ = map(len, sides(more[trained]))
    rises = 100 * (_share(semi[REVERSED]) - _share(semi[CONSISTENT]))
    relative = frame.set_index("row")["relative_reversed"]
    text = [f"Of the two settings that are measured, SeMi's distance is larger in the reversed one over {above} of "
            f"{trained.sum()} methods by Holm's test{'' if more['p'].notna().any() else NO_TEST} and smaller over "
            f"{below}; by the interval alone over {hints_above} and {hints_below} more; {open_} are open. SeMi itself "
            f"moves by {rises:+.1f} points. Probes of the labelled images do not see the pool and are not counted.",
            "The paper speaks of about 54.8 % over baselines that it does not name, so no number here can be called "
            "its own. In the reversed cell SeMi is, relative to "
            + ", ".join(f"{row} {relative[row]:+.0f} %" for row in CANDIDATES if row in relative.index) + "."]
    shown = Table("SeMi minus each row, points", [
        column("row", "", left=True), column("consistent", "consistent"), column("reversed", "reversed"),
        column("more", "more where reversed"),
        *(column(f"relative_{name}", f"{name}, relative %", "{:+.1f}".format) for name in SHORT.values())], frame)
    return Answer(REVERSAL, text, [shown])


def modules(of: Study) -> Answer:
    """SeMi's three modules on other methods."""
    section = "SeMi's modules on other methods"
    pairs = [pair for host in map(title_of, grids.HOSTS)
             for pair in _both(of, f"{host} + all three", "table5", section, f"{host} + all three", host)]
    tables = _one_table("Host with all three modules, minus the host", pairs)
    text = _verdicts(pairs, tables, "table5")
    return Answer(f"Do SeMi's modules fit {len(grids.HOSTS)} other methods?", text, tables)


def defects(of: Study) -> Answer:
    """Each defect of the release, by preset."""
    pairs = []
    for preset in ("paper", "readme"):
        section = f"Defects of the release in preset {preset}"
        rows = dict.fromkeys(row for (table, part, _, row) in of.scores if (table, part) == ("table4", section))
        for row in (row for row in rows if row != "no defect"):
            pairs += _both(of, f"{row}, preset {preset}", "table4", section, row, "no defect")
    tables = _one_table("Each defect, minus the preset without any", pairs)
    return Answer("What does each defect of the release cost?", _verdicts(pairs, tables, "table4"), tables)


def foundations(of: Study) -> Answer:
    """Whether the order of the methods depends on what the study fixed."""
    text, tables = [], []
    in_table1 = {path for (t, *_), places in of.places.items() if t == "table1" for path in places.values()}
    for section in dict.fromkeys(s for (t, s, _, _) in of.scores if t == "table6"):
        kept = {row: scores for (t, s, _, row), scores in of.scores.items() if (t, s) == ("table6", section) and scores}
        own = {path for (t, s, _, _), places in of.places.items() if (t, s) == ("table6", section)
               for path in places.values()}
        if own and own <= in_table1:                        # what Table 1 has already is no check of it
            continue
        if not kept:
            text.append(_not_yet(section, "table6"))
        elif section.startswith("Statistics"):
            pairs = [(f"{name} with the labelled images' statistics, minus those of the pool",
                      of.of("table6", CONSISTENT, f"{name}, labelled images' statistics", section),
                      of.of("table6", CONSISTENT, name, section)) for name in ("Supervised", "LA")]
            shown = _one_table(section, pairs)
            text += _verdicts(pairs, shown, "table6") if shown else [_not_yet(section, "table6")]
            tables += shown
        elif shown := _beside(section, kept, {row: of.of(*MAIN_CELLS[0], row) for row in kept}):
            tau = shown[0].frame["here"].corr(shown[0].frame["there"], method="kendall")
            text.append(f"{section}: Kendall's tau with the order of Table 1 over the same splits and "
                        f"{len(shown[0].frame)} methods is {tau:.2f}.")
            tables += shown
    return Answer("Does the order of the methods depend on what the study fixed?", text, tables)


# How OHEML acts, without which its numbers cannot be read.
OHEML_ENTERS = ("OHEML is a weight, by entropy, on the pseudo-labels of the standard head. That head does not predict: "
                "the balanced one does, and both share one layer. Hard images also enter by the low threshold, which "
                "has a row of its own among the components.")
CANDIDATES = ("FixMatch", "Supervised", "ReMixMatch without rotation", "DARP", "CReST+", "ABC", "DASO", "LA", "ACR",
              "CPG")
NO_TEST = " (fewer than three seeds, so no test)"
FOR_EFFECT = 5                                            # pairs from which an effect size is worth a look
REVERSAL = "Is the gain largest where the pool is reversed, and what is it over each baseline?"
MAIN_CELLS = (("table1", CONSISTENT), ("table2", REVERSED))

# ---- words and small tables ------------------------------------------------------------------------------------------

Pair = tuple[str, Scores, Scores]                          # what is compared, its scores, those that they are less


def _both(of: Study, said: str, table: str, section: str, row: str, other: str) -> list[Pair]:
    """A row of a table's section less another, in both main cells."""
    return [(f"{said}, {SHORT[name]}", of.of(table, name, row, section), of.of(table, name, other, section))
            for name in SHORT]


def compared(title: str, rows: Iterable[Pair]) -> Table:
    """A row a comparison: its mean, the difference with its interval, d_z, n; Holm over them all."""
    frame = pd.DataFrame([{"row": row, "mean": 100 * _share(scores), "spread": _spread(scores),
                           **difference(scores, other)} for row, scores, other in rows])
    frame["p_holm"] = holm(frame["p"])
    frame["difference"] = frame.apply(in_words, axis=1)
    frame = frame.sort_values("gain", ascending=False, ignore_index=True)
    return Table(title, [column("row", "", left=True),
                         Column("balanced accuracy %", lambda row: mean_and_spread(row["mean"], row["spread"], 1)),
                         column("difference", "difference"),
                         Column("d_z", lambda row: f"{row['effect']:+.1f}" if row["pairs"] >= FOR_EFFECT else ""),
                         column("pairs", "n", "{:d}".format)], frame)


def sides(frame: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Rows of `compared` whose difference is there above 0 and below 0 by Holm's p, is there by its own interval alone
    above and below, and is open."""
    starred = frame["p_holm"] < LEVEL
    above, below = frame["low"] > 0, frame["high"] < 0
    enough = frame["pairs"] > 2
    return (frame[starred & (frame["gain"] > 0)], frame[starred & (frame["gain"] < 0)],
            frame[~starred & enough & above], frame[~starred & enough & below],
            frame[~starred & ~(enough & (above | below))])


def _one_table(title: str, pairs: list[Pair]) -> list[Table]:
    rows = [(said, scores, other) for said, scores, other in pairs if scores.keys() & other.keys()]
    return [compared(title, rows)] if rows else []


def _beside(section: str, kept: dict[str, Scores], first: dict[str, Scores]) -> list[Table]:
    """Rows of a section of table 6 beside Table 1's over the splits that both have, highest first; none of fewer than
    three methods, which have no order to speak of."""
    both = {row: sorted(kept[row].keys() & first[row].keys()) for row in kept}
    frame = pd.DataFrame([{"row": row, "n": len(seeds), **{
        name: 100 * _share({seed: scores[row][seed] for seed in seeds})
        for name, scores in (("here", kept), ("there", first))}} for row, seeds in both.items() if seeds])
    if len(frame) < 3:
        return []
    frame = frame.sort_values("here", ascending=False, ignore_index=True)
    frame["place"] = frame["there"].rank(ascending=False, method="min").astype(int)
    frame["change"] = frame["here"] - frame["there"]
    percent = "{:.1f}".format
    return [Table(section, [column("row", "", left=True), column("here", "balanced accuracy %", percent),
                            column("there", "in Table 1", percent), column("place", "its place there", "{:d}".format),
                            column("change", "change", "{:+.1f}".format), column("n", "n", "{:d}".format)], frame)]


def _verdicts(pairs: list[Pair], shown: list[Table], table: str) -> list[str]:
    """Which differences are there in which direction, which are open, and what is missing."""
    if not shown:
        return [_not_yet("this comparison", table)]
    missing = len(pairs) - len(shown[0].frame)
    return [_verdict(shown[0])] + (
        [f"{missing} of {len(pairs)} comparisons are not measured yet."] if missing else [])


def _verdict(shown: Table) -> str:
    """What a table of comparisons says, in a sentence: those that are there by name, of the open ones the range."""
    *there, open_ = sides(shown.frame)
    kinds = ("above 0 by Holm's test", "below 0 by Holm's test", "above 0 by its interval alone",
             "below 0 by its interval alone")
    words = [f"{kind}: {'; '.join(f'{r.row} {r.difference}' for r in found.itertuples())}"
             for kind, found in zip(kinds, there, strict=True) if len(found)]
    for kind, found in (("not told apart", open_[open_["pairs"] > 2]),
                        ("of fewer than three seeds", open_[open_["pairs"] < 3])):
        if len(found):
            low, high = found["gain"].min(), found["gain"].max()
            between = f"{low:+.1f}" if len(found) == 1 else f"from {low:+.1f} to {high:+.1f}"
            words.append(f"{kind}: {len(found)} of {len(shown.frame)}, {between}")
    return "".join(word[0].upper() + word[1:] + ". " for word in words).rstrip()


def _weights(place: Path | None) -> list[str]:
    """How much PLCE lets the bank say, from the pseudo-labels that a whole log counted."""
    record = _counted(place)
    if record is None:
        return []
    counted = frames.pool(record.averaged)["counted"]
    options = record.config["options"]
    weights = options["alpha"] * pd.Series(counted / counted.sum()).sort_values(ascending=False, ignore_index=True)
    most, middle = weights[0], weights[len(weights) // 2]
    return [f"By the release's normalisation (u_norm {options['u_norm']}) the bank's weight in a pseudo-label ends at "
            f"alpha u_k: {most:.3f} for the class that is pseudo-labelled most, {middle:.3f} for the middle one "
            "(consistent cell, seed 0). It can hardly move a label, whatever the bank holds."]


def _counted(place: Path | None) -> records.Record | None:
    """The record of a place, where it keeps its whole log and that counts pseudo-labels."""
    record = records.read(place) if place else None
    return record if record and not record.means and record.log[-1].get("pseudo_labels") else None


def _pseudo_labels(name: str, row: str, place: Path | None) -> Iterable[dict[str, Any]]:
    """Counts, precision and recall of a whole log's pseudo-labels by class group."""
    record = _counted(place)
    if record is None:
        return
    counts = frames.pool(record.averaged)
    for group, members in record.groups.items():
        sums = {what: float(counts[what][members].sum()) for what in ("counted", "right", "seen")}
        yield {"variant": f"{row}, {SHORT[name]}", "group": group, **sums,
               "precision": 100 * sums["right"] / sums["counted"] if sums["counted"] else math.nan,
               "recall": 100 * sums["right"] / sums["seen"] if sums["seen"] else math.nan}


def _few(shown: Table) -> str:
    """What to think of a table none of whose rows has the three seeds that a test needs."""
    return "" if shown.frame["p"].notna().any() else NO_TEST


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
