"""The judgement of a soak: growth after the warm-up is told, growth before it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("stemseg.msg", reason="needs the built messages")

from soak.memory import Sample, judge, plot, slope
from soak.reports import Report, Usage

pytestmark = pytest.mark.ros

WARM_UP = 300.0


def samples(per_hour: float, device: float | None = None, threads: int = 9) -> list[Sample]:
    """Half an hour: 50 MB more in the warm-up, then a steady growth in MB per hour; one thread
    more in the end where ``threads`` is not 9."""
    rows = []
    for second in range(10, 1801, 10):
        megabytes = 400 + 50 * min(1.0, second / WARM_UP) + per_hour * second / 3600
        usage = Usage(megabytes + 300, megabytes, threads if second > 1000 else 9, 20)
        device_mb = None if device is None else 100 + device * second / 3600
        rows.append(Sample(float(second), usage, 40, device_mb))
    return rows


def test_slope() -> None:
    line = slope([0.0, 1800.0, 3600.0], [5.0, 6.0, 7.0])
    assert (line.per_hour, line.start) == (pytest.approx(2.0), pytest.approx(5.0))
    assert line.error == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("per_hour", "device", "threads", "passed"),
    [
        (0.0, None, 9, True),
        (-3.0, None, 9, True),  # memory that is given back
        (9.0, 0.0, 9, True),
        (11.0, None, 9, False),
        (0.0, 11.0, 9, False),
        (0.0, None, 10, False),
    ],
)
def test_growth(per_hour: float, device: float | None, threads: int, passed: bool) -> None:
    report = Report("soak")
    lines = judge(samples(per_hour, device, threads), WARM_UP, report)
    assert lines["anonymous memory"].per_hour == pytest.approx(per_hour, abs=1e-6)
    assert ("device memory" in lines) == (device is not None)
    assert report.passed == passed, report


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the eval extra is not installed")
    found = samples(5.0, 1.0)
    plot(found, judge(found, WARM_UP, Report("soak")), WARM_UP, tmp_path / "soak.jpg")
    assert (tmp_path / "soak.jpg").stat().st_size > 5000
