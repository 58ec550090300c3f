"""Clusters the network's maps of one window into instances (Sec. 3.3).

Everything runs on the device of the maps. The number of instances is not known beforehand, so the
loop synchronises with the host to decide whether to continue: after every instance on a CPU, where
that costs nothing, after every CHUNK of them on a GPU. Besides, a window waits for the device
three times: to count its foreground cells, and to copy the labels and the traits of the clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stemseg_ros.models.stemseg.rules import ClusteringRules
from stemseg_ros.models.stemseg.settings import ClusteringConfig, NetworkConfig, Settings
from stemseg_ros.models.stemseg.tensors import OUTLIER, NetworkOutput, WindowClusters

CHUNK = {"cpu": 1, "cuda": 16}
"""Instances that are sought between two synchronisations with the host, by type of device."""


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
    # Descending heat, stable: the best free seed is then always the first free one, as the first
    # of several equal maxima in t, y, x order.
    heat, order = output.heatmap.flatten()[cells].sort(descending=True, stable=True)
    cells = cells[order]
    embeddings = output.embeddings.flatten(1)[:, cells]  # (E, P)
    precisions = _precisions(output.bandwidths.flatten(1)[:, cells], config.network)  # (E, P)
    found = _grow(embeddings, precisions, heat, config.clustering)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Clusters:
    """Outcome of R rounds of the loop: K <= R clusters."""

    labels: Tensor
    """int16 (P,): > 0 cluster, -1 outlier."""
    seeds: Tensor
    """int64 (R,) positions among the P pixels of the centres that were tried."""
    accepted: Tensor
    """bool (R,): which of them became clusters, in this order."""


def _grow(
    embeddings: Tensor, precisions: Tensor, heat: Tensor, config: ClusteringConfig
) -> _Clusters:
    """Run the sequential algorithm of Sec. 3.3 on P pixels sorted by descending heat map value.

    embeddings, precisions: (E, P).
    """
    pixels = heat.numel()
    rules = ClusteringRules.of(config)
    state = _State.start(heat, config, rules)
    seeds = [torch.zeros(0, dtype=torch.int64, device=heat.device)]
    accepted = [torch.zeros(0, dtype=torch.bool, device=heat.device)]
    chunk = CHUNK[heat.device.type]
    for round_number in range(1, pixels + 1):
        seed, found = state.next_seed()
        found &= state.count < rules.max_instances
        probability = _probability(embeddings, precisions, seed, rules)
        seeds.append(seed)
        accepted.append(state.claim(found, probability))
        if round_number % chunk == 0 and not bool(found):
            break
    return _Clusters(state.finish(), torch.cat(seeds), torch.cat(accepted))


@dataclass(slots=True, eq=False)
class _State:
    """State of each pixel during the loop; all on the device."""

    config: ClusteringConfig
    rules: ClusteringRules
    positions: Tensor
    """int64 (P,) 0, 1, 2, ..."""
    labels: Tensor
    """int16 (P,): cluster number, 0 while free."""
    seedable: Tensor
    """bool (P,): heat map value high enough, and not rejected as a centre."""
    best: Tensor
    """float32 (P,): probability of the cluster that the pixel is offered to if it stays free."""
    choice: Tensor
    """int16 (P,): number of that cluster, -1 while there is none."""
    count: Tensor
    """int16 (1,): number of clusters so far."""

    @classmethod
    def start(cls, heat: Tensor, config: ClusteringConfig, rules: ClusteringRules) -> _State:
        pixels, device = heat.numel(), heat.device
        worst = 0.0 if rules.nearest_leftovers else 1.0
        return cls(
            config=config,
            rules=rules,
            positions=torch.arange(pixels, device=device),
            labels=torch.zeros(pixels, dtype=torch.int16, device=device),
            seedable=heat >= config.min_heat,
            best=torch.full((pixels,), worst, device=device),
            choice=torch.full((pixels,), OUTLIER, dtype=torch.int16, device=device),
            count=torch.zeros(1, dtype=torch.int16, device=device),
        )

    def next_seed(self) -> tuple[Tensor, Tensor]:
        """Find the position (1,) of the free pixel with the highest heat map value, and whether
        there is one, bool (1,)."""
        last = self.positions.numel()
        # min() of positions rather than argmax of heat, whose choice among equals is not defined
        # on a GPU.
        first = torch.where(self.seedable & (self.labels == 0), self.positions, last).min()
        return first.clamp(max=last - 1).view(1), (first < last).view(1)

    def claim(self, valid: Tensor, probability: Tensor) -> Tensor:
        """Give the pixels near a seed to a new cluster unless it is rejected.

        valid: bool (1,), whether there is a seed; probability: (P,). Returns bool (1,), whether
        it was accepted.
        """
        inside = (probability > self.config.min_probability) & valid
        members = inside & (self.labels == 0)
        accepted = valid
        if self.rules.seed_min_free is not None:
            # Most pixels taken already: this is the rim of a found object. None of what is left is
            # tried again.
            accepted = valid & (members.sum() >= self.rules.seed_min_free * inside.sum())
            self.seedable &= ~members
        self.count = self.count + accepted.to(torch.int16)
        self.labels = torch.where(members & accepted, self.count, self.labels)
        # The released code offers a leftover to the FARTHEST cluster, where the nearest is meant.
        better = (
            probability > self.best if self.rules.nearest_leftovers else probability < self.best
        )
        self.best = torch.where(better & accepted, probability, self.best)
        self.choice = torch.where(better & accepted, self.count, self.choice)
        return accepted

    def finish(self) -> Tensor:
        """Assign leftovers and return the labels; pixels that stay free are outliers."""
        near = self.best > self.config.leftover_probability
        leftover = torch.where(near, self.choice, torch.full_like(self.choice, OUTLIER))
        return torch.where(self.labels == 0, leftover, self.labels)


def _precisions(bandwidths: Tensor, config: NetworkConfig) -> Tensor:
    """Compute precisions (E, P): the learned bandwidths (V, P), and 1 / sigma^2 for free
    dimensions."""
    free = bandwidths.new_full((config.free_dims, bandwidths.shape[1]), 1.0 / config.free_sigma**2)
    return torch.cat((bandwidths, free))


def _probability(
    embeddings: Tensor, precisions: Tensor, seed: Tensor, rules: ClusteringRules
) -> Tensor:
    """Compute the probability (P,) of every pixel under the Gaussian around a seed, position (1,)
    (Eq. 2).

    As in the released code without the normalising factor, so that it is 1 at the centre.
    """
    # index_select, because indexing with a one-element tensor synchronises with the host.
    center, precision = embeddings.index_select(1, seed), precisions.index_select(1, seed)
    squared = ((embeddings - center) ** 2 * precision).sum(dim=0)
    return torch.exp(-0.5 * (squared if rules.squared_distance else squared.sqrt()))


def _class_logits(semantic: Tensor, cells: Tensor, found: _Clusters) -> Tensor:
    """Mean logits (R, 1 + C) of background and classes over cluster 1, 2, ...; rows after the K-th
    are empty.

    The foreground channel is left out.
    """
    logits = semantic[:-1].flatten(1)[:, cells].T  # (P, 1 + C)
    rounds = found.seeds.numel()
    # Outliers (-1) go to a row of their own, which is cut off again.
    rows = torch.where(found.labels > 0, found.labels.long() - 1, rounds)
    sums = logits.new_zeros(rounds + 1, logits.shape[1]).index_add_(0, rows, logits)
    counts = logits.new_zeros(rounds + 1).index_add_(0, rows, torch.ones_like(logits[:, 0]))
    return (sums / counts.clamp(min=1).unsqueeze(1))[:rounds]
