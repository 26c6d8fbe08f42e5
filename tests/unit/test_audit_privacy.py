"""No text of a header reaches the audit trail, whatever stands there and however a job breaks."""

import json
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.archive import Archive, ArchivedSeries, ArchivedStudy
from coread.audit.event import AuditKind, Sender
from coread.audit.message import AuditSource, message_of
from coread.job import JobState
from coread.ledger import Ledger
from coread.models.runner import BundleRunner
from coread.plugin.connections import Associations
from coread.plugin.evidence import EvidenceGatherer
from coread.plugin.intake import Intake
from coread.plugin.planning import Planner
from coread.plugin.route_table import RoutesInForce
from coread.plugin.stated import StatedCounts
from coread.plugin.watermark import Watermark
from coread.routes import Route
from coread.settings import IntakeSettings, ResultSettings, Settings, WorkerSettings
from coread.workers.jobs import JobRunner
from tests.support import NOW

MARK = "Ophelia"
HEADER_TEXTS = st.tuples(st.text(max_size=10), st.text(max_size=10)).map(MARK.join)
SOURCE = AuditSource(source_id="COREAD", aet="COREAD", host="reader")
LATER = NOW + timedelta(minutes=1)


class PrivateArchive:
    """An Orthanc with one study, full of personal data, that breaks when a worker asks for it."""

    def __init__(self, text: str) -> None:
        tags = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "StudyDescription"), text)
        series = ArchivedSeries(
            orthanc_id="s", tags={"Modality": "MR", "SeriesInstanceUID": "1.2.1", **tags}, instances={"i": "1.2.3"}
        )
        self._study = ArchivedStudy(orthanc_id="study", study_instance_uid="1.2", tags=tags, series=[series])
        self._text = text
        self.is_broken = False

    def study(self, _orthanc_id: str) -> ArchivedStudy:
        if self.is_broken:
            raise ValueError(f"cannot parse {self._text}")
        return self._study

    def digests(self, orthanc_ids: Any) -> dict[str, str]:
        return dict.fromkeys(orthanc_ids, "digest")

    def senders(self, _study: ArchivedStudy) -> list[Sender]:
        return [Sender(protocol="DicomProtocol", aet="CT_1", address="10.0.0.7", sop_classes={"1.2.840": 1})]

    def last_change(self) -> int:
        return 0

    def changes(self, *, since: int, limit: int) -> tuple[list[Any], int]:  # noqa: ARG002  # the log is empty
        return [], since


def all_that_is_told(folder: Path, text: str) -> list[str]:
    """Every row and message of a study that is taken in and whose job breaks."""
    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    ledger.migrate()
    archive = PrivateArchive(text)
    ledger.note_arrivals({"study": 1}, archive_identity="orthanc", last_change=1, at=NOW)
    known = cast("Archive", archive)
    settings = Settings(intake=IntakeSettings(quiet_s=1))
    routes = RoutesInForce(routes=(Route(name="all", models=("m",)),), model_versions={"m": "1"}, keywords=frozenset())
    Intake(
        archive=known,
        archive_identity="orthanc",
        ledger=ledger,
        evidence=EvidenceGatherer(
            archive=known,
            associations=Associations(read=lambda: frozenset()),
            stated=StatedCounts(find=lambda _pacs, _study: {}, pacs=(), clock=lambda: LATER),
            watching_since=NOW,
        ),
        planner=Planner(archive=known, settings=settings, routes=lambda: routes),
        watermark=Watermark(read=lambda: 0, write=lambda _change: None, ledger=ledger, archive_identity="orthanc"),
        settings=settings,
        ring=lambda _queue, _job_id: None,
        clock=lambda: LATER,
    ).step()
    archive.is_broken = True
    state = JobRunner(
        archive=cast("Archive", archive),
        ledger=ledger,
        models=lambda _name: cast("BundleRunner", SimpleNamespace(model=SimpleNamespace(version="1"))),
        settings=WorkerSettings(),
        results=ResultSettings(),
        worker="reader:1",
    ).run_next()
    assert state is JobState.WAITING
    events = ledger.audit()
    assert {event.kind for event in events} == {AuditKind.RECEIVED, AuditKind.JOB_RECORDED, AuditKind.MODEL_RAN}
    rows = [json.dumps(event.as_json(), ensure_ascii=False) for event in events]
    return rows + [message_of(event, SOURCE) for event in events]


@settings(max_examples=10, deadline=None)
@given(text=HEADER_TEXTS)
def test_no_text_of_a_header_reaches_a_row_or_a_message(text: str) -> None:
    with TemporaryDirectory() as folder:
        told = all_that_is_told(Path(folder), text)
    assert [each for each in told if MARK in each] == []


def test_what_a_header_has_in_the_place_of_a_sop_class_uid_is_not_quoted() -> None:
    def respond(_request: httpx.Request) -> httpx.Response:
        metadata = {"Origin": "RestApi", "RemoteIP": "10.0.0.7", "SopClassUid": "Ophelia Brown"}
        return httpx.Response(200, json=[{"ID": "i", "Metadata": metadata}, {"ID": "a result", "Metadata": metadata}])

    archive = Archive("http://nowhere")
    archive._http.close()
    archive._http = httpx.Client(base_url="http://nowhere", transport=httpx.MockTransport(respond))
    study = PrivateArchive("").study("study")
    assert archive.senders(study) == [Sender(protocol="RestApi", address="10.0.0.7", sop_classes={"": 1})]
    archive._http.close()
