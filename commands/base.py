"""What every command is made of: help sections, typed option groups, output and log messages.

--config FILE gives options from a TOML file, a table for each command.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import cloup

from ..errors import UsageError
from ..progress import Progress, no_progress
from ..safe_text import terminal_text
from .removed import refuse_removed

LOG = logging.getLogger("blissaudit")
LIBRARIES_SILENT = {
    "DATASETS_VERBOSITY": "critical",
    "HF_HUB_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
}
"""For libraries whose loggers write to stderr themselves, read when they are imported."""


class _TerminalHandler(logging.Handler):
    """Writes records to stderr; those of libraries only when `libraries` is set."""

    libraries = False

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.partition(".")[0] == LOG.name
        if ours or self.libraries:
            origin = "" if ours else f"{record.name}: "
            lines = (origin + record.getMessage()).splitlines()
            click.echo("\n".join(map(terminal_text, lines)), err=True)


@contextmanager
def logs_on_terminal() -> Iterator[None]:
    """Show log messages while a command runs, and each warning once as a log message."""
    seen: set[str] = set()

    def show_once(message: Warning | str, *where: Any, **more: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            _log_warning(message, *where, **more)

    handler, root = _TerminalHandler(), logging.getLogger()
    levels, show_warning = (root.level, LOG.level), warnings.showwarning
    for name, value in LIBRARIES_SILENT.items():
        os.environ.setdefault(name, value)
    root.addHandler(handler)
    LOG.setLevel(logging.INFO)
    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show_warning
        root.removeHandler(handler)
        root.setLevel(levels[0])
        LOG.setLevel(levels[1])


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    modules = list(sys.modules.items())
    ours = (module for name, module in modules if name.partition(".")[0] == LOG.name)
    if filename in {getattr(module, "__file__", None) for module in ours}:
        LOG.warning("%s", message)
    else:
        text = f"{filename}:{lineno}: {category.__name__}: {message}"
        logging.getLogger("py.warnings").warning("%s", text)


def be_quiet(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Log warnings and errors only."""
    if given:
        _refuse_both(context, "--quiet")
        LOG.setLevel(logging.WARNING)


def be_verbose(context: click.Context, option: click.Parameter, given: bool) -> None:
    """Log debug messages of bliss, and what libraries log."""
    if given:
        _refuse_both(context, "--verbose")
        LOG.setLevel(logging.DEBUG)
        logging.getLogger().setLevel(logging.INFO)
        for name, value in LIBRARIES_SILENT.items():
            if os.environ.get(name) == value:
                os.environ[name] = "info"
        for handler in logging.getLogger().handlers:
            if isinstance(handler, _TerminalHandler):
                handler.libraries = True


def _refuse_both(context: click.Context, name: str) -> None:
    before = context.meta.setdefault(__name__, name)
    if before != name:
        raise UsageError("--quiet and --verbose were given", "one of them", "Leave one out")


option = click.option
Decorator = Callable[[Callable], Callable]


class Command(cloup.Command):
    """A command that names the successor of an option it no longer has, and takes no empty text.

    An empty text is what a shell makes of a variable that is not set: `-o "$OUT"` would write into
    the current folder.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            refuse_removed(error.option_name, ctx, given)
            raise
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                is_option = isinstance(parameter, click.Option)
                name = parameter.opts[-1] if is_option else parameter.human_readable_name
                raise UsageError(
                    f"{name} was given as an empty text",
                    "a value",
                    "Leave it out, or set the shell variable that it is read from",
                )
        return rest


def command(
    name: str | None = None, kind: type[Command] = Command
) -> Callable[[Callable], click.Command]:
    """Make a function a command of `bliss`."""
    return cloup.command(name, cls=kind)


def section(title: str, *options: Decorator) -> Decorator:
    """Add options to the help section `title`, which several calls may fill."""

    def add(function: Callable) -> Callable:
        if not hasattr(function, "__click_params__"):
            function.__click_params__ = []  # type: ignore[attr-defined]
        parameters = function.__click_params__  # type: ignore[attr-defined]
        before = len(parameters)
        for option in reversed(options):
            option(function)
        groups = (getattr(parameter, "group", None) for parameter in parameters[:before])
        known = {group.title: group for group in groups if group is not None}
        for parameter in parameters[before:]:
            parameter.group = known.get(title) or known.setdefault(title, cloup.OptionGroup(title))
        return function

    return add


def grouped(name: str, made: type, *sections: Decorator) -> Decorator:
    """Hand a command the options of `sections` as its argument `name`, one `made`.

    `made` is dict, SimpleNamespace, or a dataclass with a field for each of them.
    """

    def add(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            group = made(**{each: values.pop(each) for each in names})
            return function(**{name: group}, **values)

        groups: frozenset[str] = getattr(function, "groups", frozenset())
        before = {id(each) for each in getattr(call, "__click_params__", ())}
        for each in reversed(sections):
            each(call)
        added = (each for each in call.__click_params__ if id(each) not in before)  # type: ignore[attr-defined]
        names = [each.name for each in added if each.expose_value]
        unknown = {*names} - {each.name for each in fields(made)} if is_dataclass(made) else ()
        if unknown or not groups.isdisjoint(names):
            raise TypeError(f"options {names} do not fit {made.__name__} beside {set(groups)}")
        call.groups = groups | {name}  # type: ignore[attr-defined]
        return call

    return add


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
        table: Any = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "a TOML file", "Correct it") from error
    _check_tables(table, context.find_root().command, path, "")
    for name in context.command_path.split()[1:]:
        table = table.get(name, {})
    where = f"{path}, table [{'.'.join(context.command_path.split()[1:])}]"
    values = _defaults(table, context.command, where)
    context.default_map = {**(context.default_map or {}), **values}
    context.meta[SOURCE] = path


CONFIG = click.option("--config", metavar="FILE", is_eager=True, expose_value=False,
                      callback=read_config, help="A TOML file with options; the command line "
                      "wins.")  # fmt: skip


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
    """`value` as the command line would give it, so that 2.5 is no whole number here either.

    UsageError for another type than the option has.
    """
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{where} is {value!r}", "true or false", "Correct it")
        return value
    values = value if isinstance(value, list) and option.multiple else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in values):
        needed = "a text, a number, or a list of them" if option.multiple else "a text or a number"
        raise UsageError(f"{where} is {value!r}", needed, "Correct it")
    words = [str(each) for each in values]
    return words if option.multiple else words[0]


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{close[0]}'" if close else "Correct or remove it"


@dataclass(frozen=True)
class Output:
    """How a command reports: text for a person or JSON for a program, on stdout."""

    as_json: bool

    def show(self, facts: object, text: str | Callable[[], str]) -> None:
        """Print `facts` as JSON, or the text."""
        if self.as_json:
            click.echo(json.dumps(facts, indent=2, default=str))
        else:
            click.echo(text if isinstance(text, str) else text())


OUTPUT = grouped(
    "output",
    Output,
    section(
        "Output",
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
        click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=be_quiet,
                     help="Print results and errors only."),
        click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=be_verbose,
                     help="Also print the log messages and warnings of libraries."),
        CONFIG,
    ),
)  # fmt: skip


def say(line: str) -> None:
    """Log one line for the person who runs the command."""
    LOG.info("%s", line)


def progress_lines() -> Progress:
    """Progress on stderr; none with --quiet."""
    from ..audit import progress_lines as lines

    return lines() if LOG.isEnabledFor(20) else no_progress


def with_files(text: str, written: Sequence[Path]) -> str:
    """A command's text and the files that it wrote, but for the last, which is their record."""
    files = ", ".join(terminal_text(str(path)) for path in written[:-1])
    return f"{text}\nWritten: {files}"


def only_one(needed: str, remedy: str, **given: object) -> None:
    """Raise UsageError unless exactly one of two options, named with `_` for `-`, was given."""
    (first, one), (second, other) = given.items()
    if bool(one) == bool(other):
        names = [each if each.isupper() else f"--{each.replace('_', '-')}"
                 for each in (first, second)]  # fmt: skip
        raise UsageError(
            f"{'both' if one else 'neither'} of {' and '.join(names)} were given",
            f"one of them: {needed}",
            remedy,
        )
