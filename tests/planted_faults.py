"""Plants a fault of one line in each method, one at a time, and shows which test sees it. Run by hand:

    python tests/planted_faults.py                 all methods
    python tests/planted_faults.py acr semi        these alone
    python tests/planted_faults.py --quick         the first test file of each: its parity test, where it has one

The faults go into a copy of the tree. A fault is red if a test of its method fails with it and passes without it.
The first such test is named. The exit status is 1 if a fault stays GREEN: the tests have a hole, or it changes nothing.
"""
from __future__ import annotations

import argparse
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from semilib import methods  # noqa: E402


class Fault(NamedTuple):
    """`fragment` stands exactly once in the file of the method's class."""

    fragment: str
    replacement: str


FAULTS = {
    "supervised": Fault('v.l["head"]', 'v.l["head"].softmax(-1)'),
    "la": Fault("+ self.log_prior", "- self.log_prior"),
    "fixmatch": Fault("confidence >= self.cfg.threshold", "confidence > self.cfg.threshold"),
    "remixmatch": Fault("torch.maximum(share, 1 - share)", "torch.minimum(share, 1 - share)"),
    "flexmatch": Fault("* beta / (2 - beta)", "* beta"),
    "freematch": Fault("self.tau * self.mean / self.mean.max()", "self.tau * self.mean"),
    "softmatch": Fault("c.var()", "c.var(correction=0)"),
    "darp": Fault("@ true / true.sum(0)", "@ true / true.sum()"),
    "crest": Fault("** (1 / alpha)", "** alpha"),
    "crestplus": Fault("g / (self.generations - 1)", "g / self.generations"),
    "abc": Fault("1 - t.progress * (1 - self.rates)", "1 - t.progress * self.rates"),
    "saw": Fault("n = d.mean()", "n = d.sum()"),
    "adsh": Fault("size * rho - 1", "size * rho"),
    "daso": Fault("** (1 / self.cfg.t_dist)", "** self.cfg.t_dist"),
    "cossl": Fault("(counts.max() - counts) / counts.max()", "(counts.max() - counts) / counts.sum()"),
    "debiaspl": Fault("z - self.cfg.tau * self.log_q()", "z - self.cfg.tau * self.q"),
    "rda": Fault("(1 - rows).sum(0)", "1 - rows.sum(0)"),
    "tras": Fault("(-self.la).softmax(-1)", "self.la.softmax(-1)"),
    "acr": Fault("(u / anchors).log()).sum(-1) / 2", "(u / anchors).log()).sum(-1)"),
    "cpe": Fault(">= self.first", "> self.first"),
    "cdmad": Fault("- t.since(self.start) *", "+ t.since(self.start) *"),
    "simpro": Fault("d_u / (d_u.sum() + 1)", "d_u / d_u.sum().clamp(min=1)"),
    "seval": Fault("- self.pi.log()", "- self.pi"),
    "bacon": Fault("* (1 - t.progress) ** 2 *", "* (1 - t.progress) *"),
    "adello": Fault("(1 - self.cfg.alpha_min) * t.progress", "self.cfg.alpha_min * t.progress"),
    "decon": Fault("self.confidence / self.agreement", "self.agreement / self.confidence"),
    "ccl": Fault("(y.sum(0) - y[c:])", "y.sum(0)"),
    "metaexpert": Fault("most(~half) > 2 * least(half)", "most(~half) > least(half)"),
    "cpg": Fault("self.cfg.smoothing / (self.info.classes - 1)", "self.cfg.smoothing / self.info.classes"),
    "farad": Fault("z.abs().mean(0)", "z.mean(0).abs()"),
    "scssl": Fault("(c - 3) / 5", "(c - 4) / 5"),
    "proportion": Fault("/ self.cfg.proportion_t", "* self.cfg.proportion_t"),
    "dytrim": Fault("1 - share.double()", "share.double()"),
    "scad": Fault("torch.where(own, beta, 1.0)", "torch.where(own, 1.0, beta)"),
    "sage": Fault("-2 * below.square()", "-below.square()"),
    "semi": Fault("(weak - self.qbar) / (self.t_e / 5)", "(weak - self.qbar) / self.t_e"),
}
SHARED = {"supervised": "losses", "fixmatch": "losses"}                         # methods without an own test file
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "data", "runs", "build", "results", "figures", "__pycache__",
                                  ".*_cache")


def test_files(method: str) -> list[Path]:
    """The method's test files, relative to the tree, the parity test first."""
    files = (ROOT / "tests").rglob(f"test_{SHARED.get(method, method)}.py")
    return sorted((path.relative_to(ROOT) for path in files), key=lambda path: path.parent.name != "parity")


def source(method: str) -> Path:
    """The file that holds the method's arithmetic, relative to the tree:
    that of its class, and SeMi's paper for SeMi."""
    if method == "semi":
        return Path("semilib/methods/semi.py")
    return Path(inspect.getsourcefile(methods.get(method))).resolve().relative_to(ROOT)


def first_failure(tree: Path, tests: list[str]) -> str:
    """The first test that fails in this tree, or ""."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-rf", "--tb=no", "-p", "no:cacheprovider", *tests],
                          cwd=tree, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    failed = [line.removeprefix("FAILED ").partition(" - ")[0] for line in lines]
    if done.returncode not in (0, 1) or bool(failed) != bool(done.returncode):
        sys.exit(f"pytest {' '.join(tests)}:\n{done.stdout}{done.stderr}")
    return failed[0] if failed else ""


def try_fault(method: str, fault: Fault, tree: Path, quick: bool) -> bool:
    """Whether a test sees the fault; prints the row."""
    file, files = tree / source(method), [str(path) for path in test_files(method)[:1 if quick else None]]
    right = file.read_text(encoding="utf-8")
    if right.count(fault.fragment) != 1:
        sys.exit(f"{method}: {fault.fragment!r} stands {right.count(fault.fragment)} times in {file.name}, not once")
    if not files:
        sys.exit(f"{method}: no test file; name one in SHARED")
    start = time.perf_counter()
    file.write_text(right.replace(fault.fragment, fault.replacement), encoding="utf-8")
    test = first_failure(tree, files)
    file.write_text(right, encoding="utf-8")
    if test and first_failure(tree, [test]):
        sys.exit(f"{method}: {test} fails without the fault too")
    print(f"{method:11s} {'red  ' if test else 'GREEN'} {time.perf_counter() - start:4.0f} s  "
          f"{fault.fragment}  ->  {fault.replacement}  {test or ' '.join(files)}", flush=True)
    return bool(test)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help="run only the first of each method's test files")
    asked = parser.parse_args()
    if left_out := methods.METHODS.keys() - FAULTS.keys():
        print(f"no fault is written down for {', '.join(sorted(left_out))}")
    if unknown := set(asked.methods) - FAULTS.keys():
        parser.error(f"no such method: {', '.join(sorted(unknown))}")
    names = asked.methods or list(FAULTS)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        red = sum(try_fault(name, FAULTS[name], tree, asked.quick) for name in names)
    print(f"{red} of {len(names)} faults seen")
    return int(red < len(names))


if __name__ == "__main__":
    sys.exit(main())
