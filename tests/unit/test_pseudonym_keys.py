"""The key file and its table, rows of a run under pseudonyms, and the commands."""

import json
import sqlite3
import threading
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.uid import UID

from coread.archive_table.row import FindingKind, RowFinding, RowPicture, StudyRow
from coread.cli import coread
from coread.errors import ConfigurationError
from coread.pseudonyms import Choices, Dates, Pseudonyms, load_key, table_of
from coread.pseudonyms.key import make_key
from coread.pseudonyms.key_table import KeyTable, Tie, Tied
from coread.pseudonyms.words import cleaned
from tests.support import images_of, volume_in_plane

STUDY = "1.2.826.0.1.3680043.2.1125.1"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    make_key(tmp_path / "key", Choices())
    return tmp_path / "key"


def test_a_key_file_is_made_once_and_only_its_owner_can_read_it_and_its_table(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    first = Pseudonyms(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert table_of(path).stat().st_mode & 0o777 == 0o600
    assert Pseudonyms(path).uid(STUDY) == first.uid(STUDY)
    assert sorted(each.name for each in path.parent.iterdir() if "-" not in each.name) == ["key", "key.sqlite"]


def test_many_that_make_it_at_once_have_the_same_key(tmp_path: Path) -> None:
    path, found = tmp_path / "key", set()
    ready = threading.Barrier(8)

    def make() -> None:
        ready.wait()
        found.add((make_key(path, Choices()), load_key(path).secret))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({secret for _, secret in found}) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("rights", [0o640, 0o604, 0o660, 0o606])
def test_a_key_file_that_others_can_read_is_refused(rights: int, key_file: Path) -> None:
    key_file.chmod(rights)
    with pytest.raises(ConfigurationError, match="only its owner"):
        Pseudonyms(key_file)


def test_a_table_that_others_can_read_is_refused(key_file: Path) -> None:
    Pseudonyms(key_file)
    table_of(key_file).chmod(0o644)
    with pytest.raises(ConfigurationError, match="only its owner"):
        Pseudonyms(key_file)


@pytest.mark.parametrize(
    "content", ["", "no JSON", "{}", '{"coread_key": 1, "secret": "00", "dates": "shifted"}', "[1]"]
)
def test_what_is_no_key_file_is_refused_and_left_alone(content: str, key_file: Path) -> None:
    key_file.write_text(content)
    with pytest.raises(ConfigurationError, match="something else"):
        Pseudonyms(key_file)
    assert key_file.read_text() == content


def test_a_table_of_another_key_file_is_refused(key_file: Path, tmp_path: Path) -> None:
    Pseudonyms(key_file).close()
    other = tmp_path / "other"
    make_key(other, Choices())
    table_of(other).write_bytes(table_of(key_file).read_bytes())
    table_of(other).chmod(0o600)
    with pytest.raises(ConfigurationError, match="that of another"):
        Pseudonyms(other)


def test_other_choices_need_another_key_file(key_file: Path) -> None:
    assert Pseudonyms(key_file).choices == Choices()
    with pytest.raises(ConfigurationError, match="dates kept"):
        Pseudonyms(key_file, choices=Choices(dates=Dates.KEPT))


def test_uids_are_legal_hang_on_the_secret_alone_and_dicoms_own_stay(key_file: Path, tmp_path: Path) -> None:
    key = load_key(key_file)
    found = {key.uid(f"{STUDY}.{number}") for number in range(1000)}
    assert len(found) == 1000
    assert all(UID(uid).is_valid and uid.startswith("2.25.") and len(uid) <= 44 for uid in found)
    assert key.uid("1.2.840.10008.1.2.1") == "1.2.840.10008.1.2.1"
    assert key.uid("") == ""
    make_key(tmp_path / "other", Choices())
    assert load_key(tmp_path / "other").uid(STUDY) != key.uid(STUDY)


def test_each_patient_has_a_shift_of_their_own(key_file: Path) -> None:
    key = load_key(key_file)
    shifts = {key.shift(f"patient {number}") for number in range(200)}
    assert len(shifts) > 150
    assert min(shifts) >= timedelta(days=1)
    assert max(shifts) <= timedelta(days=3650)


def test_ties_are_added_once_and_never_changed(key_file: Path) -> None:
    table = KeyTable(table_of(key_file), key=load_key(key_file))
    tie = Tie(pseudonym="2.25.1", kind=Tied.STUDY, original=STUDY, part_of="P")
    table.add([tie, tie])
    table.add([tie])
    assert table.find("2.25.1") == [tie]
    with pytest.raises(ConfigurationError, match="stands for one study"):
        table.add([Tie(pseudonym="2.25.1", kind=Tied.STUDY, original="1.2.3")])
    table.close()
    connection = sqlite3.connect(table_of(key_file))
    for statement in ("DELETE FROM tie", "UPDATE tie SET original = ''"):
        with pytest.raises(sqlite3.IntegrityError, match="ties stay"):
            connection.execute(statement)
    connection.close()


def test_two_processes_may_add_the_same(key_file: Path) -> None:
    tables = [KeyTable(table_of(key_file), key=load_key(key_file)) for _ in range(2)]
    for number in range(50):
        for table in tables:
            table.add([Tie(pseudonym=f"2.25.{number}", kind=Tied.STUDY, original=str(number))])
    assert all(table.find("2.25.7")[0].original == "7" for table in tables)


def row(**more: object) -> StudyRow:
    values: dict[str, object] = {
        "position": 3,
        "study_instance_uid": STUDY,
        "orthanc_id": "01234567-89abcdef-01234567-89abcdef-01234567",
        "model": "m",
        "job_id": "ab" * 16,
        "state": "done",
        "reason": f"found two in {STUDY}",
        "read_at": "2026-01-02T03:04:05.678901+00:00",
        "study_date": "20200227",
        "manufacturer": "Maker",
        "manufacturer_model_name": "Scanner",
        "station_name": "MR-CELLAR",
        "institution_name": "St. Somewhere",
        "patient_sex": "F",
        "patient_age_years": 97.0,
        "findings": (
            RowFinding(name="Cavity: Volume", kind=FindingKind.MEASUREMENT, value=97.25, unit="ml"),
            RowFinding(name="x", kind=FindingKind.NOT_EVALUATED, category=f"no frame of reference in {STUDY}.7"),
        ),
        "pictures": (RowPicture(caption="Cavity", instance="0123-Orthanc", attachment="1024"),),
        "objects": (("1.2.840.10008.5.1.4.1.1.66.4", f"{STUDY}.9"),),
    }
    return StudyRow(**{**values, **more})  # type: ignore[arg-type]


def test_a_row_tells_nothing_of_the_patient_and_can_still_be_compared(key_file: Path) -> None:
    pseudonyms = Pseudonyms(key_file)
    found = pseudonyms.row(row(), patient_id="ID-1", issuer="Here")
    said = json.dumps(found.as_json())
    for word in (STUDY, "01234567-89abcdef", "ab" * 16, "MR-CELLAR", "Somewhere", "20200227", "0123-Orthanc", "03:04"):
        assert word not in said, word
    assert (found.manufacturer_model_name, found.patient_sex, found.patient_age_years) == ("Scanner", "F", 90.0)
    assert found.findings[0] == row().findings[0]
    assert found.findings[1].category == f"no frame of reference in {pseudonyms.uid(f'{STUDY}.7')}"
    assert found.objects == (("1.2.840.10008.5.1.4.1.1.66.4", pseudonyms.uid(f"{STUDY}.9")),)
    other = pseudonyms.row(row(study_instance_uid="1.2.3", station_name="CT-1", job_id=""), patient_id="ID-2")
    assert other.institution_name == found.institution_name
    assert other.station_name not in ("", found.station_name)
    chain = [(tie.kind, tie.original) for tie in pseudonyms.find(found.job_id)]
    assert chain == [(Tied.JOB, "ab" * 16), (Tied.STUDY, STUDY), (Tied.PATIENT, "Here\nID-1")]


def test_a_row_of_a_study_that_was_never_seen_is_tied_to_its_patient_later(key_file: Path) -> None:
    pseudonyms = Pseudonyms(key_file)
    unseen = pseudonyms.row(row(job_id=""), patient_id="")
    assert [tie.kind for tie in pseudonyms.find(unseen.study_instance_uid)] == [Tied.STUDY]
    pseudonyms.row(row(job_id=""), patient_id="ID-1")
    assert [tie.kind for tie in pseudonyms.find(unseen.study_instance_uid)] == [Tied.STUDY, Tied.PATIENT]


def test_rows_and_objects_of_a_study_agree(key_file: Path) -> None:
    pseudonyms = Pseudonyms(key_file.with_name("another"), choices=Choices(images=True))
    image = images_of(volume_in_plane("axial"))[0]
    image.StudyDate, image.IssuerOfPatientID = "20200227", "Here"
    found = pseudonyms.dataset(image)
    told = pseudonyms.row(
        row(study_instance_uid=str(image.StudyInstanceUID)), patient_id=str(image.PatientID), issuer="Here"
    )
    assert (told.study_instance_uid, told.study_date) == (found.StudyInstanceUID, found.StudyDate)


def test_dates_are_kept_or_removed_if_that_was_chosen(tmp_path: Path) -> None:
    kept = Pseudonyms(tmp_path / "kept", choices=Choices(dates=Dates.KEPT, characteristics=False))
    removed = Pseudonyms(tmp_path / "removed", choices=Choices(dates=Dates.REMOVED))
    assert kept.row(row(), patient_id="1").study_date == "20200227"
    assert kept.row(row(), patient_id="1").patient_sex == ""
    assert kept.row(row(), patient_id="1").patient_age_years is None
    assert removed.row(row(), patient_id="1").study_date == ""


@pytest.mark.parametrize("text", ["version 1.2.3 of 2026", "between 0.5.10 and 12.25", "10.0.0.127", "no UID at all"])
def test_a_text_without_a_uid_stays(text: str, key_file: Path) -> None:
    assert cleaned(text, key=load_key(key_file)) == text


@pytest.mark.parametrize("text", ["seen with DOE", "doe, John", "(Doe)", "no. 4711-A"])
def test_a_text_with_a_name_goes(text: str, key_file: Path) -> None:
    assert cleaned(text, key=load_key(key_file), traces={"Doe", "4711-A"}) == "REMOVED"
    assert cleaned("a doer, 14711-A", key=load_key(key_file), traces={"Doe", "4711-A"}) == "a doer, 14711-A"


def test_a_text_without_orthancs_ids_stays(key_file: Path) -> None:
    """They are digests of PatientID and UIDs: whoever has a list of patients finds the right one."""
    text = "Orthanc has no /instances/b9c08539-26f93bde-c81ab0d7-bffaf2cb-a4d0bdd0/file: it was deleted"
    said = cleaned(text, key=load_key(key_file))
    assert said == "Orthanc has no /instances/REMOVED/file: it was deleted"


def test_files_go_under_their_pseudonyms_by_hand_and_are_looked_up(tmp_path: Path) -> None:
    folder, key_file = tmp_path / "DOE^JOHN", tmp_path / "key"
    folder.mkdir()
    image = images_of(volume_in_plane("axial"))[0]
    image.save_as(folder / "doe.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no DICOM")
    arguments = ["archive", "pseudonymise", str(folder), "-o", str(tmp_path / "out"), "--key-file", str(key_file)]
    run = CliRunner().invoke(coread, [*arguments, "--images", "--dates", "kept"])
    assert run.exit_code == 3, "a file was left out"
    assert "notes.txt: expected a DICOM object" in run.output
    (written,) = (tmp_path / "out").rglob("*.dcm")
    found = pydicom.dcmread(written)
    assert written.name == f"{found.SOPInstanceUID}.dcm"
    assert found.StudyDate == image.StudyDate
    told = CliRunner().invoke(coread, ["archive", "identify", str(key_file), str(found.StudyInstanceUID), "--json"])
    assert json.loads(told.output) == [
        {"kind": "study", "original": image.StudyInstanceUID},
        {"kind": "patient", "original": image.PatientID},
    ]
    back = CliRunner().invoke(coread, ["archive", "identify", str(key_file), image.StudyInstanceUID, "--original"])
    assert back.output.strip() == found.StudyInstanceUID
    unknown = CliRunner().invoke(coread, ["archive", "identify", str(key_file), "2.25.1"])
    assert unknown.exit_code == 1


def test_images_are_left_out_by_hand_unless_somebody_has_looked(tmp_path: Path) -> None:
    image = images_of(volume_in_plane("axial"))[0]
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    run = CliRunner().invoke(
        coread,
        [
            "archive",
            "pseudonymise",
            str(tmp_path / "a.dcm"),
            "-o",
            str(tmp_path / "o"),
            "--key-file",
            str(tmp_path / "k"),
        ],
    )
    assert run.exit_code == 3
    assert "burned into" in run.output
    assert not (tmp_path / "o").exists()


def test_looking_up_makes_no_key_file(tmp_path: Path) -> None:
    run = CliRunner().invoke(coread, ["archive", "identify", str(tmp_path / "key"), "2.25.1"])
    assert isinstance(run.exception, ConfigurationError)
    assert not list(tmp_path.iterdir())
