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
    "EmbedOptions": "indexer.images.embedding",
    "EmbeddedImages": "indexer.images.embedded",
    "Hits": "indexer.vectors.nearest",
    "ImageOptions": "corpora.images.source",
    "IndexOptions": "indexer.build.options",
    "ModelChoice": "indexer.encode.encoder",
    "Moments": "scorer.moments",
    "Reference": "scorer.reference",
    "UsageError": "errors",
    "audit_against": "audit.run",
    "audit_own": "audit.run",
    "bliss_matrices": "scorer.bliss",
    "bliss_scores": "scorer.bliss",
    "build_index": "indexer.build.build",
    "embed_images": "indexer.images.embedding",
    "exact_search": "indexer.vectors.nearest",
    "fit_moments": "scorer.moments",
    "fit_reference": "audit.reference",
    "index_embeddings": "indexer.build.build",
    "kernels_in_use": "indexer.vectors.blas",
    "list_images": "corpora.images.folders",
    "load_encoder": "indexer.encode.open_clip",
    "load_reference": "scorer.reference_file",
    "merge": "scorer.moments",
    "open_corpus": "corpora.registry",
    "open_images": "corpora.images.opening",
    "open_index": "indexer.search.index",
    "read_image_embeddings": "indexer.images.embedded",
    "read_image_bytes": "corpora.images.source",
    "remove_images": "scorer.moments",
    "save_audit": "audit.folder",
    "save_plots": "audit.report.plots",
    "save_reference": "scorer.reference_file",
    "save_report": "audit.report.page",
    "search": "indexer.search.captions",
    "text_statistics": "scorer.statistics",
}

__all__ = ["__version__", *sorted(_HOMES)]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'blissaudit' has no attribute {name!r}")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
