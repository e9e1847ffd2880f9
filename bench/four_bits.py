"""One linear layer of 4-bit weights in ONNX Runtime and in LiteRT: bytes, time, outputs.

`python -m bench.four_bits`. Square layers, one sample, one thread, every form interleaved with the
others of its runtime; the ratio to fp32 is the median over rounds. All forms of a size hold the
very same weights (levels of -7 to 7, one scale an output channel). An input of one 1 among zeros
gives back a column of them, to the last bit where a form does not round its inputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.results import write_results

__all__ = ["main"]

SIZES = (512, 1024, 2048, 4096)
Forms = dict[str, tuple[bytes, Callable[[np.ndarray], np.ndarray]]]


def weights_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """((size, size) levels, (size,) scales)."""
    rng = np.random.default_rng(size)
    levels = rng.integers(-7, 8, (size, size)).astype(np.int32)
    return levels, rng.uniform(0.001, 0.003, size).astype(np.float32)


def onnx_forms(levels: np.ndarray, scale: np.ndarray) -> Forms:
    from onnx import TensorProto, helper, numpy_helper

    from evaluators.artifacts.onnx.runtime import Session
    from evaluators.artifacts.onnx.store import store
    from evaluators.artifacts.packed import FloatTensor, GridTensor

    outputs, inputs = levels.shape
    grid = GridTensor("weight", levels, scale)

    def model(nodes: list[Any], initializers: list[Any]) -> bytes:
        value = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
            for name, width in (("x", inputs), ("y", outputs))
        ]
        graph = helper.make_graph(nodes, "layer", value[:1], value[1:], initializers)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return bytes(made.SerializeToString())

    def stored(tensor: Any, *, integers: bool = False) -> bytes:
        part = store(tensor, integers=integers)
        gemm = helper.make_node("Gemm", ["x", "weight"], ["y"], transB=1)
        return model([*part.nodes, gemm], part.initializers)

    def blocks(size: int, level: int) -> bytes:
        # Two values in a byte, the first in its low half; 8 stands for 0.
        codes = (levels + 8).astype(np.uint8).reshape(outputs, inputs // size, size)
        packed = codes[..., 0::2] | codes[..., 1::2] << 4
        scales = np.repeat(scale, inputs // size)
        made = helper.make_node(
            "MatMulNBits", ["x", "levels", "scales"], ["y"], domain="com.microsoft",
            K=inputs, N=outputs, bits=4, block_size=size, accuracy_level=level,
        )  # fmt: skip
        held = [
            numpy_helper.from_array(packed, "levels"),
            numpy_helper.from_array(scales, "scales"),
        ]
        return model([made], held)

    files = {
        "fp32": stored(FloatTensor("weight", grid.decode())),
        "int4 -> Cast -> Mul (present form)": stored(grid),
        "int4 -> Cast -> DequantizeLinear": stored(grid, integers=True),
    }
    for size in (32, 128):
        for level in (1, 4):
            files[f"MatMulNBits, blocks of {size}, accuracy_level {level}"] = blocks(size, level)
    return {name: (data, Session(data)) for name, data in files.items()}


def litert_forms(levels: np.ndarray, scale: np.ndarray) -> Forms:
    from evaluators.artifacts.packed import Artifact, FloatTensor, GridTensor
    from evaluators.artifacts.tflite.runtime import Session
    from evaluators.artifacts.tflite.store import build
    from evaluators.artifacts.tflite.writer import GraphWriter

    outputs, inputs = levels.shape
    writer = GraphWriter((1, inputs))
    index = writer.weight("weight", levels.shape)
    options: tuple[str, dict[str, Any]] = ("FullyConnectedOptions", {})
    found = writer.apply("FULLY_CONNECTED", [writer.input.index, index, -1], (1, outputs), options)
    template = writer.finish(found)
    grid = GridTensor("weight", levels, scale)
    # The same weights as 8-bit levels: 16 steps for one.
    wide = GridTensor("weight", levels * 16, scale / np.float32(16))
    tensors = {"fp32": FloatTensor("weight", grid.decode()), "int8": wide, "int4": grid}
    files = {name: build(template, Artifact((tensor,))) for name, tensor in tensors.items()}
    return {name: (data, Session(data)) for name, data in files.items()}


def rows_of(runtime: str, size: int, forms: Forms) -> list[dict[str, Any]]:
    from evaluators.latency import _series

    levels, scale = weights_of(size)
    weights = levels.astype(np.float32) * scale[:, None]
    x = np.random.default_rng(1).normal(size=(1, size)).astype(np.float32)
    exact = (x.astype(np.float64) @ weights.T.astype(np.float64))[0]
    calls = [lambda run=run: run(x) for _, run in forms.values()]
    times = _series(calls)
    rows = []
    for (name, (data, run)), series in zip(forms.items(), times, strict=True):
        column = np.zeros((1, size), np.float32)
        column[0, 3] = 1
        error = float(np.abs(run(x)[0] - exact).max() / np.abs(exact).max())
        rows.append(
            {
                "runtime": runtime,
                "layer": f"{size} x {size}",
                "form": name,
                "bytes": len(data),
                "us": 1000 * float(np.median(series)),
                "times faster than fp32": float(np.median(times[0] / series)),
                "weights to the last bit": bool(np.array_equal(run(column)[0], weights[:, 3])),
                "largest error of largest output %": 100 * error,
            }
        )
    return rows


def main() -> None:
    rows = []
    for size in SIZES:
        rows += rows_of("ONNX Runtime", size, onnx_forms(*weights_of(size)))
        rows += rows_of("LiteRT", size, litert_forms(*weights_of(size)))
    write_results(
        "four_bits",
        "A linear layer of 4-bit weights: the runtimes' forms of it",
        "python -m bench.four_bits",
        rows,
        (
            "One sample, one thread; forms of a runtime interleaved, 20 rounds, medians of ratios.",
            "accuracy_level 4 and LiteRT's int8 and int4 round the inputs to 8 bits as they come.",
        ),
    )


if __name__ == "__main__":
    main()
