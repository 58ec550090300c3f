"""Repair of machine-made labels, on textured boxes that drive over a textured ground."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from driving_pack import tiny_config, write_pack
from hypothesis import given, settings
from hypothesis import strategies as st

from stemseg_ros.config import load_config
from stemseg_ros.datasets.pseudo_label_repair import repair
from stemseg_ros.datasets.sequence import IGNORE_LABEL, DataError, LabelArray, LabelledFrame
from stemseg_ros.datasets.settings import DatasetConfig
from stemseg_ros.training.batches import load_sources
from stemseg_ros.training.settings import TrainingConfig

HEIGHT, WIDTH, FRAMES = 96, 192, 10


@dataclass(frozen=True)
class Box:
    """A car: it starts at (top, left) and drives so many pixels a frame to the right."""

    label: int
    top: int
    left: int
    speed: int
    height: int = 24
    width: int = 36

    def area(self, frame: int) -> tuple[slice, slice]:
        left = self.left + frame * self.speed
        return np.s_[self.top : self.top + self.height, left : left + self.width]


LEFT, RIGHT = Box(1001, 30, 24, 2), Box(1002, 30, 100, 2)


def video(*boxes: Box) -> list[LabelledFrame]:
    frames = []
    for t in range(FRAMES):
        image, labels = texture(0, HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH), np.int32)
        for box in boxes:
            seen = labels[box.area(t)].shape[1]  # the rest has left the image
            image[box.area(t)] = texture(box.label, box.height, box.width)[:, :seen]
            labels[box.area(t)] = box.label
        labels[-6:, :] = IGNORE_LABEL
        frames.append(LabelledFrame(image, labels))
    return frames


def texture(seed: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (height // 6, width // 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def edited(
    frames: list[LabelledFrame], *edits: tuple[int, tuple[slice, slice] | slice, int]
) -> list[LabelledFrame]:
    """(frame, area, label) painted over the labels."""
    labels = [frame.labels.copy() for frame in frames]
    for frame, area, label in edits:
        labels[frame][area] = label
    return [replace(frame, labels=image) for frame, image in zip(frames, labels, strict=True)]


def rear(box: Box, frame: int, share: float = 0.3) -> tuple[slice, slice]:
    rows, columns = box.area(frame)
    return rows, slice(columns.stop - round(share * box.width), columns.stop)


def stack(frames: list[LabelledFrame]) -> LabelArray:
    return np.stack([frame.labels for frame in frames])


@settings(max_examples=12, deadline=None)
@given(
    top=st.integers(4, 40),
    left=st.integers(12, 40),
    gap=st.integers(2, 20),
    speeds=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_clean_labels_stay_as_they_are(
    top: int, left: int, gap: int, speeds: tuple[int, int]
) -> None:
    a = Box(1001, top, left, min(speeds))
    b = Box(1002, top + 5, left + a.width + gap, max(speeds))
    frames = video(a, b)
    repaired, report = repair(frames)
    assert np.array_equal(stack(repaired), stack(frames))
    assert (report.merged, report.rejoined, report.parted, report.ignored_pixels) == (0, 0, 0, 0)
    assert all(new.image is old.image for new, old in zip(repaired, frames, strict=True))


@pytest.mark.parametrize("split", [(4,), (0,), (9,), (3, 6), (4, 5)])
def test_a_piece_goes_back_to_its_car(split: tuple[int, ...]) -> None:
    clean = video(LEFT, RIGHT)
    repaired, report = repair(edited(clean, *((t, rear(LEFT, t), 1003) for t in split)))
    assert np.array_equal(stack(repaired), stack(clean))
    assert (report.merged, report.ids_before, report.ids_after) == (len(split), 3, 2)


def test_a_break_is_rejoined() -> None:
    clean = video(LEFT, RIGHT)
    broken = edited(clean, *((t, LEFT.area(t), 1007) for t in range(5, FRAMES)))
    repaired, report = repair(broken)
    assert np.array_equal(stack(repaired), stack(clean))
    assert report.rejoined == 1


@pytest.mark.parametrize("missing", [(4,), (4, 5), (4, 5, 6)])
def test_a_break_is_rejoined_over_a_gap(missing: tuple[int, ...]) -> None:
    clean = video(LEFT, RIGHT)
    gap = [(t, LEFT.area(t), 0) for t in missing]
    later = [(t, LEFT.area(t), 1007) for t in range(missing[-1] + 1, FRAMES)]
    repaired, _ = repair(edited(clean, *gap, *later))
    expected = stack(clean)
    for t in (*range(missing[0]), *range(missing[-1] + 1, FRAMES)):
        assert np.array_equal(repaired[t].labels, expected[t])


def test_a_change_of_id_within_a_shared_frame_is_rejoined() -> None:
    clean = video(LEFT, RIGHT)
    later = [(t, LEFT.area(t), 1007) for t in range(6, FRAMES)]
    repaired, report = repair(edited(clean, (5, rear(LEFT, 5, 0.5), 1007), *later))
    assert np.array_equal(stack(repaired), stack(clean))
    assert report.ids_after == 2


def test_two_cars_that_touch_are_never_merged() -> None:
    beside = replace(RIGHT, left=LEFT.left + LEFT.width)
    frames = edited(video(LEFT, beside), (2, beside.area(2), LEFT.label))
    repaired, report = repair(frames)
    assert report.merged == 0
    assert {1001, 1002} <= set(np.unique(repaired[5].labels))


def test_two_cars_under_one_mask_are_ignored() -> None:
    beside = replace(RIGHT, left=LEFT.left + LEFT.width)
    clean = video(LEFT, beside)
    repaired, _ = repair(edited(clean, (4, beside.area(4), LEFT.label)))
    assert np.all(repaired[4].labels[beside.area(4)] == IGNORE_LABEL)
    others = [t for t in range(FRAMES) if t != 4]
    assert np.array_equal(stack(repaired)[others], stack(clean)[others])


def test_a_flickering_speck_is_ignored() -> None:
    clean, speck = video(LEFT, RIGHT), np.s_[70:80, 60:75]
    repaired, report = repair(edited(clean, (5, speck, 1009)))
    assert np.all(repaired[5].labels[speck] == IGNORE_LABEL)
    assert report.ignored_pixels == 150 and report.ignored_masks == 1


def test_a_hole_in_time_is_ignored() -> None:
    clean = video(LEFT, RIGHT)
    repaired, _ = repair(edited(clean, (5, LEFT.area(5), 0)))
    assert (repaired[5].labels[LEFT.area(5)] == IGNORE_LABEL).mean() > 0.8
    assert np.array_equal(repaired[4].labels, clean[4].labels)


def test_an_id_that_jumps_to_another_car_is_cut() -> None:
    clean = video(LEFT, RIGHT)
    jump = [(t, LEFT.area(t), 0) for t in range(5, FRAMES)]
    jump += [(t, RIGHT.area(t), LEFT.label) for t in range(5, FRAMES)]
    repaired, report = repair(edited(clean, *jump))
    assert report.parted == 1
    found = [set(np.unique(frame.labels[RIGHT.area(t)])) for t, frame in enumerate(repaired)]
    assert found == [{RIGHT.label}] * FRAMES  # cut, and rejoined with what came before


def test_a_car_that_leaves_is_kept() -> None:
    leaving = Box(1003, 60, WIDTH - 44, 10, width=34)
    frames = edited(video(LEFT, leaving), *((t, np.s_[60:84], 0) for t in range(2)))
    repaired, _ = repair(frames)
    assert np.all(repaired[3].labels[leaving.area(3)] == 1003)


def test_classes_are_never_mixed() -> None:
    clean = video(LEFT, RIGHT)
    repaired, report = repair(edited(clean, (5, rear(LEFT, 5), 2001)))
    assert report.merged == 0
    assert np.all(repaired[5].labels[rear(LEFT, 5)] == IGNORE_LABEL)


def test_short_videos_and_stills_come_back_as_they_are() -> None:
    frames = video(LEFT)[:3]
    repaired, report = repair(frames)
    assert repaired == frames and report.ignored_pixels == 0


def test_a_video_without_objects() -> None:
    repaired, report = repair(video())
    assert (stack(repaired)[:, :-6] == 0).all() and report.ids_before == report.ids_after == 0


def test_the_setting_repairs_what_training_sees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_pack(tmp_path)
    label = data / "clips" / "0000" / "000004.png"
    pixels = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
    piece = pixels == 1001
    piece[:, : np.argwhere(piece)[:, 1].max() - 9] = False  # the right end of the first car
    cv2.imwrite(str(label), np.where(piece, 1003, pixels).astype(np.uint16))
    for switch, expected in ((False, 1003), (True, 1001)):
        config = tiny_config(mix={"clips": {"weight": 1.0, "repair": switch}})
        with caplog.at_level(logging.INFO, "stemseg_ros.datasets.pseudo_label_repair"):
            sources = load_sources(config, data)
        assert set(np.unique(sources["clips"][0][4].labels[piece])) == {expected}
    assert "clips/0000 repaired: 3 -> 2 ids, 1 masks merged" in caplog.text


def test_repair_refuses_frames_of_different_sizes(tmp_path: Path) -> None:
    data = write_pack(tmp_path)
    stem = data / "clips" / "0000" / "000004"
    cv2.imwrite(f"{stem}.jpg", np.zeros((64, 128, 3), np.uint8))
    cv2.imwrite(f"{stem}.png", np.zeros((64, 128), np.uint16))
    config = tiny_config(mix={"clips": {"weight": 1.0, "repair": True}})
    with pytest.raises(DataError, match=r"clips/0000, frame 4: 128x64 in a video of 160x96"):
        load_sources(config, data)


def test_the_former_name_of_the_setting() -> None:
    with pytest.warns(FutureWarning, match="'mend' is now 'repair'"):
        assert DatasetConfig.model_validate({"mend": True}).repair


def test_nothing_is_repaired_unless_requested() -> None:
    assert TrainingConfig().mix == {} and not DatasetConfig().repair
    mix = load_config("lite_3").training.mix
    assert [name for name, entry in mix.items() if entry.repair] == ["clips"]
