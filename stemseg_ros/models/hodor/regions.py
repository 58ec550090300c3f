"""Regions for the encoder, masks at stride 8: 9 cells of the background, then the objects.

Downsampling by 8 is bilinear: the mean of the 4 central pixels of each 8x8 block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stemseg_ros.models.hodor.settings import BACKGROUND_GRID

STRIDE = 8
"""Pixels of the padded network input per cell of the maps that are described."""
GRID_STRIDE = 4
"""Pixels of the padded network input per cell of the logits."""


def regions_from_given(masks: Tensor, content: tuple[int, int]) -> Tensor:
    """Compute the regions of given masks.

    masks: (..., I, H, W) in [0, 1] at the padded input size; they may overlap.
    content: rows and columns, from the top left, that the grid of the background covers.
    Returns (..., 9 + I, H/8, W/8) in [0, 1].
    """
    background = (masks.sum(-3) == 0).to(masks.dtype)
    return downsample_by_8(torch.cat((split_into_cells(background, content), masks), -3))


def regions_from_predicted(masks: Tensor, content: tuple[int, int]) -> Tensor:
    """Compute the regions of predicted masks (..., I, h, w) at stride 8 and of their background.

    The grid is laid over the stride-8 map, so its cells differ from those of given masks.
    """
    background = 1 - masks.sum(-3)
    return torch.cat((split_into_cells(background, content), masks), -3)


def split_into_cells(background: Tensor, content: tuple[int, int]) -> Tensor:
    """Split a map (..., H, W) by the cells of a 3x3 grid: (..., 9, H, W), zero outside each cell.

    The last row and column of cells take the remainder of the division.
    """
    rows, columns = (
        _in_cell(side, inside, background.device)
        for side, inside in zip(background.shape[-2:], content, strict=True)
    )
    cells = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)
    return background[..., None, :, :] * cells


def downsample_by_8(maps: Tensor) -> Tensor:
    """Downsample (..., H, W) to (..., H/8, W/8), bilinear without antialiasing."""
    near, far = STRIDE // 2 - 1, STRIDE // 2
    corners = [
        maps[..., row::STRIDE, column::STRIDE] for row in (near, far) for column in (near, far)
    ]
    return torch.stack(corners).mean(0)


def average_by_4(masks: Tensor) -> Tensor:
    """Average masks (..., H, W) over the cells of the logits: float32 (..., H/4, W/4)."""
    blocks = masks.float().unflatten(-1, (-1, GRID_STRIDE)).unflatten(-3, (-1, GRID_STRIDE))
    averaged: Tensor = blocks.mean((-3, -1))
    return averaged


def _in_cell(side: int, content: int, device: torch.device) -> Tensor:
    """Mark the rows (or columns) of each row (or column) of the grid: bool (3, side)."""
    positions = torch.arange(side, device=device)
    step = max(content // BACKGROUND_GRID, 1)
    cell = (positions // step).clamp(max=BACKGROUND_GRID - 1)
    cells = torch.arange(BACKGROUND_GRID, device=device)[:, None]
    return (cell == cells) & (positions < content)
