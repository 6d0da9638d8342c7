"""The one printer of tables: alignment, dashes, Markdown, and the files."""
import math
import re

import pandas as pd

from semilib.report.table import Column, Table, Tables, column, paths, write_all

FRAME = pd.DataFrame({"name": ["a|b", "c"], "ms": [1.25, math.nan], "rule": ["", "last 20"]})
COLUMNS = [column("name", "method", left=True), column("ms", "ms a step", "{:.1f}".format), column("rule", "rule"),
           Column("both", lambda row: f"{row['name']}: {row['rule']}")]


def table(**changes) -> Table:
    return Table(**{"title": "Speed", "columns": COLUMNS, "frame": FRAME, "notes": ["A note."], **changes})


def test_words_stand_to_the_left_numbers_to_the_right_and_a_dash_for_what_is_not_there():
    assert table().text.splitlines() == [
        "Speed", "",
        "method  ms a step     rule        both", "-" * 38,
        "a|b           1.2        –       a|b:", "c               –  last 20  c: last 20", "-" * 38, "A note."]


def test_markdown_escapes_what_divides_its_columns_and_lists_the_notes():
    assert table(subtitle="CPU").markdown.splitlines() == [
        "Speed; CPU", "", "| method | ms a step | rule | both |", "| --- | --: | --: | --: |",
        "| a\\|b | 1.2 | – | a\\|b:  |", "| c | – | last 20 | c: last 20 |", "", "- A note."]


def test_long_notes_are_folded_and_a_subtitle_has_a_line_of_its_own():
    lines = table(notes=["word " * 40], subtitle="CPU").text.splitlines()
    assert lines[:2] == ["Speed", "CPU"] and max(map(len, lines)) <= 96 and lines[-1].startswith("  word")


def test_a_notebook_s_cell_shows_the_same_cells_as_html_with_stars_in_bold():
    html = table(frame=FRAME.assign(rule=["-1.2 *", "<b>"]), subtitle="CPU")._repr_html_()
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in html.splitlines() if line.startswith("<tr>")]
    assert rows[0] == ["method", "ms a step", "rule", "both"]
    assert rows[1] == ["a|b", "1.2", "<strong>-1.2 *</strong>", "<strong>a|b: -1.2 *</strong>"]
    assert rows[2][2] == "&lt;b&gt;" and "<strong>Speed</strong><br>CPU" in html and "<small>A note.</small>" in html
    assert "text-align: left" in html.split("ms a step")[0] and repr(table()) == table().text


def test_what_tables_under_each_other_share_stands_once():
    both = Tables([table(subtitle="CPU", notes=["All.", "One."]), table(subtitle="GPU", notes=["Other.", "All."])])
    for text in (both.text, both._repr_html_()):
        assert [text.count(part) for part in ("Speed", "CPU", "GPU", "All.", "One.", "Other.")] == [1] * 6
        assert text.index("CPU") < text.index("One.") < text.index("GPU") < text.index("Other.") < text.index("All.")
    assert repr(both) == both.text and both == list(both), "a list of tables, unchanged"
    assert repr(Tables(empty="None yet.")) == "None yet." and "None yet." in Tables(empty="None yet.")._repr_html_()
    apart = Tables([table(notes=[]), table(title="Size", notes=["A note."])])
    assert apart.text == f"{apart[0].text}\n\n{apart[1].text}"


def test_rows_of_which_nothing_was_started_are_one_line(tmp_path):
    def named(row):
        return f"{row['name']} (a 9)" if row["rule"] == "" else ""
    one = table(idle=named)
    assert [row[0] for row in one.cells()] == ["method", "c"] and one.not_started == ["a|b (a 9)"]
    for text in (one.text, one._repr_html_(), one.markdown):
        assert text.count("a|b") == 1 and text.index("Not started: a|b (a 9).") < text.index("A note.")
    long, _ = one.write(tmp_path / "a")
    assert len(pd.read_csv(long)) == 2, "the numbers behind it hold every row"
    none = table(frame=FRAME.assign(rule=""), idle=named)
    assert none.text.splitlines() == ["Speed", "", "Not started: a|b (a 9), c (a 9).", "A note."]
    assert "<table>" not in none._repr_html_() and "|--" not in none.markdown.replace(" ", "")
    assert Tables([none, table(title="Size", notes=[])]).text.count("Not started") == 1


def test_files_hold_the_runs_or_else_the_frame(tmp_path):
    long, short = table().write(tmp_path / "a.b")
    assert pd.read_csv(long, keep_default_na=False, na_values={"ms": ""}).equals(FRAME)
    assert short.read_text().endswith("- A note.\n- Every run's numbers: a.b.csv.\n")
    runs = pd.DataFrame({"seed": [0, 1]})
    assert pd.read_csv(table(runs=runs).write(tmp_path / "c.md")[0]).equals(runs)
    long, short = write_all([table(runs=runs), table(runs=runs, subtitle="CPU")], tmp_path / "all")
    assert pd.read_csv(long)["table"].tolist() == ["Speed"] * 2 + ["Speed; CPU"] * 2
    assert short.read_text().count("## Speed") == 2


def test_a_path_keeps_its_dots_but_for_the_endings_of_its_files(tmp_path):
    assert paths("x/cell.g20-20", ".csv") == paths("x/cell.g20-20.csv", ".csv")
    assert paths("x/a", ".md")[0].name == "a.md"
