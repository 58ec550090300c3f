"""Mixing functions phi: coordinates that are added to the embeddings (Sec. 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from stemseg_ros.geometry import GRID_STRIDE

PIXELS_PER_UNIT = 256.0
"""Unit of the ``pixels`` grid: one embedding unit in pixels of the network input."""


def coordinate_grid(
    mixing: str, size: tuple[int, int, int], unit: str, time_scale: Tensor
) -> Tensor:
    """Offsets phi(0) as float32 (1, E, T, h, w) for a window of ``size`` (T, h, w).

    Channels in the order (t, y, x), then zeros for free dimensions. With unit "image", x runs from
    -max(1, w / h) to max(1, w / h) and y likewise; with "pixels", they are cell centres in units
    of 256 px. t runs from -time_scale to time_scale in both.
    """
    length, height, width = size
    device = time_scale.device
    if unit == "image":
        y_end, x_end = max(1.0, height / width), max(1.0, width / height)
        y = torch.linspace(-y_end, y_end, height, device=device)
        x = torch.linspace(-x_end, x_end, width, device=device)
    else:
        step = GRID_STRIDE / PIXELS_PER_UNIT
        y = (torch.arange(height, device=device) + 0.5) * step
        x = (torch.arange(width, device=device) + 0.5) * step
    t = torch.linspace(-1.0, 1.0, length, device=device) * time_scale
    axes = {"t": t.view(-1, 1, 1), "y": y.view(1, -1, 1), "x": x.view(1, 1, -1)}
    zero = torch.zeros((), device=device)
    channels = [axes[axis].expand(size) for axis in "tyx" if axis in mixing]
    channels += [zero.expand(size)] * mixing.count("f")
    return torch.stack(channels).unsqueeze(0)
