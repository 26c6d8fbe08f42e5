"""Studies come from real archives, and from some that misbehave, into a real Orthanc of ours."""

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from coread.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    CoreadError,
    NotInSource,
    SourceBusy,
    SourceRefuses,
    SourceUnavailable,
    StudyIncomplete,
)
from coread.orthanc_process import free_port
from coread.retrieval import Retriever, open_source
from coread.send import c_store
from coread.settings_sources import Here
from tests.destinations import OrthancServer, orthanc_server, wait_for
from tests.sources import (
    OUR_AET,
    Pacs,
    Web,
    WebServer,
    dcmqrscp,
    dicomweb,
    dimse,
    listed,
    settings_for,
    study_files,
    to,
    uid_in,
    upload,
)

# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
NAME = "TEST^PATIENT"
SLICES = 4
PATIENCE_S = 10.0


@pytest.fixture(scope="module", autouse=True)
def sockets_are_gone_with_the_module() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    with orthanc_server(tmp_path_factory.mktemp("ours"), OverwriteInstances=True) as server:
        yield server


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, ours: OrthancServer) -> Iterator[OrthancServer]:
    with orthanc_server(
        tmp_path_factory.mktemp("theirs"),
        DicomModalities={"ours": [OUR_AET, "127.0.0.1", ours.dicom_port], "astray": ["ASTRAY", "127.0.0.1", 9]},
    ) as server:
        yield server


@pytest.fixture
def empty(ours: OrthancServer) -> OrthancServer:
    ours.clear()
    return ours


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, theirs: OrthancServer) -> list[Path]:
    """A study that their Orthanc has: one slice as it is, one in JPEG-LS, one in RLE, one in JPEG-LS."""
    files = study_files(tmp_path_factory.mktemp("study"), "stored", slices=SLICES)
    for number, file in enumerate(files):
        if number:
            image = dcmread(file)
            image.compress(RLELossless if number == 2 else JPEGLSLossless, generate_instance_uid=False)
            image.save_as(file)
    upload(theirs, files)
    return files


Open = Callable[[], AbstractContextManager[Retriever]]


@pytest.fixture(params=["move", "get", "dicomweb"])
def way(request: pytest.FixtureRequest, ours: OrthancServer, theirs: OrthancServer) -> Open:
    if request.param == "dicomweb":
        source: Any = dicomweb(f"{theirs.url}/dicom-web")
    else:
        source = dimse(theirs.dicom_port, retrieve=request.param)
    return lambda: open_source(source, settings_for(ours.url))


def syntaxes(server: OrthancServer) -> dict[str, str]:
    found = {}
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        for each in http.get("/instances").json():
            uid = http.get(f"/instances/{each}/simplified-tags").json()["SOPInstanceUID"]
            found[uid] = http.get(f"/instances/{each}/metadata/TransferSyntax").text
    return found


def test_a_study_comes_whole_and_as_it_is_stored(empty: OrthancServer, study: list[Path], way: Open) -> None:
    with way() as source:
        assert source.stated(uid_in(study)) == SLICES
        came = source.retrieve(uid_in(study))
    assert came.instances == SLICES
    assert came.bytes > sum(len(dcmread(file).PixelData) for file in study)
    files = [dcmread(file) for file in study]
    assert syntaxes(empty) == {each.SOPInstanceUID: each.file_meta.TransferSyntaxUID for each in files}
    assert sorted(dcmread_bytes(each).PixelData for each in empty.files().values()) == sorted(
        each.PixelData for each in files
    )


def dcmread_bytes(file: bytes) -> Dataset:
    return dcmread(BytesIO(file))


def test_a_study_that_is_retrieved_twice_is_there_once(empty: OrthancServer, study: list[Path], way: Open) -> None:
    with way() as source:
        assert source.retrieve(uid_in(study)) == source.retrieve(uid_in(study))
    assert len(empty.files()) == SLICES


def test_a_study_that_the_source_does_not_have_is_not_asked_for_again(empty: OrthancServer, way: Open) -> None:
    with way() as source:
        with pytest.raises(NotInSource, match=r"no study 1\.2\.3"):
            source.stated("1.2.3")
        with pytest.raises(NotInSource):
            source.retrieve("1.2.3")
    assert empty.files() == {}


def test_what_is_here_needs_no_retrieval(empty: OrthancServer, study: list[Path]) -> None:
    upload(empty, study)
    with open_source(Here(), settings_for(empty.url)) as source:
        assert source.stated(uid_in(study)) == SLICES
        assert source.retrieve(uid_in(study)).instances == SLICES
        with pytest.raises(NotInSource):
            source.retrieve("1.2.3")


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_dcmtks_server_gives_its_studies(empty: OrthancServer, tmp_path: Path, retrieve: str) -> None:
    study = study_files(tmp_path, "plain")  # it takes no compressed images
    with dcmqrscp(tmp_path / "server", destination_port=empty.dicom_port) as port:
        c_store(study, host="127.0.0.1", port=port, called_aet="DCMTK")
        settings = settings_for(empty.url)
        with open_source(dimse(port, aet="DCMTK", retrieve=retrieve), settings) as source:
            assert source.stated(uid_in(study)) == SLICES
            assert source.retrieve(uid_in(study)).instances == SLICES
            with pytest.raises(NotInSource):
                source.retrieve("1.2.3")
        with (
            open_source(dimse(port, aet="DCMTK", move_to="NOBODY"), settings) as source,
            pytest.raises(ConfigurationError, match=r"NOBODY.*A801H"),
        ):
            source.retrieve(uid_in(study))


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_a_source_that_dies_in_the_middle_is_asked_again(empty: OrthancServer, tmp_path: Path, retrieve: str) -> None:
    files = study_files(tmp_path, "long", slices=150)
    folder, uid = tmp_path / "dying", uid_in(files)
    more: dict[str, Any] = {
        "HttpPort": free_port(),
        "DicomPort": free_port(),
        "DicomModalities": {"ours": [OUR_AET, "127.0.0.1", empty.dicom_port]},
    }
    source = dimse(more["DicomPort"], retrieve=retrieve)
    with open_source(source, settings_for(empty.url)) as retriever:
        with orthanc_server(folder, **more) as server:
            upload(server, files)
            assert retriever.stated(uid) == 150
            killer = threading.Thread(target=kill_when, args=(server, lambda: instances_in(empty)))
            killer.start()
            with pytest.raises(SourceBusy, match="ended the association during"):
                retriever.retrieve(uid)
            killer.join()
        with pytest.raises(SourceUnavailable, match=r"cannot be reached|does not accept"):
            retriever.retrieve(uid)
        with orthanc_server(folder, **more):
            assert retriever.retrieve(uid).instances == 150
    assert instances_in(empty) == 150


def test_a_retrieval_is_broken_off_from_another_thread(empty: OrthancServer) -> None:
    asked = threading.Event()

    def never(_aet: str, _identifier: Dataset) -> Iterator[Any]:
        asked.set()
        empty_handed.wait(20)
        yield None, None

    empty_handed = threading.Event()
    uid = "1.2.3"
    with Pacs(move=never, find=lambda _keys: iter([(0xFF00, listed(uid, instances=1))])) as pacs:
        with open_source(dimse(pacs.port), settings_for(empty.url)) as retriever:
            threading.Thread(target=abort_when, args=(asked, retriever)).start()
            begun = time.monotonic()
            with pytest.raises(SourceUnavailable, match="we are being stopped"):
                retriever.retrieve(uid)
            assert time.monotonic() - begun < PATIENCE_S  # less than the source may be silent
            with pytest.raises(SourceUnavailable, match="we are being stopped"):
                retriever.retrieve(uid)
        empty_handed.set()


def test_one_association_serves_many_studies(empty: OrthancServer) -> None:
    def send(_aet: str, _identifier: Dataset) -> Iterator[Any]:
        yield to(empty)
        yield 0

    with (
        Pacs(move=send, find=lambda keys: iter([(0xFF00, listed(keys.StudyInstanceUID, instances=1))])) as pacs,
        open_source(dimse(pacs.port), settings_for(empty.url)) as retriever,
    ):
        assert [retriever.stated(f"1.{number}") for number in range(5)] == [1] * 5
        for number in range(3):
            with pytest.raises(SourceBusy, match=rf"lists the study 1\.{number}, and sends nothing"):
                retriever.retrieve(f"1.{number}")
        assert len(pacs.associations) == 1


def answers(*statuses: Any) -> Callable[..., Iterator[Any]]:
    def answer(*_asked: object) -> Iterator[Any]:
        yield from statuses

    return answer


STATUSES: dict[int, type[CoreadError]] = {
    0xA701: SourceBusy,
    0xA702: SourceBusy,
    0xA801: ConfigurationError,
    0xA900: SourceRefuses,
    0xC000: SourceBusy,
    0x0122: ConfigurationError,
    0x0124: ConfigurationError,
    0xFE00: SourceBusy,
}


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_a_status_says_whether_the_study_may_come_another_time(empty: OrthancServer, retrieve: str) -> None:
    found = listed("1.2.3", instances=2, SOPClassesInStudy="1.2.840.10008.5.1.4.1.1.4")
    left = list(STATUSES)
    sends: dict[str, Any] = {
        "move": lambda _aet, _keys: iter((to(empty), 2, (left.pop(0), None))),
        "get": lambda _keys: iter((2, (left.pop(0), None))),
    }
    with (
        Pacs(find=answers((0xFF00, found)), **sends) as pacs,
        open_source(dimse(pacs.port, retrieve=retrieve), settings_for(empty.url)) as retriever,
    ):
        for kind in STATUSES.values():
            with pytest.raises(CoreadError) as raised:
                retriever.retrieve("1.2.3")
            assert type(raised.value) is kind


def test_instances_that_a_source_could_not_send_are_named(empty: OrthancServer, study: list[Path]) -> None:
    uids = [str(dcmread(file).SOPInstanceUID) for file in study]
    failed = Dataset()
    failed.FailedSOPInstanceUIDList = uids[1:]

    def send(_identifier: Dataset) -> Iterator[Any]:
        yield SLICES
        yield 0xFF00, dcmread(study[0])
        yield 0xA702, failed

    found = listed(uid_in(study), instances=SLICES, SOPClassesInStudy="1.2.840.10008.5.1.4.1.1.4")
    with (
        Pacs(find=answers((0xFF00, found)), get=send) as pacs,
        open_source(dimse(pacs.port, retrieve="get"), settings_for(empty.url)) as retriever,
        pytest.raises(SourceBusy) as raised,
    ):
        retriever.retrieve(uid_in(study))
    assert "A702H" in str(raised.value)
    assert uids[1] in str(raised.value)
    assert "1 were sent" in str(raised.value)
    assert NAME not in str(raised.value)


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_fewer_instances_than_stated_are_not_taken_for_the_study(
    empty: OrthancServer, study: list[Path], retrieve: str
) -> None:
    first = dcmread(study[0])
    sends: dict[str, Any] = {
        "move": answers(to(empty), 1, (0xFF00, first)),
        "get": answers(1, (0xFF00, first)),
    }
    with (
        Pacs(find=answers((0xFF00, listed(uid_in(study), instances=SLICES, ModalitiesInStudy="MR"))), **sends) as pacs,
        open_source(dimse(pacs.port, retrieve=retrieve), settings_for(empty.url)) as retriever,
        pytest.raises(StudyIncomplete, match=f"has {SLICES} instances, and 1 have come"),
    ):
        retriever.retrieve(uid_in(study))


def test_instances_that_went_elsewhere_stop_the_run(empty: OrthancServer, study: list[Path], tmp_path: Path) -> None:
    with orthanc_server(tmp_path / "elsewhere") as elsewhere:
        first = dcmread(study[0])
        sends = answers(to(elsewhere), 1, (0xFF00, first))
        with (
            Pacs(find=answers((0xFF00, listed(uid_in(study), instances=1))), move=sends) as pacs,
            open_source(dimse(pacs.port), settings_for(empty.url)) as retriever,
            pytest.raises(ConfigurationError, match="our Orthanc has none"),
        ):
            retriever.retrieve(uid_in(study))


SERIES, IMAGES = ("1.1", "1.2"), 3


def test_a_source_that_counts_only_by_series_or_only_lists_instances_is_counted(empty: OrthancServer) -> None:
    study = (0xFF00, listed("1.2.3"))
    plain = [(0xFF00, listed("1.2.3", SeriesInstanceUID=uid)) for uid in SERIES]
    counted = [(0xFF00, listed("1.2.3", SeriesInstanceUID=uid, NumberOfSeriesRelatedInstances="7")) for uid in SERIES]
    images = [(0xFF00, listed("1.2.3", SOPInstanceUID=f"1.2.{number}")) for number in range(IMAGES)]
    for series, listing, count in ((counted, [], 14), (plain, images, len(SERIES) * IMAGES), ([], [], None)):
        levels = {"STUDY": [study], "SERIES": series, "IMAGE": listing}

        def find(keys: Dataset, levels: Mapping[str, Any] = levels) -> Iterator[Any]:
            return iter(levels[keys.QueryRetrieveLevel])

        with Pacs(find=find) as pacs, open_source(dimse(pacs.port), settings_for(empty.url)) as retriever:
            assert retriever.stated("1.2.3") == count


def test_a_source_that_does_not_know_us_or_offers_no_retrieval_stops_the_run(empty: OrthancServer) -> None:
    with (
        Pacs(callers=["SOMEBODY"]) as pacs,
        open_source(dimse(pacs.port), settings_for(empty.url)) as retriever,
        pytest.raises(ConfigurationError, match=r"(?i)calling.ae.title"),
    ):
        retriever.stated("1.2.3")
    with (
        Pacs(services=Pacs.services[:1], find=answers((0xFF00, listed("1.2.3", instances=1)))) as pacs,
        open_source(dimse(pacs.port), settings_for(empty.url)) as retriever,
        pytest.raises(ConfigurationError, match="offers us no C-MOVE"),
    ):
        retriever.retrieve("1.2.3")


def test_a_source_that_is_down_may_be_up_again_later(empty: OrthancServer) -> None:
    for source in (dimse(free_port()), dimse(free_port(), retrieve="get"), dicomweb(f"http://127.0.0.1:{free_port()}")):
        with open_source(source, settings_for(empty.url)) as retriever, pytest.raises(SourceUnavailable):
            retriever.retrieve("1.2.3")


def test_a_source_that_says_nothing_is_given_up(empty: OrthancServer) -> None:
    over = threading.Event()

    def silent(_keys: Dataset) -> Iterator[Any]:
        over.wait(10)
        yield 0xFF00, listed("1.2.3")

    with Pacs(find=silent) as pacs:
        with (
            open_source(dimse(pacs.port, timeout_s=0.5), settings_for(empty.url)) as retriever,
            pytest.raises(SourceUnavailable, match=r"nothing for 0\.5 s"),
        ):
            retriever.stated("1.2.3")
        over.set()


def multipart(*files: bytes, end: bytes = b"--x--\r\n") -> Web:
    head = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(head + file + b"\r\n" for file in files) + end
    return Web(kind='multipart/related; type="application/dicom"; boundary=x', body=body)


def web(uid: str, answer: Web | None, *, instances: int = 1) -> WebServer:
    """A server that lists one study, and answers as told when it is asked for it."""
    said = f'[{{"0020000D":{{"vr":"UI","Value":["{uid}"]}},"00201208":{{"vr":"IS","Value":[{instances}]}}}}]'
    return WebServer(answer=lambda path, _headers: Web(body=said.encode()) if "?" in path else answer)


HTML = Web(kind="text/html", body=b"<html>TEST^PATIENT please log in</html>")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Web(status=401), ConfigurationError),
        (Web(status=403), ConfigurationError),
        (Web(status=302), ConfigurationError),
        (Web(status=406), ConfigurationError),
        (HTML, ConfigurationError),
        (Web(kind="multipart/related", body=b"--x--"), ConfigurationError),
        (Web(status=404), NotInSource),
        (Web(status=204), NotInSource),
        (Web(status=400), SourceRefuses),
        (Web(status=429), SourceBusy),
        (Web(status=500), SourceBusy),
        (Web(status=503), SourceUnavailable),
        (None, SourceBusy),
        (multipart(), SourceBusy),
        (multipart(b"TEST^PATIENT is no DICOM"), SourceRefuses),
        (multipart(bytes(128) + b"DICM" + b"\xff" * 64), SourceRefuses),
        (multipart(b"cut off", end=b""), SourceBusy),
        (Web(kind="multipart/related; boundary=x", body=b"--x\r\n", promised=9999), SourceBusy),
    ],
)
def test_an_answer_over_http_says_whether_the_study_may_come_another_time(
    empty: OrthancServer, answer: Web | None, kind: type[CoreadError]
) -> None:
    with (
        web("1.2.3", answer) as server,
        open_source(dicomweb(server.url), settings_for(empty.url)) as retriever,
        pytest.raises(kind) as raised,
    ):
        retriever.retrieve("1.2.3")
    assert type(raised.value) is kind
    assert NAME not in str(raised.value)
    assert empty.files() == {}


def test_what_came_before_the_connection_broke_is_overwritten_by_what_comes_again(
    empty: OrthancServer, study: list[Path]
) -> None:
    files = [file.read_bytes() for file in study]
    whole = multipart(*files).body
    attempts = [
        Web(kind="multipart/related; boundary=x", body=whole[: len(whole) // 2]),
        multipart(*files[:-1]),
        multipart(*files[:-1], files[0]),
        multipart(*files),
    ]
    uid = uid_in(study)
    said = f'[{{"0020000D":{{"vr":"UI","Value":["{uid}"]}},"00201208":{{"vr":"IS","Value":[{SLICES}]}}}}]'
    with (
        WebServer(answer=lambda path, _: Web(body=said.encode()) if "?" in path else attempts.pop(0)) as server,
        open_source(dicomweb(server.url), settings_for(empty.url)) as retriever,
    ):
        with pytest.raises(SourceBusy, match="ends before its closing delimiter"):
            retriever.retrieve(uid)
        assert 0 < instances_in(empty) < SLICES
        for _ in range(2):
            with pytest.raises(StudyIncomplete):
                retriever.retrieve(uid)
        assert retriever.retrieve(uid).instances == SLICES


def test_an_instance_of_another_study_does_not_come_in(empty: OrthancServer, study: list[Path]) -> None:
    with (
        web("1.2.3", multipart(study[0].read_bytes())) as server,
        open_source(dicomweb(server.url), settings_for(empty.url)) as retriever,
        pytest.raises(SourceRefuses, match="another study"),
    ):
        retriever.retrieve("1.2.3")
    assert empty.files() == {}


def test_a_password_and_a_token_are_said_and_not_told(empty: OrthancServer) -> None:
    said = []

    def answer(_path: str, headers: Any) -> Web:
        said.append(headers.get("Authorization"))
        return Web(status=401)

    with WebServer(answer=answer) as server:
        for more in ({"token": "hush"}, {"user": "u", "password": "hush"}):
            with (
                open_source(dicomweb(server.url, **more), settings_for(empty.url)) as retriever,
                pytest.raises(ConfigurationError, match="password or token") as raised,
            ):
                retriever.stated("1.2.3")
            assert "hush" not in str(raised.value)
    assert said == ["Bearer hush", "Basic dTpodXNo"]


@pytest.mark.parametrize("retrieve", ["get", "dicomweb"])
def test_our_own_orthanc_that_has_no_room_is_no_fault_of_the_source(
    theirs: OrthancServer, study: list[Path], retrieve: str
) -> None:
    source: Any = dimse(theirs.dicom_port, retrieve="get") if retrieve == "get" else dicomweb(f"{theirs.url}/dicom-web")
    with (
        WebServer(answer=lambda *_: Web(status=507)) as full,
        open_source(source, settings_for(full.url)) as retriever,
        pytest.raises(ArchiveUnavailable),
    ):
        retriever.retrieve(uid_in(study))


def test_no_patient_is_named_in_the_log(
    empty: OrthancServer, study: list[Path], theirs: OrthancServer, caplog: pytest.LogCaptureFixture
) -> None:
    for source in (dimse(theirs.dicom_port), dimse(theirs.dicom_port, retrieve="get")):
        with open_source(source, settings_for(empty.url)) as retriever:
            retriever.retrieve(uid_in(study))
    assert "PATIENT" not in caplog.text.replace("Patient", "")


def instances_in(server: OrthancServer) -> int:
    return int(httpx.get(f"{server.url}/statistics", trust_env=False).json()["CountInstances"])


def abort_when(asked: threading.Event, retriever: Retriever) -> None:
    assert asked.wait(20)
    retriever.abort()


def kill_when(server: OrthancServer, condition: Callable[[], Any]) -> None:
    wait_for(condition)
    server.process.kill()
