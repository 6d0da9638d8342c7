"""How fast a step is, what it consists of, and what the machine would allow, measured on the machine at hand.

    record = measure(Settings(device="cpu"), Path("results/speed/cpu.json"))

A record is one JSON file: the machine, the settings, and a section for each question. A section is written as soon as
it is measured, so a killed measurement goes on where it was. Seconds are wall-clock, a step's unless a name says more.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from semilib.errors import BadInput, check_name
from semilib.files import write_text
from semilib.options import Options, option
from semilib.speed import records, workloads
from semilib.speed.counting import count_operators, network_cost
from semilib.speed.records import Record
from semilib.speed.workloads import Step, elapsed, free, images_of, parts_of, random_source, timed, wait
from semilib.training import compiling, fingerprint, record
from semilib.training.config import Run
from semilib.training.engine import Captured, Trainer, has_bf16_units, resolve_device
from semilib.training.train import kernels

Rows = Iterator[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Settings(Options):
    """What to measure. The cell is that of the published scripts: CIFAR-10-LT, N1 = 1500, M1 = 3000, gamma 100."""

    device: str = option("auto", "auto, cpu or cuda")
    profile: str = option("paper", "network, batch and schedule of the step")
    methods: str = option("semi+fixmatch+daso", "methods whose steps are timed, joined by +")
    growth_profile: str = option("quickstart", "network and batch of the growth curves")
    sections: str = option("imports+limits+steps+parts+whole+growth+sharing", "what to measure, joined by +")
    steps: int = option(10, "steps that are timed, one by one on a CPU, in windows on a GPU", low=2)
    window: int = option(1, "steps between two synchronisations", low=1)
    captures: str = option("", "of the timed steps, as a run's capture, joined by +; '' = off, and on a GPU also auto")
    precisions: str = option("", "of the timed steps, joined by +; '' = what the device has units for")
    largest: int = option(100_000, "images of the largest unlabelled set of the growth curves", low=1000)
    whole_steps: int = option(20, "steps of the whole run that is timed with its evaluations", low=4)
    most_runs: int = option(4, "runs that share the device at most", low=1)

    @classmethod
    def named(cls, values: dict[str, Any]) -> Settings:
        """Settings by name. Raises BadInput for an unknown name or a bad value."""
        for name in values:
            check_name("parameter", name, [field.name for field in dataclasses.fields(cls)])
        return cls(**values)

    def kept(self) -> dict[str, Any]:
        """What the numbers of a record depend on."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "sections"}

    @property
    def on(self) -> torch.device:
        return resolve_device(self.run())

    @property
    def cuda(self) -> bool:
        return self.on.type == "cuda"

    def run(self, method: str = "semi", **changes: Any) -> Run:
        return Run.of("cifar10", method, **{"profile": self.profile, "device": self.device, **changes})

    def trainer(self, method: str = "semi", **changes: Any) -> Trainer:
        free()
        return Trainer(self.run(method, **changes), workloads.like_cifar10())

    def timed(self, step: Step, graph: bool = False) -> dict[str, float]:
        """Seconds of a step once it is warm. graph: on a GPU as a CUDA graph of its own."""
        call = Captured(step, self.on) if graph and self.cuda else step
        return timed(call, self.on, self.steps, self.window, max(5, self.window) if self.cuda else 1)


# ---- the record ------------------------------------------------------------------------------------------------------


def measure(settings: Settings, path: Path, show: Callable[[str], None] = print) -> Record:
    """The record of these settings on this machine; sections that the file has already are kept. Raises BadInput for
    unknown sections, and where the file belongs to another machine or other settings."""
    wanted = settings.sections.split("+")
    for name in wanted:
        check_name("section", name, SECTIONS)
    here = {"settings": settings.kept(), "machine": machine(settings)}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else here
    same = all(kept["machine"][fact] == here["machine"][fact] for fact in ("device", "cpu", "threads"))
    if kept["settings"] != here["settings"] or not same:
        raise BadInput("path", path.name, "a new file: the one there is of other settings or another machine")
    for name in wanted:
        if name not in kept:
            show(f"measuring {name}")
            began = time.perf_counter()
            with kernels(settings.run(), settings.on):
                rows = list(SECTIONS[name](settings))
            kept[name] = {"rows": rows, "seconds": round(time.perf_counter() - began, 1), "code": code(settings.run())}
            write_text(path, json.dumps(kept, indent=1) + "\n")
    return kept


def ensure(settings: Settings, name: str, runs: Path, results: Path,
           show: Callable[[str], None] = print) -> dict[str, Record]:
    """The record of this machine, by name, measured as far as it is missing. With a name it is kept as
    results/NAME.json. Without one, committed records of this machine are taken as they are; where there is none, one is
    measured into runs/speed, a file for each machine, version of PyTorch and settings."""
    if name:
        return {name: measure(settings, results / f"{name}.json", show)}
    facts = {fact: value for fact, value in machine(settings).items() if fact != "date"}
    same = {name: kept for name, kept in records.load(results).items()
            if all(kept["machine"].get(fact) == facts[fact] for fact in ("device", "cpu", "cores"))}
    if same:
        show(f"{', '.join(same)}: of this machine, so nothing is measured; record=\"NAME\" measures anew")
        return same
    key = hashlib.sha256(json.dumps([facts, settings.kept()], sort_keys=True).encode()).hexdigest()[:8]
    return {"this machine": measure(settings, runs / "speed" / f"{records.slug(facts)}-{key}.json", show)}


def code(run: Run) -> str:
    """The commit, with a mark if a step's code was changed since; outside a repository the fingerprint of that code."""
    origin = record.provenance(run)
    changed = " changed" * bool(origin["dirty"])
    return origin["commit"] + changed if origin["commit"] else f"files {fingerprint.code_of(run.identity())}"


def machine(settings: Settings) -> dict[str, Any]:
    """The machine and the versions, as a record names them."""
    file = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in file.read_text().splitlines()] if file.exists() else []
    cpu = {key.strip(): value.strip() for key, _, value in lines}
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in cpu.get("flags", "").split()]
    facts = {"device": record.device_name(settings.on), "cpu": cpu.get("model name", platform.processor()),
             "cpu_units": units, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
             "python": platform.python_version(), "torch": torch.__version__,
             "date": time.strftime("%Y-%m-%d", time.gmtime())}
    if settings.cuda:
        memory = torch.cuda.get_device_properties(settings.on).total_memory
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                  "memory_GiB": round(memory / 2**30, 1)}
    return facts


def peak_memory() -> int:
    """Bytes: the most memory that this process has had.

    Linux's `ru_maxrss` does not begin anew with a program: it starts at what the process had that started it."""
    file = Path("/proc/self/status")
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    for line in lines:
        if line[:1] == ["VmHWM:"]:
            return 1024 * int(line[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- sections: each yields rows --------------------------------------------------------------------------------------


def imports(settings: Settings) -> Rows:
    """Seconds of an interpreter that imports torch, and of one that also imports all that a run needs: the least of
    several, in turn, after one for the file cache."""
    programs = {"import torch": "import torch", "import semilib, beyond torch": "import torch, semilib",
                "and semilib.Run, semilib.train, beyond torch": "import torch, semilib; semilib.Run, semilib.train"}
    seconds: dict[str, list[float]] = {what: [] for what in programs}
    for _ in range(6):
        for what, program in reversed(programs.items()):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
            seconds[what].append(time.perf_counter() - began)
    least = {what: min(times[1:]) for what, times in seconds.items()}
    for what in programs:
        yield {"what": what, "s": least[what] - (least["import torch"] if "beyond" in what else 0)}


def limits(settings: Settings) -> Rows:
    """What the machine copies and multiplies a second; the time on paper of a SeMi step's network at these rates."""
    device, cuda = settings.on, settings.cuda
    n = 2**28 if cuda else 2**25
    a, b = torch.ones(n, device=device), torch.empty(n, device=device)
    copy = 2 * 4 * n / timed(lambda: b.copy_(a), device, 10)["min_s"]
    yield {"what": "copy", "GB_s": copy / 1e9, "note": f"{4 * n // 2**20} MiB, read and written"}
    rates, before = {}, torch.get_float32_matmul_precision()
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        side = 8192 if cuda else 2048 if name == "fp32" else 512   # without units, bf16 is hundreds of times slower
        x = torch.randn(side, side, device=device).to(dtype)
        torch.set_float32_matmul_precision("high" if cuda else before)
        rates[name] = 2 * side**3 / timed(lambda x=x: x @ x, device, 5)["min_s"]
        torch.set_float32_matmul_precision(before)
        yield {"what": f"matrix product, {name}", "TFLOP_s": rates[name] / 1e12,
               "note": f"{side} x {side}" + ", in TF32, as PyTorch's convolutions are" * (cuda and name == "fp32")}
    trainer = settings.trainer(device="cpu", capture="off", precision="fp32")
    cost = network_cost(trainer.net.backbone, (images_of(trainer), 3, *trainer.source.images.shape[-2:]))
    for name, size in (("fp32", 4), ("bf16", 2)):
        moved = size * cost["elements"]
        yield {"what": f"SeMi's step on paper, {name}", "TFLOP": cost["flops"] / 1e12, "GB": moved / 1e9,
               "at_matrix_rate_s": cost["flops"] / rates[name], "at_copy_rate_s": moved / copy,
               "note": "convolutions forward and backward; bytes: each convolution's input, output and their "
                       "gradients, read and written once with norm and activation fused into them"}


def steps(settings: Settings) -> Rows:
    """A step of each method, and of the bare network on a ready batch."""
    units = "bf16+fp32" if settings.cuda or has_bf16_units() else "fp32"
    for precision in (settings.precisions or units).split("+"):
        for capture in (settings.captures or ("off+auto" if settings.cuda else "off")).split("+"):
            for method in ("bare", *settings.methods.split("+")):
                alone = method == "bare"
                trainer = settings.trainer("supervised" if alone else method, precision=precision, capture=capture)
                step, images = workloads.bare(trainer) if alone else (trainer.advance, images_of(trainer))
                yield {"method": method, "precision": precision, "capture": capture, "images": images,
                       "network": trainer.run.network, **settings.timed(step)}


def parts(settings: Settings) -> Rows:
    """SeMi's step by part, each repeated alone: seconds, the operators that it consists of (a kernel each on a GPU),
    and the kernels that remain of them where it is compiled."""
    compiles = settings.cuda or "compile" in settings.captures.split("+")
    for capture in ("off", "compile") if compiles else ("off",):
        trainer = settings.trainer(capture=capture)
        trainer.advance()
        trainer.data.prepare(trainer.step)
        for name, part in parts_of(trainer).items():
            counted = ({"kernels": compiling.kernel_count(part)} if capture == "compile"
                       else {"operators": count_operators(part)})
            yield {"part": name, "capture": capture, **settings.timed(part, graph=True), **counted}


def whole(settings: Settings) -> Rows:
    """A SeMi run's costs besides its steps; what 250,000 steps with 500 evaluations come to is worked out from them."""
    device, cuda = settings.on, settings.cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    trainer = settings.trainer()
    wait(device)
    built = time.perf_counter() - began
    eager = Captured.EAGER + 1
    first = elapsed(trainer.advance, device, eager)
    pace = timed(trainer.advance, device, max(2, settings.whole_steps // settings.window), settings.window, warm=0)
    evaluation = timed(trainer.evaluate, device, 3 if cuda else 1, warm=int(cuda))["median_s"]
    state = timed(lambda: {name: value.cpu() for name, value in trainer.state_dict().items()}, device, 2, warm=0)
    host = peak_memory()
    yield {"what": "start: data, split, network", "s": built}
    yield {"what": f"first {eager} steps, compiling included", "s": first}
    yield {"what": "a step", "s": pace["median_s"], "min_s": pace["min_s"], "steps": pace["windows"] * pace["window"]}
    yield {"what": "an evaluation", "s": evaluation, "images": len(trainer.test_y)}
    yield {"what": "the state for a checkpoint, copied to the host", "s": state["median_s"]}
    yield {"what": "peak memory", "MiB": (torch.cuda.max_memory_allocated(device) if cuda else host) / 2**20}
    yield {"what": "250,000 steps and 500 evaluations, worked out from these",
           "s": built + first + 250_000 * pace["median_s"] + 500 * evaluation}


def growth(settings: Settings) -> Rows:
    """Step time against classes, slots, unlabelled images (resident and memory-mapped) and views, on random images. A
    GPU captures these steps but does not compile them: a minute for each point would say nothing more."""
    def row(curve: str, value: int, source: workloads.Source, method: str = "semi", **changes: Any) -> dict[str, Any]:
        run = Run.of("imagefolder", method, profile=settings.growth_profile, device=settings.device, labelled_share=0.1,
                     steps=250_000, eval_every=500, capture="graph" if settings.cuda else "auto", **changes)
        free()
        trainer = Trainer(run, source)
        seconds, bank = settings.timed(trainer.advance), parts_of(trainer).get("of these: memory bank")
        more = {"bank_s": settings.timed(bank, graph=True)["median_s"]} if bank else {}
        return {"curve": curve, "value": value, "method": method, "images": images_of(trainer), "network": run.network,
                **seconds, **more}

    for classes in (10, 100, 1000):
        yield row("classes", classes, random_source(20_000, classes))
    for slots in (32, 128, 512):
        yield row("slots", slots, random_source(5000, 10), options={"slots": slots})
    for size in [n for n in (10_000, 100_000, 1_000_000) if n <= settings.largest]:
        yield row("unlabelled images, resident", size, random_source(size, 10))
        with tempfile.TemporaryDirectory() as folder:
            source = random_source(size, 10, file=Path(folder) / "images.npy")
            yield row("unlabelled images, memory-mapped", size, source, data_on="host")
    for method, views, options in (("supervised", 1, {}), ("fixmatch", 3, {"strong_views": 1}), ("semi", 4, {})):
        yield row("views", views, random_source(5000, 10), method, options=options)


def sharing(settings: Settings) -> Rows:
    """Total steps a second of n SeMi runs (seeds) in this process, each on a stream of its own, against one alone."""
    counts = [n for n in (1, 2, 4, 8) if n <= settings.most_runs]
    trainers = [settings.trainer(seed=seed) for seed in range(counts[-1])]
    for n in counts:
        seconds = settings.timed(workloads.side_by_side(trainers[:n]))
        yield {"how": "runs in one process", "runs": n, **seconds, "steps_a_second": n / seconds["median_s"]}


SECTIONS: dict[str, Callable[[Settings], Rows]] = {"imports": imports, "limits": limits, "steps": steps, "parts": parts,
                                                   "whole": whole, "growth": growth, "sharing": sharing}
