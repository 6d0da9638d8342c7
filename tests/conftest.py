"""Shared by the tests: the embedded data, built once, and runs of a few seconds on it."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
DATA = str(ROOT / "data")


def smoke_run(method: str = "fixmatch", **changes):
    """A run of seconds, in which every component of the method acts."""
    from semilib.training.config import Run
    return Run.of("mnistm5k", method, profile="smoke", root=DATA, **changes)


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
    from semilib.data import sources
    return sources.load("mnistm5k", DATA)


def pytest_addoption(parser):
    parser.addoption("--regenerate", action="store_true", help="write the golden steps anew; read them before committing")
