"""A tracker that holds two: a detector finds and tracks objects, and a follower bridges the gaps
in which the detector loses them.

*Lost* is a track that the detector reported in the last frame and does not report in this one, if
it was reported in ``min_track_frames`` frames before. The follower is shown its last mask, in the
frame that this mask belongs to, and follows it from there; the mask is not renewed while the track
is lost. A track that is lost again later is shown anew. While nothing is lost the follower
computes nothing.

*Found again* is a lost track when the detector reports its id, or a new id of the same class whose
mask overlaps the follower's mask in that frame (``min_iou``): the new id stands for the lost track
from then on. Only in the first frame of the new id: ids that were published do not change. Should
the detector come back to the old id later, this is a new track.

*Given up* is a track after ``max_gap`` frames without either.

A mask of the follower that is larger than ``max_growth`` times the last one of the track has
spread to other objects: it is neither reported nor compared.

Masks of one frame stay disjoint: what the detector reports takes its pixels first. A bridged mask
of which less than LEAST_FREE is left, or less than the detector's ``output.min_area``, is not
reported in that frame. The score of a bridged instance is the last one of the track times the
follower's, its class that of the track.

A detector with look-ahead returns a frame's result later than the frame; the follower is given the
frame only then, so that both see the same frames and the latency is that of the detector.
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
"""Prefix of the detector's calls; those of the follower have none."""
LEAST_FREE = 0.5
"""Share of a bridged mask that the detector must have left free."""
FORGET_AFTER = 10_000
"""Frames after which an id of the detector that did not come back is forgotten."""


@dataclass(slots=True, eq=False)
class _Track:
    """An id of the detector."""

    number: int
    """Id under which it is published."""
    frames: int = 0
    """Number of frames in which the detector reported it."""
    last: int = 0
    """Index of the last of them."""


@dataclass(slots=True, eq=False)
class _Bridge:
    """A lost track."""

    lost: Instance
    """As it was published last."""
    detector_id: int
    prompt: Prompt
    """Its ``track_id`` is the follower's."""
    frames: int = 0
    """For how many frames it is lost."""


class BridgedTracker:
    """Tracks of a detector, their gaps bridged by a follower."""

    def __init__(self, detector: Tracker, follower: PromptTracker, config: FollowerConfig) -> None:
        self.config = config
        self._detector = detector
        self._follower = follower
        self._waiting: deque[Image] = deque()
        """Images of the frames that have no result of the detector yet."""
        self._tracks: dict[int, _Track] = {}
        """By id of the detector."""
        self._bridges: list[_Bridge] = []
        self._previous: dict[int, Instance] = {}
        """What the detector reported in the last frame, under published ids, by its own."""
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
        """Publish a frame's result of the detector, with what it lost."""
        prompts = self._begin_bridges(found)
        if prompts:
            yield from self._follower.track(found.index - 1, prompts)
        (followed,) = yield from self._follower.step(Frame(image, found.index))
        masks = self._plausible(followed.instances)
        seen = self._identify(found, masks)
        self._end_bridges({instance.track_id for instance in seen.values()})
        instances = [*seen.values(), *self._bridged(seen, masks)]
        self._previous = seen
        instances.sort(key=lambda instance: instance.track_id)
        return [replace(found, instances=tuple(instances))]

    def _begin_bridges(self, found: FrameResult) -> tuple[Prompt, ...]:
        """Prompts, in the previous frame, for the tracks that are lost in this one."""
        config = self.config.bridging
        here = {instance.track_id for instance in found.instances}
        lost = [
            (detector_id, instance)
            for detector_id, instance in self._previous.items()
            if detector_id not in here
            and self._tracks[detector_id].frames >= config.min_track_frames
        ]
        lost.sort(key=lambda pair: -pair[1].score)
        begun = []
        for detector_id, instance in lost[: max(0, config.max_objects - len(self._bridges))]:
            prompt = Prompt(next(self._prompt_ids), instance.class_id, instance.rle)
            begun.append(_Bridge(instance, detector_id, prompt))
        self._bridges += begun
        return tuple(bridge.prompt for bridge in begun)

    def _plausible(self, followed: tuple[Instance, ...]) -> dict[int, Instance]:
        """What the follower sees, by its ids, without masks that have spread."""
        growth = self.config.bridging.max_growth
        most = {b.prompt.track_id: growth * float(coco.area(b.prompt.rle)) for b in self._bridges}
        return {
            one.track_id: one
            for one in followed
            if float(coco.area(one.rle)) <= most[one.track_id]
        }

    def _identify(self, found: FrameResult, masks: Mapping[int, Instance]) -> dict[int, Instance]:
        """The detector's instances under published ids, by its own ids."""
        new = [one for one in found.instances if one.track_id not in self._tracks]
        here = {one.track_id for one in found.instances}
        open_ends = [bridge for bridge in self._bridges if bridge.detector_id not in here]
        for instance, bridge in _continued(new, open_ends, masks, self.config.bridging.min_iou):
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
        """Follow no longer what the detector found again, and what is lost for too long."""
        ended, lasting = set(), []
        for bridge in self._bridges:
            bridge.frames += 1
            if bridge.lost.track_id in found or bridge.frames > self.config.bridging.max_gap:
                ended.add(bridge.prompt.track_id)
            else:
                lasting.append(bridge)
        self._bridges = lasting
        ended &= set(self._follower.followed)  # the others were too small for it
        if ended:
            self._follower.untrack(ended)

    def _bridged(
        self, seen: Mapping[int, Instance], masks: Mapping[int, Instance]
    ) -> list[Instance]:
        """Instances of the lost tracks that the follower sees."""
        visible = [b for b in self._bridges if b.prompt.track_id in masks]
        if not visible:
            return []
        taken = [decode(instance.rle) for instance in seen.values()]
        least = self.config.detector.output.min_area if self.config.detector else 0
        instances = []
        for bridge in visible:
            followed, lost = masks[bridge.prompt.track_id], bridge.lost
            free = _free(decode(followed.rle), taken)
            if free is not None and free.sum() >= least:
                score = lost.score * followed.score
                instances.append(
                    Instance.from_mask(free, lost.track_id, lost.class_id, lost.class_name, score)
                )
        return instances


def _prefixed(step: Step) -> Step:
    """The same step, its calls marked as the detector's."""
    outputs = None
    while True:
        try:
            call = next(step) if outputs is None else step.send(outputs)
        except StopIteration as stop:
            results: list[FrameResult] = stop.value
            return results
        outputs = yield call._replace(function=DETECTOR + call.function)


def _continued(
    new: list[Instance], bridges: list[_Bridge], masks: Mapping[int, Instance], min_iou: float
) -> list[tuple[Instance, _Bridge]]:
    """New tracks and the lost ones that they continue; the largest overlap is served first."""
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


def _free(mask: Bools, taken: list[Bools]) -> Bools | None:
    """What other masks leave of one; None if that is too little."""
    free = mask & ~np.logical_or.reduce(taken, axis=0) if taken else mask
    return free if free.any() and free.sum() >= LEAST_FREE * mask.sum() else None
