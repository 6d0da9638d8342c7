"""The figures of records: records in, a figure and the frame that it is drawn from out.

    figure, frame = learning_curves(load(folders))
    paint.save(figure, frame, "figures/learning_curves")

Each figure has two halves: `frames` makes its frame, and a function below draws it from that frame alone, so that `paint.redraw` can
draw it again from the CSV. Figures hold finished runs of one scale (`labels.scale`), which their caption names; runs that are left out
are named there too. Needs no torch.
"""
from __future__ import annotations

import base64
import io
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from semilib.report import frames, paint
from semilib.report.frames import Groups
from semilib.report.labels import display, labels, ordered, scale
from semilib.report.paint import FIGURE_WIDTH, INK, Picture
from semilib.report.records import GROUPS, Record

NAMED = 20                      # up to so many classes are named on an axis
PRINTED = 10                    # up to so many classes have their values printed in a confusion matrix


# ---- what all share --------------------------------------------------------------------------------------------------


def _caption(records: list[Record], groups: Groups, more: str = "") -> str:
    """Scale, number of seeds, what marks stand for, and the runs that are not shown because they are not done."""
    seeds = sorted({len(group) for group in groups.values()})
    several = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    absent = [f"{display(label)} seed {r.seed} ({r.state})"
              for label, r in zip(labels(records), records, strict=True) if not r.done]
    parts = [f"{scale(records)}, {'single runs' if seeds == [1] else several}", more,
             f"not shown: {', '.join(absent)}" if absent else ""]
    return "; ".join(filter(None, parts))


def _with_looks(frame: pd.DataFrame, records: list[Record]) -> pd.DataFrame:
    """The frame with the columns of `paint.looks`. A label keeps its look whatever a figure leaves out."""
    looks = paint.looks(labels(ordered(records)))
    return frame.join(pd.DataFrame.from_dict(looks, orient="index"), on="label").fillna({"colour": INK, "marker": "", "line": ""})


def _has_seeds(groups: Groups) -> bool:
    return any(len(group) > 1 for group in groups.values())


def _folded(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 34))


def _class_ticks(axes: Axes, names: list[str]) -> None:
    """Class names, or ranks where the classes are too many to be named."""
    if len(names) > NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)


def _class_label(names: list[str]) -> str:
    return "class" + (", by labelled count" if len(names) <= NAMED else " rank by labelled count")


# ---- confusion matrices ----------------------------------------------------------------------------------------------


def confusion_matrices(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Confusion of the last evaluation, a panel a label: of the test images of each true class, the share (%) predicted as each class;
    seeds are added up. Classes from the largest labelled one to the smallest. Frame: `frames.confusion`."""
    groups = frames.finished(records)
    return paint.show("confusion_matrices", frames.confusion(groups), _caption(records, groups, "last evaluation"))


@paint.draws("confusion_matrices")
def draw_confusion(frame: pd.DataFrame) -> Picture:
    parts = paint.parts(frame)
    names = list(frame["true"].unique())
    side = 2.1 if len(parts) > 1 else 3.0
    names_at_side = 0.062 * max(map(len, names)) if len(names) <= NAMED else 0.1
    picture, panels = paint.panels(len(parts), 3, (side, side + 0.33), (0.7 + names_at_side, 0.4 + names_at_side), sharex=True,
                                   sharey=True)
    for axes, (label, part) in zip(panels, parts.items(), strict=True):
        image = _matrix(axes, part["share"].to_numpy().reshape(len(names), -1), names)
        axes.set_title(f"{_folded(display(label))}\nbalanced accuracy {part['balanced_accuracy'].iloc[0]:.1f} %", fontsize=8)
    bar = picture.colorbar(image, ax=picture.axes, shrink=0.85 if len(parts) <= 3 else 0.5, aspect=25, pad=0.015)
    bar.set_label("share of the true class (%)")
    bar.outline.set_linewidth(0.5)
    paint.outer_labels(panels, "predicted class", "true class, by labelled count")
    return picture


def _matrix(axes: Axes, share: np.ndarray, names: list[str]) -> Any:
    """share [C, C] in per cent; rows are true classes."""
    image = axes.imshow(share, vmin=0, vmax=100, cmap="Blues")
    if len(names) <= PRINTED:
        for (row, column), value in np.ndenumerate(share):
            if f"{value:.0f}" not in ("0", "nan"):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.2 if len(names) > 5 else 7.5,
                          color="white" if value > 50 else INK)
    _class_ticks(axes, names)
    if len(names) <= NAMED:
        axes.set_yticks(range(len(names)), names)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(length=2)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
    return image


# ---- distributions ---------------------------------------------------------------------------------------------------


def distributions(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """How classes are distributed in the labelled set and among the pseudo-labels, each against the true distribution of the unlabelled
    pool: shares (%) on a log scale, classes from the largest labelled one to the smallest. Methods without pseudo-labels are left out.
    Frame: `frames.distributions`, and each label's look."""
    groups = frames.finished(records, "pseudo_labels")
    spans = sorted({r.log[-1]["step"] - ([0] + [e["step"] for e in r.log])[-1 - len(r.averaged)]
                    for group in groups.values() for r in group})
    caption = _caption(records, groups, f"pseudo-labels of the last {' or '.join(f'{n:,}' for n in spans)} steps")
    return paint.show("distributions", _with_looks(frames.distributions(groups), records), caption)


@paint.draws("distributions")
def draw_distributions(frame: pd.DataFrame) -> Picture:
    sets = paint.parts(frame[frame["set"] != "unlabelled"])             # the labelled set has no label
    true = frame.loc[frame["set"] == "unlabelled", "share"].to_numpy()
    names = list(sets[""]["class"])
    shares = frame["share"][frame["share"] > 0]
    low = shares.min() * (0.5 if (frame["share"] == 0).any() else 0.8)          # a class without any is marked below the others
    below = 0.06 * max(map(len, names)) if len(names) <= NAMED else 0
    picture, panels = paint.panels(len(sets), 3, (FIGURE_WIDTH / min(3, len(sets)), 2.1), (0, 0.7 + below), sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for axes, (label, part) in zip(panels, sets.items(), strict=True):
        handles |= _against(axes, part["share"].to_numpy(), true, part["colour"].iloc[0], low)
        total, used = part["count"].sum(), part["used"].iloc[0]
        axes.set_title(f"{_folded(display(label))}\n{total:,} pseudo-labels ({used:.0f} % used)" if label else
                       f"Labelled set\n{total:,} images", fontsize=8)
        _class_ticks(axes, names)
        axes.set_xlim(-0.7, len(names) - 0.3)
    axes = panels[0].yaxis
    panels[0].set_yscale("log")
    panels[0].set_ylim(low * 0.8, min(130, 1.5 * shares.max()))
    axes.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.set_minor_locator(NullLocator())
    axes.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    paint.outer_labels(panels, _class_label(names), "share of the set (%)")
    paint.legend(picture, list(handles.values()), list(handles))
    return picture


def _against(axes: Axes, share: np.ndarray, true: np.ndarray, shade: str, bottom: float) -> dict[str, Any]:
    """A set's shares as dots, the true ones as dashes, a stem between the two; a cross where the set has none of a class. Returns what
    the legend shows of them."""
    at, few, none = np.arange(len(share)), len(share) <= NAMED, np.nan_to_num(share) == 0
    ends, known = np.where(none, bottom, share), true > 0
    axes.vlines(at[known], ends[known], true[known], color=shade, linewidth=1.3 if few else 0.6, alpha=0.55)
    dashes = {"linestyle": "", "marker": "_", "markeredgewidth": 1.5, "color": "black"}
    dots = {"linestyle": "", "marker": "o"}
    crosses = {"linestyle": "", "marker": "x", "markeredgewidth": 1.2}
    axes.plot(at[known], true[known], zorder=3, markersize=11 if few else 3, **dashes)
    axes.plot(at[~none], share[~none], color=shade, zorder=4, markersize=4.5 if few else 2, **dots)
    axes.plot(at[none], ends[none], color=shade, zorder=4, markersize=4.5 if few else 3, **crosses)
    legend = {"true share in the unlabelled pool": (known.any(), {**dashes, "markersize": 11}),
              "share in the panel's set": (True, {**dots, "markersize": 4.5, "color": INK}),
              "none in the panel's set": (none.any(), {**crosses, "markersize": 4.5 if few else 3, "color": INK})}
    return {name: axes.plot([], [], **kind)[0] for name, (drawn, kind) in legend.items() if drawn}


# ---- accuracy class by class -----------------------------------------------------------------------------------------


def per_class_accuracy(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Recall (%) of each class on the test set, classes from the largest labelled one to the smallest with their labelled counts.
    Whiskers, from two seeds on: the standard deviation over them. Frame: `frames.recall`, and each label's look."""
    groups = frames.finished(records)
    spans = {(r.averaged[0]["step"], r.averaged[-1]["step"], len(r.averaged)) for group in groups.values() for r in group}
    frame = _with_looks(frames.recall(groups), records)
    whiskers = ", whiskers: standard deviation over seeds" if _has_seeds(groups) and frame["class"].nunique() <= NAMED else ""
    rule = " or ".join(f"mean of {n} evaluations, steps {a:,} to {b:,}" for a, b, n in sorted(spans))
    return paint.show("per_class_accuracy", frame, _caption(records, groups, rule + whiskers))


@paint.draws("per_class_accuracy")
def draw_recall(frame: pd.DataFrame) -> Picture:
    parts = paint.parts(frame)
    first = next(iter(parts.values()))
    names, labelled = list(first["class"]), list(first["labelled"])
    picture = paint.figure(2.9)
    axes = picture.subplots()
    draw = _recall_bars if len(names) <= NAMED else _recall_lines
    handles = [draw(axes, part, i, len(parts)) for i, part in enumerate(parts.values())]
    start = 0
    for group, size in first["group"].value_counts(sort=False).items():
        axes.text(start + (size - 1) / 2, 1.01, group, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8,
                  color=INK)
        if start:
            axes.axvline(start - 0.5, color="#b0b0b0", linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
        start += size
    if len(names) > NAMED:
        _class_ticks(axes, names)
        axes.set_xlabel(f"{_class_label(names)}; {labelled[0]:,} to {labelled[-1]:,} labelled images")
    else:
        long = sum(map(len, names)) > 75
        ticks = [f"{name} ({n:,})" if long else f"{name}\n{n:,}" for name, n in zip(names, labelled, strict=True)]
        axes.set_xticks(range(len(names)), ticks, rotation=90 if long else 0)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel("class, with its labelled images")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 103)
    axes.set_ylabel("recall (%)")
    paint.percent(axes)
    paint.legend(picture, handles, [display(label) for label in parts])
    return picture


def _recall_bars(axes: Axes, part: pd.DataFrame, i: int, n: int) -> Any:
    """The i-th of n labels."""
    wide = 0.8 / n
    return axes.bar(np.arange(len(part)) + (i - (n - 1) / 2) * wide, part["recall"], width=0.9 * wide,
                    color=part["colour"].iloc[0], yerr=part["spread"].to_numpy() if part["seeds"].iloc[0] > 1 else None,
                    error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK})


def _recall_lines(axes: Axes, part: pd.DataFrame, *_: int) -> Any:
    first = part.iloc[0]
    return axes.plot(range(len(part)), part["recall"], color=first["colour"], marker=first["marker"], markersize=2, linewidth=0.8)[0]


# ---- curves ----------------------------------------------------------------------------------------------------------


def learning_curves(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Balanced accuracy (%) of the averaged network on the test set against training steps: the mean over seeds, and a band from the
    lowest to the highest seed. The evaluations that the table averages are shaded where they are not all of them. Frame:
    `frames.accuracy`, and each label's look."""
    groups = frames.finished(records)
    return paint.show("learning_curves", _with_looks(frames.accuracy(groups), records), _caption(records, groups, _band(groups)))


def _band(groups: Groups) -> str:
    return "band: lowest to highest seed" if _has_seeds(groups) else ""


@paint.draws("learning_curves")
def draw_curves(frame: pd.DataFrame) -> Picture:
    parts, last = paint.parts(frame), frame["step"].max()
    picture = paint.figure(3.0)
    axes = picture.subplots()
    handles = [paint.mean_line(axes, part, i / len(parts)) for i, part in enumerate(parts.values())]
    starts = {part.loc[part["averaged"], "step"].min() for part in parts.values() if not part["averaged"].all()}
    if len(starts) == 1:
        axes.axvspan(*starts, last, color="#f0f0f0", linewidth=0, zorder=0)
        axes.text(last, 1.01, "averaged in the table", transform=axes.get_xaxis_transform(), ha="right", va="bottom", fontsize=7,
                  color=INK)
    paint.steps(axes, last)
    axes.set_ylabel("balanced accuracy (%)")
    axes.set_ylim(bottom=0)
    paint.percent(axes)
    paint.legend(picture, handles, [display(label) for label in parts])
    return picture


def pseudo_label_quality(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Pseudo-labels over training steps: the share (%) of the unlabelled images shown whose pseudo-label counted, and the share (%) of
    those that was right, for all and for those that name a head, medium or tail class. Mean over seeds, band from the lowest to the
    highest. A gap: no pseudo-label counted. Frame: `frames.pseudo_labels`, and each label's look."""
    groups = frames.finished(records, "pseudo_labels")
    frame = _with_looks(frames.pseudo_labels(groups), records)
    return paint.show("pseudo_label_quality", frame, _caption(records, groups, _band(groups)))


@paint.draws("pseudo_label_quality")
def draw_pseudo_labels(frame: pd.DataFrame) -> Picture:
    titles = {"used": "Used, of the unlabelled images shown", "right": "Right, of the pseudo-labels used",
              **{f"right: {name}": f"Right, of those for {name} classes" for name in GROUPS}}
    picture = paint.figure(4.3)
    grid = picture.subplot_mosaic([["used"] * 3 + ["right"] * 3, [f"right: {name}" for name in GROUPS for _ in range(2)]],
                                  sharex=True, sharey=True)
    for quantity, part in paint.parts(frame, "quantity").items():
        axes, lines = grid[quantity], paint.parts(part)
        handles = [paint.mean_line(axes, line, i / len(lines)) for i, line in enumerate(lines.values())]
        if part["mean"].isna().all():
            axes.text(0.5, 0.5, "none counted, or truth unknown", transform=axes.transAxes, ha="center", fontsize=7)
        paint.steps(axes, frame["step"].max())
        axes.set_ylim(0, 103)
        paint.percent(axes)
    for quantity, axes in grid.items():
        axes.set_visible(quantity in set(frame["quantity"]))
        axes.set_title(titles[quantity], fontsize=8)
        axes.label_outer()
    for quantity in ("used", "right: head"):
        grid[quantity].set_ylabel("share (%)")
    paint.legend(picture, handles, [display(label) for label in lines])
    return picture


# ---- pictures --------------------------------------------------------------------------------------------------------


def image_grid(images: np.ndarray, rows: list[str], columns: list[str], title: str = "") -> tuple[Figure, pd.DataFrame]:
    """Pictures in rows and columns: images uint8 [rows, columns, H, W, 3]. Frame: row, column, mean_grey (0 to 255), picture (a PNG,
    base64)."""
    def encoded(pixels: np.ndarray) -> str:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        return base64.b64encode(file.getvalue()).decode()
    cells = [{"row": row, "column": column, "mean_grey": float(pixels.mean()), "picture": encoded(pixels)}
             for row, line in zip(rows, images, strict=True) for column, pixels in zip(columns, line, strict=True)]
    return paint.show("image_grid", pd.DataFrame(cells), title)


@paint.draws("image_grid")
def draw_images(frame: pd.DataFrame) -> Picture:
    rows, columns = list(frame["row"].unique()), list(frame["column"].unique())
    picture = paint.figure(FIGURE_WIDTH * (len(rows) + 0.4) / (len(columns) + 1))
    grid = picture.subplots(len(rows), len(columns), squeeze=False)
    for axes, cell in zip(grid.flat, frame.itertuples(), strict=True):
        axes.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(cell.picture)))), interpolation="nearest")
        axes.set(xticks=[], yticks=[], frame_on=False)
        if cell.row == rows[0]:
            axes.set_title(cell.column, fontsize=8)
        if cell.column == columns[0]:
            axes.set_ylabel(cell.row, rotation=0, ha="right", va="center", labelpad=6)
    return picture
