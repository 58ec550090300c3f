"""Frames for the viewer out of bags: images, instances, prompts, and the node's diagnostics."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stemseg_ros.errors import MediaError
from stemseg_ros.media.bags import IMAGE_TYPES, INSTANCE_ARRAY, PROMPTS, BagReader, bag_info
from stemseg_ros.media.messages import bgr_from_message, stamp_ns
from stemseg_ros.media.result_bag import result_from_message
from stemseg_ros.records import FrameResult, Image, Instance
from stemseg_ros.view.recording import Shown
from stemseg_ros.view.stages import stage_ms

log = logging.getLogger(__name__)

DIAGNOSTIC_ARRAY = "diagnostic_msgs/msg/DiagnosticArray"
DIAGNOSTICS = "/diagnostics"


class BagFrames:
    """Iterates Shown, one for each message of instances, with the image of the same stamp.

    results: the bag of the instances, if it is not that of the images; the latency is unknown
    then. Raises BagError, which names the bag and its topics.
    """

    def __init__(
        self,
        bag: Path,
        image_topic: str | None = None,
        results: Path | None = None,
        topic: str | None = None,
    ) -> None:
        self._one_clock = results is None or results == bag
        self._images = BagReader(bag, IMAGE_TYPES, image_topic)
        try:
            self._results = BagReader(results or bag, (INSTANCE_ARRAY,), topic)
        except BaseException:
            self._images.close()
            raise
        self._node = self._results.topic.rpartition("/")[0]
        self.frames = self._results.count
        self.without_result = 0
        """Images before the last result that have none; known after the iteration."""
        self.missing = 0
        """Results whose image is not in the bag; likewise."""
        self.prompts_without_result = 0
        """Objects given in frames whose result is not in the bag; likewise."""
        self._prompts: dict[tuple[int, int], list[Instance]] = {}

    def __iter__(self) -> Iterator[Shown]:
        image_stamps = [stamp_ns(message) for _, message in self._images]
        chosen = match(image_stamps, [stamp_ns(message) for _, message in self._results])
        self.missing = chosen.count(None)
        self.without_result = len(image_stamps) - (len(chosen) - self.missing)
        self._prompts = self._read_prompts()
        images = enumerate(self._images)
        reports = self._reports()
        report = next(reports, None)
        results = zip(self._results, chosen, strict=True)
        for index, ((log_ns, message), place) in enumerate(results):
            stages: dict[str, float] = {}
            while report is not None and report[0] <= log_ns:
                stages |= report[1]
                report = next(reports, None)
            taken = None if place is None else next(pair for at, pair in images if at == place)
            yield self._shown(index, log_ns, message, taken, stages)
        self.prompts_without_result = sum(map(len, self._prompts.values()))

    def _shown(
        self,
        index: int,
        log_ns: int,
        message: Any,
        taken: tuple[int, Any] | None,
        stages: dict[str, float],
    ) -> Shown:
        result = result_from_message(message, index)
        prompts = tuple(self._prompts.pop(frame_key(result), ()))
        if taken is None:
            return Shown(result, None, None, stages, prompts)
        latency = (log_ns - taken[0]) / 1e6 if self._one_clock else None
        image = self._decoded(taken[1], result.stamp_ns)
        return Shown(result, image, latency, stages, prompts)

    def _decoded(self, message: Any, stamp: int) -> Image | None:
        """Decode the pixels; None, and a warning, if they cannot be read."""
        try:
            return bgr_from_message(message)
        except MediaError as error:
            log.warning(
                "%s: image of %s with stamp %d is not shown: %s",
                self._images.path,
                self._images.topic,
                stamp,
                error,
            )
            return None

    def _reports(self) -> Iterator[tuple[int, dict[str, float]]]:
        """(log time, milliseconds by stage) of the node's diagnostics, where the bag of the
        results has them."""
        for log_ns, message in self._beside(DIAGNOSTICS, DIAGNOSTIC_ARRAY):
            yield log_ns, stage_ms(message, self._node)

    def _read_prompts(self) -> dict[tuple[int, int], list[Instance]]:
        """The objects given in each frame, where the bag of the results has them.

        All at once, since a prompt may come after the result of its frame.
        """
        found: dict[tuple[int, int], list[Instance]] = defaultdict(list)
        for _, message in self._beside(f"{self._node}{PROMPTS}", INSTANCE_ARRAY):
            given = result_from_message(message, 0)
            found[frame_key(given)] += given.instances
        return found

    def _beside(self, topic: str, kind: str) -> Iterator[tuple[int, Any]]:
        """(log time, message) of a topic of the bag of the results; none without messages."""
        path = self._results.path
        if any(t.name == topic and t.messages for t in bag_info(path).topics):
            with BagReader(path, (kind,), topic) as bag:
                yield from bag

    def close(self) -> None:
        """Release the files."""
        self._images.close()
        self._results.close()

    def __enter__(self) -> BagFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frame_key(result: FrameResult) -> tuple[int, int]:
    """What tells frames apart: epoch and stamp, since stamps advance within an epoch."""
    return result.epoch, result.stamp_ns


def match(images: Sequence[int], results: Sequence[int]) -> list[int | None]:
    """Find the image of each result by its stamp: the index of the first one with that stamp after
    the image of the result before; None if there is none.

    Stamps may repeat, as in a bag that was played twice.
    """
    places: dict[int, list[int]] = defaultdict(list)
    for index, stamp in enumerate(images):
        places[stamp].append(index)
    found: list[int | None] = []
    last = -1
    for stamp in results:
        candidates = places.get(stamp, [])
        at = bisect_right(candidates, last)
        found.append(candidates[at] if at < len(candidates) else None)
        last = last if found[-1] is None else found[-1]
    return found
