"""Training of STC: trainable layers, ground truth of labelled frames, and losses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    LabelArray,
    is_group,
    is_object,
)
from stemseg_ros.models.stc.condinst import CondInst, ImageOutput
from stemseg_ros.models.stc.consistency import LocationMasks, consistency_loss, draw_partners
from stemseg_ros.models.stc.contrastive import LocationEmbeddings, contrastive_loss, cosine_loss
from stemseg_ros.models.stc.heads import Grid, HeadOutput, location_grid
from stemseg_ros.models.stc.losses import (
    MaskSample,
    detection_losses,
    mask_loss,
    sample_masks,
    subsample_masks,
)
from stemseg_ros.models.stc.pyramid import LightBody
from stemseg_ros.models.stc.settings import CondInstVariant, Settings
from stemseg_ros.models.stc.targets import LocationTargets, Truth, assign_locations

FRAMES = 2
"""Frames of a sample: key and reference."""


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """N pairs of frames and their ground truth."""

    images: Tensor
    """float32 (N, 2, 3, H, W), normalised."""
    truths: tuple[tuple[Truth, Truth], ...]
    ignored: Tensor
    """bool (N, 2, H, W): unlabelled pixels."""
    names: tuple[str, ...]
    """Name of the sequence of each pair."""

    def split(self, size: int) -> list[FramePairs]:
        """Split into batches of ``size`` pairs; the last may have fewer."""
        parts = [slice(first, first + size) for first in range(0, len(self.names), size)]
        return [
            FramePairs(self.images[part], self.truths[part], self.ignored[part], self.names[part])
            for part in parts
        ]

    def to(self, device: torch.device) -> FramePairs:
        """Move the tensors to a device."""
        return FramePairs(
            self.images.to(device),
            tuple((_to(key, device), _to(reference, device)) for key, reference in self.truths),
            self.ignored.to(device),
            self.names,
        )


def extract_truth(labels: LabelArray, min_pixels: int) -> tuple[Truth, Tensor]:
    """Extract the objects of a labelled frame (H, W), and its unlabelled pixels: bool (H, W).

    Groups and objects of fewer than ``min_pixels`` pixels count as unlabelled. A label is the id
    of an object in its video.
    """
    areas = np.bincount(labels.ravel())
    present = np.flatnonzero(areas)
    objects = present[is_object(present)]
    kept = objects[areas[objects] >= min_pixels]
    small = np.setdiff1d(objects, kept)
    unknown = (labels == IGNORE_LABEL) | is_group(labels) | np.isin(labels, small)
    masks = labels == kept[:, None, None]
    truth = Truth(
        torch.from_numpy(_boxes(masks)),
        torch.from_numpy(kept // CLASS_STEP - 1),
        torch.from_numpy(masks),
        torch.from_numpy(kept),
    )
    return truth, torch.from_numpy(unknown)


def compute_losses(output: ImageOutput, batch: FramePairs, config: Settings) -> dict[str, Tensor]:
    """Compute all losses of a batch; ``total`` is minimised.

    output: float32, of the 2 N images of the batch, each key frame followed by its reference.
    """
    grid = location_grid((batch.images.shape[-2], batch.images.shape[-1]), batch.images.device)
    truths = [truth for pair in batch.truths for truth in pair]
    classes, radius = len(config.classes), config.condinst.center_radius
    targets = [assign_locations(truth, grid, classes, radius) for truth in truths]
    unknown = mark_ignored(batch.ignored.flatten(0, 1), grid)
    variant = config.condinst.variant
    losses = detection_losses(output, targets, variant, unknown)
    samples = sample_masks(targets, variant)
    losses["mask"] = mask_loss(output, samples, truths, grid)
    total = torch.stack(list(losses.values())).sum()
    if config.tracking.enabled:
        rows = [
            _gather_embeddings(output.head, n, target, truths[n], unknown[n], config)
            for n, target in enumerate(targets)
        ]
        losses["contrastive"] = _contrastive(_paired(rows), config)
        total = total + config.contrastive.weight * losses["contrastive"]
    if config.consistency.weight:
        masks = [_gather_masks(output, n, s, truths[n], grid) for n, s in enumerate(samples)]
        losses["consistency"] = _consistency(_paired(masks), config)
        total = total + config.consistency.weight * losses["consistency"]
    return losses | {"total": total}


def mark_ignored(ignored: Tensor, grid: Grid) -> Tensor:
    """Mark the locations whose pixel is ignored, bool (N, H, W) to (N, L); False beyond the image,
    where cells of the coarsest levels may lie."""
    height, width = ignored.shape[-2:]
    x, y = grid.points.long().unbind(1)
    inside = (x < width) & (y < height)
    return ignored[:, y.clamp(max=height - 1), x.clamp(max=width - 1)] & inside


def to_float32(output: ImageOutput) -> ImageOutput:
    """Convert an output to float32, in which losses are computed."""
    head = HeadOutput(*(getattr(output.head, part.name).float() for part in fields(output.head)))
    return ImageOutput(head, output.mask_features.float())


def freeze(network: CondInst, variant: CondInstVariant, stages: int = 2) -> None:
    """Freeze the first ``stages`` parts of the backbone (the stem of a ResNet is one), and for
    adelaidet all its norms; the rest is trained."""
    network.requires_grad_(True)
    for part in backbone_parts(network)[:stages]:
        part.requires_grad_(False)
    if variant == "adelaidet":
        for module in network.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)


def backbone_parts(network: CondInst) -> list[nn.Module]:
    """List the parts of the backbone, from the image on."""
    body = network.backbone
    if isinstance(body, LightBody):
        return list(body.mobilenet.children())
    stem, norm, *stages = body.children()
    return [nn.ModuleList((stem, norm)), *stages]


def output_layers(network: CondInst) -> list[nn.Conv2d]:
    """List the convolutions whose outputs are predictions."""
    head = network.bbox_head
    layers = [head.conv_cls, head.conv_reg, head.conv_centerness, head.controller]
    layers.append(network.mask_head.mask_feature_head.conv_pred)
    return layers if network.tracking_head is None else [*layers, network.tracking_head.output]


def _gather_embeddings(
    head: HeadOutput,
    image: int,
    target: LocationTargets,
    truth: Truth,
    unknown: Tensor,
    config: Settings,
) -> LocationEmbeddings:
    """Gather the embeddings of all positive locations of an image and of random background
    ones."""
    positive = target.positive
    background = ((target.truth < 0) & ~unknown).nonzero().squeeze(1)
    count = max(1, round(config.contrastive.background_ratio * len(positive)))
    drawn = background[torch.randperm(len(background), device=background.device)[:count]]
    ids = torch.cat((truth.ids[target.truth[positive]], torch.zeros_like(drawn)))
    return LocationEmbeddings(head.embeddings[image, torch.cat((positive, drawn))], ids)


def _contrastive(
    pairs: list[tuple[LocationEmbeddings, LocationEmbeddings]], config: Settings
) -> Tensor:
    loss = contrastive_loss(pairs)
    return loss + cosine_loss(pairs) if config.contrastive.auxiliary_cosine else loss


def _gather_masks(
    output: ImageOutput, image: int, sample: MaskSample, truth: Truth, grid: Grid
) -> LocationMasks:
    where = sample.locations
    return LocationMasks(
        truth.ids[sample.truth],
        output.head.parameters[image, where],
        grid.points[where],
        grid.strides[where],
        output.mask_features[image],
        subsample_masks(truth)[sample.truth],
    )


def _consistency(pairs: list[tuple[LocationMasks, LocationMasks]], config: Settings) -> Tensor:
    partners = [
        (draw_partners(key.ids, reference.ids), draw_partners(reference.ids, key.ids))
        for key, reference in pairs
    ]
    return consistency_loss(pairs, partners, config.consistency.form)


def _paired(rows: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(rows[0::FRAMES], rows[1::FRAMES], strict=True))


def _boxes(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Compute tight boxes (I, 4) x1, y1, x2, y2 of masks (I, H, W), none of which is empty."""
    sides = []
    for axis in (1, 2):  # columns, then rows
        used: npt.NDArray[np.bool_] = np.asarray(masks.any(axis))
        sides += [used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)]
    left, right, top, bottom = sides
    return np.stack((left, top, right, bottom), 1).astype(np.float32)


def _to(truth: Truth, device: torch.device) -> Truth:
    return Truth(*(getattr(truth, part.name).to(device) for part in fields(truth)))
