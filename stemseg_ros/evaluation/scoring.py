"""Scores sequences against ground truth: fresh runs of the model, or stored results."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stemseg_ros.datasets.check import OpenProgress
from stemseg_ros.evaluation import through_ros
from stemseg_ros.evaluation.inputs import BAG, PROMPTED, EvaluationInput, read_results_bag
from stemseg_ros.evaluation.lost_frames import LostFrames
from stemseg_ros.evaluation.matches import MatchDiagnostics, diagnose
from stemseg_ros.evaluation.measures import (
    BDD100K,
    MOTS,
    PROTOCOLS,
    Measures,
    Protocol,
    SequenceScores,
    combine,
    score_sequence,
    sequence_measures,
)
from stemseg_ros.evaluation.relinking import Masks, Relinker, as_given
from stemseg_ros.evaluation.runs import Setup, StoredRun, finished_run, run_sequence, stored_masks
from stemseg_ros.evaluation.variants import LinkingVariant, has_post_filter, named_like, prepare
from stemseg_ros.formats import format_named
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks
from stemseg_ros.labelling.job import percentiles

Task = TypeVar("Task")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Timing:
    """Speed of a run over all sequences."""

    frames: int
    fps_end_to_end: float
    """Frames per second with reading the images and collecting results."""
    fps_network_and_clustering: float | None
    """As the paper counts: network and clustering alone; None through ROS."""
    latency_ms: dict[str, float]
    """median and p99 over all frames."""


@dataclass(slots=True)
class VariantReport:
    """Scores, mistakes and timing of one variant."""

    variant: LinkingVariant
    measures: dict[str, Measures]
    """By class, over all sequences."""
    sequences: dict[str, dict[str, Measures]]
    """By sequence and class."""
    timing: Timing | None = None
    latency_ms: list[float] = field(default_factory=list)
    """Of every frame."""
    diagnostics: dict[str, MatchDiagnostics] = field(default_factory=dict)
    """By sequence; for the MOTS measures alone."""
    lost: dict[str, LostFrames] = field(default_factory=dict)
    """Frames without predictions, of the sequences that have such."""


class StoredResults(NamedTuple):
    """Results that were computed earlier, by this or another program."""

    masks: dict[str, SequenceMasks]
    lost: dict[str, LostFrames]
    """Frames without predictions, of the sequences that have such."""


def read_stored(
    given: EvaluationInput, ground_truth: Path, path: Path, max_gap: float
) -> StoredResults:
    """Read stored results in the format of the ground truth. max_gap: ``stream.max_gap``. Raises
    EvaluationError, MediaError."""
    if given.format != BAG:
        return StoredResults(format_named(given.format).read_results(path, given.truths), {})
    found = {
        name: read_results_bag(path, ground_truth, truth, given.images.get(name), max_gap)
        for name, truth in given.truths.items()
    }
    return StoredResults(
        {name: masks for name, (masks, _) in found.items()},
        {name: lost for name, (_, lost) in found.items() if lost},
    )


def evaluate_stored(
    given: EvaluationInput,
    results: StoredResults,
    variants: Sequence[LinkingVariant],
    jobs: int,
    progress: OpenProgress,
    relinker: Relinker | None = None,
) -> list[VariantReport]:
    """Score stored results in every variant. Raises EvaluationError, and MediaError where images
    are needed for linking."""
    stored = {name: partial(as_given, result) for name, result in results.masks.items()}
    reports = []
    for variant in variants:
        masks = stored if relinker is None else relinker.masks(variant, stored)
        reports.append(score_variant(variant, given, masks, jobs, progress))
        reports[-1].lost = results.lost | (relinker.lost(variant) if relinker else {})
    return reports


def evaluate_runs(
    given: EvaluationInput,
    setup: Setup,
    variants: Sequence[LinkingVariant],
    out: Path,
    jobs: int,
    progress: OpenProgress,
    relinker: Relinker | None = None,
) -> list[VariantReport]:
    """Run every sequence in the mode of every variant and score the results; write the benchmark's
    files.

    Sequences that are stored in results_folder are not run again. Raises EvaluationError,
    MediaError, CheckpointError.
    """
    missing = sorted(given.truths.keys() - given.images.keys())
    if missing:
        raise EvaluationError(
            f"no images of {', '.join(missing)}; name their folder (--images), or give "
            "results (--results)"
        )
    if given.format in PROMPTED and any(variant.through_ros for variant in variants):
        raise EvaluationError(
            f"{given.format}: given masks cannot go through ROS here; leave out --through-ros"
        )
    reports = []
    for variant in variants:
        folder = results_folder(out, variant)
        folder.mkdir(parents=True, exist_ok=True)
        runs = run_all(given, setup, variant, folder, jobs, progress)
        stored = {name: partial(stored_masks, folder, name) for name in given.truths}
        masks = stored if relinker is None else relinker.masks(variant, stored)
        report = score_variant(variant, given, masks, jobs, progress)
        report.timing = timing(runs.values())
        report.latency_ms = [ms for run in runs.values() for ms in run.latency_ms]
        report.lost = {name: run.lost for name, run in runs.items() if run.lost}
        reports.append(report)
        write_benchmark_files(variant, given, masks, out)
    return reports


def write_benchmark_files(
    variant: LinkingVariant, given: EvaluationInput, results: Mapping[str, Masks], out: Path
) -> None:
    """Write the files for the benchmark's own tools and servers to ``out/benchmark/VARIANT``.
    Raises EvaluationError."""
    if given.format == BAG:
        return
    folder = out / "benchmark" / variant.name.replace(" + ", "_").replace(" ", "-")
    prepared = (
        named_like(truth, prepare(variant, given.format, truth, results[name]())[1])
        for name, truth in given.truths.items()
    )
    place = folder / "results.json" if given.format == "youtube_vis" else folder
    format_named(given.format).write(place, prepared)


def results_folder(out: Path, variant: LinkingVariant) -> Path:
    """Folder with the results of a run; variants of one run share it."""
    return out / "results" / variant.run.replace(" ", "-")


def run_all(
    given: EvaluationInput,
    setup: Setup,
    variant: LinkingVariant,
    folder: Path,
    jobs: int,
    progress: OpenProgress,
) -> dict[str, StoredRun]:
    """Run all sequences, the longest first, so that no long one remains alone at the end."""
    setup = setup.in_mode(variant.source)
    lengths = {name: truth.frames for name, truth in given.truths.items()}
    runs = {
        name: run
        for name in lengths
        if (run := finished_run(setup, name, given.images[name], folder))
    }
    names = sorted(lengths.keys() - runs.keys(), key=lambda name: (-lengths[name], name))
    stored = sum(lengths[name] for name in runs)
    with progress(f"run {variant.run}", sum(lengths.values())) as done:
        done(stored)
        if jobs == 1 or variant.through_ros:  # frame by frame
            engine = through_ros.replay_sequence if variant.through_ros else run_sequence
            for name in names:
                runs[name] = engine(
                    setup, name, given.images[name], folder, partial(_add, done, stored)
                )
                stored += lengths[name]
        else:
            tasks = [(setup, name, given.images[name], folder) for name in names]
            values = parallel(
                _run, tasks, jobs, lambda at: done(stored + sum(lengths[names[i]] for i in at))
            )
            runs |= zip(names, values, strict=True)
    for name, run in runs.items():
        _check_length(given, name, run)
    return {name: runs[name] for name in given.truths}


def _add(done: Callable[[int], None], before: int, frames: int) -> None:
    done(before + frames)


def _run(task: tuple[Any, ...]) -> StoredRun:
    return run_sequence(*task)


def _check_length(given: EvaluationInput, name: str, run: StoredRun) -> None:
    """Take the length of each sequence from its images: ground truth texts do not state it."""
    if run.frames < given.truths[name].frames:
        raise EvaluationError(
            f"sequence {name}: {run.frames} images in {given.images[name].path}, but the "
            f"ground truth has {given.truths[name].frames} frames"
            + "".join(f"; {loss}" for loss in run.lost.losses)
        )


def score_variant(
    variant: LinkingVariant,
    given: EvaluationInput,
    results: Mapping[str, Masks],
    jobs: int,
    progress: OpenProgress,
) -> VariantReport:
    """Score one variant, a sequence per task. Raises EvaluationError."""
    names = list(given.truths)
    tasks = [(variant, given.format, given.truths[name], results[name]) for name in names]
    with progress(f"score {variant.name}", len(names)) as done:
        values = parallel(_score, tasks, jobs, lambda at: done(len(at)))
    protocol = protocol_of(given.format)
    scores = {name: scores for name, (scores, _) in zip(names, values, strict=True)}
    diagnostics = {name: found for name, (_, found) in zip(names, values, strict=True) if found}
    return VariantReport(
        variant,
        combine(protocol, scores),
        {name: sequence_measures(protocol, score) for name, score in scores.items()},
        diagnostics=diagnostics,
    )


def _score(
    task: tuple[LinkingVariant, str, SequenceMasks, Masks],
) -> tuple[SequenceScores, MatchDiagnostics | None]:
    variant, format_name, truth, results = task
    truth, result = prepare(variant, format_name, truth, results())
    protocol = protocol_of(format_name)
    diagnostics = diagnose(truth, result) if protocol in (MOTS, BDD100K) else None
    return score_sequence(protocol, truth, result), diagnostics


def protocol_of(format_name: str) -> Protocol:
    """The measures of a format."""
    return PROTOCOLS["kitti_mots" if format_name == BAG else format_name]


def parallel(
    function: Callable[[Task], Value],
    tasks: Sequence[Task],
    jobs: int,
    done: Callable[[Collection[int]], None],
) -> list[Value]:
    """Compute a function of all tasks in ``jobs`` processes, in order; ``done`` is called with the
    finished tasks."""
    values: dict[int, Value] = {}
    if jobs == 1 or len(tasks) < 2:
        for i, task in enumerate(tasks):
            values[i] = function(task)
            done(values)
        return list(values.values())
    with ProcessPoolExecutor(
        min(jobs, len(tasks)),
        multiprocessing.get_context("spawn"),
        initializer=_mute_losses,
    ) as pool:
        futures = {pool.submit(function, task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                values[futures[future]] = future.result()
                done(values)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [values[i] for i in range(len(tasks))]


def _mute_losses() -> None:
    """Leave out the warnings about damaged recordings: losses are part of what a process returns,
    and are reported once, at the end."""
    logging.getLogger("stemseg_ros.media").setLevel(logging.ERROR)


def timing(runs: Iterable[StoredRun]) -> Timing:
    """Compute the speed over all sequences, including those of an earlier, stopped run."""
    everything = list(runs)
    frames = sum(len(run.latency_ms) for run in everything)
    known = [run.network_seconds for run in everything if run.network_seconds is not None]
    return Timing(
        frames,
        round(frames / sum(run.seconds for run in everything), 3),
        round(frames / sum(known), 3) if len(known) == len(everything) else None,
        percentiles([ms for run in everything for ms in run.latency_ms]),
    )


def possible_filters(filters: Sequence[bool], given: EvaluationInput) -> list[bool]:
    """Keep the requested filters that fit the classes. Raises EvaluationError if none is left."""
    fits = all(has_post_filter(truth.classes) for truth in given.truths.values())
    if not fits and True in filters and False not in filters:
        raise EvaluationError(
            "the released post-filter is for the classes car (1) and pedestrian (2)"
        )
    return [wanted for wanted in filters if fits or not wanted]
