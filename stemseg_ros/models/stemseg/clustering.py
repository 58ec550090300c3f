"""Clusters the network's maps of one window into instances (Sec. 3.3).

Everything runs on the device of the maps. The number of instances is not known beforehand, so on a
GPU the loop synchronises with the host to decide whether to continue, once for many of them
(``growing.py``). Besides, a window waits for the device three times: to count its foreground
cells, and to copy the labels and the traits of the clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stemseg_ros.models.stemseg.growing import Clusters, grow
from stemseg_ros.models.stemseg.settings import NetworkConfig, Settings
from stemseg_ros.models.stemseg.tensors import NetworkOutput, WindowClusters


def foreground_mask(evidence: Tensor, config: Settings) -> Tensor:
    """Threshold averaged foreground evidence (T, h, w) to a bool mask.

    Evidence is the logit of the semantic foreground channel or, without a semantic head, the heat
    map; either averaged over the windows that contain the frame.
    """
    if config.network.semantic_head:
        return torch.sigmoid(evidence) > config.clustering.foreground_probability
    return evidence > config.clustering.foreground_heat


@torch.inference_mode()
def cluster_window(output: NetworkOutput, foreground: Tensor, config: Settings) -> WindowClusters:
    """Find the instances among the foreground pixels of all T frames at once.

    foreground: bool (T, h, w). Class logits are averaged over each cluster if the output has any.
    """
    cells = foreground.flatten().nonzero().squeeze(1)  # (P,) in t, y, x order
    heat = output.heatmap.flatten()[cells]
    embeddings = output.embeddings.flatten(1)[:, cells]  # (E, P)
    precisions = _precisions(output.bandwidths.flatten(1)[:, cells], config.network)  # (E, P)
    found = grow(embeddings, precisions, heat, config.clustering)
    labels = torch.zeros(foreground.numel(), dtype=torch.int16, device=foreground.device)
    labels[cells] = found.labels
    traits = [embeddings[:, found.seeds].T, heat[found.seeds].unsqueeze(1)]
    if output.semantic_logits is not None:
        traits.append(_class_logits(output.semantic_logits, cells, found))
    return _on_host(labels.view(foreground.shape), found.accepted, traits)


def _on_host(labels: Tensor, accepted: Tensor, traits: list[Tensor]) -> WindowClusters:
    """Copy labels (T, h, w) and, in one piece, traits of the rounds: centres, heat, class logits.

    Rounds that were not accepted are left out here, on the host; class logits come without them.
    """
    table = torch.cat((accepted.unsqueeze(1).to(traits[0].dtype), *traits), dim=1).cpu().numpy()
    keep = table[:, 0] > 0
    dims = traits[0].shape[1]
    return WindowClusters(
        labels=labels.cpu().numpy(),
        centers=table[keep, 1 : 1 + dims],
        scores=table[keep, 1 + dims],
        class_logits=table[: keep.sum(), 2 + dims :] if len(traits) > 2 else None,
    )


def _precisions(bandwidths: Tensor, config: NetworkConfig) -> Tensor:
    """Compute precisions (E, P): the learned bandwidths (V, P), and 1 / sigma^2 for free
    dimensions."""
    free = bandwidths.new_full((config.free_dims, bandwidths.shape[1]), 1.0 / config.free_sigma**2)
    return torch.cat((bandwidths, free))


def _class_logits(semantic: Tensor, cells: Tensor, found: Clusters) -> Tensor:
    """Mean logits (R, 1 + C) of background and classes over cluster 1, 2, ...; rows after the K-th
    are empty.

    The foreground channel is left out.
    """
    logits = semantic[:-1].flatten(1)[:, cells]  # (1 + C, P)
    rounds = found.seeds.numel()
    # Outliers (-1) go to a column of their own, which is cut off again.
    columns = torch.where(found.labels > 0, found.labels.long() - 1, rounds)
    sums = logits.new_zeros(len(logits), rounds + 1).index_add_(1, columns, logits)
    counts = logits.new_zeros(rounds + 1).index_add_(0, columns, torch.ones_like(logits[0]))
    return (sums / counts.clamp(min=1)).T[:rounds]
