"""Who writes into a run's folder: one process at a time, and one that is replaced notices it.

    with writer.hold(path) as mine:
        mine.check()                     # before each write

The lock is the system's own, on the file `lock`, and dies with its process. On a shared disk it may hold on one machine
alone. So its holder also writes a name of its own into the file `writer`. Where another name stands there, another
process goes on with the run, and `check` raises RunBusy.
"""
from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from semilib.errors import BadInput, RunBusy
from semilib.files import clear_parts, write_text

FILES = {"lock", "writer"}                              # what holding leaves in a folder
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Writer:
    """The holder of a folder's lock, under a name that no other holder has."""

    def __init__(self, path: Path):
        self.path, self.file, self.name = path, path / "writer", secrets.token_hex(8)
        write_text(self.file, self.name + "\n")

    def is_replaced(self) -> bool:
        try:
            return self.file.read_text(encoding="utf-8").strip() != self.name
        except (OSError, ValueError):
            return True

    def check(self) -> None:
        """Raise RunBusy if another process has taken the folder over."""
        if self.is_replaced():
            raise RunBusy(f"{self.path} was taken over by another process, so this one stops: the locks of that disk "
                          "do not hold between machines")


@contextlib.contextmanager
def hold(path: Path) -> Iterator[Writer]:
    """Hold a folder's lock, and clear what killed writers left there. Raises RunBusy if another process holds it, and
    BadInput (folder) where the disk has no locks."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / "lock", "a+b") as file:
        until = time.monotonic() + 1.0             # who only looks whether it is held (`is_busy`) holds it for a moment
        while not _try_lock(file, path):
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            raise RunBusy(f"{path} is being trained by another process: wait for it, or stop it first")
        clear_parts(path)
        mine = Writer(path)
        try:
            yield mine
        finally:
            if not mine.is_replaced():
                mine.file.unlink(missing_ok=True)


def is_busy(path: Path) -> bool:
    """Whether a living process holds the folder's lock; False where nobody can hold one."""
    try:
        with open(path / "lock", "rb") as file:
            return not _try_lock(file, path, shared=True)
    except (OSError, BadInput):
        return False


def _try_lock(file, path: Path, shared: bool = False) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise BadInput("folder", str(path), "a folder on a disk with file locks (flock), without which two "
                                                f"processes could train one run: {os.strerror(error.errno)}") from error
        return False
    return True
