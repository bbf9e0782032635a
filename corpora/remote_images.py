"""Image files at addresses that fsspec opens, each fetched when its turn comes."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..artefacts import digest
from ..errors import BlissError
from .addresses import find_below, read_file
from .change_marks import stamp
from .image_paths import IMAGE_SUFFIXES, display_path, has_image_suffix
from .image_source import MAX_IMAGE_BYTES, ImageItem, Skip
from .sources import JSON


@dataclass(frozen=True)
class RemoteImages:
    """Image files below one address; the first folder below it is the label."""

    spec: str
    addresses: tuple[str, ...]
    paths: tuple[str, ...]
    """The addresses relative to what they share."""
    labels: tuple[str | None, ...]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.addresses)

    def facts(self) -> dict[str, JSON]:
        """The fingerprint is over every path with what the remote says of its change."""
        pairs = zip(self.paths, self.addresses, strict=True)
        content = {path: stamp(address) for path, address in pairs}
        return {"kind": "remote-images", "spec": self.spec, "fingerprint": digest(content)}

    def items(self, skip: Skip) -> Iterator[ImageItem]:
        """Every file in order; fetching it is left to whoever decodes it."""
        for row, address in enumerate(self.addresses):
            item = ImageItem(row, display_path(self.paths[row]), self.labels[row])
            if skip(row):
                yield item
            else:
                yield item._replace(data=functools.partial(read_file, address, MAX_IMAGE_BYTES + 1))

    def check(self) -> None:
        """BlissError where the first file cannot be asked for any more."""
        stamp(self.addresses[0])


def list_remote_folder(spec: str) -> RemoteImages:
    """Every image below a remote folder; BlissError where there is none or it is unreachable."""
    return list_addresses(spec, find_below(spec))


def list_addresses(spec: str, addresses: Sequence[str]) -> RemoteImages:
    """The images among some addresses, in the order of their names.

    Labels are the first folders below what all of them share, as in a tree of class folders.
    """
    chosen = sorted(
        address
        for address in addresses
        if has_image_suffix(address) and not posixpath.basename(address).startswith(".")
    )
    if not chosen:
        raise BlissError(
            f"{spec} holds no images",
            f"files that end in {', '.join('.' + suffix for suffix in IMAGE_SUFFIXES)}",
            "Choose the folder that holds the images",
        )
    root = posixpath.commonpath([posixpath.dirname(address) for address in chosen])
    paths = tuple(posixpath.relpath(address, root) for address in chosen)
    labels = tuple(path.partition("/")[0] if "/" in path else None for path in paths)
    return RemoteImages(spec, tuple(chosen), paths, labels)
