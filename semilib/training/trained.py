"""Using what was trained: a finished run's averaged network, for new pictures and for a look inside.

    model = trained.load("runs/.../semi-1234abcd-5678efab")
    model.predict(["cat.jpg", "dog.png"])      # a row a picture: class, confidence, runner-up
    model.export("model.onnx")                 # one file, bytes in, probabilities out, without this package or torch

Confidence is the softmax of the logits that the method predicts by. It is not calibrated; `insight.calibration` shows
by how much.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from semilib import files
from semilib.data import augment, sources
from semilib.errors import BadInput
from semilib.methods.base import Info, Method
from semilib.networks.backbones import make_backbone
from semilib.networks.net import Net
from semilib.training import checkpoint, record
from semilib.training.config import Run
from semilib.training.engine import EVALUATION_BATCH


@dataclasses.dataclass
class Trained:
    """A method's averaged network in eval mode. Images are uint8 [n, 3, side, side]; C classes, D features."""

    run: Run
    net: Net
    method: Method
    class_names: list[str]
    mean: sources.Colour
    std: sources.Colour
    offset: Tensor | float = 0.0                     # post-hoc logit adjustment

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """[n, C], as the method predicts at test time."""
        return torch.cat([self._logits(part.to(self.device)) for part in images.split(EVALUATION_BATCH)]).cpu()

    def _logits(self, images: Tensor) -> Tensor:
        return self.method.predict(self.net, augment.normalise(images, self.mean, self.std)) - self.offset

    def probabilities(self, images: Tensor) -> Tensor:
        """[n, C], rows sum to 1."""
        return self.logits(images).softmax(-1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the backbone, [n, D]."""
        return torch.cat([self.net(augment.normalise(part.to(self.device), self.mean, self.std)).f.cpu()
                          for part in images.split(EVALUATION_BATCH)])

    def predict(self, pictures: Tensor | Iterable[str | Path]) -> pd.DataFrame:
        """A row a picture: what it is taken for, how confidently, and the second guess.

        pictures: image files of any size, or uint8 [n, 3, side, side]. Raises BadInput for a file that is no picture.
        """
        names: list[str | int] | None = None
        if not isinstance(pictures, Tensor):
            files = [Path(p) for p in pictures]
            if not files:
                raise BadInput("pictures", [], "at least one picture")
            names = [file.name for file in files]
            pictures = torch.stack([self._read(file) for file in files])
        top, index = self.probabilities(pictures).topk(min(2, len(self.class_names)), dim=-1)
        frame = pd.DataFrame({"picture": names or list(range(len(top))),
                              "class": [self.class_names[i] for i in index[:, 0]], "confidence": top[:, 0].tolist()})
        if len(self.class_names) > 1:
            frame["second"], frame["its_confidence"] = [self.class_names[i] for i in index[:, 1]], top[:, 1].tolist()
        return frame

    def _read(self, file: Path) -> Tensor:
        try:
            return sources.read_picture(file, self.run.side)
        except (OSError, ValueError) as error:
            raise BadInput("pictures", file.name, f"files that Pillow reads as pictures: {error}") from error

    def export(self, path: str | Path) -> Path:
        """Write an ONNX file that maps `images`, uint8 [n, 3, side, side], to `probabilities`, float [n, C].

        It runs in any ONNX runtime. The names of the classes are in its metadata, as `class_names`, one a line. Needs
        the extra "export".
        """
        try:
            import onnx
            import onnxscript  # noqa: F401  the exporter's own
        except ImportError as error:
            wanted = 'the extra "export": pip install -c constraints.txt -e ".[export]"'
            raise BadInput("export", str(path), wanted) from error
        path = Path(path)
        example = torch.zeros(2, 3, self.run.side, self.run.side, dtype=torch.uint8, device=self.device)
        program = torch.onnx.export(Probabilities(self).eval(), (example,), dynamo=True, verbose=False,
                                    input_names=["images"], output_names=["probabilities"],
                                    dynamic_shapes={"images": {0: torch.export.Dim("n")}})
        made = program.model_proto  # type: ignore[union-attr]  # dynamo gives a program
        made.metadata_props.append(onnx.StringStringEntryProto(key="class_names", value="\n".join(self.class_names)))
        files.write_atomically(path, lambda file: file.write(made.SerializeToString()))
        return path


class Probabilities(nn.Module):
    """Bytes to probabilities, as one module."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Trained):
        super().__init__()
        self.net, self.method, self.offset = model.net, model.method, model.offset
        self.register_buffer("scale", 1 / (255 * torch.tensor(model.std, device=model.device)).view(1, 3, 1, 1))
        shift = -torch.tensor(model.mean) / torch.tensor(model.std)
        self.register_buffer("shift", shift.to(model.device).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (self.method.predict(self.net, images.float() * self.scale + self.shift) - self.offset).softmax(-1)


def load(folder: str | Path, root: str | Path | None = None, device: str = "cpu") -> Trained:
    """The network of a finished run from its folder, which holds run.json and checkpoint.npz.

    root: folder of the data sets, needed only for records that do not hold what their images were normalised by. Raises
    BadInput if the folder holds no finished run with its weights (published records hold none).
    """
    folder = Path(folder)
    found = record.read(folder)
    if found is None or found["status"] != "done" or not (folder / "checkpoint.npz").is_file():
        raise BadInput("folder", folder.name, "the folder of a finished run, with its run.json and checkpoint.npz")
    names = {f.name for f in dataclasses.fields(Run)}
    config: dict[str, Any] = {k: v for k, v in found["config"].items() if k in names}
    config |= {"device": device, "precision": "fp32"} | ({"root": str(root)} if root else {})
    run = Run(**config)
    facts = found.get("normalisation") or _facts(run)
    state = checkpoint.load(folder / "checkpoint.npz")
    where = torch.device(device)
    counts = torch.tensor(found["split"]["labelled_counts"])
    backbone = make_backbone(run.network, run.variant, run.bn_momentum)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    info = Info(classes=len(counts), features=backbone.features, counts=counts, n_labelled=int(counts.sum()),
                n_unlabelled=1, batch=run.batch, mu=run.mu, steps=run.steps, seed=run.seed, device=where,
                dtype=torch.float32, first_pass=labels, run=run, map_widths=backbone.map_widths)
    method = run.method_class()(run.method_options(), info)
    method.build()
    method.phase = method.phases()[-1].name
    own = checkpoint.unnest(state, "method")
    shapes = {name: buffer.shape for name, buffer in method.state_dict().items()}
    # State with a row for each image belongs to training alone.
    fits = {name: value for name, value in own.items() if name in shapes and value.shape == shapes[name]}
    method.load_state_dict(fits, strict=False)
    net = Net(backbone, method.heads())
    checkpoint.load_module(net, state, "average")
    net.to(where).eval()
    method.to(where).eval()
    offset = run.post_hoc * info.prior().log() if run.post_hoc else 0.0
    class_names = list(found["split"]["class_names"])
    return Trained(run, net, method, class_names, tuple(facts["mean"]), tuple(facts["std"]), offset)


def _facts(run: Run) -> dict[str, sources.Colour]:
    source = sources.load(run.dataset, run.root, run.side, run.split_seed, run.flip)
    return {"mean": source.mean, "std": source.std}
