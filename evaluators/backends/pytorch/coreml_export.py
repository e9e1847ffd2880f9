"""A network's program for Core ML, by coremltools' converter of traced networks."""

import contextlib
import functools
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.artifacts.base import CannotHold
from evaluators.backends.pytorch.progress_bars import lock_in_this_process_only

__all__ = ["export_program", "quiet"]

#: Tracing, not torch.export: the latter's convolutions and recurrent layers do not convert.
_INPUT = "input"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without coremltools' progress bars and its remarks that this machine is not a Mac."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    lock_in_this_process_only()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@functools.cache
def _convert_sizes(ct: Any) -> None:
    """Teach the converter that an array of one element is a number.

    coremltools 9.0 calls `int` on it where a network computes with the sizes of its values, as
    ResNet-20's shortcuts do; since NumPy 2.4 that is an error.
    """
    mil = ct.converters.mil

    def as_number(context: Any, node: Any) -> None:
        (given,) = (context[name] for name in node.inputs)
        if given.val is not None:
            number = mil.Builder.const(val=int(np.asarray(given.val).item()), name=node.name)
        else:
            scalar = mil.Builder.squeeze(x=given) if given.shape else given
            number = mil.Builder.cast(x=scalar, dtype="int32", name=node.name)
        context.add(number, node.name)

    mil.register_torch_op(as_number, torch_alias=["int"], override=True)


def export_program(model: nn.Module, sample: Tensor) -> Any:
    """The network as a program in half precision, its weights under their own names.

    Args:
        model: in eval mode, on the CPU.
        sample: (1, ...) prepared input; the program takes one such sample.

    Raises:
        CannotHold: the converter cannot translate the network.
    """
    # Imported inside `quiet`, as the caller makes sure.
    from evaluators.artifacts.mlpackage.alone import coremltools as ct  # noqa: PLC0415
    from evaluators.artifacts.mlpackage.package import pass_pipeline  # noqa: PLC0415

    _convert_sizes(ct)
    whole = np.float32 if sample.is_floating_point() else np.int32
    try:
        with torch.no_grad():
            traced = torch.jit.trace(model, sample.clone())
        return ct.convert(
            traced,
            inputs=[ct.TensorType(name=_INPUT, shape=tuple(sample.shape), dtype=whole)],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT16,
            convert_to="milinternal",
            pass_pipeline=pass_pipeline(),
        )
    except Exception as error:  # the converter's own classes have no common base
        reason = str(error).strip().partition("\n")[0]
        raise CannotHold("", f"mlpackage: the network cannot be converted: {reason}") from error
