"""A cine in every form that scanners send: the same volumes, the same fraction, objects for each of the two phases."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from coread.alerts import holds
from coread.dicom_sr.encode import encode_findings
from coread.dicom_sr.identity import possible_instances
from coread.dicom_sr.validation.run import validate_files
from coread.models.runner import BundleRunner
from coread.objects import ObjectKind, Profile
from coread.settings_alerts import AlertSettings
from coread.workers.folder import write_reading
from coread.workers.pipeline import Reading, read_study
from tests.cine import (
    CINE_MANIFEST,
    END_DIASTOLIC_ML,
    END_SYSTOLIC_ML,
    FRACTION_PERCENT,
    HEIGHTS,
    PHASES,
    VOXEL_ML,
    beating,
    cine,
    counting_bundle,
    flat,
    in_one_file,
    one_series_for_each_phase,
    one_series_for_each_slice,
    phase_of,
    study_of,
)
from tests.support import NOW, program, texts

JOB = "0123456789abcdef" * 2
EDV, ESV, SV, EF = (
    "Left Ventricular ED Volume",
    "Left Ventricular ES Volume",
    "Stroke Volume",
    "Left ventricular ejection fraction by MR",
)

FORMS: dict[str, Callable[[], list[Dataset]]] = {
    "one series": lambda: flat(cine()),
    "a series for each slice": lambda: one_series_for_each_slice(cine()),
    "a series for each phase, by name": lambda: one_series_for_each_phase(
        filled="SAX_ED", emptied="SAX_ES", times=False
    ),
    "a series for each phase, in words": lambda: one_series_for_each_phase(
        filled="sax end-diastolic", emptied="sax Endsystole"
    ),
    "a series for each phase, by time": lambda: one_series_for_each_phase(filled="cine SAX", emptied="cine SAX"),
    "multi-frame, by time": lambda: in_one_file(cine(), "NominalCardiacTriggerDelayTime"),
    "multi-frame, by percentage": lambda: in_one_file(cine(), "NominalPercentageOfCardiacPhase"),
    "multi-frame, by index": lambda: in_one_file(cine(), "TemporalPositionIndex"),
}


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BundleRunner]:
    runner = counting_bundle(tmp_path_factory.mktemp("counting"))
    yield runner
    runner.close()


def read(images: list[Dataset], runner: BundleRunner, **more: Any) -> Reading:
    return read_study(study_of(images), runner, job_id=JOB, created_at=NOW, **more)


def numbers(reading: Reading) -> dict[str, float]:
    return {each.name: each.measurement.value for each in reading.numbers.quantities}


def reasons(reading: Reading) -> set[str]:
    return {each.reason for each in reading.numbers.not_evaluated}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_volumes_and_the_fraction(form: str, counting: BundleRunner) -> None:
    reading = read(FORMS[form](), counting)
    assert numbers(reading) == pytest.approx(
        {
            EDV: END_DIASTOLIC_ML,
            ESV: END_SYSTOLIC_ML,
            SV: END_DIASTOLIC_ML - END_SYSTOLIC_ML,
            EF: FRACTION_PERCENT,
        }
    )
    assert [part.phase for part in reading.parts] == ["end-diastole", "end-systole"]
    assert reading.numbers.not_evaluated == ()


@pytest.mark.parametrize(
    "form", ["a series for each slice", "a series for each phase, by name", "multi-frame, by time"]
)
def test_the_validators_find_nothing(form: str, counting: BundleRunner, tmp_path: Path) -> None:
    images = FORMS[form]()
    (tmp_path / "source").mkdir()
    for number, image in enumerate(images):
        image.save_as(tmp_path / "source" / f"{number}.dcm", enforce_file_format=True)
    reading = read(images, counting, profiles=list(Profile))
    files = [path for path in write_reading(reading, tmp_path / "out") if path.suffix == ".dcm"]
    assert len(files) == 2 * 6 + 1
    for name in ("dciodvfy", "dcentvfy", "dsrdump"):
        assert program(name)
    for judgement in validate_files(files, source=tmp_path / "source"):
        assert list(judgement.problems) == [], judgement.file.name
        assert {"dciodvfy", "dcentvfy"} <= set(judgement.programs)
        assert "dsrdump" in judgement.programs or not judgement.file.name.startswith("SR")


def test_the_report_says_the_masks_numbers_and_the_phases_they_are_from(counting: BundleRunner) -> None:
    reading = read(flat(cine()), counting)
    objects = {(str(result.kind), result.dataset.SeriesDescription): result.dataset for result in reading.objects}
    counted = {
        phase: sum(
            int(frame.sum())
            for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True)
            if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2
        )
        * VOXEL_ML
        for phase in ("end-diastole", "end-systole")
        for seg in [objects["SEG", f"AI Test model {phase} segmentation (RESEARCH)"]]
    }
    report = objects["SR-CLASS", "AI Test model ejection fraction (RESEARCH)"]
    said = values_in(report)
    stroke_ml = counted["end-diastole"] - counted["end-systole"]
    assert [said[name][0] for name in (EDV, ESV, SV, EF)] == pytest.approx(
        [*counted.values(), stroke_ml, 100 * stroke_ml / counted["end-diastole"]]
    )
    assert [said[name][1:] for name in (EDV, ESV, SV, EF)] == [
        ("ml", "8821-1"),
        ("ml", "8823-7"),
        ("ml", "90096001"),
        ("%", "8811-2"),
    ]
    assert "end-diastole: phase 1 of 12, 0 ms after the R wave" in texts(report)
    assert any("end-systole: phase 6 of 12, 35" in text for text in texts(report))
    measured = values_in(objects["SR", "AI Test model end-systole measurements (RESEARCH)"])
    assert measured["Volume"][0] == pytest.approx(counted["end-systole"])
    for phase, code in (("end-diastole", "416190007"), ("end-systole", "416430001")):
        for kind, what in (("SR", "measurements"), ("SR-KEY", "key findings")):
            report = objects[kind, f"AI Test model {phase} {what} (RESEARCH)"]
            points = [item for item in report.iterall() if item.keyword == "CodeValue" and item.value == code]
            assert len(points) == 2, "one for each structure"


def values_in(report: Dataset) -> dict[str, tuple[float, str, str]]:
    """Meaning of a number → the last such number, its unit and code."""
    found = {}

    def walk(item: Dataset) -> None:
        if item.get("ValueType") == "NUM":
            (name,), (measured,) = item.ConceptNameCodeSequence, item.MeasuredValueSequence
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            found[name.CodeMeaning] = (float(measured.NumericValue), unit, name.CodeValue)
        for child in item.get("ContentSequence") or []:
            walk(child)

    walk(report)
    return found


def test_each_phases_segmentation_refers_to_that_phases_images(counting: BundleRunner) -> None:
    phases = cine()
    reading = read(one_series_for_each_slice(phases), counting)
    for part, number in zip(reading.parts, (0, 5), strict=True):
        own = {(str(image.SeriesInstanceUID), str(image.SOPInstanceUID)) for image in phases[number]}
        (seg,) = (result.dataset for result in part.objects if result.kind == "SEG")
        listed = {
            (str(series.SeriesInstanceUID), str(image.ReferencedSOPInstanceUID))
            for series in seg.ReferencedSeriesSequence
            for image in series.ReferencedInstanceSequence
        }
        assert listed == own


def test_every_kind_of_object_of_a_phase_lists_all_series_of_its_slices(counting: BundleRunner, tmp_path: Path) -> None:
    images = one_series_for_each_slice(cine())
    for number, image in enumerate(images):
        image.save_as(tmp_path / f"source{number}.dcm", enforce_file_format=True)
    part = read(images, counting).parts[1]
    kinds = frozenset({ObjectKind.SEG, ObjectKind.RTSTRUCT, ObjectKind.SR, ObjectKind.GSPS, ObjectKind.KOS})
    objects = encode_findings(part.findings, source=part.source.as_source, identity=part.identity, kinds=kinds)
    (tmp_path / "out").mkdir()
    files = [tmp_path / "out" / f"{result.kind}.dcm" for result in objects]
    for path, result in zip(files, objects, strict=True):
        path.write_bytes(result.file())
    assert len(files) == 5
    for judgement in validate_files(files, source=tmp_path):
        assert list(judgement.problems) == [], judgement.file.name
    (structure_set,) = (result.dataset for result in objects if result.kind is ObjectKind.RTSTRUCT)
    (study,) = structure_set.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    assert len(study.RTReferencedSeriesSequence) == 6


def test_all_identifiers_differ_and_follow_from_the_job(counting: BundleRunner) -> None:
    one, again = (read(flat(cine(), seed=seed), counting, profiles=list(Profile)) for seed in (1, 2))
    assert [result.file() for result in one.objects] == [result.file() for result in again.objects]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({str(result.dataset[keyword].value) for result in one.objects}) == len(one.objects)
    assert {str(result.dataset.SOPInstanceUID) for result in one.objects} <= possible_instances(JOB)
    assert len(set(one.summary["tracking_uids"])) == 4
    assert one.summary["sop_instance_uids"] == [str(result.dataset.SOPInstanceUID) for result in one.objects]


def test_one_phase_is_read_as_by_a_model_that_knows_no_phases(tmp_path: Path, counting: BundleRunner) -> None:
    (images,) = cine(HEIGHTS[:1])
    plain = counting_bundle(tmp_path, series={**counting.model.manifest.series[0].model_dump(), "phases": None})
    plain.digest, digest = counting.digest, plain.digest
    plain.model = copy.copy(counting.model)
    one, other = (read(flat([images]), runner, profiles=list(Profile)) for runner in (counting, plain))
    assert digest != counting.digest
    assert [result.file() for result in one.objects] == [result.file() for result in other.objects]
    assert one.summary.keys() == other.summary.keys()
    assert one.numbers.quantities == ()


def test_the_summary_has_the_curve_and_the_pictures_are_drawn(counting: BundleRunner, tmp_path: Path) -> None:
    reading = read(flat(cine()), counting)
    names = {path.name for path in write_reading(reading, tmp_path)}
    assert names == {
        *(f"{kind}-{phase}.dcm" for kind in ("SEG", "SR", "SR-KEY") for phase in ("end-diastole", "end-systole")),
        *("SR-CLASS.dcm", "summary.json", "montage.png", "volume_curve.png"),
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["phases"]["end-diastole"], summary["phases"]["end-systole"]) == (1, 6)
    curve = [point["volume_ml"] for point in summary["phases"]["curve"]]
    assert curve == pytest.approx([height / 10 * END_DIASTOLIC_ML for height in HEIGHTS])
    assert [each["value"] for each in summary["numbers"]][-1] == pytest.approx(FRACTION_PERCENT)
    assert {each["phase"] for each in summary["findings"]} == {"end-diastole", "end-systole"}
    number, volume = summary["numbers"][-1], summary["findings"][0]["measurements"][0]
    alert = AlertSettings.model_validate(
        {
            "name": "a",
            "model": summary["model"],
            "priority": "stat",
            "when": [
                {"number": number["code"][2], "at_least": number["value"] - 1, "unit": "%"},
                {
                    "structure": summary["findings"][0]["structure"],
                    "phase": "end-diastole",
                    "measurement": volume["name"],
                    "at_most": volume["value"],
                    "unit": volume["unit"],
                },
            ],
        }
    )
    assert holds(alert, summary), "an alert reads what is written here"
    for name in ("montage.png", "volume_curve.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


# No fraction, and why


def outlier(number: int, height: int) -> list[list[Dataset]]:
    heights = list(HEIGHTS)
    heights[number] = height
    return cine(heights)


def named(filled_height: int, emptied_height: int) -> list[Dataset]:
    images = []
    for number, (height, description) in enumerate([(filled_height, "SAX ED"), (emptied_height, "SAX ES")]):
        phase = phase_of(beating(height), number=number * 5, phases=12)
        for image in phase:
            image.SeriesDescription = description
            image.SeriesInstanceUID += f".{number}"
        images += phase
    return images


def elsewhere() -> list[Dataset]:
    moved = beating(0)
    moved[1:5, 18:20, 4:10] = 1200
    return [*phase_of(beating(10), number=0, phases=2), *phase_of(moved, number=5, phases=2)]


def grown_at_the_apex() -> list[Dataset]:
    return [
        *phase_of(beating(10), number=0, phases=2),
        *phase_of(beating(5, first_slice=2), number=5, phases=2),
    ]


WITHOUT: dict[str, tuple[Callable[[], list[Dataset]], str, set[str]]] = {
    "more at end-systole": (lambda: named(4, 9), "expected less volume at end-systole", {EDV, ESV}),
    "nothing at end-systole": (lambda: named(9, 0), "expected a volume at end-systole, found none", {EDV}),
    "nothing at end-diastole": (lambda: named(0, 9), "expected a volume at end-diastole, found none", {ESV}),
    "nothing at all": (lambda: flat(cine([0] * 12)), "expected a volume at end-diastole, found none", set()),
    "elsewhere": (elsewhere, "expected one place at end-diastole and end-systole", {EDV, ESV}),
    "more in a slice": (grown_at_the_apex, "found more in slice 1", {EDV, ESV}),
    "an outlier": (lambda: flat(outlier(9, 2)), r"phase 10 \(end-systole\) stands out", {EDV, ESV}),
    "too near": (
        lambda: flat(cine([10, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 8])),
        "found phases 1 and 12 of 12",
        {EDV, ESV},
    ),
    "too soon": (lambda: flat(cine([10, 6])), "100 ms apart or more, found 70 ms", {EDV, ESV}),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_what_cannot_be_right_gives_the_volumes_and_the_reason(case: str, counting: BundleRunner) -> None:
    images, reason, known = WITHOUT[case]
    reading = read(images(), counting)
    assert set(numbers(reading)) == known
    (said,) = reasons(reading)
    assert re.search(reason, said)
    report = reading.objects[-1].dataset
    assert said in texts(report)
    asked = {item.value for item in report.iterall() if item.keyword == "CodeMeaning"}
    assert {SV, EF, "Not Evaluated"} <= asked
    lacking = {each["name"] for each in reading.summary["not_evaluated"]}
    assert lacking == {EDV, ESV, SV, EF} - known


def test_a_fraction_outside_of_the_plausible_range_is_not_reported(tmp_path: Path) -> None:
    series = {**CINE_MANIFEST["series"], "phases": {**PHASES, "plausible": [5, 50]}}
    runner = counting_bundle(tmp_path, series=series)
    reading = read(flat(cine()), runner)
    runner.close()
    assert reasons(reading) == {
        (
            "expected an ejection fraction of 5 to 50 %, found 60.0 %; check the segmentations and that the phases are "
            "of one cycle"
        )
    }
    assert set(numbers(reading)) == {EDV, ESV}
