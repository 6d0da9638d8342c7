"""The command line: `semilib VERB ...` or `python -m semilib VERB ...`."""
from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
from pathlib import Path
from typing import Any

from semilib.errors import BadInput, TrainingError


def value(text: str) -> Any:
    """A command-line value as the literal it spells (12, 0.5, None, True, {"a": 1}), else as the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def assignments(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE words as a dictionary. Raises BadInput for a word without "="."""
    out = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise BadInput("argument", pair, "NAME=VALUE, such as method=fixmatch")
        if name in out:
            raise BadInput("argument", pair, f"one value for {name}; it has {out[name]!r} already")
        out[name] = value(text)
    return out


def given_run(words: list[str]):
    """A Run from NAME=VALUE words; a name with a dot is an option of the method: `semi.alpha=0.2` or `options.alpha=0.2`."""
    from semilib import study
    from semilib.config import Run
    given = assignments(words)
    options = given.pop("options", {})
    if not isinstance(options, dict):
        raise BadInput("options", options, 'a dict, such as options=\'{"alpha": 0.2}\'')
    for name in [n for n in given if "." in n]:
        owner, option = name.split(".", 1)
        if owner not in ("options", given.get("method", "semi")):
            raise BadInput("argument", name, f"{given.get('method', 'semi')}.{option} for an option of this run's method")
        options[option] = given.pop(name)
    given.setdefault("root", str(study.place("data")))
    return Run.of(**given, options=options)


def run(args) -> None:
    from semilib import progress, record, study  # no pandas, no notebooks: a bare machine with torch can run this
    from semilib.training import train
    wanted = given_run(args.field)
    path = train(wanted, study.place(args.runs), args.folder, progress.Terminal())
    found = record.read(path)
    result = found["result"]
    print(f"{found['name']}, {wanted.steps:,} steps of profile {wanted.profile}: {result['metric'].replace('_', ' ')} "
          f"{result['mean_last']:.2%} ({result['rule']}; last {result['last']:.2%})")
    print(f"record: {study.shown(path)} ({found['status']})")


def status(args) -> None:
    from semilib import record, study
    for path in sorted(study.place(args.runs).rglob("run.json")):
        found, state = record.read(path.parent), record.state_of(path.parent)
        score = f"{found['result']['mean_last']:.1%}" if "result" in found else "-"
        print(f"{state:12} {score:>7}  {found['name']}  {found['config']['profile']} {found['config']['steps']} steps  "
              f"{found['key']}-{found['code']}")


def describe(args) -> None:
    """Every parameter of a run, and the options of a method, of one on a base (remixmatch+abc), or with SeMi's modules (acr+oheml)."""
    from semilib.config import Run
    from semilib.methods import ADDITIONS, get
    names = args.method.split("+")
    add = "+".join(name for name in names if name in ADDITIONS)
    base, _, method = "+".join(name for name in names if name not in ADDITIONS).rpartition("+")
    for title, kind in (("run", Run), (f"options of {args.method}", get(method, base, add).Config)):
        print(f"\n{title}:")
        for f in dataclasses.fields(kind):
            default = f.default if f.default is not dataclasses.MISSING else {}
            print(f"  {f.name:24} {default!r:22} {f.metadata['doc']}")


def execute(args) -> None:
    from semilib import notebooks, study
    output = args.output or study.place("runs") / "notebooks" / Path(args.notebook).name
    print(study.shown(notebooks.execute(args.notebook, output, assignments(args.parameter))))


def quickstart(args) -> None:
    import papermill.exceptions

    from semilib import notebooks, study, tables
    home = study.home()
    if not (home / "notebooks" / "00_quickstart.ipynb").is_file():
        raise BadInput("folder", str(home), "the project's folder, which holds notebooks/00_quickstart.ipynb")
    given = assignments(args.parameter)
    output = study.place(given.get("runs", "runs")) / "quickstart" / "00_quickstart.ipynb"
    print("Supervised, FixMatch and SeMi on a long-tailed set of 32x32 pictures: about three and a half minutes on two cores, no download.")
    try:
        notebooks.execute(home / "notebooks" / "00_quickstart.ipynb", output, given)
    except papermill.exceptions.PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}\nthe notebook up to the error: "
                 f"{study.shown(output.with_name(output.stem + '.failed.ipynb'))}")
    folder = output.parent
    records = (folder / "records.txt").read_text(encoding="utf-8").splitlines()
    print(tables.table(tables.load_all(home / line for line in records)).text, end="\n\n")
    print(f"notebook  {study.shown(output)}")
    for path in sorted(folder.glob("*.png")):
        print(f"figure    {study.shown(path)}")
    for line in records:
        print(f"record    {line}")


def smoke_notebooks(args) -> None:
    from semilib import notebooks, study
    for path in notebooks.smoke_copies(args.folder, study.home() / "notebooks"):
        print(study.shown(path))


def publish(args) -> None:
    from semilib import record, study
    for path in args.run:
        print(study.shown(record.publish(path, args.results)))


def report(args) -> None:
    from semilib import study
    print(study.report(args.results, args.figures, args.title))


def costs(args) -> None:
    """Measure the step of each method beside FixMatch's."""
    from semilib import METHODS, Run, study
    from semilib import costs as measured
    words, methods = [w for w in args.what if "=" in w], [w for w in args.what if "=" not in w]
    given = assignments(words)
    given.setdefault("root", str(study.place("data")))
    pairs = [name.rpartition("+") for name in methods or METHODS]
    rows = measured.measure((Run.of(method=method, base=base, **given) for base, _, method in pairs), args.steps)
    print(measured.write(rows, study.place(args.out)))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="semilib", description="Class-imbalanced semi-supervised learning: the SeMi study.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, text: str, name: str | None = None) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name or function.__name__, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = verb(quickstart, "execute the quickstart notebook and print its table")
    sub.add_argument("parameter", nargs="*", metavar="NAME=VALUE", help="the notebook's parameters")

    sub = verb(run, "do one run, or the rest of it, or nothing if it is done")
    sub.add_argument("field", nargs="*", metavar="NAME=VALUE",
                     help="fields of the run, such as dataset=cifar10 method=semi seed=1 semi.alpha=0.2; see `describe`")
    sub.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    sub.add_argument("--folder", default=None, help="keep this run here instead")

    sub = verb(describe, "list every field of a run and every option of a method")
    sub.add_argument("method", nargs="?", default="semi")

    sub = verb(status, "list the runs and their state")
    sub.add_argument("--runs", default="runs")

    sub = verb(execute, "execute a notebook by papermill, parameters checked, progress shown")
    sub.add_argument("notebook")
    sub.add_argument("parameter", nargs="*", metavar="NAME=VALUE")
    sub.add_argument("--output", default=None)

    sub = verb(publish, "copy finished runs' records (no weights) into a folder of results/")
    sub.add_argument("run", nargs="+", help="folders of runs")
    sub.add_argument("results", help="such as results/quickstart")

    sub = verb(report, "table and figures of a folder of records")
    sub.add_argument("results", help="folder of records")
    sub.add_argument("figures", help="folder for the figures")
    sub.add_argument("title", nargs="?", default="")

    sub = verb(costs, "measure what a step of each method costs beside FixMatch's")
    sub.add_argument("what", nargs="*", metavar="METHOD or NAME=VALUE", help="remixmatch+abc, profile=trial, ...; no method: all")
    sub.add_argument("--out", default="runs/costs", help="writes OUT.json and OUT.md")
    sub.add_argument("--steps", type=int, default=20, help="steps a stage")

    sub = verb(smoke_notebooks, "write copies of the notebooks that run in seconds, for the tests", "smoke-notebooks")
    sub.add_argument("folder")
    return top


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    from semilib.record import RunBusy
    try:
        args.function(args)
    except (BadInput, RunBusy, TrainingError) as error:
        sys.exit(f"semilib {args.verb}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on from the last checkpoint")
