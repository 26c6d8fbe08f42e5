"""The Sunnybrook short-axis slices as labelled volumes.

The file holds, for each patient, end-diastolic short-axis slices of 64x64 pixels with a mask of the myocardium's
ring. Source: Radau et al., Evaluation Framework for Algorithms Segmenting Short Axis Cardiac MRI (MIDAS 2009), CC0.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

MYOCARDIUM = 1
CAVITY = 2

IN_PLANE_SUBSAMPLING = 2
"""The pictures are at half the resolution that the file states, so a pixel is twice as wide as stated."""

SHIFTS = np.arange(-0.75, 0.8, 0.25)
"""Pixels by which an image is shifted to see where its masks fit best."""
BLUR = 0.8
"""Pixels. Shifting blurs an image by itself, by an amount that depends on the shift; blurred, all are alike."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient: ``image`` float32 and ``label`` uint8, both (slice, row, column); spacing in the same order."""

    patient: str
    split: Literal["train", "val"]
    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]


def cavity_of_ring(ring: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The cavity inside a ring of myocardium, on one slice (row, column).

    A closed ring holds its hole. Where the ring is open (the outflow tract at the base, or a wall thinner than a
    pixel) the cavity is what the ring's convex hull holds beside the ring.
    """
    hole: NDArray[np.bool_] = np.asarray(ndimage.binary_fill_holes(ring)) & ~ring
    if hole.any():
        return hole
    if not ring.any():
        return hole
    return np.asarray(convex_hull_image(ring), dtype=np.bool_) & ~ring


def load_cases(folder: Path) -> list[Case]:
    """All patients of ``folder`` (``lv_shortaxis.npz`` and ``split.csv``), in the file's order."""
    with np.load(folder / "lv_shortaxis.npz", allow_pickle=False) as arrays:
        images, rings, voxels = arrays["images"], arrays["masks"] > 0, arrays["voxel_size_mm"]
    cases = []
    with (folder / "split.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            slices = slice(int(row["first_slice"]), int(row["last_slice_exclusive"]))
            ring = rings[slices]
            label = np.zeros(ring.shape, np.uint8)
            label[ring] = MYOCARDIUM
            label[np.stack([cavity_of_ring(plane) for plane in ring])] = CAVITY
            row_mm, column_mm, slice_mm = (float(length) for length in voxels[slices.start])
            cases.append(
                Case(
                    patient=row["case"],
                    split="val" if row["split"] == "val" else "train",
                    image=images[slices].astype(np.float32),
                    label=label,
                    spacing_mm=(slice_mm, row_mm * IN_PLANE_SUBSAMPLING, column_mm * IN_PLANE_SUBSAMPLING),
                )
            )
    return cases


def misalignment(cases: Sequence[Case]) -> tuple[float, float]:
    """By how many pixels (row, column) the masks lie further down and to the right than what they outline.

    Measured: the shift of the image that makes the most contrast between cavity and wall, at the top of a parabola.
    """
    return _peak(cases, axis=0), _peak(cases, axis=1)


def _peak(cases: Sequence[Case], *, axis: int) -> float:
    contrasts = [sum(_contrast(case, shift, axis) for case in cases) for shift in SHIFTS]
    a, b, _ = np.polyfit(SHIFTS, contrasts, 2)
    return float(-b / (2 * a))


def _contrast(case: Case, shift: float, axis: int) -> float:
    """Mean of the cavity minus mean of the wall, in standard deviations of the image, with the image shifted."""
    image = ndimage.gaussian_filter(case.image / case.image.std(), (0, BLUR, BLUR))
    moved = ndimage.shift(image, (0, shift, 0) if axis == 0 else (0, 0, shift), mode="nearest")
    return float(moved[case.label == CAVITY].mean() - moved[case.label == MYOCARDIUM].mean())


def aligned(case: Case, offset: tuple[float, float]) -> Case:
    """The case with its image shifted by ``offset`` (row, column) in pixels, so that it lies under its masks."""
    moved = ndimage.shift(case.image, (0, *offset), order=3, mode="nearest")
    return replace(case, image=np.asarray(moved, np.float32))
