"""The `bliss` command: its parts are in `commands/`; errors become messages and exit codes here."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys

import click
import cloup

from . import __version__
from .commands.audit import audit
from .commands.base import LOG, logs_on_terminal
from .commands.corpora import corpora
from .commands.demo import demo
from .commands.drift import drift
from .commands.evaluate import evaluate
from .commands.finished_runs import apply, diff, export, find, report
from .commands.index import index
from .commands.pairs import pairs
from .commands.reference import explain, reference, score
from .commands.train import train
from .errors import BlissError, NotNamed, name_too_long, out_of_files, too_many_files
from .safe_text import terminal_text


def main() -> None:
    """Run the command line; every failure is one message on stderr and an exit code.

    0 done; 1 the run met a problem; 2 the request cannot be met; 3 more unreadable images than
    --fail-on allows; 4 more flagged images than it allows; 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C; one that is ignored, as by nohup, stays so
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    status = run(sys.argv[1:])
    gc.freeze()  # otherwise all that was imported is looked through once more at the end
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """The exit code of `bliss ARGUMENTS`."""
    try:
        with logs_on_terminal():
            _remember_addresses(arguments)
            bliss.main(arguments, prog_name="bliss", standalone_mode=False)
    except NotNamed as error:
        return _say_error(error.for_command(["bliss", *arguments]), error.exit_code)
    except BlissError as error:
        return _say_error(str(error), error.exit_code)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            click.echo(error.format_message(), err=True)
            return error.exit_code
        hint = f" Try `{error.ctx.command_path} --help`." if error.ctx else ""
        return _say_error(error.format_message() + hint, 2)
    except (KeyboardInterrupt, click.Abort):
        return _say_error(
            "interrupted. Finished parts are kept: run the same command again to go on.", 130
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            wrong = name_too_long(error.filename)
            return _say_error(str(wrong), wrong.exit_code)
        cause = f"the run could not go on: {error or type(error).__name__}"
        if too_many_files(error):
            return _say_error(str(out_of_files(cause)), 1)
        return _say_error(f"{cause}.", 1)
    except Exception as error:
        if isinstance(error, ImportError) and error.name is None:  # a library, not a module's name
            return _say_error(
                f"the run could not go on: a library could not be loaded: {error}.", 1
            )
        if os.environ.get("BLISS_DEBUG"):
            raise
        return _say_error(
            f"an error in bliss itself ({type(error).__name__}: {error}). "
            "Set BLISS_DEBUG=1 to see where, and please report it.",
            1,
        )
    return 0


def _remember_addresses(arguments: list[str]) -> None:
    """Note the addresses that the user typed: artefacts may name these."""
    if not any("hf:" in word or "://" in word for word in arguments):
        return
    from .corpora import addresses_in, remember_addresses

    try:
        remember_addresses(addresses_in(arguments))
    except BlissError as error:
        LOG.warning("could not remember that you named this address: %s", error)


def _say_error(message: str, code: int) -> int:
    click.echo(f"\nbliss: {terminal_text(message)}", err=True)
    return code


@cloup.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    sections=[
        cloup.Section("Audit a collection", [audit, report, apply, find, explain, diff, export]),
        cloup.Section("Score new images", [reference, score]),
        cloup.Section("Compare images with their captions, old images with new", [pairs, drift]),
        cloup.Section("Captions", [index, corpora]),
        cloup.Section("Measure and train", [evaluate, train]),
        cloup.Section("Try it", [demo]),
    ],
)
@click.version_option(__version__, prog_name="bliss")
def bliss() -> None:
    """Find the images that do not belong, with the captions that explain why."""
