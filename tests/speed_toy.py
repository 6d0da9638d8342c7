"""Records of speed with made-up figures, for the tests: one of ours, and the JSON that the harness of the peers
writes."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from semilib.speed.tables import BANK, WHOLE

FACTS = {"cpu": "Some(R) CPU Model Processor @ 2.00GHz", "cores": 2, "threads": 2, "python": "3.11", "torch": "2.14",
         "date": "2026-12-01", "cpu_units": ["avx2", "amx_bf16"]}


def record(device: str = "cpu", profile: str = "paper", **changes: float) -> dict[str, Any]:
    """A record of ours with every section; times in seconds. changes: of single figures."""
    at = {"semi": 0.010, "bare": 0.009, "bank": 0.0004, "whole": 0.010, "run": 1000.0, "runs": 105.0, "stacked": 150.0,
          "import": 0.1, **changes}

    def section(*rows: dict) -> dict:
        timed = [{"min_s": 0.9 * r["median_s"], "windows": 3, "window": 1, **r} if "median_s" in r else r for r in rows]
        return {"rows": timed, "seconds": 1.0, "code": "a" * 40}
    gpu = device != "cpu"
    how = {"precision": "bf16", "capture": "auto"} if gpu else {"precision": "fp32", "capture": "off"}
    step = {"images": 256, "network": "wrn-28-2", **how}
    part = {"capture": "compile", "kernels": 5} if gpu else {"capture": "off", "operators": 40}
    grown = {"method": "semi", "images": 64, "network": "wrn-10-0.5", "median_s": 0.004, "bank_s": 0.0001}
    curves = ("classes", "slots", "unlabelled images, resident", "unlabelled images, memory-mapped")
    return {
        "machine": {**FACTS, "device": device}, "settings": {"profile": profile, "growth_profile": "quickstart"},
        "imports": section({"what": "import torch", "s": 1.5},
                           {"what": "import semilib, beyond torch", "s": at["import"]}),
        "limits": section({"what": "copy", "GB_s": 17.0, "note": "128 MiB"},
                          {"what": "matrix product, fp32", "TFLOP_s": 0.1, "note": "n x n"},
                          {"what": "SeMi's step on paper, fp32", "TFLOP": 0.1, "GB": 3.0, "at_matrix_rate_s": 1.0,
                           "at_copy_rate_s": 0.2}),
        "steps": section(*({"method": method, "median_s": at[method], **step} for method in ("bare", "semi"))),
        "parts": section(*({"part": name, "median_s": s, **part} for name, s in (
            ("views", 0.001), ("network, losses, backward", 0.008), ("optimiser", 0.0001),
            ("average, state, measurements", 0.0005), (BANK, at["bank"]), (WHOLE, at["whole"])))),
        "whole": section({"what": "a step", "s": 0.01}, {"what": "peak memory", "MiB": 900.0},
                         {"what": "250,000 steps and 500 evaluations, worked out from these", "s": at["run"]}),
        "growth": section(*({"curve": curve, "value": n, **grown} for curve in curves for n in (10_000, 100_000)),
                          {**grown, "curve": "views", "value": 1, "method": "supervised"},
                          {**grown, "curve": "views", "value": 4}),
        "sharing": section(*({"how": name, "runs": n, "median_s": n / rate, "steps_a_second": rate}
                             for name, best in (("runs in one process", at["runs"]),
                                                ("bare networks stacked into one", at["stacked"]))
                             for n, rate in ((1, 100.0), (8, best))))}


def harness(gpu: str = "", **ours: float) -> dict[str, Any]:
    """The JSON of a run of peers. ours: config -> seconds a step, beside what every run has; precision by the config's
    name."""
    times = {"bare_eager_fp32": 0.05, "semi_full_wship": 0.130, "semi_full_w8": 0.105, "semi_warm_wship": 0.09,
             "usb_fixmatch_wship": 0.100, "usb_fixmatch_w2": 0.060, "usb_fixmatch_mu2_wship": 0.2,
             "usb_daso_wship": 0.110, "usb_daso_pretrain_wship": 0.08, "ours_semi": 0.010, "ours_semi_fp32": 0.014,
             "ours_fixmatch": 0.008, "ours_daso": 0.009, **ours}
    table = []
    for config, s in times.items():
        line = {"config": config, "wall_s_median": s, "wall_s_min": 0.9 * s, "wall_s_mean": 1.1 * s, "steps": 3,
                "images_forward": 256, "images_backward": 256, "torch": "2.14", "python": "3.11", "threads": 2,
                "startup_s": 5.0, "flags": "--out /tmp/peer_x/out"}
        if config.startswith("ours"):
            bf16 = "bf16" in config or (gpu and "fp32" not in config)
            line |= {"precision": "bf16" if bf16 else "fp32", "capture": "compile+graph" if gpu else "off",
                     "cpu_units": FACTS["cpu_units"]}
        elif not config.startswith("bare"):
            line |= {"workers": "4 + 4"}
        elif gpu:
            line |= {"gpu": gpu}
        table.append(line)
    table.append({"config": "bare_graph_fp32_cl", "error": "RuntimeError: no /usr/lib/some/lib.so here"})
    return {"began": "2026-12-02 10:00:00", "device": "cuda" if gpu else "cpu", "steps": 3, "warmup": 1, "rounds": 1,
            "cpus": 2, "argv": ["--src", "/tmp/bundle"], "src": "/tmp/bundle", "cpu_model": FACTS["cpu"],
            "seconds": 9.0, "table": table,
            "aug": [{"config": "aug_semi", "labelled_views": 1, "labelled_cpu_ms_per_view_min": 0.2,
                     "where": "/tmp/x/y"}],
            "raw": {config: {"wall_s": [s, 1.1 * s, 0.9 * s]} for config, s in times.items()},
            "runs": [{"name": "semi_full_wship", "cmd": "/tmp/v/bin/python /tmp/bundle/run.py",
                      "log_tail": "Traceback in /home/x/y.py"},
                     {"name": "semi_full_w16", "cmd": "x", "skipped": "budget of 470 s"}]}


def published(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """What is published of a run of peers, as folder/NAME.peers.json."""
    from benchmarks.publish import publish
    (folder / "harness.txt").write_text(json.dumps(harness(**changes)))
    return publish(folder / "harness.txt", folder / f"{name}.peers.json")
