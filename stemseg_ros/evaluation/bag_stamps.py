"""Which frame of the ground truth each message of a bag belongs to, by stamps."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from stemseg_ros.errors import MediaError
from stemseg_ros.formats.sequence_masks import EvaluationError
from stemseg_ros.media.bags import BagReader
from stemseg_ros.media.messages import stamp_ns

NO_FRAME = -1
"""Number of a message whose ground truth is lost."""


class Stamps(NamedTuple):
    """Header stamps of the messages of a topic."""

    ns: list[int | None]
    """None for a message that cannot be read."""
    losses: list[str]
    """What the bag has lost."""


def read_stamps(path: Path, types: Collection[str], topic: str | None) -> Stamps:
    """Read the stamps of a topic. Raises BagError."""
    stamps: list[int | None] = []
    with BagReader(path, types, topic) as bag:
        for _, data in bag.raw():
            try:
                stamps.append(stamp_ns(bag.decode(data)))
            except MediaError:
                stamps.append(None)
        return Stamps(stamps, list(bag.losses))


def frames_of(
    truth: Stamps, found: Stamps, what: str, explained: Collection[int] = ()
) -> tuple[int, ...]:
    """Return the frame of each found message, NO_FRAME where its ground truth is lost; nothing if
    all stamps are equal.

    Messages may be missing, and ground truth too, where the bag that holds them is damaged; those
    of the ``explained`` frames may be missing anyway. Unreadable messages are those of the frames
    between their readable neighbours.
    Raises EvaluationError, which names ``what``, where stamps differ without such a reason.
    """
    if truth.ns == found.ns:
        return ()
    frames, start = [NO_FRAME] * len(found.ns), 0
    unread: list[int] = []  # positions since the last message of a known frame
    for position, stamp in enumerate(found.ns):
        if stamp is None:
            unread.append(position)
        elif (frame := _find(truth.ns, stamp, start)) is not None:
            frames[position] = frame
            _fill(frames, unread, range(start, frame))
            unread, start = [], frame + 1
    _fill(frames, unread, range(start, len(truth.ns)))
    missing = set(range(len(truth.ns))) - set(frames) - set(explained)
    if (NO_FRAME in frames and not truth.losses) or (missing and not found.losses):
        raise EvaluationError(_difference(truth.ns, found.ns, what))
    return tuple(frames)


def _fill(frames: list[int], unread: list[int], between: range) -> None:
    """Number unreadable messages by the frames between their neighbours, as far as there are."""
    for position, frame in zip(unread, between, strict=False):
        frames[position] = frame


def _find(stamps: list[int | None], stamp: int, start: int) -> int | None:
    try:
        return stamps.index(stamp, start)
    except ValueError:
        return None


def _difference(truth: list[int | None], found: list[int | None], what: str) -> str:
    pairs = enumerate(zip(truth, found, strict=False))
    at = next((n for n, (a, b) in pairs if a != b and b is not None), min(len(truth), len(found)))
    return (
        f"{what} and ground truth must have the same stamps; they differ from frame {at} on "
        f"({len(found)} and {len(truth)} messages)"
    )
