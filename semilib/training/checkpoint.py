"""Checkpoints: one .npz of plain arrays, written atomically and read without unpickling anything."""
from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semilib import files
from semilib.errors import TrainingError


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write named tensors (no bfloat16: state is kept in float32 or float64)."""
    arrays: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    files.write_atomically(path, lambda file: np.savez(file, **arrays))


def load(path: Path) -> dict[str, Tensor]:
    """Read what `save` wrote, in no more memory than the file is large. Raises TrainingError for a damaged file: the
    zip container checks every array's CRC. Nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in archive.infolist()}
    except Exception as error:  # a damaged archive can raise almost anything
        raise TrainingError(f"{Path(path).name} is damaged ({error})") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """One array, whose size is that of its bytes and not what its header says."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    content = io.BytesIO(archive.read(entry))
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = read_header[np.lib.format.read_magic(content)](content)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds objects, not numbers")
    values = np.frombuffer(content.getbuffer(), dtype, offset=content.tell())
    return torch.from_numpy(np.array(values.reshape(shape[::-1]).T if fortran else values.reshape(shape)))


def nest(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def unnest(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1:]: tensor for name, tensor in state.items() if name.startswith(prefix + "/")}


def load_module(module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Give a module its part of a state. Raises TrainingError if names or shapes are not the module's: other code wrote
    them."""
    part = unnest(state, prefix)
    have, want = ({name: list(value.shape) for name, value in each.items()} for each in (part, module.state_dict()))
    if have != want:
        holds = [f"{prefix}/{name} {have[name]}" for name in have if have[name] != want.get(name)]
        wants = [f"{prefix}/{name} {want[name]}" for name in want if want[name] != have.get(name)]
        raise TrainingError(f"checkpoint.npz was written by other code (run.json names its commit): it holds "
                            f"{', '.join(holds[:3]) or 'no more'} where this code has "
                            f"{', '.join(wants[:3]) or 'nothing'}")
    module.load_state_dict(part)


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's tensors, by parameter number and name (its hyper-parameters belong to the configuration)."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return {f"{i}/{name}": value for i, p in enumerate(parameters) for name, value in optimiser.state.get(p, {}).items()
            if isinstance(value, Tensor)}


def load_optimiser_state(optimiser: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for key, value in state.items():
        i, name = key.split("/")
        p = parameters[int(i)]
        like = p if value.shape == p.shape else None
        optimiser.state[p][name] = value.to(p.device, memory_format=torch.preserve_format) if like is None else \
            torch.empty_like(p).copy_(value)
