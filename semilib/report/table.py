"""A table: text for a terminal, Markdown for a page, and the CSV of the numbers behind it.

    table = Table("Speed", [column("name", "method", left=True), column("ms", "ms a step", "{:.1f}".format)], frame)
    print(table.text)
    table.write("figures/speed")               # speed.csv and speed.md
"""
from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from semilib.files import write_atomically, write_text

if TYPE_CHECKING:
    import pandas as pd

DASH = "–"
LINE = 96                       # characters of a footnote's line in the plain text


class Column(NamedTuple):
    """head: its heading. write: a row of the frame as this column's text. left: whether it holds words, which stand to the left."""

    head: str
    write: Callable[[dict[str, Any]], str]
    left: bool = False


def column(key: str, head: str, write: Callable[[Any], str] = str, left: bool = False) -> Column:
    """A column that shows one value of each row, or a dash where there is none."""
    return Column(head, lambda row: DASH if is_missing(row.get(key)) else write(row[key]), left)


def number(digits: int) -> Callable[[float], str]:
    """How a number is written with so many decimals; a dash stands for NaN."""
    return lambda value: DASH if math.isnan(value) else f"{value:.{digits}f}"


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


@dataclass(frozen=True, eq=False)
class Table:
    """A table and the numbers behind it; unpacks as (frame, text).

    frame: a row a line, with the values as they were computed; as a list of rows it needs no pandas. columns: how they are
    shown. notes: the footnotes. runs: the numbers that the lines summarise, a row a run; `write` keeps them, or the frame if
    there are none.
    """

    title: str
    columns: list[Column]
    frame: pd.DataFrame | list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    runs: pd.DataFrame | None = None
    subtitle: str = ""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frame, self.text))

    @property
    def name(self) -> str:
        """Title and subtitle in one line."""
        return f"{self.title}; {self.subtitle}" if self.subtitle else self.title

    def cells(self) -> list[list[str]]:
        """The table as strings, headings first."""
        rows = self.frame if isinstance(self.frame, list) else self.frame.to_dict("records")
        return [[column.head for column in self.columns], *([column.write(row) for column in self.columns] for row in rows)]

    @property
    def text(self) -> str:
        """Title first, footnotes last."""
        cells = self.cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        head, *lines = ["  ".join(text.ljust(width) if column.left else text.rjust(width) for text, width, column
                                  in zip(row, widths, self.columns, strict=True)).rstrip() for row in cells]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        notes = [line for note in self.notes
                 for line in textwrap.wrap(note, LINE, subsequent_indent="  ", break_on_hyphens=False)]
        return "\n".join([self.title, *filter(None, [self.subtitle]), "", head, rule, *lines, rule, *notes])

    @property
    def markdown(self) -> str:
        """The title, the table and the footnotes as a list."""
        return "\n".join([self.name, "", self.grid, *(f"- {note}" for note in self.notes)]) + "\n"

    @property
    def grid(self) -> str:
        """The table alone, in Markdown."""
        head, *rows = [[text.replace("|", "\\|") for text in row] for row in self.cells()]
        marks = ["---" if column.left else "--:" for column in self.columns]
        return "\n".join(f"| {' | '.join(row)} |" for row in [head, marks, *rows]) + "\n"

    def write(self, path: str | Path) -> tuple[Path, Path]:
        """Write NAME.csv, the numbers in long form, and NAME.md, which names it; returns both paths."""
        long, short = paths(path, ".csv", ".md")
        write_csv(self.frame if self.runs is None else self.runs, long)
        write_text(short, f"{self.markdown}- Every run's numbers: {long.name}.\n")
        return long, short


def write_all(tables: Iterable[Table], path: str | Path) -> tuple[Path, Path]:
    """Write several tables as one NAME.csv, whose column `table` names them, and one NAME.md; returns both paths."""
    import pandas as pd
    long, short = paths(path, ".csv", ".md")
    tables = list(tables)
    write_csv(pd.concat([t.runs.assign(table=t.name) for t in tables], ignore_index=True), long)
    write_text(short, "\n".join(f"## {t.markdown}" for t in tables))
    return long, short


def paths(path: str | Path, *endings: str) -> list[Path]:
    """NAME with each ending, of a path with or without one of them; other dots are part of the name (cells have many)."""
    path = Path(path)
    base = path.with_suffix("") if path.suffix in endings else path
    return [base.with_name(base.name + ending) for ending in endings]


def write_csv(frame: pd.DataFrame | list[dict[str, Any]], path: Path) -> None:
    """A frame as CSV in full precision, so that it reads back equal; nothing stands for a missing value."""
    import pandas as pd
    content = pd.DataFrame(frame).to_csv(index=False, lineterminator="\n").encode("utf-8")
    write_atomically(path, lambda file: file.write(content))
