"""Runs sequences, each in one process, and stores results and timings, so that a run can resume.

A stored sequence is NAME.txt (KITTI-MOTS text with frames from 0, for any class list) and
NAME.json, which is written last and names the settings it was made with: it counts only for the
same settings, weights, device, package version and unchanged image files.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from stemseg_ros import __version__
from stemseg_ros.config import Config, result_settings, settings_class
from stemseg_ros.errors import MediaError
from stemseg_ros.evaluation.bag_stamps import NO_FRAME
from stemseg_ros.evaluation.inputs import Images
from stemseg_ros.evaluation.lost_frames import LostFrames
from stemseg_ros.execution.function_files import CONTENT
from stemseg_ros.formats.kitti_lines import (
    IDS_PER_CLASS,
    ResultRow,
    TrackCollector,
    read_results,
    write_results,
)
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.labelling.job import (
    Timings,
    push_all,
    pushed_frame,
    write_json,
)
from stemseg_ros.media.sources import is_bag
from stemseg_ros.models.layers.weights import bundled_checkpoint
from stemseg_ros.stamps import Event, count_dropped
from stemseg_ros.stream import Model, Stream, open_model

MODES = ("offline", "near_online", "online")
"""offline: the paper's protocol, foreground and class logits averaged over all windows of a frame.
near_online: windows as they come. online: no look-ahead."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings, weights and device of a run."""

    config: Config
    checkpoint: str | None
    """As for ``load_network``."""
    device: str
    threads: int | None = None
    """CPU threads of the network; None for torch's default."""

    def in_mode(self, mode: str) -> Setup:
        """Copy with another window mode."""
        return replace(self, config=self.config.in_mode(mode))

    def fingerprint(self, name: str, images: Images) -> str:
        """Hash of everything that the stored results of a sequence depend on."""
        digests = [_digest(self.config, self.checkpoint)]
        if self.config.detector:
            digests.append(_digest(self.config.detector, self.config.detector_checkpoint))
        place = [str(images.path.resolve()), images.topic, images.names, images.state()]
        if images.numbers:
            place.append(str(images.numbers))
        if images.prompts:
            place.append(hashlib.sha256(repr(images.prompts).encode()).hexdigest())
        made_with = [__version__, self.device, result_settings(self.config), *digests]
        inputs = json.dumps([made_with, name, place])
        return hashlib.sha256(inputs.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredRun:
    """Content of NAME.json."""

    fingerprint: str
    frames: int
    """Length of the sequence, frames without results included."""
    lost: LostFrames
    size: tuple[int, int]
    """(H, W), pixels."""
    classes: dict[int, str]
    scores: dict[int, float]
    """Mean score of each track, by id."""
    seconds: float
    """End to end: reading images, pipeline, collecting results."""
    network_seconds: float | None
    """Network, clustering and linking, close to what the paper counts (network and clustering);
    None through ROS."""
    latency_ms: list[float]
    """Of each frame with a result, from pushing it to receiving that."""


def run_sequence(
    setup: Setup,
    name: str,
    images: Images,
    out: Path,
    progress: Callable[[int], None] = lambda frames: None,
) -> StoredRun:
    """Run one sequence in this process and store the results. Raises MediaError, CheckpointError.

    progress: called with the number of frames done.
    """
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    config = setup.config
    model = _model(config.model, config.model_dump_json(), setup.checkpoint, setup.device)
    return _compute(model.stream(), name, images, out, setup.fingerprint(name, images), progress)


def finished_run(setup: Setup, name: str, images: Images, out: Path) -> StoredRun | None:
    """Read the record of a sequence if its fingerprint is still the same; else None."""
    stored = load_run(out, name)
    if stored is None or not (out / f"{name}.txt").is_file():
        return None
    return stored if stored.fingerprint == setup.fingerprint(name, images) else None


def store(out: Path, run: StoredRun, name: str, rows: Iterable[ResultRow]) -> StoredRun:
    """Write results, then the record that says they are complete. Raises MediaError."""
    write_results(out / f"{name}.txt", rows)
    write_json(out / f"{name}.json", asdict(run))
    return run


def load_run(out: Path, name: str) -> StoredRun | None:
    """Read the record of a finished sequence; None if there is none, or an unreadable one."""
    try:
        content = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        for key in ("classes", "scores"):
            content[key] = {int(number): value for number, value in content[key].items()}
        lost, size = LostFrames.from_json(content["lost"]), tuple(content["size"])
        return StoredRun(**{**content, "lost": lost, "size": size})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stored_masks(out: Path, name: str) -> SequenceMasks:
    """Read the results of a finished sequence. Raises EvaluationError."""
    run = load_run(out, name)
    if run is None:
        raise EvaluationError(f"{out}: no finished results of sequence {name}")
    try:
        rows = read_results(out / f"{name}.txt", frames=run.frames, size=run.size)
    except MediaError as error:
        raise EvaluationError(str(error)) from error
    return SequenceMasks(name, run.size, run.frames, run.classes, tuple(rows), scores=run.scores)


def _digest(config: Config, checkpoint: str | None) -> str:
    """Hash of weights, or of the description of exported ones, which has their digests; of what is
    neither its name."""
    weights = checkpoint or str(bundled_checkpoint(config))
    file = Path(weights) / CONTENT if Path(weights).is_dir() else Path(weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else weights


@lru_cache(maxsize=1)
def _model(name: str, config_json: str, checkpoint: str | None, device: str) -> Model:
    """Loaded once a process, not once a sequence; the key is text because a Config cannot be
    hashed."""
    config = settings_class(name).model_validate_json(config_json)
    return open_model(config, checkpoint, device, timed=True)


def _compute(
    stream: Stream,
    name: str,
    images: Images,
    out: Path,
    fingerprint: str,
    progress: Callable[[int], None],
) -> StoredRun:
    collector, timings, events = TrackCollector(), Timings(), list[Event]()
    scores: dict[tuple[int, int], list[float]] = {}
    size = (0, 0)
    start = time.perf_counter()
    with images.open() as source:
        for results in push_all(
            source, stream, timings, prompts=images.prompts, on_event=events.append
        ):
            for result in results:
                frame = images.frame(pushed_frame(result).number)
                size = _same_size(name, frame, size, (result.height, result.width))
                if frame == NO_FRAME:
                    continue
                collector.add(result, frame)
                for instance in result.instances:
                    scores.setdefault((result.epoch, instance.track_id), []).append(instance.score)
            progress(len(timings.latency))
        lost = images.lost(source.damage, count_dropped(events, held=stream.reset()))
        lost = replace(lost, prompts=[e.text for e in events if e.kind == "prompts"])
    spent = sum(sum(values) for values in timings.stages_ms.values())
    rows = collector.prompted_rows() if images.prompts else collector.rows()
    means = {}
    for n, (key, track) in enumerate(collector.numbered(), start=1):
        track_id = track.class_id * IDS_PER_CLASS + (key[1] if images.prompts else n)
        means[track_id] = round(sum(scores[key]) / len(scores[key]), 6)
    run = StoredRun(
        fingerprint,
        sequence_length(images, len(timings.latency), lost),
        lost,
        size,
        dict(enumerate(stream.config.classes, start=1)),
        means,
        seconds=round(time.perf_counter() - start, 4),
        network_seconds=round(spent / 1e3, 4),
        latency_ms=[round(1e3 * seconds, 2) for seconds in timings.latency],
    )
    return store(out, run, name, rows)


def sequence_length(images: Images, results: int, lost: LostFrames) -> int:
    """Return the number of frames with and without results, with those behind the cut of a video.

    A bag without stamps in its ground truth may have lost frames anywhere, so none are added.
    """
    read = results + len(lost.skipped) + sum(lost.dropped.values())
    cut = bool(lost.losses) and not is_bag(images.path)
    return max(read, images.truth_frames) if cut or images.numbers else read


def _same_size(
    name: str, frame: int, known: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int]:
    if known not in ((0, 0), size):
        raise MediaError(
            f"sequence {name}: frame {frame} is {size[1]}x{size[0]} pixels, those before are "
            f"{known[1]}x{known[0]}"
        )
    return size
