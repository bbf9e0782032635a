"""Every score on the same draws of a protocol: metrics, intervals, and the table they make."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
