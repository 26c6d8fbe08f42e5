"""Evaluations through the whole chain, whose right figures are worked out by other means."""

import copy
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import tensor

from coread import phantom
from coread.cli import coread
from coread.dicom_files import write_files
from coread.dicom_sr.identity import derived_uid
from coread.errors import ConfigurationError, CoreadError, GeometryError, InputError
from coread.evaluation.document import as_text, load_report
from coread.evaluation.page import page_of
from coread.evaluation.reference import true_masks, write_reference
from coread.evaluation.report import Method
from coread.evaluation.run import Evaluation, evaluate, load_reference
from coread.models.catalogue import InstalledModel
from coread.models.manifest import Manifest
from coread.models.runner import BundleRunner
from coread.objects import Profile
from coread.volume import Volume
from coread.workers.pipeline import read_study
from coread.workers.study import studies_in_folder
from coread.workers.volume import SourceVolume, build_volume
from tests import zoo
from tests.integration.test_bundle_kinds import answering, said
from tests.integration.test_models_chain import radiograph, runner_of
from tests.support import MANIFEST, NOW, PLANES, enhanced, images_of, settings_with, volume_in_plane

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)

HOSTILE = "<script>alert('x')</script>^Müller & Söhne"


def run(studies: Path, runner: BundleRunner, reference: Path, **method: Any) -> Evaluation:
    return evaluate(
        studies_in_folder(studies),
        runner,
        load_reference(reference, runner.model),
        method=Method(resamples=200, **method),
        profiles=[Profile.OHIF],
        at=NOW,
        progress=iter,
    )


def subject(evaluation: Evaluation, name: str, kind: str | None = None) -> dict[str, Any]:
    (found,) = (each for each in evaluation.report["subjects"] if each["name"] == name and kind in (None, each["kind"]))
    return dict(found)


def value(of: Mapping[str, Any], name: str) -> float:
    return float(of["estimates"][name]["value"])


# ---- the left ventricle on the phantom


@dataclass(frozen=True)
class Perturbed:
    """The phantom's study, and a reference that is what the model finds, moved and cut."""

    studies: Path
    reference: Path
    found: Mapping[int, NDArray[np.bool_]]
    truth: Mapping[int, NDArray[np.bool_]]
    spacing: tuple[float, float, float]


@pytest.fixture(scope="module")
def perturbed(left_ventricle: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Perturbed:
    folder = tmp_path_factory.mktemp("evaluation")
    phantom.write_short_axis_study(folder / "studies")
    (study,) = studies_in_folder(folder / "studies")
    reading = read_study(study, left_ventricle, job_id="0" * 32, created_at=NOW)
    images = study.series[0].load()
    volume = build_volume(images).volume
    found = reading.findings.mask.array
    labels = np.roll(found, 3, axis=1)
    labels[-2:] = 0
    manifest = left_ventricle.model.manifest
    write_reference(volume.with_array(labels), images[::-1], manifest, folder / "reference" / "truth.dcm")
    return Perturbed(
        studies=folder / "studies",
        reference=folder / "reference",
        found={label: found == label for label in (1, 2)},
        truth={label: labels == label for label in (1, 2)},
        spacing=volume.spacing,
    )


def test_the_figures_are_those_of_other_programs(perturbed: Perturbed, left_ventricle: BundleRunner) -> None:
    evaluation = run(perturbed.studies, left_ventricle, perturbed.reference)
    voxel_ml = math.prod(perturbed.spacing) / 1000
    for label, meaning in left_ventricle.model.manifest.labels.items():
        both = (tensor(each[label])[None, None].float() for each in (perturbed.found, perturbed.truth))
        masks: dict[str, Any] = dict(zip(("y_pred", "y"), both, strict=True))
        of = subject(evaluation, meaning.name)
        assert value(of, "dice") == pytest.approx(float(compute_dice(**masks)), abs=1e-5)
        options: dict[str, Any] = {"include_background": True, "percentile": 95, "spacing": [perturbed.spacing]}
        assert value(of, "hausdorff_95_mm") == pytest.approx(
            float(compute_hausdorff_distance(**masks, **options)), rel=1e-5
        )
        found, truth = (int(each[label].sum()) * voxel_ml for each in (perturbed.found, perturbed.truth))
        assert value(of, "volume_bias") == pytest.approx(found - truth, abs=1e-4)
        assert of["counts"] == {"true_positive": 1, "false_negative": 0, "false_positive": 0, "true_negative": 0}
        assert of["estimates"]["dice"]["low"] is None
    assert evaluation.report["matching"]["structures"] == {
        meaning.name: {"code": 1} for meaning in left_ventricle.model.manifest.labels.values()
    }
    assert evaluation.errors == []


def test_somebody_elses_reader_finds_the_same_masks_in_the_reference(perturbed: Perturbed) -> None:
    segmentation = hd.seg.segread(perturbed.reference / "truth.dcm")
    volume = segmentation.get_volume(combine_segments=False, allow_missing_positions=True, rescale_fractional=False)
    assert segmentation.number_of_segments == 2
    for number, label in enumerate((1, 2)):
        assert int(volume.array[..., number].sum()) == int(perturbed.truth[label].sum())


def test_the_command_writes_report_and_page(perturbed: Perturbed, tmp_path: Path) -> None:
    arguments = ["evaluate", "left_ventricle_sax", "--resamples", "100", "-o", str(tmp_path / "out")]
    arguments += ["--studies", str(perturbed.studies), "--reference", str(perturbed.reference)]
    done = CliRunner().invoke(coread, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Left ventricular cavity" in done.output
    report = load_report(tmp_path / "out" / "report.json")
    assert report["counts"]["compared"] == 1
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    as_json = CliRunner().invoke(coread, [*arguments, "--json"], catch_exceptions=False)
    printed = json.loads(as_json.stdout)
    assert printed["subjects"] == report["subjects"]
    assert "studies" not in printed


def test_what_does_not_match_is_counted_and_listed(
    perturbed: Perturbed, left_ventricle: BundleRunner, tmp_path: Path
) -> None:
    images: list[Dataset] = [pydicom.dcmread(path) for path in sorted(perturbed.studies.glob("*.dcm"))]
    for name in ("alone", "unfit"):
        for image in images:
            image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid(name), derived_uid(name, "series")
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = derived_uid(name, image.SOPInstanceUID)
            image.SeriesDescription = "SAX LGE" if name == "unfit" else "cine SAX"
        write_files(images, tmp_path / "studies" / name)
    reference = pydicom.dcmread(perturbed.reference / "truth.dcm")
    for name in ("unfit", "gone"):
        reference.StudyInstanceUID = derived_uid(name)
        reference.save_as(make(tmp_path / "reference") / f"{name}.dcm")
    for path in perturbed.studies.glob("*.dcm"):
        make(tmp_path / "studies").joinpath(path.name).write_bytes(path.read_bytes())
    (tmp_path / "reference" / "truth.dcm").write_bytes((perturbed.reference / "truth.dcm").read_bytes())
    evaluation = run(tmp_path / "studies", left_ventricle, tmp_path / "reference")
    counts = evaluation.report["counts"]
    assert [counts[name] for name in ("studies", "compared", "without_reference", "refused")] == [3, 1, 1, 1]
    assert counts["references_without_study"] == 1
    assert sorted(each["why"] for each in evaluation.report["left_out"]) == ["refused", "without reference"]
    refused = next(each for each in evaluation.report["left_out"] if each["why"] == "refused")
    assert "SeriesDescription says that it is another kind of series" in refused["reason"]
    assert "2.25." not in as_text(evaluation.report)
    assert [type(error).__mro__[1] for error in evaluation.errors] == [InputError]
    with_uids = run(tmp_path / "studies", left_ventricle, tmp_path / "reference", with_uids=True)
    assert with_uids.report["references_without_study"] == [str(derived_uid("gone"))]
    assert str(derived_uid("unfit")) in as_text(with_uids.report)


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_no_match_at_all_is_an_error(perturbed: Perturbed, left_ventricle: BundleRunner, tmp_path: Path) -> None:
    reference = pydicom.dcmread(perturbed.reference / "truth.dcm")
    reference.StudyInstanceUID = derived_uid("another")
    reference.save_as(tmp_path / "other.dcm")
    with pytest.raises(ConfigurationError, match="found none that belongs to one"):
        run(perturbed.studies, left_ventricle, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"expected DICOM Segmentations in .*, found none"):
        run(perturbed.studies, left_ventricle, tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="found nothing at"):
        run(perturbed.studies, left_ventricle, tmp_path / "nowhere")


def test_a_reference_that_cannot_be_used_is_listed_with_the_reason(
    perturbed: Perturbed, left_ventricle: BundleRunner, tmp_path: Path
) -> None:
    for name in ("usable", "moved"):
        images: list[Dataset] = [pydicom.dcmread(path) for path in sorted(perturbed.studies.glob("*.dcm"))]
        for image in images:
            image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid(name), derived_uid(name, "series")
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = derived_uid(name, image.SOPInstanceUID)
        write_files(images, tmp_path / "studies" / name)
        labels = build_volume(images).volume.with_array(np.where(perturbed.truth[2], 2, 0).astype(np.uint8))
        write_reference(labels, images, left_ventricle.model.manifest, tmp_path / "reference" / f"{name}.dcm")
    changed(tmp_path / "reference" / "moved.dcm", tmp_path / "reference", moved).rename(
        tmp_path / "reference" / "moved.dcm"
    )
    evaluation = run(tmp_path / "studies", left_ventricle, tmp_path / "reference")
    (left,) = evaluation.report["left_out"]
    assert left["why"] == "reference not usable"
    assert left["reason"].startswith("expected a reference on the grid of the images that the model read, found …")
    assert evaluation.report["counts"]["compared"] == 1
    (tmp_path / "reference" / "usable.dcm").unlink()
    with pytest.raises(InputError, match="expected studies that can be compared, found none of 1 with a reference"):
        run(tmp_path / "studies", left_ventricle, tmp_path / "reference")


def test_what_coread_has_found_is_no_reference(
    perturbed: Perturbed, left_ventricle: BundleRunner, tmp_path: Path
) -> None:
    (study,) = studies_in_folder(perturbed.studies)
    reading = read_study(study, left_ventricle, job_id="0" * 32, created_at=NOW)
    for result in reading.objects:
        (tmp_path / f"{result.kind}.dcm").write_bytes(result.file())
    with pytest.raises(ConfigurationError, match="1 that Coread itself has written, which are no reference"):
        load_reference(tmp_path, left_ventricle.model)


def test_a_structure_without_a_segment_is_not_compared_unless_it_is_known_to_be_absent(
    perturbed: Perturbed, left_ventricle: BundleRunner, tmp_path: Path
) -> None:
    (study,) = studies_in_folder(perturbed.studies)
    images = study.series[0].load()
    manifest = left_ventricle.model.manifest
    only = manifest.model_copy(update={"labels": {2: manifest.labels[2]}})
    labels = np.where(perturbed.truth[2], 2, 0).astype(np.uint8)
    write_reference(build_volume(images).volume.with_array(labels), images, only, tmp_path / "cavity.dcm")
    name = manifest.labels[1].name
    left = subject(run(perturbed.studies, left_ventricle, tmp_path), name)
    assert left["estimates"]["dice"]["value"] is None
    assert left["reference_says_nothing"] == 1
    absent = subject(run(perturbed.studies, left_ventricle, tmp_path, unnamed_are_absent=True), name)
    assert absent["counts"]["false_positive"] == 1
    assert value(absent, "dice") == 0


# ---- anybody's segmentations


LABELLED = np.zeros((6, 20, 14), np.uint8)
LABELLED[1:4, 3:9, 2:7] = 1
LABELLED[2:6, 10:16, 5:12] = 2
TWO = Manifest.model_validate(MANIFEST)


def source_in(plane: str) -> tuple[list[Dataset], SourceVolume]:
    images = images_of(volume_in_plane(plane))
    return images, build_volume(images)


def segmented(
    images: Sequence[Dataset], kind: str, tmp_path: Path, labelled: NDArray[np.uint8] = LABELLED, **described: Any
) -> Path:
    """A segmentation by highdicom of a kind; the first structure by its old SNOMED code, the second by its label."""
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=hd.sr.CodedConcept("91723000", "SCT", "Anatomical Structure"),
            segmented_property_type=hd.sr.CodedConcept(*code),
            algorithm_type="MANUAL",
        )
        for number, label, code in (
            (1, "something", described.get("first", ("T-32619", "SRT", "Myocardium"))),
            (2, described.get("second", "second"), ("99", "99LOCAL", "Local")),
        )
    ]
    pixels: NDArray[Any] = labelled
    if kind == "FRACTIONAL":
        pixels = np.stack([(labelled == 1) * 0.6 + (labelled == 2) * 0.4, (labelled == 2) * 0.5], axis=-1)
    segmentation = hd.seg.Segmentation(
        source_images=sorted(images, key=lambda image: int(image.InstanceNumber)),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="Somebody",
        manufacturer_model_name="Else",
        software_versions="1",
        device_serial_number="1",
    )
    path = tmp_path / f"{kind}.dcm"
    segmentation.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("plane", PLANES)
def test_masks_of_every_kind_come_back_on_the_images_own_grid(plane: str, kind: str, tmp_path: Path) -> None:
    images, source = source_in(plane)
    as_numbered = (
        LABELLED if np.allclose(source.volume.affine, volume_in_plane(plane).affine, atol=0.01) else LABELLED[::-1]
    )
    path = segmented(images, kind, tmp_path, first=("49848007", "SCT", "Left Ventricle Myocardium"))
    truth = true_masks([path], source, TWO)
    assert truth.matched_by == {1: "code", 2: "label text"}
    for label in (1, 2):
        assert np.array_equal(truth.masks[label], as_numbered == label), label


def test_a_frame_of_an_enhanced_image_gets_its_own_pixels(tmp_path: Path) -> None:
    images = images_of(volume_in_plane("oblique"))
    image = enhanced([images[index] for index in (3, 0, 5, 1, 4, 2)])
    image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = "5"
    source = build_volume([image])
    path = tmp_path / "truth.dcm"
    write_reference(source.volume.with_array(LABELLED), [image], TWO, path)
    truth = true_masks([path], source, TWO)
    assert all(np.array_equal(truth.masks[label], label == LABELLED) for label in (1, 2))


def test_an_empty_structure_of_a_written_reference_is_known_to_be_absent(tmp_path: Path) -> None:
    images, source = source_in("axial")
    write_reference(source.volume.with_array(np.zeros_like(LABELLED)), images, TWO, tmp_path / "none.dcm")
    truth = true_masks([tmp_path / "none.dcm"], source, TWO)
    assert set(truth.masks) == {1, 2}
    assert not any(mask.any() for mask in truth.masks.values())


def test_old_codes_of_snomed_are_understood(tmp_path: Path) -> None:
    manifest = copy.deepcopy(MANIFEST)
    manifest["labels"][1]["type"] = ["SCT", "78961009", "Spleen"]
    images, source = source_in("axial")
    path = segmented(images, "BINARY", tmp_path, first=("T-C3000", "SRT", "Spleen"), second="nothing known")
    truth = true_masks([path], source, Manifest.model_validate(manifest))
    assert truth.matched_by == {1: "code"}
    assert truth.unmatched == 1


def changed(path: Path, tmp_path: Path, change: Any) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(tmp_path / "changed.dcm")
    return tmp_path / "changed.dcm"


def coarser(dataset: Dataset) -> None:
    spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    spacing.PixelSpacing = [2 * each for each in spacing.PixelSpacing]


def moved(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0]
        position.ImagePositionPatient = [each + 1.0 for each in position.ImagePositionPatient]


def turned(dataset: Dataset) -> None:
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 0, 1]


def elsewhere(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0]
        position.ImagePositionPatient = [*position.ImagePositionPatient[:2], position.ImagePositionPatient[2] + 40.0]


def of_another_series(dataset: Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4.5.6"


def of_a_missing_image(dataset: Dataset) -> None:
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5.6"


def in_another_frame(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2.3.4.5.6"


def without_positions(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (coarser, "expected a reference on the grid of the images"),
        (moved, "expected a reference on the grid of the images"),
        (turned, "expected a reference on the grid of the images"),
        (elsewhere, "reaches beyond them"),
        (of_another_series, r"which the model read, found one for 1\.2\.3\.4\.5\.6"),
        (of_a_missing_image, "refers to 1 others of series"),
        (in_another_frame, "expected a reference in the frame of reference"),
        (without_positions, "cannot be decoded"),
    ],
)
def test_a_reference_that_lies_elsewhere_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    images, source = source_in("axial")
    path = segmented(images, "BINARY", tmp_path, first=("49848007", "SCT", "Myocardium"))
    with pytest.raises(InputError, match=message):
        true_masks([changed(path, tmp_path, change)], source, TWO)


def test_a_reference_on_every_second_slice_is_refused(tmp_path: Path) -> None:
    labelled = np.zeros((6, 20, 14), np.uint8)
    labelled[::2, 3:9, 2:7] = 1
    images, source = source_in("axial")
    write_reference(source.volume.with_array(labelled), images, TWO, tmp_path / "sparse.dcm")
    with pytest.raises(GeometryError, match=r"one on every 2\. slice only"):
        true_masks([tmp_path / "sparse.dcm"], source, TWO)


def test_two_references_of_one_structure_are_refused_and_one_of_another_series_is_left_out(tmp_path: Path) -> None:
    images, source = source_in("axial")
    path = segmented(images, "BINARY", tmp_path, first=("49848007", "SCT", "Myocardium"))
    with pytest.raises(GeometryError, match="expected one reference of First, Second, found several"):
        true_masks([path, path], source, TWO)
    other = changed(path, tmp_path, of_another_series)
    assert set(true_masks([path, other], source, TWO).masks) == {1, 2}


def test_labels_on_another_grid_or_without_a_meaning_are_not_written(tmp_path: Path) -> None:
    images, source = source_in("axial")
    volume = source.volume
    moved_away = Volume(array=LABELLED, affine=volume.affine + np.eye(4)[:, [3, 0, 1, 2]] * 0.5)
    with pytest.raises(ValueError, match="expected labels on the grid of the images"):
        write_reference(moved_away, images, TWO, tmp_path / "moved.dcm")
    with pytest.raises(ValueError, match=r"expected labels of the manifest, found \[7\] too"):
        write_reference(volume.with_array(LABELLED * 0 + 7), images, TWO, tmp_path / "seven.dcm")


# ---- a classifier on radiographs


PNEUMONIA = ["SCT", "233604007", "Pneumonia"]
NAMES = ("Normal", "Bacterial pneumonia", "Viral pneumonia")
VALUES = (["SCT", "272519000", "Absent"], ["SCT", "53084003", NAMES[1]], ["SCT", "75570004", NAMES[2]])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, BundleRunner]]:
    """A bundle with random weights, which gives other probabilities for each image."""
    folder = tmp_path_factory.mktemp("classifier")
    manifest = {
        "name": "test_model",
        "title": "Test model",
        "series": {"described_as": "a radiograph", "must": {"Modality": ["DX"]}, "projection": True},
        "classes": {
            number: {"name": name, "finding": PNEUMONIA, "value": code}
            for number, (name, code) in enumerate(zip(NAMES, VALUES, strict=True))
        },
        "limits": "For tests only <b>& nothing else</b>.",
    }
    weights = np.random.default_rng(8).normal(0, 1, (3, 3)).round(2).tolist()
    features = "torch.stack([x[0, :20].mean(), x[0, 20:].mean(), x[0].std() - 150]) / 150"
    answer = said(f"torch.softmax(torch.mv(torch.tensor({weights}), {features}), 0)")
    bundle = answering([answer], manifest=manifest)
    with runner_of(bundle, folder) as runner:
        yield folder, runner


def pictures(folder: Path, count: int) -> dict[str, int]:
    """DICOM radiographs of different patients under ``folder``; StudyInstanceUID → number."""
    random = np.random.default_rng(11)
    uids = {}
    for number in range(count):
        (image,) = radiograph(PatientID=f"ID-{number // 2}", PatientName=HOSTILE, InstitutionName="St. Secret Hospital")
        image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid(str(number)), derived_uid(str(number), "series")
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = derived_uid(str(number), "instance")
        image.PatientSex, image.PatientAge = "FM"[number % 2], f"{number % 9:03}Y"
        image.Manufacturer, image.ManufacturerModelName = "Maker <i>", f"Maker <i> {number % 2}"
        pixels = random.normal(300, 150, 1) + random.normal(0, 200, (40, 30))
        image.PixelData = pixels.astype(np.int16).tobytes()
        write_files([image], folder / str(number))
        uids[str(image.StudyInstanceUID)] = number
    return uids


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def classified(
    classifier: tuple[Path, BundleRunner], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    uids = pictures(folder / "studies", 24)
    rows = [{"StudyInstanceUID": uid, "class": NAMES[number * 5 % 3]} for uid, number in uids.items()]
    rows.append({"StudyInstanceUID": "1.2.3", "class": "Normal"})
    write_table(folder / "table.csv", rows)
    return run(folder / "studies", classifier[1], folder / "table.csv"), folder


def test_a_classifiers_figures_are_those_of_scikit_learn(classified: tuple[Evaluation, Path]) -> None:
    evaluation, _ = classified
    rows = [row["results"] for row in evaluation.report["studies"]]
    truth = np.array([[row[name]["is_true"] for name in NAMES].index(True) for row in rows])
    scores = np.array([[row[name]["probability"] for name in NAMES] for row in rows])
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert len(set(scores[:, 0].tolist())) == 24
    together = subject(evaluation, "all classes")
    assert value(together, "accuracy") == pytest.approx(accuracy_score(truth, scores.argmax(axis=1)), abs=1e-6)
    for number, name in enumerate(NAMES):
        expected = roc_auc_score(truth == number, scores[:, number])
        assert value(subject(evaluation, name), "auc") == pytest.approx(expected, abs=1e-6)
    question = subject(evaluation, "Pneumonia", "question")
    assert value(question, "auc") == pytest.approx(roc_auc_score(truth > 0, 1 - scores[:, 0]), abs=1e-6)
    assert question["absent"] == "Normal"
    counts = evaluation.report["counts"]
    assert (counts["studies"], counts["compared"], counts["patients"]) == (24, 24, 12)
    assert evaluation.report["references_without_study"] == ["line 26"]


def test_the_truth_is_that_of_the_table(classified: tuple[Evaluation, Path]) -> None:
    evaluation, folder = classified
    with (folder / "table.csv").open(encoding="utf-8") as file:
        expected = {row["StudyInstanceUID"]: row["class"] for row in csv.DictReader(file)}
    order = [study.study_instance_uid for study in studies_in_folder(folder / "studies")]
    for row in evaluation.report["studies"]:
        (true,) = (name for name, each in row["results"].items() if each["is_true"])
        assert true == expected[order[row["study"] - 1]]


def test_the_same_seed_gives_the_same_report_and_page(
    classified: tuple[Evaluation, Path], classifier: tuple[Path, BundleRunner]
) -> None:
    evaluation, folder = classified
    again = run(folder / "studies", classifier[1], folder / "table.csv")
    assert as_text(again.report) == as_text(evaluation.report)
    assert page_of(again.report) == page_of(evaluation.report)
    other = run(folder / "studies", classifier[1], folder / "table.csv", seed=1)
    assert other.report["subjects"] != evaluation.report["subjects"]


def test_the_report_has_the_form_that_is_described(classified: tuple[Evaluation, Path], tmp_path: Path) -> None:
    evaluation, _ = classified
    (tmp_path / "report.json").write_text(as_text(evaluation.report), encoding="utf-8")
    assert load_report(tmp_path / "report.json") == evaluation.report
    del evaluation.report["subjects"][0]["estimates"]["accuracy"]["studies"]
    (tmp_path / "report.json").write_text(as_text(evaluation.report), encoding="utf-8")
    evaluation.report["subjects"][0]["estimates"]["accuracy"]["studies"] = 24
    with pytest.raises(ConfigurationError, match=r"found another form at \$\.subjects\[0\]\.estimates\.accuracy"):
        load_report(tmp_path / "report.json")


def test_subgroups_have_figures_if_they_have_patients_enough(classified: tuple[Evaluation, Path]) -> None:
    evaluation, _ = classified
    groups = {(each["by"], each["name"]): each for each in evaluation.report["subgroups"]}
    assert groups["sex", "F"]["patients"] == 12
    assert groups["sex", "F"]["subjects"]
    assert groups["age in years", "below 1"]["subjects"] is None
    assert ("site", "site 1") in groups
    assert ("scanner", "Maker <i> 0") in groups
    assert sum(each["studies"] for key, each in groups.items() if key[0] == "age in years") == 24


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_besides_and_holds_no_patient_data(classified: tuple[Evaluation, Path]) -> None:
    evaluation, _ = classified
    page = page_of(evaluation.report)
    elements = Elements(page)
    names = {tag for tag, _ in elements.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "i"})
    for _, attributes in elements.tags:
        for key in ("src", "href", "srcset", "action", "data"):
            assert str(attributes.get(key, "data:")).startswith("data:")
    assert "http:" not in page
    assert "https:" not in page
    text = as_text(evaluation.report)
    for secret in ("alert", "Söhne", "ID-1", "Secret Hospital", "2.25."):
        assert secret not in page
        assert secret not in text
    words = " ".join(elements.words)
    assert "For tests only <b>& nothing else</b>." in words
    assert "Maker <i> 0" in words
    images = [attributes for tag, attributes in elements.tags if tag == "img"]
    assert len(images) == 4
    assert all(attributes["alt"] for attributes in images)


def test_several_studies_of_a_row_or_patient_are_told_apart(
    classifier: tuple[Path, BundleRunner], tmp_path: Path
) -> None:
    pictures(tmp_path / "studies", 4)
    by_patient = write_table(
        tmp_path / "table.csv", [{"PatientID": f"ID-{number}", "class": "0"} for number in range(2)]
    )
    with pytest.raises(ConfigurationError, match="found several with the PatientID of line"):
        run(tmp_path / "studies", classifier[1], by_patient)


def test_a_group_of_the_table_is_what_is_drawn(classifier: tuple[Path, BundleRunner], tmp_path: Path) -> None:
    uids = pictures(tmp_path / "studies", 12)
    rows = [{"StudyInstanceUID": uid, "class": NAMES[number % 3], "group": number // 3} for uid, number in uids.items()]
    evaluation = run(tmp_path / "studies", classifier[1], write_table(tmp_path / "table.csv", rows))
    assert evaluation.report["counts"]["patients"] == 4
    assert evaluation.report["reference"]["patients_by"] == "group"
    assert subject(evaluation, "all classes")["estimates"]["accuracy"]["low"] is None


def test_the_command_ends_with_the_status_of_what_went_wrong(
    classifier: tuple[Path, BundleRunner], tmp_path: Path
) -> None:
    folder, _ = classifier
    uids = pictures(tmp_path / "studies", 3)
    image = pydicom.dcmread(tmp_path / "studies" / "0" / "0001.dcm")
    image.PhotometricInterpretation = "RGB"
    image.save_as(tmp_path / "studies" / "0" / "0001.dcm")
    table = write_table(tmp_path / "t.csv", [{"StudyInstanceUID": uid, "class": "Normal"} for uid in uids])
    settings = settings_with(folder)
    config = tmp_path / "coread.toml"
    config.write_text(f'data_folder = "{settings.data_folder}"\n[models]\nfolders = ["{folder}"]\n')
    base = ["--config", str(config), "evaluate", "test_model", "--resamples", "100", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(coread, [*base, "--studies", str(tmp_path / "studies"), "--reference", str(table)])
    assert done.exit_code == 3, done.output
    assert "refused: expected a grey image" in done.stderr
    assert load_report(tmp_path / "out" / "report.json")["counts"]["refused"] == 1
    for arguments, wanted in (
        (["--studies", str(tmp_path / "studies"), "--reference", str(tmp_path)], "expected a CSV file for a model of"),
        (["--studies", str(tmp_path / "out"), "--reference", str(table)], "expected DICOM files in"),
    ):
        failed = CliRunner().invoke(coread, [*base, *arguments])
        assert isinstance(failed.exception, CoreadError)
        assert wanted in str(failed.exception)


# ---- other kinds of model


def test_numbers_are_compared_with_the_table(tmp_path: Path) -> None:
    manifest = zoo.manifest(modality="DX")
    del manifest["labels"]
    manifest["series"]["projection"] = True
    concept, unit = ["SCT", "70822001", "Cardiac ejection fraction"], ["UCUM", "%", "Percent"]
    manifest["numbers"] = {0: {"name": "Ejection fraction", "concept": concept, "unit": unit}}
    uids = pictures(tmp_path / "studies", 8)
    rows = [
        {"StudyInstanceUID": uid, "Ejection fraction": "" if number == 7 else 50 + number}
        for uid, number in uids.items()
    ]
    table = write_table(tmp_path / "table.csv", rows)
    with runner_of(answering([said("x.mean() * 0 + 55")], manifest=manifest), tmp_path) as runner:
        evaluation = run(tmp_path / "studies", runner, table)
    number = subject(evaluation, "Ejection fraction")
    assert value(number, "bias") == pytest.approx(55 - 53)
    assert value(number, "mean_absolute_error") == pytest.approx(np.abs(np.arange(7) - 5).mean(), abs=1e-5)
    assert number["reference_says_nothing"] == 1
    assert "found \N{MINUS SIGN} true" not in page_of(evaluation.report)  # it is drawn


def test_classes_that_may_hold_together_are_judged_each(tmp_path: Path) -> None:
    manifest = zoo.manifest(modality="DX", exclusive=False, task="classification")
    del manifest["labels"]
    manifest["series"]["projection"] = True
    manifest["classes"] = {
        0: {"name": "Cardiomegaly", "finding": ["SCT", "287272002", "Cardiomegaly"], "threshold": 0.8},
        1: {"name": "Effusion", "finding": ["SCT", "60046008", "Pleural effusion"]},
    }
    uids = pictures(tmp_path / "studies", 6)
    rows = [
        {"StudyInstanceUID": uid, "Cardiomegaly": int(number < 3), "Effusion": "" if number == 0 else 1}
        for uid, number in uids.items()
    ]
    table = write_table(tmp_path / "table.csv", rows)
    answer = said("torch.tensor([0.7, 0.6]) + x.sum() * 0")
    with runner_of(answering([answer], manifest=manifest), tmp_path) as runner:
        evaluation = run(tmp_path / "studies", runner, table)
    cardiomegaly, effusion = subject(evaluation, "Cardiomegaly"), subject(evaluation, "Effusion")
    assert cardiomegaly["counts"] == {"true_positive": 0, "false_negative": 3, "false_positive": 0, "true_negative": 3}
    assert cardiomegaly["threshold"] == 0.8
    assert value(cardiomegaly, "brier") == pytest.approx((0.3**2 + 0.7**2) / 2, abs=1e-5)
    assert effusion["counts"]["true_positive"] == 5
    assert effusion["reference_says_nothing"] == 1
    assert effusion["estimates"]["specificity"]["value"] is None
    assert {each["kind"] for each in evaluation.report["subjects"]} == {"class"}


def test_a_model_that_only_says_which_class_has_no_curve(tmp_path: Path) -> None:
    manifest = zoo.manifest(modality="DX")
    del manifest["labels"]
    manifest["series"]["projection"] = True
    manifest["classes"] = {
        number: {"name": name, "finding": PNEUMONIA, "value": code}
        for number, (name, code) in enumerate(zip(NAMES, VALUES, strict=True))
    }
    uids = pictures(tmp_path / "studies", 6)
    rows = [{"StudyInstanceUID": uid, "class": number % 3} for uid, number in uids.items()]
    table = write_table(tmp_path / "table.csv", rows)
    with runner_of(
        answering([said("torch.tensor([0.0, 1.0, 0.0]) + x.sum() * 0")], manifest=manifest), tmp_path
    ) as runner:
        evaluation = run(tmp_path / "studies", runner, table)
    question = subject(evaluation, "Pneumonia", "question")
    assert question["estimates"]["auc"]["value"] is None
    assert question["counts"] == {"true_positive": 4, "false_negative": 0, "false_positive": 2, "true_negative": 0}
    assert "Confusion matrix" in page_of(evaluation.report)
    assert "Calibration:" not in page_of(evaluation.report)


def test_boxes_cannot_be_evaluated(tmp_path: Path) -> None:
    manifest = zoo.manifest([0], task="landmarks")
    model = InstalledModel(folder=tmp_path, manifest=Manifest.model_validate(manifest), version="1")
    with pytest.raises(ConfigurationError, match="boxes and landmarks cannot be evaluated yet"):
        load_reference(tmp_path, model)
