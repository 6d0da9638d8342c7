#!/usr/bin/env python3
"""All that only a CUDA device can show, in one go: tests, speed, the same work beside the published scripts, and whether the fast paths
learn what the plain one does.

    python3 .ci/gpu.py OUT --peers BUNDLE                          # everything, at most 14 minutes, most of it compiling
    python3 .ci/gpu.py OUT --peers BUNDLE --only tests,speed       # in parts; what is compiled is found again while the machine lives
    python3 .ci/gpu.py OUT --peers BUNDLE --device cpu --tiny      # a rehearsal

BUNDLE is what the peers' harness makes: its bench.py and pack.py, the patched peers, and the part of CIFAR-10 that the cell uses. Each
part is a process of its own with a limit, so one that fails or hangs loses nothing else. OUT gets at most eight files: summary.json, the
log and the result of each part. Needs torch, torchvision, numpy, Pillow, pytest, and what the peers need; no network.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PARTS = ("tests", "speed", "peers", "learn")
LIMITS = {"tests": 150, "speed": 270, "peers": 250, "learn": 170}                   # seconds
VARIANTS = {"cuda": ("fp32/off", "fp32/auto", "bf16/auto"), "cpu": ("fp32/off", "bf16/off")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes: shows that every part runs")
    parser.add_argument("--inside", choices=("speed", "learn"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.inside:
        return {"speed": speed, "learn": learn}[given.inside](given)
    wanted = given.only.split(",")
    for name in wanted:
        if name not in PARTS:
            parser.error(f"--only {name}: one of {', '.join(PARTS)}")
    if not given.peers and {"peers", "learn"} & set(wanted):
        parser.error("--peers BUNDLE is needed for the parts peers and learn")
    summary = {}
    for name in wanted:
        began = time.time()
        with open(given.out / f"{name}.log", "w") as log:
            try:
                code = subprocess.run(command(name, given), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=LIMITS[name],
                                      env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}).returncode
            except subprocess.TimeoutExpired:
                code = f"stopped after {LIMITS[name]} s"
        summary[name] = {"code": code, "seconds": round(time.time() - began, 1)}
        (given.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(f"{name}: {code}, {summary[name]['seconds']} s", flush=True)
        print("".join(f"    {line}\n" for line in (given.out / f"{name}.log").read_text(errors="replace").splitlines()[-25:]), flush=True)
    return int(any(part["code"] for part in summary.values()))


def command(name: str, given: argparse.Namespace) -> list[str]:
    """The command of a part."""
    me, device = sys.executable, given.device
    if name == "tests":
        return [me, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x" if given.tiny else "--maxfail=25", "--durations=5",
                *(["-n", "4"] if device == "cuda" else []), "tests/test_cuda.py", *(["tests/test_rng.py"] if given.tiny else
                                                                                  ["tests/test_rng.py", "tests/test_augment.py"])]
    if name == "peers":
        usb = "--option strong_views=1"                                                 # USB's FixMatch and DASO see one strong view
        ours = {"ours_semi": "", "ours_semi_fp32": "--precision fp32", "ours_fixmatch": f"--method fixmatch {usb}",
                "ours_daso": f"--method daso {usb}", "ours_fixmatch_fp32": f"--method fixmatch {usb} --precision fp32"}
        rest = ("--device {device} --data {data} --steps {steps} --warmup {warmup} --max-seconds {max_seconds}"
                + (" --profile smoke" if given.tiny else ""))
        more = (["--steps", "2", "--warmup", "1", "--only", "ours_semi$|^semi_full_wship"] if given.tiny
                else ["--budget", str(LIMITS["peers"] - 10), "--workers", "0,4,8"])
        return [me, str(given.peers / "bench.py"), "--device", device, "--src", str(given.peers), "--pack", str(given.peers / "pack"),
                "--out", str(given.out / "peers.json"), *more,
                *(x for key, flags in ours.items() for x in ("--adapter", f"{key}={{python}} -m semilib.speed.adapter {flags} {rest}"))]
    flags = [*(["--peers", str(given.peers)] if given.peers else []), *(["--tiny"] if given.tiny else [])]
    return [me, __file__, str(given.out), "--inside", name, "--device", device, *flags]


def speed(given: argparse.Namespace) -> int:
    from semilib.speed.measure import Settings, measure
    if given.tiny:
        settings = Settings(device=given.device, profile="smoke", growth_profile="smoke", steps=2, largest=10_000, whole_steps=4,
                            most_runs=2)
    else:
        settings = Settings(device=given.device, precisions="bf16", steps=10, window=20, largest=1_000_000, whole_steps=2000, most_runs=8,
                            sections="limits+whole+steps+parts+growth+sharing")     # whole first: its start-up is then a cold one
    measure(settings, given.out / "speed.json", lambda text: print(text, flush=True))
    return 0


def learn(given: argparse.Namespace) -> int:
    """SeMi on CIFAR-10-LT, three seeds, plain and fast; the records as one archive."""
    from semilib.speed.adapter import part_of_cifar10
    from semilib.training import record
    from semilib.training.config import Run
    from semilib.training.train import train
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(given.peers / "pack.py"), "unpack", str(given.peers / "pack"), folder], check=True)
        source = part_of_cifar10(folder)
        scale = dict(profile="smoke") if given.tiny else dict(profile="short", steps=2000, eval_every=200)
        runs = Path(folder) / "runs"
        for variant in VARIANTS[given.device]:
            precision, capture = variant.split("/")
            for seed in range(1 if given.tiny else 3):
                run = Run.of("cifar10", "semi", seed=seed, device=given.device, precision=precision, capture=capture, **scale)
                try:
                    found = record.read(train(run, folder=runs / f"{precision}-{capture}-s{seed}", source=source))
                    print(variant, seed, f"{found['result']['last']:.4f}", f"{found['seconds']:.1f} s", flush=True)
                except Exception as error:                                   # the others are still wanted
                    print(variant, seed, f"{type(error).__name__}: {error}", flush=True)
        with tarfile.open(given.out / "learn.tgz", "w:gz") as archive:
            for file in sorted(runs.glob("*/*.json*")):
                archive.add(file, file.relative_to(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
