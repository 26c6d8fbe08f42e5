"""The commands as Markdown: each with its usage, arguments and options, as `--help` shows them."""

import inspect
from collections.abc import Iterator

import click

from coread.cli import coread

INTRODUCTION = """# Commands, all options

What `coread COMMAND --help` says. [Commands](../commands.md) tells what each is for, and its exit statuses.
"""


def all_commands(group: click.Group = coread, path: str = "coread") -> Iterator[tuple[str, click.Command]]:
    """Each command with its words, such as ``coread jobs list``; the groups themselves, too."""
    yield path, group
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def page() -> str:
    """The reference of the commands."""
    return "\n".join([INTRODUCTION, *(_section(path, command) for path, command in all_commands())])


def _section(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    lines = [f"## `{path}`", "", "```text", *command.collect_usage_pieces(context), "```", ""]
    lines[3:-2] = [" ".join([path, *lines[3:-2]])]
    lines += [inspect.cleandoc(command.help or "").replace("\b", ""), ""]
    given = [each.get_help_record(context) for each in command.params if isinstance(each, click.Option)]
    options = [record for record in given if record]
    if options:
        lines += ["| option | does |", "| --- | --- |"]
        lines += [f"| `{_cell(names)}` | {_cell(what)} |" for names, what in options]
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
