"""``coread evaluate``: how good a model is on studies whose truth is known."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from coread import terminal
from coread.settings import load_settings

if TYPE_CHECKING:
    from coread.workers.study import Study

REPORT, PAGE = "report.json", "report.html"


@click.command()
@click.argument("model")
@click.option("--studies", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder of DICOM.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    required=True,
    help="A folder of DICOM Segmentations, or a CSV file of classes or numbers.",
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where it goes.")
@click.option("--unnamed-absent", is_flag=True, help="A structure without a segment in a reference is absent.")
@click.option("--with-uids", is_flag=True, help="Name the studies by their UIDs, too.")
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="For the intervals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the drawing of patients.")
@click.option("--json", "as_json", is_flag=True, help="Print the report without its studies as JSON.")
@click.pass_context
def evaluate(
    context: click.Context, /, model: str, studies: Path, reference: Path, output: Path, **options: Any
) -> None:
    """Compare what MODEL says of the studies in a folder with a reference standard.

    Each study is read as a job reads it; nothing of that is stored. report.json and report.html go into OUTPUT.
    """
    from coread.cli import exit_status
    from coread.evaluation.document import as_text
    from coread.evaluation.page import page_of
    from coread.evaluation.report import Method
    from coread.evaluation.run import evaluate as run
    from coread.evaluation.run import load_reference
    from coread.models.catalogue import find_model, installed_models
    from coread.workers.study import studies_in_folder
    from coread.workers.warm import warm_models

    settings = load_settings(context.obj)
    models = installed_models(settings)
    truth = load_reference(reference, find_model(model, models))
    found = run(
        studies_in_folder(studies),
        warm_models(settings, models)(model),
        truth,
        method=Method(
            seed=options["seed"],
            resamples=options["resamples"],
            unnamed_are_absent=options["unnamed_absent"],
            with_uids=options["with_uids"],
        ),
        profiles=settings.results.profiles,
        at=datetime.now(UTC),
        progress=_progress,
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / REPORT).write_text(as_text(found.report), encoding="utf-8")
    (output / PAGE).write_text(page_of(found.report), encoding="utf-8")
    if options["as_json"]:
        click.echo(as_text({key: value for key, value in found.report.items() if key != "studies"}), nl=False)
    else:
        _show(found.report, output)
    if found.errors:
        sys.exit(min(exit_status(error) for error in found.errors))


def _progress(studies: "Sequence[Study]") -> "Iterator[Study]":
    console = Console(stderr=True)
    columns = (TextColumn("reading studies"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(studies)
    if console.is_terminal:
        console.print("computing figures and intervals")


def _show(report: dict[str, Any], output: Path) -> None:
    from coread.evaluation.words import FIGURES, interval_in_words

    counts, model = report["counts"], report["model"]
    said = f"{model['name']} {model['version']}: {counts['compared']} studies of {counts['patients']} patients"
    table = Table("Of", "Figure", "Value (95 % interval)", "Studies", title=escape(said))
    for subject in report["subjects"]:
        for name, estimate in subject["estimates"].items():
            value = interval_in_words(name, estimate)
            table.add_row(escape(subject["name"]), FIGURES[name].title, value, str(estimate["studies"]))
    terminal.console().print(table)
    for each in report["left_out"]:
        click.echo(f"study {each['study']}: {each['why']}: {each['reason']}", err=True)
    if counts["references_without_study"]:
        click.echo(f"{counts['references_without_study']} references belong to no study in the folder", err=True)
    for name in (REPORT, PAGE):
        click.echo(f"  {output / name}")
