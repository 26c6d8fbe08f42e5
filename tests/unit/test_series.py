"""The shipped model's series, among those that a cardiac study has."""

import itertools

import numpy as np
import pytest

from coread.errors import GeometryError, NoSuitableSeries
from coread.models.catalogue import installed_models
from coread.settings import Settings
from coread.workers.series import choose
from coread.workers.study import Series, Study
from tests.support import images_of, volume_in_plane

SHORT_AXIS = installed_models(Settings())["left_ventricle_sax"].manifest


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
    choices = [choose(study(*order), SHORT_AXIS) for order in itertools.permutations(found)]
    assert [choice.chosen for choice in choices] == [(found[1],)] * 24
    assert all(choice.reasons == choices[0].reasons for choice in choices)


def test_each_series_has_its_reason() -> None:
    ct, stir, fits = series("ct", modality="CT"), series("stir", description="four chambers"), series("fits")
    assert choose(study(ct, stir, fits), SHORT_AXIS).reasons == {
        ct.series_instance_uid: "Modality is not MR, found CT",
        stir.series_instance_uid: "ProtocolName and SeriesDescription do not say that it is one",
        fits.series_instance_uid: "taken as a short-axis cardiac MR series (one stack, in one heart phase or several): "
        "the only candidate",
    }


@pytest.mark.parametrize(
    "description", ["LGE_PSIR_SAX_10min", "T2 STIR sax", "SAX T1 map", "perfusion sax", "scout sax"]
)
def test_another_contrast_of_the_same_plane_is_not_read(description: str) -> None:
    with pytest.raises(NoSuitableSeries, match="says that it is another kind of series"):
        choose(study(series("contrast", description=description)), SHORT_AXIS)


@pytest.mark.parametrize("number", ["", "ABC", ["1", "2"], None])
def test_an_odd_series_number_does_not_matter(number: object) -> None:
    odd = series("odd")
    del odd.header.SeriesNumber
    if number is not None:
        odd.header.add_new(0x00200011, "LO", number)
    assert choose(study(odd), SHORT_AXIS).chosen == (odd,)


def test_the_only_candidates_own_mistake_is_the_reason() -> None:
    images = images_of(volume_in_plane("axial", spacing=(8.0, 1.5, 1.5), array=np.zeros((9, 20, 14), np.int16)))
    del images[4]
    only = Series(header=images[0], size=8, load=lambda: images)
    with pytest.raises(GeometryError, match="a slice is missing"):
        choose(study(only), SHORT_AXIS)


def test_a_stack_outside_the_models_ranges_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"expected 5 to 30 slices .*, found 31"):
        choose(study(series("odd", slices=31)), SHORT_AXIS)


def test_a_stack_with_too_few_images_is_refused_before_it_is_loaded() -> None:
    few = series("few", slices=3)
    unloaded = Series(header=few.header, size=3, load=lambda: pytest.fail("it was loaded"))
    with pytest.raises(NoSuitableSeries, match="fewer images than the 5 needed: 3; send the whole series"):
        choose(study(unloaded), SHORT_AXIS)


def test_a_study_without_images_is_refused() -> None:
    with pytest.raises(NoSuitableSeries, match="the study has no images"):
        choose(study(), SHORT_AXIS)


def test_free_text_of_the_header_is_not_quoted_in_the_reason() -> None:
    with pytest.raises(NoSuitableSeries) as raised:
        choose(study(series("x", description="for Dr Grey, patient Mr Brown")), SHORT_AXIS)
    assert "Brown" not in str(raised.value)
