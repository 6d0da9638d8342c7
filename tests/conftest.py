"""Fixtures of all tests."""
from __future__ import annotations

import dataclasses
import functools
import gc
import os
import sys

import pytest
import torch
from kit import DATA, REAL, Small, views_once

from semilib.data import sources
from semilib.data.batches import Data
from semilib.training import compiling, engine

os.environ["OMP_NUM_THREADS"] = "1"         # of the processes that tests start, whose numbers are compared with ours


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


@pytest.fixture
def small(monkeypatch):
    """Every network has a backbone that takes no time."""
    monkeypatch.setattr(engine, "backbone_of", lambda *args: Small())


@pytest.fixture
def backbone(request):
    """For a test of each `variant`: its own backbone where that is used in a way of its own, else a small one."""
    if request.node.callspec.params["variant"] not in REAL:
        request.getfixturevalue("small")


@pytest.fixture
def kept_views(monkeypatch):
    """Methods share their views; what views are is tested elsewhere."""
    monkeypatch.setattr(Data, "views", views_once)


class Tracer:
    """A backend that generates no code and counts the graphs that were made, and their runs."""

    def __init__(self):
        self.made = self.ran = 0

    def __call__(self, graph, inputs):
        self.made += 1

        def run(*given):
            self.ran += 1
            return graph(*given)
        return run


@pytest.fixture
def tracer(monkeypatch):
    """Also on a PyTorch that compiles for CUDA alone: what its CPU code gets wrong is in its code generation."""
    monkeypatch.setitem(compiling.SINCE, "cpu", compiling.SINCE["cuda"])
    if not compiling.can_compile(torch.device("cpu")):
        pytest.skip("this PyTorch cannot trace every method")
    monkeypatch.setattr(compiling, "BACKEND", Tracer())
    yield compiling.BACKEND
    torch._dynamo.reset()


# The files that take the longest, longest first: two processes that share out the files then end together.
LONGEST = ("test_engine.py", "test_clusters.py", "test_step_guard.py", "tables.ipynb", "test_sweep.py", "test_smoke.py",
           "test_jupyterlab.py", "test_docs.py", "runs.ipynb", "test_feature_batches.py", "test_cli.py",
           "test_fingerprint.py", "test_developer.py", "test_trained.py", "test_extremes.py", "test_figures.py",
           "test_store.py", "test_measure.py", "test_semi.py", "test_recipes.py")


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@functools.cache
def keep(what: str) -> None:
    """What exists by now stays to the end: a search for garbage, as each run ends with, need not look through it."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    keep("the tests")


def pytest_runtest_setup():
    if "torch._dynamo" in sys.modules:                             # since the first run, and as large
        keep("PyTorch's compiler")


def pytest_addoption(parser):
    parser.addoption("--regenerate", action="store_true",
                     help="write the golden steps anew; read them before committing")
