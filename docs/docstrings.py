"""The package's plain docstrings as reStructuredText that never warns, for autodoc and for the methods' pages.

What is recognised, block by block (a block ends at an empty line):

    label: text                  an item; lines indented below it go on with it, or are a list of `name  text` (two
                                 spaces or more)
    name      text               in every line of the block: a list
    any other indented line      the whole block is shown as it is, in a fixed-width font: equations, trees, commands

All else is a paragraph. Nothing in a docstring is taken for markup but `code` in backticks and arXiv numbers.
"""
from __future__ import annotations

import re
import textwrap

LABEL = re.compile(r"([A-Za-z_]\w*): (.*)")
TERM = re.compile(r"([\w.-]+) {2,}(\S.*)")
CODE = re.compile(r"(``?)(?! )([^`\n]+?)(?<! )\1")
ARXIV = re.compile(r"\barXiv (\d{4}\.\d{5})")


def blocks(text: str) -> list[list[str]]:
    """The lines of a docstring, its common indentation gone already, in blocks that empty lines part."""
    return [block.splitlines() for block in re.split(r"\n\s*\n", text) if block.strip()]


def inline(text: str) -> str:
    """One paragraph as one line: code and arXiv numbers marked up, every other character meaning itself."""
    text, out, last = " ".join(text.split()), [], 0
    for match in CODE.finditer(text):
        before, after = text[:match.start()][-1:], text[match.end():][:1]
        out += [_plain(text[last:match.start()]), "\\ " if before.isalnum() else "", f"``{match[2]}``",
                "\\ " if after.isalnum() else ""]
        last = match.end()
    line = "".join([*out, _plain(text[last:])])
    # A first word such as "(1)", "-" or "A." would begin a list.
    sign = line and not line[0].isalnum() and line[0] not in "\\`"
    return "\\" + line if sign or re.match(r"\w{1,6}[.)] ", line) else line


def _plain(text: str) -> str:
    return ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", re.sub(r"([\\*_|`<>:])", r"\\\1", text))


def literal(lines: list[str]) -> list[str]:
    """Lines as they are."""
    return ["::", "", *textwrap.indent(textwrap.dedent("\n".join(lines)), "    ").splitlines(), ""]


def items(block: list[str]) -> list[tuple[str, list[str]]]:
    """A block's items: (label or "", the text's first line and the dedented lines that go on with it)."""
    out: list[tuple[str, list[str]]] = []
    for line in block:
        found = LABEL.fullmatch(line)
        if found or not out:
            out.append((found[1], [found[2]]) if found else ("", [line]))
        else:
            out[-1][1].append(line)
    return [(label, [lines[0], *textwrap.dedent("\n".join(lines[1:])).splitlines()]) for label, lines in out]


def hanging(lines: list[str]) -> list[str]:
    """An item's text: paragraphs, and where lines read `name  text`, a list of them."""
    out, text = [], ""
    for line in lines:
        if found := TERM.fullmatch(line):
            out += [inline(text), ""] if text else []
            out, text = [*out, f"``{found[1]}``", f"    {inline(found[2])}"], ""
        elif line.startswith(" ") and out and not text:
            out[-1] += f" {inline(line)}"
        else:
            out += [""] if not text and out and out[-1] else []
            text += f" {line}"
    return [*out, *([inline(text)] if text else []), ""]


def block_rst(block: list[str]) -> list[str]:
    """One block as reStructuredText."""
    if all(TERM.fullmatch(line) for line in block):
        return hanging(block)
    indented = any(line.startswith(" ") for line in block)
    if indented and not LABEL.fullmatch(block[0]) and not _label_before_indent(block):
        return literal(block)
    found = items(block)
    if len(found) == 1 and not found[0][0]:
        return [inline(" ".join(found[0][1])), ""]
    out = []
    for label, lines in found:
        text = hanging(lines)
        out += [f"**{label}**\\: {text[0]}" if label else text[0], *text[1:]]
    return out


def _label_before_indent(block: list[str]) -> bool:
    """Whether each indented line of the block goes on with a labelled item."""
    label = False
    for line in block:
        if line.startswith(" "):
            if not label:
                return False
        else:
            label = bool(LABEL.fullmatch(line))
    return True


def rst(text: str) -> list[str]:
    """A docstring as lines of reStructuredText."""
    return [line for block in blocks(text) for line in block_rst(block)]


def valid(metadata: dict) -> str:
    """The valid values of an option (`semilib.options.option`) in words, or ""."""
    if metadata["choices"]:
        return ", ".join(str(choice) or '""' for choice in metadata["choices"])
    bounds = [f"at least {metadata['low']:g}" if metadata["low"] is not None else "",
              f"at most {metadata['high']:g}" if metadata["high"] is not None else ""]
    return ", ".join(bound for bound in bounds if bound)
