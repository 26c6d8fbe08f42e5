"""Added bundles through the whole chain: from DICOM images to valid result objects in the right place."""

import gc
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from coread.dicom_sr.validation.run import validate_files
from coread.errors import ModelError, NoSuitableSeries
from coread.models.runner import BundleRunner
from coread.objects import ObjectKind, Profile
from coread.workers.pipeline import Reading, explain_refusal, read_study
from coread.workers.study import Series, Study
from coread.workers.volume import SourceVolume
from tests import zoo
from tests.integration.test_bundle_kinds import HOUNSFIELD, answering, classes, detector, said
from tests.integration.test_result_objects import complaints
from tests.support import NOW, PLANES, images_of, installed, output_of, volume_in_plane

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


def study_of(*series: Sequence[Dataset]) -> Study:
    uids = frozenset(str(image.SOPInstanceUID) for images in series for image in images)
    return Study(
        study_instance_uid=str(series[0][0].StudyInstanceUID),
        sop_instance_uids=uids,
        series=[Series(header=each[0], size=len(each), load=partial(list, each)) for each in series],
    )


@contextmanager
def runner_of(bundle: zoo.ZooBundle, folder: Path) -> Iterator[BundleRunner]:
    zoo.write_zoo_bundle(folder / "bundle", bundle)
    runner = BundleRunner(installed(folder), device=torch.device("cpu"))
    try:
        yield runner
    finally:
        runner.close()


def read(bundle: zoo.ZooBundle, folder: Path, study: Study, **more: Any) -> Reading:
    with runner_of(bundle, folder) as runner:
        return read_study(study, runner, job_id="0123456789abcdef" * 2, created_at=NOW, **more)


def check(reading: Reading, folder: Path) -> dict[str, Path]:
    """Every object valid by dciodvfy and our own rules."""
    paths = {}
    for result in reading.objects:
        path = folder / f"{result.kind}.dcm"
        path.write_bytes(result.file())
        _, lines = output_of("dciodvfy", "-new", path)
        assert [line for line in complaints(lines) if line.startswith("Error")] == [], result.kind
        paths[str(result.kind)] = path
    for judgement in validate_files(list(paths.values()), source=None):
        assert not judgement.has_errors, judgement.problems
    return paths


def ct(plane: str = "axial", array: np.ndarray[Any, Any] = HOUNSFIELD, **more: Any) -> list[Dataset]:
    volume = volume_in_plane(plane, shape=array.shape, array=array)
    return images_of(volume, modality="CT", **more)


@pytest.mark.parametrize("plane", PLANES)
def test_hounsfield_thresholds_give_exactly_these_voxels_in_the_segmentation(plane: str, tmp_path: Path) -> None:
    bundle = answering([said("(x > 0) + 1.0 * (x > 500)")], manifest=zoo.manifest([1, 2]), outputs=zoo.mask_format())
    reading = read(bundle, tmp_path, study_of(ct(plane)))
    paths = check(reading, tmp_path)
    seg = pydicom.dcmread(paths["SEG"])
    frames = seg.pixel_array
    assert int(frames.sum()) == int((HOUNSFIELD > 0).sum())
    volumes = {each.name: each.measurements[0].value for each in reading.findings.structures}
    voxel_ml = 5.0 * 1.5 * 2.25 / 1000
    assert volumes["Structure 2"] == pytest.approx((HOUNSFIELD > 500).sum() * voxel_ml)


def test_overlapping_structures_are_all_in_one_segmentation_that_says_so(tmp_path: Path) -> None:
    masks = "torch.cat([x > -500, x > 0, x < 300]).float()"
    bundle = answering([said(masks)], manifest=zoo.manifest([0, 1, 2]), outputs=zoo.mask_format())
    reading = read(bundle, tmp_path, study_of(ct("oblique")), profiles=[Profile.OHIF, Profile.LEGACY])
    paths = check(reading, tmp_path)
    seg = pydicom.dcmread(paths["SEG"])
    assert seg.SegmentsOverlap == "YES"
    expected = [HOUNSFIELD > -500, HOUNSFIELD > 0, HOUNSFIELD < 300]
    for number, mask in enumerate(expected, start=1):
        mine = [
            frame
            for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True)
            if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        ]
        assert sum(int(frame.sum()) for frame in mine) == int(mask.sum())
    assert [each.voxels for each in reading.findings.structures] == [int(mask.sum()) for mask in expected]
    assert {"SC", "GSPS", "KOS"} <= set(paths)


def test_a_label_map_of_overlapping_structures_becomes_a_binary_segmentation(tmp_path: Path) -> None:
    masks = "torch.cat([x > -500, x > 0]).float()"
    manifest = zoo.manifest([0, 1], objects={"ohif": ["SEG-LABELMAP", "SR"]})
    bundle = answering([said(masks)], manifest=manifest, outputs=zoo.mask_format())
    reading = read(bundle, tmp_path, study_of(ct()))
    assert {result.kind for result in reading.objects} == {ObjectKind.SEG, ObjectKind.SR}


@pytest.mark.parametrize("name", zoo.SEGMENTATIONS)
def test_a_zoo_bundle_reads_a_study_with_ten_lines_of_manifest(name: str, tmp_path: Path) -> None:
    bundle = zoo.SEGMENTATIONS[name]()
    volume = volume_in_plane("axial", shape=(16, 24, 20), array=np.random.default_rng(1).normal(50, 90, (16, 24, 20)))
    wanted = bundle.manifest["series"]
    (kind,) = wanted["must"]["Modality"] if isinstance(wanted, dict) else ["MR"]
    names = ("T1c", "T1n", "T2w", "FLAIR") if name == "brats" else ("any",)
    series = [images_of(volume, name=each, modality=kind, series_description=each) for each in names]
    for number, images in enumerate(series):
        for image in images:
            image.StudyInstanceUID = series[0][0].StudyInstanceUID
            image.FrameOfReferenceUID = series[0][0].FrameOfReferenceUID
            image.SeriesNumber = number
    reading = read(bundle, tmp_path, study_of(*reversed(series)))
    assert reading.findings.present
    check(reading, tmp_path)


def test_channels_on_different_grids_are_brought_onto_the_firsts(tmp_path: Path) -> None:
    """The second channel is the first's anatomy at another resolution; the model says where they agree."""
    ramp = np.linspace(0, 1000, 40)[None, :, None] * np.ones((12, 40, 30))
    coarse = volume_in_plane("axial", array=ramp[:, ::2, :], shape=(12, 20, 30), spacing=(5.0, 3.0, 2.25))
    fine = volume_in_plane("axial", array=ramp, shape=(12, 40, 30))
    first = images_of(fine, name="one", series_description="T1", modality="MR")
    second = images_of(coarse, name="two", series_description="T2", modality="MR")
    for image in second:
        image.StudyInstanceUID, image.FrameOfReferenceUID = first[0].StudyInstanceUID, first[0].FrameOfReferenceUID
    series = [{"described_as": each, "must": {"SeriesDescription": [each]}} for each in ("T1", "T2")]
    close = "((x[[0]] - x[[1]]).abs() < 20).float()"
    bundle = answering([said(close)], manifest=zoo.manifest([1], series=series), outputs=zoo.mask_format(), channels=2)
    del bundle.inference["preprocessing"]["transforms"][1]
    reading = read(bundle, tmp_path, study_of(second, first))
    (structure,) = reading.findings.structures
    # Beyond the coarse volume's last row there is nothing to compare with.
    assert structure.voxels >= 12 * 38 * 30
    assert reading.summary["series_instance_uid"] == str(first[0].SeriesInstanceUID)


def radiograph(**more: Any) -> list[Dataset]:
    (image,) = images_of(volume_in_plane("axial", shape=(1, 40, 30)), modality="CT", body_part="CHEST")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    image.Modality = "DX"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SliceThickness"):
        image.pop(keyword, None)
    for keyword, value in more.items():
        setattr(image, keyword, value)
    return [image]


def test_a_classifier_reports_its_class_of_a_radiograph(tmp_path: Path) -> None:
    answer = said("torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0)")
    reading = read(answering([answer], manifest=classes(3)), tmp_path, study_of(radiograph()))
    paths = check(reading, tmp_path)
    assert list(paths) == ["SR-CLASS"]
    (found,) = reading.summary["classes"]
    assert found["name"] == "Class 1"
    assert found["probability"] == pytest.approx(np.exp(2) / np.exp([0, 2, 1]).sum())


def test_what_is_shown_black_on_white_is_read_white_on_black(tmp_path: Path) -> None:
    """With `values: display`, an inverted radiograph gives what the same picture gives the right way round."""
    manifest = classes(2)
    manifest["series"]["values"] = "display"
    upper, lower = "x[0, :, :20].mean()", "x[0, :, 20:].mean()"
    brighter = said(f"torch.stack([{upper} > {lower}, {upper} <= {lower}]).float()")
    plain, inverted = radiograph(), radiograph(PhotometricInterpretation="MONOCHROME1")
    answers = []
    for number, images in enumerate((plain, inverted)):
        bundle = answering([brighter], manifest=manifest)
        answers.append(read(bundle, tmp_path / str(number), study_of(images)).summary["classes"][0]["name"])
    assert answers == ["Class 1", "Class 0"]


def test_numbers_of_the_study_are_reported(tmp_path: Path) -> None:
    concept, unit = ["SCT", "70822001", "Cardiac ejection fraction"], ["UCUM", "%", "Percent"]
    number = {"name": "Ejection fraction", "concept": concept, "unit": unit}
    manifest = zoo.manifest()
    del manifest["labels"]
    manifest["numbers"] = {0: number}
    reading = read(answering([said("x.sum() * 0 + 61.5")], manifest=manifest), tmp_path, study_of(ct()))
    assert list(check(reading, tmp_path)) == ["SR-CLASS"]
    assert reading.summary["numbers"][0]["value"] == 61.5


@pytest.mark.parametrize("profile", list(Profile))
def test_boxes_are_reported_with_their_outline_whoever_reads_it(profile: Profile, tmp_path: Path) -> None:
    array = np.zeros((9, 20, 14), np.float32)
    array[3:6, 8:15, 2:5] = 500
    reading = read(detector(), tmp_path, study_of(ct(array=array)), profiles=[profile])
    check(reading, tmp_path)
    assert [result.kind for result in reading.objects] == [ObjectKind.SR_KEY_FINDINGS]
    (mark,) = reading.findings.marks
    assert mark.plane == 4
    assert np.allclose(mark.outline.min(axis=0), [2, 8], atol=1e-4)
    assert np.allclose(mark.outline.max(axis=0), [5, 15], atol=1e-4)
    assert mark.probability == pytest.approx(0.9)
    (longest,) = mark.measurements
    assert longest.value == pytest.approx(3 * 5.0)


def test_a_detector_that_finds_nothing_says_so(tmp_path: Path) -> None:
    array = np.zeros((9, 20, 14), np.float32)
    array[3:6, 8:15, 2:5] = 500
    bundle = detector()
    bundle.manifest["threshold"] = 0.95
    reading = read(bundle, tmp_path, study_of(ct(array=array)))
    assert list(check(reading, tmp_path)) == ["SR-ABSENT"]


@pytest.mark.parametrize("plane", PLANES)
def test_landmarks_are_reported_as_points(plane: str, tmp_path: Path) -> None:
    array = np.zeros((6, 20, 14), np.float32)
    array[4, 13, 2] = 1000
    place = said("torch.nonzero(x[0] == x.max()).float()")
    bundle = answering([place], manifest=zoo.manifest([0], task="landmarks"), outputs=zoo.mask_format())
    reading = read(bundle, tmp_path, study_of(ct(plane, array)))
    assert list(check(reading, tmp_path)) == ["SR-KEY"]
    (mark,) = reading.findings.marks
    ((column, row),) = mark.outline
    assert isinstance(reading.source, SourceVolume)
    found = reading.source.volume.map_indices_to_reference([[mark.plane, row - 0.5, column - 0.5]])
    assert np.allclose(found, volume_in_plane(plane).map_indices_to_reference([[4, 13, 2]]), atol=1e-3)


def test_a_patient_whom_the_model_was_not_made_for_is_not_evaluated(tmp_path: Path) -> None:
    manifest = zoo.manifest([1], population={"age_years": [18, 120]})
    images = ct()
    for image in images:
        image.PatientAge = "007Y"
    study = study_of(images)
    with runner_of(answering([said("x > 0")], manifest=manifest, outputs=zoo.mask_format()), tmp_path) as runner:
        with pytest.raises(NoSuitableSeries, match="expected a patient aged 18 to 120 years") as raised:
            read_study(study, runner, job_id="a" * 32, created_at=NOW)
        refusal = explain_refusal(study, runner, raised.value, job_id="a" * 32, created_at=NOW)
    assert [result.kind for result in refusal.objects] == [ObjectKind.SR_NOT_EVALUATED]
    assert "007" not in str(raised.value)


def test_a_label_without_a_code_fails_the_job(tmp_path: Path) -> None:
    bundle = answering([said("x * 0 + 7")], manifest=zoo.manifest([1]), outputs=zoo.mask_format())
    with pytest.raises(ModelError, match="found 1 others, such as 7"):
        read(bundle, tmp_path, study_of(ct()))


def test_sides_stand_in_segmentation_and_report(tmp_path: Path) -> None:
    manifest = zoo.manifest([1])
    manifest["labels"][1]["laterality"] = ["SCT", "24028007", "Right"]
    bundle = answering([said("(x > 0).float()")], manifest=manifest, outputs=zoo.mask_format())
    paths = check(read(bundle, tmp_path, study_of(ct())), tmp_path)
    segment = pydicom.dcmread(paths["SEG"]).SegmentSequence[0]
    modifier = segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Right"
    assert "24028007" in str(pydicom.dcmread(paths["SR"]))


@pytest.mark.slow
def test_two_bundles_take_turns_without_holding_on_to_memory(tmp_path: Path) -> None:
    study = study_of(ct(array=np.random.default_rng(0).normal(0, 300, (12, 64, 64)).astype(np.float32)))
    bundles = [
        answering([said("(x > 0).float()")], manifest=zoo.manifest([1]), outputs=zoo.mask_format()),
        zoo.ventricular(),
    ]
    bundles[1].manifest["series"]["must"] = {"Modality": ["CT"]}
    used = []
    with runner_of(bundles[0], tmp_path / "1") as one, runner_of(bundles[1], tmp_path / "2") as two:
        for job in range(30):
            runner = (one, two)[job % 2]
            read_study(study, runner, job_id=f"{job:032}", created_at=NOW)
            gc.collect()
            used.append(resident_mb())
    growth = max(used[20:]) - max(used[8:12])
    assert growth < 20, used


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
