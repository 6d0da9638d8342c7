"""Which training images are labelled and which are unlabelled: long-tailed class counts and the index lists to them.

The protocol is the field's common one. Class k of C gets N_k = int(N1 * gamma_l^(-k/(C-1))) labelled images and M_k =
int(M1 * gamma_u^(-k/(C-1))) unlabelled ones. The M list is then arranged by `order`. A set that is imbalanced by nature
(ImageNet-127) has a share of each class labelled instead. Within a class the labelled images come first and the
unlabelled ones next.

Published codes differ in whether the labelled images are also in the unlabelled pool, which changes the numbers. They
are in the FixMatch scripts of DARP, ACR and CDMAD, and not in SimPro, DASO, CPE and USB. So it is an option here.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from semilib.data import rng
from semilib.errors import BadInput, check_name

ORDERS = ("consistent", "uniform", "reversed", "middle", "head-tail")


def long_tailed_counts(n_max: int, num_classes: int, gamma: float | None) -> list[int]:
    """Class sizes that fall exponentially from `n_max` to int(n_max / gamma): [num_classes] integers, largest first.

    Truncated, not rounded. The last entry is divided directly, because a power can fall just below the whole number
    that it stands for and lose one image. Raises `BadInput` for n_max < 1, num_classes < 2 or gamma < 1.
    """
    if not n_max >= 1:
        raise BadInput("n_max", n_max, "the size of the largest class, a whole number >= 1")
    if not num_classes >= 2:
        raise BadInput("num_classes", num_classes, "a whole number >= 2")
    if gamma is None or not gamma >= 1:
        raise BadInput("gamma", gamma, "the ratio of the largest to the smallest class, a number >= 1")
    return [int(n_max * gamma ** (-k / (num_classes - 1))) for k in range(num_classes - 1)] + [int(n_max / gamma)]


def arrange(m1: int, num_classes: int, gamma_u: float | None, order: str) -> list[int]:
    """The unlabelled class counts in one of `ORDERS`, class 0 first: [num_classes] integers.

    consistent: falling, as the labelled counts. uniform: every class M1, whatever gamma_u is. reversed: rising. middle:
    the largest classes in the centre. head-tail: the largest classes at both ends. The last two are settings of SimPro
    (ICML 2024). Raises `BadInput` for an unknown order and as `long_tailed_counts` does.
    """
    check_name("order", order, ORDERS)
    falling = long_tailed_counts(m1, num_classes, 1 if order == "uniform" else gamma_u)
    classes = list(range(num_classes))
    rank = {  # rank[k]: the place of class k among the falling counts
        "consistent": classes,
        "uniform": classes,
        "reversed": classes[::-1],
        "middle": classes[::2][::-1] + classes[1::2],
        "head-tail": classes[1::2] + classes[::2][::-1],
    }[order]
    return [falling[r] for r in rank]


@dataclass(frozen=True, eq=False)
class Split:
    """Two index lists into the training images, both ascending, and what they hold.

    labelled: int64 [N]. unlabelled: int64 [N_u], the whole pool. labelled_counts: [C]. unlabelled_counts: [C], the
    images of the pool by class, labelled ones among them where the pool holds them. Images without a label are in no
    count. fingerprint: equal exactly when both index lists are equal.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    labelled_counts: list[int]
    unlabelled_counts: list[int]
    fingerprint: str


def fingerprint(labelled: np.ndarray, unlabelled: np.ndarray) -> str:
    """SHA-256 (hex) of both lists, each as its length and its indices, all little-endian 64-bit integers."""
    digest = hashlib.sha256()
    for indices in (labelled, unlabelled):
        digest.update(np.array([len(indices)], dtype="<i8").tobytes())
        digest.update(np.asarray(indices, dtype="<i8").tobytes())
    return digest.hexdigest()


def _members(labels: np.ndarray, num_classes: int, split_seed: int | None) -> list[np.ndarray]:
    """The indices of each class in the order in which they are taken: the data set's, or one drawn by `split_seed`."""
    members = [np.flatnonzero(labels == k) for k in range(num_classes)]
    if split_seed is None:
        return members
    return [m[rng.permutation(split_seed, f"split/{k}", 0, len(m)).numpy()] for k, m in enumerate(members)]


def _counts(size_field: str, size: int | None, gamma_field: str, gamma: float | None, order: str,
            rest: list[int]) -> list[int]:
    """The class counts asked for, or all of `rest` where the size is None; errors name the fields of the caller."""
    if size is None:
        for field, value, neutral in ((gamma_field, gamma, (None, 1)), ("order", order, ("consistent",))):
            if value not in neutral:  # a ratio that is asked for and not applied would be a silent mistake
                raise BadInput(field, value, f"{neutral[-1]!r} where {size_field} is None: all images are then taken")
        return rest
    try:
        return arrange(size, len(rest), gamma, order)
    except BadInput as error:
        field = {"n_max": size_field, "gamma": gamma_field}.get(error.field, error.field)
        raise BadInput(field, error.value, error.wanted) from None


def shared_counts(share: float, n1: int | None, gamma_l: float | None, available: list[int]) -> list[int]:
    """Labelled images a class where a share of each class is labelled: round(share * n_k), halves to the even number.

    So does the preparation of small ImageNet-127 (CoSSL, CVPR 2022). Raises `BadInput` where a count is asked for as
    well.
    """
    if not 0 < share <= 1:
        raise BadInput("labelled_share", share, "above 0 and at most 1: the share of each class that is labelled")
    for field, value, neutral in (("n1", n1, (None,)), ("gamma_l", gamma_l, (None, 1))):
        if value not in neutral:
            raise BadInput(field, value, f"{neutral[-1]!r} where labelled_share={share:g} says how many are labelled")
    return [int(np.around(share * have)) for have in available]


def make_split(labels: ArrayLike, num_classes: int, n1: int | None, m1: int | None, gamma_l: float | None,
               gamma_u: float | None, order: str, labelled_in_unlabelled: bool = True, split_seed: int | None = None,
               labelled_share: float | None = None) -> Split:
    """Choose the labelled and the unlabelled images among training images whose classes are `labels`.

    labels: integers [n] in {-1, 0, ..., num_classes - 1}. An image without a label has -1 and is always in the pool.
    n1: labelled images of the largest class. None labels every image that has a label (gamma_l None or 1).
    m1: unlabelled images of the largest class. None takes all that remain (gamma_u None or 1, order "consistent"); 0
    takes none but those without a label.
    order: one of `ORDERS`; "uniform" does not look at gamma_u.
    labelled_in_unlabelled: whether the pool also holds the labelled images, so that it has the first N_k + M_k of a
    class; else it has the next M_k.
    split_seed: the order in which a class's images are taken is drawn from it; None is the data set's own order.
    labelled_share: the first such share of each class is labelled, whatever its size (n1 None, gamma_l None or 1).
    Raises `BadInput` where a class has fewer images than asked for or no labelled image, and where the pool is empty.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if labels.size and not -1 <= labels.min() <= labels.max() < num_classes:
        wrong = labels[(labels < -1) | (labels >= num_classes)][0]
        raise BadInput("labels", int(wrong), f"every label is one of -1 (none), 0, ..., {num_classes - 1}")
    members = _members(labels, num_classes, split_seed)
    available = [len(m) for m in members]
    check_name("order", order, ORDERS)
    n = _counts("n1", n1, "gamma_l", gamma_l, "consistent", available) if labelled_share is None else \
        shared_counts(labelled_share, n1, gamma_l, available)
    remaining = [max(have - taken, 0) for have, taken in zip(available, n)]
    m = [0] * num_classes if m1 == 0 else _counts("m1", m1, "gamma_u", gamma_u, order, remaining)
    for k, have in enumerate(available):
        if n[k] == 0:
            field, value, why = ("n1", n1, f"gamma_l={gamma_l}") if labelled_share is None else \
                ("labelled_share", labelled_share, f"labelled_share={labelled_share:g}")
            raise BadInput(field, value, f"class {k} gets 0 labelled images with {why} and {have} images at hand; "
                                         "every class needs at least 1")
        if n[k] + m[k] > have:
            field, value = ("n1", n1) if n[k] > have else ("m1", m1)
            raise BadInput(field, value, f"class {k} is asked for {n[k]} labelled + {m[k]} unlabelled = {n[k] + m[k]} "
                                         f"images and has {have}")
    start = [0] * num_classes if labelled_in_unlabelled else n
    labelled = np.sort(np.concatenate([members[k][:n[k]] for k in range(num_classes)]))
    pool = [members[k][start[k]:n[k] + m[k]] for k in range(num_classes)]
    unlabelled = np.sort(np.concatenate(pool + [np.flatnonzero(labels == -1)]))
    if not len(unlabelled):
        raise BadInput("m1", m1, "no image is left for the unlabelled pool: label fewer, add images without labels, "
                                 "or let the pool hold the labelled ones (labelled_in_unlabelled)")
    return Split(labelled, unlabelled, n, [len(p) for p in pool], fingerprint(labelled, unlabelled))


def hold_out(split: Split, labels: ArrayLike, share: float) -> tuple[Split, np.ndarray]:
    """Take labelled images out of a split, to choose options by: the last `share` of each class's, rounded.

    At least one is taken of each class, and never all. They leave the unlabelled pool too. Returns the rest and the
    held-out indices, int64, ascending. Raises `BadInput` for a class of one labelled image.
    """
    labels = np.asarray(labels, dtype=np.int64)
    held = []
    for k in range(len(split.labelled_counts)):
        own = split.labelled[labels[split.labelled] == k]
        if len(own) < 2:
            raise BadInput("holdout", share, f"0 where a class has one labelled image, as class {k} has: it needs a "
                                             "second one to be held out, or nothing is measured on it")
        held.append(own[len(own) - min(len(own) - 1, max(1, round(share * len(own)))):])
    out = np.sort(np.concatenate(held))
    labelled, unlabelled = (part[~np.isin(part, out)] for part in (split.labelled, split.unlabelled))

    def counts(part: np.ndarray) -> list[int]:
        return np.bincount(labels[part][labels[part] >= 0], minlength=len(split.labelled_counts)).tolist()
    return Split(labelled, unlabelled, counts(labelled), counts(unlabelled), fingerprint(labelled, unlabelled)), out


def held_beside(split: Split, labels: ArrayLike, count: int, split_seed: int | None) -> np.ndarray:
    """`count` training images of each class that the split does not touch, to choose settings by: int64, ascending.
    They are the next ones in the order in which the split took its own. Raises `BadInput` where a class has fewer
    left."""
    labels = np.asarray(labels, dtype=np.int64)
    taken = np.union1d(split.labelled, split.unlabelled)
    out = []
    for k, members in enumerate(_members(labels, len(split.labelled_counts), split_seed)):
        free = members[~np.isin(members, taken)]
        if len(free) < count:
            raise BadInput("holdout_images", count,
                           f"at most {len(free)}: so many images of class {k} are outside of the pool")
        out.append(free[:count])
    return np.sort(np.concatenate(out))
