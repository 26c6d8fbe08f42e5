"""Cohorts from real archives: an Orthanc by DICOM, by DICOMweb and as our own; and from a PACS that limits answers."""

import json
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset

from coread.cli import coread
from coread.cohort.catalogue import open_catalogue
from coread.cohort.found import Filters
from coread.cohort.gather import Cohort, Tally, gather
from coread.cohort.plan import read_plan
from coread.errors import CoreadError
from tests.destinations import OrthancServer, orthanc_server
from tests.sources import Pacs, Web, WebServer, dimse, listed, settings_for, study_files, uid_in, upload

pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
SOURCES = ("here", "pacs", "vna")
STUDIES: dict[str, dict[str, Any]] = {
    "mr": {
        "slices": 2,
        "StudyDate": "20250110",
        "PatientSex": "F",
        "PatientBirthDate": "19800201",
        "AccessionNumber": "A1",
    },
    "ct": {"slices": 3, "modality": "CT", "StudyDate": "20250215", "PatientSex": "M", "AccessionNumber": "A2"},
    "old": {"slices": 1, "StudyDate": "20100101", "PatientBirthDate": "20021231", "StudyDescription": "Knee left"},
    "undated": {"slices": 2, "StudyDate": "", "BodyPartExamined": "KNEE", "AccessionNumber": "A4"},
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    with orthanc_server(
        tmp_path_factory.mktemp("archive"), OverwriteInstances=True, DicomAlwaysAllowFind=True
    ) as server:
        yield server


@pytest.fixture(scope="module")
def uids(tmp_path_factory: pytest.TempPathFactory, archive: OrthancServer) -> Mapping[str, str]:
    """Name → StudyInstanceUID of the studies in the archive."""
    found = {}
    for name, more in STUDIES.items():
        files = study_files(tmp_path_factory.mktemp("studies"), name, PatientID=name, **more)
        upload(archive, files)
        found[name] = uid_in(files)
    return found


@pytest.fixture
def folder(tmp_path: Path, archive: OrthancServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings in which the archive is every source."""
    (tmp_path / "coread.toml").write_text(
        f'[orthanc]\nurl = "{archive.url}"\n'
        f'[[source]]\nname = "pacs"\nprotocol = "dimse"\naet = "ORTHANC"\nhost = "127.0.0.1"\n'
        f"port = {archive.dicom_port}\n"
        f'[[source]]\nname = "vna"\nprotocol = "dicomweb"\nurl = "{archive.url}/dicom-web"\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*options: object) -> Result:
    return CliRunner().invoke(coread, ["archive", "plan", "-o", "plan.jsonl", *map(str, options)])


def planned(uids: Mapping[str, str], *options: object) -> list[str]:
    """The names of the studies of a plan."""
    result = plan(*options)
    assert result.exception is None, result.output
    names = {uid: name for name, uid in uids.items()}
    return [names[each.study_instance_uid] for each in read_plan(Path("plan.jsonl")).studies()]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.usefixtures("folder")
def test_a_query_gives_each_study_once_the_oldest_first(uids: Mapping[str, str], source: str) -> None:
    assert planned(uids, "--source", source) == ["undated", "old", "mr", "ct"]
    header = read_plan(Path("plan.jsonl")).header
    assert header.studies == len(STUDIES)
    assert header.instances == sum(each["slices"] for each in STUDIES.values())
    assert (header.bytes is not None) == (source == "here")
    size = header.estimate["bytes"]
    assert size is not None
    assert 5_000 < size < 50_000
    assert Path("plan.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--modality", "CT"], ["ct"]),
        (["--modality", "CT", "--modality", "MR", "--from", "2025-01-01"], ["mr", "ct"]),
        (["--from", "2025-01-10", "--to", "2025-01-10"], ["mr"]),
        (["--to", "2025-01-31"], ["old", "mr"]),
        (["--description", "*knee*"], ["old"]),
        (["--body-part", "KNEE"], ["undated"]),
        (["--min-instances", "2", "--max-instances", "2"], ["undated", "mr"]),
        (["--sex", "F"], ["mr"]),
        (["--min-age", "40", "--max-age", "50"], ["mr"]),
        (["--max-age", "10"], ["old"]),
        (["--query", "AccessionNumber=A2"], ["ct"]),
        (["--query", "PatientID=o*"], ["old"]),
        (["--limit", "2"], ["undated", "old"]),
        (["--query", "PatientID=nobody"], []),
    ],
)
@pytest.mark.usefixtures("folder")
def test_filters_hold_whatever_the_source(
    uids: Mapping[str, str], source: str, options: list[str], expected: list[str]
) -> None:
    assert planned(uids, "--source", source, *options) == expected


@pytest.mark.parametrize("source", SOURCES)
def test_each_line_of_a_list_is_looked_up_and_none_is_dropped_in_silence(
    uids: Mapping[str, str], folder: Path, source: str
) -> None:
    (folder / "list.csv").write_text("Name;Accession Number\nx;A1\ny;A2\nx;A1\nz;A9\n;*\n;\n;\n", encoding="utf-8")
    assert planned(uids, "--source", source, "--list", "list.csv") == ["mr", "ct"]
    missing = folder / "plan.jsonl.missing.csv"
    assert missing.read_text().splitlines() == [
        "line,AccessionNumber,why",
        "5,A9,not in the source",
        "6,*,no AccessionNumber",
    ]
    assert missing.stat().st_mode & 0o777 == 0o600
    rows = "\n".join(["1.2.3", *uids.values(), "x"])
    (folder / "list.csv").write_text(f"StudyInstanceUID\n{rows}\n")
    assert planned(uids, "--source", source, "--list", "list.csv", "--modality", "MR") == ["undated", "old", "mr"]
    assert [line.split(",")[0] for line in missing.read_text().splitlines()[1:]] == ["2", "7"]


@pytest.mark.parametrize("source", ["here", "vna"])
@pytest.mark.usefixtures("folder")
def test_answers_come_page_by_page(uids: Mapping[str, str], source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coread.cohort.catalogue.PAGE", 3)
    monkeypatch.setattr("coread.cohort.catalogue.BATCH", 2)
    monkeypatch.setattr("coread.retrieval.dicomweb.PAGE", 3)
    assert planned(uids, "--source", source) == ["undated", "old", "mr", "ct"]


def test_a_server_that_gives_the_same_page_again_is_not_asked_for_ever(folder: Path) -> None:
    page = b'[{"0020000D":{"vr":"UI","Value":["1.2.3"]}}]'
    with WebServer(answer=lambda _path, _headers: Web(body=page)) as server:
        (folder / "coread.toml").write_text(
            f'[[source]]\nname = "vna"\nprotocol = "dicomweb"\nurl = "{server.url}"\n', encoding="utf-8"
        )
        result = plan("--source", "vna")
    assert "gives the same answers again" in str(result.exception)


@pytest.mark.usefixtures("folder", "uids")
def test_what_was_asked_is_written_down_without_what_says_who_somebody_is() -> None:
    result = plan("--query", "PatientName=DOE^JANE", "--query", "StationName=CT1", "--json")
    assert result.exception is None
    header = json.loads(result.stdout)
    assert header["query"]["keys"] == {"PatientName": "(not written down)", "StationName": "CT1"}
    assert "JANE" not in Path("plan.jsonl").read_text() + result.output


@pytest.mark.usefixtures("folder")
def test_a_sample_is_the_same_for_the_same_seed(uids: Mapping[str, str]) -> None:
    drawn = {seed: planned(uids, "--sample", 2, "--seed", seed) for seed in range(6)}
    assert all(len(each) == 2 for each in drawn.values())
    assert planned(uids, "--source", "pacs", "--sample", 2, "--seed", 3) == drawn[3]
    assert len({tuple(each) for each in drawn.values()}) > 1


@pytest.mark.usefixtures("folder", "uids")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--source", "nowhere"], "there is no source nowhere; there are: here, pacs, vna"),
        (["--query", "Nonsense=1"], "expected KEYWORD=VALUE"),
        (["--query", "StudyDate=2020"], "say that with --from and --to"),
        (["--from", "2025-02-01", "--to", "2025-01-01"], "exchange them"),
        (["--min-instances", "3", "--max-instances", "2"], "exchange them"),
        (["--column", "x"], "name one with --list"),
        (["--model", "nothing"], "nothing"),
        (["--hours", "late"], "expected hours such as 19:00-07:00"),
    ],
)
def test_what_cannot_be_asked_is_said_in_plain_words(options: list[str], said: str) -> None:
    result = plan(*options)
    assert isinstance(result.exception, CoreadError)
    assert said in str(result.exception)
    assert not Path("plan.jsonl").exists()


@pytest.mark.usefixtures("folder", "uids")
def test_the_table_says_what_is_known_and_from_what() -> None:
    result = plan("--source", "pacs", "--model", "left_ventricle_sax", "--sex", "F")
    assert result.exception is None, result.output
    said = " ".join(result.output.split())
    assert "an estimate, from studies in our Orthanc" in said
    assert "left out: 3: sex" in said
    assert "let it read a pilot (--sample 20)" in said


class Limited:
    """A PACS that gives so many answers at most, and says so or not."""

    def __init__(self, days: list[date], *, most: int, says: bool) -> None:
        self._days, self._most, self._says = days, most, says

    def find(self, keys: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        first, _, last = str(keys.get("StudyDate") or "19000101-29990101").partition("-")
        begin, _, end = str(keys.get("StudyTime") or "000000-235959").partition("-")
        given = 0
        for number, day in enumerate(self._days):
            clock = f"{number % 24:02}3000"
            if first <= f"{day:%Y%m%d}" <= (last or first) and begin <= clock <= end:
                if given == self._most:
                    if self._says:
                        yield 0xA700, None
                    return
                given += 1
                yield 0xFF00, listed(f"1.2.{number}", StudyDate=f"{day:%Y%m%d}", instances=1)


DAYS = [date(2024, 1, 1) + timedelta(days=number // 3) for number in range(400)] + [date(2024, 7, 1)] * 20


@pytest.mark.parametrize(("most", "says"), [(50, False), (64, False), (57, False), (20, True), (57, True)])
def test_a_pacs_that_limits_its_answers_is_asked_in_parts(most: int, says: bool) -> None:
    pacs = Limited(DAYS, most=most, says=says)
    tally, found = ask(pacs)
    assert found == len(DAYS)
    assert tally.found == len(DAYS)
    assert tally.limit == most


def test_a_pacs_without_a_limit_is_not_asked_often() -> None:
    tally, found = ask(Limited(DAYS, most=10_000, says=False))
    assert found == len(DAYS)
    assert tally.limit is None
    assert tally.queries <= 20


def test_a_pacs_that_cannot_give_all_of_one_minute_is_not_believed() -> None:
    pacs = Limited([date(2024, 1, 1)] * 24 * 5, most=3, says=True)
    with pytest.raises(CoreadError, match="within one minute"):
        ask(pacs)


def ask(limited: Limited) -> tuple[Tally, int]:
    with (
        Pacs(find=limited.find) as pacs,
        open_catalogue(dimse(pacs.port), settings_for("http://127.0.0.1:9")) as catalogue,
        Cohort() as cohort,
    ):
        tally = gather(catalogue, cohort, keys={}, filters=Filters(), period=None, today=date(2026, 1, 1))
        return tally, len(cohort)
