"""Orthanc's images: files that never change, each under a name of its own, which the index knows."""

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path


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
        if place.exists():
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


def remove_all_but(names: set[str], folder: Path) -> int:
    """Remove the files that no index speaks of; how many."""
    removed = 0
    for path in folder.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
        if path.name not in names:
            path.unlink()
            removed += 1
    return removed
