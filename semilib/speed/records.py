"""Records of `semilib speed`, read; needs no torch. A record has machine, settings and a section for each question."""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from semilib.errors import BadInput

FOLDER = "results/speed"
PEERS = ".peers.json"           # ends the name of a run beside other implementations: see benchmarks/README.md
Record = dict[str, Any]
Rows = list[dict[str, Any]]


def load(folder: str | Path = FOLDER) -> dict[str, Record]:
    """The records of a folder by name; none where there is no such folder. Raises BadInput for a file that is no
    record."""
    return {file.stem: read(file) for file in sorted(Path(folder).glob("*.json")) if not file.name.endswith(PEERS)}


def read(file: Path, *sections: str) -> Record:
    """One record. Raises BadInput if it lacks machine, settings or one of the sections."""
    record = json.loads(file.read_text(encoding="utf-8"))
    wanted = ["machine", "settings", *sections]
    if not isinstance(record, dict) or not record.keys() >= set(wanted):
        raise BadInput("record", file.name, f"a record of speed, which has {', '.join(wanted)}")
    return record


def rows_of(record: Record, section: str) -> Rows:
    """The rows of a section; none where it was not measured."""
    return record.get(section, {}).get("rows", [])


# ---- the machine in words --------------------------------------------------------------------------------------------


def is_gpu(record: Record) -> bool:
    return record["machine"]["device"] != "cpu"


def cpu_name(facts: dict[str, Any]) -> str:
    """Model and cores: AMD EPYC, 2 cores."""
    model = " ".join(re.sub(r"\((?:R|TM|r|tm)\)|\bCPU\b|\bProcessor\b|@.*", " ", facts["cpu"]).split())
    return f"{model or 'CPU'}, {counted(facts['cores'], 'core')}"


def slug(facts: dict[str, Any]) -> str:
    """A machine's name for a file: nvidia-h200, cpu-amd-epyc-2-cores. facts: `measure.machine(...)`."""
    name = facts["device"] if facts["device"] != "cpu" else f"cpu {cpu_name(facts).removeprefix('CPU')}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def where(record: Record) -> str:
    """Machine and date, as every title has them."""
    facts = record["machine"]
    threads = facts.get("threads") or facts["cores"]
    used = f" ({counted(threads, 'thread')})" if threads != facts["cores"] else ""
    return f"{facts['device'] if is_gpu(record) else cpu_name(facts) + used}, {facts['date']}"


def versions(record: Record) -> str:
    facts = record["machine"]
    written = {"torch": "PyTorch", "python": "Python", "cuda": "CUDA", "cudnn": "cuDNN"}
    units = f"; CPU units {', '.join(facts['cpu_units'])}" if facts.get("cpu_units") else ""
    return ", ".join(f"{name} {facts[key]}" for key, name in written.items() if facts.get(key)) + units


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
