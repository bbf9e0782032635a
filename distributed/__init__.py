"""Embedding over a Ray cluster; the only room that imports ray."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
