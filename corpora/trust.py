"""Which addresses may be contacted: those that the user has named, not those that a file names.

The `run.json` of a run and the `eval.json` of an evaluation name the collections that they read,
and may come from anybody. A local path is opened where they name it. An address is contacted only
where the user has typed it, on this command line or an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import AddressNotNamed
from .addresses import is_remote
from .registry import settings_list, write_settings_list

ADDRESS_LIST = "addresses.txt"
"""The addresses that the user has named, one a line, in the settings folder."""
OPTION = "--allow-address"

_named_here: set[str] = set()
"""Named in this process, whether or not the list can be written."""


def is_address(spec: str) -> bool:
    """Whether opening `spec` contacts another place: `hf:owner/name`, `https://…`, `s3://…`."""
    local = spec.startswith(("file://", "local://")) and "::" not in spec
    return spec.startswith("hf:") or (is_remote(spec) and not local)


def addresses_in(words: Iterable[str]) -> list[str]:
    """The addresses among the words of a command line; `NAME=ADDRESS` counts."""
    candidates = (part for word in words for part in (word, word.partition("=")[2]))
    return [each for each in candidates if is_address(each) and not set(each) & {"\n", "\r"}]


def remember_addresses(addresses: Iterable[str]) -> None:
    """Add what the user named to the list; BlissError where the list cannot be written."""
    _named_here.update(addresses)
    lines = settings_list(ADDRESS_LIST)
    new = sorted(_named_here - set(lines))
    if new:
        write_settings_list(ADDRESS_LIST, [*lines, *new])


def is_named(spec: str) -> bool:
    """Whether `spec` may be opened on an artefact's word: a local path, or a named address."""
    return not is_address(spec) or spec in _named_here or spec in settings_list(ADDRESS_LIST)


def check_named(specs: Iterable[object], made_by: str) -> None:
    """AddressNotNamed where `made_by`, an artefact, names an address that the user has not.

    Values of `specs` that are no text are passed over: opening them is an error of its own.
    """
    unnamed = [spec for spec in specs if isinstance(spec, str) and not is_named(spec)]
    if unnamed:
        raise not_named(unnamed, made_by, [word for spec in unnamed for word in (OPTION, spec)])


def not_named(addresses: Sequence[str], made_by: str, options: Sequence[str]) -> AddressNotNamed:
    """The error for addresses that only `made_by` names; `options` name them on a command line."""
    plural = "es" * (len(addresses) > 1)
    return AddressNotNamed(
        f"{made_by} names the address{plural} {', '.join(addresses)}, which you have not named "
        "on this machine",
        "your own word for an address: only what you name yourself is contacted",
        options,
        f"blissaudit.corpora.trust.remember_addresses({list(addresses)!r})",
    )
