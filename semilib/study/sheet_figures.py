"""Figures of the study's tables: sheets in, a figure and the frame of what it draws out.

    made = sheets.sheets(grid, found)
    figures.save(*ladder(made), "figures/table4")             # every row of every table, seed by seed
    figures.save(*sensitivity(made), "figures/figure6")       # Figure 6: SeMi's values, one at a time
    figures.save(*cells(grid), "figures/figure5a")            # Figure 5 (a): the sets of every cell
"""
from __future__ import annotations

import math
import textwrap

import pandas as pd
from matplotlib.figure import Figure

from semilib.data.splits import arrange, long_tailed_counts
from semilib.errors import BadInput
from semilib.report.figures import _SAFE, INK, WIDTH, Picture, _picture, style
from semilib.study.grids import Grid
from semilib.study.sheets import METRICS, Sheet
from semilib.training.config import Run


def _close(figure: Picture, line: str) -> None:
    """The first line, which names the scale, and a layout that later drawing cannot change."""
    figure.suptitle("\n".join(textwrap.wrap(line, int(figure.get_figwidth() * 17.5))), x=0.01, ha="left", fontsize=7.5, color=INK)
    for _ in range(2):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _scale(made: list[Sheet]) -> str:
    first = made[0].notes[0].removeprefix("Scale: ")
    return first.split("; n seeds")[0]


def ladder(made: list[Sheet]) -> tuple[Figure, pd.DataFrame]:
    """Every row of the tables as its seeds (dots) and their mean (bar), in the tables' order; the dashed line is the row that others are
    compared with, where it is one for the whole table. Rows without a finished run are named and empty.

    Frame: table, row, seed, score (%)."""
    with style():
        heights = [len(sheet.frame) + 1.6 for sheet in made]
        figure = _picture(0.155 * sum(heights) + 0.5)
        panels = figure.subplots(len(made), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        rows = []
        for axes, sheet in zip(panels, made, strict=True):
            names, seeds = list(sheet.frame["row"]), sheet.seeds.dropna(subset=["score"])
            against = {a for a in sheet.frame["against"] if a}
            if len(against) == 1 and (sheet.frame["row"].isin(against)).any():
                usual = sheet.frame.loc[sheet.frame["row"].isin(against), "mean"]
                axes.axvline(float(usual.iloc[0]), color="#909090", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
            for y, (name, mean) in enumerate(zip(names, sheet.frame["mean"], strict=True)):
                own = seeds[seeds["row"] == name]
                colour = _SAFE[3] if sheet.frame["against"].iloc[y] == "" else _SAFE[0]
                axes.plot(100 * own["score"], [y] * len(own), linestyle="none", marker="o", markersize=3, alpha=0.6, color=colour,
                          markeredgewidth=0)
                axes.plot([mean, mean], [y - 0.32, y + 0.32], color=colour, linewidth=1.8)
                rows += [{"table": sheet.title, "row": name, "seed": r.seed, "score": 100 * r.score} for r in own.itertuples()]
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.set_title("; ".join(sheet.title.split("; ")[1:]), loc="left", fontsize=8)
        panels[-1].set_xlabel(f"{METRICS[made[0].metric]} (%)")
        figure.align_ylabels(panels)
        _close(figure, f"{made[0].title.split('; ')[0]}. {_scale(made)}; dots: seeds, bars: their mean")
    return figure, pd.DataFrame(rows, columns=["table", "row", "seed", "score"])


def sensitivity(made: list[Sheet]) -> tuple[Figure, pd.DataFrame]:
    """Figure 6: balanced accuracy against one value of SeMi at a time, the others as they are; seeds as dots, their mean as a line, SeMi's
    own value filled. Values stand at equal distances.

    Frame: option, value, seed, score (%)."""
    chosen = [sheet for sheet in made if "; Sensitivity to " in sheet.title]
    if not chosen:
        raise BadInput("sheets", [sheet.title for sheet in made], "those of table5, which hold the sensitivity rows")
    with style():
        columns = min(3, len(chosen))
        lines = math.ceil(len(chosen) / columns)
        figure = _picture(1.9 * lines + 0.5, WIDTH)
        panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
        rows = []
        for axes in panels.flat[len(chosen):]:
            axes.set_visible(False)
        for axes, sheet in zip(panels.flat, chosen, strict=False):
            option = sheet.title.split("; Sensitivity to ")[1]
            values = [name.split(" = ")[1].removesuffix(" (SeMi)") for name in sheet.frame["row"]]
            axes.plot(range(len(values)), sheet.frame["mean"], color=_SAFE[3], zorder=2)
            for x, (name, mean, value) in enumerate(zip(sheet.frame["row"], sheet.frame["mean"], values, strict=True)):
                own = sheet.seeds[sheet.seeds["row"] == name].dropna(subset=["score"])
                axes.plot([x] * len(own), 100 * own["score"], linestyle="none", marker="o", markersize=3, alpha=0.5, color=_SAFE[0],
                          markeredgewidth=0)
                axes.plot([x], [mean], marker="D", markersize=5, color=_SAFE[3], zorder=3,
                          markerfacecolor=_SAFE[3] if name.endswith("(SeMi)") else "white")
                rows += [{"option": option, "value": float(value), "seed": r.seed, "score": 100 * r.score} for r in own.itertuples()]
            axes.set_xticks(range(len(values)), values)
            axes.set_xlim(-0.4, len(values) - 0.6)
            axes.set_xlabel(option)
            axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
        for line in panels:
            line[0].set_ylabel("balanced accuracy (%)")
        _close(figure, f"Sensitivity of SeMi. {_scale(chosen)}; dots: seeds, diamonds: their mean, filled: SeMi's own value")
    return figure, pd.DataFrame(rows, columns=["option", "value", "seed", "score"])


CLASSES = {"mnistm5k": 10, "cifar10": 10, "cifar100": 100, "stl10": 10, "svhn": 10}


def _counts(run: Run) -> tuple[list[int], list[int] | None]:
    """Labelled and unlabelled images a class, by the protocol alone; None for a pool of unknown classes. No data set is opened."""
    classes = CLASSES[run.dataset]
    labelled = long_tailed_counts(run.n1, classes, run.gamma_l)
    if not run.m1:                                                        # a pool that comes with the data, of unknown classes
        return labelled, None
    more = arrange(run.m1, classes, run.gamma_u, run.order)
    return labelled, [n + m for n, m in zip(labelled, more, strict=True)] if run.labelled_in_unlabelled else more


def cells(grid: Grid) -> tuple[Figure, pd.DataFrame]:
    """Figure 5 (a): how many labelled and unlabelled images each class has, in every cell of a table, by the protocol; the unlabelled
    set holds the labelled images too where the run says so. A set that is imbalanced by nature, or without labels, has no counts to draw.

    Frame: cell, class (0 has most labelled images), labelled, unlabelled (empty: unknown)."""
    shown = {e.column: e.runs[0] for e in reversed(grid.entries) if e.runs[0].n1 is not None and e.runs[0].dataset in CLASSES}
    shown = dict(reversed(shown.items()))
    if not shown:
        raise BadInput("grid", grid.title, "a table with a cell whose counts follow from its protocol")
    with style():
        columns = min(4, len(shown))
        lines = math.ceil(len(shown) / columns)
        figure = _picture(1.45 * lines + 0.7, max(3.6, 1.75 * columns))
        panels, rows = figure.subplots(lines, columns, squeeze=False), []
        for axes in panels.flat[len(shown):]:
            axes.set_visible(False)
        for axes, (name, run) in zip(panels.flat, shown.items(), strict=False):
            labelled, unlabelled = _counts(run)
            x = range(len(labelled))
            if unlabelled is not None:
                axes.bar(x, unlabelled, width=1, color="#a8cce0", label="unlabelled")
            axes.bar(x, labelled, width=1, color=_SAFE[3], label="labelled")
            axes.set_yscale("log")
            axes.set_ylim(1, 10_000)
            axes.set_xlim(-0.5, len(labelled) - 0.5)
            axes.set_xticks([0, len(labelled) // 2, len(labelled) - 1])
            title = name if unlabelled is not None else f"{name} (pool unknown)"
            axes.set_title("\n".join(textwrap.wrap(title, 26)), fontsize=7)
            pool = unlabelled or [None] * len(labelled)
            rows += [{"cell": name, "class": k, "labelled": labelled[k], "unlabelled": pool[k]} for k in x]
        for axes in panels[-1]:
            axes.set_xlabel("class")
        for line in panels:
            line[0].set_ylabel("images")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        _close(figure, f"Images a class in the cells of {grid.table.replace('table', 'Table ')}, by the protocol; logarithmic")
    return figure, pd.DataFrame(rows)
