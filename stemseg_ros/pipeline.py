"""The whole way of a frame, one call per stage (Sec. 3.3): window, network, clustering, stitching,
masks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stemseg_ros.averaging import EvidenceAverage
from stemseg_ros.clustering import cluster_window, foreground_mask
from stemseg_ros.config import Config
from stemseg_ros.masks import FullMask, full_size_masks
from stemseg_ros.network import StemSeg, load_network
from stemseg_ros.network.preprocess import geometry
from stemseg_ros.records import Features, FrameResult, Geometry, Instance, NetworkOutput, Window
from stemseg_ros.stitching import Stitcher
from stemseg_ros.window import WindowBuffer

NOWHERE = Geometry((0, 0), (0, 0), (0, 0))
STAGES = ("backbone", "heads", "cluster", "link", "encode")


@dataclass(slots=True)
class _Stream:
    """Everything that belongs to one epoch of one stream."""

    windows: WindowBuffer
    evidence: EvidenceAverage
    stitcher: Stitcher
    waiting: deque[tuple[Window, NetworkOutput]] = field(default_factory=deque)
    """Windows that are not clustered yet."""
    pending: deque[tuple[int, int]] = field(default_factory=deque)
    """(index, stamp in ns) of the frames that have not come out yet."""
    newest: int = -1
    """Index of the last frame that came in."""
    stamp_ns: int = 0
    """Its stamp."""
    final: int = -1
    """Index of the last frame whose labels no later window changes."""
    place: Geometry = NOWHERE
    """How the images lie in the network input, from the first one on."""

    @classmethod
    def start(cls, config: Config) -> _Stream:
        network = config.network
        stitcher = Stitcher(config.stitching, network.mixing, single=network.task == "saliency")
        return cls(WindowBuffer(config.window), EvidenceAverage(), stitcher)

    def ends_before(self, stamp_ns: int, size: tuple[int, int]) -> bool:
        """Whether a frame of this stamp and image size cannot belong to the stream."""
        return self.newest >= 0 and (stamp_ns < self.stamp_ns or size != self.place.image_size)


class Pipeline:
    """Frames in, tracked instances out.

    Every frame that goes in comes out exactly once and in order, with a delay that the window mode
    sets. Not thread-safe: one thread owns a pipeline.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: str | Path | None = None,
        device: str | torch.device = "cpu",
        *,
        network: StemSeg | None = None,
        synchronise: bool = False,
    ) -> None:
        """Load the network (see load_network), or share one that is loaded already.

        synchronise: wait for the GPU after each stage, so that stage_ms is exact (benchmarks
        only).
        """
        self.config = config
        self.network = network or load_network(config, checkpoint, device)
        self.stage_ms: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        """Milliseconds by stage for the last window, with all frames that were encoded for it."""
        self.synchronise = synchronise
        self.epoch = 0
        """Raised by one whenever tracking starts anew."""
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._stream = _Stream.start(self.config)

    def push(self, frame_bgr: npt.NDArray[np.uint8], stamp_ns: int) -> list[FrameResult]:
        """Add an image, uint8 (H, W, 3) BGR, and its time in ns; the frames that are ready now.

        A stamp before the last one, or another image size, finishes what is pending and starts a
        new epoch.
        """
        results = self.begin(frame_bgr, stamp_ns)
        with self.timed("backbone"):
            features = self.network.frame_features(frame_bgr)
        window = self.add(features, stamp_ns)
        return results + (self._process(window) if window else [])

    def begin(self, frame_bgr: npt.NDArray[np.uint8], stamp_ns: int) -> list[FrameResult]:
        """First part of push, before the backbone: check the image, and start a new epoch where
        it needs one."""
        _check_image(frame_bgr)
        results: list[FrameResult] = []
        size = (frame_bgr.shape[0], frame_bgr.shape[1])
        if self._stream.ends_before(stamp_ns, size):
            results = self.flush()
            self.reset()
        if self._stream.newest < 0:
            place = geometry(size, self.config.input.min_dim, self.config.input.max_dim)
            self._stream.place = place
        return results

    def add(self, features: Features, stamp_ns: int) -> Window | None:
        """Second part, after the backbone: the window that the frame completes, if any."""
        stream = self._stream
        stream.newest, stream.stamp_ns = stream.newest + 1, stamp_ns
        stream.pending.append((stream.newest, stamp_ns))
        return stream.windows.push(stream.newest, features)

    def finish(self, window: Window, output: NetworkOutput) -> list[FrameResult]:
        """Last part, after the heads: the frames that are ready now."""
        self._stream.evidence.add(window.indices, output)
        self._stream.waiting.append((window, output))
        results = self._advance(finish=self.config.window.mode != "offline")
        self.stage_ms, self._spent = self._spent, dict.fromkeys(STAGES, 0.0)
        return results

    @property
    def padded_size(self) -> tuple[int, int]:
        """(H, W) of the network input, from the first frame of an epoch on."""
        return self._stream.place.padded_size

    def sibling(self) -> Pipeline:
        """A pipeline for another stream, through the same network; see push_together."""
        return Pipeline(self.config, network=self.network, synchronise=self.synchronise)

    def flush(self) -> list[FrameResult]:
        """Finish all pending frames, with a window aligned to the newest; the stream may go on
        afterwards."""
        window = self._stream.windows.flush()
        results = self._process(window) if window else []
        return results + self._advance(finish=True)

    def reset(self) -> None:
        """Forget everything, pending frames included, and start a new epoch."""
        self.epoch += 1
        self._stream = _Stream.start(self.config)

    def update(self, config: Config) -> None:
        """Take over changed thresholds; settings of network, input and window need a new
        pipeline."""
        for section in ("input", "network", "window", "runtime"):
            if getattr(config, section) != getattr(self.config, section):
                raise ValueError(f"'{section}' settings cannot change in a running pipeline")
        self.config = config
        self._stream.stitcher.update(config.stitching)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a stage's time. A GPU works off a queue: without ``synchronise`` the wait shows in
        "cluster"."""
        begin = time.perf_counter()
        yield
        if self.synchronise and self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)
        self._spent[stage] += 1e3 * (time.perf_counter() - begin)

    def _process(self, window: Window) -> list[FrameResult]:
        with self.timed("heads"):
            output = self.network.window_output(window.features)
        return self.finish(window, output)

    def _advance(self, finish: bool) -> list[FrameResult]:
        """Cluster and link the windows whose evidence is complete; return the frames that are
        final.

        The next window starts after the newest one, so offline the frames up to that start are
        complete: windows before it can be clustered, and no later window fills holes of frames
        before the last linked one. ``finish`` takes everything as complete.
        """
        stream = self._stream
        complete = stream.waiting[-1][0].indices[0] if stream.waiting else -1
        while stream.waiting and (finish or stream.waiting[0][0].indices[-1] <= complete):
            window, output = stream.waiting.popleft()
            self._link(window, output)
            stream.final = window.indices[-1] if finish else window.indices[0]
        if finish:
            stream.final = stream.newest
        results = []
        while stream.pending and stream.pending[0][0] <= stream.final:
            results.append(self._result(*stream.pending.popleft()))
        self._forget()
        return results

    def _link(self, window: Window, output: NetworkOutput) -> None:
        with self.timed("cluster"):
            averaged, evidence = self._stream.evidence.apply(window.indices, output)
            clusters = cluster_window(
                averaged, foreground_mask(evidence, self.config), self.config
            )
        with self.timed("link"):
            self._stream.stitcher.link(window.indices, clusters)

    def _forget(self) -> None:
        """Keep only frames that a window may still contain or that have not come out."""
        oldest = self._stream.newest - self.config.window.length + 1
        oldest = min(
            [oldest]
            + [window.indices[0] for window, _ in self._stream.waiting]
            + [index for index, _ in self._stream.pending]
        )
        self._stream.evidence.forget(oldest)
        self._stream.stitcher.forget(oldest)

    def _result(self, index: int, stamp_ns: int) -> FrameResult:
        with self.timed("encode"):
            masks = full_size_masks(self._stream.stitcher.grid(index), self._stream.place)
            instances = [self._instance(mask) for mask in masks if self._report(mask)]
        height, width = self._stream.place.image_size
        certain = tuple(i for i in instances if self._certain(i))
        return FrameResult(index, stamp_ns, height, width, self.epoch, certain)

    def _report(self, mask: FullMask) -> bool:
        """Count a track's frame; whether track and mask are old and large enough to come out."""
        track = self._stream.stitcher.tracks[mask.label]
        track.age += 1
        return (
            track.age >= self.config.output.min_track_frames
            and mask.area >= self.config.output.min_area
        )

    def _certain(self, instance: Instance) -> bool:
        """Whether the score is high enough, for a track that came out before or for a new one."""
        track, output = self._stream.stitcher.tracks[instance.track_id], self.config.output
        track.reported |= instance.score >= output.min_score
        return track.reported and instance.score >= min(output.keep_score, output.min_score)

    def _instance(self, mask: FullMask) -> Instance:
        track = self._stream.stitcher.tracks[mask.label]
        index = track.class_index or 0
        return Instance(
            track_id=mask.label,
            class_id=index + 1,
            class_name=self.config.network.classes[index],
            score=track.heat * track.class_probability,
            rle=mask.rle,
            box=mask.box,
        )


def _check_image(image: npt.NDArray[np.uint8]) -> None:
    shape = getattr(image, "shape", None)
    if shape is None or image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        found = type(image).__name__ if shape is None else f"{image.dtype} {shape}"
        raise ValueError(f"expected a uint8 image (H, W, 3), BGR, got {found}")
