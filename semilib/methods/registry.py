"""Names that lead to classes. A class is imported when it is first asked for."""
from __future__ import annotations

import importlib
import typing
from collections import UserDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semilib.methods.base import Method

Entry: typing.TypeAlias = "tuple[str, str] | type[Method]"


class Registry(UserDict):
    """Classes by name. `registry[name]` is the class, `registry.data[name]` the entry that leads to it.

    A class of a file is documented by that file."""

    def __getitem__(self, name: str) -> type[Method]:
        entry: Entry = self.data[name]
        if isinstance(entry, type):
            return entry
        place, attribute = entry[1].split(":")
        module = importlib.import_module(place)
        cls = getattr(module, attribute)
        cls.__doc__ = cls.__doc__ or module.__doc__
        return cls

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.data)
