"""Growing clusters around seeds, one after the other (Sec. 3.3), in two ways with equal labels.

On a GPU a round computes the probability of all pixels (``grow_dense``), which takes a few
launches, and the host is seldom asked whether to go on. On a CPU it computes that of the pixels
near the seed alone (``grow_local``), so that hundreds of clusters, as of untrained weights, cost
little more than a few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemseg_ros.models.stemseg.rules import ClusteringRules
from stemseg_ros.models.stemseg.settings import ClusteringConfig
from stemseg_ros.models.stemseg.tensors import OUTLIER

Float32Array = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]
CHUNK = 16
"""Rounds of ``grow_dense`` between two synchronisations with the host."""
SEARCHED = 4096
"""Candidates among which ``grow_local`` looks for the next seed at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Outcome of R rounds: K <= R clusters of P pixels."""

    labels: Tensor
    """int16 (P,): > 0 cluster, -1 outlier."""
    seeds: Tensor
    """int64 (R,) positions among the P pixels of the centres that were tried."""
    accepted: Tensor
    """bool (R,): which of them became clusters, in this order."""


def grow(
    embeddings: Tensor, precisions: Tensor, heat: Tensor, config: ClusteringConfig
) -> Clusters:
    """Find the clusters of P pixels.

    embeddings, precisions: finite float32 (E, P); heat: float32 (P,), heat map values. Of equal
    ones the first pixel is the better seed.
    """
    # Without dimensions (saliency) the first cluster takes everything: nothing is far away.
    local = heat.device.type == "cpu" and embeddings.numel() > 0
    return (grow_local if local else grow_dense)(embeddings, precisions, heat, config)


def grow_local(
    embeddings: Tensor, precisions: Tensor, heat: Tensor, config: ClusteringConfig
) -> Clusters:
    """See ``grow``; on the CPU, for E > 1 and P > 0."""
    with np.errstate(over="ignore", divide="ignore"):  # far away, and as wide as you like
        space = _Space(embeddings.numpy(), precisions.numpy(), config)
        growth = _Growth(space, heat.numpy(), config)
        while (seed := growth.next_seed()) is not None:
            growth.claim(seed)
        return growth.clusters()


class _Space:
    """The embedding space, where the pixels near a centre are found without looking at all.

    They are sorted along the axis on which Gaussians cover the smallest share of them; ``places``
    are positions in this order.
    """

    def __init__(
        self, embeddings: Float32Array, precisions: Float32Array, config: ClusteringConfig
    ) -> None:
        """embeddings, precisions: (E, P)."""
        spread = embeddings.std(axis=1) * np.sqrt(precisions.mean(axis=1))
        self._axes = np.argsort(-spread)[:2]
        self.order = embeddings[self._axes[0]].argsort()
        """Position of the pixel in each place."""
        self.places = np.empty_like(self.order)
        """Place of each pixel."""
        self.places[self.order] = np.arange(self.order.size)
        self._embeddings = embeddings.take(self.order, axis=1)
        self._precisions = precisions
        self._squared = ClusteringRules.of(config).squared_distance
        lowest = min(config.min_probability, config.leftover_probability)
        farthest = -2 * math.log(lowest) * 1.001 + 1e-5  # rounding included
        self._farthest = farthest if self._squared else farthest**2

    def around(self, place: int) -> tuple[Positions, Float32Array]:
        """Find the places in the box around a centre, outside of which the probability is below
        all thresholds.

        Returns these and the probabilities there (Eq. 2), to the bit as in ``grow_dense``.
        """
        center, precision = self._embeddings[:, place], self._precisions[:, self.order[place]]
        reach = np.sqrt(self._farthest / precision[self._axes].astype(np.float64))
        # Rounding is monotone: no embedding in the box gets out of it.
        low = (center[self._axes] - reach).astype(np.float32)
        high = (center[self._axes] + reach).astype(np.float32)
        first, second = self._embeddings[self._axes]
        begin, end = first.searchsorted(low[0]), first.searchsorted(high[0], side="right")
        rows = self._embeddings[:, begin:end]
        inside = (second[begin:end] >= low[1]) & (second[begin:end] <= high[1])
        near = inside.nonzero()[0]
        distance = np.zeros(near.size, np.float32)
        for row, middle, weight in zip(rows, center, precision, strict=True):
            term = row.take(near)  # in place from here on: that stays in the cache
            term -= middle
            term *= term
            term *= weight
            distance += term
        if not self._squared:
            np.sqrt(distance, out=distance)
        # The exponential of PyTorch, as numpy's is rounded otherwise.
        return begin + near, torch.from_numpy(distance).mul_(-0.5).exp_().numpy()


class _Growth:
    """State of each pixel, by its place, and of the search for seeds."""

    def __init__(self, space: _Space, heat: Float32Array, config: ClusteringConfig) -> None:
        self._space, self._config = space, config
        self._rules = ClusteringRules.of(config)
        hot = (heat >= config.min_heat).nonzero()[0]
        self._hottest = space.places[hot[np.argsort(-heat[hot], kind="stable")]]
        self._next = 0  # all candidates before this one are taken or rejected
        self._seedable = np.ones(heat.size, bool)
        self._labels = np.zeros(heat.size, np.int16)
        # What a pixel is offered to if it stays free: the cluster, its probability, and how many
        # clusters were near enough.
        self._choice = np.full(heat.size, OUTLIER, np.int16)
        self._best = np.full(heat.size, 0 if self._rules.nearest_leftovers else 1, np.float32)
        self._offers = np.zeros(heat.size, np.int16)
        self._count = 0
        self._seeds: list[int] = []
        self._accepted: list[bool] = []

    def next_seed(self) -> int | None:
        """Find the place of the hottest candidate that is left; None if there is none or there are
        enough clusters."""
        if self._count >= self._rules.max_instances or len(self._seeds) == len(self._labels):
            return None
        while self._next < len(self._hottest):
            candidates = self._hottest[self._next : self._next + SEARCHED]
            left = self._seedable[candidates]
            first = int(left.argmax())
            if left[first]:
                self._next += first
                return int(candidates[first])
            self._next += len(candidates)
        return None

    def claim(self, seed: int) -> None:
        """Give the free pixels near a seed to a new cluster unless most of its pixels are taken;
        none of them is a seed then, either."""
        near, probability = self._space.around(seed)
        inside = probability > self._config.min_probability
        free = self._labels[near] == 0
        members = near[inside & free]
        self._seedable[members] = False
        least = self._rules.seed_min_free
        accepted = least is None or bool(
            np.float32(members.size) >= np.float32(least) * np.float32(np.count_nonzero(inside))
        )
        self._seeds.append(seed)
        self._accepted.append(accepted)
        if accepted:
            self._count += 1
            self._labels[members] = self._count
            rest = free & ~inside & (probability > self._config.leftover_probability)
            self._offer(near[rest], probability[rest])

    def clusters(self) -> Clusters:
        """Assign leftovers; pixels that stay free are outliers."""
        # The farthest of all clusters is near enough only if all of them are.
        needed = 1 if self._rules.nearest_leftovers else self._count
        leftover = np.where(self._offers >= needed, self._choice, np.int16(OUTLIER))
        labels = np.where(self._labels == 0, leftover, self._labels)
        return Clusters(
            torch.from_numpy(labels[self._space.places]),
            torch.from_numpy(self._space.order[self._seeds]),
            torch.tensor(self._accepted, dtype=torch.bool),
        )

    def _offer(self, near: Positions, probability: Float32Array) -> None:
        best = self._best[near]
        better = probability > best if self._rules.nearest_leftovers else probability < best
        self._offers[near] += 1
        self._best[near[better]] = probability[better]
        self._choice[near[better]] = self._count


def grow_dense(
    embeddings: Tensor,
    precisions: Tensor,
    heat: Tensor,
    config: ClusteringConfig,
    chunk: int = CHUNK,
) -> Clusters:
    """See ``grow``; on any device. chunk: rounds between two synchronisations with the host."""
    # By descending heat map value, the best free seed is always the first free one.
    heat, order = heat.sort(descending=True, stable=True)
    embeddings, precisions = embeddings[:, order], precisions[:, order]
    rules = ClusteringRules.of(config)
    state = _DenseState.start(heat, config, rules)
    seeds = [torch.zeros(0, dtype=torch.int64, device=heat.device)]
    accepted = [torch.zeros(0, dtype=torch.bool, device=heat.device)]
    for round_number in range(1, heat.numel() + 1):
        seed, found = state.next_seed()
        found &= state.count < rules.max_instances
        probability = _probability(embeddings, precisions, seed, rules)
        seeds.append(seed)
        accepted.append(state.claim(found, probability))
        if round_number % chunk == 0 and not bool(found):
            break
    labels = torch.empty_like(state.labels).scatter_(0, order, state.finish())
    return Clusters(labels, order[torch.cat(seeds)], torch.cat(accepted))


@dataclass(slots=True, eq=False)
class _DenseState:
    """State of each pixel, by descending heat map value; all on the device."""

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
    def start(cls, heat: Tensor, config: ClusteringConfig, rules: ClusteringRules) -> _DenseState:
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
