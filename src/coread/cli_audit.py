"""``coread audit``: who sent what, what ran, what was written and delivered."""

import json
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from coread.settings import load_settings
from coread.terminal import console

if TYPE_CHECKING:
    from coread.audit.event import AuditEvent

LISTED = 1000


@click.group()
def audit() -> None:
    """Show the audit trail: who sent what, what ran, what was written and delivered."""


def parsed_time(_context: click.Context, _parameter: click.Parameter, text: str | None) -> datetime | None:
    """A day or time of an option."""
    from coread.audit.event import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise click.BadParameter(f"expected a day or a time such as 2026-01-31T12:00, found {text}") from error


@audit.command("list")
@click.option("--study", help="Only of the study with this StudyInstanceUID.")
@click.option("--job", help="Only of this job.")
@click.option(
    "--since", callback=parsed_time, help="Only from this day or time on (ISO 8601; UTC unless it names a zone)."
)
@click.option("--limit", type=click.IntRange(1), default=LISTED, show_default=True, help="Only so many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, with all their details.")
@click.pass_context
def list_events(
    context: click.Context,
    study: str | None,
    job: str | None,
    since: datetime | None,
    limit: int,
    as_json: bool,  # noqa: FBT001  # click hands flags over by name
) -> None:
    """List the rows of the audit trail, the newest last."""
    from coread.ledger.remote import open_desk

    settings = load_settings(context.obj)
    desk = open_desk(settings.ledger_url, login=settings.orthanc_login)
    desk.check_version()
    found = desk.audit(study_instance_uid=study, job_id=job, since=since, limit=limit + 1)
    events = found[:limit][::-1]
    if as_json:
        click.echo(json.dumps([event.as_json() for event in events], indent=2))
    else:
        _show(events)
    if len(found) > limit:
        click.echo(f"coread: older rows than these {limit} are left out; --limit says how many are shown", err=True)


def _show(events: "list[AuditEvent]") -> None:
    table = Table("Time (UTC)", "What", "Who")
    table.add_column("About", overflow="fold")  # a UID that is cut is of no use
    for event in events:
        row = (event.at.strftime("%Y-%m-%d %H:%M:%S"), event.kind, event.who, _about(event))
        table.add_row(*map(Text, row))
    console().print(table)


def _about(event: "AuditEvent") -> str:
    """The study, and what of the details a person looks for first."""
    details = event.details
    model = f"{details['model']} {details['model_version']}" if "model" in details else ""
    number = len(details.get("instances", ())) + sum(details.get("sop_classes", {}).values())
    instances = f"{number} instances" if number else ""
    loaded = ", ".join(details.get("models", ()))
    told = [loaded, details.get("destination"), instances, model, details.get("outcome"), details.get("reason")]
    return "\n".join(part for part in (event.study_instance_uid, ", ".join(str(each) for each in told if each)) if part)
