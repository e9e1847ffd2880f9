"""What ONNX Runtime makes of a file when it loads it."""

from pathlib import Path

import onnx
import onnxruntime

__all__ = ["operators"]


def operators(data: bytes, folder: Path) -> list[str]:
    """What the runtime makes of the file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]
