"""From the network's maps of one window to its instances (Sec. 3.3).

Everything runs on the device of the maps. The number of instances is not known beforehand, so the
loop asks the host whether to go on; on a GPU it does so once per CHUNK instances, and the result
is copied once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemseg_ros.config import ClusteringConfig, Config, NetworkConfig
from stemseg_ros.records import OUTLIER, NetworkOutput, WindowClusters

REFERENCE_LIMIT = 20
"""Instances a window at most, in the released code."""
CHUNK = 16
"""Instances sought between two questions to the host, on a GPU."""


def foreground_mask(evidence: Tensor, config: Config) -> Tensor:
    """Averaged foreground evidence (T, h, w) to a bool mask.

    Evidence is the logit of the semantic foreground channel or, without a semantic head, the heat
    map; either averaged over the windows that contain the frame.
    """
    if config.network.semantic_head:
        return torch.sigmoid(evidence) > config.clustering.foreground_probability
    return evidence > config.clustering.foreground_heat


@torch.inference_mode()
def cluster_window(output: NetworkOutput, foreground: Tensor, config: Config) -> WindowClusters:
    """Find the instances among the foreground pixels of all T frames at once.

    foreground: bool (T, h, w). Class logits are averaged over each cluster if the output has any.
    """
    cells = foreground.flatten().nonzero().squeeze(1)  # (P,) in t, y, x order
    # Descending heat, stable: the best free seed is then always the first free one, as the first
    # of several equal maxima in t, y, x order.
    heat, order = output.heatmap.flatten()[cells].sort(descending=True, stable=True)
    cells = cells[order]
    embeddings = output.embeddings.flatten(1)[:, cells]  # (E, P)
    precisions = _precisions(output.bandwidths.flatten(1)[:, cells], config.network)  # (E, P)
    found = _grow(embeddings, precisions, heat, config.clustering)
    labels = torch.zeros(foreground.numel(), dtype=torch.int16, device=foreground.device)
    labels[cells] = found.labels
    logits = (
        None
        if output.semantic_logits is None
        else _class_logits(output.semantic_logits, cells, found)
    )
    return WindowClusters(
        labels=labels.view(foreground.shape).cpu().numpy(),
        centers=embeddings[:, found.seeds].T.cpu().numpy(),
        scores=heat[found.seeds].cpu().numpy(),
        class_logits=None if logits is None else logits.cpu().numpy(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Clusters:
    labels: Tensor
    """int16 (P,): > 0 cluster, -1 outlier."""
    seeds: Tensor
    """int64 (K,) positions of the centres among the P pixels."""


def _grow(
    embeddings: Tensor, precisions: Tensor, heat: Tensor, config: ClusteringConfig
) -> _Clusters:
    """The sequential algorithm of Sec. 3.3 on P pixels sorted by falling heat; embeddings (E,
    P)."""
    pixels = heat.numel()
    state = _State.start(pixels, heat, config)
    seeds: list[Tensor] = []
    accepted: list[Tensor] = []
    limit = config.max_instances if config.corrected("instance_limit") else REFERENCE_LIMIT
    chunk = CHUNK if heat.is_cuda else 1
    while len(seeds) < pixels:
        seed, valid = state.next_seed()
        valid = valid & (state.count < limit)
        probability = _probability(embeddings, precisions, seed, config)
        seeds.append(seed)
        accepted.append(state.claim(seed, valid, probability, config))
        if len(seeds) % chunk == 0 and not bool(valid):
            break
    keep = torch.stack(accepted) if accepted else heat.new_zeros(0, dtype=torch.bool)
    positions = torch.stack(seeds) if seeds else heat.new_zeros(0, dtype=torch.int64)
    return _Clusters(state.finish(config), positions[keep])


@dataclass(slots=True, eq=False)
class _State:
    """What the loop remembers of each pixel; all on the device."""

    positions: Tensor
    """int64 (P,) 0, 1, 2, ..."""
    labels: Tensor
    """int16 (P,): cluster number, 0 while free."""
    seedable: Tensor
    """bool (P,): hot enough and not rejected as a centre."""
    best: Tensor
    """float32 (P,): probability of the cluster that the pixel is offered to if it stays free."""
    choice: Tensor
    """int16 (P,): number of that cluster, -1 while there is none."""
    count: Tensor
    """Number of clusters so far."""

    @classmethod
    def start(cls, pixels: int, heat: Tensor, config: ClusteringConfig) -> _State:
        device = heat.device
        worst = 0.0 if config.corrected("leftovers") else 1.0
        return cls(
            positions=torch.arange(pixels, device=device),
            labels=torch.zeros(pixels, dtype=torch.int16, device=device),
            seedable=heat >= config.min_heat,
            best=torch.full((pixels,), worst, device=device),
            choice=torch.full((pixels,), OUTLIER, dtype=torch.int16, device=device),
            count=torch.zeros((), dtype=torch.int16, device=device),
        )

    def next_seed(self) -> tuple[Tensor, Tensor]:
        """Position of the hottest free pixel, and whether there was one."""
        last = self.positions.numel()
        # min() of positions rather than argmax of heat, whose choice among equals is not defined
        # on a GPU.
        first = torch.where(self.seedable & (self.labels == 0), self.positions, last).min()
        return first.clamp(max=last - 1), first < last

    def claim(
        self, seed: Tensor, valid: Tensor, probability: Tensor, config: ClusteringConfig
    ) -> Tensor:
        """Give the seed's pixels to a new cluster unless it is rejected; returns whether it was
        accepted."""
        inside = (probability > config.min_probability) & valid
        members = inside & (self.labels == 0)
        accepted = valid
        if config.corrected("seed_rejection"):
            # Most pixels taken already: this is the rim of a found object. None of what is left is
            # tried again.
            accepted = valid & (members.sum() >= config.seed_min_free * inside.sum())
            self.seedable &= ~members
        self.count = self.count + accepted.to(torch.int16)
        self.labels = torch.where(members & accepted, self.count, self.labels)
        # The released code offers a leftover to the FARTHEST cluster, where the nearest is meant.
        better = (
            probability > self.best if config.corrected("leftovers") else probability < self.best
        )
        self.best = torch.where(better & accepted, probability, self.best)
        self.choice = torch.where(better & accepted, self.count, self.choice)
        return accepted

    def finish(self, config: ClusteringConfig) -> Tensor:
        """Labels after the leftover pass; pixels that stay free are outliers."""
        near = self.best > config.leftover_probability
        leftover = torch.where(near, self.choice, torch.full_like(self.choice, OUTLIER))
        return torch.where(self.labels == 0, leftover, self.labels)


def _precisions(bandwidths: Tensor, config: NetworkConfig) -> Tensor:
    """Precisions (E, P): the learned bandwidths (V, P), and 1 / sigma^2 for free dimensions."""
    free = bandwidths.new_full((config.free_dims, bandwidths.shape[1]), 1.0 / config.free_sigma**2)
    return torch.cat((bandwidths, free))


def _probability(
    embeddings: Tensor, precisions: Tensor, seed: Tensor, config: ClusteringConfig
) -> Tensor:
    """Probability (P,) of every pixel under the Gaussian of the seed's embedding and bandwidth
    (Eq. 2).

    As in the released code without the normalising factor, so that it is 1 at the centre.
    """
    center, precision = embeddings[:, seed].unsqueeze(1), precisions[:, seed].unsqueeze(1)
    squared = ((embeddings - center) ** 2 * precision).sum(dim=0)
    return torch.exp(-0.5 * (squared if config.corrected("distance") else squared.sqrt()))


def _class_logits(semantic: Tensor, cells: Tensor, found: _Clusters) -> Tensor:
    """Mean logits (K, C) of the classes, without background and foreground channel, over each
    cluster."""
    logits = semantic[1:-1].flatten(1)[:, cells].T  # (P, C)
    clusters = found.seeds.numel()
    # Outliers (-1) go to a row of their own, which is cut off again.
    rows = torch.where(found.labels > 0, found.labels.long() - 1, clusters)
    sums = logits.new_zeros(clusters + 1, logits.shape[1]).index_add_(0, rows, logits)
    return (sums / rows.bincount(minlength=clusters + 1).clamp(min=1).unsqueeze(1))[:clusters]
