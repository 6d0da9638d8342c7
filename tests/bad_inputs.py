"""Inputs that nobody can mean, drawn from a seed: fields and options of runs, words of the command line, parameters of
notebooks, folders of pictures, and files of runs that are damaged. What is done with each is one of three words:

    refused     a sentence says what would be right, or a damaged file is told as such
    accepted    nothing was wrong with it
    a fault     a traceback, a hang, words without end, or an acceptance of what cannot be meant
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import random
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kit import ROOT, smoke_run, steady, write_record
from PIL import Image

from semilib import cli
from semilib.data import folders, sources
from semilib.errors import BadInput, TrainingError
from semilib.methods import ADDITIONS, METHODS, get
from semilib.options import fields_in_key
from semilib.report import frames, records
from semilib.study import notebooks, sweep, unit
from semilib.study.status import share_done
from semilib.training import record
from semilib.training.config import CELLS, Run

SECONDS, WORDS = 60, 2500                       # a case takes less, and says less characters
Case = tuple[str, Callable[[], Any], bool]      # what it is, what is done, and whether it cannot be meant

STRANGE: list[Any] = [None, "", " ", "x", "\0", "a" * 5000, "é", "\ud800", 0, -1, 1, 2, 3.5, -0.0, 1e300, 1e-300,
                      math.nan, math.inf, 10**30, 10**400, 2**63, 2**64, True, False, [], [1], (), {}, {"a": 1}, {1: 2},
                      b"x", object(), Ellipsis, np.float64(1), np.zeros(2), {"a": {"b": [None]}}, "1", "None", "[1]",
                      "../..", "semi", "semi+acr", "cuda:x", "wrn-1000000-1", "timm:", "mlp-1"]


def misspelt(draw: random.Random, word: str) -> str:
    """A word with a letter lost, doubled or changed."""
    i = draw.randrange(len(word))
    return word[:i] + draw.choice(["", word[i] * 2, "q", "_"]) + word[i + 1:]


# ---- runs ------------------------------------------------------------------------------------------------------------

CONTRADICTIONS: list[dict[str, Any]] = [
    {"n1": 5, "gamma_l": 100.0}, {"n1": None}, {"m1": None}, {"labelled_share": 0.5},
    {"holdout": 0.1, "holdout_images": 1}, {"encoder_side": 64}, {"stored_weak": 3}, {"statistics": "labelled"},
    {"network": "mlp-64"}, {"network": "linear"},
    {"encoder": "efficientnet-lite0", "network": "wrn-28-2"}, {"encoder": "efficientnet-lite0", "encoder_side": 33},
    {"dataset": "stl10", "m1": 5}, {"dataset": "svhn", "side": 64}, {"dataset": "imagenet127", "side": 48},
    {"dataset": "imagenet127", "n1": 5}, {"dataset": "imagenet127", "labelled_share": 0.0}, {"base": "semi"},
    {"method": "acr", "add": "oheml+oheml"}, {"method": "acr", "add": "+"},
    {"method": "supervised", "base": "fixmatch"},
    {"eval_every": 2000}, {"eval_every": 0.0}, {"eval_every": 1.5}, {"ema": 1.0}, {"lr": 0.0}, {"bn_momentum": 0.0},
    {"seed": 2**64}, {"steps": 10**400}, {"batch": 10**9}, {"network": "wrn-1000000-1"}, {"cls": 1},
    {"gamma_u": -100}, {"device": "cuda:x"}, {"device": "gpu"}, {"root": "\0"}, {"root": "a" * 5000}, {"profile": 0},
    {"profile": []}, {"profile": False}, {"recipe": "original", "method": "fixmatch", "rcipe": 1}, {"semi.alpha": 1}]


def wrong_for(draw: random.Random, f: dataclasses.Field) -> tuple[Any, bool]:
    """A value for a field or option, and whether it cannot be meant."""
    low, high, choices = f.metadata["low"], f.metadata["high"], f.metadata["choices"]
    if draw.random() < 0.3 and (low is not None or high is not None):
        return draw.choice([v for v in (None if low is None else low - 1, None if high is None else high + 1, math.nan)
                            if v is not None]), True
    if draw.random() < 0.3 and choices and all(isinstance(choice, str) and choice for choice in choices):
        value = misspelt(draw, draw.choice(choices))
        return value, value not in choices
    value = draw.choice(STRANGE)
    named = {"int": {int}, "float": {int, float}, "str": {str}, "bool": {bool}, "dict": {dict},
             "Duration": {int, float}, "None": {type(None)}}
    valid = set().union(*(kinds for name, kinds in named.items() if name in str(f.type)))
    free = f.name in ("profile", "options") and (value is None or type(value) in (str, dict) and not value)
    return value, type(value) not in valid and not free


def configurations(draw: random.Random) -> Iterator[Case]:
    fields = [f for f in dataclasses.fields(Run) if f.name not in ("dataset", "method", "base", "add")]
    while True:
        method = draw.choice(list(METHODS))
        given: dict[str, Any] = {"method": method, "profile": draw.choice(["smoke", "quickstart", "trial"])}
        must = False
        kind = draw.random()
        if kind < 0.15:
            given |= draw.choice(CONTRADICTIONS)
            must = True
        elif kind < 0.3:
            name = misspelt(draw, draw.choice(fields).name)
            given[name] = 1
            must = name not in {f.name for f in dataclasses.fields(Run)}
            if draw.random() < 0.3:
                given[draw.choice(["method", "base", "add", "options", "recipe"])] = draw.choice(STRANGE)
        elif kind < 0.4:
            name = draw.choice(["dataset", "method", "base", "add", "profile", "recipe"])
            value = misspelt(draw, draw.choice([*CELLS, *METHODS, *ADDITIONS])) if draw.random() < 0.5 else \
                draw.choice(STRANGE)
            given[name] = value
        elif kind < 0.6:
            options = dataclasses.fields(get(method).Config)
            if options:
                f = draw.choice(options)
                value, must = wrong_for(draw, f)
                given["options"] = {f.name: value} if draw.random() < 0.9 else {misspelt(draw, f.name): value}
        else:
            for f in draw.sample(fields, draw.choice([1, 1, 2, 3])):
                given[f.name], bad = wrong_for(draw, f)
                must = must or bad
        yield f"Run.of({given_text(given)})", functools.partial(make, given), must


def make(given: dict[str, Any]) -> Run:
    run = Run.of(**given)
    fields_in_key(run)
    return run


def given_text(given: Any) -> str:
    try:
        return repr(given)[:200]
    except Exception:
        return f"{type(given).__name__}"


# ---- the command line ------------------------------------------------------------------------------------------------


class Started(Exception):
    """What would train has been reached."""


PARSER = functools.cache(cli.parser)                       # it is the same for every line, and takes longer than most


def start(*args: Any, **kwargs: Any) -> None:
    raise Started


def command_lines(draw: random.Random, place: Path) -> Iterator[Case]:
    names = [f.name for f in dataclasses.fields(Run)]
    values = ["", "0", "-1", "1e400", "9" * 400, "None", "[]", "{}", "[" * 2000, "'", "a" * 5000, "nan", "True", "1,2",
              "0..3", "5..1", "1..99999999999", "semi,acr", "semi", "{'a':1}", "\\", "é", "()", "1.5", "..", "cuda:x"]
    verbs = ["run", "run", "run", "plan", "list", "describe", "explain", "status", "publish", "execute", "trace",
             "report"]
    while True:
        verb = draw.choice([*verbs, "".join(draw.choices("abcdef-", k=4))])
        words = [f"{draw.choice([draw.choice(names), misspelt(draw, draw.choice(names)), 'semi.alpha', 'x.y', ''])}="
                 f"{draw.choice(values)}" for _ in range(draw.randint(0, 3))]
        words += draw.sample(["table1", "tabel2", "--slots", "--bare", "semi", "acr", "--nothing", "profile=smoke", "=",
                              "--on", "nothing.ipynb", str(place), "--runs", "--folder", "options={}", "=1"],
                             draw.randint(0, 2))
        draw.shuffle(words)
        if verb in ("plan", "list"):                       # few of the hundreds of runs of all tables
            words += ["table1", "profile=smoke", "seeds=[0]", "methods=['fixmatch']"]
        line = [verb, *words]
        yield f"semilib {' '.join(line)[:200]}", functools.partial(command, line, place), False


def command(line: list[str], place: Path) -> None:
    """A command up to where it would train or execute. Raises BadInput for a refusal in a sentence."""
    import papermill

    from semilib.training import inspecting, train
    said = io.StringIO()
    with contextlib.ExitStack() as stack:
        for module, name, other in ((train, "train", start), (sweep, "sweep", start), (inspecting, "trace", start),
                                    (papermill, "execute_notebook", start), (cli, "parser", PARSER)):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, other)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(said))
        stack.enter_context(contextlib.chdir(place))
        try:
            cli.main(line)
        except Started:
            return
        except SystemExit as end:
            if end.code not in (None, 0):
                raise BadInput("command", line[0], f"{said.getvalue()}{end.code}"[:WORDS + 1]) from None


# ---- parameters of notebooks -----------------------------------------------------------------------------------------


def parameters(draw: random.Random) -> Iterator[Case]:
    every = {path: notebooks.parameters(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    while True:
        path = draw.choice(list(every))
        name, value = draw.choice(list(every[path])), draw.choice(STRANGE)
        default = every[path][name]
        fits = default is None or value is None or type(value) is type(default) or \
            type(value) is int and type(default) is float
        must = not fits or not notebooks.is_plain(value)
        if draw.random() < 0.3:
            name = misspelt(draw, name)
            must = name not in every[path]
        yield (f"{path.name} {name}={given_text(value)}",
               functools.partial(notebooks.check_given, path, {name: value}), must)


# ---- folders of pictures ---------------------------------------------------------------------------------------------


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)


def broken(draw: random.Random, file: Path) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(draw.randint(1, 20)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    file.write_bytes(content[:draw.randint(0, len(content))])


HARMS: list[tuple[bool, Callable[[random.Random, Path], Any]]] = [
    (True, lambda draw, root: (root / "train/a/9.bmp").symlink_to("/nowhere/9.bmp")),
    (True, lambda draw, root: (root / "train/a/around").symlink_to("../a")),
    (True, lambda draw, root: shutil.copy(root / "train/a/0.bmp", os.fsencode(root / "train/a") + b"/caf\xe9.bmp")),
    (True, lambda draw, root: os.mkfifo(root / "unlabelled/pipe")),
    (True, lambda draw, root: broken(draw, root / "train/a/0.bmp")),
    (True, lambda draw, root: shutil.rmtree(root / "train")),
    (True, lambda draw, root: shutil.rmtree(root / "train/a")), (True, lambda draw, root: (root / "test/c").mkdir()),
    (True, lambda draw, root: (root / "train/c").mkdir()), (True, lambda draw, root: (root / "unlabeled").mkdir()),
    (True, lambda draw, root: shutil.rmtree(root / "test/a") or shutil.rmtree(root / "test/b") or
     (root / "test/x").write_text("")),
    (False, lambda draw, root: shutil.rmtree(root / "unlabelled")),
    (False, lambda draw, root: shutil.rmtree(root / "test")),
    (False, lambda draw, root: (root / "train/Thumbs.db").write_text("")),
    (False, lambda draw, root: (root / "train/a/.hidden").write_text("")),
    (True, lambda draw, root: shutil.copy(root / "train/a/0.bmp", root / draw.choice(["test/a", "train/b"]) / "9.bmp")),
    (False, lambda draw, root: shutil.copy(root / "test/a/0.bmp", root / "unlabelled/9.bmp")),
    (False, lambda draw, root: (root / "notes").write_text("")),
    (False, lambda draw, root: picture(root / "train/9.bmp", 9))]


def picture_folders(draw: random.Random, place: Path) -> Iterator[Case]:
    for number in range(10**9):
        root = place / f"photos{number % 8}"
        shutil.rmtree(root, ignore_errors=True)
        for k, part in enumerate(("train/a", "train/b", "test/a", "test/b", "unlabelled")):
            for i in range(3):
                picture(root / part / f"{i}.bmp", 10 * k + i)
        wrong, harm = draw.choice(HARMS)
        harm(draw, root)
        yield f"a folder of pictures, harm {HARMS.index((wrong, harm))}", functools.partial(look, root), wrong and \
            HARMS.index((wrong, harm)) != 4                                  # some broken pictures are still pictures


def look(root: Path) -> None:
    folders.look_again()
    run = Run.of("imagefolder", "supervised", root=str(root), profile="smoke")
    folders.prepare([run])
    sources.load("imagefolder", root, 32)


# ---- files of runs ---------------------------------------------------------------------------------------------------

Reader = Callable[[Path], Any]
READERS: dict[str, Reader] = {
    "status": lambda folder: command(["status", "--runs", str(folder.parent)], folder),
    "collect": lambda folder: command(["collect", str(folder.parent)], folder),
    "publish": lambda folder: command(["publish", str(folder), str(folder / "out")], folder),
    "state": lambda folder: record.state_of(folder),
    "table": lambda folder: frames.runs(records.load([folder])),
    "result": lambda folder: records.result_of(records.read(folder)),
    "plan": lambda folder: sweep.forecast([smoke_run()], folder.parent, folder.parent / "none"),
    "sweep": lambda folder: (unit.is_done(folder), share_done(smoke_run(), folder.parent))}
Trained = dict[str, tuple[Path, Reader]]        # of runs that were really trained: a run's folder, and what reads it


def damaged_files(draw: random.Random, place: Path, of_trained: Trained) -> Iterator[Case]:
    written = write_record(place / "base", steady(60, 30, 20))
    readers = {**{name: (written, reader) for name, reader in READERS.items()}, **of_trained}
    for number in range(10**9):
        reader = draw.choice(list(readers))
        base, read = readers[reader]
        folder = place / f"runs{number % 8}" / base.name
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(base, folder)
        name = draw.choice([path.name for path in folder.iterdir() if path.suffix in (".json", ".jsonl", ".npz")])
        harm = draw.choice(["bytes", "empty", "value", "gone", "folder"])
        file = folder / name
        if harm == "bytes":
            broken(draw, file)
        elif harm == "empty":
            file.write_bytes(b"")
        elif harm == "value" and name == "run.json":
            found = json.loads(file.read_text())
            part = draw.choice([found, found["config"], found["split"], found.get("result", found)])
            part[draw.choice(list(part))] = draw.choice([None, 1, "x", [], {}, -1, "../../x", 1e300, [1] * 3])
            file.write_text(json.dumps(found))
        elif harm != "value":
            file.unlink()
            if harm == "folder":
                file.mkdir()
        yield f"{reader} of a run whose {name} has {harm} wrong", functools.partial(read, folder), False


# ---- what is done with a case ----------------------------------------------------------------------------------------


def outcome(case: Case) -> str:
    """"refused", "accepted", or the fault in words."""
    what, do, must = case

    def hang(*_: Any) -> None:
        raise TimeoutError
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        do()
    except (BadInput, TrainingError) as error:
        return "refused" if len(str(error)) <= WORDS else f"{what}: {len(str(error)):,} characters"
    except TimeoutError:
        return f"{what}: no end after {SECONDS} s"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{what}: {type(error).__name__}: {str(error)[:120]} ({Path(last.filename).name}:{last.lineno})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return f"{what}: accepted, and cannot be meant" if must else "accepted"


def cases(kind: str, draw: random.Random, place: Path, of_trained: Trained) -> Iterator[Case]:
    makers = {"runs": lambda: configurations(draw), "command lines": lambda: command_lines(draw, place),
              "parameters": lambda: parameters(draw), "pictures": lambda: picture_folders(draw, place),
              "files": lambda: damaged_files(draw, place, of_trained)}
    return makers[kind]()


def run_cases(kind: str, count: int, seed: int, place: Path, of_trained: Trained | None = None
              ) -> tuple[Counter, list[str]]:
    """How many cases of a kind were refused and accepted, and the faults."""
    place.mkdir(parents=True, exist_ok=True)
    done: Counter = Counter()
    faults: list[str] = []
    for _, case in zip(range(count), cases(kind, random.Random(f"{kind} {seed}"), place, of_trained or {})):
        word = outcome(case)
        if word in ("refused", "accepted"):
            done[word] += 1
        else:
            faults.append(word)
    return done, faults

