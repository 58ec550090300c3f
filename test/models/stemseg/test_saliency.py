"""Saliency (Sec. 4.5): from the two channels to one object, and from training to `stemseg run`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.config import ConfigError, load_config
from stemseg_ros.formats.kitti_lines import read_results
from stemseg_ros.masks import decode
from stemseg_ros.media.overlay import VideoWriter
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.models.stemseg.network import SaliencyNetwork, by_level
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.records import Frame
from stemseg_ros.stream import Model

HEIGHT, WIDTH, FRAMES = 96, 128, 11
TINY = """
base: saliency
name: tiny_saliency
input: {min_dim: 96, max_dim: 128}
network:
  {backbone: mobilenet_v2, fpn_channels: 16, decoder_channels: [16, 16, 16, 16], norm_groups: 4}
window: {length: 4, overlap: 2}
training:
  mix: {davis: {format: davis2016, root: DAVIS}}
  crop: [96, 128]
  scale: [1.0, 1.0]
  start_from: null
  pretrained: false
  frozen_stages: 0
  optimizer: adamw
  learning_rate: 3.0e-3
  schedule: cosine
  accumulate: 1
  steps: 200
"""


def tiny(folder: Path) -> Path:
    path = folder / "tiny_saliency.yaml"
    path.write_text(TINY)
    return path


def frame(t: int) -> tuple[np.ndarray, np.ndarray]:
    """A still texture, and two textured things that move across it: image, foreground."""
    rng = np.random.default_rng(7)
    image = cv2.resize(rng.integers(60, 200, (12, 16, 3), dtype=np.uint8), (WIDTH, HEIGHT))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, (34 + 5 * t, 34), (32, 26), 0, 0, 360, 1, -1)
    cv2.ellipse(mask, (94 - 4 * t, 62), (26, 28), 0, 0, 360, 1, -1)
    texture = cv2.resize(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8), (WIDTH, HEIGHT))
    texture[..., 0], texture[..., 2] = 255, texture[..., 2] // 3
    image[mask > 0] = np.roll(texture, 5 * t, axis=1)[mask > 0]
    return image, mask


def davis(root: Path) -> Path:
    """One sequence in the layout of DAVIS 2016."""
    images, labels = root / "JPEGImages/480p/things", root / "Annotations/480p/things"
    for folder in (images, labels, root / "ImageSets/2016"):
        folder.mkdir(parents=True)
    (root / "ImageSets/2016/train.txt").write_text("things\n")
    for t in range(FRAMES):
        image, mask = frame(t)
        cv2.imwrite(str(images / f"{t:05d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        Image.fromarray(255 * mask).save(labels / f"{t:05d}.png")
    return root


def stemseg(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.timeout(1200)  # of the clock, on a machine that has other work
def test_it_learns_the_foreground_and_run_writes_it(tmp_path: Path) -> None:
    """train, run and evaluate as a user calls them; masks of run, and J of TrackEval."""
    root, config = davis(tmp_path / "DAVIS"), tiny(tmp_path)
    stemseg("train", tmp_path, "--config", config, "--out", tmp_path / "run", "--device", "cpu")
    given = ["--config", config, "--checkpoint", tmp_path / "run/weights.safetensors"]
    given += ["--device", "cpu"]
    stemseg("run", root / "JPEGImages/480p/things", "--out", tmp_path / "out", *given)
    rows = read_results(tmp_path / "out/instances.txt")
    assert [(row.frame, row.id) for row in rows] == [(t, 1001) for t in range(FRAMES)]
    both = either = 0
    for row in rows:
        predicted, truth = decode(row.rle), frame(row.frame)[1] > 0
        both += int((predicted & truth).sum())
        either += int((predicted | truth).sum())
    assert both / either >= 0.9
    stemseg(
        *("evaluate", "--format", "davis2016", "--ground-truth", root / "Annotations/480p"),
        *("--images", root / "JPEGImages/480p", "--out", tmp_path / "scores", *given),
    )
    (run,) = json.loads((tmp_path / "scores/report.json").read_text())["runs"]
    (measures,) = run["measures"].values()
    assert measures["J-Mean"] >= 90


def test_a_video_runs_with_random_weights(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10) as video:
        for t in range(6):
            video.write(frame(t)[0])
    stemseg(
        *("run", tmp_path / "clip.mp4", "--out", tmp_path / "out", "--config", "saliency"),
        *("--checkpoint", "random", "--device", "cpu", "--set", "network.backbone=mobilenet_v2"),
        *("--set", "input.min_dim=96", "--set", "input.max_dim=128"),
        *("--set", "network.fpn_channels=32", "--set", "network.decoder_channels=[32,32,32,32]"),
    )
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["frames"] == 6
    assert summary["tracks"] <= 1, "all foreground is one object"


class Bright:
    """A fake engine: what is bright is foreground."""

    device = torch.device("cpu")

    def __init__(self, config: Settings) -> None:
        self.config = config

    def run(self, function: str, batch: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        return [getattr(self, function)(*inputs) for inputs in batch]

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        mean, std = self.config.input.mean_bgr[0], self.config.input.std_bgr[0]
        cells = ((pixels[:1, ::4, ::4] * std + mean) / 255).float()
        return cells, cells, cells, cells

    def decode(self, *maps: Tensor) -> tuple[Tensor, ...]:
        heat = torch.stack(by_level(maps)[0], dim=1)
        return heat[:0], heat[:0], heat


def scene(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(top, bottom, left, right) bright, the rest dark."""
    image = np.zeros((96, 96, 3), np.uint8)
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right] = 230
    return image


LEFT, RIGHT = (16, 48, 16, 32), (48, 80, 64, 80)


@pytest.mark.parametrize("mode", ["near_online", "online", "offline"])
def test_all_foreground_is_one_object_for_ever(mode: str) -> None:
    """Far apart, gone for more than a window, somewhere else: one mask, id 1, class object."""
    frames = [scene(LEFT), scene(LEFT, RIGHT)] + [scene()] * 14 + [scene(RIGHT)] * 3
    config = load_config(
        "saliency", {"input.min_dim": 96, "input.max_dim": 96, "window.mode": mode}
    )
    stream = Model(config, Bright(config)).stream()
    results = [r for t, image in enumerate(frames) for r in stream.push(Frame(image, 1 + t))]
    results += stream.flush()
    assert [result.index for result in results] == list(range(len(frames)))
    for image, result in zip(frames, results, strict=True):
        if not image.any():
            assert result.instances == ()
            continue
        (instance,) = result.instances
        assert (instance.track_id, instance.class_name) == (1, "object")
        assert instance.score == pytest.approx(230 / 255)
        mask, truth = decode(instance.rle), image[..., 0] > 0
        assert (mask & truth).sum() > 0.95 * (mask | truth).sum()


def test_the_network_has_one_decoder_with_two_channels() -> None:
    config = load_config("saliency", {"network.backbone": "mobilenet_v2"})
    network = SaliencyNetwork(config)
    parts = {key.partition(".")[0] for key in network.state_dict()}
    assert parts == {"backbone", "saliency_head"}
    assert network.saliency_head.conv_out.weight.shape[0] == 2


def test_the_heat_map_is_the_probability_of_the_foreground(tmp_path: Path) -> None:
    config = load_config(tiny(tmp_path))
    network = load_network(config, "random")
    clips = torch.randn(1, 4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    logits = network(clips)
    assert logits.shape == (1, 2, 4, 24, 32)
    *nothing, heat_map = network.outputs(logits)
    assert [tuple(each.shape) for each in nothing] == [(1, 0, 4, 24, 32)] * 2
    torch.testing.assert_close(heat_map[:, 0], torch.sigmoid(logits[:, 1] - logits[:, 0]))
    output = network.predict(np.zeros((4, 96, 128, 3), np.uint8))
    assert output.embeddings.shape == output.bandwidths.shape == (0, 4, 24, 32)


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("lite", {"network.task": "saliency"}),
        ("saliency", {"network.semantic_head": True}),
        ("saliency", {"network.classes": ["car", "pedestrian"]}),
    ],
)
def test_classes_do_not_go_with_saliency(preset: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="task saliency knows no classes: set semantic_head"):
        load_config(preset, settings)
