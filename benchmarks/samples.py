"""Generated data: a CT series of 300 slices, and structures in it. No pixels: nothing here reads them."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from coread.codes import MEAN, MILLILITER, VOLUME
from coread.dicom_files import series_of
from coread.dicom_sr.identity import ResultIdentity
from coread.findings import Findings, Measurement, Structure
from coread.volume import Volume

SHAPE = (300, 512, 512)
SPACING_MM = (1.5, 0.75, 0.75)
FEW = 10
"""Fewer structures than this are large and run through nearly all slices."""

IDENTITY = ResultIdentity(
    job_id="0" * 32,
    model="benchmark",
    title="Benchmark",
    version="1.0.0",
    digest="0" * 64,
    limits="Generated data.",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def ct_series() -> list[Dataset]:
    """The headers of the series, in slice order."""
    volume = Volume.of(np.zeros(SHAPE, np.int16), directions=np.eye(3)[::-1], spacing=SPACING_MM)
    images = series_of(
        volume,
        modality="CT",
        name="benchmark",
        patient_id="BENCHMARK",
        patient_name="BENCHMARK^GENERATED",
        study_description="generated",
        series_description="generated",
        body_part="ABDOMEN",
    )
    for image in images:
        del image.PixelData
    return images


def findings(count: int) -> Findings:
    """So many ellipsoids; the later cover the earlier."""
    labels = np.zeros(SHAPE, np.uint8)
    random = np.random.default_rng(20260101)
    for label in range(1, count + 1):
        if count < FEW:
            angle = 2 * np.pi * label / count
            centre = np.array([150, 256 + 100 * np.cos(angle), 256 + 100 * np.sin(angle)])
            radii = np.array([140.0, 60.0, 60.0])
        else:
            centre = random.uniform((50, 120, 120), (250, 390, 390))
            radii = random.uniform((30, 15, 15), (60, 30, 30))
        _draw(labels, label, centre, radii)
    volume = Volume.of(labels, directions=np.eye(3)[::-1], spacing=SPACING_MM)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    return Findings(
        labels=volume,
        structures=tuple(
            Structure(
                label=label,
                name=f"Structure {label}",
                category=Code("91723000", "SCT", "Anatomical Structure"),
                type=Code("10200004", "SCT", "Liver"),
                anatomy=None,
                colour=(40 + label, 200 - label, 120),
                voxels=int(voxels[label]),
                measurements=_measurements(float(voxels[label]) * volume.voxel_volume / 1000),
            )
            for label in range(1, count + 1)
        ),
    )


def _measurements(volume_ml: float) -> tuple[Measurement, ...]:
    return (
        Measurement(concept=VOLUME, value=volume_ml, unit=MILLILITER),
        Measurement(concept=VOLUME, value=volume_ml, unit=MILLILITER, derivation=MEAN),
    )


def _draw(labels: NDArray[np.uint8], label: int, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> None:
    low = np.maximum(0, (centre - radii).astype(int))
    high = np.minimum(SHAPE, (centre + radii).astype(int) + 1)
    window = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    z, y, x = np.ogrid[window]
    squares = ((z - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((x - centre[2]) / radii[2]) ** 2
    labels[window][squares < 1] = label
