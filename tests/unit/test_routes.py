from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from coread.errors import ConfigurationError
from coread.patient_age import age_years
from coread.routes import IDENTIFYING, Not, Route, check_destinations, check_keywords, condition_of
from coread.settings import load_settings
from coread.workers.route_facts import pydicom_dictionary


def route(match: dict[str, Any], **more: Any) -> Route:
    return Route.model_validate({"name": "r", "models": ["m"], "match": match, **more})


@pytest.mark.parametrize(
    ("asked", "values", "answer"),
    [
        ("mr", ("MR",), True),
        ("MR", ("MRA",), False),
        ("*sax*", ("cine SAX 2",), True),
        ("t?", ("T1",), True),
        ("t?", ("T10",), False),
        ("T1 [post]", ("t1 [POST]",), True),
        ("T1 [post]", ("t1 p",), False),
        ("a.c", ("abc",), False),
        ("*", ("two\nlines",), True),
        ("größe*", ("GRÖSSE 2",), True),
        ("*", (), True),
        ("", (), True),
        ("?*", (), False),
        ("MR", (), False),
        ("PRIMARY", ("ORIGINAL", "PRIMARY"), True),
        ("ORIGINAL\\PRIMARY", ("ORIGINAL", "PRIMARY"), True),
        ("ORIG*PRIM*", ("ORIGINAL", "PRIMARY"), True),
        ("SECONDARY", ("ORIGINAL", "PRIMARY"), False),
        (["CT", "M*"], ("MR",), True),
        (["CT", "PT"], ("MR",), False),
        ({"regex": "T[12]( post)?"}, ("T2 post",), True),
        ({"regex": "T[12]"}, ("T2 post",), False),
        ({"regex": "t2"}, ("T2",), False),
        ({"regex": "(?i)t2"}, ("T2",), True),
        ({"regex": ""}, (), True),
        ({"min": 2, "max": 3}, ("2.0",), True),
        ({"min": 2, "max": 3}, ("3.0E0",), True),
        ({"min": 2, "max": 3}, ("3.01",), False),
        ({"min": 2}, ("+ 2",), None),
        ({"max": 0}, ("-.5",), True),
        ({"min": 2}, (" 2 ",), True),
        ({"min": 2}, (), None),
        ({"min": 2}, ("two",), None),
        ({"min": 2}, ("nan",), None),
        ({"min": 2}, ("1_0",), None),
        ({"min": 2}, ("1", "5"), True),
        ({"min": 2}, ("x", "1"), False),
        ({"not": "MR"}, ("CT",), True),
        ({"not": "MR"}, ("MR",), False),
        ({"not": "MR"}, (), True),
        ({"not": ["DERIVED", "SECONDARY"]}, ("ORIGINAL", "SECONDARY"), False),
        ({"not": {"min": 2}}, (), None),
        ({"not": {"not": "MR"}}, ("MR",), True),
        ([{"min": 2}, ""], (), True),
        ([{"min": 2}, "x"], (), None),
        ({"not": [{"min": 2}, "x"]}, (), None),
    ],
)
def test_a_condition_holds_or_does_not_or_cannot_be_said(
    asked: object, values: tuple[str, ...], answer: bool | None
) -> None:
    assert condition_of(asked).holds(values) is answer


ASKED = st.recursive(
    st.one_of(
        st.text(alphabet="AB*?[]^$.", max_size=5),
        st.sampled_from([{"regex": "A+"}, {"regex": "[AB]?"}, {"min": 1}, {"max": 5.5}]),
    ),
    lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=3), inner.map(lambda each: {"not": each})),
    max_leaves=4,
)
VALUES = st.lists(st.one_of(st.text(alphabet="AB[]\n", max_size=4), st.integers(-3, 9).map(str)), max_size=3)


@given(ASKED, VALUES)
def test_not_is_the_complement_wherever_something_can_be_said(asked: Any, values: list[str]) -> None:
    condition = condition_of(asked)
    answer, contrary = condition.holds(tuple(values)), Not(condition).holds(tuple(values))
    assert contrary is (None if answer is None else not answer)


@given(st.text(max_size=8))
def test_a_text_without_wildcards_matches_itself_and_nothing_longer(text: str) -> None:
    asked = condition_of(text.replace("*", "").replace("?", ""))
    value = text.replace("*", "").replace("?", "")
    assert asked.holds((value,)) is True
    assert asked.holds((value + "x",)) is False


@pytest.mark.parametrize("pattern", ["*" * 60 + "b", "*a" * 60 + "b"])
def test_no_pattern_with_wildcards_takes_long(pattern: str) -> None:
    assert condition_of(pattern).holds(("a" * 5000,)) is False


@pytest.mark.parametrize(
    ("stated", "born", "seen", "age"),
    [
        ("045Y", "", "", 45),
        ("45Y", "", "", 45),
        ("018M", "", "", 1.5),
        ("030M", "", "", 2),
        ("026W", "", "", pytest.approx(0.498, abs=1e-3)),
        ("010D", "", "", pytest.approx(0.0274, abs=1e-3)),
        ("", "20000229", "20180228", 17),
        ("", "20000229", "20180301", 18),
        ("", "20000131", "20180130", 17),
        ("", "20000131", "20180131", 18),
        ("", "20200131", "20200229", 0),
        ("", "20200131", "20200331", pytest.approx(2 / 12)),
        ("", "2000.01.31", "20180131", 18),
        ("", "20200101", "20190101", None),
        ("", "20000230", "20180131", None),
        ("", "20000131", "", None),
        ("", "", "20180131", None),
        ("45", "", "", None),
        ("forty", "20000131", "20180131", 18),
        ("²45Y", "", "", None),
        ("", "", "", None),
    ],
)
def test_an_age_is_counted_as_on_birthdays_and_never_guessed(
    stated: str, born: str, seen: str, age: float | None
) -> None:
    assert age_years(stated=stated, born=born, seen=seen) == age


def test_an_age_where_the_study_has_no_date_may_be_counted_at_another() -> None:
    assert age_years(stated="", born="20000101", seen="", at=date(2010, 1, 1)) == 10


def test_years_limit_an_age_and_texts_its_element() -> None:
    assert condition_of({"min": 40}).holds(("545D",), numbers=(1.49,)) is False
    assert condition_of("545d").holds(("545D",), numbers=(1.49,)) is True
    assert condition_of({"min": 18}).holds((), numbers=(18.0,)) is True


@pytest.mark.parametrize("asked", [{"min": 18}, {"not": {"min": 18}}, {"not": [{"max": 17}, {"min": 18}]}])
def test_an_age_that_is_not_known_meets_nothing_even_if_a_number_stands_there(asked: object) -> None:
    assert condition_of(asked).holds(("45",), numbers=()) is None
    assert condition_of(asked).holds((), numbers=()) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing in it"),
        ([], "the list is empty"),
        ([[]], "the list is empty"),
        (3, "found int"),
        (True, "found bool"),
        ({"regex": "("}, "is not a regular expression"),
        ({"regex": 3}, "regex: expected a text"),
        ({"min": "3"}, "expected numbers, found str"),
        ({"min": True}, "expected numbers, found bool"),
        ({"min": float("nan")}, "finite"),
        ({"max": float("inf")}, "finite"),
        ({"max": 10**400}, "finite"),
        ({"regex": "(" * 9000 + ")" * 9000}, "is not a regular expression"),
        ({"min": 3, "max": 2}, "nothing would match"),
        ({"min": 3, "regex": "x"}, "found a table with min, regex"),
        ({"like": "x"}, "found a table with like"),
        ({"not": {"like": "x"}}, "found a table with like"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_condition_that_is_none_is_refused_with_what_was_expected(asked: object, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        route({"Modality": asked})
    assert said in str(raised.value)


@pytest.mark.parametrize("keyword", ["modality", "0008,0060", "", "Modality ", "Größe"])
def test_what_cannot_be_a_keyword_is_refused(keyword: str) -> None:
    with pytest.raises(ValidationError):
        route({keyword: "x"})


@pytest.mark.parametrize("keyword", sorted(IDENTIFYING))
def test_what_says_who_somebody_is_cannot_be_matched(keyword: str) -> None:
    assert pydicom_dictionary(keyword), "a word that is no keyword protects nobody"
    with pytest.raises(ValidationError, match="it says who somebody is"):
        route({keyword: "x"})


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("ReferringPhysicianName", "it says who somebody is"),
        ("OperatorsName", "it says who somebody is"),
        ("SeriesDescripton", "expected a DICOM keyword"),
        ("RequestAttributesSequence", "holds no text and no number"),
        ("PixelData", "holds no text and no number"),
        ("MediaStorageSOPClassUID", "stands in no image's header"),
        ("MessageID", "stands in no image's header"),
        ("FileSetID", "stands in no image's header"),
    ],
)
def test_a_keyword_that_could_never_match_is_refused(keyword: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_keywords([route({keyword: "x"})], pydicom_dictionary)


@pytest.mark.parametrize(
    "keyword",
    [
        "ImageType",
        "MagneticFieldStrength",
        "ModalitiesInStudy",
        "NumberOfSeriesRelatedInstances",
        "PatientAge",
        "PatientSex",
        "SmallestImagePixelValue",
        "SOPClassUID",
        "SourceApplicationEntityTitle",
        "StudyComments",
        "TransferSyntaxUID",
    ],
)
def test_other_keywords_can_be_matched(keyword: str) -> None:
    check_keywords([route({keyword: "x"})], pydicom_dictionary)


def test_a_destination_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="there is no destination pax; there are: archive, pacs"):
        check_destinations([route({}, destinations=["pacs", "pax"])], {"pacs", "archive"})


def test_the_documented_route_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")
    (tmp_path / "coread.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    (found,) = load_settings(tmp_path / "coread.toml").route
    check_keywords([found], pydicom_dictionary)
    assert found.match["PatientAge"].describe() == "at least 18"
    assert found.match["ImageType"].describe() == "not (`*DERIVED*` or `*SECONDARY*`)"
