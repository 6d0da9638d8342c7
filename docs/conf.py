"""Sphinx's settings. `docs/build.py` writes the pages into a folder of their own and calls Sphinx with this file."""
from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import docstrings  # noqa: E402  (beside this file)

import semilib  # noqa: E402
from semilib.training.config import Run  # noqa: E402

project, author, version = "The SeMi study", "The SeMi study contributors", semilib.__version__
release, copyright, language = version, author, "en"
html_title = project

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"
smartquotes = False                     # pages show the very characters of their files
nb_execution_mode = "off"               # the notebooks come with their outputs
nb_merge_streams = True
nb_ipywidgets_js = {}                   # no notebook has widgets, and their scripts would come from the network

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style, pygments_dark_style = "friendly", "monokai"

highlight_language = "none"            # equations and commands are no Python
toc_object_entries = False        # an API page begins with its names; in every page's margin they would triple the time

add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
autodoc_default_options = {"undoc-members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_preserve_defaults = True        # as they are written, not as they are on the machine that builds the site
autodoc_use_type_comments = False       # annotations hold all types
autodoc_typehints_format = "short"
suppress_warnings = ["ref.python"]      # `Config` in a signature may be any method's: such a name stays without a link


def process_docstring(app, what, name, obj, options, lines):
    """Plain text to reStructuredText. A dataclass's field has its sentence and range from `option`."""
    text = "\n".join(lines)
    if what == "attribute":
        text = field_text(name) or text
    if what == "class" and dataclasses.is_dataclass(obj) and (obj.__doc__ or "").startswith(f"{obj.__name__}("):
        text = ""                       # the signature that dataclasses put where no docstring is
    if what == "class" and obj.__doc__ == sys.modules[obj.__module__].__doc__:
        text = ""                       # a method's, which stands above it
    if text.lstrip().startswith("Alias for field number"):
        text = ""
    lines[:] = docstrings.rst(text)


def field_text(name: str) -> str:
    """The sentence and range of the option that `name` (semilib.training.config.Run.mu) is, or ""."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:-1]:
            found = getattr(found, part, None)
        metadata = getattr(found, "__dataclass_fields__", {}).get(parts[-1])
        if metadata is None or "doc" not in metadata.metadata:
            return ""
        valid = docstrings.valid(metadata.metadata)
        return metadata.metadata["doc"] + (f" ({valid})" if valid else "")
    return ""


def equation(self, node):
    """LaTeX as MathML, which a browser draws without a script. The parts of a displayed one, between `\\quad`s, may
    stand on lines of their own. Its number, `\\tag{2}`, stands beside it."""
    latex, numbered, number = re.sub(r"\s+", " ", node.astext()).partition(r"\tag")
    if not isinstance(node, nodes.math_block):
        self.body.append(latex2mathml.tex2mathml(latex, as_block=False))
        raise nodes.SkipNode
    parts = "".join(latex2mathml.tex2mathml(part, as_block=True) for part in parts_of(latex))
    number = f'<span class="number">({number.strip(" {}")})</span>' if numbered else ""
    self.body.append(f'<div class="equation"><div>{parts}</div>{number}</div>')
    raise nodes.SkipNode


def parts_of(latex: str) -> list[str]:
    """An equation cut at each `\\quad` outside of braces and brackets that grow."""
    parts, depth = [""], 0
    for token in re.split(r"(\\[a-z]+|[{}])", latex):
        depth += (token in ("{", r"\left")) - (token in ("}", r"\right"))
        if token == r"\quad" and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


def setup(app):
    app.add_html_math_renderer("mathml", (equation, None), (equation, None))
    for function in (Run.of, Run.grid):                 # the one in the source, whose defaults autodoc reads there
        del function.__func__.__signature__
    app.connect("autodoc-process-docstring", process_docstring)
