"""Rows of pictures with a line under each, and a figure that follows controls in a notebook.

    figure, frame = gallery([Row("cat", [Tile(pixels, "dog, 98 %", right=False)])], "Wrong", "what every picture is")
    adjustable(looked.hardest, of=("cat", ["all", "cat"]), n=(12, range(6, 25)))
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semilib.report import paint
from semilib.report.paint import FIGURE_WIDTH, INK, PALETTE, Picture, Shown

SIDE, LINE, HEADING = 0.62, 0.17, 1.0       # inches: of a picture, of the text under it, of the row's heading
EMPTY = 0.32                                # of a row without a picture
IN_LINE = 8                                 # pictures of a row beside each other
RIGHT, WRONG = PALETTE[0], PALETTE[3]


class Tile(NamedTuple):
    """A picture, uint8 [H, W, 3], and the text under it. right: its colour; None has none."""

    pixels: np.ndarray
    text: str
    right: bool | None = None


class Row(NamedTuple):
    """heading: stands to the left. Without a tile the row says so."""

    heading: str
    tiles: Sequence[Tile]


def gallery(rows: Sequence[Row], title: str, caption: str) -> Shown:
    """The pictures of rows, `IN_LINE` beside each other.

    Frame: line (of the figure), row (its heading), column (place in the line), text, right (1, 0, or NaN), picture (a
    PNG in base64, "" where a row has none)."""
    cells, line = [], 0
    for row in rows:
        for place, tile in enumerate(row.tiles or [None]):
            right = math.nan if tile is None or tile.right is None else float(tile.right)
            cells.append({"line": line + place // IN_LINE, "row": row.heading, "column": str(place % IN_LINE),
                          "text": "none" if tile is None else tile.text, "right": right,
                          "picture": "" if tile is None else paint.encoded(tile.pixels)})
        line = cells[-1]["line"] + 1
    return paint.show("gallery", pd.DataFrame(cells), title, caption)


@paint.draws("gallery")
def draw_gallery(frame: pd.DataFrame) -> Picture:
    heights = [SIDE + LINE if part["picture"].any() else EMPTY for part in paint.parts(frame, "line").values()]
    tops, width = np.cumsum([0, *heights]), FIGURE_WIDTH - HEADING
    picture = paint.figure(tops[-1] + 0.5)
    axes = picture.subplots()
    for cell in frame.itertuples():
        left, top = int(cell.column) * width / IN_LINE, tops[cell.line]
        colour = INK if math.isnan(cell.right) else RIGHT if cell.right else WRONG
        if cell.picture:
            axes.imshow(paint.decoded(cell.picture), extent=(left, left + SIDE, top + SIDE, top),
                        interpolation="nearest")
            axes.plot(left + SIDE * np.array([0, 1, 1, 0, 0]), top + SIDE * np.array([0, 0, 1, 1, 0]), color=colour,
                      linewidth=0 if math.isnan(cell.right) else 1.3)
        axes.text(left + SIDE / 2, top + (SIDE if cell.picture else 0) + 0.02, cell.text, ha="center", va="top",
                  fontsize=paint.SMALL, color=colour)
    for heading, part in paint.parts(frame, "row").items():
        line, shown = part["line"].iloc[0], part["picture"].iloc[0] != ""
        axes.text(-0.12, tops[line] + (SIDE / 2 if shown else 0.02), heading, ha="right",
                  va="center" if shown else "top", fontsize=7.5)
    axes.set(xlim=(-HEADING, width), ylim=(tops[-1], 0), aspect="equal", frame_on=False, xticks=[], yticks=[])
    return picture


def adjustable(draw: Callable[..., Shown], **controls: tuple[Any, Iterable[Any]]) -> None:
    """Show the figure of `draw(name=value, ...)` in a notebook's cell, under a control for each name, and again when
    one is moved.

    controls: name -> its value, such as a parameter of the notebook, and the values to choose from; a range of numbers
    has a slider. An executed notebook keeps the picture alone (`study.notebooks.clean`)."""
    import ipywidgets
    from IPython.display import display
    figure, _ = draw(**{name: value for name, (value, _) in controls.items()})
    boxes = {name: _box(name, value, choices) for name, (value, choices) in controls.items()}
    display(ipywidgets.HBox(list(boxes.values())))
    shown = display(figure, display_id=True)

    def follow(change: Any) -> None:
        shown.update(draw(**{name: box.value for name, box in boxes.items()})[0])
    for box in boxes.values():
        box.observe(follow, "value")


def _box(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """A control that stands at a value."""
    import ipywidgets
    if isinstance(choices, range):
        return ipywidgets.IntSlider(value, min(*choices, value), max(*choices, value), description=name,
                                    continuous_update=False)
    options = list(dict.fromkeys([*choices, value]))
    return ipywidgets.Dropdown(options=[(str(choice), choice) for choice in options], index=options.index(value),
                               description=name)
