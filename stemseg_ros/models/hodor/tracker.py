"""The path of a frame through HODOR: encode, decode from the history, describe; no look-ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import numpy.typing as npt
import torch

from stemseg_ros.config import Config
from stemseg_ros.errors import PromptError
from stemseg_ros.masks import decode
from stemseg_ros.models.hodor.prompts import check_prompts
from stemseg_ros.models.hodor.propagation import Calls, PropagationResult, Propagator
from stemseg_ros.models.hodor.settings import Settings
from stemseg_ros.models.hodor.state import State
from stemseg_ros.records import Frame, FrameResult, Image, Instance, Prompt
from stemseg_ros.tracker import Latency, Step


@dataclass(slots=True, eq=False)
class _KeptFrame:
    """An earlier frame that accepts prompts afterwards."""

    frame: Frame
    """With all prompts for it, also those given afterwards."""
    before: State
    """State before it."""


class HodorTracker:
    """Tracker of the objects that prompts give, under the ids of the prompts.

    A lost object keeps its id and may be found again.
    """

    def __init__(self, config: Settings, device: torch.device) -> None:
        self.config = config
        self._propagator = Propagator(config, device)
        self._classes: dict[int, int] = {}
        """Class id of every object of the epoch, including those that are no longer followed."""
        self._kept: deque[_KeptFrame] = deque(maxlen=config.propagation.kept_frames)
        self._indices = count()

    @property
    def latency(self) -> Latency:
        """See ``Tracker``."""
        return self.config.latency

    @property
    def followed(self) -> tuple[int, ...]:
        """See ``PromptTracker``."""
        return self._propagator.state.ids

    def step(self, frame: Frame) -> Step:
        """See ``Tracker``. Raises PromptError for prompts that ``check`` refuses."""
        self.check(frame)
        kept = replace(frame, source=None)  # it may hold a whole message
        self._kept.append(_KeptFrame(kept, self._propagator.state.copy()))
        found = yield from self._propagate(frame)
        self._remember(frame.prompts)
        height, width = frame.image.shape[:2]
        instances = self._report(found)
        return [FrameResult(next(self._indices), frame.stamp_ns, height, width, 0, instances)]

    def finish(self) -> Step:
        """See ``Tracker``: no frame is ever pending."""
        yield from ()
        return []

    def update(self, config: Config) -> None:
        """See ``Tracker``."""
        assert isinstance(config, Settings)
        if config.network != self.config.network:
            raise ValueError("'network' settings cannot change in a running stream")
        self.config = config
        self._propagator.configure(config)
        self._kept = deque(self._kept, maxlen=config.propagation.kept_frames)

    def check(self, frame: Frame) -> None:
        """See ``PromptTracker``."""
        height, width = frame.image.shape[:2]
        classes = len(self.config.classes)
        check_prompts(frame.prompts, (height, width), self.followed, self._classes, classes)

    def track(self, stamp_ns: int, prompts: tuple[Prompt, ...]) -> Step:
        """See ``PromptTracker``: returns to the frame and repeats all frames since."""
        position = self._position(stamp_ns)
        first = self._kept[position].frame
        self.check(replace(first, prompts=prompts))
        self._kept[position].frame = replace(first, prompts=first.prompts + prompts)
        self._propagator.state = self._kept[position].before.copy()
        for kept in islice(self._kept, position, None):
            kept.before = self._propagator.state.copy()
            yield from self._propagate(kept.frame)
        self._remember(prompts)
        return []

    def untrack(self, ids: Collection[int]) -> None:
        """See ``PromptTracker``."""
        unknown = sorted(set(ids) - set(self.followed))
        if unknown:
            raise PromptError(f"object {unknown[0]} is not followed")
        self._propagator.state.forget(ids)
        for kept in self._kept:
            kept.before.forget(ids)
            prompts = tuple(p for p in kept.frame.prompts if p.track_id not in ids)
            kept.frame = replace(kept.frame, prompts=prompts)

    def kept_image(self, stamp_ns: int) -> Image:
        """See ``PromptTracker``."""
        return self._kept[self._position(stamp_ns)].frame.image

    def free_ids(self, number: int) -> tuple[int, ...]:
        """See ``PromptTracker``."""
        unused = (track_id for track_id in count(1) if track_id not in self._classes)
        return tuple(islice(unused, number))

    def _position(self, stamp_ns: int) -> int:
        stamps = [kept.frame.stamp_ns for kept in self._kept]
        if stamp_ns not in stamps:
            raise PromptError(
                f"no frame with the stamp {stamp_ns} ns among the last {len(stamps)} of this epoch"
                + (f" ({stamps[0]} to {stamps[-1]} ns)" if stamps else "")
            )
        return len(stamps) - 1 - stamps[::-1].index(stamp_ns)

    def _propagate(self, frame: Frame) -> Calls[PropagationResult]:
        given = {prompt.track_id: decode(prompt.rle) for prompt in frame.prompts}
        return (yield from self._propagator.step(frame.image, given))

    def _remember(self, prompts: tuple[Prompt, ...]) -> None:
        self._classes |= {prompt.track_id: prompt.class_id for prompt in prompts}

    def _report(self, found: PropagationResult) -> tuple[Instance, ...]:
        """Build the instances of a frame, by track id; the score is the mean probability in the
        mask."""
        output, instances = self.config.output, []
        for track_id in found.ids:
            mask: npt.NDArray[np.bool_] = found.labels == track_id
            if not mask.any() or np.count_nonzero(mask) < output.min_area:
                continue
            score = 1.0
            if found.confidence is not None:
                score = min(1.0, float(found.confidence[mask].mean(dtype=np.float64)))
            class_id = self._classes[track_id]
            name = self.config.classes[class_id - 1]
            if score >= output.min_score_of(name):
                instances.append(Instance.from_mask(mask, track_id, class_id, name, score))
        return tuple(instances)
