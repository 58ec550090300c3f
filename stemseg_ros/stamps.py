"""Order of the stamps of a stream: glitches and jumps of time.

One rule for the node, for recordings and for evaluation: a frame whose stamp does not follow the
newest one is held back. If the next frames go on from its stamp, time has jumped: they start a new
epoch, none of them lost. If they go on from the newest stamp instead, it was a glitch (an unset
stamp, two frames exchanged on the way) and is dropped and reported. So only a lasting jump starts
an epoch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from stemseg_ros.records import Frame, Prompt

LATE_NS = 1_000_000_000
"""A frame at most this far behind the newest one may be late; farther behind, time has jumped."""
LATE_IN_A_ROW = 3
"""Number of successive late frames that cannot be exchanged ones: time has jumped by a little, as
at the end of a very short bag that is played in a loop."""
JUMPED_IN_A_ROW = 2
"""The same for frames that are farther behind or ahead."""

Dropped = Literal["duplicate", "out_of_order"]
Kind = Literal["epoch", "prompts", Dropped]


class Event(NamedTuple):
    """Something that a stream did besides returning results."""

    kind: Kind
    """A new epoch began, a prompt was refused after its frame had been pushed, or a frame was
    dropped because of its stamp."""
    text: str
    """A sentence for the log."""
    prompts: tuple[Prompt, ...] = ()
    """Prompts of a dropped frame, which the stream forgets; a caller may give them again."""


def count_dropped(events: Iterable[Event], held: int) -> dict[str, int]:
    """Count dropped frames by reason; held: frames whose stamps were never confirmed."""
    dropped = Counter(event.kind for event in events if event.kind in get_args(Dropped))
    dropped["out_of_order"] += held
    return {kind: number for kind, number in dropped.items() if number}


def dropped_lines(dropped: Mapping[str, int]) -> list[str]:
    """Report frames without a result because of their stamps, one line for each reason."""
    return [
        f"{number} frame{'s' * (number != 1)} dropped because of the stamps: "
        f"{reason.replace('_', ' ')}"
        for reason, number in dropped.items()
    ]


class Admitted(NamedTuple):
    """A frame to process now."""

    frame: Frame
    jump: str
    """Why a new epoch begins with it; empty if none does."""


class StampOrder:
    """Decides for each frame of a stream whether it is processed, held or dropped.

    Stamps of zero (a driver that sets none) are not compared, so they are no duplicates of each
    other.
    """

    def __init__(self, max_gap: float) -> None:
        """max_gap: seconds; farther ahead, time has jumped (0: never)."""
        self.max_gap_ns = round(max_gap * 1e9)
        self.newest: int | None = None
        """Stamp of the last frame that was admitted, in ns; None before the first."""
        self.held: list[Frame] = []
        """Frames whose stamps follow each other, but not the newest admitted one."""
        self.events: list[Event] = []
        """Events since the list was cleared."""

    def admit(self, frame: Frame) -> list[Admitted]:
        """Take in a frame; returns those to process now, in order."""
        if self._repeats(frame.stamp_ns):
            self._drop(frame, "duplicate", "a frame has the stamp of the one before")
            return []
        if self.newest is None or self._follows(self.newest, frame.stamp_ns):
            self._drop_held()
            return self._release([frame], "")
        if self.held and not self._follows(self.held[-1].stamp_ns, frame.stamp_ns):
            self._drop_held()
        self.held.append(frame)
        enough = LATE_IN_A_ROW if self._late(self.held[0].stamp_ns) else JUMPED_IN_A_ROW
        return self._jump() if len(self.held) >= enough else []

    def forget(self) -> int:
        """Accept any next stamp; returns how many held frames are dropped."""
        held = len(self.held)
        self.newest, self.held = None, []
        return held

    def _repeats(self, stamp_ns: int) -> bool:
        latest = self.held[-1].stamp_ns if self.held else self.newest
        return stamp_ns != 0 and stamp_ns in (latest, self.newest)

    def _follows(self, before_ns: int, stamp_ns: int) -> bool:
        ahead = stamp_ns - before_ns
        if before_ns == 0:
            return True
        return ahead > 0 and not 0 < self.max_gap_ns < ahead

    def _late(self, stamp_ns: int) -> bool:
        return self.newest is not None and 0 < self.newest - stamp_ns <= LATE_NS

    def _jump(self) -> list[Admitted]:
        assert self.newest is not None
        step = self.held[0].stamp_ns - self.newest
        where = "back" if step < 0 else "ahead"
        frames, self.held = self.held, []
        return self._release(frames, f"the stamps jumped {where} by {abs(step) / 1e9:.3f} s")

    def _release(self, frames: list[Frame], jump: str) -> list[Admitted]:
        self.newest = frames[-1].stamp_ns
        reasons = [jump] + [""] * (len(frames) - 1)
        return [Admitted(frame, reason) for frame, reason in zip(frames, reasons, strict=True)]

    def _drop_held(self) -> None:
        for frame in self.held:
            seconds = (frame.stamp_ns - (self.newest or 0)) / 1e9
            what = (
                "a frame without a stamp among stamped ones"
                if frame.stamp_ns == 0
                else f"a frame is {abs(seconds):.3f} s out of order"
            )
            self._drop(frame, "out_of_order", what)
        self.held = []

    def _drop(self, frame: Frame, kind: Dropped, what: str) -> None:
        text = f"{what}: dropped"
        if frame.prompts:
            ids = ", ".join(str(prompt.track_id) for prompt in frame.prompts)
            text += f" with its prompts, objects {ids}"
        self.events.append(Event(kind, text, frame.prompts))
