"""What a method may define. `FixMatch` holds the default of every hook, so a method's file holds only what its paper
changes.

The engine runs a step as: draw `step_images().views` -> `forward` -> `pseudo` -> `terms` -> reduce, one backward ->
optimisers -> average -> `end_step`. Between steps, on the host: `host_work` every `host_every()` steps, and `enter` at
the start of each of `phases()`.

Methods combine (`methods.get`): an imbalance method on a base, SeMi's modules on either. The result is one class that
inherits from its parts, outermost first, so a part that may be combined calls `super()` and changes what comes back.
These hooks are made for it: `before_forward` (what else the network is asked), `terms`, and `pseudo_logits` and
`pseudo_prob` (the distribution that pseudo-labels are read from). The last two are called once a step, in `pseudo` or,
where targets are mixed into the images, in `forward`. What one hook leaves for a later one of the same step lies in
`batch.notes`.

B labelled images, mu * B unlabelled images, S strong views, C classes, D features. Inside a step everything is a
tensor: time is a device scalar (`Time`), there is no Python branch on it, nothing is read back, and no shape depends on
values. So the same code runs eagerly on a CPU and as one captured CUDA graph. State is kept in buffers, which
checkpoints then hold without being asked. """
from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semilib.data.step import Batch, Fields, StepImages, Time
from semilib.errors import BadInput, MethodError
from semilib.methods.losses import Term
from semilib.networks.net import Net, View, Views, linear
from semilib.options import Options

if TYPE_CHECKING:
    from semilib.data.batches import Data


class Pseudo(Fields):
    """Pseudo-labels of the unlabelled batch, none with a gradient.

    prob: [mu B, C]. label: [mu B] int64. mask: [mu B] float in [0, 1], the share of each row's loss that counts.
    target: what the strong views are trained on, [mu B] classes or soft rows [mu B, C]; None = `label`. branches:
    unsupervised term -> the `prob` that it stems from; None = {"u": prob}. A method with more than one head adds fields
    of its own (`add`). """

    prob: Tensor
    label: Tensor
    mask: Tensor
    target: Tensor
    branches: dict[str, Tensor]

    def __init__(self, prob: Tensor, label: Tensor, mask: Tensor, target: Tensor | None = None,
                 branches: dict[str, Tensor] | None = None):
        self.prob, self.label, self.mask = prob, label, mask
        self.target = label if target is None else target
        self.branches = {"u": prob} if branches is None else branches


@dataclasses.dataclass(frozen=True)
class Info:
    """What a method may know before training.

    counts: labelled images a class, int64 [C]. n_unlabelled: images in the pool. first_pass: labels of the labelled
    images of one drop-last pass, which a release's loader would have counted. map_widths: channels of the backbone's
    maps that a head with `reads = "maps"` gets. side: of the pictures, in pixels. Two functions on an encoder's
    features, None on pictures: encoded, of normalised pictures [n, 3, H, W], gives their standardised features, float64
    [n, D, 1, 1]; pictures, of a number, gives as many of the run's pictures, plain and normalised, float64.
    oracle: true class counts of the pool, int64 [C], None where they are unknown; only an option that says so in its
    name may read them."""

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
    side: int = 32
    encoded: Callable[[Tensor], Tensor] | None = None
    pictures: Callable[[int], Tensor] | None = None
    oracle: Tensor | None = None

    def prior(self, drop_last: bool = False) -> Tensor:
        """Labelled class prior N_k / N, [C]; drop_last: counted over `first_pass`, as releases count it."""
        counts = torch.bincount(self.first_pass, minlength=self.classes) if drop_last else self.counts
        return (counts.double() / counts.sum()).to(self.device, self.dtype)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the schedule from `start` (a step) to the next phase's start. restart_rate: the rate schedule begins
    anew and runs over this phase. fresh: the network, its average and the optimisers start anew (CReST's
    generations)."""

    name: str
    start: int = 0
    restart_rate: bool = False
    fresh: bool = False


class LeadIn(int):
    """A duration in steps that may be 0, such as a warm-up: the run can do without it. Every other duration is at least
    1."""


@dataclasses.dataclass
class Context:
    """What the host side of a method sees between steps: the live network, its average, the optimisers (whose groups it
    may change at the start of a phase), the data, the time, and a scan.

    `scan(stream, view="none", net=None)` runs a whole set through a network in eval mode, in the set's order, and
    returns (View of all rows, labels [n] with -1 where unknown to the method, indices [n])."""

    net: Net
    ema: Net
    optimisers: list[torch.optim.Optimizer]
    data: Data
    step: int
    phase: str
    scan: Callable[..., tuple[View, Tensor, Tensor]]
    restart: Callable[[], None]


class Method(nn.Module):
    """A method of the engine; `FixMatch` gives every hook its default, and a new method usually starts from that
    class."""

    Config: type[Options] = Options
    bases: tuple[str, ...] = ()     # methods that this one can be put on; the first is the default. () = one of its own
    refuses: dict[str, str] = {}    # base, host of an addition, or "add" for additions -> why they do not combine
    ignores: dict[str, str] = {}    # as a base: options that others bring from FixMatch and that do nothing -> why
    uses: tuple[str, ...] = ()      # of those, the ones that this method reads itself
    must_act: dict[str, str] = {}   # what must act at least once in a run -> what to do if it never does
    smoke: dict[str, Any] = {}      # options with which each of them acts in the 24 steps of profile "smoke"
    reads_maps: bool = False        # whether a head needs feature maps of several depths, which stored features lack
    capturable: bool = True         # False: a step reads values back, so no CUDA graph can hold it

    cfg: Options                    # a subclass declares its own: cfg: Config

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        check_names(cls)

    def __init__(self, cfg: Any, info: Info):
        super().__init__()
        self.cfg, self.info = cfg, info
        self.phase = "main"             # the running phase's name, set by the engine

    # ---- before training ---------------------------------------------------------------------------------------------

    @classmethod
    def original(cls, run: dict[str, Any]) -> dict[str, Any]:
        """Fields of `Run` under recipe="original", `options` among them: what the method's published numbers were made
        with. `run`: the fields so far (data set, cell, base, profile)."""
        raise BadInput("recipe", "original", f"shared: no recipe of its own is known for {cls.__name__}")

    @classmethod
    def check_on_features(cls, cfg: Any) -> None:
        """Raises BadInput where the method cannot run on an encoder's stored features, with the reason."""
        if cls.reads_maps:
            raise BadInput("encoder", cls.__name__, "none with this method: it reads feature maps of several depths, "
                                                    "and stored features have one")

    def step_images(self) -> StepImages:
        """The images of a step. May read `self.phase`: the engine asks again at the start of each phase."""
        raise NotImplementedError

    def heads(self) -> dict[str, nn.Module]:
        """The network's heads by name; "head" is the one that `pseudo`, `terms` and `predict` read by default."""
        return {"head": linear(self.info.features, self.info.classes)}

    def build(self) -> None:
        """Register buffers."""

    def durations(self) -> dict[str, int]:
        """The method's durations in steps of this run, by name; they go into the record. Every duration is shorter than
        the run. A `LeadIn` may be 0; all others are at least 1."""
        return {}

    def phases(self) -> list[Phase]:
        """The parts of the schedule, in order; the first starts at step 0."""
        return [Phase("main")]

    def optimisers(self, net: Net, make: Callable[..., torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        """`make(modules, **changes)` builds the run's optimiser over some modules, with its decay groups; default: one
        for all."""
        return [make([net])]

    # ---- one step: tensors only --------------------------------------------------------------------------------------

    def forward(self, net: Net, images: dict[str, Tensor], batch: Batch, now: Time, teacher: Net) -> Views:
        """The network's outputs by view. images: view name -> normalised float [n, 3, H, W]. teacher: the averaged
        network."""
        asked = self.step_images()
        with torch.no_grad():
            self.before_forward(net, images, batch, now, teacher)
        return net.views(images, asked.strong, asked.policy, teacher)

    def before_forward(self, net: Net, images: dict[str, Tensor], batch: Batch, now: Time, teacher: Net) -> None:
        """What the method asks of the networks besides the views, before them and without gradient: features of the
        average, logits of a blank image. It leaves them in `batch.notes`. A pass of the live network in training mode
        would move its batch norms."""

    def pseudo_logits(self, views: Views, batch: Batch, now: Time) -> Tensor:
        """What pseudo-labels are read from, [mu B, C]."""
        raise NotImplementedError

    def pseudo_prob(self, prob: Tensor, views: Views, batch: Batch, now: Time) -> Tensor:
        """The softmax of `pseudo_logits`, aligned, blended or refined by the methods that do; [mu B, C]."""
        raise NotImplementedError

    def pseudo(self, views: Views, batch: Batch, now: Time) -> Pseudo | None:
        """Pseudo-labels, or None for a step without unlabelled images; called without gradient on detached views."""
        raise NotImplementedError

    def terms(self, views: Views, batch: Batch, pseudo: Pseudo, now: Time) -> dict[str, Term]:
        """The loss, unreduced, by name; the engine reduces and sums it and owns the only backward pass. pseudo: what
        the hook of this name returned, here and below."""
        raise NotImplementedError

    def end_step(self, views: Views, batch: Batch, pseudo: Pseudo, now: Time) -> None:
        """Move the state, after the optimisers; without gradient, on detached views."""

    def acted(self, views: Views, batch: Batch, pseudo: Pseudo, now: Time, terms: dict[str, Term]) -> dict[str, Tensor]:
        """Which of `must_act` acted in this step, as 0-dim bools; called after `end_step`. The record names those that
        never did."""
        return {}

    def timed_parts(self, views: Views, pseudo: Pseudo, now: Time) -> dict[str, Callable[[], None]]:
        """Parts of a step that `semilib speed` times alone, by name; each is a call that can be repeated on the step's
        detached views and pseudo-labels."""
        return {}

    # ---- host side ---------------------------------------------------------------------------------------------------

    def host_every(self) -> int:
        """Steps between two calls of `host_work`; 0 = never."""
        return 0

    def host_work(self, ctx: Context) -> None:
        """Host-side work between steps; may scan the data. Must leave its results in buffers."""

    def enter(self, phase: Phase, ctx: Context) -> None:
        """Called once at the start of each phase after the first."""

    def forget_statistics(self) -> None:
        """Begin anew with what follows the distribution of the predictions: another head makes them from now on
        (CoSSL)."""

    # ---- at test time ------------------------------------------------------------------------------------------------

    def predict(self, net: Net, x: Tensor) -> Tensor:
        """Logits [n, C] of normalised images x [n, 3, H, W], by the (averaged) network in eval mode."""
        return net(x)["head"]

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def per_view(self, rows: Tensor) -> Tensor:
        """[mu B, ...] repeated once for each strong view, in the order of `views.s`."""
        return torch.cat([rows] * len(self.step_images().strong))


# ---- a misspelt hook -------------------------------------------------------------------------------------------------


def check_names(cls: type[Method]) -> None:
    """Raises MethodError for a public name of a new class that is nearly a hook's, is none, and is used by nothing in
    the class."""
    inherited = {name for base in cls.__mro__[1:] for name in vars(base)}
    parts = [base for base in cls.__mro__ if issubclass(base, Method)]
    hooks = [name for base in parts[1:] for name in vars(base) if not name.startswith("_")]
    for name in vars(cls):
        near = []
        if not name.startswith("_") and name not in inherited:
            near = difflib.get_close_matches(name, hooks, n=1, cutoff=0.75)
        used = any(name in words_of(value) for base in parts for other, value in vars(base).items() if other != name)
        if near and not used:
            raise MethodError(f"{cls.__name__}.{name}: no hook has this name, and nothing in the class uses it; did "
                              f"you mean {near[0]!r}?")


def words_of(value: Any) -> set[str]:
    """The names and the strings that a function mentions, in functions inside it too; nothing for what is no
    function."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    todo, words = [getattr(value, "__code__", None)], set()
    while todo:
        code = todo.pop()
        if code is not None:
            words |= {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
            todo += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return words
