"""Level of a camera's status: OK, warning or error."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus

from stemseg_ros.ros.health.statistics import Period
from stemseg_ros.ros.settings import HealthConfig

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
Level = tuple[bytes, str]
"""Level of a DiagnosticStatus, and its message."""


def judge_stream(period: Period, silent_s: float | None, limits: HealthConfig) -> Level:
    """Compare a camera with its thresholds and return the worst level.

    silent_s: since its last image; None while it is not active.
    """
    if silent_s is None:
        return OK, "not active"
    findings = [
        _judge(
            period.lost_share,
            limits.warn_lost,
            limits.error_lost,
            f"frames are lost: {period.lost_share:.0%} in the last second",
        ),
        _judge(
            silent_s,
            limits.warn_silence or float("inf"),
            limits.error_silence or float("inf"),
            f"no images for {silent_s:.0f} s",
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
