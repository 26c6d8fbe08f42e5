import pytest

from coread.objects import ALWAYS, DEFAULT_OBJECTS, ObjectKind, Profile, wanted_objects


@pytest.mark.parametrize("profile", Profile)
def test_each_profile_has_its_objects_and_what_must_be_said(profile: Profile) -> None:
    assert wanted_objects([profile], {}) == {*DEFAULT_OBJECTS[profile], *ALWAYS}


def test_the_package_goes_before_the_default_and_profiles_add_up() -> None:
    chosen = {Profile.SLICER: (ObjectKind.MAP,)}
    wanted = wanted_objects([Profile.SLICER, Profile.LEGACY], chosen)
    assert wanted == {ObjectKind.MAP, *DEFAULT_OBJECTS[Profile.LEGACY], *ALWAYS}


def test_a_viewer_that_stumbles_over_outlines_gets_none() -> None:
    assert ObjectKind.SR_KEY_FINDINGS not in wanted_objects([Profile.SLICER], {})
    assert ObjectKind.SEG_FRACTIONAL not in wanted_objects([Profile.OHIF], {})
