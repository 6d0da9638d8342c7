"""The site: built once, offline and without a warning;
every method, notebook and module has its page, nothing comes from the net."""
import html
import html.parser
import importlib.util
import re
import subprocess
import sys

import pytest
from kit import ROOT

from semilib.errors import BadInput
from semilib.methods import METHODS, title_of


@pytest.fixture(scope="module")
def build():
    """docs/build.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", folder, "1"], capture_output=True, text=True,
                          cwd=ROOT)
    assert done.returncode == 0 and not done.stderr, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"The site: {folder / 'index.html'}"
    return folder


class Page(html.parser.HTMLParser):
    """Text of a page's article, and every address that a browser would load or follow."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.followed, self.inside, self.words = [], [], 0, []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.inside += tag == "article"
        if tag == "a":
            self.followed.append(attrs.get("href") or "")
        else:
            self.loaded += [attrs[key] for key in ("src", "href", "srcset", "data", "poster") if attrs.get(key)]

    def handle_endtag(self, tag):
        self.inside -= tag == "article"

    def handle_data(self, data):
        if self.inside:
            self.words.append(data)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_page_that_names_its_paper(site, build, name):
    about, text = build.about(name), Page(site / "methods" / f"{name}.html").text
    assert title_of(name) in text and "Options" in text and f"semilib run method={name}" in text
    if name != "supervised":
        assert re.fullmatch(r"20\d\d", about.year) and about.venue and about.cite in text
        assert "Follows" in text and "What it computes" in text
    row = Page(site / "methods" / "index.html").text
    assert title_of(name) in row and about.year in row


def test_each_method_with_a_parity_test_has_a_row_beside_its_release_and_names_it_on_its_page(site, build):
    rows, page = build.parity(), Page(site / "parity.html").text
    assert set(rows) == {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "parity").glob("test_*.py")}
    for name, (release, compared, difference, _) in rows.items():
        assert re.fullmatch(r"\S+/\S+ [0-9a-f]{7}", release) and release in page and compared
        assert float(difference) < 1e-5
        assert f"{release}, largest difference {difference}" in Page(site / "methods" / f"{name}.html").text


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_equations_have_the_numbers_of_its_file(build, name):
    """Those of its docstring, and a line of the code names none that is not there."""
    tags = [number for latex in build.equations_of(name) for number in re.findall(r"\\tag\{(\d+)\}", latex)]
    path = ROOT / (build.file_of(name).replace(".", "/") + ".py")
    code = path.read_text(encoding="utf-8")
    told = re.findall(r"^    \((\d+)\) ", code.partition("Follows:")[0], re.MULTILINE)
    assert tags == told and tags == sorted(tags, key=int) and build.equations_of(name)
    assert set(re.findall(r"# \((\d+)\)$", code, re.MULTILINE)) <= set(tags)


def test_equations_are_drawn_without_a_script_and_numbered(site):
    page = (site / "methods" / "semi.html").read_text(encoding="utf-8")
    assert page.count("<math ") > 7 and '<span class="number">(7)</span>' in page and "\\tag" not in page
    assert "mathjax" not in page.lower()
    (masks,) = re.findall(r'<div class="equation"><div>((?:(?!</div>).)*)</div><span class="number">\(2\)</span>', page)
    assert masks.count("<math ") == 3, "its parts may stand on lines of their own"


def test_a_table_s_numbers_lead_to_their_runs(site):
    page = (site / "figures" / "study-small" / "table2.html").read_text(encoding="utf-8")
    places = set(re.findall(r'<a class="runs" href="table2-runs.html#([\w-]+)">62.1 ± 7.4</a>', page))
    runs = (site / "figures" / "study-small" / "table2-runs.html").read_text(encoding="utf-8")
    (place,) = places
    row = runs.partition(f'id="{place}"')[2][:1200]
    assert row.count("SeMi") >= 3 and "results/study-small/mnistm5k-lt.n40.m360.g20-1.s0_semi-" in row
    linked = set(re.findall(r'href="table2-runs.html#([\w-]+)"', page))
    assert linked == set(re.findall(r'<tr id="([\w-]+)"', runs))


PROTOCOL = {"figure2_pipeline", "figure5a_cells", "figure5a_table1", "figure5a_table2"}        # of no run


def test_each_figure_leads_to_the_records_of_its_runs(site, build):
    for numbers in sorted((ROOT / "figures").rglob("*.csv")):
        if numbers.with_suffix(".png").is_file() and numbers.stem not in PROTOCOL:
            page = site / numbers.relative_to(ROOT).with_name(f"{numbers.stem}-runs.html")
            shown = page.with_name("table.html")
            shown = shown if shown.is_file() else site / "figures.html"
            assert f"{page.name}" in shown.read_text(encoding="utf-8"), page
            rows = re.findall(r"<tr><td>.*?</tr>", page.read_text(encoding="utf-8"))
            assert rows and all(re.search(r'<td><a href="[./]*/results/[^"]+\.(json|jsonl\.gz)">', row) for row in rows)
    for numbers in PROTOCOL:
        assert not build.evidence.figure_runs(ROOT / "figures" / "study-small" / f"{numbers}.csv")
    kept = "features/table1.jsonl.gz"
    assert (site / "results" / kept).read_bytes() == (ROOT / "results" / kept).read_bytes()


def test_each_figure_is_on_the_site_with_its_pdf_and_numbers(site, build):
    text = "".join(path.read_text(encoding="utf-8") for path in [site / "figures.html",
                                                                *(site / "figures").rglob("table.html")])
    for file in (ROOT / "figures").rglob("*.pdf"):
        assert f"{file.stem}.svg" in text and file.name in text and f"{file.stem}.csv" in text, file.name
    assert "notebooks/41_figures.html#figure-4-features" in text and "notebooks/24_table4_ablation.html" in text


def test_a_page_has_each_option_with_its_sentence_and_range(site):
    text = Page(site / "methods" / "semi.html").text
    assert "strength of the blend at the end of the run" in text and "at least 0, at most 1" in text
    assert "3,000 of 250,000 steps" in text and "paper, released, readme" in text
    assert "shifted_bank" in text and "a push drops the most confident feature" in text


def test_what_is_left_out_is_named(site):
    text = Page(site / "left_out.html").text
    assert all(name in text for name in ("BEM", "TCBC", "AuxMix", "SimiS", "LCGC", "CoLA"))


def test_each_notebook_table_and_module_has_a_page(site, build):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert Page(site / "notebooks" / f"{path.stem}.html").text
    for folder in ("figures", "results"):
        for path in (ROOT / folder).rglob("*.md"):
            assert (site / path.relative_to(ROOT)).with_suffix(".html").is_file()
    for module in build.modules():
        assert module in Page(site / "api" / f"{module}.html").text
    assert "The images of a step" in Page(site / "api" / "semilib.data.step.html").text


def test_pages_written_by_hand_lead_to_each_other(site):
    running, first = Page(site / "running.html"), Page(site / "index.html")
    assert {"features.html", "pictures.html"} <= set(running.followed) and "docs/features.md" not in running.text
    assert {"security.html", "figures/study-small/table1.html"} <= set(first.followed)


def test_the_first_page_is_the_readme(site):
    text = Page(site / "index.html").text
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            assert line.lstrip("# ") in text


def test_nothing_is_loaded_from_the_network_and_no_machine_is_named(site):
    pages, machine = sorted(site.rglob("*.html")), str(ROOT)
    assert len(pages) > 2 * len(METHODS)
    for path in pages:
        outside = [a for a in Page(path).loaded if re.match(r"(?:[a-z]+:)?//", a)]
        assert not outside, f"{path.name}: {outside}"
        assert machine not in path.read_text(encoding="utf-8"), path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//\S+",
                              path.read_text(encoding="utf-8")), path.name


def test_links_within_the_site_lead_somewhere(site):
    missing = set()
    for path in sorted(site.rglob("*.html")):
        for address in Page(path).followed:
            target = html.unescape(address).partition("#")[0]
            if target and not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                missing.add(f"{path.relative_to(site)}: {target}")
    assert not missing


def test_the_table_of_methods_is_made_of_the_registry(build):
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert build.with_methods(text) == text, "python docs/build.py --methods makes it anew"
    assert build.with_methods(text.replace("| SeMi (ACM MM), ", "| ")) == text
    assert all(build.about(name).title in build.methods_table() for name in METHODS)
    with pytest.raises(BadInput, match="docs/methods.md='no marks'"):
        build.with_methods(text.replace("methods: end", "methods"))


# ---- how text becomes pages


def test_plain_text_becomes_markup_that_says_the_same(build):
    rst = build.docstrings.rst
    assert rst("`Run`s of *all* a_ |b| and ``c``.") == [r"``Run``\ s of \*all\* a\_ \|b\| and ``c``.", ""]
    assert rst("x = 1:\n    (1) y = x") == ["::", "", "    x = 1:", "        (1) y = x", ""]
    assert rst("n1: how many;\n    none\nm1: more") == [r"**n1**\: how many; none", "", r"**m1**\: more", ""]
    assert rst("(1) first") == [r"\(1) first", ""]
    assert rst("a   one\nbc  two") == ["``a``", "    one", "``bc``", "    two", ""]
    assert "<https://arxiv.org/abs/2501.06004>`__" in rst("SeMi (arXiv 2501.06004)")[0]


def test_links_lead_to_pages_or_become_text(build):
    pages = dict.fromkeys(["index.md", "notebooks/a.ipynb", "figures/x/table.md", "methods/abc.rst",
                           "api/semilib.data.splits.rst"], "")
    text = ("[a](notebooks/a.ipynb) [l](LICENSE) `semilib/methods/abc.py` `semilib/data/splits.py` `figures/x` "
            "[w](https://w.org)\n\n    `figures/x`\n")
    assert build.linked(text, "index.md", pages) == (
        "[a](notebooks/a.ipynb) l (`LICENSE`) [`semilib/methods/abc.py`](methods/abc.rst) "
        "[`semilib/data/splits.py`](api/semilib.data.splits.rst) "
        "[`figures/x`](figures/x/table.md) [w](https://w.org)\n\n    `figures/x`\n")
    assert build.linked("[t](../figures/x/table.md)", "notebooks/a.ipynb", pages,
                        "notebooks") == "[t](../figures/x/table.md)"
