"""Fixtures of all tests."""
from __future__ import annotations

import pytest
import torch
from kit import DATA

from semilib.data import sources


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
    return sources.load("mnistm5k", DATA)


def pytest_addoption(parser):
    parser.addoption("--regenerate", action="store_true", help="write the golden steps anew; read them before committing")
