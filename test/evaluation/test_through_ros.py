"""``stemseg evaluate --through-ros``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from evaluated import (
    LOOPED,
    Clip,
    drawn_clip,
    filmed_clip,
    run,
)

pytest.importorskip("trackeval")

from stemseg_ros.media.result_bag import InstanceBagReader


@pytest.mark.ros
def test_glitches_of_the_stamps_through_ros(tmp_path: Path) -> None:
    """In the middle, several within a window, and at the end, where nothing confirms it."""
    stamps = [(10 + i) * 10**8 for i in range(14)]
    for index in (3, 6, 8, 13):
        stamps[index] = 0
    clip = drawn_clip(stamps)
    clip.write(tmp_path / "0001.mcap")
    reports = [
        run(tmp_path / "0001.mcap", tmp_path / name, *options, *clip.options)
        for name, options in (("ros", ["--through-ros"]), ("plain", []))
    ]
    assert reports[0]["runs"][0]["lost"]["0001"]["dropped"] == {"out_of_order": 4}
    for ros, process in zip(*(report["runs"] for report in reports), strict=True):
        assert ros["measures"] == process["measures"]
        assert ros["lost"] == process["lost"]
    texts = [
        (tmp_path / name / "results" / mode / "0001.txt").read_bytes()
        for name, mode in (("ros", "near_online-through-ROS"), ("plain", "near_online"))
    ]
    assert texts[0] == texts[1]


@pytest.mark.ros
@pytest.mark.parametrize(
    "make",
    [lambda: drawn_clip([i * 10**8 for i in range(9)]), filmed_clip, lambda: drawn_clip(LOOPED)],
    ids=["random weights", "bundled weights", "looped stamps"],
)
def test_through_ros_equals_in_process(make: Callable[[], Clip], tmp_path: Path) -> None:
    """A labelled bag through the real node: every frame is answered, with the same bits as without
    ROS."""
    clip = make()
    clip.write(tmp_path / "0001.mcap")
    report = run(tmp_path / "0001.mcap", tmp_path / "ros", "--through-ros", *clip.options)
    expected = run(tmp_path / "0001.mcap", tmp_path / "plain", *clip.options)
    folder = tmp_path / "ros" / "results" / "near_online-through-ROS"
    through = folder / "0001.txt"
    plain = tmp_path / "plain" / "results" / "near_online" / "0001.txt"
    assert through.read_bytes() == plain.read_bytes()
    frames = {int(line.split()[0]) for line in through.read_text().splitlines()}
    assert len(frames) > len(clip.images) / 2, "there are masks to compare"
    assert [v["name"] for v in report["runs"]] == [
        "near_online through ROS",
        "near_online through ROS + post-filter",
    ]
    for ros, process in zip(report["runs"], expected["runs"], strict=True):
        assert ros["measures"] == process["measures"]
    assert report["runs"][0]["timing"]["fps_network_and_clustering"] is None
    with InstanceBagReader(folder / "0001.ros" / "instances.mcap") as answers:
        assert [(r.stamp_ns, r.epoch) for r in answers] == [
            (stamp, sum(b < a for a, b in pairwise(clip.stamps[: index + 1])))
            for index, stamp in enumerate(clip.stamps)
        ]
