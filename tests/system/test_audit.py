"""The audit trail of a real run: every event once, as a row and as a message, and the patient in neither."""

import json
from pathlib import Path

import httpx
from click.testing import CliRunner
from lxml import etree

from coread.audit.event import AuditEvent, AuditKind
from coread.cli import coread
from coread.ledger import Ledger
from coread.settings import load_settings
from coread.supervisor import Supervisor
from tests.support import program
from tests.syslog_server import SyslogServer
from tests.system.conftest import SETTINGS, System
from tests.system.test_main_job import phantom_images
from tests.unit.test_audit_message import SCHEMA

AUDITED = """
[orthanc]
http_port = 0
dicom_port = 0
password = "secret"
[audit]
syslog = "tcp://127.0.0.1:{port}"
site = "General Hospital"
"""
AS_ADA = ("coread", "secret")
NAMES = {"patient_name": "UNIQUENAME^SECRET", "patient_id": "UNIQUEID77"}


def test_who_sent_what_ran_and_what_was_written_is_told_once(tmp_path: Path) -> None:
    program("Orthanc")
    settings_file = tmp_path / "coread.toml"
    with SyslogServer() as server:
        before, _, after = SETTINGS.partition("[orthanc]\nhttp_port = 0\ndicom_port = 0\n")
        settings_file.write_text(before + AUDITED.format(port=server.port) + after)
        settings = load_settings(settings_file)
        with Supervisor(settings, settings_file=settings_file) as running:
            system = System(running, tmp_path)
            images = phantom_images("audited", **NAMES)
            study = system.send(images[:-1])
            first = system.job(study)
            with system.stopped("worker"):
                system.send(images[-1:])
                (second,) = system.wait(lambda: [job for job in system.jobs(study) if job["state"] == "queued"])
                change = f"{running.http_url}/coread/jobs/{second['job_id']}/priority/stat"
                assert httpx.post(change, auth=AS_ADA, trust_env=False).is_success
            system.wait(lambda: {job["state"] for job in system.jobs(study)} == {"superseded", "done"})
            asked = httpx.get(f"{running.http_url}/coread/audit?study={study}", auth=AS_ADA, trust_env=False)
            system.wait(lambda: len(server.messages) == 12)
        ledger = Ledger(settings.ledger_url)
        everything = ledger.audit()[::-1]
    (started,) = (row for row in everything if row.kind is AuditKind.WORKER_STARTED)
    rows = [row for row in everything if row is not started]
    assert [row.kind for row in rows] == [
        AuditKind.STARTED,
        AuditKind.RECEIVED,
        AuditKind.JOB_RECORDED,
        AuditKind.MODEL_RAN,
        AuditKind.RESULTS_WRITTEN,
        AuditKind.RECEIVED,
        AuditKind.JOB_RECORDED,
        AuditKind.PRIORITISED,
        AuditKind.MODEL_RAN,
        AuditKind.RESULTS_WRITTEN,
        AuditKind.RESULTS_WITHDRAWN,
        AuditKind.STOPPED,
    ]
    received = rows[1].details
    assert (rows[1].who, received["address"], received["protocol"]) == ("COREAD-SEND", "127.0.0.1", "DicomProtocol")
    assert list(received["sop_classes"].values()) == [len(images) - 1]
    assert rows[3].details["model_digest"] == first["result"]["model_digest"]
    assert started.details["models"]["left_ventricle_sax"]["digest"] == first["result"]["model_digest"]
    assert [uid for _, uid in rows[4].details["instances"]] == first["result"]["sop_instance_uids"]
    assert rows[7].who == "coread"
    assert rows[10].job_id == first["job_id"]
    assert {AuditEvent.from_json(event).audit_id for event in asked.json()} == {row.audit_id for row in rows[1:11]}
    sent = [message.partition(b"\xef\xbb\xbf") for message in server.messages]
    ids = [int(header.partition(b'sequenceId="')[2].partition(b'"')[0]) for header, _, _ in sent]
    assert ids == [row.audit_id for row in everything[:12]]
    for _, _, text in sent:
        assert SCHEMA.validate(etree.fromstring(text)), SCHEMA.error_log
    listed = CliRunner().invoke(coread, ["--config", str(settings_file), "audit", "list", "--study", study, "--json"])
    assert [event["audit_id"] for event in json.loads(listed.output)] == [row.audit_id for row in rows[1:11]]
    said = b"".join(server.messages) + json.dumps([row.as_json() for row in everything]).encode() + asked.content
    for word in (b"UNIQUENAME", b"UNIQUEID77"):
        assert word not in said
