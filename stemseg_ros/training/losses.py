"""Training losses of Sec. 3.4 (embeddings, bandwidths, heat map), Sec. 3.6 (semantics) and Sec.
4.5 (saliency).

All of them work on the network's stride-4 grid. ``training.targets`` chooses between the released
training code (``reference``) and our reading of it with its mistakes mended (``corrected``); a
function below says what the difference is where it makes one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.config import Config
from stemseg_ros.network.build import BANDWIDTH_SCALE

RIM_STEPS = 4
"""Erosions after which a cell counts as deep inside its object (interior heat map target)."""
RIM_HEAT = 0.3
"""Share of the heat map target that the outermost cells of an object keep."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """One window, flattened to P = T * h * w cells, and its I non-empty instances."""

    embeddings: Tensor  # (E, P)
    raw_variance: Tensor  # (V, P)
    heatmap: Tensor  # (P,)
    masks: Tensor  # (I, P) float, 0 or 1
    cells: Tensor  # (I,) cells of each instance
    ignore: Tensor  # (P,) bool


def embedding_loss(
    network_output: Tensor, masks: Tensor, ignore: Tensor, config: Config
) -> dict[str, Tensor]:
    """Embedding losses of a batch of windows (Sec. 3.4), differentiable with respect to
    ``network_output``.

    network_output: float (N, C, T, h, w), channels: E embeddings with the coordinate grid added, V
        raw variances, one heat map after its sigmoid; E and V follow from ``network.mixing``.
    masks: (N, I, T, h, w), 0 or 1; empty masks are no instances, so samples may be padded with
    them. ignore: (N, T, h, w), 1 where nothing is known.

    Returns scalars: ``lovasz``, ``variance_smoothness``, ``heatmap``, and ``embedding``, their sum
    weighted as ``training`` says. A sample without instances contributes nothing in the reference
    variant; in the corrected one its heat map is still pushed to zero.
    """
    corrected = config.training.targets == "corrected"
    samples = [
        _flatten(output, mask, ignored, config)
        for output, mask, ignored in zip(network_output, masks, ignore, strict=True)
    ]
    zero = network_output.sum() * 0.0  # keeps the graph where a batch has no instance
    lovasz, smoothness, heat = [zero], [zero], [zero]
    weights = [zero.detach()]
    for sample in samples:
        if len(sample.cells):
            probability = _membership(sample, config)  # (I, P)
            weight = _instance_weight(sample, config)
            lovasz.append(
                (
                    lovasz_hinge(
                        2 * probability - 1, sample.masks, sample.ignore if corrected else None
                    )
                    * weight
                ).sum()
            )
            smoothness.append(_variance_smoothness(sample))
            target = _heat_target(probability.detach(), sample, masks.shape[2:], config)
            heat.append(_heat_inside(sample, target))
            weights.append(weight.sum())
        if len(sample.cells) or corrected:
            heat.append(_heat_outside(sample, corrected))
    instances = sum(len(sample.cells) for sample in samples)
    losses = {
        "lovasz": torch.stack(lovasz).sum() / torch.stack(weights).sum().clamp(min=1e-6),
        "variance_smoothness": torch.stack(smoothness).sum() / len(samples),
        "heatmap": torch.stack(heat).sum() / (instances + 1),
    }
    training = config.training
    losses["embedding"] = (
        training.lovasz_weight * losses["lovasz"]
        + training.smoothness_weight * losses["variance_smoothness"]
        + training.heatmap_weight * losses["heatmap"]
    )
    return losses


def semantic_loss(logits: Tensor, classes: Tensor, ignore: Tensor, config: Config) -> Tensor:
    """Cross-entropy over the classes plus binary cross-entropy of the foreground channel (Sec.
    3.6).

    logits: float (N, K + 2, T, h, w): background, K classes, foreground. classes: int64 (N, T, h,
    w), 0 background. ignore: (N, T, h, w). Returns a scalar. In the reference variant ignored
    cells take part in the cross-entropy over classes, as in the released code, and the foreground
    term is a mean per sample.
    """
    valid = ~ignore.bool()
    foreground = (classes > 0).to(logits.dtype)
    entropy = F.cross_entropy(logits[:, :-1], classes, reduction="none")
    binary = F.binary_cross_entropy_with_logits(logits[:, -1], foreground, reduction="none")
    if config.training.targets == "corrected":
        total = valid.sum().clamp(min=1)
        return ((entropy + binary) * valid).sum() / total
    per_sample = (binary * valid).flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
    return entropy.mean() + per_sample.mean()


def saliency_loss(logits: Tensor, classes: Tensor, ignore: Tensor, config: Config) -> Tensor:
    """Bootstrapped cross-entropy of foreground and background (Sec. 4.5; Wu et al., 2016): its
    mean over the hardest cells of each window, a share of ``training.bootstrap_share``.

    logits: float (N, 2, T, h, w): background, foreground. classes: int64 (N, T, h, w), 0
    background, everything else foreground. ignore: (N, T, h, w), cells that are left out. Returns
    a scalar: the mean over windows; one of ignored cells alone adds nothing.
    """
    entropy = F.cross_entropy(logits, (classes > 0).long(), reduction="none").flatten(1)  # (N, P)
    valid = ~ignore.bool().flatten(1)
    counts = (valid.sum(1) * config.training.bootstrap_share).ceil().long()  # (N,)
    # A cross-entropy is never negative, so ignored cells sort behind all others.
    hardest = entropy.masked_fill(~valid, -1.0).sort(dim=1, descending=True).values
    chosen = torch.arange(hardest.shape[1], device=hardest.device) < counts[:, None]
    return (hardest.where(chosen, 0.0).sum(1) / counts.clamp(min=1)).mean()


def lovasz_hinge(logits: Tensor, masks: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Lovász hinge of I binary masks (Berman et al., CVPR 2018), each a tight bound of 1 - IoU.

    logits, masks: (I, P), masks 0 or 1. ignore: bool (P,), cells left out. Returns (I,).
    """
    if ignore is not None:
        logits, masks = logits[:, ~ignore], masks[:, ~ignore]
    errors = 1 - logits * (2 * masks - 1)
    errors, order = errors.sort(dim=1, descending=True)
    truth = masks.gather(1, order)
    intersection = truth.sum(1, keepdim=True) - truth.cumsum(1)
    union = truth.sum(1, keepdim=True) + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union.clamp(min=1)
    steps = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
    return (errors.relu() * steps).sum(1)


def _flatten(output: Tensor, masks: Tensor, ignore: Tensor, config: Config) -> _Sample:
    dims = config.network.embedding_dims
    learned = dims - config.network.free_dims
    if output.shape[0] != dims + learned + 1:
        raise ValueError(
            f"network_output has {output.shape[0]} channels; mixing '{config.network.mixing}' "
            f"needs {dims} embeddings, {learned} variances and one heat map"
        )
    flat = output.flatten(1)
    mask = masks.flatten(1).to(flat.dtype)
    mask = mask[mask.sum(1) > 0]
    return _Sample(
        flat[:dims], flat[dims:-1], flat[-1], mask, mask.sum(1), ignore.flatten().bool()
    )


def _mean_inside(values: Tensor, sample: _Sample) -> Tensor:
    """Mean of (D, P) over each instance: (I, D)."""
    return sample.masks @ values.T / sample.cells[:, None]


def _membership(sample: _Sample, config: Config) -> Tensor:
    """Probability of every cell under the Gaussian of every instance (Eq. 2): (I, P)."""
    centers = _mean_inside(sample.embeddings, sample)  # (I, E)
    precisions = _mean_inside(BANDWIDTH_SCALE * sample.raw_variance.exp(), sample)  # (I, V)
    free = precisions.new_full(
        (len(centers), config.network.free_dims), config.network.free_sigma**-2
    )
    precisions = torch.cat([precisions, free], dim=1)
    # One dimension after the other: an (I, E, P) volume would be E times the memory.
    distance = sum(
        (
            (sample.embeddings[d] - centers[:, d, None]).square() * precisions[:, d, None]
            for d in range(len(sample.embeddings))
        ),
        start=torch.zeros_like(sample.masks),
    )
    return torch.exp(-0.5 * distance)


def _instance_weight(sample: _Sample, config: Config) -> Tensor:
    """Weight of each instance in the Lovász mean: (I,).

    reference: all equal. corrected: as ``training.size_power`` and ``training.min_instance_cells``
    say; specks that are left out here still have their part in the other losses.
    """
    if config.training.targets == "reference":
        return torch.ones_like(sample.cells)
    large = (sample.cells >= config.training.min_instance_cells).to(sample.cells.dtype)
    return large * (sample.cells / 1000).pow(config.training.size_power)


def _variance_smoothness(sample: _Sample) -> Tensor:
    means = _mean_inside(sample.raw_variance, sample)  # (I, V)
    # E[v^2] - E[v]^2 would cancel badly; the residual needs each instance's own mean.
    residual = sum(
        (
            sample.masks * (sample.raw_variance[v] - means[:, v, None]).square()
            for v in range(len(sample.raw_variance))
        ),
        start=torch.zeros_like(sample.masks),
    )
    return (residual.sum(1) / (sample.cells * len(sample.raw_variance))).mean()


def _heat_target(
    probability: Tensor, sample: _Sample, shape: torch.Size, config: Config
) -> Tensor:
    """What the heat map should say inside each instance: (I, P).

    reference: the membership probability. corrected with ``heatmap_target`` interior: that,
    lowered towards the rim, so that the map has a peak and rims of found objects do not seed false
    ones.
    """
    if config.training.targets == "reference" or config.training.heatmap_target == "probability":
        return probability
    depth = _depth(sample.masks.reshape(-1, *shape)).flatten(1)
    return probability * (RIM_HEAT + (1 - RIM_HEAT) * depth)


def _depth(masks: Tensor) -> Tensor:
    """Depth of cells inside masks (I, T, h, w), in [0, 1]: 1 where the instance is deepest in its
    frame."""
    depth, eroded = masks, masks
    for _ in range(RIM_STEPS):
        padded = F.pad(eroded, (1, 1, 1, 1), value=1.0)  # the image border is no rim
        eroded = -F.max_pool2d(-padded, 3, stride=1)
        depth = depth + eroded
    deepest = depth.amax((-2, -1), keepdim=True).clamp(min=1)
    return torch.where(
        masks > 0, ((depth - 1) / (deepest - 1).clamp(min=1)).where(deepest > 1, 1.0), 0.0
    )


def _heat_inside(sample: _Sample, target: Tensor) -> Tensor:
    residual = sample.masks * (sample.heatmap - target).square()
    return (residual.sum(1) / sample.cells).sum()


def _heat_outside(sample: _Sample, corrected: bool) -> Tensor:
    """Mean squared heat over cells in no instance; ignored cells count in the mean of the
    reference only."""
    outside = sample.masks.sum(0) == 0
    counted = outside & ~sample.ignore
    total = (counted if corrected else outside).sum().clamp(min=1)
    return (sample.heatmap.square() * counted).sum() / total
