"""The node's own services: reset, flush, track_masks, untrack."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from std_srvs.srv import Trigger
from stemseg.srv import TrackMasks, Untrack

from stemseg_ros.errors import PromptError
from stemseg_ros.ros.health.throttled_log import counted
from stemseg_ros.ros.inference.camera import Camera
from stemseg_ros.ros.inference.supervisor import Supervisor
from stemseg_ros.ros.managed_node import ManagedNode

TAKE_SECONDS = 0.5
"""Most seconds that a service waits for the executor to take the images that arrived before."""


class Services:
    """Work that is asked for, done by the worker after the frames that arrived before.

    Several cameras have all services each, ``~/NAME/reset`` etc.; ``~/reset`` and ``~/flush`` are
    for all of them together.
    """

    def __init__(
        self,
        node: ManagedNode,
        cameras: Sequence[Camera],
        supervisor: Supervisor,
        on_flush: Callable[[], None],
    ) -> None:
        """on_flush: called after pending frames are finished."""
        self._node = node
        self._cameras = cameras
        self._supervisor = supervisor
        self._on_flush = on_flush
        # Of their own group: a service that waits for the worker must not hold up the images.
        self._group = ReentrantCallbackGroup()
        self._create_triggers("~", cameras)
        for camera in cameras:
            prefix = f"~/{camera.name}" if camera.name else "~"
            if camera.name:
                self._create_triggers(prefix, [camera])
            self._create(TrackMasks, f"{prefix}/track_masks", partial(self._track, camera))
            self._create(Untrack, f"{prefix}/untrack", partial(self._untrack, camera))

    def _create_triggers(self, prefix: str, cameras: Sequence[Camera]) -> None:
        self._create(Trigger, f"{prefix}/reset", partial(self._reset, cameras))
        self._create(Trigger, f"{prefix}/flush", partial(self._flush, cameras))

    def _create(self, kind: Any, name: str, work: Callable[[Any, Any], str]) -> None:
        """work: takes request and response on the worker's thread, fills in the response, and
        returns its message."""
        serve = partial(self._serve, work)
        self._node.create_service(kind, name, serve, callback_group=self._group)

    async def _serve(self, work: Callable[[Any, Any], str], request: Any, response: Any) -> Any:
        """Do the work after the frames that arrived before it, and respond when it is done."""
        if self._node.state != "active":
            response.success, response.message = False, "the node is not active"
            return response
        seen, until = None, time.monotonic() + TAKE_SECONDS
        # Let the executor take the images that are here, one a turn; fast ones never end.
        while seen != self._images_seen() and time.monotonic() < until:
            seen = self._images_seen()
            await _Later()  # this far it has polled coroutines alone
            await _Later()
        done = self._supervisor.submit(partial(work, request, response))
        while not done.done():
            await _Later()
        error = done.exception()
        response.success = error is None
        if error is None:
            response.message = done.result()
        else:
            response.message = str(error) if isinstance(error, PromptError) else f"failed: {error}"
        return response

    def _images_seen(self) -> int:
        return sum(camera.input.images_seen for camera in self._cameras)

    # On the worker's thread

    def _reset(self, cameras: Sequence[Camera], _: Any, __: Any) -> str:
        dropped = self._supervisor.reset(cameras)
        return f"tracking starts anew; {counted(dropped, 'pending frame')} dropped"

    def _flush(self, cameras: Sequence[Camera], _: Any, __: Any) -> str:
        frames = self._supervisor.flush(cameras)
        self._on_flush()
        return f"{counted(frames, 'pending frame')} finished"

    def _track(
        self, camera: Camera, request: TrackMasks.Request, response: TrackMasks.Response
    ) -> str:
        response.epoch, ids = self._supervisor.track(camera, request)
        response.track_ids = list(ids)
        return f"{counted(len(ids), 'object')} followed"

    def _untrack(self, camera: Camera, request: Untrack.Request, _: Untrack.Response) -> str:
        number = self._supervisor.untrack(camera, tuple(request.track_ids))
        return f"{counted(number, 'object')} followed no longer"


class _Later:
    """Yield to the executor when awaited; with a pause, because it polls without one."""

    def __await__(self) -> Generator[None, None, None]:
        time.sleep(0.005)
        yield
