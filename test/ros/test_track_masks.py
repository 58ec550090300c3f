"""Prompts over real DDS: ~/track_masks and ~/untrack of a node in a process of its own."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.srv", reason="needs the built messages")

from ros.harness import LocalNode, Peer, Process, message, process, ros_arguments, toy_node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from stemseg.msg import InstanceArray, Region
from stemseg.srv import TrackMasks, Untrack

from stemseg_ros.masks import decode, encode
from stemseg_ros.stream import open_model

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 64, 96
KEPT = 4
SETTINGS = (
    "config:=hodor_lite",
    "checkpoint:=random",
    f"input.min_dim:={HEIGHT}",
    f"input.max_dim:={WIDTH}",
    f"propagation.kept_frames:={KEPT}",
    "output.min_area:=0",
    "output.min_score:=0.0",
    "health.stall_after:=0.0",
)
FIND_MUCH = """
base: lite
input: {min_dim: 64, max_dim: 96}
window: {mode: online}
runtime: {engine: torch, precision: float32, threads: 1}
clustering:
  {min_heat: 0.0, foreground_probability: 0.0, leftover_probability: 0.001, max_instances: 3}
output: {min_area: 0, min_score: 0.0}
"""
"""A detector that, untrained, finds many an object."""


@pytest.fixture(scope="module")
def node() -> Iterator[Process]:
    with process("prompt_node.py", *ros_arguments(*SETTINGS)) as child:
        yield child


def send(peer: Peer, *seconds: int) -> list[InstanceArray]:
    """The results of images with these stamps."""
    noise = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    before = len(peer.received)
    for second in seconds:
        peer.publisher.publish(message(np.roll(noise, second, 1), second))
    return peer.expect(before + len(seconds))[before:]


def labels(*columns: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Image:
    """Objects 1, 2, ... of 24x20 pixels from these columns on."""
    image = np.zeros(size, np.uint8)
    for number, column in enumerate(columns, start=1):
        image[16:40, column : column + 20] = number
    return Image(
        height=size[0], width=size[1], encoding="mono8", step=size[1], data=image.tobytes()
    )


def track(peer: Peer, second: int, name: str = "track_masks", **fields: Any) -> Any:
    header = Header()
    header.stamp.sec = second
    request = TrackMasks.Request(header=header, **fields)
    return peer.call(TrackMasks, f"stemseg/{name}", request)


def untrack(peer: Peer, *ids: int) -> Any:
    return peer.call(Untrack, "stemseg/untrack", Untrack.Request(track_ids=list(ids)))


def ids(result: InstanceArray) -> set[int]:
    return {instance.track_id for instance in result.instances}


# Before those that share a node, which has the same name.


def test_who_cannot_follow_says_why(peer: Peer) -> None:
    with toy_node("output.min_area:=0", "autostart:=true"):
        peer.connect()
        answer = track(peer, 1, labels=labels(8))
    assert (answer.success, answer.message) == (
        False,
        "the model 'lite' follows no prompts; 'hodor_lite' does",
    )


def test_own_tracks_are_reported_and_prompts_refused(peer: Peer, tmp_path: Path) -> None:
    detector = tmp_path / "detector.yaml"
    detector.write_text(FIND_MUCH)
    own = ("tracking:=own_tracks", f"bridging.detector:={detector}", "bridging.checkpoint:=random")
    with process("prompt_node.py", *ros_arguments(*SETTINGS, *own)):
        peer.connect()
        results = send(peer, 1, 2, 3, 4)
        answer = track(peer, 4, labels=labels(8))
    assert {i.class_name for result in results for i in result.instances} <= {"car", "pedestrian"}
    assert set().union(*map(ids, results))
    assert (answer.success, answer.message) == (
        False,
        "the model 'hodor_lite' follows no prompts; start it with tracking: prompts",
    )


def test_an_inactive_node_and_one_of_several_cameras(local_node: Any, peer: Peer) -> None:
    node: LocalNode = local_node(
        *SETTINGS, "node.cameras:=[front]", "autostart:=false", model_opener=open_model
    )
    answer = track(peer, 1, "front/track_masks", labels=labels(8))
    assert (answer.success, answer.message) == (False, "the node is not active")
    names = [name for name, _ in node.node.get_service_names_and_types()]
    assert "/stemseg/front/untrack" in names
    assert "/stemseg/track_masks" not in names


def test_objects_are_followed_from_the_image_of_the_request_on(fresh: Peer) -> None:
    assert not any(ids(result) for result in send(fresh, 10, 11, 12))
    answer = track(fresh, 11, labels=labels(8, 50), track_ids=[0, 40])
    assert (answer.success, answer.message) == (True, "2 objects followed")
    assert list(answer.track_ids) == [1, 40]
    point = Region(kind=Region.POINT, x=80.0, y=55.0)
    again = track(fresh, 12, regions=[point], class_names=["object"])
    assert list(again.track_ids) == [2], again.message
    results = send(fresh, 13, 14)
    assert {result.epoch for result in results} == {answer.epoch}
    assert set().union(*map(ids, results)) <= {1, 2, 40}
    assert ids(results[0])
    for result in results:
        found = [decode(bytes(i.mask_rle), (HEIGHT, WIDTH)) for i in result.instances]
        assert np.sum(found, 0).max() <= 1
    assert untrack(fresh, 1).message == "1 object followed no longer"
    assert 1 not in ids(send(fresh, 15)[0])
    assert untrack(fresh).message == "2 objects followed no longer"
    assert not ids(send(fresh, 16)[0])
    refused = track(fresh, 16, labels=labels(8), track_ids=[40])
    assert refused.message == "object 40: the id is in use; choose another"


def test_what_is_followed_is_published_as_it_was_given(fresh: Peer) -> None:
    """Under its id and class, with the header of the request; what is refused is not."""
    given: list[InstanceArray] = []
    topic = fresh.subscribe(InstanceArray, "stemseg/prompts", given)
    assert fresh.spin_until(topic.get_publisher_count)
    fresh.connect_answers()
    send(fresh, 10, 11)
    assert not track(fresh, 11, labels=labels()).success
    mask = labels(8)
    box = Region(kind=Region.BOX, x=50.0, y=16.0, width=20.0, height=24.0)
    answer = track(fresh, 10, labels=mask, regions=[box], track_ids=[40, 0])
    assert answer.success, answer.message
    assert fresh.spin_until(lambda: given)
    (message,) = given
    assert (message.header.stamp.sec, message.epoch) == (10, answer.epoch)
    assert [i.track_id for i in message.instances] == [*answer.track_ids] == [40, 1]
    assert [i.class_name for i in message.instances] == ["object"] * 2
    first, second = (decode(bytes(i.mask_rle), (HEIGHT, WIDTH)) for i in message.instances)
    assert (first == np.frombuffer(mask.data, np.uint8).reshape(HEIGHT, WIDTH)).all()
    roi = message.instances[1].roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (50, 16, 20, 24)
    assert second.sum() < 20 * 24  # the ellipse that stands for the box


def test_a_reset_frees_the_ids(fresh: Peer) -> None:
    send(fresh, 1)
    first = track(fresh, 1, labels=labels(8))
    assert fresh.trigger("reset").success
    send(fresh, 2)
    second = track(fresh, 2, labels=labels(8))
    assert (list(first.track_ids), list(second.track_ids)) == ([1], [1])
    assert second.epoch == first.epoch + 1


BAD: list[tuple[str, int, dict[str, Any], str]] = [
    ("wrong size", 5, {"labels": labels(8, size=(32, 96))}, "labels: 96x32 pixels, the image 96x"),
    ("empty", 5, {"labels": labels()}, "no object"),
    ("no such frame", 77, {"labels": labels(50)}, "no frame with the stamp 77000000000 ns among"),
    ("frame gone", 1, {"labels": labels(50)}, "no frame with the stamp 1000000000 ns among the"),
    ("id in use", 5, {"labels": labels(50), "track_ids": [1]}, "object 1: the id is in use"),
    ("id twice", 5, {"labels": labels(50, 72), "track_ids": [9, 9]}, "object 9: the id is in use"),
    ("NaN", 5, {"regions": [Region(kind=Region.POINT, x=float("nan"))]}, "not all finite"),
    ("300", 5, {"regions": [Region(kind=Region.POINT)] * 300}, "300 objects; at most 255"),
    (
        "overlap",
        5,
        {"labels": labels(50), "regions": [Region(kind=Region.POINT, x=52.0, y=20.0)]},
        "object 3: its mask overlaps that of object 2",
    ),
    (
        "damaged",
        5,
        {"regions": [Region(mask_rle=array("B", b"11"))]},
        "object 2: its mask is damaged: run lengths cover",
    ),
    (
        "no pixel",
        5,
        {"regions": [Region(mask_rle=array("B", encode(np.zeros((64, 96), bool))["counts"]))]},
        "object 2: its mask is empty",
    ),
    ("class", 5, {"labels": labels(50), "class_names": ["cow"]}, "no class 'cow'"),
]


def test_bad_prompts_are_refused_and_change_nothing(fresh: Peer) -> None:
    def run(bad: list[tuple[str, int, dict[str, Any], str]]) -> list[InstanceArray]:
        assert fresh.trigger("reset").success
        fresh.received.clear()
        send(fresh, 1, 2, 3, 4, 5)
        assert track(fresh, 4, labels=labels(8)).success
        for name, second, fields, reason in bad:
            answer = track(fresh, second, **fields)
            assert not answer.success, name
            assert reason in answer.message, name
            assert not answer.track_ids, name
        assert untrack(fresh, 1, 8).message == "object 8 is not followed" or not bad
        return send(fresh, 6, 7)

    disturbed, undisturbed = run(BAD), [*run([])]
    assert [r.instances for r in disturbed] == [r.instances for r in undisturbed]
