"""Training of HODOR (``trainables.py``)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stemseg_ros.datasets.sequence import CLASS_STEP, IGNORE_LABEL
from stemseg_ros.execution.torch_engine import DTYPES, to_channels_last
from stemseg_ros.media.overlay import contact_sheet
from stemseg_ros.models.hodor import trainable
from stemseg_ros.models.hodor.features import build_light_body
from stemseg_ros.models.hodor.losses import IGNORED
from stemseg_ros.models.hodor.network import Hodor
from stemseg_ros.models.hodor.settings import Settings
from stemseg_ros.models.hodor.trainable import SampleBatch, predict_labels
from stemseg_ros.models.layers.backbone import MobileNetV2
from stemseg_ros.models.layers.preprocess import normalise
from stemseg_ros.models.layers.weights import load_state
from stemseg_ros.records import Image
from stemseg_ros.training.batches import stack_frames
from stemseg_ros.training.clip_sheet import draw_labels
from stemseg_ros.training.clips import Clip
from stemseg_ros.training.hodor_clips import draw_objects as draw_shape
from stemseg_ros.training.hodor_clips import draw_sample as draw_clip
from stemseg_ros.training.initial_weights import read_start
from stemseg_ros.training.model import in_float32
from stemseg_ros.training.prediction_pictures import SHEET_WIDTH, restore_images
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

COMPILED = ("encode",)
REFINER = "decoder.refiner."
UNUSED = re.compile(
    r"feature_extractor\.(bb_fpn\.1\.fpn_convs|norm_layers)\.[2-9]\.|decoder\.fmap_proj_4x\."
)
"""Parameters of the released checkpoints on which no output depends; several processes would wait
for their gradients."""


def build(config: Settings) -> Hodor:
    """See ``Trainable``.

    ``training.start_from``: weights of HODOR or the checkpoint of a run; what
    ``network.refinement`` adds to the network may be missing in them.
    """
    training = config.training
    network = Hodor(config)
    if training.start_from:
        start = read_start(Path(training.start_from))
        load_state(network, _new_parts(network) | start.state, start.path, config.name)
    elif config.network.backbone == "mobilenet_v2" and training.pretrained:
        _load_backbone(network)
    network.train()
    for stage in list(_body(network).children())[: training.frozen_stages]:
        stage.requires_grad_(False)
    if training.frozen_encoder:
        network.feature_extractor.requires_grad_(False)
    for name, parameter in network.named_parameters():
        if UNUSED.match(name):
            parameter.requires_grad_(False)
    for module in network.modules():
        # Their weight gradients in oneDNN take ten times as long in bfloat16 on the CPU.
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride != (1, 1):
            in_float32(module)
    if training.channels_last:
        to_channels_last(network)
    return network


def build_plain(config: Settings) -> Hodor:
    """See ``Trainable``."""
    return Hodor(config)


def batch(clips: list[Clip], config: Settings) -> SampleBatch:
    """See ``Trainable``."""
    pixels = normalise(stack_frames(clips), config.input).flip(1)
    labels = np.stack([clip.labels for clip in clips])
    numbers = np.where(labels == IGNORE_LABEL, 0, labels % CLASS_STEP)
    targets = np.where(labels == IGNORE_LABEL, IGNORED, numbers).astype(np.uint8)
    return SampleBatch(
        frames=pixels.unflatten(0, (len(clips), -1)),
        labels=torch.from_numpy(targets),
        objects=max(1, int(numbers.max())),
        iteration=clips[0].step,
        names=tuple(clip.name for clip in clips),
    )


def compute_losses(model: nn.Module, samples: SampleBatch, config: Settings) -> dict[str, Tensor]:
    """See ``Trainable``; the network runs in ``training.precision``."""
    precision = DTYPES[config.training.precision]
    with torch.autocast(samples.frames.device.type, precision, precision != torch.float32):
        losses: dict[str, Tensor] = model(
            lambda network: trainable.compute_losses(network, samples, config)
        )
    return losses


def parameter_groups(network: Hodor, config: Settings) -> list[tuple[set[nn.Parameter], float]]:
    """See ``Trainable``: the backbone."""
    return [(set(_body(network).parameters()), config.training.backbone_rate)]


@torch.no_grad()
def draw_predictions(network: Hodor, samples: SampleBatch, config: Settings) -> Image:
    """See ``Trainable``; the masks of the first frame are propagated, and the ground truth is
    drawn below."""
    device = next(network.parameters()).device
    sample = samples.split(1)[0].to(device)
    network.eval()
    try:
        found = predict_labels(network, sample)[0]
    finally:
        network.train()
    images = np.stack(restore_images(sample.frames[0].flip(1), config))
    drawn = [
        tile
        for labels in (found, sample.labels[0])
        for tile in draw_labels(Clip(images, _clip_labels(labels)), config.classes)
    ]
    return contact_sheet(drawn, len(images), width=SHEET_WIDTH)


def _clip_labels(labels: Tensor) -> npt.NDArray[np.int32]:
    """Convert the labels of a batch into those of a clip, of class 1."""
    numbers = labels.cpu().numpy().astype(np.int32)
    objects = np.where(numbers > 0, CLASS_STEP + numbers, 0)
    return np.where(numbers == IGNORED, IGNORE_LABEL, objects).astype(np.int32)


def _body(network: Hodor) -> nn.Module:
    return network.feature_extractor.bb_fpn[0]


def _load_backbone(network: Hodor) -> None:
    body = MobileNetV2()
    load_imagenet(body)
    first = next(body.parameters())
    first.data = first.data.flip(1)  # back to RGB, the input of HODOR
    _body(network).load_state_dict(build_light_body(body).state_dict())


def _new_parts(network: Hodor) -> dict[str, Tensor]:
    """Return the initial weights of what weights of a network without ``refinement`` lack."""
    state = network.state_dict()
    return {name: value for name, value in state.items() if name.startswith(REFINER)}
