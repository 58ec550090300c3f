"""Several processes train one network: as torchrun starts them, on the CPU with gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from driving_pack import small_hodor, small_stc, tiny_config, write_pack
from training.run_process import checkpoint, finish_training, losses

from stemseg_ros.config import Config
from stemseg_ros.errors import DeviceError
from stemseg_ros.training.batches import load_sources, make_batch
from stemseg_ros.training.distributed import World, join
from stemseg_ros.training.train import train

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def config(batch_size: int, **training: object) -> Config:
    """Short steps: longer ones would amplify the rounding of sums, which differs."""
    return tiny_config(
        steps=3,
        optimizer="sgd",
        learning_rate=0.01,
        clip_norm=0.1,
        batch_size=batch_size,
        ema=0.5,
        picture_steps=0,
        **training,
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


def last_row(out: Path) -> dict[str, float]:
    """Of a run's log: the means of its losses by name."""
    header, *_, last = (line.split(",") for line in losses(out))
    return {name: float(value) for name, value in zip(header, last, strict=True)}


def largest_difference(one: Path, other: Path) -> float:
    """Of the weights, without the running statistics of batch norms: each process has its own."""
    a, b = checkpoint(one)["average"], checkpoint(other)["average"]
    return max(
        float((value - b[name]).abs().max()) for name, value in a.items() if "running" not in name
    )


def test_two_processes_equal_one_with_twice_the_batch(pack: Path, tmp_path: Path) -> None:
    train(config(4), pack, tmp_path / "one")
    train(config(2), pack, tmp_path / "half")
    # Two passes a step on each process: gradients are exchanged with the second.
    finish_training(config(1, accumulate=2), pack, tmp_path / "two", launcher=TORCHRUN)
    assert checkpoint(tmp_path / "two")["step"] == 3
    same = largest_difference(tmp_path / "one", tmp_path / "two")
    other = largest_difference(tmp_path / "one", tmp_path / "half")
    # Rounding differs between processors; another batch differs by far more.
    assert same < 0.1 * other and same < 1e-5
    ours, theirs = last_row(tmp_path / "two"), last_row(tmp_path / "one")
    # The gradient jumps where rounding turns the order of two errors (Lovász loss) or a sign: by
    # up to 0.24 %, as seen between batches of 4 and of 2 x 2 clips in one process.
    assert ours.pop("gradient") == pytest.approx(theirs.pop("gradient"), rel=1e-2)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert "2 process(es)" in (tmp_path / "two/train.log").read_text()


def test_two_processes_train_stc_as_one_does_with_twice_the_batch(
    pack: Path, tmp_path: Path
) -> None:
    short = {"steps": 3, "optimizer": "sgd", "learning_rate": 0.01, "clip_norm": 0.1, "ema": 0.5}
    train(small_stc(batch_size=4, **short), pack, tmp_path / "one")
    train(small_stc(batch_size=2, **short), pack, tmp_path / "half")
    finish_training(small_stc(batch_size=2, **short), pack, tmp_path / "two", launcher=TORCHRUN)
    same = largest_difference(tmp_path / "one", tmp_path / "two")
    other = largest_difference(tmp_path / "one", tmp_path / "half")
    # Means over instances and batch norms are those of a process, so that it is not exact.
    assert same < 0.3 * other
    one, two, half = (
        float(losses(tmp_path / run)[-1].split(",")[8]) for run in ("one", "two", "half")
    )
    assert abs(two - one) < 0.3 * abs(half - one)


def test_two_processes_train_hodor_as_one_does_with_twice_the_batch(
    pack: Path, tmp_path: Path
) -> None:
    short = {"steps": 2, "optimizer": "sgd", "learning_rate": 0.01, "clip_norm": 0.1, "ema": 0.5}
    train(small_hodor(batch_size=4, **short), pack, tmp_path / "one")
    train(small_hodor(batch_size=2, **short), pack, tmp_path / "half")
    two = small_hodor(batch_size=1, accumulate=2, **short)
    finish_training(two, pack, tmp_path / "two", launcher=TORCHRUN)
    same = largest_difference(tmp_path / "one", tmp_path / "two")
    other = largest_difference(tmp_path / "one", tmp_path / "half")
    # Cross-entropies are means over the known pixels of a pass, so that it is not exact.
    assert same < 0.3 * other


def test_processes_share_the_clips_of_a_larger_batch(pack: Path) -> None:
    sources = load_sources(config(4), pack)
    whole = make_batch(sources, config(4), step=5)
    parts = [make_batch(sources, config(2), 5, World(rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat([part.clips for part in parts]), whole.clips)
    assert tuple(name for part in parts for name in part.names) == whole.names


@pytest.mark.parametrize(
    ("environment", "device", "words"),
    [
        ({"RANK": "x"}, "cpu", r"RANK, .*'x'; .*torchrun"),
        ({"WORLD_SIZE": "2"}, "cpu", r"WORLD_SIZE is 2, .*RANK expected.* with torchrun"),
        (
            {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"},
            "cuda",
            r"process 3 on a machine with 2 GPU\(s\); torchrun --nproc-per-node 2",
        ),
    ],
)
def test_processes_that_cannot_connect_are_reported(
    environment: dict[str, str], device: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(DeviceError, match=words), join(torch.device(device)):
        pass
