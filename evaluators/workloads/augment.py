"""Stored augmented copies of small pictures: distorted grey ones; shifted, mirrored colour ones.

Stored, because making one costs ten times what a training step of a small network does, and because
a teacher's logits can then be stored beside them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["augmented_copies", "shifted_copies"]

#: Largest rotation, shear (both ways), relative scale and shift, each drawn uniformly.
ROTATION = math.radians(12)
SHEAR = 0.12
SCALE = 0.12
SHIFT_PX = 1.6
#: Elastic distortion: displacements drawn on a coarse grid, bicubic between (Ronneberger et al.
#: 2015, arXiv 1505.04597, section 3.1).
ELASTIC_GRID = 5
ELASTIC_PX = 1.2
BATCH = 5000


def augmented_copies(images: Tensor, copies: int, seed: int, strength: float = 1.0) -> Tensor:
    """The pictures as they are, then distorted ones: copy k of picture i is row k * n + i.

    Args:
        images: (n, height, width) uint8.
        copies: how many sets in all, the first undistorted.
        seed: of the distortions.
        strength: what the bounds of all distortions are multiplied by.

    Returns:
        (copies * n, height, width) uint8.
    """
    generator = torch.Generator().manual_seed(seed)
    sets = [images]
    for _ in range(copies - 1):
        sets += [_distorted(batch, generator, strength) for batch in images.split(BATCH)]
    return torch.cat(sets)


def _distorted(batch: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """(n, height, width) uint8 -> the same shape, each picture distorted on its own."""
    count, height, width = batch.shape
    grid = F.affine_grid(
        _affine(count, width, generator, strength), [count, 1, height, width], False
    )
    grid += strength * _elastic(count, height, width, generator)
    pictures = F.grid_sample(batch.unsqueeze(1).float(), grid, align_corners=False)
    return pictures.squeeze(1).round_().clamp_(0, 255).to(torch.uint8)


def _affine(count: int, width: int, generator: torch.Generator, strength: float) -> Tensor:
    """(n, 2, 3) matrices: rotation, then scale and shear, then a shift."""

    def uniform(bound: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * bound * strength

    angle, shear = uniform(ROTATION), uniform(SHEAR)
    scale_x, scale_y = 1 + uniform(SCALE), 1 + uniform(SCALE)
    shift = 2 * SHIFT_PX / width  # the grid runs from -1 to 1
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, uniform(shift)], dim=1),
        torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, uniform(shift)], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _elastic(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(n, height, width, 2) smooth displacements in the grid's units."""
    coarse = torch.randn(count, 2, ELASTIC_GRID, ELASTIC_GRID, generator=generator)
    field = F.interpolate(coarse * ELASTIC_PX, (height, width), mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])


#: Largest shift of `shifted_copies`, each way.
CROP_PX = 4


def shifted_copies(images: Tensor, copies: int, seed: int) -> Tensor:
    """The pictures as they are, then shifted and mirrored ones: copy k of i is row k * n + i.

    Shifts of up to 4 pixels into zeros, half of the pictures mirrored: what CIFAR's networks are
    trained with (He et al. 2015, arXiv 1512.03385, section 4.2).

    Args:
        images: (n, channels, height, width) uint8.
        copies: how many sets in all, the first as it is.
        seed: of the shifts.

    Returns:
        (copies * n, channels, height, width) uint8.
    """
    generator = torch.Generator().manual_seed(seed)
    count, _, height, width = images.shape
    sets = [images]
    for _ in range(copies - 1):
        mirrored = torch.rand(count, generator=generator) < 0.5
        down, right = torch.randint(2 * CROP_PX + 1, (2, count), generator=generator)
        copy = torch.empty_like(images)
        for batch in torch.arange(count).split(BATCH):
            wide = F.pad(images[batch], [CROP_PX] * 4)
            rows = down[batch, None] + torch.arange(height)
            columns = right[batch, None] + torch.arange(width)
            columns = torch.where(mirrored[batch, None], columns.flip(1), columns)
            each = torch.arange(len(batch))[:, None, None]
            # Advanced indices put the channels last.
            copy[batch] = wide[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        sets.append(copy)
    return torch.cat(sets)
