"""Repairs machine-made labels of a video: split masks, broken ids, untrustworthy regions.

Machine-made labels are drawn frame by frame and linked afterwards. One car may lie in two masks
for a frame or two, its id may change, and far cars come out differently in every frame. The
evidence is neighbouring frames, warped by optical flow. Nothing is drawn: pixels keep their
object, change to another that they were part of a frame before and after, or become ignored. Wrong
merges do more harm than a gap, so doubt ends in an ignored region.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise, permutations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from stemseg_ros.datasets.sequence import (
    CLASS_STEP,
    IGNORE_LABEL,
    DataError,
    LabelArray,
    LabelledFrame,
    LabelledSequence,
)

log = logging.getLogger(__name__)

UNKNOWN = -1
"""Warped label of a pixel that came from outside the image."""
REACH = 2
"""Frames before and after that tell whether two masks are one object."""
COVERED = 0.7
"""Share of both masks that must lie in one warped mask, and its IoU with their union."""
TOGETHER = 4
"""Two ids that stand side by side in more frames than these are two objects."""
LONGEST_GAP = 4
"""Frames from the end of an id to the start of its continuation."""
REJOIN_IOU = 0.5
"""Lowest IoU after warping over the gap at which one id continues another."""
SAME_IOU = 0.25
"""IoU below which two successive masks of one id are two objects."""
STEADY_IOU = 0.5
"""IoU from which a mask confirms the one before it."""
SHORTEST = 4
"""Masks of an object that is confirmed in fewer frames in a row are ignored; two are enough
where the left or right edge of the image cuts one."""
SHORTEST_CUT = 2
"""The same at the first and last frame of the video."""
BORDER = 8
"""Width of the left and right edge of the image in pixels."""
SMALLEST_DOUBT = 5
"""Side in pixels of the smallest square that becomes ignored because its neighbours in time
disagree; rims of masks waver by a pixel or two in any case."""

CARRIED = 256
"""Number of warped label images that are cached."""

Volume = npt.NDArray[np.int32]
"""int32 (T, H, W): labels of a video."""


@dataclass(slots=True)
class Repaired:
    """Changes in a video."""

    ids_before: int = 0
    ids_after: int = 0
    merged: int = 0
    """Masks that became part of another of their frame."""
    rejoined: int = 0
    """Ids that turned out to continue another."""
    parted: int = 0
    """Ids that had jumped from one object to another, and were cut there."""
    ignored_masks: int = 0
    """Masks that too few frames confirm."""
    ignored_pixels: int = 0
    """Pixels that are ignored now and were not before."""

    def __str__(self) -> str:
        return (
            f"{self.ids_before} -> {self.ids_after} ids, {self.merged} masks merged, "
            f"{self.rejoined} ids rejoined, {self.parted} ids parted, {self.ignored_masks} masks "
            f"that nothing confirms ignored, with {self.ignored_pixels} pixels in all"
        )


def repair(frames: Sequence[LabelledFrame]) -> tuple[list[LabelledFrame], Repaired]:
    """Repair the successive frames of one video; returns repaired copies and the changes.

    The images are the same; the frames of a video of less than four come back as they are.
    """
    if len(frames) < SHORTEST:
        return list(frames), Repaired()
    before = np.stack([frame.labels for frame in frames])
    video = _Video(before.copy(), _flows([frame.image for frame in frames]))
    report = Repaired(ids_before=len(_ids(before)))
    report.merged = _merge_splits(video)
    report.parted = _part(video)
    report.rejoined = _rejoin(video)
    report.ignored_masks = _ignore_brief(video)
    _ignore_doubt(video)
    report.ids_after = len(_ids(video.labels))
    report.ignored_pixels = int(((video.labels == IGNORE_LABEL) & (before != IGNORE_LABEL)).sum())
    repaired = zip(frames, video.labels, strict=True)
    return [replace(frame, labels=labels) for frame, labels in repaired], report


def repair_all(
    sequences: Sequence[LabelledSequence], classes: int | None = None
) -> list[list[LabelledFrame]]:
    """Decode and repair every frame of every sequence; changes are logged.

    Raises DataError at the first bad file, and for a video whose frames differ in size.
    """
    videos = []
    for sequence in sequences:
        frames = [sequence.read(index, classes) for index in range(len(sequence))]
        _refuse_mixed_sizes(frames, sequence.name)
        repaired, report = repair(frames)
        log.info("%s repaired: %s", sequence.name, report)
        videos.append(repaired)
    return videos


def _refuse_mixed_sizes(frames: Sequence[LabelledFrame], name: str) -> None:
    height, width = frames[0].labels.shape
    for index, frame in enumerate(frames):
        if frame.labels.shape != (height, width):
            rows, columns = frame.labels.shape
            raise DataError(
                f"{name}, frame {index}: {columns}x{rows} in a video of {width}x{height}; repair "
                "needs frames of one size, or repair: false"
            )


@dataclass(slots=True, eq=False)
class _Video:
    """Labels under repair, and the optical flow between neighbouring frames in both directions."""

    labels: Volume
    flows: dict[tuple[int, int], npt.NDArray[np.float32]]
    """(t, s) of neighbouring frames -> (H, W, 2): place in s of each pixel of t."""
    _carried: dict[tuple[int, int], LabelArray] = field(default_factory=dict)

    def carried(self, source: int, target: int) -> LabelArray:
        """Warp the labels of one frame to another."""
        if source == target:
            return np.asarray(self.labels[target])
        if (source, target) not in self._carried:
            step = 1 if target > source else -1
            near = self.carried(source, target - step)
            if len(self._carried) >= CARRIED:
                del self._carried[next(iter(self._carried))]
            self._carried[source, target] = _sample(near, self.flows[target, target - step])
        return self._carried[source, target]

    def relabel(self, frame: int, where: npt.NDArray[np.bool_], label: int) -> None:
        self.labels[frame][where] = label
        self._carried = {key: image for key, image in self._carried.items() if key[0] != frame}

    def iou(self, source: int, source_label: int, target: int, label: int) -> float:
        """Compute the IoU of an object's mask, warped to another frame, with a mask there.

        Pixels that are ignored in the target count on neither side.
        """
        known = self.labels[target] != IGNORE_LABEL
        carried = (self.carried(source, target) == source_label) & known
        mask = self.labels[target] == label
        either = np.count_nonzero(carried | mask)
        return np.count_nonzero(carried & mask) / either if either else 0.0


def _flows(
    images: Sequence[npt.NDArray[np.uint8]],
) -> dict[tuple[int, int], npt.NDArray[np.float32]]:
    """Compute the position of every pixel in the neighbouring frames, by dense inverse search."""
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    rows, columns = np.indices(grey[0].shape, dtype=np.float32)
    grid = np.stack([columns, rows], axis=-1)
    return {
        pair: grid + search.calc(grey[pair[0]], grey[pair[1]], np.zeros_like(grid))
        for a, b in pairwise(range(len(grey)))
        for pair in ((a, b), (b, a))
    }


def _sample(labels: LabelArray, places: npt.NDArray[np.float32]) -> LabelArray:
    # float32 holds labels exactly up to 2^24.
    columns, rows = cv2.split(places)
    carried = cv2.remap(
        labels.astype(np.float32), columns, rows, cv2.INTER_NEAREST, borderValue=UNKNOWN
    )
    return np.asarray(carried, dtype=np.int32)


def _ids(labels: npt.NDArray[np.int32]) -> list[int]:
    counts = np.bincount(labels.ravel())  # many times faster than unique on whole images
    return [int(i) for i in np.flatnonzero(counts) if i % CLASS_STEP]


def _lives(labels: Volume) -> dict[int, list[int]]:
    """Frames in which each id is seen."""
    lives: dict[int, list[int]] = {}
    for frame, image in enumerate(labels):
        for label in _ids(image):
            lives.setdefault(label, []).append(frame)
    return lives


def _merge_splits(video: _Video) -> int:
    """Merge masks of a frame that are one object in most of the frames around; returns how
    many."""
    merged = 0
    shared = Counter(pair for image in video.labels for pair in combinations(_ids(image), 2))
    votes = {frame: _splits(video, frame, shared) for frame in range(len(video.labels))}
    while any(votes.values()):
        frame = max(votes, key=lambda t: max(votes[t].values(), default=0))
        kept, lost = max(votes[frame], key=lambda pair: votes[frame][pair])
        video.relabel(frame, video.labels[frame] == lost, kept)
        merged += 1
        for near in range(frame - REACH, frame + REACH + 1):
            if near in votes:
                votes[near] = _splits(video, near, shared)
    return merged


def _splits(
    video: _Video, frame: int, shared: Counter[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """(id that stays, id that goes) -> frames around that show one object minus those that show
    two. shared: frames in which two ids stand side by side."""
    labels = video.labels[frame]
    around = [
        video.carried(near, frame)
        for near in range(frame - REACH, frame + REACH + 1)
        if near != frame and 0 <= near < len(video.labels)
    ]
    found = {}
    for a, b in combinations(_ids(labels), 2):
        if a // CLASS_STEP != b // CLASS_STEP or shared[a, b] > TOGETHER:
            continue
        mask_a, mask_b = labels == a, labels == b
        wholes = [_whole(carried, mask_a, mask_b) for carried in around]
        ones = Counter(whole for whole in wholes if whole > 0)
        twos = sum(whole == 0 for whole in wholes)
        if ones.total() >= REACH and ones.total() > 2 * twos:
            larger, smaller = (a, b) if mask_a.sum() >= mask_b.sum() else (b, a)
            pair = (smaller, larger) if ones[smaller] > ones[larger] else (larger, smaller)
            found[pair] = ones.total() - twos
    return found


def _whole(carried: LabelArray, a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> int:
    """Find the object of another frame that covers both masks; 0: they are two there; -1:
    undecided."""
    in_a, in_b = _main(carried[a]), _main(carried[b])
    if in_a <= 0 or in_b <= 0:
        return -1
    if in_a != in_b:
        return 0
    whole, union = carried == in_a, a | b
    covers = min(whole[a].mean(), whole[b].mean(), (whole & union).sum() / (whole | union).sum())
    return in_a if covers >= COVERED else -1


def _main(labels: npt.NDArray[np.int32]) -> int:
    """The object that at least half of the pixels belong to; 0: background, -1: none."""
    values, counts = np.unique(labels, return_counts=True)
    best = int(values[counts.argmax()])
    return best if best != IGNORE_LABEL and 2 * counts.max() >= labels.size else -1


def _part(video: _Video) -> int:
    """Give a new id to what follows where an id jumps to another place; returns how many."""
    parted = 0
    for label, life in _lives(video.labels).items():
        current = label
        for earlier, later in pairwise(life):
            if later - earlier <= LONGEST_GAP:
                jumps = video.iou(earlier, current, later, label) < SAME_IOU
                if jumps and not _at_border(video.labels[later] == label):
                    current = _free_label(video.labels, label)
                    parted += 1
            if current != label:
                video.relabel(later, video.labels[later] == label, current)
    return parted


def _free_label(labels: Volume, like: int) -> int:
    """Choose an unused label of the same class."""
    first = like // CLASS_STEP * CLASS_STEP + 1
    used = set(_ids(labels))
    return next((i for i in range(first, first + CLASS_STEP - 1) if i not in used), IGNORE_LABEL)


def _rejoin(video: _Video) -> int:
    """Give ids that continue another the id of the other; returns how many."""
    lives = _lives(video.labels)
    ids = list(lives)
    iou = np.zeros((len(ids), len(ids)))
    for (row, a), (column, b) in permutations(enumerate(ids), 2):
        if a // CLASS_STEP == b // CLASS_STEP:
            iou[row, column] = _continues(video, lives, a, b)
    pairs = zip(*linear_sum_assignment(iou, maximize=True), strict=True)
    joins = sorted((lives[ids[c]][0], ids[c], ids[r]) for r, c in pairs if iou[r, c] >= REJOIN_IOU)
    names = {label: label for label in lives}
    for _, later, earlier in joins:  # in time, so that the first name goes through a chain
        names[later] = names[earlier]
        for frame in lives[later]:
            video.relabel(frame, video.labels[frame] == later, names[later])
    return len(joins)


def _continues(video: _Video, lives: dict[int, list[int]], a: int, b: int) -> float:
    """IoU of the last mask of one id with the first of another; 0 if they are too far apart in
    time.

    A frame that both share, where the object changes its id, is left out.
    """
    last, first = lives[a][-1], lives[b][0]
    if not 0 <= first - last <= LONGEST_GAP:
        return 0.0
    if first == last:
        if len(lives[a]) == 1 or len(lives[b]) == 1:
            return 0.0
        last, first = lives[a][-2], lives[b][1]
    return video.iou(last, a, first, b) if first - last <= LONGEST_GAP else 0.0


def _ignore_brief(video: _Video) -> int:
    """Ignore what is not seen long enough in one place to be believed; returns how many masks."""
    count, ends = 0, {0, len(video.labels) - 1}
    for label, life in _lives(video.labels).items():
        for run in _runs(video, label, life):
            needed = SHORTEST_CUT if ends & {run[0], run[-1]} else SHORTEST
            masks = [video.labels[frame] == label for frame in run]
            passing = len(run) > 1 and any(_at_border(mask) for mask in masks)
            if len(run) < needed and not passing:
                for frame, mask in zip(run, masks, strict=True):
                    video.relabel(frame, mask, IGNORE_LABEL)
                count += len(run)
    return count


def _runs(video: _Video, label: int, life: list[int]) -> list[list[int]]:
    """Frames of an id, cut where its mask does not lie where the one before leads."""
    runs = [life[:1]]
    for earlier, later in pairwise(life):
        steady = (
            later - earlier <= LONGEST_GAP
            and video.iou(earlier, label, later, label) >= STEADY_IOU
        )
        if steady:
            runs[-1].append(later)
        else:
            runs.append([later])
    return runs


def _at_border(mask: npt.NDArray[np.bool_]) -> bool:
    """Whether a mask lies at the left or right edge, where objects come and go."""
    return bool(mask[:, :BORDER].any() or mask[:, -BORDER:].any())


def _ignore_doubt(video: _Video) -> None:
    """Ignore regions about which the frames before and after agree with each other and disagree
    with the frame itself: a hole of a frame, a part that sticks out, two objects as one."""
    kernel = np.ones((SMALLEST_DOUBT, SMALLEST_DOUBT), np.uint8)
    doubts = []
    for frame in range(1, len(video.labels) - 1):
        before, after = video.carried(frame - 1, frame), video.carried(frame + 1, frame)
        certain = (before == after) & (before >= 0) & (before != IGNORE_LABEL)
        doubt = certain & (before != video.labels[frame])
        doubts.append(cv2.morphologyEx(doubt.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0)
    for frame, doubt in enumerate(doubts, start=1):
        video.relabel(frame, doubt, IGNORE_LABEL)
