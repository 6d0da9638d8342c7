"""One step for every method, `Trainer.compute_step`, in this order:

    1  pick        which images, and what the method may know of them      Data.pick
    2  views       their augmented and normalised views                    Trainer.views
    3  losses      network, pseudo-labels, terms, reduced                  Trainer.losses_of_step
    4  zero        the gradients of the step before go                     Trainer.backward
    5  backward    the only backward pass                                  Trainer.backward
    6  rate        the learning rate of this step                          Trainer.set_rate
    7  optimisers  the parameters move                                     Trainer.update
    8  after       average, the method's state, measurements, time         Trainer.after_step

2, 3 and 8 are compiled where the run asks for it. `Trainer` holds a run's live state. Every draw is a function of
(seed, stream, step) and everything else is in `state_dict`, so a run goes on from a checkpoint to the last bit.
`semilib.training.train` drives it to the end of the schedule. """
from __future__ import annotations

import copy
import ctypes
import functools
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semilib.data import rng, sources
from semilib.data.batches import Data, split_of
from semilib.data.pictures import Report, silent
from semilib.data.step import Batch, Time
from semilib.errors import BadInput, MethodError
from semilib.features.batches import dealt
from semilib.methods.base import Context, Info, LeadIn, Phase, Pseudo
from semilib.methods.losses import Term, reduce
from semilib.methods.row_state import join_large_rows, split_large_rows
from semilib.networks.backbones import initialise, parse_network
from semilib.networks.ema import Average
from semilib.networks.encoders import backbone_of, is_encoder
from semilib.networks.net import Net, View, Views
from semilib.training import checkpoint, compiling, looking
from semilib.training.config import Run
from semilib.training.monitor import Monitor

EVALUATION_BATCH = 500


# ---- precision, device, rate, decay groups ---------------------------------------------------------------------------


def resolve_device(run: Run) -> torch.device:
    """The run's device. Raises BadInput if CUDA is asked for and there is none."""
    if run.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(run.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput("device", run.device, "cpu or auto: this PyTorch sees no CUDA device")
    return device


@functools.cache
def keep_heap() -> None:
    """Have malloc keep the memory that tensors give back, for the tensors to come. As it is, it returns large pieces to
    the system at once and asks for them again in the next step, page by page. A CPU step of WRN-28-2 then takes 8 %
    less time and the quickstart's 11 %; the process takes 9 % more memory. Only glibc's malloc can be told so;
    elsewhere nothing happens."""
    if platform.libc_ver()[0] == "glibc":
        no_maps, trim = -4, -1                                    # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(no_maps, 0)
        libc.mallopt(trim, 2**31 - 1)


WIDE = 2                    # of Wide ResNets; narrower ones gain less from bf16 on a CPU, and stay comparable in fp32


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 in units of its own: AMX, or AVX-512's instructions for it."""
    return platform.machine() in ("x86_64", "AMD64") and (torch.cpu._is_amx_tile_supported()
                                                          or torch.cpu._is_avx512_bf16_supported())


def resolve_precision(run: Run, device: torch.device) -> str:
    """fp32, bf16 or fp64. auto is bf16 on CUDA, and for a Wide ResNet of at least `WIDE` on a CPU with units for it:
    about twice as many SeMi steps of WRN-28-2 there. Short runs learn the same, by matrix units (AMX) and by AVX-512's
    instructions alone (`results/precision-amx-600-steps`, `results/precision-avx512-600-steps.jsonl.gz`)."""
    if run.precision != "auto":
        return run.precision
    shape = None if is_encoder(run.network) else parse_network(run.network)
    wide = isinstance(shape, tuple) and shape[1] >= WIDE                        # (depth, width)
    return "bf16" if device.type == "cuda" or wide and has_bf16_units() else "fp32"


def resolve_capture(run: Run, device: torch.device) -> str:
    """How steps run: "compile+graph" (compiled parts, in one CUDA graph a phase), "graph", "compile" or "off", which is
    also what debugging takes. Raises BadInput for a graph without CUDA, and for compiling without a compiler."""
    if run.debug:
        return "off"
    if run.capture == "auto":
        return "off" if device.type != "cuda" else "compile+graph" if compiling.can_compile(device) else "graph"
    if run.capture == "graph" and device.type != "cuda":
        raise BadInput("capture", "graph", "auto, compile or off on a CPU: the graphs are CUDA's")
    if run.capture == "compile":
        compiling.check(device)
    return run.capture


def rate(run: Run, progress: Tensor) -> Tensor:
    """Learning rate at `progress` in [0, 1): lr cos(7 pi progress / 16), lr cos(pi progress / 16), or constant.
    float64, 0-dim. "stepped": it rises from 0 over the first fortieth and falls to a tenth at 1/2 and again at 3/4."""
    if run.rate == "stepped":
        progress = progress.double()
        return run.lr * (40 * progress).clamp(max=1) * 0.1 ** ((progress >= 0.5).double() + (progress >= 0.75))
    sixteenths = {"cosine": 7, "slow_cosine": 1, "constant": 0}[run.rate]
    return run.lr * torch.cos(progress.double() * (sixteenths * math.pi / 16))


def decay_groups(modules: list[nn.Module], rule: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(decayed, exempt) parameters. weights: biases and norms exempt; ndim: tensors of at most one dimension exempt;
    norms: only norms exempt; all: nothing exempt."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for root in modules:
        for module in root.modules():
            norm = isinstance(module, nn.modules.batchnorm._NormBase)
            for name, p in module.named_parameters(recurse=False):
                free = {"weights": norm or name.endswith("bias"), "ndim": p.ndim <= 1, "norms": norm, "all": False}
                (exempt if free[rule] else decayed).append(p)
    return decayed, exempt


# ---- one run's live state --------------------------------------------------------------------------------------------


class Trainer:
    """Everything alive in a run. `advance()` makes one step; `evaluate()` measures the averaged network on the test
    set."""

    def __init__(self, run: Run, source: sources.Source | None = None,
                 report: Report = silent):
        self.run, self.total = run, run.steps
        self.device = resolve_device(run)
        if self.device.index is not None:                         # "cuda" alone is the current device
            torch.cuda.set_device(self.device)                    # streams and graphs belong to the current device
        else:
            keep_heap()
        self.precision = resolve_precision(run, self.device)
        self.capture = resolve_capture(run, self.device)
        self.dtype = torch.float64 if self.precision == "fp64" else torch.float32
        self.source = source or sources.of(run)
        self.source, self.split = split_of(self.source, run)
        self.data: Data = dealt(self.source, self.split, run, self.device, report)
        self.test_x = self.data.test_images
        self.test_y = torch.as_tensor(self.source.test_labels).to(self.device)
        with torch.random.fork_rng(devices=[]):                   # torch's constructors draw values that are replaced
            torch.manual_seed(run.seed)
            self._build()

    def _build(self) -> None:
        run = self.run
        backbone = backbone_of(run, self.data.channels, self.source.mean, self.source.std)
        one_pass = self.data.y.cpu()[torch.randperm(len(self.data.y), generator=rng.generator(run.seed, "first_pass"))]
        info = Info(classes=self.data.classes, features=backbone.features, counts=self.data.counts,
                    n_labelled=len(self.data.labelled), n_unlabelled=len(self.data.unlabelled),
                    batch=run.batch, mu=run.mu, steps=run.steps, seed=run.seed, device=self.device, dtype=self.dtype,
                    run=run,
                    first_pass=one_pass[:max(1, len(one_pass) // run.batch) * run.batch],
                    map_widths=backbone.map_widths, side=self.source.images.shape[-1], encoded=self.data.encoded,
                    pictures=self.data.pictures, oracle=self.data.oracle)
        self.method = run.method_class()(run.method_options(), info)
        self.method.build()
        self.method.to(self.device)
        self.post_hoc = run.post_hoc * info.prior().log() if run.post_hoc else None
        self._check_durations()
        self.phases = self.method.phases()
        self._open_phase(0)
        self.step = 0                                             # steps made; the host's count, `now` is the device's
        self.net = Net(backbone, self.method.heads())
        initialise(self.net, run.seed)
        self.net.to(self.device, self.dtype).train().use_channels_last()
        self.net.bf16 = self.precision == "bf16"                  # heads, losses and state keep their precision
        self.average = Average(self.net, run.ema, run.ema_rule, run.weight_decay)
        self.now = torch.zeros((), dtype=torch.int64, device=self.device)
        self.lr = torch.zeros((), dtype=self.dtype, device=self.device)
        self.encoder_lr = torch.zeros_like(self.lr)               # of a backbone that came with weights
        self.optimisers = self.method.optimisers(self.net, self._make_optimiser)
        self.monitor = Monitor(self.data.classes, self.device)
        self.last_losses: dict[str, Tensor] = {}
        self.parts: dict[str, Callable] = {"views": self.views, "losses_of_step": self.losses_of_step,
                                           "after_step": self.after_step}
        if "compile" in self.capture and self.method.capturable:
            self.parts = compiling.compile_parts(self.parts)
        self.graphs: dict[str, Captured] = {}
        self.reported: set[str] = set()                           # components of `must_act` that `acted` has reported
        self.complete = False                                     # whether it is known that it reports all of them

    def _check_durations(self) -> None:
        for name, steps in self.method.durations().items():
            first = 0 if isinstance(steps, LeadIn) else 1
            if not first <= steps < self.total:
                raise BadInput(name, steps, f"between {first} and {self.total - 1} steps in a run of "
                                            f"steps={self.total}, or that part of {self.run.method} never becomes "
                                            "active")

    def _make_optimiser(self, modules: list[nn.Module], **changes: Any) -> torch.optim.Optimizer:
        run = self.run
        decayed, exempt = decay_groups(modules, run.decay)
        if "weight_decay" in changes:
            self.average.spare(modules)
        weight_decay = changes.pop("weight_decay", 0.0 if run.ema_rule == "decaying" else run.weight_decay)
        kind = changes.pop("optimiser", run.optimiser)
        lr = changes.pop("lr", self.lr)
        own = set(self.net.backbone.parameters()) if is_encoder(run.network) else set()
        encoder_decay = 0.0 if run.ema_rule == "decaying" else run.encoder_decay
        encoder_lr = self.encoder_lr if lr is self.lr else lr * run.encoder_lr
        groups = [{"params": [p for p in decayed if p not in own], "weight_decay": weight_decay},
                  {"params": [p for p in exempt if p not in own], "weight_decay": 0.0},
                  {"params": [p for p in decayed if p in own], "weight_decay": encoder_decay, "lr": encoder_lr},
                  {"params": [p for p in exempt if p in own], "weight_decay": 0.0, "lr": encoder_lr}]
        groups = [g for g in groups if g["params"]]
        if kind == "sgd":
            optimiser = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True, **changes)
            # The fused step wants all momenta or none, and a head may get its first gradient in a later phase.
            for group in groups:
                for p in group["params"]:
                    optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)
            return optimiser
        return torch.optim.Adam(groups, lr=lr, fused=True, capturable=self.device.type == "cuda", **changes)

    @property
    def phase(self) -> str:
        return self.phases[self.phase_index].name

    def _open_phase(self, index: int) -> Phase:
        """Make a phase the running one: the method sees its name, and its images are those of the steps to come."""
        self.phase_index = index
        self.network_started_at = max([p.start for p in self.phases[:index + 1] if p.fresh], default=0)
        self.method.phase = self.phase
        self.data.open(self.method.step_images())
        return self.phases[index]

    def learning_rate(self, now: Time) -> Tensor:
        """The rate of this step, float64, 0-dim. Its schedule runs over the run, or over a phase that restarts it."""
        start, end = 0, self.total
        if self.phases[self.phase_index].restart_rate:
            start, end = ([p.start for p in self.phases] + [self.total])[self.phase_index:self.phase_index + 2]
        return rate(self.run, (now.step - start).double() / (end - start))

    # ---- one step: tensors only --------------------------------------------------------------------------------------

    def compute_step(self) -> None:
        """One training step. The step counter is on the device, so a captured graph of this function can be replayed.

        The choice of images is not compiled: that code would hold for sets of one size, and sets change during a run
        (CReST's generations, CPG's windows). Backward and optimisers are PyTorch's own."""
        now = Time(self.now, self.total, self.dtype, self.phase)
        batch, raw = self.data.pick(now)
        images = self.parts["views"](raw, now)
        losses, terms, views, pseudo = self.parts["losses_of_step"](batch, images, now)
        if self.run.debug:
            looking.check_step(int(self.now), terms, pseudo, batch, self.data.classes)
        self.backward(losses)
        self.set_rate(self.learning_rate(now))
        self.update()
        self.last_losses = {name: loss.detach() for name, loss in losses.items()}
        self.monitor.expect(losses, self.method.must_act)
        self.reported.update(self.parts["after_step"](self.last_losses, terms, views, pseudo, batch, now))

    def views(self, raw: dict[str, Tensor], now: Time) -> dict[str, Tensor]:
        """The step's normalised views, name -> float [n, 3, H, W], of each stream's raw images, uint8 [n, 3, H, W]."""
        return {name: self.data.normalise(x, self.dtype) for name, x in self.data.views(raw, now.step).items()}

    def losses_of_step(self, batch: Batch, images: dict[str, Tensor],
                       now: Time) -> tuple[dict[str, Tensor], dict[str, Term], Views, Pseudo | None]:
        """The losses, 0-dim and with a gradient; and what `after_step` needs, without one: terms, views and
        pseudo-labels."""
        views = self.method.forward(self.net, images, batch, now, self.average.net)
        seen = views.detach()
        with torch.no_grad():
            pseudo: Any = self.method.pseudo(seen, batch, now)
        terms = self.method.terms(views, batch, pseudo, now)
        losses = {name: reduce(term, name) for name, term in terms.items()}
        return losses, {name: term.detach() for name, term in terms.items()}, seen, pseudo

    def backward(self, losses: dict[str, Tensor]) -> None:
        """The gradients of the losses' sum, in place of those of the step before."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()  # type: ignore[union-attr]  # there is at least one

    def set_rate(self, rate: Tensor) -> None:
        """Have the optimisers move the parameters at a learning rate, those that came with weights at their share."""
        self.lr.copy_(rate)
        if is_encoder(self.run.network):
            self.encoder_lr.copy_(self.lr * self.run.encoder_lr)

    def update(self) -> None:
        """Move the parameters by their gradients."""
        for optimiser in self.optimisers:
            optimiser.step()

    @torch.no_grad()
    def after_step(self, losses: dict[str, Tensor], terms: dict[str, Term], views: Views, pseudo: Any, batch: Batch,
                   now: Time) -> tuple[str, ...]:
        """What follows the optimisers: average, the method's state, measurements, time. Nothing here has a gradient.
        Returns the names that `acted` reports. Raises MethodError for one that is not in `must_act`."""
        self.average.update(now.step - self.network_started_at, self.lr)
        self.method.end_step(views, batch, pseudo, now)
        acted = self.method.acted(views, batch, pseudo, now, terms)
        for name in acted:
            if name not in self.method.must_act:
                names = ", ".join(map(repr, self.method.must_act)) or "nothing"
                raise MethodError(f"{type(self.method).__name__}.acted: {name!r} is not in must_act, which has "
                                  f"{names}; leave out what an option switches off")
        self.monitor.add(losses, now.step, acted)
        if pseudo is not None:
            self.monitor.add_pseudo(pseudo.label, pseudo.mask, self.data.truth[batch.index_u])
        self.now.add_(1)
        return tuple(acted)

    # ---- a step with the host's work before and after it -------------------------------------------------------------

    def advance(self) -> None:
        """Make step number `step` (0-based): the host's work before it, its tensors, the host's work after it."""
        self.begin_step()
        if "graph" in self.capture and self.method.capturable:
            if self.phase not in self.graphs:
                self.graphs[self.phase] = Captured(self.compute_step, self.device)
            self.graphs[self.phase]()
        else:
            with torch.autograd.set_detect_anomaly(self.run.debug or torch.is_anomaly_enabled()):
                self.compute_step()
        self.step += 1
        if not self.complete and self.phase_index == len(self.phases) - 1:
            self._check_components()
        every = self.method.host_every()
        if every and self.step % every == 0:
            dealt = self.data.version
            self.method.host_work(self.context(self.step))
            if self.data.version != dealt:                    # a graph holds the addresses of the old streams
                self.graphs.clear()

    def begin_step(self) -> None:
        """What the host does before the next step: it opens a phase that starts there, and lays out the images."""
        while self.phase_index + 1 < len(self.phases) and self.phases[self.phase_index + 1].start == self.step:
            phase = self._open_phase(self.phase_index + 1)
            if phase.fresh:
                self.restart()
            self.method.enter(phase, self.context(self.step))
            self.graphs.clear()
        self.data.prepare(self.step)

    def peek(self) -> looking.Peek:
        """The next step as `advance` would make it, uncompiled, up to its losses. It is made on a copy: nothing of this
        trainer moves."""
        shared = (self.source, self.test_y, *self.data.shared())
        twin = copy.deepcopy(self, {**{id(value): value for value in shared}, id(self.parts): {}, id(self.graphs): {}})
        twin.begin_step()
        now = Time(twin.now, twin.total, twin.dtype, twin.phase)
        batch, raw = twin.data.pick(now)
        images = twin.views(raw, now)
        losses, terms, views, pseudo = twin.losses_of_step(batch, images, now)
        return looking.Peek(step=twin.step, phase=twin.phase, batch=batch, images=images, views=views, pseudo=pseudo,
                            terms=terms, losses={name: float(loss.detach()) for name, loss in losses.items()})

    def _check_components(self) -> None:
        """After the first step of the last phase: raises MethodError for a component that has not acted and that
        `acted` has never reported."""
        silent = [name for name in self.method.must_act if name not in self.reported]
        for name in self.monitor.never_active(silent):
            names = ", ".join(sorted(map(repr, self.reported))) or "nothing"
            raise MethodError(f"{type(self.method).__name__}.acted: it reports {name!r} of must_act in no phase; "
                              f"it reports {names}")
        self.complete = True

    def jump(self, step: int) -> None:
        """Make `step` the next one, whatever was made before: for a checkpoint that is read, and for measurements."""
        self.step = step
        self.now.fill_(step)

    def restart(self) -> None:
        """A fresh network, average and optimisers, as at step 0 (a new generation); the method's state and the time
        stay."""
        for norm in self.net.modules():
            if isinstance(norm, nn.modules.batchnorm._NormBase):
                norm.reset_running_stats()
        initialise(self.net, self.run.seed)
        self.average.net.load_state_dict(self.net.state_dict())
        for optimiser in self.optimisers:
            for state in optimiser.state.values():
                for value in state.values():
                    value.zero_()
        self.graphs.clear()

    def context(self, step: int) -> Context:
        return Context(net=self.net, ema=self.average.net, optimisers=self.optimisers, data=self.data, step=step,
                       phase=self.phase, scan=self.scan, restart=self.restart)

    @torch.no_grad()
    def scan(self, stream: str, view: str = "none", net: Net | None = None) -> tuple[View, Tensor, Tensor]:
        """A whole set ("labelled", "unlabelled" or "union") through a network in eval mode, in the set's order."""
        net = net or self.average.net
        members, targets = self.data.of(stream)
        was_training, out = net.training, []
        net.eval()
        for i, rows in enumerate(members.split(EVALUATION_BATCH)):
            x = self.data.shown(rows, view, f"scan/{stream}/{view}/{i}", self.now)
            said = net(self.data.normalise(x, self.dtype))
            out.append(View(said, said.f))                        # a set's maps before pooling would be large
        net.train(was_training)
        return View.cat(out), targets, members

    @torch.no_grad()
    def predictions(self) -> Tensor:
        """The averaged network's class for each test image, int64 [T] on the device."""
        said = []
        for x in self.test_x.split(EVALUATION_BATCH):
            logits = self.method.predict(self.average.net, self.data.normalise(x.to(self.device), self.dtype))
            if self.post_hoc is not None:
                logits = logits - self.post_hoc
            said.append(logits.argmax(-1))
        return torch.cat(said)

    def confusion(self, predicted: Tensor, subset: Tensor | None = None) -> Tensor:
        """Confusion matrix [C, C] of predictions [T] on the test set, or on a subset of it (bool [T]), int64 on the
        device; rows are true classes."""
        classes, y = self.data.classes, self.test_y
        if subset is not None:
            y, predicted = y[subset.to(y.device)], predicted[subset.to(y.device)]
        counts = torch.zeros(classes * classes, dtype=torch.int64, device=self.device)
        return counts.scatter_add_(0, y * classes + predicted, torch.ones_like(y)).view(classes, classes)

    def evaluate(self) -> Tensor:
        """Confusion matrix [C, C] of the averaged network on the test set, int64 on the device; rows are true
        classes."""
        return self.confusion(self.predictions())

    def state_dict(self, folder: Path | None = None) -> dict[str, Tensor]:
        """Everything that the next step depends on; with a folder, row states too large for a checkpoint are written
        there."""
        parts = {"net": self.net.state_dict(), "average": self.average.net.state_dict(),
                 "method": self.method.state_dict(), "data": self.data.state_dict(), "monitor": self.monitor.state,
                 "time": {"step": self.now, "stage": torch.tensor(self.phase_index)}}
        parts.update({f"optimiser{i}": checkpoint.optimiser_state(o) for i, o in enumerate(self.optimisers)})
        state = {k: v for prefix, part in parts.items() for k, v in checkpoint.nest(part, prefix).items()}
        return state if folder is None else split_large_rows(state, self.method, folder)

    def load_state_dict(self, state: dict[str, Tensor], folder: Path | None = None) -> None:
        state = join_large_rows(state, self.method, folder)
        for prefix, module in (("net", self.net), ("average", self.average.net), ("method", self.method)):
            checkpoint.load_module(module, state, prefix)
        self._open_phase(int(state["time/stage"]))
        self.data.load_state_dict(checkpoint.unnest(state, "data"))
        self.monitor.load(checkpoint.unnest(state, "monitor"))
        for i, optimiser in enumerate(self.optimisers):
            checkpoint.load_optimiser_state(optimiser, checkpoint.unnest(state, f"optimiser{i}"))
        self.jump(int(state["time/step"]))


class Captured:
    """A step as a CUDA graph: three eager steps on a side stream, then one capture there, then replays. A replay makes
    a new step because the step counter, the rate and every draw are computed from a scalar that lives on the device.
    The stream is its own: what libraries keep for a stream (cuBLAS's workspace) is then not shared with other graphs,
    which may be replayed at the same time."""

    EAGER = 3

    def __init__(self, step: Callable[[], None], device: torch.device):
        self.step, self.calls = step, 0
        self.graph: torch.cuda.CUDAGraph | None = None
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
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.step()
        self.graph.replay()
