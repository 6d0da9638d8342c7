"""What a method may define. `FixMatch` holds the default of every function, so a method's file holds only what its paper changes.

The engine runs a step as: draw `step_images().views` -> `forward` -> `pseudo` -> `terms` -> reduce, one backward -> optimisers -> average
-> `end_step`; between steps, on the host, `host_work` every `host_every()` steps and `enter` at the start of each of `phases()`.

Methods combine (`methods.get`): an imbalance method on a base, SeMi's modules on either. The result is one class that inherits from
its parts, outermost first, so a part that may be combined calls `super()` and changes what comes back. The places made for it are
`before_forward` (what else the network is asked), `pseudo_logits` and `pseudo_prob` (the distribution that pseudo-labels are read from; each is called
once a step, in `pseudo` or, where targets are mixed into the images, in `forward`), and `terms`.

B labelled images, mu * B unlabelled images, S strong views, C classes, D features. Inside a step everything is a tensor: time is a
device scalar (`Time`), there is no Python branch on it, nothing is read back, and no shape depends on values. So the same code runs
eagerly on a CPU and as one captured CUDA graph. State is kept in buffers, which checkpoints then hold without being asked.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semilib.data.step import Batch, StepImages, Time
from semilib.errors import BadInput
from semilib.methods.losses import Term
from semilib.networks.net import Net, View, Views, linear
from semilib.options import Options

if TYPE_CHECKING:
    from semilib.data.batches import Data


class Pseudo(Batch):
    """Pseudo-labels of the unlabelled batch, none with a gradient: `prob` [mu B, C], `label` [mu B] int64, `mask` [mu B] float in
    [0, 1] (the share of each row's loss that counts), `target`: what the strong views are trained on, `label` or soft rows [mu B, C].
    `branches`: unsupervised term -> the `prob` that it stems from. Given the first three, the others are `label` and {"u": prob}. A
    method with more than one head adds fields of its own."""

    prob: Tensor
    label: Tensor
    mask: Tensor
    target: Tensor
    branches: dict[str, Tensor]

    def __init__(self, **fields: Any):
        super().__init__(**{"target": fields["label"], "branches": {"u": fields["prob"]}, **fields})


class Changed:
    """A batch or pseudo-labels with some fields other than they are; the rest is read from the original, which stays as it is."""

    def __init__(self, of: Batch, **fields: Any):
        self.of = of
        for name, value in fields.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)


@dataclasses.dataclass(frozen=True)
class Info:
    """What a method may know before training. counts: labelled images a class, int64 [C]; `n_unlabelled` images in the pool;
    `first_pass`: labels of the labelled images of one drop-last pass (what a release's loader would have counted). `map_widths`: channels of
    the backbone's maps that a head with `reads = "maps"` gets."""

    classes: int
    features: int
    counts: Tensor
    n_labelled: int
    n_unlabelled: int
    batch: int
    mu: int
    steps: int
    seed: int
    device: torch.device
    dtype: torch.dtype
    first_pass: Tensor
    run: Any
    map_widths: tuple[int, ...] = ()

    def prior(self, drop_last: bool = False) -> Tensor:
        """Labelled class prior N_k / N, [C]; drop_last: counted over `first_pass`, as releases count it."""
        counts = torch.bincount(self.first_pass, minlength=self.classes) if drop_last else self.counts
        return (counts.double() / counts.sum()).to(self.device, self.dtype)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the schedule from `start` (a step) to the next stage's start. `restart_rate`: the rate schedule begins anew and runs
    over this stage; `fresh`: the network, its average and the optimisers start anew (CReST's generations)."""

    name: str
    start: int = 0
    restart_rate: bool = False
    fresh: bool = False


@dataclasses.dataclass
class Context:
    """What the host side of a method sees between steps: the live network, its average, the optimisers (whose groups it may change
    at a stage), the data, the time, and a scan.

    `scan(stream, view="none", net=None)` runs a whole set through a network in eval mode, in the set's order, and returns
    (View of all rows, labels [n] with -1 where unknown to the method, indices [n])."""

    net: Net
    ema: Net
    optimisers: list[torch.optim.Optimizer]
    data: Data
    step: int
    phase: str
    scan: Callable[..., tuple[View, Tensor, Tensor]]
    restart: Callable[[], None]


class Method(nn.Module):
    """A method of the engine; `FixMatch` gives every function its default, and a new method usually starts from that class."""

    Config: type[Options] = Options
    bases: tuple[str, ...] = ()     # the methods that this one can be put on; the first is the default. () = a method of its own
    refuses: dict[str, str] = {}    # base, or "add" for SeMi's modules -> why it cannot be combined with it
    ignores: dict[str, str] = {}    # as a base: options that methods bring along from FixMatch and that do nothing here -> why
    uses: tuple[str, ...] = ()      # of those, the ones that this method reads itself
    must_act: dict[str, str] = {}     # what must act at least once in a run -> what to do if it never does
    capturable = True               # False: a step reads values back, so no CUDA graph can hold it

    def __init__(self, cfg: Options, info: Info):
        super().__init__()
        self.cfg, self.info = cfg, info
        self.phase = "main"             # the running stage's name, set by the engine

    # ---- before training -------------------------------------------------------------------------------------------------------

    @classmethod
    def original(cls, run: dict[str, Any]) -> dict[str, Any]:
        """Fields of `Run` under recipe="original", `options` among them: what the method's published numbers were made with. `run`:
        the fields so far (data set, cell, base, profile)."""
        raise BadInput("recipe", "original", f"shared: no recipe of its own is known for {cls.__name__}")

    def step_images(self) -> StepImages:
        """The images of a step. May read `self.phase`: the engine asks again at each stage."""
        raise NotImplementedError

    def heads(self) -> dict[str, nn.Module]:
        """The network's heads by name; "head" is the one that `pseudo`, `terms` and `predict` read by default."""
        return {"head": linear(self.info.features, self.info.classes)}

    def build(self) -> None:
        """Register buffers."""

    def durations(self) -> dict[str, int]:
        """The method's durations in steps of this run, by name; they go into the record. Each must end before the run does, and all
        but a warm-up or pretraining of 0 steps must be at least 1."""
        return {}

    def phases(self) -> list[Phase]:
        return [Phase("main")]

    def optimisers(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        """`make(modules, **changes)` builds the run's optimiser over some modules, with its decay groups; default: one for all."""
        return [make([net])]

    # ---- one step: tensors only ------------------------------------------------------------------------------------------------

    def forward(self, net: Net, images: dict[str, Tensor], batch: Batch, t: Time, teacher: Net) -> Views:
        """images: view name -> normalised float [n, 3, H, W]."""
        plan = self.step_images()
        with torch.no_grad():
            self.before_forward(net, images, batch, t, teacher)
        return net.views(images, plan.strong, plan.policy, teacher)

    def before_forward(self, net: Net, images: dict[str, Tensor], batch: Batch, t: Time, teacher: Net) -> None:
        """What the method asks of the networks besides the views, before them and without gradient: features of the average, logits of
        a blank image. It leaves them in `batch`. A pass of the live network in training mode would move its batch norms."""

    def pseudo(self, v: Views, batch: Batch, t: Time) -> Pseudo | None:
        """Pseudo-labels; called without gradient on detached views. batch: `y` [B] labels; `index_l`, `index_u` positions in the
        labelled and the unlabelled set; `known_u` [mu B] bool, whether an unlabelled image is also a labelled one."""
        raise NotImplementedError

    def terms(self, v: Views, batch: Batch, p: Pseudo | None, t: Time) -> dict[str, Term]:
        """The loss, unreduced, by name; the engine reduces and sums it and owns the only backward pass."""
        raise NotImplementedError

    def end_step(self, v: Views, batch: Batch, p: Pseudo, t: Time) -> None:
        """Move the state, after the optimisers; without gradient, on detached views."""

    def acted(self, v: Views, batch: Batch, p: Pseudo | None, t: Time, terms: dict[str, Term]) -> dict[str, Tensor]:
        """Which of `must_act` acted in this step, as 0-dim bools. One that never did in a whole run makes the run an error, which
        gives the advice that stands there."""
        return {}

    def timed_parts(self, v: Views, p: Pseudo | None, t: Time) -> dict[str, Callable[[], None]]:
        """Parts of a step that `semilib speed` times alone, by name; each is a call that can be repeated on the step's detached
        views and pseudo-labels."""
        return {}

    # ---- host side -------------------------------------------------------------------------------------------------------------

    def host_every(self) -> int:
        """Steps between two calls of `host_work`; 0 = never."""
        return 0

    def host_work(self, ctx: Context) -> None:
        """Host-side work between steps; may scan the data. Must leave its results in buffers."""

    def enter(self, phase: Phase, ctx: Context) -> None:
        """Called once at the start of each stage after the first."""

    # ---- at test time ----------------------------------------------------------------------------------------------------------

    def predict(self, net: Net, x: Tensor) -> Tensor:
        """Logits [n, C] of normalised images, by the (averaged) network in eval mode."""
        return net(x)["head"]

    # ---- helpers ---------------------------------------------------------------------------------------------------------------

    def per_view(self, rows: Tensor) -> Tensor:
        """[mu B, ...] repeated once for each strong view, in the order of `v.s`."""
        return torch.cat([rows] * len(self.step_images().strong))
