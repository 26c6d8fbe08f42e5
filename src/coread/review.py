"""A review: what a person said of a job's result, and whether the object that says so in DICOM is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self


class Verdict(StrEnum):
    """What a person said."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EDITED = "edited"
    """The person corrected it: a segmentation or report with other contents came back."""


class ReviewSource(StrEnum):
    """How the person said it."""

    PAGE = "page"
    """On the worklist's page, or over REST: Coread writes the object."""
    OBJECT = "object"
    """In an object that came back from a viewer or PACS."""


class ReviewState(StrEnum):
    """Where the review's object stands."""

    ASKED = "asked"
    """A worker will write it."""
    WRITTEN = "written"
    """It is in the archive; one that came back was there from the beginning."""
    FAILED = "failed"
    """It cannot be written; the review counts all the same."""


class Basis(StrEnum):
    """By what an object that came back was recognised as one that speaks of a result."""

    REFERENCE = "reference"
    """It refers to our object."""
    TRACKING = "tracking"
    """It keeps our Tracking UIDs."""
    SOURCE = "source"
    """It shows the same kind of structure in the same series, and nothing more: it may have been made without ours."""


class Reason(NamedTuple):
    """Why a result is rejected: a code, and what it means for the result of a model."""

    code: str
    scheme: str
    meaning: str
    words: str


REASONS = {
    code: Reason(code, "DCM", meaning, words)
    for code, meaning, words in (
        ("111219", "Inappropriate image processing", "the outline, class or measurement is wrong"),
        ("111207", "Image artifact(s)", "artifacts in the images misled it"),
        ("111210", "Motion blur", "motion in the images misled it"),
        ("111209", "Positioning", "the field of view or position is not what it is made for"),
        ("111213", "No image", "what it was to look at is not in the images that it read"),
        ("111218", "Software failure", "the software failed, and the result is not usable"),
        ("111220", "Other failure", "another reason"),
        ("111221", "Unknown failure", "the reason is not known"),
    )
}
"""Those of CID 7011 "Rejected for Quality Reasons" (PS3.16) that can be true of a model's result, by code."""

LONGEST_COMMENT = 1024
"""Characters: a remark, not a report."""

LONGEST_NAME = 64
"""Characters of a component group of PN (PS3.5 6.2)."""


EXPORTED = (
    "review_id",
    "job_id",
    "model",
    "model_version",
    "verdict",
    "source",
    "basis",
    "at",
    "state",
    "of_this_result",
)
UIDS = ("study_instance_uid", "sop_instance_uid")


@dataclass(frozen=True, kw_only=True)
class Review:
    """A fact: it is written once and never changes. What does change is where its object stands, from ``state`` on."""

    review_id: str
    job_id: str
    study_instance_uid: str
    orthanc_id: str
    model: str
    model_version: str
    verdict: Verdict
    source: ReviewSource
    at: datetime
    """When it was recorded."""
    who: str = ""
    """The user who said it, or who sent the object that says it; empty if nobody was asked."""
    reader: str = ""
    """The reader's name, as DICOM's PN; empty if it is not known."""
    reason: tuple[str, str, str] | None = None
    """Of a rejection: code, scheme and meaning."""
    comment: str = ""
    """As a person typed it. It goes into the rejection note, and nowhere else: no log, no audit trail, no export."""
    result_digest: str
    """Of what the result said then (`digest_of`)."""
    results: tuple[tuple[str, str], ...] = ()
    """(SOP Class UID, SOP Instance UID) of the result's objects then."""
    stops_delivery: bool = False
    """Whether it withdrew what was not delivered yet."""
    object_uid: str | None = None
    """SOP Instance UID of the object that came back."""
    basis: Basis | None = None
    """By what that was recognised."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """Of an edited result, as far as both were at hand: ``dice`` by structure, ``changes`` of measurements."""

    state: ReviewState = ReviewState.ASKED
    failure: str = ""
    """Why the object cannot be written, or was not written yet."""
    objects: tuple[tuple[str, str], ...] = ()
    """(SOP Class UID, SOP Instance UID) of what is written for it."""
    written_at: datetime | None = None
    of_this_result: bool = True
    """Whether the job's result still says what it said then. It stands, or stood, in the same place otherwise."""

    @property
    def sop_instance_uid(self) -> str | None:
        """The object that says it in DICOM: ours, or the one that came back. Of several, the first."""
        return self.objects[0][1] if self.objects else self.object_uid

    def as_json(self) -> dict[str, Any]:
        """The review as JSON's types. It names the reader, and holds what was typed; see ``as_export``."""
        return {
            **asdict(self),
            "at": self.at.isoformat(),
            "reason": self.reason and dict(zip(("code", "scheme", "meaning"), self.reason, strict=True)),
            "results": [list(pair) for pair in self.results],
            "objects": [list(pair) for pair in self.objects],
            "comparison": dict(self.comparison),
            "written_at": self.written_at and self.written_at.isoformat(),
            "sop_instance_uid": self.sop_instance_uid,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The review that ``as_json`` gave."""
        reason, written_at, basis = values["reason"], values["written_at"], values["basis"]
        known = {name: values[name] for name in cls.__dataclass_fields__}
        return cls(
            **{
                **known,
                "verdict": Verdict(values["verdict"]),
                "source": ReviewSource(values["source"]),
                "state": ReviewState(values["state"]),
                "basis": None if basis is None else Basis(basis),
                "at": datetime.fromisoformat(values["at"]),
                "written_at": None if written_at is None else datetime.fromisoformat(written_at),
                "reason": None if reason is None else (reason["code"], reason["scheme"], reason["meaning"]),
                "results": _pairs(values["results"]),
                "objects": _pairs(values["objects"]),
            }
        )

    def as_export(self, *, with_uids: bool = False) -> dict[str, Any]:
        """The review for statistics, by names of columns: no reader, no user, nothing that a person typed; and unless
        ``with_uids``, nothing that leads to the study.
        """
        said = self.as_json()
        names = EXPORTED + (UIDS if with_uids else ())
        reason = self.reason or ("", "", "")
        return {
            **{name: said[name] for name in names},
            "reason_code": reason[0],
            "reason_meaning": reason[2],
            "comparison": dict(self.comparison),
        }

    def written(self, *, at: datetime) -> Self:
        """The same, with its object in the archive."""
        return replace(self, state=ReviewState.WRITTEN, written_at=at)


def digest_of(result: Mapping[str, Any]) -> str:
    """What tells whether a job's result says the same as before: a digest of all that it states, and of its objects."""
    said = {name: result.get(name, []) for name in ("findings", "classes", "numbers", "marks", "sop_instance_uids")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def counting(reviews: Sequence[Review]) -> Review | None:
    """Which of a job's reviews counts, given the newest first; None if there is none.

    The last one, whoever said it. But a verified report that came back does not take back a correction: viewers send a
    corrected segmentation, and the report that goes with it after that.
    """
    last: Review | None = None
    for review in reversed(reviews):
        is_report_of_edit = (
            last is not None
            and last.verdict is Verdict.EDITED
            and review.verdict is Verdict.ACCEPTED
            and review.source is ReviewSource.OBJECT
        )
        last = last if is_report_of_edit else review
    return last


def _pairs(values: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((one, other) for one, other in values)
