"""The index: a row for each study, in an SQLite file that is made again whenever it is missing, broken or another's.

It is the only place besides Orthanc where patients are named.
"""

import json
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import NullPool

from coread.errors import StudyListUnavailable
from coread.plugin.worklist.query import ARCHIVE_ONLY, ARCHIVE_SHOWN, NO_REVIEW, SORTS, Place, Query
from coread.plugin.worklist.rows import (
    PRIORITY_RANK,
    STATE_RANK,
    Facts,
    Progress,
    Row,
    folded,
    searched,
)

FORM = "2"
"""Of the tables. An index of another form is made again."""
BUSY_TIMEOUT_S = 10
MOST_NAMED = 500
"""Ids in one statement."""

_metadata = sa.MetaData()
META = sa.Table(
    "meta", _metadata, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String, nullable=False)
)


def _column(name: str, kind: type) -> sa.Column[Any]:
    return sa.Column(name, {bool: sa.Boolean, int: sa.Integer, str: sa.String}[kind](), nullable=False)


_FACTS: Mapping[str, type] = {name: each.type for name, each in Facts.__dataclass_fields__.items()}  # type: ignore[misc]
_PROGRESS: Mapping[str, type] = {name: each.type for name, each in Progress.__dataclass_fields__.items()}  # type: ignore[misc]
_DERIVED: Mapping[str, type] = {
    "patient_sort": str,
    "model_sort": str,
    "finding_sort": str,
    "state_rank": int,
    "priority_rank": int,
    "searched": str,
}
STUDY = sa.Table(
    "study",
    _metadata,
    sa.Column("orthanc_id", sa.String, primary_key=True),
    *(_column(name, kind) for name, kind in {**_FACTS, **_PROGRESS, **_DERIVED}.items() if name != "orthanc_id"),
)
for _name in SORTS.values():
    sa.Index(f"study_by_{_name}", STUDY.c[_name], STUDY.c.orthanc_id)
sa.Index("study_by_state", STUDY.c.state)


@dataclass(frozen=True, kw_only=True)
class Page:
    """An answer: the rows asked for, and how many there are in all."""

    rows: Sequence[Row]
    total: int
    counts: Mapping[str, int]
    """By state, as if no state had been asked for."""
    next: Place | None
    """Behind the last row; None if nothing is there."""
    revision: str


class Index:
    """The rows. Safe to share between threads; one of them writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._is_made = False
        self._engine = sa.create_engine(
            f"sqlite:///{path}", poolclass=NullPool, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S}
        )
        sa.event.listen(self._engine, "connect", _prepare)

    def prepare(self) -> None:
        """Make the file, or take up the one that is there; a broken one, or one of another form, is replaced. Until
        then nothing is answered: the list must never keep Orthanc from starting.
        """
        if self._is_made:
            return
        with _translated():
            try:
                self._make()
            except sa.exc.OperationalError:
                raise
            except sa.exc.DatabaseError:  # it holds nothing that is not known elsewhere
                self._remove_files()
                self._make()
        self._is_made = True

    def clear(self) -> None:
        """Begin anew, empty. The revision is another one, too."""
        with self._writing() as connection:
            connection.execute(sa.delete(STUDY))
            _begin_anew(connection)

    # Writing -----------------------------------------------------------------------------------------------------

    def notes(self) -> dict[str, str]:
        """What the follower has noted."""
        with self._reading() as connection:
            return {row.name: row.value for row in connection.execute(sa.select(META))}

    def note(self, **notes: str) -> None:
        """Note how far Orthanc and the ledger were followed."""
        with self._writing() as connection:
            _write_notes(connection, notes)

    def write(self, rows: Sequence[Row]) -> int:
        """Write the rows of studies that were not there, or have changed; how many these are."""
        known = self.rows([row.facts.orthanc_id for row in rows])
        changed = [row for row in rows if known.get(row.facts.orthanc_id) != row]
        if changed:
            with self._writing() as connection:
                statement = insert(STUDY)
                others = {column.name: statement.excluded[column.name] for column in STUDY.c}
                statement = statement.on_conflict_do_update(index_elements=["orthanc_id"], set_=others)
                connection.execute(statement, [_values(row) for row in changed])
                _count_up(connection)
        return len(changed)

    def remove(self, orthanc_ids: Sequence[str]) -> None:
        """Take out the rows of studies that are gone."""
        with self._writing() as connection:
            gone = 0
            for some in _in_parts(orthanc_ids):
                gone += connection.execute(sa.delete(STUDY).where(STUDY.c.orthanc_id.in_(some))).rowcount
            if gone:
                _count_up(connection)

    # Looking -----------------------------------------------------------------------------------------------------

    def rows(self, orthanc_ids: Sequence[str]) -> dict[str, Row]:
        """The rows of these studies, of those that are there."""
        found: dict[str, Row] = {}
        with self._reading() as connection:
            for some in _in_parts(orthanc_ids):
                query = sa.select(STUDY).where(STUDY.c.orthanc_id.in_(some))
                found |= {row["orthanc_id"]: _row_of(row) for row in connection.execute(query).mappings()}
        return found

    def ids(self, *, states: Collection[str] = ()) -> set[str]:
        """Orthanc ids of the studies that have a row; of those in ``states``, if these are given."""
        query = sa.select(STUDY.c.orthanc_id)
        with self._reading() as connection:
            return set(connection.scalars(query.where(STUDY.c.state.in_(states)) if states else query))

    def revision(self) -> str:
        """Another text whenever a row has changed."""
        with self._reading() as connection:
            return _revision(connection)

    def page(self, query: Query) -> Page:
        """What is asked for."""
        column = STUDY.c[SORTS[query.sort]]
        place = sa.tuple_(column, STUDY.c.orthanc_id)
        filters = _filters(query)
        wanted = sa.select(STUDY).where(*filters, *_of_states(query))
        if query.after is not None:
            after = sa.tuple_(*map(sa.literal, query.after))
            wanted = wanted.where(place < after if query.descending else place > after)
        if query.through is not None:
            through = sa.tuple_(*map(sa.literal, query.through))
            wanted = wanted.where(place >= through if query.descending else place <= through)
        order = (column.desc(), STUDY.c.orthanc_id.desc()) if query.descending else (column, STUDY.c.orthanc_id)
        by_state = sa.select(STUDY.c.state, sa.func.count()).where(*filters).group_by(STUDY.c.state)
        with self._reading() as connection:
            found = connection.execute(wanted.order_by(*order).limit(query.limit + 1)).mappings().all()
            counts: dict[str, int] = {row[0]: row[1] for row in connection.execute(by_state)}
            revision = _revision(connection)
        shown = found[: query.limit]
        last = shown[-1] if len(found) > query.limit else None
        return Page(
            rows=[_row_of(row) for row in shown],
            total=sum(count for state, count in counts.items() if not query.states or state in query.states),
            counts=counts,
            next=None if last is None else (last[column.name], last["orthanc_id"]),
            revision=revision,
        )

    def choices(self) -> dict[str, list[str]]:
        """Which models and modalities occur, for those who choose among them."""
        with self._reading() as connection:
            models = connection.scalars(sa.select(STUDY.c.model_sort).distinct())
            modalities = connection.scalars(sa.select(STUDY.c.modalities).distinct())
            return {
                "models": sorted({model for names in models for model in names.split("\n") if model}),
                "modalities": sorted({each for said in modalities for each in said.split("\\") if each}),
            }

    # The file ----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        self._path.chmod(0o600)  # one that was copied here may have other rights
        with self._engine.begin() as connection:
            if connection.exec_driver_sql("PRAGMA quick_check").scalar() != "ok":
                raise sa.exc.DatabaseError("PRAGMA quick_check", None, ValueError("the file is broken"))
            _metadata.create_all(connection)
            form = connection.scalar(sa.select(META.c.value).where(META.c.name == "form"))
            if form != FORM:
                _metadata.drop_all(connection)
                _metadata.create_all(connection)
                _begin_anew(connection)

    def _remove_files(self) -> None:
        for ending in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._lock, _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        if not self._is_made:
            raise StudyListUnavailable("the worklist's index is not made yet; ask again in a moment")
        with _translated(), self._engine.connect() as connection:
            yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sa.exc.DatabaseError, OSError) as error:
        cause = error.orig if isinstance(error, sa.exc.DatabaseError) else error.strerror
        raise StudyListUnavailable(
            f"the worklist's index does not answer: {cause}; is there room on the data folder's disk? It is made anew "
            "if it is deleted while Orthanc is stopped"
        ) from error


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # what a power cut takes is followed again


def _filters(query: Query) -> list[sa.ColumnElement[bool]]:
    """All but the state."""
    filters: list[sa.ColumnElement[bool]] = [sa.func.instr(STUDY.c.searched, term) > 0 for term in query.terms]
    if query.models:
        listed = sa.literal("\n") + STUDY.c.model_sort + "\n"
        filters.append(sa.or_(*(sa.func.instr(listed, f"\n{model}\n") > 0 for model in query.models)))
    if query.modalities:
        listed = sa.literal("\\") + STUDY.c.modalities + "\\"
        filters.append(sa.or_(*(sa.func.instr(listed, f"\\{each}\\") > 0 for each in query.modalities)))
    if query.priorities:
        filters.append(STUDY.c.priority.in_(query.priorities))
    if query.reviews:
        filters.append(STUDY.c.review.in_(["" if each == NO_REVIEW else each for each in query.reviews]))
    if query.raised:
        filters.append(STUDY.c.raised)
    if query.archive != ARCHIVE_SHOWN:
        filters.append(STUDY.c.archive_run != "" if query.archive == ARCHIVE_ONLY else STUDY.c.archive_run == "")
    return filters


def _of_states(query: Query) -> list[sa.ColumnElement[bool]]:
    return [STUDY.c.state.in_(query.states)] if query.states else []


def _values(row: Row) -> dict[str, Any]:
    return {
        **vars(row.facts),
        **vars(row.progress),
        "patient_sort": folded(row.facts.patient_name),
        "model_sort": "\n".join(sorted({each["model"] for each in json.loads(row.progress.models)})),
        "finding_sort": folded(row.progress.key_finding),
        "state_rank": STATE_RANK[row.progress.state],
        "priority_rank": PRIORITY_RANK[row.progress.priority],
        "searched": searched(row.facts, row.progress),
    }


def _row_of(row: sa.RowMapping) -> Row:
    return Row(
        facts=Facts(**{name: row[name] for name in _FACTS}),
        progress=Progress(**{name: row[name] for name in _PROGRESS}),
    )


def _begin_anew(connection: sa.Connection) -> None:
    connection.execute(sa.delete(META))
    _write_notes(connection, {"form": FORM, "name": secrets.token_hex(4), "revision": "1"})


def _write_notes(connection: sa.Connection, notes: Mapping[str, str]) -> None:
    for name, value in notes.items():
        statement = insert(META).values(name=name, value=value)
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def _count_up(connection: sa.Connection) -> None:
    number = sa.cast(sa.cast(META.c.value, sa.Integer) + 1, sa.String)
    connection.execute(sa.update(META).where(META.c.name == "revision").values(value=number))


def _revision(connection: sa.Connection) -> str:
    rows = connection.execute(sa.select(META.c.name, META.c.value).where(META.c.name.in_(("name", "revision"))))
    notes = {row[0]: row[1] for row in rows}
    return f"{notes.get('name', '')}-{notes.get('revision', '')}"


def _in_parts(orthanc_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(orthanc_ids), MOST_NAMED):
        yield orthanc_ids[start : start + MOST_NAMED]
