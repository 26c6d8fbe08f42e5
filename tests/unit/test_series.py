import itertools

import numpy as np
import pytest

from coread.errors import GeometryError, NoSuitableSeries
from coread.models.catalogue import installed_models
from coread.settings import Settings
from coread.workers.series import choose_series
from coread.workers.study import Series, Study
from tests.support import images_of, volume_in_plane

SHORT_AXIS = installed_models(Settings())["left_ventricle_sax"].manifest.series


def series(name: str, *, slices: int = 8, description: str = "cine SAX", modality: str = "MR") -> Series:
    array = np.zeros((slices, 20, 14), np.int16)
    volume = volume_in_plane("oblique", spacing=(8.0, 1.5, 1.5), array=array)
    images = images_of(volume, name=name, series_description=description, modality="CT" if modality == "CT" else "MR")
    return Series(header=images[0], size=slices, load=lambda: images)


def study(*found: Series) -> Study:
    return Study(study_instance_uid="1.2", sop_instance_uids=frozenset(), series=found)


def test_the_choice_does_not_depend_on_the_order_of_the_series() -> None:
    found = [
        series("small", slices=6),
        series("large", slices=9),
        series("other", description="T2 STIR"),
        series("ct", modality="CT"),
    ]
    chosen = {
        choose_series(study(*order), SHORT_AXIS).series.series_instance_uid for order in itertools.permutations(found)
    }
    assert chosen == {found[1].series_instance_uid}


def test_each_series_passed_over_has_its_reason() -> None:
    ct, stir, fits = series("ct", modality="CT"), series("stir", description="four chambers"), series("fits")
    passed_over = choose_series(study(ct, stir, fits), SHORT_AXIS).passed_over
    assert passed_over[ct.series_instance_uid] == "Modality is not MR, found CT"
    assert "do not say that it is one" in passed_over[stir.series_instance_uid]
    assert fits.series_instance_uid not in passed_over


@pytest.mark.parametrize(
    "description", ["LGE_PSIR_SAX_10min", "T2 STIR sax", "SAX T1 map", "perfusion sax", "scout sax"]
)
def test_another_contrast_of_the_same_plane_is_not_read(description: str) -> None:
    with pytest.raises(NoSuitableSeries, match="says that it is another kind of series"):
        choose_series(study(series("contrast", description=description)), SHORT_AXIS)


@pytest.mark.parametrize("number", ["", "ABC", ["1", "2"], None])
def test_an_odd_series_number_does_not_matter(number: object) -> None:
    odd = series("odd")
    del odd.header.SeriesNumber
    if number is not None:
        odd.header.add_new(0x00200011, "LO", number)
    assert choose_series(study(odd), SHORT_AXIS).series is odd


def test_the_only_candidates_own_mistake_is_the_reason() -> None:
    images = images_of(volume_in_plane("axial", spacing=(8.0, 1.5, 1.5), array=np.zeros((9, 20, 14), np.int16)))
    del images[4]
    only = Series(header=images[0], size=8, load=lambda: images)
    with pytest.raises(GeometryError, match="a slice is missing"):
        choose_series(study(only), SHORT_AXIS)


@pytest.mark.parametrize("slices", [3, 31])
def test_a_stack_outside_the_models_ranges_is_refused(slices: int) -> None:
    with pytest.raises(GeometryError, match=f"expected 5 to 30 slices .*, found {slices}"):
        choose_series(study(series("odd", slices=slices)), SHORT_AXIS)


def test_a_study_without_images_is_refused() -> None:
    with pytest.raises(NoSuitableSeries, match="the study has no images"):
        choose_series(study(), SHORT_AXIS)


def test_free_text_of_the_header_is_not_quoted_in_the_reason() -> None:
    with pytest.raises(NoSuitableSeries) as raised:
        choose_series(study(series("x", description="for Dr Grey, patient Mr Brown")), SHORT_AXIS)
    assert "Brown" not in str(raised.value)
