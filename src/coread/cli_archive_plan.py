"""``coread archive plan``: which studies, and what they will take, before anything runs."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from coread import terminal
from coread.archive_hours import Hours
from coread.archive_run import HERE
from coread.errors import ConfigurationError
from coread.settings import Settings, load_settings

if TYPE_CHECKING:
    from coread.cohort.estimate import Estimate
    from coread.cohort.found import Filters
    from coread.cohort.gather import Cohort, Missing, Tally
    from coread.cohort.periods import Period
    from coread.cohort.plan import PlanHeader

DAY = click.DateTime(["%Y-%m-%d", "%Y%m%d"])
NOT_WRITTEN_DOWN = "(not written down)"
OWN_OPTION = {"StudyDate": "--from and --to", "StudyTime": "--from and --to", "ModalitiesInStudy": "--modality"}
"""Keys that have an option of their own."""
JOBS = 1000
"""So many of the newest jobs tell how long models take."""
GROUP_READ = 2000
"""So many studies of our own Orthanc at most are looked at to learn how large studies are."""


@click.command("plan")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The plan's file.")
@click.option("--source", default=HERE, show_default=True, help="A [[source]] of the settings; here: our own Orthanc.")
@click.option("--name", help="What the run is called; by default the file's name.")
@click.option(
    "--query", "queries", multiple=True, metavar="KEYWORD=VALUE", help="A matching key, such as StationName=CT1."
)
@click.option(
    "--list", "listed", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A CSV file of studies."
)
@click.option("--column", help="The column of the CSV file that holds accession numbers or StudyInstanceUIDs.")
@click.option("--from", "first", type=DAY, help="The first StudyDate.")
@click.option("--to", "last", type=DAY, help="The last StudyDate.")
@click.option("--modality", "modalities", multiple=True, help="One of them must be in the study.")
@click.option("--description", help="StudyDescription, with * and ?, case ignored.")
@click.option("--body-part", "body_parts", multiple=True, help="BodyPartExamined of one of the series.")
@click.option("--min-instances", type=click.IntRange(1), help="At least so many instances.")
@click.option("--max-instances", type=click.IntRange(1), help="At most so many instances.")
@click.option("--min-age", type=click.FloatRange(0), help="At least so old, in years.")
@click.option("--max-age", type=click.FloatRange(0), help="At most so old, in years.")
@click.option("--sex", type=click.Choice(["F", "M", "O"]), help="PatientSex.")
@click.option("--sample", type=click.IntRange(1), help="A random sample of so many, as for a pilot.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sample.")
@click.option("--limit", type=click.IntRange(1), help="The first so many by date.")
@click.option("--model", "models", multiple=True, help="A model that is to read them: for the estimate.")
@click.option("--workers", type=click.IntRange(1), help="How many workers; by default those that `coread up` starts.")
@click.option("--studies-per-minute", type=click.FloatRange(0, min_open=True), help="For the estimate.")
@click.option("--hours", help="Of the day, such as 19:00-07:00: for the estimate.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan's first line as JSON.")
@click.pass_context
def plan(context: click.Context, /, **options: Any) -> None:
    """Ask a source which studies a cohort has, and estimate what it takes to read them.

    Nothing is retrieved and nothing runs. The plan is a file, for `coread archive run`.
    """
    settings = load_settings(context.find_root().obj)
    asked = _asked(options)
    with ExitStack() as open_things:
        made = _made(settings, asked, open_things)
        if asked.options["as_json"]:
            click.echo(json.dumps(made.header.as_json(), indent=2))
        else:
            _show(made, asked)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the command line asks for, checked."""

    options: Mapping[str, Any]
    keys: Mapping[str, str]
    filters: "Filters"
    period: "Period | None"

    @property
    def output(self) -> Path:
        return Path(self.options["output"])

    @property
    def missing(self) -> Path:
        """Where lines of a list go that gave no study."""
        return self.output.with_name(f"{self.output.name}.missing.csv")


@dataclass(frozen=True, kw_only=True)
class _Made:
    header: "PlanHeader"
    estimate: "Estimate"
    tally: "Tally"


def _made(settings: Settings, asked: _Asked, open_things: ExitStack) -> _Made:
    from coread.cohort.catalogue import open_catalogue
    from coread.cohort.gather import Cohort
    from coread.cohort.plan import PlanHeader, write_plan
    from coread.settings_sources import find_source

    options = asked.options
    source = find_source(options["source"], settings.source)
    _check_models(settings, options["models"])
    cohort = open_things.enter_context(Cohort(seed=options["seed"]))
    with open_catalogue(source, settings) as catalogue:
        tally = _search(catalogue, cohort, asked)
    if options["sample"]:
        cohort.draw(options["sample"])
    if options["limit"]:
        cohort.cut(options["limit"])
    estimate = _estimate(settings, cohort, options)
    header = PlanHeader(
        name=options["name"] or asked.output.stem,
        made_at=datetime.now(UTC).replace(microsecond=0),
        source=source.name,
        query=_query(asked),
        models=tuple(options["models"]),
        studies=len(cohort),
        instances=estimate.instances,
        bytes=estimate.bytes,
        estimate={
            **estimate.as_json(),
            "found": tally.found,
            "left_out": dict(tally.left_out),
            "missing": tally.missing,
        },
    )
    write_plan(asked.output, header, cohort.studies())
    return _Made(header=header, estimate=estimate, tally=tally)


def _asked(options: Mapping[str, Any]) -> _Asked:
    """Raises ConfigurationError for what cannot be asked."""
    from coread.cohort.found import Filters
    from coread.cohort.periods import FIRST_DAY, Period

    first, last = (options[name].date() if options[name] else None for name in ("first", "last"))
    if first and last and first > last:
        raise ConfigurationError(f"--from {first} is after --to {last}, and nothing would match; exchange them")
    for low, high in (("min_instances", "max_instances"), ("min_age", "max_age")):
        if options[low] is not None and options[high] is not None and options[low] > options[high]:
            raise ConfigurationError(f"--{low.replace('_', '-')} is above --{high.replace('_', '-')}; exchange them")
    if options["listed"] and options["queries"]:
        raise ConfigurationError("expected a query or a list, found both; the other options narrow a list as well")
    if options["column"] and not options["listed"]:
        raise ConfigurationError("--column says which column of a list, and there is none; name one with --list")
    if options["hours"]:
        Hours.parse(options["hours"])
    keys = dict(map(_key, options["queries"]))
    if len(options["modalities"]) == 1 and not options["listed"]:
        keys["ModalitiesInStudy"] = options["modalities"][0]
    return _Asked(
        options=options,
        keys=keys,
        period=Period(first=first or FIRST_DAY, last=last or _today()) if first or last else None,
        filters=Filters(
            modalities=frozenset(options["modalities"]),
            first_date=f"{first:%Y%m%d}" if first else None,
            last_date=f"{last:%Y%m%d}" if last else None,
            description=options["description"],
            body_parts=frozenset(options["body_parts"]),
            min_instances=options["min_instances"],
            max_instances=options["max_instances"],
            min_age_years=options["min_age"],
            max_age_years=options["max_age"],
            sex=options["sex"],
        ),
    )


def _key(text: str) -> tuple[str, str]:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    keyword, equals, value = text.partition("=")
    tag = tag_for_keyword(keyword)
    if not equals or tag is None or dictionary_VR(tag) == "SQ":
        raise ConfigurationError(
            "--query: expected KEYWORD=VALUE with a DICOM keyword, such as StationName=CT1"
            + (f"; {keyword} is none that can be asked for" if keyword.isidentifier() else "")
        )
    if keyword in OWN_OPTION:
        raise ConfigurationError(f"--query {keyword}: say that with {OWN_OPTION[keyword]}")
    return keyword, value


def _query(asked: _Asked) -> Mapping[str, Any]:
    """What was asked for, for the plan's header: without what says who somebody is."""
    from pydicom.datadict import dictionary_VR

    from coread.routes import IDENTIFYING

    kept = ("column", "modalities", "description", "body_parts", "min_instances", "max_instances", "min_age", "max_age")
    said = {name: asked.options[name] for name in (*kept, "sex", "sample", "seed", "limit") if asked.options[name]}
    for name in ("first", "last"):
        if asked.options[name]:
            said[name] = f"{asked.options[name].date()}"
    if asked.options["listed"]:
        said["list"] = Path(asked.options["listed"]).name
    keys = {
        keyword: NOT_WRITTEN_DOWN if keyword in IDENTIFYING or dictionary_VR(keyword) == "PN" else value
        for keyword, value in asked.keys.items()
    }
    return {**said, **({"keys": keys} if keys else {})}


def _search(catalogue: Any, cohort: "Cohort", asked: _Asked) -> "Tally":
    from coread.cohort.gather import gather, look_up
    from coread.cohort.listed import lines_of

    with _progress("lines" if asked.options["listed"] else "found") as progress:
        if not asked.options["listed"]:
            return gather(
                catalogue,
                cohort,
                keys=asked.keys,
                filters=asked.filters,
                period=asked.period,
                today=_today(),
                progress=progress,
            )
        with _missing(asked.missing) as missed:
            return look_up(
                catalogue,
                cohort,
                lines_of(asked.options["listed"], column=asked.options["column"]),
                filters=asked.filters,
                missed=missed,
                progress=progress,
            )


def _today() -> date:
    return datetime.now().astimezone().date()


@contextmanager
def _missing(path: Path) -> Iterator[Callable[["Missing"], None]]:
    """Writes lines that gave no study into a file that only its owner can read; there is none if there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with ExitStack() as files:
        writers: list[Any] = []

        def missed(each: "Missing") -> None:
            if not writers:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                writers.append(
                    csv.writer(files.enter_context(os.fdopen(descriptor, "w", encoding="utf-8", newline="")))
                )
                writers[0].writerow(["line", each.line.keyword, "why"])
            writers[0].writerow([each.line.number, each.line.value, each.why])

        yield missed


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("asking"),
        BarColumn(),
        TextColumn(f"{{task.fields[seen]}} {what}, {{task.fields[kept]}} in the cohort"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking", total=None, seen=0, kept=0)
        yield lambda seen, kept: progress.update(task, seen=seen, kept=kept)


def _check_models(settings: Settings, names: Sequence[str]) -> None:
    if names:
        from coread.models.catalogue import find_model, installed_models

        models = installed_models(settings)
        for name in names:
            find_model(name, models)


def _estimate(settings: Settings, cohort: "Cohort", options: Mapping[str, Any]) -> "Estimate":
    from coread.cohort.estimate import Pace, estimate

    pace = Pace(
        workers=options["workers"] or _workers(settings),
        studies_per_minute=options["studies_per_minute"],
        hours=options["hours"],
    )
    groups = cohort.groups()
    is_measured = all(group.measured == group.studies for group in groups)
    return estimate(
        groups,
        usual={} if is_measured else _usual(settings),
        models=options["models"],
        taken_s=_taken_s(options["models"]) if options["models"] else {},
        pace=pace,
    )


def _workers(settings: Settings) -> int:
    """How many workers there are likely to be: those that ``coread up`` starts, or at least one elsewhere."""
    return settings.worker.processes if isinstance(settings.worker.processes, int) and settings.worker.processes else 1


def _usual(settings: Settings) -> Mapping[str, Any]:
    """How large studies usually are, learnt from our own Orthanc; nothing if it does not answer."""
    from itertools import islice

    from coread.cohort.catalogue import open_catalogue
    from coread.cohort.estimate import usual_sizes
    from coread.errors import TransientError
    from coread.settings_sources import Here

    try:
        with open_catalogue(Here(), settings) as here:
            return usual_sizes(islice(here.studies({}, asked=()), GROUP_READ))
    except TransientError as error:
        click.echo(f"coread: how large studies are could not be learnt: {error}", err=True)
        return {}


def _taken_s(models: Sequence[str]) -> Mapping[str, Sequence[float]]:
    """How long earlier jobs of models took; nothing if there is no ledger yet, or it does not answer."""
    from coread.cli_desk import desk_of_command
    from coread.cohort.estimate import seconds_by_model
    from coread.errors import TransientError
    from coread.job import JobState
    from coread.timeline import rows_of

    try:
        return seconds_by_model(rows_of(desk_of_command().jobs(states=[JobState.DONE], limit=JOBS)), models)
    except (ConfigurationError, TransientError) as error:
        click.echo(f"coread: how long models take could not be learnt: {error}", err=True)
        return {}


def _show(made: _Made, asked: _Asked) -> None:
    header, estimate, tally = made.header, made.estimate, made.tally
    table = Table("What", "How much", "Known from", title=escape(f"Plan {header.name}, source {header.source}"))
    table.add_row("Studies", f"{header.studies:,}", f"{tally.found:,} found, {tally.queries:,} queries")
    table.add_row(
        "Instances",
        "not known" if header.instances is None else f"{header.instances:,}",
        "the source" if header.instances is not None else "the source does not say it of each study",
    )
    measured = header.bytes is not None
    table.add_row(
        "Size",
        "not known" if estimate.bytes_estimated is None else _size(estimate.bytes_estimated),
        "measured" if measured else "an estimate, from studies in our Orthanc" if estimate.bytes_estimated else "",
    )
    for model, seconds in estimate.seconds_by_model.items():
        table.add_row(f"{escape(model)}, each study", f"{seconds:.1f} s", f"{estimate.jobs_by_model[model]} jobs")
    table.add_row(
        "Time",
        "not known" if estimate.hours is None else _span(estimate.hours),
        {"models": "the models are what it waits for", "pace": "the pace is what it waits for"}.get(
            estimate.bounded_by, ""
        ),
    )
    terminal.console().print(table)
    for why, count in tally.left_out.most_common():
        click.echo(f"  left out: {count:,}: {why}")
    for note in estimate.notes:
        click.echo(f"  {note}")
    if tally.limit is not None:
        click.echo(
            f"  {header.source} gives {tally.limit:,} studies at most at once: it was asked in parts, by date; studies "
            "without a StudyDate may be missing"
        )
    if tally.missing:
        click.echo(f"  {tally.missing:,} lines of the list gave no study: {asked.missing}")
    click.echo(f"  {asked.output}")


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _span(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
