"""Results in a bag: stemseg/msg/InstanceArray, without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stemseg_ros.media.bag_storage import Storage
from stemseg_ros.media.bags import (
    INSTANCE_ARRAY,
    BagReader,
    BagWriter,
    make_header,
    message_types,
)
from stemseg_ros.media.messages import stamp_ns
from stemseg_ros.records import FrameResult, Instance, Rle


class InstanceBagReader:
    """Iterates the FrameResult of each message, in the order of recording. Raises BagError.

    ``FrameResult.index`` counts the messages of an epoch from 0.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._bag = BagReader(path, (INSTANCE_ARRAY,), topic)
        self.topic = self._bag.topic
        self.frames = self._bag.count

    def __iter__(self) -> Iterator[FrameResult]:
        index, epoch = -1, None
        for _, message in self._bag:
            index = index + 1 if message.epoch == epoch else 0
            epoch = message.epoch
            yield result_from_message(message, index)

    def close(self) -> None:
        """Release the file."""
        self._bag.close()

    def __enter__(self) -> InstanceBagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class InstanceBagWriter:
    """Writes FrameResults, logged by their stamps; see BagWriter for paths, times and errors."""

    def __init__(
        self,
        path: str | Path,
        topic: str = "/stemseg/instances",
        frame_id: str = "camera",
        storage: Storage | None = None,
    ) -> None:
        self._bag = BagWriter(path, topic, INSTANCE_ARRAY, storage)
        self._frame_id = frame_id

    def write(self, result: FrameResult) -> None:
        """Append one message."""
        self._bag.write(result.stamp_ns, message_from_result(result, self._frame_id))

    def __enter__(self) -> InstanceBagWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bag.__exit__(*error)


def result_from_message(message: Any, index: int) -> FrameResult:
    """The FrameResult that an InstanceArray (of rclpy or of a bag) carries."""
    size = [int(message.height), int(message.width)]
    instances = tuple(
        Instance(
            track_id=int(item.track_id),
            class_id=int(item.class_id),
            class_name=item.class_name,
            score=float(item.score),
            rle=Rle(size=size, counts=bytes(item.mask_rle)),
            box=(
                int(item.roi.x_offset),
                int(item.roi.y_offset),
                int(item.roi.width),
                int(item.roi.height),
            ),
        )
        for item in message.instances
    )
    return FrameResult(index, stamp_ns(message), size[0], size[1], int(message.epoch), instances)


def message_from_result(result: FrameResult, frame_id: str) -> Any:
    """The InstanceArray, in rosbags' types, of one frame."""
    types = message_types().types
    instances = []
    for item in result.instances:
        x, y, width, height = item.box
        roi = types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=x, y_offset=y, width=width, height=height, do_rectify=False
        )
        instances.append(
            types["stemseg/msg/Instance"](
                track_id=item.track_id,
                class_id=item.class_id,
                class_name=item.class_name,
                score=item.score,
                roi=roi,
                mask_rle=np.frombuffer(item.rle["counts"], np.uint8),
            )
        )
    return types[INSTANCE_ARRAY](
        header=make_header(result.stamp_ns, frame_id),
        height=result.height,
        width=result.width,
        epoch=result.epoch,
        instances=instances,
    )
