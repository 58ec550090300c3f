"""Supervises the inference worker: loads the model, falls back on out-of-memory, restarts it when
it stalls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from stemseg_ros.config import Config
from stemseg_ros.errors import StemsegError
from stemseg_ros.ros.health.verdicts import ERROR, OK, WARN, Fallbacks, Level, is_memory_error
from stemseg_ros.ros.inference.camera import Camera
from stemseg_ros.ros.inference.camera_group import CameraGroup
from stemseg_ros.ros.inference.worker import Worker
from stemseg_ros.stream import Model

OpenModel = Callable[[Config, "str | None", str], Model]
T = TypeVar("T")
STALL_FACTOR = 10.0
"""A turn that takes so many times as long as the slowest of the warm-up is a stall."""
RELOAD_FACTOR = 5.0
"""Loading anew may take so many times as long as the first time, ..."""
RELOAD_SECONDS = 60.0
"""... and so many seconds besides."""


class SupervisorError(StemsegError):
    """The device cannot serve the cameras any more; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What was asked for."""

    config: Config
    checkpoint: str | None
    device: str
    """cpu or cuda:n."""


class Supervisor:
    """A worker with the pipelines of all cameras; it falls back when memory runs out, and is
    replaced when it hangs.

    What it cannot mend stands in ``failed``, for the lifecycle to take down the node, and in
    ``broken``, for the process to end. Methods run on the executor's thread unless they say
    otherwise.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        open_model: OpenModel,
        stopping: Callable[[], bool],
        log: Any,
    ) -> None:
        """log: a logger of rclpy."""
        self._cameras = cameras
        self._open_model = open_model
        self._stopping = stopping
        self._log = log
        self._model: ModelRequest | None = None
        self._fallbacks = Fallbacks("error")
        self._load_seconds = 0.0
        self._restarted_at: float | None = None
        self.restarts = 0
        self.failed = ""
        """Why the node has to leave the active state."""
        self.broken = ""
        """Why the process has to end."""
        self._group, self._worker = self._new_worker()

    # Work

    def wake(self) -> None:
        """A frame waits. From any thread."""
        self._worker.wake()

    def call(self, work: Callable[[], T]) -> T:
        """Do something on the worker's thread, and wait. Raises SupervisorError if it hangs."""
        return self._call(work, lambda: self.stalled)

    def submit(self, work: Callable[[], T]) -> Any:
        """The same without waiting: its future."""
        return self._worker.submit(work)

    def flush(self, cameras: Sequence[Camera]) -> int:
        """Finish the frames inside the windows; how many. On the worker's thread."""
        return self._group.flush(cameras)

    def clock_jumped(self, now_ns: int) -> None:
        """The clock of the node was set to ``now_ns``."""
        self._worker.submit(lambda: self._group.clock_jumped(now_ns))

    def update(self, config: Config) -> None:
        """Take over changed settings from the next window on."""
        if self._model is not None:
            self._model = ModelRequest(config, self._model.checkpoint, self._model.device)
        self._worker.submit(partial(self._update, config))

    # Life

    def load(self, model: ModelRequest) -> None:
        """Load the model and warm it up, with less memory where that does not suffice.

        Raises what loading raises, SupervisorError if no fallback is left; ``refuse`` is to
        follow.
        """
        self._model = model
        self._fallbacks = Fallbacks(model.config.health.out_of_memory)
        self.failed = ""
        started = time.monotonic()
        self._call(self._open, lambda: False)
        self._load_seconds = time.monotonic() - started

    def refuse(self, error: Exception) -> None:
        """Stay without a model, and say why."""
        self._model, self.failed = None, f"no model is loaded: {error}"

    def release(self) -> None:
        """Free the device; if the worker hangs, by leaving it alone."""
        if self.stalled:
            self._replace_worker()
        self._call(self._group.close, lambda: self.stalled)
        self._model = None

    def close(self, timeout: float) -> bool:
        """End, unless the present window takes longer than ``timeout`` seconds."""
        return self._worker.close(timeout)

    def watch(self) -> None:
        """To be called now and then: replaces a worker that hangs, once; the next time, unless
        that one had done something, the process has to end."""
        if self._model is None or self.broken or not self.stalled:
            return
        seconds, turns = self._worker.busy_seconds, self._worker.turns
        self._log.error(f"the worker is stalled for {seconds:.0f} s: it is given up and restarted")
        if self._restarted_at is not None and not turns:
            self.broken = "the restarted worker stalls as well"
            return
        self._replace_worker()
        self.restarts, self._restarted_at = self.restarts + 1, time.monotonic()
        try:
            self._call(self._open, lambda: self.stalled)
        except Exception as error:  # of any kind: what cannot be loaded cannot go on
            if not self._stopping():
                self.broken = f"the worker cannot be restarted: {error}"
        else:
            self._log.warning(f"the worker is restarted ({self.restarts}.), tracking starts anew")

    @property
    def stalled(self) -> bool:
        """Whether the worker has been at one thing for too long."""
        return 0 < self._stall_limit < self._worker.busy_seconds

    # Health

    @property
    def device(self) -> str:
        """The device in use."""
        return self._fallbacks.device(self._model.device) if self._model else ""

    def level(self) -> Level:
        """How it is."""
        recent = self._restarted_at is not None and time.monotonic() - self._restarted_at < 60
        if self.broken or self.failed:
            return ERROR, self.broken or self.failed
        if self._fallbacks.active:
            return WARN, "the memory of the device did not suffice: a fallback is in use"
        if recent:
            return WARN, "the worker was stalled and is restarted"
        return OK, "ready" if self._model else "no model is loaded"

    def values(self) -> dict[str, str]:
        """Its state, as the diagnostics show it."""
        values = {"worker_restarts": str(self.restarts)}
        values["busy_s"] = f"{self._worker.busy_seconds:.1f}"
        values["process_memory_mb"] = f"{_resident_mb():.0f}"
        if self._model is None:
            return values
        config = self._fallbacks.config(self._model.config)
        values |= {
            "device": self.device,
            "preset": config.name,
            **config.traits,
            "checkpoint": self._model.checkpoint or "bundled",
            "precision": config.runtime.precision,
            "input": f"{config.input.min_dim} (at most {config.input.max_dim})",
            "fallback": "yes" if self._fallbacks.active else "no",
        }
        if self.device.startswith("cuda"):
            values["device_memory_mb"] = f"{torch.cuda.memory_reserved(self.device) / 1e6:.0f}"
            peak = torch.cuda.max_memory_reserved(self.device)
            values["device_memory_peak_mb"] = f"{peak / 1e6:.0f}"
        return values

    # Inside

    @property
    def _stall_limit(self) -> float:
        """Seconds; 0: none."""
        after = self._model.config.health.stall_after if self._model else 0.0
        if not after:
            return 0.0
        reload = RELOAD_FACTOR * self._load_seconds + RELOAD_SECONDS
        limit = max(after, STALL_FACTOR * self._group.slowest_turn)
        return limit + reload if self._group.opening else limit

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

    def _new_worker(self) -> tuple[CameraGroup, Worker]:
        group = CameraGroup(self._cameras, self._on_memory)
        return group, Worker(group.oldest, group.turn, group.pause, self._on_error)

    def _replace_worker(self) -> None:
        """A thread cannot be ended, only left alone: it keeps its memory until it comes back."""
        self._group.abandoned = True
        self._worker.close(0.0)
        for camera in self._cameras:
            camera.abandon()
        self._group, self._worker = self._new_worker()

    # From here on: the worker's thread

    def _open(self) -> None:
        assert self._model is not None
        group, model = self._group, self._model
        group.opening = True
        try:
            while True:
                config = self._fallbacks.config(model.config)
                device = self._fallbacks.device(model.device)
                make = partial(self._open_model, config, model.checkpoint, device)
                try:
                    group.open(make)
                    if not group.abandoned:
                        self._update(model.config)  # of a job that went with an older worker
                    return
                except Exception as error:
                    if group.abandoned or not is_memory_error(error):
                        raise
                    reason = f"out of memory on {device}: {error}"
                group.close()
                self._fall_back(reason)
        finally:
            group.opening = False

    def _update(self, config: Config) -> None:
        in_use = self._fallbacks.config(config)
        for camera in self._cameras:
            camera.update(in_use)

    def _fall_back(self, reason: str) -> None:
        """Choose what needs less memory. Raises SupervisorError if nothing is left."""
        assert self._model is not None
        if not self._fallbacks.lower(self._model.device):
            raise SupervisorError(f"{reason}; no fallback is left (health.out_of_memory)")
        config = self._fallbacks.config(self._model.config)
        self._log.warning(
            f"{reason}; goes on with input.min_dim {config.input.min_dim} on {self.device} "
            "(health.out_of_memory)"
        )

    def _on_memory(self, what: str) -> None:
        try:
            self._group.close()
            self._fall_back(f"out of memory on {self.device}: {what}")
            self._open()
        except Exception as error:  # of any kind: what cannot be loaded cannot go on
            self.failed = str(error)

    def _on_error(self, error: Exception) -> None:
        for camera in self._cameras:
            camera.failed(error)


def _resident_mb() -> float:
    """Memory of the process that lies in RAM, 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
