"""Figures of speed: records in (`speed_report.load`), a figure and the frame of what it draws out, as in `semilib.figures`.

    figures.save(*implementations(records), "runs/speed/implementations")     # steps a second, side by side
    figures.save(*parts(records), "runs/speed/parts")                         # a SeMi step by part
    figures.save(*growth(records), "runs/speed/growth")                       # step time against classes, slots, images and views

A figure has a panel, or a row of panels, for each machine; their titles name machine and date. Without a record it says so.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from semilib.report.paint import COLOURS, INK, colour, style
from semilib.report.paint import PALETTE as _SAFE
from semilib.report.paint import close as _close
from semilib.report.paint import figure as _picture
from semilib.speed.report import BANK, METHODS, NAMES, WHOLE, Records, _ms, _rate, how, how_parts, is_gpu, measured, rows_of, where

PALE, BANKED = "#c9c9c9", _SAFE[1]
PART_COLOURS = {"views": _SAFE[0], "network, losses, backward": _SAFE[2], "optimiser": _SAFE[4], "average, state, measurements": _SAFE[8]}
ORDER = ("semi", "fixmatch", "daso", "bare")


def _empty(what: str, columns: list[str]) -> tuple[Figure, pd.DataFrame]:
    with style():
        figure = _picture(0.9)
        figure.text(0.01, 0.4, f"No record has {what} yet.", fontsize=8, color=INK)
        _close(figure, "Speed")
    return figure, pd.DataFrame(columns=columns)


# ---- steps a second -------------------------------------------------------------------------------------------------------------------


def implementations(records: Records) -> tuple[Figure, pd.DataFrame]:
    """Steps a second of every implementation, a bar each, by method: ours in the method's colour, the others and the bare network grey; a
    panel a machine. Runs beside peers where there are any, else our own steps.

    Frame: record, machine, method, implementation, steps_a_second, median_s, images."""
    columns = ["record", "machine", "method", "implementation", "steps_a_second", "median_s", "images"]
    found = {name: (record, _peer_bars(record)) for name, record in records.peers.items()}
    found |= {name: (record, _own_bars(record)) for name, record in records.own.items()
              if name not in found and rows_of(record, "steps")}
    found = {name: (record, bars) for name, (record, bars) in found.items() if bars}
    if not found:
        return _empty("steps a second", columns)
    with style():
        heights = [len(bars) + 1.25 * len({b["method"] for b in bars}) + 1.4 for _, bars in found.values()]
        figure = _picture(0.165 * sum(heights) + 0.5)
        panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)[:, 0]
        rows = []
        for axes, (name, (record, bars)) in zip(panels, found.items(), strict=True):
            _bars(axes, bars)
            axes.set_title(where(record), loc="left", fontsize=8)
            rows += [{"record": name, "machine": where(record), **{k: bar[k] for k in columns[2:]}} for bar in bars]
        panels[-1].set_xlabel("steps a second")
        _close(figure, "Steps a second, median over single steps; WRN-28-2 and 64 + 64 images of CIFAR-10-LT unless a bar says otherwise. "
                       "Coloured: semilib; grey: other implementations; pale: the network alone on a ready batch of SeMi's size")
    return figure, pd.DataFrame(rows, columns=columns)


def _peer_bars(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that compare, ours first, once each (the slower where two are the same); of each peer as shipped and with its best number
    of workers; of the bare network the plain one and the fastest of each precision."""
    rows, out = measured(record), []
    for method in ORDER[:3]:
        mine = [r for r in rows if r["of"] == "ours" and r["method"] == method]
        theirs = [r for r in rows if r["of"] in ("authors", "usb") and r["method"] == method and not r["variant"]]
        shipped = [r for r in theirs if r["shipped"]]
        best = [min(theirs, key=lambda r: r["median_s"])] if theirs else []
        out += [_bar(r, f"semilib, {name}", method) for name, r in {how(r): r for r in sorted(mine, key=lambda r: r["median_s"])}.items()]
        out += [_bar(r, f"{NAMES[r['of']]}, {r['precision']}, {r.get('workers', '?')} workers" + " (shipped)" * r["shipped"], method)
                for r in {r["config"]: r for r in shipped + best}.values()]
    bare = [r for r in rows if r["of"] == "bare" and "not waited" not in r["variant"]]
    chosen = [r for r in bare if r["config"] == "bare_eager_fp32"]
    chosen += [min(same, key=lambda r: r["median_s"]) for precision in ("fp32", "bf16")
               if (same := [r for r in bare if r["precision"] == precision])]
    return out + [_bar(r, f"{r['precision']}, {r['variant']}", "bare") for r in {r["config"]: r for r in chosen}.values()]


def _own_bars(record: dict[str, Any]) -> list[dict[str, Any]]:
    rows = sorted(rows_of(record, "steps"), key=lambda r: (ORDER.index(r["method"]) if r["method"] in ORDER else 0, r["median_s"]))
    made = []
    for r in rows:
        name = ("" if r["method"] == "bare" else "semilib, ") + how(r, is_gpu(record)) + (r["network"] != "wrn-28-2") * f" ({r['network']})"
        made.append(_bar({**r, "of": "bare" if r["method"] == "bare" else "ours", "images_forward": r["images"]}, name, r["method"]))
    return made


def _bar(row: dict[str, Any], name: str, method: str) -> dict[str, Any]:
    shade = {"ours": colour(method), "bare": PALE}.get(row["of"], "#8c8c8c")
    return {"method": method, "implementation": name, "steps_a_second": 1 / row["median_s"], "median_s": row["median_s"],
            "images": row.get("images_forward"), "shade": shade}


def _bars(axes: Axes, bars: list[dict[str, Any]]) -> None:
    """The bars from above, each method under its name."""
    y, places, last = 0.0, [], ""
    for bar in bars:
        if bar["method"] != last:
            last, y = bar["method"], y + (0.3 if places else 0)
            axes.annotate(METHODS.get(last, last), (0, y), xytext=(4, 0), textcoords="offset points", va="center", fontweight="bold",
                          color=INK if last == "bare" else colour(last))
            y += 0.95
        places.append(y)
        y += 1
    rates = [bar["steps_a_second"] for bar in bars]
    axes.barh(places, rates, height=0.8, color=[bar["shade"] for bar in bars])
    for place, rate, bar in zip(places, rates, bars, strict=True):
        axes.annotate(f"{_rate(rate)}  ({_ms(bar['median_s'])} ms)", (rate, place), xytext=(3, 0), textcoords="offset points", va="center",
                      fontsize=6.8, color=INK)
    axes.set_xlim(0, max(rates) * 1.2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_yticks(places, [bar["implementation"] for bar in bars])
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)


# ---- a step by part -------------------------------------------------------------------------------------------------------------------


def parts(records: Records) -> tuple[Figure, pd.DataFrame]:
    """A SeMi step's time by part, each measured alone: a bar for each way to run it, with operators or kernels below each name; the line
    across a bar is the whole step, the dotted one the bare network's, hatched is the memory bank.

    Frame: record, machine, capture, part, median_s, operators, kernels."""
    columns = ["record", "machine", "capture", "part", "median_s", "operators", "kernels"]
    found = {name: record for name, record in records.own.items() if rows_of(record, "parts")}
    if not found:
        return _empty("a step by part", columns)
    with style():
        bars = {name: list(dict.fromkeys(r["capture"] for r in rows_of(record, "parts"))) for name, record in found.items()}
        figure = _picture(sum(0.75 * len(own) + 0.5 for own in bars.values()) + 0.95)
        panels = figure.subplots(len(found), 1, squeeze=False, height_ratios=[0.75 * len(own) + 0.25 for own in bars.values()])[:, 0]
        rows, handles = [], {}
        for axes, (name, record) in zip(panels, found.items(), strict=True):
            own = rows_of(record, "parts")
            for y, capture in enumerate(bars[name]):
                handles |= _stack(axes, y, {r["part"]: r for r in own if r["capture"] == capture}, _bare(record, capture),
                                  max(r["median_s"] for r in own))
            axes.set_yticks(range(len(bars[name])), [how_parts(record, capture).replace(", ", ",\n", 1) for capture in bars[name]])
            axes.set_ylim(len(bars[name]) - 0.32, -0.42)
            axes.tick_params(axis="y", length=0)
            axes.set_title(f"{where(record)}; profile {record['settings']['profile']}", loc="left", fontsize=8)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{1000 * v:,g}"))
            rows += [{"record": name, "machine": where(record), **{k: r.get(k) for k in columns[2:]}} for r in own]
        panels[-1].set_xlabel("milliseconds a step")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7.2, handlelength=1.4,
                      columnspacing=1.2)
        _close(figure, "A step of SeMi by part, each part repeated alone: median; below each bar the operators that a part consists of, or "
                       "the kernels that a compiler leaves of them")
    return figure, pd.DataFrame(rows, columns=columns)


def _bare(record: dict[str, Any], capture: str) -> float | None:
    """The bare network's step in the precision and mode that a bar's parts have, where it was measured."""
    gpu = is_gpu(record)
    mode = {"compile": "auto", "off": "graph"}[capture] if gpu else capture
    return next((r["median_s"] for r in rows_of(record, "steps")
                 if (r["method"], r["precision"], r["capture"]) == ("bare", "bf16" if gpu else "fp32", mode)), None)


def _stack(axes: Axes, y: int, found: dict[str, dict[str, Any]], bare: float | None, widest: float) -> dict[str, Any]:
    """One bar. found: part -> its row; widest: seconds of the longest bar of the panel. Returns handles for the legend."""
    handles, left, counted = {}, 0.0, []
    for part, shade in PART_COLOURS.items():
        if part not in found:
            continue
        row = found[part]
        drawn = axes.barh(y, row["median_s"], left=left, height=0.46, color=shade)
        handles[part] = drawn[0]
        if row["median_s"] > 0.06 * widest:
            axes.text(left + row["median_s"] / 2, y, _ms(row["median_s"]), ha="center", va="center", fontsize=7, color="white",
                      fontweight="bold")
        if part.startswith("average") and BANK in found:
            hatched = axes.barh(y, min(found[BANK]["median_s"], row["median_s"]), left=left, height=0.46, color=BANKED, hatch="////",
                                edgecolor="white", linewidth=0)
            handles["of it: memory bank"] = hatched[0]
        left += row["median_s"]
        counted.append(f"{part.split(',')[0]} {_counted(row)}")
    line = axes.plot([found[WHOLE]["median_s"]] * 2, [y - 0.34, y + 0.34], color="black", linewidth=1.6, solid_capstyle="butt")[0]
    handles["whole step"] = line
    if bare:
        handles["bare network"] = axes.plot([bare] * 2, [y - 0.34, y + 0.34], color="black", linewidth=1.2, linestyle=(0, (1, 1)))[0]
    bank = f"; memory bank {_counted(found[BANK])}, {_ms(found[BANK]['median_s'])} ms" if BANK in found else ""
    axes.annotate(f"{'kernels' if 'kernels' in found[WHOLE] else 'operators'}: {', '.join(counted)}{bank}; whole step "
                  f"{_counted(found[WHOLE])}, {_ms(found[WHOLE]['median_s'])} ms", (0, y + 0.37), xytext=(3, 0),
                  textcoords="offset points", fontsize=6.6, va="top", color=INK)
    return handles


def _counted(row: dict[str, Any]) -> str:
    n = row.get("kernels", row.get("operators"))
    return "?" if n is None else f"{n:,}"


# ---- growth ---------------------------------------------------------------------------------------------------------------------------

_PANELS = (("classes", ("classes",)), ("slots a class", ("slots",)),
           ("unlabelled images", ("unlabelled images, resident", "unlabelled images, memory-mapped")), ("views a step", ("views",)))


def growth(records: Records) -> tuple[Figure, pd.DataFrame]:
    """Step time against classes, slots, unlabelled images (resident and memory-mapped) and views, from 0, with the memory bank's part; a
    row of panels a machine.

    Frame: record, machine, curve, value, method, median_s, min_s, bank_s."""
    columns = ["record", "machine", "curve", "value", "method", "median_s", "min_s", "bank_s"]
    found = {name: record for name, record in records.own.items() if rows_of(record, "growth")}
    if not found:
        return _empty("growth curves", columns)
    with style():
        figure = _picture(1.75 * len(found) + 0.75)
        grid = figure.subplots(len(found), len(_PANELS), sharey="row", squeeze=False)
        rows, handles = [], {}
        for line, (name, record) in zip(grid, found.items(), strict=True):
            own = rows_of(record, "growth")
            for axes, (label, curves) in zip(line, _PANELS, strict=True):
                handles |= _curves(axes, {curve: [r for r in own if r["curve"] == curve] for curve in curves})
                axes.set_xlabel(label)
            line[0].set_ylim(0, 1.12 * max(r["min_s"] for r in own))
            line[0].set_ylabel("ms a step")
            line[0].yaxis.set_major_locator(MaxNLocator(5))
            line[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{1000 * v:,g}"))
            line[0].set_title(" ", fontsize=8)                   # keeps the place of the row's title, which is wider than its panel
            line[0].text(0, 1.07, f"{where(record)}; {own[0]['network']}, profile {record['settings']['growth_profile']}", fontsize=8,
                         transform=line[0].transAxes, in_layout=False)
            rows += [{"record": name, "machine": where(record), **{k: r.get(k) for k in columns[2:]}} for r in own]
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=7.5)
        _close(figure, "How a step grows: the fastest of the timed steps of SeMi (views: of the method named) on random images of 32 x 32")
    return figure, pd.DataFrame(rows, columns=columns)


def _curves(axes: Axes, curves: dict[str, Iterable[dict[str, Any]]]) -> dict[str, Any]:
    handles = {}
    looks = {"memory-mapped": {"marker": "s", "linestyle": (0, (4, 1.5)), "markerfacecolor": "white", "zorder": 4}}
    for curve, own in curves.items():
        rows = list(own)
        where_ = curve.partition(", ")[2]
        at = [r["value"] for r in rows]
        word = "step, images memory-mapped" if where_ == "memory-mapped" else "step"
        handles[word], = axes.plot(at, [r["min_s"] for r in rows], color=COLOURS["semi"], **{"marker": "o", **looks.get(where_, {})})
        bank = [(r["value"], r["bank_s"]) for r in rows if "bank_s" in r]
        if bank and where_ != "memory-mapped" and curve != "views":
            handles["of it: memory bank"], = axes.plot(*zip(*bank, strict=True), color=BANKED, marker="D", markersize=3)
        if curve == "views":
            for r, (place, x, up) in zip(rows, (("left", 6, -3), ("right", -4, 4), ("center", 0, -12)), strict=False):
                axes.annotate(METHODS.get(r["method"], r["method"]), (r["value"], r["min_s"]), xytext=(x, up),
                              textcoords="offset points", ha=place, fontsize=6.8, color=INK)
    values = sorted({r["value"] for own in curves.values() for r in own})
    if "views" in curves:
        axes.set_xlim(0.3, 4.9)
    elif values:
        axes.set_xscale("log")
        axes.set_xlim(values[0] / 1.8, values[-1] * 1.8)
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))
    return handles


def _short(value: float) -> str:
    """1,000,000 as 1M, 20,000 as 20k."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1000:g}k" if value >= 10_000 else f"{value:,.0f}"
