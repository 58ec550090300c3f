"""Training clips: labels move with the pixels, identities hold, everything follows from the
seed."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from stemseg_ros.config import Config, load_config
from stemseg_ros.datasets.sequence import IGNORE_LABEL, LabelledFrame, Sources
from stemseg_ros.models.stemseg.targets import grid_targets
from stemseg_ros.training.batches import make_batch
from stemseg_ros.training.clip_motion import affine, draw_motion
from stemseg_ros.training.clips import Clip, draw_clip, warp
from stemseg_ros.training.pasting import NO_PEOPLE, People, paste_objects

COLOURS = {1001: (200, 30, 30), 1002: (30, 200, 30), 2001: (30, 30, 200)}


def painted(columns: int = 200, rows: int = 120, shift: int = 0) -> LabelledFrame:
    """An image whose colour tells the label of every pixel."""
    image = np.zeros((rows, columns, 3), np.uint8)
    labels = np.zeros((rows, columns), np.int32)
    for number, (label, colour) in enumerate(COLOURS.items()):
        box = np.s_[
            30 + 10 * number : 70 + 10 * number,
            15 + 55 * number + shift : 55 + 55 * number + shift,
        ]
        image[box], labels[box] = colour, label
    return LabelledFrame(image, labels)


def config(**training: object) -> Config:
    settings = {"crop": [96, 128], "copy_paste": 0.0, "mix": {"a": 1.0}, **training}
    return load_config("lite", {f"training.{name}": value for name, value in settings.items()})


def pasted_on(base: Clip, sources: Sources, seed: int, people: People = NO_PEOPLE) -> Clip:
    """The clip with objects of other images."""
    clip = Clip(base.frames.copy(), base.labels.copy())
    paste_objects(clip.frames, clip.labels, sources, np.random.default_rng(seed), people)
    return clip


def label_of_colour(frames: np.ndarray) -> np.ndarray:
    """Label by the strongest channel, 0 where all are weak."""
    order = np.array([1001, 1002, 2001])
    return np.where(frames.max(-1) > 60, order[frames.argmax(-1)], 0)


def inner(labels: np.ndarray) -> np.ndarray:
    """Pixels whose neighbourhood has one label: resampling blends the others."""
    kernel = np.ones((9, 9), np.uint8)
    volume = labels.astype(np.uint16)
    return np.stack([cv2.erode(frame, kernel) == cv2.dilate(frame, kernel) for frame in volume])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("frames", [1, 8], ids=["still", "video"])
def test_labels_move_with_the_pixels(frames: int, seed: int) -> None:
    sources: Sources = {"a": [[painted(shift=2 * t) for t in range(frames)]]}
    clip = draw_clip(sources, config(copy_paste=0.5), np.random.default_rng(seed))
    assert clip.frames.shape == (4, 96, 128, 3)
    assert clip.frames.dtype == np.uint8
    assert set(np.unique(clip.labels)) <= {0, *range(1001, 1010), *range(2001, 2010)}
    original = np.isin(clip.labels, list(COLOURS))  # pasted objects have new numbers
    sure = inner(clip.labels) & original
    assert (label_of_colour(clip.frames)[sure] == clip.labels[sure]).mean() > 0.98


def test_identities_hold_over_a_video_clip() -> None:
    sources: Sources = {"a": [[painted(shift=2 * t) for t in range(8)]]}
    clip = draw_clip(sources, config(scale=[0.8, 0.8]), np.random.default_rng(3))
    for label in set(np.unique(clip.labels)) - {0}:
        middles = [np.argwhere(frame == label).mean(0) for frame in clip.labels]
        steps = np.diff(middles, axis=0)
        assert np.abs(steps[:, 0]).max() < 1, "no vertical motion"
        assert np.ptp(steps[:, 1]) <= 1, "the same step every time, but for rounding"


def test_a_seed_gives_one_clip_and_another_gives_another() -> None:
    sources: Sources = {"a": [[painted()]]}
    settings = config(copy_paste=0.5)
    first, again, other = (
        draw_clip(sources, settings, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.frames != other.frames).any()


def test_ignored_pixels_stay_ignored() -> None:
    frame = painted()
    frame.labels[:20] = IGNORE_LABEL
    shift = np.array([[1.0, 0, 5], [0, 1, 7], [0, 0, 1]])
    clip = warp([frame], [shift], (120, 200))
    assert (clip.labels[0, 7:27, 5:] == IGNORE_LABEL).all()
    assert (clip.labels[0, :7] == 0).all()
    assert (clip.labels[0, :, :5] == 0).all()


def test_objects_that_leave_the_frame_are_gone_there_and_come_back() -> None:
    shifts = [np.array([[1.0, 0, x], [0, 1, 0], [0, 0, 1]]) for x in (0, -40, -90, 0)]
    clip = warp([painted()] * 4, shifts, (96, 128))
    seen = [(frame == 1001).sum() for frame in clip.labels]
    assert seen[0] == seen[3] > seen[1] > seen[2] == 0
    assert (clip.labels[1][:, :15] == 1001).any(), "what is left of it keeps its label"
    targets = grid_targets(clip.labels, config())
    first = next(mask for mask in targets.masks if mask[0, 10, 5])  # a cell of 1001
    assert [bool(frame.any()) for frame in first] == [True, True, False, True]


def striped() -> LabelledFrame:
    labels = np.zeros((300, 400), np.int32)
    frame = LabelledFrame(np.full((300, 400, 3), (60, 120, 90), np.uint8), labels)
    frame.image[::8] = 200  # something that blur can blur
    return frame


def test_colour_and_blur_are_drawn_for_each_frame_of_a_still() -> None:
    sources: Sources = {"a": [[striped()]]}
    for seed in range(3):
        clip = draw_clip(sources, config(scale=[1.5, 1.5]), np.random.default_rng(seed))
        assert len({tuple(frame[48, 64]) for frame in clip.frames}) > 1


def test_stills_move_as_far_as_in_the_paper() -> None:
    """Rotation up to 10 degrees, shift up to 10 % of the crop, scale 0.8 to 1.2."""
    rng = np.random.default_rng(0)
    height, width = 100, 200
    found = []
    for _ in range(1000):
        matrix = affine((height, width), *draw_motion((height, width), rng))
        middle = matrix @ (width / 2, height / 2, 1)
        found.append(
            (
                np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])),
                middle[0] / width - 0.5,
                middle[1] / height - 0.5,
                np.hypot(matrix[0, 0], matrix[0, 1]),
            )
        )
    assert np.min(found, axis=0) == pytest.approx([-10, -0.1, -0.1, 0.8], rel=0.02)
    assert np.max(found, axis=0) == pytest.approx([10, 0.1, 0.1, 1.2], rel=0.02)


def test_three_of_five_stills_move_steadily_and_the_rest_frame_by_frame() -> None:
    frame = LabelledFrame(np.zeros((96, 128, 3), np.uint8), np.zeros((96, 128), np.int32))
    frame.labels[44:53, 60:69] = 1001  # in the middle, from where no motion takes it out
    sources: Sources = {"a": [[frame]]}
    rng, settings = np.random.default_rng(0), config(scale=[1.0, 1.0])
    steady = 0
    for _ in range(300):
        labels = draw_clip(sources, settings, rng).labels
        places = [np.argwhere(image == 1001).mean(0) for image in labels]
        steady += bool(np.abs(np.diff(places, n=2, axis=0)).max() < 1.5)  # but for rounding
    assert steady / 300 == pytest.approx(0.6, abs=0.08)


def test_a_video_has_one_change_of_tones() -> None:
    sources: Sources = {"a": [[striped()] * 8]}
    changed = False
    for seed in range(3):
        clip = draw_clip(sources, config(scale=[1.5, 1.5]), np.random.default_rng(seed))
        assert (clip.frames == clip.frames[0]).all()
        changed |= bool((clip.frames[0] != striped().image[0, 0]).any())
    assert changed


def test_videos_are_mirrored_as_a_whole() -> None:
    sources: Sources = {"a": [[painted(shift=t) for t in range(8)]]}
    orders = []
    for seed in range(8):
        clip = draw_clip(sources, config(crop=[96, 224]), np.random.default_rng(seed))
        places = [
            [np.argwhere(frame == label).mean(0)[1] for label in (1001, 1002)]
            for frame in clip.labels
            if {1001, 1002} <= set(np.unique(frame))
        ]
        order = {left < right for left, right in places}
        assert len(order) <= 1
        orders += order
    assert set(orders) == {True, False}


def test_pasted_objects_are_new_and_in_front() -> None:
    still: Sources = {"a": [[painted()]]}
    base = warp([painted()] * 4, [np.eye(3)] * 4, (120, 200))
    pasted = [pasted_on(base, still, seed) for seed in range(10)]
    new = [clip for clip in pasted if set(np.unique(clip.labels)) - set(np.unique(base.labels))]
    assert len(new) >= 7
    for clip in new:
        changed = clip.labels != base.labels
        assert not np.isin(clip.labels[changed], [0, *COLOURS]).any(), (
            "only new identities cover old ones"
        )
    np.testing.assert_array_equal(base.labels[0], painted().labels)  # the source is untouched


def test_entries_of_a_mix_can_have_their_own_crop_and_scale() -> None:
    """A batch holds one size; over many batches the entries keep their shares."""
    sources: Sources = {"a": [[painted()]], "b": [[painted()]], "c": [[painted()]]}
    mix = {
        "a": 0.5,
        "b": {"weight": 0.3, "crop": [96, 96], "scale": [3.0, 3.0]},
        "c": {"weight": 0.2, "crop": [96, 96]},
    }
    settings = config(mix=mix, batch_size=2, scale=[1.0, 1.0])
    found: Counter[str] = Counter()
    for step in range(200):
        batch = make_batch(sources, settings, step)
        names = [name[0] for name in batch.names]
        assert batch.clips.shape[-2:] == ((96, 128) if "a" in names else (96, 96))
        assert "a" not in names or set(names) == {"a"}
        found.update(names)
    assert [found[name] / 400 for name in "abc"] == pytest.approx([0.5, 0.3, 0.2], abs=0.07)


def test_the_scale_of_an_entry_is_used() -> None:
    sources: Sources = {"a": [[painted()]]}
    areas = []
    for scale in (1.0, 2.0):
        mix = {"a": {"weight": 1.0, "scale": [scale, scale], "crop": [256, 384]}}
        clip = draw_clip(sources, config(mix=mix), np.random.default_rng(1))
        areas.append(max(np.count_nonzero(clip.labels[0] == label) for label in COLOURS))
    assert areas[1] > 3 * areas[0]


def test_crops_of_an_entry_lie_on_the_class_in_its_focus() -> None:
    sources: Sources = {"a": [[painted()]]}
    shares = {}
    for focus in (None, "pedestrian"):
        settings = config(mix={"a": {"focus": focus}}, crop=[32, 32], scale=[1.5, 1.5])
        clips = [draw_clip(sources, settings, np.random.default_rng(seed)) for seed in range(60)]
        shares[focus] = np.mean([np.any(clip.labels // 1000 == 2) for clip in clips])
    assert shares["pedestrian"] > 0.7 > 0.55 > shares[None]


def test_people_are_pasted_upright_whole_and_behind_what_stands_nearer() -> None:
    body = np.zeros((120, 200), np.int32)
    body[20:100, 90:120] = 2001
    people: Sources = {"a": [[LabelledFrame(np.full((120, 200, 3), 250, np.uint8), body)]]}
    labels = np.zeros((400, 200), np.int32)
    labels[200:] = 1001  # reaches the lower border: nearer than anyone
    street = LabelledFrame(np.full((400, 200, 3), 90, np.uint8), labels)
    base = warp([street] * 4, [np.eye(3)] * 4, (400, 200))
    seen = 0
    for seed in range(20):
        clip = pasted_on(base, people, seed, People(2, 1.0))
        new = clip.labels // 1000 == 2
        assert not new[:, 200:].any(), "the car hides them"
        assert (clip.frames[new] > 120).mean() > 0.95 if new.any() else True
        assert (clip.labels[:, 200:] == 1001).all()
        seen += bool(new.any())
    assert seen >= 10
