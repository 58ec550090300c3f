"""The real node around a toy model: the value of a pixel in the blue channel is its track id.

Windows are cut as configured, so that results come late, in groups. TOY_DELAY is the time in
seconds that a frame takes, TOY_LOAD_DELAY that of loading. The checkpoint "broken" cannot be
loaded; an image whose first pixel is POISON makes its stream fail, HANG makes it take for ever.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.models.stemseg.settings import Settings, own_settings
from stemseg_ros.records import Frame, FrameResult, Image, Instance
from stemseg_ros.stream import Model
from stemseg_ros.tracker import Call, Latency, Step

POISON = 99
HANG = 98
LOADING = "the toy loads"
"""What the process prints when a delayed loading of the model begins."""
Tensors = tuple[Tensor, ...]


class ToyModel(Model):
    engine: ToyEngine

    def __init__(self, config: Config, checkpoint: str | None = None, device: str = "cpu") -> None:
        if "TOY_LOAD_DELAY" in os.environ:
            print(LOADING, flush=True)
            time.sleep(float(os.environ["TOY_LOAD_DELAY"]))
        if checkpoint == "broken":
            raise StemsegError("broken: not a checkpoint")
        super().__init__(config, self.make_engine())

    def make_engine(self) -> ToyEngine:
        return ToyEngine()

    def tracker(self, config: Config) -> ToyTracker:
        return ToyTracker(own_settings(config))

    def warm_up(self, size: tuple[int, int], streams: int = 1) -> float:
        seconds = super().warm_up(size, streams)
        self.engine.delay = float(os.environ.get("TOY_DELAY", 0))
        return seconds


class ToyEngine:
    """Gives back the pixels that it gets."""

    device = torch.device("cpu")
    description = "a fake engine"
    precision = "float32"

    def __init__(self) -> None:
        self.delay = 0.0
        """Seconds; none during the warm-up."""

    def run(self, function: str, batch: Sequence[Tensors]) -> list[Tensors]:
        time.sleep(self.delay)
        for (pixels,) in batch:
            self.look(int(pixels[0, 0, 0]))
        return list(batch)

    def look(self, first_pixel: int) -> None:
        if first_pixel == POISON:
            raise RuntimeError("poisoned")
        if first_pixel == HANG:
            time.sleep(3600)


class ToyTracker:
    def __init__(self, config: Settings) -> None:
        self.config = config
        self.index = 0
        self.pending: list[tuple[Image, int]] = []

    @property
    def latency(self) -> Latency:
        return self.config.latency

    def step(self, frame: Frame) -> Step:
        (pixels,) = yield Call("network", (torch.from_numpy(frame.image),))
        self.pending.append((pixels.numpy(), frame.stamp_ns))
        window = self.config.window
        return self.take(window.stride) if len(self.pending) >= window.length else []

    def finish(self) -> Step:
        yield from ()
        return self.take(len(self.pending))

    def update(self, config: Config) -> None:
        self.config = own_settings(config)

    def take(self, number: int) -> list[FrameResult]:
        taken, self.pending = self.pending[:number], self.pending[number:]
        return [self.result(image, stamp_ns) for image, stamp_ns in taken]

    def result(self, image: Image, stamp_ns: int) -> FrameResult:
        blue, self.index = image[..., 0], self.index + 1
        masks = {int(value): blue == value for value in np.unique(blue) if value > 0}
        instances = tuple(
            Instance.from_mask(mask, value, 1, "car", 0.5)
            for value, mask in masks.items()
            if mask.sum() >= self.config.output.min_area
        )
        return FrameResult(self.index - 1, stamp_ns, *blue.shape, 0, instances)


if __name__ == "__main__":
    from stemseg_ros.ros.node import main

    sys.exit(main(model_opener=ToyModel))
