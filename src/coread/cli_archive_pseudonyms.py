"""``coread archive identify`` and ``pseudonymise``: what a pseudonym stands for, and files under pseudonyms."""

import json
import sys
from pathlib import Path

import click

from coread.errors import ConfigurationError

KEY_FILE = click.Path(dir_okay=False, path_type=Path)
UNKNOWN, REFUSED = 1, 3


@click.command()
@click.argument("key_file", type=KEY_FILE)
@click.argument("uid")
@click.option("--original", is_flag=True, help="The other way: say by which pseudonym this UID goes.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def identify(
    key_file: Path,
    uid: str,
    original: bool,  # noqa: FBT001  # click hands flags over by name
    as_json: bool,  # noqa: FBT001  # as above
) -> None:
    """Say what the pseudonym UID (a UID, PatientID or job id) stands for, and what that is a part of."""
    from coread.pseudonyms import KeyTable, load_key, table_of

    key = load_key(key_file)
    if original:
        click.echo(json.dumps({"pseudonym": key.uid(uid)}) if as_json else key.uid(uid))
        return
    table = table_of(key_file)
    if not table.exists():
        raise ConfigurationError(f"expected the key table {table}, found none; put it back beside its key file")
    found = KeyTable(table, key=key).find(uid)
    if as_json:
        click.echo(json.dumps([{"kind": tie.kind, "original": tie.original} for tie in found], indent=2))
    for tie in () if as_json else found:
        click.echo(f"{tie.kind}: {tie.original.replace(chr(10), ' ')}")
    if not found:
        click.echo(
            f"coread: expected a pseudonym that this key file has given, found none {uid}; of a source image, look up "
            "its study and compare the UIDs of its images with --original",
            err=True,
        )
        sys.exit(UNKNOWN)


@click.command()
@click.argument("paths", metavar="IN...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where they go.")
@click.option("--key-file", required=True, type=KEY_FILE, help="The secret; made if there is none.")
@click.option(
    "--dates",
    type=click.Choice(["shifted", "kept", "removed"]),
    help="For a new key file: all of a patient's dates shifted alike (by default), kept or removed.",
)
@click.option("--without-characteristics", is_flag=True, help="For a new key file: no sex, age, size, weight.")
@click.option("--images", is_flag=True, help="For a new key file: also objects that show images. You have looked.")
def pseudonymise(
    paths: tuple[Path, ...],
    output: Path,
    key_file: Path,
    dates: str | None,
    without_characteristics: bool,  # noqa: FBT001  # click hands flags over by name
    images: bool,  # noqa: FBT001  # as above
) -> None:
    """Write DICOM files and folders IN under pseudonyms (PS3.15 Annex E); the originals stay as they are."""
    from coread.pseudonyms import Choices, Dates, Pseudonyms
    from coread.pseudonyms.files import files_below, pseudonymise_files

    is_chosen = dates is not None or without_characteristics or images
    choices = Choices(dates=Dates(dates or Dates.SHIFTED), characteristics=not without_characteristics, images=images)
    pseudonyms = Pseudonyms(key_file, choices=choices if is_chosen else None)
    left_out = 0
    for done in pseudonymise_files(files_below(paths), output, pseudonyms):
        if done.error is not None:
            left_out += 1
            click.echo(f"{done.source}: {done.error}", err=True)
        else:
            click.echo(done.written)
    if left_out:
        sys.exit(REFUSED)
