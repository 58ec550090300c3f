"""Loads weights of CondInst and STC: published COCO checkpoints of both implementations, our own
files, and seeded random weights.

Our keys are those of mmdet; AdelaiDet's are renamed. Loading a file never executes code from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stemseg_ros.models.layers.weight_files import CheckpointError, read_state
from stemseg_ros.models.layers.weights import (
    RANDOM,
    bundled_checkpoint,
)
from stemseg_ros.models.stc.condinst import CondInst
from stemseg_ros.models.stc.settings import CondInstVariant, Settings

# fmt: off
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack",
    "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball",
    "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket",
    "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair",
    "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse",
    "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)
# fmt: on
"""Classes of the published checkpoints, in their order."""
COCO_NAMES = {"pedestrian": "person", "rider": "person", "cyclist": "person"}
"""COCO's name of a class that we name otherwise."""
CLASS_LAYER = "bbox_head.conv_cls."
TRACKING_HEAD = "tracking_head."
IGNORED = ("mask_branch.seg_head.", "mask_branch.logits.", "mask_head.sizes_of_interest")
"""Prefixes of AdelaiDet's auxiliary semantic loss and constants."""
IGNORED_KEY = "mask_head._iter"
COUNTER = ".num_batches_tracked"
"""Suffix of counters that have no effect; AdelaiDet's backbone has none."""

TOWER_LAYERS = ("conv", "gn")
BRANCH_LAYERS = ("conv", "bn")
MASK_BRANCH = "mask_head.mask_feature_head."
KEY_RULES: tuple[
    tuple[str, Callable[..., str]], ...
] = (  # AdelaiDet to mmdet; the first match applies
    (r"backbone\.bottom_up\.stem\.conv1\.norm", lambda: "backbone.bn1"),
    (r"backbone\.bottom_up\.stem\.conv1", lambda: "backbone.conv1"),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm",
        lambda k, block, n: f"backbone.layer{k - 1}.{block}.bn{n}",
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)",
        lambda k, block, n: f"backbone.layer{k - 1}.{block}.conv{n}",
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm",
        lambda k, block: f"backbone.layer{k - 1}.{block}.downsample.1",
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut",
        lambda k, block: f"backbone.layer{k - 1}.{block}.downsample.0",
    ),
    (r"backbone\.fpn_lateral(\d)", lambda n: f"neck.lateral_convs.{n - 3}.conv"),
    (r"backbone\.fpn_output(\d)", lambda n: f"neck.fpn_convs.{n - 3}.conv"),
    (r"backbone\.top_block\.p(\d)", lambda n: f"neck.fpn_convs.{n - 3}.conv"),
    (
        r"proposal_generator\.fcos_head\.cls_tower\.(\d+)",
        lambda n: f"bbox_head.cls_convs.{n // 3}.{TOWER_LAYERS[n % 3]}",
    ),
    (
        r"proposal_generator\.fcos_head\.bbox_tower\.(\d+)",
        lambda n: f"bbox_head.reg_convs.{n // 3}.{TOWER_LAYERS[n % 3]}",
    ),
    (r"proposal_generator\.fcos_head\.cls_logits", lambda: "bbox_head.conv_cls"),
    (r"proposal_generator\.fcos_head\.bbox_pred", lambda: "bbox_head.conv_reg"),
    (r"proposal_generator\.fcos_head\.ctrness", lambda: "bbox_head.conv_centerness"),
    (r"proposal_generator\.fcos_head\.scales", lambda: "bbox_head.scales"),
    (r"controller", lambda: "bbox_head.controller"),
    (
        r"mask_branch\.refine\.(\d)\.([01])",
        lambda n, part: f"{MASK_BRANCH}convs_all_levels.{n}.conv{n}.{BRANCH_LAYERS[part]}",
    ),
    (
        r"mask_branch\.tower\.(\d)\.([01])",
        lambda n, part: f"{MASK_BRANCH}conv_branch.{n}.{BRANCH_LAYERS[part]}",
    ),
    (r"mask_branch\.tower\.4", lambda: f"{MASK_BRANCH}conv_pred"),
)


def load_network(
    config: Settings, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> CondInst:
    """Build the configured network, load its weights, and put it on ``device`` in eval mode.

    checkpoint: a file as published (.pth) or ours (.safetensors); None for the weights bundled
    with the preset; "random" for seeded random ones (benchmarks only). From a published file
    with COCO's classes, the rows of ``network.classes`` are selected. Raises CheckpointError.
    """
    network = seeded_network(config, seed=0)
    if checkpoint != RANDOM:
        path = bundled_checkpoint(config) if checkpoint in (None, "") else Path(str(checkpoint))
        load_weights(network, path, config)
    return network.eval().requires_grad_(False).to(device)


def seeded_network(config: Settings, seed: int) -> CondInst:
    """Build a network with random initial weights; the global random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CondInst(config)


def load_weights(network: CondInst, path: Path, config: Settings) -> None:
    """Copy a checkpoint into a network. Raises CheckpointError, which names missing and unexpected
    keys."""
    state = select_classes(read_condinst(path, config.condinst.variant), path, config)
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith(COUNTER)]
    if missing and all(key.startswith(TRACKING_HEAD) for key in missing):
        raise CheckpointError(
            f"{path}: is a CondInst without a tracking head; train one ('stemseg train' with "
            "training.start_from set to this file), or set tracking.enabled to false"
        )
    _refuse(path, "lacks", missing)
    _refuse(path, "has unknown", [key for key in state if key not in wanted])
    _copy(network, state, path)


def load_initial_weights(network: CondInst, path: Path, config: Settings) -> list[str]:
    """Copy the matching weights of a checkpoint for training; returns the keys that keep their
    random weights: the tracking head, and the class layer if the file lacks a class. Raises
    CheckpointError."""
    state = read_condinst(path, config.condinst.variant)
    wanted = network.state_dict()
    try:
        state = select_classes(state, path, config)
    except CheckpointError:
        state = {key: value for key, value in state.items() if not key.startswith(CLASS_LAYER)}
    missing = [key for key in wanted if key not in state and not key.endswith(COUNTER)]
    fresh = [key for key in missing if key.startswith((TRACKING_HEAD, CLASS_LAYER))]
    _refuse(path, "lacks", [key for key in missing if key not in fresh])
    left_over = [key for key in state if key not in wanted]
    _refuse(path, "has unknown", [k for k in left_over if not k.startswith(TRACKING_HEAD)])
    _copy(network, {key: value for key, value in state.items() if key in wanted}, path)
    return fresh


def read_condinst(path: Path, variant: CondInstVariant) -> dict[str, Tensor]:
    """Read the state dict of a file under our keys. Raises CheckpointError, also for a file of the
    other variant."""
    state = read_state(path)
    found: CondInstVariant = "adelaidet" if any("bottom_up." in key for key in state) else "mmdet"
    if found == "adelaidet" and variant == "mmdet":
        raise CheckpointError(
            f"{path}: has the keys of AdelaiDet, but condinst.variant is mmdet; set it to "
            "adelaidet, because input format and strides depend on it"
        )
    if found == "mmdet" and variant == "adelaidet" and path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: has no AdelaiDet keys, but condinst.variant is adelaidet; set it to mmdet"
        )
    renamed = {
        rename_to_mmdet(key): value
        for key, value in state.items()
        if not key.startswith(IGNORED) and key != IGNORED_KEY
    }
    return {
        key: value.reshape(()) if key.endswith(".scale") and value.numel() == 1 else value
        for key, value in renamed.items()
    }


def rename_to_mmdet(key: str) -> str:
    """Rename a key of AdelaiDet to that of mmdet; any other stays as it is."""
    for pattern, build in KEY_RULES:
        match = re.match(pattern + r"(?=\.)", key)
        if match:
            return build(*map(int, match.groups())) + key[match.end() :]
    return key


def select_classes(state: Mapping[str, Tensor], path: Path, config: Settings) -> dict[str, Tensor]:
    """Select the rows of ``network.classes`` from a class layer for the classes of COCO.

    A class layer of any other size is kept. Raises CheckpointError for a class that COCO lacks.
    """
    classes = config.network.classes
    rows = {len(value) for key, value in state.items() if key.startswith(CLASS_LAYER)}
    if rows != {len(COCO)} or len(classes) == len(COCO):
        return dict(state)
    names = [COCO_NAMES.get(name, name) for name in classes]
    unknown = [name for name in names if name not in COCO]
    if unknown:
        raise CheckpointError(
            f"{path}: was trained on COCO, which has no class '{unknown[0]}' (network.classes)"
        )
    order = torch.tensor([COCO.index(name) for name in names])
    return {
        key: value[order] if key.startswith(CLASS_LAYER) else value for key, value in state.items()
    }


def _copy(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    ours = network.state_dict()
    for key, value in state.items():
        if value.shape != ours[key].shape:
            raise CheckpointError(
                f"{path}: key '{key}' has shape {list(value.shape)}, but the settings network.* "
                f"need {list(ours[key].shape)}"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: key '{key}' holds values that are not finite")
    network.load_state_dict(
        {key: value.to(ours[key].dtype) for key, value in state.items()}, strict=False
    )


def _refuse(path: Path, verb: str, keys: Sequence[str]) -> None:
    if keys:
        shown = ", ".join(f"'{key}'" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        noun = "key" if len(keys) == 1 else "keys"
        raise CheckpointError(f"{path}: {verb} {noun} {shown}{more}")
