"""Reads a segmentation back, by other means than it was written with, and compares it with the mask.

A wrong place in the patient is the one mistake that no validator sees, so every object is checked before it is
stored. The means here are pydicom and arithmetic: frames, plane positions and orientations as the file states them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from coread.errors import ResultError
from coread.findings import Findings

CENTROID_TOLERANCE_MM = 0.15
"""Frames lie where their source images say, the mask on a regular grid; the sources may deviate from it by 0.1 mm."""


def prove_segmentation(segmentation: Dataset, findings: Findings) -> None:
    """Raises ResultError unless each segment has its structure's voxels, in the same place in the patient."""
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for number, structure in enumerate(findings.present, start=1):
        found = _voxels_of_segment(segmentation, pixels, number)
        mask = findings.labels.array == structure.label
        expected = findings.labels.map_indices_to_reference(np.argwhere(mask))
        if len(found) != len(expected):
            raise ResultError(
                f"segment {number}: expected {len(expected)} voxels, read back {len(found)}; nothing was stored"
            )
        away_mm = float(np.linalg.norm(found.mean(axis=0) - expected.mean(axis=0)))
        if away_mm > CENTROID_TOLERANCE_MM:
            raise ResultError(
                f"segment {number}: read back {away_mm:.2f} mm away from where it was found; nothing was stored"
            )


def _voxels_of_segment(segmentation: Dataset, pixels: NDArray[np.uint8], number: int) -> NDArray[np.float64]:
    """Patient coordinates (LPS, mm) of a segment's voxels, shape (voxels, 3), by PS3.3 C.7.6.2.1.1."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    points = [np.zeros((0, 3))]
    for frame, groups in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        if _group("SegmentIdentificationSequence", groups, shared).ReferencedSegmentNumber != number:
            continue
        position = _floats(groups.PlanePositionSequence[0].ImagePositionPatient)
        orientation = _floats(_group("PlaneOrientationSequence", groups, shared).ImageOrientationPatient)
        row_mm, column_mm = _floats(_group("PixelMeasuresSequence", groups, shared).PixelSpacing)
        rows, columns = np.nonzero(frame)
        points.append(
            position + np.outer(columns * column_mm, orientation[:3]) + np.outer(rows * row_mm, orientation[3:])
        )
    return np.concatenate(points)


def _group(keyword: str, groups: Dataset, shared: Dataset) -> Dataset:
    sequence: Sequence[Dataset] = groups[keyword].value if keyword in groups else shared[keyword].value
    return sequence[0]


def _floats(values: Sequence[object]) -> NDArray[np.float64]:
    return np.array([float(str(value)) for value in values])
