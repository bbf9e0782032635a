"""Files of `key<TAB>text` lines: Flickr8k's captions by image, WordNet's words by synset."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..artefacts import sha256_of
from ..errors import BlissError, UsageError
from .prompts import CAPTION_PROMPT, PAPER_PROMPT
from .sources import JSON, TextBatch, batch_values
from .text_files import readable
from .text_records import check_text_encoding, read_lines

TEXTS: dict[str, tuple[Callable[[str], object], str]] = {
    "keyed-captions": (lambda text: text, CAPTION_PROMPT),
    "keyed-words": (lambda text: [word.strip() for word in text.split(",")], PAPER_PROMPT),
}
"""By scheme, what follows the tab (a caption, or words with commas between) and the prompt."""


@dataclass(frozen=True)
class KeyedLines:
    """A file with a key, a tab and a text on every line; row = line, keys are left out."""

    scheme: str
    path: Path
    default_prompt: str
    keeps_spaces: bool = False
    licence: str | None = None
    preset: str | None = None

    @property
    def spec(self) -> str:
        """The scheme and the file's name."""
        return f"{self.scheme}:{self.path.name}"

    def facts(self) -> dict[str, JSON]:
        """Facts for manifests; the fingerprint is over the file's bytes."""
        with readable(self.path):
            content = sha256_of(self.path)
        return {
            "kind": "keyed-lines",
            "spec": self.spec,
            "column": None,
            "config": None,
            "split": None,
            "revision": None,
            "fingerprint": f"sha256:{content}",
        }

    def batches(self, size: int) -> Iterator[TextBatch]:
        """The texts in order; BlissError naming a line without a tab."""
        with closing(self._values()) as values:
            yield from batch_values(values, size)

    def _values(self) -> Generator[tuple[int, object], None, None]:
        texts_of, _ = TEXTS[self.scheme]
        with (
            readable(self.path),
            open(self.path, "rb") as file,
            closing(read_lines(file, str(self.path))) as lines,
        ):
            for row, line in lines:
                _, tab, text = line.partition("\t")
                if not tab:
                    raise BlissError(
                        f"line {row + 1} of {self.path} has no tab",
                        "a key, a tab and a text on every line",
                        "Correct that line, or give a file without keys as it is",
                    )
                yield row, texts_of(text)


def open_keyed_lines(scheme: str, path: Path) -> KeyedLines:
    """A file of one of the schemes TEXTS; UsageError where it is not there."""
    if not path.is_file():
        raise UsageError(
            f"{scheme}:{path} names no file",
            "a text file of keys, tabs and texts",
            "Check the path",
        )
    with readable(path), open(path, "rb") as file:
        check_text_encoding(file, str(path))
    return KeyedLines(scheme, path, TEXTS[scheme][1])
