"""Training losses of Sec. 3.4 (embeddings, bandwidths, heat map), Sec. 3.6 (semantics) and Sec.
4.5 (saliency).

All of them work on the network's stride-4 grid. Where the released training code (``reference``)
and ours (``corrected``) differ, they follow ``rules.LossRules``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.stemseg.network import BANDWIDTH_SCALE
from stemseg_ros.models.stemseg.rules import LossRules
from stemseg_ros.models.stemseg.settings import Settings

RIM_STEPS = 4
"""Erosions after which a cell counts as deep inside its object (interior heat map target)."""
RIM_HEAT = 0.3
"""Share of the heat map target that the outermost cells of an object keep."""
IGNORE_INDEX = -100
"""Class of cells that a cross-entropy leaves out."""
FAR = 40.0
"""Squared Mahalanobis distance from which a cell outside has no loss: in float32 its probability,
below 3e-9, is lost when added to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """One window, flattened to P = T * h * w cells, and its I non-empty instances."""

    embeddings: Tensor  # (E, P)
    raw_variance: Tensor  # (V, P)
    heatmap: Tensor  # (P,)
    masks: Tensor  # (I, P) float, 0 or 1
    cells: Tensor  # (I,) cells of each instance
    ignore: Tensor  # (P,) bool
    excluded: Tensor  # (P,) bool, cells without any part in the losses; none in the reference


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """The K pairs of an instance and a cell that can matter, sorted by instance.

    They are the cells of the instance, and those outside with a part in its Lovász hinge. There
    are far fewer of them than I * P, which is what makes windows with a hundred instances
    affordable.
    """

    instance: Tensor  # (K,) from 0
    cell: Tensor  # (K,)
    inside: Tensor  # (K,) float, 1 where the cell belongs to the instance
    probability: Tensor  # (K,) of the cell under the Gaussian of the instance (Eq. 2)


def embedding_loss(
    network_output: Tensor, masks: Tensor, ignore: Tensor, config: Settings
) -> dict[str, Tensor]:
    """Embedding losses of a batch of windows (Sec. 3.4), differentiable with respect to
    ``network_output``.

    network_output: float (N, C, T, h, w), channels: E embeddings with the coordinate grid added, V
        raw variances, one heat map after its sigmoid; E and V follow from ``network.mixing``.
    masks: (N, I, T, h, w), 0 or 1; empty masks are no instances, so samples may be padded with
    them. ignore: (N, T, h, w), 1 where nothing is known.

    Returns scalars: ``lovasz``, ``variance_smoothness``, ``heatmap``, and ``embedding``, their sum
    weighted as ``training`` says. A sample without instances contributes nothing in the reference
    variant; in the corrected one its heat map is still pushed to zero, and neither outputs nor
    masks in ignored cells have any effect.
    """
    rules = LossRules.of(config)
    samples = [
        _flatten(output, mask, ignored, config, rules)
        for output, mask, ignored in zip(network_output, masks, ignore, strict=True)
    ]
    zero = network_output[:0].sum()  # keeps the graph where a batch has no instance
    lovasz, smoothness, heat = [zero], [zero], [zero]
    weights = [zero.detach()]
    for sample in samples:
        if len(sample.cells):
            pairs = _pairs(sample, config)
            weight = _instance_weight(sample, rules)
            logits = 2 * pairs.probability - 1
            hinge = lovasz_hinge(logits, pairs.inside, pairs.instance, len(sample.cells))
            lovasz.append((hinge * weight).sum())
            smoothness.append(_variance_smoothness(sample, pairs))
            heat.append(_heat_inside(sample, pairs, masks.shape[2:], rules))
            weights.append(weight.sum())
        if len(sample.cells) or rules.empty_windows:
            heat.append(_heat_outside(sample))
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


def semantic_loss(logits: Tensor, classes: Tensor, ignore: Tensor, config: Settings) -> Tensor:
    """Cross-entropy over the classes plus binary cross-entropy of the foreground channel (Sec.
    3.6).

    logits: float (N, K + 2, T, h, w): background, K classes, foreground. classes: int64 (N, T, h,
    w), 0 background. ignore: (N, T, h, w). Returns a scalar. In the reference variant ignored
    cells take part in the cross-entropy over classes, as in the released code, and the foreground
    term is a mean per sample.
    """
    rules = LossRules.of(config)
    ignored = ignore.bool()
    excluded = ignored & rules.exclude_ignored
    known = classes.masked_fill(excluded, IGNORE_INDEX)
    entropy = F.cross_entropy(logits[:, :-1], known, reduction="sum", ignore_index=IGNORE_INDEX)
    foreground = (classes > 0).to(logits.dtype)
    binary = F.binary_cross_entropy_with_logits(logits[:, -1], foreground, reduction="none")
    groups = (len(logits) if rules.foreground_per_window else 1, -1)
    sums = binary.masked_fill(ignored, 0.0).reshape(groups).sum(1)
    counts = (~ignored).reshape(groups).sum(1).clamp(min=1)
    return entropy / (~excluded).sum().clamp(min=1) + (sums / counts).mean()


def saliency_loss(logits: Tensor, classes: Tensor, ignore: Tensor, config: Settings) -> Tensor:
    """Bootstrapped cross-entropy of foreground and background (Sec. 4.5; Wu et al., 2016): its
    mean over the hard cells of each window.

    Hard are cells whose true label has a probability below ``training.bootstrap_probability``, in
    any case the hardest ``training.bootstrap_share``. logits: float (N, 2, T, h, w): background,
    foreground. classes: int64 (N, T, h, w), 0 background, everything else foreground. ignore: (N,
    T, h, w), cells that are left out. Returns a scalar: the mean over windows; one of ignored
    cells alone adds nothing.
    """
    training = config.training
    entropy = F.cross_entropy(logits, (classes > 0).long(), reduction="none").flatten(1)  # (N, P)
    valid = ~ignore.bool().flatten(1)
    # A cross-entropy is never negative, so ignored cells sort behind all others.
    hardest = entropy.masked_fill(~valid, -1.0).sort(dim=1, descending=True).values
    least = (valid.sum(1) * training.bootstrap_share).ceil()
    hard = (hardest > -math.log(training.bootstrap_probability)).sum(1)
    counts = torch.maximum(hard, least.long())  # (N,)
    chosen = torch.arange(hardest.shape[1], device=hardest.device) < counts[:, None]
    return (hardest.where(chosen, 0.0).sum(1) / counts.clamp(min=1)).mean()


def lovasz_hinge(logits: Tensor, inside: Tensor, instance: Tensor, instances: int) -> Tensor:
    """Lovász hinge of I binary masks (Berman et al., CVPR 2018), each a tight bound of 1 - IoU.

    logits: (K,) of pairs of an instance and a cell, all that belong together in one loss. inside:
    float (K,), 1 where the cell belongs to the instance, else 0. instance: int64 (K,) from 0 to I
    - 1, ascending. A pair that is left out is a cell outside with logit -1, which has no loss.
    Returns (I,).
    """
    errors = 1 - logits * (2 * inside - 1)
    by_error = errors.detach().argsort(descending=True, stable=True)
    order = by_error[instance[by_error].argsort(stable=True)]  # by instance, then by error
    errors, truth = errors[order], inside[order].long()
    counts = instance.new_zeros(2, instances)
    counts = counts.index_add(1, instance, torch.stack((torch.ones_like(truth), truth)))
    first, hits_before = (counts.cumsum(1) - counts)[:, instance]  # before each instance's pairs
    rank = torch.arange(len(instance), device=instance.device) - first
    hits = truth.cumsum(0) - hits_before
    total = counts[1, instance]
    jaccard = 1 - (total - hits) / (total + rank + 1 - hits).clamp(min=1)
    steps = jaccard - jaccard.roll(1).masked_fill(rank == 0, 0.0)
    return errors.new_zeros(instances).index_add(0, instance, errors.relu() * steps)


def _flatten(
    output: Tensor, masks: Tensor, ignore: Tensor, config: Settings, rules: LossRules
) -> _Sample:
    dims = config.network.embedding_dims
    learned = dims - config.network.free_dims
    if output.shape[0] != dims + learned + 1:
        raise ValueError(
            f"network_output has {output.shape[0]} channels; mixing '{config.network.mixing}' "
            f"needs {dims} embeddings, {learned} variances and one heat map"
        )
    flat, ignored = output.flatten(1), ignore.flatten().bool()
    excluded = ignored & rules.exclude_ignored
    mask = masks.flatten(1).to(flat.dtype).masked_fill(excluded, 0.0)
    mask = mask[mask.sum(1) > 0]
    return _Sample(flat[:dims], flat[dims:-1], flat[-1], mask, mask.sum(1), ignored, excluded)


def _mean_inside(values: Tensor, sample: _Sample) -> Tensor:
    """Mean of (D, P) over each instance: (I, D)."""
    return sample.masks @ values.T / sample.cells[:, None]


def _pairs(sample: _Sample, config: Settings) -> _Pairs:
    """Pairs of instances and cells, with probabilities that gradients flow through."""
    centers = _mean_inside(sample.embeddings, sample)  # (I, E)
    precisions = _mean_inside(BANDWIDTH_SCALE * sample.raw_variance.exp(), sample)  # (I, V)
    free = precisions.new_full(
        (len(centers), config.network.free_dims), config.network.free_sigma**-2
    )
    precisions = torch.cat([precisions, free], dim=1)
    chosen = _matters(sample, centers, precisions) & ~sample.excluded
    instance, cell = chosen.nonzero(as_tuple=True)
    squared = sum(
        (values.index_select(0, cell) - center.index_select(0, instance)).square()
        * precision.index_select(0, instance)
        for values, center, precision in zip(
            sample.embeddings, centers.T, precisions.T, strict=True
        )
    )
    inside = sample.masks.flatten().index_select(0, instance * sample.masks.shape[1] + cell)
    return _Pairs(instance, cell, inside, torch.exp(-0.5 * squared))


@torch.no_grad()
def _matters(sample: _Sample, centers: Tensor, precisions: Tensor) -> Tensor:
    """Which cells have a part in the loss of which instance: bool (I, P).

    The Lovász extension gives no weight to errors below the smallest one inside the instance. A
    cell outside of probability p has the error 2 p, the best inside 2 - 2 max p.
    """
    distance = torch.zeros_like(sample.masks)  # squared Mahalanobis distance
    # One dimension after the other: an (I, E, P) volume would be E times the memory.
    for values, center, scale in zip(
        sample.embeddings, centers.T, precisions.sqrt().T, strict=True
    ):
        offset = torch.outer(scale, values).sub_((scale * center)[:, None])
        distance.addcmul_(offset, offset)
    inside = sample.masks > 0
    nearest = distance.masked_fill(~inside, torch.inf).amin(1, keepdim=True)
    reach = -2 * torch.log(-torch.expm1(-0.5 * nearest))  # where p = 1 - max p
    # A little farther, as the distances are rounded differently from the probabilities.
    return inside | (distance < (1.01 * reach + 0.01).clamp(max=FAR))


def _instance_weight(sample: _Sample, rules: LossRules) -> Tensor:
    """Weight of each instance in the Lovász mean: (I,).

    Specks that are left out here still have their part in the other losses.
    """
    large = (sample.cells >= rules.min_instance_cells).to(sample.cells.dtype)
    return large * (sample.cells / 1000).pow(rules.size_power)


def _sum_inside(values: Tensor, sample: _Sample, pairs: _Pairs) -> Tensor:
    """Sum of (K,) over the cells of each instance: (I,)."""
    return torch.zeros_like(sample.cells).index_add(0, pairs.instance, values * pairs.inside)


def _variance_smoothness(sample: _Sample, pairs: _Pairs) -> Tensor:
    means = _mean_inside(sample.raw_variance, sample)  # (I, V)
    # E[v^2] - E[v]^2 would cancel badly; the residual needs each instance's own mean.
    residual = sum(
        (values.index_select(0, pairs.cell) - mean.index_select(0, pairs.instance)).square()
        for values, mean in zip(sample.raw_variance, means.T, strict=True)
    )
    sums = _sum_inside(residual, sample, pairs)
    return (sums / (sample.cells * len(sample.raw_variance))).mean()


def _heat_inside(sample: _Sample, pairs: _Pairs, shape: torch.Size, rules: LossRules) -> Tensor:
    """Squared difference between the heat map and its target: mean over each instance, summed.

    The target is the membership probability, for ``interior_heat`` lowered towards the rim, so
    that the map has a peak and rims of found objects do not seed false ones.
    """
    target = pairs.probability.detach()
    if rules.interior_heat:
        target = target * (RIM_HEAT + (1 - RIM_HEAT) * _depth(sample, pairs, shape))
    residual = (sample.heatmap.index_select(0, pairs.cell) - target).square()
    return (_sum_inside(residual, sample, pairs) / sample.cells).sum()


@torch.no_grad()
def _depth(sample: _Sample, pairs: _Pairs, shape: torch.Size) -> Tensor:
    """Depth (K,) of cells inside their instance, in [0, 1]: 1 where it is deepest in its frame.

    shape: (T, h, w). Instances are eroded together, as numbers in one map. Where masks overlap,
    the later one is in front.
    """
    numbers = torch.arange(1, len(sample.masks) + 1, device=sample.masks.device)
    label = (sample.masks * numbers[:, None]).amax(0).view(shape)  # (T, h, w), 0 background
    steps = (label > 0).to(label.dtype)
    for _ in range(RIM_STEPS):
        # The image border is no rim: pooling looks at cells inside alone.
        highest = F.max_pool2d(label, 3, stride=1, padding=1)
        lowest = -F.max_pool2d(-label, 3, stride=1, padding=1)
        label = label.where(highest == lowest, 0.0)
        steps = steps + (label > 0)
    depth = steps.flatten()[pairs.cell]
    frames = shape[0]
    place = pairs.instance * frames + pairs.cell // (shape[1] * shape[2])  # instance and frame
    deepest = depth.new_ones(len(sample.masks) * frames).scatter_reduce(
        0, place, depth * pairs.inside, "amax"
    )[place]
    return torch.where(deepest > 1, (depth - 1) / (deepest - 1).clamp(min=1), 1.0)


def _heat_outside(sample: _Sample) -> Tensor:
    """Mean squared heat over cells in no instance, where ignored cells count as zero unless they
    are excluded."""
    outside = sample.masks.sum(0) == 0
    heat = sample.heatmap.square() * (outside & ~sample.ignore)
    return heat.sum() / (outside & ~sample.excluded).sum().clamp(min=1)
