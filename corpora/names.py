"""Lists of names: the classes of ImageNet-1k and -21k, and the dictionary of the BLISS paper."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from ..artefacts import sha256_of
from ..errors import BlissError, UsageError
from .captions import PAPER_PROMPT
from .files import check_text_encoding, read_lines, readable
from .sources import JSON, TextBatch, TextSource, batch_values

PUBLISHED_DICTIONARIES = ("paper-dictionary", "paper-dictionary-raw")
"""Specs of the paper's dictionary: stripped, or with the stray spaces it was published with."""

NAMED = ("imagenet-1k", "imagenet-21k", *PUBLISHED_DICTIONARIES)
"""Specs that need no file; PUBLISHED_DICTIONARIES also take one, after a colon."""

_LEMMAS, _SYNSETS = "imagenet_synset_to_lemma.txt", "imagenet_synsets.txt"
_SYNSETS_21K = "imagenet21k_goog_synsets.txt"
_NAMES_MODULE = "zero_shot_metadata.py"
_NAMES_VARIABLE = "IMAGENET_CLASSNAMES"


@dataclass(frozen=True)
class NameList:
    """A built-in list of class names; row = position in the list."""

    spec: str
    names: tuple[str, ...] = field(repr=False)
    default_prompt: str = PAPER_PROMPT
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

    def facts(self) -> dict[str, JSON]:
        """Facts for manifests; the fingerprint is over the names, one a line."""
        content = hashlib.sha256("\n".join(self.names).encode()).hexdigest()
        return _facts("name-list", self.spec, content)

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The names in order, `size` at a time."""
        yield from batch_values(enumerate(self.names), size)


@dataclass(frozen=True)
class Dictionary:
    """Lines of comma-separated names: of a file or built in; row = line."""

    spec: str
    lines: tuple[str, ...] = field(repr=False)
    fingerprint: str = field(default="", repr=False)
    """SHA-256 of the file that holds them; of the lines where they are built in."""
    default_prompt: str = PAPER_PROMPT
    licence: str | None = None
    preset: str | None = None

    @property
    def keeps_spaces(self) -> bool:
        """Whether the published stray spaces stay."""
        return self.spec.partition(":")[0] == PUBLISHED_DICTIONARIES[1]

    def facts(self) -> dict[str, JSON]:
        """Facts for manifests; the fingerprint is over the file's bytes, or over the lines."""
        content = self.fingerprint or hashlib.sha256("\n".join(self.lines).encode()).hexdigest()
        return _facts("dictionary", self.spec, content)

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The terms in order: stripped, or with the published spaces for the raw spec."""
        terms = ((row, line.split(",")) for row, line in enumerate(self.lines))
        if not self.keeps_spaces:
            terms = ((row, [term.strip() for term in line]) for row, line in terms)
        yield from batch_values(terms, size)


def open_builtin(spec: str) -> TextSource:
    """One of NAMED, or SCHEME:PATH for a scheme of PUBLISHED_DICTIONARIES; errors as below."""
    scheme, _, path = spec.partition(":")
    if path:
        return open_dictionary(scheme, Path(path).expanduser())
    if spec == "imagenet-1k":
        return open_imagenet()
    if spec == "imagenet-21k":
        return Dictionary(spec, _synset_names(spec, _SYNSETS_21K, 21_843, ".txt FILE"))
    remedy = f"{spec}:PATH"
    return Dictionary(spec, _synset_names(spec, _SYNSETS, 1000, remedy))


def _synset_names(spec: str, file: str, count: int, instead: str) -> tuple[str, ...]:
    """The names of each synset that `file` lists, from timm's data, without importing timm.

    BlissError where timm is missing or no longer carries `count` of them.
    """
    found = importlib.util.find_spec("timm")
    places = found.submodule_search_locations if found else None
    try:
        folder = Path((places or [""])[0]) / "data" / "_info"
        lemmas = dict(line.split("\t") for line in _lines(folder / _LEMMAS))
        lines = tuple(lemmas[synset] for synset in _lines(folder / file))
    except (OSError, ValueError, KeyError):
        lines = ()
    if len(lines) != count:
        raise BlissError(
            f"the {spec} comes with timm, which is not installed or does not carry it",
            f"the package timm with its {_LEMMAS} and {file}",
            f"Install it, or give the names as {instead}",
        )
    return lines


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def open_imagenet() -> NameList:
    """The curated ImageNet names that open_clip carries, read without importing open_clip.

    BlissError where open_clip is missing or no longer keeps 1,000 names there.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise BlissError(
            "the class names of imagenet-1k come with open_clip, which is not installed",
            "the package open_clip_torch",
            "Install it, or give the names as a .txt file",
        )
    path = Path(spec.submodule_search_locations[0]) / _NAMES_MODULE
    names = _literal(path, _NAMES_VARIABLE)
    if (
        not isinstance(names, list | tuple)
        or len(names) != 1000
        or not all(isinstance(name, str) for name in names)
    ):
        raise BlissError(
            f"{path} has no sequence {_NAMES_VARIABLE} of 1,000 names",
            "an open_clip_torch version that carries it (3.1 or later, below 4)",
            "Install such a version, or give the names as a .txt file",
        )
    return NameList("imagenet-1k", tuple(names))


def open_dictionary(scheme: str, path: Path) -> Dictionary:
    """A dictionary file; `scheme` paper-dictionary strips its terms, paper-dictionary-raw not."""
    if not path.is_file():
        raise UsageError(
            f"{scheme}:{path} names no file",
            "a text file with comma-separated terms on each line",
            "Check the path",
        )
    with readable(path), open(path, "rb") as file:
        check_text_encoding(file, str(path))
        content = sha256_of(path)
        file.seek(0)
        with closing(read_lines(file, str(path))) as read:
            lines = tuple(line for _, line in read)
    return Dictionary(f"{scheme}:{path.name}", lines, content)


def _literal(path: Path, variable: str) -> object:
    """The value of a top-level literal assignment in a Python file that is only parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == variable for target in targets):
            try:
                return ast.literal_eval(getattr(node, "value", None) or "")
            except (ValueError, SyntaxError):
                return None
    return None


def _facts(kind: str, spec: str, sha256: str) -> dict[str, JSON]:
    return {
        "kind": kind,
        "spec": spec,
        "column": None,
        "config": None,
        "split": None,
        "revision": None,
        "fingerprint": f"sha256:{sha256}",
    }
