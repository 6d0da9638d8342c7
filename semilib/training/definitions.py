"""A source file as definitions, each with what it says (`semilib.training.meaning`).

A definition is a top-level function or constant, a method, a class's head (all else of a class), or a table's entry.
"""
from __future__ import annotations

import ast
import hashlib
import inspect
import json
import types
from collections import defaultdict
from typing import Any, NamedTuple

from semilib.training.meaning import FUNCTIONS, NAMED, Reader, Scope, attributes, bound, full_name, head, is_silent


class Definition(NamedTuple):
    """text: a hash of what it says. The rest as `Reader` gathers it."""

    text: str
    uses: tuple[str, ...]
    mentions: tuple[str, ...]
    parameters: tuple[str, ...] = ()


class Module:
    """A source file. parts: the nodes of each definition by qualified name, of an entry by TABLE[KEY], and under "" the
    statements that always run. members: the methods and classes of each class. bases: the full names of its bases."""

    def __init__(self, name: str, source: str):
        tree = ast.parse(source)
        self.names: Scope = {own: full or f"{name}.{own}" for own, full in bound(tree).items()}
        self.parts: dict[str, list[tuple[ast.AST | list, Scope]]] = defaultdict(list)
        self.members: dict[str, list[str]] = {}
        self.bases: dict[str, list[str]] = {}
        self.known: dict[str, Definition] = {}
        for node in tree.body:
            if isinstance(node, NAMED):
                self._file(node, "", self.names)
            elif not is_silent(node):
                self._file_statement(node)

    def _file(self, node: Any, prefix: str, around: Scope) -> None:
        """A function or class under its name, and what is inside the class."""
        name = prefix + node.name
        if not isinstance(node, ast.ClassDef):
            self.parts[name].append((node, around))
            return
        inner, members = attributes(node, self.names), [n for n in node.body if isinstance(n, NAMED)]
        self.parts[name].append((head(node), inner))
        self.bases[name] = [full_name(base, self.names) or "" for base in node.bases]
        self.members[name] = sorted({f"{name}.{n.name}" for n in members})
        for n in members:
            self._file(n, f"{name}.", inner)

    def _file_statement(self, node: Any) -> None:
        """Another statement under the names that it binds, and a table's entries. All but constants always run."""
        names, constant = list(bound(node)), is_constant(node)
        for name in names if constant else [*names, ""]:
            self.parts[name].append((node, self.names))
        if constant and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant):
                    self.parts[f"{names[0]}[{key.value!s}]"].append((value, self.names))

    def definition(self, name: str) -> Definition:
        """What a part says, read when it is first asked for; nothing if the file has no such part."""
        if name not in self.known:
            reader = Reader()
            tree = [reader.function(node, self.names, around) if isinstance(node, FUNCTIONS)
                    else reader.read(node, around) for node, around in self.parts.get(name, [])]
            text = hashlib.sha256(json.dumps(tree).encode()).hexdigest()
            self.known[name] = Definition(text, *map(tuple, (reader.uses, sorted(reader.mentions), reader.parameters)))
        return self.known[name]


def is_constant(node: ast.AST) -> bool:
    """Whether a statement binds names and changes nothing else, such as an attribute."""
    stored = [n for n in ast.walk(node) if isinstance(getattr(n, "ctx", None), ast.Store)]
    changed = [n for n in stored if not isinstance(n, ast.Name)]
    return isinstance(node, ast.Assign | ast.AnnAssign) and all(isinstance(n, ast.Tuple | ast.List) for n in changed)


class Compiled:
    """What a class of no file says, such as a notebook's, with what it names of its own module: as compiled here."""

    def __init__(self, cls: type):
        self.home = cls.__module__
        self.uses: list[str] = []
        self.mentions: set[str] = set()
        self.things: list[Any] = [cls]
        said = [self.of_class(x) if inspect.isclass(x) else self.of_function(x) for x in self.things]     # which grow
        self.definition = Definition(json.dumps(said), tuple(self.uses), tuple(sorted(self.mentions)))

    def of_class(self, cls: type) -> list[Any]:
        values = {name: value for name, value in vars(cls).items()
                  if not name.startswith("__") or inspect.isfunction(value) and not name.startswith("__annotate")}
        return [*map(self.value, cls.__bases__), *([name, self.value(values[name])] for name in sorted(values))]

    def of_function(self, function: types.FunctionType) -> list[Any]:
        return [self.value(function.__defaults__), self.value(function.__kwdefaults__),
                self.of_code(function.__code__, function.__globals__, function.__doc__)]

    def of_code(self, code: types.CodeType, names: dict[str, Any], doc: str | None) -> list[Any]:
        """Instructions, names, what these stand for, and constants. A string may name a method or a parameter."""
        constants = [c for c in code.co_consts if c != doc]
        strings = [s for c in constants for s in (c if isinstance(c, tuple) else [c]) if isinstance(s, str)]
        self.mentions.update(code.co_names, strings, (f"{s}=" for s in strings))
        return [code.co_code.hex(), code.co_names, [self.value(names[name]) for name in code.co_names if name in names],
                [self.of_code(c, names, None) if inspect.iscode(c) else self.value(c) for c in constants]]

    def value(self, value: Any) -> Any:
        """A class or function by its number, another module's as a use; anything else as text without addresses."""
        thing = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        if inspect.ismodule(thing):
            self.uses.append(thing.__name__)
        elif inspect.isclass(thing) or inspect.isfunction(thing):
            if thing.__module__ != self.home:
                self.uses.append(f"{thing.__module__}.{thing.__qualname__}")
                return type(value).__name__
            if thing not in self.things:
                self.things.append(thing)
            return [type(value).__name__, self.things.index(thing)]
        text = ascii(sorted(map(ascii, value)) if isinstance(value, set | frozenset) else value)
        return type(value).__name__ if " at 0x" in text else text
