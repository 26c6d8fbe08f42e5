"""Destinations of results for tests: real Orthancs, and DICOM servers that misbehave as told."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from coread.association import prepare
from coread.job import Job, JobState, Priority
from coread.ledger import Ledger
from coread.objects import Profile
from coread.orthanc_process import free_port
from tests.dicomweb_server import DicomwebServer
from tests.support import NOW, program

PATIENCE_S = 30.0


def wait_for(condition: Callable[[], Any], *, timeout_s: float = PATIENCE_S) -> Any:
    """What ``condition`` gives, once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


@dataclass(kw_only=True)
class OrthancServer:
    """A plain Orthanc with DICOMweb."""

    http_port: int
    dicom_port: int
    process: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def files(self) -> dict[str, bytes]:
        """SOP Instance UID → file of everything that it has."""
        with httpx.Client(base_url=self.url, trust_env=False) as http:
            return {
                http.get(f"/instances/{each}/simplified-tags").json()["SOPInstanceUID"]: http.get(
                    f"/instances/{each}/file"
                ).content
                for each in http.get("/instances").json()
            }

    def clear(self) -> None:
        with httpx.Client(base_url=self.url, trust_env=False) as http:
            for each in http.get("/patients").json():
                http.delete(f"/patients/{each}")


@contextmanager
def orthanc_server(folder: Path, **more: Any) -> Iterator[OrthancServer]:
    """An Orthanc that runs inside the block."""
    ports = [int(more.get(key, 0)) or free_port() for key in ("HttpPort", "DicomPort")]
    server = OrthancServer(http_port=ports[0], dicom_port=ports[1])
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": server.http_port,
        "DicomPort": server.dicom_port,
        "DicomAet": "ORTHANC",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpCompressionEnabled": False,
        "Plugins": [str(next(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*")))],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    command, quick = [program("Orthanc"), str(file)], {**os.environ, "TCP_NODELAY": "1"}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log, env=quick) as process:
        try:
            server.process = process
            wait_for(lambda: _answers(server.url))
            yield server
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/system", trust_env=False).is_success
    except httpx.TransportError:
        return False


@dataclass(frozen=True, kw_only=True)
class Page:
    """Any answer of an HTTP server."""

    status: int
    kind: str = "application/dicom+json"
    text: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class StowServer(DicomwebServer):
    """A DICOMweb server that counts what it gets, and misbehaves as told; running inside the block."""

    answers: Callable[[str, int], tuple[int, int | None] | Page | None] = lambda _uid, _number: (200, None)
    """(SOP Instance UID, how many objects have come, this one included) → HTTP status and Failure Reason, or what else
    is answered; None: the connection is closed without an answer."""
    keeps: Callable[[str], bool] = lambda _uid: True
    """Whether it finds what it got under a SOP Instance UID."""
    search: int = 200
    """The HTTP status of QIDO-RS."""
    received: list[tuple[str, bytes]] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)
    authorizations: set[str | None] = field(default_factory=set)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the library's name
                server.authorizations.add(self.headers["Authorization"])
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.store(self, body, self.headers["Content-Type"])

            def do_GET(self) -> None:
                uid = self.path.partition("SOPInstanceUID=")[2]
                server.searched.append(uid)
                found = [
                    {"00080018": {"vr": "UI", "Value": [each]}}
                    for each in server.uids
                    if each == uid and server.keeps(uid)
                ]
                answer_json(self, server.search, found)

            def log_message(self, *_message: object) -> None:
                pass

        return Handler

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _ in self.received]

    def store(self, handler: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
        boundary = kind.partition("boundary=")[2].encode()
        head, _, rest = body.partition(b"\r\n\r\n")
        assert head == b"--" + boundary + b"\r\nContent-Type: application/dicom"
        file = rest.removesuffix(b"\r\n--" + boundary + b"--\r\n")
        uid = str(dcmread(BytesIO(file), stop_before_pixels=True).SOPInstanceUID)
        self.received.append((uid, file))
        answer = self.answers(uid, len(self.received))
        if answer is None:
            handler.close_connection = True
            return
        if isinstance(answer, Page):
            answer_with(handler, answer)
            return
        status, reason = answer
        item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason is None:
            answer_json(handler, status, {"00081199": {"vr": "SQ", "Value": [item]}})
        else:
            item["00081197"] = {"vr": "US", "Value": [reason]}
            answer_json(handler, status, {"00081198": {"vr": "SQ", "Value": [item]}})


def answer_json(handler: BaseHTTPRequestHandler, status: int, body: object) -> None:
    answer_with(handler, Page(status=status, kind="application/dicom+json", text=json.dumps(body).encode()))


def answer_with(handler: BaseHTTPRequestHandler, page: Page) -> None:
    handler.send_response(page.status)
    handler.send_header("Content-Type", page.kind)
    for name, value in page.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(page.text)))
    handler.end_headers()
    handler.wfile.write(page.text)


Commitment = Callable[[Sequence[str]], Mapping[str, int]]
"""SOP Instance UIDs that are asked for → those that the server does not keep, with the Failure Reason."""


@dataclass(kw_only=True)
class Scp:
    """A DICOM server that counts what it gets, and misbehaves as told; running inside the block."""

    port: int = field(default_factory=free_port)
    status: Callable[[str, int], int] = lambda _uid, _number: 0x0000
    """(SOP Instance UID, how many objects have come, this one included) → the status of the C-STORE's answer."""
    at_object: Callable[[int, Any], None] = lambda _number, _event: None
    """What happens when the n-th object has come, before it is answered."""
    commits: Commitment | None = None
    """What is answered to storage commitment; None: nothing."""
    report_to: int = 0
    """The port to which answers go, in an association of their own; 0: in the association of the request."""
    supported: Sequence[str] | None = None
    """SOP classes that it takes; None: all."""
    syntaxes: Sequence[str] = tuple(ALL_TRANSFER_SYNTAXES)
    hangs_up: bool = False
    """Whether it ends the association once it has taken a request for storage commitment."""
    offers_commitment: bool = True
    callers: Sequence[str] = ()
    """The titles that it knows; none: it takes everybody's objects."""
    received: list[tuple[str, bytes]] = field(default_factory=list)
    """SOP Instance UID and data set of each object that came, in the order of coming."""
    asked: list[list[str]] = field(default_factory=list)
    """SOP Instance UIDs of each request for storage commitment."""
    _server: Any = None
    _answered: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        entity = AE(ae_title="AWKWARD")
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            if self.supported is None or context.abstract_syntax in self.supported:
                entity.add_supported_context(str(context.abstract_syntax), list(self.syntaxes))
        if self.offers_commitment:
            entity.add_supported_context(StorageCommitmentPushModel)
        entity.require_calling_aet = list(self.callers)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_DIMSE_SENT, self._sent),
        ]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _ in self.received]

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append((uid, event.request.DataSet.getvalue()))
        self.at_object(len(self.received), event)
        return self.status(uid, len(self.received))

    def _sent(self, event: Any) -> None:
        if type(event.message).__name__ == "N_ACTION_RSP":
            self._answered.set()

    def _action(self, event: Any) -> tuple[int, None]:
        self._answered.clear()
        request = event.action_information
        items = {item.ReferencedSOPInstanceUID: item.ReferencedSOPClassUID for item in request.ReferencedSOPSequence}
        self.asked.append([str(uid) for uid in items])
        if self.hangs_up:
            threading.Thread(target=self._hang_up, args=(event.assoc,), daemon=True).start()
        if self.commits is not None:
            report = _report(request.TransactionUID, items, self.commits(list(items)))
            answer = self._report_elsewhere if self.report_to else event.assoc.send_n_event_report
            threading.Thread(target=self._after_the_answer, args=(event.assoc, answer, report), daemon=True).start()
        return 0x0000, None

    def _hang_up(self, association: Any) -> None:
        assert self._answered.wait(PATIENCE_S)
        association.abort()

    def _after_the_answer(self, association: Any, answer: Callable[..., Any], report: Dataset) -> None:
        assert self._answered.wait(PATIENCE_S)  # the answer to the request goes first
        kind = 2 if "FailedSOPSequence" in report else 1
        if self.report_to or association.is_established:
            answer(report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)

    def _report_elsewhere(self, report: Dataset, kind: int, *which: Any) -> None:
        entity = AE(ae_title="AWKWARD")
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate(
            "127.0.0.1", self.report_to, ext_neg=[role], evt_handlers=[(evt.EVT_CONN_OPEN, prepare)]
        )
        if association.is_established:
            association.send_n_event_report(report, kind, *which)
            association.release()


def _report(transaction_uid: str, items: Mapping[str, str], failed: Mapping[str, int]) -> Dataset:
    report = Dataset()
    report.TransactionUID = transaction_uid
    kept = [_item(items[uid], uid) for uid in items if uid not in failed]
    lost = [_item(items[uid], uid) for uid in items if uid in failed]
    for item in lost:
        item.FailureReason = failed[item.ReferencedSOPInstanceUID]
    if kept:
        report.ReferencedSOPSequence = kept
    if lost:
        report.FailedSOPSequence = lost
    return report


def _item(sop_class_uid: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
    return item


def job_for(
    *destinations: str, name: str = "a", study: str = "study", model: str = "m", created_at: datetime = NOW
) -> Job:
    """A job whose results go to ``destinations``."""
    return Job(
        job_id=name,
        study_instance_uid="1.2",
        orthanc_id=study,
        model=model,
        model_version="1",
        fingerprint=name,
        revision=name,
        profiles=(Profile.OHIF,),
        destinations=destinations,
        priority=Priority.ROUTINE,
        created_at=created_at,
    )


def settle(ledger: Ledger, *jobs: Job, at: datetime = NOW) -> None:
    """Let a study be complete, with these jobs."""
    ledger.note_arrivals({jobs[0].orthanc_id: 1}, archive_identity="orthanc", last_change=1, at=at)
    (study,) = [each for each in ledger.arriving() if each.orthanc_id == jobs[0].orthanc_id]
    ledger.settle(study, jobs, present_uids=(), at=at)


def do(
    ledger: Ledger,
    job: Job,
    uids: Sequence[str],
    *,
    sop_class_uids: Sequence[str] = (),
    at: datetime = NOW,
    end: JobState = JobState.DONE,
) -> None:
    """Let a worker do a job that waits, with these result objects."""
    ledger.queue_due(at=at)
    claimed = ledger.claim(worker="w", at=at, lease=timedelta(minutes=1))
    assert claimed is not None
    assert claimed.job_id == job.job_id
    classes = {"sop_class_uids": list(sop_class_uids)} if sop_class_uids else {}
    result = {"sop_instance_uids": list(uids), **classes}
    assert ledger.start_storing(job.job_id, worker="w", result=result, at=at)
    assert ledger.finish(job.job_id, end, worker="w", result=result, at=at)
