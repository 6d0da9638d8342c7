"""Published numbers, each beside the source that it was read from. results/README.md explains their columns."""
from __future__ import annotations

import csv
import functools

from semilib.files import PACKAGE, home
from semilib.training.config import Run

PUBLISHED_DATASETS = {"cifar10": "CIFAR-10-LT", "cifar100": "CIFAR-100-LT", "stl10": "STL10-LT",
                      "imagenet127": "ImageNet-127"}
PUBLISHED_METHODS = {"supervised": "Supervised", "la": "LA", "crestplus": "CReST+", "metaexpert": "Meta-Expert"}
PUBLISHED_METRICS = {"accuracy": "top1_acc_imbalanced_test", "balanced_accuracy": "balanced_acc",
                     "accuracy_50": "top1_acc_balanced_test"}
PICKED_BY = {"best checkpoint": "best", "mean of the last 20": "mean of 20", "median of the last 20": "median of 20",
             "last evaluation": "last"}


@functools.lru_cache(maxsize=1)
def rows() -> list[dict[str, str]]:
    """The rows of results/published.csv: the project's, else the one inside the installed package."""
    own, inside = (folder / "results" / "published.csv" for folder in (home(), PACKAGE))
    with open(own if own.is_file() else inside, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows_of(run: Run, name: str, metric: str = "balanced_accuracy") -> list[dict[str, str]]:
    """Published numbers of a run's method in the run's cell, by a metric. name: the method as it is written.

    They are of networks trained from scratch: none stands beside a run on features of a pretrained encoder."""
    if run.encoder != "none" or run.dataset not in PUBLISHED_DATASETS or run.add or run.post_hoc or run.holdout:
        return []
    if not _has_usual_options(run):
        return []
    wanted = {"dataset": PUBLISHED_DATASETS[run.dataset], "image_size": str(run.side),
              "method": PUBLISHED_METHODS.get(run.method, name)}
    if run.dataset == "imagenet127":
        wanted["metric"] = PUBLISHED_METRICS[metric]
    else:
        wanted |= {"backbone": "WRN-28-2", "n1": str(run.n1), "gamma_l": f"{run.gamma_l:g}"}
    if run.dataset.startswith("cifar"):
        gamma = f"{run.gamma_u:g}"
        ratios = {"consistent": gamma, "reversed": f"1/{gamma}", "uniform": "1"}
        wanted |= {"m1": str(run.m1), "gamma_u": ratios.get(run.order, f"{gamma} ({run.order})")}
    alone = run.method in ("supervised", "la") and not run.base
    base = {"remixmatch": "ReMixMatch"}.get(run.base, "none" if alone else "FixMatch")
    return [row for row in rows() if all(row[k] == v for k, v in wanted.items())
            and row["base_ssl"].split(" ")[0].removesuffix("-style") == base]


def _has_usual_options(run: Run) -> bool:
    return run.options == Run.of(run.dataset, run.method, base=run.base, n1=run.n1, m1=run.m1, gamma_l=run.gamma_l,
                                 gamma_u=run.gamma_u, order=run.order, profile=run.profile, recipe=run.recipe).options


def by_source(published: list[dict[str, str]]) -> dict[str, str]:
    """Source -> its numbers as a cell shows them; of several, each with the rule by which it was picked."""
    cells: dict[str, list[str]] = {}
    for row in published:
        spread = f" ± {float(row['std']):g}" if row["std"] else ""
        rules = [f" ({short})" for words, short in PICKED_BY.items() if words in row["notes"]]
        rule = rules[0] if rules and len(published) > 1 else ""
        cells.setdefault(row["source_paper"], []).append(row["mean"] + spread + rule)
    return {source: "; ".join(numbers) for source, numbers in cells.items()}
