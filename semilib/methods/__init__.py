"""The methods by name. Adding one: its file, one line here, its tests."""
from __future__ import annotations

import importlib

from semilib.errors import check_name

METHODS: dict[str, str | type] = {
    "supervised": "semilib.methods.supervised:Supervised",
    "fixmatch": "semilib.methods.fixmatch:FixMatch",
    "semi": "semilib.methods.semi:SeMi",
}


def get(name: str) -> type:
    """The class of a method; its module is imported only now. Raises BadInput with the nearest name for an unknown one."""
    check_name("method", name, METHODS)
    entry = METHODS[name]
    if isinstance(entry, str):
        module, attribute = entry.split(":")
        entry = getattr(importlib.import_module(module), attribute)
    return entry
