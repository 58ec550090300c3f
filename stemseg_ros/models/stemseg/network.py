"""The whole network in one visible expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stemseg_ros.config import Config
from stemseg_ros.execution.device import fast_precision
from stemseg_ros.models.layers.backbone import build_body
from stemseg_ros.models.layers.fpn import Backbone
from stemseg_ros.models.layers.preprocess import preprocess
from stemseg_ros.models.stemseg.decoder import EmbeddingHead, MapHead
from stemseg_ros.records import Features, NetworkOutput

BANDWIDTH_SCALE = 10.0
"""Bandwidth = 10 * exp(raw variance): a precision, 1 / sigma^2, although the layer is called
variance."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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

    It is two plain functions of tensors, ``encode`` (frame to features) and ``decode`` (the
    features of a window to maps), so that each can be compiled or exported by itself; everything
    else only calls them.
    """

    def __init__(self, config: Config) -> None:
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

    def encode(self, images: Tensor) -> list[Tensor]:
        """Preprocessed images (N, 3, H, W) -> four maps (N, C, H/s, W/s) at strides s = 4, 8, 16,
        32."""
        maps: list[Tensor] = self.backbone(images)
        return maps

    def decode(self, maps: list[Tensor]) -> Maps:
        """Stacked features (N, C, T, h_s, w_s) of windows -> Maps."""
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
        return self.decode([m.unflatten(0, (batch, length)).transpose(1, 2) for m in maps])

    def frame_features(self, image: npt.NDArray[np.uint8]) -> Features:
        """uint8 (H, W, 3) BGR -> the features of one frame, on the device."""
        return self.features_of([image])[0]

    @torch.inference_mode()
    def features_of(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[Features]:
        """The features of frames, uint8 (H, W, 3) BGR, whose padded sizes are equal, in one
        pass."""
        inputs = torch.cat([self._input(image) for image in images])
        if self.config.runtime.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with self._precision():
            maps = self.encode(inputs)
        four, eight, sixteen, thirty_two = (m.split(1) for m in maps)
        return [Features(m) for m in zip(four, eight, sixteen, thirty_two, strict=True)]

    def _input(self, image: npt.NDArray[np.uint8]) -> Tensor:
        # A copy, as torch shares neither read-only nor mirrored memory.
        pixels = torch.from_numpy(image.copy()).to(self.device, non_blocking=True)
        return preprocess(pixels.unsqueeze(0), self.config.input)

    def window_output(self, features: tuple[Features, ...]) -> NetworkOutput:
        """Features of T frames -> float32 NetworkOutput of the window, on the device."""
        return self.outputs_of([features])[0]

    @torch.inference_mode()
    def outputs_of(self, windows: Sequence[tuple[Features, ...]]) -> list[NetworkOutput]:
        """The outputs of windows of T frames each, all of one padded size, in one pass."""
        batch = [
            [torch.stack(levels, dim=2) for levels in zip(*(f.maps for f in window), strict=True)]
            for window in windows
        ]
        stacked = [torch.cat(levels) for levels in zip(*batch, strict=True)]  # (N, C, T, h, w)
        if self.config.runtime.channels_last:
            stacked = [m.contiguous(memory_format=torch.channels_last_3d) for m in stacked]
        with self._precision():
            maps = self.decode(stacked)
        bandwidths = BANDWIDTH_SCALE * torch.exp(maps.raw_variance)
        semantic = maps.semantic_logits
        return [
            NetworkOutput(
                maps.embeddings[n],
                bandwidths[n],
                maps.heatmap[n],
                None if semantic is None else semantic[n],
            )
            for n in range(len(windows))
        ]

    def predict(self, frames: npt.ArrayLike) -> NetworkOutput:
        """One window of images to its maps.

        frames: uint8 (T, H, W, 3), BGR, any size; T as configured.
        Returns float32 maps at stride 4 of the resized and padded input.
        """
        frames = np.asarray(frames)
        length = self.config.window.length
        shaped = frames.ndim == 4 and frames.shape[0] == length and frames.shape[3] == 3
        if not shaped or frames.dtype != np.uint8:
            raise ValueError(
                f"expected uint8 frames of shape ({length}, H, W, 3), got {frames.dtype} "
                f"{frames.shape}; window.length sets the number of frames"
            )
        return self.window_output(tuple(self.frame_features(frame) for frame in frames))

    def compile_parts(self) -> None:
        """Compile encode and decode; the first call of each then takes long."""
        self.encode = torch.compile(self.encode)  # type: ignore[method-assign]
        self.decode = torch.compile(self.decode)  # type: ignore[method-assign]

    def _precision(self) -> torch.autocast:
        name = self.config.runtime.precision
        dtype = fast_precision(self.device) if name == "auto" else DTYPES[name]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)
