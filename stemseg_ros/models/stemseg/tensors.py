"""The values that travel between the stages of STEm-Seg, in the order of the data path.

frames -> features -> window -> network output -> clusters. All are immutable; tensors inside them
are never written in place by a later stage.

Shapes: T frames of a window, C channels, E embedding dimensions, V learned bandwidth dimensions (E
minus the free ones), h x w the stride-4 grid of the padded network input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

BACKGROUND = 0
"""Label of cells that belong to no object."""
OUTLIER = -1
"""Label of foreground cells that no cluster claims."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the network keeps of one frame, on the device for as long as a window needs it."""

    maps: tuple[Tensor, ...]
    """(C_s, h_s, w_s) at strides s = 4, 8, 16, 32 of the padded input: maps of the feature
    pyramid, or temporal taps (``taps.py``)."""


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

    def maps(self) -> tuple[Tensor, ...]:
        """Return the maps of all slots, slot by slot. They are not stacked by level, because that
        would copy all of them."""
        return tuple(level for frame in self.features for level in frame.maps)


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
    """(K,) in [0, 1], heat map value of the centre of each cluster."""
    class_logits: npt.NDArray[np.float32] | None = None
    """(K, 1 + C) logits of background and classes averaged over the cluster's pixels (Sec. 3.6);
    None without a semantic head."""
