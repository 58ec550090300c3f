"""The decoders' linear parts, rearranged for inference with final weights (``docs/speed.md``).

Each squeezing block begins with a 3x3x3 convolution of single-frame maps: a sum over three frames
of 2D convolutions, its temporal taps. They are computed once a frame; a window adds them up. What
follows the blocks (1x1x1 convolutions, interpolation, output layers) is linear as a whole, so its
convolutions are multiplied out beforehand, and only as many channels are interpolated as come out.
Both are exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from stemseg_ros.models.stemseg.decoder import (
    BLOCKS,
    EmbeddingHead,
    EmbeddingMaps,
    SqueezeExpandDecoder,
    embedding_maps,
    enlarge,
)

Conv = TypeVar("Conv", nn.Conv2d, nn.Conv3d)


class TemporalTaps(nn.Module):
    """2D convolutions of one frame's maps that stand for the first convolutions of all decoders.

    The channels of a level are three times (temporal slice 0, 1, 2) those of the decoders'
    blocks, one decoder after the other; the bias is in slice 1.
    """

    def __init__(self, decoders: Sequence[SqueezeExpandDecoder]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            _taps([decoder.first_conv(name) for decoder in decoders]) for name in BLOCKS
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Four maps (N, C, h_s, w_s), s = 4, 8, 16, 32, of single frames -> their taps, four
        tensors (N, 3 K_s, h_s, w_s); K_s: channels of the blocks of all decoders."""
        return tuple(level(x) for level, x in zip(self.levels, maps, strict=True))


def add_taps(frames: Sequence[Tensor]) -> Tensor:
    """Add up the taps (N, 3 K, h, w) of the T frames of windows to their convolution, float32
    (N, K, T, h, w), with zero padding in time."""
    slices = [taps.chunk(3, dim=1) for taps in frames]
    sums = []
    for t, (_, here, _) in enumerate(slices):
        total = here.float()  # three terms in half precision would be rounded three times
        if t > 0:
            total = total + slices[t - 1][0]
        if t + 1 < len(slices):
            total = total + slices[t + 1][2]
        sums.append(total)
    return torch.stack(sums, dim=2)


class MergedDecoder(nn.Module):
    """A decoder with its output layers, from the sums of its first convolutions on; gives what
    the decoder gives."""

    bias: Tensor

    def __init__(self, decoder: SqueezeExpandDecoder, channels: Sequence[slice]) -> None:
        """channels: those of this decoder among the sums of all, at strides 4, 8, 16, 32."""
        super().__init__()
        self.blocks = nn.ModuleList(decoder.block(name)[1:] for name in BLOCKS)
        self._channels = channels
        self._expand = decoder.expand
        weights, bias = _multiplied_out(decoder)
        self.projections = nn.ModuleList(_pointwise(weight) for weight in weights)
        self.register_buffer("bias", bias.view(-1, 1, 1, 1))

    def forward(self, sums: Sequence[Tensor]) -> Tensor:
        """First convolutions (N, K_s, T, h_s, w_s) of all decoders, s = 4, 8, 16, 32 -> float32
        (N, outputs, T, h_4, w_4)."""
        x = self._projected(3, sums)
        for level, time in zip((2, 1, 0), self._expand, strict=True):
            x = self._projected(level, sums) + enlarge(x, time)
        return x + self.bias

    def _projected(self, level: int, sums: Sequence[Tensor]) -> Tensor:
        squeezed = self.blocks[level](sums[level][:, self._channels[level]])
        # As the output layers of a decoder: in float32, whatever autocast says.
        with torch.autocast(squeezed.device.type, enabled=False):
            projected: Tensor = self.projections[level](squeezed.float())
        return projected


class MergedEmbeddingHead(MergedDecoder):
    """The same for the embedding decoder."""

    time_scale: Tensor

    def __init__(self, head: EmbeddingHead, channels: Sequence[slice]) -> None:
        super().__init__(head, channels)
        self.config = head.config
        self.register_buffer("time_scale", head.time_scale)

    def forward(self, sums: Sequence[Tensor]) -> EmbeddingMaps:  # type: ignore[override]
        """First convolutions of all decoders -> EmbeddingMaps."""
        return embedding_maps(super().forward(sums), self.config, self.time_scale)


def merged_decoders(decoders: Mapping[str, SqueezeExpandDecoder]) -> dict[str, nn.Module]:
    """The decoders with their linear layers merged, under the same names."""
    merged: dict[str, nn.Module] = {}
    for (name, decoder), channels in zip(
        decoders.items(), channels_of(list(decoders.values())), strict=True
    ):
        if isinstance(decoder, EmbeddingHead):
            merged[name] = MergedEmbeddingHead(decoder, channels)
        else:
            merged[name] = MergedDecoder(decoder, channels)
    return merged


def channels_of(decoders: Sequence[SqueezeExpandDecoder]) -> list[list[slice]]:
    """Of each decoder, its channels among the sums of all at each level."""
    levels = []
    for name in BLOCKS:
        ends = list(accumulate(decoder.first_conv(name).out_channels for decoder in decoders))
        levels.append([slice(start, end) for start, end in pairwise((0, *ends))])
    return [list(of_decoder) for of_decoder in zip(*levels, strict=True)]


def _taps(convs: Sequence[nn.Conv3d]) -> nn.Conv2d:
    # (O, I, 3, 3, 3) -> (3, O, I, 3, 3), with the channels of all decoders within a slice.
    weight = torch.cat([conv.weight.permute(2, 0, 1, 3, 4) for conv in convs], dim=1)
    bias = torch.cat([conv.bias for conv in convs if conv.bias is not None])
    zero = torch.zeros_like(bias)
    taps = nn.Conv2d(weight.shape[2], len(weight.flatten(0, 1)), 3, padding=1)
    return _loaded(taps, weight.flatten(0, 1), torch.cat((zero, bias, zero)))


def _pointwise(weight: Tensor) -> nn.Conv3d:
    conv = nn.Conv3d(weight.shape[1], weight.shape[0], 1, bias=False)
    return _loaded(conv, weight[..., None, None, None])


def _loaded(conv: Conv, weight: Tensor, bias: Tensor | None = None) -> Conv:
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    conv.load_state_dict(state)
    return conv.requires_grad_(False).to(weight.device)


def _multiplied_out(decoder: SqueezeExpandDecoder) -> tuple[list[Tensor], Tensor]:
    """Weights (outputs, channels) from each block, s = 4, 8, 16, 32, to the decoder's outputs, and
    the bias (outputs,): products of the 1x1x1 convolutions between them."""
    layers = decoder.output_layers()
    path = torch.cat([_matrix(layer) for layer in layers])
    biases = [
        layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
        for layer in layers
    ]
    weights = []
    for conv, finer in zip(
        (decoder.conv_4, decoder.conv_8, decoder.conv_16), BLOCKS, strict=False
    ):
        path = path @ _matrix(conv)
        coarse = conv.in_channels - decoder.first_conv(finer).out_channels
        weights.append(path[:, coarse:])
        path = path[:, :coarse]
    return [weight.float() for weight in (*weights, path)], torch.cat(biases)


def _matrix(conv: nn.Conv3d) -> Tensor:
    """Weight (outputs, inputs) of a 1x1x1 convolution, in float64: nothing is lost in products but
    by the last rounding."""
    return conv.weight[:, :, 0, 0, 0].double()
