"""``coread reviews``: what persons said of results, one by one and in figures."""

import csv
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.markup import escape
from rich.table import Table

from coread.cli_audit import parsed_time
from coread.cli_desk import desk_of_command
from coread.terminal import console

if TYPE_CHECKING:
    from coread.review import Review

ALL = 1_000_000
"""More than anybody reviews: of each job, all reviews are wanted to say which counts."""
REPORT, PAGE = "reviews.json", "reviews.html"


@click.group()
def reviews() -> None:
    """What persons said of results: accepted, rejected, edited."""


@reviews.command("list")
@click.option("--study", help="Only of the study with this StudyInstanceUID.")
@click.option("--job", help="Only of this job.")
@click.option("--model", help="Only of this model.")
@click.option("--since", callback=parsed_time, help="Only from this day or time on (ISO 8601).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print the reviews as JSON, with reader and comment.")
def list_reviews(
    study: str | None,
    job: str | None,
    model: str | None,
    since: datetime | None,
    limit: int,
    as_json: bool,  # noqa: FBT001  # click hands flags over by name
) -> None:
    """List reviews, the newest first."""
    found = desk_of_command().reviews(
        job_ids=None if job is None else [job], study_instance_uid=study, model=model, since=since, limit=limit
    )
    if as_json:
        click.echo(json.dumps([review.as_json() for review in found], indent=2))
        return
    table = Table("Id", "When", "Verdict", "Model", "Job", "Object", "Reason")
    for review in found:
        reason = review.reason[2] if review.reason else ""
        when = f"{review.at:%Y-%m-%d %H:%M}"
        told = f"{review.verdict}" + (" (by an object)" if review.object_uid else "")
        model_of = f"{review.model} {review.model_version}"
        state = f"{review.state}: {review.failure}" if review.failure else str(review.state)
        table.add_row(review.review_id, when, told, escape(model_of), review.job_id, escape(state), escape(reason))
    console().print(table)


@reviews.command("show")
@click.argument("review_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the review as JSON.")
def show(review_id: str, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Show a review with its reader, comment and object, and whether it counts."""
    from coread.review import counting

    desk = desk_of_command()
    review = desk.find_review(review_id)
    if review is None:
        raise click.UsageError(f"no review {review_id}; `coread reviews list` shows them")
    counts = counting(desk.reviews(job_ids=[review.job_id]))
    said = {**review.as_json(), "counts": counts is not None and counts.review_id == review.review_id}
    if as_json:
        click.echo(json.dumps(said, indent=2))
        return
    table = Table("What", "Said", show_header=False)
    for name, value in said.items():
        if value not in ("", None, [], {}):
            table.add_row(name, escape(value if isinstance(value, str) else json.dumps(value)))
    console().print(table)


@reviews.command("export")
@click.option("--format", "form", type=click.Choice(["json", "csv"]), default="json", show_default=True)
@click.option("--model", help="Only of this model.")
@click.option("--since", callback=parsed_time, help="Only from this day or time on (ISO 8601).")
@click.option("--with-uids", is_flag=True, help="Name studies and objects by their UIDs, too.")
def export(form: str, model: str | None, since: datetime | None, with_uids: bool) -> None:  # noqa: FBT001  # as above
    """Print all reviews, the oldest first, for statistics: no reader, no comment, no patient data."""
    found = desk_of_command().reviews(model=model, since=since, limit=ALL)[::-1]
    rows = [review.as_export(with_uids=with_uids) for review in found]
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
    else:
        _write_csv(rows, sys.stdout)


@reviews.command("evaluate")
@click.option("--model", help="Only of this model.")
@click.option(
    "--by",
    type=click.Choice(["day", "week", "month", "quarter", "year"]),
    default="month",
    show_default=True,
    help="The length of a period.",
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where it goes.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(model: str | None, by: str, output: Path, as_json: bool) -> None:  # noqa: FBT001  # as above
    """How often persons agreed with each model, over time, with intervals.

    reviews.json and reviews.html go into OUTPUT. No patient data, no reader.
    """
    from coread.evaluation.document import as_text
    from coread.evaluation.reviews import PERIODS, review_report
    from coread.evaluation.reviews_page import page_of_reviews

    desk = desk_of_command()
    period = next(name for name in PERIODS if name == by)
    found: list[Review] = desk.reviews(model=model, limit=ALL)
    report = review_report(found, done=desk.done_by_model(), by=period, at=datetime.now(UTC))
    output.mkdir(parents=True, exist_ok=True)
    (output / REPORT).write_text(as_text(report), encoding="utf-8")
    (output / PAGE).write_text(page_of_reviews(report), encoding="utf-8")
    if as_json:
        click.echo(as_text(report), nl=False)
        return
    _show(report)
    for name in (REPORT, PAGE):
        click.echo(f"  {output / name}")


def _show(report: Mapping[str, Any]) -> None:
    table = Table("Model", "Period", "Reviewed", "Accepted", "Edited", "Rejected", "Agreement (95 % interval)")
    for model in report["models"]:
        name = escape(f"{model['model']} {model['version']}")
        for each in ({"period": "all", **model}, *model["periods"]):
            share = f"{100 * each['agreement']:.0f} % ({100 * each['low']:.0f} to {100 * each['high']:.0f})"
            counts = [str(each[key]) for key in ("reviewed", "accepted", "edited", "rejected")]
            table.add_row(name, each["period"], *counts, share)
    console().print(table)


def _write_csv(rows: list[dict[str, Any]], file: TextIO) -> None:
    """A row for each review; of the comparison, the lowest Dice and the number of changes."""
    flat = [{**{name: row[name] for name in row if name != "comparison"}, **_flat(row["comparison"])} for row in rows]
    writer = csv.DictWriter(file, fieldnames=list(flat[0]) if flat else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flat(comparison: Mapping[str, Any]) -> dict[str, Any]:
    values = [value for value in comparison.get("dice", {}).values() if value is not None]
    return {"lowest_dice": min(values, default=""), "changed_measurements": len(comparison.get("changes", ()))}
