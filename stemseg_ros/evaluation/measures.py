"""The measures of the benchmarks, all computed by TrackEval, one sequence at a time.

Each sequence is written to a temporary folder in the layout that TrackEval reads, scored by itself
(so that sequences can run in parallel processes), and TrackEval combines the sequences at the end.
Shares are in percent, as benchmarks print them; counts are numbers.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stemseg_ros.errors import needs_extra
from stemseg_ros.evaluation.given_objects import (
    ObjectMasks,
    SplitObjects,
    davis_objects,
    inner_frames,
    scored_objects,
    youtube_vos_objects,
)
from stemseg_ros.evaluation.official import (
    Bdd100kClear,
    DavisDataset,
    DavisJAndF,
    YouTubeVisMAP,
)
from stemseg_ros.formats import davis_pngs, youtube_vis_json
from stemseg_ros.formats.kitti_lines import ResultRow, write_results
from stemseg_ros.formats.sequence_masks import EvaluationError, SequenceMasks, check_pair

with needs_extra("eval"):
    from trackeval import datasets, metrics

Raw = dict[str, Any]
"""What a TrackEval metric returns for a sequence."""
SequenceScores = dict[str, dict[str, Raw]]
"""Raw results of one sequence, by class and metric."""
Measures = dict[str, float]
"""Values by the name that the benchmark gives them."""

ALL_CLASSES = "all classes"
"""All classes pooled, weighted by their detections (TrackEval's det_averaged; for AP and AR the
mean)."""
MEAN_CLASSES = "mean of classes"
"""Mean over classes (TrackEval's class_averaged), in BDD100K over all 8."""
COUNTS = ("IDS", "TP", "FP", "FN", "MT", "ML", "Frag")
"""Measures that are numbers, not percent."""
_TRACKER = "results"
_QUIET = {"PRINT_CONFIG": False}
_TEXT_CLASS = 100
"""Factor of class ids in the texts for TrackEval, so that none is 10, which marks ignored
pixels."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one family of benchmarks is scored."""

    name: str
    open_dataset: Callable[[Path, SequenceMasks, SequenceMasks], Any]
    """Writes truth and results to the folder; returns TrackEval's dataset of it."""
    metrics: Callable[[], dict[str, Any]]
    """TrackEval's metrics, new objects."""
    summary: Callable[[Mapping[str, Raw]], Measures]
    """The benchmark's numbers from the raw results by metric; None where there is nothing to
    measure."""
    split: SplitObjects | None = None
    """Splits sequences by object, where ids of results are those of the ground truth, so that
    nothing is matched."""
    absent_classes: bool = False
    """Whether classes that do not occur enter the mean of classes, as 0."""


def score_sequence(
    protocol: Protocol, truth: SequenceMasks, result: SequenceMasks
) -> SequenceScores:
    """Raw scores of one sequence by class. Raises EvaluationError if result and truth do not
    fit."""
    if protocol.split:
        return _score_objects(protocol, protocol.split(truth, result))
    tools = protocol.metrics()
    return {
        name: {tool: metric.eval_sequence(data) for tool, metric in tools.items()}
        for name, data in class_data(protocol, truth, result)
    }


def _score_objects(protocol: Protocol, objects: Iterable[ObjectMasks]) -> SequenceScores:
    """Each object against the masks of its id, then those of a group together."""
    single, tools = replace(protocol, split=None), protocol.metrics()
    groups: dict[str, dict[str, dict[str, Raw]]] = {}
    for number, one in enumerate(objects):
        for name, raw in score_sequence(single, one.truth, one.result).items():
            groups.setdefault(one.group or name, {})[str(number)] = raw
    return {
        group: {
            tool: metric.combine_sequences({n: raw[tool] for n, raw in found.items()})
            for tool, metric in tools.items()
        }
        for group, found in groups.items()
    }


def class_data(
    protocol: Protocol, truth: SequenceMasks, result: SequenceMasks
) -> Iterator[tuple[str, Raw]]:
    """TrackEval's prepared data (classes separated, ignored pixels handled, IoUs computed) of each
    class."""
    check_pair(truth, result)
    with tempfile.TemporaryDirectory(prefix="stemseg-") as folder, _silent():
        dataset = protocol.open_dataset(Path(folder), truth, result)
        raw = dataset.get_raw_seq_data(_TRACKER, truth.name)
        for name in dataset.class_list:
            yield name, dataset.get_preprocessed_seq_data(raw, name)


def combine(protocol: Protocol, scores: Mapping[str, SequenceScores]) -> dict[str, Measures]:
    """Measures over all sequences, by class; with several classes, absent ones included where they
    count, also ALL_CLASSES and MEAN_CLASSES.

    Classes that neither ground truth nor results contain are left out.
    """
    tools = protocol.metrics()
    names = list(dict.fromkeys(name for sequence in scores.values() for name in sequence))
    raw = {
        name: {
            tool: metric.combine_sequences({s: scores[s][name][tool] for s in scores})
            for tool, metric in tools.items()
        }
        for name in names
    }
    table = {name: protocol.summary(raw[name]) for name in names}
    if protocol.absent_classes or sum(map(bool, table.values())) > 1:
        by_tool = {tool: {name: raw[name][tool] for name in names} for tool in tools}
        table[ALL_CLASSES] = protocol.summary(
            {
                tool: metric.combine_classes_det_averaged(by_tool[tool])
                for tool, metric in tools.items()
            }
        )
        table[MEAN_CLASSES] = protocol.summary(
            {
                tool: metric.combine_classes_class_averaged(
                    by_tool[tool], ignore_empty_classes=not protocol.absent_classes
                )
                for tool, metric in tools.items()
            }
        )
    return {name: measures for name, measures in table.items() if measures}


def sequence_measures(protocol: Protocol, scores: SequenceScores) -> dict[str, Measures]:
    """Measures of one sequence, by class."""
    return combine(protocol, {"": scores})


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence TrackEval's output and translate its exceptions, which name the offender."""
    from trackeval.utils import TrackEvalException

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except TrackEvalException as error:
        raise EvaluationError(str(error)) from error


def _text_dataset(folder: Path, truth: SequenceMasks, result: SequenceMasks) -> Any:
    """KITTI-MOTS rules for any classes: masks that no true object claims and that lie mostly in
    ignored pixels do not count. MOTSChallenge has the same rules."""
    (folder / "truth").mkdir()
    (folder / _TRACKER).mkdir()
    rows = [_numbered(row) for row in truth.rows]
    rows += [ResultRow(frame, 0, 10, rle) for frame, rle in truth.ignored.items()]
    write_results(folder / "truth" / f"{truth.name}.txt", rows)
    write_results(folder / _TRACKER / f"{truth.name}.txt", [_numbered(row) for row in result.rows])
    dataset = datasets.KittiMOTS(
        {
            **_QUIET,
            "GT_FOLDER": str(folder / "truth"),
            "GT_LOC_FORMAT": "{gt_folder}/{seq}.txt",
            "TRACKERS_FOLDER": str(folder),
            "TRACKERS_TO_EVAL": [_TRACKER],
            "TRACKER_SUB_FOLDER": "",
            "SEQ_INFO": {truth.name: max(truth.frames, result.frames)},
        }
    )
    dataset.class_list = list(truth.classes.values())
    dataset.class_name_to_class_id = {
        name: str(i * _TEXT_CLASS) for i, name in truth.classes.items()
    }
    return dataset


def _numbered(row: ResultRow) -> ResultRow:
    return replace(row, class_id=row.class_id * _TEXT_CLASS)


def _objects_dataset(folder: Path, truth: SequenceMasks, result: SequenceMasks) -> Any:
    """Several objects, as many as the first frame names."""
    return _davis_dataset(folder, scored_objects(truth), result)


def _davis_dataset(folder: Path, truth: SequenceMasks, result: SequenceMasks) -> Any:
    davis_pngs.INSTANCES.write(folder / "truth", [replace(truth, files=())], truth=True)
    davis_pngs.INSTANCES.write(folder / _TRACKER, [replace(result, files=(), name=truth.name)])
    config = {
        **_QUIET,
        "GT_FOLDER": str(folder / "truth"),
        "TRACKERS_FOLDER": str(folder),
        "TRACKERS_TO_EVAL": [_TRACKER],
        "TRACKER_SUB_FOLDER": "",
        "SEQ_INFO": {truth.name: truth.frames},
    }
    return DavisDataset(config, truth, result)


def _binary_dataset(folder: Path, truth: SequenceMasks, result: SequenceMasks) -> Any:
    """One foreground object, and as in the DAVIS 2016 toolkit neither the first nor the last
    frame. Raises EvaluationError."""
    return _davis_dataset(
        folder, *(inner_frames(davis_pngs.united(s), "DAVIS 2016") for s in (truth, result))
    )


def _track_dataset(folder: Path, truth: SequenceMasks, result: SequenceMasks) -> Any:
    youtube_vis_json.write(
        folder / "youtube_vis_all" / "truth.json", [replace(truth, number=1, files=())], truth=True
    )
    youtube_vis_json.write(
        folder / "trackers" / "youtube_vis_all" / _TRACKER / "results.json",
        [replace(result, number=1, files=(), name=truth.name)],
    )
    dataset = datasets.YouTubeVIS(
        {
            **_QUIET,
            "GT_FOLDER": f"{folder}/",
            "SPLIT_TO_EVAL": "all",
            "TRACKERS_FOLDER": f"{folder / 'trackers'}/",
            "TRACKER_SUB_FOLDER": "",
        }
    )
    # TrackEval takes the track 0 of the results for "not matched" and would let its true track
    # match again.
    dataset.global_tid_counter = 1
    return dataset


def _mots_metrics() -> dict[str, Any]:
    return {
        "CLEAR": metrics.CLEAR(_QUIET),
        "HOTA": metrics.HOTA(),
        "Identity": metrics.Identity(_QUIET),
    }


def _bdd100k_metrics() -> dict[str, Any]:
    return {**_mots_metrics(), "CLEAR": Bdd100kClear(_QUIET)}


def _mots_summary(raw: Mapping[str, Raw]) -> Measures:
    clear, hota, identity = raw["CLEAR"], raw["HOTA"], raw["Identity"]
    if not clear["CLR_TP"] + clear["CLR_FN"] + clear["CLR_FP"]:
        return {}
    shares = {
        "sMOTSA": clear["sMOTA"],
        "MOTSA": clear["MOTA"],
        "MOTSP": clear["MOTP"],
        "HOTA": np.mean(hota["HOTA"]),
        "DetA": np.mean(hota["DetA"]),
        "AssA": np.mean(hota["AssA"]),
        "IDF1": identity["IDF1"],
    }
    counts = {
        "IDS": clear["IDSW"],
        "TP": clear["CLR_TP"],
        "FP": clear["CLR_FP"],
        "FN": clear["CLR_FN"],
        "MT": clear["MT"],
        "ML": clear["ML"],
        "Frag": clear["Frag"],
    }
    return {**_percent(shares), **{name: round(float(value), 3) for name, value in counts.items()}}


def _davis_metrics() -> dict[str, Any]:
    return {"JAndF": DavisJAndF()}


def _davis_summary(raw: Mapping[str, Raw]) -> Measures:
    if not raw["JAndF"]["num_gt_tracks"]:
        return {}
    return _percent(
        {
            name: raw["JAndF"][name]
            for name in ("J&F", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
        }
    )


def _track_metrics() -> dict[str, Any]:
    """AP counts up to 100 tracks of a class in a video, AR10 and AR1 so many."""
    quiet = {**_QUIET, "USE_AREA_RANGES": False, "USE_TIME_RANGES": False}
    return {
        name: YouTubeVisMAP({**quiet, "MAX_DETECTIONS": limit})
        for name, limit in (("AP", 100), ("AR10", 10), ("AR1", 1))
    }


def _track_summary(raw: Mapping[str, Raw]) -> Measures:
    precision = raw["AP"]["AP_all"]
    if precision[0] < 0:  # TrackEval's mark of a class without ground truth
        return {}
    return _percent(
        {
            "AP": np.mean(precision),
            "AP50": precision[0],
            "AP75": precision[5],
            "AR1": np.mean(raw["AR1"]["AR_all"]),
            "AR10": np.mean(raw["AR10"]["AR_all"]),
        }
    )


def _percent(shares: Mapping[str, Any]) -> Measures:
    return {name: round(100 * float(value), 3) for name, value in shares.items()}


MOTS = Protocol("mots", _text_dataset, _mots_metrics, _mots_summary)
BDD100K = Protocol("bdd100k", _text_dataset, _bdd100k_metrics, _mots_summary, absent_classes=True)
DAVIS = Protocol("davis", _objects_dataset, _davis_metrics, _davis_summary)
DAVIS_BINARY = Protocol("davis2016", _binary_dataset, _davis_metrics, _davis_summary)
DAVIS_SEMI = Protocol(
    "davis2017_semi", _davis_dataset, _davis_metrics, _davis_summary, davis_objects
)
YOUTUBE_VOS = Protocol(
    "youtube_vos", _davis_dataset, _davis_metrics, _davis_summary, youtube_vos_objects
)
YOUTUBE_VIS = Protocol("youtube_vis", _track_dataset, _track_metrics, _track_summary)
PROTOCOLS = {
    "kitti_mots": MOTS,
    "mots_challenge": MOTS,
    "bdd100k": BDD100K,
    "davis": DAVIS,
    "davis2016": DAVIS_BINARY,
    "davis2016_semi": DAVIS_BINARY,
    "davis2017_semi": DAVIS_SEMI,
    "youtube_vis": YOUTUBE_VIS,
    "youtube_vos": YOUTUBE_VOS,
}
"""By name of the format."""
