"""Shared by the parity tests: reads recorded arrays, steps a method on them, and collects differences by quantity.

The tests take what they need of semilib from here.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from kit import method, time, values, views
from torch import Tensor, nn

from semilib.data.step import Batch, Notes
from semilib.methods import cossl, crest, darp_solver, remixmatch, semi_released
from semilib.methods import seval_search as search
from semilib.methods.base import Method
from semilib.methods.cpg import radii
from semilib.methods.metaexpert import Gate, regime
from semilib.networks.net import Net, View, Views
from semilib.training.engine import Trainer

__all__ = ["F64", "UNSCALED", "Gate", "Notes", "View", "Views", "cossl", "crest", "darp_solver", "differences", "draw",
           "gradient", "host", "load", "method", "mixed_step", "optimisers", "pixel_net", "radii", "regime", "search",
           "semi_released", "step", "two_heads", "views", "weights"]

F64 = torch.float64
UNSCALED = dict(dataset="cifar10", steps=250_000, n_unlabelled=64)     # with this many steps no momentum is scaled


def load(name: str) -> dict[str, Tensor]:
    """All arrays of a recorded file."""
    with np.load(Path(__file__).parent / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.as_tensor(file[key]) for key in file.files}


# ---- differences -----------------------------------------------------------------------------------------------------


class Differences:
    """The largest difference of each quantity, beside the tolerance that it must keep."""

    def __init__(self, tolerance: float):
        self.tolerance = tolerance
        self.worst: dict[str, tuple[float, float]] = {}

    def __call__(self, quantity: str, have, want, tolerance: float | None = None) -> None:
        """Compare two tensors or numbers; another shape and a NaN are infinitely different."""
        have, want = (torch.as_tensor(x, dtype=F64) for x in (have, want))
        gap = float("inf")
        if have.shape == want.shape:
            gap = float((have - want).abs().nan_to_num(torch.inf, torch.inf).max()) if have.numel() else 0.0
        allowed = self.tolerance if tolerance is None else tolerance
        before, allowed_before = self.worst.get(quantity, (0.0, allowed))
        self.worst[quantity] = max(before, gap), min(allowed_before, allowed)

    def check(self) -> None:
        lines = [f"{'BAD' if gap > allowed else 'ok '} {quantity:28s} {gap:.3g} (tolerance {allowed:g})"
                 for quantity, (gap, allowed) in sorted(self.worst.items(), key=lambda x: -x[1][0])]
        assert lines, "nothing was compared"
        print("\n".join(lines))                       # shown by pytest -rP
        bad = sum(line.startswith("BAD") for line in lines)
        assert not bad, "\n".join([f"{bad} of {len(lines)} quantities differ; largest differences:", *lines])


@contextmanager
def differences(tolerance: float) -> Iterator[Differences]:
    """Collects all comparisons of a test; at the end of the block each must lie within its tolerance."""
    same = Differences(tolerance)
    yield same
    same.check()


# ---- one step --------------------------------------------------------------------------------------------------------


def two_heads(z: Tensor) -> dict[str, Tensor]:
    """Recorded logits [n, 2 C] as those of the two heads."""
    head, balanced = z.chunk(2, 1)
    return {"head": head, "balanced": balanced}


def step(m: Method, recorded: dict[str, dict[str, Tensor]], batch: dict, at: int, phase: str = "main",
         prepare: Callable[[Views, Batch], Views] | None = None,
         parameters: dict[str, Tensor] | None = None) -> SimpleNamespace:
    """One step as the engine makes it, without a network: pseudo-labels, losses, gradients, the state's move.

    recorded: view -> {head: output}, where "f" are the features; "s1" and "s2" are the strong views. `prepare` may
    make other views of these. Returns `p`, `losses`, their sum `total`, the views `v`, and the sum's `grads` by
    (view, head) and by name of the `parameters`: 0 where no loss reaches."""
    m.phase = phase
    inputs = {(name, head): x.clone().to(F64).requires_grad_()
              for name, heads in recorded.items() for head, x in heads.items()}
    v = views(**{name: View({head: inputs[name, head] for head in heads if head != "f"},
                            inputs.get((name, "f"), torch.zeros(len(next(iter(heads.values()))), 4, dtype=F64)))
                 for name, heads in recorded.items()})
    rows = len(v.w.f)
    b = Batch(**{"index_l": torch.arange(len(batch["y"])), "index_u": torch.arange(rows),
                 "known_u": torch.zeros(rows, dtype=torch.bool), **batch})
    t = time(at, m.info.steps, phase)
    v = prepare(v, b) if prepare else v
    seen = v.detach()
    with torch.no_grad():
        p = m.pseudo(seen, b, t)
    losses = values(m.terms(v, b, p, t))
    total = sum(losses.values())
    inputs |= parameters or {}
    grads = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    grads = {key: torch.zeros_like(x) if g is None else g for (key, x), g in zip(inputs.items(), grads)}
    with torch.no_grad():
        m.end_step(seen, b, p, t)
    losses = {name: loss.detach() for name, loss in losses.items()}
    return SimpleNamespace(p=p, losses=losses, total=total.detach(), grads=grads, v=v)


def gradient(done: SimpleNamespace, head: str, *names: str) -> Tensor:
    """The gradients of one head's outputs in these views, below each other."""
    return torch.cat([done.grads[name, head] for name in names])


def optimisers(m: Method, net, rate: float) -> list[torch.optim.Optimizer]:
    """The method's optimisers over a stand-in for a network, as the engine builds them."""
    average = SimpleNamespace(spare=lambda modules: None)
    engine = SimpleNamespace(run=m.info.run, lr=torch.tensor(rate), encoder_lr=torch.tensor(rate), net=net,
                             device=torch.device("cpu"), average=average)
    return m.optimisers(net, lambda modules, **changes: Trainer._make_optimiser(engine, modules, **changes))


def host(m: Method, done: int, **context) -> None:
    """The host's work after `done` steps, as the engine asks for it; context: what a method reads of `Context`."""
    every = m.host_every()
    if every and done % every == 0:
        with torch.no_grad():
            m.host_work(SimpleNamespace(step=done, **context))


# ---- one step on ReMixMatch, which mixes images: a linear network reads their pixels ---------------------------------


class Pixels(nn.Module):
    """A backbone whose map is the pixels of small images x [n, 3, H, W], as [n, 3 H W, 1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :, None, None]


def pixel_net(**heads: Tensor) -> Net:
    """A network of linear heads without a bias; each is given as a matrix [3 H W, outputs]."""
    def linear(w: Tensor) -> nn.Linear:
        out = nn.Linear(*w.shape, bias=False, dtype=F64)
        with torch.no_grad():
            out.weight.copy_(w.T)
        return out
    return Net(Pixels(), {name: linear(w) for name, w in heads.items()})


@contextmanager
def recorded_draws(share: Tensor, order: Tensor, turns: Tensor) -> Iterator[None]:
    """ReMixMatch's random numbers of a step: the mix's share, its permutation of rows, the images' quarter turns."""
    words = torch.stack([order.argsort()] * 3, 1)
    own, remixmatch.rng = remixmatch.rng, SimpleNamespace(words=lambda *_: words, uniform=lambda w: w,
                                                          beta=lambda *_: share, integers=lambda *_: turns.long())
    try:
        yield
    finally:
        remixmatch.rng = own


def mixed_step(m: Method, net: Net, images: dict[str, Tensor], batch: dict, at: int, share: Tensor, order: Tensor,
               turns: Tensor, rows: Sequence[str] = remixmatch.MIXED, phase: str = "main") -> SimpleNamespace:
    """One step as the engine makes it, with a network. images: view -> [n, 3, H, W]; rows: in which order the release
    joins them before `order` permutes their rows.

    Returns what `step` does, `grads` by head as the matrix of `pixel_net`, and `mixed`, the mixed targets in the
    release's order."""
    place = dict(zip(rows, torch.arange(len(order)).split([len(images[name]) for name in rows])))
    place = torch.cat([place[name] for name in remixmatch.MIXED])          # of our rows among the release's
    order = place.argsort()[order.long()[place]]
    m.phase = phase
    b = Batch(**{"index_l": torch.arange(len(batch["y"])), **batch})
    t = time(at, m.info.steps, phase)
    with recorded_draws(share, order, turns):
        v = m.forward(net, {name: x.to(F64) for name, x in images.items()}, b, t, net)
    seen = v.detach()
    with torch.no_grad():
        p = m.pseudo(seen, b, t)
    losses = values(m.terms(v, b, p, t))
    total = sum(losses.values())
    parameters = {name: head.weight for name, head in net.heads.items()}
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    with torch.no_grad():
        m.end_step(seen, b, p, t)
    return SimpleNamespace(p=p, losses={name: x.detach() for name, x in losses.items()}, total=total.detach(), v=v,
                           grads={name: torch.zeros_like(w).T if g is None else g.T
                                  for (name, w), g in zip(parameters.items(), grads)},
                           mixed=torch.cat([b.notes.mixed[name] for name in rows]))


# ---- inputs of Meta-Expert, drawn by NumPy so that its file need not hold them ---------------------------------------


def weights(seed, widths, classes):
    """(weight, bias) of the eight layers between depths and of the gate's three."""
    g = np.random.default_rng(seed)
    top = 2 * widths[-1]
    a = [(widths[i], widths[i + 1]) for i in range(3)] + [(widths[3], top)]
    b = [(widths[i + 1], widths[i + 2]) for i in range(2)] + [(widths[3], top), (top, top)]
    shapes = a + b + [(top + 3 * classes, 128), (128, 64), (64, 3)]
    return [(torch.as_tensor(g.standard_normal((o, i)) * (1.5 / i**.5)), torch.as_tensor(.3 * g.standard_normal(o)))
            for i, o in shapes]


def draw(seed, kind, at, b, u, widths, classes):
    """Logits [b + 2 u, head, norm, class], depths [b + 2 u, sum of widths] and labels [b].

    All unlabelled rows that head 2 assigns to one class are sure together or unsure together. kind: which classes are
    sure more often, 0 the first, 1 the last, 2 all alike."""
    g = np.random.default_rng([seed, at])
    z = 2.0 * g.standard_normal((b + 2 * u, 3, 3, classes))
    dep = g.standard_normal((b + 2 * u, sum(widths)))
    y = g.integers(0, classes - at % 2, b)
    middle = z[b:b + u, 1].mean(1)
    middle += g.standard_normal((u, classes)) * 3
    # all classes appear in turn, so that each can be counted
    label = (np.arange(u) * 7 + at) % classes
    middle[np.arange(u), label] = middle.max(1) + 1.0
    chance = {0: np.linspace(1.3, -.2, classes), 1: np.linspace(-.2, 1.3, classes), 2: np.full(classes, .9)}[kind]
    turn = (at % 4 + .5) / 4
    sure = turn < chance
    if kind == 2:
        sure[:] = True
    if at == 6:
        sure &= np.arange(classes) % 2 == 0
    gap = np.where(sure[label], 12.0, 0.1)
    middle[np.arange(u), label] = np.partition(middle, -2, 1)[:, -2] + gap
    z[b:b + u, 1] += (middle - z[b:b + u, 1].mean(1))[:, None]
    z[b:b + u, 0] *= 3
    z[b:b + u, 2] *= 3
    if at == 3:
        z[b:b + u, 0] *= .01
    return torch.as_tensor(z), torch.as_tensor(dep), torch.as_tensor(y)
