"""The row of a study: what Orthanc says of it, how its jobs stand, and the one state that tells most of it."""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from coread.archive import is_source
from coread.job import JobState, Priority
from coread.ledger import ArrivingStudy
from coread.ledger.following import Standing


class StudyState(StrEnum):
    """Where a study stands, the one first that tells most: of several models' states, the first one here is shown."""

    STALLED = "stalled"
    """It waits without end: for missing images, or for a person."""
    ARRIVING = "arriving"
    """It is not complete. What was read of it before is about to be replaced."""
    FAILED = "failed"
    STORING = "storing"
    RUNNING = "running"
    QUEUED = "queued"
    WAITING = "waiting"
    DONE = "done"
    """A model has read it. Others may have refused it: routes often offer a study to several."""
    REFUSED = "refused"
    CANCELLED = "cancelled"
    NOT_ROUTED = "not-routed"
    """No model is to read it."""


STATE_RANK: Mapping[str, int] = {state: rank for rank, state in enumerate(StudyState)}
PRIORITY_RANK: Mapping[str, int] = {"": 0, Priority.BATCH: 1, Priority.ROUTINE: 2, Priority.STAT: 3}
REVIEWS = ("accepted", "edited", "rejected")
ORTHANC_TIME = "%Y%m%dT%H%M%S"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What Orthanc says of a study. Of the header, what it holds is taken as it is, but for white space around it."""

    orthanc_id: str
    study_instance_uid: str
    patient_name: str = ""
    patient_id: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_description: str = ""
    study_date: str = ""
    study_time: str = ""
    modalities: str = ""
    """Those of the series that a model may read, in order, with a backslash between them."""
    images: int = 0
    """Instances of these series."""
    arrived_at: str = ""
    """When the last of them came, ISO 8601 in UTC."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a study has come, by the ledger."""

    state: str = StudyState.NOT_ROUTED
    because: str = ""
    """What it waits for, or why a model failed or refused."""
    models: str = "[]"
    """Each model with its state, as JSON."""
    priority: str = ""
    """The highest of its jobs', and of what findings have raised it to."""
    key_finding: str = ""
    raised: bool = False
    """Whether a finding has raised it."""
    review: str = ""
    """What people say of its results: one of REVIEWS, or nothing."""
    archive_run: str = ""
    """The archive run that alone has brought it here, and takes it away again; empty if anybody else sent it."""
    ended_at: str = ""
    """When the last of its jobs ended, ISO 8601 in UTC; empty while one has not."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A study in the list."""

    facts: Facts
    progress: Progress = field(default_factory=Progress)


def facts_of(study: Mapping[str, Any], series: Iterable[Mapping[str, Any]]) -> Facts:
    """The facts of a study as Orthanc's REST interface describes it, with its series."""
    tags = {**study.get("PatientMainDicomTags", {}), **study.get("MainDicomTags", {})}
    sources = [
        each
        for each in series
        if is_source(
            modality=each["MainDicomTags"].get("Modality"), manufacturer=each["MainDicomTags"].get("Manufacturer")
        )
    ]
    times = [each["LastUpdate"] for each in sources if each.get("LastUpdate")]
    return Facts(
        orthanc_id=str(study["ID"]),
        study_instance_uid=_said(tags, "StudyInstanceUID"),
        patient_name=_said(tags, "PatientName"),
        patient_id=_said(tags, "PatientID"),
        patient_birth_date=_said(tags, "PatientBirthDate"),
        patient_sex=_said(tags, "PatientSex"),
        accession_number=_said(tags, "AccessionNumber"),
        study_description=_said(tags, "StudyDescription"),
        study_date=_said(tags, "StudyDate"),
        study_time=_said(tags, "StudyTime"),
        modalities="\\".join(sorted({_said(each["MainDicomTags"], "Modality") or "OT" for each in sources})),
        images=sum(len(each.get("Instances", ())) for each in sources),
        arrived_at=_utc(max(times, default=str(study.get("LastUpdate") or ""))),
    )


def progress_of(
    standings: Sequence[Standing],
    arriving: ArrivingStudy | None,
    *,
    key_findings: Sequence[str] = (),
    raised: Sequence[Mapping[str, Any]] = (),
    review: str = "",
    archive_run: str = "",
) -> Progress:
    """How far a study has come. ``standings``: of all its jobs; superseded ones tell nothing of it any more.

    ``key_findings``: of the jobs that are done; ``raised``: by what findings, with the priority that each gives it.
    """
    standing = [each for each in standings if each.record.state is not JobState.SUPERSEDED]
    states = [StudyState(each.record.state) for each in standing]
    because = {StudyState(each.record.state): each.record.reason for each in reversed(standing)}
    if arriving is not None:
        state = StudyState.STALLED if arriving.wait.stalled else StudyState.ARRIVING
        states.append(state)
        because[state] = arriving.wait.waits_for or "instances are arriving"
    state = min(states, key=STATE_RANK.__getitem__, default=StudyState.NOT_ROUTED)
    ended = [each.ended_at for each in standing]
    is_over = arriving is None and bool(ended)
    return Progress(
        state=state,
        because=because.get(state, ""),
        models=json.dumps([{"model": each.record.job.model, "state": each.record.state} for each in standing]),
        priority=max(
            (*(each.record.job.priority for each in standing), *(each.get("priority") or "" for each in raised)),
            key=PRIORITY_RANK.__getitem__,
            default="",
        ),
        key_finding="; ".join(filter(None, key_findings)),
        raised=bool(raised),
        review=review,
        archive_run=archive_run,
        ended_at=max(at.astimezone(UTC) for at in ended if at).isoformat() if is_over and all(ended) else "",
    )


def gravest(verdicts: Iterable[str]) -> str:
    """What people say of a study: that all its results are right only if they said so of each."""
    said = set(verdicts)
    return next((verdict for verdict in ("rejected", "edited", "", "accepted") if verdict in said), "")


def as_json(row: Row) -> dict[str, Any]:
    """The row as the list gives it."""
    values = {**vars(row.facts), **vars(row.progress)}
    modalities = row.facts.modalities
    return {
        **values,
        "modalities": modalities.split("\\") if modalities else [],
        "models": json.loads(row.progress.models),
    }


def searched(facts: Facts, progress: Progress) -> str:
    """The text that a search looks through."""
    texts = (
        facts.patient_name,
        facts.patient_id,
        facts.accession_number,
        facts.study_description,
        facts.study_instance_uid,
        progress.key_finding,
    )
    return " \n".join(map(folded, texts))


def folded(text: str) -> str:
    """A text as searches and sorting compare it: without case, accents and the signs between a name's parts."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return re.sub(r"[\^=,\s]+", " ", plain.casefold()).strip()


def _said(tags: Mapping[str, Any], keyword: str) -> str:
    return str(tags.get(keyword) or "").strip(" \0")


def _utc(orthanc_time: str) -> str:
    """Orthanc's time, which is in UTC, in ISO 8601; empty if it is none."""
    try:
        return datetime.strptime(orthanc_time, ORTHANC_TIME).replace(tzinfo=UTC).isoformat()
    except ValueError:
        return ""
