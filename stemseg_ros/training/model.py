"""The network in training: pretrained, with folded batch norms, deep stages in float32."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from stemseg_ros.execution.torch_engine import to_channels_last
from stemseg_ros.models.layers.norms import fuse_frozen_norms
from stemseg_ros.models.layers.weights import initialise
from stemseg_ros.models.stemseg.decoder import EmbeddingHead
from stemseg_ros.models.stemseg.network import BANDWIDTH_SCALE, WindowNetwork, build_network
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.training.initial_weights import read_start
from stemseg_ros.training.pretrained import conv_norm_pairs, load_imagenet, set_folded

OUTPUT_GAIN = 0.1
"""Output layers start this much smaller than He's rule, so that no output starts saturated."""
FLOAT32_PARTS = ("block_32x", "block_16x")
"""Decoder blocks at strides 32 and 16: in bfloat16 their weight gradients on the CPU can be
infinite."""


def build_for_training(config: Settings) -> WindowNetwork:
    """Seeded network with the weights that training starts from.

    Raises CheckpointError where ``training.start_from`` does not fit, MissingExtraError without
    the ImageNet weights that ``training.pretrained`` asks for.
    """
    network = build_network(config)
    initialise(network, config.training.seed)
    _start_outputs(network, config)
    start = read_start(Path(config.training.start_from)) if config.training.start_from else None
    if start is not None:
        start.load_plain(network)
    elif config.network.backbone == "mobilenet_v2" and config.training.pretrained:
        load_imagenet(network.backbone.body)  # type: ignore[arg-type]
    network.eval()  # there is nothing that differs in training, and only then can norms be folded
    if config.training.fold_norms:
        fuse_frozen_norms(network)
    if start is not None:
        start.load_folded(network)
    network.requires_grad_(True)  # biases that come from frozen norms, too
    for stage in list(network.backbone.body.children())[: config.training.frozen_stages]:
        stage.requires_grad_(False)
    if config.training.frozen_encoder:
        network.backbone.requires_grad_(False)
    for name, module in network.named_modules():
        if name.rpartition(".")[2] in FLOAT32_PARTS:
            in_float32(module)
    if config.training.channels_last:
        to_channels_last(network)
    return network


@torch.no_grad()
def _start_outputs(network: WindowNetwork, config: Settings) -> None:
    for decoder in network.decoders().values():
        for layer in decoder.output_layers():
            layer.weight.mul_(OUTPUT_GAIN)
        sigmas = config.training.initial_sigma
        if isinstance(decoder, EmbeddingHead) and sigmas is not None:
            plane, time = (-math.log(BANDWIDTH_SCALE * sigma**2) for sigma in sigmas)
            axes = config.network.mixing.replace("f", "")  # variances come in the order t, y, x
            order = [time] * axes.count("t") + [plane] * (axes.count("x") + axes.count("y"))
            bias = decoder.conv_variance.bias
            assert bias is not None
            bias.copy_(torch.tensor(order))


def in_float32(module: nn.Module) -> None:
    """Take a module out of autocast; its name and its parameters stay as they are."""
    plain = module.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            result: Tensor = plain(x.float())
            return result

    module.forward = forward


@torch.no_grad()
def unfused(network: nn.Module, state: dict[str, Tensor], *, folded: bool) -> nn.Module:
    """Fill a network in the layout of checkpoints from the state dict of a training network,
    whose frozen norms may be folded."""
    if not folded:
        network.load_state_dict(state)
        return network.eval()
    pairs = conv_norm_pairs(network)
    for name, (conv, norm) in pairs.items():
        set_folded(conv, norm, state[f"{name}.weight"], state[f"{name}.bias"])
    set_above = {f"{name}.{part}" for name in pairs for part in ("weight", "bias")}
    network.load_state_dict({k: v for k, v in state.items() if k not in set_above}, strict=False)
    return network.eval()
