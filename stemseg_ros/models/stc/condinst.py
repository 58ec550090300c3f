"""The network: CondInst (Tian et al., ECCV 2020) and a tracking head beside its controller."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from stemseg_ros.models.stc.heads import (
    FcosHead,
    HeadOutput,
    TrackingHead,
    predict_locations,
)
from stemseg_ros.models.stc.mask_head import PARAMETERS, MaskHead
from stemseg_ros.models.stc.pyramid import PyramidLevels, build_body
from stemseg_ros.models.stc.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class ImageOutput:
    """What the network predicts for N images."""

    head: HeadOutput
    mask_features: Tensor
    """(N, 8, h, w), stride 8."""


class CondInst(nn.Module):
    """Images to predictions of all locations. Its keys are those of mmdet's checkpoints, and
    ``tracking_head.``."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        network = config.network
        self.backbone = build_body(network, config.condinst.variant)
        self.neck = PyramidLevels(self.backbone.channels, network.fpn_channels)
        self.bbox_head = FcosHead(network, PARAMETERS)
        self.mask_head = MaskHead(network)
        self.tracking_head = (
            TrackingHead(network, config.tracking) if config.tracking.enabled else None
        )

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W), sides multiples of 32 -> P3..P7."""
        levels: list[Tensor] = self.neck(self.backbone(images))
        return levels

    def forward(self, images: Tensor) -> ImageOutput:
        """float (N, 3, H, W), normalised, sides multiples of 32."""
        levels = self.pyramid(images)
        return ImageOutput(
            predict_locations(levels, self.bbox_head, self.tracking_head),
            self.mask_head.mask_feature_head(levels),
        )
