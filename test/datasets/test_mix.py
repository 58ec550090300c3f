"""The training mix: entries, weights, checks before training, and draws that are truly random."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import CASES, SIZE
from driving_pack import save_frame, write_pack

from stemseg_ros.config import Config, ConfigError, dump_config, load_config
from stemseg_ros.datasets.mix import entries, load_mix
from stemseg_ros.datasets.sequence import IGNORE_LABEL, DataError, class_of, read_all
from stemseg_ros.training.batches import load_sources
from stemseg_ros.training.clips import draw_clip


def mixed(mix: dict[str, Any], **training: Any) -> Config:
    settings = {"training.mix": mix, "training.crop": [32, 32], "training.scale": [0.9, 1.1]}
    return load_config(
        "lite", settings | {f"training.{name}": value for name, value in training.items()}
    )


MIX = {
    "city": {"format": "cityscapes", "root": "cs", "weight": 1},
    "tracking": {"format": "kitti_mots", "root": "kitti", "weight": 3},
    "clips": 4.0,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    CASES["cityscapes"].write(tmp_path / "cs")
    CASES["kitti_mots"].write(tmp_path / "kitti")
    write_pack(tmp_path, frames=4)
    return tmp_path


def test_an_entry_is_a_weight_or_names_its_format(data: Path, tmp_path: Path) -> None:
    config = mixed(MIX | {"unused": {"format": "coco", "root": "nowhere", "weight": 0}})
    assert {name: (e.format, e.weight) for name, e in entries(config).items()} == {
        "city": ("cityscapes", 1),
        "clips": ("driving", 4),
        "tracking": ("kitti_mots", 3),
    }
    mix = load_mix(config, data)
    assert {name: len(found) for name, found in mix.items()} == {
        "city": 1,
        "clips": 1,
        "tracking": 12,
    }
    assert {s.source for sequences in mix.values() for s in sequences} == {
        "city",
        "clips",
        "tracking",
    }
    (tmp_path / "copy.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "copy.yaml").training.mix == config.training.mix


def test_roots_may_be_absolute(data: Path, tmp_path: Path) -> None:
    mix = {"city": {"format": "cityscapes", "root": str(data / "cs")}}
    assert len(load_mix(mixed(mix), Path("elsewhere"))["city"]) == 1


@pytest.mark.parametrize(
    ("mix", "error", "words"),
    [
        (
            {"a": {"format": "kity_mots"}},
            ConfigError,
            r"mix\.a\.format: no format 'kity_mots'; did you mean 'kitti_mots'\?; formats: ",
        ),
        ({"a": {"weight": 0}}, DataError, "training.mix gives no weight to any dataset"),
        ({}, DataError, "training.mix gives no weight to any dataset"),
        ({"stills_mars": 1}, DataError, "no 'stills_mars', which training.mix names; found clips"),
        (
            {"clips": {"focus": "tram"}},
            ConfigError,
            r"clips\.focus: 'tram' is none of the model's classes: car, pedestrian",
        ),
        ({"clips": {"focus": "person"}}, DataError, "no sequence of 'clips' shows a person"),
        ({"clips": {"split": "test"}}, DataError, "splits train and development, not 'test'"),
    ],
)
def test_a_mix_that_cannot_be_is_named(
    mix: dict[str, Any], error: type[Exception], words: str, data: Path
) -> None:
    with pytest.raises(error, match=words):
        load_mix(mixed(mix), data)


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        ({"a": -1}, r"training\.mix\.a\.weight: .*greater than or equal to 0"),
        ({"a": {"weight": math.inf}}, r"training\.mix\.a\.weight: .*finite"),
        ({"a": {"place": "x"}}, r"unknown setting 'training\.mix\.a\.place'"),
        ({"a": {"format": "coco", "folder": "x"}}, r"folder is for the format driving; 'coco'"),
        ({"a": "much"}, r"training\.mix\.a: .*got 'much'"),
        ({"a": {"split": "../x"}}, r"training\.mix\.a\.split"),
    ],
)
def test_settings_of_an_entry_are_checked(mix: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mixed(mix)


def test_a_bad_file_anywhere_stops_before_training(data: Path) -> None:
    label = data / "kitti/instances/0020/000002.png"
    label.write_bytes(label.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"0020/000002\.png: not readable as an image"):
        load_sources(mixed(MIX), data)


def test_clips_come_from_every_entry_by_weight(data: Path) -> None:
    config = mixed(MIX, copy_paste=0.0)
    sources = load_sources(config, data)
    draws = 400
    names = [draw_clip(sources, config, np.random.default_rng((7, n))).name for n in range(draws)]
    counts = Counter(name.partition("[")[0] for name in names)
    for name, share in {"city": 1 / 8, "tracking": 3 / 8, "clips": 1 / 2}.items():
        assert abs(counts[name] - share * draws) < 4 * math.sqrt(draws * share * (1 - share)), (
            counts
        )
    sequences = Counter(name for name in names if name.startswith("tracking"))
    assert len(sequences) == 12, "every sequence has its turn"
    assert len({tuple(names[i : i + 6]) for i in range(0, draws, 6)}) > 40, "no order repeats"


def test_a_clip_depends_on_its_seed_alone(data: Path) -> None:
    """Whatever was drawn before, and whether frames are decoded at once or when needed."""
    config = mixed(MIX, copy_paste=1.0)
    lazy = load_mix(config, data)
    decoded = {name: read_all(sequences, 2) for name, sequences in lazy.items()}
    for seed in (5, 1, 3):
        one, other = (draw_clip(s, config, np.random.default_rng(seed)) for s in (lazy, decoded))
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_labels_above_16_bits_survive_the_way_into_a_clip(data: Path) -> None:
    classes = [f"c{n}" for n in range(79)] + ["car"]
    config = load_config(
        "lite",
        {
            "network.classes": classes,
            "training.mix": {"city": {"format": "cityscapes", "root": "cs"}},
            "training.crop": list(SIZE),
            "training.scale": [1.0, 1.0],
            "training.copy_paste": 0.0,
        },
    )
    seen: set[int] = set()
    for seed in range(6):
        clip = draw_clip(load_mix(config, data), config, np.random.default_rng(seed))
        seen |= set(np.unique(clip.labels).tolist())
    assert seen <= {0, 80001, 10000} and 80001 in seen


def test_two_entries_can_draw_from_one_folder_of_the_pack(data: Path) -> None:
    mix = load_mix(mixed({"near": {"folder": "clips"}, "clips": {"instances": False}}), data)
    near, grouped = (mix[name][0].read(0).labels for name in ("near", "clips"))
    assert {1001, 1002, IGNORE_LABEL} <= set(np.unique(near).tolist())
    assert set(np.unique(grouped).tolist()) == {0, 1000, IGNORE_LABEL}
    np.testing.assert_array_equal(class_of(near), class_of(grouped))


def test_an_entry_with_a_focus_has_the_sequences_that_show_it(tmp_path: Path) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    for still, label in (("000001", 1001), ("000002", 2001), ("000003", 10000)):
        labels = np.zeros((40, 60), np.uint16)
        labels[10:30, 10:20] = label
        save_frame(tmp_path / "stills_street" / still, image, labels)
    save_frame(tmp_path / "stills_street" / "000000", image, labels)  # held out
    for focus, names in ((None, ["000001", "000002", "000003"]), ("pedestrian", ["000002"])):
        found = load_mix(mixed({"stills_street": {"focus": focus}}), tmp_path)["stills_street"]
        assert [Path(sequence.name).name for sequence in found] == names
