"""Training of HODOR: predictions and losses of a batch (Sec. 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stemseg_ros.models.hodor.losses import propagation_losses
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.patterns import (
    ClipPropagation,
    propagate,
    propagate_forward,
    select_truth,
)
from stemseg_ros.models.hodor.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatch:
    """Samples of a few frames, all with the same number of objects."""

    frames: Tensor
    """float32 (B, T, 3, H, W), normalised, RGB."""
    labels: Tensor
    """uint8 (B, T, H, W): 0 background, 1..I objects, IGNORED."""
    objects: int
    iteration: int = 0
    """Selects the third pattern of the paper, which alternates (``propagate``)."""
    names: tuple[str, ...] = ()
    """Sequence of each sample."""

    def split(self, size: int) -> list[SampleBatch]:
        """Split into batches of ``size`` samples each; the last may have fewer."""
        parts = [slice(first, first + size) for first in range(0, len(self.frames), size)]
        return [
            replace(
                self, frames=self.frames[part], labels=self.labels[part], names=self.names[part]
            )
            for part in parts
        ]

    def to(self, device: torch.device) -> SampleBatch:
        """Move the tensors to a device."""
        return replace(self, frames=self.frames.to(device), labels=self.labels.to(device))


def compute_losses(network: Hodor, batch: SampleBatch, config: Settings) -> dict[str, Tensor]:
    """Compute the losses of all predictions of a batch; ``total`` is minimised."""
    clip = _encode(network, batch, config.stills.hint_dropout)
    first = object_masks(batch)[:, 0].float()
    if config.stills.patterns == "forward":
        predictions = propagate_forward(clip, first)
    else:
        predictions = propagate(clip, first, batch.iteration)
    logits = torch.stack([prediction.logits.float() for prediction in predictions], 2)
    truth = select_truth(predictions, batch.labels)
    return propagation_losses(logits, truth, by_object=config.stills.dice == "by_object")


def predict_labels(network: Hodor, batch: SampleBatch) -> Tensor:
    """Propagate the masks of the first frames; returns labels (B, T, H, W), the first frame's as
    given."""
    predictions = propagate_forward(_encode(network, batch), object_masks(batch)[:, 0].float())
    found = [prediction.logits.argmax(1).to(torch.uint8) for prediction in predictions]
    return torch.stack([batch.labels[:, 0], *found], 1)


def object_masks(batch: SampleBatch) -> Tensor:
    """Split the labels of a batch into the masks of its objects: bool (B, T, I, H, W)."""
    numbers = torch.arange(1, batch.objects + 1, device=batch.labels.device)
    return batch.labels[:, :, None] == numbers[:, None, None]


def _encode(network: Hodor, batch: SampleBatch, hint_dropout: float = 0.0) -> ClipPropagation:
    fine, coarse = network.encode(batch.frames.flatten(0, 1))
    maps = (x.unflatten(0, batch.frames.shape[:2]).unbind(1) for x in (fine, coarse))
    present = object_masks(batch).flatten(3).any(-1)
    return ClipPropagation(network, list(zip(*maps, strict=True)), present, hint_dropout)
