"""The deliveries: which results go to which destination, and what the destination has said of each object.

A delivery is one job's results for one destination. It is made in the transaction in which the job ends with results,
and taken back in the one in which they cease to stand. Of one study, a destination gets the deliveries in the order in
which they were made; different studies do not wait for each other.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from coread.audit.event import AuditKind
from coread.delivery import (
    DELIVERY_TRANSITIONS,
    UNSURE,
    Delivery,
    DeliveryEvent,
    DeliveryObject,
    DeliveryState,
    ObjectState,
)
from coread.job import STANDING, Job
from coread.ledger.audit import audit_delivery
from coread.ledger.database import Database, require_this_form
from coread.ledger.tables import COMMITMENT, DELIVERY, DELIVERY_EVENT, DELIVERY_OBJECT, JOB, job_of

LOST = "its courier fell silent"
OPEN_REQUESTS = 5
"""So many requests for storage commitment of one delivery are remembered; who has not answered older ones by then has
been asked anew."""
SENT_SOMETHING = UNSURE | {ObjectState.CONFIRMED}
REJECTED = "a person rejected the result"
"""How the reason begins of what was withdrawn because of that."""
ENDED = frozenset({DeliveryState.CONFIRMED, DeliveryState.FAILED, DeliveryState.CANCELLED})

AUDITED: Mapping[DeliveryState, AuditKind] = {
    DeliveryState.SENDING: AuditKind.DELIVERY_BEGUN,
    DeliveryState.CONFIRMED: AuditKind.DELIVERED,
    DeliveryState.FAILED: AuditKind.DELIVERY_FAILED,
}
"""What the audit trail is told of."""


class Deliveries(Database):
    """The part of the ledger that says what is delivered where."""

    # A courier's -------------------------------------------------------------------------------------------------

    def reclaim_deliveries(self, *, at: datetime) -> list[int]:
        """Let the deliveries wait again whose courier's lease has ended. Their ids."""
        is_expired = (DELIVERY.c.state == DeliveryState.SENDING, DELIVERY.c.lease_until < at)
        with self._transaction() as connection:
            expired = _deliveries(connection, sa.select(DELIVERY).where(*is_expired).with_for_update())
            for delivery in expired:
                _put_down(connection, delivery, trouble=LOST, at=at, retry_at=at, ask_at=at)
        return [delivery.delivery_id for delivery in expired]

    def claim_delivery(self, destination: str, *, courier: str, at: datetime, lease: timedelta) -> Delivery | None:
        """Take the oldest delivery to ``destination`` that is due and may go; None if there is none.

        One may go when the earlier ones of its study to this destination have all been sent, or have ended. One that
        was sent is due when the destination has been silent for long: it is asked again, but after everything that is
        to be sent, for a destination that never answers must not keep new results from going out.
        """
        earlier = DELIVERY.alias()
        is_held_up = (
            sa.select(earlier.c.delivery_id)
            .where(
                earlier.c.orthanc_id == DELIVERY.c.orthanc_id,
                earlier.c.destination == DELIVERY.c.destination,
                earlier.c.state.in_((DeliveryState.WAITING, DeliveryState.SENDING)),
                sa.tuple_(earlier.c.opened_at, earlier.c.delivery_id)
                < sa.tuple_(DELIVERY.c.opened_at, DELIVERY.c.delivery_id),
            )
            .exists()
        )
        query = (
            sa.select(DELIVERY)
            .where(
                DELIVERY.c.destination == destination,
                DELIVERY.c.state.in_((DeliveryState.WAITING, DeliveryState.SENT)),
                DELIVERY.c.not_before <= at,
                sa.or_(DELIVERY.c.state == DeliveryState.SENT, ~is_held_up),
            )
            .order_by(
                sa.case((DELIVERY.c.state == DeliveryState.WAITING, 0), else_=1),
                DELIVERY.c.opened_at,
                DELIVERY.c.delivery_id,
            )
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._transaction() as connection:
            require_this_form(connection)
            found = _deliveries(connection, query)
            if not found:
                return None
            (delivery,) = found
            values = {"courier": courier, "lease_until": at + lease, "attempts": delivery.attempts + 1}
            if not _move(connection, delivery, DeliveryState.SENDING, reason="", at=at, values=values):
                return None
            return _delivery(connection, delivery.delivery_id)

    def renew_delivery(self, delivery_id: int, *, courier: str, at: datetime, lease: timedelta) -> bool:
        """Prolong the courier's lease; False if the delivery is no longer this courier's."""
        with self._transaction() as connection:
            changed = connection.execute(
                sa.update(DELIVERY).where(*_is_held(delivery_id, courier)).values(lease_until=at + lease)
            )
            return bool(changed.rowcount)

    def begin_object(self, delivery_id: int, sop_instance_uid: str, *, sop_class_uid: str = "", courier: str) -> bool:
        """Record that an object is about to be sent; False if it must not be: the delivery is no longer this courier's.

        This is written before the first byte goes out, so that nobody ever takes an object that may have arrived for
        one that has not.
        """
        with self._transaction() as connection:
            held = sa.select(DELIVERY.c.delivery_id).where(*_is_held(delivery_id, courier)).with_for_update()
            if connection.scalar(held) is None:
                return False
            begun = {"state": ObjectState.BEGUN, **({"sop_class_uid": sop_class_uid} if sop_class_uid else {})}
            changed = connection.execute(
                sa.update(DELIVERY_OBJECT)
                .where(
                    DELIVERY_OBJECT.c.delivery_id == delivery_id,
                    DELIVERY_OBJECT.c.sop_instance_uid == sop_instance_uid,
                    DELIVERY_OBJECT.c.state == ObjectState.WAITING,
                )
                .values(begun)
            )
            return bool(changed.rowcount)

    def note_object(self, delivery_id: int, sop_instance_uid: str, state: ObjectState, *, reason: str = "") -> None:
        """Record what the destination said of an object, whoever's the delivery is by now: it is so all the same."""
        with self._transaction() as connection:
            _lock(connection, delivery_id)
            _mark(connection, delivery_id, [sop_instance_uid], state, of=UNSURE, reason=reason)

    def put_down(
        self, delivery_id: int, *, courier: str, trouble: str = "", at: datetime, retry_at: datetime, ask_at: datetime
    ) -> DeliveryState | None:
        """Record that the courier is done with the delivery for now; its new state follows from its objects' states.

        What is not all sent is tried again at ``retry_at``; what was sent and is not confirmed is asked for at
        ``ask_at``, or at ``retry_at`` if there was ``trouble``. But as long as the answer to a request for storage
        commitment may still come, by the same measure, an object that was begun is not asked for anew: only the answer
        to the latest request may say that it is missing. None if the delivery is no longer this courier's.
        """
        with self._transaction() as connection:
            delivery = _held(connection, delivery_id, courier)
            if delivery is None:
                return None
            return _put_down(connection, delivery, trouble=trouble, at=at, retry_at=retry_at, ask_at=ask_at)

    def note_commitment_asked(self, delivery_id: int, transaction_uid: str, *, at: datetime) -> None:
        """Record a request for storage commitment before it is made, so that its answer is known whenever it comes.

        Of the requests that were never answered, the newest few are remembered.
        """
        with self._transaction() as connection:
            values = {"transaction_uid": transaction_uid, "delivery_id": delivery_id, "asked_at": at}
            connection.execute(sa.insert(COMMITMENT).values(values))
            of_delivery = COMMITMENT.c.delivery_id == delivery_id
            newest = sa.select(COMMITMENT.c.asked_at).where(of_delivery).order_by(COMMITMENT.c.asked_at.desc())
            oldest_kept = connection.execute(newest.limit(OPEN_REQUESTS)).scalars().all()[-1]
            connection.execute(sa.delete(COMMITMENT).where(of_delivery, COMMITMENT.c.asked_at < oldest_kept))

    def settle_commitment(
        self,
        transaction_uid: str,
        *,
        kept: Collection[str],
        missing: Collection[str],
        refused: Mapping[str, str],
        at: datetime,
        wait: Callable[[int], timedelta],
    ) -> bool:
        """Record a destination's answer to a request for storage commitment: SOP Instance UIDs that it keeps, those
        that it does not have, and those that it refuses for good with the reason. False if nobody asked.

        ``wait``: how many attempts there were → how long to wait before what is missing is sent again.

        That an object is missing counts only in the answer to the latest request: it may have been sent since.
        """
        with self._transaction() as connection:
            request = sa.select(COMMITMENT).where(COMMITMENT.c.transaction_uid == transaction_uid)
            row = connection.execute(request).one_or_none()
            if row is None:
                return False
            delivery_id = row.delivery_id
            _lock(connection, delivery_id)
            of_delivery = COMMITMENT.c.delivery_id == delivery_id
            latest = connection.scalar(sa.select(sa.func.max(COMMITMENT.c.asked_at)).where(of_delivery))
            _mark(connection, delivery_id, kept, ObjectState.CONFIRMED, of=UNSURE)
            for uid, reason in refused.items():
                _mark(connection, delivery_id, [uid], ObjectState.REFUSED, of=UNSURE, reason=reason)
            if row.asked_at == latest:
                _mark(connection, delivery_id, missing, ObjectState.WAITING, of=UNSURE)
            # What older requests asked for, this one asked for too.
            connection.execute(sa.delete(COMMITMENT).where(of_delivery, COMMITMENT.c.asked_at <= row.asked_at))
            delivery = _delivery(connection, delivery_id)
            if delivery is not None and delivery.state in (DeliveryState.SENT, DeliveryState.WAITING):
                _answered(connection, delivery, at=at, retry_at=at + wait(delivery.attempts))
            return True

    # By a person's hand ------------------------------------------------------------------------------------------

    def retry_delivery(self, delivery_id: int, *, by: str = "", at: datetime) -> bool:
        """Let a delivery that has failed or was cancelled go again, and one that waits go now; False if it is in
        another state, or its job's results no longer stand. ``by``: the person who asks, for the audit trail.
        """
        with self._transaction() as connection:
            _lock(connection, delivery_id)
            delivery = _delivery(connection, delivery_id)
            if delivery is None:
                return False
            if delivery.state is DeliveryState.WAITING:
                _audit(connection, AuditKind.DELIVERY_RETRIED, delivery, who=by, at=at)
                due = sa.update(DELIVERY).where(*_is_unchanged(delivery)).values(not_before=at)
                return bool(connection.execute(due).rowcount)
            state = connection.scalar(sa.select(JOB.c.state).where(JOB.c.job_id == delivery.job_id))
            stands = bool(delivery.review_id) or state in STANDING  # what a person said stands, whatever came after
            if not stands or delivery.state not in (DeliveryState.FAILED, DeliveryState.CANCELLED):
                return False
            _audit(connection, AuditKind.DELIVERY_RETRIED, delivery, who=by, reason=delivery.reason, at=at)
            _mark(
                connection,
                delivery_id,
                delivery.uids({ObjectState.REFUSED}),
                ObjectState.WAITING,
                of=(ObjectState.REFUSED,),
            )
            return _reopen(connection, delivery, reason="a person asked for it", at=at)

    def cancel_delivery(self, delivery_id: int, *, by: str = "", at: datetime) -> bool:
        """Withdraw a delivery that is not confirmed yet; False if it is too late. What has been sent stays there.

        ``by``: the person who asks, for the audit trail.
        """
        with self._transaction() as connection:
            _lock(connection, delivery_id)
            delivery = _delivery(connection, delivery_id)
            if delivery is None or DeliveryState.CANCELLED not in DELIVERY_TRANSITIONS[delivery.state]:
                return False
            _audit(connection, AuditKind.DELIVERY_CANCELLED, delivery, who=by, reason=delivery.reason, at=at)
            return _cancel(connection, delivery, reason="a person withdrew it", at=at)

    # Looking -----------------------------------------------------------------------------------------------------

    def delivery(self, delivery_id: int) -> Delivery | None:
        """One delivery, or None."""
        with self._transaction() as connection:
            return _delivery(connection, delivery_id)

    def deliveries(
        self,
        *,
        study_instance_uid: str | None = None,
        job_id: str | None = None,
        destination: str | None = None,
        states: Collection[DeliveryState] = (),
        limit: int = 1000,
    ) -> list[Delivery]:
        """Deliveries, the newest first; of one study, job or destination, or in ``states``, if these are given."""
        query = sa.select(DELIVERY).order_by(DELIVERY.c.opened_at.desc(), DELIVERY.c.delivery_id.desc()).limit(limit)
        for column, wanted in (
            (DELIVERY.c.study_instance_uid, study_instance_uid),
            (DELIVERY.c.job_id, job_id),
            (DELIVERY.c.destination, destination),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if states:
            query = query.where(DELIVERY.c.state.in_(states))
        with self._transaction() as connection:
            return _deliveries(connection, query)

    def delivery_history(self, delivery_id: int) -> list[DeliveryEvent]:
        """What happened to a delivery, oldest first."""
        query = (
            sa.select(DELIVERY_EVENT)
            .where(DELIVERY_EVENT.c.delivery_id == delivery_id)
            .order_by(DELIVERY_EVENT.c.event_id)
        )
        with self._transaction() as connection:
            return [
                DeliveryEvent(
                    at=row["at"],
                    from_state=None if row["from_state"] is None else DeliveryState(row["from_state"]),
                    to_state=DeliveryState(row["to_state"]),
                    reason=row["reason"],
                )
                for row in connection.execute(query).mappings()
            ]


# With a job's end ----------------------------------------------------------------------------------------------------


def open_deliveries(connection: sa.Connection, job: Job, uids: Sequence[str], *, at: datetime) -> None:
    """A job has stored the objects with these SOP Instance UIDs: they are to be delivered, each once.

    A job that ran again has the same objects, and perhaps others; what a destination keeps already is not sent again.
    """
    result = connection.scalar(sa.select(JOB.c.result).where(JOB.c.job_id == job.job_id)) or {}
    classes = dict(zip(result.get("sop_instance_uids", ()), result.get("sop_class_uids", ()), strict=False))
    objects = {uid: classes.get(uid, "") for uid in uids}
    for destination in dict.fromkeys(job.destinations) if uids else ():
        query = sa.select(DELIVERY).where(*_of_results(job.job_id), DELIVERY.c.destination == destination)
        known = _deliveries(connection, query.with_for_update())
        if known:
            _open_again(connection, known[0], objects, at=at)
        else:
            _open_first(connection, job, destination, objects, at=at)


def is_to_be_delivered(connection: sa.Connection, job_id: str) -> bool:
    """Whether some of a job's results are still to be sent."""
    unsent = DELIVERY.c.state.in_((DeliveryState.WAITING, DeliveryState.SENDING))
    query = sa.select(DELIVERY.c.delivery_id).where(*_of_results(job_id), unsent)
    return connection.scalar(query.limit(1)) is not None


def withdraw_deliveries(connection: sa.Connection, job_id: str, *, reason: str, at: datetime) -> None:
    """A job's results no longer stand: what was not sent of them will not be."""
    # Locked, so that a courier that takes one at this moment has taken it by now, or finds it withdrawn.
    of_job = sa.select(DELIVERY).where(*_of_results(job_id)).order_by(DELIVERY.c.delivery_id)
    for delivery in _deliveries(connection, of_job.with_for_update()):
        if delivery.state in (DeliveryState.WAITING, DeliveryState.SENDING):
            _cancel(connection, delivery, reason=reason, at=at)
            if not delivery.uids(SENT_SOMETHING):
                _cancel_reviews(connection, delivery, at=at)
            if delivery.uids(SENT_SOMETHING):
                _audit(connection, AuditKind.DELIVERY_WITHDRAWN, delivery, reason=reason, at=at)
        elif delivery.state is DeliveryState.SENT:
            connection.execute(
                sa.update(DELIVERY).where(DELIVERY.c.delivery_id == delivery.delivery_id).values(withdrawn=reason)
            )


def open_review_deliveries(
    connection: sa.Connection, job: Job, review_id: str, objects: Mapping[str, str], *, at: datetime
) -> None:
    """What a person said of a job's results is in the archive, as objects (SOP Instance UID → SOP Class UID): they go
    where the results went, or are on their way to, and after these. Who never got the results is not told of them.
    """
    of_results = _deliveries(connection, sa.select(DELIVERY).where(*_of_results(job.job_id)).with_for_update())
    told = _told(connection, review_id)
    for delivery in of_results:
        is_on_its_way = delivery.state in (DeliveryState.WAITING, DeliveryState.SENDING)
        if (is_on_its_way or delivery.uids(SENT_SOMETHING)) and delivery.destination not in told:
            _open_first(connection, job, delivery.destination, objects, review_id=review_id, at=at)


def reopen_rejected(connection: sa.Connection, job_id: str, *, at: datetime) -> None:
    """A person accepts what another one had rejected: what was withdrawn because of that goes out after all."""
    for delivery in _deliveries(connection, sa.select(DELIVERY).where(*_of_results(job_id)).with_for_update()):
        if delivery.state is DeliveryState.CANCELLED and delivery.reason.startswith(REJECTED):
            _reopen(connection, delivery, reason="a person accepted the result", at=at)
        elif delivery.state is DeliveryState.SENT and delivery.withdrawn.startswith(REJECTED):
            connection.execute(sa.update(DELIVERY).where(*_is_unchanged(delivery)).values(withdrawn=""))


def _told(connection: sa.Connection, review_id: str) -> frozenset[str]:
    """The destinations that a review is delivered to already."""
    return frozenset(connection.scalars(sa.select(DELIVERY.c.destination).where(DELIVERY.c.review_id == review_id)))


def _cancel_reviews(connection: sa.Connection, of: Delivery, *, at: datetime) -> None:
    """Results never got to a destination, and will not: it is not told what was said of them either."""
    query = sa.select(DELIVERY).where(
        DELIVERY.c.job_id == of.job_id,
        DELIVERY.c.destination == of.destination,
        DELIVERY.c.review_id != "",
        DELIVERY.c.state.in_((DeliveryState.WAITING, DeliveryState.SENDING)),
    )
    for delivery in _deliveries(connection, query.with_for_update()):
        if not delivery.uids(SENT_SOMETHING):
            _cancel(connection, delivery, reason="the results were not delivered", at=at)


def _of_results(job_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    """The deliveries of a job's results, not of what was said of them."""
    return DELIVERY.c.job_id == job_id, DELIVERY.c.review_id == ""


def _open_first(
    connection: sa.Connection,
    job: Job,
    destination: str,
    objects: Mapping[str, str],
    *,
    review_id: str = "",
    at: datetime,
) -> None:
    row = {
        "job_id": job.job_id,
        "review_id": review_id,
        "destination": destination,
        "study_instance_uid": job.study_instance_uid,
        "orthanc_id": job.orthanc_id,
        "model": job.model,
        "state": DeliveryState.WAITING,
        "reason": "",
        "withdrawn": "",
        "attempts": 0,
        "opened_at": at,
        "not_before": at,
    }
    delivery_id = connection.execute(sa.insert(DELIVERY).values(row).returning(DELIVERY.c.delivery_id)).scalar_one()
    _add_objects(connection, delivery_id, objects, first=0)
    reason = "the review is in the archive" if review_id else "the results are in the archive"
    _write_event(connection, delivery_id, None, DeliveryState.WAITING, reason=reason, at=at)


def _open_again(connection: sa.Connection, delivery: Delivery, objects: Mapping[str, str], *, at: datetime) -> None:
    # What is at the destination stays there; an object of the attempt before that is not there is nobody's any more.
    connection.execute(
        sa.delete(DELIVERY_OBJECT).where(
            DELIVERY_OBJECT.c.delivery_id == delivery.delivery_id,
            DELIVERY_OBJECT.c.sop_instance_uid.not_in(objects),
            DELIVERY_OBJECT.c.state.in_((ObjectState.WAITING, ObjectState.REFUSED)),
        )
    )
    known = {each.sop_instance_uid for each in delivery.objects}
    of_delivery = DELIVERY_OBJECT.c.delivery_id == delivery.delivery_id
    last = connection.scalar(sa.select(sa.func.max(DELIVERY_OBJECT.c.position)).where(of_delivery))
    new = {uid: sop_class_uid for uid, sop_class_uid in objects.items() if uid not in known}
    _add_objects(connection, delivery.delivery_id, new, first=0 if last is None else last + 1)
    now = _delivery(connection, delivery.delivery_id)
    if now is None:
        return
    if all(each.state is ObjectState.CONFIRMED for each in now.objects):
        if now.state is not DeliveryState.CONFIRMED:
            _move(connection, now, DeliveryState.CONFIRMED, reason="", at=at, values={"courier": None})
    elif now.state is DeliveryState.SENT and not now.uids({ObjectState.WAITING}):
        connection.execute(sa.update(DELIVERY).where(*_is_unchanged(now)).values(withdrawn=""))
    else:
        _reopen(connection, now, reason="the job ran again", at=at)


def _add_objects(connection: sa.Connection, delivery_id: int, objects: Mapping[str, str], *, first: int) -> None:
    for position, (uid, sop_class_uid) in enumerate(objects.items(), start=first):
        row = {"delivery_id": delivery_id, "sop_instance_uid": uid, "position": position}
        fresh = {"sop_class_uid": sop_class_uid, "state": ObjectState.WAITING, "reason": ""}
        connection.execute(sa.insert(DELIVERY_OBJECT).values(**row, **fresh))


# One delivery --------------------------------------------------------------------------------------------------------


def _put_down(
    connection: sa.Connection,
    delivery: Delivery,
    *,
    trouble: str,
    at: datetime,
    retry_at: datetime,
    ask_at: datetime,
) -> DeliveryState | None:
    state, reason = _standing(delivery)
    not_before = ask_at if state is DeliveryState.SENT and not trouble else retry_at
    if delivery.uids({ObjectState.BEGUN}) and (asked_at := _last_asked(connection, delivery.delivery_id)) is not None:
        not_before = max(not_before, asked_at + (ask_at - at))
    if state in (DeliveryState.WAITING, DeliveryState.SENT):
        reason = trouble or reason
        if state is DeliveryState.WAITING and delivery.withdrawn:
            state, reason = DeliveryState.CANCELLED, delivery.withdrawn
    values = {"courier": None, "not_before": not_before}
    return state if _move(connection, delivery, state, reason=reason, at=at, values=values) else None


def _last_asked(connection: sa.Connection, delivery_id: int) -> datetime | None:
    """When the latest request for storage commitment was made that is not answered yet."""
    query = sa.select(COMMITMENT.c.asked_at).where(COMMITMENT.c.delivery_id == delivery_id)
    asked_at: datetime | None = connection.scalar(query.order_by(COMMITMENT.c.asked_at.desc()).limit(1))
    return asked_at


def _answered(connection: sa.Connection, delivery: Delivery, *, at: datetime, retry_at: datetime) -> None:
    """What an answer from the destination means for a delivery that no courier is at."""
    state, reason = _standing(delivery)
    if state is delivery.state:
        if state is DeliveryState.WAITING:  # it waited for this answer
            connection.execute(sa.update(DELIVERY).where(*_is_unchanged(delivery)).values(not_before=at))
        return
    if state is DeliveryState.WAITING and delivery.withdrawn:
        state, reason = DeliveryState.CANCELLED, delivery.withdrawn
    _move(connection, delivery, state, reason=reason, at=at, values={"not_before": retry_at})


def _standing(delivery: Delivery) -> tuple[DeliveryState, str]:
    """The state that follows from the objects' states, and why."""
    of = len(delivery.objects)
    if open_ones := delivery.uids({ObjectState.WAITING, ObjectState.BEGUN}):
        return DeliveryState.WAITING, f"{len(open_ones)} of {of} objects are not at the destination yet"
    if sent := delivery.uids({ObjectState.SENT}):
        return DeliveryState.SENT, f"{len(sent)} of {of} objects are not confirmed yet"
    refused = [each for each in delivery.objects if each.state is ObjectState.REFUSED]
    if refused:
        return DeliveryState.FAILED, "; ".join(dict.fromkeys(each.reason for each in refused))
    return DeliveryState.CONFIRMED, ""


def _reopen(connection: sa.Connection, delivery: Delivery, *, reason: str, at: datetime) -> bool:
    values = {"attempts": 0, "opened_at": at, "not_before": at, "courier": None, "withdrawn": ""}
    if delivery.state is DeliveryState.WAITING:
        changed = connection.execute(sa.update(DELIVERY).where(*_is_unchanged(delivery)).values(values))
        return bool(changed.rowcount)
    return _move(connection, delivery, DeliveryState.WAITING, reason=reason, at=at, values=values)


def _cancel(connection: sa.Connection, delivery: Delivery, *, reason: str, at: datetime) -> bool:
    gone = len(delivery.uids(SENT_SOMETHING))
    text = f"{reason}; {gone} of {len(delivery.objects)} objects had been sent" if gone else reason
    return _move(connection, delivery, DeliveryState.CANCELLED, reason=text, at=at, values={"courier": None})


def _move(
    connection: sa.Connection,
    delivery: Delivery,
    state: DeliveryState,
    *,
    reason: str,
    at: datetime,
    values: Mapping[str, Any],
) -> bool:
    """Change the state if the delivery still is what ``delivery`` says; False if somebody else was first."""
    if state not in DELIVERY_TRANSITIONS[delivery.state]:
        raise AssertionError(f"a delivery never goes from {delivery.state} to {state}")
    changed = connection.execute(
        sa.update(DELIVERY).where(*_is_unchanged(delivery)).values(state=state, reason=reason, **values)
    )
    if changed.rowcount:
        _write_event(connection, delivery.delivery_id, delivery.state, state, reason=reason, at=at)
        kind = AUDITED.get(state)
        # Of several attempts, only the first is told.
        if kind is not None and not (kind is AuditKind.DELIVERY_BEGUN and delivery.attempts):
            _audit(connection, kind, delivery, reason=reason, at=at)
        if state in ENDED:  # whatever else was asked for, nobody waits for the answer any more
            connection.execute(sa.delete(COMMITMENT).where(COMMITMENT.c.delivery_id == delivery.delivery_id))
    return bool(changed.rowcount)


def _audit(
    connection: sa.Connection, kind: AuditKind, delivery: Delivery, *, reason: str = "", who: str = "", at: datetime
) -> None:
    """Record in the audit trail what befell a delivery, with where its objects are."""
    now = _delivery(connection, delivery.delivery_id) or delivery
    row = connection.execute(sa.select(JOB).where(JOB.c.job_id == delivery.job_id)).mappings().one()
    audit_delivery(
        connection,
        kind,
        job_of(row),
        destination=delivery.destination,
        instances=[(each.sop_class_uid, each.sop_instance_uid) for each in now.objects],
        not_confirmed=[each.sop_instance_uid for each in now.objects if each.state is not ObjectState.CONFIRMED],
        reason=reason,
        who=who,
        at=at,
    )


def _is_unchanged(delivery: Delivery) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        DELIVERY.c.delivery_id == delivery.delivery_id,
        DELIVERY.c.state == delivery.state,
        DELIVERY.c.attempts == delivery.attempts,
    )


def _is_held(delivery_id: int, courier: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        DELIVERY.c.delivery_id == delivery_id,
        DELIVERY.c.courier == courier,
        DELIVERY.c.state == DeliveryState.SENDING,
    )


def _lock(connection: sa.Connection, delivery_id: int) -> None:
    """Whoever concludes from the objects' states, or changes them, takes turns."""
    connection.execute(sa.select(DELIVERY.c.delivery_id).where(DELIVERY.c.delivery_id == delivery_id).with_for_update())


def _held(connection: sa.Connection, delivery_id: int, courier: str) -> Delivery | None:
    _lock(connection, delivery_id)
    found = _deliveries(connection, sa.select(DELIVERY).where(*_is_held(delivery_id, courier)))
    return found[0] if found else None


def _mark(
    connection: sa.Connection,
    delivery_id: int,
    uids: Collection[str],
    state: ObjectState,
    *,
    of: Collection[ObjectState],
    reason: str = "",
) -> int:
    return connection.execute(
        sa.update(DELIVERY_OBJECT)
        .where(
            DELIVERY_OBJECT.c.delivery_id == delivery_id,
            DELIVERY_OBJECT.c.sop_instance_uid.in_(uids),
            DELIVERY_OBJECT.c.state.in_(of),
        )
        .values(state=state, reason=reason)
    ).rowcount


def _write_event(
    connection: sa.Connection,
    delivery_id: int,
    old: DeliveryState | None,
    new: DeliveryState,
    *,
    reason: str,
    at: datetime,
) -> None:
    """Add to the history; not that what was sent is asked for again, and is still not confirmed."""
    if (old, new) == (DeliveryState.SENT, DeliveryState.SENDING):
        return
    if new is DeliveryState.SENT:
        query = sa.select(DELIVERY_EVENT.c.to_state, DELIVERY_EVENT.c.reason)
        of_delivery = query.where(DELIVERY_EVENT.c.delivery_id == delivery_id)
        latest = connection.execute(of_delivery.order_by(DELIVERY_EVENT.c.event_id.desc()).limit(1)).first()
        if latest is not None and tuple(latest) == (new, reason):
            return
    row = {"delivery_id": delivery_id, "at": at, "from_state": old, "to_state": new, "reason": reason}
    connection.execute(sa.insert(DELIVERY_EVENT).values(row))


def _delivery(connection: sa.Connection, delivery_id: int) -> Delivery | None:
    found = _deliveries(connection, sa.select(DELIVERY).where(DELIVERY.c.delivery_id == delivery_id))
    return found[0] if found else None


def _deliveries(connection: sa.Connection, query: sa.Select[Any]) -> list[Delivery]:
    rows = connection.execute(query).mappings().all()
    objects: dict[int, list[DeliveryObject]] = {row["delivery_id"]: [] for row in rows}
    if objects:
        parts = (
            sa.select(DELIVERY_OBJECT)
            .where(DELIVERY_OBJECT.c.delivery_id.in_(objects))
            .order_by(DELIVERY_OBJECT.c.delivery_id, DELIVERY_OBJECT.c.position)
        )
        for part in connection.execute(parts).mappings():
            objects[part["delivery_id"]].append(
                DeliveryObject(
                    sop_instance_uid=part["sop_instance_uid"],
                    state=ObjectState(part["state"]),
                    sop_class_uid=part["sop_class_uid"],
                    reason=part["reason"],
                )
            )
    return [_delivery_of(row, objects[row["delivery_id"]]) for row in rows]


def _delivery_of(row: sa.RowMapping, objects: Sequence[DeliveryObject]) -> Delivery:
    names = [name for name in Delivery.__dataclass_fields__ if name not in ("state", "objects")]
    values = {name: row[name] for name in names}
    return Delivery(**values, state=DeliveryState(row["state"]), objects=tuple(objects))
