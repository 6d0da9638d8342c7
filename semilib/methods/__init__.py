"""The methods by name. Adding one: its file, one line here, its tests."""
from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing

from semilib.errors import BadInput, check_name

METHODS: dict[str, str | type] = {
    "supervised": "semilib.methods.supervised:Supervised",
    "la": "semilib.methods.la:LogitAdjustment",
    "fixmatch": "semilib.methods.fixmatch:FixMatch",
    "remixmatch": "semilib.methods.remixmatch:ReMixMatch",
    "flexmatch": "semilib.methods.flexmatch:FlexMatch",
    "freematch": "semilib.methods.freematch:FreeMatch",
    "softmatch": "semilib.methods.softmatch:SoftMatch",
    "darp": "semilib.methods.darp:DARP",
    "crest": "semilib.methods.crest:CReST",
    "crestplus": "semilib.methods.crest:CReSTPlus",
    "abc": "semilib.methods.abc:ABC",
    "saw": "semilib.methods.saw:SAW",
    "adsh": "semilib.methods.adsh:Adsh",
    "daso": "semilib.methods.daso:DASO",
    "cossl": "semilib.methods.cossl:CoSSL",
    "debiaspl": "semilib.methods.debiaspl:DebiasPL",
    "rda": "semilib.methods.rda:RDA",
    "tras": "semilib.methods.tras:TRAS",
    "acr": "semilib.methods.acr:ACR",
    "cpe": "semilib.methods.cpe:CPE",
    "cdmad": "semilib.methods.cdmad:CDMAD",
    "simpro": "semilib.methods.simpro:SimPro",
    "seval": "semilib.methods.seval:SEVAL",
    "bacon": "semilib.methods.bacon:BaCon",
    "adello": "semilib.methods.adello:ADELLO",
    "decon": "semilib.methods.decon:DeCon",
    "ccl": "semilib.methods.ccl:CCL",
    "metaexpert": "semilib.methods.metaexpert:MetaExpert",
    "cpg": "semilib.methods.cpg:CPG",
    "semi": "semilib.methods.semi_released:SeMi",      # semi.py, and its release's defects as options
}

# SeMi's modules on other methods, outermost first.
ADDITIONS: dict[str, str] = {
    "oheml": "semilib.methods.additions:OHEML",
    "plce": "semilib.methods.additions:PLCE",
    "align": "semilib.methods.additions:Align",
}


def get(name: str, base: str = "", add: str = "") -> type:
    """The class of a method, on the base that was asked for (or its first), with SeMi's modules `add` ("oheml+plce") on top.

    A module is imported only now. A combination is one class that inherits from its parts, outermost first, so each part reaches
    the next by `super()`. Raises BadInput with the nearest name for an unknown one, and with the reason for a refused pair.
    """
    check_name("method", name, METHODS)
    parts = [_load(METHODS[name])]
    bases = parts[0].bases
    if base and base not in bases:
        reason = parts[0].refuses.get(base, "")
        if not reason:
            check_name("base", base, bases or METHODS)
        raise BadInput("base", base, f"{' or '.join(map(repr, bases)) or 'none'} for {name}" + (f": {reason}" if reason else
                                                                                              ", which is a whole method of its own"))
    if bases:
        parts.append(_load(METHODS[base or bases[0]]))
    wanted = add.split("+") if add else []
    for one in wanted:
        check_name("add", one, ADDITIONS)
    if len(set(wanted)) < len(wanted):
        raise BadInput("add", add, "each of SeMi's modules once")
    for part in parts if wanted else ():
        if "add" in part.refuses:
            raise BadInput("add", add, f"'' for {part.__name__}: {part.refuses['add']}")
    return combine(*(_load(entry) for one, entry in ADDITIONS.items() if one in wanted), *parts)


def _load(entry: str | type) -> type:
    if not isinstance(entry, str):
        return entry
    module, attribute = entry.split(":")
    return getattr(importlib.import_module(module), attribute)


@functools.lru_cache
def combine(*parts: type) -> type:
    """One class of several, outermost first; its options are those of all parts, an outer default winning."""
    parts = tuple(p for i, p in enumerate(parts) if not any(issubclass(outer, p) for outer in parts[:i]))
    if len(parts) == 1:
        return parts[0]
    name = "On".join(p.__name__ for p in parts)
    made = type(name, parts, {"__module__": parts[0].__module__, "__doc__": parts[0].__doc__})
    made.Config = merged_options(f"{name}.Config", tuple(c.Config for c in made.__mro__ if "Config" in c.__dict__))
    made.Config.ignored = {name: why for part in parts for name, why in part.ignores.items() if name not in parts[0].uses}
    return made


def merged_options(name: str, configs: tuple[type, ...]) -> type:
    """One options class of several, outermost first. Each brings the fields that it declares itself, so that an inner class's
    default is not hidden by an outer one that merely inherits the field."""
    fields: dict[str, tuple] = {}
    for cls in reversed(type(name, configs, {}).__mro__):
        for own in inspect.get_annotations(cls):
            f = cls.__dataclass_fields__[own]
            fields[own] = (own, typing.get_type_hints(cls)[own],
                           dataclasses.field(default=f.default, default_factory=f.default_factory, metadata=f.metadata))
    return dataclasses.make_dataclass(name, fields.values(), bases=configs, frozen=True)
