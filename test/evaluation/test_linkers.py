"""Identities for per-frame masks: by optical flow, by distance of vectors, by association."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from stemseg_ros.config import load_config
from stemseg_ros.evaluation.inputs import Images
from stemseg_ros.evaluation.linkers import (
    AppearanceLinker,
    AssociationLinker,
    FlowLinker,
    FrameMasks,
    Linker,
    assign,
    relink,
    warp_mask,
)
from stemseg_ros.evaluation.mask_embeddings import MaskEmbedder
from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.masks import encode
from stemseg_ros.models.stc.settings import AssociationConfig
from stemseg_ros.stream import open_model

HEIGHT, WIDTH, SIDE = 96, 160, 24
CAR, PEDESTRIAN = 1, 2
Place = tuple[int, int, int, int]
"""Object, class, left, top."""


def texture(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


def scene(*places: Place) -> FrameMasks:
    """Textured squares; each object has its own texture."""
    image = texture(99, HEIGHT, WIDTH) // 4
    masks = np.zeros((len(places), HEIGHT, WIDTH), bool)
    for mask, (number, _, left, top) in zip(masks, places, strict=True):
        box = np.s_[top : top + SIDE, left : left + SIDE]
        image[box], mask[box] = texture(number, SIDE, SIDE), True
    labels = np.array([place[1] for place in places], np.int64)
    return FrameMasks(image, masks, labels, np.ones(len(places)))


class Known:
    """Vectors by the texture's first pixel, so that they follow the object."""

    def __init__(self, by_object: dict[int, Sequence[float]]) -> None:
        self._known = {
            texture(n, SIDE, SIDE)[0, 0].tobytes(): np.array(v, float)
            for n, v in by_object.items()
        }

    def __call__(self, frame: FrameMasks) -> np.ndarray:
        corners = [np.argwhere(mask)[0] for mask in frame.masks]
        found = [self._known[frame.image[y, x].tobytes()] for y, x in corners]
        return np.array(found).reshape(len(found), 2)


APART = {1: (8.0, 0.0), 2: (0.0, 8.0), 3: (-8.0, 0.0)}


def ids(linker: Linker, *frames: FrameMasks) -> list[list[int]]:
    return [linker.link(frame) for frame in frames]


def test_flow_follows_objects_that_leave_their_old_place_within_a_frame() -> None:
    """14 of 24 pixels a frame: plain overlap is 0.26, that of the warped mask about 1."""
    frames = [scene((1, CAR, 14 * t, 8), (2, CAR, 120 - 14 * t, 56)) for t in range(6)]
    assert ids(FlowLinker(), *frames) == [[1, 2]] * 6


def test_a_warped_mask_lies_where_the_object_is() -> None:
    first, second = scene((1, CAR, 40, 20)), scene((1, CAR, 52, 26))
    grey = [cv2.cvtColor(f.image, cv2.COLOR_BGR2GRAY) for f in (first, second)]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    warped = warp_mask(first.masks[0], np.asarray(flow.calc(grey[1], grey[0], None)))
    both = np.count_nonzero(warped & second.masks[0])
    assert both / np.count_nonzero(warped | second.masks[0]) > 0.8


def test_flow_assigns_within_a_class_and_forgets() -> None:
    still, other = (1, CAR, 40, 20), (1, PEDESTRIAN, 40, 20)
    assert ids(FlowLinker(), scene(still), scene(other), scene(still)) == [[1], [2], [1]]
    assert ids(FlowLinker(), scene(still), *[scene()] * 9, scene(still))[-1] == [1]
    assert ids(FlowLinker(), scene(still), *[scene()] * 10, scene(still))[-1] == [2]


@pytest.mark.parametrize("kind", ["ri", "stc"])
def test_appearance_tells_crossed_objects_apart_where_flow_cannot(kind: str) -> None:
    """The two exchange their places between two frames."""
    frames = [scene((1, CAR, 20, 20), (2, CAR, 90, 40)), scene((2, CAR, 20, 20), (1, CAR, 90, 40))]
    linker: Linker = AppearanceLinker(Known(APART))
    if kind == "stc":
        linker = AssociationLinker(Known(APART), AssociationConfig(iou_weight=0.3))
    assert ids(linker, *frames) == [[1, 2], [2, 1]]
    assert ids(FlowLinker(), *frames) == [[1, 2], [1, 2]]


def test_far_vectors_and_other_classes_are_other_objects() -> None:
    linker = AppearanceLinker(Known(APART))
    frames = [scene((1, CAR, 20, 20)), scene((3, CAR, 20, 20)), scene((1, PEDESTRIAN, 20, 20))]
    assert ids(linker, *frames, scene((1, CAR, 60, 20))) == [[1], [2], [3], [1]]


def test_association_drops_no_mask() -> None:
    """Masks of low score, and of one place, keep a track, too."""
    frame = scene((1, CAR, 20, 20), (2, CAR, 21, 20))
    weak = FrameMasks(frame.image, frame.masks, frame.labels, np.zeros(2))
    linker = AssociationLinker(Known(APART), AssociationConfig())
    assert ids(linker, weak, weak) == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("cost", "allowed", "expected"),
    [
        ([[1.0, 2.0], [1.0, 9.0]], [[1, 1], [1, 1]], [1, 0]),  # 3 instead of 10
        ([[1.0, 2.0], [1.0, 9.0]], [[1, 0], [1, 1]], [0, 1]),  # both pairs rather than the best
        ([[1.0], [2.0]], [[0], [0]], [-1, -1]),
        (np.zeros((2, 0)), np.zeros((2, 0)), [-1, -1]),
    ],
)
def test_assign(cost: object, allowed: object, expected: list[int]) -> None:
    assert assign(np.array(cost), np.array(allowed, bool)) == expected


def write_sequence(folder: Path, frames: Sequence[FrameMasks]) -> tuple[SequenceMasks, Images]:
    """Images, and masks with a new id in every frame."""
    folder.mkdir(parents=True)
    rows = []
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:06d}.png"), frame.image)
        for k, (mask, label) in enumerate(zip(frame.masks, frame.labels, strict=True)):
            rows.append(ResultRow(t, int(label) * 1000 + 10 * t + k + 1, int(label), encode(mask)))
    scores = {row.id: 0.5 + 0.1 * row.frame for row in rows}
    classes = {CAR: "car", PEDESTRIAN: "pedestrian"}
    masks = SequenceMasks(
        "0000", (HEIGHT, WIDTH), len(frames), classes, tuple(rows), scores=scores
    )
    return masks, Images(folder)


def test_relinked_results_keep_every_mask(tmp_path: Path) -> None:
    frames = [scene((1, CAR, 8 * t, 8), (2, PEDESTRIAN, 100, 56)) for t in range(3)]
    frames.insert(1, scene())
    given, images = write_sequence(tmp_path / "0000", frames)
    linked, lost = relink(given, images, FlowLinker())
    assert not lost
    assert [(r.frame, r.class_id, r.rle) for r in linked.rows] == [
        (r.frame, r.class_id, r.rle) for r in given.rows
    ]
    assert [row.id for row in linked.rows] == [1001, 2001] * 3
    mean = np.mean([0.5, 0.7, 0.8])
    assert linked.scores == {1001: pytest.approx(mean), 2001: pytest.approx(mean)}


def test_masks_that_do_not_fit_the_images_are_refused(tmp_path: Path) -> None:
    given, images = write_sequence(tmp_path / "0000", [scene((1, CAR, 8, 8))] * 3)
    (tmp_path / "0000" / "000002.png").unlink()
    with pytest.raises(EvaluationError, match=r"2 images in .* masks of 3 frames"):
        relink(given, images, FlowLinker())
    cv2.imwrite(str(tmp_path / "0000" / "000000.png"), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(EvaluationError, match=r"frame 0: masks of another size .*60x50"):
        relink(given, images, FlowLinker())


def test_embeddings_of_masks_belong_to_their_places() -> None:
    """Of a random network: a mask's row depends on its own place alone, whatever is beside it."""
    small = {"input.min_dim": HEIGHT, "input.max_dim": WIDTH, "runtime.precision": "float32"}
    embed = MaskEmbedder(open_model(load_config("stc_lite", small), "random", "cpu"))
    both = scene((1, CAR, 20, 20), (2, CAR, 100, 40))
    found = embed(both)
    assert found.shape == (2, 64)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    swapped = FrameMasks(both.image, both.masks[::-1], both.labels, both.scores)
    np.testing.assert_array_equal(embed(swapped), found[::-1])
    tiny = np.zeros((1, HEIGHT, WIDTH), bool)
    tiny[0, 30, 40] = True
    assert embed(FrameMasks(both.image, tiny, both.labels[:1], both.scores[:1])).shape == (1, 64)


def test_models_without_embeddings_are_named() -> None:
    without = load_config("stc_lite", {"tracking.enabled": False})
    with pytest.raises(EvaluationError, match=r"stc_lite has no embeddings .*--results"):
        MaskEmbedder(open_model(without, "random", "cpu"))
