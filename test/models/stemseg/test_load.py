"""Checkpoints that must be refused, with words that help; those that must load are in
test_goldens.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from stemseg_ros.config import Config, load_config
from stemseg_ros.models.layers.weights import initialise
from stemseg_ros.models.stemseg import CheckpointError, StemSeg, load_network, save_weights


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("lite", {"input.min_dim": 96, "input.max_dim": 128})


@pytest.fixture(scope="module")
def state(config: Config) -> dict[str, torch.Tensor]:
    return StemSeg(config).state_dict()


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def _saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_missing_file_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth' does not exist"):
        load_network(config, tmp_path / "gone.pth")


def test_folder_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no file"):
        load_network(config, tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_file_never_ends_in_another_exception(
    seed: int, config: Config, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    small = {key: value for key, value in state.items() if value.numel() < 100}
    path = tmp_path / "x.pth"
    torch.save({"model": small}, path, _use_new_zipfile_serialization=seed % 2 == 0)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for position in rng.integers(0, len(content), 5):
        content[position] = int(rng.integers(0, 256))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        load_network(config, path)


def test_other_classes_do_not_get_the_bundled_weights(tmp_path: Path) -> None:
    config = load_config("lite", {"network.classes": ["bus", "tram"]})
    with pytest.raises(CheckpointError, match="no weights are bundled"):
        load_network(config)


def test_missing_key_is_named(
    config: Config, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    partial = {k: v for k, v in state.items() if k != "embedding_head.conv_4.weight"}
    with pytest.raises(CheckpointError, match=r"lacks key 'embedding_head\.conv_4\.weight'"):
        load_network(config, _saved({"model": partial}, tmp_path / "x.pth"))


def test_unknown_key_is_named(
    config: Config, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"unknown key 'surplus'"):
        load_network(
            config, _saved({"model": {**state, "surplus": torch.zeros(1)}}, tmp_path / "x.pth")
        )


def test_wrong_shape_names_the_key_and_both_shapes(
    config: Config, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    wrong = {**state, "embedding_head.conv_variance.bias": torch.zeros(7)}
    with pytest.raises(
        CheckpointError, match=r"conv_variance\.bias' has shape \[7\].* wants \[3\]"
    ):
        load_network(config, _saved({"model": wrong}, tmp_path / "x.pth"))


def test_values_that_are_not_finite_are_refused(
    config: Config, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    wrong = {**state, "embedding_head.conv_variance.bias": torch.full((3,), torch.nan)}
    with pytest.raises(
        CheckpointError, match=r"conv_variance\.bias' holds values that are not finite"
    ):
        load_network(config, _saved({"model": wrong}, tmp_path / "x.pth"))


def test_pickle_that_wants_to_run_code_is_refused_and_does_not_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="refused, since reading it would run code"):
        load_network(config, _saved({"model": _Attack()}, tmp_path / "x.pth"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 5000], ids=lambda n: f"{n}_bytes")
def test_truncated_file_is_refused(
    config: Config, state: dict[str, torch.Tensor], tmp_path: Path, suffix: str, keep: int
) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save({"model": state}, path)
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="x" + suffix):
        load_network(config, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": {}}, "under the key 'model' or 'state_dict', but: 'weights'"),
        ([1, 2], "holds no state dict, but list"),
        ({"model": {}}, "holds no state dict"),
        ({"model": {"a": 3}}, "key 'a' holds int"),
        ({"model": {1: torch.zeros(1)}}, "key 1 of the state dict is no string"),
    ],
)
def test_other_content_is_refused(
    config: Config, tmp_path: Path, content: object, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_network(config, _saved(content, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    ],
    ids=["bare", "state_dict", "parallel", "parallel and compiled"],
)
def test_state_dicts_load_however_they_were_wrapped(
    wrap: Callable[[dict[str, torch.Tensor]], object],
    config: Config,
    state: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    network = StemSeg(config)
    initialise(network, seed=5)
    loaded = load_network(
        load_config("lite", {"runtime.fuse": False}),
        _saved(wrap(network.state_dict()), tmp_path / "x.pth"),
    )
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (np.float64(0.5), "scalar"),
        (np.zeros(3), "_reconstruct"),
        (Namespace(lr=0.1), "argparse.Namespace"),
        (Path("out"), "PosixPath"),
    ],
)
def test_what_blocks_a_checkpoint_is_named_with_the_remedy(
    extra: object, name: str, old_format: bool, config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"
    torch.save(
        {"model": {"a": torch.zeros(1)}, "extra": extra},
        path,
        _use_new_zipfile_serialization=not old_format,
    )
    with pytest.raises(CheckpointError, match=rf"it holds .*{name}.*python3 -c ") as caught:
        load_network(config, path)
    command = str(caught.value).partition("python3 -c ")[2]
    subprocess.run([sys.executable, "-c", json.loads(command)], check=True)
    with pytest.raises(CheckpointError, match="lacks keys"):
        load_network(config, tmp_path / "x_clean.pth")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "x.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "git lfs",
        ),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("x.pth", b"\n<!DOCTYPE html><html><head></head></html>", "an HTML page: the download"),
        ("x.safetensors", b"<html>", "an HTML page: the download"),
        (
            "x.pth",
            safetensors.torch.save({"a": torch.zeros(1)}),
            "a safetensors file under another name; rename it to 'x.safetensors'",
        ),
        ("x.safetensors", b"PK\x03\x04" + bytes(30), "rename it to 'x.pth'"),
        ("x.pth", b"PK\x03\x04" + bytes(30), "a file of torch.save, cut off or damaged"),
        ("x.pth", b"", "x.pth: is empty"),
        ("x.safetensors", b"", "x.safetensors: is empty"),
        ("x.pth", bytes(300), "holds no weights: expected"),
        ("x.pth", b"model: lite\n", "holds no weights: expected"),
    ],
)
def test_what_is_taken_for_weights_is_called_what_it_is(
    config: Config, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_network(config, tmp_path / name)


def test_preset_without_bundled_weights_names_their_source() -> None:
    with (
        torch.device("meta"),
        pytest.raises(CheckpointError, match=r"no weights are bundled with .*'davis'.*github"),
    ):
        load_network(load_config("davis"))


def test_half_precision_file_round_trip(config: Config, tmp_path: Path) -> None:
    network = StemSeg(config)
    initialise(network, seed=4)
    network.state_dict()["backbone.fpn.fpn_inner2.bias"].fill_(1e6)  # beyond half precision
    save_weights(network, tmp_path / "x.safetensors", {"config": "lite"})
    loaded = load_network(load_config("lite", {"runtime.fuse": False}), tmp_path / "x.safetensors")
    for key, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
