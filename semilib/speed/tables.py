"""A record of `semilib speed` as tables; needs neither torch nor pandas. Every title names machine and date."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from semilib.methods import METHODS, title_of
from semilib.report.table import Column, Table, Tables, column
from semilib.speed.records import Record, Rows, is_gpu, rows_of, versions, where

NAMES = {**{name: title_of(name) for name in METHODS}, "bare": "bare network"}
CAPTURES = {"off": "eager", "compile": "compiled", "graph": "one CUDA graph",
            "compile+graph": "compiled, one CUDA graph"}
WHOLE, BANK = "whole step", "of these: memory bank"


def written(decimals: dict[float, int], rest: int, unit: str = "", factor: int = 1) -> Callable[[float], str]:
    """How numbers are written: times a factor, with the decimals of the first bound that they reach, else `rest`."""
    def write(value: float) -> str:
        digits = next((n for least, n in decimals.items() if factor * value >= least), rest)
        return f"{factor * value:,.{digits}f}{unit}"
    return write


ms = written({1000: 0, 10: 1, 0.1: 2}, 3, factor=1000)          # of seconds
rate = written({100: 0, 10: 1}, 2)
times = written({10: 1}, 2, "x")
share = written({}, 1, " %", factor=100)
count, ratio = written({}, 0), written({}, 2)
MEDIAN, LEAST = column("median_s", "ms a step", ms), column("min_s", "least", ms)
RATE, OVER_BARE = column("rate", "steps a second", rate), column("over", "over bare", ratio)


def words(key: str, head: str = "") -> Column:
    return column(key, head, left=True)


def how(row: dict[str, Any], gpu: bool = True) -> str:
    """Precision and capture: "bf16, compiled, one CUDA graph". gpu: whether the machine is one; it decides what auto
    is."""
    capture = ("compile+graph" if gpu else "off") if row.get("capture") == "auto" else row.get("capture")
    return ", ".join(filter(None, (row.get("precision"), CAPTURES.get(capture))))


def how_parts(record: Record, row: dict[str, Any]) -> str:
    """How a part of a step ran: on a GPU each is a CUDA graph of its own."""
    return CAPTURES[row["capture"]] + ", a CUDA graph each" * is_gpu(record)


def titled(record: Record, what: str, columns: list[Column], rows: Rows, *notes: str) -> Table:
    """A table of a record, its title with machine, date and profile."""
    return Table(f"{what}; {where(record)}; profile {record['settings']['profile']}", columns, rows, list(notes))


def network(rows: Rows) -> str:
    return f", {rows[0]['network']}" if rows else ""


# ---- a table a section -----------------------------------------------------------------------------------------------


def steps(record: Record) -> Table:
    """Seconds a step of each method, beside the bare network."""
    rows = rows_of(record, "steps")
    bare = {(r["precision"], r["capture"]): r["median_s"] for r in rows if r["method"] == "bare"}
    rows = [{**r, "name": NAMES[r["method"]], "how": how(r, is_gpu(record)), "rate": 1 / r["median_s"],
             "over": r["median_s"] / bare.get((r["precision"], r["capture"]), math.nan)} for r in rows]
    return Table(f"A step of each method{network(rows)}; {where(record)}",
                 [words("name"), words("how", "how"), column("images", "images", count), MEDIAN, LEAST, RATE,
                  OVER_BARE], rows,
                 [f"{versions(record)}; profile {record['settings']['profile']}. Median over single steps or windows "
                  "of them, the device waited for after each.",
                  "Over bare: the time over that of the network alone in the same precision and mode: forward, "
                  "cross-entropy, backward and optimiser on one ready batch of SeMi's size."])


def limits(record: Record) -> Table:
    """What the machine copies and multiplies a second, and a SeMi step's network on paper at those rates."""
    rows = []
    for r in rows_of(record, "limits"):
        if "TFLOP" in r:
            rows += [{"what": f"{r['what']}: at the {at} rate", "value": f"{ms(r[f'at_{at}_rate_s'])} ms",
                      "of": f"{r[unit]:.3g} {unit}"} for at, unit in (("matrix", "TFLOP"), ("copy", "GB"))]
        else:
            value = f"{r['GB_s']:.3g} GB/s" if "GB_s" in r else f"{r['TFLOP_s']:.3g} TFLOP/s"
            rows.append({"what": r["what"], "value": value, "of": r["note"]})
    rows += [{"what": r["what"], "value": f"{r['s']:.2f} s", "of": "least of several processes"}
             for r in rows_of(record, "imports")]
    return titled(record, "The machine's limits",
                  [words("what", "what"), column("value", "value"), words("of", "of")], rows,
                  "On paper: the network's convolutions forward and backward, each tensor read and written once.")


def parts(record: Record) -> Table:
    """SeMi's step by part: seconds, operators, compiled kernels."""
    rows = rows_of(record, "parts")
    step = {r["capture"]: r["median_s"] for r in rows if r["part"] == WHOLE}
    rows = [{**r, "how": how_parts(record, r), "share": r["median_s"] / step.get(r["capture"], math.nan)} for r in rows]
    return titled(record, "SeMi's step by part",
                  [words("part"), words("how", "how"), column("median_s", "ms", ms), LEAST,
                   column("share", "of the step", share), column("operators", "operators", count),
                   column("kernels", "kernels", count)], rows,
                  "Each part is repeated alone, so the parts need not add up to the step. Operators: what PyTorch "
                  "calls, at least a kernel each on a GPU; kernels: what the compiler makes of them, a library's "
                  "convolutions left out.")


def whole(record: Record) -> Table:
    """What a run costs besides its steps, and what a run of 250,000 steps comes to."""
    def duration(s: float) -> str:
        return (f"{s / 3600:,.1f} h" if s >= 3600 else f"{s / 60:.1f} min" if s >= 120 else f"{s:.2f} s" if s >= 1
                else f"{ms(s)} ms")
    rows = [{"what": r["what"], "value": f"{r['MiB']:,.0f} MiB" if "MiB" in r else duration(r["s"])}
            for r in rows_of(record, "whole")]
    return titled(record, "A run of SeMi", [words("what", "what"), column("value", "value")], rows,
                  "The last line is worked out from those above, not waited for.")


def growth(record: Record) -> Table:
    """Step time against classes, slots, unlabelled images and views, with the memory bank's part."""
    rows = rows_of(record, "growth")
    first = {r["curve"]: r["median_s"] for r in reversed(rows)}
    rows = [{**r, "name": NAMES[r["method"]], "grown": r["median_s"] / first[r["curve"]],
             "share": r.get("bank_s", math.nan) / r["median_s"]} for r in rows]
    return Table(f"How a step grows{network(rows)}; {where(record)}",
                 [words("curve"), column("value", "of", count), words("name", "method"),
                  column("images", "images a step", count), MEDIAN, LEAST, column("grown", "over its first", times),
                  column("bank_s", "bank, ms", ms), column("share", "bank, of the step", share)], rows,
                 [f"Random images, profile {record['settings']['growth_profile']}. Bank: push, decay and prototypes of "
                  "the memory bank."])


def sharing(record: Record) -> Table:
    """Steps a second of several seeds on one device, over one alone; `benchmarks/stacked.py` adds stacked networks."""
    rows = rows_of(record, "sharing") + rows_of(record, "stacked")
    alone = {r["how"]: r["steps_a_second"] for r in rows if r["runs"] == 1}
    rows = [{**r, "over": r["steps_a_second"] / alone.get(r["how"], math.nan)} for r in rows]
    stacked = " Stacked: the bare network of each seed as a group of one network's convolutions."
    return titled(record, "Several seeds on one device",
                  [words("how"), column("runs", "seeds", count), column("median_s", "ms, a step of all", ms),
                   column("steps_a_second", "steps a second", rate), column("over", "over one alone", times)], rows,
                  "Runs in one process: whole SeMi steps, a CUDA stream each on a GPU."
                  + stacked * any("stacked" in r["how"] for r in rows))


TABLES: dict[str, Callable[[Record], Table]] = {"steps": steps, "limits": limits, "parts": parts, "whole": whole,
                                                "growth": growth, "sharing": sharing}


def tables(record: Record, *sections: str) -> list[Table]:
    """The tables of what was measured, of the sections that are named or of all."""
    made = [make(record) for section, make in TABLES.items() if section in sections or not sections]
    return [table for table in made if table.frame]


def of(records: dict[str, Record], *sections: str) -> Tables:
    """The tables of records, of the sections that are named or of all; a line where there are none."""
    return Tables([table for record in records.values() for table in tables(record, *sections)],
                  f"No record has {' or '.join(sections) or 'anything'} yet.")
