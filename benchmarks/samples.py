"""Generated data: a CT series, and structures in it. A body with organs and noise, so that compression has work."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from coread.codes import MEAN, MILLILITER, VOLUME
from coread.dicom_files import series_of
from coread.dicom_sr.identity import ResultIdentity
from coread.errors import ConfigurationError
from coread.findings import Findings, Measurement, Structure
from coread.volume import Volume

Shape = tuple[int, int, int]
"""Slices, rows, columns."""

SHAPE: Shape = (300, 512, 512)
SMALL: Shape = (24, 96, 80)
"""Enough to see that something runs."""
SPACING_MM = (1.5, 0.75, 0.75)
FEW = 10
"""Fewer structures than this are large and run through nearly all slices."""

AIR, TISSUE = -1000, 40
"""Values of what is no organ."""
FIRST_ORGAN, STEP = 140, 40
"""An organ's value says its label: the first one's, and the step from one to the next. A step is twenty standard
deviations of the noise in organs, so that labels can be told from values after resampling, too."""
NOISE, NOISE_OF_ORGANS = 12.0, 2.0

SYNTAXES = {"native": None, "jpeg-ls": JPEGLSLossless, "jpeg-2000": JPEG2000Lossless, "rle": RLELossless}
"""How pixels are stored, by the name that the command knows."""
PLUGINS = {"jpeg-ls": "pyjpegls", "jpeg-2000": "pylibjpeg", "rle": "pylibjpeg"}
"""What pydicom compresses with."""

IDENTITY = ResultIdentity(
    job_id="0" * 32,
    model="benchmark",
    title="Benchmark",
    version="1.0.0",
    digest="0" * 64,
    limits="Generated data.",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def ct_series(shape: Shape = SHAPE) -> list[Dataset]:
    """The headers of the series, in slice order."""
    images = _images(np.zeros(shape, np.int16))
    for image in images:
        del image.PixelData
    return images


def write_ct(folder: Path, count: int, *, shape: Shape = SHAPE, syntax: str = "native") -> Path:
    """The series with so many organs in it, a file for each slice. ``syntax``: a key of SYNTAXES.

    Raises ConfigurationError if what compresses is not installed.
    """
    folder.mkdir(parents=True)
    images = _images(ct_values(labels_of(count, shape)))

    def write(numbered: tuple[int, Dataset]) -> None:
        number, image = numbered
        uid = SYNTAXES[syntax]
        if uid is not None:
            _compress(image, uid, syntax)
        image.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)

    with ThreadPoolExecutor(1 if syntax == "jpeg-2000" else None) as threads:  # openjpeg's encoder bears one only
        list(threads.map(write, enumerate(images, start=1)))
    return folder


def _compress(image: Dataset, uid: UID, syntax: str) -> None:
    try:
        image.compress(uid, encoding_plugin=PLUGINS[syntax], generate_instance_uid=False)
    except RuntimeError as error:
        raise ConfigurationError(
            f"expected an encoder for {syntax} ({PLUGINS[syntax]}), found that it cannot be used; install coread[bench]"
        ) from error


def files_in(folder: Path) -> list[Path]:
    """The series' files, in slice order."""
    return sorted(folder.glob("*.dcm"))


def volume_of(array: NDArray[np.generic]) -> Volume:
    """An array (slice, row, column) where the series lies."""
    return Volume.of(array, directions=np.eye(3)[::-1], spacing=SPACING_MM)


def _images(values: NDArray[np.int16]) -> list[Dataset]:
    return series_of(
        volume_of(values),
        modality="CT",
        name="benchmark",
        patient_id="BENCHMARK",
        patient_name="BENCHMARK^GENERATED",
        study_description="generated",
        series_description="generated",
        body_part="ABDOMEN",
    )


def ct_values(labels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """What a scanner would give: air, a body, and in it the organs, each of its own value, with noise."""
    _, rows, columns = labels.shape
    y, x = np.ogrid[:rows, :columns]
    body = ((y / rows - 0.5) / 0.42) ** 2 + ((x / columns - 0.5) / 0.47) ** 2 < 1
    values = np.empty(labels.shape, np.int16)
    for index, plane in enumerate(labels):
        random = np.random.default_rng(index)
        organ = plane > 0
        noise = random.standard_normal(plane.shape, np.float32) * np.where(organ, NOISE_OF_ORGANS, NOISE)
        still = np.where(body, TISSUE, AIR)
        values[index] = np.rint(np.where(organ, FIRST_ORGAN + STEP * (plane.astype(int) - 1), still) + noise)
    return values


def labels_of(count: int, shape: Shape = SHAPE) -> NDArray[np.uint8]:
    """So many ellipsoids; the later cover the earlier."""
    labels = np.zeros(shape, np.uint8)
    scale = np.array(shape) / SHAPE
    random = np.random.default_rng(20260101)
    for label in range(1, count + 1):
        if count < FEW:
            angle = 2 * np.pi * label / count
            centre = np.array([150, 256 + 100 * np.cos(angle), 256 + 100 * np.sin(angle)])
            radii = np.array([140.0, 60.0, 60.0])
        else:
            centre = random.uniform((50, 120, 120), (250, 390, 390))
            radii = random.uniform((30, 15, 15), (60, 30, 30))
        _draw(labels, label, centre * scale, radii * scale)
    return labels


def findings(count: int, shape: Shape = SHAPE) -> Findings:
    """What a model that finds all of them says."""
    labels = labels_of(count, shape)
    volume = volume_of(labels)
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
    high = np.minimum(labels.shape, (centre + radii).astype(int) + 1)
    window = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    z, y, x = np.ogrid[window]
    squares = ((z - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((x - centre[2]) / radii[2]) ** 2
    labels[window][squares < 1] = label
