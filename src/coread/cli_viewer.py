"""``coread viewer``: the OHIF viewer that Orthanc serves beside Coread."""

from pathlib import Path

import click

from coread.settings import load_settings


@click.group()
def viewer() -> None:
    """The OHIF viewer that Orthanc serves under /ohif/: install it, and say which is installed."""


@viewer.command()
@click.option(
    "--from",
    "package",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The npm package as a file, for a machine without the internet.",
)
@click.pass_context
def install(context: click.Context, package: Path | None) -> None:
    """Fetch the viewer with npm, check it, and put it where Orthanc serves it; nothing if it is there already."""
    from coread import ohif

    folder = load_settings(context.find_root().obj).viewer_home
    if ohif.is_up_to_date(folder):
        click.echo(f"OHIF {ohif.VERSION} is installed already in {folder}")
        return
    place = ohif.install(folder, package=package, say=lambda text: click.echo(f"  {text}"))
    click.echo(f"OHIF {ohif.VERSION} is installed in {place}; Orthanc serves it under {ohif.ROOT}")


@viewer.command()
@click.pass_context
def show(context: click.Context) -> None:
    """Say where the viewer is installed, and whether it is the version that this Coread is made for."""
    from coread import ohif

    folder = load_settings(context.find_root().obj).viewer_home
    place = ohif.installed(folder)
    if place is None:
        click.echo(f"no viewer in {folder}; `coread viewer install` installs OHIF {ohif.VERSION}")
    elif ohif.is_up_to_date(folder):
        click.echo(f"OHIF {ohif.VERSION} in {place}")
    else:
        click.echo(f"another version than OHIF {ohif.VERSION} in {place}; `coread viewer install` replaces it")
