"""Figure 2: SeMi's pipeline, drawn by code. Its labels are the names in the library, and a test holds them to it."""
from __future__ import annotations

import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from semilib.report import paint
from semilib.report.paint import INK, PALETTE, Picture, Shown

# box: x, y, width, the part, its name in the library, kind, the boxes that its arrows lead to.
BOXES = {
    "labelled": (0.06, 0.86, 0.10, "labelled image", "StepImages.views l", "data", "network"),
    "weak": (0.06, 0.54, 0.10, "weak view", "augment.weak", "data", "network"),
    "strong": (0.06, 0.22, 0.10, "two strong views", "augment.strong", "data", "network"),
    "network": (0.21, 0.54, 0.12, "backbone, features", "backbones.WideResNet", "network", "head balanced bank ealign"),
    "head": (0.37, 0.81, 0.11, "standard head", "heads: head", "network", "x plce align_logit"),
    "balanced": (0.37, 0.595, 0.11, "balanced head", "heads: balanced", "network", "align_logit"),
    "plce": (0.60, 0.72, 0.16, "PLCE: blend with prototypes", "semi.semantic_label", "semi", "oheml"),
    "align_logit": (0.55, 0.565, 0.13, "Logit Align: tau log pi", "losses.log_prior", "semi", "u_b"),
    "bank": (0.62, 0.35, 0.16, "BCDMB: memory bank, decay", "memory_bank.MemoryBank", "semi", "plce"),
    "oheml": (0.78, 0.72, 0.14, "OHEML: entropy weight", "semi.entropy_weight", "semi", "u"),
    "ealign": (0.78, 0.09, 0.14, "Embedding Align", "semi.align_rows", "semi", "e"),
    "x": (0.94, 0.90, 0.08, "term x", "losses.ce", "loss", ""),
    "u": (0.94, 0.72, 0.08, "term u", "losses.ce", "loss", ""),
    "u_b": (0.94, 0.565, 0.08, "terms x_b, u_b", "losses.ce", "loss", ""),
    "e": (0.94, 0.09, 0.08, "term e", "losses.Term", "loss", ""),
}
FACES = {"data": "#f2f2f2", "network": "#e3edf6", "semi": "#fbe9df", "loss": "#e4f2ea"}
EDGES = {"data": "#8c8c8c", "network": PALETTE[0], "semi": PALETTE[3], "loss": PALETTE[2]}
HEIGHT = 0.105


def pipeline() -> Shown:
    """SeMi's step from the views to the losses.

    Frame: box, x, y (of its middle, shares of the figure), width, part, name (in the library), kind, arrows (the boxes
    that they lead to)."""
    columns = ["box", "x", "y", "width", "part", "name", "kind", "arrows"]
    frame = pd.DataFrame([(box, *values) for box, values in BOXES.items()], columns=columns)
    caption = ("A step of SeMi (semilib/methods/semi.py): grey the data, blue the network, orange what SeMi adds, "
               "green the loss terms")
    return paint.show("pipeline", frame, caption)


@paint.draws("pipeline")
def draw_pipeline(frame: pd.DataFrame) -> Picture:
    picture = paint.figure(3.3, 8.6)
    picture.set_layout_engine("none")
    axes = picture.add_axes((0.0, 0.0, 1.0, 0.93))
    axes.set(xlim=(0, 1), ylim=(0.02, 0.97))
    axes.axis("off")
    boxes = {box.box: box for box in frame.itertuples()}
    for box in boxes.values():
        corner = box.x - box.width / 2, box.y - HEIGHT / 2
        axes.add_patch(FancyBboxPatch(corner, box.width, HEIGHT, boxstyle="round,pad=0.004,rounding_size=0.012",
                                      facecolor=FACES[box.kind], edgecolor=EDGES[box.kind], linewidth=0.9, zorder=2))
        middle = {"ha": "center", "va": "center", "zorder": 3}
        axes.text(box.x, box.y + 0.021, box.part, fontsize=6.6, color="#202020", **middle)
        axes.text(box.x, box.y - 0.027, box.name, fontsize=5.8, color=INK, family="monospace", **middle)
        for other in box.arrows.split():
            axes.add_patch(FancyArrowPatch(*_ends(box, boxes[other]), arrowstyle="-|>", mutation_scale=7, linewidth=0.9,
                                           color="#606060", shrinkA=0, shrinkB=0, zorder=1))
    return picture


def _ends(a, b) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow from box a to box b begins and ends."""
    if abs(b.x - a.x) >= 0.05:
        return (a.x + a.width / 2 + 0.004, a.y), (b.x - b.width / 2 - 0.004, b.y)
    x = min(a.x + a.width / 2, b.x + b.width / 2) - 0.02          # one above the other: near the right edge
    half = (HEIGHT / 2 + 0.005) * (1 if b.y > a.y else -1)
    return (x, a.y + half), (x, b.y - half)
