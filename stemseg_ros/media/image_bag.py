"""Images read from a bag, without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from stemseg_ros.errors import BagError, MediaError
from stemseg_ros.media.bags import IMAGE_TYPES, BagReader
from stemseg_ros.media.messages import bgr_from_message, stamp_ns

_PROBED_MESSAGES = 16


class ImageBagReader:
    """Images of one topic, raw or compressed: iterates (stamp in ns, uint8 (H, W, 3) BGR).

    Without ``topic`` the bag has to hold exactly one image topic. Raises which lists the
    topics.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._bag = BagReader(path, IMAGE_TYPES, topic)
        self.name = self._bag.path.stem
        self.topic = self._bag.topic
        self.frames = self._bag.count
        try:
            _, first = next(iter(self._bag))
            self.frame_id: str = first.header.frame_id
            height, width = self._image(0, first).shape[:2]
            stamps = [stamp_ns(message) for _, message in islice(self._bag, _PROBED_MESSAGES)]
        except BaseException:
            self.close()
            raise
        self.size: tuple[int, int] = (height, width)
        """(H, W) of the first image, pixels."""
        self.fps = _rate(stamps)
        """Frames per second by the first stamps; none where they do not advance."""

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for index, (_, message) in enumerate(self._bag):
            yield stamp_ns(message), self._image(index, message)

    def _image(self, index: int, message: Any) -> npt.NDArray[np.uint8]:
        try:
            return bgr_from_message(message)
        except MediaError as error:
            raise BagError(
                f"{self._bag.path}: message {index} of {self.topic}: {error}"
            ) from error

    @property
    def losses(self) -> list[str]:
        """What of the recording could not be read, so far."""
        return self._bag.losses

    def close(self) -> None:
        """Release the file."""
        self._bag.close()

    def __enter__(self) -> ImageBagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rate(stamps: list[int]) -> float | None:
    steps = [later - earlier for earlier, later in pairwise(stamps)]
    typical = median(steps) if steps else 0
    return 1e9 / typical if typical > 0 else None
