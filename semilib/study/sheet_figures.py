"""Figures of the study's tables: a grid and its printed tables in, a figure and the frame that it is drawn from out.

    tables = sheets.sheets(grid, sheets.find(grid))
    paint.save(*ladder(grid, tables), "figures/table4")             # every row of every table, seed by seed
    paint.save(*sensitivity(grid, tables), "figures/figure6")       # Figure 6: SeMi's values, one at a time
    paint.save(*cells(grid), "figures/figure5a")                    # Figure 5 (a): the sets of every cell
"""
from __future__ import annotations

import itertools
import math
import re
import textwrap

import pandas as pd

from semilib.data.sources import CLASSES
from semilib.data.splits import arrange, long_tailed_counts
from semilib.errors import BadInput
from semilib.report import frames, paint
from semilib.report.labels import cell_in_words
from semilib.report.paint import FIGURE_WIDTH, PALETTE, Picture, Shown
from semilib.report.table import Table, is_missing
from semilib.study import sheets
from semilib.study.grids import Grid
from semilib.training.config import Run

USUAL, OTHER = PALETTE[3], PALETTE[0]          # a row that others are compared with; a row that is compared
DOTS = {"linestyle": "none", "marker": "o", "markersize": 3.6, "markeredgewidth": 0.4, "markeredgecolor": "white",
        "zorder": 3}                           # over the bar of their mean
LINE = 96                                      # characters of a line below a panel's rows


def _scores(table: Table) -> pd.DataFrame:
    """The finished runs of a table, in its rows' order: row, against, seed, score (%), runs; NaN for a row without one.

    Baselines that are not this project's runs have no `runs`."""
    scores = table.runs.dropna(subset=["score"])
    keys = scores[["seed", "key", "code"]].itertuples(index=False)
    scores = scores.assign(runs=[math.nan if is_missing(run.key) else frames.source(*run) for run in keys])
    scores = scores[["row", "seed", "score", "runs"]]
    scores = table.frame[["row", "against"]].merge(scores, on="row", how="left").astype({"seed": "Int64"})
    return scores.assign(score=100 * scores["score"])


def _protocol(grid: Grid) -> str:
    """What a figure of the grid rests on, in words. The panels' titles tell cells apart, where there are several."""
    run = grid.entries[0].runs[0]
    cells = {entry.column: re.sub(r"[.]split\d+", "", entry.runs[0].cell) for entry in grid.entries}
    words = f"{cell_in_words(next(iter(cells.values())))}; " if len(cells) == 1 else ""
    changed = "".join(f", {name} = {value}" for name, value in grid.changed if name != "steps")
    return f"{words}{run.steps:,} steps of profile {run.profile}{changed}"


# ---- every row -------------------------------------------------------------------------------------------------------


def ladder(grid: Grid, tables: list[Table]) -> Shown:
    """Every row of the tables as its seeds and their mean. Rows without a finished run are named in one line.

    grid: of the first table; all have its schedule. Where one row is compared with all others, it is a dashed line, and
    the rows stand by their means; values of one option stay in their order. Frame: table, row, seed, score (%), runs,
    against (the row that it is compared with), metric."""
    parts = [_scores(table).assign(table=table.name, metric=table.runs["metric"].iloc[0]) for table in tables]
    frame = pd.concat(parts, ignore_index=True)[["table", "row", "seed", "score", "runs", "against", "metric"]]
    titles = dict.fromkeys(table.title.partition(":")[0] for table in tables)
    against = [row for row in dict.fromkeys(frame["against"]) if row]
    dashed = f", dashed: the mean of {against[0]}" if len(against) == 1 else ", dashed: what they are compared with"
    return paint.show("ladder", frame, "; ".join(titles), f"{_protocol(grid)}; {_marks(frame)}{dashed * bool(against)}")


def _marks(frame: pd.DataFrame) -> str:
    """What dots and bars are. A run alone has no bar."""
    several = frame.dropna(subset=["score"]).groupby([c for c in ("table", "row", "option", "value") if c in frame],
                                                     sort=False).size()
    return "dots: seeds, bars: their mean" if (several > 1).any() else "dots: single runs"


@paint.draws("ladder")
def draw_ladder(frame: pd.DataFrame) -> Picture:
    parts = paint.parts(frame, "table")
    left = {name: _left(part) for name, part in parts.items()}
    heights = [part.dropna(subset=["score"])["row"].nunique() + len(left[name]) + 0.2 for name, part in parts.items()]
    picture = paint.figure(0.155 * sum(heights) + 0.48 * len(parts) + 0.4)
    panels = picture.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    drawn = []
    for axes, heading, (name, part) in zip(panels, _headings(list(parts)), parts.items(), strict=True):
        against, rows = set(part["against"]) - {""}, paint.parts(part.dropna(subset=["score"]), "row")
        if len(against) == 1 and against <= rows.keys():
            axes.axvline(rows[next(iter(against))]["score"].mean(), color=paint.RULE, linewidth=0.8,
                         linestyle=(0, (3, 2)), zorder=0)
            if not part["row"].str.contains(" = ").all():
                rows = dict(sorted(rows.items(), key=lambda row: -row[1]["score"].mean()))
        for y, row in enumerate(rows.values()):
            look = {"color": USUAL if row["against"].iloc[0] == "" else OTHER}
            axes.plot(row["score"], [y] * len(row), **look, **DOTS)
            if len(row) > 1:
                axes.plot([row["score"].mean()] * 2, [y - 0.32, y + 0.32], linewidth=1.8, **look)
        for y, line in enumerate(left[name], len(rows)):
            axes.text(0, y, line, transform=axes.get_yaxis_transform(), va="center", fontsize=paint.SMALL)
        axes.set_yticks(range(len(rows)), [_value_in_symbols(row) for row in rows])
        axes.set_ylim(len(rows) + len(left[name]) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(heading, loc="left")
        if rows:
            drawn.append(axes)
            axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(axis="x", labelbottom=True)
        else:
            axes.tick_params(axis="x", labelbottom=False, length=0)
            axes.spines[:].set_visible(False)
    for axes in drawn[-1:]:
        axes.set_xlabel(f"{sheets.METRIC_NAMES[frame['metric'].iloc[0]]} (%)")
    picture.align_ylabels(panels)
    return picture


def _left(part: pd.DataFrame) -> list[str]:
    """Lines that name the rows without a finished run."""
    names = [_value_in_symbols(row) for row in dict.fromkeys(part.loc[part["score"].isna(), "row"])]
    return textwrap.wrap(f"without a finished run: {', '.join(names)}", LINE) if names else []


def _headings(tables: list[str]) -> list[str]:
    """What tells tables of one grid apart: the cell where there are several, and the section."""
    parts = [[*name.split("; ")[1:], "", ""][:2] for name in tables]
    several = len({cell for cell, _ in parts}) > 1
    return [_in_symbols("; ".join(filter(None, [cell if several or not section else "", section])))
            for cell, section in parts]


def _in_symbols(words: str) -> str:
    """A heading's gamma, and the option whose values are its rows, as symbols."""
    words = re.sub(r"(?<=Sensitivity to )\w+", lambda found: MATH.get(found[0], found[0]), words)
    return words.replace("gamma ", r"$\gamma$ = ")


# ---- Figure 6 --------------------------------------------------------------------------------------------------------


def sensitivity(grid: Grid, tables: list[Table]) -> Shown:
    """Figure 6: balanced accuracy against one value of SeMi at a time, on a logarithmic axis where the values are an
    order of magnitude apart, at equal distances where two would touch. Of an option the seeds that all its values have.

    An option without a finished run is named in the caption. Frame: option, value, seed, score (%), runs, usual
    (whether the value is SeMi's own)."""
    parts = [_scores(table).assign(option=table.subtitle.split("Sensitivity to ")[1]) for table in tables
             if "Sensitivity to " in table.subtitle]
    if not parts:
        raise BadInput("sheets", [table.name for table in tables], "those of table5, which hold the sensitivity rows")
    frame = pd.concat(parts, ignore_index=True)
    frame["usual"] = frame["row"].str.endswith(" (SeMi)")
    frame["value"] = frame["row"].str.removesuffix(" (SeMi)").str.split(" = ").str[1].astype(float)
    caption = f"{_protocol(grid)}; {_marks(frame)}, orange: SeMi's own value"
    done = frame.groupby("option")["score"].transform(lambda scores: scores.notna().any())
    if done.any() and not done.all():
        left = [MATH.get(option, option) for option in dict.fromkeys(frame.loc[~done, "option"])]
        frame, caption = frame[done], f"{caption}; without a finished run: {', '.join(left)}"
    shared = frame.groupby(["option", "seed"])["score"].transform("count") == \
        frame.groupby("option")["value"].transform("nunique")
    if shared.any() and not shared.all():
        frame, caption = frame[shared], f"{caption}; the seeds that all values of a panel have"
    return paint.show("sensitivity", frame[["option", "value", "seed", "score", "runs", "usual"]],
                      "Sensitivity of SeMi to its values, one at a time", caption)


MATH = {"tau": r"$\tau$", "alpha": r"$\alpha$", "L": "$L$", "beta": r"$\beta$",
        "lambda_e": r"$\lambda_e$"}


def _value_in_symbols(row: str) -> str:
    """tau = 0.7 (SeMi), of a row, with its symbol."""
    name, equal, value = row.partition(" = ")
    return f"{MATH.get(name, name)}{equal}{value}"


@paint.draws("sensitivity")
def draw_sensitivity(frame: pd.DataFrame) -> Picture:
    options = paint.parts(frame, "option")
    picture, panels = paint.panels(len(options), 3, (0, 1.8), (0, 0.5), least=FIGURE_WIDTH, share="y")
    for axes, (option, part) in zip(panels, options.items(), strict=True):
        values = paint.parts(part, "value")
        places = _places(list(values))
        axes.plot(places, [seeds["score"].mean() for seeds in values.values()], color=paint.RULE, linewidth=0.9)
        for x, seeds in zip(places, values.values(), strict=True):
            look = {"color": USUAL if seeds["usual"].iloc[0] else OTHER}
            spread = [x + 0.02 * (i - (len(seeds) - 1) / 2) for i in range(len(seeds))]
            axes.plot(spread, seeds["score"], **look, **DOTS)
            if len(seeds) > 1:
                axes.plot([x - 0.045, x + 0.045], [seeds["score"].mean()] * 2, linewidth=2, **look)
        near = [b - a < 0.15 for a, b in zip([-1.0, *places], places, strict=False)]
        axes.set_xticks(places, ["\n" * tight + f"{value:g}" for value, tight in zip(values, near, strict=True)])
        axes.set_xlim(-0.12, 1.12)
        axes.set_xlabel(MATH.get(option, option))
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
        axes.set_ylabel("balanced accuracy (%)" if axes.get_subplotspec().is_first_col() else "")
    return picture


def _places(values: list[float]) -> list[float]:
    """Where values stand on an axis from 0 to 1: by their logarithms where the last is 10 times the first, at equal
    distances where two would touch."""
    scaled = [math.log(value) for value in values] if values[-1] >= 10 * values[0] > 0 else values
    span = scaled[-1] - scaled[0] or 1.0
    places = [(value - scaled[0]) / span for value in scaled]
    touch = any(b - a < 0.04 for a, b in itertools.pairwise(places))
    return [i / (len(values) - 1) for i in range(len(values))] if touch else places


# ---- Figure 5 (a) ----------------------------------------------------------------------------------------------------

def cells(grid: Grid) -> Shown:
    """Figure 5 (a): how many images each class has in every cell of a table, by the protocol.

    Cells without labels, or imbalanced by nature, are left out. The unlabelled set holds the labelled images too where
    the run says so. Frame: cell, class (0 has most labelled images), labelled, unlabelled (empty: unknown)."""
    runs: dict[str, Run] = {}
    for entry in grid.entries:
        if entry.runs[0].n1 is not None and entry.runs[0].dataset in CLASSES:
            runs.setdefault(entry.column, entry.runs[0])
    if not runs:
        raise BadInput("grid", grid.title, "a table with a cell whose counts follow from its protocol")
    frame = pd.concat([_counts(run).assign(cell=name) for name, run in runs.items()], ignore_index=True)
    unknown = "; the classes of STL10's unlabelled images are unknown" if frame["unlabelled"].isna().any() else ""
    return paint.show("cells", frame[["cell", "class", "labelled", "unlabelled"]],
                      f"Images of each class in the cells of {grid.table.replace('table', 'Table ')}",
                      f"By the protocol, without a look at the data{unknown}; logarithmic")


def _counts(run: Run) -> pd.DataFrame:
    """class, labelled, unlabelled (NaN for a pool of unknown classes), by the protocol alone. No data set is opened."""
    classes = CLASSES[run.dataset]
    labelled, unlabelled = long_tailed_counts(run.n1, classes, run.gamma_l), [math.nan] * classes
    if run.m1:                                                            # else the pool comes with the data
        more = arrange(run.m1, classes, run.gamma_u, run.order)
        unlabelled = [n + m for n, m in zip(labelled, more, strict=True)] if run.labelled_in_unlabelled else more
    return pd.DataFrame({"class": range(classes), "labelled": labelled, "unlabelled": unlabelled})


@paint.draws("cells")
def draw_cells(frame: pd.DataFrame) -> Picture:
    parts = paint.parts(frame, "cell")
    picture, panels = paint.panels(len(parts), 4, (1.75, 1.45), (0, 0.7), least=3.6, share="y")
    for axes, (name, part) in zip(panels, parts.items(), strict=True):
        rank, few = range(1, len(part) + 1), len(part) <= 20
        for kind, shade, marker in (("unlabelled", OTHER, "s"), ("labelled", USUAL, "o")):
            axes.plot(rank, part[kind], color=shade, marker=marker if few else "", markersize=3, linewidth=1.2,
                      label=kind)
        axes.set_yscale("log")
        axes.set_ylim(1, 10_000)
        axes.set_xticks([1, len(part) // 2, len(part)])
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
        axes.set_title(_in_symbols(name.replace(", ", ",\n", 1)), fontsize=paint.SMALL)
    paint.outer_labels(panels, "class, by labelled count", "images")
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return picture
