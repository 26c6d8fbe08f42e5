"""How often persons agree with a model, over time: a report of the reviews in the ledger.

Of each job, the review that counts (`coread.review.counting`) counts once, in the period in which it was said. Only
what was reviewed is known: whoever reviews doubtful results alone will find less agreement than there is.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from scipy.stats import binomtest

from coread import __version__
from coread.review import Basis, Review, ReviewSource, Verdict, counting

SCHEMA_VERSION = 1
"""Of the report's form; it changes when a reader of the old form would be misled."""
LEVEL = 0.95

Period = Literal["day", "week", "month", "quarter", "year"]


def _week(at: datetime) -> str:
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02d}"


PERIODS: Mapping[Period, Callable[[datetime], str]] = {
    "day": lambda at: f"{at:%Y-%m-%d}",
    "week": _week,
    "month": lambda at: f"{at:%Y-%m}",
    "quarter": lambda at: f"{at.year}-Q{(at.month + 2) // 3}",
    "year": lambda at: f"{at.year}",
}
"""What a period is called, in UTC. The names sort by time."""


def review_report(
    reviews: Sequence[Review], *, done: Mapping[tuple[str, str], int], by: Period, at: datetime
) -> dict[str, Any]:
    """The report, as JSON's types. ``reviews``: the newest first, all of each job's; ``done``: (model, version) → how
    many of its jobs are done, reviewed or not.
    """
    by_model: dict[tuple[str, str], dict[str, list[Review]]] = defaultdict(lambda: defaultdict(list))
    for review in reviews:
        by_model[review.model, review.model_version][review.job_id].append(review)
    return {
        "schema": SCHEMA_VERSION,
        "software": f"Coread {__version__}",
        "evaluated_at": at.isoformat(),
        "by": by,
        "level": LEVEL,
        "models": [
            _of_model(model, version, list(by_model[model, version].values()), done.get((model, version)), by)
            for model, version in sorted(by_model)
        ],
    }


def agreement_of(reviews: Sequence[Review]) -> dict[str, Any]:
    """How many were accepted, rejected, edited, and the share of those that were accepted with Wilson's interval
    (1927), one observation for each job.
    """
    counts = Counter(review.verdict for review in reviews)
    accepted, total = counts[Verdict.ACCEPTED], len(reviews)
    interval = binomtest(accepted, total).proportion_ci(LEVEL, method="wilson") if total else None
    return {
        "reviewed": total,
        **{verdict.value: counts[verdict] for verdict in Verdict},
        "agreement": None if interval is None else accepted / total,
        "low": None if interval is None else float(interval.low),
        "high": None if interval is None else float(interval.high),
    }


def _of_model(
    model: str, version: str, jobs: Sequence[Sequence[Review]], done: int | None, by: Period
) -> dict[str, Any]:
    counted = [review for review in map(counting, jobs) if review is not None]
    periods: dict[str, list[Review]] = defaultdict(list)
    for review in counted:
        periods[PERIODS[by](review.at)].append(review)
    edited = [review for review in counted if review.verdict is Verdict.EDITED]
    return {
        "model": model,
        "version": version,
        "done": done,
        **agreement_of(counted),
        "said_on_page": sum(review.source is ReviewSource.PAGE for review in counted),
        "said_by_object": sum(review.source is ReviewSource.OBJECT for review in counted),
        "edited_by_source": sum(review.basis is Basis.SOURCE for review in edited),
        "reviewed_again": sum(len({review.verdict for review in of_job}) > 1 for of_job in jobs),
        "reasons": _reasons(counted),
        "periods": [{"period": name, **agreement_of(periods[name])} for name in sorted(periods)],
        "dice": _dice(edited),
        "changes": _changes(edited),
    }


def _reasons(reviews: Iterable[Review]) -> list[dict[str, Any]]:
    rejected = [review for review in reviews if review.verdict is Verdict.REJECTED]
    counts = Counter(review.reason or ("", "", "no reason given") for review in rejected)
    return [
        {"code": code, "scheme": scheme, "meaning": meaning, "rejections": number}
        for (code, scheme, meaning), number in counts.most_common()
    ]


def _dice(edited: Iterable[Review]) -> list[dict[str, Any]]:
    """By structure: between ours and the person's, where both could be compared."""
    values: dict[str, list[float]] = defaultdict(list)
    missing: Counter[str] = Counter()
    for review in edited:
        for structure, value in review.comparison.get("dice", {}).items():
            if value is None:
                missing[structure] += 1
            else:
                values[structure].append(value)
    return [
        {
            "structure": structure,
            "edits": len(values[structure]),
            "not_compared": missing[structure],
            "median": statistics.median(values[structure]) if values[structure] else None,
            "lowest": min(values[structure], default=None),
        }
        for structure in sorted({*values, *missing})
    ]


def _changes(edited: Iterable[Review]) -> list[dict[str, Any]]:
    """By measurement: how often it was altered, left out or added, and by how much it was altered."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for review in edited:
        for change in review.comparison.get("changes", ()):
            found[change["concept"], change.get("derivation") or ""].append(change)
    rows = []
    for (concept, derivation), changes in sorted(found.items()):
        both = [each for each in changes if each.get("ours") is not None and each.get("theirs") is not None]
        differences = [each["theirs"] - each["ours"] for each in both]
        rows.append(
            {
                "concept": concept,
                "derivation": derivation,
                "changes": len(changes),
                "altered": len(both),
                "median_difference": statistics.median(differences) if differences else None,
            }
        )
    return rows
