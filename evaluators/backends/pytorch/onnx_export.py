"""A network's graph as ONNX, by torch's own exporter."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.artifacts.base import CannotHold
from evaluators.artifacts.onnx.shapes import fold_shapes
from evaluators.backends.pytorch.export import plain_state
from evaluators.backends.pytorch.progress_bars import lock_in_this_process_only

__all__ = ["export_graph"]

#: What the exporter writes without being asked for more.
_OPSET = 21


def export_graph(model: nn.Module, sample: Tensor) -> bytes:
    """The network with its weights as initializers under their own names, any batch size.

    Args:
        model: in eval mode, on the CPU.
        sample: (1, ...) prepared input.

    Raises:
        CannotHold: the exporter cannot translate the network.
    """
    # Two samples: a batch of one would be taken for a constant.
    plain, simplified = _export(model, torch.cat([sample, sample]))
    # Simplified graphs are faster to load, but a folded batch-norm has no place for its own values.
    names = {initializer.name for initializer in simplified.graph.initializer}
    wanted = {n for n in plain_state(model) if not n.endswith("num_batches_tracked")}
    exported = simplified if wanted <= names else plain
    fold_shapes(exported)
    data: bytes = exported.SerializeToString()
    return data


def _export(model: nn.Module, batch: Tensor) -> tuple[Any, Any]:
    """The graph as torch wrote it, and simplified: one tracing, which is what takes the time."""
    lock_in_this_process_only()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (batch.clone(),),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=_OPSET,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )
            assert program is not None
            plain = program.model_proto
            program.optimize()
            simplified = program.model_proto
    except Exception as error:  # the exporter's own classes have no common base
        reason = str(error).strip().partition("\n")[0]
        raise CannotHold("", f"onnx: torch cannot export the network: {reason}") from error
    finally:
        logger.setLevel(level)
    if len(plain.graph.input) != 1 or len(plain.graph.output) != 1:
        raise CannotHold("", "onnx: the network must have one input and one output")
    return plain, simplified
