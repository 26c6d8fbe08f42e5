"""What routes look at is the same whether a study lies in Orthanc or in a folder: on real files, in a real Orthanc."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from coread.archive import Archive
from coread.dicom_files import write_files
from coread.errors import ArchiveUnavailable, NotDicom, StudyChanged
from coread.orthanc_process import free_port
from coread.phantom import short_axis_volume
from coread.plugin.facts import facts_in_orthanc
from coread.routes import COMPUTED, IDENTIFYING, NOT_TEXT
from coread.send import OUR_AET, c_store
from coread.study_facts import StudyFacts
from coread.workers.route_facts import facts_in_files, pydicom_dictionary
from coread.workers.study import read_header
from tests.support import images_of, program

START_TIMEOUT_S = 30.0


class BareOrthanc:
    """An Orthanc without any plugin."""

    def __init__(self, folder: Path) -> None:
        self.dicom_port, http_port = free_port(), free_port()
        configuration = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomPort": self.dicom_port,
            "HttpPort": http_port,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        (folder / "storage").mkdir()
        self.url = f"http://127.0.0.1:{http_port}"
        with (folder / "log").open("wb") as log:
            command = [program("Orthanc"), str(folder / "orthanc.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.archive = Archive(self.url)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if httpx.get(f"{self.url}/system", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def facts(self, study_instance_uid: str, keywords: frozenset[str]) -> StudyFacts:
        orthanc_id = self.archive.find_study(study_instance_uid)
        assert orthanc_id is not None
        return facts_in_orthanc(self.archive, self.archive.study(orthanc_id), keywords)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareOrthanc]:
    running = BareOrthanc(tmp_path_factory.mktemp("orthanc"))
    try:
        running.wait_until_ready()
        with running.archive:
            yield running
    finally:
        running.process.terminate()
        running.process.wait()


def matchable(header: Dataset) -> frozenset[str]:
    """The keywords of a header that a route may name."""
    found = set(COMPUTED | {"PatientAge", "TransferSyntaxUID"})
    for tag in list(header.keys()):
        keyword = keyword_for_tag(tag)
        attribute = pydicom_dictionary(keyword)
        if attribute and attribute.vr not in NOT_TEXT | {"PN"} and keyword not in IDENTIFYING:
            found.add(keyword)
    return frozenset(found)


DIFFER = {
    "bad_sequence.dcm": "several binary floating-point numbers in one element, which Orthanc leaves out",
    "gdcm-US-ALOKA-16.dcm": "several numbers of an ambiguous VR, which Orthanc leaves out",
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the files are awkward; that is why they are here
def test_real_files_give_the_same_facts_from_orthanc_and_from_the_folder(orthanc: BareOrthanc, real_data: Path) -> None:
    compared, differing = 0, set()
    for path in sorted(path for path in (real_data / "zoo").rglob("*") if path.is_file()):
        try:
            keywords = matchable(read_header(path))
            (in_file,) = facts_in_files([path], keywords)
            orthanc.archive.store(path.read_bytes())
        except (NotDicom, ArchiveUnavailable):
            continue  # one of the two takes no such file
        in_orthanc = orthanc.facts(in_file.study_instance_uid, keywords)
        httpx.delete(f"{orthanc.url}/studies/{orthanc.archive.find_study(in_file.study_instance_uid)}", trust_env=False)
        compared += 1
        if in_file != in_orthanc:
            differing.add(path.name)
    assert compared > 100
    assert differing == set(DIFFER)


def sent(orthanc: BareOrthanc, images: list[Dataset], folder: Path) -> str:
    files = write_files(images, folder)
    c_store(files, host="127.0.0.1", port=orthanc.dicom_port, called_aet="ANY")
    return str(images[0].StudyInstanceUID)


def test_a_study_of_several_series_gives_the_same_facts_from_both(orthanc: BareOrthanc, tmp_path: Path) -> None:
    images = images_of(short_axis_volume(), name="several")
    for number, image in enumerate(images):
        image.SeriesInstanceUID = f"{images[0].StudyInstanceUID}.{number % 2}"
        image.Modality = ("MR", "CT")[number % 2]
        image.PatientBirthDate = "20180229"  # no such day
        image.PatientAge = "004Y"
        image.ImageComments = "long " * 100
        image.SeriesDescription = "Schädel, größer"
        image.SpecificCharacterSet = "ISO_IR 100"
    result = images_of(short_axis_volume(), name="result")[0]
    result.StudyInstanceUID, result.Modality = images[0].StudyInstanceUID, "SEG"
    study = sent(orthanc, [*images, result], tmp_path / "in")
    keywords = COMPUTED | {
        "PatientAge",
        "ImageComments",
        "SeriesDescription",
        "SourceApplicationEntityTitle",
        "Modality",
    }
    (in_files,) = facts_in_files([tmp_path / "in"], keywords, source_aet=OUR_AET)
    assert in_files == orthanc.facts(study, keywords)
    first = in_files.series[0]
    assert first.age_years == 4
    assert len(first.values["ImageComments"][0]) > 256
    assert first.values["SeriesDescription"] == ("Schädel, größer",)
    assert first.values["ModalitiesInStudy"] == ("CT", "MR"), "a result is no source"
    assert int(first.values["NumberOfStudyRelatedInstances"][0]) == len(images)


def test_a_header_is_fetched_only_if_a_route_needs_it(orthanc: BareOrthanc, tmp_path: Path) -> None:
    study = sent(orthanc, images_of(short_axis_volume(), name="at hand"), tmp_path / "in")
    orthanc_id = orthanc.archive.find_study(study)
    assert orthanc_id is not None
    archived = orthanc.archive.study(orthanc_id)
    with Archive("http://127.0.0.1:1") as nobody:
        facts = facts_in_orthanc(nobody, archived, frozenset({"Modality", "SeriesDescription", "ModalitiesInStudy"}))
        assert facts.series[0].values["SeriesDescription"] == ("cine SAX",)
        with pytest.raises(ArchiveUnavailable):
            facts_in_orthanc(nobody, archived, frozenset({"MagneticFieldStrength"}))


def test_an_instance_that_is_deleted_meanwhile_has_the_study_settled_anew(orthanc: BareOrthanc, tmp_path: Path) -> None:
    study = sent(orthanc, images_of(short_axis_volume(), name="deleted"), tmp_path / "in")
    orthanc_id = orthanc.archive.find_study(study)
    assert orthanc_id is not None
    archived = orthanc.archive.study(orthanc_id)
    httpx.delete(f"{orthanc.url}/studies/{orthanc_id}", trust_env=False)
    with pytest.raises(StudyChanged):
        facts_in_orthanc(orthanc.archive, archived, frozenset({"MagneticFieldStrength"}))


def test_a_file_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    images = images_of(short_axis_volume(), name="twice")
    for folder in ("a", "b"):
        write_files(images, tmp_path / folder)
    (facts,) = facts_in_files([tmp_path / "a", tmp_path / "b"], frozenset({"NumberOfSeriesRelatedInstances"}))
    assert facts.series[0].values["NumberOfSeriesRelatedInstances"] == (str(len(images)),)


def test_the_yen_sign_of_japanese_headers_separates_values(tmp_path: Path) -> None:
    (image, *_) = images_of(short_axis_volume(), name="japanese")
    image.SpecificCharacterSet = ["ISO 2022 IR 13", "ISO 2022 IR 87"]
    image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    write_files([image], tmp_path)
    (facts,) = facts_in_files([tmp_path], frozenset({"ImageType"}))
    assert facts.series[0].values["ImageType"] == ("ORIGINAL", "PRIMARY", "M")


def test_a_folder_without_dicom_is_not_dicom(tmp_path: Path) -> None:
    with pytest.raises(NotDicom):
        facts_in_files([tmp_path], frozenset())
