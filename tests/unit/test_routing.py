from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.errors import ConfigurationError
from coread.job import Priority
from coread.objects import Profile
from coread.plugin.routing import Assignment, assignments, explain
from coread.routes import Route
from coread.study_facts import Header, StudyFacts, facts_of, keywords_of

DEFAULT = (Profile.OHIF,)


def route(name: str, match: Mapping[str, Any] | None = None, **more: Any) -> Route:
    return Route.model_validate({"name": name, "match": match or {}, "models": ("m",), **more})


def study(*series: Mapping[str, str], routes: Sequence[Route]) -> StudyFacts:
    headers = [
        Header(
            series_instance_uid=f"1.{number}",
            texts={"StudyDescription": "Heart", **texts},
            modality=texts.get("Modality", ""),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
            instances=10 * (number + 1),
        )
        for number, texts in enumerate(series)
    ]
    return facts_of("1", headers, keywords_of(routes))


def assigned(series: Sequence[Mapping[str, str]], *routes: Route) -> dict[str, Assignment]:
    return assignments(study(*series, routes=routes), routes, default_profiles=DEFAULT)


MR = {"Modality": "MR", "SeriesDescription": "cine SAX"}
CT = {"Modality": "CT", "SeriesDescription": "thorax"}


@pytest.mark.parametrize(
    ("match", "matches"),
    [
        ({}, True),
        ({"Modality": "mr"}, True),
        ({"Modality": ["CT", "PT"]}, False),
        ({"SeriesDescription": "*sax*"}, True),
        ({"Modality": "MR", "SeriesDescription": "*thorax*"}, False),
        ({"StudyDescription": "heart", "Modality": "MR"}, True),
        ({"BodyPartExamined": "*"}, True),
        ({"BodyPartExamined": "?*"}, False),
        ({"NumberOfSeriesRelatedInstances": {"min": 10, "max": 10}}, True),
        ({"NumberOfSeriesRelatedInstances": {"min": 11}}, False),
        ({"ModalitiesInStudy": "MR"}, True),
        ({"SOPClassesInStudy": "1.2.840.10008.5.1.4.1.1.4"}, True),
        ({"NumberOfStudyRelatedSeries": "1"}, True),
    ],
)
def test_a_route_matches_if_one_series_meets_every_condition(match: dict[str, Any], matches: bool) -> None:
    assert bool(assigned([MR], route("r", match))) is matches


def test_conditions_are_not_gathered_from_different_series() -> None:
    assert assigned([MR, CT], route("r", {"Modality": "MR", "SeriesDescription": "thorax"})) == {}


def test_what_is_counted_over_the_study_holds_for_each_series() -> None:
    match = {
        "Modality": "MR",
        "ModalitiesInStudy": "CT",
        "NumberOfStudyRelatedInstances": "30",
        "NumberOfSeriesRelatedInstances": "10",
    }
    assert "m" in assigned([MR, CT], route("r", match))


def test_a_model_named_by_two_routes_runs_once_at_the_more_urgent_priority_for_all_that_they_want() -> None:
    slow = route("slow", models=("m", "n"), priority="batch", profiles=["slicer"], destinations=["b", "c"])
    fast = route("fast", models=("m",), priority="stat", destinations=["c", "a"])
    assert assigned([MR], slow, fast) == {
        "m": Assignment(
            model="m",
            priority=Priority.STAT,
            profiles=(Profile.OHIF, Profile.SLICER),
            destinations=("a", "b", "c"),
        ),
        "n": Assignment(model="n", priority=Priority.BATCH, profiles=(Profile.SLICER,), destinations=("b", "c")),
    }


def test_a_study_without_source_series_is_read_by_nobody() -> None:
    everything = route("all")
    assert assigned([], everything) == {}
    (decision,) = explain(study(routes=[everything]), [everything])
    assert (decision.matched, decision.nearest) == (False, None)


def test_an_explanation_names_the_series_that_match() -> None:
    one = route("r", {"Modality": "MR"})
    (decision,) = explain(study(MR, CT, MR, routes=[one]), [one])
    assert decision.matched_by == ("1.0", "1.2")
    assert decision.failures == ()


def test_an_explanation_names_what_the_nearest_series_lacks() -> None:
    one = route("r", {"Modality": "CT", "SeriesDescription": ["*lung*", "*abdomen*"], "StudyDescription": "heart"})
    (decision,) = explain(study(MR, CT, routes=[one]), [one])
    assert not decision.matched
    assert decision.nearest == "1.1"
    (failure,) = decision.failures
    assert (failure.keyword, failure.expected, failure.found) == (
        "SeriesDescription",
        "`*lung*` or `*abdomen*`",
        "thorax",
    )


def test_an_explanation_tells_an_age_and_no_date_of_birth() -> None:
    one = route("r", {"PatientAge": {"min": 18}})
    facts = study({**MR, "PatientBirthDate": "20100203", "StudyDate": "20200101"}, routes=[one])
    (decision,) = explain(facts, [one])
    assert decision.failures[0].found == "9 years"
    assert "2010" not in repr(decision) + repr(facts)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({"PatientAge": "009Y"}, "009Y (9 years)"),
        ({"PatientAge": "45"}, "45 (an unknown age)"),
        ({}, "an unknown age"),
    ],
)
def test_an_age_that_is_not_stated_as_one_is_unknown(header: dict[str, str], found: str) -> None:
    one = route("r", {"PatientAge": {"min": 18}})
    (decision,) = explain(study(header, routes=[one]), [one])
    assert [failure.found for failure in decision.failures] == [found]


def test_a_long_value_is_cut_in_an_explanation() -> None:
    one = route("r", {"SeriesDescription": "x"})
    (decision,) = explain(study({"SeriesDescription": "y" * 10_000}, routes=[one]), [one])
    assert len(decision.failures[0].found) < 100


def test_a_regular_expression_that_never_ends_is_a_mistake_of_the_route_and_holds_nobody_up() -> None:
    one = route("slow", {"SeriesDescription": {"not": {"regex": "(a|b|ab)*(a|b|ab)*(a|b|ab)*[cd]"}}})
    with pytest.raises(ConfigurationError, match=r"route slow: SeriesDescription: expected an answer within 50 ms"):
        assigned([{"SeriesDescription": "ab" * 400}], one)
    assert "m" in assigned([{"SeriesDescription": "x"}], one)


VALUES = st.sampled_from(["MR", "CT", "", "thorax", "12", "1\\2", "ORIGINAL\\PRIMARY"])
SERIES = st.dictionaries(st.sampled_from(["Modality", "SeriesDescription", "SliceThickness"]), VALUES)
CONDITIONS = st.recursive(
    st.sampled_from(["MR", "*", "", "t*", {"min": 2}, {"max": 12}, {"regex": "[A-Z]+"}]),
    lambda inner: st.one_of(st.lists(inner, min_size=1, max_size=3), inner.map(lambda condition: {"not": condition})),
    max_leaves=4,
)
ROUTES = st.lists(
    st.fixed_dictionaries(
        {
            "match": st.dictionaries(st.sampled_from(["Modality", "SeriesDescription", "SliceThickness"]), CONDITIONS),
            "models": st.lists(st.sampled_from(["m", "n", "o"]), min_size=1, unique=True),
            "priority": st.sampled_from(["stat", "routine", "batch"]),
            "profiles": st.one_of(st.none(), st.lists(st.sampled_from(["ohif", "slicer", "legacy"]), min_size=1)),
            "destinations": st.lists(st.sampled_from(["a", "b", "c"])),
        }
    ),
    max_size=4,
).map(lambda found: [Route.model_validate({"name": str(number), **one}) for number, one in enumerate(found)])


@settings(deadline=None)
@given(st.lists(SERIES, max_size=4), ROUTES, st.randoms())
def test_the_order_of_routes_and_series_does_not_matter(
    series: list[dict[str, str]], routes: list[Route], random: Any
) -> None:
    facts = study(*series, routes=routes)
    once = assignments(facts, routes, default_profiles=DEFAULT)
    others, turned = list(facts.series), list(routes)
    random.shuffle(others)
    random.shuffle(turned)
    again = StudyFacts(study_instance_uid="1", series=tuple(others))
    assert assignments(again, turned, default_profiles=DEFAULT) == once


@settings(deadline=None)
@given(st.lists(SERIES, max_size=4), ROUTES)
def test_an_explanation_and_the_assignment_agree(series: list[dict[str, str]], routes: list[Route]) -> None:
    facts = study(*series, routes=routes)
    decisions = explain(facts, routes)
    matched = {model for decision in decisions if decision.matched for model in decision.route.models}
    assert set(assignments(facts, routes, default_profiles=DEFAULT)) == matched
    for decision in decisions:
        assert decision.matched or decision.failures or not facts.series
