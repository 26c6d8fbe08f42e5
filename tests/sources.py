"""Archives that studies are retrieved from, for tests: a real Orthanc, dcmtk's server, and servers that misbehave."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from coread.dicom_files import write_files
from coread.orthanc_process import free_port
from coread.settings import OrthancSettings, Settings
from coread.settings_sources import DicomwebSource, DimseSource
from tests.destinations import OrthancServer, wait_for
from tests.dicomweb_server import DicomwebServer
from tests.support import images_of, program, volume_in_plane

OUR_AET = "COREAD"
QUERY_RETRIEVE = (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
)


def study_files(folder: Path, name: str, *, slices: int = 4, modality: str = "MR", **more: str) -> list[Path]:
    """The files of a small study."""
    images = images_of(volume_in_plane("axial", shape=(slices, 20, 14)), name=name, modality=modality)
    for image in images:
        for keyword, value in more.items():
            setattr(image, keyword, value)
    return write_files(images, folder / name)


def uid_in(files: Sequence[Path]) -> str:
    """The StudyInstanceUID of files."""
    from pydicom import dcmread

    return str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)


def upload(server: OrthancServer, files: Sequence[Path]) -> None:
    """Put files into an Orthanc."""
    # Orthanc closes a connection that is idle for a second, which a busy machine's may be between two files.
    at_once = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=server.url, trust_env=False, limits=at_once) as http:
        for file in files:
            http.post("/instances", content=file.read_bytes()).raise_for_status()


def settings_for(orthanc: str, *sources: Any, **more: Any) -> Settings:
    """Settings with our Orthanc at a URL."""
    return Settings(orthanc=OrthancSettings(url=orthanc), source=sources, **more)


def dimse(port: int, **more: Any) -> DimseSource:
    """A source on this machine."""
    values = {"name": "pacs", "protocol": "dimse", "aet": "ORTHANC", "host": "127.0.0.1", "timeout_s": 20.0}
    return DimseSource(**{**values, "port": port, **more})


def dicomweb(url: str, **more: Any) -> DicomwebSource:
    """A source on this machine."""
    return DicomwebSource(**{"name": "vna", "protocol": "dicomweb", "url": url, "timeout_s": 20.0, **more})


@contextmanager
def dcmqrscp(folder: Path, *, destination_port: int, title: str = "DCMTK") -> Iterator[int]:
    """dcmtk's image server, at its port; it sends to our Orthanc by C-MOVE."""
    port = free_port()
    (folder / "store").mkdir(parents=True)
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nours = ({OUR_AET}, 127.0.0.1, {destination_port})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{title} {folder / 'store'} RW (200, 1024mb) ANY\nAETable END\n"
    )
    command = [program("dcmqrscp"), "-c", str(configuration)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: _echoes(port, title))
            yield port
        finally:
            process.kill()


def _echoes(port: int, title: str) -> bool:
    entity = AE()
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port, ae_title=title)
    if association.is_established:
        association.release()
        return True
    return False


@dataclass(kw_only=True)
class WebServer(DicomwebServer):
    """A DICOMweb server that answers as told; running inside the block."""

    answer: Callable[[str, Mapping[str, str]], "Web | None"]
    """(path with query, headers) → the answer; None: the connection is closed without one."""
    asked: list[str] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the library's name
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def do_GET(self) -> None:
                server.asked.append(self.path)
                web = server.answer(self.path, dict(self.headers))
                if web is None:
                    self.close_connection = True
                    return
                self.send_response(web.status)
                self.send_header("Content-Type", web.kind)
                self.send_header("Content-Length", str(len(web.body) if web.promised is None else web.promised))
                self.end_headers()
                self.wfile.write(web.body)
                if web.promised is not None:
                    self.close_connection = True

            def log_message(self, *_message: object) -> None:
                pass

        return Handler


@dataclass(frozen=True, kw_only=True)
class Web:
    """An answer of an HTTP server."""

    status: int = 200
    kind: str = "application/dicom+json"
    body: bytes = b""
    promised: int | None = None
    """What Content-Length says, if it is not the truth."""


@dataclass(kw_only=True)
class Pacs:
    """A DICOM server that lists and sends as told; running inside the block."""

    find: Callable[[Dataset], Iterator[tuple[int, Dataset | None]]] = lambda _identifier: iter(())
    """Identifier of a C-FIND → statuses and answers."""
    move: Callable[[str, Dataset], Iterator[Any]] = lambda _aet, _identifier: iter(())
    """Destination and identifier of a C-MOVE → what pynetdicom's handler of one yields."""
    get: Callable[[Dataset], Iterator[Any]] = lambda _identifier: iter(())
    """Identifier of a C-GET → what pynetdicom's handler of one yields."""
    port: int = field(default_factory=free_port)
    callers: Sequence[str] = ()
    services: Sequence[Any] = QUERY_RETRIEVE
    titles: set[str] = field(default_factory=set)
    asked: list[Dataset] = field(default_factory=list)
    associations: list[Any] = field(default_factory=list)
    _server: Any = None

    def __enter__(self) -> Self:
        entity = AE(ae_title="AWKWARD")
        for service in self.services:
            entity.add_supported_context(service)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), scu_role=True, scp_role=True)
        entity.require_calling_aet = list(self.callers)
        handlers: list[Any] = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_MOVE, lambda event: self.move(event.move_destination, event.identifier)),
            (evt.EVT_C_GET, lambda event: self.get(event.identifier)),
            (evt.EVT_ACCEPTED, lambda event: self.associations.append(event.assoc)),
        ]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        yield from self.find(event.identifier)


def to(server: OrthancServer) -> tuple[str, int, dict[str, Any]]:
    """Where a Pacs sends MR images to by C-MOVE."""
    return "127.0.0.1", server.dicom_port, {"contexts": [build_context(MRImageStorage)]}


def listed(uid: str, *, instances: int | None = None, **more: str) -> Dataset:
    """A study in an answer to a C-FIND."""
    found = Dataset()
    found.QueryRetrieveLevel = "STUDY"
    found.StudyInstanceUID = uid
    if instances is not None:
        found.NumberOfStudyRelatedInstances = str(instances)
    for keyword, value in more.items():
        setattr(found, keyword, value)
    return found
