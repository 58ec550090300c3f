"""KITTI-MOTS text: the released files byte for byte, the numbering rules, the filter, and a strict
reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from stemseg_ros.errors import MediaError
from stemseg_ros.formats import kitti_lines
from stemseg_ros.formats.kitti_lines import (
    ResultRow,
    TrackCollector,
    filter_rows,
    read_results,
    write_results,
)
from stemseg_ros.geometry import MIN_PADDED, Letterbox
from stemseg_ros.masks import encode
from stemseg_ros.models.layers.grid_masks import full_size_masks
from stemseg_ros.records import FrameResult, Instance

GOLDEN = Path(__file__).parent.parent / "golden"
CAR, PEDESTRIAN = 1, 2


def rows_from_labels(
    labels: npt.NDArray[np.integer],
    categories: npt.NDArray[np.integer],
    image_size: tuple[int, int],
    min_dim: int,
    max_dim: int,
) -> list[ResultRow]:
    """A whole sequence from track labels on the stride-4 grid, as the released code writes it.

    labels: (N, h, w), > 0 track id, 0 background, -1 outlier. categories: (N, h, w), 0 background.
    image_size: (H, W) of the source images, scaled to the network input by min_dim and max_dim.
    """
    letterbox = Letterbox.fit(image_size, min_dim, max_dim, MIN_PADDED)
    collector = TrackCollector()
    for frame, (grid, classes) in enumerate(zip(labels, categories, strict=True)):
        masks = {mask.label: mask.rle for mask in full_size_masks(grid, letterbox)}
        for track_id in np.unique(grid[grid > 0]).tolist():
            cells = grid == track_id
            collector.tracks[0, track_id].add(
                frame, masks.get(track_id), int(cells.sum()), Counter(classes[cells].tolist())
            )
    return collector.rows()


@pytest.fixture(scope="module")
def golden_rows() -> list[ResultRow]:
    labels = np.load(GOLDEN / "clustering_xyt.npz")["labels"]
    categories = np.load(GOLDEN / "kitti_result_categories.npz")["categories"]
    return rows_from_labels(labels, categories, (75, 247), 94, 310)


def test_raw_golden(golden_rows: list[ResultRow], tmp_path: Path) -> None:
    write_results(tmp_path / "raw.txt", golden_rows)
    assert (tmp_path / "raw.txt").read_bytes() == (GOLDEN / "kitti_result_raw.txt").read_bytes()


def test_filtered_golden(golden_rows: list[ResultRow], tmp_path: Path) -> None:
    write_results(tmp_path / "filtered.txt", filter_rows(golden_rows))
    assert (tmp_path / "filtered.txt").read_bytes() == (
        GOLDEN / "kitti_result_filtered.txt"
    ).read_bytes()


@pytest.mark.parametrize("name", ["kitti_result_raw.txt", "kitti_result_filtered.txt"])
def test_what_is_read_is_written_back(name: str, tmp_path: Path) -> None:
    write_results(tmp_path / name, read_results(GOLDEN / name))
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


def strip(first: int, last: int, height: int = 4, width: int = 100) -> npt.NDArray[np.bool_]:
    """A mask of the columns first..last - 1."""
    mask = np.zeros((height, width), bool)
    mask[:, first:last] = True
    return mask


def instance(track_id: int, class_id: int, mask: npt.NDArray[np.bool_]) -> Instance:
    rle = encode(mask)
    x, y, width, height = (int(v) for v in coco_mask.toBbox(rle))
    return Instance(track_id, class_id, f"class {class_id}", 1.0, rle, (x, y, width, height))


def collect(frames: Iterable[list[Instance]], epochs: list[int] | None = None) -> TrackCollector:
    collector = TrackCollector()
    for index, instances in enumerate(frames):
        epoch = epochs[index] if epochs else 0
        collector.add(FrameResult(index, index, 4, 100, epoch, tuple(instances)))
    return collector


def lines(collector: TrackCollector) -> list[tuple[int, int]]:
    return [(row.frame, row.id) for row in collector.rows()]


def test_shorter_tracks_get_lower_numbers() -> None:
    long = [instance(1, CAR, strip(0, 10))]
    short = [instance(2, CAR, strip(20, 25))]
    assert lines(collect([long, [*long, *short], long])) == [
        (1, 1001),
        (0, 1002),
        (1, 1002),
        (2, 1002),
    ]


def test_tracks_of_equal_duration_are_numbered_by_size() -> None:
    small, large = instance(1, CAR, strip(0, 3)), instance(2, PEDESTRIAN, strip(20, 40))
    assert lines(collect([[small, large]] * 2)) == [(0, 2001), (1, 2001), (0, 1002), (1, 1002)]


def test_duration_counts_gaps() -> None:
    with_gap, without = instance(1, CAR, strip(0, 3)), instance(2, CAR, strip(20, 40))
    frames = [[with_gap, without], [without], [with_gap]]
    assert lines(collect(frames)) == [(0, 1001), (1, 1001), (0, 1002), (2, 1002)]


def test_class_of_a_track_is_that_of_most_of_its_pixels() -> None:
    frames = [
        [instance(1, PEDESTRIAN, strip(0, 30))],
        [instance(1, CAR, strip(0, 10))],
        [instance(1, CAR, strip(0, 10))],
    ]
    assert {row.class_id for row in collect(frames).rows()} == {PEDESTRIAN}


def test_tied_classes_give_car() -> None:
    frames = [[instance(1, PEDESTRIAN, strip(0, 10))], [instance(1, CAR, strip(0, 10))]]
    assert {row.id for row in collect(frames).rows()} == {1001}


def test_equal_ids_of_different_epochs_are_different_tracks() -> None:
    mask = [instance(1, CAR, strip(0, 10))]
    assert lines(collect([mask, mask], epochs=[0, 1])) == [(0, 1001), (1, 1002)]


def test_the_largest_tracks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kitti_lines, "MAX_TRACKS", 2)
    frame = [
        instance(i, CAR, strip(20 * i, 20 * i + size)) for i, size in ((0, 5), (1, 3), (2, 9))
    ]
    collector = collect([frame])
    assert [key for key, _ in collector.numbered()] == [(0, 2), (0, 0)]


def test_background_does_not_vote_and_outliers_are_not_written() -> None:
    labels = np.zeros((1, 24, 24), np.int32)
    labels[0, :4, :4], labels[0, 20:, 20:] = 7, -1
    categories = np.zeros((1, 24, 24), np.int8)
    categories[0, 0, 0] = PEDESTRIAN
    rows = rows_from_labels(labels, categories, (96, 96), 96, 96)
    assert [row.id for row in rows] == [2001]
    assert coco_mask.toBbox(rows[0].rle).tolist() == [0, 0, 16, 16]


def test_no_votes_give_car_and_no_labels_give_no_rows() -> None:
    labels = np.zeros((1, 24, 24), np.int32)
    assert rows_from_labels(labels, labels, (96, 96), 96, 96) == []
    labels[0, :4] = 1
    assert [
        row.id for row in rows_from_labels(labels, np.zeros_like(labels), (96, 96), 96, 96)
    ] == [1001]


def square(area: int) -> npt.NDArray[np.bool_]:
    """Full rows of 10 pixels, then a rest."""
    mask = np.zeros(1000, bool)
    mask[:area] = True
    return mask.reshape(100, 10)


def diagonal(side: int, thickness: int) -> npt.NDArray[np.bool_]:
    i, j = np.indices((side, side))
    return np.abs(i - j) < thickness


def track(class_id: int, frames: Iterable[int], mask: npt.NDArray[np.bool_]) -> list[ResultRow]:
    return [ResultRow(frame, class_id * 1000 + 1, class_id, encode(mask)) for frame in frames]


@pytest.mark.parametrize(
    "rows, kept",
    [
        (track(CAR, range(3), square(150)), 3),
        (track(CAR, range(3), square(149)), 0),
        (track(PEDESTRIAN, range(10), square(250)), 10),
        (track(PEDESTRIAN, range(10), square(249)), 0),
        (track(CAR, range(3), diagonal(40, 9)), 3),  # fills 0.38 of its box
        (track(CAR, range(3), diagonal(40, 8)), 0),  # 0.34
        (track(PEDESTRIAN, range(10), diagonal(80, 9)), 10),  # 0.202
        (track(PEDESTRIAN, range(10), diagonal(80, 8)), 0),  # 0.180
        (track(CAR, range(2), square(300)), 0),
        (track(PEDESTRIAN, range(9), square(300)), 0),
        (track(CAR, [0, 2, 3, 9], square(300)), 0),  # 2 gaps in 4 frames
        (track(CAR, [0, 2, 3, 4], square(300)), 4),  # 1 in 4
        (track(PEDESTRIAN, range(0, 30, 3), square(300)), 0),  # 9 in 10
        (track(PEDESTRIAN, [0, 2, 4, 6, 8, 10, 11, 12, 13, 14], square(300)), 10),  # 5 in 10
        (track(3, [5], square(1)), 1),  # other classes pass
    ],
)
def test_filter(rows: list[ResultRow], kept: int) -> None:
    assert len(filter_rows(rows)) == kept


def test_dropped_masks_leave_gaps_behind() -> None:
    rows = track(CAR, range(5), square(300))
    rows[1], rows[3] = track(CAR, [1], square(10))[0], track(CAR, [3], square(10))[0]
    assert filter_rows(rows) == []


RLE = encode(strip(0, 10))["counts"].decode()
OTHER = encode(strip(10, 20))["counts"].decode()
OVERLAPPING = encode(strip(9, 20))["counts"].decode()


@pytest.mark.parametrize(
    "text, words",
    [
        ("0 1001 1 4 100", "line 1: expected 'frame id class height width rle', found 5 fields"),
        (f"0 1001 1 4 100 {RLE} 0.5", "line 1: expected .* found 7 fields"),
        (f"0 1001 1 4 100 {RLE}\n\n1 1001 1 4 100 {RLE}", "line 2: expected .* found 0 fields"),
        (f"\N{SUPERSCRIPT TWO} 1001 1 4 100 {RLE}", "are not whole numbers"),
        (f"0 1001 1 4 100 {RLE}\N{NO-BREAK SPACE}é", "line 1: expected .* found 7 fields"),
        (f"a 1001 1 4 100 {RLE}", "line 1: 'a 1001 1 4 100' are not whole numbers"),
        (f"-1 1001 1 4 100 {RLE}", "not whole numbers"),
        (f"0 2001 1 4 100 {RLE}", "line 1: id 2001 does not belong to class 1"),
        (f"0 7 0 4 100 {RLE}", "line 1: class 0: classes count from 1"),
        (f"0 1001 1 4 99 {RLE}", "run lengths cover 400 pixels of an image with 396"),
        (f"0 1001 1 4 100 {RLE[:-1]}", "run lengths cover"),
        ("0 1001 1 4 100 ~~~~", "does not occur in compressed run lengths"),
        (
            f"0 1001 1 4 100 {RLE}\n0 1001 1 4 100 {OTHER}",
            "line 2: id 1001 occurs twice in frame 0",
        ),
        (
            f"0 1001 1 4 100 {RLE}\n0 1002 1 4 100 {OVERLAPPING}",
            "line 2: the mask of id 1002 overlaps that of id 1001 in frame 0",
        ),
        (
            f"0 1001 1 4 100 {RLE}\n0 1002 1 100 4 {RLE}",
            r"line 2: \[100, 4\] differs from the size \[4, 100\]",
        ),
    ],
)
def test_reader_names_the_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(MediaError, match=r"r\.txt, " if "line" in words else words) as caught:
        read_results(tmp_path / "r.txt", truth=True)
    assert caught.match(words)


@pytest.mark.parametrize(
    "text",
    [
        f"0 1001 1 4 100 {RLE}  \n1 1001 1 4 100 {RLE}\t\n",
        f"0 1001 1 4 100 {RLE}\r\n1 1001 1 4 100 {RLE} \r\n",
        f"\N{ZERO WIDTH NO-BREAK SPACE}0 1001 1 4 100 {RLE}\n1 1001 1 4 100 {RLE}",
        f" 0\t1001  1 4 100 {RLE}\n1 1001 1 4 100 {RLE}\n\n \n",
    ],
)
def test_white_space_and_byte_order_mark_are_free(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_bytes(text.encode())
    rows = read_results(tmp_path / "r.txt", truth=True)
    assert [str(row) for row in rows] == [f"{frame} 1001 1 4 100 {RLE}" for frame in (0, 1)]


def test_ids_of_results_are_free_but_keep_one_class(tmp_path: Path) -> None:
    file = tmp_path / "r.txt"
    file.write_text(f"0 7 1 4 100 {RLE}\n0 3 2 4 100 {OTHER}\n1 7 1 4 100 {RLE}\n")
    rows = read_results(file)
    assert [(row.id, row.class_id) for row in rows] == [(7, 1), (3, 2), (7, 1)]
    with pytest.raises(MediaError, match="line 1: id 7 does not belong to class 1"):
        read_results(file, truth=True)
    file.write_text(f"0 7 1 4 100 {RLE}\n1 7 2 4 100 {RLE}\n")
    with pytest.raises(MediaError, match="line 2: id 7 has class 2, but class 1 before"):
        read_results(file)


def test_reader_accepts_masks_side_by_side_and_ignore_regions(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(
        f"0 1001 1 4 100 {RLE}\n0 10000 10 4 100 {OTHER}\n1 1001 1 4 100 {OTHER}\n"
    )
    rows = read_results(tmp_path / "r.txt")
    assert [(row.frame, row.id) for row in rows] == [(0, 1001), (0, 10000), (1, 1001)]


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.txt: not readable"):
        read_results(tmp_path / "none.txt")
    with pytest.raises(MediaError, match=r"cannot write .*r\.txt: No such file or directory"):
        write_results(tmp_path / "none" / "r.txt", [])


@given(st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=8))
def test_any_run_lengths_are_read_or_refused(counts: str) -> None:
    line = f"0 1001 1 2 3 {counts}"
    try:
        row = kitti_lines.parse_row(line)
    except ValueError:
        return
    assert str(row) == line
