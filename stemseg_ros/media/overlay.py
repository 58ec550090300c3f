"""Draws results: masks on frames, contact sheets, videos."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.video
import cv2
import numpy as np

from stemseg_ros.errors import MediaError
from stemseg_ros.masks import decode
from stemseg_ros.records import FrameResult, Image, Instance

Color = tuple[int, int, int]
"""Blue, green, red in 0..255."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN_RATIO = 0.618033988749895


def track_color(track_id: int) -> Color:
    """A colour that depends on the id alone; ids that follow each other differ clearly in hue."""
    hue = track_id * GOLDEN_RATIO % 1.0
    # Three rings of colours, because the hues of n and n + 21 are nearly equal.
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.75))[track_id // 21 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_instances(
    image: Image, result: FrameResult, *, opacity: float = 0.45, labels: bool = True
) -> Image:
    """A copy of the image with every mask tinted and outlined, and "id class" on top.

    image: uint8 (H, W, 3), BGR, the frame that the result belongs to. Outlines lie inside the
    masks, so that without labels no pixel outside a mask changes. Raises ValueError if image and
    result differ in size.
    """
    if image.shape[:2] != (result.height, result.width):
        raise ValueError(
            f"image is {image.shape[1]}x{image.shape[0]}, "
            f"its result {result.width}x{result.height}"
        )
    canvas = image.copy()
    for instance in result.instances:
        _draw_mask(canvas, instance, opacity)
    if labels:
        # Largest last: where labels meet, that of the nearer object stays legible.
        for instance in sorted(result.instances, key=lambda i: i.box[2] * i.box[3]):
            _draw_label(canvas, instance)
    return canvas


def _draw_mask(canvas: Image, instance: Instance, opacity: float) -> None:
    x, y, width, height = instance.box
    if width == 0 or height == 0:
        return
    mask = decode(instance.rle)[y : y + height, x : x + width].astype(np.uint8)
    region = canvas[y : y + height, x : x + width]
    color = np.full_like(region, track_color(instance.track_id))
    tinted = cv2.addWeighted(region, 1 - opacity, color, opacity, 0)
    np.copyto(region, tinted, where=mask[..., None] > 0)
    thickness = max(1, round(min(canvas.shape[:2]) / 400))
    inner = cv2.erode(
        mask,
        np.ones((3, 3), np.uint8),
        iterations=thickness,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    np.copyto(region, color, where=(mask > inner)[..., None])


def _draw_label(canvas: Image, instance: Instance) -> None:
    """Text on a plate of the track's colour above the box, moved inside where the image ends."""
    text = f"{instance.track_id} {instance.class_name}"
    scale = text_scale(canvas)
    (width, height), baseline = cv2.getTextSize(text, FONT, scale, 1)
    plate_height = height + baseline + 2
    x = max(0, min(instance.box[0], canvas.shape[1] - width - 4))
    y = max(0, min(instance.box[1] - plate_height, canvas.shape[0] - plate_height))
    color = track_color(instance.track_id)
    cv2.rectangle(canvas, (x, y), (x + width + 3, y + plate_height - 1), color, cv2.FILLED)
    cv2.putText(canvas, text, (x + 2, y + height + 1), FONT, scale, _ink(color), 1, cv2.LINE_AA)


def text_scale(image: Image) -> float:
    """Font scale that grows with the image but stays legible (8 px) on small ones."""
    return float(np.clip(min(image.shape[:2]) / 1200, 0.35, 1.2))


def _ink(background: Color) -> Color:
    """Black or white, whichever is easier to read on the background."""
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 110 else (255, 255, 255)


def contact_sheet(
    images: Sequence[Image],
    columns: int,
    captions: Sequence[str] | None = None,
    width: int = 1600,
    gap: int = 4,
) -> Image:
    """Images in rows of ``columns`` on one sheet ``width`` pixels wide, BGR.

    All tiles have the shape of the first image; others are fitted into it without distortion.
    Raises ValueError for no images, or captions that differ in number.
    """
    if not images or columns < 1:
        raise ValueError("a contact sheet needs at least one image and one column")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    columns = min(columns, len(images))
    tile_width = max(1, (width - gap * (columns - 1)) // columns)
    tile_height = max(1, round(tile_width * images[0].shape[0] / images[0].shape[1]))
    rows = -(-len(images) // columns)
    sheet = np.full(
        (rows * (tile_height + gap) - gap, columns * (tile_width + gap) - gap, 3), 32, np.uint8
    )
    for i, image in enumerate(images):
        tile = _fit(image, tile_width, tile_height)
        if captions is not None:
            _draw_caption(tile, captions[i])
        y, x = i // columns * (tile_height + gap), i % columns * (tile_width + gap)
        sheet[y : y + tile_height, x : x + tile_width] = tile
    return sheet


def _draw_caption(tile: Image, text: str) -> None:
    scale = text_scale(tile)
    (width, height), baseline = cv2.getTextSize(text, FONT, scale, 1)
    tile[: height + baseline + 4, : width + 8] //= 3
    cv2.putText(tile, text, (4, height + 2), FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _fit(image: Image, width: int, height: int) -> Image:
    """The image scaled to fit into width x height, centred on black."""
    if image.shape[:2] == (height, width):
        return image.copy()
    scale = min(width / image.shape[1], height / image.shape[0])
    fitted = (
        max(1, min(width, round(image.shape[1] * scale))),
        max(1, min(height, round(image.shape[0] * scale))),
    )
    resized = cv2.resize(
        image, fitted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    canvas = np.zeros((height, width, 3), np.uint8)
    x, y = (width - fitted[0]) // 2, (height - fitted[1]) // 2
    canvas[y : y + fitted[1], x : x + fitted[0]] = resized
    return canvas


class VideoWriter:
    """H.264 in MP4 (yuv420p, index in front), which browsers play; a context manager.

    The first frame fixes the size, rounded up to even numbers as the pixel format wants; frames of
    another size are fitted into it. Without any frame no file appears. Raises MediaError.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        if not fps > 0:
            raise MediaError(f"{path}: a video needs a frame rate above 0, not {fps:g}")
        self.path = Path(path)
        self._rate = Fraction(fps).limit_denominator(1001)
        self._output: tuple[av.container.OutputContainer, av.video.VideoStream] | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: Image) -> None:
        """Append one frame, uint8 (H, W, 3), BGR."""
        height, width = image.shape[:2]
        with self._errors_named():
            self._output = self._output or self._open(width + width % 2, height + height % 2)
            container, stream = self._output
            even: Image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(
                _fit(even, stream.width, stream.height), format="bgr24"
            )
            container.mux(stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        if self._output is None:
            return
        container, stream = self._output
        with self._errors_named(), container:
            container.mux(stream.encode(None))

    def _open(
        self, width: int, height: int
    ) -> tuple[av.container.OutputContainer, av.video.VideoStream]:
        container = av.open(f"file:{self.path}", "w", options={"movflags": "+faststart"})
        stream = container.add_stream(
            "libx264", rate=self._rate, options={"crf": "20", "preset": "veryfast"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return container, stream

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise MediaError(
                f"cannot write the video {self.path}: {error.strerror or error}"
            ) from error
