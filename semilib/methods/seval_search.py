"""SEVAL's two searches on held-out images, on the host in float64: class offsets by Newton's method, thresholds by an
exact scan.

n held-out images, C classes, G groups of consecutive classes. Both are deterministic, and neither reads more than it is
given.
"""
from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-6


def groups(classes: int, number: int) -> Tensor:
    """The group of each class, int64 [C]: `number` groups (0 = one a class) of ceil(C / number) consecutive classes."""
    return torch.arange(classes) // -(-classes // (number or classes))


def class_nll(logits: Tensor, y: Tensor, log_pi: Tensor) -> Tensor:
    """Mean over the classes, all C of them, of the mean over their images of -log softmax(logits - log pi)_y, 0-dim.
    A class without images adds 0. logits [n, C], y [n], log_pi [C]."""
    return -(weights(y, logits.shape[1]) * (logits - log_pi).log_softmax(-1).gather(1, y.unsqueeze(1)).squeeze(1)).sum()


def weights(y: Tensor, classes: int) -> Tensor:
    """1 / (C n_y) of each image, [n]."""
    return 1 / (classes * torch.bincount(y, minlength=classes).double())[y]


def refine(logits: Tensor, y: Tensor, tie: Tensor, low: float = 1e-3, high: float = 3.0, steps: int = 100) -> Tensor:
    """argmin over pi in [low, high]^C of `class_nll`, [C], equal within the groups of `tie`. logits [n, C] float64.

    In b = log pi that is a convex problem in a box: projected Newton with halved steps, which only ever descends. A
    tiny ridge on b picks one of the multiples of pi, which all give the same pseudo-labels: the one nearest to 1.
    """
    classes = logits.shape[1]
    spread = (tie.unsqueeze(1) == torch.arange(int(tie.max()) + 1)).double()              # [C, G]
    w, hot = weights(y, classes).unsqueeze(1), (y.unsqueeze(1) == torch.arange(classes)).double()
    bottom, top = torch.tensor([low, high], dtype=torch.float64).log()

    def value(b: Tensor) -> Tensor:
        return class_nll(logits, y, spread @ b) + RIDGE / 2 * b.square().sum()

    b = torch.zeros(spread.shape[1], dtype=torch.float64)
    now = value(b)
    for _ in range(steps):
        p = (logits - spread @ b).softmax(-1)
        gradient = spread.T @ (w * (hot - p)).sum(0) + RIDGE * b
        free = ~(((b <= bottom) & (gradient > 0)) | ((b >= top) & (gradient < 0)))
        if not (gradient * free).abs().max() > 1e-12:
            break
        unit = torch.eye(len(b), dtype=torch.float64)
        curvature = spread.T @ (torch.diag((w * p).sum(0)) - (w * p).T @ p) @ spread + RIDGE * unit
        curvature = torch.where(free & free.unsqueeze(1), curvature, unit)
        direction, length, moved = -torch.linalg.solve(curvature, gradient * free), 1.0, False
        while length > 1e-10 and not moved:
            new = (b + length * direction).clamp(bottom, top)
            moved = bool(value(new) < now)
            length /= 2
        if not moved:
            break
        b, now = new, value(new)
    return (spread @ b).exp()


def threshold(confidence: Tensor, correct: Tensor, weight: Tensor, target: float) -> float:
    """The t whose weighted accuracy among the images with confidence >= t is nearest to target, the lowest of several.
    All [n]."""
    confidence, order = confidence.sort(descending=True)
    accuracy = (weight * correct)[order].cumsum(0) / weight[order].cumsum(0)
    last = torch.ones_like(confidence, dtype=torch.bool)                                  # of equal confidences
    last[:-1] = confidence[1:] < confidence[:-1]
    error = torch.where(last, (accuracy - target).abs(), torch.inf)
    return float(confidence[int((error <= error.min() + 1e-12).nonzero().max())])


def thresholds(prob: Tensor, y: Tensor, weight: Tensor, group: Tensor, target: float,
               few: int) -> tuple[Tensor, Tensor]:
    """(threshold of each class [C], whether its group is rare [C]) from refined held-out probabilities [n, C] and
    labels [n].

    Each group is judged by the images PREDICTED in it, weighted by `weight` [C] of their true class. It is rare if they
    weigh no more than a tenth of an equal share, or if fewer than `few` images are of its classes. A rare group, and
    one whose accuracy reaches the target as it is, has threshold 0.
    """
    confidence, predicted = prob.max(-1)
    number = int(group.max()) + 1
    out, rare = torch.zeros(number, dtype=prob.dtype), torch.zeros(number, dtype=torch.bool)
    for g in range(number):
        mine = group[predicted] == g
        w, correct = weight[y[mine]], (predicted == y)[mine].to(prob.dtype)
        rare[g] = bool(w.sum() <= weight[y].sum() / (10 * number)) or int((group[y] == g).sum()) < few
        if not rare[g] and (w * correct).sum() / (w.sum() + 1e-6) < target:
            out[g] = threshold(confidence[mine], correct, w, target)
    return out[group], rare[group]
