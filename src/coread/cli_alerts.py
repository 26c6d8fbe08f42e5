"""``coread alerts``: which findings raise a study."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from coread.errors import ConfigurationError
from coread.settings import Settings, load_settings

NO_ALERT = 1


@click.group()
def alerts() -> None:
    """Say which findings raise a study, and whether a result does."""


@alerts.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the alerts as JSON.")
@click.pass_context
def list_alerts(context: click.Context, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """Say which alerts the settings file has, whether or not Coread runs."""
    settings = _checked(context)
    if as_json:
        dumped = [alert.model_dump(mode="json", by_alias=True, exclude_none=True) for alert in settings.alert]
        click.echo(json.dumps(dumped, indent=2))
        return
    for line in described(settings):
        click.echo(line)
    if not settings.alert:
        click.echo("no alerts; [[alert]] in the settings makes one")


def described(settings: Settings) -> Iterator[str]:
    """The alerts of the settings, in lines."""
    from coread.alerts import expectation

    for alert in settings.alert:
        yield f"{alert.name}: {alert.model}: {' and '.join(expectation(each) for each in alert.when)}"
        yield from (f"  {action}" for action in _actions(alert))


@alerts.command("test")
@click.argument("job", required=False)
@click.option(
    "--json",
    "result_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A result instead of a job: the summary.json of `coread analyze`, or what `coread jobs show --json` prints.",
)
@click.pass_context
def test_alerts(context: click.Context, job: str | None, result_file: Path | None) -> None:
    """Say for each alert whether the result of JOB raises its study, and why or why not. Nothing is changed."""
    from coread.alerts import matches

    settings = _checked(context)
    if (job is None) == (result_file is None):
        raise click.UsageError("expected a job, or a result with --json")
    result = _result_in(result_file) if result_file else _result_of(str(job), settings)
    raises = False
    for alert in settings.alert:
        found = matches(alert, result)
        is_raised = all(each.is_met for each in found)
        raises |= is_raised
        click.echo(f"{alert.name}: {'raises the study' if is_raised else 'does not'}")
        for each in found:
            click.echo(f"  {'yes' if each.is_met else 'no'}: {each.words}")
        for action in _actions(alert) if is_raised else ():
            click.echo(f"  {action}")
    if not raises:
        click.echo("no alert raises this study")
        sys.exit(NO_ALERT)


def _actions(alert: Any) -> list[str]:
    return [
        *([f"priority {alert.priority}"] if alert.priority else []),
        *([f"label {alert.label}"] if alert.label else []),
        *(f"webhook {name}" for name in alert.webhooks),
        *(f"e-mail to {address}" for address in alert.email),
    ]


def _checked(context: click.Context) -> Settings:
    from coread.models.catalogue import check_routes, installed_models

    settings = load_settings(context.obj)
    check_routes(settings, installed_models(settings))
    return settings


def _result_in(path: Path) -> Mapping[str, Any]:
    """The result in a file; in a job's JSON it is under ``result``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from error
    result = found.get("result", found) if isinstance(found, Mapping) else None
    if not isinstance(result, Mapping) or "model" not in result:
        raise ConfigurationError(f"{path}: expected a job's result with its model, found something else")
    return result


def _result_of(job_id: str, settings: Settings) -> Mapping[str, Any]:
    from coread.ledger.remote import open_desk

    desk = open_desk(settings.ledger_url, login=settings.orthanc_login)
    desk.check_version()
    record = desk.job(job_id)
    desk.close()
    if record is None:
        raise ConfigurationError(f"no job {job_id}; `coread jobs list` says which there are")
    if not record.result:
        raise ConfigurationError(f"job {job_id} is {record.state} and has no result; choose one that is done")
    return record.result
