"""Settings of models that follow prompts: source of the prompts, bridging of gaps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.settings import LIVE, Section


class BridgingConfig(Section):
    """Bridging of gaps in the tracks of a detector (``tracking: own_tracks``)."""

    detector: str = "lite"
    """Preset or YAML file of the model that detects and tracks the objects; it defines all
    settings of the detector, including thresholds."""
    checkpoint: str = ""
    """Weights of the detector, as for ``open_model``; empty: those bundled with its preset."""
    mode: Literal["preset", "offline", "near_online", "online"] = "preset"
    """Window mode of the detector; preset: that of its own settings."""
    max_gap: int = Field(10, ge=1, le=1000, json_schema_extra=LIVE)
    """Longest gap that is bridged, in frames."""
    min_iou: float = Field(0.3, gt=0, le=1, json_schema_extra=LIVE)
    """IoU of masks from which a new track of the detector continues a bridged one."""
    max_growth: float = Field(2.0, gt=0, json_schema_extra=LIVE)
    """A mask of the follower that is larger than this multiple of the track's last mask is
    rejected."""
    min_track_frames: int = Field(3, ge=1, le=100, json_schema_extra=LIVE)
    """Number of frames in which the detector must have reported a track for it to be bridged."""
    min_score: float = Field(0.5, ge=0, le=1, json_schema_extra=LIVE)
    """Least score of a track, in the last frame in which the detector reported it, for it to be
    bridged: a detector also stops reporting what was no object."""
    max_objects: int = Field(10, ge=1, le=255, json_schema_extra=LIVE)
    """Most tracks that are bridged at a time, by descending score; bounds the cost of a frame."""

    @field_validator("detector")
    @classmethod
    def _finds_objects(cls, name: str) -> str:
        if isinstance(load_config(name), FollowerConfig):
            raise ValueError(
                f"'{name}' does not detect objects; choose a preset that does, such as 'lite'"
            )
        return name


class FollowerConfig(Config):
    """Settings of a model that follows prompts."""

    tracking: Literal["prompts", "own_tracks"] = "prompts"
    """prompts: objects are given by the user. own_tracks: a detector finds and tracks the objects,
    and this model follows those that the detector loses (``bridging``); ``output`` then applies to
    the masks of this model."""
    bridging: BridgingConfig = BridgingConfig()
    _detector: Config | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _load_detector(self) -> FollowerConfig:
        if self.tracking == "own_tracks":
            detector, mode = load_config(self.bridging.detector), self.bridging.mode
            self._detector = detector if mode == "preset" else detector.in_mode(mode)
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

    def in_mode(self, mode: str) -> Config:
        """See ``Config``; the mode is the detector's."""
        if self._detector is None:
            return super().in_mode(mode)
        return update_config(self, {"bridging.mode": mode})

    @property
    def traits(self) -> dict[str, str]:
        """See ``Config``."""
        detector = {"detector": self._detector.name} if self._detector else {}
        return super().traits | detector
