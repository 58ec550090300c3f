"""Weights that a run starts from: every kind of file, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from driving_pack import tiny_config, write_pack
from safetensors.torch import load_file

from stemseg_ros.config import Config, update_config
from stemseg_ros.models.layers.weights import initialise
from stemseg_ros.models.stemseg import CheckpointError, StemSeg, load_network, save_weights
from stemseg_ros.training.model import build_for_training
from stemseg_ros.training.train import train


def seeded(config: Config) -> StemSeg:
    """A network with other weights than those a run with seed 0 would start with."""
    network = StemSeg(config).eval()
    initialise(network, 7)
    return network


def maps(network: torch.nn.Module) -> torch.Tensor:
    clip = torch.rand(1, 4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings: torch.Tensor = network(clip).embeddings
        return embeddings


@pytest.mark.parametrize("kind", ["shipped", "released"])
def test_a_run_starts_from_a_file_of_weights(tmp_path: Path, kind: str) -> None:
    source = seeded(tiny_config())
    path = tmp_path / ("weights.safetensors" if kind == "shipped" else "weights.pth")
    if kind == "shipped":
        save_weights(source, path, {})
    else:
        extra = {"embedding_loss_criterion.x": torch.zeros(1)}
        torch.save({"model": source.state_dict() | extra}, path)
    network = build_for_training(tiny_config(start_from=str(path)))
    expected = load_network(tiny_config(), path)
    torch.testing.assert_close(maps(network), maps(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_alone_leaves_the_decoders_as_they_start(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "backbone.pth"
    source = seeded(tiny_config())
    torch.save({prefix + k: v for k, v in source.backbone.state_dict().items()}, path)
    found = build_for_training(tiny_config(start_from=str(path)))
    plain = build_for_training(tiny_config())
    image = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours_map, theirs_map = found.encode(image)[0], source.encode(image)[0]
    torch.testing.assert_close(ours_map, theirs_map, atol=1e-3, rtol=1e-3)  # norms are folded
    ours, theirs = found.embedding_head.state_dict(), plain.embedding_head.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_second_run_starts_where_the_first_ended_with_its_own_steps(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack")
    train(tiny_config(steps=2), pack, tmp_path / "first")
    checkpoint = tmp_path / "first/checkpoint.pt"
    average = torch.load(checkpoint, weights_only=True)["average"]
    second = tiny_config(steps=1, start_from=str(checkpoint))
    started = build_for_training(second).state_dict()
    assert all(torch.equal(value, average[name]) for name, value in started.items())
    train(second, pack, tmp_path / "second")
    checkpoint.unlink()  # a resumed run has its own weights
    train(second, pack, tmp_path / "second", resume=True)
    assert torch.load(tmp_path / "second/checkpoint.pt", weights_only=True)["step"] == 1


def test_the_second_step_of_a_schedule(tmp_path: Path) -> None:
    """As for DAVIS: norms as published, then longer windows and a frozen encoder."""
    pack = write_pack(tmp_path / "pack")
    one = tiny_config(steps=1, fold_norms=False, picture_steps=0)
    weights = train(one, pack, tmp_path / "one")
    assert any(name.endswith("running_var") for name in load_file(weights))
    two = update_config(
        one,
        {
            "window.length": 8,
            "training.start_from": str(tmp_path / "one/checkpoint.pt"),
            "training.frozen_encoder": True,
        },
    )
    train(two, pack, tmp_path / "two")
    before, after = (
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)[part]
        for run, part in (("one", "average"), ("two", "network"))
    )
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert not [name for name in moved if name.startswith("backbone.")]


def test_a_run_with_folded_norms_does_not_fit_one_without(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "pack")
    train(tiny_config(steps=1, picture_steps=0), pack, tmp_path / "one")
    start_from = str(tmp_path / "one/checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: lacks keys"):
        build_for_training(tiny_config(fold_norms=False, start_from=start_from))


@pytest.mark.parametrize("kind", ["shipped", "run"])
@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        ({"mixing": "xytf"}, {"embedding_head.conv_embedding.weight"}),
        (
            {"mixing": "xy"},
            {
                "embedding_head.conv_embedding.weight",
                "embedding_head.conv_variance.weight",
                "embedding_head.conv_variance.bias",
            },
        ),
        ({"classes": ["car", "pedestrian", "tram"]}, {"semseg_head.conv_out.weight"}),
    ],
)
def test_outputs_of_other_classes_or_another_mixing_start_anew(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    change: dict[str, object],
    fresh: set[str],
) -> None:
    source = seeded(tiny_config())
    path = tmp_path / ("weights.safetensors" if kind == "shipped" else "checkpoint.pt")
    if kind == "shipped":
        save_weights(source, path, {})
    else:
        torch.save({"average": source.state_dict()}, path)
    config = update_config(
        tiny_config(fold_norms=False), {f"network.{name}": value for name, value in change.items()}
    )
    plain = build_for_training(config).state_dict()
    found = build_for_training(update_config(config, {"training.start_from": str(path)}))
    before = source.state_dict()
    for name, value in found.state_dict().items():
        expected = plain[name] if name in fresh else before[name]
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-3)  # files are in float16
    (record,) = caplog.records
    assert all(name in record.getMessage() for name in fresh)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        ({"model": {"body.x": torch.zeros(1)}}, "lacks key"),
        ({"average": {"embedding_head.x": torch.zeros(1)}}, "lacks key"),
        ({"model": 3}, "holds no state dict"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, content: object, reason: str) -> None:
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"weights\.pth.*{reason}"):
        build_for_training(tiny_config(start_from=str(path)))
