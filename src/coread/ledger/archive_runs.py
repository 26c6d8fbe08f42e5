"""Archive runs: which studies are to be read, how far each is, and who carries the run out.

A run may have a million studies. So what is counted stands beside the run and is changed with each study's state, in
the same transaction; nothing here looks at all of a run's studies at once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa

from coread.archive_run import IN_FLIGHT, Copy, Run, RunState, RunStudy, RunStudyState, Terms
from coread.audit.event import AuditKind
from coread.delivery import DeliveryState
from coread.errors import ConfigurationError
from coread.job import STANDING, JobState
from coread.ledger.arrivals import FOR_RUN
from coread.ledger.audit import write_audit
from coread.ledger.database import Database, require_this_form, upsert
from coread.ledger.jobs import JobRecord, record_of
from coread.ledger.run_links import count, end_if_over, linked_jobs, move_study, share_copies
from coread.ledger.tables import ARCHIVE_RUN, ARCHIVIST, ARRIVING, DELIVERY, JOB, RUN_JOB, RUN_STUDY

AT_ONCE = 1000
"""Studies that are written, or changed, in one transaction: a few hundredths of a second."""

Row = sa.RowMapping | dict[str, Any]

UNDER_WAY = (DeliveryState.WAITING, DeliveryState.SENDING, DeliveryState.SENT)
FAILED_FOR_NOW = (DELIVERY.c.state == DeliveryState.FAILED, JOB.c.state.in_(STANDING))
"""A delivery that a person may retry."""
KEPT_FOR_RETRY = "the copy is kept until a person has it retried or withdrawn"
HAS_COME = RUN_STUDY.c.copy.in_((Copy.OURS, Copy.SHARED))
"""Of a study that is due: it was begun, and something of it may be in our Orthanc."""
HAS_ENDED = (JobState.DONE, JobState.FAILED, JobState.REFUSED, JobState.CANCELLED)
"""States of a job that ends a study of a run. Of one that is superseded, another takes the place."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """That a run has a study, as the intake must know it."""

    run_id: str
    position: int
    state: RunStudyState
    terms: Terms
    copy: Copy
    brought: str | None
    """`contents_of` what the run has brought, once it is whole."""
    is_retry: bool
    is_attended: bool
    """Whether an archivist is at the run: what it retrieves will come to an end."""
    has_standing_jobs: bool
    """Whether it follows jobs, none of which is superseded."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many studies may be begun, as the ledger counts them."""

    in_flight: int
    associations: int
    interval: timedelta = timedelta(0)
    """Between one beginning and the next."""


class ArchiveRuns(Database):
    """The part of the ledger that knows the archive runs."""

    # By a person's hand ------------------------------------------------------------------------------------------

    def start_run(
        self,
        run_id: str,
        *,
        name: str,
        terms: Terms,
        plan_digest: str,
        studies: Iterable[tuple[str, int | None]],
        by: str,
        at: datetime,
    ) -> None:
        """Record a run of ``studies`` (StudyInstanceUID and how many instances the source states), in their order.

        Nothing of it is begun before all are recorded. The same again goes on where it was interrupted, and changes
        nothing of a run that is recorded. Raises ConfigurationError if there is another plan's run with this id.
        """
        with self._transaction() as connection:
            new = {
                "name": name,
                "state": RunState.LOADING,
                "reason": "",
                "waits_for": "",
                "terms": terms.as_json(),
                "plan_digest": plan_digest,
                "created_at": at,
                "created_by": by,
                "studies": 0,
                **{state.value: 0 for state in RunStudyState},
            }
            upsert(connection, ARCHIVE_RUN, {"run_id": run_id}, {}, new=new)
            row = _row(connection, run_id)
        if row["plan_digest"] != plan_digest:
            raise ConfigurationError(f"run {run_id} is of another plan; name this run otherwise")
        if row["state"] != RunState.LOADING:
            return
        position = 0
        left = iter(studies)
        while some := list(islice(left, AT_ONCE)):
            self._load(run_id, position, some, at=at)
            position += len(some)
        with self._transaction() as connection:
            loading = (ARCHIVE_RUN.c.run_id == run_id, ARCHIVE_RUN.c.state == RunState.LOADING)
            started = sa.update(ARCHIVE_RUN).where(*loading).values(state=RunState.RUNNING)
            if connection.execute(started).rowcount:
                details = {"run_id": run_id, "name": name, "studies": position, "terms": terms.as_json()}
                write_audit(connection, AuditKind.RUN_STARTED, at=at, who=by, details=details)
                end_if_over(connection, run_id, at=at)

    def _load(self, run_id: str, position: int, some: Sequence[tuple[str, int | None]], *, at: datetime) -> None:
        with self._transaction() as connection:
            row = _row(connection, run_id, locked=True)
            new = list(enumerate(some, start=position))[max(0, row["studies"] - position) :]
            if row["state"] != RunState.LOADING or not new:
                return
            same = {"run_id": run_id, "state": RunStudyState.DUE, "reason": "", "copy": Copy.UNKNOWN, "changed_at": at}
            same |= {"is_permanent": False, "attempts": 0, "is_retry": False}
            rows = [
                {**same, "position": place, "study_instance_uid": uid, "stated_instances": stated}
                for place, (uid, stated) in new
            ]
            connection.execute(sa.insert(RUN_STUDY), rows)
            more = {"studies": ARCHIVE_RUN.c.studies + len(rows), "due": ARCHIVE_RUN.c.due + len(rows)}
            connection.execute(sa.update(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id).values(more))

    def pause_run(self, run_id: str, *, by: str, reason: str = "", at: datetime) -> bool:
        """Begin no study any more; False if the run does not run. What was begun is read to its end."""
        values = {"state": RunState.PAUSED, "reason": reason, "waits_for": ""}
        return self._change(run_id, {RunState.RUNNING}, AuditKind.RUN_PAUSED, values, by=by, reason=reason, at=at)

    def resume_run(self, run_id: str, *, by: str, at: datetime) -> bool:
        """Begin studies again; False if the run is not paused."""
        values = {"state": RunState.RUNNING, "reason": "", "waits_for": ""}
        return self._change(run_id, {RunState.PAUSED}, AuditKind.RUN_RESUMED, values, by=by, at=at)

    def cancel_run(self, run_id: str, *, by: str, reason: str = "", at: datetime) -> bool:
        """End a run; False if it is over. What was begun is read to its end; the archivist withdraws the rest."""
        values = {"state": RunState.CANCELLED, "reason": reason, "waits_for": ""}
        of = {RunState.LOADING, RunState.RUNNING, RunState.PAUSED}
        return self._change(run_id, of, AuditKind.RUN_CANCELLED, values, by=by, reason=reason, at=at)

    def retry_run(self, run_id: str, *, refused: bool = False, by: str, at: datetime) -> int:
        """Have the studies that failed, and ``refused`` ones if asked for, retrieved and read again; how many. A run
        that was cancelled stays so.
        """
        states = [RunStudyState.FAILED, *([RunStudyState.REFUSED] if refused else [])]
        total = 0
        for state in states:
            while some := self._retry_some(run_id, state, at=at):
                total += some
        if total:
            with self._transaction() as connection:
                details = {"run_id": run_id, "studies": total, "refused": refused}
                write_audit(connection, AuditKind.RUN_RETRIED, at=at, who=by, details=details)
        return total

    def _retry_some(self, run_id: str, state: RunStudyState, *, at: datetime) -> int:
        with self._transaction() as connection:
            row = connection.execute(_locked(run_id)).mappings().one_or_none()
            if row is None or row["state"] not in (RunState.RUNNING, RunState.PAUSED, RunState.FINISHED):
                return 0
            of_state = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == state)
            query = sa.select(RUN_STUDY.c.position).where(*of_state).order_by(RUN_STUDY.c.position).limit(AT_ONCE)
            positions = list(connection.scalars(query.with_for_update()))
            if not positions:
                return 0
            again = {"state": RunStudyState.DUE, "attempts": 0, "is_retry": True, "is_permanent": False}
            these = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.position.in_(positions))
            connection.execute(
                sa.update(RUN_STUDY).where(*these).values(**again, reason="", not_before=None, changed_at=at)
            )
            count(connection, run_id, {state: -len(positions), RunStudyState.DUE: len(positions)}, at=at)
            if row["state"] == RunState.FINISHED:
                going = {"state": RunState.RUNNING, "ended_at": None}
                connection.execute(sa.update(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id).values(going))
            return len(positions)

    def change_pace(
        self,
        run_id: str,
        *,
        hours: str | None,
        studies_per_minute: float | None,
        associations: int,
        in_flight: int,
        by: str,
        at: datetime,
    ) -> bool:
        """Carry a run out at another pace from now on; False if there is no such run, or it is over."""
        with self._transaction() as connection:
            row = connection.execute(_locked(run_id)).mappings().one_or_none()
            if row is None or row["ended_at"] is not None:
                return False
            pace = {
                "hours": hours,
                "studies_per_minute": studies_per_minute,
                "associations": associations,
                "in_flight": in_flight,
            }
            terms = replace(Terms.from_json(row["terms"]), **pace)  # type: ignore[arg-type]
            changed = sa.update(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id)
            connection.execute(changed.values(terms=terms.as_json(), waits_for=""))
            write_audit(connection, AuditKind.RUN_CHANGED, at=at, who=by, details={"run_id": run_id, **pace})
            return True

    def _change(
        self,
        run_id: str,
        of: Collection[RunState],
        kind: AuditKind,
        values: Mapping[str, Any],
        *,
        by: str,
        reason: str = "",
        at: datetime,
    ) -> bool:
        with self._transaction() as connection:
            this = (ARCHIVE_RUN.c.run_id == run_id, ARCHIVE_RUN.c.state.in_(of))
            if not connection.execute(sa.update(ARCHIVE_RUN).where(*this).values(dict(values))).rowcount:
                return False
            write_audit(connection, kind, at=at, who=by, details={"run_id": run_id, "reason": reason})
            end_if_over(connection, run_id, at=at)
            return True

    # Looking -----------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        query = sa.select(ARCHIVE_RUN).order_by(ARCHIVE_RUN.c.created_at.desc(), ARCHIVE_RUN.c.run_id)
        with self._reading() as connection:
            return [_run_of(row) for row in connection.execute(query).mappings()]

    def run(self, run_id: str) -> Run | None:
        """One run, or None."""
        with self._reading() as connection:
            query = sa.select(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id)
            row = connection.execute(query).mappings().one_or_none()
            return None if row is None else _run_of(row)

    def run_studies(
        self, run_id: str, *, states: Collection[RunStudyState] | None = None, after: int = -1, limit: int = 100
    ) -> list[RunStudy]:
        """Studies of a run behind the position ``after``, in their order; in ``states``, if given."""
        of_run = sa.select(RUN_STUDY).where(RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.position > after)
        # A query for each state, which an index answers in order; one for all of them would look at every study.
        queries = [of_run] if states is None else [of_run.where(RUN_STUDY.c.state == state) for state in states]
        found: list[RunStudy] = []
        with self._reading() as connection:
            for query in queries:
                rows = connection.execute(query.order_by(RUN_STUDY.c.position).limit(limit)).mappings()
                found += map(_study_of, rows)
        return sorted(found, key=lambda study: study.position)[:limit]

    def run_study(self, run_id: str, position: int) -> RunStudy | None:
        """One study of a run, or None."""
        with self._reading() as connection:
            row = _study_row(connection, run_id, position)
            return None if row is None else _study_of(row)

    def run_jobs(self, run_id: str, *, after: int = -1, limit: int) -> list[tuple[int, str]]:
        """Positions behind ``after`` and the ids of the jobs that read the study, in the order of the positions.

        The jobs of one position are given together: there may be a few more than ``limit``.
        """
        of_run = sa.select(RUN_JOB.c.position, RUN_JOB.c.job_id).where(RUN_JOB.c.run_id == run_id)
        ordered = of_run.order_by(RUN_JOB.c.position, RUN_JOB.c.job_id)
        with self._reading() as connection:
            rows = connection.execute(ordered.where(RUN_JOB.c.position > after).limit(limit)).all()
            if len(rows) == limit:
                last = rows[-1].position
                more = ordered.where(RUN_JOB.c.position == last, RUN_JOB.c.job_id > rows[-1].job_id)
                rows = [*rows, *connection.execute(more).all()]
        return [(position, job_id) for position, job_id in rows]

    def ended_since(self, run_id: str, *, since: datetime, limit: int = 10_000) -> int:
        """How many studies of a run were done, refused or failed since then; ``limit`` at most."""
        total = 0
        with self._reading() as connection:
            for state in (RunStudyState.DONE, RunStudyState.REFUSED, RunStudyState.FAILED):
                of_state = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == state)
                these = sa.select(RUN_STUDY.c.position).where(*of_state, RUN_STUDY.c.changed_at >= since).limit(limit)
                total += connection.scalar(sa.select(sa.func.count()).select_from(these.subquery())) or 0
        return min(limit, total)

    def archivist_seen_at(self) -> datetime | None:
        """When an archivist last gave a sign of life; None if none ever did."""
        with self._reading() as connection:
            return connection.scalar(sa.select(ARCHIVIST.c.seen_at).order_by(ARCHIVIST.c.seen_at.desc()).limit(1))

    def brought_by_runs(self, studies: Mapping[str, str]) -> dict[str, str]:
        """Of ``studies`` (Orthanc id → StudyInstanceUID) those that a run alone has brought: Orthanc id → run."""
        query = sa.select(RUN_STUDY.c.study_instance_uid, RUN_STUDY.c.run_id).where(
            RUN_STUDY.c.study_instance_uid.in_(set(studies.values())), RUN_STUDY.c.copy == Copy.OURS
        )
        with self._reading() as connection:
            runs = {row[0]: row[1] for row in connection.execute(query)}
        return {orthanc_id: runs[uid] for orthanc_id, uid in studies.items() if uid in runs}

    def has_runs(self) -> bool:
        """Whether there ever was a run."""
        with self._reading() as connection:
            return connection.scalar(sa.select(ARCHIVE_RUN.c.run_id).limit(1)) is not None

    # For the intake ----------------------------------------------------------------------------------------------

    def wanted_by_runs(self, study_instance_uid: str, *, at: datetime) -> list[Wanted]:
        """What runs have to do with a study: those that are to read it, are at it, or have left a copy of it."""
        matters = sa.or_(
            RUN_STUDY.c.state.in_((*IN_FLIGHT, RunStudyState.DUE)), RUN_STUDY.c.copy.in_((Copy.OURS, Copy.SHARED))
        )
        columns = (ARCHIVE_RUN.c.terms, ARCHIVE_RUN.c.lease_until)
        query = (
            sa.select(RUN_STUDY, *columns)
            .join(ARCHIVE_RUN, ARCHIVE_RUN.c.run_id == RUN_STUDY.c.run_id)
            .where(RUN_STUDY.c.study_instance_uid == study_instance_uid, matters)
            .order_by(ARCHIVE_RUN.c.created_at, RUN_STUDY.c.run_id, RUN_STUDY.c.position)
        )
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
            return [
                Wanted(
                    run_id=row["run_id"],
                    position=row["position"],
                    state=RunStudyState(row["state"]),
                    terms=Terms.from_json(row["terms"]),
                    copy=Copy(row["copy"]),
                    brought=row["brought"],
                    is_retry=row["is_retry"],
                    is_attended=row["lease_until"] is not None and row["lease_until"] > at,
                    has_standing_jobs=_has_standing_jobs(connection, row["run_id"], row["position"]),
                )
                for row in rows
            ]

    def share_copies(self, study_instance_uid: str) -> None:
        """Record that somebody else has sent of a study, or wants it, too: what runs have brought of it stays."""
        with self._transaction() as connection:
            share_copies(connection, study_instance_uid)

    def leave_copies(self, study_instance_uid: str, orthanc_ids: Collection[str], *, at: datetime) -> None:
        """Record the same, and have what there is of the study settled as ever, whoever has looked at it before."""
        with self._transaction() as connection:
            share_copies(connection, study_instance_uid)
            for orthanc_id in orthanc_ids:
                _have_settled(connection, orthanc_id, copy=Copy.SHARED, at=at)

    # For the archivist -------------------------------------------------------------------------------------------

    def has_open_runs(self) -> bool:
        """Whether there is a run that is not over."""
        is_open = (ARCHIVE_RUN.c.ended_at.is_(None), ARCHIVE_RUN.c.state != RunState.LOADING)
        with self._reading() as connection:
            return connection.scalar(sa.select(ARCHIVE_RUN.c.run_id).where(*is_open).limit(1)) is not None

    def attend_runs(self, *, archivist: str, at: datetime, lease: timedelta) -> list[Run]:
        """The runs that are not over and that no other archivist attends: this one does, until ``lease`` from now."""
        with self._transaction() as connection:
            require_this_form(connection)
            upsert(connection, ARCHIVIST, {"archivist": archivist}, {"seen_at": at})
            mine_or_free = sa.or_(
                ARCHIVE_RUN.c.archivist == archivist,
                ARCHIVE_RUN.c.lease_until.is_(None),
                ARCHIVE_RUN.c.lease_until < at,
            )
            is_open = (ARCHIVE_RUN.c.ended_at.is_(None), ARCHIVE_RUN.c.state != RunState.LOADING)
            # In the order in which the intake locks them. None is skipped: a run would be let go because it moves on.
            ordered = (ARCHIVE_RUN.c.created_at, ARCHIVE_RUN.c.run_id)
            query = sa.select(ARCHIVE_RUN).where(*is_open, mine_or_free).order_by(*ordered)
            rows = connection.execute(query.with_for_update()).mappings().all()
            held = {"archivist": archivist, "lease_until": at + lease}
            these = ARCHIVE_RUN.c.run_id.in_([row["run_id"] for row in rows])
            connection.execute(sa.update(ARCHIVE_RUN).where(these).values(held))
            return [_run_of(row) for row in rows]

    def leave_runs(self, *, archivist: str) -> None:
        """Let another archivist attend what this one did."""
        with self._transaction() as connection:
            mine = sa.update(ARCHIVE_RUN).where(ARCHIVE_RUN.c.archivist == archivist)
            connection.execute(mine.values(archivist=None, lease_until=None))

    def note_waits(self, run_id: str, *, waits_for: str) -> None:
        """Record why no study of a run is begun just now; empty: it goes on."""
        with self._transaction() as connection:
            changed = (ARCHIVE_RUN.c.run_id == run_id, ARCHIVE_RUN.c.waits_for != waits_for)
            connection.execute(sa.update(ARCHIVE_RUN).where(*changed).values(waits_for=waits_for))

    def take_due(self, run_id: str, *, archivist: str, pace: Pace, at: datetime) -> RunStudy | None:
        """The next study of a run, which this archivist retrieves now; None if there is none, or not yet.

        One that is to be tried again goes before those that were never tried.
        """
        with self._transaction() as connection:
            row = connection.execute(_locked(run_id)).mappings().one_or_none()
            if row is None or row["archivist"] != archivist or not _has_room(row, pace, at=at):
                return None
            due = sa.select(RUN_STUDY).where(RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == RunStudyState.DUE)
            ordered = due.order_by(RUN_STUDY.c.not_before, RUN_STUDY.c.position).limit(1).with_for_update()
            for query in (ordered.where(RUN_STUDY.c.not_before <= at), ordered.where(RUN_STUDY.c.not_before.is_(None))):
                study = connection.execute(query).mappings().one_or_none()
                if study is not None:
                    break
            else:
                return None
            begun = sa.update(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id)
            connection.execute(begun.values(last_begun_at=at))
            values = {"attempts": study["attempts"] + 1}
            states = {RunStudyState.DUE}
            move_study(connection, run_id, study["position"], states, RunStudyState.RETRIEVING, at=at, **values)
            taken: dict[str, Any] = {**study, **values, "state": RunStudyState.RETRIEVING, "changed_at": at}
            return _study_of(taken)

    def orphans(self, run_id: str) -> list[RunStudy]:
        """The studies of a run that are being retrieved: by an archivist that died, for one that has just begun."""
        return self.run_studies(run_id, states=[RunStudyState.RETRIEVING], limit=AT_ONCE)

    def is_carried_elsewhere(self, study: RunStudy) -> bool:
        """Whether another run, or another place of this one, has brought the study and may remove it, or fetches it."""
        others = sa.select(RUN_STUDY.c.position).where(
            RUN_STUDY.c.study_instance_uid == study.study_instance_uid,
            RUN_STUDY.c.state.in_(IN_FLIGHT),
            RUN_STUDY.c.copy.in_((Copy.OURS, Copy.UNKNOWN)),
            sa.or_(RUN_STUDY.c.run_id != study.run_id, RUN_STUDY.c.position != study.position),
        )
        # Of two that were taken at once, neither would go first: the one that was taken before does.
        first = sa.tuple_(RUN_STUDY.c.changed_at, RUN_STUDY.c.run_id, RUN_STUDY.c.position)
        mine = sa.tuple_(sa.literal(study.changed_at, RUN_STUDY.c.changed_at.type), study.run_id, study.position)
        goes_first = sa.or_(RUN_STUDY.c.copy == Copy.OURS, first < mine)
        with self._reading() as connection:
            return connection.scalar(others.where(goes_first).limit(1)) is not None

    def note_copy(self, study: RunStudy, copy: Copy, *, orthanc_id: str | None = None) -> bool:
        """Record what is known of a study in our Orthanc, before anything is retrieved; False if that has ended."""
        with self._transaction() as connection:
            this = (*_this(study), RUN_STUDY.c.state == RunStudyState.RETRIEVING)
            values = {"copy": copy, "orthanc_id": orthanc_id, "brought": None}
            if copy is not Copy.OURS:
                _share_with(connection, study)
            return bool(connection.execute(sa.update(RUN_STUDY).where(*this).values(values)).rowcount)

    def note_here(
        self,
        study: RunStudy,
        *,
        copy: Copy,
        orthanc_id: str,
        instances: int,
        size: int | None,
        brought: str | None,
        source: str,
        at: datetime,
    ) -> bool:
        """Record that a study is whole in our Orthanc, and have the intake settle it. ``brought``: `contents_of` it, if
        the run has brought it; ``size``: bytes. False if the study is no longer being retrieved.
        """
        with self._transaction() as connection:
            if copy is not Copy.OURS:
                _share_with(connection, study)
            known = _study_row(connection, study.run_id, study.position)
            if known is not None and known["copy"] == Copy.SHARED:  # somebody else has sent of it meanwhile
                copy = Copy.SHARED
            values = {"orthanc_id": orthanc_id, "instances": instances, "bytes": size, "brought": brought}
            values |= {"copy": copy, "reason": ""}
            states = {RunStudyState.RETRIEVING}
            if not move_study(connection, study.run_id, study.position, states, RunStudyState.HERE, at=at, **values):
                return False
            _have_settled(connection, orthanc_id, copy=copy, at=at)
            if brought is not None:
                details = {"run_id": study.run_id, "source": source, "instances_retrieved": instances}
                _audit(connection, AuditKind.COPY_RETRIEVED, study, details, at=at)
            return True

    def put_off_study(
        self,
        study: RunStudy,
        *,
        reason: str,
        not_before: datetime | None,
        counts: bool,
        copy: Copy,
        at: datetime,
    ) -> bool:
        """Have a study retrieved again later; False if somebody else has it. ``counts``: this was an attempt;
        ``copy``: what has become of what came of it, unless it was found to be somebody else's, too.
        """
        values = {"reason": reason, "not_before": not_before, "attempts": study.attempts - (0 if counts else 1)}
        states = {RunStudyState.RETRIEVING}
        kept = sa.case((RUN_STUDY.c.copy == Copy.SHARED, Copy.SHARED), else_=copy)
        return self._move(study, states, RunStudyState.DUE, at=at, copy=kept, **values)

    def read_studies(self, run_id: str, *, limit: int, removes: bool = True) -> list[tuple[RunStudy, list[JobRecord]]]:
        """Studies whose jobs, and the deliveries of these, have ended, with the jobs; so many at most.

        ``removes``: whether the run removes what it has brought: then a delivery that failed has not ended, for without
        the copy it could not be retried.
        """
        with self._reading() as connection:
            reading = sa.select(RUN_STUDY).where(
                RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == RunStudyState.READING
            )
            jobs = sa.select(JOB.c.job_id).join(RUN_JOB, RUN_JOB.c.job_id == JOB.c.job_id)
            of_study = (RUN_JOB.c.run_id == RUN_STUDY.c.run_id, RUN_JOB.c.position == RUN_STUDY.c.position)
            is_open = sa.exists(jobs.where(*of_study, JOB.c.state.not_in(HAS_ENDED)))
            query = (
                reading.where(~is_open, ~_waits_for_delivery(removes=removes))
                .order_by(RUN_STUDY.c.position)
                .limit(limit)
            )
            studies = [_study_of(row) for row in connection.execute(query).mappings()]
            return _with_jobs(connection, run_id, studies)

    def collected_studies(self, run_id: str, *, limit: int) -> list[tuple[RunStudy, list[JobRecord]]]:
        """Studies whose findings are in the run's folder and whose copies may still be here, with their jobs; not those
        of which a delivery goes again.
        """
        of_state = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == RunStudyState.COLLECTED)
        query = sa.select(RUN_STUDY).where(*of_state, ~_waits_for_delivery(removes=True))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(RUN_STUDY.c.position).limit(limit)).mappings()
            return _with_jobs(connection, run_id, [_study_of(row) for row in rows])

    def is_delivered(self, study: RunStudy) -> bool:
        """Whether nothing of a study's results is to be sent any more: a person may have asked for it just now."""
        query = sa.select(RUN_STUDY.c.position).where(*_this(study), _waits_for_delivery(removes=True))
        with self._reading() as connection:
            return connection.scalar(query) is None

    def note_undelivered(self, run_id: str, *, removes: bool, limit: int) -> int:
        """Record of each study of which a delivery has failed, and which waits for it, what a person can do. How many
        studies wait for deliveries that have not ended, failed or not; so many are looked at, at most.
        """
        # Collected is one whose delivery a person has had retried at the last moment.
        states = (RunStudyState.READING, RunStudyState.COLLECTED)
        of_state = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state.in_(states))
        columns = (RUN_STUDY.c.position, RUN_STUDY.c.reason)
        with self._transaction() as connection:
            reading = connection.execute(sa.select(*columns).where(*of_state).limit(limit)).all()
            known = {row.position: row.reason for row in reading}
            waits = sa.select(RUN_STUDY.c.position).where(*of_state, _waits_for_delivery(removes=removes)).limit(limit)
            waiting = set(connection.scalars(waits))
            failed = _failed_deliveries(connection, run_id, waiting) if removes else {}
            for position in known:
                reason = f"{failed[position]}; {KEPT_FOR_RETRY}" if position in failed else ""
                if reason != known[position]:
                    this = (*of_state, RUN_STUDY.c.position == position)
                    connection.execute(sa.update(RUN_STUDY).where(*this).values(reason=reason))
            return len(waiting)

    def note_collected(self, study: RunStudy, *, at: datetime) -> bool:
        """Record that the run's folder has what was found; False if the study is not being read any more."""
        return self._move(study, {RunStudyState.READING}, RunStudyState.COLLECTED, at=at)

    def note_ended(
        self,
        study: RunStudy,
        state: RunStudyState,
        *,
        reason: str,
        is_permanent: bool,
        copy: Copy,
        removed: int | None = None,
        at: datetime,
    ) -> bool:
        """Record how a study has ended, and what has become of its copy, of which so many instances were removed; None:
        nothing was to be removed. False if the study has ended by now.
        """
        with self._transaction() as connection:
            values = {"reason": reason, "is_permanent": is_permanent, "is_retry": False, "copy": copy}
            states = IN_FLIGHT
            if not move_study(connection, study.run_id, study.position, states, state, at=at, **values):
                return False
            if copy is Copy.REMOVED and removed is not None:
                details = {"run_id": study.run_id, "instances_removed": removed}
                _audit(connection, AuditKind.COPY_REMOVED, study, details, at=at)
            return True

    def stuck_studies(self, run_id: str, *, before: datetime, limit: int) -> list[RunStudy]:
        """Studies for which nothing happens any more, since ``before``: the intake knows nothing of them, and they
        follow no job, or one that was superseded.
        """
        waits = sa.exists().where(ARRIVING.c.orthanc_id == RUN_STUDY.c.orthanc_id)
        jobs = sa.select(JOB.c.job_id).join(RUN_JOB, RUN_JOB.c.job_id == JOB.c.job_id)
        of_study = (RUN_JOB.c.run_id == RUN_STUDY.c.run_id, RUN_JOB.c.position == RUN_STUDY.c.position)
        fallen = sa.exists(jobs.where(*of_study, JOB.c.state == JobState.SUPERSEDED))
        query = sa.select(RUN_STUDY).where(
            RUN_STUDY.c.run_id == run_id,
            RUN_STUDY.c.changed_at < before,
            ~waits,
            sa.or_(
                RUN_STUDY.c.state == RunStudyState.HERE, sa.and_(RUN_STUDY.c.state == RunStudyState.READING, fallen)
            ),
        )
        # Named, so that the few in flight are looked at and not all that were changed before.
        in_flight = RUN_STUDY.c.state.in_((RunStudyState.HERE, RunStudyState.READING))
        with self._reading() as connection:
            rows = connection.execute(query.where(in_flight).limit(limit))
            return [_study_of(row) for row in rows.mappings()]

    def have_settled(self, study: RunStudy, *, at: datetime) -> None:
        """Have the intake look at a study of a run again."""
        with self._transaction() as connection:
            if study.orthanc_id is not None:
                _have_settled(connection, study.orthanc_id, copy=study.copy, at=at)

    def begin_again(self, study: RunStudy, *, reason: str, at: datetime) -> bool:
        """Retrieve a study again that is gone from our Orthanc before it was read."""
        values = {"reason": reason, "not_before": at, "copy": Copy.UNKNOWN, "brought": None, "orthanc_id": None}
        states = {RunStudyState.HERE, RunStudyState.READING}
        return self._move(study, states, RunStudyState.DUE, at=at, **values)

    def withdraw_due(self, run_id: str, *, at: datetime) -> int:
        """Withdraw some of the studies of a cancelled run of which nothing has come; how many."""
        with self._transaction() as connection:
            row = connection.execute(_locked(run_id)).mappings().one_or_none()
            if row is None or row["state"] != RunState.CANCELLED or not row["due"]:
                return 0
            due = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == RunStudyState.DUE, ~HAS_COME)
            query = sa.select(RUN_STUDY.c.position).where(*due).order_by(RUN_STUDY.c.position).limit(AT_ONCE)
            positions = list(connection.scalars(query.with_for_update()))
            these = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.position.in_(positions))
            ended = {"state": RunStudyState.CANCELLED, "changed_at": at}
            connection.execute(sa.update(RUN_STUDY).where(*these).values(ended))
            changes = {RunStudyState.DUE: -len(positions), RunStudyState.CANCELLED: len(positions)}
            count(connection, run_id, changes, at=at)
            return len(positions)

    def take_left(self, run_id: str, *, at: datetime) -> RunStudy | None:
        """A study of a cancelled run that was put back when something may have come of it; None if there is none, or
        not yet: the source may still be sending what is to be removed. It counts as being retrieved, so that no other
        run begins with it, until it is noted how it ended.
        """
        with self._transaction() as connection:
            row = connection.execute(_locked(run_id)).mappings().one_or_none()
            if row is None or row["state"] != RunState.CANCELLED or not row["due"]:
                return None
            of_run = (RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.state == RunStudyState.DUE, HAS_COME)
            is_kept = RUN_STUDY.c.copy == Copy.SHARED
            is_due = sa.or_(is_kept, RUN_STUDY.c.not_before.is_(None), RUN_STUDY.c.not_before <= at)
            query = sa.select(RUN_STUDY).where(*of_run, is_due).order_by(RUN_STUDY.c.position).limit(1)
            study = connection.execute(query.with_for_update()).mappings().one_or_none()
            if study is None:
                return None
            states = {RunStudyState.DUE}
            move_study(connection, run_id, study["position"], states, RunStudyState.RETRIEVING, at=at)
            return _study_of({**study, "state": RunStudyState.RETRIEVING, "changed_at": at})

    def is_under_way_elsewhere(self, study: RunStudy) -> bool:
        """Whether another run, or another place of this one, is at the study, whosever what is here of it may be."""
        others = sa.select(RUN_STUDY.c.position).where(
            RUN_STUDY.c.study_instance_uid == study.study_instance_uid,
            RUN_STUDY.c.state.in_(IN_FLIGHT),
            sa.or_(RUN_STUDY.c.run_id != study.run_id, RUN_STUDY.c.position != study.position),
        )
        with self._reading() as connection:
            return connection.scalar(others.limit(1)) is not None

    def _move(
        self, study: RunStudy, old: Collection[RunStudyState], new: RunStudyState, *, at: datetime, **values: Any
    ) -> bool:
        with self._transaction() as connection:
            return move_study(connection, study.run_id, study.position, old, new, at=at, **values)


def _share_with(connection: sa.Connection, study: RunStudy) -> None:
    """A run has found here what another has brought and is not done with, as one that is paused: it stays for both."""
    left = (
        RUN_STUDY.c.study_instance_uid == study.study_instance_uid,
        RUN_STUDY.c.copy == Copy.OURS,
        RUN_STUDY.c.state.in_((RunStudyState.DUE, *IN_FLIGHT)),
        sa.or_(RUN_STUDY.c.run_id != study.run_id, RUN_STUDY.c.position != study.position),
    )
    connection.execute(sa.update(RUN_STUDY).where(*left).values(copy=Copy.SHARED))


def _have_settled(connection: sa.Connection, orthanc_id: str, *, copy: Copy, at: datetime) -> None:
    """Have the intake settle a study: for runs, or as ever if it is somebody else's, too. An arrival that it is to
    settle, or that is being written down at this moment, stays what it is.
    """
    change = 0 if copy is Copy.SHARED else FOR_RUN
    new = {"last_change": change, "last_arrival_at": at}
    upsert(connection, ARRIVING, {"orthanc_id": orthanc_id}, {}, new=new)
    if copy is Copy.SHARED:
        for_run = (ARRIVING.c.orthanc_id == orthanc_id, ARRIVING.c.last_change == FOR_RUN)
        connection.execute(sa.update(ARRIVING).where(*for_run).values(last_change=change))


def _waits_for_delivery(*, removes: bool) -> sa.ColumnElement[bool]:
    """Whether a study of a run (`RUN_STUDY`) has deliveries that have not ended. ``removes``: see `read_studies`."""
    of_study = (RUN_JOB.c.run_id == RUN_STUDY.c.run_id, RUN_JOB.c.position == RUN_STUDY.c.position)
    deliveries = (
        sa.select(DELIVERY.c.delivery_id)
        .join(RUN_JOB, RUN_JOB.c.job_id == DELIVERY.c.job_id)
        .join(JOB, JOB.c.job_id == DELIVERY.c.job_id)
    )
    may_be_retried = sa.and_(RUN_STUDY.c.copy == Copy.OURS, *FAILED_FOR_NOW) if removes else sa.false()
    return sa.exists(deliveries.where(*of_study, sa.or_(DELIVERY.c.state.in_(UNDER_WAY), may_be_retried)))


def _failed_deliveries(connection: sa.Connection, run_id: str, positions: Collection[int]) -> dict[int, str]:
    """Position → what failed, in words."""
    query = (
        sa.select(RUN_JOB.c.position, DELIVERY.c.delivery_id, DELIVERY.c.destination)
        .join(DELIVERY, DELIVERY.c.job_id == RUN_JOB.c.job_id)
        .join(JOB, JOB.c.job_id == RUN_JOB.c.job_id)
        .where(RUN_JOB.c.run_id == run_id, RUN_JOB.c.position.in_(positions), *FAILED_FOR_NOW)
        .order_by(RUN_JOB.c.position, DELIVERY.c.delivery_id)
    )
    found: dict[int, list[str]] = {}
    for position, delivery_id, destination in connection.execute(query):
        found.setdefault(position, []).append(f"delivery {delivery_id} to {destination} has failed")
    return {position: ", ".join(those) for position, those in found.items()}


def _has_room(row: Row, pace: Pace, *, at: datetime) -> bool:
    begun = sum(row[state.value] for state in IN_FLIGHT)
    is_early = row["last_begun_at"] is not None and row["last_begun_at"] + pace.interval > at
    return (
        row["state"] == RunState.RUNNING
        and bool(row["due"])
        and begun < pace.in_flight
        and row[RunStudyState.RETRIEVING.value] < pace.associations
        and not is_early
    )


def _has_standing_jobs(connection: sa.Connection, run_id: str, position: int) -> bool:
    query = (
        sa.select(JOB.c.state)
        .join(RUN_JOB, RUN_JOB.c.job_id == JOB.c.job_id)
        .where(RUN_JOB.c.run_id == run_id, RUN_JOB.c.position == position)
    )
    states = list(connection.scalars(query))
    return bool(states) and JobState.SUPERSEDED not in states


def _with_jobs(
    connection: sa.Connection, run_id: str, studies: Sequence[RunStudy]
) -> list[tuple[RunStudy, list[JobRecord]]]:
    links = linked_jobs(connection, run_id, [study.position for study in studies])
    job_ids = [job_id for of_study in links.values() for job_id in of_study]
    rows = connection.execute(sa.select(JOB).where(JOB.c.job_id.in_(job_ids))).mappings()
    records = {record.job.job_id: record for record in map(record_of, rows)}
    return [(study, [records[job_id] for job_id in links.get(study.position, ())]) for study in studies]


def _audit(
    connection: sa.Connection, kind: AuditKind, study: RunStudy, details: Mapping[str, Any], *, at: datetime
) -> None:
    write_audit(connection, kind, at=at, study_instance_uid=study.study_instance_uid, details=details)


def _this(study: RunStudy) -> tuple[sa.ColumnElement[bool], ...]:
    return RUN_STUDY.c.run_id == study.run_id, RUN_STUDY.c.position == study.position


def _locked(run_id: str) -> sa.Select[Any]:
    return sa.select(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id).with_for_update()


def _row(connection: sa.Connection, run_id: str, *, locked: bool = False) -> sa.RowMapping:
    query = sa.select(ARCHIVE_RUN).where(ARCHIVE_RUN.c.run_id == run_id)
    return connection.execute(query.with_for_update() if locked else query).mappings().one()


def _study_row(connection: sa.Connection, run_id: str, position: int) -> sa.RowMapping | None:
    query = sa.select(RUN_STUDY).where(RUN_STUDY.c.run_id == run_id, RUN_STUDY.c.position == position)
    return connection.execute(query).mappings().one_or_none()


def _run_of(row: Row) -> Run:
    names = ("run_id", "name", "reason", "waits_for", "plan_digest", "created_at", "created_by", "ended_at", "studies")
    return Run(
        **{name: row[name] for name in names},
        state=RunState(row["state"]),
        terms=Terms.from_json(row["terms"]),
        counts={state: row[state.value] for state in RunStudyState if row[state.value]},
    )


def _study_of(row: Row) -> RunStudy:
    values = {name: row[name] for name in RunStudy.__dataclass_fields__}
    return RunStudy(**{**values, "state": RunStudyState(row["state"]), "copy": Copy(row["copy"])})
