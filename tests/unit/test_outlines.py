import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coread.dicom_sr.outlines import in_one_ring, regions_of
from coread.dicom_sr.proof import enclosed, prove_outline
from coread.errors import ResultError

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=200, deadline=None)
@given(mask=MASKS)
def test_rings_filled_are_the_mask_again(mask: np.ndarray) -> None:
    by_ring = np.zeros(mask.shape, bool)
    in_one = np.zeros(mask.shape, bool)
    for region in regions_of(mask):
        for ring in (region.outer, *region.holes):
            by_ring ^= enclosed(ring, mask.shape)
        in_one |= enclosed(in_one_ring(region)[:-1], mask.shape)
    assert np.array_equal(by_ring, mask)
    assert np.array_equal(in_one, mask)


@settings(max_examples=200, deadline=None)
@given(mask=MASKS)
def test_the_outline_of_any_mask_is_accepted(mask: np.ndarray) -> None:
    regions = regions_of(mask)
    if regions:
        prove_outline(regions[0].outer, mask, "outline")


def test_a_bay_that_opens_at_a_corner_is_no_hole() -> None:
    mask = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
    (region,) = regions_of(mask)
    assert region.holes == ()
    prove_outline(region.outer, mask, "outline")


def test_one_pixel_is_outlined_around_its_centre() -> None:
    mask = np.zeros((5, 7), bool)
    mask[3, 2] = True
    (region,) = regions_of(mask)
    assert np.array_equal(region.outer[0], region.outer[-1])
    assert region.outer[:-1].mean(axis=0) == pytest.approx((2.5, 3.5))  # column, row; the first pixel's centre is 0.5
    assert region.pixels == 1


def test_the_largest_part_comes_first_and_its_hole_is_a_hole() -> None:
    mask = np.zeros((20, 20), bool)
    mask[1:3, 1:3] = True
    mask[5:15, 5:15] = True
    mask[8:11, 7:9] = False
    first, second = regions_of(mask)
    assert (first.pixels, len(first.holes), second.pixels) == (94, 1, 4)


@pytest.mark.parametrize("shift", [(0.0, 1.0), (1.0, 0.0), (-1.0, -1.0)])
def test_a_shifted_outline_is_noticed(shift: tuple[float, float]) -> None:
    mask = np.zeros((12, 15), bool)
    mask[3:8, 4:12] = True
    mask[5, 6] = False
    ring = regions_of(mask)[0].outer
    prove_outline(ring, mask, "outline")
    with pytest.raises(ResultError, match="outline"):
        prove_outline(ring + shift, mask, "outline")
