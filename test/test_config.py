"""Settings: presets, overrides, and the words of their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stemseg_ros.config import (
    ConfigError,
    dump_config,
    load_config,
    preset_names,
    result_settings,
    schedule_names,
    update_config,
    walk_settings,
)
from stemseg_ros.models.stemseg.settings import Settings, WindowConfig

STABLE_NAMES = [
    "input.min_dim",
    "input.max_dim",
    "window.length",
    "window.overlap",
    "clustering.variant",
    "stitching.variant",
    "training.targets",
    "clustering.min_heat",
    "network.mixing",
    "network.backbone",
]
"""Dotted names that other programs build on."""


def test_stable_names_exist() -> None:
    assert set(STABLE_NAMES) <= {name for name, _ in walk_settings(Settings)}


def test_every_setting_is_described() -> None:
    assert [name for name, field in walk_settings(Settings) if not field.description] == []


@pytest.mark.parametrize("name", preset_names() + schedule_names())
def test_presets_survive_a_round_trip_through_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    (tmp_path / "copy.yaml").write_text(dump_config(config))
    assert config.name == name and load_config(tmp_path / "copy.yaml") == config


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("kitti_mots", (736, 1948, 8, 4, "xyt", 0.95, "reference", ("car", "pedestrian"))),
        ("davis", (736, 1248, 16, 6, "xyff", 0.8, "reference", ("object",))),
        ("lite", (544, 1248, 4, 2, "xytf", None, "corrected", ("car", "pedestrian"))),
    ],
)
def test_presets_hold_the_published_settings(preset: str, expected: tuple[Any, ...]) -> None:
    c = load_config(preset)
    found = (
        c.input.min_dim,
        c.input.max_dim,
        c.window.length,
        c.window.overlap,
        c.network.mixing,
        c.clustering.min_heat,
        c.clustering.variant,
        c.network.classes,
    )
    assert all(e is None or e == f for e, f in zip(expected, found, strict=True)), found


def test_youtube_vis_has_forty_classes() -> None:
    classes = load_config("youtube_vis").network.classes
    assert len(set(classes)) == len(classes) == 40


def test_overrides_by_dotted_name() -> None:
    config = load_config(
        "kitti_mots", {"input.min_dim": 96, "window.overlap": 2, "clustering.variant": "corrected"}
    )
    assert (config.input.min_dim, config.window.overlap, config.clustering.variant) == (
        96,
        2,
        "corrected",
    )
    assert config.input.max_dim == 1948


def test_a_whole_section_is_merged() -> None:
    config = load_config("lite", {"stream": {"flush_after": 2.0}})
    assert config.stream == update_config(load_config("lite"), {"stream.flush_after": 2.0}).stream


@pytest.mark.parametrize("overrides", [{"node.max_gap": 3.0}, {"node": {"max_gap": 3.0}}])
def test_former_names_are_accepted_with_a_warning(overrides: dict[str, Any]) -> None:
    with pytest.warns(FutureWarning, match=r"'node\.max_gap' is now 'stream\.max_gap'"):
        assert load_config("lite", overrides).stream.max_gap == 3.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"clustering.min_heaat": 0.5},
            r"unknown setting 'clustering\.min_heaat'; did you mean 'clustering\.min_heat'",
        ),
        (
            {"clustring.min_heat": 0.5},
            r"unknown setting 'clustring.*did you mean 'clustering\.min_heat'",
        ),
        ({"min_dim": 96}, r"unknown setting 'min_dim'; did you mean 'input\.min_dim'"),
        (
            {"clustering.min_heat": 1.5},
            r"clustering\.min_heat: .*less than or equal to 1 \(got 1\.5\)",
        ),
        ({"window.length": 5}, r"window\.length: .*2, 4, 8, 16, 24 or 32 \(got 5\)"),
        ({"window.overlap": 4}, r"window: overlap 4 is not below length 4"),
        ({"network.mixing": "yx"}, r"network\.mixing: .*'xyt'.*got 'yx'"),
        (
            {"network.norm_groups": 7},
            r"network: 64 decoder channels are no multiple of norm_groups 7",
        ),
        ({"input.std_bgr": [0, 1, 1]}, r"input\.std_bgr\.0: .*greater than 0"),
        ({"training.crop": [0, 96]}, r"training\.crop\.0: .*greater than 0"),
        ({"training.scale": [2.0, 0.5]}, r"training\.scale: .* 2 is above the upper end 0\.5"),
        (
            {"training.mix": {"clips": {"scale": [0, 1]}}},
            r"training\.mix\.clips\.scale\.0: .*greater than 0",
        ),
        ({"training.initial_sigma": [0.1, -1]}, r"initial_sigma\.1: .*greater than 0"),
        ({"training.learning_rate": float("inf")}, r"learning_rate: .*finite"),
        ({"input": 3}, r"input: .*got 3"),
        (
            {"output.class_factors": {"car": -2}},
            r"class_factors\.car: .*greater than or equal to 0",
        ),
    ],
)
def test_wrong_settings_are_named(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("lite", overrides)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("window: {length: 4", "not readable as YAML"),
        ("- a\n- b", "expected a mapping"),
        ("window: {lenght: 4}", r"did you mean 'window\.length'"),
        ("window: 4", "window"),
        ("network: {classes: []}", r"network\.classes"),
    ],
)
def test_wrong_files_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value)


def test_a_file_builds_on_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "base: lite\nclustering: {min_heat: 0.5}\ntraining: {mix: {clips: 1.0}}"
    )
    (tmp_path / "longer.yaml").write_text("base: mine.yaml\ntraining: {steps: 9}")
    lite, config = load_config("lite"), load_config(tmp_path / "longer.yaml")
    assert config.name == "longer"
    assert (config.clustering.min_heat, config.training.steps) == (0.5, 9)
    assert list(config.training.mix) == ["clips"]
    assert (config.network, config.clustering.variant) == (lite.network, "corrected")


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("ligte", r"no preset and no file named '.*ligte'"),
        ("mine.yaml", r"mine\.yaml: its base 'mine\.yaml' builds on this file"),
        ("[1]", r"no preset and no file named"),
    ],
)
def test_wrong_bases_are_named(base: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: {base}")
    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path / "mine.yaml")


def test_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(tmp_path / "mine.yaml")


def test_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ConfigError, match=r"'ligte'; did you mean 'lite'\?; presets: davis, .*kitti_mots"
    ):
        load_config("ligte")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    assert load_config(tmp_path / "mine.yaml") == Settings(name="mine")


def test_the_tree_is_immutable() -> None:
    config = load_config("lite")
    with pytest.raises(ValidationError, match="frozen"):
        config.input.min_dim = 3  # type: ignore[misc]
    changed = update_config(config, {"clustering.min_heat": 0.5})
    assert (changed.clustering.min_heat, changed.window) == (0.5, config.window)
    assert config.clustering.min_heat != 0.5


@pytest.mark.parametrize(
    ("window", "frames"),
    [
        (WindowConfig(length=8, overlap=4), 12),
        (WindowConfig(length=8, overlap=4, mode="online"), 9),
        (WindowConfig(length=8, overlap=4, mode="offline"), 20),  # two windows later
    ],
)
def test_frames_in_flight(window: WindowConfig, frames: int) -> None:
    assert window.latency.in_flight == frames


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ({"node.overlay_opacity": 0.1, "training.steps": 5}, True),
        ({"output.min_area": 7}, False),
        ({"runtime.precision": "float32"}, False),
    ],
)
def test_fingerprints_see_what_affects_results(overrides: dict[str, Any], same: bool) -> None:
    config = load_config("lite")
    changed = update_config(config, overrides)
    assert (result_settings(changed) == result_settings(config)) is same
