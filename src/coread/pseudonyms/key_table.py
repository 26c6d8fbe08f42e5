"""The key table: which pseudonym stands for what. Rows are added, and never changed or taken away.

One SQLite file beside the key file. It holds UIDs and PatientIDs, no names.
"""

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from coread.errors import ConfigurationError, LedgerUnavailable
from coread.pseudonyms.key import OTHERS, Key

WAIT_S = 30.0
"""For another process that writes."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS key_file (fingerprint TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tie (
    pseudonym TEXT NOT NULL, kind TEXT NOT NULL, original TEXT NOT NULL, part_of TEXT NOT NULL,
    PRIMARY KEY (pseudonym, part_of)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS tie_stays BEFORE UPDATE ON tie BEGIN SELECT RAISE(ABORT, 'ties stay'); END;
CREATE TRIGGER IF NOT EXISTS tie_is_kept BEFORE DELETE ON tie BEGIN SELECT RAISE(ABORT, 'ties stay'); END;
"""


class Tied(StrEnum):
    """What a pseudonym stands for."""

    PATIENT = "patient"
    """PatientID, with its issuer on a line before it where one is stated."""
    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"
    JOB = "job"


@dataclass(frozen=True, kw_only=True)
class Tie:
    """A pseudonym and what it stands for."""

    pseudonym: str
    kind: Tied
    original: str
    part_of: str = ""
    """The pseudonym of what it is a part of: of an instance, its series; of a study, its patient; empty if it is not
    known.
    """


class KeyTable:
    """The file. Safe to share between threads, and between processes."""

    def __init__(self, path: Path, *, key: Key) -> None:
        """Opens the table, or makes it. Raises ConfigurationError if it belongs to another key file, or others can
        read it; LedgerUnavailable if it cannot be opened.
        """
        self._path = path
        self._lock = threading.Lock()
        _keep_private(path)
        self._connection = _connected(path)
        try:
            with self._connection:
                self._connection.executescript(SCHEMA)
                self._connection.execute("INSERT OR IGNORE INTO key_file VALUES (?)", (key.fingerprint,))
                known = {row[0] for row in self._connection.execute("SELECT fingerprint FROM key_file")}
                if known != {key.fingerprint}:
                    raise ConfigurationError(
                        f"expected the table of this key file at {path}, found that of another; put the key file back "
                        "that belongs to it, or name a new one"
                    )
        except sqlite3.Error as error:
            raise _unavailable(path) from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def add(self, ties: Sequence[Tie]) -> None:
        """Add what is new, on the disk when this returns. Raises LedgerUnavailable if it cannot be written,
        ConfigurationError if a pseudonym stands for something else already.
        """
        rows = [(tie.pseudonym, tie.kind.value, tie.original, tie.part_of) for tie in dict.fromkeys(ties)]
        with self._lock:
            try:
                new = [row for row in rows if not self._has(row)]
                if new:
                    with self._connection:
                        self._connection.executemany("INSERT OR IGNORE INTO tie VALUES (?, ?, ?, ?)", new)
            except sqlite3.Error as error:
                raise _unavailable(self._path) from error

    def _has(self, row: tuple[str, str, str, str]) -> bool:
        found = self._connection.execute("SELECT original, part_of FROM tie WHERE pseudonym = ?", row[:1]).fetchall()
        if any(original != row[2] for original, _ in found):
            raise ConfigurationError(
                f"expected that {row[0]} stands for one {row[1]}, found another in {self._path}; "
                "the table is damaged: bring back a copy"
            )
        return any(part_of == row[3] for _, part_of in found)

    def find(self, pseudonym: str) -> list[Tie]:
        """What a pseudonym stands for, then what that is a part of, and so on; empty if it is none of this table.

        Raises LedgerUnavailable if the file cannot be read.
        """
        found: list[Tie] = []
        with self._lock:
            try:
                while pseudonym and len(found) < len(Tied):
                    row = self._connection.execute(
                        "SELECT pseudonym, kind, original, part_of FROM tie WHERE pseudonym = ? "
                        "ORDER BY part_of DESC LIMIT 1",  # one that is known to be a part of something
                        (pseudonym,),
                    ).fetchone()
                    if row is None:
                        break
                    found.append(Tie(pseudonym=row[0], kind=Tied(row[1]), original=row[2], part_of=row[3]))
                    pseudonym = row[3]
            except sqlite3.Error as error:
                raise _unavailable(self._path) from error
        return found


def _keep_private(path: Path) -> None:
    path.touch(mode=0o600)
    rights = path.stat().st_mode
    if rights & OTHERS:
        raise ConfigurationError(
            f"expected that only its owner can read {path}, found rights {rights & 0o777:o}; "
            "find out who has read it, then say chmod 600"
        )


def _connected(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection
    except sqlite3.Error as error:
        raise _unavailable(path) from error


def _unavailable(path: Path) -> LedgerUnavailable:
    return LedgerUnavailable(f"the key table {path} cannot be read or written; check the disk and its rights")
