"""A `.tflite` file in LiteRT: its own interpreter with the default delegate, one thread."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from spaces import InvalidRequest

__all__ = ["Session", "value_ranges"]


def value_ranges(
    data: bytes, tensors: Collection[int], batches: Iterable[np.ndarray]
) -> dict[int, tuple[float, float]]:
    """Tensor's index -> the least and the greatest value it takes.

    Args:
        data: a file of floats.
        tensors: computed ones, by their indices in the graph.
        batches: (batch, ...) inputs.
    """
    # A delegate would not show what lies between its operators.
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=data,
        num_threads=1,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=plain,
    )
    given = interpreter.get_input_details()[0]["index"]
    ranges: dict[int, tuple[float, float]] = {}
    for batch in batches:
        interpreter.resize_tensor_input(given, batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, np.ascontiguousarray(batch, np.float32))
        interpreter.invoke()
        for index in tensors:
            values = interpreter.get_tensor(index)
            low, high = ranges.get(index, (np.inf, -np.inf))
            ranges[index] = (min(low, float(values.min())), max(high, float(values.max())))
    return ranges


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
        self._output = self._interpreter.get_output_details()[0]
        self._shape: tuple[int, ...] = tuple(int(size) for size in self._input["shape"])
        # A batch that cannot be resized is that of a recurrent layer's state.
        self._is_single = self._input["shape_signature"][:1].tolist() == [1]

    def _load(self) -> Any:
        try:
            interpreter = Interpreter(model_content=self._data, num_threads=1)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InvalidRequest(f"LiteRT cannot load the file: {error}") from None
        return interpreter

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """(batch, ...) inputs -> outputs; floats, also where the file takes and gives integers.

        Where the file has a recurrent layer the samples run one by one, each from a new state: it
        would otherwise go on from the last sample's.
        """
        batch = np.ascontiguousarray(self._rounded(batch), dtype=self._input["dtype"])
        if self._is_single and len(batch) > 0:
            return np.concatenate([self._invoked(sample[None]) for sample in batch])
        return self._invoked(batch)

    def _invoked(self, batch: np.ndarray) -> np.ndarray:
        if self._is_single:
            self._interpreter.reset_all_variables()
        if batch.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input["index"], batch.shape)
            self._interpreter.allocate_tensors()
            self._shape = batch.shape
        self._interpreter.set_tensor(self._input["index"], batch)
        self._interpreter.invoke()
        outputs: np.ndarray = self._interpreter.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        if outputs.dtype == np.int8:
            outputs = (outputs.astype(np.float32) - zero_point) * np.float32(scale)
        return outputs

    def _rounded(self, batch: np.ndarray) -> np.ndarray:
        """Inputs as the file takes them."""
        if self._input["dtype"] != np.int8:
            return batch
        scale, zero_point = self._input["quantization"]
        levels = np.rint(batch / np.float32(scale)) + zero_point
        rounded: np.ndarray = np.clip(levels, -128, 127).astype(np.int8)
        return rounded

    def timed(self, sample: np.ndarray) -> Callable[[], object]:
        """One inference of a (1, ...) sample by an interpreter of its own, inputs in place."""
        single = Session(self._data)
        single(sample)
        invoke: Callable[[], object] = single._interpreter.invoke
        if not single._is_single:
            return invoke
        reset = single._interpreter.reset_all_variables
        return lambda: (reset(), invoke())
