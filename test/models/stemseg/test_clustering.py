"""Clustering against the released code's outputs, and its corrections on cases small enough to
see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.models.stemseg import clustering
from stemseg_ros.models.stemseg.clustering import cluster_window, foreground_mask
from stemseg_ros.models.stemseg.growing import grow_dense
from stemseg_ros.models.stemseg.tensors import NetworkOutput

XYT = load_config("lite", {"network.mixing": "xyt"})

GOLDEN_MIXING = {
    "xyt": "xyt",
    "sparse": "xyt",
    "empty_window": "xyt",
    "xyff": "xyff",
    "cap": "xyff",
}


def golden_config(name: str, variant: str = "reference", **overrides: Any) -> Config:
    return load_config(
        "kitti_mots",
        {
            "network.mixing": GOLDEN_MIXING[name],
            "clustering.min_heat": 0.6,
            "clustering.variant": variant,
            "stitching.variant": variant,
            **overrides,
        },
    )


def golden_window(data: Any, window: int) -> NetworkOutput:
    return NetworkOutput(
        *(torch.from_numpy(data[key][window]) for key in ("embeddings", "bandwidths", "heatmap"))
    )


@pytest.mark.parametrize("name", GOLDEN_MIXING)
def test_reference_equals_the_released_code_pixel_for_pixel(
    name: str, golden: Callable[[str], Path]
) -> None:
    data = np.load(golden(f"clustering_{name}.npz"))
    for window, frames in enumerate(data["frames"]):
        found = cluster_window(
            golden_window(data, window),
            torch.from_numpy(data["foreground"][frames]),
            golden_config(name),
        )
        np.testing.assert_array_equal(found.labels, data["window_labels"][window])


@pytest.mark.parametrize("switch", ["distance", "leftovers"])
def test_each_switch_alone_changes_the_result(switch: str, golden: Callable[[str], Path]) -> None:
    data = np.load(golden("clustering_xyt.npz"))
    config = golden_config("xyt", **{f"clustering.{switch}": "corrected"})
    changed = sum(
        int(
            (
                cluster_window(
                    golden_window(data, window),
                    torch.from_numpy(data["foreground"][frames]),
                    config,
                ).labels
                != data["window_labels"][window]
            ).sum()
        )
        for window, frames in enumerate(data["frames"])
    )
    assert changed > 600


def line(
    positions: list[float], heat: list[float], logits: list[list[float]] | None = None
) -> NetworkOutput:
    """One frame of one row of pixels on a line in embedding space, bandwidth 1."""
    x = torch.tensor(positions).view(1, 1, 1, -1)
    embeddings = torch.cat((torch.zeros_like(x), torch.zeros_like(x), x))
    semantic = None if logits is None else torch.tensor(logits).T.reshape(-1, 1, 1, len(positions))
    return NetworkOutput(
        embeddings, torch.ones_like(embeddings), torch.tensor(heat).view(1, 1, 1, -1), semantic
    )


def labels_of(output: NetworkOutput, **overrides: Any) -> list[int]:
    settings = {f"clustering.{key}": value for key, value in overrides.items()}
    config = update_config(XYT, settings)
    foreground = torch.ones(output.heatmap.shape[1:], dtype=torch.bool)
    return [int(v) for v in cluster_window(output, foreground, config).labels.ravel()]


CASES: list[tuple[str, list[float], list[float], dict[str, Any], list[int]]] = [
    ("hottest first", [0, 9], [0.91, 0.95], {}, [2, 1]),
    ("equal heat: first pixel first", [0, 9], [0.95, 0.95], {}, [1, 2]),
    ("no pixel hot enough: outliers", [0, 9], [0.5, 0.5], {"min_heat": 0.6}, [-1, -1]),
    (
        "radius of exp(-d^2/2) > 0.5 is 1.177",
        [0, 1.17, 1.18],
        [0.95, 0.1, 0.1],
        {"leftover_probability": 0.9},
        [1, 1, -1],
    ),
    (
        "radius of exp(-d/2) > 0.5 is 1.386",
        [0, 1.38, 1.39],
        [0.95, 0.1, 0.1],
        {"distance": "reference", "leftover_probability": 0.9},
        [1, 1, -1],
    ),
    ("leftover goes to the nearest", [0, 1.5, 4], [0.95, 0.1, 0.95], {}, [1, 1, 2]),
    (
        "leftover near one of two is lost in the reference",
        [0, 1.5, 4],
        [0.95, 0.1, 0.95],
        {"leftovers": "reference"},
        [1, -1, 2],
    ),
    (
        "leftover near both goes to the farther in the reference",
        [0, 1.3, 2.7],
        [0.95, 0.1, 0.95],
        {"leftovers": "reference", "min_probability": 0.6},
        [1, 2, 2],
    ),
    (
        "a rim does not seed a second object",
        [0, 1, 1.1, 1.3],
        [0.97, 0.1, 0.1, 0.95],
        {"leftover_probability": 0.99},
        [1, 1, 1, -1],
    ),
    (
        "but does without seed rejection",
        [0, 1, 1.1, 1.3],
        [0.97, 0.1, 0.1, 0.95],
        {"leftover_probability": 0.99, "seed_rejection": "reference"},
        [1, 1, 1, 2],
    ),
    ("at most max_instances", [0, 9, 18], [0.97, 0.96, 0.95], {"max_instances": 2}, [1, 2, -1]),
]


@pytest.mark.parametrize(
    ("positions", "heat", "overrides", "expected"),
    [c[1:] for c in CASES],
    ids=[c[0] for c in CASES],
)
def test_line(
    positions: list[float], heat: list[float], overrides: dict[str, Any], expected: list[int]
) -> None:
    assert labels_of(line(positions, heat), **overrides) == expected


def test_without_foreground_there_are_no_labels() -> None:
    output = line([0, 9], [0.95, 0.95])
    found = cluster_window(output, torch.zeros(1, 1, 2, dtype=torch.bool), XYT)
    assert not found.labels.any() and found.centers.shape == (0, 3) and found.scores.shape == (0,)


def test_three_hundred_instances() -> None:
    positions, heat = [10.0 * i for i in range(300)], [0.95] * 300
    assert labels_of(line(positions, heat)) == list(range(1, 301))
    reference = labels_of(line(positions, heat), variant="reference")
    assert reference == list(range(1, 21)) + [-1] * 280


def test_scores_centers_and_averaged_class_logits() -> None:
    logits = [
        [4.0, 1.0, 3.0, 9.0],
        [0.0, 5.0, 1.0, 9.0],
        [0.0, 0.0, 7.0, 9.0],
    ]  # background, car, pedestrian, foreground
    output = line([0, 0.5, 9], [0.95, 0.1, 0.97], logits)
    found = cluster_window(output, torch.ones(1, 1, 3, dtype=torch.bool), XYT)
    assert found.labels.ravel().tolist() == [2, 2, 1]
    np.testing.assert_allclose(found.scores, [0.97, 0.95])
    np.testing.assert_allclose(found.centers[:, 2], [9, 0])
    assert found.class_logits is not None
    np.testing.assert_allclose(found.class_logits, [[0, 0, 7], [2, 3, 2]])


def test_free_dimensions_have_a_fixed_sigma() -> None:
    config = load_config("lite", {"network.mixing": "xyf", "network.free_sigma": 0.3})
    free = torch.tensor([0.0, 0.35, 0.36]).view(1, 1, 1, 3)  # 1.177 sigma = 0.353
    output = NetworkOutput(
        torch.cat((torch.zeros(2, 1, 1, 3), free)),
        torch.ones(2, 1, 1, 3),
        torch.tensor([0.95, 0.1, 0.1]).view(1, 1, 1, 3),
    )
    found = cluster_window(output, torch.ones(1, 1, 3, dtype=torch.bool), config)
    assert found.labels.ravel()[:2].tolist() == [1, 1]
    config = load_config("lite", {"network.mixing": "xyf", "clustering.leftover_probability": 0.9})
    assert cluster_window(
        output, torch.ones(1, 1, 3, dtype=torch.bool), config
    ).labels.ravel().tolist() == [1, 1, -1]


def test_foreground_from_logits_or_from_heat() -> None:
    evidence = torch.tensor([[[-0.1, 0.1, 0.2, 0.3]]])
    assert foreground_mask(evidence, load_config("kitti_mots")).tolist() == [
        [[False, True, True, True]]
    ]
    assert foreground_mask(evidence, load_config("davis")).tolist() == [
        [[False, False, False, True]]
    ]


class CountQuestions(TorchDispatchMode):
    """Counts how often an operation hands a value from the device to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.item.default,
            torch.ops.aten.is_nonzero.default,
            torch.ops.aten.nonzero.default,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("instances", "questions"), [(5, 1 + 0), (50, 1 + 4)])
def test_the_host_is_not_asked_for_every_instance(
    instances: int, questions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "grow", partial(grow_dense, chunk=16))  # as on a GPU
    output = line([10.0 * i for i in range(3 * instances)], [0.95, 0.1, 0.1] * instances)
    foreground = torch.ones(output.heatmap.shape[1:], dtype=torch.bool)
    with torch.inference_mode(), CountQuestions() as mode:
        found = cluster_window(
            output, foreground, update_config(XYT, {"clustering.min_heat": 0.5})
        )
    assert len(found.scores) == instances and mode.asked == questions


@pytest.mark.parametrize("chunk", [1, 3, 16, 1000])
def test_chunks_do_not_change_the_result(
    chunk: int, golden: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "grow", partial(grow_dense, chunk=chunk))
    data = np.load(golden("clustering_xyt.npz"))
    frames = data["frames"][2]
    found = cluster_window(
        golden_window(data, 2), torch.from_numpy(data["foreground"][frames]), golden_config("xyt")
    )
    np.testing.assert_array_equal(found.labels, data["window_labels"][2])
    assert len(found.scores) == len(found.centers) == found.labels.max()


@pytest.mark.gpu
def test_gpu_finds_what_the_cpu_finds(golden: Callable[[str], Path]) -> None:
    data = np.load(golden("clustering_xyff.npz"))
    for window, frames in enumerate(data["frames"]):
        out = golden_window(data, window)
        moved = NetworkOutput(out.embeddings.cuda(), out.bandwidths.cuda(), out.heatmap.cuda())
        foreground = torch.from_numpy(data["foreground"][frames]).cuda()
        found = cluster_window(moved, foreground, golden_config("xyff"))
        assert (found.labels != data["window_labels"][window]).mean() < 1e-4
