"""Temporary folders that do not outlive their process, even if that is killed: the next one that starts removes them.

What a bundle is given lies in them, a patient's pixels among it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

PREFIX = "coread-scratch-"


def new_folder() -> tuple[Path, Callable[[], None]]:
    """A folder that only this user can read, and what removes it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: nobody sweeps there either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, partial(_remove, folder, lock)
            os.close(lock)
        # Somebody has swept it up before it was locked.


def sweep() -> int:
    """Remove what processes have left that were killed; how many folders. The system frees a lock with its holder."""
    removed = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # In use, another user's, gone meanwhile, or nested too deeply by whoever wanted to stop us.
        with suppress(OSError, RecursionError):
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed += 1
            finally:
                os.close(lock)
    return removed


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
