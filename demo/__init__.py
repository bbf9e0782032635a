"""The drawn world of the demo: scenes, captions and the small CLIP model trained on them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
