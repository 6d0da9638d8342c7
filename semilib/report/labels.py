"""How runs are called: labels that tell them apart, and the scale that they share, as a code and in words."""
from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from semilib.errors import BadInput
from semilib.methods import ADDITIONS, METHODS, title_of

if TYPE_CHECKING:
    from semilib.report.records import Record

POST_HOC, NUMBER = "posthoc", r"[0-9.]+(e[+-]?[0-9]+)?"           # of a label's part such as posthoc0.5

# Fields that the brackets of a label do not tell: the scale, which is never mixed; the seed; what stands before the
# brackets (`Run.label`); and where a run happens.
FIELDS_OF_SCALE = ("dataset", "n1", "m1", "gamma_l", "gamma_u", "order", "labelled_in_unlabelled", "labelled_share",
                   "holdout", "side", "split_seed", "profile", "recipe", "steps")
UNTOLD_FIELDS = {*FIELDS_OF_SCALE, "method", "base", "add", "post_hoc", "options", "seed", "root", "data_on",
                 "keep_seconds", "device", "capture", "deterministic"}
# Words of a cell's parts: pattern -> what stands in a caption. What matches none is the encoder.
DATA_SETS = {"mnistm5k": "Embedded pictures", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL10",
             "svhn": "SVHN", "imagenet127": "ImageNet-127"}
CELL_WORDS: dict[str, Callable[[re.Match], str]] = {
    r"n(\d+)": lambda m: f"$N_1$ = {int(m[1]):,}",
    r"m(\d+)": lambda m: f"$M_1$ = {int(m[1]):,}",
    r"nall": lambda m: "all labels",
    r"m100k": lambda m: "100,000 unlabelled images",
    r"mrest": lambda m: "all other images unlabelled",
    r"l(.+)": lambda m: f"{100 * float(m[1]):g} % of each class labelled",
    r"g([\d.]+)": lambda m: rf"$\gamma_l$ = {m[1]}",
    r"g([\d.]+)-([\d.]+)": lambda m: (rf"$\gamma$ = {m[1]}" if m[1] == m[2] else
                                      rf"$\gamma_l$ = {m[1]}, $\gamma_u$ = {m[2]}"),
    r"(reversed|middle|head-tail)": lambda m: f"unlabelled set {m[1]}",
    r"disjoint": lambda m: "labelled images not in the unlabelled set",
    r"split(\d+)": lambda m: f"split {m[1]}",
    r"holdout(.+)": lambda m: f"{100 * float(m[1]):g} % of the labelled images held out",
    r"heldout(\d+)": lambda m: f"{int(m[1]):,} images held out",
}
# Options by which a method is told what it cannot know: a label tells them always.
CHEATS = {"proportion_prior": "oracle"}


def labels(records: list[Record]) -> list[str]:
    """Each record's label: its method, and in brackets the options and settings that tell it from the other records.

    An option is told where a method's runs differ in it, a setting of the recipe (rate, network, ...) where any runs
    differ. Original recipes, and settings on an encoder's features, are each method's own: there a setting is told
    where a method's runs differ. The value that most variants share is left out. A preset stands for its options. So an
    ablation reads `semi`, `semi (oheml=off)`.
    """
    started = [r for r in records if r.config]
    presets = {id(r): r.config["options"].get("preset") for r in started}
    several = {r.method for r in started if len({presets[id(s)] for s in started if s.method == r.method}) > 1}
    options = _differences(started, lambda r: (r.method, presets[id(r)]), lambda r: r.config["options"])
    settings = _differences(started, lambda r: (r.recipe, r.method if _has_its_own(r.config) else ""),
                            lambda r: {k: v for k, v in r.config.items() if k not in UNTOLD_FIELDS})
    label: dict[int, str] = {}
    for r, option, setting in zip(started, options, settings, strict=True):
        cheats = [f"{name}={value}" for name, value in CHEATS.items() if r.config["options"].get(name) == value]
        parts = [*([f"preset={presets[id(r)]}"] if r.method in several else []),
                 *dict.fromkeys([*cheats, *option]), *setting]
        label[id(r)] = f"{r.method} ({', '.join(parts)})" if parts else r.method
    for r in records:
        if not r.config:            # which variant a run would have been is in its key alone
            names = {label[id(s)] for s in started if s.method == r.method} or {r.method}
            label[id(r)] = names.pop() if len(names) == 1 else f"{r.method} ({r.run['key']})"
    return [label[id(r)] for r in records]


def _has_its_own(config: dict[str, Any]) -> bool:
    """Whether a run's settings are its method's own."""
    return config.get("recipe") == "original" or config.get("encoder", "none") != "none"


def _differences(records: list[Record], alike: Callable[[Record], Any],
                 values: Callable[[Record], dict[str, Any]]) -> list[list[str]]:
    """For each record, `name=value` of each value in which the records that are `alike` differ."""
    groups: dict[Any, list[int]] = {}
    for i, r in enumerate(records):
        groups.setdefault(alike(r), []).append(i)
    parts: dict[int, list[str]] = {}
    for members in groups.values():
        parts |= zip(members, _differing([values(records[i]) for i in members]), strict=True)
    return [parts[i] for i in range(len(records))]


def _differing(values: list[dict[str, Any]]) -> list[list[str]]:
    """For each dictionary, what differs among the distinct ones, without values that more than half of them share."""
    distinct = list({json.dumps(v, sort_keys=True): v for v in values}.values())
    usual: dict[str, str | None] = {}
    for name in dict.fromkeys(n for v in distinct for n in v):
        count = Counter(json.dumps(v.get(name), sort_keys=True) for v in distinct)
        if len(count) > 1:
            value, n = count.most_common(1)[0]
            usual[name] = value if 2 * n > len(distinct) else None
    return [[f"{name}={_plain(v.get(name))}" for name, most in usual.items()
             if json.dumps(v.get(name), sort_keys=True) != most] for v in values]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def ordered(records: list[Record]) -> list[Record]:
    """The records in the order of `METHODS`, each before what is combined with it; unknown methods last."""
    place = {method: i for i, method in enumerate(METHODS)}

    def key(record: Record) -> tuple[int, bool]:
        parts = record.method.split("+")
        method = [p for p in parts if p not in ADDITIONS and not p.startswith(POST_HOC)][-1:] or parts[:1]
        return place.get(method[0], len(place)), len(parts) > 1
    return sorted(records, key=key)


def display(label: str) -> str:
    """A label with written names: `remixmatch+abc (lr=0.1)` reads `ReMixMatch + ABC (lr=0.1)`."""
    method, _, rest = label.partition(" ")
    return " ".join(filter(None, (" + ".join(_written(part) for part in method.split("+")), rest)))


def _written(part: str) -> str:
    """One part of a label before its brackets: a method, one of SeMi's modules, or post-hoc adjustment with its tau."""
    if re.fullmatch(POST_HOC + NUMBER, part):
        tau = part.removeprefix(POST_HOC)
        return "LA (post-hoc)" if tau == "1" else f"LA (post-hoc, tau={tau})"
    return title_of(part)


def scale(records: list[Record]) -> str:
    """What every number of these records rests on: cell, steps, profile, and the recipe if it is not the shared one.

    Raises BadInput for records that do not belong in one table or figure: of different cells, splits, profiles, recipes
    or lengths, or twice the same seed of the same label.
    """
    if not records:
        raise BadInput("records", [], "at least one record")
    started = [r for r in records if r.config]
    for name, values in {"cell": [r.cell for r in records], "profile": [r.config["profile"] for r in started],
                         "recipe": [r.recipe for r in started], "steps": [r.config["steps"] for r in started],
                         "split": [r.run["split"]["fingerprint"][:8] for r in started]}.items():
        if len(set(values)) > 1:
            raise BadInput(name, sorted(set(values)), "one for all records: numbers of different scales are not "
                                                      "comparable and never share a table or figure")
    for (label, seed), n in Counter(zip(labels(records), (r.seed for r in records), strict=True)).items():
        if n > 1:
            wanted = "one a seed: choose one code and configuration"
            raise BadInput("records", f"{label}, seed {seed}, {n} times", wanted)
    if not started:
        return records[0].cell
    return f"{records[0].cell}, {_schedule(started[0])}"


def scale_in_words(records: list[Record]) -> str:
    """`scale` as a figure's caption has it: the cell in words and symbols. Raises BadInput as that does."""
    scale(records)
    started = next((r for r in records if r.config), None)
    return ", ".join(filter(None, [cell_in_words(records[0].cell), started and _schedule(started)]))


def _schedule(record: Record) -> str:
    recipe = ", each method's original recipe" if record.recipe == "original" else ""
    return f"{record.config['steps']:,} steps of profile {record.config['profile']}{recipe}"


def cell_in_words(cell: str) -> str:
    """`Run.cell` in words and symbols: Embedded pictures, $N_1$ = 40, $M_1$ = 360, $\\gamma$ = 20, unlabelled set
    reversed."""
    data, *parts = re.split(r"\.(?=[a-z])", cell)
    name, _, side = data.removesuffix("-lt").partition("-")
    if name == "imagefolder":
        words = [f"Pictures of {side}"]
    else:
        tail = "-LT" if data.endswith("-lt") and name != "mnistm5k" else ""
        words = [DATA_SETS[name] + tail + (f" at {side} px" if side else "")]
    for i, part in enumerate(parts):
        if name == "imagefolder" and re.fullmatch(r"g1(\.0)?-1(\.0)?", part):
            continue                                     # its classes have the sizes that they have
        known = next(((pattern, m) for pattern in CELL_WORDS if (m := re.fullmatch(pattern, part))), None)
        if known is None:                                # an encoder is last; its name may hold dots
            return ", ".join([*words, f"features of {'.'.join(parts[i:])}"])
        words.append(CELL_WORDS[known[0]](known[1]))
    return ", ".join(words)
