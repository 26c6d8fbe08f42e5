"""``coread jobs``: what is to be read, what was read, and what a person decides about it."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from coread.audit.person import who_asks
from coread.cli_desk import desk_of_command
from coread.job import JobState, Priority
from coread.terminal import console
from coread.words import sentences

if TYPE_CHECKING:
    from coread.ledger.desk import JobDesk
    from coread.ledger.jobs import JobRecord
    from coread.timeline import Device, Row

IMPOSSIBLE = 1
"""The exit status if a job is not in a state in which this can be done."""

SHOWN = 100
WIDE = 240
"""Columns for a pipe or a log file, which has none of its own: ids and reasons are to be whole there."""

DRAWN = 20
"""Jobs on a timeline, unless told otherwise."""
SHORT_ID = 8
"""Letters of a job's id that tell it from others on a timeline."""
BESIDE, FEWEST_COLUMNS, MOST_COLUMNS = 24, 40, 160
"""Columns beside a timeline, and of it."""


@click.group()
def jobs() -> None:
    """Jobs: which wait, run, are done, and which nobody could finish."""


def _record(desk: "JobDesk", job_id: str) -> "JobRecord":
    record = desk.job(job_id)
    if record is None:
        raise click.UsageError(f"no job {job_id}; `coread jobs list` shows them")
    return record


@jobs.command(name="list")
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]))
@click.option("--study", help="Only jobs of this StudyInstanceUID.")
@click.option("--limit", type=click.IntRange(1), default=SHOWN, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print the jobs as JSON.")
def list_jobs(states: Sequence[str], study: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """List jobs, the newest first; `--state failed` those that nobody could finish."""
    found = desk_of_command().jobs(study_instance_uid=study, states=[JobState(state) for state in states], limit=limit)
    if as_json:
        click.echo(json.dumps([record.as_json() for record in found], indent=2))
        return
    table = Table()
    for heading in ("Job", "State", "Priority", "Model", "Created", "Study"):
        table.add_column(heading, overflow="fold")
    table.add_column("Reason")
    for record in found:
        job = record.job
        created = job.created_at.strftime("%Y-%m-%d %H:%M:%S")
        row = (job.job_id, record.state, job.priority, job.model, created, job.study_instance_uid)
        table.add_row(*row, escape(record.reason))
    console(width=WIDE).print(table)


@jobs.command()
@click.argument("job_id")
@click.option("--json", "as_json", is_flag=True, help="Print the job and its history as JSON.")
def show(job_id: str, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Show a job and everything that happened to it."""
    desk = desk_of_command()
    record = _record(desk, job_id)
    history = desk.history(job_id)
    if as_json:
        click.echo(json.dumps({**record.as_json(), "history": [event.as_json() for event in history]}, indent=2))
        return
    job = record.job
    table = Table(show_header=False)
    for name, value in (
        ("job", job.job_id),
        ("state", record.state),
        ("reason", record.reason),
        ("found", "\n".join(sentences(record.result))),
        ("study", job.study_instance_uid),
        ("study in Orthanc", job.orthanc_id),
        ("model", f"{job.model} {job.model_version}"),
        ("priority, queue", f"{job.priority}, {job.queue}"),
        ("profiles", ", ".join(job.profiles)),
        ("destinations", ", ".join(job.destinations) or "the study in Orthanc alone"),
        ("attempts", str(record.attempts)),
        ("worker", record.worker or ""),
    ):
        table.add_row(name, escape(value))
    console(width=WIDE).print(table)
    events = Table("At", "From", "To", "Reason", title="History")
    for event in history:
        events.add_row(event.at.isoformat(" ", "milliseconds"), event.from_state or "", event.to_state, event.reason)
    console(width=WIDE).print(events)


@jobs.command()
@click.argument("job_ids", nargs=-1)
@click.option("--study", help="Only jobs of this StudyInstanceUID.")
@click.option("--limit", type=click.IntRange(1), default=DRAWN, show_default=True, help="The newest so many.")
@click.option("--json", "as_json", is_flag=True, help="Print when each stage began and ended as JSON.")
def timeline(job_ids: Sequence[str], study: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Draw when each stage of the jobs ran, and say how busy the devices were; by default of the newest jobs."""
    from coread.timeline import devices_of, rows_of

    desk = desk_of_command()
    records = [_record(desk, job_id) for job_id in job_ids] or desk.jobs(study_instance_uid=study, limit=limit)
    rows = rows_of(records)
    devices = devices_of(rows)
    if as_json:
        found = {"jobs": [row.as_json() for row in rows], "devices": [device.as_json() for device in devices]}
        click.echo(json.dumps(found, indent=2))
    elif rows:
        _draw(rows, devices)
    else:
        click.echo("none of these jobs was timed: they wait, or ended before a study was fetched", err=True)


def _draw(rows: "Sequence[Row]", devices: "Sequence[Device]") -> None:
    from coread.timeline import LETTERS, NOTHING, drawn

    begin, end = min(row.begin for row in rows), max(row.end for row in rows)
    out = console(width=WIDE)
    columns = min(MOST_COLUMNS, max(FEWEST_COLUMNS, out.width - BESIDE))
    names = {device.worker: str(number) for number, device in enumerate(devices, start=1)}
    title = f"{begin:%Y-%m-%d %H:%M:%S} UTC, {(end - begin).total_seconds():.1f} s"
    table = Table("Job", "Worker", title, box=None, padding=(0, 1))
    for row in rows:
        line = drawn(row, begin=begin, end=end, columns=columns)
        table.add_row(row.job_id[:SHORT_ID], names.get(row.worker, ""), line)
    out.print(table)
    out.print(", ".join(f"{letter} {stage}" for stage, letter in LETTERS.items()) + f", {NOTHING} nothing")
    for device in devices:
        share = f"busy {device.busy_s:.1f} of {device.of_s:.1f} s, {device.share:.0%}"
        out.print(f"worker {names[device.worker]} ({escape(device.worker)}): {device.jobs} jobs, {share}")


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
def retry(job_ids: Sequence[str]) -> None:
    """Let jobs that have failed, were refused or cancelled run again."""
    desk = desk_of_command()
    _each(desk, job_ids, "retry", lambda job_id: desk.retry(job_id, by=who_asks(), at=datetime.now(UTC)))


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
def cancel(job_ids: Sequence[str]) -> None:
    """Withdraw jobs whose results are not being stored yet."""
    desk = desk_of_command()
    _each(desk, job_ids, "cancel", lambda job_id: desk.cancel(job_id, by=who_asks(), at=datetime.now(UTC)))


@jobs.command()
@click.argument("priority", type=click.Choice([priority.value for priority in Priority]))
@click.argument("job_ids", nargs=-1, required=True)
def prioritise(priority: str, job_ids: Sequence[str]) -> None:
    """Make jobs that no worker has taken yet more or less urgent."""
    desk = desk_of_command()
    wanted = Priority(priority)
    _each(
        desk,
        job_ids,
        "prioritise",
        lambda job_id: desk.prioritise(job_id, wanted, by=who_asks(), at=datetime.now(UTC)),
    )


def _each(desk: "JobDesk", job_ids: Sequence[str], wish: str, change: Callable[[str], bool]) -> None:
    refused = 0
    for job_id in job_ids:
        state = _record(desk, job_id).state
        if change(job_id):
            click.echo(f"{job_id}: {wish}: done, it was {state}")
        else:
            refused += 1
            click.echo(f"{job_id}: cannot {wish} a job that is {_record(desk, job_id).state}", err=True)
    if refused:
        sys.exit(IMPOSSIBLE)
