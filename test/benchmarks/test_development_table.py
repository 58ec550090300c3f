"""The table of development measures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.development import SequenceResult
from benchmarks.development_table import DISTURBANCES, clip_rows, still_rows, table
from stemseg_ros.config import load_config
from stemseg_ros.datasets.sequence import LabelledFrame


def result(found: list[int], areas: tuple[int, int] = (20, 40)) -> SequenceResult:
    """A frame of two true cars, 20x20 and 40x40 pixels, and the predicted ones."""
    truth, predicted = np.zeros((2, 100, 200), np.int32)
    for number, side in enumerate(areas, start=1):
        box = np.s_[:side, 60 * number : 60 * number + side]
        truth[box] = 1000 + number
        predicted[box] = number if number in found else 0
    return SequenceResult("a", [truth], [predicted], dict.fromkeys(found, 1))


@pytest.mark.parametrize(
    ("found", "cell"), [([1, 2], "100.0 / 100.0"), ([2], "50.0 / 100.0"), ([], "0.0 / nan")]
)
def test_masks_are_counted_by_size(found: list[int], cell: str) -> None:
    rows = still_rows("stills", [result(found)], load_config("lite"))
    assert rows == {"stills: car ≥ 300 px, 2 true, found / right": cell}


def test_models_stand_side_by_side() -> None:
    lines = table({"old": {"a": "1", "b": "2"}, "new": {"b": "3", "c": "4"}}).splitlines()
    assert lines[0] == "| measure | old | new |"
    assert lines[2:] == ["| a | 1 | - |", "| b | 2 | 3 |", "| c | - | 4 |"]


def test_disturbances_are_small_and_labels_move_along() -> None:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(60, 180, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    labels = np.where(image[..., 0] > 120, 1001, 0).astype(np.int32)
    for name, change in DISTURBANCES.items():
        changed = change(LabelledFrame(image, labels))
        assert changed.image.shape == image.shape and changed.image.dtype == np.uint8
        assert (changed.image != image).any() == (name != "as it is"), name
        moved = name == "shifted by a pixel"
        where = np.s_[1:, 1:] if moved else np.s_[:]
        source = np.s_[:-1, :-1] if moved else np.s_[:]
        np.testing.assert_array_equal(changed.labels[where], labels[source])
        assert np.abs(changed.image[where].astype(int) - image[source]).mean() < 10, name


def test_a_clip_is_reported_with_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter([result([1, 2]), result([2]), result([1, 2]), result([1, 2]), result([])])
    monkeypatch.setattr("benchmarks.development_table.run_sequence", lambda *_, **__: next(runs))
    rows = clip_rows(SimpleNamespace(config=load_config("lite")), None)  # type: ignore[arg-type]
    assert rows["kitti_mots_dev: car sMOTSA"] == "100.0 (70.0; 0.0 to 100.0)"
