"""One loop for every method: batch, views, pseudo-labels, terms, the only backward pass, optimisers, average, evaluation, record.

`Trainer` holds a run's live state and knows one step; `train` drives it to the end of the schedule, with checkpoints, and leaves a
record. A run that is killed at any moment and asked for again ends with the same numbers, because every draw is a function of
(seed, stream, step) and everything else is in the checkpoint.
"""
from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semilib import checkpoint, metrics, record, rng, sources, splits
from semilib.config import Run
from semilib.data import Data
from semilib.ema import Average
from semilib.errors import BadInput
from semilib.losses import Term, reduce
from semilib.methods import get
from semilib.methods.base import Context, Info, Time
from semilib.models import Net, View, initialise, make_backbone
from semilib.progress import Progress

EVALUATION_BATCH = 500


class TrainingError(RuntimeError):
    """A run that cannot go on, or that did not do what its configuration says."""


# ---- precision, device, rate, decay groups -------------------------------------------------------------------------------------------


def resolve_device(run: Run) -> torch.device:
    """The run's device. Raises BadInput if CUDA is asked for and there is none."""
    if run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(run.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("device", run.device, "cpu or auto: this PyTorch sees no CUDA device")
    return device


def resolve_precision(run: Run, device: torch.device) -> str:
    return ("bf16" if device.type == "cuda" else "fp32") if run.precision == "auto" else run.precision


def rate(run: Run, progress: Tensor) -> Tensor:
    """Learning rate at `progress` in [0, 1): lr cos(7 pi progress / 16), or constant. float64, 0-dim."""
    if run.rate == "constant":
        return torch.full_like(progress, run.lr, dtype=torch.float64)
    return run.lr * torch.cos(progress.double() * (7 * math.pi / 16)).clamp(min=0)


def decay_groups(modules: list[nn.Module], rule: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(decayed, exempt) parameters. weights: biases and norms exempt; ndim: tensors of at most one dimension exempt; norms: only
    norms exempt; all: nothing exempt."""
    decayed, exempt = [], []
    for root in modules:
        for module in root.modules():
            norm = isinstance(module, nn.modules.batchnorm._NormBase)
            for name, p in module.named_parameters(recurse=False):
                free = {"weights": norm or name.endswith("bias"), "ndim": p.ndim <= 1, "norms": norm, "all": False}[rule]
                (exempt if free else decayed).append(p)
    return decayed, exempt


# ---- what is measured while training --------------------------------------------------------------------------------------------------


class Monitor:
    """Running sums on the device, read only at log points: losses by term, pseudo-label counts, what has been active, and the first
    step and term whose loss was not finite."""

    def __init__(self, classes: int, device: torch.device):
        self.classes, self.device = classes, device
        self.names: list[str] = []
        self.state = {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in
                      {"used": classes * classes, "seen": classes, "predicted": classes, "shown": 1, "steps": 1}.items()}
        self.state["bad"] = torch.tensor([-1, -1], device=device)                  # step, number of the term

    def add(self, losses: dict[str, Tensor], step: Tensor, active: dict[str, Tensor]) -> None:
        self.names = list(losses)
        values = torch.stack([loss.detach().double() for loss in losses.values()])
        s = self.state
        s.setdefault("losses", torch.zeros_like(values)).add_(values)
        s["steps"].add_(1)
        broken = ~torch.isfinite(values)
        first = torch.stack([step, broken.to(torch.int8).argmax()])
        s["bad"].copy_(torch.where((s["bad"][0] < 0) & broken.any(), first, s["bad"]))
        for name, flag in active.items():
            s.setdefault(f"active/{name}", torch.zeros((), dtype=torch.bool, device=self.device)).logical_or_(flag)

    def add_pseudo(self, label: Tensor, mask: Tensor, truth: Tensor) -> None:
        """label, mask, truth [mu B]; a pseudo-label counts from half its weight on; truth -1 = unknown."""
        s, counted = self.state, (mask >= 0.5).to(torch.int64)
        known = (truth >= 0).to(torch.int64)
        row = truth.clamp(min=0)
        s["used"].scatter_add_(0, row * self.classes + label, counted * known)
        s["seen"].scatter_add_(0, row, known)
        s["predicted"].scatter_add_(0, label, counted)
        s["shown"].add_(label.shape[0])

    def losses(self) -> dict[str, float]:
        """Mean of each term since the last reset."""
        steps = max(1, int(self.state["steps"]))
        return {name: value / steps for name, value in zip(self.names, self.state["losses"].tolist(), strict=True)} \
            if "losses" in self.state else {}

    def pseudo_labels(self) -> dict[str, Any] | None:
        shown = int(self.state["shown"])
        if shown == 0:
            return None
        used = self.state["used"].view(self.classes, self.classes).cpu().numpy()
        return metrics.pseudo_label_scores(used, self.state["seen"].cpu().numpy(), self.state["predicted"].cpu().numpy(), shown)

    def check_finite(self) -> None:
        step, term = self.state["bad"].tolist()
        if step >= 0:
            raise TrainingError(f"the loss {self.names[term]!r} was not finite in step {step}: lower lr, or look at the data")

    def never_active(self, components: tuple[str, ...]) -> list[str]:
        return [c for c in components if not bool(self.state.get(f"active/{c}", False))]

    def reset(self) -> None:
        for name in ("losses", "steps", "used", "seen", "predicted", "shown"):
            if name in self.state:
                self.state[name].zero_()

    def load(self, state: dict[str, Tensor]) -> None:
        self.state.update({name: value.to(self.device) for name, value in state.items()})


# ---- one run's live state -------------------------------------------------------------------------------------------------------------


class Trainer:
    """Everything alive in a run. `advance()` makes one step; `evaluate()` measures the averaged network on the test set."""

    def __init__(self, run: Run, source: sources.Source | None = None):
        self.run, self.total = run, run.steps
        self.device = resolve_device(run)
        self.precision = resolve_precision(run, self.device)
        self.dtype = torch.float64 if self.precision == "fp64" else torch.float32
        self.source = source or sources.load(run.dataset, run.root, run.side, run.split_seed)
        self.split = splits.make_split(self.source.labels, len(self.source.class_names), run.n1, run.m1, run.gamma_l, run.gamma_u,
                                       run.order, run.labelled_in_unlabelled, run.split_seed)
        self.data = Data(self.source, self.split, run, self.device)
        self.test_x = self.source.test_images.to(self.device) if self.data.resident else self.source.test_images
        self.test_y = torch.as_tensor(self.source.test_labels).to(self.device)
        self.stage_index = 0
        with torch.random.fork_rng(devices=[]):                   # constructors of torch draw initial values that are replaced
            self._build()

    def _build(self) -> None:
        run = self.run
        backbone = make_backbone(run.network, run.variant, run.bn_momentum)
        one_pass = self.data.y.cpu()[torch.randperm(len(self.data.y), generator=rng.generator(run.seed, "first_pass"))]
        info = Info(classes=self.data.classes, features=backbone.features, counts=self.data.counts, n_labelled=len(self.data.labelled),
                    n_unlabelled=len(self.data.unlabelled), batch=run.batch, mu=run.mu, steps=run.steps, seed=run.seed,
                    device=self.device, dtype=self.dtype, run=run,
                    first_pass=one_pass[:max(1, len(one_pass) // run.batch) * run.batch])
        self.method = get(run.method)(run.method_options(), info)
        self.method.build()
        self.method.to(self.device)
        self._check_durations()
        self.stages = self.method.stages()
        self.data.open(self.method.plan())
        self.net = Net(backbone, self.method.heads())
        initialise(self.net, run.seed)
        self.net.to(self.device, self.dtype).train()
        self.net.backbone.to(memory_format=torch.channels_last)
        self.average = Average(self.net, run.ema, run.ema_rule, run.weight_decay)
        self.now = torch.zeros((), dtype=torch.int64, device=self.device)
        self.lr = torch.zeros((), dtype=torch.float32, device=self.device)
        self.optimisers = self.method.optimisers(self.net, self._make_optimiser)
        self.monitor = Monitor(self.data.classes, self.device)
        self.last_losses: dict[str, Tensor] = {}
        self._set_compute()
        self.graphs: dict[str, Captured] = {}

    def _check_durations(self) -> None:
        for name, steps in self.method.durations().items():
            if not 1 <= steps < self.total:
                raise BadInput(name, steps, f"between 1 and {self.total - 1} steps in a run of steps={self.total}, or that part of "
                                            f"{self.run.method} never becomes active")

    def _make_optimiser(self, modules: list[nn.Module], **changes: Any) -> torch.optim.Optimizer:
        run = self.run
        decayed, exempt = decay_groups(modules, run.decay)
        weight_decay = changes.pop("weight_decay", 0.0 if run.ema_rule == "decaying" else run.weight_decay)
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
        groups = [g for g in groups if g["params"]]
        kind = changes.pop("optimiser", run.optimiser)
        lr = changes.pop("lr", self.lr)
        if kind == "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True, **changes)
        return torch.optim.Adam(groups, lr=lr, fused=True, capturable=self.device.type == "cuda", **changes)

    def _set_compute(self) -> None:
        """How the backbone runs: autocast where bf16 is asked for, compiled on CUDA. Heads, losses and state keep their precision."""
        low = self.precision == "bf16"
        compiled = self.device.type == "cuda" and self.run.capture == "auto"
        for net in (self.net, self.average.net):
            backbone = torch.compile(net.backbone) if compiled else net.backbone

            def compute(x: Tensor, backbone=backbone) -> Tensor:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                    return backbone(x)
            net.compute = compute

    @property
    def phase(self) -> str:
        return self.stages[self.stage_index].name

    @property
    def step(self) -> int:
        """Steps made so far. Reading it waits for the device; the loop counts for itself."""
        return int(self.now)

    def _progress(self, t: Time) -> Tensor:
        """Progress of the rate schedule: of the run, or of the stage if that restarts it."""
        stage = self.stages[self.stage_index]
        if not stage.restart_rate:
            return t.step.double() / self.total
        after = [s.start for s in self.stages[self.stage_index + 1:]] + [self.total]
        return (t.step - stage.start).double() / (after[0] - stage.start)

    def compute_step(self) -> None:
        """One training step, tensors only; the step counter is on the device, so a captured graph of it can be replayed."""
        t = Time(self.now, self.total, self.dtype, self.phase)
        batch, raw = self.data.batch(t)
        images = {name: self.data.normalise(x, self.dtype) for name, x in raw.items()}
        v = self.method.forward(self.net, images, batch, t, self.average.net)
        seen = v.detach()
        with torch.no_grad():
            p = self.method.pseudo(seen, batch, t)
        terms = self.method.terms(v, batch, p, t)
        losses = {name: reduce(term) for name, term in terms.items()}
        self.lr.copy_(rate(self.run, self._progress(t)))
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        for optimiser in self.optimisers:
            optimiser.step()
        self.average.update(t.step, self.lr)
        with torch.no_grad():
            self.method.end_step(seen, batch, p, t)
            detached = {name: Term(*(x.detach() if isinstance(x, Tensor) else x for x in term)) for name, term in terms.items()}
            self.monitor.add(losses, t.step, self.method.activity(seen, batch, p, t, detached))
            if p is not None:
                self.monitor.add_pseudo(p.label, p.mask, self.data.truth[batch.index_u])
        self.last_losses = {name: loss.detach() for name, loss in losses.items()}
        self.now.add_(1)

    def advance(self, step: int) -> None:
        """Make step number `step` (0-based), with the host's work before and after it."""
        while self.stage_index + 1 < len(self.stages) and self.stages[self.stage_index + 1].start == step:
            self.stage_index += 1
            stage = self.stages[self.stage_index]
            if stage.fresh:
                self.restart()
            self.method.enter(stage, self.context(step))
            self.graphs.clear()
        self.data.stage(step)
        if self.device.type == "cuda" and self.run.capture == "auto":
            self.graphs.setdefault(self.phase, Captured(self.compute_step, self.device))()
        else:
            self.compute_step()
        every = self.method.every()
        if every and (step + 1) % every == 0:
            self.method.end_epoch(self.context(step + 1))

    def restart(self) -> None:
        """A fresh network, average and optimisers, as at step 0 (a new generation); the method's state and the time stay."""
        initialise(self.net, self.run.seed)
        for norm in self.net.modules():
            if isinstance(norm, nn.modules.batchnorm._NormBase):
                norm.reset_running_stats()
        self.average.net.load_state_dict(self.net.state_dict())
        for optimiser in self.optimisers:
            optimiser.state.clear()

    def context(self, step: int) -> Context:
        return Context(net=self.net, ema=self.average.net, data=self.data, step=step, phase=self.phase, scan=self.scan,
                       restart=self.restart)

    @torch.no_grad()
    def scan(self, stream: str, view: str = "none", net: Net | None = None) -> tuple[View, Tensor, Tensor]:
        """A whole set ("labelled", "unlabelled" or "union") through a network in eval mode, in the set's order."""
        net = net or self.average.net
        members, targets = self.data.of(stream)
        was_training, out = net.training, []
        net.eval()
        for i, rows in enumerate(members.split(EVALUATION_BATCH)):
            x = self.data.images[rows.to(self.data.images.device)].to(self.device)
            x = self.data.view(x, view, f"scan/{stream}/{view}/{i}", self.now)
            out.append(net(self.data.normalise(x, self.dtype)))
        net.train(was_training)
        return View.cat(out), targets, members

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Confusion matrix [C, C] of the averaged network on the test set, int64 on the device; rows are true classes."""
        classes = self.data.classes
        confusion = torch.zeros(classes * classes, dtype=torch.int64, device=self.device)
        for x, y in zip(self.test_x.split(EVALUATION_BATCH), self.test_y.split(EVALUATION_BATCH), strict=True):
            logits = self.method.predict(self.average.net, self.data.normalise(x.to(self.device), self.dtype))
            confusion.scatter_add_(0, y * classes + logits.argmax(-1), torch.ones_like(y))
        return confusion.view(classes, classes)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        parts = {"net": self.net.state_dict(), "average": self.average.net.state_dict(), "method": self.method.state_dict(),
                 "data": self.data.state_dict(), "monitor": self.monitor.state,
                 "time": {"step": self.now, "stage": torch.tensor(self.stage_index)}}
        parts.update({f"optimiser{i}": checkpoint.optimiser_state(o) for i, o in enumerate(self.optimisers)})
        return {k: v for prefix, part in parts.items() for k, v in checkpoint.nest(part, prefix).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.net.load_state_dict(checkpoint.unnest(state, "net"))
        self.average.net.load_state_dict(checkpoint.unnest(state, "average"))
        self.method.load_state_dict(checkpoint.unnest(state, "method"))
        self.data.load_state_dict(checkpoint.unnest(state, "data"))
        self.monitor.load(checkpoint.unnest(state, "monitor"))
        for i, optimiser in enumerate(self.optimisers):
            checkpoint.load_optimiser_state(optimiser, checkpoint.unnest(state, f"optimiser{i}"))
        self.now.copy_(state["time/step"])
        self.stage_index = int(state["time/stage"])


class Captured:
    """A step as a CUDA graph: three eager steps on a side stream, then one capture, then replays. A replay makes a new step because
    the step counter, the rate and every draw are computed from a scalar that lives on the device."""

    EAGER = 3

    def __init__(self, step: Callable[[], None], device: torch.device):
        self.step, self.calls, self.graph = step, 0, None
        self.stream = torch.cuda.Stream(device)

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.EAGER:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step()
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.step()
        self.graph.replay()


# ---- a whole run ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def deterministic(on: bool):
    """Deterministic kernels inside; the setting is put back."""
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def train(run: Run, runs: str | Path = "runs", folder: str | Path | None = None, progress: Progress | None = None,
          source: sources.Source | None = None) -> Path:
    """Do a run, or the rest of it, or nothing if it is done; returns its folder.

    folder: where to keep it, instead of the one under `runs` that its configuration and code name. Raises BadInput before anything
    starts, RunBusy if another process has the run, and TrainingError (recorded in the folder) if the loss is not finite or a
    component of the method never became active.
    """
    path = Path(folder) if folder else record.folder(run, runs)
    found = record.read(path)
    if found is not None:
        record.check_same(found, run, path)
        if found["status"] == "done":
            return path
    progress = progress or Progress()
    with record.lock(path):
        trainer = Trainer(run, source)
        facts = _facts(trainer)
        entry = record.new(run, **facts)
        record.write(path, entry)
        try:
            with deterministic(run.deterministic):
                seconds = _loop(trainer, path, progress)
        except BaseException as error:
            kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record.write(path, {**entry, "status": kind, "error": f"{type(error).__name__}: {error}",
                                "traceback": _traceback(error)})
            progress.end(run, kind)
            raise
        evaluations = record.read_log(path)
        result = metrics.summary(evaluations)
        record.write(path, {**entry, "status": "done", "seconds": round(seconds, 2), "result": result,
                            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        progress.end(run, "done", result)
    return path


def _traceback(error: BaseException) -> str:
    """The traceback with file names only, so that a record names no folder of the machine."""
    frames = [f"  {Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in traceback.extract_tb(error.__traceback__)]
    return "\n".join([*frames, f"{type(error).__name__}: {error}"])


def _facts(trainer: Trainer) -> dict[str, Any]:
    """What the record says of a run besides its configuration: everything that was resolved."""
    run, split = trainer.run, trainer.split
    return {
        "resolved": {"device": torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else "cpu",
                     "precision": trainer.precision, "threads": torch.get_num_threads(), "eval_every": run.eval_steps,
                     "durations": trainer.method.durations(), "stages": {s.name: s.start for s in trainer.stages},
                     "parameters": sum(p.numel() for p in trainer.net.parameters())},
        "split": {"fingerprint": split.fingerprint, "labelled_counts": list(split.labelled_counts),
                  "unlabelled_counts": list(split.unlabelled_counts), "class_names": list(trainer.source.class_names),
                  "test_images": len(trainer.test_y), "drawn_by": "file order" if run.split_seed is None else f"seed {run.split_seed}"},
    }


def _loop(trainer: Trainer, path: Path, progress: Progress) -> float:
    """Steps, evaluations and checkpoints from where the run is to its end; returns the seconds spent in all sessions together."""
    run, seconds, start = trainer.run, 0.0, 0
    if (path / "checkpoint.npz").exists():
        state = checkpoint.load(path / "checkpoint.npz")
        seconds = float(state.pop("seconds"))
        trainer.load_state_dict(state)
        start = trainer.step
    kept = [e for e in record.read_log(path) if e["step"] <= start]
    record.write_log(path, kept)
    accuracy = kept[-1]["balanced_accuracy"] if kept else None
    progress.begin(run, start)
    began = last_save = time.perf_counter()
    for step in range(start, run.steps):
        trainer.advance(step)
        done = step + 1
        now = time.perf_counter()
        if done % run.eval_steps == 0 or done == run.steps:
            trainer.monitor.check_finite()
            line = _evaluation(trainer, done, seconds + now - began)
            record.append_log(path, line)
            trainer.monitor.reset()
            accuracy = line["balanced_accuracy"]
            progress.step(run, done, line["losses"], accuracy, force=True)
        elif progress.due(now):
            trainer.monitor.check_finite()
            progress.step(run, done, trainer.monitor.losses(), accuracy)
        now = time.perf_counter()
        if done == run.steps or now - last_save >= run.keep_seconds:
            trainer.monitor.check_finite()
            checkpoint.save(path / "checkpoint.npz",
                            {**trainer.state_dict(), "seconds": torch.tensor(seconds + now - began, dtype=torch.float64)})
            last_save = now
    idle = trainer.monitor.never_active(trainer.method.components)
    if idle:
        raise TrainingError(f"{', '.join(idle)} of {run.method} never became active in {run.steps} steps: train longer, lower the "
                            f"threshold, or switch the component off")
    return seconds + time.perf_counter() - began


def _evaluation(trainer: Trainer, step: int, seconds: float) -> dict[str, Any]:
    """One line of log.jsonl."""
    confusion = trainer.evaluate().cpu().numpy()
    return {"step": step, "seconds": round(seconds, 2), "lr": float(trainer.lr), "losses": trainer.monitor.losses(),
            **metrics.scores(confusion, trainer.split.labelled_counts), "pseudo_labels": trainer.monitor.pseudo_labels()}
