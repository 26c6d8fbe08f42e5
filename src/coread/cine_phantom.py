"""The phantom's heart through its cycle: a cine whose volumes and ejection fraction are known from a formula.

Radius and length of the cavity shrink to end-systole and grow again; the wall thickens as much as keeps its volume.
Each slice has a heart rate of its own, as in breath-holds. Unlike a real heart's, its base stays in its place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from scipy.optimize import brentq

from coread.dicom_files import series_of
from coread.dicom_sr.identity import derived_uid
from coread.phantom import AT_END_DIASTOLE, SLICES, Ventricle, short_axis_volume, truth

NAME = "phantom: left ventricle, cine"
SYSTOLIC_RADIUS_MM, SYSTOLIC_LENGTH_MM = 15.5, 64.0
END_SYSTOLE = 0.4
"""Of the cycle."""
CYCLE_MS = 900.0
LARGEST_DEVIATION = 0.03
"""Of a slice's heart rate from the mean."""


@dataclass(frozen=True, kw_only=True)
class CycleTruth:
    """What is in the cine, from the formula."""

    end_diastolic_ml: float
    end_systolic_ml: float

    @property
    def stroke_volume_ml(self) -> float:
        return self.end_diastolic_ml - self.end_systolic_ml

    @property
    def ejection_fraction_percent(self) -> float:
        return 100 * self.stroke_volume_ml / self.end_diastolic_ml


def cycle_truth() -> CycleTruth:
    """The volumes at phase 0, and at END_SYSTOLE."""
    return CycleTruth(
        end_diastolic_ml=truth(ventricle_at(0.0)).cavity_ml, end_systolic_ml=truth(ventricle_at(END_SYSTOLE)).cavity_ml
    )


def ventricle_at(fraction: float) -> Ventricle:
    """The ventricle at a fraction of the cycle, from the R wave."""
    is_systole = fraction < END_SYSTOLE
    way = fraction / END_SYSTOLE if is_systole else (1 - fraction) / (1 - END_SYSTOLE)
    squeezed = (1 - math.cos(math.pi * way)) / 2
    radius_mm = AT_END_DIASTOLE.radius_mm + squeezed * (SYSTOLIC_RADIUS_MM - AT_END_DIASTOLE.radius_mm)
    length_mm = AT_END_DIASTOLE.length_mm + squeezed * (SYSTOLIC_LENGTH_MM - AT_END_DIASTOLE.length_mm)
    muscle_ml = truth().myocardium_ml

    def excess_ml(wall_mm: float) -> float:
        return truth(Ventricle(radius_mm=radius_mm, length_mm=length_mm, wall_mm=wall_mm)).myocardium_ml - muscle_ml

    if squeezed == 0:
        return AT_END_DIASTOLE
    return Ventricle(radius_mm=radius_mm, length_mm=length_mm, wall_mm=float(brentq(excess_ml, 1.0, 30.0)))


def cine_images(phases: int = 10) -> list[list[Dataset]]:
    """For each phase, its slices as images of one series, with TriggerTime; base first."""
    return [_images_of_phase(number, phases) for number in range(phases)]


def _images_of_phase(number: int, phases: int) -> list[Dataset]:
    images = series_of(
        short_axis_volume(ventricle_at(number / phases), seed=number),
        modality="MR",
        name=f"{NAME}, phase {number}",
        patient_id="COREAD-PHANTOM-CINE",
        patient_name="PHANTOM^LEFT VENTRICLE CINE",
        study_description="Coread phantom, drawn by a program",
        series_description="PHANTOM cine SAX",
        body_part="HEART",
    )
    for index, (image, cycle_ms) in enumerate(zip(images, _cycles_ms(), strict=True)):
        image.StudyInstanceUID = derived_uid(NAME, "study")
        image.SeriesInstanceUID = derived_uid(NAME, "series")
        image.FrameOfReferenceUID = derived_uid(NAME, "frame of reference")
        image.InstanceNumber = index * phases + number + 1
        image.TriggerTime = f"{cycle_ms * number / phases:.1f}"
        image.CardiacNumberOfImages = phases
        image.NominalInterval = round(cycle_ms)
    return images


def _cycles_ms() -> Sequence[float]:
    """How long the heart's cycle took while each slice was taken."""
    deviations = np.random.default_rng(7).uniform(-LARGEST_DEVIATION, LARGEST_DEVIATION, SLICES)
    return [CYCLE_MS * (1 + float(each)) for each in deviations]
