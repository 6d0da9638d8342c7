"""Figures that need the trained networks: use of the unlabelled images, features, calibration.

    models = {"FixMatch": trained.load(a), "SeMi": trained.load(b)}
    paint.save(*unlabelled_use(models), "figures/figure1")

Each function measures a frame and draws it. Frames are committed, checkpoints are not.
"""
from __future__ import annotations

import functools
import math

import numpy as np
import pandas as pd
import torch

from semilib.data import sources
from semilib.data.batches import split_of
from semilib.errors import BadInput
from semilib.methods.losses import normalised_entropy
from semilib.report import frames, paint
from semilib.report.frames import FEW
from semilib.report.labels import cell_in_words
from semilib.report.paint import PALETTE, Picture, Shown
from semilib.training import metrics
from semilib.training.config import Run
from semilib.training.engine import EVALUATION_BATCH
from semilib.training.trained import Trained

GROUP_COLOURS = {"head": PALETTE[9], "medium": PALETTE[1], "tail": "#4b1d6b"}      # apart in lightness too
SHAPES = "osD^vP<>X*"           # of classes whose names are longer than a letter
NEIGHBOURS = 10
Models = dict[str, Trained]     # by the name that a figure shows


load_once = functools.lru_cache(maxsize=2)(sources.load)


def source_of(run: Run) -> sources.Source:
    return sources.of(run, load_once)


def pool(run: Run) -> tuple[torch.Tensor, np.ndarray]:
    """Unlabelled images of a run, uint8 [n, 3, H, W], and their true classes [n], for measuring only."""
    source, split = split_of(source_of(run), run)
    members = torch.as_tensor(split.unlabelled)
    return source.images[members], np.asarray(source.labels)[members.numpy()]


def order_of(model: Trained) -> list[int]:
    """The classes, from the largest labelled one to the smallest."""
    return metrics.by_size(model.method.info.counts.tolist())


def _first(models: Models) -> tuple[Trained, str]:
    """The first model, and the cell and schedule of all in words. Raises BadInput if they are not the same for all."""
    if not models:
        raise BadInput("models", {}, "at least one trained model")
    scales = {(m.run.cell, m.run.steps, m.run.profile, m.run.network) for m in models.values()}
    if len(scales) > 1:
        raise BadInput("models", sorted(scales), "models of one cell, schedule and network")
    model = next(iter(models.values()))
    run = model.run
    return model, (f"{cell_in_words(run.cell)}; {run.steps:,} steps of profile {run.profile}, {run.network}, "
                   f"seed {run.seed}")


def _record(model: Trained) -> str:
    return frames.source(model.run.seed, model.key, model.code)


def standard(model: Trained, images: torch.Tensor) -> torch.Tensor:
    """The distribution that pseudo-labels are read from: the standard head's, else the prediction's; [n, C]."""
    if "head" not in model.net.heads:
        return model.probabilities(images)
    with torch.no_grad():
        return torch.cat([model.net(model.prepare(part))["head"].softmax(-1)
                          for part in images.split(EVALUATION_BATCH)])


# ---- figure 1: use of the unlabelled images --------------------------------------------------------------------------


def unlabelled_use(models: Models, points: int = 50) -> Shown:
    """Figure 1: which unlabelled images count at which threshold, and how many of them with the right pseudo-label.

    Easy and hard are the halves of lower and higher entropy under the same network. Frame: method, group, half,
    threshold, images (of that group and half), used (share of them, %), right (share of those used, %; NaN for fewer
    than `FEW`), method_threshold (the method's own, a vertical line; NaN without one), runs."""
    first, scale = _first(models)
    images, truth = pool(first.run)
    if (truth < 0).any():
        raise BadInput("dataset", first.run.dataset, "a data set whose unlabelled images have known classes")
    rows = []
    for name, model in models.items():
        prob = standard(model, images)
        confidence, label = (x.numpy() for x in prob.max(-1))
        entropy = normalised_entropy(prob).numpy()
        hard = entropy > np.median(entropy)
        for group, part in metrics.class_groups(len(order_of(model))).items():
            inside = np.isin(truth, order_of(model)[part])
            for half, chosen in (("easy", inside & ~hard), ("hard", inside & hard)):
                for threshold in np.linspace(0, 0.99, points):
                    used = chosen & (confidence >= threshold)
                    rows.append({"method": name, "group": group, "half": half, "threshold": threshold,
                                 "images": int(chosen.sum()), "used": 100 * used.sum() / max(1, chosen.sum()),
                                 "right": 100 * (label[used] == truth[used]).mean() if used.sum() >= FEW else math.nan,
                                 "method_threshold": getattr(model.method.cfg, "threshold", math.nan),
                                 "runs": _record(model)})
    return paint.show("unlabelled_use", pd.DataFrame(rows), "Which unlabelled images count at which threshold",
                      f"{scale}; {len(truth):,} unlabelled images; grey line: the method's own threshold")


@paint.draws("unlabelled_use")
def draw_unlabelled_use(frame: pd.DataFrame) -> Picture:
    methods = paint.parts(frame, "method")
    picture = paint.figure(4.1, max(3.4, 1.75 * len(methods) + 0.6))
    panels = picture.subplots(2, len(methods), sharex=True, sharey=True, squeeze=False)
    for (name, method), (top, bottom) in zip(methods.items(), panels.T, strict=True):
        for (group, half), part in method.groupby(["group", "half"], sort=False):
            look = dict(color=GROUP_COLOURS[group], linestyle="-" if half == "easy" else (0, (3, 1.5)), linewidth=1.3)
            top.plot(part["threshold"], part["used"], label=f"{group}, {half}", **look)
            bottom.plot(part["threshold"], part["right"], **look)
        for axes in (top, bottom):
            if method["method_threshold"].iloc[0] > 0:
                axes.axvline(method["method_threshold"].iloc[0], color=paint.RULE, linewidth=0.8, zorder=0)
            axes.grid(axis="y", color="#e8e8e8", linewidth=0.6)
            paint.percent(axes)
        top.set_title(name)
        bottom.set_xlabel("threshold")
    panels[0, 0].set_ylabel("used (%)")
    panels[1, 0].set_ylabel("right, of those used (%)")
    panels[0, 0].set_xlim(0, 1)
    panels[0, 0].set_ylim(-2, 102)
    picture.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=2.2)
    return picture


# ---- figure 4: features ----------------------------------------------------------------------------------------------


def features_map(models: Models, per_class: int = 40, seed: int = 0) -> Shown:
    """Figure 4: t-SNE of the backbone's features of the same test images, with one seed for all methods.

    Of more than ten classes, the five largest and the five smallest are shown. Distances between clusters mean nothing
    in t-SNE; whether classes are apart does, and `apart` scores it. Frame: method, image (position in the test set),
    class, group (head, medium, tail), x, y, apart (of the image's `NEIGHBOURS` nearest others in the map, the share of
    its own class, %), runs."""
    from sklearn.manifold import TSNE
    first, scale = _first(models)
    source, order = source_of(first.run), order_of(first)
    labels = np.asarray(source.test_labels)
    classes = order if len(order) <= 10 else order[:5] + order[-5:]
    index = np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in classes])
    group = {order[k]: name for name, part in metrics.class_groups(len(order)).items() for k in range(len(order))[part]}
    truth, parts = labels[index], []
    for name, model in models.items():
        features = model.features(source.test_images[torch.as_tensor(index)]).numpy()
        xy = TSNE(random_state=seed, init="pca", perplexity=min(30, (len(index) - 1) / 3)).fit_transform(features)
        xy = xy.astype(float)                              # a CSV of float32 does not read back equal
        parts.append(pd.DataFrame({
            "method": name, "image": index, "class": [source.class_names[k] for k in truth],
            "group": [group[k] for k in truth], "x": xy[:, 0], "y": xy[:, 1], "apart": apart(xy, truth),
            "runs": _record(model)}))
    return paint.show("features_map", pd.concat(parts, ignore_index=True), "Features of the test images, by t-SNE",
                      f"{scale}; {len(index)} test images, t-SNE of seed {seed}; %: of an image's {NEIGHBOURS} nearest "
                      "others in the map, how many are of its class")


def apart(points: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """points [n, 2], classes [n]: of the `NEIGHBOURS` nearest others of each, the share of its own class (%), [n]."""
    from sklearn.neighbors import NearestNeighbors
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(points) - 1)).fit(points).kneighbors()[1]
    return 100 * (classes[nearest] == classes[:, None]).mean(axis=1)


@paint.draws("features_map")
def draw_features(frame: pd.DataFrame) -> Picture:
    methods = paint.parts(frame, "method")
    picture, panels = paint.panels(len(methods), 4, (1.8, 1.85), (0, 0.75), least=3.4)
    for axes, (name, method) in zip(panels, methods.items(), strict=True):
        for (k, part), shape in zip(method.groupby("class", sort=False), SHAPES, strict=False):
            letter = len(k) == 1
            axes.scatter(part["x"], part["y"], s=11 if letter else 7, marker=f"${k}$" if letter else shape,
                         color=GROUP_COLOURS[part["group"].iloc[0]], linewidths=0, label=k)
        axes.set(xticks=[], yticks=[], title=f"{name}, {method['apart'].mean():.0f} %")
        for spine in axes.spines.values():
            spine.set(visible=True, color="#c0c0c0")
    picture.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", markerscale=2, handletextpad=0.1,
                   ncols=10 if len(methods) > 2 else 5, columnspacing=0.8, title_fontsize=7.5,
                   title="class, from the one with most labels to the one with fewest; colour: head, medium, tail")
    return picture


# ---- beyond the paper: calibration -----------------------------------------------------------------------------------


def calibration(models: Models, bins: int = 10) -> Shown:
    """How often a prediction is right against how sure it is, on the test set, in equal bins of confidence.

    ECE: mean gap between the two, weighted by the bins' images (Naeini et al., AAAI 2015). Frame: method, bin (its
    upper end), images, confidence (mean, %), right (%), ece (%), runs."""
    first, scale = _first(models)
    source = source_of(first.run)
    truth, parts = np.asarray(source.test_labels), []
    for name, model in models.items():
        confidence, label = (x.numpy() for x in model.probabilities(source.test_images).max(-1))
        place, rows = np.minimum((confidence * bins).astype(int), bins - 1), []
        for b in range(bins):
            inside = place == b
            rows.append({"method": name, "bin": (b + 1) / bins, "images": int(inside.sum()),
                         "confidence": 100 * confidence[inside].mean() if inside.any() else math.nan,
                         "right": 100 * (label[inside] == truth[inside]).mean() if inside.any() else math.nan})
        gaps = [r["images"] * abs(r["confidence"] - r["right"]) for r in rows if r["images"]]
        parts.append(pd.DataFrame(rows).assign(ece=sum(gaps) / len(truth), runs=_record(model)))
    return paint.show("calibration", pd.concat(parts, ignore_index=True),
                      "How often a prediction is right, against its confidence",
                      f"{scale}; {len(truth):,} test images; bars: share of the images in each bin; ECE: mean gap")


@paint.draws("calibration")
def draw_calibration(frame: pd.DataFrame) -> Picture:
    methods = paint.parts(frame, "method")
    picture, panels = paint.panels(len(methods), 4, (1.75, 1.95), (0.3, 0.5), least=3.4, share=True)
    for axes, (name, part) in zip(panels, methods.items(), strict=True):
        middle, share = 100 * (part["bin"] - 0.5 / len(part)), 100 * part["images"] / part["images"].sum()
        axes.bar(middle, share, width=92 / len(part), color="#d9d9d9", zorder=0)
        axes.plot([0, 100], [0, 100], color=paint.RULE, linewidth=0.8, linestyle=(0, (3, 2)))
        seen = part.dropna(subset=["right"])
        axes.plot(seen["confidence"], seen["right"], color=PALETTE[0], marker="o", markersize=3)
        axes.set(title=f"{name}, ECE {part['ece'].iloc[0]:.1f} %", xlim=(0, 100), ylim=(0, 102))
        paint.percent(axes)
    paint.outer_labels(panels, "confidence (%)", "right (%)")
    return picture
