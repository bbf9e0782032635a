"""Log messages on the terminal: those of bliss, and those of libraries with --verbose."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from ..errors import UsageError

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
        from ..safe_text import terminal_text

        ours = record.name.partition(".")[0] == LOG.name
        if ours or self.libraries:
            origin = "" if ours else f"{record.name}: "
            lines = (origin + record.getMessage()).splitlines()
            click.echo("\n".join(map(terminal_text, lines)), err=True)


@contextmanager
def logs_on_terminal() -> Iterator[None]:
    """Show log messages while a command runs, and warnings as log messages."""
    handler, root = _TerminalHandler(), logging.getLogger()
    levels, show_warning = (root.level, LOG.level), warnings.showwarning
    for name, value in LIBRARIES_SILENT.items():
        os.environ.setdefault(name, value)
    root.addHandler(handler)
    LOG.setLevel(logging.INFO)
    warnings.showwarning = _log_warning
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
