import numpy as np
import pytest
from pydicom.sr.codedict import codes

from coread.workers.measure import longest_diameter_mm, volume_ml
from tests.support import measured, volume_in_plane

VOLUME = volume_in_plane("oblique", shape=(20, 40, 30), spacing=(3.0, 1.0, 2.0))


def mask(*indices: tuple[int, int, int]) -> np.ndarray:
    found = np.zeros(VOLUME.spatial_shape, bool)
    for index in indices:
        found[index] = True
    return found


def test_the_volume_is_that_of_the_voxels() -> None:
    box = np.zeros(VOLUME.spatial_shape, bool)
    box[2:7, 10:20, 5:9] = True
    assert volume_ml(box, VOLUME) == pytest.approx(5 * 10 * 4 * 6 / 1000)


@pytest.mark.parametrize(
    ("voxels", "expected_mm"),
    [
        ([(3, 3, 3)], 0.0),
        ([(3, 3, 3), (4, 3, 3)], 3.0),
        ([(3, 3, 3), (3, 6, 5)], 5.0),
        ([(3, 3, 3), (3, 5, 3), (3, 9, 3)], 6.0),
        ([(3, 3, 3), (3, 6, 3), (3, 3, 5), (3, 6, 5)], 5.0),
        ([(3, 3, 3), (5, 3, 3), (3, 6, 3), (3, 3, 5), (5, 5, 4)], 52**0.5),
    ],
    ids=["one voxel", "across slices", "diagonal", "a line", "a plane", "a body"],
)
def test_the_longest_diameter_is_between_the_farthest_centres(
    voxels: list[tuple[int, int, int]], expected_mm: float
) -> None:
    assert longest_diameter_mm(mask(*voxels), VOLUME) == pytest.approx(expected_mm, abs=1e-6)


def test_the_longest_diameter_is_what_trying_all_pairs_gives() -> None:
    found = np.random.default_rng(1).random(VOLUME.spatial_shape) < 0.01
    points = VOLUME.map_indices_to_reference(np.argwhere(found))
    every_pair = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert longest_diameter_mm(found, VOLUME) == pytest.approx(every_pair.max())


def test_intensity_is_measured_inside_the_structure_only() -> None:
    labels = np.zeros(VOLUME.spatial_shape, np.uint8)
    labels[4:8, 4:8, 4:8] = 1
    values = np.where(labels == 1, 100.0, -5000.0)
    values[4, 4, 4] = 740.0
    findings = measured(labels, VOLUME.with_array(values))
    first = findings.structures[0]
    by_derivation = {each.derivation.value: each for each in first.measurements if each.derivation}
    assert by_derivation[codes.SCT.Mean.value].value == pytest.approx(110.0)
    assert by_derivation[codes.SCT.StandardDeviation.value].value == pytest.approx(np.std([100.0] * 63 + [740.0]))
    assert by_derivation[codes.SCT.Mean.value].unit.value == "[arb'U]"


def test_a_structure_without_voxels_is_absent_and_has_no_measurements() -> None:
    labels = np.zeros(VOLUME.spatial_shape, np.uint8)
    labels[0, 0, 0] = 2
    findings = measured(labels, VOLUME)
    assert [structure.name for structure in findings.absent] == ["First"]
    assert findings.absent[0].measurements == ()
    assert [structure.name for structure in findings.present] == ["Second"]
