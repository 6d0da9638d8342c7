"""Checkpoints: one .npz of plain arrays, written atomically and read without unpickling anything."""
from __future__ import annotations

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
    """Read what `save` wrote. A damaged file raises; the zip container checks every array's CRC."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}


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
        raise TrainingError(f"checkpoint.npz was written by other code: it holds {', '.join(holds[:3]) or 'no more'} "
                            f"where this code has {', '.join(wants[:3]) or 'nothing'}; delete it to begin the run "
                            "again, or go on with the code that wrote it (run.json names its commit)")
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
