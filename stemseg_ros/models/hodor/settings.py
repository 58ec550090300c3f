"""Settings of HODOR: architecture, propagation, training samples (docs/models.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stemseg_ros.bridging.settings import FollowerConfig
from stemseg_ros.datasets.settings import Scale
from stemseg_ros.settings import (
    LIVE,
    ClipShape,
    InputConfig,
    Section,
    Switch,
    Switches,
    Variant,
)
from stemseg_ros.tracker import Latency

BACKGROUND_GRID = 3
"""Rows and columns of the grid whose cells describe the background."""
BACKGROUNDS = BACKGROUND_GRID**2
"""Background descriptors of a frame."""


class HodorNetworkConfig(Section):
    """Architecture (Sec. 3). A checkpoint fits exactly one; defaults: the released checkpoint."""

    backbone: Literal["swin_t", "mobilenet_v2"] = "swin_t"
    """Backbone; swin_t in the layout of the Swin authors' detectors."""
    width: int = Field(256, ge=32, le=1024, multiple_of=16)
    """Channels of feature maps and descriptors."""
    heads: int = Field(8, ge=1, le=32)
    """Attention heads; ``width`` must be a multiple."""
    encoder_layers: int = Field(5, ge=1, le=12)
    """Layers that refine the descriptors of a frame."""
    decoder_layers: int = Field(5, ge=1, le=12)
    """Layers that condition a frame's features on the descriptors of its history."""
    encoder_hidden: int = Field(1024, ge=16, le=8192)
    """Hidden channels of the encoder's feed-forward network."""
    decoder_hidden: int = Field(256, ge=16, le=8192)
    """Hidden channels of the decoder's feed-forward network."""
    mixer: Literal["deformable", "convolution"] = "deformable"
    """Kind of the 3x3 convolution in each decoder layer; a plain one is faster on a CPU."""
    reduced_width: int = Field(64, ge=8, le=1024, multiple_of=8)
    """Channels of the stride-4 map that are added to the decoder's output."""
    catch_all_width: int = Field(128, ge=8, le=1024, multiple_of=8)
    """Hidden channels of the catch-all output, for pixels that match no descriptor."""
    previous_masks: bool = False
    """Beyond the paper: in the decoder, each pixel prefers descriptors of the regions that covered
    it in the previous frame, by soft-masked attention as in the encoder."""
    refinement: bool = False
    """Beyond the paper: each object's logits are corrected by its mask in the previous frame,
    moved along with the pixels (``refiner.py``); needs ``previous_masks``."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the activations dropped in training."""
    classes: tuple[str, ...] = Field(("object",), min_length=1)
    """Class names of prompts; class ids count from 1. The weights do not depend on them."""

    @model_validator(mode="after")
    def _parts_fit(self) -> HodorNetworkConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.refinement and not self.previous_masks:
            raise ValueError("refinement needs previous_masks: true")
        return self


class PropagationConfig(Switches):
    """Propagation from frame to frame. Each switch is an unexpected behaviour of the released code
    (``docs/parity.md``)."""

    variant: Variant = "reference"
    """Sets the switches below that say "variant"."""
    window: int = Field(7, ge=1, le=1000, json_schema_extra=LIVE)
    """Number of earlier frames whose descriptors a frame is decoded from."""
    kept_frames: int = Field(7, ge=1, le=100, json_schema_extra=LIVE)
    """Number of latest frames that accept prompts afterwards; they are kept with their images, and
    a prompt repeats the computation of all frames since."""
    reach: float = Field(0.0, ge=0, le=100, json_schema_extra=LIVE)
    """Beyond the paper: how far objects can move between two frames, relative to their size (root
    of the area); objects do not compete for pixels out of their reach. 0: no limit."""
    motion: bool = Field(False, json_schema_extra=LIVE)
    """Beyond the paper: masks and features of the previous frame are moved along optical flow to
    where they are in this one (``motion.py``)."""
    presence: float = Field(0.0, ge=0, lt=1, json_schema_extra=LIVE)
    """Beyond the paper: least likeness of an object to its given mask (cosine of the descriptors);
    an object below it is absent: not remembered, not reported from the second such frame on, and
    found again by its given mask (``presence.py``). Needs ``anchor: corrected``. 0: objects are
    always present."""
    first_frame: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: masks of the first frame with prompts are returned dilated by interpolation.
    corrected: as they were given."""
    tiny_reference: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: objects too small for any stride-8 value above 0.5 are dropped for good.
    corrected: described by their maximum."""
    empty_frames: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: label images before the first object have the size of the padded input.
    corrected: the size of the image. Results of a stream always have the latter."""
    background_choice: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: each of the 10 background channels competes on its own. corrected: their sum
    does."""
    new_object_context: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: for an object given later everything else is background, known objects too.
    corrected: known objects are described beside it, by their predicted masks."""
    padding: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: padded pixels are attended to and described. corrected: they are masked."""
    anchor: Switch = Field("variant", json_schema_extra=LIVE)
    """reference: descriptors of given masks leave the history with their frame. corrected: they
    never expire."""

    @model_validator(mode="after")
    def _presence_is_measured(self) -> PropagationConfig:
        if self.presence and not self.corrected("anchor"):
            raise ValueError("presence needs anchor: corrected")
        return self


class StillsConfig(Section):
    """Training samples of a few frames, made from still images (Sec. 3.4); of samples from videos
    ``frames``, ``patterns``, ``objects``, ``zoom``, ``dice`` and ``hint_dropout`` apply."""

    frames: int = Field(3, ge=2, le=8)
    """Frames of a sample; the patterns of the paper need 3."""
    patterns: Literal["cyclic", "forward"] = "cyclic"
    """cyclic: masks are propagated forth and back, as in the paper. forward: each frame is
    predicted once, from all earlier ones."""
    objects: int = Field(4, ge=1, le=20)
    """Most objects of a sample."""
    paste: float = Field(0.0, ge=0, le=1)
    """Share of the samples whose objects move over another still."""
    occlude: float = Field(0.0, ge=0, le=1)
    """Share of the samples in which an object of another still passes in front."""
    merge: float = Field(0.0, ge=0, le=1)
    """Share of the samples whose first object is merged with those that touch it, such as a rider
    with a horse."""
    motion: Scale = (0.01, 0.12)
    """Range of the standard deviation of the motion between frames, relative to the frame's
    side."""
    zoom: Scale = (0.15, 0.75)
    """Range of the size of the first object (root of its area), relative to the frame's side."""
    dice: Literal["joint", "by_object"] = "joint"
    """joint: one Dice loss over all objects of a sample, as in the released code, in which large
    objects decide. by_object: the mean over its objects."""
    hint_dropout: float = Field(0.0, ge=0, le=1)
    """Share of the predictions for which ``network.previous_masks`` is withheld."""

    @model_validator(mode="after")
    def _patterns_fit(self) -> StillsConfig:
        if self.patterns == "cyclic" and self.frames != 3:
            raise ValueError(f"patterns: cyclic needs frames: 3, not {self.frames}")
        return self


class Settings(FollowerConfig):
    """Settings of a HODOR model."""

    model: Literal["hodor"] = "hodor"
    input: InputConfig = InputConfig(
        min_dim=512,
        max_dim=987,
        mean_bgr=(103.53, 116.28, 123.675),
        std_bgr=(57.375, 57.12, 58.395),
    )
    network: HodorNetworkConfig = HodorNetworkConfig()
    propagation: PropagationConfig = PropagationConfig()
    stills: StillsConfig = StillsConfig()

    @model_validator(mode="after")
    def _entries_of_the_mix_fit(self) -> Settings:
        for name, entry in self.training.mix.items():
            for setting in ("crop", "scale", "focus"):
                if getattr(entry, setting) is not None:
                    raise ValueError(
                        f"training.mix.{name}.{setting}: has no effect on samples of HODOR, which "
                        "training.crop and the section stills describe; remove it"
                    )
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class ids count from 1."""
        return self.detector.classes if self.detector else self.network.classes

    @property
    def latency(self) -> Latency:
        """Every frame has its result at once; with a detector, when the detector returns it."""
        if self.detector:
            return self.detector.latency
        return Latency(look_ahead=0, burst=1, in_flight=1, frames_per_pass=1)

    @property
    def clip(self) -> ClipShape:
        """Frames of a sample, in videos 1 to 3 source frames apart."""
        return ClipShape(self.stills.frames, max_stride=3)

    @property
    def traits(self) -> dict[str, str]:
        """See ``Config``."""
        return super().traits | {"backbone": self.network.backbone}
