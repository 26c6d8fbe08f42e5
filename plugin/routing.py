"""Which models read a study, and why: pure functions of the study's facts and the route table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coread.errors import ConfigurationError
from coread.job import Priority
from coread.objects import Profile
from coread.routes import AGE, REGEX_TIMEOUT_S, Route
from coread.study_facts import SeriesFacts, StudyFacts

URGENCY = tuple(Priority)
"""The most urgent first."""

LONGEST_SHOWN = 64
"""Characters of a value that an explanation quotes: as many as a long string (VR LO) may have."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A condition that a series does not meet."""

    keyword: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of a route. ``matched_by``: UIDs of the series that meet every condition. If there are none,
    ``nearest`` is the series that fails the fewest, and ``failures`` are those; it is None if no series is a source.
    """

    route: Route
    matched_by: tuple[str, ...]
    nearest: str | None = None
    failures: tuple[Failure, ...] = ()

    @property
    def matched(self) -> bool:
        return bool(self.matched_by)


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A model that reads a study. ``profiles`` and ``destinations`` have an order that is not the routes'."""

    model: str
    priority: Priority
    profiles: tuple[Profile, ...]
    destinations: tuple[str, ...]


def explain(study: StudyFacts, routes: Iterable[Route]) -> list[Decision]:
    """For each route whether it matched, by which series, or what of the nearest series kept it from it.

    Raises ConfigurationError if a regular expression does not come to an end.
    """
    return [_decision(study, route) for route in routes]


def assignments(
    study: StudyFacts, routes: Sequence[Route], *, default_profiles: Sequence[Profile]
) -> dict[str, Assignment]:
    """Model → how it reads the study, of all matching routes together: at the most urgent priority that one of them
    gives it, for all their profiles and all their destinations.

    Raises ConfigurationError if a regular expression does not come to an end: nobody knows who reads the study.
    """
    matching = [route for route in routes if any(_meets_all(series, route) for series in study.series)]
    by_model: dict[str, list[Route]] = {}
    for route in matching:
        for model in route.models:
            by_model.setdefault(model, []).append(route)
    return {
        model: Assignment(
            model=model,
            priority=min((route.priority for route in named_by), key=URGENCY.index),
            profiles=_profiles(named_by, default_profiles),
            destinations=tuple(sorted({name for route in named_by for name in route.destinations})),
        )
        for model, named_by in by_model.items()
    }


def _profiles(routes: Sequence[Route], default: Sequence[Profile]) -> tuple[Profile, ...]:
    wanted = {profile for route in routes for profile in (route.profiles or default)}
    return tuple(profile for profile in Profile if profile in wanted)


def _meets_all(series: SeriesFacts, route: Route) -> bool:
    return all(_meets(series, route, keyword) for keyword in route.match)


def _meets(series: SeriesFacts, route: Route, keyword: str) -> bool:
    years = () if series.age_years is None else (series.age_years,)
    condition = route.match[keyword]
    try:
        return condition.holds(series.values[keyword], numbers=years if keyword == AGE else None) is True
    except TimeoutError as error:
        raise ConfigurationError(
            f"route {route.name}: {keyword}: expected an answer within {1000 * REGEX_TIMEOUT_S:g} ms of "
            f"{condition.describe()}, found none for series {series.series_instance_uid}; write it simpler"
        ) from error


def _decision(study: StudyFacts, route: Route) -> Decision:
    failed = {
        series.series_instance_uid: tuple(
            _failure(series, route, keyword) for keyword in route.match if not _meets(series, route, keyword)
        )
        for series in study.series
    }
    matched_by = tuple(sorted(uid for uid, failures in failed.items() if not failures))
    if matched_by or not failed:
        return Decision(route=route, matched_by=matched_by)
    nearest = min(failed, key=lambda uid: (len(failed[uid]), uid))
    return Decision(route=route, matched_by=(), nearest=nearest, failures=failed[nearest])


def _failure(series: SeriesFacts, route: Route, keyword: str) -> Failure:
    said = "\\".join(series.values[keyword])
    if len(said) > LONGEST_SHOWN:
        said = f"{said[:LONGEST_SHOWN]}…"
    if keyword == AGE:
        age = "an unknown age" if series.age_years is None else f"{series.age_years:.3g} years"
        said = f"{said} ({age})" if said else age
    found = said or "nothing: it is absent or empty"
    return Failure(keyword=keyword, expected=route.match[keyword].describe(), found=found)
