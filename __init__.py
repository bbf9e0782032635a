"""bliss-audit: find the images that do not belong, with the captions that say why.

Everything public is importable from here; torch, open_clip and faiss load only when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {
    "AuditResult": "audit.result",
    "AuditSettings": "audit.run",
    "BlissError": "errors",
    "CaptionRules": "corpora.captions",
    "ClassWords": "audit.classes",
    "CorpusOptions": "corpora.sources",
    "EmbedOptions": "indexer.image_embedding",
    "EmbeddedImages": "indexer.embedded_images",
    "Hits": "indexer.nearest",
    "ImageOptions": "corpora.image_source",
    "IndexOptions": "indexer.index_options",
    "ModelChoice": "indexer.encoding",
    "Moments": "scorer.moments",
    "Reference": "scorer.reference",
    "UsageError": "errors",
    "audit_against": "audit.run",
    "audit_own": "audit.run",
    "bliss_matrices": "scorer.bliss",
    "bliss_scores": "scorer.bliss",
    "build_index": "indexer.index_building",
    "embed_images": "indexer.image_embedding",
    "fit_moments": "scorer.moments",
    "fit_reference": "audit.reference_fit",
    "index_embeddings": "indexer.index_building",
    "kernels_in_use": "indexer.blas",
    "list_images": "corpora.images",
    "load_encoder": "indexer.open_clip_encoder",
    "load_reference": "scorer.reference_file",
    "merge": "scorer.moments",
    "open_corpus": "corpora.texts",
    "open_images": "corpora.image_opening",
    "open_index": "indexer.caption_index",
    "read_image_embeddings": "indexer.embedded_images",
    "read_image_bytes": "corpora.image_source",
    "remove_images": "scorer.moments",
    "save_audit": "audit.outputs",
    "save_plots": "audit.report.plots",
    "save_reference": "scorer.reference_file",
    "save_report": "audit.report.writing",
    "search": "indexer.caption_index",
    "text_statistics": "scorer.text_statistics",
}

__all__ = ["__version__", *sorted(_HOMES)]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'blissaudit' has no attribute {name!r}")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
