"""Tracks that end, told from results alone."""

from __future__ import annotations

import pytest

from stemseg_ros.records import FrameResult, Instance, Rle
from stemseg_ros.ros.output.ended_tracks import EndedTracks


def result(ids: str, epoch: int = 0) -> FrameResult:
    """Tracks named by digits."""
    instances = tuple(
        Instance(int(i), 1, "car", 1.0, Rle(size=[1, 1], counts=b""), (0, 0, 1, 1)) for i in ids
    )
    return FrameResult(0, 0, 1, 1, epoch, instances)


@pytest.mark.parametrize(
    ("frames", "max_gap", "ended"),
    [
        (["1", "1", "1"], 0, {}),
        (["12", "2", "2"], 0, {1: [1]}),
        (["12", "2", "2", "2"], 2, {3: [1]}),  # unseen in three frames
        (["1", "", "", "1", "", ""], 2, {}),  # came back in time
        (["12", "", ""], 1, {2: [1, 2]}),
    ],
)
def test_tracks_end(frames: list[str], max_gap: int, ended: dict[int, list[int]]) -> None:
    tracks = EndedTracks()
    found = {i: tracks.push(result(ids), max_gap) for i, ids in enumerate(frames)}
    assert {i: ids for i, ids in found.items() if ids} == ended


def test_a_new_epoch_forgets() -> None:
    tracks = EndedTracks()
    tracks.push(result("12"), 0)
    assert tracks.push(result("3", epoch=1), 0) == []
    assert tracks.push(result("", epoch=1), 0) == [3]
