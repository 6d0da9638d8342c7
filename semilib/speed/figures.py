"""Figures of speed: records in, a figure and the frame that it is drawn from out; a panel or a row of panels a record.

    paint.save(*parts(records), "runs/speed/parts")         # a SeMi step by part
    paint.save(*growth(records), "runs/speed/growth")       # step time against classes, slots, images and views
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter

from semilib.report import paint
from semilib.report.labels import display
from semilib.report.paint import PALETTE, Picture
from semilib.speed.records import Record, is_gpu, rows_of, where
from semilib.speed.tables import BANK, WHOLE, how_parts, ms

BARE, BANK_COLOUR = "bare network", PALETTE[2]
PARTS = ("views", "network, losses, backward", "optimiser", "average, state, measurements")
CURVES = {"classes": "classes", "slots": "slots a class", "unlabelled images": "unlabelled images",
          "views": "views a step"}
MILLISECONDS = FuncFormatter(lambda seconds, _: f"{1000 * seconds:,g}")

Figure = tuple[Picture, pd.DataFrame]


def show(kind: str, rows: list[dict[str, Any]], title: str, caption: str) -> Figure:
    """A figure and its frame; without rows a figure that says so."""
    if rows:
        return paint.show(kind, pd.DataFrame(rows), title, caption)
    with paint.style():
        picture = paint.figure(0.5)
        paint.close(picture, f"No record has {kind} yet.", "")
    return picture, pd.DataFrame()


def panels(frame: pd.DataFrame, inches: Callable[[pd.DataFrame], float], columns: int = 1,
           **shared: Any) -> tuple[Picture, list[tuple[Any, pd.DataFrame]]]:
    """A figure with a row of axes for each record of a frame, titled by its column `panel`; pairs of axes and
    record."""
    groups = [group for _, group in frame.groupby("record", sort=False)]
    heights = [inches(group) for group in groups]
    picture = paint.figure(sum(heights) + 0.4 * len(heights) + 0.5)
    grid = picture.subplots(len(groups), columns, squeeze=False, height_ratios=heights, **shared)
    for row, group in zip(grid, groups, strict=True):
        row[0].set_title(" ")                                    # a place for the title, which may be too wide for it
        row[0].annotate(group["panel"].iloc[0], (0, 1), (0, 5), "axes fraction", "offset points", in_layout=False)
    return picture, list(zip(grid, groups, strict=True))


# ---- a step by part --------------------------------------------------------------------------------------------------


def parts(records: dict[str, Record]) -> Figure:
    """A SeMi step's time by part, each measured alone: a bar for each way to run it."""
    rows = []
    for name, record in records.items():
        for r in rows_of(record, "parts"):
            bar = {"record": name, "panel": f"{where(record)}; profile {record['settings']['profile']}",
                   "row": how_parts(record, r)}
            rows.append(bar | {key: r.get(key) for key in ("part", "median_s", "operators", "kernels")})
            if r["part"] == WHOLE:
                rows += [bar | {"part": BARE, "median_s": seconds} for seconds in bare_of(record, r["capture"])]
    return show("parts", rows, "A step of SeMi by part", "Median of each part, repeated alone, on a logarithmic "
                "axis; the memory bank is a share of the part above it; bare network: forward, backward and optimiser "
                "alone on a ready batch")


def bare_of(record: Record, capture: str) -> list[float]:
    """Seconds of the bare network's step in the precision and mode of a bar's parts, if it was measured."""
    mode = ("bf16", {"compile": "auto", "off": "graph"}[capture]) if is_gpu(record) else ("fp32", capture)
    return [r["median_s"] for r in rows_of(record, "steps")
            if (r["method"], r["precision"], r["capture"]) == ("bare", *mode)]


@paint.draws("parts")
def draw_parts(frame: pd.DataFrame) -> Picture:
    """A line a part, a mark for each way to run it."""
    lines = [WHOLE, BARE, *PARTS, BANK]
    picture, drawn = panels(frame, lambda group: 0.17 * len(lines) + 0.1)
    looks = dict(zip(frame["row"].unique(), zip(paint.PALETTE, "osD^vP"), strict=False))
    for (axes,), group in drawn:
        several = group["row"].nunique() > 1
        for way, points in paint.parts(group, "row").items():
            shade, marker = looks[way]
            at = [lines.index(part) for part in points["part"]]
            axes.plot(points["median_s"], at, color=shade, marker=marker, markersize=4.5, linestyle="none", label=way)
            for point, line in zip(points.itertuples(), at, strict=True):
                left = group.loc[group["part"] == point.part, "median_s"].idxmin() == point.Index and several
                axes.annotate(ms(point.median_s), (point.median_s, line), (-4 if left else 4, 0), "data",
                              "offset points", ha="right" if left else "left", va="center", fontsize=paint.SMALL,
                              color=shade)
        axes.set(xscale="log", ylim=(len(lines) - 0.4, -0.6))
        axes.set_yticks(range(len(lines)), lines)
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
        axes.grid(color="#e8e8e8", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(MILLISECONDS)
    axes.set_xlabel("milliseconds a step")
    handles = {way: line for axes, _ in drawn for line, way in zip(*axes[0].get_legend_handles_labels(), strict=True)}
    picture.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return picture


# ---- growth ----------------------------------------------------------------------------------------------------------


def growth(records: dict[str, Record]) -> Figure:
    """Step time against classes, slots, unlabelled images and views, from 0, with the memory bank's part."""
    keys = ("curve", "value", "method", "median_s", "min_s", "bank_s")
    rows = [{"record": name, **{key: r.get(key) for key in keys},
             "panel": f"{where(record)}; {r['network']}, profile {record['settings']['growth_profile']}"}
            for name, record in records.items() for r in rows_of(record, "growth")]
    return show("growth", rows, "How a step grows", "The fastest of the timed steps on random images of 32 x 32; "
                "one value changes at a time")


@paint.draws("growth")
def draw_growth(frame: pd.DataFrame) -> Picture:
    picture, drawn = panels(frame, lambda group: 1.4, len(CURVES), sharey="row")
    handles: dict[str, Any] = {}
    for line, group in drawn:
        for axes, (curve, label) in zip(line, CURVES.items(), strict=True):
            rows = group[group["curve"].str.startswith(curve)]
            handles = (_views if curve == "views" else _curves)(axes, rows) | handles
            axes.set(xlabel=label, xscale="linear" if curve == "views" else "log")
            axes.set_xticks(rows["value"].unique())
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.minorticks_off()
            axes.margins(x=0.25)
            axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
        line[0].set(ylim=(0, 1.12 * group["min_s"].max()), ylabel="milliseconds a step")
        line[0].yaxis.set_major_formatter(MILLISECONDS)
    paint.legend(picture, handles)
    return picture


def _curves(axes: Axes, rows: pd.DataFrame) -> dict[str, Any]:
    """A step of SeMi and its memory bank. Returns the legend's handles, as `_views` does."""
    handles: dict[str, Any] = {}
    for name, points in rows.groupby("curve", sort=False):
        look = {"color": paint.colour("semi"), "marker": paint.MARKERS["semi"]}
        if name.endswith("memory-mapped"):
            handles["SeMi, images memory-mapped"], = axes.plot(points["value"], points["min_s"], linestyle="--",
                                                               markerfacecolor="white", **look)
        else:
            handles["SeMi"], = axes.plot(points["value"], points["min_s"], **look)
            handles["its memory bank"], = axes.plot(points["value"], points["bank_s"], color=BANK_COLOUR, marker="v")
    return handles


def _views(axes: Axes, rows: pd.DataFrame) -> dict[str, Any]:
    """Methods of more and more views."""
    axes.plot(rows["value"], rows["min_s"], color=paint.RULE, linewidth=0.9)
    return {display(row.method): axes.plot(row.value, row.min_s, color=paint.colour(row.method), linestyle="none",
                                           marker=paint.MARKERS[row.method])[0] for row in rows.itertuples()}
