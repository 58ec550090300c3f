"""The real node around a toy pipeline: the value of a pixel in the blue channel is its track id.

Windows are cut as configured, so that frames come out late, in groups. TOY_DELAY is the time in
seconds that a frame takes, TOY_LOAD_DELAY that of loading. The checkpoint "broken" cannot be
loaded; an image whose first pixel is POISON makes its window fail, HANG makes it take for ever.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import numpy.typing as npt

from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.masks import encode
from stemseg_ros.records import FrameResult, Instance

POISON = 99
HANG = 98
LOADING = "the toy loads"
"""What the process prints when a delayed loading of the model begins."""


class ToyPipeline:
    def __init__(self, config: Config, checkpoint: str | None = None, device: str = "cpu") -> None:
        if "TOY_LOAD_DELAY" in os.environ:
            print(LOADING, flush=True)
            time.sleep(float(os.environ["TOY_LOAD_DELAY"]))
        if checkpoint == "broken":
            raise StemsegError("broken: not a checkpoint")
        self.config = config
        self.epoch = 0
        self.stage_ms = {"network": 1.0}
        self.pending: list[tuple[npt.NDArray[np.uint8], int]] = []
        self.last: tuple[int, tuple[int, ...]] | None = None

    def push(self, frame: npt.NDArray[np.uint8], stamp_ns: int) -> list[FrameResult]:
        if self.epoch > 0:  # after the warm-up
            time.sleep(float(os.environ.get("TOY_DELAY", 0)))
        if frame[0, 0, 0] == POISON:
            raise RuntimeError("poisoned")
        if frame[0, 0, 0] == HANG:
            time.sleep(3600)
        results = []
        if self.last is not None and (stamp_ns < self.last[0] or frame.shape != self.last[1]):
            results = self.flush()
            self.reset()
        self.last = stamp_ns, frame.shape
        self.pending.append((frame, stamp_ns))
        if len(self.pending) >= self.config.window.length:
            results += self._take(self.config.window.length - self.config.window.overlap)
        return results

    def flush(self) -> list[FrameResult]:
        return self._take(len(self.pending))

    def reset(self) -> None:
        self.pending, self.last, self.epoch = [], None, self.epoch + 1

    def update(self, config: Config) -> None:
        self.config = config

    def sibling(self) -> ToyPipeline:
        return ToyPipeline(self.config)

    def _take(self, number: int) -> list[FrameResult]:
        taken, self.pending = self.pending[:number], self.pending[number:]
        return [self._result(frame, stamp) for frame, stamp in taken]

    def _result(self, frame: npt.NDArray[np.uint8], stamp_ns: int) -> FrameResult:
        masks = {
            int(value): frame[..., 0] == value for value in np.unique(frame[..., 0]) if value > 0
        }
        instances = tuple(
            self._instance(mask, value)
            for value, mask in masks.items()
            if mask.sum() >= self.config.output.min_area
        )
        return FrameResult(0, stamp_ns, frame.shape[0], frame.shape[1], self.epoch, instances)

    @staticmethod
    def _instance(mask: npt.NDArray[np.bool_], track_id: int) -> Instance:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        return Instance(track_id, 1, "car", 0.5, encode(mask), box)


if __name__ == "__main__":
    from stemseg_ros.ros.node import main

    sys.exit(main(make_pipeline=ToyPipeline))
