"""Motion of the image between two frames, with which masks and features of the previous frame are
moved to this one; not in the paper.

The network looks for an object near its previous mask (``network.previous_masks``, the refiner,
``propagation.reach``). In a turning or driving camera's image, objects are elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.geometry import Letterbox

Grey = npt.NDArray[np.uint8]
"""(H'/2, W'/2), brightness of a frame at half the padded input size."""
SHRINK = 2
"""Pixels of the padded input per pixel of a grey image."""


def shrink(image: npt.NDArray[np.uint8], geometry: Letterbox) -> Grey:
    """Convert an image, uint8 (H, W, 3), BGR, to the grey one that motion is computed from."""
    height, width = (side // SHRINK for side in geometry.padded_size)
    rows, columns = (-(-side // SHRINK) for side in geometry.resized_size)
    grey = np.zeros((height, width), np.uint8)
    part = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    grey[:rows, :columns] = cv2.cvtColor(part, cv2.COLOR_BGR2GRAY)
    return grey


class Motion:
    """Dense optical flow (DIS) from a frame back to the previous one."""

    def __init__(self, current: Grey, earlier: Grey, device: torch.device) -> None:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        still = np.zeros((*current.shape, 2), np.float32)
        found = np.asarray(search.calc(current, earlier, still), np.float32)
        flow = torch.from_numpy(found).to(device)
        self._flow = flow.permute(2, 0, 1)[None] * SHRINK
        """(1, 2, H'/2, W'/2), columns and rows in pixels of the input."""
        self._positions: dict[tuple[int, int], Tensor] = {}

    def move(self, maps: Tensor) -> Tensor:
        """Move maps (N, h, w) at stride 4 or 8 of the previous frame to where they are in this
        one; beyond the border they are continued."""
        size = (maps.shape[-2], maps.shape[-1])
        if size not in self._positions:
            self._positions[size] = self._origin(size)
        moved = F.grid_sample(
            maps[None].float(), self._positions[size], padding_mode="border", align_corners=False
        )
        return moved[0].to(maps.dtype)

    def move_masks(self, masks: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Move masks (h, w) by id."""
        if not masks:
            return {}
        return dict(zip(masks, self.move(torch.stack(list(masks.values()))), strict=True))

    def _origin(self, size: tuple[int, int]) -> Tensor:
        """Where each cell of a map was, as ``grid_sample`` takes it: (1, h, w, 2) in [-1, 1]."""
        stride = self._flow.shape[-1] * SHRINK // size[1]
        flow = F.avg_pool2d(self._flow, stride // SHRINK) / stride
        device = flow.device
        rows, columns = torch.meshgrid(
            *(torch.arange(side, device=device) + 0.5 for side in size), indexing="ij"
        )
        places = torch.stack((columns + flow[0, 0], rows + flow[0, 1]), -1)
        return (places * 2 / torch.tensor(size[::-1], device=device) - 1)[None]
