"""What is measured at an evaluation, and the rules that turn many evaluations into the number that a table reports.

C classes; confusion [C, C]: rows are true classes, columns predictions. Everything is a share in [0, 1].
"""
from __future__ import annotations

import base64
import math
import statistics
import zlib
from typing import Any

import numpy as np

ROWS = 256                          # classes up to which a confusion matrix is kept in plain rows
LISTED = 30                         # classes that a sentence names
REPORTED = "mean of the last 20 evaluations"
SUMMARIES = ("mean_last", "median_last", "last", "best_on_test")
# What is published as "accuracy", each under its own name: on a test set that is not balanced they are three different
# numbers. accuracy: top-1 on the test set as it is. balanced_accuracy: mean of the per-class recalls on it.
# accuracy_50: top-1 on 50 test images a class, where the data set has such a subset (ImageNet-127).
NAMED = ("accuracy", "balanced_accuracy", "accuracy_50")


def class_groups(classes: int) -> dict[str, slice]:
    """Head, medium and tail: the first, middle and last classes by labelled count, C // 3 at either end (DARP)."""
    third = max(1, classes // 3)
    return {"head": slice(0, third), "medium": slice(third, classes - third), "tail": slice(classes - third, classes)}


def by_size(counts: list[int]) -> list[int]:
    """Classes from the largest labelled one to the smallest; ties in class order."""
    return [int(k) for k in np.argsort(-np.asarray(counts), kind="stable")]


def scores(confusion: np.ndarray, labelled_counts: list[int]) -> dict[str, Any]:
    """Scores of a confusion matrix [C, C] of true classes and predictions.

    They are the accuracy, the recall of each class, and means of these recalls. Balanced accuracy is the plain mean. In
    the geometric mean a recall of 0 is replaced by 1 / (100 C), as in DARP. Head, medium and tail classes, by labelled
    count, have a mean each.
    """
    confusion = np.asarray(confusion, dtype=np.int64)
    classes = len(confusion)
    total = confusion.sum(1)
    recall = confusion.diagonal() / np.maximum(total, 1)
    seen = total > 0
    floor = np.where(recall > 0, recall, 1 / (100 * classes))
    order = by_size(labelled_counts)
    groups = {}
    for name, part in class_groups(classes).items():
        members = [k for k in order[part] if seen[k]]
        groups[name] = float(recall[members].mean()) if members else None
    return {
        "accuracy": top1(confusion),
        "balanced_accuracy": float(recall[seen].mean()),
        "geometric_mean": float(np.exp(np.log(floor[seen]).mean())),
        **groups,
        "recall": [float(r) if s else None for r, s in zip(recall, seen, strict=True)],
        "confusion": packed(confusion),
    }


def packed(confusion: np.ndarray) -> list[list[int]] | str:
    """A confusion matrix [C, C] as a line of a log has it: rows of whole numbers, or of more than `ROWS` classes, where
    these would take megabytes, the compressed 32-bit numbers in base64."""
    if len(confusion) <= ROWS:
        return confusion.tolist()
    return base64.b64encode(zlib.compress(confusion.astype("<i4").tobytes(), 9)).decode()


def unpacked(confusion: list[list[int]] | str, classes: int) -> np.ndarray:
    """The matrix [C, C] of what `packed` made of one of so many classes. Raises ValueError for anything else."""
    if isinstance(confusion, str):
        try:
            content = zlib.decompressobj().decompress(base64.b64decode(confusion, validate=True), 4 * classes**2 + 1)
        except zlib.error as error:
            raise ValueError(f"a damaged confusion matrix ({error})") from error
        return np.frombuffer(content, "<i4").astype(np.int64).reshape(classes, classes)
    return np.asarray(confusion, dtype=np.int64).reshape(classes, classes)


def top1(confusion: np.ndarray) -> float:
    """The share of the images of a confusion matrix that are on its diagonal."""
    confusion = np.asarray(confusion, dtype=np.int64)
    return float(confusion.diagonal().sum() / max(1, confusion.sum()))


def interval(right: int, images: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `right` in `images`: (low, high). It holds at 0 and at all of few, too
    (Wilson, J. Am. Stat. Assoc. 22, 1927; Brown, Cai and DasGupta, Stat. Sci. 16, 2001)."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    share, weight = right / images, 1 + z * z / images
    middle = share + z * z / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return max(0.0, (middle - half) / weight), min(1.0, (middle + half) / weight)


def counted(right: int, images: int) -> str:
    """A share of few images in words: 3 of 3 right, 100% (95% interval 44 to 100%)."""
    low, high = interval(right, images)
    digits = decimals(images)
    return (f"{right:,} of {images:,} right, {right / images:.{digits}%} "
            f"(95% interval {100 * low:.{digits}f} to {100 * high:.{digits}f}%)")


def decimals(images: int) -> int:
    """Decimals of a percentage of so many images that still mean something: one image of fewer than a hundred is more
    than a percent."""
    return 0 if images < 100 else 1


def right_by_class(evaluation: dict[str, Any], names: list[str]) -> str:
    """Of an evaluation: how many test images of each class are classified right, of how many, in words. Of more than
    `LISTED` classes those with the lowest share."""
    confusion = unpacked(evaluation["confusion"], len(names))
    right, images = confusion.diagonal(), confusion.sum(1)
    shown = list(range(len(names)))
    if len(names) > LISTED:
        share = np.where(images > 0, right / np.maximum(images, 1), 2)
        shown = sorted(np.argsort(share, kind="stable")[:LISTED].tolist())
    more = f"; the other {len(names) - LISTED:,} classes are better" if len(names) > LISTED else ""
    return ", ".join(f"{names[k]} {right[k]:,} of {images[k]:,}" for k in shown) + more


def never_predicted(evaluation: dict[str, Any], names: list[str]) -> list[str]:
    """The classes that have test images, and that an evaluation takes no image for."""
    confusion = unpacked(evaluation["confusion"], len(names))
    return [name for name, images, taken in zip(names, confusion.sum(1), confusion.sum(0), strict=True)
            if images and not taken]


def pseudo_label_scores(used: np.ndarray, seen: np.ndarray, predicted: np.ndarray, shown: int) -> dict[str, Any]:
    """Quality of the pseudo-labels since the last evaluation.

    used: [C, C], true class x pseudo-label, images that counted. seen: [C], unlabelled images shown, by true class.
    predicted: [C], images that counted, by pseudo-label, those of unknown class too. shown: unlabelled images shown.

    Of the result, share: of the images shown, those that counted. precision[k]: of those that counted as k, the share
    that is k (None: none did, or the truth is unknown). recall[k]: of the images of class k shown, the share that
    counted as k. counted[k]: how many counted as k. right[k]: how many of them are k. shown, seen: as they came.
    """
    used, predicted = np.asarray(used, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    correct, as_k, shown_k = used.diagonal(), used.sum(0), np.asarray(seen, dtype=np.int64)
    return {
        "share": float(predicted.sum() / max(1, shown)),
        "shown": int(shown),
        "seen": shown_k.tolist(),
        "counted": predicted.tolist(),
        "right": correct.tolist(),
        "correct": float(correct.sum() / as_k.sum()) if as_k.sum() else None,
        "precision": [float(c / n) if n else None for c, n in zip(correct, as_k, strict=True)],
        "recall": [float(c / n) if n else None for c, n in zip(correct, shown_k, strict=True)],
    }


def summary(evaluations: list[dict[str, Any]], metric: str = "balanced_accuracy", last: int = 20,
            report: str = "mean_last") -> dict[str, Any]:
    """The run's reported numbers: mean and median of the last 20 evaluations (all, if there are fewer), and the last
    one.

    `best_on_test` picks by the test set. It is stored for comparison with papers that report it, and is never a
    headline of the shared recipe. report: which of them the run's recipe reports. metrics: the same four numbers of
    each of `NAMED` that the evaluations have, so that no table needs to take one for another. right: of the last
    evaluation, how many test images are classified right, and how many there are.
    """
    named = {name: _four([e[name] for e in evaluations], last) for name in NAMED if all(name in e for e in evaluations)}
    tail = evaluations[-last:]
    return {"metric": metric, "rule": REPORTED if len(tail) == last else f"mean of all {len(tail)} evaluations",
            **_four([e[metric] for e in evaluations], last), "evaluations_averaged": len(tail),
            "evaluations": len(evaluations), "report": report, "metrics": named,
            **({"right": right_of(evaluations[-1])} if "confusion" in evaluations[-1] else {})}


def gives(evaluations: list[dict[str, Any]], result: dict[str, Any], steps: int) -> bool:
    """Whether these are all evaluations of a run of so many steps, each once, and `result` is their summary."""
    found = [evaluation["step"] for evaluation in evaluations]
    if found != sorted(set(found)) or found[-1:] != [steps]:
        return False
    again = summary(evaluations)
    return all(math.isclose(again[name], result[name], abs_tol=1e-9) for name in SUMMARIES)


def right_of(evaluation: dict[str, Any]) -> list[int]:
    """Of an evaluation: how many test images are classified right, and how many there are."""
    confusion = unpacked(evaluation["confusion"], len(evaluation["recall"]))
    return [int(confusion.diagonal().sum()), int(confusion.sum())]


def _four(values: list[float], last: int) -> dict[str, float]:
    tail = values[-last:]
    return {"mean_last": statistics.fmean(tail), "median_last": statistics.median(tail), "last": values[-1],
            "best_on_test": max(values)}
