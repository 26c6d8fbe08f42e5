"""How values are shown without a window of the sender's."""

import numpy as np
import pytest

from coread.dicom_sr.display import span_of


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_values_far_apart_span_what_lies_between_them(dtype: type[np.generic]) -> None:
    low, high = (-30000, 32000) if dtype is not np.uint16 else (0, 65000)
    values = np.full((1, 10, 100), high, dtype)
    values.reshape(-1)[:10] = low  # so that a hundredth lies between the two
    found = span_of(values)
    assert found == pytest.approx(tuple(np.percentile(values.astype(np.float64), (1, 99))), rel=1e-3)
    assert low <= found[0] <= found[1] <= high
