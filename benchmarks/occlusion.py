"""What bridging gains where a detector loses its objects: recall and identities in the driving
clips, with and without it.

    python -m benchmarks.occlusion DATA --json out/occlusion.json

Three kinds of gap, of some frames each:

blind      the detector reports nothing, and everything afterwards under new ids, as after an
           interruption
losing     it loses one object after the other, each in turn, and finds each under a new id;
           nothing in the image changes
passing    a panel slides over one object after the other, in the image; the detector does what it
           does then. True masks lack what the panel covers

The detector runs once on each video. Its results are scored as they are, and again after a
BridgedTracker took them with the images; true masks below 1,000 pixels are ignored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.development import (
    FOUND_IOU,
    FRAME_NS,
    SequenceResult,
    ignore_small,
    mask_quality,
    tracking,
)
from stemseg_ros.bridging.settings import FollowerConfig
from stemseg_ros.bridging.tracker import BridgedTracker
from stemseg_ros.cli.options import JsonOption, SetOption, config_from
from stemseg_ros.config import Config
from stemseg_ros.datasets.driving import load_driving
from stemseg_ros.datasets.sequence import LabelledFrame, is_object
from stemseg_ros.errors import StemsegError
from stemseg_ros.evaluation.linkers import mask_iou
from stemseg_ros.execution.lockstep import run_steps
from stemseg_ros.masks import Bools, Box, decode, label_image, mask_box
from stemseg_ros.models.registry import model_package
from stemseg_ros.records import Frame, FrameResult
from stemseg_ros.stream import Model, open_model
from stemseg_ros.tracker import Latency, PromptTracker, Step

CAR = 1
"""Class of the clips' objects."""
MIN_AREA = 1000
"""Least area in pixels of an object that counts."""
MARGIN = 4
"""Least number of frames before and after a gap in which its object is large."""
NEW_IDS = 1000
"""Added to the ids of a detector that lost its tracks."""
PANEL_BGR = (40, 70, 95)
Gaps = Mapping[int, range]
"""Frames in which each object is lost, by its label."""
Video = list[LabelledFrame]


class Recorded:
    """A detector that gives the results of an earlier run."""

    latency = Latency(look_ahead=0, burst=1, in_flight=1, frames_per_pass=1)

    def __init__(self, results: Sequence[FrameResult]) -> None:
        self._results = iter(results)

    def step(self, frame: Frame) -> Step:
        """The result of the next frame."""
        yield from ()
        return [next(self._results)]

    def finish(self) -> Step:
        """No frame is ever pending."""
        yield from ()
        return []

    def update(self, config: Config) -> None:
        """No setting has an effect."""


# Gaps


def gaps(video: Video, frames: int) -> Gaps:
    """One gap in the middle of the time for which each object stays large; none for objects that
    are not large for long enough."""
    chosen = {}
    for label in sorted({int(n) for frame in video for n in np.unique(frame.labels)}):
        large = [bool((frame.labels == label).sum() >= MIN_AREA) for frame in video]
        start, stop = longest_run(large)
        if is_object(np.array(label)) and stop - start >= frames + 2 * MARGIN:
            first = (start + stop - frames) // 2
            chosen[label] = range(first, first + frames)
    return chosen


def longest_run(flags: Sequence[bool]) -> tuple[int, int]:
    """First and one past the last position of the longest run of true values; (0, 0) if none."""
    runs, start = [(0, 0)], 0
    for position, flag in enumerate([*flags, False]):
        if not flag:
            runs.append((start, position))
            start = position + 1
    return max(runs, key=lambda run: run[1] - run[0])


def blind(results: Sequence[FrameResult], gap: range) -> list[FrameResult]:
    """The detector is interrupted."""
    changed = []
    for t, result in enumerate(results):
        kept = () if t in gap else result.instances
        offset = NEW_IDS if t >= gap.stop else 0
        moved = tuple(replace(one, track_id=one.track_id + offset) for one in kept)
        changed.append(replace(result, instances=moved))
    return changed


def losing(results: Sequence[FrameResult], video: Video, lost: Gaps) -> list[FrameResult]:
    """The detector loses objects."""
    changed = list(results)
    for number, (label, gap) in enumerate(lost.items(), 1):
        masks = [frame.labels == label for frame in video]
        ids = {
            one.track_id
            for result, mask in zip(changed, masks, strict=True)
            for one in result.instances
            if mask_iou(decode(one.rle), mask) >= FOUND_IOU
        }
        for t in range(gap.start, len(changed)):
            kept = (one for one in changed[t].instances if t not in gap or one.track_id not in ids)
            moved = (
                replace(one, track_id=one.track_id + number * NEW_IDS)
                if one.track_id in ids
                else one
                for one in kept
            )
            changed[t] = replace(changed[t], instances=tuple(moved))
    return changed


def passing(video: Video, lost: Gaps) -> Video:
    """A panel, a fifth wider and higher than the object, slides over each from left to right; it
    covers most of it in the middle of the gap."""
    changed = list(video)
    for label, gap in lost.items():
        for position, t in enumerate(gap):
            box = mask_box(video[t].labels == label)
            assert box is not None
            shift = 2 * (position + 0.5) / len(gap) - 1  # -1: left of the object, 1: right of it
            changed[t] = covered(changed[t], box, shift)
    return changed


def covered(frame: LabelledFrame, box: Box, shift: float) -> LabelledFrame:
    """Put a panel over a box (x, y, width, height), moved by a share of its width."""
    x, y, width, height = box
    left, right = (round(x + (edge + shift) * width) for edge in (-0.1, 1.1))
    top, bottom = round(y - 0.1 * height), round(y + 1.1 * height)
    area = np.s_[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    image, labels = frame.image.copy(), frame.labels.copy()
    noise = np.random.default_rng(0).integers(-12, 13, image[area].shape)
    image[area] = PANEL_BGR + noise
    labels[area] = 0
    return LabelledFrame(image, labels)


# Runs


def detect(model: Model, video: Video) -> list[FrameResult]:
    """Results of a model by itself."""
    stream = model.stream()
    results: list[FrameResult] = []
    for t, frame in enumerate(video):
        results += stream.push(Frame(frame.image, (t + 1) * FRAME_NS))
    return results + stream.flush()


def bridge(
    follower: Model, config: FollowerConfig, video: Video, found: Sequence[FrameResult]
) -> list[FrameResult]:
    """What becomes of a detector's results. Raises whatever the follower raises."""
    inner = model_package(config.model).Tracker(config, follower.engine.device)
    assert isinstance(inner, PromptTracker)
    tracker = BridgedTracker(Recorded(found), inner, config)
    results: list[FrameResult] = []
    for t, frame in enumerate(video):
        outcome = run_steps(follower.engine, [tracker.step(Frame(frame.image, t))])[0].outcome
        if isinstance(outcome, Exception):
            raise outcome
        results += outcome or []
    return results


# Scores


@dataclass(slots=True)
class Score:
    """One contestant on all videos, with one kind of gap."""

    gaps: int = 0
    kept: int = 0
    """Gaps after which the object has the id that it had before."""
    lost_masks: int = 0
    """True masks of at least MIN_AREA pixels, of the lost objects in their gaps."""
    found_masks: int = 0
    """Those that were found."""
    switches: int = 0
    """Of all objects."""
    recall: float = 0.0
    """Of all masks of at least MIN_AREA pixels, in per cent."""
    precision: float = 0.0
    """Likewise."""


def score(runs: Sequence[tuple[Video, Gaps, Sequence[FrameResult]]]) -> Score:
    """Score a contestant on several videos."""
    total, scored = Score(), []
    for video, lost, results in runs:
        classes = {one.track_id: one.class_id for r in results for one in r.instances}
        truth = [frame.labels for frame in video]
        predicted = [label_image(result).astype(np.int32) for result in results]
        scored.append(SequenceResult("", truth, predicted, classes))
        total.switches += round(tracking(ignore_small(scored[-1], MIN_AREA), CAR)["IDS"])
        for label, gap in lost.items():
            count_gap(total, [labels == label for labels in truth], gap, results)
    quality = mask_quality(scored, CAR, MIN_AREA)
    total.recall, total.precision = 100 * quality.recall, 100 * quality.precision
    return total


def count_gap(
    total: Score, masks: Sequence[Bools], gap: range, results: Sequence[FrameResult]
) -> None:
    """Add one gap of an object with these true masks."""
    ids = [found_id(result, mask) for result, mask in zip(results, masks, strict=True)]
    before = [i for i in ids[: gap.start] if i]
    after = [i for i in ids[gap.stop :] if i]
    total.gaps += 1
    total.kept += bool(before and after and before[-1] == after[0])
    for t in gap:
        if masks[t].sum() >= MIN_AREA:
            total.lost_masks += 1
            total.found_masks += ids[t] > 0


def found_id(result: FrameResult, mask: Bools) -> int:
    """Id of the instance that an object's true mask is found by; 0 without one."""
    best = {one.track_id: mask_iou(decode(one.rle), mask) for one in result.instances}
    chosen = max(best, key=lambda track_id: best[track_id], default=0)
    return chosen if chosen and best[chosen] >= FOUND_IOU else 0


def compare(
    config: FollowerConfig, videos: Sequence[Video], lengths: Sequence[int]
) -> Iterator[tuple[str, int, str, Score]]:
    """Scores by kind of gap, its frames, and contestant. Raises StemsegError."""
    assert config.detector
    detector = open_model(config.detector, config.detector_checkpoint)
    follower = open_model(config.alone)
    found = [detect(detector, video) for video in videos]
    for kind, length, problems in problems_of(videos, found, detector, lengths):
        yield kind, length, "detector alone", score(problems)
        bridged = [
            (video, lost, bridge(follower, config, video, found))
            for video, lost, found in problems
        ]
        yield kind, length, "bridged", score(bridged)


Problem = tuple[Video, Gaps, Sequence[FrameResult]]


def problems_of(
    videos: Sequence[Video],
    found: Sequence[Sequence[FrameResult]],
    detector: Model,
    lengths: Sequence[int],
) -> Iterator[tuple[str, int, list[Problem]]]:
    """Kinds of gaps, their frames, and videos with what is lost and what the detector finds."""
    yield "none", 0, [(video, {}, results) for video, results in zip(videos, found, strict=True)]
    for length in lengths:
        plain = [(v, gaps(v, length), r) for v, r in zip(videos, found, strict=True)]
        yield "losing", length, [(v, lost, losing(r, v, lost)) for v, lost, r in plain]
        interrupted: list[Problem] = []
        for video, lost, results in plain:
            first = (len(video) - length) // 2
            gap = range(first, first + length)
            interrupted.append((video, dict.fromkeys(lost, gap), blind(results, gap)))
        yield "blind", length, interrupted
        hidden = [(passing(video, lost), lost) for video, lost, _ in plain]
        yield "passing", length, [(v, lost, detect(detector, v)) for v, lost in hidden]


def main(
    data: Annotated[Path, typer.Argument(help="The driving pack.")],
    config: Annotated[str, typer.Option(help="Preset or YAML file.")] = "hodor_lite",
    frames: Annotated[list[int] | None, typer.Option(min=1, help="Frames of a gap.")] = None,
    every: Annotated[bool, typer.Option(help="Also clips that models were trained on.")] = False,
    settings: SetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare a detector with and without bridging."""
    console, rows = Console(highlight=False), []
    try:
        tree = config_from(config, settings, {"tracking": "own_tracks"})
        assert isinstance(tree, FollowerConfig)
        sequences = load_driving(data, "development")
        if every:
            sequences += load_driving(data, "train")
        videos = [list(sequence) for sequence in sequences if len(sequence) > 1]
        console.print(
            "gap | frames | contestant | ids kept | found in gaps | switches | recall | precision"
        )
        for kind, length, name, one in compare(tree, videos, frames or [4, 8]):
            rows.append({"gap": kind, "frames": length, "contestant": name, **asdict(one)})
            console.print(
                f"{kind} | {length} | {name} | {one.kept} of {one.gaps} | "
                f"{one.found_masks} of {one.lost_masks} | {one.switches} | "
                f"{one.recall:.1f} % | {one.precision:.1f} %"
            )
    except StemsegError as error:
        typer.echo(f"occlusion: {error}", err=True)
        sys.exit(1)
    if json_file:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
