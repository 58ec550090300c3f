"""The values that go in and come out: frames, prompts, instances.

Read this file first, then ``tracker.py`` and ``stream.py``. Everything here is immutable and needs
numpy alone, so that a subscriber does not have to install PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stemseg_ros.masks import Bools, Rle, encode_box, mask_box

__all__ = ["Frame", "FrameResult", "Image", "Instance", "Prompt", "Rle"]

Image = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), BGR."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """An object to follow: "this object is here, in this frame"."""

    track_id: int
    """>= 1, the id under which its masks are reported."""
    class_id: int
    """1-based position in the configured class list."""
    rle: Rle
    """Mask in the source image."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image of a stream."""

    image: Image
    """uint8 (H, W, 3), BGR."""
    stamp_ns: int
    """Time of the image in ns; 0 if the camera sets none."""
    prompts: tuple[Prompt, ...] = ()
    """Objects to follow from this image on."""
    source: object = None
    """Anything that the caller wants back with the result, such as the header of a message; never
    inspected."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One object in one image."""

    track_id: int
    """>= 1, constant over the life of the object, never reused before a reset. Numbered without
    gaps in the order in which tracks are first reported, unless a prompt chose it."""
    class_id: int
    """1-based position in the configured class list."""
    class_name: str
    score: float
    """[0, 1]; its meaning depends on the model (STEm-Seg: heat map value of the track's cluster
    centre times the probability of its class)."""
    rle: Rle
    """Mask in the source image."""
    box: tuple[int, int, int, int]
    """Tight box of the mask: x, y, width, height in pixels of the source image."""

    @classmethod
    def from_mask(
        cls, mask: Bools, track_id: int, class_id: int, class_name: str, score: float = 1.0
    ) -> Instance:
        """Build the instance of a bool (H, W) mask. Raises ValueError if the mask is empty."""
        box = mask_box(mask)
        if box is None:
            raise ValueError(f"the mask of track {track_id} is empty")
        x, y, width, height = box
        rle = encode_box(mask[y : y + height, x : x + width], y, x, mask.shape)
        return cls(track_id, class_id, class_name, score, rle, box)


@dataclass(frozen=True, slots=True)
class FrameResult:
    """All instances of one frame; their masks do not overlap."""

    index: int
    """Position of the frame in the stream since the last reset."""
    stamp_ns: int
    """Stamp of the frame, unchanged."""
    height: int
    width: int
    epoch: int
    """Raised by one whenever tracking starts anew (reset, jump of the stamps, new image size)."""
    instances: tuple[Instance, ...]
    source: object = field(default=None, compare=False, repr=False)
    """``Frame.source`` of the frame."""
