"""Where the project lies, and writing a file whole or not at all."""
from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from pathlib import Path

from semilib.errors import BadInput

PACKAGE = Path(__file__).resolve().parent


def write_atomically(path: Path, write) -> None:
    """Call `write(file)` on a temporary file beside `path`, flush it to the disk, then rename it.

    Readers see all of it or nothing, also after a power failure. An OSError names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> int:
    """Add a line to a file that is there and flush it to the disk. Returns the bytes written."""
    content = line.encode("utf-8") + b"\n"
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, where the system and the disk can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_parts(folder: Path) -> None:
    """Remove what killed writers left in a folder that nobody else writes into now."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def home(start: str | Path = ".") -> Path:
    """The project's folder: the nearest one above `start`, else above this package, that holds `notebooks/` and
    `semilib/`; else `start` itself. Notebooks and commands keep runs and data relative to it, wherever they are started
    from."""
    start = Path(start).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parent.parent):
        if (folder / "notebooks").is_dir() and (folder / "semilib").is_dir():
            return folder
    return start


def notebooks() -> Path:
    """The folder of the notebooks: the project's, else the one that an installed package has inside."""
    own = home() / "notebooks"
    return own if (own / "10_run.ipynb").is_file() else PACKAGE / "notebooks"


def place(path: str | Path) -> Path:
    """A path relative to `home`; an absolute one stays as it is."""
    return home() / Path(path).expanduser()


def found(path: str | Path) -> Path:
    """A path as somebody typed it, where something is there; else it is relative to `home`."""
    path = Path(path).expanduser()
    return path if os.path.exists(path) else place(path)


def check_path(field: str, path: str | Path) -> None:
    """Raise BadInput for what is no path on this system, such as one with a name that is too long."""
    try:
        os.lstat(Path(path).expanduser())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(field, str(path), f"a path ({getattr(error, 'strerror', None) or error})") from error


def shown(path: str | Path) -> str:
    """A path as a reader should see it: relative to the project where it lies inside, without the machine's folders."""
    path = Path(path).resolve()
    return path.relative_to(home()).as_posix() if path.is_relative_to(home()) else path.as_posix()


def quoted(path: str | Path) -> str:
    """A path as this system's shell takes it as one word."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))
