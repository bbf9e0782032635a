"""--config FILE: options from a TOML file, a table for each command."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError

NOT_FROM_A_FILE = {
    "allow-torchscript": "it lets weights run code: give it on the command line",
    "allow-address": "a file may not say what is contacted: give it on the command line",
    "config": "a file cannot name another",
    "from": "give it on the command line",
}
SOURCE = "blissaudit.options_from"
"""In a context's meta: what filled its default map, for messages."""


def read_config(context: click.Context, option: click.Parameter, path: str | None) -> None:
    """Make the command's table in the file at `path` the defaults of its options."""
    if path is None or context.resilient_parsing:
        return
    if not Path(path).is_file():
        raise UsageError(
            f"--config {path} was given, and there is no such file",
            "a TOML file with a table for each command, such as [audit]",
            "Correct the path; a dataset's configuration is part of its name now: "
            f"hf:owner/name:{path}/SPLIT",
        )
    try:
        table: Any = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "a TOML file", "Correct it") from error
    _check_tables(table, context.find_root().command, path, "")
    for name in context.command_path.split()[1:]:
        table = table.get(name, {})
    values = _defaults(table, context.command, f"{path}, table [{'.'.join(_names(context))}]")
    context.default_map = {**(context.default_map or {}), **values}
    context.meta[SOURCE] = path


CONFIG = click.option("--config", metavar="FILE", is_eager=True, expose_value=False,
                      callback=read_config, help="A TOML file with options; the command line "
                      "wins.")  # fmt: skip


def _names(context: click.Context) -> list[str]:
    return context.command_path.split()[1:]


def _check_tables(table: Mapping[str, Any], command: click.Command, path: str, at: str) -> None:
    """Raise UsageError for a name that is no command, where commands are named."""
    if not isinstance(command, click.Group):
        return
    for name, inner in table.items():
        if name not in command.commands or not isinstance(inner, dict):
            raise UsageError(
                f"{path} has '{at}{name}'",
                f"a table for a command: {', '.join(f'[{at}{each}]' for each in command.commands)}",
                _did_you_mean(name, list(command.commands)),
            )
        _check_tables(inner, command.commands[name], path, f"{at}{name}.")


def _defaults(table: Mapping[str, Any], command: click.Command, where: str) -> dict[str, Any]:
    """The values of `table` by parameter name."""
    known = {
        spelling.removeprefix("--"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for spelling in parameter.opts
        if spelling.startswith("--") and spelling[2:] not in NOT_FROM_A_FILE
    }
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name in NOT_FROM_A_FILE:
            reason = NOT_FROM_A_FILE[name]
            raise UsageError(f"{where} sets '{name}'", f"another option; {reason}", "Remove it")
        if name not in known:
            raise UsageError(
                f"{where} sets '{name}'",
                f"options of `{command.name}`, as its --help spells them without the dashes",
                _did_you_mean(name, list(known)),
            )
        found[known[name].name or name] = _value(known[name], value, f"{where}: {name}")
    return found


def _value(option: click.Option, value: Any, where: str) -> Any:
    """`value` as click takes it; UsageError for another type than the option has."""
    if option.is_flag and not isinstance(value, bool):
        raise UsageError(f"{where} is {value!r}", "true or false", "Correct it")
    values = value if isinstance(value, list) else [value]
    single = isinstance(value, list) and not option.multiple
    if not option.is_flag and (
        single or any(isinstance(each, bool | dict | list) for each in values)
    ):
        needed = "a text, a number, or a list of them" if option.multiple else "a text or a number"
        raise UsageError(f"{where} is {value!r}", needed, "Correct it")
    return [str(each) for each in values] if option.multiple else value


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{close[0]}'" if close else "Correct or remove it"
