"""The network of HODOR in three functions: a frame is encoded once, decoded from the descriptors
of its history, and then described once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from stemseg_ros.models.hodor.decoder import Decoder
from stemseg_ros.models.hodor.encoder import Encoder
from stemseg_ros.models.hodor.features import FeatureExtractor
from stemseg_ros.models.hodor.settings import BACKGROUNDS, Settings

Result = TypeVar("Result")


class Hodor(nn.Module):
    """HODOR, with the parameter names of the released checkpoints."""

    functions = ("encode", "describe", "decode")
    """Methods that an engine runs."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.feature_extractor = FeatureExtractor(config.network)
        self.encoder = Encoder(config.network)
        self.decoder = Decoder(config.network)

    def forward(self, computation: Callable[[Hodor], Result]) -> Result:
        """Run a computation of several calls as one, as wrappers of the network need it that share
        its gradients (DistributedDataParallel)."""
        return computation(self)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Extract features (B, C, H/4, W/4) and (B, C, H/8, W/8) from images (B, 3, H, W)."""
        features: tuple[Tensor, Tensor] = self.feature_extractor(images)
        return features

    def describe(self, coarse: Tensor, regions: Tensor, content: Tensor) -> tuple[Tensor]:
        """Compute descriptors (B, 9 + I, C) from stride-8 features (B, C, h, w), regions
        (B, 9 + I, h, w) and content (B, 2)."""
        return (self.encoder(coarse, regions, content),)

    def decode(
        self,
        fine: Tensor,
        coarse: Tensor,
        descriptors: Tensor,
        present: Tensor,
        content: Tensor,
        previous: Tensor | None = None,
        masks: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Segment a frame by the descriptors (B, T, 9 + I, C) of its history; returns logits
        (B, 10 + I, H/4, W/4). See ``Decoder``."""
        embeddings = self.encoder.embeddings(descriptors.shape[2] - BACKGROUNDS)
        logits = self.decoder(
            fine, coarse, descriptors, present, embeddings, content, previous, masks, earlier
        )
        return (logits,)
