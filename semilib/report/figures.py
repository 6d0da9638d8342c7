"""The figures of records: records in, a figure and the frame that it is drawn from out.

    figure, frame = learning_curves(load(folders))
    paint.save(figure, frame, "figures/learning_curves")

`frames` makes the frame of each, and a function below draws it from that frame alone. So `paint.redraw` can draw it
again from its CSV. A figure holds finished runs of one scale (`labels.scale`). Its caption names the protocol and the
runs that are left out. Classes stand from the largest labelled one to the smallest. None of this needs torch, but for
reading the files of `thumbnails`.
"""
from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from semilib.errors import BadInput
from semilib.report import frames, paint
from semilib.report.frames import Groups
from semilib.report.labels import cell_in_words, display, labels, ordered, scale_in_words
from semilib.report.paint import FIGURE_WIDTH, INK, Picture, Shown
from semilib.report.records import GROUPS, Record, folders_below, load, result_of
from semilib.report.tables import overview
from semilib.training import metrics

NAMED = 20                      # up to so many classes are named on an axis
SHEET = 12                      # up to so many classes are shown on a sheet of thumbnails
COUNTED = 30                    # test images of a class; a confusion matrix of fewer prints their numbers
FROM_ZERO = 40                  # curves (%) that all stay above it are drawn from the ten below them, others from 0
PRINTED = 10                    # up to so many classes have their values printed in a confusion matrix


def report(folders: str | Path | Iterable[Path], out: str | Path, title: str = "") -> str:
    """Write the overview and the figures of records (a folder of them, or their folders). Returns the table's text,
    and a line for each figure that these records do not have."""
    records = load(folders_below(folders) if isinstance(folders, str | Path) else folders)
    table = overview(records, title)
    table.write(Path(out) / "table")
    undrawn = []
    for figure in (confusion_matrices, distributions, per_class_accuracy, learning_curves, pseudo_label_quality):
        try:
            paint.save(*figure(records), Path(out) / figure.__name__)
        except BadInput as error:
            undrawn.append(f"not drawn: {figure.__name__} ({error.wanted})")
    return "\n".join([table.text, *undrawn])


# ---- what all share --------------------------------------------------------------------------------------------------


def _show(kind: str, title: str, frame: pd.DataFrame, records: list[Record], groups: Groups, marks: str = "") -> Shown:
    """The figure of a frame with each label's look. The caption tells protocol, number of seeds, marks and absent runs.

    A look depends on all records, so it does not change with what a figure leaves out."""
    looks = pd.DataFrame.from_dict(paint.looks(labels(ordered(records))), orient="index")
    frame = frame.join(looks, on="label").fillna({"colour": INK, "marker": "", "line": ""})
    seeds = sorted({len(group) for group in groups.values()})
    several = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    named = list(zip(labels(records), records, strict=True))
    absent = [f"{display(label)} seed {r.seed} ({r.state})" for label, r in named
              if not r.done and r.state != "not started"]
    waiting = dict.fromkeys(display(label) for label, r in named if r.state == "not started")
    caption = [f"{scale_in_words(records)}, {'single runs' if seeds == [1] else several}", marks,
               f"not shown: {', '.join(absent)}" if absent else "",
               f"not all seeds started: {', '.join(waiting)}" if waiting else ""]
    return paint.show(kind, frame, title, "; ".join(filter(None, caption)))


def _band(groups: Groups) -> str:
    return "band: lowest to highest seed" if any(len(group) > 1 for group in groups.values()) else ""


def _folded(label: str) -> str:
    return "\n".join(textwrap.wrap(display(label), 34))


def _class_ticks(axes: Axes, names: list[str]) -> None:
    """Class names, or ranks where the classes are too many to be named."""
    if len(names) > NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)


def _class_label(names: list[str]) -> str:
    return "class, by labelled count" if len(names) <= NAMED else "class rank by labelled count"


# ---- confusion matrices ----------------------------------------------------------------------------------------------


def confusion_matrices(records: list[Record]) -> Shown:
    """Of the test images of each true class, the share (%) predicted as each class: `frames.confusion`."""
    groups = frames.finished(records, "confusion")
    few = ", ".join(metrics.counted(*r.run["result"]["right"]) for group in groups.values() for r in group
                    if r.config["dataset"] == "imagefolder")
    frame = frames.confusion(groups)
    marks = f"last evaluation: {few}" if few else "last evaluation"
    marks += "; numbers: test images" if _by_count(frame) else ""
    return _show("confusion_matrices", "Confusion of the classes on the test set", frame, records, groups, marks)


def _by_count(frame: pd.DataFrame) -> bool:
    """Whether a confusion matrix prints numbers of images, because a share of so few would say more than it knows."""
    images = frame.groupby(["label", "true"])["count"].sum()
    return bool((images[images > 0] < COUNTED).any())


@paint.draws("confusion_matrices")
def draw_confusion(frame: pd.DataFrame) -> Picture:
    parts, names = paint.parts(frame), list(frame["true"].unique())
    side = 2.1 if len(parts) > 1 else 3.0
    at_side = 0.062 * max(map(len, names)) if len(names) <= NAMED else 0.1
    picture, panels = paint.panels(len(parts), 3, (side, side + 0.33), (0.7 + at_side, 0.4 + at_side), share=True)
    for axes, (label, part) in zip(panels, parts.items(), strict=True):
        share, count = (part[column].to_numpy().reshape(len(names), -1) for column in ("share", "count"))
        image = _matrix(axes, share, count if _by_count(frame) else share, names)
        digits = metrics.decimals(count.sum())
        axes.set_title(f"{_folded(label)}\nbalanced, last evaluation: {part['balanced_accuracy'].iloc[0]:.{digits}f} %")
    bar = picture.colorbar(image, ax=picture.axes, shrink=0.85 if len(parts) <= 3 else 0.5, aspect=25, pad=0.015)
    bar.set_label("share of the true class (%)")
    bar.outline.set_linewidth(0.5)
    paint.outer_labels(panels, "predicted class", "true class, by labelled count")
    return picture


def _matrix(axes: Axes, share: np.ndarray, printed: np.ndarray, names: list[str]) -> Any:
    """share [C, C] in per cent, as colour; rows are true classes. printed [C, C]: the numbers in the cells."""
    image = axes.imshow(share, vmin=0, vmax=100, cmap="Blues")
    if len(names) <= PRINTED:
        for (row, column), value in np.ndenumerate(printed):
            if f"{value:.0f}" not in ("0", "nan"):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center",
                          color="white" if share[row, column] > 50 else INK, fontsize=paint.SMALL)
    _class_ticks(axes, names)
    if len(names) <= NAMED:
        axes.set_yticks(range(len(names)), names)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(length=2)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.5)
    return image


# ---- distributions ---------------------------------------------------------------------------------------------------


def distributions(records: list[Record]) -> Shown:
    """How the labelled set and each label's pseudo-labels are distributed: `frames.distributions`.

    Each stands beside the unlabelled pool's true distribution. Methods without pseudo-labels are left out."""
    groups = frames.finished(records, "pseudo_labels")
    spans = {r.log[-1]["step"] - ([0] + [e["step"] for e in r.log])[-1 - len(r.averaged)]
             for group in groups.values() for r in group}
    marks = f"pseudo-labels of the last {' or '.join(f'{n:,}' for n in sorted(spans))} steps"
    return _show("distributions", "Distribution of the pseudo-labels over the classes", frames.distributions(groups),
                 records, groups, marks)


@paint.draws("distributions")
def draw_distributions(frame: pd.DataFrame) -> Picture:
    sets = paint.parts(frame[frame["set"] != "unlabelled"])             # the labelled set has no label
    true = frame.loc[frame["set"] == "unlabelled", "share"].to_numpy()
    names, shares = list(sets[""]["class"]), frame["share"][frame["share"] > 0]
    low = shares.min() * (0.5 if (frame["share"] == 0).any() else 0.8)     # a class without any is marked below all
    below = 0.06 * max(map(len, names)) if len(names) <= NAMED else 0
    size = FIGURE_WIDTH / min(3, len(sets)), 2.1
    picture, panels = paint.panels(len(sets), 3, size, (0, 0.7 + below), share=True)
    handles: dict[str, Any] = {}
    for axes, (label, part) in zip(panels, sets.items(), strict=True):
        handles |= _against(axes, part["share"].to_numpy(), true, part["colour"].iloc[0], low)
        total, used = part["count"].sum(), part["used"].iloc[0]
        axes.set_title(f"{_folded(label)}\n{total:,} pseudo-labels ({used:.0f} % used)" if label else
                       f"Labelled set\n{total:,} images")
        _class_ticks(axes, names)
        axes.set_xlim(-0.7, len(names) - 0.3)
    panels[0].set_yscale("log")
    panels[0].set_ylim(low * 0.8, min(130, 1.5 * shares.max()))
    panels[0].yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    paint.outer_labels(panels, _class_label(names), "share of the set (%)")
    paint.legend(picture, handles)
    return picture


def _against(axes: Axes, share: np.ndarray, true: np.ndarray, colour: str, bottom: float) -> dict[str, Any]:
    """A set's shares as dots or, where it has none of a class, crosses; the true ones as dashes; stems between the two.

    Returns the legend's handles."""
    at, few, none = np.arange(len(share)), len(share) <= NAMED, np.nan_to_num(share) == 0
    ends, known = np.where(none, bottom, share), true > 0
    axes.vlines(at[known], ends[known], true[known], color=colour, linewidth=1.3 if few else 0.6, alpha=0.55)
    dashes = {"linestyle": "", "marker": "_", "markeredgewidth": 1.5, "color": "black"}
    dots = {"linestyle": "", "marker": "o"}
    crosses = {"linestyle": "", "marker": "x", "markeredgewidth": 1.2}
    axes.plot(at[known], true[known], zorder=3, markersize=11 if few else 3, **dashes)
    axes.plot(at[~none], share[~none], color=colour, zorder=4, markersize=4.5 if few else 2, **dots)
    axes.plot(at[none], ends[none], color=colour, zorder=4, markersize=4.5 if few else 3, **crosses)
    legend = {"true share in the unlabelled pool": (known.any(), {**dashes, "markersize": 11}),
              "share in the panel's set": (True, {**dots, "markersize": 4.5, "color": INK}),
              "none in the panel's set": (none.any(), {**crosses, "markersize": 4.5 if few else 3, "color": INK})}
    return {name: axes.plot([], [], **look)[0] for name, (drawn, look) in legend.items() if drawn}


# ---- accuracy class by class -----------------------------------------------------------------------------------------


def per_class_accuracy(records: list[Record]) -> Shown:
    """Recall (%) of each class on the test set: `frames.recall`. Whiskers: the standard deviation over seeds."""
    groups = frames.finished(records)
    frame = frames.recall(groups)
    spans = {(r.averaged[0]["step"], r.averaged[-1]["step"], len(r.averaged))
             for group in groups.values() for r in group}
    marks = " or ".join(f"mean of {n} evaluations, steps {a:,} to {b:,}" for a, b, n in sorted(spans))
    if frame["spread"].notna().any() and frame["class"].nunique() <= NAMED:
        marks += ", whiskers: standard deviation over seeds"
    return _show("per_class_accuracy", "Recall of each class on the test set", frame, records, groups, marks)


@paint.draws("per_class_accuracy")
def draw_recall(frame: pd.DataFrame) -> Picture:
    parts = paint.parts(frame)
    first = next(iter(parts.values()))
    names, labelled, start = list(first["class"]), list(first["labelled"]), 0
    picture = paint.figure(2.9)
    axes = picture.subplots()
    draw = _recall_bars if len(names) <= NAMED else _recall_lines
    handles = {display(label): draw(axes, part, i, len(parts)) for i, (label, part) in enumerate(parts.items())}
    for group, size in first["group"].value_counts(sort=False).items():
        axes.text(start + (size - 1) / 2, 1.01, group, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                  fontsize=8, color=INK)
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
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 103), ylabel="recall (%)")
    paint.percent(axes)
    paint.legend(picture, handles)
    return picture


def _recall_bars(axes: Axes, part: pd.DataFrame, i: int, n: int) -> Any:
    """The i-th of n labels."""
    wide = 0.8 / n
    x, spread = np.arange(len(part)) + (i - (n - 1) / 2) * wide, part["spread"].to_numpy()
    return axes.bar(x, part["recall"], width=0.9 * wide, color=part["colour"].iloc[0],
                    yerr=None if np.isnan(spread).all() else spread,
                    error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK})


def _recall_lines(axes: Axes, part: pd.DataFrame, *_: int) -> Any:
    look = part.iloc[0]
    line, = axes.plot(range(len(part)), part["recall"], color=look["colour"], marker=look["marker"], markersize=2,
                      linewidth=0.8)
    return line


# ---- curves ----------------------------------------------------------------------------------------------------------


def learning_curves(records: list[Record]) -> Shown:
    """Balanced accuracy (%) of the averaged network on the test set: `frames.accuracy`. Lines are means over seeds.

    The evaluations that the table averages are shaded where they are not all of them."""
    groups = frames.finished(records)
    return _show("learning_curves", "Balanced accuracy on the test set while training goes on", frames.accuracy(groups),
                 records, groups, _band(groups))


@paint.draws("learning_curves")
def draw_curves(frame: pd.DataFrame) -> Picture:
    last = frame["step"].max()
    picture = paint.figure(3.0)
    axes = picture.subplots()
    handles = paint.curves(axes, frame)
    starts = {part.loc[part["averaged"], "step"].min()
              for part in paint.parts(frame).values() if not part["averaged"].all()}
    if len(starts) == 1:
        axes.axvspan(*starts, last, color="#f0f0f0", linewidth=0, zorder=0)
        axes.text(last, 1.01, "averaged in the table", transform=axes.get_xaxis_transform(), ha="right", va="bottom",
                  fontsize=7, color=INK)
    paint.steps(axes, last)
    axes.set_ylabel("balanced accuracy (%)")
    least = frame["least"].min()
    axes.set_ylim(bottom=10 * (least // 10) if least > FROM_ZERO else 0)
    paint.percent(axes)
    paint.legend(picture, handles)
    return picture


def pseudo_label_quality(records: list[Record]) -> Shown:
    """How many unlabelled images count, and how often their pseudo-labels are right: `frames.pseudo_labels`.

    Lines are means over seeds. A gap: some seed has fewer than `frames.FEW` pseudo-labels there."""
    groups = frames.finished(records, "pseudo_labels")
    marks = [_band(groups), f"gap: fewer than {frames.FEW} pseudo-labels in some seed"]
    return _show("pseudo_label_quality", "Pseudo-labels while training goes on: how many count, how many are right",
                 frames.pseudo_labels(groups), records, groups, "; ".join(filter(None, marks)))


@paint.draws("pseudo_label_quality")
def draw_pseudo_labels(frame: pd.DataFrame) -> Picture:
    titles = {"used": "Used, of the images shown", "right": "Right, of those used",
              **{f"right: {name}": f"Right, of those used as {name}" for name in GROUPS}}
    shares = ["mean", "least", "greatest"]
    frame = frame.assign(**frame[shares].where(frame["images"] >= frames.FEW))
    picture = paint.figure(4.0)
    grid = picture.subplot_mosaic([["used", "right", "legend"], [f"right: {name}" for name in GROUPS]], sharey=True)
    corner = grid.pop("legend")
    corner.axis("off")
    for quantity, part in paint.parts(frame, "quantity").items():
        axes = grid[quantity]
        handles = paint.curves(axes, part)
        if part["mean"].isna().all():
            axes.text(0.5, 0.5, "hardly any counted,\nor truth unknown", transform=axes.transAxes, ha="center",
                      fontsize=paint.SMALL)
        paint.steps(axes, frame["step"].max())
        axes.set_ylim(0, 103)
        axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
        paint.percent(axes)
    for quantity, axes in grid.items():
        axes.set_visible(quantity in set(frame["quantity"]))
        axes.set_title(titles[quantity])
    for quantity in ("used", "right: head"):
        grid[quantity].set_ylabel("share (%)")
    corner.legend(handles.values(), handles, loc="center", handlelength=2.2)
    return picture


# ---- picking by the test set -----------------------------------------------------------------------------------------


def inflation(records: list[Record]) -> Shown:
    """How far the best evaluation on the test set lies above the mean of the last 20, by method and cell.

    The records may be of several cells and lengths. Frame: cell, evaluations, label, seed, best and mean_last (%),
    points (their difference), runs. Raises BadInput without a finished run."""
    done = [record for record in ordered(records) if record.done]
    if not done:
        raise BadInput("records", len(records), "at least one finished run")
    rows = []
    for record in done:
        result = result_of(record)
        best, mean = 100 * result["best_on_test"], 100 * result["mean_last"]
        rows.append({"cell": record.cell, "evaluations": len(record.log), "label": record.method,
                     "seed": record.seed, "best": best, "mean_last": mean, "points": best - mean,
                     "runs": frames.sources([record])})
    frame = pd.DataFrame(rows)
    return paint.show("inflation", frame, "What picking the best evaluation on the test set adds",
                      "Balanced accuracy: best evaluation on the test set less the mean of the last 20; dots: seeds, "
                      "bars: their mean")


@paint.draws("inflation")
def draw_inflation(frame: pd.DataFrame) -> Picture:
    names = list(dict.fromkeys(frame["label"]))[::-1]
    picture = paint.figure(0.155 * len(names) + 1.0)
    axes, handles = picture.subplots(), {}
    cells = paint.parts(frame, "cell")
    for i, (cell, part) in enumerate(cells.items()):
        look, off = paint.PALETTE[i % len(paint.PALETTE)], 0.5 * ((i + 0.5) / len(cells) - 0.5)
        places = [names.index(label) - off for label in part["label"]]
        handles[f"{cell_in_words(cell)} ({part['evaluations'].max()} evaluations)"], = axes.plot(
            part["points"], places, color=look, marker="o", markersize=2.6, alpha=0.6, linestyle="none")
        for label, points in part.groupby("label", sort=False)["points"]:
            middle = names.index(label) - off
            axes.plot([points.mean()] * 2, [middle - 0.2, middle + 0.2], color=look, linewidth=1.8)
    axes.set_yticks(range(len(names)), [display(name) for name in names])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("points")
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    paint.legend(picture, handles)
    return picture


# ---- pictures --------------------------------------------------------------------------------------------------------


def image_grid(images: np.ndarray, rows: list[str], columns: list[str], title: str = "") -> Shown:
    """Pictures in rows and columns: images uint8 [rows, columns, H, W, 3].

    Frame: row, column, mean_grey (0 to 255), picture (a PNG in base64)."""
    cells = [{"row": row, "column": column, "mean_grey": float(pixels.mean()), "picture": paint.encoded(pixels)}
             for row, line in zip(rows, images, strict=True) for column, pixels in zip(columns, line, strict=True)]
    return paint.show("image_grid", pd.DataFrame(cells), title, "")


@paint.draws("image_grid")
def draw_images(frame: pd.DataFrame) -> Picture:
    rows, columns = list(frame["row"].unique()), list(frame["column"].unique())
    picture = paint.figure(FIGURE_WIDTH * (len(rows) + 0.4) / (len(columns) + 1))
    grid = picture.subplots(len(rows), len(columns), squeeze=False)
    for axes, cell in zip(grid.flat, frame.itertuples(), strict=True):
        axes.imshow(paint.decoded(cell.picture), interpolation="nearest")
        axes.set(xticks=[], yticks=[], frame_on=False)
        if cell.row == rows[0]:
            axes.set_title(cell.column)
        if cell.column == columns[0]:
            axes.set_ylabel(cell.row, rotation=0, ha="right", va="center", labelpad=6)
    return picture


def thumbnails(predictions: pd.DataFrame, each: int = 4, side: int = 96) -> Shown:
    """Of each predicted class the `each` pictures that are predicted most surely, and the `each` least surely.

    predictions: of `Trained.predict`, for files. Classes stand from the one predicted most often on; of more than
    SHEET only those. Frame: class, total (pictures of it), column, confidence (%), name (of the file), picture (a PNG
    of side x side in base64). Raises BadInput for predictions of no files, and for files that are no pictures."""
    from semilib.data.pictures import read
    paths = [Path(str(name)) for name in predictions["picture"]]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise BadInput("predictions", missing[0], "predictions of files that are there")
    cells = []
    for name, total in predictions["class"].value_counts()[:SHEET].items():
        ranked = predictions[predictions["class"] == name].sort_values("confidence", ascending=False, kind="stable")
        surest, rest = ranked[:each], ranked[each:]
        for kind, part in (("surest", surest), ("least sure", rest[-each:])):
            for place, row in enumerate(part.itertuples()):
                path = Path(row.picture)
                images, wrong = read([path], side)
                if wrong:
                    raise BadInput("predictions", path.name, f"predictions of pictures: {wrong[path]}")
                cells.append({"class": name, "total": total, "column": f"{kind} {place}",
                              "confidence": 100 * row.confidence, "name": path.name,
                              "picture": paint.encoded(images[0].permute(1, 2, 0).numpy())})
    hidden = predictions["class"].nunique() - SHEET
    caption = (f"{len(paths):,} pictures: of each predicted class those predicted most and least surely, with the "
               f"confidence, which is not calibrated{f'; {hidden} more classes are not shown' if hidden > 0 else ''}")
    return paint.show("thumbnails", pd.DataFrame(cells).assign(each=each), "Predicted classes", caption)


@paint.draws("thumbnails")
def draw_thumbnails(frame: pd.DataFrame) -> Picture:
    classes, each = paint.parts(frame, "class"), int(frame["each"].iloc[0])
    picture = paint.figure(0.86 * len(classes) + 0.4)
    ratios = [1.0] * each + [0.25] + [1.0] * each
    grid = picture.subplots(len(classes), 2 * each + 1, squeeze=False, width_ratios=ratios)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for line, (name, part) in zip(grid, classes.items(), strict=True):
        line[0].set_ylabel(f"{name}\n{part['total'].iloc[0]:,}", rotation=0, ha="right", va="center", labelpad=6)
        for cell in part.itertuples():
            kind, place = cell.column.rsplit(" ", 1)
            axes = line[int(place) + (0 if kind == "surest" else each + 1)]
            axes.imshow(paint.decoded(cell.picture))
            axes.set_xlabel(f"{cell.confidence:.0f} %", labelpad=1.5, fontsize=7)
    for start, heading in ((0, "surest"), (each + 1, "least sure")):
        grid[0, start].set_title(heading, fontsize=8, loc="left")
    return picture
