"""Masks for the encoder, at stride 8: 9 cells of the background, then the objects.

Reduction by 8 is bilinear, which takes the mean of the 4 central pixels of each 8x8 block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stemseg_ros.models.hodor.settings import BACKGROUND_GRID

STRIDE = 8
"""Pixels of the padded network input per cell of the maps that descriptors come from."""


def regions_from_given(masks: Tensor, content: tuple[int, int]) -> Tensor:
    """Regions from masks that were given.

    masks: (..., I, H, W) in [0, 1] at the padded input size; they may overlap.
    content: rows and columns from the top left that the background's grid covers.
    Returns (..., 9 + I, H/8, W/8) in [0, 1].
    """
    background = (masks.sum(-3) == 0).to(masks.dtype)
    return reduce_by_8(torch.cat((grid_cells(background, content), masks), -3))


def regions_from_predicted(masks: Tensor, content: tuple[int, int]) -> Tensor:
    """The same from predicted masks (..., I, h, w) at stride 8; the background is what they leave.

    The grid is cut on the stride-8 map, so its cells differ from those of given masks.
    """
    background = 1 - masks.sum(-3)
    return torch.cat((grid_cells(background, content), masks), -3)


def grid_cells(background: Tensor, content: tuple[int, int]) -> Tensor:
    """(..., H, W) -> (..., 9, H, W): the map in each cell of a 3x3 grid, zero elsewhere.

    The last row and column of cells take what the division leaves.
    """
    rows, columns = (
        _in_cell(side, inside, background.device)
        for side, inside in zip(background.shape[-2:], content, strict=True)
    )
    cells = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)
    return background[..., None, :, :] * cells


def reduce_by_8(maps: Tensor) -> Tensor:
    """(..., H, W) -> (..., H/8, W/8), bilinear without antialiasing."""
    near, far = STRIDE // 2 - 1, STRIDE // 2
    corners = [
        maps[..., row::STRIDE, column::STRIDE] for row in (near, far) for column in (near, far)
    ]
    return torch.stack(corners).mean(0)


def _in_cell(side: int, content: int, device: torch.device) -> Tensor:
    """bool (3, side): rows (or columns) of each row (or column) of the grid."""
    places = torch.arange(side, device=device)
    step = max(content // BACKGROUND_GRID, 1)
    cell = (places // step).clamp(max=BACKGROUND_GRID - 1)
    cells = torch.arange(BACKGROUND_GRID, device=device)[:, None]
    return (cell == cells) & (places < content)
