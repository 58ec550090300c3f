"""Requests of ~/track_masks as prompts: masks, boxes and points, ids and classes, refusals."""

from __future__ import annotations

from array import array
from itertools import count, islice
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stemseg.srv", reason="needs the built messages")

from sensor_msgs.msg import Image
from stemseg.msg import Region
from stemseg.srv import TrackMasks

from stemseg_ros.errors import PromptError
from stemseg_ros.masks import decode, encode
from stemseg_ros.records import Prompt
from stemseg_ros.ros.input.prompt_requests import read_prompts

HEIGHT, WIDTH = 48, 64
CLASSES = ("car", "person")
IN_USE = {1, 3}
NAN = float("nan")


def free_ids(number: int) -> tuple[int, ...]:
    return tuple(islice((n for n in count(1) if n not in IN_USE), number))


def label_message(encoding: str = "mono8", **fields: Any) -> Image:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8 if encoding.endswith(("8", "8UC1")) else np.uint16)
    labels[4:10, 4:12], labels[20:30, 30:40] = 200, 7
    data = array("B", labels.astype(labels.dtype.newbyteorder("<")).tobytes())
    message = Image(height=HEIGHT, width=WIDTH, encoding=encoding, data=data)
    message.step = WIDTH * labels.itemsize
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def box(x: float, y: float, width: float, height: float) -> Region:
    return Region(kind=Region.BOX, x=x, y=y, width=width, height=height)


def point(x: float, y: float) -> Region:
    return Region(kind=Region.POINT, x=x, y=y)


def ask(labels: Image | None = None, *regions: Region, **fields: Any) -> tuple[Prompt, ...]:
    request = TrackMasks.Request(labels=labels or Image(), regions=list(regions), **fields)
    return read_prompts(request, (HEIGHT, WIDTH), CLASSES, free_ids)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1"])
def test_a_label_image_gives_its_objects_by_number(encoding: str) -> None:
    first, second = ask(label_message(encoding))
    assert (first.track_id, second.track_id) == (2, 4)
    assert (first.class_id, second.class_id) == (1, 1)
    assert np.argwhere(decode(first.rle)).min(0).tolist() == [20, 30]  # number 7, then 200
    assert np.count_nonzero(decode(second.rle)) == 6 * 8


def test_regions_follow_the_label_image() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[40:44, 3:9] = True
    given = Region(kind=Region.MASK, mask_rle=array("B", encode(mask)["counts"]))
    regions = (given, box(20, 2, 20, 10), point(50.5, 40.5))
    prompts = ask(label_message(), *regions, track_ids=[0, 9, 0, 2, 0])
    assert [p.track_id for p in prompts] == [4, 9, 5, 2, 6]
    masks = [decode(p.rle) for p in prompts[2:]]
    np.testing.assert_array_equal(masks[0], mask)
    rows, columns = np.nonzero(masks[1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 11, 20, 39)
    assert masks[1].sum() == pytest.approx(np.pi / 4 * 20 * 10, rel=0.05)
    assert masks[2][40, 50]
    assert masks[2].sum() == pytest.approx(np.pi * 4**2, rel=0.1)


@pytest.mark.parametrize(
    ("names", "expected"), [([], [1, 1]), (["person"], [2, 2]), (["person", "car"], [2, 1])]
)
def test_classes_by_name(names: list[str], expected: list[int]) -> None:
    assert [p.class_id for p in ask(label_message(), class_names=names)] == expected


@pytest.mark.parametrize(
    ("labels", "regions", "fields", "reason"),
    [
        (None, (), {}, "no object: 'labels' holds no pixel above 0, and 'regions' is empty"),
        (label_message(height=24), (), {}, "labels: 64x24 pixels, the image 64x48"),
        (label_message(encoding="bgr8"), (), {}, "labels: encoding 'bgr8' holds no labels"),
        (label_message(step=5), (), {}, "labels: step of 5 bytes is less"),
        (label_message(data=array("B", [1])), (), {}, "labels: truncated image"),
        (None, [point(1, 1)] * 300, {}, "300 objects; at most 255 are accepted"),
        (None, [point(NAN, 1)], {}, "region 1: its numbers are not all finite: nan, 1$"),
        (None, [point(64, 1)], {}, r"region 1: the point \(64, 1\) lies outside"),
        (None, [point(1, 1), box(1, 1, 0, 5)], {}, "region 2: the box of 0x5 pixels holds none"),
        (None, [box(1, 1, float("inf"), 5)], {}, "region 1: its numbers are not all finite"),
        (None, [box(60, 1, 5, 5)], {}, r"to \(65, 6\) leaves the image of 64x48"),
        (None, [Region(kind=7)], {}, "region 1: kind 7 does not exist"),
        (None, [Region(mask_rle=[48] * 4000)], {}, "region 1: 4000 bytes .* are no mask"),
        (label_message(), (), {"track_ids": [4]}, "1 track_ids for 2 objects"),
        (label_message(), (), {"class_names": ["car"] * 3}, "3 class_names for 2 objects"),
        (label_message(), (), {"class_names": ["cow"]}, "no class 'cow'; classes are car, person"),
    ],
)
def test_what_cannot_be_read_is_refused(
    labels: Image | None, regions: Any, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(PromptError, match=reason):
        ask(labels, *regions, **fields)
