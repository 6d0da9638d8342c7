"""`Data` whose pictures are an encoder's stored features: to the step, a picture of one pixel with D channels.

Which of an image's K stored views a step sees is a draw of the run's seed; several views of one image in a step are
different ones. The engine, the methods and the network's heads see no difference.
"""
from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semilib.data import augment, rng, sources
from semilib.data.batches import Data, LiveStream, split_of
from semilib.data.pictures import Report, silent
from semilib.data.sources import Source
from semilib.data.splits import Split
from semilib.data.step import Batch, StepImages, Time
from semilib.errors import BadInput
from semilib.features.store import Look, Store

if TYPE_CHECKING:
    from semilib.training.config import Run

ROOM = 2 * 2**30                    # bytes of features that a run holds in memory; beyond, it reads them step by step
AHEAD = 64                          # steps whose views are laid out at a time
LEAST_STD = 1e-2                    # of a feature, relative to the mean deviation of all: one that never varies stays 0


class FeatureData(Data):
    """See `Data`. `images` are the numbers of the pictures; raw images are positions in the run's own rows.

    rows: picture numbers of the run, labelled and unlabelled, int64 [P], ascending. tables: kind of view -> float16
    [P, K, D], or nothing where a run reads its features from the disk. scale, shift: float64 [1, D, 1, 1], of the
    standardisation.
    """

    def __init__(self, source: Source, split: Split, run: Run, device: torch.device,
                 report: Report = silent):
        self.report = report
        super().__init__(source, split, run, device)

    def keep_images(self) -> None:
        source, run = self.source, self.run
        self.rows = torch.unique(torch.cat([self.labelled, self.unlabelled]))
        place = torch.full((len(source.images),), -1, dtype=torch.int64)
        place[self.rows] = torch.arange(len(self.rows))
        self.place = place.to(self.device)
        self.images = torch.arange(len(source.images))
        self.resident = False                           # until `open` knows how many views there are
        self.tables: dict[str, Tensor] = {}
        self.read: dict[str, Tensor] = {}               # kind -> which rows its table holds, bool [P]
        self.store, self.test_store = stores(source, run, self.device, self.report)
        self.channels = self.store.features
        every = torch.arange(len(source.test_images))
        self.test_store.ensure({"none": 1}, every)
        self.test_images = as_pictures(self.test_store.read("none", 0, every))
        self.store.ensure({"none": 1}, self.rows)
        counted = self.labelled if run.statistics == "labelled" else self.rows
        mean, std = statistics(self.store, counted)
        self.scale, self.shift = (1 / std).to(self.device), (-mean / std).to(self.device)

    # ---- the views of a step -----------------------------------------------------------------------------------------

    def kept(self, kind: str) -> int:
        """How many views of a kind are kept of each picture."""
        return {"none": 1, "strong": self.run.stored_strong}.get(kind, self.run.stored_weak)

    def open(self, plan: StepImages) -> None:
        super().open(plan)
        for stream, kind in set(plan.views.values()):
            asked = len(self.group(stream, kind))
            if kind != "none" and asked > self.kept(kind):
                field = "stored_strong" if kind == "strong" else "stored_weak"
                raise BadInput(field, self.kept(kind), f"at least {asked}: a step shows so many different ones of an "
                                                       "image")
        self.stretch = -1
        self.numbers = {(stream, kind): torch.zeros(AHEAD, self.streams[stream].size, len(self.group(stream, kind)),
                                                    dtype=torch.int64, device=self.device)
                        for stream, kind in dict.fromkeys(plan.views.values())}
        kinds = {kind for _, kind in self.numbers}               # streams share the table of a kind
        size = sum(map(self.kept, kinds)) * len(self.rows) * self.store.features * 2
        self.resident = self.run.data_on != "host" and size <= ROOM
        if not self.resident:
            self.buffers = {name: torch.empty((self.streams[stream].size, self.store.features), dtype=torch.float16,
                                              device=self.device) for name, (stream, _) in plan.views.items()}
        for stream in self.streams.values():
            self.fill(stream)

    def set_members(self, stream: str, members: Tensor, targets: Tensor, start: int = 0) -> None:
        super().set_members(stream, members, targets, start)
        self.fill(self.streams[stream])

    def fill(self, stream: LiveStream) -> None:
        """Have the stored views that a stream's members are shown in, in memory where the run keeps them there."""
        for kind in {kind for of, kind in self.step_images.views.values() if of == stream.name}:
            members = torch.unique(stream.members.cpu())
            self.store.ensure({kind: self.kept(kind)}, members)
            if not self.resident:
                continue
            if kind not in self.tables:
                shape = (len(self.rows), self.kept(kind), self.store.features)
                self.tables[kind] = torch.zeros(shape, dtype=torch.float16, device=self.device)
                self.read[kind] = torch.zeros(len(self.rows), dtype=torch.bool)
            place = self.place.cpu()[members]
            members, place = members[~self.read[kind][place]], place[~self.read[kind][place]]
            for number in range(self.kept(kind)) if len(members) else ():
                values = self.store.read(kind, number, members).to(self.device)
                self.tables[kind][place.to(self.device), number] = values
            self.read[kind][place] = True

    def group(self, stream: str, kind: str) -> list[str]:
        """The step's views of one kind of one stream: of an image they show different stored ones."""
        return [name for name, asked in self.step_images.views.items() if asked == (stream, kind)]

    def lay_out(self, step: int) -> None:
        """Host side: the numbers of the stored views that the steps of a stretch show, `numbers` [AHEAD, n, views] of
        each stream and kind; those of one image in one step are all different."""
        if step // AHEAD == self.stretch:
            return
        self.stretch = step // AHEAD
        for stream, kind in dict.fromkeys(self.step_images.views.values()):
            n, count = self.streams[stream].size, len(self.group(stream, kind))
            words = rng.words(self.run.seed, f"stored/{stream}/{kind}", self.stretch, AHEAD * n, self.kept(kind))
            drawn = words.argsort(dim=1, stable=True)[:, :count].view(AHEAD, n, count)
            self.numbers[stream, kind].copy_(drawn)

    def prepare(self, step: int) -> None:
        for stream in self.streams.values():
            stream.prepare(step)
        self.lay_out(step)
        if self.resident:
            return
        now = torch.tensor(step, device=self.device)
        for (stream, kind), numbers in self.numbers.items():
            rows = self.streams[stream].members[self.streams[stream].draw(now)].cpu()
            for name, chosen in zip(self.group(stream, kind), numbers[step % AHEAD].cpu().T, strict=True):
                for number in chosen.unique().tolist():
                    at = torch.nonzero(chosen == number).squeeze(1)
                    self.buffers[name][at.to(self.device)] = self.store.read(kind, number, rows[at]).to(self.device)

    def pick(self, now: Time) -> tuple[Batch, dict[str, Tensor]]:
        """The step's batch, and each stream's positions in the run's rows, int64 [n]."""
        drawn = {name: stream.draw(now.step) for name, stream in self.streams.items()}
        raw = {name: self.place[stream.members[drawn[name]]] for name, stream in self.streams.items()}
        return self.described(drawn), raw

    def views(self, raw: dict[str, Tensor], step: int | Tensor) -> dict[str, Tensor]:
        """The plan's views, name -> float16 [n, D, 1, 1]."""
        if not self.resident:
            return {name: as_pictures(self.buffers[name]) for name in self.step_images.views}
        out: dict[str, Tensor] = {}
        at = torch.as_tensor(step % AHEAD, device=self.device).view(1)           # a 0-dim index would be read back
        for (stream, kind), numbers in self.numbers.items():
            shown = self.tables[kind][raw[stream].unsqueeze(1), numbers[at].squeeze(0)]         # [n, views, D]
            out.update(zip(self.group(stream, kind), map(as_pictures, shown.unbind(1)), strict=True))
        return {name: out[name] for name in self.step_images.views}

    def normalise(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Features float16 [n, D, 1, 1], standardised."""
        return torch.addcmul(self.shift.to(dtype), x.to(dtype), self.scale.to(dtype))

    # ---- whole sets, new pictures ------------------------------------------------------------------------------------

    def shown(self, rows: Tensor, kind: str, stream: str, step: int | Tensor) -> Tensor:
        rows = rows.cpu()
        self.store.ensure({kind: self.kept(kind)}, rows)
        words = rng.words(self.run.seed, f"stored/{stream}", int(step), len(rows), 1)
        numbers = rng.integers(words[:, 0], self.kept(kind))
        out = torch.empty(len(rows), self.store.features, dtype=torch.float16)
        for number in numbers.unique().tolist():
            at = numbers == number
            out[at] = self.store.read(kind, number, rows[at])
        return as_pictures(out).to(self.device)

    def encoded(self, pictures: Tensor) -> Tensor:
        """Standardised features, float64 [n, D, 1, 1], of normalised pictures [n, 3, H, W]; see `Info`."""
        features = self.store.runner()(bytes_of(pictures, self.source.mean, self.source.std))
        return self.normalise(as_pictures(features.to(self.device, torch.float16)), torch.float64)

    def pictures(self, n: int) -> Tensor:
        """At most n of the run's pictures, evenly over them, normalised, float64 [n, 3, H, W]; see `Info`."""
        chosen = self.rows[::max(1, len(self.rows) // n)][:n]
        return augment.normalise(self.source.images[chosen], self.source.mean, self.source.std, torch.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """Also the standardisation, with which a finished run's network is used."""
        return {**super().state_dict(), "scale": self.scale, "shift": self.shift}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.scale.copy_(state["scale"])
        self.shift.copy_(state["shift"])
        super().load_state_dict({name: value for name, value in state.items() if name not in ("scale", "shift")})

    def shared(self) -> list[object]:
        return [self.source, self.images, self.test_images, *self.tables.values(), self.store, self.test_store]


def stores(source: Source, run: Run, device: torch.device, report: Report = silent) -> tuple[Store, Store]:
    """The stores of a run's training and test pictures."""
    name = Path(run.root).expanduser().resolve().name if run.dataset == "imagefolder" else run.dataset
    evaluated = "heldout" if run.holdout or run.holdout_images else "test"
    given = (Look(source.flip, run.crop, run.strong_pool, source.mean), run.encoder, run.encoder_side,
             run.encoder_weights, device, report, run.encoder_precision)
    root = sources.folder_of(run.dataset, run.root)
    return (Store(root, f"{name}-train", source.images, *given),
            Store(root, f"{name}-{evaluated}", source.test_images, *given))


# The fields of a run that say what it asks of stores: runs that share them are asked once.
ASKS = ("dataset", "root", "side", "flip", "crop", "strong_pool", "encoder", "encoder_side", "encoder_weights",
        "encoder_precision", "stored_weak", "stored_strong", "n1", "m1", "gamma_l", "gamma_u", "order",
        "labelled_in_unlabelled", "split_seed", "labelled_share", "holdout", "holdout_images")
Need = tuple[Store, dict[str, int], Tensor]             # a store, kind of view -> how many, numbers of the pictures


def needs(runs: Iterable[Run], report: Report = silent) -> list[Need]:
    """What runs will ask of stores, joined store by store, so that it can be made before any of them starts: the weak
    and strong views of all their images, plain ones too. Raises BadInput for a run without an encoder."""
    out: dict[Path, Need] = {}
    load_once = functools.cache(sources.load)
    for run in {tuple(getattr(run, name) for name in ASKS): run for run in runs}.values():
        if run.encoder == "none":
            raise BadInput("encoder", "none", "an encoder, such as efficientnet-lite0, or profile=features")
        source, split = split_of(sources.of(run, load_once), run)
        own = torch.from_numpy(np.union1d(split.labelled, split.unlabelled))
        train, test = stores(source, run, torch.device("cuda" if torch.cuda.is_available() else "cpu"), report)
        views = {"none": 1, "weak": run.stored_weak, "strong": run.stored_strong}
        for store, kinds, rows in ((train, views, own), (test, {"none": 1}, torch.arange(len(source.test_images)))):
            before = out.get(store.folder, (store, {}, rows[:0]))
            joined = {kind: max(count, before[1].get(kind, 0)) for kind, count in kinds.items()}
            out[store.folder] = (store, {**before[1], **joined}, torch.unique(torch.cat([before[2], rows])))
    return list(out.values())


def bytes_of(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised pictures [n, 3, H, W] as uint8, as far as there are such colours."""
    m, s = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in (mean, std))
    return (255 * (m + pictures.double().cpu() * s)).round().clamp(0, 255).to(torch.uint8)


def as_pictures(features: Tensor) -> Tensor:
    """[n, D] as [n, D, 1, 1]."""
    return features[:, :, None, None]


def statistics(store: Store, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the plain features of some pictures, float64 [1, D, 1, 1] each.

    In two passes over parts, so that no set is held whole."""
    parts = rows.split(8192)
    mean = torch.stack([store.read("none", 0, part).double().sum(0) for part in parts]).sum(0) / len(rows)
    square = torch.stack([(store.read("none", 0, part).double() - mean).square().sum(0) for part in parts]).sum(0)
    std = (square / len(rows)).sqrt()
    std = std.clamp(min=LEAST_STD * float(std.mean()))
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def dealt(source: Source, split: Split, run: Run, device: torch.device,
          report: Report = silent) -> Data:
    """The images of a run: its pictures, or their stored features where it has an encoder."""
    if run.encoder == "none":
        return Data(source, split, run, device)
    return FeatureData(source, split, run, device, report)
