"""How runs are called: labels that tell them apart, and the scale that they share, as a code and in words.

A label is a method with what was changed in brackets, `semi (plce=off)`; `display` writes it: SeMi, plce off.
"""
from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from semilib.errors import BadInput
from semilib.methods import ADDITIONS, METHODS, title_of

if TYPE_CHECKING:
    from semilib.report.records import Record
    from semilib.training.config import Run

SMOKE = "smoke"                 # the profile whose runs show that everything runs
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

    An option is told where it is not the method's default (`variant`), or, where that does not tell a method's runs
    apart, where these differ. A setting of the recipe (rate, network, ...) is told where any runs differ. Original
    recipes, and settings on an encoder's features, are each method's own: there a setting is told where a method's
    runs differ. Of what differs, the value that most variants share is left out. So an ablation reads `semi`,
    `semi (oheml=off)`.
    """
    started = [r for r in records if r.config]
    options = _options(started)
    settings = _differences(started, lambda r: (r.recipe, r.method if _has_its_own(r.config) else ""),
                            lambda r: {k: v for k, v in r.config.items() if k not in UNTOLD_FIELDS})
    label: dict[int, str] = {}
    for r, option, setting in zip(started, options, settings, strict=True):
        cheats = [f"{name}={value}" for name, value in CHEATS.items() if r.config["options"].get(name) == value]
        parts = [*dict.fromkeys([*cheats, *option]), *setting]
        label[id(r)] = f"{r.method} ({', '.join(parts)})" if parts else r.method
    for r in records:
        if not r.config:            # which variant a run would have been is in its key alone
            names = {label[id(s)] for s in started if s.method == r.method} or {r.method}
            label[id(r)] = names.pop() if len(names) == 1 else f"{r.method} ({r.run['key']})"
    return [label[id(r)] for r in records]


def _options(started: list[Record]) -> list[list[str]]:
    """The options that each record's label tells, as `name=value`."""
    presets = [r.config["options"].get("preset") for r in started]
    several = {r.method for r in started
               if len({p for p, s in zip(presets, started, strict=True) if s.method == r.method}) > 1}
    preset_of = {id(r): preset for r, preset in zip(started, presets, strict=True)}
    differing = _differences(started, lambda r: (r.method, preset_of[id(r)]), lambda r: r.config["options"])
    differing = [[*([f"preset={preset}"] if r.method in several else []), *parts]
                 for r, preset, parts in zip(started, presets, differing, strict=True)]
    changed = [[f"{name}={_plain(value)}" for name, value in variant(r.config).items()] for r in started]
    whole = [json.dumps({**next(iter(_usual(r.config)), {}), **r.config["options"]}, sort_keys=True) for r in started]
    told: dict[str, set[tuple[str, str]]] = {}
    for r, parts, options in zip(started, changed, whole, strict=True):
        told.setdefault(r.method, set()).add((", ".join(parts), options))
    apart = {method for method, pairs in told.items()
             if len({parts for parts, _ in pairs}) == len({options for _, options in pairs})}
    return [new if r.method in apart else old for r, new, old in zip(started, changed, differing, strict=True)]


def variant(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a configuration that are not its method's defaults, by name: what makes the run a variant.

    Defaults are those of its profile, preset and recipe; on features also those that were tuned, whichever are nearer.
    A preset other than the first is told, and stands for its values. {} for a method that is not registered."""
    options = config.get("options", {})
    changed = [{k: v for k, v in options.items() if k in usual and json.dumps(v) != json.dumps(usual[k])}
               for usual in _usual(config)]
    return min(changed, key=len, default={})


def named(name: str, config: dict[str, Any]) -> str:
    """A run's name with what makes it a variant: mnistm5k-lt.n40.m360.g20-20.s0/semi, plce off."""
    return ", ".join([name, *(f"{option} {_plain(value)}" for option, value in variant(config).items())])


def names_of(runs: Iterable[Run]) -> dict[str, str]:
    """What runs are called in progress and lists, by key."""
    return {run.key: named(run.name, run.identity()) for run in runs}


def _usual(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The options that such a run has without being asked for any; of several ways to read that, each."""
    kept = {k: v for k, v in config.items() if k not in ("options", "seed", "split_seed", "folder", "encoder_weights")}
    preset = config.get("options", {}).get("preset")
    return _defaults(json.dumps(kept, sort_keys=True), preset if isinstance(preset, str) else "")


@functools.lru_cache(maxsize=1024)
def _defaults(config: str, preset: str) -> list[dict[str, Any]]:
    """The options of `Run.of` without any but the preset, with the default preset's name. [] where it refuses, as for
    a notebook's method in another process."""
    from semilib.data import folders  # imports torch, which a table does without until it has a record
    from semilib.training.config import Run
    from semilib.training.tuned import settings_of
    given = {k: v for k, v in json.loads(config).items() if k in Run.__dataclass_fields__}
    try:
        with folders.seen():
            run = Run.of(**given, options={"preset": preset} if preset else {})
    except (ValueError, TypeError, KeyError):              # of BadInput, and of a configuration from long ago
        return []
    usual = dict(run.options)
    if preset:
        usual["preset"] = next(iter(run.method_class().Config.presets(run)), preset)
    tuned = settings_of(run.method)["options"] if run.profile == "features" else {}
    return [usual, *([{**usual, **tuned}] if tuned else [])]


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
    """A label as it is written: `remixmatch+abc (lr=0.1)` reads `ReMixMatch + ABC, lr 0.1`."""
    method, _, rest = label.partition(" ")
    written = " + ".join(_written(part) for part in method.split("+"))
    if "=" not in rest:
        return " ".join(filter(None, (written, rest)))
    return ", ".join([written, *(part.replace("=", " ", 1) for part in rest.strip("()").split(", "))])


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


def trial(profile: str, steps: int, classes: int | None) -> list[str]:
    """What has to be said once of runs of so few steps, in a list; [] of any other profile. classes: None if unknown.
    """
    chance = f"; chance is {100 / classes:.3g} %" if classes else ""
    return [f"{steps:,} steps: shows that it runs{chance}."] if profile == SMOKE else []


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
