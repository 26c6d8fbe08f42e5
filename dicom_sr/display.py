"""How the source's values are to be shown: the sender's window, else what most of the values span."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coread.dicom_sr.source import Plane, Source

SHOWN_PERCENT = (1, 99)
"""Without a window of the sender's, what lies between these percentiles of the values."""


def window_of(plane: Plane, source: Source) -> tuple[float, float]:
    """Centre and width (above 0), in the values after the modality transform. Raises ValueError without window and
    values.
    """
    centre, width = plane.number("WindowCenter"), plane.number("WindowWidth")
    if centre is not None and width is not None and width > 0:
        return centre, width
    if source.volume is None:
        raise ValueError("expected a window or the source's values, found neither")
    low, high = span_of(source.volume.array)
    return (low + high) / 2, high - low or 1.0  # where all values are one, any width shows them


def span_of(values: NDArray[Any]) -> tuple[float, float]:
    """What most of the values span: two percentiles. In float32, because between whole numbers far apart numpy's are
    wrong: their difference does not fit their type.
    """
    low, high = np.percentile(np.asarray(values, np.float32), SHOWN_PERCENT)
    return float(low), float(high)
