"""The ``coread`` command. Each part is imported when its command runs, so that ``--help`` is quick.

Exit status: 0 done; 1 something failed; 2 the command line, the settings or the installation are wrong;
3 a study was refused, or the input is not DICOM; 4 a neighbour (Orthanc, the broker) does not answer.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from coread import before_torch, terminal  # noqa: F401  # before torch is loaded
from coread.cli_alerts import alerts
from coread.cli_archive import archive
from coread.cli_audit import audit
from coread.cli_backup import backup
from coread.cli_bench import bench
from coread.cli_deliveries import deliveries
from coread.cli_doctor import doctor, health
from coread.cli_evaluate import evaluate
from coread.cli_jobs import jobs
from coread.cli_models import models
from coread.cli_reviews import reviews
from coread.cli_routes import check_config, routes
from coread.cli_version import show_version
from coread.cli_viewer import viewer
from coread.errors import ConfigurationError, CoreadError, InputError, TransientError
from coread.logs import quiet_libraries, warn_at_terminal
from coread.objects import Profile
from coread.settings import Settings, load_settings

if TYPE_CHECKING:
    from coread.findings import Findings
    from coread.supervisor import Supervisor
    from coread.workers.folder import Outcome
    from coread.workers.pipeline import Reading

FAILED, CONFIGURATION, REFUSED, UNAVAILABLE = 1, 2, 3, 4
FOLDER = click.Path(file_okay=False, path_type=Path)

console = terminal.console()


def exit_status(error: CoreadError) -> int:
    """The exit status that tells a script what kind of error it was."""
    for kind, status in (
        (ConfigurationError, CONFIGURATION),
        (InputError, REFUSED),
        (TransientError, UNAVAILABLE),
    ):
        if isinstance(error, kind):
            return status
    return FAILED


def main() -> None:
    """Run the command; an error of ours is one sentence on standard error and an exit status."""
    quiet_libraries()
    try:
        coread(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(CONFIGURATION)
    except click.Abort:
        sys.exit(FAILED)
    except CoreadError as error:
        click.echo(f"coread: {error}", err=True)
        sys.exit(exit_status(error))
    except OSError as error:
        click.echo(
            f"coread: {error.filename or 'a file'}: {error.strerror}; check the path and its permissions", err=True
        )
        sys.exit(CONFIGURATION)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,  # known when --version is asked for
    help="Settings file; by default coread.toml here.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=show_version,
    help="Say the version of the program and of each model, and end.",
)
@click.pass_context
def coread(context: click.Context, config: Path | None) -> None:
    """Reads every study along with the radiologist: DICOM in, segmentations and structured reports out."""
    warn_at_terminal()
    context.obj = config


def _settings(context: click.Context) -> Settings:
    return load_settings(context.obj)


@coread.command()
@click.pass_context
def up(context: click.Context) -> None:
    """Run Orthanc with the plugin, workers, and a courier if there are destinations, until Ctrl-C."""
    from coread.logs import configure_logs
    from coread.supervisor import run_until_stopped

    configure_logs()

    def announce(running: "Supervisor") -> None:
        orthanc = running.settings.orthanc
        click.echo(f"Coread is up: DICOM {orthanc.aet} on port {orthanc.dicom_port}, {running.http_url}")
        click.echo(f"Worklist: {running.page_url}")
        click.echo(f"Jobs: {running.http_url}/coread/jobs   Logs: {running.settings.log_folder}   Stop: Ctrl-C")

    run_until_stopped(_settings(context), settings_file=context.obj, announce=announce)
    click.echo("Coread has stopped")


@coread.command()
@click.pass_context
def orthanc(context: click.Context) -> None:
    """Run Orthanc with the plugin alone, in the foreground, as in a container; `coread up` runs workers, too."""
    from coread.logs import configure_logs
    from coread.orthanc_process import run_orthanc

    configure_logs()
    sys.exit(run_orthanc(_settings(context), settings_file=context.obj))


@coread.command()
@click.option("--queues", help="Take jobs from these queues only, such as gpu or gpu,cpu.")
@click.pass_context
def worker(context: click.Context, queues: str | None) -> None:
    """Run a worker alone, here or on another machine; `coread up` starts one by itself."""
    from coread.collection import loading_libraries
    from coread.logs import configure_logs

    with loading_libraries():
        from coread.workers.app import run_worker

    configure_logs()
    settings = _settings(context)
    if queues is not None:
        asked = tuple(queue.strip() for queue in queues.split(","))
        if unknown := sorted(set(asked) - settings.queues):
            raise ConfigurationError(
                f"expected queues among {', '.join(sorted(settings.queues))}, found {', '.join(unknown)}; "
                "models.queues in the settings says which there are"
            )
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"queues": asked})})
    run_worker(settings)


@coread.command()
@click.pass_context
def archivist(context: click.Context) -> None:
    """Carry out the archive runs of the ledger; `coread up` starts one by itself."""
    from coread.archivist.run import run_archivist
    from coread.logs import configure_logs

    configure_logs()
    run_archivist(_settings(context))


@coread.command()
@click.pass_context
def courier(context: click.Context) -> None:
    """Deliver results to the destinations of the settings; `coread up` starts one by itself if there are any."""
    from coread.courier.run import run_courier
    from coread.logs import configure_logs

    configure_logs()
    run_courier(_settings(context))


@coread.command()
@click.option("--input", "input_folder", type=FOLDER, help="A folder of DICOM to send instead of the phantom.")
@click.option("-o", "--output", type=FOLDER, default=Path("demo-output"), show_default=True, help="Where results go.")
@click.pass_context
def demo(context: click.Context, input_folder: Path | None, output: Path) -> None:
    """Start everything, send a study by C-STORE, show what comes back, and stop."""
    from coread.demo import run_demo

    if not run_demo(_settings(context), output=output, input_folder=input_folder, console=console):
        sys.exit(FAILED)


@coread.command()
@click.argument("folder", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, required=True, help="Where results go, by study and model.")
@click.option("--model", "names", multiple=True, help="A model's name; by default all that the routes name.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice([profile.value for profile in Profile]),
    help="What the results are for; by default what the settings say (results.profiles).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summaries as JSON.")
@click.pass_context
def analyze(
    context: click.Context,
    folder: Path,
    output: Path,
    names: Sequence[str],
    profiles: Sequence[str],
    as_json: bool,  # noqa: FBT001  # click hands flags over by name
) -> None:
    """Read the studies in FOLDER without Orthanc: SEG, SR, JSON summary and PNG picture out."""
    from coread.collection import loading_libraries

    with loading_libraries():
        from coread.models.catalogue import find_model, installed_models
        from coread.workers.folder import analyze_studies
        from coread.workers.study import studies_in_folder
        from coread.workers.warm import warm_models

    settings = _settings(context)
    models = installed_models(settings)
    chosen = list(names) or sorted({model for route in settings.route for model in route.models})
    for name in chosen:
        find_model(name, models)
    studies = studies_in_folder(folder)
    wanted = [Profile(name) for name in profiles] or settings.results.profiles
    with console.status(f"reading {len(studies)} studies"):
        outcomes = analyze_studies(studies, chosen, warm=warm_models(settings, models), output=output, profiles=wanted)
    if as_json:
        click.echo(_as_json(outcomes))
    else:
        _show(outcomes)
    statuses = [exit_status(outcome.error) for outcome in outcomes if outcome.error]
    if statuses:
        sys.exit(min(statuses))


def _as_json(outcomes: Sequence["Outcome"]) -> str:
    import json

    return json.dumps(
        [
            outcome.reading.summary
            if outcome.reading
            else {
                "study_instance_uid": outcome.study_instance_uid,
                "model": outcome.model,
                "error": type(outcome.error).__name__,
                "reason": str(outcome.error),
            }
            for outcome in outcomes
        ],
        indent=2,
    )


def _statements(findings: "Findings") -> Iterator[tuple[str, str, str]]:
    """What is said besides measurements of structures: classes, numbers of the study, boxes and landmarks."""
    for each in findings.classifications:
        certain = "" if each.probability is None else f"{100 * each.probability:.1f} %"
        yield each.name, f"{each.finding.meaning}: {each.value.meaning}", certain
    for quantity in findings.quantities:
        measurement = quantity.measurement
        yield quantity.name, measurement.name, escape(f"{measurement.value:.1f} {measurement.unit.value}")
    for mark in findings.marks:
        certain = "" if mark.probability is None else f"{100 * mark.probability:.1f} %"
        yield mark.name, f"slice {mark.plane + 1}", certain


def _rows(reading: "Reading") -> Iterator[tuple[str, ...]]:
    """Structure, measurement, value and unit of all that was found; of a cine, in both phases and of the whole."""
    for part in reading.parts:
        phase = f" at {part.phase}" if part.phase else ""
        for structure in part.findings.structures:
            if not structure.is_present:
                yield structure.name + phase, "absent"
            for measurement in structure.measurements:
                unit = escape(measurement.unit.value)
                yield structure.name + phase, measurement.name, f"{measurement.value:.1f}", unit
        yield from _statements(part.findings)
    yield from _statements(reading.numbers)
    for each in reading.numbers.not_evaluated:
        yield ", ".join(structure.name for structure in each.structures), f"not evaluated: {escape(each.reason)}"


def _show(outcomes: Sequence["Outcome"]) -> None:
    for outcome in outcomes:
        if outcome.reading is None:
            click.echo(f"coread: study {outcome.study_instance_uid}: {outcome.error}", err=True)
            continue
        table = Table(
            "Structure", "Measurement", "Value", "Unit", title=f"{outcome.study_instance_uid} {outcome.model}"
        )
        for row in _rows(outcome.reading):
            table.add_row(*row)
        console.print(table)
        for path in outcome.files:
            click.echo(f"  {path}")


coread.add_command(jobs)
coread.add_command(models)
coread.add_command(evaluate)
coread.add_command(routes)
coread.add_command(check_config)
coread.add_command(deliveries)
coread.add_command(audit)
coread.add_command(backup)
coread.add_command(alerts)
coread.add_command(reviews)
coread.add_command(bench)
coread.add_command(viewer)
coread.add_command(archive)
coread.add_command(doctor)
coread.add_command(health)


@coread.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--source", type=FOLDER, help="A folder with the images that the objects were made from.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
def validate(files: Sequence[Path], source: Path | None, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Judge result objects, anybody's: SEG, SR, map, KOS, GSPS, by our rules and the validators that are installed."""
    from coread.dicom_sr.validation.run import validate_files

    judgements = validate_files(files, source=source)
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps([{**asdict(each), "file": str(each.file)} for each in judgements], indent=2))
    for judgement in () if as_json else judgements:
        asked = f" (asked: {', '.join(judgement.programs)})" if judgement.programs else ""
        click.echo(f"{judgement.file}: {'wrong' if judgement.has_errors else 'in order'}{asked}")
        for problem in judgement.problems:
            click.echo(f"  {problem.severity}: {problem.rule}: {problem.where}")
            click.echo(f"    expected {problem.expected}; found {problem.found} [{problem.section}]")
    if any(judgement.has_errors for judgement in judgements):
        sys.exit(FAILED)


@coread.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was recognised as JSON.")
@click.pass_context
def feedback(context: click.Context, files: Sequence[Path], as_json: bool) -> None:  # noqa: FBT001  # as above
    """Say what FILES from a PACS or viewer say of our results: rejected, verified, edited; and of which job."""
    import json
    from dataclasses import asdict

    from coread.ledger import Ledger
    from coread.review import Basis
    from coread.workers.feedback import feedback_in

    ledger = Ledger(_settings(context).ledger_url)
    ledger.check_version()
    found = {str(path): feedback_in(path, ledger) for path in files}
    if as_json:
        click.echo(json.dumps({path: [asdict(each) for each in said] for path, said in found.items()}, default=list))
        return
    for path, said in found.items():
        for each in said:
            reason = f", {each.reason.meaning}" if each.reason else ""
            doubt = ", told by the images alone" if each.basis is Basis.SOURCE else ""
            click.echo(f"{path}: {each.kind} job {each.job_id}{reason}{doubt}")
        if not said:
            click.echo(f"{path}: says nothing of our results")
