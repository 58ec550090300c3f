"""YouTube-VOS 2018 and 2019: one PNG per frame, ``Annotations/003234408d/00000.png``, pixel value
= object, and ``meta.json`` beside that folder, which lists category and frames of every object:

    {"videos": {"003234408d": {"objects": {"1": {"category": "cat", "frames": ["00000", ...]}}}}}

The first mask of an object is given; the other frames that ``meta.json`` lists for it are scored.
The masks of the validation and test sets are not public; their results are scored by the server of
the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from stemseg_ros.formats import davis_pngs
from stemseg_ros.formats.json_entries import Json, kind, list_of, naming, text_of
from stemseg_ros.formats.label_pngs import frame_names
from stemseg_ros.formats.sequence_masks import EvaluationError, GivenObject, SequenceMasks

META, ANNOTATIONS = "meta.json", "Annotations"
# fmt: off
SEEN = frozenset((
    "airplane", "ape", "bear", "bike", "bird", "boat", "bucket", "bus", "camel", "cat",
    "cow", "crocodile", "deer", "dog", "dolphin", "duck", "eagle", "earless_seal",
    "elephant", "fish", "fox", "frisbee", "frog", "giant_panda", "giraffe", "hand", "hat",
    "hedgehog", "horse", "knife", "leopard", "lion", "lizard", "monkey", "motorbike",
    "mouse", "others", "owl", "paddle", "parachute", "parrot", "penguin", "person", "plant",
    "rabbit", "raccoon", "sedan", "shark", "sheep", "sign", "skateboard", "snail", "snake",
    "snowboard", "squirrel", "surfboard", "tennis_racket", "tiger", "toilet", "train",
    "truck", "turtle", "umbrella", "whale", "zebra"
))
# fmt: on
"""The 65 categories of the training set; those of the validation set that are not among them are
unseen."""


def read_truth(path: Path) -> dict[str, SequenceMasks]:
    """Every video of the folder that holds ``meta.json`` and ``Annotations``, or of the latter.
    Raises EvaluationError."""
    root = path.parent if path.name == ANNOTATIONS else path
    file = root / META
    videos = _read_meta(file)
    truths = davis_pngs.FOLLOWED.read_truth(root / ANNOTATIONS)
    for here, there, where in ((videos, truths, ANNOTATIONS), (truths, videos, META)):
        if lacking := sorted(here.keys() - there.keys()):
            raise EvaluationError(f"{root / where}: no video {', '.join(lacking)}")
    return {
        name: _with_objects(truth, f"{file}, video {name}", videos[name])
        for name, truth in truths.items()
    }


def read_results(path: Path, truths: Mapping[str, SequenceMasks]) -> dict[str, SequenceMasks]:
    """A folder of PNGs for each video, also below ``Annotations``, as they are submitted. Raises
    EvaluationError."""
    folder = path / ANNOTATIONS if (path / ANNOTATIONS).is_dir() else path
    return davis_pngs.FOLLOWED.read_results(folder, truths)


def write(path: Path, sequences: Iterable[SequenceMasks], truth: bool = False) -> None:
    """Palette PNGs whose values are the ids; with ``meta.json`` for ground truth. Raises
    EvaluationError."""
    videos = {}
    for sequence in sequences:
        davis_pngs.FOLLOWED.write(path / ANNOTATIONS if truth else path, [sequence])
        names = frame_names(sequence)
        videos[sequence.name] = {
            "objects": {
                str(number): {
                    "category": given.category,
                    "frames": [names[frame] for frame in given.frames],
                }
                for number, given in sequence.given.items()
            }
        }
    if truth:
        (path / META).write_text(json.dumps({"videos": videos}), encoding="utf-8")


def _read_meta(file: Path) -> Json:
    """The videos of the file, by name. Raises EvaluationError."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise EvaluationError(
            f"{file}: not readable: {error.strerror}; expected a folder with {META} and "
            f"{ANNOTATIONS}, as YouTube-VOS has it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{file}: not readable as JSON: {error}") from error
    with naming(str(file)):
        return _mapping(_mapping(content, "the content")["videos"], "videos")


def _mapping(value: object, name: str) -> Json:
    """A JSON object. Raises ValueError for another type."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {kind(value)}, expected an object")
    return value


def _with_objects(truth: SequenceMasks, place: str, video: object) -> SequenceMasks:
    """Ground truth with the objects that ``meta.json`` lists. Raises EvaluationError."""
    with naming(place):
        listed = _mapping(_mapping(video, "it")["objects"], "objects")
    given = {}
    for name, entry in listed.items():
        with naming(f"{place}, object {name}"):
            given[int(name)] = _given(truth, _mapping(entry, "it"))
    for row in truth.rows:
        if row.id not in given:
            file = f"{truth.files[row.frame]}.png"
            raise EvaluationError(f"{place}: object {row.id}, which {file} shows, is missing")
    return replace(truth, given=given)


def _given(truth: SequenceMasks, entry: Json) -> GivenObject:
    """One object. Raises ValueError, KeyError."""
    category, names = text_of(entry, "category"), list_of(entry, "frames")
    numbers = {name: frame for frame, name in enumerate(truth.files)}
    lacking = [name for name in names if name not in numbers]
    if lacking:
        raise ValueError(
            f"there is no label image of frame {lacking[0]} (of {len(lacking)} that are listed). "
            "The masks of the validation and test sets are not public: write results with "
            "'stemseg propagate', and let the server of the benchmark score them"
        )
    return GivenObject(category, tuple(sorted({numbers[name] for name in names})))
