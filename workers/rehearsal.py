"""A dry run: a model reads a series that is made to its manifest, through the whole chain, and nothing is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage

from coread.dicom_files import SINGLE_FRAME_CLASSES, series_of
from coread.dicom_sr.identity import derived_uid
from coread.ecg_files import ecg_of
from coread.leads import TWELVE_LEADS
from coread.models.manifest import Manifest, Patterns, Population, Range, SeriesRequirement, WaveformRequirement
from coread.models.runner import BundleRunner
from coread.volume import Volume
from coread.waveform import Waveform
from coread.workers.pipeline import Reading, read_study
from coread.workers.study import Series, Study
from coread.workers.waveform import LIMB_LEADS

PIXELS = 96
"""Rows and columns of a rehearsal: enough for a network to shrink them a few times."""
MOST_SLICES = 40
USUAL_SLICES = Range(32, 32)
USUAL_SPACING_MM, USUAL_PIXEL_MM, USUAL_THICKNESS_MM = Range(3, 3), Range(2, 2), Range(3, 3)
DIRECTIONS = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "sagittal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
USUAL_RATE_HZ = 500.0
"""Of a resting ECG."""
BEAT_S = 0.83
PROJECTIONS = {"DX": DigitalXRayImageStorageForPresentation}


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """How a dry run went."""

    study: Study
    reading: Reading


def rehearse(runner: BundleRunner) -> Rehearsal:
    """Read a study made to the manifest. Raises what reading any study raises."""
    study = study_for(runner.model.manifest)
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    return Rehearsal(study=study, reading=read_study(study, runner, job_id="rehearsal", created_at=at))


def study_for(manifest: Manifest) -> Study:
    """A study with one series for each channel, of noise, as the manifest asks for them."""
    waveform = manifest.series[0].waveform
    series = (
        [_ecg_for(manifest, waveform)]
        if waveform
        else [_series_for(each, manifest, number) for number, each in enumerate(manifest.series)]
    )
    uids = frozenset(str(image.SOPInstanceUID) for images in series for image in images)
    return Study(
        study_instance_uid=str(series[0][0].StudyInstanceUID),
        sop_instance_uids=uids,
        series=[_as_series(images) for images in series],
        is_of_noise=True,
    )


def _as_series(images: Sequence[Dataset]) -> Series:
    return Series(header=images[0], size=len(images), load=lambda: list(images))


def _series_for(wanted: SeriesRequirement, manifest: Manifest, number: int) -> list[Dataset]:
    slices = 1 if wanted.projection else int(_middle(wanted.slices or USUAL_SLICES, most=MOST_SLICES))
    pixel_mm = _middle(wanted.pixel_spacing_mm or USUAL_PIXEL_MM)
    side = _side(wanted, pixel_mm)
    values = np.random.default_rng(number).normal(300, 200, (slices, side, side)).astype(np.int16)
    volume = Volume.of(
        values,
        directions=DIRECTIONS[wanted.plane or "axial"],
        spacing=(_middle(wanted.slice_spacing_mm or USUAL_SPACING_MM), pixel_mm, pixel_mm),
    )
    said = _wished(wanted)
    modality = str(said.get("Modality", "OT"))
    images = series_of(
        volume,
        modality="CT" if modality not in SINGLE_FRAME_CLASSES else modality,
        name=f"rehearsal {manifest.name}",
        patient_id="COREAD-REHEARSAL",
        patient_name="REHEARSAL^COREAD",
        study_description="Coread rehearsal, made by a program",
        series_description="rehearsal",
        body_part="",
    )
    for index, image in enumerate(images):
        image.SeriesInstanceUID = derived_uid("rehearsal", manifest.name, str(number))
        image.SOPInstanceUID = derived_uid("rehearsal", manifest.name, str(number), str(index))
        image.SeriesNumber = number + 1
        image.SliceThickness = _middle(wanted.slice_thickness_mm or USUAL_THICKNESS_MM)
        _place(image, said, modality, wanted)
        _be_patient(image, manifest.population)
    return images


def _side(wanted: SeriesRequirement, pixel_mm: float) -> int:
    """Rows and columns."""
    if wanted.extent_mm:
        return int(_middle(wanted.extent_mm) / pixel_mm)
    return PIXELS if wanted.field_of_view_mm is None else int(wanted.field_of_view_mm / pixel_mm) + PIXELS // 4


def _ecg_for(manifest: Manifest, wanted: WaveformRequirement) -> list[Dataset]:
    """Beats that look a little like a heart's, at a rate that devices use."""
    rate_hz = max(USUAL_RATE_HZ, wanted.sampling_rate_hz)
    times = np.arange(round(wanted.duration_s * rate_hz)) / rate_hz
    since_beat = np.mod(times, BEAT_S)
    beat = np.exp(-(((since_beat - 0.3) / 0.012) ** 2)) + 0.3 * np.exp(-(((since_beat - 0.6) / 0.05) ** 2))
    size = {lead: 0.4 + 0.15 * number for number, lead in enumerate(TWELVE_LEADS)}
    size |= {lead: of_one * size["I"] + of_two * size["II"] for lead, (of_one, of_two) in LIMB_LEADS.items()}
    waveform = Waveform(
        samples=np.stack([size[lead] * beat for lead in TWELVE_LEADS]).astype(np.float32),
        leads=TWELVE_LEADS,
        sampling_rate_hz=rate_hz,
    )
    ecg = ecg_of(
        waveform,
        name=f"rehearsal {manifest.name}",
        patient_id="COREAD-REHEARSAL",
        patient_name="REHEARSAL^COREAD",
        study_description="Coread rehearsal, made by a program",
        series_description="rehearsal",
    )
    (requirement,) = manifest.series
    for keyword, value in _wished(requirement).items():
        setattr(ecg, keyword, value)
    _be_patient(ecg, manifest.population)
    return [ecg]


def _place(image: Dataset, said: dict[str, Any], modality: str, wanted: SeriesRequirement) -> None:
    if modality not in SINGLE_FRAME_CLASSES:
        image.SOPClassUID = PROJECTIONS.get(modality, SecondaryCaptureImageStorage)
    for keyword, value in said.items():
        setattr(image, keyword, value)
    if wanted.contrast:
        image.ContrastBolusAgent = "agent"
    if wanted.projection:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
            image.pop(keyword, None)


def _be_patient(image: Dataset, population: Population) -> None:
    if population.age_years:
        image.PatientAge = f"{round(_middle(population.age_years)):03}Y"
    if population.sex:
        image.PatientSex = population.sex[0]


def _wished(wanted: SeriesRequirement) -> dict[str, Any]:
    return {**_said(wanted.must), **_said(wanted.any_of[0] if wanted.any_of else {})}


def _said(patterns: Patterns) -> dict[str, Any]:
    """A value for each keyword that matches its first pattern."""
    return {keyword: _value(keyword, wanted[0]) for keyword, wanted in patterns.items()}


def _value(keyword: str, pattern: str) -> str:
    text = pattern.replace("*", "").replace("?", "0")
    tag = tag_for_keyword(keyword)
    is_code = tag is not None and dictionary_VR(tag) == "CS"
    return text.upper().replace("/", "") if is_code else text


def _middle(wanted: Range, *, most: float = float("inf")) -> float:
    """A value of the range, not far from its middle."""
    return min(max(wanted.low, min((wanted.low + wanted.high) / 2, most)), wanted.high)
