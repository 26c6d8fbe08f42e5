"""``coread archive report``: what an archive run found, how it differs from an earlier one, and what drifted."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from coread import terminal
from coread.cli_archive_run import find_run
from coread.errors import ConfigurationError
from coread.settings import load_settings

if TYPE_CHECKING:
    from coread.archive_report.run import Reviewed
    from coread.archive_run import Run
    from coread.archive_table import StudyRow
    from coread.ledger import Ledger

BELOW = "report"
"""The folder of a run's folder that the report goes to by default."""
AT_ONCE = 500
"""Jobs of which the ledger is asked at a time."""


class _Place(NamedTuple):
    """Where a run's rows are, and what the ledger knows of it."""

    folder: Path
    run: "Run | None"
    ledger: "Ledger | None"


@click.command("report")
@click.argument("run", metavar="RUN|FOLDER")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where it goes; by default the folder `report` in the run's own.",
)
@click.option("--compare", metavar="RUN|FOLDER", help="An earlier run, or one with another version of a model.")
@click.option("--json", "as_json", is_flag=True, help="Print the report without its studies as JSON.")
@click.pass_context
def report(
    context: click.Context,
    run: str,
    output: Path | None,
    compare: str | None,
    as_json: bool,  # noqa: FBT001  # click hands flags over by name
) -> None:
    """What RUN found, by finding, scanner, site, year, age and sex; what drifted; and what differs from an earlier run.

    RUN is a run's id, its name or its folder; it may still be under way. report.html, report.json and Parquet tables go
    into OUTPUT.
    """
    from coread.archive_report.run import PAGE, make_report
    from coread.archive_table import RunStore
    from coread.evaluation.document import as_text

    place = _place_of(run, context)
    earlier = None if compare is None else _place_of(compare, context).folder
    if earlier is not None and earlier.resolve() == place.folder.resolve():
        raise click.UsageError("expected an earlier run to compare with, found the same one")
    output = output or place.folder / BELOW
    with RunStore.existing(place.folder) as store:
        before = None if earlier is None else RunStore.existing(earlier)
        if before is not None:
            context.call_on_close(before.close)
        made = make_report(
            store,
            output,
            earlier=before,
            run=None if place.run is None else place.run.as_json(),
            reviewed=_reviewed(place),
            at=datetime.now(UTC),
            progress=lambda rows: _progress(rows, None if place.run is None else place.run.ended),
        )
    if as_json:
        click.echo(as_text({name: value for name, value in made.items() if name != "studies"}), nl=False)
        return
    _show(made)
    click.echo(f"  {output / PAGE}")


def _place_of(named: str, context: click.Context) -> _Place:
    """A run by its folder, or by its id in the ledger."""
    if Path(named).is_dir():
        return _Place(Path(named), None, None)
    from coread.ledger import Ledger

    settings = load_settings(context.find_root().obj)
    if settings.ledger_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"expected the folder of a run, found {named}, and the ledger is on another machine; name the folder, or "
            "ask there"
        )
    ledger = Ledger(settings.ledger_url)
    context.call_on_close(ledger.close)
    ledger.check_version()
    run = find_run(ledger, named)
    return _Place(Path(run.terms.folder), run, ledger)


def _reviewed(place: _Place) -> "Reviewed | None":
    """The reviews of a run's jobs. Rows may be pseudonymised, so they are told by position and model."""
    if place.ledger is None or place.run is None:
        return None
    from coread.archive_report.run import Reviewed

    by_place = {}
    last = -1
    while jobs := place.ledger.run_jobs(place.run.run_id, after=last, limit=AT_ONCE):
        position_of = {job_id: position for position, job_id in jobs}
        for job_id, reviews in place.ledger.reviews_of(position_of).items():
            if reviews:
                by_place[position_of[job_id], reviews[0].model] = reviews
        last = jobs[-1][0]
    return Reviewed(by_place=by_place)


def _progress(rows: "Iterable[StudyRow]", total: int | None) -> "Iterator[StudyRow]":
    console = Console(stderr=True)
    columns = (TextColumn("reading rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(rows, total=total)
    if console.is_terminal:
        console.print("computing figures and drawing")


def _show(report: dict[str, Any]) -> None:
    counts, drift = report["counts"], report["drift"]
    states = ", ".join(f"{number} {state}" for state, number in counts["states"].items())
    click.echo(f"{counts['studies']} studies, {counts['readings']} readings: {states or 'none yet'}")
    for group in drift["by_group"]:
        names = ", ".join(f"{each['feature']} ({'/'.join(each['crossed'])})" for each in group["alarms"][:5])
        more = len(group["alarms"]) - 5
        click.echo(f"drift: {group['model']}: {group['group']}: {names}{f' and {more} more' if more > 0 else ''}")
    if not drift["by_group"]:
        click.echo(f"drift: none in {drift['comparisons']} comparisons")
    for each in (report["comparison"] or {"models": []})["models"]:
        table = Table(
            "Finding",
            "Studies",
            "Changed",
            "Agreement",
            "Bias",
            title=escape(f"{each['model']}: {each['changed_studies']} of {each['matched']} studies changed"),
        )
        for row in each["findings"]:
            agreement = row.get("agreement")
            bias = row.get("bias")
            table.add_row(
                escape(row["finding"]),
                str(row["studies"]),
                str(row["changed"]),
                "" if agreement is None else f"{100 * agreement:.1f} %",
                "" if bias is None else f"{bias:+.3g} {escape(row['unit'])}",
            )
        terminal.console().print(table)
