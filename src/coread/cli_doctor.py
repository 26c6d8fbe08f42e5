"""``coread doctor`` and ``coread health``: whether all is well, for a person and for a container."""

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from coread import terminal
from coread.process_report import ProcessKind
from coread.settings import load_settings

if TYPE_CHECKING:
    from coread.check import Check

FAILED, CONFIGURATION = 1, 2
OF_THE_PLUGIN = ("live", "ready")
"""What the plugin is asked; of everything else, what processes told the ledger."""
TIMEOUT_S = 5.0

MARKS = {
    "ok": "[green]ok[/]",
    "optional": "[yellow]note[/]",
    "missing": "[red]missing[/]",
    "wrong": "[red]wrong[/]",
}


@click.command()
@click.option("--running", is_flag=True, help="Coread is to run here: an Orthanc that does not answer is wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_context
def doctor(context: click.Context, running: bool, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """Say what is missing on this machine, and what is the matter with the Coread that runs."""
    from coread.doctor import examine
    from coread.doctor_running import examine_running

    settings = load_settings(context.obj)
    checks = examine(settings) + examine_running(settings, must_run=running)
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _show(checks)
    found = {check.verdict.value for check in checks}
    if "missing" in found:
        sys.exit(CONFIGURATION)
    if "wrong" in found:
        sys.exit(FAILED)


def _show(checks: "Sequence[Check]") -> None:
    console = terminal.console()
    table = Table("", "What", "Found, and what was expected", "To do")
    for check in checks:
        is_as_expected = check.verdict.value == "ok" or not check.expected
        words = check.found if is_as_expected else f"{check.found}\nexpected: {check.expected}"
        table.add_row(MARKS[check.verdict], *map(escape, (check.what, words, check.remedy)))
    console.print(table)
    found = {check.verdict.value for check in checks}
    if "missing" not in found:
        console.print("Everything needed is here.")
    if "wrong" in found:
        console.print("Something is the matter with what runs.")


@click.command()
@click.argument("what", type=click.Choice([*OF_THE_PLUGIN, *(kind.value for kind in ProcessKind)]), default="live")
@click.pass_context
def health(context: click.Context, what: str) -> None:
    """Ask the Coread of the settings whether it lives or is ready, or whether a worker, courier or archivist of this
    machine lives.
    """
    import httpx

    settings = load_settings(context.obj)
    if what not in OF_THE_PLUGIN:
        _process(ProcessKind(what), settings.ledger_url, login=settings.orthanc_login)
        return
    url = f"{settings.orthanc_url}/coread/health/{what}"
    try:
        answer = httpx.get(url, auth=settings.orthanc_login, timeout=TIMEOUT_S, trust_env=False)
        status, problems = answer.json()["status"], answer.json().get("problems", ())
    except (httpx.TransportError, ValueError, KeyError) as error:
        click.echo(f"not ok: no answer of Coread's plugin ({type(error).__name__})")
        sys.exit(FAILED)
    click.echo(status)
    for problem in problems:
        click.echo(f"{problem['what']}: {problem['found']}; {problem['do']}")
    if not answer.is_success:
        sys.exit(FAILED)


def _process(kind: ProcessKind, ledger_url: str, *, login: tuple[str, str] | None) -> None:
    """Whether a process of this kind, on this machine or in this container, was heard of within a minute."""
    from datetime import UTC, datetime

    from coread.ledger.remote import open_desk

    desk = open_desk(ledger_url, login=login)
    here = [
        each
        for each in desk.processes(at=datetime.now(UTC))
        if each.report.kind is kind and each.report.host == socket.gethostname()
    ]
    desk.close()
    if not any(each.is_alive for each in here):
        click.echo(f"not ok: no {kind} of this machine was heard of within a minute")
        sys.exit(FAILED)
    click.echo("ok")
