"""The network of STEm-Seg: an encoder of frames and decoders of windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stemseg_ros.models.layers.backbone import build_body
from stemseg_ros.models.layers.fpn import Backbone
from stemseg_ros.models.layers.preprocess import preprocess
from stemseg_ros.models.stemseg.decoder import EmbeddingHead, MapHead
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.tensors import NetworkOutput

BANDWIDTH_SCALE = 10.0
"""Bandwidth = 10 * exp(raw variance): a precision, 1 / sigma^2, although the layer is called
variance."""


class Maps(NamedTuple):
    """What the decoders return for a batch of windows, float32."""

    embeddings: Tensor
    """(N, E, T, h, w), coordinate grid added."""
    raw_variance: Tensor
    """(N, V, T, h, w), log of the bandwidth over 10."""
    heatmap: Tensor
    """(N, 1, T, h, w) in [0, 1]."""
    semantic_logits: Tensor | None
    """(N, C + 1, T, h, w), foreground channel last."""
    saliency_logits: Tensor | None = None
    """(N, 2, T, h, w): background, foreground; only for saliency, where E and V are 0 and the
    heat map is the probability of the foreground."""


class StemSeg(nn.Module):
    """Encoder and temporal squeeze-expand decoders; parameter names are those of the released
    checkpoints.

    Engines compute two functions of tensors: ``encode`` (frames to features) and ``decode`` (the
    features of windows to maps).
    """

    functions = ("encode", "decode")

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        net, length = config.network, config.window.length
        body = build_body(net.backbone)
        self.backbone = Backbone(body, body.channels, net.fpn_channels)
        saliency = net.task == "saliency"
        self.saliency_head = MapHead(net, net.decoder_channels, 2, length) if saliency else None
        self.embedding_head = None if saliency else EmbeddingHead(net, length)
        self.seediness_head = (
            MapHead(net, net.decoder_channels, 1, length)
            if net.heatmap_head == "separate" and not saliency
            else None
        )
        self.semseg_head = (
            MapHead(
                net, net.semantic_channels or net.decoder_channels, len(net.classes) + 2, length
            )
            if net.semantic_head
            else None
        )

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (N, 3, H, W) -> four maps (N, C, H/s, W/s) at strides s = 4, 8, 16,
        32."""
        return tuple(self.backbone(images))

    def decode(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Stacked features (N, C, T, h_s, w_s) of windows, s = 4, 8, 16, 32 -> the fields of
        NetworkOutput, batch first; no semantic logits if there is no semantic head."""
        out = self.heads(list(maps))
        bandwidths = BANDWIDTH_SCALE * torch.exp(out.raw_variance)
        outputs = (out.embeddings, bandwidths, out.heatmap)
        return outputs if out.semantic_logits is None else (*outputs, out.semantic_logits)

    def heads(self, maps: list[Tensor]) -> Maps:
        """Stacked features (N, C, T, h_s, w_s) of windows -> what the losses are computed from."""
        if self.embedding_head is None:
            return self._saliency(maps)
        embeddings, raw_variance, heatmap = self.embedding_head(maps)
        if self.seediness_head is not None:
            heatmap = torch.sigmoid(self.seediness_head(maps))
        semantic = None if self.semseg_head is None else self.semseg_head(maps)
        return Maps(embeddings, raw_variance, heatmap, semantic)

    def _saliency(self, maps: list[Tensor]) -> Maps:
        assert self.saliency_head is not None
        logits: Tensor = self.saliency_head(maps)
        # An embedding space of no dimensions holds one object, whose heat map is the foreground.
        nothing = logits[:, :0]
        return Maps(nothing, nothing, logits.softmax(dim=1)[:, 1:], None, logits)

    def forward(self, clips: Tensor) -> Maps:
        """Preprocessed clips (N, T, 3, H, W), sides multiples of 32 -> Maps. The path of
        training."""
        batch, length = clips.shape[:2]
        maps = self.encode(clips.flatten(0, 1))
        return self.heads([m.unflatten(0, (batch, length)).transpose(1, 2) for m in maps])

    def predict(self, frames: npt.ArrayLike) -> NetworkOutput:
        """One window of images to its maps.

        frames: uint8 (T, H, W, 3), BGR, any size; T as configured.
        Returns float32 maps at stride 4 of the resized and padded input, computed eagerly and in
        float32 whatever ``runtime`` says.
        """
        frames = np.asarray(frames)
        length = self.config.window.length
        shaped = frames.ndim == 4 and frames.shape[0] == length and frames.shape[3] == 3
        if not shaped or frames.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 frames of shape ({length}, H, W, 3), got {frames.dtype} "
                f"{frames.shape}; window.length sets the number of frames"
            )
        pixels = torch.from_numpy(frames.copy()).to(self.device)
        with torch.inference_mode():
            maps = self.encode(preprocess(pixels, self.config.input))
            outputs = self.decode(*(level.transpose(0, 1).unsqueeze(0) for level in maps))
        return NetworkOutput(*(output[0] for output in outputs))
