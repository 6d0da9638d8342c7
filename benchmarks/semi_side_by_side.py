"""SeMi's released training function beside ours, on shared batches and weights: where do they part, and why?

    python -m benchmarks.semi_side_by_side --release PATH                     preset readme, 27 steps
    python -m benchmarks.semi_side_by_side --release PATH --preset released
    python -m benchmarks.semi_side_by_side --release PATH --any-order         with the release's own sort

PATH is a checkout of pywin/SeMi, which is not part of this project; commit 32e3a71 was compared. Its `train` runs with
its own network, a WRN-10-2, on drawn images, in float64 on the CPU. Ours runs with a copy of that network. A line a
step tells the largest difference of each quantity, in the order in which a step computes them. The last line names
the first step and quantity beyond the tolerance. The exit status is 1 if there is one.

The release sorts its bank without keeping the order of equal confidences, which both views of an image always have. So
each machine may order them otherwise. Here they keep their order, unless --any-order is given.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from semilib.data.step import Batch, Time
from semilib.errors import BadInput
from semilib.methods import semi_released
from semilib.methods.base import Info, Method
from semilib.methods.losses import reduce
from semilib.networks.net import Net, View
from semilib.training.config import Run

CLASSES, ROWS, COUNTS = 10, 16, (60, 40, 25, 16, 10, 7, 5, 3, 2, 1)
EPOCHS, DECAY, FEATURES = 3, 4, 128
TOLERANCE = 1e-6
PRESETS = {"readme": dict(threshold=0.7, alpha=0.4, t_e=0.09), "released": dict(threshold=0.95, alpha=0.0, t_e=0.1)}
REASONS = {                       # in the order of a step: the first that differs is the cause of those after it
    "bank": "its cells were filled otherwise: equal confidences stand in another order, or another row was offered",
    "confidences": "the bank's confidences decayed otherwise",
    "pseudo-label": "network or bank gave another pseudo-label",
    "mask": "a confidence lies at the threshold, and one rounding decides",
    "labelled": "the labelled losses differ, from the same logits",
    "unlabelled": "the unlabelled losses differ, from the same pseudo-labels and masks",
    "loss": "the alignment of embeddings differs, as all other terms agree",
    "parameters": "the gradients differ, from the same losses"}
NOT_A_NUMBER = "one side is not a number: where no row was sure in an epoch, the release divides 0 by 0 for the use u"
Step = dict[str, Tensor]          # what one step computed: the keys of `REASONS`
Shared = list[tuple[Tensor, dict[str, Tensor]]]          # labels and views of each step


def shared_batches(steps: int, seed: int = 0) -> Shared:
    """Labels [ROWS] and four views [ROWS, 3, 32, 32] a step: noise around a pattern of each class."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 3, 32, 32, generator=g, dtype=torch.float64)
    chance = torch.tensor(COUNTS, dtype=torch.float64)

    def labels() -> Tensor:
        return torch.multinomial(chance, ROWS, replacement=True, generator=g)

    def view(y: Tensor, noise: float) -> Tensor:
        return patterns[y] + noise * torch.randn(len(y), 3, 32, 32, generator=g, dtype=torch.float64)
    out = []
    for _ in range(steps):
        y, hidden = labels(), labels()
        out.append((y, {"l": view(y, .5), "w": view(hidden, .5), "s1": view(hidden, 1.5), "s2": view(hidden, 1.5)}))
    return out


def parameters(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def optimiser(net: nn.Module) -> torch.optim.SGD:
    """The script's, with a rate at which some rows are sure within the first nine steps."""
    return torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4)


# ---- the release -----------------------------------------------------------------------------------------------------


def load_release(folder: Path, stable: bool) -> ModuleType:
    """The release's script as a module. What it imports for data, logs and bars alone is replaced by empty modules."""
    if not (folder / "train_semi.py").is_file():
        raise BadInput("--release", str(folder), "a checkout of pywin/SeMi: the folder that holds train_semi.py")
    for name, content in {"torch.utils.tensorboard": "SummaryWriter", "dataset": "", "dataset.cifar": "DATASET_GETTERS",
                          "progress": "", "progress.bar": "Bar"}.items():
        module = sys.modules[name] = ModuleType(name)
        if content:
            setattr(module, content, None)
    sys.path.insert(0, str(folder))
    script = importlib.import_module("train_semi")
    if stable:
        class Torch(ModuleType):
            argsort = staticmethod(lambda x, descending: torch.argsort(x, descending=descending, stable=True))

            def __getattr__(self, name: str) -> Any:
                return getattr(torch, name)
        importlib.import_module("utils_sup.memorybank").torch = Torch("torch")
    return script


class Loader:
    """A loader, and its own iterator with the `next` of old Python."""

    def __init__(self, items: list):
        self.items = iter(items)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> tuple:
        return next(self.items)

    next = __next__


class Meter(list):
    """Keeps all values that it is told."""

    avg = 0.0

    def __init__(self, all_meters: list[Meter]):
        super().__init__()
        all_meters.append(self)

    def update(self, value: float, n: int = 1) -> None:
        self.append(value)


def run_release(script: ModuleType, net: nn.Module, preset: str, shared: Shared) -> list[Step]:
    """The release's `train` over all steps."""
    length, values, out, meters = len(shared) // EPOCHS, PRESETS[preset], [], []
    args = SimpleNamespace(
        device="cpu", world_size=1, start_epoch=0, epochs=EPOCHS, eval_step=length, resume="", mu=1,
        num_classes=CLASSES, proto_dim=FEATURES, use_ema=False, local_rank=1, T=1, pula=0, use_pc=1, df=0.99,
        tau_tar=0.1, scale=0.75, conswt=0.15, est_epoch=0, decay_step=DECAY, threshold=values["threshold"],
        alpha=values["alpha"], proto_t=values["t_e"], writer=None, logger=None)
    prior = script.compute_py([(None, labels_of_a_pass())], args)
    for name in ("adjustment_l1", "adjustment_l12", "adjustment_l2"):
        setattr(args, name, script.compute_adjustment_by_py(prior, 2, args))
    bank = script.MemoryBank(classes=CLASSES, num_feature_per_class=128, device="cpu")
    push, inner = bank.push, optimiser(net)

    def watched_push(features, targets, confidences, mask):
        out.append({"bank": bank.memory.clone(), "confidences": bank.confidences.clone(),
                    "pseudo-label": targets[:ROWS].clone(), "mask": mask[:ROWS].clone()})
        return push(features, targets, confidences, mask)

    def step() -> None:
        inner.step()
        out[-1]["parameters"] = parameters(net)
    bank.push, bank.print_confidences = watched_push, lambda: None
    script.AverageMeter = lambda: Meter(meters)
    labelled = Loader([(views["l"], y) for y, views in shared])
    unlabelled = Loader([((v["w"], v["s1"], v["s2"]), torch.zeros(ROWS, dtype=torch.int64)) for _, v in shared])
    script.train(args, labelled, unlabelled, None, net, SimpleNamespace(step=step), None,
                 SimpleNamespace(step=lambda: None), bank, script.ProtoClassifier(num_classes=CLASSES),
                 torch.ones(CLASSES), torch.ones(CLASSES), None)
    for epoch in range(EPOCHS):                    # six meters each; the third to fifth are told the losses
        for i in range(length):
            record = out[epoch * length + i]
            for name, meter in zip(("loss", "labelled", "unlabelled"), meters[6 * epoch + 2:]):
                record[name] = torch.tensor(meter[i])
    return out


# ---- ours ------------------------------------------------------------------------------------------------------------


class SharedNet(Net):
    """The release's network with the names that our methods read."""

    def __init__(self, model: nn.Module):
        nn.Module.__init__(self)
        self.model = model

    def forward(self, x: Tensor) -> View:
        f = self.model(x)
        return View({"head": self.model.classify(f), "balanced": self.model.classify1(f)}, f)


def labels_of_a_pass() -> Tensor:
    return torch.arange(CLASSES).repeat_interleave(torch.tensor(COUNTS))


def our_method(preset: str, steps: int) -> Method:
    length = steps // EPOCHS
    semi_released.EPOCH = length                        # the script's 500 steps an epoch, which also divide r
    run = Run.of("cifar10", "semi", steps=steps, eval_every=steps, batch=ROWS, device="cpu", precision="fp64",
                 options=dict(preset=preset, warmup=length, epoch=length, decay_every=DECAY, **PRESETS[preset]))
    counts, first_pass = torch.tensor(COUNTS), labels_of_a_pass()
    info = Info(classes=CLASSES, features=FEATURES, counts=counts, n_labelled=len(first_pass), n_unlabelled=1000,
                batch=ROWS, mu=1, steps=steps, seed=0, device=torch.device("cpu"), dtype=torch.float64,
                first_pass=first_pass, run=run)
    method = run.method_class()(run.method_options(), info)
    method.build()
    return method


def run_ours(net: nn.Module, preset: str, shared: Shared) -> list[Step]:
    """The same steps by our method, as the engine makes them."""
    net, method, out = SharedNet(net), our_method(preset, len(shared)), []
    inner, bank = optimiser(net), method.blend.bank
    for at, (y, images) in enumerate(shared):
        now, rows = Time(torch.tensor(at), len(shared), torch.float64), torch.arange(ROWS)
        batch = Batch(y=y, index_l=rows, index_u=rows, known_u=torch.zeros(ROWS, dtype=torch.bool))
        views = method.forward(net, images, batch, now, net)
        with torch.no_grad():
            pseudo = method.pseudo(views.detach(), batch, now)
        losses = {name: reduce(term) for name, term in method.terms(views, batch, pseudo, now).items()}
        inner.zero_grad()
        sum(losses.values()).backward()
        inner.step()
        value = {name: loss.detach() for name, loss in losses.items()}
        out.append({"bank": bank.features.clone(), "confidences": bank.confidence.clone(), "pseudo-label": pseudo.prob,
                    "mask": pseudo.mask, "labelled": value["x"] + value["x_b"],
                    "unlabelled": value["u"] + value["u_b"], "loss": sum(value.values()),
                    "parameters": parameters(net)})
        with torch.no_grad():
            method.end_step(views.detach(), batch, pseudo, now)
    return out


# ---- both ------------------------------------------------------------------------------------------------------------


def differences(a: Step, b: Step) -> dict[str, float]:
    """Quantity -> the largest difference, in the order of a step."""
    return {name: float((a[name].double() - b[name].double()).abs().max()) for name in REASONS}


def verdict(steps: list[dict[str, float]], tolerance: float = TOLERANCE) -> str:
    """The sentence of the last line; it begins with "they part" if a quantity of a step is beyond the tolerance."""
    for at, gaps in enumerate(steps):
        for name, gap in gaps.items():
            if not gap <= tolerance:
                why = NOT_A_NUMBER if name == "pseudo-label" and math.isnan(gap) else REASONS[name]
                return f"they part at step {at}: {name} by {gap:.2g}; {why}"
    largest, name = max((gap, name) for gaps in steps for name, gap in gaps.items())
    return f"they agree over {len(steps)} steps: largest difference {largest:.2g}, of {name}"


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def main(arguments: list[str] | None = None) -> int:
    """The command. Exits with status 2 and a sentence if an argument is of no use."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", required=True, type=Path, metavar="PATH", help="a checkout of pywin/SeMi")
    parser.add_argument("--preset", choices=list(PRESETS), default="readme", help="whose values: default readme")
    parser.add_argument("--steps", type=int, default=27, help=f"in {EPOCHS} epochs; default 27")
    parser.add_argument("--any-order", action="store_true", help="leave the release's sort as it is")
    args = parser.parse_args(arguments)
    try:
        if args.steps < EPOCHS or args.steps % EPOCHS:
            raise BadInput("--steps", args.steps, f"a multiple of {EPOCHS}, the epochs")
        script = load_release(args.release, stable=not args.any_order)
    except BadInput as error:
        parser.error(str(error))
    torch.manual_seed(0)
    with doubles():
        network = importlib.import_module("models.wideresnet")
        net = network.build_wideresnet(depth=10, widen_factor=2, dropout=0, num_classes=CLASSES).double()
        mine, shared = copy.deepcopy(net), shared_batches(args.steps)
        with contextlib.redirect_stdout(io.StringIO()):
            original = run_release(script, net, args.preset, shared)
        steps = [differences(a, b) for a, b in zip(run_ours(mine, args.preset, shared), original, strict=True)]
    print("step  " + "  ".join(f"{name:>12s}" for name in REASONS) + "   sure rows")
    for at, (row, record) in enumerate(zip(steps, original)):
        print(f"{at:4d}  " + "  ".join(f"{gap:12.1e}" for gap in row.values()) + f"{int(record['mask'].sum()):12d}")
    sentence = verdict(steps)
    print(sentence)
    return int(sentence.startswith("they part"))


if __name__ == "__main__":
    sys.exit(main())
