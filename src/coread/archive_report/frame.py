"""The rows of a run as columns, for figures over all studies: eight bytes for a number, four for a word.

A hundred thousand studies with fifty columns take 40 MB. Rows come one by one, and none is kept.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coread.archive_table import FindingKind, RowFinding, StudyRow
from coread.archive_table.row import NUMBERS
from coread.evaluation.traits import UNKNOWN, band_of, scanner_of
from coread.job import JobState

Numbers = NDArray[np.float64]
Codes = NDArray[np.int32]

MISSING = -1
"""The code of a word that is not there."""

HEADER_WORDS = ("modality", "body_part_examined", "convolution_kernel", "software_versions", "manufacturer")
"""Columns of words that are watched for drift, besides the traits."""

EVALUATED, NOT_EVALUATED = "evaluated", "not evaluated"


class FindingKey(NamedTuple):
    """What a finding is told by in every study."""

    name: str
    kind: FindingKind
    unit: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """A column of words: ``codes`` are places in ``names``, or MISSING; shape (rows,)."""

    names: tuple[str, ...]
    codes: Codes

    @property
    def counts(self) -> dict[str, int]:
        """How often each stands there, the most frequent first."""
        counted = np.bincount(self.codes[self.codes != MISSING], minlength=len(self.names))
        return {self.names[place]: int(counted[place]) for place in np.argsort(-counted, kind="stable")}

    def of(self, name: str) -> NDArray[np.bool_]:
        """Which rows have a word."""
        return np.asarray(self.codes == self.names.index(name))


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """The rows of one model, in columns."""

    model: str
    positions: NDArray[np.int64]
    uids: Sequence[str]
    words: Mapping[str, Words]
    """``version``, ``state``, ``reason``, the traits, the header's words."""
    inputs: Mapping[str, Numbers]
    """Of header and images; nan: not known."""
    values: Mapping[FindingKey, Numbers]
    """nan: not said."""
    categories: Mapping[FindingKey, Words]
    seconds: Numbers
    first_read_at: str
    last_read_at: str

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def is_done(self) -> NDArray[np.bool_]:
        """Which rows have a result."""
        state = self.words["state"]
        if JobState.DONE not in state.names:
            return np.zeros(len(self), np.bool_)
        return state.of(JobState.DONE)


@dataclass(eq=False)
class _NumberColumn:
    """Grows at its end; rows that it was not told of are nan."""

    values: "array[float]" = field(default_factory=lambda: array("d"))

    def put(self, row: int, value: float) -> None:
        self.fill(row)
        self.values.append(value)

    def fill(self, rows: int) -> None:
        self.values.extend([np.nan] * (rows - len(self.values)))

    def whole(self, rows: int) -> Numbers:
        self.fill(rows)
        return np.array(self.values, np.float64)


@dataclass(eq=False)
class _WordColumn:
    """Grows at its end; rows that it was not told of have no word."""

    codes: "array[int]" = field(default_factory=lambda: array("i"))
    places: dict[str, int] = field(default_factory=dict)

    def put(self, row: int, word: str) -> None:
        self.fill(row)
        self.codes.append(self.places.setdefault(word, len(self.places)))

    def fill(self, rows: int) -> None:
        self.codes.extend([MISSING] * (rows - len(self.codes)))

    def whole(self, rows: int) -> Words:
        self.fill(rows)
        return Words(names=tuple(self.places), codes=np.array(self.codes, np.int32))


@dataclass(eq=False)
class FrameBuilder:
    """Takes the rows of one model one by one."""

    model: str
    positions: "array[int]" = field(default_factory=lambda: array("q"))
    uids: list[str] = field(default_factory=list)
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    read_at: tuple[str, str] = ("", "")
    words: defaultdict[str, _WordColumn] = field(default_factory=lambda: defaultdict(_WordColumn))
    inputs: defaultdict[str, _NumberColumn] = field(default_factory=lambda: defaultdict(_NumberColumn))
    values: defaultdict[FindingKey, _NumberColumn] = field(default_factory=lambda: defaultdict(_NumberColumn))
    categories: defaultdict[FindingKey, _WordColumn] = field(default_factory=lambda: defaultdict(_WordColumn))

    def add(self, row: StudyRow) -> None:
        """Take a row in."""
        place = len(self.uids)
        self.positions.append(row.position)
        self.uids.append(row.study_instance_uid)
        self.seconds.append(sum(row.seconds.values()) if row.seconds else np.nan)
        if row.read_at:
            self.read_at = (min(self.read_at[0] or row.read_at, row.read_at), max(self.read_at[1], row.read_at))
        for name, word in _words_of(row):
            if word:
                self.words[name].put(place, word)
        for name, value in _inputs_of(row):
            self.inputs[name].put(place, value)
        for each in row.findings:
            self._add_finding(place, each)

    def _add_finding(self, place: int, finding: RowFinding) -> None:
        key = FindingKey(finding.name, finding.kind, finding.unit)
        if finding.kind is FindingKind.NOT_EVALUATED:  # each study has a reason of its own
            self.categories[key].put(place, NOT_EVALUATED)
        elif finding.category:
            self.categories[key].put(place, finding.category)
        if finding.value is not None:
            self.values[key].put(place, finding.value)

    def whole(self) -> Frame:
        """The columns as they are now."""
        rows = len(self.uids)
        frame = Frame(
            model=self.model,
            positions=np.array(self.positions, np.int64),
            uids=self.uids,
            words={name: column.whole(rows) for name, column in self.words.items()},
            inputs={name: column.whole(rows) for name, column in self.inputs.items()},
            values={key: column.whole(rows) for key, column in self.values.items()},
            categories={key: column.whole(rows) for key, column in self.categories.items()},
            seconds=np.array(self.seconds, np.float64),
            first_read_at=self.read_at[0],
            last_read_at=self.read_at[1],
        )
        return _with_nothing_said(frame)


def _with_nothing_said(frame: Frame) -> Frame:
    """Of what a result only speaks of where it is there: without a mark there are none, and not evaluated is only what
    is said to be so.
    """
    is_done = frame.is_done
    values = {
        key: np.where(is_done & np.isnan(column), 0.0, column) if key.kind is FindingKind.MARKS else column
        for key, column in frame.values.items()
    }
    categories = {
        key: _else(column, EVALUATED, is_done) if key.kind is FindingKind.NOT_EVALUATED else column
        for key, column in frame.categories.items()
    }
    return replace(frame, values=values, categories=categories)


def _else(column: Words, word: str, rows: NDArray[np.bool_]) -> Words:
    codes = np.where(rows & (column.codes == MISSING), len(column.names), column.codes)
    return Words(names=(*column.names, word), codes=codes.astype(np.int32))


def _words_of(row: StudyRow) -> Iterator[tuple[str, str]]:
    yield "version", row.model_version
    yield "state", row.state
    yield "reason", reason_pattern(row.reason)
    yield "sex", row.patient_sex or UNKNOWN
    yield "age in years", band_of(row.patient_age_years)
    yield "scanner", device_of(row)
    yield "site", row.institution_name.casefold() or UNKNOWN
    yield "year", row.study_date[:4] if has_date(row) else UNKNOWN
    if has_date(row):
        yield "month", f"{row.study_date[:4]}-{row.study_date[4:6]}"
    for name in HEADER_WORDS:
        yield name, getattr(row, name)


def _inputs_of(row: StudyRow) -> Iterator[tuple[str, float]]:
    for name in ("patient_age_years", *NUMBERS):
        value = getattr(row, name)
        if value is not None:
            yield name, value
    yield from row.input.items()


def has_date(row: StudyRow) -> bool:
    """Whether the study's date can be read as a month of a year."""
    return re.fullmatch(r"[0-9]{4}(0[1-9]|1[0-2])[0-9]{2}", row.study_date) is not None


def device_of(row: StudyRow) -> str:
    """The scanner, told apart from others of its model by its station's name."""
    scanner = scanner_of(row.manufacturer, row.manufacturer_model_name)
    return f"{scanner}, station {row.station_name}" if row.station_name else scanner


def reason_pattern(reason: str) -> str:
    """A reason without what differs from study to study, so that the same ones can be counted."""
    return re.sub(r"[0-9]+(?:\.[0-9]+)*", "…", reason)


def frames_of(rows: Iterable[StudyRow]) -> dict[str, Frame]:
    """The columns of each model; of studies that came to none, under the empty name."""
    builders: dict[str, FrameBuilder] = {}
    for row in rows:
        if row.model not in builders:
            builders[row.model] = FrameBuilder(row.model)
        builders[row.model].add(row)
    return {model: builders[model].whole() for model in sorted(builders)}
