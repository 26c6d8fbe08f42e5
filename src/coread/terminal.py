"""Where the commands print their tables."""

from rich.console import Console

NARROWEST = 100
"""Columns that the tables need; a pipe or a log file has none of its own."""


def console(*, width: int = NARROWEST) -> Console:
    """A console; ``width`` columns wide where it is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=width)
