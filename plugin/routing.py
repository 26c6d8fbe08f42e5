"""Which models read a study: a pure function of the study's headers and the route table."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from coread.archive import ArchivedStudy
from coread.job import Priority
from coread.settings import Route

_URGENCY = (Priority.STAT, Priority.ROUTINE, Priority.BATCH)


def models_for(study: ArchivedStudy, routes: Sequence[Route]) -> dict[str, Priority]:
    """The models that the matching routes name, each with the most urgent priority that a route gives it."""
    chosen: dict[str, Priority] = {}
    for route in routes:
        if any(_matches({**study.tags, **series.tags}, route) for series in study.sources):
            for model in route.models:
                chosen[model] = min(route.priority, chosen.get(model, route.priority), key=_URGENCY.index)
    return chosen


def _matches(tags: Mapping[str, str], route: Route) -> bool:
    return all(
        any(
            fnmatchcase(tags.get(keyword, "").casefold(), pattern.casefold())
            for pattern in ([patterns] if isinstance(patterns, str) else patterns)
        )
        for keyword, patterns in route.match.items()
    )
