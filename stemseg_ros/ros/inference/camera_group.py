"""The cameras of a node, served together by one worker through one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from stemseg_ros.ros.health.verdicts import is_memory_error
from stemseg_ros.ros.inference.camera import Camera
from stemseg_ros.ros.inference.camera_stream import CameraStream, push_frames
from stemseg_ros.stream import Model

WARM_UP_SIZE = (36, 64)
"""(H, W) of the images of the warm-up: 16:9, scaled to the size of the input."""


class CameraGroup:
    """Pushes one frame of each camera at a time, in one batch, and keeps their troubles apart.

    Lives on the worker's thread, but for ``oldest`` and ``abandoned``. ``on_memory`` is told, once
    a turn, that the memory of the device did not suffice.
    """

    def __init__(self, cameras: Sequence[Camera], on_memory: Callable[[str], None]) -> None:
        self._cameras = cameras
        self._on_memory = on_memory
        self._model: Model | None = None
        self.opening = False
        """Whether the model is being loaded, which takes longer than a turn."""
        self.abandoned = False
        """Set from another thread, when this one hangs: nothing that comes of it is wanted."""
        self.slowest_turn = 0.0
        """Seconds, in the warm-up."""

    def oldest(self) -> float | None:
        """When the frame arrived that waits longest; monotonic seconds. From any thread."""
        if not self.opened:
            return None
        waiting = (camera.queue.oldest for camera in self._cameras)
        return min((arrived for arrived in waiting if arrived is not None), default=None)

    def open(self, open_model: Callable[[], Model]) -> None:
        """Load the model and run it, so that the first real frame meets a warm device."""
        model = open_model()
        self.slowest_turn = model.warm_up(WARM_UP_SIZE, len(self._cameras))
        if self.abandoned:
            return
        for camera in self._cameras:
            camera.stream.open(model.stream())
        self._model = model

    @property
    def opened(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    def close(self) -> None:
        """Free the device. Frames inside the windows are lost."""
        self._model = None
        for camera in self._cameras:
            camera.lose_pending()
            camera.stream.close()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def turn(self) -> None:
        """Serve the next frame of every camera that has one."""
        taken = []
        for camera in self._cameras:
            frame = camera.take()
            if self.abandoned:
                return
            if frame is not None:
                taken.append(frame)
        if self._model is None:
            return
        failures = push_frames(self._model, taken)
        if self.abandoned:
            return
        self._tell(failures)
        for camera in self._cameras:
            camera.done()

    def pause(self) -> float | None:
        """Finish the windows of cameras that pause; seconds until another one may."""
        waits = []
        for camera in self._cameras:
            if self.abandoned:
                return None
            seconds = camera.seconds_to_pause()
            if seconds is not None and seconds <= 0:
                self._attempt(camera, camera.pause)
            elif seconds is not None:
                waits.append(seconds)
        return min(waits, default=None)

    def flush(self, cameras: Sequence[Camera]) -> int:
        """Finish the frames inside their windows; how many they were. Raises what fails."""
        frames = sum(camera.stream.pending for camera in cameras)
        for error in [self._attempt(camera, camera.stream.flush) for camera in cameras]:
            if error is not None:
                raise error
        return frames

    def clock_jumped(self, now_ns: int) -> None:
        """The clock of the node was set to ``now_ns``."""
        for camera in self._cameras:
            self._attempt(camera, partial(camera.stream.clock_jumped, now_ns))

    def _attempt(self, camera: Camera, step: Callable[[], object]) -> Exception | None:
        if self.abandoned:  # the stream of the camera belongs to another thread now
            return None
        try:
            step()
        except Exception as error:  # of this camera alone
            if not self.abandoned:
                self._tell([(camera.stream, error)])
            return error
        return None

    def _tell(self, failures: Sequence[tuple[CameraStream, Exception]]) -> None:
        memory = ""
        for stream, error in failures:
            error.__traceback__ = None  # it holds tensors
            camera = next(camera for camera in self._cameras if camera.stream is stream)
            camera.failed(error)
            if is_memory_error(error):
                memory = f"{type(error).__name__}: {error}"
        if memory:
            self._on_memory(memory)
