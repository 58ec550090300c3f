"""Settings of models that follow prompts: whose prompts, and how gaps are bridged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.settings import LIVE, Section


class BridgingConfig(Section):
    """Gaps in the tracks of a detector (``tracking: own_tracks``)."""

    detector: str = "lite"
    """Preset or YAML file of the model that finds and tracks the objects; all its settings,
    thresholds too, are those of that file."""
    checkpoint: str = ""
    """Weights of the detector, as for ``open_model``; empty: those bundled with its preset."""
    max_gap: int = Field(10, ge=1, le=1000, json_schema_extra=LIVE)
    """Frames for which a lost track is bridged at most."""
    min_iou: float = Field(0.3, gt=0, le=1, json_schema_extra=LIVE)
    """A new track of the detector continues a bridged one from this overlap of their masks on."""
    max_growth: float = Field(2.0, gt=0, json_schema_extra=LIVE)
    """A mask of the follower larger than so many times the last one of the track is taken for a
    mistake."""
    min_track_frames: int = Field(3, ge=1, le=100, json_schema_extra=LIVE)
    """A track is bridged only if the detector reported it in so many frames before."""
    max_objects: int = Field(10, ge=1, le=255, json_schema_extra=LIVE)
    """Most tracks that are bridged at a time, those of the highest scores first; bounds the cost
    of a frame."""

    @field_validator("detector")
    @classmethod
    def _finds_objects(cls, name: str) -> str:
        if isinstance(load_config(name), FollowerConfig):
            raise ValueError(
                f"'{name}' finds no objects by itself; name a preset that does, as 'lite'"
            )
        return name


class FollowerConfig(Config):
    """Settings of a model that follows prompts."""

    tracking: Literal["prompts", "own_tracks"] = "prompts"
    """prompts: objects are given from outside. own_tracks: a detector finds and tracks the
    objects, and this model follows them where the detector loses them (``bridging``); scores and
    areas in ``output`` are then those of its masks."""
    bridging: BridgingConfig = BridgingConfig()
    _detector: Config | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _load_detector(self) -> FollowerConfig:
        if self.tracking == "own_tracks":
            self._detector = load_config(self.bridging.detector)
        return self

    @property
    def detector(self) -> Config | None:
        """See ``Config``."""
        return self._detector

    @property
    def detector_checkpoint(self) -> str:
        """See ``Config``."""
        return self.bridging.checkpoint

    @property
    def alone(self) -> Config:
        """See ``Config``."""
        return update_config(self, {"tracking": "prompts"})

    @property
    def mode(self) -> str:
        """See ``Config``."""
        return self._detector.mode if self._detector else super().mode

    @property
    def traits(self) -> dict[str, str]:
        """See ``Config``."""
        own = {"detector": self._detector.name} if self._detector else {}
        return super().traits | own
