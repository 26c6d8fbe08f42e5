"""Measures of a labelled structure, in the units of the report."""

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.sr.coding import Code
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from coread.findings import Findings, Measurement, Structure
from coread.models.manifest import CodeTriple, Label, Manifest

VOLUME = Code("118565006", "SCT", "Volume")
MASS = Code("118538004", "SCT", "Mass")
DIAMETER = Code("81827009", "SCT", "Diameter")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MAXIMUM = Code("56851009", "SCT", "Maximum")
MILLILITER = Code("ml", "UCUM", "milliliter")
GRAM = Code("g", "UCUM", "gram")
MILLIMETER = Code("mm", "UCUM", "mm")

INTENSITY = {
    "CT": (Code("112031", "DCM", "Attenuation Coefficient"), Code("[hnsf'U]", "UCUM", "Hounsfield unit")),
    "MR": (Code("110852", "DCM", "MR signal intensity"), Code("[arb'U]", "UCUM", "arbitrary unit")),
}
"""What a voxel's value is, by modality (CID 7180), and its unit."""

MM3_PER_ML = 1000.0
FLAT = 1e-6
"""Relative extent below which a set of voxels has no extent in a direction."""


def measure(labels: NDArray[np.uint8], volume: hd.Volume, *, manifest: Manifest, modality: str) -> Findings:
    """Everything that the manifest asks to be measured. ``labels``: (slice, row, column), on the volume's grid."""
    structures = tuple(
        Structure(
            label=value,
            name=label.name,
            category=_code(label.category),
            type=_code(label.type),
            anatomy=_code(label.anatomy) if label.anatomy else None,
            colour=label.colour,
            voxels=int(np.count_nonzero(labels == value)),
            measurements=tuple(_measurements(labels == value, volume, label, modality)),
        )
        for value, label in sorted(manifest.labels.items())
    )
    return Findings(labels=volume.with_array(labels), structures=structures)


def volume_ml(mask: NDArray[np.bool_], volume: hd.Volume) -> float:
    """Number of voxels times the volume of one."""
    return float(np.count_nonzero(mask)) * volume.voxel_volume / MM3_PER_ML


def longest_diameter_mm(mask: NDArray[np.bool_], volume: hd.Volume) -> float:
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


def _measurements(mask: NDArray[np.bool_], volume: hd.Volume, label: Label, modality: str) -> list[Measurement]:
    if not mask.any():
        return []
    found = []
    for wanted in label.measure:
        if wanted == "volume":
            found.append(Measurement(concept=VOLUME, value=volume_ml(mask, volume), unit=MILLILITER))
        elif wanted == "mass" and label.density_g_per_ml is not None:
            grams = volume_ml(mask, volume) * label.density_g_per_ml
            found.append(Measurement(concept=MASS, value=grams, unit=GRAM))
        elif wanted == "diameter":
            length = longest_diameter_mm(mask, volume)
            found.append(Measurement(concept=DIAMETER, value=length, unit=MILLIMETER, derivation=MAXIMUM))
        elif wanted == "intensity" and modality in INTENSITY:
            concept, unit = INTENSITY[modality]
            values = volume.array[mask].astype(np.float64)
            for derivation, value in ((MEAN, values.mean()), (STANDARD_DEVIATION, values.std())):
                found.append(Measurement(concept=concept, value=float(value), unit=unit, derivation=derivation))
    return found


def _code(triple: CodeTriple) -> Code:
    return Code(triple.value, triple.scheme, triple.meaning)
