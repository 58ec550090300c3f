"""Ground truth into a ROS 2 bag, beside its images; recorded results of a bag into benchmark
files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pycocotools import mask as coco_mask

from stemseg_ros.evaluation.inputs import IGNORE, IGNORE_ID, TRUTH_TOPIC, chosen, read_bag
from stemseg_ros.evaluation.variants import match_classes, named_like
from stemseg_ros.formats import format_named
from stemseg_ros.formats.kitti_lines import ResultRow
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, check_pair
from stemseg_ros.media.bag_storage import Storage
from stemseg_ros.media.bags import INSTANCE_ARRAY, ImageBagWriter
from stemseg_ros.media.result_bag import message_from_result
from stemseg_ros.records import FrameResult, Image, Instance, Rle


def read_sequence(path: Path, format_name: str, name: str | None) -> SequenceMasks:
    """Ground truth of one sequence; ``name`` where there are several. Raises EvaluationError."""
    truths = chosen(format_named(format_name).read_truth(path), [name] if name else (), path)
    if len(truths) > 1:
        raise EvaluationError(
            f"{path} holds the sequences {', '.join(truths)}: choose one (--sequence)"
        )
    return next(iter(truths.values()))


def write_labelled_bag(
    source: Iterable[tuple[int, int, Image]],
    truth: SequenceMasks,
    out: Path,
    *,
    topic: str,
    frame_id: str,
    encoding: Literal["bgr8", "jpeg"],
    storage: Storage | None,
    progress: Callable[[int], None],
) -> int:
    """Write images with their ground truth to a new bag; returns their number.

    source: frame of the ground truth, stamp in ns and BGR image of each; a frame that is left out
    is missing in the bag as a whole. Raises BagError, and EvaluationError for images that do not
    fit the ground truth.
    """
    by_frame = truth.by_frame()
    count = 0
    with ImageBagWriter(out, topic, frame_id, encoding, storage) as bag:
        write_truth = bag.second_topic(TRUTH_TOPIC, INSTANCE_ARRAY)
        for frame, stamp, image in source:
            height, width = image.shape[:2]
            if truth.size not in ((0, 0), (height, width)):
                raise EvaluationError(
                    f"frame {frame} is {width}x{height} pixels, its ground truth "
                    f"{truth.size[1]}x{truth.size[0]}"
                )
            bag.write(stamp, image)
            rows = by_frame[frame] if frame < len(by_frame) else []
            instances = _instances(truth, rows, truth.ignored.get(frame))
            result = FrameResult(frame, stamp, height, width, 0, instances)
            write_truth(stamp, message_from_result(result, frame_id))
            count += 1
            progress(count)
    return count


def _instances(
    truth: SequenceMasks, rows: Iterable[ResultRow], ignored: Rle | None
) -> tuple[Instance, ...]:
    instances = [
        _instance(row.id, row.class_id, truth.classes[row.class_id], row.rle) for row in rows
    ]
    if ignored is not None:
        instances.append(_instance(IGNORE_ID, IGNORE_ID, IGNORE, ignored))
    return tuple(instances)


def _instance(id_: int, class_id: int, name: str, rle: Rle) -> Instance:
    x, y, width, height = (int(side) for side in coco_mask.toBbox(rle))
    return Instance(id_, class_id, name, 1.0, rle, (x, y, width, height))


def convert_bag(
    bag: Path,
    topic: str | None,
    format_name: str,
    out: Path,
    name: str | None,
    ground_truth: Path | None = None,
) -> SequenceMasks:
    """Write recorded results in a benchmark's format, classes matched by name; numbers, file names
    and classes are those of the ground truth if it is given.

    name: of the sequence; None for that of the bag, or the only one of the ground truth. Raises
    EvaluationError, BagError.
    """
    files = format_named(format_name)
    result = read_bag(bag, topic)
    classes: Mapping[int, str] | None = getattr(files, "CLASSES", None)
    if ground_truth is not None:
        truth = _truth_for(files.read_truth(ground_truth), name, result, ground_truth)
        result = named_like(truth, match_classes(truth, result, open_classes=False)[1])
    else:
        result = replace(result, name=name or result.name)
        if classes is not None:
            empty = replace(result, rows=(), classes=classes)
            result = match_classes(empty, result, open_classes=False)[1]
    files.write(out, [result])
    return result


def _truth_for(
    truths: Mapping[str, SequenceMasks], name: str | None, result: SequenceMasks, where: Path
) -> SequenceMasks:
    """Find the ground truth of the recorded sequence. Raises EvaluationError."""
    wanted = name or (next(iter(truths)) if len(truths) == 1 else result.name)
    if wanted not in truths:
        raise EvaluationError(
            f"{where}: no sequence {wanted}; there are {', '.join(truths)}: choose one (--name)"
        )
    truth = truths[wanted]
    check_pair(truth, result)
    # Ground truth text ends with its last mask, so the stream may be longer.
    if result.frames < truth.frames or (truth.files and result.frames > truth.frames):
        raise EvaluationError(
            f"{result.frames} results, but the ground truth of {wanted} has {truth.frames} frames"
        )
    return truth
