"""Masks for the encoder, at stride 8: 9 cells of the background, then the objects.

Reduction by 8 is bilinear, which takes the mean of the 4 central pixels of each 8x8 block.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.settings import BACKGROUND_GRID

STRIDE = 8
"""Pixels of the padded network input per cell of the maps that descriptors come from."""


def regions_from_given(masks: Tensor, content: tuple[int, int]) -> Tensor:
    """Regions from masks that were given.

    masks: (I, H, W) in [0, 1] at the padded input size; they may overlap.
    content: rows and columns from the top left that the background's grid covers.
    Returns (9 + I, H/8, W/8) in [0, 1].
    """
    background = (masks.sum(0) == 0).to(masks.dtype)
    return reduce_by_8(torch.cat((grid_cells(background, content), masks)))


def regions_from_predicted(masks: Tensor, content: tuple[int, int]) -> Tensor:
    """The same from predicted masks (I, h, w) at stride 8; the background is what they leave.

    The grid is cut on the stride-8 map, so its cells differ from those of given masks.
    """
    background = 1 - masks.sum(0)
    return torch.cat((grid_cells(background, content), masks))


def grid_cells(background: Tensor, content: tuple[int, int]) -> Tensor:
    """(H, W) -> (9, H, W): the map in each cell of a 3x3 grid, zero elsewhere.

    The last row and column of cells take what the division leaves.
    """
    cells = background.new_zeros((BACKGROUND_GRID**2, *background.shape))
    rows, columns = (_bounds(side) for side in content)
    for number in range(BACKGROUND_GRID**2):
        row, column = divmod(number, BACKGROUND_GRID)
        part = (
            slice(rows[row], rows[row + 1]),
            slice(columns[column], columns[column + 1]),
        )
        cells[number][part] = background[part]
    return cells


def reduce_by_8(maps: Tensor) -> Tensor:
    """(N, H, W) -> (N, H/8, W/8), bilinear without antialiasing."""
    size = tuple(side // STRIDE for side in maps.shape[-2:])
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _bounds(side: int) -> list[int]:
    step = side // BACKGROUND_GRID
    return [*(step * n for n in range(BACKGROUND_GRID)), side]
