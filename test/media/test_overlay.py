"""Drawing: what changes, what must not, and videos that come back as they went in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from stemseg_ros.errors import MediaError
from stemseg_ros.media.overlay import VideoWriter, contact_sheet, draw_instances, track_color
from stemseg_ros.records import FrameResult, Instance

Image = npt.NDArray[np.uint8]


def gray(height: int, width: int, value: int = 100) -> Image:
    return np.full((height, width, 3), value, np.uint8)


def instance(mask: npt.NDArray[np.bool_], track_id: int = 1, name: str = "car") -> Instance:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    x, y, width, height = (int(v) for v in coco_mask.toBbox(rle))
    return Instance(track_id, 1, name, 0.9, rle, (x, y, width, height))


def result(height: int, width: int, *instances: Instance) -> FrameResult:
    return FrameResult(0, 0, height, width, 0, instances)


def box_mask(height: int, width: int, rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


MASKS = {
    "inside": box_mask(60, 90, slice(20, 40), slice(30, 60)),
    "at the corner of the image": box_mask(60, 90, slice(50, 60), slice(80, 90)),
    "whole image": box_mask(60, 90, slice(0, 60), slice(0, 90)),
    "one pixel": box_mask(60, 90, slice(5, 6), slice(7, 8)),
    "empty": np.zeros((60, 90), bool),
    "with a hole": (
        box_mask(60, 90, slice(10, 50), slice(10, 50))
        & ~box_mask(60, 90, slice(20, 30), slice(20, 30))
    ),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_only_pixels_of_the_mask_change(mask: npt.NDArray[np.bool_]) -> None:
    image = gray(60, 90)
    drawn = draw_instances(image, result(60, 90, instance(mask)), labels=False)
    assert np.array_equal((drawn != image).any(axis=2), mask)
    assert (image == 100).all(), "the input stays as it was"


def test_outline_has_the_colour_of_the_track_and_the_inside_is_blended() -> None:
    inside = result(60, 90, instance(MASKS["inside"], 5))
    drawn = draw_instances(gray(60, 90), inside, opacity=0.5, labels=False)
    assert tuple(drawn[20, 30]) == track_color(5)
    assert np.abs(drawn[30, 45] - (0.5 * 100 + 0.5 * np.array(track_color(5)))).max() <= 1


@pytest.mark.parametrize("size", [(24, 32), (96, 128), (720, 1280), (1080, 1920)])
def test_label_lies_in_the_image_and_is_legible(size: tuple[int, int]) -> None:
    image = gray(*size)
    mask = box_mask(
        *size, slice(0, 3), slice(size[1] - 3, size[1])
    )  # where text would leave the image
    changed = (draw_instances(image, result(*size, instance(mask, 7))) != image).any(
        axis=2
    ) & ~mask
    rows = np.flatnonzero(changed.any(axis=1))
    assert rows.max() - rows.min() + 1 >= 10
    assert changed.sum() > 100


def test_image_and_result_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="image is 90x60, its result 80x60"):
        draw_instances(gray(60, 90), result(60, 80))


def test_near_ids_have_different_colours() -> None:
    colors = np.array([track_color(i) for i in range(1, 61)], int)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 1000 * np.eye(60, dtype=int)
    assert distance.min() >= 20
    successive = np.abs(np.diff(colors, axis=0)).sum(axis=1)
    assert successive.min() >= 120


def test_contact_sheet_places_tiles_in_rows() -> None:
    images = [gray(30, 60, value) for value in (10, 20, 30)]
    sheet = contact_sheet(images, columns=2, width=124, gap=4)
    assert sheet.shape == (64, 124, 3)
    places = ((15, 30), (15, 94), (49, 30), (49, 94), (31, 62))
    assert [int(sheet[place][0]) for place in places] == [10, 20, 30, 32, 32]


def test_contact_sheet_fits_other_shapes_without_distortion() -> None:
    sheet = contact_sheet([gray(30, 60), gray(30, 30, 200)], columns=2, width=120, gap=0)
    assert np.flatnonzero(sheet[15, 60:, 0]).tolist() == list(range(15, 45))


def test_contact_sheet_captions() -> None:
    plain = contact_sheet([gray(100, 200)], 1, width=200)
    captioned = contact_sheet([gray(100, 200)], 1, ["frame 3"], width=200)
    assert (plain != captioned).any()
    assert np.array_equal(plain[50:], captioned[50:])


@pytest.mark.parametrize(
    "images, columns, captions, words",
    [
        ([], 2, None, "at least one image"),
        ([gray(3, 4)], 0, None, "one column"),
        ([gray(3, 4)], 1, ["a", "b"], "2 captions for 1 images"),
    ],
)
def test_contact_sheet_refuses(
    images: list[Image], columns: int, captions: list[str] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        contact_sheet(images, columns, captions)


def read_video(path: Path) -> tuple[list[Image], tuple[str, str | None, Fraction | None]]:
    """Frames, and codec, pixel format and rate: a stream is gone once its file is closed."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate)
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(stream)], facts


@pytest.mark.parametrize("size, written", [((64, 96), (64, 96)), ((75, 131), (76, 132))])
def test_video_has_the_frames_written(
    tmp_path: Path, size: tuple[int, int], written: tuple[int, int]
) -> None:
    with VideoWriter(tmp_path / "v.mp4", 29.97) as writer:
        for value in (40, 120, 200):
            writer.write(gray(*size, value))
    frames, facts = read_video(tmp_path / "v.mp4")
    assert [frame.shape[:2] for frame in frames] == [written] * 3
    assert all(
        abs(frame.mean() - value) < 4 for frame, value in zip(frames, (40, 120, 200), strict=True)
    )
    assert facts == ("h264", "yuv420p", Fraction("29.97"))


def test_video_is_playable_before_it_is_loaded_whole(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 10) as writer:
        writer.write(gray(64, 64))
    data = (tmp_path / "v.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_frame_of_another_size_is_fitted(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 10) as writer:
        writer.write(gray(64, 64))
        writer.write(gray(128, 256, 220))
    frames, _ = read_video(tmp_path / "v.mp4")
    assert frames[1].shape == (64, 64, 3)
    assert frames[1][32, 32, 0] > 200 and frames[1][4, 32, 0] < 30


def test_no_frames_leave_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 10):
        pass
    assert not (tmp_path / "v.mp4").exists()


@pytest.mark.parametrize(
    "name, fps, words",
    [
        ("missing/v.mp4", 10, "cannot write the video .*missing"),
        ("v.mp4", 0, "frame rate above 0"),
    ],
)
def test_video_refuses(tmp_path: Path, name: str, fps: float, words: str) -> None:
    with pytest.raises(MediaError, match=words), VideoWriter(tmp_path / name, fps) as writer:
        writer.write(gray(64, 64))
