"""Figure 2: a step of SeMi, drawn by code in the paper's symbols.

Its frame names the part of the library behind each box, and a test holds them to it. Places are in tenths of an inch.
"""
from __future__ import annotations

import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from semilib.report import paint
from semilib.report.paint import INK, PALETTE, Picture, Shown

WIDTH, HEIGHT = 70.0, 34.0

# box: x, y (of its middle), width, height, what it is, its formula, its name in the library, the idea it belongs to.
BOXES = {
    "labelled": (6.3, 28.5, 11.8, 5, "labelled", r"$x, y$", "StepImages.views l", "data"),
    "weak": (6.3, 17.5, 11.8, 5, "unlabelled, weak", r"$u_w$", "augment.weak", "data"),
    "strong": (6.3, 6.5, 11.8, 5, "two strong views", r"$u_{s1}, u_{s2}$", "augment.strong", "data"),
    "network": (19.5, 17.5, 8, 32, "network", r"$f$", "backbones.WideResNet", "network"),
    "balanced": (31, 29.5, 9.6, 5, "balanced head", r"$z^b$", "heads: balanced", "balance"),
    "head": (31, 19.5, 9.6, 8, "standard head", r"$z$", "heads: head", "network"),
    "align_logit": (46.5, 29.5, 15.6, 7, "Logit Align",
                    "$z^b_x + \\tau_2\\log\\pi$\n$p^h=\\mathrm{softmax}(z_w-\\tau_{12}\\log\\pi)$", "losses.log_prior",
                    "balance"),
    "plce": (46.5, 16.5, 15.6, 5, "PLCE: blend", r"$p_k\leftarrow(1-a_k)\,p_k+a_k s_k$", "semi.semantic_label",
             "certainty"),
    "bank": (44.6, 9.2, 11.8, 4.6, "BCDMB: bank", r"cells, decay $\beta$", "memory_bank.MemoryBank",
             "certainty"),
    "oheml": (59.6, 16.5, 7.4, 5, "OHEML", r"$w(H(p))$", "semi.entropy_weight", "hard"),
    "ealign": (46.5, 2.8, 15.6, 4.6, "Embedding Align", r"$q=\mathrm{softmax}(5(f_w-\bar q)/T_e)$",
               "semi.align_rows", "ultra-hard"),
    "x_b": (67.2, 31.3, 4.8, 3, "term x_b", r"$\mathcal{L}_x^b$", "losses.ce", "balance"),
    "u_b": (67.2, 27.7, 4.8, 3, "term u_b", r"$\mathcal{L}_u^b$", "losses.ce", "balance"),
    "x": (67.2, 22.4, 4.8, 3, "term x", r"$\mathcal{L}_x$", "losses.ce", "network"),
    "u": (67.2, 16.5, 4.8, 3, "term u", r"$\mathcal{L}_u$", "losses.ce", "hard"),
    "e": (67.2, 2.8, 4.8, 3, "term e", r"$\mathcal{L}_e$", "losses.Term", "ultra-hard"),
}
# arrow: its corners, what passes (and where that is written), the idea it belongs to.
ARROWS = {
    "labelled network": ("12.2,28.5 15.5,28.5", "", 0, 0, "data"),
    "weak network": ("12.2,17.5 15.5,17.5", "", 0, 0, "data"),
    "strong network": ("12.2,6.5 15.5,6.5", "", 0, 0, "data"),
    "network balanced": ("23.5,29.5 26.2,29.5", "", 0, 0, "balance"),
    "network head": ("23.5,19.5 26.2,19.5", "", 0, 0, "network"),
    "network bank": ("23.5,9.2 38.7,9.2", r"$f_s$", 30, 10.3, "certainty"),
    "network ealign": ("23.5,2.8 38.7,2.8", r"$f_w,\ f_s$", 30, 3.9, "ultra-hard"),
    "balanced align_logit": ("35.8,29.5 38.7,29.5", "", 0, 0, "balance"),
    "head align_logit": ("35.8,23.2 42,23.2 42,26", r"$z_w$", 37.4, 24.3, "balance"),
    "head x": ("35.8,21.6 64.8,21.6", r"$z_x$", 58, 22.7, "network"),
    "head u": ("35.8,19.9 67.2,19.9 67.2,18", r"$z_s$", 58, 21.0, "hard"),
    "head plce": ("35.8,16.9 38.7,16.9", r"$p$", 37.1, 17.9, "certainty"),
    "bank plce": ("42.2,11.5 42.2,14", r"$c_k$", 40.8, 12.7, "certainty"),
    "plce bank": ("46.8,14 46.8,11.5", r"$m = 1$", 44.5, 12.7, "certainty"),
    "plce ealign": ("52.2,14 52.2,5.1", r"$1-m$", 54.3, 9.4, "ultra-hard"),
    "plce oheml": ("54.3,16.5 55.9,16.5", "", 0, 0, "hard"),
    "oheml u": ("63.3,16.5 64.8,16.5", "", 0, 0, "hard"),
    "align_logit x_b": ("54.3,31.3 64.8,31.3", "", 0, 0, "balance"),
    "align_logit u_b": ("54.3,27.7 64.8,27.7", r"$p^h,\ m^b$", 59.5, 28.9, "balance"),
    "ealign e": ("54.3,2.8 64.8,2.8", "", 0, 0, "ultra-hard"),
}
IDEAS = {"data": INK, "network": PALETTE[0], "balance": PALETTE[4], "certainty": PALETTE[2], "hard": PALETTE[3],
         "ultra-hard": PALETTE[1]}


def pipeline() -> Shown:
    """SeMi's step from the views to the losses.

    Frame, a row a box: box, x, y, width, height, part, symbol, name (in the library), kind (the idea). A row an arrow:
    box (from and to), path (corners), symbol (what passes) and its x and y, kind."""
    boxes = pd.DataFrame([(box, *values) for box, values in BOXES.items()],
                         columns=["box", "x", "y", "width", "height", "part", "symbol", "name", "kind"])
    arrows = pd.DataFrame([(arrow, *values) for arrow, values in ARROWS.items()],
                          columns=["box", "path", "symbol", "x", "y", "kind"])
    frame = pd.concat([boxes, arrows], ignore_index=True).fillna({"path": "", "part": "", "name": ""})
    return paint.show("pipeline", frame, "A step of SeMi",
                      "A colour an idea. Blue: the network and its labelled term; purple: balanced head and Logit "
                      "Align; green: PLCE with the memory bank, which steady pseudo-labels; vermilion: OHEML, which "
                      "weighs hard images up; orange: Embedding Align, of the ultra-hard images, which the mask $m$ "
                      "leaves out. Indices: $x$ labelled, $w$ weak view, $s$ strong views")


@paint.draws("pipeline")
def draw_pipeline(frame: pd.DataFrame) -> Picture:
    picture = paint.figure(HEIGHT / 10 + 0.35)
    axes = picture.add_subplot()
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    for arrow in frame[frame["path"] != ""].itertuples():
        corners = [tuple(map(float, corner.split(","))) for corner in arrow.path.split()]
        axes.add_patch(FancyArrowPatch(path=Path(corners), arrowstyle="-|>,head_length=3,head_width=1.6", linewidth=1,
                                       color=IDEAS[arrow.kind], joinstyle="miter", capstyle="butt", zorder=1))
        axes.text(arrow.x, arrow.y, arrow.symbol, fontsize=7.5, ha="center", va="center", color=INK)
    for box in frame[frame["path"] == ""].itertuples():
        corner = box.x - box.width / 2, box.y - box.height / 2
        axes.add_patch(FancyBboxPatch(corner, box.width, box.height, boxstyle="round,pad=0,rounding_size=0.8",
                                      facecolor=paint.pale(IDEAS[box.kind]), edgecolor=IDEAS[box.kind], linewidth=1,
                                      zorder=2))
        words = box.symbol if box.part.startswith("term ") else f"{box.part}\n{box.symbol}"
        axes.text(box.x, box.y, words, fontsize=7.5, ha="center", va="center", linespacing=1.35, zorder=3)
    return picture
