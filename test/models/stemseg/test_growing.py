"""Both ways to grow clusters give the labels of the plain algorithm, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stemseg_ros.models.stemseg import growing
from stemseg_ros.models.stemseg.growing import Clusters, grow_dense, grow_local
from stemseg_ros.models.stemseg.rules import ClusteringRules
from stemseg_ros.models.stemseg.settings import ClusteringConfig

GROW: list[Callable[..., Clusters]] = [
    grow_local,
    partial(grow_dense, chunk=1),
    partial(grow_dense, chunk=7),
]
WAYS = pytest.mark.parametrize("grow", GROW, ids=["local", "dense", "dense in chunks"])


def plainly(
    embeddings: Tensor, precisions: Tensor, heat: Tensor, config: ClusteringConfig
) -> tuple[list[int], list[int], list[bool]]:
    """Labels, seeds and which of them were accepted: all pixels in every round, nothing clever."""
    rules = ClusteringRules.of(config)
    free, seedable = torch.ones_like(heat, dtype=torch.bool), heat >= config.min_heat
    labels, probabilities = torch.zeros_like(heat, dtype=torch.int16), []
    seeds, accepted = list[int](), list[bool]()
    while (free & seedable).any() and sum(accepted) < rules.max_instances:
        seed = int(torch.where(free & seedable, heat, -1).argmax())  # the first of several
        terms = (embeddings - embeddings[:, [seed]]) ** 2 * precisions[:, [seed]]
        squared = sum(terms[1:], start=terms[0])
        probability = torch.exp(-0.5 * (squared if rules.squared_distance else squared.sqrt()))
        inside = probability > config.min_probability
        members = inside & free
        seeds.append(seed)
        accepted.append(
            rules.seed_min_free is None
            or bool(members.sum() >= rules.seed_min_free * inside.sum())
        )
        seedable &= ~members
        if accepted[-1]:
            labels[members] = sum(accepted)
            free &= ~members
            probabilities.append(probability)
    labels[free] = -1
    if probabilities:
        every = torch.stack(probabilities)
        offered = (every.max if rules.nearest_leftovers else every.min)(dim=0)
        left = free & (offered.values > config.leftover_probability)
        labels[left] = (1 + offered.indices[left]).to(torch.int16)
    return labels.tolist(), seeds, accepted


def assert_as_plainly(
    grow: Callable[..., Clusters],
    pixels: tuple[Tensor, Tensor, Tensor],
    config: ClusteringConfig,
) -> None:
    found = grow(*pixels, config)
    labels, seeds, accepted = plainly(*pixels, config)
    tried = len(seeds)
    assert found.labels.tolist() == labels
    assert found.seeds.tolist()[:tried] == seeds
    assert found.accepted.tolist()[:tried] == accepted
    assert not any(found.accepted.tolist()[tried:])


SWITCHES = st.fixed_dictionaries(
    {
        **dict.fromkeys(
            ("distance", "leftovers", "instance_limit", "seed_rejection"),
            st.sampled_from(["reference", "corrected"]),
        ),
        "min_heat": st.sampled_from([0.0, 0.25, 0.5, 0.9]),
        "min_probability": st.sampled_from([0.1, 0.5, 0.9]),
        "leftover_probability": st.sampled_from([0.05, 0.3, 0.5, 0.7]),
        "seed_min_free": st.sampled_from([0.0, 0.5, 0.7, 1.0]),
        "max_instances": st.sampled_from([1, 3, 1000]),
    }
)


def some_pixels(
    seed: int, count: int, dims: int, steps: int, log_precision: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels around a few centres. steps: of a unit; few ones give equal embeddings, distances and
    heat map values."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-3, 3, (dims, 4))
    embeddings = centers[:, rng.integers(0, 4, count)] + rng.normal(0, 0.5, (dims, count))
    logs = log_precision + rng.normal(0, 2, (dims, 1)) + rng.normal(0, 0.5, (dims, count))
    arrays = (
        np.round(embeddings * steps) / steps,
        np.exp(np.round(logs * steps) / steps),
        np.round(rng.uniform(0, 1, count) * steps) / steps,
    )
    embeddings, precisions, heat = (torch.from_numpy(a.astype(np.float32)) for a in arrays)
    return embeddings, precisions, heat


@WAYS
@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 150),
    dims=st.integers(2, 4),
    steps=st.sampled_from([1, 2, 4, 10**6]),
    log_precision=st.sampled_from([-8.0, 0.0, 2.0, 8.0]),
    switches=SWITCHES,
)
def test_labels_of_random_pixels(
    grow: Callable[..., Clusters],
    seed: int,
    count: int,
    dims: int,
    steps: int,
    log_precision: float,
    switches: dict[str, Any],
) -> None:
    pixels = some_pixels(seed, count, dims, steps, log_precision)
    assert_as_plainly(grow, pixels, ClusteringConfig(**switches))


@pytest.mark.parametrize("variant", ["reference", "corrected"])
@pytest.mark.parametrize("dims", [2, 5])  # 5: PyTorch's own sum depends on the place of a pixel
def test_labels_of_many_pixels(variant: str, dims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "SEARCHED", 16)
    config = ClusteringConfig.model_validate({"variant": variant, "min_heat": 0.1})
    assert_as_plainly(grow_local, some_pixels(3, 3000, dims, 10**6, 1.0), config)


@WAYS
@pytest.mark.parametrize("precision", [1e-38, 1e38])
def test_extreme_precisions(grow: Callable[..., Clusters], precision: float) -> None:
    embeddings, precisions, heat = some_pixels(1, 60, 3, 4, 0.0)
    pixels = embeddings, torch.full_like(precisions, precision), heat
    assert_as_plainly(grow, pixels, ClusteringConfig(variant="corrected", min_heat=0.1))


def test_a_round_looks_near_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    around = growing._Space.around

    def count(self: Any, place: int) -> Any:
        near, probability = around(self, place)
        seen.append(len(near))
        return near, probability

    monkeypatch.setattr(growing._Space, "around", count)
    x, y = np.meshgrid(np.arange(40.0), np.arange(30.0))
    embeddings = torch.from_numpy(np.stack([y.ravel(), x.ravel()]).astype(np.float32))
    ones = torch.ones(1200)
    grow_local(embeddings, torch.ones_like(embeddings), ones, ClusteringConfig(min_heat=0.5))
    assert len(seen) > 20
    assert max(seen) <= 25  # exp(-d^2 / 2) > 0.3 within 1.6, exp(-d / 2) within 2.5
