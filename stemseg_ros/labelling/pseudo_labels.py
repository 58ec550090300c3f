"""Label images for self-training: what several models see alike in an unlabelled recording.

Each *view* is one model on one version of the recording: another input size, mirrored or not. An
object of a frame becomes a label if enough views show it, of every model at least one; whatever
else any view shows is ignored, and what none shows is background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from stemseg_ros.config import Config, update_config
from stemseg_ros.datasets.driving import CLASSES, LAST_NUMBER
from stemseg_ros.datasets.sequence import CLASS_STEP, IGNORE_LABEL
from stemseg_ros.errors import MediaError
from stemseg_ros.masks import decode
from stemseg_ros.records import Frame, FrameResult, Image, Instance
from stemseg_ros.stream import Stream

MIN_IOU = 0.5
"""Masks of two views that overlap so much show the same object."""
MIN_FRAMES = 3
"""An object that is agreed on in fewer frames is ignored."""
MAX_APART = 0.1
"""Largest share of the frames in which tracks of one object are shown apart."""
JPEG_QUALITY = 95
FIRST_LABELS = "000000.png"
"""Label image of the first frame."""
CLASS_IDS = {name: number for number, name in CLASSES.items()}
"""Numbers of the classes in label images, by name."""
Labels = npt.NDArray[np.uint16]
"""uint16 (H, W): class * 1000 + number from 1, 0 background, 10000 ignored."""
Track = tuple[int, int, int]
"""Position of a view, epoch and track id in it."""
Group = Mapping[Track, Instance]
"""Masks of one object in one frame, one for each view that shows it."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one model sees in one version of a recording."""

    model: str
    results: Sequence[FrameResult]
    """Of every frame, in the coordinates of the recording."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """Labels of a frame."""

    labels: Labels
    kept: int
    """Number of objects."""
    left_out: int
    """Number of objects that some view shows, but are ignored."""


@dataclass(frozen=True, slots=True)
class WrittenClip:
    """Numbers of a clip that was written."""

    frames: int
    kept: int
    """Number of masks."""
    left_out: int
    """Number of masks that are ignored."""


def scale_input(config: Config, scale: float) -> Config:
    """Return the settings with an input that is ``scale`` times as large. Raises ConfigError for
    one beyond the limits."""
    sides = ("min_dim", "max_dim")
    return update_config(
        config, {f"input.{side}": round(scale * getattr(config.input, side)) for side in sides}
    )


def take_view(
    model: str,
    stream: Stream,
    images: Iterable[Image],
    *,
    mirrored: bool,
    progress: Callable[[int], None] = lambda frames: None,
) -> View:
    """Run a model over all images, mirrored or not; progress: called with the frames done."""
    stream.reset()
    results: list[FrameResult] = []
    for number, image in enumerate(images, start=1):
        shown = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
        results += stream.push(Frame(shown, number))
        progress(number)
    results += stream.flush()
    return View(model, [_mirror(result) for result in results] if mirrored else results)


def label_frames(
    views: Sequence[View], needed: int, ignored: Collection[str] = ()
) -> Iterator[LabelledImage]:
    """Label every frame by what at least ``needed`` (>= 1) views agree on, of every model at least
    one; the class names are those of the driving pack.

    views: of equal length, else ValueError; ignored: names of classes whose objects are ignored.
    Raises MediaError for fewer than MIN_FRAMES frames, frames of several sizes, and more objects
    of a class than labels have numbers.
    """
    models = [view.model for view in views]
    frames = list(zip(*(view.results for view in views), strict=True))
    _check(frames)
    groups = [_group(results) for results in frames]
    agreed = [
        [g for g in _keep_agreed(found, models, needed) if _get_first(g).class_name not in ignored]
        for found in groups
    ]
    labels = _choose_labels(agreed)
    for results, found, values, shown in zip(frames, agreed, labels, groups, strict=True):
        yield _draw(results, found, values, len(shown))


def _check(frames: Sequence[Sequence[FrameResult]]) -> None:
    if len(frames) < MIN_FRAMES:
        raise MediaError(f"{len(frames)} frame(s); pseudo-labels need at least {MIN_FRAMES}")
    sizes = {(results[0].width, results[0].height) for results in frames}
    if len(sizes) > 1:
        names = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise MediaError(f"frames of several sizes ({names}); label the parts one by one")


def write_clip(
    folder: Path, images: Iterable[Image], labelled: Iterable[LabelledImage]
) -> WrittenClip:
    """Write images and labels in the layout of the driving pack. Raises MediaError, and
    ValueError if they are not of equal number."""
    frames = kept = left_out = 0
    for image, item in zip(images, labelled, strict=True):
        _write(folder / f"{frames:06d}.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _write(folder / f"{frames:06d}.png", item.labels)
        frames, kept, left_out = frames + 1, kept + item.kept, left_out + item.left_out
    return WrittenClip(frames, kept, left_out)


def _write(path: Path, content: Image | Labels, options: Sequence[int] = ()) -> None:
    if not cv2.imwrite(str(path), content, list(options)):
        raise MediaError(f"cannot write {path}")


def _mirror(result: FrameResult) -> FrameResult:
    """Return the result of a mirrored image in the coordinates of the image."""
    mirrored = []
    for item in result.instances:
        mask = np.ascontiguousarray(decode(item.rle)[:, ::-1])
        mirrored.append(
            Instance.from_mask(mask, item.track_id, item.class_id, item.class_name, item.score)
        )
    return replace(result, instances=tuple(mirrored))


def _group(results: Sequence[FrameResult]) -> list[Group]:
    """Group the instances that all views show in a frame by object: each goes to the group whose
    first mask it overlaps most, if that has none of its view yet."""
    groups: list[dict[Track, Instance]] = []
    for view, result in enumerate(results):
        firsts = [_get_first(group) for group in groups]
        taken: set[int] = set()
        overlaps = _measure_overlaps(result.instances, firsts)
        for iou, number, place in sorted(overlaps, reverse=True):
            if iou >= MIN_IOU and number not in taken and not _has_view(groups[place], view):
                item = result.instances[number]
                groups[place][view, result.epoch, item.track_id] = item
                taken.add(number)
        groups += [
            {(view, result.epoch, item.track_id): item}
            for number, item in enumerate(result.instances)
            if number not in taken
        ]
    return list(groups)


def _get_first(group: Group) -> Instance:
    return next(iter(group.values()))


def _measure_overlaps(
    items: Sequence[Instance], others: Sequence[Instance]
) -> list[tuple[float, int, int]]:
    """Return the IoU of every pair of the same class, with its places in both lists."""
    if not items or not others:
        return []
    iou = coco.iou([i.rle for i in items], [o.rle for o in others], [0] * len(others))
    return [
        (float(iou[n, m]), n, m)
        for n, item in enumerate(items)
        for m, other in enumerate(others)
        if item.class_id == other.class_id
    ]


def _has_view(group: Group, view: int) -> bool:
    return any(other == view for other, _, _ in group)


def _keep_agreed(groups: Sequence[Group], models: Sequence[str], needed: int) -> list[Group]:
    """Return the groups that enough views show and that not half as many show as another
    class."""
    return [
        group
        for group in groups
        if len(group) >= needed
        and {models[view] for view, _, _ in group} == set(models)
        and not any(2 * len(other) >= len(group) and _contradict(group, other) for other in groups)
    ]


def _contradict(group: Group, other: Group) -> bool:
    """Whether two groups show the same pixels as different classes."""
    first, second = _get_first(group), _get_first(other)
    if first.class_id == second.class_id:
        return False
    return float(coco.iou([first.rle], [second.rle], [0])[0, 0]) >= MIN_IOU


def _choose_labels(agreed: Sequence[Sequence[Group]]) -> list[list[int]]:
    """Choose the label of each group; IGNORE_LABEL for an object that is agreed on in too few
    frames, or twice in this one."""
    numbers = _join_tracks(agreed)
    objects = [
        [Counter(numbers[track] for track in group).most_common(1)[0][0] for group in found]
        for found in agreed
    ]
    lengths = Counter(number for found in objects for number in set(found))
    labels: dict[int, int] = {}
    counts: Counter[int] = Counter()
    values = []
    for found, groups in zip(objects, agreed, strict=True):
        for number, group in zip(found, groups, strict=True):
            if number not in labels and lengths[number] >= MIN_FRAMES:
                class_id = CLASS_IDS[_get_first(group).class_name]
                counts[class_id] += 1
                labels[number] = CLASS_STEP * class_id + counts[class_id]
        once = [
            labels.get(n, IGNORE_LABEL) if found.count(n) == 1 else IGNORE_LABEL for n in found
        ]
        values.append(once)
    if max(counts.values(), default=0) >= LAST_NUMBER:
        raise MediaError(
            f"more than {LAST_NUMBER - 1} objects of a class; label parts of the recording"
        )
    return values


def _join_tracks(agreed: Sequence[Sequence[Group]]) -> dict[Track, int]:
    """Give the tracks of all views that are of one object the same number.

    Those that meet in most frames are joined first; two objects are not joined if they are shown
    apart in more than every tenth frame that shows both: views swap and merge tracks, too.
    """
    places: dict[Track, dict[int, int]] = {}
    for frame, found in enumerate(agreed):
        for place, group in enumerate(found):
            for track in group:
                places.setdefault(track, {})[frame] = place
    meetings = Counter(
        pair for found in agreed for group in found for pair in combinations(sorted(group), 2)
    )
    joined: dict[Track, list[Track]] = {track: [track] for track in places}
    for (a, b), _ in meetings.most_common():
        if joined[a] is not joined[b] and _fit(
            [places[t] for t in joined[a]], [places[t] for t in joined[b]]
        ):
            joined[a] += joined[b]
            for track in joined[b]:
                joined[track] = joined[a]
    numbers = {id(tracks): number for number, tracks in enumerate(joined.values())}
    return {track: numbers[id(tracks)] for track, tracks in joined.items()}


def _fit(some: Sequence[Mapping[int, int]], others: Sequence[Mapping[int, int]]) -> bool:
    """Whether two sets of tracks, each with its group by frame, are of one object."""
    together = apart = 0
    for a, b in product(some, others):
        common = a.keys() & b.keys()
        met = sum(a[frame] == b[frame] for frame in common)
        together, apart = together + met, apart + len(common) - met
    return MAX_APART * (together + apart) >= apart


def _draw(
    results: Sequence[FrameResult], agreed: Sequence[Group], values: Sequence[int], found: int
) -> LabelledImage:
    """Draw the objects of a frame, each where more than half of its views show it, over what is
    ignored; the small ones last. found: number of groups."""
    labels = np.zeros((results[0].height, results[0].width), np.uint16)
    for item in (item for result in results for item in result.instances):
        labels[decode(item.rle)] = IGNORE_LABEL
    masks = []
    for group, value in zip(agreed, values, strict=True):
        votes = np.sum([decode(item.rle) for item in group.values()], axis=0)
        masks.append((2 * votes > len(group), value))
    for mask, value in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        labels[mask] = value
    kept = sum(value != IGNORE_LABEL for value in values)
    return LabelledImage(labels, kept, found - kept)
