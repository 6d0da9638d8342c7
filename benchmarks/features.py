"""How fast runs on stored features are, on one core: making a store, a step, a whole run, two at once, memory.

    python -m benchmarks.features [NAME=VALUE ...]      # into results/speed/features and docs/speed.md

Each part is measured beside what it is compared with, in one process and in turn, so that both meet the same machine.
Parts that the record has already are kept. Names: root, images (of the store that is made), steps, rounds, long (steps
of the whole run).
"""
from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.goals import between
from semilib.data import sources
from semilib.errors import BadInput, check_name
from semilib.features import batches
from semilib.features.store import Store
from semilib.files import place, shown, write_text
from semilib.networks import encoders
from semilib.report.table import Table
from semilib.speed import records
from semilib.speed.counting import count_operators
from semilib.speed.measure import Settings, machine, peak_memory
from semilib.speed.tables import words
from semilib.training import record as runs
from semilib.training.config import Run
from semilib.training.engine import Trainer
from semilib.training.train import train

FOLDER, PAGE = Path("results/speed/features"), "docs/speed.md"
BEGIN, END = "<!-- features: begin -->", "<!-- features: end -->"
USUAL = dict(root="data", images=512, steps=40, rounds=5, long=10_000)
ONE, MANY = dict(n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0), dict(n1=150, m1=300, gamma_l=20.0, gamma_u=20.0)
VIEWS = {"none": 1, "weak": 2, "strong": 8}             # of an image, as profile features stores them


def run_of(given: dict[str, Any], method: str = "semi", dataset: str = "cifar10", **changes: Any) -> Run:
    return Run.of(dataset, method, profile="features", root=given["root"], split_seed=0,
                  **{**(ONE if dataset == "cifar10" else MANY), **changes})


def in_turn(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, one after the other in every round; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def eager(encoder: encoders.Encoder, device: torch.device, cache: Path,
          precision: str = "") -> Callable[[torch.Tensor], torch.Tensor]:
    """What `encoders.runner` gives, by PyTorch alone."""
    return lambda pictures: torch.cat([encoder.eager(part) for part in pictures.split(encoders.BATCH)])


def a_step(trainers: dict[str, Trainer], given: dict[str, Any]) -> dict[str, float]:
    """Median seconds of a step of each, in turn."""
    n = given["steps"]

    def advance(trainer: Trainer) -> None:
        for _ in range(n):
            trainer.advance()
    ways = {name: functools.partial(advance, trainer) for name, trainer in trainers.items()}
    return {name: value / n for name, value in in_turn(ways, given["rounds"]).items()}


# ---- the parts -------------------------------------------------------------------------------------------------------


def making(given: dict[str, Any], precision: str = "fp32") -> dict[str, float]:
    """Views a second of a store's making, drawing, resizing and writing included: our way, and PyTorch's in fp32 in
    its place."""
    run = run_of(given)
    source = sources.load(run.dataset, run.root, run.side)
    some = torch.arange(given["images"])

    def make(way: Callable) -> None:
        usual, encoders.runner = encoders.runner, way
        try:
            with tempfile.TemporaryDirectory() as folder:
                look = batches.stores(source, run, torch.device("cpu"))[0].look
                Store(folder, "trial", source.images, look, run.encoder, run.encoder_side, "", torch.device("cpu"),
                      precision=precision).ensure(VIEWS, some)
        finally:
            encoders.runner = usual
    views = len(some) * sum(VIEWS.values())
    seconds = in_turn({"ours": lambda: make(encoders.runner), "eager": lambda: make(eager)}, 1)
    return {f"{name}_views_a_second": views / value for name, value in seconds.items()}


def making_in_bf16(given: dict[str, Any]) -> dict[str, float]:
    """`making` in bf16, and the features' mean distance from PyTorch's in fp32 over their mean size; nothing where the
    CPU has no units for it."""
    cpu = torch.device("cpu")
    try:
        encoders.arithmetic(cpu, "bf16")
    except BadInput:
        return {}
    run = run_of(given)
    pictures = sources.load(run.dataset, run.root, run.side).images[:given["images"]]
    encoder = encoders.load(run.encoder, run.encoder_side)
    exact = eager(encoder, cpu, Path())(pictures)
    quick = encoders.runner(encoder, cpu, place(given["root"]) / "features" / "encoders", "bf16")(pictures)
    return {**making(given, "bf16"), "relative_error": float((quick - exact).abs().mean() / exact.abs().mean())}


def steps(given: dict[str, Any]) -> dict[str, float]:
    """Seconds a step: SeMi and FixMatch; and SeMi with the frozen encoder in the loop, by PyTorch and by ONNX Runtime,
    which draws and encodes the step's own number of views."""
    trainers = {"semi": Trainer(run_of(given)), "fixmatch": Trainer(run_of(given, "fixmatch"))}
    run = run_of(given)
    source = sources.load(run.dataset, run.root, run.side)
    scratch = run.with_(encoder="none", network="wrn-10-0.5")
    live = Trainer(scratch, source).data
    encoder = encoders.load(run.encoder, run.encoder_side)
    quick = encoders.runner(encoder, torch.device("cpu"), place(given["root"]) / "features" / "encoders")

    def looped(compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        from semilib.data.step import Time
        now = Time(torch.tensor(0), run.steps, torch.float32, "")
        _, raw = live.pick(now)
        for pictures in live.views(raw, 0).values():
            compute(pictures)
        trainers["semi"].advance()
    return a_step(trainers, given) | in_turn({"semi_eager_in_loop": lambda: looped(encoder.eager),
                                              "semi_onnx_in_loop": lambda: looped(quick)}, 2)


def classes(given: dict[str, Any]) -> dict[str, float]:
    """Seconds a step of SeMi at 10 and at 100 classes."""
    return a_step({"semi": Trainer(run_of(given)), "semi_100_classes": Trainer(run_of(given, dataset="cifar100"))},
                  given)


def products(given: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step's two large matrix products alone: a layer of the profile's width on the features of its four
    views, and the gradient of its weights."""
    run = run_of(given)
    x, weight = torch.randn(4 * run.batch, 1280), torch.randn(int(run.network.removeprefix("mlp-")), 1280)
    back = torch.randn(len(x), len(weight))
    return {"seconds": in_turn({"both": lambda: (x @ weight.T, back.T @ x)}, 50)["both"]}


def operators(given: dict[str, Any]) -> dict[str, float]:
    """How many operators a step consists of."""
    counts = {}
    for method in ("semi", "fixmatch"):
        trainer = Trainer(run_of(given, method))
        trainer.advance()
        counts[method] = count_operators(trainer.advance)
    return counts


def whole(given: dict[str, Any]) -> dict[str, float]:
    """Seconds of a whole run with its evaluations, alone and two side by side; and the memory that a process took."""
    def timed(seeds: tuple[int, ...]) -> list[dict[str, float]]:
        with tempfile.TemporaryDirectory() as folder:
            asked = [f"{name}={value}" for name, value in given.items()]
            parts = [subprocess.Popen([sys.executable, "-m", "benchmarks.features", f"only={seed}", f"into={folder}",
                                       *asked], stdout=subprocess.PIPE, text=True) for seed in seeds]
            return [json.loads(part.communicate()[0].splitlines()[-1]) for part in parts]
    alone, both = timed((0,)), timed((1, 2))
    return {"seconds": alone[0]["seconds"], "seconds_of_two": max(part["seconds"] for part in both),
            "gigabytes": alone[0]["gigabytes"]}


def one_run(seed: int, folder: str, given: dict[str, Any]) -> dict[str, float]:
    """A whole run in this process: its seconds and the largest memory."""
    path = train(run_of(given, steps=given["long"], seed=seed, keep_seconds=1e6), folder)
    return {"seconds": runs.read(path)["seconds"],
            "gigabytes": peak_memory() / 2**30}


def on_paper(given: dict[str, Any]) -> dict[str, float]:
    """ImageNet-127's pool by arithmetic: its training images, all views of each, float16; nothing of it is held whole,
    because a run reads the rows of a step."""
    views = 1_281_167 * sum(VIEWS.values())
    return {"views": views, "gigabytes": views * 1280 * 2 / 1e9}


PARTS = {"making": making, "making_in_bf16": making_in_bf16, "steps": steps, "products": products,
         "operators": operators, "whole": whole, "classes": classes, "on_paper": on_paper}

# ---- record and table ------------------------------------------------------------------------------------------------


def table(record: dict[str, Any]) -> Table:
    """The goals beside what was measured."""
    made, bf16, step, run, many = (record.get(name, {}) for name in ("making", "making_in_bf16", "steps", "whole",
                                                                     "classes"))

    def ratio(a: float | None, b: float | None) -> float:
        return a / b if a and b else float("nan")
    figures = [                                       # what, sign and bound of its goal, how both are written, value
        ("store's making over PyTorch eager, fp32", 1, 3.2, "{:.1f} x",
         ratio(made.get("ours_views_a_second"), made.get("eager_views_a_second"))),
        *([("the same in bf16", 1, 5.0, "{:.1f} x",
            ratio(bf16["ours_views_a_second"], bf16["eager_views_a_second"])),
           ("mean distance of its features from fp32, over their mean size", 0, 0, "{:.2%}", bf16["relative_error"])]
          if bf16 else []),
        ("SeMi's step, PyTorch eager in the loop over stored features", 1, 300, "{:.0f} x",
         ratio(step.get("semi_eager_in_loop"), step.get("semi"))),
        ("the same, ONNX Runtime in the loop", 1, 60, "{:.0f} x",
         ratio(step.get("semi_onnx_in_loop"), step.get("semi"))),
        ("a SeMi step", -1, 7, "{:.1f} ms", 1e3 * step.get("semi", float("nan"))),
        ("a FixMatch step", -1, 4, "{:.1f} ms", 1e3 * step.get("fixmatch", float("nan"))),
        ("of either, its two large matrix products alone", 0, 0, "{:.1f} ms",
         1e3 * record.get("products", {}).get("seconds", float("nan"))),
        *((f"operators of a {name} step", 0, 0, "{:.0f}", record.get("operators", {}).get(method, float("nan")))
          for method, name in (("semi", "SeMi"), ("fixmatch", "FixMatch"))),
        ("SeMi at 100 classes over 10", -1, 1.3, "{:.2f} x", ratio(many.get("semi_100_classes"), many.get("semi"))),
        (f"{record['given']['long']:,} SeMi steps with their evaluations (goal for 10,000)", -1, 80, "{:.0f} s",
         run.get("seconds", float("nan"))),
        ("two such runs side by side over one", -1, 1.15, "{:.2f} x",
         ratio(run.get("seconds_of_two"), run.get("seconds"))),
        ("memory of such a run", -1, 1.5, "{:.2f} GB", run.get("gigabytes", float("nan")))]
    rows = [{"what": what, "goal": f"at {'least' if sign > 0 else 'most'} {how.format(bound)}" if sign else "",
             "shown": "" if value != value else how.format(value),
             "met": "" if not sign else "open" if value != value else "yes" if sign * value >= sign * bound else
                    "no"}
            for what, sign, bound, how, value in figures]
    return Table(f"Runs on stored features; {records.where(record)}",
                 [words(key, head) for key, head in {"what": "figure", "goal": "goal", "shown": "measured",
                                                     "met": "met"}.items()], rows)


def block(own: dict[str, dict[str, Any]]) -> str:
    """What stands between the page's marks: the table of each record, by name."""
    tables = [f"{table(record).markdown}\n`{FOLDER}/{name}.json`; {records.versions(record)}\n"
              for name, record in own.items()]
    return "\n".join(tables) or "No record is committed yet.\n"


def committed() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(place(FOLDER).glob("*.json"))}


def main(arguments: list[str]) -> None:
    asked: dict[str, Any] = dict(word.partition("=")[::2] for word in arguments)
    only, into = asked.pop("only", None), asked.pop("into", "")
    for name in asked:
        check_name("name", name, USUAL)
    given = {name: type(usual)(asked.get(name, usual)) for name, usual in USUAL.items()}
    torch.set_num_threads(1)
    if only is not None:
        print(json.dumps(one_run(int(only), into, given)))
        return
    about = machine(dataclasses.replace(Settings(), device="cpu"))
    out = place(FOLDER) / f"{records.slug(about)}.json"
    record = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    record = {"machine": {**about, "threads": 1}, "given": {k: v for k, v in given.items() if k != "root"}, **record}
    for name, part in PARTS.items():
        if name not in record:
            record[name] = part(given)
            write_text(out, json.dumps(record, indent=1) + "\n")
    print(table(record).text)
    write_text(place(PAGE), between(place(PAGE).read_text(encoding="utf-8"), BEGIN, END, block(committed())))
    print(f"record: {shown(out)}, shown in {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
