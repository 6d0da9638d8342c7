"""Figures of the study's tables: a grid and its printed tables in, a figure and the frame that it is drawn from out.

    tables = sheets.sheets(grid, sheets.find(grid))
    paint.save(*ladder(grid, tables), "figures/table4")             # every row of every table, seed by seed
    paint.save(*sensitivity(grid, tables), "figures/figure6")       # Figure 6: SeMi's values, one at a time
    paint.save(*cells(grid), "figures/figure5a")                    # Figure 5 (a): the sets of every cell
"""
from __future__ import annotations

import math
import textwrap

import pandas as pd

from semilib.data.splits import arrange, long_tailed_counts
from semilib.errors import BadInput
from semilib.report import paint
from semilib.report.paint import FIGURE_WIDTH, PALETTE, Picture, Shown
from semilib.report.table import Table
from semilib.study import sheets
from semilib.study.grids import Grid
from semilib.training.config import Run

USUAL, OTHER = PALETTE[3], PALETTE[0]          # a row that others are compared with; a row that is compared
DOTS = {"linestyle": "none", "markeredgewidth": 0}


def _scores(table: Table) -> pd.DataFrame:
    """The finished runs of a table, in its rows' order: row, against, seed, score (%); NaN for a row without one."""
    scores = table.runs.dropna(subset=["score"])[["row", "seed", "score"]]
    scores = table.frame[["row", "against"]].merge(scores, on="row", how="left").astype({"seed": "Int64"})
    return scores.assign(score=100 * scores["score"])


def _scale(grid: Grid) -> str:
    return sheets.scale(grid.entries[0].runs[0])


# ---- every row -------------------------------------------------------------------------------------------------------


def ladder(grid: Grid, tables: list[Table]) -> Shown:
    """Every row of the tables as its seeds and their mean. Rows without a finished run are named and empty.

    The dashed line is the row that others are compared with, where it is one for the whole table. Frame: table, row,
    seed, score (%), against (the row that it is compared with), metric."""
    parts = [_scores(table).assign(table=table.name, metric=table.runs["metric"].iloc[0]) for table in tables]
    frame = pd.concat(parts, ignore_index=True)[["table", "row", "seed", "score", "against", "metric"]]
    return paint.show("ladder", frame, f"{grid.title}. {_scale(grid)}; dots: seeds, bars: their mean")


@paint.draws("ladder")
def draw_ladder(frame: pd.DataFrame) -> Picture:
    parts = paint.parts(frame, "table")
    heights = [part["row"].nunique() + 1.6 for part in parts.values()]
    picture = paint.figure(0.155 * sum(heights) + 0.5)
    panels = picture.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, part) in zip(panels, parts.items(), strict=True):
        against = set(part["against"]) - {""}
        if len(against) == 1 and part["row"].isin(against).any():
            axes.axvline(part.loc[part["row"].isin(against), "score"].mean(), color=paint.RULE, linewidth=0.8,
                         linestyle=(0, (3, 2)), zorder=0)
        rows = paint.parts(part, "row")
        for y, row in enumerate(rows.values()):
            look = {"color": USUAL if row["against"].iloc[0] == "" else OTHER}
            axes.plot(row["score"], [y] * len(row), marker="o", markersize=3, alpha=0.6, **look, **DOTS)
            axes.plot([row["score"].mean()] * 2, [y - 0.32, y + 0.32], linewidth=1.8, **look)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(name.partition("; ")[2], loc="left", fontsize=8)
    panels[-1].set_xlabel(f"{sheets.METRIC_NAMES[frame['metric'].iloc[0]]} (%)")
    picture.align_ylabels(panels)
    return picture


# ---- Figure 6 --------------------------------------------------------------------------------------------------------


def sensitivity(grid: Grid, tables: list[Table]) -> Shown:
    """Figure 6: balanced accuracy against one value of SeMi at a time. Values stand at equal distances.

    Frame: option, value, seed, score (%), usual (whether the value is SeMi's own)."""
    parts = [_scores(table).assign(option=table.subtitle.split("Sensitivity to ")[1]) for table in tables
             if "Sensitivity to " in table.subtitle]
    if not parts:
        raise BadInput("sheets", [table.name for table in tables], "those of table5, which hold the sensitivity rows")
    frame = pd.concat(parts, ignore_index=True)
    frame["usual"] = frame["row"].str.endswith(" (SeMi)")
    frame["value"] = frame["row"].str.removesuffix(" (SeMi)").str.split(" = ").str[1].astype(float)
    caption = f"Sensitivity of SeMi. {_scale(grid)}; dots: seeds, diamonds: their mean, filled: SeMi's own value"
    return paint.show("sensitivity", frame[["option", "value", "seed", "score", "usual"]], caption)


@paint.draws("sensitivity")
def draw_sensitivity(frame: pd.DataFrame) -> Picture:
    options = paint.parts(frame, "option")
    picture, panels = paint.panels(len(options), 3, (0, 1.9), (0, 0.5), least=FIGURE_WIDTH, share="y")
    for axes, (option, part) in zip(panels, options.items(), strict=True):
        values = paint.parts(part, "value")
        axes.plot(range(len(values)), [seeds["score"].mean() for seeds in values.values()], color=USUAL, zorder=2)
        for x, seeds in enumerate(values.values()):
            axes.plot([x] * len(seeds), seeds["score"], marker="o", markersize=3, alpha=0.5, color=OTHER, **DOTS)
            axes.plot([x], [seeds["score"].mean()], marker="D", markersize=5, color=USUAL, zorder=3,
                      markerfacecolor=USUAL if seeds["usual"].iloc[0] else "white")
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.set_xlabel(option)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
        axes.set_ylabel("balanced accuracy (%)" if axes.get_subplotspec().is_first_col() else "")
    return picture


# ---- Figure 5 (a) ----------------------------------------------------------------------------------------------------

CLASSES = {"mnistm5k": 10, "cifar10": 10, "cifar100": 100, "stl10": 10, "svhn": 10}


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
    caption = f"Images a class in the cells of {grid.table.replace('table', 'Table ')}, by the protocol; logarithmic"
    return paint.show("cells", frame[["cell", "class", "labelled", "unlabelled"]], caption)


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
    picture, panels = paint.panels(len(parts), 4, (1.75, 1.45), (0, 0.7), least=3.6)
    for axes, (name, part) in zip(panels, parts.items(), strict=True):
        x, known = range(len(part)), part["unlabelled"].notna().all()
        if known:
            axes.bar(x, part["unlabelled"], width=1, color="#a8cce0", label="unlabelled")
        axes.bar(x, part["labelled"], width=1, color=PALETTE[3], label="labelled")
        axes.set_yscale("log")
        axes.set_ylim(1, 10_000)
        axes.set_xlim(-0.5, len(part) - 0.5)
        axes.set_xticks([0, len(part) // 2, len(part) - 1])
        axes.set_title("\n".join(textwrap.wrap(name if known else f"{name} (pool unknown)", 26)), fontsize=7)
    paint.outer_labels(panels, "class", "images")
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return picture
