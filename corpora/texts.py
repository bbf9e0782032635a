"""Text corpora: `open_corpus`, and the types that it takes and returns."""

from __future__ import annotations

from .registry import open_preset, preset_named
from .sources import JSON, NO_OPTIONS, CorpusOptions, TextBatch, TextSource, batch_values
from .text_opening import open_spec

__all__ = ["JSON", "CorpusOptions", "TextBatch", "TextSource", "batch_values", "open_corpus"]


def open_corpus(spec: str, options: CorpusOptions = NO_OPTIONS) -> TextSource:
    """Open the corpus that `spec` names; `text_opening.ACCEPTED_SPECS` are its forms.

    A preset's name comes before a file of that name, which can be given as ./NAME; what `options`
    leave out is then as the preset says. UsageError where nothing fits `spec`, the column, config
    or split is not there, or an option does not apply; BlissError where the data cannot be read
    or reached.
    """
    preset = preset_named(spec)
    if preset is not None:
        return open_preset(preset, options)
    return open_spec(spec, options)
