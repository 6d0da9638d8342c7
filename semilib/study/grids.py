"""What the study's tables consist of: each is a grid of runs. Nothing is trained by looking at one.

    table1 = grid("table1", profile="small")
    table1.runs          # each run once, in the order in which they should be done
    table1.entries       # where they stand: section, row, column -> its runs, one a seed

A profile chooses data and schedule, and profiles never share a table:

    smoke     the embedded pictures, seconds, to show that everything runs
    small     the embedded pictures, minutes a run on a CPU
    features  the real data sets, a small network on features of a pretrained encoder, a minute a run on a CPU
    short     the real data sets, a tenth of the schedule
    paper     the real data sets, the whole schedule
"""
from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from semilib import files
from semilib.errors import BadInput, check_name, shown
from semilib.methods import METHODS, get, title_of
from semilib.training.config import PROFILES as SCHEDULES
from semilib.training.config import Run
from semilib.training.tuned import settings_of

# The methods that every table compares, and those that stand in the smoke profile's.
MAIN = ("supervised", "fixmatch", "daso", "acr", "cdmad", "simpro", "semi")
NEWEST = ("bacon", "adello", "decon", "ccl", "metaexpert", "cpg")
LATER = ("farad", "scssl", "proportion", "dytrim", "scad", "sage")             # of after SeMi
SMOKE = (*MAIN[:-1], *NEWEST, MAIN[-1])
COMPARED = (*MAIN[:-1], *NEWEST, *LATER, MAIN[-1])
HOSTS = ("fixmatch", "freematch", "daso", "acr", "cpe", "abc", "darp")
MODULES = {"oheml": "OHEML", "plce": "PLCE", "align": "Embedding Align"}

# Profile of a table -> that of its runs, whether its data are the real sets, and its seeds.
TABLE_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(profile="smoke", real=False, seeds=(0,)),
    "small": dict(profile="trial", real=False, seeds=(0, 1, 2)),
    "features": dict(profile="features", real=True, seeds=(0, 1, 2)),
    "short": dict(profile="short", real=True, seeds=(0, 1, 2)),
    "paper": dict(profile="paper", real=True, seeds=(0, 1, 2)),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a printed table: its place and its runs, one a seed.

    metric: which number of a run's record it shows. against: the row of the same section and column that it is compared
    with, seed by seed."""

    section: str
    row: str
    column: str
    runs: tuple[Run, ...]
    metric: str = "balanced_accuracy"
    against: str = ""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table's runs. title: names its profile and every field that was changed for all runs. variants: names of the
    rows of one's own."""

    table: str
    profile: str
    title: str
    entries: tuple[Entry, ...]
    changed: tuple[tuple[str, Any], ...] = ()
    variants: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """A file name for it."""
        own = "+".join(re.sub(r"[^\w.]+", "_", name) for name in self.variants)
        return "-".join([self.table, self.profile, *(f"{name}={value}" for name, value in self.changed),
                         *([f"with-{own[:80]}"] if own else [])])

    @property
    def runs(self) -> list[Run]:
        """Each run once, seed after seed, so that a sweep that is stopped has whole comparisons."""
        once = {run.key: run for entry in self.entries for run in entry.runs}
        return sorted(once.values(), key=lambda run: run.seed)

    @property
    def names(self) -> dict[str, str]:
        """What each run is called, by key: "without OHEML, seed 2".

        The column stands there where there are several, the section where a row's name means other runs in another. A
        run of several rows has the name of the first."""
        meant: dict[tuple[str, str], set[str]] = {}
        for entry in self.entries:
            meant.setdefault((entry.row, entry.column), set()).add(entry.runs[0].key)
        columns, names = {entry.column for entry in self.entries}, {}
        for entry in self.entries:
            several = len(meant[entry.row, entry.column]) > 1
            where = [entry.section] * several + [entry.column] * (len(columns) > 1)
            names |= {run.key: ", ".join([entry.row, *where, f"seed {run.seed}"])
                      for run in entry.runs if run.key not in names}
        return names


QUICKSTART_METHODS = ("supervised", "fixmatch", "semi")


def quickstart(methods: Iterable[str] = QUICKSTART_METHODS, seeds: Iterable[int] = (0,),
               options: dict[str, dict[str, Any]] | None = None, **changes: Any) -> list[Run]:
    """The runs of the quickstart: each method on the embedded data, for each seed. options: method -> its options."""
    options, methods = options or {}, list(methods)
    for method, own in options.items():
        for one in methods if method not in methods else ():
            if one in METHODS and method in [f.name for f in dataclasses.fields(get(one).Config)]:
                raise BadInput("options", options, f"options by method: {{{one!r}: {options!r}}}")
        check_name("options", method, methods)
        if not isinstance(own, dict):
            raise BadInput("options", options, "options by method, such as {'semi': {'alpha': 0.2}}")
    root = str(files.place("data"))
    return [Run.of("mnistm5k", method, seed=seed, options=options.get(method, {}), root=root, **changes)
            for seed in seeds for method in methods]


# ---- cells -----------------------------------------------------------------------------------------------------------


def _cifar(classes: int, n1: int, m1: int, gamma: float, order: str = "consistent") -> dict[str, Any]:
    return dict(dataset=f"cifar{classes}", n1=n1, m1=m1, gamma_l=float(gamma), gamma_u=float(gamma), order=order)


def _embedded(order: str = "consistent") -> dict[str, Any]:
    return dict(dataset="mnistm5k", order=order)


def _few_labels(dataset: str, m1: int, gamma_u: float, order: str = "consistent") -> dict[str, Any]:
    """Four labels of every class, the rest of the pool without them: the cells of SAGE (ICML 2026)."""
    return dict(dataset=dataset, n1=4, m1=m1, gamma_l=1.0, gamma_u=float(gamma_u), order=order,
                labelled_in_unlabelled=False)


CIFAR10, CIFAR100 = ((500, 4000), (1500, 3000)), ((50, 400), (150, 300))            # N1 and M1
REAL: dict[str, dict[str, dict[str, Any]]] = {
    "table1": {**{f"CIFAR-10-LT {n}/{m}, gamma {g}": _cifar(10, n, m, g) for n, m in CIFAR10 for g in (100, 150)},
               **{f"CIFAR-100-LT {n}/{m}, gamma {g}": _cifar(100, n, m, g) for n, m in CIFAR100 for g in (10, 20)}},
    "table2": {**{f"CIFAR-10-LT {n}/{m}, gamma 100, {order}": _cifar(10, n, m, 100, order) for n, m in CIFAR10
                  for order in ("uniform", "reversed", "middle", "head-tail")},
               **{f"STL10-LT {n}, gamma {g}": dict(dataset="stl10", n1=n, gamma_l=float(g))
                  for n in (150, 450) for g in (10, 20)}},
    "table3": {f"ImageNet-127, {side} px": dict(dataset="imagenet127", side=side) for side in (32, 64)},
    **dict.fromkeys(("table4", "table5"), {"CIFAR-10-LT 1500/3000, gamma 100": _cifar(10, 1500, 3000, 100)}),
    "table7": {**{f"CIFAR-10 4/4996, gamma {g}, consistent": _few_labels("cifar10", 4996, g) for g in (50, 100, 150)},
               **{f"CIFAR-10 4/4996, gamma 100, {order}": _few_labels("cifar10", 4996, 100, order)
                  for order in ("uniform", "head-tail")}},
}
EMBEDDED: dict[str, dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("table1", "table4", "table5"), {"embedded pictures, gamma 20": _embedded()}),
    "table2": {f"embedded pictures, {order}": _embedded(order) for order in ("uniform", "reversed")},
    "table7": {f"embedded pictures 4/396, {order}": _few_labels("mnistm5k", 396, 20, order)
               for order in ("consistent", "uniform")},
}

# On features: what CIFAR alone can show. Each seed has a split of its own, drawn by it.
_MAIN10, _MAIN100 = _cifar(10, 1500, 3000, 100), _cifar(100, 150, 300, 20)
FEATURES: dict[str, dict[str, dict[str, Any]]] = {
    "table1": REAL["table1"],
    "table2": {**{f"CIFAR-10-LT 1500/3000, gamma 100, {order}": {**_MAIN10, "order": order}
                  for order in ("uniform", "reversed", "middle", "head-tail")},
               "CIFAR-100-LT 150/300, gamma 20, reversed": {**_MAIN100, "order": "reversed"}},
    **dict.fromkeys(("table4", "table5"), {
        "CIFAR-10-LT 1500/3000, gamma 100": _MAIN10,
        "CIFAR-10-LT 1500/3000, gamma 100, reversed": {**_MAIN10, "order": "reversed"}}),
    "table6": {"CIFAR-10-LT 1500/3000, gamma 100": _MAIN10},
    "table7": REAL["table7"],
}
FIVE_SEEDS = ({**_MAIN10, "order": "consistent"}, {**_MAIN10, "order": "reversed"}, _MAIN100,
              {**_MAIN100, "order": "reversed"})
CELLS_OF = {"smoke": EMBEDDED, "small": EMBEDDED, "features": FEATURES, "short": REAL, "paper": REAL}


def seeds_of(profile: str, cell: dict[str, Any]) -> tuple[int, ...]:
    """The seeds of a table's cell: on features five where the study rests on it."""
    return tuple(range(5)) if profile == "features" and cell in FIVE_SEEDS else TABLE_PROFILES[profile]["seeds"]


# ---- rows ------------------------------------------------------------------------------------------------------------

OFF = dict(oheml=False, plce=False, embedding_align=False, logit_align=False, balanced_head=False, threshold=0.95)


def components(threshold: float) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of SeMi, whose own threshold is given, without each of its components and with each alone, by section."""
    return {
        "SeMi without one component": {
            "SeMi": {}, "without OHEML": dict(oheml=False), "without PLCE": dict(plce=False),
            "without bank decay": dict(bank_decay=False), "without bank balance": dict(bank_balance=False),
            "without Embedding Align": dict(embedding_align=False),
            "without Logit Align": dict(logit_align=False),
            "without the low threshold (tau 0.95)": dict(threshold=0.95),
            "without the balanced head": dict(balanced_head=False), "with u / max u (u_norm max)": dict(u_norm="max")},
        "Each component alone": {
            "none of them": OFF, "OHEML alone": {**OFF, "oheml": True},
            "PLCE alone": {**OFF, "plce": True}, "PLCE alone, no decay": {**OFF, "plce": True, "bank_decay": False},
            "PLCE alone, no balance": {**OFF, "plce": True, "bank_balance": False},
            "Embedding Align alone": {**OFF, "embedding_align": True},
            "Logit Align alone": {**OFF, "balanced_head": True, "logit_align": True},
            f"low threshold alone (tau {threshold:g})": {**OFF, "threshold": threshold}},
    }


RELEASE_DEFECTS = ("misaligned_features", "shifted_bank", "empty_as_zero", "droplast_prior", "u_from_blend",
                   "r_by_epoch_length")
SENSITIVITY: dict[str, tuple[float, ...]] = {
    "threshold": (0.5, 0.6, 0.7, 0.8, 0.9), "alpha": (0.1, 0.2, 0.4, 0.8), "scale": (0.25, 0.5, 0.75, 1.0),
    "slots": (16, 64, 128, 512), "beta": (0.9, 0.99, 0.999, 1.0), "lambda_e": (0.05, 0.15, 0.3, 0.6),
}
SYMBOLS = {"threshold": "tau", "slots": "L"}
OWN = "SeMi and variants of your own"                  # the section of the rows that `variants` adds
LIKE = {"alpha 0.2": {"alpha": 0.2}, "no PLCE": {"plce": False}}
USUAL = {"threshold": 0.7, "alpha": 0.4, "scale": 0.75, "slots": 128, "beta": 0.99, "lambda_e": 0.15}


def defects(preset: str) -> dict[str, dict[str, Any]]:
    """Rows of a preset's values with each of the release's defects alone, and with all of them."""
    none = every = {"preset": preset}
    if preset == "paper":
        every = {**every, **dict.fromkeys((*RELEASE_DEFECTS, "decay_restarts"), True)}
    else:
        none = {**none, **dict.fromkeys((*RELEASE_DEFECTS, "decay_restarts"), False)}
    alone = {name.replace("_", " "): {**none, name: True} for name in RELEASE_DEFECTS}
    return {"no defect": none, **alone, "all of them": every}


# ImageNet-127's three published metrics, which never share a column: section of table 3 -> name in a run's record.
IMAGENET_METRICS = {"top-1 on the natural test split": "accuracy", "mean of the classes' recalls": "balanced_accuracy",
                    "top-1 on 50 test images a class": "accuracy_50"}

# ---- the tables -------------------------------------------------------------------------------------------------

TITLES = {
    "table1": "Table 1, unlabelled set distributed as the labelled one",
    "table2": "Table 2, unlabelled set distributed otherwise, or unknown",
    "table3": "Table 3, ImageNet-127",
    "table4": "Table 4, SeMi's components and its release's defects",
    "table5": "Table 5, SeMi's modules on other methods, and sensitivity",
    "table6": "Table 6, what the study on features rests on",
    "table7": "Table 7, four labels a class, unlabelled set of any distribution",
}
_CELL, _ROWS = "it belongs to the table's cells", "it belongs to the table's rows"
FIXED_FIELDS = {
    **dict.fromkeys(("dataset", "n1", "m1", "gamma_l", "gamma_u", "order", "labelled_share", "side"), _CELL),
    **dict.fromkeys(("method", "base", "add"), _ROWS), "seed": "seeds=[0] names them"}
UNTITLED_FIELDS = ("device", "data_on", "keep_seconds", "capture", "strict")           # where and how often, not what


def grid(table: str, /, profile: str = "small", methods: Iterable[str] | None = None,
         seeds: Iterable[int] | None = None, root: str = "data", cells: Iterable[str] | None = None,
         variants: dict[str, dict[str, Any]] | None = None, **changes: Any) -> Grid:
    """The runs of a table.

    methods: rows of tables 1 to 3, and hosts of table 5. seeds: as methods, None for the profile's own. root: folder of
    the data sets. cells: names of the columns wanted, None for all. variants: further rows of table 4, by name, each
    with its options of SeMi, such as `LIKE`; they are compared with SeMi. changes: any field of `Run` but options, for
    every run. Raises BadInput for unknown names, and for a table that a profile does not have (the embedded pictures
    are no ImageNet)."""
    check_name("table", table, TITLES)
    check_name("profile", profile, TABLE_PROFILES)
    _check(methods, seeds, cells, changes)
    _check_variants(table, variants, changes)
    scale = TABLE_PROFILES[profile]
    every = CELLS_OF[profile].get(table)
    if every is None:
        having = [name for name, tables in CELLS_OF.items() if table in tables]
        raise BadInput("profile", profile, f"one that {table} is about: {', '.join(having)}")
    for name in cells or ():
        check_name("cells", name, every)
    rows = [*_own(variants or {}), *ROWS[table](profile, None if methods is None else list(methods))]
    entries = []
    for column, cell in ((name, every[name]) for name in cells or every):
        for row in rows:
            fields = {**cell, "profile": scale["profile"], "root": root, **row.fields, **changes}
            options = dict(row.options)
            if profile == "features":
                tuned = settings_of(row.method)
                fields, options = {**tuned["fields"], **fields}, {**tuned["options"], **options}
            if profile == "smoke" and "threshold" in options:      # a network of 24 steps is not surer of anything
                options["threshold"] = 0.15 + options["threshold"] / 10
            runs = tuple(Run.of(method=row.method, options=options, seed=seed, **fields,
                                **drawn_by(profile, seed, fields))
                         for seed in (seeds_of(profile, cell) if seeds is None else seeds))
            metrics = IMAGENET_METRICS if table == "table3" else {row.section: "balanced_accuracy"}
            entries += [Entry(section, row.name, column, runs, metric, row.against)
                        for section, metric in metrics.items()]
    changed = tuple((k, v) for k, v in changes.items() if k not in UNTITLED_FIELDS)
    steps = changes.get("steps", SCHEDULES[scale["profile"]]["steps"])
    data = "" if scale["real"] else ", embedded pictures"
    more = "".join(f", {k} = {v}" for k, v in changed if k != "steps")
    title = f"{TITLES[table]}: profile {profile} ({steps:,} steps{data}{more})"
    return Grid(table, profile, title, tuple(entries), changed, tuple(variants or {}))


def usual(of: Grid) -> Grid:
    """The same table of the same profile as it is without being changed."""
    return grid(of.table, of.profile)


def drawn_by(profile: str, seed: int, fields: dict[str, Any]) -> dict[str, Any]:
    """On features each seed draws its split, unless a split is asked for."""
    return {"split_seed": seed} if profile == "features" and "split_seed" not in fields else {}


def on_features(methods: list[str]) -> list[Row]:
    """Rows of the methods that run on stored features: ReMixMatch without its rotation, not those that read maps."""
    out = []
    for method in methods:
        if method == "remixmatch":
            out.append(Row("", "ReMixMatch without rotation", method, {"lambda_r": 0.0}))
        elif not get(method).reads_maps:
            out.append(Row("", title_of(method), method))
    return out


def _check(methods: Any, seeds: Any, cells: Any, changes: dict[str, Any]) -> None:
    for name, value, such in (("methods", methods, ["fixmatch", "semi"]), ("seeds", seeds, [0, 1, 2]),
                              ("cells", cells, ["CIFAR-10-LT 1500/3000, gamma 100"])):
        if value is not None and (isinstance(value, str) or not isinstance(value, Iterable) or not list(value) or
                                  any(type(item) is not type(such[0]) for item in value)):
            raise BadInput(name, value, f"a list such as {such}")
    for method in methods or ():
        check_name("methods", method, METHODS)
    for name in changes:
        if name in FIXED_FIELDS:
            raise BadInput(name, changes[name], f"not given for a table: {FIXED_FIELDS[name]}")


def _check_variants(table: str, variants: Any, changes: dict[str, Any]) -> None:
    """Raises BadInput for variants that are no rows of options, and for options among the fields: there it says what to
    give in their place."""
    if variants is not None:
        rows = variants.items() if isinstance(variants, dict) else [("", None)]
        if any(not isinstance(name, str) or not name.strip() or name == "SeMi" or not isinstance(options, dict) or
               any(not isinstance(option, str) for option in options) for name, options in rows):
            raise BadInput("variants", variants, f"rows by name, each with its options of SeMi, such as {LIKE}")
        if variants and table != "table4":
            raise BadInput("variants", variants, f"given for table4, whose rows are variants of SeMi, not for {table}")
    fields, known = Run.__dataclass_fields__, [f.name for f in dataclasses.fields(get("semi").Config)]
    for name, value in changes.items():
        owner, _, option = name.rpartition(".")
        asked = value if name == "options" and isinstance(value, dict) else {option: value}
        if owner in ("semi", "options") or name == "options" or name in known and name not in fields:
            for one in asked:
                check_name("option of semi", one, known)
            row = {", ".join(f"{k} {v}" for k, v in asked.items()): asked} if asked else LIKE
            where = "" if table == "table4" else "; it is table4 that takes it"
            raise BadInput(name, value, f"an option makes a row of its own: variants={shown(row)}{where}")
        if owner:
            raise BadInput(name, value, "not given for a table, whose rows have the options of their methods; a sweep "
                                        "takes it: semilib run method=fixmatch fixmatch.threshold=0.7, or Run.grid")
        if table == "table4":
            check_name("field of a run, or option of SeMi,", name, [*fields, *known])


def _own(variants: dict[str, dict[str, Any]]) -> list[Row]:
    """SeMi, and each variant compared with it."""
    rows = [Row(OWN, name, "semi", options, against="SeMi") for name, options in variants.items()]
    return [Row(OWN, "SeMi", "semi"), *rows] if rows else []


class Row(NamedTuple):
    """A table's row in every cell. fields: further fields of Run; against: the row that it is compared with."""

    section: str
    name: str
    method: str
    options: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    against: str = ""


def _compared(profile: str, methods: list[str] | None, usual: Iterable[str]) -> list[Row]:
    """Methods beside each other, compared with SeMi where it is one of them."""
    shown = methods or list(usual)
    rows = on_features(shown) if profile == "features" else [Row("", title_of(m), m) for m in shown]
    return [row._replace(against="SeMi" if row.method != "semi" and "semi" in shown else "") for row in rows]


def _ablation(profile: str, methods: list[str] | None) -> list[Row]:
    """Variants of SeMi, each section compared with its first row; `methods` is not asked."""
    sections = components(_own_value("threshold", profile))
    sections |= {f"Defects of the release in preset {name}": defects(name) for name in ("paper", "readme")}
    if profile == "smoke":
        sections = {title: dict(list(rows.items())[:n])
                    for (title, rows), n in zip(sections.items(), (10, 3, 3, 2), strict=True)}
    return [Row(title, name, "semi", options, against="" if name == next(iter(rows)) else next(iter(rows)))
            for title, rows in sections.items() for name, options in rows.items()]


def _modules_and_values(profile: str, methods: list[str] | None) -> list[Row]:
    """Each host without and with SeMi's modules, one module at a time, and SeMi's values one at a time."""
    rows, together, alone = [], "SeMi's modules on other methods", "One module at a time"
    for host in methods or (HOSTS[:2] if profile == "smoke" else HOSTS):
        name, all_three = title_of(host), {"add": "+".join(MODULES)}
        rows += [Row(together, name, host), Row(together, f"{name} + all three", host, {}, all_three, name)]
    rows.append(Row(alone, "FixMatch", "fixmatch"))
    rows += [Row(alone, f"FixMatch + {name}", "fixmatch", {}, {"add": module}, "FixMatch")
             for module, name in MODULES.items()]
    for option in list(SENSITIVITY)[:2 if profile == "smoke" else None]:
        rows += _values(option, profile)
    return rows


def _values(option: str, profile: str) -> list[Row]:
    """One option's values, compared with SeMi's own where that is shown."""
    values, symbol, usual = SENSITIVITY[option], SYMBOLS.get(option, option), _own_value(option, profile)
    shown = sorted({*values, usual}) if TABLE_PROFILES[profile]["real"] else values[:2] if profile == "smoke" else \
        (values[0], usual, values[-1])
    names = {v: f"{symbol} = {v:g}{' (SeMi)' if v == usual else ''}" for v in shown}
    reference = names.get(usual, "")
    return [Row(f"Sensitivity to {symbol}", name, "semi", {option: v}, against="" if v == usual else reference)
            for v, name in names.items()]


def _own_value(option: str, profile: str) -> float:
    """The value that SeMi has in a profile's tables: on features the tuned one."""
    tuned = settings_of("semi")["options"] if profile == "features" else {}
    return tuned.get(option, USUAL[option])


STRONG_VIEWS = (2, 8, 16)              # stored ones, K_s
OTHER_ENCODER = "efficientnet-lite2"
FEW = ("fixmatch", "acr", "simpro", "tras", "semi")
LEADING = ("acr", "adello", "ccl", "cpe", "decon", "la", "saw", "simpro", "tras", "semi")


def _foundations(profile: str, methods: list[str] | None) -> list[Row]:
    """Whether the order of methods on features depends on what the study fixed: the number of stored views, the length
    of a run, the encoder, and which images the statistics are of."""
    def among(section: str, shown: Iterable[str], **fields: Any) -> list[Row]:
        return [row._replace(section=section, fields=fields) for row in
                _compared(profile, [method for method in shown if not methods or method in methods], ())]
    rows = [row for count in STRONG_VIEWS for row in among(f"{count} strong views of an image stored", FEW,
                                                           stored_strong=count)]
    rows += among("10,000 steps", METHODS, steps=10_000)
    rows += among("EfficientNet-Lite2", LEADING, encoder=OTHER_ENCODER)
    section = "Statistics of the labelled images alone"
    for method in ("supervised", "la"):
        name = title_of(method)
        rows += [Row(section, name, method), Row(section, f"{name}, labelled images' statistics", method, {},
                                                 {"statistics": "labelled"}, name)]
    return rows


def _all(profile: str, methods: list[str] | None) -> list[Row]:
    return _compared(profile, methods, SMOKE if profile == "smoke" else METHODS)


def _otherwise(profile: str, methods: list[str] | None, small: Iterable[str] = MAIN) -> list[Row]:
    """small: the methods on the embedded pictures."""
    usual = METHODS if profile == "features" else COMPARED if TABLE_PROFILES[profile]["real"] else small
    return _compared(profile, methods, usual)


def _imagenet(profile: str, methods: list[str] | None) -> list[Row]:
    """SCAD has no groups of ImageNet-127's classes."""
    return _compared(profile, methods, (method for method in COMPARED if method != "scad"))


ROWS: dict[str, Callable[[str, list[str] | None], list[Row]]] = {
    "table1": _all, "table2": _otherwise, "table3": _imagenet, "table4": _ablation, "table5": _modules_and_values,
    "table6": _foundations, "table7": functools.partial(_otherwise, small=(*MAIN, "sage"))}
