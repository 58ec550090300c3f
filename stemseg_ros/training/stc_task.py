"""Training of STC (``trainables.py``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from stemseg_ros.execution.torch_engine import DTYPES, to_channels_last
from stemseg_ros.media.overlay import contact_sheet, draw_instances
from stemseg_ros.models.layers.norms import fuse_frozen_norms
from stemseg_ros.models.layers.weight_files import (
    CheckpointError,
    checked_state,
    read_content,
    state_of,
)
from stemseg_ros.models.layers.weights import initialise, load_state
from stemseg_ros.models.stc import trainable
from stemseg_ros.models.stc.condinst import CondInst
from stemseg_ros.models.stc.input_format import adapt_first_convolution, denormalise, normalise
from stemseg_ros.models.stc.load import load_initial_weights, seeded_network
from stemseg_ros.models.stc.pyramid import LightBody
from stemseg_ros.models.stc.settings import Settings
from stemseg_ros.models.stc.tracker import StcTracker
from stemseg_ros.models.stc.trainable import FramePairs, extract_truth, freeze, output_layers
from stemseg_ros.records import Frame, FrameResult, Image
from stemseg_ros.training.batches import stack_frames
from stemseg_ros.training.clips import Clip, draw_clip
from stemseg_ros.training.clips import draw_size as draw_shape
from stemseg_ros.training.model import in_float32
from stemseg_ros.training.pretrained import load_imagenet

__all__ = [
    "COMPILED",
    "batch",
    "build",
    "build_plain",
    "compute_losses",
    "draw_clip",
    "draw_predictions",
    "draw_shape",
    "parameter_groups",
]

COMPILED = ("pyramid",)
SHEET_WIDTH = 1600
LIGHT_BACKBONE = "backbone.body."
"""Prefix of the backbone's keys in files of STEm-Seg."""
LIGHT_NECK = (
    (re.compile(r"^backbone\.fpn\.fpn_inner([234])\."), "neck.lateral_convs.{}.conv."),
    (re.compile(r"^backbone\.fpn\.fpn_layer([234])\."), "neck.fpn_convs.{}.conv."),
)
"""Keys of STEm-Seg's feature pyramid at strides 8, 16 and 32, and the corresponding ones of
STC."""


def build(config: Settings) -> CondInst:
    """See ``Trainable``.

    ``training.start_from``: weights of CondInst or STC, the checkpoint of a run, or a light
    STEm-Seg, of which backbone and feature pyramid are used.
    """
    training = config.training
    network = seeded_network(config, training.seed)
    initialise(network.backbone, training.seed)
    folded = _load_initial_weights(network, config)
    network.eval()  # norms can be folded in eval mode only
    if training.fold_norms:
        fuse_frozen_norms(network)
    if folded is not None:
        path = Path(str(training.start_from))
        load_state(network, folded, path, config.name)
    network.train()
    freeze(network, config.condinst.variant, training.frozen_stages)
    if training.frozen_encoder:
        network.backbone.requires_grad_(False)
        network.neck.requires_grad_(False)
    for module in _float32_parts(network):
        in_float32(module)
    if training.channels_last:
        to_channels_last(network)
    return network


def build_plain(config: Settings) -> CondInst:
    """See ``Trainable``."""
    return CondInst(config)


def batch(clips: list[Clip], config: Settings) -> FramePairs:
    """See ``Trainable``."""
    pixels = normalise(stack_frames(clips), config.condinst.variant)
    found = [
        [extract_truth(labels, config.pairs.min_pixels) for labels in clip.labels]
        for clip in clips
    ]
    return FramePairs(
        images=pixels.unflatten(0, (len(clips), -1)),
        truths=tuple((key[0], reference[0]) for key, reference in found),
        ignored=torch.stack([torch.stack([unknown for _, unknown in pair]) for pair in found]),
        names=tuple(clip.name for clip in clips),
    )


def compute_losses(model: nn.Module, pairs: FramePairs, config: Settings) -> dict[str, Tensor]:
    """See ``Trainable``; the network runs in ``training.precision``, losses in float32."""
    precision = DTYPES[config.training.precision]
    images = pairs.images.flatten(0, 1)
    with torch.autocast(images.device.type, precision, precision != torch.float32):
        output = model(images)
    return trainable.compute_losses(trainable.to_float32(output), pairs, config)


def parameter_groups(network: CondInst, config: Settings) -> list[tuple[set[nn.Parameter], float]]:
    """See ``Trainable``: backbone and feature pyramid."""
    backbone, neck = set(network.backbone.parameters()), set(network.neck.parameters())
    return [(backbone, config.training.backbone_rate), (neck, config.pairs.neck_rate)]


@torch.no_grad()
def draw_predictions(network: CondInst, pairs: FramePairs, config: Settings) -> Image:
    """See ``Trainable``; the frames of the first pair are tracked as a stream."""
    images = denormalise(pairs.images[0], config.condinst.variant)
    frames = images.permute(0, 2, 3, 1).round().clamp(0, 255).byte().cpu().numpy()
    tracker = StcTracker(config, pairs.images.device)
    network.eval()
    try:
        drawn = [draw_instances(frame, _track(tracker, network, frame)) for frame in frames]
    finally:
        network.train()
    return contact_sheet(drawn, len(drawn), width=SHEET_WIDTH)


def _track(tracker: StcTracker, network: CondInst, image: Image) -> FrameResult:
    step = tracker.step(Frame(image, stamp_ns=0))
    (pixels,) = next(step).inputs
    device = next(network.parameters()).device
    outputs = network.detect(pixels[None].to(device))
    try:
        step.send(tuple(output[0] for output in outputs))
    except StopIteration as done:
        (result,) = done.value
        assert isinstance(result, FrameResult)
        return result
    raise RuntimeError("a step of STC makes one call")


def _load_initial_weights(network: CondInst, config: Settings) -> dict[str, Tensor] | None:
    """Copy the initial weights; those of a run's checkpoint are returned instead, because they can
    only be loaded after norms are folded. Raises CheckpointError, MissingExtraError."""
    training = config.training
    body = network.backbone
    if training.start_from is None:
        if isinstance(body, LightBody) and training.pretrained:
            load_imagenet(body.mobilenet)
            _adapt(network, config)
        return None
    path = Path(training.start_from)
    content = read_content(path)
    if isinstance(content, Mapping) and "average" in content:
        return checked_state(content["average"], path)
    state = state_of(content, path)
    if any(key.startswith(LIGHT_BACKBONE) for key in state):
        if not isinstance(body, LightBody):
            raise CheckpointError(
                f"{path}: is a STEm-Seg whose ResNet does not fit '{config.name}'; start from a "
                "published CondInst"
            )
        load_light_stemseg(network, state, path, config)
        return None
    load_initial_weights(network, path, config)
    return None


def load_light_stemseg(
    network: CondInst, state: Mapping[str, Tensor], path: Path, config: Settings
) -> None:
    """Copy the backbone of a light STEm-Seg, and the matching weights of its feature pyramid.
    Raises CheckpointError."""
    assert isinstance(network.backbone, LightBody)
    backbone = {
        key.removeprefix(LIGHT_BACKBONE): value
        for key, value in state.items()
        if key.startswith(LIGHT_BACKBONE)
    }
    load_state(network.backbone.mobilenet, backbone, path, config.name)
    _adapt(network, config)
    ours = network.state_dict()
    fitting = {}
    for key, value in state.items():
        name = _rename_neck_key(key)
        if name is not None and ours[name].shape == value.shape:
            fitting[name] = value.to(ours[name].dtype)
    network.load_state_dict(fitting, strict=False)


def _rename_neck_key(key: str) -> str | None:
    for pattern, ours in LIGHT_NECK:
        match = pattern.match(key)
        if match:
            return ours.format(int(match[1]) - 2) + key[match.end() :]
    return None


def _adapt(network: CondInst, config: Settings) -> None:
    first = next(m for m in network.backbone.modules() if isinstance(m, nn.Conv2d))
    adapt_first_convolution(first.weight, config.condinst.variant)


def _float32_parts(network: CondInst) -> list[nn.Module]:
    """List the layers to train in float32 on the CPU: narrow outputs, for whose weight gradients
    oneDNN writes past its buffer in bfloat16 (``PointwiseConv`` of STEm-Seg), and strided
    depthwise convolutions, whose weight gradients take ten times as long."""
    strided = [
        module
        for module in network.backbone.modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride != (1, 1)
    ]
    return [*output_layers(network), *strided]
