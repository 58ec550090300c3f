"""What is known of the followed objects before a frame."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from torch import Tensor

from stemseg_ros.models.hodor.memory import Memory
from stemseg_ros.models.hodor.motion import Grey, Motion
from stemseg_ros.models.hodor.sightings import Sighting, move_sightings


@dataclass(slots=True, eq=False)
class State:
    """State of the propagation before a frame."""

    memory: Memory = field(default_factory=Memory)
    ids: tuple[int, ...] = ()
    """Ids of the followed objects, ascending."""
    index: int = 0
    """Position of the frame in the stream."""
    previous: dict[int, Tensor] = field(default_factory=dict)
    """Mask of each object in the previous frame, (h, w) at stride 8, by id."""
    outlines: dict[int, Tensor] = field(default_factory=dict)
    """The same at stride 4; kept for ``network.refinement``."""
    fine: Tensor | None = None
    """(C, h, w), features of the previous frame at stride 4."""
    sightings: dict[int, Sighting] = field(default_factory=dict)
    """Last sighting of each object, by id."""
    absent: frozenset[int] = frozenset()
    """Objects that were absent in the previous frame (``presence.py``)."""
    grey: Grey | None = None
    """Previous frame, from which motion is computed; kept for ``propagation.motion``."""

    def copy(self) -> State:
        """Copy the state, to return to it later."""
        return replace(
            self,
            memory=self.memory.copy(),
            previous=dict(self.previous),
            outlines=dict(self.outlines),
            sightings=dict(self.sightings),
        )

    def forget(self, ids: Collection[int]) -> None:
        """Stop following some objects."""
        self.ids = tuple(n for n in self.ids if n not in ids)
        if self.ids:
            self.memory.forget(ids)
        else:
            self.memory = Memory()
        self.previous = {n: mask for n, mask in self.previous.items() if n not in ids}
        self.outlines = {n: mask for n, mask in self.outlines.items() if n not in ids}
        self.sightings = {n: sighting for n, sighting in self.sightings.items() if n not in ids}
        self.absent = self.absent.difference(ids)

    def move(self, motion: Motion) -> None:
        """Move what is known of the previous frame to where it is in this one."""
        self.previous = motion.move_masks(self.previous)
        self.outlines = motion.move_masks(self.outlines)
        if self.fine is not None:
            self.fine = motion.move(self.fine)
        self.sightings = move_sightings(self.sightings, motion)
