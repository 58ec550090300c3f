"""Frames of a sequence that have no predictions because their recording is damaged. They count in
the score: their true objects are missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stemseg_ros.media.damage import Damage, SkippedFrame
from stemseg_ros.stamps import dropped_lines


@dataclass(frozen=True, slots=True)
class LostFrames:
    """What a sequence lacks; numbers of frames are those of the ground truth."""

    skipped: list[SkippedFrame] = field(default_factory=list)
    """Frames that cannot be read."""
    losses: list[str] = field(default_factory=list)
    """What is lost beyond single frames, one sentence each."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Frames without a result because of their stamps, by reason."""
    prompts: list[str] = field(default_factory=list)
    """Given masks that could not be followed because their frames are lost, one sentence each."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LostFrames:
        """Parse the content of ``asdict``. Raises KeyError, TypeError."""
        skipped = [SkippedFrame(**item) for item in content["skipped"]]
        lost = cls(skipped, list(content["losses"]), dict(content["dropped"]))
        return replace(lost, prompts=list(content.get("prompts", ())))

    def __bool__(self) -> bool:
        return bool(self.skipped or self.losses or self.dropped or self.prompts)

    def lines(self) -> list[str]:
        """Return one line for each loss, for a report."""
        damage = Damage(self.skipped, self.losses)
        return [*damage.lines(), *self.losses, *dropped_lines(self.dropped), *self.prompts]
