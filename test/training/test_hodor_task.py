"""HODOR in the training loop: samples of stills and videos, steps, resuming, initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from driving_pack import small_hodor, steps, write_pack
from safetensors.torch import load_file
from typer.testing import CliRunner

from stemseg_ros.cli.main import app
from stemseg_ros.config import Config, ConfigError, dump_config, update_config
from stemseg_ros.datasets.sequence import IGNORE_LABEL, DataError, LabelledFrame
from stemseg_ros.models.hodor.load import load_network
from stemseg_ros.models.hodor.losses import IGNORED
from stemseg_ros.models.hodor.settings import Settings
from stemseg_ros.models.hodor.trainable import SampleBatch
from stemseg_ros.training.batches import load_sources, make_batch, step_clips
from stemseg_ros.training.checkpoints import restore, save
from stemseg_ros.training.clips import Clip
from stemseg_ros.training.distributed import World
from stemseg_ros.training.hodor_clips import draw_frames, draw_sample
from stemseg_ros.training.steps import start
from stemseg_ros.training.still_copies import FIRST_LABEL
from stemseg_ros.training.train import train
from stemseg_ros.training.trainables import trainable

DROPOUT = {"network.dropout": 0.1, "stills.hint_dropout": 0.5}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


def settings(overrides: Mapping[str, object] | None = None, **training: object) -> Settings:
    config = update_config(small_hodor(**training), overrides or {})
    assert isinstance(config, Settings)
    return config


def samples(config: Config, pack: Path, step: int) -> SampleBatch:
    batch = make_batch(load_sources(config, pack), config, step)
    assert isinstance(batch, SampleBatch)
    return batch


def mean_colour(
    image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    return np.asarray(image[mask].mean(0, dtype=np.float64))


def test_samples_of_a_step_have_the_same_number_of_objects(pack: Path) -> None:
    config = settings()
    found = set()
    for step in range(8):
        batch = samples(config, pack, step)
        assert batch.frames.shape == (2, 3, 3, 96, 128) and batch.labels.dtype == torch.uint8
        assert batch.iteration == step
        for labels in batch.labels:
            shown = set(labels[0].unique().tolist()) - {0, IGNORED}
            assert shown == set(range(1, batch.objects + 1))
        found.add(batch.objects)
    assert found == {1, 2}


def test_samples_depend_on_seed_and_step_alone(pack: Path) -> None:
    config = settings()
    one, again, later = (samples(config, pack, step) for step in (3, 3, 4))
    assert torch.equal(one.frames, again.frames) and torch.equal(one.labels, again.labels)
    assert not torch.equal(one.frames, later.frames)
    assert not torch.equal(one.frames[0], one.frames[1])
    sources, half = load_sources(config, pack), settings(batch_size=1)
    parts = [make_batch(sources, half, 3, World(rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat([part.frames for part in parts]), one.frames)


@pytest.mark.parametrize("source", ["clips", "stills_city"])
def test_labels_lie_on_their_objects(pack: Path, source: str) -> None:
    """In every frame of a sample an object has the colours that it has in the first."""
    plain = {"stills.occlude": 0.0, "stills.paste": 0.0, "stills.merge": 0.0}
    config = settings(plain, mix={source: 1.0})
    sources = load_sources(config, pack)
    seen = 0
    for seed in range(6):
        clip = draw_sample(sources, config, np.random.default_rng(seed), 2)
        assert clip.name.startswith(f"{source}[")
        for label in (FIRST_LABEL, FIRST_LABEL + 1):
            masks = clip.labels == label
            frames = [t for t in range(3) if masks[t].sum() > 100]
            colours = [mean_colour(clip.frames[t], masks[t]) for t in frames]
            reddish = [colour[2] > colour[0] + 40 for colour in colours]
            bluish = [colour[0] > colour[2] + 40 for colour in colours]
            assert all(reddish) or all(bluish)
            seen += len(frames)
    assert seen > 20


def test_samples_of_videos_have_the_motion_of_the_video(pack: Path) -> None:
    config = settings(mix={"clips": 1.0})
    sources = load_sources(config, pack)
    shifts = set()
    for seed in range(12):
        _, frames = draw_frames(sources, config, np.random.default_rng(seed), 2)
        assert len(frames) == 3
        left = [int(np.nonzero(frame.labels == 1001)[1].min()) for frame in frames]
        assert left[1] - left[0] == left[2] - left[1]
        shifts.add(left[1] - left[0])
    assert shifts <= {-9, -6, -3, 3, 6, 9} and len(shifts) > 3  # 3 pixels a frame


def test_other_objects_of_a_video_are_background(pack: Path) -> None:
    config = settings(mix={"clips": 1.0})
    sources = load_sources(config, pack)
    for seed in range(4):
        clip = draw_sample(sources, config, np.random.default_rng(seed), 1)
        assert set(np.unique(clip.labels)) <= {0, FIRST_LABEL, IGNORE_LABEL}


def test_groups_small_and_unknown_objects_are_no_objects() -> None:
    labels = np.zeros((96, 128), np.int32)
    labels[:30, :30], labels[40:70, :30], labels[80:90, :20] = IGNORE_LABEL, 1000, 1005
    frame = LabelledFrame(np.full((96, 128, 3), 90, np.uint8), labels)
    with pytest.raises(DataError, match=r"found no image with 1 object\(s\)"):
        draw_frames({"clips": [[frame]]}, settings(), np.random.default_rng(0), 1)


def test_the_input_is_rgb_and_ignored_pixels_have_no_target() -> None:
    config = settings()
    frames, labels = np.zeros((3, 96, 128, 3), np.uint8), np.zeros((3, 96, 128), np.int32)
    frames[..., 2] = 255
    labels[:, :8], labels[:, 20:40] = IGNORE_LABEL, FIRST_LABEL + 1
    batch = trainable(config).batch([Clip(frames, labels, step=7)], config)
    assert isinstance(batch, SampleBatch)
    red, green, blue = batch.frames[0, 0, :, 0, 0].tolist()
    assert red > 2 > -1.5 > max(green, blue)
    assert batch.labels[0, 0, (0, 10, 30), 0].tolist() == [IGNORED, 0, 2]
    assert (batch.objects, batch.iteration) == (2, 7)


@pytest.mark.timeout(1200)  # wall-clock time, on a busy machine
def test_the_loss_falls(pack: Path) -> None:
    config = settings()
    totals = steps(start(config), config, pack, 40)
    assert np.mean(totals[-10:]) < 0.8 * np.mean(totals[:10])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_restored_run_continues_bit_for_bit(pack: Path, tmp_path: Path, precision: str) -> None:
    config = settings(DROPOUT, precision=precision, ema=0.9)
    whole, again = start(config), start(config)
    steps(whole, config, pack, 2)
    save(whole, tmp_path / "checkpoint.pt", config)
    expected = steps(whole, config, pack, 4)
    assert restore(again, tmp_path / "checkpoint.pt", config) == []
    assert steps(again, config, pack, 4) == expected
    assert all(torch.equal(again.average[name], value) for name, value in whole.average.items())


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    pack: Path, tmp_path: Path
) -> None:
    """Dropout draws from torch's generator, which nothing else may touch between steps."""

    def config(until: int) -> Settings:
        return settings(DROPOUT, steps=until, schedule="constant", picture_steps=1)

    whole = train(config(3), pack, tmp_path / "whole")
    train(config(2), pack, tmp_path / "parts")
    resumed = train(config(3), pack, tmp_path / "parts", resume=True)
    ours, theirs = load_file(resumed), load_file(whole)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert (tmp_path / "whole/log.csv").read_text().startswith("step,rate,")


def test_the_command_trains_and_shows_samples(pack: Path, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(dump_config(settings(steps=1)))
    common = ["--config", str(preset), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(app, ["train", str(pack), *common])
    assert done.exit_code == 0, done.output
    assert load_network(settings(), tmp_path / "run/weights.safetensors")
    sheet = tmp_path / "sheet.png"
    show = ["data", "show", str(preset), "--data", str(pack), "--out", str(sheet), "--clips", "2"]
    done = CliRunner().invoke(app, show)
    assert done.exit_code == 0, done.output
    assert "2 clips of 3 frames" in done.output and cv2.imread(str(sheet)) is not None


def test_exported_weights_are_those_of_the_average_and_start_another_run(
    pack: Path, tmp_path: Path
) -> None:
    config = settings(steps=2)
    weights = train(config, pack, tmp_path / "run")
    pixels = torch.rand(1, 3, 96, 128)
    shipped = load_network(config, weights).encode(pixels)
    for file in (weights, tmp_path / "run/checkpoint.pt"):
        run = start(settings(start_from=str(file)))
        for ours, theirs in zip(run.network.eval().encode(pixels), shipped, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)  # half precision


def test_a_refinement_starts_from_weights_without_one(pack: Path, tmp_path: Path) -> None:
    plain = {"network.refinement": False}
    weights = train(settings(plain, steps=1), pack, tmp_path / "run")
    refined = settings({"network.refinement": True}, start_from=str(weights))
    state = start(refined).network.state_dict()
    fresh = {name for name in state if name.startswith("decoder.refiner.")}
    shipped = load_network(settings(plain), weights).state_dict()
    assert fresh and state.keys() - fresh == shipped.keys()
    assert all(torch.equal(state[name], value) for name, value in shipped.items())


@pytest.mark.parametrize(
    ("training", "still"),
    [
        ({"frozen_stages": 2}, ("layer1.", "layer2.")),
        ({"backbone_rate": 0.0}, ("layer1.", "layer4.")),
    ],
)
def test_parts_of_the_backbone_keep_their_weights(
    pack: Path, training: dict[str, object], still: tuple[str, ...]
) -> None:
    config = settings(**training)
    run = start(config)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    steps(run, config, pack, 1)
    body = "feature_extractor.bb_fpn.0."
    after = run.network.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith(f"{body}{part}") for name in moved for part in still)
    rest = any(name.startswith(f"{body}layer3.") for name in moved)
    assert rest is ("frozen_stages" in training)


@pytest.mark.parametrize(
    "overrides",
    [
        {"network.backbone": "swin_t", "network.mixer": "deformable", "stills.patterns": "cyclic"},
        {"network.refinement": True, "stills.hint_dropout": 1.0, "stills.frames": 2},
        {"network.previous_masks": False, "network.refinement": False},
    ],
)
def test_every_trained_weight_has_a_gradient(pack: Path, overrides: dict[str, object]) -> None:
    """Several processes wait for the gradients of all of them."""
    config = settings(overrides)
    run = start(config)
    batch = samples(config, pack, 0)
    trainable(config).compute_losses(run.model, batch, config)["total"].backward()
    trained = {name: p for name, p in run.network.named_parameters() if p.requires_grad}
    assert len(trained) > 100
    assert [name for name, p in trained.items() if p.grad is None] == []


def test_patterns_alternate_with_the_step(pack: Path) -> None:
    config = settings({"stills.patterns": "cyclic", "stills.hint_dropout": 0.0})
    run, task = start(config), trainable(config)
    sources = load_sources(config, pack)
    clips = step_clips(sources, config, 2, World())
    losses = []
    for step in (2, 3, 4):
        batch = task.batch([Clip(c.frames, c.labels, c.name, step) for c in clips], config)
        losses.append(float(task.compute_losses(run.model, batch, config)["total"].detach()))
    assert losses[0] == losses[2] != losses[1]


def test_pictures_show_predictions_above_the_ground_truth(pack: Path) -> None:
    config = settings(DROPOUT)
    run, batch = start(config), samples(config, pack, 0)
    state = torch.get_rng_state()
    sheet = trainable(config).draw_predictions(run.network, batch, config)
    assert torch.equal(torch.get_rng_state(), state) and run.network.training
    height, width = (sheet.shape[0] - 4) // 2, (sheet.shape[1] - 8) // 3  # without gaps
    assert height / width == pytest.approx(96 / 128, rel=0.01)
    rows = np.abs(sheet[:height].astype(int) - sheet[-height:])
    assert rows[:, :width].max() == 0  # the masks of the first frame are given
    assert rows[:, -width:].mean() > 1  # those of the last are predicted, by random weights


@pytest.mark.parametrize("entry", [{"crop": [96, 96]}, {"scale": [1, 2]}, {"focus": "car"}])
def test_settings_of_the_mix_without_effect_are_refused(entry: dict[str, object]) -> None:
    (name,) = entry
    with pytest.raises(ConfigError, match=rf"training\.mix\.clips\.{name}: has no effect"):
        settings(mix={"clips": entry})


def test_the_patterns_of_the_paper_need_three_frames() -> None:
    with pytest.raises(ConfigError, match="cyclic needs frames: 3, not 4"):
        settings({"stills.patterns": "cyclic", "stills.frames": 4})


def test_a_mix_without_enough_objects_ends_the_run(pack: Path, tmp_path: Path) -> None:
    config = settings({"stills.objects": 20}, mix={"stills_city": 1.0})
    with pytest.raises(DataError, match=r"lower stills\.objects"):
        train(config, pack, tmp_path / "run")
