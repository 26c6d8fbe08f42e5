"""``coread backup``: a copy of all that cannot be made anew, while everything runs."""

from pathlib import Path

import click

from coread.settings import load_settings, settings_file


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was taken as JSON.")
@click.pass_context
def backup(context: click.Context, folder: Path, as_json: bool) -> None:  # noqa: FBT001  # click hands flags over by name
    """Copy ledger, Orthanc's index and images, models, archive runs and settings into FOLDER, while everything runs."""
    import json
    from dataclasses import asdict

    from coread.backup.run import back_up

    def say(part: str) -> None:
        click.echo(f"coread: {part}", err=True)

    done = back_up(load_settings(context.obj), folder, settings_file=settings_file(context.obj), say=say)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
        return
    click.echo(f"Backed up {', '.join(done.parts)} ({done.images} files of images) into {folder}")
