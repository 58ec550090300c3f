"""Inputs of an evaluation: ground truth and its images, from benchmark folders and ROS 2 bags."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stemseg_ros.errors import MediaError
from stemseg_ros.evaluation.bag_stamps import NO_FRAME, frames_of, read_stamps
from stemseg_ros.evaluation.lost_frames import LostFrames
from stemseg_ros.formats import format_named
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, from_results
from stemseg_ros.media.bags import IMAGE_TYPES, INSTANCE_ARRAY, PROMPTS, bag_info
from stemseg_ros.media.damage import Damage, SkippedFrame
from stemseg_ros.media.result_bag import InstanceBagReader
from stemseg_ros.media.sources import (
    FrameSource,
    ImageFolder,
    is_bag,
    numbered_frames,
    open_source,
)
from stemseg_ros.records import Frame, Prompt
from stemseg_ros.stamps import StampOrder, count_dropped

BAG = "bag"
"""Format name of ROS 2 bags with /ground_truth/instances; scored like KITTI-MOTS, by the bag's
classes."""
TRUTH_TOPIC = "/ground_truth/instances"
PROMPTED = ("davis2016_semi", "davis2017_semi", "youtube_vos")
"""Formats whose runs are given the first mask of every object."""
IGNORE = "ignore"
"""Class name of instances in a ground truth bag whose pixels are ignored."""
IGNORE_ID = 255
"""Their class id."""


@dataclass(frozen=True, slots=True)
class Images:
    """Location of the frames of a sequence; opened when needed."""

    path: Path
    """A folder of images, a pattern, a video or a bag."""
    topic: str | None = None
    names: tuple[str, ...] = ()
    """File names without suffix of the frames to use, in a folder that may hold more; None for
    all."""

    prompts: Mapping[int, tuple[Prompt, ...]] = field(default_factory=dict)
    """Objects that are pointed at, by number of the frame."""
    truth_frames: int = 0
    """Length of the ground truth; a recording may be longer, or lack its end."""
    numbers: tuple[int, ...] = ()
    """Frame of the ground truth of each message of a damaged bag; None for their order."""

    def frame(self, position: int) -> int:
        """Return the frame of the ground truth at a position of the recording; NO_FRAME if it is
        lost."""
        return self.numbers[position] if self.numbers else position

    def lost(self, damage: Damage, dropped: Mapping[str, int] | None = None) -> LostFrames:
        """Number what was not read by the frames of the ground truth, without frames whose ground
        truth is lost. dropped: frames dropped because of their stamps, by reason."""
        skipped = [SkippedFrame(self.frame(item.frame), item.reason) for item in damage.skipped]
        skipped = [item for item in skipped if item.frame != NO_FRAME]
        return LostFrames(skipped, list(damage.losses), dict(dropped or {}))

    def open(self) -> FrameSource:
        """Open the frames. Raises MediaError, also for a missing file."""
        source = open_source(self.path, self.topic)
        if self.names and isinstance(source, ImageFolder):
            files = {file.stem: file for file in source.paths}
            missing = [name for name in self.names if name not in files]
            if missing:
                raise MediaError(
                    f"{self.path}: no image {missing[0]}, which the ground truth names "
                    f"({len(missing)} are missing)"
                )
            source.paths = [files[name] for name in self.names]
            source.frames = len(source.paths)
        return source

    def state(self) -> list[tuple[str, int, int]]:
        """(name, bytes, modification time in ns) of every file; differs once images are
        changed."""
        if self.path.is_dir():
            files = [f for f in self.path.iterdir() if not self.names or f.stem in self.names]
        elif self.path.is_file():
            files = [self.path]
        else:
            files = list(self.path.parent.glob(self.path.name))
        stats = ((file.name, file.stat()) for file in sorted(files))
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


@dataclass(frozen=True, slots=True)
class EvaluationInput:
    """Ground truth of every sequence, and images where available."""

    format: str
    truths: dict[str, SequenceMasks]
    images: dict[str, Images]


def read_input(
    ground_truth: Path,
    format_name: str,
    images: Path | None,
    sequences: Collection[str] = (),
    topic: str | None = None,
) -> EvaluationInput:
    """Read ground truth, and find the images in ``images`` or beside it. Raises EvaluationError,
    MediaError.

    sequences: names of those to evaluate; empty for all.
    """
    if not ground_truth.exists():
        raise EvaluationError(f"no ground truth at {ground_truth}")
    if is_bag(ground_truth):
        truth = split_ignored(read_bag(ground_truth, TRUTH_TOPIC))
        place = Images(images or ground_truth, topic, truth_frames=truth.frames)
        located = _match_images(ground_truth, place)
        return EvaluationInput(BAG, {truth.name: truth}, {truth.name: located} if located else {})
    if format_name == BAG:
        raise EvaluationError(f"{ground_truth} is no ROS 2 bag")
    truths = chosen(format_named(format_name).read_truth(ground_truth), sequences, ground_truth)
    layouts = BESIDE_TRUTH if images is None else (*BESIDE_TRUTH, *IMAGE_ROOTS)
    folders = {name: find_images(images or ground_truth, name, layouts) for name in truths}
    missing = [name for name, folder in folders.items() if folder is None]
    if images is not None and missing:
        raise EvaluationError(
            f"{images}: no images of {', '.join(missing)} (expected {images}/{missing[0]}/*.png)"
        )
    found = {
        name: Images(
            folder,
            topic,
            tuple(Path(file).stem for file in truths[name].files),
            first_masks(truths[name]) if format_name in PROMPTED else {},
            truths[name].frames,
        )
        for name, folder in folders.items()
        if folder
    }
    return EvaluationInput(format_name, truths, found)


def first_masks(truth: SequenceMasks) -> dict[int, tuple[Prompt, ...]]:
    """The first mask of every object as a prompt, by frame; ids are those of the objects."""
    prompts: dict[int, tuple[Prompt, ...]] = {}
    for track_id, rows in sorted(truth.by_track().items()):
        first = rows[0]
        prompts[first.frame] = (*prompts.get(first.frame, ()), Prompt(track_id, 1, first.rle))
    return prompts


def chosen(
    truths: dict[str, SequenceMasks], names: Collection[str], where: Path
) -> dict[str, SequenceMasks]:
    """Select the named sequences, or all. Raises EvaluationError for an unknown name."""
    unknown = sorted(set(names) - truths.keys())
    if unknown:
        raise EvaluationError(
            f"{where}: no sequence {', '.join(unknown)}; there are {', '.join(truths)}"
        )
    return {name: truth for name, truth in truths.items() if not names or name in names}


BESIDE_TRUTH = ("image_02/{}", "training/image_02/{}", "{}/img1", "JPEGImages/{}")
"""Where benchmarks keep the images of a sequence: in the folder that also holds the ground
truth,"""
IMAGE_ROOTS = ("{}", "JPEGImages/480p/{}", "{}.mcap", "{}.db3")
"""or in one of their own; also a bag per sequence."""


def find_images(root: Path, name: str, layouts: Collection[str]) -> Path | None:
    """Find the folder of images, or the bag, of a sequence; None if no layout fits."""
    for layout in layouts:
        place = root / layout.format(name)
        if is_bag(place) and place.exists():
            return place
        if place.is_dir() and any(_is_frame(file) for file in place.iterdir()):
            return place
    return None


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in (".png", ".jpg", ".jpeg")


def read_bag(path: Path, topic: str | None) -> SequenceMasks:
    """Read the instances of a bag as a sequence of the same name. Raises EvaluationError,
    BagError."""
    with InstanceBagReader(path, topic) as bag:
        return from_results(path.stem, bag, {})


def read_results_bag(
    path: Path, truth_bag: Path, truth: SequenceMasks, images: Images | None, max_gap: float
) -> tuple[SequenceMasks, LostFrames]:
    """Read recorded results for the images of a ground truth bag, and what has no result because
    of the images.

    max_gap: ``stream.max_gap`` of the node. Raises EvaluationError, MediaError.
    """
    topics = [
        t.name
        for t in bag_info(path).topics
        if t.type == INSTANCE_ARRAY and t.name != TRUTH_TOPIC and not t.name.endswith(PROMPTS)
    ]
    topic = topics[0] if len(topics) == 1 else None
    stamps = read_stamps(truth_bag, (INSTANCE_ARRAY,), TRUTH_TOPIC)
    found = read_stamps(path, (INSTANCE_ARRAY,), topic)
    lost, explained = LostFrames(losses=list(found.losses)), set[int]()
    if images is not None and len(found.ns) < len(stamps.ns):
        lost, explained = unusable_frames(images, max_gap)
        lost = replace(lost, losses=list(dict.fromkeys([*found.losses, *lost.losses])))
    numbers = frames_of(stamps, found, f"{path}: results", explained)
    result = read_bag(path, topic)
    if numbers:
        numbered = (replace(row, frame=numbers[row.frame]) for row in result.rows)
        rows = tuple(row for row in numbered if row.frame != NO_FRAME)
        result = replace(result, rows=rows, frames=truth.frames)
    return replace(result, name=truth.name), lost


def unusable_frames(images: Images, max_gap: float) -> tuple[LostFrames, set[int]]:
    """Find the frames that a stream has no result for, with what is reported of them, by reading
    all. Raises MediaError."""
    order = StampOrder(max_gap)
    used, readable = set[object](), set[int]()
    with images.open() as source:
        for position, stamp_ns, image in numbered_frames(source):
            readable.add(position)
            admitted = order.admit(Frame(image, stamp_ns, source=position))
            used |= {item.frame.source for item in admitted}
        dropped = count_dropped(order.events, held=order.forget())
        lost = images.lost(source.damage, dropped)
    unusable = {images.frame(position) for position in readable - used}
    return lost, unusable | {item.frame for item in lost.skipped}


def _match_images(bag: Path, images: Images) -> Images | None:
    """Find the frame of each image by the stamps of the ground truth; None if there are no images.
    Raises EvaluationError."""
    if not is_bag(images.path):
        return images
    if not any(topic.type in IMAGE_TYPES for topic in bag_info(images.path).topics):
        return None
    numbers = frames_of(
        read_stamps(bag, (INSTANCE_ARRAY,), TRUTH_TOPIC),
        read_stamps(images.path, IMAGE_TYPES, images.topic),
        f"{images.path}: images",
    )
    return replace(images, numbers=numbers)


def split_ignored(sequence: SequenceMasks) -> SequenceMasks:
    """Turn masks of the class IGNORE into ignored pixels."""
    ids = {class_id for class_id, name in sequence.classes.items() if name == IGNORE}
    return replace(
        sequence,
        rows=tuple(row for row in sequence.rows if row.class_id not in ids),
        ignored={row.frame: row.rle for row in sequence.rows if row.class_id in ids},
        classes={i: name for i, name in sequence.classes.items() if i not in ids},
        scores={},
    )
