"""What the file pays for the position of a weight, estimated from where the others are left.

Coder 2 (`evaluators/artifacts/packed/mixing.py`) predicts each cell of a mask from how full its
row and its column are and from its neighbours along the inputs, in one row and in the rows around.
A weight where many survive is cheap; a lone one costs log2 of the cells it could have been in. The
coder itself is adaptive and sequential, so it cannot be asked about single cells; this estimate
mixes the same evidence in the logistic domain, as the coder does (Mahoney 2005, PAQ6), with fixed
weights instead of learned ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["position_bits", "rate_importance"]

#: Bits of a survivor's value: what its position costs is added to these, for they are paid too.
VALUE_BITS = 2.0
#: A line's count is mixed with so many cells of the density it would have by chance.
LINE_PRIOR_CELLS = 8.0
#: The same of a neighbourhood.
LOCAL_PRIOR_CELLS = 4.0
#: Rows, columns, neighbours in the same row: how far each draws the prediction from the density.
ROW_WEIGHT, COLUMN_WEIGHT, LOCAL_WEIGHT = 1.0, 1.0, 1.0
#: Cells to each side that count as neighbours.
REACH = 2
#: No position is predicted with more confidence than this: the coder learns, it does not know.
LEAST_P, MOST_P = 1e-4, 0.9


def rate_importance(magnitude: Tensor, mask: Tensor, picture: tuple[int, ...] | None) -> Tensor:
    """Squared magnitude a bit: what is worth keeping for what the file pays.

    Keeping the weights with w^2 - lambda * bits > 0 is the best trade of squared error for bits at
    one price lambda (Shoham and Gersho 1988). That is w^2 / bits > lambda, so taking the greatest
    ratios until a layer's sparsity is met chooses lambda for it, whatever the scale of its weights.

    Args:
        magnitude: (outputs, inputs, ...) not negative.
        mask: of the same shape, 1 where a weight is left now.
        picture: see `position_bits`.

    Returns:
        (outputs, inputs, ...), not negative.
    """
    return magnitude.square() / (VALUE_BITS + position_bits(mask, picture))


@torch.no_grad()
def position_bits(mask: Tensor, picture: tuple[int, ...] | None = None) -> Tensor:
    """-log2 p(kept | row, column, neighbours) of every cell, itself left out of the evidence.

    Args:
        mask: (outputs, inputs, ...) of zeros and ones.
        picture: (channels, height, width) of a linear layer's inputs, where they are a picture;
            a convolution's kernel is one as it is.

    Returns:
        Bits, of the mask's shape; equal for all cells of a mask of ones.
    """
    kept = mask.float().flatten(1)
    rows, columns = kept.shape
    density = (kept.mean()).clamp(LEAST_P, MOST_P)
    by_row = _smoothed(kept.sum(1, keepdim=True) - kept, columns - 1.0, density, LINE_PRIOR_CELLS)
    around, cells = _neighbours(mask.float(), picture)
    others = kept.sum(0) - kept
    # What a column's own cells leave open, the columns beside it say.
    beside = (around.sum(0) - around + LINE_PRIOR_CELLS * density) / (
        cells * max(rows - 1, 0) + LINE_PRIOR_CELLS
    )
    by_column = _smoothed(others, rows - 1.0, beside, LINE_PRIOR_CELLS)
    local = _smoothed(around, cells, density, LOCAL_PRIOR_CELLS)
    centre = torch.logit(density)
    evidence = (
        ROW_WEIGHT * (_logit(by_row) - centre)
        + COLUMN_WEIGHT * (_logit(by_column) - centre)
        + LOCAL_WEIGHT * (_logit(local) - centre)
    )
    p = torch.sigmoid(centre + evidence).clamp(LEAST_P, MOST_P)
    return -torch.log2(p).view(mask.shape)


def _smoothed(count: Tensor, cells: Tensor | float, prior: Tensor, strength: float) -> Tensor:
    return (count + strength * prior) / (cells + strength)


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p.clamp(LEAST_P, MOST_P))


def _neighbours(mask: Tensor, picture: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """Survivors within REACH of each cell in its row, and how many cells there are.

    Returns:
        (outputs, cells of a row) and (1, cells of a row); zeros where inputs have no geometry.
    """
    shape = tuple(mask.shape[1:]) if picture is None else picture
    places = shape[1:]
    if not 1 <= len(places) <= 2:
        flat = mask.flatten(1)
        return torch.zeros_like(flat), torch.zeros_like(flat[:1])
    # As (maps, 1, height, width); a one-dimensional kernel has height 1.
    height, width = (1, *places)[-2:]

    def around(maps: Tensor) -> Tensor:
        flat = maps.reshape(-1, 1, height, width)
        side = 2 * REACH + 1
        sums = F.avg_pool2d(flat, side, 1, REACH, count_include_pad=True) * side**2
        return (sums - flat).round().reshape(maps.shape[0], -1)

    return around(mask), around(torch.ones_like(mask[:1]))
