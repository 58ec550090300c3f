"""Images and results of bags, put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rerun", reason="needs the extra view")
from view.bags import MS, STAMP, frame, given, square, write_drive

from stemseg_ros.media.bags import INSTANCE_ARRAY, BagError, ImageBagWriter, write_bag
from stemseg_ros.media.result_bag import InstanceBagWriter, message_from_result
from stemseg_ros.view.bag_frames import BagFrames, match
from stemseg_ros.view.stages import stage_ms


@pytest.mark.parametrize(
    ("images", "results", "found"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, 2, 3], [2], [1]),  # frames without a result
        ([2], [1, 2, 3], [None, 0, None]),  # images that were not recorded
        ([1, 2, 1, 2], [1, 2, 1, 2], [0, 1, 2, 3]),  # a bag played twice
        ([1, 2, 1, 2], [2, 1], [1, 2]),
        ([5, 4, 6], [5, 6], [0, 2]),  # out of order, and without a result
        ([], [1], [None]),
        ([1, 1], [1], [0]),  # a duplicate
    ],
)
def test_match(images: list[int], results: list[int], found: list[int | None]) -> None:
    assert match(images, results) == found


@pytest.mark.parametrize("encoding", ["bgr8", "jpeg"])
def test_one_bag(tmp_path: Path, encoding: str) -> None:
    bag = write_drive(tmp_path / "drive.mcap", [frame(i) for i in range(4)], encoding=encoding)
    with BagFrames(bag) as frames:
        shown = list(frames)
    assert frames.frames == 4
    assert [s.result.stamp_ns for s in shown] == [STAMP + 100 * MS * i for i in range(4)]
    assert [s.latency_ms for s in shown] == [25.0] * 4
    assert [s.stage_ms for s in shown] == [{"cluster": i + 0.5} for i in range(4)]
    for index, item in enumerate(shown):
        assert item.image is not None
        assert abs(item.image.mean() - (40 + 10 * index)) < 2
    assert (frames.without_result, frames.missing) == (0, 0)


def test_results_in_a_bag_of_their_own(tmp_path: Path) -> None:
    """Two recorders have two clocks: no latency. Frame 1 was dropped, image 3 not recorded."""
    drive, results = tmp_path / "drive.mcap", tmp_path / "results.db3"
    picture = [(frame(i).stamp_ns, s) for i, s in enumerate(_pictures(3))]
    write_bag(iter(picture), drive)
    with InstanceBagWriter(results) as bag:
        for index in (0, 2, 3):
            bag.write(frame(index))
    with BagFrames(drive, results=results) as frames:
        shown = list(frames)
    assert [s.image is not None for s in shown] == [True, True, False]
    assert [s.image[0, 0, 0] for s in shown if s.image is not None] == [0, 2]
    assert {s.latency_ms for s in shown} == {None}
    assert (frames.without_result, frames.missing) == (1, 1)


def test_prompts_belong_to_the_frame_of_their_stamp_and_epoch(tmp_path: Path) -> None:
    """Also where they come after its result, by two requests, or for a frame that is not here."""
    first, second, other = square(3, 2, 4), square(300, 40, 30), square(9, 2, 30)
    prompts = (
        given(1, first),
        given(1, second),
        given(2, other, epoch=2),  # an image with the stamp of frame 2, in another epoch
        given(7, other),
    )
    bag = write_drive(tmp_path / "drive.mcap", [frame(i) for i in range(3)], prompts=prompts)
    with BagFrames(bag) as frames:
        shown = list(frames)
    assert [[i.track_id for i in s.prompts] for s in shown] == [[], [3, 300], []]
    assert shown[1].prompts[1].rle == second.rle
    assert frames.prompts_without_result == 2


def test_prompts_are_beside_the_results(tmp_path: Path) -> None:
    prompted = write_drive(tmp_path / "a.mcap", [frame(0)], prompts=(given(0, square(3, 2, 4)),))
    plain = write_drive(tmp_path / "b.mcap", [frame(0)])
    for images, results, expected in ((plain, prompted, 1), (prompted, plain, 0)):
        with BagFrames(images, results=results) as frames:
            (shown,) = frames
        assert len(shown.prompts) == expected


def test_stages_are_beside_the_results(tmp_path: Path) -> None:
    """A bag of results and diagnostics has one clock for both, whatever that of the images is."""
    images = tmp_path / "images.mcap"
    write_bag(iter([(frame(i).stamp_ns, s) for i, s in enumerate(_pictures(2))]), images)
    results = write_drive(tmp_path / "results.mcap", [frame(0), frame(1)])
    with BagFrames(images, results=results) as frames:
        shown = list(frames)
    assert [s.stage_ms for s in shown] == [{"cluster": 0.5}, {"cluster": 1.5}]
    assert {s.latency_ms for s in shown} == {None}


def test_a_topic_of_reports_may_be_empty(tmp_path: Path) -> None:
    """As recorders write it that did not hear the node in time."""
    with ImageBagWriter(tmp_path / "a.mcap") as bag:
        bag.second_topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        bag.second_topic("/stemseg/prompts", INSTANCE_ARRAY)
        results = bag.second_topic("/stemseg/instances", INSTANCE_ARRAY)
        bag.write(frame(0).stamp_ns, _pictures(1)[0])
        results(frame(0).stamp_ns, message_from_result(frame(0), "camera"))
    with BagFrames(tmp_path / "a.mcap") as frames:
        (shown,) = frames
    assert (shown.stage_ms, shown.prompts) == ({}, ())


def _pictures(number: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), i, np.uint8) for i in range(number)]


def test_a_bag_without_results_names_its_topics(tmp_path: Path) -> None:
    write_bag(iter(enumerate(_pictures(2))), tmp_path / "a.mcap")
    with pytest.raises(BagError, match="InstanceArray; topics there are: /camera/image_raw"):
        BagFrames(tmp_path / "a.mcap")


class Status:
    """Stands in for diagnostic_msgs/DiagnosticStatus."""

    def __init__(self, name: str, **values: str) -> None:
        self.name = name
        self.values = [
            type("KeyValue", (), {"key": key.replace("__", "."), "value": value})
            for key, value in values.items()
        ]


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ("/stemseg", {"link": 1.0, "wait": 2.0}),
        ("/stemseg/front", {"wait": 2.0}),
        ("/stemseg/rear", {}),
        ("/other", {"link": 9.0}),
    ],
)
def test_stages_are_those_of_the_node(node: str, found: dict[str, float]) -> None:
    message = type("DiagnosticArray", (), {})
    message.status = [
        Status("/stemseg: frames", stage_ms__link="1.0", device="cpu", stage_ms__bad="?"),
        Status("/stemseg: front frames", stage_ms__wait="2.0"),
        Status("/other: frames", stage_ms__link="9.0"),
    ]
    assert stage_ms(message, node) == found
