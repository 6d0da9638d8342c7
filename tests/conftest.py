"""Shared by the tests: the embedded data, built once, and runs of a few seconds on it."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
DATA = str(ROOT / "data")

# Options under which every component of a method acts within a smoke run, whose network is still unsure of everything.
ACTIVE = {
    "supervised": {},
    "la": {},
    "fixmatch": {"threshold": 0.12},
    "remixmatch": {},
    "flexmatch": {"threshold": 0.3, "threshold_warmup": False},
    "freematch": {"momentum": 0.5},
    "softmatch": {"momentum": 0.8},
    "darp": {"threshold": 0.12, "warmup": 4},
    "crest": {"threshold": 0.12, "generations": 4},
    "crestplus": {"threshold": 0.12, "generations": 4},
    "abc": {"threshold": 0.12},
    "saw": {"threshold": 0.12},
    "adsh": {"threshold": 0.25, "epoch": 2},
    "daso": {"threshold": 0.12},
    "cossl": {"threshold": 0.12, "represent": 2, "fit": 40},
    "debiaspl": {"threshold": 0.12},
    "rda": {},
    "tras": {"threshold": 0.12},
    "acr": {"threshold": 0.12},
    "cpe": {"threshold": 0.12},
    "cdmad": {},
    "simpro": {"threshold": 0.12},
    "seval": {"threshold": 0.12},
    "semi": {"threshold": 0.2, "slots": 8},
}


def smoke_run(method: str = "fixmatch", **changes):
    from semilib.config import Run
    from semilib.methods import get
    ignored = get(method, changes.get("base", "")).Config.ignored
    options = {**{k: v for k, v in ACTIVE.get(method, {}).items() if k not in ignored}, **changes.pop("options", {})}
    return Run.of(method=method, profile="smoke", root=DATA, options=options, keep_seconds=0.0, **changes)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Batches this small gain little from a second thread, and where other work fills the cores the two wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def source():
    """The embedded data set."""
    from semilib import sources
    return sources.load("mnistm5k", DATA)


def pytest_addoption(parser):
    parser.addoption("--regenerate", action="store_true", help="write the golden steps anew; read them before committing")
