"""Running a file in ONNX Runtime, on the CPU with one thread."""

import numpy as np
import onnxruntime

from evaluators.artifacts.packed import DamagedArtifact

__all__ = ["Session", "version"]

_ERRORS_ONLY = 3


class Session:
    """A loaded file. `session(inputs)` -> outputs."""

    def __init__(self, data: bytes) -> None:
        """Load a file.

        Raises:
            DamagedArtifact: the runtime refuses it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own classes have no common base
            reason = str(error).strip().partition("\n")[0]
            raise DamagedArtifact(f"ONNX Runtime cannot load the file: {reason}") from None
        self._input = self._session.get_inputs()[0].name

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """(batch, ...) -> the first output, (batch, ...)."""
        return self.all_outputs(inputs)[0]

    def all_outputs(self, inputs: np.ndarray) -> list[np.ndarray]:
        """(batch, ...) -> every output in the graph's order."""
        return [np.asarray(x) for x in self._session.run(None, {self._input: inputs})]


def version() -> str:
    """Of ONNX Runtime."""
    return str(onnxruntime.__version__)
