"""Memory of descriptors, from which later frames are decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stemseg_ros.models.hodor.settings import BACKGROUNDS


@dataclass(frozen=True, slots=True, eq=False)
class FrameDescriptors:
    """Descriptors of one frame."""

    index: int
    """Position of the frame in the stream."""
    background: Tensor | None
    """(9, C), or None where only objects were described."""
    objects: dict[int, Tensor]
    """(C,) by track id."""

    def without(self, ids: Collection[int]) -> FrameDescriptors:
        """Return a copy without some of the objects."""
        kept = {n: vector for n, vector in self.objects.items() if n not in ids}
        return replace(self, objects=kept)


class Memory:
    """Descriptors of the last frames of a stream, and anchors: descriptors of given masks, which
    never expire."""

    def __init__(self) -> None:
        self._frames: list[FrameDescriptors] = []
        self._anchors: list[FrameDescriptors] = []

    def copy(self) -> Memory:
        """Copy the memory; later changes of either do not affect the other."""
        copy = Memory()
        copy._frames, copy._anchors = list(self._frames), list(self._anchors)
        return copy

    def forget(self, ids: Collection[int]) -> None:
        """Drop the descriptors of objects."""
        self._frames = [frame.without(ids) for frame in self._frames]
        anchors = (frame.without(ids) for frame in self._anchors)
        self._anchors = [frame for frame in anchors if frame.objects]

    def put(self, frame: FrameDescriptors) -> None:
        """Store the descriptors of a frame, in place of earlier ones of that frame."""
        self._frames = [other for other in self._frames if other.index != frame.index]
        self._frames.append(frame)

    def anchor(self, frame: FrameDescriptors) -> None:
        """Store descriptors of given masks that never expire."""
        self._anchors.append(frame)

    def likeness(self, frame: FrameDescriptors) -> dict[int, float]:
        """Compute how much the objects of a frame are like their anchors: cosines of the
        descriptors, in [-1, 1], by track id; without objects that have none."""
        anchors = {n: vector for anchor in self._anchors for n, vector in anchor.objects.items()}
        ids = [track_id for track_id in frame.objects if track_id in anchors]
        if not ids:
            return {}
        found = torch.stack([frame.objects[n] for n in ids]).float()
        given = torch.stack([anchors[n] for n in ids]).float()
        return dict(zip(ids, F.cosine_similarity(found, given).tolist(), strict=True))

    def drop_before(self, index: int) -> None:
        """Drop frames that have left the window."""
        self._frames = [frame for frame in self._frames if frame.index >= index]

    def history(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return descriptors (T, 9 + I, C) of the stored frames, objects in the order of ``ids``,
        and bool (T, 9 + I), which of them exist; the others are zero."""
        anchors = [a for a in self._anchors if all(a.index != f.index for f in self._frames)]
        frames = anchors + self._frames
        first = next(vector for frame in frames for vector in frame.objects.values())
        descriptors = first.new_zeros(len(frames), BACKGROUNDS + len(ids), len(first))
        present = torch.zeros(descriptors.shape[:2], dtype=torch.bool, device=first.device)
        for row, frame in enumerate(frames):
            if frame.background is not None:
                descriptors[row, :BACKGROUNDS], present[row, :BACKGROUNDS] = frame.background, True
            for column, track_id in enumerate(ids, BACKGROUNDS):
                if track_id in frame.objects:
                    descriptors[row, column] = frame.objects[track_id]
                    present[row, column] = True
        return descriptors, present
