"""The documentation site: pages made of what is in the project already, then Sphinx, offline; a warning is an error.

    python docs/build.py [FOLDER [JOBS]]   # default build/docs, a job a core; prints where its index.html is
    python docs/build.py --methods         # writes the table of methods of docs/methods.md anew

    README.md                        -> the first page
    notebooks/*.ipynb                -> as they are, with the outputs that they hold; nothing is executed
    METHODS                          -> methods/NAME: the module's docstring, its options, its published recipe
    semilib/**.py                    -> api/MODULE: by autodoc
    results/**.md, figures/**.md     -> records and tables, with the figures that lie beside them, drawn from their
                                        CSVs; both lead to their runs, a page beside them, and that to the records
    results/*                        -> the records, as they are
    docs/*.md                        -> the pages that are written by hand; a row of parity.md and a section of
                                        equations.md -> its method's page too

Sphinx reads no page from outside its source folder, so all of them are written to FOLDER-source, with the same relative
paths as in the project: links between README, notebooks, tables and pictures stay valid. A link to a file that the site
does not have becomes its path.
"""
from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import posixpath
import re
import shutil
import sys
import typing
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import address  # noqa: E402  (beside this file, as the next two)
import docstrings  # noqa: E402
import evidence  # noqa: E402
import sphinx.cmd.build  # noqa: E402
from docstrings import inline  # noqa: E402

import semilib  # noqa: E402
from semilib.errors import BadInput  # noqa: E402
from semilib.files import write_text  # noqa: E402
from semilib.methods import METHODS, get, title_of  # noqa: E402
from semilib.options import PAPER_STEPS, Duration, is_share  # noqa: E402
from semilib.training.config import Run  # noqa: E402

Pages = dict[str, str | bytes]                      # path below the source folder -> content
SECTIONS = {"Follows": "Follows", "Keeps": "Keeps under the shared recipe", "Differs": "Differs",
            "Numbers": "What it is checked against"}
DASH = "–"
FROM_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")         # pages of the root, beside README
CITATION = re.compile(r"\((?P<cite>[^()]*?(?:^|(?<=, )|(?<=\())(?P<venue>[^,()]*?)\s*"
                      r"\b(?P<year>(?:19|20)\d\d)\b(?!\.)[^()]*)\)")
PREPRINT = re.compile(r"\((?P<cite>[^()]*(?P<venue>arXiv) (?P<year>\d\d)\d\d\.\d{5}[^()]*)\)")


# ---- what is in the project ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class About:
    """What a method's docstring says of its paper. what: what the method does, in a sentence. cite: such as "Lai et
    al., ICML 2022, PMLR 162"; it, venue and year are "" for a method without a paper."""

    name: str
    title: str
    module: str
    cls: type
    text: list[list[str]]
    cite: str
    venue: str
    year: str
    what: str


def file_of(name: str) -> str:
    """The module that tells a method as its paper does.
    What the release computes otherwise may lie in a file beside it."""
    return get(name).__module__.removesuffix("_released")


def about(name: str) -> About:
    """A method's docstring, read."""
    cls, module = get(name), file_of(name)
    text = docstrings.blocks(inspect.getdoc(sys.modules[module]) or name)
    first = " ".join(" ".join(text[0]).split())
    found = CITATION.search(first) or PREPRINT.search(first)
    what = first[found.end():] if found else first.partition(":")[2]
    return About(name, title_of(name), module, cls, text, found["cite"] if found else "",
                 (found["venue"] or "arXiv") if found else "", f"20{found['year'][-2:]}" if found else "",
                 what.lstrip(": ") or first)


def parity() -> dict[str, list[str]]:
    """Method -> what its row in docs/parity.md says: release and commit, what was compared, largest difference,
    departures."""
    lines = (HERE / "parity.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| [")]
    by_title = {re.match(r"\[(.*?)\]", title)[1]: cells for title, *cells in rows}
    return {name: by_title[title_of(name)] for name in METHODS if title_of(name) in by_title}


def equations(text: str) -> dict[str, list[str]]:
    """docs/equations.md: a method's title -> its equations in LaTeX, each with its `\\tag` if it has a number."""
    sections = [part.partition("\n") for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]]
    return {title: re.findall(r"^\$\$(.*?)\$\$$", body, re.MULTILINE | re.DOTALL) for title, _, body in sections}


def equations_of(name: str) -> list[str]:
    """A method's; of two methods in one file the first's. None where the page has not got them yet."""
    known = equations((HERE / "equations.md").read_text(encoding="utf-8"))
    return next((known[title_of(other)] for other in METHODS
                 if file_of(other) == file_of(name) and title_of(other) in known), [])


def modules() -> list[str]:
    """The package's modules, without `__main__`."""
    found = pkgutil.walk_packages(semilib.__path__, "semilib.")
    return ["semilib", *sorted(m.name for m in found if not m.name.endswith("__main__"))]


# ---- reStructuredText ------------------------------------------------------------------------------------------------


def heading(text: str, line: str = "=") -> list[str]:
    return [inline(text), line * (2 * len(text) + 2), ""]


def table(header: list[str], rows: list[list[str]], widths: str = "auto") -> list[str]:
    """A table of cells that are reStructuredText already."""
    out = [".. list-table::", "    :header-rows: 1", f"    :widths: {widths}", ""]
    for row in [header, *rows]:
        out += [f"    {'* ' if i == 0 else '  '}- {cell}" for i, cell in enumerate(row)]
    return [*out, ""]


def capital(text: str) -> str:
    """A text that went on after a colon, as a sentence of its own; symbols such as pi and beta stay small."""
    word = re.match(r"(an?|[a-z]{3,})\b(?!_)", text)
    return text[:1].upper() + text[1:] if word and word[1] not in ("tau", "beta", "alpha", "gamma") else text


def code(value: typing.Any) -> str:
    """A value in a fixed-width font; an empty text shows as quotes."""
    text = value if isinstance(value, str) and value else repr(value)
    return f"``{text}``"


def toctree(entries: list[str], *options: str) -> list[str]:
    return [".. toctree::", *(f"    :{option}:" for option in options), "", *(f"    {entry}" for entry in entries), ""]


# ---- the methods -----------------------------------------------------------------------------------------------------


def method_page(name: str) -> str:
    """A method as its file tells it."""
    this, row = about(name), parity().get(name)
    beside = [":doc:`Beside its release <../parity>`", inline(f"{row[0]}, largest difference {row[2]}")] if row else []
    facts = [[inline("Published"), inline(f"{this.venue} {this.year}" if this.year else DASH)],
             ["Run it", code(f"semilib run method={name}")],
             ["Runs on", ", ".join(f":doc:`{title_of(b)} <{b}>`" for b in this.cls.bases) or "itself, a whole method"],
             *([f"Not with ``{what}``", inline(why)] for what, why in this.cls.refuses.items()),
             *([beside] if row else []),
             ["Code", f":mod:`{this.module}`"]]
    out = [*heading(this.title), inline(" ".join(this.text[0])), "",
           ".. list-table::", "    :stub-columns: 1", "    :widths: auto", "",
           *(f"    * - {k}\n      - {v}" for k, v in facts), ""]
    rest, notes, told = this.text[1:], [], False
    for block in rest:
        if not told and block[0].partition(":")[0] in SECTIONS:
            told = True
            for label, lines in docstrings.items(block):
                lines = lines if label == "Numbers" else [capital(lines[0]), *lines[1:]]
                out += [*heading(SECTIONS.get(label, label), "-"), *docstrings.hanging(lines)]
        elif told:
            notes += docstrings.block_rst(block)
        else:
            indented = any(line.startswith(" ") for line in block)
            out += [*([*heading("What it computes", "-"), *_equations_section(name)] if block is rest[0] else []),
                    *(docstrings.literal(block) if indented else docstrings.block_rst(block))]
    notes = [*heading("Notes", "-"), *notes] if notes else []
    return "\n".join([*out, *notes, *options_section(this), *original_section(this)])


def _equations_section(name: str) -> list[str]:
    shown = [line for latex in equations_of(name) for line in (".. math::", "", f"    {' '.join(latex.split())}", "")]
    return shown and [*shown, "The same in the file's words (:doc:`shared notation <../equations>`):", ""]


def options_section(this: About) -> list[str]:
    """The options, those of the default base included, with default, valid range and sentence."""
    config = this.cls.Config
    hints, presets = typing.get_type_hints(config), config.presets(Run.of(method=this.name))
    rows = []
    for f in dataclasses.fields(config):
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        valid = ", ".join(presets) if f.name == "preset" else docstrings.valid(f.metadata)
        if hints[f.name] == Duration:
            valid = "a share of the run, or steps"
        elif hints[f.name] is bool:
            valid = "True, False"
        share = is_share(f)
        steps = f" ({round(default * PAPER_STEPS):,} of {PAPER_STEPS:,} steps)" if share else ""
        rows.append([code(f.name), code(float(f"{default:.6g}") if share else default) + steps, inline(valid),
                     inline(f.metadata["doc"])])
    base = f", with those of {title_of(this.cls.bases[0])}, its first base" if this.cls.bases else ""
    given = f"Each is given as ``{this.name}.NAME=VALUE`` on the command line or in ``options`` of a run{base}."
    body = [given, "", *table(["option", "default", "valid", "what it is"], rows)] if rows else ["It has none.", ""]
    return [*heading("Options", "-"), *body]


def original_section(this: About) -> list[str]:
    """What recipe="original" changes of the shared recipe, on CIFAR-10."""
    try:
        shared, own = Run.of("cifar10", this.name), Run.of("cifar10", this.name, recipe="original")
    except BadInput:                                # a method without a recipe of its own
        return []
    names = [f.name for f in dataclasses.fields(Run) if f.name not in ("recipe", "options")]
    pairs = [(name, getattr(shared, name), getattr(own, name)) for name in names]
    pairs += [(f"{this.name}.{key}", shared.options[key], value) for key, value in own.options.items()]
    rows = [[code(name), code(a), code(b)] for name, a, b in pairs if a != b]
    doc = docstrings.rst(inspect.getdoc(this.cls.original) or "")
    return [*heading("Original recipe", "-"), *doc,
            *(table(["on CIFAR-10", "shared recipe", 'recipe="original"'], rows) if rows else [])]


def methods_index() -> str:
    """The overview of all methods, newest first."""
    found = sorted(map(about, METHODS), key=lambda a: (-int(a.year or 0), a.title.lower()))
    rows = [[f":doc:`{a.title} <{a.name}>`", a.year or DASH, inline(a.venue) or DASH,
             ", ".join(title_of(b) for b in a.cls.bases) or DASH, inline(capital(a.what))] for a in found]
    return "\n".join([
        *heading("Methods"),
        f"The {len(METHODS)} methods, each one file. Every page is made of that file's docstring and of the code: "
        "what the method computes, what it follows, where it differs, its options and its published recipe.", "",
        *table(["method", "year", "venue", "runs on", "what it does"], rows, "12 6 12 14 56"),
        ":doc:`What is left out, and why <../left_out>`.", "",
        *toctree([a.name for a in sorted(found, key=lambda a: a.title.lower())] + ["../left_out"], "hidden")])


MARKS = "<!-- methods: begin -->\n", "<!-- methods: end -->\n"


def methods_table() -> str:
    """The table of methods: a row for each year and choice of bases, newest first."""
    rows: dict[tuple[str, str], list[str]] = {}
    for this in sorted(map(about, reversed(list(METHODS))), key=lambda a: -int(a.year or 0)):
        place = this.year or DASH, " or ".join(title_of(b) for b in this.cls.bases)
        rows.setdefault(place, []).append(f"{this.title} ({this.venue})" if this.venue else this.title)
    years = [year for year, _ in rows]
    lines = [f"| {'' if year in years[:i] else year} | {', '.join(names)} | {bases} |"
             for i, ((year, bases), names) in enumerate(rows.items())]
    return "\n".join(["| year | method (venue) | runs on, by choice |", "|---|---|---|", *lines, ""])


def with_methods(text: str) -> str:
    """docs/methods.md with its table made anew."""
    before, _, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise BadInput("docs/methods.md", "no marks", f"a table between {' and '.join(mark.strip() for mark in MARKS)}")
    return before + MARKS[0] + methods_table() + MARKS[1] + after


# ---- the API ---------------------------------------------------------------------------------------------------------


def api_page(module: str) -> str:
    """A module: the names that it defines, then each with its signature and docstring.

    It stands in the index and in no page's margin, which the theme draws anew for each of the hundreds of pages."""
    loaded = importlib.import_module(module)
    public = {name: value for name, value in vars(loaded).items() if not name.startswith("_")}
    own = [name for name, value in public.items() if getattr(value, "__module__", "") == module]
    names = ", ".join(f":py:obj:`{name} <{module}.{name}>`" for name in own)
    # Told nothing, autodoc reads the source of every imported name too, before it leaves it out.
    members = [*own, *(name for name, value in public.items()
                       if not hasattr(value, "__module__") and not inspect.ismodule(value))]
    shown = "    :no-members:" if module == "semilib" or not members else f"    :members: {', '.join(members)}"
    return "\n".join([":orphan:", "", *heading(module), ":doc:`All modules <index>`", "",
                      *([names, ""] if names else []), f".. automodule:: {module}", shown, ""])


def api_index() -> str:
    found = modules()
    rows = []
    for name in found:
        doc = docstrings.blocks(inspect.getdoc(importlib.import_module(name)) or "")
        first = " ".join(doc[0]) if doc else ""
        rows.append([f":doc:`{name} <{name}>`", inline(re.split(r"(?<=[a-z)])[.:] ", first + " ")[0])])
    intro = "The modules of the package. Every name without a leading underscore is there, with a link to its source."
    return "\n".join([*heading("API"), intro, "", *table(["module", "what it holds"], rows, "30 70")])


# ---- Markdown --------------------------------------------------------------------------------------------------------


def page_of(path: str, pages: Pages) -> str:
    """The page of the site that shows a file or folder of the project, or ""."""
    path = path.rstrip("/")
    own = {"README.md": "index.md", **{name: name.lower() for name in FROM_ROOT},
           "semilib": "api/index.rst", "semilib/methods": "methods/index.rst", "results": "results/README.md",
           **{f"docs/{page.name}": page.name for page in HERE.glob("*.md")}}
    if path.endswith(".py") and path.startswith("semilib/"):
        module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        named = [f"methods/{name}.rst" for name in METHODS if file_of(name) == module]
        own[path] = named[0] if named else f"api/{module}.rst"
    return next((p for p in (own.get(path, ""), path, f"{path}/table.md", f"{path}/table1.md") if p in pages), "")


def linked(text: str, page: str, pages: Pages, home: str = "") -> str:
    """Markdown of `page` whose links and file names lead to the site's pages.
    home: the folder that links start from."""
    def relative(target: str) -> str:
        return posixpath.relpath(target, posixpath.dirname(page) or ".")

    def link(match: re.Match) -> str:
        mark, words, target = match[1], match[2], match[3]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(home, path))
        if found := page_of(path, pages):
            return f"{mark}[{words}]({relative(found)}{'#' + anchor if anchor else ''})"
        return words if path.startswith(words.strip("`")) else f"{words} (`{path}`)"

    def span(match: re.Match) -> str:
        found = page_of(match[1], pages)
        return f"[`{match[1]}`]({relative(found)})" if found and found != page else match[0]

    def prose(part: str) -> str:
        part = re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", link, part)
        return re.sub(r"(?<![\[`])`([\w./-]+/[\w./-]*|README\.md)`(?!`|\]\()", span, part)

    return _outside_code(text, prose)


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Markdown with all but its fenced and indented code changed."""
    out, prose, fence = [], [], ""

    def flush():
        out.append(change("".join(prose)))
        prose.clear()

    for line in text.splitlines(keepends=True):
        mark = re.match(r" {0,3}(```|~~~)", line)
        if mark and fence in ("", mark[1]):
            flush()
            fence = "" if fence else mark[1]
            out.append(line)
        elif fence or (re.match(r" {4}\S", line) and (not prose or not "".join(prose[-1:]).strip())):
            flush()
            out.append(line)
        else:
            prose.append(line)
    flush()
    return "".join(out)


def titled(text: str, path: str) -> str:
    """Markdown with a title. A table of a folder is made without one. It gets what all its headings begin with; else
    the folder's name, words instead of hyphens, and its own where the folder has several."""
    if text.startswith("# "):
        return text
    shared = set(re.findall(r"^## ([^;\n]+);", text, re.MULTILINE))
    if len(shared) == 1:
        return f"# {shared.pop()}\n\n{text}"
    folder, name = posixpath.basename(posixpath.dirname(path)), posixpath.splitext(posixpath.basename(path))[0]
    folder += "" if name == "table" else f" {name}"
    return f"# {folder.replace('-', ' ').replace('_', ' ').capitalize()}\n\n{text}"


def notebook(path: Path, page: str, pages: Pages) -> str:
    """A notebook whose text links within the site."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = linked("".join(cell["source"]), page, pages, "notebooks")
    return json.dumps(content, indent=1, ensure_ascii=False)


def home_page(text: str, pages: Pages) -> str:
    """README, and the tree of all pages. In the margin a table's title ends at its first colon."""
    def short(path: str) -> str:
        return f"{pages[path].partition(chr(10))[0].removeprefix('# ').partition(':')[0]} <{path.removesuffix('.md')}>"

    results = [short(path) for path in sorted(pages, key=lambda p: (p != "results/README.md", p))
               if path.endswith(".md") and path.startswith(("results/", "figures/")) and not path.endswith("-runs.md")]

    def tree(caption: str, *entries: str) -> str:
        return "\n".join(["", "```{toctree}", ":hidden:", ":glob:", f":caption: {caption}", "", *entries, "```", ""])
    return (text + tree("Notebooks", "notebooks/*") + tree("Methods", "methods/index")
            + tree("Results", *results)
            + tree("Using it", "running", "sweeps", "features", "pictures", "adding_a_method")
            + tree("Reference", "methods", "equations", "figures", "speed", "parity", "reliability", "architecture",
                   "security", "contributing", "changelog", "api/index"))


# ---- all of it -------------------------------------------------------------------------------------------------------


def site() -> Pages:
    """Every page and picture, by its path below the source folder."""
    def of_kind(suffix: str) -> list[str]:
        return sorted(p.relative_to(ROOT).as_posix() for folder in ("results", "figures")
                      for p in (ROOT / folder).rglob(f"*.{suffix}"))
    markdown = of_kind("md")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    names = ["index.md", *map(str.lower, FROM_ROOT), *(p.name for p in HERE.glob("*.md")), *markdown,
             *(f"notebooks/{p.name}" for p in notebooks)]
    pages: Pages = dict.fromkeys(names, "")
    pages |= {path: (ROOT / path).read_bytes() for kind in ("png", "pdf", "csv") for path in of_kind(kind)}
    pages |= evidence.vectors() | evidence.figure_pages()
    pages |= {"figures.md": "", "methods/index.rst": methods_index(), "api/index.rst": api_index()}
    pages |= {f"methods/{name}.rst": method_page(name) for name in METHODS}
    pages |= {f"api/{module}.rst": api_page(module) for module in modules()}
    pages |= {p.name: linked(p.read_text(encoding="utf-8"), p.name, pages, "docs") for p in HERE.glob("*.md")}
    pages |= {f"notebooks/{p.name}": notebook(p, f"notebooks/{p.name}", pages) for p in notebooks}
    for path in markdown:
        text = titled((ROOT / path).read_text(encoding="utf-8"), path)
        text = evidence.with_figures(text, path) if posixpath.basename(path) == "table.md" else text
        if evidence.runs_of(path):
            text = evidence.with_runs(text, path)
            pages[path.replace(".md", "-runs.md")] = evidence.runs_page(path)
        title = text.partition("\n")[0].removeprefix("# ")
        text = text.replace(f"\n## {title}; ", "\n## ")                      # said by the title
        pages[path] = linked(text, path, pages, posixpath.dirname(path))
    pages["figures.md"] = linked(evidence.gallery(), "figures.md", pages)
    for name in FROM_ROOT:
        pages[name.lower()] = linked((ROOT / name).read_text(encoding="utf-8"), name.lower(), pages)
    first = (ROOT / "README.md").read_text(encoding="utf-8").replace(address.BADGE, "")
    pages["index.md"] = home_page(linked(first, "index.md", pages), pages)
    return pages


def write(pages: Pages, folder: Path) -> None:
    """The pages as files. What did not change is not touched, so that Sphinx does not read it again;
    what is gone is removed."""
    for path, content in pages.items():
        data, file = content if isinstance(content, bytes) else content.encode(), folder / path
        if not file.is_file() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).as_posix() not in pages:
            file.unlink()


def main(folder: str = "build/docs", jobs: str = "auto") -> int:
    """Builds the site; returns Sphinx's exit status, which a warning makes other than 0. "--methods": see above."""
    if folder == "--methods":
        write_text(HERE / "methods.md", with_methods((HERE / "methods.md").read_text(encoding="utf-8")))
        return 0
    out = (ROOT / folder).resolve()
    source = out.with_name(out.name + "-source")
    write(site(), source)
    cache = out.with_name(out.name + "-cache")
    status = sphinx.cmd.build.main(["-b", "html", "-c", str(HERE), "-d", str(cache), "-j", jobs,
                                    "-W", "--keep-going", "-q", str(source), str(out)])
    if status == 0:
        shutil.copytree(ROOT / "results", out / "results", ignore=shutil.ignore_patterns("*.md"), dirs_exist_ok=True)
        index = out / "index.html"
        print(f"The site: {index.relative_to(ROOT).as_posix() if index.is_relative_to(ROOT) else index}")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
