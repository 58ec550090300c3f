"""Fixtures of the tests that evaluate sequences."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from colour_engine import ColourEngine
from evaluated import SIZE, frame

from stemseg_ros.evaluation import runs
from stemseg_ros.formats import kitti_mots_text
from stemseg_ros.formats.sequence_masks import SequenceMasks
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.stream import Model


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A KITTI-MOTS folder with the sequences 0000 (12 frames) and 0001 (9 frames)."""
    for name, length in (("0000", 12), ("0001", 9)):
        folder = tmp_path / "kitti" / "image_02" / name
        folder.mkdir(parents=True)
        frames = [frame(index) for index in range(length)]
        for index, (image, _) in enumerate(frames):
            cv2.imwrite(str(folder / f"{index:06d}.png"), image)
        rows = tuple(row for _, rows in frames for row in rows)
        truth = SequenceMasks(name, SIZE, length, kitti_mots_text.CLASSES, rows)
        kitti_mots_text.write(tmp_path / "kitti" / "instances_txt", [truth], truth=True)
    return tmp_path / "kitti"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[ColourEngine]:
    """Fake engines take the place of real ones; one entry for each sequence that was really
    run."""
    made: list[ColourEngine] = []

    def load(name: str, config_json: str, checkpoint: str | None, device: str) -> Model:
        config = Settings.model_validate_json(config_json)
        made.append(ColourEngine(config))
        return Model(config, made[-1])

    monkeypatch.setattr(runs, "_model", load)
    return made
