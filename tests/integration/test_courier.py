"""The courier against real Orthancs, and against servers that misbehave."""

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, MRImageStorage

from coread.archive import Archive
from coread.courier.commitments import Commitments
from coread.courier.lane import Lane
from coread.courier.run import Courier, transport_to
from coread.delivery import Delivery, DeliveryState, ObjectState
from coread.dicom_files import write_files
from coread.ledger import Ledger
from coread.orthanc_process import free_port
from coread.settings import DeliverySettings, Destination, DimseDestination, OrthancSettings, Settings, StowDestination
from tests.destinations import OrthancServer, Page, Scp, StowServer, do, job_for, orthanc_server, settle, wait_for
from tests.support import images_of, volume_in_plane

# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

OBJECTS = 3
SECRET = "hush"
KILLED = """
[orthanc]
url = "{orthanc}"
[ledger]
url = "sqlite:///{folder}/ledger.sqlite"
[delivery]
timeout_s = 5
retry_delay_s = 0.2
lease_s = 1
[[destination]]
name = "pacs"
protocol = "dimse"
host = "127.0.0.1"
port = {port}
aet = "AWKWARD"
"""
QUICK = {"timeout_s": 5.0, "retry_delay_s": 0.2, "lease_s": 2.0, "commitment_timeout_s": 1.0}
PRIVATE_TRANSFER_SYNTAX_HEADER = 132


@pytest.fixture(scope="module")
def archive_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    with orthanc_server(tmp_path_factory.mktemp("archive")) as server:
        yield server


@pytest.fixture
def archive(archive_server: OrthancServer) -> Iterator[Archive]:
    archive_server.clear()
    with Archive(archive_server.url) as archive:
        yield archive


class Office:
    """Jobs with results in the archive, and a courier that brings them away."""

    def __init__(self, folder: Path, archive: Archive, ledger: Ledger, url: str) -> None:
        self.ledger = ledger
        self.files: dict[str, bytes] = {}
        self._folder, self._archive, self.url = folder, archive, url

    def job(self, *destinations: str, name: str = "a", study: str = "study", model: str = "m") -> list[str]:
        """A job that is done, with results in the archive; their SOP Instance UIDs in order."""
        images = images_of(volume_in_plane("axial", shape=(OBJECTS, 20, 14)), name=f"{name} {study}")
        uids = []
        for path in write_files(images, self._folder / f"{name}-{study}"):
            file = path.read_bytes()
            self._archive.store(file)
            uid = str(dcmread(path).SOPInstanceUID)
            self.files[uid] = file
            uids.append(uid)
        job = job_for(*destinations, name=name, study=study, model=model, created_at=datetime.now(UTC))
        settle(self.ledger, job, at=datetime.now(UTC))
        do(self.ledger, job, uids, at=datetime.now(UTC))
        return uids

    def data_sets(self, uids: Sequence[str]) -> list[tuple[str, bytes]]:
        """The data sets of these objects as they lie in the archive, without preamble and File Meta Information."""
        return [(uid, data_set_of(self.files[uid])) for uid in uids]

    def courier(self, *destinations: Destination, **delivery: Any) -> Courier:
        settings = Settings(
            orthanc=OrthancSettings(url=self.url),
            delivery=DeliverySettings(**{**QUICK, **delivery}),
            destination=destinations,
        )
        return Courier(settings, self.ledger, stop=threading.Event())

    def delivery(self, destination: str = "pacs", *, job_id: str = "a") -> Delivery:
        (delivery,) = self.ledger.deliveries(job_id=job_id, destination=destination)
        return delivery

    def wait(self, state: DeliveryState, destination: str = "pacs", *, job_id: str = "a") -> Delivery:
        def reached() -> Delivery | None:
            self.ledger.reclaim_deliveries(at=datetime.now(UTC))
            delivery = self.delivery(destination, job_id=job_id)
            return delivery if delivery.state is state else None

        found: Delivery = wait_for(reached)
        return found


@pytest.fixture
def office(tmp_path: Path, archive: Archive, ledger: Ledger, archive_server: OrthancServer) -> Office:
    return Office(tmp_path, archive, ledger, archive_server.url)


def data_set_of(file: bytes) -> bytes:
    read = BytesIO(file)
    meta = dcmread(read, stop_before_pixels=True).file_meta
    return file[PRIVATE_TRANSFER_SYNTAX_HEADER + 12 + meta.FileMetaInformationGroupLength :]


def dimse(port: int, *, commitment: bool = True, **more: Any) -> DimseDestination:
    return DimseDestination(
        protocol="dimse",
        host="127.0.0.1",
        port=port,
        aet="AWKWARD",
        storage_commitment=commitment,
        **{"name": "pacs", **more},
    )


def test_each_object_arrives_once_in_order_byte_for_byte_and_is_confirmed(office: Office) -> None:
    uids = office.job("pacs")
    with Scp(commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.received == office.data_sets(uids)
        assert scp.asked == [uids]


def test_a_commitment_that_comes_to_our_port_counts(office: Office) -> None:
    port = free_port()
    uids = office.job("pacs")
    with Scp(commits=lambda _uids: {}, report_to=port) as scp, office.courier(dimse(scp.port), port=port):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.received == office.data_sets(uids)


def test_without_storage_commitment_the_answer_to_the_c_store_is_the_destinations_word(office: Office) -> None:
    uids = office.job("pacs")
    with Scp(offers_commitment=False) as scp, office.courier(dimse(scp.port, commitment=False)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.received == office.data_sets(uids)


def test_what_is_out_of_resources_is_sent_again_until_it_is_taken(office: Office) -> None:
    uids = office.job("pacs")
    answers = lambda _uid, number: 0xA700 if number in (2, 3) else 0x0000  # noqa: E731
    with Scp(status=answers, commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == [uids[0], uids[1], uids[1], uids[1], uids[2]]
        reasons = [event.reason for event in office.ledger.delivery_history(office.delivery().delivery_id)]
        assert sum("A700H" in reason for reason in reasons) == 2


def test_who_takes_and_never_commits_gets_nothing_twice_and_is_asked_again(office: Office) -> None:
    uids = office.job("pacs")
    with Scp() as scp, office.courier(dimse(scp.port), timeout_s=0.5):
        wait_for(lambda: len(scp.asked) >= 3)
        assert office.delivery().state is not DeliveryState.CONFIRMED
        assert scp.uids == uids
        scp.commits = lambda _uids: {}
        office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == uids


def test_what_a_destination_does_not_have_after_all_is_sent_again(office: Office) -> None:
    uids = office.job("pacs")
    answers = iter([{uids[1]: 0x0112, uids[2]: 0x0110}, {}, {}])
    with Scp(commits=lambda _uids: next(answers)) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == [*uids, uids[1]]


def test_what_a_destination_will_not_commit_itself_to_has_failed(office: Office) -> None:
    uids = office.job("pacs")
    with Scp(commits=lambda _uids: {uids[1]: 0x0122}) as scp, office.courier(dimse(scp.port)):
        delivery = office.wait(DeliveryState.FAILED)
        assert uids[1] in delivery.reason
        assert "0122H" in delivery.reason


def test_after_an_association_that_was_dropped_the_destination_is_asked_what_it_has(office: Office) -> None:
    uids = office.job("pacs")

    def drop(number: int, event: Any) -> None:
        if number == 2:
            event.assoc.abort()

    with Scp(at_object=drop, commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.received == office.data_sets(uids)
        assert scp.asked[0] == uids[:2]


def test_after_an_association_that_was_dropped_only_what_is_missing_is_sent_again(office: Office) -> None:
    uids = office.job("pacs")

    def drop(number: int, event: Any) -> None:
        if number == 2:
            event.assoc.abort()

    answers = iter([{uids[1]: 0x0112}, {}])
    with Scp(at_object=drop, commits=lambda _uids: next(answers)) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == [uids[0], uids[1], uids[1], uids[2]]


def test_a_status_that_is_final_ends_the_delivery_and_the_others_arrive(office: Office) -> None:
    uids = office.job("pacs")
    answers = lambda uid, _number: 0xC000 if uid == uids[0] else 0x0000  # noqa: E731
    with Scp(status=answers, commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        delivery = office.wait(DeliveryState.FAILED)
        assert "C000H" in delivery.reason
        assert scp.uids == uids
        scp.status = lambda _uid, _number: 0x0000
        assert office.ledger.retry_delivery(delivery.delivery_id, at=datetime.now(UTC))
        office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == [*uids, uids[0]]


@pytest.mark.parametrize("commitment", [True, False])
def test_a_destination_that_does_not_take_the_sop_class_fails_the_delivery(office: Office, commitment: bool) -> None:
    office.job("pacs")
    scp = Scp(supported=[CTImageStorage], commits=lambda _uids: {})
    with scp, office.courier(dimse(scp.port, commitment=commitment)):
        delivery = office.wait(DeliveryState.FAILED)
        assert "MR Image Storage" in delivery.reason
        assert scp.received == []


def test_a_destination_that_knows_the_default_transfer_syntax_only_gets_the_same_values(office: Office) -> None:
    uids = office.job("pacs")
    with Scp(syntaxes=[ImplicitVRLittleEndian], commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED)
    assert scp.uids == uids
    for (_, sent), uid in zip(scp.received, uids, strict=True):
        found = dcmread(BytesIO(sent), force=True)
        assert found == dcmread(BytesIO(office.files[uid]))


def test_a_destination_that_is_away_for_a_while_gets_it_when_it_is_back(office: Office) -> None:
    uids = office.job("pacs")
    scp = Scp(commits=lambda _uids: {})
    with office.courier(dimse(scp.port)):
        delivery = wait_for(lambda: waits_again(office.delivery()))
        assert "does not accept an association" in delivery.reason
        with scp:
            office.wait(DeliveryState.CONFIRMED)
    assert scp.uids == uids


def waits_again(delivery: Delivery) -> Delivery | None:
    return delivery if delivery.attempts and delivery.state is DeliveryState.WAITING else None


def test_a_destination_that_ends_the_association_is_not_waited_for(office: Office) -> None:
    office.job("pacs")
    with Scp(hangs_up=True) as scp, office.courier(dimse(scp.port), timeout_s=100.0, commitment_timeout_s=100.0):
        office.wait(DeliveryState.SENT)


def test_what_was_sent_is_confirmed_when_the_destination_is_said_to_have_no_storage_commitment(office: Office) -> None:
    uids = office.job("pacs")
    with Scp() as scp:
        with office.courier(dimse(scp.port), timeout_s=0.5, commitment_timeout_s=2.0):
            office.wait(DeliveryState.SENT)
        with office.courier(dimse(scp.port, commitment=False)):
            office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == uids


def test_a_delivery_that_was_cancelled_with_everything_confirmed_ends_at_once_when_it_is_retried(
    office: Office,
) -> None:
    uids = office.job("pacs")
    delivery = office.ledger.claim_delivery("pacs", courier="c", at=datetime.now(UTC), lease=timedelta(minutes=1))
    assert delivery is not None
    for uid in uids:
        office.ledger.begin_object(delivery.delivery_id, uid, sop_class_uid=MRImageStorage, courier="c")
        office.ledger.note_object(delivery.delivery_id, uid, ObjectState.CONFIRMED)
    assert office.ledger.cancel_delivery(delivery.delivery_id, at=datetime.now(UTC))
    assert office.ledger.retry_delivery(delivery.delivery_id, at=datetime.now(UTC))
    with office.courier(dimse(free_port())):
        office.wait(DeliveryState.CONFIRMED)


def lane(office: Office, destination: Destination, *, archive: Archive) -> Lane:
    settings = Settings(destination=(destination,))
    commitments = Commitments(office.ledger, aet="COREAD-OUT", port=0, timeout_s=5.0, retry_delay_s=5.0)
    return Lane(
        destination.name,
        ledger=office.ledger,
        archive=archive,
        open_transport=transport_to(destination, settings, commitments),
        settings=settings.delivery,
        courier="c",
        stop=threading.Event(),
    )


def test_a_destination_that_falls_silent_is_left_alone_for_a_while(office: Office, archive: Archive) -> None:
    for name in "ab":
        office.job("pacs", name=name, study=name)
    with StowServer(answers=lambda _uid, _number: None) as server:
        silent = lane(office, web(server), archive=archive)
        first, second = silent.step(), silent.step()
    assert 0 < first < second
    assert "does not answer" in office.delivery().reason


def test_an_archive_that_is_away_is_left_alone_for_a_while(office: Office) -> None:
    office.job("pacs")
    with Archive(f"http://127.0.0.1:{free_port()}") as nowhere:
        assert lane(office, dimse(free_port()), archive=nowhere).step() > 0


def test_a_destination_that_does_not_know_us_is_named_with_the_reason(office: Office) -> None:
    uids = office.job("pacs")
    with Scp(callers=["COREAD-OUT"], commits=lambda _uids: {}) as scp:
        with office.courier(dimse(scp.port, calling_aet="STRANGER")):
            wait_for(lambda: office.delivery().attempts >= 1 and office.delivery().state is DeliveryState.WAITING)
            assert "Calling AE title not recognised; is it told of STRANGER?" in office.delivery().reason
        with office.courier(dimse(scp.port)):
            office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == uids


def test_a_destination_that_hangs_does_not_hold_up_the_others(office: Office) -> None:
    uids = office.job("pacs", "dead")
    hangs, release = threading.Event(), threading.Event()

    def hang(_number: int, _event: Any) -> None:
        hangs.set()
        release.wait(20)

    with Scp(at_object=hang) as dead, Scp(commits=lambda _uids: {}) as scp:
        with office.courier(dimse(dead.port, name="dead"), dimse(scp.port), timeout_s=20.0):
            wait_for(hangs.is_set)
            office.wait(DeliveryState.CONFIRMED)
            assert office.delivery("dead").state is DeliveryState.SENDING
            release.set()
        assert scp.uids == uids


def test_a_study_that_is_stuck_does_not_hold_up_the_others(office: Office) -> None:
    stuck, free = office.job("pacs"), office.job("pacs", name="b", study="other")
    answers = lambda uid, _number: 0x0110 if uid in stuck else 0x0000  # noqa: E731
    with Scp(status=answers, commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED, job_id="b")
        assert office.delivery().state in (DeliveryState.WAITING, DeliveryState.SENDING)
        assert [uid for uid in scp.uids if uid in free] == free


def test_two_jobs_of_one_study_keep_their_order(office: Office) -> None:
    first, second = office.job("pacs"), office.job("pacs", name="b", model="n")
    answers = lambda _uid, number: 0xA700 if number <= 2 else 0x0000  # noqa: E731
    with Scp(status=answers, commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        office.wait(DeliveryState.CONFIRMED, job_id="b")
        assert list(dict.fromkeys(scp.uids)) == [*first, *second]


def test_a_job_that_is_superseded_while_it_is_sent_takes_the_rest_with_it(office: Office) -> None:
    uids = office.job("pacs")
    newer: list[str] = []

    def supersede(number: int, _event: Any) -> None:
        if number == 1:
            newer.extend(office.job("pacs", name="b"))

    with Scp(at_object=supersede, commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        wait_for(lambda: office.ledger.deliveries(job_id="b"))
        office.wait(DeliveryState.CONFIRMED, job_id="b")
        assert scp.uids == [uids[0], *newer]
    assert office.delivery().state is DeliveryState.CANCELLED
    assert "1 of 3 objects had been sent" in office.delivery().reason


def test_a_result_that_is_no_longer_in_the_archive_fails_the_delivery_and_the_others_arrive(
    office: Office, archive: Archive
) -> None:
    uids = office.job("pacs")
    orthanc_id = archive.find_instance(uids[1])
    assert orthanc_id is not None
    archive.delete_instance(orthanc_id)
    with Scp(commits=lambda _uids: {}) as scp, office.courier(dimse(scp.port)):
        assert f"the result {uids[1]} is no longer in the archive" in office.wait(DeliveryState.FAILED).reason
        assert scp.uids == [uids[0], uids[2]]


def test_a_courier_that_is_killed_again_and_again_sends_nothing_twice(office: Office, tmp_path: Path) -> None:
    uids = office.job("pacs")
    scp = Scp()
    scp.commits = lambda asked: {uid: 0x0112 for uid in asked if uid not in scp.uids}
    running: list[subprocess.Popen[bytes]] = []

    def kill_at_object(number: int, _event: Any) -> None:
        if number in (1, 2):  # it has come, and its answer does not get there any more
            running[-1].kill()

    scp.at_object = kill_at_object
    kills = iter((True, False))
    truth = scp.commits

    def kill_when_asked_for_the_last(asked: Sequence[str]) -> dict[str, int]:
        if uids[-1] in asked and next(kills):
            running[-1].kill()
        return dict(truth(asked))

    scp.commits = kill_when_asked_for_the_last
    settings = tmp_path / "coread.toml"
    settings.write_text(KILLED.format(folder=tmp_path, orthanc=office.url, port=scp.port))
    with scp:
        while office.delivery().state is not DeliveryState.CONFIRMED:
            assert len(running) < 10
            running.append(subprocess.Popen([sys.executable, "-m", "coread", "--config", str(settings), "courier"]))
            wait_for(lambda: running[-1].poll() is not None or office.delivery().state is DeliveryState.CONFIRMED)
        running[-1].terminate()
        assert running[-1].wait(30) == 0
        assert scp.received == office.data_sets(uids)
    assert [each.returncode for each in running] == [-signal.SIGKILL] * 3 + [0]


def test_nothing_of_the_patient_stands_in_the_couriers_rows_reasons_and_logs(office: Office, tmp_path: Path) -> None:
    uids = office.job("pacs")
    answers = lambda uid, number: 0xC000 if uid == uids[0] else 0xA700 if number == 2 else 0x0000  # noqa: E731
    scp = Scp(syntaxes=[ImplicitVRLittleEndian], status=answers, commits=lambda _uids: {})
    settings, log = tmp_path / "coread.toml", tmp_path / "log"
    settings.write_text(KILLED.format(folder=tmp_path, orthanc=office.url, port=scp.port))
    command = [sys.executable, "-m", "coread", "--config", str(settings), "courier"]
    with scp, log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as courier:
        office.wait(DeliveryState.FAILED)
        courier.terminate()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database:
        rows = "\n".join(database.iterdump())
    said = rows + log.read_text()
    for told in ("object handed over", "C000H", "A700H", uids[0]):
        assert told in said
    patient = dcmread(BytesIO(office.files[uids[0]]))
    for value in (str(patient.PatientName), str(patient.PatientID)):
        assert value
        assert value not in said


# STOW-RS ------------------------------------------------------------------------------------------------------------


def web(server: StowServer, **more: Any) -> StowDestination:
    return StowDestination(name="pacs", protocol="stow", url=server.url, **more)


def test_stow_is_tried_again_until_it_is_taken(office: Office) -> None:
    uids = office.job("pacs")
    answers: dict[int, tuple[int, int | None]] = {1: (401, None), 2: (409, 0xA700), 3: (202, 0x0110), 5: (429, None)}
    with StowServer(answers=lambda _uid, number: answers.get(number, (200, None))) as server:
        with office.courier(web(server, token=SECRET)):
            office.wait(DeliveryState.CONFIRMED)
        assert server.uids == [uids[0]] * 4 + [uids[1]] * 2 + [uids[2]]
        assert server.searched == []  # nobody doubts what was answered
        assert server.authorizations == {f"Bearer {SECRET}"}
        assert server.received[-1] == (uids[2], office.files[uids[2]])


FAILED_IN_XML = b"""<NativeDicomModel><DicomAttribute tag="00081198" VR="SQ"><Item number="1"><DicomAttribute
tag="00081197" VR="US"><Value number="1">272</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>"""
DOUBTFUL = {
    "a page to log in at": Page(status=200, kind="text/html", text=b"<html>Log in</html>"),
    "nothing yet": Page(status=202),
    "a failure in XML": Page(status=202, kind="application/dicom+xml", text=FAILED_IN_XML),
    "another object": Page(status=200, text=b'{"00081199": {"vr": "SQ", "Value": [{"00081155": {"Value": ["9.9"]}}]}}'),
    "nothing that can be decoded": Page(status=200, text=b"not gzip", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("has_it", [True, False])
@pytest.mark.parametrize("answer", DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_an_answer_to_stow_does_not_name_as_stored_is_searched_for(
    office: Office, answer: Page, has_it: bool
) -> None:
    uids = office.job("pacs")
    with StowServer(answers=lambda _uid, number: answer if number == 2 else (200, None)) as server:
        server.keeps = lambda uid: has_it or server.uids.count(uid) > 1
        with office.courier(web(server)):
            office.wait(DeliveryState.CONFIRMED)
        assert server.searched == [uids[1]]
        assert server.uids == [uids[0], *[uids[1]] * (1 if has_it else 2), uids[2]]


@pytest.mark.parametrize("answer", [(409, 0xC000), (202, 0x0122), (400, None), (409, None)])
def test_what_stow_refuses_for_good_has_failed(office: Office, answer: tuple[int, int | None]) -> None:
    uids = office.job("pacs")
    with StowServer(answers=lambda uid, _number: answer if uid == uids[1] else (200, None)) as server:
        with office.courier(web(server)):
            assert uids[1] in office.wait(DeliveryState.FAILED).reason
        assert server.uids == uids


@pytest.mark.parametrize(
    ("answer", "search", "times"), [(None, 200, 1), ((503, None), 200, 1), (None, 404, 2), ((502, None), 501, 2)]
)
def test_after_silence_it_is_searched_for_and_sent_again_only_if_that_cannot_be(
    office: Office, answer: tuple[int, int | None] | None, search: int, times: int
) -> None:
    uids = office.job("pacs")
    silent = lambda _uid, number: answer if number == 2 else (200, None)  # noqa: E731
    with StowServer(answers=silent, search=search) as server:
        with office.courier(web(server)):
            office.wait(DeliveryState.CONFIRMED)
        assert server.uids == [uids[0], *[uids[1]] * times, uids[2]]
        assert server.searched == [uids[1]]


def test_a_search_that_is_not_answered_is_no_reason_to_send_again(office: Office) -> None:
    uids = office.job("pacs")
    with StowServer(answers=lambda _uid, number: None if number == 2 else (200, None), search=500) as server:
        with office.courier(web(server)):
            wait_for(lambda: len(server.searched) >= 2)
            server.search = 200
            office.wait(DeliveryState.CONFIRMED)
        assert server.uids == uids


# A real Orthanc as the destination ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pacs_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pacs_server(tmp_path_factory: pytest.TempPathFactory, pacs_port: int) -> Iterator[OrthancServer]:
    modalities = {"coread": ["COREAD-OUT", "127.0.0.1", pacs_port]}
    with orthanc_server(tmp_path_factory.mktemp("pacs"), DicomModalities=modalities) as server:
        yield server


@pytest.fixture
def pacs(pacs_server: OrthancServer) -> OrthancServer:
    pacs_server.clear()
    return pacs_server


def stow(pacs: OrthancServer, **more: Any) -> StowDestination:
    return StowDestination(name="pacs", protocol="stow", url=f"{pacs.url}/dicom-web", **more)


def test_orthanc_takes_results_by_c_store_and_commits_itself_to_them(
    office: Office, pacs: OrthancServer, pacs_port: int
) -> None:
    uids = office.job("pacs")
    with office.courier(dimse(pacs.dicom_port), port=pacs_port, commitment_timeout_s=60.0):
        office.wait(DeliveryState.CONFIRMED)
    held = pacs.files()
    assert {uid: data_set_of(file) for uid, file in held.items()} == dict(office.data_sets(uids))


def test_orthanc_takes_results_by_stow(office: Office, pacs: OrthancServer) -> None:
    uids = office.job("pacs")
    with office.courier(stow(pacs)):
        office.wait(DeliveryState.CONFIRMED)
    assert pacs.files() == {uid: office.files[uid] for uid in uids}


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("way", ["stow", "dimse"])
def test_what_may_have_arrived_before_a_death_is_asked_for_and_sent_only_if_it_did_not(
    office: Office, pacs: OrthancServer, pacs_port: int, way: str, arrived: bool
) -> None:
    uids = office.job("pacs")
    delivery = office.ledger.claim_delivery("pacs", courier="dead", at=datetime.now(UTC), lease=timedelta(0))
    assert delivery is not None
    office.ledger.begin_object(delivery.delivery_id, uids[0], sop_class_uid=MRImageStorage, courier="dead")
    if arrived:
        with Archive(pacs.url) as there:
            there.store(office.files[uids[0]])
    stored_at = pacs_changes(pacs)
    destination = stow(pacs) if way == "stow" else dimse(pacs.dicom_port)
    with office.courier(destination, port=pacs_port):
        office.wait(DeliveryState.CONFIRMED)
    assert sorted(pacs.files()) == sorted(uids)
    assert pacs_changes(pacs) - stored_at == (2 if arrived else 3)


def test_who_can_say_nothing_may_get_what_was_begun_a_second_time(office: Office) -> None:
    uids = office.job("pacs")
    delivery = office.ledger.claim_delivery("pacs", courier="dead", at=datetime.now(UTC), lease=timedelta(0))
    assert delivery is not None
    office.ledger.begin_object(delivery.delivery_id, uids[0], sop_class_uid=MRImageStorage, courier="dead")
    with Scp(offers_commitment=False) as scp, office.courier(dimse(scp.port, commitment=False)):
        office.wait(DeliveryState.CONFIRMED)
        assert scp.uids == uids


def pacs_changes(pacs: OrthancServer) -> int:
    """How many instances have ever been stored there, as far as they are still there."""
    with Archive(pacs.url) as there:
        changes, _ = there.changes(since=0, limit=10000)
    return sum(change.kind == "NewInstance" for change in changes)
