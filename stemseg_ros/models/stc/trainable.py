"""How STC is trained: what learns, truths of labelled frames, and all losses together."""

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
from stemseg_ros.models.stc.consistency import MaskRows, consistency_loss, draw_partners
from stemseg_ros.models.stc.contrastive import EmbeddedRows, contrastive_loss, cosine_loss
from stemseg_ros.models.stc.heads import Grid, HeadOutput, location_grid
from stemseg_ros.models.stc.losses import (
    MaskSample,
    detection_losses,
    mask_loss,
    mask_targets,
    sample_masks,
)
from stemseg_ros.models.stc.pyramid import LightBody
from stemseg_ros.models.stc.settings import CondInstVariant, Settings
from stemseg_ros.models.stc.targets import LocationTargets, Truth, assign_locations

FRAMES = 2
"""Frames of a sample: key and reference."""


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """N pairs of frames and what is true in them."""

    images: Tensor
    """float32 (N, 2, 3, H, W), normalised."""
    truths: tuple[tuple[Truth, Truth], ...]
    ignored: Tensor
    """bool (N, 2, H, W): pixels about which nothing is known."""
    names: tuple[str, ...]
    """Sequence of each pair."""

    def split(self, size: int) -> list[FramePairs]:
        """Batches of ``size`` pairs each; the last may have fewer."""
        parts = [slice(first, first + size) for first in range(0, len(self.names), size)]
        return [
            FramePairs(self.images[part], self.truths[part], self.ignored[part], self.names[part])
            for part in parts
        ]

    def to(self, device: torch.device) -> FramePairs:
        """The batch with its tensors on a device."""
        return FramePairs(
            self.images.to(device),
            tuple((_to(key, device), _to(reference, device)) for key, reference in self.truths),
            self.ignored.to(device),
            self.names,
        )


def frame_truth(labels: LabelArray, min_pixels: int) -> tuple[Truth, Tensor]:
    """Objects of a labelled frame (H, W), and where nothing is known: bool (H, W).

    Groups and objects of fewer than ``min_pixels`` pixels belong to the latter. A label is the
    identity of an object in its video.
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
    """All losses of a batch; ``total`` is what is minimised.

    output: float32, of the 2 N images of the batch, each key before its reference.
    """
    grid = location_grid((batch.images.shape[-2], batch.images.shape[-1]), batch.images.device)
    truths = [truth for pair in batch.truths for truth in pair]
    classes, radius = len(config.classes), config.condinst.center_radius
    targets = [assign_locations(truth, grid, classes, radius) for truth in truths]
    unknown = ignored_locations(batch.ignored.flatten(0, 1), grid)
    variant = config.condinst.variant
    losses = detection_losses(output, targets, variant, unknown)
    samples = sample_masks(targets, variant)
    losses["mask"] = mask_loss(output, samples, truths, grid)
    total = torch.stack(list(losses.values())).sum()
    if config.tracking.enabled:
        rows = [
            _embedded_rows(output.head, n, target, truths[n], unknown[n], config)
            for n, target in enumerate(targets)
        ]
        losses["contrastive"] = _contrastive(_paired(rows), config)
        total = total + config.contrastive.weight * losses["contrastive"]
    if config.consistency.weight:
        masks = [_mask_rows(output, n, s, truths[n], grid) for n, s in enumerate(samples)]
        losses["consistency"] = _consistency(_paired(masks), config)
        total = total + config.consistency.weight * losses["consistency"]
    return losses | {"total": total}


def ignored_locations(ignored: Tensor, grid: Grid) -> Tensor:
    """bool (N, H, W) -> (N, L): whether the pixel in the middle of a cell is unknown; False beyond
    the image, where cells of the coarsest levels may lie."""
    height, width = ignored.shape[-2:]
    x, y = grid.points.long().unbind(1)
    inside = (x < width) & (y < height)
    return ignored[:, y.clamp(max=height - 1), x.clamp(max=width - 1)] & inside


def in_float32(output: ImageOutput) -> ImageOutput:
    """The same output for losses, which are computed in full precision."""
    head = HeadOutput(*(getattr(output.head, part.name).float() for part in fields(output.head)))
    return ImageOutput(head, output.mask_features.float())


def freeze(network: CondInst, variant: CondInstVariant, stages: int = 2) -> None:
    """Let everything learn but the first parts of the encoder (a ResNet's stem is one); for
    adelaidet no norm of the encoder either."""
    network.requires_grad_(True)
    for part in encoder_parts(network)[:stages]:
        part.requires_grad_(False)
    if variant == "adelaidet":
        for module in network.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)


def encoder_parts(network: CondInst) -> list[nn.Module]:
    """Parts of the encoder, from the image on."""
    body = network.backbone
    if isinstance(body, LightBody):
        return list(body.mobilenet.children())
    stem, norm, *stages = body.children()
    return [nn.ModuleList((stem, norm)), *stages]


def output_layers(network: CondInst) -> list[nn.Conv2d]:
    """Convolutions whose outputs are predictions."""
    head = network.bbox_head
    layers = [head.conv_cls, head.conv_reg, head.conv_centerness, head.controller]
    layers.append(network.mask_head.mask_feature_head.conv_pred)
    return layers if network.tracking_head is None else [*layers, network.tracking_head.output]


def _embedded_rows(
    head: HeadOutput,
    image: int,
    target: LocationTargets,
    truth: Truth,
    unknown: Tensor,
    config: Settings,
) -> EmbeddedRows:
    """All positive locations of an image and random ones of its background."""
    positive = target.positive
    background = ((target.truth < 0) & ~unknown).nonzero().squeeze(1)
    count = max(1, round(config.contrastive.background_ratio * len(positive)))
    drawn = background[torch.randperm(len(background), device=background.device)[:count]]
    ids = torch.cat((truth.ids[target.truth[positive]], torch.zeros_like(drawn)))
    return EmbeddedRows(head.embeddings[image, torch.cat((positive, drawn))], ids)


def _contrastive(pairs: list[tuple[EmbeddedRows, EmbeddedRows]], config: Settings) -> Tensor:
    loss = contrastive_loss(pairs)
    return loss + cosine_loss(pairs) if config.contrastive.auxiliary_cosine else loss


def _mask_rows(
    output: ImageOutput, image: int, sample: MaskSample, truth: Truth, grid: Grid
) -> MaskRows:
    where = sample.locations
    return MaskRows(
        truth.ids[sample.truth],
        output.head.parameters[image, where],
        grid.points[where],
        grid.strides[where],
        output.mask_features[image],
        mask_targets(truth)[sample.truth],
    )


def _consistency(pairs: list[tuple[MaskRows, MaskRows]], config: Settings) -> Tensor:
    partners = [
        (draw_partners(key.ids, reference.ids), draw_partners(reference.ids, key.ids))
        for key, reference in pairs
    ]
    return consistency_loss(pairs, partners, config.consistency.form)


def _paired(rows: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(rows[0::FRAMES], rows[1::FRAMES], strict=True))


def _boxes(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(I, H, W), none empty -> (I, 4) x1, y1, x2, y2 around their pixels."""
    sides = []
    for axis in (1, 2):  # columns, then rows
        used: npt.NDArray[np.bool_] = np.asarray(masks.any(axis))
        sides += [used.argmax(1), used.shape[1] - used[:, ::-1].argmax(1)]
    left, right, top, bottom = sides
    return np.stack((left, top, right, bottom), 1).astype(np.float32)


def _to(truth: Truth, device: torch.device) -> Truth:
    return Truth(*(getattr(truth, part.name).to(device) for part in fields(truth)))
