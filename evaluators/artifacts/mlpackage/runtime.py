"""Inferences of a package by Core ML itself, which only macOS has. NOT RUN ON A MAC YET.

How a Mac measures: `search worker --target m1 --ray-address HOST:PORT` joins a Ray cluster; the
package of each trial is sent there (`search.engines.measuring`) and timed here, interleaved with
the uncompressed network's package. Times are those of coremltools' own `MLModelBenchmarker`, which
asks Core ML how long a prediction took: converting arrays from and to Python is not in them.

What was run of this, on Linux: a package is loaded by coremltools up to the prediction, which it
refuses there; what becomes of such times (`evaluators.latency.SelfTimed`). Elsewhere than on macOS
`load` refuses, and the latency is that of torch, labelled so.
"""

import asyncio
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.files import Content, write_content
from evaluators.latency import SelfTimed

__all__ = ["benchmarked", "load"]


def load(content: Content, sample: np.ndarray) -> SelfTimed:
    """A package in Core ML, on whatever it chooses of CPU, GPU and Neural Engine.

    Args:
        content: of the package.
        sample: (1, ...) float32 prepared input.

    Raises:
        CannotHold: this is no Mac, or Core ML cannot load the package.
    """
    if platform.system() != "Darwin":
        raise CannotHold("", "mlpackage: nothing on this machine runs Core ML")
    return benchmarked(content, sample)


def benchmarked(content: Content, sample: np.ndarray) -> SelfTimed:
    """As `load`, on a machine that is taken for a Mac.

    Raises:
        CannotHold: Core ML cannot load the package, or is not here.
    """
    from coremltools.models.ml_program.experimental.perf_utils import (  # noqa: PLC0415
        MLModelBenchmarker,
    )

    from evaluators.artifacts.mlpackage.alone import coremltools as ct  # noqa: PLC0415

    folder = tempfile.TemporaryDirectory(prefix="core-ml-", ignore_cleanup_errors=True)
    path = Path(folder.name) / "network.mlpackage"
    write_content(path, content)
    try:
        model = ct.models.MLModel(str(path))
        inputs = {model.get_spec().description.input[0].name: sample}
        benchmarker = MLModelBenchmarker(model)
        asyncio.run(benchmarker.benchmark_predict(inputs, iterations=1))
    except Exception as error:  # whatever Core ML says: its errors share no base
        folder.cleanup()
        raise CannotHold("", f"mlpackage: Core ML cannot load it: {error}") from error

    def run_ms(count: int, folder: object = folder) -> Sequence[float]:
        del folder  # kept for as long as the model is called
        measured = asyncio.run(benchmarker.benchmark_predict(inputs, iterations=count))
        return [float(ms) for ms in measured.samples]

    return SelfTimed(run_ms)
