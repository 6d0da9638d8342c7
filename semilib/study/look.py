"""The pictures behind a finished run's numbers, for whoever looks at it in a notebook.

    looked = Look(trained.load(folder))
    figure, frame = looked.hardest(of="7", n=12)       # so do prototypes, confident_and_wrong and second_head

All are of the run's averaged network on plain pictures, without augmentation. Pseudo-labels are read from its standard
head.
"""
from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from semilib.errors import BadInput, check_name
from semilib.methods.losses import normalised_entropy
from semilib.methods.memory_bank import MemoryBank
from semilib.report.gallery import Row, Tile, gallery
from semilib.report.labels import cell_in_words, display
from semilib.report.paint import Shown
from semilib.study import insight
from semilib.training.trained import Trained

ALL = "all"
MOST = 5_000                    # unlabelled pictures that are looked at
CLASSES = 10                    # of more than so many classes the largest and the smallest are shown


class Look:
    """A finished run, looked at. choices: `ALL` and the names of the classes, from the largest to the smallest.

    images, truth: the unlabelled pool, uint8 [n, 3, H, W] and [n], -1 where a class is unknown; of a pool of more than
    `MOST` pictures every k-th. prob: [n, C] of the standard head. features: [n, D]."""

    def __init__(self, model: Trained):
        self.model, run = model, model.run
        images, truth = insight.pool(run)
        step = -(-len(images) // MOST)
        self.images, self.truth = images[::step], truth[::step]
        self.of_pool = f"{len(self.images):,} of {len(images):,}" if step > 1 else f"{len(images):,}"
        self.prob, self.features = insight.standard(model, self.images), model.features(self.images)
        self.order = insight.order_of(model)
        self.choices = [ALL, *(model.class_names[k] for k in self.order)]
        self.run_name = (f"{display(run.label)}, {cell_in_words(run.cell)}, {run.steps:,} steps of profile "
                         f"{run.profile}, seed {run.seed}")

    @functools.cached_property
    def tested(self) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """Test pictures, their classes, and what the standard head and what the method's prediction take them for."""
        source = insight.source_of(self.model.run)
        before, after = (prob.argmax(-1).numpy() for prob in (insight.standard(self.model, source.test_images),
                                                              self.model.probabilities(source.test_images)))
        return source.test_images, np.asarray(source.test_labels), before, after

    def _classes(self, of: str) -> list[int]:
        """The classes of a choice, at most `CLASSES`. Raises BadInput for a name that no class has."""
        check_name("of", of, self.choices)
        if of != ALL:
            return [self.model.class_names.index(of)]
        half = CLASSES // 2
        return self.order if len(self.order) <= CLASSES else self.order[:half] + self.order[-half:]

    def _name(self, k: int) -> str:
        return self.model.class_names[k] if k >= 0 else "?"

    # ---- four looks --------------------------------------------------------------------------------------------------

    def hardest(self, of: str = ALL, n: int = 16) -> Shown:
        """The n unlabelled pictures, of a true class or of all, whose standard head has the highest entropy, and what
        it takes them for."""
        entropy = normalised_entropy(self.prob).numpy()
        inside = np.isin(self.truth, self._classes(of)) if of != ALL else np.full(len(self.truth), True)
        chosen = [i for i in np.argsort(-entropy, kind="stable") if inside[i]][:n]
        label, sure = self.prob.argmax(-1).tolist(), self.prob.max(-1).values.tolist()
        tiles = [Tile(_pixels(self.images[i]), f"{self._name(self.truth[i])} as {self._name(label[i])}, "
                                               f"{100 * sure[i]:.0f} %", self._right(label[i], self.truth[i]))
                 for i in chosen]
        return gallery([Row("hardest first", tiles)], f"The hardest unlabelled pictures{self._of(of)}",
                       f"Of {self.of_pool} those with the highest entropy of the standard head. Under each: its class, "
                       f"what it is taken for, and the confidence. {self.run_name}.")

    def prototypes(self, of: str = ALL, n: int = 8) -> Shown:
        """For each class the n unlabelled pictures whose features are nearest to its prototype in the memory bank."""
        banks = [module for module in self.model.method.modules() if isinstance(module, MemoryBank)]
        if not banks:
            return gallery([Row("memory bank", [])], "This method has no memory bank", f"{self.run_name}.")
        centres, filled = (x.cpu() for x in banks[0].prototypes())
        distance = torch.cdist(self.features, centres.float())
        rows = []
        for k in self._classes(of):
            nearest = distance[:, k].argsort()[:n].tolist() if filled[k] else []
            rows.append(Row(self._name(k), [Tile(_pixels(self.images[i]), self._name(self.truth[i]),
                                                 self._right(k, self.truth[i])) for i in nearest]))
        return gallery(rows, "Prototypes of the memory bank",
                       "The unlabelled pictures with the nearest features, nearest first. To the left: the prototype's "
                       "class; under each picture: its own. The bank holds features of strong views while the network "
                       f"was trained. {self.run_name}.")

    def confident_and_wrong(self, of: str = ALL, n: int = 8, threshold: float | None = None) -> Shown:
        """For each class the n unlabelled pictures that are taken for it with most confidence and are of another.

        threshold: from which confidence on a pseudo-label counts here; None: from the method's own, else 0.95. Raises
        BadInput where no true class is known."""
        if (self.truth < 0).all():
            raise BadInput("dataset", self.model.run.dataset, "a data set whose unlabelled pictures have known classes")
        least = getattr(self.model.method.cfg, "threshold", 0.95) if threshold is None else threshold
        sure, label = (x.numpy() for x in self.prob.max(-1))
        wrong, rows = label != self.truth, []
        for k in self._classes(of):
            counts = (label == k) & (sure >= least)
            chosen = [i for i in np.argsort(-sure, kind="stable") if counts[i] and wrong[i]][:n]
            rows.append(Row(f"{self._name(k)}\n{(counts & wrong).sum():,} of {counts.sum():,}",
                            [Tile(_pixels(self.images[i]), f"{self._name(self.truth[i])}, {100 * sure[i]:.0f} %", False)
                             for i in chosen]))
        return gallery(rows, f"Wrong pseudo-labels with a confidence of {least:g} or more",
                       "By the class that they name, most confident first. To the left: how many of them are wrong; "
                       f"under each picture: its class, and the confidence. {self.of_pool} unlabelled pictures; "
                       f"{self.run_name}.")

    def second_head(self, of: str = ALL, n: int = 8) -> Shown:
        """For each class the recall on the test pictures by the standard head and by the method's prediction, and
        pictures, at most n, that the second takes otherwise."""
        images, truth, before, after = self.tested
        rows = []
        for k in self._classes(of):
            own = truth == k
            gained, lost = (np.flatnonzero(own & (after != before) & (named == k))[:n // 2]
                            for named in (after, before))
            tiles = [Tile(_pixels(images[i]), f"{self._name(before[i])} → {self._name(after[i])}", right)
                     for chosen, right in ((gained, True), (lost, False)) for i in chosen]
            recalls = " → ".join(f"{100 * (x[own] == k).mean():.0f}" if own.any() else "–" for x in (before, after))
            rows.append(Row(f"{self._name(k)}\n{recalls} %", tiles))
        return gallery(rows, "Test pictures by the standard head → by what the method predicts with",
                       "The second is another head where the method has one. To the left: the class and its recall; "
                       f"blue frames became right, the others wrong. {self.run_name}.")

    # ---- what all share ----------------------------------------------------------------------------------------------

    def _right(self, label: int, truth: int) -> bool | None:
        return None if truth < 0 else bool(label == truth)

    def _of(self, of: str) -> str:
        return "" if of == ALL else f" of {of}"


def _pixels(image: Tensor) -> np.ndarray:
    """uint8 [3, H, W] as a `Tile` has it."""
    return image.permute(1, 2, 0).numpy()
