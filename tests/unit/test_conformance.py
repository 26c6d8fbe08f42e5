"""The conformance statement says what the code does."""

from pathlib import Path

import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import UID
from pynetdicom import AE, PYNETDICOM_IMPLEMENTATION_UID

from coread.courier.transport import Verdict, verdict_on
from coread.objects import ObjectKind
from coread.orthanc_process import orthanc_configuration
from coread.plugin.ups.matching import KEYS
from coread.settings import Settings
from coread.workers import decoders

PAGE = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def chapter(heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    return PAGE.partition(f"### {heading}\n")[2].partition("\n#")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_titles_and_ports_are_the_defaults() -> None:
    settings = Settings()
    assert f"`{settings.orthanc.aet}`, {settings.orthanc.dicom_port}" in PAGE
    assert f"| the courier's title and port | `{settings.delivery.aet}`, none |" in PAGE
    assert settings.delivery.port == 0
    assert f"| HTTP port | {settings.orthanc.http_port}, on the loopback interface |" in PAGE


def test_each_kind_of_result_has_its_sop_class() -> None:
    table = {cells[1]: cells for cells in rows(chapter("Storage as user")) if cells[1].startswith("1.2.840")}
    named = " ".join(cells[2] for cells in table.values())
    assert [kind for kind in ObjectKind if f"`{kind}`" not in named] == []
    for uid, cells in table.items():
        assert cells[0] in UID(uid).name or uid.endswith("66.7"), f"{uid} is {UID(uid).name}"


def test_what_is_said_to_be_decoded_is_decoded() -> None:
    listed = [uid for cells in rows(chapter("Storage as provider")) for uid in cells[1].split(", ") if "1.2.840" in uid]
    assert {str(uid) for uid in decoders._FUNCTIONS} <= set(listed)
    assert [uid for uid in listed if UID(uid).is_encapsulated and not get_decoder(UID(uid)).is_available] == []


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.TAKEN),
        (0xB007, Verdict.TAKEN),
        (0xA700, Verdict.BUSY),
        (0x0122, Verdict.REFUSED),
        (0xA900, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
    ],
)
def test_a_status_leads_to_what_is_said(status: int, verdict: Verdict) -> None:
    assert verdict_on(status) is verdict


def test_the_matching_keys_of_workitems_are_named() -> None:
    missing = {key.partition(".")[2] or key for key in KEYS} - {"CodeValue", "CodingSchemeDesignator"}
    assert sorted(key for key in missing - {"CodeMeaning", "LongCodeValue"} if key not in PAGE) == []


def test_associations_are_made_as_is_said() -> None:
    entity = AE()
    assert str(PYNETDICOM_IMPLEMENTATION_UID).startswith("1.2.826.0.1.3680043.9.3811")
    assert f"{entity.maximum_pdu_size:,} bytes" in PAGE
    assert not entity.require_called_aet
    orthanc = orthanc_configuration(Settings())
    assert orthanc["DicomAlwaysAllowStore"]
    assert orthanc["UnknownSopClassAccepted"]
    assert orthanc["OverwriteInstances"]
    assert not orthanc["DicomCheckCalledAet"]
