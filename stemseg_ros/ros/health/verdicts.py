"""Level of a camera's status: OK, warning or error."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus

from stemseg_ros.ros.health.statistics import Period
from stemseg_ros.ros.settings import HealthConfig

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
Level = tuple[bytes, str]
"""Level of a DiagnosticStatus, and its message."""


def judge_stream(
    period: Period, seconds_without_images: float | None, limits: HealthConfig
) -> Level:
    """Compare a camera with its thresholds and return the worst level.

    seconds_without_images: since its last image; None while it is not active.
    """
    if seconds_without_images is None:
        return OK, "not active"
    findings = [
        _judge(
            period.lost_share,
            limits.warn_lost,
            limits.error_lost,
            f"frames are lost: {period.lost_share:.0%} in the last second",
        ),
        _judge(
            seconds_without_images,
            limits.warn_no_images or float("inf"),
            limits.error_no_images or float("inf"),
            f"no images for {seconds_without_images:.0f} s",
        ),
        _judge(
            period.delay_ms or 0.0,
            limits.warn_delay_ms or float("inf"),
            limits.error_delay_ms or float("inf"),
            f"results come {period.delay_ms or 0:.0f} ms after the image that completed them",
        ),
    ]
    worst = max(findings, key=lambda finding: finding[0])
    return worst if worst[0] != OK else (OK, "no frames are lost")


def _judge(value: float, warn: float, error: float, text: str) -> Level:
    return (ERROR if value > error else WARN if value > warn else OK), text
