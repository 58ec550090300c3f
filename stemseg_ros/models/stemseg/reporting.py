"""Turns labelled grids into results: final frames, reported masks, ids and scores."""

from __future__ import annotations

from collections import deque
from itertools import count

from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.layers.grid_masks import FullMask, full_size_masks
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.stitching import Stitcher
from stemseg_ros.records import FrameResult, Instance


class Reporter:
    """Holds the frames without a result, and creates the results of those that are final."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self._pending: deque[tuple[int, int]] = deque()  # (index, stamp in ns)
        self._numbers = count(1)

    @property
    def oldest(self) -> int | None:
        """Index of the oldest pending frame; None if none is pending."""
        return self._pending[0][0] if self._pending else None

    def expect(self, index: int, stamp_ns: int) -> None:
        """Add a frame that came in."""
        self._pending.append((index, stamp_ns))

    def report(self, final: int, stitcher: Stitcher, letterbox: Letterbox) -> list[FrameResult]:
        """Create the results of the pending frames up to the index ``final``."""
        results = []
        while self._pending and self._pending[0][0] <= final:
            results.append(self._result(*self._pending.popleft(), stitcher, letterbox))
        return results

    def _result(
        self, index: int, stamp_ns: int, stitcher: Stitcher, letterbox: Letterbox
    ) -> FrameResult:
        masks = full_size_masks(stitcher.grid(index), letterbox)
        instances = (self._instance(mask, stitcher) for mask in masks)
        height, width = letterbox.image_size
        return FrameResult(
            index, stamp_ns, height, width, 0, tuple(i for i in instances if i is not None)
        )

    def _instance(self, mask: FullMask, stitcher: Stitcher) -> Instance | None:
        """Create the instance of a track's mask in one frame; None if it is not reported (yet)."""
        track, output = stitcher.tracks[mask.label], self.config.output
        track.age += 1
        score = track.heat * track.class_probability
        if track.age < output.min_track_frames or mask.area < output.min_area:
            return None
        index = track.class_index or 0
        name = self.config.classes[index]
        track.reported |= score >= output.min_score_of(name)
        if not track.reported or score < output.keep_score_of(name):
            return None
        if track.number is None:
            track.number = next(self._numbers)
        return Instance(
            track_id=track.number,
            class_id=index + 1,
            class_name=name,
            score=score,
            rle=mask.rle,
            box=mask.box,
        )
