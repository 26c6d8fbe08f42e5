"""A delivery: one job's results for one destination, and the states that it and its objects pass through."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    WAITING = "waiting"
    """Due, or to be tried again later."""
    SENDING = "sending"
    """A courier is at it. If the courier's lease ends, the delivery waits again."""
    SENT = "sent"
    """The destination has taken every object, and has not yet said that it keeps them."""
    CONFIRMED = "confirmed"
    """The destination keeps every object: none of them is sent again."""
    FAILED = "failed"
    """The destination refuses an object for good, or the object is gone: a person must look."""
    CANCELLED = "cancelled"
    """The results ceased to stand before they were sent, or a person withdrew the delivery."""


DELIVERY_TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.WAITING: frozenset(
        {DeliveryState.SENDING, DeliveryState.CONFIRMED, DeliveryState.FAILED, DeliveryState.CANCELLED}
    ),
    DeliveryState.SENDING: frozenset(
        {
            DeliveryState.WAITING,
            DeliveryState.SENT,
            DeliveryState.CONFIRMED,
            DeliveryState.FAILED,
            DeliveryState.CANCELLED,
        }
    ),
    DeliveryState.SENT: frozenset(
        {
            DeliveryState.SENDING,
            DeliveryState.WAITING,
            DeliveryState.CONFIRMED,
            DeliveryState.FAILED,
            DeliveryState.CANCELLED,
        }
    ),
    DeliveryState.CONFIRMED: frozenset({DeliveryState.WAITING}),
    DeliveryState.FAILED: frozenset({DeliveryState.WAITING, DeliveryState.CONFIRMED, DeliveryState.CANCELLED}),
    DeliveryState.CANCELLED: frozenset({DeliveryState.WAITING, DeliveryState.CONFIRMED}),
}
"""From each state, the states that may follow. Nothing else is ever written to the ledger."""


class ObjectState(StrEnum):
    """What is known of one object at the destination."""

    WAITING = "waiting"
    """It is not there."""
    BEGUN = "begun"
    """It was being sent and nobody knows whether it arrived: the destination is asked before it is sent again."""
    SENT = "sent"
    """The destination has taken it, and has not yet said that it keeps it."""
    CONFIRMED = "confirmed"
    """The destination keeps it."""
    REFUSED = "refused"
    """The destination refuses it for good."""


UNSURE = frozenset({ObjectState.BEGUN, ObjectState.SENT})
"""What a destination must be asked for before it is sent again."""


@dataclass(frozen=True, kw_only=True)
class DeliveryObject:
    """One result object of a delivery."""

    sop_instance_uid: str
    state: ObjectState
    sop_class_uid: str = ""
    """Known once it has been sent: the object itself may be gone from the archive by the time it is asked for."""
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The object as JSON's types."""
        return {"sop_instance_uid": self.sop_instance_uid, "state": self.state, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One job's results for one destination, or what a person said of them, and where that stands. The objects are in
    the order of their sending.
    """

    delivery_id: int
    job_id: str
    destination: str
    study_instance_uid: str
    orthanc_id: str
    model: str
    state: DeliveryState
    reason: str
    withdrawn: str
    """Why the results no longer stand, if they ceased to after they were sent: nothing of them is sent again."""
    attempts: int
    courier: str | None
    opened_at: datetime
    not_before: datetime
    objects: Sequence[DeliveryObject]
    review_id: str = ""
    """The review of the job's results whose objects these are; empty if they are the results themselves."""

    def uids(self, states: Collection[ObjectState]) -> list[str]:
        """SOP Instance UIDs of the objects in ``states``."""
        return [each.sop_instance_uid for each in self.objects if each.state in states]

    def as_json(self) -> dict[str, Any]:
        """The delivery as JSON's types."""
        return {
            "delivery_id": self.delivery_id,
            "job_id": self.job_id,
            "review_id": self.review_id,
            "destination": self.destination,
            "study_instance_uid": self.study_instance_uid,
            "model": self.model,
            "state": self.state,
            "reason": self.reason,
            "withdrawn": self.withdrawn,
            "attempts": self.attempts,
            "opened_at": self.opened_at.isoformat(),
            "not_before": self.not_before.isoformat(),
            "objects": [each.as_json() for each in self.objects],
        }


@dataclass(frozen=True, kw_only=True)
class DeliveryEvent:
    """One change of a delivery's state."""

    at: datetime
    from_state: DeliveryState | None
    to_state: DeliveryState
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The event as JSON's types."""
        return {"at": self.at.isoformat(), "from": self.from_state, "to": self.to_state, "reason": self.reason}
