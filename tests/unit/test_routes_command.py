"""`coread routes` and `coread check-config` as a person runs them."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from coread.cli import coread
from coread.dicom_files import write_files
from coread.errors import ArchiveUnavailable, ConfigurationError, NotDicom
from tests.support import images_of, volume_in_plane

SETTINGS = """
[ledger]
url = "postgresql://coread:hush@localhost/coread"
[broker]
url = "redis://:hush@localhost"
[[destination]]
name = "pacs"
protocol = "dimse"
host = "pacs.example"
port = 104
aet = "ARCHIVE"
[[route]]
name = "hearts"
match = { SeriesDescription = "*sax*", PatientAge = { max = 90 } }
models = ["left_ventricle_sax"]
priority = "stat"
profiles = ["legacy", "ohif"]
destinations = ["pacs"]
[[route]]
name = "heads"
match = { BodyPartExamined = ["HEAD", "BRAIN"] }
models = ["hippocampus_t1"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coread.toml").write_text(SETTINGS)
    images = images_of(volume_in_plane("axial"), patient_name="HUSHHUSH^NAME", patient_id="HUSHID")
    for image in images:
        image.PatientBirthDate, image.StudyDate = "19500203", "20200101"
    write_files(images, tmp_path / "in")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(coread, arguments, catch_exceptions=False, standalone_mode=False)


@pytest.mark.usefixtures("folder")
def test_a_folder_is_explained_route_by_route() -> None:
    said = run("routes", "test", "in")
    assert [line.strip() for line in said.output.splitlines() if "series 2.25" not in line] == [
        next(line for line in said.output.splitlines() if line.startswith("Study ")),
        "yes hearts",
        "no  heads",
        "BodyPartExamined: expected `HEAD` or `BRAIN`, found HEART",
        "left_ventricle_sax reads it: stat, for ohif, legacy, to pacs",
    ]


ORDERED = """
[[worklist]]
name = "ris"
aet = "RIS"
host = "ris.example"
[[route]]
name = "ordered"
match = { RequestedProcedureCodeSequence = "HEART^99TEST" }
models = ["left_ventricle_sax"]
"""


def test_files_are_explained_as_if_the_worklist_had_them(folder: Path) -> None:
    (folder / "coread.toml").write_text(ORDERED)
    assert (
        "RequestedProcedureCodeSequence: expected `HEART^99TEST`, found nothing" in run("routes", "test", "in").output
    )
    order = [
        "--worklist",
        "RequestedProcedureCodeSequence=HEART^99TEST",
        "--worklist",
        "RequestedProcedurePriority=STAT",
    ]
    said = run("routes", "test", "in", *order).output
    assert "the modality worklist as told" in said
    assert "yes ordered" in said
    assert "left_ventricle_sax reads it: stat" in said
    with pytest.raises(click.UsageError, match="expected KEYWORD=VALUE"):
        run("routes", "test", "in", "--worklist", "PatientName=X")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_explanation_says_nothing_of_who_the_patient_is(folder: Path, form: list[str]) -> None:
    (folder / "coread.toml").write_text(SETTINGS.replace("max = 90", "max = 9"))
    said = run("routes", "test", "in", *form).output
    assert "found 69 years" in said or '"found": "69 years"' in said
    for word in ("HUSH", "1950"):
        assert word not in said


def test_one_file_is_explained_as_json(folder: Path) -> None:
    (explained,) = json.loads(run("routes", "test", str(next((folder / "in").iterdir())), "--json").output)
    assert [route["matched"] for route in explained["routes"]] == [True, False]
    (model,) = explained["models"]
    assert model == {
        "model": "left_ventricle_sax",
        "priority": "stat",
        "profiles": ["ohif", "legacy"],
        "destinations": ["pacs"],
    }


def test_files_can_be_tried_as_another_sender_would_send_them(folder: Path) -> None:
    text = '[[route]]\nname = "r"\nmatch = {SourceApplicationEntityTitle = "MR*"}\nmodels = ["hippocampus_t1"]\n'
    (folder / "coread.toml").write_text(text)
    assert "no  r" in run("routes", "test", "in").output
    assert "yes r" in run("routes", "test", "in", "--source-aet", "MR7").output


@pytest.mark.usefixtures("folder")
def test_the_routes_are_listed_as_text_and_as_json() -> None:
    said = run("routes", "list").output
    assert "hearts: left_ventricle_sax; stat, for legacy, ohif, to pacs" in said
    assert "  PatientAge: at most 90" in said
    first, _ = json.loads(run("routes", "list", "--json").output)
    assert first["match"] == {"SeriesDescription": "`*sax*`", "PatientAge": "at most 90"}


@pytest.mark.usefixtures("folder")
def test_a_file_in_order_is_said_to_be_and_shown_without_passwords() -> None:
    said = run("check-config").output
    assert "coread.toml: in order" in said
    assert "intake.quiet_s = 60.0" in said
    assert "ledger.url = **********" in said
    assert "hush" not in said


@pytest.mark.parametrize("command", [["check-config"], ["routes", "list"], ["routes", "test", "in"]])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("SeriesDescription", "SeriesDescripton"), "route hearts: expected a DICOM keyword, found SeriesDescripton"),
        (("hippocampus_t1", "liver"), "there is no model called liver"),
        (("max = 90", "max = '90'"), "expected numbers"),
    ],
)
def test_a_mistake_in_the_file_is_named_by_every_command(
    folder: Path, command: list[str], wrong: tuple[str, str], said: str
) -> None:
    (folder / "coread.toml").write_text(SETTINGS.replace(*wrong))
    with pytest.raises(ConfigurationError, match=said):
        run(*command)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("study", ["", "nowhere", "1.2.x", "²"])
def test_what_is_neither_a_path_nor_a_uid_is_said_to_be_neither(study: str) -> None:
    with pytest.raises(click.UsageError):
        run("routes", "test", study)


@pytest.mark.usefixtures("folder")
def test_a_sender_can_be_supposed_of_files_only() -> None:
    with pytest.raises(click.UsageError, match="Orthanc knows"):
        run("routes", "test", "1.2.3", "--source-aet", "MR7")


def test_a_study_is_looked_for_in_orthanc_and_a_file_that_is_not_dicom_is_refused(folder: Path) -> None:
    (folder / "coread.toml").write_text("[orthanc]\nhttp_port = 1\n" + SETTINGS)
    with pytest.raises(ArchiveUnavailable):
        run("routes", "test", "1.2.3")
    with pytest.raises(NotDicom):
        run("routes", "test", "coread.toml")
    (folder / "coread.toml").write_text("[orthanc]\nhttp_port = 0\n" + SETTINGS)
    with pytest.raises(ConfigurationError, match=r"orthanc\.http_port is 0"):
        run("routes", "test", "1.2.3")
