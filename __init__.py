"""bliss-audit: find the images that do not belong, with the captions that say why.

Everything public is importable from here; torch, open_clip and faiss load only when used.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
