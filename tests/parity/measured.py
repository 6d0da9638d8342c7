"""Prints the largest difference of each parity test, and the widest tolerance that it is allowed. Run by hand:

    python tests/parity/measured.py                all methods
    python tests/parity/measured.py acr semi       these alone

docs/parity.md holds these numbers. The exit status is that of pytest.
"""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LINE = re.compile(r"(?:ok |BAD) (.{28}) (\S+) \(tolerance (\S+)\)")


def main(methods: list[str]) -> int:
    worst = 0
    for name in methods or sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py")):
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rP", f"tests/parity/test_{name}.py"],
                              cwd=HERE.parent.parent, capture_output=True, text=True)
        rows = [(float(gap), float(allowed), what.strip()) for what, gap, allowed in LINE.findall(done.stdout)]
        worst = max(worst, done.returncode)
        if rows:
            gap, _, what = max(rows)
            print(f"{name:12s} {gap:8.1e}  {what:28s} widest tolerance {max(row[1] for row in rows):g}", flush=True)
        else:
            print(f"{name:12s} {done.stdout}{done.stderr}")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
