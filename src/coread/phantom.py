"""The sample studies: a short-axis cardiac MR phantom with known volumes, and a CT that no shipped model reads.

The left ventricle is half an ellipsoid in half an ellipsoid, cut off at the base, so that its volumes are known from
a formula. Around it lie a right ventricle, lungs, liver, chest wall, blur and noise, so that a network has something
to tell apart. It is drawn, not scanned, and says so in its header.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from coread.dicom_files import series_of, write_files
from coread.volume import Volume

SLICES, ROWS, COLUMNS = 9, 240, 256
SLICE_MM, PIXEL_MM = 8.0, 1.4
CAVITY_RADIUS_MM, CAVITY_LENGTH_MM = 24.0, 76.0
WALL_MM = 8.0
TRABECULAE_MM, TRABECULAE = 5.0, 24
PAPILLARY_RADIUS_MM, PAPILLARY_ANGLES = 4.0, (0.9, 2.4)
MYOCARDIUM_G_PER_ML = 1.05
BLUR_MM = 1.2
NOISE = 14.0
SUPERSAMPLING = 3
TRUTH_NAME = "truth.json"

BLOOD, MYOCARDIUM, LUNG, FAT, MUSCLE, LIVER, AIR = 620.0, 190.0, 45.0, 560.0, 170.0, 230.0, 8.0
"""Signal of the tissues in a balanced steady-state sequence, in arbitrary units."""

AXES = np.array([[0.54, -0.39, 0.75], [0.42, 0.89, 0.16], [-0.73, 0.23, 0.64]])
"""Roughly the slice, column and row directions (LPS) of a short-axis stack: oblique to all of the body's axes."""


@dataclass(frozen=True, kw_only=True)
class Ventricle:
    """Half an ellipsoid of blood in one of muscle."""

    radius_mm: float
    length_mm: float
    wall_mm: float


AT_END_DIASTOLE = Ventricle(radius_mm=CAVITY_RADIUS_MM, length_mm=CAVITY_LENGTH_MM, wall_mm=WALL_MM)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is in the stack, from the formula: half ellipsoids cut at the stack's ends."""

    cavity_ml: float
    myocardium_ml: float

    @property
    def myocardium_g(self) -> float:
        return self.myocardium_ml * MYOCARDIUM_G_PER_ML


def truth(ventricle: Ventricle = AT_END_DIASTOLE) -> Truth:
    """Volumes between the first slice's upper and the last slice's lower face."""
    radius_mm, length_mm, wall_mm = ventricle.radius_mm, ventricle.length_mm, ventricle.wall_mm
    cavity = _half_ellipsoid_ml(radius_mm, length_mm)
    whole = _half_ellipsoid_ml(radius_mm + wall_mm, length_mm + wall_mm)
    return Truth(cavity_ml=cavity, myocardium_ml=whole - cavity)


def _half_ellipsoid_ml(radius_mm: float, length_mm: float) -> float:
    depth = min(SLICES * SLICE_MM, length_mm)
    return math.pi * radius_mm**2 * (depth - depth**3 / (3 * length_mm**2)) / 1000


def short_axis_volume(ventricle: Ventricle = AT_END_DIASTOLE, *, seed: int = 20260101) -> Volume:
    """The phantom's stack: (slice, row, column), int16, LPS, mm; base first. ``seed``: of the noise."""
    random = np.random.default_rng(seed)
    planes = np.stack([_plane((index + 0.5) * SLICE_MM, ventricle) for index in range(SLICES)])
    blurred = ndimage.gaussian_filter(planes, (0, BLUR_MM / PIXEL_MM, BLUR_MM / PIXEL_MM))
    shading = 1.0 + 0.15 * np.linspace(-1, 1, ROWS)[None, :, None]
    real, imaginary = random.normal(0.0, NOISE, (2, *planes.shape))
    noisy = np.hypot(blurred * shading + real, imaginary)
    axes, _ = np.linalg.qr(AXES.T)
    axes *= np.sign(np.sum(axes * AXES.T, axis=0))
    stack = Volume.of(np.round(noisy).astype(np.int16), directions=axes.T, spacing=(SLICE_MM, PIXEL_MM, PIXEL_MM))
    return stack.centred_at((35.0, -20.0, 60.0))


def _plane(depth_mm: float, ventricle: Ventricle) -> NDArray[np.float64]:
    """One slice at a depth below the base: (row, column), averaged over sub-pixels."""
    rows, columns = ROWS * SUPERSAMPLING, COLUMNS * SUPERSAMPLING
    pixel = PIXEL_MM / SUPERSAMPLING
    y, x = np.meshgrid(
        (np.arange(rows) - (rows - 1) / 2) * pixel, (np.arange(columns) - (columns - 1) / 2) * pixel, indexing="ij"
    )
    picture = np.full(x.shape, AIR)
    picture[_ellipse(x, y, 0, 0, 172, 140)] = FAT
    picture[_ellipse(x, y, 0, 0, 160, 128)] = MUSCLE
    picture[_ellipse(x, y, 75, -12, 72, 92)] = LUNG
    picture[_ellipse(x, y, -88, -8, 58, 88)] = LUNG
    picture[_ellipse(x, y, -60, 88, 84, 42)] = LIVER
    picture[_ellipse(x, y, -8, 2, 66, 52)] = LUNG
    wall_mm = ventricle.wall_mm
    outer = _radius(depth_mm, ventricle.radius_mm + wall_mm, ventricle.length_mm + wall_mm)
    inner = _radius(depth_mm, ventricle.radius_mm, ventricle.length_mm)
    right = 1.15 * outer
    picture[_ellipse(x, y, -0.95 * outer, 3, right + 3, 0.92 * right + 3)] = MYOCARDIUM
    picture[_ellipse(x, y, -0.95 * outer, 3, right, 0.92 * right)] = BLOOD
    picture[_ellipse(x, y, 0, 0, outer, outer)] = MYOCARDIUM
    _draw_cavity(picture, x, y, inner)
    averaged: NDArray[np.float64] = picture.reshape(ROWS, SUPERSAMPLING, COLUMNS, SUPERSAMPLING).mean(axis=(1, 3))
    return averaged


def _draw_cavity(picture: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], radius: float) -> None:
    """Blood with what lies in it: trabeculae, denser towards the wall, and two papillary muscles. As in clinical
    contouring, they count as cavity.
    """
    inside = _ellipse(x, y, 0, 0, radius, radius)
    density = (np.hypot(x, y) - (radius - TRABECULAE_MM)) / TRABECULAE_MM
    strands = 0.5 + 0.5 * np.sin(TRABECULAE * np.arctan2(y, x)) < density
    picture[inside] = BLOOD
    picture[inside & strands] = MYOCARDIUM
    for angle in PAPILLARY_ANGLES:
        distance = radius - TRABECULAE_MM - PAPILLARY_RADIUS_MM
        muscle = _ellipse(
            x, y, distance * math.cos(angle), distance * math.sin(angle), PAPILLARY_RADIUS_MM, PAPILLARY_RADIUS_MM
        )
        picture[inside & muscle] = MYOCARDIUM


def _radius(depth_mm: float, radius_mm: float, length_mm: float) -> float:
    return radius_mm * math.sqrt(max(0.0, 1.0 - (depth_mm / length_mm) ** 2))


def _ellipse(
    x: NDArray[np.float64], y: NDArray[np.float64], x0: float, y0: float, a: float, b: float
) -> NDArray[np.bool_]:
    if a <= 0 or b <= 0:
        return np.zeros(x.shape, bool)
    return np.asarray(((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 <= 1.0)


def write_short_axis_study(folder: Path) -> list[Path]:
    """The phantom as a DICOM series, with what is in it beside in ``truth.json``."""
    images = series_of(
        short_axis_volume(),
        modality="MR",
        name="phantom: left ventricle",
        patient_id="COREAD-PHANTOM-LV",
        patient_name="PHANTOM^LEFT VENTRICLE",
        study_description="Coread phantom, drawn by a program",
        series_description="PHANTOM cine SAX ED",
        body_part="HEART",
    )
    paths = write_files(images, folder)
    known = truth()
    values = {
        "Left ventricular myocardium": {"Volume": known.myocardium_ml, "Mass": known.myocardium_g},
        "Left ventricular cavity": {"Volume": known.cavity_ml},
    }
    (folder / TRUTH_NAME).write_text(json.dumps(values, indent=2), encoding="utf-8")
    return paths


def write_unfit_study(folder: Path) -> list[Path]:
    """A CT of a water cylinder: a valid study that the cardiac model must refuse."""
    y, x = np.mgrid[-64:64, -64:64]
    plane = np.where(x**2 + y**2 < 50**2, 0, -1000)
    volume = Volume.of(
        np.stack([plane] * 8).astype(np.int16), directions=np.eye(3)[::-1], spacing=(5.0, 2.0, 2.0)
    ).centred_at((0.0, 0.0, 0.0))
    images = series_of(
        volume,
        modality="CT",
        name="phantom: water",
        patient_id="COREAD-PHANTOM-WATER",
        patient_name="PHANTOM^WATER",
        study_description="Coread phantom, drawn by a program",
        series_description="PHANTOM water cylinder",
        body_part="PHANTOM",
    )
    return write_files(images, folder)
