"""A table: text for a terminal, HTML for a notebook, Markdown for a page, and the CSV of the numbers behind it.

    table = Table("Speed", [column("name", "method", left=True), column("ms", "ms a step", "{:.1f}".format)], frame)
    table                                      # as the value of a notebook's cell: HTML
    print(table)
    table.write("figures/speed")               # speed.csv and speed.md
"""
from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from semilib.files import write_atomically, write_text

if TYPE_CHECKING:
    import pandas as pd

DASH = "–"
LINE = 96                       # characters of a footnote's line in the plain text


class Column(NamedTuple):
    """head: its heading. write: a row of the frame as text. left: whether it holds words, which stand to the left."""

    head: str
    write: Callable[[dict[str, Any]], str]
    left: bool = False


def column(key: str, head: str, write: Callable[[Any], str] = str, left: bool = False) -> Column:
    """A column that shows one value of each row, or a dash where there is none."""
    return Column(head, lambda row: DASH if is_missing(row.get(key)) else write(row[key]), left)


def is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value               # NaN alone differs from itself


def number(value: float, digits: int) -> str:
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


@dataclass(frozen=True, eq=False)
class Table:
    """A table and the numbers behind it. It unpacks as (frame, text).

    frame: a row a line, with the values as they were computed; a list of rows needs no pandas. columns: how they are
    shown. notes: the footnotes. runs: the numbers that the lines summarise, a row a run. Without them, `write` keeps
    the frame. idle: how a row of which nothing was started is named, and "" for any other; such rows are one line
    below the table.
    """

    title: str
    columns: list[Column]
    frame: pd.DataFrame | list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    runs: pd.DataFrame | None = None
    subtitle: str = ""
    idle: Callable[[dict[str, Any]], str] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frame, self.text))

    @property
    def name(self) -> str:
        """Title and subtitle in one line."""
        return f"{self.title}; {self.subtitle}" if self.subtitle else self.title

    def _rows(self) -> list[dict[str, Any]]:
        return self.frame if isinstance(self.frame, list) else self.frame.to_dict("records")

    def cells(self) -> list[list[str]]:
        """The table as strings, headings first, without rows of which nothing was started; [] where that is all."""
        shown = [row for row in self._rows() if self.idle is None or not self.idle(row)]
        lines = [[column.write(row) for column in self.columns] for row in shown]
        return [[column.head for column in self.columns], *lines] if lines or not self.not_started else []

    @property
    def not_started(self) -> list[str]:
        """The names of the rows of which nothing was started."""
        return [] if self.idle is None else list(filter(None, map(self.idle, self._rows())))

    @property
    def footnotes(self) -> list[str]:
        """What stands below the table: first, in one line, what was not started."""
        names = self.not_started
        return [f"Not started: {', '.join(names)}.", *self.notes] if names else self.notes

    @property
    def text(self) -> str:
        """Title first, footnotes last."""
        return "\n".join([self.title, *filter(None, [self.subtitle]), "", *self._text_of_cells(),
                          *folded(self.footnotes)])

    def _text_of_cells(self) -> list[str]:
        cells = self.cells()
        if not cells:
            return []
        widths = [max(map(len, texts)) for texts in zip(*cells, strict=True)]
        marks = [f"{'<' if column.left else '>'}{width}" for column, width in zip(self.columns, widths, strict=True)]
        head, *lines = ["  ".join(map(format, row, marks)).rstrip() for row in cells]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return [head, rule, *lines, rule]

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """The same as `text`, as a notebook shows it. Bold: the title, the heads, and differences with a star."""
        cells = self.cells()
        head, rows = cells[:1], "\n".join(self._row("td", line) for line in cells[1:])
        table = [f"<table>\n<thead>\n{self._row('th', names)}\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
                 for names in head]
        return "\n".join([html_title(self.title, self.subtitle), *table, html_notes(self.footnotes)])

    def _row(self, tag: str, texts: list[str]) -> str:
        sides = ["left" if column.left else "right" for column in self.columns]
        return "<tr>" + "".join(f'<{tag} style="text-align: {side}; white-space: nowrap">{bold(text)}</{tag}>'
                                for side, text in zip(sides, texts, strict=True)) + "</tr>"

    @property
    def grid(self) -> str:
        """The table in Markdown, without title and footnotes."""
        cells = [[text.replace("|", "\\|") for text in row] for row in self.cells()]
        marks = ["---" if column.left else "--:" for column in self.columns]
        return "".join(f"| {' | '.join(row)} |\n" for row in [*cells[:1], marks, *cells[1:]] if cells)

    @property
    def markdown(self) -> str:
        """Title, table and footnotes in Markdown."""
        return "\n".join([self.name, "", self.grid, *(f"- {note}" for note in self.footnotes)]) + "\n"

    def write(self, path: str | Path) -> tuple[Path, Path]:
        """Write NAME.csv, the numbers in long form, and NAME.md, which names it. Returns both paths."""
        long, short = paths(path, ".csv", ".md")
        write_csv(self.frame if self.runs is None else self.runs, long)
        write_text(short, f"{self.markdown}- Every run's numbers: {long.name}.\n")
        return long, short


class Tables(list[Table]):
    """Tables under each other, as text and as a notebook's cell shows them. What all of them have stands once: the
    title above the first, a footnote below the last. empty: what stands in place of no table."""

    def __init__(self, tables: Iterable[Table] = (), empty: str = "No table."):
        super().__init__(tables)
        self.empty = empty

    def apart(self) -> tuple[str, list[Table], list[str]]:
        """The title of all, or ""; the tables without what all have; the footnotes of all."""
        title = self[0].title if len({table.title for table in self}) == 1 and self[0].subtitle else ""
        notes = [note for note in self[0].notes if all(note in table.notes for table in self)]
        rest = [replace(table, notes=[note for note in table.notes if note not in notes]) for table in self]
        if title:
            rest = [replace(table, title=table.subtitle, subtitle="") for table in rest]
        return title, rest, notes

    @property
    def text(self) -> str:
        if not self:
            return self.empty
        title, tables, notes = self.apart()
        return "\n\n".join(filter(None, [title, *(table.text for table in tables), "\n".join(folded(notes))]))

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        if not self:
            return html_title(self.empty)
        title, tables, notes = self.apart()
        return "\n".join([html_title(title), *(table._repr_html_() for table in tables), html_notes(notes)])


def folded(notes: Sequence[str]) -> list[str]:
    """Footnotes as lines of the plain text."""
    return [line for note in notes
            for line in textwrap.wrap(note, LINE, subsequent_indent="  ", break_on_hyphens=False)]


def bold(text: str) -> str:
    """A cell in HTML, bold where the text has a star."""
    return f"<strong>{escape(text)}</strong>" if text.endswith(" *") else escape(text)


def html_title(title: str, subtitle: str = "") -> str:
    lines = [f"<strong>{escape(title)}</strong>" * bool(title), escape(subtitle)]
    return f"<p>{'<br>'.join(filter(None, lines))}</p>" if any(lines) else ""


def html_notes(notes: Sequence[str]) -> str:
    return f"<p><small>{'<br>'.join(map(escape, notes))}</small></p>" if notes else ""


def write_all(tables: Iterable[Table], path: str | Path) -> tuple[Path, Path]:
    """Write several tables as one NAME.md and one NAME.csv, whose column `table` names them. Returns both paths."""
    import pandas as pd
    long, short = paths(path, ".csv", ".md")
    tables = list(tables)
    write_csv(pd.concat([t.runs.assign(table=t.name) for t in tables], ignore_index=True), long)
    write_text(short, "\n".join(f"## {t.markdown}" for t in tables))
    return long, short


def paths(path: str | Path, *endings: str) -> list[Path]:
    """NAME with each ending. The path may have one of them; any other dot is part of the name (cells have many)."""
    path = Path(path)
    base = path.with_suffix("") if path.suffix in endings else path
    return [base.with_name(base.name + ending) for ending in endings]


def write_csv(frame: pd.DataFrame | list[dict[str, Any]], path: Path) -> None:
    """Write a frame in full precision, so that it reads back equal. Nothing stands for a missing value."""
    import pandas as pd
    content = pd.DataFrame(frame).to_csv(index=False, lineterminator="\n").encode("utf-8")
    write_atomically(path, lambda file: file.write(content))
