"""Streams of frames through a model: what the node, commands, evaluation and labelling use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from stemseg_ros.bridging.settings import FollowerConfig
from stemseg_ros.bridging.tracker import DETECTOR, BridgedTracker
from stemseg_ros.config import Config, load_config
from stemseg_ros.errors import PromptError
from stemseg_ros.execution.device import resolve_device
from stemseg_ros.execution.engine import Engine, open_engine, open_exported
from stemseg_ros.execution.engine_pair import EnginePair
from stemseg_ros.execution.function_files import ExportedFolder
from stemseg_ros.execution.lockstep import Outcome, run_steps
from stemseg_ros.execution.onnx_export import ExportError
from stemseg_ros.masks import encode
from stemseg_ros.models.registry import model_package
from stemseg_ros.records import Frame, FrameResult, Image, Prompt
from stemseg_ros.stamps import Event, StampOrder
from stemseg_ros.tracker import Latency, PromptTracker, Step, Tracker

__all__ = ["Event", "Model", "Outcome", "Stream", "open_model"]

FIXED = ("name", "model", "input", "runtime", "detector", "detector_checkpoint")
"""Settings that cannot change while a model is loaded; trackers add theirs."""


def open_model(
    config: Config | str | Path,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    *,
    timed: bool = False,
) -> Model:
    """Load a model, by its settings or the name of a preset.

    checkpoint: a file of weights, or a folder that ``stemseg export`` wrote; None for the weights
    bundled with the preset; "random" for seeded random ones (benchmarks only). device: auto, cpu,
    cuda or cuda:N. timed: see ``open_engine``. Raises ConfigError, CheckpointError,
    DeviceError, ExportError, MissingExtraError.
    """
    settings = config if isinstance(config, Config) else load_config(config)
    place = resolve_device(device)
    engine = _open_engine(settings, checkpoint, place, timed)
    if settings.detector:
        weights = settings.detector_checkpoint
        second = _open_engine(settings.detector, weights, place, timed)
        engine = EnginePair(engine, second, DETECTOR)
    return Model(settings, engine)


class Model:
    """Settings and an engine with weights, shared by any number of streams.

    Not thread-safe: one thread owns a model and its streams.
    """

    def __init__(self, config: Config, engine: Engine) -> None:
        self.config = config
        self.engine = engine

    def stream(self) -> Stream:
        """A new stream through this model."""
        return Stream(self)

    def tracker(self, config: Config) -> Tracker:
        """A new tracker on the device of the model."""
        tracker: Tracker = model_package(config.model).Tracker(config, self.engine.device)
        if not config.detector:
            return tracker
        assert isinstance(config, FollowerConfig) and isinstance(tracker, PromptTracker)
        return BridgedTracker(self.tracker(config.detector), tracker, config)

    def push_all(self, turns: Sequence[tuple[Stream, Frame]]) -> list[Outcome]:
        """Push one frame into each of several streams side by side; returns the outcome of each.

        Equal calls are computed in one batch. An exception in one stream is its outcome and does
        not affect the others; that stream must be reset before its next frame.
        """
        return self._run([(stream, stream.step(frame)) for stream, frame in turns])

    def warm_up(self, size: tuple[int, int], streams: int = 1) -> float:
        """Run grey images of (H, W) through fresh streams, alone and side by side, so that the
        first real frame meets a warm device; what follows prompts is given one.

        Returns the seconds of the slowest push.
        """
        grey = np.full((*size, 3), 128, np.uint8)
        slowest = 0.0
        parts = [self.config, self.config.alone] if self.config.detector else [self.config]
        for config, number in product(parts, sorted({1, streams})):
            warmed = [Stream(self, config) for _ in range(number)]
            prompts = warmed[0].example_prompts(size)
            for index in range(warmed[0].latency.in_flight + bool(prompts)):
                frame = Frame(grey, 1 + index, () if index else prompts)
                begin = time.perf_counter()
                for outcome in self.push_all([(s, frame) for s in warmed]):
                    if isinstance(outcome, Exception):
                        raise outcome
                slowest = max(slowest, time.perf_counter() - begin)
        return slowest

    def _run(self, steps: Sequence[tuple[Stream, Step]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        done = run_steps(self.engine, [step for _, step in steps])
        for (stream, _), ran in zip(steps, done, strict=True):
            stream.timings = ran.timings
            assert ran.outcome is not None
            outcomes.append(ran.outcome)
        return outcomes


class Stream:
    """Frames of one camera or recording in, results out, one for each frame and in order.

    Frames whose stamp repeats or is a glitch are dropped, with their prompts, and reported in
    ``events``; a lasting jump of the stamps, and another image size, finish what is pending and
    start a new epoch (``stamps.py``). Prompts that ``push`` took and that cannot be followed when
    a held frame is processed at last are left out, and reported, too.
    """

    def __init__(self, model: Model, config: Config | None = None) -> None:
        """config: settings for the same weights; None for those of the model."""
        self._model = model
        self.config = config or model.config
        self.epoch = 0
        """Raised by one whenever tracking starts anew."""
        self.timings: dict[str, float] = {}
        """Milliseconds of the last push or flush, by function of the network, and "track" for what
        lies between (clustering, linking, masks)."""
        self.events: list[Event] = []
        """What the last push or flush did beside returning results."""
        self._order = StampOrder(self.config.stream.max_gap)
        self._tracker = model.tracker(self.config)
        self._sources: deque[object] = deque()
        self._size: tuple[int, int] | None = None

    @property
    def engine(self) -> Engine:
        """What computes the network."""
        return self._model.engine

    @property
    def latency(self) -> Latency:
        """When results are returned."""
        return self._tracker.latency

    @property
    def pending(self) -> int:
        """Frames inside the tracker that have no result yet."""
        return len(self._sources)

    @property
    def held(self) -> int:
        """Frames that are held until further ones confirm their stamps (``stamps.py``)."""
        return len(self._order.held)

    @property
    def held_prompts(self) -> list[Prompt]:
        """Prompts of the held frames."""
        return [prompt for frame in self._order.held for prompt in frame.prompts]

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest frame of the epoch; None before the first."""
        return self._order.newest

    def push(self, frame: Frame) -> list[FrameResult]:
        """Add a frame; returns the results that are ready.

        Raises PromptError for prompts that cannot be followed, which leaves the stream as it was;
        ValueError for an image of another type or shape, and whatever the model raises; reset the
        stream before the next frame then.
        """
        return self._finished(self._model.push_all([(self, frame)])[0])

    def with_late(self, frame: Frame, late: Sequence[Prompt]) -> tuple[Frame, list[Event]]:
        """Add prompts of earlier frames to a frame, as far as they can be followed beside its own;
        an event for each of the others.

        Raises PromptError if the model follows no prompts.
        """
        tracker, events = self._tracker_for(frame), list[Event]()
        for prompt in late:
            with_one_more = replace(frame, prompts=(*frame.prompts, prompt))
            try:
                tracker.check(with_one_more)
                frame = with_one_more
            except PromptError as error:
                text = f"a prompt came too late and is not followed: {error}"
                events.append(Event("prompts", text))
        return frame, events

    def track(self, stamp_ns: int, prompts: tuple[Prompt, ...]) -> None:
        """Follow objects from an earlier frame on (``PromptTracker.track``). Raises
        PromptError."""
        step = self.prompt_tracker.track(stamp_ns, prompts)
        self._finished(self._model._run([(self, step)])[0])

    @property
    def prompt_tracker(self) -> PromptTracker:
        """The tracker, if it follows prompts. Raises PromptError if it does not."""
        if not isinstance(self._tracker, PromptTracker):
            remedy = (
                "start it with tracking: prompts" if self.config.detector else "'hodor_lite' does"
            )
            raise PromptError(f"the model '{self.config.name}' follows no prompts; {remedy}")
        return self._tracker

    def example_prompts(self, size: tuple[int, int]) -> tuple[Prompt, ...]:
        """An object in the middle of an (H, W) image; nothing for a model without prompts."""
        if not isinstance(self._tracker, PromptTracker):
            return ()
        height, width = size
        mask = np.zeros(size, bool)
        mask[height // 4 : -(height // 4), width // 4 : -(width // 4)] = True
        return (Prompt(1, 1, encode(mask)),)

    def flush(self) -> list[FrameResult]:
        """Finish all pending frames; the stream may go on afterwards. Held frames stay held."""
        return self._finished(self._model._run([(self, self._flush())])[0])

    def restart(self, reason: str) -> list[FrameResult]:
        """Finish all pending frames and start a new epoch with the frames that were held;
        ``reason`` goes into the event."""
        self._clear_events()
        return self._finished(self._model._run([(self, self._restart(reason))])[0])

    def reset(self) -> int:
        """Forget everything and start a new epoch; returns how many frames, pending and held, are
        lost."""
        dropped = self.pending + self.held
        self._order.forget()
        self._sources.clear()
        self._size = None
        self._tracker = self._model.tracker(self.config)
        self.epoch += 1
        return dropped

    def update(self, config: Config) -> None:
        """Apply changed settings. Raises ValueError for those that need a new model."""
        for name in FIXED:
            if getattr(config, name) != getattr(self.config, name):
                raise ValueError(f"'{name}' settings cannot change in a running stream")
        self._tracker.update(config)
        self.config = config
        self._order.max_gap_ns = round(config.stream.max_gap * 1e9)

    def step(self, frame: Frame) -> Step:
        """The generator behind ``push``, for ``Model.push_all``."""
        check_image(frame.image)
        if frame.prompts:
            self._tracker_for(frame).check(frame)
        self._clear_events()
        results: list[FrameResult] = []
        for admitted, jump in self._order.admit(frame):
            results += yield from self._advance(admitted, jump)
        return results

    def _tracker_for(self, frame: Frame) -> PromptTracker:
        """What checks the prompts of the next frame. Raises PromptError if nothing does."""
        tracker = self.prompt_tracker
        if self._size not in (None, frame.image.shape[:2]):  # a new epoch, with new ids
            fresh = self._model.tracker(self.config)
            assert isinstance(fresh, PromptTracker)
            tracker = fresh
        return tracker

    def _advance(self, frame: Frame, jump: str) -> Step:
        height, width = frame.image.shape[:2]
        results: list[FrameResult] = []
        if not jump and self._size not in (None, (height, width)):
            h, w = self._size or (0, 0)
            jump = f"the image size changed from {w}x{h} to {width}x{height}"
        if jump:
            newest = self._order.newest  # which a new epoch forgets
            try:
                results = yield from self._begin_epoch(jump)
            except Exception:
                self._sources.append(frame.source)  # lost with those that were pending
                raise
            self._order.newest = newest
        self._size = (height, width)
        if frame.prompts:  # a held frame's were checked before those of the frames in front of it
            frame, refused = self.with_late(replace(frame, prompts=()), frame.prompts)
            self._order.events += refused
        self._sources.append(frame.source)
        return results + self._published((yield from self._tracker.step(frame)))

    def _flush(self) -> Step:
        self._clear_events()
        return self._published((yield from self._tracker.finish()))

    def _restart(self, reason: str) -> Step:
        results = yield from self._begin_epoch(reason)
        held, self._order.held = self._order.held, []
        for frame in held:
            for admitted, jump in self._order.admit(frame):
                results += yield from self._advance(admitted, jump)
        return results

    def _begin_epoch(self, reason: str) -> Step:
        results = self._published((yield from self._tracker.finish()))
        held = self._order.held
        self.reset()
        self._order.held = held
        self._order.events.append(Event("epoch", f"{reason}: tracking starts anew"))
        return results

    def _clear_events(self) -> None:
        self.events = self._order.events = []

    def _published(self, results: list[FrameResult]) -> list[FrameResult]:
        return [replace(r, epoch=self.epoch, source=self._sources.popleft()) for r in results]

    def _finished(self, outcome: Outcome) -> list[FrameResult]:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _open_engine(
    settings: Config, checkpoint: str | Path | None, place: torch.device, timed: bool
) -> Engine:
    """An engine for one network."""
    if checkpoint not in (None, "") and Path(str(checkpoint)).is_dir():
        exported = _exported(Path(str(checkpoint)), settings)
        return open_exported(exported, settings.runtime, place)
    network = model_package(settings.model).load_network(settings, checkpoint)
    return open_engine(network, settings.runtime, place, name=settings.name, timed=timed)


def _exported(folder: Path, config: Config) -> ExportedFolder:
    exported = ExportedFolder(folder)
    made = exported.content
    classes = tuple(config.alone.classes)
    if (made.config, made.classes) != (config.name, classes):
        raise ExportError(
            f"{folder} holds the config '{made.config}' with the classes "
            f"{', '.join(made.classes)}, not '{config.name}' with {', '.join(classes)}"
        )
    return exported


def check_image(image: Image) -> None:
    """Raises ValueError unless an image is uint8 (H, W, 3) and not empty."""
    shape = getattr(image, "shape", None)
    if shape is None or image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        found = type(image).__name__ if shape is None else f"{image.dtype} {shape}"
        raise ValueError(f"expected a uint8 image (H, W, 3), BGR, got {found}")
