"""Appearance of given masks by the tracking head of STC."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from stemseg_ros.evaluation.linkers import Floats, FrameMasks, mask_corners
from stemseg_ros.formats.sequence_masks import EvaluationError
from stemseg_ros.models.stc.condinst import ImageOutput
from stemseg_ros.models.stc.heads import Grid, location_grid
from stemseg_ros.models.stc.input_format import letterbox, network_input
from stemseg_ros.models.stc.settings import Settings
from stemseg_ros.models.stc.targets import Truth, assign_locations, mask_centroids
from stemseg_ros.stream import Model


class MaskEmbedder:
    """Reads embeddings where training would look for an object of the mask's place and size."""

    def __init__(self, model: Model) -> None:
        """Raises EvaluationError for a model without embeddings."""
        config = model.config
        if not isinstance(config, Settings) or not config.tracking.enabled:
            raise EvaluationError(
                f"{config.name} has no embeddings of masks; the linkers ri and stc want a model "
                "with a tracking head (--config stc_lite). Masks of another model are linked from "
                "stored results (--results)"
            )
        self._config, self._engine = config, model.engine

    def __call__(self, frame: FrameMasks) -> Floats:
        """(K, E): the mean over the locations of each mask."""
        fitted = letterbox((frame.image.shape[0], frame.image.shape[1]), self._config.input)
        pixels = network_input(frame.image, fitted, self._config.condinst.variant)
        device = self._engine.device
        (outputs,) = self._engine.run("detect", [(pixels[0].to(device),)])
        embeddings = ImageOutput.of(outputs).head.embeddings[0].double().cpu().numpy()
        grid = location_grid(fitted.padded_size)
        height, width = fitted.resized_size
        found = np.zeros((len(frame.masks), embeddings.shape[1]))
        for row, mask in enumerate(frame.masks):
            padded = np.zeros(fitted.padded_size, np.uint8)
            padded[:height, :width] = cv2.resize(
                mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
            )
            found[row] = embeddings[self._locations(padded, grid)].mean(0)
        return found

    def _locations(self, mask: np.ndarray, grid: Grid) -> list[int]:
        """Those that training would assign to the mask (H'', W''); the nearest to its centroid on
        the finest level if there are none."""
        masks = torch.from_numpy(mask)[None]
        box = torch.tensor([mask_corners(mask > 0)], dtype=torch.float32)
        one = torch.ones(1, dtype=torch.int64)
        truth = Truth(box, one - 1, masks, one)
        radius = self._config.condinst.center_radius
        positive: list[int] = assign_locations(truth, grid, 1, radius).positive.tolist()
        if positive:
            return positive
        finest = grid.points[: grid.level_lengths[0]].double()
        return [int((finest - mask_centroids(masks)).square().sum(1).argmin())]
