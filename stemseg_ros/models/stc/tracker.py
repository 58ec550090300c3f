"""The path of a frame through STC: detect, associate, report; no look-ahead."""

from __future__ import annotations

from itertools import count

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemseg_ros.config import Config
from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.stc.association import Associator, Observations
from stemseg_ros.models.stc.condinst import ImageOutput
from stemseg_ros.models.stc.heads import Grid, location_grid
from stemseg_ros.models.stc.history import TrackHistory
from stemseg_ros.models.stc.input_format import letterbox, network_input
from stemseg_ros.models.stc.postprocess import (
    Detections,
    detect,
    predict_detection_masks,
    resize_mask,
    scale_boxes,
)
from stemseg_ros.models.stc.settings import Settings
from stemseg_ros.records import Frame, FrameResult, Instance
from stemseg_ros.tracker import Call, Latency, Step

FIXED = ("network", "tracking")
"""Sections that cannot change while a tracker lives."""


class StcTracker:
    """Tracker that detects the objects of every frame and associates them by appearance and box.

    Masks of one frame are disjoint: an overlap goes to the mask with the higher score.
    """

    def __init__(self, config: Settings, device: torch.device) -> None:
        self.config = config
        self._device = device
        self._associator = Associator(config.association)
        self._history: dict[int, TrackHistory] = {}
        self._numbers = count(1)
        self._indices = count()
        self._grid: Grid | None = None

    @property
    def latency(self) -> Latency:
        """See ``Tracker``."""
        return self.config.latency

    def step(self, frame: Frame) -> Step:
        """See ``Tracker``."""
        index = next(self._indices)
        geometry = letterbox((frame.image.shape[0], frame.image.shape[1]), self.config.input)
        pixels = network_input(frame.image, geometry, self.config.condinst.variant)
        output = ImageOutput.of((yield Call("detect", (pixels[0].to(self._device),))))
        grid = self._locations(geometry)
        found = detect(output.head, grid, geometry, self.config.condinst)
        ids = self._associate(found, output, geometry)
        tracked = torch.from_numpy(np.flatnonzero(ids > 0)).to(self._device)
        logits = predict_detection_masks(
            found.take(tracked), output.head, output.mask_features, grid
        )
        instances = self._report(ids[ids > 0], found.scores[tracked], logits, geometry)
        height, width = geometry.image_size
        return [FrameResult(index, frame.stamp_ns, height, width, 0, instances)]

    def finish(self) -> Step:
        """See ``Tracker``: no frame is ever pending."""
        yield from ()
        return []

    def update(self, config: Config) -> None:
        """See ``Tracker``."""
        assert isinstance(config, Settings)
        for section in FIXED:
            if getattr(config, section) != getattr(self.config, section):
                raise ValueError(f"'{section}' settings cannot change in a running stream")
        if config.condinst.variant != self.config.condinst.variant:
            raise ValueError("'condinst.variant' cannot change in a running stream")
        self.config = config
        self._associator.config = config.association

    def _locations(self, geometry: Letterbox) -> Grid:
        """Return the grid of locations, built once: images of a stream have one size."""
        if self._grid is None:
            self._grid = location_grid(geometry.padded_size, self._device)
        return self._grid

    def _associate(
        self, found: Detections, output: ImageOutput, geometry: Letterbox
    ) -> npt.NDArray[np.int64]:
        """Associate detections and update the histories of their tracks; returns the track id of
        each detection, <= 0 without one."""
        scaled = scale_boxes(found, geometry, self.config.condinst)
        embeddings = output.head.embeddings[0, found.locations]
        labels = found.labels.cpu().numpy()
        seen = Observations(
            _float64(scaled.boxes), _float64(found.scores), labels, _float64(embeddings)
        )
        ids = self._associator.update(seen).ids
        for track, label, score in zip(ids.tolist(), labels.tolist(), seen.scores, strict=True):
            if track > 0:
                self._history.setdefault(track, TrackHistory()).add(label, float(score))
        alive = {track.id for track in self._associator.tracks}
        self._history = {i: h for i, h in self._history.items() if i in alive or i in ids}
        return ids

    def _report(
        self, ids: npt.NDArray[np.int64], scores: Tensor, logits: Tensor, geometry: Letterbox
    ) -> tuple[Instance, ...]:
        """Build the instances of a frame, by track id; pixels go to the best score."""
        probabilities = logits.sigmoid().cpu().numpy()
        taken = np.zeros(geometry.image_size, np.bool_)
        instances = []
        for number in scores.argsort(descending=True, stable=True).tolist():
            history = self._history[int(ids[number])]
            if not self._is_reported(history):
                continue
            mask = self._free_mask(probabilities[number], geometry, taken)
            if mask.any() and mask.sum() >= self.config.output.min_area:
                taken |= mask
                instances.append(self._instance(mask, history))
        return tuple(sorted(instances, key=lambda instance: instance.track_id))

    def _is_reported(self, history: TrackHistory) -> bool:
        output = self.config.output
        min_score = output.min_score_of(self.config.classes[history.label])
        return history.frames >= output.min_track_frames and history.score >= min_score

    def _free_mask(
        self,
        probabilities: npt.NDArray[np.float32],
        geometry: Letterbox,
        taken: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        crop, top, left = resize_mask(
            probabilities, geometry, self.config.condinst.mask_probability
        )
        mask = np.zeros_like(taken)
        mask[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return mask & ~taken

    def _instance(self, mask: npt.NDArray[np.bool_], history: TrackHistory) -> Instance:
        if history.number is None:
            history.number = next(self._numbers)
        label = history.label
        name = self.config.classes[label]
        return Instance.from_mask(mask, history.number, label + 1, name, history.score)


def _float64(values: Tensor) -> npt.NDArray[np.float64]:
    return values.double().cpu().numpy()
