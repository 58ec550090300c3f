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
    """Predictions of the network for N images."""

    head: HeadOutput
    mask_features: Tensor
    """(N, 8, h, w), stride 8."""

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> ImageOutput:
        """Build the output for one image from the tensors that ``CondInst.detect`` returned for
        it, without the batch dimension."""
        *head, features = (tensor.unsqueeze(0) for tensor in tensors)
        return cls(HeadOutput(*head), features)


class CondInst(nn.Module):
    """CondInst with a tracking head. Parameter names are those of mmdet's checkpoints, plus
    ``tracking_head.``."""

    functions = ("detect",)
    """Methods that an engine runs."""

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
        """Compute P3 to P7 of images (N, 3, H, W), sides multiples of 32."""
        levels: list[Tensor] = self.neck(self.backbone(images))
        return levels

    def forward(self, images: Tensor) -> ImageOutput:
        """Predict from float (N, 3, H, W), normalised, sides multiples of 32."""
        levels = self.pyramid(images)
        return ImageOutput(
            predict_locations(levels, self.bbox_head, self.tracking_head),
            self.mask_head.mask_feature_head(levels),
        )

    def detect(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the output for images (N, 3, H, W) as float32 tensors, in the order that
        ``ImageOutput.of`` expects."""
        output = self(images)
        head: HeadOutput = output.head
        return (
            head.class_logits.float(),
            head.distances.float(),
            head.centerness_logits.float(),
            head.parameters.float(),
            head.embeddings.float(),
            output.mask_features.float(),
        )
