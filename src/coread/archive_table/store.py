"""The folder of an archive run: its rows in a SQLite file, its pictures reduced to what a report needs.

A row goes in before its study counts as done, so it is on the disk when ``write`` returns; whoever is killed in between
writes it again, and gets the same file. Only the run's own account may read it.
"""

import errno
import io
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from PIL import Image

from coread.archive_table.row import StudyRow
from coread.errors import ConfigurationError

FILE = "rows.sqlite"
FORM = 1
"""Of the file; it changes when a reader of the old form would be misled."""

AT_ONCE = 1_000
"""Rows that are read at a time: nobody who writes waits for a reader for longer."""
WAIT_S = 30.0
"""For somebody else to end with the file."""
PER_FOLDER = 1_000
"""Studies whose pictures lie in one folder."""
LONGEST_SIDE = 480
"""Pixels of a reduced picture: two of them fill a page's width."""
QUALITY = 80
"""WebP's, 0 to 100: fine lines stay lines."""

TABLES = """
CREATE TABLE IF NOT EXISTS study_row (
    position INTEGER NOT NULL,
    number INTEGER NOT NULL,
    row TEXT NOT NULL,
    PRIMARY KEY (position, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class RunStore:
    """Rows and pictures of one run. May be used by several threads, and read while another process writes. Whatever is
    done with it raises OSError if the folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path = folder / FILE
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
        # SQLite's own journal: a write-ahead log does not work on network folders. EXTRA: what is committed survives a
        # loss of power with that, too.
        with self._held() as connection:
            connection.execute("PRAGMA synchronous = EXTRA")
        with self._writing() as connection:
            (form,) = connection.execute("PRAGMA user_version").fetchone()
            if form not in (0, FORM):
                raise ConfigurationError(
                    f"{path}: expected rows of form {FORM}, found {form}; use the version of Coread that wrote them"
                )
            for statement in TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORM}")

    @classmethod
    def existing(cls, folder: Path) -> Self:
        """The store of a run that has begun. Raises ConfigurationError if the folder is none."""
        if not (folder / FILE).is_file():
            raise ConfigurationError(
                f"{folder}: expected the folder of an archive run, found no {FILE} in it; `coread archive list` says "
                "where runs write to"
            )
        return cls(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time. Raises OSError if the file cannot be read or written (no room, no
        permission, somebody else does not let go of it), ConfigurationError if it is damaged or something else.
        """
        with self._lock:
            try:
                yield self._connection
            except sqlite3.OperationalError as error:
                raise OSError(errno.EIO, str(error), str(self._path)) from error
            except sqlite3.DatabaseError as error:
                raise ConfigurationError(
                    f"{self._path}: expected the rows of an archive run, found a file that is none or is damaged "
                    f"({error}); restore it, or have the run begin again in another folder"
                ) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._held():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    # Rows ------------------------------------------------------------------------------------------------------------

    def write(self, position: int, rows: Sequence[StudyRow]) -> None:
        """Keep the rows of a study in place of those that it has. Raises ValueError if one is of another study."""
        if any(row.position != position for row in rows):
            raise ValueError(f"expected rows of study {position}, found others")
        values = [
            (position, number, json.dumps(row.as_json(), ensure_ascii=False, allow_nan=False))
            for number, row in enumerate(rows)
        ]
        with self._writing() as connection:
            connection.execute("DELETE FROM study_row WHERE position = ?", (position,))
            connection.executemany("INSERT INTO study_row VALUES (?, ?, ?)", values)

    def rows(self) -> Iterator[StudyRow]:
        """All rows in the order of the plan, however many there are."""
        last = (-1, -1)
        while found := self._after(last):
            for position, number, text in found:
                last = (position, number)
                yield StudyRow.from_json(json.loads(text))

    def rows_at(self, position: int) -> list[StudyRow]:
        """The rows of one study."""
        query = "SELECT row FROM study_row WHERE position = ? ORDER BY number"
        with self._held() as connection:
            found = connection.execute(query, (position,)).fetchall()
        return [StudyRow.from_json(json.loads(text)) for (text,) in found]

    def _after(self, last: tuple[int, int]) -> list[tuple[int, int, str]]:
        query = (
            "SELECT position, number, row FROM study_row WHERE (position, number) > (?, ?) "
            "ORDER BY position, number LIMIT ?"
        )
        with self._held() as connection:
            return connection.execute(query, (*last, AT_ONCE)).fetchall()

    # What the run is -------------------------------------------------------------------------------------------------

    def describe(self, run: Mapping[str, Any]) -> None:
        """Keep what the run is (`Run.as_json`), so that its folder can be understood without the ledger."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO about VALUES ('run', ?)", (json.dumps(run),))

    def described(self) -> dict[str, Any]:
        """What was kept of the run; empty if nothing was."""
        with self._held() as connection:
            found = connection.execute("SELECT value FROM about WHERE name = 'run'").fetchone()
        return dict(json.loads(found[0])) if found else {}

    # Pictures --------------------------------------------------------------------------------------------------------

    def picture(self, position: int, model: str, number: int) -> Path:
        """Where a picture is, or would be. ``number``: from 1 on, as the row's pictures are counted."""
        name = f"{position:08d}-{quote(model, safe='')}-{number}.webp"
        return self.folder / "pictures" / f"{position // PER_FOLDER:05d}" / name

    def put_picture(self, position: int, model: str, number: int, png: bytes) -> Path:
        """Keep a picture, reduced. Raises OSError if it is none, or cannot be written."""
        path = self.picture(position, model, number)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        with os.fdopen(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(reduced(png))
        partial.replace(path)
        return path

    def pictures(self, row: StudyRow) -> list[Path]:
        """The pictures of a row that are there."""
        paths = [self.picture(row.position, row.model, number) for number in range(1, len(row.pictures) + 1)]
        return [path for path in paths if path.is_file()]


def reduced(png: bytes) -> bytes:
    """A picture as a small WebP, `LONGEST_SIDE` at most, its metadata left behind."""
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()
