"""Class counts against published lists; splits by a slow second implementation, and every error."""
import hashlib
import struct

import numpy as np
import pytest
import torch

from semilib.data.splits import ORDERS, arrange, fingerprint, hold_out, long_tailed_counts, make_split
from semilib.errors import BadInput

GOLDEN = [  # (N1, gamma), the ten counts, their sum
    ((1500, 100), [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15], 3720),
    ((3000, 100), [3000, 1798, 1078, 646, 387, 232, 139, 83, 50, 30], 7443),
    ((500, 100), [500, 299, 179, 107, 64, 38, 23, 13, 8, 5], 1236),
    ((4000, 100), [4000, 2397, 1437, 861, 516, 309, 185, 111, 66, 40], 9922),
    ((1500, 150), [1500, 859, 492, 282, 161, 92, 53, 30, 17, 10], 3496),
    ((3000, 150), [3000, 1719, 985, 564, 323, 185, 106, 60, 34, 20], 6996),
    ((500, 150), [500, 286, 164, 94, 53, 30, 17, 10, 5, 3], 1162),
    ((4000, 150), [4000, 2292, 1313, 752, 431, 247, 141, 81, 46, 26], 9329),
    ((450, 10), [450, 348, 269, 208, 161, 125, 96, 75, 58, 45], 1835),
    ((450, 20), [450, 322, 231, 165, 118, 85, 61, 43, 31, 22], 1528),
    ((150, 10), [150, 116, 89, 69, 53, 41, 32, 25, 19, 15], 609),
    ((150, 20), [150, 107, 77, 55, 39, 28, 20, 14, 10, 7], 507),
    ((1500, 50), [1500, 971, 628, 407, 263, 170, 110, 71, 46, 30], 4196),
    ((3000, 50), [3000, 1942, 1257, 814, 527, 341, 221, 143, 92, 60], 8397),
    ((1000, 100), [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10], 2478),
    ((1000, 20), [1000, 716, 513, 368, 264, 189, 135, 97, 69, 50], 3401),
]
SUMS_OF_100_CLASSES = {
    (150, 10): 5835, (300, 10): 11720, (150, 20): 4741, (300, 20): 9527, (150, 15): 5153, (300, 15): 10352,
    (50, 10): 1911, (400, 10): 15651, (50, 20): 1545, (400, 20): 12719, (150, 50): 3751, (300, 50): 7546,
    (150, 100): 3218, (300, 100): 6486, (50, 50): 1219, (400, 50): 10080,
}
ENDS_OF_100_CLASSES = {  # first and last counts
    (150, 10): ([150, 146, 143, 139, 136], [16, 16, 15, 15, 15]),
    (300, 10): ([300, 293, 286, 279, 273], [32, 32, 31, 30, 30]),
    (150, 15): ([150, 145, 142, 138, 134], [11, 10, 10, 10, 10]),
    (300, 15): ([300, 291, 284, 276, 268], [22, 21, 21, 20, 20]),
    (150, 20): ([150], [8, 8, 7, 7, 7]), (300, 20): ([300], [16, 16, 15, 15, 15]),
    (50, 20): ([50, 48, 47, 45, 44], [2]),
    (150, 50): ([150, 144, 138, 133, 128], [3] * 5), (150, 100): ([150], [1] * 5), (300, 100): ([300], [3] * 5),
}
PINNED = "e25888317cf376c3e1a03f81eb94fb31509cd4a66ce819c0e5b74d01e55791bd"
PINNED_DRAWN = "eb9d2150283f5beae6104ad77863300976ed1dc769f0c4259641882b35f73acc"  # the same with split_seed 0


@pytest.mark.parametrize("setting, counts, total", GOLDEN)
def test_counts_of_ten_classes(setting, counts, total):
    assert long_tailed_counts(setting[0], 10, setting[1]) == counts
    assert sum(counts) == total


def test_counts_of_a_hundred_classes():
    for (n, gamma), total in SUMS_OF_100_CLASSES.items():
        assert sum(long_tailed_counts(n, 100, gamma)) == total
    for (n, gamma), (first, last) in ENDS_OF_100_CLASSES.items():
        counts = long_tailed_counts(n, 100, gamma)
        assert counts[:len(first)] == first and counts[-len(last):] == last


def test_the_ways_in_which_published_codes_write_the_power_agree():
    for classes in (10, 100):
        for n in (50, 100, 150, 300, 400, 450, 500, 1000, 1500, 2000, 3000, 4000):
            for gamma in (1, 5, 10, 15, 20, 30, 50, 100, 120, 150, 200):
                direct = [int(n * (1 / gamma) ** (k / (classes - 1))) for k in range(classes - 1)]
                ratio = (1 / gamma) ** (1 / (classes - 1))
                by_ratio = [int(n * ratio ** k) for k in range(classes - 1)]
                assert long_tailed_counts(n, classes, gamma)[:-1] == direct == by_ratio


def test_the_last_count_is_a_division():
    assert int(400 * ((1 / 200) ** (1 / 9)) ** 9) == 1                 # the power falls short of 2
    assert long_tailed_counts(400, 10, 200)[-1] == 2
    assert long_tailed_counts(7, 4, 1) == [7] * 4


def test_arrangements():
    falling = long_tailed_counts(4000, 10, 150)
    assert arrange(4000, 10, 150, "consistent") == falling
    assert arrange(4000, 10, 150, "reversed") == falling[::-1]
    assert arrange(4000, 10, 150, "uniform") == arrange(4000, 10, None, "uniform") == [4000] * 10
    assert arrange(3000, 10, 100, "reversed") == [30, 50, 83, 139, 232, 387, 646, 1078, 1798, 3000]
    assert arrange(4000, 10, 150, "middle") == [46, 141, 431, 1313, 4000, 2292, 752, 247, 81, 26]
    assert arrange(4000, 10, 100, "middle") == [66, 185, 516, 1437, 4000, 2397, 861, 309, 111, 40]
    assert arrange(4000, 10, 150, "head-tail") == [2292, 752, 247, 81, 26, 46, 141, 431, 1313, 4000]
    assert arrange(4000, 10, 100, "head-tail") == [2397, 861, 309, 111, 40, 66, 185, 516, 1437, 4000]


@pytest.mark.parametrize("classes", [2, 5, 10, 11])
@pytest.mark.parametrize("order", [o for o in ORDERS if o != "uniform"])
def test_every_arrangement_holds_the_same_counts(order, classes):
    assert sorted(arrange(900, classes, 30, order), reverse=True) == long_tailed_counts(900, classes, 30)


@pytest.mark.parametrize("arguments, field", [
    ((0, 10, 100), "n_max"), ((-5, 10, 100), "n_max"), ((100, 1, 100), "num_classes"), ((100, 10, 0.5), "gamma"),
    ((100, 10, float("nan")), "gamma"), ((100, 10, None), "gamma"),
])
def test_impossible_counts(arguments, field):
    with pytest.raises(BadInput) as error:
        long_tailed_counts(*arguments)
    assert error.value.field == field


def test_an_unknown_order_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'reversed'"):
        arrange(100, 10, 10, "reverse")


@pytest.fixture
def labels():
    """Ten classes of 60 images in mixed order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))


def slow_split(labels, counts, extra, inside):
    """The rule in words: walk through the data set once, filling each class's labelled share,
    then its unlabelled one."""
    labelled, unlabelled, seen = [], [], [0] * len(counts)
    for i, k in enumerate(labels):
        if seen[k] < counts[k]:
            labelled.append(i)
        if (seen[k] < counts[k] and inside) or counts[k] <= seen[k] < counts[k] + extra[k]:
            unlabelled.append(i)
        seen[k] += 1
    return labelled, unlabelled


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_a_class_is_filled_in_the_order_of_the_data_set(labels, order, inside):
    split = make_split(labels, 10, 20, 40, 10, 8, order, labelled_in_unlabelled=inside)
    n, m = long_tailed_counts(20, 10, 10), arrange(40, 10, 8, order)
    labelled, unlabelled = slow_split(labels, n, m, inside)
    assert split.labelled.tolist() == labelled and split.unlabelled.tolist() == unlabelled
    assert split.labelled.dtype == split.unlabelled.dtype == np.int64
    assert split.labelled_counts == n == np.bincount(labels[split.labelled]).tolist()
    assert split.unlabelled_counts == np.bincount(labels[split.unlabelled]).tolist()
    assert split.unlabelled_counts == [a * inside + b for a, b in zip(n, m)]
    assert len(np.intersect1d(split.labelled, split.unlabelled)) == (sum(n) if inside else 0)


def test_a_split_seed_draws_other_images_in_the_same_numbers(labels):
    def make(seed):
        return make_split(labels, 10, 20, 30, 10, 10, "reversed", labelled_in_unlabelled=False, split_seed=seed)
    first, again, other, in_order = make(0), make(0), make(1), make(None)
    assert first.fingerprint == again.fingerprint and np.array_equal(first.unlabelled, again.unlabelled)
    assert len({s.fingerprint for s in (first, other, in_order)}) == 3
    for split in (first, other):
        assert split.labelled_counts == in_order.labelled_counts == np.bincount(labels[split.labelled]).tolist()
        assert split.unlabelled_counts == in_order.unlabelled_counts == np.bincount(labels[split.unlabelled]).tolist()
        assert not np.intersect1d(split.labelled, split.unlabelled).size
        assert (np.diff(split.labelled) > 0).all() and (np.diff(split.unlabelled) > 0).all()


def test_both_kinds_of_pool_have_the_same_labelled_images(labels):
    union, disjoint = (make_split(labels, 10, 20, 30, 10, 10, "consistent", inside, split_seed=3)
                       for inside in (True, False))
    assert np.array_equal(union.labelled, disjoint.labelled)
    assert np.array_equal(np.union1d(disjoint.labelled, disjoint.unlabelled), union.unlabelled)


def test_tensors_are_labels_too(labels):
    arguments = (10, 20, 30, 10, 10, "consistent")
    assert make_split(torch.from_numpy(labels), *arguments).fingerprint == make_split(labels, *arguments).fingerprint


def test_natural_counts_and_all_that_remains():
    labels = np.array([0, 1, -1, 0, 1, 1, -1, 0, 0])
    split = make_split(labels, 2, None, None, None, None, "consistent")
    assert split.labelled.tolist() == [0, 1, 3, 4, 5, 7, 8] and split.unlabelled.tolist() == list(range(9))
    assert split.labelled_counts == split.unlabelled_counts == [4, 3]
    split = make_split(labels, 2, None, None, 1, 1, "consistent", labelled_in_unlabelled=False)
    assert split.unlabelled.tolist() == [2, 6] and split.unlabelled_counts == [0, 0]
    split = make_split(labels, 2, 2, None, 2, None, "consistent", labelled_in_unlabelled=False)
    assert split.labelled.tolist() == [0, 1, 3] and split.unlabelled.tolist() == [2, 4, 5, 6, 7, 8]
    assert split.unlabelled_counts == [2, 2]


def test_images_without_a_label_are_appended_whole():
    labels = np.array([0, -1, 1, 0, -1, 1, 0, 1, -1])
    split = make_split(labels, 2, 1, 1, 1, 1, "consistent", labelled_in_unlabelled=False, split_seed=5)
    assert {1, 4, 8} <= set(split.unlabelled.tolist()) and len(split.unlabelled) == 5
    assert split.unlabelled_counts == [1, 1]
    split = make_split(labels, 2, 2, 0, 2, None, "consistent", labelled_in_unlabelled=False)
    assert split.unlabelled.tolist() == [1, 4, 8] and split.unlabelled_counts == [0, 0]


@pytest.mark.parametrize("inside", [True, False])
def test_a_share_of_each_class_is_labelled_and_all_images_are_unlabelled(inside):
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2, 3], [25, 5, 130, 8]))
    split = make_split(labels, 4, None, None, 1, 1, "consistent", inside, labelled_share=0.3)
    counts = [8, 2, 39, 2]                                                      # 7.5 -> 8 and 1.5 -> 2, 2.4 -> 2
    assert split.labelled_counts == counts
    assert split.labelled.tolist() == sorted(i for k, n in enumerate(counts) for i in np.flatnonzero(labels == k)[:n])
    rest = np.setdiff1d(np.arange(168), split.labelled)
    assert split.unlabelled.tolist() == (list(range(168)) if inside else rest.tolist())
    assert split.unlabelled_counts == ([25, 5, 130, 8] if inside else [17, 3, 91, 6])
    other = make_split(labels, 4, None, None, 1, 1, "consistent", inside, 0, 0.3)
    assert other.labelled.tolist() != split.labelled.tolist()


@pytest.mark.parametrize("share, given, field, words", [
    (0.1, {}, "labelled_share", "class 1 gets 0 labelled images with labelled_share=0.1 and 5 images"),      # 0.5 -> 0
    (0.3, {"n1": 3}, "n1", "None where labelled_share=0.3"),
    (0.3, {"gamma_l": 10}, "gamma_l", "1 where labelled_share=0.3"),
    (0.0, {}, "labelled_share", "above 0"), (1.5, {}, "labelled_share", "at most 1"),
])
def test_shares_that_cannot_be_labelled(share, given, field, words):
    arguments = {"n1": None, "m1": None, "gamma_l": 1, "gamma_u": 1, "order": "consistent"} | given
    with pytest.raises(BadInput, match=words) as error:
        make_split(np.repeat([0, 1], [25, 5]), 2, **arguments, labelled_share=share)
    assert error.value.field == field


@pytest.mark.parametrize("change, field, words", [
    ({"n1": 61}, "n1", "class 0 is asked for 61 labelled \\+ 10 unlabelled = 71 images and has 60"),
    ({"n1": 30, "m1": 31, "order": "reversed", "gamma_l": 1}, "m1",
     "class 9 is asked for 30 .* 31 .* = 61 images and has 60"),
    ({"n1": 5, "gamma_l": 10}, "n1", "class 7 gets 0 labelled images with gamma_l=10"),
    ({"n1": 61, "m1": None, "gamma_u": None}, "n1", "class 0 is asked for 61"),
    ({"n1": 0}, "n1", ">= 1"), ({"m1": -1}, "m1", ">= 1"), ({"gamma_l": 0.1}, "gamma_l", ">= 1"),
    ({"gamma_u": None}, "gamma_u", ">= 1"), ({"order": "revers"}, "order", "did you mean"),
    ({"n1": None}, "gamma_l", "1 where n1 is None"), ({"m1": None}, "gamma_u", "1 where m1 is None"),
    ({"m1": None, "gamma_u": 1, "order": "uniform"}, "order", "'consistent' where m1 is None"),
    ({"m1": 0, "labelled_in_unlabelled": False}, "m1", "no image is left"),
])
def test_impossible_splits(labels, change, field, words):
    arguments = {"n1": 20, "m1": 10, "gamma_l": 10, "gamma_u": 10, "order": "consistent"} | change
    with pytest.raises(BadInput, match=words) as error:
        make_split(labels, 10, **arguments)
    assert error.value.field == field


def test_labels_that_are_no_class():
    for labels in ([0, 1, 2, 0, 1], [0, 1, -2, 0, 1]):
        with pytest.raises(BadInput, match="labels="):
            make_split(np.array(labels), 2, 1, 1, 1, 1, "consistent")
    with pytest.raises(BadInput, match="class 1 gets 0 labelled images"):
        make_split(np.array([0, 0, -1]), 2, None, None, None, None, "consistent")


def test_the_fingerprint_is_the_hash_of_both_lists():
    labels = np.arange(40) % 4
    split = make_split(labels, 4, 3, 4, 3, 2, "reversed")
    plain = hashlib.sha256()
    for indices in (split.labelled.tolist(), split.unlabelled.tolist()):
        plain.update(struct.pack(f"<q{len(indices)}q", len(indices), *indices))
    assert split.fingerprint == plain.hexdigest() == PINNED
    assert make_split(labels, 4, 3, 4, 3, 2, "reversed", split_seed=0).fingerprint == PINNED_DRAWN
    a, b = np.array([1, 2]), np.array([3])
    pairs = [(a, b), (b, a), (np.array([1]), np.array([2, 3])), (a, a)]
    assert len({fingerprint(*pair) for pair in pairs}) == 4


# ---- a fold to choose options by -------------------------------------------------------------------------------------


def test_held_out_images_are_labelled_ones_that_training_never_sees():
    labels = np.repeat(np.arange(4), 30)
    split = make_split(labels, 4, 10, 15, 5.0, 5.0, "consistent")                       # labelled 10, 5, 3, 2
    rest, held = hold_out(split, labels, 0.2)
    assert np.bincount(labels[held], minlength=4).tolist() == [2, 1, 1, 1], "one at least"
    assert np.isin(held, split.labelled).all() and not np.isin(held, rest.labelled).any()
    assert not np.isin(held, rest.unlabelled).any()
    assert rest.labelled_counts == [8, 4, 2, 1] == np.bincount(labels[rest.labelled]).tolist()
    assert rest.unlabelled_counts == [a - b for a, b in zip(split.unlabelled_counts, [2, 1, 1, 1], strict=True)]
    assert rest.fingerprint == fingerprint(rest.labelled, rest.unlabelled) != split.fingerprint


def test_a_class_of_one_labelled_image_has_none_to_hold_out():
    labels = np.repeat(np.arange(4), 30)
    with pytest.raises(BadInput, match="holdout=0.2: 0 where a class has one labelled image, as class 3 has"):
        hold_out(make_split(labels, 4, 10, 15, 10.0, 10.0, "consistent"), labels, 0.2)
