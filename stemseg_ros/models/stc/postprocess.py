"""Postprocessing: predictions of all locations to detections and masks.

The two published implementations of CondInst differ here; ``condinst.variant`` selects one, and
docs/parity.md lists the differences.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import nms

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.stc.heads import Grid, HeadOutput
from stemseg_ros.models.stc.mask_head import MASK_STRIDE, predict_masks
from stemseg_ros.models.stc.settings import CondInstConfig

UPSAMPLING = MASK_STRIDE
"""Factor of the aligned upsampling from mask logits to the input."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """D detections of an image, best score first."""

    boxes: Tensor
    """(D, 4) x1, y1, x2, y2 in pixels of the network input."""
    scores: Tensor
    """(D,) in [0, 1]."""
    labels: Tensor
    """(D,) int64, class index from 0."""
    locations: Tensor
    """(D,) int64, index of the location on the grid."""

    def take(self, chosen: Tensor) -> Detections:
        """Select by index or mask."""
        return Detections(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.locations[chosen]
        )


def detect(
    head: HeadOutput, grid: Grid, geometry: Letterbox, config: CondInstConfig
) -> Detections:
    """Select the detections of one image (N = 1).

    Boxes of the variant mmdet are clipped to the resized image; those of adelaidet only by
    ``scale_boxes``.
    """
    candidates = select_candidates(head, grid, config)
    if config.variant == "mmdet":
        candidates = _without_empty(_clip(candidates, geometry.resized_size))
    kept = candidates.take(_suppress(candidates, config.suppression_iou))
    if len(kept.scores) <= config.max_detections:
        return kept
    if config.variant == "mmdet":
        return kept.take(torch.arange(config.max_detections, device=kept.scores.device))
    return kept.take(kept.scores >= kept.scores[config.max_detections - 1])  # ties are kept


def select_candidates(head: HeadOutput, grid: Grid, config: CondInstConfig) -> Detections:
    """Select the best pairs of location and class of each level; boxes are not clipped.

    mmdet: threshold and ranking by class probability, score class * centerness. adelaidet:
    threshold and ranking by class * centerness, score its square root.
    """
    adelaidet = config.variant == "adelaidet"
    classes = head.class_logits[0].sigmoid()  # (L, C)
    centerness = head.centerness_logits[0].sigmoid()[:, None]  # (L, 1)
    ranking = classes * centerness if adelaidet else classes
    chosen, first = [], 0
    for length in grid.level_lengths:
        level = ranking[first : first + length].flatten()
        above = (level > config.candidate_score).nonzero().squeeze(1)
        order = level[above].sort(descending=True, stable=True).indices
        best = above[order[: config.level_candidates]]
        chosen.append(best + first * ranking.shape[1])
        first += length
    flat = torch.cat(chosen)
    locations, labels = flat // ranking.shape[1], flat % ranking.shape[1]
    scores = ranking[locations, labels]
    scores = scores.sqrt() if adelaidet else scores * centerness[locations, 0]
    return Detections(_boxes(head.distances[0], grid, locations), scores, labels, locations)


def scale_boxes(detections: Detections, geometry: Letterbox, config: CondInstConfig) -> Detections:
    """Scale boxes to pixels of the source image; adelaidet also clips them and drops empty
    ones."""
    (height, width), (h, w) = geometry.image_size, geometry.resized_size
    ratios = detections.boxes.new_tensor([w / width, h / height, w / width, h / height])
    scaled = replace(detections, boxes=detections.boxes / ratios)
    if config.variant == "mmdet":
        return scaled
    return _without_empty(_clip(scaled, geometry.image_size))


def predict_detection_masks(
    detections: Detections, head: HeadOutput, features: Tensor, grid: Grid
) -> Tensor:
    """Predict mask logits (D, h, w), stride 4, of the detections of one image. features:
    (1, 8, h', w')."""
    where = detections.locations
    return predict_masks(
        features[0], head.parameters[0, where], grid.points[where], grid.strides[where]
    )


def resize_mask(
    probabilities: npt.NDArray[np.float32], geometry: Letterbox, threshold: float
) -> tuple[npt.NDArray[np.bool_], int, int]:
    """Resize a mask to the image; returns its bool crop, top and left, or an empty crop.

    probabilities: (h, w), stride 4 of the padded input. They are upsampled to the input (aligned),
    cropped to the resized image, resized bilinearly to the image, and thresholded. The steps are
    linear and separable, so each axis is one small matrix, restricted to the cells that matter.
    """
    # Pixels are weighted means of cells, so none is above the threshold if no cell is.
    high = probabilities > threshold
    if not high.any():
        return np.zeros((0, 0), np.bool_), 0, 0
    operators, starts = [], []
    for axis in (0, 1):
        operator = _resize_matrix(
            probabilities.shape[axis], geometry.resized_size[axis], geometry.image_size[axis]
        )
        cells = high.any(1 - axis)
        pixels = np.flatnonzero(operator[:, cells].any(1))
        if not len(pixels):
            return np.zeros((0, 0), np.bool_), 0, 0
        starts.append(int(pixels[0]))
        operators.append(operator[pixels[0] : pixels[-1] + 1])
    (top, bottom), (left, right) = (
        _used_range(np.asarray(operator.any(0))) for operator in operators
    )
    part = probabilities[top:bottom, left:right]
    resized = operators[0][:, top:bottom] @ part @ operators[1][:, left:right].T
    return resized > threshold, starts[0], starts[1]


def _boxes(distances: Tensor, grid: Grid, locations: Tensor) -> Tensor:
    points = grid.points[locations]
    reach = distances[locations] * grid.strides[locations, None]
    return torch.cat((points - reach[:, :2], points + reach[:, 2:]), 1)


def _clip(detections: Detections, size: tuple[int, int]) -> Detections:
    height, width = size
    limits = detections.boxes.new_tensor([width, height, width, height])
    return replace(detections, boxes=detections.boxes.clamp(min=0).minimum(limits))


def _without_empty(detections: Detections) -> Detections:
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    return detections.take((sides > 0).all(1))


def _suppress(detections: Detections, threshold: float) -> Tensor:
    """Return the indices that class-wise non-maximum suppression keeps, best score first."""
    boxes = detections.boxes
    if not len(boxes):
        return detections.labels
    shift = detections.labels.to(boxes.dtype) * (boxes.max() + 1)
    kept: Tensor = nms(boxes + shift[:, None], detections.scores, threshold)
    return kept


@lru_cache(maxsize=16)
def _resize_matrix(cells: int, resized: int, size: int) -> npt.NDArray[np.float32]:
    """Build the matrix (pixels, cells) of one axis: aligned upsampling, crop, bilinear
    resizing."""
    position = np.maximum(np.arange(resized) - UPSAMPLING // 2, 0) / UPSAMPLING
    operator = _interpolation_matrix(position, cells)
    if resized != size:
        position = np.maximum((np.arange(size) + 0.5) * resized / size - 0.5, 0.0)
        operator = _interpolation_matrix(position, resized) @ operator
    return operator.astype(np.float32)


def _interpolation_matrix(
    position: npt.NDArray[np.float64], cells: int
) -> npt.NDArray[np.float64]:
    """Build the matrix that interpolates ``cells`` values at positions >= 0, extrapolating the
    last."""
    low = np.minimum(position.astype(int), cells - 1)
    high = np.minimum(low + 1, cells - 1)
    matrix = np.zeros((len(position), cells))
    np.add.at(matrix, (np.arange(len(position)), low), 1.0 - (position - low))
    np.add.at(matrix, (np.arange(len(position)), high), position - low)
    return matrix


def _used_range(used: npt.NDArray[np.bool_]) -> tuple[int, int]:
    indices = np.flatnonzero(used)
    return int(indices[0]), int(indices[-1]) + 1
