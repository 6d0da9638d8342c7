"""Fixtures of all tests."""
from __future__ import annotations

import dataclasses
import gc

import pytest
import torch
from kit import DATA

from semilib.data import sources


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Batches this small gain little from a second thread,
    and where other work fills the cores the two wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def embedded():
    """The embedded data set."""
    return sources.load("mnistm5k", DATA)


@pytest.fixture(scope="session")
def source(embedded):
    """The embedded data set at half its side, for steps whose numbers are compared with one another:
    they take half the time."""
    def halved(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images.double(), 2).round().to(torch.uint8)
    return dataclasses.replace(embedded, images=halved(embedded.images), test_images=halved(embedded.test_images))


# The files that take the longest, longest first: two processes that share out the files then end together.
LONGEST = ("tables.ipynb", "test_engine.py", "test_step_guard.py", "runs.ipynb", "test_smoke.py", "test_clusters.py",
           "test_sweep.py", "test_jupyterlab.py", "test_docs.py", "test_store.py", "test_feature_batches.py",
           "test_trained.py", "test_figures.py", "test_cli.py", "test_measure.py", "test_extremes.py")


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


def pytest_collection_finish():
    """What exists by now stays to the end: a search for garbage, as each run ends with, need not look through it."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption("--regenerate", action="store_true",
                     help="write the golden steps anew; read them before committing")
