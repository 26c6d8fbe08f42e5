"""DICOM's audit messages, judged by the standard's schema."""

import base64
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from pydicom.sr.codedict import codes

from coread.audit import message as message_module
from coread.audit.event import AuditEvent, AuditKind
from coread.audit.message import MESSAGES, AuditSource, CodedValue, bare_message_of, message_of
from coread.audit.syslog import NOTICE, syslog_message
from tests.support import NOW

SCHEMA = etree.RelaxNG(file=str(Path(__file__).parents[1] / "resources" / "audit_message.rng"))
SOURCE = AuditSource(source_id="COREAD", site="General Hospital", aet="COREAD", host="reader")
JOB = {"model": "m", "model_version": "1", "profiles": ["ohif"], "destinations": [], "priority": "routine"}
RECEIVED = {"protocol": "DicomProtocol", "aet": "CT_1", "address": "10.0.0.7", "user": "", "again": False}
INSTANCES = [["1.2.840.10008.5.1.4.1.1.66.4", "2.25.1"], ["1.2.840.10008.5.1.4.1.1.88.34", "2.25.2"]]
DELIVERY = {**JOB, "destination": "pacs", "instances": INSTANCES, "not_confirmed": ["2.25.2"], "reason": ""}
DETAILS: dict[AuditKind, dict[str, Any]] = {
    AuditKind.STARTED: {"version": "1", "host": "reader", "models": {"m": "1"}},
    AuditKind.STOPPED: {"version": "1", "host": "reader"},
    AuditKind.WORKER_STARTED: {"version": "1", "models": {"m": {"version": "1", "digest": "ab" * 32, "device": "cpu"}}},
    AuditKind.RECEIVED: {**RECEIVED, "sop_classes": {"1.2.840.10008.5.1.4.1.1.4": 12}},
    AuditKind.JOB_RECORDED: {**JOB, "reason": "the study is complete"},
    AuditKind.MODEL_RAN: {**JOB, "model_digest": "ab" * 32, "attempt": 1, "outcome": "done", "reason": ""},
    AuditKind.CLAIMED_OUTSIDE: {**JOB, "was": "queued"},
    AuditKind.PERFORMED_OUTSIDE: {**JOB, "outcome": "done", "reason": ""},
    AuditKind.RESULTS_WRITTEN: {**JOB, "instances": INSTANCES},
    AuditKind.RESULTS_WITHDRAWN: {"model": "m", "model_version": "1", "instances": INSTANCES},
    AuditKind.DELIVERY_BEGUN: DELIVERY,
    AuditKind.DELIVERED: {**DELIVERY, "not_confirmed": []},
    AuditKind.DELIVERY_FAILED: {**DELIVERY, "reason": "it does not answer"},
    AuditKind.DELIVERY_WITHDRAWN: DELIVERY,
    AuditKind.DELIVERY_RETRIED: DELIVERY,
    AuditKind.DELIVERY_CANCELLED: DELIVERY,
    AuditKind.RETRIED: {**JOB, "was": "failed"},
    AuditKind.CANCELLED: {**JOB, "was": "waiting"},
    AuditKind.PRIORITISED: {**JOB, "was": "batch"},
    AuditKind.RAISED: {**JOB, "alert": "bleeding", "reason": "Haemorrhage present"},
    AuditKind.RAISE_ENDED: {**JOB, "alert": "bleeding", "reason": "a later reading does not find it"},
    AuditKind.DENIED: {"method": "POST", "route": "/coread/jobs/*/*", "reason": "no", "times": 3},
    AuditKind.REVIEWED: {
        **JOB,
        "verdict": "rejected",
        "source": "page",
        "instances": INSTANCES,
        "reason": "Motion blur",
    },
    AuditKind.REVIEW_WRITTEN: {**JOB, "verdict": "rejected", "instances": INSTANCES},
    AuditKind.REVIEW_FAILED: {**JOB, "verdict": "accepted", "instances": [], "reason": "it has no report"},
    AuditKind.RUN_STARTED: {"run_id": "4711", "name": "liver", "studies": 3, "terms": {"source": "pacs"}},
    AuditKind.RUN_PAUSED: {"run_id": "4711", "reason": "the PACS does not let us in"},
    AuditKind.RUN_RESUMED: {"run_id": "4711", "reason": ""},
    AuditKind.RUN_CANCELLED: {"run_id": "4711", "reason": ""},
    AuditKind.RUN_RETRIED: {"run_id": "4711", "studies": 2, "refused": False},
    AuditKind.RUN_CHANGED: {"run_id": "4711", "hours": "19:00-07:00", "in_flight": 8},
    AuditKind.RUN_FINISHED: {"run_id": "4711", "counts": {"done": 3}},
    AuditKind.COPY_RETRIEVED: {"run_id": "4711", "source": "pacs", "instances_retrieved": 12},
    AuditKind.COPY_REMOVED: {"run_id": "4711", "instances_removed": 14},
}


def event(kind: AuditKind, **more: Any) -> AuditEvent:
    is_of_system = kind in (AuditKind.STARTED, AuditKind.STOPPED, AuditKind.WORKER_STARTED, AuditKind.DENIED)
    is_of_run = "run_id" in DETAILS[kind]
    return AuditEvent(
        audit_id=7,
        at=NOW,
        kind=kind,
        study_instance_uid=None if is_of_system else "1.2.3",
        job_id=None if is_of_system or is_of_run or kind is AuditKind.RECEIVED else "0123abcd",
        who="reader:4711",
        details={**DETAILS[kind], **more},
    )


def parsed(each: AuditEvent, source: AuditSource = SOURCE) -> Any:
    """The message's root element, once the schema has found nothing."""
    root = etree.fromstring(message_of(each, source).encode())
    assert SCHEMA.validate(root), SCHEMA.error_log
    return root


def test_the_schema_finds_what_is_wrong() -> None:
    root = parsed(event(AuditKind.RECEIVED))
    root.remove(root.find("AuditSourceIdentification"))
    assert not SCHEMA.validate(root)


@pytest.mark.parametrize("kind", AuditKind)
def test_every_event_has_a_message_that_is_valid(kind: AuditKind) -> None:
    root = parsed(event(kind))
    identification = root.find("EventIdentification")
    event_id, action = MESSAGES[kind]
    assert identification.find("EventID").get("csd-code") == event_id.code
    assert identification.get("EventActionCode") == action
    requestors = [each for each in root.findall("ActiveParticipant") if each.get("UserIsRequestor") == "true"]
    assert len(requestors) <= 1


def test_every_code_of_dicoms_exists_and_means_what_we_say() -> None:
    known = {code.value: code.meaning for code in map(codes.DCM.__getattr__, codes.DCM.dir())}
    ours = [each for each in vars(message_module).values() if isinstance(each, CodedValue) and each.scheme == "DCM"]
    assert len(ours) > 8
    assert {each.code: each.meaning for each in ours} == {each.code: known[each.code] for each in ours}


def test_what_arrived_names_sender_and_receiver() -> None:
    sender, receiver = parsed(replace(event(AuditKind.RECEIVED), who="CT_1")).findall("ActiveParticipant")
    assert (sender.get("UserID"), sender.get("AlternativeUserID")) == ("CT_1", "AETITLES=CT_1")
    assert (sender.get("NetworkAccessPointID"), sender.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")
    assert sender.find("RoleIDCode").get("csd-code") == "110153"
    assert receiver.find("RoleIDCode").get("csd-code") == "110152"


def test_a_study_that_grew_is_an_update() -> None:
    identification = parsed(event(AuditKind.RECEIVED, again=True)).find("EventIdentification")
    assert identification.get("EventActionCode") == "U"


@pytest.mark.parametrize(
    ("outcome", "indicator"),
    [("done", "0"), ("refused", "0"), ("superseded", "0"), ("cancelled", "0"), ("waiting", "4"), ("failed", "8")],
)
def test_how_a_run_ended_is_told(outcome: str, indicator: str) -> None:
    identification = parsed(event(AuditKind.MODEL_RAN, outcome=outcome, reason="because")).find("EventIdentification")
    assert identification.get("EventOutcomeIndicator") == indicator
    assert identification.findtext("EventOutcomeDescription") == "because"


def test_a_run_names_the_model_its_digest_and_the_device() -> None:
    root = parsed(event(AuditKind.MODEL_RAN, device="cuda:0"))
    (model,) = root.xpath("ParticipantObjectIdentification[@ParticipantObjectTypeCodeRole='26']")
    assert model.get("ParticipantObjectID") == "m 1"
    details = {
        each.get("type"): base64.b64decode(each.get("value")).decode() for each in model.iter() if each.get("type")
    }
    assert details == {"model_digest": "ab" * 32, "device": "cuda:0"}


def test_results_are_named_by_class_and_instance() -> None:
    root = parsed(event(AuditKind.RESULTS_WRITTEN))
    found = [(each.getparent().get("UID"), each.get("UID")) for each in root.iter("Instance")]
    assert [list(pair) for pair in found] == INSTANCES


def test_a_person_whom_nobody_asked_for_a_name_is_said_to_be_so() -> None:
    person, _ = parsed(replace(event(AuditKind.CANCELLED), who="")).findall("ActiveParticipant")
    assert person.get("UserID") == "unauthenticated@reader"


@pytest.mark.parametrize(("who", "user_id"), [("ada", "ada@reader"), ("ada@elsewhere", "ada@elsewhere")])
def test_a_person_is_named_by_login_and_machine(who: str, user_id: str) -> None:
    person, _ = parsed(replace(event(AuditKind.RETRIED), who=who)).findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("UserIsRequestor")) == (user_id, "true")


def test_a_message_of_very_many_instances_keeps_within_what_every_receiver_takes() -> None:
    many = [["1.2.840.10008.5.1.4.1.1.4", f"2.25.{10**30 + number}"] for number in range(10_000)]
    each = event(AuditKind.RESULTS_WRITTEN, instances=many, reason="x" * 100_000)
    assert parsed(each).find(".//SOPClass").get("NumberOfInstances") == "10000"
    text = message_of(each, SOURCE)
    assert len(syslog_message(text, at=NOW, host="reader", sequence=7, severity=NOTICE)) <= 32768


def test_a_message_of_very_many_models_keeps_within_what_receivers_take() -> None:
    said = {"version": "1.0.0", "digest": "a" * 64, "device": "NVIDIA H200"}
    for number in (30, 1000):
        each = event(AuditKind.WORKER_STARTED, models={f"{'m' * 64}{index}": said for index in range(number)})
        parsed(each)
        text = message_of(each, SOURCE)
        assert len(syslog_message(text, at=NOW, host="reader", sequence=7, severity=NOTICE)) <= 32768
    assert "1000 models" in text


@pytest.mark.parametrize("kind", AuditKind)
def test_a_row_without_its_details_has_a_bare_message_that_is_valid(kind: AuditKind) -> None:
    root = etree.fromstring(bare_message_of(replace(event(kind), details={}), SOURCE).encode())
    assert SCHEMA.validate(root), SCHEMA.error_log


TEXTS = st.text(st.characters(), max_size=40)


@given(kind=st.sampled_from(AuditKind), who=TEXTS, reason=TEXTS, aet=TEXTS, address=TEXTS, site=TEXTS, host=TEXTS)
def test_whatever_a_sender_calls_itself_the_message_is_valid_and_on_one_line(
    kind: AuditKind, who: str, reason: str, aet: str, address: str, site: str, host: str
) -> None:
    odd = replace(event(kind, reason=reason, aet=aet, address=address), who=who)
    source = replace(SOURCE, site=site, host=host, source_id=site)
    root = parsed(odd, source)
    assert root.tag == "AuditMessage"
    sent = syslog_message(message_of(odd, source), at=NOW, host=host, sequence=7, severity=NOTICE)
    assert len(sent.splitlines()) == 1
    header, _, text = sent.partition(b"\xef\xbb\xbf")
    assert header.startswith(b"<85>1 2026-01-02T03:04:05.678901Z ")
    assert etree.fromstring(text).tag == "AuditMessage"


def test_the_time_has_its_zone() -> None:
    late = replace(event(AuditKind.STARTED), at=NOW + timedelta(hours=1))
    assert parsed(late).find("EventIdentification").get("EventDateTime") == "2026-01-02T04:04:05.678901+00:00"
