"""The grid of the study: which runs a table or a notebook needs, doing those that are missing, and reporting on records."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semilib import files
from semilib.errors import TrainingError, check_name
from semilib.files import write_text
from semilib.training import record
from semilib.training.config import Run
from semilib.training.progress import Progress, automatic
from semilib.training.train import train

QUICKSTART_METHODS = ("supervised", "fixmatch", "semi")


def quickstart(methods: Iterable[str] = QUICKSTART_METHODS, seeds: Iterable[int] = (0,),
               options: dict[str, dict[str, Any]] | None = None, **changes: Any) -> list[Run]:
    """The runs of the quickstart: each method on the embedded data, for each seed. options: method -> its options."""
    options = options or {}
    for method in options:
        check_name("options", method, methods)
    return [Run.of("mnistm5k", method, seed=seed, options=options.get(method, {}), root=str(files.place("data")), **changes)
            for seed in seeds for method in methods]


def ensure(runs: Iterable[Run], folder: str | Path = "runs", progress: Progress | None = None, slots: int = 1) -> list[Path]:
    """Do the runs that are not done, in this process one after the other, and return all their folders. A run whose training fails
    leaves its record and does not stop the others; a run that another process has is an error, because its numbers are not there yet.

    slots: more than one does them side by side, a process a run (`launch.local`, which has more to choose).
    """
    runs = list(runs)
    if slots != 1:
        from semilib.study import launch
        outcomes = launch.local(runs, folder, slots, notebook=False, progress=progress)
        if busy := [outcome for outcome in outcomes if outcome.state == "busy"]:
            raise record.RunBusy(f"{busy[0].folder} is being trained by another process: wait for it, or stop it first")
        return [record.folder(run, folder) for run in runs]
    progress = progress or automatic(len(runs))
    paths = []
    for run in runs:
        path = record.folder(run, folder)
        found = record.read(path)
        if found is not None and found["status"] == "done":
            progress.reused(run, found["result"])
        else:
            try:
                train(run, folder, progress=progress)
            except TrainingError as error:
                progress.note(f"{run.name}: {error}")
        paths.append(path)
    return paths


def example_views(run: Run, step: int = 0) -> tuple[Any, list[str], list[str], str]:
    """What the network sees of one image of each class: (images uint8 [4, C, H, W, 3], row names, class names, title), for
    `figures.image_grid`. The views are those of the run's seed at `step`."""
    import numpy as np
    import torch

    from semilib.data import augment, sources
    source = sources.load(run.dataset, run.root, run.side, run.split_seed, run.flip)
    x = torch.stack([source.images[source.labels == k][0] for k in range(len(source.class_names))])
    views = [x, augment.weak(x, run.seed, "view/w", step, source.flip, run.crop),
             *(augment.strong(x, run.seed, f"view/s{i}", step, source.flip, run.strong_pool, run.crop, source.mean) for i in (1, 2))]
    grid = np.stack([v.permute(0, 2, 3, 1).numpy() for v in views])
    rows = ["image", "weak view", "strong view 1", "strong view 2"]
    return grid, rows, source.class_names, f"{source.name}: the first image of each class"


def contents(folder: str | Path) -> str:
    """How many pictures the parts of a folder of pictures hold, a line a part."""
    parts = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    return "\n".join([files.shown(folder), *(f"  {p.name}: {sum(1 for file in p.rglob('*') if file.is_file()):,} pictures" for p in parts)])


def example_photos(folder: str | Path, labelled: int = 40, unlabelled: int = 60, test: int = 20, gamma: float = 10.0) -> Path:
    """A folder of pictures such as `sources.image_folder` reads, made of the embedded data: train/CLASS with a long tail from `labelled`
    pictures down by gamma, unlabelled/ with `unlabelled` of each class under names that say nothing, test/CLASS with `test` of each.
    Written once; returns the folder."""
    import numpy as np
    from PIL import Image

    from semilib.data import splits
    from semilib.data.sources import load
    folder, source = Path(folder), load("mnistm5k", str(files.place("data")))
    if (folder / "complete").is_file():
        return folder
    counts = splits.long_tailed_counts(labelled, len(source.class_names), gamma)
    pool = []

    def write(image: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    for k, name in enumerate(source.class_names):
        own = np.flatnonzero(np.asarray(source.labels) == k)
        for i in own[:counts[k]]:
            write(source.images[i], folder / "train" / name / f"{i:04d}.png")
        pool += own[counts[k]:counts[k] + unlabelled].tolist()
        for i in np.flatnonzero(np.asarray(source.test_labels) == k)[:test]:
            write(source.test_images[i], folder / "test" / name / f"{i:04d}.png")
    for place_, i in enumerate(np.random.default_rng(0).permutation(pool)):
        write(source.images[i], folder / "unlabelled" / f"{place_:04d}.png")
    write_text(folder / "complete", "every picture is written\n")
    return folder


def report(records: str | Path | Iterable[Path], figures: str | Path, title: str = "") -> str:
    """Table and figures of records (a folder of them, or their folders) as files in `figures`; returns the table as text."""
    from semilib.report import figures as draw
    from semilib.report import tables
    folders = sorted(p.parent for p in Path(records).rglob("run.json")) if isinstance(records, str | Path) else list(records)
    loaded = tables.load_all(folders)
    table = tables.table(loaded, title)
    tables.write(table, Path(figures) / "table")
    for name in ("confusion_matrices", "distributions", "per_class_accuracy", "learning_curves", "pseudo_label_quality"):
        figure, drawn = getattr(draw, name)(loaded)
        draw.save(figure, drawn, Path(figures) / f"{name}.png")
    return table.text


def leave_list(folders: Iterable[Path], out: Path | None = None) -> None:
    """Print where records are and the commit and versions that made them; also as `records.txt` in `out`."""
    folders = list(folders)
    lines = [files.shown(folder) for folder in folders]
    if out is not None:
        write_text(Path(out) / "records.txt", "\n".join(lines) + "\n")
    print("\n".join(lines))
    first = record.read(folders[0])
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    print(f"\ncommit {first['commit']}{' with changes' if first['dirty'] else ''}\n{versions}\n"
          f"{first['resolved']['device']}, {first['resolved']['precision']}")
