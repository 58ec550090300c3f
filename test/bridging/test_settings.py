"""Settings with ``tracking: own_tracks``."""

from __future__ import annotations

from pathlib import Path

import pytest

from stemseg_ros.config import ConfigError, dump_config, load_config, result_settings

OWN = {"tracking": "own_tracks"}


def test_classes_latency_and_mode_are_the_detectors() -> None:
    config, lite = load_config("hodor_lite", OWN), load_config("lite")
    assert config.detector == lite
    assert (config.classes, config.latency, config.mode) == (lite.classes, lite.latency, lite.mode)
    assert config.traits["detector"] == "lite"
    alone = load_config("hodor_lite")
    assert config.alone == alone
    assert (alone.detector, alone.classes, alone.latency.look_ahead) == (None, ("object",), 0)


def test_a_file_may_be_the_detector(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{base: lite, name: lite, window: {mode: online}}")
    config = load_config("hodor_lite", {**OWN, "bridging.detector": str(file)})
    assert config.latency.look_ahead == 0
    (tmp_path / "tree.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "tree.yaml") == config


def test_a_mode_is_that_of_the_detector() -> None:
    config = load_config("hodor_lite", OWN).in_mode("online")
    assert config.detector == load_config("lite").in_mode("online")
    assert (config.mode, config.latency.look_ahead) == ("online", 0)
    assert config.in_mode("near_online").mode == "near_online"


def test_a_mode_that_the_detector_lacks_is_named() -> None:
    stc = {**OWN, "bridging.detector": "stc_lite"}
    assert load_config("hodor_lite", stc).in_mode("online").mode == "online"
    with pytest.raises(ConfigError, match="the model stc has no mode 'offline', only 'online'"):
        load_config("hodor_lite", stc).in_mode("offline")
    with pytest.raises(ConfigError, match="the model hodor has no mode 'offline', only 'online'"):
        load_config("hodor_lite").in_mode("offline")


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        ("hodor_lite", r"bridging\.detector: 'hodor_lite' does not detect objects"),
        ("lyte", r"bridging\.detector: no preset and no file named 'lyte'; did you mean 'lite'"),
    ],
)
def test_errors_name_the_wrong_detector(detector: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("hodor_lite", {**OWN, "bridging.detector": detector})


def test_fingerprints_depend_on_the_settings_of_the_detector(tmp_path: Path) -> None:
    file, prints = tmp_path / "mine.yaml", []
    for area in (100, 200):
        file.write_text(f"{{base: lite, output: {{min_area: {area}}}}}")
        config = load_config("hodor_lite", {**OWN, "bridging.detector": str(file)})
        prints.append(result_settings(config))
    assert prints[0] != prints[1]
