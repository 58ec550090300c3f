"""What is said of a topic without images."""

from __future__ import annotations

import pytest

from stemseg_ros.ros.input.no_images import COMPRESSED, RAW, Offer, Request, explain_no_images

CAMERA = Offer("/camera", RAW, "reliable", "volatile")
BEST_EFFORT = Offer("/camera", RAW, "best effort", "transient local")


def say(
    offers: list[Offer],
    topics: dict[str, str],
    topic: str = "/front/image",
    kind: str = RAW,
    reliability: str | None = "reliable",
) -> str:
    return explain_no_images(
        Request("image", topic, kind, reliability), offers, topics, "use the profile"
    )


@pytest.mark.parametrize(
    ("topics", "topic", "kind", "ends"),
    [
        ({}, "/image", RAW, "at all in ROS_DOMAIN_ID 7: is the camera running?"),
        # a typing mistake
        (
            {"/front/imgae": RAW, "/rear/map": RAW},
            "/front/image",
            RAW,
            "most similar topics with images: /front/imgae (sensor_msgs/msg/Image), "
            "/rear/map (sensor_msgs/msg/Image); e.g. -r image:=/front/imgae",
        ),
        # not remapped
        ({"/camera/image_raw": RAW}, "/image", RAW, "e.g. -r image:=/camera/image_raw"),
        # the other transport
        (
            {"/front/image/compressed": COMPRESSED},
            "/front/image",
            RAW,
            "but /front/image/compressed is: set node.image_transport to compressed",
        ),
        (
            {"/front/image": RAW},
            "/front/image/compressed",
            COMPRESSED,
            "but /front/image is: set node.image_transport to raw",
        ),
        (
            {"/frnt/image/compressed": COMPRESSED},
            "/front/image",
            RAW,
            "e.g. -r image:=/frnt/image, node.image_transport compressed",
        ),
        (
            {"/frnt/image/compressed": COMPRESSED},
            "/front/image/compressed",
            COMPRESSED,
            "e.g. -r image:=/frnt/image",
        ),
    ],
)
def test_nobody_publishes(
    topics: dict[str, str], topic: str, kind: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    said = say([], topics, topic, kind, None)
    assert said.startswith("nobody publishes it; ")
    assert said.endswith(ends)


@pytest.mark.parametrize(
    ("offer", "topic", "kind", "reliability", "ends"),
    [
        (CAMERA, "/image", RAW, "reliable", "is the camera running? If it is, use the profile"),
        (
            BEST_EFFORT,
            "/image",
            RAW,
            "reliable",
            "what they send best effort does not reach a reliable subscription: "
            "set qos.image to auto or sensor_data",
        ),
        (BEST_EFFORT, "/image", RAW, "best effort", "If it is, use the profile"),
        # a raw subscription remapped to the compressed topic
        (
            Offer("/camera", COMPRESSED, "reliable", "volatile"),
            "/image_raw/compressed",
            RAW,
            "reliable",
            "set node.image_transport to compressed and remap 'image' to /image_raw",
        ),
        (
            Offer("/camera", COMPRESSED, "reliable", "volatile"),
            "/jpeg",
            RAW,
            "reliable",
            "compressed images are expected on /jpeg/compressed: remap them to this name, and "
            "set node.image_transport to compressed",
        ),
        (
            Offer("/camera", RAW, "reliable", "volatile"),
            "/image/compressed",
            COMPRESSED,
            "reliable",
            "set node.image_transport to raw and remap 'image' to /image/compressed",
        ),
        (
            Offer("/lidar", "sensor_msgs/msg/PointCloud2", "reliable", "volatile"),
            "/points",
            RAW,
            "reliable",
            "a sensor_msgs/msg/PointCloud2 is no image: remap 'image' to another topic",
        ),
    ],
)
def test_publishers_that_do_not_reach(
    offer: Offer, topic: str, kind: str, reliability: str, ends: str
) -> None:
    said = say([offer], {}, topic, kind, reliability)
    assert said.startswith(
        f"publishers: {offer.node} ({offer.type}, {offer.reliability}, {offer.durability}); "
    )
    assert said.endswith(ends)
