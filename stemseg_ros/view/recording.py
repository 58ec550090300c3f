"""What a viewer shows of each frame, written with the rerun SDK.

| entity             | what                                                                 |
|--------------------|----------------------------------------------------------------------|
| camera             | annotation context: "id class" and colour of each track of the frame |
| camera/image       | the frame, JPEG                                                      |
| camera/masks       | segmentation image, track id of each pixel, 0 background             |
| camera/boxes       | box of each instance, labelled "id class score"                      |
| camera/trails      | way of the middle of each track that is seen, pixels                 |
| camera/prompts/ID  | outline of an object that was given, labelled "prompt id class", in  |
|                    | the frame that it was given for and in no other                      |
| timing/latency_ms  | from the image to its result                                         |
| stage/NAME         | milliseconds of each stage, as the node reports them                 |
| events             | text: new epochs, frames without an image                            |

Time lines: ``frame``, counted from 0, and ``stamp``, that of the image's header.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import rerun as rr
import rerun.blueprint as rrb

from stemseg_ros.masks import decode, label_image
from stemseg_ros.media.overlay import track_color
from stemseg_ros.records import FrameResult, Image, Instance
from stemseg_ros.view.page_server import LOOPBACK, PageServer, ViewError
from stemseg_ros.view.panels import PANELS, latency_line, layout, stage_line
from stemseg_ros.view.recording_file import REMEDY, RecordingFile

APPLICATION = "stemseg"
LEAST_FREE_BYTES = 64 * 2**20
"""On the disk of a file that is written: other programs need some, too."""
FLUSH_TIMEOUT_S = 60.0
"""Patience with the last data."""
TRAIL_FRAMES = 40
"""Length of a trail; a track unseen for so long starts a new one."""
JPEG_QUALITY = 85
MASK_OPACITY = 0.45
LEAST_LUMA = 175.0
"""Of the colours of labels, 0 to 255, on translucent black: grey where the image is light."""
MAX_CLASS_ID = 2**16 - 1
"""Highest one that rerun takes."""

BACKGROUND = rr.AnnotationInfo(0, None, (0, 0, 0, 0))
"""Not tinted."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One frame for the viewer."""

    result: FrameResult
    image: Image | None
    """None where the image that the result belongs to is not there."""
    latency_ms: float | None = None
    """None where image and result have no common clock."""
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    """Stage -> milliseconds; empty where nobody has reported since the frame before."""
    prompts: tuple[Instance, ...] = ()
    """Objects that are given in this frame, as far as they are known when it is shown."""


class Recording:
    """Takes frames and hands them to pages that are open, or to a file; a context manager."""

    def __init__(self, name: str, *, follow: bool = False) -> None:
        """follow: the page stays at the newest frame."""
        self._stream = rr.RecordingStream(APPLICATION)
        self._stream.send_recording_name(name)
        self._follow = follow
        self._trails = Trails()
        self._epoch: int | None = None
        self._file: RecordingFile | None = None
        self._server: PageServer | None = None
        self._panels: list[str] = []
        self._stages: list[str] = []
        self.frames = 0

    def save(self, path: Path) -> None:
        """Write what comes to an .rrd file, which appears at the end. Raises ViewError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_space(path)
            self._file = RecordingFile(path)
            self._stream.save(self._file.pipe, default_blueprint=self._blueprint())
            self._file.opened()
        except (OSError, RuntimeError) as error:
            raise ViewError(f"cannot write '{path}': {error}") from error

    def serve(
        self,
        port: int,
        host: str = "localhost",
        *,
        bind: str = LOOPBACK,
        open_browser: bool = False,
    ) -> str:
        """Serve a page on ``port``, its data on the next one; returns the page's address.

        host and bind as PageServer has them. Raises ViewError.
        """
        self._server = PageServer(port, host, bind)
        self._stream.connect_grpc(self._server.data, default_blueprint=self._blueprint())
        if open_browser:
            self._server.open_browser()
        return self._server.address

    def left_out(self) -> list[str]:
        """Why panels are not there, one sentence for each."""
        return [why for name, why in PANELS.items() if name not in self._panels]

    def show(self, frame: Shown) -> None:
        """Append one frame. Raises ViewError if the file cannot be written."""
        stream, result, number = self._stream, frame.result, self.frames
        self._set_times(number, result.stamp_ns)
        self.frames += 1
        if result.epoch != self._epoch:
            self._trails = Trails()
            if self._epoch is not None:
                self._show_event(f"epoch {result.epoch}: tracking starts anew")
            self._epoch = result.epoch
        self._show_image(frame.image)
        self._show_instances(result)
        if frame.latency_ms is not None:
            if "timing" not in self._panels:
                self._need("timing")
                stream.log("timing/latency_ms", latency_line(), static=True)
            stream.log("timing/latency_ms", rr.Scalars(frame.latency_ms))
        for stage, milliseconds in frame.stage_ms.items():
            self._show_stage(stage, milliseconds)
        self.show_prompts(number, result.stamp_ns, frame.prompts)
        if self._file is not None:
            self._file.check()
            _check_space(self._file.path)

    def show_prompts(self, number: int, stamp_ns: int, prompts: Sequence[Instance]) -> None:
        """Add given objects to a frame that was shown: a client may point at a past image.

        number: of the frame, from 0; stamp_ns: its stamp.
        """
        for item in prompts:
            entity = f"camera/prompts/{item.track_id}"
            self._set_times(number, stamp_ns)
            self._stream.log(
                entity,
                rr.LineStrips2D(
                    _outlines(item),
                    # The context of this frame need not name a track that begins after it.
                    colors=[bright_color(item.track_id)],
                    radii=1.5,
                    labels=[f"prompt {_name(item)}"],
                    show_labels=True,
                ),
            )
            self._set_times(number + 1, stamp_ns + 1)
            self._stream.log(entity, rr.Clear(recursive=False))

    def _set_times(self, number: int, stamp_ns: int) -> None:
        self._stream.set_time("frame", sequence=number)
        self._stream.set_time("stamp", timestamp=np.datetime64(stamp_ns, "ns"))

    def _show_event(self, text: str) -> None:
        self._need("events")
        self._stream.log("events", rr.TextLog(text))

    def _show_stage(self, stage: str, milliseconds: float) -> None:
        entity = f"stage/{stage}"
        if stage not in self._stages:
            self._need("stage")
            self._stream.log(entity, stage_line(stage, len(self._stages)), static=True)
            self._stages.append(stage)
        self._stream.log(entity, rr.Scalars(milliseconds))

    def _need(self, panel: str) -> None:
        """Add a panel to the page, at the first thing that it shows."""
        if panel not in self._panels:
            self._panels.append(panel)
            self._stream.send_blueprint(self._blueprint())

    def _blueprint(self) -> rrb.Blueprint:
        return layout(self._follow, self._panels)

    def _show_image(self, image: Image | None) -> None:
        if image is None:
            self._stream.log("camera/image", rr.Clear(recursive=False))
            self._show_event("a result whose image is not there")
            return
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        self._stream.log(
            "camera/image", rr.EncodedImage(contents=data.tobytes(), media_type="image/jpeg")
        )

    def _show_instances(self, result: FrameResult) -> None:
        items = result.instances
        ids = [_class_id(item) for item in items]
        tracks = [
            rr.AnnotationInfo(number, _name(item), bright_color(item.track_id))
            for number, item in zip(ids, items, strict=True)
        ]
        stream = self._stream
        # Of this frame alone: over a day, the tracks of a node are many.
        stream.log("camera", rr.AnnotationContext([BACKGROUND, *tracks]))
        stream.log("camera/masks", rr.SegmentationImage(_labels(result), opacity=MASK_OPACITY))
        stream.log(
            "camera/boxes",
            rr.Boxes2D(
                array=np.array([item.box for item in items], np.float32).reshape(-1, 4),
                array_format=rr.Box2DFormat.XYWH,
                labels=[f"{_name(item)} {item.score:.2f}" for item in items],
                class_ids=ids,
            ),
        )
        trails = self._trails.push(items)
        stream.log(
            "camera/trails",
            rr.LineStrips2D(trails, class_ids=ids, radii=1.5, show_labels=False),
        )

    def close(self) -> None:
        """Finish the file, or end the server; a second call does nothing. Raises ViewError."""
        file, self._file = self._file, None
        try:
            self._end()
        except ViewError:
            if file is not None:
                file.abandon()
                raise
        if file is not None:
            file.finish()

    def abandon(self) -> None:
        """End without a file; one of that name stays as it was."""
        file, self._file = self._file, None
        self.close()
        if file is not None:
            file.abandon()

    def _end(self) -> None:
        try:
            self._stream.flush(timeout_sec=FLUSH_TIMEOUT_S)
        except (RuntimeError, ValueError) as error:
            raise ViewError(f"the last frames are lost: {error}") from error
        finally:
            self._stream.disconnect()
            if self._server is not None:
                self._server.close()
                self._server = None

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _check_space(path: Path) -> None:
    """Raises ViewError before the disk is full."""
    free = shutil.disk_usage(path.parent).free
    if free < LEAST_FREE_BYTES:
        raise ViewError(
            f"cannot write '{path}': {free / 2**20:.0f} MiB are free on the disk, "
            f"{LEAST_FREE_BYTES / 2**20:.0f} are needed; {REMEDY}"
        )


class Trails:
    """Where the middles of the boxes have been."""

    def __init__(self) -> None:
        self._frame = 0
        self._ways: dict[int, deque[tuple[float, float]]] = {}
        self._seen: dict[int, int] = {}

    def push(self, instances: tuple[Instance, ...]) -> list[list[tuple[float, float]]]:
        """The trails of these instances, each with the present place as its last point."""
        self._frame += 1
        for item in instances:
            x, y, width, height = item.box
            way = self._ways.setdefault(item.track_id, deque(maxlen=TRAIL_FRAMES))
            way.append((x + width / 2, y + height / 2))
            self._seen[item.track_id] = self._frame
        for track in [t for t, seen in self._seen.items() if self._frame - seen >= TRAIL_FRAMES]:
            del self._ways[track], self._seen[track]
        return [list(self._ways[item.track_id]) for item in instances]


def _outlines(item: Instance) -> list[npt.NDArray[np.float32]]:
    """Closed lines, (N, 2) of x, y, around the parts of a mask and its holes."""
    mask = decode(item.rle).astype(np.uint8)
    lines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    # Contours run through the middles of pixels; pixel n covers n to n + 1.
    return [np.concatenate([line, line[:1]])[:, 0].astype(np.float32) + 0.5 for line in lines]


def _class_id(item: Instance) -> int:
    """The track id, as far as 16 bits go; then from 1 again."""
    return (item.track_id - 1) % MAX_CLASS_ID + 1


def _labels(result: FrameResult) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """(H, W) of class ids; uint8 where they fit, which is half of the memory in a browser."""
    items = tuple(replace(item, track_id=_class_id(item)) for item in result.instances)
    labels = label_image(replace(result, instances=items))
    return labels.astype(np.uint8) if labels.max(initial=0) < 256 else labels


def _name(item: Instance) -> str:
    return f"{item.track_id} {item.class_name}"


def bright_color(track_id: int) -> tuple[int, int, int]:
    """The colour of a track, red, green, blue, blended with white as far as its label needs to be
    readable on the dark page."""
    blue, green, red = track_color(track_id)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    white = max(0.0, (LEAST_LUMA - luma) / (255 - luma))
    red, green, blue = (round(value + white * (255 - value)) for value in (red, green, blue))
    return red, green, blue
