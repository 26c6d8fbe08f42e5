"""``coread models``: what can be read with, and who has approved it."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from rich.markup import escape
from rich.table import Table

from coread.errors import ConfigurationError, CoreadError
from coread.settings import load_settings
from coread.terminal import console

if TYPE_CHECKING:
    from coread.models.catalogue import Package
    from coread.models.inspection import Inspection
    from coread.models.prepared import Record
    from coread.settings import Settings
    from coread.workers.verify_model import Check

SHOWN_EXPRESSIONS = 40
"""More than these are counted only; --json has them all."""


@click.group()
def models() -> None:
    """Add, look at, approve and try the models that studies are read with."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the models as JSON.")
@click.pass_context
def list_models(context: click.Context, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """Say which models there are, and which of them may be used."""
    from coread.models.catalogue import packages

    settings = load_settings(context.obj)
    found = packages(settings)
    rows = [{**_row(package), "engine": _how_it_runs(package, settings).engine} for package in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("Model", "Version", "State", "Reads", "Engine", "Where")
    for row in rows:
        table.add_row(*(escape(row[key]) for key in ("name", "version", "state", "reads", "engine", "folder")))
    console().print(table)
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


class HowItRuns(NamedTuple):
    """What `coread models prepare` found out of a model, for people; nothing of one that may not be used."""

    engine: str = ""
    """Its label alone."""
    network: str = ""
    """By which engine the network runs, and why."""
    transforms: tuple[str, ...] = ()
    """What of the transforms runs fused, and what not and why, a sentence each."""


def _how_it_runs(package: "Package", settings: "Settings") -> HowItRuns:
    from coread.models.catalogue import USABLE, allow_list
    from coread.models.forward.engines import EAGER
    from coread.models.prepared import NotPrepared, cpu_name, read

    if package.model is None or package.state not in USABLE:
        return HowItRuns()
    approved = {entry.name: entry.digest for entry in allow_list(settings).entries()}  # files are not looked at here
    digest = approved[package.name] if package.model.allowed else package.model.digest()
    try:
        record = read(settings.prepared_home, package.name, digest=digest, device=None)
    except NotPrepared as reason:
        by = "by MONAI" if package.model.allowed else "fused where they are recognised"
        return HowItRuns(EAGER.label, f"{EAGER.label}, because {reason}", (f"transforms run {by}, because {reason}",))
    elsewhere = "" if record.device == cpu_name() else f", on {record.device}"
    return HowItRuns(record.forward.engine.label, f"{_engine_said(record)}{elsewhere}", _fusion_said(record))


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
    settings = load_settings(context.obj)
    package = find_package(name, settings)
    is_shipped = package.model is not None and package.model.allowed is None
    found = None if is_shipped else inspect_bundle(package.folder)
    manifest = package.model.manifest.model_dump(mode="json") if package.model else {}
    runs = _how_it_runs(package, settings)
    row = {**_row(package), "digest": package.model.digest_now() if package.model else ""}
    if as_json:
        executes = asdict(found) if found else None
        said = {**row, **runs._asdict(), "manifest": manifest, "executes": executes}
        click.echo(json.dumps(said, indent=2))
        return
    for key, value in {**row, "network": runs.network}.items():
        if value:
            click.echo(f"{key + ':':10}{value}")
    for what in runs.transforms:
        click.echo(f"  {what}")
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
    console().print(table)


@models.command()
@click.argument("names", nargs=-1)
@click.pass_context
def prepare(context: click.Context, names: Sequence[str]) -> None:
    """Build the models NAMES (by default all that may be used), run each, and find out by which engine its network runs
    soonest here without another answer. Readings use what was found from the next start of a worker on.
    """
    from coread.models.catalogue import installed_models
    from coread.workers.prepare_model import prepare_model

    settings = load_settings(context.obj)
    failed = False
    for name in names or sorted(installed_models(settings)):
        try:
            record = prepare_model(name, settings, at=datetime.now(UTC))
        except CoreadError as error:
            failed = True
            click.echo(f"{name}: {error}", err=True)
        else:
            click.echo(f"{name}: ready on {record.device}; {_engine_said(record)}")
            for attempt in record.forward.tried:
                if attempt.reason:
                    click.echo(f"  {attempt.label} is not used: {attempt.reason}")
            for what in _fusion_said(record):
                click.echo(f"  {what}")
    if failed:
        sys.exit(1)


def _fusion_said(record: "Record") -> tuple[str, ...]:
    """What of a prepared model's transforms runs by Coread's kernels, a sentence each."""
    if record.fusion is None or record.fusion.agrees:
        return record.fusion.fused if record.fusion else ()
    return (f"transforms run by MONAI, because {record.fusion.reason}", *record.fusion.fused)


def _engine_said(record: "Record") -> str:
    """By what the network of a prepared model runs, and why."""
    forward = record.forward
    if forward.reason:
        return f"{forward.engine.label}, because {forward.reason}"
    if forward.ratio == 1:
        return f"{forward.engine.label}, because nothing else that agrees with it is quicker"
    near = f"scores within {forward.agreement.deviation:.1e} of torch's range"
    return f"{forward.engine.label}, {forward.ratio:.1f} times as quick as torch; {near}"


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
    table = Table("Stage", "Seconds", title=f"{name} on {timing.device} by {timing.engine}, {timing.size}")
    table.add_row("build (once)", f"{timing.build_s:.2f}")
    for stage, seconds in timing.stages_s.items():
        table.add_row(stage, f"{seconds:.3f}")
    console().print(table)


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
