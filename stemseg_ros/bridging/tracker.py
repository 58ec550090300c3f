"""A tracker composed of two: a detector, which finds and tracks objects, and a follower, which
bridges the gaps in the detector's tracks.

A track is *lost* if the detector reported it in the previous frame but not in this one, after
reporting it in at least ``min_track_frames`` frames, the last time with a score of at least
``min_score``. Its last mask becomes a prompt for the follower, in the frame of that mask; the
prompt is not repeated while the track is lost. A track that is lost again later gets a new prompt.
The follower computes only while a track is lost.

A lost track is *recovered* when the detector reports its id again, or a new id of the same class
whose mask overlaps the follower's mask in that frame (``min_iou``): from then on the new id stands
for the lost track. This is checked only in the first frame of the new id, because published ids do
not change. If the detector returns to the old id later, that is a new track.

A track is *given up* after ``max_gap`` frames without recovery.

A mask of the follower that is larger than ``max_growth`` times the track's last mask has spread to
other objects: it is neither reported nor used for recovery.

Masks of one frame stay disjoint: the detector's masks take precedence. A bridged mask of which
less than MIN_VISIBLE remains, or less than the detector's ``output.min_area``, is not reported in
that frame. The score of a bridged instance is the track's last score times the follower's score;
its class is that of the track.

A detector with look-ahead returns the result of a frame later; the follower gets the frame only
then, so that both are in step and the latency is that of the detector.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from pycocotools import mask as coco

from stemseg_ros.bridging.settings import FollowerConfig
from stemseg_ros.config import Config
from stemseg_ros.masks import Bools, decode
from stemseg_ros.records import Frame, FrameResult, Image, Instance, Prompt
from stemseg_ros.tracker import Latency, PromptTracker, Step, Tracker

DETECTOR = "detector."
"""Prefix of the detector's calls; the follower's have none."""
MIN_VISIBLE = 0.5
"""Share of a bridged mask that must not be covered by the detector's masks."""
FORGET_AFTER = 10_000
"""Frames after which an id that the detector no longer reports is forgotten."""


@dataclass(slots=True, eq=False)
class _Track:
    """A track of the detector."""

    number: int
    """Id under which it is published."""
    frames: int = 0
    """Number of frames in which the detector reported it."""
    last: int = 0
    """Index of the last frame in which the detector reported it."""


@dataclass(slots=True, eq=False)
class _Bridge:
    """A lost track that is bridged."""

    lost: Instance
    """Its last published instance."""
    detector_id: int
    prompt: Prompt
    """Prompt for the follower, with the follower's id of the track."""
    frames: int = 0
    """Number of frames since it was lost."""


class BridgedTracker:
    """Tracker that reports the tracks of a detector, with gaps bridged by a follower."""

    def __init__(self, detector: Tracker, follower: PromptTracker, config: FollowerConfig) -> None:
        self.config = config
        self._detector = detector
        self._follower = follower
        self._waiting: deque[Image] = deque()
        """Images of frames whose result the detector has not returned yet."""
        self._tracks: dict[int, _Track] = {}
        """By the detector's id."""
        self._bridges: list[_Bridge] = []
        self._previous: dict[int, Instance] = {}
        """The detector's instances of the previous frame with published ids, by the detector's
        id."""
        self._numbers = count(1)
        self._prompt_ids = count(1)

    @property
    def latency(self) -> Latency:
        """See ``Tracker``."""
        return self._detector.latency

    def step(self, frame: Frame) -> Step:
        """See ``Tracker``."""
        self._waiting.append(frame.image)
        found = yield from _prefixed(self._detector.step(frame))
        return (yield from self._bridge_all(found))

    def finish(self) -> Step:
        """See ``Tracker``."""
        found = yield from _prefixed(self._detector.finish())
        return (yield from self._bridge_all(found))

    def update(self, config: Config) -> None:
        """See ``Tracker``; the detector keeps its own settings."""
        assert isinstance(config, FollowerConfig)
        self._follower.update(config)
        self.config = config

    def _bridge_all(self, found: list[FrameResult]) -> Step:
        results: list[FrameResult] = []
        for result in found:
            results += yield from self._bridge(result, self._waiting.popleft())
        return results

    def _bridge(self, found: FrameResult, image: Image) -> Step:
        """Complete the detector's result of a frame with the bridged instances."""
        prompts = self._begin_bridges(found)
        if prompts:
            yield from self._follower.track(found.index - 1, prompts)
        (followed,) = yield from self._follower.step(Frame(image, found.index))
        masks = self._plausible(followed.instances)
        reported = self._identify(found, masks)
        self._end_bridges({instance.track_id for instance in reported.values()})
        instances = [*reported.values(), *self._bridged(reported, masks)]
        self._previous = reported
        instances.sort(key=lambda instance: instance.track_id)
        return [replace(found, instances=tuple(instances))]

    def _begin_bridges(self, found: FrameResult) -> tuple[Prompt, ...]:
        """Return prompts, in the previous frame, for the tracks that are lost in this one."""
        config = self.config.bridging
        here = {instance.track_id for instance in found.instances}
        lost = [
            (detector_id, instance)
            for detector_id, instance in self._previous.items()
            if detector_id not in here
            and self._tracks[detector_id].frames >= config.min_track_frames
            and instance.score >= config.min_score
        ]
        lost.sort(key=lambda pair: -pair[1].score)
        begun = []
        for detector_id, instance in lost[: max(0, config.max_objects - len(self._bridges))]:
            prompt = Prompt(next(self._prompt_ids), instance.class_id, instance.rle)
            begun.append(_Bridge(instance, detector_id, prompt))
        self._bridges += begun
        return tuple(bridge.prompt for bridge in begun)

    def _plausible(self, followed: tuple[Instance, ...]) -> dict[int, Instance]:
        """Return the follower's instances by its ids, without masks that have spread."""
        growth = self.config.bridging.max_growth
        limits = {
            b.prompt.track_id: growth * float(coco.area(b.prompt.rle)) for b in self._bridges
        }
        return {
            one.track_id: one
            for one in followed
            if float(coco.area(one.rle)) <= limits[one.track_id]
        }

    def _identify(self, found: FrameResult, masks: Mapping[int, Instance]) -> dict[int, Instance]:
        """Return the detector's instances with published ids, by the detector's ids."""
        new = [one for one in found.instances if one.track_id not in self._tracks]
        here = {one.track_id for one in found.instances}
        candidates = [bridge for bridge in self._bridges if bridge.detector_id not in here]
        for instance, bridge in _match_new(new, candidates, masks, self.config.bridging.min_iou):
            self._tracks[instance.track_id] = self._tracks.pop(bridge.detector_id)
        for instance in new:
            if instance.track_id not in self._tracks:
                self._tracks[instance.track_id] = _Track(next(self._numbers))
        for track_id in here:
            self._tracks[track_id].frames += 1
            self._tracks[track_id].last = found.index
        oldest = found.index - FORGET_AFTER
        self._tracks = {i: track for i, track in self._tracks.items() if track.last >= oldest}
        return {
            one.track_id: replace(one, track_id=self._tracks[one.track_id].number)
            for one in found.instances
        }

    def _end_bridges(self, found: set[int]) -> None:
        """End the bridges of recovered tracks and of those that are lost for too long."""
        ended, lasting = set(), []
        for bridge in self._bridges:
            bridge.frames += 1
            if bridge.lost.track_id in found or bridge.frames > self.config.bridging.max_gap:
                ended.add(bridge.prompt.track_id)
            else:
                lasting.append(bridge)
        self._bridges = lasting
        ended &= set(self._follower.followed)  # it dropped the others as too small
        if ended:
            self._follower.untrack(ended)

    def _bridged(
        self, reported: Mapping[int, Instance], masks: Mapping[int, Instance]
    ) -> list[Instance]:
        """Return the instances of lost tracks that the follower finds."""
        visible = [b for b in self._bridges if b.prompt.track_id in masks]
        if not visible:
            return []
        taken = [decode(instance.rle) for instance in reported.values()]
        min_area = self.config.detector.output.min_area if self.config.detector else 0
        instances = []
        for bridge in visible:
            followed, lost = masks[bridge.prompt.track_id], bridge.lost
            mask = _uncovered(decode(followed.rle), taken)
            if mask is not None and mask.sum() >= min_area:
                score = lost.score * followed.score
                instances.append(
                    Instance.from_mask(mask, lost.track_id, lost.class_id, lost.class_name, score)
                )
        return instances


def _prefixed(step: Step) -> Step:
    """Run a step with the names of its calls prefixed by DETECTOR."""
    outputs = None
    while True:
        try:
            call = next(step) if outputs is None else step.send(outputs)
        except StopIteration as stop:
            results: list[FrameResult] = stop.value
            return results
        outputs = yield call._replace(function=DETECTOR + call.function)


def _match_new(
    new: list[Instance], bridges: list[_Bridge], masks: Mapping[int, Instance], min_iou: float
) -> list[tuple[Instance, _Bridge]]:
    """Match new tracks with the lost ones that they continue, greedily by IoU."""
    pairs = []
    for instance in new:
        for bridge in bridges:
            followed = masks.get(bridge.prompt.track_id)
            if followed and bridge.lost.class_id == instance.class_id:
                iou = float(coco.iou([instance.rle], [followed.rle], [0])[0, 0])
                pairs.append((iou, instance, bridge))
    chosen: list[tuple[Instance, _Bridge]] = []
    for iou, instance, bridge in sorted(pairs, key=lambda pair: -pair[0]):
        if iou >= min_iou and all(instance is not i and bridge is not b for i, b in chosen):
            chosen.append((instance, bridge))
    return chosen


def _uncovered(mask: Bools, taken: list[Bools]) -> Bools | None:
    """Return the part of a mask that others do not cover; None if it is too small."""
    part = mask & ~np.logical_or.reduce(taken, axis=0) if taken else mask
    return part if part.any() and part.sum() >= MIN_VISIBLE * mask.sum() else None
