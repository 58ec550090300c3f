"""STC in the training loop: ground truth of labelled frames, steps, resuming, initial weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from driving_pack import small_stc, steps, tiny_config, write_pack

from stemseg_ros.config import update_config
from stemseg_ros.models.stc.load import load_network
from stemseg_ros.models.stc.trainable import FramePairs, extract_truth
from stemseg_ros.training.batches import load_sources, make_batch
from stemseg_ros.training.checkpoints import export, restore, save
from stemseg_ros.training.steps import Run, start
from stemseg_ros.training.train import train
from stemseg_ros.training.trainables import trainable


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


def test_ground_truth_of_a_labelled_frame() -> None:
    labels = np.zeros((64, 96), np.int32)
    labels[10:20, 30:50] = 2007
    labels[40:44, 60:70] = 1003
    labels[60:62, :2] = 1004  # too small
    labels[:5, :5], labels[:5, 10:15] = 10000, 1000  # ignored, a group
    truth, unknown = extract_truth(labels, min_pixels=20)
    assert truth.ids.tolist() == [1003, 2007]
    assert truth.labels.tolist() == [0, 1]
    assert truth.boxes.tolist() == [[60, 40, 70, 44], [30, 10, 50, 20]]
    np.testing.assert_array_equal(truth.masks[1], labels == 2007)
    np.testing.assert_array_equal(unknown, np.isin(labels, (10000, 1000, 1004)))
    nothing, _ = extract_truth(np.zeros((64, 96), np.int32), min_pixels=20)
    assert nothing.boxes.shape == (0, 4) and nothing.masks.shape == (0, 64, 96)


def test_pairs_of_a_video_may_be_far_apart(pack: Path) -> None:
    settings = update_config(
        small_stc(copy_paste=0.0, mix={"clips": 1.0}), {"pairs.max_distance": 5}
    )
    sources = load_sources(settings, pack)
    shifts = set()
    for step in range(12):
        pairs = make_batch(sources, settings, step)
        assert isinstance(pairs, FramePairs)
        assert pairs.images.shape == (2, 2, 3, 96, 128)
        for key, reference in pairs.truths:
            both = {id_: row for row, id_ in enumerate(reference.ids.tolist())}
            for row, id_ in enumerate(key.ids.tolist()):
                if id_ in both:
                    moved = reference.boxes[both[id_], 0] - key.boxes[row, 0]
                    shifts.add(round(abs(float(moved)) / 3))  # 3 pixels a frame
    assert {1, 3, 5} <= shifts and max(shifts) <= 6


@pytest.mark.timeout(1200)  # wall-clock time, on a busy machine
def test_the_loss_falls(pack: Path) -> None:
    settings = small_stc(batch_size=1)
    totals = steps(start(settings), settings, pack, 30)
    assert np.mean(totals[-8:]) < 0.8 * np.mean(totals[:8])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_restored_run_continues_bit_for_bit(pack: Path, tmp_path: Path, precision: str) -> None:
    settings = small_stc(precision=precision, ema=0.9)
    whole, again = start(settings), start(settings)
    steps(whole, settings, pack, 2)
    save(whole, tmp_path / "checkpoint.pt", settings)
    expected = steps(whole, settings, pack, 4)
    assert restore(again, tmp_path / "checkpoint.pt", settings) == []
    assert steps(again, settings, pack, 4) == expected
    for ours, theirs in ((again.average, whole.average), *states(again, whole)):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def states(*runs: Run) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    first, second = (run.network.state_dict() for run in runs)
    return [(first, second)]


@pytest.mark.parametrize(
    "settings",
    [
        {"consistency.form": "l2"},
        {"consistency.form": "kl"},
        {"consistency.weight": 0.0},
        {"contrastive.auxiliary_cosine": True},
        {"tracking.enabled": False},
        {"tracking.tower_convs": 1},
    ],
)
def test_every_form_of_the_losses_takes_a_step(pack: Path, settings: dict[str, object]) -> None:
    config = update_config(small_stc(), settings)
    run = start(config)
    steps(run, config, pack, 1)
    assert ("contrastive" in run.sums) is config.tracking.enabled
    assert ("consistency" in run.sums) is bool(config.consistency.weight)
    parts = {"class", "box", "centerness", "mask"}
    weighted = sum(run.sums[name] for name in parts)
    weighted += config.contrastive.weight * run.sums.get("contrastive", 0.0)
    weighted += config.consistency.weight * run.sums.get("consistency", 0.0)
    assert run.sums["total"] == pytest.approx(weighted, rel=1e-5)
    assert all(p.grad is not None for p in run.network.parameters() if p.requires_grad)


def test_ignored_pixels_are_not_trained_as_background(pack: Path) -> None:
    settings = small_stc()
    pairs = make_batch(load_sources(settings, pack), settings, 0)
    task, run = trainable(settings), start(settings)
    run.network.eval()
    known = replace(pairs, ignored=torch.zeros_like(pairs.ignored))
    unknown = replace(pairs, ignored=torch.ones_like(pairs.ignored))
    losses = [task.compute_losses(run.network, each, settings) for each in (known, unknown)]
    assert losses[1]["class"] < losses[0]["class"]
    for name in ("box", "centerness", "mask"):
        assert torch.equal(losses[0][name], losses[1][name])


def test_backbone_and_pyramid_start_from_a_light_stemseg(tmp_path: Path) -> None:
    light = start(tiny_config())
    path = tmp_path / "light.safetensors"
    export(light.average, tiny_config(), path)
    plain = start(small_stc(fold_norms=False)).network.state_dict()
    found = start(small_stc(fold_norms=False, start_from=str(path))).network.state_dict()
    ours = load_network_state(path)
    first = "layer1.0.0.weight"
    assert torch.equal(found[f"backbone.mobilenet.{first}"], ours[f"body.{first}"].flip(1))
    later = {name for name in ours if name.startswith("body.")} - {f"body.{first}"}
    assert len(later) > 100
    for name in later:
        assert torch.equal(found[f"backbone.mobilenet.{name[5:]}"], ours[name])
    for number in range(3):
        for theirs, name in (("inner", "lateral_convs"), ("layer", "fpn_convs")):
            value = ours[f"fpn.fpn_{theirs}{number + 2}.weight"]
            assert torch.equal(found[f"neck.{name}.{number}.conv.weight"], value)
    for name in ("neck.fpn_convs.4.conv.weight", "bbox_head.conv_cls.weight"):
        assert torch.equal(found[name], plain[name])


def load_network_state(path: Path) -> dict[str, torch.Tensor]:
    """Load backbone and pyramid from a file of STEm-Seg."""
    from safetensors.torch import load_file

    return {k.removeprefix("backbone."): v.float() for k, v in load_file(path).items()}


def test_trained_weights_are_exported_and_trained_further(pack: Path, tmp_path: Path) -> None:
    """Exported weights compute the same as the average of the run, whose norms were folded."""
    settings = small_stc(steps=3, frozen_stages=1)
    weights = train(settings, pack, tmp_path / "run")
    shipped = load_network(settings, weights)
    for start_from in (weights, tmp_path / "run" / "checkpoint.pt"):
        run = start(small_stc(start_from=str(start_from)))
        run.network.eval()
        pixels = torch.rand(1, 3, 96, 128)
        for ours, theirs in zip(run.network.detect(pixels), shipped.detect(pixels), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)  # half precision
    assert (tmp_path / "run" / "log.csv").read_text().startswith("step,rate,class,box,")


def test_frozen_stages_keep_their_weights(pack: Path) -> None:
    settings = small_stc(frozen_stages=2)
    run = start(settings)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    steps(run, settings, pack, 1)
    moved = {n for n, v in run.network.state_dict().items() if not torch.equal(v, before[n])}
    for stage, moves in (("layer1", False), ("layer2", False), ("layer3", True)):
        assert any(f"mobilenet.{stage}." in name for name in moved) is moves
