"""Training in processes of their own, as users start it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from stemseg_ros.config import Config, dump_config


def start_training(
    config: Config, data: Path, out: Path, *options: str, launcher: Sequence[str] = ("-m",)
) -> subprocess.Popen[str]:
    """``stemseg train``, in a process group of its own.

    launcher: arguments of Python that start a module.
    """
    file = out.with_suffix(".yaml")
    file.write_text(dump_config(config))
    command = [sys.executable, *launcher, "stemseg_ros", "train", str(data)]
    return subprocess.Popen(
        [*command, "--config", str(file), "--out", str(out), "--device", "cpu", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish_training(
    config: Config, data: Path, out: Path, *options: str, launcher: Sequence[str] = ("-m",)
) -> None:
    """``stemseg train`` to its end."""
    process = start_training(config, data, out, *options, launcher=launcher)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds, while the process runs."""
    for _ in range(4000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("waited for 200 s")


def checkpoint(out: Path) -> dict[str, Any]:
    """Content of a run's checkpoint."""
    content: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return content


def losses(out: Path) -> list[str]:
    """Lines of a run's log, without the clips per second."""
    return [line.rpartition(",")[0] for line in (out / "log.csv").read_text().splitlines()]
