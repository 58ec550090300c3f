"""The networks of STEm-Seg: an encoder of frames and decoders of windows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stemseg_ros.models.layers.backbone import build_body
from stemseg_ros.models.layers.fpn import Backbone
from stemseg_ros.models.layers.preprocess import preprocess
from stemseg_ros.models.stemseg.decoder import (
    BLOCKS,
    EmbeddingHead,
    MapHead,
    SqueezeExpandDecoder,
)
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.taps import TemporalTaps, add_taps, merged_decoders
from stemseg_ros.models.stemseg.tensors import NetworkOutput

BANDWIDTH_SCALE = 10.0
"""Bandwidth = 10 * exp(raw variance): a precision, 1 / sigma^2, although the layer is called
variance."""


class WindowNetwork(nn.Module):
    """Encoder, and decoders that a subclass adds and combines.

    Engines compute two functions of tensors: ``encode`` (frames to features) and ``decode`` (the
    features of a window's frames to its maps), in the ``inference_form``.
    """

    functions = ("encode", "decode")

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        body = build_body(config.network.backbone)
        self.backbone = Backbone(body, body.channels, config.network.fpn_channels)

    def heads(self, maps: Sequence[Tensor]) -> Any:
        """Stacked features (N, C, T, h_s, w_s) of windows, s = 4, 8, 16, 32 -> what the losses are
        computed from."""
        raise NotImplementedError

    def outputs(self, heads: Any) -> tuple[Tensor, ...]:
        """What ``heads`` returns -> the fields of NetworkOutput, batch first; no semantic logits
        if there are none."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (N, 3, H, W) -> four maps (N, C, H/s, W/s) at strides s = 4, 8, 16,
        32."""
        return tuple(self.backbone(images))

    def decode(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Compute the fields of NetworkOutput, batch first, without semantic logits if the network
        has none. maps: features (N, C, h_s, w_s), s = 4, 8, 16, 32, of each frame of the windows,
        frame by frame."""
        return self.outputs(self.heads([torch.stack(level, dim=2) for level in by_level(maps)]))

    def forward(self, clips: Tensor) -> Any:
        """Preprocessed clips (N, T, 3, H, W), sides multiples of 32 -> as ``heads``. The path of
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
            window = self.decode(*(level[t : t + 1] for t in range(length) for level in maps))
        return NetworkOutput(*(output[0] for output in window))

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
        return TappedNetwork(self).eval() if self.config.window.taps else self


class Maps(NamedTuple):
    """What the decoders of instances return for a batch of windows, float32."""

    embeddings: Tensor
    """(N, E, T, h, w), coordinate grid added."""
    raw_variance: Tensor
    """(N, V, T, h, w), log of the bandwidth over 10."""
    heatmap: Tensor
    """(N, 1, T, h, w) in [0, 1]."""
    semantic_logits: Tensor | None
    """(N, C + 1, T, h, w), foreground channel last."""


class StemSeg(WindowNetwork):
    """The network for instances; parameter names are those of the released checkpoints."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        net, length = config.network, config.window.length
        self.embedding_head = EmbeddingHead(net, length)
        separate = net.heatmap_head == "separate"
        self.seediness_head = MapHead(net, net.decoder_channels, 1, length) if separate else None
        self.semseg_head = (
            MapHead(
                net, net.semantic_channels or net.decoder_channels, len(net.classes) + 2, length
            )
            if net.semantic_head
            else None
        )

    def heads(self, maps: Sequence[Tensor]) -> Maps:
        """See ``WindowNetwork``."""
        embeddings, raw_variance, heatmap = self.embedding_head(maps)
        if self.seediness_head is not None:
            heatmap = torch.sigmoid(self.seediness_head(maps))
        semantic = None if self.semseg_head is None else self.semseg_head(maps)
        return Maps(embeddings, raw_variance, heatmap, semantic)

    def outputs(self, heads: Maps) -> tuple[Tensor, ...]:
        """See ``WindowNetwork``."""
        bandwidths = BANDWIDTH_SCALE * torch.exp(heads.raw_variance)
        fields = [heads.embeddings, bandwidths, heads.heatmap]
        if heads.semantic_logits is not None:
            fields.append(heads.semantic_logits)
        return tuple(field.float() for field in fields)  # autocast may have shortened them


class SaliencyNetwork(WindowNetwork):
    """The variant of Sec. 4.5: one decoder, whose two channels are background and foreground.

    ``heads`` returns its logits (N, 2, T, h, w). To the stages behind, the foreground is the heat
    map of an embedding space of no dimensions, which holds one object.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        net = config.network
        self.saliency_head = MapHead(net, net.decoder_channels, 2, config.window.length)

    def heads(self, maps: Sequence[Tensor]) -> Tensor:
        """See ``WindowNetwork``."""
        logits: Tensor = self.saliency_head(maps)
        return logits

    def outputs(self, heads: Tensor) -> tuple[Tensor, ...]:
        """See ``WindowNetwork``."""
        nothing = heads[:, :0].float()
        return nothing, nothing, heads.softmax(dim=1)[:, 1:].float()


class TappedNetwork(nn.Module):
    """A network with final weights: all that is linear in single frames is part of ``encode``, and
    linear layers are merged (``taps.py``). Features are temporal taps here."""

    functions = WindowNetwork.functions

    def __init__(self, network: WindowNetwork) -> None:
        super().__init__()
        decoders = network.decoders()
        self.taps = TemporalTaps(list(decoders.values()))
        self.network = copy(network)
        # A shallow copy shares its table of children, in which the merged decoders stand here.
        self.network._modules = {**network._modules, **merged_decoders(decoders)}

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Preprocessed images (N, 3, H, W) -> TemporalTaps at strides 4, 8, 16, 32."""
        taps: tuple[Tensor, ...] = self.taps(self.network.backbone(images))
        return taps

    def decode(self, *taps: Tensor) -> tuple[Tensor, ...]:
        """See ``WindowNetwork``. taps: those of each frame of the windows, frame by frame."""
        network = self.network
        return network.outputs(network.heads([add_taps(level) for level in by_level(taps)]))


def by_level(maps: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Group the maps of several frames, given frame by frame, by level: those of all frames at
    strides 4, 8, 16 and 32."""
    return [maps[level :: len(BLOCKS)] for level in range(len(BLOCKS))]


def build_network(config: Settings) -> WindowNetwork:
    """The network of ``network.task``, its weights yet to come."""
    return SaliencyNetwork(config) if config.network.task == "saliency" else StemSeg(config)
