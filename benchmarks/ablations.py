"""Ablations like Table I of the paper: one short training a row, measured on the development clip.

Every row is the preset with a few settings changed, trained from ImageNet weights with the same
number of steps, clips a step and crop, and measured on ``clips/0003`` of the driving pack, which
no row is trained on. A heat map that was trained briefly stays low, so every row is measured at
several values of ``clustering.min_heat``, and its table line is the one with the best sMOTSA.

    python benchmarks/ablations.py --data DRIVING_PACK --out out/ablations

Rows that are done are kept (``result.json`` in the row's folder), and one that was stopped goes on
from its checkpoint: the same command, given again, does what is missing. ``table.md`` and
``results.json`` are written anew after every row.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from benchmarks.development import evaluate_development
from stemseg_ros.config import ConfigError, update_config
from stemseg_ros.errors import StemsegError
from stemseg_ros.execution.device import describe_device, resolve_device
from stemseg_ros.models.stemseg.settings import Settings, load_settings
from stemseg_ros.stream import open_model
from stemseg_ros.training.train import train

ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "xy": {"network.mixing": "xy"},
    "stills only": {"mix": "stills"},
    "clips only": {"mix": "clips"},
    "reference targets": {"training.targets": "reference"},
    "xyff": {"network.mixing": "xyff"},
    "T8": {"window.length": 8, "window.overlap": 4},
    "xytf": {"network.mixing": "xytf"},
    "second seed": {"training.seed": 1001},
    "third seed": {"training.seed": 2001},
    "xyff second seed": {"network.mixing": "xyff", "training.seed": 1001},
    "xytf second seed": {"network.mixing": "xytf", "training.seed": 1001},
    "xyf": {"network.mixing": "xyf"},
    "clips not repaired": {"mix": "not repaired"},
    "no copy-paste": {"training.copy_paste": 0.0},
}
"""Name -> what differs from the preset, by dotted name; ``mix`` changes the preset's own mix."""
COLUMNS = {
    "semantic_iou": "semantic IoU",
    "found_1000": "found ≥ 1,000 px",
    "precision_1000": "precision",
    "found_300": "found ≥ 300 px",
    "precision_300": "precision",
    "sMOTSA": "sMOTSA",
    "IDS": "switches",
    "sMOTSA_large": "sMOTSA, large",
    "min_heat": "min_heat",
}
Result = dict[str, float]


def short(preset: Settings, steps: int, crop: tuple[int, int], min_dim: int) -> Settings:
    """The preset with a schedule of so many steps, from where its backbone starts, on crops of one
    size."""
    mix = {name: {**e.model_dump(), "crop": None} for name, e in preset.training.mix.items()}
    return update_config(
        preset,
        {
            "input.min_dim": min_dim,
            "training.steps": steps,
            "training.crop": list(crop),
            "training.mix": mix,
            "training.warmup_steps": steps // 10,
            "training.ema": 0.98,
            "training.start_from": None,
            "training.workers": 0,
        },
    )


def row_config(base: Settings, name: str) -> Settings:
    """The preset with the changes of a row. Raises ConfigError."""
    changes = dict(ROWS[name])
    change = changes.pop("mix", None)
    if change is not None:
        changes["training.mix"] = _mix(base, change)
    return update_config(base, changes)


def _mix(base: Settings, change: str) -> dict[str, Any]:
    """The preset's mix without clips or without stills, or with clips as they come."""
    mix = {name: entry.model_dump() for name, entry in base.training.mix.items()}
    for name, entry in mix.items():
        if change == "not repaired":
            entry["repair"] = False
        elif name.startswith("stills_") != (change == "stills"):
            entry["weight"] = 0.0
    return mix


def run_row(
    base: Settings, name: str, data: Path, out: Path, heats: list[float], device: str
) -> Result:
    """Train and measure a row, or read what it came to before.

    Raises ConfigError for a folder that holds the row with other settings, and what train raises.
    """
    folder = out / name.replace(" ", "-")
    done, kept = folder / "result.json", folder / "config.yaml"
    config = row_config(base, name)
    if kept.is_file() and load_settings(kept) != config:
        raise ConfigError(f"{folder}: holds this row with other settings; give another --out")
    if done.is_file():
        result: Result = json.loads(done.read_text(encoding="utf-8"))
        return result
    began = time.monotonic()
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        stopped = (folder / "checkpoint.pt").is_file()
        train(config, data, folder, resume=stopped, device=device)
    trained = time.monotonic()
    result = best_heat(config, weights, data, heats, device)
    result |= {
        "training_seconds": round(trained - began, 1),
        "evaluation_seconds": round(time.monotonic() - trained, 1),
    }
    done.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def best_heat(
    config: Settings, weights: Path, data: Path, heats: list[float], device: str
) -> Result:
    """Measures at the seed threshold with the best sMOTSA."""
    found = []
    for heat in heats:
        tried = update_config(config, {"clustering.min_heat": heat})
        stream = open_model(tried, weights, device).stream()
        found.append(evaluate_development(stream, data) | {"min_heat": heat})
    return max(found, key=lambda measures: measures["sMOTSA"])


def markdown(results: Mapping[str, Result]) -> str:
    """The table, one line a row."""
    lines = [
        "| row | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for name, result in results.items():
        cells = [
            f"{result[key]:g}" if key in ("IDS", "min_heat") else f"{result[key]:.1f}"
            for key in COLUMNS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Option(help="Folder of the driving pack.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs and the table.")],
    config: Annotated[str, typer.Option(help="Preset that the rows start from.")] = "lite_2",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each row.")] = 300,
    crop: Annotated[tuple[int, int], typer.Option(help="Height and width of clips.")] = (192, 256),
    min_dim: Annotated[int, typer.Option(help="Shorter side when measured.")] = 384,
    heats: Annotated[
        str, typer.Option(help="Seed thresholds tried, with commas.")
    ] = "0.45,0.6,0.75",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    rows: Annotated[str | None, typer.Option(help="Only these rows, with commas.")] = None,
) -> None:
    """Train and measure every row; print and write the table."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    console = Console()
    names = rows.split(",") if rows else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        raise typer.BadParameter(f"--rows: no {', '.join(unknown)}; there are {', '.join(ROWS)}")
    try:
        thresholds = [float(heat) for heat in heats.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--heats: {error}") from error
    try:
        base = short(load_settings(config), steps, crop, min_dim)
        out.mkdir(parents=True, exist_ok=True)
        results: dict[str, Result] = {}
        for name in names:
            results[name] = run_row(base, name, data, out, thresholds, device)
            facts = {
                "config": config,
                "steps": steps,
                "crop": crop,
                "min_dim": min_dim,
                "device": describe_device(resolve_device(device)),
                "torch": torch.__version__,
                "rows": results,
            }
            (out / "results.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
            (out / "table.md").write_text(markdown(results), encoding="utf-8")
            console.print(markdown(results))
    except StemsegError as error:
        console.print(f"[red]error[/red] {escape(str(error))}")
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
