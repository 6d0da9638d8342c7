"""Figure 2: SeMi's pipeline, drawn by code. Its labels are the names in the library, and a test holds them to it."""
from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from semilib.report.figures import _SAFE, INK, _picture, style

# name -> (x, y, width, lines of text, kind); the first line is the part, the second its name in the library.
BOXES = {
    "labelled": (0.06, 0.86, 0.10, ("labelled image", "Plan.views l"), "data"),
    "weak": (0.06, 0.54, 0.10, ("weak view", "augment.weak"), "data"),
    "strong": (0.06, 0.22, 0.10, ("two strong views", "augment.strong"), "data"),
    "network": (0.21, 0.54, 0.12, ("backbone, features", "models.WideResNet"), "net"),
    "head": (0.37, 0.81, 0.11, ("standard head", "heads: head"), "net"),
    "balanced": (0.37, 0.595, 0.11, ("balanced head", "heads: balanced"), "net"),
    "plce": (0.60, 0.72, 0.16, ("PLCE: blend with prototypes", "semi.semantic_label"), "own"),
    "align_logit": (0.55, 0.565, 0.13, ("Logit Align: tau log pi", "losses.log_prior"), "own"),
    "bank": (0.62, 0.35, 0.16, ("BCDMB: memory bank, decay", "memory.MemoryBank"), "own"),
    "oheml": (0.78, 0.72, 0.14, ("OHEML: entropy weight", "semi.entropy_weight"), "own"),
    "ealign": (0.78, 0.09, 0.14, ("Embedding Align", "semi.align_rows"), "own"),
    "x": (0.94, 0.90, 0.08, ("term x", "losses.ce"), "loss"),
    "u": (0.94, 0.72, 0.08, ("term u", "losses.ce"), "loss"),
    "u_b": (0.94, 0.565, 0.08, ("terms x_b, u_b", "losses.ce"), "loss"),
    "e": (0.94, 0.09, 0.08, ("term e", "losses.Term"), "loss"),
}
ARROWS = [("labelled", "network"), ("weak", "network"), ("strong", "network"), ("network", "head"), ("network", "balanced"), ("head", "x"),
          ("head", "plce"), ("balanced", "align_logit"), ("head", "align_logit"), ("align_logit", "u_b"), ("network", "bank"),
          ("bank", "plce"), ("plce", "oheml"),
          ("oheml", "u"), ("network", "ealign"), ("ealign", "e")]
KINDS = {"data": ("#f2f2f2", "#8c8c8c"), "net": ("#e3edf6", _SAFE[0]), "own": ("#fbe9df", _SAFE[3]), "loss": ("#e4f2ea", _SAFE[2])}
HEIGHT = 0.105


def pipeline() -> tuple[Figure, pd.DataFrame]:
    """SeMi's step from the views to the losses: grey, the data; blue, the network; orange, what SeMi adds; green, the loss terms.

    Frame: part, name (in the library), x, y (of the box's middle, shares of the figure)."""
    with style():
        figure = _picture(3.3, 8.6)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.0, 0.0, 1.0, 0.93))
        axes.set(xlim=(0, 1), ylim=(0.02, 0.97))
        axes.axis("off")
        for x, y, width, (part, name), kind in BOXES.values():
            face, edge = KINDS[kind]
            axes.add_patch(FancyBboxPatch((x - width / 2, y - HEIGHT / 2), width, HEIGHT, boxstyle="round,pad=0.004,rounding_size=0.012",
                                          facecolor=face, edgecolor=edge, linewidth=0.9, zorder=2))
            axes.text(x, y + 0.021, part, ha="center", va="center", fontsize=6.6, color="#202020", zorder=3)
            axes.text(x, y - 0.027, name, ha="center", va="center", fontsize=5.8, color=INK, family="monospace", zorder=3)
        for start, end in ARROWS:
            x0, y0, w0, *_ = BOXES[start]
            x1, y1, w1, *_ = BOXES[end]
            if abs(x1 - x0) < 0.05:                                  # one above the other: past what lies between, near the right edge
                x = min(x0 + w0 / 2, x1 + w1 / 2) - 0.02
                up = 1 if y1 > y0 else -1
                ends = ((x, y0 + up * (HEIGHT / 2 + 0.005)), (x, y1 - up * (HEIGHT / 2 + 0.005)))
            else:
                ends = ((x0 + w0 / 2 + 0.004, y0), (x1 - w1 / 2 - 0.004, y1))
            axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=7, color="#606060", linewidth=0.9, shrinkA=0, shrinkB=0,
                                           zorder=1))
        figure.suptitle("A step of SeMi (semilib/methods/semi.py): grey the data, blue the network, orange what SeMi adds, green the loss "
                        "terms", x=0.01, ha="left", fontsize=7.5, color=INK)
    rows = [{"part": part, "name": name, "x": x, "y": y} for x, y, _, (part, name), _ in BOXES.values()]
    return figure, pd.DataFrame(rows)
