"""The ablation script: rows differ from the preset in what they say, and what is done is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from driving_pack import tiny_config, write_pack
from typer.testing import CliRunner

pytest.importorskip("trackeval", reason="the eval extra is not installed")
pytest.importorskip("tensorboard", reason="the train extra is not installed")

from benchmarks.ablations import COLUMNS, ROWS, main, markdown, row_config, run_row, short
from stemseg_ros.config import Config, ConfigError, load_config, update_config


def differences(row: Config, base: Config) -> dict[str, object]:
    """Settings of a row that the preset does not have, by dotted name."""
    return {
        f"{section}.{name}": value
        for section, settings in row.model_dump(exclude={"name", "model"}).items()
        for name, value in settings.items()
        if value != base.model_dump()[section][name]
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_row_differs_in_its_change_and_nothing_else(name: str) -> None:
    base = load_config("lite_2")
    expected = {"training.mix" if key == "mix" else key for key in ROWS[name]}
    assert set(differences(row_config(base, name), base)) == expected


def test_rows_of_the_mix() -> None:
    base = load_config("lite_2")
    drawn = {
        name: {n for n, entry in row_config(base, name).training.mix.items() if entry.weight > 0}
        for name in ("base", "stills only", "clips only", "clips not repaired")
    }
    assert drawn["base"] == drawn["clips not repaired"] == set(base.training.mix)
    assert drawn["clips only"] == {"clips"}
    assert drawn["stills only"] == set(base.training.mix) - {"clips"}
    assert not row_config(base, "clips not repaired").training.mix["clips"].repair


def test_schedules_are_short_and_equal() -> None:
    mix = {"clips": {"weight": 0.6, "crop": [96, 96]}, "stills_city": 0.4}
    preset = load_config("lite", {"training.mix": mix, "training.start_from": "some.pt"})
    config = short(preset, 300, (192, 256), 384)
    assert (config.training.steps, config.training.crop) == (300, (192, 256))
    assert config.training.start_from is None
    assert [entry.crop for entry in config.training.mix.values()] == [None, None]
    assert config.training.mix["clips"].weight == 0.6


def test_a_row_is_trained_measured_and_kept(tmp_path: Path) -> None:
    data = write_pack(tmp_path / "data")
    base = tiny_config(crop=[96, 96], steps=1, clip_norm=1.0)
    first = run_row(base, "xy", data, tmp_path / "out", [0.2, 0.9], "cpu")
    assert set(COLUMNS) <= set(first) and first["min_heat"] in (0.2, 0.9)
    kept = tmp_path / "out" / "xy" / "result.json"
    kept.write_text(json.dumps(first | {"sMOTSA": 12.5}), encoding="utf-8")
    again = run_row(base, "xy", data, tmp_path / "out", [0.2, 0.9], "cpu")
    assert again["sMOTSA"] == 12.5  # read, not trained a second time
    other = update_config(base, {"training.steps": 2})
    with pytest.raises(ConfigError, match="xy: holds this row with other settings"):
        run_row(other, "xy", data, tmp_path / "out", [0.2, 0.9], "cpu")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--rows", "base,typo"], "no typo"),
        (["--heats", "0.5,a"], "could not convert"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_are_reported_without_a_stack_trace(
    option: list[str], words: str, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(main)
    folders = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*folders, *option])
    assert result.exit_code == 2 and words in result.output, result.output
    assert not (tmp_path / "out").exists()


def test_the_table() -> None:
    table = markdown({"base": dict.fromkeys(COLUMNS, 12.345) | {"IDS": 3, "min_heat": 0.4}})
    head, rule, line = table.splitlines()
    assert head.count("|") == rule.count("|") == line.count("|") == len(COLUMNS) + 2
    assert line == "| base | 12.3 | 12.3 | 12.3 | 12.3 | 12.3 | 12.3 | 3 | 12.3 | 0.4 |"
