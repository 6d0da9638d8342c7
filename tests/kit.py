"""The tests' kit: runs of seconds on the embedded pictures, tensors of the references, methods and views without data,
real training on a few small images, traps for a captured step, records written by hand, and sweeps to be killed.

B rows, C classes, D features. Whatever can be is float64, the precision in which the references state their values.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import time as clock
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from semilib.data.batches import Data
from semilib.data.sources import Source
from semilib.data.step import Batch, Time
from semilib.errors import BadInput
from semilib.features import store as stores
from semilib.methods import METHODS, get
from semilib.methods.base import Info, Method
from semilib.methods.losses import reduce
from semilib.networks.net import View, Views
from semilib.study import grids
from semilib.study.status import share_done, summary
from semilib.training import checkpoint, metrics, record
from semilib.training.config import Run
from semilib.training.engine import Trainer

ROOT = Path(__file__).resolve().parent.parent
DATA = str(ROOT / "data")


# ---- runs of profile smoke on the embedded pictures ------------------------------------------------------------------


def smoke_run(method: str = "fixmatch", **changes) -> Run:
    """A run of seconds, as a person types it; every part of the method acts."""
    return Run.of("mnistm5k", method, **{"profile": "smoke", "root": DATA, **changes})


def recipe_refusal(name: str) -> str:
    """Why a registered method has no original recipe; "" if it has one."""
    try:
        get(name).original(dataclasses.asdict(Run.of("cifar10", name)))
    except BadInput as error:
        assert error.field == "recipe", error
        return str(error)
    return ""


# SeMi's modules on these, early enough and with a threshold that some rows pass.
ADDED = {"semi_warmup": 2, "plce_epoch": 1, "plce_decay_every": 2, "plce_slots": 8}
HOSTS = {"freematch": {}, **{host: {"threshold": 0.25} for host in ("fixmatch", "daso", "acr", "cpe", "abc", "darp")}}
# name -> what a smoke run of it changes; `options` on top of those of the profile.
VARIANTS = {**{name: {"method": name} for name in METHODS},
            **{f"{base}+{name}": {"method": name, "base": base} for name in METHODS for base in get(name).bases[1:]},
            "fixmatch+la": {"method": "la", "base": "fixmatch"},
            **{f"{host}+oheml+plce+align": {"method": host, "add": "oheml+plce+align", "options": {**ADDED, **more}}
               for host, more in HOSTS.items()},
            # With r_by_epoch_length the blend begins at step 500.
            "semi-readme": {"method": "semi", "options": {"preset": "readme", "warmup": 3, "epoch": 2, "decay_every": 2,
                                                          "threshold": 0.2, "slots": 8, "r_by_epoch_length": False}},
            "semi-pool": {"method": "semi",
                          "options": {"bank_balance": False, "u_norm": "max", "warmup": 2, "epoch": 2}}}
SEQUENTIAL = {"semi-readme"}           # the release's bank is a loop by nature
# One for each way in which a method uses a backbone: alone, joint, a pass a view, by the teacher, at all depths, under
# autocast. A check of all variants that is not about the backbone gives it to these; the others get `Small`.
REAL = ("supervised", "semi", "remixmatch", "cossl", "metaexpert", "bf16")


class Small(nn.Module):
    """A backbone that takes no time: one convolution, norm and activation."""

    features, map_widths, keep_maps = 8, (8,), False

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return F.leaky_relu(self.bn(self.conv(x)), 0.1)


KEPT: dict[tuple, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
compute_views = Data.views


def views_once(self: Data, raw: dict[str, Tensor], step: int | Tensor) -> dict[str, Tensor]:
    """In the place of `Data.views`: the views of the same images, in the same step of the same seed, are computed for
    the first method that asks for them and kept for the others."""
    key = (*self.step_images.views.items(), self.run.seed, int(step), self.source.flip, self.run.strong_pool,
           self.run.crop, *self.source.mean, *(x.shape for x in raw.values()))
    images, views = KEPT.get(key, ({}, {}))
    if images.keys() != raw.keys() or not all(torch.equal(images[name], x) for name, x in raw.items()):
        views = compute_views(self, raw, step)
        KEPT.setdefault(key, (raw, views))
    return dict(views)


def smoke_trainer(variant: str, source, **changes) -> Trainer:
    """A trainer of one of `VARIANTS` on the embedded pictures."""
    return Trainer(smoke_run(**{**VARIANTS[variant], **changes}), source)


def last_phase(t) -> int:
    """The step at which a run's last phase begins."""
    return max(s.start for s in t.phases if s.start < t.total - 1)


# ---- tensors of the references ---------------------------------------------------------------------------------------

TOLERANCE = 2e-6                     # of the references' values, which are printed with six decimals


def f64(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(have, want, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(torch.as_tensor(have, dtype=torch.float64), torch.as_tensor(want, dtype=torch.float64),
                               rtol=0, atol=tolerance)


# methods-a 2.11
A = SimpleNamespace(
    X=f64([[2, .5, -1], [0, 1, 0]]), y=torch.tensor([0, 2]),
    W=f64([[4, 0, 0], [1, 1.5, .5], [0, .2, 5], [.3, 3, .1]]),
    S1=f64([[1, 0, -1], [.5, .5, 0], [.2, -.3, .4], [0, 2, 1]]),
    S2=f64([[.5, .5, .5], [0, 1, -1], [-.2, .1, 1.2], [.3, .6, 0]]),
    pi=f64([.7, .2, .1]))

# methods-b 0.3
B = SimpleNamespace(
    X=f64([[1, 0, -1], [.2, .4, .6]]), y=torch.tensor([0, 2]),
    W=f64([[3, 0, 0], [.5, 2.5, 0], [0, .2, 4], [1, .8, .6]]),
    S=f64([[2, .5, 0], [.2, 1, .3], [.1, 0, 1.5], [.8, .7, .6]]),
    Sa=f64([[1, .2, 0], [0, .5, 0], [.2, 0, 1.2], [.3, 1, .2]]),
    pi=f64([100, 30, 10]) / 140)

# those of ACR's balanced head
XB = f64([[1, 0, .5], [.2, .1, .3]])
WB = f64([[3.5, 0, 0], [0, 4, .5], [.1, 0, 4.5], [4.2, 0, 0]])
SB1 = f64([[.9, .1, 0], [0, .7, .2], [0, 0, 1], [.4, .4, .1]])
SB2 = f64([[.3, .2, .1], [.1, .2, .3], [.5, 0, .5], [0, 1, 0]])


# ---- methods and views without data ----------------------------------------------------------------------------------


def method(name: str = "semi", options: dict | None = None, counts: tuple[int, ...] = (7, 2, 1), features: int = 4,
           batch: int = 4, steps: int = 40, first_pass: Tensor | None = None, dataset: str = "mnistm5k",
           n_unlabelled: int = 100, **changes) -> Method:
    """A built method that believes in a labelled set of these class counts, in float64; no data, no network."""
    run = Run.of(dataset, name, options=options or {}, steps=steps, batch=batch, device="cpu", precision="fp64",
                 **changes)
    counts = torch.as_tensor(counts)
    if first_pass is None:
        first_pass = torch.arange(len(counts)).repeat_interleave(counts)
    info = Info(classes=len(counts), features=features, counts=counts, n_labelled=int(counts.sum()),
                n_unlabelled=n_unlabelled, batch=batch, mu=run.mu, steps=steps, seed=run.seed,
                device=torch.device("cpu"), dtype=torch.float64, first_pass=first_pass, run=run)
    out = run.method_class()(run.method_options(), info)
    out.build()
    return out


def time(step: int, total: int = 40, phase: str = "main") -> Time:
    return Time(torch.tensor(step), total, torch.float64, phase)


def view(logits: Tensor, balanced: Tensor | None = None, f: Tensor | None = None) -> View:
    outputs = {"head": logits} if balanced is None else {"head": logits, "balanced": balanced}
    return View(outputs, torch.zeros(len(logits), 4, dtype=torch.float64) if f is None else f)


def views(**named: View) -> Views:
    """Views by name; those called s1, s2, ... are the strong ones."""
    return Views(named, [name for name in named if name.startswith("s")])


def drawn(step: int, rows: int = 4, classes: int = 3, features: int = 4, spread: float = 2.0,
          seed: int = 0) -> tuple[Views, Batch]:
    """Random views of two heads, and labels; a function of (seed, step) alone."""
    g = torch.Generator().manual_seed(1000 * seed + step)

    def normal(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64)
    out = {name: view(spread * normal(rows, classes), spread * normal(rows, classes), normal(rows, features))
           for name in ("l", "w", "s1", "s2")}
    return views(**out), Batch(y=torch.randint(0, classes, (rows,), generator=g))


def values(terms: dict) -> dict[str, Tensor]:
    return {name: reduce(term) for name, term in terms.items()}


def drive(m: Method, steps: int, **kind) -> list[SimpleNamespace]:
    """Step a method through drawn views, as the engine does, but without a network: what each step computed."""
    out = []
    for step in range(steps):
        v, batch = drawn(step, classes=m.info.classes, features=m.info.features, rows=m.info.batch, **kind)
        t = time(step, m.info.steps)
        with torch.no_grad():
            p = m.pseudo(v, batch, t)
            losses = values(m.terms(v, batch, p, t))
            m.end_step(v, batch, p, t)
        out.append(SimpleNamespace(v=v, y=batch.y, p=p, losses=losses,
                                   state={k: x.clone() for k, x in m.state_dict().items()}))
    return out


# ---- real training on small images -----------------------------------------------------------------------------------

CLASSES = 4


@functools.cache
def source(side: int = 16, each: int = 30) -> Source:
    """Noise around a colour of each class: 4 classes, 120 training images, 20 for the test."""
    g = torch.Generator().manual_seed(7)
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 40]]).view(CLASSES, 3, 1, 1)

    def part(n: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(CLASSES).repeat_interleave(n)
        noise = torch.randint(-50, 51, (len(y), 3, side, side), generator=g)
        return (colours[y] + noise).clamp(0, 255).to(torch.uint8), y
    (x, y), (test_x, test_y) = part(each), part(5)
    return Source("toy", x, y, test_x, test_y, ["red", "green", "blue", "yellow"], (.5, .5, .5), (.25, .25, .25), True)


def run(name: str, options: dict | None = None, **changes) -> Run:
    """A run on `source`: counts 14, 9, 6, 4 labelled (33, so a drop-last pass of 8 leaves one out), 16, 11, 7,
    5 more."""
    given = dict(profile="trial", lr=0.05, ema=0.9, network="wrn-10-0.25", batch=8, steps=12, eval_every=6, n1=14,
                 m1=16, gamma_l=3.0, gamma_u=3.0, device="cpu", precision="fp32")
    return Run.of("mnistm5k", name, options=options or {}, **{**given, **changes})


def trainer(name: str, options: dict | None = None, **changes) -> Trainer:
    return Trainer(run(name, options, **changes), source())


def losses_of(t: Trainer, steps: range) -> list[dict[str, float]]:
    """The losses of these steps, which are trained."""
    out = []
    for step in steps:
        assert t.step == step
        t.advance()
        out.append({name: float(loss) for name, loss in t.last_losses.items()})
    return out


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, f"different: {', '.join(different)}"


def check_resume(make, total: int, stops: list[int], folder) -> Trainer:
    """Train to the end; then, from a checkpoint file taken at each of `stops`, train the rest in a new trainer: the
    same numbers to the last bit. Returns the first trainer."""
    whole, files = make(), {}
    losses = []
    for step in range(total):
        if step in stops:
            files[step] = folder / f"{step}.npz"
            checkpoint.save(files[step], whole.state_dict())
        losses += losses_of(whole, range(step, step + 1))
    for stop, file in files.items():
        again = make()
        again.load_state_dict(checkpoint.load(file))
        assert again.step == stop
        assert losses_of(again, range(stop, total)) == losses[stop:], f"resumed at {stop}"
        same_state(again.state_dict(), whole.state_dict())
    return whole


# ---- traps for what a captured step must not do ----------------------------------------------------------------------


class Captured(TorchDispatchMode):
    """Raises on what a captured graph cannot hold: reading a value back, and shapes that depend on values. Also on the
    ways out of PyTorch that copy from a device and on a CPU pass without an operator."""

    FORBIDDEN = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "bincount", "equal")

    def __init__(self):
        super().__init__()
        self.copies = NoCopies()

    def __enter__(self):
        self.copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.copies.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN and "unique" not in name, f"aten::{name} in a step"
        repeats = func is torch.ops.aten.repeat_interleave.Tensor and not (kwargs or {}).get("output_size")
        assert not repeats, f"aten::{name} in a step"
        if name in ("index", "index_put", "index_put_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"aten::{name} with a mask in a step"
        return func(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        assert name not in ("tolist", "numpy", "cpu", "__array__"), f"Tensor.{name} in a step"
        return func(*args, **(kwargs or {}))


# ---- records written by hand -----------------------------------------------------------------------------------------

CELL = "mnistm5k-lt.n8.m16.g4-4"
LABELLED, UNLABELLED = [8, 4, 2], [24, 12, 6]
IMAGES = 100                                  # test images a class


def confusion(recall):
    """A confusion matrix with these recalls (per cent); what is wrong goes to the next class."""
    matrix = np.diag(recall)
    for k, r in enumerate(recall):
        matrix[k, (k + 1) % len(recall)] += IMAGES - r
    return matrix


def evaluation(step, recall, pseudo=None):
    return {"step": step, "seconds": float(step), "lr": 0.1, "losses": {"x": 1.0},
            **metrics.scores(confusion(recall), LABELLED), "pseudo_labels": pseudo}


def config(method="fixmatch", seed=0, options=None, steps=40, profile="quickstart", **changes):
    return {"dataset": "mnistm5k", "method": method, "options": options or {}, "seed": seed,
            "labelled_in_unlabelled": True, "split_seed": None, "root": "data", "profile": profile, "steps": steps,
            "lr": 0.1, "device": "auto", **changes}


def write_record(runs, recalls, method="fixmatch", seed=0, cell=CELL, status="done", every=10, seconds=60.0,
                 pseudo=None, code="c0dec0de", report="mean_last", **changes):
    """A run's folder. recalls: a list of recalls (per cent) an evaluation; pseudo: what they say of pseudo-labels;
    method: the run's label."""
    log = [evaluation((i + 1) * every, r, pseudo and pseudo[i]) for i, r in enumerate(recalls)]
    made = config(method, seed, **{"steps": len(recalls) * every, **changes})
    key = f"{zlib.crc32(json.dumps(made, sort_keys=True).encode()):08x}"
    run = {"name": f"{cell}.s{seed}/{method}", "key": key, "code": code, "status": status, "config": made,
           "resolved": {"device": "cpu", "precision": "fp32", "eval_every": every},
           "split": {"fingerprint": "ab" * 32, "labelled_counts": LABELLED, "unlabelled_counts": UNLABELLED,
                     "class_names": ["ant", "bee", "cow"], "test_images": 3 * IMAGES, "drawn_by": "file order"},
           "commit": None, "dirty": False}
    run |= {"seconds": seconds, "result": metrics.summary(log, report=report)} if status == "done" else \
        {"error": "TrainingError: the loss 'x' was not finite"} if status == "failed" else {}
    folder = Path(runs) / f"{cell}.s{seed}" / f"{method}-{key}-{code}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (folder / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log), encoding="utf-8")
    return folder


def steady(*recall, n=4):
    return [list(recall)] * n


# ---- sweeps to be killed in their middle -----------------------------------------------------------------------------

linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(),
                           reason="finds a run's process in /proc, which only Linux has")


def smoke_table(steps: int = 90, **changes) -> grids.Grid:
    """Three rows of Table 1 at smoke scale, long enough to be killed on the way; each step is in the checkpoint."""
    return grids.grid("table1", "smoke", ["fixmatch", "supervised", "la"], [0], root=DATA, steps=steps, eval_every=10,
                       keep_seconds=0.0, **changes)


def holder(file: Path) -> int | None:
    """The process that has a file open."""
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(fd) == str(file):
                return int(fd.parts[2])
    return None


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def in_mid_run(runs, folder: Path, fits=lambda pid: True, seconds: float = 240.0):
    """Wait until one of some runs has logged something and its worker `fits`: (run, the worker's pid)."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        for run in runs:
            if 0 < share_done(run, folder) < 0.8:
                pid = holder(record.folder(run, folder) / "unit" / "lock")
                if pid is not None and fits(pid):
                    return run, pid
        clock.sleep(0.02)
    raise AssertionError("no run was seen in its middle")


def check_done_once(grid: grids.Grid, folder: Path, outcomes, killed: dict[str, int], notebook: bool,
                    others: int = 0) -> None:
    """All done, each by as many sessions as it was killed and one more, with no evaluation lost or written twice."""
    assert [o.state for o in outcomes] == ["done"] * len(grid.runs), summary(outcomes)
    assert len(list(folder.rglob("run.json"))) == len(grid.runs) + others
    for run in grid.runs:
        path = record.folder(run, folder)
        found, steps = record.read(path), [line["step"] for line in record.read_log(path)]
        mark = json.loads((path / "done.json").read_text())
        assert found["status"] == "done" and mark["notebook"] == ("run.ipynb" if notebook else None)
        assert steps == list(range(10, run.steps + 1, 10)), run.name
        assert len(found["sessions"]) == 1 + killed.get(run.key, 0), run.name
        assert (path / "run.ipynb").exists() == notebook and not list((path / "unit").glob("*.ipynb"))


# ---- other processes -------------------------------------------------------------------------------------------------


@functools.cache
def processes():
    """A maker of processes that begin at once: forks of one that has imported what runs need, and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "semilib.training.train", "semilib.features.store"])
    return context


# ---- a small encoder -------------------------------------------------------------------------------------------------


def tiny_encoder(folder: Path) -> tuple[str, int, str]:
    """Name, side and weights file of timm's smallest test network; the weights are drawn, the same for every call."""
    import timm
    file = folder / "encoder.pth"
    if not file.is_file():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = timm.create_model("test_efficientnet", pretrained=False)
            for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
                norm.momentum = 1.0
            net.train()(torch.randn(64, 3, 32, 32))          # statistics, without which features vanish layer by layer
            torch.save(net.state_dict(), file)
    return "timm:test_efficientnet", 32, str(file)


def fill_in_small_blocks(counts, views: dict[str, int], rows: int, *of_store) -> None:
    """Fill a store of noisy colours, eight rows at a time, and put the number of pictures encoded here into `counts`.

    views, rows: as `Store.ensure` takes them. of_store: what `Store` takes, but for the pictures."""
    done, whole = 0, stores.Store._compute

    def compute(self, run, kind, number, some):
        nonlocal done
        done += len(some)
        whole(self, run, kind, number, some)
    stores.BLOCK, stores.Store._compute = 8, compute
    place, name, *more = of_store
    stores.Store(place, name, source().images, *more).ensure(views, torch.arange(rows))
    counts.put(done)
