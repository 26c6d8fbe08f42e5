"""``coread models``: what can be read with, and who has approved it."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coread.errors import ConfigurationError, CoreadError
from coread.settings import load_settings

if TYPE_CHECKING:
    from coread.models.catalogue import Package
    from coread.models.inspection import Inspection
    from coread.workers.verify_model import Check

NARROWEST = 100
SHOWN_EXPRESSIONS = 40
"""More than these are counted only; --json has them all."""


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=NARROWEST)


@click.group()
def models() -> None:
    """Add, look at, approve and try the models that studies are read with."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the models as JSON.")
@click.pass_context
def list_models(context: click.Context, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """Say which models there are, and which of them may be used."""
    from coread.models.catalogue import packages

    found = packages(load_settings(context.obj))
    if as_json:
        click.echo(json.dumps([_row(package) for package in found], indent=2))
        return
    table = Table("Model", "Version", "State", "Reads", "Where")
    for package in found:
        row = _row(package)
        table.add_row(package.name, row["version"], package.state, escape(str(row["reads"])), str(package.folder))
    _console().print(table)
    for package in found:
        if package.reason:
            click.echo(f"{package.name}: {package.reason}")


def _row(package: "Package") -> dict[str, str]:
    model = package.model
    reads = " + ".join(series.described_as for series in model.manifest.series) if model else ""
    return {
        "name": package.name,
        "version": model.version if model else "",
        "state": package.state.value,
        "reads": reads,
        "folder": str(package.folder),
        "reason": package.reason,
    }


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def show(context: click.Context, name: str, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Say what the model NAME (or the bundle in a folder) reads, finds, and can execute. Nothing of it is executed."""
    from dataclasses import asdict

    from coread.model_store import find_package
    from coread.models.inspection import inspect_bundle

    if Path(name).is_dir():
        bundle = inspect_bundle(Path(name))
        click.echo(json.dumps(asdict(bundle), indent=2)) if as_json else _show_inspection(bundle)
        return
    package = find_package(name, load_settings(context.obj))
    found = inspect_bundle(package.folder) if package.state != "shipped" else None
    manifest = package.model.manifest.model_dump(mode="json") if package.model else {}
    if as_json:
        said = {**_row(package), "manifest": manifest, "executes": asdict(found) if found else None}
        click.echo(json.dumps(said, indent=2))
        return
    for key, value in _row(package).items():
        if value:
            click.echo(f"{key + ':':10}{value}")
    for table in ("labels", "classes", "numbers"):
        for key, meaning in manifest.get(table, {}).items():
            code = meaning.get("type") or meaning.get("finding") or meaning.get("concept")
            click.echo(f"  {key:>3}  {meaning['name']} {tuple(code)}")
    if found:
        _show_inspection(found)


def _show_inspection(found: "Inspection") -> None:
    """What a bundle can execute. Its texts are shown as Python would write them: a terminal obeys some characters."""
    click.echo("It can execute:")
    click.echo(f"  classes: {', '.join(map(repr, found.targets)) or 'none'}")
    click.echo(f"  Python files: {', '.join(map(repr, found.python_files)) or 'none'}")
    click.echo(f"  compiled programs: {', '.join(map(repr, found.torchscript)) or 'none'}")
    click.echo(f"  expressions: {len(found.expressions)}")
    for file, text in found.expressions[:SHOWN_EXPRESSIONS]:
        click.echo(f"    {file}: {text!r}")
    click.echo(f"  of this, to be looked at twice: {len(found.unusual) or 'nothing'}")
    for file, text in found.unusual:
        click.echo(f"    {file}: {text!r}")
    weights = ", ".join(f"{file!r} ({size / 1e6:.1f} MB)" for file, size in found.weights.items())
    click.echo(f"It loads: {weights or 'no weights'}")


def approving(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that end in an approval."""
    trust = "Only if you trust their author."
    for option in (
        click.option("--torchscript", is_flag=True, help=f"Run compiled models (.ts). {trust}"),
        click.option("--unsafe-weights", is_flag=True, help=f"Load weights that can hold code. {trust}"),
        click.option("--yes", is_flag=True, help="Approve what is shown without asking."),
    ):
        command = option(command)
    return command


@models.command("init")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="By default beside the bundle.")
def init(bundle: Path, output: Path | None) -> None:
    """Draft a coread.yaml for BUNDLE from its metadata. What they do not say is marked TODO."""
    from coread.models.draft import draft_manifest
    from coread.models.manifest import MANIFEST_NAME

    path = output or bundle / MANIFEST_NAME
    if path.exists():
        raise ConfigurationError(f"{path} is there already; delete it, or name another file with -o")
    path.write_text(draft_manifest(bundle), encoding="utf-8")
    click.echo(f"{path} is drafted; answer every TODO in it")


@models.command()
@click.argument("source")
@approving
@click.pass_context
def add(context: click.Context, /, source: str, **approval: bool) -> None:
    """Take the bundle SOURCE in: a folder, a ZIP, a .ts file, a URL, or zoo:NAME of the Model Zoo.

    Shows what the bundle can execute, approves it if you agree, and tries it on a series made to its manifest. From
    then on, a changed file disables it.
    """
    from coread.model_store import disable as take_back
    from coread.model_store import fetched, find_package, take
    from coread.models.catalogue import load_model
    from coread.workers.verify_model import verify_model

    settings = load_settings(context.obj)
    with fetched(source) as folder:
        home = take(folder, settings)
    click.echo(f"taken into {home}")
    try:
        name = load_model(home, allowed=None).name
    except ConfigurationError as error:
        click.echo(f"{error}\nCorrect the manifest, then say `coread models enable {home.name}`", err=True)
        sys.exit(2)
    _approve(context, find_package(name, settings), **approval)
    checks = verify_model(name, settings)
    _show_checks(checks)
    if any(check.verdict == "failed" for check in checks):
        take_back(find_package(name, settings), settings)
        click.echo(f"{name} is disabled, as it does not work; mend it, then `coread models enable {name}`", err=True)
        sys.exit(1)


@models.command()
@click.argument("name")
@approving
@click.pass_context
def enable(context: click.Context, /, name: str, **approval: bool) -> None:
    """Approve the model NAME as it is now, after showing what it can execute."""
    from coread.model_store import find_package

    package = find_package(name, load_settings(context.obj))
    _approve(context, package, **approval)


def _approve(context: click.Context, package: "Package", *, yes: bool, unsafe_weights: bool, torchscript: bool) -> None:
    from coread.model_store import enable as approve
    from coread.models.allowlist import files_of
    from coread.models.catalogue import load_model
    from coread.models.inspection import inspect_bundle

    load_model(package.folder, allowed=None)
    seen = files_of(package.folder)
    _show_inspection(inspect_bundle(package.folder))
    if not yes and not click.confirm("A bundle is a program. May it run?"):
        click.echo(f"{package.name} is not enabled")
        sys.exit(1)
    settings, at = load_settings(context.obj), datetime.now(UTC)
    approve(package, settings, at=at, seen=seen, unsafe_weights=unsafe_weights, torchscript=torchscript)
    click.echo(f"{package.name} is enabled; name it in a route to have studies read with it")


@models.command()
@click.argument("name")
@click.pass_context
def disable(context: click.Context, name: str) -> None:
    """Take back the approval of the model NAME."""
    from coread.model_store import disable as take_back
    from coread.model_store import find_package

    settings = load_settings(context.obj)
    take_back(find_package(name, settings), settings)
    click.echo(f"{name} is disabled")


@models.command()
@click.argument("name")
@click.pass_context
def remove(context: click.Context, name: str) -> None:
    """Delete the model NAME, if it was added."""
    from coread.model_store import find_package
    from coread.model_store import remove as delete

    settings = load_settings(context.obj)
    delete(find_package(name, settings), settings)
    click.echo(f"{name} is removed")


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def verify(context: click.Context, name: str, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Check the model NAME: approval, metadata, network, and a dry run on a series made to its manifest."""
    from dataclasses import asdict

    from coread.workers.verify_model import verify_model

    checks = verify_model(name, load_settings(context.obj))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _show_checks(checks)
    if any(check.verdict == "failed" for check in checks):
        sys.exit(1)


def _show_checks(checks: Sequence["Check"]) -> None:
    table = Table("", "Check", "Found")
    for check in checks:
        table.add_row(check.verdict, check.what, escape(check.found))
    _console().print(table)


@models.command()
@click.argument("names", nargs=-1)
@click.pass_context
def prepare(context: click.Context, names: Sequence[str]) -> None:
    """Build the models NAMES (by default all that may be used) and run each once, so that the first study need not
    wait for what is made only once on a machine.
    """
    from coread.models.catalogue import installed_models
    from coread.workers.verify_model import time_model

    settings = load_settings(context.obj)
    failed = False
    for name in names or sorted(installed_models(settings)):
        try:
            timing = time_model(name, settings, repeats=1)
        except CoreadError as error:
            failed = True
            click.echo(f"{name}: {error}", err=True)
        else:
            click.echo(f"{name}: ready on {timing.device}; built in {timing.build_s:.1f} s")
    if failed:
        sys.exit(1)


@models.command()
@click.argument("name")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def benchmark(context: click.Context, name: str, repeats: int, as_json: bool) -> None:  # noqa: FBT001  # as above
    """Measure how long the model NAME takes for a series made to its manifest: medians, in seconds."""
    from dataclasses import asdict

    from coread.workers.verify_model import time_model

    timing = time_model(name, load_settings(context.obj), repeats=repeats)
    if as_json:
        click.echo(json.dumps(asdict(timing), indent=2))
        return
    table = Table("Stage", "Seconds", title=f"{name} on {timing.device}, {timing.size}")
    table.add_row("build (once)", f"{timing.build_s:.2f}")
    for stage, seconds in timing.stages_s.items():
        table.add_row(stage, f"{seconds:.3f}")
    _console().print(table)


@models.command()
@click.argument("name", metavar="MODEL")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="By default the package's own.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="By default the screen.")
@click.pass_context
def card(context: click.Context, name: str, report: Path | None, output: Path | None) -> None:
    """Make the model card of MODEL from its package and a report of `coread evaluate`, as Markdown."""
    from coread.evaluation.card import card_of
    from coread.model_store import find_package

    package = find_package(name, load_settings(context.obj))
    if package.model is None:
        raise ConfigurationError(f"expected a model that is in order, found that {name} is not: {package.reason}")
    text = card_of(package.model, report)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"  {output}")
