"""A whole run: from its configuration to its record, over as many sessions as it takes."""
from __future__ import annotations

import contextlib
import gc
import os
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from semilib.data import sources
from semilib.errors import RunBusy, TrainingError
from semilib.files import place
from semilib.training import metrics, record, resume, signals, writer
from semilib.training.config import Run
from semilib.training.engine import Trainer
from semilib.training.progress import Progress


def train(run: Run, runs: str | Path = "runs", folder: str | Path | None = None, progress: Progress | None = None,
          source: sources.Source | None = None) -> Path:
    """Do a run, or the rest of it, or nothing if it is done; returns its folder.

    runs: a folder below the project, as everywhere, or an absolute one. folder: where to keep the run, instead of the
    one under `runs` that its configuration and code name. Raises BadInput before anything starts, RunBusy if another
    process has the run or takes it over, and TrainingError (recorded in the folder) if the loss is not finite. A signal
    that asks to stop makes it save what it has and raise Stopped. A part of the method that never acted stands in the
    result as `never_acted`; in a strict run it is a TrainingError."""
    path = Path(folder) if folder else record.folder(run, place(runs))
    if _is_done(run, path):
        return path
    progress = progress or Progress()
    with writer.hold(path) as mine:
        if _is_done(run, path):                       # by another process, since the last look
            return path
        record.reopen(path)
        try:
            trainer, log, seconds = _trainer(run, source, path, progress)
        except BaseException:
            record.discard(path)
            raise
        entry = record.new(run, record.read(path), **_facts(trainer))
        record.write(path, entry)
        try:
            with kernels(run, trainer.device), signals.Stop() as stop:
                seconds = _loop(trainer, mine, log, seconds, stop, progress)
            never_acted = _never_acted(trainer, trainer.method.must_act)
            _check_acted(run, never_acted)
        except RunBusy:                               # nothing here is this process's any more
            raise
        except BaseException as error:
            kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            so_far = {"so_far": metrics.summary(log.evaluations, report=run.report)} if log.evaluations else {}
            with contextlib.suppress(OSError):        # a full disk, which is the error itself
                record.write(path, {**entry, "status": kind, "error": f"{type(error).__name__}: {error}",
                                    "traceback": _traceback(error), **so_far})
            progress.end(run, kind)
            raise
        mine.check()
        log.settle()
        result = {**metrics.summary(log.evaluations, report=run.report), "never_acted": never_acted}
        record.write(path, {**entry, "status": "done", "seconds": round(seconds, 2), "result": result,
                            "log_crc32": record.sum_of_log(path),
                            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
        progress.end(run, "done", result)
    del trainer
    gc.collect()                          # a trainer refers to itself, and its images would stay until Python looks
    return path


def _trainer(run: Run, source: sources.Source | None, path: Path,
             progress: Progress) -> tuple[Trainer, record.Log, float]:
    """A trainer where the run's folder stands, the log up to there, and the seconds spent.

    What the folder cannot be gone on with is kept as NAME.damaged, and the run begins again."""
    trainer, identifier = Trainer(run, source, progress.working), record.identifier(run)
    try:
        return trainer, *resume.load(path, trainer, identifier)
    except resume.Damaged as error:
        progress.note(f"{run.name} begins again: {error}; the old files are kept as *.damaged")
        resume.set_aside(path)
        trainer = Trainer(run, source, progress.working)
        return trainer, *resume.load(path, trainer, identifier)


def _is_done(run: Run, path: Path) -> bool:
    """Whether the folder holds this run, finished. Raises BadInput if it holds another one, and as `_check_acted`."""
    found = record.read(path)
    if found is None:
        return False
    record.check_same(found, run, path)
    if found["status"] != "done" or not record.is_whole(path, found):
        return False
    _check_acted(run, found["result"].get("never_acted", {}))
    return True


def _check_acted(run: Run, never_acted: dict[str, str]) -> None:
    """Raise TrainingError for parts of the method that never acted, name -> advice, in a strict run."""
    if run.strict and never_acted:
        raise TrainingError(f"never active in {run.steps} steps of {run.method}: {_with_advice(never_acted)}")


@contextlib.contextmanager
def kernels(run: Run, device: torch.device):
    """How CUDA chooses its kernels inside: the fastest, or deterministic ones. Settings are put back. On a CPU nothing
    changes."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
              cudnn.deterministic, cudnn.benchmark)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(run.deterministic, warn_only=True)     # integer sums are exact in any order
    cudnn.deterministic, cudnn.benchmark = run.deterministic, not run.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]


def _traceback(error: BaseException) -> str:
    """The traceback with file names only, so that a record names no folder of the machine."""
    frames = [f"  {Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}"
              for f in traceback.extract_tb(error.__traceback__)]
    return "\n".join([*frames, f"{type(error).__name__}: {error}"])


def _facts(trainer: Trainer) -> dict[str, Any]:
    """What the record says of a run besides its configuration: everything that was resolved."""
    run, split = trainer.run, trainer.split
    return {
        "resolved": {"device": record.device_name(trainer.device),
                     "precision": trainer.precision, "capture": trainer.capture, "threads": torch.get_num_threads(),
                     **({"debug": True} if run.debug else {}), "eval_every": run.eval_steps,
                     "durations": trainer.method.durations(), "stages": {s.name: s.start for s in trainer.phases},
                     "parameters": sum(p.numel() for p in trainer.net.parameters())},
        "normalisation": {"mean": list(trainer.source.mean), "std": list(trainer.source.std)},
        "split": {"fingerprint": split.fingerprint, "labelled_counts": list(split.labelled_counts),
                  "unlabelled_counts": list(split.unlabelled_counts), "class_names": list(trainer.source.class_names),
                  "test_images": len(trainer.test_y),
                  "drawn_by": "file order" if run.split_seed is None else f"seed {run.split_seed}",
                  **({"data": trainer.source.origin} if trainer.source.origin else {})},
    }


def _loop(trainer: Trainer, mine: writer.Writer, log: record.Log, seconds: float, stop: signals.Stop,
          progress: Progress) -> float:
    """Steps, evaluations and checkpoints from where the run is to its end; returns the seconds spent in all sessions
    together. seconds: spent before. Raises Stopped after a step in which `stop` was asked for."""
    run = trainer.run
    accuracy = log.evaluations[-1]["balanced_accuracy"] if log.evaluations else None
    progress.begin(run, trainer.step)
    patience = _patience(trainer)
    warned = trainer.step >= patience
    began = last_save = time.perf_counter()
    while trainer.step < run.steps:
        trainer.advance()
        done = trainer.step
        now = time.perf_counter()
        if done % run.eval_steps == 0 or done == run.steps:
            trainer.monitor.check_finite()
            line = _evaluation(trainer, done, seconds + now - began)
            mine.check()
            log.append(line)
            trainer.monitor.reset()
            accuracy, losses = line["balanced_accuracy"], line["losses"]
            if patience <= done < run.steps and not warned:
                warned = True
                _warn(trainer, progress)
        elif progress.due(now):
            trainer.monitor.check_finite()
            losses = trainer.monitor.losses()
        if progress.due(now):
            progress.step(run, done, losses, accuracy)
        now = time.perf_counter()
        if done == run.steps or now - last_save >= run.keep_seconds or stop.asked:
            trainer.monitor.check_finite()
            mine.check()
            resume.save(mine.path, trainer, log, seconds + now - began)
            last_save = now
        if stop.asked and done < run.steps:
            stop.end(done, run.steps)
    return seconds + time.perf_counter() - began


def _patience(trainer: Trainer) -> int:
    """The step after which a part should have acted: a quarter of what the method's longest duration leaves of the
    run."""
    begun = max(trainer.method.durations().values(), default=0)
    return begun + (trainer.total - begun) // 4


def _warn(trainer: Trainer, progress: Progress) -> None:
    """Say which components have not acted yet, of those that could have. Only the end of the run decides."""
    idle = _never_acted(trainer, sorted(trainer.reported))
    if idle:
        progress.note(f"{trainer.run.name}: not active in the first {trainer.step} of {trainer.total} steps: "
                      f"{_with_advice(idle)}")


def _never_acted(trainer: Trainer, components: Iterable[str]) -> dict[str, str]:
    """Those of the components that acted in no step so far, each with its advice."""
    return {name: trainer.method.must_act[name] for name in trainer.monitor.never_active(components)}


def _with_advice(never_acted: dict[str, str]) -> str:
    return "; ".join(f"{name} ({advice})" for name, advice in never_acted.items())


def _evaluation(trainer: Trainer, step: int, seconds: float) -> dict[str, Any]:
    """One line of log.jsonl. accuracy_50: only where the data set has a test subset of 50 images a class."""
    predicted, subset = trainer.predictions(), trainer.source.test_subset
    scores = metrics.scores(trainer.confusion(predicted).cpu().numpy(), trainer.split.labelled_counts)
    if subset is not None:
        scores["accuracy_50"] = metrics.top1(trainer.confusion(predicted, subset).cpu().numpy())
    return {"step": step, "seconds": round(seconds, 2), "lr": float(trainer.lr), "losses": trainer.monitor.losses(),
            **scores, "pseudo_labels": trainer.monitor.pseudo_labels()}
