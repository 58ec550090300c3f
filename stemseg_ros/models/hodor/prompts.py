"""Which prompts can be followed, and why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from stemseg_ros.errors import PromptError
from stemseg_ros.masks import decode
from stemseg_ros.records import Prompt

MAX_OBJECTS = 255
"""Objects of a stream; the decoder's work grows with their number."""


def check_prompts(
    prompts: Sequence[Prompt],
    size: tuple[int, int],
    followed: Collection[int],
    used: Collection[int],
    classes: int,
) -> None:
    """Raises PromptError, which names the object and the reason, unless all can be followed.

    size: (H, W) of the image; followed: ids of objects that are; used: ids that were given out in
    this epoch; classes: number of classes.
    """
    if len(followed) + len(prompts) > MAX_OBJECTS:
        raise PromptError(
            f"{len(prompts)} objects beside {len(followed)} that are followed: more than "
            f"{MAX_OBJECTS}"
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
        return f"its mask is {width}x{height} pixels, the image {size[1]}x{size[0]}"
    if prompt.track_id < 1:
        return "ids count from 1"
    if prompt.track_id in ids:
        return "the id is in use; choose another"
    if not 1 <= prompt.class_id <= classes:
        return f"class {prompt.class_id} does not exist; classes are 1 to {classes}"
    return ""


def _claim(prompt: Prompt, taken: np.ndarray) -> str:
    """Write the mask into ``taken``, the ids by pixel; why not, if that cannot be."""
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
