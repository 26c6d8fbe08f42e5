"""From a query, or a list, to a cohort: ask, filter, leave out what came before, draw a sample.

Memory does not grow with the cohort: it is kept in a temporary database of SQLite's own, which has no name in any
folder and is gone with the process.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import Any, Self

from coread.cohort.catalogue import Catalogue
from coread.cohort.found import IN_SERIES, PERSONAL_KEYS, STUDY_KEYS, Filters, Found, found_in, left_out_because
from coread.cohort.listed import Line
from coread.cohort.periods import Period, Search
from coread.cohort.plan import PlannedStudy
from coread.retrieval.answers import Answer

UIDS_AT_ONCE = 50
"""StudyInstanceUIDs of a list that are asked for in one query (list of UID matching, PS3.4 C.2.2.2.2)."""
KEPT_PAGES_KB = 16_000
"""Of the temporary database, so much is kept in memory."""

TABLE = """
CREATE TABLE {name} (
    uid TEXT PRIMARY KEY, date TEXT NOT NULL, modalities TEXT NOT NULL, instances INTEGER, bytes INTEGER,
    lot BLOB NOT NULL
) WITHOUT ROWID
"""
IN_IT, PARKED, LEFT_OUT = "study", "parked", "left_out"
LISTS_IGNORED = 10
"""A source that gives so many times more answers than UIDs were asked for does not know lists of them."""


class Cohort:
    """The studies that were found, each once."""

    def __init__(self, *, seed: int = 0) -> None:
        """``seed``: of the sample that may be drawn."""
        self._seed = seed
        self._database = sqlite3.connect("", isolation_level=None)  # on the disk, and unlinked at once
        self._database.execute(f"PRAGMA cache_size = -{KEPT_PAGES_KB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        for name in (IN_IT, PARKED, LEFT_OUT):
            self._database.execute(TABLE.format(name=name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exit: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM study").fetchone()[0])

    def add(self, study: Found) -> bool:
        """Add a study; False if it is in the cohort already."""
        return self._insert(IN_IT, study)

    def park(self, study: Found) -> None:
        """Keep a study of which it is not known yet whether it is in the cohort."""
        self._insert(PARKED, study)

    def leave_out(self, study: Found) -> None:
        """Remember a study that is not in the cohort: the same one may be found again."""
        self._insert(LEFT_OUT, study)

    def parked(self) -> Iterator[Found]:
        """The studies that were parked, with what is kept of a study."""
        for uid, day, modalities, instances, size in self._database.execute(
            "SELECT uid, date, modalities, instances, bytes FROM parked"
        ):
            yield Found(
                study_instance_uid=uid,
                study_date=day,
                modalities=frozenset(_split(modalities)),
                instances=instances,
                bytes=size,
            )

    def has(self, study_instance_uid: str) -> bool:
        """Whether a study was found before."""
        return any(
            self._database.execute(f"SELECT 1 FROM {table} WHERE uid = ?", (study_instance_uid,)).fetchone()  # noqa: S608
            for table in (IN_IT, PARKED, LEFT_OUT)
        )

    def _insert(self, table: str, study: Found) -> bool:
        # Who is drawn hangs on the UID and the seed alone: not on the order of answers, nor on who else is there.
        lot = hashlib.sha256(f"{self._seed} {study.study_instance_uid}".encode()).digest()[:8]
        row = (study.study_instance_uid, study.study_date, "\\".join(sorted(study.modalities)))
        added = self._database.execute(
            f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            (*row, study.instances, study.bytes, lot),
        )
        return added.rowcount > 0

    def draw(self, size: int) -> None:
        """Keep a random sample of so many, the same for the same seed."""
        self._keep("lot, uid", size)

    def cut(self, size: int) -> None:
        """Keep the first so many by date."""
        self._keep("date, uid", size)

    def studies(self) -> Iterator[PlannedStudy]:
        """All, the oldest first."""
        for uid, day, modalities, instances, size in self._database.execute(
            "SELECT uid, date, modalities, instances, bytes FROM study ORDER BY date, uid"
        ):
            yield PlannedStudy(
                study_instance_uid=uid,
                study_date=day,
                modalities=_split(modalities),
                instances=instances,
                bytes=size,
            )

    def groups(self) -> list["Group"]:
        """What there is of each set of modalities: as many rows as there are sets, not studies."""
        rows = self._database.execute(
            "SELECT modalities, COUNT(*), SUM(instances), COUNT(instances), SUM(bytes), COUNT(bytes), "
            "SUM(CASE WHEN bytes IS NULL THEN instances END), "
            "SUM(bytes IS NULL AND instances IS NOT NULL), SUM(bytes IS NULL AND instances IS NULL) "
            "FROM study GROUP BY modalities"
        )
        return [
            Group(
                modalities=_split(row[0]),
                studies=row[1],
                instances=row[2] or 0,
                counted=row[3],
                bytes=row[4] or 0,
                measured=row[5],
                instances_unmeasured=row[6] or 0,
                counted_unmeasured=row[7] or 0,
                unknown=row[8] or 0,
            )
            for row in rows
        ]

    def _keep(self, order: str, size: int) -> None:
        self._database.execute(
            f"DELETE FROM study WHERE uid NOT IN (SELECT uid FROM study ORDER BY {order} LIMIT ?)",  # noqa: S608
            (size,),
        )


def _split(values: str) -> tuple[str, ...]:
    return tuple(values.split("\\")) if values else ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Studies of the same modalities."""

    modalities: tuple[str, ...]
    studies: int
    instances: int
    """Of those whose instances are stated."""
    counted: int
    """How many these are."""
    bytes: int
    """Of those that were measured."""
    measured: int
    """How many these are."""
    instances_unmeasured: int
    """Instances of those that were counted and not measured."""
    counted_unmeasured: int
    unknown: int
    """How many were neither counted nor measured."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A line of a list that gave no study. ``why`` is for people."""

    line: Line
    why: str


@dataclass(kw_only=True)
class Tally:
    """What came of the search, besides the cohort."""

    found: int = 0
    """Studies that the source gave, each counted once."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why studies were left out → how many."""
    queries: int = 0
    limit: int | None = None
    """How many answers the source gives at most, if it has shown that."""
    missing: int = 0
    """Lines of the list that gave no study."""

    def as_json(self) -> dict[str, Any]:
        """The tally as JSON's types."""
        return {"found": self.found, "left_out": dict(self.left_out), "missing": self.missing, "limit": self.limit}


Progress = Callable[[int, int], None]
"""(lines looked up, or studies found; studies in the cohort)"""


def gather(
    catalogue: Catalogue,
    cohort: Cohort,
    *,
    keys: Mapping[str, str],
    filters: Filters,
    period: Period | None,
    today: date,
    progress: Progress = lambda _found, _kept: None,
) -> Tally:
    """Put what a query finds, and the filters pass, into a cohort. ``period``: of which days, if it was said."""
    tally = Tally()
    asked = (*STUDY_KEYS, *(PERSONAL_KEYS if filters.is_personal else ()))

    def ask(of_period: Mapping[str, str]) -> Iterator[Answer]:
        return catalogue.studies({**keys, **of_period}, asked=asked)

    search = Search(ask, today=today)
    answers = search.studies(period) if catalogue.may_limit else ask({} if period is None else period.keys)
    kept = 0
    for answer in answers:
        kept += _take(cohort, answer, filters=filters, tally=tally)
        progress(tally.found, kept)
    _decide(catalogue, cohort, kept, filters=filters, tally=tally, progress=progress)
    tally.queries += search.queries
    tally.limit = search.limit
    return tally


def look_up(
    catalogue: Catalogue,
    cohort: Cohort,
    lines: Iterable[Line],
    *,
    filters: Filters,
    missed: Callable[[Missing], None],
    progress: Progress = lambda _found, _kept: None,
) -> Tally:
    """Put the studies of a list, as far as the filters pass them, into a cohort. ``missed`` is told of each line that
    gave none.
    """
    tally, looked_up, kept = Tally(), 0, 0
    asked = (*STUDY_KEYS, "AccessionNumber", *(PERSONAL_KEYS if filters.is_personal else ()))
    waiting = iter(lines)
    while batch := list(islice(waiting, UIDS_AT_ONCE)):
        for line, answers in _answers(catalogue, batch, asked=asked, tally=tally):
            if not answers:
                tally.missing += 1
                missed(Missing(line=line, why=line.why or "not in the source"))
            for answer in answers:
                kept += _take(cohort, answer, filters=filters, tally=tally)
        looked_up += len(batch)
        progress(looked_up, kept)
    _decide(catalogue, cohort, kept, filters=filters, tally=tally, progress=progress)
    return tally


def _answers(
    catalogue: Catalogue, batch: Sequence[Line], *, asked: Sequence[str], tally: Tally
) -> Iterator[tuple[Line, list[Answer]]]:
    """Each line with what the source has of it. Many UIDs are asked for at once; what does not come so, by itself,
    since not every source knows lists.
    """
    uids = {line.value for line in batch if line.keyword == "StudyInstanceUID" and not line.why}
    at_once: dict[str, list[Answer]] = {}
    if len(uids) > 1:
        tally.queries += 1
        listed = catalogue.studies({"StudyInstanceUID": "\\".join(sorted(uids))}, asked=asked)
        for answer in islice(listed, LISTS_IGNORED * len(uids)):
            at_once.setdefault(answer.get("StudyInstanceUID", ""), [answer])
    for line in batch:
        if line.why:
            yield line, []
        elif line.value in at_once:
            yield line, at_once[line.value]
        else:
            tally.queries += 1
            found = catalogue.studies({line.keyword: line.value}, asked=asked)
            # A source that does not know the key answers with everything.
            yield line, [each for each in found if each.get(line.keyword, "").strip() == line.value]


def _take(cohort: Cohort, answer: Answer, *, filters: Filters, tally: Tally) -> bool:
    """Whether a study is new in the cohort now. One whose series decide is parked: nothing else can be asked while
    answers come.
    """
    study = found_in(answer)
    if study is None:
        tally.left_out["no StudyInstanceUID"] += 1
    elif not cohort.has(study.study_instance_uid):
        tally.found += 1
        why, hangs_on_series = left_out_because(study, filters)
        if not why:
            return cohort.add(study)
        if hangs_on_series:
            cohort.park(study)
        else:
            cohort.leave_out(study)
            tally.left_out[why] += 1
    return False


def _decide(
    catalogue: Catalogue, cohort: Cohort, kept: int, *, filters: Filters, tally: Tally, progress: Progress
) -> None:
    """Ask for the series of the studies that were parked."""
    for study in cohort.parked():
        tally.queries += 1
        study = study.with_series(catalogue.series(study.study_instance_uid))
        why, _ = left_out_because(study, filters, only=IN_SERIES)
        if why:
            tally.left_out[why] += 1
        else:
            kept += cohort.add(study)
        progress(tally.found, kept)
