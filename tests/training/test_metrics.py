"""Scores against hand computation and the references' numbers; which evaluations a reported number averages; evaluation
with post-hoc logit adjustment."""
import json

import kit
import numpy as np
import pytest
import torch

from semilib.training import metrics


def test_scores_by_hand():
    confusion = np.array([[9, 1, 0], [5, 5, 0], [2, 8, 0]])
    s = metrics.scores(confusion, [100, 30, 10])
    assert s["accuracy"] == pytest.approx(14 / 30) and s["recall"] == [0.9, 0.5, 0.0]
    assert s["balanced_accuracy"] == pytest.approx(0.466667, abs=1e-6)             # published golden: recalls .9, .5, 0
    assert s["geometric_mean"] == pytest.approx(0.114471, abs=1e-6)
    assert (s["head"], s["medium"], s["tail"]) == (0.9, 0.5, 0.0)
    assert s["confusion"] == confusion.tolist()


def test_geometric_mean_golden():
    s = metrics.scores(np.array([[5, 5, 0], [1, 4, 0], [0, 3, 0]]), [3, 2, 1])
    assert s["balanced_accuracy"] == pytest.approx(0.433333, abs=1e-6)
    assert s["geometric_mean"] == pytest.approx(0.110064, abs=1e-6)


def test_groups_follow_the_labelled_counts_not_the_class_order():
    confusion = np.diag([10, 20, 30, 40])
    confusion[0, 1] = 10                                                       # class 0: recall 0.5
    s = metrics.scores(confusion, [5, 50, 20, 10])
    assert s["head"] == 1.0 and s["tail"] == 0.5
    assert metrics.by_size([5, 50, 20, 50]) == [1, 3, 2, 0]
    ranges = {name: (group.start, group.stop) for name, group in metrics.class_groups(10).items()}
    assert ranges == {"head": (0, 3), "medium": (3, 7), "tail": (7, 10)}
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


@pytest.mark.parametrize("report", ["mean_last", "median_last", "last", "best_on_test"])
def test_a_summary_holds_every_number_and_names_the_one_that_its_recipe_reports(report):
    log = [{"balanced_accuracy": v} for v in [0.9] + [0.5, 0.6, 0.7, 0.1] * 5]
    s = metrics.summary(log, report=report)
    assert (s["mean_last"], s["median_last"], s["last"], s["best_on_test"]) == pytest.approx((0.475, 0.55, 0.1, 0.9))
    assert s["report"] == report and s[s["report"]] == s[report] and s["rule"] == "mean of the last 20 evaluations"
    assert metrics.summary(log)["report"] == "mean_last"
    assert {**s, "report": ""} == {**metrics.summary(log), "report": ""}


def test_each_measure_of_accuracy_is_reported_under_its_name_and_as_often_as_it_was_taken():
    log = [{"accuracy": 0.5 + i / 100, "balanced_accuracy": 0.3 + i / 100, "accuracy_50": 0.4 - i / 100}
           for i in range(30)]
    s = metrics.summary(log)
    assert {name: four["mean_last"] for name, four in s["metrics"].items()} == pytest.approx(
        {"accuracy": 0.695, "balanced_accuracy": 0.495, "accuracy_50": 0.205})
    assert s["metric"] == "balanced_accuracy"
    assert {k: s[k] for k in s["metrics"]["accuracy"]} == s["metrics"]["balanced_accuracy"]
    assert s["metrics"]["accuracy_50"]["last"] == pytest.approx(0.11)
    assert s["metrics"]["accuracy_50"]["best_on_test"] == 0.4
    del log[3]["accuracy_50"]
    assert set(metrics.summary(log)["metrics"]) == {"accuracy", "balanced_accuracy"}


def test_accuracy_on_a_subset_counts_the_images_of_the_subset():
    t = kit.trainer("supervised")
    predicted = torch.arange(20) % 4
    subset = torch.arange(20) < 7
    assert torch.equal(t.confusion(predicted), t.confusion(predicted, subset) + t.confusion(predicted, ~subset))
    right = (predicted == t.test_y)[subset]
    assert metrics.top1(t.confusion(predicted, subset).numpy()) == pytest.approx(right.double().mean().item())


# ---- post-hoc logit adjustment ---------------------------------------------------------------------------------------


def confusion_of(t, logits) -> torch.Tensor:
    """The trainer's evaluation when its method says `logits` of the test images, in order."""
    given = list(logits.split(500))
    t.method.predict = lambda net, x: given.pop(0)
    found = t.evaluate()
    assert not given and int(found.sum()) == len(logits)
    return found


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_post_hoc_adjustment_subtracts_tau_log_prior_from_test_logits(tau):
    t = kit.trainer("supervised", post_hoc=tau)
    logits = 2 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    prior = np.array([14, 9, 6, 4]) / 33
    want = np.zeros((4, 4), dtype=int)
    for y, row in zip(t.test_y.tolist(), logits.numpy().astype(float)):
        want[y, (row - tau * np.log(prior)).argmax()] += 1
    assert confusion_of(t, logits).tolist() == want.tolist()
    assert (t.post_hoc is None) == (tau == 0)
    plain = confusion_of(kit.trainer("supervised"), logits)
    assert torch.equal(plain, torch.tensor(want)) == (tau == 0)                          # it changes something


def test_post_hoc_adjustment_golden():
    """argmax(W - log pi) = [0, 1, 2, 2] where argmax W = [0, 1, 2, 0];
    the adjustment of a fourth class that is never predicted."""
    t = kit.trainer("supervised", post_hoc=1.0)
    assert torch.allclose(t.post_hoc, torch.tensor([14, 9, 6, 4]).div(33).log())
    w = torch.cat([kit.B.W, torch.full((4, 1), -99.0, dtype=torch.float64)], 1).repeat(5, 1)
    for post_hoc, predicted in ((torch.cat([kit.B.pi.log(), kit.f64([0])]), [5, 5, 10, 0]), (None, [10, 5, 5, 0])):
        t.post_hoc = post_hoc
        assert confusion_of(t, w).sum(0).tolist() == predicted


def test_post_hoc_adjustment_leaves_training_and_ties_of_equal_classes_alone():
    plain, adjusted = kit.trainer("supervised"), kit.trainer("supervised", post_hoc=1.5)
    assert kit.losses_of(plain, range(3)) == kit.losses_of(adjusted, range(3))
    kit.same_state(plain.state_dict(), adjusted.state_dict())
    assert plain.run.key != adjusted.run.key and adjusted.run.label == "supervised+posthoc1.5"
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    balanced = [kit.trainer("supervised", post_hoc=tau, gamma_l=1.0, gamma_u=1.0) for tau in (0.0, 3.0)]
    assert torch.equal(*(confusion_of(t, logits) for t in balanced))                    # an equal prior moves no argmax


@pytest.mark.parametrize("right, images", [(0, 3), (3, 3), (35, 40), (1, 1), (9_000, 10_000)])
def test_the_interval_of_a_share_is_wilson_s(right, images):
    from scipy.stats import binomtest
    want = binomtest(right, images).proportion_ci(0.95, "wilson")
    assert metrics.interval(right, images) == pytest.approx((want.low, want.high), abs=1e-12)


def test_a_share_of_few_images_is_said_with_their_number():
    assert metrics.counted(3, 3) == "3 of 3 right, 100% (95% interval 44 to 100%)"
    assert metrics.counted(50, 99) == "50 of 99 right, 51% (95% interval 41 to 60%)"
    assert metrics.counted(50, 100) == "50 of 100 right, 50.0% (95% interval 40.4 to 59.6%)"
    assert metrics.summary([metrics.scores(np.array([[3, 1], [2, 0]]), [1, 1])])["right"] == [3, 6]
    assert metrics.summary([metrics.scores(np.eye(300), [1] * 300)])["right"] == [300, 300], "kept compressed"


def of(confusion):
    return metrics.scores(np.array(confusion), [1] * len(confusion))


def test_each_class_s_test_images_are_counted_and_a_class_that_is_never_predicted_is_named():
    names = ["ant", "bee", "cow", "dog"]
    last = of([[3, 1, 0, 0], [1, 1, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0]])
    assert metrics.right_by_class(last, names) == "ant 3 of 4, bee 1 of 2, cow 0 of 3, dog 0 of 0"
    assert metrics.never_predicted(last, names) == ["cow"], "dog has no image that could be predicted"
    assert metrics.never_predicted(of(np.eye(3, dtype=int)), names[:3]) == []


def test_of_many_classes_those_with_the_lowest_share_are_counted():
    confusion = np.diag(range(1, 51)) + np.roll(np.diag(range(50, 0, -1)), 1, axis=1)
    said = metrics.right_by_class(of(confusion), [f"c{k}" for k in range(50)])
    assert said.startswith("c0 1 of 51, c1 2 of 51, ")
    assert said.endswith("c29 30 of 51; the other 20 classes are better")


@pytest.mark.parametrize("classes", [2, 256, 257, 1000])
def test_a_confusion_matrix_comes_back_as_it_was_and_of_many_classes_takes_little_room(classes):
    draw = np.random.default_rng(0)
    true = np.repeat(np.arange(classes), 50)
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (true, np.where(draw.random(len(true)) < 0.6, true, draw.integers(0, classes, len(true)))), 1)
    line = {**metrics.scores(matrix, [1] * classes),
            "pseudo_labels": metrics.pseudo_label_scores(matrix, matrix.sum(1), matrix.sum(0), int(matrix.sum()))}
    kept = json.loads(json.dumps(line))["confusion"]
    assert np.array_equal(metrics.unpacked(kept, classes), matrix) and isinstance(kept, str) == (classes > 256)
    assert classes < 1000 or len(json.dumps(line)) < 200_000


@pytest.mark.parametrize("text", ["", "?", "AAAA", metrics.packed(np.zeros((300, 300)))[:-8]])
def test_a_damaged_confusion_matrix_is_refused(text):
    with pytest.raises(ValueError):
        metrics.unpacked(text, 300)


def test_a_confusion_matrix_that_would_grow_without_bound_is_not_unpacked_further_than_its_classes():
    with pytest.raises(ValueError):
        metrics.unpacked(metrics.packed(np.zeros((5000, 5000))), 4999)
