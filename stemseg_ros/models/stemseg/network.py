"""The network of STEm-Seg: an encoder of frames and decoders of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stemseg_ros.models.layers.backbone import build_body
from stemseg_ros.models.layers.fpn import Backbone
from stemseg_ros.models.layers.preprocess import preprocess
from stemseg_ros.models.stemseg.decoder import EmbeddingHead, MapHead, SqueezeExpandDecoder
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.taps import (
    MergedDecoder,
    MergedEmbeddingHead,
    TemporalTaps,
    add_taps,
    channels_of,
)
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
    features of windows to maps), in the ``inference_form``.
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

    def decoders(self) -> dict[str, SqueezeExpandDecoder]:
        """Those that the network has, by name."""
        return {
            name: head
            for name, head in self.named_children()
            if isinstance(head, SqueezeExpandDecoder)
        }

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def inference_form(self) -> nn.Module:
        """What an engine computes: the same functions, rearranged for the weights as they are now
        (``window.taps``)."""
        return TappedStemSeg(self).eval() if self.config.window.taps else self

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (N, 3, H, W) -> four maps (N, C, H/s, W/s) at strides s = 4, 8, 16,
        32."""
        return tuple(self.backbone(images))

    def decode(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Stacked features (N, C, T, h_s, w_s) of windows, s = 4, 8, 16, 32 -> the fields of
        NetworkOutput, batch first; no semantic logits if there is no semantic head."""
        return network_outputs(self.heads(maps))

    def heads(self, maps: Sequence[Tensor]) -> Maps:
        """Stacked features (N, C, T, h_s, w_s) of windows -> what the losses are computed from."""
        return head_maps(self, maps)

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
            window = self.heads([level.transpose(0, 1).unsqueeze(0) for level in maps])
        return NetworkOutput(*(output[0] for output in network_outputs(window)))


class TappedStemSeg(nn.Module):
    """The same functions with final weights: all that is linear in single frames is part of
    ``encode``, and linear layers are merged (``taps.py``). Features are temporal taps here."""

    functions = StemSeg.functions

    def __init__(self, network: StemSeg) -> None:
        super().__init__()
        self.backbone = network.backbone
        decoders = network.decoders()
        self.taps = TemporalTaps(list(decoders.values()))
        self.embedding_head: MergedEmbeddingHead | None = None
        self.seediness_head = self.semseg_head = self.saliency_head = None
        for (name, head), channels in zip(
            decoders.items(), channels_of(list(decoders.values())), strict=True
        ):
            if isinstance(head, EmbeddingHead):
                self.embedding_head = MergedEmbeddingHead(head, channels)
            else:
                setattr(self, name, MergedDecoder(head, channels))

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (N, 3, H, W) -> TemporalTaps at strides 4, 8, 16, 32."""
        taps: tuple[Tensor, ...] = self.taps(self.backbone(images))
        return taps

    def decode(self, *taps: Tensor) -> tuple[Tensor, ...]:
        """Stacked taps of windows -> as ``StemSeg``."""
        return network_outputs(head_maps(self, [add_taps(level) for level in taps]))


def head_maps(network: StemSeg | TappedStemSeg, levels: Sequence[Tensor]) -> Maps:
    """What the heads of a network make of their inputs at strides 4, 8, 16, 32."""
    if network.embedding_head is None:
        assert network.saliency_head is not None
        logits: Tensor = network.saliency_head(levels)
        # An embedding space of no dimensions holds one object, whose heat map is the foreground.
        nothing = logits[:, :0]
        return Maps(nothing, nothing, logits.softmax(dim=1)[:, 1:], None, logits)
    embeddings, raw_variance, heatmap = network.embedding_head(levels)
    if network.seediness_head is not None:
        heatmap = torch.sigmoid(network.seediness_head(levels))
    semantic = None if network.semseg_head is None else network.semseg_head(levels)
    return Maps(embeddings, raw_variance, heatmap, semantic)


def network_outputs(maps: Maps) -> tuple[Tensor, ...]:
    """The fields of NetworkOutput, batch first; no semantic logits if there are none."""
    bandwidths = BANDWIDTH_SCALE * torch.exp(maps.raw_variance)
    outputs = (maps.embeddings, bandwidths, maps.heatmap)
    return outputs if maps.semantic_logits is None else (*outputs, maps.semantic_logits)
