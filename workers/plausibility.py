"""What must hold of a mask before it is measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coread.errors import GeometryError
from coread.kernels.measuring import measure
from coread.models.manifest import Manifest, SeriesRequirement
from coread.volume import Volume

EDGE_MM = 4.0
"""A structure that comes this near to the edge of what the model looks at may go on beyond it."""


def check_found(layers: Sequence[NDArray[np.uint8]], manifest: Manifest) -> None:
    """Raises GeometryError if a structure that everybody has is not in the label volumes."""
    expected = {
        manifest.value_of(key): meaning.name for key, meaning in sorted(manifest.labels.items()) if meaning.always
    }
    if not layers or not expected:
        return
    voxels = np.sum([measure(layer).voxels for layer in layers], axis=0)
    lacking = [name for label, name in expected.items() if not voxels[label]]
    if lacking:
        raise GeometryError(
            f"expected {' and '.join(lacking)} in {manifest.series[0].described_as}, found none; look whether the "
            "images show it, in their middle, and measure by hand"
        )


def check_field_of_view(layers: Sequence[NDArray[np.uint8]], volume: Volume, requirement: SeriesRequirement) -> None:
    """Raises GeometryError if a structure reaches the edge of the field that the model looks at.

    ``layers``: label volumes (slice, row, column), on the volume's grid.
    """
    if requirement.field_of_view_mm is None:
        return
    measured = [measure(layer) for layer in layers]
    found = [each for each in measured if each.voxels.any()]
    if not found:
        return
    low = np.min([each.low[each.voxels > 0].min(axis=0) for each in found], axis=0)
    high = np.max([each.high.max(axis=0) for each in found], axis=0)
    reach_mm = requirement.field_of_view_mm / 2 - EDGE_MM
    for axis, spacing_mm in ((1, volume.spacing[1]), (2, volume.spacing[2])):
        centre = (volume.spatial_shape[axis] - 1) / 2
        from_centre_mm = max(high[axis] - centre, centre - low[axis]) * spacing_mm
        if from_centre_mm > reach_mm:
            raise GeometryError(
                f"expected what is to be measured within {reach_mm:.0f} mm of the image's centre, found it up to "
                f"{from_centre_mm:.0f} mm away, where the model does not look; send a series centred on it"
            )
