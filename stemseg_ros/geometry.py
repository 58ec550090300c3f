"""Position of an image in the padded input of a network."""

from __future__ import annotations

from dataclasses import dataclass

PAD_MULTIPLE = 32
"""Sides of a network input are multiples of the stride of the coarsest feature map."""
MIN_PADDED = 96
"""Shortest padded side of STEm-Seg's input: its decoders pool over 3 cells of the coarsest map."""
GRID_STRIDE = 4
"""Pixels of the padded network input per cell of the grid of maps and labels."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """An image resized, then zero-padded on the right and bottom."""

    image_size: tuple[int, int]
    """(H, W) of the source image, pixels."""
    resized_size: tuple[int, int]
    """(H', W') after scaling, pixels."""
    padded_size: tuple[int, int]
    """(H'', W'') after padding to multiples of 32; the stride-4 grid is a quarter of it."""

    @classmethod
    def fit(
        cls, image_size: tuple[int, int], min_dim: int, max_dim: int, min_padded: int = 0
    ) -> Letterbox:
        """Scale an (H, W) image so that its shorter side becomes ``min_dim``, unless the longer
        one would exceed ``max_dim``.

        Sizes are rounded half to even, as the released code does. min_padded: shortest padded
        side, in pixels.
        """
        shorter, longer = min(image_size), max(image_size)
        scale = min_dim / shorter
        if scale * longer > max_dim:
            scale = max_dim / longer
        height, width = (max(1, round(side * scale)) for side in image_size)
        padded = tuple(
            max(-(-side // PAD_MULTIPLE) * PAD_MULTIPLE, min_padded) for side in (height, width)
        )
        return cls(image_size, (height, width), (padded[0], padded[1]))
