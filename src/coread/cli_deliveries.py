"""``coread deliveries``: what went where, and what a person may change about it."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Column, Table

from coread.audit.person import who_asks
from coread.delivery import Delivery, DeliveryState, ObjectState
from coread.errors import ConfigurationError
from coread.settings import load_settings
from coread.terminal import console

if TYPE_CHECKING:
    from coread.ledger import Ledger

DELIVERY_ID = click.IntRange(1, 2**31 - 1)
"""What the ledger's column holds."""
FAILED = 1


def _ledger(context: click.Context) -> "Ledger":
    from coread.courier.run import open_deliveries_ledger

    return open_deliveries_ledger(load_settings(context.obj))


@click.group()
def deliveries() -> None:
    """See which results went to which destination; try a delivery again, or withdraw it."""


@deliveries.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in DeliveryState]))
@click.option("--destination", help="Only deliveries to this destination.")
@click.option("--study", help="Only deliveries of the study with this StudyInstanceUID.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="So many at most, newest first."
)
@click.option("--json", "as_json", is_flag=True, help="Print the deliveries as JSON.")
@click.pass_context
def list_deliveries(
    context: click.Context,
    states: Sequence[str],
    destination: str | None,
    study: str | None,
    limit: int,
    as_json: bool,  # noqa: FBT001  # click hands flags over by name
) -> None:
    """List deliveries, the newest first."""
    found = _ledger(context).deliveries(
        states=[DeliveryState(state) for state in states],
        destination=destination,
        study_instance_uid=study,
        limit=limit,
    )
    if as_json:
        click.echo(json.dumps([delivery.as_json() for delivery in found], indent=2))
        return
    table = Table("Id", "Destination", "State", "Objects", Column("Study", overflow="fold"), "Reason")
    for delivery in found:
        table.add_row(
            str(delivery.delivery_id),
            delivery.destination,
            delivery.state,
            _confirmed(delivery),
            delivery.study_instance_uid,
            escape(delivery.reason),
        )
    console().print(table)


@deliveries.command("show")
@click.argument("delivery_id", metavar="ID", type=DELIVERY_ID)
@click.option("--json", "as_json", is_flag=True, help="Print the delivery as JSON.")
@click.pass_context
def show(context: click.Context, delivery_id: int, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Show a delivery with its objects and its history."""
    ledger = _ledger(context)
    delivery = _find(ledger, delivery_id)
    history = ledger.delivery_history(delivery_id)
    if as_json:
        click.echo(json.dumps({**delivery.as_json(), "history": [event.as_json() for event in history]}, indent=2))
        return
    click.echo(f"Delivery {delivery_id} of job {delivery.job_id} to {delivery.destination}: {delivery.state}")
    for line in (delivery.reason, delivery.withdrawn and f"its results no longer stand: {delivery.withdrawn}"):
        if line:
            click.echo(f"  {line}")
    for each in delivery.objects:
        click.echo(f"  {each.sop_instance_uid}  {each.state}{f': {each.reason}' if each.reason else ''}")
    table = Table("When", "State", "Reason")
    for event in history:
        table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.to_state, escape(event.reason))
    console().print(table)


@deliveries.command("retry")
@click.argument("delivery_id", metavar="ID", type=DELIVERY_ID)
@click.pass_context
def retry(context: click.Context, delivery_id: int) -> None:
    """Let a delivery that has failed or was cancelled go again, and one that waits go now."""
    ledger = _ledger(context)
    changed = ledger.retry_delivery(delivery_id, by=who_asks(), at=datetime.now(UTC))
    _say(_find(ledger, delivery_id), "retry", changed=changed)


@deliveries.command("cancel")
@click.argument("delivery_id", metavar="ID", type=DELIVERY_ID)
@click.pass_context
def cancel(context: click.Context, delivery_id: int) -> None:
    """Withdraw a delivery that is not confirmed. What has been sent of it stays at the destination."""
    ledger = _ledger(context)
    changed = ledger.cancel_delivery(delivery_id, by=who_asks(), at=datetime.now(UTC))
    _say(_find(ledger, delivery_id), "cancel", changed=changed)


def _find(ledger: "Ledger", delivery_id: int) -> Delivery:
    delivery = ledger.delivery(delivery_id)
    if delivery is None:
        raise ConfigurationError(f"there is no delivery {delivery_id}; `coread deliveries list` says which there are")
    return delivery


def _say(delivery: Delivery, wish: str, *, changed: bool) -> None:
    if changed:
        click.echo(f"delivery {delivery.delivery_id} is {delivery.state} now")
        return
    why = (
        f"it is {delivery.state}" if wish == "cancel" else f"it is {delivery.state}, or its job's results do not stand"
    )
    click.echo(f"coread: cannot {wish} delivery {delivery.delivery_id}: {why}", err=True)
    sys.exit(FAILED)


def _confirmed(delivery: Delivery) -> str:
    return f"{len(delivery.uids({ObjectState.CONFIRMED}))} of {len(delivery.objects)}"
