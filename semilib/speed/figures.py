"""Figures of speed: records in, a figure and the frame that it is drawn from out; a panel or a row of panels a record.

    paint.save(*parts(records), "runs/speed/parts")         # a SeMi step by part
    paint.save(*growth(records), "runs/speed/growth")       # step time against classes, slots, images and views
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.ticker import EngFormatter, FuncFormatter

from semilib.report import paint
from semilib.report.paint import PALETTE, Picture
from semilib.speed.records import Record, is_gpu, rows_of, where
from semilib.speed.tables import BANK, WHOLE, how_parts, ms

BARE, BANK_COLOUR = "bare network", PALETTE[1]
PARTS = {"views": PALETTE[0], "network, losses, backward": PALETTE[2], "optimiser": PALETTE[4],
         "average, state, measurements": PALETTE[8]}
CURVES = {"classes": "classes", "slots": "slots a class", "unlabelled images": "unlabelled images",
          "views": "views a step"}
MILLISECONDS = FuncFormatter(lambda seconds, _: f"{1000 * seconds:,g}")

Figure = tuple[Picture, pd.DataFrame]


def show(kind: str, rows: list[dict[str, Any]], caption: str) -> Figure:
    """A figure and its frame; without rows a figure that says so."""
    if rows:
        return paint.show(kind, pd.DataFrame(rows), caption)
    with paint.style():
        picture = paint.figure(0.5)
        paint.close(picture, f"No record has {kind} yet.")
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
    return show("parts", rows, "A step of SeMi by part, each repeated alone: median. Lines: the whole step (black) and "
                "the network alone (grey)")


def bare_of(record: Record, capture: str) -> list[float]:
    """Seconds of the bare network's step in the precision and mode of a bar's parts, if it was measured."""
    mode = ("bf16", {"compile": "auto", "off": "graph"}[capture]) if is_gpu(record) else ("fp32", capture)
    return [r["median_s"] for r in rows_of(record, "steps")
            if (r["method"], r["precision"], r["capture"]) == ("bare", *mode)]


@paint.draws("parts")
def draw_parts(frame: pd.DataFrame) -> Picture:
    """The parts one after the other, the bank over the last; lines for the whole step and the bare network."""
    picture, drawn = panels(frame, lambda group: 0.45 * group["row"].nunique() + 0.2)
    for (axes,), group in drawn:
        bars = group.pivot(index="row", columns="part", values="median_s").reindex(group["row"].unique())
        bars = bars.reindex(columns=[*PARTS, BANK, WHOLE, BARE])
        left = bars[list(PARTS)].cumsum(axis=1).shift(axis=1, fill_value=0)
        for part, shade in PARTS.items():
            pieces = axes.barh(bars.index, bars[part], 0.5, left[part], color=shade, label=part)
            texts = [ms(s) if s > 0.06 * step else "" for s, step in zip(bars[part], bars[WHOLE], strict=True)]
            axes.bar_label(pieces, texts, label_type="center", color="white", fontsize=7, fontweight="bold")
        axes.barh(bars.index, bars[[BANK, part]].min(axis=1), 0.5, left[part], color=BANK_COLOUR, label=BANK)
        for name, shade in ((WHOLE, "black"), (BARE, "#909090")):
            axes.plot(bars[name], bars.index, "|", markersize=26, markeredgewidth=1.8, color=shade, label=name)
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter(MILLISECONDS)
    axes.set_xlabel("milliseconds a step")
    handles, names = axes.get_legend_handles_labels()
    picture.legend(handles, names, loc="outside lower center", ncols=4, fontsize=7.2, markerscale=0.4)
    return picture


# ---- growth ----------------------------------------------------------------------------------------------------------


def growth(records: dict[str, Record]) -> Figure:
    """Step time against classes, slots, unlabelled images and views, from 0, with the memory bank's part."""
    keys = ("curve", "value", "method", "median_s", "min_s", "bank_s")
    rows = [{"record": name, **{key: r.get(key) for key in keys},
             "panel": f"{where(record)}; {r['network']}, profile {record['settings']['growth_profile']}"}
            for name, record in records.items() for r in rows_of(record, "growth")]
    return show("growth", rows, "How a step grows: the fastest of the timed steps of SeMi (views: of Supervised, "
                "FixMatch, SeMi) on random images of 32 x 32. Dashed: images memory-mapped; orange: the memory bank")


@paint.draws("growth")
def draw_growth(frame: pd.DataFrame) -> Picture:
    picture, drawn = panels(frame, lambda group: 1.4, len(CURVES), sharey="row")
    for line, group in drawn:
        for axes, (curve, label) in zip(line, CURVES.items(), strict=True):
            rows = group[group["curve"].str.startswith(curve)]
            for name, points in rows.groupby("curve", sort=False):
                mapped = name.endswith("memory-mapped")
                axes.plot(points["value"], points["min_s"], "s--" if mapped else "o-", color=paint.colour("semi"))
                if not mapped:
                    axes.plot(points["value"], points["bank_s"], "D-", color=BANK_COLOUR, markersize=3)
            axes.set(xlabel=label, xscale="linear" if curve == "views" else "log")
            axes.set_xticks(rows["value"].unique())
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.minorticks_off()
            axes.margins(x=0.25)
        line[0].set(ylim=(0, 1.12 * group["min_s"].max()), ylabel="ms a step")
        line[0].yaxis.set_major_formatter(MILLISECONDS)
    return picture
