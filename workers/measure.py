"""Measures of a labelled structure, in the units of the report."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from coread import codes
from coread.findings import Findings, Measurement, ScalarMap, Structure
from coread.models.manifest import CodeTriple, Label, Manifest
from coread.volume import Volume

INTENSITY = {
    "CT": (codes.ATTENUATION, codes.HOUNSFIELD_UNIT),
    "MR": (codes.MR_SIGNAL_INTENSITY, codes.ARBITRARY_UNIT),
}
"""What a voxel's value is, by modality (CID 7180), and its unit."""

MM3_PER_ML = 1000.0
FLAT = 1e-6
"""Relative extent below which a set of voxels has no extent in a direction."""


def measure(
    labels: NDArray[np.uint8],
    volume: Volume,
    *,
    manifest: Manifest,
    modality: str,
    probabilities: Mapping[int, NDArray[np.float32]] | None = None,
) -> Findings:
    """Everything that the manifest asks to be measured, and a map of each structure's probability where it is told.

    ``labels`` and ``probabilities`` (label → 0 to 1): (slice, row, column), on the volume's grid.
    """
    structures = tuple(
        replace(
            structure,
            voxels=int(np.count_nonzero(labels == structure.label)),
            measurements=tuple(
                _measurements(labels == structure.label, volume, manifest.labels[structure.label], modality)
            ),
        )
        for structure in sought(manifest)
    )
    told = probabilities or {}
    maps = tuple(
        ScalarMap(
            name=f"Probability of {structure.name}",
            volume=volume.with_array(told[structure.label]),
            quantity=codes.PROBABILITY,
            unit=codes.NO_UNITS,
            anatomy=structure.anatomy or structure.type,
        )
        for structure in structures
        if structure.label in told
    )
    return Findings(labels=volume.with_array(labels), structures=structures, probabilities=told, maps=maps)


def sought(manifest: Manifest) -> tuple[Structure, ...]:
    """The structures that a model looks for, before it has looked."""
    return tuple(
        Structure(
            label=value,
            name=label.name,
            category=_code(label.category),
            type=_code(label.type),
            anatomy=_code(label.anatomy) if label.anatomy else None,
            colour=label.colour,
            voxels=0,
            measurements=(),
        )
        for value, label in sorted(manifest.labels.items())
    )


def volume_ml(mask: NDArray[np.bool_], volume: Volume) -> float:
    """Number of voxels times the volume of one."""
    return float(np.count_nonzero(mask)) * volume.voxel_volume / MM3_PER_ML


def longest_diameter_mm(mask: NDArray[np.bool_], volume: Volume) -> float:
    """The largest distance between two voxels' centres, in patient space."""
    points = volume.map_indices_to_reference(np.argwhere(mask))
    corners = points[_extremes(points)]
    return float(pdist(corners).max()) if len(corners) > 1 else 0.0


def _extremes(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the corners of the points' convex hull, whether they fill space, a plane, a line or a point."""
    centred = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    spanned = centred @ axes[sizes > FLAT * max(1.0, float(sizes[0]))].T
    match spanned.shape[1]:
        case 0:
            return np.zeros(1, dtype=np.intp)
        case 1:
            return np.array([spanned.argmin(), spanned.argmax()], dtype=np.intp)
        case _:
            return np.asarray(ConvexHull(spanned).vertices, dtype=np.intp)


def _measurements(mask: NDArray[np.bool_], volume: Volume, label: Label, modality: str) -> list[Measurement]:
    if not mask.any():
        return []
    found = []
    for wanted in label.measure:
        if wanted == "volume":
            found.append(Measurement(concept=codes.VOLUME, value=volume_ml(mask, volume), unit=codes.MILLILITER))
        elif wanted == "mass" and label.density_g_per_ml is not None:
            grams = volume_ml(mask, volume) * label.density_g_per_ml
            found.append(Measurement(concept=codes.MASS, value=grams, unit=codes.GRAM))
        elif wanted == "diameter":
            length = longest_diameter_mm(mask, volume)
            found.append(
                Measurement(concept=codes.DIAMETER, value=length, unit=codes.MILLIMETER, derivation=codes.MAXIMUM)
            )
        elif wanted == "intensity" and modality in INTENSITY:
            concept, unit = INTENSITY[modality]
            values = volume.array[mask].astype(np.float64)
            for derivation, value in ((codes.MEAN, values.mean()), (codes.STANDARD_DEVIATION, values.std())):
                found.append(Measurement(concept=concept, value=float(value), unit=unit, derivation=derivation))
    return found


def _code(triple: CodeTriple) -> Code:
    return Code(triple.value, triple.scheme, triple.meaning)
