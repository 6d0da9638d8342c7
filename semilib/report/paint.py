"""How figures look, how they are kept, and how one is drawn again from its CSV alone.

    @draws("learning_curves")
    def draw_curves(frame): ...                 # a frame in, a figure out; nothing else decides what is drawn

    figure, frame = show("learning_curves", frame, "Balanced accuracy", "what every number rests on")
    save(figure, frame, "figures/curves")       # curves.png, curves.pdf and curves.csv
    figure = redraw("figures/curves.csv")       # the same picture, pixel for pixel

Nothing here opens a window or leaves matplotlib's settings changed. A method has one colour and one marker everywhere.
Text is of 7 to 9 points at the width of a page; symbols are serif mathematics.
"""
from __future__ import annotations

import base64
import contextlib
import io
import math
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from semilib.errors import BadInput, check_name
from semilib.files import write_atomically
from semilib.report.labels import display
from semilib.report.table import paths, write_csv

FIGURE_WIDTH = 7.0              # inches, of a page's text; at DPI, what a README shows without shrinking it much
DPI = 150
SMALL, TITLE = 7, 9             # points, of a caption and of a title; all other text is between

PALETTE = [to_hex(c) for c in seaborn.color_palette("colorblind")]
INK, RULE = "#404040", "#909090"                     # of text; of a line that others are compared with
COLOURS = {"supervised": "#6b6b6b", "fixmatch": PALETTE[0], "semi": PALETTE[3]}
MARKERS = {"supervised": "o", "fixmatch": "s", "semi": "D"}
SPARE = [PALETTE[2], PALETTE[4], PALETTE[1], PALETTE[9], PALETTE[5], PALETTE[6]]
SPARE_MARKERS = ["^", "v", "P", "X", "<", ">"]
SHADES = [(1, 0.0), (1, 0.45), (0, 0.45), (1, 0.68), (0, 0.62)]         # of variants, towards white (1) or black (0)
LINES = {"solid": "-", "dashed": (0, (4, 1.5)), "dotted": (0, (1, 1.2)), "dash-dotted": (0, (5, 1.2, 1, 1.2))}

# Columns of a figure's CSV that hold text; all others hold numbers, or True and False.
TEXT = ("figure", "title", "caption", "runs", "label", "colour", "marker", "line", "class", "true", "predicted", "set",
        "group", "quantity", "row", "column", "picture", "table", "against", "metric", "method", "half", "option",
        "cell", "box", "part", "name", "kind", "symbol", "path", "text")


# ---- style -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The style of every figure, inside; the settings of the caller come back."""
    ours = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper"),
            "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8,
            "axes.titlepad": 5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5,
            "legend.frameon": False, "axes.linewidth": 0.7, "xtick.major.width": 0.7, "ytick.major.width": 0.7,
            "xtick.major.size": 3, "ytick.major.size": 3, "axes.spines.top": False, "axes.spines.right": False,
            "axes.edgecolor": INK, "lines.linewidth": 1.4, "lines.markersize": 4, "savefig.facecolor": "white",
            "figure.facecolor": "white", "mathtext.fontset": "stix", "pdf.fonttype": 42}
    with matplotlib.rc_context(ours):
        yield


def colour(method: str) -> str:
    """A method's colour, the same in every figure. Methods without one of their own get theirs from their name."""
    return COLOURS.get(method) or SPARE[zlib.crc32(method.encode()) % len(SPARE)]


def looks(labels: list[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and line (a name of `LINES`) of each label.

    Variants of a method have lighter and darker shades of its colour and lines of their own. The plain one is first."""
    place = {method: i for i, method in enumerate(dict.fromkeys(n.split(" ")[0] for n in labels))}
    base = {method: (colour(method), MARKERS.get(method)) for method in place}
    taken: set[tuple[str, str]] = set()
    for method in sorted(set(base) - set(COLOURS)):    # of two with one colour, the later in the alphabet moves on
        start, n = SPARE.index(colour(method)), len(SPARE)
        pairs = [(SPARE[(start + i) % n], SPARE_MARKERS[(start + i + turn) % n]) for turn in range(n) for i in range(n)]
        base[method] = next((pair for pair in pairs if pair not in taken), pairs[0])     # all colours taken: a marker
        taken.add(base[method])
    look, variants = {}, Counter()
    for label in sorted(dict.fromkeys(labels), key=lambda n: (place[n.split(" ")[0]], " " in n)):
        method = label.split(" ")[0]
        towards, share = SHADES[variants[method] % len(SHADES)]
        shade = to_hex([(1 - share) * c + share * towards for c in to_rgb(base[method][0])])
        look[label] = {"colour": shade, "marker": base[method][1], "line": list(LINES)[variants[method] % len(LINES)]}
        variants[method] += 1
    return look


def pale(shade: str) -> str:
    """A colour as the ground of text."""
    return to_hex([0.12 * part + 0.88 for part in to_rgb(shade)])


# ---- from a frame to a figure and back -------------------------------------------------------------------------------

Draw = Callable[[pd.DataFrame], "Picture"]
Shown = tuple[Figure, pd.DataFrame]            # a figure and the frame that it is drawn from
DRAWINGS: dict[str, Draw] = {}


def draws(kind: str) -> Callable[[Draw], Draw]:
    """Make a function the one that draws a kind of figure: from the frame alone, in `style`, without the caption."""
    def register(function: Draw) -> Draw:
        DRAWINGS[kind] = function
        return function
    return register


def show(kind: str, frame: pd.DataFrame, title: str, caption: str) -> Shown:
    """The figure of a frame, and the frame with the columns `figure` (its kind), `title` and `caption`.

    The title stands above the figure. The caption, below it, tells what every number rests on and what the marks
    stand for."""
    frame = frame.assign(figure=kind, title=title, caption=caption)
    return _drawn(frame), frame


def redraw(path: str | Path) -> Picture:
    """The figure whose frame `save` wrote. The module that draws its kind must be imported.

    Raises BadInput for a CSV of no figure, and for a kind that nothing draws."""
    frame = read(path)
    if frame.empty or not {"figure", "title", "caption"} <= set(frame):
        raise BadInput("path", Path(path).name, "the CSV of a figure, which has the columns figure, title and caption")
    return _drawn(frame)


def _drawn(frame: pd.DataFrame) -> Picture:
    kind = frame["figure"].iloc[0]
    check_name("figure", kind, DRAWINGS)
    with style():
        picture = DRAWINGS[kind](frame)
        close(picture, frame["title"].iloc[0], frame["caption"].iloc[0])
    return picture


def read(path: str | Path) -> pd.DataFrame:
    """The frame that `save` wrote. Names stay text even where they look like numbers."""
    numbers = [name for name in pd.read_csv(path, nrows=0) if name not in TEXT]
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False,
                       na_values=dict.fromkeys(numbers, ""))


def save(figure: Figure, frame: pd.DataFrame, path: str | Path) -> tuple[Path, Path]:
    """Write NAME.png, NAME.pdf, and NAME.csv, the frame that it is drawn from. Returns the paths of PNG and CSV."""
    picture, page, numbers = paths(path, ".png", ".pdf", ".csv")
    write_csv(frame, numbers)
    write_atomically(page, lambda file: file.write(vector(figure, "pdf")))
    write_atomically(picture, lambda file: file.write(png(figure)))
    return picture, numbers


def keep(shown: Shown, path: str | Path) -> Figure:
    """`save` for a notebook's cell: returns the figure, which the cell then shows."""
    save(*shown, path)
    return shown[0]


# ---- pieces of figures -----------------------------------------------------------------------------------------------


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


def vector(figure: Figure, kind: str) -> bytes:
    """A figure as PDF or SVG (`kind`); equal figures give equal bytes. Neither has a date."""
    no_date = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "svg": {"Date": None, "Creator": None}}
    with style(), matplotlib.rc_context({"svg.hashsalt": "semilib"}):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=DPI, metadata=no_date[kind])
    return file.getvalue()


def figure(height: float, width: float = FIGURE_WIDTH) -> Picture:
    """An empty figure; inches."""
    picture = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    picture.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.05)
    return picture


def panels(n: int, most: int, size: tuple[float, float], extra: tuple[float, float] = (0, 0), least: float = 0,
           share: bool | str = False) -> tuple[Picture, list[Axes]]:
    """A figure of n equal panels, at most `most` in a row. If a row is not full, it is the first.

    size: width and height of a panel, inches. extra: inches beside and above all panels. least: width of the figure.
    share: whether panels share their axes, or "y"."""
    rows = math.ceil(n / most)
    columns = math.ceil(n / rows)
    picture = figure(rows * size[1] + extra[1], max(least, columns * size[0] + extra[0]))
    grid = picture.subplots(rows, columns, squeeze=False, sharex=share is True, sharey=bool(share))
    first = columns - (rows * columns - n)
    for axes in grid[0, first:]:
        axes.set_visible(False)
    return picture, [*grid[0, :first], *grid[1:].flat]


def parts(frame: pd.DataFrame, key: str = "label") -> dict[Any, pd.DataFrame]:
    """The rows of each value of a column, in order."""
    return dict(list(frame.groupby(key, sort=False)))


def outer_labels(axes: list[Axes], x: str, y: str) -> None:
    """Axis labels at the left and bottom of a grid of panels."""
    for one in axes:
        place = one.get_subplotspec()
        one.set_xlabel(x if place.is_last_row() else "")
        one.set_ylabel(y if place.is_first_col() else "")


def encoded(pixels: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3], as a PNG in base64, which a frame can hold."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def decoded(picture: str) -> np.ndarray:
    """The pixels of `encoded`."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def percent(axes: Axes) -> None:
    """Round ticks on an axis of per cent."""
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def steps(axes: Axes, total: int) -> None:
    """An axis of training steps, with ticks that end with the run where a round distance does."""
    unit = 1000 if total >= 10_000 else 1
    axes.set_xlim(0, total)
    for intervals in (4, 5, 6, 3):
        digits = f"{total / intervals:.6g}".replace(".", "").strip("0")
        if total % intervals == 0 and digits in ("1", "2", "25", "3", "4", "5", "6"):
            axes.set_xticks([i * total // intervals for i in range(intervals + 1)])
            break
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / unit:,.6g}"))
    axes.set_xlabel("training steps" + (" (thousands)" if unit > 1 else ""))


def legend(picture: Picture, handles: dict[str, Any]) -> None:
    """Below the panels, in as few rows as fit; the figure grows by the rows after the first. handles: by name."""
    names, room = list(handles), 15.5 * picture.get_figwidth()
    for rows in range(1, len(names) + 1):
        columns = math.ceil(len(names) / rows)
        if sum(max(len(n) for n in names[i * rows:(i + 1) * rows] or [""]) + 7 for i in range(columns)) <= room:
            break
    picture.set_figheight(picture.get_figheight() + 0.17 * (math.ceil(len(names) / columns) - 1))
    picture.legend(handles.values(), names, loc="outside lower center", ncols=columns, handlelength=2.2,
                   columnspacing=1.8)


def curves(axes: Axes, frame: pd.DataFrame) -> dict[str, Any]:
    """Each label's mean over training steps, with a band over its seeds. Returns the legend's handles.

    frame: label, step, mean (NaN for a gap), least, greatest, seeds, and the columns of `looks`."""
    handles, labels = {}, parts(frame)
    for i, (label, part) in enumerate(labels.items()):
        look, every = part.iloc[0], max(1, len(part) // 8)
        start = int(i / len(labels) * every)              # so that the marks of equal curves do not hide each other
        handles[display(label)], = axes.plot(part["step"], part["mean"], markevery=(start, every), markersize=3.4,
                                             color=look["colour"], marker=look["marker"], linestyle=LINES[look["line"]])
        alone = part["mean"].notna() & part["mean"].shift(1).isna() & part["mean"].shift(-1).isna()
        axes.plot(part["step"][alone], part["mean"][alone], color=look["colour"], marker=look["marker"], markersize=3.4,
                  linestyle="none")
        if look["seeds"] > 1:
            axes.fill_between(part["step"], part["least"], part["greatest"], color=look["colour"], alpha=0.18,
                              linewidth=0)
    return handles


def close(picture: Picture, title: str, caption: str) -> None:
    """Set the title above the panels, and below them the caption, by whose lines the figure grows. The layout is made
    under our style, so later drawing adds nothing of the caller's settings."""
    width = picture.get_figwidth()
    lines = textwrap.wrap(caption, int(18.5 * width), break_on_hyphens=False)
    inches = 0.05 + 1.3 * SMALL / 72 * len(lines)
    picture.set_figheight(picture.get_figheight() + inches)
    below = inches / picture.get_figheight()
    picture.suptitle(textwrap.fill(title, int(14 * width)), x=0.01, ha="left", fontsize=TITLE)
    layout = picture.get_layout_engine()
    layout.set(rect=(0, below, 1, 1 - below))
    for _ in range(2):                      # panels of a fixed shape find their place in the second round
        layout.execute(picture)
    picture.set_layout_engine("none")       # a figure looks the same however often it is drawn
    for legend in picture.legends:          # the room that it has was made above the caption
        legend.set_bbox_to_anchor((0, below, 1, 1 - below), transform=picture.transFigure)
    picture.text(0.01, 0.04 / picture.get_figheight(), "\n".join(lines), va="bottom", fontsize=SMALL, color=INK,
                 linespacing=1.3)
