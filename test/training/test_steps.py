"""A step: passes that add up, the average, frozen parts, precisions, memory formats."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from driving_pack import tiny_config, write_pack

from stemseg_ros.config import Config, load_config, update_config
from stemseg_ros.training.batches import Batch, load_sources, make_batch
from stemseg_ros.training.checkpoints import restore, save
from stemseg_ros.training.objective import compute_losses
from stemseg_ros.training.steps import MAX_BAD_STEPS, Run, TrainingError, start, take_step


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


def config(**training: object) -> Config:
    settings: dict[str, object] = {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "steps": 10,
        "schedule": "constant",
    }
    return tiny_config(**(settings | training))


def batch_of(pack: Path, clips: int) -> Batch:
    larger = config(batch_size=clips)
    return make_batch(load_sources(larger, pack), larger, 0)


def after_steps(settings: Config, batch: Batch, steps: int = 1) -> Run:
    run = start(settings)
    for _ in range(steps):
        take_step(run, batch, settings)
    return run


def difference(one: Run, other: Run) -> float:
    theirs = other.network.state_dict()
    return max(
        float((value - theirs[name]).abs().max())
        for name, value in one.network.state_dict().items()
    )


def test_passes_add_up_to_a_larger_batch(pack: Path) -> None:
    batch = batch_of(pack, 4)
    whole = after_steps(config(batch_size=4), batch)
    passes = after_steps(config(batch_size=1, accumulate=4), batch)
    assert difference(whole, passes) < 5e-6
    assert difference(whole, after_steps(config(batch_size=4), batch.split(2)[0])) > 1e-4
    for name in ("total", "lovasz", "gradient"):
        assert passes.sums[name] == pytest.approx(whole.sums[name], rel=1e-5), name


def test_passes_draw_the_clips_of_a_larger_batch(pack: Path) -> None:
    settings = config(batch_size=2, accumulate=2)
    drawn = make_batch(load_sources(settings, pack), settings, 0)
    assert torch.equal(drawn.clips, batch_of(pack, 4).clips)


def test_a_clip_counts_the_same_whatever_lies_beside_it(pack: Path) -> None:
    """Also one without instances, or with many: means are taken within each clip."""
    batch = batch_of(pack, 2)
    batch.masks[0] = 0
    network = start(config()).network
    both = compute_losses(network, batch, config())
    alone = [compute_losses(network, clip, config()) for clip in batch.split(1)]
    for name, value in both.items():
        expected = torch.stack([losses[name] for losses in alone]).mean()
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_clipped_to_the_norm(pack: Path) -> None:
    batch = batch_of(pack, 1)
    free, clipped = (after_steps(config(clip_norm=norm), batch) for norm in (0.0, 0.01))
    assert clipped.sums["gradient"] == pytest.approx(free.sums["gradient"]), "norm before clipping"

    def norm(run: Run) -> float:
        gradients = [p.grad for p in run.network.parameters() if p.grad is not None]
        return float(torch.stack([g.norm() for g in gradients]).norm())

    assert norm(free) == pytest.approx(free.sums["gradient"], rel=1e-4)
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("frozen", "moves"),
    [
        ({"frozen_stages": 0}, {"layer1": True, "layer4": True, "fpn": True}),
        ({"frozen_stages": 1}, {"layer1": False, "layer4": True, "fpn": True}),
        ({"frozen_encoder": True}, {"layer1": False, "layer4": False, "fpn": False}),
    ],
)
def test_frozen_parts_keep_their_weights(
    pack: Path, frozen: dict[str, object], moves: dict[str, bool]
) -> None:
    settings = config(weight_decay=0.1, **frozen)
    before = start(settings).network.state_dict()
    after = after_steps(settings, batch_of(pack, 1)).network.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    for part, expected in moves.items():
        found = any(f".{part}." in name or f".{part}_" in name for name in moved)
        assert found is expected, part
    assert any("embedding_head" in name for name in moved)


@pytest.mark.parametrize("preset", ["davis", "youtube_vis", "kitti_mots"])
def test_published_networks_take_a_step(pack: Path, preset: str) -> None:
    """Small ones of their form: every weight but those of the frozen stages has a gradient."""
    small: dict[str, object] = {
        "network.backbone": "resnet50",
        "network.fpn_channels": 16,
        "network.decoder_channels": [16, 16, 16, 16],
        "network.norm_groups": 4,
        "network.classes": ["object"] if preset == "davis" else ["car", "pedestrian"],
        "network.semantic_channels": None,
        "window.length": 4,
        "window.overlap": 2,
        "training.crop": [96, 96],
        "training.mix": {"clips": {"weight": 1.0, "scale": [1.0, 1.0]}},
        "training.start_from": None,
    }
    settings = load_config(preset, small)
    batch = make_batch(load_sources(settings, pack), settings, 0)
    assert len(batch.names) == 2
    run = after_steps(settings, batch)
    assert run.sums["count"] == 1
    frozen = {name for name, p in run.network.named_parameters() if p.grad is None}
    stages = ("backbone.body.stem.", "backbone.body.layer1.")
    assert frozen == {
        name for name, _ in run.network.named_parameters() if name.startswith(stages)
    }


def test_norms_that_stay_have_no_gradient(pack: Path, tmp_path: Path) -> None:
    settings = config(fold_norms=False)
    before = start(settings).network.state_dict()
    norms = [name for name in before if name.endswith("running_var")]
    assert norms
    run = after_steps(settings, batch_of(pack, 1))
    assert all(torch.equal(run.network.state_dict()[name], before[name]) for name in norms)


def test_the_average_follows_the_weights(pack: Path) -> None:
    settings = config(ema=0.9)
    run, batch = start(settings), batch_of(pack, 1)
    name = "embedding_head.conv_embedding.weight"
    expected = run.average[name].clone()
    for step in range(3):
        take_step(run, batch, settings)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * run.network.state_dict()[name]
        torch.testing.assert_close(run.average[name], expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_floats_train(pack: Path, precision: str) -> None:
    settings = config(precision=precision)
    run, batch = start(settings), batch_of(pack, 1)
    totals: list[float] = []
    if run.scaler.is_enabled():  # a scale at which no gradient overflows
        run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 256.0})
    for _ in range(2):
        run.sums.clear()
        take_step(run, batch, settings)
        totals.append(run.sums["total"])
    exact = compute_losses(start(config()).network, batch, config())["total"].item()
    assert totals[0] == pytest.approx(exact, rel=0.05)
    assert totals[-1] < totals[0]
    assert run.bad == 0
    assert run.network.embedding_head.conv_embedding.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("mixing", "classes", "width"),
    [
        ("xy", ["car"], 48),  # 2 embeddings, 2 variances, 1 heat map, 3 logits
        ("xyt", ["car", "pedestrian"], 48),  # 3, 3, 1, 4
        ("xytf", ["car", "pedestrian"], 16),  # 4, 3, 1, 4, and narrow fusions
    ],
)
def test_narrow_layers_train_in_bfloat16(
    pack: Path, mixing: str, classes: list[str], width: int
) -> None:
    """oneDNN's AMX kernel for their weight gradient writes past its buffer: the process died."""
    network = {
        "network.mixing": mixing,
        "network.classes": classes,
        "network.decoder_channels": [width] * 4,
    }
    exact, short = (
        update_config(config(precision=precision), network)
        for precision in ("float32", "bfloat16")
    )
    batch = batch_of(pack, 2)
    of_exact, of_short = (gradients(settings, batch) for settings in (exact, short))
    for name, gradient in of_exact.items():
        error = (of_short[name] - gradient).norm() / gradient.norm()
        assert error < 0.1, name
    assert after_steps(short, batch, steps=2).bad == 0


def gradients(settings: Config, batch: Batch) -> dict[str, torch.Tensor]:
    """Those of the output layers."""
    network = start(settings).network
    compute_losses(network, batch, settings)["total"].backward()
    layers = [*network.embedding_head.output_layers(), *network.semseg_head.output_layers()]
    return {str(n): layer.weight.grad.float() for n, layer in enumerate(layers)}


@pytest.mark.parametrize(
    ("optimizer", "parts"),
    [("adamw", {"step", "exp_avg", "exp_avg_sq"}), ("sgd", {"momentum_buffer"})],
)
def test_a_restored_run_goes_on_bit_for_bit(
    pack: Path, tmp_path: Path, optimizer: str, parts: set[str]
) -> None:
    settings = config(
        optimizer=optimizer, precision="bfloat16", schedule="cosine", ema=0.9, steps=4
    )
    sources = load_sources(settings, pack)
    whole, again = start(settings), start(settings)
    for step in range(4):
        if step == 2:
            save(whole, tmp_path / "checkpoint.pt", settings)
            restore(again, tmp_path / "checkpoint.pt", settings)
        for run in [whole] if step < 2 else [whole, again]:
            take_step(run, make_batch(sources, settings, step), settings)
    assert again.step == whole.step == 4
    states = [run.optimizer.state_dict()["state"] for run in (whole, again)]
    assert set(states[0][0]) == parts and states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        for part in parts:
            assert torch.equal(states[1][number][part], state[part]), (number, part)
    ours = again.network.state_dict() | {f"average.{k}": v for k, v in again.average.items()}
    theirs = whole.network.state_dict() | {f"average.{k}": v for k, v in whole.average.items()}
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_an_overflow_of_float16_lowers_the_scale_and_is_no_fault(
    pack: Path, tmp_path: Path
) -> None:
    settings = config(precision="float16")
    run, batch = start(settings), batch_of(pack, 1)
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**60})
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    for _ in range(2):
        take_step(run, batch, settings)
    assert run.scaler.get_scale() == 2.0**58
    assert (run.bad, run.step) == (0, 2)
    assert all(torch.equal(v, before[k]) for k, v in run.network.state_dict().items())
    save(run, tmp_path / "checkpoint.pt", settings)
    again = start(settings)
    restore(again, tmp_path / "checkpoint.pt", settings)
    assert again.scaler.get_scale() == run.scaler.get_scale()


def test_values_that_are_not_finite_stop_float16_too(pack: Path) -> None:
    settings = config(precision="float16")
    run, batch = start(settings), batch_of(pack, 1)
    broken = replace(batch, clips=batch.clips * float("nan"), names=("clips[7]",))
    run.bad = MAX_BAD_STEPS - 1
    with pytest.raises(TrainingError, match=r"5 steps in a row were not finite.*clips\[7\]"):
        take_step(run, broken, settings)


def test_memory_format_and_compilation_change_nothing_but_speed(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(pack, 1)
    plain = after_steps(config(channels_last=False), batch)
    weight = plain.network.embedding_head.block_4x[0].weight
    assert not weight.is_contiguous(memory_format=torch.channels_last_3d)
    last = after_steps(config(channels_last=True), batch)
    weight = last.network.embedding_head.block_4x[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert difference(plain, last) < 1e-5
    # Captured as graphs, but run eagerly: generating code takes minutes on two cores.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert difference(after_steps(config(compile=True), batch), last) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_takes_the_steps_of_the_cpu(pack: Path, precision: str) -> None:
    batch = batch_of(pack, 2)
    settings = config(precision=precision, batch_size=1, accumulate=2, clip_norm=1.0)
    expected = after_steps(config(batch_size=2, clip_norm=1.0), batch).sums["total"]
    run = start(settings, torch.device("cuda"))
    for _ in range(12):
        take_step(run, batch, settings)
        if run.sums:
            break
    assert run.sums["total"] == pytest.approx(expected, rel=0.05)
    assert all(value.device.type == "cuda" for value in run.average.values())
