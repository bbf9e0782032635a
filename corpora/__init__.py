"""Where captions and images come from: files, dataset repositories and built-in name lists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
