"""Figures that need the trained networks and not their records alone: use of the unlabelled images, features, calibration.

    models = {"FixMatch": trained.load(a), "SeMi": trained.load(b)}
    figures.save(*unlabelled_use(models), "figures/figure1")

Each function returns a figure and the frame of what it draws, which is what is committed: checkpoints are not.
"""
from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from semilib.data import sources, splits
from semilib.errors import BadInput
from semilib.methods.losses import normalised_entropy
from semilib.report.figures import _SAFE, _percent, style
from semilib.study.sheet_figures import _close, _picture
from semilib.training import metrics
from semilib.training.config import Run
from semilib.training.trained import Trained

FEW = 10                        # a share of fewer images than this is not drawn
GROUP_COLOURS = dict(zip(("head", "medium", "tail"), (_SAFE[0], _SAFE[1], _SAFE[3]), strict=True))


@functools.lru_cache(maxsize=2)
def _data(dataset: str, root: str, side: int, split_seed: int | None, flip: bool | None) -> sources.Source:
    return sources.load(dataset, root, side, split_seed, flip)


def _source(run: Run) -> sources.Source:
    return _data(run.dataset, run.root, run.side, run.split_seed, run.flip)


def _pool(run: Run) -> tuple[torch.Tensor, np.ndarray]:
    """Unlabelled images of a run, uint8 [n, 3, H, W], and their true classes [n], for measuring only."""
    source = _source(run)
    split = splits.make_split(source.labels, len(source.class_names), run.n1, run.m1, run.gamma_l, run.gamma_u, run.order,
                              run.labelled_in_unlabelled, run.split_seed, run.labelled_share)
    if run.holdout:
        split, _ = splits.hold_out(split, source.labels, run.holdout)
    members = torch.as_tensor(split.unlabelled)
    return source.images[members], np.asarray(source.labels)[members.numpy()]


def _groups(model: Trained) -> dict[str, list[int]]:
    counts = model.method.info.counts.tolist()
    order = metrics.by_size(counts)
    return {name: order[part] for name, part in metrics.class_groups(len(counts)).items()}


def _same_cell(models: dict[str, Trained]) -> str:
    """The cell and schedule of all models in words. Raises BadInput if they differ: their figures would not be comparable."""
    if not models:
        raise BadInput("models", {}, "at least one trained model")
    what = {(m.run.cell, m.run.steps, m.run.profile, m.run.network) for m in models.values()}
    if len(what) > 1:
        raise BadInput("models", sorted(what), "models of one cell, schedule and network")
    run = next(iter(models.values())).run
    return f"{run.cell}, {run.steps:,} steps of profile {run.profile}, {run.network}"


def _standard(model: Trained, images: torch.Tensor) -> torch.Tensor:
    """The distribution that pseudo-labels are read from: the standard head's where there is one of that name, else the prediction's."""
    from semilib.data import augment
    from semilib.training.engine import EVALUATION_BATCH
    if "head" not in model.net.heads:
        return model.probabilities(images)
    with torch.no_grad():
        return torch.cat([model.net(augment.normalise(part, model.mean, model.std))["head"].softmax(-1)
                          for part in images.split(EVALUATION_BATCH)])


# ---- figure 1: use of the unlabelled images --------------------------------------------------------------------------------------------


def unlabelled_use(models: dict[str, Trained], points: int = 50) -> tuple[Figure, pd.DataFrame]:
    """Figure 1: which unlabelled images count at which threshold, and how many of them with the right pseudo-label, by class group; easy
    and hard are the halves of lower and higher entropy under the same network. The vertical line is the method's own threshold.

    Frame: method, group, half, threshold, images (of that group and half), used (share of them, %), right (share of those
    used, %; NaN for fewer than `FEW`)."""
    line = _same_cell(models)
    first = next(iter(models.values()))
    images, truth = _pool(first.run)
    if (truth < 0).any():
        raise BadInput("dataset", first.run.dataset, "a data set whose unlabelled images have known classes")
    thresholds, rows = np.linspace(0, 0.99, points), []
    for name, model in models.items():
        prob = _standard(model, images)
        confidence, label = (x.numpy() for x in prob.max(-1))
        entropy = normalised_entropy(prob).numpy()
        hard = entropy > np.median(entropy)
        for group, members in _groups(model).items():
            inside = np.isin(truth, members)
            for half, chosen in (("easy", inside & ~hard), ("hard", inside & hard)):
                for t in thresholds:
                    used = chosen & (confidence >= t)
                    rows.append({"method": name, "group": group, "half": half, "threshold": t, "images": int(chosen.sum()),
                                 "used": 100 * used.sum() / max(1, chosen.sum()),
                                 "right": 100 * (label[used] == truth[used]).mean() if used.sum() >= FEW else math.nan})
    frame = pd.DataFrame(rows)
    with style():
        figure = _picture(4.1, max(3.4, 1.75 * len(models) + 0.6))
        panels = figure.subplots(2, len(models), sharex=True, sharey=True, squeeze=False)
        for (name, model), (top, bottom) in zip(models.items(), panels.T, strict=True):
            for (group, half), part in frame[frame["method"] == name].groupby(["group", "half"], sort=False):
                look = dict(color=GROUP_COLOURS[group], linestyle="-" if half == "easy" else (0, (3, 1.5)), linewidth=1.3)
                top.plot(part["threshold"], part["used"], label=f"{group}, {half}", **look)
                bottom.plot(part["threshold"], part["right"], **look)
            own = getattr(model.method.cfg, "threshold", None)
            for axes in (top, bottom):
                if own:
                    axes.axvline(own, color="#909090", linewidth=0.8, zorder=0)
                axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
                _percent(axes)
            top.set_title(name)
            bottom.set_xlabel("threshold")
        panels[0, 0].set_ylabel("used (%)")
        panels[1, 0].set_ylabel("right, of those used (%)")
        panels[0, 0].set_xlim(0, 1)
        panels[0, 0].set_ylim(-2, 102)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=2.2)
        _close(figure, f"Unlabelled images against the threshold. {line}; {len(truth):,} images; seed {first.run.seed}")
    return figure, frame


# ---- figure 4: features -----------------------------------------------------------------------------------------------------------------


def features_map(models: dict[str, Trained], per_class: int = 40, seed: int = 0) -> tuple[Figure, pd.DataFrame]:
    """Figure 4: t-SNE of the backbone's features of the same test images, `per_class` of each class (at most ten classes: the five largest
    and the five smallest), with one seed for all methods. Distances between clusters mean nothing in t-SNE; whether classes are apart does.

    Frame: method, image (position in the test set), class, x, y."""
    from sklearn.manifold import TSNE
    line = _same_cell(models)
    first = next(iter(models.values()))
    source = _source(first.run)
    order = metrics.by_size(first.method.info.counts.tolist())
    shown = order if len(order) <= 10 else [*order[:5], *order[-5:]]
    labels = np.asarray(source.test_labels)
    index = np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in shown])
    rows = []
    for name, model in models.items():
        f = model.features(source.test_images[torch.as_tensor(index)]).numpy()
        xy = TSNE(random_state=seed, init="pca", perplexity=min(30, (len(index) - 1) / 3)).fit_transform(f)
        rows.append(pd.DataFrame({"method": name, "image": index, "class": [source.class_names[k] for k in labels[index]],
                                  "x": xy[:, 0], "y": xy[:, 1]}))
    frame = pd.concat(rows, ignore_index=True)
    with style():
        columns = min(4, len(models))
        lines = math.ceil(len(models) / columns)
        figure = _picture(1.85 * lines + 0.75, max(3.4, 1.8 * columns))
        panels = figure.subplots(lines, columns, squeeze=False)
        shades = [_SAFE[0], _SAFE[1], _SAFE[2], _SAFE[3], _SAFE[4], _SAFE[5], _SAFE[6], _SAFE[7], _SAFE[8], _SAFE[9]]
        for axes in panels.flat[len(models):]:
            axes.set_visible(False)
        for axes, name in zip(panels.flat, models, strict=False):
            for k, colour in zip(shown, shades, strict=False):
                own = frame[(frame["method"] == name) & (frame["class"] == source.class_names[k])]
                axes.scatter(own["x"], own["y"], s=4, color=colour, linewidths=0, label=source.class_names[k])
            axes.set(xticks=[], yticks=[], title=name)
            for spine in axes.spines.values():
                spine.set(visible=True, color="#c0c0c0")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=10 if columns > 2 else 5, markerscale=2,
                      handletextpad=0.1, columnspacing=0.8, title="class, from the one with most labels to the one with fewest",
                      title_fontsize=7.5)
        _close(figure, f"t-SNE of the features of {len(index)} test images, seed {seed}. {line}; run of seed {first.run.seed}")
    return figure, frame


# ---- beyond the paper: calibration -----------------------------------------------------------------------------------------------------


def calibration(models: dict[str, Trained], bins: int = 10) -> tuple[Figure, pd.DataFrame]:
    """How often a prediction is right against how sure it is, on the test set. Bars: share of the test images in each of `bins` equal bins
    of confidence. ECE: mean gap between the two, weighted by the bins' images (Naeini et al., AAAI 2015).

    Frame: method, bin (its upper end), images, confidence (mean, %), right (%), ece (%)."""
    line = _same_cell(models)
    source = _source(next(iter(models.values())).run)
    truth, rows = np.asarray(source.test_labels), []
    for name, model in models.items():
        confidence, label = (x.numpy() for x in model.probabilities(source.test_images).max(-1))
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        own = []
        for b in range(bins):
            inside = place == b
            own.append({"method": name, "bin": (b + 1) / bins, "images": int(inside.sum()),
                        "confidence": 100 * confidence[inside].mean() if inside.any() else math.nan,
                        "right": 100 * (label[inside] == truth[inside]).mean() if inside.any() else math.nan})
        gap = sum(r["images"] * abs(r["confidence"] - r["right"]) for r in own if r["images"]) / len(truth)
        rows += [{**r, "ece": gap} for r in own]
    frame = pd.DataFrame(rows)
    with style():
        columns = min(4, len(models))
        lines = math.ceil(len(models) / columns)
        figure = _picture(1.95 * lines + 0.5, max(3.4, 1.75 * columns + 0.3))
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes in panels.flat[len(models):]:
            axes.set_visible(False)
        for axes, name in zip(panels.flat, models, strict=False):
            own = frame[frame["method"] == name]
            axes.bar(100 * (own["bin"] - 0.5 / bins), 100 * own["images"] / len(truth), width=92 / bins, color="#d9d9d9", zorder=0)
            axes.plot([0, 100], [0, 100], color="#909090", linewidth=0.8, linestyle=(0, (3, 2)))
            seen = own.dropna(subset=["right"])
            axes.plot(seen["confidence"], seen["right"], color=_SAFE[0], marker="o", markersize=3)
            axes.set(title=f"{name}, ECE {own['ece'].iloc[0]:.1f} %", xlim=(0, 100), ylim=(0, 102))
            _percent(axes)
        for axes in panels[-1]:
            axes.set_xlabel("confidence (%)")
        for row in panels:
            row[0].set_ylabel("right (%)")
        seed = next(iter(models.values())).run.seed
        _close(figure, f"Calibration on {len(truth):,} test images. {line}; run of seed {seed}; bars: share of the images in each bin")
    return figure, frame
