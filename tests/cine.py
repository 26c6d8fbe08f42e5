"""A small cine whose volumes can be counted, in every form that scanners send, and a bundle that counts right."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset

from coread.dicom_sr.identity import derived_uid
from coread.models.runner import BundleRunner
from coread.workers.study import Series, Study
from tests.support import MANIFEST, enhanced, images_of, installed, volume_in_plane, write_bundle

SLICES, ROWS, COLUMNS = 6, 24, 17
SPACING_MM = (8.0, 1.5, 2.25)
VOXEL_ML = 8.0 * 1.5 * 2.25 / 1000
HEIGHTS = (10, 9, 8, 6, 5, 4, 5, 6, 7, 7, 8, 9)
"""Rows of the cavity in each phase: the first is the fullest, and the sixth the emptiest."""
CAVITY_SLICES, CAVITY_COLUMNS = 4, 6
END_DIASTOLIC_ML = 10 * CAVITY_SLICES * CAVITY_COLUMNS * VOXEL_ML
END_SYSTOLIC_ML = 4 * CAVITY_SLICES * CAVITY_COLUMNS * VOXEL_ML
FRACTION_PERCENT = 60.0
STEP_MS = 70.0

PHASES: dict[str, Any] = {
    "label": 2,
    "filled": {
        "name": "end-diastole",
        "words": ["ed", "*diast*"],
        "point": ["SCT", "416190007", "End diastole"],
        "volume": ["LN", "8821-1", "Left Ventricular ED Volume"],
    },
    "emptied": {
        "name": "end-systole",
        "words": ["es", "*syst*"],
        "point": ["SCT", "416430001", "End Systole"],
        "volume": ["LN", "8823-7", "Left Ventricular ES Volume"],
    },
    "stroke_volume": ["SCT", "90096001", "Stroke Volume"],
    "fraction": ["LN", "8811-2", "Left ventricular ejection fraction by MR"],
}
CINE_MANIFEST: dict[str, Any] = {**MANIFEST, "series": {**MANIFEST["series"], "phases": PHASES}}


def beating(height: int, *, first_slice: int = 1) -> np.ndarray[Any, Any]:
    """A box of blood (1200), as high as said, beside one of muscle (700); (slice, row, column)."""
    array = np.full((SLICES, ROWS, COLUMNS), 100, np.int16)
    array[first_slice : first_slice + CAVITY_SLICES, 3:17, 2:8] = 700
    array[first_slice : first_slice + CAVITY_SLICES, 5 : 5 + height, 4 : 4 + CAVITY_COLUMNS] = 1200
    return array


def cine(heights: Sequence[int] = HEIGHTS, *, name: str = "cine") -> list[list[Dataset]]:
    """For each phase its slices, as images of one series. Each slice has a heart rate of its own."""
    return [
        phase_of(beating(height), number=number, phases=len(heights), name=name)
        for number, height in enumerate(heights)
    ]


def phase_of(array: np.ndarray[Any, Any], *, number: int, phases: int, name: str = "cine") -> list[Dataset]:
    volume = volume_in_plane("oblique", shape=array.shape, spacing=SPACING_MM, array=array)
    images = images_of(volume, name=f"{name} {number}")
    for index, image in enumerate(images):
        image.StudyInstanceUID, image.SeriesInstanceUID = derived_uid(name, "study"), derived_uid(name, "series")
        image.FrameOfReferenceUID = derived_uid(name, "frame")
        image.InstanceNumber = index * phases + number + 1
        image.TriggerTime = f"{number * STEP_MS * (1 + 0.01 * ((index * 5) % 7 - 3)):.1f}"
    return images


def flat(phases: Sequence[Sequence[Dataset]], *, seed: int = 1) -> list[Dataset]:
    """All images in no order."""
    images = [image for phase in phases for image in phase]
    return random.Random(seed).sample(images, len(images))


def one_series_for_each_slice(phases: Sequence[Sequence[Dataset]]) -> list[Dataset]:
    for phase in phases:
        for index, image in enumerate(phase):
            image.SeriesInstanceUID = derived_uid("slice", str(index))
            image.SeriesNumber = 10 + index
    return flat(phases)


def one_series_for_each_phase(*, filled: str, emptied: str, times: bool = True) -> list[Dataset]:
    """End-diastole and end-systole alone, in two series."""
    phases = cine()
    chosen = [phases[0], phases[5]]
    for phase, description in zip(chosen, (filled, emptied), strict=True):
        for image in phase:
            image.SeriesInstanceUID = derived_uid("phase", str(phase is chosen[0]))
            image.SeriesDescription = description
            if not times:
                del image.TriggerTime
    return flat(chosen)


def in_one_file(phases: Sequence[Sequence[Dataset]], keyword: str) -> list[Dataset]:
    """As an enhanced multi-frame image, the frames in no order. ``keyword``: what tells the phases apart."""
    images = flat(phases)
    image = enhanced(images)
    numbers = {each.SOPInstanceUID: number for number, phase in enumerate(phases) for each in phase}
    for group, each in zip(image.PerFrameFunctionalGroupsSequence, images, strict=True):
        if keyword == "TemporalPositionIndex":
            group.FrameContentSequence[0].TemporalPositionIndex = numbers[each.SOPInstanceUID] + 1
            continue
        synchronization = Dataset()
        value = float(each.TriggerTime)
        setattr(synchronization, keyword, value if keyword == "NominalCardiacTriggerDelayTime" else value / 10)
        group.CardiacSynchronizationSequence = [synchronization]
    del image.TriggerTime
    return [image]


def study_of(images: Sequence[Dataset]) -> Study:
    series: dict[str, list[Dataset]] = {}
    for image in images:
        series.setdefault(str(image.SeriesInstanceUID), []).append(image)
    return Study(
        study_instance_uid=str(images[0].StudyInstanceUID),
        sop_instance_uids=frozenset(str(image.SOPInstanceUID) for image in images),
        series=[
            Series(header=found[0], size=len(found), load=lambda found=found: list(found))  # type: ignore[misc]
            for found in series.values()
        ],
    )


def counting_bundle(folder: Path, **manifest: Any) -> BundleRunner:
    """A bundle that takes what is brighter than muscle for it, and what is brighter than blood for blood."""
    load = [{"_target_": f"{name}d", "keys": "image"} for name in ("LoadImage", "EnsureChannelFirst")]
    by_value = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: (x > 500).float() + (x > 1000).float()"}
    write_bundle(
        folder / "bundle",
        manifest={**CINE_MANIFEST, **manifest},
        inference={"preprocessing": load, "postprocessing": [by_value]},
    )
    return BundleRunner(installed(folder), device=torch.device("cpu"))
