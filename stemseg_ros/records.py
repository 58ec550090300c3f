"""The values that travel between the stages, in the order of the data path.

frames -> window -> network -> clustering -> stitching -> masks -> messages. Read this file first:
each stage takes one of these records and returns the next. All are immutable; tensors inside them
are never written in place by a later stage.

Shapes: T frames of a window, C channels, E embedding dimensions, V learned bandwidth dimensions (E
minus the free ones), h x w the stride-4 grid of the padded network input, H x W the source image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from torch import Tensor

GRID_STRIDE = 4
"""Pixels of the padded network input per cell of the grid of maps and labels."""
BACKGROUND = 0
"""Label of cells that belong to no object."""
OUTLIER = -1
"""Label of foreground cells that no cluster claims."""


class Rle(TypedDict):
    """A binary mask in COCO's compressed run-length form, as pycocotools reads and writes it."""

    size: list[int]
    """[height, width] of the source image."""
    counts: bytes
    """Compressed column-major run lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """How a source image lies in the network input: resized, then zero-padded on the right and
    bottom."""

    image_size: tuple[int, int]
    """(H, W) of the source image, pixels."""
    resized_size: tuple[int, int]
    """(H', W') after scaling to the configured shorter side, pixels."""
    padded_size: tuple[int, int]
    """(H'', W'') after padding to multiples of 32; the stride-4 grid is a quarter of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """FPN feature maps of one frame, kept on the device for as long as a window needs them."""

    maps: tuple[Tensor, Tensor, Tensor, Tensor]
    """(1, C, h_s, w_s) at strides s = 4, 8, 16, 32 of the padded input."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """T successive frames that the network sees at once.

    A stream shorter than T is padded at the front with copies of its first frame, so an index may
    repeat; the last occurrence is the real frame.
    """

    indices: tuple[int, ...]
    """Stream index of each of the T slots, ascending."""
    features: tuple[Features, ...]
    """Features of each slot."""
    new: tuple[int, ...]
    """Slots whose frames come out with this window."""


@dataclass(frozen=True, slots=True, eq=False)
class NetworkOutput:
    """What the network says about one window; float32, stride 4 of the padded input."""

    embeddings: Tensor
    """(E, T, h, w), coordinate grid added (mixing function, Sec. 3.2)."""
    bandwidths: Tensor
    """(V, T, h, w), 10 * exp(raw): precisions 1 / sigma^2 of the learned dimensions."""
    heatmap: Tensor
    """(1, T, h, w) in [0, 1], probability of being an instance centre; for saliency, where E and V
    are 0, of being foreground."""
    semantic_logits: Tensor | None = None
    """(C + 1, T, h, w): background, classes, and a separate foreground channel last; or None
    (DAVIS)."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowClusters:
    """The instances of one window, numbered from 1 by order of discovery.

    This is where data leaves the device: everything before is tensors, everything after numpy.
    Labels and the other fields are one small copy each.
    """

    labels: npt.NDArray[np.int16]
    """int16 (T, h, w): > 0 cluster, 0 background, -1 outlier."""
    centers: npt.NDArray[np.float32]
    """(K, E) cluster centres in embedding space."""
    scores: npt.NDArray[np.float32]
    """(K,) in [0, 1], heat of the centre of each cluster."""
    class_logits: npt.NDArray[np.float32] | None = None
    """(K, 1 + C) logits of background and classes averaged over the cluster's pixels (Sec. 3.6);
    None without a semantic head."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One object in one image."""

    track_id: int
    """>= 1, constant over the life of the object, never reused before a reset."""
    class_id: int
    """1-based position in the configured class list."""
    class_name: str
    score: float
    """[0, 1]: heat of the track's cluster centre times the probability of its class against the
    other ones and the background."""
    rle: Rle
    """Mask in the source image."""
    box: tuple[int, int, int, int]
    """Tight box of the mask: x, y, width, height in pixels of the source image."""


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
    """Raised by one whenever tracking starts anew (reset, backward stamp, new image size)."""
    instances: tuple[Instance, ...]
