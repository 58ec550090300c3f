"""The cameras of a node, served together by one worker through one network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from stemseg_ros.config import Config
from stemseg_ros.execution.lockstep import push_together
from stemseg_ros.ros.health.verdicts import is_memory_error
from stemseg_ros.ros.inference.camera import Camera
from stemseg_ros.ros.inference.camera_stream import Stream, StreamingPipeline, push_frames


class CameraRig:
    """Pushes one frame of each camera at a time, in one batch, and keeps their troubles apart.

    Lives on the worker's thread, but for ``oldest`` and ``abandoned``. ``on_memory`` is told, once
    a turn, that the memory of the device did not suffice.
    """

    def __init__(self, cameras: Sequence[Camera], on_memory: Callable[[str], None]) -> None:
        self._cameras = cameras
        self._on_memory = on_memory
        self.opened = False
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

    def open(self, make_pipeline: Callable[[], StreamingPipeline], config: Config) -> None:
        """Build the pipelines and run them, so that the first real frame meets a warm device."""
        first = make_pipeline()
        pipelines = [first, *(first.sibling() for _ in self._cameras[1:])]
        grey = np.full((36, 64, 3), 128, np.uint8)  # 16:9, scaled to the size of the input
        for warmed in ([first], pipelines) if len(pipelines) > 1 else ([first],):
            for index in range(config.window.length):
                begin = time.monotonic()
                for outcome in push_together(warmed, [(grey, index)] * len(warmed)):
                    if isinstance(outcome, Exception):
                        raise outcome
                self.slowest_turn = max(self.slowest_turn, time.monotonic() - begin)
            for pipeline in warmed:
                pipeline.reset()
        if self.abandoned:
            return
        for camera, pipeline in zip(self._cameras, pipelines, strict=True):
            camera.stream.open(pipeline)
        self.opened = True

    def close(self) -> None:
        """Free the device. Frames inside the windows are lost."""
        self.opened = False
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
        failures = push_frames(taken)
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

    def _tell(self, failures: Sequence[tuple[Stream, Exception]]) -> None:
        memory = ""
        for stream, error in failures:
            error.__traceback__ = None  # it holds tensors
            camera = next(camera for camera in self._cameras if camera.stream is stream)
            camera.failed(error)
            if is_memory_error(error):
                memory = f"{type(error).__name__}: {error}"
        if memory:
            self._on_memory(memory)
