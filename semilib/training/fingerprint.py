"""Which code a run executes, as eight hex digits that follow what the code means.

A walk starts at `train`, at `Run` and at the classes of the run's method, and goes where the names in their code lead.
The fingerprint is a hash of every definition that it meets, as `semilib.training.meaning` reads it.

What counts: all that executes, to the last operator, constant, default and decorator, and the order of statements and
fields. What does not count, so that cleaning up is free:

* words: annotations, docstrings, comments, messages;
* names: of local variables, of parameters that nobody passes by keyword, of top-level functions, classes and constants;
* places: in which file a definition stands, and in which order;
* what this run does not reach: other methods, other data sets (`TABLES`), and what moves no number (`BYSTANDERS`).

Where a name is unsure the walk takes too much, never too little. `x.push` leads to the `push` of every class that it
has met, and so does the string "push". Of a class on a base from outside, which may call anything, every method counts.
"""
from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from semilib.errors import BadInput
from semilib.files import PACKAGE
from semilib.methods import get
from semilib.training.definitions import Compiled, Definition, Module

PARSING = threading.Lock()      # CPython 3.11 cannot parse in two threads at a time
# Modules that tell of runs or watch over them, and definitions that move no number: where the methods lie (their
# classes count), how a run is called, and what a configuration starts from (a run has it in full).
TELLERS = {"record", "progress", "errors", "files", "writer", "signals", "registry"}
ROOTS = (("train", "train"), ("config", "Run"))           # beside this module
BYSTANDERS = {"METHODS", "ADDITIONS", "CELLS", "PROFILES", "Run.name", "Run.key", "Run.identity", "Run.of", "Run.grid",
              "Run.with_", "Run.arguments", "Run.__repr__", "original"}
# Tables of which a run reads one entry, and the field of its configuration that says which.
TABLES = {"SOURCES": "dataset", "FIXED": "dataset", "SIDES": "dataset"}
WHOLE = "*"                                             # as a definition's name: all of the module
Key = tuple[str, str]                                   # module and qualified name; no module for a class of no file
Files = tuple[tuple[str, str, int], ...]                # module, path and time of change


def code_of(config: dict[str, Any]) -> str | None:
    """The fingerprint that a run of this configuration (run.json's) would have today; None if its method is gone."""
    try:
        return _walk(config).fingerprint
    except BadInput:
        return None


def definitions(config: dict[str, Any]) -> list[tuple[Path, str]]:
    """What the fingerprint of such a run covers: files and qualified names. Raises BadInput if its method is gone."""
    walk = _walk(config)
    return [(walk.package.path(module), name) for module, name in walk.met if module]


def executed(config: dict[str, Any]) -> list[Path]:
    """The package's files that hold what such a run executes. Raises BadInput if its method is gone."""
    return sorted({file for file, _ in definitions(config)})


def _walk(config: dict[str, Any]) -> Walk:
    cls: type = get(config["method"], config.get("base", ""), config.get("add", ""))
    entries = tuple((field, config[field]) for field in sorted({*TABLES.values()} & config.keys()))
    return _walked(cls, entries, _files(PACKAGE))


@functools.lru_cache(maxsize=1024)
def _walked(cls: type, entries: tuple[tuple[str, str], ...], files: Files) -> Walk:
    return Walk(cls, dict(entries), _package(files))


# ---- the package's files -------------------------------------------------------------------------------------------


def _files(folder: Path) -> Files:
    found, todo = [], [(folder.name, str(folder))]
    for package, path in todo:                          # which grows
        for entry in os.scandir(path):
            name = f"{package}.{entry.name.removesuffix('.py')}".removesuffix(".__init__")
            if entry.name.endswith(".py"):
                found.append((name, entry.path, entry.stat().st_mtime_ns))
            elif entry.is_dir() and entry.name != "__pycache__":
                todo.append((name, entry.path))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=1024)
def _module(name: str, path: str, changed: int) -> Module:
    with PARSING:
        return Module(name, Path(path).read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=8)
def _package(files: Files) -> Package:
    return Package(files)


class Place(NamedTuple):
    """A definition, where the names in its blanks lead, what else is then reached, and what may name a method."""

    said: Definition
    uses: tuple[tuple[Key | None, str], ...]
    follow: tuple[Key, ...]
    mentions: frozenset[str]


class Package:
    """The package's modules, and where names lead in them."""

    def __init__(self, files: Files):
        self.files = {name: (name, path, changed) for name, path, changed in files}
        self.module = functools.cache(lambda name: _module(*self.files[name]))
        self.find, self.place = functools.cache(self._find), functools.cache(self._place)
        self.is_open = functools.cache(self._is_open)

    def path(self, module: str) -> Path:
        return Path(self.files[module][1])

    def _find(self, name: str) -> tuple[Key | None, str]:
        """The definition that a full name leads to, and the rest of the name; None where nothing is to be followed."""
        module = name
        path: list[str] = []
        while module and module not in self.files:
            module, _, last = module.rpartition(".")
            path.insert(0, last)
        if not module:
            return None, name
        if module.rpartition(".")[2] in TELLERS or not BYSTANDERS.isdisjoint(path[:1]):
            return None, ".".join(path)
        known = self.module(module)
        if path and path[0] in known.parts:
            return (module, path[0]), ".".join(path[1:])
        if path and path[0] in known.names:             # imported there
            return self.find(".".join([str(known.names[path[0]]), *path[1:]]))
        return (module, WHOLE), ".".join(path)

    def _place(self, module: str, name: str) -> Place:
        """A definition of a module. Where it is reached, so are the statements that run when the module is imported."""
        around = self.files.keys() & itertools.accumulate(module.split("."), "{}.{}".format)
        follow = [(package, "") for package in sorted(around) if "" in self.module(package).parts]
        if name == WHOLE:
            follow += [(module, part) for part in sorted(self.module(module).parts) if part.isidentifier()]
        return self.placed(self.module(module).definition(name), follow)

    def placed(self, said: Definition, follow: list[Key]) -> Place:
        uses = tuple(map(self.find, said.uses))
        rest = [part for key, rest in uses if key for part in rest.split(".")]
        return Place(said, uses, (*follow, *(key for key, _ in uses if key)), frozenset((*said.mentions, *rest)))

    def _is_open(self, module: str, name: str) -> bool:
        """Whether a class has a base from outside."""
        for base in self.module(module).bases[name]:
            key, rest = self.find(base)
            inner = key and (key[0], f"{key[1]}.{rest}".rstrip("."))
            if base != "object" and (not inner or inner[1] not in self.module(inner[0]).bases or self.is_open(*inner)):
                return True
        return False


# ---- the walk ------------------------------------------------------------------------------------------------------


class Walk:
    """`met`: the definitions that a run reaches, in the order in which the walk comes to them; no place changes it."""

    def __init__(self, cls: type, entries: dict[str, str], package: Package):
        self.entries, self.package = entries, package
        self.outside: dict[str, Definition] = {}
        self.met: dict[Key, Place] = {}
        self.mentions: set[str] = set()
        todo = deque(self.roots(cls))
        while todo:
            key = todo.popleft()
            if key not in self.met:
                here = self.met[key] = self.place(*key)
                self.mentions |= here.mentions
                todo.extend(here.follow)
            if not todo:
                todo.extend(key for key in self.members() if key not in self.met)

    def roots(self, cls: type) -> Iterator[Key]:
        """Where a run begins. A class that `methods.combine` has made has no definition, but its parts have."""
        from semilib.methods.base import Method
        yield from ((f"{__package__}.{module}", name) for module, name in ROOTS)
        for part in cls.__mro__:
            module, name = part.__module__, part.__qualname__
            if module not in self.package.files and part not in Method.__mro__:
                self.outside[name] = Compiled(part).definition
                yield "", name
            elif module in self.package.files and name in self.package.module(module).parts:
                yield module, name

    def place(self, module: str, name: str) -> Place:
        if not module:
            return self.package.placed(self.outside[name], [])
        entry = self.entries.get(TABLES.get(name, ""))
        return self.package.place(module, name if entry is None else f"{name}[{entry}]")

    def members(self) -> Iterator[Key]:
        """The methods that somebody may call, of the classes met so far."""
        for module, name in self.met:
            for member in self.package.module(module).members.get(name, ()) if module else ():
                called = member.rpartition(".")[2]
                if called in self.mentions or called.startswith("__") or self.package.is_open(module, name):
                    if BYSTANDERS.isdisjoint((member, called)):
                        yield module, member

    @functools.cached_property
    def fingerprint(self) -> str:
        """Each definition, its class, what its blanks lead to, and the parameters that somebody passes by keyword."""
        number = {key: i for i, key in enumerate(self.met)}
        lines = [[here.said.text, number[module, name.rpartition(".")[0]] if module and "." in name else None,
                  [[key and number[key], rest] for key, rest in here.uses],
                  [parameter if f"{parameter}=" in self.mentions else "" for parameter in here.said.parameters]]
                 for (module, name), here in self.met.items()]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:8]
