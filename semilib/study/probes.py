"""Baselines by scikit-learn on the labelled images' stored features: what the unlabelled images have to improve on.

    measure(grids.grid("table1", "features").runs)      # results/features/probes.csv, what is there already stays
    rows(grid.entries[0].runs)                          # their rows beside the runs of a cell

Plain features, standardised by the labelled images alone. The strength of the penalty and the number of neighbours are
the best on the tuning cell's held-out images (`semilib.study.tuning`), whose labels are used for nothing else.
"""
from __future__ import annotations

import functools
import io
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from semilib import files
from semilib.data import sources
from semilib.data.batches import split_of
from semilib.errors import BadInput
from semilib.features.batches import statistics, stores
from semilib.files import write_text
from semilib.report.records import GROUPS, METRIC
from semilib.study.tuning import CELL
from semilib.training import metrics, record
from semilib.training.config import Run

FILE = Path("results/features/probes.csv")
TITLES = {"logistic": "logistic regression (scikit-learn)", "logistic-la": "logistic regression less log prior",
          "centroid": "nearest class mean", "knn": "k nearest neighbours"}
VALUES: dict[str, tuple[float, ...]] = {
    "logistic": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), "logistic-la": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "centroid": (0.0,), "knn": (1, 3, 5, 10, 20, 50)}
# What identifies a cell and a split: columns of the file.
CELL_FIELDS = ("dataset", "n1", "m1", "gamma_l", "gamma_u", "order", "split_seed", "encoder", "encoder_side")


def fit(probe: str, value: float, x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A probe trained on features [n, D] with labels [n]; it takes features to classes. value: the inverse strength of
    the L2 penalty of a logistic regression, the number of neighbours."""
    if probe == "centroid":
        from sklearn.neighbors import NearestCentroid
        return NearestCentroid().fit(x, y).predict
    if probe == "knn":
        from sklearn.neighbors import KNeighborsClassifier
        return KNeighborsClassifier(min(int(value), len(x))).fit(x, y).predict
    from sklearn.linear_model import LogisticRegression
    model = LogisticRegression(C=value, max_iter=2000).fit(x, y)
    if probe == "logistic":
        return model.predict
    prior = np.log(np.bincount(y, minlength=len(model.classes_)) / len(y))
    return lambda features: model.classes_[(model.predict_log_proba(features) - prior).argmax(1)]


@functools.cache
def chosen(probe: str, root: str) -> float:
    """The value that is best on the tuning cell's held-out images; the first of equals."""
    run = Run.of(method="supervised", profile="features", root=root, **CELL)
    data = _data(run)
    return max(VALUES[probe], key=lambda value: _scores(probe, value, *data)[METRIC])


def measure(runs: Iterable[Run], file: str | Path = FILE, note: Callable[[str], None] = print) -> Path:
    """Measure all probes in the cells and splits of runs, each once. Raises BadInput for a run without an encoder."""
    path = files.place(file)
    kept = _kept(path)
    for run in {tuple(getattr(run, name) for name in CELL_FIELDS): run for run in runs}.values():
        if run.encoder == "none":
            raise BadInput("encoder", "none", "an encoder: the probes read stored features")
        if _is_of(kept, run).any():
            continue
        found = pd.DataFrame(_measured(run))
        kept = pd.concat([kept, found], ignore_index=True).sort_values([*CELL_FIELDS, "probe"], kind="stable")
        text = io.StringIO()
        kept.to_csv(text, index=False)
        write_text(path, text.getvalue())
        note(f"{run.cell} split {run.split_seed}: " + ", ".join(
            f"{row.probe} {row.balanced_accuracy:.1%}" for row in found.itertuples()))
    return path


def rows(runs: Iterable[Run], file: str | Path = FILE) -> list[dict[str, Any]]:
    """The probes that were measured in the cells and splits of runs, as a table of the study holds its runs: row, seed,
    score (share) and so on, a row a probe and seed."""
    kept = _kept(files.place(file))
    runs = list(runs)
    return [{"row": title, "seed": run.seed, "split_seed": run.split_seed, "metric": METRIC, "state": "done",
             "score": one[METRIC], "rule": "one fit", "code": "",
             **{name: one[name] for name in (*GROUPS, "split", "commit")}}
            for probe, title in TITLES.items() for run in runs
            for one in kept[_is_of(kept, run)].to_dict("records") if one["probe"] == probe]


def _is_of(kept: pd.DataFrame, run: Run) -> pd.Series:
    """Which rows are of a run's cell and split."""
    return functools.reduce(operator.and_, (kept[name] == getattr(run, name) for name in CELL_FIELDS))


def _kept(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=[*CELL_FIELDS, "probe", "value", "balanced_accuracy", *GROUPS, "split", "commit",
                                     "sklearn"])
    return pd.read_csv(path, dtype={"split": str, "commit": str})


def _data(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Features and labels of the labelled images and of those evaluated, and the split's fingerprint."""
    source, split = split_of(sources.of(run), run)
    train, test = stores(source, run, torch.device("cpu"))
    labelled, every = torch.as_tensor(split.labelled), torch.arange(len(source.test_images))
    train.ensure({"none": 1}, labelled)
    test.ensure({"none": 1}, every)
    mean, std = (part.view(1, -1).numpy() for part in statistics(train, labelled))
    x, test_x = ((store.read("none", 0, index).numpy() - mean) / std for store, index in
                 ((train, labelled), (test, every)))
    return x, np.asarray(source.labels)[split.labelled], test_x, np.asarray(source.test_labels), split.fingerprint


def _scores(probe: str, value: float, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray,
            _: str) -> dict[str, Any]:
    classes = int(max(y.max(), test_y.max())) + 1
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (test_y, fit(probe, value, x, y)(test_x)), 1)
    return metrics.scores(confusion, np.bincount(y, minlength=classes).tolist())


def _measured(run: Run) -> Iterable[dict[str, Any]]:
    import sklearn
    data = _data(run)
    commit = (record.provenance(run)["commit"] or "")[:8]
    for probe in TITLES:
        value = chosen(probe, run.root)
        scores = _scores(probe, value, *data)
        yield {**{name: getattr(run, name) for name in CELL_FIELDS}, "probe": probe, "value": value,
               **pd.Series({name: scores[name] for name in (METRIC, *GROUPS)}, dtype=float).round(5),
               "split": data[-1][:8], "commit": commit, "sklearn": sklearn.__version__}
