"""Runs that are killed or asked to stop, in processes of their own, and their continuation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from driving_pack import tiny_config, write_pack
from safetensors.torch import load_file
from training.run_process import (
    checkpoint,
    finish_training,
    losses,
    start_training,
    wait_until,
)

from stemseg_ros.config import Config

STEPS = 6


def config(**training: object) -> Config:
    return tiny_config(
        steps=STEPS, optimizer="sgd", ema=0.9, accumulate=2, picture_steps=0, **training
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def whole(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish_training(config(), pack, out)
    return out


def assert_same_end(out: Path, whole: Path) -> None:
    ours, theirs = checkpoint(out), checkpoint(whole)
    assert ours["step"] == theirs["step"] == STEPS
    for part in ("network", "average"):
        for name, value in theirs[part].items():
            assert torch.equal(ours[part][name], value), f"{part}.{name}"
    for number, state in theirs["optimizer"]["state"].items():
        momentum = ours["optimizer"]["state"][number]["momentum_buffer"]
        assert torch.equal(momentum, state["momentum_buffer"])
    shipped, expected = (load_file(run / "weights.safetensors") for run in (out, whole))
    assert all(torch.equal(shipped[name], value) for name, value in expected.items())
    assert losses(out) == losses(whole)


def test_a_killed_run_goes_on_bit_for_bit(pack: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    often = config(checkpoint_seconds=0.0)
    process = start_training(often, pack, out)
    saved = out / "checkpoint.pt"
    wait_until(lambda: saved.exists() and checkpoint(out)["step"] >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert 3 <= checkpoint(out)["step"] < STEPS
    finish_training(often, pack, out, "--resume")
    assert "resumed at step" in (out / "train.log").read_text()
    assert_same_end(out, whole)


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(
    pack: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    rarely = config(checkpoint_seconds=3600.0, workers=1)
    process = start_training(rarely, pack, out)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    # The worker that draws clips, and the process in which Python keeps count of what they share.
    wait_until(lambda: len(children.read_text().split()) == 2, process)
    os.killpg(process.pid, signal.SIGTERM)  # while the worker starts, which gets it, too
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGTERM
    step = checkpoint(out)["step"]
    assert 1 <= step < STEPS
    assert f"stopped by SIGTERM after step {step} of {STEPS}; --resume continues" in output
    assert "Traceback" not in output
    assert not (out / "weights.safetensors").exists()
    finish_training(config(), pack, out, "--resume")
    assert_same_end(out, whole)


def test_sigint_saves_too(pack: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start_training(config(), pack, out)
    log = out / "train.log"
    wait_until(lambda: log.exists() and "started at step 0" in log.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped by SIGINT after step" in output
    assert "Traceback" not in output
    assert checkpoint(out)["step"] >= 1
