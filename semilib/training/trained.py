"""Using what was trained: a finished run's averaged network, for new pictures and for a look inside.

    model = trained.load("runs/.../semi-1234abcd-5678efab")
    model.predict("holiday/")                  # a row a picture: class, confidence, runner-up
    model.export("model.onnx")                 # one file, bytes in, probabilities out, without this package or torch

`predictions` and `onnx_file` keep both in the run's folder, as `semilib predict` and `semilib export` do.

Confidence is the softmax of the logits that the method predicts by. It is not calibrated; `insight.calibration` shows
by how much.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from semilib import files
from semilib.data import pictures, sources
from semilib.data.pictures import Report
from semilib.errors import BadInput
from semilib.features.batches import bytes_of
from semilib.methods.base import Info, Method
from semilib.networks import encoders
from semilib.networks.encoders import Encoder
from semilib.networks.net import Net
from semilib.training import checkpoint, record
from semilib.training.config import Run
from semilib.training.engine import EVALUATION_BATCH

MOST_IMAGES = 10**8                 # labelled images that a record may name
NAMED = 3                           # files passed over that are named
MODEL = "model.onnx"                # in a run's folder


class Predictions(pd.DataFrame):
    """The frame of `Trained.predict`. Printed, every column is whole and a confidence has three decimals."""

    @property
    def _constructor(self) -> type[Predictions]:
        return Predictions

    def __repr__(self) -> str:
        with self._whole():
            return super().__repr__()

    def _repr_html_(self) -> str | None:
        with self._whole():
            return super()._repr_html_()

    @staticmethod
    def _whole() -> contextlib.AbstractContextManager[None]:
        return pd.option_context("display.max_colwidth", None, "display.max_columns", None,
                                 "display.expand_frame_repr", False, "display.float_format", "{:.3f}".format)


def warn(line: str) -> None:
    """The note of who gives none."""
    warnings.warn(line, stacklevel=3)


def normalisation(mean: Sequence[float], std: Sequence[float]) -> str:
    return f"(levels / 255 - mean) / std, of red, green and blue mean {list(mean)}, std {list(std)}"


class Pictures(nn.Module):
    """uint8 pictures [n, 3, side, side] to the input of a network that reads pictures: (x / 255 - mean) / std.

    says: what it does, in words."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: sources.Colour, std: sources.Colour):
        super().__init__()
        self.says = normalisation(mean, std)
        self.register_buffer("scale", 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images.float() * self.scale + self.shift


class Features(nn.Module):
    """uint8 pictures [n, 3, side, side] to an encoder's standardised features, [n, D, 1, 1].

    scale, shift: of the standardisation, [1, D, 1, 1]. A feature is rounded to float16, as it is stored for training.
    says: what it does to pictures, in words.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder, scale: Tensor, shift: Tensor):
        super().__init__()
        self.net, self.encoder = encoder.net, encoder
        self.says = (f"resize to {encoder.side} x {encoder.side} ({encoder.interpolation}, antialiased), the input of "
                     f"{encoder.name}; {normalisation(encoder.mean, encoder.std)}")
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", shift.float())

    def forward(self, images: Tensor) -> Tensor:
        features = self.net(self.encoder.prepare(images)).half().float()
        return torch.addcmul(self.shift, features[:, :, None, None], self.scale)


@dataclasses.dataclass
class Trained:
    """A method's averaged network in eval mode. Images are uint8 [n, 3, side, side]; C classes, D features.

    prepare: a module from such images to the network's input. offset: post-hoc logit adjustment. key, code: the
    record's.
    """

    run: Run
    net: Net
    method: Method
    class_names: list[str]
    prepare: nn.Module
    offset: Tensor | float = 0.0
    key: str = ""
    code: str = ""

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """[n, C], as the method predicts at test time."""
        return torch.cat([self._logits(part.to(self.device)) for part in images.split(EVALUATION_BATCH)]).cpu()

    def _logits(self, images: Tensor) -> Tensor:
        return self.method.predict(self.net, self.prepare(images)) - self.offset

    def probabilities(self, images: Tensor) -> Tensor:
        """[n, C], rows sum to 1."""
        return self.logits(images).softmax(-1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the backbone, [n, D]."""
        return torch.cat([self.net(self.prepare(part.to(self.device))).f.cpu()
                          for part in images.split(EVALUATION_BATCH)])

    def predict(self, given: Tensor | str | Path | Iterable[str | Path], report: Report = pictures.silent,
                note: Report = warn) -> Predictions:
        """A row a picture: what it is taken for, how confidently, and the second guess.

        given: a file of any size, a folder (all files below it), several of both, or uint8 [n, 3, side, side].
        `picture` is the path as it was given, or below the folder that was given. Pictures of the folder that the run
        was trained on are not decoded again. Files that cannot be read as pictures are passed over; `note` is told how
        many, and the first ones. Raises BadInput for what is not there, before any work, and where no picture is left.
        """
        if isinstance(given, Tensor):
            return self._rows(range(len(given)), self.probabilities(given))
        files, wrong = files_of([given] if isinstance(given, str | Path) else list(given))
        rows: list[Predictions] = []
        done, every = 0, len(files) + len(wrong)
        for root, part in _parts(files):
            images, unreadable = pictures.read([file.absolute() for file in part], self.run.side, root, report=report)
            read = [i for i, file in enumerate(part) if file.absolute() not in unreadable]
            wrong |= {file: unreadable[file.absolute()] for file in part if file.absolute() in unreadable}
            if read:
                rows.append(self._rows([part[i].as_posix() for i in read], self.probabilities(images[read])))
            done += len(part)
            report(f"{done:,} of {len(files):,} pictures predicted")
        over = pictures.listed(wrong, Path.cwd(), NAMED)
        if not rows:
            raise BadInput("pictures", next(iter(wrong)).name, f"at least one picture that can be read; not {over}")
        if wrong:
            note(f"{len(wrong):,} of {every:,} files cannot be read as pictures and are passed over: {over}")
        return Predictions(pd.concat(rows, ignore_index=True))

    def _rows(self, names: Sequence[Any], probabilities: Tensor) -> Predictions:
        top, index = probabilities.topk(2, dim=-1)
        first, second = ([self.class_names[i] for i in column] for column in index.T)
        return Predictions({"picture": names, "class": first, "confidence": top[:, 0].tolist(),
                            "second": second, "second_confidence": top[:, 1].tolist()})

    def export(self, path: str | Path) -> Path:
        """Write an ONNX file that maps `images`, uint8 [n, 3, side, side], to `probabilities`, float [n, C].

        It runs in any ONNX runtime; the run's encoder is in it. Its metadata say what a caller needs: `class_names`,
        one a line; `input`, how a picture becomes its input, and in figures `side`; `normalise`, what the file does
        with that input itself.
        """
        import onnx
        path = Path(path)
        side = self.run.side
        example = torch.zeros(2, 3, side, side, dtype=torch.uint8, device=self.device)
        program = torch.onnx.export(Probabilities(self).eval(), (example,), dynamo=True, verbose=False,
                                    input_names=["images"], output_names=["probabilities"],
                                    dynamic_shapes={"images": {0: torch.export.Dim("n")}})
        made = program.model_proto  # type: ignore[union-attr]  # dynamo gives a program
        how = (f"RGB, uint8, [n, 3, {side}, {side}]: resize the centred square of the picture to {side} x {side} "
               "(bicubic, antialiased); do not normalise, the file does")
        for key, value in (("class_names", "\n".join(self.class_names)), ("input", how), ("side", str(side)),
                           ("normalise", f"inside of the file: {self.prepare.says}")):
            made.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
        files.write_atomically(path, lambda file: file.write(made.SerializeToString()))
        return path


class Probabilities(nn.Module):
    """Bytes to probabilities, as one module."""

    def __init__(self, model: Trained):
        super().__init__()
        self.prepare, self.net, self.method, self.offset = model.prepare, model.net, model.method, model.offset

    def forward(self, images: Tensor) -> Tensor:
        return (self.method.predict(self.net, self.prepare(images)) - self.offset).softmax(-1)


def files_of(given: Sequence[str | Path]) -> tuple[list[Path], dict[Path, str]]:
    """Files, and those below folders, without hidden ones and those of operating systems; and what cannot be read, each
    with the reason (`pictures.walked`). Raises BadInput for what is not there, and for none."""
    out: list[Path] = []
    wrong: dict[Path, str] = {}
    for one in map(Path, given):
        if not one.exists():
            raise BadInput("pictures", str(one), "files and folders that are there; it does not exist")
        found, odd = pictures.walked(one) if one.is_dir() else ([one], {})
        unreadable = {file: pictures.NO_TEXT for file in found if not pictures.is_text(str(file))}
        wrong |= odd | unreadable
        out += [file for file in found if file not in unreadable]
    if not out and not wrong:
        raise BadInput("pictures", [str(one) for one in given], "at least one picture")
    return out, wrong


def predictions(run: str | Path, given: Sequence[str | Path], out: str | Path | None = None,
                report: Report = pictures.silent, note: Report = warn) -> tuple[Predictions, Path]:
    """`Trained.predict` by the run in a folder, the least sure first, and the CSV that it was written to.

    out: where, instead of the run's folder under a name that tells the pictures' folder. Raises BadInput as `load` and
    `Trained.predict`."""
    found = load(run).predict(given, report, note).sort_values("confidence", ignore_index=True, kind="stable")
    place = Path(out) if out else Path(run) / _name_of(given)
    content = found.to_csv(index=False, float_format="%.4f", lineterminator="\n").encode("utf-8")
    files.write_atomically(place, lambda file: file.write(content))
    return found, place


def _name_of(given: Sequence[str | Path]) -> str:
    """predictions-FOLDER-HASH.csv, another one for other pictures, wherever they lie."""
    places = [os.path.abspath(one) for one in given]
    name = Path(places[0] if len(places) == 1 else os.path.dirname(places[0])).name
    content = hashlib.sha256("\n".join(sorted(places)).encode("utf-8", "surrogateescape")).hexdigest()
    plain = re.sub(r"[^\w.-]+", "-", name)[:40]
    return f"predictions-{plain}-{content[:6]}.csv"


def onnx_file(run: str | Path, out: str | Path | None = None) -> Path:
    """`Trained.export` of the run in a folder: into that folder, if not to `out`. Raises BadInput as `load`."""
    return load(run).export(out or Path(run) / MODEL)


def _parts(files: list[Path]) -> Iterator[tuple[Path | None, list[Path]]]:
    """Files in their order, some at a time, with the folder around them in which decoded pictures are kept, if any."""
    kept_around = functools.cache(pictures.kept_around)
    for root, group in itertools.groupby(files, lambda file: kept_around(file.absolute().parent)):
        members = list(group)
        for start in range(0, len(members), pictures.PART):
            yield root, members[start:start + pictures.PART]


def load(folder: str | Path, root: str | Path | None = None, device: str = "cpu",
         encoder_weights: str = "") -> Trained:
    """The network of a finished run from its folder, which holds run.json and checkpoint.npz.

    root: folder of the data sets, needed only for records that do not hold what their images were normalised by.
    encoder_weights: the file of the run's encoder, where it had one; a record knows the file by its content alone.
    Raises BadInput if the folder holds no finished run with its weights (published records hold none), for another
    file, and for a run.json of a network that would be larger than the checkpoint. Raises TrainingError for a damaged
    checkpoint.
    """
    folder = Path(folder)
    found = _record(folder)
    run = _run(found["config"], root, device, encoder_weights)
    split = _split(found, folder)
    facts = found.get("normalisation") or _facts(run)
    state = checkpoint.load(folder / "checkpoint.npz")
    prepare, channels = _prepare(run, state, facts)
    info = _info(run, split["labelled_counts"], prepare, channels, facts)
    _check_size(folder, run, info, channels, facts)
    net, method = _built(run, info, channels, facts)
    _fill(net, method, state)
    offset = run.post_hoc * info.prior().log() if run.post_hoc else 0.0
    return Trained(run, net.to(info.device).eval(), method.to(info.device).eval(), list(split["class_names"]),
                   prepare.to(info.device).eval(), offset, found["key"], found["code"])


def _record(folder: Path) -> dict[str, Any]:
    """The run.json of a folder. Raises BadInput if it is not that of a finished run with its weights."""
    found = record.read(folder)
    if found is None or found["status"] != "done" or not (folder / "checkpoint.npz").is_file():
        why = "it does not exist" if not folder.exists() else \
            "it holds no run" if not (folder / "run.json").exists() else \
            "its run.json is damaged" if found is None else \
            "it has no checkpoint.npz" if found["status"] == "done" else f"this run is {record.state_of(folder)}"
        raise BadInput("folder", folder.name, "the folder of a finished run, with its run.json and checkpoint.npz; "
                                              + why)
    return found


def _run(config: dict[str, Any], root: str | Path | None, device: str, encoder_weights: str) -> Run:
    """The run of a record's configuration, on this machine. Raises BadInput for another file than the run's encoder
    had. A field that came later than the first records is missing in the configuration where it has its default."""
    known = config.get("encoder_weights", "")
    if (encoders.file_hash(encoder_weights) if encoder_weights else "") != known:
        encoder = config.get("encoder", "none")
        name = encoder if encoder != "none" else config["network"]
        wanted = f"the file of {name} whose hash is {known}" if known else "'': the run has no such file"
        raise BadInput("encoder_weights", encoder_weights, wanted)
    names = {f.name for f in dataclasses.fields(Run)}
    here = {"device": device, "precision": "fp32", "encoder_weights": encoder_weights}
    return Run(**{**{k: v for k, v in config.items() if k in names}, **here, **({"root": str(root)} if root else {})})


def _prepare(run: Run, state: dict[str, Tensor], facts: dict[str, Any]) -> tuple[nn.Module, int]:
    """The module from uint8 pictures to the input of a run's network, and the channels of that input. facts: what the
    run's images were normalised by."""
    if run.encoder == "none":
        return Pictures(tuple(facts["mean"]), tuple(facts["std"])), 3
    encoder = encoders.load(run.encoder, run.encoder_side, run.encoder_weights)
    return Features(encoder, state["data/scale"], state["data/shift"]), encoder.features


def _info(run: Run, labelled_counts: list[int], prepare: nn.Module, channels: int, facts: dict[str, Any]) -> Info:
    """What a run's method is told, of which training alone needs the unlabelled images."""
    counts = torch.tensor(labelled_counts)
    with torch.device("meta"):                             # shapes alone
        shape = encoders.backbone_of(run, channels, facts["mean"], facts["std"])
    return Info(classes=len(counts), features=shape.features, counts=counts, n_labelled=int(counts.sum()),
                n_unlabelled=1, batch=run.batch, mu=run.mu, steps=run.steps, seed=run.seed,
                device=torch.device(run.device), dtype=torch.float32,
                first_pass=torch.arange(len(counts)).repeat_interleave(counts), run=run, map_widths=shape.map_widths,
                side=run.side, encoded=None if run.encoder == "none" else _encoded(prepare, facts))


def _check_size(folder: Path, run: Run, info: Info, channels: int, facts: dict[str, Any]) -> None:
    """Raise BadInput for a run.json of a network that would be larger than the checkpoint, before it is made."""
    def drawn(given: Tensor) -> Tensor:
        return torch.empty(len(given), channels, 1, 1, device=info.device)
    with torch.device("meta"):
        parts = _built(run, dataclasses.replace(info, encoded=info.encoded and drawn), channels, facts)
        needed = sum(value.nbytes for part in parts for value in part.state_dict().values())
    if needed > (folder / "checkpoint.npz").stat().st_size:
        raise BadInput("folder", folder.name, "a run whose run.json fits its checkpoint.npz, which is smaller than the "
                                              f"{needed / 1e6:,.1f} MB of the network that is described there")


def _fill(net: Net, method: Method, state: dict[str, Tensor]) -> None:
    """Put a checkpoint's averaged weights into a network, and its state into a method, as in the last phase."""
    method.phase = method.phases()[-1].name
    own = checkpoint.unnest(state, "method")
    shapes = {name: buffer.shape for name, buffer in method.state_dict().items()}
    # State with a row for each image belongs to training alone.
    fits = {name: value for name, value in own.items() if name in shapes and value.shape == shapes[name]}
    method.load_state_dict(fits, strict=False)
    checkpoint.load_module(net, state, "average")


def _split(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The split of a record. Raises BadInput without the names of its classes, a number of labelled images of each, and
    colours of which numbers are."""
    split, facts = found.get("split"), found.get("normalisation") or {"mean": [0.0] * 3, "std": [1.0] * 3}
    with contextlib.suppress(KeyError, TypeError):
        counts, names = split["labelled_counts"], split["class_names"]  # type: ignore[index]  # TypeError says so
        if len(counts) == len(names) >= 2 and all(type(count) is int and count >= 0 for count in counts) \
                and 0 < sum(counts) <= MOST_IMAGES and all(isinstance(name, str) for name in names) \
                and all(len(facts[name]) == 3 and all(map(math.isfinite, facts[name])) for name in ("mean", "std")):
            return {"labelled_counts": counts, "class_names": names}
    raise BadInput("folder", folder.name, "a run whose run.json has its classes' names, their counts and its colours")


def _built(run: Run, info: Info, channels: int, facts: dict[str, Any]) -> tuple[Net, Method]:
    """The network and the built method of a run, untrained. facts: what its images were normalised by."""
    method = run.method_class()(run.method_options(), info)
    method.build()
    return Net(encoders.backbone_of(run, channels, facts["mean"], facts["std"]), method.heads()), method


def _encoded(prepare: nn.Module, facts: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """`Info.encoded` of a network on features."""
    @torch.no_grad()
    def encoded(pictures: Tensor) -> Tensor:
        return prepare(bytes_of(pictures, facts["mean"], facts["std"])).double()
    return encoded


def _facts(run: Run) -> dict[str, sources.Colour]:
    source = sources.of(run)
    return {"mean": source.mean, "std": source.std}
