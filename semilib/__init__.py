"""Class-imbalanced semi-supervised learning in one engine: the SeMi study.

    from semilib import Run, collect, sweep, train
    folder = train(Run.of("cifar10", "semi", n1=1500, m1=3000, gamma_l=100))
    runs = Run.grid(method=["semi", "acr"], seed=range(5), **{"semi.alpha": [0.2, 0.4]})
    sweep(runs, slots=2)
    collect(runs, by=["method", "semi.alpha"])          # a pandas frame

Importing this package is cheap; the names below are loaded when they are first used.
"""
from __future__ import annotations

import importlib
import os

# Threads that wait for each other spin a little, then sleep (read by GNU OpenMP when torch is loaded). A step of the
# quickstart on two cores takes 56 ms alone. Beside a second training process it takes 520 ms without this, 150 with it.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"
_HOMES = {"Run": "training.config", "train": "training.train", "Trainer": "training.engine", "METHODS": "methods",
          "Method": "methods.base", "BadInput": "errors", "sweep": "study.sweep", "collect": "report.collecting"}
_MODULES = {"trained": "training.trained"}
__all__ = ["METHODS", "BadInput", "Method", "Run", "Trainer", "collect", "sweep", "train"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"semilib.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"semilib.{_MODULES[name]}")
    raise AttributeError(f"module 'semilib' has no attribute {name!r}")
