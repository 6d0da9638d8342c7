"""The goals of speed, and what the records say of each: met, not met, or open where no record holds the figure."""
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.peers import pairs
from semilib.errors import BadInput
from semilib.report.table import Table
from semilib.speed.records import FOLDER, PEERS, Record, is_gpu, rows_of, versions, where
from semilib.speed.tables import BANK, WHOLE, ms, share, sharing, times, words

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
NO_GPU, NOTHING = "open: not measured on a GPU yet", "open: not measured yet"
NO_UNITS = "open: not measured on a CPU with such units yet"

Answer = tuple[float, str] | None           # the figure that a record holds, and how it is written


class Goal(NamedTuple):
    """figure: what is bounded. sign, bound, unit: at least (1) or at most (-1) how much. find: what a record answers.
    which: records of ours or of peers. on: which of them count. lacking: what stands there where none answers."""

    figure: str
    sign: int
    bound: float
    unit: str
    find: Callable[[Record], Answer]
    which: str = "ours"
    on: Callable[[Record], bool] = is_gpu
    lacking: str = NO_GPU


# ---- what a record answers -------------------------------------------------------------------------------------------


def ahead(method: str, against: str) -> Callable[[Record], Answer]:
    """Our default configuration over the method's peer."""
    def find(record: Record) -> Answer:
        rows = [r for r in pairs(record) if r["against"] == against and r["config"] == f"ours_{method}"]
        text = [f"{times(r['ratio'])} ({ms(r['peer_s'])} against {ms(r['ours_s'])} ms)" for r in rows]
        return (rows[0]["ratio"], text[0]) if rows else None
    return find


def cpu_step(precision: str, method: str = "semi") -> Callable[[Record], Answer]:
    """Our step in a precision over the method's peer with its best number of workers."""
    def find(record: Record) -> Answer:
        rows = [r for r in pairs(record) if (r["method"], r["against"], r["precision"]) == (method, "best", precision)]
        ways = {r["ours"].removeprefix(f"{precision}, "): r["ratio"] for r in sorted(rows, key=lambda r: -r["ratio"])}
        text = "; ".join(f"{times(ratio)} {way}" for way, ratio in ways.items())
        return (max(ways.values()), text) if ways else None
    return find


def over_bare(record: Record) -> Answer:
    s = {r["method"]: r["median_s"] for r in rows_of(record, "steps")
         if (r["precision"], r["capture"]) == ("bf16", "auto")}
    if not {"bare", "semi"} <= s.keys():
        return None
    return s["semi"] / s["bare"], f"{s['semi'] / s['bare']:.2f} ({ms(s['semi'])} against {ms(s['bare'])} ms)"


def whole_run(record: Record) -> Answer:
    minutes = [r["s"] / 60 for r in rows_of(record, "whole") if r["what"].startswith("250,000 steps")]
    return (minutes[0], f"{minutes[0]:.1f} min, worked out") if minutes else None


def shared(record: Record) -> Answer:
    best: dict[str, dict[str, Any]] = {}
    for r in sharing(record).frame:
        if r["runs"] > 1 and r["over"] > best.get(r["how"], {"over": 0})["over"]:
            best[r["how"]] = r
    text = "; ".join(f"{how}: {times(r['over'])} with {r['runs']}" for how, r in best.items())
    return (max(r["over"] for r in best.values()), text) if best else None


def bank(record: Record) -> Answer:
    s = {r["part"]: r["median_s"] for r in rows_of(record, "parts") if r["capture"] == "compile"}
    if not {BANK, WHOLE} <= s.keys():
        return None
    return 100 * s[BANK] / s[WHOLE], f"{share(s[BANK] / s[WHOLE])} ({ms(s[BANK])} of {ms(s[WHOLE])} ms)"


def import_time(record: Record) -> Answer:
    seconds = [r["s"] for r in rows_of(record, "imports") if r["what"].startswith("import semilib")]
    return (seconds[0], f"{seconds[0]:.2f} s" + " (less than the noise)" * (seconds[0] < 0)) if seconds else None


def is_paper_on_gpu(record: Record) -> bool:
    """The published step on a GPU: smaller profiles answer no goal."""
    return is_gpu(record) and record["settings"]["profile"] == "paper"


def is_cpu(record: Record) -> bool:
    return not is_gpu(record)


def has_amx(record: Record) -> bool:
    return is_cpu(record) and "amx_bf16" in record["machine"].get("cpu_units", [])


def has_avx512_bf16_alone(record: Record) -> bool:
    return is_cpu(record) and "avx512_bf16" in record["machine"].get("cpu_units", []) and not has_amx(record)


def is_any(record: Record) -> bool:
    return True


GOALS = (
    Goal("SeMi's steps a second over the authors' script as it ships, one H200", 1, 12, "x", ahead("semi", "shipped"),
         "peers"),
    Goal("the same, its best number of workers", 1, 10, "x", ahead("semi", "best"), "peers"),
    Goal("FixMatch's over USB as it ships, one H200", 1, 10, "x", ahead("fixmatch", "shipped"), "peers"),
    Goal("the same, its best number of workers", 1, 5, "x", ahead("fixmatch", "best"), "peers"),
    Goal("DASO's over USB as it ships, one H200", 1, 10, "x", ahead("daso", "shipped"), "peers"),
    Goal("the same, its best number of workers", 1, 5, "x", ahead("daso", "best"), "peers"),
    Goal("SeMi's step over the bare network's, GPU", -1, 1.15, "", over_bare, on=is_paper_on_gpu),
    Goal("250,000 steps of SeMi with evaluations, one H200", -1, 20, " min", whole_run, on=is_paper_on_gpu),
    Goal("steps a second of up to 8 seeds that share one H200, over one alone", 1, 1.2, "x", shared,
         on=is_paper_on_gpu),
    Goal("SeMi's step over the authors' script, WRN-28-2, fp32, two CPU cores", 1, 1.25, "x", cpu_step("fp32"), "peers",
         is_cpu, NOTHING),
    Goal("the same, ours in bf16, where the CPU has matrix units", 1, 3, "x", cpu_step("bf16"), "peers", has_amx,
         NO_UNITS),
    Goal("FixMatch's over USB, ours in bf16 there", 1, 2, "x", cpu_step("bf16", "fixmatch"), "peers", has_amx,
         NO_UNITS),
    Goal("SeMi's, ours in bf16, where it has AVX-512's instructions alone", 1, 2, "x", cpu_step("bf16"), "peers",
         has_avx512_bf16_alone, NO_UNITS),
    Goal("FixMatch's over USB, ours in bf16 there", 1, 2, "x", cpu_step("bf16", "fixmatch"), "peers",
         has_avx512_bf16_alone, NO_UNITS),
    Goal("memory bank (push, decay, prototypes) of SeMi's step, GPU", -1, 5, " %", bank, on=is_paper_on_gpu),
    Goal("import semilib, beyond PyTorch's own import", -1, 0.3, " s", import_time, on=is_any, lacking=NOTHING))


# ---- the table -------------------------------------------------------------------------------------------------------


def goals(own: dict[str, Record], peers: dict[str, Record]) -> Table:
    """figure, goal, measured, met (yes, no, open), on. The record that answers is one of an H200 or of two CPU cores,
    else of another device of the kind; among these the latest, and of one date the best."""
    rows = []
    for goal in GOALS:
        answers = [(is_preferred(record), record["machine"]["date"], goal.sign * answer[0], answer[1], where(record))
                   for record in (own if goal.which == "ours" else peers).values() if goal.on(record)
                   if (answer := goal.find(record))]
        row = {"figure": goal.figure, "goal": f"{'at least' if goal.sign > 0 else 'at most'} {goal.bound:g}{goal.unit}",
               "measured": goal.lacking, "met": "open", "on": ""}
        if answers:
            _, _, value, row["measured"], row["on"] = max(answers)
            row["met"] = "yes" if value >= goal.sign * goal.bound else "no"
        rows.append(row)
    return Table("Goals", [words(key, key) for key in ("figure", "goal", "measured", "met", "on")], rows,
                 ["Ratios are of median times of a step; \"as it ships\" and \"best\" are the peer's number of loader "
                  "workers."])


def is_preferred(record: Record) -> bool:
    return "H200" in record["machine"]["device"] if is_gpu(record) else record["machine"]["cores"] == 2


# ---- the page --------------------------------------------------------------------------------------------------------


def block(own: dict[str, Record], peers: dict[str, Record]) -> str:
    """What stands between the page's two marks: the goals, and the records that they rest on."""
    names = [f"{where(record)} (`{FOLDER}/{name}.json`; {versions(record)})" for name, record in own.items()]
    names += [f"{where(record)}, side by side (`{FOLDER}/{name}{PEERS}`; {versions(record)})"
              for name, record in peers.items()]
    line = f"Measured on: {'; '.join(names)}." if names else "No record is committed yet, so every figure is open."
    return f"{goals(own, peers).grid}\n{line}\n"


def written(page: str, own: dict[str, Record], peers: dict[str, Record]) -> str:
    """The page's text with its goals made anew."""
    return between(page, BEGIN, END, block(own, peers))


def between(page: str, begin: str, end: str, text: str) -> str:
    """The page with other text between two marks. Raises BadInput if the marks are not there, once, in order."""
    blocks = re.findall(rf"{begin}\n.*?{end}", page, re.DOTALL)
    if len(blocks) != 1:
        raise BadInput("page", len(blocks), f"one block between {begin} and {end}")
    return page.replace(blocks[0], f"{begin}\n{text}{end}")
