"""YouTube-VIS 2019 and 2021, and what OVIS shares with them: one JSON file, tracks of run lengths.

Layout: ``train/JPEGImages/<video>/00000.jpg`` with ``train.json`` (2019) or
``train/instances.json`` (2021). Tracks of a wanted class marked ``iscrowd`` are ignored regions;
videos without an object of a wanted class are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from stemseg_ros.datasets.annotations import JsonLabels, Objects
from stemseg_ros.datasets.classes import class_targets
from stemseg_ros.datasets.folders import first_file, first_folder, refuse_empty, refuse_missing
from stemseg_ros.datasets.sequence import LabelledSequence, data_errors
from stemseg_ros.formats.youtube_vis_json import frame_mask, read_videos, scan_tracks


def load(root: Path, split: str, classes: Sequence[str], source: str) -> list[LabelledSequence]:
    """Every video with wanted objects. Raises DataError."""
    file = first_file(
        root, f"{split}.json", f"{split}/instances.json", f"annotations/{split}.json"
    )
    return load_file(
        file, first_folder(root, f"{split}/JPEGImages", "JPEGImages"), classes, source
    )


def load_file(
    file: Path, images: Path, classes: Sequence[str], source: str
) -> list[LabelledSequence]:
    """The same for one annotation file and the folder of the videos' folders."""
    objects: defaultdict[int, Objects] = defaultdict(Objects)
    with data_errors(str(file)):
        videos, names = read_videos(file)
        targets = class_targets(names, classes, str(file))
        for track in scan_tracks(file, videos, names):
            with data_errors(track.place):
                objects[track.video].add(targets[track.class_id], track.crowd, track.span)
    found = [
        LabelledSequence(
            video.name,
            source,
            tuple(images / name for name in video.files),
            JsonLabels(file, video.size, tuple(objects[number].places), frame_mask),
        )
        for number, video in videos.items()
        if objects[number].numbers
    ]
    refuse_empty(found, file, "no object of a class in network.classes")
    refuse_missing(
        (image for sequence in found for image in sequence.images), f"{file.name} names it"
    )
    return found
