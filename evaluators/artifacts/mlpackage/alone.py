"""coremltools, imported without the frameworks it would convert from.

It imports TensorFlow wherever that is installed: here 3 seconds, 550 MB and lines on standard error
in every worker, for nothing, because programs come from torch and are written by ourselves.
"""

import importlib
import sys
from types import ModuleType

__all__ = ["coremltools"]

#: What coremltools tries to import and goes without.
_UNWANTED = ("tensorflow",)


def _import_alone() -> ModuleType:
    hidden = [name for name in _UNWANTED if name not in sys.modules]
    for name in hidden:
        # An import of it then fails.
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("coremltools")
    finally:
        for name in hidden:
            del sys.modules[name]


coremltools = _import_alone()
