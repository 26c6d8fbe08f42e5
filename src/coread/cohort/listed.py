"""A list of studies in a CSV file: accession numbers or StudyInstanceUIDs, one a line."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coread.errors import ConfigurationError

COLUMNS = {
    "studyinstanceuid": "StudyInstanceUID",
    "studyuid": "StudyInstanceUID",
    "0020000d": "StudyInstanceUID",
    "accessionnumber": "AccessionNumber",
    "accession": "AccessionNumber",
    "accessionno": "AccessionNumber",
    "00080050": "AccessionNumber",
}
"""A header's letters and digits, in small letters → what stands in its column."""
UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
ACCESSION_NUMBER = re.compile(r"[^\\*?\x00-\x1f\x7f]{1,16}")
"""A short string (SH, PS3.5 6.2) without what would make it a pattern that matches others."""
DELIMITERS = ",;\t|"
LONGEST_LINE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the list. ``why``: why it cannot be looked up; empty if it can."""

    number: int
    """The line of the file, from 1 on, at which it ends."""
    keyword: str
    value: str
    why: str = ""


def lines_of(path: Path, *, column: str | None = None) -> Iterator[Line]:
    """The lines of a list, one after the other; empty lines are left out.

    ``column``: the header of the column; by default the first that is called like StudyInstanceUID, else like
    AccessionNumber. Raises ConfigurationError if there is none, or the file cannot be read.
    """
    with _opened(path) as file:
        rows = _rows(file, path)
        header = next(rows, (0, []))[1]
        index, keyword = _column(header, path, column)
        for number, row in rows:
            if any(cell.strip() for cell in row):
                yield _line(number, keyword, row[index].strip() if index < len(row) else "")


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOBase]:
    try:
        with path.open("rb") as probe:
            mark = probe.read(2)
        # Excel writes "Unicode text" as UTF-16. Only one column is looked at, so that other letters need not be legal.
        encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with path.open(encoding=encoding, errors="replace", newline="") as file:
            yield file
    except OSError as error:
        raise ConfigurationError(f"the list {path} cannot be read: {error.strerror}") from error


def _rows(file: io.TextIOBase, path: Path) -> Iterator[tuple[int, list[str]]]:
    first = file.readline(LONGEST_LINE)
    delimiter = max(DELIMITERS, key=first.count) if first else ","
    reader = csv.reader(_chain(first, file), delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeError) as error:
            raise ConfigurationError(
                f"{path}, line {reader.line_num + 1}: expected CSV, found something else; correct or remove that line"
            ) from error
        yield reader.line_num, row


def _chain(first: str, file: io.TextIOBase) -> Iterator[str]:
    if first:
        yield first
    while line := file.readline(LONGEST_LINE):
        yield line


def _column(header: Sequence[str], path: Path, column: str | None) -> tuple[int, str]:
    """Which column, and what stands in it."""
    said = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    if column is not None:
        wanted = [index for index, name in enumerate(header) if name.strip().lower() == column.strip().lower()]
        if not wanted:
            raise ConfigurationError(f"{path} has no column {column} in its first line; name one of those that it has")
        return wanted[0], COLUMNS.get(said[wanted[0]], "AccessionNumber")
    for keyword in ("StudyInstanceUID", "AccessionNumber"):
        for index, name in enumerate(said):
            if COLUMNS.get(name) == keyword:
                return index, keyword
    raise ConfigurationError(
        f"{path}: expected a column StudyInstanceUID or AccessionNumber in its first line, found none; add the header, "
        "or name the column"
    )


def _line(number: int, keyword: str, value: str) -> Line:
    fits = (UID if keyword == "StudyInstanceUID" else ACCESSION_NUMBER).fullmatch(value)
    why = "" if fits else "empty" if not value else f"no {keyword}"
    return Line(number=number, keyword=keyword, value=value, why=why)
