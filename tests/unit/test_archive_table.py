"""The rows of an archive run: what a job's result becomes, and how it is kept."""

import io
import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coread.archive_table import FindingKind, RowFinding, RunStore, StudyRow, row_without_job, rows_of
from coread.archive_table.row import findings_of
from coread.errors import ConfigurationError
from coread.job import JobState
from coread.ledger import JobRecord
from tests.support import a_job

HEADER = {
    "StudyDate": "20240229",
    "Modality": "MR",
    "Manufacturer": "SIEMENS ",
    "ManufacturerModelName": "Avanto",
    "StationName": "MR01",
    "InstitutionName": "St.  Example",
    "PatientBirthDate": "19640301",
    "PatientSex": "F",
    "PatientName": "Doe^Jane",
    "PatientID": "4711",
    "SliceThickness": "8",
    "EchoTime": "1.5\\3.0",
    "KVP": "not a number",
}
VOLUME = {"name": "Volume", "code": ["1", "SCT", "Volume"], "derivation": None, "value": 102.2, "unit": "ml"}
RESULT: dict[str, Any] = {
    "findings": [
        {"structure": "Cavity", "phase": "end-diastole", "present": True, "measurements": [VOLUME]},
        {"structure": "Thrombus", "present": False, "measurements": []},
    ],
    "classes": [{"name": "No pneumonia", "finding": ["1", "SCT", "Pneumonia"], "value": ["2", "SCT", "Absent"]}],
    "numbers": [{"name": "Ejection fraction", "code": ["1", "LN", "EF"], "value": 47.0, "unit": "%"}],
    "marks": [
        {"name": "Nodule 1", "code": ["1", "SCT", "Nodule"], "slice": 3, "probability": 0.7},
        {"name": "Nodule 2", "code": ["1", "SCT", "Nodule"], "slice": 9, "probability": 0.9},
    ],
    "not_evaluated": [{"name": "Stroke volume", "code": ["1", "LN", "SV"], "reason": "expected one cycle"}],
    "sop_class_uids": ["1.2.840.10008.5.1.4.1.1.66.4"],
    "sop_instance_uids": ["2.25.1"],
    "seconds": {"infer": 1.5, "store": 0.2},
    "stages": {"infer": ["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00"]},
    "input": {"intensity_mean": 120.5},
    "pictures": [{"caption": "slice 4", "instance": "abc", "attachment": "4720"}],
}
RESULT["classes"][0]["probability"] = 0.9


def record(result: dict[str, Any] = RESULT, state: JobState = JobState.DONE, reason: str = "") -> JobRecord:
    return JobRecord(job=a_job(model="heart"), state=state, reason=reason, attempts=1, result=result)


def row(position: int = 0, **more: Any) -> StudyRow:
    (made,) = rows_of([record()], HEADER, position=position)
    return replace(made, **more)


def test_a_row_says_all_that_the_result_says_under_names_that_do_not_depend_on_the_study() -> None:
    assert row().findings == (
        RowFinding(name="Cavity at end-diastole", kind=FindingKind.STRUCTURE, category="present"),
        RowFinding(name="Cavity at end-diastole: Volume", kind=FindingKind.MEASUREMENT, value=102.2, unit="ml"),
        RowFinding(name="Thrombus", kind=FindingKind.STRUCTURE, category="absent"),
        RowFinding(name="Pneumonia", kind=FindingKind.CLASS, value=0.9, unit="1", category="Absent"),
        RowFinding(name="Ejection fraction", kind=FindingKind.NUMBER, value=47.0, unit="%"),
        RowFinding(name="Nodule", kind=FindingKind.MARKS, value=2.0, unit="1"),
        RowFinding(name="Nodule: highest probability", kind=FindingKind.PROBABILITY, value=0.9, unit="1"),
        RowFinding(name="Stroke volume", kind=FindingKind.NOT_EVALUATED, category="expected one cycle"),
    )


def test_a_row_has_the_scanner_and_the_age_but_nothing_that_names_the_patient() -> None:
    found = row()
    assert (found.manufacturer, found.institution_name, found.echo_time_ms) == ("SIEMENS", "St. Example", 1.5)
    assert (found.patient_age_years, found.patient_sex, found.kvp) == (59, "F", None)
    text = json.dumps(found.as_json())
    assert not [secret for secret in ("Doe", "4711", "19640301") if secret in text]


def test_several_questions_keep_the_names_of_their_classes() -> None:
    classes = [
        {"name": name, "finding": ["1", "SCT", "Opacity"], "value": ["2", "SCT", "Present"], "probability": None}
        for name in ("left", "right")
    ]
    assert [(each.name, each.value) for each in findings_of({"classes": classes})] == [("left", None), ("right", None)]


def test_a_job_that_ended_without_a_result_has_a_row_with_its_reason() -> None:
    (found,) = rows_of([record({}, JobState.REFUSED, "expected an MR")], {}, position=7)
    assert (found.position, found.state, found.reason, found.findings) == (7, "refused", "expected an MR", ())


def test_a_study_that_came_to_no_model_has_a_row() -> None:
    found = row_without_job(position=3, study_instance_uid="1.2", state="failed", reason="no association")
    assert (found.model, found.state, found.reason) == ("", "failed", "no association")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(HEADER)), st.text(max_size=20)))
def test_no_header_is_too_odd_for_a_row(header: dict[str, str]) -> None:
    (found,) = rows_of([record()], header, position=0)
    assert StudyRow.from_json(json.loads(json.dumps(found.as_json(), allow_nan=False))) == found


def test_rows_come_back_in_the_order_of_the_plan_and_a_second_writing_replaces_the_first(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run") as store:
        store.write(1_500, [row(1_500)])
        store.write(2, [row(2), row(2, model="other")])
        store.write(2, [row(2, state="failed")])
    with RunStore.existing(tmp_path / "run") as store:
        assert list(store.rows()) == [row(2, state="failed"), row(1_500)]
        assert store.rows_at(1_500) == [row(1_500)]


def test_all_rows_come_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coread.archive_table.store.AT_ONCE", 3)
    with RunStore(tmp_path) as store:
        for position in range(7):
            store.write(position, [row(position), row(position, model="other")])
        assert [each.position for each in store.rows()] == [position for position in range(7) for _ in range(2)]


def test_rows_of_another_study_are_not_written(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store, pytest.raises(ValueError, match="expected rows of study 1"):
        store.write(1, [row(2)])


def test_only_the_run_itself_can_read_its_folder(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with RunStore(tmp_path / "run") as store:
            store.write(0, [row()])
            picture = store.put_picture(0, "heart", 1, a_png((10, 10)))
    finally:
        os.umask(before)
    paths = [tmp_path / "run", tmp_path / "run" / "rows.sqlite", picture, picture.parent]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o700, 0o600, 0o600, 0o700]


def test_a_row_is_there_after_its_writer_was_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from coread.archive_table import RunStore, row_without_job\n"
        "store = RunStore(Path(sys.argv[1]))\n"
        "store.write(5, [row_without_job(position=5, study_instance_uid='1.2', state='failed', reason='')])\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    with RunStore.existing(tmp_path) as store:
        assert [each.position for each in store.rows()] == [5]


def test_a_folder_without_a_run_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"found no rows\.sqlite"):
        RunStore.existing(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_of_the_system_and_loses_no_row(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.write(0, [row(0)])
        store._connection.execute("PRAGMA max_page_count = 5")
        with pytest.raises(OSError, match="full"):
            store.write(1, [row(1, reason="x" * 100_000)])
        assert list(store.rows()) == [row(0)]
        store._connection.execute("PRAGMA max_page_count = 5000")
        store.write(1, [row(1)])


def test_a_file_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.sqlite").write_text("position;model\n" * 100, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="expected the rows of an archive run"):
        RunStore.existing(tmp_path)


def test_the_folder_says_which_run_it_is_of(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        assert store.described() == {}
        store.describe({"run_id": "a", "state": "running"})
        store.describe({"run_id": "a", "state": "finished"})
        assert store.described() == {"run_id": "a", "state": "finished"}


def a_png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG", pnginfo=None)
    return buffer.getvalue()


def test_a_picture_is_kept_small_under_its_study_and_model(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        path = store.put_picture(1_234, "../heart", 1, a_png((1_000, 600)))
        assert path == store.picture(1_234, "../heart", 1)
        assert path.resolve().is_relative_to(tmp_path / "pictures" / "00001")
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("WEBP", (480, 288))
        assert store.pictures(row(1_234, model="../heart")) == [path]
        assert store.pictures(row(1_235)) == []
