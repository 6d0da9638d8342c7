"""Batches on the training device: a data set is one uint8 tensor, a batch is a gather, and its images are a function of
the step.

No worker processes and no per-image Python. Where the images do not fit on the device they stay in (memory-mapped) host
memory behind the same `batch(now)`: `prepare(step)`, which runs on the host before each step, then copies the step's
images over. """
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from semilib.data import augment, rng, splits
from semilib.data.sources import Source
from semilib.data.splits import Split
from semilib.data.step import Batch, StepImages, Stream, Time
from semilib.errors import BadInput, check_name

if TYPE_CHECKING:
    from semilib.training.config import Run

SAMPLERS = ("shuffled", "balanced")


def split_of(source: Source, run: Run) -> tuple[Source, Split]:
    """A run's source and its split. Images that are held out stand in the place of the test set, which is then not
    looked at. Raises BadInput as `make_split` does."""
    split = splits.make_split(np.asarray(source.labels), len(source.class_names), run.n1, run.m1, run.gamma_l,
                              run.gamma_u, run.order, run.labelled_in_unlabelled, run.split_seed, run.labelled_share)
    if not (run.holdout or run.holdout_images):
        return source, split
    labels = np.asarray(source.labels)
    if run.holdout:
        split, out = splits.hold_out(split, labels, run.holdout)
    else:
        out = splits.held_beside(split, labels, run.holdout_images, run.split_seed)
    held = torch.as_tensor(out)
    return dataclasses.replace(source, test_images=source.images[held], test_subset=None,
                               test_labels=torch.as_tensor(source.labels)[held]), split


class LiveStream:
    """One stream of batches over a set of images.

    members: int64 [n] image indices. targets: int64 [n] class labels (-1 = none) or float [n, C] rows; what the method
    may see. A shuffled stream deals each pass without repeats, drops the last incomplete batch and starts a new pass; a
    set smaller than the batch is dealt from permutations laid end to end, so that no batch is short and every image is
    seen equally often. start: the step at which the first pass begins. positions: int64 [n], the members' places in the
    set that the stream was opened on; see `Data.places`. """

    def __init__(self, name: str, members: Tensor, targets: Tensor, size: int, sampler: str, seed: int,
                 start: int = 0, positions: Tensor | None = None):
        check_name("sampler", sampler, SAMPLERS)
        self.name, self.members, self.targets = name, members, targets
        self.size, self.sampler, self.seed, self.start = size, sampler, seed, start
        self.positions = torch.arange(len(members), device=members.device) if positions is None else positions
        n = len(members)
        if n == 0:
            raise BadInput(name, n, "a stream needs at least one image")
        self.batches = n // size if n >= size else n                  # batches a pass
        self.passes = 1 if n >= size else size                        # permutations laid end to end in a pass
        self.order = torch.zeros(self.batches * size, dtype=torch.int64, device=members.device)
        self.current = -1
        if sampler == "balanced":
            classes = int(targets.max()) + 1
            self.by_class = torch.argsort(targets, stable=True)
            self.class_sizes = torch.bincount(targets, minlength=classes)
            self.class_starts = self.class_sizes.cumsum(0) - self.class_sizes

    def prepare(self, step: int) -> None:
        """Host side: lay out the pass that `step` lies in (nothing to do within a pass)."""
        number = (step - self.start) // self.batches
        if self.sampler == "shuffled" and number != self.current:
            n, device = len(self.members), self.members.device
            first = (self.start + number) * self.passes
            drawn = [rng.permutation(self.seed, f"order/{self.name}", first + i, n, device)
                     for i in range(self.passes)]
            self.order.copy_(torch.cat(drawn)[:len(self.order)])
            self.current = number

    def draw(self, step: Tensor) -> Tensor:
        """Places among the members of this step's images, int64 [size]."""
        device = self.members.device
        if self.sampler == "shuffled":
            return self.order[((step - self.start) % self.batches) * self.size + torch.arange(self.size, device=device)]
        w = rng.words(self.seed, f"order/{self.name}", step, self.size, 2, device)
        k = rng.integers(w[:, 0], len(self.class_sizes))
        return self.by_class[self.class_starts[k] + ((w[:, 1] * self.class_sizes[k]) >> 32)]


class Data:
    """The images of a run, its split and its live streams.

    `labelled`, `unlabelled`: int64 image indices. `known` [N_u]: which of the pool are labelled images too. `counts`
    [C]: labelled images a class. `truth` [N_u]: the pool's true labels, for measuring pseudo-labels only (-1 =
    unknown); no method sees them. `oracle` [C]: their counts, None if unknown. `channels`: of what the network is
    given."""

    channels = 3
    encoded: Callable[[Tensor], Tensor] | None = None       # see `Info`, as the next one
    pictures: Callable[[int], Tensor] | None = None

    def __init__(self, source: Source, split: Split, run: Run, device: torch.device):
        self.source, self.split, self.run, self.device = source, split, run, device
        labels = torch.as_tensor(source.labels)
        self.labelled, self.unlabelled = torch.as_tensor(split.labelled), torch.as_tensor(split.unlabelled)
        self.y = labels[self.labelled].to(device)
        self.truth = labels[self.unlabelled].to(device)
        self.known = torch.isin(self.unlabelled, self.labelled).to(device)
        self.classes = len(source.class_names)
        self.oracle = None if (self.truth < 0).any() else torch.bincount(self.truth.cpu(), minlength=self.classes)
        self.counts = torch.bincount(labels[self.labelled], minlength=self.classes)
        self.streams: dict[str, LiveStream] = {}
        self.opened_on: dict[str, str] = {}                           # stream -> the set of its first members
        self.changed: set[str] = set()
        self.version = 0                                              # moves when a stream is given other members
        self.keep_images()

    def keep_images(self) -> None:
        """Put the images where the run reads them from: on the device, or in host memory."""
        run, source, device = self.run, self.source, self.device
        self.resident = run.data_on == "device" or (run.data_on == "auto" and fits(source.images, device))
        self.images = source.images.to(device) if self.resident else source.images
        self.test_images = source.test_images.to(device) if self.resident else source.test_images

    def open(self, plan: StepImages) -> None:
        """Make the streams that the plan's views use. A stream that exists already goes on as it is, with the members
        that it was given. Raises BadInput for a view of an unknown stream."""
        self.step_images = plan
        specs = {"labelled": Stream("labelled"), "unlabelled": Stream("unlabelled", size=self.run.batch * self.run.mu),
                 **plan.streams}
        used = {stream for stream, _ in plan.views.values()}
        for stream in used:
            check_name("stream", stream, specs)
        self.streams = {name: stream for name, stream in self.streams.items() if name in used}
        for name in sorted(used - self.streams.keys()):
            self.opened_on[name] = specs[name].of
            members, targets = self.of(specs[name].of)
            self.streams[name] = LiveStream(name, members.to(self.device), targets, specs[name].size or self.run.batch,
                                            specs[name].sampler, self.run.seed)
        if not self.resident:
            self.buffers = {name: torch.empty((s.size, *self.images.shape[1:]), dtype=torch.uint8, device=self.device)
                            for name, s in self.streams.items()}

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Image indices and visible labels (-1 = hidden) of a set: "labelled", "unlabelled" or "union" (no repeats)."""
        hidden = torch.full((len(self.unlabelled),), -1, device=self.device)
        if name == "labelled":
            return self.labelled, self.y
        if name == "unlabelled":
            return self.unlabelled, hidden
        if name == "union":
            rest = ~self.known.cpu()
            return torch.cat([self.labelled, self.unlabelled[rest]]), torch.cat([self.y, hidden[rest.to(self.device)]])
        raise BadInput("set", name, "labelled, unlabelled or union")

    def set_members(self, stream: str, members: Tensor, targets: Tensor, start: int = 0) -> None:
        """Deal a stream from other images from now on (CReST's and CPG's growing labelled sets, DyTrim's subsets);
        checkpoints hold the change. start: the step at which its first pass begins. Raises BadInput for an image in the
        unlabelled stream that is not of the pool."""
        old, positions = self.streams[stream], self.places(stream, members)
        if stream == "unlabelled" and int(positions.max()) >= len(self.unlabelled):
            raise BadInput("members", "an image outside of the pool", "images of the unlabelled set")
        self.streams[stream] = LiveStream(stream, members.to(self.device), targets.to(self.device), old.size,
                                          old.sampler, old.seed, start, positions.to(self.device))
        self.changed.add(stream)
        self.version += 1

    def places(self, stream: str, members: Tensor) -> Tensor:
        """Where images stand in the set that a stream was opened on, int64 [n]. Those outside of it are numbered after
        it, in their order."""
        whole = self.of(self.opened_on[stream])[0].cpu()
        place = torch.full((len(self.images),), -1, dtype=torch.int64)
        place[whole] = torch.arange(len(whole))
        out = place[members.cpu()]
        outside = out < 0
        out[outside] = len(whole) + torch.arange(int(outside.sum()))
        return out

    def prepare(self, step: int) -> None:
        """Host side, before step `step`."""
        for name, stream in self.streams.items():
            stream.prepare(step)
            if not self.resident:
                rows = stream.members[stream.draw(torch.tensor(step, device=self.device))].cpu().numpy()
                self.buffers[name].copy_(gather_host(self.images, rows), non_blocking=True)

    def batch(self, now: Time) -> tuple[Batch, dict[str, Tensor]]:
        """The step's batch without its images, and its views: name -> uint8 [n, 3, H, W]. Tensor operations only."""
        batch, raw = self.pick(now)
        return batch, self.views(raw, now.step)

    def pick(self, now: Time) -> tuple[Batch, dict[str, Tensor]]:
        """The step's batch without its images, and each stream's raw images, uint8 [n, 3, H, W]. The sizes of the sets
        show here and nowhere after."""
        drawn = {name: stream.draw(now.step) for name, stream in self.streams.items()}
        raw = {name: self.images[stream.members[drawn[name]]] if self.resident else self.buffers[name]
               for name, stream in self.streams.items()}
        return self.described(drawn), raw

    def described(self, drawn: dict[str, Tensor]) -> Batch:
        """The batch of the members drawn from each stream. Its positions are those in the whole set, whichever images
        a stream is dealt from."""
        targets = {name: stream.targets[drawn[name]] for name, stream in self.streams.items()}
        index = {name: stream.positions[drawn[name]] for name, stream in self.streams.items()}
        index_u = index.get("unlabelled")
        return Batch(y=targets["labelled"], index_l=index["labelled"], index_u=index_u,
                     known_u=None if index_u is None else self.known[index_u], index=index, targets=targets)

    def views(self, raw: dict[str, Tensor], step: int | Tensor) -> dict[str, Tensor]:
        """The plan's views of each stream's raw images. Views of one kind are made together, 64 rows or 256 being the
        same work to start: alone, those of SeMi's step would take 2,198 operators (kernels, on a GPU) instead of
        1,179."""
        out: dict[str, Tensor] = {}
        for kind in dict.fromkeys(kind for _, kind in self.step_images.views.values()):
            group = {name: raw[stream] for name, (stream, of) in self.step_images.views.items() if of == kind}
            names = tuple((name, len(x)) for name, x in group.items())
            joined = self.view(torch.cat(list(group.values())), kind, names, step)
            out.update(zip(group, joined.split([n for _, n in names]), strict=True))
        return {name: out[name] for name in self.step_images.views}

    def view(self, x: Tensor, kind: str, name: str | tuple[tuple[str, int], ...], step: int | Tensor) -> Tensor:
        """One view of raw images, uint8 to uint8, or several (name, rows), whose images lie end to end; their draws are
        keyed by the run's seed, the view's name and the step. kind: "none" (the images as they are), "weak", "strong"
        (of the run's pool) or "sim" (contrastive); see `augment`."""
        if kind == "none":
            return x
        stream = f"view/{name}" if isinstance(name, str) else tuple((f"view/{n}", rows) for n, rows in name)
        if kind == "weak":
            return augment.weak(x, self.run.seed, stream, step, self.source.flip, self.run.crop)
        if kind == "strong":
            return augment.strong(x, self.run.seed, stream, step, self.source.flip, self.run.strong_pool, self.run.crop,
                                  self.source.mean)
        if kind == "sim":
            return augment.sim(x, self.run.seed, stream, step, self.source.flip)
        raise BadInput("view", kind, "none, weak, strong or sim")

    def shown(self, rows: Tensor, kind: str, stream: str, step: int | Tensor) -> Tensor:
        """A view of images by their numbers, int64 [n], outside of a step's batch; its draws are keyed by `stream`."""
        return self.view(self.images[rows.to(self.images.device)].to(self.device), kind, stream, step)

    def shared(self) -> list[object]:
        """What a copy of a running trainer does not need a copy of."""
        return [self.source, self.images, self.test_images]

    def normalise(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Views, uint8 [n, 3, H, W], as the network's input."""
        return augment.normalise(x, self.source.mean, self.source.std, dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs of the data: streams that were given other members. All the rest follows from the
        step."""
        return {f"{name}/{what}": torch.as_tensor(getattr(self.streams[name], what))
                for name in self.changed for what in ("members", "targets", "start")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name in {key.split("/")[0] for key in state}:
            self.set_members(name, state[f"{name}/members"], state[f"{name}/targets"], int(state[f"{name}/start"]))


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images may live on the device: on CUDA within half of the free memory; on a CPU always, where a
    memory-mapped file is read as it is touched."""
    return device.type != "cuda" or images.numel() < torch.cuda.mem_get_info(device)[0] // 2


def gather_host(images: Tensor, rows: np.ndarray) -> Tensor:
    """Rows of host images, read in file order (a memory map likes that) and pinned where a GPU will fetch them."""
    order = np.argsort(rows, kind="stable")
    out = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
    out[order] = images.numpy()[rows[order]]
    host = torch.from_numpy(out)
    return host.pin_memory() if torch.cuda.is_available() else host
