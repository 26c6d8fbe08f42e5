"""What a row of the audit trail holds: UIDs, names of machines and models, reasons. Nothing identifies the patient."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class AuditKind(StrEnum):
    """What happened."""

    STARTED = "started"
    """The plugin started. What an end without ``stopped`` lacks, the next start shows."""
    STOPPED = "stopped"
    WORKER_STARTED = "worker started"
    """A worker has loaded its models; tells with which files a run went that ended without a result."""
    RECEIVED = "received"
    """A study was complete and its jobs were settled; one row for each who sent instances of it."""
    JOB_RECORDED = "job recorded"
    """A job was made, or made to run again, because of what arrived."""
    MODEL_RAN = "model ran"
    """A worker's attempt at a job ended, whatever came of it."""
    CLAIMED_OUTSIDE = "claimed outside"
    """An outside performer claimed a job: no worker of ours reads it."""
    PERFORMED_OUTSIDE = "performed outside"
    """An outside performer who had claimed a job has completed it, cancelled it, or let it go."""
    RESULTS_WRITTEN = "results written"
    RESULTS_WITHDRAWN = "results withdrawn"
    """Results of a study's earlier state are in the archive no longer."""
    DELIVERY_BEGUN = "delivery begun"
    DELIVERED = "delivered"
    DELIVERY_FAILED = "delivery failed"
    DELIVERY_WITHDRAWN = "delivery withdrawn"
    """Results ceased to stand when a part of them had been sent; it stays where it is."""
    RETRIED = "retried"
    """A person let a job run again."""
    CANCELLED = "cancelled"
    """A person withdrew a job."""
    PRIORITISED = "prioritised"
    """A person gave a job another priority."""
    DELIVERY_RETRIED = "delivery retried"
    """A person let a delivery go again."""
    DELIVERY_CANCELLED = "delivery cancelled"
    """A person withdrew a delivery."""
    RAISED = "raised"
    """A finding raised its study."""
    RAISE_ENDED = "raise ended"
    """A later reading does not find it, or a person has rejected the result."""
    DENIED = "denied"
    """Somebody asked over HTTP for what they may not, or a page of another site had them do so."""
    REVIEWED = "reviewed"
    """A person said of a result that it is right or wrong, on the page or by an object that came back."""
    REVIEW_WRITTEN = "review written"
    """A worker has stored the objects that say so in DICOM."""
    REVIEW_FAILED = "review failed"
    """They cannot be written. The review counts all the same."""
    RUN_STARTED = "run started"
    """Somebody has an archive, or a part of it, read once more."""
    RUN_PAUSED = "run paused"
    RUN_RESUMED = "run resumed"
    RUN_CANCELLED = "run cancelled"
    RUN_RETRIED = "run retried"
    """Somebody has the studies of a run that failed, or were refused, read again."""
    RUN_CHANGED = "run changed"
    """Somebody has it carried out at another pace."""
    RUN_FINISHED = "run finished"
    COPY_RETRIEVED = "copy retrieved"
    """An archive run has retrieved a study that was not here."""
    COPY_REMOVED = "copy removed"
    """It has removed that, with the results."""


OF_A_RUN = frozenset(
    {
        AuditKind.RUN_STARTED,
        AuditKind.RUN_PAUSED,
        AuditKind.RUN_RESUMED,
        AuditKind.RUN_CANCELLED,
        AuditKind.RUN_RETRIED,
        AuditKind.RUN_CHANGED,
    }
)
"""What a person, or the archivist, does to an archive run."""


BY_A_PERSON = frozenset(
    {
        AuditKind.RETRIED,
        AuditKind.CANCELLED,
        AuditKind.PRIORITISED,
        AuditKind.CLAIMED_OUTSIDE,
        AuditKind.DELIVERY_RETRIED,
        AuditKind.DELIVERY_CANCELLED,
        AuditKind.DENIED,
        AuditKind.REVIEWED,
        *OF_A_RUN,
    }
)


@dataclass(frozen=True, kw_only=True)
class AuditEvent:
    """One row."""

    audit_id: int
    """Rises with each row."""
    at: datetime
    kind: AuditKind
    study_instance_uid: str | None = None
    job_id: str | None = None
    who: str = ""
    """Who did it: an AE title, a worker, a user; empty if nobody was asked."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The event as JSON's types."""
        return {**asdict(self), "at": self.at.isoformat(), "details": dict(self.details)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "AuditEvent":
        """The event that ``as_json`` gave."""
        return cls(**{**values, "at": datetime.fromisoformat(values["at"]), "kind": AuditKind(values["kind"])})


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who sent instances of a study, as Orthanc tells it, and how many of which SOP class."""

    protocol: str
    """Orthanc's word: ``DicomProtocol``, ``RestApi``, ``Plugins`` (DICOMweb)."""
    aet: str = ""
    """The sender's AE title; empty if it was not sent by DICOM's protocol."""
    address: str = ""
    """IP address."""
    user: str = ""
    """The user of Orthanc's HTTP interface."""
    sop_classes: Mapping[str, int] = field(default_factory=dict)
    """SOP Class UID → number of instances."""

    @property
    def name(self) -> str:
        """What the sender is best known by; empty if nothing is known."""
        return self.aet or self.user


def parse_time(text: str) -> datetime:
    """A time or a day in ISO 8601, in UTC unless it names a zone. Raises ValueError."""
    time = datetime.fromisoformat(text)
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    try:
        zoned.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("expected a time that UTC can tell") from error
    return zoned


_UNPRINTABLE = re.compile("[^\\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x7f-\x9f\u2028\u2029]")
"""What XML 1.0 cannot hold (its production Char), and what would break a line or a terminal."""


def printable(text: str) -> str:
    """The text on one line, with a replacement character for each that neither XML nor a database takes."""
    return _UNPRINTABLE.sub("\ufffd", re.sub(r"\s", " ", text))


def cleaned(value: Any) -> Any:
    """JSON's types with every text ``printable``."""
    match value:
        case str():
            return printable(value)
        case Mapping():
            return {printable(str(key)): cleaned(each) for key, each in value.items()}
        case list() | tuple():
            return [cleaned(each) for each in value]
        case _:
            return value
