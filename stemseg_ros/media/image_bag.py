"""Images read from a bag, without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from stemseg_ros.errors import BagError, MediaError
from stemseg_ros.media.bags import IMAGE_TYPES, BagReader
from stemseg_ros.media.damage import Damage
from stemseg_ros.media.messages import bgr_from_message, stamp_ns

_PROBED_MESSAGES = 16


class ImageBagReader:
    """Images of one topic, raw or compressed: iterates (stamp in ns, uint8 (H, W, 3) BGR).

    Without ``topic`` the bag has to hold exactly one image topic. Raises BagError, which lists
    the topics.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._bag = BagReader(path, IMAGE_TYPES, topic)
        self.name = self._bag.path.stem
        self.topic = self._bag.topic
        self.frames = self._bag.count
        self.damage = Damage(losses=self._bag.losses)
        self.frame_id = ""
        """``frame_id`` of the last image; empty before the first."""
        try:
            first = next(iter(self), None)
            if first is None:
                raise BagError(_why_nothing(self._bag, self.damage))
            self.fps = _rate([stamp_ns(m) for m in islice(self._messages(), _PROBED_MESSAGES)])
            """Frames per second by the first stamps; none where they do not advance."""
        except BaseException:
            self.close()
            raise
        self.size: tuple[int, int] = (first[1].shape[0], first[1].shape[1])
        """(H, W) of the first image, pixels."""

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield the readable images, in the order of recording."""
        self.damage.skipped.clear()
        for index, (_, data) in enumerate(self._bag.raw()):
            try:
                message = self._bag.decode(data)
                image = bgr_from_message(message)
            except MediaError as error:
                named = BagError(f"{self._bag.path}: message {index} of {self.topic}: {error}")
                self.damage.skip(index, named)
                continue
            self.frame_id = message.header.frame_id
            yield stamp_ns(message), image

    def _messages(self) -> Iterator[Any]:
        """Yield the messages that can be decoded."""
        for _, data in self._bag.raw():
            with suppress(MediaError):
                yield self._bag.decode(data)

    def close(self) -> None:
        """Release the file."""
        self._bag.close()

    def __enter__(self) -> ImageBagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _why_nothing(bag: BagReader, damage: Damage) -> str:
    if damage.skipped:
        return damage.skipped[0].reason
    return "; ".join([f"'{bag.path}' holds no whole message on {bag.topic}", *damage.losses])


def _rate(stamps: list[int]) -> float | None:
    steps = [later - earlier for earlier, later in pairwise(stamps)]
    typical = median(steps) if steps else 0
    return 1e9 / typical if typical > 0 else None
