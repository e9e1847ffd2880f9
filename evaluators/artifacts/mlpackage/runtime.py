"""One inference of a package by Core ML itself, which only macOS has. Not run on a Mac yet.

Elsewhere `load` refuses, and the latency is that of torch, labelled so.
"""

import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.files import Content, write_content

__all__ = ["load"]


def load(content: Content, sample: np.ndarray) -> Callable[[], object]:
    """A package in Core ML, on whatever it chooses of CPU, GPU and Neural Engine.

    Args:
        content: of the package.
        sample: (1, ...) float32 prepared input.

    Raises:
        CannotHold: this is no Mac, or Core ML cannot load the package.
    """
    if platform.system() != "Darwin":
        raise CannotHold("", "mlpackage: nothing on this machine runs Core ML")
    from evaluators.artifacts.mlpackage.alone import coremltools as ct  # noqa: PLC0415

    folder = tempfile.TemporaryDirectory(prefix="core-ml-", ignore_cleanup_errors=True)
    path = Path(folder.name) / "network.mlpackage"
    write_content(path, content)
    try:
        model = ct.models.MLModel(str(path))
        inputs = {model.get_spec().description.input[0].name: sample}
        model.predict(inputs)
    except Exception as error:  # whatever Core ML says: its errors share no base
        raise CannotHold("", f"mlpackage: Core ML cannot load it: {error}") from error

    def call(folder: object = folder) -> object:
        del folder  # kept for as long as the model is called
        return model.predict(inputs)

    return call
