"""Orthanc's images: files that never change, each under a name of its own, which the index knows."""

import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from coread.archive import IDENTITY_PROPERTY

TRIES, WAIT_S = 5, 0.1


def identity_of(index: Path) -> str:
    """The name that the plugin has given an index in SQLite, for good; empty if there is none yet.

    It is read past the lock, and past the log: as it was written long ago. What is being written just then may seem
    damaged, so it is tried more than once.
    """
    address = f"{index.absolute().as_uri()}?immutable=1"
    for _ in range(TRIES):
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(address, uri=True)) as connection:
            asked = "SELECT value FROM GlobalProperties WHERE property = ?"
            for (name,) in connection.execute(asked, (IDENTITY_PROPERTY,)):
                return str(name)
        time.sleep(WAIT_S)
    return ""


def names_in(index: Path) -> Iterator[str]:
    """The names of all files that an index (a copy, in SQLite) speaks of."""
    with closing(sqlite3.connect(index)) as connection:
        for (name,) in connection.execute("SELECT uuid FROM AttachedFiles"):
            yield str(name)


def place_of(folder: Path, name: str) -> Path:
    """Where Orthanc keeps a file below its storage folder."""
    return folder / name[:2] / name[2:4] / name


def copy_files(names: Iterable[str], source: Path, target: Path) -> list[str]:
    """Copy those that are not there yet; the names of those that the source does not have either."""
    gone = []
    for name in names:
        place = place_of(target, name)
        if _is_whole(place, place_of(source, name)):
            continue
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = place.with_name(f"{name}.part")
        try:
            shutil.copyfile(place_of(source, name), partial)
        except FileNotFoundError:
            gone.append(name)
            continue
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(place)
    return gone


def _is_whole(copy: Path, original: Path) -> bool:
    """Whether there is a copy, and not one that was taken while Orthanc still wrote the file."""
    if not copy.exists():
        return False
    try:
        return copy.stat().st_size == original.stat().st_size
    except FileNotFoundError:  # it was deleted since
        return True


def remove_all_but(names: set[str], folder: Path) -> int:
    """Remove the files that no index speaks of; how many."""
    removed = 0
    for path in folder.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
        if path.name not in names:
            path.unlink()
            removed += 1
    return removed
