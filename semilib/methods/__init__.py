"""The methods by name. Every list and table of methods is read from here. A new one: its file, one line, its tests."""
from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from typing import TYPE_CHECKING, Any

from semilib.errors import BadInput, check_name
from semilib.methods.registry import Registry

if TYPE_CHECKING:
    from semilib.methods.base import Method
    from semilib.options import Options

# The written name, and the class as "module:Class", which is imported when it is first asked for. A notebook may
# register its class alone: the class's name is then the written one.
METHODS = Registry({
    "supervised": ("Supervised", "semilib.methods.supervised:Supervised"),
    "la": ("LA", "semilib.methods.la:LogitAdjustment"),
    "fixmatch": ("FixMatch", "semilib.methods.fixmatch:FixMatch"),
    "remixmatch": ("ReMixMatch", "semilib.methods.remixmatch:ReMixMatch"),
    "flexmatch": ("FlexMatch", "semilib.methods.flexmatch:FlexMatch"),
    "freematch": ("FreeMatch", "semilib.methods.freematch:FreeMatch"),
    "softmatch": ("SoftMatch", "semilib.methods.softmatch:SoftMatch"),
    "darp": ("DARP", "semilib.methods.darp:DARP"),
    "crest": ("CReST", "semilib.methods.crest:CReST"),
    "crestplus": ("CReST+", "semilib.methods.crest:CReSTPlus"),
    "abc": ("ABC", "semilib.methods.abc:ABC"),
    "saw": ("SAW", "semilib.methods.saw:SAW"),
    "adsh": ("Adsh", "semilib.methods.adsh:Adsh"),
    "daso": ("DASO", "semilib.methods.daso:DASO"),
    "cossl": ("CoSSL", "semilib.methods.cossl:CoSSL"),
    "debiaspl": ("DebiasPL", "semilib.methods.debiaspl:DebiasPL"),
    "rda": ("RDA", "semilib.methods.rda:RDA"),
    "tras": ("TRAS", "semilib.methods.tras:TRAS"),
    "acr": ("ACR", "semilib.methods.acr:ACR"),
    "cpe": ("CPE", "semilib.methods.cpe:CPE"),
    "cdmad": ("CDMAD", "semilib.methods.cdmad:CDMAD"),
    "simpro": ("SimPro", "semilib.methods.simpro:SimPro"),
    "seval": ("SEVAL", "semilib.methods.seval:SEVAL"),
    "bacon": ("BaCon", "semilib.methods.bacon:BaCon"),
    "adello": ("ADELLO", "semilib.methods.adello:ADELLO"),
    "decon": ("DeCon", "semilib.methods.decon:DeCon"),
    "ccl": ("CCL", "semilib.methods.ccl:CCL"),
    "metaexpert": ("Meta-Expert", "semilib.methods.metaexpert:MetaExpert"),
    "cpg": ("CPG", "semilib.methods.cpg:CPG"),
    "farad": ("FARAD", "semilib.methods.farad:FARAD"),
    "scssl": ("SC-SSL", "semilib.methods.scssl:SCSSL"),
    "proportion": ("Proportion Loss", "semilib.methods.proportion:ProportionLoss"),
    "dytrim": ("DyTrim", "semilib.methods.dytrim:DyTrim"),
    "scad": ("SCAD", "semilib.methods.scad:SCAD"),
    "sage": ("SAGE", "semilib.methods.sage:SAGE"),
    "semi": ("SeMi", "semilib.methods.semi_released:SeMi"),      # semi.py, and its release's defects as options
})

# Parts that go on other methods, outermost first: SeMi's modules, and a term.
ADDITIONS = Registry({
    "oheml": ("OHEML", "semilib.methods.additions:OHEML"),
    "plce": ("PLCE", "semilib.methods.additions:PLCE"),
    "align": ("Align", "semilib.methods.additions:Align"),
    "prop": ("Proportion term", "semilib.methods.proportion:ProportionLoss"),
})


def get(name: str, base: str = "", add: str = "") -> type[Method]:
    """The class of a method, on `base` (or its first one), with the additions `add` ("oheml+plce") on top.

    A module is imported only now. A combination is one class that inherits from its parts, outermost first, so each
    part reaches the next by `super()`. Raises BadInput with the nearest name for an unknown one, and with the reason
    for a refused pair.
    """
    check_name("method", name, METHODS)
    parts = [METHODS[name]]
    bases = parts[0].bases
    if base and base not in bases:
        reason = parts[0].refuses.get(base, "")
        if not reason:
            check_name("base", base, bases or METHODS)
        why = f": {reason}" if reason else ", which is a whole method of its own"
        raise BadInput("base", base, f"{' or '.join(map(repr, bases)) or 'none'} for {name}{why}")
    if bases:
        parts.append(METHODS[base or bases[0]])
    wanted = add.split("+") if add else []
    for one in wanted:
        check_name("add", one, ADDITIONS)
    if len(set(wanted)) < len(wanted):
        raise BadInput("add", add, "each of them once")
    for part in parts if wanted else ():
        if "add" in part.refuses:
            raise BadInput("add", add, f"'' for {part.__name__}: {part.refuses['add']}")
    modules = [ADDITIONS[one] for one in ADDITIONS if one in wanted]
    for module in modules:
        if name in module.refuses:
            raise BadInput("add", add, f"'' for {parts[0].__name__}: {module.refuses[name]}")
        if module in parts:
            raise BadInput("add", add, f"'' for {module.__name__}, which is that itself")
    return combine(*modules, *parts)  # type: ignore[arg-type]  # classes are hashable


def title_of(name: str) -> str:
    """The written name of a method or of an addition, for tables and figures. An unregistered name stands for
    itself. Imports nothing."""
    entry = {**METHODS.data, **ADDITIONS.data}.get(name, (name, ""))
    return entry.__name__ if isinstance(entry, type) else entry[0]


@functools.lru_cache
def combine(*parts: type[Method]) -> type[Method]:
    """One class of several, outermost first. It has the options of all parts and their values for a smoke run; an outer
    default wins."""
    parts = tuple(p for i, p in enumerate(parts) if not any(issubclass(outer, p) for outer in parts[:i]))
    if len(parts) == 1:
        return parts[0]
    name = "On".join(p.__name__ for p in parts)
    made: Any = type(name, parts, {"__module__": parts[0].__module__, "__doc__": parts[0].__doc__})
    made.Config = merged_options(f"{name}.Config", tuple(c.Config for c in made.__mro__ if "Config" in c.__dict__))
    made.Config.ignored = {name: why for part in parts for name, why in part.ignores.items()
                           if name not in parts[0].uses}
    made.smoke = {name: value for part in reversed(parts) for name, value in part.smoke.items()
                  if name not in made.Config.ignored}
    return made


def merged_options(name: str, configs: tuple[type[Options], ...]) -> type[Options]:
    """One options class of several, outermost first. Each brings the fields that it declares itself: so an inner
    class's default is not hidden by an outer one that merely inherits the field."""
    fields: dict[str, tuple] = {}
    for cls in reversed(type(name, configs, {}).__mro__):
        for own in inspect.get_annotations(cls):
            f = cls.__dataclass_fields__[own]  # type: ignore[attr-defined]  # a base of dataclasses
            fields[own] = (own, typing.get_type_hints(cls)[own],
                           dataclasses.field(default=f.default, default_factory=f.default_factory, metadata=f.metadata))
    return dataclasses.make_dataclass(name, fields.values(), bases=configs, frozen=True)
