"""Small bags with images, instances and diagnostics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stemseg_ros.masks import encode
from stemseg_ros.media.bags import INSTANCE_ARRAY, ImageBagWriter, make_header, message_types
from stemseg_ros.media.result_bag import message_from_result
from stemseg_ros.records import FrameResult, Instance

SIZE = (48, 64)
MS = 1_000_000
STAMP = 1_700_000_000_000_000_000


def square(track_id: int, x: int, y: int) -> Instance:
    """A car of 10x8 pixels."""
    mask = np.zeros(SIZE, bool)
    mask[y : y + 8, x : x + 10] = True
    return Instance(track_id, 1, "car", 0.5, encode(mask), (x, y, 10, 8))


def frame(index: int) -> FrameResult:
    """Track 3 moves to the right; track 300 stands, and is there from frame 2 on."""
    instances = (square(3, 2 + 5 * index, 4), square(300, 40, 30))[: 1 if index < 2 else 2]
    stamp = STAMP + 100 * MS * index
    return FrameResult(index, stamp, *SIZE, 1, instances)


def given(index: int, *instances: Instance, epoch: int = 1) -> FrameResult:
    """Prompts for the frame of this number."""
    return FrameResult(0, STAMP + 100 * MS * index, *SIZE, epoch, instances)


def write_drive(
    path: Path,
    results: list[FrameResult],
    *,
    prompts: tuple[FrameResult, ...] = (),
    encoding: str = "bgr8",
) -> Path:
    """Images of grey levels 40, 50, ...; each has its result and diagnostics 25 ms later. The
    prompts come after them all."""
    types = message_types().types
    with ImageBagWriter(path, encoding=encoding) as bag:
        results_topic = bag.second_topic("/stemseg/instances", INSTANCE_ARRAY)
        report = bag.second_topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
        for index, result in enumerate(results):
            stamp = result.stamp_ns
            bag.write(stamp, np.full((*SIZE, 3), 40 + 10 * index, np.uint8))
            values = [
                types["diagnostic_msgs/msg/KeyValue"](key=key, value=value)
                for key, value in (("stage_ms.cluster", f"{index}.5"), ("device", "cpu"))
            ]
            status = types["diagnostic_msgs/msg/DiagnosticStatus"](
                level=0, name="/stemseg: frames", message="", hardware_id="", values=values
            )
            array = types["diagnostic_msgs/msg/DiagnosticArray"](
                header=make_header(stamp, ""), status=[status]
            )
            report(stamp + 20 * MS, array)
            results_topic(stamp + 25 * MS, message_from_result(result, "camera"))
        if prompts:
            prompts_topic = bag.second_topic("/stemseg/prompts", INSTANCE_ARRAY)
            for given in prompts:
                prompts_topic(STAMP + 10**10, message_from_result(given, "camera"))
    return path
