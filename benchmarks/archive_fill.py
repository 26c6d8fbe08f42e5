"""A ledger with a cohort of a size, most of which has been read."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from coread.benchmarks.archive_world import START, job_of, uid_of

FILLED_AT_ONCE = 20_000
"""Studies in one transaction."""


@contextlib.contextmanager
def place_of(url: sa.URL, folder: Path) -> Iterator[str]:
    """A file, or a schema in a database that there is."""
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{folder / 'ledger.sqlite'}"
        return
    name, engine = f"coread_sim_{uuid.uuid4().hex[:8]}", sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema(name))
        yield url.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))
    finally:
        engine.dispose()


def fill(place: str, done: int) -> None:
    """Have the first studies of the cohort stand as done, with a job each; rows as those of the study that was."""
    engine = sa.create_engine(place)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    try:
        for begin in range(0, done, FILLED_AT_ONCE):
            with engine.begin() as connection:
                _fill_some(connection, metadata, begin, min(begin + FILLED_AT_ONCE, done))
        if engine.dialect.name == "postgresql":  # as its autovacuum would soon; nobody ever says it to SQLite
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text("ANALYZE"))
    finally:
        engine.dispose()


def _fill_some(connection: sa.Connection, metadata: sa.MetaData, begin: int, end: int) -> None:
    table = metadata.tables
    numbers = sa.select(sa.literal(begin, sa.Integer).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < end - 1))
    number = sa.cast(numbers.c.n + 10**12, sa.String)  # as `uid_of` writes it, with its leading 1
    uid = sa.literal("2.25.") + number
    own = {
        "study_instance_uid": uid,
        "orthanc_id": sa.literal("study 2.25.") + number,
        "job_id": sa.literal("filled-") + number,
        "fingerprint": sa.literal("filled-fingerprint-of-a-study-that-was-read-before-") + number,
        "revision": sa.literal("filled-revision-of-a-study-that-was-read-before-") + number,
        "run_id": sa.literal("cohort"),
        "position": numbers.c.n,
    }
    numbered = {"job_event": "event_id", "audit_event": "audit_id"}
    for name in ("job", "job_event", "run_job", "audit_event"):
        columns = [column for column in table[name].columns if column.name != numbered.get(name)]
        template = table[name].alias("template")
        first = sa.literal(job_of(uid_of("first", 0), at=START).job_id)
        study = (
            template.c.study_instance_uid == uid_of("first", 0) if name == "audit_event" else template.c.job_id == first
        )
        values = [
            sa.case((template.c[column.name].is_(None), None), else_=own[column.name])
            if column.name in own
            else template.c[column.name]
            for column in columns
        ]
        rows = sa.select(*values).select_from(sa.join(numbers, template, sa.true())).where(study)
        connection.execute(sa.insert(table[name]).from_select([column.name for column in columns], rows))
    studies, runs = table["run_study"], table["archive_run"]
    first_study = connection.execute(sa.select(studies).where(studies.c.run_id == "first")).mappings().one()
    same = ("state", "attempts", "copy", "brought", "instances", "bytes", "changed_at", "is_permanent", "is_retry")
    of_these = (studies.c.run_id == "cohort", studies.c.position >= begin, studies.c.position < end)
    orthanc_id = sa.literal("study ") + studies.c.study_instance_uid
    ended = {**{name: first_study[name] for name in same}, "orthanc_id": orthanc_id}
    connection.execute(sa.update(studies).where(*of_these).values(ended))
    counted = {"due": runs.c.due - (end - begin), "done": runs.c.done + (end - begin)}
    connection.execute(sa.update(runs).where(runs.c.run_id == "cohort").values(counted))
