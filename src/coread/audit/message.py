"""A row of the audit trail as DICOM's audit message: XML by the schema of PS3.15 A.5.1, filled in by A.5.2 and A.5.3.

The patient, whom many of these messages should name as a participant, is left out on purpose: the message leaves the
hospital's clinical systems for a log, and the StudyInstanceUID leads back to the patient where that is allowed.
"""

import base64
import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from coread.audit.event import BY_A_PERSON, OF_A_RUN, AuditEvent, AuditKind, printable
from coread.job import JobState


class CodedValue(NamedTuple):
    """A coded value of the schema."""

    code: str
    scheme: str
    meaning: str


# CID 400, what happened
APPLICATION_ACTIVITY = CodedValue("110100", "DCM", "Application Activity")
BEGIN_TRANSFERRING = CodedValue("110102", "DCM", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = CodedValue("110103", "DCM", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = CodedValue("110104", "DCM", "DICOM Instances Transferred")
PROCEDURE_RECORD = CodedValue("110111", "DCM", "Procedure Record")
SECURITY_ALERT = CodedValue("110113", "DCM", "Security Alert")
# CID 401, of which type
APPLICATION_START = CodedValue("110120", "DCM", "Application Start")
APPLICATION_STOP = CodedValue("110121", "DCM", "Application Stop")
RESTRICTED_FUNCTION = CodedValue("110132", "DCM", "Use of Restricted Function")
# CID 402, who took part
APPLICATION = CodedValue("110150", "DCM", "Application")
DESTINATION = CodedValue("110152", "DCM", "Destination Role ID")
SOURCE = CodedValue("110153", "DCM", "Source Role ID")
# CID 404 and our own, what an object's identifier is
STUDY_INSTANCE_UID = CodedValue("110180", "DCM", "Study Instance UID")
JOB_ID = CodedValue("JobID", "99COREAD", "Job ID of Coread")
RUN_ID = CodedValue("RunID", "99COREAD", "Run ID of an archive run of Coread")
MODEL_NAME = CodedValue("Model", "99COREAD", "Name and version of a model of Coread")

MACHINE_NAME, IP_ADDRESS = "1", "2"
"""NetworkAccessPointTypeCode."""
SYSTEM_OBJECT = "2"
"""ParticipantObjectTypeCode."""
REPORT, JOB, PROCESSING_ELEMENT = "3", "20", "26"
"""ParticipantObjectTypeCodeRole (PS3.15 A.5.1.2.2); "report" is what the standard wants of a study."""
APPLICATION_SERVER = "4"
"""AuditSourceTypeCode."""

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = "0", "4", "8"
"""EventOutcomeIndicator: it went well (a refusal is no failure), it will be tried again, it was given up."""

MESSAGES: Mapping[AuditKind, tuple[CodedValue, str]] = {
    AuditKind.STARTED: (APPLICATION_ACTIVITY, "E"),
    AuditKind.STOPPED: (APPLICATION_ACTIVITY, "E"),
    AuditKind.WORKER_STARTED: (APPLICATION_ACTIVITY, "E"),
    AuditKind.RECEIVED: (INSTANCES_TRANSFERRED, "C"),
    AuditKind.JOB_RECORDED: (PROCEDURE_RECORD, "C"),
    AuditKind.MODEL_RAN: (INSTANCES_ACCESSED, "R"),
    AuditKind.CLAIMED_OUTSIDE: (PROCEDURE_RECORD, "U"),
    AuditKind.PERFORMED_OUTSIDE: (PROCEDURE_RECORD, "U"),
    AuditKind.RESULTS_WRITTEN: (INSTANCES_ACCESSED, "C"),
    AuditKind.RESULTS_WITHDRAWN: (INSTANCES_ACCESSED, "D"),
    AuditKind.DELIVERY_BEGUN: (BEGIN_TRANSFERRING, "E"),
    AuditKind.DELIVERED: (INSTANCES_TRANSFERRED, "R"),
    AuditKind.DELIVERY_FAILED: (INSTANCES_TRANSFERRED, "R"),
    AuditKind.DELIVERY_WITHDRAWN: (INSTANCES_TRANSFERRED, "R"),
    AuditKind.RETRIED: (PROCEDURE_RECORD, "U"),
    AuditKind.CANCELLED: (PROCEDURE_RECORD, "U"),
    AuditKind.PRIORITISED: (PROCEDURE_RECORD, "U"),
    AuditKind.DELIVERY_RETRIED: (PROCEDURE_RECORD, "U"),
    AuditKind.DELIVERY_CANCELLED: (PROCEDURE_RECORD, "U"),
    AuditKind.RAISED: (PROCEDURE_RECORD, "U"),
    AuditKind.RAISE_ENDED: (PROCEDURE_RECORD, "U"),
    AuditKind.DENIED: (SECURITY_ALERT, "E"),
    AuditKind.REVIEWED: (PROCEDURE_RECORD, "U"),
    AuditKind.REVIEW_WRITTEN: (INSTANCES_ACCESSED, "C"),
    AuditKind.REVIEW_FAILED: (INSTANCES_ACCESSED, "C"),
    AuditKind.RUN_STARTED: (PROCEDURE_RECORD, "C"),
    **dict.fromkeys(OF_A_RUN - {AuditKind.RUN_STARTED}, (PROCEDURE_RECORD, "U")),
    AuditKind.RUN_FINISHED: (PROCEDURE_RECORD, "U"),
    AuditKind.COPY_RETRIEVED: (INSTANCES_TRANSFERRED, "C"),
    AuditKind.COPY_REMOVED: (INSTANCES_ACCESSED, "D"),
}
"""Each kind's EventID and EventActionCode: create, read, update, delete, execute. Of a transfer to somebody else, "R"
is what the standard wants of a sender who cannot know what the receiver held before (PS3.15 A.5.3.7)."""

DELIVERING = frozenset(
    {
        AuditKind.DELIVERY_BEGUN,
        AuditKind.DELIVERED,
        AuditKind.DELIVERY_FAILED,
        AuditKind.DELIVERY_WITHDRAWN,
    }
)
"""What concerns a destination as a receiver."""

OF_A_JOB = (
    "priority",
    "profiles",
    "destinations",
    "destination",
    "attempt",
    "started_at",
    "outcome",
    "was",
    "not_confirmed",
    "alert",
    "verdict",
    "source",
    "basis",
    "object",
)
OF_A_MODEL = ("model_digest", "device", "way", "adapted", "series_instance_uid")
"""Details of a row that go with the job, and with the model, as ParticipantObjectDetail."""

LISTED = 200
"""Of more instances, the number stands in the message and not their UIDs: A.6 has receivers take 32768 octets."""
LISTED_MODELS = 30
"""Of a worker with more models, the number stands in the message and not their names."""
LONGEST_TEXT = 1000
"""Characters of a text; a reason that is longer is cut in the message, and whole in the row."""

NOBODY_ASKED = "unauthenticated"
"""The user, where Orthanc lets in everybody and tells no name."""


@dataclass(frozen=True, kw_only=True)
class AuditSource:
    """Who reports: this Coread."""

    source_id: str
    """AuditSourceID; the AE title, unless the settings say otherwise."""
    site: str | None = None
    """AuditEnterpriseSiteID."""
    aet: str
    host: str


def outcome_of(event: AuditEvent) -> str:
    """The EventOutcomeIndicator."""
    if (
        event.kind in (AuditKind.DELIVERY_FAILED, AuditKind.REVIEW_FAILED)
        or event.details.get("outcome") == JobState.FAILED
    ):
        return SERIOUS_FAILURE
    if event.kind is AuditKind.DENIED or event.details.get("outcome") == JobState.WAITING:
        return MINOR_FAILURE
    return SUCCESS


def message_of(event: AuditEvent, source: AuditSource) -> str:
    """The message, on one line, with its XML declaration."""
    return _message(_identification(event), _participants(event, source), source, _objects(event))


def bare_message_of(event: AuditEvent, source: AuditSource) -> str:
    """The message of a row whose details are not what they should be: what happened when, told by us."""
    identification = _identification(replace(event, details={"again": False}))
    return _message(identification, [_ourselves(source, is_requestor=True)], source, [])


def _message(
    identification: ET.Element, participants: Iterable[ET.Element], source: AuditSource, objects: Iterable[ET.Element]
) -> str:
    message = ET.Element("AuditMessage")
    message.append(identification)
    message.extend(participants)
    site = {"AuditEnterpriseSiteID": _text(source.site)} if source.site else {}
    reporter = ET.SubElement(message, "AuditSourceIdentification", {**site, "AuditSourceID": _text(source.source_id)})
    ET.SubElement(reporter, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    message.extend(objects)
    return '<?xml version="1.0" encoding="UTF-8"?>' + ET.tostring(message, encoding="unicode")


def _identification(event: AuditEvent) -> ET.Element:
    event_id, action = MESSAGES[event.kind]
    if event.kind is AuditKind.RECEIVED and event.details["again"]:
        action = "U"
    element = ET.Element(
        "EventIdentification",
        {
            "EventActionCode": action,
            "EventDateTime": event.at.isoformat(),
            "EventOutcomeIndicator": outcome_of(event),
        },
    )
    element.append(_coded("EventID", event_id))
    if event.kind in (AuditKind.STARTED, AuditKind.WORKER_STARTED):
        element.append(_coded("EventTypeCode", APPLICATION_START))
    if event.kind is AuditKind.STOPPED:
        element.append(_coded("EventTypeCode", APPLICATION_STOP))
    if event.kind is AuditKind.DENIED:
        element.append(_coded("EventTypeCode", RESTRICTED_FUNCTION))
    if event.details.get("reason"):
        ET.SubElement(element, "EventOutcomeDescription").text = _text(event.details["reason"])
    return element


# Who took part --------------------------------------------------------------------------------------------------------


def _participants(event: AuditEvent, source: AuditSource) -> list[ET.Element]:
    match event.kind:
        case AuditKind.STARTED | AuditKind.STOPPED:
            return [_ourselves(source, is_requestor=False, role=APPLICATION)]
        case AuditKind.WORKER_STARTED:
            return [_worker(event, is_requestor=False, role=APPLICATION)]
        case AuditKind.RECEIVED:
            return [_sender(event), _ourselves(source, is_requestor=False, role=DESTINATION)]
        case kind if kind in DELIVERING:
            return [_ourselves(source, is_requestor=True, role=SOURCE), _receiver(event)]
        case kind if kind in BY_A_PERSON:
            person = _participant(_login(event.who, source), is_requestor=True)
            return [person, _ourselves(source, is_requestor=False)]
        case _ if event.who:
            return [_worker(event, is_requestor=True)]
        case _:
            return [_ourselves(source, is_requestor=True)]


def _login(who: str, source: AuditSource) -> str:
    """A person as A.5.2.1 wants it: login@machine, ours if it is a user of Orthanc's."""
    name = who or NOBODY_ASKED
    return name if "@" in name else f"{name}@{source.host}"


def _ourselves(source: AuditSource, *, is_requestor: bool, role: CodedValue | None = None) -> ET.Element:
    place = (source.host, MACHINE_NAME)
    return _participant(
        source.source_id, name="Coread", aet=source.aet, is_requestor=is_requestor, role=role, place=place
    )


def _worker(event: AuditEvent, *, is_requestor: bool, role: CodedValue | None = None) -> ET.Element:
    place = (event.who.partition(":")[0], MACHINE_NAME)
    return _participant(event.who, name="Coread worker", is_requestor=is_requestor, role=role, place=place)


def _sender(event: AuditEvent) -> ET.Element:
    details = event.details
    address = details["address"]
    return _participant(
        event.who or address or details["protocol"] or NOBODY_ASKED,
        aet=details["aet"],
        is_requestor=True,
        role=SOURCE,
        place=(address, _kind_of_place(address)),
    )


def _receiver(event: AuditEvent) -> ET.Element:
    return _participant(event.details["destination"], is_requestor=False, role=DESTINATION)


def _participant(
    user: str,
    *,
    name: str = "",
    aet: str = "",
    is_requestor: bool,
    role: CodedValue | None = None,
    place: tuple[str, str] = ("", ""),
) -> ET.Element:
    said = {"UserID": _text(user)}
    if aet:
        said["AlternativeUserID"] = f"AETITLES={_text(aet)}"
    if name:
        said["UserName"] = name
    said["UserIsRequestor"] = "true" if is_requestor else "false"
    address, kind = place
    if address:
        said |= {"NetworkAccessPointID": _text(address), "NetworkAccessPointTypeCode": kind}
    element = ET.Element("ActiveParticipant", said)
    if role:
        element.append(_coded("RoleIDCode", role))
    return element


def _kind_of_place(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return MACHINE_NAME
    return IP_ADDRESS


# What was concerned ---------------------------------------------------------------------------------------------------


def _objects(event: AuditEvent) -> list[ET.Element]:
    found = []
    if event.study_instance_uid is not None:
        study = _object(event.study_instance_uid, STUDY_INSTANCE_UID, REPORT, name="Study")
        classes = list(_sop_classes(event.details))
        if classes:
            ET.SubElement(study, "ParticipantObjectDescription").extend(classes)
        found.append(study)
    if event.job_id is not None:
        found.append(_object(event.job_id, JOB_ID, JOB, name="Job", details=_some(event.details, OF_A_JOB)))
        model = f"{event.details['model']} {event.details['model_version']}"
        details = _some(event.details, OF_A_MODEL)
        found.append(_object(model, MODEL_NAME, PROCESSING_ELEMENT, name="Model", details=details))
    if event.details.get("run_id"):
        found.append(_object(event.details["run_id"], RUN_ID, JOB, name="Archive run"))
    if event.kind is AuditKind.WORKER_STARTED:
        found.extend(_loaded(event.details["models"]))
    return found


def _loaded(models: Mapping[str, Mapping[str, str]]) -> Iterable[ET.Element]:
    """A worker's models, if they are not too many."""
    if len(models) > LISTED_MODELS:
        yield _object(f"{len(models)} models", MODEL_NAME, PROCESSING_ELEMENT, name="Models")
        return
    for name, said in models.items():
        details = {"model_digest": said["digest"], "device": said["device"]}
        model = f"{name} {said['version']}"
        yield _object(model, MODEL_NAME, PROCESSING_ELEMENT, name="Model", details=details)


def _sop_classes(details: Mapping[str, Any]) -> Iterable[ET.Element]:
    """The element SOPClass of each class, with its instances if they are known and not too many."""
    instances: Sequence[tuple[str, str]] = details.get("instances", ())
    counts = Counter(details.get("sop_classes", {})) + Counter(sop_class for sop_class, _ in instances)
    for sop_class, number in sorted(counts.items()):
        said = {"UID": _text(sop_class)} if sop_class else {}
        element = ET.Element("SOPClass", {**said, "NumberOfInstances": str(number)})
        if len(instances) <= LISTED:
            for other, uid in instances:
                if other == sop_class:
                    ET.SubElement(element, "Instance", {"UID": _text(uid)})
        yield element


def _object(
    identifier: str, kind: CodedValue, role: str, *, name: str, details: Mapping[str, str] | None = None
) -> ET.Element:
    said = {
        "ParticipantObjectID": _text(identifier),
        "ParticipantObjectTypeCode": SYSTEM_OBJECT,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = ET.Element("ParticipantObjectIdentification", said)
    element.append(_coded("ParticipantObjectIDTypeCode", kind))
    ET.SubElement(element, "ParticipantObjectName").text = name
    for key, value in (details or {}).items():
        encoded = base64.b64encode(_text(value).encode()).decode()
        ET.SubElement(element, "ParticipantObjectDetail", {"type": key, "value": encoded})
    return element


def _some(details: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Those of the details that there are, as text; a list with commas."""
    found = {name: details[name] for name in names if details.get(name) not in (None, "", [])}
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in found.items()
    }


def _coded(tag: str, value: CodedValue) -> ET.Element:
    said = {"csd-code": value.code, "codeSystemName": value.scheme, "displayName": value.meaning}
    return ET.Element(tag, {**said, "originalText": value.meaning})


def _text(text: str) -> str:
    return printable(text)[:LONGEST_TEXT]
