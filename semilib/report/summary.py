"""All that records say, as files: the overview and a figure of each kind."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from semilib.report import figures, paint, records
from semilib.report.tables import overview

FIGURES = (figures.confusion_matrices, figures.distributions, figures.per_class_accuracy, figures.learning_curves,
           figures.pseudo_label_quality)


def report(folders: str | Path | Iterable[Path], out: str | Path, title: str = "") -> str:
    """Write the table and the figures of records (a folder of them, or their folders) in `out`; returns the table as text."""
    folders = records.folders_below(folders) if isinstance(folders, str | Path) else list(folders)
    loaded = records.load(folders)
    table = overview(loaded, title)
    table.write(Path(out) / "table")
    for figure in FIGURES:
        paint.save(*figure(loaded), Path(out) / figure.__name__)
    return table.text
