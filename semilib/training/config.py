"""A run is one frozen value: data, network, schedule, method and its options. It is checked where it is made.

`Run.of(dataset, method, ...)` starts from the data set's profile and applies what is given; unknown and mistyped fields
are refused with the nearest valid name. A run's name is its protocol in a word
(`cifar10-lt.n1500.m3000.g100-100.s0/semi`). Its key is a hash of every field that can move a number.
"""
from __future__ import annotations

import dataclasses
import hashlib
import inspect
import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semilib.data import folders
from semilib.data.splits import ORDERS
from semilib.errors import BadInput, check_name, shown
from semilib.files import check_path
from semilib.networks.backbones import ON_FEATURES, ON_PICTURES, VARIANTS, parse_network, reads_features
from semilib.networks.encoders import check_encoder, file_hash, is_encoder
from semilib.networks.net import POLICIES
from semilib.options import PAPER_STEPS, Duration, Options, check_fields, duration_in_steps, fields_in_key, option, span

if TYPE_CHECKING:
    from semilib.methods.base import Method

RECIPES = ("shared", "original")

# ---- what a data set and a schedule bring along ----------------------------------------------------------------------

CELLS: dict[str, dict[str, Any]] = {           # the default cell of each data set
    "mnistm5k": dict(n1=40, m1=360, gamma_l=20.0, gamma_u=20.0, profile="quickstart"),
    "cifar10": dict(n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0, profile="paper"),
    "cifar100": dict(n1=150, m1=300, gamma_l=10.0, gamma_u=10.0, profile="paper"),
    "stl10": dict(n1=150, m1=0, gamma_l=10.0, gamma_u=1.0, labelled_in_unlabelled=False, profile="paper"),
    "svhn": dict(n1=1500, m1=3000, gamma_l=100.0, gamma_u=100.0, profile="paper"),
    "imagenet127": dict(n1=None, m1=None, gamma_l=1.0, gamma_u=1.0, labelled_share=0.1, profile="paper"),
    "imagefolder": dict(n1=None, m1=None, gamma_l=1.0, gamma_u=1.0, profile="features"),
}

PROFILES: dict[str, dict[str, Any]] = {
    # SeMi's recipe (semi.md 8): every method of a table runs under it.
    "paper": dict(steps=PAPER_STEPS, batch=64, lr=0.03, network="wrn-28-2", bn_momentum=0.001, ema=0.999,
                  eval_every=span(500)),
    # A tenth of the schedule. Average and batch-norm statistics keep their share of the run: 0.999^10, 10 x 0.001.
    "short": dict(steps=25_000, batch=64, lr=0.03, network="wrn-28-2", bn_momentum=0.01, ema=0.99, eval_every=250),
    # The paper's network and batch for as long as a CPU has patience: shows that everything runs, not how good it gets.
    "glance": dict(steps=120, batch=64, lr=0.03, network="wrn-28-2", bn_momentum=0.1, ema=0.95, eval_every=24),
    # The embedded data in minutes on two cores.
    "quickstart": dict(steps=1200, batch=32, lr=0.1, network="wrn-10-0.5", bn_momentum=0.1, ema=0.99, eval_every=12),
    # A quarter of its pictures: every method of the field beside every other, in 20 seconds to three minutes.
    "trial": dict(steps=600, batch=16, lr=0.1, network="wrn-10-0.5", bn_momentum=0.1, ema=0.98, eval_every=12),
    # Pretrained features of every view, computed once: whole schedules in a minute on one core.
    "features": dict(steps=1500, batch=64, lr=0.03, network="mlp-256", bn_momentum=0.1, ema=0.99, eval_every=30,
                     encoder="efficientnet-lite0"),
    # Seconds: shows that everything runs. The methods' options are `Method.smoke`: their parts then act so early.
    "smoke": dict(steps=24, batch=16, lr=0.05, network="wrn-10-0.25", bn_momentum=0.1, ema=0.9, eval_every=6),
}

# The network of a data set where a profile means the paper's: ResNet-50 for ImageNet-127, with the batch (64 + 64) and
# the schedule of all else, as SeMi's release and CoSSL have it (CCL and SimPro train 32 + 64: batch=32 mu=2).
NETWORKS: dict[str, dict[str, Any]] = {"imagenet127": dict(network="resnet50", bn_momentum=0.1)}

WITHOUT_ENCODER = "quickstart"        # the profile of a run that asks for no encoder where its data set starts from one

# Fields that do not apply to a data set: the one value that they may have, and why.
_AS_IT_IS = "its 100,000 unlabelled images are taken as they are, and their classes are not known"
_NATURAL = ("it is imbalanced by nature; how much of each class is labelled is labelled_share, and all its images are "
            "unlabelled ones")
FIXED: dict[str, dict[str, tuple[Any, str]]] = {
    "stl10": {"m1": (0, _AS_IT_IS), "gamma_u": (1.0, _AS_IT_IS), "order": ("consistent", _AS_IT_IS),
              "labelled_share": (None, "its labelled images are balanced; n1 and gamma_l make the long tail"),
              "side": (32, "its 96 x 96 pictures are brought to 32 x 32 once, as in the published codes")},
    "svhn": {"side": (32, "its pictures are 32 x 32"),
             "labelled_share": (None, "n1 and gamma_l make its long tail")},
    "imagenet127": {name: (value, _NATURAL) for name, value in
                    dict(n1=None, m1=None, gamma_l=1.0, gamma_u=1.0, order="consistent").items()},
}
SIDES = {"imagenet127": (32, 64)}              # the sizes of a data set that has several

# Fields that mean nothing without an encoder.
FEATURE_FIELDS = ("encoder", "encoder_side", "encoder_weights", "encoder_precision", "stored_weak", "stored_strong",
                  "statistics")
# Fields that mean nothing without a network that is trained from an encoder's weights; and those of FEATURE_FIELDS that
# such a network takes too.
PRETRAINED_FIELDS, SHARED_FIELDS = ("encoder_lr", "encoder_decay"), ("encoder_side", "encoder_weights")

# What a profile other than "paper" keeps under recipe="original": the scale of the run, which no published recipe fits.
SCALE = ("steps", "batch", "network", "bn_momentum", "ema", "eval_every")


def _without_encoder(dataset: str) -> str:
    """The data set's own profile, or the one that stands for it where that brings an encoder."""
    own = CELLS[dataset]["profile"]
    return WITHOUT_ENCODER if PROFILES[own].get("encoder") else own


def check_parameter(name: str, value: Any, method: str, base: str = "", add: str = "") -> None:
    """Raises BadInput unless `name` is a field of `Run`.
    The error tells an option of the method from an unknown name."""
    fields = [f.name for f in dataclasses.fields(Run)]
    if name not in fields:
        from semilib.methods import get
        owner, _, option = name.rpartition(".")
        if owner in ("", "options", method) and option in [f.name for f in
                                                           dataclasses.fields(get(method, base, add).Config)]:
            raise BadInput(name, value, f"an option of {method}: {method}.{option}={shown(value)} on the "
                                        f"command line, options={{{option!r}: {shown(value)}}} in Python")
        check_name("parameter", name, fields)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, complete. Make it with `Run.of`."""

    dataset: str = option("mnistm5k", "data set", choices=tuple(CELLS))
    method: str = option("semi", "method")
    base: str = option("", "base of an imbalance method that runs on several, such as remixmatch; '' = the method's "
                           "first")
    add: str = option("", "additions on top of the method, joined by +: SeMi's modules oheml, plce, align, and prop")
    post_hoc: float = option(0.0, "tau of post-hoc logit adjustment: test logits - tau log prior (Menon et al., ICLR "
                                  "2021)", low=0)
    options: dict = option({}, "the method's own options, by name")
    recipe: str = option("shared", "shared: SeMi's recipe for every method; original: the method's own",
                         choices=RECIPES)
    seed: int = option(0, "seed of weights, order and views (not of the split: split_seed)", low=0)

    n1: int | None = option(40, "N1, labelled images of the first class; None = all that are labelled", low=1)
    labelled_share: float | None = option(None, "share of each class that is labelled, instead of n1 and gamma_l",
                                          low=0, high=1, in_key="changed")
    m1: int | None = option(360, "M1, unlabelled images of the largest class; None = all the rest", low=0)
    gamma_l: float = option(20.0, "imbalance of the labelled set, first class over last", low=1)
    gamma_u: float = option(20.0, "imbalance of the unlabelled set, largest class over smallest; what other codes call "
                                  "-100 is 100 with order=reversed", low=1)
    order: str = option("consistent", "which classes are large in the unlabelled set", choices=ORDERS)
    labelled_in_unlabelled: bool = option(True, "the unlabelled pool holds the labelled images too (SeMi, ACR, DARP)")
    split_seed: int | None = option(None, "None = the first images of each class, one split for all seeds; else drawn",
                                    low=0)
    holdout: float = option(0.0, "share of each class's labelled images that is held out and evaluated on in place of "
                                 "the test set, to choose options by; 0 = none", low=0, high=0.5, in_key="changed")
    holdout_images: int = option(0, "training images of each class, outside of the pool, that are evaluated on in "
                                    "place of the test set, to choose options by", low=0, in_key="changed")
    side: int = option(32, "side of the images in pixels (imagefolder, imagenet127)", low=32, high=512)
    flip: bool | None = option(None, "whether a mirrored image keeps its class; None = as the data set says")
    root: str = option("data", "folder that holds, or will hold, the data sets", in_key=False)

    profile: str = option("quickstart", "the schedule that this run starts from", choices=tuple(PROFILES))
    steps: int = option(1200, "T, training steps (more take years)", low=2, high=10**9)
    batch: int = option(32, "B, labelled images a step (more fit into no memory)", low=2, high=2**16)
    mu: int = option(1, "unlabelled images a step, over B", low=1, high=16)
    lr: float = option(0.1, "learning rate at step 0", low=0)
    rate: str = option("cosine", "cosine: lr cos(7 pi t / 16 T); slow_cosine: lr cos(pi t / 16 T) (CReST); constant; "
                                 "stepped: a rise, then a tenth at 1/2 and again at 3/4 (SEVAL on ImageNet-127)",
                       choices=("cosine", "slow_cosine", "constant", "stepped"))
    optimiser: str = option("sgd", "sgd (Nesterov, momentum 0.9) or adam", choices=("sgd", "adam"))
    weight_decay: float = option(5e-4, "L2 of the decayed parameters", low=0)
    decay: str = option("weights",
                        "weights: not biases and norms; ndim: not tensors of one dimension; norms: all but norms; all",
                        choices=("weights", "ndim", "norms", "all"))
    ema: float = option(0.99, "decay of the averaged network that is evaluated", low=0, high=1)
    ema_rule: str = option("parameters",
                           "parameters: buffers copied; warmup: DASO's, buffers averaged; decaying: DARP's",
                           choices=("parameters", "warmup", "decaying"))
    eval_every: Duration = option(12, "steps between evaluations, or their share of the run", low=0)
    network: str = option("wrn-10-0.5", "wrn-DEPTH-WIDTH or resnet50; an encoder's name: all of it, trained from its "
                                        "weights; on stored features mlp-WIDTH or linear")
    variant: str = option("V1", "the WRN as published: V1 FixMatch, V2 DASO, V3 RDA, USB; see "
                                "semilib.networks.backbones.Block", choices=VARIANTS)
    encoder: str = option("none", "none, or a pretrained encoder on whose stored features the network is trained: "
                                  "efficientnet-lite0, -lite1, -lite2, timm:NAME, torchvision:NAME", in_key="changed")
    encoder_side: int = option(128, "side of the encoder's input, a multiple of 32", low=32, high=1024,
                               in_key="changed")
    encoder_weights: str = option("", "file of a timm: or torchvision: encoder's weights, in place of a download",
                                  in_key="changed")
    encoder_precision: str = option("auto", "arithmetic of a frozen encoder; auto: bf16 on CUDA, fp32 on a CPU, where "
                                            "bf16 takes the extra openvino and units for it",
                                    choices=("auto", "fp32", "bf16"), in_key="changed")
    stored_weak: int = option(2, "weak views that are stored of each image", low=1, high=1024, in_key="changed")
    stored_strong: int = option(8, "strong views that are stored of each image", low=1, high=1024, in_key="changed")
    statistics: str = option("pool", "whose plain features set the standardisation: those of the run's pool, or of its "
                                     "labelled images",
                             choices=("pool", "labelled"), in_key="changed")
    encoder_lr: float = option(0.1, "where the network is an encoder: rate of its weights as a share of lr", low=0,
                               high=1, in_key="changed")
    encoder_decay: float = option(5e-4, "where the network is an encoder: L2 of its decayed weights", low=0,
                                  in_key="changed")
    bn_momentum: float = option(0.1, "batch-norm momentum in PyTorch's convention", low=0, high=1)
    strong_pool: str = option("A", "A: FixMatch's RandAugment; B: USB's; C: DARP's and CDMAD's",
                              choices=("A", "B", "C"))
    crop: str = option("reflect", "what the weak view's crop finds outside of the image", choices=("reflect", "zero"))
    policy: str = option("joint", "which views share batch-norm statistics; see semilib.networks.net.Net.views",
                         choices=POLICIES)
    report: str = option("mean_last", "the number that the run reports, of all that its record holds", in_key=False,
                         choices=("mean_last", "median_last", "last", "best_on_test"))

    device: str = option("auto", "auto, cpu, cuda")
    precision: str = option("auto", "auto: bf16 on CUDA, and for networks as wide as WRN-28-2 on a CPU with bf16 units",
                            choices=("auto", "fp32", "bf16", "fp64"))
    capture: str = option("auto", "how a step runs; auto: compiled (from PyTorch 2.11 on), in one CUDA graph a phase, "
                                  "on CUDA, and off on a CPU; graph: that, not compiled; compile: that, no graph; off",
                          choices=("auto", "graph", "compile", "off"))
    deterministic: bool = option(False, "deterministic CUDA kernels, slower")
    debug: bool = option(False, "for a method's author: uncompiled steps, in which shapes and every term are checked "
                                "and a gradient that is not finite names the operation it comes from; slower",
                         in_key=False)
    data_on: str = option("auto", "where the images stay", choices=("auto", "device", "host"), in_key=False)
    keep_seconds: float = option(60.0, "seconds between checkpoints", low=0, in_key=False)
    strict: bool = option(False, "whether a part of the method that never acted makes the run an error; else its "
                                 "record names the part", in_key=False)

    # ---- making one --------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, /, dataset: str = "mnistm5k", method: str = "semi", **given: Any) -> Run:
        """A run of the data set's default cell and profile, changed by what is given; profile="" is the data set's own.
        A run on a folder of pictures is one of the pictures that lie there now.

        Under recipe="original" the method's own recipe lies between the profile and what is given; a profile other than
        "paper" keeps its scale (`SCALE`). Under profile "smoke" the method's `smoke` options lie between them too.
        Raises BadInput naming field and value.
        """
        check_name("dataset", dataset, CELLS)
        if dataset == "imagefolder":
            folders.look_again()
        for name in ("base", "add"):                       # which the checks of the other names read
            if not isinstance(given.get(name, ""), str):
                raise BadInput(name, given[name], "a text")
        for name, value in given.items():
            check_parameter(name, value, method, given.get("base", ""), given.get("add", ""))
            if not isinstance(value, str | int | float | dict | list | tuple | None):
                raise BadInput(name, value, "a number, a text, True, False, None or a dict")
        if is_encoder(str(given.get("network"))):
            given = {"encoder": "none", **given}
        encoder = given.get("encoder")
        profile = given.get("profile")
        if profile is None or type(profile) is str and not profile:
            profile = CELLS[dataset]["profile"] if encoder is None else \
                "features" if encoder != "none" else _without_encoder(dataset)
        check_name("profile", profile, PROFILES)
        check_name("recipe", given.get("recipe", "shared"), RECIPES)
        network = NETWORKS.get(dataset, {}) if PROFILES[profile]["network"] == PROFILES["paper"]["network"] else {}
        fields = {**CELLS[dataset], **PROFILES[profile], **network, **given, "dataset": dataset, "method": method,
                  "profile": profile}
        if encoder is not None and "network" not in given and reads_features(fields["network"]) != (encoder != "none"):
            fields["network"] = PROFILES["features" if encoder != "none" else WITHOUT_ENCODER]["network"]
        if dataset == "imagefolder" and "side" not in given and fields.get("encoder", "none") != "none":
            fields["side"] = fields.get("encoder_side", 128)
        recipe_options: dict[str, Any] = {}
        if given.get("recipe") == "original":
            from semilib.methods import get
            size = {"m1": fields["m1"] or None}     # to a recipe, no unlabelled images of known class is no size at all
            own = get(method, given.get("base", "")).original({**fields, **size, "base": given.get("base", "")})
            own = {k: v for k, v in own.items() if profile == "paper" or k not in SCALE}
            fields.update({k: v for k, v in own.items() if k not in given and k != "options"})
            recipe_options = own.get("options", {})
        follows = "gamma_u" not in given and "gamma_u" not in FIXED.get(dataset, {})
        if "gamma_l" in given and follows and fields["m1"] is not None:
            fields["gamma_u"] = given["gamma_l"]
        return cls(**fields)._with_options(recipe_options, given.get("options", {}))

    @classmethod
    def grid(cls, /, **given: Any) -> list[Run]:
        """All runs of several values: a list, tuple or range in place of a value of `Run.of` has one run for each.

        A name with a dot is an option of one method, and multiplies that method's runs alone:
        `Run.grid(dataset="cifar10", method=["semi", "acr"], seed=range(5), **{"semi.alpha": [0.2, 0.4]})` has 15 runs.
        They stand seed after seed, so that a sweep that is stopped has whole comparisons.
        """
        from semilib.methods import METHODS
        methods = _several(given.get("method", "semi"))
        fields = {name: _several(value) for name, value in given.items() if "." not in name}
        for method in methods:
            check_name("method", method, METHODS)
        for name, value in given.items():
            if not _several(value):
                raise BadInput(name, value, "at least one value")
        options: dict[str, dict[str, list[Any]]] = {method: {} for method in methods}
        for name in given.keys() - fields.keys():
            owner, option = name.split(".", 1)
            if owner not in ("options", *methods):
                raise BadInput("argument", name, f"METHOD.OPTION of a method that is given: {', '.join(methods)}")
            for method in methods if owner == "options" else (owner,):
                options[method][option] = _several(given[name])
            if any(isinstance(beside, dict) and option in beside for beside in fields.get("options", ())):
                beside = shown(given["options"])
                raise BadInput("argument", name, f"one value for {option}; options={beside} has another")
        fields = {**{name: fields[name] for name in ("seed",) if name in fields}, **fields}
        return [cls.of(**{**run, "options": {**run.get("options", {}), **own}} if own else run)
                for run in _product(fields) for own in _product(options[run.get("method", "semi")])]

    def with_(self, /, **changes: Any) -> Run:
        """This run with some fields changed. The profile's values are not applied again. The options stay as they are.
        Where the method changes, those that are not given are its defaults."""
        for name in changes:
            check_name("parameter", name, [f.name for f in dataclasses.fields(self)])
        if "recipe" in changes and changes["recipe"] != self.recipe:
            raise BadInput("recipe", changes["recipe"],
                           f"{self.recipe!r} as it is: a recipe is applied where a run is made, by Run.of")
        if not {"method", "base", "add"} & changes.keys():
            return dataclasses.replace(self, **changes)
        return dataclasses.replace(self, **{"options": {}, **changes})._with_options({}, changes.get("options", {}))

    def _with_options(self, recipe: dict[str, Any], given: dict[str, Any]) -> Run:
        """This run with a recipe's options, over them the profile's (only "smoke" has some), then the given ones."""
        smoke = self.method_class().smoke if self.profile == "smoke" else {}
        return dataclasses.replace(self, options={**recipe, **smoke, **given})

    def __post_init__(self):
        check_fields(self)
        if isinstance(self.eval_every, float) and not 0 < self.eval_every <= 1:
            raise BadInput("eval_every", self.eval_every, "steps (an int) or a share of the run in (0, 1]")
        if not 1 <= self.eval_steps <= self.steps:
            raise BadInput("eval_every", self.eval_every, f"at least 1 and at most steps={self.steps}")
        if self.order == "uniform" and self.gamma_u != 1:
            object.__setattr__(self, "gamma_u", 1.0)
        for name, wanted in (("lr", "above 0, or nothing is learnt"), ("bn_momentum", "above 0, or the statistics of "
                             "evaluations stay those of the start")):
            if getattr(self, name) == 0:
                raise BadInput(name, 0.0, wanted)
        if self.ema == 1:
            raise BadInput("ema", 1.0, "below 1, or the network that is evaluated stays the initial one")
        check_path("root", self.root)
        self._check_data()
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise BadInput("device", self.device, "auto, cpu, cuda or cuda:N")
        self._check_network()
        base, add = self.parts()
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "add", add)
        object.__setattr__(self, "options", dataclasses.asdict(self.method_options()))

    def _check_network(self) -> None:
        pretrained = is_encoder(self.network)
        check_encoder(self.encoder, self.encoder_side)
        if pretrained:
            check_encoder(self.network, self.encoder_side, "network")
        else:
            parse_network(self.network)
        if reads_features(self.network) != (self.encoder != "none"):
            wanted = f"{ON_FEATURES} with encoder={self.encoder}" if self.encoder != "none" else \
                f"{ON_PICTURES} without an encoder"
            raise BadInput("network", self.network, wanted)
        if self.encoder != "none":
            self.method_class().check_on_features(self.method_options())
        elif pretrained and self.method_class().reads_maps:
            raise BadInput("network", self.network, f"wrn-DEPTH-WIDTH or resnet50 for {self.method}, which reads maps "
                                                    "of several depths")
        unused = {name: "without an encoder" for name in FEATURE_FIELDS
                  if self.encoder == "none" and not (pretrained and name in SHARED_FIELDS)}
        unused |= {name: "unless the network is an encoder's, such as efficientnet-lite0" for name in PRETRAINED_FIELDS
                   if not pretrained}
        for f in dataclasses.fields(self):
            if f.name in unused and getattr(self, f.name) != f.default:
                raise BadInput(f.name, getattr(self, f.name), f"{f.default!r} {unused[f.name]}")
        if pretrained and self.ema_rule == "decaying" and self.encoder_decay != self.weight_decay:
            raise BadInput("encoder_decay", self.encoder_decay, f"{self.weight_decay:g}, as weight_decay, beside "
                                                                "ema_rule=decaying, which decays all weights alike")
        if self.holdout and self.holdout_images:
            raise BadInput("holdout_images", self.holdout_images,
                           f"0 beside holdout={self.holdout:g}: one set is held out")

    def _check_data(self) -> None:
        """Raise BadInput for a field that does not apply to the data set, or not beside another one."""
        for name, (value, why) in FIXED.get(self.dataset, {}).items():
            if getattr(self, name) != value:
                raise BadInput(name, getattr(self, name), f"{value!r} for {self.dataset}: {why}")
        for size, gamma, order in (("n1", "gamma_l", "consistent"), ("m1", "gamma_u", self.order)):
            self._check_size(size, gamma, order)
        sides = SIDES.get(self.dataset)
        if sides and self.side not in sides:
            raise BadInput("side", self.side, f"{' or '.join(map(str, sides))}, the sizes of {self.dataset}")
        if self.labelled_share is None:
            if self.dataset == "imagenet127":
                raise BadInput("labelled_share", None,
                               "above 0 and at most 1, such as 0.1: the share of each class that is labelled")
        elif self.labelled_share == 0:
            raise BadInput("labelled_share", 0.0, "above 0: every class needs a labelled image")
        elif self.n1 is not None or self.gamma_l != 1:
            raise BadInput("labelled_share", self.labelled_share,
                           f"None where n1={self.n1} and gamma_l={self.gamma_l:g} say how many images of a class are "
                           "labelled, or n1=None and gamma_l=1 beside it")

    def _check_size(self, size: str, gamma: str, order: str) -> None:
        """Raise BadInput for an imbalance that does not apply, or that leaves a class without a labelled image."""
        images, ratio = getattr(self, size), getattr(self, gamma)
        if images is None and size == "n1" and self.labelled_share is not None:
            return
        for name, value, neutral in ((gamma, ratio, 1), ("order", order, "consistent")):
            if images is None and value != neutral:
                raise BadInput(name, value, f"{neutral!r} where {size} is None: all images are then taken")
        if size == "n1" and images is not None and images < ratio:
            raise BadInput("n1", images, f"at least gamma_l={ratio:g}: the smallest class has n1 / gamma_l images")

    def method_options(self) -> Options:
        """The method's options, complete and checked."""
        return self.method_class().Config.of(self.options, self)

    def parts(self) -> tuple[str, str]:
        """`base` and `add` in one spelling: a base that is the method's first is "",
        SeMi's modules stand in the library's order."""
        from semilib.methods import ADDITIONS
        cls, given = self.method_class(), self.add.split("+") if self.add else []
        return "" if self.base in cls.bases[:1] else self.base, "+".join(one for one in ADDITIONS if one in given)

    def method_class(self) -> type[Method]:
        """The method on its base with its additions."""
        from semilib.methods import get
        return get(self.method, self.base, self.add)

    # ---- what makes it -----------------------------------------------------------------------------------------------

    def arguments(self, short: bool = True) -> dict[str, Any]:
        """What `Run.of` is given to make this run: data set, method, and where the run is not its data set's and
        method's usual one. Raises BadInput if no usual one is near it. short=False: all fields and options."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "options"}
        if not short:
            return {**fields, "options": dict(self.options)}
        first = ("dataset", "method", "profile", "base", "add", "recipe")
        usual = {"profile": CELLS[self.dataset]["profile"], **{name: getattr(Run, name) for name in first[3:]}}
        words = {name: fields[name] for name in first if fields[name] != usual.get(name)}
        while (made := Run.of(**words)) != self:               # a word that is told can change what others are without
            missing = self._missing(made)
            more = {**words, **missing, "options": {**missing.get("options", {}), **words.get("options", {})}}
            if more == words:
                raise BadInput("run", self.name, "a run that Run.of can make")
            words = more
        return {name: words[name] for name in (*first, *fields, "options") if words.get(name, {}) != {}}

    def _missing(self, made: Run) -> dict[str, Any]:
        """What a run that was made of too few words was not told: the profile if that differs, else the fields that
        differ, else the preset, else the options. Each of these brings values of the next."""
        if made.profile != self.profile:
            return {"profile": self.profile}
        fields = [f.name for f in dataclasses.fields(self) if f.name != "options"]
        differing = {name: getattr(self, name) for name in fields if getattr(self, name) != getattr(made, name)}
        options = {name: value for name, value in self.options.items() if value != made.options.get(name)}
        preset = {name: value for name, value in options.items() if name == "preset"}
        return differing or {"options": preset or options}

    def __repr__(self) -> str:
        try:
            given = self.arguments()
        except BadInput:
            given = self.arguments(short=False)
        words = [*map(repr, (given.pop("dataset"), given.pop("method"))), *(f"{k}={v!r}" for k, v in given.items())]
        return f"Run.of({', '.join(words)})"

    # ---- names -------------------------------------------------------------------------------------------------------

    @property
    def eval_steps(self) -> int:
        return duration_in_steps(self.eval_every, self.steps)

    @property
    def cell(self) -> str:
        """The protocol in a word, such as cifar10-lt.n1500.m3000.g100-100,
        stl10-lt.n150.m100k.g10.disjoint, imagenet127-32.l0.1."""
        data = self.dataset
        if data == "imagefolder":
            data += f"-{Path(self.root).expanduser().resolve().name}"
        elif data == "imagenet127":
            data += f"-{self.side}"
        parts = [data + ("-lt" if max(self.gamma_l, self.gamma_u) > 1 else "")]
        counts = "nall" if self.n1 is None else f"n{self.n1}"
        parts += [counts if self.labelled_share is None else f"l{self.labelled_share:g}"]
        if self.dataset == "stl10":
            parts += ["m100k", f"g{self.gamma_l:g}"]
        elif self.dataset != "imagenet127":
            parts += ["mrest" if self.m1 is None else f"m{self.m1}", f"g{self.gamma_l:g}-{self.gamma_u:g}"]
        parts += [self.order] if self.order not in ("consistent", "uniform") else []
        parts += [] if self.labelled_in_unlabelled else ["disjoint"]
        parts += [] if self.split_seed is None else [f"split{self.split_seed}"]
        parts += [f"holdout{self.holdout:g}"] if self.holdout else []
        parts += [f"heldout{self.holdout_images}"] if self.holdout_images else []
        parts += [self.encoder.replace(":", "-").replace("/", "-")] if self.encoder != "none" else []
        return ".".join(parts)

    @property
    def label(self) -> str:
        """The method as tables name it: base (where one was asked for), method, additions,
        such as remixmatch+abc or acr+oheml."""
        post_hoc = [f"posthoc{self.post_hoc:g}"] if self.post_hoc else []
        return "+".join([*([self.base] if self.base else []), self.method, *([self.add] if self.add else []),
                         *post_hoc])

    @property
    def name(self) -> str:
        """Cell, seed and label: cifar10-lt.n1500.m3000.g100-100.s0/semi. Schedule and options are in `key`."""
        return f"{self.cell}.s{self.seed}/{self.label}"

    def identity(self) -> dict[str, Any]:
        """Every field that can move a number, as plain values; for a folder of pictures also what identifies its
        content, so that neither another folder of the same name nor the place where it lies matters."""
        out = {**fields_in_key(self), "options": fields_in_key(self.method_options())}
        if self.encoder_weights:
            out["encoder_weights"] = file_hash(self.encoder_weights)
        if self.dataset == "imagefolder":
            out["folder"] = folders.look(self.root).id
        return out

    @property
    def key(self) -> str:
        """Eight hex digits of the hash of `identity`: equal for equal configurations, however they were written."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | range) else [value]


def _product(values: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _name_the_fields(function: Any) -> None:
    """Let the function's signature name the fields of `Run`, which editors complete, and its docstring explain them."""
    own = inspect.signature(function).parameters
    rest = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, annotation=f.type,
                              default={} if f.name == "options" else f.default)
            for f in dataclasses.fields(Run) if f.name not in own]
    named = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = inspect.Signature([*named, *rest])
    lines = [f"    {f.name}: {f.metadata['doc']}" for f in dataclasses.fields(Run)]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__), "", "Fields, which start as data set and profile "
                                  "have them:", "", *lines])


_name_the_fields(Run.__dict__["of"].__func__)
_name_the_fields(Run.__dict__["grid"].__func__)
