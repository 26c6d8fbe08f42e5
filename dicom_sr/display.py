"""How the source's values are to be shown: the sender's window, else what most of the values span."""

import numpy as np

from coread.dicom_sr.source import Plane, Source

SHOWN_PERCENT = (1, 99)
"""Without a window of the sender's, what lies between these percentiles of the values."""

NARROWEST = 1.0
"""Of a window, in units of the values: PS3.3 C.11.2.1.2 wants 1 or more."""


def window_of(plane: Plane, source: Source) -> tuple[float, float]:
    """Centre and width, in the values after the modality transform. Raises ValueError without window and values."""
    centre, width = plane.number("WindowCenter"), plane.number("WindowWidth")
    if centre is not None and width is not None and width >= NARROWEST:
        return centre, width
    if source.volume is None:
        raise ValueError("expected a window or the source's values, found neither")
    low, high = (float(value) for value in np.percentile(source.volume.array, SHOWN_PERCENT))
    return (low + high) / 2, max(high - low, NARROWEST)
