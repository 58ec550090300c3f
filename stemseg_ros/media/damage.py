"""Parts of a recording that could not be read. One bad frame never costs the others: it is
skipped, counted and reported by its number."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from stemseg_ros.errors import MediaError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SkippedFrame:
    """A frame that cannot be read."""

    frame: int
    """Its number in the recording, from 0; those that can be read keep theirs."""
    reason: str


@dataclass(slots=True)
class Damage:
    """Frames that the last iteration skipped, and what is lost beyond single frames."""

    skipped: list[SkippedFrame] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    """One sentence each."""

    def __bool__(self) -> bool:
        return bool(self.skipped or self.losses)

    def skip(self, frame: int, error: MediaError) -> None:
        """Record an unreadable frame."""
        self.skipped.append(SkippedFrame(frame, " ".join(str(error).split())))

    def lose(self, what: str) -> None:
        """Record and log a loss."""
        self.losses.append(what)
        log.warning("%s", what)

    def clear(self) -> None:
        """Forget the findings of an iteration."""
        self.skipped.clear()
        self.losses.clear()

    def lines(self, most: int = 10) -> list[str]:
        """The skipped frames for a report: one line each, the last one for those beyond
        ``most``."""
        lines = [f"frame {item.frame} is skipped: {item.reason}" for item in self.skipped[:most]]
        if len(self.skipped) > most:
            lines.append(f"{len(self.skipped) - most} more frames are skipped")
        return lines
