"""Keep of a run of peers what is evidence.

    python -m benchmarks.publish HARNESS.json results/speed/NAME.peers.json

HARNESS.json is what the harness of the peers wrote. The record has the machine, the versions, the settings, what the
implementations are (`peers.json`), and a row for each configuration. Logs, commands and paths of the machine are left
out.

A row: config, of (ours, authors, usb, bare), method, precision, variant ("" for what is compared), shipped (with the
number of workers that its authors set), workers, images_*, and seconds: median_s, min_s, mean_s (the window over its
steps), data_wait_s, cpu_*_s, step_s (every step); or error.
"""
from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import ratios
from semilib.errors import BadInput
from semilib.files import place, write_text

# What is kept of a row of the harness's table, and its name in the record.
KEPT = {"images_forward": "images_forward", "images_backward": "images_backward", "workers": "workers",
        "precision": "precision", "capture": "capture", "wall_s_median": "median_s", "wall_s_min": "min_s",
        "wall_s_mean": "mean_s", "steps": "steps", "data_wait_s_median": "data_wait_s", "cpu_main_s_mean": "cpu_main_s",
        "cpu_workers_s_mean": "cpu_workers_s", "bank_push_s_median": "bank_push_s", "bank_offers_median": "bank_offers",
        "gpu_peak_MiB": "gpu_peak_MiB", "max_rss_MiB": "peak_memory_MiB", "startup_s": "startup_s", "error": "error"}
PATH = re.compile(r"(?<![\w/.])~?/[\w.+-]+(?:/[\w.+-]*)+|\b[A-Za-z]:\\\S+")
ABOUT = json.loads(Path(__file__).with_name("peers.json").read_text(encoding="utf-8"))


def publish(harness: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the record of a run of peers to `out` and return it. Raises BadInput for a file without a table, and where
    a path of the machine would be published."""
    raw = json.loads(Path(harness).read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or "table" not in raw:
        raise BadInput("harness_json", Path(harness).name, "the JSON of the peers' harness, which has a table")
    rows = [row_of(line, raw) for line in raw["table"]] + skipped_rows(raw)
    known = ABOUT["implementations"]
    record = {"machine": machine_of(raw),
              "settings": {"steps": raw["steps"], "warmup": raw["warmup"], "rounds": raw["rounds"],
                           "data": raw.get("data", "full"), "seconds": raw.get("seconds")},
              "implementations": {name: known[name] for name in ("all", *dict.fromkeys(row["of"] for row in rows))
                                  if name in known},
              "rows": rows,
              "loaders": [{key: value for key, value in line.items() if key == "config" or not isinstance(value, str)}
                          for line in raw.get("aug", [])]}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\s\d.,e+-]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text)      # numbers in one line
    if path := PATH.search(text):
        raise BadInput("harness_json", path[0], "no path of a machine in what is published")
    write_text(Path(out), text + "\n")
    return record


def machine_of(raw: dict[str, Any]) -> dict[str, Any]:
    """The machine as a record of `semilib speed` names it."""
    said = {key: next((line[key] for line in raw["table"] if line.get(key)), None)
            for key in ("gpu", "cuda", "cudnn", "torch", "python", "threads", "cpu_units")}
    return {"device": said.pop("gpu") or raw["device"], "cpu": raw.get("cpu_model", ""), "cores": raw["cpus"],
            **{key: value for key, value in said.items() if value is not None}, "date": raw["began"][:10]}


def row_of(line: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """A row of the harness's table as the record keeps it, with every step's seconds."""
    row = {**parse(line["config"]), **{name: line[key] for key, name in KEPT.items() if key in line}}
    if "error" in row:
        row["error"] = PATH.sub("...", row["error"].replace("no steps: see log_tail in runs", "no step was made"))
    steps = raw.get("raw", {}).get(line["config"], {}).get("wall_s")
    return row | ({"step_s": steps} if steps else {})


def skipped_rows(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each configuration that was not run, with the reason."""
    in_table = {line["config"] for line in raw["table"]}
    return [{**parse(run["name"]), "error": f"skipped: {run['skipped']}"} for run in raw.get("runs", [])
            if run.get("skipped") and run["name"] not in in_table]


def parse(config: str) -> dict[str, Any]:
    """What the harness's name of a configuration says: of, method, precision, variant and shipped."""
    def row(of: str, method: str, precision: str, *variants: str, workers: str = "") -> dict[str, Any]:
        return {"config": config, "of": of, "method": method, "precision": precision,
                "variant": ", ".join(filter(None, variants)), "shipped": workers == "ship"}
    words = ABOUT["variants"]
    if name := re.fullmatch(r"semi_(full|warm|all)_w(\w+)", config):
        return row("authors", "semi", "fp32", words[name[1]], workers=name[2])
    if name := re.fullmatch(r"usb_(fixmatch|daso)(?:_mu(\d+))?(_pretrain)?_w(\w+)", config):
        return row("usb", name[1], "fp32", words["mu"].format(name[2]) if name[2] else "",
                   words["pretrain"] if name[3] else "", workers=name[4])
    if name := re.fullmatch(r"bare_([a-z]+)_(fp32|bf16|strict)(?:_(.*))?", config):
        parts = (name[1], *(name[3] or "").split("_"), name[2])
        return row("bare", "bare", name[2].replace("strict", "fp32"), *(words[part] for part in parts if part in words))
    if name := re.fullmatch(r"ours_([a-z]+)(.*?)(?:_w\w+)?", config):
        return row("ours", name[1], "")
    return row(config, "", "")


if __name__ == "__main__":
    try:
        if len(sys.argv) != 3:
            raise BadInput("arguments", " ".join(sys.argv[1:]), "HARNESS.json results/speed/NAME.peers.json")
        print(ratios(publish(sys.argv[1], place(sys.argv[2]))).text)
    except BadInput as error:
        sys.exit(f"benchmarks.publish: {error}")
