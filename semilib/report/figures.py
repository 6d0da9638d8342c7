"""The figures of the study, one function each: records in, a figure and the frame of what it draws out.

    figure, frame = learning_curves(load_all(folders))
    save(figure, frame, "figures/learning_curves")          # .png, and .csv with the same numbers and the keys of the runs

A method has one colour and one marker in all figures. Figures hold finished runs of one scale (`tables.scale`), which their
first line names; runs that are left out are named there too. Needs no torch, opens no window and leaves matplotlib's settings
alone.
"""
from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import textwrap
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from semilib.errors import BadInput
from semilib.report.tables import GROUPS, Record, csv, display, labels, ordered, recalls, result_of, scale, stem, window, write_bytes

WIDTH = 7.0                     # inches; at DPI, what a README shows without shrinking it much
DPI = 150
NAMED = 20                      # up to so many classes are named on an axis
PRINTED = 10                    # up to so many classes have their values printed in a confusion matrix

_SAFE = [matplotlib.colors.to_hex(c) for c in seaborn.color_palette("colorblind")]
COLOURS = {"supervised": "#6b6b6b", "fixmatch": _SAFE[0], "semi": _SAFE[3]}
MARKERS = {"supervised": "o", "fixmatch": "s", "semi": "D"}
SPARE = [_SAFE[2], _SAFE[4], _SAFE[1], _SAFE[9], _SAFE[5], _SAFE[6]]
SPARE_MARKERS = ["^", "v", "P", "X", "<", ">"]
SHADES = [(1, 0.0), (1, 0.45), (0, 0.45), (1, 0.68), (0, 0.62)]         # of a method's variants, towards white (1), black (0)
LINES = ["-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2))]
INK = "#404040"


# ---- style -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The style of every figure, inside; the settings of the caller come back."""
    ours = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper"),
            "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8.5, "axes.titlepad": 5,
            "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 8, "legend.frameon": False,
            "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3,
            "ytick.major.size": 3, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
            "lines.linewidth": 1.4, "lines.markersize": 4, "savefig.facecolor": "white", "figure.facecolor": "white"}
    with matplotlib.rc_context(ours):
        yield


class Picture(Figure):
    """A figure that no window or notebook cell holds open; a notebook shows it as the value of a cell."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """A figure as PNG; equal figures give equal bytes."""
    with style():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def colour(method: str) -> str:
    """A method's colour, the same in every figure. Methods without one of their own get theirs from their name."""
    return COLOURS.get(method) or SPARE[zlib.crc32(method.encode()) % len(SPARE)]


def looks(names: list[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each label. Variants of a method, in the order given and the plain one first, have lighter
    and darker shades of its colour and lines of their own."""
    found, place = {}, {method: i for i, method in enumerate(dict.fromkeys(n.split(" ")[0] for n in names))}
    base = {method: (colour(method), MARKERS.get(method)) for method in place}
    taken: set[tuple[str, str]] = set()
    for method in sorted(set(base) - set(COLOURS)):    # two names can fall on one colour: the later in the alphabet moves on
        start, n = SPARE.index(colour(method)), len(SPARE)
        pairs = [(SPARE[(start + i) % n], SPARE_MARKERS[(start + i + again) % n]) for again in range(n) for i in range(n)]
        base[method] = next((pair for pair in pairs if pair not in taken), pairs[0])       # where colours run out: other markers
        taken.add(base[method])
    variants: Counter = Counter()
    for label in sorted(dict.fromkeys(names), key=lambda n: (place[n.split(" ")[0]], " " in n)):
        method = label.split(" ")[0]
        towards, share = SHADES[variants[method] % len(SHADES)]
        shade = tuple((1 - share) * c + share * towards for c in to_rgb(base[method][0]))
        found[label] = {"color": shade, "marker": base[method][1], "linestyle": LINES[variants[method] % len(LINES)]}
        variants[method] += 1
    return found


def _picture(height: float, width: float = WIDTH) -> Picture:
    figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.05)
    return figure


def _finish(figure: Picture, records: list[Record], drawn: list[Record], what: str = "") -> None:
    """The first line, and the layout under our style, so that later drawing adds nothing of the caller's settings."""
    seeds = sorted({len(group) for group in _by_label(drawn).values()})
    several = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    left = [f"{display(label)} seed {r.seed} ({r.run['status'].replace('running', 'unfinished')})"
            for label, r in zip(labels(records), records, strict=True) if not r.done]
    text = f"{scale(records)}, {'single runs' if seeds == [1] else several}"
    text += (f"; {what}" if what else "") + (f"; not shown: {', '.join(left)}" if left else "")
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 17.5), break_on_hyphens=False)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=7.5, color=INK)
    for _ in range(2):                      # panels of a fixed shape find their place in the second round
        figure.draw_without_rendering()
    figure.set_layout_engine("none")        # a figure looks the same however often it is drawn


def _done(records: list[Record], needed: str = "") -> list[Record]:
    """The finished records, checked and in every figure's order; needed="pseudo_labels": those that logged any."""
    scale(records)
    done = [r for r in ordered(records) if r.done]
    done = [r for r in done if not needed or r.log[-1][needed]]
    if not done:
        raise BadInput("records", [r.run["status"] for r in records], "at least one finished run" +
                       (f" of a method that has {needed.replace('_', '-')}" if needed else ""))
    for r in done:
        result_of(r)                          # refuses a log that is not the run's
    return done


def _by_label(records: list[Record], named: list[Record] | None = None) -> dict[str, list[Record]]:
    """Records by label: the labels that they have among `named`, which do not change with what a figure leaves out."""
    among = named or records
    name = {id(r): label for r, label in zip(among, labels(among), strict=True)}
    found: dict[str, list[Record]] = {}
    for r in records:
        found.setdefault(name[id(r)], []).append(r)
    return found


def _runs(group: list[Record]) -> str:
    """Which runs a row of a frame rests on."""
    return " ".join(f"s{r.seed}:{r.id}" for r in group)


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _steps(axes: Axes, total: int) -> str:
    """Ticks of training steps that end with the run, where a round distance does; returns the axis label."""
    unit = 1000 if total >= 10_000 else 1
    axes.set_xlim(0, total)
    for parts in (4, 5, 6, 3):
        digits = f"{total / parts:.6g}".replace(".", "").strip("0")
        if total % parts == 0 and digits in ("1", "2", "25", "3", "4", "5", "6"):
            axes.set_xticks([i * total // parts for i in range(parts + 1)])
            break
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / unit:,.6g}"))
    return "training steps" + (" (thousands)" if unit > 1 else "")


def _legend(figure: Picture, handles: list[Any], names: list[str]) -> None:
    """Below the panels, in as few rows as fit; the figure grows by the rows after the first."""
    room = 15.5 * figure.get_figwidth()
    for rows in range(1, len(names) + 1):
        columns = math.ceil(len(names) / rows)
        if sum(max(len(n) for n in names[i * rows:(i + 1) * rows] or [""]) + 7 for i in range(columns)) <= room:
            break
    figure.set_figheight(figure.get_figheight() + 0.17 * (math.ceil(len(names) / columns) - 1))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=2.2, columnspacing=1.8)


def _grid(panels: int, width: float, height: float, extra: tuple[float, float]) -> tuple[Picture, list[Axes]]:
    """A figure of `panels` equal panels (inches each) with shared axes, in rows of at most three. A row that is not full is
    the first, so that every column ends at the bottom. extra: inches for what is beside and above the panels."""
    columns = 2 if panels == 4 else min(3, panels)
    rows = math.ceil(panels / columns)
    figure = _picture(rows * height + extra[1], columns * width + extra[0])
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    missing = rows * columns - panels
    for axes in grid[0, columns - missing:]:
        axes.set_visible(False)
    return figure, [*grid[0, :columns - missing], *grid[1:].flat]


def _outer(panels: list[Axes], x: str, y: str) -> None:
    """Axis labels of a `_grid`, at its left and bottom."""
    for axes in panels:
        place = axes.get_subplotspec()
        axes.set_xlabel(x if place.is_last_row() else "")
        axes.set_ylabel(y if place.is_first_col() else "")


# ---- figures ---------------------------------------------------------------------------------------------------------


def confusion_matrices(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Confusion of the last evaluation, a panel a label: of the test images of each true class, the share (%) predicted as
    each class; seeds are added up. Classes from the largest labelled one to the smallest.

    Frame: label, true, predicted (class names), count (images, all seeds), share (%), balanced_accuracy (%, of the panel's
    title: last evaluation, mean over seeds), runs.
    """
    done = _done(records)
    groups = _by_label(done, records)
    order = [k for part in done[0].groups.values() for k in part]
    names = [done[0].run["split"]["class_names"][k] for k in order]
    side = 2.1 if len(groups) > 1 else 3.0
    names_at_side = 0.062 * max(map(len, names)) if len(names) <= NAMED else 0.1
    rows_of: list[pd.DataFrame] = []
    with style():
        figure, panels = _grid(len(groups), side, side + 0.33, (0.7 + names_at_side, 0.4 + names_at_side))
        for i, (label, group) in enumerate(groups.items()):
            count = np.sum([r.log[-1]["confusion"] for r in group], axis=0)[np.ix_(order, order)]
            total = count.sum(1, keepdims=True)
            share = np.where(total > 0, 100 * count / np.maximum(total, 1), math.nan)
            accuracy = 100 * float(np.mean([r.log[-1]["balanced_accuracy"] for r in group]))
            image = _matrix(panels[i], share, names)
            panels[i].set_title(f"{_folded(display(label))}\nbalanced accuracy {accuracy:.1f} %", fontsize=8)
            rows_of.append(pd.DataFrame({"label": label, "true": np.repeat(names, len(names)), "predicted": names * len(names),
                                         "count": count.ravel(), "share": share.ravel(), "balanced_accuracy": accuracy,
                                         "runs": _runs(group)}))
        bar = figure.colorbar(image, ax=figure.axes, shrink=0.85 if len(groups) <= 3 else 0.5, aspect=25, pad=0.015)
        bar.set_label("share of the true class (%)")
        bar.outline.set_linewidth(0.5)
        _outer(panels, "predicted class", "true class, by labelled count")
        _finish(figure, records, done, "last evaluation")
    return figure, pd.concat(rows_of, ignore_index=True)


def _matrix(axes: Axes, share: np.ndarray, names: list[str]) -> Any:
    image = axes.imshow(share, vmin=0, vmax=100, cmap="Blues")
    classes = len(names)
    if classes <= PRINTED:
        for (row, column), value in np.ndenumerate(share):
            if f"{value:.0f}" not in ("0", "nan"):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.2 if classes > 5 else 7.5,
                          color="white" if value > 50 else INK)
    if classes <= NAMED:
        long = max(map(len, names)) > 2
        axes.set_xticks(range(classes), names, rotation=90 if long else 0)
        axes.set_yticks(range(classes), names)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(length=2)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
    return image


def _folded(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 34))


def distributions(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """How classes are distributed in the labelled set and among the pseudo-labels, each against the true distribution of the
    unlabelled pool: shares (%) on a log scale, classes from the largest labelled one to the smallest. Pseudo-labels are those
    that counted in the steps of the evaluations that the table averages, seeds added up. Methods without pseudo-labels are left out.

    Frame: set ("labelled", "unlabelled", "pseudo-labels"), label, class, labelled (images, for the order), count (images),
    share (%), runs.
    """
    done = _done(records, "pseudo_labels")
    groups = _by_label(done, records)
    split = done[0].run["split"]
    order = [k for part in done[0].groups.values() for k in part]
    names, labelled = ([split[key][k] for k in order] for key in ("class_names", "labelled_counts"))
    true = np.array(split["unlabelled_counts"])[order]

    def part(which: str, label: str, count: np.ndarray, runs: str) -> pd.DataFrame:
        share = 100 * count / count.sum() if count.sum() else np.full(len(count), math.nan)
        return pd.DataFrame({"set": which, "label": label, "class": names, "labelled": labelled, "count": count, "share": share,
                             "runs": runs})

    every = _runs(done)
    parts = [part("labelled", "", np.array(labelled), every), part("unlabelled", "", true, every)]
    titles = [f"Labelled set\n{sum(labelled):,} images"]
    for label, group in groups.items():
        found = _pool([e for r in group for e in window(r)])["pseudo_labels"]
        count, share = np.array(found["counted"])[order], found["share"]
        parts.append(part("pseudo-labels", label, count, _runs(group)))
        titles.append(f"{_folded(display(label))}\n{count.sum():,} pseudo-labels ({100 * share:.0f} % used)")
    frame = pd.concat(parts, ignore_index=True)

    look, sets = looks(labels(ordered(records))), [parts[0], *parts[2:]]
    shares = frame["share"][frame["share"] > 0]
    low = shares.min() * (0.5 if (frame["share"] == 0).any() else 0.8)          # a class without any is marked below the others
    with style():
        below = 0.06 * max(map(len, names)) if len(names) <= NAMED else 0
        figure, panels = _grid(len(sets), WIDTH / min(3, len(sets)), 2.1, (0, 0.7 + below))
        handles: dict[str, Any] = {}
        for i, (axes, shown, title) in enumerate(zip(panels, sets, titles, strict=True)):
            own = look[shown["label"].iloc[0]]["color"] if i else INK
            handles = {**handles, **_against(axes, shown["share"].to_numpy(), parts[1]["share"].to_numpy(), own, low)}
            axes.set_title(title, fontsize=8)
            _class_ticks(axes, names, labelled)
        first = panels[0]
        first.set_yscale("log")
        first.set_ylim(low * 0.8, min(130, 1.5 * shares.max()))
        first.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        first.yaxis.set_minor_locator(NullLocator())
        first.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        _outer(panels, _class_label(names), "share of the set (%)")
        _legend(figure, list(handles.values()), list(handles))
        spans = sorted({r.log[-1]["step"] - ([0] + [e["step"] for e in r.log])[-1 - len(window(r))] for r in done})
        _finish(figure, records, done, f"pseudo-labels of the last {' or '.join(f'{n:,}' for n in spans)} steps")
    return figure, frame


def _pool(evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Several evaluations as one at the last one's step, their pseudo-labels' counts added up."""
    found = [e["pseudo_labels"] for e in evaluations]
    counted, right, seen = (np.sum([f[name] for f in found], axis=0) for name in ("counted", "right", "seen"))
    known = seen.sum() > 0 and counted.sum() > 0
    return {"step": evaluations[-1]["step"], "pseudo_labels": {
        "share": counted.sum() / max(1, sum(f["shown"] for f in found)), "counted": counted.tolist(),
        "correct": right.sum() / counted.sum() if known else None,
        "precision": [r / n if known and n else None for r, n in zip(right, counted, strict=True)]}}


def _pooled(record: Record, most: int = 25) -> Record:
    """A record whose evaluations are pooled to at most `most`: between two of them too few pseudo-labels of rare classes count."""
    size = -(-len(record.log) // most)
    return dataclasses.replace(record, log=[_pool(record.log[i:i + size]) for i in range(0, len(record.log), size)])


def _against(axes: Axes, share: np.ndarray, true: np.ndarray, shade: Any, bottom: float) -> dict[str, Any]:
    """A set's shares as dots, the true ones as dashes, a stem between the two; a cross where the set has none of a class."""
    at, few, none = np.arange(len(share)), len(share) <= NAMED, np.nan_to_num(share) == 0
    ends = np.where(none, bottom, share)
    stem = true > 0
    axes.vlines(at[stem], ends[stem], true[stem], color=shade, linewidth=1.3 if few else 0.6, alpha=0.55)
    dashes = {"linestyle": "", "marker": "_", "markersize": 11 if few else 3, "markeredgewidth": 1.5, "color": "black"}
    dots = {"linestyle": "", "marker": "o", "markersize": 4.5 if few else 2}
    crosses = {"linestyle": "", "marker": "x", "markersize": 4.5 if few else 3, "markeredgewidth": 1.2}
    axes.plot(at[stem], true[stem], zorder=3, **dashes)
    axes.plot(at[~none], share[~none], color=shade, zorder=4, **dots)
    axes.plot(at[none], ends[none], color=shade, zorder=4, **crosses)
    proxies = {"true share in the unlabelled pool": {**dashes, "markersize": 11},
               "share in the panel's set": {**dots, "markersize": 4.5, "color": INK},
               "none in the panel's set": {**crosses, "color": INK}}
    wanted = [stem.any(), True, none.any()]
    return {name: axes.plot([], [], **kind)[0] for (name, kind), want in zip(proxies.items(), wanted, strict=True) if want}


def _class_ticks(axes: Axes, names: list[str], labelled: list[int]) -> None:
    """Class names, or ranks where the classes are too many to be named."""
    if len(names) > NAMED:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_xlim(-0.7, len(names) - 0.3)


def _class_label(names: list[str]) -> str:
    return "class" + (", by labelled count" if len(names) <= NAMED else " rank by labelled count")


def per_class_accuracy(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Recall (%) of each class on the test set, classes from the largest labelled one to the smallest with their labelled
    counts; the mean over the evaluations that the table averages, then over seeds. Whiskers, from two seeds on: their standard
    deviation (n - 1 in the denominator).

    Frame: label, class, labelled (images), group (head, medium, tail), recall (%), spread (percentage points, NaN for one
    seed), seeds, runs.
    """
    done = _done(records)
    groups = _by_label(done, records)
    split, parts = done[0].run["split"], done[0].groups
    order = [k for part in parts.values() for k in part]
    names, labelled = ([split[key][k] for k in order] for key in ("class_names", "labelled_counts"))
    rows = []
    for label, group in groups.items():
        each = 100 * np.array([recalls(r)[order] for r in group])
        spread = each.std(0, ddof=1) if len(group) > 1 else np.full(len(order), math.nan)
        rows.append(pd.DataFrame({"label": label, "class": names, "labelled": labelled,
                                  "group": [name for name, part in parts.items() for _ in part], "recall": each.mean(0),
                                  "spread": spread, "seeds": len(group), "runs": _runs(group)}))
    look, at, few = looks(labels(ordered(records))), np.arange(len(order)), len(order) <= NAMED
    with style():
        figure = _picture(2.9)
        axes = figure.subplots()
        handles = []
        for i, frame in enumerate(rows):
            own, mean = look[frame["label"].iloc[0]], frame["recall"].to_numpy()
            spread = frame["spread"].to_numpy() if len(groups[frame["label"].iloc[0]]) > 1 else None
            if few:
                wide = 0.8 / len(rows)
                handles.append(axes.bar(at + (i - (len(rows) - 1) / 2) * wide, mean, width=0.9 * wide, color=own["color"],
                                        yerr=spread, error_kw={"elinewidth": 0.8, "capsize": 1.5, "ecolor": INK}))
            else:
                handles += axes.plot(at, mean, color=own["color"], marker=own["marker"], markersize=2, linewidth=0.8)
        start = 0
        for name, part in parts.items():
            if part:
                axes.text(start + (len(part) - 1) / 2, 1.01, name, transform=axes.get_xaxis_transform(), ha="center",
                          va="bottom", fontsize=8, color=INK)
                if start:
                    axes.axvline(start - 0.5, color="#b0b0b0", linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
                start += len(part)
        if few:
            axes.set_xticks(at, [f"{name}\n{n:,}" for name, n in zip(names, labelled, strict=True)])
            axes.tick_params(axis="x", length=0)
            if sum(len(n) for n in names) > 75:
                axes.set_xticks(at, [f"{name} ({n:,})" for name, n in zip(names, labelled, strict=True)], rotation=90)
            axes.set_xlabel("class, with its labelled images")
        else:
            _class_ticks(axes, names, labelled)
            axes.set_xlabel(f"{_class_label(names)}; {labelled[0]:,} to {labelled[-1]:,} labelled images")
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set_ylim(0, 103)
        axes.set_ylabel("recall (%)")
        _percent(axes)
        _legend(figure, handles, [display(label) for label in groups])
        whiskers = ", whiskers: standard deviation over seeds" if few and len(done) > len(groups) else ""
        _finish(figure, records, done, _rule(done) + whiskers)
    return figure, pd.concat(rows, ignore_index=True)


def _rule(done: list[Record]) -> str:
    """The steps that a reported number averages, in words."""
    spans = {(window(r)[0]["step"], window(r)[-1]["step"], len(window(r))) for r in done}
    return " or ".join(f"mean of {n} evaluations, steps {a:,} to {b:,}" for a, b, n in sorted(spans))


def _series(group: list[Record], value: Any) -> pd.DataFrame:
    """Mean, least and greatest of value(evaluation) over the seeds that have one, at each step of all seeds; else NaN."""
    lines = [{e["step"]: value(e) for e in r.log} for r in group]
    steps = sorted(set.intersection(*(set(line) for line in lines)))
    table = pd.DataFrame([[line[s] for line in lines] for s in steps], index=steps, dtype=float)
    return pd.DataFrame({"step": steps, "mean": table.mean(axis=1).to_numpy(), "least": table.min(axis=1).to_numpy(),
                         "greatest": table.max(axis=1).to_numpy()})


def _line(axes: Axes, frame: pd.DataFrame, look: dict[str, Any], seeds: int, place: float) -> Any:
    """place: where to begin between two marks, in [0, 1), so that the marks of equal curves do not hide each other."""
    every = max(1, len(frame) // 8)
    line, = axes.plot(frame["step"], frame["mean"], markevery=(int(place * every), every), markersize=3.4, **look)
    if seeds > 1:
        axes.fill_between(frame["step"], frame["least"], frame["greatest"], color=look["color"], alpha=0.18, linewidth=0)
    return line


def learning_curves(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Balanced accuracy (%) of the averaged network on the test set against training steps: the mean over seeds, and a band
    from the lowest to the highest seed. The evaluations that the table averages are shaded where they are not all of them.

    Frame: label, step, mean, least, greatest (%), seeds, runs.
    """
    done = _done(records)
    groups = _by_label(done, records)
    look, rows = looks(labels(ordered(records))), []
    with style():
        figure = _picture(3.0)
        axes = figure.subplots()
        handles = []
        for i, (label, group) in enumerate(groups.items()):
            frame = _series(group, lambda e: 100 * e["balanced_accuracy"])
            handles.append(_line(axes, frame, look[label], len(group), i / len(groups)))
            rows.append(frame.assign(label=label, seeds=len(group), runs=_runs(group)))
        starts = {window(r)[0]["step"] for r in done if len(window(r)) < len(r.log)}
        if len(starts) == 1:
            axes.axvspan(*starts, done[0].config["steps"], color="#f0f0f0", linewidth=0, zorder=0)
            axes.text(done[0].config["steps"], 1.01, "averaged in the table", transform=axes.get_xaxis_transform(), ha="right",
                      va="bottom", fontsize=7, color=INK)
        axes.set_xlabel(_steps(axes, done[0].config["steps"]))
        axes.set_ylabel("balanced accuracy (%)")
        axes.set_ylim(bottom=0)
        _percent(axes)
        _legend(figure, handles, [display(label) for label in groups])
        _finish(figure, records, done, "band: lowest to highest seed" if len(done) > len(groups) else "")
    return figure, pd.concat(rows, ignore_index=True)[["label", "step", "mean", "least", "greatest", "seeds", "runs"]]


def pseudo_label_quality(records: list[Record]) -> tuple[Figure, pd.DataFrame]:
    """Pseudo-labels over training steps, each point over the steps since the one before: the share (%) of the unlabelled images
    shown whose pseudo-label counted, and the share (%) of those that was right, for all and for those that name a head, medium or
    tail class. At most 25 points, so that rare classes have pseudo-labels to count. Mean over seeds, band from the lowest to the
    highest. A gap: no pseudo-label counted.

    Frame: quantity ("used", "right", "right: head", ...), label, step, mean, least, greatest (%), seeds, runs.
    """
    done = _done(records, "pseudo_labels")
    groups = _by_label(done, records)

    def right(members: list[int] | None) -> Any:
        def value(evaluation: dict[str, Any]) -> float | None:
            found = evaluation["pseudo_labels"]
            if members is None:
                return None if found["correct"] is None else 100 * found["correct"]
            known = [(found["precision"][k], found["counted"][k]) for k in members if found["precision"][k] is not None]
            total = sum(n for _, n in known)
            return 100 * sum(p * n for p, n in known) / total if total else None
        return value

    parts = {name: members for name, members in done[0].groups.items() if members}
    what = {"used": lambda e: 100 * e["pseudo_labels"]["share"], "right": right(None),
            **{f"right: {name}": right(members) for name, members in parts.items()}}
    look, rows = looks(labels(ordered(records))), []
    with style():
        figure = _picture(4.3)
        grid = figure.subplot_mosaic([["used"] * 3 + ["right"] * 3, [f"right: {name}" for name in GROUPS for _ in range(2)]],
                                     sharex=True, sharey=True)
        for quantity, value in what.items():
            axes, handles = grid[quantity], []
            for i, (label, group) in enumerate(groups.items()):
                frame = _series([_pooled(r) for r in group], value)
                handles.append(_line(axes, frame, look[label], len(group), i / len(groups)))
                rows.append(frame.assign(quantity=quantity, label=label, seeds=len(group), runs=_runs(group)))
            if all(frame["mean"].isna().all() for frame in rows[-len(groups):]):
                axes.text(0.5, 0.5, "none counted, or truth unknown", transform=axes.transAxes, ha="center", fontsize=7)
            axes.set_xlabel(_steps(axes, done[0].config["steps"]))
            axes.set_ylim(0, 103)
            _percent(axes)
        for name in set(GROUPS) - set(parts):
            grid[f"right: {name}"].set_visible(False)
        titles = {"used": "Used, of the unlabelled images shown", "right": "Right, of the pseudo-labels used",
                  **{f"right: {name}": f"Right, of those for {name} classes" for name in GROUPS}}
        for quantity, axes in grid.items():
            axes.set_title(titles[quantity], fontsize=8)
            axes.label_outer()
        for quantity in ("used", "right: head"):
            grid[quantity].set_ylabel("share (%)")
        _legend(figure, handles, [display(label) for label in groups])
        _finish(figure, records, done, "band: lowest to highest seed" if len(done) > len(groups) else "")
    frame = pd.concat(rows, ignore_index=True)
    return figure, frame[["quantity", "label", "step", "mean", "least", "greatest", "seeds", "runs"]]


def image_grid(images: np.ndarray, rows: list[str], columns: list[str], title: str = "") -> tuple[Figure, pd.DataFrame]:
    """Pictures in rows and columns: images uint8 [rows, columns, H, W, 3]. The frame holds each picture's mean grey (0 to 255)."""
    with style():
        figure = _picture(WIDTH * (len(rows) + 0.4) / (len(columns) + 1))
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for i, line in enumerate(grid):
            for k, axes in enumerate(line):
                axes.imshow(images[i, k], interpolation="nearest")
                axes.set(xticks=[], yticks=[], frame_on=False)
                if i == 0:
                    axes.set_title(columns[k], fontsize=8)
            line[0].set_ylabel(rows[i], rotation=0, ha="right", va="center", labelpad=6)
        figure.suptitle(title, x=0.01, ha="left", fontsize=7.5, color=INK)
    frame = pd.DataFrame([{"row": rows[i], "column": columns[k], "mean_grey": float(images[i, k].mean())}
                          for i in range(len(rows)) for k in range(len(columns))])
    return figure, frame


def kept(made: tuple[Figure, pd.DataFrame], path: str | Path) -> Figure:
    """`save` for a notebook's cell: writes both files and returns the figure, which the cell then shows."""
    save(*made, path)
    return made[0]


def save(figure: Figure, frame: pd.DataFrame, path: str | Path) -> tuple[Path, Path]:
    """Write NAME.png and NAME.csv, the numbers that it draws; returns both paths. Each file appears whole or not at all."""
    base = stem(path, ".png", ".csv")
    picture, sidecar = base.with_name(base.name + ".png"), base.with_name(base.name + ".csv")
    write_bytes(sidecar, csv(frame))
    write_bytes(picture, png(figure))
    return picture, sidecar
