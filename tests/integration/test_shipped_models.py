"""The shipped models on people whom they never saw, and on those whom they were not made for."""

import importlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from coread import codes
from coread.dicom_files import radiograph_of, series_of, write_files
from coread.dicom_sr.validation.run import validate_files
from coread.ecg_files import ecg_of
from coread.errors import InputError
from coread.evaluation.report import Method
from coread.evaluation.run import evaluate, load_reference
from coread.models.catalogue import installed_models
from coread.models.runner import BundleRunner, choose_device
from coread.objects import ObjectKind, Profile
from coread.settings import Settings
from coread.volume import Volume
from coread.waveform import Waveform
from coread.workers.folder import write_reading
from coread.workers.pipeline import explain_refusal, read_study
from coread.workers.study import Study, studies_in_folder
from tests.support import NOW, texts

DATA = {
    "left_ventricle_sax": "cardiac_lv_mr",
    "hippocampus_t1": "hippocampus_mr",
    "chest_xray_pneumonia": "cxr_pneumonia",
    "ecg_12_lead": "ecg_ptbxl",
}
LIMBS = ("I", "II", "III")
MODIFIER = "SegmentedPropertyTypeModifierCodeSequence"
IMAGING_MEASUREMENTS, TRACKING_IDENTIFIER = "126010", "112039"


def runner_of(name: str) -> BundleRunner:
    return BundleRunner(installed_models(Settings())[name], device=choose_device("cpu"))


def studies_of(name: str, real_data: Path, folder: Path, *, count: int) -> tuple[Path, Path]:
    """The first people of the val split as DICOM, and the truth."""
    training = f"coread.models.{name}.train"
    cases = importlib.import_module(f"{training}.data").load_cases(real_data / DATA[name])
    chosen = [case for case in cases if case.split == "val"][:count]
    paths: tuple[Path, Path] = importlib.import_module(f"{training}.studies").write_studies(chosen, folder)
    return paths


def groups_of(report: Dataset) -> Iterator[Dataset]:
    for container in report.ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeValue == IMAGING_MEASUREMENTS:
            yield from container.ContentSequence


def said_in(group: Dataset, concept: str) -> list[Any]:
    return [
        item
        for item in group.ContentSequence
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeValue == concept
    ]


def number_in(group: Dataset, concept: Code) -> float:
    (item,) = said_in(group, concept.value)
    return float(item.MeasuredValueSequence[0].NumericValue)


def numbers_in_reports(objects: Any, name: str) -> dict[str, float]:
    """By name: volumes in ml, or of the answer its probability."""
    found = {}
    for result in objects:
        if result.kind is ObjectKind.SR:
            for group in groups_of(result.dataset):
                (tracked,) = said_in(group, TRACKING_IDENTIFIER)
                found[str(tracked.TextValue)] = number_in(group, codes.VOLUME)
        elif result.kind is ObjectKind.SR_CLASSIFICATION and name not in ("left_ventricle_sax", "hippocampus_t1"):
            (group,) = groups_of(result.dataset)
            (tracked,) = said_in(group, TRACKING_IDENTIFIER)
            found[str(tracked.TextValue)] = number_in(group, codes.CERTAINTY_OF_FINDING) / 100
    return found


@pytest.mark.parametrize("name", DATA)
def test_the_reports_numbers_are_those_of_the_evaluation(name: str, real_data: Path, tmp_path: Path) -> None:
    folder, reference = studies_of(name, real_data, tmp_path, count=3)
    runner = runner_of(name)
    studies = studies_in_folder(folder)
    found = evaluate(
        studies,
        runner,
        load_reference(reference, runner.model),
        method=Method(with_uids=True, resamples=100),
        profiles=Settings().results.profiles,
        at=datetime.now(UTC),
        progress=iter,
    )
    rows = {row["study_instance_uid"]: row["results"] for row in found.report["studies"]}
    assert len(rows) == 3
    for study in studies:
        objects = read_study(study, runner, job_id="5" * 32, created_at=NOW).objects
        reported = numbers_in_reports(objects, name)
        assert reported
        for what, number in reported.items():
            row = rows[study.study_instance_uid][what]
            evaluated = row["volume_ml"] if "volume_ml" in row else row["probability"]
            assert number == pytest.approx(evaluated, rel=2e-5)


@pytest.mark.parametrize("name", DATA)
def test_what_a_model_writes_for_any_destination_is_in_order(name: str, real_data: Path, tmp_path: Path) -> None:
    folder, _ = studies_of(name, real_data, tmp_path, count=1)
    (study,) = studies_in_folder(folder)
    reading = read_study(study, runner_of(name), job_id="5" * 32, created_at=NOW, profiles=tuple(Profile))
    written = write_reading(reading, tmp_path / "out")
    judgements = validate_files([path for path in written if path.suffix == ".dcm"], source=folder)
    assert len(judgements) == len(reading.objects)
    assert [problem for judgement in judgements for problem in judgement.problems] == []


def refusal(name: str, folder: Path) -> tuple[InputError, Study]:
    """Why the model refuses the study, which is said in a report of its own."""
    (study,) = studies_in_folder(folder)
    runner = runner_of(name)
    with pytest.raises(InputError) as raised:
        read_study(study, runner, job_id="5" * 32, created_at=NOW)
    refused = explain_refusal(study, runner, raised.value, job_id="5" * 32, created_at=NOW)
    (result,) = refused.objects
    assert result.kind is ObjectKind.SR_NOT_EVALUATED
    assert str(raised.value) in texts(result.dataset)
    return raised.value, study


@pytest.mark.parametrize("age", ["045Y", "011M", "006Y", None])
def test_a_chest_x_ray_of_an_adult_a_baby_or_anybody_is_refused(age: str | None, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (90, 70)).astype(np.uint8)
    image = radiograph_of(
        pixels,
        name="adult",
        patient_id="TEST",
        patient_name="TEST^ADULT",
        study_description="Chest",
        series_description="Chest PA",
        body_part="CHEST",
    )
    if age:
        image.PatientAge = age
    write_files([image], tmp_path)
    error, _ = refusal("chest_xray_pneumonia", tmp_path)
    assert "expected a patient aged 1 to 5 years" in str(error)


def test_a_whole_head_is_no_crop_of_a_hippocampus(tmp_path: Path) -> None:
    head = Volume.of(
        np.random.default_rng(1).integers(0, 900, (60, 220, 180)).astype(np.int16),
        directions=np.eye(3)[::-1],
        spacing=(1.0, 1.0, 1.0),
    )
    images = series_of(
        head,
        modality="MR",
        name="head",
        patient_id="TEST",
        patient_name="TEST^HEAD",
        study_description="Brain",
        series_description="T1 hippocampus protocol",
        body_part="HEAD",
    )
    write_files(images, tmp_path)
    error, _ = refusal("hippocampus_t1", tmp_path)
    assert "expected 24 to 72 mm along each edge for a T1-weighted MR crop" in str(error)


@pytest.mark.parametrize(
    ("stated", "names"),
    [
        ({"Laterality": "L"}, ["Left anterior hippocampus", "Left posterior hippocampus"]),
        ({"ImageLaterality": "R"}, ["Right anterior hippocampus", "Right posterior hippocampus"]),
        ({"ImageLaterality": "R", "Laterality": "L"}, ["Anterior hippocampus", "Posterior hippocampus"]),
        ({"Laterality": "B"}, ["Anterior hippocampus", "Posterior hippocampus"]),
        ({}, ["Anterior hippocampus", "Posterior hippocampus"]),
    ],
)
def test_a_hippocampus_is_of_the_side_that_its_header_states(
    stated: dict[str, str], names: list[str], real_data: Path, tmp_path: Path
) -> None:
    folder, _ = studies_of("hippocampus_t1", real_data, tmp_path, count=1)
    for path in folder.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        for keyword, value in stated.items():
            setattr(image, keyword, value)
        image.save_as(path)
    (study,) = studies_in_folder(folder)
    reading = read_study(study, runner_of("hippocampus_t1"), job_id="5" * 32, created_at=NOW)
    assert [structure.name for structure in reading.findings.structures] == names
    (segmentation,) = (each.dataset for each in reading.objects if each.kind is ObjectKind.SEG)
    modifiers = [
        [item.CodeMeaning for item in segment.SegmentedPropertyTypeCodeSequence[0].get(MODIFIER) or []]
        for segment in segmentation.SegmentSequence
    ]
    assert modifiers == [[name.split()[0]] if name[0] in "LR" else [] for name in names]


def test_an_ecg_of_three_leads_is_refused(tmp_path: Path) -> None:
    times = np.arange(5000) / 500
    first, second = np.sin(7 * times), np.cos(5 * times)
    leads = np.stack([first, second, second - first]).astype(np.float32)
    ecg = ecg_of(
        Waveform(samples=leads, leads=LIMBS, sampling_rate_hz=500.0),
        name="three leads",
        patient_id="TEST",
        patient_name="TEST^LEADS",
    )
    ecg.PatientAge = "050Y"
    write_files([ecg], tmp_path)
    error, _ = refusal("ecg_12_lead", tmp_path)
    assert "expected a 12-lead ECG" in str(error)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # the files' UIDs and dates are awkward
def test_a_crop_in_anybodys_dicom_is_read(number: int, real_data: Path) -> None:
    (study,) = studies_in_folder(real_data / "zoo" / f"series_hippocampus_study{number}")
    findings = read_study(study, runner_of("hippocampus_t1"), job_id="5" * 32, created_at=NOW).findings
    for structure in findings.structures:
        assert 0.8 < structure.measurements[0].value < 3.5
