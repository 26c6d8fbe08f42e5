"""Each rule of the choice on small made-up series, and what must hold of any choice."""

import copy
import gc
import itertools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MRSpectroscopyStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    TwelveLeadECGWaveformStorage,
)

from coread.errors import ArchiveUnavailable, GeometryError, InputError, NoSuitableSeries, NotDicom
from coread.models.manifest import Manifest, Population
from coread.workers.series import Choice, candidates, check_population, choose, fitting_series
from coread.workers.study import Series, Study
from tests.support import MANIFEST, enhanced, images_of, volume_in_plane

FRAME = "1.2.3.4"

Change = Callable[[list[Dataset]], object]


def series(
    name: str,
    *,
    slices: int = 4,
    plane: str = "oblique",
    change: Change = lambda _: None,
    loaded: list[str] | None = None,
    **header: Any,
) -> Series:
    """A series of MR images with the attributes of ``header``. ``change`` is done to its images when they are loaded,
    ``loaded`` gets its name each time.
    """
    volume = volume_in_plane(plane, spacing=(3.0, 1.5, 2.25), array=np.zeros((slices, 4, 3), np.int16))
    images = images_of(volume, name=name)
    for image in images:
        for keyword, value in {"FrameOfReferenceUID": FRAME, **header}.items():
            if value is None:
                image.pop(keyword, None)
            else:
                setattr(image, keyword, value)

    def load() -> list[Dataset]:
        if loaded is not None:
            loaded.append(name)
        fetched = copy.deepcopy(images)
        change(fetched)
        return fetched

    return Series(header=images[0], size=slices, load=load)


def study(*found: Series) -> Study:
    return Study(study_instance_uid="1.2", sop_instance_uids=frozenset(), series=found)


def manifest(*channels: Mapping[str, Any]) -> Manifest:
    """A model that reads any MR series into each of its channels, but for what they say."""
    any_mr = {"described_as": "an MR series", "must": {"Modality": ["MR"]}}
    return Manifest.model_validate({**MANIFEST, "series": [{**any_mr, **each} for each in channels]})


def choice(found: Sequence[Series], **requirement: Any) -> Choice:
    return choose(study(*found), manifest(requirement))


def reason(one: Series, **requirement: Any) -> str | None:
    """Why a series is left by its header; None if it is a candidate."""
    found, left = candidates(study(one), manifest(requirement).series[0])
    assert (found == [one]) == (left == {})
    return left.get(one.series_instance_uid)


def has_a_gap(images: list[Dataset]) -> None:
    images[-1].ImagePositionPatient = [value + 50 for value in images[-1].ImagePositionPatient]


def equipment(*, purpose: str = "109102", manufacturer: str = "Somebody") -> list[Dataset]:
    code, item = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = purpose, "DCM", "Equipment"
    item.Manufacturer, item.PurposeOfReferenceCodeSequence = manufacturer, [code]
    return [item]


# How values are matched


@pytest.mark.parametrize(
    ("value", "pattern", "fits"),
    [
        ("Ax T1 post", "*t1*", True),
        ("Ax T1 post", "t1", False),
        ("T1", "t?", True),
        ("T10", "t?", False),
        ("T1 [post]", "*[post]", True),
        ("T1 p", "* [post]", False),
        (["ORIGINAL", "PRIMARY", "M_FFE"], "m_ffe", True),
        (["ORIGINAL", "PRIMARY", "M_FFE"], r"ORIGINAL\*\M_*", True),
        (["ORIGINAL", "PRIMARY", "M_FFE"], r"PRIMARY\M_FFE", False),
        (["ORIGINAL", "PRIMARY"], "SECONDARY", False),
        (None, "*t1*", False),
        (None, "", True),
    ],
)
@pytest.mark.parametrize("rule", ["must", "must_not", "any_of"])
def test_a_value_or_all_values_together_match_a_pattern(rule: str, value: Any, pattern: str, fits: bool) -> None:
    keyword = "ImageType" if isinstance(value, list) else "SeriesDescription"
    wanted = {keyword: ["nothing", pattern]}
    header: dict[str, Any] = {keyword: value}
    found = reason(series("a", **header), **{rule: [wanted] if rule == "any_of" else wanted})
    assert (found is None) == (fits != (rule == "must_not"))


def test_every_keyword_of_must_is_asked_for() -> None:
    must = {"Modality": ["MR"], "SeriesDescription": ["*t1*"]}
    assert reason(series("a", SeriesDescription="T1", Modality="CT"), must=must) == "Modality is not MR, found CT"
    assert reason(series("a", SeriesDescription="T2"), must=must) == "SeriesDescription is not *t1*"
    assert reason(series("a", SeriesDescription="T1"), must=must) is None


def test_one_of_any_of_matches_as_a_whole() -> None:
    any_of = [{"SeriesDescription": ["a"], "ProtocolName": ["b"]}, {"ProtocolName": ["c"]}]
    assert reason(series("x", SeriesDescription="a", ProtocolName="b"), any_of=any_of) is None
    assert reason(series("x", SeriesDescription="a", ProtocolName="c"), any_of=any_of) is None
    assert reason(series("x", SeriesDescription="a", ProtocolName="x"), any_of=any_of) is not None


def test_free_text_is_never_quoted() -> None:
    secret = "scout of Mr Brown"
    requirements: list[dict[str, Any]] = [
        {},
        {"must": {"SeriesDescription": ["x"]}},
        {"must_not": {"SeriesDescription": ["*"]}},
        {"any_of": [{"SeriesDescription": ["x"]}]},
        {"contrast": False, "must": {"SeriesDescription": ["*scout*"]}},
    ]
    for requirement in requirements:
        found = reason(series("x", SeriesDescription=secret, ContrastBolusAgent="Mr Brown's"), **requirement)
        assert found is not None
        assert "Brown" not in found


# What a series is


@pytest.mark.parametrize(
    ("sop_class", "modality"),
    [
        (BasicTextSRStorage, "SR"),
        (SegmentationStorage, "SEG"),
        (KeyObjectSelectionDocumentStorage, "KO"),
        (GrayscaleSoftcopyPresentationStateStorage, "PR"),
        (RTStructureSetStorage, "RTSTRUCT"),
        (RTDoseStorage, "RTDOSE"),
        (TwelveLeadECGWaveformStorage, "ECG"),
        (EncapsulatedPDFStorage, "DOC"),
        (MRSpectroscopyStorage, "MR"),
        (CTImageStorage, "SEG"),
    ],
)
@pytest.mark.parametrize("projection", [False, True])
def test_what_holds_no_images_is_left(sop_class: str, modality: str, projection: bool) -> None:
    other = series("x", SOPClassUID=sop_class, Modality=modality)
    found = reason(other, must={"Modality": ["*"]}, projection=projection)
    assert found == "it holds no images"


def test_an_object_without_rows_is_left_and_one_of_an_unknown_class_may_be_an_image() -> None:
    assert reason(series("x", SOPClassUID="1.2.840.10008.5.1.4.1.1.999", Rows=None)) == "it holds no images"
    assert reason(series("x", SOPClassUID="1.2.840.10008.5.1.4.1.1.999")) is None
    assert reason(series("x", SOPClassUID="1.3.12.2")) is None


@pytest.mark.parametrize(
    "header",
    [
        {"Manufacturer": "Coread"},
        {"ManufacturerModelName": "Coread"},
        {"ContributingEquipmentSequence": equipment(purpose="109103", manufacturer="Coread")},
    ],
)
@pytest.mark.parametrize("projection", [False, True])
def test_what_coread_wrote_is_left(header: dict[str, Any], projection: bool) -> None:
    assert reason(series("x", **header), projection=projection) == "Coread wrote it"


def test_what_only_begins_like_coread_is_not_ours() -> None:
    assert reason(series("x", Manufacturer="Coread sample")) is None


@pytest.mark.parametrize(
    ("image_type", "purpose", "is_left"),
    [
        (["DERIVED", "SECONDARY"], "109102", True),
        (["DERIVED", "PRIMARY"], "109104", False),
        (["ORIGINAL", "PRIMARY"], "109102", False),
    ],
)
def test_what_a_program_computed_is_left_unless_it_is_asked_for(
    image_type: list[str], purpose: str, is_left: bool
) -> None:
    one = series("x", ImageType=image_type, ContributingEquipmentSequence=equipment(purpose=purpose))
    found = reason(one)
    assert (found is not None) == is_left
    assert found is None or "a program computed it" in found
    assert reason(one, must={"ImageType": ["derived*", "ORIGINAL"]}) is None


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ("ImageType", ["DERIVED", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"]),
        ("SeriesDescription", "3-plane Localizer"),
        ("SeriesDescription", "localiser"),
        ("SeriesDescription", "AAHScout"),
        ("SeriesDescription", "Topogram 0.6 T20f"),
        ("SeriesDescription", "Survey SHC"),
        ("ProtocolName", "SURVIEW"),
    ],
)
def test_a_localizer_is_left_unless_it_is_asked_for(keyword: str, value: Any) -> None:
    header: dict[str, Any] = {keyword: value}
    one = series("x", **header)
    assert reason(one) == f"{keyword} says that it is a localizer"
    assert reason(one, must={keyword: ["*"]}) == f"{keyword} says that it is a localizer"
    text = value if isinstance(value, str) else "LOCALIZER"
    assert reason(one, must={keyword: [text]}) is None
    assert reason(one, any_of=[{keyword: ["x"]}, {keyword: [f"*{text.lower()}*"]}]) is None


@pytest.mark.parametrize("description", ["Bone survey 3.0", "T1 local", "colour"])
def test_what_only_sounds_like_a_localizer_is_not_left(description: str) -> None:
    assert reason(series("x", SeriesDescription=description)) is None


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        (["DERIVED", "SECONDARY", "MPR"], "a reformat of other images"),
        (["DERIVED", "PRIMARY", "MPR", "CSA MPR", "", "CSAPARALLEL"], "a reformat of other images"),
        (["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"], "a reformat of other images"),
        (["DERIVED", "SECONDARY", "AXIAL", "THICK_MIP"], "a projection through a volume"),
        (["DERIVED", "SECONDARY", "PROJECTION IMAGE", "M"], "a projection through a volume"),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], "a copy of a screen"),
        (["DERIVED", "PRIMARY"], None),
        (["DERIVED", "SECONDARY", "AXIAL"], None),
        (["DERIVED", "PRIMARY", "MPRAGE"], None),
        (["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], None),
        (["ORIGINAL", "PRIMARY", "M", "MPR"], None),
    ],
)
def test_a_derived_series_is_left_if_it_says_that_it_is_no_stack(image_type: list[str], kind: str | None) -> None:
    assert reason(series("x", ImageType=image_type)) == (kind and f"ImageType says that it is {kind}")


def test_a_derived_series_that_is_asked_for_by_its_image_type_is_not_left() -> None:
    one = series("x", ImageType=["DERIVED", "SECONDARY", "MPR"], SeriesDescription="T1w_MPR")
    assert reason(one, must={"ImageType": [r"*\MPR"]}) is None
    assert reason(one, must={"ImageType": ["MPR", "ORIGINAL"]}) is None
    assert reason(one, must={"ImageType": ["DERIVED"]}) is not None
    assert reason(one, must={"SeriesDescription": ["*T1w_MPR*"]}) is not None


def test_a_secondary_capture_is_left_by_models_of_stacks() -> None:
    one = series("x", SOPClassUID=SecondaryCaptureImageStorage)
    assert reason(one) == "it is a secondary capture"
    assert reason(one, projection=True) is None
    assert reason(one, must={"SOPClassUID": [SecondaryCaptureImageStorage + "*"]}) is None


@pytest.mark.parametrize("modality", ["OT", "SC"])
def test_an_image_of_no_modality_needs_a_place_in_the_patient(modality: str) -> None:
    must = {"Modality": [modality]}
    assert reason(series("x", Modality=modality), must=must) is None
    nowhere = series("x", Modality=modality, ImagePositionPatient=None)
    assert reason(nowhere, must=must) == "its images have no place in the patient"
    assert reason(nowhere, must=must, projection=True) is None


@pytest.mark.parametrize(
    ("header", "given"),
    [
        ({"ContrastBolusAgent": "Gadovist"}, True),
        ({"ContrastBolusAgent": "NONE"}, False),
        ({"ContrastBolusAgent": ""}, False),
        ({}, False),
        ({"ContrastBolusAgentSequence": [Dataset()]}, True),
        ({"ContrastBolusAgentSequence": []}, False),
    ],
)
def test_contrast_is_a_filter(header: dict[str, Any], given: bool) -> None:
    one = series("x", **header)
    assert reason(one) is None
    assert reason(one, contrast=given) is None
    assert reason(one, contrast=not given) == (
        f"ContrastBolusAgent says that {'a' if given else 'no'} contrast agent was given"
    )


@pytest.mark.parametrize(
    ("lies", "plane"),
    [
        ("axial", "axial"),
        ("axial, feet last", "axial"),
        ("oblique", "axial"),
        ("sagittal", "sagittal"),
        ("coronal", "coronal"),
    ],
)
def test_the_plane_is_a_filter(lies: str, plane: str) -> None:
    one = series("x", plane=lies)
    for asked in ("axial", "coronal", "sagittal"):
        assert reason(one, plane=asked) == (None if asked == plane else f"its slices are {plane}, not {asked}")


def test_the_plane_of_an_enhanced_image_is_found() -> None:
    image = enhanced(images_of(volume_in_plane("coronal")))
    one = Series(header=image, size=1, load=lambda: [image])
    assert reason(one, plane="axial") == "its slices are coronal, not axial"
    assert choice([one], plane="coronal").chosen == (one,)


@pytest.mark.parametrize("orientation", [None, ["1", "0", "0"]])
def test_a_series_that_does_not_say_how_it_lies_is_left_where_it_matters(orientation: object) -> None:
    one = series("x", ImageOrientationPatient=orientation)
    assert reason(one, plane="axial") == "its slices are in no known plane, not axial"


def test_a_series_with_too_few_images_is_left_before_it_is_loaded_but_is_of_the_kind() -> None:
    one = series("x", slices=4)
    assert reason(one, slices=[5, 9]) == "fewer images than the 5 needed: 4; send the whole series"
    assert reason(one, slices=[4, 9]) is None
    assert "needed: 1" in (reason(series("y", slices=1)) or "")
    assert fitting_series(study(one), manifest({"slices": [5, 9]})) == ([one], {})


def test_frames_count_as_images() -> None:
    image = enhanced(images_of(volume_in_plane("oblique")))
    assert reason(Series(header=image, size=1, load=lambda: [image]), slices=[6, 6]) is None


# Which of those that fit is the best


def test_the_best_is_told_by_each_rule_in_turn() -> None:
    derived = ["DERIVED", "PRIMARY"]
    best_first = [
        series("first preference", SeriesDescription="t1 post", ImageType=derived, slices=3),
        series("second preference", SeriesDescription="post", ImageType=derived, slices=3),
        series("original", slices=3, SliceThickness="9", SeriesNumber=9),
        series("derived, more slices", ImageType=derived, slices=5, SliceThickness="9", SeriesNumber=9),
        series("thinner", ImageType=derived, slices=4, SliceThickness="1", SeriesNumber=9),
        series("thicker", ImageType=derived, slices=4, SliceThickness="2", SeriesNumber=9),
        series("number 8", ImageType=derived, slices=4, SliceThickness=None, SeriesNumber=8),
        series("number 10", ImageType=derived, slices=4, SliceThickness=None, SeriesNumber=10),
        series("no number", ImageType=derived, slices=4, SliceThickness=None, SeriesNumber=None),
    ]
    prefer = [{"SeriesDescription": ["t1*"]}, {"SeriesDescription": ["*post"]}]
    for shift in range(len(best_first)):
        found, _ = candidates(
            study(*reversed(best_first[shift:]), *best_first[:shift]), manifest({"prefer": prefer}).series[0]
        )
        assert found == best_first


def test_the_uid_tells_where_nothing_else_does() -> None:
    found = [series(name) for name in "abcdef"]
    (chosen,) = choice(found).chosen
    assert chosen.series_instance_uid == min(one.series_instance_uid for one in found)


# Trying


def test_the_best_that_can_be_read_is_taken_and_worse_ones_are_not_loaded() -> None:
    loaded: list[str] = []
    broken = series("broken", slices=6, change=has_a_gap, loaded=loaded)
    good = series("good", slices=5, loaded=loaded)
    worse = series("worse", slices=4, loaded=loaded)
    other = series("other", Modality="PT", loaded=loaded)
    made = choice([worse, good, broken, other])
    assert made.chosen == (good,)
    assert made.sources[0].volume.spatial_shape == (5, 4, 3)
    assert loaded == ["broken", "good"]
    assert made.reasons[broken.series_instance_uid].startswith("expected slices 3.00 mm apart")
    assert made.reasons[good.series_instance_uid] == (
        "taken as an MR series: the first of 3 candidates that can be read"
    )
    assert made.reasons[worse.series_instance_uid] == "it fits, but less well"
    assert made.reasons[other.series_instance_uid] == "Modality is not MR, found PT"


def test_mixed_orientations_and_phases_are_left_with_the_volumes_reason() -> None:
    def turn(images: list[Dataset]) -> None:
        images[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]

    def repeat(images: list[Dataset]) -> None:
        images[1].ImagePositionPatient = images[0].ImagePositionPatient

    turned, repeated, good = series("a", slices=6, change=turn), series("b", slices=5, change=repeat), series("c")
    made = choice([turned, repeated, good])
    assert made.chosen == (good,)
    assert "expected slices of one orientation" in made.reasons[turned.series_instance_uid]
    assert "expected one image per position" in made.reasons[repeated.series_instance_uid]


@pytest.mark.parametrize(
    ("requirement", "says"),
    [
        ({"slices": [2, 3]}, "expected 2 to 3 slices for an MR series, found 4"),
        ({"slice_spacing_mm": [1, 2]}, "expected 1 to 2 mm between slices for an MR series, found 3"),
        ({"pixel_spacing_mm": [2, 3]}, "expected 2 to 3 mm between rows for an MR series, found 1.5"),
        ({"pixel_spacing_mm": [1, 2]}, "expected 1 to 2 mm between columns for an MR series, found 2.25"),
        ({"slice_thickness_mm": [4, 5]}, "expected 4 to 5 mm of SliceThickness for an MR series, found 3"),
    ],
)
def test_a_volume_outside_a_range_is_not_read(requirement: dict[str, Any], says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        choice([series("x")], **requirement)


@pytest.mark.parametrize(("thickness", "found"), [(None, "none"), ("7", "7")])
def test_every_slice_must_have_the_thickness(thickness: object, found: str) -> None:
    def change(images: list[Dataset]) -> None:
        images[2].SliceThickness = thickness

    with pytest.raises(GeometryError, match=f"expected 3 to 3 mm of SliceThickness .*, found {found}"):
        choice([series("x", change=change)], slice_thickness_mm=[3, 3])
    assert choice([series("x", change=change)]).chosen


def test_of_several_that_cannot_be_read_all_reasons_are_given() -> None:
    found = [series("a", change=has_a_gap), series("b", change=has_a_gap), series("c", Modality="CT")]
    with pytest.raises(NoSuitableSeries) as raised:
        choice(found)
    assert str(raised.value).startswith("expected an MR series, found none (")
    assert str(raised.value).count("a slice is missing") == 2
    assert "Modality is not MR" in str(raised.value)
    assert all(one.series_instance_uid in str(raised.value) for one in found)


def test_an_error_of_loading_counts_as_the_series_own_and_a_passing_one_does_not() -> None:
    def cut_short(_: object) -> None:
        raise NotDicom("cut short")

    def away(_: object) -> None:
        raise ArchiveUnavailable("no answer")

    broken, good = series("broken", slices=5, change=cut_short), series("good")
    made = choice([broken, good])
    assert made.chosen == (good,)
    assert made.reasons[broken.series_instance_uid] == "cut short"
    with pytest.raises(NotDicom, match="cut short"):
        choice([broken])
    with pytest.raises(ArchiveUnavailable):
        choice([series("away", slices=5, change=away), good])


def test_the_pixels_of_a_series_that_is_not_read_are_let_go_before_the_next_is_loaded() -> None:
    broken, good = series("broken", slices=5, change=has_a_gap), series("good")
    images: list[weakref.ref[Dataset]] = []

    def load_broken() -> list[Dataset]:
        loaded = broken.load()
        images.extend(weakref.ref(image) for image in loaded)
        return loaded

    def load_good() -> list[Dataset]:
        gc.collect()
        assert [image() for image in images] == [None] * 5
        return good.load()

    found = study(
        Series(header=broken.header, size=5, load=load_broken), Series(header=good.header, size=4, load=load_good)
    )
    assert choose(found, manifest({})).sources[0].volume.spatial_shape == (4, 4, 3)


# Several channels


def described(*descriptions: str) -> Manifest:
    return manifest(*({"must": {"Modality": ["MR"], "SeriesDescription": [each]}} for each in descriptions))


def test_each_channel_has_a_series_of_its_own_in_the_order_of_the_channels() -> None:
    t1, t2, other = (series(name, SeriesDescription=name) for name in ("t1", "t2", "other"))
    made = choose(study(other, t2, t1), described("t1", "t2"))
    assert made.chosen == (t1, t2)
    assert [source.images[0].SeriesDescription for source in made.sources] == ["t1", "t2"]
    assert made.reasons == {
        t1.series_instance_uid: "taken for channel 1 as an MR series: the only candidate",
        t2.series_instance_uid: "taken for channel 2 as an MR series: the only candidate",
        other.series_instance_uid: "channel 1: SeriesDescription is not t1; channel 2: SeriesDescription is not t2",
    }


def test_channels_are_called_by_their_key() -> None:
    keyed = manifest({"key": "t1"}, {"key": "t2", "must": {"Modality": ["MR"], "SeriesDescription": ["t2"]}})
    t1, t2 = series("t1", SeriesDescription="t1"), series("t2", SeriesDescription="t2")
    assert choose(study(t1, t2), keyed).reasons[t2.series_instance_uid].startswith("taken for t2 as")


def test_a_channel_leaves_its_best_to_one_that_has_no_other() -> None:
    only, second = series("only", SeriesDescription="t1 post", slices=6), series("second", SeriesDescription="t1")
    assert choose(study(only, second), described("t1*", "*post")).chosen == (second, only)
    assert choose(study(only, second), described("*post", "t1*")).chosen == (only, second)
    assert choose(study(only, second), described("t1*", "t1*")).chosen == (only, second)


def test_one_series_is_not_enough_for_two_channels() -> None:
    with pytest.raises(NoSuitableSeries, match="found no such series that differ and lie in one frame of reference"):
        choose(study(series("only")), described("*", "*"))


def test_a_missing_channel_is_named_and_nothing_is_loaded() -> None:
    loaded: list[str] = []
    t1 = series("t1", SeriesDescription="t1", loaded=loaded)
    flair = {"described_as": "a FLAIR series", "must": {"SeriesDescription": ["flair"]}}
    with pytest.raises(NoSuitableSeries, match="expected a FLAIR series, found none"):
        choose(study(t1), manifest({}, flair))
    assert loaded == []


def test_the_series_read_together_lie_in_one_frame_of_reference() -> None:
    elsewhere = series("best", SeriesDescription="t1", slices=6, FrameOfReferenceUID="1.2.9")
    t1, t2 = series("t1", SeriesDescription="t1"), series("t2", SeriesDescription="t2")
    made = choose(study(elsewhere, t1, t2), described("t1", "t2"))
    assert made.chosen == (t1, t2)
    assert made.reasons[elsewhere.series_instance_uid] == (
        "channel 1: its frame of reference is not that of the series taken; channel 2: SeriesDescription is not t2"
    )
    with pytest.raises(NoSuitableSeries, match="lie in one frame of reference"):
        choose(study(elsewhere, t2), described("t1", "t2"))
    alone = choose(study(elsewhere, t1), described("t1"))
    assert alone.chosen == (elsewhere,)
    assert alone.reasons[t1.series_instance_uid] == "it fits, but less well"


def test_a_series_refused_for_one_channel_may_be_read_for_another_and_is_loaded_once() -> None:
    loaded: list[str] = []
    thick = series("thick", slices=6, SliceThickness="9", loaded=loaded)
    thin, broken = series("thin", loaded=loaded), series("broken", slices=5, change=has_a_gap, loaded=loaded)
    made = choose(study(thick, thin, broken), manifest({"slice_thickness_mm": [1, 4]}, {}))
    assert made.chosen == (thin, thick)
    assert sorted(loaded) == ["broken", "thick", "thin"]


def test_each_channel_gets_the_values_that_it_asks_for() -> None:
    def white(images: list[Dataset]) -> None:
        for image in images:
            image.WindowCenter, image.WindowWidth = "1000", "10"
            image.PixelData = np.full((4, 3), 2000, np.int16).tobytes()

    thick = series("thick", slices=6, change=white, SliceThickness="9")
    thin = series("thin", slices=5, change=white)
    made = choose(study(thick, thin), manifest({"slice_thickness_mm": [1, 4]}, {"values": "display"}))
    assert made.chosen == (thin, thick)  # and each was tried for the first channel too
    assert [np.unique(source.volume.array).tolist() for source in made.sources] == [[2000], [255]]
    (radiographed,) = choice([radiograph("x", change=white)], **RADIOGRAPH, values="display").sources
    assert np.unique(radiographed.volume.array).tolist() == [255]


def test_the_only_candidates_mistake_is_the_reason_in_each_channel() -> None:
    t1, t2 = series("t1", SeriesDescription="t1"), series("t2", SeriesDescription="t2", change=has_a_gap)
    more = series("more", SeriesDescription="t1")
    with pytest.raises(GeometryError, match="a slice is missing"):
        choose(study(t1, t2, more), described("t1", "t2"))


def test_series_of_the_kind_are_found_for_any_channel() -> None:
    t1, t2, other = (series(name, SeriesDescription=name) for name in ("t1", "t2", "other"))
    assert fitting_series(study(other, t1, t2), described("t2", "t1")) == (
        [t2, t1],
        {other.series_instance_uid: "channel 1: SeriesDescription is not t2; channel 2: SeriesDescription is not t1"},
    )
    assert fitting_series(study(other), described("t1"))[0] == []


# A radiograph

NO_PLACE: Mapping[str, Any] = dict.fromkeys(
    ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "PixelSpacing", "SliceThickness")
)
RADIOGRAPH = {"must": {"Modality": ["DX"]}, "projection": True}


def radiograph(name: str, **header: Any) -> Series:
    return series(
        name, slices=1, SOPClassUID=DigitalXRayImageStorageForPresentation, Modality="DX", **NO_PLACE, **header
    )


def test_a_radiograph_is_read_as_one_image() -> None:
    frontal, lateral = radiograph("frontal", ViewPosition="PA"), radiograph("lateral", ViewPosition="LL")
    for found in itertools.permutations([frontal, lateral, series("mr")]):
        made = choice(found, **RADIOGRAPH, prefer=[{"ViewPosition": ["PA", "AP"]}])
        assert made.chosen == (frontal,)
        assert made.sources[0].volume.spatial_shape == (1, 4, 3)
    assert "needed: 1" in (reason(frontal, must={"Modality": ["DX"]}) or "")


# What holds of any choice


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A series to be made."""

    description: str
    frame: str
    slices: int
    is_whole: bool
    thickness: str
    number: int

    def make(self, index: int, loaded: list[str] | None = None) -> Series:
        return series(
            f"{index}",
            slices=self.slices,
            change=(lambda _: None) if self.is_whole else has_a_gap,
            loaded=loaded,
            SeriesDescription=self.description,
            FrameOfReferenceUID=self.frame,
            SliceThickness=self.thickness,
            SeriesNumber=self.number,
        )


specs = st.lists(
    st.builds(
        Spec,
        description=st.sampled_from(["t1", "t1 post", "t2", "other"]),
        frame=st.sampled_from([FRAME, "1.2.9"]),
        slices=st.integers(3, 5),
        is_whole=st.sampled_from([True, True, False]),
        thickness=st.sampled_from(["1", "2"]),
        number=st.integers(1, 2),
    ),
    max_size=5,
)
models = st.lists(st.sampled_from(["t1*", "*post", "t2", "*", "t?"]), min_size=1, max_size=3).map(
    lambda descriptions: described(*descriptions)
)
few = settings(max_examples=60, deadline=None)


def outcome(found: Sequence[Series], model: Manifest) -> tuple[Any, ...]:
    """What can be told of a choice: the series and the reasons, or the error."""
    try:
        made = choose(study(*found), model)
    except InputError as error:
        return type(error), str(error)
    return [one.series_instance_uid for one in made.chosen], dict(made.reasons)


@few
@given(specs=specs, model=models, data=st.data())
def test_the_order_of_the_series_does_not_matter(specs: list[Spec], model: Manifest, data: st.DataObject) -> None:
    found = [spec.make(index) for index, spec in enumerate(specs)]
    shuffled = data.draw(st.permutations(found))
    assert outcome(shuffled, model) == outcome(found, model)


def best_first(spec: Spec, uid: str) -> tuple[Any, ...]:
    return -spec.slices, float(spec.thickness), spec.number, uid


def fits_together(combination: Sequence[Spec], patterns: Sequence[str]) -> bool:
    """Whether series could be read together, told from what they were made of."""
    words = {
        "t1*": ("t1", "t1 post"),
        "*post": ("t1 post",),
        "t2": ("t2",),
        "t?": ("t1", "t2"),
        "*": ("t1", "t1 post", "t2", "other"),
    }
    return (
        len({spec.frame for spec in combination}) == 1
        and all(spec.is_whole for spec in combination)
        and all(spec.description in words[pattern] for spec, pattern in zip(combination, patterns, strict=True))
    )


@few
@given(specs=specs, model=models)
def test_the_best_series_that_can_be_read_together_are_chosen_whenever_there_are_any(
    specs: list[Spec], model: Manifest
) -> None:
    found = [spec.make(index) for index, spec in enumerate(specs)]
    patterns = [channel.must["SeriesDescription"][0] for channel in model.series]
    possible = [
        [best_first(specs[index], found[index].series_instance_uid) for index in indices]
        for indices in itertools.permutations(range(len(specs)), len(patterns))
        if fits_together([specs[index] for index in indices], patterns)
    ]
    if not possible:
        with pytest.raises(InputError):
            choose(study(*found), model)
    else:
        made = choose(study(*found), model)
        assert [one.series_instance_uid for one in made.chosen] == [key[-1] for key in min(possible)]


@few
@given(specs=specs, model=models)
def test_every_series_has_one_reason_and_none_is_chosen_twice(specs: list[Spec], model: Manifest) -> None:
    loaded: list[str] = []
    found = [spec.make(index, loaded) for index, spec in enumerate(specs)]
    result = outcome(found, model)
    assert len(loaded) == len(set(loaded))
    if isinstance(result[0], list):
        chosen, reasons = result
        assert len(chosen) == len(set(chosen)) == len(model.series)
        assert set(reasons) == {one.series_instance_uid for one in found}
        assert {uid for uid, reason in reasons.items() if reason.startswith("taken")} == set(chosen)
        assert all(reasons.values())


NOISE: Mapping[str, Mapping[str, Any]] = {
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "scout": {"ProtocolName": "Scout"},
    "secondary capture": {"SOPClassUID": SecondaryCaptureImageStorage},
    "report": {"SOPClassUID": BasicTextSRStorage, "Modality": "SR", "Rows": None, "Columns": None},
    "result of ours": {"Manufacturer": "Coread"},
}


@few
@given(specs=specs, model=models, noise=st.lists(st.sampled_from(sorted(NOISE)), min_size=1, max_size=3), at=st.data())
def test_what_is_no_scan_never_changes_the_choice(
    specs: list[Spec], model: Manifest, noise: list[str], at: st.DataObject
) -> None:
    found = [spec.make(index) for index, spec in enumerate(specs)]
    more = list(found)
    for index, kind in enumerate(noise):
        header = {"SeriesDescription": at.draw(st.sampled_from(["t1", "t2", "t1 post"])), "SliceThickness": "0.5"}
        other = series(f"{kind} {index}", slices=9, SeriesNumber=0, **{**header, **NOISE[kind]})
        more.insert(at.draw(st.integers(0, len(more))), other)
    before, after = outcome(found, model), outcome(more, model)
    if isinstance(before[0], list):
        assert after[0] == before[0]
        assert before[1].items() <= after[1].items()
    else:
        assert after[0] is before[0]


# Whom the model was made for


def patient(**header: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in header.items():
        dataset.add_new(keyword, {"PatientAge": "AS", "PatientSex": "CS"}.get(keyword, "DA"), value)
    return dataset


def is_read(header: Dataset, *, at: date | None = None, **population: Any) -> bool:
    try:
        check_population(header, Population.model_validate(population), at=at)
    except NoSuitableSeries:
        return False
    return True


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ({"PatientAge": "045Y"}, 45, 45),
        ({"PatientAge": "045y"}, 45, 45),
        ({"PatientAge": "018M"}, 1.5, 1.5),
        ({"PatientAge": "030M"}, 2, 2),
        ({"PatientAge": "003W"}, 0.057, 0.058),
        ({"PatientAge": "010D"}, 0.027, 0.028),
        ({"PatientBirthDate": "19600102", "StudyDate": "20200101"}, 59, 59),
        ({"PatientBirthDate": "19600102", "StudyDate": "20200102"}, 60, 60),
        ({"PatientBirthDate": "20000229", "StudyDate": "20180228"}, 17, 17),
        ({"PatientBirthDate": "20190401", "StudyDate": "20200102"}, 0.75, 0.75),
        ({"PatientBirthDate": "1960.01.02", "StudyDate": "2020.01.02"}, 60, 60),
        ({"PatientAge": "070Y", "PatientBirthDate": "19600102", "StudyDate": "20200102"}, 70, 70),
        ({"PatientAge": "45", "PatientBirthDate": "19600102", "StudyDate": "20200102"}, 60, 60),
        ({"PatientBirthDate": "19600102"}, 65, 65),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_the_age_is_found(header: dict[str, str], low: float, high: float) -> None:
    unknown_is_read: dict[str, Any] = {"if_unknown": "read", "at": date(2026, 1, 1)}
    assert is_read(patient(**header), age_years=[low, high], at=date(2026, 1, 1))
    assert not is_read(patient(**header), age_years=[0, math.nextafter(low, 0)], **unknown_is_read)
    assert not is_read(patient(**header), age_years=[math.nextafter(high, 200), 200], **unknown_is_read)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"PatientAge": ""},
        {"PatientAge": "old"},
        {"PatientBirthDate": "19600102"},
        {"StudyDate": "20200101"},
        {"PatientBirthDate": "unknown", "StudyDate": "20200101"},
        {"PatientBirthDate": "20210101", "StudyDate": "20200101"},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_an_unknown_age_is_settled_by_the_manifest(header: dict[str, str]) -> None:
    assert not is_read(patient(**header), age_years=[0, 200])
    assert is_read(patient(**header), age_years=[0, 200], if_unknown="read")
    assert is_read(patient(**header))


@pytest.mark.parametrize(
    ("sex", "asked", "refuse", "read"),
    [
        ("F", ["F"], True, True),
        ("f ", ["F"], True, True),
        ("M", ["F"], False, False),
        ("O", ["F", "M"], False, False),
        ("", ["F"], False, True),
        ("U", ["F", "M", "O"], False, True),
        ("M", [], True, True),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_the_sex_must_be_one_of_those_named(sex: str, asked: list[str], refuse: bool, read: bool) -> None:
    assert is_read(patient(PatientSex=sex), sex=asked) == refuse
    assert is_read(patient(PatientSex=sex), sex=asked, if_unknown="read") == read


def test_a_refusal_says_what_was_expected_and_nothing_of_the_patient() -> None:
    header = patient(PatientBirthDate="19660102", StudyDate="20200102", PatientSex="M")
    adult = Population.model_validate({"age_years": [0, 17]})
    with pytest.raises(NoSuitableSeries) as raised:
        check_population(header, adult, at=None)
    assert str(raised.value) == (
        "expected a patient aged 0 to 17 years, found one outside of that; route such studies elsewhere"
    )
    with pytest.raises(NoSuitableSeries, match="have the sender fill in PatientAge, or PatientBirthDate and StudyDate"):
        check_population(patient(), adult, at=None)
    with pytest.raises(NoSuitableSeries, match="expected a patient of PatientSex F or O, found one outside of that"):
        check_population(header, Population(sex=("F", "O")), at=None)
