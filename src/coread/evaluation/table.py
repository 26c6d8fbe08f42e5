"""A reference standard in a table: a CSV file with a row for each study."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coread.errors import ConfigurationError
from coread.models.manifest import Manifest
from coread.workers.study import Study

IDENTIFIERS = ("StudyInstanceUID", "AccessionNumber", "PatientID")
"""What a row can be found by; the first column of these that the table has counts."""
CLASS, GROUP = "class", "group"
SEPARATORS = (",", ";", "\t")

Truth = Mapping[int, float | None]
"""Number in the manifest's table → what is true: 1 or 0 of a class, the number itself; None: it is not known."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the table says of a study."""

    line: int
    """In the file, from 1."""
    truth: Truth
    group: str | None
    """Whom or what the study shares with others, for the intervals, if the table has such a column."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of labels that fits a manifest."""

    matched_by: str
    """The identifier that rows are found by."""
    rows: Mapping[str, Row]
    """Value of the identifier → row."""

    def assign(self, studies: Sequence[Study]) -> Mapping[str, Row]:
        """StudyInstanceUID → row, of the studies that have one.

        Raises ConfigurationError if two studies have the same row: what it says would count twice, and may be meant
        for one of them only.
        """
        found: dict[str, Row] = {}
        taken: Counter[int] = Counter()
        for study in studies:
            row = self.rows.get(self._identifier_of(study))
            if row is not None:
                found[study.study_instance_uid] = row
                taken[row.line] += 1
        twice = sorted(line for line, count in taken.items() if count > 1)
        if twice:
            raise ConfigurationError(
                f"expected one study for each row of the table, found several with the {self.matched_by} of line "
                f"{twice[0]}; name the studies by StudyInstanceUID"
            )
        return found

    def _identifier_of(self, study: Study) -> str:
        values = {str(series.header.get(self.matched_by) or "").strip() for series in study.series}
        if len(values - {""}) > 1:
            raise ConfigurationError(
                f"expected one {self.matched_by} in a study, found several in {study.study_instance_uid}; name the "
                "studies by StudyInstanceUID"
            )
        return next(iter(values - {""}), "")


def read_table(path: Path, manifest: Manifest) -> Table:
    """The table of labels in ``path``, read as the manifest's classes or numbers.

    Raises ConfigurationError that names the line. It quotes no cell: any of them may identify a patient.
    """
    header, lines = _read(path)
    columns = {name.casefold(): place for place, name in enumerate(header)}
    matched_by = next((each for each in IDENTIFIERS if each.casefold() in columns), None)
    if matched_by is None:
        raise ConfigurationError(
            f"{path}: expected a column {' or '.join(IDENTIFIERS)}, found {_listed(header)}; name the studies"
        )
    truth_of = _reader(path, columns, manifest)
    rows: dict[str, Row] = {}
    for line, cells in lines:
        where = f"{path}: line {line}"
        if len(cells) != len(header):
            raise ConfigurationError(f"{where}: expected {len(header)} cells, found {len(cells)}; correct that line")
        identifier = cells[columns[matched_by.casefold()]]
        if not identifier:
            raise ConfigurationError(f"{where}: expected a {matched_by}, found none; fill it in, or delete the line")
        if identifier in rows:
            raise ConfigurationError(
                f"{where}: expected each {matched_by} once, found that of line {rows[identifier].line} again; keep one"
            )
        group = cells[columns[GROUP]] if GROUP in columns else None
        if group == "":
            raise ConfigurationError(f"{where}: expected a {GROUP}, found none; fill it in, or take the column out")
        rows[identifier] = Row(line=line, truth=truth_of(where, cells), group=group)
    if not rows:
        raise ConfigurationError(f"{path}: expected a row for each study, found none below the header")
    return Table(matched_by=matched_by, rows=rows)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each further line that is not empty with its number."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path}: expected a CSV file in UTF-8, found other bytes at {error.start}; save it as CSV UTF-8"
        ) from error
    if not text.strip() or "\0" in text:
        raise ConfigurationError(f"{path}: expected a CSV file with a header, found none; check the path")
    head = text.lstrip().splitlines()[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=head.count), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise ConfigurationError(
            f"{path}: line {reader.line_num}: no valid CSV ({error}); correct that line"
        ) from error
    (_, header), *rows = lines
    twice = [name for name, count in Counter(name.casefold() for name in header).items() if count > 1]
    if twice:
        raise ConfigurationError(f"{path}: expected columns of different names, found {len(twice)} twice")
    return header, rows


def _reader(path: Path, columns: Mapping[str, int], manifest: Manifest) -> Callable[[str, Sequence[str]], Truth]:
    """What makes truths of a line, given where it stands and its cells."""
    if manifest.classes and manifest.exclusive:
        if CLASS not in columns:
            raise ConfigurationError(f"{path}: expected a column {CLASS}, found {_listed(columns)}; add it")
        names = _names_of_classes(manifest)

        def one_of(where: str, cells: Sequence[str]) -> Truth:
            said = cells[columns[CLASS]].casefold()
            if said not in names:
                known = ", ".join(meaning.name for meaning in manifest.classes.values())
                found = "another word" if said else "nothing"
                raise ConfigurationError(
                    f"{where}: expected in column {CLASS} one of {known} (or a number or value of the manifest's "
                    f"classes), found {found}; correct that line"
                )
            return {key: float(key == names[said]) for key in manifest.classes}

        return one_of
    meanings = manifest.classes or manifest.numbers
    places = {
        key: columns[meaning.name.casefold()] for key, meaning in meanings.items() if meaning.name.casefold() in columns
    }
    if not places:
        wanted = ", ".join(meaning.name for meaning in meanings.values())
        raise ConfigurationError(f"{path}: expected a column {wanted}, found {_listed(columns)}; add what is known")
    read = _flag if manifest.classes else _number

    def each(where: str, cells: Sequence[str]) -> Truth:
        return {key: read(where, meanings[key].name, cells[place]) for key, place in places.items()}

    return each


def _names_of_classes(manifest: Manifest) -> Mapping[str, int]:
    """What a class can be called, in small letters → its number: its name; its number; the meaning of its value, if
    that is its alone.
    """
    values = Counter(meaning.value.meaning.casefold() for meaning in manifest.classes.values() if meaning.value)
    by_value = {
        meaning.value.meaning.casefold(): key
        for key, meaning in manifest.classes.items()
        if meaning.value and values[meaning.value.meaning.casefold()] == 1
    }
    by_number = {str(key): key for key in manifest.classes}
    return {**by_value, **by_number, **{meaning.name.casefold(): key for key, meaning in manifest.classes.items()}}


def _flag(where: str, name: str, cell: str) -> float | None:
    if cell not in ("0", "1", ""):
        raise ConfigurationError(
            f"{where}: expected 1, 0 or nothing in column {name}, found something else; correct it"
        )
    return float(cell) if cell else None


def _number(where: str, name: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(
            f"{where}: expected a number such as 61.5 (with a point) or nothing in column {name}, found something "
            "else; correct it"
        )
    return number


def _listed(names: Mapping[str, int] | Sequence[str]) -> str:
    return f"{len(names)} other columns"
