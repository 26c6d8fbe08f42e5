from collections.abc import Mapping
from datetime import timedelta

import pytest

from coread.archive import ArchivedSeries, ArchivedStudy
from coread.job import Priority
from coread.plugin.completeness import is_complete
from coread.plugin.routing import models_for
from coread.settings import Route
from tests.support import NOW


def study(*series: Mapping[str, str]) -> ArchivedStudy:
    return ArchivedStudy(
        orthanc_id="s",
        study_instance_uid="1.2",
        tags={"StudyDescription": "Heart"},
        series=[ArchivedSeries(orthanc_id=str(n), tags=tags, instances={"i": "1"}) for n, tags in enumerate(series)],
    )


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
    ],
)
def test_a_route_matches_if_one_series_matches_every_keyword(match: dict[str, str | list[str]], matches: bool) -> None:
    route = Route(name="r", match=match, models=("m",))
    assert bool(models_for(study(MR), [route])) is matches


def test_keywords_are_not_gathered_from_different_series() -> None:
    route = Route(name="r", match={"Modality": "MR", "SeriesDescription": "thorax"}, models=("m",))
    assert models_for(study(MR, CT), [route]) == {}


def test_a_model_named_by_two_routes_runs_once_at_the_more_urgent_priority() -> None:
    routes = [
        Route(name="slow", models=("m", "n"), priority=Priority.BATCH),
        Route(name="fast", models=("m",), priority=Priority.STAT),
    ]
    assert models_for(study(MR), routes) == {"m": Priority.STAT, "n": Priority.BATCH}


@pytest.mark.parametrize(
    "tags",
    [{"Modality": "MR", "Manufacturer": "Coread"}, {"Modality": "SR"}, {"Modality": "SEG", "Manufacturer": "Other"}],
)
def test_results_are_no_sources_and_start_nothing(tags: Mapping[str, str]) -> None:
    assert models_for(study(tags), [Route(name="all", models=("m",))]) == {}


def test_a_study_is_complete_after_the_quiet_time_and_not_before() -> None:
    quiet = timedelta(seconds=10)
    assert not is_complete(last_arrival_at=NOW, now=NOW + timedelta(seconds=9.9), quiet=quiet)
    assert is_complete(last_arrival_at=NOW, now=NOW + quiet, quiet=quiet)
