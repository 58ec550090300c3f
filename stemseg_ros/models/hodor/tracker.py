"""The path of a frame through HODOR: encode, decode from the history, describe; no look-ahead."""

from __future__ import annotations

from itertools import count

import numpy as np
import numpy.typing as npt
import torch

from stemseg_ros.config import Config
from stemseg_ros.masks import decode
from stemseg_ros.models.hodor.propagation import Propagated, Propagator
from stemseg_ros.models.hodor.settings import Settings
from stemseg_ros.records import Frame, FrameResult, Instance, Prompt
from stemseg_ros.tracker import Latency, Step


class HodorTracker:
    """Follows the objects that prompts point at, under the ids that the prompts give them.

    An object that is lost keeps its id and may be found again.
    """

    def __init__(self, config: Settings, device: torch.device) -> None:
        self.config = config
        self._propagator = Propagator(config, device)
        self._prompts: dict[int, Prompt] = {}
        self._indices = count()

    @property
    def latency(self) -> Latency:
        """See ``Tracker``."""
        return self.config.latency

    def step(self, frame: Frame) -> Step:
        """See ``Tracker``. Raises ValueError for prompts that ``check_prompts`` refuses."""
        height, width = frame.image.shape[:2]
        check_prompts(frame.prompts, (height, width), self._prompts, len(self.config.classes))
        given = {prompt.track_id: decode(prompt.rle) for prompt in frame.prompts}
        found = yield from self._propagator.step(frame.image, given)
        self._prompts |= {prompt.track_id: prompt for prompt in frame.prompts}
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
        self.config = self._propagator.config = config

    def _report(self, found: Propagated) -> tuple[Instance, ...]:
        """Instances of a frame, by track id; the score is the mean probability in the mask."""
        output, instances = self.config.output, []
        for number, track_id in enumerate(found.ids):
            mask: npt.NDArray[np.bool_] = found.labels == track_id
            if not mask.any() or np.count_nonzero(mask) < output.min_area:
                continue
            score = 1.0
            if found.probabilities is not None:
                inside = found.probabilities[number].float().cpu().numpy()[mask]
                score = min(1.0, float(inside.mean(dtype=np.float64)))
            if score >= output.min_score:
                class_id = self._prompts[track_id].class_id
                name = self.config.classes[class_id - 1]
                instances.append(Instance.from_mask(mask, track_id, class_id, name, score))
        return tuple(instances)


MAX_OBJECTS = 255
"""Objects of a stream; the decoder's work grows with their number."""


def check_prompts(
    prompts: tuple[Prompt, ...], size: tuple[int, int], known: dict[int, Prompt], classes: int
) -> None:
    """Raises ValueError, which names the object and the reason, unless all prompts can be
    followed.

    size: (H, W) of the image; known: prompts that are followed already, by id.
    """
    taken = np.zeros(size, np.int64)
    if len(known) + len(prompts) > MAX_OBJECTS:
        raise ValueError(
            f"{len(prompts)} objects beside {len(known)} that are followed: more than "
            f"{MAX_OBJECTS}"
        )
    ids = set(known)
    for prompt in prompts:
        reason = _refusal(prompt, size, ids, classes)
        if not reason:
            mask = decode(prompt.rle)
            if not mask.any():
                reason = "its mask is empty"
            elif taken[mask].any():
                reason = f"its mask overlaps that of object {int(taken[mask].max())}"
            taken[mask] = prompt.track_id
        if reason:
            raise ValueError(f"object {prompt.track_id}: {reason}")
        ids.add(prompt.track_id)


def _refusal(prompt: Prompt, size: tuple[int, int], ids: set[int], classes: int) -> str:
    height, width = prompt.rle["size"]
    if (height, width) != size:
        return f"its mask is {width}x{height} pixels, the image {size[1]}x{size[0]}"
    if prompt.track_id < 1:
        return "ids count from 1"
    if prompt.track_id in ids:
        return "the id is in use; choose another"
    if not 1 <= prompt.class_id <= classes:
        return f"class {prompt.class_id} does not exist; classes are 1 to {classes}"
    return ""
