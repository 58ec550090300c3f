"""The path of a frame through STEm-Seg (Sec. 3.3)."""

from __future__ import annotations

import torch

from stemseg_ros.config import Config
from stemseg_ros.geometry import Letterbox
from stemseg_ros.models.layers.preprocess import image_tensor, letterbox
from stemseg_ros.models.stemseg.clustering import cluster_window, foreground_mask
from stemseg_ros.models.stemseg.evidence import EvidenceAverage
from stemseg_ros.models.stemseg.reporting import Reporter
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.stitching import Stitcher
from stemseg_ros.models.stemseg.tensors import Features, NetworkOutput, Window
from stemseg_ros.models.stemseg.window import WindowBuffer
from stemseg_ros.records import Frame, FrameResult
from stemseg_ros.tracker import Call, Latency, Step

FIXED = ("network", "window")
"""Sections that cannot change while a tracker lives."""


class StemSegTracker:
    """Encodes every frame once, decodes windows of T frames, clusters each and links its clusters
    to tracks."""

    def __init__(self, config: Settings, device: torch.device) -> None:
        self.config = config
        self._device = device
        self._windows = WindowBuffer(config.window)
        self._evidence = EvidenceAverage()
        self._stitcher = Stitcher.of(config)
        self._reporter = Reporter(config)
        self._newest = -1
        self._letterbox: Letterbox | None = None

    @property
    def latency(self) -> Latency:
        """See ``Tracker``."""
        return self.config.latency

    def step(self, frame: Frame) -> Step:
        """See ``Tracker``."""
        self._newest += 1
        self._reporter.expect(self._newest, frame.stamp_ns)
        self._letterbox = letterbox(frame.image.shape[:2], self.config.input)
        pixels = image_tensor(frame.image, self.config.input, self._device)
        features = Features((yield Call("encode", (pixels,))))
        window = self._windows.push(self._newest, features)
        return (yield from self._track(window)) if window else []

    def finish(self) -> Step:
        """See ``Tracker``: a last window is aligned with the newest frame."""
        window = self._windows.flush()
        results = (yield from self._track(window)) if window else []
        return results + self._link(everything=True)

    def update(self, config: Config) -> None:
        """See ``Tracker``."""
        assert isinstance(config, Settings)
        for section in FIXED:
            if getattr(config, section) != getattr(self.config, section):
                raise ValueError(f"'{section}' settings cannot change in a running stream")
        self.config = self._reporter.config = config
        self._stitcher.update(config.stitching)

    def _track(self, window: Window) -> Step:
        output = NetworkOutput(*(yield Call("decode", window.maps())))
        copies = not self.config.clustering.corrected("padding")
        self._evidence.add(window, output, copies=copies)
        return self._link(everything=self.config.window.mode != "offline")

    def _link(self, everything: bool) -> list[FrameResult]:
        """Cluster and link the windows whose evidence is complete; the frames that are final then.

        everything: no window is waited for; else frames count as final up to the start of the last
        linked window, behind which no later window fills holes.
        """
        final = -1
        for window, output, evidence in self._evidence.ready(everything):
            foreground = foreground_mask(evidence, self.config)
            clusters = cluster_window(output, foreground, self.config)
            self._stitcher.link(window.indices, clusters)
            final = window.indices[0]
        if self._letterbox is None:
            return []
        if everything:
            final = self._newest
        results = self._reporter.report(final, self._stitcher, self._letterbox)
        self._forget()
        return results

    def _forget(self) -> None:
        """Keep only frames that a window may still contain or that have no result yet."""
        in_window = self._newest - self.config.window.length + 1
        needed = (in_window, self._evidence.oldest, self._reporter.oldest)
        oldest = min(index for index in needed if index is not None)
        self._evidence.forget(oldest)
        self._stitcher.forget(oldest)
