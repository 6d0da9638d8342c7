"""Runs beside other implementations (results/speed/NAME.peers.json) as ratios, a table and a figure.

Ratios are of medians over single steps; those of means and of the least steps stand beside them.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from semilib.report import paint
from semilib.report.table import Table, column
from semilib.speed.figures import Figure, panels, show
from semilib.speed.records import FOLDER, PEERS, Record, Rows, is_gpu, read, rows_of, versions, where
from semilib.speed.tables import LEAST, MEDIAN, NAMES, OVER_BARE, RATE, how, ms, rate, times, words

PEER_NAMES = {"ours": "semilib", "authors": "authors' script", "usb": "USB", "bare": "bare network"}
METHODS = ("semi", "fixmatch", "daso")
GREY, PALE = "#8c8c8c", "#c9c9c9"


def load(folder: str | Path = FOLDER) -> dict[str, Record]:
    """The runs beside other implementations of a folder by name. Raises BadInput for a file that is none."""
    return {file.name.removesuffix(PEERS): read(file, "rows", "implementations")
            for file in sorted(Path(folder).glob(f"*{PEERS}"))}


def timed(record: Record, method: str, *of: str) -> Rows:
    """The rows that compare, of a method and of some implementations, fastest first; not those that failed or differ in
    their work."""
    rows = [r for r in record["rows"] if r["method"] == method and r["of"] in of and "median_s" in r]
    return sorted((r for r in rows if r["of"] == "bare" or not r["variant"]), key=lambda r: r["median_s"])


def pairs(record: Record) -> Rows:
    """Each of our configurations against the implementation of its method as shipped and with its best number of
    workers.

    Rows: method, config, ours (precision and capture), against (shipped, best), peer, workers, ours_s, peer_s, ratio
    (of medians), ratio_mean (of the windows over their steps, which hold what loaders cost between steps; None where
    there is no window), ratio_least (of least steps)."""
    rows = []
    for method in METHODS:
        theirs = timed(record, method, "authors", "usb")
        against = [("shipped", peer) for peer in theirs if peer["shipped"]] + [("best", peer) for peer in theirs[:1]]
        order = {r["config"]: i for i, r in enumerate(record["rows"])}
        for ours in sorted(timed(record, method, "ours"), key=lambda r: order[r["config"]]):
            rows += [{"method": method, "config": ours["config"], "ours": how(ours), "precision": ours.get("precision"),
                      "against": which, "peer": PEER_NAMES[peer["of"]], "workers": peer.get("workers", ""),
                      "ours_s": ours["median_s"], "peer_s": peer["median_s"],
                      "ratio": peer["median_s"] / ours["median_s"],
                      "ratio_mean": peer["mean_s"] / ours["mean_s"] if "mean_s" in peer and "mean_s" in ours else None,
                      "ratio_least": peer["min_s"] / ours["min_s"]} for which, peer in against]
    return rows


def ratios(record: Record) -> Table:
    """Our steps a second over a peer's, for each of our configurations."""
    against = {"shipped": "as shipped", "best": "best number of workers"}
    rows = [{**r, "name": NAMES[r["method"]], "against": against[r["against"]]} for r in pairs(record)]
    return Table(f"Ahead of the others: steps a second over theirs; {where(record)}",
                 [words("name"), words("ours", "semilib"), words("peer", "against"), words("against", "which"),
                  words("workers", "workers"), column("ours_s", "our ms", ms), column("peer_s", "their ms", ms),
                  column("ratio", "ratio", times), column("ratio_mean", "of means", times),
                  column("ratio_least", "of least", times)], rows,
                 ["Ratio: of median times; of means: of the whole windows, which also hold what a loader costs when it "
                  "begins anew; of least: of the fastest step of each. Peers compute in fp32 as PyTorch sets it (TF32 "
                  "in convolutions on a GPU), so rows of ours in fp32 compare like with like.", f"{versions(record)}."])


def steps(record: Record) -> Table:
    """Seconds a step of each implementation, beside the bare network."""
    settings = record["settings"]
    bare = next((r.get("median_s") for r in record["rows"] if r["config"] == "bare_eager_fp32"), None)
    notes = [f"{versions(record)}. Up to {settings['steps']} steps after {settings['warmup']}, one process a row, one "
             "after the other. Median over single steps; images: forward / backward. Data wait: the part of the step "
             "until the batch is in hand.",
             "Over bare: the time over that of WRN-28-2 alone (eager, fp32, 256 images)."]
    notes += [f"No time: {r['config']}: {r.get('error', 'no step was made')}"
              for r in record["rows"] if "median_s" not in r]
    for name, about in record["implementations"].items():
        if name in PEER_NAMES:
            repaired = f" Repaired: {'; '.join(about['repairs'])}." if about["repairs"] else ""
            notes.append(f"{PEER_NAMES[name]}: {about['what']}; {about['settings']}.{repaired}")
    return Table(f"A step of each implementation, side by side; {where(record)}",
                 [words("name"), words("how", "how"), words("workers", "loader workers"), words("images", "images"),
                  MEDIAN, LEAST, RATE, column("data_wait_s", "data wait", ms), OVER_BARE],
                 [step_row(r, bare) for r in record["rows"] if "median_s" in r], notes)


def step_row(row: dict[str, Any], bare: float | None) -> dict[str, Any]:
    """A row of `steps` with what it shows. bare: seconds of the bare network's step, if it was measured."""
    peer, workers = PEER_NAMES.get(row["of"], row["of"]), row.get("workers")
    method = f"{NAMES.get(row['method'], row['method'])}, " if row["of"] in ("ours", "authors", "usb") else ""
    return {**row, "name": f"{method}{peer}",
            "how": ", ".join(filter(None, (how(row), row["variant"]))),
            "workers": f"{workers} (shipped)" if row["shipped"] and workers else workers,
            "images": f"{row['images_forward']} / {row['images_backward']}" if "images_backward" in row else "",
            "rate": 1 / row["median_s"], "over": row["median_s"] / bare if bare else None}


def tables(record: Record) -> list[Table]:
    """The tables of a run of peers that have rows."""
    return [table for table in (ratios(record), steps(record)) if table.frame]


# ---- figure ----------------------------------------------------------------------------------------------------------


def implementations(own: dict[str, Record], peers: dict[str, Record]) -> Figure:
    """Steps a second of every implementation, a bar each, by method; a panel a machine. Runs beside peers where there
    are any, else our own steps.

    Frame: record, panel, method, label, steps_a_second, images, colour."""
    alone = {name: record for name, record in own.items() if name not in peers}
    bars = [{"record": name, "panel": where(record), **one} for name, record in {**peers, **alone}.items()
            for one in (peer_bars(record) if name in peers else own_bars(record))]
    return show("steps a second", bars, "Steps a second of every implementation",
                "Median over single steps; WRN-28-2 and 64 + 64 images of CIFAR-10-LT unless a bar "
                "says otherwise. Coloured: semilib; grey: other implementations; pale: the network alone on a ready "
                "batch of SeMi's size")


def bar(row: dict[str, Any], of: str, label: str) -> dict[str, Any]:
    """A bar. of: whose step it is (ours, bare or a peer's)."""
    return {"method": row["method"], "label": f"{NAMES[row['method']]}: {label}", "steps_a_second": 1 / row["median_s"],
            "images": row.get("images_forward", row.get("images")),
            "colour": {"ours": paint.colour(row["method"]), "bare": PALE}.get(of, GREY)}


def peer_bars(record: Record) -> list[dict[str, Any]]:
    """The rows that compare: ours once each; of each peer as shipped and with its best number of workers; of the bare
    network the plain one and the fastest of each precision."""
    bars = []
    for method in METHODS:
        ours, theirs = timed(record, method, "ours"), timed(record, method, "authors", "usb")
        bars += [bar(r, "ours", f"semilib, {way}") for way, r in {how(r): r for r in ours}.items()]
        for r in distinct([r for r in theirs if r["shipped"]] + theirs[:1]):
            workers = f"{r.get('workers', '?')} workers" + " (shipped)" * r["shipped"]
            bars.append(bar(r, r["of"], f"{PEER_NAMES[r['of']]}, {r['precision']}, {workers}"))
    bare = [r for r in timed(record, "bare", "bare") if "not waited" not in r["variant"]]
    plain = [r for r in bare if r["config"] == "bare_eager_fp32"]
    fastest = list({r["precision"]: r for r in reversed(bare)}.values())
    return bars + [bar(r, "bare", f"{r['precision']}, {r['variant']}")
                   for r in distinct(plain + sorted(fastest, key=lambda r: r["precision"] != "fp32"))]


def distinct(rows: Rows) -> Rows:
    """The rows, each configuration once."""
    return list({r["config"]: r for r in rows}.values())


def own_bars(record: Record) -> list[dict[str, Any]]:
    """The steps of a record of ours, by method."""
    order = (*METHODS, "bare")
    rows = sorted((r for r in rows_of(record, "steps") if r["method"] in order),
                  key=lambda r: (order.index(r["method"]), r["median_s"]))
    bars = []
    for r in rows:
        of = "bare" if r["method"] == "bare" else "ours"
        network = f" ({r['network']})" if r["network"] != "wrn-28-2" else ""
        bars.append(bar(r, of, "semilib, " * (of == "ours") + how(r, is_gpu(record)) + network))
    return bars


@paint.draws("steps a second")
def draw_implementations(frame: pd.DataFrame) -> paint.Picture:
    picture, drawn = panels(frame, lambda group: 0.165 * len(group) + 0.2)
    for (axes,), group in drawn:
        pieces = axes.barh(range(len(group)), group["steps_a_second"], color=group["colour"], tick_label=group["label"])
        texts = [f"{rate(value)}  ({ms(1 / value)} ms)" for value in group["steps_a_second"]]
        axes.bar_label(pieces, texts, padding=3, fontsize=paint.SMALL)
        axes.set(xlim=(0, 1.2 * group["steps_a_second"].max()), ylim=(len(group) - 0.4, -0.6))
        axes.tick_params(axis="y", length=0)
    axes.set_xlabel("steps a second")
    return picture
