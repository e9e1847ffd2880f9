"""Expected hypervolume improvement when only the first of three objectives is uncertain.

Size and latency are known before training, so the improvement is a sum over the loss's intervals
between members of the front: in each, the area of (ln size, ln latency) that the candidate alone
would dominate, times how far its loss reaches into the interval (a special case of Emmerich et al.
2011, CEC, whose cells have an uncertain side in every objective).
"""

import numpy as np

from spaces.front import nondominated

__all__ = ["expected_improvement"]

#: Nodes and weights of the standard normal's Gauss-Hermite quadrature.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(17)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def expected_improvement(
    front: np.ndarray, losses: np.ndarray, known: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Hypervolume each candidate is expected to add.

    Args:
        front: (m, 3) points (loss, ln size, ln latency) so far; dominated ones do no harm.
        losses: (n, quadrature nodes) each candidate's loss at the nodes, see `at_nodes`.
        known: (n, 2) its ln size and ln latency.
        reference: (3,), the hypervolume's.

    Returns:
        (n,) at least 0.
    """
    inside = front[(front < reference).all(axis=1)] if len(front) else front
    inside = inside[nondominated(inside)] if len(inside) else inside.reshape(0, 3)
    inside = inside[np.argsort(inside[:, 0], kind="stable")]
    edges = np.concatenate(([-np.inf], inside[:, 0], [reference[0]]))
    total = np.zeros(losses.shape)
    for i in range(len(edges) - 1):
        # From this loss on, the first i members dominate what they dominate whatever the loss.
        areas = _own_areas(inside[:i, 1:], known, reference[1:])
        low = np.maximum(losses, edges[i])
        total += areas[:, None] * np.maximum(edges[i + 1] - low, 0.0)
    improvement: np.ndarray = total @ _WEIGHTS
    return improvement


def at_nodes(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(n,), (n,) of a normal variable -> (n, nodes) its values at the quadrature's nodes."""
    values: np.ndarray = mean[:, None] + deviation[:, None] * _NODES
    return values


def _own_areas(members: np.ndarray, known: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """(n,) area between each candidate and the corner that no member (m, 2) dominates."""
    room = np.maximum(corner - known, 0.0)
    areas: np.ndarray = room[:, 0] * room[:, 1]
    if len(members) == 0:
        return areas
    steps = members[nondominated(members)]
    steps = steps[np.argsort(steps[:, 0])]
    ends = np.append(steps[1:, 0], corner[0])
    widths = np.maximum(ends, known[:, :1]) - np.maximum(steps[:, 0], known[:, :1])
    heights = np.maximum(corner[1] - np.maximum(steps[:, 1], known[:, 1:]), 0.0)
    taken = (np.maximum(widths, 0.0) * heights).sum(axis=1)
    left: np.ndarray = np.maximum(areas - taken, 0.0)
    return left
