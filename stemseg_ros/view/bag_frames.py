"""Frames for the viewer out of bags: images, instances, and the node's diagnostics."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stemseg_ros.errors import MediaError
from stemseg_ros.media.bags import IMAGE_TYPES, INSTANCE_ARRAY, BagReader, bag_info
from stemseg_ros.media.messages import bgr_from_message, stamp_ns
from stemseg_ros.media.result_bag import result_from_message
from stemseg_ros.records import Image
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

    def __iter__(self) -> Iterator[Shown]:
        image_stamps = [stamp_ns(message) for _, message in self._images]
        chosen = match(image_stamps, [stamp_ns(message) for _, message in self._results])
        self.missing = chosen.count(None)
        self.without_result = len(image_stamps) - (len(chosen) - self.missing)
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

    def _shown(
        self,
        index: int,
        log_ns: int,
        message: Any,
        taken: tuple[int, Any] | None,
        stages: dict[str, float],
    ) -> Shown:
        result = result_from_message(message, index)
        if taken is None:
            return Shown(result, None, None, stages)
        latency = (log_ns - taken[0]) / 1e6 if self._one_clock else None
        return Shown(result, self._decoded(taken[1], result.stamp_ns), latency, stages)

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
        """(log time, milliseconds by stage) of the node's diagnostics, where the bag has them."""
        path = self._results.path
        if not self._one_clock or DIAGNOSTICS not in {t.name for t in bag_info(path).topics}:
            return
        with BagReader(path, (DIAGNOSTIC_ARRAY,), DIAGNOSTICS) as bag:
            for log_ns, message in bag:
                yield log_ns, stage_ms(message, self._node)

    def close(self) -> None:
        """Release the files."""
        self._images.close()
        self._results.close()

    def __enter__(self) -> BagFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
