"""Copies of SQLite databases that others write to meanwhile."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from coread.errors import ArchiveUnavailable, ConfigurationError

BUSY_S = 30.0

STILL_S = 0.1
"""A file written to longer ago than this shows each later change by its time: the kernel's clock for files goes in
steps of some milliseconds."""
WAIT_S = 0.05
PATIENCE_S = 600.0
WAL_HEADER = 32
"""Bytes; another one whenever the log begins anew (https://sqlite.org/fileformat2.html, "The Write-Ahead Log")."""


def copy_online(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, by SQLite's own means; who writes to it hardly waits.

    Raises ConfigurationError if the source is no database, or a damaged one, or somebody keeps it locked.
    """
    partial = _partial(target)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)) as there,
            closing(sqlite3.connect(partial)) as here,
        ):
            there.backup(here, pages=-1, progress=_give_up_at(time.monotonic() + BUSY_S), sleep=WAIT_S)
            _finish(here)
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"{source} cannot be backed up: {error}; expected a database in order") from error
    _put_in_place(partial, target)


def copy_locked(
    source: Path, target: Path, *, patience_s: float = PATIENCE_S, pause: Callable[[float], None] = time.sleep
) -> None:
    """Copy a database in write-ahead mode that its owner keeps locked, as Orthanc does its index: file by file.

    The database's file changes only when the log is moved into it. Where neither that happened nor the log began anew
    while both were copied, the copies are what a power cut would have left, and SQLite makes one database of them.

    Raises ArchiveUnavailable if that was never so within ``patience_s``, ConfigurationError if the copy is damaged.
    """
    partial = _partial(target)
    deadline = time.monotonic() + patience_s
    while not _copied_unchanged(source, partial):
        if time.monotonic() > deadline:
            raise ArchiveUnavailable(
                f"expected {source} to stay as it is for as long as a copy takes, found it written to for "
                f"{patience_s:g} s; try again when less is sent to Orthanc"
            )
        pause(WAIT_S)
    try:
        with closing(sqlite3.connect(partial)) as here:
            _finish(here)
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"the copy of {source} is damaged: {error}; is Orthanc's own in order?") from error
    _put_in_place(partial, target)


def _give_up_at(deadline: float) -> Callable[[int, int, int], None]:
    """What Python asks after each try: it would try for ever while somebody keeps the database locked."""

    def look(status: int, _left: int, _all: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")

    return look


def _copied_unchanged(source: Path, partial: Path) -> bool:
    """Copy the database and its log; whether they went together."""
    log, copied_log = _log_of(source), _log_of(partial)
    before = _state(source, log)
    if time.time() - source.stat().st_mtime < STILL_S:
        return False
    shutil.copyfile(source, partial)
    copied_log.unlink(missing_ok=True)
    if log.exists():
        shutil.copyfile(log, copied_log)
    return _state(source, log) == before


def _state(source: Path, log: Path) -> tuple[int, int, bytes]:
    told = source.stat()
    try:
        with log.open("rb") as file:
            header = file.read(WAL_HEADER)
    except FileNotFoundError:
        header = b""
    return told.st_mtime_ns, told.st_size, header


def _finish(copy: sqlite3.Connection) -> None:
    """Make the copy one file that needs no log beside it, and look whether it is in order."""
    copy.execute("PRAGMA journal_mode=DELETE").fetchone()
    found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _partial(target: Path) -> Path:
    """Where a copy is made; what an earlier attempt has left there is gone."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    for path in (partial, *(partial.with_name(partial.name + end) for end in ("-wal", "-shm", "-journal"))):
        path.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    return partial


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _put_in_place(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
