"""The command line: `semilib VERB ...` or `python -m semilib VERB ...`."""
from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from semilib import __version__
from semilib.errors import BadInput, NotebookError, RunBusy, TrainingError, check_name, shorter, shown
from semilib.training import signals

if TYPE_CHECKING:
    from semilib.study.committed import Committed

# A story, the unit of work, a lesson and a look: no table, no figure; and a measurement of the machine itself.
NOT_RENDERED = ("00_quickstart", "10_run", "30_add_your_method", "31_look_at_a_run", "90_speed")


def value(text: str) -> Any:
    """A command-line value as the literal it spells (12, 0.5, None, True, {"a": 1}), else as the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


# A part of a value between commas: quoted, in brackets, or plain; and a range of whole numbers.
PART = re.compile(r"""(?:'[^']*'|"[^"]*"|\[[^]]*\]|\([^)]*\)|\{[^}]*\}|[^,])+""")
RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
LEAST_SURE = 10                                               # predictions that `predict` prints
MOST = 10_000                                                 # values of a range


def values(text: str) -> Any:
    """`value`, or the list of several: 0.2,0.4 or semi,acr or 0..4, which is 0,1,2,3,4. A quoted value may hold commas,
    and so may a dict."""
    if isinstance(whole := value(text), dict):
        return whole
    found: list[Any] = []
    for part in PART.findall(text) or [text]:
        ends = RANGE.fullmatch(part)
        if ends and int(ends[2]) - int(ends[1]) > MOST:
            raise BadInput("argument", text, f"at most {MOST:,} values")
        found += range(int(ends[1]), int(ends[2]) + 1) if ends else [value(part)]
    return found if len(found) != 1 or RANGE.fullmatch(text) else found[0]


def assignments(pairs: list[str], read: Callable[[str], Any] = value) -> dict[str, Any]:
    """NAME=VALUE words as a dictionary, each value by `read`. Raises BadInput for a word without "="."""
    out = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise BadInput("argument", pair, "NAME=VALUE, such as method=fixmatch")
        if name in out:
            raise BadInput("argument", pair, f"one value for {shorter(name)}; it has {shown(out[name])} already")
        out[name] = read(text)
    return out


def given_runs(words: list[str]) -> list:
    """The runs of NAME=VALUE words. A name with a dot is an option of a method: `semi.alpha=0.2`, `options.alpha=0.2`.
    A value may be several (`values`): each combination is a run."""
    from semilib import files
    from semilib.training.config import Run
    given = assignments(words, values)
    if "cls" in given:                                     # Python's own name in `Run.grid`
        check_name("parameter", "cls", [f.name for f in dataclasses.fields(Run)])
    if not isinstance(given.get("options", {}), dict):
        raise BadInput("options", given["options"], 'a dict, such as options=\'{"alpha": 0.2}\'')
    try:
        return Run.grid(**{"root": str(files.place("data")), **given})
    except BadInput as error:
        raise BadInput(error.field, error.value, error.wanted + hint(words, error.value)) from error


def hint(words: list[str], refused: Any) -> str:
    """What a refused value may owe to how the shell's words are read: a comma that split it, a range with one dash."""
    for word in words:
        name, _, text = word.partition("=")
        several = values(text)
        if isinstance(several, list) and refused in several and not RANGE.fullmatch(text):
            return f" (a comma separates values; one that holds a comma is quoted: {name}=\"'{text}'\")"
        if text == refused and re.fullmatch(r"\d+-\d+", text):
            return f" (several values: {name}={text.replace('-', '..')})"
    return ""


def given_run(words: list[str]):
    """The run of NAME=VALUE words. Raises BadInput for several."""
    runs = given_runs(words)
    if len(runs) != 1:
        raise BadInput("runs", len(runs), "one: a single value for each name")
    return runs[0]


def run(args) -> None:
    tables, fields = words_of(args.what)
    runs = [] if tables else given_runs(fields)
    if tables or args.on != "local" or len(runs) > 1:
        return several(args, tables, fields)
    from semilib.study import launchers
    for name in (*launchers.FLAGS, "bare", "no_wait", "slurm", "ray", "again"):
        if getattr(args, name):
            raise BadInput(name.replace("_", "-"), getattr(args, name),
                           "not given for a single run; it is for several, such as table1 or seed=0..4")
    return single(args, runs[0])


def single(args, wanted) -> None:
    from semilib import files
    from semilib.data import folders  # no pandas, no notebooks: a bare machine with torch can run this
    from semilib.report.labels import names_of
    from semilib.training import metrics, progress, record
    from semilib.training.train import train
    names = names_of([wanted])
    shown = progress.Terminal(names=names)
    folders.prepare([wanted], shown.working, shown.note)
    with board_of(wanted, args):
        path = train(wanted, files.place(args.runs), args.folder, shown)
    found = record.read(path)
    result = found["result"]
    few = wanted.dataset == "imagefolder"
    digits = metrics.decimals(result["right"][1]) if few else 2
    score = (f"{result['metric'].replace('_', ' ')} {result['mean_last']:.{digits}%} ({result['rule']}; last "
             f"{result['last']:.{digits}%})")
    print(f"{names[wanted.key]}, {wanted.steps:,} steps of profile {wanted.profile}: "
          + (of_test_pictures(path) + f"\n{score}" if few else score))
    for name, advice in result.get("never_acted", {}).items():
        print(f"never acted: {name} ({advice})")
    print(f"record: {files.shown(path)} ({found['status']})")
    if few:
        print(what_next(wanted, path))


def of_test_pictures(path: Path) -> str:
    """How a finished run on a folder of pictures does on its test pictures, at its end: how many of all and of each
    class are right, and which classes it takes none for."""
    from semilib.training import metrics, record
    found, last = record.read(path), record.read_log(path)[-1]
    names = found["split"]["class_names"]
    lines = [f"{metrics.counted(*found['result']['right'])}; {found['split']['data']}",
             f"right by class: {metrics.right_by_class(last, names)}"]
    if never := metrics.never_predicted(last, names):
        lines.append(f"warning: never predicted: {', '.join(never)}")
    return "\n".join(lines)


def what_next(wanted, path: Path) -> str:
    """The commands that use a finished run on a folder of pictures."""
    from semilib import files
    from semilib.data import folders
    of, new = files.quoted(files.shown(path)), folders.look(wanted.root).new_pictures()
    return (f"predict: semilib predict {of} {files.quoted(new) if new else 'FOLDER'}\n"
            f"export:  semilib export {of}")


def predict(args) -> None:
    """Name the classes of pictures by a finished run: how many of each, the least sure, and a table of all."""
    from semilib import files
    from semilib.training import progress, trained
    shown = progress.Terminal()
    found, table = trained.predictions(run_in(args.run), args.pictures, args.out, shown.working, shown.note)
    each = ", ".join(f"{name} {number:,}" for name, number in found["class"].value_counts().items())
    print(f"{len(found):,} pictures: {each}\nthe least sure:\n"
          f"{found[:LEAST_SURE].to_string(index=False, float_format='{:.3f}'.format)}\n"
          f"all, the least sure first: {files.shown(table)}")


def export(args) -> None:
    """Write the network of a finished run as one ONNX file, from a picture's bytes to probabilities."""
    import onnxruntime

    from semilib import files
    from semilib.training import trained
    file = trained.onnx_file(run_in(args.run), args.out)
    facts = onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map
    print(f"{files.shown(file)}: {file.stat().st_size / 1e6:.1f} MB\nimages: {facts['input']}\n"
          f"probabilities: of {', '.join(facts['class_names'].splitlines())}")


def run_in(folder: str) -> Path:
    """A run's folder, as it was typed or as other commands show it (`files.shown`)."""
    from semilib import files
    return files.found(folder)


def board_of(wanted, args):
    """What keeps a TensorBoard beside the run, if --log asks for one."""
    if not args.log:
        return contextlib.nullcontext()
    from semilib import files
    from semilib.report import board
    from semilib.training import record
    return board.followed(Path(args.folder) if args.folder else record.folder(wanted, files.place(args.runs)))


def several(args, tables: list[str], fields: list[str]) -> None:
    """Do the runs of tables or of a sweep, told first how many, how long and how much disk."""
    from semilib import files
    from semilib.study import launchers
    if args.folder:
        raise BadInput("folder", args.folder, "not given with a sweep, whose runs each have their own")
    flags = {name: getattr(args, name) for name in launchers.FLAGS if getattr(args, name) is not None}
    flags |= {"wait": False} if args.no_wait else {}
    beside = {**{name: "slurm" for name in ("per_job", "wait") if name in flags},
              **{name: name for name in ("slurm", "ray") if getattr(args, name)}}
    for name, owner in beside.items():
        if args.on != owner:
            raise BadInput("on", args.on, f"{owner}, for what was given beside it ({name.replace('_', '-')})")
    if args.on == "ray" and {"slots", "per_gpu", "threads"} & flags.keys():
        raise BadInput("on", "ray", "--ray num_cpus=N --ray num_gpus=SHARE in place of slots, per-gpu and threads")
    words = assignments(getattr(args, args.on, None) or [])
    how = launchers.launcher(args.on, {**flags, "notebook": not args.bare, **words})
    from semilib.report import board
    from semilib.report.labels import names_of
    from semilib.study.local import slots_of
    from semilib.study.status import summary
    from semilib.study.sweep import sweep
    from semilib.training.progress import automatic
    if args.log:
        board.summary_writer()
    groups = of_tables(tables, fields, args) if tables else own(fields)
    for title, runs, recorded, _ in groups:
        if recorded and not runs:
            print(f"{title}: nothing to do, {len(recorded)} runs are finished; --again does them too\n"
                  f"  records: {', '.join(sorted({files.shown(kept.folder.parent) for kept in recorded.values()}))}")
    runs = once(groups)
    if not runs:
        return
    print(estimate(runs, args, len(slots_of(len(runs), how)) if args.on == "local" else 1), flush=True)
    names = names_of(runs) | {key: name for group in reversed(groups) for key, name in group.names.items()}
    outcomes = sweep(runs, args.runs, how, automatic(len(runs), names))
    for outcome in outcomes if args.log else ():
        board.write(outcome.folder)
    print(f"{summary(outcomes)}\nrecords: {files.shown(files.place(args.runs))}")
    on_folders = [o for o in outcomes if o.run.dataset == "imagefolder" and o.state.startswith("done")]
    for outcome in on_folders:
        print(f"{outcome.run.name}: {of_test_pictures(outcome.folder)}")
    for outcome in on_folders[:1]:
        print(what_next(outcome.run, outcome.folder))
    if any(outcome.exit_code for outcome in outcomes):
        sys.exit(1)


def words_of(words: list[str]) -> tuple[list[str], list[str]]:
    """Names of tables, and NAME=VALUE words. Raises BadInput for a word that is neither."""
    tables, fields = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    for name in tables:
        from semilib.study import grids  # only here: a single run does without
        if name not in grids.TITLES:
            raise BadInput("argument", name,
                           f"NAME=VALUE, such as method=fixmatch, or a table: {', '.join(grids.TITLES)}")
    return tables, fields


class Group(NamedTuple):
    """Runs to do. recorded: committed records by key, which are left out. names: what runs are called, by key."""

    title: str
    runs: list
    recorded: dict[str, Committed] = {}
    names: dict[str, str] = {}


def own(fields: list[str]) -> list[Group]:
    """The runs of a sweep, whatever is committed."""
    return [Group(" ".join(fields), given_runs(fields))]


def of_tables(tables: list[str], fields: list[str], args) -> list[Group]:
    """The runs of tables (none named: of all that the profile has).

    Those that committed records hold are left out, because tables show them as they are; not so with --again."""
    out = []
    for grid in given_grids(tables, fields):
        recorded = {} if args.again else recorded_of(grid, args)
        out.append(Group(grid.title, [run for run in grid.runs if run.key not in recorded], recorded, grid.names))
    return out


def looked_at(args) -> list[Group]:
    """What `plan` and `list` tell of: a sweep where a data set, a method or an option of one is named, else tables."""
    tables, fields = words_of(args.what)
    is_sweep = not tables and any(re.match(r"(dataset|method|[^=]*\.[^=]*)=", word) for word in fields)
    return own(fields) if is_sweep else of_tables(tables, fields, args)


def once(groups: list[Group]) -> list:
    """The runs of groups, each once."""
    return list({run.key: run for group in groups for run in group.runs}.values())


def estimate(runs: list, args, slots: int) -> str:
    """How many, how long and how much disk runs will take, in words. Says so where steps are tried for it."""
    from semilib.speed.workloads import trial
    from semilib.study.sweep import forecast

    def tried(run):
        print(f"no finished run tells how long a step of {run.label} takes: trying ten", file=sys.stderr, flush=True)
        return trial(run)
    return forecast(runs, args.runs, notebook=not args.bare, trial=tried).text(slots)


def recorded_of(grid, args) -> dict[str, Committed]:
    """The records of the grid's runs that are finished in results/ and not in the folder of runs, by key."""
    from semilib import files
    from semilib.study import committed
    from semilib.training import record
    kept = {run.key: committed.of(run) for run in grid.runs if record.state(run, files.place(args.runs)) != "done"}
    return {key: records for key, records in kept.items() if records}


def given_grids(tables: list[str], fields: list[str]) -> list:
    """The grids of tables; none named: of all that the profile has."""
    from semilib import files
    from semilib.study import grids
    given = {"root": str(files.place("data")), **assignments(fields, values)}
    found = []
    for name in tables or grids.TITLES:
        try:
            found.append(grids.grid(name, **given))
        except BadInput as error:
            if tables or error.field != "profile" or given.get("profile", "small") not in grids.TABLE_PROFILES:
                raise
    return found


def plan(args) -> None:
    """Runs, hours and disk of tables, or of a sweep, before they are run."""
    from semilib.study.launchers import Local
    from semilib.study.local import slots_of
    groups = looked_at(args)
    slots = args.slots or len(slots_of(10**6, Local()))
    for title, runs, recorded, _ in groups:
        print(f"{title}\n{estimate(runs, args, slots)}")
        if recorded:
            print(f"  {len(recorded)} more are among the committed records; --again does them too")
    if len(groups) > 1:
        print(f"together, each run once\n{estimate(once(groups), args, slots)}")


def list_(args) -> None:
    """The runs of tables, or of a sweep, and their state."""
    from collections import Counter

    from semilib.report.labels import named
    from semilib.study.sweep import states
    for title, runs, recorded, _ in looked_at(args):
        known = states(runs, args.runs)
        numbers = Counter({"in results": len(recorded)}) + Counter(state for _, state in known)
        print(f"{title}\n  " + ", ".join(f"{n} {state}" for state, n in numbers.items()))
        for run, state in known if args.all else ():
            print(f"  {state:12} {named(run.name, run.identity())}  {run.key}")
        for key, kept in recorded.items() if args.all else ():
            print(f"  in results   {kept.folder.name}  {key}")


def render(args) -> None:
    """Execute the notebooks of tables and figures; in place, all that are committed."""
    from semilib import files
    from semilib.study import notebooks
    home, given = files.notebooks(), assignments([w for w in args.what if "=" in w])
    every, named = sorted(home.glob("[!.]*.ipynb")), [Path(w) for w in args.what if "=" not in w]
    named = [path if path.is_file() else home / path.with_suffix(".ipynb").name for path in named]
    chosen = named or [path for path in every if args.in_place or path.stem not in NOT_RENDERED]
    for path in chosen:
        if not path.is_file():
            raise BadInput("notebook", path.name, f"one of {', '.join(p.stem for p in every)}")
    known = {path: notebooks.parameters(path) for path in chosen}
    for name in given:
        if not any(name in names for names in known.values()):
            valid = sorted({n for names in known.values() for n in names})
            raise BadInput("parameter", name, f"one that these notebooks have: {', '.join(valid)}")
    failed = []
    for path, names in known.items():
        output = path if args.in_place else files.place(args.out) / path.name
        try:
            print(files.shown(notebooks.execute(path, output, notebooks.fitting(path.name, names, given))), flush=True)
        except NotebookError as error:
            failed.append(str(error))
    if failed:
        sys.exit(f"{len(failed)} of {len(chosen)} notebooks failed\n" + "\n".join(failed))


def copies(args) -> None:
    """Working copies of the notebooks."""
    from semilib import files
    from semilib.study import notebooks
    folder = files.place(args.folder)
    same = notebooks.copies(folder)
    print(f"{files.shown(folder)}: {len(same)} notebooks")
    for copy in (copy for copy, unchanged in same.items() if not unchanged):
        print(f"  {copy.name} is kept as it is, other than the project's; delete it for a new copy")


def one(args) -> None:
    """What a launcher's worker does; see unit.worker."""
    from semilib.study.unit import worker
    sys.exit(worker(args.file, args.index, args.parent))


def status(args) -> None:
    from semilib import files
    from semilib.report.labels import named
    from semilib.training import metrics, record
    print(f"{'state':12} {'result':>7}  run  profile and steps  key-code")
    for path in sorted(files.place(args.runs).rglob("run.json")):
        found, state = record.read(path.parent), record.state_of(path.parent)
        if found is None:
            print(f"{state:12} {'-':>7}  {files.shown(path.parent)}: it will be done again")
            continue
        profile, steps = (found["config"].get(name, "?") for name in ("profile", "steps"))
        few = found["config"].get("dataset") == "imagefolder" and found.get("result", {}).get("right")
        digits = metrics.decimals(few[1]) if few else 1
        score = f"{found['result']['mean_last']:.{digits}%}" if state in ("done", "stale") else "-"
        print(f"{state:12} {score:>7}  {named(found['name'], found['config'])}  {profile} {steps} steps  "
              f"{found['key']}-{found['code']}" + (f"  last: {metrics.counted(*few)}" if few else ""))


def combination(label: str) -> tuple[str, str, str]:
    """Base, method and additions of a label such as remixmatch+abc or acr+oheml."""
    from semilib.methods import ADDITIONS
    names = label.split("+")
    base, _, method = "+".join(name for name in names if name not in ADDITIONS).rpartition("+")
    return base, method, "+".join(name for name in names if name in ADDITIONS)


def describe(args) -> None:
    """Every parameter of a run, and the options of a method, of one on a base (remixmatch+abc),
    or with SeMi's modules (acr+oheml)."""
    from semilib.methods import get
    from semilib.options import is_share
    from semilib.training.config import Run
    base, method, add = combination(args.method)
    for title, kind in (("run", Run), (f"options of {args.method}", get(method, base, add).Config)):
        print(f"\n{title}:")
        for f in dataclasses.fields(kind):
            default = f.default if f.default is not dataclasses.MISSING else {}
            shown = f"{default!r} of the run" if is_share(f) else repr(default)
            print(f"  {f.name:24} {shown:22} {f.metadata['doc']}{'; a whole number = steps' * is_share(f)}")


def explain(args) -> None:
    """Which class defines which hook of a method."""
    from semilib.errors import check_name
    from semilib.training import inspecting
    base, method, add = combination(args.method)
    given = {"base": base, "add": add, **assignments(args.what)}
    for name in given:
        check_name("parameter", name, ("base", "add"))
    print(inspecting.explain(method, **given))


def trace(args) -> None:
    """What the time of a method's step is spent on."""
    from semilib import files
    from semilib.training import inspecting
    base, method, add = combination(args.method)
    traced = given_run([f"method={method}", *([f"base={base}"] if base else []), *([f"add={add}"] if add else []),
                        *args.what])
    out = files.place(args.out or f"runs/traces/{traced.name.split('/')[1]}-{traced.key}.json")
    print(inspecting.trace(traced, out))
    print(f"trace: {files.shown(out)}")


def execute(args) -> None:
    from semilib import files
    from semilib.study import notebooks
    notebook, known = Path(args.notebook), files.notebooks() / Path(args.notebook).name
    notebook = known if known.is_file() and not notebook.is_file() else notebook
    output = args.output or files.place("runs") / "notebooks" / notebook.name
    print(files.shown(notebooks.execute(notebook, output, assignments(args.parameter))))


def quickstart(args) -> None:
    from semilib import files
    from semilib.report.records import load
    from semilib.report.tables import overview
    from semilib.study import notebooks
    home, notebook = files.home(), files.notebooks() / "00_quickstart.ipynb"
    if not notebook.is_file():
        raise BadInput("folder", str(home), "the project's folder, which holds notebooks/00_quickstart.ipynb")
    given = assignments(args.parameter)
    output = files.place(given.get("runs", "runs")) / "quickstart" / "00_quickstart.ipynb"
    print("Supervised, FixMatch and SeMi on a long-tailed set of 32x32 pictures: about three and a half minutes on two "
          "cores, no download.")
    notebooks.execute(notebook, output, given)
    folder = output.parent
    records = (folder / "records.txt").read_text(encoding="utf-8").splitlines()
    print(overview(load(home / line for line in records)), end="\n\n")
    print(f"notebook  {files.shown(output)}")
    for path in sorted(folder.glob("*.png")):
        print(f"figure    {files.shown(path)}")
    for line in records:
        print(f"record    {line}")


def smoke_notebooks(args) -> None:
    from semilib import files
    from semilib.study import notebooks
    for path in notebooks.smoke_books(args.folder, files.notebooks()):
        print(files.shown(path))


def publish(args) -> None:
    from semilib import files
    from semilib.report import compact, records
    from semilib.training import record
    runs = [run_in(path) for path in args.run]
    if args.results.endswith(compact.ENDING):
        rows = [records.row(one, args.logs) for one in records.load(runs)]
        table = compact.add(files.place(args.results), rows)
        print(f"{files.shown(table)}: {len(compact.read(table)):,} runs, {table.stat().st_size / 1e6:.2f} MB")
        return
    if args.logs:
        raise BadInput("logs", args.logs, f"given with a compressed table, FILE{compact.ENDING}; a folder has them")
    for path in runs:
        print(files.shown(record.publish(path, files.place(args.results))))


def collect(args) -> None:
    """Runs and what they measured as one table; `report.collecting.collect` says which columns it has."""
    from semilib.report import collecting
    places, fields = [w for w in args.what if "=" not in w], [w for w in args.what if "=" in w]
    places += [args.runs] if args.runs else []
    if len(places) > 1:
        raise BadInput("runs", " ".join(places), "one folder of runs")
    folder = places[0] if places else "runs"
    runs = given_runs(fields) if fields else folder
    frame = collecting.collect(runs, args.by.split(",") if args.by else (), folder)
    if args.csv:
        print(frame.to_csv(index=False), end="")
    elif args.latex:
        print(collecting.for_paper(frame).to_latex(index=False, escape=True), end="")
    elif args.json:
        print(frame.to_json(orient="records", indent=1))
    else:
        print(collecting.readable(frame).to_string(index=False))


def report(args) -> None:
    from semilib import files
    from semilib.report import figures
    print(figures.report(run_in(args.results), files.place(args.figures), args.title))


def costs(args) -> None:
    """Measure the step of each method beside FixMatch's."""
    from semilib import METHODS, Run, files
    from semilib.speed import costs as measured
    words, methods = [w for w in args.what if "=" in w], [w for w in args.what if "=" not in w]
    given = assignments(words)
    given.setdefault("root", str(files.place("data")))
    pairs = [name.rpartition("+") for name in methods or METHODS]
    rows = measured.measure((Run.of(method=method, base=base, **given) for base, _, method in pairs), args.steps)
    print(measured.write(rows, files.place(args.out)))


def speed(args) -> None:
    """Measure steps, parts, growth and limits of this machine into one record.
    Sections that it has already are kept."""
    from semilib import files
    from semilib.speed import records, tables
    from semilib.speed.measure import Settings, machine, measure  # torch and numpy alone: a bare machine can measure
    settings = Settings.named(assignments(args.what))
    out = files.place(args.out or f"{records.FOLDER}/{records.slug(machine(settings))}.json")
    print(tables.of({out.stem: measure(settings, out)}))
    print(f"record: {files.shown(out)}")


def prepare(args) -> None:
    """Bring a data set into the form that runs read: download it, or make ImageNet-127 of what lies in a folder."""
    from semilib import files
    from semilib.data import imagenet127, sources
    from semilib.errors import check_name
    root = files.place(args.root)
    check_name("dataset", args.dataset, [name for name in sources.SOURCES if name != "imagefolder"])
    if args.dataset == "imagenet127":
        if args.given is None:
            raise BadInput("from", None, "the folder of the down-sampled ImageNet, unpacked, or of ImageNet")
        imagenet127.prepare(args.given, args.side, root)
    source = sources.load(args.dataset, root, args.side)
    print(f"{args.dataset}: {len(source.labels):,} training and {len(source.test_labels):,} test images "
          f"in {len(source.class_names)} classes")


def encode(args) -> None:
    """Make, list or delete stores of an encoder's features; what making takes is said before it starts."""
    from semilib import files
    from semilib.data import folders
    from semilib.features import store
    from semilib.training.progress import Terminal
    root = files.place(args.root)
    if args.delete:
        store.delete(root, args.delete)
    if args.delete or args.list:
        for found in store.stores_in(root):
            views = ", ".join(f"{count} {kind}" for kind, count in found["views"].items()) or "no view"
            print(f"{found['bytes'] / 1e6:10,.1f} MB  {found['store']}: {found['pictures']:,} pictures, {views}")
        return
    tables, fields = words_of(args.what)
    fields.append(f"root={str(root)!r}")
    runs = once(of_tables(tables, fields, args) if tables else own(fields))
    from semilib.features.batches import needs
    progress = Terminal()
    folders.prepare(runs, progress.working, progress.note)
    wanted = needs(runs, progress.working)
    for place, views, rows in wanted:
        cost = place.cost(views, rows)
        print(f"{place.folder.name}: {cost['views']:,.0f} views to encode, {cost['bytes'] / 1e6:,.1f} MB, "
              f"about {cost['seconds'] / 60:.1f} min", flush=True)
    for place, views, rows in () if args.cost else wanted:
        place.ensure(views, rows)


def tune(args) -> None:
    """Choose each method's settings on features by trials on a cell that no table reports."""
    from semilib import files
    from semilib.study import committed, tuning
    from semilib.study.sweep import ensure
    every = tuning.runs(args.method, args.order, str(files.place("data")))
    runs = [run for run in every if not committed.of(run)]
    ensure(runs, files.place(args.runs), slots=args.slots)
    print(tuning.frame(args.runs, args.order).to_string(index=False))
    if args.choose:
        tuning.choose(args.runs)
        print(f"chosen: {files.shown(tuning.FILE)}")


def probe(args) -> None:
    """Measure scikit-learn's baselines on the stored features of the tables' cells and splits."""
    from semilib import files
    from semilib.study import probes
    tables, fields = words_of(args.what)
    grids = given_grids(tables or ["table1", "table2"], ["profile=features", *fields])
    print(files.shown(probes.measure(run for grid in grids for run in grid.runs)))


class Parser(argparse.ArgumentParser):
    """A parser that repeats no more of what was given than a reader wants."""

    def error(self, message: str) -> NoReturn:
        super().error(shorter(message))


def parser() -> argparse.ArgumentParser:
    from semilib.study import launchers
    top = Parser(prog="semilib", description="Class-imbalanced semi-supervised learning: the SeMi study.")
    top.add_argument("--version", action="version", version=f"semilib {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, text: str, name: str | None = None) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name or function.__name__, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = verb(quickstart, "execute the quickstart notebook and print its table")
    sub.add_argument("parameter", nargs="*", metavar="NAME=VALUE", help="the notebook's parameters")

    words = "TABLE or NAME=VALUE"
    sub = verb(plan, "how many runs, hours and how much disk tables or a sweep will take")
    sub.add_argument("what", nargs="*", metavar=words,
                     help="table1 ... table7 (none: all), profile=small, seeds=0..2, methods=semi,acr, and for table4 "
                          "variants='{\"alpha 0.2\": {\"alpha\": 0.2}}'; or a sweep, as for `run`")
    sub.add_argument("--runs", default="runs")
    sub.add_argument("--slots", type=int, default=None, help="runs side by side (default: as `run` would choose)")
    sub.add_argument("--bare", action="store_true", help="without a notebook a run")
    sub.add_argument("--again", action="store_true", help="also the runs that committed records hold")

    sub = verb(list_, "the runs of tables or of a sweep and their state", "list")
    sub.add_argument("what", nargs="*", metavar=words, help="as for `plan`")
    sub.add_argument("--runs", default="runs")
    sub.add_argument("--all", action="store_true", help="each run")
    sub.add_argument("--again", action="store_true", help="also the runs that committed records hold")

    sub = verb(run, "do what is missing of one run, of a sweep, or of tables")
    sub.add_argument("what", nargs="*", metavar=words,
                     help="table1 ... with profile=small and the like; or the fields of one run, such as "
                          "dataset=cifar10 method=semi seed=1 semi.alpha=0.2 (see `describe`); several values make "
                          "a sweep: method=semi,acr seed=0..4; quote a value that holds a comma")
    sub.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    sub.add_argument("--folder", default=None, help="keep this single run here instead")
    sub.add_argument("--log", default=None, choices=("tensorboard",),
                     help="also write each evaluation for TensorBoard, in the run's folder")
    sub.add_argument("--on", default="local", choices=launchers.LAUNCHERS,
                     help="who does the runs (default: this machine)")
    for name, doc in launchers.FLAGS.items():
        sub.add_argument("--" + name.replace("_", "-"), type=int, default=None, help=doc)
    sub.add_argument("--bare", action="store_true", help="train without executing a notebook for each run")
    sub.add_argument("--again", action="store_true", help="also the runs that committed records hold")
    sub.add_argument("--slurm", action="append", metavar="NAME=VALUE",
                     help="an option of sbatch: partition=gpu, time=240, gres=gpu:1, ...")
    sub.add_argument("--no-wait", action="store_true", help="SLURM: submit and return")
    sub.add_argument("--ray", action="append", metavar="NAME=VALUE",
                     help="address=HOST:PORT, num_cpus=2, num_gpus=0.25, ...")

    sub = verb(render, "execute the notebooks of tables and figures")
    sub.add_argument("what", nargs="*", metavar="NOTEBOOK or NAME=VALUE",
                     help="none: all of them; profile=smoke and other parameters")
    sub.add_argument("--out", default="executed", help="folder for the executed notebooks (default: executed)")
    sub.add_argument("--in-place", action="store_true", help="put them in their own place instead; none named: all")

    sub = verb(copies, "make working copies of the notebooks, without outputs, in a folder that git ignores")
    sub.add_argument("folder", nargs="?", default="lab", help="(default: lab)")

    sub = verbs.add_parser("one")                          # a launcher's worker, in no list of verbs
    sub.set_defaults(function=one)
    sub.add_argument("file")
    sub.add_argument("index", type=int)
    sub.add_argument("--parent", type=int, default=None)

    sub = verb(describe, "list every field of a run and every option of a method")
    sub.add_argument("method", nargs="?", default="semi")

    method = "a method, on a base (remixmatch+abc) or with SeMi's modules (acr+oheml)"
    sub = verb(explain, "which class defines which hook of a method, outermost first")
    sub.add_argument("method", help=method)
    sub.add_argument("what", nargs="*", metavar="NAME=VALUE", help="base=..., add=...")

    sub = verb(trace, "profile ten steps of a method: a Chrome trace, and the five heaviest operators")
    sub.add_argument("method", help=method)
    sub.add_argument("what", nargs="*", metavar="NAME=VALUE",
                     help="fields of the run, such as profile=smoke device=cuda")
    sub.add_argument("--out", default=None, help="the trace (default: a file in runs/traces)")

    sub = verb(status, "list the runs and their state")
    sub.add_argument("--runs", default="runs")

    sub = verb(execute, "execute a notebook by papermill, parameters checked, progress shown")
    sub.add_argument("notebook")
    sub.add_argument("parameter", nargs="*", metavar="NAME=VALUE")
    sub.add_argument("--output", default=None)

    sub = verb(publish, "copy finished runs' records (no weights) into a folder of results/")
    sub.add_argument("run", nargs="+", help="folders of runs")
    sub.add_argument("results", help="such as results/quickstart; FILE.jsonl.gz: one compressed table, a line a run")
    sub.add_argument("--logs", action="store_true", help="keep whole logs in the compressed table, for figures")

    sub = verb(collect, "runs, what differs between them, and what they measured, as one table")
    sub.add_argument("what", nargs="*", metavar="FOLDER or NAME=VALUE",
                     help="folder of runs (default: runs); the words of a sweep, as for `run`: its runs alone")
    sub.add_argument("--runs", default="", help="the folder of runs, beside the words of a sweep")
    sub.add_argument("--by", default="", metavar="COLUMNS", help="a row for each of these: method, or method,gamma_l")
    form = sub.add_mutually_exclusive_group()
    for name, doc in (("csv", "in full precision"), ("latex", "a tabular for booktabs, mean ± spread in one column"),
                      ("json", "a list of rows")):
        form.add_argument(f"--{name}", action="store_true", help=doc)

    sub = verb(report, "table and figures of a folder of records")
    sub.add_argument("results", help="folder of records")
    sub.add_argument("figures", help="folder for the figures")
    sub.add_argument("title", nargs="?", default="")

    in_run = "the folder of a finished run, as `run` prints it"
    sub = verb(predict, "name the classes of pictures by a finished run, with confidence, into a CSV")
    sub.add_argument("run", help=in_run)
    sub.add_argument("pictures", nargs="+", metavar="FOLDER or FILE", help="pictures; of a folder all below it")
    sub.add_argument("--out", default=None, metavar="FILE.csv", help="(default: in the run's folder, a file a folder)")

    sub = verb(export, "write a finished run's network as one ONNX file, from pictures to probabilities")
    sub.add_argument("run", help=in_run)
    sub.add_argument("--out", default=None, metavar="FILE.onnx", help="(default: model.onnx in the run's folder)")

    sub = verb(costs, "measure what a step of each method costs beside FixMatch's")
    sub.add_argument("what", nargs="*", metavar="METHOD or NAME=VALUE",
                     help="remixmatch+abc, profile=trial, ...; no method: all")
    sub.add_argument("--out", default="runs/costs", help="writes OUT.json and OUT.md")
    sub.add_argument("--steps", type=int, default=20, help="steps a phase")

    sub = verb(speed, "measure a step, its parts, its growth and the limits of this machine")
    sub.add_argument("what", nargs="*", metavar="NAME=VALUE",
                     help="device=cuda, steps=50, sections=steps+parts and others of Settings")
    sub.add_argument("--out", default=None, help="the record (default: results/speed/DEVICE.json)")

    sub = verb(prepare, "download a data set, or make ImageNet-127 from ImageNet's files")
    sub.add_argument("dataset", help="imagenet127, stl10, svhn, cifar10, cifar100")
    sub.add_argument("given", nargs="?", metavar="FROM",
                     help="imagenet127: folder of the down-sampled ImageNet's batches, or of ImageNet")
    sub.add_argument("--side", type=int, default=32, help="imagenet127: 32 or 64")
    sub.add_argument("--root", default="data", help="folder of the data sets (default: data)")

    sub = verb(encode, "make, list or delete the stored features of a pretrained encoder")
    sub.add_argument("what", nargs="*", metavar="TABLE or NAME=VALUE",
                     help="the runs whose features are wanted, as for `run`: table1 profile=features, or fields")
    sub.add_argument("--root", default="data", help="folder of the data sets (default: data)")
    sub.add_argument("--cost", action="store_true", help="only say what it would take")
    sub.add_argument("--list", action="store_true", help="the stores that there are")
    sub.add_argument("--delete", default=None, metavar="STORE", help="remove a store")
    sub.add_argument("--again", action="store_true", help="also for runs that committed records hold")
    sub.add_argument("--runs", default="runs")

    sub = verb(tune, "choose the settings of profile features by trials on held-out images")
    sub.add_argument("method", nargs="*", help="none: all")
    sub.add_argument("--order", default="consistent", choices=("consistent", "reversed"), help="of the unlabelled pool")
    sub.add_argument("--runs", default="runs")
    sub.add_argument("--slots", type=int, default=1, help="trials side by side")
    sub.add_argument("--choose", action="store_true", help="write the best settings of all methods into the package")

    sub = verb(probe, "measure scikit-learn's baselines on stored features, in the cells of tables")
    sub.add_argument("what", nargs="*", metavar=words, help="none: table1 table2; seeds=[0]")

    sub = verb(smoke_notebooks, "write copies of the notebooks that run in seconds and then show committed records "
                                "again, for the tests",
               "smoke-notebooks")
    sub.add_argument("folder")
    top.verbs = verbs.choices
    return top


def main(argv: list[str] | None = None) -> None:
    top, argv = parser(), sys.argv[1:] if argv is None else argv
    try:
        if argv and not argv[0].startswith("-"):
            check_name("verb", argv[0], [name for name in top.verbs if name != "one" or argv[0] == "one"])
    except BadInput as error:
        sys.exit(f"semilib: {error}")
    args = top.parse_args(argv)
    try:
        with signals.Interrupts():
            args.function(args)
    except (BadInput, NotebookError, RunBusy, TrainingError) as error:
        sys.exit(f"semilib {args.verb}: {error}")
    except BrokenPipeError:                                # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
    except OSError as error:
        sys.exit(f"semilib {args.verb}: {shorter(str(error.filename or 'a file'))}: {error.strerror or error}")
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal", signal.SIGINT))
