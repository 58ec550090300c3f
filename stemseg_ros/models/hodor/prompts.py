"""Validates prompts; errors name the object and the reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from stemseg_ros.errors import PromptError
from stemseg_ros.masks import decode
from stemseg_ros.records import Prompt

MAX_OBJECTS = 255
"""Most objects of a stream; the cost of the decoder grows with their number."""


def check_prompts(
    prompts: Sequence[Prompt],
    size: tuple[int, int],
    followed: Collection[int],
    used: Collection[int],
    classes: int,
) -> None:
    """Check that all prompts can be followed. Raises PromptError, which names the object and the
    reason.

    size: (H, W) of the image; followed: ids of the objects that are followed now; used: ids that
    are taken in this epoch; classes: number of classes.
    """
    if len(followed) + len(prompts) > MAX_OBJECTS:
        raise PromptError(
            f"{len(prompts)} new objects and {len(followed)} that are already followed exceed "
            f"the limit of {MAX_OBJECTS}; untrack some first"
        )
    taken = np.zeros(size, np.int64)
    ids = set(used)
    for prompt in prompts:
        reason = _refusal(prompt, size, ids, classes) or _claim(prompt, taken)
        if reason:
            raise PromptError(f"object {prompt.track_id}: {reason}")
        ids.add(prompt.track_id)


def _refusal(prompt: Prompt, size: tuple[int, int], ids: set[int], classes: int) -> str:
    height, width = prompt.rle["size"]
    if (height, width) != size:
        return f"its mask is {width}x{height} pixels, the image is {size[1]}x{size[0]}"
    if prompt.track_id < 1:
        return "ids must be at least 1"
    if prompt.track_id in ids:
        return "the id is in use; choose another"
    if not 1 <= prompt.class_id <= classes:
        return f"class {prompt.class_id} does not exist; classes are 1 to {classes}"
    return ""


def _claim(prompt: Prompt, taken: np.ndarray) -> str:
    """Write the id into the pixels of ``taken`` that the mask covers; returns the reason if the
    mask is refused, else an empty string."""
    try:
        mask = decode(prompt.rle)
    except ValueError as error:
        return f"its mask is damaged: {error}"
    if not mask.any():
        return "its mask is empty"
    if taken[mask].any():
        return f"its mask overlaps that of object {int(taken[mask].max())}"
    taken[mask] = prompt.track_id
    return ""
