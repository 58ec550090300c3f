"""Supervises the inference worker: loads the model, falls back on out-of-memory, restarts it when
it stalls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from rclpy.impl.rcutils_logger import RcutilsLogger

from stemseg_ros.config import Config
from stemseg_ros.errors import PromptError, StemsegError
from stemseg_ros.execution.engine import Engine, choose_engine
from stemseg_ros.ros.health.process import resident_mb
from stemseg_ros.ros.health.verdicts import ERROR, OK, WARN, Level
from stemseg_ros.ros.inference.camera import Camera
from stemseg_ros.ros.inference.camera_group import CameraGroup
from stemseg_ros.ros.inference.camera_stream import CameraStream
from stemseg_ros.ros.inference.fallbacks import Fallbacks, is_memory_error
from stemseg_ros.ros.inference.worker import Worker
from stemseg_ros.stream import Model

OpenModel = Callable[[Config, "str | None", str], Model]
T = TypeVar("T")
WARM_UP_SIZE = (36, 64)
"""(H, W) of the images of the warm-up: 16:9, scaled to the size of the input."""
STALL_FACTOR = 10.0
"""A batch that takes this many times as long as the slowest of the warm-up is a stall."""
RELOAD_FACTOR = 5.0
"""Reloading may take this many times as long as the first time, ..."""
RELOAD_SECONDS = 60.0
"""... plus this many seconds."""
RECENT_SECONDS = 60.0
"""Seconds for which the diagnostics warn of a restart."""


class SupervisorError(StemsegError):
    """The device cannot serve the cameras any more; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The requested model."""

    config: Config
    checkpoint: str | None
    device: str
    """cpu or cuda:n."""


class Supervisor:
    """Serves all cameras by a worker with one model; falls back when memory runs out, and replaces
    a worker that hangs.

    A failure that it cannot recover from is in ``failed``, on which the lifecycle deactivates the
    node, or in ``broken``, on which the process ends. Methods run on the executor's thread unless
    they say otherwise.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        changed: threading.Condition,
        open_model: OpenModel,
        stopping: Callable[[], bool],
        log: RcutilsLogger,
    ) -> None:
        """changed: notified when a frame waits. stopping: whether the process is to end."""
        self._cameras = cameras
        self._changed = changed
        self._open_model = open_model
        self._stopping = stopping
        self._log = log
        self._request: ModelRequest | None = None
        self._fallbacks = Fallbacks("error")
        self._load_seconds = 0.0
        self._slowest_push = 0.0
        """Seconds, in the warm-up."""
        self._engine: Engine | None = None
        """What computes the model in use."""
        self._restarted_at: float | None = None
        self.restarts = 0
        self.failed = ""
        """Reason why the node must leave the active state."""
        self.broken = ""
        """Reason why the process must end."""
        self._worker = Worker(changed)
        self._group: CameraGroup | None = None
        """Cameras and model that the worker serves; None while no model is loaded."""

    # Work

    def call(self, work: Callable[[], T]) -> T:
        """Run a job on the worker's thread, after the frames that arrived before it. Raises what
        the job raises, SupervisorError when the worker hangs."""
        return self._call(work, lambda: self.stalled)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Submit a job without waiting; returns its future."""
        return self._worker.submit(work)

    def flush(self, cameras: Sequence[Camera]) -> int:
        """Finish the pending frames; returns their number. On the worker's thread."""
        streams = [camera.stream for camera in cameras if camera.stream is not None]
        return 0 if self._group is None else self._group.flush(streams)

    def reset(self, cameras: Sequence[Camera]) -> int:
        """Start tracking anew; returns how many pending frames are dropped. On the worker's
        thread."""
        return sum(camera.stream.reset() for camera in cameras if camera.stream is not None)

    def track(self, camera: Camera, request: Any) -> tuple[int, tuple[int, ...]]:
        """Follow the objects of a stemseg/srv/TrackMasks request; the epoch and their ids. On the
        worker's thread. Raises PromptError, which changes nothing."""
        group, stream = self._serving(camera)
        return group.prompt(stream, partial(stream.track, request))

    def untrack(self, camera: Camera, ids: Sequence[int]) -> int:
        """Follow objects no longer, all of them without ids; how many. On the worker's thread.
        Raises PromptError, which changes nothing."""
        group, stream = self._serving(camera)
        return group.prompt(stream, partial(stream.untrack, ids))

    def clock_jumped(self, now_ns: int) -> None:
        """Handle a jump of the node's clock to ``now_ns``. From any thread."""

        def jump() -> None:
            if self._group is not None:
                self._group.clock_jumped(now_ns)

        self._worker.submit(jump)

    def update(self, config: Config) -> None:
        """Apply changed settings from the next frame on."""
        if self._request is not None:
            self._request = replace(self._request, config=config)
        for camera in self._cameras:
            camera.update(config)
        self._worker.submit(partial(self._update_streams, config))

    # Life

    def load(self, request: ModelRequest) -> Model:
        """Load the model and warm it up, in a lower-memory configuration if memory does not
        suffice.

        Raises what loading raises, SupervisorError if no fallback is left; ``refuse`` is to follow
        then, else ``serve``.
        """
        self._request = request
        self._fallbacks = Fallbacks(request.config.health.out_of_memory)
        self.failed = ""
        started = time.monotonic()
        model = self._call(partial(self._load, self._worker), lambda: False)
        self._load_seconds = time.monotonic() - started
        return model

    def serve(self, model: Model) -> None:
        """Serve the cameras, which are configured, through the model."""
        self.call(partial(self._serve, self._worker, model))

    def refuse(self, error: Exception) -> None:
        """Remain without a model; ``error`` is the reason."""
        self._request, self.failed = None, f"no model is loaded: {error}"

    def release(self) -> None:
        """Free the device; a worker that hangs is abandoned."""
        if self.stalled:
            self._replace_worker()
        self.call(partial(self._close, self._worker))
        self._request = None

    def close(self, timeout: float) -> bool:
        """End the worker, unless its current batch takes longer than ``timeout`` seconds."""
        return self._worker.close(timeout)

    def watch(self) -> None:
        """Check the worker; to be called regularly. Replaces a worker that hangs; if the new one
        hangs without any progress, the process must end."""
        if self._request is None or self.broken or not self.stalled:
            return
        seconds, turns = self._worker.busy_seconds, self._worker.turns
        self._log.error(
            f"the worker has stalled for {seconds:.0f} s: it is abandoned and restarted"
        )
        if self._restarted_at is not None and not turns:
            self.broken = "the restarted worker stalled, too"
            return
        self._replace_worker()
        self.restarts, self._restarted_at = self.restarts + 1, time.monotonic()
        try:
            self.call(partial(self._open, self._worker))
        except Exception as error:  # of any kind: what cannot be loaded cannot go on
            if not self._stopping():
                self.broken = f"the worker cannot be restarted: {error}"
        else:
            self._log.warning(f"the worker is restarted ({self.restarts}.), tracking starts anew")

    @property
    def stalled(self) -> bool:
        """Whether the worker has been busy with one batch or job for too long."""
        after = self._request.config.health.stall_after if self._request else 0.0
        limit = max(after, STALL_FACTOR * self._slowest_push)
        return after > 0 and limit < self._worker.overdue_seconds

    # Health

    @property
    def device(self) -> str:
        """The device in use."""
        return self._fallbacks.device(self._request.device) if self._request else ""

    @property
    def engine(self) -> str:
        """The engine in use, and why it was chosen."""
        if self._engine is None or self._request is None:
            return ""
        runtime = self._fallbacks.config(self._request.config).runtime
        why = choose_engine(runtime, self._engine.device)[1]
        return f"{self._engine.description}, {self._engine.precision} ({why})"

    def level(self) -> Level:
        """Return the level of the status and its reason."""
        recent = self._restarted_at is not None and (
            time.monotonic() - self._restarted_at < RECENT_SECONDS
        )
        if self.broken or self.failed:
            return ERROR, self.broken or self.failed
        if self._fallbacks.active:
            return WARN, "the device ran out of memory: a fallback is in use"
        if recent:
            return WARN, "the worker stalled and was restarted"
        return OK, "ready" if self._request else "no model is loaded"

    def values(self) -> dict[str, str]:
        """Format the state for the diagnostics."""
        values = {"worker_restarts": str(self.restarts)}
        values["busy_s"] = f"{self._worker.busy_seconds:.1f}"
        values["process_memory_mb"] = f"{resident_mb():.0f}"
        if self._request is None:
            return values
        config = self._fallbacks.config(self._request.config)
        values |= {
            "device": self.device,
            "preset": config.name,
            **config.traits,
            "checkpoint": self._request.checkpoint or "bundled",
            "engine": self._engine.description if self._engine else "",
            "precision": self._engine.precision if self._engine else "",
            "input": f"{config.input.min_dim} (at most {config.input.max_dim})",
            "fallback": "yes" if self._fallbacks.active else "no",
        }
        if self.device.startswith("cuda"):
            values["device_memory_mb"] = f"{torch.cuda.memory_reserved(self.device) / 1e6:.0f}"
            peak = torch.cuda.max_memory_reserved(self.device)
            values["device_memory_peak_mb"] = f"{peak / 1e6:.0f}"
        return values

    # Inside

    def _call(self, work: Callable[[], T], hangs: Callable[[], bool]) -> T:
        given_up = False

        def give_up() -> bool:
            nonlocal given_up
            given_up = hangs()
            return given_up or self._stopping()

        try:
            return self._worker.call(work, give_up)
        except Exception as error:
            if given_up:
                raise SupervisorError("the worker hangs") from error
            raise

    def _replace_worker(self) -> None:
        """Abandon the worker: a thread cannot be killed, and keeps its memory until it returns."""
        self._worker.close(0.0)
        for camera in self._cameras:
            camera.close_stream()
        self._worker, self._group = Worker(self._changed), None

    def _serving(self, camera: Camera) -> tuple[CameraGroup, CameraStream]:
        if self._group is None or camera.stream is None:
            raise PromptError("no model is loaded")
        return self._group, camera.stream

    # From here on: the worker's thread. The worker is passed, since one that was given up comes
    # back when another is in its place.

    def _open(self, worker: Worker) -> None:
        self._serve(worker, self._load(worker))

    def _load(self, worker: Worker) -> Model:
        request = self._request
        assert request is not None
        with worker.granted(RELOAD_FACTOR * self._load_seconds + RELOAD_SECONDS):
            while True:
                config = self._fallbacks.config(request.config)
                device = self._fallbacks.device(request.device)
                try:
                    model, slowest_push = self._warm_model(config, request.checkpoint, device)
                except Exception as error:  # which holds what was loaded until the end of this
                    worker.check()
                    if not is_memory_error(error):
                        raise
                    reason = f"out of memory on {device}: {error}"
                else:
                    worker.check()
                    self._slowest_push, self._engine = slowest_push, model.engine
                    return model
                _free_device_memory()
                self._fall_back(reason)

    def _warm_model(
        self, config: Config, checkpoint: str | None, device: str
    ) -> tuple[Model, float]:
        model = self._open_model(config, checkpoint, device)
        return model, model.warm_up(WARM_UP_SIZE, len(self._cameras))

    def _serve(self, worker: Worker, model: Model) -> None:
        streams = [camera.open_stream(model.stream()) for camera in self._cameras]
        on_memory = partial(self._on_memory, worker)
        self._group = worker.service = CameraGroup(model, streams, worker.check, on_memory)

    def _close(self, worker: Worker) -> None:
        self._group = worker.service = None
        for camera in self._cameras:
            camera.close_stream()
        _free_device_memory()

    def _update_streams(self, config: Config) -> None:
        in_use = self._fallbacks.config(config)
        for camera in self._cameras:
            if camera.stream is not None:
                camera.stream.update(in_use)

    def _fall_back(self, reason: str) -> None:
        """Choose a lower-memory configuration. Raises SupervisorError if none is left."""
        assert self._request is not None
        if not self._fallbacks.lower(self._request.device):
            raise SupervisorError(f"{reason}; no fallback is left (health.out_of_memory)")
        config = self._fallbacks.config(self._request.config)
        self._log.warning(
            f"{reason}; continuing with input.min_dim {config.input.min_dim} on {self.device} "
            "(health.out_of_memory)"
        )

    def _on_memory(self, worker: Worker, what: str) -> None:
        try:
            self._close(worker)
            self._fall_back(f"out of memory on {self.device}: {what}")
            self._open(worker)
        except Exception as error:  # of any kind: what cannot be loaded cannot go on
            worker.check()
            self.failed = str(error)


def _free_device_memory() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
