"""Common parts of all settings, and the sections that every model shares.

Each part keeps its own sections beside its code (``models/stemseg/settings.py``,
``execution/settings.py``, ``ros/settings.py``, ``training/settings.py``); ``config.py`` composes
them to one tree.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

Variant = Literal["reference", "corrected"]
"""``reference`` follows the authors' released code, ``corrected`` the paper
(``docs/parity.md``)."""
Switch = Literal["variant", "reference", "corrected"]
"""One deviation of the released code; ``variant`` follows the section's ``variant``."""
Positive = Annotated[float, Field(gt=0)]
LIVE: JsonDict = {"live": True}
"""Marks a setting that a running node accepts; all others need a restart."""


class Section(BaseModel):
    """Base of every node of the tree: immutable, and no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ClipShape(NamedTuple):
    """Frames of a training clip."""

    length: int
    max_stride: int
    """Successive frames of a video clip are up to this number of source frames apart."""


class Switches(Section):
    """A section with named deviations of the released code."""

    variant: Variant = "corrected"
    """Sets the switches below that say "variant"."""

    def corrected(self, switch: str) -> bool:
        """Whether the named switch, after ``variant`` is filled in, says "corrected"."""
        value: str = getattr(self, switch)
        return (self.variant if value == "variant" else value) == "corrected"


class InputConfig(Section):
    """How an image becomes the network's input."""

    min_dim: int = Field(736, ge=32, le=4096)
    """Length in pixels to which the shorter side is scaled."""
    max_dim: int = Field(1948, ge=32, le=8192)
    """Upper bound in pixels of the longer side; lowers the scale where it would be passed."""
    mean_bgr: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    """Subtracted from the channels, range 0..255."""
    std_bgr: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """Divides the channels after the mean is subtracted."""


class OutputConfig(Section):
    """Which instances are reported."""

    min_score: float = Field(0.0, ge=0, le=1, json_schema_extra=LIVE)
    """Instances with a lower score are left out."""
    keep_score: float = Field(1.0, ge=0, le=1, json_schema_extra=LIVE)
    """A track that came out before is left out only below this score, too, so that scores that
    vary around min_score do not interrupt it; from min_score on without effect."""
    class_factors: dict[str, Annotated[float, Field(ge=0, le=10)]] = Field(default_factory=dict)
    """Factors on min_score and keep_score for instances of single classes, by name: {pedestrian:
    0.8}."""
    min_area: int = Field(0, ge=0, json_schema_extra=LIVE)
    """Masks of fewer pixels of the source image are left out."""
    min_track_frames: int = Field(1, ge=1, le=100, json_schema_extra=LIVE)
    """A track is reported from its n-th frame on (causal: earlier frames are not revised)."""

    def min_score_of(self, class_name: str) -> float:
        """Return the minimum score of reported instances of a class."""
        return self.min_score * self.class_factors.get(class_name, 1.0)

    def keep_score_of(self, class_name: str) -> float:
        """Return the same for tracks that came out before."""
        return min(self.keep_score, self.min_score) * self.class_factors.get(class_name, 1.0)


class StreamConfig(Section):
    """The stream of frames, whatever the model."""

    max_gap: float = Field(10.0, ge=0, le=86_400, json_schema_extra=LIVE)
    """A step of the stamps by more seconds is a jump of time, after which tracking starts anew; 0:
    never."""
    flush_after: float = Field(1.0, ge=0, le=3600)
    """Seconds without frames after which pending frames are finished; 0: never."""
