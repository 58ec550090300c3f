"""What commands print while they work."""

from __future__ import annotations

import pytest

from stemseg_ros.cli.console import training_progress
from stemseg_ros.training.train import TrainingProgress


def test_the_training_bar_has_the_loss_the_rate_and_the_remaining_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with training_progress() as report:
        # As after a resumption: the bar's own pace would say that nearly nothing is left.
        report(TrainingProgress(9000, 10000, {"total": 1.23456}, 1.5, 4 * 3600 + 61.4))
    captured = capsys.readouterr()
    for text in ("9000/10000", "loss 1.235", "1.50 clips/s", "4:01:01"):
        assert text in captured.err, captured.err
    assert captured.out == ""


def test_processes_but_the_first_show_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(shown=False) as report:
        report(TrainingProgress(1, 2, {"total": 1.0}, 1.0, 1.0))
    assert capsys.readouterr().err == ""
