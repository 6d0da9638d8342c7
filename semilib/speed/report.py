"""Records of speed, read: which goals are met, how far ahead of which implementation, on which machine. Needs neither torch nor a GPU.

    records = load("results/speed")            # NAME.json: our measurements; NAME.peers.json: a run beside other implementations
    print(goals(records).text)
    python -m semilib.speed.report publish HARNESS.json results/speed/NAME.peers.json
    python -m semilib.speed.report readme      # writes the table of goals into README.md

Ratios are of medians over single steps; those of means and of the least steps stand beside them. What no record holds is called open.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semilib.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "results/speed"
LEARNING = "results/precision-trial-600-steps"
PEERS = ".peers.json"
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
DASH, WIDTH = "–", 96
METHODS = {"semi": "SeMi", "fixmatch": "FixMatch", "daso": "DASO", "bare": "bare network", "supervised": "Supervised"}
NAMES = {"ours": "semilib", "authors": "authors' script", "usb": "USB", "bare": "bare network"}
HOW = {"off": "eager", "compile": "compiled", "graph": "one CUDA graph", "compile+graph": "compiled, one CUDA graph"}
WHOLE, BANK = "whole step", "of these: memory bank"

# The implementations of a run of peers, and what had to be repaired before they ran. Nothing of it changes the work of a step.
DESCRIPTION: dict[str, dict[str, Any]] = {
    "authors": {
        "what": "SeMi as its authors published it: pywin/SeMi at 32e3a71, run through its own main() with its README's values",
        "repairs": ["two folders became regular packages, so that no installed package of the same name is imported in their place",
                    "the device, fixed to the first GPU, falls back to the CPU where there is none",
                    "next(iterator) in place of iterator.next(), which PyTorch's loaders have not had since 2022",
                    "two time stamps a step: batch in hand, step done; the device is not waited for"],
        "settings": "PLCE, OHEML and Embedding Align act from the first step, as they do for most of a run; rows that differ say so"},
    "usb": {
        "what": "USB (semilearn): microsoft/Semi-supervised-learning at 1ef4cbe, run through its own train.py, one unlabelled image a "
                "labelled one",
        "repairs": ["on a CPU alone: no transfer of batches to a GPU, no CUDA events around a step, the network is accepted on the CPU, no "
                    "division by the number of GPUs. On a GPU its code is as shipped"],
        "settings": "its configuration of FixMatch with DASO for this cell, one process without its wrappers for several GPUs (less work "
                    "than it ships with); for FixMatch the same without DASO; DASO's semantic part acts from the first step"},
    "bare": {
        "what": "WRN-28-2 alone on one ready batch of 256 images: forward, loss, backward, SGD step",
        "repairs": [], "settings": "no data, no views, no state of a method: the least that a step of SeMi can take in that mode"},
    "ours": {"what": "semilib.speed.adapter: this package's step, the device waited for after each", "repairs": [],
             "settings": "profile paper on the same images"},
    "all": {"what": "CIFAR-10-LT, N1 = 1500, M1 = 3000, gamma 100; 64 labelled images a step; one process an implementation, one after the "
                    "other on the same machine", "repairs": ["packages that are imported and never used in a step are stand-ins",
                                                             "CIFAR-10's checksum is not asked for: the images in use suffice"],
            "settings": "every peer computes in fp32 as PyTorch sets it, which on a GPU lets convolutions use TF32; a step's time "
                        "holds its wait for the loader"}}


# ---- records --------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """own: our measurements by name (see `speed.measure`); peers: runs beside other implementations by name (see `publish_peers`)."""

    own: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    peers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def __or__(self, other: Records) -> Records:
        return Records(self.own | other.own, self.peers | other.peers)

    def __sub__(self, other: Records) -> Records:
        """Without the names that the other has."""
        return Records(*({name: kept for name, kept in mine.items() if name not in theirs}
                         for mine, theirs in ((self.own, other.own), (self.peers, other.peers))))

    def __bool__(self) -> bool:
        return bool(self.own or self.peers)


def load(folder: str | Path = FOLDER) -> Records:
    """The records of a folder; none where there is no such folder. Raises BadInput for a file that is no record."""
    own, peers = {}, {}
    for file in sorted(Path(folder).glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        of_peers = file.name.endswith(PEERS)
        if not isinstance(found, dict) or not {"machine", "settings", *(["rows"] if of_peers else [])} <= found.keys():
            raise BadInput("record", file.name, "a record of speed, which has a machine and settings" + of_peers * " and rows")
        if of_peers:
            peers[file.name.removesuffix(PEERS)] = found
        else:
            own[file.stem] = found
    return Records(own, peers)


def rows_of(record: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The rows of a section; none where it was not measured."""
    return record.get(section, {}).get("rows", [])


def is_gpu(record: dict[str, Any]) -> bool:
    return record["machine"]["device"] != "cpu"


def machine_of(record: dict[str, Any]) -> str:
    """The device in a phrase: the card's model, or the CPU's with its cores."""
    facts = record["machine"]
    if is_gpu(record):
        return facts["device"]
    threads = facts.get("threads") or facts["cores"]
    used = f" ({_many(threads, 'thread')})" if threads != facts["cores"] else ""
    return f"{_cpu(facts['cpu'])}, {_many(facts['cores'], 'core')}{used}"


def where(record: dict[str, Any]) -> str:
    """Machine and date, as every title has them."""
    return f"{machine_of(record)}, {record['machine']['date']}"


def versions(record: dict[str, Any]) -> str:
    facts = record["machine"]
    named = {"torch": "PyTorch", "python": "Python", "cuda": "CUDA", "cudnn": "cuDNN"}
    units = f"; CPU units {', '.join(facts['cpu_units'])}" if facts.get("cpu_units") else ""
    return ", ".join(f"{word} {facts[key]}" for key, word in named.items() if facts.get(key)) + units


def _cpu(model: str) -> str:
    return " ".join(re.sub(r"\((?:R|TM|r|tm)\)|\bCPU\b|\bProcessor\b|@.*", " ", model).split()) or "CPU"


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def slug(facts: dict[str, Any]) -> str:
    """A machine's name for a file: nvidia-h200, cpu-amd-epyc-2-cores. facts: `speed.machine(...)["machine"]`."""
    text = facts["device"] if facts["device"] != "cpu" else f"cpu {_cpu(facts['cpu']).removeprefix('CPU')} {_many(facts['cores'], 'core')}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def settings_of(device: str, profile: str, sections: list[str], steps: int, largest: int, compiled: bool, **more: Any) -> Any:
    """`speed.Settings` from a notebook's parameters. sections: [] for all; compiled: also the compiled step on a CPU (a GPU has it anyway);
    more: any other setting. Raises BadInput for an unknown one."""
    from semilib.errors import check_name
    from semilib.speed.measure import SECTIONS, Settings
    for name in more:
        check_name("settings", name, [f.name for f in dataclasses.fields(Settings)])
    given = {"device": device, "profile": profile, "sections": "+".join(sections or SECTIONS), "steps": steps, "largest": largest, **more}
    import torch
    if compiled and device != "cuda" and not torch.cuda.is_available():
        given.setdefault("captures", "off+compile")
    return Settings(**given)


def ensure(settings: Any, record: str = "", runs: str | Path = "runs", results: str | Path = FOLDER,
           show: Callable[[str], None] = print) -> Records:
    """The record of this machine: measured as far as it is missing. settings: `speed.Settings`.

    record="NAME": kept as results/NAME.json, to be committed. record="": a committed record of this machine is taken as it is; where
    there is none, one is measured into runs/speed, in a file of its own for each machine, version of PyTorch and settings.
    """
    from semilib.speed import measure as speed
    facts = {k: v for k, v in speed.machine(settings)["machine"].items() if k != "date"}
    if record:
        return Records({record: speed.measure(settings, Path(results) / f"{record}.json", show)})
    same = {name: kept for name, kept in load(results).own.items()
            if all(kept["machine"].get(k) == facts[k] for k in ("device", "cpu", "cores"))}
    if same:
        show(f"{', '.join(f'{FOLDER}/{name}.json' for name in same)}: of this machine, so nothing is measured; "
             "record=\"NAME\" measures anew")
        return Records(same)
    key = hashlib.sha256(json.dumps([facts, dataclasses.asdict(settings) | {"sections": ""}], sort_keys=True).encode()).hexdigest()[:8]
    path = Path(runs) / "speed" / f"{slug(facts)}-{key}.json"
    return Records({"this machine": speed.measure(settings, path, show)})


# ---- peers ----------------------------------------------------------------------------------------------------------------------------

_KEPT = {"images_forward": "images_forward", "images_backward": "images_backward", "workers": "workers", "precision": "precision",
         "capture": "capture", "wall_s_median": "median_s", "wall_s_min": "min_s", "wall_s_mean": "mean_s", "steps": "steps",
         "data_wait_s_median": "data_wait_s", "cpu_main_s_mean": "cpu_main_s", "cpu_workers_s_mean": "cpu_workers_s",
         "bank_push_s_median": "bank_push_s", "bank_offers_median": "bank_offers", "gpu_peak_MiB": "gpu_peak_MiB",
         "max_rss_MiB": "peak_memory_MiB", "startup_s": "startup_s", "error": "error"}
_PATH = re.compile(r"(?<![\w/.])~?/[\w.+-]+(?:/[\w.+-]*)+|\b[A-Za-z]:\\\S+")


def publish_peers(harness: str | Path, out: str | Path) -> dict[str, Any]:
    """Keep of a run of peers (the JSON that its harness wrote) what is evidence, as NAME.peers.json: machine, versions, settings, each
    configuration's seconds a step with every step's, errors, and what the implementations are. Logs, commands and paths are left out.

    Rows: config, of (ours, authors, usb, bare), method, precision, variant ("" for what is compared), shipped (as its authors set the
    number of workers), workers, images, seconds: median_s, min_s, mean_s (the window over its steps), data_wait_s, cpu_*_s, step_s (every
    step). Raises BadInput for a file without the table.
    """
    found = json.loads(Path(harness).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "table" not in found:
        raise BadInput("harness_json", Path(harness).name, "the JSON that the harness of the peers wrote, which has a table")
    rows = [_peer(line, found.get("raw", {})) for line in found["table"]]
    known = {row["config"] for row in rows}
    rows += [{**_parse(run["name"]), "error": f"skipped: {run['skipped']}"} for run in found.get("runs", [])
             if run.get("skipped") and run["name"] not in known]
    of = {key: next((line[key] for line in found["table"] if line.get(key)), None)
          for key in ("gpu", "cuda", "cudnn", "torch", "python", "threads", "cpu_units")}
    machine = {"device": of.pop("gpu") or found["device"], "cpu": found.get("cpu_model", ""), "cores": found["cpus"],
               **{k: v for k, v in of.items() if v is not None}, "date": found["began"][:10]}
    kept = {"machine": machine,
            "settings": {"steps": found["steps"], "warmup": found["warmup"], "rounds": found["rounds"], "data": found.get("data", "full"),
                         "seconds": found.get("seconds")},
            "implementations": {name: DESCRIPTION[name] for name in ("all", *dict.fromkeys(r["of"] for r in rows)) if name in DESCRIPTION},
            "rows": rows, "loaders": [{k: v for k, v in line.items() if isinstance(v, int | float) or k == "config"}
                                      for line in found.get("aug", [])]}
    text = re.sub(r"\[[\s\d.,e+-]*\]", lambda match: re.sub(r"\s+", " ", match[0]), json.dumps(kept, indent=1, ensure_ascii=False))
    if left := _PATH.search(text):
        raise BadInput("harness_json", left[0], "no path of a machine in what is published")
    from semilib.files import write_text
    write_text(Path(out), text + "\n")
    return kept


def _peer(line: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    row = {**_parse(line["config"]), **{name: line[key] for key, name in _KEPT.items() if key in line}}
    if "error" in row:
        row["error"] = _PATH.sub("...", row["error"].replace("no steps: see log_tail in runs", "no step was made"))
    steps = raw.get(line["config"], {}).get("wall_s")
    return row | ({"step_s": steps} if steps else {})


def _parse(config: str) -> dict[str, Any]:
    """What a configuration's name says: of, method, precision, variant and shipped."""
    def row(of: str, method: str, precision: str, variants: list[str], shipped: bool = False) -> dict[str, Any]:
        return {"config": config, "of": of, "method": method, "precision": precision, "variant": ", ".join(variants), "shipped": shipped}
    if found := re.fullmatch(r"semi_(full|warm|all)_w(\w+)", config):
        phase = {"full": [], "warm": ["first six epochs' work"], "all": ["threshold 0: every strong view reaches the bank"]}[found[1]]
        return row("authors", "semi", "fp32", phase, found[2] == "ship")
    if found := re.fullmatch(r"usb_(fixmatch|daso)(?:_mu(\d+))?(_pretrain)?_w(\w+)", config):
        variants = [f"{found[2]} unlabelled images a labelled one"] * bool(found[2]) + ["first 5,120 steps' work"] * bool(found[3])
        return row("usb", found[1], "fp32", variants, found[4] == "ship")
    if found := re.fullmatch(r"bare_([a-z]+)_(fp32|bf16|strict)(.*)|bare_([a-z]+)_(strict)", config):
        mode, precision, rest = found[1] or found[4], found[2] or found[5], (found[3] or "").split("_")
        words = {"eager": "eager", "compile": "compiled", "graph": "compiled, one CUDA graph", "graphe": "one CUDA graph",
                 "cl": "channels last", "free": "device not waited for", "malloc": "heap kept"}
        variants = [words[word] for word in (mode, *rest) if word in words] + ["no TF32"] * (precision == "strict")
        return row("bare", "bare", "fp32" if precision == "strict" else precision, variants)
    if found := re.fullmatch(r"ours_([a-z]+)(.*?)(?:_w\w+)?", config):
        return row("ours", found[1], "", [])
    return row(config, "", "", [])


def how(row: dict[str, Any], gpu: bool = True) -> str:
    """Precision and capture of a row of ours: "bf16, compiled, one CUDA graph". gpu: of the machine, which decides what auto is."""
    capture = ("compile+graph" if gpu else "off") if row.get("capture") == "auto" else row.get("capture", "")
    return ", ".join(part for part in (row.get("precision"), HOW.get(capture, "")) if part)


def how_parts(record: dict[str, Any], capture: str) -> str:
    """How the parts of a step ran: on a GPU each is a CUDA graph of its own."""
    return HOW[capture] + ", a CUDA graph each" * is_gpu(record)


def measured(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a run of peers that have a time."""
    return [row for row in record["rows"] if "median_s" in row]


def pairs(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Each of our configurations against the implementation of its method as shipped and with its best number of workers: rows of
    method, config, ours (precision and capture), against (shipped, best), peer, workers, ours_s, peer_s, ratio (of medians),
    ratio_mean (of the windows over their steps, which hold what loaders cost between steps; None where there is no window),
    ratio_least (of least steps)."""
    rows, out = measured(record), []
    for method in ("semi", "fixmatch", "daso"):
        theirs = [r for r in rows if r["of"] in ("authors", "usb") and r["method"] == method and not r["variant"]]
        shipped = [r for r in theirs if r["shipped"]]
        best = [min(theirs, key=lambda r: r["median_s"])] if theirs else []
        for own in (r for r in rows if r["of"] == "ours" and r["method"] == method):
            for against, chosen in (("shipped", shipped), ("best", best)):
                out += [{"method": method, "config": own["config"], "ours": how(own), "precision": own.get("precision"), "against": against,
                         "peer": NAMES[peer["of"]], "workers": peer.get("workers", ""), "ours_s": own["median_s"],
                         "peer_s": peer["median_s"], "ratio": peer["median_s"] / own["median_s"],
                         "ratio_mean": peer["mean_s"] / own["mean_s"] if "mean_s" in peer and "mean_s" in own else None,
                         "ratio_least": peer["min_s"] / own["min_s"]} for peer in chosen]
    return out


# ---- tables ---------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Sheet:
    """A table: columns are key -> (header, how a value is written), rows hold the values. Unpacks as (frame, text)."""

    title: str
    columns: dict[str, tuple[str, Callable[[Any], str]]]
    rows: list[dict[str, Any]]
    notes: list[str] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frame, self.text))

    @property
    def frame(self) -> pd.DataFrame:
        """The values as they were measured, seconds as seconds."""
        import pandas as pd
        return pd.DataFrame([{key: row.get(key) for key in self.columns} for row in self.rows], columns=list(self.columns))

    def cells(self) -> list[list[str]]:
        def cell(value: Any, write: Callable[[Any], str]) -> str:
            return DASH if value is None or value == "" or (isinstance(value, float) and math.isnan(value)) else write(value)
        return [[head for head, _ in self.columns.values()],
                *([cell(row.get(key), write) for key, (_, write) in self.columns.items()] for row in self.rows)]

    @property
    def words(self) -> list[bool]:
        """Whether a column holds words, which stand to the left."""
        return [write is str for _, write in self.columns.values()]

    @property
    def text(self) -> str:
        cells = self.cells()
        wide = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) if left else c.rjust(w) for c, w, left in zip(row, wide, self.words, strict=True)).rstrip()
                 for row in cells]
        rule = "-" * (sum(wide) + 2 * (len(wide) - 1))
        notes = [line for note in self.notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)]
        return "\n".join([self.title, "", lines[0], rule, *lines[1:], rule, *notes, ""])

    @property
    def markdown(self) -> str:
        cells = [[c.replace("|", "\\|") for c in row] for row in self.cells()]
        marks = ["---" if left else "--:" for left in self.words]
        return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], marks, *cells[1:]]) + "\n"


def _ms(seconds: float) -> str:
    ms = 1000 * seconds
    return f"{ms:,.0f}" if ms >= 1000 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}" if ms >= 0.1 else f"{ms:.3f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(value: float) -> str:
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _plain(value: str) -> str:
    """Text that stands to the right, as numbers do."""
    return value


_MEDIAN, _LEAST = ("ms a step", _ms), ("least", _ms)


def steps_table(record: dict[str, Any]) -> Sheet:
    """Seconds a step of each implementation (a run of peers) or of each method (a record of ours), beside the bare network."""
    if "rows" in record:
        return _peers_table(record)
    rows = rows_of(record, "steps")
    bare = {(r["precision"], r["capture"]): r["median_s"] for r in rows if r["method"] == "bare"}
    made = [{**r, "name": METHODS.get(r["method"], r["method"]), "how": how(r, is_gpu(record)), "rate": 1 / r["median_s"],
             "over": r["median_s"] / bare[r["precision"], r["capture"]] if (r["precision"], r["capture"]) in bare else None} for r in rows]
    network = f", {rows[0]['network']}" if rows else ""
    return Sheet(f"A step of each method{network}; {where(record)}",
                 {"name": ("", str), "how": ("how", str), "images": ("images", _count), "median_s": _MEDIAN, "min_s": _LEAST,
                  "rate": ("steps a second", _rate), "over": ("over bare", lambda v: f"{v:.2f}")}, made,
                 [f"{versions(record)}; profile {record['settings']['profile']}. Median over single steps or windows of them, the device "
                  "waited for after each.",
                  "Over bare: the time over that of the network alone in the same precision and mode: forward, cross-entropy, backward and "
                  "optimiser on one ready batch of SeMi's size."])


def _peers_table(record: dict[str, Any]) -> Sheet:
    bare = next((r["median_s"] for r in measured(record) if r["config"] == "bare_eager_fp32"), None)
    made = [{**r, "name": f"{METHODS.get(r['method'], r['method'])}, {NAMES[r['of']]}" if r["of"] in ("ours", "authors", "usb") else
             NAMES.get(r["of"], r["of"]), "how": how(r) + (f", {r['variant']}" if r["variant"] else ""),
             "workers": f"{r['workers']} (shipped)" if r["shipped"] and r.get("workers") else r.get("workers"),
             "images": f"{r['images_forward']} / {r['images_backward']}" if "images_backward" in r else "",
             "rate": 1 / r["median_s"] if "median_s" in r else None,
             "over": r["median_s"] / bare if bare and "median_s" in r else None} for r in record["rows"]]
    setting = record["settings"]
    notes = [f"{versions(record)}. Up to {setting['steps']} steps after {setting['warmup']}, one process a row, one after the other. "
             "Median over single steps; images: forward / backward. Data wait: the part of the step until the batch is in hand.",
             "Over bare: the time over that of WRN-28-2 alone (eager, fp32, 256 images)."]
    notes += [f"No time: {r['config']}: {r.get('error', 'no step was made')}" for r in record["rows"] if "median_s" not in r]
    notes += [f"{NAMES[name]}: {about['what']}; {about['settings']}." +
              (f" Repaired: {'; '.join(about['repairs'])}." if about["repairs"] else "")
              for name, about in record["implementations"].items() if name in NAMES]
    return Sheet(f"A step of each implementation, side by side; {where(record)}",
                 {"name": ("", str), "how": ("how", str), "workers": ("loader workers", str), "images": ("images", str),
                  "median_s": _MEDIAN, "min_s": _LEAST, "rate": ("steps a second", _rate), "data_wait_s": ("data wait", _ms),
                  "over": ("over bare", lambda v: f"{v:.2f}")}, [r for r in made if "median_s" in r], notes)


def ratios(record: dict[str, Any]) -> Sheet:
    """Our steps a second over a peer's, for each of our configurations: as the peer ships, and with its best number of workers."""
    words = {"shipped": "as shipped", "best": "best number of workers"}
    made = [{**r, "name": METHODS[r["method"]], "against": words[r["against"]]} for r in pairs(record)]
    return Sheet(f"Ahead of the others: steps a second over theirs; {where(record)}",
                 {"name": ("", str), "ours": ("semilib", str), "peer": ("against", str), "against": ("which", str),
                  "workers": ("workers", str), "ours_s": ("our ms", _ms), "peer_s": ("their ms", _ms),
                  "ratio": ("ratio", _times), "ratio_mean": ("of means", _times), "ratio_least": ("of least", _times)},
                 made, ["Ratio: of median times; of means: of the whole windows, which also hold what a loader costs when it begins anew; "
                        "of least: of the fastest step of each. Peers compute in fp32 as PyTorch sets it (TF32 in "
                        "convolutions on a GPU), so rows of ours in fp32 compare like with like.", f"{versions(record)}."])


def limits_table(record: dict[str, Any]) -> Sheet:
    """What the machine copies and multiplies a second, and a SeMi step's network on paper at those rates."""
    made = []
    for r in rows_of(record, "limits"):
        if "TFLOP" in r:
            made += [{"what": f"{r['what']}: at the {rate} rate", "value": f"{_ms(r[f'at_{rate}_rate_s'])} ms",
                      "of": f"{r[unit]:.3g} {unit}"} for rate, unit in (("matrix", "TFLOP"), ("copy", "GB"))]
        else:
            value = f"{r['GB_s']:.3g} GB/s" if "GB_s" in r else f"{r['TFLOP_s']:.3g} TFLOP/s"
            made.append({"what": r["what"], "value": value, "of": r["note"]})
    made += [{"what": r["what"], "value": f"{r['s']:.2f} s", "of": "least of several processes"} for r in rows_of(record, "imports")]
    return Sheet(f"The machine's limits; {where(record)}; profile {record['settings']['profile']}",
                 {"what": ("what", str), "value": ("value", _plain), "of": ("of", str)}, made,
                 ["On paper: the network's convolutions forward and backward, each tensor read and written once."])


def parts_table(record: dict[str, Any]) -> Sheet:
    """SeMi's step by part: seconds, operators, compiled kernels."""
    rows = rows_of(record, "parts")
    total = {r["capture"]: r["median_s"] for r in rows if r["part"] == WHOLE}
    made = [{**r, "how": how_parts(record, r["capture"]),
             "share": r["median_s"] / total[r["capture"]] if r["capture"] in total else None} for r in rows]
    return Sheet(f"SeMi's step by part; {where(record)}; profile {record['settings']['profile']}",
                 {"part": ("", str), "how": ("how", str), "median_s": ("ms", _ms), "min_s": _LEAST, "share": ("of the step", _share),
                  "operators": ("operators", _count), "kernels": ("kernels", _count)}, made,
                 ["Each part is repeated alone, so the parts need not add up to the step. Operators: what PyTorch calls, at least a kernel "
                  "each on a GPU; kernels: what the compiler makes of them, a library's convolutions left out."])


def whole_table(record: dict[str, Any]) -> Sheet:
    """What a run costs besides its steps, and what a run of 250,000 steps comes to."""
    made = [{"what": r["what"], "value": f"{r['MiB']:,.0f} MiB" if "MiB" in r else _duration(r["s"])} for r in rows_of(record, "whole")]
    return Sheet(f"A run of SeMi; {where(record)}; profile {record['settings']['profile']}",
                 {"what": ("what", str), "value": ("value", _plain)}, made,
                 ["The last line is worked out from those above, not waited for."])


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.2f} s" if seconds >= 1 else f"{_ms(seconds)} ms"


def growth_table(record: dict[str, Any]) -> Sheet:
    """Step time against classes, slots, unlabelled images and views, with the memory bank's part."""
    rows = rows_of(record, "growth")
    first: dict[str, float] = {}
    for r in rows:
        first.setdefault(r["curve"], r["median_s"])
    made = [{**r, "name": METHODS.get(r["method"], r["method"]), "grown": r["median_s"] / first[r["curve"]],
             "share": r["bank_s"] / r["median_s"] if "bank_s" in r else None} for r in rows]
    network = f", {rows[0]['network']}" if rows else ""
    return Sheet(f"How a step grows{network}; {where(record)}",
                 {"curve": ("", str), "value": ("of", _count), "name": ("method", str), "images": ("images a step", _count),
                  "median_s": _MEDIAN, "min_s": _LEAST, "grown": ("over its first", _times), "bank_s": ("bank, ms", _ms),
                  "share": ("bank, of the step", _share)}, made,
                 [f"Random images, profile {record['settings']['growth_profile']}. Bank: push, decay and prototypes of the memory bank."])


def sharing_table(record: dict[str, Any]) -> Sheet:
    """Total steps a second of several seeds on one device, over one alone."""
    rows = rows_of(record, "sharing")
    alone = {r["how"]: r["steps_a_second"] for r in rows if r["runs"] == 1}
    made = [{**r, "over": r["steps_a_second"] / alone[r["how"]] if r["how"] in alone else None} for r in rows]
    return Sheet(f"Several seeds on one device; {where(record)}; profile {record['settings']['profile']}",
                 {"how": ("", str), "runs": ("seeds", _count), "median_s": ("ms, a step of all", _ms),
                  "steps_a_second": ("steps a second", _rate), "over": ("over one alone", _times)}, made,
                 ["Runs in one process: whole SeMi steps, a CUDA stream each on a GPU. Stacked: the bare network of each seed as a group "
                  "of one network's convolutions."])


def learning(folder: str | Path = LEARNING) -> Sheet:
    """Whether the faster ways to compute learn what plain ones do: the final balanced accuracy of the runs of a folder, which differ in
    precision, capture and seed alone. within: whether the mean lies between the worst and the best seed of fp32, uncompiled."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(Path(folder).glob("*/run.json"))]
    found: dict[tuple[str, str], list[float]] = {}
    for run in sorted(runs, key=lambda r: r["config"]["seed"]):
        found.setdefault((run["config"]["precision"], run["config"]["capture"]), []).append(run["result"]["last"])
    plain = found.get(("fp32", "off"), [math.nan])
    made = [{"how": f"{precision}, {'eager' if capture == 'off' else 'compiled'}", "seeds": "  ".join(f"{100 * a:.1f}" for a in finals),
             "mean": statistics.fmean(finals), "within": "yes" if min(plain) <= statistics.fmean(finals) <= max(plain) else "no"}
            for (precision, capture), finals in sorted(found.items(), key=lambda item: (item[0] != ("fp32", "off"), item[0]))]
    one = runs[0]["config"] if runs else {"steps": 0, "network": "no network", "batch": 0}
    cell = runs[0]["name"].split(".s")[0] if runs else "no run"
    return Sheet(f"SeMi's final balanced accuracy; {cell}, {one['steps']:,} steps of {one['network']}, batch {one['batch']}",
                 {"how": ("", str), "seeds": ("each seed, %", _plain), "mean": ("mean, %", lambda v: f"{100 * v:.1f}"),
                  "within": ("within fp32, eager", _plain)}, made,
                 ["Of the last evaluation. Within: between the worst and the best seed of fp32, eager. On a CPU without units for bf16."])


_TABLES: dict[str, Callable[[dict[str, Any]], Sheet]] = {
    "steps": steps_table, "limits": limits_table, "parts": parts_table, "whole": whole_table, "growth": growth_table,
    "sharing": sharing_table}


def tables(record: dict[str, Any]) -> list[Sheet]:
    """All tables of a record: of what was measured."""
    if "rows" in record:
        return [made for made in (ratios(record), steps_table(record)) if made.rows]
    return [made for made in (make(record) for make in _TABLES.values()) if made.rows]


def text(records: Records, *which: str) -> str:
    """Tables as text for a notebook's output, one machine after the other: sections by name (steps, limits, parts, whole, growth, sharing,
    ratios), all if none is given. A line where there are none."""
    made = []
    for record in records.peers.values():
        made += [sheet for name, sheet in (("ratios", ratios(record)), ("steps", steps_table(record))) if name in which or not which]
    for record in records.own.values():
        made += [make(record) for name, make in _TABLES.items() if name in which or not which]
    return "\n".join(sheet.text for sheet in made if sheet.rows) or f"No record has {' or '.join(which) or 'anything'} yet."


def evidence(records: Records) -> str:
    """Which records there are: a line each, with machine, date, versions and commit."""
    lines = [f"{name}: {where(record)}; {versions(record)}; code {', '.join(_codes(record))}" for name, record in records.own.items()]
    lines += [f"{name}, side by side: {where(record)}; {versions(record)}" for name, record in records.peers.items()]
    return "\n".join(lines) or f"No record in {FOLDER} yet."


def _codes(record: dict[str, Any]) -> list[str]:
    codes = dict.fromkeys(str(part["code"]) for part in record.values() if isinstance(part, dict) and "code" in part)
    return [re.sub(r"^([0-9a-f]{8})[0-9a-f]{32}", r"\1", code) for code in codes] or ["unknown"]


# ---- goals ----------------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Found:
    """One record's answer: value (what the goal bounds), shown (how it is written), record, prefer (the greatest is taken)."""

    value: float
    shown: str
    record: dict[str, Any]
    prefer: bool = False

    @property
    def rank(self) -> tuple[bool, str]:
        return self.prefer, self.record["machine"]["date"]


def goals(records: Records) -> Sheet:
    """figure, goal, measured, met (yes, no, open), on. A figure of a GPU is of the latest record of an H200, else of another GPU; one of
    a CPU of the latest of two cores, else of another. What no record holds is open and says so."""
    rows = []
    for figure, sign, bound, unit, find, lacking in _GOALS:
        found = find(records)
        goal = f"{'at least' if sign > 0 else 'at most'} {bound:g}{unit}"
        row = {"figure": figure, "goal": goal, "measured": lacking, "met": "open", "on": ""}
        if found:
            best = max(found, key=lambda one: (one.rank, -sign * one.value))
            row |= {"measured": best.shown, "met": "yes" if sign * best.value >= sign * bound else "no", "on": where(best.record)}
        rows.append(row)
    return Sheet("Goals", {key: (key, str) for key in ("figure", "goal", "measured", "met", "on")}, rows,
                 ["Ratios are of median times of a step; \"as it ships\" and \"best\" are the peer's number of loader workers."])


def _against_peer(method: str, against: str) -> Callable[[Records], list[Found]]:
    """Our default configuration on a GPU over the method's peer."""
    def find(records: Records) -> list[Found]:
        return [Found(r["ratio"], f"{_times(r['ratio'])} ({_ms(r['peer_s'])} against {_ms(r['ours_s'])} ms)", record, _h200(record))
                for record in records.peers.values() if is_gpu(record) for r in pairs(record)
                if r["against"] == against and r["config"] == f"ours_{method}"]
    return find


def _h200(record: dict[str, Any]) -> bool:
    return "H200" in record["machine"]["device"]


def _paper_on_gpu(records: Records) -> list[dict[str, Any]]:
    """Our records of the published step on a GPU: smaller profiles answer no goal."""
    return [record for record in records.own.values() if is_gpu(record) and record["settings"]["profile"] == "paper"]


def _over_bare(records: Records) -> list[Found]:
    out = []
    for record in _paper_on_gpu(records):
        times = {r["method"]: r["median_s"] for r in rows_of(record, "steps") if (r["precision"], r["capture"]) == ("bf16", "auto")}
        if {"bare", "semi"} <= times.keys():
            ratio = times["semi"] / times["bare"]
            out.append(Found(ratio, f"{ratio:.2f} ({_ms(times['semi'])} against {_ms(times['bare'])} ms)", record, _h200(record)))
    return out


def _run(records: Records) -> list[Found]:
    return [Found(r["s"] / 60, f"{r['s'] / 60:.1f} min, worked out", record, _h200(record))
            for record in _paper_on_gpu(records)
            for r in rows_of(record, "whole") if r["what"].startswith("250,000 steps")]


def _sharing(records: Records) -> list[Found]:
    out = []
    for record in _paper_on_gpu(records):
        made = [r for r in sharing_table(record).rows if r["runs"] > 1 and r["over"]]
        best = {r["how"]: max((o for o in made if o["how"] == r["how"]), key=lambda o: o["over"]) for r in made}
        if best:
            shown = "; ".join(f"{name}: {_times(r['over'])} with {r['runs']}" for name, r in best.items())
            out.append(Found(max(r["over"] for r in best.values()), shown, record, _h200(record)))
    return out


def _cpu_step(precision: str) -> Callable[[Records], list[Found]]:
    """Our step in a precision over the authors' script with its best number of workers; in bf16 where the CPU has matrix units."""
    def find(records: Records) -> list[Found]:
        out = []
        for record in (r for r in records.peers.values() if not is_gpu(r)):
            if precision == "bf16" and "amx_bf16" not in _units(record, records):
                continue
            made = [r for r in pairs(record) if (r["method"], r["against"], r["precision"]) == ("semi", "best", precision)]
            if made:
                ways = {r["ours"]: r["ratio"] for r in sorted(made, key=lambda r: -r["ratio"])}      # the lower of two alike
                shown = "; ".join(f"{_times(ratio)} {name.removeprefix(precision + ', ')}" for name, ratio in ways.items())
                out.append(Found(max(ways.values()), shown, record, record["machine"]["cores"] == 2))
        return out
    return find


def _units(record: dict[str, Any], records: Records) -> list[str]:
    """The CPU's units that matter: as the record has them, or as one of ours of the same CPU does."""
    same = [kept["machine"] for kept in (record, *records.own.values()) if kept["machine"]["cpu"] == record["machine"]["cpu"]]
    return next((facts["cpu_units"] for facts in same if facts.get("cpu_units")), [])


def _bank(records: Records) -> list[Found]:
    out = []
    for record in _paper_on_gpu(records):
        times = {r["part"]: r["median_s"] for r in rows_of(record, "parts") if r["capture"] == "compile"}
        if {BANK, WHOLE} <= times.keys():
            share = times[BANK] / times[WHOLE]
            out.append(Found(100 * share, f"{_share(share)} ({_ms(times[BANK])} of {_ms(times[WHOLE])} ms)", record, _h200(record)))
    return out


def _import(records: Records) -> list[Found]:
    return [Found(r["s"], f"{r['s']:.2f} s" + " (less than the noise)" * (r["s"] < 0), record)
            for record in records.own.values() for r in rows_of(record, "imports") if r["what"].startswith("import semilib")]


NO_GPU, NOTHING = "open: not measured on a GPU yet", "open: not measured yet"
NO_UNITS = "open: not measured on a CPU with bf16 matrix units yet"
_GOALS: list[tuple[str, int, float, str, Callable[[Records], list[Found]], str]] = [
    ("SeMi's steps a second over the authors' script as it ships, one H200", 1, 12, "x", _against_peer("semi", "shipped"), NO_GPU),
    ("the same, its best number of workers", 1, 10, "x", _against_peer("semi", "best"), NO_GPU),
    ("FixMatch's over USB as it ships, one H200", 1, 10, "x", _against_peer("fixmatch", "shipped"), NO_GPU),
    ("the same, its best number of workers", 1, 5, "x", _against_peer("fixmatch", "best"), NO_GPU),
    ("DASO's over USB as it ships, one H200", 1, 10, "x", _against_peer("daso", "shipped"), NO_GPU),
    ("the same, its best number of workers", 1, 5, "x", _against_peer("daso", "best"), NO_GPU),
    ("SeMi's step over the bare network's, GPU", -1, 1.15, "", _over_bare, NO_GPU),
    ("250,000 steps of SeMi with evaluations, one H200", -1, 20, " min", _run, NO_GPU),
    ("steps a second of up to 8 seeds that share one H200, over one alone", 1, 1.2, "x", _sharing, NO_GPU),
    ("SeMi's step over the authors' script, WRN-28-2, fp32, two CPU cores", 1, 1.25, "x", _cpu_step("fp32"), NOTHING),
    ("the same in bf16, where the CPU has matrix units", 1, 3, "x", _cpu_step("bf16"), NO_UNITS),
    ("memory bank (push, decay, prototypes) of SeMi's step, GPU", -1, 5, " %", _bank, NO_GPU),
    ("import semilib, beyond PyTorch's own import", -1, 0.3, " s", _import, NOTHING)]


# ---- README ---------------------------------------------------------------------------------------------------------------------------


def readme_block(records: Records) -> str:
    """What stands between README's two marks: the goals as a table, and the records that they rest on."""
    made = goals(records)
    named = [f"{where(record)} (`{FOLDER}/{name}.json`; {versions(record)})" for name, record in records.own.items()]
    named += [f"{where(record)}, side by side (`{FOLDER}/{name}{PEERS}`; {versions(record)})" for name, record in records.peers.items()]
    line = f"Measured on: {'; '.join(named)}." if named else "No record is committed yet, so every figure is open."
    return f"{made.markdown}\n{line}\n"


def readme(page: str, records: Records) -> str:
    """README's text with the block between the marks made anew. Raises BadInput if the marks are not there, once and in order."""
    found = re.findall(rf"{BEGIN}\n.*?{END}", page, re.DOTALL)
    if len(found) != 1:
        raise BadInput("README.md", len(found), f"one block between {BEGIN} and {END}")
    return page.replace(found[0], f"{BEGIN}\n{readme_block(records)}{END}")


def main(words: list[str]) -> None:
    """`publish HARNESS OUT` or `readme`."""
    from semilib.files import home, place, write_text
    if len(words) == 3 and words[0] == "publish":
        print(ratios(publish_peers(words[1], place(words[2]))).text)
    elif words == ["readme"]:
        page = home() / "README.md"
        write_text(page, readme(page.read_text(encoding="utf-8"), load(place(FOLDER))))
        print(goals(load(place(FOLDER))).text)
    else:
        raise BadInput("arguments", " ".join(words), "publish HARNESS.json OUT.peers.json, or readme")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BadInput as error:
        sys.exit(f"semilib.speed.report: {error}")
