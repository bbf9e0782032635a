"""Everything that trains: the demo's own small CLIP model, and what is trained over frozen ones."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
