"""``coread archive``: read an archive, or a part of it, once more."""

import click

from coread.cli_archive_plan import plan
from coread.cli_archive_pseudonyms import identify, pseudonymise
from coread.cli_archive_report import report
from coread.cli_archive_run import COMMANDS as RUN_COMMANDS


@click.group()
def archive() -> None:
    """Have the studies of an archive read by a model, slowly, below everything else."""


# Each command stands in a file of its own, and is added here.
archive.add_command(plan)
archive.add_command(identify)
archive.add_command(pseudonymise)
archive.add_command(report)
for command in RUN_COMMANDS:
    archive.add_command(command)
