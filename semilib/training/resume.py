"""Going on with a run: how far it is, by its checkpoint and its log, and what of them may be trusted.

A checkpoint seals the log. It holds a hash of its run's key and code, of its step and stage, of its arrays' names,
types and shapes, and of the lines of log.jsonl up to its step. So the seal is broken by a log that lost, doubled or
changed a line, by a file of another run, and by a checkpoint that lacks an array.
"""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semilib.errors import TrainingError
from semilib.training import checkpoint, record
from semilib.training.config import Run
from semilib.training.engine import Trainer


class Damaged(TrainingError):
    """What a run's folder holds cannot be gone on with: why."""


def steps_evaluated(run: Run, upto: int) -> list[int]:
    """The steps after which a run is evaluated, of the first `upto`."""
    return [step for step in range(1, upto + 1) if step % run.eval_steps == 0 or step == run.steps]


def seal(state: dict[str, Tensor], identifier: str, evaluations: list[dict[str, Any]]) -> Tensor:
    """The hash that binds a checkpoint's arrays to a run and its evaluations: uint8 [32]."""
    arrays = sorted([name, str(value.dtype), list(value.shape)] for name, value in state.items())
    place = [int(state["time/step"]), int(state["time/stage"])]
    digest = hashlib.sha256(json.dumps([identifier, place, arrays]).encode())
    for evaluation in evaluations:
        digest.update(json.dumps(evaluation).encode())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def save(path: Path, trainer: Trainer, log: record.Log, seconds: float) -> None:
    """Write a run's checkpoint. seconds: spent on it in all sessions."""
    state = {**trainer.state_dict(path), "seconds": torch.tensor(seconds, dtype=torch.float64)}
    checkpoint.save(path / "checkpoint.npz", {**state, "seal": seal(state, log.identifier, log.evaluations)})


def load(path: Path, trainer: Trainer, identifier: str) -> tuple[record.Log, float]:
    """Bring a fresh trainer to where its run's folder stands. Returns the log up to there and the seconds spent.

    The rule: a checkpoint counts together with a log whose steps, up to the checkpoint's, are exactly the evaluations
    that it seals. Later lines of the log are of steps that are made again. Without a checkpoint a run is at step 0.
    Raises Damaged where log and checkpoint do not agree or cannot be read: they agree on step 0 alone then, and the
    trainer is of no further use.
    """
    if not (path / "checkpoint.npz").exists():
        return record.Log(path, identifier, []), 0.0
    try:
        state = checkpoint.load(path / "checkpoint.npz")
        sealed, step = state.pop("seal"), int(state["time/step"])
        evaluations = [evaluation for evaluation in record.read_log(path) if evaluation["step"] <= step]
        if [evaluation["step"] for evaluation in evaluations] != steps_evaluated(trainer.run, step):
            raise Damaged(f"log.jsonl does not hold the evaluations up to step {step}, where checkpoint.npz stands")
        if not torch.equal(sealed, seal(state, identifier, evaluations)):
            raise Damaged("log.jsonl and checkpoint.npz do not belong together")
        seconds = float(state.pop("seconds"))
        trainer.load_state_dict(state, path)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"checkpoint.npz or log.jsonl is damaged ({type(error).__name__}: {error})") from error
    except TrainingError as error:
        raise Damaged(str(error)) from error
    return record.Log(path, identifier, evaluations), seconds


def set_aside(path: Path) -> None:
    """Keep what cannot be gone on with as NAME.damaged; the run then begins again."""
    for name in ("checkpoint.npz", "log.jsonl"):
        if (path / name).exists():
            os.replace(path / name, path / f"{name}.damaged")
