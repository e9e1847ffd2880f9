"""Products with a few weights, the batch innermost: what is zero costs nothing.

Compiled by numba. Each weight is one multiply-add over a contiguous row of the batch, so that the
processor's vector units are full however irregular the positions are. Sums run in a fixed order.
"""

import numba
import numpy as np

__all__ = ["outputs", "weight_gradients"]

#: Lets the compiler sum a dot product in vector lanes; NaN and infinity keep their meaning, because
#: a training loop looks for them.
_VECTORISED = {"reassoc", "contract", "nsz"}


@numba.njit(cache=True, fastmath=_VECTORISED)
def outputs(
    starts: np.ndarray, columns: np.ndarray, values: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
    """(rows, batch) = W (rows, columns) @ inputs (columns, batch).

    Args:
        starts: (rows + 1,) int64, where each row's weights begin.
        columns: (n,) int64, of each weight.
        values: (n,) float32.
        inputs: (columns, batch) float32, contiguous.
    """
    rows, batch = len(starts) - 1, inputs.shape[1]
    result = np.zeros((rows, batch), dtype=np.float32)
    for row in range(rows):
        for at in range(starts[row], starts[row + 1]):
            value, column = values[at], columns[at]
            for b in range(batch):
                result[row, b] += value * inputs[column, b]
    return result


@numba.njit(cache=True, fastmath=_VECTORISED)
def weight_gradients(
    starts: np.ndarray, columns: np.ndarray, gradients: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
    """(n,): for each weight, its row of gradients (rows, batch) times its column of inputs."""
    result = np.empty(len(columns), dtype=np.float32)
    for row in range(len(starts) - 1):
        for at in range(starts[row], starts[row + 1]):
            column = columns[at]
            total = np.float32(0.0)
            for b in range(gradients.shape[1]):
                total += gradients[row, b] * inputs[column, b]
            result[at] = total
    return result
