"""The ledger for the commands that ask it."""

from typing import TYPE_CHECKING

import click

from coread.settings import load_settings

if TYPE_CHECKING:
    from coread.ledger.desk import JobDesk


def desk_of_command() -> "JobDesk":
    """The ledger that the settings of the running command name; it is closed when the command ends. Raises
    ConfigurationError if its tables are another version's.
    """
    from coread.ledger.remote import open_desk

    context = click.get_current_context()
    settings = load_settings(context.find_root().obj)
    desk = open_desk(settings.ledger_url, login=settings.orthanc_login)
    context.call_on_close(desk.close)
    desk.check_version()
    return desk
