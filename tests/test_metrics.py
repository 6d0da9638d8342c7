"""Scores against hand computation and the references' numbers; which evaluations a reported number averages."""
import numpy as np
import pytest

from semilib import metrics


def test_scores_by_hand():
    confusion = np.array([[9, 1, 0], [5, 5, 0], [2, 8, 0]])
    s = metrics.scores(confusion, [100, 30, 10])
    assert s["accuracy"] == pytest.approx(14 / 30) and s["recall"] == [0.9, 0.5, 0.0]
    assert s["balanced_accuracy"] == pytest.approx(0.466667, abs=1e-6)              # published golden: recalls .9, .5, 0
    assert s["geometric_mean"] == pytest.approx(0.114471, abs=1e-6)
    assert (s["head"], s["medium"], s["tail"]) == (0.9, 0.5, 0.0)
    assert s["confusion"] == confusion.tolist()


def test_geometric_mean_golden():
    s = metrics.scores(np.array([[5, 5, 0], [1, 4, 0], [0, 3, 0]]), [3, 2, 1])
    assert s["balanced_accuracy"] == pytest.approx(0.433333, abs=1e-6) and s["geometric_mean"] == pytest.approx(0.110064, abs=1e-6)


def test_groups_follow_the_labelled_counts_not_the_class_order():
    confusion = np.diag([10, 20, 30, 40])
    confusion[0, 1] = 10                                                       # class 0: recall 0.5
    s = metrics.scores(confusion, [5, 50, 20, 10])
    assert s["head"] == 1.0 and s["tail"] == 0.5
    assert metrics.by_size([5, 50, 20, 50]) == [1, 3, 2, 0]
    assert {k: (v.start, v.stop) for k, v in metrics.class_groups(10).items()} == {"head": (0, 3), "medium": (3, 7), "tail": (7, 10)}
    assert metrics.class_groups(100)["head"].stop == 33


def test_a_class_without_test_images_is_left_out():
    s = metrics.scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), [3, 2, 1])
    assert s["recall"] == [0.75, 1.0, None] and s["balanced_accuracy"] == 0.875 and s["tail"] is None


def test_pseudo_label_scores_by_hand():
    used = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])                         # true x pseudo-label
    s = metrics.pseudo_label_scores(used, seen=np.array([10, 8, 2]), predicted=np.array([8, 5, 1]), shown=25)
    assert s["share"] == 14 / 25 and s["correct"] == 9 / 12
    assert (s["shown"], s["seen"], s["counted"], s["right"]) == (25, [10, 8, 2], [8, 5, 1], [6, 3, 0])
    assert s["precision"] == [6 / 7, 3 / 5, None] and s["recall"] == [0.6, 3 / 8, 0.0]


def test_the_reported_number_is_the_mean_of_the_last_twenty():
    log = [{"balanced_accuracy": v / 100} for v in range(30)]
    log[15]["balanced_accuracy"] = 0.9
    s = metrics.summary(log)
    values = [e["balanced_accuracy"] for e in log[-20:]]
    assert s["mean_last"] == pytest.approx(np.mean(values)) and s["median_last"] == pytest.approx(np.median(values))
    assert s["rule"] == "mean of the last 20 evaluations" and s["evaluations_averaged"] == 20 and s["evaluations"] == 30
    assert s["best_on_test"] == 0.9 and s["last"] == 0.29
    assert metrics.summary(log[:3])["rule"] == "mean of all 3 evaluations"
