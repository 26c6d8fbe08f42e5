"""The reviews: what persons said of results. Facts, only ever added: nothing that becomes of the job changes them.

Beside each stands where the object is that says it in DICOM (`review_writing`): asked, written, failed. A worker's
clerk takes what is asked for a limited time, as a worker takes a job, and looks at the objects that came back
(`returned_object`).
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Self

import sqlalchemy as sa

from coread.audit.event import AuditKind, printable
from coread.job import STANDING, Job, JobState
from coread.ledger.audit import audit_job
from coread.ledger.database import Database, require_this_form, upsert
from coread.ledger.deliveries import REJECTED, open_review_deliveries, reopen_rejected, withdraw_deliveries
from coread.ledger.raised import end_raises, note_finding
from coread.ledger.tables import ARRIVING, JOB, RETURNED, REVIEW, REVIEW_WRITING, job_of
from coread.review import (
    Basis,
    Review,
    ReviewSource,
    ReviewState,
    Verdict,
    counting,
    digest_of,
)

FACTS = tuple(column.name for column in REVIEW.columns if column.name != "number")


@dataclass(frozen=True, kw_only=True)
class ReviewTask:
    """A review whose object a clerk is to write."""

    review: Review
    attempts: int
    """With this one."""

    def as_json(self) -> dict[str, Any]:
        """The task as JSON's types."""
        return {"review": self.review.as_json(), "attempts": self.attempts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The task that ``as_json`` gave."""
        return cls(review=Review.from_json(values["review"]), attempts=values["attempts"])


@dataclass(frozen=True, kw_only=True)
class ReturnedObject:
    """An instance that came into the archive and may say something of a result, all ids being Orthanc's."""

    instance: str
    orthanc_id: str
    """Of its study."""
    attempts: int = 0

    def as_json(self) -> dict[str, Any]:
        """The object as JSON's types."""
        return asdict(self)


class Reviews(Database):
    """The part of the ledger that says what persons said of results."""

    # A person's --------------------------------------------------------------------------------------------------

    def review(
        self,
        job_id: str,
        *,
        verdict: Verdict,
        who: str = "",
        reader: str = "",
        reason: tuple[str, str, str] | None = None,
        comment: str = "",
        stops_delivery: bool = False,
        at: datetime,
    ) -> Review | None:
        """Record what a person said of a job's result, and that its object is to be written. None if the job is not
        done, or has left no object. Who says the same twice in succession, as with a double click, has said it once:
        then it is the review that is there.

        ``stops_delivery``: whether a rejection withdraws what is not delivered yet.
        """
        with self._transaction() as connection:
            row = _job_row(connection, job_id)
            if row is None or row["state"] != JobState.DONE or not (row["result"] or {}).get("sop_instance_uids"):
                return None
            review = Review(
                review_id=uuid.uuid4().hex,
                verdict=verdict,
                source=ReviewSource.PAGE,
                at=at,
                who=printable(who),
                reader=reader,
                reason=reason,
                comment=comment,
                stops_delivery=stops_delivery and verdict is Verdict.REJECTED,
                **_of_job(row),
            )
            latest = _reviews(connection, _of_one_job(job_id).limit(1))
            if latest and _says_the_same(latest[0], review):
                return latest[0]
            _record(connection, review, row)
            return review

    def reviews(
        self,
        *,
        job_ids: Collection[str] | None = None,
        study_instance_uid: str | None = None,
        model: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[Review]:
        """Reviews, the newest first; of these jobs, of one study, of one model, or not older than ``since``, if given.

        Which of a job's reviews counts says `coread.review.counting`.
        """
        query = _with_writing().order_by(REVIEW.c.number.desc()).limit(limit)
        if job_ids is not None:
            query = query.where(REVIEW.c.job_id.in_(job_ids))
        if study_instance_uid is not None:
            query = query.where(REVIEW.c.study_instance_uid == study_instance_uid)
        if model is not None:
            query = query.where(REVIEW.c.model == model)
        if since is not None:
            query = query.where(REVIEW.c.at >= since)
        with self._reading() as connection:
            return _reviews(connection, query)

    def reviews_of(self, job_ids: Iterable[str]) -> dict[str, list[Review]]:
        """All reviews of these jobs, each job's the newest first; a job that nobody has reviewed is not in it."""
        query = _with_writing().where(REVIEW.c.job_id.in_(list(job_ids))).order_by(REVIEW.c.number.desc())
        found: dict[str, list[Review]] = {}
        with self._reading() as connection:
            for review in _reviews(connection, query):
                found.setdefault(review.job_id, []).append(review)
        return found

    def find_review(self, review_id: str) -> Review | None:
        """One review, or None."""
        with self._reading() as connection:
            return _find(connection, review_id)

    def done_by_model(self) -> dict[tuple[str, str], int]:
        """(model, version) → how many of its jobs are done, reviewed or not."""
        query = (
            sa.select(JOB.c.model, JOB.c.model_version, sa.func.count())
            .where(JOB.c.state == JobState.DONE)
            .group_by(JOB.c.model, JOB.c.model_version)
        )
        with self._reading() as connection:
            return {(model, version): number for model, version, number in connection.execute(query)}

    # A clerk's: writing ------------------------------------------------------------------------------------------

    def claim_review(self, *, clerk: str, at: datetime, lease: timedelta) -> ReviewTask | None:
        """Take the oldest review whose object is due to be written; None if there is none."""
        query = (
            sa.select(REVIEW_WRITING)
            .join(REVIEW, REVIEW.c.review_id == REVIEW_WRITING.c.review_id)
            .where(REVIEW_WRITING.c.state == ReviewState.ASKED, *_is_due(REVIEW_WRITING, at))
            .order_by(REVIEW.c.number)
            .limit(1)
        )
        if self._finds_none(query):
            return None
        with self._transaction() as connection:
            require_this_form(connection)
            row = connection.execute(query.with_for_update(of=REVIEW_WRITING, skip_locked=True)).mappings().first()
            if row is None:
                return None
            attempts = row["attempts"] + 1
            taken = {"clerk": clerk, "lease_until": at + lease, "attempts": attempts}
            key = REVIEW_WRITING.c.review_id == row["review_id"]
            connection.execute(sa.update(REVIEW_WRITING).where(key).values(taken))
            review = _find(connection, row["review_id"])
            return None if review is None else ReviewTask(review=review, attempts=attempts)

    def renew_review(self, review_id: str, *, clerk: str, at: datetime, lease: timedelta) -> bool:
        """Prolong the clerk's lease; False if the review is no longer this clerk's."""
        return self._change_writing(review_id, clerk, {"lease_until": at + lease})

    def begin_review(self, review_id: str, *, clerk: str, objects: Sequence[tuple[str, str]]) -> bool:
        """Record the objects, (SOP Class UID, SOP Instance UID) of each, that are about to be stored, so that nobody
        takes them for what came back. False if the review is no longer this clerk's, or the result no longer says what
        was reviewed: then nothing is stored.
        """
        with self._transaction() as connection:
            review = _find(connection, review_id)
            if review is None or not review.of_this_result:
                return False
            return _change_writing(connection, review_id, clerk, {"objects": [list(pair) for pair in objects]})

    def put_off_review(
        self,
        review_id: str,
        *,
        clerk: str,
        reason: str,
        at: datetime,  # noqa: ARG002  # what another machine's clerk asks for counts from the plugin's clock
        not_before: datetime,
    ) -> bool:
        """Let the writing wait until ``not_before``; False if the review is no longer this clerk's."""
        values = {"failure": reason, "not_before": not_before, "clerk": None, "lease_until": None}
        return self._change_writing(review_id, clerk, values)

    def finish_review(self, review_id: str, state: ReviewState, *, clerk: str, reason: str = "", at: datetime) -> bool:
        """Record that the objects are in the archive, and open their deliveries; or that they cannot be written, and
        why. False if the review is no longer this clerk's.
        """
        with self._transaction() as connection:
            values: dict[str, Any] = {"state": state, "failure": reason, "clerk": None, "lease_until": None}
            if state is ReviewState.WRITTEN:
                values["written_at"] = at
            if not _change_writing(connection, review_id, clerk, values):
                return False
            review = _find(connection, review_id)
            row = None if review is None else _job_row(connection, review.job_id)
            if review is None or row is None:
                return True
            is_written = state is ReviewState.WRITTEN
            audit_job(
                connection,
                AuditKind.REVIEW_WRITTEN if is_written else AuditKind.REVIEW_FAILED,
                job_of(row),
                who=clerk,
                at=at,
                verdict=review.verdict,
                review_id=review_id,
                reason=reason,
                instances=[list(pair) for pair in review.objects],
            )
            if is_written:
                objects = {uid: sop_class_uid for sop_class_uid, uid in review.objects}
                open_review_deliveries(connection, job_of(row), review_id, objects, at=at)
            return True

    def _change_writing(self, review_id: str, clerk: str, values: Mapping[str, Any]) -> bool:
        with self._transaction() as connection:
            return _change_writing(connection, review_id, clerk, values)

    # What came back ----------------------------------------------------------------------------------------------

    def note_returned(self, objects: Collection[tuple[str, str, str]], *, at: datetime) -> int:
        """Note instances that may say something of results: (instance, study, SOP Instance UID), the first two being
        Orthanc's ids. How many are to be looked at: not our own objects, nor those of studies that were never read.
        """
        if not objects:
            return 0
        studies = {study for _, study, _ in objects}
        with self._transaction() as connection:
            ours: dict[str, set[str]] = {}
            results = sa.select(JOB.c.orthanc_id, JOB.c.result).where(JOB.c.orthanc_id.in_(studies))
            for study, result in connection.execute(results):
                ours.setdefault(study, set()).update((result or {}).get("sop_instance_uids", ()))
            written = (
                sa.select(REVIEW.c.orthanc_id, REVIEW_WRITING.c.objects)
                .join(REVIEW_WRITING, REVIEW_WRITING.c.review_id == REVIEW.c.review_id)
                .where(REVIEW.c.orthanc_id.in_(studies))
            )
            for study, pairs in connection.execute(written):
                ours.setdefault(study, set()).update(uid for _, uid in pairs)
            noted = [each for each in objects if each[1] in ours and each[2] not in ours[each[1]]]
            for instance, study, _ in noted:
                fresh = {"orthanc_id": study, "attempts": 0, "clerk": None, "not_before": at, "lease_until": None}
                upsert(connection, RETURNED, {"instance": instance}, {}, new=fresh)
            return len(noted)

    def claim_returned(self, *, clerk: str, at: datetime, lease: timedelta) -> ReturnedObject | None:
        """Take an instance that came back and is to be looked at; None if there is none.

        While images of its study arrive, it waits: after a restored backup it may be the result of a job that is yet to
        be recorded anew.
        """
        arriving = sa.select(ARRIVING.c.orthanc_id).where(~ARRIVING.c.stalled)
        query = (
            sa.select(RETURNED)
            .where(*_is_due(RETURNED, at), RETURNED.c.orthanc_id.not_in(arriving))
            .order_by(RETURNED.c.not_before, RETURNED.c.instance)
            .limit(1)
        )
        if self._finds_none(query):
            return None
        with self._transaction() as connection:
            require_this_form(connection)
            row = connection.execute(query.with_for_update(skip_locked=True)).mappings().first()
            if row is None:
                return None
            attempts = row["attempts"] + 1
            taken = {"clerk": clerk, "lease_until": at + lease, "attempts": attempts}
            connection.execute(sa.update(RETURNED).where(RETURNED.c.instance == row["instance"]).values(taken))
            return ReturnedObject(instance=row["instance"], orthanc_id=row["orthanc_id"], attempts=attempts)

    def put_off_returned(self, instance: str, *, clerk: str, at: datetime, not_before: datetime) -> bool:  # noqa: ARG002
        """Look at it again later; False if it is no longer this clerk's."""
        with self._transaction() as connection:
            values = {"not_before": not_before, "clerk": None, "lease_until": None}
            held = (RETURNED.c.instance == instance, RETURNED.c.clerk == clerk)
            return bool(connection.execute(sa.update(RETURNED).where(*held).values(values)).rowcount)

    def settle_returned(self, instance: str, reviews: Sequence[Review], *, clerk: str, at: datetime) -> bool:
        """Record what an instance that came back says, which may be nothing; False if it is no longer this clerk's.

        What it says of a job's result is recorded once, however often it comes; each job's in a transaction of its own,
        for whoever locks several jobs may wait for another who does.
        """
        held = (RETURNED.c.instance == instance, RETURNED.c.clerk == clerk)
        for review in reviews:
            with self._transaction() as connection:
                if connection.scalar(sa.select(RETURNED.c.instance).where(*held)) is None:
                    return False
                row = _job_row(connection, review.job_id)
                if row is not None and _find(connection, review.review_id) is None:
                    _record(connection, review.written(at=at), row)
        with self._transaction() as connection:
            return bool(connection.execute(sa.delete(RETURNED).where(*held)).rowcount)

    def _finds_none(self, query: sa.Select[Any]) -> bool:
        """Looking first costs nobody a write lock: a clerk asks all the time, and there is seldom something to do."""
        with self._reading() as connection:
            return connection.execute(query).first() is None


def hold_back_rejected(connection: sa.Connection, job: Job, *, at: datetime) -> bool:
    """A job is done again: whether a person has rejected this very result. If so, it stays undelivered."""
    found = counting(_reviews(connection, _of_one_job(job.job_id)))
    if found is None or found.verdict is not Verdict.REJECTED or not found.of_this_result:
        return False
    if found.stops_delivery:
        withdraw_deliveries(connection, job.job_id, reason=_rejected(found), at=at)
    return True


def _record(connection: sa.Connection, review: Review, row: sa.RowMapping) -> None:
    """Write a review down, with what follows from it for the deliveries of the job's results. ``row``: of the job."""
    before = counting(_reviews(connection, _of_one_job(review.job_id)))
    facts = {name: getattr(review, name) for name in FACTS}
    lists = {
        "reason": None if review.reason is None else list(review.reason),
        "results": [list(pair) for pair in review.results],
        "comparison": dict(review.comparison),
    }
    connection.execute(sa.insert(REVIEW).values({**facts, **lists}))
    connection.execute(
        sa.insert(REVIEW_WRITING).values(
            review_id=review.review_id,
            state=review.state,
            failure="",
            objects=[],
            attempts=0,
            not_before=review.at,
            written_at=review.written_at,
        )
    )
    audit_job(
        connection,
        AuditKind.REVIEWED,
        job_of(row),
        who=review.who,
        at=review.at,
        verdict=review.verdict,
        source=review.source,
        review_id=review.review_id,
        reason=review.reason[2] if review.reason else "",
        object=review.object_uid or "",
        basis=review.basis or "",
        instances=[list(pair) for pair in review.results],
    )
    if review.verdict is Verdict.REJECTED:
        end_raises(connection, review.job_id, because=_rejected(review), at=review.at)
        if review.stops_delivery:
            withdraw_deliveries(connection, review.job_id, reason=_rejected(review), at=review.at)
    elif review.verdict is Verdict.ACCEPTED and row["state"] in STANDING:
        reopen_rejected(connection, review.job_id, at=review.at)
        if before is not None and before.verdict is Verdict.REJECTED and row["state"] == JobState.DONE:
            note_finding(connection, review.job_id, at=review.at)  # what the rejection ended, or kept from beginning


def _rejected(review: Review) -> str:
    return f"{REJECTED}: {review.reason[2]}" if review.reason else REJECTED


def _of_job(row: sa.RowMapping) -> dict[str, Any]:
    """What a review says of the job that it is of."""
    result = row["result"] or {}
    uids = result.get("sop_instance_uids", ())
    classes = result.get("sop_class_uids") or [""] * len(uids)
    return {
        **{name: row[name] for name in ("job_id", "study_instance_uid", "orthanc_id", "model", "model_version")},
        "result_digest": digest_of(result),
        "results": tuple(zip(classes, uids, strict=True)),
    }


def _job_row(connection: sa.Connection, job_id: str) -> sa.RowMapping | None:
    query = sa.select(JOB).where(JOB.c.job_id == job_id).with_for_update()
    return connection.execute(query).mappings().one_or_none()


def _is_due(table: sa.Table, at: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    is_free = sa.or_(table.c.lease_until.is_(None), table.c.lease_until < at)
    return table.c.not_before <= at, is_free


def _change_writing(connection: sa.Connection, review_id: str, clerk: str, values: Mapping[str, Any]) -> bool:
    held = (
        REVIEW_WRITING.c.review_id == review_id,
        REVIEW_WRITING.c.clerk == clerk,
        REVIEW_WRITING.c.state == ReviewState.ASKED,
    )
    return bool(connection.execute(sa.update(REVIEW_WRITING).where(*held).values(dict(values))).rowcount)


def _with_writing() -> sa.Select[Any]:
    """Reviews with where their objects stand, and with what their job's result says now."""
    writing = [REVIEW_WRITING.c[name] for name in ("state", "failure", "objects", "written_at")]
    return (
        sa.select(REVIEW, *writing, JOB.c.result.label("result"), JOB.c.state.label("job_state"))
        .join(REVIEW_WRITING, REVIEW_WRITING.c.review_id == REVIEW.c.review_id)
        .outerjoin(JOB, JOB.c.job_id == REVIEW.c.job_id)
    )


def _of_one_job(job_id: str) -> sa.Select[Any]:
    """A job's reviews, the newest first."""
    return _with_writing().where(REVIEW.c.job_id == job_id).order_by(REVIEW.c.number.desc())


def _says_the_same(one: Review, other: Review) -> bool:
    if one.state is ReviewState.FAILED:
        return False  # to say it again is a way to have it written
    names = ("source", "verdict", "reason", "comment", "who", "reader", "result_digest")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _find(connection: sa.Connection, review_id: str) -> Review | None:
    found = _reviews(connection, _with_writing().where(REVIEW.c.review_id == review_id))
    return found[0] if found else None


def _reviews(connection: sa.Connection, query: sa.Select[Any]) -> list[Review]:
    return [_review_of(row) for row in connection.execute(query).mappings()]


def _review_of(row: sa.RowMapping) -> Review:
    result = row["result"]
    stands = row["job_state"] in STANDING and result is not None
    return Review(
        **{
            **{name: row[name] for name in FACTS},
            "verdict": Verdict(row["verdict"]),
            "source": ReviewSource(row["source"]),
            "basis": None if row["basis"] is None else Basis(row["basis"]),
            "reason": None if row["reason"] is None else (row["reason"][0], row["reason"][1], row["reason"][2]),
            "results": tuple((one, other) for one, other in row["results"]),
            "state": ReviewState(row["state"]),
            "failure": row["failure"],
            "objects": tuple((one, other) for one, other in row["objects"]),
            "written_at": row["written_at"],
            "of_this_result": stands and digest_of(result) == row["result_digest"],
        }
    )
