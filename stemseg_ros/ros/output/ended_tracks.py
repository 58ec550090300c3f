"""Why an object that comes back has a new id: its track has ended."""

from __future__ import annotations

from stemseg_ros.records import FrameResult


class EndedTracks:
    """Takes the results of a camera in order, and tells the tracks that are out of sight for too
    long to be found again."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._frame = 0
        self._seen: dict[int, int] = {}

    def push(self, result: FrameResult, max_gap: int) -> list[int]:
        """Ids of the tracks that end with this frame: unseen for more than ``max_gap`` frames.

        A new epoch ends all tracks without a word: it has its own.
        """
        if result.epoch != self._epoch:
            self._epoch, self._seen = result.epoch, {}
        self._frame += 1
        self._seen |= {item.track_id: self._frame for item in result.instances}
        ended = [track for track, seen in self._seen.items() if self._frame - seen > max_gap]
        for track in ended:
            del self._seen[track]
        return ended
