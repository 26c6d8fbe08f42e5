"""Who may speak DICOM with Orthanc, and over what, as the settings have it."""

import gc
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    MRImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from coread.courier.dimse import echo
from coread.errors import DestinationUnavailable, SourceUnavailable
from coread.orthanc_process import dicom_tls, who_may_speak_dicom
from coread.retrieval.probe import probe_source
from coread.settings import DeliverySettings, DimseDestination, OrthancSettings, PacsSettings, Settings
from coread.settings_dicom import DicomTlsSettings, SenderSettings
from coread.settings_sources import DimseSource
from coread.settings_worklist import WorklistSettings
from tests.destinations import OrthancServer, orthanc_server
from tests.support import images_of, volume_in_plane

# pynetdicom leaves a socket open whose handshake failed, until it is collected.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <s")

SENDER = SenderSettings(name="mr", aet="MR1", host="127.0.0.1")
ELSEWHERE = SenderSettings(name="ct", aet="CT1", host="192.0.2.7")
PACS = PacsSettings(name="pacs", aet="PACS1", host="127.0.0.1")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@contextmanager
def orthanc_of(settings: Settings, folder: Path) -> Iterator[OrthancServer]:
    """A plain Orthanc with the part of the configuration that is looked at here."""
    configured = {"DicomAet": settings.orthanc.aet, **who_may_speak_dicom(settings), **dicom_tls(settings)}
    with orthanc_server(folder, **configured) as server:
        yield server


def accepted(
    server: OrthancServer, sop_class: str, *, calling: str, called: str = "COREAD", tls: ssl.SSLContext | None = None
) -> int | None:
    """The status of a C-ECHO, C-FIND or C-STORE; None if it is not answered, or not even an association accepted."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 5
    entity.add_requested_context(sop_class)
    tls_args = (tls, "localhost") if tls else None
    association = entity.associate("127.0.0.1", server.dicom_port, ae_title=called, tls_args=tls_args)
    if not association.is_established:
        return None
    try:
        status = _asked(association, sop_class).get("Status")
        return None if status is None else int(status)
    finally:
        association.release()


def _asked(association: Association, sop_class: str) -> Dataset:
    if sop_class == Verification:
        return association.send_c_echo()
    if sop_class == MRImageStorage:
        return association.send_c_store(images_of(volume_in_plane("axial"))[0])
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", ""
    return [status for status, _ in association.send_c_find(query, sop_class)][-1]


def what_may(server: OrthancServer, *, calling: str) -> Sequence[int | None]:
    services = (Verification, MRImageStorage, StudyRootQueryRetrieveInformationModelFind)
    return [accepted(server, service, calling=calling) for service in services]


def test_without_a_list_anybody_may_send_and_nobody_unknown_may_ask(tmp_path: Path) -> None:
    with orthanc_of(Settings(), tmp_path) as server:
        assert accepted(server, MRImageStorage, calling="ANYBODY", called="ANYTHING") == 0
        assert accepted(server, StudyRootQueryRetrieveInformationModelFind, calling="ANYBODY") is None


def test_with_a_list_each_may_do_what_it_is_there_for(tmp_path: Path) -> None:
    settings = Settings(
        orthanc=OrthancSettings(check_sender_host=True, check_called_aet=True),
        sender=(SENDER, ELSEWHERE),
        pacs=(PACS,),
    )
    with orthanc_of(settings, tmp_path) as server:
        assert what_may(server, calling="MR1") == [0, 0, None]
        assert what_may(server, calling="PACS1") == [0, 0, 0]
        assert what_may(server, calling="CT1") == [None, None, None], "it calls from another address"
        assert what_may(server, calling="ANYBODY") == [None, None, None]
        assert accepted(server, MRImageStorage, calling="MR1", called="ANYTHING") is None


def test_a_pacs_that_is_also_a_worklist_may_do_what_a_pacs_may(tmp_path: Path) -> None:
    worklist = WorklistSettings(name="a_worklist", aet=PACS.aet, host=PACS.host)
    with orthanc_of(Settings(sender=(SENDER,), pacs=(PACS,), worklist=(worklist,)), tmp_path) as server:
        assert what_may(server, calling=PACS.aet) == [0, 0, 0]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_settings(folder: Path, authority: trustme.CA, *, name: str = "localhost") -> DicomTlsSettings:
    """Our side's files, signed by ``authority``."""
    folder.mkdir()
    issued = authority.issue_cert(name, "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "crt")
    issued.private_key_pem.write_to_path(folder / "key")
    authority.cert_pem.write_to_path(folder / "ca")
    return DicomTlsSettings(
        incoming=True, certificate_file=folder / "crt", key_file=folder / "key", ca_file=folder / "ca"
    )


def test_over_tls_both_sides_show_a_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    ours = tls_settings(tmp_path / "ours", authority)
    strangers = tls_settings(tmp_path / "strangers", trustme.CA()).client_context()
    strangers.load_verify_locations(ours.ca_file)
    nobodys = ssl.create_default_context(cafile=ours.ca_file)
    with orthanc_of(Settings(dicom_tls=ours), tmp_path / "orthanc") as server:
        answers = {
            name: accepted(server, Verification, calling="MR1", tls=context)
            for name, context in {
                "ours": ours.client_context(),
                "of another authority": strangers,
                "none": nobodys,
                "in the clear": None,
            }.items()
        }
    assert answers == {"ours": 0, "of another authority": None, "none": None, "in the clear": None}


def test_a_destination_is_spoken_with_over_tls_if_its_certificate_is_for_its_name(
    tmp_path: Path, authority: trustme.CA
) -> None:
    ours = tls_settings(tmp_path / "ours", authority)
    theirs = tls_settings(tmp_path / "theirs", authority)
    others = tls_settings(tmp_path / "others", authority)
    issued = authority.issue_cert("pacs.example")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "others" / "crt")
    issued.private_key_pem.write_to_path(tmp_path / "others" / "key")
    for number, (shown, is_reached) in enumerate(((theirs, True), (others, False))):
        with orthanc_of(Settings(dicom_tls=shown), tmp_path / f"orthanc{number}") as server:
            destination = DimseDestination(
                name="pacs", protocol="dimse", host="127.0.0.1", port=server.dicom_port, aet="COREAD", tls=True
            )
            if is_reached:
                echo(destination, DeliverySettings(timeout_s=5), tls=ours.client_context())
                continue
            with pytest.raises(DestinationUnavailable, match="trust each other's certificate"):
                echo(destination, DeliverySettings(timeout_s=5), tls=ours.client_context())


def test_a_source_is_asked_over_tls_if_both_sides_trust_each_other(tmp_path: Path, authority: trustme.CA) -> None:
    ours = tls_settings(tmp_path / "ours", authority)
    strangers = tls_settings(tmp_path / "strangers", trustme.CA())
    known = PacsSettings(name="us", aet="US", host="127.0.0.1")
    theirs = Settings(dicom_tls=tls_settings(tmp_path / "theirs", authority), pacs=(known,))
    with orthanc_of(theirs, tmp_path / "orthanc") as server:
        port, us = server.dicom_port, OrthancSettings(aet="US")
        source = DimseSource(name="pacs", protocol="dimse", host="127.0.0.1", port=port, aet="COREAD", tls=True)
        probe_source(source, Settings(source=(source,), orthanc=us, dicom_tls=ours))
        with pytest.raises(SourceUnavailable, match="trust each other's certificate"):
            probe_source(source, Settings(source=(source,), orthanc=us, dicom_tls=strangers))
        in_the_clear = source.model_copy(update={"tls": False})
        with pytest.raises(SourceUnavailable):
            probe_source(in_the_clear, Settings(source=(in_the_clear,), orthanc=us, dicom_tls=ours))


def test_a_source_that_speaks_tls_needs_our_certificate() -> None:
    source = DimseSource(name="pacs", protocol="dimse", host="pacs", aet="PACS", tls=True)
    with pytest.raises(ValueError, match="pacs wants TLS"):
        Settings(source=(source,))
