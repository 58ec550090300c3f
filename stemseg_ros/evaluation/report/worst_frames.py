"""Pictures of the report: the worst frames, and every id switch, ground truth beside results."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from stemseg_ros.evaluation.inputs import Images
from stemseg_ros.evaluation.matches import IdSwitch, MatchDiagnostics
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.masks import decode
from stemseg_ros.media.overlay import contact_sheet, draw_instances
from stemseg_ros.media.sources import numbered_frames
from stemseg_ros.records import FrameResult, Image, Instance

WORST = 6
"""Number of frames shown."""
APART = 5
"""Least distance in frames between two worst frames of a sequence."""
PAGE_WIDTH = 1600
TILE_WIDTH = 260
JPEG_QUALITY = 80
BLANK = 90
"""Grey of frames without an image."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and its caption."""

    caption: str
    jpeg: str
    """Base64."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One sequence: true and predicted masks, and its images if available."""

    truth: SequenceMasks
    result: SequenceMasks
    images: Images | None

    def frames(self, wanted: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """Yield the wanted frames in order, one at a time; grey if there is no image, or none that
        can be read. Raises MediaError."""
        left = sorted(set(wanted))
        blank = np.full((*self.result.size, 3), BLANK, np.uint8)
        for index, image in self._read(left[-1] if left else -1):
            while left and left[0] <= index:
                frame = left.pop(0)
                yield frame, image if frame == index else blank
        yield from ((frame, blank) for frame in left)

    def _read(self, last: int) -> Iterator[tuple[int, Image]]:
        """Yield the readable frames up to number ``last``."""
        if self.images is None or last < 0:
            return
        with self.images.open() as source:
            for position, _, image in numbered_frames(source):
                index = self.images.frame(position)
                if index > last:
                    return
                if index >= 0:
                    yield index, image


def worst_frames(diagnostics: Mapping[str, MatchDiagnostics]) -> list[tuple[str, int]]:
    """(sequence, frame) of most mistakes, not all from one moment."""
    ranked = sorted(
        (
            (found.frames[frame].cost, name, frame)
            for name, found in diagnostics.items()
            for frame in found.frames
        ),
        key=lambda item: -item[0],
    )
    chosen: list[tuple[str, int]] = []
    for cost, name, frame in ranked:
        near = any(name == other and abs(frame - at) < APART for other, at in chosen)
        if len(chosen) < WORST and cost > 0 and not near:
            chosen.append((name, frame))
    return chosen


def switch_frames(switch: IdSwitch, length: int) -> list[int]:
    """Frames of a strip: two before, two after, and one in between where the object was lost."""
    middle = (
        [(switch.previous_frame + switch.frame) // 2]
        if switch.frame - switch.previous_frame > 1
        else []
    )
    frames = [
        switch.previous_frame - 1,
        switch.previous_frame,
        *middle,
        switch.frame,
        switch.frame + 1,
    ]
    return [frame for frame in frames if 0 <= frame < length]


def scene_pictures(
    scene: Scene, found: MatchDiagnostics, worst: Collection[int]
) -> tuple[dict[int, Picture], list[Picture]]:
    """Pictures of the worst frames, by frame, and of every id switch of a sequence.

    A switch is a strip of crops: results filled, the true object outlined in white. Raises
    MediaError.
    """
    strips = [switch_frames(switch, scene.result.frames) for switch in found.switches]
    tiles: list[list[Image]] = [[] for _ in strips]
    crops = [
        _crop(scene.truth, switch.truth_id, strip)
        for switch, strip in zip(found.switches, strips, strict=True)
    ]
    pictures = {}
    for frame, image in scene.frames([*worst, *(frame for strip in strips for frame in strip)]):
        drawn = draw_instances(image, _frame(scene.result, frame, image))
        if frame in worst:
            pictures[frame] = _frame_picture(scene, frame, image, drawn, found)
        for switch, strip, tile, crop in zip(found.switches, strips, tiles, crops, strict=True):
            if frame in strip:
                tile.append(_outlined(drawn, scene.truth, switch.truth_id, frame)[crop].copy())
    return pictures, [
        _switch_picture(scene.truth.name, *item)
        for item in zip(found.switches, strips, tiles, strict=True)
    ]


def _frame_picture(
    scene: Scene, frame: int, image: Image, drawn: Image, found: MatchDiagnostics
) -> Picture:
    """Ground truth on the left, results on the right."""
    errors = found.frames[frame]
    left = draw_instances(_darkened(image, scene.truth, frame), _frame(scene.truth, frame, image))
    sheet = contact_sheet([left, drawn], 2, ["ground truth", "results"], PAGE_WIDTH)
    return Picture(
        f"{scene.truth.name}, frame {frame}: {errors.missed} missed, {errors.false} false, "
        f"{errors.switched} switched, {errors.matched} matched",
        _jpeg(sheet),
    )


def _switch_picture(name: str, switch: IdSwitch, frames: list[int], tiles: list[Image]) -> Picture:
    sheet = contact_sheet(
        tiles, len(tiles), [f"frame {frame}" for frame in frames], TILE_WIDTH * len(tiles)
    )
    return Picture(
        f"{name}, {switch.class_name} {switch.truth_id}: result {switch.previous_id} in frame "
        f"{switch.previous_frame}, {switch.id} in frame {switch.frame}",
        _jpeg(sheet),
    )


def _outlined(drawn: Image, truth: SequenceMasks, truth_id: int, frame: int) -> Image:
    """A copy with the true object's outline, where it is visible."""
    image = drawn.copy()
    for row in truth.rows:
        if row.frame == frame and row.id == truth_id:
            outline, _ = cv2.findContours(
                decode(row.rle).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(image, outline, -1, (255, 255, 255), 1)
    return image


def _crop(truth: SequenceMasks, truth_id: int, frames: Collection[int]) -> tuple[slice, slice]:
    """A window around a true object in some frames, with as much again around it."""
    masks = [row.rle for row in truth.rows if row.id == truth_id and row.frame in frames]
    x, y, width, height = coco_mask.toBbox(coco_mask.merge(masks))
    margin = max(width, height, 48) / 2
    return (
        slice(max(0, int(y - margin)), min(truth.size[0], int(y + height + margin))),
        slice(max(0, int(x - margin)), min(truth.size[1], int(x + width + margin))),
    )


def _frame(sequence: SequenceMasks, frame: int, image: Image) -> FrameResult:
    instances = []
    for row in sequence.rows:
        if row.frame == frame:
            x, y, width, height = (int(side) for side in coco_mask.toBbox(row.rle))
            instances.append(
                Instance(
                    row.id,
                    row.class_id,
                    sequence.classes[row.class_id],
                    1.0,
                    row.rle,
                    (x, y, width, height),
                )
            )
    return FrameResult(frame, 0, image.shape[0], image.shape[1], 0, tuple(instances))


def _darkened(image: Image, truth: SequenceMasks, frame: int) -> Image:
    """Ignored pixels in black."""
    if frame not in truth.ignored:
        return image
    return np.where(decode(truth.ignored[frame])[..., None], np.uint8(0), image)


def _jpeg(image: Image) -> str:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode()
