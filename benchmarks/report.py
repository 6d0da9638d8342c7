"""What the committed records of speed come to: the goals in docs/speed.md, and figures/speed/table.md with its figure.

    python -m benchmarks.report                # after a new record in results/speed
"""
from __future__ import annotations

import json
import math
import re
import statistics
import sys
from pathlib import Path

from benchmarks import peers
from benchmarks.goals import goals, written
from semilib.errors import BadInput
from semilib.files import place, write_text
from semilib.report import paint
from semilib.report.table import Table, column
from semilib.speed.records import FOLDER, Record, load, versions, where
from semilib.speed.tables import how, words

LEARNING = "results/precision-trial-600-steps"
PAGE = "figures/speed/table.md"


def learning(folder: str | Path = LEARNING) -> Table:
    """Whether the faster ways to compute learn what plain ones do: the final balanced accuracy of a folder's runs,
    which differ in precision, capture and seed alone. within: whether the mean lies between the worst and the best seed
    of fp32, uncompiled."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in Path(folder).glob("*/run.json")]
    finals: dict[tuple[bool, str, str], list[float]] = {}
    for run in sorted(runs, key=lambda run: run["config"]["seed"]):
        way = run["config"]["precision"], run["config"]["capture"]
        finals.setdefault((way != ("fp32", "off"), *way), []).append(run["result"]["last"])
    rows, plain = [], finals.get((False, "fp32", "off"), [math.nan])
    for (_, precision, capture), accuracies in sorted(finals.items()):
        mean = statistics.fmean(accuracies)
        rows.append({"how": how({"precision": precision, "capture": capture}),
                     "seeds": "  ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies), "mean": mean,
                     "within": "yes" if min(plain) <= mean <= max(plain) else "no"})
    one = runs[0] if runs else {"name": "no run", "config": {"steps": 0, "network": "no network", "batch": 0}}
    return Table(f"SeMi's final balanced accuracy; {one['name'].split('.s')[0]}, {one['config']['steps']:,} steps of "
                 f"{one['config']['network']}, batch {one['config']['batch']}",
                 [words("how"), column("seeds", "each seed, %"),
                  column("mean", "mean, %", lambda mean: f"{100 * mean:.1f}"),
                  column("within", "within fp32, eager")], rows,
                 ["Of the last evaluation. Within: between the worst and the best seed of fp32, eager. On a CPU "
                  "without units for bf16."])


def evidence(own: dict[str, Record], beside: dict[str, Record]) -> str:
    """Which records there are: a line each, with machine, date, versions and commits."""
    lines = []
    for name, record in own.items():
        codes = dict.fromkeys(str(part["code"]) for part in record.values() if "code" in part)
        short = [re.sub(r"^([0-9a-f]{8})[0-9a-f]{32}", r"\1", code) for code in codes]
        lines.append(f"- {name}: {where(record)}; {versions(record)}; code {', '.join(short) or 'unknown'}")
    lines += [f"- {name}, side by side: {where(record)}; {versions(record)}" for name, record in beside.items()]
    return "\n".join(lines) or "No record yet."


def page(own: dict[str, Record], beside: dict[str, Record], learned: Table) -> str:
    """Goals, the comparison with other implementations, and whether the faster ways learn the same, as Markdown."""
    tables = [goals(own, beside), *(table for record in beside.values() for table in peers.tables(record)), learned]
    return "\n".join(["# Speed", "", evidence(own, beside), "", "![Steps a second](implementations.png)", "",
                      *(f"## {table.markdown}" for table in tables)])


def main() -> None:
    """Write the table of goals, the page and its figure."""
    own, beside = load(place(FOLDER)), peers.load(place(FOLDER))
    front = place("docs/speed.md")
    write_text(front, written(front.read_text(encoding="utf-8"), own, beside))
    write_text(place(PAGE), page(own, beside, learning(place(LEARNING))))
    paint.save(*peers.implementations(own, beside), place(PAGE).with_name("implementations"))
    print(goals(own, beside).text)


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(f"benchmarks.report: {error}")
