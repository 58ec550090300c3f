"""From stored masks to the masks that are scored: classes by name, the released post-filter,
limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pycocotools import mask as coco_mask

from stemseg_ros.evaluation.inputs import PROMPTED
from stemseg_ros.evaluation.official import without_ignored
from stemseg_ros.formats.davis_pngs import CLASSES as DAVIS_CLASSES
from stemseg_ros.formats.kitti_lines import IDS_PER_CLASS, filter_rows
from stemseg_ros.formats.kitti_mots_text import CLASSES as KITTI_CLASSES
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks

DAVIS_OBJECTS = 20
"""Most objects of a sequence in DAVIS unsupervised; the largest of a run are kept."""
OWN = "own"
"""Linker of results that keep the identities of their source."""
STORED = "stored results"
"""Source of a variant without a run."""


@dataclass(frozen=True, slots=True)
class LinkingVariant:
    """One row of the report: the source of the results and the filters applied."""

    source: str
    """A window mode, or STORED."""
    post_filter: bool = False
    """Whether the released post-filter was applied; it looks at whole tracks and is not causal."""
    pixel_scores: bool = False
    """Confidence of a track: its pixels relative to the largest track, as the released code has
    it."""
    through_ros: bool = False
    """Whether the images went through the ROS 2 node."""
    linker: str = OWN
    """What gave the masks their identities: OWN, or a name of ``relinking.py``."""

    @property
    def run(self) -> str:
        """Mode of the run, and whether it went through ROS."""
        return self.source + " through ROS" * self.through_ros

    @property
    def name(self) -> str:
        """Name in reports."""
        return (
            self.run
            + f" + linked by {self.linker}" * (self.linker != OWN)
            + " + post-filter" * self.post_filter
            + " + scores by pixels" * self.pixel_scores
        )


def prepare(
    variant: LinkingVariant, format_name: str, truth: SequenceMasks, result: SequenceMasks
) -> tuple[SequenceMasks, SequenceMasks]:
    """Bring ground truth and results to common classes, as they are scored. Raises
    EvaluationError."""
    truth, result = match_classes(truth, result, open_classes=format_name == "bag")
    if variant.post_filter:
        result = post_filtered(result)
    if variant.pixel_scores:
        result = scored_by_pixels(result)
    if format_name == "bdd100k":
        result, truth = without_ignored(truth, result), replace(truth, ignored={})
    if format_name in PROMPTED:
        result = numbered_as_prompted(result)
    if format_name == "davis" and variant.source != STORED:
        result = largest_tracks(result, DAVIS_OBJECTS)
    return truth, result


def match_classes(
    truth: SequenceMasks, result: SequenceMasks, *, open_classes: bool
) -> tuple[SequenceMasks, SequenceMasks]:
    """Map results to the class ids of the ground truth by name; track ids stay.

    Classes that the ground truth does not know are left out, unless ``open_classes``: then they
    are added to both. In DAVIS every class is an object. Raises EvaluationError if no class is
    common.
    """
    if truth.classes == DAVIS_CLASSES:
        return truth, _renumbered(result, dict.fromkeys(result.classes, 1), DAVIS_CLASSES)
    classes = dict(truth.classes)
    known = {name: class_id for class_id, name in classes.items()}
    for name in result.classes.values():
        if open_classes and name not in known:
            known[name] = max([0, *classes]) + 1
            classes[known[name]] = name
    mapping = {class_id: known[name] for class_id, name in result.classes.items() if name in known}
    if not mapping and result.rows:
        raise EvaluationError(
            f"sequence {truth.name}: the classes of the results, {_list(result)}, and of "
            f"the ground truth, {_list(truth)}, have no name in common"
        )
    return replace(truth, classes=classes), _renumbered(result, mapping, classes)


def named_like(truth: SequenceMasks, result: SequenceMasks) -> SequenceMasks:
    """Take over the numbers and file names of the ground truth, if it has any."""
    files = truth.files if len(truth.files) == result.frames else ()
    return replace(result, name=truth.name, number=truth.number, files=files)


def _list(sequence: SequenceMasks) -> str:
    return "/".join(sequence.classes.values())


def _renumbered(
    result: SequenceMasks, mapping: Mapping[int, int], classes: Mapping[int, str]
) -> SequenceMasks:
    rows = (
        replace(row, class_id=mapping[row.class_id])
        for row in result.rows
        if row.class_id in mapping
    )
    unseen = {id_: mapping[c] for id_, c in result.unseen.items() if c in mapping}
    return replace(result, rows=tuple(rows), classes=classes, unseen=unseen)


def has_post_filter(classes: Mapping[int, str]) -> bool:
    """Whether the released post-filter, which is for cars (1) and pedestrians (2), fits the
    classes."""
    return set(classes.items()) <= set(KITTI_CLASSES.items())


def post_filtered(result: SequenceMasks) -> SequenceMasks:
    """Drop the masks and tracks that the released post-filter drops."""
    rows = sorted(result.rows, key=lambda row: (row.id, row.frame))
    return replace(result, rows=tuple(filter_rows(rows)))


def numbered_as_prompted(result: SequenceMasks) -> SequenceMasks:
    """With the ids of the prompts, without classes."""
    rows = (replace(row, id=row.id % IDS_PER_CLASS) for row in result.rows)
    return replace(result, rows=tuple(rows), scores={})


def scored_by_pixels(result: SequenceMasks) -> SequenceMasks:
    """Compute scores in [0, 1]: pixels of a track over those of the largest; 0 where all masks
    are empty."""
    pixels = _pixels(result)
    most = max([1, *pixels.values()])
    scores = {id_: pixels[id_] / most for id_ in (*pixels, *result.unseen)}
    return replace(result, scores=scores)


def largest_tracks(result: SequenceMasks, count: int) -> SequenceMasks:
    """Keep the tracks with the most pixels."""
    kept = {id_ for id_, _ in _pixels(result).most_common(count)}
    return replace(result, rows=tuple(row for row in result.rows if row.id in kept))


def _pixels(result: SequenceMasks) -> Counter[int]:
    pixels: Counter[int] = Counter()
    for row in result.rows:
        pixels[row.id] += int(coco_mask.area(row.rle))
    return pixels
