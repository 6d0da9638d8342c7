"""Pages of what the project's numbers rest on: its figures, and the runs behind each table."""
from __future__ import annotations

import csv
import fnmatch
import functools
import html
import json
import posixpath
import re
from pathlib import Path

from benchmarks import peers  # noqa: F401  it, and others below, draw kinds of figures
from semilib.report import compact, diagrams, figures, paint  # noqa: F401
from semilib.report.labels import display
from semilib.speed import figures as speed_figures  # noqa: F401
from semilib.study import insight, sheet_figures  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
DASH = "–"

# ---- figures ---------------------------------------------------------------------------------------------------------

# Figures (the first pattern that fits) -> the notebook that draws or shows them.
NOTEBOOKS = {"quickstart/*": "00_quickstart", "features/*": "26_features_study", "speed/*": "90_speed",
             "study-small/table1-*": "21_table1_cifar", "study-small/table2-*": "22_table2_mismatched",
             "study-small/table4-*": "24_table4_ablation", "study-small/table5-*": "25_table5_modules",
             "study-small/*": "41_figures"}


def drawn_by(figure: Path) -> str:
    """The notebook's cell that draws or shows a figure, as NAME.ipynb#HEADING; "" if none does."""
    place = figure.relative_to(ROOT / "figures").with_suffix("").as_posix()
    name = next((name for pattern, name in NOTEBOOKS.items() if fnmatch.fnmatch(place, pattern)), "")
    heading = ""
    for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"] if name else ():
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next((line for line in reversed(source.splitlines()) if line.startswith("#")), heading)
        for written in re.findall(r'"([^"]+)"', source) if cell["cell_type"] == "code" else ():
            words = re.sub(r"\{.*?\}", "*", posixpath.basename(written).removesuffix(".png"))
            if len(words) > 1 and fnmatch.fnmatch(figure.stem, words):
                return f"{name}.ipynb#" + re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")
    return ""


def drawn(folder: str) -> list[Path]:
    """The CSVs of a folder's figures."""
    return [file for file in sorted((ROOT / folder).glob("*.csv")) if file.with_suffix(".png").is_file()]


def figures_of(folder: str, page: str = "") -> list[str]:
    """A folder's figures for a page in it or elsewhere, each with its PDF, its numbers, its runs if it is of any, and
    the notebook's cell that draws it."""
    place = posixpath.relpath(folder, posixpath.dirname(page) or ".") + "/" if page else ""
    home = posixpath.relpath(".", posixpath.dirname(page) or ".") if page else posixpath.relpath(".", folder)
    shown = []
    for file in drawn(folder):
        cell, name, title = drawn_by(file), f"{place}{file.stem}", paint.read(file)["title"].iloc[0]
        links = [f"[PDF]({name}.pdf)", f"[numbers]({name}.csv)"]
        links += [f"[runs]({name}-runs.md)"] if figure_runs(file) else []
        links += [f"[notebook]({home}/notebooks/{cell})"] if cell else []
        shown.append(f"### {title}\n\n![{title}]({name}.svg)\n\n{' · '.join(links)}\n")
    return shown


def with_figures(text: str, path: str) -> str:
    """A page with its folder's figures below it."""
    shown = figures_of(posixpath.dirname(path))
    return text.rstrip() + "\n\n" + ("## Figures\n\n" + "\n".join(shown) if shown else "")


def gallery() -> str:
    """The page of the figures that stand below no table, and links to those that do."""
    folders = sorted({file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "figures").rglob("*.png")})
    out = ["# Figures", "", "Each is drawn from the CSV beside it by `semilib.report.paint.redraw`.", ""]
    for folder in folders:
        below = (ROOT / folder / "table.md").is_file()
        shown = [f"[Below its table]({folder}/table.md)", ""] if below else figures_of(folder, "figures.md")
        out += [f"## {posixpath.basename(folder).replace('-', ' ').capitalize()}", "", *shown]
    return "\n".join(out)


# ---- the runs behind a table or figure -------------------------------------------------------------------------------


@functools.cache
def places() -> dict[str, str]:
    """KEY-CODE of a run, its key, or the name of a record of speed -> where its record lies in the repository."""
    speed = sorted((ROOT / "results" / "speed").glob("*.json"), key=lambda file: ".peers" not in file.name)  # ours last
    kept = {file.stem.removesuffix(".peers"): file.relative_to(ROOT).as_posix() for file in speed}
    for file in sorted((ROOT / "results").glob("*/*-*/run.json")):
        place, key = file.parent.relative_to(ROOT).as_posix(), file.parent.name.rsplit("-", 1)[1]
        kept |= {key: place, f"{key}-{json.loads(file.read_text(encoding='utf-8'))['code']}": place}
    for table in sorted((ROOT / "results").rglob(f"*{compact.ENDING}")):
        for line in compact.read(table):
            kept |= dict.fromkeys((line, line.partition("-")[0]), table.relative_to(ROOT).as_posix())
    return kept


def record_of(name: str, page: str) -> str:
    """The files of a record, KEY-CODE or one of speed, as links from a page; they lie on the site too. What was run by
    other code than the committed records of its configuration says so."""
    place = places().get(name) or places().get(name.partition("-")[0])
    if place is None:
        return DASH
    link = f'<a href="{posixpath.relpath(place, posixpath.dirname(page))}'
    text = f'{link}">{place}</a>'
    if (ROOT / place).is_dir():
        text = f'{link}/run.json">{place}</a> ({link}/log.jsonl">its log</a>)'
    return text if name in places() else f"not kept; of the same configuration by other code: {text}"


def runs_of(path: str) -> list[dict[str, str]]:
    """The runs of the CSV beside a table, with the row of the table that they stand in; none if it has no keys."""
    file = (ROOT / path).with_suffix(".csv")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = [row for row in csv.DictReader(lines) if row.get("key")]
    tables = list(dict.fromkeys(row.get("table", "") for row in rows))
    for row in rows:
        row["of"] = row["row"] if "row" in row else display(row["label"])
        row["id"] = re.sub(r"\W+", "-", f"{tables.index(row.get('table', ''))} {row['of']}").lower()
    return rows


def with_runs(text: str, path: str) -> str:
    """A table whose numbers lead to their runs."""
    runs, page = runs_of(path), posixpath.basename(path).removesuffix(".md") + "-runs.html"
    rows = {(row.get("table", ""), row["of"]): row["id"] for row in runs}
    out, table = [], ""
    for line in text.splitlines():
        table = line.removeprefix("## ") if line.startswith("## ") else table
        first, *cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else [""]
        if place := rows.get((table, first.strip("| ")), ""):
            linked = [f'<a class="runs" href="{page}#{place}">{cell}</a>' if re.search(r"\d", cell) else cell
                      for cell in (cell.strip("| ") for cell in cells)]
            line = f"| {first.strip('| ')} | {' | '.join(linked)} |"
        out.append(line.replace("- * ", "- \\* "))                     # a footnote's star is no list
    return "\n".join(out) + "\n"


def runs_page(path: str) -> str:
    """The runs behind a table, in its order: seed, result, key and code, and the record. Those that were not started
    are a number."""
    every, rows, last = runs_of(path), [], ""
    started = [row for row in every if row.get("state") != "not started"]
    for row in started:
        score = row.get("score") or row.get("mean_last") or ""
        mark, last = row["id"] * (row["id"] != last), row["id"]
        texts = [row["of"], row.get("column") or row.get("cell") or "", row.get("section", ""), row["seed"],
                 f"{100 * float(score):.2f}" if score else row.get("state", ""),
                 "-".join(filter(None, (row["key"], row.get("code", ""))))]
        rows.append((mark, [*map(html.escape, texts), record_of(texts[-1], path)]))
    folder, name = path.split("/")[-2:]
    title = f"Runs of {folder.replace('-', ' ')}, {name.removesuffix('.md')}"
    idle = f" Not started: {len(every) - len(started)} of {len(every)}." if len(started) < len(every) else ""
    return _page(title, f"The runs behind [the table]({name}), a line a run.{idle}",
                 ["row", "cell", "section", "seed", "result, %", "key and code", "record"], rows)


@functools.cache
def figure_runs(file: Path) -> list[tuple[str, str, str]]:
    """The runs that a figure is drawn from, by its CSV: what they are in the figure, seed, key and code. Of a figure of
    steps a second its records. None for a figure of the protocol, or of no run at all."""
    frame = paint.read(file)
    if "record" in frame:
        return [("", "", name) for name in frame["record"].unique()]
    if "runs" not in frame:
        return []
    name = next(name for name in ("label", "row", "method", "option") if name in frame)
    names = frame["option"] + " = " + frame["value"].map("{:g}".format) if name == "option" else frame[name]
    pairs = dict.fromkeys((of, run) for of, runs in zip(names, frame["runs"], strict=True) if of
                          for run in runs.split())
    return [(display(of) if name == "label" else of, *run.removeprefix("s").split(":")) for of, run in pairs]


def figure_runs_page(file: Path) -> str:
    """The runs behind a figure, in its order."""
    path = file.relative_to(ROOT).as_posix()
    rows = [("", [*map(html.escape, row), record_of(row[-1], path)]) for row in figure_runs(file)]
    return _page(f"Runs of the figure {paint.read(file)['title'].iloc[0]}",
                 f"What [the numbers]({file.name}) of the figure are of.",
                 ["row", "seed", "key and code", "record"], rows)


def _page(title: str, intro: str, heads: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """A page in no margin: a table whose cells are HTML already. Of a row first comes its anchor, or ""."""
    anchors = [f'<tr id="{mark}">' if mark else "<tr>" for mark, _ in rows]
    lines = [anchor + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
             for anchor, (_, cells) in zip(anchors, rows, strict=True)]
    head = "".join(f"<th>{text}</th>" for text in heads)
    return "\n".join(["---", "orphan: true", "---", f"# {title}", "", intro, "",
                      "```{raw} html", '<div class="table-wrapper docutils container">',
                      f'<table class="docutils"><thead><tr>{head}</tr></thead><tbody>', *lines,
                      "</tbody></table></div>", "```", ""])


def figure_pages() -> dict[str, str]:
    """The pages of the figures' runs, by path."""
    files = [file for folder in sorted((ROOT / "figures").iterdir()) for file in drawn(f"figures/{folder.name}")]
    return {file.relative_to(ROOT).with_suffix("").as_posix() + "-runs.md": figure_runs_page(file)
            for file in files if figure_runs(file)}


def vectors() -> dict[str, bytes]:
    """Every committed figure as SVG, by its path, drawn again from its CSV."""
    return {file.relative_to(ROOT).with_suffix(".svg").as_posix(): paint.vector(paint.redraw(file), "svg")
            for folder in sorted((ROOT / "figures").iterdir()) for file in drawn(folder.relative_to(ROOT).as_posix())}
