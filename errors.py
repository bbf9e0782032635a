"""The errors a user can meet, each with the exit code the command line gives it.

Every message has three parts, in this order: what was given, what was needed, what to do.
They are separate arguments so that none can be forgotten, and so that tests can name the part
they check.
"""

from __future__ import annotations


class BlissError(Exception):
    """A run that cannot go on: bad data, a full disk, artefacts that do not fit together.

    Parameters are the three sentences of the message, without trailing full stops.
    """

    exit_code = 1

    def __init__(self, given: str, needed: str, remedy: str) -> None:
        super().__init__(given, needed, remedy)
        self.given, self.needed, self.remedy = given, needed, remedy

    def __str__(self) -> str:
        return f"{self.given}. Needed: {self.needed}. {self.remedy}."


class UsageError(BlissError):
    """A request that cannot be met as it was worded: a wrong name, path, column or option."""

    exit_code = 2


class FolderInUse(BlissError):
    """Another run is working in the folder."""


class TooManyFailures(BlissError):
    """More unreadable images than `--max-failures` allows."""

    exit_code = 3


class TooManyFlagged(BlissError):
    """More flagged images than `--fail-on` allows."""

    exit_code = 4
