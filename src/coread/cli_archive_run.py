"""``coread archive run|status|list|pause|resume|cancel|retry|pace``: have a plan read, follow it, and steer it."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from coread.archive_progress import (
    MOST_LOOKED_AT,
    Pace,
    Trouble,
    duration,
    is_silent,
    measured_pace,
    troubles_of,
)
from coread.archive_run import RUN_ENDED, Run, RunState, RunStudyState
from coread.audit.person import who_asks
from coread.errors import ConfigurationError, LedgerUnavailable
from coread.objects import Profile
from coread.settings import Settings, load_settings
from coread.terminal import console

if TYPE_CHECKING:
    from coread.ledger import Ledger

FAILED, DETACHED = 1, 130
"""Exit statuses: a study has failed, the run was cancelled, or this cannot be done; Ctrl-C, and the run goes on."""
LOOK_S = 1.0
"""How often a run that is followed is looked at."""
PLAIN_S = 60.0
"""How often a line is written where standard output is no terminal."""
PATIENCE_S = 3.0
NO_ARCHIVIST = "no archivist runs, so nothing is retrieved; start `coread up`, or `coread archivist`"
TROUBLES = (RunStudyState.FAILED, RunStudyState.REFUSED)
REASONS_SHOWN = 10
BAR_COLUMNS = 30
WIDE = 160
ALL = "all"


@click.command("run")
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What people call the run; by default as the plan is called.")
@click.option("--model", "models", multiple=True, help="Who reads them; by default the models that the plan names.")
@click.option("--hours", help="Begin studies at these hours only, local time, such as 19:00-07:00.")
@click.option("--studies-per-minute", type=float, help="Begin so many at most; by default as there is room for.")
@click.option("--associations", type=int, help="Retrieve so many at once; 1 unless told otherwise.")
@click.option("--in-flight", type=int, help="So many between retrieved and ended at most; 8 unless told otherwise.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where what is found goes.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice([profile.value for profile in Profile]),
    help="What the results are for; by default what the settings say (results.profiles).",
)
@click.option("--destination", "destinations", multiple=True, help="Deliver the results there, too.")
@click.option("--keep-copies", is_flag=True, help="Leave studies that were retrieved in Orthanc.")
@click.option("--no-objects", is_flag=True, help="Write no result objects to the folder.")
@click.option("--no-pictures", is_flag=True, help="Write no key images to the folder.")
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Pseudonymise what goes to the folder, with the secret in this file, which is made if it is missing.",
)
@click.option("--detach", is_flag=True, help="Do not follow the run.")
@click.pass_context
def run_plan(
    context: click.Context,
    /,
    plan: Path,
    folder: Path | None,
    key_file: Path | None,
    detach: bool,  # noqa: FBT001  # click hands flags over by name
    **said: Any,
) -> None:
    """Have the studies of PLAN read, and follow it; the same command again follows the same run.

    Ctrl-C ends the following alone: the run goes on as long as an archivist runs, which `coread up` starts.
    """
    from coread.archive_begin import begin_run
    from coread.archive_terms import Wishes, checked

    settings, ledger = _opened(context)
    with _loading() as tell:
        run = begin_run(
            ledger,
            plan,
            wishes=checked(Wishes, wished(said)),
            settings=settings,
            folder=folder,
            key_file=key_file,
            by=who_asks(),
            at=datetime.now(UTC),
            tell=tell,
        )
    click.echo(f"run {run.run_id} ({run.name}): {run.studies} studies from {run.terms.source}")
    click.echo(f"what it finds goes to {run.terms.folder}")
    for warning in _warnings(ledger, settings):
        click.echo(f"coread: {warning}", err=True)
    if not detach:
        _follow(ledger, run.run_id)


@click.command("status")
@click.argument("run_id", metavar="RUN")
@click.option("--follow", is_flag=True, help="Follow it until it ends.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the grouped reasons.")
@click.pass_context
def status(context: click.Context, run_id: str, follow: bool, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Show how far RUN (its id, the beginning of it, or its name) has come, and why studies failed or were refused."""
    settings, ledger = _opened(context)
    run = find_run(ledger, run_id)
    now = datetime.now(UTC)
    pace = measured_pace(run, ledger.ended_since, at=now)
    looked_at = ledger.run_studies(run.run_id, states=TROUBLES, limit=MOST_LOOKED_AT)
    troubles = troubles_of(looked_at)
    warnings = [] if run.state in RUN_ENDED else _warnings(ledger, settings)
    if as_json:
        reasons = [trouble.as_json() for trouble in troubles]
        told = {**run.as_json(), **pace.as_json(), "reasons": reasons, "warnings": warnings}
        click.echo(json.dumps(told, indent=2))
        return
    _show(run, pace, troubles, looked_at=len(looked_at))
    for warning in warnings:
        click.echo(f"coread: {warning}", err=True)
    if follow:
        _follow(ledger, run.run_id)


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON.")
@click.pass_context
def list_runs(context: click.Context, as_json: bool) -> None:  # noqa: FBT001  # as above
    """List the runs, the newest first."""
    _, ledger = _opened(context)
    runs = ledger.runs()
    if as_json:
        click.echo(json.dumps([run.as_json() for run in runs], indent=2))
        return
    table = Table(Column("Run", no_wrap=True), "State", "Name", "Models", "Source", "Begun", "Ended studies", "Failed")
    for run in runs:
        ended = f"{run.ended} of {run.studies}"
        begun = f"{run.created_at.astimezone():%Y-%m-%d %H:%M}"
        models = escape(", ".join(run.terms.models))
        failed = str(run.count(RunStudyState.FAILED))
        table.add_row(run.run_id, run.state, escape(run.name), models, run.terms.source, begun, ended, failed)
    console(width=WIDE).print(table)


@click.command("pause")
@click.argument("run_id", metavar="RUN")
@click.option("--reason", default="", help="Why, for whoever looks at it.")
@click.pass_context
def pause(context: click.Context, run_id: str, reason: str) -> None:
    """Begin no more studies of RUN for now. What was begun is read to its end."""
    _, ledger = _opened(context)
    _steer(
        ledger,
        run_id,
        "pause",
        lambda run: ledger.pause_run(run.run_id, by=who_asks(), reason=reason, at=datetime.now(UTC)),
    )


@click.command("resume")
@click.argument("run_id", metavar="RUN")
@click.pass_context
def resume(context: click.Context, run_id: str) -> None:
    """Let RUN go on after a pause."""
    _, ledger = _opened(context)
    _steer(ledger, run_id, "resume", lambda run: ledger.resume_run(run.run_id, by=who_asks(), at=datetime.now(UTC)))


@click.command("cancel")
@click.argument("run_id", metavar="RUN")
@click.option("--reason", default="", help="Why, for whoever looks at it.")
@click.pass_context
def cancel(context: click.Context, run_id: str, reason: str) -> None:
    """End RUN. What was begun is wound up, and what was found stays; nothing else is read."""
    _, ledger = _opened(context)
    _steer(
        ledger,
        run_id,
        "cancel",
        lambda run: ledger.cancel_run(run.run_id, by=who_asks(), reason=reason, at=datetime.now(UTC)),
    )


@click.command("retry")
@click.argument("run_id", metavar="RUN")
@click.option("--refused", is_flag=True, help="Retry what was refused, too.")
@click.pass_context
def retry(context: click.Context, run_id: str, refused: bool) -> None:  # noqa: FBT001  # as above
    """Let the studies of RUN that have failed be read again."""
    _, ledger = _opened(context)
    run = find_run(ledger, run_id)
    if run.state is RunState.CANCELLED:
        click.echo("coread: a cancelled run stays so; run its plan under another name", err=True)
        sys.exit(FAILED)
    due = ledger.retry_run(run.run_id, refused=refused, by=who_asks(), at=datetime.now(UTC))
    click.echo(f"run {run.run_id}: {due} studies are due again")
    if not due:
        sys.exit(FAILED)


@click.command("pace")
@click.argument("run_id", metavar="RUN")
@click.option("--hours", help="Such as 19:00-07:00, local time; `all` for all day.")
@click.option("--studies-per-minute", help="Begin so many at most; `all` for as many as there is room for.")
@click.option("--associations", type=int, help="Retrieve so many at once.")
@click.option("--in-flight", type=int, help="So many between retrieved and ended at most.")
@click.pass_context
def pace(context: click.Context, /, run_id: str, **said: Any) -> None:
    """Change how fast RUN goes; what is left out stays as it is."""
    from coread.archive_terms import Pace as Wanted
    from coread.archive_terms import paced

    _, ledger = _opened(context)
    asked = {name: None if value == ALL else value for name, value in said.items() if value is not None}
    if not asked:
        raise click.UsageError("say what is to change: --hours, --studies-per-minute, --associations, --in-flight")

    def change(run: Run) -> bool:
        terms = paced(run.terms, asked)
        wanted = {name: getattr(terms, name) for name in Wanted.model_fields}
        return ledger.change_pace(run.run_id, **wanted, by=who_asks(), at=datetime.now(UTC))

    _steer(ledger, run_id, "change the pace of", change)


COMMANDS = (run_plan, status, list_runs, pause, resume, cancel, retry, pace)


def wished(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of `run` ask for; what is not said is left out."""
    turned = {"objects": not said["no_objects"], "pictures": not said["no_pictures"]}
    kept = {name: value for name, value in said.items() if name not in ("no_objects", "no_pictures") and value}
    return {**kept, **{name: False for name, wanted in turned.items() if not wanted}}


def find_run(ledger: "Ledger", named: str) -> Run:
    """The run with this id, or the one whose id begins so or whose name it is. Raises UsageError if it is not one."""
    if (run := ledger.run(named)) is not None:
        return run
    found = [run for run in ledger.runs() if run.run_id.startswith(named) or run.name == named]
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise click.UsageError(f"{what} {named}; `coread archive list` shows them")
    return found[0]


def words_of(run: Run, pace: Pace) -> str:
    """A run's progress in one line."""
    share = 100 * run.ended // run.studies if run.studies else 0
    counted = ", ".join(f"{run.count(state)} {state}" for state in RunStudyState if run.count(state))
    parts = [f"{run.state}: {share} %, {run.ended} of {run.studies} studies", counted, _rate(pace), _left(pace)]
    if run.reason:
        parts.append(run.reason)
    if run.held_up_by:
        parts.append(f"waits: {run.held_up_by}")
    return "; ".join(filter(None, parts))


def status_of(run: Run) -> int:
    """The exit status of a run that has ended."""
    return 0 if run.state is RunState.FINISHED and not run.count(RunStudyState.FAILED) else FAILED


def _opened(context: click.Context) -> tuple[Settings, "Ledger"]:
    """The settings, and the ledger's database. Raises ConfigurationError if the settings name a plugin in its place."""
    from coread.ledger import Ledger

    settings = load_settings(context.find_root().obj)
    if settings.ledger_url.startswith(("http:", "https:")):
        raise ConfigurationError(
            "archive runs need the ledger's database, found the URL of a plugin as ledger.url; run this where the "
            "database can be reached, or use the plugin's page at /coread/ui/archives, or its REST interface"
        )
    ledger = Ledger(settings.ledger_url)
    context.call_on_close(ledger.close)
    ledger.check_version()
    return settings, ledger


def _warnings(ledger: "Ledger", settings: Settings) -> list[str]:
    """Why nothing would be read, whatever the run."""
    warnings = []
    if is_silent(ledger.archivist_seen_at(), at=datetime.now(UTC)):
        warnings.append(NO_ARCHIVIST)
    try:
        url = f"{settings.orthanc_url}/coread/health"
        httpx.get(url, auth=settings.orthanc_login, timeout=PATIENCE_S, trust_env=False)
    except httpx.TransportError:
        warnings.append(f"Orthanc does not answer at {settings.orthanc_url}, so nothing is read; start `coread up`")
    return warnings


def _steer(ledger: "Ledger", named: str, wish: str, change: Callable[[Run], bool]) -> None:
    """Change a run, and say what it is then; exit status 1 if that cannot be done in its state."""
    run = find_run(ledger, named)
    if not change(run):
        click.echo(f"coread: cannot {wish} a run that is {find_run(ledger, run.run_id).state}", err=True)
        sys.exit(FAILED)
    click.echo(f"run {run.run_id} ({run.name}) is {find_run(ledger, run.run_id).state}")


# Following -----------------------------------------------------------------------------------------------------------


@contextmanager
def _loading() -> Iterator[Callable[[int, int], None]]:
    """Shows how many studies stand in the ledger already."""
    out = console()
    if not out.is_terminal:
        yield lambda _done, _of: None
        return
    with out.status("reading the plan") as shown:
        yield lambda done, of: shown.update(f"into the ledger: {done} of {of} studies")


def _follow(ledger: "Ledger", run_id: str) -> None:
    """Show how a run gets on until it ends, and end with its exit status; Ctrl-C ends the following alone."""
    out = console()
    try:
        run = _shown_live(ledger, run_id, out) if out.is_terminal else _shown_in_lines(ledger, run_id)
    except KeyboardInterrupt:
        click.echo(f"\nThe run goes on. See it again: coread archive status --follow {run_id}")
        sys.exit(DETACHED)
    click.echo(f"run {run.run_id} ({run.name}) is {run.state}: {_counted(run)}")
    if run.count(RunStudyState.FAILED):
        click.echo(f"why: coread archive status {run.run_id}; again: coread archive retry {run.run_id}")
    sys.exit(status_of(run))


def _looks(ledger: "Ledger", run_id: str) -> Iterator[tuple[Run, Pace, str]]:
    """The run as it is, again and again until it has ended; and why it cannot be told, or nothing can come of it."""
    run, pace = _one(ledger, run_id), Pace(per_hour=None, left_s=None)
    while True:
        trouble = ""
        try:
            run = _one(ledger, run_id)
            now = datetime.now(UTC)
            pace = measured_pace(run, ledger.ended_since, at=now)
            if run.ended_at is None and is_silent(ledger.archivist_seen_at(), at=now):
                trouble = NO_ARCHIVIST
        except LedgerUnavailable as error:
            trouble = str(error)
        yield run, pace, trouble
        if run.ended_at is not None:
            return
        time.sleep(LOOK_S)


def _one(ledger: "Ledger", run_id: str) -> Run:
    run = ledger.run(run_id)
    if run is None:
        raise ConfigurationError(f"the run {run_id} is not in the ledger any more")
    return run


def _shown_live(ledger: "Ledger", run_id: str, out: Console) -> Run:
    with Live(console=out, transient=True, auto_refresh=False) as live:
        for run, pace, trouble in _looks(ledger, run_id):
            live.update(picture_of(run, pace, trouble=trouble), refresh=True)
    return run


def _shown_in_lines(ledger: "Ledger", run_id: str) -> Run:
    """A line now and then, and whenever it is something else that the run does or waits for."""
    said, due = None, 0.0
    for run, pace, trouble in _looks(ledger, run_id):
        now = (run.state, run.reason, run.waits_for, trouble)
        if now != said or time.monotonic() >= due:
            stamp = datetime.now().astimezone().isoformat(timespec="seconds")
            click.echo(f"{stamp} {'; '.join(filter(None, (words_of(run, pace), trouble)))}")
            said, due = now, time.monotonic() + PLAIN_S
    return run


def picture_of(run: Run, pace: Pace, *, trouble: str = "") -> RenderableType:
    """A run's progress for a terminal: a bar, what is known of the pace, the counts, and what it waits for."""
    bar = Table.grid(padding=(0, 1))
    share = 100 * run.ended // run.studies if run.studies else 0
    facts = [f"{share} %", f"{run.ended} of {run.studies}", _rate(pace), _left(pace)]
    bar.add_row(
        ProgressBar(total=max(1, run.studies), completed=run.ended, width=BAR_COLUMNS), "  ".join(filter(None, facts))
    )
    lines: list[RenderableType] = [Text(f"{run.name}: {run.state}"), bar, Text(_counted(run), style="dim")]
    if trouble:
        lines.append(Text(trouble, style="red"))
    elif run.held_up_by:
        lines.append(Text(f"waits: {run.held_up_by}", style="yellow"))
    elif run.reason:
        lines.append(Text(run.reason, style="yellow"))
    return Group(*lines)


def _rate(pace: Pace) -> str:
    return "" if pace.per_hour is None else f"{pace.per_hour:.3g} an hour"


def _left(pace: Pace) -> str:
    return "" if pace.left_s is None else f"about {duration(pace.left_s)} left"


def _counted(run: Run) -> str:
    return ", ".join(f"{run.count(state)} {state}" for state in RunStudyState if run.count(state)) or "no studies"


def _show(run: Run, pace: Pace, troubles: Sequence[Trouble], *, looked_at: int) -> None:
    terms = run.terms
    table = Table(show_header=False)
    for name, value in (
        ("run", run.run_id),
        ("name", run.name),
        ("state", run.state + (f": {run.reason}" if run.reason else "")),
        ("waits for", run.held_up_by),
        ("studies", f"{run.ended} of {run.studies} have ended"),
        ("counts", _counted(run)),
        ("pace", ", ".join(filter(None, (_rate(pace), _left(pace))))),
        ("begun", f"{run.created_at.astimezone():%Y-%m-%d %H:%M} by {run.created_by}"),
        ("ended", f"{run.ended_at.astimezone():%Y-%m-%d %H:%M}" if run.ended_at else ""),
        ("models", ", ".join(terms.models)),
        ("source", terms.source),
        ("hours", terms.hours or "all day"),
        ("studies a minute", f"{terms.studies_per_minute:g} at most" if terms.studies_per_minute else ""),
        ("at once", f"{terms.associations} retrieved, {terms.in_flight} under way at most"),
        ("folder", terms.folder),
    ):
        if value:
            table.add_row(name, escape(value))
    out = console(width=WIDE)
    out.print(table)
    if not troubles:
        return
    reasons = Table("Studies", "State", "Again?", "Reason", Column("The first", overflow="fold"), title="Why")
    for trouble in troubles[:REASONS_SHOWN]:
        helps = "would end the same" if trouble.is_permanent else "may help"
        shown = "\n".join(trouble.first)
        reasons.add_row(str(trouble.count), trouble.state, helps, escape(trouble.reason), shown)
    out.print(reasons)
    if len(troubles) > REASONS_SHOWN:
        out.print(f"and {len(troubles) - REASONS_SHOWN} further reasons; --json has all")
    if looked_at == MOST_LOOKED_AT:
        out.print(f"of the first {looked_at} studies that failed or were refused")
