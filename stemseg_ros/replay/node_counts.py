"""Frames without a result that are no fault of the node, by the counts of its diagnostics: bad
messages, and stamps that do not follow."""

from __future__ import annotations

from collections.abc import Mapping

UNUSABLE = {
    "frames_refused": "cannot be read",
    "frames_duplicate": "repeat the stamp of the one before",
    "frames_out_of_order": "have a stamp out of order",
    "frames_held": "end the bag with a stamp that does not follow",
}
"""Counts of such frames, and what the frames do."""


def unusable(values: Mapping[str, str]) -> dict[str, int]:
    """Return the counts of UNUSABLE that are not 0. values: a status of the node."""
    counts = {key: int(values.get(key, 0)) for key in UNUSABLE}
    return {key: number for key, number in counts.items() if number}
