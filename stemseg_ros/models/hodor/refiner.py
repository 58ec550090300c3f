"""Refinement of the decoder's logits by the masks of the previous frame; not in the paper.

A descriptor says what an object looks like, not where it is: objects that look alike take each
other's pixels, and the borders are those of a 96-number summary. Here each object's previous mask
is moved along with the pixels that it covered, found again by local matching, and a small network
corrects the object's logit from its score, its previous and its moved mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RADIUS = 4
"""Cells at stride 4 in every direction in which the pixels of the previous frame are searched."""
MATCH_WIDTH = 16
"""Channels that are compared."""
REACH = 2 * RADIUS + 1
"""Rows and columns that are searched."""
NOWHERE = -1e4
"""Likeness of a pixel outside the image."""
HIDDEN = 16
"""Channels of the small network."""
DILATIONS = (1, 2, 4)
"""Dilations of its layers."""
CUES = 5
"""Maps of an object that it sees."""
LEAST = 1e-3
"""Least probability among them that is told from smaller ones."""
LOGIT_RANGE = 7.0
"""Scale of the logits among them: that of ``LEAST``."""


class Refiner(nn.Module):
    """Corrects the logits of each object, all with the same weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.match = nn.Conv2d(width, MATCH_WIDTH, 1)
        self.reduce = nn.Conv2d(width, HIDDEN, 1)
        self.shared = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Conv2d(HIDDEN if number else CUES, HIDDEN, 3, padding=dilation, dilation=dilation)
            for number, dilation in enumerate(DILATIONS)
        )
        self.output = nn.Conv2d(HIDDEN, 1, 3, padding=1)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)  # changes nothing before training

    def forward(
        self, logits: Tensor, pixels: Tensor, fine: Tensor, earlier: Tensor, masks: Tensor
    ) -> Tensor:
        """Refine logits (B, 10 + I, h, w) of the decoder.

        pixels, fine, earlier: (B, C, h, w), the decoder's features, and those of the image and of
        the previous image, all at stride 4; masks: (B, I, h, w) in [0, 1], objects in the
        previous image. Returns (B, 10 + I, h, w).
        """
        objects = masks.shape[1]
        moved = move_masks(self.match(fine), self.match(earlier), masks)
        probability = logits.softmax(1)[:, -objects:]
        inner = probability.clamp(LEAST, 1 - LEAST)
        margin = (inner / (1 - inner)).log() / LOGIT_RANGE  # Tensor.logit is unknown to OpenVINO
        others = moved.sum(1, keepdim=True) - moved
        cues = torch.stack((probability, margin, masks, moved, others), 2)
        hidden = self.layers[0](cues.flatten(0, 1)).unflatten(0, masks.shape[:2])
        hidden = hidden + self.shared(F.relu(self.reduce(pixels)))[:, None]
        hidden = F.relu(hidden.flatten(0, 1))
        for layer in self.layers[1:]:
            hidden = F.relu(layer(hidden))
        with torch.autocast(logits.device.type, enabled=False):  # a single output channel
            change = self.output(hidden.float()).unflatten(0, masks.shape[:2])[:, :, 0]
        return torch.cat((logits[:, :-objects], logits[:, -objects:] + change), 1)


def move_masks(current: Tensor, earlier: Tensor, masks: Tensor) -> Tensor:
    """Move masks with the pixels: each pixel takes the mean of the masks in its neighbourhood in
    the earlier image, weighted by the likeness of the features there.

    current, earlier: (B, C, h, w); masks: (B, I, h, w) of the earlier image. Returns (B, I, h, w).
    """
    height, width = current.shape[-2:]
    query = current.float() * current.shape[1] ** -0.5
    padded = F.pad(earlier.float(), (RADIUS,) * 4)
    around = F.pad(masks.float(), (RADIUS,) * 4)
    outside = F.pad(torch.zeros_like(query[:1, 0]), (RADIUS,) * 4, value=NOWHERE)
    shifts = [(row, column) for row in range(REACH) for column in range(REACH)]

    def shifted(maps: Tensor, shift: tuple[int, int]) -> Tensor:
        row, column = shift
        return maps[..., row : row + height, column : column + width]

    scores = [(query * shifted(padded, s)).sum(1) + shifted(outside, s) for s in shifts]
    weights = torch.stack(scores, 1).softmax(1).unbind(1)
    moved = torch.zeros_like(masks, dtype=torch.float32)
    for weight, shift in zip(weights, shifts, strict=True):
        moved = moved + weight[:, None] * shifted(around, shift)
    return moved
