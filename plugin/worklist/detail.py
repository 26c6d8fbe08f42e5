"""All that is known of one study, for its page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from coread.archive import Archive
from coread.errors import ArchiveUnavailable
from coread.job import JobState
from coread.ledger import JobRecord, Ledger
from coread.ledger.following import Standing
from coread.plugin.rest import describe_arriving
from coread.plugin.worklist.joined import Joined
from coread.plugin.worklist.plain import explanation_of, may
from coread.plugin.worklist.rows import Row, as_json

KINDS: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label map",
    "1.2.840.10008.5.1.4.1.1.88.11": "Report",
    "1.2.840.10008.5.1.4.1.1.88.22": "Report",
    "1.2.840.10008.5.1.4.1.1.88.33": "Report",
    "1.2.840.10008.5.1.4.1.1.88.34": "Report",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key images",
    "1.2.840.10008.5.1.4.1.1.481.3": "Structure set",
    "1.2.840.10008.5.1.4.1.1.30": "Parametric map",
    "1.2.840.10008.5.1.4.1.1.7": "Picture",
    "1.2.840.10008.5.1.4.1.1.7.4": "Pictures",
    "1.2.840.10008.5.1.4.1.1.11.1": "Presentation state",
}
"""SOP Class UID of a result → what people call it (PS3.4 B.5)."""
WITH_RESULTS = frozenset({JobState.DONE, JobState.REFUSED})


def detail_of(row: Row, *, archive: Archive, ledger: Ledger, joined: Joined, at: datetime) -> dict[str, Any]:
    """The study's page as JSON: its row, and its jobs, those that count first."""
    orthanc_id = row.facts.orthanc_id
    standings = ledger.standing([orthanc_id]).get(orthanc_id, [])
    standings.sort(key=lambda each: each.record.state is JobState.SUPERSEDED)
    records = [each.record for each in standings]
    added: dict[str, dict[str, Any]] = {}
    for part in joined.of_jobs:
        for job_id, more in part(records).items():
            added.setdefault(job_id, {}).update(more)
    arriving = next((study for study in ledger.arriving() if study.orthanc_id == orthanc_id), None)
    return {
        **as_json(row),
        "raised": joined.raised([orthanc_id]).get(orthanc_id),
        "viewers": list(joined.viewers(row.facts)),
        "arriving": arriving and describe_arriving(arriving),
        "jobs": [
            {
                **_job(standing, ledger=ledger, archive=archive),
                "key_finding": joined.key_finding(standing.record.result),
                **added.get(standing.record.job.job_id, {}),
            }
            for standing in standings
        ],
        "at": at.isoformat(),
    }


def _job(standing: Standing, *, ledger: Ledger, archive: Archive) -> dict[str, Any]:
    record = standing.record
    values = record.as_json()
    result = values.pop("result")
    return {
        **values,
        "ended_at": standing.ended_at and standing.ended_at.isoformat(),
        "explanation": explanation_of(record),
        "may": may(record),
        "limits": result.get("limits", ""),
        "device": result.get("device", ""),
        "timings": {**result.get("seconds", {})},
        "chosen": result.get("series", {}),
        "history": [event.as_json() for event in ledger.history(record.job.job_id)],
        "results": _results(record, archive) if record.state in WITH_RESULTS else [],
        "words": [],
        "pictures": [],
        "reviews": [],
        "deliveries": [],
    }


def _results(record: JobRecord, archive: Archive) -> list[dict[str, str | None]]:
    """The result objects, and where in Orthanc each can be fetched; nowhere, if it is not there any more."""
    uids: Sequence[str] = record.result.get("sop_instance_uids", ())
    classes: Sequence[str] = record.result.get("sop_class_uids", ()) or [""] * len(uids)
    try:
        found = {uid: archive.find_instance(uid) for uid in uids}
        titles = _titles([orthanc_id for orthanc_id in found.values() if orthanc_id], archive)
    except ArchiveUnavailable:  # the page is of use without the links, too
        found, titles = {}, {}
    return [
        {
            "kind": KINDS.get(sop_class_uid, "Result"),
            "title": titles.get(found.get(uid) or "", ""),
            "sop_instance_uid": uid,
            "sop_class_uid": sop_class_uid,
            "orthanc_id": found.get(uid),
            "url": f"/instances/{found[uid]}/file" if found.get(uid) else None,
        }
        for uid, sop_class_uid in zip(uids, classes, strict=False)
    ]


def _titles(orthanc_ids: Sequence[str], archive: Archive) -> dict[str, str]:
    """Instance → what its series is called."""
    return {
        str(instance): str(series["MainDicomTags"].get("SeriesDescription", ""))
        for series in archive.at_hand(orthanc_ids, level="Series")
        for instance in series["Instances"]
    }
