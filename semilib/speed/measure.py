"""How fast a step is, what it consists of, and what the machine would allow. Everything is measured on the machine at hand.

    record = measure(Settings(device="cpu"), Path("results/speed/cpu.json"))

A record is one JSON file: the machine, the settings, and a section for each question, written as soon as it is answered, so that a
killed measurement goes on where it was. `notebooks/90_speed.ipynb` draws it. Seconds are wall-clock and per step unless they say otherwise.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semilib.data import sources
from semilib.data.step import Time
from semilib.errors import BadInput, check_name
from semilib.files import write_text
from semilib.methods.losses import ce
from semilib.networks.backbones import initialise, make_backbone
from semilib.networks.net import Net, linear
from semilib.options import Options, check_fields, option
from semilib.speed.costs import enter
from semilib.speed.counting import Operators, network_cost
from semilib.speed.stacked import StackedNet
from semilib.training import compiling, record
from semilib.training.config import Run
from semilib.training.engine import Captured, Trainer, decay_groups, keep_heap, resolve_capture, resolve_device
from semilib.training.train import kernels

SECTIONS = ("imports", "limits", "steps", "parts", "whole", "growth", "sharing")


@dataclasses.dataclass(frozen=True)
class Settings(Options):
    """What to measure. The cell is that of the published scripts, CIFAR-10-LT with N1 = 1500, M1 = 3000, gamma 100, but of random images
    in CIFAR-10's sizes, so that nothing is downloaded: no operator's work depends on the pixels."""

    device: str = option("auto", "auto, cpu or cuda")
    profile: str = option("paper", "network, batch and schedule of the step")
    methods: str = option("semi+fixmatch+daso", "methods whose steps are timed, joined by +")
    growth_profile: str = option("quickstart", "network and batch of the growth curves")
    sections: str = option("+".join(SECTIONS), "what to measure, joined by +")
    steps: int = option(10, "steps that are timed, one by one on a CPU, in windows on a GPU", low=2)
    window: int = option(1, "steps between two synchronisations", low=1)
    captures: str = option("", "how the timed steps run, joined by +, as a run's capture; '' = off, and on a GPU also auto")
    precisions: str = option("", "of the timed steps, joined by +; '' = what the device has units for")
    largest: int = option(100_000, "images of the largest unlabelled set of the growth curves", low=1000)
    whole_steps: int = option(20, "steps of the whole run that is timed with its evaluations", low=4)
    most_runs: int = option(4, "runs that share the device at most", low=1)

    def run(self, method: str = "semi", **changes: Any) -> Run:
        return Run.of("cifar10", method, **{"profile": self.profile, "device": self.device, **changes})


def measure(settings: Settings, path: Path, show: Callable[[str], None] = print) -> dict[str, Any]:
    """The record of these settings on this machine: sections that the file has already are kept. Raises BadInput for unknown sections,
    and where the file belongs to another machine or other settings."""
    check_fields(settings)
    wanted = settings.sections.split("+")
    for name in wanted:
        check_name("section", name, SECTIONS)
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"settings": _kept(settings), **machine(settings)}
    here = machine(settings)["machine"]
    if found["settings"] != _kept(settings) or any(found["machine"][fact] != here[fact] for fact in ("device", "cpu", "threads")):
        raise BadInput("path", path.name, "a new file: the one there is of other settings or another machine")
    for name in wanted:
        if name not in found:
            show(f"measuring {name}")
            began = time.perf_counter()
            found[name] = {"rows": list(_SECTIONS[name](settings)), "seconds": round(time.perf_counter() - began, 1), "code": code()}
            write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def _kept(settings: Settings) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(settings).items() if k != "sections"}


def code() -> str:
    """The commit, with a mark if what a step executes has been changed since; outside of a repository the fingerprint of that code."""
    run = Run.of()
    found = record.provenance(run)
    return f"{found['commit']}{' changed' * bool(found['dirty'])}" if found["commit"] else f"files {record.code_of(run.identity())}"


def machine(settings: Settings) -> dict[str, Any]:
    """The machine and the versions, as a record names them."""
    device = resolve_device(settings.run())
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in flags]
    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    facts = {"device": record.device_name(device), "cpu": model, "cpu_units": units, "cores": os.cpu_count(),
             "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
             "date": time.strftime("%Y-%m-%d", time.gmtime())}
    if device.type == "cuda":
        facts.update(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(),
                     memory_GiB=round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1))
    return {"machine": facts}


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


# ---- the clock ------------------------------------------------------------------------------------------------------------------------


def timed(step: Callable[[], Any], device: torch.device, steps: int, window: int = 1, warm: int = 2) -> dict[str, float]:
    """Seconds of a step: median and least over `steps` windows of `window` calls, the device waited for after each window."""
    for _ in range(warm):
        step()
    wait(device)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        for _ in range(window):
            step()
        wait(device)
        seconds.append((time.perf_counter() - began) / window)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "windows": steps, "window": window}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps_of(trainer: Trainer) -> Callable[[], None]:
    """The trainer's next step, each time it is called, as a run makes it."""
    return trainer.advance


def trainer_of(settings: Settings, method: str = "semi", **changes: Any) -> Trainer:
    return Trainer(settings.run(method, **changes), like_cifar10())


@functools.cache
def like_cifar10() -> sources.Source:
    """50,000 training and 10,000 test images of 32 x 32 in ten classes, at random."""
    source = random_source(60_000, 10)
    return dataclasses.replace(source, images=source.images[:50_000], labels=source.labels[:50_000],
                               test_images=source.images[50_000:], test_labels=source.labels[50_000:])


# ---- sections: each yields rows -------------------------------------------------------------------------------------------------------


def imports(settings: Settings) -> Iterator[dict[str, Any]]:
    """Seconds of an interpreter that imports torch, and of one that also imports all that a run needs; least of several each, in turn,
    after one for the file cache."""
    programs = {"import torch": "import torch", "import semilib, beyond torch": "import torch, semilib",
                "and semilib.Run, semilib.train, beyond torch": "import torch, semilib; semilib.Run, semilib.train"}
    seconds: dict[str, list[float]] = {what: [] for what in programs}
    for _ in range(6):
        for what, program in reversed(programs.items()):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
            seconds[what].append(time.perf_counter() - began)
    best = {what: min(found[1:]) for what, found in seconds.items()}
    for what in programs:
        yield {"what": what, "s": best[what] - (best["import torch"] if "beyond" in what else 0)}


def limits(settings: Settings) -> Iterator[dict[str, Any]]:
    """What the machine copies and multiplies a second, and what a SeMi step's network asks of both: its time on paper."""
    device = resolve_device(settings.run())
    cuda = device.type == "cuda"
    n = 2**28 if cuda else 2**25
    a, b = torch.ones(n, device=device), torch.empty(n, device=device)
    copy = 2 * 4 * n / timed(lambda: b.copy_(a), device, 10)["min_s"]
    yield {"what": "copy", "GB_s": copy / 1e9, "note": f"{4 * n // 2**20} MiB, read and written"}
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        side = 8192 if cuda else 2048 if name == "fp32" else 512                 # without units for it, bf16 is hundreds of times slower
        x = torch.randn(side, side, device=device).to(dtype)
        with tensor_float(cuda):
            rates[name] = 2 * side**3 / timed(lambda x=x: x @ x, device, 5)["min_s"]
        yield {"what": f"matrix product, {name}", "TFLOP_s": rates[name] / 1e12,
               "note": f"{side} x {side}" + ", in TF32, as PyTorch's convolutions are" * (cuda and name == "fp32")}
    trainer = trainer_of(settings, device="cpu", capture="off", precision="fp32")
    cost = network_cost(trainer.net.backbone, (views(trainer), 3, *trainer.source.images.shape[-2:]))
    for name, size in (("fp32", 4), ("bf16", 2)):
        moved = size * cost["elements"]
        yield {"what": f"SeMi's step on paper, {name}", "TFLOP": cost["flops"] / 1e12, "GB": moved / 1e9,
               "at_matrix_rate_s": cost["flops"] / rates[name], "at_copy_rate_s": moved / copy,
               "note": "convolutions forward and backward; bytes: each convolution's input, output and their gradients, read and "
                       "written once with norm and activation fused into them"}


@contextlib.contextmanager
def tensor_float(wanted: bool) -> Iterator[None]:
    """Inside, if wanted, matrix products of fp32 use TF32 units, as convolutions on CUDA do by default."""
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def views(trainer: Trainer) -> int:
    """Images that a step passes through the network."""
    return sum(trainer.data.streams[stream].size for stream, _ in trainer.data.step_images.views.values())


def steps(settings: Settings) -> Iterator[dict[str, Any]]:
    """A step of each method, and of the bare network on a ready batch: forward, backward, optimiser and nothing else."""
    device = resolve_device(settings.run())
    cuda = device.type == "cuda"
    units = ("bf16", "fp32") if cuda or "amx_bf16" in machine(settings)["machine"]["cpu_units"] else ("fp32",)
    captures = settings.captures.split("+") if settings.captures else ("off", "auto") if cuda else ("off",)
    precisions = settings.precisions.split("+") if settings.precisions else units
    kind = dict(steps=settings.steps, window=settings.window, warm=max(4, settings.window) if cuda else 1)
    for precision in precisions:
        for capture in captures:
            for method in ("bare", *settings.methods.split("+")):
                run = settings.run("semi" if method == "bare" else method, precision=precision, capture=capture)
                with kernels(run, device):
                    if method == "bare":
                        step, images = bare(run, like_cifar10())
                    else:
                        trainer = trainer_of(settings, method, precision=precision, capture=capture)
                        step, images = steps_of(trainer), views(trainer)
                    found = timed(step, device, **kind)
                yield {"method": method, "precision": precision, "capture": capture, "images": images, "network": run.network, **found}
                step = trainer = None
                free(device)


def free(device: torch.device) -> None:
    """Give memory back: a captured step and its trainer refer to each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def bare(run: Run, source: sources.Source) -> tuple[Callable[[], None], int]:
    """The network of a SeMi run alone: forward, cross-entropy on labelled and strong rows, backward and optimiser, on one ready
    batch of its size. Returns the step, captured as the run asks, and its number of images."""
    device, images = resolve_device(run), run.batch * (1 + 3 * run.mu)
    keep_heap()                                                   # as our steps do
    backbone = make_backbone(run.network, run.variant, run.bn_momentum)
    net = Net(backbone, {"head": linear(backbone.features, len(source.class_names))})
    initialise(net, run.seed)
    net.to(device).train()
    net.backbone.to(memory_format=torch.channels_last)
    x = torch.randn(images, 3, *source.images.shape[-2:], device=device).contiguous(memory_format=torch.channels_last)
    y = torch.arange(images, device=device) % len(source.class_names)
    decayed, exempt = decay_groups([net], run.decay)
    optimiser = torch.optim.SGD([{"params": decayed, "weight_decay": run.weight_decay}, {"params": exempt, "weight_decay": 0.0}],
                                lr=torch.tensor(run.lr, device=device), momentum=0.9, nesterov=True, fused=True)
    low = run.precision == "bf16" or (run.precision == "auto" and device.type == "cuda")
    scored = torch.cat([torch.arange(run.batch), torch.arange(run.batch * (1 + run.mu), images)]).to(device)

    def objective() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            z = net(x)["head"]
        return ce(z.float()[scored], y[scored]).mean()
    how = resolve_capture(run, device)
    if "compile" in how:
        objective = compiling.compile_parts({"objective": objective})["objective"]

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        objective().backward()
        optimiser.step()
    return (Captured(step, device) if "graph" in how else step), images


def parts(settings: Settings) -> Iterator[dict[str, Any]]:
    """SeMi's step by part, each repeated alone: seconds, the operators that it consists of (a kernel each on a GPU), and the kernels
    that remain of them where it is compiled. On a GPU each part is a CUDA graph of its own."""
    device = resolve_device(settings.run())
    captures = settings.captures.split("+") if settings.captures else ()
    for capture in ("off", "compile") if device.type == "cuda" or "compile" in captures else ("off",):
        trainer = trainer_of(settings, capture=capture)
        with kernels(trainer.run, device):
            enter(trainer, len(trainer.phases) - 1)
            trainer.data.prepare(trainer.step)
            pieces = separate(trainer)
            for name, piece in pieces.items():
                counted = {} if capture == "compile" else Operators.of(piece)
                compiled = compiling.kernel_count(piece) if capture == "compile" else None
                call = Captured(piece, device) if device.type == "cuda" else piece
                found = timed(call, device, settings.steps, settings.window, warm=5 if device.type == "cuda" else 1)
                yield {"part": name, "capture": capture, **found, **counted, **({"kernels": compiled} if compiled is not None else {})}
        trainer = pieces = None
        free(device)


def separate(trainer: Trainer) -> dict[str, Callable[[], Any]]:
    """The parts of the trainer's step as calls that can be repeated, and SeMi's memory bank alone."""
    t = Time(trainer.now, trainer.total, trainer.dtype, trainer.phase)
    batch = trainer.data.pick(t)[0]

    def view() -> dict[str, Tensor]:
        return trainer.parts["views"](trainer.data.pick(t)[1], t)

    def learn() -> tuple:
        losses, *rest = trainer.parts["losses_of_step"](batch, images, t)
        for optimiser in trainer.optimisers:
            optimiser.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        trainer.lr.copy_(trainer.learning_rate(t))
        trainer.last_losses = {name: loss.detach() for name, loss in losses.items()}
        trainer.monitor.expect(losses, trainer.method.must_act)
        return tuple(rest)

    def update() -> None:
        for optimiser in trainer.optimisers:
            optimiser.step()

    images = view()
    terms, seen, p = learn()
    pieces = {"views": view, "network, losses, backward": learn, "optimiser": update,
              "average, state, measurements": lambda: trainer.parts["after_step"](trainer.last_losses, terms, seen, p, batch, t)}
    method = trainer.method
    if hasattr(method, "blend"):
        @torch.no_grad()
        def bank() -> None:
            method.blend.offer(seen.s.f, *(method.per_view(x) for x in (p.confidence, p.label, p.mask)), t)
            method.blend.bank.prototypes()
        pieces["of these: memory bank"] = compiling.compiled(bank) if trainer.run.capture == "compile" else bank
    pieces["whole step"] = trainer.compute_step
    return pieces


def whole(settings: Settings) -> Iterator[dict[str, Any]]:
    """A SeMi run's costs besides its steps, and what 250,000 steps with 500 evaluations come to: worked out, not waited for."""
    device = resolve_device(settings.run())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    trainer = trainer_of(settings)
    wait(device)
    built = time.perf_counter()
    with kernels(trainer.run, device):
        step = steps_of(trainer)
        for _ in range(Captured.EAGER + 1):
            step()
        wait(device)
        first = time.perf_counter()
        pace = timed(step, device, max(2, settings.whole_steps // settings.window), settings.window, warm=0)
        evaluation = timed(trainer.evaluate, device, 3 if device.type == "cuda" else 1, warm=int(device.type == "cuda"))
    state = timed(lambda: {name: value.cpu() for name, value in trainer.state_dict().items()}, device, 2, warm=0)
    peak = (torch.cuda.max_memory_allocated(device) if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**20
    total = (first - began) + 250_000 * pace["median_s"] + 500 * evaluation["median_s"]
    yield {"what": "start: data, split, network", "s": built - began}
    yield {"what": f"first {Captured.EAGER + 1} steps, compiling included", "s": first - built}
    yield {"what": "a step", "s": pace["median_s"], "min_s": pace["min_s"], "steps": pace["windows"] * pace["window"]}
    yield {"what": "an evaluation", "s": evaluation["median_s"], "images": len(trainer.test_y)}
    yield {"what": "the state for a checkpoint, copied to the host", "s": state["median_s"]}
    yield {"what": "peak memory", "MiB": peak}
    yield {"what": "250,000 steps and 500 evaluations, worked out from these", "s": total}


def growth(settings: Settings) -> Iterator[dict[str, Any]]:
    """Step time against classes, slots, unlabelled images (resident and memory-mapped) and views, on random images."""
    device = resolve_device(settings.run())
    kind = dict(steps=settings.steps, window=settings.window, warm=5 if device.type == "cuda" else 2)

    how = {"capture": "graph"} if device.type == "cuda" else {}            # not compiled: a minute of it for each point says nothing more
    def row(curve: str, value: int, source: sources.Source, method: str = "semi", **changes: Any) -> dict[str, Any]:
        run = Run.of("imagefolder", method, **{"profile": settings.growth_profile, "device": settings.device, "labelled_share": 0.1,
                                               "steps": 250_000, "eval_every": 500, **how, **changes})
        trainer = Trainer(run, source)
        with kernels(run, device):
            found = timed(steps_of(trainer), device, **kind)
            bank = {}
            if method == "semi":
                piece = separate(trainer)["of these: memory bank"]
                piece = Captured(piece, device) if device.type == "cuda" else piece
                bank = {"bank_s": timed(piece, device, **kind)["median_s"]}
        out = {"curve": curve, "value": value, "method": method, "images": views(trainer), "network": run.network, **found, **bank}
        del trainer
        free(device)
        return out

    for classes in (10, 100, 1000):
        yield row("classes", classes, random_source(20_000, classes))
    for slots in (32, 128, 512):
        yield row("slots", slots, random_source(5000, 10), options={"slots": slots})
    for size in [n for n in (10_000, 100_000, 1_000_000) if n <= settings.largest]:
        yield row("unlabelled images, resident", size, random_source(size, 10))
        with mapped(size) as source:
            yield row("unlabelled images, memory-mapped", size, source, data_on="host")
    for method, count, options in (("supervised", 1, {}), ("fixmatch", 3, {"strong_views": 1}), ("semi", 4, {})):
        yield row("views", count, random_source(5000, 10), method, options=options)


def random_source(n: int, classes: int, images: Tensor | None = None) -> sources.Source:
    """n random images of 32 x 32 in equally large classes."""
    if images is None:
        images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) % classes
    return sources.Source("random", images, labels, images[:classes], labels[:classes], [str(i) for i in range(classes)],
                          (0.5,) * 3, (0.25,) * 3, flip=True)


class mapped:
    """A source of n random images in a memory-mapped file, which is removed at the end."""

    def __init__(self, n: int):
        import tempfile
        self.n, self.folder = n, tempfile.TemporaryDirectory()

    def __enter__(self) -> sources.Source:
        file = Path(self.folder.name) / "images.npy"
        out = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(self.n, 3, 32, 32))
        draw = np.random.default_rng(0)
        for i in range(0, self.n, 50_000):
            out[i:i + 50_000] = draw.integers(0, 256, out[i:i + 50_000].shape, dtype=np.uint8)
        out.flush()
        del out
        return random_source(self.n, 10, torch.from_numpy(np.load(file, mmap_mode="c")))

    def __exit__(self, *error: Any) -> None:
        self.folder.cleanup()


def sharing(settings: Settings) -> Iterator[dict[str, Any]]:
    """Total steps a second of n SeMi runs (seeds) in this process, each on a stream of its own, and of the bare network of n seeds
    stacked into one network (its convolutions in n groups), against one alone."""
    device = resolve_device(settings.run())
    counts = [n for n in (1, 2, 4, 8) if n <= settings.most_runs]
    kind = dict(steps=settings.steps, window=settings.window, warm=5 if device.type == "cuda" else 1)
    trainers = [trainer_of(settings, seed=seed) for seed in range(counts[-1])]
    with kernels(trainers[0].run, device):
        for n in counts:
            found = timed(join_large_rows(trainers[:n]), device, **kind)
            yield {"how": "runs in one process", "runs": n, **found, "steps_a_second": n / found["median_s"]}
    trainers = None
    free(device)
    for n in counts:
        run = settings.run()
        with kernels(run, device):
            step = stacked(run, n, like_cifar10())
            found = timed(step, device, **kind)
        yield {"how": "bare networks stacked into one", "runs": n, **found, "steps_a_second": n / found["median_s"]}
        step = None
        free(device)


def join_large_rows(trainers: list[Trainer]) -> Callable[[], None]:
    """One step of each trainer, each on its own stream where there are streams."""
    calls = [steps_of(trainer) for trainer in trainers]
    if trainers[0].device.type != "cuda":
        return lambda: [call() for call in calls]
    streams = [torch.cuda.Stream(trainer.device) for trainer in trainers]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())           # the trainers were built there

    def step() -> None:
        for call, stream in zip(calls, streams, strict=True):
            with torch.cuda.stream(stream):
                call()
    return step


def stacked(run: Run, n: int, source: sources.Source) -> Callable[[], None]:
    """`bare` for n seeds stacked into one network, which sees a batch of its own for each; returns one step of all."""
    device, images, classes = resolve_device(run), run.batch * (1 + 3 * run.mu), len(source.class_names)
    net = StackedNet([_seed(run, seed, classes) for seed in range(n)]).to(device).train()
    net.backbone.to(memory_format=torch.channels_last)
    x = torch.randn(images, 3 * n, *source.images.shape[-2:], device=device).contiguous(memory_format=torch.channels_last)
    y = (torch.arange(images, device=device) % classes).expand(n, images)
    optimiser = torch.optim.SGD(net.parameters(), lr=torch.tensor(run.lr, device=device), momentum=0.9, nesterov=True, fused=True)
    low = run.precision == "bf16" or (run.precision == "auto" and device.type == "cuda")

    def objective() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            z = net(x)
        return ce(z.float().flatten(0, 1), y.flatten()).mean() * n

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        objective().backward()
        optimiser.step()
    return Captured(step, device) if device.type == "cuda" else step


def _seed(run: Run, seed: int, classes: int) -> nn.Module:
    backbone = make_backbone(run.network, run.variant, run.bn_momentum)
    net = Net(backbone, {"head": linear(backbone.features, classes)})
    initialise(net, seed)
    return net


_SECTIONS: dict[str, Callable[[Settings], Iterator[dict[str, Any]]]] = {
    "imports": imports, "limits": limits, "steps": steps, "parts": parts, "whole": whole, "growth": growth, "sharing": sharing}
