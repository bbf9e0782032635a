"""Write docs/cli.md, the help of every command. Run as: python docs/make_cli_docs.py"""

from __future__ import annotations

from pathlib import Path

import click
from blissaudit.cli import bliss

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
HEAD = """# All commands and options

The output of `--help` for every command. `docs/make_cli_docs.py` writes this page;
[the command line](commands.md) describes what the commands have in common.
"""


def command_docs() -> str:
    """The page: a heading and the help text of each command, groups before their commands."""
    return HEAD + "".join(
        f"\n## {path}\n\n```text\n{help_text}\n```\n" for path, help_text in _helps(bliss, None)
    )


def _helps(command: click.Command, parent: click.Context | None) -> list[tuple[str, str]]:
    name = "bliss" if parent is None else command.name
    context = command.context_class(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH,
        **(command.context_settings if parent is None else {}),
    )  # fmt: skip
    helps = [(context.command_path, command.get_help(context).rstrip())]
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            if not command.commands[each].hidden:
                helps += _helps(command.commands[each], context)
    return helps


if __name__ == "__main__":
    PAGE.write_text(command_docs(), encoding="utf-8")
