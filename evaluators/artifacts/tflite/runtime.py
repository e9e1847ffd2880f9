"""A `.tflite` file in LiteRT: its own interpreter with the default delegate, one thread."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from spaces import InvalidRequest

__all__ = ["Session"]


class Session:
    """Runs batches of one file."""

    def __init__(self, data: bytes) -> None:
        """Load the file's bytes.

        Raises:
            InvalidRequest: LiteRT refuses them.
        """
        self._data = data
        self._interpreter = self._load()
        self._input = self._interpreter.get_input_details()[0]
        self._output: int = self._interpreter.get_output_details()[0]["index"]
        self._shape: tuple[int, ...] = tuple(int(size) for size in self._input["shape"])

    def _load(self) -> Any:
        try:
            interpreter = Interpreter(model_content=self._data, num_threads=1)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InvalidRequest(f"LiteRT cannot load the file: {error}") from None
        return interpreter

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """(batch, ...) inputs -> outputs."""
        batch = np.ascontiguousarray(batch, dtype=self._input["dtype"])
        if batch.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input["index"], batch.shape)
            self._interpreter.allocate_tensors()
            self._shape = batch.shape
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        outputs: np.ndarray = self._interpreter.get_tensor(self._output)
        return outputs

    def timed(self, sample: np.ndarray) -> Callable[[], object]:
        """One inference of a (1, ...) sample by an interpreter of its own, inputs in place."""
        single = Session(self._data)
        single(sample)
        invoke: Callable[[], object] = single._interpreter.invoke
        return invoke
