#!/usr/bin/env python3
"""All that only a CUDA device can show, in one go: tests, speed, the same work beside the published scripts, and
whether the fast paths learn what the plain one does.

python3 .ci/gpu.py OUT --peers BUNDLE                          # everything, at most 14 minutes, most of it compiling
python3 .ci/gpu.py OUT --peers BUNDLE --only tests,speed       # in parts; what was compiled is found again python3
.ci/gpu.py OUT --peers BUNDLE --device cpu --tiny      # a rehearsal

BUNDLE is what the peers' harness makes: its bench.py, the patched peers, and `pack`, the part of CIFAR-10 that the cell
uses (`benchmarks/cifar_part.py`). Each part is a process of its own with a limit, so one that fails or hangs loses
nothing else. OUT gets at most eight files: summary.json, the log and the result of each part. Needs torch, torchvision,
numpy, Pillow, pytest, and what the peers need; no network.
"""
from __future__ import annotations

import argparse
import json
import os
import shlex
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
    parser.add_argument("out", type=lambda path: Path(path).resolve())
    parser.add_argument("--peers", type=lambda path: Path(path).resolve(), metavar="BUNDLE")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes: shows that every part runs")
    parser.add_argument("--inside", choices=("speed", "learn"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.inside:
        return {"speed": speed, "learn": learn}[args.inside](args)
    wanted = args.only.split(",")
    for name in wanted:
        if name not in PARTS:
            parser.error(f"--only {name}: one of {', '.join(PARTS)}")
    if not args.peers and {"peers", "learn"} & set(wanted):
        parser.error("--peers BUNDLE is needed for the parts peers and learn")
    summary, environment = {}, {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    for name in wanted:
        began = time.time()
        with open(args.out / f"{name}.log", "w") as log:
            try:
                code = subprocess.run(command(name, args), cwd=ROOT, env=environment, timeout=LIMITS[name],
                                      stdout=log, stderr=subprocess.STDOUT).returncode
            except subprocess.TimeoutExpired:
                code = f"stopped after {LIMITS[name]} s"
        summary[name] = {"code": code, "seconds": round(time.time() - began, 1)}
        (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(f"{name}: {code}, {summary[name]['seconds']} s", flush=True)
        lines = (args.out / f"{name}.log").read_text(errors="replace").splitlines()[-25:]
        print("".join(f"    {line}\n" for line in lines), flush=True)
    return int(any(part["code"] for part in summary.values()))


def command(name: str, args: argparse.Namespace) -> list[str]:
    """The command of a part."""
    me, device = sys.executable, args.device
    if name == "tests":
        files = ["tests/training/test_cuda.py", "tests/benchmarks/test_stacked.py", "tests/data/test_rng.py",
                 *([] if args.tiny else ["tests/data/test_augment.py"])]
        return [me, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-x" if args.tiny else "--maxfail=25",
                "--durations=5", *(["-n", "4"] if device == "cuda" else []), *files]
    if name == "peers":
        pack = args.peers / "pack"
        usb = "--option strong_views=1"                                  # USB's FixMatch and DASO see one strong view
        ours = {"ours_semi": "", "ours_semi_fp32": "--precision fp32", "ours_fixmatch": f"--method fixmatch {usb}",
                "ours_daso": f"--method daso {usb}", "ours_fixmatch_fp32": f"--method fixmatch {usb} --precision fp32"}
        rest = (f"--pack {shlex.quote(str(pack))} --device {{device}} --steps {{steps}} --warmup {{warmup}} "
                "--max-seconds {max_seconds}" + (" --profile smoke" if args.tiny else ""))
        more = (["--steps", "2", "--warmup", "1", "--only", "ours_semi$|^semi_full_wship"] if args.tiny
                else ["--budget", str(LIMITS["peers"] - 10), "--workers", "0,4,8"])
        adapters = [word for key, flags in ours.items()
                    for word in ("--adapter", f"{key}={{python}} -m benchmarks.adapter {flags} {rest}")]
        return [me, str(args.peers / "bench.py"), "--device", device, "--src", str(args.peers), "--pack", str(pack),
                "--out", str(args.out / "peers.json"), *more, *adapters]
    flags = [*(["--peers", str(args.peers)] if args.peers else []), *(["--tiny"] if args.tiny else [])]
    return [me, __file__, str(args.out), "--inside", name, "--device", device, *flags]


def speed(args: argparse.Namespace) -> int:
    from benchmarks import stacked
    from semilib.speed.measure import Settings, measure
    if args.tiny:
        settings = Settings(device=args.device, profile="smoke", growth_profile="smoke", steps=2, largest=10_000,
                            whole_steps=4, most_runs=2)
    else:                                                        # whole before steps: its start-up is then a cold one
        settings = Settings(device=args.device, precisions="bf16", steps=10, window=20, largest=1_000_000,
                            whole_steps=2000, most_runs=8, sections="limits+whole+steps+parts+growth+sharing")
    out = args.out / "speed.json"
    measure(settings, out, lambda text: print(text, flush=True))
    stacked.main([str(out)])
    return 0


def learn(args: argparse.Namespace) -> int:
    """SeMi on CIFAR-10-LT, three seeds, plain and fast; the records as one archive."""
    from benchmarks.cifar_part import read_pack
    from semilib.training import record
    from semilib.training.config import Run
    from semilib.training.train import train
    with tempfile.TemporaryDirectory() as folder:
        source, runs = read_pack(args.peers / "pack"), Path(folder)
        scale = dict(profile="smoke") if args.tiny else dict(profile="short", steps=2000, eval_every=200)
        for variant in VARIANTS[args.device]:
            precision, capture = variant.split("/")
            for seed in range(1 if args.tiny else 3):
                run = Run.of("cifar10", "semi", seed=seed, device=args.device, precision=precision, capture=capture,
                             **scale)
                try:
                    done = record.read(train(run, folder=runs / f"{precision}-{capture}-s{seed}", source=source))
                    print(variant, seed, f"{done['result']['last']:.4f}", f"{done['seconds']:.1f} s", flush=True)
                except Exception as error:                                   # the others are still wanted
                    print(variant, seed, f"{type(error).__name__}: {error}", flush=True)
        with tarfile.open(args.out / "learn.tgz", "w:gz") as archive:
            for file in sorted(runs.glob("*/*.json*")):
                archive.add(file, file.relative_to(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
