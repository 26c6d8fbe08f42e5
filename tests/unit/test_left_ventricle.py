"""The shipped bundle: a proper MONAI bundle that finds the phantom's ventricle."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from coread.cine_phantom import END_SYSTOLE, cine_images, cycle_truth, ventricle_at
from coread.errors import GeometryError
from coread.models.catalogue import SHIPPED
from coread.models.left_ventricle_sax.train.data import cavity_of_ring
from coread.objects import ObjectKind, Profile
from coread.phantom import short_axis_volume, truth
from coread.workers.pipeline import explain_refusal, read_study
from coread.workers.study import Series, Study, studies_in_folder
from tests.support import NOW, enhanced, images_of, texts

BUNDLE = SHIPPED / "left_ventricle_sax"

VOLUME_TOLERANCE = 0.25
"""The phantom is drawn; the model learnt from contours that experts drew. What matters here is that it is found."""

FRACTION_TOLERANCE_PERCENT = 10


def test_the_phantom_is_found_where_it_was_drawn(phantom_folder: Path, left_ventricle: Any) -> None:
    (study,) = studies_in_folder(phantom_folder)
    findings = read_study(study, left_ventricle, job_id="0" * 32, created_at=NOW).findings
    myocardium, cavity = (structure.measurements[0].value for structure in findings.structures)
    assert cavity == pytest.approx(truth().cavity_ml, rel=VOLUME_TOLERANCE)
    assert myocardium == pytest.approx(truth().myocardium_ml, rel=VOLUME_TOLERANCE)
    centre = findings.mask.map_indices_to_reference(np.argwhere(findings.mask.array == 2)).mean(axis=0)
    drawn = short_axis_volume()
    axis = drawn.map_indices_to_reference(np.array(drawn.spatial_shape)[None] / 2)[0]
    along_slices = drawn.unit_vectors()[0]
    away = (centre - axis) - ((centre - axis) @ along_slices) * along_slices
    assert np.linalg.norm(away) < 4.0


def test_the_beating_phantom_fills_and_empties_where_it_was_drawn(left_ventricle: Any) -> None:
    """The model learnt end-diastole only. Beyond the apex it draws a cavity that is not there at end-systole, which
    must be seen, and give no ejection fraction; a model that does better must give the right one.
    """
    images = [image for phase in cine_images() for image in phase]
    study = study_of(random.Random(2).sample(images, len(images)))
    reading = read_study(study, left_ventricle, job_id="0" * 32, created_at=NOW)
    assert reading.cycle is not None
    assert [phase.number for phase in reading.cycle.phases] == [0, END_SYSTOLE * 10]
    found = {each.name: each.measurement.value for each in reading.numbers.quantities}
    known = cycle_truth()
    assert found["Left Ventricular ED Volume"] == pytest.approx(known.end_diastolic_ml, rel=VOLUME_TOLERANCE)
    if reading.numbers.not_evaluated:
        (said,) = reading.numbers.not_evaluated
        assert "found more in slice 1" in said.reason
    else:
        fraction = found["Left ventricular ejection fraction by MR"]
        assert fraction == pytest.approx(known.ejection_fraction_percent, abs=FRACTION_TOLERANCE_PERCENT)


def test_the_beating_phantom_keeps_its_muscle() -> None:
    muscles = [truth(ventricle_at(fraction)).myocardium_ml for fraction in np.linspace(0, 0.99, 23)]
    assert muscles == pytest.approx([truth().myocardium_ml] * 23, rel=1e-6)
    cavities = [truth(ventricle_at(fraction)).cavity_ml for fraction in (0, 0.2, END_SYSTOLE, 0.7)]
    assert cavities[0] == truth().cavity_ml
    assert cavities[2] == min(cavities)
    assert cycle_truth().ejection_fraction_percent == pytest.approx(100 * (1 - cavities[2] / cavities[0]))


@pytest.mark.parametrize("shift_mm", [0, 30])
def test_a_heart_off_centre_is_measured_the_same(left_ventricle: Any, shift_mm: float) -> None:
    assert cavity_ml(left_ventricle, shift_mm) == pytest.approx(cavity_ml(left_ventricle, 0), rel=0.05)


@pytest.mark.parametrize("shift_mm", [60, 65, 75, 120])
def test_a_heart_that_the_model_does_not_see_whole_is_refused(left_ventricle: Any, shift_mm: float) -> None:
    with pytest.raises(GeometryError, match=r"the model does not look|expected Left ventricular .*, found none"):
        cavity_ml(left_ventricle, shift_mm)


def test_frames_of_an_enhanced_image_are_measured_as_single_frames_are(left_ventricle: Any) -> None:
    images = images_of(short_axis_volume())
    assert cavity_in([enhanced(images[::-1])], left_ventricle) == cavity_in(images, left_ventricle)


@pytest.mark.parametrize("pixels", [1, -2])
def test_a_tilted_stack_is_measured_as_a_straight_one(left_ventricle: Any, pixels: int) -> None:
    """Each slice is moved by whole pixels against the one before, in the patient and in the picture."""
    volume = short_axis_volume()
    tilted = np.stack([np.roll(plane, -pixels * index, axis=1) for index, plane in enumerate(volume.array)])
    images = images_of(volume.with_array(tilted))
    step = volume.affine[:3, 2] * pixels
    for index, image in enumerate(images):
        image.ImagePositionPatient = [f"{x:.6f}" for x in np.array(image.ImagePositionPatient, float) + index * step]
    straight = cavity_in(images_of(volume), left_ventricle)
    assert cavity_in(images, left_ventricle) == pytest.approx(straight, rel=0.02)


def cavity_ml(model: Any, shift_mm: float) -> float:
    """The phantom's cavity as the model measures it, the picture rolled sideways."""
    volume = short_axis_volume()
    rolled = volume.with_array(np.roll(volume.array, round(shift_mm / volume.spacing[2]), axis=2))
    return cavity_in(images_of(rolled), model)


def study_of(images: list[Dataset]) -> Study:
    uids = frozenset(str(image.SOPInstanceUID) for image in images)
    series = Series(header=images[0], size=len(images), load=lambda: images)
    return Study(study_instance_uid=str(images[0].StudyInstanceUID), sop_instance_uids=uids, series=[series])


def cavity_in(images: list[Dataset], model: Any) -> float:
    cavity = read_study(study_of(images), model, job_id="0" * 32, created_at=NOW).findings.structures[1]
    return cavity.measurements[0].value


def test_the_package_chooses_the_objects_for_each_profile(left_ventricle: Any) -> None:
    study = study_of(images_of(short_axis_volume()))

    def kinds(*profiles: Profile) -> list[str]:
        reading = read_study(study, left_ventricle, job_id="0" * 32, created_at=NOW, profiles=profiles)
        return [result.kind for result in reading.objects]

    assert kinds(Profile.OHIF) == ["SEG", "SR", "SR-KEY"]
    assert kinds(Profile.SLICER) == ["SEG", "SR"]
    assert kinds(Profile.LEGACY) == ["GSPS", "SC", "KOS"]


def test_probabilities_become_a_fractional_segmentation_and_maps(
    left_ventricle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {Profile.SLICER: (ObjectKind.SEG, ObjectKind.SEG_FRACTIONAL, ObjectKind.MAP)}
    manifest = left_ventricle.model.manifest.model_copy(update={"objects": chosen})
    monkeypatch.setattr(left_ventricle, "model", replace(left_ventricle.model, manifest=manifest))
    reading = read_study(
        study_of(images_of(short_axis_volume())),
        left_ventricle,
        job_id="0" * 32,
        created_at=NOW,
        profiles=[Profile.SLICER],
    )
    assert [result.kind for result in reading.objects] == ["SEG", "SEG-FRACTIONAL", "MAP", "MAP"]
    assert len({result.dataset.SOPInstanceUID for result in reading.objects}) == 4
    for structure, scalar_map in zip(reading.findings.structures, reading.findings.maps, strict=True):
        probability = scalar_map.volume.array
        assert 0 <= probability.min() <= probability.max() <= 1
        inside = reading.findings.mask.array == structure.label
        assert probability[inside].mean() > 0.7
        assert probability[~inside].mean() < 0.05


def test_a_series_of_its_kind_that_cannot_be_read_gets_a_report_that_says_why(left_ventricle: Any) -> None:
    images = images_of(short_axis_volume())
    del images[4]
    study = study_of(images)
    with pytest.raises(GeometryError) as raised:
        read_study(study, left_ventricle, job_id="0" * 32, created_at=NOW)
    refusal = explain_refusal(study, left_ventricle, raised.value, job_id="0" * 32, created_at=NOW)
    assert [result.kind for result in refusal.objects] == ["SR-NOT-EVALUATED"]
    assert str(raised.value) in texts(refusal.objects[0].dataset)
    other = study_of(images_of(short_axis_volume(), modality="CT"))
    assert explain_refusal(other, left_ventricle, raised.value, job_id="0" * 32, created_at=NOW).objects == ()


def test_an_open_ring_is_closed_by_its_hull() -> None:
    ring = np.zeros((12, 12), bool)
    ring[2:10, 2:10] = True
    ring[4:8, 4:8] = False
    assert cavity_of_ring(ring).sum() == 16
    ring[5:7, 8:10] = False
    assert 16 <= cavity_of_ring(ring).sum() <= 24
    assert not (cavity_of_ring(ring) & ring).any()
    assert not cavity_of_ring(np.zeros((4, 4), bool)).any()
