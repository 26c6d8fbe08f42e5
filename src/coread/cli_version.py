"""``coread --version``: which program this is, and which models it has.

It is what people are asked for when something is wrong, so it answers whatever is wrong: with a model, with the list of
what is approved, with the settings. Nothing of a model is executed, and torch is not imported.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coread import __version__
from coread.errors import ConfigurationError
from coread.settings import Settings, load_settings

if TYPE_CHECKING:
    from coread.models.catalogue import Package

DIGEST_SHOWN = 12
"""Characters of a model's digest that are shown; the audit trail has the whole of it."""


def show_version(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:  # noqa: FBT001  # click's
    """The callback of ``--version``: say it, and end the command with exit status 0."""
    if not is_asked or context.resilient_parsing:
        return
    click.echo(f"coread, version {__version__}")
    for line in _models(context.params.get("config")):
        click.echo(f"  {line}")
    context.exit()


def _models(settings_file: Path | None) -> Iterator[str]:
    """A line for each model, and one for whatever keeps models from being known."""
    from coread.models.catalogue import allow_list, packages, shipped_packages

    try:
        settings: Settings = load_settings(settings_file)
        approved = {entry.name: entry.digest for entry in allow_list(settings).entries()}
        found = packages(settings)
    except (ConfigurationError, OSError) as error:
        approved, found = {}, shipped_packages()
        yield f"models that were added are not known: {_words(error)}"
    for package in found:
        yield f"{package.name}{_described(package, approved)}"


def _described(package: "Package", approved: Mapping[str, str]) -> str:
    """Version, digest and state of a model. Files that were approved are not read again: they may be gigabytes."""
    if package.model is None:
        return f", {package.state}: {package.reason}"
    try:
        digest = approved.get(package.name, "") if package.model.allowed else package.model.digest_now()
    except OSError as error:
        return f", version {package.model.version}, {package.state}, but its files cannot be read: {_words(error)}"
    shown = f", sha256 {digest[:DIGEST_SHOWN]}" if digest else ""
    return f", version {package.model.version}{shown}, {package.state}"


def _words(error: ConfigurationError | OSError) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
